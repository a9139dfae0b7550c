"""What a network is trained to do: the objectives of the training calls, (model, batch) -> loss, {name: part of it}.

Shapes: B clips of a batch, T frames of a clip, K targets. With several devices the loss is that of their whole batch.
"""
import torch
from torch import nn

from losses import DISTILL, ccc_distill, ccc_loss
from models_kd import HINT, forward
from support.devices import whole_batch

# ---- task loss ------------------------------------------------------------------------------------------------------

def task_loss(output, gold):
    """1 - CCC of each target over all frames of a batch: Output, (B, T, K) -> (K,)."""
    return ccc_loss(output.pred.flatten(0, 1), gold.flatten(0, 1))


def of_whole_batch(output):
    """An Output for the clips of all devices that share the batch."""
    return output._replace(pred=whole_batch(output.pred), feat=whole_batch(output.feat))


def task_objective(model, batch):
    """Ratings alone: visual, audio, teacher."""
    loss = task_loss(of_whole_batch(forward(model, batch)), whole_batch(batch.gold)).mean()
    return loss, {"task": loss}


def labels_objective(model, batch):
    """Ratings and pseudo-labels: the mean of two losses, that of the rated clips and that of the unlabelled ones, which
    alternate in a batch (data.Clips).

    One CCC over both would compare them with one mean and one variance, though the labels of rated subjects are
    ratings, with the level of each subject, and those of unlabelled ones have none.
    """
    output, gold = of_whole_batch(forward(model, batch)), whole_batch(batch.gold)
    task, labels = (task_loss(output._replace(pred=output.pred[first::2]), gold[first::2]).mean() for first in (0, 1))
    return (task + labels) / 2, {"task": task, "labels": labels}


# ---- hint loss ------------------------------------------------------------------------------------------------------

class Distillation(nn.Module):
    """Privileged knowledge distillation (Aslam et al., 2023), for each target:

        (1 - beta) (1 - CCC(student, ratings)) + beta sum_m w_m D_m(student, teacher)

    methods: {name in losses.DISTILL: w_m}; gate: of GATES, gives beta from the teacher's task loss on the batch;
    weight: the largest beta. Each target has its own beta: a teacher may be good at arousal and bad at valence.
    """

    def __init__(self, methods, gate, weight):
        super().__init__()
        self.methods, self.gate, self.weight = methods, GATES[gate], weight
        self.adapters = nn.ModuleDict({name: nn.Linear(HINT, HINT) for name in methods if DISTILL[name].mapped})

    def __call__(self, model, batch):
        gold, taught = whole_batch(batch.gold), whole_batch(batch.taught)
        student = of_whole_batch(forward(model, batch))
        teacher = student._replace(pred=taught[..., :gold.shape[2]], feat=taught[..., gold.shape[2]:])
        task, teacher_loss = task_loss(student, gold), task_loss(teacher, gold)
        beta = self.gate(teacher_loss, self.weight)
        hints = {name: self.compare(name, student, teacher) for name in self.methods}
        hint = sum(weight * hints[name] for name, weight in self.methods.items())
        loss = ((1 - beta) * task + beta * hint).mean()
        parts = {"task": task, "hint": hint, "beta": beta, "teacher": teacher_loss} | (hints if len(hints) > 1 else {})
        return loss, {name: value.mean() for name, value in parts.items()}

    def compare(self, name, student, teacher):
        """A method's loss over all frames of the batch: scalar for features, (K,) for predictions."""
        method = DISTILL[name]
        own, its = (getattr(output, method.of).flatten(0, 1) for output in (student, teacher))
        if method.of == "pred":
            return torch.stack([method.compare(*series) for series in zip(own.split(1, 1), its.split(1, 1))])
        return method.compare(self.adapters[name](own) if method.mapped else own, its)


# ---- mean teacher ---------------------------------------------------------------------------------------------------

class MeanTeacher:
    """A student whose teacher is the average of its own weights (Tarvainen & Valpola, 2017):

        1 - CCC(student, ratings) + beta (1 - CCC(student, average)), the mean over targets

    The second CCC is over the frames of all clips, rated or not. The student sees one augmentation of them, with
    dropout, the average another, without. A squared error would be smallest for predictions that hardly move, and its
    weight would depend on how much they do; 1 - CCC does not, and is in the units of the task loss. beta rises to
    `weight` as in the paper, exp(-5 (1 - t)^2), over the first quarter of the steps.
    """
    WEIGHT = 0.1  # on development subjects 0.02 scored no better, and 0.5 and 1 worse than no mean teacher
    views = 2  # of a batch, differently augmented
    RAMP = 0.25  # of the steps of all epochs

    def __init__(self, weight=WEIGHT):
        self.weight, self.average, self.ramp = weight, None, 1

    def begin(self, average, steps):
        """average: the Average of the run's Training; steps: of all epochs."""
        self.average, self.ramp = average, max(1, self.RAMP * steps)

    def __call__(self, model, batch, other):
        student = of_whole_batch(forward(model, batch))
        with torch.no_grad():
            teacher = of_whole_batch(forward(self.average.model, other))
        task = task_loss(student, whole_batch(batch.gold)).mean()
        hint = ccc_distill(student.pred.flatten(0, 1), teacher.pred.flatten(0, 1))
        beta = self.weight * torch.exp(-5 * (1 - self.average.clock / self.ramp).clamp_min(0) ** 2)
        return task + beta * hint, {"task": task, "hint": hint, "beta": beta}


# ---- gate: the teacher's weight beta, from its 1 - CCC of each target on the batch, (K,) -> (K,) --------------------

def adaptive_gate(teacher_loss, weight):
    """All of `weight` for a teacher with a CCC of 1, less the worse it is, nothing at a CCC of 0 or below; all of it
    for a target without a rating in the batch, whose loss is 0."""
    return weight * (1 - teacher_loss).clamp(0, 1)


def original_gate(teacher_loss, weight):
    """The rule of the authors' code, for parity: 0.2 + loss where the loss is up to 0.2 or above 1, else 1.

    `weight` is not used. A mediocre teacher switches the ratings off, and a bad one gives them a negative weight.
    """
    return torch.where((teacher_loss <= 0.2) | (teacher_loss > 1), 0.2 + teacher_loss, torch.ones_like(teacher_loss))


def no_gate(teacher_loss, weight):
    """Always `weight`."""
    return torch.full_like(teacher_loss, weight)


GATES = {"adaptive": adaptive_gate, "original": original_gate, "off": no_gate}
