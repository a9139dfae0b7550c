"""faces.py: how a face lies in the crop, whose face is followed, and where the tracker does and does not see one."""
import itertools

import cv2
import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from videos import look_at, shown, sitter

from drawn.people import Recording
from face_detector import shots
from faces import TEMPLATE, Face, FaceFinder, Follower, Tracker, alignment, crop_face, one_thread
from support.media import read_frames

EVERY = 6  # pictures that the tracker gets at a time


@pytest.fixture(scope="module")
def find():
    return FaceFinder(60, 0.9, torch.device("cpu"))


# ---- the crop -------------------------------------------------------------------------------------------------------

def turned(angle, scale):
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def least_squares(points):
    """The similarity transform to TEMPLATE by numpy's solver: x' = ax - by + c, y' = bx + ay + d."""
    rows = [row for x, y in points for row in ((x, -y, 1, 0), (y, x, 0, 1))]
    a, b, c, d = np.linalg.lstsq(np.array(rows), TEMPLATE.ravel(), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


def test_alignment_is_the_least_squares_similarity_and_never_a_mirror():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        turn = turned(rng.uniform(-np.pi, np.pi), scale := rng.uniform(20, 400))
        points = TEMPLATE @ turn.T + rng.uniform(0, 500, 2) + rng.normal(0, 0.03 * scale, (5, 2))
        for landmarks in (points, points * [-1, 1]):  # and seen in a mirror
            matrix = alignment(landmarks)
            assert np.allclose(matrix, least_squares(landmarks), atol=1e-9)
            assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("size, roll, scale", [(112, 0, 60), (112, 0.5, 90), (32, -1.2, 150), (224, 3, 300)])
def test_landmarks_come_to_their_places_in_the_crop(size, roll, scale):
    points = (TEMPLATE - TEMPLATE.mean(0)) @ turned(roll, scale).T + [403.3, 297.8]
    y, x = np.mgrid[:600, :800] + 0.5  # middles of the pixels
    width = max(0.5 * scale / size, 1)
    picture = sum(255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 2 / width**2) for px, py in points)
    crop = crop_face(shown(np.repeat(picture.clip(0, 255)[..., None], 3, 2).astype(np.uint8)), points, size)
    assert crop.shape == (size, size, 3)
    row, column = np.mgrid[:size, :size] + 0.5
    for px, py in TEMPLATE * size:  # the dot's centre of gravity
        near = crop[..., 0] * (np.hypot(column - px, row - py) < max(2.5, 3 * width * size / scale))
        assert abs((near * column).sum() / near.sum() - px) < 0.3 and abs((near * row).sum() / near.sum() - py) < 0.3


def test_a_crop_is_black_outside_the_picture():
    picture = shown(np.full((100, 100, 3), 200, np.uint8))
    crop = crop_face(picture, (TEMPLATE - [0.5, 0]) * 100, 64)
    assert (crop[:, :30] == 0).all() and (crop[2:-2, 34:-2] == 200).all()
    assert not crop_face(picture, (TEMPLATE - [3, 0]) * 100, 64).any()


@pytest.mark.parametrize("roll, scale", [(0, 1), (-0.25, 1.6)])
def test_eyes_of_drawn_subjects_are_level_and_at_fixed_places_and_scale(roll, scale, find):
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
    assert tilts.mean() < 4 and tilts.max() < 8  # degrees; the head's own are up to 14
    assert places.mean() < 0.025 and places.max() < 0.06  # of the crop's side: 3 and 7 pixels of 112
    assert np.abs(np.hypot(*span.T) / np.hypot(*(TEMPLATE[1] - TEMPLATE[0])) - 1).max() < 0.15


# ---- find -----------------------------------------------------------------------------------------------------------

def test_the_output_network_is_facenet_pytorchs(find):
    patches = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3)).astype(np.uint8)
    with torch.inference_mode():
        patches_in = (torch.from_numpy(patches).permute(0, 3, 1, 2).float() - 127.5) * 0.0078125
        moved, places, scores = MTCNN().onet(patches_in)
    wanted = torch.cat([scores[:, 1:], moved, places], 1).numpy()
    assert np.abs(find.output_net(patches) - wanted).max() < 1e-5


def test_a_picture_that_is_too_small_has_no_faces(find):
    for height, width in ((1, 1), (30, 500), (60, 60), (61, 300)):
        boxes, points, scores = find(np.full((height, width, 3), 128, np.uint8))
        assert boxes.shape == (0, 4) and points.shape == (0, 5, 2) and scores.shape == (0,)


