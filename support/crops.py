"""Face crops of another program, such as those that a corpus ships: numbered as the pictures of the video, with gaps.

    00001.jpg 00002.jpg 00005.jpg ...       from 1 (or 0) on; a picture in which no face was found has none
    frame_det_00_000001.bmp ...             any number of digits, behind the same letters

face_detector.py's own crops are numbered by frames (000000.jpg ...), without gaps, and have a faces.csv.
"""
import glob
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from support.columns import read_table
from support.errors import UserError
from support.files import there, whole_file
from support.opencv import cv2, read_picture
from support.recordings import is_inside, is_near

IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
NO_FACE = "no_face"  # the name of the black image that stands for a picture without a face, without its ending
MOST_PICTURES = 10**7  # of a video: 92 hours at 30 per second


class Crops(NamedTuple):
    """The crops in a folder."""
    folder: Path
    names: dict  # {number of the picture, from 0 on: name of the file}
    first: int  # how the files count: from 0 or from 1 on

    @property
    def last(self):
        """How many pictures there are at least: up to the last one with a crop."""
        return max(self.names) + 1


def other_crops(folder, frames=None):
    """The Crops in a folder, None if there are none, or if they are face_detector.py's, or named as these.

    frames(): the number of frames of the recording, asked for where crops without a faces.csv are named as
    face_detector.py names them: they are its own if they are as many. Raises UserError if the names follow no one rule,
    or if two files have one number.
    """
    own = there(folder / "faces.csv")
    found = [name for name in sorted(os.listdir(folder)) if is_crop(name)] if folder.is_dir() else []
    if not found:
        return None
    numbers, kinds, width = _read_names(folder, found)
    if own and (kinds.keys() != {("", ".jpg")} or width != 6):
        raise UserError(f"{folder}/ holds crops of face_detector.py (faces.csv) and others (such as "
                        f"{found[-1]}): keep one kind")
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        raise UserError(f"{folder}/ holds images named in two ways ({one}, {other}): keep one kind")
    if own:
        return None
    as_ours = width == 6 and ("", ".jpg") in kinds and sorted(numbers) == list(range(len(numbers)))
    if as_ours and (frames is None or frames() in (None, len(numbers))):
        return None
    first = 0 if 0 in numbers else 1
    return Crops(folder, {number - first: name for number, name in numbers.items()}, first)


def _read_names(folder, found):
    """{number: name} of file names; {way of naming: its first name}; how many digits they have at least.

    Raises UserError if one has no number, or that of another one, or one that no video reaches.
    """
    numbers, kinds = {}, {}
    for name in found:
        stem, ending = os.path.splitext(name)
        letters, digits = re.fullmatch(r"(.*?)([0-9]*)", stem, re.DOTALL).groups()
        if not digits:
            raise UserError(f"{folder / name} has no number: images numbered as the pictures of the video were "
                            "expected, 00001.jpg 00002.jpg ...")
        kinds.setdefault((letters, ending), name)
        if (before := numbers.setdefault(int(digits), name)) != name:
            raise UserError(f"{folder / before} and {folder / name} are both number {int(digits)}: keep one of them")
    if max(numbers) > MOST_PICTURES:
        raise UserError(f"{folder / numbers[max(numbers)]}: no video has so many pictures")
    width = min(len(_digits(name)) for name in found)
    kinds |= {number: name for number, name in numbers.items() if _digits(name) != f"{number:0{width}d}"}
    return numbers, kinds, width


def is_crop(name):
    """Whether a file of that name is a crop, and not the black image or a hidden file."""
    stem, ending = os.path.splitext(name)
    return ending.lower() in IMAGES and stem != NO_FACE and not name.startswith(".")


def _digits(name):
    return re.search(r"[0-9]*$", os.path.splitext(name)[0])[0]


def check_last(what, last, pictures, video, frames):
    """Raises UserError if something numbered as the pictures of a video ends beyond them, or where something else does.

    what: it, in words; last: the number of pictures up to its last one; video: the file; frames: their number. It may
    end early, but not at half of the pictures or at the number of frames: then its rate is most likely another.
    """
    if last > pictures and not is_near(last, pictures):
        raise UserError(f"{what} number {last} pictures, but there are {pictures} ({video}): is it another video?")
    if not is_near(last, pictures) and (is_near(last, frames) or is_near(2 * last, pictures)):
        raise UserError(f"{what} end at picture {last} of {pictures} ({video}; {frames} frames): they were most likely "
                        "made at another rate. If they are not, add that of the last picture")


def no_face(crops):
    """The name of a black image of the size of the crops in their folder, which is written if it is not there.

    Raises UserError if no size can be told, as a crop cannot be read.
    """
    like = crops.folder / crops.names[min(crops.names)]
    path = crops.folder / f"{NO_FACE}{like.suffix}"
    if not there(path):
        image = read_picture(like, cv2.IMREAD_COLOR, "delete it, and the frame counts as one without a face")
        with whole_file(path) as part:
            part.write_bytes(cv2.imencode(like.suffix, np.zeros_like(image))[1].tobytes())
    return path.name


def crops_shown(crops, shown):
    """[name of the image of each frame], the black one where a picture has no crop. shown: (N,) picture of each."""
    return [crops.names.get(int(picture)) or no_face(crops) for picture in shown]


def frame_images(folder, frames):
    """[path of the image of each frame] of a recording's folder of crops: what its annotation file, in Annotations/
    beside all of them, calls them, or without one what face_detector.py does.

    Raises UserError if that file is damaged.
    """
    for table in sorted((folder.parent.parent / "Annotations").glob(f"*/{glob.escape(folder.name)}.csv")):
        named = read_table(table, "run annotations.py", texts=["image path"], whole=False)["image path"]
        if len(named) >= frames and all(map(is_inside, named[:frames])):
            return [folder.parent / image for image in named[:frames]]
    return [folder / f"{k:06d}.jpg" for k in range(frames)]
