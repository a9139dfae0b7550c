"""The study's corpora and methods: what is drawn, who is rated, and a row of the table for each way to train."""
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from config import Config
from drawn_people import World

# What the paper's defaults are to RECOLA, these are to a corpus of a few minutes and a machine of two cores.
FACES = {"face_size": 48}
SPECS = {"n_mels": 32, "hop_length": 320}
NETWORKS = {"visual_backbone": "small_cnn", "audio_backbone": "small_cnn", "feature_size": 64, "gru_size": 64, "clip_length": 100, "batch_size": 4,
            "learning_rate": 0.001, "visual_lr_scale": 1.0, "weight_decay": 0.05, "dropout": 0.4, "modality_dropout": 0.5}


# ---- corpora --------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Setting:
    """Drawn people, and who of them is rated, unlabelled and reported, in this order."""
    says: str
    world: World = World()
    corpus: str = ""  # name of the setting that it has its people of; "": its own
    rated: int = 12
    unlabelled: int = 48
    reported: int = 24

    @property
    def people(self):
        return self.rated + self.unlabelled + self.reported


# What a unit of feeling does to the voice
VOICE = ("loudness_db", "pitch_semitones", "tilt_db", "rate_share", "pause_share", "smile_share", "melody_share")


def voice(share):
    """A world in which the voice tells `share` of what it usually does."""
    return dataclasses.replace(World(), **{name: share * getattr(World(), name) for name in VOICE})


SETTINGS = {
    "much": Setting("the voice tells much more of arousal than the face"),
    "little": Setting("the voice tells little: a third of it", voice(1 / 3)),
    "nothing": Setting("the voice tells nothing", voice(0)),
    "more_rated": Setting("as much, but 30 people are rated and 30 are not", corpus="much", rated=30, unlabelled=30),
    "again": Setting("as much, with other people, drawn when all choices had been made"),
}
QUICK = dict(rated=8, unlabelled=16, reported=8)


# ---- methods -------------------------------------------------------------------------------------------------------

class Method(NamedTuple):
    """A row of the table: settings of mmpkd.py, and the view that it is trained in."""
    says: str
    settings: dict
    view: str = "rated"
    where: tuple = tuple(SETTINGS)  # in which settings


PAPER = {"stage": "student"} | json.loads(Path(__file__).parent.with_name("paper.json").read_text())
ALONE = PAPER | dict(gate="adaptive")  # the rated people alone, teacher and gate as they should be
WITH = ALONE | dict(unlabelled=1.0)
RECIPE = {"stage": "student"} | {name: getattr(Config(), name) for name in PAPER if name != "stage"}  # what config.py says
VOICES = RECIPE | dict(teachers="audio")
MUCH, NOTHING = ("much",), ("nothing",)
ELSEWHERE = ("much", "little", "more_rated")
FIRST = (*ELSEWHERE, *NOTHING)  # all but "again", of which no more is asked than what the recipe does there

