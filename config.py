"""Every path and hyperparameter: edit the defaults here, or give the same names as flags to a script.

The fields below are the command line of every script (`parse_config`): the comment after a field is its --help
text, the heading above it names the scripts that read it. `--config FILE.json` starts from the settings that a run
wrote into its folder; flags beside it win.
"""
import argparse
import contextlib
import dataclasses
import difflib
import functools
import inspect
import json
import math
import os
import re
import shutil
import sys
import tempfile
import typing
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None

# A number's range stands in its type: lowest, highest, and whether the lowest itself is allowed.
Count = Annotated[int, (1, math.inf, True)]
Whole = Annotated[int, (0, math.inf, True)]
Positive = Annotated[float, (0, math.inf, False)]
NotNegative = Annotated[float, (0, math.inf, True)]
Share = Annotated[float, (0, 1, True)]


@dataclass
class Config:
    # --- corpus: every script
    data_dir: str = "data"  # folder of the corpus: videos/, audio/, ratings_gold_standard/ and all that is made of them

    # --- frames: annotations.py face_detector.py face_detector_frameRetention.py audio_extract.py mmpkd.py plot_ccc.py
    frame_rate: Annotated[float, (0, 1000, False)] = 25.0  # ratings, and so faces, segments and spectrograms, per second

    # --- recordings: annotations.py face_detector.py face_detector_frameRetention.py audio_extract.py audio_melspec.py
    recordings: tuple[str, ...] = ()  # ids of the only recordings to work on; none given: every one

    # --- sharing the work: face_detector.py face_detector_frameRetention.py audio_extract.py audio_melspec.py experiment.py
    workers: Whole = 0  # recordings (or runs) worked on at the same time; 0: one per core, or fewer where that is quicker
    shard: str = ""  # i/n, for the i-th of n jobs of a cluster: every n-th recording (or seed) from the i-th on; "": all

    # --- step 0, annotations: annotations.py
    train_ids: tuple[str, ...] = ("train_*",)  # ids (or patterns) of the recordings in Train_Set
    val_ids: tuple[str, ...] = ("dev_*",)  # ids (or patterns) of the recordings in Val_Set

    # --- step 1, faces: face_detector.py face_detector_frameRetention.py
    min_face_size: Count = 60  # smallest face looked for, pixels of the video; larger is faster
    face_score: Share = 0.9  # a face below this probability (MTCNN's last network) counts as no face
    look_every: Count = 6  # while a head is still, look for its face in every n-th picture; in between it lies in between
    jpeg_quality: Annotated[int, (1, 100, True)] = 95  # of the crops
    face_size: Annotated[int, (16, 1024, True)] = 112  # side of a face crop, pixels

    # --- step 2, audio segments: audio_extract.py
    segment_at: Literal["centred", "causal"] = "centred"  # sound around the frame, or only the sound before it

    # --- sound: audio_extract.py audio_melspec.py
    audio_rate: Annotated[int, (4000, 192000, True)] = 16000  # samples per second of the segments
    segment_s: Annotated[float, (0, 60, False)] = 1.0  # length of a segment, seconds

    # --- step 3, spectrograms: audio_melspec.py
    n_fft: Annotated[int, (16, 65536, True)] = 512  # samples per analysis window: 32 ms at 16 kHz
    hop_length: Count = 160  # samples between the columns of a spectrogram: 10 ms at 16 kHz
    n_mels: Count = 64  # mel bands
    db_min: float = -80.0  # power drawn black, dB; a fixed range keeps the loudness
    db_max: float = 30.0  # power drawn white, dB
    spec_files: Literal["pictures", "array"] = "pictures"  # one .png per frame, to look at | one .npy per recording

    # --- device: face_detector.py face_detector_frameRetention.py mmpkd.py experiment.py
    device: str = ""  # cpu, cuda, cuda:1 ...; "": cuda where there is one, else cpu

    # --- runs: mmpkd.py plot_ccc.py
    runs_dir: str = ""  # where the runs are kept; "": runs/ in data_dir

    # --- seed: mmpkd.py demo.py
    seed: Whole = 0  # of weights, clips and augmentation; in demo.py also of the people drawn

    # --- run: mmpkd.py
    stage: Literal["visual", "teacher", "student", "audio", "all"] = "all"  # what to train; all: visual, teacher, student
    target: Literal["arousal", "valence", "both"] = "arousal"  # the paper trains one model per dimension
    resume: bool = False  # go on from last.pt where a run was stopped
    save_minutes: NotNegative = 10.0  # a checkpoint (last.pt) at least that often, beside the one after every epoch; 0: off
    save_steps: Whole = 0  # a checkpoint every so many steps; 0: off
    tensorboard: bool = False  # event files in the run's folder, too (needs the package tensorboard)

    # --- listing: mmpkd.py experiment.py
    list: bool = False  # only list the runs that are there, and how far they are

    # --- choosing: mmpkd.py
    fold: str = ""  # i/n: hold out every n-th person of Train_Set from the i-th on, and choose the epoch on them; "": on Val_Set
    keep: Literal["best", "last"] = "best"  # the network of the epoch with the best CCC there, or of the last: nothing is chosen

    # --- networks: mmpkd.py
    visual_backbone: Literal["vgg19_bn", "resnet18", "mobilenet_v3_small", "small_cnn", "tiny_cnn"] = "vgg19_bn"  # for the faces
    audio_backbone: Literal["resnet18", "small_cnn", "tiny_cnn"] = "resnet18"  # for the spectrograms (teacher, audio)
    visual_weights: str = ""  # "": random; a file (torchvision's or the FER2013 checkpoint); imagenet: download them
    audio_weights: str = ""  # "": random; a file; imagenet: download torchvision's
    feature_size: Count = 512  # numbers per frame out of a backbone
    gru_size: Count = 1024  # state of the GRU
    dropout: Share = 0.2  # on the visual features
    modality_dropout: Share = 0.0  # share of the clips in which the teacher's face or voice is blanked; 0: off
    fusion: Literal["concat", "cross_attention"] = "concat"  # of face and voice in the teacher
    audio_gru: bool = True  # the voice has a memory of its own; --no-audio-gru: the original's, frame by frame
    linear_heads: bool = False  # the original's: no activations between the layers of the heads, features not normalised

    # --- variants: mmpkd.py
    variant: str = ""  # a word at the end of the run's name, to keep it beside runs of other settings; teachers are looked for without it

    # --- distillation: mmpkd.py
    teachers: Literal["joint", "audio", "visual", "audio+visual", "joint+visual+audio"] = "audio+visual"  # stage teacher|audio|visual|two|best of 3
    teacher_folds: Whole = 4  # n of them, each trained without every n-th person of Train_Set, whom it teaches; others learn from their mean; 0: one
    teacher_checkpoint: str = ""  # file of another teacher, of stage teacher or audio; "": the runs that the two settings above say
    calibrate: bool = True  # teachers weighed by what they tell of the ratings, moved to their mean in every recording, and to their spread
    confidence: Literal["off", "agreement"] = "off"  # frames of unlabelled people count the less, the less the teachers of all folds agree on them
    unlabelled: Share = 1.0  # share of the recordings of Unlabelled_Set that a student follows its teacher on, too; 0: none
    unlabelled_clips: Share = 0.5  # share of the clips of every batch that are of such recordings; the others are of rated people
    unlabelled_first: Share = 0.0  # share of the epochs that are of such recordings alone, those after of rated people; 0: all of both
    distill: str = "pseudo"  # what is taken over: cosine | cosine_original | fitnets | sp | rkd | ot | ccc | pseudo, or a sum: cosine:0.5+ccc:0.5
    distill_weight: Share = 1.0  # most weight that the teacher can have against the ratings
    teacher_cache: Whole = 1  # views the teacher hears out once: 1: the pictures as they are; n: n - 1 augmented, too; 0: every step's clips, live
    gate: Literal["adaptive", "confirmed", "original", "off"] = "confirmed"  # trust: by the batch | what faces confirm | as the original | full

    # --- training: mmpkd.py
    epochs: Count = 10  # passes over the training recordings, each followed by a look at the validation CCC and a checkpoint
    epoch_steps: Whole = 0  # gradient steps of an epoch; 0: as many as one pass over the rated recordings takes
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of training; auto: bfloat16 on CUDA devices that have it, else float32
    batch_size: Count = 8  # clips per gradient step
    learning_rate: Positive = 1e-4  # initial learning rate, of everything but the backbones
    visual_lr_scale: NotNegative = 0.1  # times learning_rate: the visual backbone's (paper: 1e-5 beside 1e-4)
    audio_lr_scale: NotNegative = 1.0  # times learning_rate: the audio backbone's
    optimizer: Literal["adam", "sgd"] = "adam"  # the original's code says Adam, its manual SGD (here with momentum 0.9)
    weight_decay: NotNegative = 0.0  # decoupled for adam (AdamW), L2 for sgd
    scheduler: Literal["cosine", "plateau", "none"] = "cosine"  # learning rate over the epochs
    clip_length: Annotated[int, (2, math.inf, True)] = 5  # frames per training clip
    augment: bool = True  # faces flipped, shifted and lit anew, sound shifted in time, the same over a clip
    max_grad_norm: NotNegative = 1.0  # gradients are scaled down to this norm; 0: never
    patience: Whole = 0  # epochs without a better validation CCC after which to stop; 0: never

    # --- post-processing: plot_ccc.py
    smoothing: Literal["mean", "median"] = "mean"  # filter over the predictions
    max_window_s: NotNegative = 10.0  # longest smoothing window tried, seconds; 0: no smoothing
    max_delay_s: NotNegative = 6.0  # longest delay of the ratings behind the face tried, seconds; 0: no delay

    # --- demo: demo.py
    minutes: Annotated[float, (0.1, 60, True)] = 0.5  # length of each drawn recording
    subjects: Annotated[int, (3, 10000, True)] = 24  # drawn subjects with ratings, half of them held out (dev_*)
    unrated: Whole = 24  # unlabelled subjects beside them (unrated_*)

    # --- size: demo.py experiment.py
    quick: bool = False  # fewer people and shorter training: under 2 minutes (experiment.py: 10)

    # --- study: experiment.py
    seeds: Count = 5  # runs of everything, each with weights and teachers of its own
    settings: tuple[str, ...] = ()  # only these corpora; --list names them
    methods: tuple[str, ...] = ()  # only these rows of the table; --list names them
    report: bool = False  # only tables and figures, from the results that are there
    choose: bool = False  # compare on people held out of the training people, never on those that are reported

    # Folders, derived. Each has one script that writes it.
    @property
    def videos_dir(self): return Path(self.data_dir, "videos")
    @property
    def audio_dir(self): return Path(self.data_dir, "audio")
    @property
    def ratings_dir(self): return Path(self.data_dir, "ratings_gold_standard")
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


