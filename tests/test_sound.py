"""Reading sound: any file becomes mono blocks at the given rate, in order and in time."""
import itertools
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


def read(path, start_s=None, **how):
    return np.concatenate(list(read_sound(path, RATE, start_s, **how)))


def read_and_told(path, start_s=None, channel=0):
    """The sound, and what is said of it as one text."""
    remarks = []
    return read(path, start_s, channel=channel, remarks=remarks), "; ".join(remarks)


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


def encode(path, pieces, codec, container_format, rate=RATE, damaged=()):
    """A sound file of (start in seconds, (channels, n) float32 samples) pieces, each with its own time stamps.

    damaged: numbers of packets that are to be unreadable.
    """
    numbers = itertools.count()
    with av.open(str(path), "w", format=container_format) as container:
        track = container.add_stream(codec, rate=rate, layout="mono" if len(pieces[0][1]) == 1 else "stereo")
        for start_s, samples in pieces:
            if codec == "pcm_s16le":
                samples = (np.ascontiguousarray(samples.T).reshape(1, -1) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format=track.format.name, layout=track.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = rate, round(start_s * rate), Fraction(1, rate)
            container.mux(spoilt(packet, next(numbers) in damaged) for packet in track.encode(frame))
        container.mux(spoilt(packet, next(numbers) in damaged) for packet in track.encode(None))


def spoilt(packet, damaged):
    """A packet, or zeros in its place."""
    if not damaged:
        return packet
    other = av.Packet(bytes(packet.size))
    other.stream, other.pts, other.dts, other.duration = packet.stream, packet.pts, packet.dts, packet.duration
    other.time_base = packet.time_base
    return other


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


@pytest.mark.parametrize("subtype,channels", [("PCM_16", 1), ("FLOAT", 1), ("PCM_24", 4)])
def test_memory_does_not_grow_with_the_file(subtype, channels, tmp_path):
    seconds = 300 if channels == 1 else 75
    sound = np.zeros((seconds * RATE, channels), np.int16)
    soundfile.write(tmp_path / "long.wav", sound, RATE, subtype=subtype)
    tracemalloc.start()
    assert sum(len(block) for block in read_sound(tmp_path / "long.wav", RATE)) == seconds * RATE
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size < 1_000_000  # 9,600,000 bytes or more are in it


def test_read_sound_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="gone.wav"):
        list(read_sound(tmp_path / "gone.wav", RATE))


# ---- packets that cannot be read ------------------------------------------------------------------------------------

def test_packets_that_cannot_be_read_are_silent_and_counted_and_the_rest_is_in_time(tmp_path):
    sound = [(0, 0.3 * np.sin(np.arange(4 * RATE, dtype=np.float32) * 0.2)[None])]
    encode(tmp_path / "whole.mkv", sound, "aac", "matroska")
    encode(tmp_path / "bad.mkv", sound, "aac", "matroska", damaged=(20, 30, 31))
    whole, (bad, told) = read(tmp_path / "whole.mkv"), read_and_told(tmp_path / "bad.mkv")
    assert len(bad) == len(whole) and "3 packets" in told and "0.19 s" in told
    equal = (bad == whole).reshape(-1, 1024).all(1)
    assert 3 <= (~equal).sum() <= 8  # of 64; the packet after a bad one is decoded without its overlap
    silent = (np.abs(bad.reshape(-1, 1024)).max(1) == 0).sum()
    assert silent - (np.abs(whole.reshape(-1, 1024)).max(1) == 0).sum() == 3


def test_a_sound_of_which_most_cannot_be_read_is_an_error(tmp_path):
    encode(tmp_path / "bad.mkv", [(0, 0.3 * np.ones((1, 4 * RATE), np.float32))], "aac", "matroska",
           damaged=range(10, 50))
    with pytest.raises(UserError, match="bad.mkv is damaged: 2.6 s of its sound"):
        read(tmp_path / "bad.mkv")


def test_damaged_flac_is_silent_there_not_noise(tmp_path):
    sound = (noise(4) * 0.2).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", sound, RATE)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[len(data) // 2:len(data) // 2 + 500] = np.random.default_rng(1).bytes(500)
    (tmp_path / "a.flac").write_bytes(data)
    made, told = read_and_told(tmp_path / "a.flac")
    assert len(made) == 4 * RATE and "silent there" in told
    other = np.flatnonzero(made != sound)
    assert 1000 < len(other) < RATE and not made[other].any()


@pytest.mark.parametrize("tail", [bytes(40_000), b"TAG" + b"x" * 125, b"\xff" * 9000], ids=["zeros", "tag", "ones"])
def test_what_follows_the_last_packet_and_is_no_sound_is_ignored(tail, tmp_path):
    soundfile.write(tmp_path / "a.mp3", noise(2), RATE)
    whole = read(tmp_path / "a.mp3")
    with open(tmp_path / "a.mp3", "ab") as file:
        file.write(tail)
    made, told = read_and_told(tmp_path / "a.mp3")
    np.testing.assert_array_equal(made[:len(whole)], whole)
    assert told == "" and len(made) - len(whole) < 0.05 * RATE


