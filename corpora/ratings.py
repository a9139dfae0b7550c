"""Ratings as a corpus has them -> one row per frame: scale, time, number, delay. Arrays in, arrays out.

R ratings, N frames, 2 targets (arousal, valence).
"""
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corpora.cells import numbers, quoted
from support.crops import MOST_PICTURES, check_last
from support.errors import UserError
from support.recordings import SLACK, TARGETS, is_near, valid_labels

TIMES = {"time": 1, "time_s": 1, "timestamp": 1, "timestamp_s": 1, "frametime": 1, "seconds": 1, "time_ms": 1e-3,
         "timestamp_ms": 1e-3, "frametime_ms": 1e-3}  # names of columns of time, and their unit in seconds
COUNTERS = ["frame", "frameid", "frameindex", "frame_index", "frame_id", "frame_ids", "frameids", "frame_number"]
IMAGES = ["image", "img", "images", "imgs", "image_path", "img_path"]
OTHER_NAMES = {"arousal": ["label_arousal", "arousal_label", "label_a", "a"],
               "valence": ["label_valence", "valence_label", "label_v", "v"]}  # in label files of images
INVALID = -5  # how Aff-Wild2 marks a frame without a rating
OTHER_SCALE = 0.1  # share of the ratings outside the scale from which on they are taken to be on another one
SMALL_PART = 0.05  # share of a scale below which all ratings of a recording should not lie
PAUSE_S = 1.0  # the longest time between two pictures of a video over which their ratings are interpolated
NO_STEP = 10  # numbers that grow by so much from row to row are hardly seconds
LONGEST_S = 1e5  # a day: times beyond are no times of a recording


class Ratings(NamedTuple):
    """The ratings of a recording."""
    values: np.ndarray  # (R, 2) arousal, valence; NaN where there is none
    times_s: np.ndarray | None = None  # (R,) when each was given, increasing; None: row k is frame k
    notes: tuple = ()  # what the user should know
    per_picture: bool = False  # row k is picture k of the video, whatever its rate; else it may be either
    ends_early: bool = False  # there are rows only up to the last picture that was rated


class Pictures(NamedTuple):
    """The pictures of a video."""
    video: Path
    times_s: np.ndarray  # (P,) when each appears
    end_s: float  # when the last one ends

    def __str__(self):
        return f"{len(self.times_s)} pictures, {len(self.times_s) / self.end_s:.4g} per second"


class Source(NamedTuple):
    """Where the ratings of a recording are."""
    form: str  # a key of readers.FORMS
    files: tuple[Path, ...]
    read: Callable[[str], Ratings]  # given "mean" or "ewe", what to make of individual raters; raises UserError
    partition: str = ""  # the set that the corpus itself puts it in


# ---- from cells -----------------------------------------------------------------------------------------------------

def called(target, table):
    """The columns of a table that hold ratings of a target by their names: its own or, beside images, OTHER_NAMES."""
    labels = any(name in table for name in IMAGES)  # else A and V may be raters
    return [name for name in (target, *OTHER_NAMES[target] * labels) if name in table]


def named_ratings(cells, targets=TARGETS):
    """(R, n): the columns that are called as the targets are (`called`).

    Raises UserError if one is missing, or there twice.
    """
    columns = []
    for target in targets:
        names = called(target, cells.table)
        if not names:
            images = f" (or, beside one of images, {', '.join(OTHER_NAMES[target])})"
            raise cells.fault(1, f"the columns are {cells.first_line()}: none is called {target}"
                                 + images * any(name in cells.table for name in IMAGES) + ": rename the one that it is")
        if len(names) > 1:
            raise cells.fault(1, f"{names[0]} and {names[1]} are both ratings of {target}: keep one")
        columns += names
    return numbers(cells, columns)


def labelled_pictures(cells):
    """(R,) number, from 0 on, of the picture of each row of a label file of images (img,V,A,frame_id), None if it is
    none. They count from 1 on, as Aff-Wild2's crops do, unless a 0 is among them; pictures may be left out.

    Raises UserError, naming the line, if they do not increase, or if the images are of several recordings.
    """
    image, counter, time = ([name for name in names if name in cells.table] for names in (IMAGES, COUNTERS, TIMES))
    if not image or time:
        return None
    paths = cells.table[image[0]].astype(str)
    of_image = numbers(cells._replace(table=paths.str.extract(r"([0-9]+)\.\w+$")), [0])[:, 0]
    count = numbers(cells, counter[:1])[:, 0] if counter else of_image
    folders, wrong = paths.str.rpartition("/")[0], (count != of_image) & ~np.isnan(of_image)
    wrong |= ~((count >= 0) & (count < MOST_PICTURES) & (count == np.floor(count)))
    for row in np.flatnonzero((folders != folders.iloc[0]).to_numpy()):
        raise cells.fault(cells.table.index[row], f"{quoted(paths.iloc[row])} after {quoted(paths.iloc[0])}: a file "
                                                  "per recording was expected (or a table of recording,time_s,arousal,"
                                                  "valence)")
    for row in np.flatnonzero(wrong | (np.diff(count, prepend=-1) <= 0)):
        raise cells.fault(cells.table.index[row], f"image {quoted(paths.iloc[row])}, frame {count[row]:g}: one and "
                                                  "the same number, larger than that of the row before, was expected")
    return count.astype(int) - (count[0] > 0)


