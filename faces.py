"""Finds, follows and aligns a face: MTCNN where it is new, only its output network where it was a moment ago.

A recording is of one person, the *subject*: the largest face at first, and then the same person's. FaceFinder finds all
faces in a picture, Follower chooses the subject's, Tracker saves most of the searches while the head is still, and
crop_face cuts the face out, upright.

Boxes are x1, y1, x2, y2, landmarks (5, 2), both in pixels of the video. A picture is a Picture of support/media.py.
"""
import contextlib
import math
from typing import NamedTuple

import numpy as np

from support.opencv import cv2

# Where the five landmarks go in a crop of side 1: left and right eye (as the viewer sees them), nose, left and right
# corner of the mouth. ArcFace's template (Deng et al., 2019), given there in pixels of a 112 px crop.
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366],
                     [41.5493, 92.3655], [70.7299, 92.2041]]) / 112
PLACES = TEMPLATE @ (1, 1j)  # the same as complex numbers


class Face(NamedTuple):
    """A face in a picture."""
    box: np.ndarray  # (4,)
    points: np.ndarray  # (5, 2) landmarks, in the order of TEMPLATE
    score: float


# ---- the crop -------------------------------------------------------------------------------------------------------

def alignment(points):
    """Least-squares similarity transform from five landmarks to TEMPLATE (Umeyama, 1991): (5, 2) -> (2, 3)."""
    return _matrix(*_similarity(points))


def _similarity(points):
    """The same as complex numbers: a, b of w = a z + b for landmarks z = x + iy. It can turn, but not mirror."""
    z = np.asarray(points, float) @ (1, 1j)
    middle = z.sum() / len(z)
    from_middle = z - middle
    a = np.vdot(from_middle, PLACES) / np.vdot(from_middle, from_middle).real
    return complex(a), complex(PLACES.sum() / len(z) - a * middle)


def _matrix(a, b):
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def crop_face(picture, points, size):
    """The face with its landmarks on TEMPLATE, black outside the picture: Picture, (5, 2) -> (size, size, 3)."""
    a, b = (size * number for number in _similarity(points))
    at = (size * (0.5 + 0.5j) - b) / a  # the crop's middle in the picture
    reach = size / 2 * (abs(a.real) + abs(a.imag)) / abs(a)**2 + 2  # to its furthest corner, + 2 for interpolation
    rgb, corner = picture.region(at.real - reach, at.imag - reach, at.real + reach, at.imag + reach)
    if not rgb.size:
        return np.zeros((size, size, 3), np.uint8)
    shrink = max(1, math.floor(1 / abs(a)))  # in two steps, because fine detail would turn into noise in one
    a, b = a * shrink, b + a * complex(*corner)
    b += (a - 1) * (0.5 + 0.5j)  # 0, 0 is the middle of the first pixel in OpenCV, and its corner in the formulas here
    rgba = cv2.cvtColor(_shrunk(rgb, shrink), cv2.COLOR_RGB2RGBA)  # four channels are warped in half the time of three
    warped = cv2.warpAffine(rgba, _matrix(a, b), (size, size), flags=cv2.INTER_LINEAR)
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)


def _shrunk(rgb, shrink):
    """The image at 1 / `shrink` of its size, the last row and column repeated to a multiple; as it is below 2."""
    if shrink < 2:
        return rgb
    rgb = cv2.copyMakeBorder(rgb, 0, -rgb.shape[0] % shrink, 0, -rgb.shape[1] % shrink, cv2.BORDER_REPLICATE)
    return cv2.resize(rgb, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)


# ---- find: all faces in a picture -----------------------------------------------------------------------------------

PATCH = 48  # pixels, side of the input of MTCNN's output network


