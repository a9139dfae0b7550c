"""Post-processing of predictions: constants fitted on training recordings, and applied to any recording; and the level
of predictions, which is treated without fitting anything.

AVEC's steps in AVEC's order: a smoothing window, a bias, a scale, a delay. Each is fitted on recordings of Train_Set,
predicted by networks that were not trained on them (scores.out_of_fold), and kept only if it raises the CCC there. As
in AVEC, this CCC is that of all recordings concatenated: the constants are the same for every recording, and the best
bias and scale for this CCC follow from means and standard deviations alone.

Applying needs neither the ratings nor torch, but the whole recording: the smoothing looks half a window ahead. So a
video is post-processed when all of it was predicted.

Shapes: N frames of a recording. A prediction that is NaN is a gap: a frame without a face.
"""
import math
from typing import NamedTuple

import numpy as np
import pandas as pd

GAIN = 1e-6  # smallest rise of the CCC for which a step is kept: predictions have six digits
CONSTANT = 1e-6  # predictions with a smaller standard deviation are constant and are not scaled
PRIOR_S = 10.0  # a causal mean begins at the ratings' mean, as if that had been predicted for so many seconds


class PostProcessing(NamedTuple):
    """Constants of one run and target; these defaults change nothing."""
    window_frames: int = 1  # of the smoothing, odd
    bias: float = 0.0  # is added
    scale: float = 1.0  # times the distance from ...
    centre: float = 0.0  # ... this value
    delay_frames: int = 0  # ratings lag behind the face, and so must predictions


# ---- applying: series of one recording, (N,) -> (N,) ----------------------------------------------------------------

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
    """Post-processed predictions of one recording, all frames of it.

    Gaps (NaN) stay gaps and are not filled: a window holds the other frames alone, and a frame whose delayed value
    would come from a gap is one, too.
    """
    gaps = np.isnan(pred)
    smoothed = np.where(gaps, np.nan, smooth(pred, constants.window_frames, smoothing))
    scaled = rescale(smoothed + constants.bias, constants.scale, constants.centre)
    return np.where(gaps, np.nan, delay(scaled, constants.delay_frames))


# ---- level: how high the predictions of a recording are on average ---------------------------------------------------

def relevel(pred, level, mean, sd, frame_rate):
    """Predictions of one recording (N,) at another level, float64; gaps (NaN) stay gaps and do not count.

    level: as in config.py; mean, sd: rating_level() of the training recordings. "causal" needs the past alone: from
    each prediction the mean up to it is taken, as if `mean` had been predicted for PRIOR_S seconds before the first.
    """
    pred = np.asarray(pred, float)
    seen = ~np.isnan(pred)
    if level == "raw" or not seen.any():
        return pred
    if level == "causal":
        before = PRIOR_S * frame_rate
        return pred - (before * mean + np.where(seen, pred, 0).cumsum()) / (before + seen.cumsum()) + mean
    centred, spread = pred - pred[seen].mean(), pred[seen].std()
    return mean + centred * (sd / spread if spread > CONSTANT else 0)


def rating_level(golds):
    """(mean, sd) of the ratings of some recordings, with six digits: the mean of all, and the root of the mean over
    recordings of the variance within each. NaN if no recording has two valid ratings; those with fewer do not count.

    golds: one series (N,) per recording, NaN: no valid rating.
    """
    golds = [gold[~np.isnan(gold)].astype(float) for gold in golds]
    golds = [gold for gold in golds if len(gold) > 1]
    if not golds:
        return math.nan, math.nan
    return six_digits(np.concatenate(golds).mean()), six_digits(math.sqrt(np.mean([gold.var() for gold in golds])))


# ---- fitting --------------------------------------------------------------------------------------------------------

def joint_ccc(preds, golds):
    """CCC of recordings concatenated, over the frames whose gold is not NaN; NaN if those are fewer than two."""
    from losses import ccc  # here: torch, which applying does not need
    pred, gold = np.concatenate(preds), np.concatenate(golds)
    valid = ~np.isnan(gold)
    return float(ccc(pred[valid], gold[valid])) if valid.sum() > 1 else math.nan


def best_of(values, ccc_of):
    """The value with the highest CCC; the first, which changes nothing, unless another raises the CCC by over GAIN."""
    best, highest = values[0], ccc_of(values[0])
    for value in values[1:]:
        if (reached := ccc_of(value)) > highest + GAIN:
            best, highest = value, reached
    return best


def fit_postprocessing(preds, golds, smoothing, longest_window, longest_delay):
    """PostProcessing that raises the joint CCC of recordings most, fitted step by step.

    preds, golds: one series per recording; the longest window and delay tried, in frames. Bias and scale have closed
    forms: a CCC is highest where the means agree, and then where the standard deviations agree. Both are rounded to
    six digits, as in the file.
    """
    gold = np.concatenate(golds)
    valid = ~np.isnan(gold)
    if valid.sum() < 2:
        return PostProcessing()
    windows = range(1, max(longest_window, 1) + 1, 2)
    window = best_of(windows, lambda w: joint_ccc([smooth(p, w, smoothing) for p in preds], golds))
    preds = [smooth(p, window, smoothing) for p in preds]

    pred = np.concatenate(preds)[valid]
    biases = [0.0, six_digits(float(gold[valid].mean() - pred.mean()))]
    bias = best_of(biases, lambda b: joint_ccc([p + b for p in preds], golds))
    preds = [p + bias for p in preds]

    centre = six_digits(float(pred.mean()) + bias)
    scales = [1.0, six_digits(float(gold[valid].std() / pred.std()))] if pred.std() > CONSTANT else [1.0]
    scale = best_of(scales, lambda s: joint_ccc([rescale(p, s, centre) for p in preds], golds))
    preds = [rescale(p, scale, centre) for p in preds]

    delay_frames = best_of(range(longest_delay + 1), lambda d: joint_ccc([delay(p, d) for p in preds], golds))
    return PostProcessing(window, bias, scale, centre if scale != 1 else 0.0, delay_frames)


def fit_tables(tables, targets, smoothing, max_window_s, max_delay_s, frame_rate):
    """{target: PostProcessing} of a run, from predictions for recordings that networks were not trained on, {id:
    scores.prediction_table}; without any, constants that change nothing."""
    if not tables:
        return {target: PostProcessing() for target in targets}

    def series(target, column):
        return [table[f"{target}_{column}"].to_numpy() for table in tables.values()]
    longest = int(max_window_s * frame_rate), int(max_delay_s * frame_rate)
    return {target: fit_postprocessing(series(target, "pred"), series(target, "gold"), smoothing, *longest)
            for target in targets}


def six_digits(value):
    """`value` rounded as in the files; -0 becomes 0, because its sign would depend on rounding."""
    return round(float(value), 6) + 0.0
