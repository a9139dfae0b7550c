"""support/decoding.py: what is left of a video with damaged packets, combs or HDR, through read_frames."""
from fractions import Fraction

import av
import numpy as np
import pytest
from videos import bars, number_of, write_pictures

from drawn.people import Recording, write_video
from support.media import Picture, open_media, read_frames
from support.sound import read_sound


def read(video):
    """(number of each frame's picture, what is said about the video)."""
    said = []
    numbers = [number_of(picture.rgb) for ks, picture in read_frames(video, 25, remark=said.append) for _ in ks]
    return numbers, said


def packets_of(video):
    """(position, size) of a video's packets."""
    with av.open(str(video)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def damaged(video, which):
    """The same video, of these packets nothing is left but zeros."""
    data, packets = bytearray(video.read_bytes()), packets_of(video)
    for at, size in [packets[n] for n in which]:
        data[at:at + size] = bytes(size)
    video.write_bytes(data)
    return video


# ---- damage ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, codec", [("mp4", "mjpeg"), ("avi", "mjpeg"), ("avi", "mpeg4")])
def test_a_damaged_packet_costs_its_picture_and_is_counted(kind, codec, tmp_path):
    lost = [3, 4, 9, 19]
    video = write_pictures(tmp_path / f"a.{kind}", [bars(n) for n in range(20)], range(20), Fraction(1, 25), codec)
    numbers, said = read(damaged(video, lost))
    assert said == ["4 of 20 pictures unreadable, the one before shown"] and len(numbers) == 20
    if codec == "mjpeg":  # with pictures that refer to others these can be wrong, too
        assert numbers == [n - {3: 1, 4: 2, 9: 1, 19: 1}.get(n, 0) for n in range(20)]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_pictures_after_a_damaged_packet_are_not_lost(codec, tmp_path):
    """Pictures that refer to others: right again from the next one on that refers to none."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        options = {"g": "10", "bf": "0", "x265-params": "keyint=10:bframes=0:log-level=none"}
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        for n in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bars(n), format="rgb24")))
        container.mux(stream.encode())
    numbers, said = read(damaged(tmp_path / "a.mp4", [13]))
    assert numbers[:14] == [*range(13), 12] and numbers[20:] == list(range(20, 40))
    assert said[0] == "1 of 40 pictures unreadable, the one before shown"


def test_a_picture_that_is_decoded_in_part_is_shown_and_counted(tmp_path):
    video = write_pictures(tmp_path / "a.avi", [bars(n) for n in range(20)], range(20), Fraction(1, 25), "mpeg4")
    at, size = packets_of(video)[10]
    data = bytearray(video.read_bytes())
    data[at + size // 2:at + size] = bytes(size - size // 2)
    video.write_bytes(data)
    assert read(video)[1] == ["1 of 20 pictures damaged, shown as far as they can be decoded"]


def test_the_scripts_say_what_is_wrong_with_a_recording_and_use_the_rest(tmp_path, call):
    pictures = list(Recording.draw((3, 1), 12).frames())
    video = tmp_path / "videos" / "train_1.avi"
    damaged(write_pictures(video, pictures, range(12), Fraction(1, 25), "mjpeg"), [4, 5])
    code, out, _ = call("face_detector", "--data-dir", tmp_path)
    line, = [line for line in out.splitlines() if line.startswith("train_1:")]
    assert code == 0 and line.startswith("train_1: 12 frames") and line.endswith(
        "(2 of 12 pictures unreadable, the one before shown)")
    crops = [path.read_bytes() for path in sorted((tmp_path / "Cropped_Aligned" / "train_1").glob("0*.jpg"))]
    assert len(crops) == 12 and crops[3] == crops[4] == crops[5] != crops[6]


def test_titles_in_another_encoding_do_not_stop_a_video(tmp_path):
    video = write_pictures(tmp_path / "a.avi", [bars(n) for n in range(5)], range(5), Fraction(1, 25), "mjpeg")
    data = video.read_bytes()
    at = data.index(b"Lavf")
    video.write_bytes(data[:at] + "Müll".encode("latin-1") + data[at + 4:])
    assert read(video) == (list(range(5)), [])


# ---- what MPEG-4 Part 2 does in an .avi -----------------------------------------------------------------------------

def vops(pictures, b_frames):
    """Packets of MPEG-4 Part 2, and the types of their pictures: I, P or B."""
    codec = av.CodecContext.create("mpeg4", "w")
    codec.width, codec.height, codec.pix_fmt, codec.framerate, codec.time_base = 160, 96, "yuv420p", 25, Fraction(1, 25)
    codec.options, codec.max_b_frames = {"b_strategy": "0"}, b_frames
    frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures]
    for n, frame in enumerate(frames):
        frame.pts, frame.time_base = n, Fraction(1, 25)
    packets = [bytes(packet) for frame in [*frames, None] for packet in codec.encode(frame)]
    return packets, ["IPB"[packet[packet.rindex(b"\0\0\1\xb6") + 4] >> 6] for packet in packets]


def not_coded(number):
    """A packet that says that picture `number` is the same as before."""
    return b"\0\0\1\xb6" + int(f"0101{number % 25:05b}1001111", 2).to_bytes(2, "big")


def write_packets(path, packets):
    """A video of MPEG-4 Part 2, whose times are those at which packets are to be decoded."""
    like = write_pictures(path.with_name("like.avi"), [bars(0)] * 3, range(3), Fraction(1, 25), "mpeg4")
    with av.open(str(like)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for n, content in enumerate(packets):
            packet = av.Packet(content)
            packet.pts, packet.dts, packet.time_base, packet.stream = n, n, Fraction(1, 25), stream
            packet.is_keyframe = n == 0
            out.mux(packet)
    return path


@pytest.mark.parametrize("kind", ["avi", "mkv", "mp4"])
def test_packed_pictures_come_in_order(kind, tmp_path):
    """A picture that refers to a later one is in one packet with that; a packet follows that holds none."""
    packets, types = vops([bars(n) for n in range(20)], 1)
    begin = packets[0].index(b"\0\0\1\xb6")
    packed = [packets[0][:begin] + b"\0\0\1\xb2DivX503b1393p" + packets[0][begin:]]
    for n in range(1, 20):
        both = packets[n:n + 2] if types[n + 1:n + 2] == ["B"] else packets[n:n + 1]
        packed.append(not_coded(n) if types[n] == "B" else b"".join(both))
    assert "B" in types and read(write_packets(tmp_path / f"a.{kind}", packed)) == (list(range(20)), [])


def test_a_picture_that_an_avi_leaves_out_is_the_one_before(tmp_path):
    packets, _ = vops([bars(n) for n in range(20)], 0)
    packets.insert(7, not_coded(7))
    numbers, said = read(write_packets(tmp_path / "a.avi", packets))
    assert numbers == [*range(7), 6, *range(7, 20)] and not said


# ---- interlaced and HDR ---------------------------------------------------------------------------------------------

def combs(picture):
    """How much lines differ from both neighbours, in the mean."""
    grey = picture.rgb[..., 1].astype(float)
    return np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean()


def test_interlaced_pictures_are_deinterlaced(tmp_path):
    """A bar that moves sideways between the two fields of each picture."""
    def field(n):
        picture = np.zeros((96, 160, 3), np.uint8)
        picture[:, 3 * n:3 * n + 40] = 255
        return picture
    pictures = [field(2 * n) for n in range(12)]
    for n, picture in enumerate(pictures):
        picture[1::2] = field(2 * n + 1)[1::2]
    with av.open(str(tmp_path / "a.mpg"), "w") as container:
        options = {"flags": "+ildct+ilme", "b": "8000000"}
        stream = container.add_stream("mpeg2video", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    said = []
    read_out = [picture for ks, picture in read_frames(tmp_path / "a.mpg", 25, remark=said.append) for _ in ks]
    with av.open(str(tmp_path / "a.mpg")) as container:
        stored = [Picture(frame) for frame in container.decode(video=0)]
    assert said == ["interlaced pictures deinterlaced"] and len(read_out) == len(stored) == 12
    assert np.mean([combs(one) for one in read_out]) < 0.5 * np.mean([combs(one) for one in stored])
    left = [int(np.argmax(picture.rgb[48, :, 1] > 127)) for picture in read_out]
    assert np.abs(np.array(left) - 6 * np.arange(12)).max() <= 3  # each at its own time


def test_hdr_pictures_become_ordinary_ones(tmp_path):
    """Hybrid log-gamma, as phones record it. ITU-R BT.2408, table 1: signals of reference white and an 18 % grey card.

    (It takes FFmpeg six seconds to make a table of all colours.)
    """
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace, context.color_range = 18, 9, 9, 1
        for signal in (0.75, 0.38):
            frame = av.VideoFrame(64, 48, "yuv420p10le")
            for plane, value in zip(frame.planes, (64 + 876 * signal, 512, 512)):
                plane.update(np.full(plane.buffer_size // 2, round(value), np.uint16).tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    said = []
    levels = [picture.rgb.mean() for _, picture in read_frames(tmp_path / "a.mkv", 25, remark=said.append)]
    assert said == ["HDR pictures (HLG) turned into ordinary ones (BT.709)"]
    assert levels[0] > 245 and abs(levels[1] - 255 * (1.099 * 0.18**0.45 - 0.099)) < 12  # ITU-R BT.709


# ---- too little memory ----------------------------------------------------------------------------------------------

class Lacking:
    """A packet for which FFmpeg gets no memory."""
    size, pts, duration = 1, 0, 1

    def decode(self):
        raise av.error.MemoryError(12, "Cannot allocate memory")


@pytest.mark.parametrize("reader, place", [(read, "decoding"), (lambda path: [*read_sound(path, 8000)], "sound")])
def test_too_little_memory_is_not_taken_for_damage(reader, place, tmp_path, monkeypatch):
    video = tmp_path / "a.mp4"
    write_video(video, [bars(n) for n in range(5)], np.zeros(9600, np.float32))
    reader(video)
    monkeypatch.setattr(f"support.{place}.packets_of", lambda *_: iter([Lacking()]))
    with pytest.raises(MemoryError) as error:
        reader(video)
    assert not isinstance(error.value, av.error.FFmpegError), "it would be taken for one of the file"


def test_too_little_memory_to_open_a_file_is_not_taken_for_damage(tmp_path):
    with pytest.raises(MemoryError) as error, open_media(write_pictures(tmp_path / "a.mp4", [bars(1)] * 5)):
        raise av.error.MemoryError(12, "Cannot allocate memory")
    assert not isinstance(error.value, av.error.FFmpegError)
