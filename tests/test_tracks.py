"""tracks.py: everybody in a video has an id of their own, from the first sight to the last."""
import cv2
import numpy as np
import pytest
import torch
from videos import shown, sitter

from drawn.people import Recording
from face_detector import shots
from faces import TEMPLATE, Face, FaceFinder, Tracker, one_thread
from tracks import People, people_shots

EVERY = 6  # pictures that are looked at together


@pytest.fixture(scope="module")
def find():
    return FaceFinder(60, 0.9, torch.device("cpu"))


def numbered(pictures):
    return [(range(k, k + 1), shown(picture)) for k, picture in enumerate(pictures)]


def everybody(pictures, find, every=EVERY):
    """{id: (first picture, [Shot or None, ...])} of pictures at 25 per second, and how many there were."""
    with one_thread():
        rows = list(people_shots(iter(numbered(pictures)), find, 25, every))
    people = {number: [dict(row).get(number) for row in rows] for row in rows for number, _ in row}
    assert all(len(dict(row)) == len(row) for row in rows)  # nobody twice in a picture
    assert all(shot is None or list(shot.ks) == [k] for look in people.values() for k, shot in enumerate(look))
    return dict(sorted(people.items()))


def middles(look):
    """Where the face is across the picture; NaN where there is none: (n,)."""
    return np.array([shot.face.box[[0, 2]].mean() if shot and shot.face else np.nan for shot in look])


def has_row(look):
    return np.array([shot is not None for shot in look])


def side_by_side(*people):
    """Pictures of people, each in a part of 200 pixels of their own."""
    return [np.hstack([one[:, 60:260] for one in row]) for row in zip(*[person.frames() for person in people])]


def together(behind, before):
    """Pictures of two people in one room, the second in front of the first."""
    for k, (far, near) in enumerate(zip(behind.frames(), before.frames())):
        place = before.painter._canvas_to_picture(before.motion, k)
        cover = cv2.warpAffine(before.painter.outline, place, (320, 240))[..., None]
        yield (far * (1 - cover) + near * cover).astype(np.uint8)


@pytest.mark.parametrize("leaves", ["never", "for a while", "and comes back elsewhere", "and after a cut"])
def test_of_one_person_everything_is_bit_identical_to_the_subjects(leaves, find):
    drawn = Recording.draw((81, 4), 60)
    drawn.motion.x[:] += 160 - drawn.motion.x[0]
    if leaves == "for a while":
        drawn.motion.x[20:31] = -300
    elif leaves != "never":
        drawn.motion.x[:20], drawn.motion.x[20:] = 60, 260
        drawn.motion.x[20:25 if "back" in leaves else 20] = -300
    pictures = list(drawn.frames())
    with one_thread():
        alone = list(shots(iter(numbered(pictures)), Tracker(find), 25, EVERY))
    people = everybody(pictures, find)
    assert list(people) == [1] and (leaves == "never") == all(one.face for one in alone)
    for one, ours in zip(alone, people[1]):
        assert (one.ks, one.found) == (ours.ks, ours.found) and (one.face is None) == (ours.face is None)
        assert one.face is None or all(np.array_equal(a, b) for a, b in zip(one.face, ours.face))


def test_two_people_have_a_track_each_and_the_larger_face_is_the_first(find):
    small, large = sitter((62, 1), 30), sitter((62, 2), 30)
    small.painter.look.scale, large.painter.look.scale = 48, 60
    people = everybody(side_by_side(small, large), find)
    assert list(people) == [1, 2] and all(has_row(look).all() for look in people.values())
    assert np.abs(middles(people[1]) - 300).max() < 12 and np.abs(middles(people[2]) - 100).max() < 12
    assert [shot.found for shot in people[2]] == ["detected"] + ["tracked"] * 29


