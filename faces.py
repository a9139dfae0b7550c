"""Find, follow and align a face: MTCNN where it is new, its output network where it was, a crop with its landmarks in fixed places."""
import contextlib
import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from torch.nn import functional

# Where the five landmarks go in a crop of side 1: left and right eye (the viewer's), nose, left and right mouth corner.
# ArcFace's template (Deng et al., 2019), given there in pixels of a 112 px crop.
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]) / 112
PLACES = TEMPLATE @ (1, 1j)
STRIDE_WIDTHS = 1.0  # a face may move this many of its own widths from a frame to the next ...
STRIDE_S = 0.5  # ... and as far again in each half second that it was out of sight
JUMP = 0.25  # a face that goes this many distances of its eyes away from where its motion would take it may be another
SMALLEST = 0.6  # MTCNN finds faces down to this share of the smallest size that it is told to look for
STILL = 0.1  # a head is still whose landmarks move by less than this many distances of its eyes from one look to the next
GLANCE = 16  # pixels across and down a face, by which pictures are compared in between looks
SPREAD = (np.arange(GLANCE)[:, None] + 0.5) / GLANCE
UNLIKE = 0.5  # ... and look different from this share of the face's contrast on: something came before it, or it is another shot
PATCH = 48  # pixels, the side of what MTCNN's output network sees
BESIDE_S = 1.0  # a face beside the one followed is remembered this long: detectors miss one now and then
GONE_S = 10.0  # a person out of sight for longer is given up, and the largest face is followed from there on


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
