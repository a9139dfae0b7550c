"""Runs of scripts for bench/faults.py: each in a fork of a process that has loaded the scripts, which saves seconds."""
import contextlib
import hashlib
import os
import re
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import av
from fault_kinds import COUNTS, DATA, count_events, disturb, save_counts

PRINTED = "printed"  # file in the working folder: what the script printed, errors included
STALLED_S = 4  # a script hangs if none of its processes runs, or is about to, for so long ...
LONGEST_S = 120  # ... or if they computed for so long, or ...
PATIENCE_S = 600  # ... if all this time has passed
TICKS = os.sysconf("SC_CLK_TCK")


class Call(NamedTuple):
    """How a script is called."""
    module: object
    words: list


class Ended(NamedTuple):
    """How a script ended."""
    code: int  # of its exit; negative: the signal that ended it
    printed: str
    seconds: float
    hung: bool


def run(call, place, disturbance=None, counted=False, kill=None):
    """Ended, of a script in a process of its own, in the folder `place`.

    disturbance: arguments of fault_kinds.disturb; counted: count its events; kill: (seconds, signal) after its start.
    """
    return together([call], place, disturbance, counted, kill)[0]


def together(calls, place, disturbance=None, counted=False, kill=None):
    """[Ended] of several scripts that run at the same time in one folder."""
    began = time.monotonic()
    for number in range(len(calls)):
        (place / f"{PRINTED}{number}").unlink(missing_ok=True)
    pids = [_fork(call, place, f"{PRINTED}{number}", disturbance, counted) for number, call in enumerate(calls)]
    codes, hung = _await(pids, kill)
    for pid in pids:  # workers that are left
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    printed = [_text(place / f"{PRINTED}{number}") for number in range(len(calls))]
    return [Ended(codes[pid], text, time.monotonic() - began, hung) for pid, text in zip(pids, printed)]


def _text(path):
    return path.read_text(errors="replace") if path.exists() else ""  # it was killed at once


def _fork(call, place, printed, disturbance, counted):
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 70
    try:
        code = _script(call, place, printed, disturbance, counted)
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _script(call, place, printed, disturbance, counted):
    """The exit code of a script, in its own process."""
    from support.errors import run_script
    os.setsid()
    os.chdir(place)
    output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = [call.module.__file__, *call.words]
    main = sys.modules["__main__"]
    main.__file__, main.__spec__ = call.module.__file__, None  # what worker processes import
    events = count_events() if counted else None
    if disturbance:
        disturb(*disturbance)
    code = run_script(call.module.main, call.module.__file__)
    if counted:
        save_counts(events)
    return code


def _await(pids, kill):
    """({pid: exit code}, whether they hung), when all have ended or were killed because they hung."""
    codes, began, moved, ticks, looked = {}, time.monotonic(), time.monotonic(), -1, time.monotonic()
    while len(codes) < len(pids):
        for pid in set(pids) - codes.keys():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        if kill and now - began > kill[0]:
            _signal(set(pids) - codes.keys(), kill[1])
            kill = None
        if now - looked > 0.5:
            looked, (used, busy) = now, _activity(pids)
            if used != ticks or busy:
                moved, ticks = now, used
            if now - moved > STALLED_S or used / TICKS > LONGEST_S or now - began > PATIENCE_S:
                _signal(set(pids) - codes.keys(), signal.SIGKILL)
                codes |= {pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in set(pids) - codes.keys()}
                return codes, True
        time.sleep(0.003)
    return codes, False


def _signal(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _activity(sessions):
    """(ticks that the processes of some sessions have computed, whether one of them runs or waits for a disk)."""
    used, busy = 0, False
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) in sessions:
                used += int(fields[11]) + int(fields[12])
                busy |= fields[0] in "RD"
    return used, busy


def counts_of(place):
    """(events, writes, bytes of memory) of the last script that was counted there."""
    return tuple(map(int, (place / COUNTS).read_text().split()))


# ---- what is in a folder --------------------------------------------------------------------------------------------

TEMPORARY = re.compile(r"(^|/)\.[^/]*\.part(/|$)|(^|/)\.[^/]+\.[a-z0-9_]{8}(\.\w+)?(/|$)")  # as support/files.py makes
HASHED = re.compile(r"\.[0-9a-f]{16}\.npy$")  # names in cache/ depend on the times of files
PLACE = re.compile(rb'"/[^"]*/(?=data/)')  # the working folder, before the path of a video
SECONDS = re.compile(rb'"seconds": [\d.e+-]+')


def contents(place):
    """{path in the data folder: digest} of every file but temporary ones; of what is no file, what it is."""
    data, found = place / DATA, {}
    for folder, folders, files in os.walk(data):
        for name in files + [name for name in folders if os.path.islink(os.path.join(folder, name))]:
            path = Path(folder, name)
            relative = str(path.relative_to(data))
            if not TEMPORARY.search(relative):
                found[HASHED.sub(".npy", relative)] = _digest(path)
    return found


def _digest(path):
    if path.is_symlink() or not path.is_file():
        return "no file"
    content = path.read_bytes()
    if path.name.endswith("_overlay.mp4"):  # its encoder makes other bytes of the same pictures now and then
        return _pictures(path)
    if path.suffix in (".json", ".jsonl"):
        content = SECONDS.sub(b"", PLACE.sub(b'"', content))
    return hashlib.sha1(content).hexdigest()


def _pictures(path):
    """How many pictures a video has, in words."""
    try:
        with av.open(str(path)) as container:
            return f"{sum(1 for _ in container.decode(video=0))} pictures"
    except av.FFmpegError:
        return "no video"
