"""Step 0: recordings without ratings, and subjects to test on."""
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from test_annotations import give_crops, give_sound, give_video, made_for, rated, rows, table

from annotations import held_out

# ---- recordings without ratings -------------------------------------------------------------------------------------

def test_a_video_with_sound_and_without_ratings_is_unlabelled(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "other_1", 3)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert (code, err) == (0, "") and made_for(tmp_path) == ["Train_Set/train_1", "Unlabelled_Set/other_1"]
    assert (tmp_path / "Annotations" / "Unlabelled_Set" / "other_1.csv").read_bytes() == (
        b"image path,spec path\nother_1/000000.jpg,other_1/000000.png\nother_1/000001.jpg,other_1/000001.png\n"
        b"other_1/000002.jpg,other_1/000002.png\n")
    assert "other_1: Unlabelled_Set, 3 frames" in out and "1 of 1" in out and "2 of 2" in out


@pytest.mark.parametrize("made", ["specs/other_1/000000.png", "specs/other_1.npy", "audio_segments/other_1/000000.wav"])
def test_what_was_made_of_raw_files_that_are_gone_will_do(made, tmp_path, call):
    give_crops(rated(tmp_path, train_1=rows(5)), "other_1", 6)
    (tmp_path / made).parent.mkdir(parents=True)
    (tmp_path / made).write_text("")
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    assert table(tmp_path, "Unlabelled_Set", "other_1")["image path"].iloc[-1] == "other_1/000005.jpg"


def test_crops_of_another_program_are_counted(tmp_path, call):
    (rated(tmp_path, train_1=rows(5)) / "Cropped_Aligned" / "other_1").mkdir(parents=True)
    for name in ("000000.jpg", "000001.jpg", ".000002.jpg", "notes.txt"):
        (tmp_path / "Cropped_Aligned" / "other_1" / name).write_text("")
    give_sound(tmp_path, "other_1")
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    assert len(table(tmp_path, "Unlabelled_Set", "other_1")) == 2


def test_line_k_of_unlabelled_recordings_is_frame_k_as_that_of_rated_ones(made, call):
    before = table(made, "Train_Set", "train_2")
    (made / "ratings_gold_standard" / "train_2.csv").unlink()
    shutil.rmtree(made / "Annotations")
    assert call("annotations", "--data-dir", made)[0] == 0
    after = table(made, "Unlabelled_Set", "train_2")
    pd.testing.assert_frame_equal(after, before[["image path", "spec path"]])
    for column, folder, ending in (("image path", "Cropped_Aligned", "jpg"), ("spec path", "specs", "png")):
        there = sorted(str(path.relative_to(made / folder)) for path in (made / folder / "train_2").glob(f"*.{ending}"))
        assert list(after[column]) == there


@pytest.mark.parametrize("sound_file", ["nothing", "a wav of no samples", "a video without a track"])
def test_recordings_without_sound_are_left_out_and_said_so(sound_file, tmp_path, call):
    for name in ("train_1", "train_2", "other_1"):
        give_video(rated(tmp_path, train_1=rows(5)), name, 5, sound=False)
    if sound_file == "a wav of no samples":
        give_sound(tmp_path, "other_1", 0)
    elif sound_file == "a video without a track":
        (tmp_path / "audio").mkdir()
        shutil.copy(tmp_path / "videos" / "other_1.mp4", tmp_path / "audio")
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert (code, err) == (0, "") and made_for(tmp_path) == ["Train_Set/train_1"]
    for name in ("train_2", "other_1"):
        assert f"{name}: no ratings, and no sound in {tmp_path / 'audio' / name}.*" in out
    assert "0 of 2" in out and "1 of 1" in out and not (tmp_path / "Annotations" / "Unlabelled_Set").exists()


def test_a_silent_file_in_audio_is_what_counts_and_not_the_video_s_own_track(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "other_1", 5)
    give_sound(tmp_path, "other_1", 0)  # audio_extract.py reads this one
    assert "no sound in" in call("annotations", "--data-dir", tmp_path)[1]
    assert made_for(tmp_path) == ["Train_Set/train_1"]


@pytest.mark.parametrize("crops", [None, 0])
def test_sound_without_pictures_is_left_out_and_said_so(crops, tmp_path, call):
    give_sound(rated(tmp_path, train_1=rows(5)), "other_1")
    if crops is not None:
        give_crops(tmp_path, "other_1", crops)
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and made_for(tmp_path) == ["Train_Set/train_1"]
    assert f"{tmp_path / 'videos' / 'other_1'}.*" in out and "left out" in out


