"""Step 0: gold standard -> one annotation CSV per recording, and the folders of the manual.

Reads   ratings_gold_standard/<id>.csv          RECOLA's form: arousal;valence in every row, no header
        videos/<id>.*, Cropped_Aligned/<id>/    if there: the number of frames that the ratings must match
        audio/<id>.*, videos/<id>.*             of recordings without ratings: whether they have sound
Writes  Annotations/{Train_Set,Val_Set}/<id>.csv    header: image path,spec path,arousal,valence; line k = frame k
        Annotations/Unlabelled_Set/<id>.csv         of recordings without ratings: image path,spec path

    python annotations.py --data-dir data

Recordings without ratings that val_ids covers, or that are called test*, are left out: subjects to test on must not be
trained on. --unlabelled-ids puts them into Unlabelled_Set all the same, where the test's rules allow that.
"""
import fnmatch
from pathlib import Path

import numpy as np
import pandas as pd

from support.errors import UserError, run_script
from support.files import whole_file
from support.recordings import (
    PARTITIONS,
    TARGETS,
    UNLABELLED,
    find_recordings,
    has_sound,
    known_frames,
    natural_key,
    valid_labels,
)
from support.settings import parse_config
from support.workers import for_each

TRAIN, VAL = PARTITIONS.values()


# ---- ratings and their frames ---------------------------------------------------------------------------------------

def read_gold(path):
    """(K, 2): arousal and valence in every row of RECOLA's `<id>.csv`; an empty or `nan` rating is NaN.

    Raises UserError, naming the line, if a row does not hold two numbers.
    """
    text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    rows = [line.split(";") for line in text.rstrip().splitlines()]
    if not rows:
        raise UserError(f"{path} is empty: rows of arousal;valence were expected")
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            found = ";".join(row)[:40]
            raise UserError(f"{path} line {number}: {found!r} is not arousal;valence (two numbers, no header)")
    table = pd.DataFrame(rows).map(str.strip).replace("", "nan")
    gold = table.apply(pd.to_numeric, errors="coerce")
    for line, column in zip(*np.nonzero((gold.isna() & (table.map(str.lower) != "nan")).to_numpy())):
        found = table.iat[line, column][:40]
        raise UserError(f"{path} line {line + 1}: {found!r} is not a number (arousal;valence, no header)")
    return gold.to_numpy(float)


def match_frames(gold, frames, source):
    """(frames, 2): the ratings that have a frame. One rating more than frames is dropped, such as RECOLA's 7501st.

    frames: their number; None: unknown, all ratings are kept; source: the file that it is known from. Raises UserError
    if there are fewer ratings, or more than one too many.
    """
    if frames is not None and not 0 <= len(gold) - frames <= 1:
        raise UserError(f"{len(gold)} ratings for {frames} frames ({source}): as many, or one more, were expected")
    return gold if frames is None else gold[:frames]


def annotation_table(name, gold):
    """The annotation CSV of a recording as text; paths follow from k. gold: (K, 2), or (K, 0) without ratings."""
    table = pd.DataFrame(gold, columns=TARGETS[:gold.shape[1]])
    table.insert(0, "spec path", [f"{name}/{k:06d}.png" for k in range(len(gold))])
    table.insert(0, "image path", [f"{name}/{k:06d}.jpg" for k in range(len(gold))])
    return table.to_csv(index=False, na_rep="nan", lineterminator="\n")


# ---- which recording belongs to which set ---------------------------------------------------------------------------

