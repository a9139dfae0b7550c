"""Bounds of the drawn corpus: what a face, a voice, both, and many more rated faces tell of the arousal of others.

Draws 60 people to train on and others to score on, and trains the demo's networks: visual, audio and teacher on 12 of the
60, and the oracle, the visual network on all 60. No student: the parameters of drawn.people.World are chosen by these
figures alone. For speed it goes round the video file and the detector: faces are cropped at the landmarks they were
drawn at, and are black while out of the picture.

    python bench/corpus_bounds.py       drawn people are kept in data_bounds/; delete it after a change of the drawing
"""
import argparse
import contextlib
import hashlib
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import av
import cv2
import numpy as np
import torch
from tqdm import tqdm

import mmpkd
import scores
from annotations import annotation_table
from audio_extract import windows
from audio_melspec import join, mel_spec_of, spectrograms
from config import Config
from data import Clips, Recording, picture_shapes
from demo import FACES, NETWORKS, SPECS
from drawn.people import FRAME_RATE, SOUND_RATE, World
from drawn.people import Recording as Drawn
from faces import crop_face
from models_kd import build_model
from support.files import whole_file
from support.media import Picture
from training import Training, train

RATED, ORACLE = 12, 60  # people
# What is trained, on the faces or voices of how many people, for how many steps: until its CCC on the others rises no more
ROWS = {f"visual, {RATED} people": ("visual", RATED, 500), f"audio, {RATED}": ("audio", RATED, 500),
        f"teacher, {RATED}": ("teacher", RATED, 500), f"oracle: visual, {ORACLE}": ("visual", ORACLE, 1800)}


def draw(cache, seed, number, seconds, world, cfg):
    """Crops (N, 3, S, S), spectrograms (N, 1, M, F) and ratings (N, 2) of a drawn person; kept in `cache`."""
    key = hashlib.sha1(repr((seed, number, seconds, world, cfg.face_size, cfg.n_mels, cfg.hop_length)).encode()).hexdigest()[:16]
    path = Path(cache, f"{key}.npz")
    if not path.exists():
        cv2.setNumThreads(1)
        drawn = Drawn.draw((seed, number), round(seconds * FRAME_RATE), world)
        with whole_file(path) as part:
            np.savez(part, frames=crops_of(drawn, cfg.face_size), specs=specs_of(drawn.sound, len(drawn.motion.x), cfg), gold=drawn.gold[:-1])
    return path


def crops_of(drawn, size):
    """Faces cropped at the landmarks they were drawn at, black while out of the picture: (N, 3, size, size) uint8."""
    there = drawn.in_picture()
    pictures = (Picture(av.VideoFrame.from_ndarray(rgb, format="rgb24")) for rgb in drawn.frames())
    crops = [crop_face(picture, drawn.painter.landmarks(drawn.motion, k), size) if there[k] else np.zeros((size, size, 3), np.uint8)
             for k, picture in enumerate(pictures)]
    return np.stack(crops).transpose(0, 3, 1, 2)


