"""Step 2: raw sound -> one audio segment per frame.

Reads   audio/<id>.*    or, where there is none, the sound track of videos/<id>.*
Writes  audio_segments/<id>/000000.wav ...      mono, 16 bit: the sound around frame k or, causal, up to it

    python audio_extract.py --data-dir data
"""
import io
import os
from functools import partial

import av
import numpy as np
import soundfile

from annotations import about_frames, find_recordings, for_each, if_newer, keep_settings, known_frames, open_media, picture_clock, shard_of
from config import UserError, growing_folder, parse_config, run_script, write_bytes

PIECE = 65536  # samples of a WAV read at a time
JUMP_S = 0.05  # time stamps of sound that are off by less are rounded; by more, sound is missing or there twice
SETTINGS = "audio_rate segment_s segment_at frame_rate"  # what segments are made with
WORTH_A_WORKER = 20000  # segments: what one process does in the second or two that another takes to start
SHORT_S = 1.0  # sound may end this much before the pictures and is silent then; by more, it is of something else


# ---- sound ----------------------------------------------------------------------------------------------------------

def read_sound(path, rate, start_s=None):
    """Yields blocks (n,) int16 of a file's sound, mono at `rate` Hz, in order and without gaps.

    start_s: time stamp of the file at which they begin, silent where the sound begins later; None: its first sample.
    Raises UserError if there is no sound or it cannot be read.
    """
    if start_s is None and is_plain(path):
        try:
            yield from _plain_sound(path, rate)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path} cannot be read to its end ({error}): replace it") from None
        return
    with open_media(path) as container:
        if not container.streams.audio:
            raise UserError(f"{path} has no sound track: put the sound of this recording into audio/ as {path.stem}.wav")
        done = 0
        for frame in _resampled(container, rate):
            block = frame.to_ndarray()[0]
            if frame.time is None:
                raise UserError(f"{path} is damaged: its sound has no time stamp {done / rate:.1f} s after it begins")
            start_s = frame.time if start_s is None else start_s
            ahead = round((frame.time - start_s) * rate) - done
            if not done or abs(ahead) > JUMP_S * rate:
                block = np.concatenate([np.zeros(ahead, np.int16), block]) if ahead > 0 else block[-ahead:]
            done += len(block)
            yield block
    if not done:
        raise UserError(f"{path} holds no sound: its track is empty")


def is_plain(path):
    """Whether a file is a whole WAV of 16 bits, mono or stereo: what does not need FFmpeg to be read."""
    try:
        about = soundfile.info(path)
    except soundfile.LibsndfileError:
        return False
    around = os.path.getsize(path) - 2 * about.frames * about.channels  # much: a header that is wrong about the length, say
    return about.format == "WAV" and about.subtype == "PCM_16" and about.channels <= 2 and about.frames > 0 and around < 2**16


def _plain_sound(path, rate):
    """The same as FFmpeg makes of it, bit for bit, in half the time and less: in fewer and larger pieces."""
    with soundfile.SoundFile(path) as file:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        same = (file.samplerate, file.channels) == (rate, 1)
        while len(samples := file.read(PIECE, dtype="int16", always_2d=True)):
            if same:
                yield samples[:, 0]
            else:
                frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "s16", "mono" if file.channels == 1 else "stereo")
                frame.sample_rate = file.samplerate
                yield from (made.to_ndarray()[0] for made in resampler.resample(frame))
        yield from (made.to_ndarray()[0] for made in resampler.resample(None) if not same)


def _resampled(container, rate):
    resampler, made_for = None, None
    for frame in container.decode(audio=0):
        form = frame.format.name, frame.layout.name, frame.sample_rate
        if form != made_for:  # broadcasts change from stereo to mono on their way
            yield from (resampler.resample(None) if resampler else [])
            resampler, made_for = av.AudioResampler(format="s16", layout="mono", rate=rate), form
        yield from resampler.resample(frame)
    yield from (resampler.resample(None) if resampler else [])


def counted(blocks, samples):
    """Passes blocks on and adds their lengths up in samples[0]."""
    for block in blocks:
        samples[0] += len(block)
        yield block


