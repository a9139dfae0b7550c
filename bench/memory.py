"""Memory of every step on one long recording, or on many, over time, against the same steps on little.

Draws a subject and writes one minute of it; the long video has its packets again and again. Or writes four seconds of
it, and many recordings are links to these files. Every script then runs on a small corpus and on the large one, and its
memory is looked at ten times a second: that of all its processes together, shared pages counted once, without pages of
files, which the kernel gives back when it needs them (arrays of images are read in place).

    python bench/memory.py --minutes 60                 8 minutes on 2 cores, 8 GB of disk in --work-dir
    python bench/memory.py --recordings 600             beside 6; as many as Aff-Wild2 has
    python bench/memory.py --minutes 5 --plot memory.png

A step is flat if its peak on the large corpus is at most 1.3 times, or 100 MB above, that on the small one.
"""
import argparse
import contextlib
import itertools
import os
import re
import shutil
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
from support.machine import describe

DRAWN = 250  # frames that are drawn, and shown again and again
SECONDS = 60  # of the recordings of the small corpus
LONG, OTHER = "train_1", "dev_1"  # the recording that is long, and one of a minute, to validate on
FEW, MANY_S = 6, 4  # recordings of the small corpus beside which many are measured, and the seconds of each
EVERY_S = 0.1  # the quickest step ends within half a second
SLACK, SLACK_MB = 1.3, 100  # of a step that is flat
TEACHER = ("--stage teacher --target both --visual-backbone tiny_cnn --audio-backbone tiny_cnn --feature-size 16 "
           "--gru-size 16 --epochs 1 --device cpu")
ONE = "--workers 1"  # in one process: a corpus of a minute is not worth two
STEPS = {"annotations.py": "", "face_detector.py": f"--face-size 48 {ONE}", "audio_extract.py": ONE,
         "audio_melspec.py": f"--n-mels 32 {ONE}", "mmpkd.py": TEACHER, "plot_ccc.py": "", "report.py": "",
         "predict.py": ONE}


# ---- the corpora ----------------------------------------------------------------------------------------------------

def draw(data, seconds):
    """A corpus of two recordings."""
    (data / "audio").mkdir(parents=True)
    (data / "ratings_gold_standard").mkdir()
    for number, name in enumerate((LONG, OTHER)):
        drawn, frames = Recording.draw((0, number + 4), min(DRAWN, seconds * FRAME_RATE)), seconds * FRAME_RATE
        pictures = itertools.islice(itertools.cycle(list(drawn.frames())), frames)
        write_video(data / "videos" / f"{name}.mp4", tqdm(pictures, name, frames, leave=False, disable=None))
        sound = np.resize(drawn.sound, seconds * SOUND_RATE)
        soundfile.write(data / "audio" / f"{name}.wav", sound, SOUND_RATE, subtype="PCM_16")
        write_gold(data, name, np.resize(drawn.gold, (frames, 2)))


def write_gold(data, name, gold):
    np.savetxt(data / "ratings_gold_standard" / f"{name}.csv", gold, "%.4f", ";")


def lengthened(data, out, minutes):
    """The same corpus with the first recording that many minutes long."""
    shutil.copytree(data, out)
    video, wav, csv = (Path(folder, f"{LONG}.{kind}") for folder, kind in (
        ("videos", "mp4"), ("audio", "wav"), ("ratings_gold_standard", "csv")))
    repeat_packets(data / video, out / video, minutes)
    sound, rate = soundfile.read(data / wav, dtype="int16")
    with soundfile.SoundFile(out / wav, "w", rate, 1, "PCM_16") as file:
        for _ in range(minutes):
            file.write(sound)
    (out / csv).write_text((data / csv).read_text() * minutes)
    return out


def multiplied(data, out, recordings):
    """The same corpus with so many recordings in all: links to the first one's files under other names."""
    shutil.copytree(data, out)
    for folder, kind in (("videos", "mp4"), ("audio", "wav"), ("ratings_gold_standard", "csv")):
        for number in range(2, recordings):
            os.link(out / folder / f"{LONG}.{kind}", out / folder / f"train_{number}.{kind}")
    return out


def repeat_packets(source, out, times):
    """A video again and again, without decoding it."""
    with av.open(str(source)) as container, av.open(str(out), "w") as longer:
        stream = container.streams.video[0]
        copy, length = longer.add_stream_from_template(stream), stream.duration
        for turn in range(times):
            container.seek(0)
            for packet in container.demux(stream):
                if packet.dts is not None:
                    packet.pts, packet.dts, packet.stream = packet.pts + turn * length, packet.dts + turn * length, copy
                    longer.mux(packet)


# ---- memory ---------------------------------------------------------------------------------------------------------

