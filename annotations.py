"""Step 0: gold standard -> one annotation CSV per recording, and the folders of the manual.

Reads   ratings_gold_standard/<id>.csv          RECOLA's form: arousal;valence in every row, no header
        videos/<id>.*, Cropped_Aligned/<id>/    where they are there: how many frames the rows must match
Writes  Annotations/{Train_Set,Val_Set}/<id>.csv    header: image path,spec path,arousal,valence; line k = frame k

    python annotations.py --data-dir data
"""
import contextlib
import fnmatch
import glob
import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pandas as pd
from tqdm import tqdm

from config import UserError, parse_config, run_script, whole_file

TARGETS = ["arousal", "valence"]
CLOCK_S = 0.002  # containers round time stamps to a millisecond, the first one too: stamps this close are the same


# ---- recordings -----------------------------------------------------------------------------------------------------

def find_recordings(folders, wanted, missing):
    """Id -> path of every recording in `folders`, the first of them winning, in natural order (train_2 before train_10).

    wanted: only these ids, if any. Raises UserError if there is nothing (`missing` says what to do), if a wanted id is
    not there, or if a folder has two files of one id.
    """
    found = {}
    for folder in folders:
        here = {}
        for path in Path(folder).glob("[!.]*"):
            name = path.name if path.is_dir() else path.stem
            if name in here:
                raise UserError(f"{here[name]} and {path} have the same id: keep one of them")
            if path.name != "settings.json":
                here[name] = path
        found = here | found
    if not found:
        raise UserError(f"no recordings in {' or '.join(f'{folder}/' for folder in folders)}: {missing}")
    for name in wanted:
        if name not in found:
            raise UserError(f"no recording {name!r} in {folders[0]}/, but {', '.join(sorted(found, key=_natural)[:6])} ...")
    return {name: found[name] for name in sorted(found, key=_natural) if name in wanted or not wanted}


def _natural(name):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def for_each(recordings, work):
    """`work(id)` of every recording by id: a bad one is reported, and the others are still done.

    Raises UserError at the end if any failed; OSError (a full disk) stops it at once.
    """
    results, failed = {}, []
    for name in recordings:
        try:
            results[name] = work(name)
        except UserError as error:
            failed.append(name)
            tqdm.write(f"{name}: FAILED: {error}")
    if failed:
        raise UserError(f"{len(failed)} of {len(recordings)} recordings failed ({', '.join(failed)}), for the reasons "
                        "given above; the others are done")
    return results


def keep_settings(folder, cfg, names):
    """Notes in `folder`/settings.json what everything in it is made with: one folder, one set of settings.

    names: of the fields of `cfg`, separated by spaces. Raises UserError if the folder was begun with other values.
    """
    note, settings = Path(folder, "settings.json"), {name: getattr(cfg, name) for name in names.split()}
    if not note.exists():
        with whole_file(note) as part:
            part.write_text(json.dumps(settings, indent=1) + "\n")
    before = json.loads(note.read_text())
    for name, value in settings.items():
        if before.get(name) != value:
            raise UserError(f"{folder}/ was made with {name} {before.get(name)}, now it is {value}: use the same again, or "
                            f"delete {folder}/ to make it anew")


# ---- one index joins everything: frame k is the picture on show at k / frame_rate seconds ---------------------------

@contextlib.contextmanager
def open_media(path):
    """PyAV container of a video or sound file; whatever FFmpeg cannot read in it becomes a UserError."""
    try:
        with av.open(str(path)) as container:
            yield container
    except av.error.FFmpegError as error:
        empty = "the file is empty" if Path(path).exists() and not Path(path).stat().st_size else error.strerror
        raise UserError(f"{path} cannot be read as video or sound ({empty}): replace it") from None


class Clock(NamedTuple):
    """When the pictures of a video are on show, in seconds after the first of them."""
    times_s: np.ndarray  # (P,) when each appears
    end_s: float  # when the last one ends
    start_s: float  # the first one's time stamp in the file: time 0 of frames and sound alike


def picture_clock(video):
    """Clock of a video, from its time stamps alone: nothing is decoded.

    Raises UserError if the file holds no pictures or was cut short.
    """
    with open_media(video) as container:
        if not container.streams.video:
            raise UserError(f"{video} has no pictures: a video was expected")
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        shown = sorted((packet.pts, packet.duration or 0) for packet in packets if not packet.is_discard)
        if not shown:
            raise UserError(f"{video} has no pictures: it is empty or cut short")
        base = float(stream.time_base)
        times = np.array([pts for pts, _ in shown], float) * base
        gap = np.median(np.diff(times)) if len(times) > 1 else 1 / float(stream.average_rate or 25)
        end = times[-1] + (shown[-1][1] * base or gap)
        promised = stream.frames * gap if stream.frames else (container.duration or 0) / av.time_base
        present = len(packets) * gap if stream.frames else end - (container.start_time or 0) / av.time_base
    if promised - present > max(0.5, 2 * gap):
        raise UserError(f"{video} is cut short: it promises {promised:.1f} s of pictures and holds {present:.1f} s")
    return Clock(times - times[0], end - times[0], times[0])


