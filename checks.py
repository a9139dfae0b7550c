"""What can be known before anything is trained: settings that exclude each other, runs and files that are missing.

A mistake costs a second here, and hours later on.
"""
import importlib.util

import pandas as pd

from corpora.copies import copies
from corpora.findings import Finding, line_of, ordered, quick_findings
from data import check_files, check_sets, folds, split_fold
from losses import parse_distill
from models_kd import check_weights
from runs import (
    INPUTS,
    MEAN_TEACHER,
    PSEUDO,
    changed,
    check_trained,
    needed_by,
    read_in_training,
    run_folder,
    settings_of,
    settings_then_and_now,
    state_of_run,
)
from support.columns import read_table
from support.errors import SettingsError, UserError
from support.failures import unlabelled_files
from support.recordings import MODALITIES, PARTITIONS, TARGETS, UNLABELLED, media_file, subjects_of


def describe_way(cfg):
    """How the student will be taught, in one line."""
    count = len(unlabelled_files(cfg))
    if cfg.distill == PSEUDO:
        kinds = " and ".join(cfg.teachers.split("+"))
        return (f"student: trained on ratings and on pseudo-labels for {count} unlabelled recordings, from {kinds} "
                f"teacher ensembles of {cfg.teacher_folds * cfg.teacher_networks} networks each")
    if cfg.distill == MEAN_TEACHER:
        return (f"student: trained on ratings, and on the rated and {count} unlabelled recordings to agree with the "
                "average of its own weights (mean teacher)")
    also = f"on the rated and {count} unlabelled recordings" if count else "on the rated recordings"
    return f"student: distilled from the joint teacher ({cfg.distill}, gate {cfg.gate}) {also}"


def methods_of(cfg):
    """{distillation loss: weight}. Raises SettingsError if one is unknown."""
    try:
        return parse_distill(cfg.distill)
    except ValueError as error:
        raise SettingsError(f"distill: {error}; or auto, or pseudo or mean_teacher alone") from None


def check_before(runs):
    """Raises SettingsError or UserError for everything that can be known before hours of training."""
    for cfg in runs:
        if cfg.stage == "student":
            check_student(cfg)
        if cfg.tensorboard and not importlib.util.find_spec("tensorboard"):
            raise SettingsError("tensorboard: the package is not installed: pip install tensorboard, or leave it out")
        check_fold(cfg)
    states = [state_of_run(cfg) for cfg in runs]
    todo = [cfg for cfg, state in zip(runs, states) if state != "finished"]
    for cfg, state in zip(runs, states):
        if cfg.stage == "student":
            check_teachers(cfg, state, runs, todo)
    for cfg in todo:
        for kind in MODALITIES.values():
            if f"{kind}_weights" in settings_of(cfg):
                check_backbone(cfg, kind)
    if todo:
        check_partitions(todo)
        warn(todo[0])


def check_backbone(cfg, kind):
    """Raises SettingsError or UserError if the "visual" or "audio" backbone cannot be made as it is wanted."""
    name, weights, scale = (getattr(cfg, f"{kind}_{what}") for what in ("backbone", "weights", "lr_scale"))
    check_weights(name, weights)
    if scale == 0 and name != "features" and not weights:
        raise SettingsError(f"{kind}_lr_scale: 0 keeps the {kind} backbone as its pretrained weights are, but it has "
                            f"none, and random ones are of no use: give --{kind}-weights, or another number")


def check_teachers(cfg, state, runs, todo):
    """Raises an error if a student lacks teachers, or if its teachers are to be trained after it.

    Teachers of other settings may be used, which is printed.
    """
    needed = needed_by(cfg)
    others = [one for one in needed if one not in runs]
    if state != "finished":
        check_trained(others)
        for one in others:
            if differ := changed(*settings_then_and_now(one)):
                named = ", ".join(f"{name} {was} (now {value})" for name, was, value in differ)
                print(f"{run_folder(one)}: used although it was trained with {named}")
    for one in (one for one in needed if state != "new" and one in todo):
        why = "was stopped" if (run_folder(one) / "last.pt").exists() else "has no last.pt"
        raise UserError(f"{run_folder(cfg)}/ holds a student whose teachers are to be trained now ({run_folder(one)}/ "
                        f"{why}): delete {run_folder(cfg)}/, too")


