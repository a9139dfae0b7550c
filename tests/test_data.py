"""data.py: what the annotation CSVs and folders of pictures become, and what happens when they are not as they should be."""
import math
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import FRAMES
from hypothesis import given, settings
from hypothesis import strategies as st

import audio_melspec
import data
from config import Config
from data import (
    Batch,
    Clips,
    Recording,
    augment,
    draw_changes,
    epoch_clips,
    load_recordings,
    move_in_time,
    on_device,
    picture_shapes,
    read_labels,
    read_picture,
    read_recording,
    stream,
)
from support.errors import SettingsError, UserError

torch.set_num_threads(1)
BOTH = ("frames", "specs")


def config_of(folder, **changes):
    return Config(data_dir=str(folder), target="both", **changes)


def table_of(folder, name="train_1"):
    return folder / "Annotations" / ("Train_Set" if name.startswith("train") else "Val_Set") / f"{name}.csv"


def rewrite(path, change):
    """Puts `change(lines)` in place of the lines of a file."""
    path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))


def numbered(length, side=4, name="numbered"):
    """A Recording whose k-th picture and rating say k."""
    pictures = np.arange(length, dtype=np.uint8)[:, None, None, None]
    arrays = {"frames": np.broadcast_to(pictures, (length, 3, side, side)), "specs": np.broadcast_to(pictures, (length, 1, 5, 6))}
    return Recording(name, (np.arange(length, dtype=np.float32) / 1000)[:, None], {}, arrays)


# ---- annotation CSVs ------------------------------------------------------------------------------------------------

def test_recordings_hold_every_frame_with_its_own_pictures_and_ratings(made):
    recordings = load_recordings(config_of(made), "Train_Set", BOTH)
    assert [recording.name for recording in recordings] == ["train_1", "train_2"]
    assert picture_shapes(recordings) == {"frames": (3, 32, 32), "specs": (1, 16, 101)}
    for recording in recordings:
        rows = [line.split(",") for line in table_of(made, recording.name).read_text().splitlines()[1:]]
        assert len(recording) == len(rows) == FRAMES
        np.testing.assert_allclose(recording.gold, [[float(value) for value in row[2:]] for row in rows], atol=1e-6)
        for k in (0, 17, FRAMES - 1):
            bgr = cv2.imread(str(made / "Cropped_Aligned" / rows[k][0]))
            np.testing.assert_array_equal(recording.arrays["frames"][k], bgr[:, :, ::-1].transpose(2, 0, 1))
            spec = cv2.imread(str(made / "specs" / rows[k][1]), cv2.IMREAD_GRAYSCALE)
            np.testing.assert_array_equal(recording.arrays["specs"][k], spec[None])


def test_the_manuals_header_without_spectrograms_gives_the_same_recording(made):
    before = load_recordings(config_of(made), "Train_Set", BOTH)[0]
    rewrite(table_of(made), lambda lines: [",".join(line.split(",")[:1] + line.split(",")[2:]) for line in lines])
    assert table_of(made).read_text().startswith("image path,arousal,valence\n")
    after = load_recordings(config_of(made), "Train_Set", BOTH)[0]
    assert after.paths == before.paths
    np.testing.assert_array_equal(after.gold, before.gold)
    np.testing.assert_array_equal(after.arrays["specs"], before.arrays["specs"])


def test_only_the_pictures_asked_for_are_needed(made):
    shutil.rmtree(made / "specs")
    assert list(load_recordings(config_of(made), "Train_Set", ["frames"])[0].arrays) == ["frames"]
    with pytest.raises(UserError, match=r"specs/train_1/000000.png is missing \(0 of 60 are there\): run audio_melspec.py"):
        load_recordings(config_of(made), "Train_Set", BOTH)


def test_columns_are_found_by_name_in_any_order(made):
    before = read_recording(table_of(made), ["valence"], {})
    rewrite(table_of(made), lambda lines: [",".join(line.split(",")[::-1]) for line in lines])
    np.testing.assert_array_equal(read_recording(table_of(made), ["valence"], {}).gold, before.gold)


