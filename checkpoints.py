"""Checkpoints: what a run keeps of its network, and how it is built again from that.

A checkpoint holds tensors and plain Python alone, and is read with weights_only=True: no code in it can run. best.pt
holds what is needed to use the network and nothing more: settings of the network, sizes of its inputs, targets,
weights, and the model card (model_card.py). last.pt holds what is needed to resume: all settings of the run, weights,
optimizer, counters.
"""
import dataclasses
import datetime
import importlib.metadata
import io
import math
import platform
import sys
from pathlib import Path

import torch

from config import Config
from model_card import FACES, HELD_OUT, SOUND, TRAIN, VAL, check_card
from models_kd import MODELS, build_model
from postprocessing import rating_level
from runs import OLDER, PSEUDO, run_folder, settings_of, teacher_runs
from support.checksums import read_list
from support.errors import UserError
from support.files import there, whole_file
from support.recordings import MODALITIES, SUMMARIES, TARGETS, UNLABELLED, faces_table, made_with
from support.settings import KINDS, field_notes
from support.tensors import load_tensors

PACKAGES = ["torch", "torchvision", "numpy", "opencv-python", "opencv-python-headless", "facenet-pytorch", "av"]
NEEDED = ("stage", "config", "targets", "shapes", "model")  # entries of every checkpoint
EXPECTED = ("a best.pt (or last.pt) of mmpkd.py was expected. If a run wrote it, it is damaged: delete its "
            "folder and train again")


# ---- writing --------------------------------------------------------------------------------------------------------

def save_checkpoint(path, state):
    """Writes tensors and plain Python, whole or not at all: the same bytes for the same values."""
    buffer = io.BytesIO()  # on a full disk, torch.save itself fails with a RuntimeError that says nothing
    torch.save(_by_value(state), buffer)
    with whole_file(path) as part:
        part.write_bytes(buffer.getbuffer())


def _by_value(value):
    """The same, equal texts as one object. Pickle writes a text that it has met before, the same object, as a
    reference to it: with those of a resumed run the file would differ, though no value does."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {_by_value(key): _by_value(each) for key, each in value.items()}
    return type(value)(map(_by_value, value)) if type(value) in (list, tuple) else value


def describe_model(cfg, shapes, sets):
    """What the checkpoints of a run say of its network: entries of a checkpoint, but for what comes from training.

    shapes: of the images (data.image_shapes); sets: the recordings of the run, {"train": [Recording], "val": ...}
    (data.load_sets). A student's labels must be in its run's folder. Raises UserError for names that a card cannot
    hold.
    """
    shapes = {name: tuple(shapes[name]) for name in MODELS[cfg.stage].inputs}
    settings, ids = settings_of(cfg), {name: [one.name for one in recordings] for name, recordings in sets.items()}
    seen = [one for name in sets for one in sets[name]]
    on = {"set": HELD_OUT, "subjects": ids["held_out"]} if cfg.fold else {"set": VAL, "subjects": ids["val"]}
    chosen = {"set": None, "subjects": []} if cfg.keep == "last" else on
    card = bare_card(cfg.stage, settings, cfg.targets, shapes) | {
        "faces": _faces(cfg, shapes["frames"], seen) if "frames" in shapes else None,
        "sound": _sound(cfg, shapes["specs"]) if "specs" in shapes else None,
        "ratings": _ratings(sets["train"], cfg.targets),
        "trained_on": {TRAIN: ids["train"], UNLABELLED: ids.get("unlabelled", [])},
        "chosen_on": chosen | {"epoch": 0, "keep": cfg.keep}, "ccc_on": on, **_taught(cfg)}
    card = check_card(card, run_folder(cfg) / "best.pt")  # now rather than after hours of training
    return {"stage": cfg.stage, "config": settings, "targets": cfg.targets, "shapes": shapes, "card": card}


def to_resume(about, model):
    """last.pt, but for what Training.state() adds; about: of describe_model."""
    return {name: about[name] for name in about if name != "card"} | {"model": model.state_dict()}


def to_use(about, model, epoch, scores):
    """best.pt after an epoch; about: of describe_model; scores: scores.score() of the subjects it is chosen on."""
    weights, card = model.state_dict(), about["card"]
    scale = {name: {key: weights[f"{MODALITIES[name]}.{key}"].flatten().tolist() for key in ("mean", "std")}
             for name in about["shapes"]}
    card = card | {"network": card["network"] | {"weights": sum(one.numel() for one in model.parameters())},
                   "normalisation": scale, "chosen_on": card["chosen_on"] | {"epoch": epoch}, "ccc": card_ccc(scores),
                   "versions": versions(), "date": datetime.date.today().isoformat()}
    return _best(about, card, weights, epoch)


def finished(about, state, scores, subjects, postprocessing):
    """best.pt of a finished run, from what it was: its card gets the CCC on Val_Set and the post-processing.

    scores: scores.score() of Val_Set; subjects: their ids; postprocessing: {"smoothing": ..., target: PostProcessing},
    or {}: none.
    """
    known = {name: value for name, value in state["card"].items() if value is not None}  # all, but of older versions
    constants = {name: value if name == "smoothing" else value._asdict() for name, value in postprocessing.items()}
    card = about["card"] | known | {"ccc_on": {"set": VAL, "subjects": subjects}, "ccc": card_ccc(scores),
                                    "postprocessing": constants or None}
    return _best(about, card, state["model"], state["epoch"])


def _best(about, card, weights, epoch):
    return about | {"config": network_settings(about["config"]), "card": card, "model": weights, "epoch": epoch}


def network_settings(settings):
    """Those settings of a run that its network is built with."""
    notes = field_notes()
    return {name: value for name, value in settings.items()
            if name == "target" or notes[name].section == "networks" and not name.endswith("_weights")}


def versions():
    """{package: version} of what computes a prediction."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # one of the two of OpenCV
            continue
    return found


