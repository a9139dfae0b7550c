"""What training costs on a GPU: whole steps beside bare ones, launches, utilisation, memory; RECOLA's three runs.

Of every network, in float32 and bfloat16: frames per second of steps as mmpkd.py does them (replayed from a CUDA
graph), beside the same with --no-cuda-graph (launched), and beside forward, backward and optimizer step of the same
network on tensors on the device (bare), in the same run by turns, with cudnn as mmpkd.py sets it (deterministic) and as
it is fastest. Busy is the share of a step in which kernels run. Images are random numbers, in files as large as
RECOLA's. What is measured is printed at once, as Markdown for bench/README.md.

    python bench/gpu.py                 5 minutes on an H200; bench/gpu.sh runs it shorter, with tests and scripts
    python bench/gpu.py --small         shows on any machine that it runs; its figures mean nothing
"""
import argparse
import contextlib
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import numpy as np
import torch
from sides import PAPER, Bare, Ours, compare
from tqdm import tqdm

import data
import face_detector
import mmpkd
import objectives
import packing
import scores
import training
from checkpoints import describe_model
from config import Config
from drawn.people import FRAME_RATE, Recording, write_video
from faces import Tracker
from models_kd import build_model
from study.methods import FACES, NETWORKS, SPECS
from support.errors import run_script, torch_device
from support.machine import describe

RECOLA = {"train": 9 * 7500, "val": 9 * 7500}  # frames
EPOCHS = 10


class Size(NamedTuple):
    """How much is measured."""
    frames: int  # of each recording
    recordings: int
    seconds: float  # of a side's turn, and a fourth of the stretch in which the GPU is watched
    rounds: int


class Bench(NamedTuple):
    folder: str  # for files
    device: torch.device
    small: bool
    size: Size
    watch: threading.Thread  # a Watch
    deadline: float  # of time.monotonic(): nothing is begun later


SIZES = {False: Size(7500, 3, 0.3, 3), True: Size(60, 2, 0.01, 1)}  # small or not
# Network -> settings, clips of a batch: the paper's (or the demo's) and more
NETWORKS_OF = {"vgg19_bn": ({}, (8, 64)), "resnet18": ({"visual_backbone": "resnet18"}, (8, 64)),
               "small_cnn": ({**FACES, **SPECS, **NETWORKS}, (4, 32))}
SMALL = {"visual_backbone": "tiny_cnn", "audio_backbone": "tiny_cnn", "face_size": 32, "clip_length": 2,
         "feature_size": 16, "gru_size": 16}
CASES = [("resnet18", 0, "bfloat16"), ("small_cnn", 0, "bfloat16"), ("vgg19_bn", 1, "bfloat16"),
         ("vgg19_bn", 0, "float32"), ("small_cnn", 0, "float32"), ("resnet18", 1, "bfloat16"),
         ("vgg19_bn", 1, "float32"), ("small_cnn", 1, "bfloat16"), ("resnet18", 0, "float32"),
         ("resnet18", 1, "float32"), ("small_cnn", 1, "float32")]  # beside the vgg19_bn of recola()


def say(*words):
    print(*words, flush=True)


def config_of(name, size, precision, small=False):
    """Settings of a network with its size-th batch size."""
    settings, batches = NETWORKS_OF[name]
    clips = 2 if small else batches[size]
    return Config(**PAPER | settings | (SMALL if small else {}) | {"batch_size": clips, "precision": precision})


# ---- recordings of random images ------------------------------------------------------------------------------------