@pytest.mark.parametrize("rating", ["nan", "NaN", "", "-5", "1.01", "inf", " nan "])
def test_an_invalid_rating_is_masked_and_its_frame_kept(made, rating):
    rewrite(table_of(made), lambda lines: [*lines[:4], ",".join([*lines[4].split(",")[:2], rating, "0.25"]), *lines[5:]])
    gold = read_recording(table_of(made), ["arousal", "valence"], {}).gold
    assert len(gold) == FRAMES and np.isnan(gold[3, 0]) and gold[3, 1] == 0.25 and np.isfinite(np.delete(gold, 3, 0)).all()


def test_ratings_of_exactly_one_are_valid(made):
    rewrite(table_of(made), lambda lines: [lines[0], "train_1/000000.jpg,train_1/000000.png,-1,1.0", *lines[2:]])
    assert read_recording(table_of(made), ["arousal", "valence"], {}).gold[0].tolist() == [-1, 1]


@pytest.mark.parametrize("rating", ["high", "0,5;", "1.2.3", "None"])
def test_text_for_a_rating_names_file_and_line(made, rating):
    rewrite(table_of(made), lambda lines: [*lines[:7], ",".join([*lines[7].split(",")[:2], f'"{rating}"', "0"]), *lines[8:]])
    with pytest.raises(UserError, match=r"train_1.csv line 8: '.*' is not a number"):
        read_recording(table_of(made), ["arousal"], {})


def test_labels_are_single_precision_with_nan_for_invalid():
    import pandas as pd
    labels = read_labels(pd.DataFrame({"arousal": ["0.5", "-5"], "valence": ["", "1e-3"]}), "x.csv")
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.array([[0.5, np.nan], [np.nan, 1e-3]], np.float32))


@pytest.mark.parametrize("change, message", [
    (lambda lines: [], "is not an annotation file"),
    (lambda lines: lines[:1], "no rows"),
    (lambda lines: ["image path,spec path,valence", *lines[1:]], "more columns in its rows than in its header"),
    (lambda lines: [line.replace("arousal", "joy") for line in lines], "has no column 'arousal'"),
    (lambda lines: [line.split(",", 1)[1] for line in lines], "has no column 'image path'"),
    (lambda lines: [*lines[:5], lines[5] + ",7,7,7", *lines[6:]], "is not an annotation file"),
    (lambda lines: [*lines[:-1], lines[-1].split(",")[0]], "line 61 is cut short"),
    (lambda lines: [*lines[:9], "", *lines[9:]], None),  # a blank line is none
])
def test_a_damaged_annotation_file_is_named(made, change, message):
    rewrite(table_of(made), change)
    if message is None:
        assert len(load_recordings(config_of(made), "Train_Set", BOTH)[0]) == FRAMES
        return
    with pytest.raises(UserError, match=message) as error:
        load_recordings(config_of(made), "Train_Set", BOTH)
    assert "train_1.csv" in str(error.value)


def test_bytes_that_are_no_text_are_named(made):
    table_of(made).write_bytes(b"image path,arousal\n\xff\xfe\x00,0.1\n")
    with pytest.raises(UserError, match="train_1.csv is not an annotation file"):
        read_recording(table_of(made), ["arousal"], {})


def test_a_table_that_is_called_like_a_row_of_the_scores_is_an_error(made):
    table_of(made).rename(table_of(made).with_name("mean.csv"))
    with pytest.raises(UserError, match="mean.csv"):
        load_recordings(config_of(made), "Train_Set", BOTH)


def test_no_annotations_says_which_script_makes_them(made):
    shutil.rmtree(made / "Annotations" / "Val_Set")
    with pytest.raises(UserError, match="Val_Set/ holds no annotation files: run annotations.py first"):
        load_recordings(config_of(made), "Val_Set", BOTH)


def test_hidden_leftovers_are_no_recordings(made):
    (made / "Annotations" / "Train_Set" / ".train_1.csv.x8.csv").write_text("half")
    assert len(load_recordings(config_of(made), "Train_Set", ["frames"])) == 2


# ---- pictures -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("picture, script", [("Cropped_Aligned/train_2/000030.jpg", "face_detector.py"),
                                             ("specs/train_2/000030.png", "audio_melspec.py")])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "text", "size"])
