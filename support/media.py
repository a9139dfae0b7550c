"""Images of video files, in one pass and at exact times (PyAV); their sound: support/sound.py.

A *picture* is an image that a video holds, at whatever rate it was recorded. *Frame k* is the moment k / frame_rate at
which there is a rating: it shows the picture that is on show then, so one picture can be several frames, or none.
"""
import contextlib
import functools
import itertools
import math
import multiprocessing
from array import array
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

from support.errors import UserError

CLOCK_S = 0.002  # time stamps this close are the same: containers round to a millisecond, also the stamp of the start
AHEAD = 8, 2  # pictures in a group that a thread decodes in advance, and groups that are decoded in advance
AHEAD_PIXELS = 2**24  # of a group: fewer pictures where they are large, as one of 8K takes 50 MB
DECODERS, LARGE = 3, 1e6  # threads inside FFmpeg for pictures above LARGE pixels; with smaller ones they only wait
BT601 = (2, 5, 6)  # FFmpeg's numbers for colours of BT.601: unspecified (treated as such), BT.470BG, SMPTE 170M
FULL_RANGE = 2  # FFmpeg's number for: black is 0 (not 16) and white 255 (not 235)


@contextlib.contextmanager
def open_media(path):
    """PyAV container of a video or sound file. Raises UserError for everything in it that FFmpeg cannot read."""
    try:
        with av.open(str(path)) as container:
            yield container
    except av.error.FFmpegError as error:
        empty = Path(path).exists() and not Path(path).stat().st_size
        reason = "the file is empty" if empty else error.strerror
        raise UserError(f"{path} cannot be read as video or sound ({reason}): replace it") from None


def check_codec(stream, path):
    """Raises UserError if FFmpeg does not know the codec of a file's stream."""
    if stream.codec_context is None:
        raise UserError(f"{path} has a {stream.type} track in a codec that is not known here: convert it, to H.264 and "
                        "AAC in an .mp4")


def refuse(message):
    """Raises UserError: what is done about a file whose end is missing, unless a reader is given something else."""
    raise UserError(f"{message}: replace it")


# ---- when a video shows which picture -------------------------------------------------------------------------------

class Clock(NamedTuple):
    """When a video shows its pictures, in seconds after the first of them."""
    times_s: np.ndarray  # (P,) when each picture appears
    end_s: float  # when the last one ends
    start_s: float  # time stamp of the first picture in the file: time 0 of frames and of sound


def picture_clock(video, cut_short=refuse):
    """Clock of a video, from its time stamps alone: nothing is decoded.

    cut_short(message): called if the end of the file is missing; the Clock is that of what is there. Raises UserError
    if the file has no video track or no time stamps, or is an image.
    """
    with open_media(video) as container:
        if not container.streams.video:
            raise UserError(f"{video} has no video track: replace it by a video")
        if container.format.name == "image2" or container.format.name.endswith("_pipe"):
            raise UserError(f"{video} is an image: replace it by a video")
        stream = container.streams.video[0]
        stamps, held_s = _stamps(container, stream)
        shown = stamps[stamps[:, 2] == 0, :2]
        shown = shown[np.lexsort((shown[:, 1], shown[:, 0]))]
        if not len(shown):
            raise UserError(f"{video} has no time stamps (empty, cut short or a bare stream such as .h264): replace "
                            "it, or convert it to an .mp4")
        base = float(stream.time_base)
        times = shown[:, 0] * base
        gap = np.median(np.diff(times)) if len(times) > 1 else 1 / float(stream.average_rate or 25)
        end = times[-1] + (shown[-1][1] * base or gap)
        promised_s, present_s = _lengths(container, stream, len(stamps), gap, held_s)
    if promised_s - present_s > max(0.5, 2 * gap):
        cut_short(f"{video} is cut short: it holds {present_s:.1f} of the stated {promised_s:.1f} s")
    return Clock(times - times[0], end - times[0], times[0])


