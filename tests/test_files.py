"""Files and folders that are written whole or not at all, and folders that one process holds against others."""
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import one_line

import config
from support import files
from support.errors import UserError, run_script
from support.files import (
    alone_at,
    changed_folder,
    claimed,
    claimed_part,
    named,
    whole_again,
    whole_file,
    whole_folder,
    write_bytes,
)

ROOT = Path(config.__file__).parent


def full():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # of a write: it does not know its file


def test_a_file_too_large_for_the_disk_leaves_the_old_one(tmp_path, capsys):
    resource = pytest.importorskip("resource")
    path, (soft, hard) = tmp_path / "result.txt", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text("old")

    def main(argv):
        with whole_file(path) as part:
            part.write_text("x" * 100_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the kernel refuses, as it does when a disk is full
    try:
        code = run_script(main, "step.py")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in one_line(code, capsys.readouterr().err)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


# ---- whole files ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()])
def test_a_file_that_was_not_finished_is_not_there(error, tmp_path):
    with pytest.raises(type(error)), whole_file(tmp_path / "new" / "a.txt") as part:
        part.write_text("half")
        raise error
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()])
def test_a_folder_that_was_not_finished_is_not_there(error, tmp_path):
    with pytest.raises(type(error)), whole_folder(tmp_path / "a") as part:
        (part / "0.txt").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_whole_files_can_be_read_by_others_as_the_umask_says(tmp_path):
    mask = os.umask(0o022)
    try:
        with whole_file(tmp_path / "a.txt") as part:
            part.write_text("new")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


KILLED = """
import os, pathlib, signal, sys
from support.files import whole_file, whole_folder
folder = pathlib.Path(sys.argv[1])
with whole_folder(folder / "crops") as part, whole_file(folder / "a.txt") as text:
    (part / "train").mkdir()
    (part / "train" / "0.txt").write_text("half")
    text.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_nothing_that_looks_done_and_the_next_begins_again(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["a.txt"]
    with whole_folder(tmp_path / "crops") as part:
        assert list(part.iterdir()) == []  # nothing of the killed run gets in
    assert not (tmp_path / ".crops.part").exists()


# ---- folders that are exchanged -------------------------------------------------------------------------------------

KILLED_BETWEEN = """import os, signal, sys
from pathlib import Path
from support.files import changed_folder
rename, calls = Path.rename, []
def counted(*words):
    calls.append(words)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(*words)
Path.rename = counted
with changed_folder(sys.argv[1]) as part:
    (part / "a.txt").unlink()
    (part / "a.txt").write_text("new")
"""


def test_a_changed_folder_takes_the_place_of_the_old_one_which_is_not_written_into(tmp_path):
    folder = tmp_path / "crops"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text("old")
    with changed_folder(folder) as part:
        (part / "a.txt").unlink()
        (part / "a.txt").write_text("new")
        assert (folder / "a.txt").read_text() == "old"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a.txt": "new", "b.txt": "old"}
    with pytest.raises(OSError, match="full"), changed_folder(folder) as part:
        (part / "a.txt").unlink()
        raise OSError(28, "full")
    assert (folder / "a.txt").read_text() == "new" and [*tmp_path.iterdir()] == [folder]


@pytest.mark.parametrize("rename", [1, 2])
def test_a_kill_during_the_exchange_loses_nothing(rename, tmp_path):
    folder = tmp_path / "crops"
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(folder), str(rename)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL and folder.exists() == (rename == 1)
    whole_again(folder)
    assert (folder / "a.txt").read_text() == "old"
    with changed_folder(folder) as part:
        (part / "b.txt").write_text("new")
    assert {path.name for path in folder.iterdir()} == {"a.txt", "b.txt"} and [*tmp_path.iterdir()] == [folder]


# ---- folders that one process holds against others ------------------------------------------------------------------

@pytest.mark.parametrize("other", [whole_folder, claimed_part])
def test_what_another_process_is_making_is_left_alone(other, tmp_path):
    pytest.importorskip("fcntl")
    with whole_folder(tmp_path / "crops") as part:
        (part / "0.txt").write_text("half")
        with pytest.raises(UserError, match="crops is being made by another process: wait for it, or stop it"):
            with other(tmp_path / "crops"):
                pytest.fail("two at once")
        assert (part / "0.txt").read_text() == "half"
    assert (tmp_path / "crops" / "0.txt").read_text() == "half" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_made_by_another_process_meanwhile_is_kept(tmp_path):
    (tmp_path / "crops").mkdir()
    with pytest.raises(UserError, match="another process"), whole_folder(tmp_path / "crops"):
        pytest.fail("made twice")
    assert [path.name for path in tmp_path.iterdir()] == ["crops"]


def test_a_folder_that_another_process_replaces_before_it_is_held_is_left_alone(tmp_path, monkeypatch):
    fcntl, part = pytest.importorskip("fcntl"), tmp_path / ".crops.part"

    def replaced_first(descriptor, operation):
        part.rename(tmp_path / "crops")
        part.mkdir()
        (part / "0.txt").write_text("of a third process")
    monkeypatch.setattr(fcntl, "flock", replaced_first)
    with pytest.raises(UserError, match="another process"), whole_folder(tmp_path / "crops"):
        pytest.fail("not held")
    assert (part / "0.txt").exists()


MAKER = """
import pathlib, sys
from support.errors import UserError
from support.files import whole_folder
try:
    with whole_folder(sys.argv[1]) as part:
        for number in range(300):
            (part / f"{number}.txt").write_text("whole")