def make_recordings(bench, cfg):
    """Recordings whose images are random numbers, in files that are read in place as data.py does it."""
    folder, size = bench.folder, bench.size
    rng = np.random.default_rng(0)
    shapes = {"frames": (3, cfg.face_size, cfg.face_size),
              "specs": (1, cfg.n_mels, round(cfg.segment_s * cfg.audio_rate) // cfg.hop_length + 1)}
    recordings = []
    for number in range(size.recordings):
        arrays = {}
        for kind, shape in shapes.items():
            path = Path(folder, f"{kind}_{cfg.face_size}_{number}.npy")
            if not path.exists():
                np.save(path, rng.integers(0, 256, (size.frames, *shape), np.uint8))
            arrays[kind] = np.load(path, mmap_mode="r")
        gold = 0.6 * np.sin(np.arange(size.frames) / 50 + number)[:, None].astype(np.float32)
        recordings.append(data.Recording(f"random_{number + 1}", gold, {}, arrays))
    return recordings


# ---- the GPU, watched -----------------------------------------------------------------------------------------------

class Watch(threading.Thread):
    """Samples the GPU's utilisation ten times a second; needs the package nvidia-ml-py."""

    def __init__(self, device):
        super().__init__(daemon=True)
        self.device, self.samples = device, []  # (time, percent)

    def run(self):
        with contextlib.suppress(Exception):  # no NVML, or not on this machine: the table has a dash
            while self.device.type == "cuda":
                self.samples.append((time.monotonic(), torch.cuda.utilization(self.device)))
                time.sleep(0.1)

    def percent(self, began, ended):
        """Mean between two times, as text; the first .4 s are left out, since a sample covers what was before it."""
        values = [percent for at, percent in self.samples if began + 0.4 <= at <= ended]
        return f"{statistics.mean(values):.0f} %" if values else "-"


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def host_ms(side, device):
    """Milliseconds until a step is submitted to an idle device: near those of a step, the processor holds it up."""
    def once():
        synchronize(device)
        began = time.perf_counter()
        training.train_step(side.training, side.objective, next(side.batches))
        return (time.perf_counter() - began) * 1000
    return statistics.median(once() for _ in range(10))


def profile(work, device):
    """(kernels of a step, milliseconds of a step in which kernels ran, [(ms, name)] of the longest) of a side."""
    if device.type != "cuda":
        return "-", "-", []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        work(5)
        synchronize(device)
    kernels = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
    longest = sorted(((event.self_device_time_total / 5000, event.key) for event in kernels), reverse=True)
    return f"{sum(event.count for event in kernels) / 5:.0f}", f"{sum(ms for ms, _ in longest):.2f}", longest[:12]


def free_memory():
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---- steps ----------------------------------------------------------------------------------------------------------

def unbound(work):
    """The same work with cudnn's fastest algorithms, deterministic or not."""
    def unbound_work(steps):
        cudnn = torch.backends.cudnn
        cudnn.deterministic, cudnn.benchmark = False, True
        try:
            work(steps)
        finally:
            cudnn.deterministic, cudnn.benchmark = True, False
    return unbound_work


HEAD = ("| network | clips x frames | precision | steps/s | frames/s | launched | bare | ratio | bare, any cudnn | "
        "step ms | host ms | GPU busy ms | busy | launches | utilisation | reserved GB |\n|" + " --- |" * 16)


def turn_steps(side, seconds, device):
    """Steps of a side that take about so many seconds."""
    side(3)  # to warm up
    synchronize(device)
    began = time.perf_counter()
    side(5)
    return max(1, round(seconds / (time.perf_counter() - began) * 5))


def measure(name, cfg, recordings, bench, stage="visual", **objective):
    """Prints a line of the table, of one network: (frames per second, the kernels that take longest)."""
    device, size = bench.device, bench.size
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    side = Ours(stage, recordings, cfg, device, **objective)
    steps = turn_steps(side, size.seconds, device)
    began = time.monotonic()
    side(4 * steps)
    percent = bench.watch.percent(began, time.monotonic())
    reserved = f"{torch.cuda.max_memory_reserved() / 1e9:.2f}" if device.type == "cuda" else "-"
    host = host_ms(side, device)
    bare = Bare(side, stage, recordings, cfg, device)
    launched = Ours(stage, recordings, replace(cfg, cuda_graph=False), device, **objective)
    seconds = compare({"ours": side, "launched": launched, "bare": bare, "any": unbound(bare)}, steps, size.rounds)
    frames, step_ms = cfg.batch_size * cfg.clip_length, seconds["ours"] * 1000
    rate = {key: frames / value for key, value in seconds.items()}
    try:
        launches, busy_ms, longest = profile(side, device)
    except Exception as error:  # no profiler on this machine: the rest of the line is as good
        launches, busy_ms, longest = "-", "-", [(0, f"not profiled: {error}")]
    busy = "-" if busy_ms == "-" else f"{float(busy_ms) / step_ms:.0%}"
    say(f"| {name} {cfg.face_size} px | {cfg.batch_size} x {cfg.clip_length} | {side.training.precision} | "
        f"{1 / seconds['ours']:.1f} | {rate['ours']:.0f} | {rate['launched']:.0f} | {rate['bare']:.0f} | "
        f"{rate['ours'] / rate['bare']:.2f} | {rate['any']:.0f} | {step_ms:.2f} | {host:.2f} | {busy_ms} | {busy} | "
        f"{launches} | {percent} | {reserved} |")
    return rate["ours"], longest


def attempt(name, deadline, work):
    """What work() returns; None, with the reason said, if it fails or it is too late to begin."""
    if time.monotonic() > deadline:
        say(f"\n{name}: left out, no time left\n")
        return None
    try:
        return work()
    except Exception as error:
        say(f"\n{name}: FAILED, {type(error).__name__}: {' '.join(str(error).split())[:300]}\n")
        traceback.print_exc()
        return None
    finally:
        free_memory()


def networks_table(bench):
    """Prints the lines of the networks, beside those of recola(), and on stderr their longest kernels."""
    say("\n" + HEAD)
    for name, batch, precision in CASES:
        cfg = config_of(name, batch, precision, bench.small)
        made = attempt(f"{name} {precision}", bench.deadline, lambda cfg=cfg, name=name: measure(
            name, cfg, make_recordings(bench, cfg), bench))
        if made and batch == 0:
            print_kernels(f"{name}, {precision}", made[1])


def print_kernels(name, longest):
    """The kernels that take longest, on stderr."""
    lines = [f"  {ms:7.3f}  {key[:110]}" for ms, key in longest]
    print(f"{name}: ms of a step", *lines, sep="\n", file=sys.stderr, flush=True)


# ---- RECOLA ---------------------------------------------------------------------------------------------------------

def predicting_rate(model, recordings, device):
    """Frames per second of predictions along whole recordings."""
    scores.predict(model, recordings[:1])
    synchronize(device)
    began = time.perf_counter()
    scores.predict(model, recordings)
    return sum(map(len, recordings)) / (time.perf_counter() - began)


def packing_rate(folder, recording, most=1500):
    """Frames per second of packing face crops and spectrograms, as the first run does with a corpus."""
    paths = {}
    for kind, ending in (("frames", "jpg"), ("specs", "png")):
        (out := Path(folder, "images", kind)).mkdir(parents=True, exist_ok=True)
        paths[kind] = [out / f"{k:06d}.{ending}" for k in range(min(most, len(recording)))]
        for k, path in enumerate(paths[kind]):
            cv2.imwrite(str(path), recording.arrays[kind][k].transpose(1, 2, 0))
    began = time.perf_counter()
    for kind in paths:
        packing.packed(paths[kind], Path(folder, f"packed_{kind}"), kind, tqdm(disable=True))
    return len(paths["frames"]) / (time.perf_counter() - began)


def real_epochs(folder, cfg, recordings, device):
    """Seconds of an epoch by training.train over all recordings but one, with validation on that one and checkpoints;
    seconds of the checkpoints alone."""
    cfg, (val, *rated) = replace(cfg, stage="visual", epochs=2), recordings
    shapes = data.image_shapes(recordings)
    clips = data.Clips(rated, cfg.batch_size, cfg.clip_length, ("frames",), cfg.seed)
    (out := Path(folder, "run")).mkdir(exist_ok=True)
    run = training.Training(build_model("visual", cfg, shapes).to(device), cfg)
    run.precision = training.choose_precision(cfg.precision, device)
    about = describe_model(cfg, shapes, {"train": rated, "val": [val]})
    training.RunFiles.draw = lambda self, last=False: None  # curves: a second every 15
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        training.train(run, objectives.task_objective, clips, lambda model: scores.score(
            scores.predictions(model, [val], cfg), cfg.targets), out, about)
    wall_s = time.perf_counter() - began
    (out / "best.pt").unlink()
    inner_s = [json.loads(line)["seconds"] for line in (out / "log.jsonl").read_text().splitlines()]
    return inner_s[-1], (wall_s - sum(inner_s)) / 2


def recola(bench):
    """Prints the rates of a student's three runs with VGG19 and what they come to for RECOLA."""
    cfg, device, folder = config_of("vgg19_bn", 0, "auto", bench.small), bench.device, bench.folder
    recordings = make_recordings(bench, cfg)
    shapes = data.image_shapes(recordings)
    teacher = build_model("teacher", cfg, shapes).to(device).eval().requires_grad_(False)
    visual = build_model("visual", cfg, shapes).to(device).eval()
    rates = {"teacher's outputs": predicting_rate(teacher, recordings[:1], device),
             "visual predictions": predicting_rate(visual, recordings[:1], device),
             "packing": packing_rate(folder, recordings[0])}
    del visual
    mmpkd.add_teacher_outputs(recordings, teacher)
    del teacher
    free_memory()
    distillation = objectives.Distillation({"cosine": 1.0}, "adaptive", 0.5).to(device)
    say("\n" + HEAD)
    for stage, extra in (("visual", {}), ("teacher", {}),
                         ("student", {"objective": distillation, "inputs": ("frames", "taught")})):
        made = attempt(stage, bench.deadline, lambda stage=stage, extra=extra: measure(
            f"{stage}, vgg19_bn", cfg, recordings, bench, stage, **extra))
        rates[stage] = made[0]
        print_kernels(stage, made[1])
    epoch_s, saving_s = real_epochs(folder, cfg, recordings, device)
    expected_s = len(recordings[0]) * ((len(recordings) - 1) / rates["visual"] + 1 / rates["visual predictions"])
    say(f"\nAn epoch of the visual network by training.train, {len(recordings[0])} x {len(recordings) - 1} frames, and "
        f"{len(recordings[0])} of validation: {epoch_s:.1f} s ({expected_s:.1f} s by these rates), and for its "
        f"checkpoints {saving_s:.1f} s.")
    say(recola_table(rates, saving_s))


def recola_table(rates, saving_s):
    """RECOLA's three runs by measured rates, frames per second of each piece of work, as Markdown."""
    train, val = RECOLA["train"], RECOLA["val"]
    rows = [("packing the images, once", (train + val) / rates["packing"])]
    for stage in ("visual", "teacher", "student"):
        predicting = rates["teacher's outputs" if stage == "teacher" else "visual predictions"]
        epochs_s = EPOCHS * (train / rates[stage] + val / predicting + saving_s) + (train + val) / predicting
        taught_s = train / rates["teacher's outputs"] if stage == "student" else 0
        rows.append((f"{stage}, {EPOCHS} epochs", epochs_s + taught_s))
    lines = [f"\nRECOLA, {train} frames to train on and {val} of validation after every epoch, {EPOCHS} epochs, by: "
             + ", ".join(f"{name} {rate:.0f} frames/s" for name, rate in rates.items()) + "\n",
             "| RECOLA with VGG19 | minutes |\n| --- | --- |"]
    lines += [f"| {name} | {seconds / 60:.1f} |" for name, seconds in rows]
    return "\n".join([*lines, f"| together | {sum(seconds for _, seconds in rows) / 60:.1f} |"])


# ---- does a run repeat, and which device finds faces faster ---------------------------------------------------------

def repeats(bench):
    """Prints whether ten steps from the same seed end in the same bits twice."""
    words = []
    for name, precision in (("vgg19_bn", "bfloat16"), ("resnet18", "bfloat16"), ("small_cnn", "bfloat16"),
                            ("small_cnn", "float32")):
        cfg, ends = config_of(name, 0, precision, bench.small), []
        recordings = make_recordings(bench, cfg)
        for _ in range(2):
            torch.manual_seed(0)
            side = Ours("visual", recordings, cfg, bench.device)
            side(10)
            ends.append(torch.cat([value.detach().flatten() for value in side.training.model.parameters()]))
        apart = (ends[0] - ends[1]).abs().max().item()
        words.append(f"{name} {precision} " + ("the same bits" if apart == 0 else f"weights up to {apart:.1e} apart"))
    say("\nTwo runs of ten steps from one seed: " + ", ".join(words) + ".")


def faces(bench):
    """Prints the frames per second of face_detector.py in one process on the CPU and on the device."""
    video, kinds = Path(bench.folder, "video.mp4"), ["cpu", str(bench.device)]
    frames = 50 if bench.small else 20 * FRAME_RATE
    write_video(video, (cv2.resize(rgb, (640, 480)) for rgb in Recording.draw((0, 0), frames).frames()))
    cfg, rates = Config(frame_rate=FRAME_RATE), {}
    for kind in kinds * 2:
        with face_detector.one_thread():
            tracker = Tracker(face_detector.finder(cfg.min_face_size, cfg.face_score, kind))
            with tempfile.TemporaryDirectory(dir=bench.folder) as out:
                began = time.perf_counter()
                face_detector.detect(video, Path(out, "faces"), tracker, cfg, False, lambda n: None)
                rates[kind] = frames / (time.perf_counter() - began)  # the second time: warm
    say("\nface_detector.py, one process, 640 x 480: "
        + ", ".join(f"{rate:.0f} frames/s on {kind}" for kind, rate in rates.items()) + ".")


# ---- main -----------------------------------------------------------------------------------------------------------

def about(device):
    """The machine in words."""
    words = f"{describe('torch')}, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}"
    if device.type != "cuda":
        return f"no GPU, {words}"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.split("\n")[0].strip()
    except (OSError, subprocess.TimeoutExpired):
        driver = "unknown"
    return (f"{torch.cuda.get_device_name(device)} ({torch.cuda.get_device_properties(device).total_memory / 1e9:.0f} "
            f"GB), driver {driver}, CUDA {torch.version.cuda}, cudnn {torch.backends.cudnn.version()}, {words}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="", help="cpu, cuda ...; none: cuda where there is one")
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--seconds", type=float, default=600, help="nothing more is begun after so many")
    args = parser.parse_args(argv)
    device = torch_device(args.device)
    torch.backends.cudnn.deterministic = True  # as mmpkd.py
    say(f"{about(device)}{', SMALL: figures mean nothing' * args.small}")
    watch = Watch(device)
    watch.start()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, device, args.small, SIZES[args.small], watch, time.monotonic() + args.seconds)
        for part in (recola, repeats, networks_table, faces):
            attempt(part.__name__, bench.deadline, partial(part, bench))


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