def _stamps(container, stream):
    """Time stamp, duration, whether it is discarded, of a stream's pictures: (P, 3); when the last track ends, in s."""
    pictures, held_s = array("q"), 0.0  # no packets, which would keep the whole file in memory
    for packet in container.demux():
        if packet.pts is not None:
            held_s = max(held_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                pictures.extend((packet.pts, packet.duration or 0, packet.is_discard))
    return np.array(pictures).reshape(-1, 3), held_s


def _lengths(container, stream, pictures, gap, held_s):
    """(length that the header states, length of what is there), seconds. Containers without a count of pictures state
    only how long the longest track is; an .avi counts dropped pictures, too, which have no packets."""
    frames = stream.frames
    if "mp4" in container.format.name:
        frames = min(frames, len(stream.index_entries))  # those that an edit list leaves out do not count
    promised_s = frames * gap if frames else (container.duration or 0) / av.time_base
    return promised_s, pictures * gap if frames and container.format.name != "avi" else held_s


def frame_count(end_s, frame_rate):
    """Number of frames k with k / frame_rate before `end_s`."""
    return math.ceil((end_s - CLOCK_S) * frame_rate)


def about_frames(path, frame_rate):
    """Number of frames by the length that a file's header states, 0 if it states none: to estimate the time left."""
    try:
        with open_media(path) as container:
            return round((container.duration or 0) / av.time_base * frame_rate)
    except (UserError, OSError):
        return 0  # the error is reported when the file is read


# ---- pictures -------------------------------------------------------------------------------------------------------

class Picture:
    """A decoded picture, upright and with square pixels; converted to RGB only where and when it is needed."""

    def __init__(self, frame, aspect=1.0, mirrored=False):
        """frame: PyAV's; aspect: width of a pixel by its height; mirrored: top and bottom are exchanged before it is
        turned (is_mirrored)."""
        self.frame, self.aspect, self.turns = frame, aspect, round(frame.rotation / 90)  # counter-clockwise
        self.mirrored = mirrored
        as_stored = aspect == 1 and not self.turns % 4 and not mirrored
        even = frame.width % 2 == frame.height % 2 == 0
        self.in_parts = as_stored and even and frame.format.name in ("yuv420p", "yuvj420p")
        size = frame.height, round(frame.width * aspect)
        self.height, self.width = size[::-1] if self.turns % 2 else size

    @functools.cached_property
    def rgb(self):
        """All of it: (H, W, 3)."""
        if self.in_parts:
            return self._part(0, 0, self.width, self.height)
        width = round(self.frame.width * self.aspect)
        rgb = self.frame.to_ndarray(format="rgb24", width=width, height=self.frame.height)
        return np.ascontiguousarray(np.rot90(rgb[::-1] if self.mirrored else rgb, self.turns))

    def region(self, x1, y1, x2, y2):
        """The part in a box: RGB (h, w, 3), and x, y of its upper left corner: whole numbers at or before x1, y1."""
        x1, y1 = (max(0, math.floor(v) // 2 * 2) for v in (x1, y1))  # even: colours are stored for 2 x 2 pixels
        x2, y2 = min(self.width, math.ceil(x2 / 2) * 2), min(self.height, math.ceil(y2 / 2) * 2)
        x1, y1 = min(x1, x2), min(y1, y2)
        whole = "rgb" in vars(self) or not self.in_parts
        return self.rgb[y1:y2, x1:x2] if whole else self._part(x1, y1, x2, y2), (x1, y1)

    def brightness(self, columns, rows):
        """Brightness (uint8) of the pixels where these columns and rows cross: (C,), (R,) -> (R, C)."""
        place = rows[:, None], columns
        return _plane(self.frame.planes[0])[place] if self.in_parts else self.rgb[..., 1][place]

    def _part(self, x1, y1, x2, y2):
        height, width = y2 - y1, x2 - x1
        if not height * width:
            return np.zeros((height, width, 3), np.uint8)
        stored = np.empty((height * 3 // 2, width), np.uint8)  # I420: brightness, then both colours at half the size
        stored[:height] = _plane(self.frame.planes[0])[y1:y2, x1:x2]
        colours = stored[height:].reshape(2, height // 2, width // 2)
        for colour, plane in zip(colours, self.frame.planes[1:]):
            colour[:] = _plane(plane)[y1 // 2:y2 // 2, x1 // 2:x2 // 2]
        frame = self.frame
        if frame.format.name == "yuv420p" and frame.colorspace in BT601 and frame.color_range != FULL_RANGE:
            return cv2.cvtColor(stored, cv2.COLOR_YUV2RGB_I420)  # three times as fast as FFmpeg on small parts
        part = av.VideoFrame.from_ndarray(stored, format=frame.format.name)
        part.colorspace, part.color_range = frame.colorspace, frame.color_range
        return part.to_ndarray(format="rgb24")


def is_mirrored(frame):
    """Whether the header wants pictures mirrored: the matrix (a, b, u, c, d, v, x, y, w) of ISO 14496-12 flips then.

    For one frame of a video: PyAV's frames whose side_data was looked at refer to themselves, so that they stay in
    memory, hundreds of them, until the garbage collector comes by.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist() if matrix else (1, 0, 0, 0, 1)
    return a * d - b * c < 0


def _plane(plane):
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, :plane.width]


def read_frames(video, frame_rate, cut_short=refuse):
    """Yields (ks, Picture) in one pass over a video: a picture, and the range of frames k that show it.

    Pictures that no frame shows are left out. cut_short(message): called if the end of the video is missing or cannot
    be decoded; the frames before it are yielded. Raises UserError if the first pictures cannot be decoded.
    """
    clock = picture_clock(video, cut_short)
    k, frames = 0, frame_count(clock.end_s, frame_rate)
    number, picture, time_s, mirrored = -1, None, 0.0, False
    with open_media(video) as container, contextlib.closing(_decoded(container)) as pictures:
        stream = container.streams.video[0]
        check_codec(stream, video)
        early_s, aspect = _rounding_s(clock.times_s, stream), float(stream.sample_aspect_ratio or 1)
        stored_in_order = container.format.name == "avi"  # it has a rate, no times: FFmpeg's guesses go backwards
        for following in pictures:
            time_s = following.time - clock.start_s
            if stored_in_order:
                time_s = clock.times_s[min(number + 1, len(clock.times_s) - 1)]
            if picture is None and time_s > 2 / frame_rate:
                raise UserError(f"{video} is damaged: its first {time_s:.1f} s cannot be decoded: cut them off")
            first = k
            while picture is not None and k < frames and k / frame_rate + early_s < time_s:
                k += 1
            if k > first:
                yield range(first, k), Picture(picture, aspect, mirrored)
            mirrored = is_mirrored(following) if picture is None else mirrored
            number, picture = number + 1, following
    if picture is None:
        raise UserError(f"{video} is damaged: none of its {clock.end_s:.1f} s can be decoded: replace it")
    if clock.times_s[-1] - time_s > 2 / frame_rate:
        cut_short(f"{video} is damaged: only {time_s:.1f} s of {clock.end_s:.1f} s can be decoded")
        frames = min(frames, frame_count(clock.times_s[clock.times_s > time_s + CLOCK_S][0], frame_rate))
    if k < frames:
        yield range(k, frames), Picture(picture, aspect, mirrored)


def _rounding_s(times_s, stream):
    """How much too late a picture's time stamp can be by rounding, in seconds: just below a tick of the file's clock.

    Half a tick comes from the stamp itself, half from that of the first picture, from which times are counted.
    """
    ms = times_s * 1000  # stamps are often rounded to milliseconds and then stored in a file of finer ticks
    whole = np.abs(ms - ms.round()).max() < 1e-4
    return 0.999 * (0.001 if whole else min(0.001, float(stream.time_base)))


def _decoded(container):
    """Yields PyAV's frames of a video. A thread decodes the next ones meanwhile; not in workers: they use all cores."""
    stream = container.streams.video[0]
    alone, pixels = multiprocessing.parent_process() is None, max(1, stream.width * stream.height)
    stream.thread_type, stream.thread_count = "AUTO", DECODERS if alone and pixels > LARGE else 1
    pictures = _readable(container.decode(stream))
    if not alone:
        yield from pictures
        return
    at_once, waiting = max(1, min(AHEAD[0], AHEAD_PIXELS // pixels)), AHEAD[1]
    with ThreadPoolExecutor(1) as thread:  # in groups: to wake a thread for every picture costs more than it saves
        def following():
            return thread.submit(lambda: list(itertools.islice(pictures, at_once)))
        groups = deque(following() for _ in range(waiting))
        while group := groups.popleft().result():
            groups.append(following())
            yield from group


def _readable(pictures):
    """Yields them up to the first that cannot be decoded: read_frames raises the error if any are missing."""
    with contextlib.suppress(av.error.FFmpegError):
        yield from pictures
