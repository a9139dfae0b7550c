"""Files and folders that are written whole or not at all, and folders that one process holds against others."""
import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from support.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None


@contextlib.contextmanager
def whole_file(path):
    """Path of a temporary file that becomes `path` when the block ends well, and vanishes when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        _name_file(error, path)
        raise


@contextlib.contextmanager
def whole_folder(path):
    """Path of a temporary folder that becomes `path` when the block ends well, and vanishes when it does not."""
    part = Path(path).with_name(f".{Path(path).name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(path)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        _name_file(error, path)
        raise


def write_bytes(path, *parts):
    """Writes a file, for scripts that write one for every frame: Path.write_bytes with half its overhead.

    path: a str; parts: bytes or contiguous arrays, one after the other.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        done = os.writev(file, parts) if hasattr(os, "writev") else 0
        while done < sum(memoryview(part).nbytes for part in parts):  # a disk that is nearly full takes the beginning
            done += os.write(file, b"".join(parts)[done:])  # and says so of the rest
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(file)


@contextlib.contextmanager
def growing_folder(path, made_of, only=None):
    """Path of a hidden folder that becomes `path` when the block ends well; stopped half-way it stays and the next run goes on in it.

    made_of: what the work is made of and with, as plain values: the half of something else is thrown away. only: name of
    the one file in it that becomes `path` instead, a file that grows. Raises UserError if another process is at work on
    it; one in the block throws its half away.
    """
    path = Path(path)
    part, stamp = path.with_name(f".{path.name}.part"), json.dumps(made_of, sort_keys=True, default=str)
    part.mkdir(parents=True, exist_ok=True)
    claim = _claim(part, path)
    try:
        if path.exists():  # by another process, since the caller looked
            raise UserError(f"{path} has just been made by another process: run the same again")
        note = part / ".made_of.json"
        if not note.exists() or note.read_text() != stamp:
            for old in part.iterdir():
                old.unlink()
            with whole_file(note) as file:
                file.write_text(stamp)
        yield part
        for hidden in part.glob(".*"):  # the note, and what is left of files that a killed run was writing
            hidden.unlink()
        (part / (only or "")).rename(path)
        if only:
            part.rmdir()
    except BaseException as error:
        if isinstance(error, UserError):
            shutil.rmtree(part, ignore_errors=True)
        _name_file(error, path)
        raise
    finally:
        os.close(claim) if claim else None


@contextlib.contextmanager
def claimed(folder, doing, wait=False):
    """Holds `folder` against other processes until the block ends. Where one holds it: waits for it, or raises UserError
    ("<folder> is being <doing> ...")."""
    claim = _claim(Path(folder), folder, doing, wait)
    try:
        yield
    finally:
        os.close(claim) if claim else None


def is_claimed(folder):
    """Whether a process holds the folder."""
    try:
        claim = _claim(Path(folder), folder, shared=True)
    except UserError:
        return Path(folder).exists()
    os.close(claim) if claim else None
    return False


def _claim(part, path, doing="made", wait=False, shared=False):
    """Holds the folder `part` against other processes: a descriptor to close, which the kernel does if we are killed. shared: only
    against those that want it for themselves, so that many can ask at once."""
    if not fcntl:
        return None
    try:
        claim = os.open(part, os.O_RDONLY)
    except FileNotFoundError:  # it was renamed since it was made
        raise UserError(f"{path} has just been made by another process: run the same again") from None
    try:
        fcntl.flock(claim, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(claim)
        raise UserError(f"{path} is being {doing} by another process: wait for it, or stop it") from None
    except OSError:
        pass  # a file system without locks
    return claim


def _name_file(error, path):
    """Notes `path` in an OSError that names no file: writing to a full disk says only that it is full."""
    if isinstance(error, OSError) and error.filename is None:
        with contextlib.suppress(AttributeError):  # PyAV's cannot be told
            error.filename = str(path)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
