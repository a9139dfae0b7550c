"""What can be known before anything is trained: settings that exclude each other, runs and files that are missing.

A mistake costs a second here, and hours later on.
"""
import importlib.util

from data import check_files, check_sets, folds
from losses import parse_distill
from models_kd import check_weights
from runs import INPUTS, PSEUDO, check_trained, needed_by, read_in_training, settings_of, state_of_run, unlabelled_files
from support.errors import SettingsError, UserError
from support.recordings import PARTITIONS, UNLABELLED


def describe_way(cfg):
    """How the student will be taught, in one line."""
    count = len(unlabelled_files(cfg))
    if cfg.distill == PSEUDO:
        kinds = " and ".join(cfg.teachers.split("+"))
        return (f"student: trained on ratings and on pseudo-labels for {count} unlabelled recordings, from {kinds} "
                f"teacher ensembles of {cfg.teacher_folds} networks each")
    also = f"on the rated and {count} unlabelled recordings" if count else "on the rated recordings"
    return f"student: distilled from the joint teacher ({cfg.distill}, gate {cfg.gate}) {also}"


def methods_of(cfg):
    """{distillation loss: weight}. Raises SettingsError if one is unknown."""
    try:
        return parse_distill(cfg.distill)
    except ValueError as error:
        raise SettingsError(f"distill: {error}; or auto, or pseudo alone") from None


def check_before(runs):
    """Raises SettingsError or UserError for everything that can be known before hours of training."""
    for cfg in runs:
        if cfg.stage == "student":
            check_student(cfg)
        if cfg.tensorboard and not importlib.util.find_spec("tensorboard"):
            raise SettingsError("tensorboard: the package is not installed: pip install tensorboard, or leave it out")
    todo = [cfg for cfg in runs if state_of_run(cfg) != "finished"]
    for cfg in todo:
        check_fold(cfg)
        if cfg.stage == "student":
            check_trained([one for one in needed_by(cfg) if one not in runs])
        for kind in ("visual", "audio"):
            file = getattr(cfg, f"{kind}_weights")
            if file not in ("", "imagenet") and f"{kind}_weights" in settings_of(cfg):
                check_weights(getattr(cfg, f"{kind}_backbone"), file)
    if todo:
        check_partitions(todo)


def check_partitions(runs):
    """Raises UserError if annotations are unusable, or images that they name are missing. No image is read."""
    inputs = {"val": sorted({kind for cfg in runs for kind in INPUTS[cfg.stage]}),
              "train": sorted({kind for cfg in runs for kind in read_in_training(cfg)})}
    sets = {name: check_files(runs[0], inputs[name], folder) for name, folder in PARTITIONS.items()}
    students = any(cfg.stage == "student" and cfg.unlabelled for cfg in runs)
    sets["unlabelled"] = check_files(runs[0], inputs["train"], UNLABELLED) if students else []
    check_sets(sets, runs[0])


def check_student(cfg):
    """Raises SettingsError for settings with which a student cannot be trained, or would equal its visual baseline."""
    equal = "the student would equal the visual baseline"
    if cfg.distill == PSEUDO and not unlabelled_files(cfg):
        raise SettingsError(f"distill: pseudo without recordings in {cfg.annotations_dir / UNLABELLED}/: {equal}; "
                            "add some (annotations.py), or use another --distill")
    if cfg.distill == PSEUDO and cfg.fold:
        raise SettingsError("fold: not with pseudo-labels: the teachers of the other folds are trained on the "
                            "subjects that --fold holds out")
    if cfg.distill == PSEUDO:
        return
    methods_of(cfg)
    if cfg.gate == "original":
        print("gate original: as in the original code, the weight of the ratings can become 0 or negative")
    elif not cfg.distill_weight:
        raise SettingsError(f"distill_weight: 0: {equal}; a number above 0 was expected")


def check_fold(cfg):
    """Raises UserError if Train_Set has fewer subjects than folds, or a fold leaves nothing to train on."""
    if cfg.fold and (count := len(folds(cfg, 1))) < max(2, int(cfg.fold.split("/")[1])):
        raise UserError(f"fold {cfg.fold}: Train_Set has {count} recording{'s' * (count > 1)}: as many as folds were "
                        "expected, or more (--fold, or for a student's teachers --teacher-folds)")
