"""Step 2: raw sound -> one audio segment per frame.

Reads   audio/<id>.*    or, where there is none, the sound track of videos/<id>.*
Writes  audio_segments/<id>/000000.wav ...      mono, 16 bit: the sound around frame k or, causal, up to it

    python audio_extract.py --data-dir data
"""
import io

import av
import numpy as np
import soundfile
from tqdm import tqdm

from annotations import find_recordings, for_each, keep_settings, known_frames, open_media, picture_clock
from config import UserError, parse_config, run_script, whole_folder

JUMP_S = 0.05  # time stamps of sound that are off by less are rounded; by more, sound is missing or there twice
SHORT_S = 1.0  # sound may end this much before the pictures and is silent then; by more, it is of something else


# ---- sound ----------------------------------------------------------------------------------------------------------

def read_sound(path, rate, start_s=None):
    """Yields blocks (n,) int16 of a file's sound, mono at `rate` Hz, in order and without gaps.

    start_s: time stamp of the file at which they begin, silent where the sound begins later; None: its first sample.
    Raises UserError if there is no sound or it cannot be read.
    """
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


def _resampled(container, rate):
    resampler, made_for = None, None
    for frame in container.decode(audio=0):
        form = frame.format.name, frame.layout.name, frame.sample_rate
        if form != made_for:  # broadcasts change from stereo to mono on their way
            yield from (resampler.resample(None) if resampler else [])
            resampler, made_for = av.AudioResampler(format="s16", layout="mono", rate=rate), form
        yield from resampler.resample(frame)
    yield from (resampler.resample(None) if resampler else [])


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


def extract(path, frames, folder, cfg):
    """Writes the segments of a recording; `folder` appears when all of them are there. Returns seconds of sound left over."""
    length = round(cfg.segment_s * cfg.audio_rate)
    lead = length // 2 if cfg.segment_at == "centred" else length
    start_s = picture_clock(path).start_s if path.parent == cfg.videos_dir else None
    blocks = read_sound(path, cfg.audio_rate, start_s)
    cut = windows(blocks, frames, cfg.audio_rate / cfg.frame_rate, length, lead, SHORT_S * cfg.audio_rate)
    try:
        with whole_folder(folder) as part:
            for k, segment in enumerate(cut):
                (part / f"{k:06d}.wav").write_bytes(_wav(segment, cfg.audio_rate))
            return sum(len(block) for block in blocks) / cfg.audio_rate
    except EOFError as error:
        raise UserError(f"{path}: {error}") from None


def _wav(segment, rate):
    file = io.BytesIO()  # in memory: soundfile would not say that a disk is full
    soundfile.write(file, segment, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    sounds = find_recordings([cfg.audio_dir, cfg.videos_dir], cfg.recordings, "put the sound into audio/, or videos with sound into videos/")
    keep_settings(cfg.segments_dir, cfg, "audio_rate segment_s segment_at frame_rate")

    def work(name):
        frames, folder = frames_of(name, sounds[name], cfg), cfg.segments_dir / name
        done, left_over_s = folder.exists(), 0
        if not done:
            left_over_s = extract(sounds[name], frames, folder, cfg)
        elif (there := len(list(folder.glob("*.wav")))) != frames:
            raise UserError(f"{folder}/ holds {there} segments, {frames} were expected: delete that folder to make it anew")
        tqdm.write(f"{name}: {frames} segments from {sounds[name]}{' (done before)' * done}"
                   + (f"; {left_over_s:.1f} s of sound after the last of them are left out" if left_over_s > SHORT_S else ""))
        return frames, done

    results = for_each(sounds, work)
    made = sum(not done for _, done in results.values())
    print(f"{cfg.segments_dir}: {sum(frames for frames, _ in results.values())} segments of {len(results)} recordings"
          + ("" if made else "; nothing to do, all were done before"))
    return {name: frames for name, (frames, _) in results.items()}


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
