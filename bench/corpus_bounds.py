"""Bounds of the drawn corpus: the CCC of arousal on new subjects by face, voice, both, and by many more rated faces.

Draws 60 subjects to train on and others to score on, and trains the demo's networks: visual, audio and teacher on 12 of
the 60, and the oracle, the visual network on all 60. There is no student: the parameters of World, in the drawn corpus,
are chosen by these bounds alone. To be fast it uses no video files and no face detector: faces are cropped at the
landmarks they were drawn at, and are black while out of the frame.

    python bench/corpus_bounds.py       28 minutes on 2 cores; the drawn subjects are kept in data_bounds/: delete it
                                        after a change of the drawing
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

import scores
from annotations import annotation_table
from audio_extract import windows
from audio_melspec import join, mel_spec_of, spectrograms
from checkpoints import describe_model, load_model
from config import Config
from data import Clips, Recording, image_shapes
from drawn.people import FRAME_RATE, SOUND_RATE, World
from drawn.people import Recording as Drawn
from faces import crop_face
from models_kd import build_model
from objectives import task_objective
from runs import INPUTS
from study.methods import FACES, NETWORKS, SPECS
from support.errors import run_script
from support.files import whole_file
from support.machine import describe
from support.media import Picture
from training import Training, train

RATED, ORACLE = 12, 60  # subjects
# Row of the table -> stage, subjects trained on, gradient steps: more do not raise the CCC on the others
ROWS = {f"visual, {RATED} subjects": ("visual", RATED, 500), f"audio, {RATED}": ("audio", RATED, 500),
        f"teacher, {RATED}": ("teacher", RATED, 500), f"oracle: visual, {ORACLE}": ("visual", ORACLE, 1800)}


def draw(cache, seed, number, seconds, world, cfg):
    """File in `cache` with the crops (N, 3, S, S), spectrograms (N, 1, M, F) and ratings (N, 2) of a subject."""
    made_with = repr((seed, number, seconds, world, cfg.face_size, cfg.n_mels, cfg.hop_length))
    path = Path(cache, f"{hashlib.sha1(made_with.encode()).hexdigest()[:16]}.npz")
    if not path.exists():
        cv2.setNumThreads(1)
        drawn = Drawn.draw((seed, number), round(seconds * FRAME_RATE), world)
        specs = specs_of(drawn.sound, len(drawn.motion.x), cfg)
        with whole_file(path) as part:
            np.savez(part, frames=crops_of(drawn, cfg.face_size), specs=specs, gold=drawn.gold[:-1])
    return path


def crops_of(drawn, size):
    """Faces cropped at the landmarks they were drawn at, black while out of the frame: (N, 3, size, size) uint8."""
    inside, crops = drawn.in_picture(), np.zeros((len(drawn.motion.x), size, size, 3), np.uint8)
    for k, rgb in enumerate(drawn.frames()):
        if inside[k]:
            picture = Picture(av.VideoFrame.from_ndarray(rgb, format="rgb24"))
            crops[k] = crop_face(picture, drawn.painter.landmarks(drawn.motion, k), size)
    return crops.transpose(0, 3, 1, 2)


def specs_of(sound, frames, cfg):
    """The spectrogram of every frame: (N, 1, M, F) uint8."""
    length = round(cfg.segment_s * SOUND_RATE)
    blocks = iter([np.round(sound * 32767).astype(np.int16)])
    cut = list(windows(blocks, frames, SOUND_RATE / FRAME_RATE, length, length // 2, SOUND_RATE))
    steps = np.full(frames, SOUND_RATE // FRAME_RATE)
    return spectrograms(*join(cut, steps), mel_spec_of(cfg))[:, None]


def write_pictures(folder, partitions, seconds, cfg):
    """Draws subjects, {id: partition}; writes their crops, spectrograms and annotations as preprocessing does."""
    for number, (name, partition) in enumerate(partitions.items()):
        drawn = Drawn.draw((0, number), round(seconds * FRAME_RATE))
        specs = specs_of(drawn.sound, len(drawn.motion.x), cfg)
        crops = crops_of(drawn, cfg.face_size)
        for kind, images, ending in (("Cropped_Aligned", crops, "jpg"), ("specs", specs, "png")):
            out = Path(folder, kind, name)
            out.mkdir(parents=True)
            for k, image in enumerate(images):
                cv2.imwrite(str(out / f"{k:06d}.{ending}"), image.transpose(1, 2, 0)[..., ::-1])
        table = Path(folder, "Annotations", partition, f"{name}.csv")
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(annotation_table(name, drawn.gold[:-1], [f"{k:06d}.jpg" for k in range(len(drawn.gold) - 1)]))


def read(paths):
    """Recordings in memory, as data.load_recordings gives them."""
    recordings = []
    for number, path in enumerate(paths):
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("frames", "specs")}
            recordings.append(Recording(f"subject_{number}", file["gold"].astype(np.float32), {}, arrays))
    return recordings


def bound(job):
    """Scores on the others of one model, as scores.score() gives them.

    job: (stage, gradient steps, files of the subjects trained on, files of the others, settings)
    """
    stage, steps, rated, others, cfg = job
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    train_set, val_set = read(rated), read(others)
    frames_per_step = cfg.batch_size * cfg.clip_length
    cfg = replace(cfg, stage=stage, epochs=round(steps * frames_per_step / sum(map(len, train_set))))
    shapes = image_shapes(train_set)
    clips = Clips(train_set, cfg.batch_size, cfg.clip_length, INPUTS[stage], cfg.seed, stride=cfg.clip_stride)

    def evaluate(model):
        return scores.score(scores.predictions(model, val_set, cfg), cfg.targets)

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        training = Training(build_model(stage, cfg, shapes), cfg)
        about = describe_model(cfg, shapes, {"train": train_set, "val": val_set})
        train(training, task_objective, clips, evaluate, Path(folder), about)
        best, _ = load_model(Path(folder, "best.pt"))
    return evaluate(best)


def table(scores):
    """Table of the CCCs of arousal as text; scores: {row: [scores of each seed]}."""
    lines = [f"{'CCC of arousal':24}{'mean over subjects':>20}{'concatenated':>20}"
             f"{'seed by seed (mean over subjects)':>38}"]
    for name, runs in scores.items():
        mean, whole = ([run["arousal"][key] for run in runs] for key in ("mean", "concatenated"))
        cells = [f"{np.mean(values):.3f} +- {np.std(values):.3f}" for values in (mean, whole)]
        seeds = "  ".join(f"{value:.3f}" for value in mean)
        lines.append(f"{name:24}{cells[0]:>20}{cells[1]:>20}{seeds:>38}")
    return "\n".join(lines)


def verdicts(scores):
    """Where the bounds should be, and whether they are, as text: CCC of arousal, mean over subjects and seeds."""
    visual, audio, teacher, oracle = (np.mean([run["arousal"]["mean"] for run in runs]) for runs in scores.values())
    rules = [("visual from .2 to .5", visual, .2 <= visual <= .5), ("audio from .55 to .8", audio, .55 <= audio <= .8),
             ("teacher no lower than audio", teacher - audio, teacher >= audio),
             ("teacher - visual >= .15", teacher - visual, teacher - visual >= .15),
             ("oracle - visual >= .1", oracle - visual, oracle - visual >= .1)]
    return "\n".join(f"  {'yes' if met else 'NO':4} {rule:30} {value:.3f}" for rule, value, met in rules)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="each with its own subjects and initial weights [2]")
    parser.add_argument("--seconds", type=float, default=30, help="of each subject [30]")
    parser.add_argument("--others", type=int, default=12, help="subjects to score on [12]")
    parser.add_argument("--cache", default="data_bounds", help="folder for the drawn subjects [data_bounds]")
    args = parser.parse_args()
    cfg = Config(**FACES, **SPECS, **NETWORKS, target="arousal", keep="best", device="cpu")

    with ProcessPoolExecutor(os.cpu_count()) as pool:
        ids = [(seed, number) for seed in range(args.seeds) for number in range(ORACLE + args.others)]
        draw_one = partial(draw, args.cache, seconds=args.seconds, world=World(), cfg=cfg)
        files = list(tqdm(pool.map(draw_one, *zip(*ids)), "drawing", len(ids), disable=None))
        drawn = dict(zip(ids, files))
        jobs = [(stage, steps, [drawn[seed, n] for n in range(count)],
                 [drawn[seed, ORACLE + n] for n in range(args.others)], replace(cfg, seed=seed))
                for stage, count, steps in ROWS.values() for seed in range(args.seeds)]
        jobs.sort(key=lambda job: -job[1])  # the longest first, so that all cores are busy to the end
        results = list(tqdm(pool.map(bound, jobs), "training", len(jobs), disable=None))
    scores = {name: [result for (stage, steps, rated, _, _), result in zip(jobs, results)
                     if (stage, len(rated), steps) == row] for name, row in ROWS.items()}
    print(f"{describe('torch')}\n\n{table(scores)}")
    print(f"\n{args.seeds} seeds, each with its own subjects and initial weights, scored on {args.others} others. Of "
          "each model the epoch that is best on them is kept.\n"
          "Where the bounds should be, mean over subjects and seeds:")
    print(verdicts(scores))


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