def test_a_missing_or_damaged_picture_names_itself_and_its_script(made, picture, script, damage):
    path = made / picture
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "size":
        cv2.imwrite(str(path), np.zeros((20, 20, 3), np.uint8))
    else:
        path.write_bytes({"empty": b"", "half": whole[:len(whole) // 2], "text": b"not a picture"}[damage])
    with pytest.raises(UserError) as error:
        load_recordings(config_of(made), "Train_Set", BOTH)
    assert picture in str(error.value) and script in str(error.value) and "\n" not in str(error.value)
    assert not list((made / "cache").glob(f"*train_2.{'frames' if 'jpg' in picture else 'specs'}*")), "a half-made cache was left"


def test_a_last_rating_without_a_picture_is_left_out_and_said(made, capsys):
    (made / "Cropped_Aligned" / "train_1" / f"{FRAMES - 1:06d}.jpg").unlink()
    recording = load_recordings(config_of(made), "Train_Set", BOTH)[0]
    assert len(recording) == FRAMES - 1 == len(recording.arrays["frames"]) == len(recording.arrays["specs"])
    assert "train_1: the last rating has no picture" in capsys.readouterr().out


def test_the_only_picture_missing_is_an_error(made):
    rewrite(table_of(made), lambda lines: lines[:2])
    (made / "Cropped_Aligned" / "train_1" / "000000.jpg").unlink()
    with pytest.raises(UserError, match=r"000000.jpg is missing \(0 of 1"):
        load_recordings(config_of(made), "Train_Set", ["frames"])


def test_pictures_without_a_rating_are_said(made, capsys):
    rewrite(table_of(made), lambda lines: lines[:-5])
    assert len(load_recordings(config_of(made), "Train_Set", ["frames"])[0]) == FRAMES - 5
    assert f"train_1: 5 pictures have no rating ({made}/Cropped_Aligned/train_1/000055.jpg first)" in capsys.readouterr().out


def test_recordings_of_different_sizes_are_refused(made):
    for path in (made / "Cropped_Aligned" / "train_2").glob("*.jpg"):
        cv2.imwrite(str(path), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(UserError, match=r"train_2 has frames of \(3, 20, 20\), other recordings of \(3, 32, 32\).*face_detector.py"):
        picture_shapes(load_recordings(config_of(made), "Train_Set", BOTH))


def test_colours_are_read_as_red_green_blue(tmp_path):
    cv2.imwrite(str(tmp_path / "red.png"), np.full((8, 8, 3), (0, 0, 255), np.uint8))  # OpenCV writes BGR
    assert read_picture(tmp_path / "red.png", "frames")[:, 4, 4].tolist() == [255, 0, 0]


# ---- spectrograms in one array --------------------------------------------------------------------------------------

@pytest.fixture
def arrays(made):
    """made, its spectrograms written as arrays instead of pictures."""
    shutil.rmtree(made / "specs")
    audio_melspec.main(["--data-dir", str(made), "--n-mels", "16", "--spec-files", "array"])
    return made


def test_training_and_evaluation_are_the_same_from_pictures_and_from_arrays(made_corpus, arrays, tmp_path):
    pictures = shutil.copytree(made_corpus, tmp_path / "pictures")
    of_pictures, of_arrays = (load_recordings(config_of(folder), "Train_Set", BOTH) for folder in (pictures, arrays))
    assert picture_shapes(of_pictures) == picture_shapes(of_arrays)
    both = [zip(*(Clips(recordings, 4, 10, BOTH, 3).batches(0) for recordings in (of_pictures, of_arrays)))]
    both += [zip(stream(one, BOTH), stream(other, BOTH)) for one, other in zip(of_pictures, of_arrays)]
    batches = [pair for pairs in both for pair in pairs]
    assert len(batches) >= 5
    for one, other in batches:
        assert all(torch.equal(part.nan_to_num(9), its.nan_to_num(9)) for part, its in zip(one[:3], other[:3]))


def test_arrays_stay_on_disk_and_are_not_packed(arrays):
    recording = load_recordings(config_of(arrays), "Train_Set", BOTH)[0]
    assert isinstance(recording.arrays["specs"], np.memmap) and list(recording.paths) == ["frames"]
    assert not list((arrays / "cache").glob("*.specs.*"))


@pytest.mark.parametrize("rows,left", [(FRAMES, FRAMES), (FRAMES - 1, FRAMES - 1), (FRAMES + 3, FRAMES)])
def test_an_array_may_be_a_row_short_or_longer_and_that_is_said(rows, left, arrays, capsys):
    path = arrays / "specs" / "train_1.npy"
    whole = np.load(path)
    np.save(path, np.concatenate([whole, whole])[:rows])
    recording = load_recordings(config_of(arrays), "Train_Set", BOTH)[0]
    assert len(recording) == len(recording.arrays["specs"]) == len(recording.arrays["frames"]) == left
    np.testing.assert_array_equal(recording.arrays["specs"], whole[:left])
    said = {FRAMES: "", FRAMES - 1: "train_1: the last rating has no spectrogram", FRAMES + 3: "train_1: 3 spectrograms have no rating"}
    assert said[rows] in capsys.readouterr().out


@pytest.mark.parametrize("damage,message", [
    (lambda path: os.truncate(path, path.stat().st_size - 1), "train_1.npy is not a whole array of spectrograms: delete it and run audio_melspec.py"),
    (lambda path: path.write_bytes(b""), "train_1.npy is not a whole array"),
    (lambda path: path.write_text("hello"), "train_1.npy is not a whole array"),
    (lambda path: np.save(path, np.zeros((FRAMES, 16, 101), np.uint8)),
     r"train_1.npy holds uint8 \(60, 16, 101\), uint8 \(frames, 1, bands, columns\)"),
    (lambda path: np.save(path, np.zeros((FRAMES, 1, 16, 101))), r"train_1.npy holds float64 \(60, 1, 16, 101\)"),
    (lambda path: np.save(path, np.load(path)[:-2]), "train_1.npy holds 58 spectrograms, 60 were expected: delete it and run audio_melspec.py"),
    (lambda path: np.save(path, np.load(path)[:, :, :8]), "train_2 has specs of .*other recordings of .*audio_melspec.py"),
    (lambda path: path.unlink(), "specs/train_1/000000.png is missing .*run audio_melspec.py"),
    (lambda path: path.with_suffix("").mkdir(), "train_1.npy and .*train_1/ are both there"),
], ids=["truncated", "empty", "text", "other shape", "other type", "too short", "other size", "missing", "pictures too"])
def test_an_array_that_is_not_as_it_should_be_is_one_error_that_names_it(damage, message, arrays):
    damage(arrays / "specs" / "train_1.npy")
    with pytest.raises(UserError, match=message) as error:
        picture_shapes(load_recordings(config_of(arrays), "Train_Set", BOTH))
    assert "\n" not in str(error.value)


def test_ratings_in_another_order_than_the_array_are_refused(arrays):
    rewrite(table_of(arrays), lambda lines: [lines[0], *lines[:0:-1]])
    with pytest.raises(UserError, match="rating 1 of train_1 names train_1/000059.png, train_1/000000.png was expected"):
        load_recordings(config_of(arrays), "Train_Set", BOTH)


# ---- the cache ------------------------------------------------------------------------------------------------------

def test_a_second_load_reads_no_picture(made, monkeypatch):
    first = load_recordings(config_of(made), "Train_Set", BOTH)
    monkeypatch.setattr(data, "read_picture", lambda path, kind: pytest.fail(f"{path} was read again"))
    second = load_recordings(config_of(made), "Train_Set", BOTH)
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one.arrays["frames"], other.arrays["frames"])


def test_changed_pictures_make_the_cache_anew_and_the_old_one_goes(made):
    load_recordings(config_of(made), "Train_Set", BOTH)
    path = made / "Cropped_Aligned" / "train_1" / "000003.jpg"
    cv2.imwrite(str(path), np.full((32, 32, 3), 200, np.uint8))
    recording = load_recordings(config_of(made), "Train_Set", BOTH)[0]
    assert (recording.arrays["frames"][3] == 200).all()
    assert len(list((made / "cache").glob("train_1.frames.*"))) == 1


def test_same_size_but_touched_later_counts_as_changed(made):
    load_recordings(config_of(made), "Train_Set", ["frames"])
    before = {path.name for path in (made / "cache").iterdir()}
    os.utime(made / "Cropped_Aligned" / "train_1" / "000003.jpg", (1, 1))
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


def test_pictures_stay_on_disk_until_they_are_used(made):
    for array in load_recordings(config_of(made), "Train_Set", BOTH)[0].arrays.values():
        assert isinstance(array, np.memmap) and array.dtype == np.uint8


# ---- clips ----------------------------------------------------------------------------------------------------------

@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(10, 200), min_size=1, max_size=5), st.integers(2, 10), st.integers(0, 2 ** 31))
def test_clips_lie_within_their_recording_in_proportion_to_its_length(lengths, clip_length, seed):
    clips = epoch_clips(lengths, clip_length, torch.Generator().manual_seed(seed))
    assert all(0 <= start <= lengths[number] - clip_length for number, start in clips)
    for number, length in enumerate(lengths):
        assert sum(1 for which, _ in clips if which == number) == math.ceil(length / clip_length)


def test_the_last_clip_never_passes_the_end_even_when_the_draw_is_all_but_one(monkeypatch):
    """In single precision (1499 + 0.99999997) / 1500 rounds to 1, and one epoch in some hundreds would break off."""
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.full(size, 1 - torch.finfo(torch.float32).eps / 2))
    clips = epoch_clips([7500], 5, torch.Generator())
    assert max(start for _, start in clips) == 7495


