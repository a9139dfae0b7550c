"""Step 1: raw videos -> one aligned face crop per frame; a frame with no face becomes a black image.

Reads   videos/<id>.*                           any container, any frame rate, constant or variable
Writes  Cropped_Aligned/<id>/000000.jpg ...     frame k: the picture on show at k / frame_rate seconds; RGB, upright
        Cropped_Aligned/<id>/faces.csv          per frame: time_s, found, box in pixels of the video, score
        Cropped_Aligned/<id>.jpg                contact sheet: crops from end to end of the recording, to look at

    python face_detector.py --data-dir data

To repeat the last face where there is none, run face_detector_frameRetention.py instead of this script, or after it:
each exchanges what the other put into the frames without a face, and detects nothing twice.
"""
import contextlib
import functools
import gc
import glob
import itertools
import math
import multiprocessing
import queue
import threading
from array import array
from collections import Counter
from multiprocessing.connection import Client, Listener
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from tqdm import tqdm

from faces import PATCH, Face, FaceFinder, Seen, Tracker, crop_face, one_thread
from support.errors import UserError, run_script, torch_device
from support.files import claimed, growing_folder, whole_file, write_bytes
from support.media import Picture, about_frames, frame_count, picture_clock, read_frames
from support.recordings import find_recordings, if_newer, keep_settings, shard_of
from support.settings import parse_config
from support.workers import for_each

STEADY_S = 0.12  # landmarks are averaged with those of less than this before and after, the nearer the more
SAME_PLACE = 0.25  # ... unless they lie this many distances of the eyes away: the head moves fast, or it is another shot
HOW = ["missing", "detected", "tracked"]
STEADY_AT_ONCE = 8  # pictures
NOWHERE = np.full((5, 2), np.nan)  # landmarks of nobody
ROW, NOBODY = 18, [math.nan] * 15  # numbers per picture in a Track; those of a picture without a face
CHECKPOINT = 1000  # frames after which a long recording notes how far it has come
PROGRESS = ".progress.npz"
SETTINGS = "face_size frame_rate min_face_size face_score look_every jpeg_quality"  # that crops depend on
SHEET = 10, 6, 112  # crops in a row and in a column of a contact sheet, and their largest side in it
LOOK_GAPS = 0.1  # a recording needs a look if more of it than this is without a face ...
LOOK_LOST = 0.02  # ... or if this share of its frames had to be searched for it
FAILED = b"!"  # a NetServer's answer


# ---- pictures -------------------------------------------------------------------------------------------------------


# ---- faces ----------------------------------------------------------------------------------------------------------


class RemoteFinder(FaceFinder):
    """A FaceFinder whose networks run in a NetServer, together with those of other recordings."""

    def __init__(self, min_face_size, face_score, address):
        self.min_face_size, self.face_score = min_face_size, face_score
        self.server = Client(address, authkey=multiprocessing.current_process().authkey)

    def __call__(self, rgb):
        found = self._ask(np.array(rgb.shape[:2], np.int32).tobytes() + rgb.tobytes())
        return found[:, :4], found[:, 5:].reshape(-1, 5, 2), found[:, 4]

    def output_net(self, patches):
        return self._ask(patches.tobytes())

    def _ask(self, question):
        self.server.send_bytes(question)
        answer = self.server.recv_bytes()
        if answer == FAILED:
            raise OSError("the networks failed on the device, for the reason given above: run the same again, with fewer --workers or --device cpu")
        return np.frombuffer(answer).reshape(-1, 15).copy()


