"""OpenCV, which the scripts take from here: `from support.opencv import cv2`; and reading images."""
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from support.checksums import checked
from support.errors import UserError
from support.reading import read_bytes

try:
    import cv2
except ImportError as error:  # while a script is imported, where run_script cannot report it
    raise SystemExit(f"{Path(sys.argv[0]).name}: error: OpenCV cannot be loaded ({error}): without a screen, pip "
                     "uninstall opencv-python and pip install opencv-python-headless; or install the system's "
                     "packages libgl1 and libglib2.0-0") from None

__all__ = ["cv2", "read_picture"]

ENDINGS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}  # of complete images
PIXELS = 2**24  # of an image, at most, whatever its header says: 16 million


def read_picture(path, flags, again, sums=()):
    """What cv2.imdecode makes of a file with these flags. Raises UserError if it is damaged, cut short or larger than
    PIXELS, or if `sums`, the checksums of its folder, differ, whatever `again` says to do; OSError if it is missing."""
    encoded, picture = checked(path, read_bytes(path), sums, again), None
    if encoded and encoded.endswith(ENDINGS.get(Path(path).suffix.lower(), b"")):  # cv2 pads half a JPEG with grey
        try:
            with Image.open(io.BytesIO(encoded)) as header:  # cv2 would take memory for whatever size the header says
                width, height = header.size
            if width * height > PIXELS:
                raise UserError(f"{path} would be {width} x {height} pixels large: {again}")
            picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, cv2.error):
            pass
    if picture is None:
        raise UserError(f"{path} is not a readable image: {again}")
    return picture
