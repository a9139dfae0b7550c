"""Images of video files, in one pass and at exact times (PyAV); their sound: support/sound.py.

A *picture* is an image that a video holds, at whatever rate it was recorded. *Frame k* is the moment k / frame_rate at
which there is a rating: it shows the picture that is on show then, so one picture can be several frames, or none.
"""
import contextlib
import functools
import gc
import math
import os
from array import array
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from support.decoding import Decoding, check_memory, packets_of, track_remarks, video_track
from support.errors import UserError
from support.files import regular
from support.opencv import cv2
from support.wavs import ASF, has_stale_length

CLOCK_S = 0.002  # time stamps this close are the same: containers round to a millisecond, also the stamp of the start
BACK = 1.0, 20  # seconds and usual gaps by which a time stamp lies before the ones before only if the clock runs back
AHEAD = 10.0, 20  # the same for a gap in which time passed only if another track goes on meanwhile
PAUSE = 1.0, 10  # the same for a gap that is worth a remark
REGULAR = 0.9, 0.1  # share of gaps of a constant rate that are the usual one, and share of it by which they may differ
MISSING_S = 0.5  # of the end of a video may be missing
LONGEST_S = 86400  # of video or sound: a day; time stamps that reach further are damaged
WIDEST = 8  # pixels, by their height; anamorphic video has up to 2
APPENDED = {"mp4": b"ftyp", "flv": b"FLV\x01", "asf": ASF}  # what files of these forms begin with
BT601 = (2, 5, 6)  # FFmpeg's numbers for colours of BT.601: unspecified (treated as such), BT.470BG, SMPTE 170M
FULL_RANGE = 2  # FFmpeg's number for: black is 0 (not 16) and white 255 (not 235)


@contextlib.contextmanager
def open_media(path):
    """PyAV container of a video or sound file. Raises UserError for everything in it that FFmpeg cannot read."""
    try:
        whole = os.path.abspath(regular(path))  # FFmpeg takes what stands before a colon for a protocol: "concat:a.mp4"
        options = {"ignore_length": "1"} if has_stale_length(whole) else {}
        with av.open(whole, options=options, metadata_errors="replace") as container:  # titles in Latin-1, say
            yield container
    except av.error.FFmpegError as error:
        check_memory(error)
        empty = Path(path).exists() and not Path(path).stat().st_size
        reason = "the file is empty" if empty else error.strerror
        raise UserError(f"{path} cannot be read as video or sound ({reason}): replace it") from None
    finally:  # a frame whose side data was read is in a cycle with them, and keeps half a MB of its decoder
        gc.collect(1)


def check_codec(stream, path):
    """Raises UserError if FFmpeg does not know the codec of a file's stream."""
    if stream.codec_context is None:
        raise UserError(f"{path} has a {stream.type} track in a codec that is not known here: convert it, to H.264 and "
                        "AAC in an .mp4")


def refuse(message):
    """Raises UserError: what is done about a file whose end is missing, unless a reader is given something else."""
    raise UserError(f"{message}: replace it")


def ignored(message):
    """What is done about what is wrong with a video where it was said before, or will be."""


# ---- when a video shows which picture -------------------------------------------------------------------------------

class Clock(NamedTuple):
    """When a video shows its pictures, in seconds after the first of them."""
    times_s: np.ndarray  # (P,) when each picture appears
    end_s: float  # when the last one ends
    start_s: float  # time stamp of the first picture in the file: time 0 of frames and of sound
    stamps: np.ndarray  # (P,) the same as times_s as in the file, in ticks
    remarks: list  # texts: what is not as it should be
    broken: bool  # whether it ends where the file's clock jumps or runs back
    in_order: bool  # whether pictures take the times of packets one after the other, whatever FFmpeg says of each


