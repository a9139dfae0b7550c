"""What is there of a recording: ratings, video, sound, crops, segments, spectrograms; and what is wrong with each.

Everything is looked at by itself: what cannot be read is a finding, and the rest is looked at all the same.
"""
import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from corpora import features
from corpora.findings import (
    SILENT_DB,
    count_findings,
    face_findings,
    gold_findings,
    longest_gap,
    rate_findings,
    sound_findings,
)
from corpora.loudness import band_levels, samples_of, total_levels
from support.checksums import open_array
from support.columns import read_table
from support.crops import is_crop
from support.decoding import packets_of
from support.errors import UserError
from support.files import there
from support.media import frame_count, ignored, open_media, picture_clock, read_frames
from support.opencv import cv2, read_picture
from support.recordings import FACE, media_file, sound_file
from support.sound import sound_track


@dataclass
class Facts:
    """What is there of a recording; None: nothing, or nothing that can be read."""
    name: str
    place: str  # its set, "" if it is in none
    rate: float  # ratings, faces, segments and spectrograms per second
    gold: np.ndarray | None = None  # (N, 2) one row per frame
    frames: int | None = None  # of the video
    has_face: np.ndarray | None = None  # (N,) bool
    crops: int | None = None
    segments: int | None = None
    spectrograms: int | None = None
    pictures_s: float | None = None
    pictures_rate: float | None = None  # pictures per second of the video
    sound_s: float | None = None
    late_s: float | None = None  # how much later the sound begins than the pictures
    features: dict = field(default_factory=dict)  # "visual", "audio" -> frames of the features in their place
    columns: dict = field(default_factory=dict)  # the same -> (their file, names of its columns)
    levels: np.ndarray | None = None  # (E,) dB of the sound, PER_S per second
    faces: list = field(default_factory=list)  # (name, JPEG) of a few crops, or of the first picture
    found: list = field(default_factory=list)  # (kind, detail)

    def counts(self):
        """{what: number of frames} to compare, None where there are none."""
        return {"rows": None if self.gold is None else len(self.gold), "frames of the video": self.frames,
                "rows in faces.csv": None if self.has_face is None else len(self.has_face),
                "crops": None if self.has_face is None else self.crops, "segments": self.segments,
                "spectrograms": self.spectrograms}

    def gap_s(self):
        """The longest time without a face, seconds; None without faces.csv."""
        return None if self.has_face is None else longest_gap(self.has_face) / self.rate


def facts_of(name, place, read, cfg):
    """Facts of a recording. read: name -> its (N, 2) ratings, what is said of them, why its crops do not fit; None
    without ratings."""
    facts = Facts(name, place, cfg.frame_rate)
    steps = [("media", _pictures, (cfg,)), ("media", _sound, (cfg,)), ("ratings", _ratings, (read,)),
             ("counts", _faces, (cfg.crops_dir / name,)), ("counts", _made, (cfg,)),
             ("features", _features, (cfg,)), ("counts", _show, (cfg,))]
    for kind, step, words in steps:
        try:
            step(facts, *words)
        except (UserError, OSError) as error:
            line = str(error) if isinstance(error, UserError) else f"{error.filename}: {error.strerror or error}"
            if line not in [detail for _, detail in facts.found]:  # the video says how many ratings there must be
                facts.found.append((kind, line))
    facts.found += count_findings(facts.counts())
    return facts


def _ratings(facts, read):
    if not read:
        return
    facts.gold, notes, faults = read(facts.name)
    facts.found += [("remark", note) for note in notes] + [("counts", fault) for fault in faults]
    facts.found += gold_findings(facts.gold, facts.rate)


def _pictures(facts, cfg):
    video = media_file(facts.name, cfg.videos_dir)
    if not video:
        return
    cut_short = []
    clock = picture_clock(video, cut_short.append)
    facts.found += [("media", message) for message in cut_short]
    facts.found += [("remark", f"{video.name}: {remark}") for remark in clock.remarks]
    facts.frames, facts.pictures_s = frame_count(clock.end_s, facts.rate), clock.end_s
    facts.pictures_rate = len(clock.times_s) / clock.end_s
    gaps = np.diff(clock.times_s)
    steady = not len(gaps) or np.ptp(gaps) <= 0.5 * np.median(gaps) + 0.002
    facts.found += rate_findings(facts.pictures_rate, facts.rate, steady)


