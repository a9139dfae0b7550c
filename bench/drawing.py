"""How long a drawn subject takes: a minute as the demo draws it, beside all 25 frames a second, and the steps after it.

Sides take turns and the best of the rounds counts, so that a busy machine troubles both alike. One process, one thread.
A ratio above 1: faster than the reference named in the line.

    python bench/drawing.py                 under 2 minutes on a quiet core
"""
import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import torch

import annotations
import audio_extract
import audio_melspec
import demo
import face_detector_frameRetention
from drawn import FRAME_RATE
from drawn.people import Recording, write_recording
from support.errors import run_script
from support.machine import describe

SECONDS = 60
SCRIPTS = (annotations, face_detector_frameRetention, audio_extract, audio_melspec)


def one_by_one(drawn):
    """Paints frame after frame, each by a call of its own."""
    for k in range(0, len(drawn.motion.x), demo.STEP):
        drawn.painter.paint(drawn.actions, drawn.motion, k)


def steps_after(data):
    """Runs the demo's preprocessing on what lies in `data`."""
    settings = {annotations: demo.RATE, face_detector_frameRetention: demo.RATE | demo.FACES, audio_extract: demo.RATE}
    for script in SCRIPTS:
        with contextlib.redirect_stdout(io.StringIO()):
            script.main(demo.flags({"data_dir": data} | settings.get(script, demo.SPECS)))


def best_of(sides, rounds):
    """{side: seconds} of the best of some rounds, in which the sides take turns; a side is given a new folder."""
    best = dict.fromkeys(sides, float("inf"))
    for side in list(sides) * rounds:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            sides[side](Path(folder))
            best[side] = min(best[side], time.perf_counter() - began)
    return best


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side [3]")
    rounds = parser.parse_args(argv).rounds
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    frames, new = SECONDS * FRAME_RATE, lambda: Recording.draw((0, 0), SECONDS * FRAME_RATE)
    drawn, few = new(), frames // demo.STEP
    with tempfile.TemporaryDirectory() as kept:
        write_recording(kept, "train_1", drawn, step=demo.STEP, quick=True)
        best = best_of({
            "subject": lambda folder: new(),
            "paint": lambda folder: list(drawn.frames(demo.STEP)),
            "one by one": lambda folder: one_by_one(drawn),
            "demo": lambda folder: write_recording(folder, "train_1", new(), step=demo.STEP, quick=True),
            "25": lambda folder: write_recording(folder, "train_1", new()),
            "after": lambda folder: steps_after(link(folder, kept))}, rounds)
    print(f"{describe('torch', 'numpy')}, OpenCV {cv2.__version__}\n")
    print(f"{f'{SECONDS} s of one subject':52}{'seconds':>9}{'frames/s':>10}   reference")
    rows = [("what it feels, its look and its voice", "subject", 0, None),
            ("painting at 5 frames/s, all in one go", "paint", few, "one by one"),
            ("painting at 5 frames/s, frame by frame", "one by one", few, None),
            ("all, with files, at 5 frames/s (the demo)", "demo", few, "25"),
            ("all, with files, at 25 frames/s", "25", frames, None),
            ("the demo's steps after it, without training", "after", few, None)]
    for text, side, count, reference in rows:
        rate = f"{count / best[side]:10.0f}" if count else " " * 10
        ratio = f"   {best[reference] / best[side]:.2f} times as fast as '{reference}'" if reference else ""
        print(f"{text:52}{best[side]:9.2f}{rate}{ratio}")


def link(folder, kept):
    """`folder` with the raw corpus of `kept`."""
    for path in Path(kept).iterdir():
        (folder / path.name).symlink_to(path)
    return folder


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