def test_a_corpus_that_is_rated_throughout_has_no_unlabelled_set(raw, call):
    (raw / "videos" / "settings.json").write_text("{}")
    (raw / "videos" / ".other_1.mp4.part").write_text("half")
    (raw / "Cropped_Aligned" / ".other_1.part").mkdir(parents=True)
    (raw / "Cropped_Aligned" / "other_1.jpg").write_text("")
    code, out, _ = call("annotations", "--data-dir", raw)
    assert code == 0 and "Unlabelled" not in out and "other_1" not in out
    assert not (raw / "Annotations" / "Unlabelled_Set").exists()


def test_ratings_that_are_not_used_do_not_make_a_recording_unlabelled(tmp_path, call):
    rated(tmp_path, train_1=rows(5), in_no_partition=rows(5), train_2="damaged\n")
    for name in ("in_no_partition", "train_2", "other_1"):
        give_video(tmp_path, name, 5)
    call("annotations", "--data-dir", tmp_path)
    assert made_for(tmp_path) == ["Train_Set/train_1", "Unlabelled_Set/other_1"]


def test_a_second_run_writes_no_unlabelled_file_again(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "other_1", 5)
    call("annotations", "--data-dir", tmp_path)
    csv = tmp_path / "Annotations" / "Unlabelled_Set" / "other_1.csv"
    before = csv.read_bytes()
    os.utime(csv, (1, 1))
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and "(unchanged)" in out and "0 of 2" in out
    assert csv.stat().st_mtime == 1 and csv.read_bytes() == before
    give_crops(tmp_path, "other_1", 7)  # they are what training sees
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and "1 of 2" in out and len(table(tmp_path, "Unlabelled_Set", "other_1")) == 7


def test_only_the_unlabelled_recordings_asked_for_are_done(tmp_path, call):
    rated(tmp_path, train_1=rows(5), train_2=rows(5))
    for name in ("other_1", "other_2"):
        give_video(tmp_path, name, 5)
    assert call("annotations", "--data-dir", tmp_path, "--recordings", "train_2")[0] == 0
    assert made_for(tmp_path) == ["Train_Set/train_2"]
    code, out, _ = call("annotations", "--data-dir", tmp_path, "--recordings", "other_2")
    assert code == 0 and made_for(tmp_path) == ["Train_Set/train_2", "Unlabelled_Set/other_2"] and "1 of 1" in out
    assert call("annotations", "--data-dir", tmp_path, "--recordings", "train_1", "other_1")[0] == 0
    assert made_for(tmp_path)[::2] == ["Train_Set/train_1", "Unlabelled_Set/other_1"]
    code, out, err = call("annotations", "--data-dir", tmp_path, "--recordings", "other_2", "other_9")
    assert code == 1 and "'other_9'" in err and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize("name", ["train_2", "other_1"])
def test_a_recording_that_gets_ratings_later_is_not_left_unlabelled(name, tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), name, 5)
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    csv = tmp_path / "Annotations" / "Unlabelled_Set" / f"{name}.csv"
    code, out, err = call("annotations", "--data-dir", rated(tmp_path, **{name: rows(5)}))
    assert code == 1 and str(csv) in err and "delete" in err and err.count("\n") == 1 and out == ""
    csv.unlink()
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    assert made_for(tmp_path) == ["Train_Set/train_1"] + ["Train_Set/train_2"] * (name == "train_2")


def test_a_recording_with_ratings_in_its_annotation_file_alone_stays_as_it_is(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5), train_2=rows(5)), "train_2", 5)
    call("annotations", "--data-dir", tmp_path)
    (tmp_path / "ratings_gold_standard" / "train_2.csv").unlink()
    csv, other = (tmp_path / "Annotations" / folder / "train_2.csv" for folder in ("Train_Set", "Unlabelled_Set"))
    before = csv.read_bytes()
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and f"{csv}: kept" in out and csv.read_bytes() == before and not other.exists()
    other.parent.mkdir()
    other.write_text("image path,spec path\n")
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "train_2: FAILED" in out and str(other) in out and "delete" in out
    other.unlink(), csv.unlink()
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    assert made_for(tmp_path) == ["Train_Set/train_1", "Unlabelled_Set/train_2"]


