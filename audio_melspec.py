"""Step 3: audio segments -> log-mel spectrograms.

Reads   audio_segments/<id>/000000.wav ...
Writes  specs/<id>/000000.png ...   8-bit grey, n_mels rows (low frequencies first) x time; db_min black, db_max white
        specs/<id>/checksums.sfv    of all of them, so that damage is noticed
        or, with --spec-files array, specs/<id>.npy: the same as one array of bytes (frames, 1, n_mels, columns), with
        its checksum behind it

Every column equals that of librosa.feature.melspectrogram(y=segment), whatever the settings. What makes it fast:
segments overlap, and a column whose window lies inside its segment depends only on where in the recording it is. So
overlapping segments are joined to a tape again, and such a column is computed once for all segments that have it. At 25
frames/s and 16 kHz segments begin 640 samples, or 4 columns, apart and share nearly all columns; at 30 frames/s only
every third segment can share them. Where a window reaches over an end of the segment it is zero-padded, as in librosa,
and computed for each segment.

    python audio_melspec.py --data-dir data
"""
import itertools
import os
import struct
import tempfile
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from audio_extract import wav_header
from support.checksums import checked, listed, open_array, read_list, write_checked_array
from support.errors import UserError, run_script
from support.files import claimed_part, named, regular, there, whole_folder, write_bytes
from support.recordings import find_recordings, if_newer, keep_settings, shard_of
from support.settings import parse_config
from support.workers import for_each

SETTINGS = "audio_rate segment_s n_fft hop_length n_mels db_min db_max spec_files"  # those that spectrograms depend on
BLOCK = 256  # segments that are joined at a time, or fewer:
BLOCK_BYTES = 2**22  # about the memory for a block's segments if they share nothing, or for its spectrograms
WORTH_A_WORKER = 20000  # segments: what one process does in the second or two that another takes to start


