"""Seconds per epoch with features in place of images, on a corpus of RECOLA's size made of random numbers.

18 training and 9 validation recordings of 7,500 frames, 102 visual and 88 audio features, which are mixtures of the
ratings, of something that differs from subject to subject, and of noise. Each stage runs through mmpkd.py with
features.json, and its fastest epoch (training and validation, from log.jsonl) stands beside the same epoch in bare
PyTorch: the same network on slices of tensors in memory, validation recordings in one piece each. The student is
distilled. Also: what reading the features costs, as text for the first time and from the cache afterwards.

    python bench/features.py        2 minutes on 2 cores
"""
import argparse
import contextlib
import functools
import io
import math
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pandas as pd
import torch

import annotations
import data
import mmpkd
from config import Config
from corpora import features
from losses import ccc
from models_kd import build_model
from runs import INPUTS, read_log, run_folder
from support.errors import run_script
from support.machine import describe
from support.settings import read_settings
from training import make_optimizer

SIZES = {"visual": 102, "audio": 88}  # features: AVEC 2016's numbers, video-geometric in small and eGeMAPS
PRESET = Path(mmpkd.__file__).with_name("features.json")
EPOCHS = 3


# ---- the corpus -----------------------------------------------------------------------------------------------------

def write_corpus(folder, recordings, frames):
    """Ratings and features of {"train": number of recordings, "dev": ...}, in npy files."""
    draw = np.random.default_rng(0)
    mixing = {modality: draw.normal(0, 1, (6, size)) for modality, size in SIZES.items()}
    names = [f"{part}_{number + 1}" for part, count in recordings.items() for number in range(count)]
    for place in ("ratings_gold_standard", *(f"features/{modality}" for modality in SIZES)):
        (folder / place).mkdir(parents=True)
    for name in names:
        traces = slow(draw, frames, 6)
        np.savetxt(folder / "ratings_gold_standard" / f"{name}.csv", traces[:, :2], fmt="%.5f", delimiter=";")
        for modality, size in SIZES.items():
            made = traces @ mixing[modality] + draw.normal(0, 1, size) + draw.normal(0, 2, (frames, size))
            np.save(folder / "features" / modality / f"{name}.npy", made.astype(np.float32))


def slow(draw, frames, count):
    """(N, count) traces within [-1, 1] that change over seconds."""
    time_s = np.arange(frames)[:, None, None] / 25
    waves = np.sin(time_s / draw.uniform(0.5, 8, (count, 8)) + draw.uniform(0, 2 * math.pi, (count, 8)))
    return waves.mean(2)


def reading_s(folder, frames):
    """Seconds to read the features of a recording: (as text, from the cache)."""
    path = folder / "egemaps.csv"
    table = pd.DataFrame(np.random.default_rng(0).normal(0, 1, (frames, SIZES["audio"])), columns=range(SIZES["audio"]))
    table.add_prefix("f").assign(frameTime=np.arange(frames) / 25).to_csv(path, sep=";", index=False)
    times = []
    for _ in range(2):
        began = time.perf_counter()
        features.load(path, folder / "cache")
        times.append(time.perf_counter() - began)
    return times


# ---- the sides ------------------------------------------------------------------------------------------------------

def ours(folder, stage):
    """(seconds of the fastest epoch, validation CCC of the last) of a stage, through mmpkd.py."""
    flags = ["--data-dir", str(folder), "--config", str(PRESET), "--stage", stage, "--epochs", str(EPOCHS)]
    with contextlib.redirect_stdout(io.StringIO()):
        mmpkd.main([*flags, "--distill", "cosine", "--device", "cpu"])
    log = read_log(run_folder(config_of(folder, stage)))
    return min(entry["seconds"] for entry in log), log[-1]["val"]["arousal"]["mean"]


@functools.cache
def config_of(folder, stage):
    return Config(**read_settings(PRESET) | {"data_dir": str(folder), "stage": stage, "distill": "cosine"})


def bare_epoch(folder, stage):
    """Seconds of an epoch of the same network in bare PyTorch."""
    cfg = config_of(folder, stage)
    train, val = (data.load_recordings(cfg, part, INPUTS[stage]) for part in ("Train_Set", "Val_Set"))
    model = build_model(stage, cfg, data.image_shapes(train)).train()
    optimizer = make_optimizer(model, torch.nn.ModuleDict(), cfg)
    parts = [[torch.from_numpy(np.stack([one.arrays[name] for one in part])) for name in INPUTS[stage]]
             for part in (train, val)]
    gold = torch.from_numpy(np.stack([one.gold for one in train]))
    steps = math.ceil(gold.shape[0] * gold.shape[1] / (cfg.batch_size * cfg.clip_length))
    began = time.perf_counter()
    for _ in range(steps):
        rows = torch.randint(len(gold), (cfg.batch_size,))
        start = int(torch.randint(gold.shape[1] - cfg.clip_length + 1, ()))
        clip = slice(start, start + cfg.clip_length)
        pred = model(*[part[rows, clip] for part in parts[0]]).pred
        loss = 1 - ccc(pred.flatten(), gold[rows, clip].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        for number in range(len(val)):
            model(*[part[number:number + 1] for part in parts[1]])
    return time.perf_counter() - began


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=18, help="training recordings [18]")
    parser.add_argument("--dev", type=int, default=9, help="validation recordings [9]")
    parser.add_argument("--frames", type=int, default=7500, help="of each recording [7500]")
    args = parser.parse_args(argv)
    count = args.train + args.dev
    print(f"{args.train} + {args.dev} recordings of {args.frames} frames, {SIZES['visual']} + {SIZES['audio']} "
          f"features; {describe('torch')}, {torch.get_num_threads()} threads\n")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_corpus(folder, {"train": args.train, "dev": args.dev}, args.frames)
        with contextlib.redirect_stdout(io.StringIO()):
            annotations.main(["--data-dir", place])
        first, then = reading_s(folder, args.frames)
        print(f"reading {2 * count} files of {SIZES['audio']} features as text: {2 * count * first:.1f} s, once; from "
              f"cache/: {2 * count * then:.2f} s\n")
        print(f"{'an epoch, with validation':28}{'s':>8}{'frames/s':>10}{'bare PyTorch, s':>19}{'ratio':>8}{'CCC':>8}")
        for stage in ("visual", "teacher", "student"):
            seconds, value = ours(folder, stage)
            bare = min(bare_epoch(folder, stage) for _ in range(2))
            print(f"{stage:28}{seconds:8.2f}{count * args.frames / seconds:10.0f}   {bare:16.2f}{bare / seconds:8.2f}"
                  f"{value:8.3f}", flush=True)


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
