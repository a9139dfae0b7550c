"""Step 0: gold standard -> one annotation CSV per recording, and the empty folders of the later steps.

Reads   ratings_gold_standard/                  of RECOLA, AVEC, Aff-Wild2, or a table: corpora/readers.py has the forms
        videos/<id>.*, Cropped_Aligned/<id>/    if there: the number of frames that the ratings must match
        features/{visual,audio}/<id>.*          in place of either (corpora/features.py): the same
        audio/<id>.*, videos/<id>.*             of recordings without ratings: whether they have sound
        subjects.csv                            if there: which recordings are of one subject
Writes  Annotations/{Train_Set,Val_Set}/<id>.csv    header: image path,spec path,arousal,valence; line k = frame k
        Annotations/Unlabelled_Set/<id>.csv         of recordings without ratings: image path,spec path
        Cropped_Aligned/<id>/no_face.jpg            black, beside crops of another program: for frames that have none
        cache/<id>.<modality>.*.npz                 features as they were read, to be read faster

    python annotations.py --data-dir data
    python annotations.py --data-dir data --check           first: what is wrong with the corpus -> plots/check.html
    python annotations.py --data-dir data --show-delay      how late annotators react -> plots/label_delay.png

Recordings without ratings that val_ids covers, that are called test*, or that are in no set of a corpus that comes in
sets are left out: subjects to test on must not be trained on. --unlabelled-ids puts them into Unlabelled_Set all the
same, where the test's rules allow that.
"""
import dataclasses
import fnmatch
import shlex
import unicodedata

import numpy as np
import pandas as pd

from corpora import features
from corpora.copies import BYTES, Alike, alike, copies, spelt_alike
from corpora.images import crops_of, images_of
from corpora.ratings import Pictures, moved_earlier, on_frames, scale_note, to_scale
from corpora.readers import describe, find_ratings
from corpora.strays import apart, holders, left_alone, listed
from support.crops import other_crops
from support.errors import UserError, run_script
from support.files import there, whole_file
from support.media import picture_clock
from support.reading import read_bytes
from support.recordings import (
    PARTITIONS,
    TARGETS,
    UNLABELLED,
    check_agrees,
    fault_of_id,
    has_sound,
    is_recording,
    known_frames,
    made_with,
    media_file,
    natural_key,
    subjects_of,
    unknown_subjects,
    valid_labels,
    video_of,
)
from support.settings import parse_config
from support.workers import for_each

TRAIN, VAL = PARTITIONS.values()


# ---- ratings and their frames ---------------------------------------------------------------------------------------

def gold_of(name, source, cfg):
    """(N, 2) ratings of a recording, row k for frame k, its number of frames (None: unknown), and notes for the user.

    source: where they are (corpora.ratings.Source). Raises UserError if they cannot be read or do not match the frames.
    """
    ratings = source.read(cfg.raters)
    try:
        ratings = ratings._replace(values=to_scale(ratings.values, cfg.label_range))
    except UserError as error:
        raise UserError(f"{source.files[0]}: {error}") from None
    frames, known_from, pictures = frames_of(name, cfg)
    gold, _, notes, *_ = on_frames(ratings, cfg.frame_rate, frames, known_from, pictures)
    notes += scale_note(ratings.values, cfg.label_range)
    if known_from and known_from.is_relative_to(cfg.features_dir):
        notes = (f"as many as in {known_from}", *notes)
    if late := round(cfg.label_delay_s * cfg.frame_rate):
        if late >= len(gold):
            raise UserError(f"--label-delay-s {cfg.label_delay_s:g} is as long as the recording "
                            f"({len(gold) / cfg.frame_rate:g} s): no frame would have a rating")
        gold = moved_earlier(gold, late)
        notes += (f"each frame has the rating {late} frames later ({late / cfg.frame_rate:g} s): the last {late} are "
                  "masked",)
    return gold, frames, notes