# ---- how a script starts, fails and ends ----------------------------------------------------------------------------

class UserError(Exception):
    """Something the user can mend: shown as one line without a traceback, exit code 1."""
    exit_code = 1


class SettingsError(UserError):
    """A setting that cannot be used: one line, exit code 2."""
    exit_code = 2


def run_script(main, script):
    """Exit code of `main(argv)` on the command line: its errors become one line that says what to do."""
    try:
        main(sys.argv[1:])
        return 0
    except UserError as error:
        message, code = str(error), error.exit_code
    except KeyboardInterrupt:
        message, code = "stopped. Everything written so far is whole; the same command goes on from there (mmpkd.py with --resume)", 130
    except BrokenProcessPool:
        message, code = "a worker was killed (out of memory?): run the same again, with a lower --workers", 1
    except OSError as error:  # a full disk, a missing permission: it names the file itself
        message, code = f"{error.strerror or error}: {error.filename or 'while writing'}", 1
    print(f"{Path(script).name}: error: {' '.join(message.splitlines())}", file=sys.stderr)
    return code


def torch_device(name):
    """The torch device of that name; "" is cuda where there is one, else cpu. Raises SettingsError if it is not there."""
    import torch  # here, so that scripts that need no networks start fast
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError):
        raise SettingsError(f"device: {name!r} is not there; leave it out, or use cpu") from None


