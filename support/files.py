"""Files and folders that are written whole or not at all, and folders that one process holds against others.

Before anything is read, `regular` looks at what is there: a pipe would be waited for. Before anything is made because
it is not there, `there` looks: a link to nothing is a fault, not a file that is missing.
"""
import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from support.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None


KINDS = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe (FIFO)", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device",
         stat.S_ISBLK: "a device"}


def regular(path):
    """`path`, for whoever opens it to read. Raises UserError if a folder, a pipe, a device, a socket or a link to
    nothing is there. If nothing is there at all, opening it will say so."""
    if not there(path):
        return path
    mode = os.stat(path).st_mode
    for is_kind, words in KINDS.items():
        if is_kind(mode):
            raise UserError(f"{path} is {words}, a file was expected: delete it, or put the file there again")
    return path


def there(path):
    """Whether there is something at `path`. Raises UserError if it, or a folder above it, is a link to nothing."""
    if os.path.exists(path):
        return True
    for one in (Path(path), *Path(path).parents):
        if os.path.islink(one) and not os.path.exists(one):
            raise UserError(f"{one} is a link to {os.readlink(one)}, which does not exist: delete the link, or put "
                            "there what it links to")
        if os.path.lexists(one):
            break
    return False


@contextlib.contextmanager
def named(path):
    """In this block, an OSError that names no file (of a full disk, a broken one) gets the name of this one."""
    try:
        yield path
    except OSError as error:
        if error.filename is not None or error.errno is None:  # or it is not the system's
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def whole_file(path):
    """Path of a temporary file that becomes `path` when the block ends well, and vanishes when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:40]}."  # not all of a long name: it may be as long as the file system allows
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
    os.close(handle)
    try:
        with named(path):
            yield Path(name)
            with contextlib.suppress(OSError):  # refused on CIFS, exFAT and others, which have rights of their own
                os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_folder(path):
    """Path of a temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    Raises UserError if another process is making `path`, or has made it meanwhile.
    """
    with claimed_part(path) as part:
        yield part
        part.rename(path)


@contextlib.contextmanager
def claimed_part(path):
    """Path of an empty temporary folder to make `path` in, held against other processes; deleted when the block ends.

    Raises UserError if another process is making `path`, or has made it meanwhile.
    """
    path = Path(path)
    part, _ = _beside(path)
    part.mkdir(parents=True, exist_ok=True)
    with claimed(part, "made", path):
        try:
            if there(path):  # it was not when the caller looked
                raise _made_meanwhile(path)
            _empty(part)
            with named(path):
                yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def changed_folder(path):
    """Path of a copy of a folder, to be changed, which takes its place when the block ends well, and vanishes when it
    does not. After a kill between the two renames of this exchange, whole_again() is needed.

    The copies are the same files under further names where the file system has that: replace them, don't write into
    them. Raises UserError if another process does the same.
    """
    path = Path(path)
    part, old = _beside(path)
    part.mkdir(exist_ok=True)
    with claimed(part, "made", path):
        try:
            _empty(part)
            shutil.copytree(path, part, copy_function=_link, dirs_exist_ok=True)
            with named(path):
                yield part
                path.rename(old)
                part.rename(path)
        finally:
            if old.exists() and not path.exists():  # between the renames
                old.rename(path)
            for left in (part, old):
                shutil.rmtree(left, ignore_errors=True)


def whole_again(path):
    """Puts a folder back that a killed changed_folder() has moved away, and removes what killed ones have left.

    Raises UserError if another process is making it.
    """
    part, old = _beside(Path(path))
    if old.exists() or part.exists():
        part.mkdir(exist_ok=True)
        with claimed(part, "made", path):
            if old.exists() and not Path(path).exists():
                old.rename(path)
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(part, ignore_errors=True)


def _beside(path):
    """Where a folder is made, and where it is put out of the way: hidden, beside it."""
    return path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")


def _empty(folder):
    for old in folder.iterdir():  # of a run that was killed
        shutil.rmtree(old) if old.is_dir() else old.unlink()


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # FAT, some network drives
        shutil.copy2(source, target)


def write_bytes(path, *parts):
    """Writes a file with half the overhead of Path.write_bytes, for scripts that write one for every frame.

    path: a str; parts: bytes or contiguous arrays, written one after the other. Raises OSError that names the file.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with named(path):
            done = os.writev(file, parts) if hasattr(os, "writev") else 0
            while done < sum(memoryview(part).nbytes for part in parts):  # a nearly full disk takes the beginning
                done += os.write(file, b"".join(parts)[done:])  # and raises an error on the rest
    finally:
        os.close(file)


@contextlib.contextmanager
def claimed(folder, doing, name=None, wait=False, shared=False):
    """Holds `folder` against other processes until the block ends; the kernel lets it go if this process is killed.

    If another process holds it: waits for it, or raises UserError ("<name> is being <doing> by another process ...").
    name: what to call the folder there; shared: only against those that do not share it, so that many can ask at once.
    """
    claim = _claim(Path(folder), name or folder, doing, wait, shared)
    try:
        yield
    finally:
        if claim is not None:
            os.close(claim)


@contextlib.contextmanager
def alone_at(path):
    """Whether no other process is making the file `path`: if so, none begins it in this way until the block ends."""
    part, _ = _beside(Path(path))
    part.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(claimed(part, "made", path))
            stack.callback(shutil.rmtree, part, ignore_errors=True)  # while it is held
            alone = True
        except UserError:
            alone = False
        yield alone


def is_claimed(folder):
    """Whether a process holds the folder."""
    try:
        with claimed(folder, "used", shared=True):
            return False
    except UserError:
        return Path(folder).exists()


def _claim(folder, name, doing, wait, shared):
    """Descriptor of a folder that is now held against other processes, None on Windows. Raises as claimed does."""
    if not fcntl:
        return None
    try:
        claim = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        raise _made_meanwhile(name) from None
    try:
        fcntl.flock(claim, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(claim)
        raise UserError(f"{name} is being {doing} by another process: wait for it, or stop it") from None
    except OSError:
        pass  # a file system without locks
    if not _is_at(claim, folder):  # another process renamed or deleted it before we held it
        os.close(claim)
        if wait and os.path.exists(folder):  # it exchanged it
            return _claim(folder, name, doing, wait, shared)
        raise _made_meanwhile(name)
    return claim


def _is_at(descriptor, path):
    """Whether the open file or folder is the one that is now at `path`."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _made_meanwhile(path):
    return UserError(f"another process was making {path} until now: run the same command again")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
