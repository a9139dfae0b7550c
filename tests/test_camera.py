"""camera.py, with a recording in the camera's place and a recorder in the window's."""
import time
import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from videos import bars, number_of, sitter, write_pictures

import camera
from camera import Live, Newest, next_frame
from drawn.people import write_video
from faces import TEMPLATE, Face
from overlay import Overlay
from support.errors import SettingsError, UserError

FACES = {"face_size": 32, "min_face_size": 40, "face_score": 0.9, "look_every": 6, "jpeg_quality": 95}
BOX = np.array([10.0, 20, 60, 80])


class FakeNetwork:
    """Its state is the number of frames so far, and its predictions are that / 1000; `pause` is called in each."""

    inputs, targets = ("frames",), ["arousal", "valence"]

    def __init__(self, pause=lambda: None, retained=False, rate=25.0):
        self.card = {"frame_rate": rate, "clip_stride": 1, "faces": FACES | {"retained": retained}}
        self.pause, self.fed = pause, []

    def __call__(self, frames, specs, state):
        assert frames.shape == (1, 3, 32, 32) and frames.dtype == np.uint8 and specs is None
        self.pause()
        self.fed.append(frames[0])
        return np.full((1, 2), (state or 0) / 1000, np.float32), (state or 0) + 1


class FakeFinder:
    """Finds a face at the same place in every picture that is not black."""

    min_face_size = 40

    def face(self):
        return Face(BOX, TEMPLATE * 50 + BOX[:2], 0.99)

    def __call__(self, rgb):
        n = int(rgb.any())
        face = self.face()
        return np.array([face.box] * n).reshape(n, 4), np.array([face.points] * n).reshape(n, 5, 2), np.full(n, 0.99)

    def refine(self, picture, box):
        return self.face() if picture.rgb.any() else None


@pytest.fixture
def watched(monkeypatch):
    """The Newest that camera.run makes, how many pictures it had before and after one was taken, and the notes."""
    seen = SimpleNamespace(newest=None, notes=[], counts=[])
    start, take, paint = Newest.__enter__, Newest.picture, Overlay.paint

    def entered(self):
        seen.newest = self
        return start(self)

    def taken(self):
        before = self.count
        picture = take(self)
        seen.counts.append((before, self.count))
        return picture

    def noted(self, rgb, tracks, note=""):
        seen.notes.append(note)
        return paint(self, rgb, tracks, note)

    monkeypatch.setattr(camera, "finder", lambda *settings: FakeFinder())
    monkeypatch.setattr(Newest, "__enter__", entered)
    monkeypatch.setattr(Newest, "picture", taken)
    monkeypatch.setattr(Overlay, "paint", noted)
    return seen


def stream(folder, frames=60):
    """A recording of pictures that carry their number, 25 per second."""
    return write_pictures(folder / "camera.mp4", [bars(k + 1, 120, 160) for k in range(frames)])


def test_frames_that_have_passed_are_dropped_and_the_next_is_shown():
    assert [next_frame(-1, 0), next_frame(0, 0.4), next_frame(0, 1.0), next_frame(3, 9.7), next_frame(9, 9.7)] == \
        [0, 1, 1, 9, 10]


def test_a_slow_network_drops_pictures_and_shows_the_newest_with_its_delay(watched, tmp_path):
    """The network is as slow as three pictures, however long these take; nothing is queued meanwhile."""
    shown = []

    def slow():
        count = watched.newest.count
        while watched.newest.count < count + 3 and not watched.newest.stopped:
            time.sleep(0.002)

    def show(rgb):
        shown.append(number_of(rgb[45:180]))  # 160 x 120 pixels, scaled to 320 x 240
        return True

    session = camera.run(FakeNetwork(slow), stream(tmp_path), show=show)
    steps = np.diff(shown)
    assert session.shown == len(shown) > 3 and (steps[:-1] >= 3).all()
    assert all(before <= number <= after for number, (before, after) in zip(shown, watched.counts[1:]))
    assert session.dropped >= 2 * (session.shown - 2)
    assert watched.notes[0] == "delay –, – frames/s, 0 dropped"
    assert all(note.startswith("delay ") and " ms, " in note for note in watched.notes[1:])
    assert 60 < max(int(note.split()[1]) for note in watched.notes[1:]) < 5000
    said = [int(note.split()[-2]) for note in watched.notes]
    assert said == sorted(said) and said[-1] == session.dropped


