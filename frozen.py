"""Features of frozen backbones: computed once for every frame of a recording, kept in cache/, and read in place.

With --visual-lr-scale 0 (or --audio-lr-scale 0) a pretrained backbone stays as it is, so what it gives for an image is
always the same. Its features are an array on disk per recording and view: of the images as they are, and for training
with augmentation also of the images mirrored, or of the sound a little earlier. They belong to those images and those
weights alone: with others they are computed again, and deleting them loses nothing but time.

Shapes: N frames, V views, F features.
"""
import dataclasses
import glob
import hashlib
import shutil
import zlib
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from augmentation import on_device
from data import stream
from packing import kept_array
from support.errors import UserError
from support.files import alone_at, there
from support.recordings import MODALITIES

# Augmentation of each view, as draw_augmentation gives it for a clip: the first changes nothing, the second flips faces
# and takes sound a tenth of a spectrogram earlier. Each further one would cost as much time and disk again
VIEWS = (0.5, 0.5, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 0.5, 0.0)
CHUNK, CUDA_CHUNK = 16, 256  # images at once: with more, a CPU loses time for memory that its caches do not hold
MARGIN = 2 * 10**8  # bytes that stay free on the disk


class Views:
    """Features of V views of a recording's images, arrays (N, F), read as one array (N, V, F)."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __getitem__(self, frames):
        return np.stack([array[frames] for array in self.arrays], 1)


def with_features(recordings, model, augmented=False):
    """Copies of the recordings in which features (Views) stand in place of the images that frozen backbones of the
    model are fed; the recordings themselves if it has none.

    augmented: all views, for training; else the images as they are. Features that are missing are computed. Raises
    UserError if the disk has no room for them, or a value is too large.
    """
    for name in model.inputs:
        backbone = getattr(model, MODALITIES[name], None)
        if getattr(backbone, "frozen", False):
            recordings = _fed(recordings, name, backbone, model, VIEWS if augmented else VIEWS[:1])
    return recordings


def _fed(recordings, name, backbone, model, views):
    """with_features() for "frames" or "specs". Recordings that are not of a corpus on disk keep their images."""
    todo = [one for one in recordings if one.cache and not isinstance(one.arrays[name], Views)]
    if not todo:
        return recordings
    maker = Maker(name, backbone, getattr(model, "in_bfloat16", False))
    files = {one.name: [maker.path(one, view) for view in views] for one in todo}
    missing = {one.name: sum(not there(path) for path in files[one.name]) * len(one) for one in todo}
    made = dict.fromkeys(files)
    _check_disk(sum(missing.values()), maker, files)
    with tqdm(total=sum(missing.values()), unit=" images", disable=None, leave=False) as bar:
        _make_shared(todo, files, maker, views, bar)
        for one in todo:  # what another process is still making, or is damaged, is made here
            made[one.name] = Views([kept_array(path, len(one), partial(maker.pieces, one, view, bar))
                                    for path, view in zip(files[one.name], views)])
            _remove_old(files[one.name][0])
    return [dataclasses.replace(one, arrays=one.arrays | {name: made[one.name]}) if one.name in made else one
            for one in recordings]


def _make_shared(recordings, files, maker, views, bar):
    """Makes the files of features that are missing, but those that another process is making: networks that are trained
    side by side share this work, which may take hours."""
    for number, one in enumerate(recordings, 1):
        done, what = 0, f"{MODALITIES[maker.name]} features of {one.name}"
        bar.set_description(what)
        for path, view in ((path, view) for path, view in zip(files[one.name], views) if not there(path)):
            with alone_at(path) as alone:
                if alone and not there(path):
                    kept_array(path, len(one), partial(maker.pieces, one, view, bar))
                    done += len(one)
        if done:
            tqdm.write(f"{what}: {done} images done ({number} of {len(recordings)} recordings)")


def _check_disk(images, maker, files):
    """Prints how much is to be computed, and raises UserError if the disk has no room for it."""
    if not images:
        return
    folder = next(iter(files.values()))[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    size, free = images * maker.width * maker.kind.itemsize, shutil.disk_usage(folder).free
    print(f"the {MODALITIES[maker.name]} backbone is frozen: its {maker.width} features of {images} images (up to "
          f"{len(VIEWS)} views of a frame) are computed once and take {size / 1e6:,.1f} MB in {folder}/")
    if size + MARGIN > free:
        raise UserError(f"{folder}/ has {free / 1e6:,.0f} MB left, {size / 1e6:,.1f} are needed for the features of "
                        "the frozen backbone: make room, or take a smaller backbone or --no-augment (one view)")


def _remove_old(path):
    """Deletes the features of other images that the recording of a file of features had before."""
    images = path.name.rpartition("-")[0]
    for old in path.parent.glob(f"{glob.escape(images.rpartition('.')[0])}.*-*.npy"):
        if not old.name.startswith(f"{images}-"):
            old.unlink(missing_ok=True)  # another process may do the same


class Maker:
    """Computes the features of one frozen backbone."""

    def __init__(self, name, backbone, in_bfloat16):
        """name: "frames" or "specs"; in_bfloat16: the precision of the run; those features are kept in half the bytes.
        """
        self.name, self.backbone, self.in_bfloat16 = name, backbone, in_bfloat16
        self.device, self.width = backbone.mean.device, backbone.out[0].in_features
        self.kind = np.dtype(np.float16 if in_bfloat16 else np.float32)
        weights = hashlib.sha1()
        for part in (backbone.mean, backbone.std, *backbone.net.state_dict().values()):
            weights.update(np.ascontiguousarray(part.cpu().numpy()))
        self.weights = weights.hexdigest()

    def path(self, recording, view):
        """The file of a view of a recording: cache/<id>.<visual or audio>.<of the images>-<of all else>.npy"""
        if self.name not in recording.sums:
            recording.sums[self.name] = zlib.crc32(recording.arrays[self.name])
        made_with = hashlib.sha1(f"{self.weights} {self.kind} {view}".encode()).hexdigest()[:8]
        stem = f"{recording.name}.{MODALITIES[self.name]}.{recording.sums[self.name]:08x}"
        return recording.cache / f"{stem}-{made_with}.npy"

    @torch.inference_mode()
    def pieces(self, recording, view, bar):
        """Yields the features of a view of all images of a recording, (n, F)."""
        changes = None if view == VIEWS[0] else torch.tensor(view)[:, None]
        for batch in stream(recording, [self.name], CUDA_CHUNK if self.device.type == "cuda" else CHUNK):
            images = getattr(on_device(batch, self.device, changes), self.name)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bfloat16):
                features = self.backbone.pretrained(images[0])
            with np.errstate(over="ignore"):
                piece = features.float().cpu().numpy().astype(self.kind)
            if not np.isfinite(piece).all():
                [(_, start)] = batch.clips
                other = "other weights" + ", or --precision float32" * self.in_bfloat16
                raise UserError(f"{recording.name}: features of the frozen {MODALITIES[self.name]} backbone are not "
                                f"finite, from frame {start} on: use {other}")
            yield piece
            bar.update(len(piece))
