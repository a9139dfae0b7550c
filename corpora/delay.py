"""How long annotators lag behind face and voice: the delay at which the ratings are predicted best, on Train_Set alone.

For each delay the ratings that much later are predicted by ridge regression from what is measured without a network:
the levels of the sound in a few bands, and the face's place, size and crop (14 x 14 pixels), or features of another
program in place of either. Every recording is predicted by weights fitted on the others; what is shown is the mean
correlation over the recordings. A delay that only one subject has, or chance, is no maximum then.

Mariooryad & Busso (2015, Correcting time-continuous emotional labels by modeling the reaction lag of evaluators) take
the delay of the largest mutual information between behaviour and ratings, and found 1 to 6 s. To estimate that in many
dimensions takes more data than a regression; a regression is what the ratings are for. Huang et al. (2015, An
investigation of annotation delay compensation and output-associative fusion) choose the delay by it, too.

Shapes: R recordings of T moments each, PER_S per second; F signals; D delays.
"""
import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from corpora import features
from corpora.loudness import PER_S, band_levels, samples_of
from corpora.ratings import resample
from support.columns import read_table
from support.errors import UserError
from support.files import there
from support.media import ignored, picture_clock
from support.opencv import cv2, read_picture
from support.recordings import FACE, TARGETS, sound_file, valid_labels

SMOOTH_S = 1.5  # signals are averaged over so much, centred: feelings change no faster
STRENGTH = 0.1  # of the ridge, per moment
ENOUGH_S = 10.0  # shortest stretch of a recording that counts
ENOUGH = 3  # recordings
DRAWS = 1000  # of the bootstrap over recordings
WIDEST_S = 2.0  # widest interval of a delay that is clear
LEAST = 0.1  # smallest correlation that is one


class Lag(NamedTuple):
    """The delay of a target."""
    delays_s: np.ndarray  # (D,) those tried
    curves: np.ndarray  # (R, D) correlation of predictions with the ratings that much later, for each recording
    best_s: float
    low_s: float  # 95 % interval over recordings
    high_s: float
    why_not: str  # why the maximum is not clear, "" if it is

    @property
    def mean(self): return self.curves.mean(axis=0)


# ---- the delay ------------------------------------------------------------------------------------------------------

def lag_of(signals, golds, longest_s):
    """The Lag of a target: signals [(T, F)], golds [(T,)] with NaN where there is no rating; T may differ.

    All delays are judged on the same moments, those with a rating at every delay. Raises ValueError if fewer than
    ENOUGH recordings have ENOUGH_S of such moments.
    """
    delays = np.arange(round(longest_s * PER_S) + 1)
    pairs = [moments(signal, gold, delays) for signal, gold in zip(signals, golds)]
    pairs = [(inputs, later) for inputs, later in pairs if len(later) >= ENOUGH_S * PER_S and later.std(axis=0).all()]
    if len(pairs) < ENOUGH:
        raise ValueError(f"{len(pairs)} recordings have {ENOUGH_S:g} s of ratings and signals, {ENOUGH} or more are "
                         "needed")
    curves = cross_validated(pairs)
    best, low, high = maximum(curves)
    return Lag(delays / PER_S, curves, best / PER_S, low / PER_S, high / PER_S, unclear(curves, best, low, high))


def moments(signal, gold, delays):
    """((n, F), (n, D)): signals, each with mean 0 and variance 1, and the ratings after each of the delays."""
    count = min(len(signal), len(gold)) - int(delays[-1])
    if count <= 0:
        return signal[:0], np.empty((0, len(delays)))
    later = np.stack([gold[late:late + count] for late in delays], axis=1)
    use = np.isfinite(later).all(axis=1) & np.isfinite(signal[:count]).all(axis=1)
    inputs, later = signal[:count][use], later[use]
    if not len(inputs):
        return inputs, later
    spread = inputs.std(axis=0)
    return (inputs - inputs.mean(axis=0)) / np.where(spread > 1e-6, spread, 1), later - later.mean(axis=0)


def cross_validated(pairs):
    """(R, D) correlations of the ratings with predictions by ridge regression on all other recordings.

    pairs: [((n, F), (n, D))] of each recording, all with mean 0.
    """
    grams, products = [x.T @ x for x, _ in pairs], [x.T @ y for x, y in pairs]
    gram, product, count = sum(grams), sum(products), sum(len(x) for x, _ in pairs)
    curves = []
    for (x, y), own, fitted in zip(pairs, grams, products):
        ridge = STRENGTH * (count - len(x)) * np.eye(len(gram))
        preds = x @ np.linalg.solve(gram - own + ridge, product - fitted)
        norms = np.sqrt((preds ** 2).sum(axis=0) * (y ** 2).sum(axis=0))
        curves.append(np.divide((preds * y).sum(axis=0), norms, out=np.zeros_like(norms), where=norms > 0))
    return np.array(curves)