except UserError as error:
    sys.exit(str(error))
"""


def test_of_several_processes_that_make_one_folder_one_does_and_the_others_say_so(tmp_path):
    pytest.importorskip("fcntl")
    command = [sys.executable, "-c", MAKER, str(tmp_path / "crops")]
    makers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [maker.communicate()[1] for maker in makers]
    assert sorted(maker.returncode for maker in makers) == [0, 1, 1, 1]
    assert all("another process" in error and "Traceback" not in error for error in errors if error)
    assert [path.name for path in tmp_path.iterdir()] == ["crops"] and len(list((tmp_path / "crops").iterdir())) == 300


def test_those_who_ask_whether_a_folder_is_claimed_are_not_taken_for_one_who_claims_it(tmp_path):
    pytest.importorskip("fcntl")
    with claimed(tmp_path, "used", shared=True):  # by another process that asks at this very moment
        assert not files.is_claimed(tmp_path)
    with claimed(tmp_path, "trained"):
        assert files.is_claimed(tmp_path)
    assert not files.is_claimed(tmp_path) and not files.is_claimed(tmp_path / "none")


def test_who_waits_for_a_claimed_folder_gets_it_when_it_is_free(tmp_path):
    pytest.importorskip("fcntl")
    order = []

    def wait_for_it():
        with claimed(tmp_path, "drawn", wait=True):
            order.append("second")

    other = threading.Thread(target=wait_for_it)
    with claimed(tmp_path, "drawn"):
        other.start()
        other.join(0.3)
        order.append("first")
    other.join(300)
    assert order == ["first", "second"]


def test_a_file_made_in_a_part_appears_when_it_is_renamed_and_its_part_vanishes(tmp_path):
    with claimed_part(tmp_path / "a.npy") as part:
        (part / "a.npy").write_text("whole")
        assert [path.name for path in tmp_path.iterdir()] == [".a.npy.part"]
        (part / "a.npy").rename(tmp_path / "a.npy")
    assert (tmp_path / "a.npy").read_text() == "whole" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_a_full_disk_names_what_was_being_made_and_leaves_nothing(writer, tmp_path):
    with pytest.raises(OSError) as error, writer(tmp_path / "result.csv"):
        raise full()
    assert error.value.filename == str(tmp_path / "result.csv") and list(tmp_path.iterdir()) == []


# ---- bytes ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("at_once", [1, 3, 7, 100])
def test_bytes_that_a_disk_takes_in_parts_are_written_whole(at_once, tmp_path, monkeypatch):
    write, numbers = os.write, np.arange(4, dtype="<i2")
    monkeypatch.setattr(os, "writev", lambda file, parts: write(file, b"".join(parts)[:at_once]))
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:at_once]))
    (tmp_path / "a").write_bytes(b"older and longer" * 3)
    write_bytes(str(tmp_path / "a"), b"01234", numbers, b"")
    assert (tmp_path / "a").read_bytes() == b"01234" + numbers.tobytes()
    monkeypatch.delattr(os, "writev")  # as on Windows
    write_bytes(str(tmp_path / "a"), b"", numbers)
    assert (tmp_path / "a").read_bytes() == numbers.tobytes()


def test_bytes_that_a_disk_has_no_room_for_name_their_file(tmp_path, monkeypatch):
    def write(file, data):
        raise full()
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "writev", lambda file, parts: 3)
    with pytest.raises(OSError, match="No space") as error:
        write_bytes(str(tmp_path / "b"), b"0123456789")
    assert error.value.filename == str(tmp_path / "b")


def test_one_process_alone_makes_a_file_and_others_are_told_without_waiting(tmp_path):
    path = tmp_path / "new" / "a.npy"
    with alone_at(path) as first, alone_at(path) as second, alone_at(tmp_path / "b.npy") as other:
        assert (first, second, other) == (True, False, True)
    with alone_at(path) as again:
        assert again
    with pytest.raises(UserError, match="mine"), alone_at(path):
        raise UserError("mine")
    assert [*path.parent.iterdir()] == []


# ---- which file it was ----------------------------------------------------------------------------------------------

def test_an_error_of_the_system_that_names_no_file_gets_the_name_of_the_one_at_work(tmp_path):
    with pytest.raises(OSError, match=f"{tmp_path}/a") as error, named(tmp_path / "a"):
        raise full()
    assert error.value.filename == str(tmp_path / "a") and error.value.errno == errno.ENOSPC
    with pytest.raises(PermissionError, match="other"), named(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", "other")
    with pytest.raises(OSError, match="^no file of gzip$"), named(tmp_path / "a"):
        raise OSError("no file of gzip")


def test_an_error_of_pyav_gets_the_name_too(tmp_path, capsys):
    def main(argv):
        with whole_file(tmp_path / "a.mp4"):
            raise av.error.OSError(errno.ENOSPC, "No space left on device")
    code = run_script(main, "step.py")
    assert f"No space left on device: {tmp_path / 'a.mp4'}" in one_line(code, capsys.readouterr().err)