METHODS = {
    "visual": Method("face only: lower bound", dict(stage="visual")),
    "teacher": Method("face and voice: upper bound", dict(stage="teacher")),
    "audio": Method("voice only", dict(stage="audio")),
    "oracle": Method("face only, with the true ratings of everybody", dict(stage="visual"), "oracle"),
    "noiseless": Method("face only, with ratings that have no error of a rater", dict(stage="visual"), "noiseless", MUCH),
    "recipe": Method("pseudo-labels of cross-fitted faces, and of voices where they are confirmed", RECIPE, where=(*ELSEWHERE, "again")),
    "self_training": Method("the recipe, taught by faces alone", RECIPE | dict(teachers="visual", gate="off")),
    "self_training_8": Method("taught by eight networks of faces alone", RECIPE | dict(teachers="visual", gate="off", teacher_folds=8), where=MUCH),
    "control_other_voice": Method("the recipe, with another one's voice", RECIPE, "other_voice", MUCH),
    "control_nothing": Method("the recipe, where the voice tells nothing", RECIPE, where=NOTHING),
    "recipe_adaptive": Method("the recipe with the gate adaptive", RECIPE | dict(gate="adaptive"), where=ELSEWHERE),
    "control_other_voice_adaptive": Method("recipe_adaptive, with another one's voice", RECIPE | dict(gate="adaptive"), "other_voice", MUCH),
    "control_nothing_adaptive": Method("recipe_adaptive, where the voice tells nothing", RECIPE | dict(gate="adaptive"), where=NOTHING),
    "recipe_off": Method("the recipe without a gate", RECIPE | dict(gate="off"), where=ELSEWHERE),
    "control_other_voice_off": Method("recipe_off, with another one's voice", RECIPE | dict(gate="off"), "other_voice", MUCH),
    "control_nothing_off": Method("recipe_off, where the voice tells nothing", RECIPE | dict(gate="off"), where=NOTHING),
    "voices": Method("the recipe, taught by voices alone, as far as they are confirmed", VOICES, where=ELSEWHERE),
    "control_voices_other": Method("voices, with another one's voice", VOICES, "other_voice", MUCH),
    "control_voices_nothing": Method("voices, where the voice tells nothing", VOICES, where=NOTHING),
    "voices_adaptive": Method("voices alone, with the gate adaptive", VOICES | dict(gate="adaptive"), where=MUCH),
    "control_voices_other_adaptive": Method("voices_adaptive, with another one's voice", VOICES | dict(gate="adaptive"), "other_voice", MUCH),
    "control_voices_nothing_adaptive": Method("voices_adaptive, where the voice tells nothing", VOICES | dict(gate="adaptive"), where=NOTHING),
    "voices_off": Method("voices alone, without a gate", VOICES | dict(gate="off"), where=MUCH),
    "recipe_joint": Method("the recipe, taught by joint networks, without a gate", RECIPE | dict(teachers="joint", gate="off"), where=MUCH),
    "recipe_raw": Method("the recipe without calibration", RECIPE | dict(calibrate=False), where=MUCH),
    "recipe_first": Method("the recipe, half the epochs unlabelled people alone, then rated ones", RECIPE | dict(unlabelled_first=0.5), where=MUCH),
    "recipe_confidence": Method("the recipe, frames counting by how far its teachers agree", RECIPE | dict(confidence="agreement"), where=MUCH),
    "recipe_24": Method("the recipe with 24 of the unlabelled people", RECIPE | dict(unlabelled=0.5), where=MUCH),
    "recipe_12": Method("the recipe with 12 of them", RECIPE | dict(unlabelled=0.25), where=MUCH),
    "paper": Method("the paper's loss, teacher and gate: cosine of whole batches, rated people", PAPER, where=FIRST),
    "ccc_unlabelled": Method("ccc of the joint teacher's predictions, unlabelled people too", WITH | dict(distill="ccc"), where=FIRST),
    "cosine": Method("cosine per frame, rated people", ALONE | dict(distill="cosine"), where=MUCH),
    "fitnets": Method("fitnets, rated people", ALONE | dict(distill="fitnets"), where=MUCH),
    "sp": Method("sp, rated people", ALONE | dict(distill="sp"), where=MUCH),
    "rkd": Method("rkd, rated people", ALONE | dict(distill="rkd"), where=MUCH),
    "ot": Method("ot (PKDOT), rated people", ALONE | dict(distill="ot"), where=MUCH),
    "mt_pkdot": Method("ot, the best of three teachers batch by batch (MT-PKDOT), rated people", ALONE | dict(
        distill="ot", teachers="joint+visual+audio"), where=MUCH),
    "ccc": Method("ccc, rated people", ALONE | dict(distill="ccc"), where=MUCH),
    "cosine_ccc": Method("cosine + ccc, rated people", ALONE | dict(distill="cosine:0.5+ccc:0.5"), where=MUCH),
    "crossfit_alone": Method("ccc of cross-fitted voices, calibrated, rated people", VOICES | dict(
        distill="ccc", distill_weight=0.5, gate="adaptive", unlabelled=0.0), where=MUCH),
    "cosine_unlabelled": Method("cosine per frame, unlabelled people too", WITH | dict(distill="cosine"), where=MUCH),
    "audio_unlabelled": Method("ccc of one voice's predictions, unlabelled people too", WITH | dict(distill="ccc", teachers="audio"), where=MUCH),
    "teacher_attention": Method("face and voice, fused by joint cross-attention", dict(stage="teacher", fusion="cross_attention"), where=MUCH),
}
CONTROLS = tuple(name for name in METHODS if name.startswith("control"))
OF_VOICES = tuple(name for name in CONTROLS if name.startswith("control_voices"))  # they must not gain over visual, the others not over self_training
BESIDE_SEEING = ("recipe", "recipe_off", "voices", "voices_off", *(name for name in CONTROLS if name not in OF_VOICES))
AIMS = {"gain": {"arousal": 0.08, "valence": 0.0, "both": 0.05},  # set before the study
        "share": {("oracle", "arousal"): 0.6, ("oracle", "valence"): 0.3, ("teacher", "arousal"): 1 / 3}}
PAIRS = (("recipe", "self_training_8"), ("recipe", "control_other_voice_off"), ("voices", "voices_off"), ("cosine_unlabelled", "cosine"),
         ("ccc_unlabelled", "ccc"), ("audio_unlabelled", "ccc_unlabelled"))  # told beside each other, too
ADAPTIVE = ("control_other_voice_adaptive", "control_nothing_adaptive")  # ... nor lose over visual
QUICK_METHODS = ("visual", "teacher", "audio", "oracle", "recipe", "self_training", "control_other_voice", "paper", "ccc_unlabelled")
