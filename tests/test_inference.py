"""inference.py: what a network is given of a video is what it was trained on, and what becomes of its predictions."""
import gc
import shutil
import sys
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import SMALL, SUBJECTS, TINY, copied, run_of
from videos import shown, sitter

import inference
from config import Config
from drawn.people import write_video
from face_detector import FaceRows, Shot
from faces import TEMPLATE, Face, crop_face
from inference import (
    AHEAD,
    Person,
    Stream,
    check_use,
    describe,
    network_thread,
    open_model,
    predictions,
    processed,
    releveled,
    table_of,
)
from packing import read_image
from postprocessing import PostProcessing, postprocess
from scores import read_predictions
from support.checksums import LIST
from support.errors import SettingsError, UserError
from support.media import read_frames

FACES = {"face_size": 32, "min_face_size": 60, "face_score": 0.9, "look_every": 6, "jpeg_quality": 95}
SOUND = {"segment_at": "centred", "audio_rate": 16000, "segment_s": 1.0, "n_fft": 512, "hop_length": 160, "n_mels": 16,
         "db_min": -80.0, "db_max": 30.0}


class Recorder:
    """A Network that predicts the mean of what it is given, and keeps it."""

    def __init__(self, *inputs, **card):
        shapes = {"frames": [3, 32, 32], "specs": [1, 16, 101]}
        self.inputs, self.targets, self.given = inputs, ["arousal"], []
        self.card = {"stage": "student", "targets": ["arousal"], "frame_rate": 25.0, "clip_stride": 1,
                     "sound": SOUND,
                     "faces": FACES | {"retained": False}, "inputs": {name: shapes[name] for name in inputs},
                     "trained_on": None,
                     "taught_by": None, "distill": None, "postprocessing": None, "ratings": None} | card

    def __call__(self, frames, specs, state):
        assert state == (len(self.given) or None)
        self.given.append({"frames": frames, "specs": specs})
        first = frames if frames is not None else specs
        return first.reshape(len(first), -1).mean(1, keepdims=True, dtype=np.float32), len(self.given)

    def all(self, name):
        return np.concatenate([given[name] for given in self.given])


def through_jpeg(monkeypatch):
    """Crops go through JPEG, as they do on their way into training."""
    def crop(*words):
        bgr = cv2.cvtColor(crop_face(*words), cv2.COLOR_RGB2BGR)
        return cv2.imdecode(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1], cv2.IMREAD_COLOR_RGB)
    monkeypatch.setattr(inference, "crop_face", crop)


@pytest.fixture(scope="session")
def someone_who_leaves(tmp_path_factory):
    """Data folder with one video: nobody, a drawn person, nobody, the same person."""
    data = tmp_path_factory.mktemp("leaves")
    pictures = list(sitter(3, 60).frames())
    nobody = [np.full_like(pictures[0], 90)]
    write_video(data / "videos" / "train_1.mp4", nobody * 11 + pictures[:40] + nobody * 14 + pictures[40:])
    return data


# ---- the same as in training ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", ["visual", "student", "teacher", "audio"])
def test_predictions_for_a_video_are_those_that_training_wrote(stage, trained_corpus, raw_corpus, tmp_path):
    """Where crops go through JPEG too, to the digits of the files; without, by what JPEG loses."""
    network = open_model(run_of(trained_corpus, stage) / "best.pt", "cpu")
    wrote = read_predictions(run_of(trained_corpus, stage), "train", 25) | read_predictions(
        run_of(trained_corpus, stage), "val", 25)
    apart = {"with JPEG": [], "without": []}
    for name in SUBJECTS:
        shutil.copy(raw_corpus / "videos" / f"{name}.mp4", tmp_path)
        shutil.copy(raw_corpus / "audio" / f"{name}.wav", tmp_path)  # the training's sound came from there
        for way in ("without", "with JPEG"):
            with pytest.MonkeyPatch.context() as patch:
                if way == "with JPEG":
                    through_jpeg(patch)
                table, _, damage = predictions(network, tmp_path / f"{name}.mp4", Config(device="cpu"))
            assert len(table) == len(wrote[name]) and damage == []
            assert table["time_s"].tolist() == wrote[name]["time_s"].tolist()
            seen = table["arousal"].notna()
            assert seen.mean() > 0.9
            for target in ("arousal", "valence"):
                apart[way].append((table[target] - wrote[name][f"{target}_pred"])[seen].abs().max())
    assert max(apart["with JPEG"]) < 1e-5
    assert max(apart["without"]) < (1e-5 if stage == "audio" else 1e-3)  # their standard deviations are 0.02 to 0.08
    assert stage == "audio" or max(apart["without"]) > 1e-5  # they did not go through JPEG


