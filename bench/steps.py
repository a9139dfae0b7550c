"""Frames per second of every step, against the way that its library's manual would do it.

Draws two subjects, or takes two recordings of an existing corpus, one to train and one to validate on (nothing is
written into its folder). Both sides take turns and the best of the rounds counts, so that a busy machine affects both
equally. A ratio above 1: ours is faster.

    python bench/steps.py                       under 2 minutes on 2 cores
    python bench/steps.py --data-dir data
"""
import argparse
import contextlib
import io
import math
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import librosa
import numpy as np
import soundfile
import torch
from facenet_pytorch import MTCNN

import annotations
import audio_extract
import audio_melspec
import demo
import face_detector
import face_detector_frameRetention
import mmpkd
from config import Config
from drawn.people import FRAME_RATE, Recording, write_recording
from support import recordings
from support.errors import UserError, run_script
from support.machine import describe

SECONDS = 4  # of each drawn person
DRAWN = ["train_1", "dev_1"]
CFG = Config()


# ---- the references: the same work, frame by frame ------------------------------------------------------------------

def detect_with(mtcnn):
    """detect(data): every frame by OpenCV and facenet-pytorch's own call, without crops, alignment or files."""
    def detect(data):
        for video in sorted((data / "videos").iterdir()):
            capture = cv2.VideoCapture(str(video))
            while (frame := capture.read()[1]) is not None:
                mtcnn.detect(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), landmarks=True)
    return detect


def cut_with_librosa(data):
    """The recording by librosa.load, one slice and one file per frame."""
    half = round(CFG.segment_s * CFG.audio_rate) // 2
    for path in sorted((data / "audio").iterdir()):
        out = data / "reference" / path.stem
        out.mkdir(parents=True)
        sound, _ = librosa.load(path, sr=CFG.audio_rate)
        padded = np.pad(sound, half)
        for k in range(int(len(sound) / CFG.audio_rate * CFG.frame_rate)):
            start = round(k * CFG.audio_rate / CFG.frame_rate)
            soundfile.write(out / f"{k:06d}.wav", padded[start:start + 2 * half], CFG.audio_rate, subtype="PCM_16")


def draw_with_librosa(data):
    """One segment, one spectrogram, one image at a time, by librosa."""
    for path in sorted((data / "audio_segments").rglob("*.wav")):
        out = data / "reference" / path.parent.name / f"{path.stem}.png"
        out.parent.mkdir(parents=True, exist_ok=True)
        segment, rate = soundfile.read(path, dtype="float32")
        power = librosa.feature.melspectrogram(y=segment, sr=rate, n_fft=CFG.n_fft, hop_length=CFG.hop_length,
                                               n_mels=CFG.n_mels)
        db = librosa.power_to_db(power, top_db=None)
        cv2.imwrite(str(out), ((db - CFG.db_min) / (CFG.db_max - CFG.db_min) * 255).clip(0, 255).astype(np.uint8))


# ---- the clock ------------------------------------------------------------------------------------------------------

def seconds_of(work, data, made):
    """Seconds that work(data) takes. The folders `made`, which it writes, are moved out of the way before.

    They are not deleted: for minutes after many files were, ext4 takes up to ten times as long to make new ones.
    """
    for folder in (*made, "reference"):
        if (data / folder).exists():
            (data / folder).rename(Path(tempfile.mkdtemp(dir=data, prefix=".before.")) / folder)
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        work(data)
    return time.perf_counter() - began


def compare(sides, data, made, rounds):
    """Best seconds of each side, {name: seconds}; they take turns. sides: {name: work(data)}."""
    times = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides)[::(-1) ** turn]:
            times[name].append(seconds_of(sides[name], data, made if name == "ours" else ()))
    return {name: min(values) for name, values in times.items()}


def script(module):
    """work(data): the script's main on a data folder; mmpkd.py trains one epoch of the demo's teacher network."""
    flags = {"face_detector": ["--device", "cpu"], "face_detector_frameRetention": ["--device", "cpu"],
             "mmpkd": demo.flags(demo.TRAINING | {"frame_rate": CFG.frame_rate, "stage": "teacher", "epochs": 1,
                                                  "device": "cpu"})}
    return lambda data: module.main(["--data-dir", str(data), *flags.get(module.__name__, [])])


def draw_subjects(data):
    for number, name in enumerate(DRAWN):
        write_recording(data, name, Recording.draw((0, number), SECONDS * FRAME_RATE))


def take_recordings(source, data):
    """Links the first recordings of the corpus `source` to train and to validate on into the empty folder `data`."""
    first = {}
    for name in recordings.find_recordings([Path(source, "videos")], [], "nothing to measure"):
        first.setdefault(annotations.partition_of(name, CFG.train_ids, CFG.val_ids), name)
    names = [first.get(partition) for partition in recordings.PARTITIONS.values()]
    if None in names:
        raise UserError(f"{source}/videos/: expected {' and '.join(CFG.train_ids + CFG.val_ids)} in it, found "
                        f"{', '.join(name for name in first.values())}")
    for folder in ("videos", "audio", "ratings_gold_standard"):
        (data / folder).mkdir()
        for path in Path(source, folder).glob("[!.]*"):
            if path.stem in names:
                (data / folder / path.name).symlink_to(path.resolve())


# Step, folders it writes, its script, references {name: the same work}
STEPS = [
    ("annotations.py", ["Annotations"], annotations, {}),
    ("face_detector.py", ["Cropped_Aligned"], face_detector, {
        "MTCNN.detect, its defaults": detect_with(MTCNN()),
        f"MTCNN.detect, faces from {CFG.min_face_size} px":
            detect_with(MTCNN(keep_all=True, min_face_size=CFG.min_face_size))}),
    ("face_detector_frameRetention.py, after it", [], face_detector_frameRetention, {}),
    ("audio_extract.py", ["audio_segments"], audio_extract, {"librosa.load, slices": cut_with_librosa}),
    ("audio_melspec.py", ["specs"], audio_melspec, {"librosa per segment": draw_with_librosa}),
    ("mmpkd.py, an epoch of the demo's teacher", ["runs"], mmpkd, {}),
]


def line(name, rate, reference="", other=math.nan):
    """A line of the table: frames per second of ours and of a reference, and their ratio."""
    ours = f"{name:44}{rate:10.0f}" if name else " " * 54
    return f"{ours}   {reference:32}{other:10.0f}{rate / other:8.2f}" if reference else ours


def measure(data, rounds, frames):
    """Prints the lines of all steps on the recordings in a data folder."""
    for name, made, module, references in STEPS:
        best = compare({"ours": script(module), **references}, data, made, rounds)
        rate = {side: frames / seconds for side, seconds in best.items()}
        for k, reference in enumerate(references or [""]):
            print(line("" if k else name, rate["ours"], reference, rate.get(reference)), flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="", help="a corpus with audio/: two of its recordings; none: drawn ones")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side [2]")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        if args.data_dir:
            take_recordings(args.data_dir, data)
        drawing_s = None if args.data_dir else seconds_of(draw_subjects, data, [])
        frames = sum(recordings.known_frames(path.stem, CFG.frame_rate, data, data / "videos")[0]
                     for path in (data / "videos").iterdir())
        print(f"{frames} frames of {args.data_dir or 'drawn subjects'}; {describe('torch', 'librosa')}, "
              f"{torch.get_num_threads()} threads\n")
        print(f"{'step':44}{'frames/s':>10}   {'reference':32}{'frames/s':>10}{'ratio':>8}")
        if drawing_s:
            print(line("drawing subjects, with sound and encoding", frames / drawing_s))
        measure(data, args.rounds, frames)


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
