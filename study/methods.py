"""The study's corpora and methods: what is drawn, which subjects are rated, and each row of the tables."""
import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from drawn.people import World

# What the paper's defaults are to RECOLA, these are to a corpus of a few minutes and a machine of two cores.
FACES = {"face_size": 48}
SPECS = {"n_mels": 32, "hop_length": 320}
NETWORKS = {"visual_backbone": "small_cnn", "audio_backbone": "small_cnn", "feature_size": 64, "gru_size": 64,
            "clip_length": 100, "batch_size": 4, "learning_rate": 0.001, "visual_lr_scale": 1.0, "weight_decay": 0.05,
            "dropout": 0.4, "modality_dropout": 0.5}


# ---- corpora --------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Setting:
    """Drawn subjects, and how many of them are rated, unlabelled and reported, in this order."""
    description: str
    world: World = World()
    corpus: str = ""  # name of the setting whose subjects it shares; "": its own
    rated: int = 12
    unlabelled: int = 48
    reported: int = 24

    @property
    def subjects(self):
        return self.rated + self.unlabelled + self.reported


# What a unit of arousal or valence does to the voice
VOICE = ("loudness_db", "pitch_semitones", "tilt_db", "rate_share", "pause_share", "smile_share", "melody_share")


def voice(share):
    """A world whose effects on the voice are `share` of the usual ones."""
    return dataclasses.replace(World(), **{name: share * getattr(World(), name) for name in VOICE})


SETTINGS = {
    "much": Setting("the voice is much more informative of arousal than the face"),
    "little": Setting("the voice is less informative: a third of the effects in `much`", voice(1 / 3)),
    "nothing": Setting("the voice carries no information", voice(0)),
    "more_rated": Setting("the subjects of `much`, more of them rated", corpus="much", rated=30, unlabelled=30),
    "again": Setting("as `much`, with other subjects, drawn after all choices had been made"),
}
QUICK = dict(rated=8, unlabelled=16, reported=8)


# ---- methods --------------------------------------------------------------------------------------------------------

class Method(NamedTuple):
    """A row of the tables: settings of mmpkd.py, and the view that it is trained in."""
    description: str
    settings: dict
    view: str = "rated"
    where: tuple = tuple(SETTINGS)  # the settings in which it is run


PAPER = dict(stage="student", distill="cosine_original", distill_weight=0.5, gate="original", unlabelled=0.0)
ALONE = PAPER | dict(gate="adaptive")  # rated subjects only
WITH = ALONE | dict(unlabelled=1.0)
RECIPE = dict(stage="student", distill="pseudo")  # the defaults
UNTESTED = RECIPE | dict(confirm_audio=False)  # without the confirmation test
MUCH, NOTHING = ("much",), ("nothing",)
ELSEWHERE = ("much", "little", "more_rated")
FIRST = (*ELSEWHERE, *NOTHING)  # all but "again", which was only made to test the recipe

METHODS = {
    "visual": Method("face only: lower bound", dict(stage="visual")),
    "teacher": Method("face and voice: upper bound", dict(stage="teacher")),
    "audio": Method("voice only", dict(stage="audio")),
    "oracle": Method("face only, true ratings of all subjects", dict(stage="visual"), "oracle"),
    "noiseless": Method("face only, ratings without rater errors", dict(stage="visual"), "noiseless", MUCH),
    "recipe": Method("pseudo-labels of visual and, where confirmed, audio teachers", RECIPE,
                     where=(*ELSEWHERE, "again")),
    "self_training": Method("the recipe with visual-only teachers", RECIPE | dict(teachers="visual")),
    "self_training_8": Method("the recipe with eight visual-only teachers",
                              RECIPE | dict(teachers="visual", teacher_folds=8), where=MUCH),
    "control_other_voice": Method("the recipe, voices swapped between subjects", RECIPE, "other_voice", MUCH),
    "control_nothing": Method("the recipe, where the voice carries no information", RECIPE, where=NOTHING),
    "recipe_off": Method("the recipe without the confirmation test", UNTESTED, where=ELSEWHERE),
    "control_other_voice_off": Method("recipe_off, voices swapped between subjects", UNTESTED, "other_voice", MUCH),
    "control_nothing_off": Method("recipe_off, where the voice carries no information", UNTESTED, where=NOTHING),
    "recipe_joint": Method("recipe_off with joint teachers (face and voice)", UNTESTED | dict(teachers="joint"),
                           where=MUCH),
    "recipe_raw": Method("the recipe without stacking and calibration", RECIPE | dict(calibrate=False), where=MUCH),
    "recipe_24": Method("the recipe with 24 unlabelled subjects", RECIPE | dict(unlabelled=0.5), where=MUCH),
    "recipe_12": Method("the recipe with 12 unlabelled subjects", RECIPE | dict(unlabelled=0.25), where=MUCH),
    "paper": Method("the paper's loss, teacher and gate: cosine of whole batches, rated subjects", PAPER, where=FIRST),
    "ccc_unlabelled": Method("ccc to the joint teacher's predictions, unlabelled subjects too",
                             WITH | dict(distill="ccc"), where=FIRST),
    "cosine": Method("cosine per frame, rated subjects", ALONE | dict(distill="cosine"), where=MUCH),
    "fitnets": Method("fitnets, rated subjects", ALONE | dict(distill="fitnets"), where=MUCH),
    "sp": Method("sp, rated subjects", ALONE | dict(distill="sp"), where=MUCH),
    "rkd": Method("rkd, rated subjects", ALONE | dict(distill="rkd"), where=MUCH),
    "ot": Method("ot (PKDOT), rated subjects", ALONE | dict(distill="ot"), where=MUCH),
    "ccc": Method("ccc to the joint teacher's predictions, rated subjects", ALONE | dict(distill="ccc"), where=MUCH),
    "cosine_ccc": Method("cosine + ccc, rated subjects", ALONE | dict(distill="cosine:0.5+ccc:0.5"), where=MUCH),
    "cosine_unlabelled": Method("cosine per frame, unlabelled subjects too", WITH | dict(distill="cosine"), where=MUCH),
    "teacher_attention": Method("face and voice, fused by joint cross-attention",
                                dict(stage="teacher", fusion="cross_attention"), where=MUCH),
}
QUICK_METHODS = ("visual", "teacher", "audio", "oracle", "recipe", "self_training", "control_other_voice", "paper",
                 "ccc_unlabelled")

