"""Checksums (CRC-32) of what the steps write, so that damage is noticed where it is read.

A folder has a list of its files, checksums.sfv: a line "<file> <CRC-32>" each, as cksfv and rhash read it, and at the
end a remark with the checksum of the list itself. An array's file (.npy) has its checksum behind the array, where
np.load never looks. Folders and arrays without one, of other programs and older versions, are read unchecked.
"""
import contextlib
import functools
import hashlib
import io
import os
import zlib
from pathlib import Path

import numpy as np

from support.arrays import mapped_array
from support.errors import UserError
from support.files import there
from support.reading import read_bytes

LIST = "checksums.sfv"
MARK = b"crc32 "  # and eight digits: what follows an array in its file
BLOCK = 2**20  # bytes that are read at once: they stay in the cache of the processor


# ---- folders --------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def listed(folder):
    """Gives note(name, crc), to be called for every file that is written into a folder; then its list is complete."""
    with open(Path(folder, LIST), "wb") as file:
        whole = 0

        def note(name, crc):
            nonlocal whole
            line = f"{name} {crc:08X}\n".encode()
            file.write(line)
            whole = zlib.crc32(line, whole)

        yield note
        file.write(_last_line(whole))


def list_all(folder, known=()):
    """Writes the list of all files in a folder. known: {name: CRC-32} of those that need not be read."""
    names = sorted(name for name in os.listdir(folder) if name != LIST)
    with listed(folder) as note:
        for name in names:
            note(name, known[name] if name in known else zlib.crc32(read_bytes(Path(folder, name))))


def list_text(folder, again=""):
    """The bytes of a folder's list, b"" if it has none. Raises UserError if it is damaged; again: what to do then."""
    path = Path(folder, LIST)
    try:
        if not there(path):
            return b""
        text = read_bytes(path)
    except UserError:  # it is a folder, a pipe, a link to nothing
        text = b""
    end = len(text) - len(_last_line(0))
    if end < 0 or text[end:] != _last_line(zlib.crc32(text[:end])):
        again = again or f"delete {path.parent}/ and make it again"
        raise UserError(f"{path} is damaged: {again} (or, if you know that the other files beside it are whole, delete "
                        f"{path.name} alone: they are then read unchecked)")
    return text


def read_list(folder):
    """{name: CRC-32} of the files in a folder, {} if it has no list. Raises UserError if the list is damaged."""
    lines = (line.rpartition(" ") for line in list_text(folder).decode().splitlines())
    return {name: int(crc, 16) for name, _, crc in lines if name != ";"}


def checked(path, content, sums, again):
    """The content of a file. Raises UserError if `sums`, read_list() of its folder, has another checksum for it.

    again: what brings it back, such as "delete X/ and run Y".
    """
    folder, name = os.path.split(path)
    if sums and sums.get(name) != zlib.crc32(content):
        raise UserError(f"{path} is damaged, or was changed after it was written (its checksum is not that in {LIST}): "
                        f"{again}; if the change was meant, delete {os.path.join(folder, LIST)}")
    return content


def verify(path, again):
    """Raises UserError as `checked` does, if a file has another checksum than the list of its folder says."""
    checked(path, read_bytes(path), read_list(os.path.dirname(path)), again)


def _last_line(crc):
    return f"; {crc:08X}\n".encode()


# ---- arrays ---------------------------------------------------------------------------------------------------------

def write_checked_array(path, length, pieces):
    """Writes arrays (n, ...) one after the other as one array (length, ...), followed by its checksum.

    Not through a memory map: with that, a full disk would kill the process.
    """
    with open(path, "wb") as file:
        crc = 0
        for number, piece in enumerate(pieces):
            content = memoryview(np.ascontiguousarray(piece)).cast("B")
            for part in [content] if number else [_header(piece, length), content]:
                file.write(part)
                crc = zlib.crc32(part, crc)
        file.write(_mark(crc))


def open_array(path, again):
    """(the array in a file, read in place; whether it has a checksum). It is compared once for as long as the file is
    the same.

    Raises FileNotFoundError, or UserError if the file is no whole array or its checksum is another; `again` says what
    to do.
    """
    (array, size), state = mapped_array(path, again), os.stat(path)
    rest = state.st_size - size
    if rest and (rest != len(_mark(0)) or array_sum(path) != _crc(path, size, state.st_mtime_ns, state.st_ctime_ns)):
        raise UserError(f"{path} is damaged (its checksum is not that of its content): {again}")
    return array, rest > 0


def array_sum(path):
    """The CRC-32 that is noted behind the array in a file, None if there is none."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(_mark(0))))
        mark = file.read()
    with contextlib.suppress(ValueError):
        return int(mark.removeprefix(MARK), 16) if mark.startswith(MARK) else None


def _header(piece, length):
    header = {"descr": piece.dtype.str, "fortran_order": False, "shape": (length, *piece.shape[1:])}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def _mark(crc):
    return MARK + f"{crc:08x}".encode()


@functools.lru_cache(None)
def _crc(path, size, *state):
    """CRC-32 of the first `size` bytes of a file; state: what differs when it was written since."""
    crc, left = 0, size
    with open(path, "rb", buffering=0) as file:
        while left and (block := file.read(min(left, BLOCK))):
            crc, left = zlib.crc32(block, crc), left - len(block)
    return crc


# ---- what a run was trained on, and what lies in cache/ -------------------------------------------------------------

def digest(content):
    """A short text that follows from some bytes, for names of files: 16 hexadecimal digits of their SHA-1."""
    return hashlib.sha1(content).hexdigest()[:16]


def identity(path, again=""):
    """A short text that differs when a file, or the files in a folder, are exchanged for others; "" if there is none.

    Quick where there are checksums. Of a folder without a list: of the names and sizes of its files, and it begins with
    "~" then, as it is no text to compare with the other kind. Raises UserError if a list is damaged; again: what to do
    then.
    """
    path = Path(path)
    if path.is_dir():
        if text := list_text(path, again):
            return f"{zlib.crc32(text):08x}"
        return f"~{_crc_of_sizes(path, path.stat().st_mtime_ns):08x}"
    if not path.is_file():
        return ""
    crc, state = array_sum(path) if path.suffix == ".npy" else None, path.stat()
    crc = _crc(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns) if crc is None else crc
    return f"{crc:08x}"


@functools.lru_cache(None)  # 0.1 s for 7500 files, and it is asked for before each of many runs
def _crc_of_sizes(folder, *state):
    """CRC-32 of the names and sizes of the files in a folder; state: what differs when files came or went since."""
    files = sorted(f"{one.name} {one.stat().st_size}\n" for one in os.scandir(folder) if not one.name.startswith("."))
    return zlib.crc32("".join(files).encode())