def specs_of(sound, frames, cfg):
    """The spectrogram of every frame: (N, 1, M, F) uint8."""
    length = round(cfg.segment_s * SOUND_RATE)
    blocks = iter([np.round(sound * 32767).astype(np.int16)])
    cut = list(windows(blocks, frames, SOUND_RATE / FRAME_RATE, length, length // 2, SOUND_RATE))
    steps = np.full(frames, SOUND_RATE // FRAME_RATE)
    return spectrograms(*join(cut, steps), mel_spec_of(cfg))[:, None]


def write_pictures(folder, partitions, seconds, cfg):
    """Draws people, {id: partition}, and writes their crops, spectrograms and annotations as the preprocessing does."""
    for number, (name, partition) in enumerate(partitions.items()):
        drawn = Drawn.draw((0, number), round(seconds * FRAME_RATE))
        for kind, arrays, ending in (("Cropped_Aligned", crops_of(drawn, cfg.face_size), "jpg"),
                                     ("specs", specs_of(drawn.sound, len(drawn.motion.x), cfg), "png")):
            out = Path(folder, kind, name)
            out.mkdir(parents=True)
            for k, picture in enumerate(arrays):
                cv2.imwrite(str(out / f"{k:06d}.{ending}"), picture.transpose(1, 2, 0)[..., ::-1])
        table = Path(folder, "Annotations", partition, f"{name}.csv")
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(annotation_table(name, drawn.gold[:-1]))


def people(paths):
    """Recordings in memory, as data.load_recordings gives them."""
    recordings = []
    for number, path in enumerate(paths):
        with np.load(path) as arrays:
            recordings.append(Recording(f"person_{number}", arrays["gold"].astype(np.float32), {}, {k: arrays[k] for k in ("frames", "specs")}))
    return recordings


def bound(job):
    """Scores on the others of one model, {target: {"mean": ..., "concatenated": ...}}; job: (stage, steps, files of the
    rated, of the others, settings)."""
    stage, steps, rated, others, cfg = job
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    sets = {"train": people(rated), "val": people(others)}
    frames_per_step = cfg.batch_size * cfg.clip_length
    cfg = replace(cfg, stage=stage, epochs=round(steps * frames_per_step / sum(map(len, sets["train"]))))
    shapes = picture_shapes(sets["train"])
    clips = Clips(sets["train"], cfg.batch_size, cfg.clip_length, mmpkd.trained_on(stage), cfg.seed)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        train(Training(build_model(stage, cfg, shapes), cfg), mmpkd.task_objective, clips,
              lambda model: scores.score(scores.predictions(model, sets["val"], cfg), cfg.targets), Path(folder), mmpkd.about(cfg, shapes))
        best, _ = mmpkd.load_model(Path(folder, "best.pt"))
    return scores.score(scores.predictions(best, sets["val"], cfg), cfg.targets)


def table(scores):
    """The figures as text: {model: [scores of each seed]}."""
    lines = [f"{'CCC of arousal':24}{'mean over people':>20}{'concatenated':>20}{'seed by seed (mean over people)':>36}"]
    for name, runs in scores.items():
        mean, whole = ([run["arousal"][key] for run in runs] for key in ("mean", "concatenated"))
        cells = [f"{np.mean(values):.3f} +- {np.std(values):.3f}" for values in (mean, whole)]
        lines.append(f"{name:24}{cells[0]:>20}{cells[1]:>20}{'  '.join(f'{value:.3f}' for value in mean):>36}")
    return "\n".join(lines)


def verdicts(scores):
    """Where the bounds should lie, and whether they do: lines of text on arousal, mean over people and seeds."""
    visual, audio, teacher, oracle = (np.mean([run["arousal"]["mean"] for run in runs]) for runs in scores.values())
    rules = [("visual from .2 to .5", visual, .2 <= visual <= .5), ("audio from .55 to .8", audio, .55 <= audio <= .8),
             ("teacher no lower than audio", teacher - audio, teacher >= audio),
             ("teacher - visual >= .15", teacher - visual, teacher - visual >= .15),
             ("oracle - visual >= .1", oracle - visual, oracle - visual >= .1)]
    return "\n".join(f"  {'yes' if met else 'NO':4} {rule:30} {value:.3f}" for rule, value, met in rules)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="of people and weights alike [2]")
    parser.add_argument("--seconds", type=float, default=30, help="per person [30, the demo's]")
    parser.add_argument("--others", type=int, default=12, help="people to score on [12]")
    parser.add_argument("--cache", default="data_bounds", help="folder for what was drawn [data_bounds]")
    args = parser.parse_args()
    cfg = Config(**FACES, **SPECS, **NETWORKS, target="arousal", device="cpu")

    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = [(seed, number) for seed in range(args.seeds) for number in range(ORACLE + args.others)]
        draw_one = partial(draw, args.cache, seconds=args.seconds, world=World(), cfg=cfg)
        drawn = dict(zip(jobs, tqdm(pool.map(draw_one, *zip(*jobs)), "drawing people", len(jobs), disable=None)))
        jobs = [(stage, steps, [drawn[seed, n] for n in range(count)], [drawn[seed, ORACLE + n] for n in range(args.others)],
                 replace(cfg, seed=seed)) for stage, count, steps in ROWS.values() for seed in range(args.seeds)]
        jobs.sort(key=lambda job: -job[1])  # the longest first, so that no core ends up alone with it
        results = list(tqdm(pool.map(bound, jobs), "training", len(jobs), disable=None))
    scores = {name: [score for job, score in zip(jobs, results) if (job[0], len(job[2]), job[1]) == row] for name, row in ROWS.items()}
    print(table(scores))
    print(f"\n{args.seeds} seeds, each with weights and people of its own, scored on {args.others} others. Each model is the epoch that did "
          "best on them.\nWhere the bounds should lie, by the mean over people and seeds:")
    print(verdicts(scores))


if __name__ == "__main__":
    main()
