"""RECOLA and AVEC: a csv per recording with both dimensions, or a file per dimension and recording.

    <id>.csv                            arousal;valence by name, or in this order if it has no header
    arousal/<id>.csv valence/<id>.csv   original RECOLA: one column of ratings (and one of time), or one per rater
    arousal/<id>.arff valence/<id>.arff   AVEC: Instance_name, frameTime, GoldStandard (or name, timeStamp)
"""
import functools
from pathlib import Path

import numpy as np

from corpora.cells import files_by_id, header_of, numbers, quoted, read_cells
from corpora.ratings import (
    COUNTERS,
    IMAGES,
    TIMES,
    Ratings,
    Source,
    by_picture,
    called,
    increasing,
    labelled_pictures,
    named_ratings,
    rises_evenly,
    times_of,
)
from support.errors import UserError
from support.recordings import TARGETS

CSV = ("csv", "txt", "tsv")
GOLD = ["goldstandard", "gold_standard", "gold", "label"]  # what ratings of one dimension are called, beside its name
ONE_SERIES = [*GOLD, "value", "rating"]  # the same, in a file of ratings alone
INSTANCES = ["instance_name", "name", "instance"]
SEVERAL = ["video", "video_id", "file", "filename", "file_name", "id", "subject", "subject_id", "participant",
           "participant_id", "session", "clip", "person"]  # what tells the recordings of one file apart
NO_RATERS = ["", "index", "unnamed_0", "segment_id", "segment"]  # what pandas and MuSe leave beside ratings
WANTED = "arousal;valence in every row, or a header with these names, was expected"


# ---- where they are -------------------------------------------------------------------------------------------------

def find(folder):
    """{id: Source} of RECOLA's csv files: one per recording, or one per dimension."""
    pairs = {name: path for name, path in files_by_id(folder, (*CSV, "arff")).items()
             if "recording" not in header_of(path)}
    sources = {name: Source("recola", (path,), functools.partial(read_pair, path)) for name, path in pairs.items()}
    return _joined(sources, find_dimensions(folder, CSV, "recola"))


def find_arff(folder):
    """{id: Source} of AVEC's ARFF files: one per dimension."""
    return find_dimensions(folder, ("arff",), "avec")


def find_dimensions(folder, endings, form):
    """{id: Source} of the files of one dimension each, in folders called arousal and valence.

    There may be several of a dimension, such as those of partitions. Raises UserError if two have the same recording.
    """
    files = {target: {} for target in TARGETS}
    for target in TARGETS:
        for place in sorted(Path(folder).rglob("[!.]*")):
            if place.name.lower() == target and place.is_dir():
                here = files_by_id(place, endings)
                for name in here.keys() & files[target].keys():
                    raise UserError(f"{files[target][name]} and {here[name]} are both ratings of {target}: keep one of "
                                    "them")
                files[target] |= here
    sources = {}
    for name in sorted({*files["arousal"], *files["valence"]}):
        paths = tuple(files[target].get(name) for target in TARGETS)
        here = tuple(path for path in paths if path)
        sources[name] = Source(form, here, functools.partial(read_dimensions, paths, here[0]))
    return sources


def _joined(one, other):
    """Both dicts of Sources in one. Raises UserError if a recording is in both."""
    for name in sorted(one.keys() & other.keys()):
        raise UserError(f"{one[name].files[0]} and {other[name].files[0]} are both ratings of {name}: keep one of them")
    return one | other


# ---- both dimensions in one file ------------------------------------------------------------------------------------

def read_pair(path, raters="mean"):
    """Ratings of `<id>.csv`: by name if it has a header, else arousal;valence in this order.

    Raises UserError, naming the line, if it holds anything else or anything that could be something else.
    """
    cells = read_cells(path)
    if not cells.named:
        return Ratings(_unnamed_pair(cells))
    _refuse_several_instances(cells)
    if (pictures := labelled_pictures(cells)) is not None:
        return by_picture(named_ratings(cells), pictures)
    times, notes = increasing(times_of(cells), cells.table.index)
    return Ratings(named_ratings(cells), times, notes)


def _unnamed_pair(cells):
    """(R, 2) of two columns without names. Raises UserError if they could be anything but arousal and valence."""
    if cells.table.shape[1] != 2:
        alone = "; files of one dimension belong into folders arousal/ and valence/" * (cells.table.shape[1] == 1)
        raise cells.fault(1, f"{cells.first_line()} is not arousal;valence: {WANTED}{alone}")
    _refuse_split_numbers(cells)
    values = numbers(cells, [0, 1])
    for column, place in enumerate(("first", "second")):
        if rises_evenly(values[:, column]):
            raise cells.fault(1, f"the {place} of two columns rises evenly, as time does: {WANTED} (with a column of "
                                 "time: a header such as time;arousal;valence)")
    return values


def _refuse_split_numbers(cells):
    """Raises UserError if two columns separated by commas could be one of numbers with decimal commas."""
    if cells.separator != "," or cells.table.shape[1] != 2:
        return
    whole = cells.table[0].str.fullmatch(r"[+-]?\d*") & cells.table[1].str.fullmatch(r"\d*")
    if whole.all():
        raise cells.fault(1, f"{cells.first_line()} could be two whole numbers or one with a decimal comma: use `;` "
                             "between columns, or decimal points")


# ---- a file per dimension -------------------------------------------------------------------------------------------

