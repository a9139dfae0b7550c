"""Annotation CSVs -> recordings, random training clips, ordered evaluation streams.

The pictures of a recording are packed once, on first use, into one array on disk (cache/ in the data folder) that is
then read in place: clips cost no decoding, and memory does not grow with the recordings. The folders of pictures
remain the truth; a cache that no longer fits them is made anew, and deleting it loses nothing. Spectrograms that
audio_melspec.py wrote as one array (specs/<id>.npy) need no packing: they are read in place.

Shapes: B clips, T frames, S pixels of a crop's side, M mel bands, F spectrogram columns, K targets.
"""
import glob
import hashlib
import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from support.errors import SettingsError, UserError
from support.files import whole_file
from support.recordings import PARTITIONS, UNLABELLED, refuse_summary, valid_labels

MAKERS = {"frames": "face_detector.py", "specs": "audio_melspec.py"}
ENDINGS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}  # last bytes of a picture that is whole
SHIFT = 1 / 16  # augmentation moves a clip by up to this share of its side, ...
LIGHT = 0.2  # ... changes its brightness by up to this share ...
LATER = 0.1  # ... and moves its sound by up to this share of a spectrogram's length


@dataclass
class Recording:
    """One recording: its ratings and the paths of its pictures; the k-th of each belong to frame k."""
    name: str
    gold: np.ndarray  # (N, K) float32, NaN where a rating is invalid
    paths: dict  # "frames" and "specs" -> list of N paths, of those that are pictures
    arrays: dict = field(default_factory=dict)  # on disk: "frames" -> (N, 3, S, S) and "specs" -> (N, 1, M, F) uint8; of a teacher with
    # V views of the pictures, "taught" -> (V, N, D) float32

    def __len__(self):
        return len(self.gold)


class Batch(NamedTuple):
    """Clips, or one piece of a recording; what was not asked for is None. Pictures are uint8 until on_device makes them float."""
    frames: torch.Tensor | None  # (B, T, 3, S, S)
    specs: torch.Tensor | None  # (B, T, 1, M, F)
    gold: torch.Tensor  # (B, T, K), NaN where invalid
    taught: torch.Tensor | None = None  # (B, T, D) what a frozen teacher said: predictions and hints
    clips: tuple = ()  # (id of the recording, first frame) of every clip


# ---- recordings -----------------------------------------------------------------------------------------------------

def load_recordings(cfg, partition, inputs):
    """Recordings of Train_Set, Val_Set or Unlabelled_Set (which may be empty), in the order of their names, with the pictures
    that `inputs` names.

    Raises UserError if an annotation file, a picture or a rating is missing or broken, naming the first.
    """
    folder = cfg.annotations_dir / partition
    tables = sorted(folder.glob("[!.]*.csv"))  # hidden files are leftovers of something that was killed
    if not tables and partition != UNLABELLED:
        raise UserError(f"{folder}/ holds no annotation files: run annotations.py first")
    folders = {"frames": cfg.crops_dir, "specs": cfg.specs_dir}
    recordings = [read_recording(path, cfg.targets, {name: folders[name] for name in inputs}, partition != UNLABELLED) for path in tables]
    unpacked = [(recording, name) for recording in recordings for name in inputs if name not in recording.arrays]
    with tqdm(total=sum(len(recording) for recording, _ in unpacked), unit=" pictures", disable=None, leave=False) as bar:
        for recording, name in unpacked:
            bar.set_description(f"packing {recording.name}")
            recording.arrays[name] = packed(recording.paths[name], cfg.cache_dir / f"{recording.name}.{name}", name, bar)
    return recordings


