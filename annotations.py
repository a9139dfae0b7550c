"""Step 0: gold standard -> one annotation CSV per recording, and the folders of the manual.

Reads   ratings_gold_standard/<id>.csv          RECOLA's form: arousal;valence in every row, no header
        videos/<id>.*, Cropped_Aligned/<id>/    where they are there: how many frames the rows must match
        audio/<id>.*, videos/<id>.*             of recordings that nobody rated: whether there is sound
Writes  Annotations/{Train_Set,Val_Set}/<id>.csv    header: image path,spec path,arousal,valence; line k = frame k
        Annotations/Unlabelled_Set/<id>.csv         of pictures and sound that nobody rated: image path,spec path

    python annotations.py --data-dir data
"""
import fnmatch
from pathlib import Path

import numpy as np

from support.errors import UserError, run_script
from support.files import whole_file
from support.recordings import RATED, TARGETS, UNLABELLED, _natural, find_recordings, has_sound, known_frames, valid_labels
from support.settings import parse_config
from support.workers import for_each

# ---- recordings -----------------------------------------------------------------------------------------------------


# ---- one index joins everything: frame k is the picture on show at k / frame_rate seconds ---------------------------


# ---- the gold standard ----------------------------------------------------------------------------------------------

def read_gold(path):
    """(K, 2) arousal and valence of every row of RECOLA's `<id>.csv`; an empty or `nan` rating is NaN.

    Raises UserError naming the line if it does not hold two numbers.
    """
    import pandas as pd  # here: workers of the sound's scripts import this file, and pandas is half of the time that they take to start
    text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    rows = [line.split(";") for line in text.rstrip().splitlines()]
    if not rows:
        raise UserError(f"{path} is empty: rows of arousal;valence were expected")
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise UserError(f"{path} line {number}: {';'.join(row)[:40]!r} is not arousal;valence (two numbers, no header)")
    table = pd.DataFrame(rows).map(str.strip).replace("", "nan")
    gold = table.apply(pd.to_numeric, errors="coerce")
    for line, column in zip(*np.nonzero((gold.isna() & (table.map(str.lower) != "nan")).to_numpy())):
        raise UserError(f"{path} line {line + 1}: {table.iat[line, column][:40]!r} is not a number (arousal;valence, no header)")
    return gold.to_numpy(float)


def match_frames(gold, frames, source):
    """Gold rows that have a frame: (K, 2). One last row more than frames is dropped, as RECOLA's 7501st.

    Raises UserError with both counts if they disagree by more.
    """
    if frames is not None and not 0 <= len(gold) - frames <= 1:
        raise UserError(f"{len(gold)} ratings for {frames} frames ({source}): as many were expected, or one rating more")
    return gold if frames is None else gold[:frames]


def annotation_table(name, gold):
    """The annotation CSV of a recording as text; paths follow from k. gold: (K, 2), or (K, 0) where nobody rated it."""
    import pandas as pd
    table = pd.DataFrame(gold, columns=TARGETS[:gold.shape[1]])
    table.insert(0, "spec path", [f"{name}/{k:06d}.png" for k in range(len(gold))])
    table.insert(0, "image path", [f"{name}/{k:06d}.jpg" for k in range(len(gold))])
    return table.to_csv(index=False, na_rep="nan", lineterminator="\n")


