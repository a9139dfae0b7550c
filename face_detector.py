"""Step 1: raw videos -> one aligned face crop per frame; a frame without a face becomes a black image.

Reads   videos/<id>.*                           any container, any frame rate, constant or variable
Writes  Cropped_Aligned/<id>/000000.jpg ...     frame k: what the video shows at k / frame_rate seconds; RGB, upright
        Cropped_Aligned/<id>/faces.csv          per frame: time_s, found, box in pixels of the video, score
        Cropped_Aligned/<id>/checksums.sfv      of all of these, so that damage is noticed
        Cropped_Aligned/<id>.failed             why a recording has none of these: training leaves it out
        Cropped_Aligned/<id>.jpg                contact sheet: crops from end to end of the recording, to check by eye

    python face_detector.py --data-dir data

Crops of another program (00001.jpg ...) are left as they are. Of <video>_left and <video>_right, which have annotations
but no video of their own, that subject of videos/<video>.* is followed.

To repeat the last face where there is none, run face_detector_frameRetention.py instead, or afterwards: each script
replaces what the other put into the frames without a face, and neither detects faces twice.
"""
import functools
import gc
import glob
import itertools
import math
from array import array
from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from faces import Face, FaceFinder, Tracker, crop_face, one_thread
from support.checksums import LIST, checked, list_all, read_list, verify
from support.columns import read_table
from support.crops import other_crops
from support.errors import UserError, run_script, torch_device
from support.failures import noted
from support.files import changed_folder, claimed, there, whole_again, whole_file, whole_folder, write_bytes
from support.media import Picture, about_frames, frame_count, picture_clock, read_frames
from support.opencv import cv2, read_picture
from support.reading import clipped, read_bytes
from support.recordings import FACE, find_recordings, if_newer, keep_settings, refuse_unusable, shard_of, side_of
from support.settings import parse_config
from support.workers import for_each

SETTINGS = "face_size frame_rate min_face_size face_score look_every jpeg_quality"  # that crops depend on
BOX = ["x1", "y1", "x2", "y2"]
AGAIN = "delete {}/ and run this again"


# ---- which face is in which frame -----------------------------------------------------------------------------------

class Shot(NamedTuple):
    """A picture of the video and the subject's face in it."""
    ks: range  # the frames that show it
    picture: Picture
    face: Face | None
    found: str  # detected, tracked or missing


def shots(pictures, tracker, frame_rate, look_every):
    """Yields a Shot of every (ks, picture); the tracker gets `look_every` of them at a time."""
    while group := list(itertools.islice(pictures, look_every)):
        looks = tracker([picture for _, picture in group], [ks[0] / frame_rate for ks, _ in group])
        yield from [Shot(ks, picture, face, found) for (ks, picture), (face, found) in zip(group, looks)]


STEADY_S = 0.12  # landmarks are averaged with those of less than this before and after, the nearer the more ...
SAME_PLACE = 0.25  # ... except with those that are further away than this share of the distance between the eyes
BATCH = 8  # pictures that are averaged at once
NOWHERE = np.full((5, 2), np.nan)  # landmarks of a picture without a face
NO_BOX = (math.nan,) * 4


def steady(points, times_s, reach):
    """Landmarks averaged over `reach` pictures before and after: (n + 2 reach, 5, 2), (n + 2 reach,) -> (n, 5, 2).

    NaN where there is no face. As many before as after are used, so that the mean of a moving head does not lag.
    """
    windows = sliding_window_view(points.reshape(-1, 10), 2 * reach + 1, axis=0)  # (n, 10, 2 reach + 1)
    times_s = sliding_window_view(times_s, 2 * reach + 1)
    middle = windows[:, :, [reach]]
    eyes = np.abs(middle[:, 2:4] - middle[:, :2]).max(1)
    near = np.abs(windows - middle).mean(1) <= SAME_PLACE * eyes  # False for NaN
    after = np.logical_and.accumulate((near & near[:, ::-1])[:, reach:], axis=1)
    near = np.concatenate([after[:, :0:-1], after], axis=1)[:, None]
    weights = near * np.maximum(1 - np.abs(times_s - times_s[:, [reach]]) / STEADY_S, 0)[:, None]
    with np.errstate(invalid="ignore"):  # 0 / 0 without a face
        return ((weights * np.where(near, windows, 0)).sum(2) / weights.sum(2)).reshape(-1, 5, 2)


