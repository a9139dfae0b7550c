"""Arrays on disk that are read in place."""
import math
from pathlib import Path

import numpy as np

from support.errors import UserError
from support.files import named, regular
from support.reading import clipped


def mapped(path):
    """(the array in an .npy file, read in place and only, as np.load(path, mmap_mode="r") gives it; where it ends in
    the file). No file stays open.

    NumPy's and Python's memory maps hold a descriptor each, of which a process often may have 1024 (256 on macOS): too
    few for two arrays of each of 600 recordings. Raises FileNotFoundError, or ValueError if it is no whole array.
    """
    import torch  # here, so that scripts without networks start fast
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    with open(path, "rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path} has a header of another version than np.save writes")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    end = start + math.prod(shape) * dtype.itemsize
    if dtype.hasobject or fortran_order or min(shape, default=0) < 0 or end > path.stat().st_size:
        raise ValueError(f"{path} is not a whole array of numbers in C order")
    try:
        stored = torch.from_file(str(path), size=end, dtype=torch.uint8).numpy()
    except RuntimeError:  # where all memory is to be guaranteed, so much is not granted to a private map
        return np.load(path, mmap_mode="r"), end
    array = stored[start:].view(dtype).reshape(shape)
    array.flags.writeable = False
    return array, end


def mapped_array(path, again):
    """mapped(path). Raises UserError if it is damaged, or holds Python objects; OSError if it is missing."""
    regular(path)
    try:
        with named(path):
            return mapped(path)
    except OSError:
        raise
    except Exception as error:  # NumPy reads the header as Python: whatever its parser raises
        raise UserError(f"{path} is damaged, not a whole array ({clipped(error)}): {again}") from None
