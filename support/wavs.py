"""What the headers of sound files say, and what is there: lengths that are wrong, files joined byte by byte."""
import os
import re
import struct
from typing import NamedTuple

import soundfile

from support.errors import UserError
from support.files import regular, there

STREAMED = 2**31 - 2**17  # lengths from here on, and 0, say that it was not known: a pipe, a live stream
BLOCK = 2**16  # bytes of a file looked through at a time
LONGEST_HEAD = 16  # bytes
W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
HEADS = {  # what a file of one piece begins with, in which no second one is expected
    "WAV": rb"RIFF.{4}WAVE", "AIFF": rb"FORM.{4}AIF[FC]", "CAF": rb"caff\x00\x01\x00\x00", "AMR": rb"#!AMR(-WB)?\n",
    "W64": re.escape(W64), "WMA": re.escape(ASF),
    "MP4": rb"\x00\x00\x00.ftyp(M4A |M4B |isom|iso\d|mp4\d|qt  |3gp.|dash|avc1)"}


class WavData(NamedTuple):
    """The samples of a WAV."""
    stated: int  # bytes, by the header
    there: int  # bytes up to the end of the file
    per_s: int  # bytes per second

    @property
    def stated_s(self):
        """The stated length in seconds."""
        return self.stated / self.per_s

    @property
    def there_s(self):
        """How many seconds are there."""
        return self.there / self.per_s

    @property
    def cut_short(self):
        """Whether the end is missing."""
        return self.there + 1 < self.stated < STREAMED


def joined(path):
    """Whether a second file of the same form follows in a sound file: readers stop before it, or play its header."""
    if not there(path):
        return False
    with open(regular(path), "rb") as file:
        held = file.read(LONGEST_HEAD)
        head = next((head for head in map(_head, HEADS.values()) if head.match(held)), None)
        while head and (block := file.read(BLOCK)):
            if head.search(held := held[1 - LONGEST_HEAD:] + block, 1):
                return True
    return False


def _head(pattern):
    return re.compile(pattern, re.DOTALL)


def refuse_joined(path):
    """Raises UserError if it is joined."""
    if joined(path):
        raise UserError(f"{path} is of two files or more, joined byte by byte: only the first would be heard: join "
                        "them with a program for sound, or keep one")


def wav_data(path):
    """WavData of a WAV; None of all other files, damaged ones, and WAVs above 4 GB (RF64)."""
    if not there(path):
        return None
    with open(regular(path), "rb") as file:
        size, place, per_s = os.fstat(file.fileno()).st_size, 12, 0
        start = file.read(12)
        if start[:4] != b"RIFF" or start[8:] != b"WAVE":
            return None
        while place + 8 <= size:
            file.seek(place)
            name, length = struct.unpack("<4sI", file.read(8))
            if name == b"fmt ":
                per_s = struct.unpack("<8xI", file.read(12).ljust(12, b"\0"))[0]
            if name == b"data":
                return WavData(length, size - place - 8, per_s) if per_s else None
            place += 8 + length + length % 2
    return None


def has_stale_length(path):
    """Whether a WAV goes on after the length that its header states: a recorder that was stopped did not correct it.

    What follows is neither another chunk (tags, marks) nor zeros.
    """
    data = wav_data(path)
    if not data or not 0 < data.stated < data.there - 8:
        return False
    with open(path, "rb") as file:
        after = file.seek(-data.there + data.stated + data.stated % 2, os.SEEK_END)
        name, length = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
        if name.isascii() and name.decode("ascii").isprintable() and after + 8 + length <= file.seek(0, os.SEEK_END):
            return False
        file.seek(after)
        return any(part.strip(b"\0") for part in iter(lambda: file.read(BLOCK), b""))


def is_plain(path):
    """Whether a file is a complete WAV of 16 bits, mono or stereo, which can be read without FFmpeg."""
    data = wav_data(path)
    if not data or has_stale_length(path):
        return False
    try:
        about = soundfile.info(path)
    except soundfile.LibsndfileError:
        return False
    header = os.path.getsize(path) - 2 * about.frames * about.channels  # bytes; many if the stated length is wrong
    form = about.format, about.subtype
    return form == ("WAV", "PCM_16") and about.channels <= 2 and about.frames > 0 and header < 2**16


def wav_remarks(path):
    """What is wrong with the length that a WAV states, and what was done about it: [str, ...]."""
    data = wav_data(path)
    if data and data.cut_short:
        return [f"it is cut short: it holds {data.there_s:.1f} of the stated {data.stated_s:.1f} s"]
    if has_stale_length(path):
        return [f"its header states {data.stated_s:.1f} s, it holds {data.there_s:.1f} s: read to its end"]
    return []
