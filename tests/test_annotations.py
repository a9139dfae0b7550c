"""Step 0: gold standard -> annotation CSVs."""
import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import annotations
from annotations import annotation_table, match_frames, partition_of, read_gold
from config import Config
from drawn.people import SOUND_RATE, write_video
from support import workers
from support.errors import UserError
from support.files import growing_folder
from support.recordings import _natural, find_recordings, keep_settings, known_frames, shard_of, valid_labels
from support.workers import for_each


def rated(folder, **texts):
    """A data folder that holds a gold standard alone: id -> text of its csv."""
    (folder / "ratings_gold_standard").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / "ratings_gold_standard" / f"{name}.csv").write_text(text)
    return folder


def rows(count, start=0.0):
    return "".join(f"{start + k / 1000:.4f};{-k / 1000:.4f}\n" for k in range(count))


def give_crops(folder, name, count):
    """What face_detector.py leaves to count frames by."""
    (folder / "Cropped_Aligned" / name).mkdir(parents=True)
    (folder / "Cropped_Aligned" / name / "faces.csv").write_text("time_s,found\n" + "0,detected\n" * count)


def give_video(folder, name, count, sound=True):
    """A video of count pictures, with a sound track or without."""
    track = np.random.default_rng(0).uniform(-0.1, 0.1, count * SOUND_RATE // 25) if sound else None
    write_video(folder / "videos" / f"{name}.mp4", [np.zeros((64, 64, 3), np.uint8)] * count, track)


def give_sound(folder, name, samples=8000):
    (folder / "audio").mkdir(exist_ok=True)
    soundfile.write(folder / "audio" / f"{name}.wav", np.zeros(samples), 16000)


def made_for(folder):
    """The annotation files that are there, as "Train_Set/train_1"."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in folder.glob("Annotations/*/*"))


def table(folder, partition, name):
    return pd.read_csv(folder / "Annotations" / partition / f"{name}.csv")


# ---- a good run -----------------------------------------------------------------------------------------------------

def test_help_works(call):
    with pytest.raises(SystemExit) as end:
        call("annotations", "--help")
    assert end.value.code == 0


def test_gold_alone_becomes_rows_whose_paths_follow_from_k(tmp_path, call):
    code, out, err = call("annotations", "--data-dir", rated(tmp_path, train_1="0.1;-0.2\n0.3;0.4\n", dev_1=rows(1)))
    assert (code, err) == (0, "")
    text = (tmp_path / "Annotations" / "Train_Set" / "train_1.csv").read_text()
    assert text == ("image path,spec path,arousal,valence\n"
                    "train_1/000000.jpg,train_1/000000.png,0.1,-0.2\ntrain_1/000001.jpg,train_1/000001.png,0.3,0.4\n")
    assert (tmp_path / "Annotations" / "Val_Set" / "dev_1.csv").exists()
    assert "2 rows, frames not known yet" in out


def test_the_folders_of_the_manual_are_made(tmp_path, call):
    call("annotations", "--data-dir", rated(tmp_path, train_1=rows(2)))
    for folder in ("Annotations/Train_Set", "Annotations/Val_Set", "Cropped_Aligned", "audio_segments", "specs"):
        assert (tmp_path / folder).is_dir()


def test_ratings_keep_every_digit_and_the_recolas_form(tmp_path, call):
    gold = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    call("annotations", "--data-dir", rated(tmp_path, train_1="".join(f"{a!r};{v!r}\r\n" for a, v in gold.tolist())))
    read = table(tmp_path, "Train_Set", "train_1")
    np.testing.assert_array_equal(read[["arousal", "valence"]].to_numpy(), gold)


def test_a_second_run_does_nothing_and_says_so(tmp_path, call):
    rated(tmp_path, train_1=rows(3), dev_1=rows(3))
    call("annotations", "--data-dir", tmp_path)
    made = tmp_path / "Annotations" / "Train_Set" / "train_1.csv"
    os.utime(made, (1, 1))
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and "0 of 2 annotation files written; nothing to do" in out
    assert made.stat().st_mtime == 1


def test_changed_ratings_are_written_anew(tmp_path, call):
    call("annotations", "--data-dir", rated(tmp_path, train_1=rows(3), dev_1=rows(3)))
    code, out, _ = call("annotations", "--data-dir", rated(tmp_path, train_1=rows(4)))
    assert code == 0 and "1 of 2 annotation files written" in out
    assert len(table(tmp_path, "Train_Set", "train_1")) == 4


def test_a_damaged_annotation_file_is_written_anew(tmp_path, call):
    call("annotations", "--data-dir", rated(tmp_path, train_1=rows(3)))
    (tmp_path / "Annotations" / "Train_Set" / "train_1.csv").write_bytes(b"\xff\xfe\x00")
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    assert len(table(tmp_path, "Train_Set", "train_1")) == 3


def test_only_the_recordings_asked_for_are_done(tmp_path, call):
    rated(tmp_path, train_1=rows(3), train_2=rows(3))
    assert call("annotations", "--data-dir", tmp_path, "--recordings", "train_2")[0] == 0
    assert [path.name for path in (tmp_path / "Annotations" / "Train_Set").iterdir()] == ["train_2.csv"]


def test_recordings_come_in_natural_order(tmp_path, call):
    _, out, _ = call("annotations", "--data-dir", rated(tmp_path, train_10=rows(2), train_2=rows(2), train_1=rows(2), dev_3=rows(2)))
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == ["dev_3", "train_1", "train_2", "train_10"]


@given(st.lists(st.text(max_size=8)))
def test_every_set_of_names_has_a_natural_order(names):
    sorted(names, key=_natural)


# ---- partitions -----------------------------------------------------------------------------------------------------

def test_other_splits_are_lists_of_ids(tmp_path, call):
    rated(tmp_path, P16=rows(2), P17=rows(2), P19=rows(2))
    code, out, _ = call("annotations", "--data-dir", tmp_path, "--train-ids", "P16", "P17", "--val-ids", "P19")
    assert code == 0
    assert sorted(str(path.relative_to(tmp_path / "Annotations")) for path in tmp_path.glob("Annotations/*/*.csv")) == [
        "Train_Set/P16.csv", "Train_Set/P17.csv", "Val_Set/P19.csv"]


def test_a_recording_in_neither_partition_is_left_out_and_said_so(tmp_path, call):
    code, out, _ = call("annotations", "--data-dir", rated(tmp_path, train_1=rows(2), test_1=rows(2)))
    assert code == 0 and "test_1: in neither train_ids nor val_ids, left out" in out and "1 of 1 annotation files written" in out
    assert not list(tmp_path.glob("Annotations/*/test_1.csv"))


def test_a_corpus_of_which_nothing_is_listed_is_an_error(tmp_path, call):
    code, _, err = call("annotations", "--data-dir", rated(tmp_path, P16=rows(2), P17=rows(2)))
    assert code == 1 and "none of the 2 recordings" in err and "train_ids" in err
    assert not (tmp_path / "Annotations").exists()


def test_a_listed_recording_without_ratings_is_reported_and_the_others_are_done(tmp_path, call):
    code, out, err = call("annotations", "--data-dir", rated(tmp_path, P16=rows(2)), "--train-ids", "P16", "P61")
    assert code == 1 and "P61: FAILED: it has no ratings" in out and str(tmp_path / "ratings_gold_standard" / "P61.csv") in out and "P61" in err
    assert (tmp_path / "Annotations" / "Train_Set" / "P16.csv").exists()


def test_nobody_is_in_both_partitions(tmp_path, call):
    with pytest.raises(UserError, match="both"):
        partition_of("P16", ("P*",), ("P16",))
    code, _, err = call("annotations", "--data-dir", rated(tmp_path, P16=rows(2), P17=rows(2)), "--train-ids", "P*", "--val-ids", "P16")
    assert code == 1 and "P16 is in train_ids and in val_ids" in err
    assert not list(tmp_path.glob("Annotations/*/*.csv"))


def test_a_person_who_changed_sides_is_not_left_in_both(tmp_path, call):
    rated(tmp_path, P16=rows(2), P17=rows(2))
    call("annotations", "--data-dir", tmp_path, "--train-ids", "P16", "P17")
    for lists in (["--train-ids", "P16", "--val-ids", "P17"], ["--train-ids", "P16"]):
        code, _, err = call("annotations", "--data-dir", tmp_path, *lists)
        assert code == 1 and str(tmp_path / "Annotations" / "Train_Set" / "P17.csv") in err and "delete" in err
    (tmp_path / "Annotations" / "Train_Set" / "P17.csv").unlink()
    assert call("annotations", "--data-dir", tmp_path, "--train-ids", "P16", "--val-ids", "P17")[0] == 0


# ---- as many rows as frames -----------------------------------------------------------------------------------------

def test_a_last_rating_without_a_frame_is_dropped_and_said_so(tmp_path, call):
    give_crops(rated(tmp_path, train_1=rows(7501)), "train_1", 7500)
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and "train_1: Train_Set, 7500 frames; a last rating without a frame was dropped" in out
    assert table(tmp_path, "Train_Set", "train_1")["image path"].iloc[-1] == "train_1/007499.jpg"


def test_as_many_ratings_as_frames_stay_as_they_are(tmp_path, call):
    give_crops(rated(tmp_path, train_1=rows(20)), "train_1", 20)
    out = call("annotations", "--data-dir", tmp_path)[1]
    assert "20 frames" in out and "dropped" not in out and len(table(tmp_path, "Train_Set", "train_1")) == 20


@pytest.mark.parametrize("count", [18, 22])
def test_a_larger_disagreement_names_both_counts_and_the_others_are_done(count, tmp_path, call):
    give_crops(rated(tmp_path, train_1=rows(20), train_2=rows(20)), "train_1", count)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and f"train_1: FAILED: 20 ratings for {count} frames" in out and "faces.csv" in out
    assert "1 of 2 recordings failed (train_1)" in err and err.count("\n") == 1
    assert not (tmp_path / "Annotations" / "Train_Set" / "train_1.csv").exists()
    assert len(table(tmp_path, "Train_Set", "train_2")) == 20


@given(st.integers(0, 40), st.integers(0, 40))
def test_rows_match_frames_or_there_is_one_more(count, frames):
    gold = np.arange(2.0 * count).reshape(count, 2)
    if count in (frames, frames + 1):
        assert match_frames(gold, frames, "video").tolist() == gold[:frames].tolist()
    else:
        with pytest.raises(UserError, match=f"{count} ratings for {frames} frames"):
            match_frames(gold, frames, "video")
    assert match_frames(gold, None, None) is gold


def test_frames_are_counted_in_the_raw_videos(raw, call):
    code, out, _ = call("annotations", "--data-dir", raw)
    assert code == 0 and out.count("60 frames; a last rating without a frame was dropped") == 3
    assert len(table(raw, "Val_Set", "dev_1")) == 60
    os.truncate(raw / "videos" / "train_1.mp4", 20_000)
    (raw / "videos" / "train_2.mp4").write_bytes(b"")
    shutil.rmtree(raw / "Annotations")
    code, out, err = call("annotations", "--data-dir", raw)
    assert code == 1 and "train_1.mp4 cannot be read" in out and "train_2.mp4 cannot be read" in out and "the file is empty" in out
    assert "2 of 3 recordings failed (train_1, train_2)" in err and len(table(raw, "Val_Set", "dev_1")) == 60


# ---- recordings that nobody rated -----------------------------------------------------------------------------------

def test_a_video_with_a_sound_track_that_nobody_rated_is_unlabelled(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "other_1", 3)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert (code, err) == (0, "") and made_for(tmp_path) == ["Train_Set/train_1", "Unlabelled_Set/other_1"]
    assert (tmp_path / "Annotations" / "Unlabelled_Set" / "other_1.csv").read_bytes() == (
        b"image path,spec path\nother_1/000000.jpg,other_1/000000.png\nother_1/000001.jpg,other_1/000001.png\n"
        b"other_1/000002.jpg,other_1/000002.png\n")
    assert f"other_1: Unlabelled_Set, 3 frames; no ratings ({tmp_path / 'ratings_gold_standard' / 'other_1.csv'})" in out
    assert out.endswith(f"{tmp_path / 'Annotations' / 'Unlabelled_Set'}: 1 of 1 recordings without ratings\n"
                        f"{tmp_path / 'Annotations'}: 2 of 2 annotation files written\n")


def test_a_video_without_a_sound_track_and_a_sound_file_will_do(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "other_1", 4, sound=False)
    give_sound(tmp_path, "other_1")
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    assert list(table(tmp_path, "Unlabelled_Set", "other_1").columns) == ["image path", "spec path"]
    assert len(table(tmp_path, "Unlabelled_Set", "other_1")) == 4


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


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1), st.integers(1, 30))
def test_the_lines_of_both_kinds_of_sets_name_the_same_pictures(name, frames):
    with_ratings, without = (pd.read_csv(io.StringIO(annotation_table(name, np.zeros((frames, targets)))), na_filter=False) for targets in (2, 0))
    assert len(without) == frames and without["image path"].iloc[-1] == f"{name}/{frames - 1:06d}.jpg"
    pd.testing.assert_frame_equal(without, with_ratings.drop(columns=["arousal", "valence"]))


def test_the_step_after_counts_frames_in_an_unlabelled_set_too(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "other_1", 4)
    call("annotations", "--data-dir", tmp_path)
    shutil.rmtree(tmp_path / "videos")
    csv = tmp_path / "Annotations" / "Unlabelled_Set" / "other_1.csv"
    assert known_frames("other_1", 25, tmp_path / "Cropped_Aligned", tmp_path / "videos", tmp_path / "Annotations") == (4, csv)


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
        assert f"{name}: no ratings, and no sound in {tmp_path / 'audio' / name}.* or its video: left out\n" in out
    assert "Unlabelled_Set: 0 of 2 recordings without ratings; the others are not in it, for the reasons given above\n" in out
    assert "1 of 1 annotation files written" in out and not (tmp_path / "Annotations" / "Unlabelled_Set").exists()


def test_a_silent_file_in_audio_is_what_counts_and_not_the_video_s_own_track(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "other_1", 5)
    give_sound(tmp_path, "other_1", 0)  # audio_extract.py reads this one
    assert "no sound in" in call("annotations", "--data-dir", tmp_path)[1] and made_for(tmp_path) == ["Train_Set/train_1"]


@pytest.mark.parametrize("crops", [None, 0])
def test_sound_without_pictures_is_left_out_and_said_so(crops, tmp_path, call):
    give_sound(rated(tmp_path, train_1=rows(5)), "other_1")
    if crops is not None:
        give_crops(tmp_path, "other_1", crops)
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and made_for(tmp_path) == ["Train_Set/train_1"]
    places = f"{tmp_path / 'videos' / 'other_1'}.* or {tmp_path / 'Cropped_Aligned' / 'other_1'}/"
    assert f"other_1: no ratings, and no pictures in {places}: left out" in out


def test_a_corpus_that_is_rated_throughout_has_no_unlabelled_set(raw, call):
    (raw / "videos" / "settings.json").write_text("{}")
    (raw / "videos" / ".other_1.mp4.part").write_text("half")
    (raw / "Cropped_Aligned" / ".other_1.part").mkdir(parents=True)
    (raw / "Cropped_Aligned" / "other_1.jpg").write_text("")
    code, out, _ = call("annotations", "--data-dir", raw)
    assert code == 0 and "Unlabelled" not in out and "other_1" not in out and not (raw / "Annotations" / "Unlabelled_Set").exists()


@pytest.mark.parametrize("ratings", [rows(5), "what\n"], ids=["in neither partition", "damaged"])
def test_ratings_that_are_not_used_do_not_make_a_recording_unlabelled(ratings, tmp_path, call):
    rated(tmp_path, train_1=rows(5), **{"test_1" if ratings == rows(5) else "train_2": ratings})
    for name in ("test_1", "train_2"):
        give_video(tmp_path, name, 5)
    call("annotations", "--data-dir", tmp_path)
    assert made_for(tmp_path) == ["Train_Set/train_1", "Unlabelled_Set/" + ("train_2" if ratings == rows(5) else "test_1")]


def test_a_recording_that_is_listed_by_its_id_must_have_ratings(tmp_path, call):
    give_video(rated(tmp_path, P16=rows(5)), "P61", 5)
    code, out, _ = call("annotations", "--data-dir", tmp_path, "--train-ids", "P16", "P61")
    assert code == 1 and "P61: FAILED: it has no ratings" in out and made_for(tmp_path) == ["Train_Set/P16"]


def test_a_second_run_writes_no_unlabelled_file_again(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "other_1", 5)
    call("annotations", "--data-dir", tmp_path)
    csv = tmp_path / "Annotations" / "Unlabelled_Set" / "other_1.csv"
    before = csv.read_bytes()
    os.utime(csv, (1, 1))
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and "(unchanged)" in out and "0 of 2 annotation files written; nothing to do" in out
    assert csv.stat().st_mtime == 1 and csv.read_bytes() == before
    give_crops(tmp_path, "other_1", 7)  # they are what training sees
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and "1 of 2 annotation files written" in out and len(table(tmp_path, "Unlabelled_Set", "other_1")) == 7


def test_only_the_unlabelled_recordings_asked_for_are_done(tmp_path, call):
    rated(tmp_path, train_1=rows(5), train_2=rows(5))
    for name in ("other_1", "other_2"):
        give_video(tmp_path, name, 5)
    assert call("annotations", "--data-dir", tmp_path, "--recordings", "train_2")[0] == 0
    assert made_for(tmp_path) == ["Train_Set/train_2"]
    code, out, _ = call("annotations", "--data-dir", tmp_path, "--recordings", "other_2")
    assert code == 0 and made_for(tmp_path) == ["Train_Set/train_2", "Unlabelled_Set/other_2"] and "1 of 1 annotation files written" in out
    assert call("annotations", "--data-dir", tmp_path, "--recordings", "train_1", "other_1")[0] == 0
    assert made_for(tmp_path) == ["Train_Set/train_1", "Train_Set/train_2", "Unlabelled_Set/other_1", "Unlabelled_Set/other_2"]
    code, out, err = call("annotations", "--data-dir", tmp_path, "--recordings", "other_2", "other_9")
    assert code == 1 and "no recording 'other_9'" in err and err.count("\n") == 1 and out == ""


def test_an_unlabelled_recording_asked_for_that_is_left_out_is_not_said_to_be_done(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "other_1", 5, sound=False)
    code, out, _ = call("annotations", "--data-dir", tmp_path, "--recordings", "other_1")
    assert code == 0 and "no sound" in out and out.endswith("0 of 0 annotation files written\n")


@pytest.mark.parametrize("name", ["train_2", "test_1"])
def test_a_recording_that_gets_ratings_later_is_not_left_unlabelled(name, tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), name, 5)
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    csv = tmp_path / "Annotations" / "Unlabelled_Set" / f"{name}.csv"
    code, out, err = call("annotations", "--data-dir", rated(tmp_path, **{name: rows(5)}))
    assert code == 1 and f"{csv} is there from before, and {name} has ratings now: delete it" in err and err.count("\n") == 1 and out == ""
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
    assert code == 0 and f"{csv} is there and stays as it is" in out and csv.read_bytes() == before and not other.exists()
    other.parent.mkdir()
    other.write_text("image path,spec path\n")
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "train_2: FAILED" in out and f"but {other} is there from before: delete that file" in out
    other.unlink(), csv.unlink()
    assert call("annotations", "--data-dir", tmp_path)[0] == 0 and made_for(tmp_path) == ["Train_Set/train_1", "Unlabelled_Set/train_2"]


def test_an_unlabelled_file_of_a_recording_that_lost_its_sound_is_reported(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "other_1", 5)
    call("annotations", "--data-dir", tmp_path)
    give_video(tmp_path, "other_1", 5, sound=False)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    csv = tmp_path / "Annotations" / "Unlabelled_Set" / "other_1.csv"
    assert code == 1 and "other_1: FAILED: no ratings, and no sound in" in out and f"{csv} is there from before: delete that file" in out
    assert "1 of 2 recordings failed (other_1)" in err


def test_damaged_pictures_or_sound_that_nobody_rated_are_reported_and_the_others_are_done(tmp_path, call):
    rated(tmp_path, train_1=rows(5))
    for name in ("other_1", "other_2", "other_3", "other_4"):
        give_video(tmp_path, name, 100)
    (tmp_path / "videos" / "other_1.mp4").write_bytes(b"")
    os.truncate(tmp_path / "videos" / "other_2.mp4", 5000)
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "other_3.wav").write_bytes(bytes(range(256)) * 10)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and err.count("\n") == 1 and "3 of 5 recordings failed (other_1, other_2, other_3)" in err
    for file in ("videos/other_1.mp4", "videos/other_2.mp4", "audio/other_3.wav"):
        assert f"{Path(file).stem}: FAILED: {tmp_path / file} cannot be read as video or sound" in out
    assert made_for(tmp_path) == ["Train_Set/train_1", "Unlabelled_Set/other_4"]


def test_without_any_ratings_nothing_is_made(tmp_path, call):
    give_video(tmp_path, "other_1", 5)
    code, _, err = call("annotations", "--data-dir", tmp_path, "--recordings", "other_1")
    assert code == 1 and "put the gold standard there" in err and made_for(tmp_path) == []


# ---- bad ratings ----------------------------------------------------------------------------------------------------

def test_nan_and_out_of_range_ratings_are_kept_and_counted(tmp_path, call):
    code, out, _ = call("annotations", "--data-dir", rated(tmp_path, train_1="0.1;0.2\nnan;0.2\n-5;0.1\n0.1;\n1;-1\n1.0001;NaN\ninf;0\n"))
    assert code == 0 and "5 rows have an invalid rating" in out
    read = table(tmp_path, "Train_Set", "train_1")
    np.testing.assert_array_equal(read["arousal"], [0.1, np.nan, -5, 0.1, 1, 1.0001, np.inf])
    np.testing.assert_array_equal(read["valence"], [0.2, 0.2, 0.1, np.nan, -1, np.nan, 0])


def test_ratings_count_within_minus_one_and_one():
    labels = np.array([-1.0001, -1, 0, 1, 1.0001, -5, np.nan, np.inf, -np.inf])
    assert valid_labels(labels).tolist() == [False, True, True, True, False, False, False, False, False]


@pytest.mark.parametrize("text,line,found", [
    ("0.1;0.2\n0.1;high\n", 2, "high"), ("arousal;valence\n0.1;0.2\n", 1, "arousal"), ("0.1;0.2\n0,1;0,2\n", 2, "0,1"),
    ("0.1;0.2\n\n0.1;0.2\n", 2, ""), ("0.1;0.2\n0.1\n", 2, "0.1"), ("0.1;0.2;0.3\n", 1, "0.1;0.2;0.3"), ("0.1,0.2\n", 1, "0.1,0.2"),
    ("0.1;0.2\n0.1;NA\n", 2, "NA"), ("0.1;True\n", 1, "True"), ("@relation GOLDSTANDARD\n", 1, "@relation"), ("x" * 10**6, 1, "xxx"),
])
def test_text_among_the_ratings_is_named_by_file_and_line(text, line, found, tmp_path, call):
    code, out, err = call("annotations", "--data-dir", rated(tmp_path, train_1=text, dev_1=rows(2)))
    assert code == 1 and f"{tmp_path / 'ratings_gold_standard' / 'train_1.csv'} line {line}: '{found}" in out
    assert max(map(len, (out + err).splitlines())) < 400
    assert not (tmp_path / "Annotations" / "Train_Set" / "train_1.csv").exists()
    assert (tmp_path / "Annotations" / "Val_Set" / "dev_1.csv").exists()


@pytest.mark.parametrize("text", ["", "\n", " \n\n"])
def test_an_empty_file_of_ratings_is_an_error(text, tmp_path, call):
    code, out, _ = call("annotations", "--data-dir", rated(tmp_path, train_1=text))
    assert code == 1 and "train_1.csv is empty" in out


def test_blank_lines_at_the_end_and_a_byte_order_mark_are_no_ratings(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf0.1; 0.2\n0.3;0.4\n\n\n")
    assert read_gold(tmp_path / "a.csv").tolist() == [[0.1, 0.2], [0.3, 0.4]]


def test_a_file_that_is_not_text_is_an_error_of_that_recording(tmp_path, call):
    rated(tmp_path, train_2=rows(2))
    (tmp_path / "ratings_gold_standard" / "train_1.csv").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "ratings_gold_standard" / "train_3").mkdir()
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "train_1: FAILED" in out and "train_3: FAILED: Is a directory" in out and "2 of 3 recordings failed" in err
    assert len(table(tmp_path, "Train_Set", "train_2")) == 2


def test_missing_ratings_say_where_to_put_them(tmp_path, call):
    for folder in (tmp_path / "gone", tmp_path):
        code, out, err = call("annotations", "--data-dir", folder)
        assert code == 1 and out == "" and err.count("\n") == 1
        assert f"no recordings in {folder / 'ratings_gold_standard'}/: put the gold standard there" in err
    assert list(tmp_path.iterdir()) == []


def test_a_recording_asked_for_that_is_not_there_is_an_error(tmp_path, call):
    code, _, err = call("annotations", "--data-dir", rated(tmp_path, train_1=rows(2)), "--recordings", "train_9")
    assert code == 1 and "no recording 'train_9'" in err and "train_1" in err


def test_two_files_of_one_id_are_an_error(tmp_path, call):
    (rated(tmp_path, train_1=rows(2)) / "ratings_gold_standard" / "train_1.txt").write_text(rows(2))
    code, _, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "train_1.txt" in err and "train_1.csv" in err and "same id" in err


@pytest.mark.parametrize("name", ["mean", "concatenated"])
def test_a_recording_that_is_called_like_a_row_of_the_scores_is_an_error(name, tmp_path, call):
    code, _, err = call("annotations", "--data-dir", rated(tmp_path, train_1=rows(2), **{name: rows(2)}))
    assert code == 1 and f"{name}.csv: a recording cannot be called {name!r}" in err and "give it another id" in err
    assert not (tmp_path / "Annotations").exists()


# ---- stopped half-way -----------------------------------------------------------------------------------------------

def test_a_full_disk_stops_at_once_in_one_line_and_leaves_no_half_file(tmp_path, call, monkeypatch):
    rated(tmp_path, train_1=rows(3), train_2=rows(3), train_3=rows(3))
    whole = type(tmp_path).write_bytes

    def write_bytes(path, data):
        if "train_2" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(path, data)
    monkeypatch.setattr(type(tmp_path), "write_bytes", write_bytes)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    made = tmp_path / "Annotations" / "Train_Set"
    assert (code, err) == (1, f"annotations.py: error: No space left on device: {made / 'train_2.csv'}\n")
    assert [path.name for path in made.iterdir()] == ["train_1.csv"] and "train_3" not in out
    monkeypatch.setattr(type(tmp_path), "write_bytes", whole)
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    assert len(list(made.iterdir())) == 3 and len(table(tmp_path, "Train_Set", "train_1")) == 3


def test_ctrl_c_leaves_what_was_made_and_the_next_run_goes_on(tmp_path, call, monkeypatch):
    rated(tmp_path, train_1=rows(3), train_2=rows(3))
    whole = annotations.annotation_table

    def annotation_table(name, gold):
        if name == "train_2":
            raise KeyboardInterrupt
        return whole(name, gold)
    monkeypatch.setattr(annotations, "annotation_table", annotation_table)
    code, _, err = call("annotations", "--data-dir", tmp_path)
    assert code == 130 and err.count("\n") == 1
    assert len(table(tmp_path, "Train_Set", "train_1")) == 3
    monkeypatch.setattr(annotations, "annotation_table", whole)
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and "1 of 2 annotation files written" in out


# ---- what the other steps share -------------------------------------------------------------------------------------

def test_the_first_folder_wins_and_hidden_files_are_no_recordings(tmp_path):
    for file in ("audio/a.wav", "videos/a.mp4", "videos/b.c.mp4", "videos/.b.mp4.part", "videos/settings.json"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("")
    found = find_recordings([tmp_path / "audio", tmp_path / "videos"], (), "")
    assert found == {"a": tmp_path / "audio" / "a.wav", "b.c": tmp_path / "videos" / "b.c.mp4"}


def test_a_folder_is_made_with_one_set_of_settings(tmp_path):
    keep_settings(tmp_path / "crops", Config(face_size=64), "face_size frame_rate")
    keep_settings(tmp_path / "crops", Config(face_size=32), "face_size frame_rate")  # nothing was made with 64
    (tmp_path / "crops" / "train_1").mkdir()
    keep_settings(tmp_path / "crops", Config(face_size=32, seed=3), "face_size frame_rate")
    with growing_folder(tmp_path / "others" / "train_1", 1):  # by a process at work, which has finished nothing yet
        keep_settings(tmp_path / "others", Config(face_size=64), "face_size")
        with pytest.raises(UserError, match="made with face_size 64, now it is 32"):
            keep_settings(tmp_path / "others", Config(face_size=32), "face_size")
    with pytest.raises(UserError, match="face_size 32, now it is 64.*delete"):
        keep_settings(tmp_path / "crops", Config(face_size=64), "face_size frame_rate")


def test_settings_of_what_a_folder_is_made_of_are_its_settings_too(tmp_path):
    keep_settings(tmp_path / "segments", Config(), "audio_rate segment_at")
    keep_settings(tmp_path / "specs", Config(), "audio_rate n_mels", made_of=tmp_path / "segments")
    with pytest.raises(UserError, match="segments/ was made with audio_rate 16000, now it is 8000"):
        keep_settings(tmp_path / "specs", Config(audio_rate=8000), "audio_rate n_mels", made_of=tmp_path / "segments")
    (tmp_path / "specs" / "train_1").mkdir()
    keep_settings(tmp_path / "segments", Config(segment_at="causal"), "audio_rate segment_at")
    with pytest.raises(UserError, match="specs/ was made with segment_at centred, now it is causal"):
        keep_settings(tmp_path / "specs", Config(), "audio_rate n_mels", made_of=tmp_path / "segments")


@pytest.mark.parametrize("text", ["", "{", "3", "[1]"])
def test_a_damaged_note_of_settings_is_an_error(text, tmp_path):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UserError, match="settings.json is damaged"):
        keep_settings(tmp_path, Config(), "face_size")


# ---- shards ---------------------------------------------------------------------------------------------------------

@given(st.integers(0, 20), st.integers(1, 8))
def test_every_recording_is_in_one_shard_and_they_differ_by_one_at_most(count, n):
    recordings = {f"train_{number}": number for number in range(count)}
    shards = [shard_of(recordings, f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted(number for shard in shards for number in shard.values()) == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert shard_of(recordings, "") == recordings


# ---- recordings one after the other and at the same time ------------------------------------------------------------

JOBS = """
import errno, multiprocessing, os, signal, sys, time
from functools import partial
from pathlib import Path
from annotations import for_each
from config import UserError, run_script

def work(name, report, folder):
    Path(folder, name).write_text(str(os.getpid()))
    if name.startswith("bad"):
        raise UserError(f"{name}.mp4 is damaged: replace it")
    if name.startswith("forbidden"):
        raise PermissionError(errno.EACCES, "Permission denied", f"{name}.mp4")
    if name.startswith("full"):
        raise OSError(errno.ENOSPC, "No space left on device", f"{name}.png")
    if name.startswith("bug"):
        1 / 0
    if name.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(6000 if name.startswith("long") else 100 if name.startswith("slow") else 1):
        time.sleep(0.01)
        report(1)
    return f"{name} done", name.upper()

def start_late(process, start=multiprocessing.context.SpawnProcess.start):
    if process.name.endswith("-2"):
        time.sleep(3)  # by now the first one has its job, and the pool watches the first one
    start(process)

def main(argv):
    folder, workers, *names = argv
    if "killed_late" in names:
        multiprocessing.context.SpawnProcess.start = start_late
    for name, result in for_each(names, partial(work, folder=folder), dict.fromkeys(names, 10), int(workers), worth=30).items():
        print("result", name, result)

if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
"""


class Job:
    """A process that calls for_each with names that say what becomes of them."""

    def __init__(self, folder, workers, *names):
        self.folder, script = folder / "pids", folder / "jobs.py"
        self.folder.mkdir()
        script.write_text(JOBS)
        env = os.environ | {"PYTHONPATH": str(Path(annotations.__file__).parent)}
        self.process = subprocess.Popen([sys.executable, script, self.folder, str(workers), *names], text=True, start_new_session=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)

    def ended(self):
        """(exit code, lines of stdout, lines of stderr)"""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out.splitlines(), err.splitlines()

    def pids_of_all(self):
        return [int(path.read_text()) for path in self.folder.iterdir()]

    def pids(self, *names):
        """Process of every name, once they have begun."""
        until = time.monotonic() + 60
        while not all((self.folder / name).exists() and (self.folder / name).read_text() for name in names):
            assert time.monotonic() < until and self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        return [int((self.folder / name).read_text()) for name in names]


def gone(pid):
    """Whether a process has ended, within 10 s."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # nobody has asked for its exit code
            return True
        time.sleep(0.02)
    return False


on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")


def test_results_come_in_the_order_of_the_recordings_whoever_ends_first(tmp_path):
    job = Job(tmp_path, 2, "slow_1", "quick_2", "quick_3")
    code, out, err = job.ended()
    assert (code, err) == (0, [])
    assert out[2] == "slow_1 done"  # as they end ...
    assert out[3:] == ["result slow_1 SLOW_1", "result quick_2 QUICK_2", "result quick_3 QUICK_3"]
    assert job.process.pid not in job.pids_of_all() and len(set(job.pids_of_all())) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_recordings_that_fail_do_not_keep_others_from_being_done(workers, tmp_path):
    code, out, err = Job(tmp_path, workers, "bad_1", "good_2", "forbidden_3", "good_4").ended()
    assert code == 1 and sorted(out) == ["bad_1: FAILED: bad_1.mp4 is damaged: replace it",
                                         "forbidden_3: FAILED: Permission denied: forbidden_3.mp4", "good_2 done", "good_4 done"]
    assert err == ["jobs.py: error: 2 of 4 recordings failed (bad_1, forbidden_3), for the reasons given above; the others are done"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_all_of_them_at_once(workers, tmp_path):
    job = Job(tmp_path, workers, "full_1", *[f"long_{number}" for number in range(2, 8)])
    code, out, err = job.ended()
    assert code == 1 and err == ["jobs.py: error: No space left on device: full_1.png"] and out == []
    assert not (job.folder / "long_7").exists()


def test_a_bug_is_shown_as_one(tmp_path):
    code, _, err = Job(tmp_path, 2, "bug_1", "long_2").ended()
    assert code == 1 and err[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("names", [("killed_1", "long_2"), ("long_1", "killed_late")], ids=["at once", "the last that was started"])
def test_a_worker_that_was_killed_is_one_line(names, tmp_path):
    code, out, err = Job(tmp_path, 2, *names).ended()
    assert code == 1 and err == ["jobs.py: error: a worker was killed (out of memory?): run the same again, with a lower --workers"]


@on_linux
@pytest.mark.parametrize("to_all", [True, False], ids=["terminal", "kill -INT"])
def test_ctrl_c_stops_all_workers_in_one_line(to_all, tmp_path):
    job = Job(tmp_path, 2, "long_1", "long_2", "long_3")
    pids = job.pids("long_1", "long_2")
    (os.killpg if to_all else os.kill)(job.process.pid, signal.SIGINT)  # a terminal interrupts every process of a command
    code, out, err = job.ended()
    assert code == 130 and len(err) == 1 and "stopped. Everything written so far is whole" in err[0] and out == []
    assert all(map(gone, pids)) and not (job.folder / "long_3").exists()


@on_linux
@pytest.mark.parametrize("after_s", [0.3, 0.7, 1.0, 1.4])
def test_ctrl_c_while_workers_start_is_one_line_too(after_s, tmp_path):
    job = Job(tmp_path, 2, "long_1", "long_2")
    time.sleep(after_s)
    os.killpg(job.process.pid, signal.SIGINT)
    code, _, err = job.ended()
    assert code == -signal.SIGINT or code == 1 or code == 130 and len(err) == 1, err  # the former while Python itself starts


@on_linux
def test_workers_whose_parent_was_killed_end(tmp_path):
    job = Job(tmp_path, 2, "long_1", "long_2")
    pids = job.pids("long_1", "long_2")
    job.process.kill()
    assert all(map(gone, pids))
    job.process.communicate()


def test_few_frames_are_not_worth_another_process(tmp_path, capsys):
    (tmp_path / "few").mkdir()
    few = Job(tmp_path / "few", 0, "quick_1", "quick_2")  # 20 frames, 30 are worth one
    assert few.ended()[0] == 0 and set(few.pids_of_all()) == {few.process.pid}
    if workers.cores() > 1:
        (tmp_path / "many").mkdir()
        many = Job(tmp_path / "many", 0, "quick_1", "quick_2", "quick_3", "quick_4")
        assert many.ended()[0] == 0 and many.process.pid not in many.pids_of_all()


def test_nothing_to_do_is_done():
    assert for_each({}, None) == {}