def test_a_damaged_mp3_keeps_its_time(tmp_path):
    soundfile.write(tmp_path / "a.mp3", np.where(np.arange(6 * RATE) < 5 * RATE, 0.01, 0.9) * noise(6) / 32768, RATE)
    data = bytearray((tmp_path / "a.mp3").read_bytes())
    data[len(data) // 2:len(data) // 2 + 2000] = bytes(2000)
    (tmp_path / "a.mp3").write_bytes(data)
    made, told = read_and_told(tmp_path / "a.mp3")
    loud = np.flatnonzero(np.abs(made[4 * RATE:].astype(int)) > 5000)[0] + 4 * RATE
    assert abs(loud / RATE - 5) < 0.15 and "unreadable" in told  # 0.6 s are lost


# ---- when there is sound --------------------------------------------------------------------------------------------

def test_sound_that_is_late_missing_or_silent_is_said(tmp_path):
    tone = np.full((1, RATE // 2), 0.5, np.float32)
    encode(tmp_path / "a.mka", [(0.5, tone), (2.0, tone)], "pcm_s16le", "matroska")
    told = read_and_told(tmp_path / "a.mka", 0.0)[1]
    assert "begins 0.50 s late" in told and "1.0 s of its sound missing" in told
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    assert "digital silence" in read_and_told(tmp_path / "a.wav")[1]


def test_a_track_on_which_nothing_was_recorded_is_passed_over(tmp_path):
    """As of a camera without a microphone in its first input."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        tracks = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(3)]
        tracks[0].disposition = av.stream.Disposition.default
        for track, value in zip(tracks, (0, 0, 3276)):
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE), value, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(track.encode(frame) + track.encode(None))
    made, told = read_and_told(tmp_path / "a.mkv")
    assert (made == 3276).all() and "3 sound tracks: number 3 is used, as number 1 is silent" in told


@pytest.mark.parametrize("default,level", [(0, 3276), (1, 16383)])
def test_of_several_tracks_the_default_one_is_read_and_named(default, level, tmp_path):
    with av.open(str(tmp_path / "a.mka"), "w") as container:
        tracks = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for number, track in enumerate(tracks):
            track.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        for track, value in zip(tracks, (3276, 16383)):
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE), value, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(track.encode(frame))
    made, told = read_and_told(tmp_path / "a.mka")
    assert (made == level).all() and f"2 sound tracks: the default one, number {default + 1}" in told


# ---- channels -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("channels", [3, 4, 6])
def test_channels_without_a_layout_are_averaged_and_any_can_be_taken(channels, tmp_path):
    sound = np.random.default_rng(1).integers(-9000, 9000, (RATE, channels)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="PCM_16")
    made, told = read_and_told(tmp_path / "a.wav")
    np.testing.assert_allclose(made, sound.mean(1), atol=0.51)
    assert f"{channels} channels are averaged" in told
    for channel in range(1, channels + 1):
        np.testing.assert_array_equal(read(tmp_path / "a.wav", channel=channel), sound[:, channel - 1])
    with pytest.raises(UserError, match=f"has {channels} channels of sound, no channel {channels + 1}"):
        read(tmp_path / "a.wav", channel=channels + 1)


@pytest.mark.parametrize("file,subtype", [("a.wav", "PCM_16"), ("a.wav", "FLOAT"), ("a.flac", "PCM_24")])
def test_channels_that_cancel_are_told_from_others_and_one_is_used(file, subtype, tmp_path):
    one, other = noise(2) / 32768, np.random.default_rng(5).uniform(-0.5, 0.5, 2 * RATE)
    soundfile.write(tmp_path / file, np.stack([one, -0.9 * one], 1), RATE, subtype=subtype)
    made, told = read_and_told(tmp_path / file)
    np.testing.assert_allclose(made, one * 32768, atol=1)
    assert "they cancel" in told and "channel 1 alone" in told
    for healthy in ([one, other], [one, one], [one, 0 * one], [0.1 * one, -one]):
        soundfile.write(tmp_path / file, np.stack(healthy, 1), RATE, subtype=subtype)
        made, told = read_and_told(tmp_path / file)
        np.testing.assert_allclose(made, np.mean(healthy, 0) * 32768, atol=1)
        assert told == ""


def test_channels_that_cancel_later_on_are_said(tmp_path):
    one = noise(30) / 32768
    soundfile.write(tmp_path / "a.wav", np.stack([one, np.where(np.arange(len(one)) < 15 * RATE, one, -one)], 1), RATE)
    assert 13 < float(read_and_told(tmp_path / "a.wav")[1].split("cancel in ")[1].split()[0]) < 17


def test_a_microphone_where_a_layout_has_the_subwoofer_is_heard_and_it_is_said(tmp_path):
    sound = np.zeros((RATE, 6), np.int16)
    sound[:, 3] = noise(1)
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="PCM_16", format="WAVEX")
    made, told = read_and_told(tmp_path / "a.wav")
    np.testing.assert_array_equal(made, noise(1))
    assert "channel 4 alone is used" in told


# ---- levels ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("subtype,peak", [("FLOAT", 4), ("DOUBLE", 4), ("FLOAT", 32768)])
def test_floats_above_full_scale_are_scaled_and_it_is_said(subtype, peak, tmp_path):
    sound = peak * (noise(1) / np.abs(noise(1)).max())
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype=subtype)
    made, told = read_and_told(tmp_path / "a.wav")
    np.testing.assert_allclose(made, np.minimum(sound / peak * 32768, 32767), atol=1)
    assert "scaled by" in told


def test_floats_that_are_no_numbers_are_silent_and_counted_and_a_click_is_clipped(tmp_path):
    sound = noise(1) / np.float32(32768)
    spoilt = sound.copy()
    spoilt[3000:4000], spoilt[7000], spoilt[9000] = np.nan, -np.inf, 1e30
    soundfile.write(tmp_path / "a.wav", spoilt, RATE, subtype="FLOAT")
    made, told = read_and_told(tmp_path / "a.wav")
    wanted = noise(1)
    wanted[3000:4000], wanted[7000], wanted[9000] = 0, 0, 32767
    np.testing.assert_array_equal(made, wanted)
    assert f"1001 of its {RATE} samples are no numbers" in told and f"1 of its {RATE} samples are above" in told
