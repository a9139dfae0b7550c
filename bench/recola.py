"""How long the preprocessing of RECOLA or Aff-Wild2 takes, and how long it would take in the original's way.

Rates are measured on a video (a drawn subject at 640 x 480, or the clip given, looped to a minute) and on drawn voices,
then multiplied. The original's way, one recording after the other: MTCNN with its defaults on every frame,
librosa.load of every slice, a matplotlib figure of every segment. Ours: one recording per core at a time.

    python bench/recola.py                  2 minutes on 2 cores
    python bench/recola.py clip.mp4
    python bench/recola.py --corpus affwild2
"""
import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import audio

from support.errors import run_script
from support.machine import describe

# Frames: of 18 recordings of 5 minutes at 25 frames/s, and of some 600 recordings (Kollias & Zafeiriou, 2019)
CORPORA = {"recola": 135_000, "affwild2": 2_800_000}
SECONDS = 60  # of the video that is measured


def measure_faces(folder, clip):
    """Pictures per second: {"ours": ..., "original": ...}."""
    import crops  # here, because every worker of the scripts for sound imports this file, and needs no torch
    import cv2

    from drawn.people import FRAME_RATE, Recording, write_video
    video = folder / "video.mp4"
    if clip:
        crops.loop_to(SECONDS, clip, video)
    else:
        drawn = Recording.draw((0, 0), SECONDS * FRAME_RATE)
        write_video(video, (cv2.resize(rgb, (640, 480)) for rgb in drawn.frames()))
    original = crops.rates(video, folder, [crops.ORIGINAL])[crops.ORIGINAL]
    return crops.rates_at_once(video, folder, ["ours"]) | {"original": original}


def duration(seconds):
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path, help="a video to measure the speed of the face crops on")
    parser.add_argument("--corpus", choices=CORPORA, default="recola", help="whose size is multiplied with [recola]")
    args = parser.parse_args(argv)
    frames = CORPORA[args.corpus]
    with tempfile.TemporaryDirectory() as folder:
        (sounds := Path(folder, "sounds")).mkdir()
        sound = audio.measure(sounds)
        steps = {"face_detector.py": measure_faces(Path(folder), args.clip),
                 "audio_extract.py": sound["audio_extract 44.1 kHz"], "audio_melspec.py": sound["audio_melspec"]}
    print(f"{args.corpus}: {frames} frames, {describe('torch', 'librosa')}\n\n"
          f"{'':20}{'frames/s':>10}{'in all':>10}{'original':>14}{'in all':>10}{'ratio':>8}")
    ours_s = original_s = 0
    for name, rate in steps.items():
        ours_s, original_s = ours_s + frames / rate["ours"], original_s + frames / rate["original"]
        print(f"{name:20}{rate['ours']:10.0f}{duration(frames / rate['ours']):>10}{rate['original']:14.0f}"
              f"{duration(frames / rate['original']):>10}{rate['ours'] / rate['original']:8.1f}")
    print(f"{'together':30}{duration(ours_s):>10}{duration(original_s):>24}{original_s / ours_s:8.1f}")


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
