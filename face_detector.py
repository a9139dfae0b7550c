"""Step 1: raw videos -> one aligned face crop per frame; a frame with no face becomes a black image.

Reads   videos/<id>.*                           any container, any frame rate, constant or variable
Writes  Cropped_Aligned/<id>/000000.jpg ...     frame k: the picture on show at k / frame_rate seconds; RGB, upright
        Cropped_Aligned/<id>/faces.csv          per frame: time_s, found, box in pixels of the video, score

    python face_detector.py --data-dir data

To repeat the last face where there is none, run face_detector_frameRetention.py instead of this script, or after it:
each exchanges what the other put into the frames without a face, and detects nothing twice.
"""
import contextlib
import math
from collections import Counter
from typing import NamedTuple

import av
import cv2
import numpy as np
import pandas as pd
import torch
from facenet_pytorch import MTCNN
from tqdm import tqdm

from annotations import find_recordings, for_each, frame_count, keep_settings, open_media, picture_clock
from config import UserError, parse_config, run_script, torch_device, whole_file, whole_folder

# Where the five landmarks go in a crop of side 1: left and right eye (the viewer's), nose, left and right mouth corner.
# ArcFace's template (Deng et al., 2019), given there in pixels of a 112 px crop.
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]) / 112
STRIDE_WIDTHS = 1.0  # a face may move this many of its own widths from a frame to the next ...
STRIDE_S = 0.5  # ... and as far again in each half second that it was out of sight
BESIDE_S = 1.0  # a face beside the one followed is remembered this long: detectors miss one now and then
GONE_S = 10.0  # a person out of sight for longer is given up, and the largest face is followed from there on


# ---- pictures -------------------------------------------------------------------------------------------------------

def read_frames(video, frame_rate):
    """Yields (k, number of the picture, (H, W, 3) RGB upright) for every frame k, in order, in one pass over the video.

    Raises UserError if the pictures end before their time stamps do.
    """
    clock = picture_clock(video)
    k, frames = 0, frame_count(clock.end_s, frame_rate)
    number, picture, time_s = -1, None, 0.0
    with open_media(video) as container:
        stream = container.streams.video[0]
        early_s, aspect = _rounding_s(clock.times_s, stream), float(stream.sample_aspect_ratio or 1)
        stored_in_order = container.format.name == "avi"  # it knows a rate and no times; FFmpeg's guesses go backwards
        for following in _decoded(container, stream):
            time_s = following.time - clock.start_s
            if stored_in_order:
                time_s = clock.times_s[min(number + 1, len(clock.times_s) - 1)]
            rgb = None
            while picture is not None and k < frames and k / frame_rate + early_s < time_s:
                rgb = _upright(picture, aspect) if rgb is None else rgb
                yield k, number, rgb
                k += 1
            number, picture = number + 1, following
    if picture is None or clock.times_s[-1] - time_s > 2 / frame_rate:
        raise UserError(f"{video} is damaged: its pictures can be read up to {time_s:.1f} s of {clock.end_s:.1f} s")
    rgb = _upright(picture, aspect)
    while k < frames:
        yield k, number, rgb
        k += 1


def _rounding_s(times_s, stream):
    """How much later than it was a picture's time stamp can be, seconds: half a tick of the clock that made the stamps.

    Many stamps were whole milliseconds before they came into a file of finer ticks.
    """
    ms = times_s * 1000
    whole = np.abs(ms - ms.round()).max() < 1e-4
    return (0.001 if whole else min(0.001, float(stream.time_base))) / 2 + 1e-6


def _decoded(container, stream):
    stream.thread_type = "AUTO"
    try:
        yield from container.decode(stream)
    except av.error.FFmpegError:
        return  # read_frames knows how far it should have come


def _upright(picture, aspect):
    """(H, W, 3) RGB of a PyAV picture, with square pixels and turned the way its camera was held."""
    rgb = picture.to_ndarray(format="rgb24", width=round(picture.width * aspect), height=picture.height)
    return np.ascontiguousarray(np.rot90(rgb, round(picture.rotation / 90)))  # degrees counter-clockwise


# ---- faces ----------------------------------------------------------------------------------------------------------

def alignment(points):
    """Similarity transform from five landmarks to TEMPLATE in the least-squares sense: (5, 2) -> (2, 3).

    Umeyama (1991) for two dimensions: with points as complex numbers it is the line w = a z + b, and never a mirror.
    """
    z, w = (np.asarray(p, float) @ [1, 1j] for p in (points, TEMPLATE))
    a = np.vdot(z - z.mean(), w - w.mean()) / np.vdot(z - z.mean(), z - z.mean()).real
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def crop_face(rgb, points, size):
    """The face with its landmarks on TEMPLATE, black where the picture ends: (H, W, 3), (5, 2) -> (size, size, 3)."""
    matrix = alignment(points) * size
    steps = max(1, math.ceil(0.7 / np.hypot(*matrix[:, 0])))  # shrink in two steps, or fine detail turns into noise
    large = cv2.warpAffine(rgb, _centre_of_pixels(matrix * steps), (size * steps, size * steps), flags=cv2.INTER_LINEAR)
    return large if steps == 1 else cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)


def _centre_of_pixels(matrix):
    """OpenCV puts (0, 0) into the middle of the first pixel; the formulas here put it at its corner."""
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    return moved


