"""Does the demo show what it says? It is run with ten seeds, each with subjects, networks and clips of its own.

    python bench/demo_seeds.py                          ten seeds, two side by side: 40 minutes on 2 cores
    python bench/demo_seeds.py --seeds 0 1 --jobs 1     two of them, one after the other
    python bench/demo_seeds.py --report                 only the table of the seeds that are finished

A second call resumes the first. Scores are CCC, the mean of the reported subjects, raw (ccc.csv of every demo).
"""
import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from support.errors import UserError, run_script
from support.machine import describe

STAGES, TARGETS = ("visual", "teacher", "student"), ("arousal", "valence")
LEAST_WINS, LEAST_GAIN = 0.9, 0.05  # what the demo is to show: share of the seeds, CCC


def run_demo(seed, folder):
    """One demo, which prints into <folder>/seed_<n>.log; raises UserError if it fails."""
    data = folder / f"seed_{seed}"
    if (data / "plots" / "ccc.csv").exists():
        return
    began = time.perf_counter()
    with open(folder / f"seed_{seed}.log", "a") as log:
        command = [sys.executable, "-u", ROOT / "demo.py", "--data-dir", data, "--seed", str(seed)]
        code = subprocess.run(command, stdout=log, stderr=log).returncode
    if code:
        raise UserError(f"the demo with seed {seed} ended with exit code {code}: {log.name} says why")
    print(f"seed {seed}: {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)


def scores_of(path):
    """{(target, stage): CCC} of a ccc.csv; target "both": the mean of the two."""
    table = pd.read_csv(path)
    table = table[table["recording"] == "mean"]
    scores = {(row.target, row.run.split("_")[0]): row.ccc_raw for row in table.itertuples()}
    return scores | {("both", stage): np.mean([scores[target, stage] for target in TARGETS]) for stage in STAGES}


def report(scores):
    """The table of {seed: scores_of()} and what it shows, as text."""
    groups = (*TARGETS, "both")
    lines = [f"{'':6}" + "".join(f"{group:>24}" for group in groups),
             f"{'seed':6}" + "".join(f"{stage:>8}" for _ in groups for stage in STAGES) + f"{'gain':>9}"]
    values = np.array([[one[group, stage] for group in groups for stage in STAGES] for one in scores.values()])
    gains = values[:, -1] - values[:, -3]
    for seed, row, gain in [*zip(scores, values, gains), ("mean", values.mean(0), gains.mean())]:
        lines.append(f"{seed!s:6}" + "".join(f"{value:8.3f}" for value in row) + f"{gain:+9.3f}")
    wins, count = int((gains > 0).sum()), len(gains)
    teacher = int(((values[:, 1] > values[:, 0]) & (values[:, 1] > values[:, 2])).sum())
    error = gains.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
    verdict = lambda met: "met" if met else "MISSED"
    return "\n".join([
        *lines, "",
        f"student above its visual baseline, mean of both targets: {wins} of {count} seeds "
        f"({verdict(wins >= LEAST_WINS * count)})",
        f"mean gain {gains.mean():+.3f}, standard error over seeds {error:.3f} ({verdict(gains.mean() >= LEAST_GAIN)})",
        f"teacher above both on arousal: {teacher} of {count} seeds ({verdict(teacher == count)})"])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)), help="seeds of the demo [0 to 9]")
    parser.add_argument("--jobs", type=int, default=2, help="demos side by side [2]")
    parser.add_argument("--data-dir", type=Path, default="data_demo_seeds", help="where they are kept")
    parser.add_argument("--report", action="store_true", help="only the table of what is finished")
    args = parser.parse_args(argv)
    args.data_dir.mkdir(parents=True, exist_ok=True)
    if not args.report:
        print(describe("torch"), flush=True)
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(partial(run_demo, folder=args.data_dir), args.seeds))
    tables = {seed: args.data_dir / f"seed_{seed}" / "plots" / "ccc.csv" for seed in args.seeds}
    finished = {seed: scores_of(path) for seed, path in tables.items() if path.exists()}
    if not finished:
        raise UserError(f"{args.data_dir}/: none of these seeds is finished; leave out --report to run them")
    print(report(finished))


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
