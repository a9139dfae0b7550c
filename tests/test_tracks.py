"""tracks.py: everybody in a video has an id of their own, from the first sight to the last."""
import cv2
import numpy as np
import pytest
import torch
from videos import shown, sitter

from drawn.people import Recording
from face_detector import shots
from faces import FaceFinder, Tracker, one_thread
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


def test_a_picture_is_searched_once_for_everybody_and_then_forgotten():
    searched = []

    class Nothing:
        min_face_size = 60

        def __call__(self, rgb):
            searched.append(id(rgb))
            return np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0)

        def refine(self, picture, box):
            return None

    people = People(Nothing(), EVERY)
    for start in range(0, 60, EVERY):
        group = [shown(np.zeros((80, 80, 3), np.uint8)) for _ in range(EVERY)]
        assert people(group, [(start + k) / 25 for k in range(EVERY)]) == [[]] * EVERY
        assert len(people.find.found) == 1
    assert len(searched) == 10