def check_partitions(runs):
    """Raises UserError if annotations are unusable, or images that they name are missing. No image is read."""
    inputs = {"val": sorted({kind for cfg in runs for kind in INPUTS[cfg.stage]}),
              "train": sorted({kind for cfg in runs for kind in read_in_training(cfg)})}
    sets = {name: check_files(runs[0], inputs[name], folder) for name, folder in PARTITIONS.items()}
    students = any(cfg.stage == "student" and cfg.unlabelled for cfg in runs)
    sets["unlabelled"] = check_files(runs[0], inputs["train"], UNLABELLED) if students else []
    for cfg in runs:
        check_sets(split_fold(sets, cfg), cfg)


def warn(cfg):
    """Prints what is suspicious about the ratings, and which videos are copies: what can be had in seconds."""
    tables = {path.stem: (path, folder) for folder in (*PARTITIONS.values(), UNLABELLED)
              for path in (cfg.annotations_dir / folder).glob("[!.]*.csv")}
    rated = {name: read_table(path, "run annotations.py", whole=False).reindex(columns=TARGETS)
             for name, (path, folder) in tables.items() if folder != UNLABELLED}
    rated = {name: table.apply(pd.to_numeric, errors="coerce").to_numpy() for name, table in rated.items()}
    videos = {name: path for name in tables if (path := media_file(name, cfg.videos_dir))}
    same = [Finding("copies" if len({tables[name][1] for name in names}) == 1 else "copies_apart", tuple(names),
                    "the same video") for names in copies(videos)]
    found = ordered([*quick_findings(rated, cfg.targets, cfg.frame_rate), *same])
    for kind, those in found:
        print(f"WARNING: {kind.title[0].lower()}{kind.title[1:]}: {line_of(those)}")
    if found:
        print("What to do about it: python annotations.py --check")


def check_student(cfg):
    """Raises SettingsError for settings with which a student cannot be trained, or would equal its visual baseline."""
    equal, files = "the student would equal the visual baseline", unlabelled_files(cfg)
    if files and cfg.batch_size < 2:
        raise SettingsError("batch_size: 1 leaves no room for an unlabelled clip beside a rated one: 2 or more was "
                            "expected, or --unlabelled 0")
    if cfg.distill in (PSEUDO, MEAN_TEACHER) and not files:
        raise SettingsError(f"distill: {cfg.distill} without recordings in {cfg.annotations_dir / UNLABELLED}/ (or "
                            f"with --unlabelled 0): {equal}; add some (annotations.py), or use another --distill")
    if cfg.distill == PSEUDO and cfg.fold:
        raise SettingsError("fold: not with pseudo-labels: the teachers of the other folds are trained on the "
                            "subjects that --fold holds out; use --distill cosine")
    if cfg.distill in (PSEUDO, MEAN_TEACHER):
        return
    methods_of(cfg)
    if cfg.gate == "original":
        print("gate original: as in the authors' code, the weight of the ratings can become 0 or negative")
    elif not cfg.distill_weight:
        raise SettingsError(f"distill_weight: 0: {equal}; a number above 0 was expected")


def check_fold(cfg):
    """Raises UserError if Train_Set has fewer subjects than folds, or a fold leaves nothing to train on."""
    subjects = subjects_of(cfg.data_dir, folds(cfg, 1)) if cfg.fold else {}
    if cfg.fold and (count := len({*subjects.values()})) < max(2, int(cfg.fold.split("/")[1])):
        some = f"{len(subjects)} recording{'s' * (len(subjects) > 1)}"
        some += f" of {count} subject{'s' * (count > 1)}" * (count < len(subjects))
        raise UserError(f"fold {cfg.fold}: Train_Set has {some}: as many as folds were "
                        "expected, or more (--fold, or for a student's teachers --teacher-folds)")