def test_every_frame_is_drawn_sooner_or_later_and_most_in_each_epoch():
    generator, length, clip_length = torch.Generator().manual_seed(0), 103, 10
    ever, shares = set(), []
    for _ in range(300):
        seen = {start + t for _, start in epoch_clips([length], clip_length, generator) for t in range(clip_length)}
        ever |= seen
        shares.append(len(seen) / length)
    assert ever == set(range(length))
    assert 0.75 < np.mean(shares) < 0.95


def test_a_recording_as_short_as_a_clip_is_drawn_whole():
    assert epoch_clips([5], 5, torch.Generator().manual_seed(0)) == [(0, 0)]


def test_training_clips_are_consecutive_frames_with_their_own_ratings():
    recordings = [numbered(40), numbered(25)]
    batches = list(Clips(recordings, 3, 4, BOTH, 0).batches(0))
    assert [len(batch.gold) for batch in batches] == [3] * 6  # 10 + 7 clips, the last batch is filled up
    for batch in batches:
        clips, t, k = batch.gold.shape
        assert batch.frames.shape == (clips, 4, 3, 4, 4) and batch.specs.shape == (clips, 4, 1, 5, 6) and (t, k) == (4, 1)
        first = batch.frames[:, :1, 0, 0, 0].long()
        assert (batch.frames[:, :, 0, 0, 0].long() == first + torch.arange(4)).all()
        assert (batch.specs[:, :, 0, 0, 0] == batch.frames[:, :, 0, 0, 0]).all()
        assert torch.allclose(batch.gold[..., 0] * 1000, batch.frames[:, :, 0, 0, 0].float(), atol=1e-3)


