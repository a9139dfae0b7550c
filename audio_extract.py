"""Step 2: raw sound -> one audio segment per frame.

Reads   audio/<id>.*    or, if there is none, the sound track of videos/<id>.*
        Cropped_Aligned/<id>/faces.csv, videos/<id>.*, Annotations/*/<id>.csv   the first that is there: how many frames
Writes  audio_segments/<id>/000000.wav ...      mono, 16 bit: the sound around frame k or, if causal, up to frame k
        audio_segments/<id>/checksums.sfv       of all of them, so that damage is noticed
        audio_segments/<id>.failed              why a recording has none: training leaves it out

    python audio_extract.py --data-dir data
"""
import io
import zlib
from functools import partial

import numpy as np
import soundfile

from support.checksums import listed
from support.errors import UserError, run_script
from support.failures import noted
from support.files import there, whole_folder, write_bytes
from support.media import about_frames, picture_clock
from support.recordings import find_recordings, if_newer, keep_settings, known_frames, refuse_unusable, shard_of
from support.settings import parse_config
from support.sound import read_sound
from support.workers import for_each

SETTINGS = "audio_rate segment_s segment_at frame_rate audio_channel"  # those that segments depend on
WORTH_A_WORKER = 20000  # segments: what one process makes in the second or two that another takes to start
SHORT = 0.5  # sound may be missing for this share of the frames, at the end: they are silent; of more frames: an error
SHORT_S = 1.0  # in short recordings as long as this
SAID_S = 0.2  # sound that ends earlier than the pictures by more is said to; containers are off by a packet or two


# ---- sound ----------------------------------------------------------------------------------------------------------

def counted(blocks, samples):
    """Yields the blocks as they are, and adds their lengths to samples[0]."""
    for block in blocks:
        samples[0] += len(block)
        yield block


def windows(blocks, frames, step, length, lead, allowed):
    """Yields a window (length,) int16 of every frame k, from sample round(k * step) - lead on, zero-padded at the ends.

    blocks: as read_sound yields them; step: samples per frame. Holds one window and one block in memory.
    Raises EOFError if a frame is more than `allowed` samples after the end of the sound.
    """
    held, first, last = np.zeros(lead, np.int16), -lead, None  # `held` starts at sample `first`, sound ends at `last`
    for k in range(frames):
        start = round(k * step) - lead
        while (end := first + len(held)) < start + length:
            block = next(blocks, None)
            if block is None:
                last = end if last is None else last
                block = np.zeros(start + length - end, np.int16)
            held = np.concatenate([held, block])
        if last is not None and start + lead > last + allowed:
            raise EOFError(f"the sound ends at frame {last / step:.0f} of {frames}: expected sound for at least "
                           f"{1 - SHORT:.0%} of them: is it cut short, or the sound of another recording?")
        passed = min(start - first, len(held))
        held, first = held[passed:], first + passed
        yield held[:length]


def segments(blocks, frames, cfg):
    """Yields the segment (N,) int16 of every frame, as `windows` does.

    cfg: with audio_rate, segment_s, segment_at and frame_rate.
    """
    length = round(cfg.segment_s * cfg.audio_rate)
    lead = length // 2 if cfg.segment_at == "centred" else length
    step = cfg.audio_rate / cfg.frame_rate
    return windows(blocks, frames, step, length, lead, max(SHORT_S * cfg.audio_rate, (SHORT * frames - 1) * step))


def ends_early(samples, frames, cfg):
    """[what to say of sound that many samples long, of so many frames]; [] if it is there to the end."""
    missing_s = frames / cfg.frame_rate - samples / cfg.audio_rate
    return [f"its sound ends {missing_s:.1f} s before the last frame does: silent there"] * (missing_s > SAID_S)


# ---- recordings -----------------------------------------------------------------------------------------------------