def maximum(curves):
    """(place of the maximum of the mean curve, lowest, highest place in 95 % of the draws of recordings)."""
    draws = np.random.default_rng(0).integers(len(curves), size=(DRAWS, len(curves)))
    places = curves[draws].mean(axis=1).argmax(axis=1)
    low, high = np.percentile(places, [2.5, 97.5], method="nearest")
    return int(curves.mean(axis=0).argmax()), int(low), int(high)


def unclear(curves, best, low, high):
    """Why the maximum of curves (R, D) is not clear; "" if it is."""
    mean, last = curves.mean(axis=0), curves.shape[1] - 1
    error = curves[:, best].std(ddof=1) / np.sqrt(len(curves))
    if mean[best] < max(LEAST, 2 * error):
        return f"the correlation is {mean[best]:.2f} at most: these signals do not show it"
    if best == last and last:
        return f"the correlation still rises at {last / PER_S:g} s (--max-delay-s)"
    if high - low > WIDEST_S * PER_S:
        return f"it differs between recordings, {low / PER_S:.1f} to {high / PER_S:.1f} s"
    return ""


# ---- signals --------------------------------------------------------------------------------------------------------

def smoothed(signal):
    """(T, F) averaged over SMOOTH_S around each moment; NaN where nothing is known there."""
    window = pd.DataFrame(signal).rolling(round(SMOOTH_S * PER_S) | 1, center=True, min_periods=1)
    return window.mean().to_numpy()


def signals_of(name, rate, cfg):
    """(T, F) signals of a recording at (j + 0.5) / PER_S seconds: of sound and faces, or of features in their place;
    F = 0 without any. Raises UserError."""
    parts, made = [], {modality: files[name] for modality, files in features.found(cfg).items() if name in files}
    if path := sound_file(name, cfg.audio_dir, cfg.videos_dir):
        start_s = picture_clock(path, ignored).start_s if path.parent == cfg.videos_dir else None
        levels = band_levels(samples_of(path, start_s, cfg.audio_channel))
        parts.append(np.maximum(levels, levels.max(initial=-120) - 60))
    elif "audio" in made:
        parts.append(feature_signals(made["audio"], rate, cfg.cache_dir))
    if len(faces := face_signals(cfg.crops_dir / name, rate)):
        parts.append(faces)
    elif "visual" in made:
        parts.append(feature_signals(made["visual"], rate, cfg.cache_dir))
    if not parts:
        return np.empty((0, 0))
    shortest = min(map(len, parts))
    return smoothed(np.concatenate([part[:shortest] for part in parts], axis=1))


def face_signals(folder, rate):
    """(T, 4 + 196): place and size of the face and its crop, NaN without a face; (0, 0) without faces.csv."""
    table = Path(folder, "faces.csv")
    if not there(table):
        return np.empty((0, 0))
    again = f"delete {folder}/ and run face_detector.py again"
    faces = read_table(table, again, ["x1", "y1", "x2", "y2"], ["found"]).reset_index(drop=True)
    count = int(len(faces) / rate * PER_S)
    rows = np.minimum(((np.arange(count) + 0.5) / PER_S * rate).astype(int), len(faces) - 1)
    has_face = faces["found"].isin(FACE).to_numpy()
    box = faces[["x1", "y1", "x2", "y2"]].to_numpy(float)
    made = np.full((count, 4 + 14 * 14), np.nan)
    for j, k in enumerate(rows):
        with contextlib.suppress(OSError, UserError):  # a crop that cannot be read is as a frame without a face
            if has_face[k]:
                crop = read_picture(Path(folder, f"{k:06d}.jpg"), cv2.IMREAD_GRAYSCALE, again)
                made[j, :4] = box[k]
                made[j, 4:] = cv2.resize(crop, (14, 14), interpolation=cv2.INTER_AREA).ravel()
    return made


def feature_signals(path, rate, cache_dir):
    """(T, D) features of another program; a missing value is the mean of its column."""
    one = features.load(path, cache_dir)
    values, _ = features.on_frames(one, features.count_frames(one, rate), rate)
    rows = ((np.arange(int(len(values) / rate * PER_S)) + 0.5) / PER_S * rate).astype(int).clip(max=len(values) - 1)
    means, _ = features.statistics([values])
    return np.where(np.isfinite(values), values, means)[rows].astype(float)


