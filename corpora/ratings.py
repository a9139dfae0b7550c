"""Ratings as a corpus has them -> one row per frame: scale, time, number, delay. Arrays in, arrays out.

R ratings, N frames, 2 targets (arousal, valence).
"""
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corpora.cells import numbers
from support.errors import UserError
from support.recordings import TARGETS, valid_labels

TIMES = {"time": 1, "time_s": 1, "timestamp": 1, "timestamp_s": 1, "frametime": 1, "seconds": 1,
         "time_ms": 1e-3, "timestamp_ms": 1e-3}  # names of columns of time, and their unit in seconds
COUNTERS = ["frame", "frameid", "frame_id", "frame_number"]
INVALID = -5  # how Aff-Wild2 marks a frame without a rating
SLACK = 0.01  # share of the frames by which the number of ratings may differ
OTHER_SCALE = 0.1  # share of the ratings outside the scale from which on they are taken to be on another one
LONGEST_S = 1e5  # a day: times beyond are no times of a recording


class Ratings(NamedTuple):
    """The ratings of a recording."""
    values: np.ndarray  # (R, 2) arousal, valence; NaN where there is none
    times_s: np.ndarray | None = None  # (R,) when each was given, increasing; None: row k is frame k
    notes: tuple = ()  # what the user should know


class Source(NamedTuple):
    """Where the ratings of a recording are."""
    form: str  # a key of readers.FORMS
    files: tuple[Path, ...]
    read: Callable[[str], Ratings]  # given "mean" or "ewe", what to make of individual raters; raises UserError
    partition: str = ""  # the set that the corpus itself puts it in


# ---- from cells -----------------------------------------------------------------------------------------------------

def named_ratings(cells, targets=TARGETS):
    """(R, n): the columns that are called as the targets are. Raises UserError if one is missing."""
    if missing := [target for target in targets if target not in cells.table]:
        raise cells.fault(1, f"the columns are {cells.first_line()}: none is called {missing[0]}")
    return numbers(cells, list(targets))


def times_of(cells):
    """(R,) seconds of a table's column of time, None if it has none.

    Raises UserError if it has two, if a time is missing, or if a column that counts frames leaves some out.
    """
    for name in (name for name in COUNTERS if name in cells.table):
        count = numbers(cells, [name])[:, 0]
        for row in np.flatnonzero(~(np.diff(count) == 1)):
            raise cells.fault(cells.table.index[row + 1], f"{name} {count[row + 1]:g} follows {count[row]:g}: rows are "
                                                          "missing or repeated")
    names = [name for name in cells.table if name in TIMES]
    if len(names) > 1:
        raise cells.fault(1, f"{' and '.join(names)} are both columns of time: keep one")
    if not names:
        return None
    times = numbers(cells, names)[:, 0] * TIMES[names[0]]
    for row in np.flatnonzero(~np.isfinite(times)):
        raise cells.fault(cells.table.index[row], f"no {names[0]}: every row must have one")
    for row in np.flatnonzero(np.abs(times) > LONGEST_S):
        raise cells.fault(cells.table.index[row], f"{times[row]:g} s is no time of a recording: seconds from its "
                                                  "beginning were expected")
    return times


def increasing(times, lines):
    """(times, ()) if they increase, else (None, a note that row k is taken for frame k). lines: of the file."""
    if times is None or (np.diff(times) > 0).all():
        return times, ()
    row = int(np.argmin(np.diff(times) > 0)) + 1
    return None, (f"its column of time does not increase (line {lines[row]}: {times[row]:g} after {times[row - 1]:g} "
                  "s) and is not used: row k is taken for frame k",)


def rises_evenly(series):
    """Whether numbers rise as a clock or a counter does: by even steps, to above 1, as no trace of ratings can."""
    if len(series) < 3 or not np.isfinite(series).all() or not series.max() > 1:
        return False
    even = np.linspace(series[0], series[-1], len(series))
    step = (series[-1] - series[0]) / (len(series) - 1)
    return bool((np.diff(series) > 0).all() and (np.abs(series - even) <= step / 2).all())


# ---- scale ----------------------------------------------------------------------------------------------------------

def to_scale(values, label_range):
    """The same ratings on the scale [-1, 1]. label_range: () if they are on it, else the (lowest, highest) of theirs.

    Raises UserError if more than a tenth of those of a target lie outside (-5, which marks invalid ones, aside).
    """
    low, high = label_range or (-1, 1)
    for target, ratings in zip(TARGETS, values.T):
        given = ratings[~np.isnan(ratings)]
        given = given if label_range else given[given != INVALID]
        outside = np.count_nonzero((given < low) | (given > high))
        if outside > OTHER_SCALE * len(given):
            raise UserError(f"{outside} of {len(given)} ratings of {target} lie outside [{low:g}, {high:g}] (they "
                            f"reach from {given.min():g} to {given.max():g}): they are on another scale, which "
                            "--label-range LOWEST HIGHEST names")
    return (values - low) / (high - low) * 2 - 1 if label_range else values


# ---- time -----------------------------------------------------------------------------------------------------------