class Steadying:
    """Averages the landmarks of one person's Shots, which come in pieces."""

    def __init__(self, frame_rate):
        self.frame_rate, self.reach = frame_rate, math.ceil(STEADY_S * frame_rate) - 1
        self.padding = [Shot(range(0, 1), None, None, "missing")] * self.reach
        self.window = self.padding

    def __call__(self, following):
        """[(Shot, its averaged landmarks or None)] of the Shots that are finished by the `following` ones."""
        window = self.window + following
        count = max(0, len(window) - 2 * self.reach)
        self.window = window[count:]
        if not count:
            return []
        points = np.array([shot.face.points if shot.face else NOWHERE for shot in window])
        averaged = steady(points, np.array([shot.ks[0] for shot in window]) / self.frame_rate, self.reach)
        return [(shot, places if shot.face else None) for shot, places in zip(window[self.reach:], averaged)]

    def end(self):
        """The same of the last Shots."""
        return self(self.padding)


def steadied(made, frame_rate):
    """Yields (Shot, its averaged landmarks or None) of Shots."""
    steadying = Steadying(frame_rate)
    while following := list(itertools.islice(made, BATCH)):
        yield from steadying(following)
    yield from steadying.end()


class FaceRows:
    """What was found in each frame, as a few bytes: Python's own objects would take 300 a frame."""

    def __init__(self):
        self.found, self.numbers = [], array("d")  # the same few texts again and again; frame, box, score

    def add(self, ks, found, face):
        """The next frames, with their Face or None."""
        box, score = (face.box, face.score) if face else (NO_BOX, math.nan)
        for k in ks:
            self.found.append(found)
            self.numbers.extend((k, *box, score))

    def table(self):
        """The frames as a table: frame, found, x1, y1, x2, y2, score."""
        table = pd.DataFrame(np.array(self.numbers).reshape(-1, 6), columns=["frame", *BOX, "score"])
        table = table.astype({"frame": int})
        table.insert(1, "found", self.found)
        return table


# ---- the crops and faces.csv of a recording -------------------------------------------------------------------------

def detect(video, folder, tracker, cfg, retain, report):
    """Makes the folder of a recording, which appears when all of it is written. Texts: what is odd about the video.

    tracker: a Tracker; report(n): called for every n frames done. Raises UserError if the end of the video is missing,
    or if it is faceless.
    """
    rows, remarks = FaceRows(), []
    with whole_folder(folder) as part:
        pictures = read_frames(video, cfg.frame_rate, remark=remarks.append)
        made = shots(pictures, tracker, cfg.frame_rate, cfg.look_every)
        for shot, points in steadied(made, cfg.frame_rate):
            if shot.face:
                write_crop(part, shot, points, cfg.face_size, cfg.jpeg_quality)
            rows.add(shot.ks, shot.found, shot.face)
            report(len(shot.ks))
        table = rows.table()
        table.insert(0, "time_s", table.pop("frame") / cfg.frame_rate)
        table = table.round({"time_s": 4, "score": 4} | dict.fromkeys(BOX, 1))
        if not table["found"].isin(FACE).any():
            if side := tracker.follower.side:
                raise UserError(f"{video}: no picture shows two faces, so that its {side} subject is not known: lower "
                                f"--min-face-size ({cfg.min_face_size} pixels), or put a video or the crops of that "
                                f"one into {cfg.videos_dir}/ or {cfg.crops_dir}/")
            raise UserError(f"{video}: no face in any of its {len(table)} frames: check the video, or lower "
                            f"--min-face-size ({cfg.min_face_size} pixels)")
        fill_gaps(part, table, cfg.face_size, retain)
        list_all(part)
    return remarks


def write_crop(folder, shot, points, size, quality):
    """Writes the crop of a Shot's face, with averaged landmarks (5, 2), for all of its frames. Raises OSError."""
    jpeg = _jpeg(cv2.cvtColor(crop_face(shot.picture, points, size), cv2.COLOR_RGB2BGR), quality)
    for k in shot.ks:
        write_bytes(f"{folder}/{k:06d}.jpg", jpeg)


def fill_gaps(folder, table, size, retain, before=None):
    """faces.csv of a recording, as a table, after every frame without a face got a black image (or the last face).

    retain: the last face, or the first one before there was any; size: of the crops; before: the folder with the faces,
    if it is another one, whose checksums they must have.
    """
    source, sums = before or folder, read_list(before) if before else {}
    gaps = ~table["found"].isin(FACE)
    faces = np.flatnonzero(~gaps)
    black = _jpeg(np.zeros((size, size, 3), np.uint8), 95)
    for k in np.flatnonzero(gaps):
        last = source / f"{faces[max(0, np.searchsorted(faces, k) - 1)]:06d}.jpg"
        with whole_file(folder / f"{k:06d}.jpg") as part:
            part.write_bytes(checked(last, read_bytes(last), sums, AGAIN.format(source)) if retain else black)
    table = table.assign(found=table["found"].mask(gaps, _filled(retain)))
    with whole_file(folder / "faces.csv") as part:
        table.to_csv(part, index=False, lineterminator="\n")
    return table