@contextlib.contextmanager
def whole_file(path):
    """Path of a temporary file that becomes `path` when the block ends well, and vanishes when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        _name_file(error, path)
        raise


@contextlib.contextmanager
def whole_folder(path):
    """Path of a temporary folder that becomes `path` when the block ends well, and vanishes when it does not."""
    part = Path(path).with_name(f".{Path(path).name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(path)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        _name_file(error, path)
        raise


def write_bytes(path, *parts):
    """Writes a file, for scripts that write one for every frame: Path.write_bytes with half its overhead.

    path: a str; parts: bytes or contiguous arrays, one after the other.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        done = os.writev(file, parts) if hasattr(os, "writev") else 0
        while done < sum(memoryview(part).nbytes for part in parts):  # a disk that is nearly full takes the beginning
            done += os.write(file, b"".join(parts)[done:])  # and says so of the rest
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(file)


@contextlib.contextmanager
def growing_folder(path, made_of, only=None):
    """Path of a hidden folder that becomes `path` when the block ends well; stopped half-way it stays and the next run goes on in it.

    made_of: what the work is made of and with, as plain values: the half of something else is thrown away. only: name of
    the one file in it that becomes `path` instead, a file that grows. Raises UserError if another process is at work on
    it; one in the block throws its half away.
    """
    path = Path(path)
    part, stamp = path.with_name(f".{path.name}.part"), json.dumps(made_of, sort_keys=True, default=str)
    part.mkdir(parents=True, exist_ok=True)
    claim = _claim(part, path)
    try:
        if path.exists():  # by another process, since the caller looked
            raise UserError(f"{path} has just been made by another process: run the same again")
        note = part / ".made_of.json"
        if not note.exists() or note.read_text() != stamp:
            for old in part.iterdir():
                old.unlink()
            with whole_file(note) as file:
                file.write_text(stamp)
        yield part
        for hidden in part.glob(".*"):  # the note, and what is left of files that a killed run was writing
            hidden.unlink()
        (part / (only or "")).rename(path)
        if only:
            part.rmdir()
    except BaseException as error:
        if isinstance(error, UserError):
            shutil.rmtree(part, ignore_errors=True)
        _name_file(error, path)
        raise
    finally:
        os.close(claim) if claim else None


