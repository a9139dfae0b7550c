"""Draws predictions into a video: face boxes, both traces moving, a point in the arousal-valence plane.

    python predict.py data/runs/student_both_pseudo/best.pt clip.mp4 --overlay

Reads   the video, and its predictions as predict.py writes them: time_s, arousal, valence, face, score, x1, y1, x2, y2
Writes  <name>_overlay.mp4: H.264 and AAC, which browsers play. Frames without a face are marked, never invented
"""
import contextlib
import functools
import itertools
import os
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from figures import PEOPLE
from support.decoding import video_track
from support.errors import UserError
from support.files import whole_file
from support.media import ignored, open_media, picture_clock, read_frames
from support.opencv import cv2
from support.sound import read_sound, sound_track

# Of Okabe and Ito's palette, as in figures.py; with several people, colours are theirs, as in the figure of predict.py
COLOURS = {"arousal": (230, 159, 0), "valence": (86, 180, 233)}
GROUND, LINE, TEXT, BRIGHT = (22, 24, 29), (62, 67, 76), (168, 175, 186), (242, 244, 247)
SHADE = (38, 41, 48)  # of the ground where there is no face
WINDOW_S = 3.0, 10.0  # shown of the traces: as much as the video has, between these
TAIL_S = 3.0  # shown of the way in the plane
DIGITS_S = 0.2  # numbers change that often: more often they cannot be read
LIMITS = 0.2, 0.3, 0.5, 0.75, 1.0  # ends of the axes
SMALLEST, LARGEST = 320, 1280  # pixels across, and along the longer side, of the pictures in an overlay


class Track(NamedTuple):
    """What is known of a person up to now; NaN where there is no prediction, or no face."""
    times_s: np.ndarray  # (n,) the last one is now
    values: np.ndarray  # (n, K) predictions
    boxes: np.ndarray  # (n, 4) x1, y1, x2, y2 in pixels of the picture

    def at(self, time_s, row_s):
        """This Track up to `time_s`, between two rows interpolated; None if it had ended before, or begins later.

        row_s: how long a row is valid.
        """
        end = int(np.searchsorted(self.times_s, time_s + 1e-3, side="right"))  # time_s is rounded in tables
        if not end or time_s - self.times_s[end - 1] > 1.5 * row_s:
            return None
        start = np.searchsorted(self.times_s, time_s - WINDOW_S[1] - row_s)
        share = np.clip((time_s - self.times_s[end - 1]) / row_s, 0, 1)
        now = [values[end - 1] for values in self[1:]]
        if end < len(self.times_s) and self.times_s[end] - self.times_s[end - 1] < 1.5 * row_s:
            between = [(1 - share) * value + share * values[end] for value, values in zip(now, self[1:])]
            now = [value if np.isnan(mean).any() else mean for value, mean in zip(now, between)]
        return Track(np.append(self.times_s[start:end], time_s),
                     *[np.vstack([values[start:end], value]) for value, values in zip(now, self[1:])])


def limit_of(tracks):
    """The end of the axes for the predictions in {id: Track}: one of LIMITS, or what is needed beyond."""
    largest = max((np.abs(track.values[~np.isnan(track.values)]).max(initial=0.0) for track in tracks.values()),
                  default=0.0)
    return next((limit for limit in LIMITS if largest <= limit), float(np.ceil(largest)))


def short(value):
    """A prediction as text: +.32, −.07, +1.00; – for NaN."""
    if np.isnan(value):
        return "–"
    text = f"{abs(value):.2f}"
    return ("−" if text != "0.00" and value < 0 else "+") + text.removeprefix("0")


# ---- text and shapes ------------------------------------------------------------------------------------------------

@functools.lru_cache(16)
def font(pixels, bold):
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), pixels)


@functools.lru_cache(4096)
def text_mask(text, pixels, bold):
    """How much of each pixel a text covers: (h, w, 1) float32, as high as any text of that size."""
    face = font(pixels, bold)
    mask = Image.new("L", (max(1, round(face.getlength(text))), sum(face.getmetrics())))
    ImageDraw.Draw(mask).text((0, 0), text, 255, face)
    return np.asarray(mask, np.float32)[..., None] / 255


@functools.lru_cache(256)
def plate_mask(width, height, radius, strength):
    """How much of each pixel a rectangle with round corners covers: (h, w, 1) float32."""
    large = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * radius, round(255 * strength))
    return np.asarray(large.resize((width, height), Image.Resampling.BOX), np.float32)[..., None] / 255


