"""A small drawn corpus, run once through every step of the preprocessing. Tests copy what they change."""
import shutil
import sys
from importlib import import_module

import pytest

import config
from drawn_people import Recording, write_recording

PEOPLE = ["train_1", "train_2", "dev_1"]
FRAMES = 60  # of each
SMALL = ["--face-size", "32"]  # settings of the steps, so that tests are quick
STEPS = {"annotations": [], "face_detector": SMALL, "audio_extract": [], "audio_melspec": ["--n-mels", "16"]}
TINY = ["--visual-backbone", "small_cnn", "--audio-backbone", "small_cnn", "--feature-size", "16", "--gru-size", "16",
        "--epochs", "2", "--clip-length", "10", "--learning-rate", "0.001", "--device", "cpu"]  # of mmpkd.py


@pytest.fixture(scope="session")
def raw_corpus(tmp_path_factory):
    """Data folder with videos, sound and ratings as a corpus ships them. Read only."""
    folder = tmp_path_factory.mktemp("raw") / "data"
    for number, name in enumerate(PEOPLE):
        write_recording(folder, name, Recording.draw((7, number), FRAMES))
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
        code = config.run_script(module.main, module.__file__)
        return code, *capsys.readouterr()
    return call