@contextlib.contextmanager
def claimed(folder, doing, wait=False):
    """Holds `folder` against other processes until the block ends. Where one holds it: waits for it, or raises UserError
    ("<folder> is being <doing> ...")."""
    claim = _claim(Path(folder), folder, doing, wait)
    try:
        yield
    finally:
        os.close(claim) if claim else None


def is_claimed(folder):
    """Whether a process holds the folder."""
    try:
        claim = _claim(Path(folder), folder, shared=True)
    except UserError:
        return Path(folder).exists()
    os.close(claim) if claim else None
    return False


def _claim(part, path, doing="made", wait=False, shared=False):
    """Holds the folder `part` against other processes: a descriptor to close, which the kernel does if we are killed. shared: only
    against those that want it for themselves, so that many can ask at once."""
    if not fcntl:
        return None
    try:
        claim = os.open(part, os.O_RDONLY)
    except FileNotFoundError:  # it was renamed since it was made
        raise UserError(f"{path} has just been made by another process: run the same again") from None
    try:
        fcntl.flock(claim, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(claim)
        raise UserError(f"{path} is being {doing} by another process: wait for it, or stop it") from None
    except OSError:
        pass  # a file system without locks
    return claim


def _name_file(error, path):
    """Notes `path` in an OSError that names no file: writing to a full disk says only that it is full."""
    if isinstance(error, OSError) and error.filename is None:
        with contextlib.suppress(AttributeError):  # PyAV's cannot be told
            error.filename = str(path)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- the command line -----------------------------------------------------------------------------------------------

def parse_config(argv, script, doc, **defaults):
    """Settings of one script: defaults in config.py < `defaults` < --config FILE.json < flags.

    argv: list of str, the words after the program (None: those of this process); script: its file name (`__file__`
    will do); doc: its docstring, shown by --help. Raises SettingsError for an unknown flag, a wrong type or a value
    out of range.
    """
    script, argv = Path(script).name, sys.argv[1:] if argv is None else argv
    base = dataclasses.replace(Config(), **defaults)
    parser = _parser(script, doc, base)
    # --batch_size is --batch-size; "=" and what follows it is a value and stays as it is
    given, unknown = parser.parse_known_args([re.sub(r"^--[\w-]+", lambda flag: flag[0].replace("_", "-"), word) for word in argv])
    if unknown:
        raise SettingsError(_unknown_flag(unknown[0], script))
    flags = {name: value for name, value in vars(given).items() if name != "config"}
    cfg = dataclasses.replace(base, **(read_settings(given.config) if given.config else {}) | flags)
    return check_settings(cfg, fields_of(script))


def read_settings(path):
    """Settings in a run's config.json, as a dict. Raises SettingsError when it is not one."""
    try:
        settings = json.loads(Path(path).read_text())
    except (OSError, ValueError):  # also text that is neither JSON nor UTF-8
        settings = None
    if not isinstance(settings, dict):
        raise SettingsError(f"{path}: not a readable config.json, such as a run writes into its folder")
    for name in settings:
        if name not in KINDS:
            raise SettingsError(f"{path}: unknown setting {name!r}{_meant(name, KINDS)}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def check_settings(cfg, read=()):
    """`cfg` itself, every value of the type and in the range that its field states, and those in `read` possible together.

    read: names of the fields that a script reads; what others make impossible is not its user's to mend.
    """
    for name in KINDS:
        setattr(cfg, name, _checked(name, getattr(cfg, name)))
    samples = cfg.segment_s * cfg.audio_rate
    impossible = [
        ("fold", cfg.fold.endswith("/1"), f"fold: {cfg.fold!r} holds everybody out"),
        *((name, getattr(cfg, name) and not part_of(getattr(cfg, name)),
           f"{name}: {getattr(cfg, name)!r} is not i/n with i from 1 to n, such as 1/4") for name in ("shard", "fold")),
        ("segment_s audio_rate", samples < 1, f"segment_s {cfg.segment_s:g} is less than one sample at {cfg.audio_rate} Hz"),
        ("db_min db_max", cfg.db_min >= cfg.db_max, f"db_min {cfg.db_min:g} must be below db_max {cfg.db_max:g}"),
        ("n_fft segment_s audio_rate", cfg.n_fft > samples,
         f"n_fft {cfg.n_fft} is longer than a segment ({cfg.segment_s:g} s at {cfg.audio_rate} Hz)"),
        ("n_mels n_fft", cfg.n_mels > cfg.n_fft // 2, f"n_mels {cfg.n_mels} is more than n_fft {cfg.n_fft} can tell apart (half of it)"),
        *((f"{kind}_weights {kind}_backbone", getattr(cfg, f"{kind}_weights") == "imagenet" and backbone.endswith("_cnn"),
           f"{kind}_weights imagenet: there are none for {kind}_backbone {backbone}")
          for kind, backbone in (("visual", cfg.visual_backbone), ("audio", cfg.audio_backbone))),
    ]
    for names, is_so, message in impossible:
        if is_so and set(names.split()) <= set(read):
            raise SettingsError(message)
    return cfg


def part_of(text):
    """(i, n) of a text "i/n", the i-th of n parts, i from 1 on; None if it is not one."""
    part = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    i, n = map(int, part.groups()) if part else (0, 0)
    return (i, n) if 1 <= i <= n else None


def save_settings(cfg, path):
    """Writes every setting to `path` as JSON, for --config."""
    with whole_file(path) as part:
        part.write_text(json.dumps(dataclasses.asdict(cfg), indent=1) + "\n")


class Note(typing.NamedTuple):
    """What the source of Config says of a field."""
    section: str
    scripts: list  # that read it
    comment: str


@functools.cache
def field_notes():
    """Name of a field -> Note."""
    notes, section, scripts = {}, "", []
    for line in inspect.getsource(Config).splitlines():
        if heading := re.match(r"    # --- (.+): (.+)", line):
            section, scripts = heading[1], heading[2].split()
        elif entry := re.match(r"    (\w+): .+?  # (.+)", line):
            notes[entry[1]] = Note(section, scripts, entry[2])
    return notes


def fields_of(script):
    """Names of the fields that `script` reads."""
    return [name for name, note in field_notes().items() if script in note.scripts or "every" in note.scripts]


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise SettingsError(message.removeprefix("argument ") + " (--help lists the settings)")


def _parser(script, doc, base):
    parser = _Parser(prog=script, description=doc, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE.json", help="start from the settings that a run wrote into its folder")
    groups = {}
    for name in fields_of(script):
        section, _, comment = field_notes()[name]
        group = groups.get(section) or groups.setdefault(section, parser.add_argument_group(section))
        default = getattr(base, name)
        shown = " ".join(default) if isinstance(default, tuple) else default
        options = dict(dest=name, default=argparse.SUPPRESS, help=f"{comment} [{shown}]".replace("%", "%%"))
        if KINDS[name] is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= dict(type=_from_text(name), metavar=_metavar(name), nargs="*" if isinstance(default, tuple) else None)
        group.add_argument("--" + name.replace("_", "-"), **options)
    return parser


def _metavar(name):
    kind = KINDS[name]
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind))
    return {int: "N", float: "X", str: "TEXT"}.get(_base(kind), "ID")


def _from_text(name):
    def convert(text):
        base = _base(KINDS[name])
        if base is tuple:
            return text
        with contextlib.suppress(ValueError):
            return _checked(name, base(text))
        raise argparse.ArgumentTypeError(f"{text!r} is not {_wanted(KINDS[name])}")
    return convert


def _base(kind):
    """The plain Python type behind an Annotated, Literal or tuple[...] one."""
    if typing.get_origin(kind) is Annotated:
        return typing.get_args(kind)[0]
    return {Literal: str, tuple: tuple}.get(typing.get_origin(kind), kind)


def _checked(name, value):
    """`value`, an int made a float where one is wanted. Raises SettingsError if it is not what the field states."""
    kind, base = KINDS[name], _base(KINDS[name])
    if base is float and type(value) is int:
        with contextlib.suppress(OverflowError):  # then it stays an int and is refused as one
            value = float(value)
    if base is tuple and isinstance(value, list):
        value = tuple(value)
    good = type(value) is base
    if good and base is tuple:
        good = all(type(item) is str for item in value)
    elif good and typing.get_origin(kind) is Literal:
        good = value in typing.get_args(kind)
    elif good and base in (int, float):
        low, high, closed = typing.get_args(kind)[1] if typing.get_origin(kind) is Annotated else (-math.inf, math.inf, True)
        good = math.isfinite(value) and (low <= value if closed else low < value) and value <= high
    if not good:
        raise SettingsError(f"{name}: {value!r} is not {_wanted(kind)}")
    return value


def _wanted(kind):
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text", tuple: "a list of texts"}[_base(kind)]
    if typing.get_origin(kind) is not Annotated:
        return words
    low, high, closed = typing.get_args(kind)[1]
    above = f"{low} or more" if closed else f"above {low}"
    return f"{words}, {above}" if high == math.inf else f"{words} from {low} to {high}"


def _unknown_flag(word, script):
    if not word.startswith("--"):
        return f"{word!r} was not expected (--help lists the settings)"
    name = word[2:].split("=")[0].replace("-", "_")
    if name in KINDS:
        return f"{word} is a setting of {' '.join(field_notes()[name].scripts)}; {script} does not read it"
    return f"unknown setting {word}{_meant(name, fields_of(script))} (--help lists the settings)"


def _meant(name, names):
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean --{close[0].replace('_', '-')}?" if close else ""


KINDS = typing.get_type_hints(Config, include_extras=True)