def picture_clock(video, cut_short=refuse):
    """Clock of a video, from its time stamps alone: nothing is decoded.

    cut_short(message): called if the end of the file is missing, or its clock jumps; the Clock is that of what comes
    before. Raises UserError if the file has no video track or no time stamps, or is an image.
    """
    with open_media(video) as container:
        form = container.format.name
        if form == "image2" or form.endswith("_pipe"):
            raise UserError(f"{video} is an image: replace it by a video")
        stream = video_track(container, video)
        stamps, others = _stamps(container, stream)
        shown = stamps[stamps[:, 2] == 0, :2]
        if not len(shown):
            raise UserError(f"{video} has no time stamps (empty, cut short or a bare stream such as .h264): replace "
                            "it, or convert it to an .mp4")
        base = float(stream.time_base)
        gaps = np.diff(np.sort(shown[:, 0])) * base
        gap = np.median(gaps) if len(gaps) else 1 / float(stream.average_rate or 25)
        whole, (shown, jump) = len(shown), _before_jump(shown, base, gap, others, form)
        times = shown[:, 0] * base
        end = times[-1] + (shown[-1][1] * base or gap)
        if not end - times[0] < LONGEST_S:
            raise UserError(f"{video} is damaged: by its time stamps it would be {end - times[0]:.3g} s long: replace "
                            "it")
        early_s = min(0, container.start_time or 0) / av.time_base  # a broadcast's clock that starts again on the way
        promised_s, present_s = _lengths(container, stream, len(stamps), gap, others.end_s - early_s)
        in_order = _in_order(container, stream, stamps[stamps[:, 2] == 0, 0])
        appended = _another_follows(container, others.end)
        remarks = track_remarks(container, stream) + _time_remarks(times, gap, others, form)
    if jump:
        cut_short(f"{video} has a clock that {jump}: its first {end - times[0]:.1f} s can be used, {len(shown)} of "
                  f"{whole} pictures")
    elif appended:
        cut_short(f"{video} is of two files or more, joined byte by byte: only the first can be read, "
                  f"{end - times[0]:.1f} s")
    elif promised_s - present_s > max(MISSING_S, 2 * gap):
        cut_short(f"{video} is cut short: it holds {present_s:.1f} of the stated {promised_s:.1f} s")
    return Clock(times - times[0], end - times[0], times[0], shown[:, 0], remarks, bool(jump), in_order)


def _in_order(container, stream, stamps):
    """Whether time stamps (P,), in the order of the file, are only those at which packets are to be decoded.

    An .avi has a rate, no times: FFmpeg's guesses go backwards. So do those for MPEG-4 Part 2 copied from an .avi,
    where a packet can hold two pictures and the next one none (packed B-frames).
    """
    codec = stream.codec_context
    from_avi = codec is not None and codec.name == "mpeg4" and codec.has_b_frames and (np.diff(stamps) > 0).all()
    return container.format.name == "avi" or bool(from_avi)


class Others(NamedTuple):
    """What a file holds beside the pictures of its video."""
    start_s: float  # time stamp of the first packet of sound
    end_s: float  # when the last track ends, that of the video included
    end: int  # where the last packet ends in the file, bytes
    seconds: set  # the whole seconds in which there is sound


def _stamps(container, stream):
    """Time stamp, duration, whether it is discarded, of a stream's pictures, in the file's order: (P, 3); Others."""
    pictures, start_s, end_s, end, seconds = array("q"), math.inf, 0.0, 0, set()  # no packets: they take much memory
    bases = {track.index: float(track.time_base) for track in container.streams if track.time_base}
    sound = {track.index for track in container.streams.audio}
    for packet in packets_of(container):
        end = max(end, (packet.pos or 0) + packet.size)
        if packet.pts is not None:
            time_s = packet.pts * bases[packet.stream_index]
            end_s = max(end_s, time_s + (packet.duration or 0) * bases[packet.stream_index])
            if packet.stream_index == stream.index:
                pictures.extend((packet.pts, packet.duration or 0, packet.is_discard))
            elif packet.stream_index in sound:
                start_s = min(start_s, time_s)
                seconds.add(int(time_s))
    return np.array(pictures).reshape(-1, 3), Others(start_s, end_s, end, seconds)