def test_a_newcomer_gets_the_next_id_and_rows_from_the_first_sight(find):
    first, second = sitter((64, 0), 60), sitter((65, 0), 60)
    second.motion.x[:30] = 420
    people = everybody(side_by_side(first, second), find)
    assert list(people) == [1, 2] and np.abs(middles(people[1]) - 100).max() < 12
    rows = np.flatnonzero(has_row(people[2]))
    assert 30 <= rows[0] <= 30 + 2 * EVERY and rows[-1] == 59 and len(rows) == 60 - rows[0]
    assert people[2][rows[0]].found == "detected" and not np.isnan(middles(people[2])[rows]).any()


@pytest.mark.parametrize("who", [0, 1])
def test_when_one_leaves_the_other_keeps_the_id_and_the_one_who_left_is_missing(who, find):
    both = [sitter((64, 3), 60), sitter((65, 3), 60)]
    both[0].painter.look.scale, both[1].painter.look.scale = 60, 50
    both[who].motion.x[24:] = -300
    people = everybody(side_by_side(*both), find)
    assert list(people) == [1, 2] and np.abs(middles(people[2 - who]) - (300 - 200 * who)).max() < 12
    gone = people[1 + who]
    assert not np.isnan(middles(gone)[:24]).any() and [shot.found for shot in gone[24:]] == ["missing"] * 36


def test_one_who_looks_away_and_back_beside_another_keeps_the_id(find):
    both = [sitter((64, 5), 70), sitter((65, 5), 70)]
    both[0].motion.x[20:45] = -300
    people = everybody(side_by_side(*both), find)
    away = min(people, key=lambda number: np.nanmean(middles(people[number])))
    assert list(people) == [1, 2] and np.isnan(middles(people[away])[20:45]).all()
    assert np.abs(middles(people[away])[48:] - 100).max() < 12
    assert not np.isnan(middles(people[3 - away])).any()


@pytest.mark.parametrize("every", [1, EVERY])
def test_ids_are_kept_when_two_cross(every, find):
    far, near = sitter((64, 0), 70), sitter((65, 2), 70)
    far.painter.look.scale, near.painter.look.scale = 46, 60
    far.motion.x[:], near.motion.x[:] = np.linspace(70, 250, 70), np.linspace(250, 70, 70)
    far.motion.y[:], near.motion.y[:] = 100, 130
    people = everybody(list(together(far, near)), find, every)
    assert list(people) == [1, 2]
    for number, drawn in ((1, near), (2, far)):
        off = np.abs(middles(people[number]) - drawn.motion.x)
        assert np.nanmax(off) < 25 and not np.isnan(off[:10]).any() and not np.isnan(off[-10:]).any()


def test_one_given_up_has_no_more_rows_and_gets_a_new_id(find, monkeypatch):
    monkeypatch.setattr("tracks.GONE_S", 0.5)
    monkeypatch.setattr("faces.GONE_S", 0.5)
    for others in (0, 1):
        drawn, other = sitter((64, 6), 60), sitter((65, 6), 60)
        drawn.motion.x[12:42] = -300
        people = everybody(side_by_side(drawn, *[other] * others), find)
        assert len(people) == 2 + others
        mine = sorted((number for number, look in people.items() if np.nanmean(middles(look)) < 150))
        before, after = (has_row(people[number]) for number in mine)
        last = np.flatnonzero(before)[-1]
        assert 12 + 12 - EVERY <= last <= 12 + 12 and mine[1] == 2 + others
        assert not after[:42].any() and after[42 + 2 * EVERY:].all()


def test_without_a_face_there_are_no_rows(find):
    rooms = [Recording.draw((70, 1), 1).painter.room] * 13
    assert everybody(rooms, find) == {}


# ---- scenes of faces without pictures --------------------------------------------------------------------------------

