"""Step 0: gold standard -> one annotation CSV per recording, and the folders of the manual.

Reads   ratings_gold_standard/<id>.csv          RECOLA's form: arousal;valence in every row, no header
        videos/<id>.*, Cropped_Aligned/<id>/    where they are there: how many frames the rows must match
        audio/<id>.*, videos/<id>.*             of recordings that nobody rated: whether there is sound
Writes  Annotations/{Train_Set,Val_Set}/<id>.csv    header: image path,spec path,arousal,valence; line k = frame k
        Annotations/Unlabelled_Set/<id>.csv         of pictures and sound that nobody rated: image path,spec path

    python annotations.py --data-dir data
"""
import contextlib
import errno
import fnmatch
import glob
import json
import math
import multiprocessing
import os
import re
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from tqdm import tqdm

from config import UserError, is_claimed, parse_config, part_of, run_script, whole_file

TARGETS = ["arousal", "valence"]
RATED = ["Train_Set", "Val_Set"]
UNLABELLED = "Unlabelled_Set"  # of recordings that nobody rated
SUMMARIES = ["mean", "concatenated"]  # rows of score tables beside those of recordings
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)  # the next recording would end the same way
WORTH_A_WORKER = 10000  # frames: a process with torch takes seconds to start
CLOCK_S = 0.002  # containers round time stamps to a millisecond, the first one too: stamps this close are the same


# ---- recordings -----------------------------------------------------------------------------------------------------

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


def for_each(recordings, work, sizes=None, workers=1, unit="frames", worth=WORTH_A_WORKER):
    """What `work(id, report)` makes of every recording by id: a bad one is reported, and the others are still done.

    work: a top-level function or functools.partial of one; returns a line to print and a result, and calls report(n) for
    every n frames done. sizes: id -> frames to do, for the time left. workers: processes; 0: one per core, or fewer where
    that is quicker, with `worth` frames or more for each. Raises UserError at the end if any recording failed; a full disk stops it at once.
    """
    sizes = sizes or {}
    total = sum(sizes.values())
    workers = min(len(recordings), workers or min(cores(), total // worth + 1))
    results, failed = {}, {}
    outcomes = _in_turn if workers <= 1 else _in_processes
    with (tqdm(total=total or None, unit=f" {unit}", disable=None, leave=False, smoothing=0.05) as bar,
          contextlib.closing(outcomes(list(recordings), work, bar, workers)) as ended):
        for name, outcome in ended:
            if isinstance(outcome, UserError):
                failed[name] = str(outcome)
            elif isinstance(outcome, OSError) and outcome.errno not in FULL_DISK:  # a file that must not be read, say
                failed[name] = f"{outcome.strerror or outcome}: {outcome.filename or name}"
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                line, results[name] = outcome
                tqdm.write(line)
            if name in failed:
                tqdm.write(f"{name}: FAILED: {failed[name]}")
    if failed:
        raise UserError(f"{len(failed)} of {len(recordings)} recordings failed ({', '.join(sorted(failed, key=_natural))}), for the "
                        "reasons given above; the others are done")
    return {name: results[name] for name in recordings}


def cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _in_turn(names, work, bar, _):
    for name in names:
        bar.set_description(name)
        try:
            outcome = work(name, bar.update)
        except (UserError, OSError) as error:
            outcome = error
        yield name, outcome


def _in_processes(names, work, bar, workers):
    """The same as _in_turn, in the order in which they end."""
    context = multiprocessing.get_context("spawn")  # a fork of a process in which torch has threads can hang
    done, stop = context.RawArray("q", len(names)), context.RawValue("b", 0)
    pool = ProcessPoolExecutor(workers, context, _begin_worker, (done, stop))
    try:
        with _no_interrupts():
            waiting = {pool.submit(_work_of, work, name, number): name for number, name in enumerate(names)}
            pool.submit(abs, 0)  # lets the pool look at its processes again: it may not watch the last one that was started
        bar.set_description(f"{workers} workers")
        while waiting:
            ended, _ = wait(waiting, 0.2, FIRST_COMPLETED)
            bar.update(sum(done) - bar.n)
            for job in ended:
                yield waiting.pop(job), job.exception() or job.result()
    finally:  # also where an error or Ctrl-C ends it: the workers stop at their next frame
        stop.value = 1
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _no_interrupts():
    """Processes that are started in the block hear of no Ctrl-C, not even while they start: it is their parent's affair."""
    if hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        yield


def _begin_worker(done, stop):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be kept from them
    global _DONE, _STOP
    _DONE, _STOP = done, stop
    threading.Thread(target=die_with_parent, daemon=True).start()


def die_with_parent():
    """Of a process that works for another: ends it as soon as the other has ended, in whatever way. Waits for that: call it in a thread."""
    multiprocessing.parent_process().join()
    os._exit(1)  # nobody waits for what this worker does, and the next run may do the same recording


def _work_of(work, name, number):
    def report(frames=1):
        _DONE[number] += frames
        if _STOP.value:
            raise KeyboardInterrupt
    report(0)  # one job more than there are workers waits where it cannot be taken back
    return work(name, report)


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
        pictures, held_s = [], 0.0  # stamps, not packets: those hold all of the file
        for packet in container.demux():
            if packet.pts is not None:
                held_s = max(held_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index == stream.index:
                    pictures.append((packet.pts, packet.duration or 0, packet.is_discard))
        shown = sorted((pts, duration) for pts, duration, discarded in pictures if not discarded)
        if not shown:
            raise UserError(f"{video} has no pictures with a time stamp: it is empty, cut short or a bare stream (.h264), which an .mp4 can hold")
        base = float(stream.time_base)
        times = np.array([pts for pts, _ in shown], float) * base
        gap = np.median(np.diff(times)) if len(times) > 1 else 1 / float(stream.average_rate or 25)
        end = times[-1] + (shown[-1][1] * base or gap)
        frames, avi = stream.frames, container.format.name == "avi"  # whose header counts dropped pictures, too: they have no packets
        if "mp4" in container.format.name:
            frames = min(frames, len(stream.index_entries))  # less what an edit list leaves out
        promised = frames * gap if frames else (container.duration or 0) / av.time_base
        present = len(pictures) * gap if frames and not avi else held_s  # some containers know only how long all that is in them lasts
    if promised - present > max(0.5, 2 * gap):
        raise UserError(f"{video} is cut short: it promises {promised:.1f} s of pictures and holds {present:.1f} s")
    return Clock(times - times[0], end - times[0], times[0])


def frame_count(end_s, frame_rate):
    """Number of frames k with k / frame_rate before `end_s`."""
    return math.ceil((end_s - CLOCK_S) * frame_rate)


def about_frames(path, frame_rate):
    """Number of frames by the length that a file's header states, for the time left alone: 0 where it says nothing."""
    try:
        with open_media(path) as container:
            return round((container.duration or 0) / av.time_base * frame_rate)
    except (UserError, OSError):
        return 0  # whoever reads all of it says what is wrong


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
