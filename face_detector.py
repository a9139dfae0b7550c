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
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Client, Listener
from typing import NamedTuple

import av
import cv2
import numpy as np
import pandas as pd
import torch
from facenet_pytorch import MTCNN
from numpy.lib.stride_tricks import sliding_window_view
from torch.nn import functional
from tqdm import tqdm

from annotations import about_frames, find_recordings, for_each, frame_count, if_newer, keep_settings, open_media, picture_clock, shard_of
from config import UserError, claimed, growing_folder, parse_config, run_script, torch_device, whole_file, write_bytes

# Where the five landmarks go in a crop of side 1: left and right eye (the viewer's), nose, left and right mouth corner.
# ArcFace's template (Deng et al., 2019), given there in pixels of a 112 px crop.
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]) / 112
PLACES = TEMPLATE @ (1, 1j)
STRIDE_WIDTHS = 1.0  # a face may move this many of its own widths from a frame to the next ...
STRIDE_S = 0.5  # ... and as far again in each half second that it was out of sight
BT601 = (2, 5, 6)  # FFmpeg's numbers for "not said" (which it takes for the same), BT.470BG and SMPTE 170M
FULL_RANGE = 2  # black is 0 and not 16
AHEAD = 8, 2  # pictures that are decoded at once while those before are looked at, and how often that many may wait
DECODERS, LARGE = 3, 1e6  # threads of FFmpeg that decode, and the pixels of a picture from which they pay: small ones wait for each other
JUMP = 0.25  # a face that goes this many distances of its eyes away from where its motion would take it may be another
SMALLEST = 0.6  # MTCNN finds faces down to this share of the smallest size that it is told to look for
STILL = 0.1  # a head is still whose landmarks move by less than this many distances of its eyes from one look to the next
GLANCE = 16  # pixels across and down a face, by which pictures are compared in between looks
SPREAD = (np.arange(GLANCE)[:, None] + 0.5) / GLANCE
UNLIKE = 0.5  # ... and look different from this share of the face's contrast on: something came before it, or it is another shot
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
PATCH = 48  # pixels, the side of what MTCNN's output network sees
BESIDE_S = 1.0  # a face beside the one followed is remembered this long: detectors miss one now and then
GONE_S = 10.0  # a person out of sight for longer is given up, and the largest face is followed from there on


def in_worker():
    """Whether this is one of several processes, of which there is one for every core: threads that help it would only be in the way."""
    return multiprocessing.parent_process() is not None


# ---- pictures -------------------------------------------------------------------------------------------------------

