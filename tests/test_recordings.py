"""The recordings of a corpus on disk, and the settings that a folder was made with."""
import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import Config
from drawn.people import write_video
from support.errors import UserError
from support.files import whole_file
from support.recordings import (
    audible,
    fault_of_id,
    find_recordings,
    if_newer,
    is_inside,
    keep_settings,
    known_frames,
    made_with,
    media_file,
    natural_key,
    refuse_unusable,
    shard_of,
    side_of,
    sound_file,
    valid_labels,
)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


# ---- which recordings there are -------------------------------------------------------------------------------------

def test_the_first_folder_wins_and_hidden_files_are_no_recordings(tmp_path):
    touch(tmp_path, "audio/a.wav", "videos/a.mp4", "videos/b.c.mp4", "videos/.b.mp4.part", "videos/settings.json")
    found = find_recordings([tmp_path / "audio", tmp_path / "videos"], (), "")
    assert found == {"a": tmp_path / "audio" / "a.wav", "b.c": tmp_path / "videos" / "b.c.mp4"}


def test_recordings_come_in_natural_order(tmp_path):
    touch(tmp_path, *(f"{name}.csv" for name in ("train_10", "train_2", "train_1", "dev_3")))
    assert list(find_recordings([tmp_path], (), "")) == ["dev_3", "train_1", "train_2", "train_10"]
    assert list(find_recordings([tmp_path], ("train_10", "dev_3"), "")) == ["dev_3", "train_10"]


@given(st.lists(st.text(max_size=8)))
def test_every_set_of_ids_has_a_natural_order(ids):
    sorted(ids, key=natural_key)


def test_what_is_missing_is_named_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match="videos/: put them there"):
        find_recordings([tmp_path / "videos"], (), "put them there")
    with pytest.raises(UserError, match="'b'.*a"):
        find_recordings([touch(tmp_path, "a.csv")], ("b",), "")


def test_two_tables_of_one_id_are_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="same id"):
        find_recordings([touch(tmp_path, "a.csv")], (), "")


@pytest.mark.parametrize("names, why", [(("a.mp4", "a.avi"), "same id"), (("a.mp4", "a.wav"), "into audio/"),
                                        (("mean.mp4",), "score tables"), (("tab\t.mp4",), "control character")])
def test_media_that_cannot_be_used_cost_one_recording(names, why, tmp_path):
    found = find_recordings([touch(tmp_path, *names, "b.mp4", "c.x.mp4", "c.mp4")], (), "")
    assert {"b", "c", "c.x"} < {*found}
    for name, path in found.items():
        with pytest.raises(UserError, match=why) if name not in ("b", "c", "c.x") else contextlib.nullcontext():
            refuse_unusable(path)


def test_a_folder_in_place_of_a_video_says_where_its_videos_belong(tmp_path):
    (tmp_path / "session").mkdir()
    with pytest.raises(UserError, match=f"put what is in it into {tmp_path}/"):
        refuse_unusable(tmp_path / "session")


def test_ids_may_begin_with_an_at_but_folders_of_file_managers_are_none(tmp_path):
    for name in ("@user", "__a", "@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information"):
        (tmp_path / name).mkdir()
    assert {*find_recordings([tmp_path], (), "")} == {"@user", "__a"}


@pytest.mark.parametrize("name", ["a\u200bb", "\U0001f469\u200d\U0001f52c", "\u4e2d\u3000\u6587", "a\xa0b", "\u200fa"])
def test_invisible_letters_are_allowed_in_ids_and_paths_alike(name):
    assert not fault_of_id(name) and is_inside(f"{name}/000000.jpg")


@pytest.mark.parametrize("letter", ["\n", "\x85", "\u2028", "\t", "\0"])
def test_control_characters_and_ends_of_lines_are_allowed_in_neither(letter):
    assert fault_of_id(f"a{letter}b") and not is_inside(f"a{letter}b/000000.jpg")


@pytest.mark.parametrize("name", ["mean", "concatenated"])
def test_an_id_that_is_a_row_of_the_score_tables_is_an_error(name, tmp_path):
    with pytest.raises(UserError, match=name):
        find_recordings([touch(tmp_path, f"{name}.csv")], (), "")


