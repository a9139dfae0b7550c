"""packing.py: what folders of images become on disk, and what is said of damaged ones."""
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import FRAMES, flip, own, table_of
from test_data import BOTH, config_of, rewrite

import audio_melspec
import data
import packing
from data import Clips, image_shapes, load_recordings, stream
from packing import read_image
from support.checksums import LIST, list_all, open_array
from support.errors import UserError

# ---- images ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("image, script, damage", [
    *(("Cropped_Aligned/train_2/000030.jpg", "face_detector.py", damage) for damage in ("missing", "half", "size")),
    *(("specs/train_2/000030.png", "audio_melspec.py", damage) for damage in ("empty", "half", "text"))])
def test_a_missing_or_damaged_image_names_itself_and_its_script(made, image, script, damage):
    path = own(made / image)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "size":
        cv2.imwrite(str(path), np.zeros((20, 20, 3), np.uint8))
    else:
        path.write_bytes({"empty": b"", "half": whole[:len(whole) // 2], "text": b"not an image"}[damage])
    with pytest.raises(UserError) as error:
        load_recordings(config_of(made), "Train_Set", BOTH)
    assert image in str(error.value) and script in str(error.value) and "\n" not in str(error.value)
    kind = "frames" if "jpg" in image else "specs"
    assert not list((made / "cache").glob(f"*train_2.{kind}*")), "a half-made cache was left"


def test_a_last_rating_without_an_image_is_left_out_and_said(made, capsys):
    for name in (f"{FRAMES - 1:06d}.jpg", LIST):
        (made / "Cropped_Aligned" / "train_1" / name).unlink()
    recording = load_recordings(config_of(made), "Train_Set", BOTH)[0]
    assert len(recording) == FRAMES - 1 == len(recording.arrays["frames"]) == len(recording.arrays["specs"])
    assert "train_1: the last rating" in capsys.readouterr().out


def test_the_only_image_missing_is_an_error(made):
    rewrite(table_of(made, "train_1"), lambda lines: lines[:2])
    (made / "Cropped_Aligned" / "train_1" / "000000.jpg").unlink()
    with pytest.raises(UserError, match="000000.jpg"):
        load_recordings(config_of(made), "Train_Set", ["frames"])


def test_images_without_a_rating_are_said(made, capsys):
    rewrite(table_of(made, "train_1"), lambda lines: lines[:8] + lines[13:-1])
    assert len(load_recordings(config_of(made), "Train_Set", ["frames"])[0]) == FRAMES - 6
    out = capsys.readouterr().out
    assert "train_1: 6 images" in out and "000007.jpg" in out


def test_recordings_of_different_sizes_are_refused(made):
    for path in (made / "Cropped_Aligned" / "train_2").glob("*.jpg"):
        cv2.imwrite(str(own(path)), np.zeros((20, 20, 3), np.uint8))
    list_all(made / "Cropped_Aligned" / "train_2")
    with pytest.raises(UserError, match=r"train_2.*\(3, 20, 20\).*face_detector.py"):
        image_shapes(load_recordings(config_of(made), "Train_Set", BOTH))


def test_colours_are_read_as_red_green_blue(tmp_path):
    cv2.imwrite(str(tmp_path / "red.png"), np.full((8, 8, 3), (0, 0, 255), np.uint8))  # OpenCV writes BGR
    assert read_image(tmp_path / "red.png", "frames")[:, 4, 4].tolist() == [255, 0, 0]


# ---- spectrograms in one array --------------------------------------------------------------------------------------

@pytest.fixture
def arrays(made_corpus, made):
    """made, its spectrograms written as arrays instead of images."""
    shutil.copytree(made_corpus / "audio_segments", made / "audio_segments")
    shutil.rmtree(made / "specs")
    audio_melspec.main(["--data-dir", str(made), "--n-mels", "16", "--spec-files", "array"])
    return made


def test_training_and_evaluation_are_the_same_from_images_and_from_arrays(made_corpus, arrays, tmp_path):
    images = shutil.copytree(made_corpus, tmp_path / "images")
    of_images, of_arrays = (load_recordings(config_of(folder), "Train_Set", BOTH) for folder in (images, arrays))
    assert image_shapes(of_images) == image_shapes(of_arrays)
    both = [zip(*(Clips(recordings, 4, 10, BOTH, 3).batches(0) for recordings in (of_images, of_arrays)))]
    both += [zip(stream(one, BOTH), stream(other, BOTH)) for one, other in zip(of_images, of_arrays)]
    batches = [pair for pairs in both for pair in pairs]
    assert len(batches) >= 5
    for one, other in batches:
        assert all(torch.equal(part.nan_to_num(9), its.nan_to_num(9)) for part, its in zip(one[:3], other[:3]))


def in_place(array):
    """Whether an array is that of a file, and cannot be changed."""
    return not array.flags.owndata and not array.flags.writeable


def test_arrays_stay_on_disk_and_are_not_packed(arrays):
    recording = load_recordings(config_of(arrays), "Train_Set", BOTH)[0]
    assert in_place(recording.arrays["specs"]) and list(recording.paths) == ["frames"]
    assert not list((arrays / "cache").glob("*.specs.*"))


@pytest.mark.parametrize("rows,left", [(FRAMES, FRAMES), (FRAMES - 1, FRAMES - 1), (FRAMES + 1, FRAMES)])
def test_an_array_may_be_a_row_short_or_longer_and_that_is_said(rows, left, arrays, capsys):
    path = arrays / "specs" / "train_1.npy"
    whole = np.load(path)
    np.save(path, np.concatenate([whole, whole])[:rows])
    recording = load_recordings(config_of(arrays), "Train_Set", BOTH)[0]
    assert len(recording) == len(recording.arrays["specs"]) == len(recording.arrays["frames"]) == left
    np.testing.assert_array_equal(recording.arrays["specs"], whole[:left])
    told = {FRAMES: "", FRAMES - 1: "train_1: the last rating", FRAMES + 1: "train_1: 1 spectrograms"}
    assert told[rows] in capsys.readouterr().out


@pytest.mark.parametrize("damage, message", [
    (lambda path: os.truncate(path, path.stat().st_size - 1), "train_1.npy.*audio_melspec.py"),
    (lambda path: path.write_text("hello"), "train_1.npy"),
    (lambda path: np.save(path, np.zeros((FRAMES, 16, 101), np.uint8)), r"\(60, 16, 101\)"),
    (lambda path: np.save(path, np.zeros((FRAMES, 1, 16, 101))), "float64"),
    (lambda path: np.save(path, np.load(path)[:-2]), "58 spectrograms, 60"),
    (lambda path: np.save(path, np.load(path)[:, :, :8]), "train_2.*audio_melspec.py"),
    (lambda path: path.unlink(), "000000.png.*audio_melspec.py"),
    (lambda path: path.with_suffix("").mkdir(), "both exist"),
], ids=["truncated", "text", "other shape", "other type", "too short", "other size", "missing", "images too"])
def test_an_array_that_is_not_as_it_should_be_is_one_error_that_names_it(damage, message, arrays):
    damage(arrays / "specs" / "train_1.npy")
    with pytest.raises(UserError, match=message) as error:
        image_shapes(load_recordings(config_of(arrays), "Train_Set", BOTH))
    assert "\n" not in str(error.value)


def test_ratings_in_another_order_than_the_array_are_refused(arrays):
    rewrite(table_of(arrays, "train_1"), lambda lines: [lines[0], *lines[:0:-1]])
    with pytest.raises(UserError, match="rating 1 of train_1"):
        load_recordings(config_of(arrays), "Train_Set", BOTH)


# ---- the cache ------------------------------------------------------------------------------------------------------

def test_a_second_load_reads_no_image(made, monkeypatch):
    first = load_recordings(config_of(made), "Train_Set", BOTH)
    monkeypatch.setattr(packing, "read_image", lambda path, kind: pytest.fail(f"{path} was read again"))
    second = load_recordings(config_of(made), "Train_Set", BOTH)
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one.arrays["frames"], other.arrays["frames"])


def test_changed_images_make_the_cache_again_and_the_old_one_goes(made):
    load_recordings(config_of(made), "Train_Set", BOTH)
    path = own(made / "Cropped_Aligned" / "train_1" / "000003.jpg")
    cv2.imwrite(str(path), np.full((32, 32, 3), 200, np.uint8))
    (path.parent / LIST).unlink()
    recording = load_recordings(config_of(made), "Train_Set", BOTH)[0]
    assert (recording.arrays["frames"][3] == 200).all()
    assert len(list((made / "cache").glob("train_1.frames.*"))) == 1


def test_same_size_but_touched_later_counts_as_changed(made):
    load_recordings(config_of(made), "Train_Set", ["frames"])
    before = {path.name for path in (made / "cache").iterdir()}
    os.utime(own(made / "Cropped_Aligned" / "train_1" / "000003.jpg"), (1, 1))
    load_recordings(config_of(made), "Train_Set", ["frames"])
    after = {path.name for path in (made / "cache").iterdir()}
    assert len(after) == len(before) == 2 and len(after & before) == 1


@pytest.mark.parametrize("damage", ["deleted", "cut", "empty"])
def test_deleting_or_damaging_the_cache_loses_nothing(made, damage):
    before = np.array(load_recordings(config_of(made), "Train_Set", ["frames"])[0].arrays["frames"])
    for path in (made / "cache").iterdir():
        whole = path.read_bytes()
        path.unlink()
        if damage != "deleted":
            path.write_bytes(whole[:len(whole) // 2] if damage == "cut" else b"")
    np.testing.assert_array_equal(load_recordings(config_of(made), "Train_Set", ["frames"])[0].arrays["frames"], before)


def test_images_stay_on_disk_until_they_are_used(made):
    for array in load_recordings(config_of(made), "Train_Set", BOTH)[0].arrays.values():
        assert in_place(array) and array.dtype == np.uint8


# ---- damage that still reads ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("file, again", [
    ("Cropped_Aligned/train_2/000030.jpg", "delete .*Cropped_Aligned/train_2/ and run face_detector.py"),
    ("Cropped_Aligned/train_2/checksums.sfv", "delete .*Cropped_Aligned/train_2/"),
    ("specs/train_2/000030.png", "delete .*specs/train_2/ and run audio_melspec.py"),
    ("specs/train_2/checksums.sfv", "delete .*specs/train_2/")])
@pytest.mark.parametrize("packed_before", [True, False])
def test_a_changed_bit_in_a_file_that_is_read_is_an_error_that_names_it(file, again, packed_before, made):
    if packed_before:
        load_recordings(config_of(made), "Train_Set", BOTH)
    flip(made / file)
    with pytest.raises(UserError, match=f"{file} is damaged.*{again}") as error:
        load_recordings(config_of(made), "Train_Set", BOTH)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("at", [0.01, 0.6, 0.9999])
def test_a_changed_bit_in_an_array_of_spectrograms_is_an_error_that_names_it(at, arrays):
    flip(arrays / "specs" / "train_2.npy", at)
    with pytest.raises(UserError, match=r"specs/train_2.npy is damaged .*audio_melspec.py"):
        load_recordings(config_of(arrays), "Train_Set", BOTH)


def test_a_changed_bit_in_the_cache_is_said_and_made_good(made, capsys):
    before = [np.array(one.arrays["frames"]) for one in load_recordings(config_of(made), "Train_Set", ["frames"])]
    for path in (made / "cache").iterdir():
        flip(path)
    capsys.readouterr()
    after = load_recordings(config_of(made), "Train_Set", ["frames"])
    assert all(np.array_equal(one.arrays["frames"], array) for one, array in zip(after, before))
    assert capsys.readouterr().out.count("it is made again") == 2
    load_recordings(config_of(made), "Train_Set", ["frames"])
    assert not capsys.readouterr().out


def test_images_exchanged_for_others_with_the_times_and_sizes_of_the_old_are_noticed(made):
    """Those of other programs: nothing but the time that the file system itself keeps tells."""
    load_recordings(config_of(made), "Train_Set", ["specs"])
    paths = [made / "specs" / "train_1" / f"{k:06d}.png" for k in (3, 40)]
    (paths[0].parent / LIST).unlink()
    load_recordings(config_of(made), "Train_Set", ["specs"])
    contents, states = [path.read_bytes() for path in paths], [path.stat() for path in paths]
    for path, content, state in zip(paths, contents[::-1], states):
        own(path).write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert path.stat().st_size == state.st_size, "they are not compressed"
    (recording, _) = load_recordings(config_of(made), "Train_Set", ["specs"])
    np.testing.assert_array_equal(recording.arrays["specs"][3], read_image(paths[0], "specs"))


def test_images_without_checksums_are_used_and_that_is_said_in_one_line(arrays, capsys):
    load_recordings(config_of(arrays), "Train_Set", BOTH)
    assert "checksums" not in capsys.readouterr().out
    for name in ("train_1", "train_2"):
        (arrays / "Cropped_Aligned" / name / LIST).unlink()
        np.save(arrays / "specs" / f"{name}.npy", np.load(arrays / "specs" / f"{name}.npy"))
    assert not open_array(arrays / "specs" / "train_1.npy", "")[1]
    assert len(load_recordings(config_of(arrays), "Train_Set", BOTH)) == 2
    said, = [line for line in capsys.readouterr().out.splitlines() if "checksums" in line]
    assert said.startswith("Train_Set") and "train_1 and 1 more" in said


@pytest.mark.parametrize("image", ["Cropped_Aligned/train_1/000059.jpg", "specs/train_1/000059.png"])
def test_a_last_image_that_was_there_once_is_not_left_out(image, made):
    (made / image).unlink()
    with pytest.raises(UserError, match=f"{image} is missing"):
        load_recordings(config_of(made), "Train_Set", BOTH)


def test_an_annotation_file_cut_at_a_line_is_an_error(made, arrays):
    for folder in (made, arrays):
        rewrite(table_of(folder, "train_1"), lambda lines: lines[:41])
        for inputs, place in ((["frames"], "Cropped_Aligned/train_1"), (["specs"], "specs/train_1")):
            with pytest.raises(UserError, match=f"{place}.* 60 images .*last 20.*annotations.py"):
                load_recordings(config_of(folder), "Train_Set", inputs)


# ---- two processes --------------------------------------------------------------------------------------------------

def test_two_processes_that_pack_at_once_both_read_all_of_it(made):
    code = ("import sys; from config import Config; from data import load_recordings; "
            "recordings = load_recordings(Config(data_dir=sys.argv[1]), 'Train_Set', ['frames', 'specs']); "
            "print([int(array.sum(dtype='int64')) for one in recordings for array in one.arrays.values()])")
    command = [sys.executable, "-c", code, str(made)]
    both = [subprocess.Popen(command, cwd=os.path.dirname(data.__file__), stdout=subprocess.PIPE, text=True)
            for _ in range(2)]
    sums = [process.communicate()[0] for process in both]
    recordings = load_recordings(config_of(made), "Train_Set", BOTH)
    expected = [int(one.arrays[kind].sum(dtype="int64")) for one in recordings for kind in BOTH]
    assert sums == [f"{expected}\n"] * 2
    assert len(list((made / "cache").iterdir())) == 4, "something was left behind"
