"""bench/: the benches of speed and of memory, and the drills that stop scripts, run in small.

No figure is tested: only that there is one for every side, and that the machine is named.
"""
import contextlib
import math
import re
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import mmpkd
import plot_ccc
from support.errors import UserError
from support.machine import describe

BENCH = Path(mmpkd.__file__).parent / "bench"
CROPS = {"SECONDS": 1, "SHORT_S": 1, "SLOW": 2, "cores": lambda: 1}  # small sizes of crops.py, and one process more
pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated and slated:DeprecationWarning")  # librosa's imports
SOUND = {"ORIGINAL_SEGMENTS": 2, "LIBROSA_SEGMENTS": 2}  # of audio.py


def change(monkeypatch, module, **values):
    for name, value in values.items():
        monkeypatch.setattr(module, name, value)


def lines_of(capsys):
    """The lines that were printed, which name the machine."""
    out = capsys.readouterr().out
    assert describe() in out
    return [line for line in out.splitlines() if line.strip()]


def figures(text):
    """The words of a text that are numbers, 12 or 0.52 or 98.5%, all of them finite."""
    found = []
    for word in text.split():
        with contextlib.suppress(ValueError):
            found.append(float(word.rstrip("%")))
    assert all(map(math.isfinite, found)), text
    return found


def counts(lines, heading, names):
    """How many figures the lines after `heading` have, in which these names follow each other."""
    first = [line.strip().startswith(heading) for line in lines].index(True) + 1
    rows = lines[first:first + len(names)]
    assert [row.strip()[:len(name)] for row, name in zip(rows, names)] == [*names]
    return [len(figures(row.strip()[len(name):])) for row, name in zip(rows, names)]


def test_every_bench_says_the_machine_and_is_in_the_readme():
    benches = [path for path in BENCH.glob("*.py") if "def main(" in path.read_text()]
    assert len(benches) >= 17
    assert not [path.name for path in benches if "describe(" not in path.read_text()]
    assert not {f"`{path.name}`" for path in benches} - {*re.findall(r"`\w+\.py`", (BENCH / "README.md").read_text())}


# ---- speed ----------------------------------------------------------------------------------------------------------

def test_the_bench_of_crops_prints_a_line_for_every_side(bench, monkeypatch, capsys):
    bench("crops")
    crops = import_module("crops")  # by the name by which its other process finds it
    change(monkeypatch, crops, **CROPS)
    crops.main(["--people", "1"])
    lines = lines_of(capsys)
    assert counts(lines, "frames/s", crops.SIDES) == [1, 2, 2, 2, 2]
    assert counts(lines, "1 at once", crops.AT_ONCE) == [1, 2, 2]
    assert counts(lines, "beside all of MTCNN", ["drawn subject 1"]) == [6]


def test_the_bench_of_sound_prints_a_line_for_every_reference(bench, monkeypatch, capsys):
    audio = bench("audio")
    change(monkeypatch, audio, **SOUND)
    audio.main(["--people", "1", "--minutes", "0.05", "--rounds", "1", "--workers", "1"])
    assert counts(lines_of(capsys), "step", [
        "audio_extract 44.1 kHz", "files alone", "audio_extract 16 kHz", "files alone",
        "audio_melspec", "librosa per segment", "files alone", "audio_melspec array"]) == [3, 2, 3, 2, 3, 2, 2, 3]


def test_recola_and_affwild2_are_extrapolated_from_every_rate(bench, raw_corpus, monkeypatch, capsys):
    recola = bench("recola")
    change(monkeypatch, recola, SECONDS=1)
    change(monkeypatch, import_module("crops"), **CROPS)
    change(monkeypatch, recola.audio, **SOUND, measure=partial(
        recola.audio.measure, people=1, minutes=0.05, rounds=1, workers=1))
    recola.main([str(raw_corpus / "videos" / "train_1.mp4"), "--corpus", "affwild2"])
    lines = lines_of(capsys)
    assert lines[0].startswith("affwild2: 2800000 frames")
    assert counts(lines, "frames/s", ["face_detector.py", "audio_extract.py", "audio_melspec.py", "together"]) == [
        5, 5, 5, 3]