def refill(folder, table, sheet, size, retain):
    """The same for a recording whose frames without a face were filled otherwise before: its contact sheet is written,
    then all of it is exchanged at once."""
    sums = read_list(folder)
    kept = {f"{k:06d}.jpg" for k in np.flatnonzero(table["found"].isin(FACE))}
    with changed_folder(folder) as part:
        table = fill_gaps(part, table, size, retain, folder)
        if sums:  # else it stays without
            (part / LIST).unlink()  # it is a file of the other folder, too
            list_all(part, {name: crc for name, crc in sums.items() if name in kept})
        try:
            write_sheet(sheet, part, table, size)
        except UserError as error:  # a crop is damaged
            raise UserError(str(error).replace(str(part), str(folder))) from None
    return table


def _filled(retain):
    """What faces.csv says of a filled frame."""
    return "retained" if retain else "missing"


def _jpeg(bgr, quality):
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _read_table(folder):
    """faces.csv of a recording. Raises UserError, naming the line, if it is not as it is written here."""
    path, again = folder / "faces.csv", AGAIN.format(folder)
    if not there(path):
        raise UserError(f"{folder}/ has no faces.csv: {again}")
    table = read_table(path, again, ["time_s", *BOX, "score"], ["found"])
    for row in np.flatnonzero(~table["found"].isin([*FACE, "missing", "retained", "unfilled"])):
        word = clipped(table["found"].iloc[row])
        raise UserError(f"{path} line {row + 2}: {word!r} is not how a face is found: {again}")
    for row in np.flatnonzero(~(np.diff(table["time_s"], prepend=-1) > 0)):
        raise UserError(f"{path} line {row + 2}: its time is not after that of the line before: {again}")
    verify(path, again)
    return table.reset_index(drop=True)


def finished_table(folder, video, frame_rate):
    """faces.csv of a recording made before, or None. Raises UserError if it does not match the crops and the video."""
    if not there(folder):
        return None
    table = _read_table(folder)
    crops, frames = len(list(folder.glob("[!.]*.jpg"))), frame_count(picture_clock(video).end_s, frame_rate)
    if not len(table) == crops == frames:
        raise UserError(f"{folder}/ holds {crops} crops and {len(table)} rows in faces.csv, but {video} has {frames} "
                        "frames: delete that folder and run this again")
    return table


# ---- to check by eye ------------------------------------------------------------------------------------------------

SHEET = 10, 6, 112  # columns and rows of a contact sheet, and the largest side of a crop in it, pixels
BORDER = {"missing": (60, 60, 255), "retained": (60, 220, 255)}  # red and yellow, as BGR, around frames without a face
MANY_GAPS = 0.1  # a recording should be checked if a larger share of it has no face ...
MANY_LOSSES = 0.02  # ... or if the face was lost and found again in a larger share of its frames


