"""Recordings that cannot be used: why a step failed for them is noted, so that training leaves them out and says so."""
import contextlib
import csv
import glob
import math
import os
from pathlib import Path

from support.errors import UserError
from support.files import named, regular, there, whole_file
from support.reading import read_bytes
from support.recordings import UNLABELLED, media_file, uses_features

FIRST = 2**16  # bytes of an annotation file that hold its first rows
NOTE = ".failed"  # <folder>/<id>.failed: why nothing could be made of a recording, in one line


def noted(name, report, work, folder):
    """What work(name, report) returns. If it raises a UserError, the reason is noted in `folder`, unless there is
    something of this recording."""
    note = Path(folder, f"{name}{NOTE}")
    try:
        result = work(name, report)
    except UserError as error:
        if not there(Path(folder, name)):
            with whole_file(note) as part:
                part.write_text(f"{error}\n", "utf-8", "backslashreplace")
        raise
    note.unlink(missing_ok=True)
    return result


def unlabelled_files(cfg, say=lambda line: None):
    """The annotation CSVs of that fraction of Unlabelled_Set, rounded up, in the order of their names; without those of
    recordings that have no faces to see, which say(line) is told."""
    files = sorted((cfg.annotations_dir / UNLABELLED).glob("[!.]*.csv"))
    left_out = _left_out(files, [] if uses_features(cfg, "frames") else ["frames"], cfg, say)
    files = [path for path in files if path not in left_out]
    return files[:math.ceil(cfg.unlabelled * len(files))]


def without_failed(tables, kinds, cfg):
    """Those annotation files whose recordings can be used; prints which are left out, and why. If that is so of all of
    them, none is: whoever reads them says what is missing."""
    if all(why_not(table, kinds, cfg) for table in tables):
        return tables
    left_out = _left_out(tables, kinds, cfg, print)
    return [table for table in tables if table not in left_out]


def _left_out(tables, kinds, cfg, say):
    """Those annotation files whose recordings cannot be used; what is left of them in cache/ is deleted."""
    reasons = {table: why for table in tables if (why := why_not(table, kinds, cfg))}
    for table, why in reasons.items():
        say(f"{table.stem}: left out: {why}")
        for old in cfg.cache_dir.glob(f"{glob.escape(table.stem)}.*.{'[0-9a-f]' * 16}.npy"):
            old.unlink(missing_ok=True)
    return reasons


def why_not(table, kinds, cfg):
    """Why the recording of an annotation file cannot be used: nothing of one of `kinds` ("frames", "specs") was made of
    it, and nothing can be, since there is no file to make it of or the step that should failed for this file. "" if it
    can be used, or could be after another step."""
    places = {  # where it is made, where failures are noted, what it is made of
        "frames": ([cfg.crops_dir], cfg.crops_dir, [cfg.videos_dir], "crops of it, and no video"),
        "specs": ([cfg.specs_dir, cfg.segments_dir], cfg.segments_dir, [cfg.audio_dir, cfg.videos_dir],
                  "spectrograms of it, and no sound")}
    for kind in kinds:
        made_in, noted_in, folders, lack = places[kind]
        images = folder_of(table, kind)
        if any(there(Path(folder, made)) for folder in made_in for made in (images, f"{images}.npy")):
            continue
        source = next((path for folder in folders if (path := media_file(table.stem, folder))), None)
        if not source:
            return f"there are no {lack} to make them of"
        note = Path(noted_in, f"{table.stem}{NOTE}")
        if note.is_file() and note.stat().st_mtime_ns >= source.stat().st_mtime_ns:
            return read_bytes(note).decode("utf-8", "replace").strip()
    return ""


def folder_of(table, kind):
    """Where the images of an annotation file lie, by its first row: mostly in a folder called as the recording.

    kind: "frames" or "specs".
    """
    with open(regular(table), "rb") as file, named(table):
        lines = file.read(FIRST).decode("utf-8", "replace").splitlines()[:2]
    with contextlib.suppress(csv.Error):
        row = next(csv.DictReader(lines), {})
        image = row.get("image path") or ""
        return os.path.dirname(image if kind == "frames" else row.get("spec path") or image) or table.stem
    return table.stem
