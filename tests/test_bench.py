"""bench/: the benches run. Their figures are not tested."""
import dataclasses
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch

import mmpkd
from config import Config
from demo import FACES, NETWORKS, SPECS
from drawn.people import World

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


def test_the_training_bench_prints_a_line_for_every_pair(bench, monkeypatch, capsys):
    module = bench("training")
    monkeypatch.setattr(module, "SECONDS", 5)
    monkeypatch.setattr(module, "SIDES", {"small_cnn": (module.SIDES["small_cnn"][0], 1, 1)})
    monkeypatch.setattr(sys, "argv", ["training.py", "--device", "cpu"])
    module.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["visual", "teacher", "student", "student"]
    assert all(float(line.split()[-1]) > 0 for line in lines[-4:])


def test_the_predict_bench_prints_a_line_for_every_side(bench, monkeypatch, capsys):
    module = bench("predict")
    monkeypatch.setattr(module, "STUDENTS", {"small": module.DEMO, "large": {"visual_backbone": "small_cnn"}})
    monkeypatch.setattr(module, "has_bfloat16", lambda: False)
    module.main(["--seconds", "3", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()[3:]
    assert [line.split("  ")[0] for line in lines] == [
        module.DECODING, f"{module.DETECTOR}, 48 px", "small, float32", "small, with --overlay",
        f"{module.DETECTOR}, 112 px", "large, float32"]
    assert all(float(number) >= 0 for line in lines for number in line.split()[-4:])