@pytest.mark.parametrize("script, retained", [("face_detector", False), ("face_detector_frameRetention", True)])
def test_a_network_is_given_the_crops_of_the_training_also_where_there_is_no_face(script, retained, someone_who_leaves,
                                                                                  tmp_path, call, monkeypatch):
    """Black or the last face, before the first face that one: what lies in Cropped_Aligned, after JPEG."""
    data = shutil.copytree(someone_who_leaves, tmp_path / "data")
    assert call(script, "--data-dir", data, *SMALL)[0] == 0
    crops = sorted((data / "Cropped_Aligned" / "train_1").glob("*.jpg"))
    wanted, found = np.stack([read_image(path, "frames") for path in crops]), pd.read_csv(crops[0].parent / "faces.csv")
    through_jpeg(monkeypatch)
    network = Recorder("frames", faces=FACES | {"retained": retained})
    table, strips, _ = predictions(network, data / "videos" / "train_1.mp4", Config(device="cpu"))
    [strip] = strips.values()
    assert np.array_equal(network.all("frames"), wanted)
    assert table["face"].tolist() == found["found"].tolist()
    assert {"retained" if retained else "missing", "detected", "tracked"} == set(table["face"])
    pd.testing.assert_frame_equal(table[["time_s", "score", "x1", "y1", "x2", "y2"]],
                                  found[["time_s", "score", "x1", "y1", "x2", "y2"]])
    gaps = ~found["found"].isin(["detected", "tracked"])
    assert (table["arousal"].isna() == gaps).all() and 20 < gaps.sum() < 30
    assert len(strip) == inference.STRIP and sum(crop is None for crop in strip.values()) == gaps[list(strip)].sum()