def ratings_at(gold, rate, count):
    """(count, 2) ratings (N, 2), `rate` per second, at (j + 0.5) / PER_S seconds; NaN where there is none."""
    valid = np.where(valid_labels(gold), gold, np.nan)
    return resample(valid, np.arange(len(gold)) / rate, (np.arange(count) + 0.5) / PER_S)


# ---- what the user sees ---------------------------------------------------------------------------------------------

def lines_of(lags):
    """Lines for the user: a table of correlations, the best delay of each target, what to do."""
    shown = [lag for lag in lags.values() if lag]
    if shown:
        delays = shown[0].delays_s
        some = np.unique(np.linspace(0, len(delays) - 1, min(13, len(delays))).round().astype(int))
        yield "delay, s     " + "".join(f"{delays[k]:7.1f}" for k in some)
        for target, lag in lags.items():
            if lag:
                yield f"{target:13}" + "".join(f"{lag.mean[k]:7.3f}" for k in some)
    for target, lag in lags.items():
        if lag and not lag.why_not:
            yield (f"{target}: {lag.best_s:.1f} s (95 % interval over {len(lag.curves)} recordings: {lag.low_s:.1f} to "
                   f"{lag.high_s:.1f} s)")
        elif lag:
            yield f"{target}: no clear maximum: {lag.why_not}"
    clear = [lag for lag in shown if not lag.why_not]
    if not clear:
        yield "no delay to recommend: leave label_delay_s at 0, and let the post-processing find one"
        return
    best = round(float(np.mean([lag.best_s for lag in clear])), 1)
    if len(clear) > 1 and max(lag.low_s for lag in clear) > min(lag.high_s for lag in clear):
        yield "the delays of the two targets differ: one delay for both is a compromise"
    yield f"to use it: python annotations.py --label-delay-s {best:g}" if best else "no delay is needed"


def draw(lags, path):
    """Writes the figure of all curves to `path`."""
    from matplotlib.figure import Figure

    from figures import save_figure
    fig = Figure((8, 4.2), layout="constrained")
    axes = fig.subplots()
    for (target, lag), colour in zip(lags.items(), ("#0072B2", "#D55E00")):
        if not lag:
            continue
        axes.plot(lag.delays_s, lag.curves.T, color=colour, alpha=0.2, linewidth=0.8)
        words = "no clear maximum" if lag.why_not else f"{lag.best_s:.1f} s"
        axes.plot(lag.delays_s, lag.mean, color=colour, linewidth=2.2, label=f"{target}: {words}")
        if not lag.why_not:
            axes.axvspan(lag.low_s, lag.high_s, color=colour, alpha=0.12, linewidth=0)
            axes.plot(lag.best_s, lag.mean.max(), "o", color=colour)
    axes.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set(xlabel="delay of the ratings behind face and sound, seconds", ylabel="correlation",
             title="How well simple signals predict later ratings, on Train_Set")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="thick: mean, thin: recordings, band: 95 % interval")
    return save_figure(fig, path)


def show_delay(golds, rate, cfg):
    """Prints and draws the delay of the ratings {id: (N, 2)} of the recordings to train on: {target: Lag or None}."""
    from tqdm import tqdm
    signals = {}
    for name in tqdm(golds, "measuring", unit=" recordings", leave=False, disable=None):
        try:
            signals[name] = signals_of(name, rate, cfg)
        except (UserError, OSError, ValueError) as error:
            print(f"{name}: left out: {error}")
    widest = max((each.shape[1] for each in signals.values()), default=0)
    for name in [name for name, each in signals.items() if each.shape[1] < widest or not widest]:
        print(f"{name}: left out: " + ("it has not the sound and faces (or features) that others have" if
                                       widest else "neither sound nor faces (face_detector.py) nor features"))
        del signals[name]
    lags = {}
    for k, target in enumerate(TARGETS):
        series = [ratings_at(golds[name], rate, len(each))[:, k] for name, each in signals.items()]
        try:
            lags[target] = lag_of(list(signals.values()), series, cfg.max_delay_s)
        except ValueError as error:
            print(f"{target}: {error}")
            lags[target] = None
    for line in lines_of(lags):
        print(line)
    if any(lags.values()):
        print(draw(lags, cfg.plots_dir / "label_delay.png"))
    return lags
