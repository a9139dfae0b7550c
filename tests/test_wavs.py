"""Headers of sound files that do not fit what follows: all of the sound is read, or it is said what is not."""
import struct

import numpy as np
import pytest
import soundfile

from support.errors import UserError
from support.sound import read_sound
from support.wavs import BLOCK, joined, wav_data

RATE = 16000
SOUND = (np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE) * 32767).astype(np.int16)


def read_and_told(path):
    remarks = []
    return np.concatenate(list(read_sound(path, RATE, remarks=remarks))), "; ".join(remarks)


def wav(path, *after, stated=None):
    """A WAV whose header states that many bytes, and what follows its samples."""
    soundfile.write(path, SOUND, RATE, subtype="PCM_16")
    whole = bytearray(path.read_bytes())
    if stated is not None:
        whole[40:44] = struct.pack("<I", stated)
    path.write_bytes(bytes(whole) + b"".join(after))
    return path


@pytest.mark.parametrize("stated", [2, RATE // 8, RATE, 4 * RATE - 100])
def test_a_length_that_a_recorder_did_not_correct_is_read_over_and_said(stated, tmp_path):
    made, told = read_and_told(wav(tmp_path / "a.wav", stated=stated))
    np.testing.assert_array_equal(made, SOUND)
    assert f"states {stated / RATE / 2:.1f} s, it holds 2.0 s: read to its end" in told


@pytest.mark.parametrize("after", [b"LIST\4\0\0\0INFO", bytes(3 * BLOCK), b"id3 \3\0\0\0abc", b"tail"])
def test_tags_and_zeros_after_the_sound_are_not_heard(after, tmp_path):
    made, told = read_and_told(wav(tmp_path / "a.wav", after))
    np.testing.assert_array_equal(made, SOUND)
    assert not told


def test_a_wav_whose_end_is_missing_says_so(tmp_path):
    path = wav(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:44 + 3 * RATE])
    made, told = read_and_told(path)
    np.testing.assert_array_equal(made, SOUND[:3 * RATE // 2])
    assert told == "it is cut short: it holds 1.5 of the stated 2.0 s"


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "CAF", "W64"])
def test_sounds_joined_byte_by_byte_are_refused_and_one_alone_is_not(kind, tmp_path):
    """Of these, readers stop at the end of the first one without a word."""
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, SOUND, RATE, subtype="PCM_16", format=kind)
    assert not joined(path) and len(read_and_told(path)[0]) == len(SOUND)
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(UserError, match="joined byte by byte"):
        list(read_sound(path, RATE))


def test_a_second_head_is_found_wherever_it_lies_among_the_blocks_read(tmp_path):
    path = tmp_path / "a.amr"
    for place in range(BLOCK - 3, BLOCK + 30):
        path.write_bytes(b"#!AMR\n".ljust(place, b"x") + b"#!AMR\n")
        assert joined(path)


def test_24_bits_in_32_are_heard_as_they_were_recorded(tmp_path):
    """FFmpeg takes them for floats, so that they become noise."""
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 4 * RATE, 4, 32, 22, 24, 4)
    form += bytes.fromhex("0100000000001000800000aa00389b71")
    data = (SOUND.astype("<i4") << 16).tobytes()
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    made, told = read_and_told(tmp_path / "a.wav")
    assert np.abs(made.astype(int) - SOUND).max() <= 1 and not told


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEfmt ", b"ID3" * 30,
                                     b"RIFF\0\0\0\0WAVEdata\xff\xff\xff\xff", b"RIFF\0\0\0\0WAVEfmt \1\0\0\0"])
def test_what_is_no_wav_is_no_error_here(content, tmp_path):
    (tmp_path / "a.wav").write_bytes(content)
    assert wav_data(tmp_path / "a.wav") is None and not joined(tmp_path / "a.wav")