def sound_span(path):
    """(time stamp of the first sample, of the end of the last) of a file's sound, seconds. Raises UserError."""
    first, last = np.inf, -np.inf
    with open_media(path) as container:
        stream = sound_track(container, path)
        for packet in packets_of(container, stream):
            if packet.pts is not None and packet.size:
                begin = float(packet.pts * packet.time_base)
                first = min(first, begin)
                last = max(last, begin + float((packet.duration or 0) * packet.time_base))
    return first, last


def _sound(facts, cfg):
    path = sound_file(facts.name, cfg.audio_dir, cfg.videos_dir)
    own = path and path.parent == cfg.audio_dir
    if not path or not own and not _has_track(path):
        return
    first, last = sound_span(path)
    start_s = None if own else picture_clock(path, ignored).start_s
    remarks = []
    samples = samples_of(path, start_s, cfg.audio_channel, remarks=remarks)
    facts.sound_s, facts.late_s = last - first, 0.0 if own else first - start_s
    facts.levels = total_levels(band_levels(samples))
    facts.found += [("remark", f"{path.name}: {remark}") for remark in remarks]
    if len(facts.levels) and facts.levels.max() < SILENT_DB:
        facts.found.append(("silent", f"{path.name}: never above {facts.levels.max():.0f} dB of full scale"))
    if facts.pictures_s is not None:
        facts.found += sound_findings(facts.pictures_s, facts.sound_s, facts.late_s, bool(own))


def _has_track(path):
    with open_media(path) as container:
        return bool(container.streams.audio)


def _faces(facts, folder):
    if not folder.is_dir():
        return
    facts.crops = len(images_in(folder))
    table = folder / "faces.csv"
    if not there(table):
        return
    found = read_table(table, f"delete {folder}/ and run face_detector.py again", texts=["found"])["found"]
    facts.has_face = found.isin(FACE).to_numpy()
    facts.found += face_findings(facts.has_face, facts.rate)


def _made(facts, cfg):
    if (cfg.segments_dir / facts.name).is_dir():
        facts.segments = sum(1 for _ in (cfg.segments_dir / facts.name).glob("[!.]*.wav"))
    folder, array = cfg.specs_dir / facts.name, Path(cfg.specs_dir, f"{facts.name}.npy")
    if folder.is_dir():
        facts.spectrograms = sum(1 for _ in folder.glob("[!.]*.png"))
    elif there(array):
        facts.spectrograms = len(np.atleast_1d(open_array(array, "delete it and run audio_melspec.py again")[0]))


def _features(facts, cfg):
    for modality, files in features.found(cfg).items():
        if facts.name in files:
            one = features.load(files[facts.name], cfg.cache_dir)
            facts.columns[modality] = one.path, one.columns
            facts.features[modality] = features.count_frames(one, facts.rate)
            frames = facts.frames if facts.gold is None else len(facts.gold)
            _, notes = features.on_frames(one, frames or facts.features[modality], facts.rate)
            facts.found += [("remark", f"{modality} features: {note}") for note in notes]


# ---- to look at -----------------------------------------------------------------------------------------------------

SHOWN, SIDE = 12, 80  # faces of a recording, and their height in pixels


def images_in(folder):
    """The crops in a folder, in the order of their numbers."""
    return sorted(path for path in folder.glob("*") if is_crop(path.name))


def _show(facts, cfg):
    """A few crops, evenly spaced; without crops the first picture."""
    crops = images_in(cfg.crops_dir / facts.name)
    for place in sorted({int((number + 0.5) / SHOWN * len(crops)) for number in range(SHOWN)}) if crops else []:
        again = f"delete {cfg.crops_dir / facts.name}/ and run face_detector.py again"
        facts.faces.append((crops[place].name, small_jpeg(read_picture(crops[place], cv2.IMREAD_COLOR, again))))
    video = media_file(facts.name, cfg.videos_dir)
    if crops or not video or facts.frames is None:
        return
    with contextlib.closing(read_frames(video, facts.rate, ignored)) as pictures:
        for _, picture in pictures:
            facts.faces.append(("first picture", small_jpeg(picture.rgb[..., ::-1])))
            break


def small_jpeg(bgr):
    """A picture as JPEG, SIDE pixels high."""
    height, width = bgr.shape[:2]
    small = cv2.resize(bgr, (max(1, round(SIDE * width / height)), SIDE), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()