# ---- follow: whose face ---------------------------------------------------------------------------------------------

def box(x, width=60, y=100):
    return [x - width / 2, y - width / 2, x + width / 2, y + width / 2]


def follow(scenes):
    """Middles, from left to right, of the face that is followed in scenes of boxes 40 ms apart; None where none is."""
    follower, middles = Follower(), []
    for k, scene in enumerate(scenes):
        boxes = np.array(scene, float).reshape(-1, 4)
        row = follower.choose(boxes, k / 25)
        middles.append(None if row is None else float(boxes[row, [0, 2]].mean()))
    return middles


def test_the_largest_face_is_followed_even_when_another_grows_larger():
    scenes = [[box(50, 40), box(250, 60)], [box(50, 58), box(251, 60)], [box(50, 80), box(252, 60)]]
    assert follow(scenes) == [250, 251, 252]


def test_a_face_is_followed_across_the_picture_whatever_the_order_of_the_boxes():
    scenes = [[box(60 + 10 * k), box(300 - 2 * k, 50)][::(-1) ** k] for k in range(15)]
    assert follow(scenes) == [60 + 10 * k for k in range(15)]


def test_two_who_pass_close_by_are_not_exchanged():
    scenes = [[box(100 + 3 * k, 60, 80), box(220 - 3 * k, 50, 125)][::(-1) ** k] for k in range(40)]
    assert follow(scenes) == [100 + 3 * k for k in range(40)]


def test_another_person_is_not_mistaken_for_the_subject_who_is_out_of_sight():
    """Also within the subject's reach, and if the detector misses the other one now and then."""
    both, alone, missed = [box(100), box(190, 55)], [box(190, 55)], []
    away = [missed if k % 7 == 3 else alone for k in range(100)]
    assert follow([both] * 5 + away + [both] * 5) == [100] * 5 + [None] * 100 + [100] * 5


def test_a_subject_who_comes_back_elsewhere_is_found_again():
    middles = follow([[box(100)]] * 5 + [[]] * 25 + [[box(260)]] * 5)
    assert middles == [100] * 5 + [None] * 25 + [260] * 5


def test_a_cut_that_moves_a_face_beyond_its_reach_loses_it_only_for_moments():
    middles = follow([[box(100)]] * 5 + [[box(340)]] * 50)
    assert middles[5] is None and middles[-10:] == [340] * 10


def test_a_subject_gone_for_long_is_given_up():
    middles = follow([[box(100), box(300, 50)]] * 3 + [[box(300, 50)]] * 300)
    assert middles[3:240] == [None] * 237 and middles[-1] == 300


def test_a_second_box_on_the_same_face_is_not_another_person():
    scenes = [[box(100 + 4 * k), box(108 + 4 * k, 50)][:1 + (k < 5)] for k in range(10)]
    assert follow(scenes) == [100 + 4 * k for k in range(10)]


# ---- track: drawn people --------------------------------------------------------------------------------------------

def detect_each(video, find):
    """Face or None of every picture: all of MTCNN on each, without the Tracker."""
    follower, found = Follower(), []
    with one_thread():
        for ks, picture in read_frames(video, 25):
            boxes, points, scores = find(picture.rgb)
            row = follower.choose(boxes, ks[0] / 25)
            found.append(None if row is None else Face(boxes[row], points[row], scores[row]))
    return found


def middles(seen):
    """Where each face is, (x, y); NaN where there is none: (n, 2)."""
    return np.array([(one.face.box[:2] + one.face.box[2:]) / 2 if one.face else [np.nan] * 2 for one in seen])


def has_face(seen):
    return np.array([one.face is not None for one in seen])


def detections(seen):
    return sum(one.found == "detected" for one in seen)


def off_head(seen, drawn):
    """Distance of each box from the drawn head, in widths of it (0.5: at its side); NaN where there is none."""
    truth = np.stack([drawn.motion.x, drawn.motion.y], 1)[:len(seen)]
    return np.hypot(*(middles(seen) - truth).T) / (2 * drawn.painter.look.scale * drawn.painter.look.width)


