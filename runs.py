"""A run's folder: its name, the settings and subjects it stands for, and whether it is new, stopped or finished.

Nothing here needs torch: `mmpkd.py --list` answers at once.
"""
import contextlib
import dataclasses
import functools
import itertools
import zipfile
import zlib
from pathlib import Path

import numpy as np

from support.checksums import LIST, digest, identity
from support.errors import SettingsError, UserError
from support.failures import folder_of, unlabelled_files
from support.files import claimed, is_claimed, regular, there
from support.reading import clipped, parse_json, read_bytes, read_json
from support.recordings import MODALITIES, PARTITIONS, UNLABELLED, uses_features
from support.settings import field_notes, fields_of, read_settings

KEEP_BOTH = "keep both with --variant WORD, or delete the folder"
AGAIN = "delete {}/ and run mmpkd.py with the same settings again"  # for a run whose folder is damaged
# What the network of each stage is fed
INPUTS = {"visual": ("frames",), "student": ("frames",), "audio": ("specs",), "teacher": ("frames", "specs")}
NAMES = {"frames": "crops", "specs": "spectrograms"}  # of inputs, for users
NOT_FITTED = ("no post-processing: it is fitted on training subjects that were held out, and not all runs --fold "
              "1/n to n/n (n: --teacher-folds) of the stage (for a student: visual) are finished with these settings")
PSEUDO = "pseudo"  # --distill: train on ratings and pseudo-labels, with no distillation loss
MEAN_TEACHER = "mean_teacher"  # --distill: taught by the average of the student's own weights
# Settings that may differ when a run is resumed
MAY_CHANGE = {"data_dir", "runs_dir", "resume", "list", "device", "epochs", "save_minutes", "save_steps", "cuda_graph",
              "tensorboard", "smoothing", "max_window_s", "max_delay_s", "workers", "shard"}
OLDER = {"clip_stride": 1}  # settings that runs of older versions do not name, and what these were trained with
NEXT_SEED = 10 ** 6  # from one network to another that is alike but for its seed: beyond the seeds that users compare
OF_STUDENTS = ("student", "pseudo-labels", "distillation")  # sections of config.py


def run_folder(cfg):
    """Path of a run: runs/<stage>_<target>[_<distill>][_fold<i>of<n>][_<variant>]"""
    distill, fold = cfg.distill.replace(":", ""), "fold" + cfg.fold.replace("/", "of")  # Windows knows no colons
    words = [cfg.stage, cfg.target] + [distill] * (cfg.stage == "student")
    return cfg.run_root / "_".join([*words, *[fold] * bool(cfg.fold), *[cfg.variant] * bool(cfg.variant)])


def settings_of(cfg):
    """{name: value} of the settings that a run of this stage depends on."""
    notes, inputs = field_notes(), INPUTS[cfg.stage]
    read = {"audio_": "specs" in inputs, "visual_": "frames" in inputs, "modality_": cfg.stage == "teacher",
            "fusion": cfg.stage == "teacher"}
    foreign = [word for word, is_read in read.items() if not is_read]
    # By a student that is distilled
    unread = {"teachers", "teacher_folds", "teacher_networks", "confirm_audio"}
    if cfg.distill == PSEUDO:
        unread = {"gate", "distill_weight"}
    elif cfg.distill == MEAN_TEACHER:
        unread |= {"gate", "distill_weight"}
    return {name: getattr(cfg, name) for name in fields_of("mmpkd.py")
            if name not in MAY_CHANGE and name not in unread and not name.startswith(tuple(foreign))
            and (cfg.stage == "student" or notes[name].section not in OF_STUDENTS)}


# ---- is it there, and is it this one? -------------------------------------------------------------------------------

