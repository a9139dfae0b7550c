"""Files of ratings -> tables of texts, every row with its line: csv as tools leave it, ARFF, Parquet.

csv may be separated by `;`, tabs, commas or (numbers alone) blanks, with decimal points or commas, quotes, a header,
separators at the ends of lines, any line ends, a byte order mark (UTF-8, UTF-16, UTF-32), and be compressed (.gz).
Nothing is guessed: what is not regular is refused with its line.
"""
import csv
import gzip
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from support.errors import UserError
from support.files import named, regular

LIMIT = 2**28  # bytes of text that are read: 256 MiB, some 5 million rows
MARKS = [(b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xef\xbb\xbf", "utf-8-sig"),
         (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")]  # byte order marks
COMMA = r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?"  # a number with a decimal comma
SEPARATOR = re.compile(r'\s*"?sep=([;,\t])"?\s*', re.IGNORECASE)  # Excel's first line
MISSING = ["", "nan", "na", "n/a", "null", "none"]  # cells without a number, in lower case
NUMBER = re.compile(r"[+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?|[+-]?inf|nan", re.ASCII | re.IGNORECASE)


class Cells(NamedTuple):
    """A table as its file holds it."""
    path: Path
    table: pd.DataFrame  # texts (Parquet: what it holds); index: line of the file (Parquet: row); columns: names in
    # lower case, with _ for everything but letters and digits; 0, 1 ... if the file has no header
    named: bool  # whether it has a header
    separator: str = ","

    def fault(self, line, text):
        """The UserError of a line."""
        place = "row" if self.path.suffix == ".parquet" else "line"
        return UserError(f"{self.path} {place} {line}: {text}")

    def first_line(self):
        """The beginning of the file's first row, for messages: its header, if it has one."""
        row = self.table.columns if self.named or not len(self.table) else self.table.iloc[0]
        return quoted(self.separator.join(map(str, row)))


def read_cells(path):
    """The Cells of a file; its ending says what it is. Raises UserError, naming the line, if it is not regular."""
    ending = Path(path).name.lower().removesuffix(".gz").rpartition(".")[2]
    return {"arff": _read_arff, "parquet": _read_parquet}.get(ending, _read_csv)(Path(path))


def numbers(cells, columns):
    """(R, n) float of some columns of a table; NaN where a cell is empty, `nan`, `NA` or another of MISSING.

    Raises UserError, naming the line, if another cell is not a number, or if decimal points and commas are mixed.
    """
    table = cells.table[columns]
    if not all(table[name].dtype.kind in "iuf" for name in columns):
        table = _with_points(cells, table.astype(object).fillna("nan").astype(str).astype(object))
        values = table.apply(pd.to_numeric, errors="coerce")
        missing = table.apply(lambda column: column.str.strip().str.lower().isin(MISSING))
        for row, column in zip(*np.nonzero((values.isna() & ~missing).to_numpy())):
            raise cells.fault(table.index[row], f"{quoted(table.iat[row, column])} is not a number")
        table = values
    return table.to_numpy(float)


def quoted(text):
    """The beginning of a text in quotes, for messages."""
    return repr(text[:40])


# ---- text -----------------------------------------------------------------------------------------------------------

def text_lines(path):
    """The lines of a text file, compressed (.gz) or not, without empty ones at its end. Raises UserError if it is none.

    Encodings are told by the byte order mark; without one it must be UTF-8.
    """
    regular(path)
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file, named(path):
            held = file.read(LIMIT + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path} is damaged: it cannot be uncompressed") from None
    if len(held) > LIMIT:
        raise UserError(f"{path} is too large: at most {LIMIT >> 20} MiB of text were expected")
    encoding = next((name for mark, name in MARKS if held.startswith(mark)), "utf-8")
    try:
        text = held.decode(encoding)
    except UnicodeDecodeError as error:
        line = held.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line}: not {encoding.upper()} text: save the file as UTF-8") from None
    text = re.sub("\N{MINUS SIGN}(?=[.,]?[0-9])", "-", text)
    if "\0" in text:
        raise UserError(f"{path} line {text.count(chr(10), 0, text.index(chr(0))) + 1}: a NUL byte, so it is not text "
                        "(or UTF-16 without a byte order mark): save the file as UTF-8")
    lines = re.split("\r\n|\r|\n", text)
    while lines and not lines[-1].strip(" "):
        lines.pop()
    if not lines:
        raise UserError(f"{path} is empty: rows of ratings were expected")
    return lines


def _rows(path, lines, separator, quote='"', first=1):
    """Yields (line, cells) of lines that begin with number `first`. Raises UserError if a quote is not closed."""
    reader = csv.reader(lines, delimiter=separator or "\x1f", quotechar=quote, skipinitialspace=True)
    try:
        for number, cells in enumerate(reader, 1):
            if reader.line_num != number:
                raise UserError(f"{path} line {first + number - 1}: a quote is not closed")
            yield first + number - 1, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise UserError(f"{path} line {first + reader.line_num - 1}: {error}") from None


def _read_csv(path):
    lines = text_lines(path)
    first, separator = _beginning(lines)
    lines = lines[first - 1:]
    if not separator and _by_blanks(lines):
        separator, lines = " ", [" ".join(line.split()) for line in lines]
    rows = list(_rows(path, lines, separator, first=first))
    head = rows[0][1]
    named = any(head) and not any(NUMBER.fullmatch(cell) for cell in head)
    if len(head) > (1 if named else 2) and not head[-1]:  # a separator at the end of the line
        head = head[:-1]
    width = len(head)
    for number, (line, cells) in enumerate(rows):
        if len(cells) == width + 1 and not cells[-1]:
            rows[number] = line, cells[:-1]
        elif len(cells) != width:
            found = quoted((separator or ";").join(cells))
            raise UserError(f"{path} line {line}: {found} has {len(cells)} columns, line {first} has {width}: a table "
                            "with as many in every line, and nothing else, was expected")
    if not named:
        return Cells(path, _table(rows, range(width)), False, separator or ";")
    return _checked(Cells(path, _table(rows[1:], map(column_name, head)), True, separator or ";"))


def _beginning(lines):
    """(number of the first line of the table, separator of its columns, "" without one).

    Before it may be `sep=;`, as Excel writes it, and lines of comments, which begin with #; the last of these is the
    header if it has as many columns as the line below it.
    """
    for number, line in enumerate(lines, 1):
        if said := SEPARATOR.fullmatch(line):
            return min(number + 1, len(lines)), said[1]
        separator = next((mark for mark in ";\t," if mark in re.sub(r'"[^"]*"', "", line)), "")
        below = lines[number] if number < len(lines) else ""
        is_header = separator and line.count(separator) == below.count(separator) and not below.startswith("#")
        if not line.startswith("#") or is_header or number == len(lines):
            return number, separator
    return 1, ""


def _by_blanks(lines):
    """Whether blanks separate the columns of lines without any other separator: as many numbers in all lines but the
    first, which may be a header of as many words."""
    words = [line.split() for line in lines]
    numeric = all(NUMBER.fullmatch(word) for row in words[1:] or words for word in row)
    return numeric and len(words[0]) > 1 and {*map(len, words)} == {len(words[0])} and '"' not in lines[0]


def _table(rows, columns):
    """rows: (line, cells)."""
    return pd.DataFrame([cells for _, cells in rows], [line for line, _ in rows], list(columns), object)


def column_name(text):
    """A column's name in lower case, with _ for everything but letters and digits: `Time (s)` is time_s."""
    return re.sub(r"[\W_]+", "_", text.lower()).strip("_")


def _checked(cells):
    """The same Cells. Raises UserError if two columns have one name, or if there are no rows."""
    if twice := [name for name in cells.table.columns if list(cells.table.columns).count(name) > 1]:
        raise cells.fault(1, f"two columns are called {quoted(twice[0])}")
    if not len(cells.table):
        raise UserError(f"{cells.path} has no rows below its header {cells.first_line()}")
    return cells


def _with_points(cells, table):
    """A table of texts with decimal points in place of commas. Raises UserError if it has both."""
    comma = table.apply(lambda column: column.str.fullmatch(COMMA)).any(axis=1).to_numpy(bool)
    if not comma.any():
        return table
    point = table.apply(lambda column: column.str.contains(".", regex=False)).any(axis=1).to_numpy(bool)
    if point.any():
        row = max(comma.argmax(), point.argmax())
        found = quoted(cells.separator.join(table.iloc[row]))
        raise cells.fault(table.index[row], f"{found}: decimal points and decimal commas are mixed; use points")
    return table.apply(lambda column: column.str.replace(",", ".", regex=False))


# ---- ARFF and Parquet -----------------------------------------------------------------------------------------------

def _read_arff(path):
    """Weka's form. scipy.io.arff takes no text attributes, which AVEC's files have; liac-arff is no longer kept up."""
    lines, names = text_lines(path), []
    for number, line in enumerate(lines, 1):
        words = line.strip().lower()
        if words.startswith("@data"):
            break
        if attribute := re.match(r"\s*@attribute\s+('[^']*'|\"[^\"]*\"|\S+)\s+\S", line, re.IGNORECASE):
            names.append(column_name(attribute[1]))
        elif words and not words.startswith(("%", "@relation")):
            raise UserError(f"{path} line {number}: {quoted(line)} is not @relation, @attribute or @data")
    else:
        raise UserError(f"{path} has no @data: it is not ARFF, or cut short")
    rows = []
    for line, cells in _rows(path, lines[number:], ",", "'", number + 1):
        if not any(cells) or cells[0].startswith("%"):
            continue
        if len(cells) != len(names) or cells[0].startswith("{"):
            raise UserError(f"{path} line {line}: {quoted(','.join(cells))} has {len(cells)} values, the attributes "
                            f"are {len(names)}")
        rows.append((line, ["nan" if cell == "?" else cell for cell in cells]))
    return _checked(Cells(path, _table(rows, names), True))


def _read_parquet(path):
    import pyarrow  # here: takes a second, and few need it
    import pyarrow.parquet
    regular(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if file.metadata.num_rows * max(1, file.metadata.num_columns) > LIMIT // 8:
                raise UserError(f"{path} is too large: {file.metadata.num_rows} rows")
            table = file.read().to_pandas()
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read as Parquet ({quoted(str(error))})") from None
    table = table.reset_index(drop=table.index.names == [None])  # pandas may have written columns as its index
    table.index += 1
    return _checked(Cells(path, table.set_axis([column_name(str(name)) for name in table.columns], axis=1), True))


# ---- which files there are ------------------------------------------------------------------------------------------

def files_by_id(folder, endings):
    """{id: path} of the files of a folder with one of these endings, compressed (.gz) or not, hidden ones aside.

    Raises UserError if two have the same id.
    """
    found = {}
    for path in sorted(Path(folder).glob("[!.]*")):
        stem, dot, ending = re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE).rpartition(".")
        if dot and ending.lower() in endings:
            if stem in found:
                raise UserError(f"{found[stem]} and {path} have the same id: keep one of them")
            found[stem] = path
    return found


def header_of(path):
    """The names in the first line of a text file; [] if it has none or cannot be read."""
    if not path.is_file():  # a FIFO would be waited for
        return []
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            held = file.read(4096)
    except (OSError, EOFError, zlib.error):
        return []
    encoding = next((name for mark, name in MARKS if held.startswith(mark)), "utf-8")
    lines = re.split("\r\n|\r|\n", held.decode(encoding, "ignore"))
    return [column_name(cell) for cell in re.split("[;\t,]", lines[_beginning(lines)[0] - 1])]