def frame_count(end_s, frame_rate):
    """Number of frames k with k / frame_rate before `end_s`."""
    return math.ceil((end_s - CLOCK_S) * frame_rate)


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


def _lines(path):
    with open(path) as file:
        return sum(1 for _ in file)


# ---- the gold standard ----------------------------------------------------------------------------------------------

def read_gold(path):
    """(K, 2) arousal and valence of every row of RECOLA's `<id>.csv`; an empty or `nan` rating is NaN.

    Raises UserError naming the line if it does not hold two numbers.
    """
    text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    rows = [line.split(";") for line in text.rstrip().splitlines()]
    if not rows:
        raise UserError(f"{path} is empty: rows of arousal;valence were expected")
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise UserError(f"{path} line {number}: {';'.join(row)!r} is not arousal;valence (two numbers, no header)")
    table = pd.DataFrame(rows).map(str.strip).replace("", "nan")
    gold = table.apply(pd.to_numeric, errors="coerce")
    for line, column in zip(*np.nonzero((gold.isna() & (table.map(str.lower) != "nan")).to_numpy())):
        raise UserError(f"{path} line {line + 1}: {table.iat[line, column]!r} is not a number")
    return gold.to_numpy(float)


def valid_labels(labels):
    """Mask of the ratings that count: within [-1, 1] and not NaN. Same shape as `labels`."""
    return np.abs(labels) <= 1  # False for NaN


def match_frames(gold, frames, source):
    """Gold rows that have a frame: (K, 2). One last row more than frames is dropped, as RECOLA's 7501st.

    Raises UserError with both counts if they disagree by more.
    """
    if frames is not None and not 0 <= len(gold) - frames <= 1:
        raise UserError(f"{len(gold)} ratings for {frames} frames ({source}): as many were expected, or one rating more")
    return gold if frames is None else gold[:frames]


def annotation_table(name, gold):
    """The annotation CSV of a recording as text; paths follow from k."""
    table = pd.DataFrame(gold, columns=TARGETS)
    table.insert(0, "spec path", [f"{name}/{k:06d}.png" for k in range(len(gold))])
    table.insert(0, "image path", [f"{name}/{k:06d}.jpg" for k in range(len(gold))])
    return table.to_csv(index=False, na_rep="nan", lineterminator="\n")


def partition_of(name, train_ids, val_ids):
    """Train_Set, Val_Set or None. Raises UserError if a recording is in both."""
    sets = {"Train_Set": train_ids, "Val_Set": val_ids}
    inside = [folder for folder, patterns in sets.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    if len(inside) > 1:
        raise UserError(f"{name} is in train_ids and in val_ids: a person must not be in both partitions")
    return inside[0] if inside else None


# ---- main -----------------------------------------------------------------------------------------------------------

def annotate(name, path, cfg):
    """Writes the CSV of one recording. Returns a line on what was done, and whether anything was written."""
    folder = partition_of(name, cfg.train_ids, cfg.val_ids)
    if folder is None:
        return f"{name}: in neither train_ids nor val_ids, left out", False
    gold = read_gold(path)
    frames, source = known_frames(name, cfg.frame_rate, cfg.crops_dir, cfg.videos_dir)
    kept = match_frames(gold, frames, source)
    notes = [f"{len(kept)} frames" if frames else f"{len(kept)} rows, frames not known yet (no video, no crops)"]
    if len(kept) < len(gold):
        notes.append("a last rating without a frame was dropped")
    if invalid := np.count_nonzero(~valid_labels(kept).all(1)):
        notes.append(f"{invalid} rows have an invalid rating (NaN or outside [-1, 1]): kept, masked in loss and score")
    out, table = cfg.annotations_dir / folder / f"{name}.csv", annotation_table(name, kept)
    changed = not out.exists() or out.read_text() != table
    if changed:
        with whole_file(out) as part:
            part.write_text(table)
    return f"{name}: {folder}, {'; '.join(notes)}{'' if changed else ' (unchanged)'}", changed


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    ratings = find_recordings([cfg.ratings_dir], cfg.recordings, "put the gold standard there, one <id>.csv per recording")
    for folder in (cfg.crops_dir, cfg.segments_dir, cfg.specs_dir, cfg.annotations_dir / "Train_Set", cfg.annotations_dir / "Val_Set"):
        folder.mkdir(parents=True, exist_ok=True)

    def work(name):
        if name not in ratings:
            raise UserError(f"{cfg.videos_dir / name}.* has no ratings: {cfg.ratings_dir / name}.csv was expected")
        line, changed = annotate(name, ratings[name], cfg)
        print(line)
        return changed

    videos = [] if cfg.recordings or not cfg.videos_dir.exists() else [path.stem for path in cfg.videos_dir.glob("[!.]*")]
    unrated = [name for name in videos if name not in ratings and partition_of(name, cfg.train_ids, cfg.val_ids)]
    written = for_each([*ratings, *sorted(unrated)], work)
    print(f"{cfg.annotations_dir}: {sum(written.values())} of {len(written)} annotation files written"
          + ("" if any(written.values()) else ", all were up to date"))
    return written


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