def frames_of(name, cfg):
    """(number of frames, file it is known from, Pictures of the video); each is None if it is unknown.

    The file is faces.csv of its crops, its video, or else its features.
    """
    frames, source = known_frames(name, cfg.frame_rate, cfg.crops_dir, cfg.videos_dir)
    video = media_file(name, cfg.videos_dir)
    if not video:
        return *((frames, source) if frames else features.known_frames(name, cfg)), None
    clock = picture_clock(video)
    return frames, source, Pictures(video, clock.times_s, clock.end_s)


def annotation_table(name, gold, images):
    """The annotation CSV of a recording as text. gold: (K, 2), or (K, 0) without ratings; images: names of K files."""
    table = pd.DataFrame(gold, columns=TARGETS[:gold.shape[1]])
    table.insert(0, "spec path", [f"{name}/{k:06d}.png" for k in range(len(gold))])
    table.insert(0, "image path", [f"{name}/{image}" for image in images])
    return table.to_csv(index=False, na_rep="nan", lineterminator="\n")


# ---- which recording belongs to which set ---------------------------------------------------------------------------

def matches(name, patterns):
    """Whether an id is one of `patterns` (also one with brackets), or matches one of them (train_*)."""
    name, *patterns = (unicodedata.normalize("NFC", text) for text in (name, *patterns))
    return name in patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def partition_of(name, train_ids, val_ids, own=""):
    """Train_Set, Val_Set or None. own: the set that the corpus itself puts it in, "" if it has no sets.

    Raises UserError if a recording is in both.
    """
    inside = [partition for partition, ids in ((TRAIN, train_ids), (VAL, val_ids)) if matches(name, ids)]
    if len(inside) > 1:
        raise UserError(f"{name} is in train_ids and in val_ids: a subject must not be in both partitions")
    if own and inside and inside != [own]:
        raise UserError(f"{name} is in {own} of the corpus, but train_ids or val_ids put it into {inside[0]}: change "
                        "them")
    return own or (inside[0] if inside else None)


def partitions_of(sources, cfg):
    """{id: Train_Set, Val_Set or None} of all rated recordings. Raises UserError if one, or a subject, is in both."""
    sets = {name: partition_of(name, cfg.train_ids, cfg.val_ids, source.partition) for name, source in sources.items()}
    first = {}  # recording of each subject
    for name, subject in subjects_of(cfg.data_dir, [name for name in sets if sets[name]]).items():
        if sets[first.setdefault(subject, name)] != sets[name]:
            raise UserError(f"{first[subject]} ({sets[first[subject]]}) and {name} ({sets[name]}) are of one subject, "
                            f"{subject} ({cfg.data_dir}/subjects.csv): a subject must not be in both partitions")
    return sets


def held_out(name, sources, val_ids, unlabelled_ids):
    """Why a recording without ratings must not be trained on, unless unlabelled_ids covers it; "" if it may be.

    sources: of the ratings of others; if they come in sets, as Aff-Wild2's do, what is in none is its test set's.
    """
    if matches(name, unlabelled_ids):
        return ""
    if any(source.partition for source in sources.values()):
        why = "it is in neither set of the corpus, so most likely in its test set"
    elif matches(name, val_ids):
        why = "val_ids covers it"
    elif name.lower().startswith("test"):
        why = "it is called test*"
    else:
        return ""
    return (f"no ratings, and {why}: left out, as test subjects must not be trained on "
            f"(else: --unlabelled-ids {shlex.quote(name)})")


def refuse_moved(partitions, cfg):
    """Raises UserError if a rated recording has an annotation CSV in a set that it is no longer in."""
    for folder in (TRAIN, VAL, UNLABELLED):
        for name, now in partitions.items():
            old = cfg.annotations_dir / folder / f"{name}.csv"
            if now != folder and not fault_of_id(name) and there(old):
                why = "has ratings now" if folder == UNLABELLED else f"is now in {now or 'neither partition'}"
                raise UserError(f"{old} is from an earlier run, but {name} {why}: "
                                f"delete that file, or all of {cfg.annotations_dir}/")