def test_epochs_differ_and_a_seed_repeats_them():
    recordings = [numbered(60)]

    def two_epochs(seed):
        clips = Clips(recordings, 4, 5, ["frames"], seed)
        return [torch.cat([batch.gold for batch in clips.batches(epoch)]) for epoch in range(2)]

    one, again, other = two_epochs(3), two_epochs(3), two_epochs(4)
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], one[1]) and not torch.equal(one[0], other[0])


@pytest.mark.parametrize("length, chunk", [(60, 7), (60, 60), (5, 100), (61, 20), (1, 1)])
def test_a_stream_covers_all_frames_once_and_in_order(length, chunk):
    pieces = list(stream(numbered(length), BOTH, chunk))
    assert all(len(piece.gold) == 1 and piece.gold.shape[1] <= chunk for piece in pieces)
    assert torch.cat([piece.frames[0, :, 0, 0, 0] for piece in pieces]).tolist() == list(range(length))
    assert torch.cat([piece.specs[0, :, 0, 0, 0] for piece in pieces]).tolist() == list(range(length))


def test_a_batch_holds_nothing_that_was_not_asked_for():
    assert next(stream(numbered(9), ["frames"])).specs is None
    assert next(Clips([numbered(9)], 1, 3, ["specs"], 0).batches(0)).frames is None


def test_pictures_become_floats_from_zero_to_one_and_ratings_stay():
    recording = Recording("x", np.full((2, 1), np.nan, np.float32), {}, {"frames": np.array([0, 255], np.uint8)[:, None, None, None].repeat(3, 1)})
    batch = on_device(next(stream(recording, ["frames"])), torch.device("cpu"))
    assert batch.frames.dtype == torch.float32 and batch.frames.unique().tolist() == [0, 1] and batch.gold.isnan().all() and batch.specs is None


# ---- augmentation ---------------------------------------------------------------------------------------------------

