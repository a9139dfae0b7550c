"""predict.py, as its user calls it: what it writes, what it says, and what it does with bad input."""
import functools
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import files_of, one_line, run_of
from videos import faststart, sitter, write_pictures

import predict
from checkpoints import load_checkpoint, save_checkpoint
from drawn.people import Recording, write_video
from inference import open_model
from postprocessing import PostProcessing, postprocess
from support.errors import SettingsError
from support.media import picture_clock

COLUMNS = ["time_s", "arousal", "valence", "face", "score", "x1", "y1", "x2", "y2"]
FRAMES = 20


@pytest.fixture(scope="session")
def student(trained_corpus):
    return run_of(trained_corpus, "student") / "best.pt"


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A folder with two videos, of one drawn person each. Read only."""
    folder = tmp_path_factory.mktemp("clips")
    for number in (2, 10):
        write_video(folder / f"clip_{number}.mp4", sitter(number, FRAMES).frames())
    return folder


@pytest.fixture
def clip(clips, tmp_path):
    return Path(shutil.copy(clips / "clip_2.mp4", tmp_path))


@pytest.fixture
def run(call, student, tmp_path):
    """run(video, flags ...) -> (exit code, stdout, stderr) of predict.py with the student, into tmp_path/out."""
    def run(*words, network=student):
        return call("predict", network, *words, "--out", tmp_path / "out", "--device", "cpu")
    return run


def table_of(tmp_path, name="clip_2"):
    return pd.read_csv(tmp_path / "out" / f"{name}.csv")


# ---- what was written before ----------------------------------------------------------------------------------------

def test_another_video_of_the_same_name_and_size_is_not_taken_for_done(run, clips, clip, tmp_path):
    other, size = clips / "clip_10.mp4", max(path.stat().st_size for path in clips.iterdir())
    for path in (clip, padded := Path(shutil.copy(other, tmp_path / "other.mp4"))):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    assert run(clip, "--overlay")[0] == 0
    before, overlay = table_of(tmp_path), (tmp_path / "out" / "clip_2_overlay.mp4").read_bytes()
    shutil.copy(padded, clip)
    assert "clip_2.csv was made of" in one_line(*run(clip)[::2], 1)
    (tmp_path / "out" / "clip_2.csv").unlink()
    assert run(clip, "--overlay")[0] == 0
    assert not table_of(tmp_path).equals(before)
    assert (tmp_path / "out" / "clip_2_overlay.mp4").read_bytes() != overlay, "the overlay of the video before"


def test_a_network_that_was_trained_again_is_read_again(student, trained_corpus, clip, tmp_path):
    network = shutil.copy(student, tmp_path / "best.pt")
    before = predict.predict_video(network, clip, device="cpu")
    shutil.copy(run_of(trained_corpus, "visual") / "best.pt", network)
    assert not predict.predict_video(network, clip, device="cpu").equals(before)


@pytest.mark.parametrize("kind, content", [("json", "{"), ("json", "[]"), ("json", "{\"a\": 3}"), ("csv", ""),
                                           ("csv", "x,y\n")])
def test_damaged_results_are_named(run, clip, tmp_path, kind, content):
    assert run(clip)[0] == 0
    (tmp_path / "out" / f"clip_2.{kind}").write_text(content)
    code, out, err = run(clip)
    assert code == 1 and f"clip_2.{kind} " in out + err and "Traceback" not in err
    assert "delete" in out + err


def test_a_folder_with_settings_of_something_else_is_left_alone(run, clip, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "settings.json").write_text('{"my": "own"}')
    assert "holds other files" in one_line(*run(clip)[::2], 1)
    assert (tmp_path / "out" / "settings.json").read_text() == '{"my": "own"}'


# ---- what is written ------------------------------------------------------------------------------------------------

def test_every_video_gets_a_table_and_a_figure_and_a_line_of_the_summary(run, clips, tmp_path):
    code, out, err = run(clips)
    assert (code, err) == (0, "")
    assert "best.pt: student, face only, trained on 2 subjects" in out.splitlines()[0]
    assert out.index("clip_2") < out.index("clip_10")  # natural order
    for name in ("clip_2", "clip_10"):
        table = table_of(tmp_path, name)
        assert list(table) == COLUMNS and table["time_s"].tolist() == [k / 25 for k in range(FRAMES)]
        assert table.notna().all(axis=None) and table["face"].isin(["detected", "tracked"]).all()
        assert cv2.imread(str(tmp_path / "out" / f"{name}.png")).shape[1] > 1000
        assert f"{table['arousal'].mean():.3f}" in out.splitlines()[-1 if name == "clip_10" else -2]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["settings.json", *(f"clip_{n}.{kind}" for n in (2, 10) for kind in ("csv", "json", "png"))])


def test_of_several_networks_the_mean_is_predicted(run, student, trained_corpus, clip, tmp_path):
    visual = run_of(trained_corpus, "visual") / "best.pt"
    each = [predict.predict_video(network, clip, device="cpu") for network in (student, visual)]
    code, said, err = run(visual, clip)
    assert (code, err) == (0, "") and "the mean of these 2 networks'" in said
    assert f"{student}: student, face only" in said and f"{visual}: visual, face only" in said
    table = table_of(tmp_path)
    assert not each[0]["arousal"].equals(each[1]["arousal"])
    for target in ("arousal", "valence"):
        mean = (each[0][target] + each[1][target]) / 2
        np.testing.assert_allclose(table[target], mean, atol=1e-5)
        assert table[target].std() > 0
    both = iter([student, visual])
    pd.testing.assert_frame_equal(predict.predict_video(both, clip, device="cpu"), table, rtol=1e-5)
    assert "done before" in run(clip, student, network=visual)[1], "the order does not matter"
    assert "network mean of 2 " in one_line(*run(clip)[::2], 1), "of one of them: other results"


def test_a_mean_can_be_at_another_level_if_the_ratings_were_the_same(student, trained_corpus, clip):
    networks = student, run_of(trained_corpus, "visual") / "best.pt"
    tables = [predict.predict_video(one, clip, device="cpu", level="causal") for one in (*networks, networks)]
    np.testing.assert_allclose(tables[2]["arousal"], (tables[0]["arousal"] + tables[1]["arousal"]) / 2, atol=1e-6)


def test_networks_without_a_mean_are_named(call, student, trained_corpus, clip, tmp_path):
    teacher = run_of(trained_corpus, "teacher") / "best.pt"
    call = functools.partial(call, "predict", student, clip, "--out", tmp_path / "out", "--device", "cpu")
    assert f"{student} and {teacher} differ in inputs" in one_line(*call(teacher)[::2], 2)
    assert f"{student} was named twice" in one_line(*call(student)[::2], 2)
    (tmp_path / "link.pt").symlink_to(student)
    with pytest.raises(SettingsError, match="link.pt was named twice"):
        predict.predict_video([student, tmp_path / "link.pt"], clip)
    with pytest.raises(SettingsError, match="an empty list"):
        predict.predict_video([], clip)
    copy = shutil.copy(student, tmp_path / "copy.pt")
    assert f"{student} and {copy} are copies" in one_line(*call(copy)[::2], 2)
    assert f"if a network was meant: {student}" in one_line(*call(student.parent)[::2], 1)
    visual = run_of(trained_corpus, "visual") / "best.pt"
    assert "a mean of several" in one_line(*call(visual, "--postprocess")[::2], 2)
    state = load_checkpoint(student)
    save_checkpoint(other := tmp_path / "other.pt", state | {"card": state["card"] | {"ratings": None}})
    assert "different ratings" in one_line(*call(other, "--level", "causal")[::2], 2)
    assert not list(tmp_path.glob("out/*.csv"))


def test_frames_without_a_face_are_marked_and_have_no_prediction(run, tmp_path):
    pictures = list(sitter(3, 60).frames())
    write_video(tmp_path / "a.mp4", pictures[:30] + [np.full_like(pictures[0], 90)] * 12 + pictures[30:])
    assert run(tmp_path / "a.mp4")[0] == 0
    table = table_of(tmp_path, "a")
    missing = table["face"] == "missing"
    assert missing[31:40].all() and 9 <= missing.sum() <= 14
    assert table[missing].drop(columns=["time_s", "face"]).isna().all(axis=None)
    assert table[~missing].notna().all(axis=None)


def test_in_a_notebook_the_same_table_comes_out(run, student, clip, tmp_path):
    assert run(clip)[0] == 0
    table = predict.predict_video(student, clip, device="cpu")
    assert list(table) == COLUMNS
    pd.testing.assert_frame_equal(table, table_of(tmp_path), rtol=1e-5)


def test_importing_predict_runs_nothing_and_loads_neither_torch_nor_matplotlib(tmp_path):
    code = "import sys, predict; print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    root = Path(predict.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_second_run_does_nothing_twice_and_says_so(run, clips, tmp_path):
    first, before = run(clips), files_of(tmp_path / "out")
    code, out, _ = run(clips)
    assert code == 0 and files_of(tmp_path / "out") == before
    assert out.count("done before") == 2 and first[1].splitlines()[-1] == out.splitlines()[-1]


def test_what_was_deleted_is_made_again_the_same(run, clips, tmp_path):
    run(clips)
    before = files_of(tmp_path / "out")
    (tmp_path / "out" / "clip_2.csv").unlink()
    out = run(clips)[1]
    assert files_of(tmp_path / "out") == before and out.count("done before") == 1


def test_several_workers_write_the_same_bytes(run, clips, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run(clips, "--workers", 1)
    alone = files_of(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert run(clips, "--workers", 2)[0] == 0
    together = files_of(tmp_path / "out")
    assert alone.keys() == together.keys()
    for path in (path for path in alone if path.suffix == ".csv"):
        pd.testing.assert_frame_equal(*(pd.read_csv(io.BytesIO(files[path])) for files in (alone, together)), atol=1e-5)


CONSTANTS = {"window_frames": 5, "bias": 0.1, "scale": 1.5, "centre": 0.2, "delay_frames": 3}


@pytest.fixture
def fitted(student, tmp_path):
    """The student with constants of a post-processing."""
    state, path = load_checkpoint(student), tmp_path / "best.pt"
    constants = {"smoothing": "median", "arousal": CONSTANTS, "valence": CONSTANTS | {"bias": -0.2}}
    save_checkpoint(path, state | {"card": state["card"] | {"postprocessing": constants}})
    return path


@pytest.mark.parametrize("change", ["network", "postprocess", "people", "level"])
def test_results_of_another_network_or_option_are_not_mixed(change, run, clip, fitted, trained_corpus, tmp_path):
    run = functools.partial(run, network=fitted)
    assert run(clip)[0] == 0
    before = files_of(tmp_path / "out")
    other = run_of(trained_corpus, "visual") / "best.pt"
    words = {"network": [], "people": ["--people", "all"], "postprocess": ["--postprocess"],
             "level": ["--level", "causal"]}[change]
    code, _, err = run(clip, *words, **({"network": other} if change == "network" else {}))
    assert f"out/ was made with {change}" in one_line(code, err) and "--out" in err
    assert files_of(tmp_path / "out") == before


def test_a_folder_of_a_version_without_levels_is_continued_and_not_with_another_level(run, clip, fitted, tmp_path):
    assert run(clip, network=fitted)[0] == 0
    note = tmp_path / "out" / "settings.json"
    note.write_text(json.dumps({name: value for name, value in json.loads(note.read_text()).items()
                                if name not in ("level", "crc32")}))
    code, _, err = run(clip, "--level", "causal", network=fitted)
    assert "out/ was made with level raw, now it is causal" in one_line(code, err)
    assert run(clip, network=fitted)[0] == 0


def test_another_video_of_the_same_name_is_not_taken_for_done(run, clip, clips, tmp_path):
    assert run(clip)[0] == 0
    (tmp_path / "other").mkdir()
    other = shutil.copy(clips / "clip_10.mp4", tmp_path / "other" / "clip_2.mp4")
    err = one_line(*run(other)[::2])
    assert f"clip_2.csv was made of {clip}, not of {other}" in err


def test_a_folder_with_other_files_is_not_written_into(run, clip, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "clip_2.csv").write_text("my ratings")
    assert "out/ holds other files" in one_line(*run(clip)[::2])
    assert (tmp_path / "out" / "clip_2.csv").read_text() == "my ratings"


def test_a_folder_is_searched_for_videos_and_what_is_left_out_is_named(run, clips, tmp_path):
    folder = shutil.copytree(clips, tmp_path / "mixed")
    (folder / "notes.txt").write_text("")
    (folder / ".hidden.mp4").write_text("")
    (folder / "clip_2.wav").write_text("")  # sound of clip_2, which this network does not hear
    code, out, _ = run(folder)
    assert code == 0 and f"{folder}: left out, no videos by their names: notes.txt\n" in out


def test_with_people_all_each_has_rows_of_an_own_and_alone_it_is_the_largest(run, tmp_path):
    """Two drawn persons side by side; the CSV holds an id."""
    one, two = (list(sitter(number, 40).frames()) for number in (2, 10))
    write_video(tmp_path / "both.mp4", [np.concatenate(pair, axis=1) for pair in zip(one, two)])
    write_video(tmp_path / "one.mp4", one)
    assert run(tmp_path / "both.mp4", tmp_path / "one.mp4", "--people", "all")[0] == 0
    table = table_of(tmp_path, "both")
    assert list(table) == [COLUMNS[0], "person", *COLUMNS[1:]]
    assert table["person"].tolist() == [1, 2] * 40
    assert table["time_s"].tolist() == np.repeat([k / 25 for k in range(40)], 2).tolist()
    middle = table.groupby("person")["x1"].mean()
    assert sorted(middle.round(-2)) == pytest.approx([100, 400], abs=60)
    alone = table_of(tmp_path, "one")
    shutil.rmtree(tmp_path / "out")
    assert run(tmp_path / "one.mp4", "--people", "largest")[0] == 0
    pd.testing.assert_frame_equal(alone.drop(columns="person"), table_of(tmp_path, "one"))


def test_an_overlay_is_made_beside_the_table_also_later(run, clip, tmp_path):
    assert run(clip)[0] == 0
    before = files_of(tmp_path / "out")
    assert run(clip, "--overlay")[0] == 0
    after = files_of(tmp_path / "out")
    assert {path.name for path in after.keys() - before.keys()} == {"clip_2_overlay.mp4"}
    assert all(after[path] == before[path] for path in before)
    assert len(picture_clock(tmp_path / "out" / "clip_2_overlay.mp4").times_s) == FRAMES


def test_an_overlay_is_not_written_over_a_video(call, student, clip, tmp_path):
    (tmp_path / "out").mkdir()
    other = shutil.copy(clip, tmp_path / "clip_2_overlay.mp4")
    code, _, err = call("predict", student, clip, other, "--overlay", "--out", tmp_path)
    assert code == 1 and "holds other files" in err  # the results go into a folder of their own
    assert call("predict", student, clip, "--out", tmp_path / "out")[0] == 0
    before = Path(shutil.copy(clip, tmp_path / "out" / "clip_2_overlay.mp4")).read_bytes()
    err = one_line(*call("predict", student, clip, tmp_path / "out" / "clip_2_overlay.mp4", "--overlay", "--out",
                         tmp_path / "out")[::2])
    assert "clip_2_overlay.mp4 would be written over a video" in err
    assert (tmp_path / "out" / "clip_2_overlay.mp4").read_bytes() == before


def test_post_processing_is_applied_with_the_constants_of_the_run(run, fitted, clip, tmp_path):
    raw = predict.predict_video(fitted, clip, device="cpu")
    assert run(clip, "--postprocess", network=fitted)[0] == 0
    constants = open_model(fitted, "cpu").card["postprocessing"]
    for target in ("arousal", "valence"):
        wanted = postprocess(raw[target].to_numpy(), PostProcessing(**constants[target]), constants["smoothing"])
        np.testing.assert_allclose(table_of(tmp_path)[target], wanted, atol=1e-5)


# ---- the command line -----------------------------------------------------------------------------------------------

def test_about_prints_the_model_card(call, student, trained_corpus):
    code, out, err = call("predict", student, "--about")
    assert (code, err) == (0, "") and out.startswith("MODEL CARD: student network for arousal and valence")
    visual = run_of(trained_corpus, "visual") / "best.pt"
    out = call("predict", student, visual, "--about")[1]
    assert out.startswith("MODEL CARD: student") and "\n\nMODEL CARD: visual network for" in out


@pytest.mark.parametrize("words, said", [
    ([], "no network"), (["best.pt"], "no videos"), (["best.pt", "nowhere.mp4"], "nowhere.mp4 is missing"),
    (["best.pt", "empty"], "empty/ holds no videos"), (["."], "is a folder"),
    (["nothing.pt"], "nothing.pt is missing")])
def test_a_wrong_call_is_one_line(words, said, call, student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copy(student, tmp_path)
    code, _, err = call("predict", *words)
    assert said in one_line(code, err, code) and code in (1, 2)


def test_the_camera_is_watched_with_the_network_and_does_not_go_with_files(call, student, clip, monkeypatch):
    asked = []
    monkeypatch.setattr("camera.run", lambda network, source, people, device, level: asked.append(
        (network.targets, source, people)) or SimpleNamespace(shown=8, dropped=2))
    code, out, _ = call("predict", student, "--camera", 0, "--people", "all")
    assert code == 0 and asked == [(["arousal", "valence"], 0, "all")] and "8 frames shown, 2 dropped" in out
    assert "camera: videos" in one_line(*call("predict", student, clip, "--camera", 0)[::2], 2)


def test_flags_may_stand_between_the_videos(run, clips, tmp_path):
    assert run(clips / "clip_2.mp4", "--precision", "float32", clips / "clip_10.mp4")[0] == 0
    assert len(table_of(tmp_path, "clip_10")) == FRAMES


def test_two_videos_of_the_same_name_are_refused_before_anything_is_done(run, clip, tmp_path):
    (tmp_path / "b").mkdir()
    other = shutil.copy(clip, tmp_path / "b" / "clip_2.mkv")
    err = one_line(*run(clip, other)[::2])
    assert f"{clip} and {other} have the same name" in err and not (tmp_path / "out").exists()
    assert run(clip, clip)[0] == 0  # the same file twice is one video


# ---- bad input: each is one line, and the others are done -----------------------------------------------------------

def no_face(path, clip):
    write_video(path, [np.full((240, 320, 3), 90, np.uint8)] * 20)


def no_video_track(path, clip):
    import av
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(track.encode(sound))
        container.mux(track.encode())


def no_frames(path, clip):
    import av
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        container.start_encoding()


def an_image(path, clip):
    cv2.imwrite(str(path.with_suffix(".jpg")), next(sitter(1, 1).frames()))
    path.with_suffix(".jpg").rename(path)


def an_odd_codec(path, clip):
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"xyz1").replace(b"avcC", b"xyzC"))


def text(path, clip):
    path.write_text("no video at all")


def nothing(path, clip):
    path.write_bytes(b"")


def half_without_an_index(path, clip):
    path.write_bytes(clip.read_bytes()[:clip.stat().st_size // 2])


BAD = {no_face: "no face in any of its 20 frames", no_video_track: "has no video track",
       no_frames: "cannot be read as video", an_image: "is an image", an_odd_codec: "codec that is not known",
       text: "cannot be read as video", nothing: "the file is empty", half_without_an_index: "cannot be read as video"}


def test_videos_that_cannot_be_used_are_named_and_the_others_are_done(run, clip, tmp_path):
    bad = {make: tmp_path / f"{make.__name__}.mp4" for make in BAD}
    for make, path in bad.items():
        make(path, clip)
    code, out, err = run(*bad.values(), clip)
    lines = out.splitlines()
    for make, path in bad.items():
        line, = (line for line in lines if line.startswith(f"{path.stem}: FAILED"))
        assert re.search(BAD[make], line) and str(path) in line
        line, = (line for line in lines[-len(bad) - 1:] if line.startswith(f"{path.stem} "))  # of the summary
        assert "failed" in line and not (tmp_path / "out" / f"{path.stem}.csv").exists()
    assert f"{len(bad)} of {len(bad) + 1} recordings failed (" in one_line(code, err)
    assert all(path.stem in err for path in bad.values())
    assert len(table_of(tmp_path)) == FRAMES


def test_of_a_video_that_breaks_off_what_was_read_is_kept_and_said(run, student, tmp_path):
    write_video(tmp_path / "drawn.mp4", Recording.draw((3, 1), 50).frames())
    whole, video = faststart(tmp_path / "drawn.mp4", tmp_path / "whole.mp4"), tmp_path / "half.mp4"
    video.write_bytes(whole.read_bytes()[:whole.stat().st_size * 7 // 10])
    code, out, err = run(whole, video)
    assert (code, err) == (0, "") and "half.mp4 is cut short: it holds" in out
    half, full = table_of(tmp_path, "half"), table_of(tmp_path, "whole")
    assert 10 < len(half) < 45
    early = slice(0, len(half) - 20)  # the last picture may stay for 12; landmarks depend on 8 later ones
    pd.testing.assert_frame_equal(half[early], full[early], atol=1e-4)
    assert "done before; " in (again := run(whole, video)[1]) and "half.mp4 is cut short" in again
    with pytest.warns(UserWarning, match="cut short"):
        predict.predict_video(student, video, device="cpu")


def test_pictures_that_cannot_be_read_in_between_are_counted(run, tmp_path):
    video = write_pictures(tmp_path / "a.avi", list(Recording.draw((3, 1), 12).frames()), range(12), Fraction(1, 25),
                           "mjpeg")
    with av.open(str(video)) as container:
        at, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][5]
    data = bytearray(video.read_bytes())
    data[at:at + size] = bytes(size)
    video.write_bytes(data)
    code, out, err = run(video)
    assert (code, err) == (0, "") and "(1 of 12 pictures unreadable, the one before shown)" in out
    assert len(table_of(tmp_path, "a")) == 12


def test_a_portrait_video_with_a_rotation_flag_is_seen_upright(run, clip, tmp_path):
    stored = [np.ascontiguousarray(np.rot90(picture)) for picture in sitter(2, FRAMES).frames()]
    write_pictures(tmp_path / "turned.mp4", stored)
    data = bytearray((tmp_path / "turned.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    matrix = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]
    data[at:at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
    (tmp_path / "turned.mp4").write_bytes(data)
    assert run(clip, tmp_path / "turned.mp4")[0] == 0
    upright, turned = table_of(tmp_path), table_of(tmp_path, "turned")
    boxes = ["x1", "y1", "x2", "y2"]
    assert np.abs(upright[boxes] - turned[boxes]).max(axis=None) < 8
    assert np.abs(upright["arousal"] - turned["arousal"]).max() < 0.05


def test_a_variable_rate_gives_rows_at_the_networks_rate(run, tmp_path):
    gaps = np.random.default_rng(0).integers(10, 90, FRAMES - 1) * 90
    stamps = [0, *np.cumsum(gaps).tolist()]
    write_pictures(tmp_path / "a.mp4", list(sitter(2, FRAMES).frames()), stamps)
    assert run(tmp_path / "a.mp4")[0] == 0
    table = table_of(tmp_path, "a")
    assert table["time_s"].tolist() == [k / 25 for k in range(len(table))]
    assert len(table) == pytest.approx(stamps[-1] / 90000 * 25, abs=4)


def test_a_video_of_8k_is_read(run, tmp_path):
    large = cv2.resize(next(sitter(2, 1).frames()), (7680, 4320), interpolation=cv2.INTER_NEAREST)
    write_pictures(tmp_path / "a.mp4", [large], [0, 3600], codec="mjpeg")
    assert run(tmp_path / "a.mp4")[0] == 0
    assert len(table_of(tmp_path, "a")) == 1


def test_a_name_may_hold_anything(run, tmp_path):
    names = ["with space", "it's \"quoted\"", "12:30:05", "Zoë 情感 привет", "[brackets]", "100%", "$x^2$"]
    videos = [tmp_path / name / f"{name}.mp4" for name in names]
    for video in videos:
        write_video(video, sitter(2, 3).frames())
    code, out, err = run(*videos)
    assert (code, err) == (0, "")
    for name in names:
        assert f"\n{name}: 3 frames" in out
        assert len(table_of(tmp_path, name)) == 3 and (tmp_path / "out" / f"{name}.png").exists()


def test_a_name_with_a_colon_is_no_protocol_of_ffmpeg(run, clips, tmp_path, monkeypatch):
    """Relative names: of "concat:clip_2.mp4" FFmpeg would read clip_2.mp4."""
    monkeypatch.chdir(tmp_path)
    names = ["12:30.mp4", "concat:clip_2.mp4", "data:x.mp4"]
    for name in names:
        shutil.copy(clips / "clip_10.mp4", name)
    shutil.copy(clips / "clip_2.mp4", tmp_path)
    code, _, err = run(*names, "clip_2.mp4")
    assert (code, err) == (0, "")
    first, *others = (table_of(tmp_path, Path(name).stem) for name in names)
    assert all(first.equals(other) for other in others) and not first.equals(table_of(tmp_path))


def test_an_output_folder_that_cannot_be_written_is_named(call, student, clip, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = call("predict", student, clip, "--out", tmp_path / "file" / "out")
    assert f"out: {tmp_path}/file/out/ cannot be written" in one_line(code, err, 2)


# ---- a network that is something else -------------------------------------------------------------------------------

class Touches:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_in_a_hostile_checkpoint_does_not_run(call, clip, tmp_path):
    trap = tmp_path / "it_ran"
    pickle.loads(pickle.dumps(Touches(trap)))
    assert trap.exists()  # the trap works
    trap.unlink()
    plain, zipped = tmp_path / "plain.pt", tmp_path / "zipped.pt"
    plain.write_bytes(pickle.dumps(Touches(trap)))
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"model": Touches(trap)}))
        file.writestr("archive/version", "3\n")
    for path in (plain, zipped):
        for words in ([clip], ["--about"]):
            err = one_line(*call("predict", path, *words)[::2])
            assert str(path) in err and "not a whole checkpoint" in err and not trap.exists()


def test_a_file_that_is_no_network_is_named(call, clip, tmp_path):
    (tmp_path / "notes.pt").write_text("hello")
    for path in (clip, tmp_path / "notes.pt"):
        assert f"{path} is not a whole checkpoint" in one_line(*call("predict", path, clip)[::2])
