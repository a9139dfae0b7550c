"""The images of a recording as one array on disk: packed on first use, or as audio_melspec.py wrote them.

Arrays of packed images lie in cache/ of the data folder and are read in place. The folders of images remain the truth:
an array that no longer fits them, or is damaged, is made again, and deleting it loses nothing.

Shapes: N frames, S side of a crop in pixels, M mel bands, F spectrogram columns, C channels.
"""
import glob
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from support.checksums import array_sum, digest, list_text, open_array, read_list, write_checked_array
from support.errors import UserError
from support.files import regular, there, whole_file
from support.opencv import cv2, read_picture
from support.recordings import SLACK

MAKERS = {"frames": "face_detector.py", "specs": "audio_melspec.py"}


# ---- spectrograms that are one array --------------------------------------------------------------------------------

def spec_array(names, folder):
    """The array on disk with the spectrograms `names` ("<id>/000000.png" ...): (N, 1, M, F) uint8; None for images.

    The last may be missing, as in `present`. Raises UserError if the array is damaged or holds other spectrograms.
    """
    recording = os.path.dirname(names[0])
    file = Path(folder, f"{recording}.npy")
    if not there(file):
        return None
    if Path(folder, recording).is_dir():
        raise UserError(f"{file} and {folder / recording}/ both exist: delete the one that is not to be used")
    array, _ = open_array(file, f"delete it and run {MAKERS['specs']}")
    if array.ndim != 4 or array.shape[1] != 1 or array.dtype != np.uint8:
        raise UserError(f"{file} holds {array.dtype} {array.shape}, uint8 (frames, 1, bands, columns) was expected: "
                        f"delete it and run {MAKERS['specs']}")
    for k, name in enumerate(names):
        if name != f"{recording}/{k:06d}.png":
            raise UserError(f"rating {k + 1} of {recording} names {name}, {file} holds {recording}/{k:06d}.png there: "
                            "run annotations.py")
    if len(names) - len(array) > (len(names) > 1):
        raise UserError(f"{file} holds {len(array)} spectrograms, {len(names)} were expected: delete it and run "
                        f"{MAKERS['specs']}")
    refuse_cut(len(array) - len(names), len(array), recording, file)
    if len(array) > len(names):
        print(f"{recording}: {len(array) - len(names)} spectrograms have no rating and are left out")
    if len(array) < len(names):
        print(f"{recording}: the last rating has no spectrogram and is left out")
    return array[:len(names)]


def refuse_cut(beyond, images, recording, place):
    """Raises UserError if more of a recording's images come after its last rating than annotations.py leaves there."""
    if beyond > max(1, SLACK * images):
        raise UserError(f"{place} holds {images} images of {recording}, the last {beyond} of them without a row in its "
                        "annotation file: was it cut? Run annotations.py, or to leave these frames out, give them rows "
                        "with the rating nan")


def unchecked(recording, paths, cfg):
    """Whether a recording has images whose damage would not be noticed. paths: of those that are single files."""
    array = cfg.specs_dir / f"{recording}.npy"
    folders = {folder for name in paths for folder in folders_of(paths[name])}
    return not all(map(list_text, folders)) or "specs" not in paths and array.is_file() and array_sum(array) is None


# ---- images ---------------------------------------------------------------------------------------------------------

def read_image(path, kind, sums=()):
    """A crop (3, S, S) RGB or a spectrogram (1, M, F), uint8. Raises UserError if it is damaged.

    sums: the checksums of its folder, if it has any.
    """
    flags = cv2.IMREAD_COLOR_RGB if kind == "frames" else cv2.IMREAD_GRAYSCALE
    picture = read_picture(path, flags, f"delete {Path(path).parent}/ and run {MAKERS[kind]}", sums)
    return picture.transpose(2, 0, 1) if kind == "frames" else picture[None]


def packed(paths, stem, kind, bar):
    """All images as one array on disk, opened for reading: (N, C, H, W) uint8. Made if there is none of them."""
    states = "".join(f"{path} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\n"
                     for path in paths for state in [path.stat()])  # ctime: no program can set it back
    lists = b"".join(list_text(folder) for folder in folders_of(paths))
    cache = stem.with_name(f"{stem.name}.{digest(states.encode() + lists)}.npy")
    array = kept_array(cache, len(paths), lambda: _images(paths, kind, bar))
    for old in stem.parent.glob(f"{glob.escape(stem.name)}.*.npy"):
        if old != cache:
            old.unlink(missing_ok=True)  # another process may do the same
    return array


def folders_of(paths):
    """The folders that some files are in, as they first occur."""
    return dict.fromkeys(path.parent for path in paths)


def kept_array(path, length, pieces):
    """The array at `path`, read in place. If it is missing or damaged, it is made of `pieces()`, which yields arrays
    (n, ...).

    Two processes may make it at once: the file is there whole or not at all.
    """
    try:
        array, has_sum = open_array(path, "it is made again")
        if has_sum and len(array) == length:
            return array
    except FileNotFoundError:
        pass
    except UserError as error:
        regular(path)
        tqdm.write(str(error))
    with whole_file(path) as part:
        write_checked_array(part, length, pieces())
    return open_array(path, "delete it")[0]


def _images(paths, kind, bar):
    """Yields all images, each (1, C, H, W). Raises UserError if one is damaged or of another size than the first."""
    shape, sums = None, {folder: read_list(folder) for folder in folders_of(paths)}
    for path in paths:
        picture = read_image(path, kind, sums[path.parent])
        shape = shape or picture.shape
        if picture.shape != shape:
            raise UserError(f"{path} is of size {picture.shape[1:]}, {paths[0]} of {shape[1:]}: delete {path.parent}/ "
                            f"and run {MAKERS[kind]}")
        yield picture[None]
        bar.update()
