"""A small drawn corpus, run once through every step of the preprocessing and the training. Tests copy what they change."""
import shutil
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import drawn.people
import mmpkd
from config import Config
from data import Batch, Recording
from runs import read_log
from support import errors

PEOPLE = ["train_1", "train_2", "dev_1"]
FRAMES = 60  # of each
SMALL = ["--face-size", "32"]  # settings of the steps, so that tests are quick
STEPS = {"annotations": [], "face_detector": SMALL, "audio_extract": [], "audio_melspec": ["--n-mels", "16"]}
TINY = ["--visual-backbone", "small_cnn", "--audio-backbone", "small_cnn", "--feature-size", "16", "--gru-size", "16",
        "--epochs", "2", "--clip-length", "10", "--learning-rate", "0.001", "--device", "cpu",
        "--teachers", "joint", "--teacher-folds", "0", "--no-calibrate", "--distill", "cosine", "--distill-weight", "0.5", "--gate", "adaptive"]
SHAPES = {"frames": (3, 16, 16), "specs": (1, 8, 16)}
STAGES = ["visual", "teacher", "student", "audio"]
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def raw_corpus(tmp_path_factory):
    """Data folder with videos, sound and ratings as a corpus ships them. Read only."""
    folder = tmp_path_factory.mktemp("raw") / "data"
    for number, name in enumerate(PEOPLE):
        drawn.people.write_recording(folder, name, drawn.people.Recording.draw((7, number), FRAMES))
    return folder


@pytest.fixture(scope="session")
def made_corpus(raw_corpus, tmp_path_factory):
    """The same after steps 0 to 3. Read only."""
    folder = tmp_path_factory.mktemp("made") / "data"
    shutil.copytree(raw_corpus, folder)
    for script, flags in STEPS.items():
        import_module(script).main(["--data-dir", str(folder), *flags])
    return folder


@pytest.fixture
def raw(raw_corpus, tmp_path):
    """A copy of raw_corpus to change at will."""
    return shutil.copytree(raw_corpus, tmp_path / "data")


@pytest.fixture
def made(made_corpus, tmp_path):
    """A copy of made_corpus to change at will."""
    return shutil.copytree(made_corpus, tmp_path / "data")


@pytest.fixture
def call(monkeypatch, capsys):
    """call("audio_extract", "--data-dir", folder) -> (exit code, stdout, stderr) of a script, as its user gets them."""
    def call(script, *words):
        module = import_module(script)
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, words)])
        capsys.readouterr()
        code = errors.run_script(module.main, module.__file__)
        return code, *capsys.readouterr()
    return call


# ---- runs and what they are made of ---------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def trained_corpus(made_corpus, tmp_path_factory):
    """made_corpus with a finished run of every stage for both targets. Read only."""
    folder = tmp_path_factory.mktemp("trained") / "data"
    shutil.copytree(made_corpus, folder)
    for stage in STAGES:
        mmpkd.main(["--data-dir", str(folder), *TINY, "--target", "both", "--stage", stage])
    return folder


@pytest.fixture
def trained(trained_corpus, tmp_path):
    """A copy of trained_corpus to change at will."""
    return shutil.copytree(trained_corpus, tmp_path / "data")


def run_of(folder, stage, target="both"):
    return folder / "runs" / (f"{stage}_{target}" + "_cosine" * (stage == "student"))


def tiny_config(**changes):
    small = dict(visual_backbone="small_cnn", audio_backbone="small_cnn", feature_size=16, gru_size=16, clip_length=10, device="cpu",
                 teachers="joint", teacher_folds=0, calibrate=False, distill="cosine", distill_weight=0.5, gate="adaptive")
    return Config(**small | changes)


def easy_set(name, frames, seed):
    """A Recording whose pictures are as bright, and whose spectrograms as dark, as its arousal is high."""
    draw = np.random.default_rng(seed)
    gold = 0.8 * np.sin(np.arange(frames) / 9 + draw.uniform(0, 6)).astype(np.float32)
    level = (gold[:, None, None, None] + 1) / 2
    arrays = {"frames": 20 + 200 * level + draw.normal(0, 10, (frames, *SHAPES["frames"])),
              "specs": 20 + 200 * (1 - level) + draw.normal(0, 10, (frames, *SHAPES["specs"]))}
    return Recording(name, gold[:, None], {}, {key: array.clip(0, 255).astype(np.uint8) for key, array in arrays.items()})


def easy_batch(clips=3, frames=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pictures = [torch.rand(clips, frames, *SHAPES[name], generator=generator) for name in ("frames", "specs")]
    return Batch(*pictures, torch.rand(clips, frames, 1, generator=generator) * 2 - 1)


def same(one, other):
    """Whether two checkpoints (nested dicts, lists, tensors, plain values) are equal bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


def log_of(folder):
    """The lines of log.jsonl, without how long each epoch took."""
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in read_log(folder)]


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def one_line(code, err, expected=1):
    """The message of a script that failed as it should: one line, its exit code, no traceback."""
    assert code == expected and err.count("\n") == 1 and "Traceback" not in err, err
    return err