class Picture:
    """A decoded picture, upright and with square pixels, made into RGB no sooner and no wider than it is looked at."""

    def __init__(self, frame, aspect=1.0):
        self.frame, self.aspect, self.turns = frame, aspect, round(frame.rotation / 90)  # counter-clockwise
        self.mirrored = _is_mirrored(frame)  # top and bottom are exchanged, before it is turned
        square = aspect == 1 and not self.turns % 4 and not self.mirrored and frame.width % 2 == frame.height % 2 == 0
        self.in_parts = square and frame.format.name in ("yuv420p", "yuvj420p")
        size = frame.height, round(frame.width * aspect)
        self.height, self.width = size[::-1] if self.turns % 2 else size

    @functools.cached_property
    def rgb(self):
        """All of it: (H, W, 3)."""
        if self.in_parts:
            return self._part(0, 0, self.width, self.height)
        rgb = self.frame.to_ndarray(format="rgb24", width=round(self.frame.width * self.aspect), height=self.frame.height)
        return np.ascontiguousarray(np.rot90(rgb[::-1] if self.mirrored else rgb, self.turns))

    def region(self, x1, y1, x2, y2):
        """What of it lies in a box: RGB (h, w, 3), and the x, y of its upper left corner, whole numbers at or before x1, y1."""
        x1, y1 = (max(0, math.floor(v) // 2 * 2) for v in (x1, y1))  # even: colours are stored for 2 x 2 pixels
        x2, y2 = min(self.width, math.ceil(x2 / 2) * 2), min(self.height, math.ceil(y2 / 2) * 2)
        x1, y1 = min(x1, x2), min(y1, y2)
        whole = "rgb" in vars(self) or not self.in_parts
        return self.rgb[y1:y2, x1:x2] if whole else self._part(x1, y1, x2, y2), (x1, y1)

    def brightness(self, columns, rows):
        """How bright it is where these columns and rows cross: (rows, columns)."""
        place = rows[:, None], columns
        return _plane(self.frame.planes[0])[place] if self.in_parts else self.rgb[..., 1][place]

    def _part(self, x1, y1, x2, y2):
        height, width = y2 - y1, x2 - x1
        if not height * width:
            return np.zeros((height, width, 3), np.uint8)
        stored = np.empty((height * 3 // 2, width), np.uint8)  # I420: brightness, then each colour at half the size
        stored[:height] = _plane(self.frame.planes[0])[y1:y2, x1:x2]
        colours = stored[height:].reshape(2, height // 2, width // 2)
        for colour, plane in zip(colours, self.frame.planes[1:]):
            colour[:] = _plane(plane)[y1 // 2:y2 // 2, x1 // 2:x2 // 2]
        if self.frame.format.name == "yuv420p" and self.frame.colorspace in BT601 and self.frame.color_range != FULL_RANGE:
            return cv2.cvtColor(stored, cv2.COLOR_YUV2RGB_I420)  # thrice as fast as FFmpeg on small parts, and rounds better
        part = av.VideoFrame.from_ndarray(stored, format=self.frame.format.name)
        part.colorspace, part.color_range = self.frame.colorspace, self.frame.color_range
        return part.to_ndarray(format="rgb24")


def _is_mirrored(frame):
    """Whether a video's header says that its pictures are to be mirrored, beside being turned: the matrix (a, b, u, c, d, v, x, y, w) of
    ISO 14496-12 turns the other way round then."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist() if matrix else (1, 0, 0, 0, 1)
    return a * d - b * c < 0


def _plane(plane):
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, :plane.width]


def read_frames(video, frame_rate):
    """Yields (ks, Picture) in one pass over a video: the frames k, as a range, and the picture on show at k / frame_rate seconds.

    Pictures that no frame shows are left out. Raises UserError if they begin after their time stamps do, or end before.
    """
    clock = picture_clock(video)
    k, frames = 0, frame_count(clock.end_s, frame_rate)
    number, picture, time_s = -1, None, 0.0
    with open_media(video) as container, contextlib.closing(_decoded(container)) as pictures:
        stream = container.streams.video[0]
        early_s, aspect = _rounding_s(clock.times_s, stream), float(stream.sample_aspect_ratio or 1)
        stored_in_order = container.format.name == "avi"  # it knows a rate and no times; FFmpeg's guesses go backwards
        for following in pictures:
            time_s = following.time - clock.start_s
            if stored_in_order:
                time_s = clock.times_s[min(number + 1, len(clock.times_s) - 1)]
            if picture is None and time_s > 2 / frame_rate:
                raise UserError(f"{video} is damaged: its first {time_s:.1f} s cannot be decoded: cut them off, or replace it")
            first = k
            while picture is not None and k < frames and k / frame_rate + early_s < time_s:
                k += 1
            if k > first:
                yield range(first, k), Picture(picture, aspect)
            number, picture = number + 1, following
    if picture is None or clock.times_s[-1] - time_s > 2 / frame_rate:
        raise UserError(f"{video} is damaged: its pictures can be read up to {time_s:.1f} s of {clock.end_s:.1f} s")
    if k < frames:
        yield range(k, frames), Picture(picture, aspect)


def _rounding_s(times_s, stream):
    """How much later than it was a picture's time stamp can be, seconds: just below a tick of the clock that made the stamps.

    It was rounded by up to half of one, and so was that of the first picture, from which times are counted. Many stamps were whole
    milliseconds before they came into a file of finer ticks.
    """
    ms = times_s * 1000
    whole = np.abs(ms - ms.round()).max() < 1e-4
    return 0.999 * (0.001 if whole else min(0.001, float(stream.time_base)))


def _decoded(container):
    """Yields the pictures of a video. Unless this is a worker, a thread decodes the next ones while one is looked at."""
    stream = container.streams.video[0]
    alone = not in_worker()
    stream.thread_type, stream.thread_count = "AUTO", DECODERS if alone and stream.width * stream.height > LARGE else 1
    pictures = _readable(container.decode(stream))
    if not alone:
        yield from pictures
        return
    at_once, waiting = AHEAD
    with ThreadPoolExecutor(1) as thread:  # some at a time: what wakes a thread for each picture costs more than it saves
        def following():
            return thread.submit(lambda: list(itertools.islice(pictures, at_once)))
        groups = deque(following() for _ in range(waiting))
        while group := groups.popleft().result():
            groups.append(following())
            yield from group


def _readable(pictures):
    """Those before the first that cannot be decoded: read_frames knows how many there should be."""
    with contextlib.suppress(av.error.FFmpegError):
        yield from pictures


# ---- faces ----------------------------------------------------------------------------------------------------------

def alignment(points):
    """Similarity transform from five landmarks to TEMPLATE in the least-squares sense (Umeyama, 1991): (5, 2) -> (2, 3)."""
    return _matrix(*_similarity(points))


def _similarity(points):
    """The same with points as complex numbers: a, b of the line w = a z + b, which is never a mirror."""
    z = np.asarray(points, float) @ (1, 1j)
    middle = z.sum() / len(z)
    from_middle = z - middle
    a = np.vdot(from_middle, PLACES) / np.vdot(from_middle, from_middle).real
    return complex(a), complex(PLACES.sum() / len(z) - a * middle)


def _matrix(a, b):
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def crop_face(picture, points, size):
    """The face with its landmarks on TEMPLATE, black where the picture ends: Picture, (5, 2) -> (size, size, 3)."""
    a, b = (size * number for number in _similarity(points))
    at = (size * (0.5 + 0.5j) - b) / a  # the crop's middle in the picture
    reach = size / 2 * (abs(a.real) + abs(a.imag)) / abs(a)**2 + 2  # from there to its furthest corner, and 2 for the interpolation
    rgb, corner = picture.region(at.real - reach, at.imag - reach, at.real + reach, at.imag + reach)
    if not rgb.size:
        return np.zeros((size, size, 3), np.uint8)
    shrink = max(1, math.floor(1 / abs(a)))  # in two steps, or fine detail turns into noise
    a, b = a * shrink, b + a * complex(*corner)
    b += (a - 1) * (0.5 + 0.5j)  # OpenCV puts 0, 0 into the middle of the first pixel; the formulas here put it at its corner
    rgba = cv2.cvtColor(_shrunk(rgb, shrink), cv2.COLOR_RGB2RGBA)  # four channels are moved in half the time that three take
    return cv2.cvtColor(cv2.warpAffine(rgba, _matrix(a, b), (size, size), flags=cv2.INTER_LINEAR), cv2.COLOR_RGBA2RGB)


def _shrunk(rgb, shrink):
    """The picture at 1 / `shrink` of its size, its last row and column repeated to a multiple of it; as it is if that is less than 2."""
    if shrink < 2:
        return rgb
    rgb = cv2.copyMakeBorder(rgb, 0, -rgb.shape[0] % shrink, 0, -rgb.shape[1] % shrink, cv2.BORDER_REPLICATE)
    return cv2.resize(rgb, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)


class FaceFinder:
    """All faces in a picture, by facenet-pytorch's MTCNN (Zhang et al., 2016); its weights come with the package."""

    def __init__(self, min_face_size, face_score, device):
        mtcnn = MTCNN(keep_all=True, min_face_size=min_face_size, device=device)
        self.mtcnn = mtcnn.to(memory_format=torch.channels_last)  # half as fast again on a CPU: pooling likes it
        self.face_score, self.min_face_size = face_score, min_face_size
        heads = self.mtcnn.onet.dense6_1, self.mtcnn.onet.dense6_2, self.mtcnn.onet.dense6_3
        self.heads = [torch.cat([getattr(head, part).detach() for head in heads]) for part in ("weight", "bias")]

    def __call__(self, rgb):
        """(H, W, 3) -> boxes (n, 4) as x1, y1, x2, y2, landmarks (n, 5, 2), scores (n,); pixels of the picture."""
        if min(rgb.shape[:2]) < self.min_face_size:  # MTCNN fails on these; no face of that size fits in
            return np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0)
        boxes, scores, points = self.mtcnn.detect(rgb, landmarks=True)
        if boxes is None:
            return np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0)
        boxes, scores, points = (np.asarray(values, float) for values in (boxes, scores, points))
        good = scores >= self.face_score
        return boxes[good], points[good], scores[good]

    def refine(self, picture, box):
        """The face whose box was `box` a moment ago, by MTCNN's output network alone: Face, or None where it sees none.

        What it is given is what MTCNN gives it: the square around the box, less what lies outside the picture.
        """
        x, y, side = _square(box, 0.95)  # its own boxes are that much wider than those it is given in MTCNN
        x1, y1, x2, y2 = max(int(x), 1) - 1, max(int(y), 1) - 1, min(int(x + side), picture.width), min(int(y + side), picture.height)
        if x2 - x1 < 2 or y2 - y1 < 2:
            return None
        rgb, (left, top) = picture.region(x1, y1, x2, y2)
        rgb = _shrunk(rgb[y1 - top:y2 - top, x1 - left:x2 - left], int(side / PATCH / 2))  # by whole pixels first, which is quick
        patch = cv2.resize(rgb, (PATCH, PATCH), interpolation=cv2.INTER_AREA)
        score, *found = self.output_net(patch[None])[0].tolist()
        if score < self.face_score:
            return None
        moved, places = np.reshape(found[:4], (2, 2)), np.reshape(found[4:], (2, 5)).T
        corners = np.array([[x, y], [x + side, y + side]])
        return Face((corners + (side + 1) * moved).ravel(), corners[0] - 1 + (side + 1) * places, score)

    def output_net(self, patches):
        """What MTCNN's output network makes of (n, 48, 48, 3) uint8: (n, 15), score, how far the box moves, landmarks (x of all, then y)."""
        net = self.mtcnn.onet
        with torch.inference_mode():  # its forward, layer by layer: without the calls of modules a fifth faster
            x = (torch.from_numpy(patches).to(self.mtcnn.device).permute(0, 3, 1, 2).float() - 127.5) / 128  # channels last, as the net
            for conv, prelu, size in ((net.conv1, net.prelu1, 3), (net.conv2, net.prelu2, 3), (net.conv3, net.prelu3, 2)):
                x = functional.max_pool2d(functional.prelu(functional.conv2d(x, conv.weight, conv.bias), prelu.weight), size, 2, ceil_mode=True)
            x = functional.prelu(functional.conv2d(x, net.conv4.weight, net.conv4.bias), net.prelu4.weight)
            x = functional.linear(x.permute(0, 3, 2, 1).flatten(1), net.dense5.weight, net.dense5.bias)
            found = functional.linear(functional.prelu(x, net.prelu5.weight), *self.heads).double().cpu().numpy()
        found[:, 1] = 1 / (1 + np.exp(found[:, 0] - found[:, 1]))  # softmax of two
        return found[:, 1:]


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


def _square(box, scale):
    """x, y, side of the square of `scale` times the longer side around the middle of a box."""
    x1, y1, x2, y2 = box.tolist()
    side = scale * max(x2 - x1, y2 - y1)
    return (x1 + x2 - side) / 2, (y1 + y2 - side) / 2, side


class Face(NamedTuple):
    """A face in a picture, in its pixels."""
    box: np.ndarray  # (4,)
    points: np.ndarray  # (5, 2) landmarks, in the order of TEMPLATE
    score: float


class Seen(NamedTuple):
    """Where and when somebody's face was seen last."""
    box: np.ndarray  # (4,)
    time_s: float


@contextlib.contextmanager
def one_thread():
    """Torch and OpenCV on one thread meanwhile: what they do here is too small to gain from more, which wait for each other."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


class Follower:
    """Chooses the face of the same person from frame to frame: first the largest, then the nearest within reach.

    A face seen beside it is somebody else's, and not taken for it while it is out of sight.
    """

    def __init__(self):
        self.people = []  # Seen of everybody, the person followed first

    def choose(self, boxes, time_s):
        """Row of `boxes` (n, 4) to follow, or None."""
        if self.people and time_s - self.people[0].time_s > GONE_S:
            self.people = []
        if not self.people and len(boxes):
            self.people = [Seen(boxes[np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).argmax()], time_s)]
        rows = self._match(boxes, time_s)
        for person, row in rows.items():
            self.people[person] = Seen(boxes[row], time_s)
        if 0 in rows:  # else a face that nobody claims may be the one followed, come back elsewhere
            self.people += [Seen(box, time_s) for box in boxes if min(_widths_apart(boxes[list(rows.values())], box)) > 0.5]
        self.people = [one for one in self.people if one is self.people[0] or time_s - one.time_s <= BESIDE_S]
        return rows.get(0)

    def moved(self, box, time_s):
        """The person followed was seen at `box`, by one who looked at nobody else."""
        self.people[0] = Seen(box, time_s)

    def _match(self, boxes, time_s):
        """Person -> row of `boxes`: the nearest pairs first, each face at most one person's."""
        pairs, rows = [], {}
        for person, (box, seen_s) in enumerate(self.people):
            away, lost = _widths_apart(boxes, box), (time_s - seen_s) / STRIDE_S
            pairs += [(away[row] + lost, person, row) for row in np.flatnonzero(away <= STRIDE_WIDTHS * (1 + lost))]
        for _, person, row in sorted(pairs):
            if person not in rows and row not in rows.values():
                rows[person] = int(row)
        return rows


def _widths_apart(boxes, box):
    """How far each of `boxes` (n, 4) is from `box`, in widths of it; twice or half as wide counts as one width: (n,)."""
    width = box[2] - box[0]
    moved = np.hypot(*(boxes[:, :2] + boxes[:, 2:] - box[:2] - box[2:]).T / 2) / width
    return np.maximum(moved, np.abs(np.log2((boxes[:, 2] - boxes[:, 0]) / width)))


class Tracker:
    """The same person's face from picture to picture: MTCNN's output network on where it was, all of MTCNN where that fails."""

    def __init__(self, find):
        self.find, self.follower = find, Follower()
        self.face = self.motion = self.before = None  # Face in the picture before, and how it got there, if known; (that picture, its time)

    def __call__(self, pictures, times_s):
        """[(Face, "detected" or "tracked"), or (None, "missing") where the person followed is not in sight] of pictures in order.

        Where the face has hardly moved until the last of them, or has gone on as it went before, it is not looked for in those
        before, if they look alike: it lies in between. Where there was none and nobody is in the last of them, nobody was in those
        before. Else each half of them is taken by itself.
        """
        if len(pictures) == 1:
            return [self._look(pictures[0], times_s[0])]
        last = self._track(pictures[-1], len(pictures))
        if last and min(_moved(self.face, last), _moved(self._ahead(len(pictures)), last)) < STILL:
            faces = _between(self.face, last, len(pictures))
            if self._alike(pictures, faces):
                self.follower.moved(last.box, times_s[-1])
                for picture, time_s, face in zip(pictures, times_s, faces):
                    self.skip(picture, time_s, face)
                return [(face, "tracked") for face in faces]
        if not self.face and not len(self.find(pictures[-1].rgb)[0]):
            self.skip(pictures[-1], times_s[-1], None)
            return [(None, "missing")] * len(pictures)
        half = len(pictures) // 2
        return self(pictures[:half], times_s[:half]) + self(pictures[half:], times_s[half:])

    def skip(self, picture, time_s, face):
        """Goes on from `picture`, in which `face` is known."""
        self.motion = face.points - self.face.points if face and self.face else None
        self.face, self.before = face, (picture, time_s)

    def _alike(self, pictures, faces):
        """Whether the face looks in every picture as it did in the one before them, or as it does in the last."""
        seen = _glances([self.before[0], *pictures], [self.face, *faces])
        apart = np.minimum(*(np.abs(seen[1:-1] - seen[end]).mean(1) for end in (0, -1)))
        return apart.max() < UNLIKE * seen[0].std()

    def _look(self, picture, time_s):
        face, how = self._track(picture), "tracked"
        if face:
            self.follower.moved(face.box, time_s)
        else:
            face, how = self._search(picture, time_s)
        self.skip(picture, time_s, face)
        return face, how

    def _ahead(self, pictures=1):
        """The Face if it goes on as it went until now."""
        if self.motion is None:
            return self.face
        motion = pictures * self.motion
        return Face(self.face.box + np.concatenate([motion.mean(0)] * 2), self.face.points + motion, self.face.score)

    def _track(self, picture, pictures=1):
        """The Face that was there a moment, or some pictures, ago; None where there is none, or perhaps another that came in front."""
        if not self.face:
            return None
        ahead, fast = self._ahead(pictures), _moved(self.face, self._ahead()) > STILL  # what is slower is hardly told from noise
        face = self.find.refine(picture, (ahead if fast else self.face).box)
        if not face or max(face.box[2:] - face.box[:2]) < SMALLEST * self.find.min_face_size:
            return None
        return None if self.motion is not None and _moved(ahead, face) > JUMP * pictures else face

    def _search(self, picture, time_s):
        if self.face:  # nobody looked who else is there: they are not to be taken for the one followed
            seen = self.find(self.before[0].rgb)[0]
            if not (_widths_apart(seen, self.face.box) <= STRIDE_WIDTHS).any():  # MTCNN does not see the one who was tracked
                seen = np.concatenate([self.face.box[None], seen])
            self.follower.choose(seen, self.before[1])
        boxes, points, scores = self.find(picture.rgb)
        chosen = self.follower.choose(boxes, time_s)
        if chosen is None:
            return None, "missing"
        return Face(boxes[chosen], points[chosen], float(scores[chosen])), "detected"


def _moved(before, face):
    """How far the landmarks of a Face went, on average, in distances of its eyes."""
    return np.hypot(*(face.points - before.points).T).sum() / len(TEMPLATE) / math.hypot(*(before.points[1] - before.points[0]))


def _between(face, last, pictures):
    """Faces of so many pictures on the way from one Face to another, which is that of the last of them."""
    shares = np.arange(1, pictures + 1) / pictures
    parts = (np.multiply.outer(1 - shares, a) + np.multiply.outer(shares, b) for a, b in zip(face, last))
    return [Face(*each) for each in zip(*parts)]


def _glances(pictures, faces):
    """Brightness of a few pixels of each picture, spread over the box of its Face: (n, GLANCE * GLANCE)."""
    boxes = np.array([face.box for face in faces])[:, None]
    places = boxes[..., :2] + (boxes[..., 2:] - boxes[..., :2]) * SPREAD  # (n, GLANCE, 2)
    sizes = np.array([[picture.width, picture.height] for picture in pictures])[:, None]
    places = places.clip(0, sizes - 1).astype(int)
    return np.array([picture.brightness(*place.T) for picture, place in zip(pictures, places)], np.int16).reshape(len(pictures), -1)


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
