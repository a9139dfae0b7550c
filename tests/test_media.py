"""support/media.py: which picture is frame k, its colours and orientation. Sound is tested in test_audio_extract.py."""
import gc
import itertools
import tracemalloc
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import soundfile
from av.stream import Disposition
from PIL import Image
from videos import CARD, bars, card, faststart, number_of, numbers_in, on_show, write_pictures

from drawn.people import FRAME_RATE, SOUND_RATE, Recording, write_video
from support.errors import UserError
from support.media import Picture, about_frames, frame_count, open_media, picture_clock, read_frames

# ---- frame k is the picture on show at k / frame_rate seconds -------------------------------------------------------


@pytest.mark.parametrize("fps, kind, rate", [
    (25, "mp4", 25), (30, "mp4", 25), (Fraction(30000, 1001), "mp4", 25), (Fraction(24000, 1001), "mkv", 25),
    (12, "mp4", 25), (50, "mkv", 25), (25, "mp4", 10), (25, "mp4", 29.97), (25, "mkv", 60)])
def test_frame_k_of_a_constant_rate_is_the_picture_on_show_then(fps, kind, rate, tmp_path):
    tick = Fraction(1, 1000) if kind == "mkv" else Fraction(1, 90000)  # Matroska stamps are whole milliseconds
    stamps = [round(n / Fraction(fps) / tick) for n in range(40)]
    video = write_pictures(tmp_path / f"a.{kind}", [bars(n) for n in range(40)], stamps, tick)
    frames = int(np.ceil(round(40 / Fraction(fps) * Fraction(rate), 6)))
    assert numbers_in(video, rate) == on_show([stamp * tick for stamp in stamps], frames, Fraction(rate))
    assert about_frames(video, rate) == pytest.approx(frames, abs=2)


@pytest.mark.parametrize("kind, start", [("mp4", 0), ("mkv", 900), ("ts", 153000)])
def test_frame_k_of_a_variable_rate_is_the_picture_on_show_then(kind, start, tmp_path):
    gaps = np.random.default_rng(start).integers(10, 90, 39) * 90  # 10 to 89 ms, whole milliseconds in all containers
    stamps = [start, *(start + np.cumsum(gaps)).tolist()]
    video = write_pictures(tmp_path / f"a.{kind}", [bars(n) for n in range(40)], stamps)
    seconds = [Fraction(stamp, 90000) for stamp in stamps]
    until_last = int((seconds[-1] - seconds[0]) * 25) + 1  # containers differ in how long the last picture lasts
    numbers = numbers_in(video)
    assert numbers[:until_last] == on_show(seconds, until_last)
    assert set(numbers[until_last:]) <= {39} and len(numbers) - until_last <= 3


@pytest.mark.parametrize("kind, first", [("mp4", 0), ("mkv", 0), ("mkv", 1), ("mkv", 2), ("mkv", 250)])
def test_at_the_rate_of_the_video_each_picture_is_one_frame_although_stamps_are_rounded(kind, first, tmp_path):
    """Also where the stamp of the first picture was rounded, from which times are counted: a copy from the middle."""
    tick = Fraction(1, 1000) if kind == "mkv" else Fraction(1, 16000)
    stamps = [int(round((first + n) / 30 * 1000) * Fraction(1, 1000) / tick) for n in range(60)]
    video = write_pictures(tmp_path / f"a.{kind}", [bars(n) for n in range(60)], stamps, tick)
    assert numbers_in(video, 30) == list(range(60))


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_sound_track_longer_than_the_pictures_does_not_make_a_video_cut_short(kind, tmp_path):
    write_video(tmp_path / f"a.{kind}", [bars(n) for n in range(25)], np.zeros(4 * SOUND_RATE))
    assert numbers_in(tmp_path / f"a.{kind}") == list(range(25))
    assert frame_count(picture_clock(tmp_path / f"a.{kind}").end_s, 25) == 25