def by_picture(values, rows):
    """Ratings (R, n) of a label file of images with a row per picture, NaN where there is none.

    rows: (R,) number of the picture of each; None: values are of one picture after the other.
    """
    if rows is None:
        return Ratings(values)
    placed = np.full((rows[-1] + 1, values.shape[1]), np.nan)
    placed[rows] = values
    left = len(placed) - len(rows)
    note = f"{left} pictures before the last one have no row: masked"
    return Ratings(placed, None, (note,) * bool(left), ends_early=True)


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
    try:
        times = numbers(cells, names)[:, 0] * TIMES[names[0]]
    except UserError as error:
        raise UserError(f"{error}: seconds from the beginning of the recording were expected ({names[0]})") from None
    for row in np.flatnonzero(~np.isfinite(times)):
        raise cells.fault(cells.table.index[row], f"no {names[0]}: every row must have one")
    for row in np.flatnonzero(np.abs(times) > LONGEST_S):
        raise cells.fault(cells.table.index[row], f"{times[row]:g} s is no time of a recording: seconds from its "
                                                  "beginning were expected")
    step = np.median(np.diff(times)) if len(times) > 1 else 0
    if names[0] in ("time", "timestamp", "frametime") and step >= NO_STEP:
        raise cells.fault(cells.table.index[1], f"{names[0]} grows by {step:g} from row to row: name the column "
                                                f"{names[0]}_ms if these are milliseconds, time_s if they are seconds")
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


def scale_note(values, label_range):
    """A note if ratings (R, 2), on the scale [-1, 1] now, are so small a part of label_range that it may be wrong."""
    rated = values[np.isfinite(values)]
    if not label_range or not len(rated) or np.ptp(rated) > SMALL_PART * 2:
        return ()
    low, high = label_range
    lowest, highest = (low + (value + 1) / 2 * (high - low) for value in (rated.min(), rated.max()))
    return (f"WARNING: its ratings reach from {lowest:g} to {highest:g} alone: is --label-range {low:g} {high:g} "
            "right?",)


# ---- time -----------------------------------------------------------------------------------------------------------

def on_frames(ratings, frame_rate, frames=None, source="", pictures=None):
    """The same Ratings with row k for frame k, as far as they have times; frames: their number, None: unknown.

    Rows without times, or with those of the frames, are taken as they are: one more or less than frames, or 1 %, are
    trimmed. A rating per picture, and others, are interpolated linearly. source: the file that `frames` is known from;
    pictures: Pictures of the video, if there is one. Raises UserError if the ratings fit neither, with the direction to
    look into.
    """
    if frames is not None and ratings.ends_early and not is_near(len(ratings.values), frames):
        ratings = to_the_end(ratings, frames, source, pictures)
    if ratings.times_s is None and pictures and is_per_picture(ratings, frames, frame_rate, pictures):
        return of_pictures(ratings, np.arange(frames) / frame_rate, pictures, frame_rate)
    values, times, notes = ratings[:3]
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
        notes += (f"{outside} frames are more than half a step from the ratings, or in a gap: masked",)
    return Ratings(made, None, notes)


def match_frames(values, frames, frame_rate=25.0, source="", pictures=None):
    """(the ratings that have a frame, notes): one too many, such as RECOLA's 7501st, or up to 1 % are dropped.

    As many may be missing: then the last frames have no rating. Raises UserError for more, as on_frames does.
    """
    if frames is None or len(values) == frames:
        return values, ()
    more = len(values) - frames
    fits = f"{len(values)} ratings for {frames} frames ({source})"
    if not is_near(len(values), frames):
        neither = f", and its {pictures}" if pictures and len(pictures.times_s) != frames else ""
        rate = len(values) / max(frames, 1) * frame_rate
        rate = f" The rate? They would fit --frame-rate {rate:.4g} (now {frame_rate:g})." * (1 <= rate <= 240)
        raise UserError(f"{fits}{neither}: as many, or up to 1 % more or less, were expected.{rate} Or the wrong file, "
                        "or rows are missing?")
    if more == 1:
        return values[:frames], ("a last rating without a frame was dropped",)
    if more > 0:
        return values[:frames], (f"the last {more} ratings have no frame and were dropped",)
    return values, (f"the last {-more} of {frames} frames have no rating" if more < -1 else
                    "the last frame has no rating",)


# ---- a rating per picture -------------------------------------------------------------------------------------------