def without_ratings(rated, cfg):
    """Ids of recordings that are not in `rated` but listed by their id, in videos/ or in audio/, or that have crops or
    features."""
    listed = [name for name in (*cfg.train_ids, *cfg.val_ids)
              if not set(name) & set("*?[") and not any(matches(one, [name]) for one in rated)]
    files = [path for folder in (cfg.videos_dir, cfg.audio_dir) for path in folder.glob("[!.]*") if is_recording(path)]
    crops = [path for path in {*cfg.crops_dir.glob("[!.]*")} - {*holders(cfg.crops_dir)}
             if path.is_dir() and is_recording(path)]
    found = {path.name if path.is_dir() else path.stem for path in files + crops}.union(*features.found(cfg).values())
    return sorted({*listed, *found} - set(rated), key=natural_key)


def choose(cfg):
    """The recordings to work on: {id: Source of its ratings}, and the ids of those without ratings.

    Raises UserError if there are no ratings at all, if --recordings names a recording that does not exist, or if
    unlabelled_ids covers a rated recording or none.
    """
    sources = find_ratings(cfg.ratings_dir, cfg.corpus)
    others = without_ratings(sources, cfg)
    for pattern in cfg.unlabelled_ids:
        if rated := [name for name in sources if matches(name, [pattern])]:
            raise UserError(f"unlabelled_ids: {pattern!r} covers {rated[0]}, which has ratings "
                            f"({sources[rated[0]].files[0]}): name recordings without ratings only")
        if not any(matches(name, [pattern]) for name in others):
            raise UserError(f"unlabelled_ids: {pattern!r} matches no recording without ratings")
    for name in cfg.recordings:
        if name not in {*sources, *others}:
            raise UserError(f"no recording {name!r} in {cfg.ratings_dir}/; there are {', '.join(list(sources)[:6])}"
                            + " ..." * (len(sources) > 6))
    return sources, others


# ---- recordings that must not be used -------------------------------------------------------------------------------

def refused(sources, partitions, others, cfg):
    """{id: why a recording cannot be used}: its name, one that looks the same, or a video or features that are another
    one's.

    others: {id: why it is left out, or ""} of those without ratings. Prints which recordings have the same video,
    sound, features or ratings.
    """
    names, reasons = [*sources, *others], {}
    for name, other in spelt_alike(names).items():
        reasons[name] = ("its name looks the same as that of another recording but is spelt differently in Unicode "
                         f"({ascii(name)}, {ascii(other)}): rename one of them")
    reasons |= {name: why for name in names if (why := fault_of_id(name))}
    sets = partitions | {name: UNLABELLED for name, why in others.items() if not why}
    there = [name for name in names if name not in reasons]
    rated = {name: sources[name].files[0] for name in there if name in sources and sources[name].form != "table"}
    seen = {name: path for name, path in features.found(cfg)["visual"].items() if name in there}
    same = [Alike("ratings", those, False, BYTES) for those in copies(rated)]
    same += [Alike("features", those, True, BYTES) for those in copies(seen)]
    for found in (*alike(there, cfg.videos_dir, cfg.audio_dir), *same):
        apart = len({sets.get(name) for name in found.names}) > 1
        first = next((name for name in found.names if sets.get(name) != UNLABELLED), found.names[0])
        print(f"WARNING: the {found.what} of {', '.join(found.names)} are the same{found.how}"
              + ", but in different sets: a result on one that is trained on means nothing" * apart)
        if found.one and apart:
            what = "video is a copy of that" if found.what == "videos" else f"{found.what} are a copy of those"
            reasons |= {name: f"its {what} of {first}{found.how}: delete " + str(
                seen[name] if found.what == "features" else
                media_file(name, cfg.videos_dir) or media_file(name, cfg.audio_dir))
                        for name in found.names if sets.get(name) == UNLABELLED}
    return reasons


# ---- one recording --------------------------------------------------------------------------------------------------

