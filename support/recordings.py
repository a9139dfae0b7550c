"""Recordings of a corpus on disk: which there are, how many frames they have, which settings a folder was made with."""
import glob
import json
import re
from pathlib import Path

import numpy as np

from support.errors import UserError
from support.files import is_claimed, whole_file
from support.media import frame_count, open_media, picture_clock
from support.settings import part_of

TARGETS = ["arousal", "valence"]
RATED = ["Train_Set", "Val_Set"]
PARTITIONS = {"train": "Train_Set", "val": "Val_Set"}
UNLABELLED = "Unlabelled_Set"  # of recordings that nobody rated
SUMMARIES = ["mean", "concatenated"]  # rows of score tables beside those of recordings


def find_recordings(folders, wanted, missing):
    """Id -> path of every recording in `folders`, the first of them winning, in natural order (train_2 before train_10).

    wanted: only these ids, if any. Raises UserError if there is nothing (`missing` says what to do), if a wanted id is
    not there, if a folder has two files of one id, or if an id is that of another row in the tables of scores.
    """
    found = {}
    for folder in folders:
        here = {}
        for path in Path(folder).glob("[!.]*"):
            if path.name == "settings.json":
                continue
            name = path.name if path.is_dir() else path.stem
            if name in here:
                raise UserError(f"{here[name]} and {path} have the same id: keep one of them")
            here[name] = path
            refuse_summary(name, path)
        found = here | found
    places, names = " or ".join(f"{folder}/" for folder in folders), sorted(found, key=_natural)
    if not found:
        raise UserError(f"no recordings in {places}: {missing}")
    for name in wanted:
        if name not in found:
            raise UserError(f"no recording {name!r} in {places}, but {', '.join(names[:6])}{' ...' * (len(names) > 6)}")
    return {name: found[name] for name in names if name in wanted or not wanted}


def refuse_summary(name, path):
    """Raises UserError if a recording has an id that stands for all of them in the tables of scores."""
    if name in SUMMARIES:
        raise UserError(f"{path}: a recording cannot be called {name!r}, as tables of scores have a row of that name: give it another id")


def _natural(name):
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", name))]


def shard_of(recordings, shard):
    """Every n-th of `recordings`, beginning with the i-th, for the shard "i/n"; all of them for ""."""
    i, n = part_of(shard) or (1, 1)
    return {name: recordings[name] for name in list(recordings)[i - 1::n]}


def keep_settings(folder, cfg, names, made_of=None):
    """Notes in `folder`/settings.json what everything in it is made with, and returns it: one folder, one set of settings.

    names: of the fields of `cfg`, separated by spaces; made_of: the folder that is read, if it has such a note: it must
    agree with `cfg`, and what it says is noted too. Raises UserError where things were made with other values.
    """
    settings = {name: getattr(cfg, name) for name in names.split()}
    source = _read_note(made_of) if made_of else {}
    _agree(made_of, source, {name: settings[name] for name in settings if name in source})
    settings = source | settings
    made = any(path.is_dir() or path.suffix == ".npy" for path in Path(folder).glob("[!.]*"))
    if made or any(is_claimed(path) for path in Path(folder).glob(".*.part")):  # or are being made by another process
        _agree(folder, _read_note(folder) or settings, settings)
    if _read_note(folder) != settings:  # nothing was made yet
        with whole_file(Path(folder, "settings.json")) as part:
            part.write_text(json.dumps(settings, indent=1) + "\n")
    return settings


def if_newer(source, made):
    """What to say of a thing that was made before, where its source was written after it; else ""."""
    return f"; {source} is newer: if it is another one, delete {made} to make it anew" * (source.stat().st_mtime_ns > made.stat().st_mtime_ns)


def _read_note(folder):
    note = Path(folder, "settings.json")
    try:
        return dict(json.loads(note.read_text())) if note.exists() else {}
    except (ValueError, TypeError):
        raise UserError(f"{note} is damaged: delete {folder}/ to make it anew") from None


def _agree(folder, before, now):
    before = {"spec_files": "pictures"} | before  # older notes do not have it
    for name, value in now.items():
        if before.get(name) != value:
            raise UserError(f"{folder}/ was made with {name} {before.get(name)}, now it is {value}: use the same again, or "
                            f"delete {folder}/ to make it anew")


def known_frames(name, frame_rate, crops_dir, videos_dir, annotations_dir=None):
    """(number of frames of a recording, the file that says so): its crops, its video, its ratings; (None, None) if none."""
    faces = Path(crops_dir, name, "faces.csv")
    if faces.exists():
        return _lines(faces) - 1, faces
    for video in Path(videos_dir).glob(f"{glob.escape(name)}.*"):
        if video.stem == name:
            return frame_count(picture_clock(video).end_s, frame_rate), video
    for table in Path(annotations_dir).glob(f"*/{glob.escape(name)}.csv") if annotations_dir else []:
        return _lines(table) - 1, table
    return None, None


def has_sound(name, audio_dir, videos_dir, *made_dirs):
    """Whether there is sound of a recording: what was made of it, in `made_dirs`, or its file in audio/, or its video's track.

    Raises UserError if that file cannot be read.
    """
    if any(Path(folder, made).exists() for folder in made_dirs for made in (name, f"{name}.npy")):
        return True
    for path in (path for folder in (audio_dir, videos_dir) for path in Path(folder).glob(f"{glob.escape(name)}.*")):
        if path.stem == name:  # the first alone: audio_extract.py reads no other
            with open_media(path) as container:
                return bool(container.streams.audio) and any(packet.size for packet in container.demux(audio=0))
    return False


def _lines(path):
    with open(path) as file:
        return sum(1 for _ in file)


def valid_labels(labels):
    """Mask of the ratings that count: within [-1, 1] and not NaN. Same shape as `labels`."""
    return np.abs(labels) <= 1  # False for NaN