def read_dimensions(paths, here, raters="mean"):
    """Ratings of (file of arousal, file of valence), None for one that is missing. here: one that is not.

    raters: what several columns of ratings become, mean or ewe. Raises UserError if a file is missing, is not as
    expected, or if the two have rows of other times.
    """
    for target, path in zip(TARGETS, paths):
        if path is None:
            raise UserError(f"{here} has no counterpart in {target}/: ratings of both dimensions were expected")
    both = [read_dimension(path, target, raters) for target, path in zip(TARGETS, paths)]
    lengths, times = [len(one.values) for one in both], [one.times_s for one in both]
    same = lengths[0] == lengths[1] and (times[0] is None) == (times[1] is None)
    if not same or times[0] is not None and np.abs(times[0] - times[1]).max() > 1e-3:
        raise UserError(f"{paths[0]} has {lengths[0]} rows, {paths[1]} {lengths[1]}, or at other times: the same "
                        "moments were expected")
    notes = tuple(dict.fromkeys(note for one in both for note in one.notes))
    return both[0]._replace(values=np.column_stack([one.values for one in both]), notes=notes)


def read_dimension(path, target, raters="mean"):
    """Ratings of one dimension, values (R,). Raises UserError, naming the line, if the file could be anything else."""
    cells = read_cells(path)
    if not cells.named:
        return _unnamed_dimension(cells)
    _refuse_several_instances(cells)
    rest = [name for name in cells.table if name not in (*TIMES, *COUNTERS, *INSTANCES, *IMAGES, *NO_RATERS)]
    known = (*called(target, cells.table), *ONE_SERIES)
    own = [name for name in known if name in rest] or rest
    others = [name for other in TARGETS if other != target for name in called(other, cells.table) if name in own]
    if not own or others:
        raise cells.fault(1, f"the columns are {cells.first_line()}: ratings of {target} were expected")
    values = numbers(cells, own[:1] if own[0] in known else own)
    if (pictures := labelled_pictures(cells)) is not None:
        made = by_picture(values[:, :1], pictures)
        return made._replace(values=made.values[:, 0])
    times, notes = increasing(times_of(cells), cells.table.index)
    if values.shape[1] == 1:
        return Ratings(values[:, 0], times, notes)
    for name in (name for name, series in zip(own, values.T) if rises_evenly(series)):
        raise cells.fault(1, f"column {quoted(name)} rises evenly, as a time or a counter does, and is no rater: take "
                             "it out, or call it time")
    try:
        values, note = combined(values, raters)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Ratings(values, times, (*notes, f"{target}: {note}"))


def _unnamed_dimension(cells):
    """Ratings of a file without a header: a column of ratings, or one of time and one of ratings."""
    _refuse_split_numbers(cells)
    values = numbers(cells, list(cells.table))
    if values.shape[1] == 1:
        return Ratings(values[:, 0])
    if values.shape[1] == 2 and rises_evenly(values[:, 0]) and not rises_evenly(values[:, 1]):
        return Ratings(values[:, 1], values[:, 0])
    raise cells.fault(1, f"{cells.first_line()}: one column of ratings, or time and ratings, were expected; others "
                         "need a header that names them")


def _refuse_several_instances(cells):
    for name in (name for name in (*INSTANCES, *SEVERAL) if name in cells.table):
        column = cells.table[name]
        if name in SEVERAL and column.nunique() > len(column) / 2:
            continue  # a number or a file for each row
        for line in column.index[(column != column.iloc[0]).to_numpy()]:
            raise cells.fault(line, f"{quoted(str(column[line]))} after {quoted(str(column.iloc[0]))} ({name}): one "
                                    "recording per file was expected; a table of several calls that column recording")


# ---- individual raters ----------------------------------------------------------------------------------------------

def combined(ratings, how):
    """((R,) one series of the ratings (R, K) of K raters, and what it is). how: mean or ewe."""
    if how == "mean":
        return _weighted(ratings, np.ones(ratings.shape[1])), f"mean of {ratings.shape[1]} raters"
    weights = ewe_weights(ratings)
    if not weights.any():
        raise UserError("no rater agrees with the mean of the raters: their weighted mean is undefined; use --raters "
                        "mean")
    shares = " ".join(f"{weight:.2f}" for weight in weights)
    return _weighted(ratings, weights), f"evaluator weighted estimator of {ratings.shape[1]} raters (weights {shares})"


def ewe_weights(ratings):
    """(K,) weights of the evaluator weighted estimator (Grimm & Kroschel, 2005, Evaluation of natural emotions using
    self assessment manikins): each rater's correlation with the mean of all raters, here over one recording.

    Negative ones are set to 0. ratings: (R, K); rows that not all have rated do not count.
    """
    rated = ratings[np.isfinite(ratings).all(axis=1)]
    away = rated - rated.mean(axis=0) if len(rated) else rated
    mean = away.mean(axis=1)
    norms = np.sqrt((away ** 2).sum(axis=0) * (mean ** 2).sum())
    return np.divide(away.T @ mean, norms, out=np.zeros(ratings.shape[1]), where=norms > 0).clip(min=0)


def _weighted(ratings, weights):
    """(R,) weighted mean of (R, K) over the raters that have a rating; NaN where none has."""
    there = np.isfinite(ratings) * weights
    total = there.sum(axis=1)
    values = (np.where(np.isfinite(ratings), ratings, 0) * there).sum(axis=1)
    return np.divide(values, total, out=np.full(len(ratings), np.nan), where=total > 0)
