"""Whether preprocessing makes the same bytes with several workers, in shards, and after SIGKILL at random moments.

Draws a small corpus, runs steps 1, 2 and 3 on it undisturbed, then again in the other ways, and compares all files.

    python bench/preprocessing.py --kills 20        6 minutes on 2 cores
"""
import argparse
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import soundfile
from tqdm import tqdm

from drawn.people import FRAME_RATE, SOUND_RATE, Recording, write_video
from support.errors import UserError, run_script
from support.machine import describe

STEPS = {"face_detector.py": "Cropped_Aligned", "audio_extract.py": "audio_segments", "audio_melspec.py": "specs"}
DRAWN = 250  # frames of each person, shown again and again
PEOPLE, FRAMES = 3, 2500


def draw_people(data, people, frames):
    """Writes videos of drawn subjects who leave the picture now and then, and their voices, into `data`."""
    for number in tqdm(range(people), "drawing people", disable=None, leave=False):
        drawn = Recording.draw((0, number + 4), DRAWN)
        pictures = itertools.islice(itertools.cycle(list(drawn.frames())), frames)
        write_video(data / "videos" / f"train_{number + 1}.mp4", pictures)
        (data / "audio").mkdir(exist_ok=True)
        sound = np.resize(drawn.sound, frames * SOUND_RATE // FRAME_RATE)
        soundfile.write(data / "audio" / f"train_{number + 1}.wav", sound, SOUND_RATE)


def start(script, data, *flags):
    return subprocess.Popen([sys.executable, script, "--data-dir", data, *flags], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(script, data, *flags):
    """Runs a script to its end: seconds that it took. Raises UserError with its output if it fails."""
    began, process = time.perf_counter(), start(script, data, *flags)
    output, _ = process.communicate()
    if process.returncode:
        raise UserError(f"{script} {' '.join(flags)} ended with exit code {process.returncode}: {output}")
    return time.perf_counter() - began


def contents(folder):
    """Path -> digest of every file in a folder, hidden ones too."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest() for path in files}


def verdict(made, wanted):
    wrong = sorted(name for name in made.keys() | wanted.keys() if made.get(name) != wanted.get(name))
    return f"{len(made)} files, all the same bytes" if not wrong else f"{len(wrong)} FILES DIFFER, {wrong[0]} first"


def run_killed(script, data, kills, seconds, chance):
    """Starts a script and kills it at work, `kills` times, each after up to `seconds`; then runs it to its end.

    A killed run loses the recording that it was in, no other.
    """
    for _ in tqdm(range(kills), f"killing {script}", disable=None, leave=False):
        while True:
            process = start(script, data)
            time.sleep(chance.uniform(0, seconds))
            if process.poll() is None:
                break
            shutil.rmtree(data / STEPS[script])  # it had ended: begin again
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finish(script, data)


def drill(script, data, kills, chance):
    """Whether all ways of running a script make the same files; prints a line for each way."""
    folder = data / STEPS[script]
    seconds = finish(script, data, "--workers", "1")
    wanted = contents(folder)
    print(f"\n{script}: {len(wanted)} files in {seconds:.0f} s, one worker")
    ways = {"2 workers": lambda: finish(script, data, "--workers", "2"),
            "3 shards": lambda: [finish(script, data, "--shard", f"{i}/3") for i in (2, 3, 1)],
            f"killed {kills} times": lambda: run_killed(script, data, kills, seconds, chance)}
    results = []
    for way, run in ways.items():
        shutil.rmtree(folder)
        run()
        results.append(contents(folder))
        print(f"  {way:20}{verdict(results[-1], wanted)}", flush=True)
    return all(result == wanted for result in results)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each script [20]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    args = parser.parse_args(argv)
    print(f"{PEOPLE} x {FRAMES} frames; {describe()}")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        draw_people(data, PEOPLE, FRAMES)
        chance = random.Random(args.seed)
        good = [drill(script, data, args.kills, chance) for script in STEPS]
    if not all(good):
        raise UserError("not all files were the same")


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
