"""overlay.py: what is drawn where, and a file that plays everywhere, in step with its sound."""
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest
from videos import bars, number_of, write_pictures

import overlay
from figures import PEOPLE
from overlay import COLOURS, SHADE, Overlay, Track, limit_of, short, write_overlay
from support.errors import UserError
from support.media import read_frames

BOTH, NAN = ["arousal", "valence"], np.nan
BOX = [40.0, 30.0, 100.0, 100.0]


def track(values, boxes=None, rate=25):
    """A Track of rows at that rate; the same box in all that have predictions."""
    values = np.array(values, float)
    boxes = np.where(np.isnan(values).any(1)[:, None], NAN, BOX) if boxes is None else np.array(boxes, float)
    return Track(np.arange(len(values)) / rate, values, boxes)


def table(frames, rate=25, missing=(), box=BOX, people=0):
    """Predictions as predict.py writes them, two sines."""
    rows = []
    for k in range(frames):
        for person in range(1, max(people, 1) + 1):
            face = ([NAN] * 2, "missing", NAN, [NAN] * 4) if k in missing else \
                ([0.4 * np.sin(k / 9 + person), 0.2 * np.cos(k / 9 + person)], "tracked", 0.99, box)
            rows.append([round(k / rate, 4), person, *face[0], *face[1:3], *face[3]])
    made = pd.DataFrame(rows, columns=["time_s", "person", *BOTH, "face", "score", "x1", "y1", "x2", "y2"])
    return made if people else made.drop(columns="person")


def near(image, colour, within=40):
    """Which pixels have about that colour: (H, W) bool."""
    return (np.abs(image.astype(int) - colour) < within).all(-1)


# ---- what is known at a time ----------------------------------------------------------------------------------------

def test_between_two_rows_predictions_and_boxes_are_interpolated_and_before_a_gap_they_stay():
    slow = track([[0, 1], [1, 0], [NAN, NAN], [NAN, NAN]], rate=5)
    slow.boxes[1] += 10
    now = slow.at(0.05, 0.2)
    assert np.allclose(now.values, [[0, 1], [0.25, 0.75]]) and np.allclose(now.boxes[-1], np.array(BOX) + 2.5)
    assert np.allclose(now.times_s, [0, 0.05])
    assert np.allclose(slow.at(0.3, 0.2).values[-1], [1, 0])  # the next row has no face: nothing to move to
    assert np.isnan(slow.at(0.45, 0.2).values[-1]).all()


def test_a_person_is_unknown_before_the_first_row_and_after_the_last():
    late = Track(np.array([1.0, 1.04]), np.zeros((2, 2)), np.array([BOX, BOX]))
    assert late.at(0.9, 0.04) is None and late.at(1.04, 0.04) is not None and late.at(1.2, 0.04) is None


def test_a_table_becomes_a_track_for_each_person_and_keeps_its_rows():
    made = table(10, 5, people=2)
    tracks, row_s = overlay.tracks_of(made, BOTH)
    assert list(tracks) == [1, 2] and row_s == pytest.approx(0.2)
    assert np.array_equal(tracks[2].values, made.loc[made["person"] == 2, BOTH])
    assert overlay.tracks_of(table(1), ["valence"])[0][1].values.shape == (1, 1)


def test_numbers_are_written_without_a_leading_zero_and_with_their_sign():
    assert [short(value) for value in (0.324, -0.07, 1, -1, 0, -0.001, 0.996, NAN)] == \
        ["+.32", "−.07", "+1.00", "−1.00", "+.00", "+.00", "+1.00", "–"]


def test_axes_end_where_all_predictions_are_inside():
    assert [limit_of({1: track([[value, NAN]])}) for value in (0, -0.2, 0.21, 0.4, -0.7, 1, 1.4)] == \
        [0.2, 0.2, 0.3, 0.5, 0.75, 1, 2]
    assert limit_of({}) == limit_of({1: track([[NAN, NAN]])}) == 0.2


