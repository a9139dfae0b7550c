"""Interleaved sequences: a network that was trained on every n-th frame of a recording, used on all of them.

Frame k follows frame k - n: there are n sequences, each with a state of its own, and every frame gets its prediction
from those before it, at the cost of one pass.
"""
import numpy as np


def interleaved(network, frames, specs, states):
    """(predictions (T, K), states) of the T frames that follow those of `states`: one for each sequence, that of the
    next frame first, None at the beginning of a recording.

    network(frames, specs, state) -> (predictions, state): of one sequence; frames, specs: (T, ...) each, or None.
    """
    stride, length = len(states), len(specs if frames is None else frames)
    after, preds = list(states), {}
    for k in range(min(stride, length)):
        own = [part if part is None else part[k::stride] for part in (frames, specs)]
        preds[k], after[k] = network(*own, states[k])
    whole = np.empty((length, *preds[0].shape[1:]), preds[0].dtype)
    for k, pred in preds.items():
        whole[k::stride] = pred
    turn = length % stride
    return whole, after[turn:] + after[:turn]