class FaceFinder:
    """All faces in a picture, by facenet-pytorch's MTCNN (Zhang et al., 2016); its weights come with the package."""

    def __init__(self, min_face_size, face_score, device):
        import torch  # here and below: a script that finds no faces, or only prints --help, starts seconds faster ...
        from facenet_pytorch import MTCNN  # ... and this imports torchvision, too
        mtcnn = MTCNN(keep_all=True, min_face_size=min_face_size, device=device)
        self.mtcnn = mtcnn.to(memory_format=torch.channels_last)  # half as fast again on a CPU, because of the pooling
        self.face_score, self.min_face_size = face_score, min_face_size
        heads = self.mtcnn.onet.dense6_1, self.mtcnn.onet.dense6_2, self.mtcnn.onet.dense6_3
        self.heads = [torch.cat([getattr(head, part).detach() for head in heads]) for part in ("weight", "bias")]

    def __call__(self, rgb):
        """(H, W, 3) -> boxes (n, 4), landmarks (n, 5, 2), scores (n,)."""
        if min(rgb.shape[:2]) < self.min_face_size:  # no face of that size fits in, and MTCNN raises an error
            return np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0)
        boxes, scores, points = self.mtcnn.detect(rgb, landmarks=True)
        if boxes is None:
            return np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0)
        boxes, scores, points = (np.asarray(values, float) for values in (boxes, scores, points))
        good = scores >= self.face_score
        return boxes[good], points[good], scores[good]

    def refine(self, picture, box):
        """The Face whose box was `box` a moment ago, by MTCNN's output network alone; None if it sees none.

        Its input is the same as within MTCNN: the square around the box, less what lies outside the picture.
        """
        x, y, side = _square(box, 0.95)  # the boxes that come out are that much wider than those that go in
        x1, y1 = max(int(x), 1) - 1, max(int(y), 1) - 1
        x2, y2 = min(int(x + side), picture.width), min(int(y + side), picture.height)
        if x2 - x1 < 2 or y2 - y1 < 2:
            return None
        rgb, (left, top) = picture.region(x1, y1, x2, y2)
        rgb = _shrunk(rgb[y1 - top:y2 - top, x1 - left:x2 - left], int(side / PATCH / 2))  # by whole pixels first: fast
        patch = cv2.resize(rgb, (PATCH, PATCH), interpolation=cv2.INTER_AREA)
        score, *found = self.output_net(patch[None])[0].tolist()
        if score < self.face_score:
            return None
        offsets, places = np.reshape(found[:4], (2, 2)), np.reshape(found[4:], (2, 5)).T
        corners = np.array([[x, y], [x + side, y + side]])
        return Face((corners + (side + 1) * offsets).ravel(), corners[0] - 1 + (side + 1) * places, score)

    def output_net(self, patches):
        """MTCNN's output network: (n, 48, 48, 3) uint8 -> (n, 15): score, 4 box offsets, landmarks (5 x, 5 y)."""
        import torch
        from torch.nn import functional as F
        net = self.mtcnn.onet
        layers = (net.conv1, net.prelu1, 3), (net.conv2, net.prelu2, 3), (net.conv3, net.prelu3, 2)
        with torch.inference_mode():  # its forward, layer by layer: a fifth faster without the calls of modules
            x = torch.from_numpy(patches).to(self.mtcnn.device).permute(0, 3, 1, 2)  # channels last, as the network
            x = (x.float() - 127.5) / 128
            for conv, prelu, size in layers:
                x = F.prelu(F.conv2d(x, conv.weight, conv.bias), prelu.weight)
                x = F.max_pool2d(x, size, 2, ceil_mode=True)
            x = F.prelu(F.conv2d(x, net.conv4.weight, net.conv4.bias), net.prelu4.weight)
            x = F.linear(x.permute(0, 3, 2, 1).flatten(1), net.dense5.weight, net.dense5.bias)
            found = F.linear(F.prelu(x, net.prelu5.weight), *self.heads).double().cpu().numpy()
        found[:, 1] = 1 / (1 + np.exp(found[:, 0] - found[:, 1]))  # softmax of two
        return found[:, 1:]


def _square(box, scale):
    """x, y, side of the square of `scale` times the longer side around the middle of a box."""
    x1, y1, x2, y2 = box.tolist()
    side = scale * max(x2 - x1, y2 - y1)
    return (x1 + x2 - side) / 2, (y1 + y2 - side) / 2, side


@contextlib.contextmanager
def one_thread():
    """Torch and OpenCV use one thread inside the block: the networks here are too small to gain from more."""
    import torch
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


# ---- follow: which face is the subject's ----------------------------------------------------------------------------

STRIDE_WIDTHS = 1.0  # a face may move this many of its own widths from one picture to the next ...
STRIDE_S = 0.5  # ... and as far again for each half second that it was out of sight
BESIDE_S = 1.0  # other people's faces are remembered this long, because detectors miss some frames
GONE_S = 10.0  # a subject out of sight for longer is given up: the largest face is the subject from then on