def state_of_run(cfg):
    """"new", "stopped" or "finished".

    Raises UserError if a process is training it, if it has other settings, epochs, subjects or teachers, if it is
    finished but its network is gone, or if it is stopped and --resume was not given.
    """
    folder = run_folder(cfg)
    if is_claimed(folder):
        raise UserError(f"{folder}/ is being trained by another process: wait for it, or stop it")
    if not there(folder / "last.pt"):
        return "new"
    before = settings_in(folder)
    check_same(folder, before, settings_of(cfg))
    check_origin(cfg)
    finished, epochs = there(folder / "predictions"), before.get("epochs", 0)
    if finished and not there(folder / "best.pt"):
        raise UserError(f"{folder / 'best.pt'} is missing: {AGAIN.format(folder)}")
    if finished and cfg.epochs < epochs:
        raise UserError(f"{folder}/ holds a run of {epochs} epochs, {cfg.epochs} are wanted now: {KEEP_BOTH}")
    if finished and cfg.epochs == epochs:
        return "finished"
    if not cfg.resume:
        was = f"finished after {epochs} epochs, {cfg.epochs} are wanted now" if finished else "stopped"
        raise UserError(f"{folder}/ holds a run that was {was}: continue it with --resume, or delete the folder")
    return "stopped"


def needed_run(cfg, number=1, **changes):
    """Settings of a run that another one needs: cfg with `changes`; number: of the network, of several alike.

    A run with a --variant uses that variant's runs where they exist, and else those without a variant if they are
    finished and of the same settings and subjects; what is missing is trained as this variant.
    """
    own = numbered(dataclasses.replace(cfg, **changes), number)
    plain = numbered(dataclasses.replace(cfg, **changes, variant=""), number)
    if cfg.variant and not there(run_folder(own)):
        with contextlib.suppress(UserError):
            check_trained([plain])
            check_same(run_folder(plain), *settings_then_and_now(plain))
            return plain
    return own


def numbered(cfg, number):
    """Settings of the first, second ... of several networks alike: from the second on a seed and a variant of their
    own."""
    if number == 1:
        return cfg
    word = f"net{number}"
    return dataclasses.replace(cfg, seed=cfg.seed + (number - 1) * NEXT_SEED,
                               variant=f"{word}_{cfg.variant}" if cfg.variant else word)


def settings_in(folder):
    """The settings in a run's config.json, as a dict. Raises SettingsError if they cannot be read."""
    try:
        return OLDER | read_settings(folder / "config.json")
    except SettingsError as error:
        raise SettingsError(f"{error}; {AGAIN.format(folder)}") from None


def settings_then_and_now(cfg):
    """The settings that a run was trained with, and those of cfg: two dicts."""
    return settings_in(run_folder(cfg)), settings_of(cfg) | {"epochs": cfg.epochs}


def changed(before, now):
    """What differs between two sets of settings (or image shapes), where both have it: [(name, before, now)]."""
    return [(name, before[name], value) for name, value in now.items() if before.get(name, value) != value]


def check_same(folder, before, now):
    """Raises UserError, naming the first, if anything has changed()."""
    for name, was, value in changed(before, now):
        raise UserError(f"{folder}/ holds a run with {name} {was}, now it is {value}: {KEEP_BOTH}")


def origin_of(cfg):
    """What a run is made of beside its settings: {partition: ids of its subjects}, "made_of": {id: {what: checksum}} of
    their ratings and images; of a student also "taught_by", and "labels" if it has any."""
    partitions = [*PARTITIONS.values()] + [UNLABELLED] * bool(cfg.stage == "student" and cfg.unlabelled)
    ids = {name: sorted(path.stem for path in (cfg.annotations_dir / name).glob("[!.]*.csv")) for name in partitions}
    origin = ids | {"made_of": made_of(cfg, partitions)}
    if cfg.stage == "student":
        folder = run_folder(cfg)
        origin |= {"taught_by": fingerprint(needed_by(cfg)),
                   "labels": identity(folder / "labels", AGAIN.format(folder))}
    return origin


