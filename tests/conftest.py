"""A small drawn corpus, run once through all of the preprocessing and the training. Tests copy what they change."""
import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch

import drawn.people
import mmpkd
import training
from checkpoints import load_checkpoint
from config import Config
from data import Batch, Recording
from runs import read_log
from support import errors

SUBJECTS = ["train_1", "train_2", "dev_1"]
UNRATED = {"x_1": "train_2", "x_2": "dev_1"}  # the unlabelled recordings of pseudo_corpus: {id: whose images they are}
FRAMES = 60  # of each
SMALL = ["--face-size", "32"]  # settings of the steps, so that tests are quick
STEPS = {"annotations": [], "face_detector": SMALL, "audio_extract": [], "audio_melspec": ["--n-mels", "16"]}
TINY = ["--visual-backbone", "tiny_cnn", "--audio-backbone", "tiny_cnn", "--feature-size", "16", "--gru-size", "16",
        "--epochs", "2", "--epoch-steps", "2", "--clip-length", "10", "--learning-rate", "0.001", "--device", "cpu",
        "--teacher-folds", "2", "--target", "arousal", "--keep", "best", "--clip-stride", "1",
        "--workers", "1"]
SHAPES = {"frames": (3, 16, 16), "specs": (1, 8, 16)}
STAGES = ["visual", "teacher", "student", "audio"]
CPU = torch.device("cpu")
DEADLINE_S = 600  # of everything that a test waits for

hypothesis.settings.register_profile("long", max_examples=1000)  # pytest --hypothesis-profile=long

torch.set_num_threads(1)  # several gain nothing with networks so small, and wait for each other on a busy machine

draw_curves = training.RunFiles.draw


@pytest.fixture(scope="session", autouse=True)
def no_curves():
    """Runs draw no curves: that takes several times as long as a tiny run itself. draw_curves is what they would do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.RunFiles, "draw", lambda self, last=False: (self.folder / "curves.png").touch())
        yield


@pytest.fixture
def no_figures(monkeypatch):
    """Figures are made and their files are empty: to draw them takes longer than all else that plot_ccc.py does."""
    def touch(fig, path, dpi=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path
    monkeypatch.setattr("figures.save_figure", touch)


@pytest.fixture(scope="session")
def raw_corpus(tmp_path_factory):
    """Data folder with videos, sound and ratings as a corpus ships them. Read only."""
    folder = tmp_path_factory.mktemp("raw") / "data"
    for number, name in enumerate(SUBJECTS):
        drawn.people.write_recording(folder, name, drawn.people.Recording.draw((7, number), FRAMES))
    return folder


@pytest.fixture(scope="session")
def made_corpus(raw_corpus, tmp_path_factory):
    """The same after steps 0 to 3. Read only: all copies share its images."""
    folder = tmp_path_factory.mktemp("made") / "data"
    shutil.copytree(raw_corpus, folder)
    for script, flags in STEPS.items():
        import_module(script).main(["--data-dir", str(folder), *flags])
    before = files_of(folder)
    yield folder
    assert files_of(folder) == before, "a test changed an image of its copy that was not yet its own: see own()"


@pytest.fixture
def raw(raw_corpus, tmp_path):
    """A copy of raw_corpus to change at will."""
    return shutil.copytree(raw_corpus, tmp_path / "data")


@pytest.fixture
def made(made_corpus, tmp_path):
    """A copy of made_corpus to change at will, without what training does not read."""
    return copied(made_corpus, tmp_path / "data")


def copied(folder, to):
    """A copy of a corpus without what training does not read. Images are the same files, under further names: to make
    hundreds of them where as many were just deleted takes some file systems (ext4) longer than most tests."""
    def copy(source, target):
        (os.link if source.endswith((".jpg", ".png")) else shutil.copy2)(source, target)
    return shutil.copytree(folder, to, copy_function=copy, symlinks=True,
                           ignore=shutil.ignore_patterns("audio_segments", "videos", "audio"))


def own(path):
    """The path of an image in a copy, which is from now on a file of its own, to change at will."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path


