"""Recordings that are one and the same under two names: the same bytes, the same sound, the same pictures.

Or names that only look the same.

Sounds and pictures are compared by what a codec, a size and a bit rate leave as it is. Only recordings of the same
length are compared, and of these only the beginning.

E moments of sound in B bands, P pictures of S x S.
"""
import contextlib
import hashlib
import itertools
import unicodedata
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from corpora.loudness import band_levels, samples_of
from support.errors import UserError
from support.machine import cores
from support.media import about_frames, ignored, read_frames
from support.opencv import cv2
from support.recordings import media_file, sound_file, video_of

BYTES = ", byte for byte"


class Alike(NamedTuple):
    """Recordings that are one and the same."""
    what: str  # that is the same: "videos", "sound and pictures" ...
    names: list
    one: bool  # whether they are one recording; else they share a sound, as the two of a conversation may
    how: str = ""  # ", byte for byte"


# ---- the same bytes, the same names ---------------------------------------------------------------------------------

def copies(files):
    """[[id, id ...] ...] of the recordings whose files have the same bytes. files: {id: path}.

    Files are compared by their size first; only those of one size are read. Those that cannot be read are left out:
    whoever uses them says so.
    """
    by_size, by_bytes = defaultdict(list), defaultdict(list)
    for name, path in files.items():
        if path.is_file():
            by_size[path.stat().st_size].append(name)
    for size, names in by_size.items():
        for name in names if len(names) > 1 and size else []:
            with contextlib.suppress(OSError), open(files[name], "rb") as file:
                by_bytes[size, hashlib.file_digest(file, "sha256").hexdigest()].append(name)
    return [names for names in by_bytes.values() if len(names) > 1]


def spelt_alike(names):
    """{id: another one that looks the same}: ids that differ in how Unicode composes their letters alone."""
    by_look = defaultdict(list)
    for name in names:
        by_look[unicodedata.normalize("NFC", name)].append(name)
    return {one: other for alike in by_look.values() for one, other in itertools.permutations(alike, 2)}


# ---- the same sound -------------------------------------------------------------------------------------------------

HEARD_S, MOMENTS = 30.0, 50  # seconds of sound that are compared; moments per second
LOUD_DB = 45.0  # below the loudest moment all is silence: codecs differ there
LIVELY_DB = 4.0  # standard deviation below which a sound has no course of its own: silence, a tone, noise
SAME_SOUND = 0.97  # correlation
SHIFT_S = 0.4  # encoders put some silence before a sound
SHORTEST_S = 2.0
BLOCK = 64  # recordings that are compared with as many at a time


def sound_print(levels):
    """(E, B) what is compared of a sound's levels (E, B) in dB, MOMENTS per second; None if that is not enough.

    The mean of each band is taken away: copies may be louder, or duller.
    """
    if len(levels) < SHORTEST_S * MOMENTS:
        return None
    levels = np.maximum(levels, levels.max() - LOUD_DB)
    away = (levels - levels.mean(axis=0)).astype(np.float32)
    return away.astype(np.float16) if np.sqrt((away ** 2).mean()) >= LIVELY_DB else None


def same_pairs(prints, limit, shift):
    """{(id, id)} of prints {id: (T, F)} that correlate by more than `limit`, one of them up to `shift` rows later.

    Those of other lengths are compared as far as the shorter one goes, if that is nearly all of the longer one.
    """
    names, found = list(prints), set()
    rows = max((len(each) for each in prints.values()), default=0)
    blocks = [names[first:first + BLOCK] for first in range(0, len(names), BLOCK)]

    def unit(block, start, stop):
        """Rows start to stop of some prints, as vectors of length 1, or 0: (n, (stop - start) F)."""
        table = np.zeros((len(block), rows, prints[block[0]].shape[1]), np.float32)
        for row, name in zip(table, block):
            row[:len(prints[name])] = prints[name]
        flat = table[:, start:stop].reshape(len(block), -1)
        norms = np.linalg.norm(flat, axis=1, keepdims=True)
        return np.divide(flat, norms, out=np.zeros_like(flat), where=norms > 0)

    for late in range(min(shift + 1, rows)):
        for block in blocks:
            early = unit(block, 0, rows - late)
            for other in blocks:
                alike = np.argwhere(early @ unit(other, late, rows).T > limit)
                found |= {tuple(sorted((block[i], other[j]))) for i, j in alike if block[i] != other[j]}
    return found


# ---- the same pictures ----------------------------------------------------------------------------------------------

SEEN_S, RATE = 3.0, 25.0  # seconds of pictures that are compared, pictures per second
SIDE, SAMPLES = 16, 8  # of the small pictures; pixels that are averaged for one of theirs, in either direction
MOVING = 0.7  # standard deviation over time, levels of brightness, below which there is nothing but a codec's noise
SAME_MOTION, SAME_SCENE = 0.85, 0.97  # correlations
SHIFT_PICTURES = 5


class Look(NamedTuple):
    """What is compared of the beginning of a video."""
    scene: np.ndarray  # (S * S,) the mean picture
    motion: np.ndarray | None  # (P, S * S) how the pictures differ from it; None if nothing moves