def matches(name, patterns):
    """Whether an id is one of `patterns`, or matches one of them (train_*)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def partition_of(name, train_ids, val_ids):
    """Train_Set, Val_Set or None. Raises UserError if a recording is in both."""
    inside = [partition for partition, ids in ((TRAIN, train_ids), (VAL, val_ids)) if matches(name, ids)]
    if len(inside) > 1:
        raise UserError(f"{name} is in train_ids and in val_ids: a subject must not be in both partitions")
    return inside[0] if inside else None


def held_out(name, val_ids, unlabelled_ids):
    """Why a recording without ratings must not be trained on, unless unlabelled_ids covers it; "" if it may be."""
    if matches(name, unlabelled_ids):
        return ""
    if matches(name, val_ids):
        why = "val_ids covers it"
    elif name.lower().startswith("test"):
        why = "it is called test*"
    else:
        return ""
    return f"no ratings, and {why}: left out, as test subjects must not be trained on (else: --unlabelled-ids {name})"


def refuse_moved(names, cfg):
    """Raises UserError if a rated recording has an annotation CSV in a set that it is no longer in."""
    for folder in (TRAIN, VAL, UNLABELLED):
        for name in names:
            old = cfg.annotations_dir / folder / f"{name}.csv"
            now = partition_of(name, cfg.train_ids, cfg.val_ids)
            if old.exists() and now != folder:
                why = "has ratings now" if folder == UNLABELLED else f"is now in {now or 'neither partition'}"
                raise UserError(f"{old} is from an earlier run, but {name} {why}: "
                                f"delete that file, or all of {cfg.annotations_dir}/")


def without_ratings(rated, cfg):
    """Ids of recordings that are not in `rated` but listed by their id, in videos/ or in audio/, or that have crops."""
    listed = [name for name in (*cfg.train_ids, *cfg.val_ids) if not set(name) & set("*?[")]
    files = [path for folder in (cfg.videos_dir, cfg.audio_dir) for path in folder.glob("[!.]*")]
    crops = [path for path in cfg.crops_dir.glob("[!.]*") if path.is_dir()]
    found = {path.name if path.is_dir() else path.stem for path in files + crops if path.name != "settings.json"}
    return sorted({*listed, *found} - set(rated), key=natural_key)


def choose(cfg):
    """The recordings to work on: {id: file of ratings}, and the ids of those without ratings.

    Raises UserError if there are no ratings at all, if --recordings names a recording that does not exist, or if
    unlabelled_ids covers a rated recording or none.
    """
    missing = "put the gold standard there, one <id>.csv per recording"
    ratings = find_recordings([cfg.ratings_dir], (), missing)
    others = without_ratings(ratings, cfg)
    for pattern in cfg.unlabelled_ids:
        if rated := [name for name in ratings if matches(name, [pattern])]:
            raise UserError(f"unlabelled_ids: {pattern!r} covers {rated[0]}, which has ratings ({ratings[rated[0]]}): "
                            "name recordings without ratings only")
        if not any(matches(name, [pattern]) for name in others):
            raise UserError(f"unlabelled_ids: {pattern!r} matches no recording without ratings")
    if cfg.recordings:
        wanted = [name for name in cfg.recordings if name not in others]
        ratings = find_recordings([cfg.ratings_dir], wanted, missing) if wanted else {}
    return ratings, [name for name in others if name in cfg.recordings or not cfg.recordings]


# ---- one recording --------------------------------------------------------------------------------------------------

def annotate(name, path, cfg):
    """Writes the CSV of a rated recording. Returns a line for the user, and whether anything was written.

    Raises UserError if its ratings cannot be read or do not match its frames.
    """
    folder = partition_of(name, cfg.train_ids, cfg.val_ids)
    gold = read_gold(path)
    frames, source = known_frames(name, cfg.frame_rate, cfg.crops_dir, cfg.videos_dir)
    kept = match_frames(gold, frames, source)
    notes = [f"{len(kept)} frames" if frames else f"{len(kept)} rows; frames unknown yet (no video, no crops)"]
    if len(kept) < len(gold):
        notes.append("a last rating without a frame was dropped")
    if invalid := np.count_nonzero(~valid_labels(kept).all(1)):
        notes.append(f"{invalid} rows have an invalid rating (NaN or outside [-1, 1]): kept, masked in loss and CCC")
    changed = write_table(cfg.annotations_dir / folder / f"{name}.csv", annotation_table(name, kept))
    return f"{name}: {folder}, {'; '.join(notes)}{'' if changed else ' (unchanged)'}", changed


def annotate_unlabelled(name, cfg):
    """The same for a recording without ratings. Whether anything was written is None if the recording is left out.

    Raises UserError if train_ids or val_ids list it by its id, if its video or sound cannot be read, or if it is left
    out but has a CSV from an earlier run.
    """
    if name in (*cfg.train_ids, *cfg.val_ids):
        raise UserError(f"no ratings: train_ids or val_ids list it, so {cfg.ratings_dir / name}.csv was expected")
    out, (frames, lack) = cfg.annotations_dir / UNLABELLED / f"{name}.csv", unlabelled_frames(name, cfg)
    if lack and out.exists():
        raise UserError(f"{lack}; but {out} is there from an earlier run: delete that file")
    if lack:
        return f"{name}: {lack}", None
    changed = write_table(out, annotation_table(name, np.empty((frames, 0))))
    return f"{name}: {UNLABELLED}, {frames} frames, no ratings{'' if changed else ' (unchanged)'}", changed


def unlabelled_frames(name, cfg):
    """(number of frames of a recording without ratings, ""), or (0, why it does not belong into Unlabelled_Set)."""
    for table in (cfg.annotations_dir / partition / f"{name}.csv" for partition in (TRAIN, VAL)):
        if table.exists():  # the user's own, or made before the ratings were removed
            gold = cfg.ratings_dir / f"{name}.csv"
            return 0, f"no {gold}, but {table}: kept as it is (if the recording has no ratings, delete that file)"
    if why := held_out(name, cfg.val_ids, cfg.unlabelled_ids):
        return 0, why
    frames, _ = known_frames(name, cfg.frame_rate, cfg.crops_dir, cfg.videos_dir)
    frames = frames or len(list((cfg.crops_dir / name).glob("[!.]*.jpg")))  # crops of other programs: no faces.csv
    if not frames:
        return 0, f"no ratings, no video {cfg.videos_dir / name}.* and no crops in {cfg.crops_dir / name}/: left out"
    if not has_sound(name, cfg.audio_dir, cfg.videos_dir, cfg.segments_dir, cfg.specs_dir):
        return 0, f"no ratings, and no sound in {cfg.audio_dir / name}.* or in its video: left out"
    return frames, ""


def write_table(out, table):
    """Writes an annotation CSV unless the same is there already. Returns whether it was written."""
    changed = not out.exists() or out.read_bytes() != table.encode()
    if changed:
        with whole_file(out) as part:
            part.write_bytes(table.encode())
    return changed


# ---- main -----------------------------------------------------------------------------------------------------------

def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    ratings, others = choose(cfg)
    refuse_moved(ratings, cfg)
    chosen = [name for name in ratings if partition_of(name, cfg.train_ids, cfg.val_ids)]
    for name in ratings:
        if name not in chosen:
            print(f"{name}: in neither train_ids nor val_ids, left out")
    if not chosen and not (cfg.recordings and others):
        raise UserError(f"none of the {len(ratings)} recordings in {cfg.ratings_dir}/ is in train_ids or val_ids: "
                        "name them there")
    sets = (cfg.annotations_dir / TRAIN, cfg.annotations_dir / VAL)
    for folder in (cfg.crops_dir, cfg.segments_dir, cfg.specs_dir, *sets):
        folder.mkdir(parents=True, exist_ok=True)

    def work(name, report):
        return annotate(name, ratings[name], cfg) if name in ratings else annotate_unlabelled(name, cfg)

    results = for_each(chosen + others, work)
    written = {name: changed for name, changed in results.items() if changed is not None}
    if others:
        count = sum(name in written for name in others)
        print(f"{cfg.annotations_dir / UNLABELLED}: {count} of {len(others)} recordings without ratings"
              + ("" if count == len(others) else "; the others were left out, for the reasons given above"))
    print(f"{cfg.annotations_dir}: {sum(written.values())} of {len(written)} annotation files written"
          + ("" if any(written.values()) or not written else "; nothing to do, all were there already"))
    return written


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