class NetServer:
    """Runs the networks of several RemoteFinders on one device: whatever has been asked meanwhile makes the next batch.

    To be used in a `with` block; `address` is what a RemoteFinder needs. Bytes go to and fro, nothing is unpickled.
    """

    def __init__(self, find):
        self.find, self.questions = find, queue.SimpleQueue()
        self.listener = Listener(authkey=multiprocessing.current_process().authkey)
        self.address = self.listener.address

    def __enter__(self):
        for work in (self._accept, self._answer):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.questions.put(None)
        self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):  # when it is closed
            while True:
                threading.Thread(target=self._listen, args=[self.listener.accept()], daemon=True).start()

    def _listen(self, client):
        with contextlib.suppress(EOFError, OSError):  # when the worker ends
            while True:
                self.questions.put((client, client.recv_bytes()))

    def _answer(self):
        while asked := self._batch():
            try:
                for client, answer in self._answers(asked):
                    asked.pop(client)
                    self._send(client, answer)
            except Exception as error:  # whatever CUDA has to say; the workers must not wait for ever
                tqdm.write(f"{type(error).__name__}: {error}")
                for client in asked:
                    self._send(client, FAILED)

    def _send(self, client, answer):
        with contextlib.suppress(OSError):  # a worker that has ended
            client.send_bytes(answer)

    def _batch(self):
        """Client -> question, of all that wait for an answer; empty at the end. A client asks one thing at a time."""
        asked = [self.questions.get()]
        while not self.questions.empty():
            asked.append(self.questions.get())
        return {} if None in asked else dict(asked)

    def _answers(self, asked):
        patches = {client: question for client, question in asked.items() if len(question) == PATCH * PATCH * 3}
        pictures = {client: question for client, question in asked.items() if client not in patches}
        if patches:
            batch = np.frombuffer(bytearray().join(patches.values()), np.uint8).reshape(-1, PATCH, PATCH, 3)
            yield from zip(patches, (found.tobytes() for found in self.find.output_net(batch)))
        for client, question in pictures.items():
            height, width = np.frombuffer(question, np.int32, 2)
            boxes, points, scores = self.find(np.frombuffer(question, np.uint8, offset=8).reshape(height, width, 3))
            yield client, np.concatenate([boxes, scores[:, None], points.reshape(-1, 10)], axis=1).tobytes()


def steady(points, times_s, reach):
    """Landmarks averaged with those of `reach` pictures before and after: (n + 2 reach, 5, 2), (n + 2 reach,) -> (n, 5, 2).

    NaN where there is no face. As many before as after, so that a moving head is not left behind.
    """
    windows = sliding_window_view(points.reshape(-1, 10), 2 * reach + 1, axis=0)  # (n, 10, 2 reach + 1)
    times_s = sliding_window_view(times_s, 2 * reach + 1)
    middle = windows[:, :, [reach]]
    eyes = np.abs(middle[:, 2:4] - middle[:, :2]).max(1)
    near = np.abs(windows - middle).mean(1) <= SAME_PLACE * eyes  # False for NaN
    after = np.logical_and.accumulate((near & near[:, ::-1])[:, reach:], axis=1)
    near = np.concatenate([after[:, :0:-1], after], axis=1)[:, None]
    weights = near * np.maximum(1 - np.abs(times_s - times_s[:, [reach]]) / STEADY_S, 0)[:, None]
    with np.errstate(invalid="ignore"):  # of nobody
        return ((weights * np.where(near, windows, 0)).sum(2) / weights.sum(2)).reshape(-1, 5, 2)


# ---- recordings -----------------------------------------------------------------------------------------------------

class Shot(NamedTuple):
    """What was made of a picture."""
    ks: range  # the frames that it stands for
    picture: Picture
    face: Face | None
    how: str


class Track:
    """What is known of the pictures of a recording, in order: (ks, face, how) each, in 144 bytes."""

    def __init__(self, rows=()):
        self.rows = array("d", np.ravel(rows))

    def __len__(self):
        return len(self.rows) // ROW

    def __getitem__(self, number):
        start, stop, how, *values = self.rows[number * ROW:(number + 1) * ROW]
        face = Face(np.array(values[:4]), np.reshape(values[4:14], (5, 2)), values[14]) if how else None
        return range(int(start), int(stop)), face, HOW[int(how)]

    def append(self, look):
        ks, face, how = look
        self.rows.extend([ks.start, ks.stop, HOW.index(how)])
        self.rows.extend([*face.box.tolist(), *face.points.ravel().tolist(), face.score] if face else NOBODY)

    def array(self):
        """All of it: (pictures, 18), first frame, the one after the last, how, box, landmarks, score."""
        return np.array(self.rows).reshape(-1, ROW)


