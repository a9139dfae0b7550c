"""The study's corpora, cases and methods: what is drawn, settings of training, each row of the tables, the aims.

The study before this one is at the git tag study-1.
"""
import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from drawn.people import World

# What the paper's defaults are to RECOLA, these are to a corpus of a few minutes and a machine of two cores.
FACES = {"face_size": 48}
SPECS = {"n_mels": 32, "hop_length": 320}
NETWORKS = {"visual_backbone": "small_cnn", "audio_backbone": "small_cnn", "feature_size": 64, "gru_size": 64,
            "clip_length": 100, "clip_stride": 1, "batch_size": 4, "learning_rate": 0.001, "visual_lr_scale": 1.0,
            "weight_decay": 0.05, "dropout": 0.4, "modality_dropout": 0.5}


# ---- training: the same for every run of the study ------------------------------------------------------------------

# Ratings, faces and spectrograms per second: on two development corpora visual and oracle score the same with 2.5 and
# with 5, where a run takes 1.7 and 3 times as long
RATE = 1.25
# Every run takes as many gradient steps, however many subjects it learns from: with as many epochs instead, a baseline
# of few subjects would be undertrained
EPOCHS, QUICK_EPOCHS = 20, 3
STUDY = FACES | SPECS | NETWORKS | dict(
    visual_backbone="tiny_cnn", audio_backbone="tiny_cnn", target="both", keep="last", precision="float32",
    frame_rate=RATE, resume=True, clip_length=8, batch_size=8, epoch_steps=95)
TEACHER_FOLDS = 4  # or as many as there are rated subjects


# ---- corpora --------------------------------------------------------------------------------------------------------

# Of the drawn subjects; each setting takes the next. Seeds 1 and 10 to 14 are those of study-1
FIRST_SEED = 300  # the reported study: drawn once, after all choices are in a commit
DEVELOPMENT_SEED = 200  # --choose and --quick: no subject of the reported corpora is among them


@dataclass(frozen=True)
class Setting:
    """Drawn subjects: a pool, of which a draw takes the rated and the unlabelled ones, and those that are reported."""
    description: str
    world: World = World()
    rated: tuple = (12,)  # numbers of rated subjects, each a case of the setting, in the order of training
    unlabelled: int = 48
    pool: int = 200  # large: draws of a small one share many subjects, and intervals over them are too narrow
    reported: int = 24
    seconds: int = 30  # of each subject

    @property
    def subjects(self):
        return self.pool + self.reported


# What a unit of arousal or valence does to the voice
VOICE = ("loudness_db", "pitch_semitones", "tilt_db", "rate_share", "pause_share", "smile_share", "melody_share")


def voice(share):
    """A world whose effects on the voice are `share` of the usual ones."""
    return dataclasses.replace(World(), **{name: share * getattr(World(), name) for name in VOICE})


SETTINGS = {
    "much": Setting("the voice is much more informative of arousal than the face", rated=(12, 9, 6, 3, 30)),
    "nothing": Setting("the voice carries no information", voice(0)),
    "recola": Setting("the world of `much` in RECOLA's shape: recordings of 5 minutes, 9 subjects reported as its "
                      "development partition, 9 unlabelled as its test partition (transductive: nothing can be "
                      "reported on those)", rated=(9,), unlabelled=9, pool=90, reported=9, seconds=300),
    "little": Setting("the voice is less informative: a third of the effects in `much`", voice(1 / 3)),
}
QUICK = {"much": dataclasses.replace(SETTINGS["much"], rated=(4, 8), unlabelled=12, pool=20, reported=8)}


# ---- methods --------------------------------------------------------------------------------------------------------

class Method(NamedTuple):
    """A row of the tables: settings of mmpkd.py, the view that it is trained in, the settings in which it is run."""
    description: str
    settings: dict
    view: str = ""  # "": rated and unlabelled subjects as drawn | oracle | other_voice
    where: tuple = tuple(SETTINGS)
    # Not a run, but the mean prediction of several that differ in their seed: one ensemble for all seeds of a draw
    ensemble: bool = False


STUDENT = dict(stage="student", distill="pseudo")  # the recipe: the defaults
INFORMATIVE = ("much", "recola")
SELF_TRAINING = STUDENT | dict(teachers="visual", teacher_networks=2)  # as many teachers as the student

METHODS = {  # a method comes after those whose runs it shares
    "visual": Method("face only: the baseline", dict(stage="visual")),
    "mean_teacher": Method("unlabelled faces, and no teacher but the average of the student's own weights",
                           dict(stage="student", distill="mean_teacher"), where=INFORMATIVE),
    "visual_ensemble": Method("mean of as many networks of the baseline as the student has teachers",
                              dict(stage="visual"), ensemble=True),
    "teacher": Method("face and voice", dict(stage="teacher")),
    "audio": Method("voice only", dict(stage="audio")),
    "self_training": Method("the student with visual teachers only", SELF_TRAINING),
    "student": Method("pseudo-labels of visual and, where confirmed, audio teachers", STUDENT),
    "control": Method("the student with another subject's voice, without the confirmation test",
                      STUDENT | dict(confirm_audio=False), "other_voice", where=INFORMATIVE),
    "oracle": Method("face only, true ratings of the unlabelled subjects, too", dict(stage="visual"), "oracle"),
    "student_rated": Method("the student if none were unlabelled: the joint teacher's hints (cosine)",
                            dict(stage="student", distill="cosine", unlabelled=0.0), where=("recola",)),
}


# ---- what the tables compare ----------------------------------------------------------------------------------------

class Aim(NamedTuple):
    """A difference of two methods that was aimed at, set before the study."""
    words: str
    setting: str
    rated: int
    method: str
    against: str
    least: float  # its mean must reach this, and its interval lie above 0, or above `least` if that is negative
    of: str = ""  # as a share of the difference of this method


HEARING = ("student", "self_training")  # the difference is what hearing adds
AIMS = (
    Aim("hearing's part", "much", 12, *HEARING, 0.05),
    Aim("hearing's part", "much", 9, *HEARING, 0.05),
    Aim("hearing's part", "recola", 9, *HEARING, 0.05),
    Aim("hearing's part", "much", 6, *HEARING, 0.08),
    Aim("share of the oracle's gain over the ensemble", "much", 12, "student", "visual_ensemble", 0.85, "oracle"),
    Aim("no loss where the voice tells nothing", "nothing", 12, *HEARING, -0.01),
    Aim("a gain with none unlabelled", "recola", 9, "student_rated", "visual", 0.0),
    Aim("the same over the ensemble", "recola", 9, "student_rated", "visual_ensemble", 0.0),
)
