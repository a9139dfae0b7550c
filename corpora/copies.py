"""Recordings that are one and the same under two names: the same bytes, or names that only look the same."""
import hashlib
import itertools
import unicodedata
from collections import defaultdict

from support.files import named


def copies(files):
    """[[id, id ...] ...] of the recordings whose files have the same bytes. files: {id: path}.

    Files are compared by their size first; only those of one size are read.
    """
    by_size, by_bytes = defaultdict(list), defaultdict(list)
    for name, path in files.items():
        if path.is_file():
            by_size[path.stat().st_size].append(name)
    for size, names in by_size.items():
        for name in names if len(names) > 1 and size else []:
            with open(files[name], "rb") as file, named(files[name]):
                by_bytes[size, hashlib.file_digest(file, "sha256").hexdigest()].append(name)
    return [names for names in by_bytes.values() if len(names) > 1]


def spelt_alike(names):
    """{id: another one that looks the same}: ids that differ in how Unicode composes their letters alone."""
    by_look = defaultdict(list)
    for name in names:
        by_look[unicodedata.normalize("NFC", name)].append(name)
    return {one: other for alike in by_look.values() for one, other in itertools.permutations(alike, 2)}
