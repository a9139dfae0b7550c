"""How many cores a process may use, and how they are called."""
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import config
from support import machine


def granted(folder, own, files, monkeypatch):
    """cores() with 8 cores and these control groups: the lines of /proc/self/cgroup, {file: text}."""
    (folder / "own").write_text(own)
    for name, text in files.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(text)
    monkeypatch.setattr(machine, "CGROUPS", (folder / "own", folder / "groups"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return machine.cores()


@pytest.mark.parametrize("own, files, cores", [
    ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # a container, version 2
    ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
    ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
    ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
    ("0::/\n", {}, 8),  # a host
    ("0::/job/step\n", {"job/cpu.max": "300000 100000\n", "job/step/cpu.max": "max 100000\n"}, 3),  # of the outer group
    ("0::/docker/1a2b\n", {"cpu.max": "200000 100000\n"}, 2),  # a container that sees the path of its host
    ("4:memory:/\n1:cpu,cpuacct:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ("1:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ("0::/../..\n", {"cpu.max": "200000 100000\n"}, 2),
    ("nonsense", {}, 8), ("0::/\n", {"cpu.max": "nonsense"}, 8), ("0::/\n", {"cpu.max": "0 0"}, 8),
])
def test_cores_are_those_that_a_container_is_granted(own, files, cores, tmp_path, monkeypatch):
    assert granted(tmp_path, own, files, monkeypatch) == cores


def test_without_control_groups_all_cores_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUPS", (tmp_path / "none", tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert machine.cores() == 2


THREADS = """
import sys
from pathlib import Path
from support import machine
machine.CGROUPS = Path(sys.argv[1], "own"), Path(sys.argv[1], "groups")
import torch
torch.set_num_threads(4)
from support.errors import torch_device
torch_device("cpu")
print(torch.get_num_threads())
"""
PROJECT = Path(config.__file__).parent


def test_torch_uses_no_more_threads_than_cores_are_granted(tmp_path):
    (tmp_path / "groups").mkdir()
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "groups" / "cpu.max").write_text("90000 100000\n")
    done = subprocess.run([sys.executable, "-c", THREADS, tmp_path], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


def test_without_libgl_every_script_says_in_one_line_what_to_install(tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    code = "import sys; sys.argv = ['face_detector.py']; import support.opencv"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(PROJECT)])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("face_detector.py: error: OpenCV cannot be loaded (libGL.so.1")
    assert "libgl1" in done.stderr and "headless" in done.stderr
    files = [path for path in PROJECT.rglob("*.py") if not {"tests", "bench"} & {*path.relative_to(PROJECT).parts}
             and path.name != "opencv.py" and not any(part.startswith(".") for part in path.relative_to(PROJECT).parts)]
    assert len(files) > 50 and not [path for path in files if re.search("^ *(import|from) cv2", path.read_text(), re.M)]


def test_a_machine_is_described_by_cores_processor_and_versions(monkeypatch):
    monkeypatch.setattr(machine, "processor", lambda: "Some CPU")
    for count, words in ((1, "1 core"), (2, "2 cores")):
        monkeypatch.setattr(machine, "cores", lambda count=count: count)
        assert machine.describe() == f"{words} (Some CPU)"
    assert machine.describe("numpy") == f"2 cores (Some CPU), numpy {np.__version__}"


def test_the_processor_has_its_model_name_in_one_cell_of_a_table(tmp_path, monkeypatch):
    about = tmp_path / "cpuinfo"
    about.write_text("processor\t: 0\nmodel name\t: Some CPU,  8 cores\nmodel name\t: another\n")
    monkeypatch.setattr(machine, "ABOUT", about)
    assert machine.processor() == "Some CPU 8 cores"
    about.unlink()  # not Linux
    assert machine.processor() and "," not in machine.processor()
