"""A trained network on a video: face crops and spectrograms as in its training, made while it predicts those before.

A Network, of whatever kind of file, has .card (what the file says of it, model_card.py), .inputs (what it is fed:
"frames", "specs" or both) and .targets, and is called as TorchNetwork is; so is the mean of several. Nothing here needs
torch for an .onnx file, but the face detector does.

Shapes: T, N frames, S pixels of a face crop's side, M mel bands, F spectrogram columns, K targets.
"""
import itertools
import math
from array import array
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

import face_detector
from audio_extract import counted, ends_early, segments
from audio_melspec import mel_spec_of, spec_blocks, steps_between
from face_detector import BOX, FaceRows, Steadying, finder, shots
from faces import Tracker, crop_face, one_thread
from model_card import FEATURES, has_images
from postprocessing import PostProcessing, postprocess, relevel
from support.decoding import video_tracks
from support.errors import SettingsError, UserError, torch_device
from support.files import there
from support.interleaving import interleaved
from support.media import frame_count, ignored, open_media, picture_clock, read_frames
from support.recordings import FACE
from support.sound import read_sound

BATCH = 64  # frames that a network is given at once
AHEAD = 2  # batches that may wait for the network while faces are searched for in the next frames
ONNX = ".onnx"
STRIP, STRIPS = 14, 3  # faces that are kept for the figure, evenly spaced over the video, and of how many people


# ---- networks -------------------------------------------------------------------------------------------------------


def open_model(path, device="", precision="auto"):
    """The Network in a file: best.pt of a run, or an .onnx file of export.py. Raises UserError if it is neither."""
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder: the network in it was expected, such as {Path(path, 'best.pt')}")
    if Path(path).suffix.lower() == ONNX:
        from onnx_network import OnnxNetwork  # here: without torch, or without onnxruntime, the other kind works
        if precision != "auto":
            raise SettingsError(f"precision: {path} has a precision of its own (export.py): leave --precision out")
        return OnnxNetwork(path)
    return TorchNetwork(path, torch_device(device), precision)


class TorchNetwork:
    """The network in a run's best.pt."""

    def __init__(self, path, device, precision):
        """precision: float32, as mmpkd.py predicts, or bfloat16; "auto" is float32."""
        import torch

        from checkpoints import load_model
        self.threads = torch.get_num_threads()
        model, state = load_model(path)
        self.model, self.device, self.bfloat16 = model.to(device), device, precision == "bfloat16"
        self.card, self.inputs, self.targets = state["card"], tuple(model.inputs), state["targets"]

    def __call__(self, frames, specs, state=None):
        """(predictions (T, K) float32, state) of the frames that follow those of `state`, which is None at first, in
        one sequence: those of a recording are interleaved() in .card["clip_stride"] sequences.

        frames: (T, 3, S, S) uint8, or None; specs: (T, 1, M, F) uint8, or None.
        """
        import torch

        from augmentation import on_device
        from data import Batch
        torch.set_num_threads(self.threads)  # of the thread that calls: the detector's uses one (faces.one_thread)
        frames, specs = (part if part is None else torch.from_numpy(part[None]) for part in (frames, specs))
        batch = Batch(frames, specs, torch.zeros(0))
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            output = self.model(*[getattr(on_device(batch, self.device), name) for name in self.inputs], hidden=state)
        return output.pred[0].float().cpu().numpy(), output.hidden


class MeanNetwork:
    """The mean of the predictions of several Networks with the same inputs and targets. Its card is the first one's,
    but without post-processing, whose constants are those of one network, and without the ratings' mean and standard
    deviation if these are not the same for all."""

    def __init__(self, networks):
        """networks: {path: Network}, two or more. Raises SettingsError, naming two that do not go together."""
        (path, first), *others = networks.items()
        for other, network in others:
            for entry in ("targets", "inputs", "frame_rate", "clip_stride", "faces", "sound"):
                if network.card[entry] != first.card[entry]:
                    raise SettingsError(f"network: {path} and {other} differ in {entry.replace('_', ' ')} "
                                        f"({differing(first.card[entry], network.card[entry])}): networks of one mean "
                                        "must not")
        self.networks, self.inputs, self.targets = [*networks.values()], first.inputs, first.targets
        same = all(network.card["ratings"] == first.card["ratings"] for network in self.networks)
        self.card = first.card | {"postprocessing": None, "ratings": first.card["ratings"] if same else None}

    def __call__(self, frames, specs, state=None):
        states = [None] * len(self.networks) if state is None else state
        preds, states = zip(*(network(frames, specs, its) for network, its in zip(self.networks, states)))
        return np.mean(preds, axis=0), states


