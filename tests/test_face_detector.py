"""Steps 1 and 1 with frame retention: which picture is frame k, whose face, how it lies in the crop, what is left behind."""
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
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
from PIL import Image

import face_detector
import face_detector_frameRetention
from config import field_notes, fields_of
from drawn_people import FRAME_RATE, SOUND_RATE, Recording, write_video
from face_detector import TEMPLATE, Face, FaceFinder, Follower, Picture, Tracker, alignment, crop_face, read_frames, shots, steadied

BOTH = ["face_detector", "face_detector_frameRetention"]
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


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_camera_held_sideways_is_turned_upright(quarters, tmp_path):
    """A phone stores the picture as the sensor sees it, and in the track's header by how much to turn it."""
    video = write_pictures(tmp_path / "a.mp4", [np.ascontiguousarray(np.rot90(card(), quarters))] * 3, [0, 3600, 7200])
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]  # clockwise, as ISO 14496-12 has it: (a, b, u, c, d, v, x, y, w)
    matrix = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
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
        path.write_bytes(data[:len(data) // 3] + np.random.default_rng(0).bytes(len(data) // 3) + data[2 * len(data) // 3:])
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


def failing_after(looks, error):
    """Tracker's own call, that fails with `error` after some calls."""
    own, count = Tracker.__call__, iter(range(looks))

    def look(self, pictures, times_s):
        if next(count, None) is None:
            raise error
        return own(self, pictures, times_s)
    return look


def nothing_left_but(data, *names):
    """... but those recordings, whole, and nothing hidden."""
    files = [file for name in names for file in (name, f"{name}.jpg")]
    return sorted(path.name for path in (data / "Cropped_Aligned").iterdir()) == sorted(["settings.json", *files])


def test_ctrl_c_leaves_nothing_half_done_and_the_next_run_goes_on(data, call, monkeypatch):
    shutil.copy(data / "videos" / "train_1.mp4", data / "videos" / "train_2.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "__call__", failing_after(6 + 3, KeyboardInterrupt()))  # looks at 3 pictures of 18 each
        code, _, err = call("face_detector", "--data-dir", data)
    assert code == 130 and err.count("\n") == 1 and "goes on" in err and not (data / "Cropped_Aligned" / "train_2").exists()
    code, out, _ = call("face_detector", "--data-dir", data)
    assert code == 0 and out.count("done before") == 1 and crops_of(data, "train_2") == crops_of(data, "train_1")


def test_a_full_disk_ends_in_one_line_and_what_was_made_stays_whole(data, call, monkeypatch):
    shutil.copy(data / "videos" / "train_1.mp4", data / "videos" / "train_2.mp4")
    own = face_detector.Writer._write

    def write(writer, shot, points):
        if "train_2" in str(writer.folder) and shot.ks[0] == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(writer.folder / "000008.jpg"))
        return own(writer, shot, points)
    with monkeypatch.context() as patch:
        patch.setattr(face_detector.Writer, "_write", write)
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
