"""Everybody's face in a video: one Tracker and one id for each person (predict.py --people all, and the camera).

A person keeps the id from first sight until out of sight for GONE_S; a person who comes back later gets a new one.
Faces are told apart by where they are alone: nobody is recognised. So while there is one person, everything is as with
--people largest, bit for bit: a face that appears elsewhere when that person is out of sight is taken for the same
person's. Beside others, it is a newcomer's.
"""
import contextlib
import itertools

import numpy as np

from face_detector import Shot
from faces import GONE_S, STRIDE_S, STRIDE_WIDTHS, Face, Seen, Tracker

GONE = None, "missing"
# How far apart the middles of two boxes are, in sizes of the larger one, if ...
SAME_PLACE = 0.25  # ... they are of one face: other people's are not as close
ON_ONE_FACE = 0.125  # ... two Trackers are on one face: while two people pass, their faces are seen longer than that


def people_shots(pictures, find, frame_rate, look_every):
    """Yields [(id, Shot), ...] of every (ks, picture): a Shot for each person who was seen and is not given up yet.

    find: a FaceFinder. Ids count from 1 in order of appearance; of those who are there at first, the largest face is 1.
    """
    people, pictures = People(find, look_every), iter(pictures)
    while group := list(itertools.islice(pictures, look_every)):
        looks = people([picture for _, picture in group], [ks[0] / frame_rate for ks, _ in group])
        for (ks, picture), rows in zip(group, looks):
            yield [(number, Shot(ks, picture, face, found)) for number, face, found in rows]


class People:
    """Everybody's face in picture after picture. Newcomers are searched for in every `look_every`-th picture."""

    def __init__(self, find, look_every):
        self.find, self.look_every = _SharedFinder(find), look_every
        self.people = [Person(self.find)]  # of nobody yet
        self.count = 0  # ids given so far
        self.unsearched = 0  # pictures since the last search for newcomers
        self.strangers = []  # Seen, faces that were nobody's in that search

    def __call__(self, pictures, times_s):
        """[(id, Face or None, "detected", "tracked" or "missing"), ...] for each of a few pictures in a row."""
        staying = [one for one in self.people if times_s[-1] - one.seen_s <= GONE_S]
        self.people = staying or self.people[:1]  # the last one's Follower gives up by itself
        self._introduce()
        looks = {}
        for one in sorted(self.people, key=lambda one: one.tracker.face is None):  # who is in sight comes first
            with self.find.hiding(looks.values(), pictures):
                looks[one] = one.look(pictures, times_s)
        self._greet_first(looks, pictures, times_s)
        self._part(looks, pictures, times_s)
        self.unsearched += len(pictures)
        if self.unsearched >= self.look_every:
            self._greet(looks, pictures, times_s)
        self.find.keep(pictures[-1])
        numbers = {one: self._numbers(one, looks[one], times_s) for one in self.people}
        return [[(numbers[one][i], *looks[one][i]) for one in self.people if numbers[one][i]]
                for i in range(len(pictures))]

    def _introduce(self):
        """Tells each Follower where the others were last, so that it does not take their faces for its person's.

        Those in sight are left out for who is out of sight: their faces are hidden from the search.
        """
        places = {one: one.tracker.follower.people[0] for one in self.people if one.tracker.follower.people}
        for one in places if len(places) > 1 else ():
            others = [seen for other, seen in places.items() if other is not one
                      and (one.tracker.face or not other.tracker.face)]
            one.tracker.follower.people = [places[one], *others]

    def _part(self, looks, pictures, times_s):
        """Where two Trackers are on one face, it is whose was expected there; the other is missing from there."""
        for one, other in itertools.combinations(self.people, 2):
            for i, ((face, _), (its, _)) in enumerate(zip(looks[one], looks[other])):
                if face and its and _is_same(face.box, its.box, ON_ONE_FACE):
                    wrong = max(one, other, key=lambda each: each.surprise(looks[each][i][0], i))
                    wrong.lose(looks[wrong], i, pictures, times_s)
                    break

    def _greet_first(self, looks, pictures, times_s):
        """Adds those who are seen beside the first face of all."""
        [first, *others] = self.people
        at = next((i for i, (face, _) in enumerate(looks[first]) if face), None)
        if others or at is None or times_s[at] - first.seen_s <= GONE_S:
            return
        for face in self._strangers(looks, pictures, at):
            self._add(looks, face, pictures, times_s, at)

    def _greet(self, looks, pictures, times_s):
        """Adds those whose face was nobody's in this search and the last one; once is often a mistake of MTCNN's."""
        self.unsearched, known, time_s = 0, self.strangers, times_s[-1]
        self.strangers = []
        if len(self.people) == 1 and not looks[self.people[0]][-1][0]:
            return  # whoever is seen may be the only person there was
        for face in self._strangers(looks, pictures, -1):
            if any(_apart(face.box, seen.box) <= STRIDE_WIDTHS * (1 + (time_s - seen.time_s) / STRIDE_S)
                   for seen in known):
                self._add(looks, face, pictures, times_s, len(pictures) - 1)
            else:
                self.strangers.append(Seen(face.box, time_s))

    def _strangers(self, looks, pictures, at):
        """Faces in a picture that are nobody's, the largest first."""
        taken = [look[at][0].box for look in looks.values() if look[at][0]]
        found = [Face(box, places, float(score)) for box, places, score in zip(*self.find(pictures[at].rgb))]
        strangers = []
        for face in sorted(found, key=lambda face: -np.prod(face.box[2:] - face.box[:2])):
            if not any(_is_same(face.box, box) for box in taken):
                strangers.append(face)
                taken.append(face.box)  # MTCNN sees two boxes on a face now and then
        return strangers

    def _add(self, looks, face, pictures, times_s, at):
        """Adds a person whose face is seen in the picture `at` for the first time."""
        one, rest = Person(self.find), pictures[at + 1:]
        one.tracker.follower.people = [Seen(face.box, times_s[at])]
        one.tracker.advance(pictures[at], times_s[at], face)
        with self.find.hiding(looks.values(), pictures):
            looks[one] = [GONE] * at + [(face, "detected")] + (one.tracker(rest, times_s[at + 1:]) if rest else [])
        self.people.append(one)

    def _numbers(self, one, look, times_s):
        """The person's id in each picture; None before the first sight, and once given up."""
        numbers = []
        for (face, _), time_s in zip(look, times_s):
            if time_s - one.seen_s > GONE_S:
                one.number = None
            if face:
                self.count += one.number is None
                one.number, one.seen_s = one.number or self.count, time_s
            numbers.append(one.number)
        return numbers