def contact_sheet(folder, table, size):
    """JPEG of crops from end to end of a recording, with their times; a red border: missing, yellow: retained."""
    count, side = min(SHEET[0] * SHEET[1], len(table)), min(size, SHEET[2])
    sheet = np.full((SHEET[1] * (side + 16), SHEET[0] * (side + 4), 3), 32, np.uint8)
    for cell, k in enumerate(np.linspace(0, len(table) - 1, count).round().astype(int)):
        y, x = cell // SHEET[0] * (side + 16), cell % SHEET[0] * (side + 4)
        crop = read_picture(folder / f"{k:06d}.jpg", cv2.IMREAD_COLOR, f"delete {folder}/ and run this again")
        sheet[y + 14:y + 14 + side, x + 2:x + 2 + side] = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
        if colour := BORDER.get(table["found"][k]):
            cv2.rectangle(sheet, (x, y + 12), (x + side + 3, y + side + 15), colour, 2)
        text = f"{table['time_s'][k]:.1f} s"
        cv2.putText(sheet, text, (x + 3, y + 11), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (220, 220, 220), 1, cv2.LINE_AA)
    return _jpeg(sheet[:((count - 1) // SHEET[0] + 1) * (side + 16)], 90)


def write_sheet(sheet, folder, table, size):
    """Writes the contact sheet of the crops in a folder."""
    content = contact_sheet(folder, table, size)
    for left in sheet.parent.glob(f".{glob.escape(sheet.name)}.*"):
        left.unlink()  # a temporary file of a run that was killed
    with whole_file(sheet) as part:
        part.write_bytes(content)


def summary(tables, frame_rate):
    """Text: how the faces of each recording (id -> its faces.csv) were found, and which contact sheets to check."""
    widths = {"detected": 10, "tracked": 9, "retained": 10, "missing": 9}
    words = "".join(f"{word:>{width}}" for word, width in widths.items())
    lines = [f"{'recording':20}{'frames':>8}{words}{'longest gap':>13}"]
    for name, table in tables.items():
        counts, has_face = Counter(table["found"]), table["found"].isin(FACE)
        gap_s = max((len(list(run)) for face, run in itertools.groupby(has_face) if not face), default=0) / frame_rate
        reasons = [f"{1 - has_face.mean():.0%} without a face"] * bool(has_face.mean() < 1 - MANY_GAPS)
        restless = counts["detected"] > max(3, MANY_LOSSES * len(table))
        reasons += [f"lost and found {counts['detected']} times"] * restless
        numbers = f"{len(table):8}" + "".join(f"{counts[word]:{width}}" for word, width in widths.items())
        lines.append(f"{name:20}{numbers}{gap_s:11.1f} s" + f"   check: {', '.join(reasons)}" * bool(reasons))
    return "\n".join(lines)


# ---- main -----------------------------------------------------------------------------------------------------------

@functools.lru_cache(1)  # one per process, not one per recording
def finder(min_face_size, face_score, device):
    """FaceFinder on a device."""
    find = FaceFinder(min_face_size, face_score, torch_device(device))
    gc.freeze()  # or the garbage collector goes through all objects of torch again and again
    return find


def make(name, report, videos, cfg, retain):
    """Crops of one recording, unless they are there: a line to print; (its faces.csv, whether anything was done)."""
    folder, sheet = cfg.crops_dir / name, cfg.crops_dir / f"{name}.jpg"
    whole_again(folder)
    refuse_unusable(videos[name])
    if crops := other_crops(folder, lambda: frame_count(picture_clock(videos[name]).end_s, cfg.frame_rate)):
        return f"{name}: {len(crops.names)} crops of another program are there: left as they are", (None, False)
    side = side_of(name, videos[name], cfg.annotations_dir)
    new, remarks = finished_table(folder, videos[name], cfg.frame_rate) is None, []
    if new:
        sheet.unlink(missing_ok=True)  # of a folder that was deleted
        with one_thread():
            tracker = Tracker(finder(cfg.min_face_size, cfg.face_score, cfg.device), side)
            remarks = detect(videos[name], folder, tracker, cfg, retain, report)
    with claimed(folder, "finished", wait=True):  # face_detector.py and face_detector_frameRetention.py may run at once
        table = _read_table(folder)
        if not table["found"].isin([*FACE, _filled(retain)]).all():
            table, new = refill(folder, table, sheet, cfg.face_size, retain), True
        if not there(sheet):
            for left in folder.glob(".*"):
                left.unlink()  # a temporary file of a run that was killed
            write_sheet(sheet, folder, table, cfg.face_size)
    line = f"{name}: {len(table)} frames, " + ", ".join(f"{n} {word}" for word, n in Counter(table["found"]).items())
    remarks += [f"the {side} one of the two subjects of {videos[name]}"] * bool(side)
    remarks += [] if new else [f"done before{if_newer(videos[name], folder)}"]
    return line + f" ({'; '.join(remarks)})" * bool(remarks), (table, new)


def main(argv=None, script=__file__, doc=__doc__, retain=False):
    cfg = parse_config(argv, script, doc)
    videos = find_recordings([cfg.videos_dir], cfg.recordings, "put the raw videos there, one <id>.mp4 (or other) each "
                             "(crops and features of other programs need no such step)", cfg.annotations_dir)
    torch_device(cfg.device)  # an error now rather than one for every recording
    keep_settings(cfg.crops_dir, cfg, SETTINGS)
    shard = shard_of(videos, cfg.shard)
    if not shard:
        print(f"shard {cfg.shard} holds none of the {len(videos)} recordings: nothing to do")
        return Counter()
    sizes = {name: about_frames(shard[name], cfg.frame_rate) for name in shard if not there(cfg.crops_dir / name)}
    work = functools.partial(make, videos=shard, cfg=cfg, retain=retain)
    results = for_each(shard, functools.partial(noted, work=work, folder=cfg.crops_dir), sizes, cfg.workers)
    if not (results := {name: (table, new) for name, (table, new) in results.items() if table is not None}):
        print(f"{cfg.crops_dir}: nothing to do, all crops are of another program")
        return Counter()
    total = sum((Counter(table["found"]) for table, _ in results.values()), Counter())
    print(summary({name: table for name, (table, _) in results.items()}, cfg.frame_rate))
    print(f"{cfg.crops_dir}: {sum(total.values())} crops of {len(results)} recordings, "
          + ", ".join(f"{n} {word}" for word, n in total.items())
          + ("" if any(new for _, new in results.values()) else "; nothing to do, all were done before"))
    return total


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
