"""Features of other programs in place of images or sound: features/{visual,audio}/<id>.csv, .arff or .npy -> frames.

    csv     OpenFace's, openSMILE's (eGeMAPS ...), any other with a header; as corpora/cells.py reads text
    arff    AVEC's
    npy     an array of numbers (rows, features)

A column of time (timestamp, frameTime, time_s ...) places the rows, and the frames are interpolated linearly between
them; without one, row k is frame k. What is missing is NaN: empty cells, texts among numbers, infinite values, rows
in which OpenFace lost the face (success 0).

R rows of a file, N frames, D features.
"""
import contextlib
import glob
import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from corpora.cells import COMMA, NUMBER, Cells, column_name, files_by_id, numbers, quoted, read_cells, text_lines
from corpora.ratings import COUNTERS, TIMES, check_span, increasing, resample, rises_evenly, times_of
from corpora.recola import GOLD, INSTANCES, NO_RATERS
from support.checksums import digest
from support.errors import UserError
from support.files import whole_file
from support.recordings import MODALITIES, TARGETS, is_near

# Columns that say where a row belongs, how sure a program was, or what is to be predicted
NO_FEATURES = {*TIMES, *COUNTERS, *INSTANCES, *NO_RATERS, "file", "start", "end", "face_id", "confidence",
               "success", "class", *TARGETS, *GOLD}
NOT_A_NUMBER = r"|na|n/a|null|none|[+-]?nan(?:\([a-z]*\))?|[+-]?1\.#(?:ind|qnan)0*"  # in lower case


class Features(NamedTuple):
    """The features of a recording as their file has them."""
    path: Path
    values: np.ndarray  # (R, D) float32, NaN where one is missing
    columns: tuple  # D names
    times_s: np.ndarray | None = None  # (R,) seconds, increasing; None: row k is frame k
    notes: tuple = ()  # what the user should know


# ---- readers: one function, one line --------------------------------------------------------------------------------

def read_table(path):
    """Features of a csv or ARFF file. Raises UserError, naming the line, if it is none or could be read in two ways."""
    cells, notes = _first_face(_with_starts(_regular_cells(path) or read_cells(path)))
    names = [name for name in cells.table if name not in NO_FEATURES]
    values, notes = _values(cells, names, notes)
    counters = [name for name in values if cells.named and (values[name].diff()[1:] == 1).all() and len(values) > 2]
    notes += tuple(f"{name} counts the rows and is not used" for name in counters)
    numeric = [name for name in values if name not in counters]
    if path.name.lower().removesuffix(".gz").endswith(".arff") and numeric and values[numeric[-1]].isna().all():
        numeric = numeric[:-1]  # Weka's class, unknown
    if not numeric:
        raise cells.fault(1, f"the columns are {cells.first_line()}: none of them is a feature")
    if not cells.named:
        for name in (name for name in numeric if rises_evenly(values[name].to_numpy())):
            raise cells.fault(1, f"column {name + 1} rises evenly, as time does: a header that names the columns was "
                                 "expected")
    with np.errstate(over="ignore"):  # too large a number is infinite, and so none
        array = np.array(values[numeric], np.float32)
    array[~np.isfinite(array)] = np.nan
    if "success" in cells.table:
        array[numbers(cells, ["success"])[:, 0] == 0] = np.nan
    clocks = [name for name in COUNTERS if name in cells.table and not cells.table.columns.isin(TIMES).any()]
    others = [name for name in COUNTERS if name in cells.table and name not in clocks]
    if len(array) == 1:
        raise UserError(f"{path} holds one row: features of every frame, or of short windows, were expected, not of "
                        "the whole recording (functionals)")
    times, note = increasing(times_of(cells._replace(table=cells.table.drop(columns=others))), cells.table.index)
    return Features(path, array, tuple(map(str, numeric)), times, (*notes, *note))