def test_damaged_video_or_sound_without_ratings_is_reported_and_the_others_are_done(tmp_path, call):
    rated(tmp_path, train_1=rows(5))
    for name in ("other_1", "other_2", "other_3", "other_4"):
        give_video(tmp_path, name, 100)
    (tmp_path / "videos" / "other_1.mp4").write_bytes(b"")
    os.truncate(tmp_path / "videos" / "other_2.mp4", 5000)
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "other_3.wav").write_bytes(bytes(range(256)) * 10)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and err.count("\n") == 1 and "(other_1, other_2, other_3)" in err
    for file in ("videos/other_1.mp4", "videos/other_2.mp4", "audio/other_3.wav"):
        assert f"{Path(file).stem}: FAILED: {tmp_path / file}" in out
    assert made_for(tmp_path) == ["Train_Set/train_1", "Unlabelled_Set/other_4"]


# ---- subjects to test on are not trained on -------------------------------------------------------------------------

@pytest.mark.parametrize("name,val_ids,unlabelled_ids,out", [
    ("dev_4", ("dev_*",), (), True), ("dev_4", ("train_9",), (), False), ("test_1", (), (), True),
    ("Test01", (), (), True), ("contest_1", (), (), False), ("test_1", (), ("test_2",), True),
    ("test_1", (), ("test_*",), False), ("dev_4", ("dev_*",), ("dev_4",), False),
])
def test_recordings_of_val_ids_and_those_called_test_are_held_out(name, val_ids, unlabelled_ids, out):
    reason = held_out(name, {}, val_ids, unlabelled_ids)
    assert bool(reason) == out and (name in reason) == out


def test_subjects_to_test_on_are_unlabelled_only_if_asked_for_by_name(tmp_path, call):
    rated(tmp_path, train_1=rows(5), dev_1=rows(5))
    for name in ("dev_2", "test_1", "test_2", "other_1"):
        give_video(tmp_path, name, 5)
    labelled = ["Train_Set/train_1", "Val_Set/dev_1"]
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert (code, err) == (0, "") and made_for(tmp_path) == sorted([*labelled, "Unlabelled_Set/other_1"])
    assert all(f"--unlabelled-ids {name})" in out for name in ("dev_2", "test_1", "test_2")) and "1 of 4" in out
    shutil.rmtree(tmp_path / "Annotations")
    call("annotations", "--data-dir", tmp_path, "--recordings", "train_1", "dev_1", "test_1")  # this is not enough
    assert made_for(tmp_path) == labelled
    call("annotations", "--data-dir", tmp_path, "--unlabelled-ids", "dev_2", "test_*")
    unlabelled = [f"Unlabelled_Set/{name}" for name in ("dev_2", "other_1", "test_1", "test_2")]
    assert made_for(tmp_path) == sorted(labelled + unlabelled)


def test_a_test_subject_that_is_unlabelled_from_an_earlier_run_is_an_error(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "test_1", 5)
    call("annotations", "--data-dir", tmp_path, "--unlabelled-ids", "test_1")
    code, out, err = call("annotations", "--data-dir", tmp_path)
    csv = tmp_path / "Annotations" / "Unlabelled_Set" / "test_1.csv"
    assert code == 1 and "test_1: FAILED" in out and str(csv) in out and "delete" in out and "test_1" in err


@pytest.mark.parametrize("ids,named", [(["dev_1"], "dev_1"), (["dev_*"], "dev_1"), (["other_1", "tset_1"], "tset_1")])
def test_unlabelled_ids_are_of_recordings_without_ratings(ids, named, tmp_path, call):
    rated(tmp_path, train_1=rows(5), dev_1=rows(5))
    for name in ("dev_2", "other_1"):
        give_video(tmp_path, name, 5)
    code, out, err = call("annotations", "--data-dir", tmp_path, "--unlabelled-ids", *ids)
    assert code == 1 and named in err and err.count("\n") == 1 and out == "" and made_for(tmp_path) == []


def test_a_recording_that_is_listed_by_its_id_must_have_ratings(tmp_path, call):
    give_video(rated(tmp_path, P1=rows(5)), "P2", 5)
    words = ["--train-ids", "P1", "P3", "--val-ids", "P2", "--unlabelled-ids", "P2"]
    code, out, err = call("annotations", "--data-dir", tmp_path, *words)
    assert code == 1 and "P3.csv" in out and "(P2, P3)" in err
    assert made_for(tmp_path) == ["Train_Set/P1"]