def memory_of(root):
    """Megabytes of a process and its descendants together, (without, of) pages of files; what they share counts once
    (Linux's proportional set size)."""
    parents, own, files = {}, 0, 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    for pid in family:
        with contextlib.suppress(OSError):
            pages = dict(re.findall(r"Pss_(\w+):\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text()))
            own, files = own + int(pages["Anon"]) + int(pages["Shmem"]), files + int(pages["File"])
    return own / 1024, files / 1024


def measured(script, data):
    """(n, 3) of a script that runs to its end: seconds since its start, megabytes without and of pages of files."""
    words = STEPS[script].split()
    if script == "predict.py":
        words += [f"{data}/runs/teacher_both/best.pt", clips_of(data), "--out", f"{data}/predictions"]
    else:
        words += ["--data-dir", str(data)]
    with tempfile.TemporaryFile("w+") as printed:
        began, curve = time.monotonic(), []
        process = subprocess.Popen([sys.executable, script, *words], cwd=ROOT, stdout=printed, stderr=printed)
        while process.poll() is None:
            curve.append((time.monotonic() - began, *memory_of(process.pid)))
            time.sleep(EVERY_S)
        if process.returncode:
            printed.seek(0)
            raise UserError(f"{script} ended with exit code {process.returncode}: {printed.read()}")
    return np.array(curve)


def clips_of(data):
    """A folder of the videos with their sounds beside them, as predict.py takes them."""
    folder = data / "clips"
    folder.mkdir()
    for path in [*(data / "videos").iterdir(), *(data / "audio").iterdir()]:
        os.link(path, folder / path.name)
    return str(folder)


def line_of(script, short, long):
    """A line of the table, and whether the step is flat."""
    at = [part[:, 1].max(initial=0) for part in np.array_split(long, 4)]  # the peak in each quarter of its time
    peaks = short[:, 1].max(), long[:, 1].max()
    flat = peaks[1] <= max(SLACK * peaks[0], peaks[0] + SLACK_MB)
    return (f"{script:18}{long[-1, 0]:8.0f}{peaks[0]:14.0f}" + "".join(f"{value:8.0f}" for value in at)
            + f"{peaks[1]:10.0f}{long[:, 2].max():8.0f}   {'flat' if flat else 'GROWS'}"), flat


def plot(curves, names, path):
    """The curves of all steps, each in a panel."""
    import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot
    fig, axes = pyplot.subplots(2, 4, figsize=(13, 5), constrained_layout=True)
    for axis, (script, both) in zip(axes.flat, curves.items()):
        for curve, name in zip(both, names):
            axis.plot(curve[:, 0] / curve[-1, 0] * 100, curve[:, 1], label=name)
        axis.set(title=script, ylim=(0, None), xlabel="% of its time", ylabel="MB")
    axes.flat[0].legend()
    fig.savefig(path, dpi=100)


def corpora(args, folder):
    """Makes the small and the large corpus in a folder: [(name, data folder)]."""
    base, large, many = folder / "base", folder / "large", args.recordings
    draw(base, MANY_S if many else SECONDS)
    if many:
        return [(f"{FEW} recordings", multiplied(base, folder / "few", FEW)),
                (f"{many} recordings", multiplied(base, large, many))]
    return [("1 minute", base), (f"{args.minutes} minutes", lengthened(base, large, args.minutes))]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60, help="of the long recording [60]")
    parser.add_argument("--recordings", type=int, help="in place of a long one, many of four seconds")
    parser.add_argument("--work-dir", help="where the corpora are made [the folder for temporary files]")
    parser.add_argument("--plot", metavar="FILE.png", help="also draw the curves")
    args = parser.parse_args(argv)
    if args.recordings and args.recordings <= FEW:
        parser.error(f"--recordings: more than the {FEW} beside which they are measured")
    if args.work_dir:
        Path(args.work_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work_dir) as folder:
        names, folders = zip(*corpora(args, Path(folder)))
        print(f"{describe('torch')}\n\nmegabytes of all processes of a script on {names[1]}, beside {names[0]}\n"
              f"{'':26}{names[0]:>14}{f'{names[1]}: peak of each quarter':>38}\n"
              f"{'':18}{'seconds':>8}{'peak':>14}{'1st':>8}{'2nd':>8}{'3rd':>8}{'4th':>8}{'peak':>10}{'files':>8}")
        curves, flat = {}, []
        for script in STEPS:
            curves[script] = [measured(script, data) for data in folders]
            line, is_flat = line_of(script, *curves[script])
            flat.append(is_flat)
            print(line, flush=True)
    if args.plot:
        plot(curves, names, args.plot)
    if not all(flat):
        raise UserError("not every step is flat")


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