def on_frames(ratings, frame_rate, frames=None, source="", pictures=None):
    """The same Ratings with row k for frame k, as far as they have times; frames: their number, None: unknown.

    Rows without times, or with those of the frames, are taken as they are: one more or less than frames, or 1 %, are
    trimmed. Others are interpolated linearly. source: the file that `frames` is known from; pictures: of the video,
    (number, number per second). Raises UserError if the ratings do not fit the frames, with the direction to look into.
    """
    values, times, notes = ratings
    if times is None or (np.abs(times - np.arange(len(times)) / frame_rate) <= 0.25 / frame_rate).all():
        kept, note = match_frames(values, frames, frame_rate, source, pictures)
        return Ratings(kept, None, (*notes, *note))
    check_span(times, frames, frame_rate, source)
    step = np.median(np.diff(times)) if len(times) > 1 else 1 / frame_rate
    count = frames if frames is not None else int((times[-1] + step / 2) * frame_rate + 1e-6) + 1
    made = resample(np.where(valid_labels(values), values, np.nan), times, np.arange(max(0, count)) / frame_rate)
    notes += (f"rated every {step:.4g} s from {times[0]:g} to {times[-1]:g} s: interpolated linearly to {frame_rate:g} "
              "per second",)
    outside = np.count_nonzero(~covered(times, np.arange(len(made)) / frame_rate))
    if outside == len(made):
        raise UserError(f"rated from {times[0]:g} to {times[-1]:g} s: no frame is there")
    if outside:
        notes += (f"{outside} frames are more than half a step from any rating: masked",)
    return Ratings(made, None, notes)


def match_frames(values, frames, frame_rate=25.0, source="", pictures=None):
    """(the ratings that have a frame, notes): one too many, such as RECOLA's 7501st, or up to 1 % are dropped.

    As many may be missing: then the last frames have no rating. Raises UserError for more, as on_frames does.
    """
    if frames is None or len(values) == frames:
        return values, ()
    more = len(values) - frames
    fits = f"{len(values)} ratings for {frames} frames ({source})"
    if abs(more) > 1 and pictures and pictures[0] == len(values):
        raise UserError(f"{fits}, but the video has {pictures[0]} pictures, {pictures[1]:.5g} per second: a rating per "
                        f"picture is not read at --frame-rate {frame_rate:g} (at {pictures[1]:.5g} it is, if that rate "
                        "is constant and that of all recordings)")
    if abs(more) > max(1, SLACK * frames):
        raise UserError(f"{fits}: as many, or up to 1 % more or less, were expected. The rate? They would fit "
                        f"--frame-rate {len(values) / max(frames, 1) * frame_rate:.4g} (now {frame_rate:g}). Or the "
                        "wrong file, or rows are missing?")
    if more == 1:
        return values[:frames], ("a last rating without a frame was dropped",)
    if more > 0:
        return values[:frames], (f"the last {more} ratings have no frame and were dropped",)
    return values, (f"the last {-more} of {frames} frames have no rating" if more < -1 else
                    "the last frame has no rating",)


def check_span(times, frames, frame_rate, source, what="ratings"):
    """Raises UserError if rows do not end, within 1 % and a step, where the frames do (if their number is known)."""
    step, end = (times[-1] - times[0]) / max(1, len(times) - 1), None if frames is None else frames / frame_rate
    if end is not None and abs(times[-1] + step - end) > max(step, 1 / frame_rate) + SLACK * end:
        thousand = " Milliseconds? Then name the column time_ms." if 900 < times[-1] / end < 1100 else ""
        raise UserError(f"the {what} reach from {times[0]:g} to {times[-1]:g} s, the frames to {end:g} s ({source}): "
                        f"times in seconds, and the same end within 1 %, were expected.{thousand} Or the wrong file?")


def covered(times, at):
    """(N,) whether a moment is within half a step (the median) of a rating, or between two at most two steps apart."""
    step = np.median(np.diff(times)) if len(times) > 1 else 0
    after = np.searchsorted(times, at).clip(1, max(1, len(times) - 1)).clip(max=len(times) - 1)
    left, right = times[after - 1] if len(times) > 1 else times[after], times[after]
    near = np.minimum(np.abs(at - left), np.abs(at - right)) <= step / 2 + 1e-6
    return near | ((left <= at) & (at <= right) & (right - left <= 2 * step + 1e-6))


def resample(values, times, at):
    """(N, 2): ratings at other moments by linear interpolation; NaN beyond half a step of the ratings, and beside NaN.

    values: (R, 2); times: (R,), increasing; at: (N,).
    """
    if len(times) == 1:
        return np.where(covered(times, at)[:, None], values, np.nan)
    after = np.searchsorted(times, at).clip(1, len(times) - 1)
    with np.errstate(over="ignore"):  # times that all but coincide
        weight = ((at - times[after - 1]) / (times[after] - times[after - 1])).clip(0, 1)[:, None]
    weight = np.where(np.abs(weight - weight.round()) < 1e-6, weight.round(), weight)
    between = (1 - weight) * values[after - 1] + weight * values[after]
    exact = np.where(weight == 0, values[after - 1], np.where(weight == 1, values[after], between))  # 0 * NaN is NaN
    return np.where(covered(times, at)[:, None], exact, np.nan)


def moved_earlier(values, count):
    """(R, 2): the ratings `count` rows earlier; the last rows, which have none then, are NaN."""
    return np.concatenate([values[count:], np.full((min(count, len(values)), values.shape[1]), np.nan)])
