"""Annotation CSVs -> recordings, random training clips, ordered evaluation streams.

The images of a recording are packed once, on first use, into one array on disk (packing.py), which is then read in
place: clips cost no decoding, and memory does not grow with the number of recordings. Features of other programs in
place of images (corpora/features.py) are held in memory: "frames" and "specs" are then (N, D) float32.

Shapes: B clips, T frames, S side of a crop in pixels, M mel bands, F spectrogram columns, K targets.
"""
import functools
import itertools
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from corpora import features
from packing import MAKERS, packed, refuse_cut, spec_array, unchecked
from support.checksums import read_list
from support.columns import read_table, to_numbers
from support.errors import SettingsError, UserError
from support.failures import unlabelled_files, without_failed
from support.reading import clipped
from support.recordings import (
    MODALITIES,
    PARTITIONS,
    UNLABELLED,
    audible,
    find_recordings,
    is_inside,
    natural_key,
    refuse_summary,
    subjects_of,
    uses_features,
    valid_labels,
)
from support.settings import part_of


@dataclass
class Recording:
    """One recording: its ratings and its images; the k-th of each belong to frame k."""
    name: str
    gold: np.ndarray  # (N, K) float32, NaN where a rating is invalid
    paths: dict  # "frames" and "specs" -> list of N paths, of those that are single images
    arrays: dict = field(default_factory=dict)  # on disk: "frames" (N, 3, S, S) and "specs" (N, 1, M, F), uint8;
    # in memory, float32: "frames" and "specs" that are features (N, D), and "taught" (N, K + D), predictions and
    # features of a frozen teacher
    columns: dict = field(default_factory=dict)  # "frames" and "specs" that are features -> (file, its columns' names)
    cache: Path | None = None  # folder in which features of its images are kept (frozen.py); None: nowhere
    sums: dict = field(default_factory=dict)  # of "frames" and "specs" that are images: their checksums, once needed

    def __len__(self):
        return len(self.gold)


class Batch(NamedTuple):
    """Clips, or one piece of a recording; what was not asked for is None. Images are uint8 until on_device()."""
    frames: torch.Tensor | None  # (B, T, 3, S, S), or features (B, T, D), of a frozen backbone (B, T, views, D)
    specs: torch.Tensor | None  # (B, T, 1, M, F), or features
    gold: torch.Tensor  # (B, T, K), NaN where invalid
    taught: torch.Tensor | None = None  # (B, T, K + D) predictions and features of a frozen teacher
    clips: tuple = ()  # (id of the recording, first frame) of every clip


# ---- the sets of a run ----------------------------------------------------------------------------------------------

def load_sets(cfg, inputs, val_inputs, unlabelled=False):
    """The recordings of a run: {"train": [Recording], "val": ..., "held_out": of a fold, "unlabelled": ...}.

    inputs, val_inputs: what is read for training and for validation ("frames", "specs"); unlabelled: whether the run
    uses Unlabelled_Set. Raises UserError if files are missing or unusable.
    """
    sets = {name: load_recordings(cfg, folder, val_inputs if name == "val" else inputs)
            for name, folder in PARTITIONS.items()}
    sets["unlabelled"] = load_recordings(cfg, UNLABELLED, inputs) if unlabelled else []
    sets = split_fold(sets, cfg)
    check_sets(sets, cfg)
    for name, k in itertools.product(PARTITIONS, range(len(cfg.targets))):
        if unrated := [one.name for one in sets[name] if not is_rated(one, k)]:
            print(f"{PARTITIONS[name]}: {', '.join(unrated)} has no valid rating of {cfg.targets[k]} (masked)")
    return sets


def split_fold(sets, cfg):
    """The sets of a run with --fold: subjects of that fold are "held_out" of "train"."""
    if not cfg.fold:
        return sets
    i, n = part_of(cfg.fold)
    fold_of = folds(cfg, n)
    return sets | {"held_out": [one for one in sets["train"] if fold_of[one.name] == i - 1],
                   "train": [one for one in sets["train"] if fold_of[one.name] != i - 1]}


def is_rated(recording, k):
    """Whether a recording has valid ratings of target k: two or more."""
    return np.isfinite(recording.gold[:, k]).sum() > 1