# ---- what a card says -----------------------------------------------------------------------------------------------

def bare_card(stage, settings, targets, shapes):
    """The card of a network, as far as it follows from the settings of its run."""
    network = {name: value for name, value in network_settings(settings).items() if name != "target"}
    files = {name: Path(settings[name]).name or "random" for name in ("visual_weights", "audio_weights")
             if name in settings}  # not the path, which may name a person
    return {"stage": stage, "target": settings["target"], "targets": targets, "network": network | files,
            "inputs": {name: list(shape) for name, shape in shapes.items()}, "frame_rate": settings.get("frame_rate"),
            "clip_stride": (OLDER | settings)["clip_stride"],
            "distill": settings.get("distill") if stage == "student" else None}


def _faces(cfg, shape, recordings):
    """How the crops of some recordings were made: settings and retention; None if they are of another origin."""
    made = _settings(made_with(cfg.crops_dir), FACES)
    tables = [cfg.crops_dir / one.name / "faces.csv" for one in recordings]
    ours = [there(table) or table.name in read_list(table.parent) for table in tables]
    if any(ours) and not made_with(cfg.crops_dir):
        print(f"{cfg.crops_dir}/ has no settings.json: how the crops were made is not known, and not in the model card")
    if not made or shape[1:] != (made["face_size"],) * 2 or not all(ours):
        return None
    return made | {"retained": any(b",retained," in faces_table(table) for table in tables)}


def _sound(cfg, shape):
    """How the spectrograms were made; None if they are of another origin."""
    if len(shape) > 1 and not made_with(cfg.specs_dir):
        print(f"{cfg.specs_dir}/ has no settings.json: how the spectrograms were made is not known, and not in the "
              "model card")
    made = _settings(made_with(cfg.segments_dir) | made_with(cfg.specs_dir), SOUND)
    return made if made and shape[1:2] == (made["n_mels"],) else None


def _ratings(recordings, targets):
    """The mean and standard deviation of the training ratings, to which predictions can be levelled."""
    levels = (rating_level([one.gold[:, k] for one in recordings]) for k in range(len(targets)))
    return {target: {"mean": mean, "sd": sd} for target, (mean, sd) in zip(targets, levels)}


def _settings(made, names):
    """Those of the settings in a settings.json; None if one is missing or is no value of it."""
    return {name: made[name] for name in names} if all(
        name in made and KINDS[name].allows(made[name]) for name in names) else None


def _taught(cfg):
    """Who taught a student, for its card."""
    if cfg.stage != "student":
        return {}
    taught = {"taught_by": [run_folder(one).name for runs in teacher_runs(cfg).values() for one in runs]}
    if cfg.distill == PSEUDO:
        from pseudo_labels import read_report  # here: what only uses a network does not need SciPy
        report = read_report(run_folder(cfg), cfg.targets)
        taught["teacher_weights"] = {target: dict(report[target]["weights"]) for target in cfg.targets}
    return taught


def card_ccc(scores):
    """The CCCs of scores.score() for a card: {target: {"mean", "concatenated", "subjects": how many}}."""
    return {target: {key: None if math.isnan(each[key]) else each[key] for key in SUMMARIES} |
            {"subjects": len(each) - len(SUMMARIES)} for target, each in scores.items()}


# ---- reading: nothing in a file is trusted --------------------------------------------------------------------------

def load_checkpoint(path):
    """What save_checkpoint wrote, with its card (of an older version, what follows from its settings).

    Raises UserError, one line, if the file is missing or is not a whole checkpoint of mmpkd.py, whatever is in it: no
    code from it is run, and no more memory is taken than the file has bytes.
    """
    state = _unpickled(path)
    if fault := _fault(state):
        raise UserError(f"{path} is not a checkpoint of mmpkd.py ({fault}): {EXPECTED}")
    if "card" not in state:
        state["card"] = _card_of_old(state)
    state["card"] = check_card(state["card"], path)
    said = {"stage": state["stage"], "targets": state["targets"],
            "inputs": {name: list(shape) for name, shape in state["shapes"].items()}}
    if differ := next((name for name in said if state["card"][name] != said[name]), None):
        raise UserError(f"{path}: its model card names other {differ} than those of its network: {EXPECTED}")
    return state


