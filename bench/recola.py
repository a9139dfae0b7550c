"""How long the preprocessing of RECOLA takes here, and how long it took the original's way: 18 recordings of 5 minutes.

Rates are measured on a video (a drawn person at 640 x 480, or the clip given, looped to a minute) and on drawn voices, then
multiplied. The original's way: MTCNN with its defaults on every picture, librosa.load of every slice, a matplotlib figure of
every segment, one after the other. Ours: as many recordings at once as there are cores, as the scripts do it.

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
from support.workers import cores

FRAMES = 18 * 5 * 60 * 25  # 135,000


def measure_faces(folder, clip):
    """Pictures per second: {"ours": ..., "original": ...}."""
    import cv2

    import faces  # here: every worker of the sound's scripts imports this file, and has no use for torch
    from drawn.people import FRAME_RATE, Recording, write_video
    video = folder / "video.mp4"
    if clip:
        faces.loop_to(60, clip, video)
    else:
        write_video(video, (cv2.resize(rgb, (640, 480)) for rgb in Recording.draw((0, 0), 60 * FRAME_RATE).frames()))
    original = "MTCNN.detect on every picture, its defaults"
    return faces.rates_at_once(video, folder, ["ours"]) | {"original": faces.rates(video, folder, [original])[original]}


def duration(seconds):
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path, help="a video to take the rate of the faces from")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        (sounds := Path(folder, "sounds")).mkdir()
        sound = audio.measure(sounds)
        steps = {"face_detector.py": measure_faces(Path(folder), args.clip),
                 "audio_extract.py": sound["audio_extract 44.1 kHz"], "audio_melspec.py": sound["audio_melspec"]}
    print(f"{FRAMES} frames, {cores()} cores\n\n{'':20}{'frames/s':>10}{'in all':>10}{'original':>14}{'in all':>10}{'ratio':>8}")
    ours_s = original_s = 0
    for name, rate in steps.items():
        ours_s, original_s = ours_s + FRAMES / rate["ours"], original_s + FRAMES / rate["original"]
        print(f"{name:20}{rate['ours']:10.0f}{duration(FRAMES / rate['ours']):>10}{rate['original']:14.0f}{duration(FRAMES / rate['original']):>10}"
              f"{rate['ours'] / rate['original']:8.1f}")
    print(f"{'together':30}{duration(ours_s):>10}{duration(original_s):>24}{original_s / ours_s:8.1f}")


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
