"""The faults of bench/faults.py: what happens to a file, and what happens to a script while it works.

A number from 0 to 999 says where in the file, or when, so that a fault can be repeated. Moments are counted in events,
not in seconds: Python tells an audit hook of every file that it opens, renames, makes or removes.
"""
import contextlib
import errno
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

DATA = "data"  # the folder of the corpus, in the working folder of every script
COUNTS = "counts"  # file beside it: events, writes and bytes of a script that was left alone
ONCE = "one_worker"  # file beside it, which the worker that dies makes first: the others live
WHERE = "MMPKD_WORKER_ENDS_AT"  # environment variable: the event at which a worker process ends


# ---- what happens to a file before a script starts ------------------------------------------------------------------

def cut(path, number):
    content = path.read_bytes()
    path.write_bytes(content[:max(1, len(content) * number // 1000)][:-1 if number > 998 else None])


def at_line(path, number):
    """Cut at the end of a line: the first one, or more, are left, and at least one is lost."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:max(1, (len(lines) - 1) * number // 1000)]))


def empty(path, number):
    path.write_bytes(b"")


def flip(path, number):
    """One bit, as on a failing disk, where the time of the file stays the same."""
    with _times_kept(path):
        content = bytearray(path.read_bytes())
        content[len(content) * number // 1000] ^= 1 << number % 8
        path.write_bytes(content)


def noise(path, number):
    path.write_bytes(random.Random(number).randbytes(path.stat().st_size))


def exchange(path, number):
    """The content of another file of its kind; the time of the file stays the same."""
    others = [other for other in sorted(path.parent.parent.rglob(f"*{path.suffix}"))
              if other.is_file() and other.read_bytes() != path.read_bytes()]
    if others:
        with _times_kept(path):
            path.write_bytes(others[len(others) * number // 1000].read_bytes())


def remove(path, number):
    path.unlink()


def folder(path, number):
    path.unlink()
    path.mkdir()


def fifo(path, number):
    path.unlink()
    os.mkfifo(path)


def dangling(path, number):
    path.unlink()
    path.symlink_to("nowhere")


def future(path, number):
    """Written tomorrow, says the clock of another machine."""
    os.utime(path, (time.time() + 86400,) * 2)


@contextlib.contextmanager
def _times_kept(path):
    before = path.stat()
    yield
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGES = {"cut": cut, "at_line": at_line, "empty": empty, "flip": flip, "noise": noise, "exchange": exchange,
           "remove": remove, "folder": folder, "fifo": fifo, "dangling": dangling, "future": future}
TEXT_ONLY = {"at_line"}


# ---- what happens to a script while it works ------------------------------------------------------------------------

KILLS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}  # at an event
LATER = {"kill_later": signal.SIGKILL, "term_later": signal.SIGTERM}  # after a time
ERRORS = {"refused": errno.EACCES, "read_only": errno.EROFS}  # of every write from one on; read_only: from the first
SAVED = "saved"  # SIGTERM when a training is saved: no fault of its own
MOMENTS = [*KILLS, *LATER, *ERRORS, "full", "memory", "two", "worker"]


def watch(act, writes_only=False):
    """Calls act(n, path) before the n-th event (from 1 on) on a file of the corpus; it may raise or kill."""
    count = [0]

    def hook(event, args):
        path = _changed(event, args) if event != "open" or not _opened_to_read(args) or not writes_only else None
        if path is not None and _inside(path):
            count[0] += 1
            act(count[0], path)
    sys.addaudithook(hook)
    return count


def _opened_to_read(args):
    return not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


def _changed(event, args):
    if event in ("open", "os.mkdir", "os.remove", "os.rmdir"):
        return args[0]
    return args[1] if event == "os.rename" else None


def _inside(path):
    if isinstance(path, int):
        return False
    path = os.fsdecode(path)
    return path.startswith(DATA + "/") or path.startswith(os.path.join(os.getcwd(), DATA) + "/")


def count_events():
    """Counts what a script does, for `save_counts` when it has ended."""
    return watch(lambda n, path: None), watch(lambda n, path: None, True), _memory("VmSize")


def save_counts(counted):
    everything, writes, before = counted
    Path(COUNTS).write_text(f"{everything[0]} {writes[0]} {_memory('VmPeak') - before}")


def disturb(kind, number, counts):
    """In the process of a script, before it starts. counts: (events, writes, bytes) of the same, left alone."""
    events, writes, memory = counts
    at = 1 + events * number // 1000
    if kind in KILLS:
        watch(lambda n, path: os.kill(os.getpid(), KILLS[kind]) if n == at else None)
    elif kind == SAVED:
        watch(_end_when_saved, True)
    elif kind in ERRORS:
        first = 1 if kind == "read_only" else 1 + writes * number // 1000
        watch(lambda n, path: _refuse(ERRORS[kind], path) if n >= first else None, True)
    elif kind == "full":  # where no file system of that size can be mounted: no file becomes larger
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 + 30 * number, resource.RLIM_INFINITY))
    elif kind == "memory":
        limit = _memory("VmSize") + int(memory * (number / 1000) ** 3)  # most of it is reserved and not needed
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    elif kind == "worker":
        Path("sitecustomize.py").write_text("import fault_kinds; fault_kinds.end_worker()\n")
        os.environ |= {WHERE: str(1 + events * number // 2000), "PYTHONPATH": f"{Path(__file__).parent}:{os.getcwd()}"}


def _end_when_saved(n, path):
    if os.fsdecode(path).endswith("/last.pt"):
        os.kill(os.getpid(), signal.SIGTERM)


def _refuse(number, path):
    raise OSError(number, os.strerror(number), os.fsdecode(path))


def _memory(name):
    """Bytes of this process' VmSize or VmPeak."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def end_worker():
    """In a worker process of a script: ends it at an event, unless another one has ended."""
    def act(n, path):
        if n == int(os.environ[WHERE]):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(ONCE, os.O_CREAT | os.O_EXCL))
                os._exit(1)
    if any("spawn_main" in word for word in sys.orig_argv):
        watch(act)


# ---- a file system of its own ---------------------------------------------------------------------------------------

def can_mount(place):
    """Whether this process may mount a file system (in a container mostly not)."""
    try:
        mount(place, 2**20)
        unmount(place)
        return True
    except (OSError, subprocess.CalledProcessError):
        return False


def mount(place, size, options=""):
    """Mounts a file system in memory at a folder, or changes the size or the options of the one that is there."""
    again = "remount," if os.path.ismount(place) else ""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"{again}size={size}{options}", "tmpfs", str(place)]
    subprocess.run(command, check=True, capture_output=True)


def unmount(place):
    if os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True, capture_output=True)


def pages(folder):
    """Bytes that the files of a folder take on such a file system."""
    return sum(-(-path.lstat().st_size // 4096) * 4096 for path in folder.rglob("*"))


def discard(path):
    """Removes whatever is at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