def is_per_picture(ratings, frames, frame_rate, pictures):
    """Whether rows without times belong to the pictures of a video, and not to its frames.

    If pictures and frames are at the same times it makes no difference: False. Otherwise that of the two counts is
    taken which is nearer to the number of rows. Raises UserError if the form of the ratings has a row per picture, and
    there are not as many pictures, or 1 % more or less.
    """
    rows, there = len(ratings.values), len(pictures.times_s)
    on_frames = there == frames and (np.abs(pictures.times_s * frame_rate - np.arange(there)) <= 0.25).all()
    if ratings.per_picture and not is_near(rows, there):
        raise UserError(f"{rows} ratings for {pictures} ({pictures.video}): a rating per picture, or up to 1 % more or "
                        f"less, was expected. They would fit {rows / pictures.end_s:.4g} pictures per second: is it "
                        "another version of the video, or are rows missing?")
    if on_frames or ratings.per_picture:
        return not on_frames
    return is_near(rows, there) and abs(rows - there) < abs(rows - frames)


def of_pictures(ratings, at, pictures, frame_rate):
    """Ratings at moments (N,), row k for the k-th, of those that have a row per picture, by linear interpolation."""
    values, rows, there = ratings.values, len(ratings.values), len(pictures.times_s)
    notes = (*ratings.notes, f"a rating per picture ({pictures}): interpolated to {frame_rate:g} frames per second")
    if rows > there:
        notes += (f"the last {rows - there} ratings have no picture and were dropped",)
    if rows < there:
        notes += (f"the last {there - rows} of {there} pictures have no rating",)
    times, shown = np.unique(pictures.times_s[:rows], return_index=True)
    return Ratings(resample(np.where(valid_labels(values), values, np.nan)[shown], times, at, PAUSE_S), None, notes)


def to_the_end(ratings, frames, source, pictures):
    """Ratings of a file that ends at the last picture that was rated, with empty rows up to the last picture.

    Raises UserError as support.crops.check_last does.
    """
    rows, count = len(ratings.values), len(pictures.times_s) if pictures else frames
    check_last("the ratings", rows, count, pictures.video if pictures else source, frames)
    if is_near(rows, count):
        return ratings
    more = np.full((count - rows, ratings.values.shape[1]), np.nan)
    return ratings._replace(values=np.concatenate([ratings.values, more]),
                            notes=(*ratings.notes, f"no row from picture {rows + 1} of {count} on: masked"))


# ---- interpolation --------------------------------------------------------------------------------------------------

def check_span(times, frames, frame_rate, source, what="ratings"):
    """Raises UserError if rows do not end, within 1 % and a step, where the frames do (if their number is known)."""
    step, end = (times[-1] - times[0]) / max(1, len(times) - 1), None if frames is None else frames / frame_rate
    if end is not None and abs(times[-1] + step - end) > max(step, 1 / frame_rate) + SLACK * end:
        thousand = " Milliseconds? Then name the column time_ms." if 900 < times[-1] / end < 1100 else ""
        raise UserError(f"the {what} reach from {times[0]:g} to {times[-1]:g} s, the frames to {end:g} s ({source}): "
                        f"times in seconds, and the same end within 1 %, were expected.{thousand} Or the wrong file?")


def covered(times, at, pause_s=0.0):
    """(N,) whether a moment is within half a step (the median) of a rating, or between two at most two steps, or
    pause_s, apart."""
    step = np.median(np.diff(times)) if len(times) > 1 else 0
    after = np.searchsorted(times, at).clip(1, max(1, len(times) - 1)).clip(max=len(times) - 1)
    left, right = times[after - 1] if len(times) > 1 else times[after], times[after]
    near = np.minimum(np.abs(at - left), np.abs(at - right)) <= step / 2 + 1e-6
    return near | ((left <= at) & (at <= right) & (right - left <= max(2 * step, pause_s) + 1e-6))


def resample(values, times, at, pause_s=0.0):
    """(N, 2): ratings at other moments by linear interpolation; NaN beyond half a step of the ratings, and beside NaN.

    values: (R, 2); times: (R,), increasing; at: (N,); pause_s: as in `covered`.
    """
    if len(times) == 1:
        return np.where(covered(times, at, pause_s)[:, None], values, np.nan)
    after = np.searchsorted(times, at).clip(1, len(times) - 1)
    with np.errstate(over="ignore"):  # times that all but coincide
        weight = ((at - times[after - 1]) / (times[after] - times[after - 1])).clip(0, 1)[:, None]
    weight = np.where(np.abs(weight - weight.round()) < 1e-6, weight.round(), weight)
    between = (1 - weight) * values[after - 1] + weight * values[after]
    exact = np.where(weight == 0, values[after - 1], np.where(weight == 1, values[after], between))  # 0 * NaN is NaN
    return np.where(covered(times, at, pause_s)[:, None], exact, np.nan)


def moved_earlier(values, count):
    """(R, 2): the ratings `count` rows earlier; the last rows, which have none then, are NaN."""
    return np.concatenate([values[count:], np.full((min(count, len(values)), values.shape[1]), np.nan)])