TAG = "study-1"  # of git: the last commit whose code can train what follows
OLD = {
    "recipe_adaptive": "the recipe, its teachers weighted by their CCC on the batch (adaptive gate)",
    "control_other_voice_adaptive": "recipe_adaptive, voices swapped between subjects",
    "control_nothing_adaptive": "recipe_adaptive, where the voice carries no information",
    "voices": "the recipe with audio-only teachers, weighted by how far they are confirmed",
    "control_voices_other": "voices, swapped between subjects",
    "control_voices_nothing": "voices, where the voice carries no information",
    "voices_adaptive": "audio-only teachers, adaptive gate",
    "control_voices_other_adaptive": "voices_adaptive, voices swapped between subjects",
    "control_voices_nothing_adaptive": "voices_adaptive, where the voice carries no information",
    "voices_off": "recipe_off with audio-only teachers",
    "recipe_first": "the recipe, half the epochs on unlabelled subjects only, then on rated ones",
    "recipe_confidence": "the recipe, frames weighted by how far the ensemble's members agree",
    "mt_pkdot": "ot, the best of three teachers batch by batch (MT-PKDOT), rated subjects",
    "crossfit_alone": "ccc to cross-fitted, calibrated audio teachers, rated subjects",
    "audio_unlabelled": "ccc to one audio teacher's predictions, unlabelled subjects too",
}
DESCRIPTIONS = {name: method.description for name, method in METHODS.items()} | {
    name: f"{description} [{TAG}]" for name, description in OLD.items()}


# ---- what the tables compare ----------------------------------------------------------------------------------------

CONTROLS = tuple(name for name in DESCRIPTIONS if name.startswith("control"))
# With audio-only teachers a control must not gain over visual, with visual teachers beside them not over self_training
AUDIO_ONLY = tuple(name for name in CONTROLS if name.startswith("control_voices"))
BESIDE_VISUAL = ("recipe", "recipe_off", "voices", "voices_off", *(name for name in CONTROLS if name not in AUDIO_ONLY))
OVER_VISUAL = ("recipe", "self_training", "voices", *AUDIO_ONLY, "control_other_voice_adaptive",
               "control_nothing_adaptive")
AIMS = {"gain": {"arousal": 0.08, "valence": 0.0, "both": 0.05},  # set before the study
        "share": {("oracle", "arousal"): 0.6, ("oracle", "valence"): 0.3, ("teacher", "arousal"): 1 / 3}}
PAIRS = (("recipe", "self_training_8"), ("recipe", "control_other_voice_off"), ("voices", "voices_off"),
         ("cosine_unlabelled", "cosine"), ("ccc_unlabelled", "ccc"), ("audio_unlabelled", "ccc_unlabelled"))
# Tables of docs/study.md: {question: rows of (setting, method, what it is compared with)}
QUESTIONS = {
    "What does the recipe gain over the visual baseline?": (
        *((setting, "recipe", "visual") for setting in ("much", "again", "little", "more_rated")),
        ("nothing", "control_nothing", "visual")),
    "How much of it is due to audio teachers?": (
        *((setting, "recipe", "self_training") for setting in ("much", "again", "little", "more_rated")),
        ("much", "recipe", "self_training_8"), ("much", "recipe", "control_other_voice_off")),
    "Does an uninformative voice do harm?": (
        ("much", "control_other_voice", "self_training"), ("nothing", "control_nothing", "self_training"),
        ("much", "control_other_voice_off", "self_training"), ("nothing", "control_nothing_off", "self_training"),
        ("nothing", "ccc_unlabelled", "visual")),
    "Which parts of the recipe matter? (much, over visual)": tuple(("much", method, "visual") for method in (
        "recipe", "recipe_12", "recipe_24", "self_training", "voices_off", "recipe_joint", "recipe_raw")),
    "Are the rated subjects enough? (much, over visual)": tuple(("much", method, "visual") for method in (
        "paper", "cosine", "fitnets", "sp", "rkd", "ot", "ccc", "cosine_ccc", "noiseless", "ccc_unlabelled")),
    "Tried and given up": (
        *(("much", method, "visual") for method in ("recipe_confidence", "recipe_first", "recipe_adaptive")),
        ("much", "control_other_voice_adaptive", "self_training"),
        ("nothing", "control_nothing_adaptive", "self_training"),
        *(("much", method, "visual") for method in ("voices", "voices_adaptive", "control_voices_other_adaptive")),
        ("nothing", "control_voices_nothing_adaptive", "visual"),
        *(("much", method, "visual") for method in ("mt_pkdot", "crossfit_alone", "audio_unlabelled"))),
}