def pictures(clips=6, frames=4, side=32, seed=0):
    return torch.rand(clips, frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


def changed(frames, generator):
    return augment(frames, draw_changes(len(frames), generator))


def drawn(monkeypatch, down=0.5, right=0.5, flip=0.1, light=0.5, later=0.5):
    """Makes draw_changes() draw these: 0.5 is no shift and no change of light, a flip is 0.5 or more."""
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.tensor([down, right, flip, light, later])[:, None].expand(size))


def test_augmentation_keeps_shape_and_range_and_follows_its_generator():
    clips = pictures()
    one, again, other = (changed(clips, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.shape == clips.shape and 0 <= one.min() and one.max() <= 1
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(clips, pictures()), "the clips themselves were changed"


def test_augmentation_is_the_same_over_a_clip_and_differs_between_clips():
    still = pictures(8, 1).expand(8, 5, 3, 32, 32)
    moved = changed(still, torch.Generator().manual_seed(0))
    assert torch.equal(moved, moved[:, :1].expand_as(moved))
    alike = changed(pictures(1, 1).expand(8, 1, 3, 32, 32), torch.Generator().manual_seed(0))
    assert not any(torch.equal(alike[a], alike[b]) for a in range(8) for b in range(a))


def test_a_draw_in_the_middle_changes_nothing(monkeypatch):
    clips = pictures()
    drawn(monkeypatch)
    assert torch.equal(changed(clips, None), clips)


def test_a_flip_mirrors_left_and_right_and_nothing_else(monkeypatch):
    clips = pictures()
    drawn(monkeypatch, flip=0.9)
    assert torch.equal(changed(clips, None), clips.flip(4))


def test_a_shift_moves_the_picture_and_repeats_its_border(monkeypatch):
    clips = pictures()
    drawn(monkeypatch, down=0.99, right=0.0)  # of -2 ... 2 pixels at 32
    moved = changed(clips, None)
    assert torch.equal(moved[..., :30, 2:], clips[..., 2:, :30])
    assert torch.equal(moved[..., 31, 2:], clips[..., 31, :30]) and torch.equal(moved[..., :30, 0], clips[..., 2:, 0])


def test_a_shifted_clip_is_mirrored_as_a_whole(monkeypatch):
    clips = pictures()
    drawn(monkeypatch, right=0.99)
    shifted = changed(clips, None)
    drawn(monkeypatch, right=0.99, flip=0.9)
    assert torch.equal(changed(clips, None), shifted.flip(4))


def test_light_scales_and_black_stays_black(monkeypatch):
    clips = pictures() * 0.5
    clips[0] = 0  # no face was found
    drawn(monkeypatch, light=1.0)
    brighter = changed(clips, None)
    assert torch.allclose(brighter, clips * 1.2) and (brighter[0] == 0).all()


def test_flips_come_half_the_time():
    clips = torch.zeros(2000, 1, 1, 16, 16)
    clips[..., :8] = 0.5
    flipped = changed(clips, torch.Generator().manual_seed(0))[:, 0, 0, 0, 15] > 0
    assert 0.45 < float(flipped.float().mean()) < 0.55


def test_sound_moves_in_time_alone_with_its_border_repeated_and_the_same_over_a_clip(monkeypatch):
    specs = torch.randint(0, 256, (2, 3, 1, 8, 50), dtype=torch.uint8)
    drawn(monkeypatch, later=0.99)  # of -5 ... 5 columns at 50
    later = move_in_time(specs, draw_changes(2, None))
    assert torch.equal(later[..., :45], specs[..., 5:]) and torch.equal(later[..., 45:], specs[..., -1:].expand(2, 3, 1, 8, 5))
    drawn(monkeypatch)
    assert torch.equal(move_in_time(specs, draw_changes(2, None)), specs)
    apart = move_in_time(specs[:1].expand(8, 3, 1, 8, 50), torch.linspace(0, 0.99, 8).expand(5, 8))
    assert len({apart[k].numpy().tobytes() for k in range(8)}) == 8, "clips are not moved each by its own"


def test_a_batch_of_sound_alone_is_augmented_too():
    batch = Batch(None, torch.randint(0, 256, (2, 3, 1, 8, 50), dtype=torch.uint8), torch.zeros(2, 3, 1))
    changes = draw_changes(2, torch.Generator().manual_seed(0))
    there = on_device(batch, torch.device("cpu"), changes)
    assert there.frames is None and torch.equal(there.specs, move_in_time(batch.specs, changes) / 255)


def test_an_epoch_has_the_steps_asked_for_and_every_pass_draws_anew():
    recordings = [Recording(name, np.zeros((50, 1), np.float32), {}) for name in "ab"]
    assert [Clips(recordings, 4, 10, (), 0, wanted).steps for wanted in (0, 1, 3, 4, 8)] == [3, 1, 3, 4, 8]
    once, thrice = Clips(recordings, 4, 10, (), 0), Clips(recordings, 4, 10, (), 0, 8)
    passes = [[(number, at) for number, at, _ in thrice.of_epoch(0)[start:start + 10]] for start in (0, 10, 20)]
    assert len(once.of_epoch(0)) == 12 and len({clip for clips in passes for clip in clips}) > 20
    assert all(sum(number for number, _ in clips) == 5 for clips in passes)


@given(st.integers(1, 5), st.integers(1, 30), st.integers(2, 9), st.integers(0, 20), st.floats(0, 1))
def test_every_batch_has_as_many_clips_of_rated_people_as_the_next(rated, others, batch_size, steps, share):
    there = [Recording(str(number), np.zeros((12, 1), np.float32), {}) for number in range(rated + others)]
    many = [int((k + 1) * share) > int(k * share) for k in range(batch_size)]
    if sum(many) in (0, batch_size):
        with pytest.raises(SettingsError, match="unlabelled_clips"):
            Clips(there[:rated], batch_size, 5, (), 0, steps, there[rated:], share)
        return
    clips = Clips(there[:rated], batch_size, 5, (), 0, steps, there[rated:], share)
    assert sum(many) == int(batch_size * share) and clips.steps == (steps or math.ceil(rated * 3 / (batch_size - sum(many))))
    drawn = clips.of_epoch(1)
    assert [number >= rated for number, *_ in drawn] == many * clips.steps
    for one in (range(rated), range(rated, rated + others)):
        counts = [sum(number == person for number, *_ in drawn) for person in one]
        assert max(counts) - min(counts) <= 3  # of whole passes with 3 clips of each, and a part of one


def test_epochs_can_be_of_others_alone_before_those_of_rated_people():
    there = [Recording(str(number), np.zeros((12, 1), np.float32), {}) for number in range(7)]
    clips = Clips(there[:3], 4, 5, (), 0, 6, there[3:], 0.5, alone=2)
    assert [{number >= 3 for number, *_ in clips.of_epoch(epoch)} for epoch in range(4)] == [{True}, {True}, {False}, {False}]
    assert [len(clips.of_epoch(epoch)) for epoch in range(4)] == [24] * 4 and clips.steps == 6
    assert {number for number, *_ in clips.of_epoch(1)} == {3, 4, 5, 6}
    assert Clips(there[:3], 4, 5, (), 0, 6, alone=2).of_epoch(0) == Clips(there[:3], 4, 5, (), 0, 6).of_epoch(0), "there are no others"


# ---- two processes --------------------------------------------------------------------------------------------------

def test_two_processes_that_pack_at_once_both_read_all_of_it(made):
    code = ("import sys; from config import Config; from data import load_recordings; "
            "print([int(r.arrays[k].sum(dtype='int64')) for r in load_recordings(Config(data_dir=sys.argv[1]), 'Train_Set', ['frames', 'specs']) "
            "for k in r.arrays])")
    both = [subprocess.Popen([sys.executable, "-c", code, str(made)], cwd=os.path.dirname(data.__file__), stdout=subprocess.PIPE, text=True)
            for _ in range(2)]
    sums = [process.communicate()[0] for process in both]
    expected = [int(recording.arrays[kind].sum(dtype="int64")) for recording in load_recordings(config_of(made), "Train_Set", BOTH) for kind in BOTH]
    assert sums == [f"{expected}\n"] * 2
    assert len(list((made / "cache").iterdir())) == 4, "something was left behind"


def test_seeds_of_other_numbers_are_others_even_where_these_end_in_zeros():
    numbers = [(), (0,), (0, 0), (3,), (3, 0), (0, 3), (0, 3, 0), (0, 3, 0, 0)]
    assert len({data.seed_of(*each) for each in numbers}) == len(numbers)