def put(image, mask, x, y, colour):
    """Blends a colour into the image where a mask covers it, from x, y on; what lies outside is cut off."""
    left, top = max(0, -x), max(0, -y)
    part = image[max(0, y):max(0, y + len(mask)), max(0, x):max(0, x + mask.shape[1])]
    mask = mask[top:top + len(part), left:left + part.shape[1]]
    part[:] = part + (np.float32(colour) - part) * mask + np.float32(0.5)


def write(image, text, x, y, size, **style):
    """Writes text whose left end is x and whose middle is y.

    style: colour; bold; right: whether x is the right end; middle: whether it is the middle.
    """
    mask = text_mask(text, size, style.get("bold", False))
    x -= mask.shape[1] if style.get("right") else mask.shape[1] / 2 if style.get("middle") else 0
    put(image, mask, round(x), round(y - len(mask) / 2), style.get("colour", TEXT))


def polyline(image, points, colour, thickness, closed=False):
    """Draws a smooth line through points (n, 2), whose unit is a pixel."""
    fixed = [np.round(np.asarray(points) * 16).astype(np.int32)]  # 4 bits: 1/16 pixel
    cv2.polylines(image, fixed, closed, colour, thickness, cv2.LINE_AA, 4)


def disc(image, middle, radius, colour):
    x, y = np.round(np.asarray(middle) * 16).astype(int).tolist()
    cv2.circle(image, (x, y), round(radius * 16), colour, -1, cv2.LINE_AA, 4)


def rounded(box, radius):
    """Outline of a box with round corners: (n, 2)."""
    turn = np.linspace(0, np.pi / 2, 7)
    arc = np.stack([np.cos(turn), np.sin(turn)], 1)
    x1, y1, x2, y2 = box
    corners = [(x2 - radius, y2 - radius, 0), (x1 + radius, y2 - radius, 1),
               (x1 + radius, y1 + radius, 2), (x2 - radius, y1 + radius, 3)]
    rotations = [np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), n) for n in range(4)]
    return np.concatenate([[x, y] + radius * arc @ rotations[n].T for x, y, n in corners])


# ---- the overlay ----------------------------------------------------------------------------------------------------

