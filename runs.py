"""A run's folder: its name, the settings and subjects it stands for, and whether it is new, stopped or finished."""
import contextlib
import json
from pathlib import Path

import numpy as np

from models_kd import MODELS
from scores import AGAIN
from support.devices import world
from support.errors import SettingsError, UserError
from support.files import claimed, is_claimed
from support.recordings import PARTITIONS, UNLABELLED
from support.settings import field_notes, fields_of, read_settings

MAY_CHANGE = {"data_dir", "runs_dir", "resume", "list", "device", "epochs", "save_minutes", "save_steps", "tensorboard"}  # when a run is resumed


def read_log(folder):
    """The lines of a run's log.jsonl; a last one that was cut short is left out."""
    log, entries = Path(folder, "log.jsonl"), []
    for line in log.read_text().splitlines() if log.exists() else []:
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def run_folder(cfg):
    """runs/<stage>_<target>[_<distill>][_fold<i>of<n>][_<variant>]"""
    distill, fold = cfg.distill.replace(":", ""), "fold" + cfg.fold.replace("/", "of")  # Windows knows no colons
    words = [cfg.stage, cfg.target] + [distill] * (cfg.stage == "student") + [fold] * bool(cfg.fold) + [cfg.variant] * bool(cfg.variant)
    return cfg.run_root / "_".join(words)


def settings_of(cfg):
    """The settings that a run of this stage depends on."""
    notes, inputs = field_notes(), MODELS[cfg.stage].inputs
    foreign = [word for word, read in (("audio_", "specs" in inputs), ("visual_", "frames" in inputs),
                                       ("modality_", cfg.stage == "teacher"), ("fusion", cfg.stage == "teacher")) if not read]
    return {name: getattr(cfg, name) for name in fields_of("mmpkd.py")
            if name not in MAY_CHANGE and not name.startswith(tuple(foreign))
            and (cfg.stage == "student" or notes[name].section != "distillation")}


def state_of_run(folder, cfg):
    """"new", "stopped" or "finished". Raises UserError if a process is training it, if it is of other settings, or if it is stopped
    and --resume was not given."""
    if is_claimed(folder):
        raise UserError(f"{folder}/ is being trained by another process: wait for it, or stop it")
    if not (folder / "last.pt").exists():
        return "new"
    before = read_settings(folder / "config.json")
    check_same(folder, before, settings_of(cfg))
    check_people(folder, cfg)
    finished = (folder / "predictions").exists()
    if finished and cfg.epochs <= before.get("epochs", 0):
        return "finished"
    if not cfg.resume:
        raise UserError(f"{folder}/ holds a run that was " + (f"finished after {before['epochs']} epochs: for {cfg.epochs}, go on with --resume"
                                                              if finished else "stopped: go on with --resume") + ", or delete the folder")
    return "stopped"


def state_of_run_changed(folder, state):
    """Whether another process has trained a run since its state was looked at."""
    return (folder / "last.pt").exists() != (state == "stopped")


def changed(before, now):
    """In what two sets of settings (or pictures) of a run differ, where both have it: [(name, what it was, what it is)]."""
    return [(name, before[name], value) for name, value in now.items() if before.get(name, value) != value]


def check_same(folder, before, now):
    """Raises UserError, with the first name, if anything has changed()."""
    for name, was, value in changed(before, now):
        raise UserError(f"{folder}/ holds a run with {name} {was}, now it is {value}: delete the folder, or name another place with --runs-dir")


def people_of(cfg):
    """Whom a run learns from, and holds out: {partition: ids}."""
    partitions = [PARTITIONS["train"]] + [UNLABELLED] * bool(cfg.stage == "student" and cfg.unlabelled)
    return {name: sorted(path.stem for path in (cfg.annotations_dir / name).glob("[!.]*.csv")) for name in partitions}


def check_people(folder, cfg):
    """Raises UserError if a run was trained on other people than there are now: who is held out by which fold hangs on all of them."""
    noted = folder / "people.json"
    if not noted.exists():  # a run of an older version
        return
    try:
        before = json.loads(noted.read_text())
        others = {name: set(ids) ^ set(before[name]) for name, ids in people_of(cfg).items()}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{noted} cannot be read: {AGAIN.format(folder)}") from None
    for name, ids in others.items():
        if ids:
            was = "was" if min(ids) in before[name] else "was not"
            raise UserError(f"{folder}/ holds a run that was trained when {min(ids)} {was} in {name}: delete the folder, or name another place with "
                            "--runs-dir")


@contextlib.contextmanager
def held(folder):
    """The run's folder, which belongs to this process, or to the first of several, until the block ends."""
    if world()[0]:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with claimed(folder, "trained"):
        yield


def list_runs(root):
    """The runs in a folder as text: a line each, with its state and its best validation CCC, mean over recordings and targets."""
    lines = [f"{'run':40} {'state':24} {'epochs':>9} {'best CCC':>9} {'of epoch':>9}"]
    for folder in sorted(path for path in Path(root).glob("[!.]*") if (path / "config.json").exists()):
        try:
            entries, epochs = read_log(folder), read_settings(folder / "config.json").get("epochs", 0)
        except SettingsError:
            lines.append(f"{folder.name:40} of another version")
            continue
        state = ("running" if is_claimed(folder) else "finished" if (folder / "predictions").exists()
                 else "stopped, --resume" if (folder / "last.pt").exists() else "nothing saved yet")
        values = [float(np.mean([val["mean"] for val in entry["val"].values()])) for entry in entries]
        best = f"{max(values):9.3f} {1 + int(np.argmax(values)):9}" if values else ""
        lines.append(f"{folder.name:40} {state:24} {f'{len(entries)}/{epochs}':>9} {best}")
    return "\n".join(lines) if len(lines) > 1 else f"{root}/ holds no runs: mmpkd.py trains them"