def annotate(name, source, partition, cfg):
    """Writes the CSV of a rated recording. Returns a line for the user, and whether anything was written.

    Raises UserError if its ratings cannot be read or do not match its frames.
    """
    gold, frames, said = gold_of(name, source, cfg)
    images, how = images_of(name, len(gold), cfg)
    unknown = f"{len(gold)} rows; frames unknown yet (no video, no crops, no features)"
    notes = [f"{len(gold)} frames" if frames or how else unknown, *said, *how]
    if invalid := np.count_nonzero(~valid_labels(gold).all(1)):
        notes.append(f"{invalid} rows have an invalid rating (NaN or outside [-1, 1]): kept, masked in loss and CCC")
    changed = write_table(cfg.annotations_dir / partition / f"{name}.csv", annotation_table(name, gold, images))
    return f"{name}: {partition}, {'; '.join(notes)}{'' if changed else ' (unchanged)'}", changed


def annotate_unlabelled(name, rated, aside, cfg):
    """The same for a recording without ratings. Whether anything was written is None if the recording is left out.

    rated: ids of rated recordings of its subjects; aside: why it must not be trained on, or "".

    Raises UserError if train_ids or val_ids list it by its id, if its video or sound cannot be read, or if it is left
    out but has a CSV from an earlier run.
    """
    if name in (*cfg.train_ids, *cfg.val_ids):
        raise UserError(f"no ratings: train_ids or val_ids list it, so {cfg.ratings_dir / name}.csv was expected")
    out = cfg.annotations_dir / UNLABELLED / f"{name}.csv"
    frames, lack = unlabelled_frames(name, aside, cfg) if not rated else (
        0, f"no ratings, but its subjects are rated in {', '.join(rated)}: left out")
    if lack and there(out):
        raise UserError(f"{lack}; but {out} is there from an earlier run: delete that file")
    if lack:
        return f"{name}: {lack}", None
    images, how = images_of(name, frames, cfg)
    changed = write_table(out, annotation_table(name, np.empty((frames, 0)), images))
    notes = "; ".join([f"{frames} frames, no ratings", *how])
    return f"{name}: {UNLABELLED}, {notes}{'' if changed else ' (unchanged)'}", changed


def unlabelled_frames(name, aside, cfg):
    """(number of frames of a recording without ratings, ""), or (0, why it does not belong into Unlabelled_Set)."""
    for table in (cfg.annotations_dir / partition / f"{name}.csv" for partition in (TRAIN, VAL)):
        if there(table):  # the user's own, or made before the ratings were removed
            gold = cfg.ratings_dir / f"{name}.csv"
            return 0, f"no {gold}, but {table}: kept as it is (if the recording has no ratings, delete that file)"
    if aside:
        return 0, aside
    frames, _ = known_frames(name, cfg.frame_rate, cfg.crops_dir, cfg.videos_dir)
    made = features.found(cfg)
    if not frames:  # no video: crops of another program, up to the last one, or face_detector.py's without a faces.csv
        crops = other_crops(cfg.crops_dir / name)
        frames = crops.last if crops else len(list((cfg.crops_dir / name).glob("[!.]*.jpg")))
    if not frames and name in made["visual"]:
        frames, _ = features.known_frames(name, cfg)
    if not frames:
        return 0, (f"no ratings, no video {cfg.videos_dir / name}.*, no crops in {cfg.crops_dir / name}/, no features "
                   f"{cfg.features_dir / 'visual' / name}.*: left out")
    if name not in made["audio"] and not has_sound(name, cfg.audio_dir, cfg.videos_dir, cfg.segments_dir,
                                                    cfg.specs_dir):
        return 0, f"no ratings, and no sound in {cfg.audio_dir / name}.* or in its video: left out"
    return frames, ""


def write_table(out, table):
    """Writes an annotation CSV unless the same is there already. Returns whether it was written."""
    changed = not there(out) or read_bytes(out) != table.encode()
    if changed:
        with whole_file(out) as part:
            part.write_bytes(table.encode())
    return changed


# ---- to look at -----------------------------------------------------------------------------------------------------