@given(st.integers(0, 20), st.integers(1, 8))
def test_every_recording_is_in_one_shard_and_they_differ_by_one_at_most(count, n):
    recordings = {f"train_{number}": number for number in range(count)}
    shards = [shard_of(recordings, f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted(number for shard in shards for number in shard.values()) == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert shard_of(recordings, "") == recordings


# ---- two subjects of one video --------------------------------------------------------------------------------------

def test_subjects_take_the_place_of_their_video_once_they_have_annotations(tmp_path):
    touch(tmp_path, "videos/a.mp4", "videos/b.mp4", "videos/b_right.mp4", "videos/c.mp4", "audio/c.wav")
    for name in ("turn", "turn_left"):  # two recordings, each with a video of its own
        touch(tmp_path, f"other/{name}.mp4", f"labels/Train_Set/{name}.csv")
    for name in ("turn", "turn_left"):
        assert side_of(name, tmp_path / "other" / f"{name}.mp4", tmp_path / "labels") == ""
    folders, labels = [tmp_path / "audio", tmp_path / "videos"], tmp_path / "Annotations"
    assert list(find_recordings(folders, (), "", labels)) == ["a", "b", "b_right", "c"]
    touch(labels, *(f"Train_Set/{name}.csv" for name in ("a_left", "a_right", "b_left", "b_right", "c", "c_right")))
    assert {name: path.name for name, path in find_recordings(folders, (), "", labels).items()} == {
        "a_left": "a.mp4", "a_right": "a.mp4", "b_left": "b.mp4", "b_right": "b_right.mp4", "c": "c.wav",
        "c_right": "c.wav"}
    assert list(find_recordings(folders, ("a_left",), "", labels)) == ["a_left"]
    sides = {name: side_of(name, media_file(name, folders[1]), labels)
             for name in ("a", "a_left", "a_right", "b_left", "b_right", "c", "c_right")}
    assert sides == {"a": "", "a_left": "left", "a_right": "right", "b_left": "left", "b_right": "", "c": "left",
                     "c_right": "right"}
    assert sound_file("c_right", *folders).name == "c.wav" and sound_file("b_right", *folders).name == "b_right.mp4"
    assert sound_file("d_left", *folders) is None


# ---- what is known of a recording -----------------------------------------------------------------------------------

def test_frames_are_counted_in_crops_then_in_annotations(tmp_path):
    folders = [25, tmp_path / "crops", tmp_path / "videos", tmp_path / "Annotations"]
    assert known_frames("a[1]", *folders) == (None, None) == known_frames("a[1]", *folders[:3])
    for table, lines in (("Annotations/Unlabelled_Set/a[1].csv", 5), ("crops/a[1]/faces.csv", 4)):
        touch(tmp_path, table)
        (tmp_path / table).write_text("header\n" + "line\n" * (lines - 1))
        assert known_frames("a[1]", *folders) == (lines - 1, tmp_path / table)


def test_ratings_are_valid_from_minus_one_to_one():
    labels = np.array([-1.0001, -1, 0, 1, 1.0001, -5, np.nan, np.inf, -np.inf])
    assert valid_labels(labels).tolist() == [False, True, True, True, False, False, False, False, False]


# ---- the settings that a folder was made with -----------------------------------------------------------------------

def test_a_folder_is_made_with_one_set_of_settings(tmp_path):
    keep_settings(tmp_path / "crops", Config(face_size=64), "face_size frame_rate")
    keep_settings(tmp_path / "crops", Config(face_size=32), "face_size frame_rate")  # nothing was made with 64
    (tmp_path / "crops" / "train_1").mkdir()
    keep_settings(tmp_path / "crops", Config(face_size=32, seed=3), "face_size frame_rate")
    with pytest.raises(UserError, match="face_size 32.*64.*delete"):
        keep_settings(tmp_path / "crops", Config(face_size=64), "face_size frame_rate")


def test_a_folder_that_another_process_fills_keeps_its_settings(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    keep_settings(tmp_path / "crops", Config(face_size=64), "face_size")
    (tmp_path / "crops" / ".train_1.part").mkdir()
    claim = os.open(tmp_path / "crops" / ".train_1.part", os.O_RDONLY)
    fcntl.flock(claim, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="face_size 64"):
        keep_settings(tmp_path / "crops", Config(face_size=32), "face_size")
    os.close(claim)
    keep_settings(tmp_path / "crops", Config(face_size=32), "face_size")


def test_settings_of_the_folder_that_is_read_are_taken_over(tmp_path):
    segments, specs = tmp_path / "segments", tmp_path / "specs"
    keep_settings(segments, Config(), "audio_rate segment_at")
    keep_settings(specs, Config(), "audio_rate n_mels", made_of=segments)
    with pytest.raises(UserError, match="segments/.*audio_rate 16000.*8000"):
        keep_settings(specs, Config(audio_rate=8000), "audio_rate n_mels", made_of=segments)
    (specs / "train_1").mkdir()
    keep_settings(segments, Config(segment_at="causal"), "audio_rate segment_at")
    with pytest.raises(UserError, match="specs/.*segment_at centred.*causal"):
        keep_settings(specs, Config(), "audio_rate n_mels", made_of=segments)


@pytest.mark.parametrize("text", ["", "{", "3", "[1]"])
def test_a_damaged_settings_file_is_an_error(text, tmp_path):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UserError, match="settings.json is damaged"):
        keep_settings(tmp_path, Config(), "face_size")


def test_a_folder_may_be_renamed_but_no_step_takes_the_settings_of_another(tmp_path):
    keep_settings(tmp_path / "predictions", Config(), "frame_rate")
    (tmp_path / "predictions").rename(tmp_path / "other")
    assert made_with(tmp_path / "other") == {"frame_rate": 25.0}
    keep_settings(tmp_path / "audio_segments", Config(), "audio_rate")
    shutil.copytree(tmp_path / "audio_segments", tmp_path / "specs")
    with pytest.raises(UserError, match="specs/settings.json is damaged, or was changed"):
        made_with(tmp_path / "specs")


def test_a_setting_that_was_changed_in_its_file_is_noticed(tmp_path):
    keep_settings(tmp_path, Config(), "audio_rate segment_s")
    assert made_with(tmp_path) == {"audio_rate": 16000, "segment_s": 1.0}
    note = tmp_path / "settings.json"
    note.write_text(note.read_text().replace("16000", "16001"))
    with pytest.raises(UserError, match="settings.json is damaged, or was changed"):
        made_with(tmp_path)


def test_a_source_that_has_changed_since_is_named(tmp_path):
    touch(tmp_path, "a.mp4", "a.csv")
    for name, time_s in (("a.mp4", 100), ("a.csv", 200)):
        os.utime(tmp_path / name, (time_s, time_s))
    assert if_newer(tmp_path / "a.mp4", tmp_path / "a.csv") == ""
    with whole_file(tmp_path / "a.mp4") as part:
        Path(part).write_text("another")
    assert "a.mp4" in if_newer(tmp_path / "a.mp4", tmp_path / "a.csv")


def test_what_lies_beside_recordings_is_none(tmp_path):
    touch(tmp_path, "a.mp4", "a.srt", "b.XML", "c.TextGrid", "Thumbs.db", "desktop.ini", "settings.json", "B.MOV")
    (tmp_path / "@eaDir").mkdir()
    assert list(find_recordings([tmp_path], (), "")) == ["B", "a"]
    assert media_file("a", tmp_path) == tmp_path / "a.mp4" and media_file("b", tmp_path) is None


@pytest.mark.parametrize("name,why", [
    ("dev_1", ""), ("dev [x] $$ -1 \u4e2d", ""), ("-a", ""), ("x" * 220, ""), ("x" * 221, "too long"),
    ("\u4e2d" * 74, "too long"),
    ("../a", "slash"), ("/a", "slash"), ("a\\b", "slash"), ("a\0b", "control"), ("a\nb", "control"), (".a", "dot"),
    ("..", "dot"), (" ", "name of a file"), ("", "name of a file"), ("a\udce9", "UTF-8"), ("mean", "score tables"),
])
def test_ids_are_names_of_files_inside_the_data_folder(name, why):
    assert why in fault_of_id(name) and bool(fault_of_id(name)) == bool(why)


def test_a_rated_recording_without_sound_is_left_out_by_what_hears_and_said(tmp_path, capsys):
    cfg, names = Config(data_dir=str(tmp_path)), ["heard", "made", "mute", "unknown"]
    pictures = [np.zeros((64, 64, 3), np.uint8)] * 3
    write_video(tmp_path / "videos" / "heard.mp4", pictures, np.zeros(2000, np.float32))
    for name in ("made", "mute"):
        write_video(tmp_path / "videos" / f"{name}.mp4", pictures)
    touch(tmp_path, "specs/made.npy")
    tables = [tmp_path / "Annotations" / "Train_Set" / f"{name}.csv" for name in names]
    assert audible(tables, ("frames",), cfg) == tables and capsys.readouterr().out == ""
    assert [table.stem for table in audible(tables, ("frames", "specs"), cfg)] == ["heard", "made", "unknown"]
    assert capsys.readouterr().out == f"mute: left out, as {tmp_path / 'videos' / 'mute.mp4'} has no sound\n"
