"""Files whose headers promise more than a computer can hold: refused by limits, with a sentence, in little memory."""
import struct
import zlib
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from videos import bars, write_pictures

from audio_extract import wav_header
from audio_melspec import read_segment
from support import decoding, opencv
from support.arrays import mapped_array
from support.errors import UserError
from support.media import LONGEST_S, picture_clock, read_frames
from support.opencv import read_picture
from support.sound import read_sound

resource = pytest.importorskip("resource")
ROOM = 2**31  # bytes beyond what the process has: with the limits, none of the tests needs a hundredth


@pytest.fixture(autouse=True)
def little_memory():
    """An allocation of gigabytes fails, instead of being granted and never used."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


# ---- pictures and arrays --------------------------------------------------------------------------------------------

def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
            + chunk(b"IEND", b""))


def jpeg(width, height):
    whole = bytearray(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    at = whole.index(b"\xff\xc0")
    whole[at + 5:at + 9] = struct.pack(">2H", height, width)
    return bytes(whole)


@pytest.mark.parametrize("make, name", [(png, "a.png"), (jpeg, "a.jpg")])
@pytest.mark.parametrize("size", [(60000, 60000), (30000, 30000), (1, 65000000), (4097, 4097)])
def test_a_picture_of_absurd_size_is_refused(make, name, size, tmp_path):
    if make is jpeg and max(size) > 65535:
        return
    (tmp_path / name).write_bytes(make(*size))
    with pytest.raises(UserError, match=f"{name}.*(pixels|not a readable image)"):
        read_picture(tmp_path / name, cv2.IMREAD_COLOR, "delete it")


def test_the_largest_picture_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(opencv, "PIXELS", 64 * 64)
    (tmp_path / "a.jpg").write_bytes(jpeg(64, 64))
    assert read_picture(tmp_path / "a.jpg", cv2.IMREAD_COLOR, "").shape == (64, 64, 3)


@pytest.mark.parametrize("shape", [(-1, 3), (10**9, 10**9, 10**9), (10**30,), (10**12, 1, 64, 101), (0, 2**70),
                                   (True, 3)])
def test_an_array_of_absurd_size_is_refused(shape, tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.write(bytes(100))
    with pytest.raises(UserError, match="a.npy is damaged.*: delete it"):
        mapped_array(tmp_path / "a.npy", "delete it")


@pytest.mark.parametrize("held", [b"", b"\x93NUMPY\x01\0\xff\xff{", b"\x93NUMPY\x02\0\xff\xff\xff\x7f{", b"PK\x03\x04",
                                  b"\x93NUMPY\x01\0\x10\0" + b"(" * 16, b"cos\nsystem\n(S'true'\ntR."])
def test_what_is_no_array_is_refused(held, tmp_path):
    (tmp_path / "a.npy").write_bytes(held)
    with pytest.raises(UserError, match="a.npy is damaged"):
        mapped_array(tmp_path / "a.npy", "delete it")


def test_an_array_of_python_objects_is_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print, {}], object), allow_pickle=True)
    with pytest.raises(UserError, match="a.npy is damaged"):
        mapped_array(tmp_path / "a.npy", "delete it")


# ---- sound ----------------------------------------------------------------------------------------------------------

def wav(rate=16000, channels=1, samples=1000, stated=None):
    data = bytes(2 * samples * channels)
    stated = len(data) if stated is None else stated
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, min(2 * rate * channels, 2**32 - 1), 2 * channels % 2**16, 16)
    return b"RIFF" + struct.pack("<I", min(36 + stated, 2**32 - 1)) + b"WAVEfmt " + form + b"data" + struct.pack(
        "<I", stated) + data


@pytest.mark.parametrize("changes", [{"rate": 1}, {"rate": 999}, {"rate": 2**31 - 1}, {"rate": 0}, {"channels": 0},
                                     {"channels": 65535, "samples": 3}])
def test_sound_of_absurd_rate_or_channels_is_refused(changes, tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(**changes))
    with pytest.raises(UserError, match="a.wav"):
        list(read_sound(tmp_path / "a.wav", 16000))


def test_sound_that_is_said_to_last_for_days_is_as_long_as_it_is(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(stated=2**32 - 1))
    assert sum(map(len, read_sound(tmp_path / "a.wav", 16000))) == 1000


def test_a_segment_that_is_said_to_be_long_is_not_read_into_memory(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(stated=2**32 - 1, samples=400))
    with pytest.raises(UserError, match="a.wav is not a whole segment"):
        read_segment(str(tmp_path / "a.wav"), 16000, 300, wav_header(300, 16000))


# ---- video ----------------------------------------------------------------------------------------------------------

def restamped(video, out, stamps):
    """The packets of a video at other times, in milliseconds."""
    with av.open(video) as source, av.open(out, "w") as to:
        stream = to.add_stream_from_template(source.streams.video[0])
        for packet, stamp in zip([one for one in source.demux(video=0) if one.pts is not None], stamps):
            packet.pts = packet.dts = stamp
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            to.mux(packet)
    return out


def test_a_video_of_absurd_length_is_refused(tmp_path):
    video = write_pictures(tmp_path / "a.mkv", [bars(k) for k in range(3)], codec="mjpeg")
    long = restamped(video, tmp_path / "b.mkv", [0, 40, 1000 * LONGEST_S + 1000])
    with pytest.raises(UserError, match="b.mkv is damaged: by its time stamps it would be 1.3e.05 s long"):
        picture_clock(long)


@pytest.mark.parametrize("size", [(30000, 30000), (9000, 9000)])
def test_a_video_of_absurd_size_is_refused(size, tmp_path):
    video = write_pictures(tmp_path / "a.mkv", [bars(k) for k in range(3)], codec="mjpeg")
    held = bytearray(video.read_bytes())
    at = -1
    while (at := held.find(b"\xff\xc0\x00\x11\x08", at + 1)) > 0:
        held[at + 5:at + 9] = struct.pack(">2H", *size)
    video.write_bytes(held)
    with pytest.raises(UserError, match="a.mkv"):
        list(read_frames(video, 25))


def test_a_video_larger_than_the_limit_says_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "PIXELS", 160 * 96 - 1)
    video = write_pictures(tmp_path / "a.mp4", [bars(k) for k in range(3)])
    with pytest.raises(UserError, match="a.mp4: its pictures would be 160 x 96 pixels, at most 15,359"):
        list(read_frames(video, 25))
