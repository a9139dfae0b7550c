"""What a training step costs: beside its networks' bare work, beside the original's way, with and without a teacher.

Draws two people (faces cropped where they were drawn, voices as spectrograms), writes their pictures as the preprocessing does, and
times whole steps. Sides take turns and the best of the rounds counts, so that a busy machine troubles both alike.

    python bench/training.py                    8 minutes on 2 cores without a GPU, most of them VGG19's
    python bench/training.py --backbones small_cnn resnet18
"""
import argparse
import contextlib
import math
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from corpus_bounds import write_pictures
from PIL import Image
from torch import nn

import mmpkd
from config import Config
from data import Clips, ahead, load_recordings, on_device, picture_shapes
from demo import FACES, NETWORKS, SPECS
from losses import ccc
from models_kd import build_model
from support.errors import torch_device
from training import Training, choose_precision, train_step

SECONDS = 12  # of each drawn person
PEOPLE = {"train_1": "Train_Set", "train_2": "Train_Set"}
# Backbone -> settings, how many steps a turn takes, and how many turns: more of short ones, as a busy machine troubles them more
SIDES = {"small_cnn": ({**FACES, **SPECS, **NETWORKS}, 4, 12), "resnet18": ({"visual_backbone": "resnet18"}, 2, 5), "vgg19_bn": ({}, 1, 3)}


# ---- the sides: each returns what does its steps --------------------------------------------------------------------

class Ours:
    """Steps as mmpkd.py does them: sampler, packed pictures, augmentation, loss, log, clipping, optimizer."""

    def __init__(self, stage, recordings, cfg, device, teacher=None):
        inputs = ("frames", "taught") if teacher and cfg.teacher_cache else mmpkd.trained_on(stage)
        self.objective = mmpkd.Distillation(teacher, {"cosine": 1.0}, "adaptive", 0.5) if teacher else mmpkd.task_objective
        self.training = Training(build_model(stage, cfg, picture_shapes(recordings)).to(device), cfg)
        self.training.precision = choose_precision(cfg.precision, device)
        self.training.model.train().in_bfloat16 = self.training.precision == "bfloat16"
        clips = Clips(recordings, cfg.batch_size, cfg.clip_length, inputs, cfg.seed)
        self.batches = ahead((batch for epoch in range(10 ** 6) for batch in clips.batches(epoch)), device.type == "cuda")

    def __call__(self, steps):
        for _ in range(steps):
            train_step(self.training, self.objective, next(self.batches))
        self.training.check()


class Bare:
    """Forward, backward and optimizer step of the same model in the same precision on tensors that lie ready on the device."""

    def __init__(self, ours, stage, recordings, cfg, device):
        self.training = Training(build_model(stage, cfg, picture_shapes(recordings)).to(device), cfg)
        self.model, self.precision = self.training.model.train(), ours.training.precision
        self.batch = on_device(next(Clips(recordings, cfg.batch_size, cfg.clip_length, self.model.inputs, cfg.seed).batches(0)), device)

    def __call__(self, steps):
        for _ in range(steps):
            with torch.autocast(self.batch.gold.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                pred = self.model(*[getattr(self.batch, name) for name in self.model.inputs]).pred.float()
            loss = 1 - ccc(pred.flatten(), self.batch.gold.flatten())
            self.training.optimizer.zero_grad()
            loss.backward()
            self.training.optimizer.step()
        if self.batch.gold.is_cuda:
            torch.cuda.synchronize()


class Original:
    """The original's way: float32, images opened one at a time, a loop over the clips; with a teacher, it goes through every batch too."""

    def __init__(self, stage, recordings, cfg, device, teacher=None):
        self.model, self.teacher, self.device = build_model(stage, cfg, picture_shapes(recordings)).to(device).train(), teacher, device
        self.model.to(memory_format=torch.contiguous_format)
        self.optimizer = torch.optim.Adam(self.model.parameters(), cfg.learning_rate, fused=False)
        self.recordings, self.cfg = recordings, cfg
        self.clips = Clips(recordings, cfg.batch_size, cfg.clip_length, (), cfg.seed).of_epoch(0)

    def pictures(self, recording, start, kind):
        paths = [recording.paths[kind][k] for k in range(start, start + self.cfg.clip_length)]
        arrays = [np.asarray(Image.open(path), np.float32).reshape(*recording.arrays[kind].shape[2:], -1) / 255 for path in paths]
        return torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in arrays])[None].to(self.device)

    def __call__(self, steps):
        for _ in range(steps):
            preds, feats, taught, gold = [], [], [], []
            for number, start, _ in self.clips[:self.cfg.batch_size]:
                recording = self.recordings[number]
                frames = self.pictures(recording, start, "frames")
                output = self.model(frames)
                preds.append(output.pred), feats.append(output.feat)
                gold.append(torch.from_numpy(recording.gold[start:start + self.cfg.clip_length]).to(self.device))
                if self.teacher:
                    with torch.no_grad():
                        taught.append(self.teacher(frames, self.pictures(recording, start, "specs")).feat)
            loss = 1 - ccc(torch.cat(preds).flatten(), torch.cat(gold).flatten())
            if self.teacher:
                loss = loss + 1 - nn.functional.cosine_similarity(torch.cat(feats).flatten(), torch.cat(taught).flatten(), dim=0)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()