class MelSpec(NamedTuple):
    """How spectrograms are computed from segments."""
    rate: int
    samples: int  # N, of a segment
    n_fft: int
    hop_length: int
    bands: np.ndarray  # (M, 1 + n_fft // 2) mel filters
    db_min: float
    db_max: float

    @property
    def columns(self): return 1 + (self.samples + 2 * (self.n_fft // 2) - self.n_fft) // self.hop_length


def mel_spec_of(cfg):
    """The MelSpec that settings ask for, with librosa's mel bands."""
    try:
        from librosa.filters import mel  # here, because it takes long to import and only one process needs it
    except RuntimeError:  # numba, which mel() does not use, has no folder to write its cache to
        import numba
        with tempfile.TemporaryDirectory() as numba.config.CACHE_DIR:
            from librosa.filters import mel
    bands = mel(sr=cfg.audio_rate, n_fft=cfg.n_fft, n_mels=cfg.n_mels)
    samples = round(cfg.segment_s * cfg.audio_rate)
    return MelSpec(cfg.audio_rate, samples, cfg.n_fft, cfg.hop_length, bands, cfg.db_min, cfg.db_max)


# ---- sound to spectrograms ------------------------------------------------------------------------------------------
# Shapes: K segments of N samples, U columns, M mel bands, F columns of a spectrogram.

def log_mel(frames, bands):
    """Log-mel power in dB (re 1, as librosa.power_to_db without top_db) of frames of sound: (U, n_fft) -> (U, M)."""
    n_fft = frames.shape[1]
    window = 0.5 - 0.5 * np.cos(2 * np.pi / n_fft * np.arange(n_fft))  # Hann
    spectrum = np.fft.rfft(frames * window)  # in double precision, as in librosa
    power = (spectrum.real ** 2 + spectrum.imag ** 2).astype(np.float32)
    mel = np.zeros((len(bands), len(frames)), np.float32)
    for out, band in zip(mel, bands):
        if len(nonzero := np.flatnonzero(band)):  # no matrix product: its last digits depend on the number of threads
            inside = slice(nonzero[0], nonzero[-1] + 1)
            np.einsum("ij,j->i", power[:, inside], band[inside], out=out)
    return 10 * np.log10(np.maximum(mel.T, 1e-10))


def to_grey(db, db_min, db_max):
    """Grey levels of dB values: 0 for db_min or less, 255 for db_max or more; same shape, uint8."""
    return np.clip(np.rint((db - db_min) * (255 / (db_max - db_min))), 0, 255).astype(np.uint8)


def join(segments, steps):
    """The tape, float32 in [-1, 1], that overlapping segments were cut from, and where in it each of them begins, (K,).

    segments: iterable of (N,) int16 or float32; steps: (K,) samples from the start of the previous segment to that of
    each. A segment that differs from the previous one where they should overlap is appended whole.
    """
    pieces, at, before, end = [], [], np.empty(0, np.int16), 0
    for segment, step in zip(segments, steps):
        shared = len(segment) - step
        overlaps = shared > 0 and before[step:].tobytes() == segment[:shared].tobytes()
        new = segment[shared:] if overlaps else segment
        pieces.append(new if new.dtype == np.float32 else new * np.float32(2**-15))
        end += len(new)
        at.append(end - len(segment))
        before = segment
    return np.concatenate(pieces), np.array(at)


def padded_ends(tape, at, mel_spec):
    """Where the window of every column starts, (K, F), in a longer tape, and that tape: the given one, followed by
    zero-padded copies of the first and last n_fft samples of every segment, for windows that reach over its ends.

    tape: (any,) samples; at: (K,) where in it the segments begin.
    """
    n_fft, half, last = mel_spec.n_fft, mel_spec.n_fft // 2, mel_spec.samples - mel_spec.n_fft
    windows = np.lib.stride_tricks.sliding_window_view(tape, n_fft)
    heads = np.pad(windows[at], ((0, 0), (half, 0)))
    tails = np.pad(windows[at + last], ((0, 0), (0, half)))
    start = np.arange(mel_spec.columns) * mel_spec.hop_length - half  # in the segment
    in_heads = len(tape) + half + np.arange(len(at))[:, None] * heads.shape[1] + start
    in_tails = in_heads - half + heads.size - last
    places = np.select([start < 0, start > last], [in_heads, in_tails], at[:, None] + start)
    return places, np.concatenate([tape, heads.ravel(), tails.ravel()])


def spectrograms(tape, at, mel_spec):
    """Spectrograms of the segments that begin at samples `at` of a tape: (any,) in [-1, 1], (K,) -> (K, M, F) uint8."""
    places, tape = padded_ends(tape, at, mel_spec)
    number = np.zeros(len(tape), np.int32)
    number[places] = 1
    distinct = np.flatnonzero(number)  # every column once
    number[distinct] = np.arange(len(distinct))
    windows = np.lib.stride_tricks.sliding_window_view(tape, mel_spec.n_fft)
    some = max(1, 2**18 // mel_spec.n_fft)  # columns at a time: 2 MB in double precision
    grey = np.empty((len(mel_spec.bands), len(distinct)), np.uint8)
    for first in range(0, len(distinct), some):
        db = log_mel(windows[distinct[first:first + some]], mel_spec.bands)
        grey[:, first:first + some] = to_grey(db, mel_spec.db_min, mel_spec.db_max).T
    return grey[:, number[places]].swapaxes(0, 1)


# ---- files ----------------------------------------------------------------------------------------------------------

def png(grey):
    """The bytes of a PNG file of grey levels (rows, columns) uint8.

    Not compressed: that would take longer than all the rest and save a third of the bytes, but no room on disks with
    blocks of 4 KB (64 bands x 101 columns: 6.6 KB against 4.3 KB).
    """
    rows = np.zeros((grey.shape[0], 1 + grey.shape[1]), np.uint8)  # each begins with the number of its filter: none
    rows[:, 1:] = grey
    header = struct.pack(">2I5B", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")))


def segment_paths(folder):
    """Paths of a recording's segments, frame 0 first. Raises UserError if one is missing."""
    found = {name for name in os.listdir(folder) if name.endswith(".wav")}
    names = [f"{k:06d}.wav" for k in range(max(1, len(found), len(read_list(folder))))]
    if missing := sorted(set(names) - found):
        raise UserError(f"{folder}/{missing[0]} is missing ({len(found)} segments are there): delete {folder}/ and run "
                        "audio_extract.py")
    return [f"{folder}/{name}" for name in names]


def read_segment(path, rate, samples, header, sums=()):
    """(samples,) of a segment's file: int16 if it is as audio_extract.py writes it, with this header, else float32.

    sums: the checksums of its folder, if it has any. Raises UserError if it is damaged, or has another length or rate.
    """
    again = f"delete {os.path.dirname(path)}/ and run audio_extract.py"
    with open(regular(path), "rb", buffering=0) as file, named(path):  # a fifth of the time of soundfile.read
        data = file.read(len(header) + 2 * samples + 1)
    if len(data) == len(header) + 2 * samples and data.startswith(header):
        return np.frombuffer(checked(path, data, sums, again), "<i2", offset=len(header))
    try:
        sound, its_rate = soundfile.read(path, samples + 1, dtype="float32")  # no more, whatever the header says
    except (soundfile.LibsndfileError, ValueError):
        sound, its_rate = np.empty(0), 0
    if sound.shape != (samples,) or its_rate != rate:
        raise UserError(f"{path} is not a whole segment of {samples} samples at {rate} Hz: {again}")
    if sums:
        checked(path, Path(path).read_bytes(), sums, again)
    return sound


def steps_between(frames, step):
    """Samples from the start of each segment to that of the next, `steps` of join: (frames,); step: on average."""
    return np.diff(np.rint(np.arange(-1, frames) * step).astype(int))


def blocks_of(paths, steps, mel_spec):
    """Yields the spectrograms of segments' files block by block, (K, M, F) uint8. steps: as in join."""
    header, sums = wav_header(mel_spec.samples, mel_spec.rate), read_list(os.path.dirname(paths[0]))
    segments = (read_segment(path, mel_spec.rate, mel_spec.samples, header, sums) for path in paths)
    yield from spec_blocks(segments, steps, mel_spec)


def spec_blocks(segments, steps, mel_spec):
    """Yields the spectrograms of an iterator of segments block by block, (K, M, F) uint8, up to its end.

    steps: as in join, for as many segments or more.
    """
    np.empty(2**25 - 2**16, np.uint8)  # freed at once: glibc then reuses memory up to this size, which halves the time
    size = max(1, min(BLOCK, BLOCK_BYTES // max(mel_spec.samples, len(mel_spec.bands) * mel_spec.columns)))
    for first in range(0, len(steps), size):
        some = steps[first:first + size]
        for segment in itertools.islice(segments, 1):  # the block's first, if there is one
            rest = itertools.islice(segments, len(some) - 1)
            yield spectrograms(*join(itertools.chain([segment], rest), some), mel_spec)


def write_pictures(blocks, folder, report):
    """Writes a PNG file for every spectrogram: all of them or none."""
    with whole_folder(folder) as part, listed(part) as note:
        for k, grey in enumerate(grey for block in blocks for grey in block):
            picture = png(grey)
            write_bytes(f"{part}/{k:06d}.png", picture)
            note(f"{k:06d}.png", zlib.crc32(picture))
            report(1)


def write_array(blocks, shape, path, report):
    """Writes the spectrograms as one array of that shape (frames, 1, M, F): whole or not at all."""
    def pieces():
        for block in blocks:
            yield block.reshape(-1, *shape[1:])
            report(len(block))
    with claimed_part(path) as part:
        write_checked_array(part / path.name, shape[0], pieces())
        (part / path.name).rename(path)


def count_spectrograms(out):
    """How many spectrograms a folder of PNG files or an array's file holds. Raises UserError if it is damaged."""
    if out.suffix != ".npy":
        return sum(name.endswith(".png") for name in os.listdir(out))
    return len(np.atleast_1d(open_array(out, "delete that file and run this again")[0]))


# ---- recordings -----------------------------------------------------------------------------------------------------

def out_path(name, cfg):
    return cfg.specs_dir / (name if cfg.spec_files == "pictures" else f"{name}.npy")


def make(name, report, folders, cfg, mel_spec, frame_rate):
    """Makes the spectrograms of a recording, unless they exist: (line to print, (spectrograms, whether they existed)).

    frame_rate: of the segments, None if unknown.
    """
    paths, out = segment_paths(folders[name]), out_path(name, cfg)
    line = f"{name}: {len(paths)} spectrograms"
    if there(out):
        if (count := count_spectrograms(out)) != len(paths):
            raise UserError(f"{out} holds {count} spectrograms, {len(paths)} were expected, one for every segment: "
                            f"delete that {'folder' if out.is_dir() else 'file'} and run this again")
        return f"{line} (done before{if_newer(folders[name], out)})", (len(paths), True)
    step = mel_spec.rate / frame_rate if frame_rate else mel_spec.samples
    blocks = blocks_of(paths, steps_between(len(paths), step), mel_spec)
    if cfg.spec_files == "pictures":
        write_pictures(blocks, out, report)
    else:
        write_array(blocks, (len(paths), 1, len(mel_spec.bands), mel_spec.columns), out, report)
    return line, (len(paths), False)


def shard_folders(folders, cfg):
    """{id: folder} of this job's shard of the recordings that have sound; prints which of them have no segments yet."""
    sounds = find_recordings([cfg.segments_dir, cfg.audio_dir, cfg.videos_dir], cfg.recordings, "", cfg.annotations_dir)
    shard = shard_of(sounds, cfg.shard)  # not of `folders`: they become more while other jobs make segments
    if missing := [name for name in shard if name not in folders]:
        print(f"{cfg.segments_dir}/ has no {', '.join(missing)}: left out; run audio_extract.py, then this again")
    return {name: folders[name] for name in shard if name in folders}


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    folders = find_recordings([cfg.segments_dir], cfg.recordings, "run audio_extract.py first")
    settings = keep_settings(cfg.specs_dir, cfg, SETTINGS, made_of=cfg.segments_dir)
    shard = shard_folders(folders, cfg)
    if not shard:
        print(f"shard {cfg.shard} has none of the {len(folders)} recordings: nothing to do")
        return {}
    todo = [folder for name, folder in shard.items() if folder.is_dir() and not there(out_path(name, cfg))]
    sizes = {folder.name: sum(name.endswith(".wav") for name in os.listdir(folder)) for folder in todo}
    mel_spec = mel_spec_of(cfg) if todo else None
    work = partial(make, folders=shard, cfg=cfg, mel_spec=mel_spec, frame_rate=settings.get("frame_rate"))
    results = for_each(shard, work, sizes, cfg.workers, "spectrograms", WORTH_A_WORKER)
    made = sum(not done for _, done in results.values())
    print(f"{cfg.specs_dir}: {sum(frames for frames, _ in results.values())} spectrograms of {len(results)} recordings"
          + ("" if made else "; nothing to do, all were done before"))
    return {name: frames for name, (frames, _) in results.items()}


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
