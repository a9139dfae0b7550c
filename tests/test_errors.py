"""How a script ends: one line and an exit code for errors that the user can fix."""
import errno
import os
from concurrent.futures.process import BrokenProcessPool

import pytest
from conftest import one_line

from support.errors import SettingsError, UserError, run_script, torch_device
from support.files import whole_file, whole_folder


def end_of(error, capsys):
    """(exit code, stderr) of a script that raises `error`."""
    def main(argv):
        raise error
    return run_script(main, "/somewhere/step.py"), capsys.readouterr().err


def test_an_error_of_the_user_is_one_line_with_the_scripts_name(capsys):
    assert end_of(UserError("no crops"), capsys) == (1, "step.py: error: no crops\n")
    assert end_of(SettingsError("epochs: 0"), capsys) == (2, "step.py: error: epochs: 0\n")
    assert "two lines" in one_line(*end_of(UserError("two\nlines"), capsys))


def test_ctrl_c_is_one_line_that_says_how_to_resume_and_exit_code_130(capsys):
    assert "resume" in one_line(*end_of(KeyboardInterrupt(), capsys), 130)


def test_a_worker_that_was_killed_is_one_line(capsys):
    assert "--workers" in one_line(*end_of(BrokenProcessPool("a process was terminated abruptly"), capsys))


def test_a_missing_permission_names_the_file(capsys):
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "Annotations/x.csv")
    assert "Annotations/x.csv" in one_line(*end_of(error, capsys))


def test_too_many_open_files_name_the_last_one_and_say_what_to_do(capsys):
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE), "specs/a.npy")
    assert "specs/a.npy (too many files are open at once: raise the limit" in one_line(*end_of(error, capsys))


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"),
    RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("can't start new thread")], ids=str)
def test_too_little_memory_is_one_line(error, capsys):
    assert "too little memory: run the same command again with fewer" in one_line(*end_of(error, capsys))


def test_a_bug_is_not_hidden():
    with pytest.raises(RuntimeError):
        run_script(lambda argv: exec("raise RuntimeError('shapes differ')"), "step.py")
    with pytest.raises(ZeroDivisionError):
        run_script(lambda argv: 1 / 0, "step.py")


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_a_full_disk_is_one_line_that_names_the_file(writer, tmp_path, capsys):
    def main(argv):
        with writer(tmp_path / "result.csv"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # of a write: it does not know its file
    code = run_script(main, "step.py")
    assert str(tmp_path / "result.csv") in one_line(code, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_available_is_a_bad_setting():
    with pytest.raises(SettingsError, match="device"):
        torch_device("quantum")
    assert torch_device("cpu").type == "cpu"