@pytest.mark.parametrize("cut_at", [18, 20, 23])  # at several places among the pictures looked at together
def test_after_a_cut_the_face_is_found_elsewhere_and_never_on_the_background(cut_at, find, tmp_path):
    one, other = sitter((62, cut_at), 26), sitter((62, cut_at), 18)
    one.motion.x[:], other.motion.x[:], other.painter.room = 90, 210, Recording.draw((63, cut_at), 1).painter.room
    seen, points = look_at([*one.frames()][:cut_at] + [*other.frames()], find, tmp_path)
    x = middles(seen)[:, 0]
    assert (np.abs(x[:cut_at] - 90) < 12).all()
    later = x[cut_at:][~np.isnan(x[cut_at:])]
    assert has_face(seen[cut_at + 12:]).all() and (np.abs(later - 210) < 12).all()  # within half a second
    noses = zip(points, [90] * cut_at + [210] * 18)
    assert all(abs(place[2, 0] - at) < 15 for place, at in noses if place is not None)  # none in between


@pytest.mark.parametrize("how, gone", [("out of the picture", 18), ("out of the picture", 21), ("behind a card", 20),
                                       ("behind a card", 23), ("a dark picture", 19)])
def test_a_face_that_is_gone_for_one_picture_is_missing_there(how, gone, find, tmp_path):
    drawn = sitter((62, gone), 30)
    pictures = list(drawn.frames())
    if how == "out of the picture":
        drawn.motion.x[gone] = -300
        pictures[gone] = drawn.painter.paint(drawn.actions, drawn.motion, gone)
    elif how == "behind a card":
        pictures[gone][40:200, 90:230] = (90, 120, 150)
    else:
        pictures[gone] = np.full_like(pictures[gone], 20)
    seen, _ = look_at(pictures, find, tmp_path)
    assert list(has_face(seen)) == [k != gone for k in range(30)]


def test_another_light_is_not_another_face(find, tmp_path):
    drawn = sitter((62, 1), 36)
    drawn.motion.light[:] = 1 + 0.25 * np.sin(np.arange(36) / 3)
    seen, _ = look_at(drawn.frames(), find, tmp_path)
    assert [one.found for one in seen] == ["detected"] + ["tracked"] * 35


@pytest.mark.parametrize("leaves", ["at once", "walking"])
def test_a_person_who_came_later_is_not_mistaken_for_the_subject_who_leaves(leaves, find, tmp_path):
    """The second one comes while the first is tracked: no full detection saw both before the first is gone."""
    first, second = (sitter((seed, int(leaves == "walking")), 80) for seed in (64, 65))
    k = np.arange(80)
    second.motion.x[:] = np.interp(k, [0, 10, 25, 80], [420, 420, 170, 160])
    first.motion.x[:] = np.where(k < 40, 160, -300)
    if leaves == "walking":
        first.motion.x[:] = np.interp(k, [0, 40, 55], [160, 160, -160])
    panels = [np.hstack([one[:, 60:260] for one in both]) for both in zip(first.frames(), second.frames())]
    seen, _ = look_at(panels, find, tmp_path)
    assert has_face(seen[:40]).all() and not has_face(seen[46:]).any()
    assert np.nanmax(middles(seen)[:, 0]) < 120 and (leaves == "walking" or not has_face(seen[40:]).any())
    assert [shot.found for shot in seen[:40]] == ["detected"] + ["tracked"] * 39


def together(behind, before):
    """Pictures of two people in one room, the second in front of the first."""
    for k, (far, near) in enumerate(zip(behind.frames(), before.frames())):
        place = before.painter._canvas_to_picture(before.motion, k)
        cover = cv2.warpAffine(before.painter.outline, place, (320, 240))[..., None]
        yield (far * (1 - cover) + near * cover).astype(np.uint8)


def test_a_person_who_passes_close_behind_is_not_followed(find, tmp_path):
    first, passer = sitter((64, 0), 70), sitter((65, 0), 70)
    first.motion.y[:], passer.motion.y[:], passer.painter.look.scale = 150, 70, 44
    passer.motion.x[:] = np.interp(np.arange(70), [0, 5, 65], [420, 420, 20])
    seen, _ = look_at(together(passer, first), find, tmp_path)
    assert has_face(seen).all() and np.nanmax(off_head(seen, first)) < 0.2


def test_a_person_who_passes_in_front_is_not_followed(find, tmp_path):
    first, passer = sitter((64, 2), 60), sitter((65, 2), 60)
    passer.motion.x[:] = np.interp(np.arange(60), [0, 5, 55], [420, 420, -100])
    seen, _ = look_at(together(first, passer), find, tmp_path)
    assert has_face(seen[-5:]).all() and np.nanmin(middles(seen)[:, 0]) > 120


