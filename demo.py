"""The whole pipeline on a corpus that anyone can make: draws subjects, runs the scripts, compares the runs.

Reads   nothing
Writes  the data folder, first as a corpus ships: videos/, audio/, ratings_gold_standard/ of train_1 ... (rated, to
        train on), dev_1 ... (rated, to report on), unrated_1 ... (unlabelled); then what the scripts make of it:
        Annotations/ Cropped_Aligned/ audio_segments/ specs/ runs/ plots/, and predictions/ of the student for dev_1

    python demo.py              under 6 minutes on 2 cores
    python demo.py --quick      under 2 minutes: shows that everything runs; its networks are hardly trained

A second run resumes the first, and does nothing twice. Faces and voices are drawn by code (drawn/): they are nobody's.
"""
import itertools
import math
import os
import shlex
import sys
import time
from functools import partial
from pathlib import Path

from support.settings import answer_first, parse_config

answer_first(__name__, __file__, __doc__, data_dir="data_demo")
os.environ["OMP_NUM_THREADS"] = "1"  # of torch: the figures of a seed must not depend on the number of cores

import annotations
import audio_extract
import audio_melspec
import face_detector_frameRetention
import mmpkd
import plot_ccc
import predict
import report as report_script
import scores
from drawn import FRAME_RATE
from drawn.people import Recording, write_recording
from study.methods import FACES, NETWORKS, SPECS
from support.errors import run_script
from support.files import there
from support.machine import cores
from support.opencv import cv2
from support.recordings import SUMMARIES, keep_settings
from support.workers import for_each

QUICK = {"minutes": 0.1, "subjects": 6, "unrated": 4}  # with --quick, where these are not given
STEP = 5  # every 5th of 25 frames and ratings per second: neighbours are almost the same, and cost five times the work
RATE = {"frame_rate": FRAME_RATE / STEP}
# At 5 frames a second. Every run takes the same number of gradient steps and keeps its last epoch: nothing is chosen
TRAINING = NETWORKS | RATE | {"visual_backbone": "tiny_cnn", "audio_backbone": "tiny_cnn", "clip_length": 30,
                              "batch_size": 8}
EPOCHS = {True: {"epochs": 2, "epoch_steps": 10}, False: {"epochs": 10, "epoch_steps": 100}}  # quick or not
FOLDS = 2  # of the teacher ensembles


def names_of(subjects, unrated=0):
    """Ids of the drawn subjects, half of the rated ones held out: train_1 ..., dev_1 ..., unrated_1 ..."""
    held_out = subjects // 2
    counts = {"train": subjects - held_out, "dev": held_out, "unrated": unrated}
    return [f"{word}_{n + 1}" for word, count in counts.items() for n in range(count)]


def last_file(cfg, name):
    """What is written last of a recording: it marks it as whole."""
    return cfg.audio_dir / f"{name}.wav" if name.startswith("unrated") else cfg.ratings_dir / f"{name}.csv"