def test_a_video_trimmed_by_an_edit_list_is_not_cut_short(tmp_path):
    """Its header counts all pictures, and says from when to when they are shown."""
    video = write_pictures(tmp_path / "a.mp4", [bars(n) for n in range(100)])
    data = bytearray(video.read_bytes())
    at = data.index(b"elst") + 12  # after name, version, flags, number of edits: length (1/1000 s), start (1/90000 s)
    media_time = int.from_bytes(data[at + 4:at + 8], "big")
    data[at:at + 8] = (2000).to_bytes(4, "big") + (media_time + 50 * 3600).to_bytes(4, "big")
    video.write_bytes(data)
    assert numbers_in(video) == list(range(50, 100))


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_an_avi_which_stores_no_times_is_read_in_order(codec, tmp_path):
    """FFmpeg guesses times for its pictures, which go backwards where pictures refer to later ones."""
    video = write_pictures(tmp_path / "a.avi", [bars(n) for n in range(40)], list(range(40)), Fraction(1, 30), codec)
    assert numbers_in(video) == on_show([Fraction(n, 30) for n in range(40)], 34)


def test_an_avi_with_dropped_pictures_is_read_and_one_cut_short_is_not(tmp_path):
    kept = [n for n in range(100) if n % 5 != 3]
    video = write_pictures(tmp_path / "a.avi", [bars(n) for n in kept], kept, Fraction(1, 25), "mpeg4")
    assert numbers_in(video) == [n - (n % 5 == 3) for n in range(100)]
    video.write_bytes(video.read_bytes()[:video.stat().st_size * 6 // 10])
    with pytest.raises(UserError, match="cut short"):
        numbers_in(video)


def test_pictures_that_cannot_be_decoded_at_the_beginning_are_black(tmp_path):
    """A broadcast cut anywhere: nothing can be decoded up to its first picture that refers to no other, the eighth."""
    with av.open(str(tmp_path / "a.ts"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        for n in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bars(n), format="rgb24")))
        container.mux(stream.encode())
    for first in (0, 4):
        with av.open(str(tmp_path / "a.ts")) as whole, av.open(str(tmp_path / f"from_{first}.ts"), "w") as copy:
            out = copy.add_stream_from_template(whole.streams.video[0])
            for packet in [packet for packet in whole.demux(video=0) if packet.dts is not None][first:]:
                packet.stream = out
                copy.mux(packet)
    assert numbers_in(tmp_path / "from_0.ts") == list(range(40))
    said = []
    pictures = list(read_frames(tmp_path / "from_4.ts", 25, remark=said.append))
    black, later = pictures[0], pictures[1:]
    assert black[0] == range(4) and black[1].rgb.shape == (96, 160, 3) and not black[1].rgb.any()
    assert [number_of(picture.rgb) for ks, picture in later for _ in ks] == list(range(8, 40))
    assert said == ["its first 0.2 s cannot be decoded: they are black"]


def test_an_mp4_whose_end_is_missing_is_cut_short(tmp_path):
    """One that says at its beginning where its pictures are."""
    whole = write_pictures(tmp_path / "whole.mp4", [bars(n) for n in range(100)])
    video = faststart(whole, tmp_path / "a.mp4")
    assert numbers_in(video) == list(range(100))
    video.write_bytes(video.read_bytes()[:video.stat().st_size // 2])
    with pytest.raises(UserError, match="cut short"):
        numbers_in(video)


def is_up_to_the_break(numbers):
    """Whether they are 0, 1, ...; the last may be older: some are stored after those that come later in the video."""
    return numbers[:-4] == list(range(len(numbers) - 4)) and all(0 <= n - one < 4 for n, one in enumerate(numbers))


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi"])
def test_of_a_file_that_breaks_off_the_frames_before_are_read_where_that_is_wanted(kind, tmp_path):
    """What it holds up to there, and no frame more; what is wrong is said."""
    made = {"stamps": range(100), "tick": Fraction(1, 25), "codec": "mpeg4"} if kind == "avi" else {}
    whole = write_pictures(tmp_path / f"whole.{kind}", [bars(n) for n in range(100)], **made)
    if kind == "mp4":
        whole = faststart(whole, tmp_path / "first.mp4")
    video, said = tmp_path / f"a.{kind}", []
    video.write_bytes(whole.read_bytes()[:whole.stat().st_size * 6 // 10])
    numbers = [number_of(picture.rgb) for ks, picture in read_frames(video, 25, said.append) for _ in ks]
    assert is_up_to_the_break(numbers) and 20 < len(numbers) < 80
    assert f"{video} is cut short" in said[0]
    with pytest.raises(UserError, match="cut short"):
        numbers_in(video)


def test_of_a_file_whose_end_cannot_be_decoded_the_frames_before_are_read_where_that_is_wanted(tmp_path):
    video, said = write_pictures(tmp_path / "a.mp4", [bars(n) for n in range(100)]), []
    with av.open(str(video)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(video.read_bytes())
    for at, size in packets[60:]:
        data[at:at + size] = bytes(size)
    video.write_bytes(data)
    numbers = [number_of(picture.rgb) for ks, picture in read_frames(video, 25, said.append) for _ in ks]
    assert is_up_to_the_break(numbers) and 50 < len(numbers) <= 62
    assert f"{video} is damaged: only" in said[0]
    with pytest.raises(UserError, match="damaged.*replace it"):
        numbers_in(video)


# ---- clocks that are not one ----------------------------------------------------------------------------------------

def read(video):
    """(number of each frame's picture, what is said that cuts the video short, all else that is said)."""
    cut, said = [], []
    pictures = read_frames(video, 25, cut.append, said.append)
    return [number_of(picture.rgb) for ks, picture in pictures for _ in ks], cut, said


@pytest.mark.parametrize("kind, codec", [("ts", "libx264"), ("mpg", "mpeg1video"), ("mkv", "libx264"),
                                         ("mp4", "libx264"), ("flv", "libx264"), ("wmv", "wmv2")])
def test_of_pieces_joined_byte_by_byte_the_first_is_read_where_that_is_wanted(kind, codec, tmp_path):
    """Half of the pictures would be lost without a word: the times of the second piece begin at 0 again."""
    first, second = (write_pictures(tmp_path / f"{at}.{kind}", [bars(at + n) for n in range(40)], range(40),
                                    Fraction(1, 25), codec) for at in (0, 100))
    assert read(first) == (list(range(40)), [], [])
    video = tmp_path / f"joined.{kind}"
    video.write_bytes(first.read_bytes() + second.read_bytes())
    numbers, cut, said = read(video)
    assert numbers == list(range(40)) and len(cut) == 1 and "joined" in cut[0] and not said
    with pytest.raises(UserError, match="joined.*1.6 s.*: replace it"):
        picture_clock(video)


def test_a_broadcast_whose_clock_begins_anew_on_the_way_is_read_to_its_end(tmp_path):
    """The clock of an MPEG transport stream has 33 bits."""
    stamps = [2**33 - 200000 + n * 3600 for n in range(60)]
    video = write_pictures(tmp_path / "a.ts", [bars(n) for n in range(60)], stamps)
    assert read(video) == (list(range(60)), [], [])


def test_a_clock_that_jumps_is_not_time_that_passed(tmp_path):
    stamps = [n * 40 + 120000 * (n > 29) for n in range(50)]
    video = write_pictures(tmp_path / "a.mkv", [bars(n) for n in range(50)], stamps, Fraction(1, 1000))
    numbers, cut, _ = read(video)
    assert numbers == list(range(30)) and "jumps by 120.0 s" in cut[0] and "30 of 50" in cut[0]


@pytest.mark.parametrize("kind, tick", [("mkv", Fraction(1, 1000)), ("mp4", Fraction(1, 90000))])
@pytest.mark.parametrize("rate", [25, 30, 60, 240])
def test_pictures_missing_from_a_constant_rate_are_counted(kind, tick, rate, tmp_path):
    there = [n for n in range(120) if n not in (30, 50, 51)]
    stamps = [round(n / rate / tick) for n in there]
    _, _, said = read(write_pictures(tmp_path / f"a.{kind}", [bars(n) for n in there], stamps, tick))
    assert said == ["3 pictures missing by its time stamps, the one before is shown"]


def test_pictures_of_a_variable_rate_are_not_missing(tmp_path):
    there = [n for n in range(100) if n % 10 < 6]
    assert read(write_pictures(tmp_path / "a.mp4", [bars(n) for n in there], [n * 3600 for n in there]))[2] == []


def test_a_clock_that_begins_late_is_said(tmp_path):
    stamps = [3000 + n * 40 for n in range(30)]
    numbers, _, said = read(write_pictures(tmp_path / "a.mkv", [bars(n) for n in range(30)], stamps, Fraction(1, 1000)))
    assert numbers == [*range(30)] and said == ["its clock begins at 3.0 s: time 0 is that of the first picture"]


def test_a_long_picture_with_sound_is_time_that_passed(tmp_path):
    """As in the recording of a screen."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        seen = container.add_stream("mjpeg", rate=25)
        heard = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        seen.height, seen.width, seen.pix_fmt, seen.time_base = 96, 160, "yuvj420p", Fraction(1, 1000)
        for n in range(50):
            frame = av.VideoFrame.from_ndarray(bars(n), format="rgb24")
            frame.pts, frame.time_base = n * 40 + 12000 * (n > 29), Fraction(1, 1000)
            container.mux(seen.encode(frame))
        for second in range(14):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
            sound.sample_rate, sound.pts, sound.time_base = 8000, second * 8000, Fraction(1, 8000)
            container.mux(heard.encode(sound))
    numbers, cut, said = read(tmp_path / "a.mkv")
    assert numbers == [*range(30), *[29] * 300, *range(30, 50)] and not cut
    assert said == ["no picture for 12.0 s from 1.2 s on, the one before is shown"]


# ---- which track is the video ---------------------------------------------------------------------------------------

def write_tracks(path, *dispositions):
    """A file with a video track each, of pictures 0 ..., 100 ..."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in dispositions]
        for stream, disposition in zip(streams, dispositions):
            stream.width, stream.height, stream.pix_fmt, stream.disposition = 160, 96, "yuv420p", disposition
        for n, (at, stream) in itertools.product(range(5), enumerate(streams)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bars(100 * at + n), format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("first, second, used", [(0, 0, 1), (0, Disposition.default, 2), (Disposition.default, 0, 1)])
def test_of_several_tracks_the_default_one_is_read_and_named(first, second, used, tmp_path):
    numbers, _, said = read(write_tracks(tmp_path / "a.mkv", first, second))
    assert numbers == [100 * (used - 1) + n for n in range(5)]
    assert said == [f"2 video tracks: number {used} is used"]


def test_a_cover_picture_is_not_the_video(tmp_path):
    video = write_pictures(tmp_path / "a.mp4", [bars(n) for n in range(5)])
    cv2.imwrite(str(tmp_path / "cover.jpg"), card())
    with (av.open(str(video)) as source, av.open(str(tmp_path / "cover.jpg")) as cover,
          av.open(str(tmp_path / "b.mp4"), "w") as out):
        sources = cover.streams.video[0], source.streams.video[0]
        outs = [out.add_stream_from_template(one) for one in sources]
        outs[0].disposition = Disposition.attached_pic
        for container, stream in zip((cover, source), outs):
            for packet in container.demux():
                if packet.dts is not None or packet.size:
                    packet.stream = stream
                    out.mux(packet)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert len(container.streams.video) == 2
    assert read(tmp_path / "b.mp4") == (list(range(5)), [], [])


def test_a_track_in_a_codec_that_is_not_known_is_left_for_one_that_is(tmp_path):
    video = write_tracks(tmp_path / "a.mkv", Disposition.default, 0)
    video.write_bytes(video.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XXX", 1))
    numbers, _, said = read(video)
    assert numbers == list(range(100, 105)) and "1 in a codec that is not known here: number 2 is used" in said[0]


def test_pictures_that_change_their_size_are_said(tmp_path):
    sizes = [(96, 192)] * 5 + [(128, 256)] * 5
    write_pictures(tmp_path / "a.avi", [bars(0)] * 2, range(2), Fraction(1, 25), "mjpeg")
    with av.open(str(tmp_path / "a.avi")) as like, av.open(str(tmp_path / "b.avi"), "w") as out:
        stream = out.add_stream_from_template(like.streams.video[0])
        for n, size in enumerate(sizes):
            packet = av.Packet(cv2.imencode(".jpg", bars(n, *size))[1].tobytes())
            packet.pts, packet.dts, packet.time_base, packet.stream = n, n, Fraction(1, 25), stream
            out.mux(packet)
    numbers, cut, said = read(tmp_path / "b.avi")
    assert numbers == list(range(10)) and not cut
    assert said == ["the size of the pictures changes: 192 x 96, 256 x 128"]


# ---- files that are no video ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("ending", [".jpg", ".png", ".mp4"])
def test_an_image_is_not_taken_for_a_video(ending, tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), bars(1))
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
    image = tmp_path / ("a.png" if ending == ".png" else "a.jpg")
    image = image.rename(tmp_path / f"b{ending}")
    with pytest.raises(UserError, match=f"b{ending} is an image"):
        picture_clock(image)


def test_a_codec_that_is_not_known_is_named(tmp_path):
    video = write_pictures(tmp_path / "a.mp4", [bars(1)] * 5)
    video.write_bytes(video.read_bytes().replace(b"avc1", b"xyz1").replace(b"avcC", b"xyzC"))
    with pytest.raises(UserError, match="a.mp4 has a video track in a codec that is not known"):
        numbers_in(video)


def test_a_file_without_pictures_and_one_that_is_empty_are_named(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="empty.mp4 .*empty"), open_media(tmp_path / "empty.mp4"):
        pass
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        track = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, SOUND_RATE), np.float32), format="fltp", layout="mono")
        sound.sample_rate = SOUND_RATE
        container.mux(track.encode(sound))
        container.mux(track.encode())
    with pytest.raises(UserError, match="sound.mp4 has no video"):
        picture_clock(tmp_path / "sound.mp4")
    assert about_frames(tmp_path / "empty.mp4", 25) == 0


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    peaks = []
    for pictures in (40, 400):
        video = write_pictures(tmp_path / f"{pictures}.mp4", [bars(1)] * pictures)
        tracemalloc.start()
        assert sum(len(picture.rgb) // 96 for _, picture in read_frames(video, 25)) == pictures
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 4 * bars(1).nbytes  # 360 pictures more


# ---- sound and pictures ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("where, rate", [("track", 25), ("wav", 30)])
def test_a_flash_and_a_click_are_found_at_the_same_k(where, rate, tmp_path, call):
    """Through the real scripts, by way of the video's own sound track and of a sound file beside it."""
    at_s = [0.2, 0.6, 1.0]
    drawn, sound = Recording.draw((3, 1), 40), np.zeros(int(40 / rate * SOUND_RATE), np.float32)
    pictures = list(drawn.frames())
    for flash_s in at_s:
        n, start = round(flash_s * rate), round(flash_s * SOUND_RATE)
        pictures[n] = np.clip(pictures[n].astype(int) + 50, 0, 255).astype(np.uint8)
        sound[start:start + 48] = 0.9 * np.sin(2 * np.pi * 3000 / SOUND_RATE * np.arange(48))  # 3 ms
    write_video(tmp_path / "videos" / "train_1.mp4", pictures, sound if where == "track" else None, rate)
    if where == "wav":
        (tmp_path / "audio").mkdir()
        soundfile.write(tmp_path / "audio" / "train_1.wav", sound, SOUND_RATE)
    for script in ("face_detector", "audio_extract", "audio_melspec"):
        assert call(script, "--data-dir", tmp_path)[0] == 0

    def images(folder):
        paths = sorted((tmp_path / folder / "train_1").glob("0*g"))
        return [np.asarray(Image.open(path)).astype(float) for path in paths]
    light, specs = [crop.mean() for crop in images("Cropped_Aligned")], images("specs")
    middle = [spec[:, spec.shape[1] // 2].mean() - np.median(spec.mean(0)) for spec in specs]  # the frame's own moment
    assert len(light) == len(specs) == np.ceil(40 / rate * 25)
    assert sorted(np.argsort(light)[-3:]) == sorted(np.argsort(middle)[-3:]) == [round(s * FRAME_RATE) for s in at_s]


# ---- orientation ----------------------------------------------------------------------------------------------------

def is_card(picture):
    """Whether a Picture is the card, upright, in RGB and 120 x 160: by the middles of its four fields."""
    fields = np.array([[picture.rgb[y, x] for x in (40, 120)] for y in (30, 90)]).astype(int)
    shapes = (picture.height, picture.width, 3), picture.rgb.shape
    return shapes == ((120, 160, 3),) * 2 and picture.rgb.dtype == np.uint8 and np.abs(fields - CARD).max() < 25


@pytest.mark.parametrize("quarters, mirrored", [(0, False), (1, False), (2, False), (3, False), (0, True), (1, True)])
def test_a_camera_held_sideways_is_turned_upright(quarters, mirrored, tmp_path):
    """A phone stores pictures as its sensor sees them; the track's header says how to turn and mirror them."""
    stored = np.rot90(card(), quarters)
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]  # clockwise; ISO 14496-12: (a, b, u, c, d, v, x, y, w)
    (a, b), (c, d) = (cos, sin), (-sin, cos)  # x, y of the picture are a x + c y, b x + d y of what is stored
    if mirrored:  # left and right of what is stored are exchanged
        stored, (a, b) = stored[:, ::-1], (-a, -b)
    video = write_pictures(tmp_path / "a.mp4", [np.ascontiguousarray(stored)] * 3)
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data = bytearray(video.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # after version, times, id, duration, layer and volume
    data[at:at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
    video.write_bytes(data)
    assert all(is_card(picture) for _, picture in read_frames(video, 25))


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    video = write_pictures(tmp_path / "a.mp4", [card(120, 80)] * 3, pixels=Fraction(2))
    assert all(is_card(picture) for _, picture in read_frames(video, 25))


def test_pixels_of_an_absurd_width_are_refused(tmp_path):
    video = write_pictures(tmp_path / "a.mp4", [card(120, 80)] * 3, pixels=Fraction(20))
    with pytest.raises(UserError, match="a.mp4 is damaged: its pixels would be 20 times as wide as high"):
        numbers_in(video)


def test_pictures_that_were_used_are_freed_at_once(tmp_path):
    """Without the garbage collector: it comes by late, and a picture of full HD takes 3 MB."""
    video = write_pictures(tmp_path / "a.mp4", [card()] * 60)
    gc.collect()
    gc.disable()
    try:
        for _, picture in read_frames(video, 25):
            assert is_card(picture)
        del picture
        left = sum(type(one) is av.VideoFrame for one in gc.get_objects())
    finally:
        gc.enable()
    assert left <= 2  # the first one, of which the header's matrix is read


def test_videos_that_were_read_leave_nothing_behind(tmp_path):
    """Python by itself looks for cycles seldom where few objects are made: 600 videos would hold 300 MB."""
    video = write_pictures(tmp_path / "a.mp4", [card()] * 5)
    numbers = []
    gc.disable()
    try:
        for _ in range(3):
            numbers += [k for ks, _ in read_frames(video, 25) for k in ks]
        left = sum(type(one) is av.VideoFrame for one in gc.get_objects())
    finally:
        gc.enable()
    assert len(numbers) == 15 and left <= 1


# ---- colours, and parts of a picture --------------------------------------------------------------------------------

FORMS = [  # one for each path of the code: OpenCV, FFmpeg on a part (other colours, full range), FFmpeg on the whole
    ("yuv420p", {}, (96, 128)), ("yuv420p", {"color_range": 2}, (96, 128)), ("yuv420p", {"colorspace": 1}, (96, 128)),
    ("yuvj420p", {}, (96, 128)), ("yuv420p", {}, (95, 127)), ("yuv422p", {}, (96, 128)), ("yuv420p10le", {}, (96, 128)),
    ("gray", {}, (96, 128))]


def stored(size, pixels, **tags):
    """A Picture with every colour and no edges, in the pixel format of a video, and PyAV's frame of it."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((*size, 3)), (0, 0), 6)
    rgb = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixels)
    for name, value in tags.items():
        setattr(frame, name, value)
    return Picture(frame), frame


@pytest.mark.parametrize("pixels, tags, size", FORMS)
def test_colours_are_those_of_ffmpeg_in_every_pixel_format(pixels, tags, size):
    picture, frame = stored(size, pixels, **tags)
    theirs = frame.to_ndarray(format="rgb24").astype(int)
    assert picture.rgb.shape == (*size, 3) and np.abs(picture.rgb - theirs).max() <= 4


@pytest.mark.parametrize("kr, kb, colourspace", [(0.299, 0.114, 5), (0.2126, 0.0722, 1)])
@pytest.mark.parametrize("full", [False, True])
def test_colours_follow_the_formulas_of_the_standards(kr, kb, colourspace, full):
    """ITU-R BT.601 and BT.709, in the range of television and in the full one."""
    for rgb in ([220, 40, 40], [40, 200, 40], [40, 40, 210], [200, 160, 130]):
        r, g, b = np.array(rgb) / 255
        y = kr * r + (1 - kr - kb) * g + kb * b
        colours = np.array([(b - y) / 2 / (1 - kb), (r - y) / 2 / (1 - kr)])
        y, colours = (255 * y, 128 + 255 * colours) if full else (16 + 219 * y, 128 + 224 * colours)
        planes = np.concatenate([np.full(64 * 64, round(y)), *(np.full(32 * 32, round(c)) for c in colours)])
        frame = av.VideoFrame.from_ndarray(planes.astype(np.uint8).reshape(96, 64), format="yuv420p")
        frame.colorspace, frame.color_range = colourspace, 1 + full
        assert np.abs(Picture(frame).region(10, 10, 30, 30)[0].astype(int) - rgb).max() <= 4


@pytest.mark.parametrize("pixels, tags, size", FORMS)
def test_a_region_is_the_same_part_of_the_whole_picture(pixels, tags, size):
    height, width = size
    rng = np.random.default_rng(height)
    boxes = [(0, 0, width, height), (-20, -9, 500, 400), (-30, 10, -4, 20), (200, 300, 240, 320), (40, 40, 40, 40)]
    boxes += [(x, y, x + w, y + h) for x, y, w, h in rng.uniform((-20, -20, 1, 1), (width, height, 90, 90), (30, 4))]
    boxes += [tuple(map(int, one)) for one in boxes[-20:]]  # odd and even corners
    whole, frame = stored(size, pixels, **tags)
    for x1, y1, x2, y2 in boxes:
        part, (left, top) = Picture(frame).region(x1, y1, x2, y2)
        assert np.array_equal(part, whole.rgb[top:top + part.shape[0], left:left + part.shape[1]])
        if min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0):  # all of the box that is in the picture
            assert left <= max(x1, 0) and top <= max(y1, 0)
            assert left + part.shape[1] >= min(x2, width) and top + part.shape[0] >= min(y2, height)
            assert part.shape[1] <= x2 - x1 + 4 and part.shape[0] <= y2 - y1 + 4  # and no more


@pytest.mark.parametrize("pixels, tags, size", FORMS[:5])
def test_brightness_is_that_of_the_pixels(pixels, tags, size):
    picture, frame = stored(size, pixels, **tags)
    columns, rows = np.arange(3, 90, 7), np.arange(2, 80, 5)
    grey = frame.to_ndarray(format="gray").astype(int)[rows[:, None], columns]
    seen = picture.brightness(columns, rows).astype(int)
    assert seen.shape == (len(rows), len(columns)) and np.corrcoef(seen.ravel(), grey.ravel())[0, 1] > 0.8
