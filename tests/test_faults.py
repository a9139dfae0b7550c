"""bench/faults.py in small: nothing goes wrong with the quickest scripts, and what would go wrong is noticed."""
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def bench(monkeypatch):
    """The modules of the drill."""
    monkeypatch.syspath_prepend(BENCH)
    import fault_judge
    import fault_kinds
    import fault_runs
    return SimpleNamespace(judge=fault_judge, kinds=fault_kinds, runs=fault_runs)


def drill(*words):
    command = [sys.executable, str(BENCH / "faults.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_forty_faults_lose_nothing_hang_nothing_and_are_named():
    ended = drill("--faults", 40, "--workers", 1, "--cases", "annotations", "audio_extract-video", "melspec-video")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ("40 faults, 0 losses, 0 tracebacks, 0 hangs, 0 silent uses, 0 errors that do not name it, 0 next runs that "
            "differ") in ended.stdout


# ---- what the drill notices -----------------------------------------------------------------------------------------

WANTED = {"Annotations/Train_Set/a.csv": "1", "specs/a/000000.png": "2", "runs/r/last.pt": "3"}


def judged(bench, ended, after, path="specs/a/000000.png", kind="flip"):
    known = bench.judge.Known({}, WANTED, ({"a: 1 spectrograms"}, set()), (0, 0, 0), 1.0, [])
    fault = SimpleNamespace(kind=kind, path=path, spoken=True)
    return [*bench.judge.judge_damage(known, fault, WANTED, bench.runs.Ended(*ended, 1.0, False), WANTED | after)]


@pytest.mark.parametrize("printed, code, changed, expected", [
    ("a: 1 spectrograms", 0, False, []),  # it was not used
    ("a: 1 spectrograms", 0, True, ["silent"]),
    ("b: 7 spectrograms", 0, True, ["silent"]),  # another one is named
    ("data/specs/a/000000.png is damaged", 0, True, []),
    ("x.py: error: data/specs/a/000000.png is damaged", 1, False, []),
    ("x.py: error: something is damaged", 1, False, ["nameless"]),
    ("x.py: error: data/specs/b/ is damaged", 1, False, ["nameless"]),
    ("x.py: error: data/specs/a/ is damaged", 1, True, ["lost"]),
    ("Traceback (most recent call last):\n...", 1, False, ["traceback"]),
    ("", -11, False, ["traceback"]),
])
def test_an_end_that_is_not_as_it_should_be_is_noticed(bench, printed, code, changed, expected):
    after = {"Annotations/Train_Set/a.csv": "other"} if changed else {}
    assert judged(bench, (code, printed), after) == expected


def test_a_file_that_is_neither_what_it_was_nor_what_it_should_be_is_lost(bench):
    before, wanted = {"a": "1", "b": "2", "r/last.pt": "3"}, {"a": "1", "b": "4", "c": "5", "r/last.pt": "6"}
    assert bench.judge.losses(before, before, wanted) == bench.judge.losses(before, wanted, wanted) == []
    assert bench.judge.losses(before, {"b": "3", "c": "half", "r/last.pt": "7"}, wanted) == ["a", "b", "c"]


@pytest.mark.parametrize("number", [0, 500, 999])
def test_every_damage_changes_the_file_and_nothing_beside_it(bench, tmp_path, number):
    for name, damage in bench.kinds.DAMAGES.items():
        folder = tmp_path / name / "x"
        folder.mkdir(parents=True)
        path, other = folder / "a.csv", folder / "b.csv"
        path.write_text("1\n2\n3\n4\n")
        other.write_text("5\n6\n")
        before = path.stat()
        damage(path, number)
        assert other.read_text() == "5\n6\n" and [*folder.iterdir()] in ([path, other], [other, path], [other])
        changed = not path.is_file() or path.read_bytes() != b"1\n2\n3\n4\n"
        assert changed != (name == "future")
        if name in ("flip", "exchange"):
            assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_events_are_counted_in_the_folder_of_the_corpus_alone(tmp_path):
    code = ("import fault_kinds, os; os.mkdir('data'); n = fault_kinds.watch(lambda n, path: None); "
            "w = fault_kinds.watch(lambda n, path: None, True); open('data/a', 'w').close(); open('data/a').close(); "
            "open('b', 'w').close(); os.rename('data/a', 'data/c'); print(n[0], w[0])")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                           env=os.environ | {"PYTHONPATH": str(BENCH)})
    assert ended.stdout == "3 2\n", ended.stderr