class Person:
    """One person: a Tracker, and the id."""

    def __init__(self, find):
        self.tracker = Tracker(find)
        self.number, self.seen_s = None, -np.inf  # id, and when the face was seen last
        self.start = None  # before the pictures at hand: (Seen, movement of the face per picture)

    def look(self, pictures, times_s):
        """What the Tracker finds in these pictures."""
        seen, motion = self.tracker.follower.people[:1], self.tracker.motion
        self.start = (seen[0], np.zeros(2) if motion is None else motion.mean(0)) if seen else None
        return self.tracker(pictures, times_s)

    def surprise(self, face, i):
        """Distance of a face in picture i from where this person's would be, if it moved on as before, in widths."""
        if self.start is None:
            return np.inf
        seen, motion = self.start
        return _apart(seen.box + np.tile((i + 1) * motion, 2), face.box)

    def lose(self, look, at, pictures, times_s):
        """Takes back what the Tracker found (`look`) from picture `at` on: the person is missing from there."""
        seen = [Seen(face.box, time_s) for (face, _), time_s in zip(look[:at], times_s) if face]
        look[at:] = [GONE] * (len(look) - at)
        self.tracker.follower.people[0] = seen[-1] if seen else self.start[0]
        self.tracker.advance(pictures[-1], times_s[-1], None)


class _SharedFinder:
    """A FaceFinder that searches each picture once for everybody, and hides from one person the faces of others."""

    def __init__(self, find):
        self.find, self.min_face_size, self.refine = find, find.min_face_size, find.refine
        self.found = []  # (image, what was found in it)
        self.hidden = []  # (picture, boxes to be hidden in it)

    def __call__(self, rgb):
        found = next((found for image, found in self.found if image is rgb), None)
        if found is None:
            found = self.find(rgb)
            self.found.append((rgb, found))
        hidden = [box for picture, boxes in self.hidden if vars(picture).get("rgb") is rgb for box in boxes]
        free = [not any(_is_same(box, other) for other in hidden) for box in found[0]]
        return tuple(values[np.array(free, bool)] for values in found)

    @contextlib.contextmanager
    def hiding(self, looks, pictures):
        """Within this block, the faces of `looks`, one list per person, are not found in these pictures."""
        boxes = [[look[i][0].box for look in looks if look[i][0]] for i in range(len(pictures))]
        self.hidden = list(zip(pictures, boxes))
        try:
            yield
        finally:
            self.hidden = []

    def keep(self, picture):
        """Forgets all pictures but this one."""
        self.found = [(image, found) for image, found in self.found if image is vars(picture).get("rgb")]


def _apart(box, other):
    """Distance between the middles of two boxes, in widths of the first."""
    return float(np.hypot(*(box[:2] + box[2:] - other[:2] - other[2:])) / 2 / (box[2] - box[0]))


def _is_same(box, other, share=SAME_PLACE):
    """Whether the middles of two boxes are less than that share of the larger one apart, both across and down."""
    reach = share * np.maximum(box[2:] - box[:2], other[2:] - other[:2])
    return bool((np.abs(box[:2] + box[2:] - other[:2] - other[2:]) / 2 < reach).all())
