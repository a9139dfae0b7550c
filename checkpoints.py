"""Checkpoints: what a run keeps of its network, and how it is built again from that.

A checkpoint holds tensors and plain Python alone, and is read with weights_only=True: no code in it can run.
"""
import dataclasses
import io
from pathlib import Path

import torch

from config import Config
from models_kd import MODELS, build_model
from runs import settings_of
from support.errors import UserError
from support.files import whole_file


def save_checkpoint(path, state):
    """Writes tensors and plain Python, whole or not at all."""
    buffer = io.BytesIO()  # on a full disk, torch.save itself fails with a RuntimeError that says nothing
    torch.save(state, buffer)
    with whole_file(path) as part:
        part.write_bytes(buffer.getbuffer())


def load_checkpoint(path):
    """What save_checkpoint wrote. Raises UserError if the file is missing or is not a complete checkpoint of
    mmpkd.py."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        wrong = not isinstance(state, dict) or {"stage", "config", "targets", "shapes", "model"} - set(state)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: a checkpoint of mmpkd.py was expected") from None
    except Exception:  # the unpickler raises many kinds
        wrong = True
    if wrong:
        raise UserError(f"{path} is not a checkpoint of mmpkd.py, or it is damaged: delete {Path(path).parent}/ and "
                        "train again")
    return state


def load_model(path):
    """(model in evaluation mode, its checkpoint): the network as it was built and trained, whatever config.py says
    now."""
    state = load_checkpoint(path)
    names = {field.name for field in dataclasses.fields(Config)}
    cfg = Config(**{name: value for name, value in state["config"].items() if name in names})
    model = build_model(state["stage"], cfg, state["shapes"], weights=False)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} was written by another version of the networks ({reason}): train again") from None
    return model.eval(), state


def describe_model(cfg, shapes):
    """What a checkpoint says of its model, so that load_model can build it again."""
    return {"stage": cfg.stage, "config": settings_of(cfg), "targets": cfg.targets,
            "shapes": {name: shape for name, shape in shapes.items() if name in MODELS[cfg.stage].inputs}}