class Overlay:
    """Paints pictures of one size with what is predicted of the people in them; what never changes is painted once.

    The painted picture has a panel below: the traces of the last seconds, and for two targets the plane.
    """

    def __init__(self, size, targets, limit, window_s=WINDOW_S[1], several=False, visual=True):
        """size: (width, height) of the pictures; limit: end of the axes; window_s: length of the traces; several:
        whether there are several people; visual: whether the network is fed faces, so that a missing one is said."""
        self.scale = _scale(*size)
        self.width, self.height = (max(2, round(side * self.scale / 2) * 2) for side in size)
        self.targets, self.limit, self.window_s = list(targets), limit, window_s
        self.several, self.visual = several, visual
        self.colours = [TEXT if several else COLOURS[target] for target in self.targets]
        self.panel_h = round(min(max(0.17 * self.width, 96), 216) / 2) * 2
        self.pad = round(self.panel_h / 11)
        self.size = max(11, round(self.panel_h / 8.6))  # of text, pixels
        self.thick = max(1, round(self.panel_h / 75))
        plane = self.panel_h - 2 * self.pad if len(self.targets) == 2 else 0
        self.plane = (self.width - self.pad - plane, self.pad, plane)  # x, y, side
        self.left = self.pad + round(max(len(target) for target in self.targets) * 0.62 * self.size) + self.pad
        self.right = self.width - self.pad * (3 if plane else 2) - plane  # of the traces: now
        row = (self.panel_h - 2 * self.pad - 0.9 * self.size) / len(self.targets)
        self.rows = [self.pad + row * (number + 0.5) for number in range(len(self.targets))]  # middles
        self.half = row / 2 - self.pad / 4  # of a row: from 0 to the limit
        self.ground = self._ground()

    def _ground(self):
        """The panel without predictions."""
        panel = np.full((self.panel_h, self.width, 3), GROUND, np.uint8)
        small, foot = max(9, round(0.75 * self.size)), self.panel_h - self.pad - 0.3 * self.size
        for target, colour, y in zip(self.targets, self.colours, self.rows):
            write(panel, target, self.pad, y - 0.62 * self.size * (not self.several), self.size, colour=colour)
            polyline(panel, [(self.left, y), (self.right, y)], LINE, 1)
        write(panel, f"−{self.window_s:.0f} s", self.left, foot, small)
        write(panel, "now", self.right, foot, small, right=True)
        write(panel, f"±{short(self.limit)[1:]}", self.pad, foot, small)
        x, y, side = self.plane
        if side:
            polyline(panel, rounded((x, y, x + side, y + side), side / 12), LINE, 1, closed=True)
            polyline(panel, [(x, y + side / 2), (x + side, y + side / 2)], LINE, 1)
            polyline(panel, [(x + side / 2, y), (x + side / 2, y + side)], LINE, 1)
            middle = y + side / 2
            arousal, valence = (self.colours[self.targets.index(one)] for one in ("arousal", "valence"))
            write(panel, "arousal", x + side / 2 + 3, y + 0.8 * small, small, colour=arousal)
            write(panel, "valence", x + side - 3, middle + 0.7 * small, small, colour=valence, right=True)
        return panel

    def paint(self, rgb, tracks, note=""):
        """The picture (H, W, 3) with everything drawn in: RGB (h, w, 3), of even sizes.

        tracks: {id: Track up to now}; note: a line to write at the lower left of the picture.
        """
        if rgb.shape[:2] != (self.height, self.width):
            way = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
            rgb = cv2.resize(rgb, (self.width, self.height), interpolation=way)
        image = np.concatenate([rgb, self.ground])
        picture, panel = image[:self.height], image[self.height:]
        in_sight = {number: track for number, track in tracks.items() if not np.isnan(track.boxes[-1]).any()}
        for number, track in in_sight.items():
            self._paint_face(picture, track, number)
        if self.visual and not in_sight:
            self._plate(picture, [[("no face", BRIGHT, False)]], self.pad, self.pad)
        if note:
            self._plate(picture, [[(note, TEXT, False)]], self.pad, self.height - self.pad - 2 * self.size)
        for number, track in tracks.items():
            self._paint_traces(panel, track, number)
            if self.plane[2]:
                self._paint_plane(panel, track, self._colour(number))
        return image

    def _paint_face(self, picture, track, number):
        """A box and its label; number: the person's id."""
        box, colour = track.boxes[-1] * self.scale, self._colour(number)
        outline = rounded(box, 0.12 * (box[2] - box[0]))
        polyline(picture, outline, GROUND, self.thick + 2, closed=True)
        polyline(picture, outline, colour, self.thick, closed=True)
        lines = [[(f"{target} ", TEXT, False), (short(value), BRIGHT if self.several else shade, True)]
                 for target, value, shade in zip(self.targets, digits(track), self.colours)]
        lines = [[("● ", colour, False), (f"person {number}", BRIGHT, True)]] * self.several + lines
        self._plate(picture, lines, round(box[0]), round(box[1]), round(box[3]))

    def _colour(self, number):
        """The colour of a person: white if there is only one."""
        colour = PEOPLE[(number - 1) % len(PEOPLE)]
        return tuple(bytes.fromhex(colour[1:])) if self.several else BRIGHT

    def _plate(self, picture, lines, x, y, below=None):
        """Lines of (text, colour, bold) on a dark plate at x, y; above y if `below` is where it may be otherwise."""
        size, inner = self.size, round(0.45 * self.size)
        height = round(1.3 * size) * len(lines) + inner
        width = max(sum(text_mask(text, size, bold).shape[1] for text, _, bold in line) for line in lines) + 2 * inner
        if below is not None:
            gap = self.pad // 2
            y = y - height - gap if y >= height + gap else below + gap
        x, y = (max(0, min(place, end - length)) for place, end, length in
                ((x, self.width, width), (y, self.height, height)))
        put(picture, plate_mask(width, height, round(0.4 * size), 0.8), x, y, GROUND)
        for number, line in enumerate(lines):
            at = x + inner
            for text, colour, bold in line:
                middle = y + inner / 2 + round(1.3 * size) * (number + 0.5)
                write(picture, text, at, middle, size, colour=colour, bold=bold)
                at += text_mask(text, size, bold).shape[1]

    def _paint_traces(self, panel, track, number):
        x = self.right - (track.times_s[-1] - track.times_s) * (self.right - self.left) / self.window_s
        if not self.several:
            self._shade_gaps(panel, x, np.isnan(track.values).any(1))
        for row, (y, colour) in enumerate(zip(self.rows, self.colours)):
            values = np.clip(track.values[:, row] / self.limit, -1, 1)
            points = np.stack([x, y - self.half * values], 1)
            colour = self._colour(number) if self.several else colour
            for first, end in runs(~np.isnan(values) & (x >= self.left)):
                polyline(panel, points[first:end], colour, 1 if self.several else self.thick)
            if not np.isnan(values[-1]):
                disc(panel, points[-1], max(2.5, 2 * self.thick), colour)
            if not self.several:
                text, y = short(digits(track)[row]), y + 0.62 * self.size
                write(panel, text, self.pad, y, self.size, colour=BRIGHT, bold=True)

    def _shade_gaps(self, panel, x, missing):
        """A paler ground and no line where there is no prediction."""
        top, bottom = round(self.rows[0] - self.half), round(self.rows[-1] + self.half)
        for first, end in runs(missing):
            x1, x2 = max(self.left, round(x[max(first - 1, 0)])), round(x[min(end, len(x) - 1)])
            if x2 > x1:
                panel[top:bottom, x1:x2] = SHADE

    def _paint_plane(self, panel, track, colour):
        x, y, side = self.plane
        tail = track.times_s > track.times_s[-1] - TAIL_S
        both = track.values[tail][:, [self.targets.index("valence"), self.targets.index("arousal")]]
        reach = side / 2 - 3 * self.thick
        points = np.clip(both / self.limit, -1, 1) * [reach, -reach] + [x + side / 2, y + side / 2]
        shares = 1 - (track.times_s[-1] - track.times_s[tail]) / TAIL_S
        every = max(1, len(points) // 25)  # so many steps are smooth
        points, shares = points[::-1][::every][::-1], shares[::-1][::every][::-1]
        for (before, after), share in zip(itertools.pairwise(points), shares[1:]):
            if not np.isnan([before, after]).any():
                shade = tuple(round(g + (c - g) * share**1.5) for g, c in zip(GROUND, colour))
                polyline(panel, [before, after], shade, self.thick)
        if not np.isnan(points[-1]).any():
            disc(panel, points[-1], max(3.5, 2.6 * self.thick), colour)


def _scale(width, height):
    """By what a picture is scaled: large ones to LARGEST pixels, those too narrow to write into to SMALLEST."""
    return max(min(1.0, LARGEST / max(width, height)), SMALLEST / width)


def digits(track):
    """The predictions to write (K,): those of the last multiple of DIGITS_S; NaN where there are none now."""
    row = np.searchsorted(track.times_s, np.floor(track.times_s[-1] / DIGITS_S + 1e-3) * DIGITS_S - 1e-3)
    steady = track.values[min(row, len(track.times_s) - 1)]
    return np.where(np.isnan(track.values[-1]) | np.isnan(steady), track.values[-1], steady)


def runs(mask):
    """(first, end) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


# ---- the file -------------------------------------------------------------------------------------------------------

FASTEST = 60  # pictures per second
SOUND_RATE = 48000  # of sound that is not AAC already
X264 = {"preset": "veryfast", "crf": "23"}
BT601, LIMITED = 6, 1  # FFmpeg's numbers for colours as in SMPTE 170M, and for: black is 16 and white 235


def write_overlay(video, table, targets, path, report=lambda frames: None):
    """Writes an .mp4 of the video with its sound and everything in `table` drawn in, whole or not at all.

    table: predictions as predict.py writes them, a DataFrame. Pictures keep the video's rate, and its size between
    SMALLEST and LARGEST pixels. AAC sound is copied; other sound is re-encoded (mono). report(n): called for every n
    frames of the table that are done. A video whose end is missing is drawn up to there. Raises UserError if it cannot
    be read.
    """
    clock = picture_clock(video, ignored)
    tracks, row_s = tracks_of(table, targets)
    window_s, rate = float(np.clip(np.ceil(clock.end_s), *WINDOW_S)), _rate(video, clock)
    about = targets, limit_of(tracks), window_s, len(tracks) > 1, bool(table["face"].fillna("").ne("").any())
    options = {"movflags": "faststart"}
    with (whole_file(path) as part, encoded(path),
          av.open(os.path.abspath(part), "w", format="mp4", options=options) as out):
        overlay = writer = None
        for ks, picture in read_frames(video, float(rate), ignored):
            if not overlay:
                overlay = Overlay((picture.width, picture.height), *about)
                writer, width = Writer(out, overlay, rate, video, clock), picture.width
            for k in ks:
                now = {number: track.at(float(k / rate), row_s) for number, track in tracks.items()}
                now = {number: track._replace(boxes=track.boxes * (width / picture.width))  # sizes can change
                       for number, track in now.items() if track}
                writer.add(overlay.paint(picture.rgb, now))
            report(int((ks[-1] + 1) / rate / row_s) - int(ks[0] / rate / row_s))
        writer.end()


@contextlib.contextmanager
def encoded(path):
    """Raises UserError in place of what an encoder raises in this block, such as where there is too little memory."""
    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):  # of the disk
            raise
        raise UserError(f"{path} cannot be encoded ({error.strerror}): is there too little memory?") from None


def tracks_of(table, targets):
    """{id: Track} of a table of predictions, and for how long a row is valid, in seconds."""
    times_s = np.unique(table["time_s"])
    people = table.groupby("person") if "person" in table else [(1, table)]
    columns = [list(targets), ["x1", "y1", "x2", "y2"]]
    return ({int(number): Track(rows["time_s"].to_numpy(float), *[rows[names].to_numpy(float) for names in columns])
             for number, rows in people}, float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1.0)


def _rate(video, clock):
    """Pictures per second, as a fraction: what the file states, or if its pictures come at other times what they do."""
    with open_media(video) as container:
        stated = video_track(container, video).average_rate
    gaps_s = np.diff(clock.times_s)
    usual = 1 / np.median(gaps_s) if len(gaps_s) else float(stated or 25)
    rate = stated if stated and abs(stated / usual - 1) < 0.05 else Fraction(usual).limit_denominator(1001)
    return min(Fraction(rate), Fraction(FASTEST))


class Writer:
    """Encodes the pictures of an overlay into a container, and the video's sound along with them."""

    def __init__(self, out, overlay, rate, video, clock):
        self.out, self.rate, self.count = out, rate, 0
        self.stream = out.add_stream("libx264", rate=rate, options=X264)
        self.stream.width, self.stream.height = overlay.width, overlay.height + overlay.panel_h
        context, self.stream.pix_fmt = self.stream.codec_context, "yuv420p"
        context.colorspace, context.color_range = BT601, LIMITED
        self.sound = _sound(video, clock, out)
        self.waiting = next(self.sound, None)  # its next packet

    def add(self, rgb):
        """The next picture, (H, W, 3)."""
        frame = av.VideoFrame.from_numpy_buffer(rgb, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU601", threads=1)
        frame.pts, frame.time_base = self.count, 1 / self.rate
        self.out.mux(self.stream.encode(frame))
        self.count += 1
        self._add_sound(self.count / self.rate)

    def _add_sound(self, until_s):
        """Sound is written along with the pictures: the container would keep either in memory."""
        while self.waiting and self.waiting.pts * self.waiting.time_base < until_s:
            self.out.mux(self.waiting)
            self.waiting = next(self.sound, None)

    def end(self):
        """Writes what the encoders still hold."""
        self.out.mux(self.stream.encode())
        self._add_sound(np.inf)


def _sound(video, clock, out):
    """Adds a stream for the sound of a video, if it has any. Generator of its packets, timed from the first picture."""
    with open_media(video) as container:
        if not container.streams.audio:
            return iter(())
        source = sound_track(container, video)
        if source.codec_context.name == "aac":
            return _copied(video, clock, out.add_stream_from_template(source))
        return _encoded(video, clock, out.add_stream("aac", rate=SOUND_RATE, layout="mono"))


def _copied(video, clock, stream):
    """Yields the packets of AAC sound, as they are."""
    with open_media(video) as container:
        source = sound_track(container, video)
        start, last = round(clock.start_s / source.time_base), -1
        for packet in container.demux(source):
            if packet.pts is None or packet.pts - start <= last:  # before the pictures, or after the clock ran back
                continue
            if float((packet.pts - start) * source.time_base) >= clock.end_s:
                return
            last = packet.pts - start
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.pts - start, stream
            yield packet


def _encoded(video, clock, stream):
    """Yields the packets of other sound, encoded; silent where it starts later than the pictures."""
    done, samples = 0, round(clock.end_s * SOUND_RATE)
    for block in read_sound(Path(video), SOUND_RATE, clock.start_s):
        block = block[:samples - done]
        if not len(block):
            break
        frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, done, Fraction(1, SOUND_RATE)
        done += len(block)
        yield from stream.encode(frame)
    yield from stream.encode()