def made_of(cfg, partitions):
    """{id: {"ratings", "crops", "spectrograms" (or features): checksum}} of the recordings of a run; "" for what is
    gone."""
    made = {}
    for partition in partitions:
        kinds = INPUTS[cfg.stage] if partition == PARTITIONS["val"] else read_in_training(cfg)
        tables = (unlabelled_files(cfg) if partition == UNLABELLED
                  else sorted((cfg.annotations_dir / partition).glob("[!.]*.csv")))
        for table in tables:
            made[table.stem] = {"ratings": identity(table)} | {
                f"{MODALITIES[kind]} features" if uses_features(cfg, kind) else NAMES[kind]:
                image_identity(table, kind, cfg) for kind in kinds}
    return made


def image_identity(table, kind, cfg):
    """identity() of the images that an annotation file names: of the folder of the first, or of an array's file; or of
    the file of features in their place."""
    if uses_features(cfg, kind):
        from corpora import features  # here: pandas, which comes with it, takes its time
        file = features.find(cfg.features_dir / MODALITIES[kind]).get(table.stem)
        return identity(file) if file else ""
    array = cfg.specs_dir / f"{table.stem}.npy"
    if kind == "specs" and there(array):
        return identity(array)
    return identity({"frames": cfg.crops_dir, "specs": cfg.specs_dir}[kind] / folder_of(table, kind))


def check_origin(cfg):
    """Raises UserError if a run is of other subjects (the folds are drawn over all of them), of other ratings or
    images, or of other teachers."""
    folder, now = run_folder(cfg), origin_of(cfg)
    note, again = folder / "subjects.json", AGAIN.format(folder)
    try:
        before = read_json(note, again)
    except OSError as error:
        raise UserError(f"{note} cannot be read ({error.strerror}): {again}") from None
    teachers, made, labels = ([origin.pop(name, empty) for origin in (before, now)]
                              for name, empty in (("taught_by", ""), ("made_of", {}), ("labels", "")))
    wrong = next((name for name in now if not _are_ids(before.get(name))), None)
    if wrong or not _are_checksums(made[0]):
        wrong = wrong or "made_of"
        raise UserError(f"{note} is damaged ({wrong} is {clipped(before.get(wrong, made[0]))}): {again}")
    differ = {name: set(ids) ^ set(before[name]) for name, ids in now.items()}
    if all(teachers) and teachers[0] != teachers[1]:
        for one in needed_by(cfg):
            check_whole(run_folder(one))
        raise UserError(f"{folder}/ holds a student whose teachers (or visual baseline) have been trained again since: "
                        f"delete {folder}/")
    for name, ids in differ.items():
        for one in sorted(ids)[:1]:
            was = "was" if one in before[name] else "was not"
            raise UserError(f"{folder}/ holds a run that was trained when {one} {was} in {name}: {KEEP_BOTH}")
    check_made_of(folder, *made)
    if all(labels) and labels[0] != labels[1]:
        raise UserError(f"{folder / 'labels'}/ holds other pseudo-labels than those that the run was trained on: "
                        f"{AGAIN.format(folder)}")


def check_made_of(folder, before, now):
    """Raises UserError if a run was trained on other ratings or images than there are now: made_of() then and now.

    Images that are gone matter only to a run that is not finished.
    """
    if not before:
        say_once(f"{folder.parent}: some runs are of an older version, which did not note their ratings and images: "
                 "these are not compared")
        return
    finished, not_compared = there(folder / "predictions"), []
    for one in sorted({*before, *now}):
        for what in before.get(one, {}) | now.get(one, {}):
            was, crc = (made.get(one, {}).get(what, "") for made in (before, now))
            if was == crc or not crc and finished:
                continue
            if not was:
                raise UserError(f"{folder}/ holds a run that was trained without {one}, which was left out then: "
                                f"{KEEP_BOTH}")
            if not crc:
                raise UserError(f"{folder}/ holds a run that was trained with {one}, which has no {what} now: restore "
                                f"them, or {KEEP_BOTH}")
            if was.startswith("~") == crc.startswith("~"):
                raise UserError(f"{folder}/ holds a run that was trained when {one} had other {what}: restore those, "
                                f"or {KEEP_BOTH}")
            not_compared.append(f"the {what} of {one}")
    if not_compared:
        more = f" and {len(not_compared) - 1} more" * (len(not_compared) > 1)
        say_once(f"{folder}: {not_compared[0]}{more} got or lost their {LIST} since it was trained: not compared")


