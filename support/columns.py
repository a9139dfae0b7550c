"""Tables (CSV) and arrays (.npy) in files of which nothing is trusted: whole and as asked for, or one error names them.

    again: the end of an error's message, what to do: "delete it and run audio_melspec.py".
"""
import csv
import io
import re

import numpy as np
import pandas as pd

from support.errors import UserError
from support.reading import clipped, read_text


def read_table(path, again, numbers=(), texts=(), whole=True):
    """A CSV file with a header as a table: its columns `numbers` as floats (NaN where empty or "nan"), all others as
    texts; index: the line of each row in the file.

    whole: there must be no empty lines and the last line must end, as in all files that are written here; else it was
    cut short. Raises UserError, naming the line, if a column, a cell or all rows are missing, or if a cell is not a
    number; OSError if the file is missing.
    """
    text = read_text(path, again)
    table = _regular(text, (*numbers, *texts), numbers)
    if table is not None:
        return table
    lines, (names, *rows) = _rows(text, path, again, whole)
    if missing := [name for name in (*numbers, *texts) if name not in names]:
        raise UserError(f"{path} line 1: no column {missing[0]!r} in {clipped(','.join(names))!r}: {again}")
    if not rows or len(set(names)) < len(names):
        fault = "two columns of one name" if rows else "no rows below its header"
        raise UserError(f"{path} line 1: {fault} {clipped(','.join(names))!r}: {again}")
    if whole and not text.endswith("\n"):
        raise UserError(f"{path} line {lines[-1]}: the line does not end, the file is cut short: {again}")
    table = pd.DataFrame(rows, lines[1:], names, object)
    return table.assign(**{name: to_numbers(table[name], path, again) for name in numbers})


def to_numbers(texts, path, again):
    """A column of texts of read_table() as floats; NaN where empty or "nan". Raises UserError, naming the line, for
    other texts."""
    values = pd.to_numeric(texts, errors="coerce").astype(float)
    for row in np.flatnonzero(values.isna() & ~texts.str.strip().str.lower().isin(["", "nan"])):
        word = clipped(texts.iloc[row])
        raise UserError(f"{path} line {texts.index[row]}: {word!r} is not a number ({texts.name}): {again}")
    return values


def _regular(text, wanted, numbers):
    """What read_table() makes of a text with nothing unusual in it, in a tenth of the time and memory; None for any
    other, which is read line by line, or refused with its line."""
    raw = np.frombuffer(text.encode(), np.uint8)
    names, ends = text.partition("\n")[0].split(","), np.flatnonzero(raw == ord("\n"))
    commas = np.searchsorted(np.flatnonzero(raw == ord(",")), ends)
    if (np.isin(raw, list(b'"\r\0')).any() or len(ends) < 2 or ends[-1] != len(raw) - 1 or (np.diff(ends) == 1).any()
            or (commas != (len(names) - 1) * np.arange(1, len(ends) + 1)).any()
            or len(set(names)) < len(names) or not {*wanted} <= {*names}):
        return None
    kinds = {name: float if name in numbers else object for name in names}
    try:
        table = pd.read_csv(io.StringIO(text), dtype=kinds, keep_default_na=False, index_col=False,
                            na_values={name: ["", "nan"] for name in numbers})
    except (ValueError, OverflowError):
        return None
    return table.set_axis(range(2, len(table) + 2)) if len(table) == len(ends) - 1 else None  # lines of spaces are gone


def _rows(text, path, again, whole):
    """(numbers of the lines of a CSV, the cells of each, as many as in the first). Raises UserError, naming the line.
    """
    texts, lines, rows = re.split("\r\n|\r|\n", text), [], []
    reader = csv.reader(texts if texts[-1] else texts[:-1], strict=True)
    try:
        for line, row in enumerate(reader, 1):
            if not row and not whole and line > 1:
                continue
            if reader.line_num != line:
                raise UserError(f"{path} line {line}: a quote is not closed: {again}")
            if rows and len(row) != len(rows[0]):
                raise UserError(f"{path} line {line}: {len(row)} cells, {len(rows[0])} as in line 1 were expected: "
                                f"{again}")
            lines.append(line)
            rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: {error}: {again}") from None
    return lines or [1], rows or [[]]