def test_memory_does_not_grow_while_pictures_are_dropped(watched, tmp_path):
    write_pictures(tmp_path / "camera.mp4", [np.full((480, 640, 3), 100, np.uint8)] * 40)  # 37 MB of pictures
    peaks = []

    def show(rgb):
        peaks.append(tracemalloc.get_traced_memory()[0])
        return True

    tracemalloc.start()
    try:
        camera.run(FakeNetwork(lambda: time.sleep(0.1)), tmp_path / "camera.mp4", show=show)
    finally:
        tracemalloc.stop()
    assert len(peaks) > 3 and max(peaks[2:]) - peaks[1] < 8e6


def test_a_fast_network_sees_every_frame_at_its_own_rate(watched, tmp_path):
    times_s = []

    def show(rgb):
        times_s.append(time.monotonic())
        return len(times_s) < 6

    session = camera.run(FakeNetwork(rate=10.0), stream(tmp_path), show=show)
    assert session.shown == 6 and times_s[-1] - times_s[0] >= 0.5 - 0.1


def test_q_ends_it_and_the_camera_is_released(watched, tmp_path):
    session = camera.run(FakeNetwork(), stream(tmp_path), show=lambda rgb: False)
    assert session.shown == 1 and not watched.newest.thread.is_alive() and not watched.newest.capture.isOpened()


@pytest.mark.parametrize("retained", [False, True])
def test_without_a_face_the_state_runs_on_and_nothing_is_predicted(retained):
    network = FakeNetwork(retained=retained)
    live = Live(network, "largest", FakeFinder())
    dark, light = np.zeros((120, 160, 3), np.uint8), np.full((120, 160, 3), 200, np.uint8)
    for k, picture in enumerate([dark, light, light, dark, light]):
        live.paint(picture, k / 25, "")
    preds = np.array([row[1] for row in live.rows[1]])[:, 0] * 1000
    fed = [bool(crop.any()) for crop in network.fed]
    if retained:  # before the first face there is none to be retained, and the network is not fed
        assert np.allclose(preds, [np.nan, 0, 1, np.nan, 3], equal_nan=True) and fed == [True] * 4
    else:
        assert np.allclose(preds, [np.nan, 1, 2, np.nan, 4], equal_nan=True) and fed == [False, True, True, False, True]
    assert np.isnan(live.rows[1][3][2]).all() and np.array_equal(live.rows[1][2][2], BOX)


def test_a_causal_level_counts_every_picture_with_a_face_up_to_now():
    network = FakeNetwork()
    network.card["ratings"] = {"arousal": {"mean": 0.1, "sd": 9.0}, "valence": {"mean": -0.2, "sd": 9.0}}
    live = Live(network, "largest", FakeFinder(), "causal")
    dark, light = np.zeros((120, 160, 3), np.uint8), np.full((120, 160, 3), 200, np.uint8)
    for k, picture in enumerate([dark, light, light, dark, light]):
        live.paint(picture, k / 25, "")
    preds = np.array([row[1] for row in live.rows[1]])  # the network's were -, 1, 2, -, 4 thousandths
    mine, sums = np.array([np.nan, 1, 2, np.nan, 4]) / 1000, np.array([np.nan, 1, 3, np.nan, 7]) / 1000
    seen = np.array([np.nan, 1, 2, np.nan, 3])  # after 250 pictures of the ratings' mean
    expected = [mine - (250 * mean + sums) / (250 + seen) + mean for mean in (0.1, -0.2)]
    np.testing.assert_allclose(preds, np.stack(expected, 1), atol=1e-6)