def _another_follows(container, end):
    """Whether a second file was appended to one whose packets end at byte `end`: FFmpeg does not see it in these."""
    name = next((name for form, name in APPENDED.items() if form in container.format.name), None)
    with open(container.name, "rb") as file:
        file.seek(end)
        return bool(name) and name in file.read()


def _before_jump(shown, base, gap, others, form):
    """(Stamps and durations (P, 2) in the order of time, up to where the clock runs back or jumps, how it does or "").

    base: seconds per tick; gap: the usual one between pictures, seconds; form: of the container. Without pictures time
    passes where there is sound, as in a recording of a screen; where there is neither, the clock jumps.
    """
    behind = (np.maximum.accumulate(shown[:, 0]) - shown[:, 0]) * base * (form != "avi")  # which stores no times
    back = np.flatnonzero(behind > max(BACK[0], BACK[1] * gap))
    jump = f"goes back by {behind[back[0]]:.1f} s, as where pieces of video were joined" if len(back) else ""
    shown = shown[:back[0]] if len(back) else shown
    shown = shown[np.lexsort((shown[:, 1], shown[:, 0]))]
    times = shown[:, 0] * base
    for n in np.flatnonzero(np.diff(times) > max(AHEAD[0], AHEAD[1] * gap)):
        between = range(int(times[n]) + 1, int(times[n + 1]))
        if sum(second in others.seconds for second in between) < len(between) / 2:
            return shown[:n + 1], f"jumps by {times[n + 1] - times[n]:.1f} s, without picture or sound in between"
    return shown, jump


def _time_remarks(times, gap, others, form):
    """What is odd about the times of pictures (P,), in seconds; gap: the usual one between them."""
    remarks = [f"only one picture in {gap:.1f} s"] * bool(gap > 1)
    if 1 < times[0] - others.start_s < math.inf:
        remarks.append(f"the pictures begin {times[0] - others.start_s:.1f} s after the sound: time 0 is that of the "
                       "first picture")
    elif times[0] > 1 and "mpeg" not in form:  # a broadcast begins at any time
        remarks.append(f"its clock begins at {times[0]:.1f} s: time 0 is that of the first picture")
    gaps = np.diff(times)
    if missing := _missing(gaps, gap):
        remarks.append(f"{missing:,} pictures missing by its time stamps, the one before is shown")
    if len(pauses := np.flatnonzero(gaps > max(PAUSE[0], PAUSE[1] * gap))):
        longest = pauses[gaps[pauses].argmax()]
        remarks.append(f"no picture for {gaps[longest]:.1f} s from {times[longest] - times[0]:.1f} s on"
                       + f" (and {len(pauses) - 1} more pauses)" * (len(pauses) > 1) + ", the one before is shown")
    return remarks


def _missing(gaps, gap):
    """How many pictures of a constant rate are missing, as where a file was damaged; 0 if the rate is not constant.
    Pauses, of which there is another remark, do not count."""
    regular = np.abs(gaps - gap) < REGULAR[1] * gap + CLOCK_S / 2
    wider = gaps[(gaps > 1.5 * gap) & (gaps <= max(PAUSE[0], PAUSE[1] * gap))]
    return int(np.rint(wider / gap - 1).sum()) if len(gaps) and regular.mean() > REGULAR[0] else 0


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


def pictures_shown(video, frame_rate):
    """(N,) number, from 0 on, of the picture that each frame shows, from time stamps alone; Clock of the video."""
    clock = picture_clock(video)
    with open_media(video) as container:
        early_s = _rounding_s(clock.times_s, video_track(container, video))
    at = np.arange(frame_count(clock.end_s, frame_rate)) / frame_rate + early_s
    return np.searchsorted(clock.times_s, at, side="right") - 1, clock


def about_frames(path, frame_rate):
    """Number of frames by the length that a file's header states, 0 if it states none: to estimate the time left."""
    try:
        with open_media(path) as container:
            return round(min((container.duration or 0) / av.time_base, LONGEST_S) * frame_rate)
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