def test_a_face_that_leaves_the_picture_and_returns_is_missing_exactly_meanwhile(find, tmp_path):
    drawn = sitter((66, 1), 100)
    drawn.motion.x[:] = 160 - np.interp(np.arange(100), [0, 25, 40, 65, 80], [0, 0, 260, 260, 0])
    seen, _ = look_at(drawn.frames(), find, tmp_path)
    half = drawn.painter.look.scale * drawn.painter.look.width
    left, right = np.maximum(drawn.motion.x - half, 0), np.minimum(drawn.motion.x + half, 320)
    inside = np.clip((right - left) / (2 * half), 0, 1)  # share of the face
    found, border = has_face(seen), (inside > 0.25) & (inside < 0.8)
    assert border.sum() <= 6 and np.array_equal(found[~border], inside[~border] > 0.5)
    assert np.count_nonzero(np.diff(found)) == 2  # gone once and back once
    back = int(np.flatnonzero(~found)[-1]) + 1
    assert [seen[0].found, seen[back].found] == ["detected"] * 2 and detections(seen) <= 10
    assert np.nanmax(off_head(seen, drawn)) < 0.5


def test_a_subject_who_comes_back_fast_is_not_taken_for_another_person(find, tmp_path):
    """Half in the picture again, the box that was tracked was a width away from where MTCNN saw the face."""
    drawn = Recording.draw((0, 4), 750)
    seen, _ = look_at(itertools.islice(drawn.frames(), 150), find, tmp_path)
    full = np.array([face is not None for face in detect_each(tmp_path / "look.mp4", find)])
    assert 20 < np.count_nonzero(~full) < 60 and np.mean(has_face(seen) == full) >= 0.99


@pytest.mark.parametrize("turn, seed", [(0.5, 0), (1.57, 1)])  # radians; 1.57: to the profile
def test_a_head_that_turns_away_and_back_is_followed_or_missing(turn, seed, find, tmp_path):
    drawn = sitter((67, seed), 75)
    drawn.motion.yaw[:] = (-1)**seed * turn * np.interp(np.arange(75), [0, 5, 25, 45, 65], [0, 0, 1, 1, 0])
    seen, _ = look_at(drawn.frames(), find, tmp_path)
    assert np.nanmax(off_head(seen, drawn)) < 0.3 and has_face(seen[:15] + seen[-8:]).all()
    width = 2 * drawn.painter.look.scale * drawn.painter.look.width
    assert all(0.7 < (one.face.box[2] - one.face.box[0]) / width < 1.3 for one in seen if one.face)
    assert turn > 1 or has_face(seen).all()


def test_a_face_blurred_by_its_motion_is_followed(find, tmp_path):
    drawn = sitter((68, 1), 40 * 4)
    drawn.motion.x[:] = 160 + 90 * np.sin(np.arange(160) / 4 * 12 / 90)  # 12 pixels per frame: a sixth of the face
    painted = iter(drawn.frames())
    pictures = [np.mean([next(painted) for _ in range(4)], axis=0).astype(np.uint8) for _ in range(40)]
    seen, _ = look_at(pictures, find, tmp_path)
    assert has_face(seen).all() and detections(seen) == 1
    assert np.abs(middles(seen)[:, 0] - drawn.motion.x.reshape(40, 4).mean(1)).max() < 10


def test_a_face_far_too_small_is_missing_and_one_that_shrinks_is_lost(find, tmp_path):
    """MTCNN's smallest face is nominal: it finds some of two thirds of that."""
    drawn = sitter((69, 0), 50)
    drawn.painter.look.scale = 18
    assert not has_face(look_at(itertools.islice(drawn.frames(), 12), find, tmp_path)[0]).any()
    pictures = []
    for k in range(50):
        drawn.painter.look.scale = np.interp(k, [0, 5, 40], [52, 52, 15])
        pictures.append(drawn.painter.paint(drawn.actions, drawn.motion, k))
    seen, _ = look_at(pictures, find, tmp_path)
    assert has_face(seen[:20]).all() and not has_face(seen[-8:]).any()
    assert min(max(one.face.box[2:] - one.face.box[:2]) for one in seen if one.face) > 0.5 * find.min_face_size


def test_a_face_a_little_too_small_is_not_searched_for_in_every_picture(find, tmp_path):
    drawn = sitter((69, 0), 20)
    drawn.painter.look.scale = 32
    assert detections(look_at(drawn.frames(), find, tmp_path)[0]) < 5


# ---- track: the background ------------------------------------------------------------------------------------------