def _unpickled(path):
    """The content of a checkpoint, of any type."""
    try:
        return load_tensors(path)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing: a checkpoint of mmpkd.py was expected") from None
    except PermissionError:
        raise UserError(f"{path} may not be read: give yourself the permission") from None
    except (MemoryError, OSError):
        raise
    except Exception:  # the unpickler raises many kinds, with advice to read the file unsafely
        raise UserError(f"{path} is not a whole checkpoint of mmpkd.py: {EXPECTED}") from None


def _fault(state):
    """What is wrong with the content of a checkpoint, in words; "" if a network may be built from it."""
    if type(state) is not dict or (missing := next((name for name in NEEDED if name not in state), "")):
        return f"it has no {missing}" if type(state) is dict else "it is no dict"
    stage, config, shapes = (state[name] for name in ("stage", "config", "shapes"))
    if type(stage) is not str or stage not in MODELS:
        return "its stage is unknown"
    if type(config) is not dict or "target" not in config:
        return "its settings are no dict, or have no target"
    if wrong := next((name for name in KINDS if name in config and not KINDS[name].allows(config[name])), ""):
        return f"its setting {wrong} is not {KINDS[wrong]}"
    if state["targets"] != (TARGETS if config["target"] == "both" else [config["target"]]):
        return "its targets are not those of its settings"
    if type(shapes) is not dict or set(shapes) != set(MODELS[stage].inputs):
        return f"its shapes are not those of {' and '.join(MODELS[stage].inputs)}"
    if not all(type(shape) in (tuple, list) and all(type(n) is int for n in shape) for shape in shapes.values()):
        return "its shapes are no whole numbers"
    if any((config.get(f"{MODALITIES[name]}_backbone") == "features") != (len(shapes[name]) == 1) for name in shapes):
        return "its shapes are not those that its backbones take"  # else layers of absurd sizes could be built
    return _fault_of_weights(state["model"])


def _fault_of_weights(weights):
    """What is wrong with the weights of a checkpoint; "" for {name: tensor} whose values are in the file."""
    if not isinstance(weights, dict) or not all(type(name) is str for name in weights):
        return "its weights have no names"
    for name, one in weights.items():
        if not torch.is_tensor(one) or one.layout != torch.strided or one.device.type != "cpu" or one.is_quantized:
            return f"{name[:80]!r} is no plain tensor"
        if one.numel() * one.element_size() > one.untyped_storage().nbytes():  # one value, repeated a billion times
            return f"{name[:80]!r} has more values than the file has bytes"
    return ""


def _card_of_old(state):
    """The card of a checkpoint of an older version: what follows from its settings."""
    card = bare_card(*(state[name] for name in ("stage", "config", "targets", "shapes")))
    scores, epoch, keep = (state.get("val"), state.get("epoch"), state["config"].get("keep", "best"))
    if type(scores) is not dict or "optimizer" in state:  # last.pt: nothing was chosen yet
        return card
    try:
        subjects = [name for name in scores[state["targets"][0]] if name not in SUMMARIES]
        on = {"set": HELD_OUT if state["config"].get("fold") else VAL, "subjects": subjects}
        chosen = {"set": None, "subjects": []} if keep == "last" else on
        return card | {"ccc": card_ccc(scores), "ccc_on": on, "chosen_on": chosen | {"epoch": epoch, "keep": keep}}
    except (TypeError, KeyError, AttributeError):
        return card | {"ccc": "unreadable"}  # check_card refuses it


def load_model(path):
    """(model in evaluation mode, its checkpoint): the network as it was built and trained, whatever config.py says
    now. Raises UserError as load_checkpoint does, and if the weights do not fit the network or are not finite."""
    state = load_checkpoint(path)
    names = {field.name for field in dataclasses.fields(Config)}
    settings = state["config"] | {"clip_stride": state["card"]["clip_stride"]}
    cfg = Config(**{name: value for name, value in settings.items() if name in names})
    try:
        with torch.device("meta"):  # shapes without values: settings of a stranger's file may ask for terabytes
            model = build_model(state["stage"], cfg, state["shapes"], weights=False)
        kinds = {name: one.dtype for name, one in model.state_dict().items()}
        model.load_state_dict(state["model"], assign=True)
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).strip().splitlines()[-1].strip()[:200]
        raise UserError(f"{path} was written by another version of the networks ({reason}): train again") from None
    check_values(state["model"], kinds, path)
    return model.eval(), state


def check_values(weights, kinds, path):
    """Raises UserError if a weight is not of its dtype in `kinds`, {name: dtype}, or has values that are not finite."""
    for name, one in weights.items():
        if one.dtype != kinds.get(name, one.dtype):
            raise UserError(f"{path}: {name} is of {one.dtype}, {kinds[name]} was expected: {EXPECTED}")
        if not one.isfinite().all():
            raise UserError(f"{path}: {name} has values that are not finite: {EXPECTED}")
