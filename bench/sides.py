"""The sides of the benches of training, each of which does steps, and the clock that lets them take turns."""
import math
import time

import numpy as np
import torch
from PIL import Image
from torch import nn

import objectives
from augmentation import on_device
from data import Clips, image_shapes
from losses import ccc
from models_kd import build_model, forward
from runs import INPUTS
from support.prefetching import prefetch
from training import Training, choose_precision, train_step

PAPER = {"target": "arousal", "clip_length": 5, "clip_stride": 1}  # the paper's, where config.py has other defaults


class Ours:
    """Steps as mmpkd.py does them: sampler, packed images, augmentation, loss, log, clipping, optimizer."""

    def __init__(self, stage, recordings, cfg, device, objective=objectives.task_objective, inputs=None):
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


def compare(sides, steps, rounds):
    """Best seconds of a step of each side, {name: seconds}; they take turns. sides: {name: work(steps)}."""
    times = {name: math.inf for name in sides}
    for work in sides.values():
        work(steps)  # to warm up
    for turn in range(rounds):
        for name in list(sides)[::(-1) ** turn]:
            began = time.perf_counter()
            sides[name](steps)
            times[name] = min(times[name], (time.perf_counter() - began) / steps)
    return times
