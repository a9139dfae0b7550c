"""Post-processing of predictions: a smoothing window, a bias, a scale, a delay, with constants fitted by plot_ccc.py.

Series are those of one recording, (N,) -> (N,).
"""
from typing import NamedTuple

import numpy as np
import pandas as pd


class PostProcessing(NamedTuple):
    """Constants of one run and target; these defaults change nothing."""
    window_frames: int = 1  # of the smoothing, odd
    bias: float = 0.0  # is added
    scale: float = 1.0  # times the distance from ...
    centre: float = 0.0  # ... this value
    delay_frames: int = 0  # ratings lag behind the face, and so must predictions


def smooth(pred, window_frames, smoothing):
    """Mean or median over the window around each frame; at the edges over the part of it inside the recording."""
    window = pd.Series(pred).rolling(window_frames, center=True, min_periods=1)
    return (window.median() if smoothing == "median" else window.mean()).to_numpy()


def rescale(pred, scale, centre):
    """`pred` with its distance from `centre` multiplied by `scale`."""
    return centre + scale * (pred - centre)


def delay(pred, delay_frames):
    """`pred` that many frames later: its first value is repeated at the start, its last values are dropped."""
    return pred[np.maximum(np.arange(len(pred)) - delay_frames, 0)]


def postprocess(pred, constants, smoothing):
    """Post-processed predictions of one recording."""
    smoothed = smooth(pred, constants.window_frames, smoothing)
    return delay(rescale(smoothed + constants.bias, constants.scale, constants.centre), constants.delay_frames)
