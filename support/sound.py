"""Sound of video and sound files, in one pass and at exact times (PyAV)."""
import os

import av
import numpy as np
import soundfile

from support.errors import UserError
from support.media import check_codec, open_media

PIECE = 65536  # samples of a WAV read at a time
JUMP_S = 0.05  # time stamps of sound that are off by less are rounding; by more, sound is missing or repeated


def read_sound(path, rate, start_s=None):
    """Yields blocks (n,) int16 of a file's sound, mono at `rate` Hz, in order and without gaps.

    start_s: time stamp in the file at which they begin, silent where the sound begins later; None: at its first sample.
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
            raise UserError(f"{path} has no sound track: put the sound of this recording into audio/ as "
                            f"{path.stem}.wav")
        check_codec(container.streams.audio[0], path)
        done = 0
        for frame in _resampled(container, rate):
            block = frame.to_ndarray()[0]
            if frame.time is None:
                raise UserError(f"{path} is damaged: its sound has no time stamp after {done / rate:.1f} s: replace it")
            start_s = frame.time if start_s is None else start_s
            ahead = round((frame.time - start_s) * rate) - done
            if not done or abs(ahead) > JUMP_S * rate:
                block = np.concatenate([np.zeros(ahead, np.int16), block]) if ahead > 0 else block[-ahead:]
            done += len(block)
            yield block
    if not done:
        raise UserError(f"{path} holds no sound: its sound track is empty")


def is_plain(path):
    """Whether a file is a complete WAV of 16 bits, mono or stereo, which can be read without FFmpeg."""
    try:
        about = soundfile.info(path)
    except soundfile.LibsndfileError:
        return False
    header = os.path.getsize(path) - 2 * about.frames * about.channels  # bytes; many if the stated length is wrong
    form = about.format, about.subtype
    return form == ("WAV", "PCM_16") and about.channels <= 2 and about.frames > 0 and header < 2**16


def _plain_sound(path, rate):
    """The same samples as by way of FFmpeg, bit for bit, in half the time or less: it reads fewer and larger pieces."""
    with soundfile.SoundFile(path) as file:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        same = (file.samplerate, file.channels) == (rate, 1)
        while len(samples := file.read(PIECE, dtype="int16", always_2d=True)):
            if same:
                yield samples[:, 0]
            else:
                layout = "mono" if file.channels == 1 else "stereo"
                frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "s16", layout)
                frame.sample_rate = file.samplerate
                yield from (made.to_ndarray()[0] for made in resampler.resample(frame))
        yield from (made.to_ndarray()[0] for made in resampler.resample(None) if not same)


def _resampled(container, rate):
    """Yields PyAV's frames of a file's sound, mono int16 at `rate` Hz."""
    resampler, made_for = None, None
    for frame in container.decode(audio=0):
        form = frame.format.name, frame.layout.name, frame.sample_rate
        if form != made_for:  # broadcasts switch between stereo and mono
            yield from (resampler.resample(None) if resampler else [])
            resampler, made_for = av.AudioResampler(format="s16", layout="mono", rate=rate), form
        yield from resampler.resample(frame)
    yield from (resampler.resample(None) if resampler else [])