def frames_of(name, path, cfg):
    """Number of segments of a recording: one per crop, video frame or rating; if it has none, the sound's length."""
    frames, source = known_frames(name, cfg.frame_rate, cfg.crops_dir, cfg.videos_dir, cfg.annotations_dir)
    if frames is None:
        samples = sum(len(block) for block in read_sound(path, cfg.audio_rate, None, cfg.audio_channel))
        frames, source = round(samples / cfg.audio_rate * cfg.frame_rate), path
    if frames < 1:
        raise UserError(f"{source} has no frames: replace it")
    return frames


def wav_header(samples, rate):
    """What a segment's file begins with, before its samples: RIFF, mono, 16 bit."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(samples, np.int16), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()[:-2 * samples]


def extract(path, frames, folder, cfg, report):
    """Writes the segments of a recording, all of them or none. Returns what is to be said of its sound: [str, ...]."""
    rate, length = cfg.audio_rate, round(cfg.segment_s * cfg.audio_rate)
    start_s = picture_clock(path).start_s if path.parent == cfg.videos_dir else None
    header, samples, remarks = wav_header(length, rate), [0], []
    with whole_folder(folder) as part, listed(part) as note:
        blocks = counted(read_sound(path, rate, start_s, cfg.audio_channel, remarks), samples)
        try:
            for k, segment in enumerate(segments(blocks, frames, cfg)):
                segment = np.ascontiguousarray(segment, "<i2")
                write_bytes(f"{part}/{k:06d}.wav", header, segment)
                note(f"{k:06d}.wav", zlib.crc32(segment, zlib.crc32(header)))
                report(1)
        except EOFError as error:
            raise UserError(f"{path}: {error}") from None
        for _ in blocks:  # to the end, so that damage there is an error, too
            pass
    after = length - length // 2 if cfg.segment_at == "centred" else 0  # of a segment's samples, those after its frame
    left_over_s = (samples[0] - round((frames - 1) * rate / cfg.frame_rate) - after) / rate
    left = [f"{left_over_s:.1f} s of sound after the last segment are left out"] * (left_over_s > SHORT_S)
    return remarks + ends_early(samples[0], frames, cfg) + left


def make(name, report, sounds, cfg):
    """Makes the segments of a recording, unless they exist: (line to print, (segments, whether they existed))."""
    refuse_unusable(sounds[name])
    frames, folder = frames_of(name, sounds[name], cfg), cfg.segments_dir / name
    line = f"{name}: {frames} segments from {sounds[name]}"
    if not there(folder):
        remarks = extract(sounds[name], frames, folder, cfg, report)
        return "; ".join([line, *remarks]), (frames, False)
    if (count := len(list(folder.glob("*.wav")))) != frames:
        raise UserError(f"{folder}/ holds {count} segments, {frames} were expected: delete that folder and run this "
                        "again")
    return f"{line} (done before{if_newer(sounds[name], folder)})", (frames, True)


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    sounds = find_recordings([cfg.audio_dir, cfg.videos_dir], cfg.recordings,
                             "put the sound into audio/, or videos with sound into videos/", cfg.annotations_dir)
    keep_settings(cfg.segments_dir, cfg, SETTINGS)
    shard = shard_of(sounds, cfg.shard)
    if not shard:
        print(f"shard {cfg.shard} has none of the {len(sounds)} recordings: nothing to do")
        return {}
    todo = [name for name in shard if not there(cfg.segments_dir / name)]
    sizes = {name: about_frames(shard[name], cfg.frame_rate) for name in todo}
    work = partial(noted, work=partial(make, sounds=shard, cfg=cfg), folder=cfg.segments_dir)
    results = for_each(shard, work, sizes, cfg.workers, "segments", WORTH_A_WORKER)
    made = sum(not done for _, done in results.values())
    print(f"{cfg.segments_dir}: {sum(frames for frames, _ in results.values())} segments of {len(results)} recordings"
          + ("" if made else "; nothing to do, all were done before"))
    return {name: frames for name, (frames, _) in results.items()}


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