def folds(cfg, count):
    """{id of a recording in Train_Set: its fold, 0 to count - 1}, by subjects in natural order of their recordings."""
    names = find_recordings([cfg.annotations_dir / PARTITIONS["train"]], (), "run annotations.py first")
    subjects = subjects_of(cfg.data_dir, names)
    number = {subject: place for place, subject in enumerate(dict.fromkeys(subjects.values()))}
    return {name: number[subjects[name]] % count for name in names}


def check_files(cfg, inputs, partition):
    """Reads the annotations of a partition and checks that every image is there, without reading any; reads features.

    Recordings that cannot be used are left out, which is printed; of Val_Set, on which runs are compared, from every
    run those without faces (or visual features) and from none those without sound. Raises UserError as load_recordings
    does.
    """
    val = partition == PARTITIONS["val"]
    files = annotation_files(cfg, partition)
    files = files if val else with_sound(files, inputs, cfg)
    files = without_failed(files, input_folders(cfg, ["frames"] if val else inputs), cfg)
    recordings = [read_recording(path, cfg.targets, input_folders(cfg, inputs), partition != UNLABELLED)
                  for path in files]
    for kind in (kind for kind in MODALITIES if uses_features(cfg, kind)):
        if kind in inputs or val and kind == "frames":
            recordings = add_features(recordings, kind, cfg, needed=val and kind == "specs", kept=kind in inputs)
    return recordings


def check_sets(sets, cfg):
    """Raises UserError if partitions share subjects, have no valid ratings, or recordings shorter than a clip."""
    subjects = {name: {*subjects_of(cfg.data_dir, [one.name for one in sets[name]]).values()} for name in sets}
    for one, other in itertools.combinations((name for name in sets if name != "held_out"), 2):
        if both := subjects[one] & subjects[other]:
            places = " and in ".join(PARTITIONS.get(name, UNLABELLED) for name in (one, other))
            raise UserError(f"{min(both)} is in {places}: the partitions must not share subjects")
    for name, k in itertools.product([name for name in sets if name != "unlabelled"], range(len(cfg.targets))):
        if not any(is_rated(recording, k) for recording in sets[name]):
            place = PARTITIONS[name] if not cfg.fold or name == "val" else f"Train_Set ({name} of fold {cfg.fold})"
            raise UserError(f"{place} has no valid rating of {cfg.targets[k]}: numbers within [-1, 1] were expected")
    recordings = sets["train"] + sets["unlabelled"]
    for recording in recordings:
        if len(recording) < cfg.clip_length:
            raise UserError(f"{recording.name} has {len(recording)} frames, less than clip_length ({cfg.clip_length}): "
                            f"take it out of {cfg.annotations_dir}/, or make --clip-length smaller")
    if short := [one.name for one in recordings if len(one) < cfg.clip_length * cfg.clip_stride]:
        more = f" and {len(short) - 1} more recordings" * (len(short) > 1)
        print(f"{short[0]}{more}: shorter than {cfg.clip_length * cfg.clip_stride} frames (clip_length x clip_stride): "
              "the frames of their clips are nearer to each other")
    for kind in MODALITIES:
        features.check_columns([one.columns[kind] for name in sets for one in sets[name] if kind in one.columns])


# ---- recordings -----------------------------------------------------------------------------------------------------

def annotation_files(cfg, partition):
    """Annotation CSVs of Train_Set, Val_Set, or of Unlabelled_Set the fraction cfg.unlabelled, sorted by name.

    Raises UserError if Train_Set or Val_Set has none.
    """
    if partition == UNLABELLED:
        return unlabelled_files(cfg, print)
    folder = cfg.annotations_dir / partition
    tables = sorted(folder.glob("[!.]*.csv"))  # hidden files are left over from a killed process
    if not tables:
        raise UserError(f"{folder}/ holds no annotation files: run annotations.py first")
    return tables


def input_folders(cfg, inputs):
    """{"frames": Cropped_Aligned, "specs": specs} as far as `inputs` names them, and not features in their place."""
    return {name: {"frames": cfg.crops_dir, "specs": cfg.specs_dir}[name] for name in inputs
            if not uses_features(cfg, name)}


