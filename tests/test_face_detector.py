"""Steps 1 and 1 with frame retention: which picture is frame k, whose face, how it lies in the crop, what is left behind."""
import contextlib
import errno
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import SMALL
from facenet_pytorch import MTCNN
from PIL import Image

import face_detector
import face_detector_frameRetention
import faces
from config import Config
from drawn.people import FRAME_RATE, SOUND_RATE, Recording, write_video
from face_detector import NetServer, RemoteFinder, Track, shots, steadied, steady
from faces import TEMPLATE, Face, FaceFinder, Follower, Tracker, alignment, crop_face
from support.errors import UserError, run_script
from support.media import Picture, read_frames
from support.settings import field_notes, fields_of

BOTH = ["face_detector", "face_detector_frameRetention"]
EVERY = Config().look_every
COLUMNS = ["time_s", "found", "x1", "y1", "x2", "y2", "score"]


# ---- frame k is the picture on show at k / frame_rate seconds -------------------------------------------------------

def bars(number, height=96, width=160):
    """A picture that says its number: 8 black or white bars, the lowest bit on the left."""
    picture = np.zeros((height, width, 3), np.uint8)
    for bit in range(8):
        picture[:, bit * width // 8:(bit + 1) * width // 8] = 255 * (number >> bit & 1)
    return picture


def number_of(rgb):
    width = rgb.shape[1]
    middle = rgb[len(rgb) // 3:-len(rgb) // 3]
    return sum(int(middle[:, bit * width // 8 + 4:(bit + 1) * width // 8 - 4].mean() > 127) << bit for bit in range(8))


def write_pictures(path, pictures, stamps, tick=Fraction(1, 90000), codec="libx264", pixels=Fraction(1)):
    """A video of `pictures` with the time stamps `stamps`, in ticks; pixels: their width by their height."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=round(1 / ((stamps[1] - stamps[0]) * tick)))
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = tick
        stream.codec_context.sample_aspect_ratio = pixels
        for picture, stamp in zip(pictures, stamps):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = stamp, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def on_show(stamps_s, frames, rate=25):
    """The number of the last picture that came at or before k / rate seconds, for every frame k, in exact fractions."""
    return [max(n for n, stamp in enumerate(stamps_s) if stamp - stamps_s[0] <= Fraction(k) / rate) for k in range(frames)]


def numbers_in(video, rate=25):
    ks, numbers = zip(*[(k, number_of(picture.rgb)) for ks, picture in read_frames(video, rate) for k in ks])
    assert list(ks) == list(range(len(ks)))
    return list(numbers)


@pytest.mark.parametrize("fps", [25, 30, Fraction(30000, 1001), 12, 50, Fraction(24000, 1001)])
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_frame_k_of_a_video_of_constant_rate_is_the_picture_on_show_then(fps, kind, tmp_path):
    tick = Fraction(1, 1000) if kind == "mkv" else Fraction(1, 90000)  # Matroska stamps are whole milliseconds
    stamps = [round(n / Fraction(fps) / tick) for n in range(75)]
    video = write_pictures(tmp_path / f"a.{kind}", [bars(n) for n in range(75)], stamps, tick)
    assert numbers_in(video) == on_show([stamp * tick for stamp in stamps], -(-75 * 25 // Fraction(fps)))


@pytest.mark.parametrize("start", [0, 900, 153000])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_frame_k_of_a_variable_rate_is_the_picture_on_show_then(kind, start, tmp_path):
    gaps = np.random.default_rng(start).integers(10, 90, 39) * 90  # 10 to 89 ms, whole milliseconds in all containers
    stamps = [start, *(start + np.cumsum(gaps)).tolist()]
    video = write_pictures(tmp_path / f"a.{kind}", [bars(n) for n in range(40)], stamps)
    seconds = [Fraction(stamp, 90000) for stamp in stamps]
    until_last = int((seconds[-1] - seconds[0]) * 25) + 1  # how long the last one stays, containers put differently
    numbers = numbers_in(video)
    assert numbers[:until_last] == on_show(seconds, until_last)
    assert set(numbers[until_last:]) <= {39} and len(numbers) - until_last <= 3


def test_a_sound_track_longer_than_the_pictures_does_not_make_a_video_a_short_one(tmp_path):
    for kind in ("mp4", "mkv"):
        write_video(tmp_path / f"a.{kind}", [bars(n) for n in range(25)], np.zeros(4 * SOUND_RATE))
        assert numbers_in(tmp_path / f"a.{kind}") == list(range(25))


@pytest.mark.parametrize("rate", [10, 29.97, 60])
def test_frame_rate_of_the_ratings_is_free(rate, tmp_path):
    stamps = [n * 3600 for n in range(30)]
    video = write_pictures(tmp_path / "a.mp4", [bars(n) for n in range(30)], stamps)
    frames = int(np.ceil(30 / 25 * rate))
    assert numbers_in(video, rate) == on_show([Fraction(s, 90000) for s in stamps], frames, Fraction(rate))


def test_ratings_at_the_rate_of_a_video_meet_each_picture_once_though_stamps_are_rounded(tmp_path):
    stamps = [round(n / 30 * 1000) * 16 for n in range(60)]  # 0, 33, 67, 100 ms: a browser's recording, put into an .mp4
    video = write_pictures(tmp_path / "a.mp4", [bars(n) for n in range(60)], stamps, Fraction(1, 16000))
    assert numbers_in(video, 30) == list(range(60))


@pytest.mark.parametrize("first", [0, 1, 2, 250, 251])
def test_a_stream_that_was_copied_from_its_middle_meets_each_picture_once_too(first, tmp_path):
    """The stamp of its first picture was rounded as well, and times are counted from it."""
    stamps = [round((first + n) / 30 * 1000) for n in range(60)]
    video = write_pictures(tmp_path / "a.mkv", [bars(n) for n in range(60)], stamps, Fraction(1, 1000))
    assert numbers_in(video, 30) == list(range(60))


def test_a_video_trimmed_by_an_edit_list_is_no_short_one(tmp_path):
    """Its header counts all pictures, and says from when to when they are shown."""
    video = write_pictures(tmp_path / "a.mp4", [bars(n) for n in range(100)], [n * 3600 for n in range(100)])
    data = bytearray(video.read_bytes())
    at = data.index(b"elst") + 12  # after the name, version, flags and number of edits: its length (1/1000 s), and from where on (1/90000 s)
    media_time = int.from_bytes(data[at + 4:at + 8], "big")
    data[at:at + 8] = (2000).to_bytes(4, "big") + (media_time + 50 * 3600).to_bytes(4, "big")
    video.write_bytes(data)
    assert numbers_in(video) == list(range(50, 100))


def test_an_avi_with_dropped_pictures_is_no_short_one(tmp_path):
    kept = [n for n in range(100) if n % 5 != 3]
    video = write_pictures(tmp_path / "a.avi", [bars(n) for n in kept], kept, Fraction(1, 25), "mpeg4")
    assert numbers_in(video) == [n - (n % 5 == 3) for n in range(100)]
    video.write_bytes(video.read_bytes()[:video.stat().st_size * 6 // 10])
    with pytest.raises(UserError, match="cut short"):
        numbers_in(video)


def test_pictures_that_cannot_be_decoded_at_the_beginning_are_not_replaced_by_later_ones(tmp_path):
    """A broadcast cut anywhere: up to its first picture that needs no other, there is nothing to see."""
    with av.open(str(tmp_path / "a.ts"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        for n in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bars(n), format="rgb24")))
        container.mux(stream.encode())
    for first in (0, 4):
        with av.open(str(tmp_path / "a.ts")) as whole, av.open(str(tmp_path / f"from_{first}.ts"), "w") as copy:
            out = copy.add_stream_from_template(whole.streams.video[0])
            for packet in [packet for packet in whole.demux(video=0) if packet.dts is not None][first:]:
                packet.stream = out
                copy.mux(packet)
    assert numbers_in(tmp_path / "from_0.ts") == list(range(40))
    with pytest.raises(UserError, match=r"from_4.ts is damaged: its first 0\.2 s cannot be decoded"):
        numbers_in(tmp_path / "from_4.ts")


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mjpeg"])
def test_avi_which_stores_no_times_is_read_in_order(codec, tmp_path):
    """FFmpeg guesses times for the pictures of an .avi that go backwards where pictures refer to later ones."""
    video = write_pictures(tmp_path / "a.avi", [bars(n) for n in range(40)], list(range(40)), Fraction(1, 30), codec)
    assert numbers_in(video) == on_show([Fraction(n, 30) for n in range(40)], 34)


def shown(rgb):
    """A Picture of that content."""
    return Picture(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"))


CARD = np.array([[(220, 40, 40), (40, 200, 40)], [(40, 40, 210), (230, 210, 40)]], np.uint8)  # red green / blue yellow


def card(height=120, width=160):
    return cv2.resize(CARD, (width, height), interpolation=cv2.INTER_NEAREST)


def corners(rgb):
    """The colours of a card's four fields, from the middle of each: (2, 2, 3)."""
    height, width = rgb.shape[:2]
    return np.array([[rgb[y * height // 4, x * width // 4] for x in (1, 3)] for y in (1, 3)]).astype(int)


def test_pictures_are_rgb_and_upright(tmp_path):
    video = write_pictures(tmp_path / "a.mp4", [card()] * 3, [0, 3600, 7200])
    for _, picture in read_frames(video, 25):
        assert picture.rgb.shape == (120, 160, 3) and picture.rgb.dtype == np.uint8 and np.abs(corners(picture.rgb) - CARD).max() < 25


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_camera_held_sideways_is_turned_upright(quarters, mirrored, tmp_path):
    """A phone stores the picture as the sensor sees it, and in the track's header by how much to turn it, or that it is mirrored."""
    stored = np.rot90(card(), quarters)
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]  # clockwise, as ISO 14496-12 has it: (a, b, u, c, d, v, x, y, w)
    (a, b), (c, d) = (cos, sin), (-sin, cos)  # x, y of the picture are a x + c y, b x + d y of what is stored
    if mirrored:  # left and right of what is stored are exchanged
        stored, (a, b) = stored[:, ::-1], (-a, -b)
    video = write_pictures(tmp_path / "a.mp4", [np.ascontiguousarray(stored)] * 3, [0, 3600, 7200])
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data = bytearray(video.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # after version, times, id, duration, layer and volume
    data[at:at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
    video.write_bytes(data)
    for _, picture in read_frames(video, 25):
        assert (picture.height, picture.width) == (120, 160)
        assert picture.rgb.shape == (120, 160, 3) and np.abs(corners(picture.rgb) - CARD).max() < 25


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    video = write_pictures(tmp_path / "a.mp4", [card(120, 80)] * 3, [0, 3600, 7200], pixels=Fraction(2))
    for _, picture in read_frames(video, 25):
        assert (picture.height, picture.width) == (120, 160)
        assert picture.rgb.shape == (120, 160, 3) and np.abs(corners(picture.rgb) - CARD).max() < 25


def stored(rgb, pixels, **tags):
    """A Picture of that content in the pixel format of a video."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(format=pixels)
    for name, value in tags.items():
        setattr(frame, name, value)
    return Picture(frame), frame


def clouds(height, width, seed=0):
    """A picture with every colour, and no edges."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((height, width, 3)), (0, 0), 6)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


TAGS = [{}, {"colorspace": 1}, {"color_range": 2}, {"colorspace": 1, "color_range": 2}, {"colorspace": 5}, {"colorspace": 6}]  # 1: BT.709


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "rgb24", "gray", "yuv420p10le"])
def test_colours_are_those_of_ffmpeg_in_every_pixel_format(pixels, tags):
    for height, width in ((96, 128), (95, 127)):
        picture, frame = stored(clouds(height, width), pixels, **tags)
        theirs = frame.to_ndarray(format="rgb24").astype(int)
        assert picture.rgb.shape == (height, width, 3) and np.abs(picture.rgb - theirs).max() <= 4


@pytest.mark.parametrize("kr, kb, colourspace", [(0.299, 0.114, 5), (0.299, 0.114, 6), (0.2126, 0.0722, 1)])
@pytest.mark.parametrize("full", [False, True])
def test_colours_follow_the_formulas_of_the_standards(kr, kb, colourspace, full):
    """ITU-R BT.601 and BT.709, in the range of television and in the full one."""
    for rgb in ([220, 40, 40], [40, 200, 40], [40, 40, 210], [128, 128, 128], [200, 160, 130]):
        r, g, b = np.array(rgb) / 255
        y = kr * r + (1 - kr - kb) * g + kb * b
        colours = (b - y) / 2 / (1 - kb), (r - y) / 2 / (1 - kr)
        y, *colours = [255 * y, *(128 + 255 * c for c in colours)] if full else [16 + 219 * y, *(128 + 224 * c for c in colours)]
        planes = np.concatenate([np.full(64 * 64, round(y)), *(np.full(32 * 32, round(c)) for c in colours)]).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(planes.reshape(96, 64), format="yuv420p")
        frame.colorspace, frame.color_range = colourspace, 1 + full
        assert np.abs(Picture(frame).rgb.astype(int) - rgb).max() <= 4
        assert np.abs(Picture(frame).region(10, 10, 30, 30)[0].astype(int) - rgb).max() <= 4


@pytest.mark.parametrize("pixels, tags", [*[("yuv420p", tags) for tags in TAGS], ("yuvj420p", {}), ("yuv444p", {}), ("rgb24", {})])
@pytest.mark.parametrize("height, width", [(96, 128), (95, 127)])
def test_a_region_is_the_same_part_of_the_whole_picture(pixels, tags, height, width):
    rng = np.random.default_rng(height)
    boxes = [(0, 0, width, height), (-20, -9, 500, 400), (-30, 10, -4, 20), (200, 300, 240, 320), (40, 40, 40, 40), (7.3, 5.9, 8.1, 6.2)]
    boxes += [(x, y, x + w, y + h) for x, y, w, h in rng.uniform((-20, -20, 1, 1), (width, height, 90, 90), (40, 4))]
    boxes += [tuple(map(int, one)) for one in boxes[-20:]]  # odd and even corners
    whole = stored(clouds(height, width), pixels, **tags)[0].rgb
    for x1, y1, x2, y2 in boxes:
        picture = stored(clouds(height, width), pixels, **tags)[0]
        part, (left, top) = picture.region(x1, y1, x2, y2)
        assert np.array_equal(part, whole[top:top + part.shape[0], left:left + part.shape[1]])
        if min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0):  # all of the box that is in the picture
            assert left <= max(x1, 0) and top <= max(y1, 0)
            assert left + part.shape[1] >= min(x2, width) and top + part.shape[0] >= min(y2, height)
            assert part.shape[1] <= x2 - x1 + 4 and part.shape[0] <= y2 - y1 + 4  # and no more
        assert part.shape[2] == 3 and picture.region(x1, y1, x2, y2)[1] == (left, top)


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    peaks = []
    for pictures in (40, 400):
        video = write_pictures(tmp_path / f"{pictures}.mp4", [bars(1)] * pictures, [n * 3600 for n in range(pictures)])
        find = lambda rgb: (np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0))
        tracemalloc.start()
        made = steadied(shots(read_frames(video, 25), Tracker(find), 25, 3, []), 25)
        assert sum(1 for _ in made) == pictures
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 4 * bars(1).nbytes  # 360 pictures more


# ---- the crop -------------------------------------------------------------------------------------------------------

def least_squares(points):
    """The similarity transform to TEMPLATE by numpy's solver: x' = ax - by + c, y' = bx + ay + d."""
    rows = [row for x, y in points for row in ((x, -y, 1, 0), (y, x, 0, 1))]
    a, b, c, d = np.linalg.lstsq(np.array(rows), TEMPLATE.ravel(), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


@pytest.mark.parametrize("seed", range(20))
def test_alignment_is_the_least_squares_similarity_and_never_a_mirror(seed):
    rng = np.random.default_rng(seed)
    angle, scale = rng.uniform(-np.pi, np.pi), rng.uniform(20, 400)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = TEMPLATE @ turn.T + rng.uniform(0, 500, 2) + rng.normal(0, 0.03 * scale, (5, 2))
    for landmarks in (points, points * [-1, 1]):  # and seen in a mirror
        matrix = alignment(landmarks)
        assert np.allclose(matrix, least_squares(landmarks), atol=1e-9)
        assert np.linalg.det(matrix[:, :2]) > 0
    its_inverse, _ = cv2.estimateAffinePartial2D(TEMPLATE, TEMPLATE @ turn.T + 7)  # exact points: OpenCV agrees
    assert np.allclose(alignment(TEMPLATE @ turn.T + 7), cv2.invertAffineTransform(its_inverse), atol=1e-4)


@pytest.mark.parametrize("size", [32, 112, 224])
@pytest.mark.parametrize("roll, scale", [(0, 60), (0.5, 90), (-1.2, 150), (3, 300)])
def test_landmarks_come_to_their_places_in_the_crop(size, roll, scale):
    turn = scale * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    points = (TEMPLATE - TEMPLATE.mean(0)) @ turn.T + [403.3, 297.8]
    y, x = np.mgrid[:600, :800] + 0.5  # middles of the pixels, as places
    width = max(0.5 * scale / size, 1)
    picture = sum(255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 2 / width**2) for px, py in points)
    crop = crop_face(shown(np.repeat(picture.clip(0, 255)[..., None], 3, 2).astype(np.uint8)), points, size)
    assert crop.shape == (size, size, 3)
    row, column = np.mgrid[:size, :size] + 0.5
    for px, py in TEMPLATE * size:  # the dot's centre of gravity
        near = crop[..., 0] * (np.hypot(column - px, row - py) < max(2.5, 3 * width * size / scale))
        assert abs((near * column).sum() / near.sum() - px) < 0.3 and abs((near * row).sum() / near.sum() - py) < 0.3


@pytest.fixture(scope="module")
def find():
    return FaceFinder(60, 0.9, torch.device("cpu"))


@pytest.mark.parametrize("roll, scale", [(-0.25, 1), (0, 1), (0.25, 1), (0, 1.6), (0.15, 2.5)])
def test_eyes_of_drawn_people_are_level_and_at_fixed_places_and_scale(roll, scale, find):
    """Against the places that the painter knows, for what the detector makes of the picture."""
    eyes = []
    for person in range(6):
        drawn = Recording.draw((41, person), 10)
        drawn.motion.roll[:], drawn.motion.yaw[:], drawn.motion.lids[:], drawn.actions[:] = roll, 0, 0, 0
        picture = cv2.resize(drawn.painter.paint(drawn.actions, drawn.motion, 5), None, fx=scale, fy=scale)
        boxes, points, _ = find(picture)
        truth = (drawn.painter.landmarks(drawn.motion, 5) + 0.5) * scale
        matrix = alignment(points[Follower().choose(boxes, 0)])
        eyes.append((truth @ matrix[:, :2].T + matrix[:, 2])[:2])
    eyes = np.array(eyes)
    span = eyes[:, 1] - eyes[:, 0]
    tilts, places = np.abs(np.degrees(np.arctan2(span[:, 1], span[:, 0]))), np.abs(eyes - TEMPLATE[:2])
    assert tilts.mean() < 4 and tilts.max() < 8  # degrees, where the head's own are up to 14: MTCNN's landmarks are no better
    assert places.mean() < 0.025 and places.max() < 0.06  # of the crop's side: 3 and 7 pixels of 112
    assert np.abs(np.hypot(*span.T) / np.hypot(*(TEMPLATE[1] - TEMPLATE[0])) - 1).max() < 0.15


def test_a_face_half_out_of_the_picture_is_black_where_the_picture_ends():
    crop = crop_face(shown(np.full((100, 100, 3), 200, np.uint8)), (TEMPLATE - [0.5, 0]) * 100, 64)
    assert (crop[:, :30] == 0).all() and (crop[2:-2, 34:-2] == 200).all()


def steady_in_loops(points, times_s):
    """`steady` one picture after the other, as its docstring has it."""
    middle, total, weight = len(points) // 2, np.zeros((5, 2)), 0.0
    eyes = max(abs(points[middle][1] - points[middle][0]))
    for side in (0, 1):  # the middle one and those before it, then those after it
        for step in range(side, middle + 1):
            pair = points[middle - step], points[middle + step]
            if not all(np.mean([abs(one[i, j] - points[middle][i, j]) for i in range(5) for j in range(2)]) <= 0.25 * eyes for one in pair):
                break
            at = middle + step if side else middle - step
            share = max(0, 1 - abs(times_s[at] - times_s[middle]) / 0.12)
            total, weight = total + share * points[at], weight + share
    return total / weight


def steady_middle(points, times_s):
    """What `steady` makes of the middle one of a few pictures."""
    return steady(points, times_s, len(points) // 2)[0]


def landmarks_of(xs, noise=0, seed=0):
    """Landmarks of faces 100 pixels wide at (x, 80): (n, 5, 2)."""
    return TEMPLATE * 100 + np.stack([xs, np.full(len(xs), 80)], 1)[:, None] + noise * np.random.default_rng(seed).standard_normal((len(xs), 5, 2))


TIMES_S = np.arange(7) / 25


@pytest.mark.parametrize("seed", range(20))
def test_steady_landmarks_are_those_of_a_naive_loop(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 3, 5, 7, 11]))
    points = landmarks_of(np.cumsum(rng.normal(0, rng.choice([1, 5, 12]), n)), 1, seed)
    points[rng.random(n) < 0.2 * (np.arange(n) != n // 2)] = np.nan
    times_s = np.cumsum(rng.uniform(0.01, 0.06, n))
    assert np.allclose(steady_middle(points, times_s), steady_in_loops(points, times_s), atol=1e-9)


def test_a_head_of_constant_speed_is_left_where_it_is():
    for speed in (0, 0.5, 2, -3.7):
        points = landmarks_of(speed * np.arange(7))
        assert np.allclose(steady_middle(points, TIMES_S), points[3], atol=1e-9)


def test_noise_is_averaged_and_a_lone_face_is_left_as_it_is():
    spread = [np.std([steady_middle(landmarks_of(np.zeros(7), 1, seed)[one], TIMES_S[one])[0, 0] for seed in range(400)])
              for one in (slice(0, 7), slice(3, 4))]
    weights = np.array([0, 1, 2, 3, 2, 1, 0]) / 9
    assert abs(spread[0] - np.sqrt((weights**2).sum())) < 0.05 and abs(spread[1] - 1) < 0.1
    points = landmarks_of(np.zeros(7), 1)
    points[[0, 1, 2, 4, 5, 6]] = np.nan
    assert np.array_equal(steady_middle(points, TIMES_S), points[3])


@pytest.mark.parametrize("cut_at", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("there", [200, np.nan])
def test_neighbours_across_a_cut_or_a_gap_have_no_influence(cut_at, there):
    points = landmarks_of(np.zeros(7), 1)
    after = points.copy()
    other = slice(cut_at, None) if cut_at > 3 else slice(0, cut_at)  # the side of the cut on which the middle one is not
    after[other] += there
    elsewhere = after.copy()
    elsewhere[other] += 1000
    assert np.isfinite(steady_middle(after, TIMES_S)).all() and np.array_equal(steady_middle(after, TIMES_S), steady_middle(elsewhere, TIMES_S))
    assert np.abs(steady_middle(after, TIMES_S) - points[3]).max() < 5


# ---- whose face -----------------------------------------------------------------------------------------------------

def box(x, width=60, y=100):
    return [x - width / 2, y - width / 2, x + width / 2, y + width / 2]


def follow(scenes):
    """The middle, left to right, of the face that is followed, in scenes of boxes 40 ms apart; None where there is none."""
    follower, middles = Follower(), []
    for k, scene in enumerate(scenes):
        boxes = np.array(scene, float).reshape(-1, 4)
        row = follower.choose(boxes, k / 25)
        middles.append(None if row is None else float(boxes[row, [0, 2]].mean()))
    return middles


def test_the_largest_face_is_followed_even_when_another_grows_larger():
    assert follow([[box(50, 40), box(250, 60)], [box(50, 58), box(251, 60)], [box(50, 80), box(252, 60)]]) == [250, 251, 252]


def test_a_face_is_followed_across_the_picture_whatever_the_order_of_the_boxes():
    scenes = [[box(60 + 10 * k), box(300 - 2 * k, 50)][::(-1) ** k] for k in range(15)]
    assert follow(scenes) == [60 + 10 * k for k in range(15)]


def test_two_who_pass_close_by_are_not_exchanged():
    scenes = [[box(100 + 3 * k, 60, 80), box(220 - 3 * k, 50, 125)][::(-1) ** k] for k in range(40)]
    assert follow(scenes) == [100 + 3 * k for k in range(40)]


def test_nobody_is_taken_for_a_person_out_of_sight_and_that_person_is_found_again():
    """The others, one of whom the detector misses now and then, stay others: also within the reach of the one away."""
    both, alone, missed = [box(100), box(190, 55)], [box(190, 55)], []
    away = [missed if k % 7 == 3 else alone for k in range(100)]
    assert follow([both] * 5 + away + [both] * 5) == [100] * 5 + [None] * 100 + [100] * 5


def test_a_person_who_comes_back_elsewhere_is_found_again():
    middles = follow([[box(100)]] * 5 + [[]] * 25 + [[box(260)]] * 5)
    assert middles == [100] * 5 + [None] * 25 + [260] * 5


def test_a_cut_that_moves_a_face_further_than_its_reach_loses_it_for_moments_only():
    middles = follow([[box(100)]] * 5 + [[box(340)]] * 50)
    assert middles[5] is None and middles[-10:] == [340] * 10


def test_a_person_gone_for_long_is_given_up():
    middles = follow([[box(100), box(300, 50)]] * 3 + [[box(300, 50)]] * 300)
    assert middles[3:240] == [None] * 237 and middles[-1] == 300


def test_a_second_box_on_the_same_face_is_nobody_else():
    scenes = [[box(100 + 4 * k), box(108 + 4 * k, 50)][:1 + (k < 5)] for k in range(10)]
    assert follow(scenes) == [100 + 4 * k for k in range(10)]


def test_of_two_drawn_people_one_is_followed_through_an_absence(tmp_path, call):
    left, right = Recording.draw((5, 3), 40), Recording.draw((5, 8), 40)
    assert left.painter.look.scale > right.painter.look.scale + 3  # so that the left one is the largest
    for one in (left, right):
        one.motion.x[:], one.motion.yaw[:] = 160, 0
    left.motion.x[6:32] = -200
    pictures = [np.hstack([one[:, 60:260] for one in both]) for both in zip(left.frames(), right.frames())]
    write_video(tmp_path / "videos" / "train_1.mp4", pictures)
    code, _, _ = call("face_detector", "--data-dir", tmp_path, *SMALL)
    table = pd.read_csv(tmp_path / "Cropped_Aligned" / "train_1" / "faces.csv")
    assert code == 0 and list(table["found"] == "missing") == [False] * 6 + [True] * 26 + [False] * 8
    assert table["x2"].max() < 200


# ---- the tracker, on drawn people -----------------------------------------------------------------------------------

def sitter(seed, frames):
    """A drawn person who sits still, in the middle of the picture, and looks at the camera."""
    drawn = Recording.draw(seed, frames)
    motion = drawn.motion
    motion.x[:], motion.y[:], motion.yaw[:], motion.pitch[:], motion.roll[:], motion.light[:] = 160, 120, 0, 0, 0, 1
    motion.lids[:], motion.gaze_x[:], motion.gaze_y[:], motion.light_from[:] = 0, 0, 0, motion.light_from[0]
    drawn.actions[:] = drawn.actions[:, :1]
    return drawn


def look_at(pictures, find, folder, look_every=EVERY):
    """Shots, and steady landmarks or None, of a video of `pictures`."""
    write_video(folder / "look.mp4", pictures)
    with faces.one_thread():
        made = list(steadied(shots(read_frames(folder / "look.mp4", 25), Tracker(find), 25, look_every, []), 25))
    assert [k for shot, _ in made for k in shot.ks] == list(range(len(made)))  # every frame is counted
    assert all((shot.face is None) == (shot.how == "missing") == (points is None) for shot, points in made)
    return [shot for shot, _ in made], [points for _, points in made]


def detect_each(video, find):
    """Face or None of every picture: all of MTCNN on each, without the Tracker."""
    follower, faces = Follower(), []
    with faces.one_thread():
        for ks, picture in read_frames(video, 25):
            boxes, points, scores = find(picture.rgb)
            row = follower.choose(boxes, ks[0] / 25)
            faces.append(None if row is None else Face(boxes[row], points[row], scores[row]))
    return faces


def middles(seen):
    """Where each face is, (x, y); NaN where there is none: (n, 2)."""
    return np.array([(one.face.box[:2] + one.face.box[2:]) / 2 if one.face else [np.nan] * 2 for one in seen])


def is_found(seen):
    return np.array([one.face is not None for one in seen])


def off_head(seen, drawn):
    """How far the middle of each box is from the middle of the drawn head, in widths of it (0.5: at its side); NaN where there is none."""
    truth = np.stack([drawn.motion.x, drawn.motion.y], 1)[:len(seen)]
    return np.hypot(*(middles(seen) - truth).T) / (2 * drawn.painter.look.scale * drawn.painter.look.width)


@pytest.mark.parametrize("cut_at, seed", [(18 + place, place) for place in range(EVERY)])  # at every place among the pictures looked at together
def test_after_a_cut_the_face_is_found_elsewhere_and_never_on_the_background(seed, cut_at, find, tmp_path):
    one, other = sitter((62, seed), 26), sitter((62, seed), 18)
    one.motion.x[:], other.motion.x[:], other.painter.room = 90, 210, Recording.draw((63, seed), 1).painter.room
    seen, points = look_at([*one.frames()][:cut_at] + [*other.frames()], find, tmp_path)
    x = middles(seen)[:, 0]
    assert (np.abs(x[:cut_at] - 90) < 12).all()
    later = x[cut_at:][~np.isnan(x[cut_at:])]
    assert is_found(seen[cut_at + 12:]).all() and (np.abs(later - 210) < 12).all()  # within half a second; nothing else
    assert all(abs(place[2, 0] - at) < 15 for place, at in zip(points, [90] * cut_at + [210] * 18) if place is not None)  # no nose in between


@pytest.mark.parametrize("cut_at", range(18, 18 + EVERY))
def test_after_a_cut_to_a_picture_without_a_face_it_is_missing_from_the_first_frame_on(cut_at, find, tmp_path):
    one = sitter((62, cut_at), 36)
    one.motion.x[cut_at:] = -300
    seen, _ = look_at(one.frames(), find, tmp_path)
    assert list(is_found(seen)) == [True] * cut_at + [False] * (36 - cut_at)


@pytest.mark.parametrize("gone", range(18, 18 + EVERY))
@pytest.mark.parametrize("how", ["out of the picture", "behind a card", "a dark picture"])
def test_a_face_that_is_gone_for_one_picture_is_missing_there(how, gone, find, tmp_path):
    drawn = sitter((62, gone), 36)
    pictures = list(drawn.frames())
    if how == "out of the picture":
        drawn.motion.x[gone] = -300
        pictures[gone] = drawn.painter.paint(drawn.actions, drawn.motion, gone)
    elif how == "behind a card":
        pictures[gone][40:200, 90:230] = (90, 120, 150)
    else:
        pictures[gone] = np.full_like(pictures[gone], 20)
    seen, _ = look_at(pictures, find, tmp_path)
    assert list(is_found(seen)) == [k != gone for k in range(36)]


def test_another_light_is_no_other_face(find, tmp_path):
    drawn = sitter((62, 1), 36)
    drawn.motion.light[:] = 1 + 0.25 * np.sin(np.arange(36) / 3)
    seen, _ = look_at(drawn.frames(), find, tmp_path)
    assert [one.how for one in seen] == ["detected"] + ["tracked"] * 35


def two_panels(left, right):
    return [np.hstack([one[:, 60:260] for one in both]) for both in zip(left.frames(), right.frames())]


@pytest.mark.parametrize("leaves, seed", [("at once", 0), ("walking", 1)])
def test_somebody_who_came_in_later_is_not_taken_for_the_one_followed_who_leaves(leaves, seed, find, tmp_path):
    """The second one comes in while the first is tracked: no full detection saw both before the first is gone."""
    first, second = sitter((64, seed), 80), sitter((65, seed), 80)
    second.motion.x[:] = np.interp(np.arange(80), [0, 10, 25, 80], [420, 420, 170, 160])
    first.motion.x[:] = np.interp(np.arange(80), [0, 40, 55], [160, 160, -160]) if leaves == "walking" else np.where(np.arange(80) < 40, 160, -300)
    seen, _ = look_at(two_panels(first, second), find, tmp_path)
    x = middles(seen)[:, 0]
    assert is_found(seen[:40]).all() and np.count_nonzero(is_found(seen[46:])) == 0
    assert np.nanmax(x) < 120 and (leaves == "walking" or not is_found(seen[40:]).any())
    assert [shot.how for shot in seen[:40]] == ["detected"] + ["tracked"] * 39


def together(behind, before):
    """Pictures of two people in one room, the second in front of the first."""
    for k, (far, near) in enumerate(zip(behind.frames(), before.frames())):
        cover = cv2.warpAffine(before.painter.outline, before.painter._canvas_to_picture(before.motion, k), (320, 240))[..., None]
        yield (far * (1 - cover) + near * cover).astype(np.uint8)


def test_somebody_who_passes_close_behind_is_not_followed(find, tmp_path):
    first, passer = sitter((64, 0), 70), sitter((65, 0), 70)
    first.motion.y[:], passer.motion.y[:], passer.painter.look.scale = 150, 70, 44
    passer.motion.x[:] = np.interp(np.arange(70), [0, 5, 65], [420, 420, 20])
    seen, _ = look_at(together(passer, first), find, tmp_path)
    assert is_found(seen).all() and np.nanmax(off_head(seen, first)) < 0.2


def test_somebody_who_passes_in_front_is_not_followed(find, tmp_path):
    first, passer = sitter((64, 2), 60), sitter((65, 2), 60)
    passer.motion.x[:] = np.interp(np.arange(60), [0, 5, 55], [420, 420, -100])
    seen, _ = look_at(together(first, passer), find, tmp_path)
    full = detect_each(tmp_path / "look.mp4", find)
    assert all(full[-5:]) and min(face.box[[0, 2]].mean() for face in full if face) > 120
    assert is_found(seen[-5:]).all() and np.nanmin(middles(seen)[:, 0]) > 120


@pytest.mark.parametrize("seed", range(2))
def test_a_face_that_leaves_the_picture_and_returns_is_missing_exactly_meanwhile(seed, find, tmp_path):
    drawn = sitter((66, seed), 100)
    drawn.motion.x[:] = 160 + (-1)**seed * np.interp(np.arange(100), [0, 25, 40, 65, 80], [0, 0, 260, 260, 0])
    seen, _ = look_at(drawn.frames(), find, tmp_path)
    half = drawn.painter.look.scale * drawn.painter.look.width
    inside = np.clip((np.minimum(drawn.motion.x + half, 320) - np.maximum(drawn.motion.x - half, 0)) / (2 * half), 0, 1)  # share of the face
    found, border = is_found(seen), (inside > 0.25) & (inside < 0.8)
    assert border.sum() <= 6 and np.array_equal(found[~border], inside[~border] > 0.5)
    assert np.count_nonzero(np.diff(found)) == 2  # gone once and back once
    back = int(np.flatnonzero(~found)[-1]) + 1
    assert [seen[0].how, seen[back].how] == ["detected"] * 2 and sum(one.how == "detected" for one in seen) <= 10
    assert np.nanmax(off_head(seen, drawn)) < 0.5


def test_a_person_who_comes_back_fast_is_not_taken_for_somebody_else(find, tmp_path):
    """A person of the demo: half in the picture again, the box that was tracked was a width away from where MTCNN saw the face."""
    drawn = Recording.draw((0, 4), 750)
    seen, _ = look_at(itertools.islice(drawn.frames(), 150), find, tmp_path)
    full = np.array([face is not None for face in detect_each(tmp_path / "look.mp4", find)])
    assert 20 < np.count_nonzero(~full) < 60 and np.mean(is_found(seen) == full) >= 0.99


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("turn", [0.5, 1.57])  # radians: as far as drawn people turn, and to the profile
def test_a_head_that_turns_away_and_back_is_followed_or_missing_and_nothing_else_is(turn, seed, find, tmp_path):
    drawn = sitter((67, seed), 75)
    drawn.motion.yaw[:] = (-1)**seed * turn * np.interp(np.arange(75), [0, 5, 25, 45, 65], [0, 0, 1, 1, 0])
    seen, _ = look_at(drawn.frames(), find, tmp_path)
    assert np.nanmax(off_head(seen, drawn)) < 0.3 and is_found(seen[:15] + seen[-8:]).all()
    width = 2 * drawn.painter.look.scale * drawn.painter.look.width
    assert all(0.7 < (one.face.box[2] - one.face.box[0]) / width < 1.3 for one in seen if one.face)
    assert turn > 1 or is_found(seen).all()


@pytest.mark.parametrize("speed", [6, 12])  # pixels per frame: a sixth of the face
def test_a_face_blurred_by_its_motion_is_followed(speed, find, tmp_path):
    drawn = sitter((68, 1), 40 * 4)
    drawn.motion.x[:] = 160 + 90 * np.sin(np.arange(160) / 4 * speed / 90)
    painted = iter(drawn.frames())
    pictures = [np.mean([next(painted) for _ in range(4)], axis=0).astype(np.uint8) for _ in range(40)]  # the shutter is open all the time
    seen, _ = look_at(pictures, find, tmp_path)
    assert is_found(seen).all() and np.abs(middles(seen)[:, 0] - drawn.motion.x.reshape(40, 4).mean(1)).max() < 10
    assert sum(one.how == "detected" for one in seen) == 1


def test_a_face_far_too_small_is_missing_and_one_that_shrinks_is_lost(find, tmp_path):
    """MTCNN's smallest face is a nominal one: it finds some of two thirds of that."""
    drawn = sitter((69, 0), 50)
    drawn.painter.look.scale = 18
    assert not is_found(look_at(itertools.islice(drawn.frames(), 12), find, tmp_path)[0]).any()
    pictures = []
    for k in range(50):
        drawn.painter.look.scale = np.interp(k, [0, 5, 40], [52, 52, 15])
        pictures.append(drawn.painter.paint(drawn.actions, drawn.motion, k))
    seen, _ = look_at(pictures, find, tmp_path)
    assert is_found(seen[:20]).all() and not is_found(seen[-8:]).any()
    assert min(max(one.face.box[2:] - one.face.box[:2]) for one in seen if one.face) > 0.5 * find.min_face_size


def test_a_face_a_little_too_small_is_not_searched_for_in_every_picture_or_not_found(find, tmp_path):
    drawn = sitter((69, 0), 20)
    drawn.painter.look.scale = 32
    seen, _ = look_at(drawn.frames(), find, tmp_path)
    assert sum(one.how == "detected" for one in seen) < 5


def backdrop(kind, seed):
    """A picture without a face, with something to look at."""
    rng = np.random.default_rng(seed)
    if kind == "room":
        return Recording.draw((70, seed), 1).painter.room.astype(np.uint8)
    if kind == "ellipses":
        picture = np.full((240, 320, 3), rng.integers(40, 200), np.uint8)
        for _ in range(40):
            cv2.ellipse(picture, rng.integers(0, 320, 2).tolist(), rng.integers(5, 60, 2).tolist(), float(rng.uniform(0, 180)), 0, 360,
                        rng.integers(0, 255, 3).tolist(), -1, cv2.LINE_AA)
        return picture
    noise = cv2.GaussianBlur(rng.standard_normal((240, 320, 3)), (0, 0), kind)
    return np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)


def put_on(box, pictures, find):
    """What a Tracker that took `box` for the face makes of the pictures that follow."""
    tracker, (x1, y1, x2, y2) = Tracker(find), box
    face = Face(np.array(box), TEMPLATE * [x2 - x1, y2 - y1] + [x1, y1], 0.99)
    tracker.follower.choose(face.box[None], 0)
    tracker.skip(shown(pictures[0]), 0, face)
    with faces.one_thread():
        return [face for k in range(1, len(pictures), EVERY)
                for face, _ in tracker([shown(one) for one in pictures[k:k + EVERY]], [(k + i) / 25 for i in range(len(pictures[k:k + EVERY]))])]


@pytest.mark.parametrize("kind", ["room", "ellipses", 1, 3, 8])
def test_a_tracker_on_the_background_loses_it_within_half_a_second(kind, find):
    rng = np.random.default_rng(5)
    for seed in range(3):
        picture = backdrop(kind, seed)
        noisy = [np.clip(picture + rng.normal(0, 2.5, picture.shape), 0, 255).astype(np.uint8) for _ in range(17)]
        for side, x, y in rng.uniform((62, 0, 0), (140, 180, 100), (3, 3)):
            faces = put_on([x, y, x + 0.8 * side, y + side], noisy, find)
            assert not any(faces[12:])


def test_a_tracker_on_the_background_beside_a_face_ends_on_nothing_or_on_the_face(find):
    drawn = sitter((71, 0), 19)
    drawn.motion.x[:] = 230
    pictures = list(drawn.frames())
    for side, x, y in np.random.default_rng(0).uniform((62, 0, 0), (110, 70, 100), (3, 3)):
        faces = put_on([x, y, x + 0.8 * side, y + side], pictures, find)
        assert all(abs(face.box[[0, 2]].mean() - 230) < 12 for face in faces[12:] if face)


# ---- steady crops ---------------------------------------------------------------------------------------------------

def jitter_px(points, drawn):
    """How far the drawn landmarks move in a crop of 112 pixels from frame to frame, the one that moves most: (n - 1,)."""
    places = []
    for k, found in enumerate(points):
        matrix = alignment(found) * 112
        places.append((drawn.painter.landmarks(drawn.motion, k) + 0.5) @ matrix[:, :2].T + matrix[:, 2])
    return np.hypot(*np.moveaxis(np.diff(places, axis=0), -1, 0)).max(1)


@pytest.mark.parametrize("kind", ["clean", "noisy", "drifting"])
def test_crops_of_a_still_head_are_still(kind, find, tmp_path):
    """Mean and largest movement in 112 px: less than half a pixel and than one; and less than with MTCNN on each frame.

    A drawn head that does not move is compressed to pictures that are the same to the last bit: so is what MTCNN finds.
    """
    drawn, rng = sitter((73, 0), 45), np.random.default_rng(0)
    drawn.motion.x[:] = 150 + 0.37 * np.arange(45) * (kind == "drifting")
    pictures = [np.clip(one + rng.normal(0, 6 * (kind == "noisy"), one.shape), 0, 255).astype(np.uint8) for one in drawn.frames()]
    seen, points = look_at(pictures, find, tmp_path)
    ours = jitter_px(points, drawn)[3:-3]
    assert ours.mean() < 0.3 and ours.max() < 0.8
    assert ours.mean() < jitter_px([one.face.points for one in seen], drawn)[3:-3].mean()  # averaging helps
    if kind != "clean":
        raw = jitter_px([face.points for face in detect_each(tmp_path / "look.mp4", find)], drawn)[3:-3]
        assert ours.mean() < raw.mean() / 2 and ours.max() < raw.max() / 2


def best_lag(found, truth):
    """By how many frames `found` is behind `truth`, in the least-squares sense, and the error left: both (n,)."""
    k, inner, left = np.arange(len(found)), slice(6, -6), {}
    for lag in np.arange(-2, 2.01, 0.02):
        late = np.stack([np.interp(k - lag, k, truth), np.ones(len(k))], 1)[inner]
        left[lag] = np.sqrt(np.mean((found[inner] - late @ np.linalg.lstsq(late, found[inner], rcond=None)[0])**2))
    return min(left, key=left.get), min(left.values())


@pytest.mark.parametrize("period_s, width", [(2, 45), (0.6, 12)])
def test_steady_landmarks_of_a_head_that_sways_are_not_late(period_s, width, find, tmp_path):
    drawn, k = sitter((74, 0), 60), np.arange(60)
    drawn.motion.x[:] = 160 + width * np.sin(2 * np.pi * k / 25 / period_s)
    _, points = look_at(drawn.frames(), find, tmp_path)
    found, truth = np.array([one[:2].mean(0) for one in points])[:, 0], np.array([drawn.painter.landmarks(drawn.motion, i)[:2, 0].mean() for i in k])
    lag, error = best_lag(found, truth)
    assert abs(lag) < 0.25 and error < 1  # frames of 40 ms, pixels


def test_steady_landmarks_of_a_head_of_constant_speed_are_not_late(find, tmp_path):
    """A constant delay shows as an offset that depends on the direction: half the difference between both, over the speed."""
    offsets = []
    for speed in (2.0, -2.0):
        drawn, k = sitter((74, 1), 45), np.arange(45)
        drawn.motion.x[:] = 160 + speed * (k - 22)
        _, points = look_at(drawn.frames(), find, tmp_path)
        truth = np.array([drawn.painter.landmarks(drawn.motion, i)[:2, 0].mean() for i in k])
        offsets.append(np.mean(([one[:2, 0].mean() for one in points] - truth)[6:-6]))
    assert abs(offsets[1] - offsets[0]) / 2 / 2.0 < 0.25  # frames of 40 ms


# ---- beside all of MTCNN on each picture ----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def beside(find, tmp_path_factory):
    """A drawn person, lively and out of the picture for a while: looked at now and then, in each picture, and by all of MTCNN."""
    folder, drawn = tmp_path_factory.mktemp("beside"), Recording.draw((81, 4), 100)
    drawn.motion.x[40:60] = -300
    now_and_then = look_at(drawn.frames(), find, folder)
    return drawn, now_and_then, look_at(drawn.frames(), find, folder, 1), detect_each(folder / "look.mp4", find)


def overlap(a, b):
    """Shared area of two boxes over all of it, counted on a grid of a fifth of a pixel."""
    grid = np.arange(0, 320, 0.2)
    inside = [[(one[i] <= grid) & (grid < one[i + 2]) for i in (0, 1)] for one in (a, b)]
    both, areas = [np.count_nonzero(inside[0][i] & inside[1][i]) for i in (0, 1)], [x.sum() * y.sum() for x, y in inside]
    return np.prod(both) / (sum(areas) - np.prod(both))


def eyes_in_crop(points, eyes):
    """Where `eyes` lie in a crop by `points`, in widths of it: (2, 2)."""
    return eyes @ alignment(points)[:, :2].T + alignment(points)[:, 2]


@pytest.mark.parametrize("look_every", [EVERY, 1])
def test_tracked_faces_are_those_of_mtcnn_on_each_picture(look_every, beside):
    drawn, *ways, full = beside
    seen, points = ways[look_every == 1]
    found = is_found(seen)
    assert np.mean(found == [face is not None for face in full]) >= 0.99 and np.array_equal(found, drawn.motion.x > 0)
    both = [(one.face, place, face) for one, place, face in zip(seen, points, full) if one.face and face]
    assert np.mean([overlap(face.box, reference.box) for face, _, reference in both]) >= 0.9
    away = [np.hypot(*(eyes_in_crop(place, face.points[:2]) - eyes_in_crop(face.points, face.points[:2])).T).max() for _, place, face in both]
    assert np.median(away) < 0.03 and np.quantile(away, 0.95) < 0.06
    assert sum(one.how == "detected" for one in seen) <= 4


def test_looks_now_and_then_find_the_same_frames_and_eyes_as_a_look_at_each(beside):
    drawn, (now_and_then, places), (each, own), _ = beside
    assert np.array_equal(is_found(now_and_then), is_found(each))
    away = [np.hypot(*(eyes_in_crop(a, b[:2]) - eyes_in_crop(b, b[:2])).T).max() for a, b in zip(places, own) if a is not None]
    assert np.median(away) < 0.01 and max(away) < 0.05  # of the crop's width


# ---- the scripts ----------------------------------------------------------------------------------------------------

FACE_AT = [*range(4, 10), *range(13, 18)]  # of the gappy recording's 18 frames


@pytest.fixture(scope="module")
def gappy(tmp_path_factory):
    """A data folder with one video: no face, a face, no face, a face. A red card is on its forehead's left, a blue one on its right."""
    drawn = Recording.draw((12, 1), 18)
    drawn.motion.x[:], drawn.motion.yaw[:], drawn.motion.roll[:] = np.where(np.isin(np.arange(18), FACE_AT), 160, -300), 0, 0
    pictures = list(drawn.frames())
    for k in FACE_AT:
        for (x, y), colour in zip(drawn.painter.landmarks(drawn.motion, k).astype(int), (CARD[0, 0], CARD[1, 0])):
            pictures[k][y - 38:y - 25, x - 6:x + 7] = colour  # over the eyes
    data = tmp_path_factory.mktemp("gappy") / "data"
    write_video(data / "videos" / "train_1.mp4", pictures)
    return data


@pytest.fixture
def data(gappy, tmp_path):
    return shutil.copytree(gappy, tmp_path / "data")


def crops_of(data, name="train_1"):
    return [path.read_bytes() for path in sorted((data / "Cropped_Aligned" / name).glob("*.jpg"))]


def found_in(data, name="train_1"):
    return list(pd.read_csv(data / "Cropped_Aligned" / name / "faces.csv")["found"])


def test_frames_without_a_face_are_black(data, call):
    code, out, _ = call("face_detector", "--data-dir", data)
    assert code == 0 and "18 frames" in out and "2 detected" in out and "9 tracked" in out and "7 missing" in out
    for k in range(18):
        crop = np.asarray(Image.open(data / "Cropped_Aligned" / "train_1" / f"{k:06d}.jpg"))
        assert crop.shape == (112, 112, 3) and (crop.max() > 100 if k in FACE_AT else crop.max() == 0)


def test_frame_retention_repeats_the_last_face_and_the_first_one_before_there_was_any(data, call):
    code, out, _ = call("face_detector_frameRetention", "--data-dir", data)
    crops = crops_of(data)
    assert code == 0 and "2 detected" in out and "9 tracked" in out and "7 retained" in out
    assert crops[:4] == [crops[4]] * 4 and crops[10:13] == [crops[9]] * 3 and len(set(crops)) == 11


def test_channels_are_not_swapped_in_the_crops(data, call):
    call("face_detector", "--data-dir", data)
    crop = np.asarray(Image.open(data / "Cropped_Aligned" / "train_1" / "000005.jpg").convert("RGB")).astype(int)
    left, right = crop[16:21, 36:41].mean((0, 1)), crop[16:21, 71:76].mean((0, 1))  # the viewer's, as in TEMPLATE
    assert left[0] > 150 > 90 > left[2] and right[2] > 150 > 90 > right[0]


@pytest.mark.parametrize("script", BOTH)
def test_faces_csv_has_a_row_per_frame(script, data, call):
    call(script, "--data-dir", data)
    table = pd.read_csv(data / "Cropped_Aligned" / "train_1" / "faces.csv")
    word = "missing" if script == "face_detector" else "retained"
    assert list(table.columns) == COLUMNS and len(table) == len(crops_of(data)) == 18
    assert list(table["found"]) == ["detected" if k in (4, 13) else "tracked" if k in FACE_AT else word for k in range(18)]
    assert np.allclose(table["time_s"], np.arange(18) / 25)
    faces, others = table.loc[FACE_AT], table.drop(FACE_AT)
    assert others[["x1", "y1", "x2", "y2", "score"]].isna().all(axis=None)
    assert faces["score"].between(0.9, 1).all() and (faces["x1"] < 160).all() and (faces["x2"] > 160).all()


@pytest.mark.parametrize("first, second", [BOTH, BOTH[::-1]])
def test_the_scripts_can_follow_each_other_and_detect_only_once(first, second, data, gappy, tmp_path, call, monkeypatch):
    fresh = shutil.copytree(gappy, tmp_path / "fresh")
    call(second, "--data-dir", fresh)
    call(first, "--data-dir", data)
    monkeypatch.setattr(FaceFinder, "__call__", lambda self, rgb: pytest.fail("it detected again"))
    code, out, _ = call(second, "--data-dir", data)
    assert code == 0 and "nothing to do" not in out
    assert crops_of(data) == crops_of(fresh) and found_in(data) == found_in(fresh)


@pytest.mark.parametrize("script", BOTH)
def test_a_second_run_does_nothing_and_says_so(script, data, call, monkeypatch):
    call(script, "--data-dir", data)
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    monkeypatch.setattr(FaceFinder, "__call__", lambda self, rgb: pytest.fail("it detected again"))
    code, out, err = call(script, "--data-dir", data)
    assert code == 0 and "nothing to do" in out and "done before" in out and not err
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_counts_are_those_of_the_pictures_for_every_drawn_person(made):
    for video in (made / "videos").glob("*.mp4"):
        with av.open(str(video)) as container:
            pictures = sum(1 for _ in container.decode(video=0))
        assert len(crops_of(made, video.stem)) == len(found_in(made, video.stem)) == pictures


def test_a_video_of_another_rate_goes_through_the_whole_script(tmp_path, call, monkeypatch):
    """With a detector that sees the whole picture as a face, the crops show which pictures they were made of."""
    stamps = [n * 3000 for n in range(30)]  # 30 pictures per second
    (tmp_path / "videos").mkdir()
    write_pictures(tmp_path / "videos" / "train_1.mp4", [bars(n, 160) for n in range(30)], stamps)
    whole = np.array([[0, 0, 160, 160.0]]), TEMPLATE[None] * 160, np.ones(1)
    monkeypatch.setattr(FaceFinder, "__call__", lambda self, rgb: whole)
    monkeypatch.setattr(FaceFinder, "refine", lambda self, picture, box: Face(whole[0][0], whole[1][0], 1.0))
    code, _, _ = call("face_detector", "--data-dir", tmp_path)
    crops = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "Cropped_Aligned" / "train_1").glob("*.jpg"))]
    assert code == 0 and [number_of(crop) for crop in crops] == on_show([Fraction(s, 90000) for s in stamps], 25)


@pytest.mark.parametrize("rate", [25, 30])
@pytest.mark.parametrize("where", ["track", "wav"])
def test_a_flash_and_a_click_are_found_at_the_same_k(where, rate, tmp_path, call):
    """Through the real scripts, by way of the video's own sound track and of a sound file beside it."""
    at_s = [0.2, 0.6, 1.0]
    drawn, sound = Recording.draw((3, 1), 40), np.zeros(int(40 / rate * SOUND_RATE), np.float32)
    pictures = list(drawn.frames())
    for flash_s in at_s:
        n, start = round(flash_s * rate), round(flash_s * SOUND_RATE)
        pictures[n] = np.clip(pictures[n].astype(int) + 50, 0, 255).astype(np.uint8)
        sound[start:start + 48] = 0.9 * np.sin(2 * np.pi * 3000 / SOUND_RATE * np.arange(48))  # 3 ms
    write_video(tmp_path / "videos" / "train_1.mp4", pictures, sound if where == "track" else None, rate)
    if where == "wav":
        (tmp_path / "audio").mkdir()
        soundfile.write(tmp_path / "audio" / "train_1.wav", sound, SOUND_RATE)
    for script in ("face_detector", "audio_extract", "audio_melspec"):
        assert call(script, "--data-dir", tmp_path)[0] == 0

    light = [np.asarray(Image.open(path)).mean() for path in sorted((tmp_path / "Cropped_Aligned" / "train_1").glob("*.jpg"))]
    specs = [np.asarray(Image.open(path)).astype(float) for path in sorted((tmp_path / "specs" / "train_1").glob("*.png"))]
    middle = [spec[:, spec.shape[1] // 2].mean() - np.median(spec.mean(0)) for spec in specs]  # column of the frame's own moment
    expected = [round(flash_s * FRAME_RATE) for flash_s in at_s]
    assert len(light) == len(specs) == np.ceil(40 / rate * 25)
    assert sorted(np.argsort(light)[-3:]) == expected
    assert sorted(np.argsort(middle)[-3:]) == expected


# ---- what is asked of both, and bad input ---------------------------------------------------------------------------

@pytest.mark.parametrize("script", BOTH)
def test_help_lists_every_setting(script, call, capsys):
    with pytest.raises(SystemExit) as end:
        call(script, "--help")
    out = capsys.readouterr().out
    assert end.value.code == 0 and script + ".py" in out
    for name in fields_of(script + ".py"):
        assert f"--{name.replace('_', '-')}" in out and field_notes()[name].comment.split()[0] in out


def test_the_two_scripts_read_the_same_settings():
    assert fields_of("face_detector.py") == fields_of("face_detector_frameRetention.py")
    assert face_detector_frameRetention.detect_faces is face_detector.main


@pytest.mark.parametrize("script", BOTH)
def test_missing_videos_are_asked_for(script, tmp_path, call):
    code, out, err = call(script, "--data-dir", tmp_path / "nothing")
    assert code == 1 and not out and err.count("\n") == 1 and "videos" in err and "put the raw videos there" in err
    assert not (tmp_path / "nothing").exists()


def test_an_id_that_is_not_there_is_named(data, call):
    code, _, err = call("face_detector", "--data-dir", data, "--recordings", "train_9")
    assert code == 1 and "train_9" in err and "train_1" in err and err.count("\n") == 1


def test_only_the_recordings_asked_for_are_worked_on(raw, call):
    code, _, _ = call("face_detector", "--data-dir", raw, "--recordings", "dev_1", *SMALL)
    assert code == 0 and [path.name for path in (raw / "Cropped_Aligned").iterdir() if path.is_dir()] == ["dev_1"]


@pytest.mark.parametrize("words, text", [
    (["--face-size", "8"], "face_size"), (["--face-size", "big"], "whole number"), (["--face_score", "2"], "face_score"),
    (["--clip-length", "3"], "mmpkd.py"), (["--face-sise", "32"], "--face-size"),
    (["--device", "gpu"], "device"), (["--jpeg-quality", "0"], "from 1 to 100")])
def test_bad_settings_end_in_one_line_before_anything_is_written(words, text, data, call):
    code, out, err = call("face_detector", "--data-dir", data, *words)
    assert code == 2 and not out and text in err.replace("-", "_") + err and err.count("\n") == 1
    assert not (data / "Cropped_Aligned").exists()


@pytest.mark.parametrize("script", BOTH)
def test_changed_settings_are_refused_and_nothing_is_mixed(script, data, call):
    call(script, "--data-dir", data)
    before = crops_of(data)
    code, _, err = call(script, "--data-dir", data, "--face-size", "64")
    assert code == 1 and "face_size" in err and "112" in err and "64" in err and "delete" in err and crops_of(data) == before


def break_file(kind, good, path):
    """Makes of a good video a bad one."""
    data = good.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":  # an .mp4 says at its end where its pictures are
        path.write_bytes(data[:len(data) // 2])
    elif kind == "text":
        path.write_text("not a video\n" * 500)
    elif kind == "cut_later":  # where it says so at its beginning, the rest of it is missing
        with av.open(str(good)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as copy:
            stream = copy.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    copy.mux(packet)
        path.write_bytes(path.read_bytes()[:len(data) // 2])
    elif kind == "noise":
        path.write_bytes(data[:len(data) // 4] + np.random.default_rng(0).bytes(len(data) // 4) + data[len(data) // 4 * 2:])
    elif kind == "faceless":
        write_pictures(path, [card()] * 20, [n * 3600 for n in range(20)])
    elif kind == "tiny":
        write_pictures(path, [card(32, 48)] * 20, [n * 3600 for n in range(20)])
    elif kind == "sound":
        with av.open(str(path), "w") as container:
            track = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
            sound = av.AudioFrame.from_ndarray(np.zeros((1, SOUND_RATE), np.float32), format="fltp", layout="mono")
            sound.sample_rate = SOUND_RATE
            container.mux(track.encode(sound))
            container.mux(track.encode())


SAID = {"empty": "empty", "cut": "cannot be read", "text": "cannot be read", "cut_later": "cut short", "noise": "damaged",
        "faceless": "no face in any", "tiny": "no face in any", "sound": "no pictures"}


def test_bad_videos_are_reported_each_and_the_good_one_is_done(data, call):
    """... with exit code 1, and again in the next run, which does the others no second time."""
    for kind in SAID:
        break_file(kind, data / "videos" / "train_1.mp4", data / "videos" / f"bad_{kind}.mp4")
    (data / "videos" / "bad_folder").mkdir()
    for run in (1, 2):
        code, out, err = call("face_detector", "--data-dir", data)
        assert code == 1 and err.count("\n") == 1 and "9 of 10 recordings failed" in err and "Traceback" not in out + err
        for kind, words in (SAID | {"folder": "cannot be read"}).items():
            line, = [line for line in out.splitlines() if line.startswith(f"bad_{kind}:")]
            assert "FAILED" in line and words in line and f"bad_{kind}" in line.split("FAILED")[1]
        assert len(crops_of(data)) == 18 and ("done before" in out) == (run == 2)
        assert nothing_left_but(data, "train_1")


def test_too_small_a_picture_does_not_stop_the_detector(find):
    for height, width in ((1, 1), (30, 500), (60, 60), (61, 300)):
        boxes, points, scores = find(np.full((height, width, 3), 128, np.uint8))
        assert boxes.shape == (0, 4) and points.shape == (0, 5, 2) and scores.shape == (0,)


@pytest.mark.parametrize("spoil, words", [
    (lambda folder: (folder / "000003.jpg").unlink(), "17 crops"),
    (lambda folder: (folder / "faces.csv").unlink(), "no readable faces.csv"),
    (lambda folder: (folder / "faces.csv").write_bytes(b""), "no readable faces.csv"),
    (lambda folder: (folder / "faces.csv").write_bytes(b"\xff\xfe\x00,\n"), "no readable faces.csv"),
    (lambda folder: (folder / "faces.csv").write_text((folder / "faces.csv").read_text()[:200]), "rows in faces.csv")])
def test_a_folder_that_was_spoilt_is_not_taken_for_done(spoil, words, data, call):
    call("face_detector", "--data-dir", data)
    spoil(data / "Cropped_Aligned" / "train_1")
    code, out, err = call("face_detector_frameRetention", "--data-dir", data)
    assert code == 1 and words in out and "delete that folder" in out and err.count("\n") == 1


def test_crops_of_another_video_are_not_taken_for_done(data, call):
    call("face_detector", "--data-dir", data)
    write_video(data / "videos" / "train_1.mp4", Recording.draw((12, 2), 7).frames())
    code, out, _ = call("face_detector", "--data-dir", data)
    assert code == 1 and "18 crops" in out and "7 frames" in out


def test_a_video_that_was_replaced_later_is_said(data, call):
    call("face_detector", "--data-dir", data)
    os.utime(data / "videos" / "train_1.mp4")
    code, out, _ = call("face_detector", "--data-dir", data)
    assert code == 0 and f"delete {data / 'Cropped_Aligned' / 'train_1'}" in out


def test_a_process_that_fills_the_gaps_meanwhile_is_waited_for_and_its_table_read(data, call, monkeypatch):
    call("face_detector", "--data-dir", data)
    folder = data / "Cropped_Aligned" / "train_1"

    @contextlib.contextmanager
    def after_the_other(path, *words, **flags):
        face_detector.fill_gaps(folder, pd.read_csv(folder / "faces.csv"), 112, True)
        yield
    with monkeypatch.context() as patch:
        patch.setattr(face_detector, "claimed", after_the_other)
        assert call("face_detector", "--data-dir", data)[0] == 0
    found = pd.read_csv(folder / "faces.csv")["found"]
    black = [cv2.imread(str(folder / f"{k:06d}.jpg")).max() < 10 for k in range(len(found))]
    assert (found == "missing").sum() > 0 and black == (found == "missing").tolist()


def before_each_group(do):
    """Tracker's own call, with do(times_s) before every group of pictures, but not before the halves that it takes of one."""
    own, within = Tracker.__call__, []

    def look(self, pictures, times_s):
        if not within:
            do(times_s)
        within.append(True)
        try:
            return own(self, pictures, times_s)
        finally:
            within.pop()
    return look


def failing_after(groups, error):
    """Tracker's own call, that fails with `error` after some groups of EVERY pictures."""
    count = iter(range(groups))

    def do(_):
        if next(count, None) is None:
            raise error
    return before_each_group(do)


def nothing_left_but(data, *names):
    """... but those recordings, whole, and nothing hidden."""
    files = [file for name in names for file in (name, f"{name}.jpg")]
    return sorted(path.name for path in (data / "Cropped_Aligned").iterdir()) == sorted(["settings.json", *files])


def test_ctrl_c_leaves_nothing_half_done_and_the_next_run_goes_on(data, call, monkeypatch):
    shutil.copy(data / "videos" / "train_1.mp4", data / "videos" / "train_2.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "__call__", failing_after(3 + 2, KeyboardInterrupt()))  # the second of two recordings of 18 pictures
        code, _, err = call("face_detector", "--data-dir", data)
    assert code == 130 and err.count("\n") == 1 and "resume" in err and not (data / "Cropped_Aligned" / "train_2").exists()
    code, out, _ = call("face_detector", "--data-dir", data)
    assert code == 0 and out.count("done before") == 1 and crops_of(data, "train_2") == crops_of(data, "train_1")


def test_a_full_disk_ends_in_one_line_and_what_was_made_stays_whole(data, call, monkeypatch):
    shutil.copy(data / "videos" / "train_1.mp4", data / "videos" / "train_2.mp4")
    own = face_detector.write_bytes

    def write(path, *parts):
        if "train_2" in path and path.endswith("000008.jpg"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return own(path, *parts)
    with monkeypatch.context() as patch:
        patch.setattr(face_detector, "write_bytes", write)
        code, _, err = call("face_detector", "--data-dir", data)
    assert code == 1 and "No space left on device" in err and err.count("\n") == 1
    assert len(crops_of(data)) == 18 and not (data / "Cropped_Aligned" / "train_2").exists()
    assert call("face_detector", "--data-dir", data)[0] == 0 and len(crops_of(data, "train_2")) == 18 and nothing_left_but(data, "train_1", "train_2")


@pytest.mark.parametrize("half_done", ["black", "retained"])
def test_a_run_stopped_while_it_filled_the_gaps_is_finished_by_the_next(half_done, data, call, monkeypatch):
    call("face_detector", "--data-dir", data)
    black = crops_of(data)
    own, left = face_detector.whole_file, iter(range(4))  # the table, and three crops

    def whole_file(path):
        return own(path) if next(left, None) is not None else (_ for _ in ()).throw(KeyboardInterrupt)
    with monkeypatch.context() as patch:
        patch.setattr(face_detector, "whole_file", whole_file)
        assert call("face_detector_frameRetention", "--data-dir", data)[0] == 130
    assert "unfilled" in found_in(data)
    code, out, _ = call(BOTH[half_done == "retained"], "--data-dir", data)
    assert code == 0 and "nothing to do" not in out and "unfilled" not in found_in(data)
    assert (crops_of(data) == black) == (half_done == "black") and len(set(crops_of(data))) == 11 + (half_done == "black")


def test_a_run_that_was_killed_leaves_nothing_that_is_taken_for_done(data, call):
    """SIGKILL, in the middle of the detection: nothing can tidy up but the next run."""
    write_video(data / "videos" / "train_2.mp4", Recording.draw((12, 3), 50).frames())
    script = Path(face_detector.__file__)
    process = subprocess.Popen([sys.executable, script.name, "--data-dir", data, *SMALL], cwd=script.parent, stdout=subprocess.DEVNULL)
    part, limit = data / "Cropped_Aligned" / ".train_2.part", time.monotonic() + 60
    while not (part / "000003.jpg").exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and part.exists()
    assert not (data / "Cropped_Aligned" / "train_2").exists()
    code, out, _ = call("face_detector", "--data-dir", data, *SMALL)
    assert code == 0 and "train_1: 18 frames" in out and "(done before)" in out
    assert nothing_left_but(data, "train_1", "train_2") and len(crops_of(data, "train_2")) == 50


# ---- workers, shards, going on half-way -----------------------------------------------------------------------------

def tree(data):
    """Every file of the crops, hidden ones too: path -> bytes."""
    root = data / "Cropped_Aligned"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_workers_and_shards_write_the_same_bytes_as_one_run(tmp_path, call):
    people = [Recording.draw((82, number), 24) for number in range(3)]
    people[1].motion.x[8:14] = -300
    for number, one in enumerate(people):
        write_video(tmp_path / "one" / "videos" / f"train_{number}.mp4", one.frames())
    ways = {"one": [["--workers", "1"]], "two": [["--workers", "2"]], "shards": [["--shard", f"{i}/2"] for i in (2, 1)]}
    for name, runs in ways.items():
        if name != "one":
            shutil.copytree(tmp_path / "one" / "videos", tmp_path / name / "videos")
        for words in runs:
            assert call("face_detector", "--data-dir", tmp_path / name, *words, *SMALL)[0] == 0
    one = tree(tmp_path / "one")
    assert len(one) == 3 * (24 + 2) + 1 and tree(tmp_path / "two") == one and tree(tmp_path / "shards") == one


CHECKPOINT = 20  # frames, in these tests


def long_data(folder, seed=0, frames=200):
    """A data folder with a video of a drawn person who is out of the picture for a while; painted once in a second."""
    drawn = Recording.draw((83, seed), frames)
    drawn.motion.x[70:95] = -300
    write_video(folder / "videos" / "train_1.mp4", drawn.frames())
    return folder


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A data folder with the crops of a recording that was made in one run, with no checkpoint."""
    data = long_data(tmp_path_factory.mktemp("unbroken"))
    face_detector.main(["--data-dir", str(data), *SMALL])
    return data


def fresh_copy(unbroken, folder):
    shutil.copytree(unbroken / "videos", folder / "videos")  # with the times of the files
    return folder


def run_with_checkpoints(data, killed_at=None):
    """The script in a process of its own; killed_at: the name of a file when which is written it is to be killed."""
    own = face_detector.whole_file

    @contextlib.contextmanager
    def whole_file(path):
        with own(path) as part:
            yield part
            if path.name == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
    face_detector.CHECKPOINT, face_detector.whole_file = CHECKPOINT, whole_file
    sys.stdout = sys.stderr = open(os.devnull, "w")
    sys.exit(run_script(lambda argv: face_detector.main(["--data-dir", str(data), *SMALL]), "face_detector.py"))


@pytest.fixture
def forks(monkeypatch):
    """Starts run_with_checkpoints in processes that have torch from the first moment on."""
    if sys.platform != "linux":
        pytest.skip("needs processes that fork from a server")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["face_detector"])

    def start(*args):
        process = context.Process(target=run_with_checkpoints, args=args)
        process.start()
        return process
    return start


def written_by(part):
    """The number of frames of a stopped recording whose crops were written before its last checkpoint."""
    if not (part / face_detector.PROGRESS).exists():
        return 0
    with np.load(part / face_detector.PROGRESS) as noted:
        return int(noted["written"])


def test_runs_killed_at_any_moment_end_in_the_same_bytes_and_write_no_crop_twice(unbroken, tmp_path, forks):
    data, rng, kills = fresh_copy(unbroken, tmp_path), np.random.default_rng(), 0
    folder, part = data / "Cropped_Aligned" / "train_1", data / "Cropped_Aligned" / ".train_1.part"
    faces = np.isin(found_in(unbroken), ["detected", "tracked"])  # the others are filled at the very end
    times, limit = {}, time.monotonic() + 120  # crop -> when it was written, of those before the last checkpoint
    while kills < 5 and not folder.exists() and time.monotonic() < limit:
        stop_at = len(list(part.glob("0*.jpg"))) + rng.integers(1, 45)
        process = forks(data)
        while process.is_alive() and len(list(part.glob("0*.jpg"))) < stop_at and time.monotonic() < limit:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        kills += 1
        now = folder if folder.exists() else part
        assert all((now / name).stat().st_mtime_ns == ns for name, ns in times.items())
        times |= {path.name: path.stat().st_mtime_ns for path in part.glob("0*.jpg")
                  if int(path.stem) < written_by(part) and faces[int(path.stem)]}
    process = forks(data)
    process.join()
    assert process.exitcode == 0 and kills >= 3 and times and all((folder / name).stat().st_mtime_ns == ns for name, ns in times.items())
    assert {path: content for path, content in tree(data).items() if "/." not in f"/{path}"} == tree(unbroken)


@pytest.mark.parametrize("killed_at", ["000075.jpg", "train_1.jpg"])
def test_a_run_killed_while_it_filled_a_gap_or_made_the_sheet_leaves_nothing(killed_at, unbroken, tmp_path, forks, call):
    data = fresh_copy(unbroken, tmp_path)
    process = forks(data, killed_at)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    for _ in range(2):
        assert call("face_detector", "--data-dir", data, *SMALL)[0] == 0 and tree(data) == tree(unbroken)


@pytest.mark.parametrize("groups", [11, 15, 28])  # of EVERY pictures, after which it is stopped: also where there is no face
def test_pictures_before_a_checkpoint_are_not_looked_at_again(groups, unbroken, tmp_path, call, monkeypatch):
    data, looks = fresh_copy(unbroken, tmp_path), []
    monkeypatch.setattr(face_detector, "CHECKPOINT", CHECKPOINT)
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "__call__", failing_after(groups, KeyboardInterrupt()))
        assert call("face_detector", "--data-dir", data, *SMALL, "--workers", "1")[0] == 130
    written = written_by(data / "Cropped_Aligned" / ".train_1.part")
    monkeypatch.setattr(Tracker, "__call__", before_each_group(looks.extend))
    assert call("face_detector", "--data-dir", data, *SMALL, "--workers", "1")[0] == 0
    known = round(looks[0] * 25)
    assert EVERY * groups >= known >= written > EVERY * groups - 2 * CHECKPOINT and known % EVERY == 0
    assert np.allclose(looks, np.arange(known, 200) / 25) and tree(data) == tree(unbroken)


def test_the_half_of_another_video_or_of_other_settings_is_not_gone_on_with(unbroken, tmp_path, call, monkeypatch):
    data = long_data(tmp_path / "data", seed=1)  # another person, as many frames
    monkeypatch.setattr(face_detector, "CHECKPOINT", CHECKPOINT)
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "__call__", failing_after(20, KeyboardInterrupt()))
        assert call("face_detector", "--data-dir", data, *SMALL)[0] == 130
    assert written_by(data / "Cropped_Aligned" / ".train_1.part") >= 80
    shutil.copy2(unbroken / "videos" / "train_1.mp4", data / "videos" / "train_1.mp4")
    assert call("face_detector", "--data-dir", data, *SMALL)[0] == 0 and tree(data) == tree(unbroken)


def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path):
    """All of it, networks, threads and files: in one process a short recording, and then one of eight times its length."""
    pictures = list(sitter((84, 0), 10).frames())
    for name, count in (("train_1", 100), ("train_2", 800)):
        write_video(tmp_path / "videos" / f"{name}.mp4", itertools.islice(itertools.cycle(pictures), count))
    code = ("import face_detector, resource, sys\n"
            "for name in ('train_1', 'train_2'):\n"
            "    face_detector.main(['--data-dir', sys.argv[1], '--recordings', name, '--workers', '1', '--face-size', '32'])\n"
            "    print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n")
    root = Path(face_detector.__file__).parent
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    short, long = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak"))
    assert long - short < 40_000  # kB; 700 pictures of this size are 160 MB


# ---- contact sheets, and what needs a look --------------------------------------------------------------------------

def frames_of_cells(data, name="train_1", size=112):
    """Colour of the frame below every crop of a contact sheet of 18: (18, 3)."""
    sheet = np.asarray(Image.open(data / "Cropped_Aligned" / f"{name}.jpg")).astype(int)
    assert sheet.shape == (2 * (size + 16), 10 * (size + 4), 3)
    return np.array([sheet[(k // 10 + 1) * (size + 16) - 1, k % 10 * (size + 4) + 20:(k % 10 + 1) * (size + 4) - 20].mean(0) for k in range(18)])


def crops_in_sheet(data, name="train_1", size=112):
    sheet = np.asarray(Image.open(data / "Cropped_Aligned" / f"{name}.jpg")).astype(int)
    return [sheet[k // 10 * (size + 16) + 14:, k % 10 * (size + 4) + 2:][4:size - 4, 4:size - 4] for k in range(18)]


def test_a_contact_sheet_shows_every_crop_and_a_red_frame_where_there_is_none(data, call):
    call("face_detector", "--data-dir", data)
    red = [(r > 180 and g < 120 and b < 120) for r, g, b in frames_of_cells(data)]
    assert red == [k not in FACE_AT for k in range(18)]
    for k, shown_there in enumerate(crops_in_sheet(data)):
        crop = np.asarray(Image.open(data / "Cropped_Aligned" / "train_1" / f"{k:06d}.jpg")).astype(int)[4:108, 4:108]
        assert np.abs(shown_there - crop).mean() < 4


def test_a_contact_sheet_is_made_again_when_the_gaps_were_filled_anew_or_it_is_gone(data, call):
    call("face_detector", "--data-dir", data)
    sheet = data / "Cropped_Aligned" / "train_1.jpg"
    red = sheet.read_bytes()
    call("face_detector_frameRetention", "--data-dir", data)
    yellow = sheet.read_bytes()
    frames = frames_of_cells(data)
    assert [r > 180 and g > 150 and b < 120 for r, g, b in frames] == [k not in FACE_AT for k in range(18)] and yellow != red
    sheet.unlink()
    call("face_detector_frameRetention", "--data-dir", data)
    assert sheet.read_bytes() == yellow
    call("face_detector", "--data-dir", data)
    assert sheet.read_bytes() == red


def test_a_run_stopped_before_it_made_the_sheet_is_finished_by_the_next(data, call, monkeypatch):
    call("face_detector", "--data-dir", data)
    red = (data / "Cropped_Aligned" / "train_1.jpg").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(face_detector, "contact_sheet", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call("face_detector_frameRetention", "--data-dir", data)[0] == 130
    assert call("face_detector_frameRetention", "--data-dir", data)[0] == 0
    assert (data / "Cropped_Aligned" / "train_1.jpg").read_bytes() != red


def test_a_recording_with_many_gaps_or_many_losses_is_to_be_looked_at():
    cases = {"good": ["tracked"] * 199 + ["detected"], "tenth": ["tracked"] * 180 + ["missing"] * 20,
             "gappy": ["tracked"] * 150 + ["missing"] * 50, "repeated": ["tracked"] * 150 + ["retained"] * 50,
             "restless": ["detected", "tracked"] * 100}
    header, *lines = face_detector.summary({name: pd.DataFrame({"found": found}) for name, found in cases.items()}, 25).splitlines()
    assert [line.split()[0] for line in lines] == list(cases) and header.split()[0] == "recording"
    assert ["look" in line for line in lines] == [False, False, True, True, True]
    assert "25% without a face" in lines[2] and "25% without a face" in lines[3] and "2.0 s" in lines[2] and "lost and found 100 times" in lines[4]


def test_the_summary_names_the_recording_that_needs_a_look(data, call):
    write_video(data / "videos" / "train_2.mp4", sitter((12, 4), 18).frames())
    code, out, _ = call("face_detector", "--data-dir", data)
    table = [line for line in out.splitlines() if line.startswith("train_") and ":" not in line.split()[0]]
    assert code == 0 and ["look" in line for line in table] == [True, False] and "39% without a face" in table[0]


# ---- the networks of several recordings on one device ---------------------------------------------------------------

def test_networks_shared_by_several_recordings_see_what_each_would_see_alone(made_corpus, find):
    """Through sockets and in batches, on the CPU as it would be on a GPU."""
    videos = sorted((made_corpus / "videos").iterdir())
    look = lambda video, finder: list(shots(read_frames(video, 25), Tracker(finder), 25, 3, Track()))
    batches, own = [], FaceFinder.output_net
    shared = FaceFinder(60, 0.9, torch.device("cpu"))
    shared.output_net = lambda patches: (batches.append(len(patches)), own(shared, patches))[1]
    with NetServer(shared) as server, ThreadPoolExecutor(len(videos)) as pool:
        together = list(pool.map(lambda video: look(video, RemoteFinder(60, 0.9, server.address)), videos))
    assert max(batches) > 1
    for video, made in zip(videos, together):
        for one, other in zip(made, look(video, find), strict=True):
            assert (one.ks, one.how) == (other.ks, other.how)
            assert one.face is None or np.allclose(one.face.points, other.face.points, atol=1e-3)


def test_a_failure_on_the_device_reaches_every_recording_that_waits_and_stops_none_for_ever(capsys):
    class Broken(FaceFinder):
        def output_net(self, patches):
            raise RuntimeError("CUDA out of memory")

    with NetServer(Broken(60, 0.9, torch.device("cpu"))) as server:
        remote = RemoteFinder(60, 0.9, server.address)
        for _ in range(2):
            with pytest.raises(OSError, match="--workers"):  # not a UserError, for which what was made so far would be thrown away
                remote.output_net(np.zeros((1, 48, 48, 3), np.uint8))
        boxes, points, scores = remote(np.zeros((80, 90, 3), np.uint8))  # it goes on answering what it can
        assert boxes.shape == (0, 4) and points.shape == (0, 5, 2) and scores.shape == (0,)
    assert "CUDA out of memory" in capsys.readouterr().out


def test_the_output_network_layer_by_layer_is_facenet_pytorchs(find):
    patches = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3)).astype(np.uint8)
    with torch.inference_mode():
        moved, places, scores = MTCNN().onet((torch.from_numpy(patches).permute(0, 3, 1, 2).float() - 127.5) * 0.0078125)
    wanted = torch.cat([scores[:, 1:], moved, places], 1).numpy()
    assert np.abs(find.output_net(patches) - wanted).max() < 1e-5