def flip(path, at=0.6):
    """Changes a bit in a file, which becomes one of its own; its size and time of change stay.

    at: of a byte, as a fraction of the file's length, or a negative index from its end.
    """
    state, content = path.stat(), bytearray(path.read_bytes())
    content[at if at < 0 else int(at * len(content))] ^= 1
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


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


@pytest.fixture
def bench(monkeypatch):
    """bench("training") -> bench/training.py as a module; its name may also be that of a script above."""
    folder = Path(mmpkd.__file__).parent / "bench"
    monkeypatch.syspath_prepend(folder)
    sys.path.remove(str(folder))
    sys.path.append(str(folder))

    def load(name):
        spec = spec_from_file_location(f"bench_{name}", folder / f"{name}.py")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return load


# ---- runs and what they are made of ---------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def trained_corpus(made_corpus, tmp_path_factory):
    """made_corpus with a finished run of every stage for both targets; the student is distilled. Read only."""
    folder = copied(made_corpus, tmp_path_factory.mktemp("trained") / "data")
    for stage in ("audio", "all"):
        mmpkd.main(["--data-dir", str(folder), *TINY, "--target", "both", "--stage", stage])
    return folder


@pytest.fixture(scope="session")
def exported(trained_corpus, tmp_path_factory):
    """The student of trained_corpus as an ONNX file. Read only."""
    path, export = tmp_path_factory.mktemp("exported") / "student.onnx", import_module("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "STREAM", 50)
        patch.setattr(export, "TIMED_S", 0)
        export.main([str(run_of(trained_corpus, "student") / "best.pt"), "--out", str(path)])
    return path


@pytest.fixture
def trained(trained_corpus, tmp_path):
    """A copy of trained_corpus to change at will."""
    return copied(trained_corpus, tmp_path / "data")


@pytest.fixture(scope="session")
def pseudo_corpus(trained_corpus, tmp_path_factory):
    """trained_corpus with unlabelled recordings, the teacher ensembles and a student of pseudo-labels. Read only.

    printed.txt holds what `mmpkd.py --stage all` printed.
    """
    folder = copied(trained_corpus, tmp_path_factory.mktemp("pseudo") / "data")
    for stage in ("student", "visual"):  # visual: after its folds, on which its post-processing is fitted
        shutil.rmtree(run_of(folder, stage))
    for name, of in UNRATED.items():
        add_unlabelled(folder, name, of)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        mmpkd.main(["--data-dir", str(folder), *TINY, "--target", "both"])
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture
def pseudo(pseudo_corpus, tmp_path):
    """A copy of pseudo_corpus to change at will."""
    return copied(pseudo_corpus, tmp_path / "data")


def run_of(folder, stage, target="both", distill="cosine"):
    return folder / "runs" / (f"{stage}_{target}" + f"_{distill}" * (stage == "student"))


def table_of(folder, name):
    """Path of the annotation file of a recording."""
    return next((folder / "Annotations").glob(f"*/{name}.csv"))


def rate(folder, name, rating, target="arousal"):
    """Makes every rating of a recording the same text."""
    table = pd.read_csv(table_of(folder, name), dtype=str)
    table[target] = rating
    table.to_csv(table_of(folder, name), index=False)


def add_unlabelled(folder, name="x_1", of="train_2"):
    """A recording in Unlabelled_Set that has the images of another one."""
    unlabelled = folder / "Annotations" / "Unlabelled_Set"
    unlabelled.mkdir(exist_ok=True)
    table = pd.read_csv(table_of(folder, of), dtype=str)
    table[["image path", "spec path"]].to_csv(unlabelled / f"{name}.csv", index=False)


def tiny_config(**changes):
    small = dict(visual_backbone="tiny_cnn", audio_backbone="tiny_cnn", feature_size=16, gru_size=16, clip_length=10,
                 device="cpu", teacher_folds=2, distill="cosine", target="arousal", keep="best", clip_stride=1)
    return Config(**small | changes)


def easy_recording(name, frames, seed):
    """A Recording whose images are as bright, and whose spectrograms as dark, as its arousal is high."""
    draw = np.random.default_rng(seed)
    gold = 0.8 * np.sin(np.arange(frames) / 9 + draw.uniform(0, 6)).astype(np.float32)
    level = (gold[:, None, None, None] + 1) / 2
    arrays = {"frames": 20 + 200 * level + draw.normal(0, 10, (frames, *SHAPES["frames"])),
              "specs": 20 + 200 * (1 - level) + draw.normal(0, 10, (frames, *SHAPES["specs"]))}
    arrays = {key: array.clip(0, 255).astype(np.uint8) for key, array in arrays.items()}
    return Recording(name, gold[:, None], {}, arrays)


def easy_batch(clips=3, frames=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(clips, frames, *SHAPES[name], generator=generator) for name in ("frames", "specs")]
    return Batch(*images, torch.rand(clips, frames, 1, generator=generator) * 2 - 1)


def same(one, other):
    """Whether two checkpoints (nested dicts, lists, tensors, plain values) are equal bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


def kept_of(run):
    """best.pt of a run, but for the day that it was written on."""
    state = load_checkpoint(Path(run) / "best.pt")
    return state | {"card": state["card"] | {"date": None}}


def log_of(folder):
    """The lines of log.jsonl, without how long each epoch took."""
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in read_log(folder)]


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def one_line(code, err, expected=1):
    """The message of a script that failed as it should: one line, its exit code, no traceback."""
    assert code == expected and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def scripted(monkeypatch, values):
    """Makes the validation CCCs of a run these, whatever the model does."""
    values = iter(values)
    monkeypatch.setattr(mmpkd, "score", lambda tables, targets: {
        target: {"mean": next(values, 0.0), "concatenated": 0.0} for target in targets})


# ---- runs that are stopped ------------------------------------------------------------------------------------------

def stop_at(monkeypatch, at, epoch=1):
    """Breaks a run off, as Ctrl-C twice does: when the checkpoint of that name of that epoch is to be written
    ("last.pt", "best.pt"), at the second "step" of that epoch, or when "predictions" are to be written."""
    save, note, steps = training.save_checkpoint, training.Training.note, []

    def on_save(path, state):
        if at == path.name and state["epoch"] == epoch:
            raise KeyboardInterrupt
        save(path, state)

    def on_step(*words):
        steps.append(1)
        if at == "step" and len(steps) == 2 * epoch:  # TINY: two steps an epoch
            raise KeyboardInterrupt
        note(*words)

    def on_predictions(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", on_save)
    monkeypatch.setattr(training.Training, "note", on_step)  # on a GPU nothing else of a replayed step is in Python
    if at == "predictions":
        monkeypatch.setattr("scores.whole_folder", on_predictions)


def stopped_and_resumed(call, words, run, at, epoch):
    """Trains `run` whole, then again, broken off by stop_at() and resumed: (its folder of the first time, what is
    printed when it is resumed)."""
    assert call("mmpkd", *words)[0] == 0
    never = run.rename(run.parent.parent / "never")
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_at(monkeypatch, at, epoch)
        one_line(*call("mmpkd", *words)[::2], 130)
    torch.rand(7)  # whatever happened in between
    code, out, err = call("mmpkd", *words, "--resume")
    assert code == 0, err
    return never, out


def stopped_run(made, call, epochs, *words):
    """A visual run that was stopped after some of its 4 epochs: its folder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_at(monkeypatch, "step", epochs + 1)
        assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, *words)[0] == 130
    return run_of(made, "visual", "arousal")


@contextlib.contextmanager
def in_background(made, *words):
    """mmpkd.py in a process of its own, killed when the block ends."""
    script = [sys.executable, mmpkd.__file__, "--data-dir", str(made), *TINY, *map(str, words)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as in the tests: on some processors two round in another way
    process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(happened, process):
    """Waits until happened() is true while the process runs."""
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def torchrun(*words):
    """The ended torchrun of a script with two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
