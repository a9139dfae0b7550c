"""Every path and hyperparameter: edit the defaults here, or give the same names as flags to a script.

The fields are the command line (support/settings.py): the comment beside a field is its --help text, the heading above
it, `# --- section: scripts`, names the scripts that read it. Either goes on in comment lines below, indented further.
"""
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

# A type states what a field may hold: the range of a number (lowest, highest, is the lowest itself allowed) or choices.
Count = Annotated[int, (1, math.inf, True)]
Whole = Annotated[int, (0, math.inf, True)]
Positive = Annotated[float, (0, math.inf, False)]
NotNegative = Annotated[float, (0, math.inf, True)]
Share = Annotated[float, (0, 1, True)]
Stages = Literal["visual", "teacher", "student", "audio", "all"]
Teachers = Literal["audio+visual", "visual", "joint", "joint+audio+visual"]
Backbones = Literal["vgg19_bn", "resnet18", "mobilenet_v3_small", "small_cnn", "tiny_cnn", "features"]


@dataclass
class Config:
    # --- corpus: annotations.py face_detector.py face_detector_frameRetention.py audio_extract.py audio_melspec.py
              # mmpkd.py plot_ccc.py report.py demo.py experiment.py export.py
    data_dir: str = "data"  # folder of the corpus (videos/, audio/, ratings_gold_standard/) and everything made from it

    # --- frames: annotations.py face_detector.py face_detector_frameRetention.py audio_extract.py mmpkd.py plot_ccc.py
                # report.py
    frame_rate: Annotated[float, (0, 1000, False)] = 25.0  # ratings, faces, audio segments and spectrograms per second

    # --- recordings: annotations.py face_detector.py face_detector_frameRetention.py audio_extract.py
                    # audio_melspec.py
    recordings: tuple[str, ...] = ()  # ids of the recordings to process; none given: all

    # --- parallel work: face_detector.py face_detector_frameRetention.py audio_extract.py audio_melspec.py
                       # mmpkd.py experiment.py predict.py
    workers: Whole = 0  # recordings (or runs; in mmpkd.py networks of teacher ensembles) processed in parallel; 0: one
                        # per core, or fewer if that is faster; of runs on CUDA devices: one per device
    shard: str = ""  # i/n: the i-th of n cluster jobs, which takes every n-th recording (run, draw); "": all

    # --- step 0, annotations: annotations.py
    corpus: Literal["auto", "recola", "avec", "affwild2", "table"] = "auto"  # form of the ratings; auto: whatever is
                                                                             # there, which is printed (docs/corpora.md)
    label_range: tuple[float, ...] = ()  # lowest and highest rating on the corpus' scale, such as 1 9, which becomes
                                         # [-1, 1]; none given: the ratings are on that scale
    label_delay_s: Annotated[float, (0, 60, True)] = 0.0  # seconds that annotators lag behind the face: each frame gets
                                                          # the rating given that much later
    raters: Literal["mean", "ewe"] = "mean"  # individual raters become their mean | the evaluator weighted estimator
    train_ids: tuple[str, ...] = ("train_*",)  # ids (or patterns) of the recordings in Train_Set
    val_ids: tuple[str, ...] = ("dev_*",)  # ids (or patterns) of the recordings in Val_Set
    unlabelled_ids: tuple[str, ...] = ()  # ids (or patterns) of recordings without ratings to put into
                                          # Unlabelled_Set although val_ids or the name test* keeps them out
    check: bool = False  # only look at what there is of every recording, say what is wrong and what to do about it, and
                         # write plots/check.html; exit code 1 if there is an error
    show_delay: bool = False  # only show how well ratings fit face and sound by delay, on Train_Set alone, and draw it
                              # to plots/label_delay.png

    # --- step 1, faces: face_detector.py face_detector_frameRetention.py
    min_face_size: Count = 60  # smallest face to detect, pixels of the video; larger is faster
    face_score: Share = 0.9  # lowest probability (of MTCNN's output network) that counts as a face
    look_every: Count = 6  # while the head is still, run the detector on every n-th frame and interpolate between them
    jpeg_quality: Annotated[int, (1, 100, True)] = 95  # JPEG quality of the face crops
    face_size: Annotated[int, (16, 1024, True)] = 112  # side of a face crop, pixels

    # --- step 2, audio segments: audio_extract.py
    segment_at: Literal["centred", "causal"] = "centred"  # sound around the frame | only the sound before it
    audio_channel: Annotated[int, (0, 64, True)] = 0  # channel of the sound to take, from 1 on, where each has a
                                                      # speaker or a microphone of its own; 0: all of them, mixed

    # --- sound: audio_extract.py audio_melspec.py
    audio_rate: Annotated[int, (4000, 192000, True)] = 16000  # samples per second of the segments
    segment_s: Annotated[float, (0, 60, False)] = 1.0  # length of a segment, seconds

    # --- step 3, spectrograms: audio_melspec.py
    n_fft: Annotated[int, (16, 65536, True)] = 512  # samples per analysis window: 32 ms at 16 kHz
    hop_length: Count = 160  # samples between the columns of a spectrogram: 10 ms at 16 kHz
    n_mels: Count = 64  # mel bands
    db_min: float = -80.0  # power shown as black, dB; a fixed range keeps the loudness
    db_max: float = 30.0  # power shown as white, dB
    spec_files: Literal["pictures", "array"] = "pictures"  # one .png per frame, to look at | one .npy per recording

    # --- device: face_detector.py face_detector_frameRetention.py mmpkd.py experiment.py predict.py
    device: str = ""  # cpu, cuda, cuda:1 ...; "": cuda if available, else cpu

    # --- precision: mmpkd.py predict.py
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: in training bfloat16 on CUDA devices that have
                                                                # it, else float32; float32 in predict.py

    # --- network: predict.py export.py
    network: str = ""  # the trained network: best.pt in a run's folder, or an .onnx file of export.py
    out: str = "predictions"  # folder for the tables and figures; of export.py: the file, "": beside the network

    # --- prediction: predict.py
    videos: tuple[str, ...] = ()  # videos, or folders of videos; among them further networks (.pt, .onnx): the mean of
                                  # the predictions of all is taken
    overlay: bool = False  # also write each video with the face's box and the predictions drawn into it
    people: Literal["largest", "all"] = "largest"  # whose face: the largest one's, followed | everybody's
    postprocess: bool = False  # smooth, shift, scale and delay the predictions by the network's constants
    camera: Annotated[int, (-1, math.inf, True)] = -1  # number of a camera to watch, live in a window; -1: none
    about: bool = False  # only print what the network is, for what it may be used, and how well it did

    # --- export: export.py
    int8: bool = False  # round the convolutions to 8 bits, for large networks; needs the corpus in data_dir

    # --- runs: mmpkd.py plot_ccc.py report.py
    runs_dir: str = ""  # folder of the runs; "": runs/ in data_dir

    # --- seed: mmpkd.py demo.py
    seed: Whole = 0  # seed of weights, clips and augmentation; in demo.py also of the drawn subjects

    # --- run: mmpkd.py
    stage: Stages = "all"  # what to train; all: what the student needs, visual, teacher, student
    target: Literal["arousal", "valence", "both"] = "both"  # what is predicted; both: by one network; the paper
                                                         # trains one network per target
    resume: bool = False  # continue stopped runs from last.pt
    save_minutes: NotNegative = 10.0  # a checkpoint (last.pt) at least that often, beside that of every epoch; 0: off
    save_steps: Whole = 0  # a checkpoint every so many steps; 0: off
    cuda_graph: bool = True  # replay a recorded training step on a GPU: several times faster; --no-cuda-graph: where a
                             # network or loss that you changed depends on Python numbers that change while it trains
    tensorboard: bool = False  # also write event files into the run's folder (needs the package tensorboard)

    # --- listing: mmpkd.py experiment.py
    list: bool = False  # only list the runs that there are, and how far they are

    # --- choosing: mmpkd.py
    fold: str = ""  # i/n: hold out every n-th subject of Train_Set from the i-th on; --keep best chooses on them
    keep: Literal["best", "last"] = "last"  # checkpoint to keep: the one with the best validation CCC (with --fold:
                                            # held-out CCC), or the last epoch's (no model selection)

    # --- networks: mmpkd.py
    visual_backbone: Backbones = "vgg19_bn"  # for the faces; features: those in features/visual/ in place of images
    audio_backbone: Literal["resnet18", "small_cnn", "tiny_cnn", "features"] = "resnet18"  # for the spectrograms
                                                 # (teacher, audio); features: those in features/audio/ in their place
    visual_weights: str = ""  # "": random; a file (torchvision's or the FER2013 checkpoint); imagenet: download them
    audio_weights: str = ""  # "": random; a file; imagenet: download torchvision's
    visual_lr_scale: NotNegative = 0.1  # times learning_rate: the visual backbone's (paper: 1e-5 beside 1e-4); 0: it
                                        # stays as visual_weights are, and its features are computed once (cache/)
    audio_lr_scale: NotNegative = 1.0  # times learning_rate: the audio backbone's; 0: it stays as audio_weights are
    feature_size: Count = 512  # features per frame out of a backbone
    gru_size: Count = 1024  # size of the GRU's state
    dropout: Share = 0.2  # on the visual features
    modality_dropout: Share = 0.0  # fraction of the clips in which the teacher's face or voice is blanked; 0: off
    fusion: Literal["concat", "cross_attention"] = "concat"  # of face and voice in the teacher
    audio_gru: bool = True  # a GRU over the audio features; --no-audio-gru: frame by frame, as the authors' code
    linear_heads: bool = False  # as the authors' code: no activations between layers, features not normalised

    # --- variants: mmpkd.py
    variant: str = ""  # a word at the end of the run's name, to keep it beside a run of other settings

    # --- student: mmpkd.py
    distill: str = "auto"  # auto: pseudo (pseudo-labels) where there are unlabelled recordings, else cosine
                           # | cosine_original | fitnets | sp | rkd | ot | ccc
                           # | a weighted sum such as cosine:0.5+ccc:0.5
                           # | mean_teacher: no teacher but the average of the student's own weights
    unlabelled: Share = 1.0  # fraction of the recordings in Unlabelled_Set that a student uses; 0: none

    # --- pseudo-labels: mmpkd.py
    teachers: Teachers = "audio+visual"  # teacher ensembles: audio-only, visual-only, joint (audio-visual)
    teacher_folds: Annotated[int, (2, math.inf, True)] = 4  # cross-fitting: n networks in an ensemble, each trained
                                                            # without one of n folds of the training subjects
    teacher_networks: Count = 1  # networks per fold in an ensemble, each with a seed of its own
    confirm_audio: bool = True  # use audio teachers only for targets for which they pass the confirmation test

    # --- distillation: mmpkd.py
    distill_weight: Share = 0.5  # largest weight of the distillation loss; the task loss has the remaining weight
    gate: Literal["adaptive", "original", "off"] = "adaptive"  # weight of the teacher: by its CCC on the batch
                                                              # | the rule of the authors' code | constant

    # --- training: mmpkd.py
    epochs: Count = 10  # passes over the rated training recordings, each followed by validation and a checkpoint
    epoch_steps: Whole = 0  # gradient steps of an epoch; 0: those of one pass over the rated recordings
    batch_size: Count = 8  # clips per gradient step
    learning_rate: Positive = 1e-4  # initial learning rate, of everything but the backbones
    optimizer: Literal["adam", "sgd"] = "adam"  # the authors' code says Adam, its manual SGD (here: momentum 0.9)
    weight_decay: NotNegative = 0.0  # decoupled for adam (AdamW), L2 for sgd
    scheduler: Literal["cosine", "plateau", "none"] = "cosine"  # learning rate over the epochs
    clip_length: Annotated[int, (2, math.inf, True)] = 30  # frames per training clip: with clip_stride 6 seconds
    clip_stride: Annotated[int, (1, 100, True)] = 5  # frames from one frame of a clip to the next; predictions come
                                                     # from as many interleaved sequences, each with its own GRU state
    augment: bool = True  # flip, shift and brighten faces, shift sound in time, the same over a clip
    max_grad_norm: NotNegative = 1.0  # gradients are scaled down to this norm; 0: never
    patience: Whole = 0  # epochs without a better validation CCC after which to stop; 0: never

    # --- delay: annotations.py mmpkd.py plot_ccc.py report.py
    max_delay_s: NotNegative = 6.0  # longest delay of the ratings behind the face to try, seconds; 0: none

    # --- level: predict.py plot_ccc.py report.py
    level: Literal["raw", "causal", "recording"] = "raw"  # predictions as they are | with the mean so far taken away
                        # and the training ratings' mean added, frame by frame | with the training ratings' mean and
                        # standard deviation in every recording. The mean of a recording mostly says who the subject is

    # --- post-processing: mmpkd.py plot_ccc.py report.py
    smoothing: Literal["mean", "median"] = "mean"  # smoothing filter over the predictions
    max_window_s: NotNegative = 10.0  # longest smoothing window to try, seconds; 0: no smoothing

    # --- demo: demo.py
    minutes: Annotated[float, (0.1, 60, True)] = 0.5  # length of each drawn recording, minutes
    subjects: Annotated[int, (3, 10000, True)] = 24  # rated subjects, half of them held out (dev_*)
    unrated: Whole = 36  # further subjects, without ratings (unrated_*)

    # --- size: demo.py experiment.py
    quick: bool = False  # fewer subjects and shorter training: under 2 minutes (experiment.py: 10)

    # --- study: experiment.py
    draws: Count = 5  # draws of which subjects are rated and which unlabelled
    seeds: Count = 2  # repetitions of every run of a draw, each with its own weights and teachers
    settings: tuple[str, ...] = ()  # only these settings of the study; --list names them
    methods: tuple[str, ...] = ()  # only these methods; --list names them
    report: bool = False  # only write tables and figures, from the existing results
    choose: bool = False  # compare methods on other, development subjects, never on the reported ones

    # Derived folders. Each is written by one script.
    @property
    def videos_dir(self): return Path(self.data_dir, "videos")
    @property
    def audio_dir(self): return Path(self.data_dir, "audio")
    @property
    def ratings_dir(self): return Path(self.data_dir, "ratings_gold_standard")
    @property
    def features_dir(self): return Path(self.data_dir, "features")
    @property
    def annotations_dir(self): return Path(self.data_dir, "Annotations")
    @property
    def crops_dir(self): return Path(self.data_dir, "Cropped_Aligned")
    @property
    def segments_dir(self): return Path(self.data_dir, "audio_segments")
    @property
    def specs_dir(self): return Path(self.data_dir, "specs")
    @property
    def plots_dir(self): return Path(self.data_dir, "plots")
    @property
    def cache_dir(self): return Path(self.data_dir, "cache")
    @property
    def run_root(self): return Path(self.runs_dir) if self.runs_dir else Path(self.data_dir, "runs")
    @property
    def targets(self): return ["arousal", "valence"] if self.target == "both" else [self.target]
