"""A camera, live in a window, with everything that overlay.py draws into a video.

    python predict.py data/runs/student_both_pseudo/best.pt --camera 0

Frame k of the network shows the newest picture at that time. When the work takes longer than a frame lasts, frames are
dropped and counted, never queued: the GRU's state goes on with the next. (With clip_stride n frame k goes on from frame
k - n, or if that was dropped, from the last one before it.) The window says how old a picture is when it is shown.
Landmarks are not averaged over time as in files, because the pictures that follow are not known yet.
"""
import os
import subprocess
import sys
import threading
import time
from collections import deque
from typing import NamedTuple

import av
import numpy as np

from face_detector import finder
from faces import Tracker, crop_face, one_thread
from overlay import LIMITS, WINDOW_S, Overlay, Track, limit_of
from postprocessing import PRIOR_S
from support.errors import SettingsError, UserError
from support.media import Picture
from support.opencv import cv2
from tracks import People

TITLE = "MMPKD: q or Esc ends"
ESCAPE = 27  # key code
WAIT_S = 10.0  # for a picture: cameras take seconds to start


class Session(NamedTuple):
    """What became of the frames, up to now."""
    shown: int
    dropped: int
    delay_s: float  # from when the last picture was taken until it was shown


def run(network, source, people="largest", device="", show=None, level="raw"):
    """Predicts the faces in front of a camera until q or Esc is pressed: a Session.

    network: a Network of inference.py; source: number of the camera, or a recording in its place, played at its own
    rate; people, device, level: as in predict.py, but for the level "recording"; show(rgb): whether to go on, in place
    of a window. Raises UserError if there is no such camera, or no display, SettingsError if the network is not
    visual-only.
    """
    if tuple(network.inputs) != ("frames",):
        raise SettingsError("camera: a visual-only network was expected, because a camera has no sound; "
                            f"this one is fed {' and '.join(network.inputs)}")
    newest, faces = Newest(source), network.card["faces"]
    show = show or Window()
    live = Live(network, people, finder(faces["min_face_size"], faces["face_score"], device), level)
    with newest:
        return _show_all(newest, live, network.card["frame_rate"], show)


def _show_all(newest, live, frame_rate, show):
    """Paints and shows frame after frame until `show` returns False, or a recording ends: a Session."""
    session, recent = Session(0, 0, np.nan), deque(maxlen=round(2 * frame_rate) + 1)
    newest.picture()  # waits until the camera has started
    start_s, k = time.monotonic(), -1
    while True:
        due = next_frame(k, (time.monotonic() - start_s) * frame_rate)
        time.sleep(max(0.0, start_s + due / frame_rate - time.monotonic()))
        taken = newest.picture()
        if taken is None:
            return session
        rgb, taken_s = taken
        session, k = session._replace(dropped=session.dropped + due - k - 1), due
        going_on = show(live.paint(rgb, k / frame_rate, _note(session, recent)))
        recent.append(time.monotonic())
        session = session._replace(shown=session.shown + 1, delay_s=recent[-1] - taken_s)
        if not going_on:
            return session


def next_frame(k, now):
    """The frame after k to show, if frame `now` (a fraction) would be on show: those that have passed are dropped."""
    return max(k + 1, int(now))


def _note(session, recent):
    """The line in the window."""
    delay = f"delay {1000 * session.delay_s:.0f} ms" if session.shown else "delay –"
    rate = f"{(len(recent) - 1) / (recent[-1] - recent[0]):.1f} frames/s" if len(recent) > 1 else "– frames/s"
    return f"{delay}, {rate}, {session.dropped} dropped"


# ---- the pictures ---------------------------------------------------------------------------------------------------

class Newest:
    """The newest picture of a camera. A thread reads all of them, and keeps the last."""

    def __init__(self, source):
        """source: number of a camera, or the path of a recording, which is played at its own rate."""
        self.source = int(source) if str(source).isdigit() else str(source)
        self.live = isinstance(self.source, int)
        self.name = f"camera {source}" if self.live else str(source)
        self.capture = _opened(self.source)
        if not self.capture.isOpened():
            what = ("connect one, close the programs that use it, or give another number" if self.live
                    else "the number of a camera or a video was expected")
            raise UserError(f"{self.name} cannot be opened: {what}")
        self.newest, self.count = None, 0  # (RGB, when it was taken); pictures so far
        self.stopped, self.changed = False, threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        with self.changed:
            self.stopped = True
        self.thread.join()
        self.capture.release()

    def _read(self):
        step_s = 0 if self.live else 1 / (self.capture.get(cv2.CAP_PROP_FPS) or 25)
        start_s = time.monotonic()
        while not self.stopped:
            there, bgr = self.capture.read()
            if not self.live:
                time.sleep(max(0.0, start_s + self.count * step_s - time.monotonic()))
            with self.changed:
                self.newest = (bgr, time.monotonic()) if there else None
                self.count, self.stopped = self.count + there, self.stopped or not there
                self.changed.notify_all()

    def picture(self):
        """(RGB, when it was taken) of the newest picture; None after the end of a recording.

        Raises UserError if the camera gives no pictures, or no more.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.newest or self.stopped, WAIT_S)
            if self.newest:
                return self.newest[0][..., ::-1], self.newest[1]
            if self.live:
                raise UserError(f"{self.name} gives no pictures{' any more' * bool(self.count)}: check that it is "
                                "connected and that no other program uses it")
        return None


def _opened(source):
    """OpenCV's capture; without its messages, because there is an error if it fails."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(source)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # or some cameras' drivers queue pictures
        return capture
    finally:
        cv2.utils.logging.setLogLevel(level)


