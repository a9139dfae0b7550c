"""What a training step costs: against its networks' bare work, against the original's way, with and without a teacher.

Draws two subjects (faces cropped where they were drawn, voices as spectrograms), writes their images as preprocessing
does, and times whole steps. Sides take turns and the best of the rounds counts, so that a busy machine affects all
equally.

    python bench/training.py                    9 minutes on 2 cores without a GPU, most of them VGG19's
    python bench/training.py --backbones small_cnn resnet18
"""
import argparse
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
from augmentation import on_device
from config import Config
from data import Clips, image_shapes, load_recordings, prefetch
from demo import FACES, NETWORKS, SPECS
from losses import ccc
from models_kd import build_model, forward
from runs import INPUTS
from support.errors import torch_device
from training import Training, choose_precision, train_step

SECONDS = 12  # of each drawn subject
SUBJECTS = {"train_1": "Train_Set", "train_2": "Train_Set"}
KINDS = INPUTS["teacher"]  # frames and specs
# Backbone -> settings, steps of a turn, turns: more of short steps, which a busy machine affects more
SIDES = {"small_cnn": ({**FACES, **SPECS, **NETWORKS}, 4, 12), "resnet18": ({"visual_backbone": "resnet18"}, 2, 5),
         "vgg19_bn": ({}, 1, 3)}


# ---- the sides: each returns what does its steps --------------------------------------------------------------------

class Ours:
    """Steps as mmpkd.py does them: sampler, packed images, augmentation, loss, log, clipping, optimizer."""

    def __init__(self, stage, recordings, cfg, device, objective=mmpkd.task_objective, inputs=None):
        self.objective = objective
        self.training = Training(build_model(stage, cfg, image_shapes(recordings)).to(device), cfg)
        self.training.precision = choose_precision(cfg.precision, device)
        self.training.model.train().in_bfloat16 = self.training.precision == "bfloat16"
        clips = Clips(recordings, cfg.batch_size, cfg.clip_length, inputs or INPUTS[stage], cfg.seed)
        batches = (batch for epoch in range(10 ** 6) for batch in clips.batches(epoch))
        self.batches = prefetch(batches, device.type == "cuda")

    def __call__(self, steps):
        for _ in range(steps):
            train_step(self.training, self.objective, next(self.batches))
        self.training.check()


def distil_live(objective, teacher):
    """An objective like `objective`, a Distillation, whose teacher runs on the clips of every batch."""
    def live(model, batch):
        with torch.no_grad():
            output = forward(teacher, batch)
        return objective(model, batch._replace(taught=torch.cat([output.pred, output.feat], 2)))
    return live


class Bare:
    """Forward, backward and optimizer step of the same model in the same precision, on tensors on the device."""

    def __init__(self, ours, stage, recordings, cfg, device):
        self.training = Training(build_model(stage, cfg, image_shapes(recordings)).to(device), cfg)
        self.model, self.precision = self.training.model.train(), ours.training.precision
        clips = Clips(recordings, cfg.batch_size, cfg.clip_length, self.model.inputs, cfg.seed)
        self.batch = on_device(next(clips.batches(0)), device)

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
    """The original's way: float32, images opened one by one, a loop over the clips, a teacher run on every batch."""

    def __init__(self, stage, recordings, cfg, device, teacher=None):
        self.model = build_model(stage, cfg, image_shapes(recordings)).to(device).train()
        self.model.to(memory_format=torch.contiguous_format)
        self.teacher, self.device = teacher, device
        self.optimizer = torch.optim.Adam(self.model.parameters(), cfg.learning_rate, fused=False)
        self.recordings, self.cfg = recordings, cfg
        self.clips = Clips(recordings, cfg.batch_size, cfg.clip_length, (), cfg.seed).of_epoch(0)

    def images(self, recording, start, kind):
        """A clip's images: (1, T, C, H, W) in [0, 1]."""
        images = []
        for k in range(start, start + self.cfg.clip_length):
            array = np.asarray(Image.open(recording.paths[kind][k]), np.float32) / 255
            array = array.reshape(*recording.arrays[kind].shape[2:], -1)
            images.append(torch.from_numpy(array).permute(2, 0, 1))
        return torch.stack(images)[None].to(self.device)

    def __call__(self, steps):
        for _ in range(steps):
            preds, feats, taught, gold = [], [], [], []
            for number, start in self.clips[:self.cfg.batch_size]:
                recording = self.recordings[number]
                frames = self.images(recording, start, "frames")
                output = self.model(frames)
                preds.append(output.pred)
                feats.append(output.feat)
                gold.append(torch.from_numpy(recording.gold[start:start + self.cfg.clip_length]).to(self.device))
                if self.teacher:
                    with torch.no_grad():
                        taught.append(self.teacher(frames, self.images(recording, start, "specs")).feat)
            loss = 1 - ccc(torch.cat(preds).flatten(), torch.cat(gold).flatten())
            if self.teacher:
                student, teacher = torch.cat(feats).flatten(), torch.cat(taught).flatten()
                loss = loss + 1 - nn.functional.cosine_similarity(student, teacher, dim=0)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()


# ---- the clock ------------------------------------------------------------------------------------------------------

def compare(sides, steps, rounds):
    """Best seconds of a step of each side, {name: seconds}; they take turns. sides: {name: work(steps)}."""
    times = {name: math.inf for name in sides}
    for work in sides.values():
        work(1)  # to warm up
    for turn in range(rounds):
        for name in list(sides)[::(-1) ** turn]:
            began = time.perf_counter()
            sides[name](steps)
            times[name] = min(times[name], (time.perf_counter() - began) / steps)
    return times


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
    distillation = mmpkd.Distillation({"cosine": 1.0}, "adaptive", 0.5).to(device)
    visual, both = Ours("visual", recordings, cfg, device), Ours("teacher", recordings, cfg, device)
    sides = {"visual": visual, "bare": Bare(visual, "visual", recordings, cfg, device),
             "student": Ours("student", recordings, cfg, device, distillation, ("frames", "taught")),
             "live": Ours("student", recordings, cfg, device, distil_live(distillation, teacher), KINDS),
             "teacher": both, "bare teacher": Bare(both, "teacher", recordings, cfg, device)}
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
             ("student", "original student", "the original's way")]
    precision = sides["visual"].training.precision
    yield f"{name}, {cfg.face_size} px, {cfg.batch_size} x {cfg.clip_length} frames, {precision}"
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
            write_pictures(folder, SUBJECTS, SECONDS, cfg)
            recordings = load_recordings(cfg, "Train_Set", KINDS)
            if number == 0:
                print(loader_line(recordings, cfg))
            for line in lines_of(name, cfg, recordings, device, steps, rounds):
                print(line, flush=True)


if __name__ == "__main__":
    main()