def shots(pictures, tracker, frame_rate, look_every, track):
    """Yields the Shot of every (ks, picture), and adds what it found out to a Track.

    track: not empty in a run that goes on where one was stopped: its pictures are not looked at again. It grows by whole
    groups of pictures that were looked at together, so that the next run groups them alike.
    """
    for number, (ks, picture) in zip(range(len(track)), pictures):  # in this order: zip takes a picture too many in the other
        _, face, how = track[number]
        tracker.skip(picture, ks[0] / frame_rate, face)
        yield Shot(ks, picture, face, how)
    while group := list(itertools.islice(pictures, look_every)):
        looks = tracker([picture for _, picture in group], [ks[0] / frame_rate for ks, _ in group])
        made = [Shot(ks, picture, *look) for (ks, picture), look in zip(group, looks)]
        for shot in made:
            track.append((shot.ks, shot.face, shot.how))
        yield from made


def steadied(made, frame_rate):
    """Yields (Shot, steady landmarks or None) of Shots, some at a time."""
    reach = math.ceil(STEADY_S * frame_rate) - 1
    nobody = [Shot(range(0, 1), None, None, "missing")] * reach
    made = itertools.chain(nobody, made, nobody)
    window = list(itertools.islice(made, 2 * reach))
    while following := list(itertools.islice(made, STEADY_AT_ONCE)):
        window += following
        points = np.array([shot.face.points if shot.face else NOWHERE for shot in window])
        places = steady(points, np.array([shot.ks[0] for shot in window]) / frame_rate, reach)
        for shot, place in zip(window[reach:], places):
            yield shot, place if shot.face else None
        window = window[len(following):]


def gaps_filled(table, retain):
    """Whether every frame without a face has what `fill_gaps` puts there."""
    return table["found"].isin([*HOW[1:], "retained" if retain else "missing"]).all()


def fill_gaps(folder, table, size, retain):
    """Puts into every frame without a face a black image or, with `retain`, the last face seen (the first one, before).

    table: the recording's faces.csv; size: of its crops. Returns it with the word for what was done, or as it was if that was done before.
    """
    if gaps_filled(table, retain):
        return table
    word, gaps = "retained" if retain else "missing", ~table["found"].isin(HOW[1:])
    _save_table(folder, table.assign(found=table["found"].mask(gaps, "unfilled")))  # if killed now, the next run fills them
    faces = np.flatnonzero(~gaps)
    black = _jpeg(np.zeros((size, size, 3), np.uint8), 95)
    for k in np.flatnonzero(gaps):
        last = faces[max(0, np.searchsorted(faces, k) - 1)]
        with whole_file(folder / f"{k:06d}.jpg") as part:
            part.write_bytes((folder / f"{last:06d}.jpg").read_bytes() if retain else black)
    table = table.assign(found=table["found"].mask(gaps, word))
    _save_table(folder, table)
    return table


def write_crop(folder, shot, points, size, quality):
    """Writes the crop of a Shot's face, with its steady landmarks (5, 2), for all of its frames. Raises OSError."""
    jpeg = _jpeg(cv2.cvtColor(crop_face(shot.picture, points, size), cv2.COLOR_RGB2BGR), quality)
    for k in shot.ks:
        write_bytes(f"{folder}/{k:06d}.jpg", jpeg)


def detect(video, folder, find, cfg, report):
    """Makes the crops of a recording, black where there is no face: its faces.csv as a table.

    `folder` appears when all of it is written; stopped half-way, the next call goes on. Raises UserError if the video is
    damaged or no face is ever found.
    """
    state, settings = video.stat(), [getattr(cfg, name) for name in SETTINGS.split()]
    with growing_folder(folder, [str(video), state.st_size, state.st_mtime_ns, *settings]) as part:
        tracker = Tracker(find)
        track, written = read_progress(part, tracker.follower)
        made = shots(read_frames(video, cfg.frame_rate), tracker, cfg.frame_rate, cfg.look_every, track)
        for shot, points in steadied(made, cfg.frame_rate):
            if shot.face and shot.ks[0] >= written:
                write_crop(part, shot, points, cfg.face_size, cfg.jpeg_quality)
            report(len(shot.ks))
            if shot.ks.stop // CHECKPOINT > shot.ks.start // CHECKPOINT and shot.ks.stop > written:
                save_progress(part, track, shot.ks.stop, tracker.follower)
        table = faces_table(track.array(), cfg.frame_rate)
        if (table["found"] == "unfilled").all():
            raise UserError(f"{video}: no face in any of its {len(table)} frames: if there are faces of less than "
                            f"{cfg.min_face_size} pixels, lower --min-face-size")
        _save_table(part, table)
        return fill_gaps(part, table, cfg.face_size, retain=False)