def test_only_the_last_seconds_are_kept_and_axes_grow_when_they_must():
    network = FakeNetwork()
    live = Live(network, "largest", FakeFinder())
    picture = np.full((120, 160, 3), 200, np.uint8)
    sizes, limits = [], []
    for k in range(700):
        live.paint(picture, k / 25, "")
        sizes.append(len(live.rows[1]))
        limits.append(live.overlay.limit)
    assert max(sizes) <= 11 * 25 + 2 and limits[0] == limits[500] == 0.5 and limits[520] == limits[-1] == 0.75


def test_of_several_people_each_has_an_own_state():
    class Two(FakeFinder):
        def __call__(self, rgb):
            boxes = np.array([BOX, BOX + [80, 0, 80, 0]])
            return boxes, np.array([TEMPLATE * 50 + box[:2] for box in boxes]), np.array([0.99, 0.99])

        def refine(self, picture, box):
            return Face(box, TEMPLATE * 50 + box[:2], 0.99)

    network = FakeNetwork()
    live = Live(network, "all", Two())
    for k in range(8):
        live.paint(np.full((120, 160, 3), 200, np.uint8), k / 25, "")
    assert {number: states[-1][1] for number, states in live.states.items()} == {1: 8, 2: 8} and live.overlay.several


def test_a_drawn_person_is_found_and_painted(tmp_path):
    drawn = sitter((62, 1), 30)
    write_video(tmp_path / "camera.mp4", drawn.frames())
    network, shown = FakeNetwork(), []
    network.card["frame_rate"] = 5.0

    def show(rgb):
        shown.append(rgb)
        return len(shown) < 3

    camera.run(network, tmp_path / "camera.mp4", device="cpu", show=show)
    white = (np.abs(shown[-1][:240].astype(int) - (242, 244, 247)) < 40).all(-1)
    ys, xs = np.nonzero(white[60:220])
    assert 90 < xs.min() and xs.max() < 230 and len(xs) > 100 and network.fed[-1].any()


def test_what_cannot_be_used_is_one_clear_line(watched, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="camera 99 cannot be opened: connect one"):
        camera.run(FakeNetwork(), "99", show=lambda rgb: True)
    with pytest.raises(UserError, match="none.mp4 cannot be opened"):
        camera.run(FakeNetwork(), tmp_path / "none.mp4", show=lambda rgb: True)
    hears = FakeNetwork()
    hears.inputs = ("frames", "specs")
    with pytest.raises(SettingsError, match="has no sound; this one is fed frames and specs"):
        camera.run(hears, 0)


def test_without_a_display_or_windows_there_is_one_clear_line(monkeypatch, tmp_path):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QT_QPA_PLATFORM", "xcb")
    with pytest.raises(UserError, match="no window can be opened here: there is no display"):
        camera.run(FakeNetwork(), stream(tmp_path, 5))


def test_the_window_shows_rgb_and_ends_with_q_escape_or_its_cross(monkeypatch):
    shown, keys, visible = [], [-1, ord("x"), ord("q"), 27, -1], [1, 1, 1, 1, 0]
    monkeypatch.setattr(camera.subprocess, "run", lambda *words, **more: SimpleNamespace(returncode=0))
    monkeypatch.setattr(cv2, "namedWindow", lambda *words: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, bgr: shown.append(bgr[0, 0].tolist()))
    monkeypatch.setattr(cv2, "waitKey", lambda ms: keys[len(shown) - 1])
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, what: visible[len(shown) - 1])
    window, red = camera.Window(), np.full((4, 4, 3), (255, 0, 0), np.uint8)
    assert [window(red) for _ in keys] == [True, True, False, False, False] and shown[0] == [0, 0, 255]
