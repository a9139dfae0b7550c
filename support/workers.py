"""Recordings processed in parallel, one process per core; one that fails is reported, and the others are still done."""
import contextlib
import errno
import io
import itertools
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

from tqdm import tqdm

from support.errors import FEWER, UserError, is_of_memory, reason_of
from support.machine import cores
from support.recordings import natural_key

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
REPORT_S = 0.1  # how often a worker says how many frames it has done, and looks whether to stop
tqdm.monitor_interval = 0  # no thread that watches bars: where memory is short, Python waits for its start for ever
WORTH_A_WORKER = 10000  # frames: a process that loads torch takes seconds to start


# ---- one recording after the other, or several at the same time -----------------------------------------------------

def for_each(recordings, work, sizes=None, workers=1, unit="frames", worth=WORTH_A_WORKER):
    """{id: result} of `work(id, report)` for every recording. One that fails is reported; the others are still done.

    work: a top-level function, or functools.partial of one, that returns (line to print, result) and calls report(n)
    after every n frames. sizes: {id: frames to do}, for the time left. workers: number of processes; 0: one per core,
    or fewer so that each has `worth` frames or more. Raises UserError at the end if a recording failed; an unexpected
    error is raised at the end too. A full disk and Ctrl-C stop everything at once. A worker that is killed or has too
    little memory costs no more than its recording: see _in_processes.
    """
    sizes = sizes or {}
    total = sum(sizes.values())
    workers = min(len(recordings), workers or min(cores(), total // worth + 1))
    outcomes = _in_turn if workers <= 1 else _in_processes
    with (tqdm(total=total or None, unit=f" {unit}", disable=None, leave=False, smoothing=0.05) as bar,
          contextlib.closing(outcomes(list(recordings), work, bar, workers)) as ended):
        return _gathered(recordings, ended, "recordings")


def side_by_side(jobs, work, workers):
    """{name: result} of `work(name, report)` for every job, each in a process with one thread, `workers` at the same
    time.

    As for_each, also in what becomes of failures; but work returns its result alone, what it prints comes out here line
    by line (progress bars do not), and report.worker is the number of its process, from 0 on. When this process is
    interrupted, jobs at work get SIGTERM, and their end is waited for: they may save.
    """
    with (tqdm(total=len(jobs), unit=" runs", disable=None, leave=False) as bar,
          contextlib.closing(_in_processes(list(jobs), partial(_told, work=work), bar, workers, True)) as ended):
        return _gathered(jobs, ended, "runs")


def _gathered(names, ended, what):
    """{name: result} of what has ended: pairs (name, outcome). Prints a line for each; raises as for_each does."""
    results, failed = {}, {}
    for name, outcome in ended:
        if isinstance(outcome, BaseException):
            tqdm.write(f"{name}: FAILED: {_reason(name, outcome)}")
            failed[name] = outcome
        else:
            line, results[name] = outcome
            if line:
                tqdm.write(line)
    if unexpected := [error for error in failed.values() if not (isinstance(error, UserError | OSError)
                                                                 or is_of_memory(error))]:
        raise unexpected[0]
    if failed:
        which = ", ".join(sorted(failed, key=natural_key))
        raise UserError(f"{len(failed)} of {len(names)} {what} failed ({which}), for the reasons given above; the "
                        "others are done")
    return {name: results[name] for name in names}


def _reason(name, error):
    """Why a recording failed, for the line that reports it. Raises `error` if it concerns the other recordings too."""
    if isinstance(error, UserError) and error.exit_code > 128:  # stopped by a signal: nothing more is begun
        raise error
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno not in FULL_DISK:  # a missing permission, say
        return reason_of(error, name)
    if isinstance(error, OSError) or not isinstance(error, Exception):
        raise error
    return f"unexpected {type(error).__name__}: {error} (details at the end)"


def _in_turn(names, work, bar, _):
    """Yields (id, result of `work` or the exception that it raised), one after the other in this process."""
    for name in names:
        bar.set_description(name)
        try:
            outcome = work(name, bar.update)
        except Exception as error:
            outcome = _TooLittleMemory() if is_of_memory(error) else error
        yield name, outcome


def _in_processes(names, work, bar, workers, terminated=False):
    """Yields the same as _in_turn from several processes, in the order in which they end.

    Where one was killed or had too little memory, its recording is tried once more when all others have ended, alone.
    terminated: whether those at work when this ends get SIGTERM.
    """
    again = []
    for name, outcome in _side_by_side(names, work, bar, workers, terminated):
        if isinstance(outcome, _TooLittleMemory):
            tqdm.write(f"{name}: {outcome}: it is tried again, alone, when the others have ended")
            again.append(name)
        else:
            yield name, outcome
    yield from _side_by_side(again, work, bar, 1, terminated)


class _TooLittleMemory(UserError):
    """What becomes of a recording whose process was killed, which is mostly for its memory, or got none."""

    def __init__(self, text=f"too little memory: {FEWER}"):
        super().__init__(text)


def _side_by_side(names, work, bar, workers, terminated):
    """Yields (id, result of `work` or the exception that it raised, or _TooLittleMemory) from several processes.

    Each has a pipe, and nothing else in common with this one: semaphores and shared memory need a /dev/shm.
    """
    waiting, processes, busy, done = deque(names), {}, {}, Counter()  # processes and busy: by pipe
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                pipe = next((pipe for pipe in processes if pipe not in busy), None) or _started(work, processes)
                busy[pipe] = waiting.popleft()
                with contextlib.suppress(OSError):  # it was killed, which is seen below
                    pipe.send(busy[pipe])
            bar.set_description(f"{len(processes)} workers")
            for pipe in wait(list(busy), 0.2):  # on Windows, Ctrl-C does not interrupt it
                frames, lines, outcome = _received(pipe, processes)
                done[busy[pipe]] = frames
                for line in lines:
                    tqdm.write(line)
                if outcome:
                    yield busy.pop(pipe), outcome[0]
            bar.update(sum(done.values()) - bar.n)
    finally:  # also after an error or Ctrl-C: the workers stop at their next frame, or save
        for pipe in processes:
            if terminated and pipe in busy:
                processes[pipe].terminate()
            pipe.close()
        for process in processes.values():
            process.join()


def _started(work, processes):
    """The pipe of a new process, which is added to `processes`. Raises UserError if there can be none."""
    context = multiprocessing.get_context("spawn")  # a fork of a process in which torch has threads can hang
    pipe, its_end = context.Pipe()
    taken = {int(process.name) for process in processes.values()}
    number = next(number for number in itertools.count() if number not in taken)
    process = context.Process(target=_serve, args=(its_end, work, number), name=str(number))
    try:
        with _no_interrupts():
            process.start()
            its_end.close()
            processes[pipe] = process  # before an interrupt: it must be ended
    except OSError as error:
        raise UserError(f"no further process can be started ({error.strerror or error}): run this with "
                        "--workers 1") from None
    return pipe


def _received(pipe, processes):
    """(frames done, [lines to print], [what came of the recording, once it has ended]) from a process; one that has
    ended is removed."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        process = processes.pop(pipe)
        pipe.close()
        process.join()
    code = process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return 0, [], [_TooLittleMemory(f"its process {how} (too little memory?)")]


@contextlib.contextmanager
def _no_interrupts():
    """Processes started in this block ignore Ctrl-C, even while starting: the parent handles it when the block ends,
    and SIGTERM, too, since it could not end a process that is half started.

    They inherit the blocked signal. In the parent another thread may receive it, for which Python interrupts this one.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # started with the first process, it would unblock the signal for that one
    received = []
    handlers = {number: signal.signal(number, lambda number, frame: received.append(number))
                for number in (signal.SIGINT, signal.SIGTERM)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
    if received:
        signal.raise_signal(received[0])


# ---- a worker process -----------------------------------------------------------------------------------------------

def begin_worker():
    """Prepares a worker process: one thread, Ctrl-C ignored (the parent handles it), and an end when its parent ends.

    For ProcessPoolExecutor(n, multiprocessing.get_context("spawn"), begin_worker), too.
    """
    os.environ.update(OMP_NUM_THREADS="1", OPENCV_FOR_THREADS_NUM="1")  # of torch and cv2, where they are loaded later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()


def die_with_parent():
    """Ends this process when its parent process has ended, in whatever way. Blocks until then: call it in a thread."""
    multiprocessing.parent_process().join()
    os._exit(1)  # at once: the next run may be at work on the same recording


def _serve(pipe, work, number):
    """Does what comes through the pipe, one recording after the other, until the parent closes it."""
    begin_worker()
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):  # closed while it waits, while it works
        while True:
            name, report = pipe.recv(), _Report(pipe, number)
            try:
                outcome = work(name, report)
            except Exception as error:
                outcome = _sendable(error)
            pipe.send((report.frames, [], [outcome]))


def _told(name, report, work):
    """("", work(name, report)), for side_by_side: what it prints is sent to the parent."""
    lines = _Lines(report)
    with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):  # no terminal: bars hide themselves
        result = work(name, report)
    report.frames = 1
    return "", result


class _Lines(io.TextIOBase):
    """A text stream whose lines are sent to the parent."""

    def __init__(self, report):
        self.report, self.rest = report, ""

    def write(self, text):
        *lines, self.rest = (self.rest + text).split("\n")
        with contextlib.suppress(OSError):  # the parent has closed it
            if lines:
                self.report.pipe.send((self.report.frames, lines, []))
        return len(text)


class _Report:
    """Counts the frames that are done, for the parent; raises KeyboardInterrupt when that has closed the pipe."""

    def __init__(self, pipe, worker):
        self.pipe, self.worker, self.frames, self.told_s = pipe, worker, 0, -math.inf

    def __call__(self, frames=1):
        self.frames += frames
        if time.monotonic() - self.told_s < REPORT_S:
            return
        self.told_s = time.monotonic()
        with contextlib.suppress(OSError):
            if not self.pipe.poll():  # nothing comes before the recording is done but the end
                self.pipe.send((self.frames, [], []))
                return
        raise KeyboardInterrupt


def _sendable(error):
    """The exception as it can be sent, with its traceback as text."""
    if is_of_memory(error):
        return _TooLittleMemory()
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:  # of a kind that needs more than its text
        return RuntimeError("\n".join(error.__notes__))