def load_recordings(cfg, partition, inputs):
    """Recordings of Train_Set, Val_Set or Unlabelled_Set in the order of their names, with the images in `inputs`.

    Raises UserError if an annotation file, an image or a rating is missing or broken, naming the first.
    """
    recordings = [replace(one, cache=cfg.cache_dir) for one in check_files(cfg, inputs, partition)]
    unpacked = [(recording, name) for recording in recordings for name in inputs if name not in recording.arrays]
    total = sum(len(recording) for recording, _ in unpacked)
    with tqdm(total=total, unit=" images", disable=None, leave=False) as bar:
        for recording, name in unpacked:
            bar.set_description(f"packing {recording.name}")
            stem = cfg.cache_dir / f"{recording.name}.{name}"
            recording.arrays[name] = packed(recording.paths[name], stem, name, bar)
    if without := [recording.name for recording in recordings if unchecked(recording.name, recording.paths, cfg)]:
        print(f"{partition}: images without checksums (of other programs or older versions), used unchecked: "
              f"{without[0]}" + f" and {len(without) - 1} more recordings" * (len(without) > 1))
    return recordings


def read_recording(path, targets, folders, rated=True):
    """A Recording from its annotation CSV, its images named and counted, but not read.

    folders: {"frames": Cropped_Aligned, "specs": specs}, those that are needed; rated: whether it has ratings (else all
    NaN).
    """
    refuse_summary(path.stem, path)
    table = read_table(path, "an annotation file was expected: run annotations.py", (),
                       ["image path", *targets * rated], whole=False)
    unrated = np.full((len(table), len(targets)), np.nan, np.float32)
    gold = read_labels(table[targets], path) if rated else unrated
    images = table["image path"]
    specs = table["spec path"] if "spec path" in table else [os.path.splitext(image)[0] + ".png" for image in images]
    relative = {"frames": images, "specs": specs}
    for name in folders:
        for line, file in zip(table.index, relative[name]):
            if not is_inside(file):
                raise UserError(f"{path} line {line}: {clipped(file)!r} is no path below {folders[name]}/: run "
                                "annotations.py")
    array = spec_array(list(specs), folders["specs"]) if "specs" in folders else None
    arrays = {} if array is None else {"specs": array}
    paths = {name: [folder / file for file in relative[name]] for name, folder in folders.items() if name not in arrays}
    lengths = [*(present(paths[name], MAKERS[name]) for name in paths), *map(len, arrays.values())]
    frames = min(lengths, default=len(gold))
    return Recording(path.stem, gold[:frames], {name: paths[name][:frames] for name in paths},
                     {name: arrays[name][:frames] for name in arrays})


def read_labels(columns, path):
    """(N, K) float32 of a table of rating texts; NaN where one is empty, `nan` or outside [-1, 1]."""
    again = "a rating was expected"
    labels = np.stack([to_numbers(columns[name], path, again) for name in columns], 1).astype(np.float32)
    return np.where(valid_labels(labels), labels, np.float32("nan"))


def present(paths, maker):
    """How many of the paths exist: all, or all but the last (a rating without a frame), which is printed.

    Images that no path names are left out, which is printed, too. Raises UserError if others are missing, if the last
    was there once (it is in the list of its folder), or if too many images come after the last rating.
    """
    folders = {path.parent for path in paths}
    listed = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
    missing, left_out = [path for path in paths if path.name not in listed[path.parent]], {}
    for folder, names in listed.items():
        named = {path.name for path in paths if path.parent == folder}
        unnamed = {name for name in names if name.endswith(paths[0].suffix)} - named
        if unnamed:
            left_out[folder] = unnamed
            print(f"{folder.name}: {len(unnamed)} images have no rating (first: {folder / min(unnamed)}): left out")
    if missing == paths[-1:] and len(paths) > 1 and paths[-1].name not in read_list(paths[-1].parent):
        print(f"{paths[-1].parent.name}: the last rating has no image ({paths[-1]}) and is left out")
        return len(paths) - 1
    if missing:
        without = "; if it has no sound, take it out of Annotations/, or train --stage visual alone"
        found = f"{len(paths) - len(missing)} of {len(paths)} are there"
        raise UserError(f"{missing[0]} is missing ({found}): run {maker} first"
                        + without * (maker == MAKERS["specs"] and len(missing) == len(paths)))
    for folder, unnamed in left_out.items():
        named = [natural_key(path.name) for path in paths if path.parent == folder]
        beyond = sum(natural_key(name) > max(named) for name in unnamed)
        refuse_cut(beyond, len(named) + len(unnamed), folder.name, folder)
    return len(paths)


def image_shapes(recordings):
    """{"frames": (3, S, S), "specs": (1, M, F)} of what was loaded, (D,) of features. Raises UserError if recordings
    differ."""
    shapes = {}
    for recording in recordings:
        for name, array in ((name, array) for name, array in recording.arrays.items() if name in MAKERS):
            if shapes.setdefault(name, array.shape[1:]) != array.shape[1:]:
                raise UserError(f"{recording.name} has {name} of {array.shape[1:]}, others have {shapes[name]}: "
                                f"make all of them with the same settings, {MAKERS[name]}")
    return shapes


