"""A table of a page: plain text in rows and columns."""
import re
from typing import NamedTuple

# A cell that stands at the right
NUMBER = re.compile(r"[-+]?[\d.]+( ?[%s]| min| h)?|\d+-\d\d-\d\d|-|>100%|no gap|undefined|")


class Table(NamedTuple):
    """A table of the page: rows of texts, the first of each names the row."""
    caption: str
    columns: list
    rows: list

    @property
    def numeric(self):
        """The columns of numbers."""
        cells = {place: [row[place] for row in self.rows] for place in range(1, len(self.columns))}
        return [place for place, column in cells.items() if all(map(NUMBER.fullmatch, column))]


def counted(count, noun):
    """3 recordings, 1 recording."""
    return f"{count} {noun}" + "s" * (count != 1)