def windows(blocks, frames, step, length, lead, allowed):
    """Yields the window (length,) int16 of every frame k: from sample round(k * step) - lead on, silent past the ends.

    blocks: what read_sound yields; step: samples per frame. Holds no more than a window and a block at a time.
    Raises EOFError where a frame lies more than `allowed` samples after the end of the sound.
    """
    held, first, last = np.zeros(lead, np.int16), -lead, None  # `held` starts at sample `first`, the sound ends at `last`
    for k in range(frames):
        start = round(k * step) - lead
        while (end := first + len(held)) < start + length:
            block = next(blocks, None)
            if block is None:
                last = end if last is None else last
                block = np.zeros(start + length - end, np.int16)
            held = np.concatenate([held, block])
        if last is not None and start + lead > last + allowed:
            raise EOFError(f"the sound ends at frame {last / step:.0f} of {frames}: sound as long as the pictures was expected")
        passed = min(start - first, len(held))
        held, first = held[passed:], first + passed
        yield held[:length]


# ---- recordings -----------------------------------------------------------------------------------------------------

def frames_of(name, path, cfg):
    """Number of segments that a recording needs: as many as it has crops, pictures or ratings, else as its sound lasts."""
    frames, source = known_frames(name, cfg.frame_rate, cfg.crops_dir, cfg.videos_dir, cfg.annotations_dir)
    if frames is None:
        samples = sum(len(block) for block in read_sound(path, cfg.audio_rate))
        frames, source = round(samples / cfg.audio_rate * cfg.frame_rate), path
    if frames < 1:
        raise UserError(f"{source} holds no frames: replace it")
    return frames


def wav_header(samples, rate):
    """The bytes of a segment's file before its samples: RIFF, mono, 16 bit."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(samples, np.int16), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()[:-2 * samples]


def extract(path, frames, folder, cfg, report):
    """Writes the segments of a recording; `folder` appears when all of them are there. Returns seconds of sound left over."""
    rate, length, step = cfg.audio_rate, round(cfg.segment_s * cfg.audio_rate), cfg.audio_rate / cfg.frame_rate
    lead = length // 2 if cfg.segment_at == "centred" else length
    start_s = picture_clock(path).start_s if path.parent == cfg.videos_dir else None
    header, state = wav_header(length, rate), path.stat()
    settings = {name: getattr(cfg, name) for name in SETTINGS.split()}
    with growing_folder(folder, [str(path), state.st_size, state.st_mtime_ns, frames, settings]) as part:
        # A file grows as it is written: one of the right size, in the half of the same work, is whole.
        whole = {file.name for file in os.scandir(part) if file.stat().st_size == len(header) + 2 * length}
        samples = [0]
        blocks = counted(read_sound(path, rate, start_s), samples)
        try:
            for k, segment in enumerate(windows(blocks, frames, step, length, lead, SHORT_S * rate)):
                if (name := f"{k:06d}.wav") not in whole:
                    write_bytes(f"{part}/{name}", header, np.asarray(segment, "<i2"))
                report(1)
        except EOFError as error:
            raise UserError(f"{path}: {error}") from None
        for _ in blocks:  # to the end: damage there is said, too
            pass
        return max(0, samples[0] - (round((frames - 1) * step) - lead + length)) / rate


def make(name, report, sounds, cfg):
    """Segments of one recording, unless they are there: a line on it; (segments, whether they were there)."""
    frames, folder = frames_of(name, sounds[name], cfg), cfg.segments_dir / name
    done, left_over_s = folder.exists(), 0
    if not done:
        left_over_s = extract(sounds[name], frames, folder, cfg, report)
    elif (there := len(list(folder.glob("*.wav")))) != frames:
        raise UserError(f"{folder}/ holds {there} segments, {frames} were expected: delete that folder to make it anew")
    line = f"{name}: {frames} segments from {sounds[name]}" + (f" (done before{if_newer(sounds[name], folder)})" if done else "")
    line += f"; {left_over_s:.1f} s of sound after the last of them are left out" * (left_over_s > SHORT_S)
    return line, (frames, done)


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    sounds = find_recordings([cfg.audio_dir, cfg.videos_dir], cfg.recordings, "put the sound into audio/, or videos with sound into videos/")
    keep_settings(cfg.segments_dir, cfg, SETTINGS)
    shard = shard_of(sounds, cfg.shard)
    if not shard:
        print(f"shard {cfg.shard} holds none of the {len(sounds)} recordings: nothing to do")
        return {}
    todo = [name for name in shard if not (cfg.segments_dir / name).exists()]
    sizes = {name: about_frames(shard[name], cfg.frame_rate) for name in todo}
    results = for_each(shard, partial(make, sounds=shard, cfg=cfg), sizes, cfg.workers, "segments", WORTH_A_WORKER)
    made = sum(not done for _, done in results.values())
    print(f"{cfg.segments_dir}: {sum(frames for frames, _ in results.values())} segments of {len(results)} recordings"
          + ("" if made else "; nothing to do, all were done before"))
    return {name: frames for name, (frames, _) in results.items()}


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
