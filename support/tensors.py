"""Files of torch.save of which nothing is trusted: tensors and plain Python come out, and no code in them is run."""
import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pathlib import Path

import torch

from support.files import regular

PLAIN = {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.Size"}
TORCH = ("torch.", "collections.", "_codecs.encode", "builtins.set")  # torch decides: no bytearray, of any size
NOTES = ("numpy.", "argparse.Namespace", "pathlib.", "datetime.")  # kept beside weights: accuracies, flags, paths
OLD = 4  # pickles, one after the other, in a file that is no ZIP: two numbers, the system, the content


class Skipped:
    """In the place of the NOTES in a file: it holds and does nothing, and no code of NumPy is called."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


def load_tensors(path, skip=False):
    """The content of a file of torch.save. No more memory is taken than the file has bytes.

    skip: torch's rarer kinds of tensors are read, too, and NOTES become Skipped, instead of an error. Raises UserError
    if it is no file, FileNotFoundError if it is missing, and many kinds of errors if it is damaged or anything else.
    """
    names = names_in(path)
    notes = {name for name in names if skip and name.startswith(NOTES)}
    allowed = {name for name in names if name in PLAIN or _is_storage(name) or skip and name.startswith(TORCH)}
    if other := names - notes - allowed:
        raise ValueError(f"it holds {min(other)[:80]}")
    with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(
            [(Skipped, name) for name in notes]):
        return torch.load(path, map_location="cpu", weights_only=True)


def names_in(path):
    """The classes and functions that a file of torch.save names, {"collections.OrderedDict" ...}; checks its sums."""
    with open(regular(path), "rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            return {name for _ in range(OLD) for name in _names(file)}
        with zipfile.ZipFile(file) as whole:  # a few bytes can pretend to be terabytes: torch never compresses
            if sum(one.file_size for one in whole.infolist()) > Path(path).stat().st_size or whole.testzip():
                raise ValueError("its sizes or sums are wrong")  # torch does not look at them
            return {name for one in whole.infolist() if one.filename.endswith("data.pkl")
                    for name in _names(whole.read(one))}


def _names(pickled):
    """Yields what a pickle names, as Python 3 calls it."""
    for code, text, _ in pickletools.genops(pickled):
        if code.name == "GLOBAL":
            module, name = text.split(" ", 1)
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            yield f"{module}.{name}"


def _is_storage(name):
    return name.startswith("torch.") and name.endswith("Storage")
