"""The exponential moving average (EMA) of a network's weights over its training steps.

It teaches the student of --distill mean_teacher (mmpkd.py), and is validated and kept in its place, as by Tarvainen &
Valpola (2017). Other runs are not averaged: their learning rate falls to 0, and with it an average scored the same.
"""
import copy

import torch

from support.reading import HUGE


class Average:
    """A network whose weights are the EMA of those of a model in training; it is in evaluation mode itself.

    Own code, as torch's AveragedModel waits for the GPU in every step and also averages the counters of batch norm.
    """

    def __init__(self, model, decay):
        """model: with its first weights; decay: the share of the average that stays at each step.

        Frozen backbones are not copied: both networks share them.
        """
        frozen = {id(part.net): part.net for part in model.modules() if getattr(part, "frozen", False)}
        self.model = copy.deepcopy(model, frozen).eval().requires_grad_(False)
        for part in self.model.modules():
            if isinstance(part, torch.nn.RNNBase):
                part.flatten_parameters()  # a copy's weights lie apart, and CUDA would gather them in every step
        self.decay, self.steps, self.pairs = decay, 0, None
        self.clock = torch.zeros((), device=next(model.parameters()).device)  # steps, for a recorded CUDA graph

    @torch.no_grad()
    def update(self, model):
        """Takes in the model's weights after a step.

        The first steps count less: the decay is min(decay, (1 + steps) / (10 + steps)). The statistics of batch norm
        are averaged in the same way, so that they stay those of the averaged weights.
        """
        self.pairs = self.pairs or self._paired(model)
        (averaged, weights), (counters, counted) = self.pairs
        torch._foreach_lerp_(averaged, weights, 1 - min(self.decay, (1 + self.steps) / (10 + self.steps)))
        if counters:
            torch._foreach_copy_(counters, counted)
        self.steps += 1
        self.clock.fill_(self.steps)

    def _paired(self, model):
        """(own tensors, the model's) that are averaged, and the same of whole numbers, which are copied."""
        own, its = self.model.state_dict(), model.state_dict()  # they share memory with the networks
        names = [name for name in own if own[name].data_ptr() != its[name].data_ptr()]  # not of frozen backbones
        return [([own[name] for name in names if own[name].is_floating_point() == floats],
                 [its[name] for name in names if its[name].is_floating_point() == floats]) for floats in (True, False)]

    def state(self):
        """What load() continues from, as tensors and plain Python."""
        return {"steps": self.steps, "model": self.model.state_dict()}

    def load(self, state):
        """Continues from what state() gave. Raises ValueError or TypeError if it is damaged, RuntimeError if it is of
        another network."""
        steps, weights = state["steps"], state["model"]
        if type(steps) is not int or not 0 <= steps < HUGE or not all(one.isfinite().all() for one in weights.values()):
            raise ValueError("no averaged weights")
        self.model.load_state_dict(weights)
        self.steps, self.pairs = steps, None  # a network that is loaded may hold new tensors
        self.clock.fill_(steps)
