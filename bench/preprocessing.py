"""Whether preprocessing makes the same bytes with several workers, in shards, and after SIGKILL at random moments.

Draws a small corpus, runs steps 1, 2 and 3 on it undisturbed, then again in the other ways, and compares all files.

    python bench/preprocessing.py --kills 20        6 minutes on 2 cores
    python bench/preprocessing.py --kills 0 --memory 60     peak memory with a video of 60 minutes, 5 minutes
"""
import argparse
import contextlib
import hashlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import av
import numpy as np
import soundfile
from tqdm import tqdm

from drawn.people import FRAME_RATE, SOUND_RATE, Recording, write_video
from support.errors import UserError, run_script

STEPS = {"face_detector.py": "Cropped_Aligned", "audio_extract.py": "audio_segments", "audio_melspec.py": "specs"}
DRAWN = 250  # frames of each person, shown again and again


def draw_people(data, people, frames):
    """Writes videos of drawn people who leave the picture now and then, and their voices, into `data`."""
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


def lengthen(source, out, minutes):
    """The packets of a video again and again, without decoding, until it is that long."""
    with av.open(str(source)) as container, av.open(str(out), "w") as longer:
        stream = container.streams.video[0]
        copy, length = longer.add_stream_from_template(stream), stream.duration
        for turn in range(round(minutes * 60 / float(length * stream.time_base))):
            container.seek(0)
            for packet in container.demux(stream):
                if packet.dts is not None:
                    packet.pts, packet.dts, packet.stream = packet.pts + turn * length, packet.dts + turn * length, copy
                    longer.mux(packet)


def memory(data, minutes, recordings):
    """Prints the peak memory of each step, with its default workers, on 1 to 3 recordings of that length."""
    shutil.rmtree(data / "Cropped_Aligned", ignore_errors=True)
    names = [f"train_{number + 1}" for number in range(recordings)]
    for name in names:
        video, wav = data / "videos" / f"{name}.mp4", data / "audio" / f"{name}.wav"
        lengthen(video, data / "long.mp4", minutes)
        (data / "long.mp4").replace(video)
        sound, rate = soundfile.read(wav, dtype="int16")
        soundfile.write(wav, np.resize(sound, round(minutes * 60 * rate)), rate)
    for path in [*(data / "videos").iterdir(), *(data / "audio").iterdir()]:
        if path.stem not in names:
            path.unlink()
    print(f"\n{recordings} x {minutes:g} minutes, default workers: peak memory of all processes of a script together")
    for script, folder in STEPS.items():
        shutil.rmtree(data / folder, ignore_errors=True)
        began, peak, process = time.perf_counter(), 0, start(script, data)
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(0.5)
        seconds, output = time.perf_counter() - began, process.communicate()[0]
        if process.returncode:
            raise UserError(f"{script} ended with exit code {process.returncode}: {output}")
        rate = recordings * minutes * 60 * FRAME_RATE / seconds
        print(f"  {script:20}{peak / 2**20:6.2f} GB{seconds:7.0f} s{rate:7.0f} frames/s", flush=True)


def memory_of(root):
    """Kilobytes of a process and its descendants, what they share counted once (Linux's proportional set size)."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for pid in family:
        with contextlib.suppress(OSError):
            total += int(re.search(r"Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())[1])
    return total


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each script [20]; 0: no drill")
    parser.add_argument("--memory", type=float, default=0, metavar="MINUTES",
                        help="measures memory on recordings of that length; 0: not at all [0]")
    parser.add_argument("--recordings", type=int, choices=(1, 2, 3), default=1, help="of that length [1]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        draw_people(data, 3, 2500)
        chance = random.Random(args.seed)
        good = [drill(script, data, args.kills, chance) for script in STEPS] if args.kills else []
        if args.memory:
            memory(data, args.memory, args.recordings)
    if not all(good):
        raise UserError("not all files were the same")


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
