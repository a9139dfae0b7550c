"""Reading sound: any file becomes mono blocks at the given rate, in order and in time."""
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from support import sound
from support.errors import UserError
from support.sound import read_sound

RATE = 16000


def noise(seconds, rate=RATE, channels=None):
    shape = round(seconds * rate) if channels is None else (round(seconds * rate), channels)
    return (np.random.default_rng(0).uniform(-0.5, 0.5, shape) * 32767).astype(np.int16)


def read(path, start_s=None):
    return np.concatenate(list(read_sound(path, RATE, start_s)))


def test_stereo_at_44100_becomes_its_mean_at_the_given_rate(tmp_path):
    t = np.arange(44100) / 44100
    stereo = np.stack([0.4 * np.sin(2 * np.pi * 440 * t), 0.2 * np.sin(2 * np.pi * 1500 * t)], 1)
    soundfile.write(tmp_path / "a.wav", stereo, 44100, subtype="FLOAT")
    made = read(tmp_path / "a.wav") / 32768
    reference = resample_poly(stereo.mean(1), 160, 441)
    assert len(made) == RATE
    np.testing.assert_allclose(made[200:-200], reference[200:-200], atol=2e-3)


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_a_click_stays_where_it_is(rate, tmp_path):
    sound = np.zeros(rate)
    sound[rate // 2] = 0.9
    soundfile.write(tmp_path / "a.flac", sound, rate)
    made = read(tmp_path / "a.flac")
    assert abs(np.abs(made.astype(int)).argmax() - RATE // 2) <= 1


@pytest.mark.parametrize("rate,channels", [(16000, 1), (16000, 2), (44100, 1), (44100, 2), (8000, 1)])
def test_a_plain_wav_becomes_what_ffmpeg_makes_of_it(rate, channels, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(2.7, rate, channels), rate, subtype="PCM_16")
    assert sound.is_plain(tmp_path / "a.wav")
    made = read(tmp_path / "a.wav")
    monkeypatch.setattr(sound, "is_plain", lambda path: False)
    np.testing.assert_array_equal(made, read(tmp_path / "a.wav"))


def test_other_wavs_are_not_plain(tmp_path):
    for subtype, channels in (("PCM_24", 1), ("FLOAT", 1), ("ULAW", 1), ("PCM_16", 4)):
        soundfile.write(tmp_path / "a.wav", noise(0.5, channels=channels), RATE, subtype=subtype)
        assert not sound.is_plain(tmp_path / "a.wav")
        assert sum(map(len, read_sound(tmp_path / "a.wav", RATE))) == RATE // 2


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 99_999_999])
def test_a_wav_with_a_wrong_length_in_its_header_is_read_to_its_end(length, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(4), RATE, subtype="PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[40:44] = length.to_bytes(4, "little")  # as programs that write to a pipe leave it
    (tmp_path / "a.wav").write_bytes(data)
    made = read(tmp_path / "a.wav")
    np.testing.assert_array_equal(made, noise(4))


def encode(path, pieces, codec, container_format, rate=RATE):
    """A sound file of (start in seconds, (channels, n) float32 samples) pieces, each with its own time stamps."""
    with av.open(str(path), "w", format=container_format) as container:
        track = container.add_stream(codec, rate=rate, layout="mono" if len(pieces[0][1]) == 1 else "stereo")
        for start_s, samples in pieces:
            if codec == "pcm_s16le":
                samples = (np.ascontiguousarray(samples.T).reshape(1, -1) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format=track.format.name, layout=track.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = rate, round(start_s * rate), Fraction(1, rate)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))


def test_a_gap_in_the_time_stamps_is_silence(tmp_path):
    tone = np.full((1, RATE // 2), 0.5, np.float32)
    encode(tmp_path / "a.mka", [(0, tone), (1.5, tone)], "pcm_s16le", "matroska")
    made = read(tmp_path / "a.mka")
    assert len(made) == 2 * RATE
    assert (made[:8000] != 0).all() and (made[8000:24000] == 0).all() and (made[24000:] != 0).all()


@pytest.mark.parametrize("start_s,silent,length", [(None, 0, 1), (0.25, 0.25, 1.25), (0.5, 0, 1), (0.75, 0, 0.75)])
def test_sound_begins_where_the_frames_do(start_s, silent, length, tmp_path):
    encode(tmp_path / "a.mka", [(0.5, np.full((1, RATE), 0.5, np.float32))], "pcm_s16le", "matroska")
    made = read(tmp_path / "a.mka", start_s)
    assert len(made) == length * RATE
    assert (made[:int(silent * RATE)] == 0).all() and (made[int(silent * RATE):] != 0).all()


def test_sound_that_changes_from_stereo_to_mono_is_read_to_its_end(tmp_path):
    for file, channels in (("stereo.aac", 2), ("mono.aac", 1)):
        encode(tmp_path / file, [(0, 0.3 * np.ones((channels, 1024), np.float32))] * 16, "aac", "adts")
    (tmp_path / "both.aac").write_bytes((tmp_path / "stereo.aac").read_bytes() + (tmp_path / "mono.aac").read_bytes())
    stereo, mono, both = (len(read(tmp_path / file)) for file in ("stereo.aac", "mono.aac", "both.aac"))
    assert abs(both - stereo - mono) <= 2048


def test_memory_does_not_grow_with_the_file(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(300 * RATE, np.int16), RATE, subtype="PCM_16")
    tracemalloc.start()
    assert sum(len(block) for block in read_sound(tmp_path / "long.wav", RATE)) == 300 * RATE
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size < 1_000_000  # 9,600,000 bytes are in it


def test_read_sound_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="gone.wav"):
        list(read_sound(tmp_path / "gone.wav", RATE))