def read_recording(path, targets, folders, rated=True):
    """A Recording from its annotation CSV; folders: {"frames": Cropped_Aligned, "specs": specs}, those that are needed.

    rated: whether it has ratings; else they are all NaN.
    """
    refuse_summary(path.stem, path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not an annotation file ({error}): run annotations.py") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much for an index
        raise UserError(f"{path} has more columns in its rows than in its header {','.join(table.columns)}")
    for column in ["image path", *targets * rated]:
        if column not in table or not len(table):
            raise UserError(f"{path} has no column {column!r} or no rows: 'image path,spec path,arousal,valence' was expected")
    gold = read_labels(table[targets], path) if rated else np.full((len(table), len(targets)), np.nan, np.float32)
    images = table["image path"]
    specs = table["spec path"] if "spec path" in table else [os.path.splitext(image)[0] + ".png" for image in images]
    relative = {"frames": images, "specs": specs}
    for line in (line for name in folders for line, file in enumerate(relative[name], 2) if not file):
        raise UserError(f"{path} line {line} is cut short: it names no picture; run annotations.py")
    arrays = {"specs": array} if "specs" in folders and (array := spec_array(list(specs), folders["specs"])) is not None else {}
    paths = {name: [folder / file for file in relative[name]] for name, folder in folders.items() if name not in arrays}
    frames = min([*(present(paths[name], MAKERS[name]) for name in paths), *map(len, arrays.values())], default=len(gold))
    return Recording(path.stem, gold[:frames], {name: paths[name][:frames] for name in paths},
                     {name: arrays[name][:frames] for name in arrays})


def read_labels(columns, path):
    """(N, K) float32 of the rating columns of a table of texts; NaN where a rating is empty, `nan` or outside [-1, 1]."""
    labels = columns.apply(pd.to_numeric, errors="coerce")
    text = columns.apply(lambda column: column.str.strip().str.lower())
    for line, column in zip(*np.nonzero((labels.isna() & ~text.isin(["", "nan"])).to_numpy())):
        raise UserError(f"{path} line {line + 2}: {columns.iat[line, column]!r} is not a number")
    labels = labels.to_numpy(np.float32)
    return np.where(valid_labels(labels), labels, np.float32("nan"))


def present(paths, maker):
    """How many of the paths are there: all, or all but the last (a rating without a frame), which is said.

    Pictures that no path names are left out, and that is said too. Raises UserError if others are missing.
    """
    listed = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in {path.parent for path in paths}}
    missing = [path for path in paths if path.name not in listed[path.parent]]
    for folder, names in listed.items():
        unnamed = {name for name in names if name.endswith(paths[0].suffix)} - {path.name for path in paths if path.parent == folder}
        if unnamed:
            print(f"{folder.name}: {len(unnamed)} pictures have no rating ({folder / min(unnamed)} first) and are left out")
    if missing == paths[-1:] and len(paths) > 1:
        print(f"{paths[-1].parent.name}: the last rating has no picture ({paths[-1]}) and is left out")
        return len(paths) - 1
    if missing:
        raise UserError(f"{missing[0]} is missing ({len(paths) - len(missing)} of {len(paths)} are there): run {maker} first")
    return len(paths)


def spec_array(names, folder):
    """The array (N, 1, M, F) uint8 on disk that holds the spectrograms `names` ("<id>/000000.png" ...), or N - 1 of them: the
    last may be missing, as in `present`. None where they are pictures.

    Raises UserError if it is damaged or holds others.
    """
    recording = os.path.dirname(names[0])
    file = Path(folder, f"{recording}.npy")
    if not file.is_file():
        return None
    if Path(folder, recording).is_dir():
        raise UserError(f"{file} and {folder / recording}/ are both there: delete the one that is not to be used")
    try:
        array = np.load(file, mmap_mode="r")
    except (ValueError, EOFError, OSError):
        raise UserError(f"{file} is not a whole array of spectrograms: delete it and run {MAKERS['specs']}") from None
    if array.ndim != 4 or array.shape[1] != 1 or array.dtype != np.uint8:
        raise UserError(f"{file} holds {array.dtype} {array.shape}, uint8 (frames, 1, bands, columns) was expected: delete it and "
                        f"run {MAKERS['specs']}")
    for k, name in enumerate(names):
        if name != f"{recording}/{k:06d}.png":
            raise UserError(f"rating {k + 1} of {recording} names {name}, {recording}/{k:06d}.png was expected, as {file} holds it: "
                            "run annotations.py")
    if len(names) - len(array) > (len(names) > 1):
        raise UserError(f"{file} holds {len(array)} spectrograms, {len(names)} were expected: delete it and run "
                        f"{MAKERS['specs']}")
    if len(array) > len(names):
        print(f"{recording}: {len(array) - len(names)} spectrograms have no rating and are left out")
    if len(array) < len(names):
        print(f"{recording}: the last rating has no spectrogram and is left out")
    return array[:len(names)]


# ---- pictures -------------------------------------------------------------------------------------------------------