def differing(one, other):
    """What differs between two entries of cards, as text; of two dicts their values of the same key."""
    if isinstance(one, dict) and isinstance(other, dict):
        return "; ".join(f"{key} {one.get(key)} and {other.get(key)}" for key in one | other
                         if one.get(key) != other.get(key))
    return " and ".join("not known" if each is None else str(each) for each in (one, other))


def describe(card):
    """One line on what kind of network it is, from its card."""
    inputs = {("frames",): "face only", ("specs",): "voice only"}.get(tuple(card["inputs"]), "face and voice")
    trained, teachers = sum(map(len, (card["trained_on"] or {}).values())), card["taught_by"] or []
    parts = [card["stage"], inputs] + [f"trained on {trained} subject{'s' * (trained > 1)}"] * bool(trained)
    parts += ["taught by " + ", ".join(teachers[:2]) + f" and {len(teachers) - 2} more" * (len(teachers) > 2)
              + f" ({card['distill']})"] * bool(teachers)
    rate = f" at {card['frame_rate']:g} frames/s" if card["frame_rate"] else ""
    return f"{', '.join(parts)}: {' and '.join(card['targets'])}{rate}"


# ---- batches for the network ----------------------------------------------------------------------------------------

class Stream:
    """Frame after frame into a network, in batches and in a thread of its own, so that the next ones can be made
    meanwhile."""

    def __init__(self, network, thread, specs=None):
        """thread: a ThreadPoolExecutor(1), which several Streams may share; specs: iterator of (1, M, F) uint8, the
        spectrogram of every frame."""
        self.network, self.thread, self.specs = network, thread, specs
        self.shape = network.card["inputs"].get("frames")
        self.frames, self.count = None, 0  # the batch that is being filled
        self.states = [None] * network.card["clip_stride"]
        self.waiting = deque()
        self.preds = array("f")  # no list of small arrays, around which freed memory would be lost

    def add(self, crop):
        """The next frame's face crop (S, S, 3) uint8; None for a network that does not see."""
        if self.shape and self.frames is None:
            self.frames = np.empty((BATCH, *self.shape), np.uint8)
        if self.shape:
            self.frames[self.count] = crop.transpose(2, 0, 1)
        self.count += 1
        if self.count == BATCH:
            self._send()

    def _send(self):
        specs = np.array([*itertools.islice(self.specs, self.count)]) if self.specs else None
        count = self.count if specs is None else len(specs)  # the sound may end before the pictures
        frames = self.frames[:count] if self.shape else None
        self.frames, self.count = None, 0
        if count:
            self.waiting.append(self.thread.submit(self._run, frames, specs))
        if len(self.waiting) > AHEAD:
            self.waiting.popleft().result()

    def _run(self, frames, specs):
        preds, self.states = interleaved(self.network, frames, specs, self.states)
        if not np.isfinite(preds).all():
            raise UserError("the network's predictions are not finite numbers: its file is damaged, or its training "
                            "failed")
        self.preds.frombytes(np.ascontiguousarray(preds, np.float32).tobytes())

    def end(self):
        """The predictions of all frames, or of those before the last spectrogram: (N, K) float32."""
        if self.count:
            self._send()
        for one in self.waiting:
            one.result()
        self.waiting.clear()
        return np.array(self.preds).reshape(-1, len(self.network.targets))


def network_thread():
    """The thread in which a network works."""
    return ThreadPoolExecutor(1, "network")


# ---- faces and sound of a video -------------------------------------------------------------------------------------

class Person:
    """One person in a video: the face, steadied and cropped, goes into the network, and a row of the table is kept."""

    def __init__(self, stream, card, strip):
        """stream: Stream; strip: {frame: None}, frames of which the crop is to be kept there."""
        self.stream, self.faces, self.strip = stream, card["faces"], strip
        self.steadying = Steadying(card["frame_rate"])
        self.shots, self.rows = [], FaceRows()
        self.last, self.before = None, 0  # last crop, to be retained; frames before the first one

    def add(self, shot):
        """The next Shot of this person."""
        self.shots.append(shot)
        if len(self.shots) == face_detector.BATCH:
            self._crop(self.steadying(self.shots))
            self.shots = []

    def _crop(self, steadied):
        for shot, points in steadied:
            size, count = self.faces["face_size"], len(shot.ks)
            crop = crop_face(shot.picture, points, size) if shot.face else None
            if shot.face:
                self.strip.update((k, crop) for k in shot.ks if k in self.strip)
            self._feed(crop, count)
            retained = shot.found == "missing" and self.faces["retained"]
            self.rows.add(shot.ks, "retained" if retained else shot.found, shot.face)

    def _feed(self, crop, count):
        """Crops into the network; without a face a black image, or the last face (before the first one: the first)."""
        if crop is None and not self.faces["retained"]:
            crop = np.zeros([self.faces["face_size"]] * 2 + [3], np.uint8)
        elif crop is None:
            crop = self.last
        else:
            self.last = crop
        if crop is None:
            self.before += count
            return
        count, self.before = count + self.before, 0
        for _ in range(count):
            self.stream.add(crop)

    def end(self):
        """(FaceRows.table, predictions (N, K)) of all frames."""
        self._crop(self.steadying(self.shots) + self.steadying.end())
        preds = self.stream.end()
        never = np.full((self.before, preds.shape[1]), math.nan)  # there was no face to be retained
        return self.rows.table(), np.concatenate([preds, never])


