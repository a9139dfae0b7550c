"""Step 0: gold standard -> annotation CSVs."""
import errno
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from annotations import partition_of
from corpora.ratings import match_frames
from corpora.recola import read_pair
from drawn.people import SOUND_RATE, write_video
from support.errors import UserError
from support.media import read_frames


def rated(folder, **texts):
    """A data folder that holds a gold standard alone: id -> text of its csv."""
    (folder / "ratings_gold_standard").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / "ratings_gold_standard" / f"{name}.csv").write_text(text)
    return folder


def rows(count):
    """Ratings within [-1, 1], each row unlike its neighbours."""
    return "".join(f"{k % 97 / 100:.2f};{-k % 89 / 100:.2f}\n" for k in range(count))


def give_crops(folder, name, count):
    """What face_detector.py leaves to count frames by."""
    (folder / "Cropped_Aligned" / name).mkdir(parents=True)
    (folder / "Cropped_Aligned" / name / "faces.csv").write_text("time_s,found\n" + "0,detected\n" * count)


def give_video(folder, name, count, sound=True):
    """A video of count pictures, with a sound track or without."""
    number = len(list(folder.rglob("*.mp4")))  # each video is another one
    track = np.random.default_rng(number).uniform(-0.1, 0.1, count * SOUND_RATE // 25) if sound else None
    picture = np.full((64, 64, 3), 20 * number, np.uint8)
    write_video(folder / "videos" / f"{name}.mp4", [picture] * count, track)


def give_sound(folder, name, samples=8000):
    (folder / "audio").mkdir(exist_ok=True)
    soundfile.write(folder / "audio" / f"{name}.wav", np.zeros(samples), 16000)


def made_for(folder):
    """The annotation files that are there, as "Train_Set/train_1"."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in folder.glob("Annotations/*/*"))


def table(folder, partition, name):
    return pd.read_csv(folder / "Annotations" / partition / f"{name}.csv")


# ---- a good run -----------------------------------------------------------------------------------------------------

def test_gold_alone_becomes_rows_whose_paths_follow_from_k(tmp_path, call):
    code, out, err = call("annotations", "--data-dir", rated(tmp_path, train_1="0.1;-0.2\n0.3;0.4\n", dev_1=rows(1)))
    assert (code, err) == (0, "")
    text = (tmp_path / "Annotations" / "Train_Set" / "train_1.csv").read_text()
    assert text == ("image path,spec path,arousal,valence\n"
                    "train_1/000000.jpg,train_1/000000.png,0.1,-0.2\ntrain_1/000001.jpg,train_1/000001.png,0.3,0.4\n")
    assert "train_1: Train_Set, 2 rows; frames unknown" in out
    for folder in ("Annotations/Val_Set", "Cropped_Aligned", "audio_segments", "specs"):
        assert (tmp_path / folder).is_dir()


def test_ratings_keep_every_digit_and_the_recolas_form(tmp_path, call):
    gold = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    call("annotations", "--data-dir", rated(tmp_path, train_1="".join(f"{a!r};{v!r}\r\n" for a, v in gold.tolist())))
    read = table(tmp_path, "Train_Set", "train_1")
    np.testing.assert_array_equal(read[["arousal", "valence"]].to_numpy(), gold)


def test_changed_ratings_and_damaged_files_are_written_again(tmp_path, call):
    call("annotations", "--data-dir", rated(tmp_path, train_1=rows(3), train_2=rows(3), dev_1=rows(3)))
    (tmp_path / "Annotations" / "Train_Set" / "train_2.csv").write_bytes(b"\xff\xfe\x00")
    code, out, _ = call("annotations", "--data-dir", rated(tmp_path, train_1=rows(4)))
    assert code == 0 and "2 of 3" in out
    assert [len(table(tmp_path, "Train_Set", name)) for name in ("train_1", "train_2")] == [4, 3]


# ---- partitions -----------------------------------------------------------------------------------------------------

def test_other_splits_are_lists_of_ids(tmp_path, call):
    rated(tmp_path, P16=rows(2), P17=rows(2), P19=rows(2))
    assert call("annotations", "--data-dir", tmp_path, "--train-ids", "P16", "P17", "--val-ids", "P19")[0] == 0
    assert made_for(tmp_path) == ["Train_Set/P16", "Train_Set/P17", "Val_Set/P19"]


def test_a_recording_in_neither_partition_is_left_out_and_said_so(tmp_path, call):
    code, out, _ = call("annotations", "--data-dir", rated(tmp_path, train_1=rows(2), test_1=rows(2)))
    assert code == 0 and "test_1: in neither" in out and made_for(tmp_path) == ["Train_Set/train_1"]


def test_a_corpus_of_which_nothing_is_listed_is_an_error(tmp_path, call):
    code, _, err = call("annotations", "--data-dir", rated(tmp_path, P16=rows(2), P17=rows(2)))
    assert code == 1 and "train_ids" in err
    assert not (tmp_path / "Annotations").exists()


def test_no_subject_is_in_both_partitions(tmp_path, call):
    with pytest.raises(UserError, match="both"):
        partition_of("P16", ("P*",), ("P16",))
    words = ["--train-ids", "P*", "--val-ids", "P16"]
    code, _, err = call("annotations", "--data-dir", rated(tmp_path, P16=rows(2), P17=rows(2)), *words)
    assert code == 1 and "P16" in err and err.count("\n") == 1
    assert not list(tmp_path.glob("Annotations/*/*.csv"))


def test_a_subject_that_changed_partitions_is_not_left_in_both(tmp_path, call):
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
    assert code == 0 and "7500 frames" in out and "dropped" in out
    assert table(tmp_path, "Train_Set", "train_1")["image path"].iloc[-1] == "train_1/007499.jpg"


@pytest.mark.parametrize("count", [18, 22])
def test_a_larger_disagreement_names_both_counts_and_the_others_are_done(count, tmp_path, call):
    give_crops(rated(tmp_path, train_1=rows(20), train_2=rows(20)), "train_1", count)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and f"train_1: FAILED: 20 ratings for {count} frames" in out and "faces.csv" in out
    assert "train_1" in err and err.count("\n") == 1
    assert not (tmp_path / "Annotations" / "Train_Set" / "train_1.csv").exists()
    assert len(table(tmp_path, "Train_Set", "train_2")) == 20


@given(st.integers(0, 400), st.integers(0, 400))
def test_rows_match_frames_or_differ_by_one_or_by_a_hundredth(count, frames):
    gold = np.arange(2.0 * count).reshape(count, 2)
    if abs(count - frames) <= max(1, frames / 100):
        kept, notes = match_frames(gold, frames, 25, "video")
        assert kept.tolist() == gold[:frames].tolist() and bool(notes) == (count != frames)
    else:
        with pytest.raises(UserError, match=f"{count} ratings for {frames} frames"):
            match_frames(gold, frames, 25, "video")
    assert match_frames(gold, None)[0] is gold


def test_frames_are_counted_in_the_raw_videos(raw, call):
    code, out, _ = call("annotations", "--data-dir", raw)
    assert code == 0 and out.count("60 frames") == out.count("dropped") == 3
    assert len(table(raw, "Val_Set", "dev_1")) == 60
    os.truncate(raw / "videos" / "train_1.mp4", 20_000)
    (raw / "videos" / "train_2.mp4").write_bytes(b"")
    shutil.rmtree(raw / "Annotations")
    code, out, err = call("annotations", "--data-dir", raw)
    assert code == 1 and "train_1.mp4" in out and "train_2.mp4" in out and "(train_1, train_2)" in err
    assert len(table(raw, "Val_Set", "dev_1")) == 60


# ---- subjects of several recordings ---------------------------------------------------------------------------------

def test_recordings_of_one_subject_stay_in_one_set(tmp_path, call):
    rated(tmp_path, train_1=rows(5), train_2=rows(5), dev_1=rows(5))
    for name in ("other_1", "other_2"):
        give_video(tmp_path, name, 5)
    (tmp_path / "subjects.csv").write_text("recording,subject\ntrain_1,a\ntrain_2,a\nother_1,a\nother_2,b\n")
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and "other_1: no ratings, but its subjects are rated in train_1, train_2: left out" in out
    assert made_for(tmp_path)[2:] == ["Unlabelled_Set/other_2", "Val_Set/dev_1"]
    (tmp_path / "subjects.csv").write_text("recording,subject\ntrain_1,a\nother_2,a\n")
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "other_2: FAILED" in out and "is there from an earlier run" in out
    (tmp_path / "subjects.csv").write_text("Recording, Subject\ntrain_1,a\ndev_1,a\n")
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "dev_1 (Val_Set) and train_1 (Train_Set) are of one subject, a" in err and err.count("\n") == 1


@pytest.mark.parametrize("held,line", [
    (b"train_1,a\n", 1), (b"", 1), (b"recording,subject\ntrain_1\n", 2), (b"recording,subject\na,\n", 2),
    (b"recording,subject\na,b\na,c\n", 3), (b"recording,subject\n\xff,b\n", 2),
])
def test_a_table_of_subjects_that_is_not_one_is_refused(held, line, tmp_path, call):
    (rated(tmp_path, train_1=rows(5)) / "subjects.csv").write_bytes(held)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and f"subjects.csv line {line}: " in err
    assert err.count("\n") == 1 and out == ""


# ---- the same recording twice ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("of", ["dev_1", "test_1", "train_1"])
def test_a_copy_of_another_recording_is_not_unlabelled(of, tmp_path, call):
    rated(tmp_path, train_1=rows(5), dev_1=rows(5))
    for name in ("train_1", "dev_1", "test_1", "other_1"):
        give_video(tmp_path, name, 5)
    shutil.copy(tmp_path / "videos" / f"{of}.mp4", tmp_path / "videos" / f"{of} (1).mp4")
    code, out, err = call("annotations", "--data-dir", tmp_path, "--unlabelled-ids", f"{of} (1)")
    assert code == 1 and f"{of} (1): FAILED: its video is a copy of that of {of}, byte for byte" in out
    assert made_for(tmp_path) == ["Train_Set/train_1", "Unlabelled_Set/other_1", "Val_Set/dev_1"]
    old = tmp_path / "Annotations" / "Unlabelled_Set" / f"{of} (1).csv"
    old.write_text("image path,spec path\n")  # of an earlier run
    code, out, _ = call("annotations", "--data-dir", tmp_path, "--unlabelled-ids", f"{of} (1)")
    assert code == 1 and f"delete {old}, too" in out


def test_a_copy_in_another_codec_is_not_unlabelled_either(raw, call):
    """Its sound is the same file, too, which is no reason by itself."""
    shutil.copy(raw / "audio" / "dev_1.wav", raw / "audio" / "stranger.wav")
    frames = [picture.rgb[::2, ::2] for ks, picture in read_frames(raw / "videos" / "dev_1.mp4", 25) for _ in ks]
    write_video(raw / "videos" / "stranger.mp4", frames)
    code, out, _ = call("annotations", "--data-dir", raw)
    assert code == 1 and "stranger: FAILED: its sound and pictures are a copy of those of dev_1: delete" in out
    assert made_for(raw) == ["Train_Set/train_1", "Train_Set/train_2", "Val_Set/dev_1"]


@pytest.mark.parametrize("names,apart", [(("train_1", "train_2"), False), (("dev_1", "train_1"), True)])
def test_copies_of_rated_recordings_are_named(names, apart, tmp_path, call):
    rated(tmp_path, **{name: rows(5) for name in names})
    give_video(tmp_path, names[0], 5)
    shutil.copy(tmp_path / "videos" / f"{names[0]}.mp4", tmp_path / "videos" / f"{names[1]}.mp4")
    out = call("annotations", "--data-dir", tmp_path)[1]
    for kind in ("videos", "ratings"):
        assert f"WARNING: the {kind} of {', '.join(names)} are the same, byte for byte" in out
    assert ("in different sets" in out) == apart


def test_names_that_only_look_the_same_are_refused_and_the_others_are_done(tmp_path, call):
    composed, decomposed = "dev_Zo\u00eb", "dev_Zoe\u0308"
    give_video(rated(tmp_path, train_1=rows(5), **{composed: rows(5)}), decomposed, 5)
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and f"{composed}: FAILED" in out and f"{decomposed}: FAILED" in out and "Unicode" in out
    assert made_for(tmp_path) == ["Train_Set/train_1"]
    (tmp_path / "videos" / f"{decomposed}.mp4").rename(tmp_path / "videos" / f"{composed}.mp4")
    assert call("annotations", "--data-dir", tmp_path, "--val-ids", decomposed)[0] == 0
    assert made_for(tmp_path) == ["Train_Set/train_1", f"Val_Set/{composed}"]


def test_names_that_are_not_utf_8_are_refused_and_the_others_are_done(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "other_1", 5)
    give_video(tmp_path, "other_2", 5)
    os.rename(tmp_path / "videos" / "other_2.mp4", os.fsencode(tmp_path / "videos") + b"/other_\xe9.mp4")
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "other_\\udce9: FAILED: its name is not UTF-8" in out
    assert made_for(tmp_path) == ["Train_Set/train_1", "Unlabelled_Set/other_1"]


def test_what_lies_beside_videos_is_no_recording(tmp_path, call):
    give_video(rated(tmp_path, train_1=rows(5)), "train_1", 5)
    for name in ("train_1.srt", "train_1M01.XML", "Thumbs.db"):
        (tmp_path / "videos" / name).write_text("x")
    (tmp_path / "videos" / "@eaDir").mkdir()
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert (code, err) == (0, "") and made_for(tmp_path) == ["Train_Set/train_1"]
    assert "3 files that are not video or sound by their names are left alone (Thumbs.db" in out


# ---- bad ratings ----------------------------------------------------------------------------------------------------

def test_nan_and_out_of_range_ratings_are_kept_and_counted(tmp_path, call):
    rated(tmp_path, train_1="0.1;0.2\nnan;0.2\n-5;0.1\n0.1;\n1;-1\n1.0001;NaN\ninf;0\n" + "0;0\n" * 20)
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and "5 rows" in out
    read = table(tmp_path, "Train_Set", "train_1")[:7]
    np.testing.assert_array_equal(read["arousal"], [0.1, np.nan, -5, 0.1, 1, 1.0001, np.inf])
    np.testing.assert_array_equal(read["valence"], [0.2, 0.2, 0.1, np.nan, -1, np.nan, 0])


@pytest.mark.parametrize("text,line,found", [
    ("0.1;0.2\n0.1;high\n", 2, "high"), ("arousal;high\n0.1;0.2\n", 1, "arousal"), ("0.1;0.2\n0,1;0,2\n", 2, "0,1"),
    ("0.1;0.2\n\n0.1;0.2\n", 2, ""), ("0.1;0.2\n0.1\n", 2, "0.1"), ("0.1;0.2;0.3\n", 1, "0.1;0.2;0.3"),
    ("0.1;0.2\n0.1;x\n", 2, "x"), ("0.1;True\n", 1, "True"), ("x" * 10**5 + "\n1", 1, "xxx"),
    ("x" * 10**6, 1, "large"),
])
def test_text_among_the_ratings_is_named_by_file_and_line(text, line, found, tmp_path, call):
    code, out, err = call("annotations", "--data-dir", rated(tmp_path, train_1=text, dev_1=rows(2)))
    said = out.partition(f"{tmp_path / 'ratings_gold_standard' / 'train_1.csv'} line {line}: ")[2].splitlines()
    assert code == 1 and found in said[0]
    assert max(map(len, (out + err).splitlines())) < 400
    assert not (tmp_path / "Annotations" / "Train_Set" / "train_1.csv").exists()
    assert (tmp_path / "Annotations" / "Val_Set" / "dev_1.csv").exists()


@pytest.mark.parametrize("text", ["", "\n", " \n\n"])
def test_an_empty_file_of_ratings_is_an_error(text, tmp_path, call):
    code, out, _ = call("annotations", "--data-dir", rated(tmp_path, train_1=text))
    assert code == 1 and "train_1.csv" in out


def test_blank_lines_at_the_end_and_a_byte_order_mark_are_no_ratings(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf0.1; 0.2\n0.3;0.4\n\n\n")
    assert read_pair(tmp_path / "a.csv").values.tolist() == [[0.1, 0.2], [0.3, 0.4]]


def test_a_file_that_is_not_text_is_an_error_of_that_recording(tmp_path, call):
    rated(tmp_path, train_2=rows(2))
    (tmp_path / "ratings_gold_standard" / "train_1.csv").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "ratings_gold_standard" / "train_3.csv").mkdir()
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "train_1: FAILED" in out and "train_3: FAILED" in out and "2 of 3" in err
    assert len(table(tmp_path, "Train_Set", "train_2")) == 2


def test_missing_ratings_say_where_to_put_them(tmp_path, call):
    for folder in (tmp_path / "gone", tmp_path):
        code, out, err = call("annotations", "--data-dir", folder)
        assert code == 1 and out == "" and err.count("\n") == 1
        assert str(folder / "ratings_gold_standard") in err
    assert list(tmp_path.iterdir()) == []


# ---- stopped half-way -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("error,code", [(OSError(errno.ENOSPC, "full"), 1), (KeyboardInterrupt(), 130)])
def test_what_stops_a_run_leaves_whole_files_and_the_next_run_resumes(error, code, tmp_path, call, monkeypatch):
    rated(tmp_path, train_1=rows(3), train_2=rows(3), train_3=rows(3))
    whole, made = type(tmp_path).write_bytes, tmp_path / "Annotations" / "Train_Set"

    def write_bytes(path, data):
        if "train_2" in path.name:
            raise error
        return whole(path, data)
    monkeypatch.setattr(type(tmp_path), "write_bytes", write_bytes)
    ended, out, err = call("annotations", "--data-dir", tmp_path)
    assert ended == code and err.count("\n") == 1 and "train_3: " not in out
    assert [path.name for path in made.iterdir()] == ["train_1.csv"]
    monkeypatch.setattr(type(tmp_path), "write_bytes", whole)
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and "2 of 3" in out and len(list(made.iterdir())) == 3


def test_a_delay_as_long_as_a_recording_leaves_no_rating_and_is_refused(tmp_path, call):
    code, out, err = call("annotations", "--data-dir", rated(tmp_path, train_1=rows(100), dev_1=rows(200)),
                          "--label-delay-s", "4")
    assert code == 1 and made_for(tmp_path) == ["Val_Set/dev_1"]
    assert "--label-delay-s 4 is as long as the recording (4 s): no frame would have a rating" in out + err