def put_on(box, pictures, find):
    """The Faces of a Tracker that took `box` for a face, in the pictures that follow."""
    tracker, (x1, y1, x2, y2) = Tracker(find), box
    face = Face(np.array(box), TEMPLATE * [x2 - x1, y2 - y1] + [x1, y1], 0.99)
    tracker.follower.choose(face.box[None], 0)
    tracker.advance(shown(pictures[0]), 0, face)
    following = [(range(k, k + 1), shown(one)) for k, one in enumerate(pictures)][1:]
    with one_thread():
        return [shot.face for shot in shots(iter(following), tracker, 25, EVERY)]


@pytest.mark.parametrize("kind", ["room", "blobs"])
def test_a_tracker_on_the_background_loses_it_within_half_a_second(kind, find):
    rng = np.random.default_rng(5)
    for seed in range(3):
        picture = Recording.draw((70, seed), 1).painter.room.astype(np.uint8)
        if kind == "blobs":
            noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((240, 320, 3)), (0, 0), 8)
            picture = np.clip(128 + 50 * noise / noise.std(), 0, 255)
        noisy = [np.clip(picture + rng.normal(0, 2.5, picture.shape), 0, 255).astype(np.uint8) for _ in range(17)]
        for side, x, y in rng.uniform((62, 0, 0), (140, 180, 100), (3, 3)):
            assert not any(put_on([x, y, x + 0.8 * side, y + side], noisy, find)[12:])


def test_a_tracker_on_the_background_beside_a_face_ends_on_nothing_or_on_the_face(find):
    drawn = sitter((71, 0), 19)
    drawn.motion.x[:] = 230
    pictures = list(drawn.frames())
    for side, x, y in np.random.default_rng(0).uniform((62, 0, 0), (110, 70, 100), (3, 3)):
        found = put_on([x, y, x + 0.8 * side, y + side], pictures, find)
        assert all(abs(face.box[[0, 2]].mean() - 230) < 12 for face in found[12:] if face)


# ---- track: beside all of MTCNN on each picture ---------------------------------------------------------------------

def overlap(a, b):
    """Intersection over union of two boxes, counted on a grid of a fifth of a pixel."""
    grid = np.arange(0, 320, 0.2)
    inside = [[(one[i] <= grid) & (grid < one[i + 2]) for i in (0, 1)] for one in (a, b)]
    shared = np.prod([(one & other).sum() for one, other in zip(*inside)])
    return shared / (sum(x.sum() * y.sum() for x, y in inside) - shared)


def eyes_apart(points, reference):
    """Largest distance of the reference's eyes in a crop by `points` from where they are in its own, in crop widths."""
    ours, its = ((matrix[:, :2], matrix[:, 2]) for matrix in (alignment(points), alignment(reference)))
    return np.hypot(*(reference[:2] @ (ours[0] - its[0]).T + ours[1] - its[1]).T).max()


@pytest.fixture(scope="module")
def beside(find, tmp_path_factory):
    """A lively drawn person, away for a while: by the tracker on groups, on single pictures, and by all of MTCNN."""
    folder, drawn = tmp_path_factory.mktemp("beside"), Recording.draw((81, 4), 100)
    drawn.motion.x[40:60] = -300
    ways = [look_at(drawn.frames(), find, folder, every) for every in (EVERY, 1)]
    return drawn, ways, detect_each(folder / "look.mp4", find)


@pytest.mark.parametrize("way", [0, 1])
def test_tracked_faces_are_those_of_mtcnn_on_each_picture(way, beside):
    drawn, ways, full = beside
    seen, points = ways[way]
    found = has_face(seen)
    assert np.mean(found == [face is not None for face in full]) >= 0.99 and np.array_equal(found, drawn.motion.x > 0)
    both = [(one.face, place, face) for one, place, face in zip(seen, points, full) if one.face and face]
    assert np.mean([overlap(face.box, reference.box) for face, _, reference in both]) >= 0.9
    away = [eyes_apart(place, face.points) for _, place, face in both]
    assert np.median(away) < 0.03 and np.quantile(away, 0.95) < 0.06 and detections(seen) <= 4


def test_looks_at_groups_find_the_same_frames_and_eyes_as_a_look_at_each(beside):
    (groups, places), (each, own) = beside[1]
    assert np.array_equal(has_face(groups), has_face(each))
    away = [eyes_apart(a, b) for a, b in zip(places, own) if a is not None]
    assert np.median(away) < 0.01 and max(away) < 0.05
