"""The kill drill: a student that is killed (SIGKILL) at random moments and resumed, against one that never was.

Draws three subjects and trains a teacher, then the same student twice: once undisturbed, and once killed again and
again at random moments between its start and its end, checkpoint writes included (it saves after every step), and
resumed with --resume. Both must end in the same bits: weights, optimizer, best.pt, log (except its seconds) and
predictions.

    python bench/kill_resume.py --kills 20          about 3 minutes on 2 cores
"""
import argparse
import contextlib
import io
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from corpus_bounds import write_pictures

import mmpkd
from checkpoints import load_checkpoint
from config import Config
from runs import read_log
from support.machine import describe

SMALL = {"face_size": 32, "n_mels": 16, "hop_length": 320}
NETWORKS = ["--visual-backbone", "small_cnn", "--audio-backbone", "small_cnn", "--feature-size", "32",
            "--gru-size", "32", "--clip-length", "20", "--clip-stride", "1", "--batch-size", "2", "--learning-rate",
            "0.001", "--target", "both", "--device", "cpu"]
SECONDS = 6  # of each drawn subject
STUDENT = "student_both_cosine"  # its run folder
SUBJECTS = {"train_1": "Train_Set", "train_2": "Train_Set", "dev_1": "Val_Set"}


def start_student(folder, runs, epochs, *words):
    """The student's training call, in a process of its own, its run in a runs folder of its own beside a copy of the
    teacher's run."""
    if not (folder / runs).exists():
        shutil.copytree(folder / "runs", folder / runs)
    command = [sys.executable, "-u", mmpkd.__file__, "--data-dir", str(folder), "--stage", "student", "--distill",
               "cosine", "--gate", "adaptive", *NETWORKS, "--epochs", str(epochs), "--runs-dir", str(folder / runs)]
    return subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)


def ended(process):
    """What a training call printed, when it has ended. Ends this script if the call failed."""
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"a training call failed: {err}")
    return out


def await_training(process):
    """Reads what a call prints up to the line with the number of weights, the last before training, or to its end."""
    any(" weights" in line for line in process.stdout)


def undisturbed(folder, epochs):
    """Trains without being killed: seconds until training began, and in all."""
    began = time.perf_counter()
    process = start_student(folder, "undisturbed", epochs)
    await_training(process)
    until_training = time.perf_counter() - began
    ended(process)
    return until_training, time.perf_counter() - began


def killed(folder, epochs, kills, seed, startup_s, whole_s):
    """Trains the same, killed `kills` times: how many of them hit a running process, and how many hit training."""
    draw, running, training = random.Random(seed), 0, 0
    for _ in range(kills):
        process = start_student(folder, "killed", epochs, "--save-steps", "1", "--resume")
        wait_s = draw.uniform(0, 2 * (whole_s - startup_s) / (kills + 1))
        if draw.random() < 0.8:  # otherwise during startup
            await_training(process)
        else:
            wait_s = draw.uniform(0, startup_s)
        time.sleep(wait_s)
        running += process.poll() is None
        training += process.poll() is None and (folder / "killed" / STUDENT / "log.jsonl").exists()
        process.kill()
        process.communicate()
    ended(start_student(folder, "killed", epochs, "--resume"))
    return running, training


def differences(one, other):
    """Names of what differs between two run folders."""
    different = [f"{file}: {name}" for file in ("last.pt", "best.pt")
                 for name in unequal(load_checkpoint(one / file), load_checkpoint(other / file))
                 if name != "/card/date"]  # the day it was written on
    files = lambda folder: {path.name for path in folder.iterdir()}
    for name, of in {"log.jsonl": log_of, "predictions": tables_of, "files": files}.items():
        if of(one) != of(other) or not of(one):
            different.append(name)
    return different


def log_of(folder):
    """The lines of the log without their seconds."""
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in read_log(folder)]


def tables_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.csv")}


def unequal(one, other, name=""):
    """Names of the entries in which two checkpoints differ."""
    if isinstance(one, list | tuple):
        one, other = (dict(enumerate(values)) for values in (one, other))
    if isinstance(one, dict):
        both = one.keys() & other.keys()
        within = [found for key in both for found in unequal(one[key], other[key], f"{name}/{key}")]
        return [name] * (one.keys() != other.keys()) + within
    return [name] * (not (one.equal(other) if hasattr(one, "equal") else one == other))


def drill(folder, kills, epochs, seed):
    """Prints and returns what differs after the drill: nothing, if resuming works."""
    write_pictures(folder, SUBJECTS, SECONDS, Config(**SMALL))
    with contextlib.redirect_stdout(io.StringIO()):
        mmpkd.main(["--data-dir", str(folder), "--stage", "teacher", *NETWORKS, "--epochs", "2"])
    startup_s, whole_s = undisturbed(folder, epochs)
    print(f"undisturbed: {epochs} epochs in {whole_s:.0f} s, {startup_s:.0f} s of them to start")
    running, training = killed(folder, epochs, kills, seed, startup_s, whole_s)
    print(f"killed {running} times, {training} of them when its training had begun")
    different = differences(*(folder / runs / STUDENT for runs in ("undisturbed", "killed")))
    same = "weights, optimizer, best.pt, log and predictions are the same bits"
    print("different: " + ", ".join(different) if different else same)
    return different


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="[20]")
    parser.add_argument("--epochs", type=int, default=40, help="of the student [40]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    args = parser.parse_args(argv)
    print(describe("torch"))
    with tempfile.TemporaryDirectory() as folder:
        return 1 if drill(Path(folder), args.kills, args.epochs, args.seed) else 0


if __name__ == "__main__":
    raise SystemExit(main())
