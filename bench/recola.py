"""How long the preprocessing of RECOLA (18 recordings of 5 minutes) takes, and how long it took in the original's way.

Rates are measured on a video (a drawn person at 640 x 480, or the clip given, looped to a minute) and on drawn voices,
then multiplied. The original's way, one recording after the other: MTCNN with its defaults on every picture,
librosa.load of every slice, a matplotlib figure of every segment. Ours: one recording per core at a time.

    python bench/recola.py                  2 minutes on 2 cores
    python bench/recola.py clip.mp4
"""
import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import audio

from support.errors import run_script
from support.machine import cores

FRAMES = 18 * 5 * 60 * 25  # 135,000


def measure_faces(folder, clip):
    """Pictures per second: {"ours": ..., "original": ...}."""
    import crops  # here, because every worker of the scripts for sound imports this file, and needs no torch
    import cv2

    from drawn.people import FRAME_RATE, Recording, write_video
    video = folder / "video.mp4"
    if clip:
        crops.loop_to(60, clip, video)
    else:
        write_video(video, (cv2.resize(rgb, (640, 480)) for rgb in Recording.draw((0, 0), 60 * FRAME_RATE).frames()))
    original = crops.rates(video, folder, [crops.ORIGINAL])[crops.ORIGINAL]
    return crops.rates_at_once(video, folder, ["ours"]) | {"original": original}


def duration(seconds):
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path, help="a video to measure the speed of the face crops on")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        (sounds := Path(folder, "sounds")).mkdir()
        sound = audio.measure(sounds)
        steps = {"face_detector.py": measure_faces(Path(folder), args.clip),
                 "audio_extract.py": sound["audio_extract 44.1 kHz"], "audio_melspec.py": sound["audio_melspec"]}
    print(f"{FRAMES} frames, {cores()} cores\n\n"
          f"{'':20}{'frames/s':>10}{'in all':>10}{'original':>14}{'in all':>10}{'ratio':>8}")
    ours_s = original_s = 0
    for name, rate in steps.items():
        ours_s, original_s = ours_s + FRAMES / rate["ours"], original_s + FRAMES / rate["original"]
        print(f"{name:20}{rate['ours']:10.0f}{duration(FRAMES / rate['ours']):>10}{rate['original']:14.0f}"
              f"{duration(FRAMES / rate['original']):>10}{rate['ours'] / rate['original']:8.1f}")
    print(f"{'together':30}{duration(ours_s):>10}{duration(original_s):>24}{original_s / ours_s:8.1f}")


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
