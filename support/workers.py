"""Recordings worked on side by side, one process per core; a bad one is reported, and the others are still done."""
import contextlib
import errno
import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

from tqdm import tqdm

from support.errors import UserError
from support.recordings import _natural

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)  # the next recording would end the same way
WORTH_A_WORKER = 10000  # frames: a process with torch takes seconds to start


def for_each(recordings, work, sizes=None, workers=1, unit="frames", worth=WORTH_A_WORKER):
    """What `work(id, report)` makes of every recording by id: a bad one is reported, and the others are still done.

    work: a top-level function or functools.partial of one; returns a line to print and a result, and calls report(n) for
    every n frames done. sizes: id -> frames to do, for the time left. workers: processes; 0: one per core, or fewer where
    that is quicker, with `worth` frames or more for each. Raises UserError at the end if any recording failed; a full disk stops it at once.
    """
    sizes = sizes or {}
    total = sum(sizes.values())
    workers = min(len(recordings), workers or min(cores(), total // worth + 1))
    results, failed = {}, {}
    outcomes = _in_turn if workers <= 1 else _in_processes
    with (tqdm(total=total or None, unit=f" {unit}", disable=None, leave=False, smoothing=0.05) as bar,
          contextlib.closing(outcomes(list(recordings), work, bar, workers)) as ended):
        for name, outcome in ended:
            if isinstance(outcome, UserError):
                failed[name] = str(outcome)
            elif isinstance(outcome, OSError) and outcome.errno not in FULL_DISK:  # a file that must not be read, say
                failed[name] = f"{outcome.strerror or outcome}: {outcome.filename or name}"
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                line, results[name] = outcome
                tqdm.write(line)
            if name in failed:
                tqdm.write(f"{name}: FAILED: {failed[name]}")
    if failed:
        raise UserError(f"{len(failed)} of {len(recordings)} recordings failed ({', '.join(sorted(failed, key=_natural))}), for the "
                        "reasons given above; the others are done")
    return {name: results[name] for name in recordings}


def cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _in_turn(names, work, bar, _):
    for name in names:
        bar.set_description(name)
        try:
            outcome = work(name, bar.update)
        except (UserError, OSError) as error:
            outcome = error
        yield name, outcome


def _in_processes(names, work, bar, workers):
    """The same as _in_turn, in the order in which they end."""
    context = multiprocessing.get_context("spawn")  # a fork of a process in which torch has threads can hang
    done, stop = context.RawArray("q", len(names)), context.RawValue("b", 0)
    pool = ProcessPoolExecutor(workers, context, _begin_worker, (done, stop))
    try:
        with _no_interrupts():
            waiting = {pool.submit(_work_of, work, name, number): name for number, name in enumerate(names)}
            pool.submit(abs, 0)  # lets the pool look at its processes again: it may not watch the last one that was started
        bar.set_description(f"{workers} workers")
        while waiting:
            ended, _ = wait(waiting, 0.2, FIRST_COMPLETED)
            bar.update(sum(done) - bar.n)
            for job in ended:
                yield waiting.pop(job), job.exception() or job.result()
    finally:  # also where an error or Ctrl-C ends it: the workers stop at their next frame
        stop.value = 1
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _no_interrupts():
    """Processes that are started in the block hear of no Ctrl-C, not even while they start: it is their parent's affair."""
    if hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        yield


def _begin_worker(done, stop):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be kept from them
    global _DONE, _STOP
    _DONE, _STOP = done, stop
    threading.Thread(target=die_with_parent, daemon=True).start()


def die_with_parent():
    """Of a process that works for another: ends it as soon as the other has ended, in whatever way. Waits for that: call it in a thread."""
    multiprocessing.parent_process().join()
    os._exit(1)  # nobody waits for what this worker does, and the next run may do the same recording


def _work_of(work, name, number):
    def report(frames=1):
        _DONE[number] += frames
        if _STOP.value:
            raise KeyboardInterrupt
    report(0)  # one job more than there are workers waits where it cannot be taken back
    return work(name, report)