class Seen(NamedTuple):
    """Where and when a person's face was seen last."""
    box: np.ndarray  # (4,)
    time_s: float


class Follower:
    """Chooses the subject's face in picture after picture: the largest at first, then the nearest within reach.

    Faces seen beside the subject's are other people's, and are not mistaken for it while the subject is out of sight.
    Of two subjects of one video the left or right one is chosen, as soon as both are seen.
    """

    def __init__(self, side=""):
        """side: "left" or "right" of the two largest faces; "": the largest."""
        self.people, self.side = [], side  # Seen, the subject first

    def choose(self, boxes, time_s):
        """Row of `boxes` (n, 4) that is the subject's face, or None."""
        if self.people and time_s - self.people[0].time_s > GONE_S:
            self.people = []
        if not self.people and len(boxes) > bool(self.side):
            self.people = [Seen(self._first(boxes), time_s)]
        rows = self._match(boxes, time_s)
        for person, row in rows.items():
            self.people[person] = Seen(boxes[row], time_s)
        if 0 in rows:  # if not, an unmatched face may be the subject's, who came back elsewhere
            known = boxes[list(rows.values())]
            self.people += [Seen(box, time_s) for box in boxes if min(_widths_apart(known, box)) > 0.5]
        self.people = [one for one in self.people if one is self.people[0] or time_s - one.time_s <= BESIDE_S]
        return rows.get(0)

    def _first(self, boxes):
        """That of `boxes` (n, 4) which is the subject's face at first sight."""
        largest = boxes[(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).argsort(kind="stable")]
        left, right = sorted(largest[:2], key=lambda box: box[0] + box[2]) if self.side else (largest[0],) * 2
        return right if self.side == "right" else left

    def update(self, box, time_s):
        """Notes where the subject's face was, found without a search for other faces."""
        self.people[0] = Seen(box, time_s)

    def _match(self, boxes, time_s):
        """{person: row of `boxes`}: the nearest pairs first, each face at most one person's."""
        pairs, rows = [], {}
        for person, (box, seen_s) in enumerate(self.people):
            away, lost = _widths_apart(boxes, box), (time_s - seen_s) / STRIDE_S
            pairs += [(away[row] + lost, person, row) for row in np.flatnonzero(away <= STRIDE_WIDTHS * (1 + lost))]
        for _, person, row in sorted(pairs):
            if person not in rows and row not in rows.values():
                rows[person] = int(row)
        return rows


def _widths_apart(boxes, box):
    """Distance of each of `boxes` (n, 4) from `box`, in widths of it; half or double the width counts as one: (n,)."""
    width = box[2] - box[0]
    moved = np.hypot(*(boxes[:, :2] + boxes[:, 2:] - box[:2] - box[2:]).T / 2) / width
    return np.maximum(moved, np.abs(np.log2((boxes[:, 2] - boxes[:, 0]) / width)))


# ---- track: a search only where the face was lost -------------------------------------------------------------------

# Movements are mean distances of the landmarks, in distances between the eyes.
STILL = 0.1  # the head is still if it moves by less from one detection to the next
JUMP = 0.25  # a face that far from where its motion would take it may be another person's
SMALLEST = 0.6  # MTCNN finds faces down to this share of the smallest size that it is set to
GRID = 16  # samples across and down a face, by which pictures are compared
SPREAD = (np.arange(GRID)[:, None] + 0.5) / GRID
CHANGED = 0.5  # share of its contrast by which a face must change to look different: it is covered, or there was a cut


