"""The eight networks of a student's teacher ensembles, of the demo's size: side by side, and one after the other.

    python bench/folds.py               4 minutes on 2 idle cores

One after the other with as many threads as there are cores, which is what PyTorch does if nobody says otherwise; then
with one thread; then side by side, a network per core, as mmpkd.py trains them. Each time includes all that a run does,
and the start of the processes. Processor seconds depend less on what else the machine does.
"""
import argparse
import contextlib
import dataclasses
import io
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from corpus_bounds import write_pictures

import mmpkd
from config import Config
from runs import needed_by
from study.methods import FACES, NETWORKS, SPECS
from support.errors import run_script
from support.machine import cores, describe

SUBJECTS = {f"train_{k}": "Train_Set" for k in range(1, 5)} | {"dev_1": "Val_Set", "new_1": "Unlabelled_Set"}
SECONDS = 30  # of each subject
CFG = Config(**FACES, **SPECS, **NETWORKS | dict(
    visual_backbone="tiny_cnn", audio_backbone="tiny_cnn", clip_length=30, batch_size=8, keep="last", target="both",
    stage="student", distill="pseudo", confirm_audio=False, device="cpu", epochs=2))


def used_s():
    """Processor seconds that this process and those that it started and that have ended have used."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(
        resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def with_threads(runs, cfg):
    """One after the other, with all threads."""
    for one in runs:
        mmpkd.train(one, torch.device("cpu"))


def ensembles(runs, cfg):
    mmpkd.train_ensembles(runs, cfg, torch.device("cpu"))


SIDES = {"one after the other, {} threads": (with_threads, 1), "one after the other, 1 thread": (ensembles, 1),
         "{} side by side, 1 thread each": (ensembles, cores())}


def measure(cfg):
    """Yields (side, seconds, processor seconds) as they are measured."""
    for number, (name, (train, workers)) in enumerate(SIDES.items()):
        one = dataclasses.replace(cfg, runs_dir=str(Path(cfg.data_dir, f"runs{number}")), workers=workers)
        torch.set_num_threads(cores())
        began, used = time.perf_counter(), used_s()
        with contextlib.redirect_stdout(io.StringIO()):
            train(needed_by(one), one)
        yield name.format(cores()), time.perf_counter() - began, used_s() - used


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epoch-steps", type=int, default=100, help="gradient steps of an epoch, of two [100]")
    steps = parser.parse_args(argv).epoch_steps
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(folder, SUBJECTS, SECONDS, CFG)
        first = dataclasses.replace(CFG, data_dir=folder, runs_dir=str(Path(folder, "first")), epoch_steps=1, epochs=1)
        with contextlib.redirect_stdout(io.StringIO()):  # the images are packed, once for all sides
            mmpkd.train(dataclasses.replace(first, stage="teacher"), torch.device("cpu"))
        print(f"{len(needed_by(CFG))} networks, {CFG.epochs} x {steps} steps each; {describe('torch')}\n")
        print(f"{'':34}{'seconds':>9}{'ratio':>7}{'processor seconds':>19}{'ratio':>7}")
        first = None
        for name, seconds, used in measure(dataclasses.replace(CFG, data_dir=folder, epoch_steps=steps)):
            first = first or (seconds, used)
            print(f"{name:34}{seconds:9.1f}{first[0] / seconds:7.2f}{used:19.1f}{first[1] / used:7.2f}", flush=True)


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