@functools.cache
def say_once(text):
    """Prints a text if it has not been printed before."""
    print(text)


def _are_ids(value):
    return type(value) is list and all(type(one) is str for one in value)


def _are_checksums(value):
    return type(value) is dict and all(type(one) is dict and all(type(crc) is str for crc in one.values())
                                       for one in value.values())


@contextlib.contextmanager
def claimed_run(folder, first=True):
    """The run's folder belongs to this process until the block ends; first: whether it is the first of several."""
    if not first:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with claimed(folder, "trained"):
        yield


# ---- the runs that a student needs ----------------------------------------------------------------------------------

def teacher_runs(cfg):
    """{stage of a teacher: settings of its runs}: for pseudo-labels a run of each fold, then a second one of each, up
    to --teacher-networks; the joint teacher for distillation; none for a student that is its own teacher."""
    if cfg.distill == MEAN_TEACHER:
        return {}
    if cfg.distill != PSEUDO:
        return {"teacher": [needed_run(cfg, stage="teacher")]}
    stages = [{"joint": "teacher"}.get(word, word) for word in cfg.teachers.split("+")]
    folds = [f"{number}/{cfg.teacher_folds}" for number in range(1, cfg.teacher_folds + 1)]
    numbers = range(1, cfg.teacher_networks + 1)
    return {stage: [needed_run(cfg, number, stage=stage, fold=fold) for number in numbers for fold in folds]
            for stage in stages}


def held_out_runs(cfg):
    """Settings of the runs whose predictions for held-out subjects a run's post-processing is fitted on: itself if it
    has a --fold, else those of all --teacher-folds folds of its stage (of a student: of the visual stage, the same
    network), of its variant or else of none. [] if one is not finished, or has other settings.
    """
    if cfg.fold:
        return [cfg]
    stage, n = {"student": "visual"}.get(cfg.stage, cfg.stage), cfg.teacher_folds
    for variant in dict.fromkeys([cfg.variant, ""]):
        runs = [dataclasses.replace(cfg, stage=stage, fold=f"{i}/{n}", variant=variant) for i in range(1, n + 1)]
        with contextlib.suppress(SettingsError):  # a config.json that cannot be read
            if all(there(run_folder(one) / "predictions") and not changed(*settings_then_and_now(one))
                   for one in runs):
                return runs
    return []


def baseline_run(cfg):
    """Settings of the visual baseline that tests a student's audio teachers; None if they are not tested."""
    tested = cfg.distill == PSEUDO and cfg.confirm_audio and "audio" in cfg.teachers
    return needed_run(cfg, stage="visual") if tested else None


def needed_by(cfg):
    """Settings of all runs that a student needs."""
    runs = [*itertools.chain(*teacher_runs(cfg).values()), baseline_run(cfg)]
    return [one for one in runs if one is not None]


def fingerprint(runs):
    """A hash of the networks of some runs, which differs when one of them is trained again; "" if one is missing."""
    paths = [run_folder(one) / "best.pt" for one in runs]
    if not all(map(there, paths)):
        return ""
    return digest(b"".join(map(read_bytes, paths)))


def check_whole(folder):
    """Raises UserError if the best.pt of a run is damaged."""
    path = folder / "best.pt"
    try:
        with zipfile.ZipFile(regular(path)) as file:
            whole = file.testzip() is None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error):
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged: {AGAIN.format(folder)}")


def check_trained(runs):
    """Raises SettingsError if one of these runs is not finished, UserError if it is of other subjects."""
    for one in runs:
        folder = run_folder(one)
        if not there(folder / "predictions"):
            flags = f"--stage {one.stage}" + f" --fold {one.fold}" * bool(one.fold)
            flags += f" --variant {one.variant} --seed {one.seed}" * bool(one.variant)
            what = "is not finished" if there(folder / "last.pt") else "is missing"
            raise SettingsError(f"the student needs {folder}/, which {what}: run {flags} first (--stage all does)")
        check_origin(one)


