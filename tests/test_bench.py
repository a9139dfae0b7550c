"""bench/: the benches run. Their figures are not tested."""
import dataclasses
import functools
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch

import mmpkd
from config import Config
from drawn.people import World
from study.methods import FACES, NETWORKS, SPECS

BENCH = Path(mmpkd.__file__).parent / "bench"
CFG = Config(**FACES, **SPECS, **NETWORKS, target="arousal", device="cpu")


@pytest.fixture
def bench(monkeypatch):
    """bench("training") -> that script as a module; its name is also that of a script above."""
    monkeypatch.syspath_prepend(BENCH)
    sys.path.remove(str(BENCH))
    sys.path.append(str(BENCH))

    def load(name):
        spec = spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return load


def test_the_bounds_of_the_corpus_train_on_drawn_subjects(bench, tmp_path):
    bounds = bench("corpus_bounds")
    files = [bounds.draw(tmp_path, 0, number, 5, World(), CFG) for number in range(2)]
    threads = torch.get_num_threads()
    scores = bounds.bound(("teacher", 2, files[:1], files[1:], dataclasses.replace(CFG)))
    torch.set_num_threads(threads)
    assert scores["arousal"].keys() == {"subject_0", "mean", "concatenated"} and np.isfinite(scores["arousal"]["mean"])
    rows = {name: [scores] for name in bounds.ROWS}
    text = bounds.table(rows) + bounds.verdicts(rows)
    assert text.count(f"{scores['arousal']['mean']:.3f}") >= len(bounds.ROWS)


def test_the_bench_of_a_gpu_prints_every_table_in_small(bench, monkeypatch, capsys):
    module = bench("gpu")
    monkeypatch.setattr(module, "CASES", module.CASES[:1])
    monkeypatch.setattr("training.RunFiles.draw", lambda self, last=False: None)  # it replaces that itself
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", torch.backends.cudnn.deterministic)
    module.main(["--small", "--device", "cpu"])
    out = capsys.readouterr().out
    assert "FAILED" not in out and "left out" not in out and "the same bits" in out and "frames/s on cpu" in out
    lines = [line.split("|") for line in out.splitlines() if " x 2 |" in line]
    assert [line[1].split()[0] for line in lines] == ["visual,", "teacher,", "student,", "resnet18"]
    assert all(len(line) == 18 and float(line[5]) > 0 and float(line[8]) > 0 for line in lines)


def test_recola_is_extrapolated_from_every_rate(bench):
    rates = dict.fromkeys(["packing", "visual", "teacher", "student", "teacher's outputs", "visual predictions"], 1000)
    table = bench("gpu").recola_table(rates, saving_s=0)
    # 10 epochs of 67,500 frames trained and as many predicted, and 135,000 predicted at the end; 1,000 a second
    assert "| visual, 10 epochs | 24.8 |" in table and "| student, 10 epochs | 25.9 |" in table
    assert "| packing the images, once | 2.2 |" in table and "| together | 77.6 |" in table


def test_the_training_bench_prints_a_line_for_every_pair(bench, monkeypatch, capsys):
    module = bench("training")
    monkeypatch.setattr(module, "SECONDS", 5)
    monkeypatch.setattr(module, "SIDES", {"small_cnn": (module.SIDES["small_cnn"][0], 1, 1)})
    monkeypatch.setattr(sys, "argv", ["training.py", "--device", "cpu"])
    module.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["visual", "teacher", "student", "student"]
    assert all(float(line.split()[-1]) > 0 for line in lines[-4:])


def test_the_bench_of_features_prints_a_line_for_every_stage(bench, capsys):
    bench("features").main(["--train", "2", "--dev", "1", "--frames", "400"])
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in lines] == ["visual", "teacher", "student"]
    assert all(float(line.split()[1]) > 0 and np.isfinite(float(line.split()[-1])) for line in lines)


def test_the_bench_of_frozen_backbones_prints_rates_and_ratios(bench, monkeypatch, capsys):
    module = bench("frozen")
    monkeypatch.setattr(module, "SECONDS", 1)
    monkeypatch.setattr(module, "SIZES", {"small": ("", 1)})
    module.main(["--backbones", "small_cnn"])
    *rates, ratio = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[3] for line in rates] == ["float32", "bfloat16"]
    assert all(float(line.split()[4]) > 0 for line in rates) and "every step" in ratio and " x; RECOLA's" in ratio


def test_the_predict_bench_prints_a_line_for_every_side(bench, monkeypatch, capsys):
    module = bench("predict")
    monkeypatch.setattr(module, "STUDENTS", {"small": module.DEMO, "large": {"visual_backbone": "small_cnn"}})
    monkeypatch.setattr(module, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(module, "drawn_clip", functools.partial(module.drawn_clip, seconds=1))
    module.main(["--seconds", "1", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()[3:]
    assert [line.split("  ")[0] for line in lines] == [
        module.DECODING, f"{module.DETECTOR}, 48 px", "small, float32", "small, with --overlay",
        f"{module.DETECTOR}, 112 px", "large, float32"]
    assert all(float(number) >= 0 for line in lines for number in line.split()[-4:])


def test_the_bench_of_folds_prints_a_line_for_every_side(bench, monkeypatch, capsys):
    module = bench("folds")
    monkeypatch.setattr(module, "SECONDS", 3)
    monkeypatch.setattr(module, "CFG", dataclasses.replace(module.CFG, epochs=1, teachers="visual", teacher_folds=2,
                                                           frame_rate=25.0, clip_length=10))
    threads = torch.get_num_threads()
    module.main(["--epoch-steps", "2"])
    torch.set_num_threads(threads)
    *_, heading, whole, one, side = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["seconds", "ratio"] and whole.split()[-3] == "1.00" == whole.split()[-1]
    assert "1 thread" in one and "side by side" in side
    assert all(float(word) > 0 for line in (one, side) for word in line.split()[-4:])
