"""The kill drill: a student that is killed (SIGKILL) at random moments and resumed, beside one that never was.

Draws three people and trains a teacher of them, then the same student twice: once undisturbed, once killed again and again, at random
moments between its start and its end, checkpoint writes included (it saves after every step), and resumed with --resume. Both must end in
the same bits: weights, optimizer, best.pt, log (but for the seconds in it) and predictions.

    python bench/kill_resume.py --kills 20          about 3 minutes on 2 cores
"""
import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from corpus_bounds import write_pictures

import mmpkd
from config import Config
from runs import read_log
from training import load_checkpoint

SMALL = {"face_size": 32, "n_mels": 16, "hop_length": 320}
NETWORKS = ["--visual-backbone", "small_cnn", "--audio-backbone", "small_cnn", "--feature-size", "32", "--gru-size", "32", "--clip-length", "20",
            "--batch-size", "2", "--target", "both", "--learning-rate", "0.001", "--device", "cpu",
            "--distill", "cosine", "--no-calibrate", "--gate", "adaptive"]
PEOPLE = {"train_1": "Train_Set", "train_2": "Train_Set", "dev_1": "Val_Set"}


def start(folder, runs, *words):
    """A student's training call in a process of its own."""
    command = [sys.executable, "-u", mmpkd.__file__, "--data-dir", str(folder), "--stage", "student", *NETWORKS, "--runs-dir", str(folder / runs),
               "--teacher-checkpoint", str(folder / "runs" / "teacher_both" / "best.pt"), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)


def ended(process):
    """Waits for a call to end well: what it printed."""
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"a training call failed: {err}")
    return out


def undisturbed(folder, epochs):
    """Trains without being killed: seconds until the training began, and in all."""
    began = time.perf_counter()
    process = start(folder, "undisturbed", "--epochs", str(epochs))
    process.stdout.readline()
    until_training = time.perf_counter() - began
    ended(process)
    return until_training, time.perf_counter() - began


def killed(folder, epochs, kills, seed, startup_s, whole_s):
    """Trains the same, killed `kills` times: how many of them struck a run, and how many were while it trained."""
    draw, struck, training = random.Random(seed), 0, 0
    for _ in range(kills):
        process = start(folder, "killed", "--epochs", str(epochs), "--save-steps", "1", "--resume")
        wait_s = draw.uniform(0, 2 * (whole_s - startup_s) / (kills + 1))
        if draw.random() < 0.8:  # else while it starts
            process.stdout.readline()
        else:
            wait_s = draw.uniform(0, startup_s)
        time.sleep(wait_s)
        struck += process.poll() is None
        training += process.poll() is None and (folder / "killed" / "student_both_cosine" / "log.jsonl").exists()
        process.kill()
        process.communicate()
    ended(start(folder, "killed", "--epochs", str(epochs), "--resume"))
    return struck, training


def differences(one, other):
    """Names of what differs between two run folders, bit by bit."""
    different = [f"{file}: {name}" for file in ("last.pt", "best.pt")
                 for name in unequal(load_checkpoint(one / file), load_checkpoint(other / file))]
    for name, of in {"log.jsonl": log_of, "predictions": tables_of, "files": lambda folder: {path.name for path in folder.iterdir()}}.items():
        if of(one) != of(other) or not of(one):
            different.append(name)
    return different


def log_of(folder):
    """The log's lines without how long each epoch took."""
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in read_log(folder)]


def tables_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.csv")}


def unequal(one, other, name=""):
    """Names of the entries in which two checkpoints differ."""
    if isinstance(one, list | tuple):
        one, other = (dict(enumerate(values)) for values in (one, other))
    if isinstance(one, dict):
        both = one.keys() & other.keys()
        return [name] * (one.keys() != other.keys()) + [found for key in both for found in unequal(one[key], other[key], f"{name}/{key}")]
    return [name] * (not (one.equal(other) if hasattr(one, "equal") else one == other))


def drill(folder, kills, epochs, seed):
    """Prints and returns what differs after the drill: nothing, if all is well."""
    write_pictures(folder, PEOPLE, 6, Config(**SMALL))
    ended(subprocess.Popen([sys.executable, mmpkd.__file__, "--data-dir", str(folder), "--stage", "teacher", *NETWORKS, "--epochs", "2"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    startup_s, whole_s = undisturbed(folder, epochs)
    print(f"undisturbed: {epochs} epochs in {whole_s:.0f} s, {startup_s:.0f} s of them to start")
    struck, training = killed(folder, epochs, kills, seed, startup_s, whole_s)
    print(f"killed {struck} times, {training} of them when it had begun to train")
    different = differences(*(folder / runs / "student_both_cosine" for runs in ("undisturbed", "killed")))
    print("different: " + ", ".join(different) if different else "weights, optimizer, best.pt, log and predictions are the same bits")
    return different


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="[20]")
    parser.add_argument("--epochs", type=int, default=40, help="of the student [40]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 1 if drill(Path(folder), args.kills, args.epochs, args.seed) else 0


if __name__ == "__main__":
    raise SystemExit(main())