def read_picture(path, kind):
    """A crop (3, S, S) RGB or a spectrogram (1, M, F), uint8. Raises UserError if it is damaged."""
    encoded = Path(path).read_bytes()
    whole = encoded and encoded.endswith(ENDINGS.get(Path(path).suffix.lower(), b""))  # cv2 fills up half a JPEG with grey
    colours = cv2.IMREAD_COLOR_RGB if kind == "frames" else cv2.IMREAD_GRAYSCALE
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), colours) if whole else None
    if picture is None:
        raise UserError(f"{path} is not a readable picture: delete {path.parent}/ and run {MAKERS[kind]}")
    return picture.transpose(2, 0, 1) if kind == "frames" else picture[None]


def packed(paths, stem, kind, bar):
    """All pictures as one array on disk, opened for reading: (N, C, H, W) uint8. Made if there is none of these pictures."""
    states = "".join(f"{path} {state.st_size} {state.st_mtime_ns}\n" for path in paths for state in [path.stat()])
    cache = stem.with_name(f"{stem.name}.{digest(states)}.npy")
    array = kept_array(cache, (len(paths),), lambda: _pictures(paths, kind, bar))
    for old in stem.parent.glob(f"{glob.escape(stem.name)}.*.npy"):
        if old != cache:
            old.unlink(missing_ok=True)  # another process may be as far as this one
    return array


def digest(text):
    """A short name that follows from a text."""
    return hashlib.sha1(text.encode()).hexdigest()[:16]