# ---- features in place of images ------------------------------------------------------------------------------------

def with_sound(tables, inputs, cfg):
    """Those annotation files whose recordings have sound, or features in its place, if `inputs` have "specs"; else all.

    Prints which are left out.
    """
    if "specs" not in inputs or not uses_features(cfg, "specs"):
        return audible(tables, inputs, cfg)
    folder = cfg.features_dir / MODALITIES["specs"]
    there = features.find(folder)
    if not any(table.stem in there for table in tables):
        return tables  # add_features() says so
    for table in (table for table in tables if table.stem not in there):
        print(f"{table.stem}: left out, as {folder}/ has no features of it")
    return [table for table in tables if table.stem in there]


def add_features(recordings, kind, cfg, needed=False, kept=True):
    """The recordings with the features that are their "frames" or "specs", or, unless `kept`, with no more than before.

    Those whose features are missing or cannot be used are left out, which is printed. Raises UserError if that is so of
    all of them or, where they are `needed`, of one.
    """
    folder, reasons = cfg.features_dir / MODALITIES[kind], {}
    files = features.find(folder)
    for recording in tqdm(recordings, desc=f"reading {folder}", unit=" recordings", disable=None, leave=False):
        try:
            path, columns, array = _features_of(recording, files, kind, cfg)
        except (UserError, OSError) as error:
            reasons[recording.name] = error
            continue
        if kept:
            recording.arrays[kind], recording.columns[kind] = array, (path, columns)
    if reasons and (needed or len(reasons) == len(recordings)):
        raise next(iter(reasons.values()))
    for name, why in reasons.items():
        print(f"{name}: left out: {why}")
    return [recording for recording in recordings if recording.name not in reasons]


def _features_of(recording, files, kind, cfg):
    """(file, names of its columns, (N, D)) of a recording. Raises UserError if its file is missing, or not as expected.
    """
    if recording.name not in files:
        raise UserError(f"{cfg.features_dir / MODALITIES[kind] / recording.name}.csv (or .arff, .npy) is missing: with "
                        f"--{MODALITIES[kind]}-backbone features, the features of every recording were expected there")
    path = files[recording.name]
    state = path.stat()
    return path, *_features(path, len(recording), cfg.frame_rate, cfg.cache_dir, (state.st_size, state.st_mtime_ns))


@functools.cache
def _features(path, frames, frame_rate, cache_dir, _):
    """(names of the columns, (N, D)) of a file at the frames: read, and its notes printed, once in a process."""
    one = features.load(path, cache_dir)
    values, notes = features.on_frames(one, frames, frame_rate)
    if notes:
        print(f"{path}: {'; '.join(notes)}")
    return one.columns, values


def statistics(recordings):
    """{"frames": (mean, standard deviation), "specs": ...} of what is features in some recordings: (D,) each."""
    kinds = {kind for recording in recordings for kind in recording.columns}
    return {kind: features.statistics([recording.arrays[kind] for recording in recordings]) for kind in kinds}


# ---- clips ----------------------------------------------------------------------------------------------------------