def read_frames(video, frame_rate, cut_short=refuse, remark=ignored):
    """Yields (ks, Picture) in one pass over a video: a picture, and the range of frames k that show it, if any do.

    Where one cannot be decoded, the one before is shown, black at the beginning. cut_short(message): called if the end
    of the video is missing or cannot be decoded; the frames before it are yielded. remark(message): called for
    everything else that is not as it should be. Raises UserError if nothing can be decoded.
    """
    clock = picture_clock(video, cut_short)
    k, frames, shown, time_s, mirrored = 0, frame_count(clock.end_s, frame_rate), None, 0.0, False
    with open_media(video) as container:
        stream = video_track(container, video)
        check_codec(stream, video)
        decoding = Decoding(container, stream, clock.stamps.tolist() if clock.in_order else None)
        early_s, aspect = _rounding_s(clock.times_s, stream), _pixel_aspect(stream, video)
        with contextlib.closing(_in_time(decoding, clock, remark)) as pictures:
            for time_s, frame in pictures:
                first, mirrored = k, is_mirrored(frame) if shown is None else mirrored
                following = Picture(frame, aspect, mirrored)
                if shown is None and time_s > 2 / frame_rate:
                    remark(f"its first {time_s:.1f} s cannot be decoded: they are black")
                    shown = _black(following)
                while shown is not None and k < frames and k / frame_rate + early_s < time_s:
                    k += 1
                if k > first:
                    yield range(first, k), shown
                shown = following
    if shown is None:
        raise UserError(f"{video} is damaged: none of its {clock.end_s:.1f} s can be decoded: replace it")
    missing_s = clock.times_s[-1] - time_s  # of the end
    if missing_s > max(MISSING_S, 2 / frame_rate):
        cut_short(f"{video} is damaged: only {time_s:.1f} s of {clock.end_s:.1f} s can be decoded")
        readable = clock.times_s <= time_s + CLOCK_S
        frames = min(frames, frame_count(clock.times_s[~readable][0], frame_rate))
        clock = clock._replace(stamps=clock.stamps[readable])
    elif missing_s > 2 / frame_rate:
        remark(f"its last {missing_s:.1f} s cannot be decoded: the picture before is shown")
    if k < frames:
        yield range(k, frames), shown
    for message in clock.remarks + decoding.remarks(clock.stamps):
        remark(message)


def _in_time(decoding, clock, remark):
    """Yields (time in s, PyAV's frame) of pictures, in the order of time, up to the end of a Clock."""
    time_s, late = 0.0, 0
    with contextlib.closing(iter(decoding)) as frames:
        for frame in frames:
            before_s, time_s = time_s, time_s if frame.time is None else frame.time - clock.start_s
            if clock.broken and not before_s - CLOCK_S <= time_s < clock.end_s:
                return
            if time_s < before_s - CLOCK_S:
                late, time_s = late + 1, before_s
            else:
                yield time_s, frame
    if late:
        remark(f"{late:,} of {len(clock.times_s):,} pictures left out: their time stamps lie before those of the one "
               "before")


def _black(like):
    """A black Picture of the size of another."""
    return Picture(av.VideoFrame.from_ndarray(np.zeros((like.height, like.width, 3), np.uint8), format="rgb24"))


def _pixel_aspect(stream, video):
    """Width of a pixel by its height. Raises UserError if that is absurd: pictures would take all memory."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / WIDEST <= aspect <= WIDEST:
        raise UserError(f"{video} is damaged: its pixels would be {aspect:g} times as wide as high: replace it")
    return aspect


def _rounding_s(times_s, stream):
    """How much too late a picture's time stamp can be by rounding, in seconds: just below a tick of the file's clock.

    Half a tick comes from the stamp itself, half from that of the first picture, from which times are counted.
    """
    ms = times_s * 1000  # stamps are often rounded to milliseconds and then stored in a file of finer ticks
    whole = np.abs(ms - ms.round()).max() < 1e-4
    return 0.999 * (0.001 if whole else min(0.001, float(stream.time_base)))
