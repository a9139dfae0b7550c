"""Aff-Wild2: from its txt files to annotation CSVs with known values."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.affwild2 import find, read
from support.errors import UserError
from support.recordings import TARGETS, video_of

TEXT = "valence,arousal\n0.1,0.2\n-5,-5\n0.3,-5\n-0.4,1\n"
MADE = [[0.2, 0.1], [np.nan, np.nan], [np.nan, np.nan], [1, -0.4]]  # arousal, valence


def official(data, text=TEXT, **names):
    """The folders of the valence-arousal track: id -> set."""
    for name, part in names.items():
        path = data / "ratings_gold_standard" / "VA_Estimation_Challenge" / part / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return data


def table(data, partition, name):
    return pd.read_csv(data / "Annotations" / partition / f"{name}.csv")[TARGETS].to_numpy()


def test_official_files_become_annotations_of_their_sets_valence_first(tmp_path, call):
    official(tmp_path, video1="Train_Set", video2="Validation_Set")
    for track in ("EXPR_Recognition_Challenge", "AU_Detection_Challenge"):
        text, path = "AU1,AU2\n0,1\n", tmp_path / "ratings_gold_standard" / track / "Train_Set" / "video3.txt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert (code, err) == (0, "") and "2 recordings in the form affwild2" in out
    assert out.count("2 rows are marked invalid (-5)") == 2
    np.testing.assert_array_equal(table(tmp_path, "Train_Set", "video1"), MADE)
    np.testing.assert_array_equal(table(tmp_path, "Val_Set", "video2"), MADE)


def test_most_ratings_may_be_invalid_but_none_on_another_scale(tmp_path, call):
    official(tmp_path, "valence,arousal\n" + "-5,-5\n" * 99 + "0,0\n", video1="Train_Set")
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    official(tmp_path, "valence,arousal\n" + "-5,-5\n50,60\n" * 9, video1="Train_Set")
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "video1.txt: 9 of 9 ratings of arousal lie outside" in out


def test_the_sets_of_the_corpus_are_not_overruled_unseen(tmp_path, call):
    official(tmp_path, dev_1="Train_Set")
    code, _, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "dev_1 is in Train_Set of the corpus" in err and err.count("\n") == 1
    assert call("annotations", "--data-dir", tmp_path, "--val-ids", "x*")[0] == 0


def test_a_video_in_both_sets_is_refused(tmp_path):
    official(tmp_path, video1="Train_Set"), official(tmp_path, video1="Validation_Set")
    with pytest.raises(UserError, match="same id"):
        find(tmp_path / "ratings_gold_standard")


@pytest.mark.parametrize("text,says", [
    ("0.1,0.2\n0.3,0.4\n", "header valence,arousal"), ("image,label,frameid\na,1,1\n", "image,label,frameid"),
    ("valence,arousal\n0.1,0.2\n0.1\n", "line 3"), ("valence,arousal\n0.1,x\n", "line 2"),
    ("valence,arousal\n", "no rows"),
])
def test_other_files_are_refused(text, says, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError, match=says):
        read(tmp_path / "a.txt")


def test_the_subjects_of_one_video_are_two_and_their_video_is_no_stranger(tmp_path, call):
    from test_annotations import give_crops, give_video
    official(tmp_path, a_left="Train_Set", a_right="Train_Set", b="Validation_Set")
    give_video(tmp_path, "a", 4)
    code, out, err = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "a: no ratings, but its subjects are rated in a_left, a_right: left out" in out
    assert "a_left: FAILED: one of the subjects of " in out and "a_right: FAILED" in out and "(a_left, a_right)" in err
    assert not (tmp_path / "Annotations" / "Unlabelled_Set").exists()
    give_crops(tmp_path, "a_left", 4), give_crops(tmp_path, "a_right", 4)
    assert call("annotations", "--data-dir", tmp_path)[0] == 0
    np.testing.assert_array_equal(table(tmp_path, "Train_Set", "a_right"), MADE)


def test_subjects_are_named_after_their_video():
    assert [video_of(name) for name in ("a_left", "a_right", "a", "left")] == ["a", "a", "a", "left"]


@given(st.binary(max_size=60) | st.text("0123456789.,\n-valenceros", max_size=60).map(
    lambda text: f"valence,arousal\n{text}".encode()))
def test_whatever_bytes_come_there_are_ratings_or_one_error(tmp_path_factory, held):
    path = tmp_path_factory.getbasetemp() / "a.txt"
    path.write_bytes(held)
    try:
        values = read(path).values
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert values.shape[1] == 2 and len(values) == held.decode().rstrip("\n ").count("\n")
        assert not (values == -5).any()