class Tracker:
    """The subject's face in picture after picture: MTCNN's output network where it was, all of MTCNN if that fails."""

    def __init__(self, find, side=""):
        self.find, self.follower = find, Follower(side)
        self.face = self.motion = None  # Face in the last picture, and how its landmarks moved since the one before
        self.last = None  # (the last picture, its time)

    def __call__(self, pictures, times_s):
        """[(Face, "detected" or "tracked"), or (None, "missing") if the subject is out of sight] of pictures in a row.

        The last one is looked at first. If the face has hardly moved until then, or moved on as before, and looks alike
        in the pictures between, it is interpolated there. If there was no face before and there is none in the last,
        there is none between. Otherwise each half of the pictures is done by itself.
        """
        if len(pictures) == 1:
            return [self._look(pictures[0], times_s[0])]
        last = self._track(pictures[-1], len(pictures))
        if last and min(_moved(self.face, last), _moved(self._predicted(len(pictures)), last)) < STILL:
            faces = _interpolated(self.face, last, len(pictures))
            if self._looks_alike(pictures, faces):
                self.follower.update(last.box, times_s[-1])
                for picture, time_s, face in zip(pictures, times_s, faces):
                    self.advance(picture, time_s, face)
                return [(face, "tracked") for face in faces]
        if not self.face and not len(self.find(pictures[-1].rgb)[0]):
            self.advance(pictures[-1], times_s[-1], None)
            return [(None, "missing")] * len(pictures)
        half = len(pictures) // 2
        return self(pictures[:half], times_s[:half]) + self(pictures[half:], times_s[half:])

    def advance(self, picture, time_s, face):
        """Makes `picture`, whose face is known, the last one."""
        self.motion = face.points - self.face.points if face and self.face else None
        self.face, self.last = face, (picture, time_s)

    def _looks_alike(self, pictures, faces):
        """Whether the face looks in every picture as in the one before them, or as in the last of them."""
        seen = _samples([self.last[0], *pictures], [self.face, *faces])
        apart = np.minimum(*(np.abs(seen[1:-1] - seen[end]).mean(1) for end in (0, -1)))
        return apart.max() < CHANGED * seen[0].std()

    def _look(self, picture, time_s):
        face, how = self._track(picture), "tracked"
        if face:
            self.follower.update(face.box, time_s)
        else:
            face, how = self._search(picture, time_s)
        self.advance(picture, time_s, face)
        return face, how

    def _predicted(self, pictures=1):
        """The Face that many pictures later, if it moves on as before."""
        if self.motion is None:
            return self.face
        motion = pictures * self.motion
        return Face(self.face.box + np.concatenate([motion.mean(0)] * 2), self.face.points + motion, self.face.score)

    def _track(self, picture, pictures=1):
        """The Face that was there `pictures` ago; None if it is lost or may be another one that came in front."""
        if not self.face:
            return None
        ahead = self._predicted(pictures)
        fast = _moved(self.face, self._predicted()) > STILL  # slower motion can hardly be told from noise
        face = self.find.refine(picture, (ahead if fast else self.face).box)
        if not face or max(face.box[2:] - face.box[:2]) < SMALLEST * self.find.min_face_size:
            return None
        return None if self.motion is not None and _moved(ahead, face) > JUMP * pictures else face

    def _search(self, picture, time_s):
        if self.face:  # other faces, not searched for until now, must not be mistaken for it
            seen = self.find(self.last[0].rgb)[0]
            if not (_widths_apart(seen, self.face.box) <= STRIDE_WIDTHS).any():  # MTCNN misses the tracked face
                seen = np.concatenate([self.face.box[None], seen])
            self.follower.choose(seen, self.last[1])
        boxes, points, scores = self.find(picture.rgb)
        chosen = self.follower.choose(boxes, time_s)
        if chosen is None:
            return None, "missing"
        return Face(boxes[chosen], points[chosen], float(scores[chosen])), "detected"


def _moved(before, face):
    """Mean distance between the landmarks of two Faces, in distances between the eyes of the first."""
    eyes = math.hypot(*(before.points[1] - before.points[0]))
    return np.hypot(*(face.points - before.points).T).sum() / len(TEMPLATE) / eyes


def _interpolated(face, last, pictures):
    """Faces of that many pictures on the way from one Face to another, which is that of the last of them."""
    shares = np.arange(1, pictures + 1) / pictures
    parts = (np.multiply.outer(1 - shares, a) + np.multiply.outer(shares, b) for a, b in zip(face, last))
    return [Face(*each) for each in zip(*parts)]


def _samples(pictures, faces):
    """Brightness of each picture at a grid of points across the box of its Face: (n, GRID * GRID)."""
    boxes = np.array([face.box for face in faces])[:, None]
    places = boxes[..., :2] + (boxes[..., 2:] - boxes[..., :2]) * SPREAD  # (n, GRID, 2)
    sizes = np.array([[picture.width, picture.height] for picture in pictures])[:, None]
    places = places.clip(0, sizes - 1).astype(int)
    brightness = [picture.brightness(*place.T) for picture, place in zip(pictures, places)]
    return np.array(brightness, np.int16).reshape(len(pictures), -1)