# ---- the clock ------------------------------------------------------------------------------------------------------

def compare(sides, steps, rounds):
    """Best seconds of a step of each of `sides` (name -> work(steps)), taking turns, after one step each to warm up."""
    times = {name: math.inf for name in sides}
    for work in sides.values():
        work(1)
    for turn in range(rounds):
        for name in list(sides)[::(-1) ** turn]:
            began = time.perf_counter()
            sides[name](steps)
            times[name] = min(times[name], (time.perf_counter() - began) / steps)
    return times


def read_with_pil(recordings, clips, kinds, length, _):
    for number, start, _ in clips:
        for kind in kinds:
            for k in range(start, start + length):
                np.asarray(Image.open(recordings[number].paths[kind][k]))


def loader_line(recordings, cfg):
    """Random clips from the packed pictures, beside PIL decoding the same."""
    clips = Clips(recordings, cfg.batch_size, cfg.clip_length, mmpkd.trained_on("student"), cfg.seed)
    batches = clips.steps

    def ours(epochs):
        for epoch in range(epochs):
            for _ in clips.batches(epoch):
                pass

    by_pil = partial(read_with_pil, recordings, clips.of_epoch(0), mmpkd.trained_on("student"), cfg.clip_length)
    times = compare({"ours": ours, "PIL": by_pil}, 1, 5)
    frames = batches * cfg.batch_size * cfg.clip_length
    return f"{'faces and spectrograms of random clips':44}{frames / times['ours']:11.0f}   {'PIL':28}{frames / times['PIL']:11.0f}" \
           f"{times['PIL'] / times['ours']:8.2f}"


def lines_of(name, cfg, recordings, device, steps, rounds):
    """The table's lines for one backbone, frames per second."""
    shapes = picture_shapes(recordings)
    teacher = build_model("teacher", cfg, shapes).to(device).eval().requires_grad_(False)
    with contextlib.redirect_stdout(None):
        mmpkd.keep_outputs(lambda _: [[teacher]], recordings, name, cfg, device)
    live = Config(**{**vars(cfg), "teacher_cache": 0})
    visual = Ours("visual", recordings, cfg, device)
    sides = {"visual": visual, "bare": Bare(visual, "visual", recordings, cfg, device), "student": Ours("student", recordings, cfg, device, teacher),
             "live": Ours("student", recordings, live, device, teacher), "teacher": (heard := Ours("teacher", recordings, cfg, device)),
             "bare teacher": Bare(heard, "teacher", recordings, cfg, device)}
    if name == "vgg19_bn":
        sides |= {"original": Original("visual", recordings, cfg, device), "original student": Original("student", recordings, cfg, device, teacher)}
    times = compare(sides, steps, rounds)
    rate = {side: cfg.batch_size * cfg.clip_length / seconds for side, seconds in times.items()}
    pairs = [("visual", "bare", "bare steps"), ("teacher", "bare teacher", "bare steps"), ("student", "visual", "visual"),
             ("student", "live", "teacher in every step"), ("visual", "original", "the original's way"),
             ("student", "original student", "the original's way")]
    yield f"{name}, {cfg.face_size} px, {cfg.batch_size} x {cfg.clip_length} frames, {visual.training.precision}"
    for side, other, label in pairs:
        if other in rate:
            yield f"  {side:42}{rate[side]:11.1f}   {label:28}{rate[other]:11.1f}{rate[side] / rate[other]:8.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="*", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--device", default="", help="cpu, cuda ...; none: cuda where there is one")
    args = parser.parse_args()
    device = torch_device(args.device)
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} cores"
    print(f"{named}, torch {torch.__version__}\n")
    print(f"{'side':44}{'frames/s':>11}   {'reference':28}{'frames/s':>11}{'ratio':>8}")
    for number, name in enumerate(args.backbones):
        settings, steps, rounds = SIDES[name]
        with tempfile.TemporaryDirectory() as folder:
            cfg = Config(**settings, data_dir=folder, target="arousal")
            write_pictures(folder, PEOPLE, SECONDS, cfg)
            recordings = load_recordings(cfg, "Train_Set", mmpkd.trained_on("student"))
            if number == 0:
                print(loader_line(recordings, cfg))
            for line in lines_of(name, cfg, recordings, device, steps, rounds):
                print(line, flush=True)


if __name__ == "__main__":
    main()
