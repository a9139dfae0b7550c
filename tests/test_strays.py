"""corpora/strays.py: what is not used, or does not go together by its names, is named."""
import pytest

from tests.test_annotations import give_video, made_for, rated, rows


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_is_beside_features_is_named(tmp_path, call):
    rated(tmp_path, train_1=rows(50))
    for name in ("visual/train_1.npz", "openface/train_1.csv"):
        put(tmp_path / "features" / name)
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and "features: only visual/ and audio/ are looked into, not openface" in out
    assert "features/visual: no features that can be read (.csv, .arff, .npy), left alone: train_1.npz" in out


def test_crops_in_a_folder_too_deep_are_no_recording(tmp_path, call):
    rated(tmp_path, train_1=rows(50))
    put(tmp_path / "Cropped_Aligned" / "cropped_aligned" / "train_1" / "00001.jpg")
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 0 and made_for(tmp_path) == ["Train_Set/train_1"]
    assert "WARNING: cropped_aligned in" in out and "holds folders and no images" in out


def test_ratings_and_videos_of_other_names_are_named(tmp_path, call):
    rated(tmp_path, train_1=rows(50), train_2=rows(50), train_3_left=rows(50))
    for name in ("train_1", "train2", "train_3"):
        give_video(tmp_path, name, 50)
    _, out, _ = call("annotations", "--data-dir", tmp_path)
    assert "WARNING: 1 of 3 recordings have ratings and nothing else (train_2)" in out
    assert "; without ratings there are train2. Ratings" in out


@pytest.mark.parametrize("subjects, code, says", [
    ("train_1,A\ntrain_l2,A\ndev_1,B\n", 0, [
        "subjects.csv: recordings that are not there: train_l2",
        "recordings left out, each of which counts as a subject of its own: train_2"]),
    ("train_1.mp4,A\ndev_1.mp4,A\ntrain_2,B\n", 1, ["'train_1.mp4' is the name of a file"]),
])
def test_what_subjects_csv_says_of_no_recording_is_named(subjects, code, says, tmp_path, call):
    rated(tmp_path, train_1=rows(50), train_2=rows(40), dev_1=rows(30))
    put(tmp_path / "subjects.csv", "recording,subject\n" + subjects)
    found, out, err = call("annotations", "--data-dir", tmp_path)
    assert found == code and all(words in out + err for words in says), out + err