@pytest.mark.parametrize("segment_at", ["centred", "causal"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_network_is_given_the_spectrograms_of_the_training(beside, segment_at, raw_corpus, tmp_path, call):
    """From a sound file beside the video, or the video's own track."""
    folder = tmp_path / "data" / "videos"
    folder.mkdir(parents=True)
    shutil.copy(raw_corpus / "videos" / "train_1.mp4", folder)
    flags = ["--data-dir", folder.parent, "--segment-at", segment_at]
    if beside:
        shutil.copytree(raw_corpus / "audio", folder.parent / "audio")
    assert call("audio_extract", *flags, "--recordings", "train_1")[0] == 0
    assert call("audio_melspec", "--data-dir", folder.parent, "--n-mels", 16, "--spec-files", "array")[0] == 0
    if beside:
        shutil.copy(raw_corpus / "audio" / "train_1.wav", folder)
    network = Recorder("specs", faces=None, sound=SOUND | {"segment_at": segment_at})
    table, strips, _ = predictions(network, folder / "train_1.mp4", Config())
    wanted = np.load(folder.parent / "specs" / "train_1.npy")
    assert np.array_equal(network.all("specs"), wanted) and len(table) == len(wanted)
    assert table["arousal"].notna().all() and table["face"].eq("").all() and strips == {}


def test_face_and_voice_of_a_frame_come_together_and_a_silent_video_is_refused(raw_corpus, tmp_path):
    network = Recorder("frames", "specs")
    video = shutil.copy(raw_corpus / "videos" / "train_1.mp4", tmp_path)
    predictions(network, raw_corpus / "videos" / "train_1.mp4", Config(device="cpu"))
    assert {len(one["frames"]) for one in network.given} == {len(one["specs"]) for one in network.given} == {60}
    write_video(tmp_path / "silent.mp4", (picture.rgb for _, picture in read_frames(video, 25)))
    with pytest.raises(UserError, match=r"silent.mp4 has no sound, which this network .* needs.*silent.wav"):
        predictions(network, tmp_path / "silent.mp4", Config(device="cpu"))


def test_what_is_wrong_with_the_sound_is_said(raw_corpus, tmp_path):
    video = Path(shutil.copy(raw_corpus / "videos" / "train_1.mp4", tmp_path))
    sound, rate = soundfile.read(raw_corpus / "audio" / "train_1.wav")
    soundfile.write(tmp_path / "train_1.wav", np.stack([sound, -sound], 1)[:int(1.5 * rate)], rate)
    _, _, damage = predictions(Recorder("specs", faces=None), video, Config())
    assert "channel 1 alone" in damage[0] and "ends 0.9 s before" in damage[1] and len(damage) == 2


# ---- batches --------------------------------------------------------------------------------------------------------

def test_frames_come_in_full_batches_in_order_with_the_state_carried():
    network = Recorder("frames")
    with network_thread() as thread:
        stream = Stream(network, thread)
        for k in range(2 * inference.BATCH + 5):
            stream.add(np.full((32, 32, 3), k, np.uint8))
        preds = stream.end()
    assert preds[:, 0].tolist() == list(range(len(preds)))
    assert [len(one["frames"]) for one in network.given] == [inference.BATCH, inference.BATCH, 5]


def test_a_slow_network_is_waited_for():
    """No more than AHEAD batches wait: memory does not grow with the length of a video."""
    go, sent = threading.Semaphore(0), []

    class Slow(Recorder):
        def __call__(self, *words):
            go.acquire()
            return super().__call__(*words)

    with network_thread() as thread:
        stream = Stream(Slow("frames"), thread)

        def fill():
            for k in range(6 * inference.BATCH):
                stream.add(np.zeros((32, 32, 3), np.uint8))
                sent.append(k)
        filling = threading.Thread(target=fill)
        filling.start()
        filling.join(2)
        assert filling.is_alive() and len(sent) < (AHEAD + 1) * inference.BATCH
        go.release(6)
        filling.join()
        assert len(stream.end()) == len(sent) == 6 * inference.BATCH


def test_predictions_that_are_not_finite_end_in_an_error():
    class Broken(Recorder):
        def __call__(self, frames, specs, state):
            return np.full((len(frames), 1), np.nan, np.float32), None

    with network_thread() as thread, pytest.raises(UserError, match="not finite"):
        stream = Stream(Broken("frames"), thread)
        stream.add(np.zeros((32, 32, 3), np.uint8))
        stream.end()


def test_memory_does_not_grow_with_the_number_of_frames():
    class Forgetful(Recorder):
        def __call__(self, frames, specs, state):
            return np.zeros((len(frames), 1), np.float32), None

    def peak(frames):
        with network_thread() as thread:
            stream, crop = Stream(Forgetful("frames"), thread), np.zeros((32, 32, 3), np.uint8)
            tracemalloc.start()
            for _ in range(frames):
                stream.add(crop)
            stream.end()
            size = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return size
    assert peak(4000) < peak(500) + 1_000_000  # 3500 more frames have 10 MB, a batch that waits .2 MB


def test_no_object_is_kept_for_a_frame_or_a_batch(monkeypatch):
    """An hour has 90,000 frames; between small objects that stay, freed memory is lost."""
    class Short(Recorder):
        def __call__(self, frames, specs, state):
            return np.zeros((len(frames), 1), np.float32), None

    monkeypatch.setattr(inference, "BATCH", 8)
    picture = shown(np.zeros((64, 64, 3), np.uint8))
    with network_thread() as thread:
        network = Short("frames")
        person = Person(Stream(network, thread), network.card, {})

        def add(first, frames):
            for k in range(first, first + frames):
                face = Face(np.arange(4.0) + k, 32 + 16 * TEMPLATE, 0.9) if k % 50 else None
                person.add(Shot(range(k, k + 1), picture, face, "tracked" if face else "missing"))
            gc.collect()
            return sys.getallocatedblocks()
        before = add(0, 2000)
        assert add(2000, 4000) < before + 200
        table, preds = person.end()
    assert len(table) == len(preds) == 6000 and (table["found"] == "missing").sum() == 120
    assert table["x2"][5999] == 2 + 5999 and table["frame"].tolist() == list(range(6000))


def test_an_error_in_the_network_comes_out():
    class Broken(Recorder):
        def __call__(self, *words):
            raise UserError("broken")
    with network_thread() as thread, pytest.raises(UserError, match="broken"):
        stream = Stream(Broken("frames"), thread)
        stream.add(np.zeros((32, 32, 3), np.uint8))
        stream.end()


def test_bfloat16_is_near_float32(trained_corpus, raw_corpus):
    path, tables = run_of(trained_corpus, "visual") / "best.pt", {}
    for precision in ("float32", "auto", "bfloat16"):
        network = open_model(path, "cpu", precision)
        table, *_ = predictions(network, raw_corpus / "videos" / "train_1.mp4", Config(device="cpu"))
        tables[precision] = table["arousal"]
    assert (tables["auto"] == tables["float32"]).all()  # as mmpkd.py predicts
    assert 0 < (tables["bfloat16"] - tables["float32"]).abs().max() < 0.03


# ---- the table ------------------------------------------------------------------------------------------------------

RATINGS = {"arousal": {"mean": 0.1, "sd": 0.25}}
CONSTANTS = {"window_frames": 5, "bias": 0.1, "scale": 1.5, "centre": 0.2, "delay_frames": 3}


def rows_of(found):
    rows = FaceRows()
    for k, word in enumerate(found):
        rows.add([k], word, Face(np.arange(4.0), np.zeros((5, 2)), 0.9))
    return rows.table()


def post_processed(preds, found):
    card = {"targets": ["arousal"], "postprocessing": {"smoothing": "mean", "arousal": CONSTANTS}}
    network = SimpleNamespace(inputs=("frames",), targets=["arousal"])
    return processed(table_of(rows_of(found), np.array(preds)[:, None], network), card)["arousal"]


def test_post_processing_is_that_of_plot_ccc():
    preds = np.random.default_rng(0).normal(size=50)
    wanted = postprocess(preds, PostProcessing(**CONSTANTS), "mean")
    np.testing.assert_allclose(post_processed(preds, ["tracked"] * 50), wanted)


def test_post_processing_invents_nothing_where_there_is_no_face():
    """Neither at such a frame, nor at the one to which it is delayed; and others do not take its value in."""
    preds, found = np.full(30, 0.5), ["tracked"] * 30
    found[10] = found[11] = "retained"
    preds[10:12] = 99
    after = post_processed(preds, found)
    assert np.flatnonzero(after.isna()).tolist() == [10, 11, 13, 14]
    assert after.dropna().tolist() == pytest.approx([0.2 + 1.5 * (0.6 - 0.2)] * 26)


def test_a_level_counts_no_frame_without_a_face():
    found = ["missing", "missing", "detected", "tracked", "missing", "tracked"]
    network = SimpleNamespace(inputs=("frames",), targets=["arousal"])
    table = table_of(rows_of(found), np.array([9, 9, 1, 3, 9, 5.0])[:, None], network)
    causal, recording = (releveled(table, {"ratings": RATINGS, "frame_rate": 0.1}, level)["arousal"]
                         for level in ("causal", "recording"))
    np.testing.assert_allclose(causal, [np.nan, np.nan, 0.55, 3.1 - 4.1 / 3, np.nan, 5.1 - 9.1 / 4])
    step = 0.25 * 1.5 ** 0.5  # 1, 3, 5 are 1.5 ** 0.5 standard deviations apart
    np.testing.assert_allclose(recording, [np.nan, np.nan, 0.1 - step, 0.1, np.nan, 0.1 + step])


# ---- which network --------------------------------------------------------------------------------------------------

def test_a_line_says_what_kind_of_network_it_is(trained_corpus):
    lines = {stage: describe(open_model(run_of(trained_corpus, stage) / "best.pt", "cpu").card)
             for stage in ("visual", "student", "teacher", "audio")}
    assert lines["visual"] == "visual, face only, trained on 2 subjects: arousal and valence at 25 frames/s"
    assert lines["student"] == ("student, face only, trained on 2 subjects, taught by teacher_both (cosine): arousal "
                                "and valence at 25 frames/s")
    assert lines["teacher"].startswith("teacher, face and voice") and lines["audio"].startswith("audio, voice only")


@pytest.mark.parametrize("network, options, words", [
    (Recorder("frames", faces=None), {}, "a.pt does not say how the face crops .* face_detector.py"),
    (Recorder("specs", sound=None), {}, "a.pt does not say how the spectrograms .* audio_melspec.py"),
    (Recorder("frames", frame_rate=None), {}, "older version"),
    (Recorder("frames", "specs"), {"people": "all"}, "people.*whose voice"),
    (Recorder("frames"), {"postprocess": True}, "postprocess.*no post-processing"),
    (Recorder("frames", ratings=None), {"level": "causal"}, "level: a.pt does not say.*older version.*Train it again"),
    (Recorder("frames", postprocessing=CONSTANTS, ratings=RATINGS), {"level": "causal", "postprocess": True},
     "level: causal and --postprocess.*leave one")])
def test_a_network_that_cannot_be_used_says_why(network, options, words):
    with pytest.raises(SettingsError, match=words):
        check_use(network, "a.pt", Config(**options))


def test_a_run_on_crops_of_another_origin_says_that_it_cannot_see_videos(made_corpus, tmp_path, call):
    """Crops that a corpus ships, with no faces.csv."""
    data = copied(made_corpus, tmp_path / "data")
    for table in (data / "Cropped_Aligned").glob("*/faces.csv"):
        table.unlink()
        table.with_name(LIST).unlink()
    assert call("mmpkd", "--data-dir", data, *TINY, "--stage", "visual")[0] == 0
    network = open_model(run_of(data, "visual", "arousal") / "best.pt", "cpu")
    with pytest.raises(SettingsError, match="cannot be given a video"):
        check_use(network, "best.pt", Config())