def draw(name, report, numbers, data_dir, seed, frames):
    """Draws one recording, for for_each."""
    cv2.setNumThreads(1)
    recording = Recording.draw((seed, numbers[name]), frames)
    write_recording(data_dir, name, recording, not name.startswith("unrated"), STEP, quick=True)
    report(frames // STEP)
    return f"{name}: {frames // STEP} frames drawn", frames // STEP


def draw_corpus(cfg, names):
    """The corpus as it ships, drawn on all cores; what is there is left."""
    frames = math.ceil(cfg.minutes * 60 * FRAME_RATE / STEP) * STEP
    missing = [name for name in names if not there(last_file(cfg, name))]
    numbers = {name: number for number, name in enumerate(names)}
    work = partial(draw, numbers=numbers, data_dir=cfg.data_dir, seed=cfg.seed, frames=frames)
    for_each(missing, work, dict.fromkeys(missing, frames // STEP), workers=0, worth=500)  # some 3 seconds
    print(f"{cfg.data_dir}: {len(names)} subjects, {len(missing)} drawn now, {frames / FRAME_RATE:.0f} s each")


def flags(settings):
    """Settings as the words of a command line."""
    words = [["--" + name.replace("_", "-")] + [str(value)] * (value is not True) for name, value in settings.items()]
    return list(itertools.chain(*words))


def call(script, *words, **settings):
    """Runs a script as its user would, with its command line shown: what its main returns."""
    command = [Path(script.__file__).name, *map(str, words), *flags(settings)]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    began = time.perf_counter()
    result = script.main(command[1:])
    print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    return result


def means_of(table):
    """{stage: mean CCC} of ccc.csv as a table: raw, mean of recordings, then mean of both targets."""
    means = table[table["recording"] == "mean"].groupby("run")["ccc_raw"].mean()
    return {stage: float(means[[run for run in means.index if run.startswith(stage)][0]]) for stage in scores.ROLES}


def conclusion(table, cfg):
    """Two sentences on what ccc.csv, as a table, shows."""
    mean, count = means_of(table), len(set(table["recording"]) - set(SUMMARIES))
    taught = ("trained on what audio and visual teachers predict for unlabelled subjects" if cfg.unrated else
              "taught by the teacher")
    return (f"On {count} subjects never trained on, the mean CCC of arousal and valence is {mean['teacher']:.2f} for\n"
            f"the teacher, which sees the face and hears the voice, {mean['visual']:.2f} for the visual baseline,\n"
            f"which sees only the face, and {mean['student']:.2f} for the student, which sees only the face, too, but\n"
            f"was also {taught} ({mean['student'] - mean['visual']:+.2f}).\n"
            + ("With --quick the networks are hardly trained and the figures mean nothing: leave it out for more."
               if cfg.quick else
               f"One seed ({cfg.seed}) and {count} subjects are an illustration, no result: docs/study.md has those."))


def watch_one(cfg, table):
    """Runs the student on the video of a subject that nothing was trained on: path of the video with its predictions.

    table: ccc.csv, which names the student's run.
    """
    student = next(run for run in table["run"] if run.startswith("student"))
    best, out = Path(cfg.data_dir, "runs", student, "best.pt"), Path(cfg.data_dir, "predictions")
    paths = call(predict, best, *cfg.videos_dir.glob("dev_1.*"), out=out, overlay=True)
    return paths["dev_1"].with_name("dev_1_overlay.mp4")


def main(argv=None):
    given = parse_config(argv, __file__, __doc__, data_dir="data_demo")
    cfg = parse_config(argv, __file__, __doc__, data_dir="data_demo", **(QUICK if given.quick else {}))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # redirected into a file, it shows the progress as well
    keep_settings(cfg.data_dir, cfg, "quick minutes subjects unrated seed")
    began, data = time.perf_counter(), {"data_dir": cfg.data_dir}
    names = names_of(cfg.subjects, cfg.unrated)
    draw_corpus(cfg, names)
    call(annotations, **data, **RATE)
    call(face_detector_frameRetention, **data, **RATE, **FACES, workers=1 if cfg.quick else cores())
    call(audio_extract, **data, **RATE)
    call(audio_melspec, **data, **SPECS)
    call(mmpkd, **data, **TRAINING, **EPOCHS[cfg.quick], teacher_folds=FOLDS, seed=cfg.seed, resume=True,
         workers=1 if cfg.quick else 0)
    plots = call(plot_ccc, **data, **RATE)
    page = call(report_script, **data, **RATE)
    overlay = watch_one(cfg, plots["ccc"])
    traces = Path(plots["traces"][0]).parent.parent
    print(f"\nTo look at: {page} (what the runs found, in a browser), {overlay} (the student\n"
          f"at work), {plots['summary']} (the runs side by side), {traces}/ (every subject over time)\n")
    print(conclusion(plots["ccc"], cfg) + "\n")
    print("Next, your own data: README.md, 'RECOLA step by step', for any corpus of videos, sound and ratings.")
    print(f"Done in {(time.perf_counter() - began) / 60:.1f} minutes.")
    return plots["ccc"]


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