def test_digits_change_five_times_a_second_and_are_those_of_their_frame():
    moving = track(np.arange(50)[:, None] / 100 * [1, 1])
    written = [overlay.digits(moving.at(k / 25, 0.04))[0] for k in range(50)]
    assert np.allclose(written, np.arange(50) // 5 * 5 / 100)


# ---- what is drawn --------------------------------------------------------------------------------------------------

GREY = np.full((240, 320, 3), 128, np.uint8)


def painted(tracks, targets=BOTH, **about):
    """(picture, panel) of a grey picture with these tracks."""
    made = Overlay((320, 240), targets, 0.5, **about)
    image = made.paint(GREY, tracks)
    assert not any(side % 2 for side in image.shape[:2])
    return image[:240], image[240:], made


def test_a_box_is_drawn_around_the_face_and_nothing_on_it():
    picture, _, _ = painted({1: track([[0.1, 0.1]] * 5)})
    x1, y1, x2, y2 = map(int, BOX)
    assert near(picture[y1:y2, x1], (242, 244, 247)).mean() > 0.6
    assert near(picture[y2, x1:x2], (242, 244, 247)).mean() > 0.6
    assert (picture[y1 + 9:y2 - 8, x1 + 9:x2 - 8] == 128).all() and (picture[:, 200:] == 128).all()


@pytest.mark.parametrize("box", [[-30, -20, 60, 70], [280, 200, 400, 300], [-50, -50, 500, 400], [500, 500, 600, 600]])
def test_a_face_at_the_edge_or_beyond_is_drawn_as_far_as_it_is_seen(box):
    picture, _, _ = painted({1: track([[0.1, -0.1]], [box])})
    assert picture.shape == GREY.shape and (picture != 128).any()


def test_a_missing_face_is_marked_and_nothing_is_drawn_for_it():
    gone = {1: track([[0.3, 0.1]] * 5 + [[NAN, NAN]] * 5)}
    picture, panel, made = painted(gone)
    assert (picture[40:] == 128).all() and (picture[:40, :80] != 128).any()  # only a word in the corner
    x, y, side = made.plane
    assert not near(panel[y + side // 2 - 20:y + side // 2 - 5, x + side // 2 + 4:x + side - 4], (242, 244, 247)).any()
    assert (painted(gone, visual=False)[0] == 128).all()  # an audio-only network is fed no faces
    assert (painted({})[0] != 128).any()


def test_a_trace_has_a_gap_where_there_is_no_face():
    values = np.full((200, 2), 0.2)
    values[80:120] = NAN
    _, panel, made = painted({1: track(values)})
    now = (made.right - made.left) / 10 / 25  # pixels per row
    above = panel[round(made.rows[0] - made.half):round(made.rows[0]) - 2, made.left:made.right + 1]
    has_line = (above[..., 0] > above[..., 2].astype(int) + 30).any(0)  # orange, as its trace
    x = np.arange(made.left, made.right + 1)
    ks = 199 - (made.right - x) / now
    assert has_line[((ks > 2) & (ks < 78)) | ((ks > 122) & (ks < 190))].all()
    assert not has_line[((ks > 82) & (ks < 118)) | (ks < -3)].any()
    shaded = (panel[round(made.rows[0])] == SHADE).all(-1)[made.left:made.right + 1]
    assert shaded[(ks > 84) & (ks < 116)].all() and not shaded[(ks < 78) | (ks > 122)].any()


def test_a_trace_moves_to_the_left_and_is_as_high_as_the_prediction():
    values = np.full((200, 2), -0.5)
    values[100, 0] = 0.5
    whole = track(values)
    tops = []
    for time_s in (5, 6):
        _, panel, made = painted({1: whole.at(time_s, 0.04)})
        row = near(panel[:, made.left:made.right + 1], COLOURS["arousal"], 60)
        tops.append(row[:round(made.rows[0])].any(0).nonzero()[0].mean())
        assert abs(row.any(1).nonzero()[0][0] - (made.rows[0] - made.half)) <= 2
    assert abs((tops[0] - tops[1]) - (made.right - made.left) / 10) < 1.5


def test_the_point_in_the_plane_is_at_valence_and_arousal():
    for arousal, valence in ((0.4, -0.3), (-0.2, 0.5), (0, 0)):
        _, panel, made = painted({1: track([[arousal, valence]])})
        x, y, side = made.plane
        ys, xs = np.nonzero(near(panel[:, x:x + side], (242, 244, 247), 30))
        reach = side / 2 - 3 * made.thick
        assert abs(xs.mean() - (side / 2 + valence / 0.5 * reach)) < 1.5
        assert abs(ys.mean() - (y + side / 2 - arousal / 0.5 * reach)) < 1.5


def test_one_target_has_no_plane():
    for target in BOTH:
        _, panel, made = painted({1: track([[0.1]])}, [target])
        assert made.plane[2] == 0 and near(panel, COLOURS[target]).any()
        assert not near(panel, COLOURS[BOTH[target == "arousal"]]).any()


def test_several_people_have_a_colour_each_that_is_the_figures():
    tracks = {number: track([[0.1 * number, 0.1]] * 9, [np.array(BOX) + [80 * number, 0] * 2] * 9)
              for number in (1, 2)}
    picture, panel, _ = painted(tracks, several=True)
    for number in (1, 2):
        colour = tuple(bytes.fromhex(PEOPLE[number - 1][1:]))
        x1, y1, _, y2 = (np.array(BOX) + [80 * number, 0] * 2).astype(int)
        assert near(picture[y1:y2, x1], colour).mean() > 0.6 and near(panel, colour).any()


@pytest.mark.parametrize("size, drawn", [
    ((3840, 2160), (1280, 720)), ((1080, 1920), (720, 1280)), ((161, 91), (320, 180)), ((641, 361), (640, 360))])
def test_large_pictures_are_scaled_down_tiny_ones_up_and_sides_are_even(size, drawn):
    made = Overlay(size, BOTH, 0.5)
    assert abs(made.width - drawn[0]) <= 2 and abs(made.height - drawn[1]) <= 2
    box = np.array([0.25, 0.25, 0.75, 0.75]) * [*size, *size]
    image = made.paint(np.full((*size[::-1], 3), 128, np.uint8), {1: track([[0.1, 0.1]], [box])})
    assert image.shape[1] <= 1280 and not any(side % 2 for side in image.shape[:2])
    left = near(image[made.height // 2, :made.width // 2], (242, 244, 247)).nonzero()[0].mean()
    assert abs(left - made.width / 4) < 3


# ---- the file -------------------------------------------------------------------------------------------------------

CLICK_S = 1.2  # where the picture changes from 0 to 255 in clip()


def clip(path, codec=None, late_s=0.0, start_s=0.0, frames=75, size=(96, 160)):
    """A video whose pictures turn white when its sound clicks; the sound begins `late_s` after the pictures."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        sound = container.add_stream(codec, rate=48000, layout="mono") if codec else None
        for k in range(frames):
            picture = np.full((*size, 3), 255 * (k / 25 >= CLICK_S), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = k + round(25 * start_s), Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound:
            samples = np.zeros(round((frames / 25 - late_s) * 48000), np.float32)
            click = round((CLICK_S - late_s) * 48000)
            samples[click:click + 96] = 0.9
            names = [one.name for one in sound.codec_context.codec.audio_formats]
            form = "fltp" if "fltp" in names else "s16"
            block = samples[None] if form == "fltp" else (samples[None] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block, format=form, layout="mono")
            frame.sample_rate, frame.pts = 48000, round((start_s + late_s) * 48000)
            frame.time_base = Fraction(1, 48000)
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


def click_s(path):
    """(when the sound clicks, when the picture turns white, end of the sound, end of the pictures) by PyAV, seconds."""
    with av.open(str(path)) as container:
        loudest, at, end = 0, None, 0
        for frame in container.decode(audio=0):
            samples = np.abs(frame.to_ndarray()[0].astype(float))
            end = frame.time + len(samples) / frame.sample_rate
            if samples.max() > loudest:
                loudest, at = samples.max(), frame.time + samples.argmax() / frame.sample_rate
    with av.open(str(path)) as container:
        pictures = [(frame.time, frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]
    white_s = next(time_s for time_s, grey in pictures if grey[60:90, 120:].mean() > 128)
    return at, white_s, end, 2 * pictures[-1][0] - pictures[-2][0]


@pytest.mark.parametrize("name, codec, late_s, start_s", [
    ("a.mp4", "aac", 0, 0), ("a.mp4", "aac", 0.5, 0), ("a.mkv", "aac", 0.3, 0), ("a.ts", "aac", 0.25, 2),
    ("a.mkv", "mp2", 0, 0), ("a.mkv", "mp2", 0.5, 0), ("a.mkv", "flac", 0.4, 1), ("a.ts", "mp2", 0, 3)])
def test_sound_stays_in_step_with_the_pictures(name, codec, late_s, start_s, tmp_path):
    video = clip(tmp_path / name, codec, late_s, start_s)
    write_overlay(video, table(75), BOTH, tmp_path / "made.mp4")
    before, after = click_s(video), click_s(tmp_path / "made.mp4")
    assert after[1] == pytest.approx(CLICK_S, abs=0.001)
    assert abs((after[0] - after[1]) - (before[0] - before[1])) < 0.004 and abs(before[0] - before[1]) < 0.01
    assert abs(after[2] - after[3]) < 0.05


def test_aac_is_copied_and_other_sound_becomes_aac(tmp_path):
    def packets(path):
        with av.open(str(path)) as container:
            assert container.streams.audio[0].codec_context.name == "aac"
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    video = clip(tmp_path / "a.mp4", "aac")
    write_overlay(video, table(75), BOTH, tmp_path / "made.mp4")
    copied, source = packets(tmp_path / "made.mp4"), packets(video)
    assert len(copied) >= len(source) - 2 and set(copied) <= set(source)
    write_overlay(clip(tmp_path / "b.mkv", "mp2"), table(75), BOTH, tmp_path / "b.mp4")
    assert packets(tmp_path / "b.mp4")


@pytest.mark.parametrize("codec", [None, "aac"])
def test_an_overlay_is_an_mp4_that_browsers_play(codec, tmp_path):
    video = clip(tmp_path / "a b'ü:.mp4", codec, size=(91 - 1, 161 - 1))
    write_overlay(video, table(75), BOTH, tmp_path / "made.mp4")
    with av.open(str(tmp_path / "made.mp4")) as container:
        [pictures] = container.streams.video
        assert (pictures.codec_context.name, pictures.pix_fmt) == ("h264", "yuv420p")
        assert [one.codec_context.name for one in container.streams.audio] == [codec] * bool(codec)
        assert (pictures.average_rate, pictures.frames) == (25, 75)
        assert float(pictures.duration * pictures.time_base) == pytest.approx(3)
    stored = (tmp_path / "made.mp4").read_bytes()
    assert 0 < stored.index(b"moov") < stored.index(b"mdat")


@pytest.mark.parametrize("stamps", [[40 * k for k in range(50)], [40 * k + k % 3 * 10 for k in range(50)],
                                    [33 * k + (k + 1) // 3 for k in range(50)]])
def test_every_time_shows_the_picture_that_the_video_shows(stamps, tmp_path):
    video = write_pictures(tmp_path / "a.mp4", [bars(k) for k in range(50)], stamps, Fraction(1, 1000))
    rows = table(round(stamps[-1] / 200), 5, box=[0, 0, 4, 4])
    write_overlay(video, rows, BOTH, tmp_path / "made.mp4")
    with av.open(str(tmp_path / "made.mp4")) as container:
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="rgb24")
            shown = max(k for k, stamp in enumerate(stamps) if stamp <= 1000 * frame.time + 1.5)
            assert number_of(image[130:190]) == shown


def test_frames_of_the_table_are_reported_once_each(tmp_path):
    done = []
    write_overlay(clip(tmp_path / "a.mp4"), table(15, 5), BOTH, tmp_path / "made.mp4", done.append)
    assert sum(done) == 15 and len(done) == 75


def test_what_the_video_shows_is_not_changed_beside_the_drawing(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (36, 48, 3)).astype(np.uint8)
    picture = np.kron(picture, np.ones((10, 10, 1), np.uint8))
    video = write_pictures(tmp_path / "a.mp4", [picture] * 10)
    write_overlay(video, table(10, box=[4, 250, 40, 300]), BOTH, tmp_path / "made.mp4")
    before = next(iter(read_frames(video, 25)))[1].rgb.astype(int)
    after = next(iter(read_frames(tmp_path / "made.mp4", 25)))[1].rgb.astype(int)
    away = np.abs(after[:200] - before[:200])
    assert away.mean() < 8 and np.abs((after[:200] - before[:200]).mean((0, 1))).max() < 1.5


def test_the_sound_of_joined_pieces_ends_where_their_clock_runs_back(tmp_path):
    piece = clip(tmp_path / "a.ts", "aac")
    piece.write_bytes(2 * piece.read_bytes())
    write_overlay(piece, table(75), BOTH, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].frames == 75 and 2.9 < container.duration / av.time_base < 3.2


def test_a_video_that_cannot_be_read_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="a.mp4 cannot be read"):
        write_overlay(tmp_path / "a.mp4", table(5), BOTH, tmp_path / "made.mp4")
    whole = clip(tmp_path / "b.mp4", "aac").read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_overlay(tmp_path / "b.mp4", table(75), BOTH, tmp_path / "made.mp4", lambda n: 1 / 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"] and whole


def test_an_encoder_without_memory_is_one_error_that_names_the_file(tmp_path, monkeypatch):
    def no_memory(*_):
        raise av.error.ExternalError(542398533, "Generic error in an external library", "avcodec_open2")
    video = write_pictures(tmp_path / "a.mp4", [bars(k) for k in range(5)])
    monkeypatch.setattr(overlay.Writer, "add", no_memory)
    with pytest.raises(UserError, match="b.mp4 cannot be encoded .*too little memory"):
        write_overlay(video, table(5), BOTH, tmp_path / "b.mp4")
    assert not (tmp_path / "b.mp4").exists()
