"""Step 2: raw sound -> one audio segment per frame.

Reads   audio/<id>.*    or, where there is none, the sound track of videos/<id>.*
Writes  audio_segments/<id>/000000.wav ...      mono, 16 bit: the sound around frame k or, causal, up to it

    python audio_extract.py --data-dir data
"""
import io
import os
from functools import partial

import numpy as np
import soundfile

from support.errors import UserError, run_script
from support.files import growing_folder, write_bytes
from support.media import about_frames, picture_clock, read_sound
from support.recordings import find_recordings, if_newer, keep_settings, known_frames, shard_of
from support.settings import parse_config
from support.workers import for_each

SETTINGS = "audio_rate segment_s segment_at frame_rate"  # what segments are made with
WORTH_A_WORKER = 20000  # segments: what one process does in the second or two that another takes to start
SHORT_S = 1.0  # sound may end this much before the pictures and is silent then; by more, it is of something else


# ---- sound ----------------------------------------------------------------------------------------------------------


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
