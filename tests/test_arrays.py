"""Arrays on disk that are read in place."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import config
from support.arrays import mapped

MANY = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from support.arrays import mapped
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
arrays = [mapped(path)[0] for path in sorted(Path(sys.argv[1]).glob("*.npy"))]
print(len(arrays), all((array == k).all() for k, array in enumerate(arrays)))
"""


def test_more_arrays_can_be_read_than_files_may_be_open(tmp_path):
    for k in range(100):
        np.save(tmp_path / f"{k:03d}.npy", np.full((10, 3, 4, 4), k, np.uint8))
    env = os.environ | {"PYTHONPATH": str(Path(config.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", MANY, tmp_path], env=env, capture_output=True, text=True)
    assert done.stdout == "100 True\n", done.stderr


@pytest.mark.parametrize("array", [np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.linspace(0, 1, 7),
                                   np.zeros((0, 3), np.float32), np.array([True, False]), np.array(3.0)])
def test_an_array_is_read_as_numpy_reads_it_and_cannot_be_changed(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    read, _ = mapped(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, np.load(tmp_path / "a.npy"), strict=True)
    assert not read.flags.writeable


def test_where_no_private_map_is_granted_numpy_reads_it(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("unable to mmap 1000000000 bytes from file: Cannot allocate memory (12)")
    monkeypatch.setattr("torch.from_file", refuse)
    np.save(tmp_path / "a.npy", np.arange(9))
    np.testing.assert_array_equal(mapped(tmp_path / "a.npy")[0], np.arange(9))


@pytest.mark.parametrize("damage", [
    lambda whole: b"", lambda whole: whole[:7], lambda whole: whole[:50], lambda whole: whole[:-1],
    lambda whole: whole.replace(b"NUMPY", b"HELLO"), lambda whole: whole.replace(b"NUMPY\x01", b"NUMPY\x09"),
    lambda whole: whole.replace(b"'<i8'", b"'|O8'"), lambda whole: whole.replace(b"(9,)", b"(-9,)")[:-1],
    lambda whole: whole.replace(b"False", b"True ")])
def test_what_is_no_whole_array_is_a_value_error(damage, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(9))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError):
        mapped(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no FIFOs")
def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    for path in (tmp_path / "a.npy", tmp_path / "b.npy", tmp_path):
        with pytest.raises(FileNotFoundError):
            mapped(path)