def faces_table(rows, frame_rate):
    """faces.csv as a table, its gaps not filled yet, from a Track's array: a row per frame."""
    rows = np.repeat(rows, (rows[:, 1] - rows[:, 0]).astype(int), axis=0)
    found = np.array(["unfilled", *HOW[1:]], object)[rows[:, 2].astype(int)]
    table = pd.DataFrame({"time_s": (np.arange(len(rows)) / frame_rate).round(4), "found": found})
    return table.assign(**dict(zip(["x1", "y1", "x2", "y2"], rows[:, 3:7].round(1).T)), score=rows[:, -1].round(4))


def save_progress(part, track, written, follower):
    """Notes how far a recording has come: crops before frame `written` are there, and what is known of pictures and people."""
    people = np.array([[*one.box, one.time_s] for one in follower.people]).reshape(-1, 5)
    with whole_file(part / PROGRESS) as file:
        np.savez(file, track=track.array(), written=written, people=people)


def read_progress(part, follower):
    """The Track of the first pictures, and the number of frames whose crops are written; `follower` is told who was there."""
    if not (part / PROGRESS).exists():
        return Track(), 0
    with np.load(part / PROGRESS) as noted:
        follower.people = [Seen(one[:4], float(one[4])) for one in noted["people"]]
        return Track(noted["track"]), int(noted["written"])


def _jpeg(bgr, quality):
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _save_table(folder, table):
    with whole_file(folder / "faces.csv") as part:
        table.to_csv(part, index=False, lineterminator="\n")


def _read_table(folder):
    try:
        table = pd.read_csv(folder / "faces.csv")
        table["found"]
        return table
    except (OSError, ValueError, KeyError):
        raise UserError(f"{folder}/ holds no readable faces.csv: delete that folder to make it anew") from None


def finished_table(folder, video, frame_rate):
    """faces.csv of a recording made before, or None. Raises UserError if anything is missing or it is of a video of another length."""
    if not folder.exists():
        return None
    table = _read_table(folder)
    crops, frames = len(list(folder.glob("[!.]*.jpg"))), frame_count(picture_clock(video).end_s, frame_rate)
    if not len(table) == crops == frames:
        raise UserError(f"{folder}/ holds {crops} crops and {len(table)} rows in faces.csv, and {video} {frames} frames: delete "
                        "that folder to make it anew")
    return table


# ---- to look at -----------------------------------------------------------------------------------------------------