def stride_in(length, clip_length, stride):
    """Frames from one frame of a clip to the next: `stride`, or less in a recording that is too short for that."""
    return min(stride, length // clip_length)


def epoch_clips(lengths, clip_length, generator, stride=1):
    """(number of the recording, start) of every clip of an epoch, shuffled: each recording in proportion to its length.

    A clip has every stride-th frame from its start on (stride_in). A recording of N frames gets N / clip_length clips,
    rounded up, one starting at random in each equal part of it: every frame can be drawn, and an epoch covers about
    five sixths of them (with a stride of 5 two thirds).
    """
    clips = []
    for number, length in enumerate(lengths):
        last = (clip_length - 1) * stride_in(length, clip_length, stride)  # of its frames, counted from its start
        count = math.ceil(length / clip_length)
        at = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        starts = (at * (length - last)).floor()
        starts = starts.clamp_max(length - last - 1)  # in single precision (1499 + 0.99999) / 1500 is 1
        clips += [(number, int(start)) for start in starts.tolist()]
    return [clips[k] for k in torch.randperm(len(clips), generator=generator).tolist()]


class Clips:
    """The random training clips of a run, in batches. Those of an epoch follow from the seed and its number: a run can
    be resumed at any step.

    Every batch is full; the last one is filled with clips from the beginning of the epoch. CCC is a statistic of the
    whole batch, which a few clips estimate badly, and several devices can share a full batch evenly. With unlabelled
    recordings, every second clip is of one of them, so that every batch has as many rated clips as the next.
    """

    def __init__(self, recordings, batch_size, clip_length, inputs, seed, epoch_steps=0, unlabelled=(), stride=1):
        """inputs: what to read, of "frames", "specs" and "taught" (Recording.arrays); epoch_steps: gradient steps of an
        epoch; 0: those of one pass over `recordings`, the same with or without unlabelled ones; stride: epoch_clips'.

        Raises SettingsError if a batch has no place for both kinds.
        """
        self.recordings, self.rated, self.batch_size = [*recordings, *unlabelled], len(recordings), batch_size
        self.clip_length, self.stride, self.inputs, self.seed = clip_length, stride, inputs, seed
        self.places = range(1, batch_size, 2) if unlabelled else range(0)  # of the unlabelled clips in a batch
        if unlabelled and batch_size < 2:
            raise SettingsError("batch_size: 1 leaves no room for an unlabelled clip beside a rated one: 2 or more was "
                                "expected")
        self.steps = epoch_steps or math.ceil(self._clips(recordings) / batch_size)  # of an epoch

    def _clips(self, recordings):
        """Number of clips in one pass over some recordings."""
        return sum(math.ceil(len(recording) / self.clip_length) for recording in recordings)

    def of_epoch(self, epoch):
        """(number of the recording, start) of all clips of an epoch, in order."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
        rated = self._drawn(0, self.rated, self.steps * (self.batch_size - len(self.places)), generator)
        unlabelled = self._drawn(self.rated, len(self.recordings), self.steps * len(self.places), generator)
        places = (k % self.batch_size for k in range(self.steps * self.batch_size))
        return [next(unlabelled if place in self.places else rated) for place in places]

    def _drawn(self, first, last, count, generator):
        """Yields (number, start) of `count` clips of some recordings: whole passes over them, then their beginning
        again."""
        lengths = [len(recording) for recording in self.recordings[first:last]]
        passes = max(1, count // max(1, self._clips(self.recordings[first:last])))
        clips = [clip for _ in range(passes)
                 for clip in epoch_clips(lengths, self.clip_length, generator, self.stride)]
        for k in range(count):
            number, start = clips[k % len(clips)]
            yield first + number, start

    def batches(self, epoch, first=0, share=(0, 1)):
        """Yields the Batches of an epoch from step `first` on; share: (r, n) for the r-th of n equal parts of each."""
        clips, part = self.of_epoch(epoch), self.batch_size // share[1]
        for step in range(first, self.steps):
            start = step * self.batch_size + share[0] * part
            pieces = [(self.recordings[number], at) for number, at in clips[start:start + part]]
            yield _collate([(one, at + stride_in(len(one), self.clip_length, self.stride) * np.arange(self.clip_length))
                            for one, at in pieces], self.inputs)


def seed_of(*numbers):
    """A seed that follows from whole numbers, unlike that of any others."""
    numbers = len(numbers), *numbers  # SeedSequence takes (1,) and (1, 0) for the same
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def stream(recording, inputs, chunk=100, stride=1):
    """Yields a whole recording as Batches of up to `chunk` frames (or `stride`): interleaved sequences of every
    stride-th frame (B = stride), from frame 0, 1, ... on. The last frame fills up those that end before others."""
    at_once, end = max(1, chunk // stride) * stride, math.ceil(len(recording) / stride) * stride
    for start in range(0, end, at_once):
        frames = np.arange(start, min(start + at_once, end)).clip(max=len(recording) - 1)
        yield _collate([(recording, each) for each in frames.reshape(-1, stride).T], inputs)


def _collate(pieces, inputs):
    """A Batch of (recording, its frames)."""
    parts = {name: np.stack([recording.arrays[name][frames] for recording, frames in pieces]) for name in inputs}
    parts |= {"gold": np.stack([recording.gold[frames] for recording, frames in pieces])}
    parts = {"frames": None, "specs": None} | {name: torch.from_numpy(part) for name, part in parts.items()}
    return Batch(**parts, clips=tuple((recording.name, int(frames[0])) for recording, frames in pieces))
