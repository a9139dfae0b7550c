"""Segments per second of audio_extract.py and audio_melspec.py, beside the original code's way and librosa's.

Synthesises voices at 44.1 kHz as in RECOLA, half its length: enough to be worth a second process. Sides take turns
and the best round of each counts, so that a busy machine slows all of them; all of them write files. The references do
only the first segments, as each takes equally long. "files alone" only reads and writes the files of the first
recording, in one process: no program can be faster on one core. On a disk that is slow at making files all are bound
by it: put TMPDIR=/another/disk before the command to measure there (12 GB).
A script that calls `measure` should import little at the top, as this one does: every worker imports it, too.

    python bench/audio.py                                   2 minutes on 2 cores
    python bench/audio.py --people 4 --minutes 1            small: one process is as fast
"""
import argparse
import contextlib
import io
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import numpy as np
import soundfile

import audio_extract
import audio_melspec
from config import Config
from support.errors import run_script
from support.files import write_bytes
from support.machine import describe

CFG = Config()
SIZES = {"n_fft": CFG.n_fft, "hop_length": CFG.hop_length, "n_mels": CFG.n_mels}
ORIGINAL_SEGMENTS, LIBROSA_SEGMENTS = 60, 400  # that the references do, or as many as a recording has


# ---- the references -------------------------------------------------------------------------------------------------

def cut_with_librosa(data, count):
    """One librosa.load of one slice and one file per frame, resampled slice by slice."""
    import librosa
    path = sorted((data / "audio").iterdir())[0]
    out = data / "reference"
    out.mkdir()
    for k in range(count):
        sound, rate = librosa.load(path, sr=CFG.audio_rate, offset=k / CFG.frame_rate, duration=CFG.segment_s)
        soundfile.write(out / f"{k:06d}.wav", sound, rate, subtype="PCM_16")


def draw_with_matplotlib(data, count):
    """The original code's way: opens each segment, transforms it and saves a figure of it as a coloured JPEG. A small
    figure is in its favour: one of matplotlib's default size takes a sixth longer."""
    import librosa
    from matplotlib import pyplot
    pyplot.switch_backend("Agg")
    out = data / "reference"
    out.mkdir()
    for path in some_segments(data, count):
        segment, rate = librosa.load(path, sr=None)
        power = librosa.feature.melspectrogram(y=segment, sr=rate, **SIZES)
        figure = pyplot.figure(figsize=(2.24, 2.24), dpi=100)
        pyplot.axis("off")
        librosa.display.specshow(librosa.power_to_db(power, ref=np.max), sr=rate, hop_length=CFG.hop_length)
        pyplot.savefig(out / f"{path.stem}.jpg")
        pyplot.close(figure)


def draw_with_librosa(data, count):
    """One segment, one spectrogram, one grey PNG at a time."""
    import librosa
    out = data / "reference"
    out.mkdir()
    for path in some_segments(data, count):
        segment, rate = soundfile.read(path, dtype="float32")
        power = librosa.feature.melspectrogram(y=segment, sr=rate, **SIZES)
        db = librosa.power_to_db(power, top_db=None)
        grey = ((db - CFG.db_min) / (CFG.db_max - CFG.db_min) * 255).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(out / f"{path.stem}.png"), grey)


def files_alone(data, read, size, count):
    """Reads the files `read` of a folder, at most `count`, and writes `count` files of `size` bytes."""
    content = bytes(size)
    for path in sorted(data.glob(read))[:count]:
        path.read_bytes()
    out = data / "reference"
    out.mkdir()
    for number in range(count):
        write_bytes(f"{out}/{number:06d}", content)


def some_segments(data, count):
    return sorted(sorted((data / "audio_segments").glob("[!.]*/"))[0].glob("*.wav"))[:count]


# ---- the clock ------------------------------------------------------------------------------------------------------