def read_array(path):
    """Features of an .npy file, row k of frame k. Raises UserError if it is no array of numbers (rows, features)."""
    wanted = "an array of numbers (rows, features), saved with numpy.save, was expected"
    if not path.is_file():  # a FIFO would be waited for
        raise UserError(f"{path} is not a file: {wanted}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # of many kinds, as what is in the header is evaluated
        raise UserError(f"{path} is damaged or no .npy file: {wanted}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise UserError(f"{path} holds {found}: {wanted}")
    with np.errstate(over="ignore"):
        array = np.array(array, np.float32)
    array[~np.isfinite(array)] = np.nan
    return Features(path, array, tuple(map(str, range(array.shape[1]))))


READERS = {"csv": read_table, "arff": read_table, "npy": read_array}  # by the ending of the file


def _regular_cells(path):
    """The Cells of a csv file with a header and nothing unusual, its columns of numbers as numbers, in a fifth of the
    time; None for any other, which read_cells() reads, or refuses with its line."""
    if not re.search(r"\.csv(\.gz)?$", path.name, re.IGNORECASE):
        return None
    lines = text_lines(path)
    separator = next((mark for mark in ";\t," if mark in lines[0]), None)
    header = lines[0].split(separator)
    names = [column_name(cell) for cell in header]
    if (not separator or len(lines) < 2 or len({*names}) < len(names) or "" in names
            or any('"' in cell or NUMBER.fullmatch(cell.strip()) for cell in header)
            or any(line.count(separator) != len(names) - 1 for line in lines)):
        return None
    table = pd.read_csv(io.StringIO("\n".join(lines[1:])), sep=separator, header=None, skipinitialspace=True,
                        keep_default_na=False, na_values=["", "nan", "NaN"], low_memory=False)
    if len(table) != len(lines) - 1 or any(kind.kind == "b" for kind in table.dtypes):
        return None
    table.columns, table.index = names, range(2, len(lines) + 1)
    for name in (name for name in names if table[name].dtype.kind not in "iuf"):
        table[name] = table[name].astype(object).where(table[name].notna(), "nan").astype(str).str.strip()
    return Cells(path, table, True, separator)


def _with_starts(cells):
    """The Cells with a column of time_s, where openSMILE's Python package wrote when each window starts ("0 days
    00:00:00.01")."""
    if "start" not in cells.table or cells.table.columns.isin(TIMES).any():
        return cells
    starts = cells.table["start"].astype(str)
    starts = pd.to_timedelta(starts.where(starts.str.contains(":")), errors="coerce")
    return cells if starts.isna().any() else cells._replace(table=cells.table.assign(time_s=starts.dt.total_seconds()))


def _first_face(cells):
    """(the rows of the first face alone, notes) of a table, which may be of OpenFace and have several."""
    faces = numbers(cells, ["face_id"])[:, 0] if "face_id" in cells.table else np.zeros(0)
    ids = np.unique(faces[np.isfinite(faces)])
    if len(ids) < 2:
        return cells, ()
    first = faces == ids[0]
    return cells._replace(table=cells.table[first]), (
        f"{len(ids)} faces, of which the first alone (face_id {ids[0]:g}) is used: {np.count_nonzero(~first)} rows of "
        "others are left out",)


def _values(cells, names, notes):
    """(table of the columns that hold numbers, NaN where there is none; notes with the texts among them added)."""
    found = {}
    for name in names:
        texts = cells.table[name]
        found[name] = pd.to_numeric(texts, errors="coerce").astype(float)
        odd = found[name].isna()
        if texts.dtype.kind in "iuf" or not odd.any():
            continue
        odd &= ~texts.str.strip().str.lower().str.fullmatch(NOT_A_NUMBER)
        if cells.separator != "," and texts[odd].str.fullmatch(COMMA).any():
            found[name] = pd.Series(numbers(cells, [name])[:, 0], texts.index)  # decimal commas
        elif odd.any() and found[name].notna().any():
            line = odd.idxmax()
            notes += (f"{name} has texts among its numbers ({odd.sum()}, the first in line {line}: "
                      f"{quoted(texts[line])}): masked",)
        elif odd.any():
            del found[name]
            notes += (f"{name} holds texts and is not used",)
    return pd.DataFrame(found, cells.table.index), notes


# ---- files ----------------------------------------------------------------------------------------------------------

def find(folder):
    """{id: path} of the files of features in a folder. Raises UserError if a recording has two."""
    return files_by_id(folder, tuple(READERS))


def found(cfg):
    """{"visual": {id: path}, "audio": ...} of all features of a corpus. Raises UserError as find does."""
    return {modality: find(cfg.features_dir / modality) for modality in MODALITIES.values()}


def load(path, cache_dir):
    """The Features of a file, as it was read or, of text, as they lie in the cache. Raises UserError as its reader."""
    ending = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if ending == "npy" or not path.is_file():
        return READERS[ending](path)
    state, stem = path.stat(), f"{path.name.split('.' + ending)[0]}.{path.parent.name}"
    made_of = f"{path} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
    cache = Path(cache_dir, f"{stem}.{digest(made_of.encode())}.npz")
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        with np.load(cache, allow_pickle=False) as held:  # checks the sums that np.savez wrote
            times = held["times_s"]
            return Features(path, held["values"], tuple(held["columns"].tolist()), times if len(times) else None,
                            tuple(held["notes"].tolist()))
    features = READERS[ending](path)
    with whole_file(cache) as part, open(part, "wb") as file:
        times = () if features.times_s is None else features.times_s
        np.savez(file, values=features.values, columns=np.array(features.columns, str), times_s=np.array(times, float),
                 notes=np.array(features.notes, str))
    for old in cache.parent.glob(f"{glob.escape(stem)}.*.npz"):
        if old != cache:
            old.unlink(missing_ok=True)  # another process may do the same
    return features


# ---- frames ---------------------------------------------------------------------------------------------------------

def known_frames(name, cfg):
    """(number of frames of a recording by its features, their file): the visual ones, else the audio ones; (None, None)
    without any."""
    for files in found(cfg).values():
        if name in files:
            return count_frames(load(files[name], cfg.cache_dir), cfg.frame_rate), files[name]
    return None, None


def count_frames(features, frame_rate):
    """Number of frames from the beginning of a recording to the end of its last row."""
    times = features.times_s
    if _is_per_frame(times, frame_rate) or len(times) < 2:
        return len(features.values)
    step = np.median(np.diff(times))
    return round((times[-1] + step - min(max(times[0], 0), step / 2)) * frame_rate)  # a time may be that of its middle


def on_frames(features, frames, frame_rate):
    """((N, D) float32, row k of frame k, NaN where missing; notes). frames: N.

    Raises UserError if the rows do not reach, within 1 %, to the end of the frames.
    """
    values, times = features.values, features.times_s
    if _is_per_frame(times, frame_rate):
        values, notes = _of_every_frame(features, frames, frame_rate)
    else:
        try:
            check_span(times, frames, frame_rate, "its annotation file", what="features")
        except UserError as error:
            raise UserError(f"{features.path}: {error}") from None
        values = resample(values, times, np.arange(frames) / frame_rate).astype(np.float32)
        notes = (f"rows from {times[0]:g} to {times[-1]:g} s, interpolated linearly to {frame_rate:g} per second",)
    return values, (*features.notes, *notes, *_missing(values))


def _is_per_frame(times, frame_rate):
    """Whether row k is that of frame k: there are no times, or each is within a quarter of a frame of its frame's."""
    return times is None or bool((np.abs(times - np.arange(len(times)) / frame_rate) <= 0.25 / frame_rate).all())


def _of_every_frame(features, frames, frame_rate):
    """((N, D), notes) of rows that are of a frame each: up to 1 % more are dropped, and as many may be missing."""
    path, values, more = features.path, features.values, len(features.values) - frames
    if not is_near(len(values), frames):
        rate = len(values) / frames * frame_rate
        raise UserError(f"{path} has {len(values)} rows for {frames} frames: as many, or up to 1 % more or less, were "
                        f"expected. Are they at another rate ({rate:.4g} per second in place of {frame_rate:g})? Then "
                        "a column of time_s in seconds places them. Or is it the wrong file, or are rows missing?")
    if more > 0:
        return values[:frames], (f"the last {more} of {len(values)} rows have no frame and are left out",)
    missing = np.full((-more, values.shape[1]), np.nan, np.float32)
    return np.concatenate([values, missing]), (f"{len(values)} rows for {frames} frames",) * bool(more)


def _missing(values):
    """A note on what is missing of (N, D)."""
    none = np.isnan(values)
    whole = np.count_nonzero(none.all(1))
    parts = [f"{whole} of {len(values)} frames have no features"] * bool(whole)
    parts += [f"{np.count_nonzero(none.any(1)) - whole} lack some"] * bool(np.count_nonzero(none.any(1)) - whole)
    return (f"{', '.join(parts)}: masked (fed as the mean)",) * bool(parts)


# ---- several recordings ---------------------------------------------------------------------------------------------

def check_columns(found):
    """Raises UserError, naming file and column, if recordings have other columns than the first. found: [(path, names
    of its columns)]."""
    for path, columns in found[1:]:
        its, first = found[0]
        odd = next((name for name in (*first, *columns) if (name in first) != (name in columns)), None)
        if odd is not None:
            lacks, has = (path, its) if odd in first else (its, path)
            raise UserError(f"{lacks} has no column {odd!r}, which {has} has: the same features were expected for all "
                            "recordings")
        if columns != first:
            raise UserError(f"{path} has its columns in another order than {its}: the same order was expected for all "
                            "recordings")


def statistics(arrays):
    """(mean, standard deviation) of every column of arrays (N, D), (D,) float32 each; 0 is the deviation of a column
    that is constant or has no value. Missing values do not count."""
    values = np.concatenate(arrays)
    there = np.isfinite(values)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, values, 0).sum(0, dtype=float) / count
    deviation = np.sqrt((np.where(there, values - mean, 0) ** 2).sum(0) / count)
    lowest, highest = (extreme(values, 0, where=there, initial=start) for extreme, start in
                       ((np.min, np.float32(np.inf)), (np.max, np.float32(-np.inf))))
    return mean.astype(np.float32), np.where(highest > lowest, deviation, 0).astype(np.float32)