# ---- the work -------------------------------------------------------------------------------------------------------

class Live:
    """Predicts and paints one picture after the other, with a state for each person."""

    def __init__(self, network, people, find, level="raw"):
        self.network, self.faces, self.several = network, network.card["faces"], people == "all"
        self.follow = People(find, self.faces["look_every"]) if self.several else _one(Tracker(find))
        self.states, self.crops = {}, {}  # {id: (frame, state after it) of the last frames}, {id: last face crop}
        self.rows = {}  # {id: rows (time, predictions, box) of the last seconds}
        self.sums = {}  # {id: (sum of the predictions (K,), their number) up to now}
        self.means = level == "causal" and [network.card["ratings"][target]["mean"] for target in network.targets]
        self.overlay, self.limit = None, LIMITS[2]

    def paint(self, rgb, time_s, note):
        """The picture (H, W, 3) at `time_s` with everything drawn in."""
        picture = Picture(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"))
        with one_thread():
            [looks] = self.follow([picture], [time_s])
        there = {number for number, _, _ in looks}
        for kept in (self.states, self.crops, self.rows, self.sums):  # who was given up is forgotten
            for number in kept.keys() - there:
                del kept[number]
        for number, face, _ in looks:
            self._add(number, picture, face, time_s)
        tracks = {number: _track(rows) for number, rows in self.rows.items()}
        limit = max(self.limit, limit_of(tracks))
        if not self.overlay or limit > self.limit:
            size = picture.width, picture.height
            self.overlay, self.limit = Overlay(size, self.network.targets, limit, several=self.several), limit
        return self.overlay.paint(picture.rgb, tracks, note)

    def _add(self, number, picture, face, time_s):
        """The next row of a person."""
        preds, box = self._predict(number, picture, face, time_s), np.full(4, np.nan)
        if face:
            preds, box = self._level(number, preds), face.box
        else:
            preds = np.full(len(self.network.targets), np.nan)
        rows = self.rows.setdefault(number, deque())
        rows.append((time_s, preds, box))
        while rows[0][0] < time_s - WINDOW_S[1] - 1:
            rows.popleft()

    def _level(self, number, preds):
        """postprocessing.relevel() of a person's predictions (K,), of which the next ones are not known yet."""
        if not self.means:
            return preds
        assumed = PRIOR_S * self.network.card["frame_rate"]
        before, count = self.sums.get(number, (assumed * np.asarray(self.means), assumed))
        self.sums[number] = total, count = before + np.asarray(preds, float), count + 1
        return preds - total / count + self.means

    def _predict(self, number, picture, face, time_s):
        """The network's predictions (K,) for a person; without a face of black or the last face, as in training."""
        size = self.faces["face_size"]
        if face:
            self.crops[number] = crop = crop_face(picture, face.points, size)
        elif self.faces["retained"]:
            crop = self.crops.get(number)
        else:
            crop = np.zeros((size, size, 3), np.uint8)
        if crop is None:
            return None
        states, k = self.states.setdefault(number, deque()), round(time_s * self.network.card["frame_rate"])
        last = k - self.network.card["clip_stride"]
        while len(states) > 1 and states[1][0] <= last:
            states.popleft()
        before = states[0][1] if states and states[0][0] <= last else None
        preds, state = self.network(crop.transpose(2, 0, 1)[None], None, before)
        states.append((k, state))
        return preds[0]


def _one(tracker):
    """A Tracker in the form of People: of one person, whose id is 1."""
    return lambda pictures, times_s: [[(1, *look)] for look in tracker(pictures, times_s)]


def _track(rows):
    times_s, preds, boxes = zip(*rows)
    return Track(np.array(times_s), np.array(preds, float), np.array(boxes, float))


# ---- the window -----------------------------------------------------------------------------------------------------

class Window:
    """A window that shows pictures until it is closed, or q or Esc is pressed."""

    def __init__(self):
        """Raises UserError if there can be no window."""
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")  # of fonts, which are not needed here
        trial = "import cv2; cv2.namedWindow('trial'); cv2.waitKey(1)"  # Qt ends the process where there is no display
        if subprocess.run([sys.executable, "-c", trial], capture_output=True).returncode:
            raise UserError("no window can be opened here: there is no display, or OpenCV is without windows "
                            "(opencv-python-headless): run this at a screen, with opencv-python")
        cv2.namedWindow(TITLE, cv2.WINDOW_AUTOSIZE)

    def __call__(self, rgb):
        cv2.imshow(TITLE, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1) & 0xFF
        return key not in (ord("q"), ESCAPE) and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) >= 1
