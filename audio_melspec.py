"""Step 3: audio segments -> log-mel spectrograms.

Reads   audio_segments/<id>/000000.wav ...
Writes  specs/<id>/000000.png ...   8-bit grey, n_mels rows (low frequencies first) x time; db_min is black, db_max white
        or, with --spec-files array, specs/<id>.npy: the same pictures as one array (frames, 1, n_mels, columns) of bytes

Segments overlap, and so do their spectrograms: a column whose window lies wholly inside its segment depends only on where in
the recording it is. So the recording is put together again from segments whose overlap is equal, and such a column is
computed once for all the segments that have one at that sample: segments a whole number of hop_length apart share all of
them (25 frames/s at 16 kHz: 640 samples, 4 columns), at 30 frames/s every third segment does. Columns whose window reaches
over an end of the segment hear silence there, as librosa's do, and are computed for every segment. Each column equals that of
librosa.feature.melspectrogram(y=segment), whatever the settings: where segments share nothing, nothing is saved.

    python audio_melspec.py --data-dir data
"""
import io
import math
import os
import struct
import zlib
from functools import partial
from typing import NamedTuple

import numpy as np
import soundfile

from audio_extract import wav_header
from support.errors import UserError, run_script
from support.files import growing_folder, write_bytes
from support.recordings import find_recordings, if_newer, keep_settings, shard_of
from support.settings import parse_config
from support.workers import for_each

SETTINGS = "audio_rate segment_s n_fft hop_length n_mels db_min db_max spec_files"  # what spectrograms are made with
BLOCK = 256  # segments put together at a time, fewer where that would be much memory
BLOCK_BYTES = 2**22  # about: of a block's segments that share nothing, or of its pictures
WORTH_A_WORKER = 20000  # segments: what one process does in the second or two that another takes to start


