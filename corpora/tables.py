"""Tables: one CSV or Parquet file of all recordings, `recording,time_s,arousal,valence` (any rate, any order of rows).
"""
import functools
from pathlib import Path

import numpy as np

from corpora.cells import files_by_id, header_of, quoted, read_cells
from corpora.ratings import Ratings, Source, named_ratings, times_of
from support.errors import UserError

PEOPLE = ["subject", "person"]  # columns that tell the people of one recording apart


def find(folder):
    """{id: Source} of the recordings in a table; {} if there is none. Raises UserError if it cannot be read."""
    files = [path for path in files_by_id(folder, ("csv", "tsv", "txt")).values() if "recording" in header_of(path)]
    files += [path for path in sorted(Path(folder).glob("[!.]*")) if path.suffix == ".parquet"]
    if len(files) > 1:
        raise UserError(f"{files[0]} and {files[1]} are both tables of ratings: put all recordings into one")
    return sources_of(files[0]) if files else {}


def sources_of(path):
    """{id: Source} of the recordings in a table. Raises UserError if a row, or all of them, name no recording."""
    cells = read_cells(path)
    if not cells.named or "recording" not in cells.table:
        raise cells.fault(1, f"the columns are {cells.first_line()}: recording,time_s,arousal,valence were expected")
    names = cells.table["recording"]
    for line in names.index[(names.isna() | (names.astype(str).str.strip() == "")).to_numpy()]:
        raise cells.fault(line, "no recording is named")
    found = {}
    for name, rows in cells.table.groupby("recording", sort=False):
        for one, part in by_person(cells, str(name), rows):
            if one in found:
                raise cells.fault(part.index[0], f"{quoted(one)} is already a recording: rename it, or the person")
            found[one] = Source("table", (path,), functools.partial(read, cells._replace(table=part), one))
    return found


def by_person(cells, name, rows):
    """[(id, its rows)] of a recording: <recording>_<person> where a column of PEOPLE tells several; else itself.

    Raises UserError, naming the line, if a row of such a recording names no person.
    """
    column = next((column for column in PEOPLE if column in rows and rows[column].nunique() > 1), None)
    if not column:
        return [(name, rows)]
    people = rows[column].fillna("").astype(str).str.strip()
    for line in people.index[(people == "").to_numpy()]:
        raise cells.fault(line, f"{name} has several people, and this row names none ({column})")
    return [(f"{name}_{person}", part) for person, part in rows.groupby(people, sort=False)]


def read(cells, name, raters="mean"):
    """Ratings of one recording from its rows of a table, sorted by time.

    Raises UserError, naming the line, if a column is missing or a time occurs twice.
    """
    times = times_of(cells)
    if times is None:
        raise cells.fault(1, f"the columns are {cells.first_line()}: none is called time_s, which should hold the "
                             "seconds from the beginning of each recording (of frame k: k / frames per second)")
    order = np.argsort(times, kind="stable")
    for row in np.flatnonzero(np.diff(times[order]) <= 0):
        line, before = cells.table.index[order[row + 1]], cells.table.index[order[row]]
        raise cells.fault(line, f"a second rating of {name} at {times[order[row]]:g} s (the first: {before})")
    return Ratings(named_ratings(cells)[order], times[order])
