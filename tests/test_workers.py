"""Recordings processed in parallel: failures, a full disk, killed workers, Ctrl-C."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tqdm import tqdm

import config
from support import workers
from support.errors import UserError
from support.stopping import Stopped
from support.workers import for_each, side_by_side

DEADLINE_S = 300  # a machine where others compute

JOBS = """
import errno, multiprocessing, os, signal, sys, time
from functools import partial
from pathlib import Path
from support.errors import UserError, run_script
from support.workers import for_each

def wait_for(path, report=lambda frames: None):
    while not path.exists():
        time.sleep(0.01)
        report(0)

class Odd(Exception):  # cannot be pickled
    def __init__(self, one, two):
        super().__init__(one + two)

def work(name, report, folder):
    with open(Path(folder, name), "a") as file:
        file.write(f"{os.getpid()}\\n")
    tries = len(Path(folder, name).read_text().split())
    kind = name.split("_")[0]
    if kind == "bad":
        raise UserError(f"{name}.mp4 is damaged: replace it")
    if kind == "forbidden":
        raise PermissionError(errno.EACCES, "Permission denied", f"{name}.mp4")
    if kind == "full":
        raise OSError(errno.ENOSPC, "No space left on device", f"{name}.png")
    if kind == "bug":
        1 / 0
    if kind == "killed" or kind == "once" and tries == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "memory":
        raise MemoryError
    if kind == "odd":
        raise Odd("one", "two")
    if kind == "last":
        wait_for(Path(folder, "quick_3"))
    if kind == "long":
        wait_for(Path(folder, "never"), report)
    if kind == "threads":
        import cv2, torch
        return name, (torch.get_num_threads(), cv2.getNumThreads(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
    report(1)
    return f"{name} done", name.upper()

def main(argv):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    folder, workers, *names = argv
    Path(folder, "main").write_text(str(os.getpid()))
    sizes = dict.fromkeys(names, 10)
    for name, result in for_each(names, partial(work, folder=folder), sizes, int(workers), worth=30).items():
        print("result", name, result)

if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
"""


class Job:
    """A process that calls for_each with ids that say what becomes of them."""

    def __init__(self, folder, workers, *names):
        self.folder, script = folder / "pids", folder / "jobs.py"
        self.folder.mkdir(parents=True)
        script.write_text(JOBS)
        env = os.environ | {"PYTHONPATH": str(Path(config.__file__).parent)}
        words = [sys.executable, script, self.folder, str(workers), *names]
        self.process = subprocess.Popen(words, text=True, start_new_session=True, env=env,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ended(self):
        """(exit code, lines of stdout, lines of stderr)"""
        out, err = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out.splitlines(), err.splitlines()

    def tries(self, name):
        return len((self.folder / name).read_text().split())

    def pids(self, *names):
        """The processes of jobs, once they have all begun."""
        until = time.monotonic() + DEADLINE_S
        while not all((self.folder / name).exists() and (self.folder / name).read_text() for name in names):
            assert time.monotonic() < until and self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        return [int((self.folder / name).read_text()) for name in names]

    def workers(self):
        """The processes that had a job."""
        return {int(path.read_text()) for path in self.folder.iterdir() if path.name != "main"}


def gone(pid):
    """Whether a process has ended, within the deadline."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # it has ended, and its exit code was not asked for
            return True
        time.sleep(0.02)
    return False


on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")


# ---- results and failures -------------------------------------------------------------------------------------------

def test_results_come_in_the_order_of_the_recordings_whichever_ends_first(tmp_path):
    job = Job(tmp_path, 2, "last_1", "quick_2", "quick_3")
    code, out, err = job.ended()
    assert (code, err) == (0, [])
    assert sorted(out[:3]) == ["last_1 done", "quick_2 done", "quick_3 done"]
    assert out[3:] == ["result last_1 LAST_1", "result quick_2 QUICK_2", "result quick_3 QUICK_3"]
    assert job.process.pid not in job.workers() and len(job.workers()) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_recordings_that_fail_do_not_keep_others_from_being_done(workers, tmp_path):
    code, out, err = Job(tmp_path, workers, "bad_1", "good_2", "forbidden_3", "good_4").ended()
    assert code == 1 and len(err) == 1 and "2 of 4" in err[0] and "bad_1, forbidden_3" in err[0]
    first, second, *done = sorted(out)
    assert first == "bad_1: FAILED: bad_1.mp4 is damaged: replace it" and done == ["good_2 done", "good_4 done"]
    assert second.startswith("forbidden_3: FAILED") and second.endswith("forbidden_3.mp4")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unexpected_error_is_raised_when_the_others_are_done(workers, tmp_path):
    code, out, err = Job(tmp_path, workers, "bug_1", "bad_2", "good_3", "good_4").ended()
    assert code == 1 and err[-1] == "ZeroDivisionError: division by zero"
    assert len(out) == 4 and {"good_3 done", "good_4 done"} < set(out)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_all_of_them_at_once(workers, tmp_path):
    job = Job(tmp_path, workers, "full_1", *[f"long_{number}" for number in range(2, 8)])
    code, out, err = job.ended()
    assert code == 1 and len(err) == 1 and "full_1.png" in err[0] and out == []
    assert not (job.folder / "long_7").exists()


@pytest.mark.parametrize("workers", [2, 3])
def test_a_worker_that_is_killed_costs_at_most_its_recording(workers, tmp_path):
    job = Job(tmp_path, workers, "killed_1", "good_2", "good_3", "good_4", "good_5")
    code, out, err = job.ended()
    assert code == 1 and len(err) == 1 and "1 of 5" in err[0] and "killed_1" in err[0]
    assert {"good_2 done", "good_3 done", "good_4 done", "good_5 done"} < set(out)
    first, last = [line for line in out if "killed_1" in line]
    assert "SIGKILL" in first and "again" in first and "FAILED" in last and "SIGKILL" in last
    assert out[-1] == last and job.tries("killed_1") == 2, "not tried again, once, after all others"


def test_a_recording_whose_worker_was_killed_is_done_alone_afterwards(tmp_path):
    job = Job(tmp_path, 2, "once_1", "once_2", "good_3")
    code, out, err = job.ended()
    assert (code, err) == (0, []) and {"once_1 done", "once_2 done", "good_3 done"} < set(out)
    assert out[-3:] == ["result once_1 ONCE_1", "result once_2 ONCE_2", "result good_3 GOOD_3"]


@pytest.mark.parametrize("workers", [1, 2])
def test_too_little_memory_for_one_recording_is_one_line_and_the_others_are_done(workers, tmp_path):
    code, out, err = Job(tmp_path, workers, "memory_1", "good_2", "good_3").ended()
    assert code == 1 and len(err) == 1 and "memory_1" in err[0] and {"good_2 done", "good_3 done"} < set(out)
    (failed,) = [line for line in out if "FAILED" in line]
    assert failed.startswith("memory_1: FAILED: too little memory: run the same command again")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_that_cannot_be_sent_between_processes_is_raised_all_the_same(workers, tmp_path):
    code, out, err = Job(tmp_path, workers, "odd_1", "good_2", "good_3").ended()
    assert code == 1 and err[-1].endswith("Odd: onetwo") and {"good_2 done", "good_3 done"} < set(out)


def told_of_workers(folder, file):
    """What /proc/<pid>/<file> says of two workers in the middle of their work."""
    job = Job(folder, 2, "long_1", "long_2")
    told = [Path(f"/proc/{pid}/{file}").read_text() for pid in job.pids("long_1", "long_2")]
    job.process.kill()
    job.process.communicate()
    return told


@on_linux
def test_workers_need_no_shared_memory(tmp_path):
    """Containers have a small /dev/shm, a read-only one or none: semaphores and shared arrays would lie there."""
    maps = told_of_workers(tmp_path, "maps")
    assert all(maps) and "/dev/shm" not in "".join(maps)


# ---- stopped --------------------------------------------------------------------------------------------------------

def test_a_process_that_is_asked_to_stop_begins_nothing_more():
    begun = []

    def work(name, report):
        begun.append(name)
        raise Stopped("stopped by SIGTERM and saved", signal.SIGTERM)
    with pytest.raises(Stopped, match="and saved"):
        for_each(["a", "b"], work, {"a": 1, "b": 1})
    assert begun == ["a"]


@on_linux
@pytest.mark.parametrize("to_all", [True, False], ids=["terminal", "kill -INT"])
def test_ctrl_c_stops_all_workers_in_one_line(to_all, tmp_path):
    job = Job(tmp_path, 2, "long_1", "long_2", "long_3")
    pids = job.pids("long_1", "long_2")
    (os.killpg if to_all else os.kill)(job.process.pid, signal.SIGINT)  # a terminal interrupts the whole process group
    code, out, err = job.ended()
    assert code == 130 and len(err) == 1 and "resume" in err[0] and out == []
    assert all(map(gone, pids)) and not (job.folder / "long_3").exists()


@on_linux
@pytest.mark.parametrize("begun", ["main", "long_1"])
def test_ctrl_c_while_workers_start_is_one_line_too(begun, tmp_path):
    job = Job(tmp_path, 2, "long_1", "long_2")
    job.pids(begun)
    os.killpg(job.process.pid, signal.SIGINT)
    code, _, err = job.ended()
    assert code == 130 and len(err) == 1, err


@on_linux
def test_interrupts_are_blocked_in_every_worker_from_its_start(tmp_path):
    """Also in the first: Python starts a process of its own before, and unblocks them then."""
    masks = [int(re.search(r"SigBlk:\s*(\w+)", text)[1], 16) for text in told_of_workers(tmp_path, "status")]
    assert len(masks) == 2 and all(mask & 1 << signal.SIGINT - 1 for mask in masks)


@on_linux
def test_workers_end_when_their_parent_was_killed(tmp_path):
    job = Job(tmp_path, 2, "long_1", "long_2")
    pids = job.pids("long_1", "long_2")
    job.process.kill()
    assert all(map(gone, pids))
    job.process.communicate()


# ---- how many, and how they work ------------------------------------------------------------------------------------

def test_few_frames_are_not_worth_another_process(tmp_path):
    few = Job(tmp_path / "few", 0, "quick_1", "quick_2")  # 20 frames; 30 are worth one
    assert few.ended()[0] == 0 and few.workers() == {few.process.pid}
    if workers.cores() > 1:
        many = Job(tmp_path / "many", 0, "quick_1", "quick_2", "quick_3", "quick_4")
        assert many.ended()[0] == 0 and many.process.pid not in many.workers()


def test_a_worker_computes_on_one_thread_and_ignores_ctrl_c(tmp_path):
    code, out, _ = Job(tmp_path, 2, "threads_1", "quick_2").ended()
    assert code == 0 and "result threads_1 (1, 1, True)" in out


def test_nothing_to_do_is_done():
    assert for_each({}, None) == {}


# ---- side by side ---------------------------------------------------------------------------------------------------

def tell(name, report):
    """A job that prints, draws a bar and says which worker did it; "bad" fails."""
    list(tqdm(range(3), "bar", disable=None))
    print(f"{name} in", end=" ")
    print(f"worker {report.worker}\nand more")
    tqdm.write(f"{name} wrote")
    if name == "bad":
        raise UserError("bad is bad")
    return os.getpid(), report.worker


def test_what_jobs_print_side_by_side_comes_as_whole_lines_without_bars(capfd):
    results = side_by_side(["a", "b", "c"], tell, 2)
    assert list(results) == ["a", "b", "c"] and {worker for _, worker in results.values()} <= {0, 1}
    assert os.getpid() not in {pid for pid, _ in results.values()} and results["a"][1] == 0
    out, err = capfd.readouterr()
    told = {name: f"{name} in worker {worker}" for name, (_, worker) in results.items()}
    assert sorted(out.splitlines()) == sorted([*told.values(), *["and more"] * 3, "a wrote", "b wrote", "c wrote"])
    assert "bar" not in err


def test_one_worker_is_a_process_too_and_a_job_that_fails_is_named(capfd):
    with pytest.raises(UserError, match=r"1 of 2 runs failed \(bad\)"):
        side_by_side(["bad", "good"], tell, 1)
    out = capfd.readouterr().out
    assert "bad: FAILED: bad is bad" in out and "good in worker 0" in out