def has_pictures(video):
    """Whether a file has a video track; the cover picture of a sound file is none."""
    with open_media(video) as container:
        return bool(video_tracks(container))


def frames_of(video, network):
    """Number of frames of a video, or of a sound file, which an audio-only network can be given, too."""
    rate = network.card["frame_rate"]
    if "frames" in network.inputs or has_pictures(video):
        return frame_count(picture_clock(video, ignored).end_s, rate)
    audio_rate = network.card["sound"]["audio_rate"]
    return max(1, round(sum(map(len, read_sound(video, audio_rate))) / audio_rate * rate))


def spectrograms(video, frames, card, remarks):
    """Yields the spectrogram (1, M, F) uint8 of every frame, from <name>.wav beside the video or its sound track.

    frames: [how many]; fewer from when the sound turns out to end too early for all of them (windows). remarks: list to
    which is added, after the last one, what is not as it should be with the sound.
    """
    sound, beside = SimpleNamespace(**card["sound"], frame_rate=card["frame_rate"]), video.with_suffix(".wav")
    path, start_s, [wanted] = beside if there(beside) else video, None, frames
    if path == video and has_pictures(video):
        start_s = picture_clock(video, ignored).start_s
    with open_media(path) as container:
        if not container.streams.audio:
            raise UserError(f"{video} has no sound, which this network ({describe(card)}) needs: give it a "
                            f"sound track, or put {beside.name} beside it")
    samples, steps = [0], steps_between(wanted, sound.audio_rate / sound.frame_rate)
    blocks = counted(read_sound(path, sound.audio_rate, start_s, remarks=remarks), samples)

    def up_to_its_end():
        try:
            yield from segments(blocks, wanted, sound)
        except EOFError:
            frames[0] = int(samples[0] / sound.audio_rate * sound.frame_rate)
            remarks.append(f"{path}: the sound ends at frame {frames[0]} of {wanted}, where the predictions end, too")
    for block in spec_blocks(up_to_its_end(), steps, mel_spec_of(sound)):
        yield from block[:, None]
    for _ in blocks:  # to the end, for the remarks
        pass
    remarks += ends_early(samples[0], wanted, sound) if frames[0] == wanted else []


def reported(pictures, report):
    """Yields them as they are, and reports their frames."""
    for ks, picture in pictures:
        yield ks, picture
        report(len(ks))


def shots_of(pictures, card, people, device):
    """Yields [(id of a person, Shot), ...] of every picture."""
    faces, frame_rate = card["faces"], card["frame_rate"]
    find = finder(faces["min_face_size"], faces["face_score"], device)
    if people == "all":
        from tracks import people_shots
        yield from people_shots(pictures, find, frame_rate, faces["look_every"])
    else:
        yield from ([(1, shot)] for shot in shots(pictures, Tracker(find), frame_rate, faces["look_every"]))


def see(network, pictures, people, device, strip, specs):
    """({id: table_of} of everybody in the pictures of a video, {id: {frame: crop or None}} of the first STRIPS).

    strip: the frames of which crops are kept.
    """
    streams, tables, strips = {}, {}, {}
    with one_thread(), network_thread() as thread:
        for look in shots_of(pictures, network.card, people, device):
            for number in streams.keys() - {number for number, _ in look}:  # given up: memory for others
                tables[number] = table_of(*streams.pop(number).end(), network)
            for number, shot in look:
                if number not in streams:
                    strips |= {number: dict.fromkeys(strip)} if number <= STRIPS else {}
                    streams[number] = Person(Stream(network, thread, specs), network.card, strips.get(number, {}))
                streams[number].add(shot)
        return tables | {number: table_of(*one.end(), network) for number, one in streams.items()}, strips


def listen(network, frames, specs, report):
    """The same for an audio-only network."""
    with network_thread() as thread:
        stream = Stream(network, thread, specs)
        for _ in range(frames):
            stream.add(None)
            report(1)
        nothing = {"frame": range(frames), "found": ""} | dict.fromkeys(["score", *BOX], math.nan)
        return {1: table_of(pd.DataFrame(nothing), stream.end(), network)}


