"""Aff-Wild2 (ABAW's valence-arousal track): {Train_Set,Validation_Set}/<video>.txt, `valence,arousal` in every row.

A row is a picture of the video, and -5 marks one without a rating. <video>_left and <video>_right are the two subjects
of one video and share its pictures and sound. In place of a .txt there may be a .csv of images, img,V,A,frame_id.
"""
import functools
import re
from pathlib import Path

import numpy as np

from corpora.cells import files_by_id, read_cells
from corpora.ratings import INVALID, Source, by_picture, labelled_pictures, named_ratings
from support.errors import UserError
from support.recordings import PARTITIONS

SETS = {"trainset": "train", "validationset": "val", "valset": "val"}  # names of folders, letters and digits alone


def find(folder):
    """{id: Source} of the txt or csv files of the valence-arousal track, wherever its sets lie in the folder.

    Raises UserError if a video is in both sets.
    """
    sources = {}
    for place in sorted(Path(folder).rglob("[!.]*")):
        inside = [part.lower() for part in place.relative_to(folder).parts]
        part = SETS.get(re.sub(r"[^a-z0-9]", "", inside[-1]))
        if not part or not place.is_dir() or any(re.match(r"(expr|au)[_ ]", name) for name in inside):
            continue
        for name, path in files_by_id(place, ("txt", "csv")).items():
            if name in sources:
                raise UserError(f"{sources[name].files[0]} and {path} have the same id: keep one of them")
            sources[name] = Source("affwild2", (path,), functools.partial(read, path), PARTITIONS[part])
    return sources


def read(path, raters="mean"):
    """Ratings of a video, a row per picture: (R, 2) arousal, valence; NaN in both where either is -5.

    Raises UserError, naming the line, if the first line is not valence,arousal or a row is not two numbers.
    """
    cells = read_cells(path)
    if not cells.named:
        raise cells.fault(1, f"{cells.first_line()}: the header valence,arousal was expected (without it the order is "
                             "not known)")
    values = named_ratings(cells)
    invalid = (values == INVALID).any(axis=1)
    made = by_picture(np.where(invalid[:, None], np.nan, values), labelled_pictures(cells))
    note = f"{np.count_nonzero(invalid)} rows are marked invalid ({INVALID}): masked"
    return made._replace(notes=(*made.notes, *(note,) * bool(invalid.any())), per_picture=True)