def check(cfg):
    """The findings of --check. Raises UserError at the end if there is an error among them."""
    from corpora.check import Finding, check_corpus  # here: with it comes what draws the page
    for folder in (cfg.crops_dir, cfg.segments_dir):
        if "frame_rate" in (made := made_with(folder)):
            check_agrees(folder, made, {"frame_rate": cfg.frame_rate})
    before, sources, others, partitions = [], {}, [], {}
    try:
        sources, others = choose(cfg)
        partitions = partitions_of(sources, cfg)
    except UserError as error:
        before.append(Finding("corpus", (), str(error)))
        others = others or without_ratings(sources, cfg)
    places = {name: partitions.get(name) or "" for name in sources}
    places |= {name: "" if held_out(name, sources, cfg.val_ids, cfg.unlabelled_ids) else UNLABELLED for name in others}
    wanted = {name: place for name, place in places.items() if name in cfg.recordings or not cfg.recordings}

    def read(name):
        gold, _, notes = gold_of(name, sources[name], cfg)
        try:
            crops_of(name, len(gold), cfg)
            return gold, notes, ()
        except UserError as error:
            return gold, notes, (str(error),)

    return check_corpus(wanted, dict.fromkeys(sources, read), cfg, before)


def delay(cfg):
    """{target: its corpora.delay.Lag, or None}, printed and drawn, from the recordings of Train_Set alone."""
    from corpora.delay import show_delay
    sources, _ = choose(cfg)
    partitions, golds = partitions_of(sources, cfg), {}
    for name in (name for name in sources if partitions[name] == TRAIN and name in (cfg.recordings or sources)):
        try:
            golds[name] = gold_of(name, sources[name], dataclasses.replace(cfg, label_delay_s=0.0))[0]
        except (UserError, OSError) as error:
            print(f"{name}: left out: {error}")
    return show_delay(golds, cfg.frame_rate, cfg)


# ---- main -----------------------------------------------------------------------------------------------------------

def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    if cfg.check or cfg.show_delay:
        return check(cfg) if cfg.check else delay(cfg)
    sources, others = choose(cfg)
    partitions = partitions_of(sources, cfg)
    refuse_moved(partitions, cfg)
    for line in (*describe(cfg.ratings_dir, sources), *left_alone(cfg), *apart(sources, others, cfg),
                 *unknown_subjects(cfg.data_dir, [*sources, *others])):
        print(line)
    if not any(partitions.values()) and not (cfg.recordings and others):
        raise UserError(f"none of the {len(sources)} recordings in {cfg.ratings_dir}/ ({listed(sources)}) is in "
                        "train_ids or val_ids: name them there (--train-ids, --val-ids). A table of several recordings "
                        "must call the column that names them recording")
    aside = {name: held_out(name, sources, cfg.val_ids, cfg.unlabelled_ids) for name in others}
    reasons = refused(sources, partitions, aside, cfg)
    subjects = subjects_of(cfg.data_dir, [*sources, *others])
    wanted = [name for name in (*sources, *others) if name in cfg.recordings or not cfg.recordings]
    chosen = [name for name in wanted if partitions.get(name) or name in others]
    for name in wanted:
        if name not in chosen:
            print(f"{name}: in neither train_ids nor val_ids, left out")
    sets = (cfg.annotations_dir / TRAIN, cfg.annotations_dir / VAL)
    for folder in (cfg.crops_dir, cfg.segments_dir, cfg.specs_dir, *sets):
        folder.mkdir(parents=True, exist_ok=True)

    def work(name, report):
        if name in reasons:
            old = cfg.annotations_dir / UNLABELLED / f"{name}.csv"
            also = f"; delete {old}, too" if not fault_of_id(name) and there(old) else ""
            raise UserError(reasons[name] + also)
        if name in sources:
            return annotate(name, sources[name], partitions[name], cfg)
        same = [one for one in sources if video_of(one) == name or subjects.get(one) == subjects[name]]
        return annotate_unlabelled(name, same, aside[name], cfg)

    results = for_each(chosen, work)
    return summarise(results, [name for name in chosen if name in others], cfg)


def summarise(results, others, cfg):
    """Prints how many annotation files were written; {id: whether it was} of those that have one."""
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
