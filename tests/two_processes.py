"""One training step of every stage, for torchrun: saves gradients, weights and statistics after it. main() alone is
one process.

    torchrun --nproc_per_node=2 tests/two_processes.py OUT
"""
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]

import torch
from conftest import SHAPES, STAGES, easy_recording, tiny_config

import mmpkd
import objectives
from data import Clips
from models_kd import build_model
from runs import INPUTS
from support.devices import joined, world
from training import Training, train_step

torch.set_num_threads(1)

EVERY = [*STAGES, "mean_teacher", "labels"]


def step_of(stage, methods):
    """{name: gradient, weight or statistic} after a step on a batch of 4 clips. No dropout: it differs between
    processes."""
    itself, labels = stage == "mean_teacher", stage == "labels"
    stage = "student" if itself or labels else stage
    cfg = tiny_config(stage=stage, batch_size=4, dropout=0.0, max_grad_norm=0.5, learning_rate=0.01,
                      visual_lr_scale=1.0, optimizer="sgd")
    torch.manual_seed(0)
    model, objective, inputs = build_model(stage, cfg, SHAPES), objectives.task_objective, INPUTS[stage]
    recordings = [easy_recording("a", 60, 0), easy_recording("b", 50, 1)]
    if itself:
        objective = objectives.MeanTeacher(0.5)
    elif labels:
        objective = objectives.labels_objective
    elif stage == "student":
        mmpkd.add_teacher_outputs(recordings, build_model("teacher", cfg, SHAPES).eval().requires_grad_(False))
        objective, inputs = objectives.Distillation(methods, "adaptive", 0.5), ("frames", "taught")
    rated, unlabelled = (recordings[:1], recordings[1:]) if labels else (recordings, [])
    clips = Clips(rated, cfg.batch_size, cfg.clip_length, inputs, 0, unlabelled=unlabelled)
    training = Training(model, cfg, getattr(objective, "adapters", None), decay=0.5)
    if itself:
        objective.begin(training.average, 0)
        training.average.clock.fill_(1)  # its full weight
    training.model.train()
    train_step(training, objective, next(clips.batches(0, 0, world())))
    parameters = dict(training.model.named_parameters()) | dict(training.adapters.named_parameters())
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in parameters.items()}
    average = {f"average of {name}": value for name, value in training.average.model.state_dict().items()}
    return gradients | training.model.state_dict() | average | {"loss": torch.tensor(training.sums["loss"])}


def main(out):
    with joined(tiny_config(batch_size=4)):
        results = {stage: step_of(stage, {"cosine": 0.5, "fitnets": 0.5, "ccc": 1.0}) for stage in EVERY}
        if world()[0] == 0:
            torch.save(results | {"processes": torch.tensor(world()[1])}, out)


if __name__ == "__main__":
    main(sys.argv[1])