def look_of(pictures):
    """The Look of small pictures (P, S, S)."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    scene = flat.mean(axis=0)
    motion = flat - scene
    return Look(scene, motion.astype(np.float16) if motion.std() >= MOVING else None)


def small_pictures(video):
    """(P, S, S) brightness of the first SEEN_S of a video. Raises UserError."""
    made, count = [], round(SEEN_S * RATE)
    with contextlib.closing(read_frames(video, RATE, ignored, ignored)) as shown:
        for ks, picture in shown:
            grid = [np.linspace(0, length - 1, SIDE * SAMPLES).astype(int)
                    for length in (picture.width, picture.height)]
            small = cv2.resize(picture.brightness(*grid), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            made += [small] * min(len(ks), count - len(made))
            if len(made) == count:
                break
    return np.array(made, np.uint8)


def same_scene(one, other):
    """Whether the mean pictures of two Looks are the same."""
    return bool(_correlation(one.scene, other.scene) > SAME_SCENE)


def _correlation(one, other):
    if not one.std() or not other.std():
        return float(np.array_equal(one, other))
    return np.corrcoef(one, other)[0, 1]


# ---- recordings -----------------------------------------------------------------------------------------------------

ABOUT_S, ABOUT = 1.0, 0.01  # seconds and share by which the lengths of copies differ


def candidates(lengths):
    """The ids of recordings about as long as another one. lengths: {id: seconds, 0: unknown}."""
    order = sorted(lengths, key=lengths.get)
    near = [(one, other) for one, other in itertools.pairwise(order)
            if lengths[other] - lengths[one] <= max(ABOUT_S, ABOUT * lengths[other])]
    return [name for name in lengths if any(name in pair for pair in near)]


def alike(names, videos_dir, audio_dir):
    """[Alike] of recordings whose files, sounds or pictures are the same."""
    videos = {name: path for name in names if (path := media_file(name, videos_dir))}
    own = {name: path for name in names if (path := media_file(name, audio_dir))}
    sounds = {name: path for name in names if (path := sound_file(name, audio_dir, videos_dir))}
    found = [Alike(what, those, what == "videos", BYTES)
             for what, files in (("videos", videos), ("sounds", own)) for those in copies(files)
             if len({files[name] for name in those}) > 1]
    shared = defaultdict(list)
    for name in names:
        shared[video_of(name)].append(name)  # the two subjects of a video
    known = {tuple(sorted(pair)) for those in (*shared.values(), *(same.names for same in found if same.one))
             for pair in itertools.combinations(those, 2)}
    said = [{*same.names} for same in found]
    return found + [same for same in near_copies(videos, sounds, known)
                    if same.one or not any({*same.names} <= names for names in said)]


def near_copies(videos, sounds, known=frozenset()):
    """[Alike] of recordings whose sounds or pictures are the same, in other files.

    videos: {id: path}; sounds: {id: path}, of some a video; known: pairs of ids that are not compared.
    """
    files = videos | sounds
    lengths = {name: about_frames(path, 1000) / 1000 for name, path in files.items() if path.is_file()}
    names = candidates(lengths)
    with ThreadPoolExecutor(cores()) as pool:
        heard = pool.map(lambda name: _sound_of(sounds.get(name)), names)
        seen = pool.map(lambda name: _look_of(videos.get(name)), names)
        heard = {name: made for name, made in zip(names, heard) if made is not None}
        looks = {name: made for name, made in zip(names, seen) if made is not None}
    same_sound = same_pairs(heard, SAME_SOUND, round(SHIFT_S * MOMENTS)) - known
    moving = {name: look.motion for name, look in looks.items() if look.motion is not None}
    pairs = same_pairs(moving, SAME_MOTION, SHIFT_PICTURES) - known
    same_pictures = {pair for pair in pairs if same_scene(*(looks[name] for name in pair))}
    both, found = same_sound & same_pictures, []
    unseen = {pair for pair in same_sound - both if _cannot_differ([looks.get(name) for name in pair])}
    for what, those, one in (("sound and pictures", both, True), ("pictures", same_pictures - both, True),
                             ("sounds", unseen, True), ("sounds", same_sound - both - unseen, False)):
        found += [Alike(what, names, one) for names in groups(those)]
    return found


def _cannot_differ(looks):
    """Whether two recordings of the same sound have no pictures by which they could be two people's."""
    if any(look is None for look in looks):
        return True
    return all(look.motion is None for look in looks) and same_scene(*looks)


def groups(pairs):
    """[[id ...]]: pairs joined where they share an id."""
    found = []
    for pair in sorted(pairs):
        touched = [one for one in found if {*pair} & {*one}]
        found = [one for one in found if one not in touched]
        found.append(list(dict.fromkeys([*itertools.chain(*touched), *pair])))
    return found


def _sound_of(path):
    try:
        return sound_print(band_levels(samples_of(path, most_s=HEARD_S), MOMENTS)) if path else None
    except (UserError, OSError):
        return None


def _look_of(path):
    try:
        pictures = small_pictures(path) if path else []
        return look_of(pictures) if len(pictures) >= RATE else None
    except (UserError, OSError):
        return None