def partition_of(name, train_ids, val_ids):
    """Train_Set, Val_Set or None. Raises UserError if a recording is in both."""
    sets = dict(zip(RATED, (train_ids, val_ids)))
    inside = [folder for folder, patterns in sets.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    if len(inside) > 1:
        raise UserError(f"{name} is in train_ids and in val_ids: a person must not be in both partitions")
    return inside[0] if inside else None


# ---- main -----------------------------------------------------------------------------------------------------------

def annotate(name, path, cfg):
    """Writes the CSV of one recording. Returns a line on what was done, and whether anything was written.

    Raises UserError if its ratings cannot be read or do not match its frames.
    """
    folder = partition_of(name, cfg.train_ids, cfg.val_ids)
    gold = read_gold(path)
    frames, source = known_frames(name, cfg.frame_rate, cfg.crops_dir, cfg.videos_dir)
    kept = match_frames(gold, frames, source)
    notes = [f"{len(kept)} frames" if frames else f"{len(kept)} rows, frames not known yet (no video, no crops)"]
    if len(kept) < len(gold):
        notes.append("a last rating without a frame was dropped")
    if invalid := np.count_nonzero(~valid_labels(kept).all(1)):
        notes.append(f"{invalid} rows have an invalid rating (NaN or outside [-1, 1]): kept, masked in loss and score")
    changed = write_table(cfg.annotations_dir / folder / f"{name}.csv", annotation_table(name, kept))
    return f"{name}: {folder}, {'; '.join(notes)}{'' if changed else ' (unchanged)'}", changed


def annotate_unrated(name, cfg):
    """The same for a recording that nobody rated; where it is left out, None is returned in place of whether anything was written.

    Raises UserError if train_ids or val_ids name it, if its pictures or its sound cannot be read, or if it is to be left out
    and has a CSV from before.
    """
    if name in (*cfg.train_ids, *cfg.val_ids):
        raise UserError(f"it has no ratings: {cfg.ratings_dir / name}.csv was expected, as train_ids or val_ids name it")
    out, (frames, lack) = cfg.annotations_dir / UNLABELLED / f"{name}.csv", frames_unrated(name, cfg)
    if lack and out.exists():
        raise UserError(f"{lack}; but {out} is there from before: delete that file")
    if lack:
        return f"{name}: {lack}", None
    changed = write_table(out, annotation_table(name, np.empty((frames, 0))))
    return f"{name}: {UNLABELLED}, {frames} frames; no ratings ({cfg.ratings_dir / name}.csv){'' if changed else ' (unchanged)'}", changed


def frames_unrated(name, cfg):
    """(number of frames of a recording without ratings, ""), or (0, why it does not belong into Unlabelled_Set)."""
    for table in (cfg.annotations_dir / partition / f"{name}.csv" for partition in RATED):
        if table.exists():  # somebody's own, or made before the ratings were taken away
            return 0, f"no {cfg.ratings_dir / name}.csv, but {table} is there and stays as it is (delete that file if nobody rated {name})"
    frames, _ = known_frames(name, cfg.frame_rate, cfg.crops_dir, cfg.videos_dir)
    frames = frames or len(list((cfg.crops_dir / name).glob("[!.]*.jpg")))  # crops of another program have no faces.csv
    if not frames:
        return 0, f"no ratings, and no pictures in {cfg.videos_dir / name}.* or {cfg.crops_dir / name}/: left out"
    if not has_sound(name, cfg.audio_dir, cfg.videos_dir, cfg.segments_dir, cfg.specs_dir):
        return 0, f"no ratings, and no sound in {cfg.audio_dir / name}.* or its video: left out"
    return frames, ""


def write_table(out, table):
    """Writes an annotation CSV, unless it is there and the same. Returns whether it was written."""
    changed = not out.exists() or out.read_bytes() != table.encode()
    if changed:
        with whole_file(out) as part:
            part.write_bytes(table.encode())
    return changed


def refuse_moved(names, cfg):
    """Raises UserError if a recording with ratings was annotated before for a set that it is not in now: it would be in both."""
    for folder in (*RATED, UNLABELLED):
        for name in names:
            stale = cfg.annotations_dir / folder / f"{name}.csv"
            now = partition_of(name, cfg.train_ids, cfg.val_ids)
            if stale.exists() and now != folder:
                why = f"{name} has ratings now" if folder == UNLABELLED else f"train_ids and val_ids now put {name} into {now or 'neither'}"
                raise UserError(f"{stale} is there from before, and {why}: delete it, or all of {cfg.annotations_dir}/, first")


def unrated(names, cfg):
    """Recordings that are not in `names`: listed by their id, with a file in videos/ or audio/, or with crops."""
    listed = [name for name in (*cfg.train_ids, *cfg.val_ids) if not set(name) & set("*?[")]
    files = [path for folder in (cfg.videos_dir, cfg.audio_dir) for path in folder.glob("[!.]*") if path.name != "settings.json"]
    crops = [path for path in cfg.crops_dir.glob("[!.]*") if path.is_dir()]
    return sorted({*listed, *(path.name if path.is_dir() else path.stem for path in files + crops)} - set(names), key=_natural)


def choose(cfg):
    """The recordings to work on: {id: file of ratings}, and the ids of those without ratings.

    Raises UserError if there are no ratings at all, or if --recordings names what is not there.
    """
    missing = "put the gold standard there, one <id>.csv per recording"
    ratings = find_recordings([cfg.ratings_dir], (), missing)
    others = unrated(ratings, cfg)
    if cfg.recordings:
        wanted = [name for name in cfg.recordings if name not in others]
        ratings = find_recordings([cfg.ratings_dir], wanted, missing) if wanted else {}
    return ratings, [name for name in others if name in cfg.recordings or not cfg.recordings]


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    ratings, others = choose(cfg)
    refuse_moved(ratings, cfg)
    chosen = [name for name in ratings if partition_of(name, cfg.train_ids, cfg.val_ids)]
    for name in ratings:
        if name not in chosen:
            print(f"{name}: in neither train_ids nor val_ids, left out")
    if not chosen and not (cfg.recordings and others):
        raise UserError(f"none of the {len(ratings)} recordings in {cfg.ratings_dir}/ is in train_ids or val_ids: list their ids there")
    for folder in (cfg.crops_dir, cfg.segments_dir, cfg.specs_dir, *(cfg.annotations_dir / partition for partition in RATED)):
        folder.mkdir(parents=True, exist_ok=True)

    def work(name, report):
        return annotate(name, ratings[name], cfg) if name in ratings else annotate_unrated(name, cfg)

    results = for_each(chosen + others, work)
    written = {name: changed for name, changed in results.items() if changed is not None}
    if others:
        unlabelled = sum(name in written for name in others)
        print(f"{cfg.annotations_dir / UNLABELLED}: {unlabelled} of {len(others)} recordings without ratings"
              + ("" if unlabelled == len(others) else "; the others are not in it, for the reasons given above"))
    print(f"{cfg.annotations_dir}: {sum(written.values())} of {len(written)} annotation files written"
          + ("" if any(written.values()) or not written else "; nothing to do, all were done before"))
    return written


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
