"""Recordings processed in parallel, one process per core; one that fails is reported, and the others are still done."""
import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from support.errors import UserError
from support.recordings import natural_key

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
tqdm.monitor_interval = 0  # no thread that watches bars: where memory is short, Python waits for its start for ever
WORTH_A_WORKER = 10000  # frames: a process that loads torch takes seconds to start


# ---- one recording after the other, or several at the same time -----------------------------------------------------

def for_each(recordings, work, sizes=None, workers=1, unit="frames", worth=WORTH_A_WORKER):
    """{id: result} of `work(id, report)` for every recording. One that fails is reported; the others are still done.

    work: a top-level function, or functools.partial of one, that returns (line to print, result) and calls report(n)
    after every n frames. sizes: {id: frames to do}, for the time left. workers: number of processes; 0: one per core,
    or fewer so that each has `worth` frames or more. Raises UserError at the end if a recording failed; an unexpected
    error is raised at the end too. A full disk, a killed worker and Ctrl-C stop everything at once.
    """
    sizes = sizes or {}
    total = sum(sizes.values())
    workers = min(len(recordings), workers or min(cores(), total // worth + 1))
    outcomes = _in_turn if workers <= 1 else _in_processes
    results, failed = {}, {}
    with (tqdm(total=total or None, unit=f" {unit}", disable=None, leave=False, smoothing=0.05) as bar,
          contextlib.closing(outcomes(list(recordings), work, bar, workers)) as ended):
        for name, outcome in ended:
            if isinstance(outcome, BaseException):
                tqdm.write(f"{name}: FAILED: {_reason(name, outcome)}")
                failed[name] = outcome
            else:
                line, results[name] = outcome
                tqdm.write(line)
    if unexpected := [error for error in failed.values() if not isinstance(error, UserError | OSError)]:
        raise unexpected[0]
    if failed:
        names = ", ".join(sorted(failed, key=natural_key))
        raise UserError(f"{len(failed)} of {len(recordings)} recordings failed ({names}), for the reasons given above; "
                        "the others are done")
    return {name: results[name] for name in recordings}


def _reason(name, error):
    """Why a recording failed, for the line that reports it. Raises `error` if it concerns the other recordings too."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno not in FULL_DISK:  # a missing permission, say
        return f"{error.strerror or error}: {error.filename or name}"
    if isinstance(error, OSError | BrokenProcessPool) or not isinstance(error, Exception):
        raise error
    return f"unexpected {type(error).__name__}: {error} (details at the end)"


def cores():
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _in_turn(names, work, bar, _):
    """Yields (id, result of `work` or the exception that it raised), one after the other in this process."""
    for name in names:
        bar.set_description(name)
        try:
            outcome = work(name, bar.update)
        except Exception as error:
            outcome = error
        yield name, outcome


def _in_processes(names, work, bar, workers):
    """Yields the same as _in_turn from several processes, in the order in which they end."""
    context = multiprocessing.get_context("spawn")  # a fork of a process in which torch has threads can hang
    done, stop = context.RawArray("q", len(names)), context.RawValue("b", 0)
    pool = ProcessPoolExecutor(workers, context, _begin_worker, (done, stop))
    try:
        with _no_interrupts():
            waiting = {pool.submit(_work_of, work, name, number): name for number, name in enumerate(names)}
            pool.submit(abs, 0)  # makes the pool look at its processes again: it may not watch the last one started
        bar.set_description(f"{workers} workers")
        while waiting:
            ended, _ = wait(waiting, 0.2, FIRST_COMPLETED)
            bar.update(sum(done) - bar.n)
            for job in ended:
                yield waiting.pop(job), job.exception() or job.result()
    finally:  # also after an error or Ctrl-C: the workers stop at their next frame
        stop.value = 1
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _no_interrupts():
    """Processes started in this block ignore Ctrl-C, even while starting: the parent handles it when the block ends.

    They inherit the blocked signal. In the parent another thread may receive it, for which Python interrupts this one.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
    if received:
        signal.raise_signal(signal.SIGINT)


# ---- a worker process -----------------------------------------------------------------------------------------------

def begin_worker():
    """Prepares a worker process: one thread, Ctrl-C ignored (the parent handles it), and an end when its parent ends.

    For ProcessPoolExecutor(n, multiprocessing.get_context("spawn"), begin_worker).
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


def _begin_worker(done, stop):
    global _DONE, _STOP  # shared with the parent: frames done of every recording, and whether to stop
    _DONE, _STOP = done, stop
    begin_worker()


def _work_of(work, name, number):
    def report(frames=1):
        _DONE[number] += frames
        if _STOP.value:
            raise KeyboardInterrupt
    report(0)  # the pool hands out one job ahead, which can't be taken back: it stops here
    return work(name, report)