def kept_array(path, dimensions, pieces):
    """The array at `path`, read in place. If there is none, or not all of it, it is made: pieces() yields arrays (n, ...), which one
    after the other fill `dimensions` (a tuple of lengths).

    Two processes may make it at once: the file is there whole or not at all. Not written through a memory map: a full disk
    would kill the process.
    """
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        with whole_file(path) as part, open(part, "wb") as file:
            for number, piece in enumerate(pieces()):
                if number == 0:
                    header = {"descr": piece.dtype.str, "fortran_order": False, "shape": (*dimensions, *piece.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(piece.tobytes())
    return np.load(path, mmap_mode="r")


def _pictures(paths, kind, bar):
    """Yields all pictures, each (1, C, H, W). Raises UserError if one is damaged or of another size than the first."""
    shape = None
    for path in paths:
        picture = read_picture(path, kind)
        shape = shape or picture.shape
        if picture.shape != shape:
            raise UserError(f"{path} is of size {picture.shape[1:]}, {paths[0]} of {shape[1:]}: delete {path.parent}/ and run {MAKERS[kind]}")
        yield picture[None]
        bar.update()


def made_of(array):
    """What tells an array on disk from one of other content, as text; "" of one in memory."""
    file = getattr(array, "filename", None)
    state = os.stat(file) if file else None
    return f"{file} {state.st_size} {state.st_mtime_ns} {array.shape}" if file else ""


def picture_shapes(recordings):
    """{"frames": (3, S, S), "specs": (1, M, F)} of what was loaded. Raises UserError if recordings differ."""
    shapes = {}
    for recording in recordings:
        for name, array in ((name, array) for name, array in recording.arrays.items() if name in MAKERS):
            if shapes.setdefault(name, array.shape[1:]) != array.shape[1:]:
                raise UserError(f"{recording.name} has {name} of {array.shape[1:]}, other recordings of {shapes[name]}: make "
                                f"them anew with one setting, {MAKERS[name]}")
    return shapes


# ---- clips ----------------------------------------------------------------------------------------------------------

def epoch_clips(lengths, clip_length, generator):
    """(recording, start) of every clip of an epoch, shuffled: each recording in proportion to its length.

    A recording of N frames gets N / clip_length clips, rounded up, one starting somewhere in each equal part of it: every
    frame can be drawn, and an epoch sees about five sixths of them.
    """
    clips = []
    for number, length in enumerate(lengths):
        count = math.ceil(length / clip_length)
        at = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        starts = (at * (length - clip_length + 1)).floor().clamp_max(length - clip_length)  # (1499 + 0.99999) / 1500 rounds to 1
        clips += [(number, int(start)) for start in starts.tolist()]
    return [clips[k] for k in torch.randperm(len(clips), generator=generator).tolist()]


class Clips:
    """The random training clips of a run, in batches. Those of an epoch follow from the seed and its number: a run can go on anywhere.

    Every batch is full, the last one filled up with clips of the epoch's beginning: CCC is a statistic of the whole batch,
    which a few clips would make a poor one of, and several devices can share every batch evenly. For the same reason every
    batch has as many clips of rated people as the next, where others, whom nobody rated, are many more.
    """

    def __init__(self, recordings, batch_size, clip_length, inputs, seed, epoch_steps=0, others=(), share=0.5, alone=0):
        """inputs: names of the pictures to read, and "taught" for what a teacher said (Recording.arrays); epoch_steps: steps of an epoch; 0: as
        many as it takes to go through `recordings`; others: recordings that `share` of the clips of every batch are of; alone: if not 0,
        so many epochs are of the others alone, and those that follow of `recordings` alone.

        Raises SettingsError if that share leaves no clip of a batch to one of the two.
        """
        self.recordings, self.batch_size, self.clip_length, self.inputs, self.seed = [*recordings, *others], batch_size, clip_length, inputs, seed
        self.rated, self.alone = len(recordings), alone if others else 0
        self.places = {k for k in range(batch_size) if others and not alone and int((k + 1) * share) > int(k * share)}  # of others, spread out
        if others and not alone and len(self.places) in (0, batch_size):
            raise SettingsError(f"unlabelled_clips: {share:g} of a batch of {batch_size} clips leaves none to the "
                                f"{'rated' if self.places else 'unlabelled'} people: at least one of each was expected")
        self.steps = epoch_steps or math.ceil(self._clips(recordings) / (batch_size - len(self.places)))  # of an epoch

    def _clips(self, recordings):
        """How many clips there are in one pass over some recordings."""
        return sum(math.ceil(len(recording) / self.clip_length) for recording in recordings)

    def of_epoch(self, epoch):
        """(recording, start, view) of all clips of an epoch, in order; view: a number from 0 to 1 that picks a view of its teacher."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
        places = range(self.batch_size) if epoch < self.alone else self.places
        rated = self._drawn(0, self.rated, self.steps * (self.batch_size - len(places)), generator)
        others = self._drawn(self.rated, len(self.recordings), self.steps * len(places), generator)
        views = torch.rand(self.steps * self.batch_size, generator=generator).tolist()
        return [(*next(others if k % self.batch_size in places else rated), view) for k, view in enumerate(views)]

    def _drawn(self, first, last, count, generator):
        """Yields (recording, start) of `count` clips of some of the recordings: as many passes over them as fit, then their beginning again."""
        recordings = self.recordings[first:last]
        clips = [clip for _ in range(max(1, count // max(1, self._clips(recordings)))) for clip in epoch_clips(
            [len(recording) for recording in recordings], self.clip_length, generator)]
        for k in range(count):
            number, start = clips[k % len(clips)]
            yield first + number, start

    def batches(self, epoch, first=0, share=(0, 1)):
        """Yields the Batches of an epoch from step `first` on; share: (r, n) for the r-th of n equal parts of each."""
        clips, part = self.of_epoch(epoch), self.batch_size // share[1]
        for step in range(first, self.steps):
            start = step * self.batch_size + share[0] * part
            pieces = [(self.recordings[number], at, at + self.clip_length, view) for number, at, view in clips[start:start + part]]
            yield _collate(pieces, self.inputs)


def seed_of(*numbers):
    """A seed that follows from whole numbers, unlike that of any others."""
    numbers = len(numbers), *numbers  # SeedSequence takes (1,) and (1, 0) for the same
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def ahead(batches, pin=False):
    """The same Batches, each made by a thread while the one before is in use; pin: in memory that a GPU can fetch by itself."""
    batches = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(_pinned, batches, pin)
        while (batch := coming.result()) is not None:
            coming = pool.submit(_pinned, batches, pin)
            yield batch


def _pinned(batches, pin):
    batch = next(batches, None)
    return batch if batch is None or not pin else batch._replace(**{
        name: part.pin_memory() for name, part in batch._asdict().items() if torch.is_tensor(part)})


def stream(recording, inputs, chunk=100):
    """Yields a whole recording in order, as Batches of one piece (B = 1) of up to `chunk` frames."""
    for start in range(0, len(recording), chunk):
        yield _collate([(recording, start, min(start + chunk, len(recording)), 0.0)], inputs)


def _collate(pieces, inputs):
    """A Batch of (recording, start, end, view)."""
    pictures = {name: torch.from_numpy(np.stack([recording.arrays[name][start:end] for recording, start, end, _ in pieces]))
                for name in ("frames", "specs") if name in inputs}
    gold = torch.from_numpy(np.stack([recording.gold[start:end] for recording, start, end, _ in pieces]))
    taught = torch.from_numpy(np.stack([recording.arrays["taught"][int(view * len(recording.arrays["taught"])), start:end]
                                        for recording, start, end, view in pieces])) if "taught" in inputs else None
    return Batch(pictures.get("frames"), pictures.get("specs"), gold, taught, tuple((recording.name, start) for recording, start, _, _ in pieces))


def on_device(batch, device, changes=None):
    """The batch on the device, its pictures as float in [0, 1], augmented by `changes` (draw_changes)."""
    frames, specs, gold, taught = (part if part is None else part.to(device, non_blocking=True) for part in batch[:4])
    if changes is None:
        frames, specs = _as_float(frames), _as_float(specs)
    else:
        frames = frames if frames is None else augment(frames, changes)
        specs = specs if specs is None else _as_float(move_in_time(specs, changes))
    return Batch(frames, specs, gold, taught, batch.clips)


def _as_float(pictures):
    return pictures / 255 if pictures is not None and pictures.dtype == torch.uint8 else pictures


def draw_changes(clips, generator):
    """What augmentation does to each of `clips` clips: five numbers from 0 to 1, (5, clips), for a shift down, a shift to the right, a flip,
    the light, and a shift in time. generator: on the CPU, so that a seed gives the same on every device."""
    return torch.rand(5, clips, generator=generator)


def augment(frames, changes):
    """Crops shifted, flipped and lit as draw_changes drew it, the same over a clip: (B, T, 3, S, S) uint8, or float in [0, 1] -> float in
    [0, 1]."""
    side, (down, right, flip, light, _) = frames.shape[-1], changes
    across = _moved(right, int(side * SHIFT), side)
    across = torch.where(flip[:, None] < 0.5, across, across.flip(1))
    source = (_moved(down, int(side * SHIFT), side)[:, :, None] * side + across[:, None, :]).flatten(1).to(frames.device, non_blocking=True)
    light = (1 + LIGHT * (2 * light - 1)).to(frames.device, non_blocking=True)
    pixels = frames.flatten(3)
    moved = pixels.gather(3, source[:, None, None].expand(pixels.shape)).unflatten(3, frames.shape[3:])  # while a pixel is one byte
    return (moved * (light / 255 if frames.dtype == torch.uint8 else light)[:, None, None, None, None]).clamp_max_(1)


def move_in_time(specs, changes):
    """Spectrograms a little earlier or later, the same over a clip, the first or last column repeated: (B, T, 1, M, F) -> the same.

    Neighbouring windows of sound are almost the same picture but for this shift, which a network would else learn by heart.
    """
    columns = specs.shape[-1]
    source = _moved(changes[4], int(columns * LATER), columns).to(specs.device, non_blocking=True)
    return specs.gather(4, source[:, None, None, None].expand(specs.shape))


def _moved(draw, reach, size):
    """Where each of `size` pixels comes from after a shift of up to `reach` pixels: (B,) from 0 to 1 -> (B, size) long. The border is
    repeated."""
    shift = (draw * (2 * reach + 1)).floor().long() - reach
    return (torch.arange(size) + shift[:, None]).clamp(0, size - 1)


def check_sets(sets, cfg):
    """Raises UserError for what no training could come of."""
    for one, other in itertools.combinations((name for name in sets if name != "held_out"), 2):
        both = {recording.name for recording in sets[one]} & {recording.name for recording in sets[other]}
        if both:
            places = " and in ".join(PARTITIONS.get(name, UNLABELLED) for name in (one, other))
            raise UserError(f"{sorted(both)[0]} is in {places}: the partitions must not share people")
    for name, recordings in ((name, sets[name]) for name in PARTITIONS):
        for k, target in enumerate(cfg.targets):
            unrated = [recording.name for recording in recordings if np.isfinite(recording.gold[:, k]).sum() < 2]
            if len(unrated) == len(recordings):
                raise UserError(f"{PARTITIONS[name]} has no valid rating of {target}: numbers within [-1, 1] were expected")
            if unrated:
                print(f"{PARTITIONS[name]}: {', '.join(unrated)} without a valid rating of {target}: nothing is learned or scored there")
    for recording in sets["train"] + sets.get("unlabelled", []):
        if len(recording) < cfg.clip_length:
            raise UserError(f"{recording.name} has {len(recording)} frames, less than clip_length {cfg.clip_length}")