class SceneFinder:
    """Finds the faces of a scene, [x, ...] for each picture, whose number is its brightness; each is 60 pixels wide."""

    min_face_size = 40

    def __init__(self, scenes):
        self.scenes, self.searched = scenes, []

    def faces(self, rgb):
        return [Face(np.array([x - 30.0, 80, x + 30, 150]), TEMPLATE * 60 + [x - 30, 85], 0.99)
                for x in self.scenes[rgb[0, 0, 0]]]

    def __call__(self, rgb):
        self.searched.append(int(rgb[0, 0, 0]))
        boxes, points, scores = zip(*self.faces(rgb)) if self.faces(rgb) else ([], [], [])
        return np.reshape(boxes, (-1, 4)), np.reshape(points, (-1, 5, 2)), np.array(scores)

    def refine(self, picture, box):
        """The face that is nearest to where one was, as MTCNN's output network would find it."""
        near = [face for face in self.faces(picture.rgb) if abs(face.box[0] - box[0]) < 20]
        return min(near, key=lambda face: abs(face.box[0] - box[0]), default=None)


def followed(scenes, every=EVERY):
    """{id: middles (n,)} of scenes at 25 per second."""
    pictures = [np.full((240, 640, 3), k, np.uint8) for k in range(len(scenes))]
    return {number: middles(look) for number, look in everybody(pictures, SceneFinder(scenes), every).items()}


def test_what_is_seen_in_one_search_only_is_nobody():
    scenes = [[100] + [300] * (k in (11, 12, 35)) for k in range(48)]
    assert list(followed(scenes)) == [1]
    assert list(followed([[100] + [300] * (k >= 11) for k in range(48)])) == [1, 2]


@pytest.mark.parametrize("every", [1, EVERY])
def test_two_are_never_on_one_face_and_it_stays_the_one_s_who_moved_there(every):
    """One is hidden at the moment when the other passes right in front."""
    passing = [60 + 4.0 * k for k in range(60)]
    scenes = [[x] + [200] * (abs(x - 200) > 7) for x in passing]
    people = followed(scenes, every)
    assert list(people) == [1, 2] and np.allclose(people[1], passing)
    assert np.allclose(people[2][:34], 200) and np.allclose(people[2][39 + EVERY:], 200)
    assert np.isnan(people[2][34:37]).all()


def test_one_who_comes_back_first_is_not_taken_for_another_who_is_out_of_sight():
    """Both were away for longer than a Follower by itself remembers the other one."""
    scenes = [[100, 190] if k < 24 else [] if k < 60 else [190] if k < 90 else [100, 190] for k in range(120)]
    people = followed(scenes)
    assert list(people) == [1, 2] and np.allclose(people[2][60 + EVERY:], 190)
    assert np.isnan(people[1][60:90]).all() and np.allclose(people[1][90 + EVERY:], 100)


def test_who_is_given_up_is_not_looked_for_any_more(monkeypatch):
    monkeypatch.setattr("tracks.GONE_S", 0.5)
    scenes = [[100] + [300] * (k < 12) for k in range(60)]
    people = People(SceneFinder(scenes), EVERY)
    for k in range(60):
        with one_thread():
            [looks] = people([shown(np.full((240, 640, 3), k, np.uint8))], [k / 25])
    assert len(looks) == len(people.people) == 1


def test_a_picture_is_searched_once_for_everybody_and_then_forgotten():
    find = SceneFinder([[]] * 60)
    people = People(find, EVERY)
    for start in range(0, 60, EVERY):
        group = [shown(np.full((80, 80, 3), start + k, np.uint8)) for k in range(EVERY)]
        assert people(group, [(start + k) / 25 for k in range(EVERY)]) == [[]] * EVERY
        assert len(people.find.found) == 1
    assert find.searched == list(range(EVERY - 1, 60, EVERY))
    find = SceneFinder([[100, 200, 300]] * 6 + [[]] * 6)
    with one_thread():
        list(people_shots(iter(numbered([np.full((240, 640, 3), k, np.uint8) for k in range(12)])), find, 25, EVERY))
    assert len(find.searched) == len(set(find.searched))