def read_in_training(cfg):
    """What is read of the training recordings: what the network is fed and, for a student, what its teachers are
    fed."""
    stages = [cfg.stage, *(teacher_runs(cfg) if cfg.stage == "student" else ())]
    return [kind for kind in INPUTS["teacher"] if any(kind in INPUTS[stage] for stage in stages)]


def with_way(cfg):
    """cfg with `distill` decided: "auto" is pseudo-labels where there are unlabelled recordings, else the paper's
    cosine."""
    if cfg.distill != "auto":
        return cfg
    unlabelled = unlabelled_files(cfg)
    return dataclasses.replace(cfg, distill=PSEUDO if unlabelled else "cosine")


# ---- what is there --------------------------------------------------------------------------------------------------

def read_log(folder):
    """The lines of a run's log.jsonl, as dicts; a last one that was cut short is left out.

    Raises UserError, naming the line, if another one is not as training.py writes it.
    """
    log, entries = Path(folder, "log.jsonl"), []
    lines = read_bytes(log).splitlines() if there(log) else []
    for number, line in enumerate(lines, 1):
        try:
            entry = parse_json(line)
        except ValueError:
            if number == len(lines):
                break
            entry = None
        if not _is_epoch(entry) or entries and not _follows(entry, entries[-1]):
            raise UserError(f"{log} line {number} is not what mmpkd.py writes after an epoch: correct that line, or "
                            "delete the file (curves and tables alone are made of it)")
        entries.append(entry)
    return entries


def _is_epoch(entry):
    """Whether a line of log.jsonl is that of an epoch, with what its readers use: CCCs of validation, and numbers."""
    def is_ccc(value):
        return type(value) is dict and type(value.get("mean")) in (int, float)
    if type(entry) is not dict or type(entry.get("epoch")) is not int or type(entry.get("val")) is not dict:
        return False
    return (bool(entry["val"]) and all(map(is_ccc, entry["val"].values()))
            and all(type(value) in (int, float, bool) for name, value in entry.items() if name != "val"))


def _follows(entry, before):
    """Whether an epoch is the next one of the same run."""
    return entry["val"].keys() == before["val"].keys() and entry["epoch"] == before["epoch"] + 1


def answer_list(cfg):
    """Whether --list was given; if so, prints the runs."""
    if cfg.list:
        print(list_runs(cfg.run_root))
    return cfg.list


def list_runs(root):
    """The runs in a folder as text: a line each, with its state and its best validation CCC (mean over recordings and
    targets)."""
    folders = sorted(path for path in Path(root).glob("[!.]*") if (path / "config.json").exists())
    if not folders:
        return f"{root}/ holds no runs: mmpkd.py trains them"
    title = f"{'run':40} {'state':24} {'epochs':>9} {'best CCC':>9} {'of epoch':>9}"
    return "\n".join([title, *map(run_line, folders)])


def run_line(folder):
    """A run's line in list_runs()."""
    try:
        entries, settings = read_log(folder), read_settings(folder / "config.json")
    except SettingsError:
        return f"{folder.name:40} of another version"
    except UserError as error:
        return f"{folder.name:40} {error}"
    state = ("running" if is_claimed(folder) else "finished" if there(folder / "predictions")
             else "stopped, --resume" if there(folder / "last.pt") else "nothing saved yet")
    epochs, done = settings.get("epochs", 0), entries[-1]["epoch"] if entries else 0
    if state == "finished" and done < epochs and not settings.get("patience"):
        state = "finished, its log is cut"
    values = [float(np.mean([val["mean"] for val in entry["val"].values()])) for entry in entries]
    best = f"{max(values):9.3f} {entries[int(np.argmax(values))]['epoch']:9}" if values else ""
    return f"{folder.name:40} {state:24} {f'{done}/{epochs}':>9} {best}"
