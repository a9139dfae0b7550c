"""What a training step costs: against its networks' bare work, against the original's way, with and without a teacher.

Draws two subjects (faces cropped where they were drawn, voices as spectrograms), writes their images as preprocessing
does, and times whole steps. Sides take turns and the best of the rounds counts, so that a busy machine affects all
equally.

    python bench/training.py                    15 minutes on 2 cores without a GPU, most of them VGG19's
    python bench/training.py --backbones small_cnn resnet18
"""
import argparse
import dataclasses
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from corpus_bounds import write_pictures
from PIL import Image
from sides import PAPER, Bare, Original, Ours, compare, distil_live

import mmpkd
import objectives
from config import Config
from data import Clips, image_shapes, load_recordings
from losses import ccc
from models_kd import build_model
from runs import INPUTS
from scores import predict
from study.methods import FACES, NETWORKS, SPECS
from support.devices import has_bfloat16
from support.errors import run_script, torch_device
from support.machine import describe

SECONDS = 12  # of each drawn subject
SUBJECTS = {"train_1": "Train_Set", "train_2": "Train_Set"}
KINDS = INPUTS["teacher"]  # frames and specs
# Backbone -> settings, steps of a turn, turns: more of short steps, which a busy machine affects more
SIDES = {"small_cnn": ({**FACES, **SPECS, **NETWORKS}, 4, 12), "resnet18": ({"visual_backbone": "resnet18"}, 2, 5),
         "vgg19_bn": ({}, 1, 3)}
LEARNED = {"resnet18": 60, "vgg19_bn": 20}  # steps after which the two precisions are compared by their CCC


NAMES = {"bfloat16": "visual, bfloat16", "bfloat16 student": "student, bfloat16"}


# ---- the lines ------------------------------------------------------------------------------------------------------

def read_with_pil(recordings, clips, length, _):
    for number, start in clips:
        for kind in KINDS:
            for k in range(start, start + length):
                np.asarray(Image.open(recordings[number].paths[kind][k]))


def loader_line(recordings, cfg):
    """Random clips from the packed images, against decoding the same images with PIL."""
    clips = Clips(recordings, cfg.batch_size, cfg.clip_length, KINDS, cfg.seed)

    def ours(epochs):
        for epoch in range(epochs):
            for _ in clips.batches(epoch):
                pass

    by_pil = partial(read_with_pil, recordings, clips.of_epoch(0), cfg.clip_length)
    times = compare({"ours": ours, "PIL": by_pil}, 1, 5)
    ours_s, pil_s = (times[side] / (clips.steps * cfg.batch_size * cfg.clip_length) for side in ("ours", "PIL"))
    name = "faces and spectrograms of random clips"
    return f"{name:44}{1 / ours_s:11.0f}   {'PIL':28}{1 / pil_s:11.0f}{pil_s / ours_s:8.2f}"


def sides_of(name, cfg, recordings, device):
    """{side: work(steps)} of one backbone."""
    teacher = build_model("teacher", cfg, image_shapes(recordings)).to(device).eval().requires_grad_(False)
    mmpkd.add_teacher_outputs(recordings, teacher)
    distillation = objectives.Distillation({"cosine": 1.0}, "adaptive", 0.5).to(device)
    visual, both = Ours("visual", recordings, cfg, device), Ours("teacher", recordings, cfg, device)
    sides = {"visual": visual, "bare": Bare(visual, "visual", recordings, cfg, device),
             "student": Ours("student", recordings, cfg, device, distillation, ("frames", "taught")),
             "live": Ours("student", recordings, cfg, device, distil_live(distillation, teacher), KINDS),
             "teacher": both, "bare teacher": Bare(both, "teacher", recordings, cfg, device)}
    if name in LEARNED and has_bfloat16(device):
        half = dataclasses.replace(cfg, precision="bfloat16")
        sides["bfloat16"] = Ours("visual", recordings, half, device)
        sides["bfloat16 student"] = Ours("student", recordings, half, device, distillation, ("frames", "taught"))
    if name == "vgg19_bn":
        sides["original"] = Original("visual", recordings, cfg, device)
        sides["original student"] = Original("student", recordings, cfg, device, teacher)
    return sides


def lines_of(name, cfg, recordings, device, steps, rounds):
    """The table's lines for one backbone, frames per second."""
    sides = sides_of(name, cfg, recordings, device)
    times = compare(sides, steps, rounds)
    rate = {side: cfg.batch_size * cfg.clip_length / seconds for side, seconds in times.items()}
    pairs = [("visual", "bare", "bare steps"), ("teacher", "bare teacher", "bare steps"),
             ("student", "visual", "visual"), ("student", "live", "teacher in every step"),
             ("visual", "original", "the original's way"),
             ("student", "original student", "the original's way"),
             ("bfloat16", "visual", "visual, float32"), ("bfloat16", "original", "the original's way"),
             ("bfloat16 student", "original student", "the original's way")]
    precision = sides["visual"].training.precision
    yield f"{name}, {cfg.face_size} px, {cfg.batch_size} x {cfg.clip_length} frames, {precision}"
    for side, other, label in pairs:
        if side in rate and other in rate:
            side_rate = f"  {NAMES.get(side, side):42}{rate[side]:11.1f}"
            yield f"{side_rate}   {label:28}{rate[other]:11.1f}{rate[side] / rate[other]:8.2f}"


def learned_line(cfg, recordings, device, steps):
    """CCC on the recordings that were trained on, after the same steps in either precision."""
    cccs, gold = [], np.concatenate([one.gold[:, 0] for one in recordings])
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(cfg.seed)
        side = Ours("visual", recordings, dataclasses.replace(cfg, precision=precision), device)
        side(steps)
        preds = np.concatenate([*predict(side.training.model, recordings).values()])
        cccs.append(f"{precision} {float(ccc(preds[:, 0], gold)):.3f}")
    return f"  CCC on the recordings trained on, after {steps} steps: {', '.join(cccs)}"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="*", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--device", default="", help="cpu, cuda ...; none: cuda where there is one")
    args = parser.parse_args(argv)
    device = torch_device(args.device)
    named = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    print(f"{named}{describe('torch')}, {torch.get_num_threads()} threads\n")
    print(f"{'side':44}{'frames/s':>11}   {'reference':28}{'frames/s':>11}{'ratio':>8}")
    for number, name in enumerate(args.backbones):
        settings, steps, rounds = SIDES[name]
        with tempfile.TemporaryDirectory() as folder:
            cfg = Config(**PAPER | settings, data_dir=folder)
            write_pictures(folder, SUBJECTS, SECONDS, cfg)
            recordings = load_recordings(cfg, "Train_Set", KINDS)
            if number == 0:
                print(loader_line(recordings, cfg))
            for line in lines_of(name, cfg, recordings, device, steps, rounds):
                print(line, flush=True)
            if name in LEARNED and has_bfloat16(device):
                print(learned_line(cfg, recordings, device, LEARNED[name]), flush=True)


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