def draw_voices(data, rate, people, minutes):
    """Writes synthesised voices, mono 16 bit at `rate` Hz, into data/audio."""
    from scipy.signal import resample_poly

    from drawn.people import FRAME_RATE, SOUND_RATE, Recording
    (data / "audio").mkdir(parents=True)
    for number in range(people):
        sound = Recording.draw((0, number), round(minutes * 60) * FRAME_RATE).sound
        if rate != SOUND_RATE:
            sound = resample_poly(sound, rate // 100, SOUND_RATE // 100).clip(-1, 1)
        soundfile.write(data / "audio" / f"train_{number}.wav", sound, rate, subtype="PCM_16")


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


def rates(sides, data, made, rounds, counts):
    """Segments per second of each of `sides` {name: work(data)}, the best round of each; they take turns.

    made: folders that ours writes; counts: segments that each side does.
    """
    times = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides)[::(-1) ** turn]:
            times[name].append(seconds_of(sides[name], data, made if name == "ours" else ()))
    return {name: counts[name] / min(times[name]) for name in sides}


def measure(data, people=9, minutes=5.0, rounds=2, workers=0):
    """Segments per second on synthesised voices in the empty folder `data`: {step: {side: rate}}.

    Steps: "audio_extract 44.1 kHz", "audio_extract 16 kHz", "audio_melspec" and "audio_melspec array". Sides: "ours",
    "original" (librosa.load of every slice; a matplotlib figure of every segment), "librosa", "files alone", and of
    the array "images" (ours, an image per frame).
    """
    def run(module, *words):
        return lambda folder: module.main(["--data-dir", str(folder), "--workers", str(workers), *words])
    each = round(minutes * 60 * CFG.frame_rate)
    figures, few = min(ORIGINAL_SEGMENTS, each), min(LIBROSA_SEGMENTS, each)
    wav_size, columns = round(CFG.segment_s * CFG.audio_rate) * 2 + 44, audio_melspec.mel_spec_of(CFG).columns
    png_size = len(audio_melspec.png(np.zeros((CFG.n_mels, columns), np.uint8)))
    counts = {"ours": each * people, "files alone": each, "original": few, "librosa": few}
    found = {}
    for name, rate in (("44.1 kHz", 44100), ("16 kHz", 16000)):
        draw_voices(folder := data / name, rate, people, minutes)
        found[f"audio_extract {name}"] = rates(
            {"ours": run(audio_extract), "original": partial(cut_with_librosa, count=few)},
            folder, ["audio_segments"], rounds, counts)
        alone = partial(files_alone, read="audio/train_0.wav", size=wav_size, count=each)
        found[f"audio_extract {name}"] |= rates({"files alone": alone}, folder, [], rounds, counts)
    counts["original"] = figures
    alone = partial(files_alone, read="audio_segments/train_0/*.wav", size=png_size, count=each)
    found["audio_melspec"] = rates(
        {"ours": run(audio_melspec), "original": partial(draw_with_matplotlib, count=figures),
         "librosa": partial(draw_with_librosa, count=few), "files alone": alone},
        folder, ["specs"], rounds, counts)
    array = {"ours": run(audio_melspec, "--spec-files", "array")}
    found["audio_melspec array"] = rates(array, folder, ["specs"], rounds, counts)
    found["audio_melspec array"]["images"] = found["audio_melspec"]["ours"]
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=9, help="voices [9]")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each [5]")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side [2]")
    parser.add_argument("--workers", type=int, default=0, help="of our side, as the scripts take it [0]")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.people, args.minutes, args.rounds, args.workers)
    print(f"{args.people} x {args.minutes:g} min, segments per second; {describe('librosa')}\n")
    print(f"{'step':26}{'ours':>8}   {'reference':40}{'':>8}{'ratio':>8}")
    words = {"original": {"audio_extract": "librosa.load of every slice",
                          "audio_melspec": "original: a matplotlib figure of each"},
             "librosa": {"audio_melspec": "librosa per segment, PNG"}, "files alone": {},
             "images": {"audio_melspec": "audio_melspec, an image per frame"}}
    for step, best in found.items():
        ours = f"{step:26}{best['ours']:8.0f}"
        for name in [name for name in best if name != "ours"]:
            side = words[name].get(step.split()[0], name)
            print(f"{ours}   {side:40}{best[name]:8.0f}{best['ours'] / best[name]:8.2f}")
            ours = " " * 34


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