def table_of(found, preds, network):
    """A person's frames as a table: frame, predictions (NaN where there is no face), face, score, box.

    found: FaceRows.table; those after the last prediction are left out.
    """
    table = found[:len(preds)].rename(columns={"found": "face"})[["frame", "face", "score", *BOX]]
    unseen = ~table["face"].isin(FACE) & ("frames" in network.inputs)
    for column, (target, pred) in enumerate(zip(network.targets, preds.T.astype(float)), 1):
        table.insert(column, target, np.where(unseen, math.nan, pred))
    return table


def processed(table, card):
    """A person's table with post-processed predictions."""
    constants = card["postprocessing"]
    return table.assign(**{target: postprocess(table[target].to_numpy(), PostProcessing(**constants[target]),
                                               constants["smoothing"]) for target in card["targets"]})


def releveled(table, card, level):
    """A person's table with predictions at another level."""
    return table.assign(**{target: relevel(table[target], level, **its, frame_rate=card["frame_rate"])
                           for target, its in card["ratings"].items()})


def predictions(network, video, cfg, report=lambda n: None):
    """(table as in the CSV, {id: {frame: crop or None}} for the figure, what is wrong with the video: [str]).

    cfg: settings of predict.py, of which people, postprocess, level and device are used; report(n): called for every n
    frames. Raises UserError if the video cannot be used.
    """
    card, damage, frames = network.card, [], [frames_of(video, network)]
    strip, strips = [int((part + 0.5) / STRIP * frames[0]) for part in range(STRIP)], {}
    specs = spectrograms(video, frames, card, damage) if "specs" in network.inputs else None
    if "frames" in network.inputs:
        pictures = reported(read_frames(video, card["frame_rate"], damage.append, damage.append), report)
        tables, strips = see(network, pictures, cfg.people, cfg.device, strip, specs)
    else:
        if has_pictures(video):
            picture_clock(video, damage.append)
        tables = listen(network, frames[0], specs, report)
    for _ in specs or ():  # to its end, for the remarks
        pass
    [frames] = frames  # those with sound, if that is needed
    if not frames:
        raise UserError(f"{video}: its sound ends before its pictures begin: there is nothing to predict")
    tables = {number: table[table["frame"] < frames] for number, table in tables.items()}
    strips = {number: {k: crop for k, crop in kept.items() if k < frames} for number, kept in strips.items()}
    if "frames" in network.inputs and not any(table["face"].isin(FACE).any() for table in tables.values()):
        raise UserError(f"{video}: no face in any of its {frames} frames: there is nothing to predict (faces are at "
                        f"least {card['faces']['min_face_size']} pixels large, as in training)")
    if cfg.postprocess:
        tables = {number: processed(table, card) for number, table in tables.items()}
    if cfg.level != "raw":
        tables = {number: releveled(table, card, cfg.level) for number, table in tables.items()}
    table = pd.concat(tables, names=["person"]).reset_index("person")
    table = table.sort_values(["frame", "person"], ignore_index=True)
    table.insert(0, "time_s", (table.pop("frame") / card["frame_rate"]).round(4))
    table = table if cfg.people == "all" else table.drop(columns="person")
    return table.round({"score": 4} | dict.fromkeys(BOX, 1)), strips, damage


def check_use(network, path, cfg):
    """Raises SettingsError if the network cannot be used on videos in this way."""
    card = network.card
    made = {"frames": ("faces", "face crops", "face_detector.py"),
            "specs": ("sound", "spectrograms", "audio_melspec.py")}
    for name in network.inputs:
        entry, what, script = made[name]
        if not has_images(card, name):
            raise SettingsError(f"{path} takes {FEATURES[name]} that another program made (features/ in its data "
                                "folder), so it cannot be given a video: train a network on images for that")
        if not card[entry] or not card["frame_rate"]:
            raise SettingsError(f"{path} does not say how the {what} that it was trained on were made, so it cannot be "
                                f"given a video: they were not made by {script}, or an older version wrote the file. "
                                "Train it again on such")
    if cfg.people == "all" and tuple(network.inputs) != ("frames",):
        raise SettingsError(f"people: all needs a visual-only network, {path} has audio: whose voice it is cannot be "
                            "known")
    if cfg.postprocess and cfg.level != "raw":
        raise SettingsError(f"level: {cfg.level} and --postprocess, whose constants were fitted on raw predictions: "
                            "leave one of them out")
    if cfg.postprocess and not card["postprocessing"]:
        raise SettingsError(f"postprocess: {path} holds no post-processing constants (they are fitted if its folds "
                            "were trained before it; a mean of several networks has none): leave --postprocess out")
    if cfg.level != "raw" and not card["ratings"]:
        raise SettingsError(f"level: {path} does not say the mean and standard deviation of its training ratings: an "
                            "older version wrote it (or these networks were trained on different ratings). Train it "
                            "again, or leave --level out")