class Look(NamedTuple):
    """How a spectrogram is made of a segment."""
    rate: int
    samples: int  # N, of a segment
    n_fft: int
    hop_length: int
    bands: np.ndarray  # (M, 1 + n_fft // 2) mel filters
    db_min: float
    db_max: float

    @property
    def columns(self): return 1 + (self.samples + 2 * (self.n_fft // 2) - self.n_fft) // self.hop_length
    @property
    def block(self): return max(1, min(BLOCK, BLOCK_BYTES // max(self.samples, len(self.bands) * self.columns)))


# ---- sound to pictures ----------------------------------------------------------------------------------------------
# Shapes: K segments of N samples, U columns, M mel bands, F columns of a spectrogram.

def log_mel(frames, bands):
    """Log-mel power in dB (re 1, as librosa.power_to_db with no top_db) of frames of sound: (U, n_fft) -> (U, M)."""
    n_fft = frames.shape[1]
    window = 0.5 - 0.5 * np.cos(2 * np.pi / n_fft * np.arange(n_fft))  # Hann's
    spectrum = np.fft.rfft(frames * window)  # in double precision, as in librosa
    power = (spectrum.real ** 2 + spectrum.imag ** 2).astype(np.float32)
    mel = np.zeros((len(bands), len(frames)), np.float32)
    for out, band in zip(mel, bands):
        if len(inside := np.flatnonzero(band)):  # not a matrix product: its last digits depend on the number of threads
            heard = slice(inside[0], inside[-1] + 1)
            np.einsum("ij,j->i", power[:, heard], band[heard], out=out)
    return 10 * np.log10(np.maximum(mel.T, 1e-10))


def to_grey(db, db_min, db_max):
    """8-bit picture of dB values: db_min or less is 0, db_max or more 255; same shape, uint8."""
    return np.clip(np.rint((db - db_min) * (255 / (db_max - db_min))), 0, 255).astype(np.uint8)


def with_silent_ends(tape, at, look):
    """(K, F) where the window of every column begins in a longer tape, and that tape: it ends with what windows that reach
    over an end of their segment hear. tape: samples; at: (K,) where in it each segment begins.
    """
    half, windows = look.n_fft // 2, np.lib.stride_tricks.sliding_window_view
    begins = np.arange(look.columns) * look.hop_length - half  # in the segment
    before, after = begins[begins < 0], begins[begins + look.n_fft > look.samples]
    head = np.pad(windows(tape, before[-1] + look.n_fft)[at], ((0, 0), (half, 0)))  # n_fft // 2 > 0: there are some
    places, longer = at[:, None] + begins, [tape, head.ravel()]
    places[:, :len(before)] = len(tape) + np.arange(len(at))[:, None] * head.shape[1] + half + before
    if len(after):
        heard = look.samples - after[0]
        tail = np.pad(windows(tape, heard)[at + after[0]], ((0, 0), (0, after[-1] + look.n_fft - look.samples)))
        places[:, -len(after):] = len(tape) + head.size + np.arange(len(at))[:, None] * tail.shape[1] + after - after[0]
        longer.append(tail.ravel())
    return places, np.concatenate(longer)


def spectrograms(tape, at, look):
    """Spectrograms of the segments that begin at the samples `at` of a tape: (any,) in [-1, 1], (K,) -> (K, M, F) uint8."""
    places, tape = with_silent_ends(tape, at, look)
    number = np.zeros(len(tape), np.int32)
    number[places] = 1
    begins = np.flatnonzero(number)  # every column once
    number[begins] = np.arange(len(begins))
    windows, few = np.lib.stride_tricks.sliding_window_view(tape, look.n_fft), max(1, 2**18 // look.n_fft)  # 2 MB at a time
    grey = np.empty((len(look.bands), len(begins)), np.uint8)
    for first in range(0, len(begins), few):
        db = log_mel(windows[begins[first:first + few]], look.bands)
        grey[:, first:first + few] = to_grey(db, look.db_min, look.db_max).T
    return grey[:, number[places]].swapaxes(0, 1)


def png(picture):
    """The bytes of a PNG file of a picture: (rows, columns) uint8.

    Not compressed: that takes longer than all else, saves a third of the bytes and, on a disk of 4 KB blocks, no room (64
    bands x 101 columns: 6.6 KB against 4.3). And all files of a folder are of one size, so a half-written one is seen.
    """
    rows = np.zeros((picture.shape[0], 1 + picture.shape[1]), np.uint8)  # each begins with its filter: none
    rows[:, 1:] = picture
    header = struct.pack(">2I5B", picture.shape[1], picture.shape[0], 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")))


# ---- segments -------------------------------------------------------------------------------------------------------

def segment_paths(folder):
    """Paths of a recording's segments, frame 0 first, and when the newest was changed, in ns.

    Raises UserError if one is missing.
    """
    there = {file.name: file.stat().st_mtime_ns for file in os.scandir(folder) if file.name.endswith(".wav")}
    names = [f"{k:06d}.wav" for k in range(max(1, len(there)))]
    for name in names:
        if name not in there:
            raise UserError(f"{folder}/{name} is missing ({len(there)} segments are there): delete {folder}/ and run "
                            "audio_extract.py")
    return [f"{folder}/{name}" for name in names], max(there.values())


def read_segment(path, rate, samples, header):
    """(samples,) of a segment file: int16 as it is written by audio_extract.py, with this header; float32 of other WAV files.

    Raises UserError on one that is damaged or of other settings.
    """
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # a fifth of what opening it with soundfile takes
    try:
        data = os.read(file, len(header) + 2 * samples + 1)
    finally:
        os.close(file)
    if len(data) == len(header) + 2 * samples and data.startswith(header):
        return np.frombuffer(data, "<i2", offset=len(header))
    try:
        sound, its_rate = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError:
        sound, its_rate = np.empty(0), 0
    if sound.shape != (samples,) or its_rate != rate:
        raise UserError(f"{path} is not a whole segment of {samples} samples at {rate} Hz: delete {os.path.dirname(path)}/ and "
                        "run audio_extract.py")
    return sound


def put_together(segments, steps):
    """The sound that segments were cut from, float32 in [-1, 1], and where in it each begins, (K,).

    segments: iterable of (N,) int16 or float32; steps: (K,) samples from the segment before to each, if that is so: one
    that does not hold there what the one before does is put behind it, whole.
    """
    pieces, at, before, end = [], [], np.empty(0, np.int16), 0
    for segment, step in zip(segments, steps):
        shared = len(segment) - step
        if shared > 0 and before[step:].tobytes() == segment[:shared].tobytes():
            new = segment[shared:]
        else:
            new = segment
        pieces.append(new if new.dtype == np.float32 else new * np.float32(2**-15))
        end += len(new)
        at.append(end - len(segment))
        before = segment
    return np.concatenate(pieces), np.array(at)


# ---- recordings -----------------------------------------------------------------------------------------------------

def reuse_memory():
    """Has glibc keep what is freed for what is allocated next, if that is no larger than something freed before.

    Else every array of a megabyte comes fresh from the kernel, page by page: half the time of a spectrogram.
    """
    np.empty(2**25 - 2**16, np.uint8)  # the largest that counts; not touched, so it takes no memory


def block_of(paths, steps, look):
    """Spectrograms of a block of segments, (K, M, F) uint8.

    Blocks begin at the same frames wherever the work does: so the last digit of nothing depends on that.
    """
    header = wav_header(look.samples, look.rate)
    segments = (read_segment(path, look.rate, look.samples, header) for path in paths)
    return spectrograms(*put_together(segments, steps), look)


def draw_pictures(paths, steps, folder, look, made_of, report):
    """Writes one picture per segment; `folder` appears when all of them are there."""
    with growing_folder(folder, made_of) as part:
        # A file grows as it is written: one of the right size, in the half of the same work, is whole.
        size = len(png(np.zeros((len(look.bands), look.columns), np.uint8)))
        whole = {file.name for file in os.scandir(part) if file.stat().st_size == size}
        names = [os.path.basename(path)[:-len(".wav")] + ".png" for path in paths]
        for first in range(0, len(paths), look.block):
            some = slice(first, first + look.block)
            if not whole.issuperset(names[some]):
                for name, picture in zip(names[some], block_of(paths[some], steps[some], look)):
                    if name not in whole:
                        write_bytes(f"{part}/{name}", png(picture))
            report(len(names[some]))


def draw_array(paths, steps, file, look, made_of, report):
    """Writes the pictures of all segments as one array; `file` appears when it is whole."""
    shape = (len(paths), 1, len(look.bands), look.columns)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    header = header.getvalue()
    with growing_folder(file, made_of, only=file.name) as part, open(part / file.name, "ab") as out:
        # It grows block by block: whole blocks are kept. Not through a memory map: a full disk would kill the process.
        done = max(0, out.tell() - len(header)) // (math.prod(shape[1:]) * look.block) * look.block
        out.truncate(len(header) + done * math.prod(shape[1:]) if done else 0)
        out.write(b"" if done else header)
        report(done)
        for first in range(done, len(paths), look.block):
            some = slice(first, first + look.block)
            out.write(block_of(paths[some], steps[some], look).tobytes())
            report(len(paths[some]))


def count_pictures(out):
    """How many spectrograms are in a folder of pictures or a file with an array. Raises UserError if that is damaged."""
    if out.suffix != ".npy":
        return sum(name.endswith(".png") for name in os.listdir(out))
    try:
        return len(np.load(out, mmap_mode="r"))
    except (ValueError, EOFError, TypeError):
        raise UserError(f"{out} is damaged: delete that file to make it anew") from None


def out_path(name, cfg):
    return cfg.specs_dir / (name if cfg.spec_files == "pictures" else f"{name}.npy")


def make(name, report, folders, cfg, look, frame_rate):
    """Spectrograms of one recording, unless they are there: a line on it; (spectrograms, whether they were there).

    frame_rate: at which the segments were cut, None if that is not known.
    """
    (paths, newest), out = segment_paths(folders[name]), out_path(name, cfg)
    done = out.exists()
    if done and (there := count_pictures(out)) != len(paths):
        raise UserError(f"{out}{'/' * out.is_dir()} holds {there} spectrograms for {len(paths)} segments: delete that "
                        f"{'folder' if out.is_dir() else 'file'} to make it anew")
    if not done:
        step = look.rate / frame_rate if frame_rate else look.samples
        steps = np.diff(np.rint(np.arange(-1, len(paths)) * step).astype(int))
        made_of = [str(folders[name]), len(paths), newest, {field: getattr(cfg, field) for field in SETTINGS.split()}]
        reuse_memory()
        (draw_pictures if cfg.spec_files == "pictures" else draw_array)(paths, steps, out, look, made_of, report)
    return f"{name}: {len(paths)} spectrograms" + (f" (done before{if_newer(folders[name], out)})" if done else ""), (len(paths), done)


def look_of(cfg):
    from librosa.filters import mel  # here: it takes longer to import than all else, and only one process needs it
    bands = mel(sr=cfg.audio_rate, n_fft=cfg.n_fft, n_mels=cfg.n_mels)
    return Look(cfg.audio_rate, round(cfg.segment_s * cfg.audio_rate), cfg.n_fft, cfg.hop_length, bands, cfg.db_min, cfg.db_max)


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    folders = find_recordings([cfg.segments_dir], cfg.recordings, "run audio_extract.py first")
    settings = keep_settings(cfg.specs_dir, cfg, SETTINGS, made_of=cfg.segments_dir)
    sounds = find_recordings([cfg.segments_dir, cfg.audio_dir, cfg.videos_dir], cfg.recordings, "")  # as audio_extract.py has them,
    shard = shard_of(sounds, cfg.shard)  # so that those of a shard are the same, whatever other jobs have cut by now
    if lacking := [name for name in shard if name not in folders]:
        print(f"{cfg.segments_dir}/ has no {', '.join(lacking)}: not drawn; run audio_extract.py, then this again")
    shard = {name: folders[name] for name in shard if name in folders}
    if not shard:
        print(f"shard {cfg.shard} holds none of the {len(folders)} recordings: nothing to do")
        return {}
    todo = [folder for name, folder in shard.items() if folder.is_dir() and not out_path(name, cfg).exists()]
    sizes = {folder.name: len(os.listdir(folder)) for folder in todo}
    work = partial(make, folders=shard, cfg=cfg, look=look_of(cfg) if todo else None, frame_rate=settings.get("frame_rate"))
    results = for_each(shard, work, sizes, cfg.workers, "spectrograms", WORTH_A_WORKER)
    made = sum(not done for _, done in results.values())
    print(f"{cfg.specs_dir}: {sum(frames for frames, _ in results.values())} spectrograms of {len(results)} recordings"
          + ("" if made else "; nothing to do, all were done before"))
    return {name: frames for name, (frames, _) in results.items()}


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