def test_the_bench_of_drawing_prints_a_line_for_every_side(bench, monkeypatch, capsys):
    drawing = bench("drawing")
    change(monkeypatch, drawing, SECONDS=1)
    drawing.main(["--rounds", "1"])
    assert counts(lines_of(capsys), "1 s of one subject", [
        "what it feels", "painting at 5 frames/s, all in one go", "painting at 5 frames/s, frame by frame",
        "all, with files, at 5 frames/s", "all, with files, at 25 frames/s", "the demo's steps"]) == [1, 3, 2, 3, 2, 2]


# ---- drills and memory ----------------------------------------------------------------------------------------------

def test_the_drill_of_preprocessing_makes_the_same_bytes_in_every_way(bench, monkeypatch, capsys):
    preprocessing = bench("preprocessing")
    change(monkeypatch, preprocessing, FRAMES=50, STEPS={"audio_extract.py": "audio_segments"})  # it starts fastest
    preprocessing.main(["--kills", "1"])
    lines = lines_of(capsys)
    assert counts(lines, "audio_extract.py", ["2 workers", "3 shards", "killed 1 times"]) == [1, 1, 1]
    assert all(line.endswith(" files, all the same bytes") for line in lines[-3:])


def test_the_drill_of_preprocessing_finds_a_file_that_differs(bench):
    verdict = bench("preprocessing").verdict
    assert "2 FILES DIFFER, b first" in verdict({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4})


def test_the_kill_drill_ends_in_the_same_bits(bench, monkeypatch, capsys):
    drill = bench("kill_resume")
    change(monkeypatch, drill, SECONDS=2)
    assert drill.main(["--kills", "1", "--epochs", "1"]) == 0
    undisturbed, killed, same = lines_of(capsys)[1:]
    assert len(figures(undisturbed)) == 3 and killed.startswith("killed ") and "the same bits" in same


needs_smaps = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory.py reads Linux's files")


@pytest.fixture
def memory(bench, monkeypatch):
    """memory.py with two quick steps; whatever they take counts as flat."""
    module = bench("memory")
    steps = {name: module.STEPS[name] for name in ("annotations.py", "audio_extract.py")}
    change(monkeypatch, module, STEPS=steps, SECONDS=2, MANY_S=1, SLACK_MB=1e6)
    return module


@needs_smaps
@pytest.mark.parametrize("words", [["--minutes", "2"], ["--recordings", "8"]])
def test_the_bench_of_memory_prints_a_line_for_every_step(memory, tmp_path, capsys, words):
    memory.main([*words, "--work-dir", str(tmp_path)])
    assert counts(lines_of(capsys), "seconds", memory.STEPS) == [8, 8]


def test_the_curves_of_memory_are_drawn(bench, tmp_path):
    curve = np.arange(12.0).reshape(4, 3)
    bench("memory").plot({"mmpkd.py": [curve, curve]}, ["one", "other"], tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 1000


# ---- the demo with ten seeds ----------------------------------------------------------------------------------------

def test_the_table_of_the_demos_has_a_line_for_every_finished_seed(bench, trained, tmp_path, no_figures, capsys):
    plot_ccc.main(["--data-dir", str(trained)])
    trained.rename(tmp_path / "seed_3")
    module = bench("demo_seeds")
    module.main(["--data-dir", str(tmp_path), "--seeds", "3"])  # it is finished: nothing is run
    lines = lines_of(capsys)
    assert counts(lines, "seed", ["3", "mean"]) == [10, 10] and sum("1 seeds" in line for line in lines) == 2
    with pytest.raises(UserError, match="none of these seeds is finished"):
        module.main(["--data-dir", str(tmp_path), "--seeds", "4", "--report"])


def test_a_demo_that_fails_is_named_with_its_log(bench, tmp_path):
    module = bench("demo_seeds")
    with pytest.raises(UserError, match="seed -1 ended with exit code [12]: .*seed_-1.log says why"):
        module.run_demo(-1, tmp_path)
    assert "--seed" in (tmp_path / "seed_-1.log").read_text()