def contact_sheet(folder, table, size):
    """JPEG of crops from end to end of a recording, each with its time; a red frame where no face was found, yellow where the last is repeated."""
    count, side = min(SHEET[0] * SHEET[1], len(table)), min(size, SHEET[2])
    sheet = np.full((SHEET[1] * (side + 16), SHEET[0] * (side + 4), 3), 32, np.uint8)
    for cell, k in enumerate(np.linspace(0, len(table) - 1, count).round().astype(int)):
        y, x = cell // SHEET[0] * (side + 16), cell % SHEET[0] * (side + 4)
        crop = cv2.imread(str(folder / f"{k:06d}.jpg"))
        if crop is None:
            raise UserError(f"{folder / f'{k:06d}.jpg'} is not a readable picture: delete {folder}/ to make it anew")
        sheet[y + 14:y + 14 + side, x + 2:x + 2 + side] = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
        colour = {"missing": (60, 60, 255), "retained": (60, 220, 255)}.get(table["found"][k])
        if colour:
            cv2.rectangle(sheet, (x, y + 12), (x + side + 3, y + side + 15), colour, 2)
        cv2.putText(sheet, f"{table['time_s'][k]:.1f} s", (x + 3, y + 11), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (220, 220, 220), 1, cv2.LINE_AA)
    return _jpeg(sheet[:((count - 1) // SHEET[0] + 1) * (side + 16)], 90)


def summary(tables, frame_rate):
    """Text: per recording (id -> its faces.csv) how its faces were found, and which one needs a look at its contact sheet."""
    lines = [f"{'recording':20}{'frames':>8}{'detected':>10}{'tracked':>9}{'retained':>10}{'missing':>9}{'longest gap':>13}"]
    for name, table in tables.items():
        counts, found = Counter(table["found"]), table["found"].isin(HOW[1:])
        gap_s = max((len(list(run)) for face, run in itertools.groupby(found) if not face), default=0) / frame_rate
        looks = [f"{1 - found.mean():.0%} without a face"] * bool(found.mean() < 1 - LOOK_GAPS)
        looks += [f"lost and found {counts['detected']} times"] * (counts["detected"] > max(3, LOOK_LOST * len(table)))
        lines.append(f"{name:20}{len(table):8}{counts['detected']:10}{counts['tracked']:9}{counts['retained']:10}{counts['missing']:9}"
                     f"{gap_s:11.1f} s" + f"   look: {', '.join(looks)}" * bool(looks))
    return "\n".join(lines)


# ---- main -----------------------------------------------------------------------------------------------------------

@functools.lru_cache(1)  # one per process, not per recording
def finder(min_face_size, face_score, device, address=None):
    """FaceFinder on a device, or one that asks the NetServer at `address`."""
    gc.freeze()  # or it looks through all of torch again and again
    return RemoteFinder(min_face_size, face_score, address) if address else FaceFinder(min_face_size, face_score, torch_device(device))


@contextlib.contextmanager
def shared_nets(cfg, recordings):
    """Address of a NetServer, where several worker processes would each load their networks onto the same GPU; else None."""
    device = torch_device(cfg.device)
    if device.type == "cpu" or cfg.workers == 1 or recordings < 2:
        yield None
    else:
        with NetServer(FaceFinder(cfg.min_face_size, cfg.face_score, device)) as server:
            yield server.address


def make(name, report, videos, cfg, retain, address=None):
    """Crops of one recording, unless they are there: a line on it; (its faces.csv, whether anything was done)."""
    folder = cfg.crops_dir / name
    before = finished_table(folder, videos[name], cfg.frame_rate)
    if before is None:
        with one_thread():
            detect(videos[name], folder, finder(cfg.min_face_size, cfg.face_score, cfg.device, address), cfg, report)
    with claimed(folder, "finished", wait=True):  # by face_detector.py or face_detector_frameRetention.py, if both run
        table, sheet = _read_table(folder), cfg.crops_dir / f"{name}.jpg"
        new = before is None or not gaps_filled(table, retain)
        if new:
            sheet.unlink(missing_ok=True)  # it shows what is to be changed
            table = fill_gaps(folder, table, cfg.face_size, retain)
        if not sheet.exists():
            for left in (*folder.glob(".*"), *cfg.crops_dir.glob(f".{glob.escape(name)}.jpg.*")):
                left.unlink()  # by a run that was killed
            with whole_file(sheet) as part:
                part.write_bytes(contact_sheet(folder, table, cfg.face_size))
    line = f"{name}: {len(table)} frames, " + ", ".join(f"{n} {word}" for word, n in Counter(table["found"]).items())
    return line + ("" if new else f" (done before{if_newer(videos[name], folder)})"), (table, new)


def main(argv=None, script=__file__, doc=__doc__, retain=False):
    cfg = parse_config(argv, script, doc)
    videos = find_recordings([cfg.videos_dir], cfg.recordings, "put the raw videos there, one <id>.mp4 (or other) each")
    torch_device(cfg.device)  # an error now rather than for every recording
    keep_settings(cfg.crops_dir, cfg, SETTINGS)
    shard = shard_of(videos, cfg.shard)
    if not shard:
        print(f"shard {cfg.shard} holds none of the {len(videos)} recordings: nothing to do")
        return Counter()
    todo = [name for name in shard if not (cfg.crops_dir / name).exists()]
    sizes = {name: about_frames(shard[name], cfg.frame_rate) for name in todo}
    with shared_nets(cfg, len(todo)) as address:
        results = for_each(shard, functools.partial(make, videos=shard, cfg=cfg, retain=retain, address=address), sizes, cfg.workers)
    total = sum((Counter(table["found"]) for table, _ in results.values()), Counter())
    made = sum(new for _, new in results.values())
    print(summary({name: table for name, (table, _) in results.items()}, cfg.frame_rate))
    print(f"{cfg.crops_dir}: {sum(total.values())} crops of {len(results)} recordings, "
          + ", ".join(f"{n} {word}" for word, n in total.items()) + ("" if made else "; nothing to do, all were done before"))
    return total


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
