"""The whole road on a corpus that anyone can make: draws people, runs every script on them, ends with the comparison.

Reads   nothing
Writes  the data folder, first as a corpus ships: videos/, audio/, ratings_gold_standard/ with train_1 ..., dev_1 ..., unrated_1 ...
        then what the scripts make of it: Annotations/ Cropped_Aligned/ audio_segments/ specs/ runs/ plots/

    python demo.py              under 10 minutes on 2 cores
    python demo.py --quick      under 2 minutes: shows that everything runs; its networks are hardly trained

A second run goes on where the first was stopped, and does nothing twice. Faces and voices are drawn by code
(drawn_people.py): they are of nobody.
"""
import itertools
import math
import multiprocessing
import os
import shlex
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
from tqdm import tqdm

import annotations
import audio_extract
import audio_melspec
import face_detector_frameRetention
import mmpkd
import plot_ccc
from annotations import SUMMARIES, keep_settings
from config import Config, parse_config, run_script
from drawn.people import FRAME_RATE, Recording, write_recording

QUICK = {"minutes": 0.2, "subjects": 6, "unrated": 3}  # with --quick, where these are not given
# What the paper's defaults are to RECOLA, these are to a corpus of a few minutes and a machine of two cores.
FACES = {"face_size": 48}
SPECS = {"n_mels": 32, "hop_length": 320}
NETWORKS = {"visual_backbone": "small_cnn", "audio_backbone": "small_cnn", "feature_size": 64, "gru_size": 64, "clip_length": 100, "batch_size": 4,
            "learning_rate": 0.001, "visual_lr_scale": 1.0, "weight_decay": 0.05, "dropout": 0.4, "modality_dropout": 0.5}
EPOCHS = {True: 3, False: 12}  # quick or not


def names_of(subjects, unrated=0):
    """Ids of the drawn people, a third of those that are rated held out: train_1 ..., dev_1 ..., unrated_1 ..."""
    held_out = max(1, subjects // 3)
    counts = {"train": subjects - held_out, "dev": held_out, "unrated": unrated}
    return [f"{word}_{n + 1}" for word, count in counts.items() for n in range(count)]


def last_file(cfg, name):
    """What is written last of a recording: it marks it as whole."""
    return cfg.audio_dir / f"{name}.wav" if name.startswith("unrated") else cfg.ratings_dir / f"{name}.csv"


def draw(numbered_name, data_dir, seed, frames):
    """Draws one recording."""
    number, name = numbered_name
    write_recording(data_dir, name, Recording.draw((seed, number), frames), not name.startswith("unrated"))


def _begin_worker():
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair: what is being drawn is finished


def draw_corpus(cfg, names):
    """The corpus as it ships, drawn on all cores; what is there is left."""
    frames = math.ceil(cfg.minutes * 60 * FRAME_RATE)
    missing = [(number, name) for number, name in enumerate(names) if not last_file(cfg, name).exists()]
    if missing:
        work = partial(draw, data_dir=cfg.data_dir, seed=cfg.seed, frames=frames)
        # a fork of a process in which torch has threads can hang
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), _begin_worker) as pool:
            list(tqdm(pool.map(work, missing), "drawing people", len(missing), unit=" people", disable=None, leave=False))
    print(f"{cfg.data_dir}: {len(names)} people, {len(missing)} drawn now, {frames} frames each ({frames / FRAME_RATE:.0f} s)")


def flags(settings):
    """Settings as the words of a command line."""
    words = [["--" + name.replace("_", "-")] + [str(value)] * (value is not True) for name, value in settings.items()]
    return list(itertools.chain(*words))


def call(script, **settings):
    """Runs a script as its user would, with its command line shown: what its main returns."""
    command = [Path(script.__file__).name, *flags(settings)]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    began = time.perf_counter()
    result = script.main(command[1:])
    print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    return result


def conclusion(table):
    """One sentence on what ccc.csv, as a table, shows."""
    means = table[(table["target"] == "arousal") & (table["recording"] == "mean")].set_index("run")["ccc_raw"]
    visual, teacher, student = (means[[run for run in means.index if run.startswith(stage)][0]] for stage in mmpkd.ROLES)
    count = len(set(table["recording"]) - set(SUMMARIES))
    people = f"{count} {'person' if count == 1 else 'people'}"
    return (f"They show that on arousal, for {people} never trained on, the teacher that sees and hears reaches a mean CCC of "
            f"{teacher:.2f} and the network that only sees {visual:.2f}; the student, which only sees but was taught by networks that hear and "
            f"networks that see, reaches {student:.2f} (gap closed: {mmpkd.gap_closed(visual, teacher, student)}). One seed and {people}: a look, "
            "not a result.")


def main(argv=None):
    given = parse_config(argv, __file__, __doc__, data_dir="data_demo")
    cfg = parse_config(argv, __file__, __doc__, data_dir="data_demo", **(QUICK if given.quick else {}))
    keep_settings(cfg.data_dir, cfg, "quick minutes subjects unrated seed")
    began, data = time.perf_counter(), {"data_dir": cfg.data_dir}
    names = names_of(cfg.subjects, cfg.unrated)
    draw_corpus(cfg, names)
    call(annotations, **data)
    call(face_detector_frameRetention, **data, **FACES)
    call(audio_extract, **data)
    call(audio_melspec, **data, **SPECS)
    folds = min(Config().teacher_folds, sum(name.startswith("train") for name in names))
    call(mmpkd, **data, **NETWORKS, target="both", epochs=EPOCHS[cfg.quick], teacher_folds=folds, seed=cfg.seed, resume=True)
    plots = call(plot_ccc, **data)
    print(f"\nPlots: {plots['summary']} (the runs side by side) and {Path(plots['traces'][0]).parent.parent}/ (each person over time)")
    print(conclusion(plots["ccc"]))
    print(f"Done in {(time.perf_counter() - began) / 60:.1f} minutes.")
    return plots["ccc"]


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
