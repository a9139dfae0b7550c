"""Text and JSON in files of which nothing is trusted: what they hold is as asked for, or one error names them.

Tables and arrays: columns.py, which needs NumPy and pandas.

    again: the end of an error's message, what to do: "delete it and run audio_melspec.py".
"""
import codecs
import json
import math
import os

from support.errors import UserError
from support.files import named, regular

LONGEST = 2**28  # bytes of text that are read: 256 MiB, some 5 million rows
HUGE = 2**53  # whole numbers from here on are not exact as floats, and nothing here counts so far


def read_bytes(path, most=LONGEST):
    """What a file holds. Raises UserError if it is no file, or is larger than `most` bytes; OSError that names it."""
    with open(regular(path), "rb") as file, named(path):
        if os.fstat(file.fileno()).st_size > most:
            raise UserError(f"{path} is too large: at most {most >> 20} MiB were expected")
        return file.read()


def read_text(path, again):
    """The text of a file. Raises UserError, naming the line, if it is not UTF-8 or holds a NUL."""
    held = read_bytes(path)
    try:
        text = held.removeprefix(codecs.BOM_UTF8).decode()
        if "\0" not in text:
            return text
        start = held.index(b"\0")
    except UnicodeDecodeError as error:
        start = error.start
    raise UserError(f"{path} line {held.count(10, 0, start) + 1}: not UTF-8 text: {again}")


def parse_json(text):
    """What JSON, as text or bytes, says: dicts, lists, texts, numbers up to HUGE, None. Raises ValueError for all else.
    """
    try:
        return json.loads(text, parse_int=_whole)
    except (RecursionError, UnicodeError):
        raise ValueError("nested too deeply, or not UTF-8") from None


def _whole(text):
    if len(text) > 20 or abs(int(text)) > HUGE:
        raise ValueError("a huge number")
    return int(text)


def read_json(path, again):
    """The dict in a JSON file. Raises UserError if it holds anything else; FileNotFoundError if it is missing."""
    try:
        found = parse_json(read_bytes(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({clipped(error)}): {again}") from None
    if type(found) is not dict:
        raise UserError(f"{path} is damaged (no dict of names and values): {again}")
    return found


def clipped(value, most=60):
    """The beginning of a value's text, on one line, for messages; of what holds others, its kind alone."""
    text = f"a {type(value).__name__}" if isinstance(value, dict | list | tuple) else " ".join(str(value).split())
    return text if len(text) <= most else text[:most] + "..."


def is_number(value):
    """Whether something out of JSON is a number, and a finite one."""
    return type(value) in (int, float) and math.isfinite(value)