class FaceFinder:
    """All faces in a picture, by facenet-pytorch's MTCNN (Zhang et al., 2016); its weights come with the package."""

    def __init__(self, min_face_size, face_score, device):
        mtcnn = MTCNN(keep_all=True, min_face_size=min_face_size, device=device)
        self.mtcnn = mtcnn.to(memory_format=torch.channels_last)  # half as fast again on a CPU: pooling likes it
        self.face_score = face_score

    def __call__(self, rgb):
        """(H, W, 3) -> boxes (n, 4) as x1, y1, x2, y2, landmarks (n, 5, 2), scores (n,); pixels of the picture."""
        if min(rgb.shape[:2]) < self.mtcnn.min_face_size:  # MTCNN fails on these; no face of that size fits in
            return np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0)
        boxes, scores, points = self.mtcnn.detect(rgb, landmarks=True)
        if boxes is None:
            return np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0)
        boxes, scores, points = (np.asarray(values, float) for values in (boxes, scores, points))
        good = scores >= self.face_score
        return boxes[good], points[good], scores[good]


class Seen(NamedTuple):
    """Where and when somebody's face was seen last."""
    box: np.ndarray  # (4,)
    time_s: float


@contextlib.contextmanager
def one_thread():
    """Torch on one thread meanwhile: MTCNN's nets are too small to gain from more, and more wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


# ---- recordings -----------------------------------------------------------------------------------------------------

def face_rows(video, find, frame_rate, size):
    """Yields (row of faces.csv, crop or None where no face was found) for every frame of a video, in order."""
    follower, seen = Follower(), -1
    for k, number, rgb in read_frames(video, frame_rate):
        if number != seen:  # a slow video shows one picture for several k
            boxes, points, scores = find(rgb)
            chosen = follower.choose(boxes, k / frame_rate)
            face, crop = {"found": "missing"}, None
            if chosen is not None:
                face = {"found": "detected", **dict(zip(["x1", "y1", "x2", "y2"], boxes[chosen].round(1))), "score": scores[chosen].round(4)}
                crop = crop_face(rgb, points[chosen], size)
            seen = number
        yield {"time_s": round(k / frame_rate, 4), **face}, crop


def fill_gaps(folder, table, size, retain):
    """Puts into every frame without a face a black image or, with `retain`, the last face seen (the first one, before).

    table: the recording's faces.csv; size: of its crops. Returns it with the word for what was done, or as it was if that was done before.
    """
    word = "retained" if retain else "missing"
    gaps = ~table["found"].isin(["detected", "tracked"])
    if (table["found"][gaps] == word).all():
        return table
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


def detect(video, folder, find, cfg, bar):
    """Makes the crops of a recording, black where there is no face: its faces.csv as a table.

    `folder` appears when all of it is written. Raises UserError if the video is damaged or no face is ever found.
    """
    with whole_folder(folder) as part:
        rows = []
        for row, crop in face_rows(video, find, cfg.frame_rate, cfg.face_size):
            if crop is not None:
                (part / f"{len(rows):06d}.jpg").write_bytes(_jpeg(crop[..., ::-1], cfg.jpeg_quality))
            rows.append(row | {"found": "unfilled"} if crop is None else row)
            bar.update()
        table = pd.DataFrame(rows, columns=["time_s", "found", "x1", "y1", "x2", "y2", "score"])
        if (table["found"] == "unfilled").all():
            raise UserError(f"{video}: no face in any of its {len(rows)} frames: if there are faces of less than "
                            f"{cfg.min_face_size} pixels, lower --min-face-size")
        _save_table(part, table)
        return fill_gaps(part, table, cfg.face_size, retain=False)


def _jpeg(bgr, quality):
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _save_table(folder, table):
    with whole_file(folder / "faces.csv") as part:
        table.to_csv(part, index=False, lineterminator="\n")


def finished_table(folder, video, frame_rate):
    """faces.csv of a recording made before, or None. Raises UserError if anything is missing or it is of another video."""
    if not folder.exists():
        return None
    try:
        table = pd.read_csv(folder / "faces.csv")
        table["found"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{folder}/ holds no readable faces.csv: delete that folder to make it anew") from None
    crops, frames = len(list(folder.glob("*.jpg"))), frame_count(picture_clock(video).end_s, frame_rate)
    if not len(table) == crops == frames:
        raise UserError(f"{folder}/ holds {crops} crops and {len(table)} rows in faces.csv, and {video} {frames} frames: delete "
                        "that folder to make it anew")
    return table


# ---- main -----------------------------------------------------------------------------------------------------------

def main(argv=None, script=__file__, doc=__doc__, retain=False):
    cfg = parse_config(argv, script, doc)
    videos = find_recordings([cfg.videos_dir], cfg.recordings, "put the raw videos there, one <id>.mp4 (or other) each")
    find = FaceFinder(cfg.min_face_size, cfg.face_score, torch_device(cfg.device))
    keep_settings(cfg.crops_dir, cfg, "face_size frame_rate min_face_size face_score jpeg_quality")

    def work(name):
        folder = cfg.crops_dir / name
        before = finished_table(folder, videos[name], cfg.frame_rate)
        bar.set_description(name)
        table = detect(videos[name], folder, find, cfg, bar) if before is None else before
        table = fill_gaps(folder, table, cfg.face_size, retain)
        counts = Counter(table["found"])
        tqdm.write(f"{name}: {len(table)} frames, " + ", ".join(f"{n} {word}" for word, n in counts.items())
                   + (" (done before)" if table is before else ""))
        return counts, table is not before

    with tqdm(unit=" frames", disable=None, leave=False) as bar, one_thread():
        results = for_each(videos, work)
    total = sum((counts for counts, _ in results.values()), Counter())
    made = sum(new for _, new in results.values())
    print(f"{cfg.crops_dir}: {sum(total.values())} crops of {len(results)} recordings, "
          + ", ".join(f"{n} {word}" for word, n in total.items()) + ("" if made else "; nothing to do, all were done before"))
    return total


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
