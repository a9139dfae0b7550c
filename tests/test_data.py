"""data.py: what annotation CSVs and folders of images become, clips and streams, and what is said of damaged files."""
import math
import shutil

import cv2
import numpy as np
import pytest
import torch
from conftest import FRAMES, add_unlabelled, easy_batch, easy_recording, rate, same, table_of, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st

import data
import packing
from config import Config
from data import (
    Clips,
    Recording,
    epoch_clips,
    image_shapes,
    load_recordings,
    read_labels,
    read_recording,
    stream,
)
from support.errors import SettingsError, UserError
from support.prefetching import prefetch

BOTH = ("frames", "specs")


def config_of(folder, **changes):
    return Config(data_dir=str(folder), target="both", **changes)


def rewrite(path, change):
    """Puts `change(lines)` in place of the lines of a file."""
    path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))


def numbered(length, side=4, name="numbered"):
    """A Recording whose k-th images and rating are k."""
    images = np.arange(length, dtype=np.uint8)[:, None, None, None]
    arrays = {"frames": np.broadcast_to(images, (length, 3, side, side)),
              "specs": np.broadcast_to(images, (length, 1, 5, 6))}
    return Recording(name, (np.arange(length, dtype=np.float32) / 1000)[:, None], {}, arrays)


# ---- annotation CSVs ------------------------------------------------------------------------------------------------

def test_recordings_hold_every_frame_with_its_own_images_and_ratings(made):
    recordings = load_recordings(config_of(made), "Train_Set", BOTH)
    assert [recording.name for recording in recordings] == ["train_1", "train_2"]
    assert image_shapes(recordings) == {"frames": (3, 32, 32), "specs": (1, 16, 101)}
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
    rewrite(table_of(made, "train_1"), lambda lines: [",".join(np.delete(line.split(","), 1)) for line in lines])
    assert table_of(made, "train_1").read_text().startswith("image path,arousal,valence\n")
    after = load_recordings(config_of(made), "Train_Set", BOTH)[0]
    assert after.paths == before.paths
    np.testing.assert_array_equal(after.gold, before.gold)
    np.testing.assert_array_equal(after.arrays["specs"], before.arrays["specs"])


def test_only_the_images_asked_for_are_needed(made):
    shutil.rmtree(made / "specs")
    assert list(load_recordings(config_of(made), "Train_Set", ["frames"])[0].arrays) == ["frames"]
    with pytest.raises(UserError, match="000000.png.*audio_melspec.py"):
        load_recordings(config_of(made), "Train_Set", BOTH)


def test_columns_are_found_by_name_in_any_order(made):
    before = read_recording(table_of(made, "train_1"), ["valence"], {})
    rewrite(table_of(made, "train_1"), lambda lines: [",".join(line.split(",")[::-1]) for line in lines])
    np.testing.assert_array_equal(read_recording(table_of(made, "train_1"), ["valence"], {}).gold, before.gold)


@pytest.mark.parametrize("rating", ["nan", "NaN", "", "-5", "1.01", "inf", " nan "])
def test_an_invalid_rating_is_masked_and_its_frame_kept(made, rating):
    path = table_of(made, "train_1")
    rewrite(path, lambda lines: [*lines[:4], ",".join([*lines[4].split(",")[:2], rating, "0.25"]), *lines[5:]])
    gold = read_recording(path, ["arousal", "valence"], {}).gold
    assert len(gold) == FRAMES and np.isnan(gold[3, 0]) and gold[3, 1] == 0.25
    assert np.isfinite(np.delete(gold, 3, 0)).all()


def test_ratings_of_exactly_one_are_valid(made):
    path = table_of(made, "train_1")
    rewrite(path, lambda lines: [lines[0], "train_1/000000.jpg,train_1/000000.png,-1,1.0", *lines[2:]])
    assert read_recording(path, ["arousal", "valence"], {}).gold[0].tolist() == [-1, 1]


@pytest.mark.parametrize("rating", ["high", "0,5;", "1.2.3", "None"])
def test_text_for_a_rating_names_file_and_line(made, rating):
    path = table_of(made, "train_1")
    rewrite(path, lambda lines: [*lines[:7], ",".join([*lines[7].split(",")[:2], f'"{rating}"', "0"]), *lines[8:]])
    with pytest.raises(UserError, match=r"train_1.csv line 8"):
        read_recording(path, ["arousal"], {})


def test_labels_are_single_precision_with_nan_for_invalid():
    import pandas as pd
    labels = read_labels(pd.DataFrame({"arousal": ["0.5", "-5"], "valence": ["", "1e-3"]}, [2, 3]), "x.csv")
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.array([[0.5, np.nan], [np.nan, 1e-3]], np.float32))


@pytest.mark.parametrize("change, message", [
    (lambda lines: [], "annotation file was"),
    (lambda lines: lines[:1], "rows"),
    (lambda lines: ["image path,spec path,valence", *lines[1:]], "line 2: 4 cells, 3"),
    (lambda lines: [line.replace("arousal", "joy") for line in lines], "'arousal'"),
    (lambda lines: [line.split(",", 1)[1] for line in lines], "'image path'"),
    (lambda lines: [*lines[:5], lines[5] + ",7,7,7", *lines[6:]], "annotation file"),
    (lambda lines: [*lines[:-1], lines[-1].split(",")[0]], "line 61"),
    (lambda lines: [*lines[:9], "", *lines[9:]], None),  # a blank line is none
])
def test_a_damaged_annotation_file_is_named(made, change, message):
    rewrite(table_of(made, "train_1"), change)
    if message is None:
        assert len(load_recordings(config_of(made), "Train_Set", BOTH)[0]) == FRAMES
        return
    with pytest.raises(UserError, match=message) as error:
        load_recordings(config_of(made), "Train_Set", BOTH)
    assert "train_1.csv" in str(error.value)


def test_bytes_that_are_no_text_are_named(made):
    table_of(made, "train_1").write_bytes(b"image path,arousal\n\xff\xfe\x00,0.1\n")
    with pytest.raises(UserError, match="train_1.csv"):
        read_recording(table_of(made, "train_1"), ["arousal"], {})


def test_a_table_that_is_called_like_a_row_of_the_scores_is_an_error(made):
    table_of(made, "train_1").rename(table_of(made, "train_1").with_name("mean.csv"))
    with pytest.raises(UserError, match="mean.csv"):
        load_recordings(config_of(made), "Train_Set", BOTH)


def test_no_annotations_says_which_script_makes_them(made):
    shutil.rmtree(made / "Annotations" / "Val_Set")
    with pytest.raises(UserError, match="Val_Set.*annotations.py"):
        load_recordings(config_of(made), "Val_Set", BOTH)


def test_hidden_leftovers_are_no_recordings(made):
    (made / "Annotations" / "Train_Set" / ".train_1.csv.x8.csv").write_text("half")
    assert len(load_recordings(config_of(made), "Train_Set", ["frames"])) == 2


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
    last = 1 - torch.finfo(torch.float32).eps / 2
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.full(size, last))
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


@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 200), st.integers(0, 2 ** 31))
def test_with_a_stride_clips_lie_within_their_recording_and_a_pass_has_as_many_frames_as_it(clip_length, stride, more,
                                                                                          seed):
    length = clip_length * stride + more
    clips = epoch_clips([length], clip_length, torch.Generator().manual_seed(seed), stride)
    assert all(start >= 0 and start + (clip_length - 1) * stride < length for _, start in clips)
    assert len(clips) == math.ceil(length / clip_length)


@pytest.mark.parametrize("length, clip_length, stride", [
    (12, 4, 3), (13, 4, 3), (35, 7, 5), (103, 10, 2), (34, 7, 5), (9, 9, 4), (11, 4, 5)])
def test_with_a_stride_every_frame_is_drawn_sooner_or_later(length, clip_length, stride):
    generator, ever = torch.Generator().manual_seed(0), set()
    for _ in range(300):
        for _, start in epoch_clips([length], clip_length, generator, stride):
            nearer = min(stride, length // clip_length)  # in recordings that are too short for the stride
            ever |= set(range(start, start + clip_length * nearer, nearer))
    assert ever == set(range(length))


def test_a_recording_as_short_as_a_clip_is_drawn_whole():
    assert epoch_clips([5], 5, torch.Generator().manual_seed(0)) == [(0, 0)]


def test_training_clips_are_consecutive_frames_with_their_own_ratings():
    recordings = [numbered(40), numbered(25)]
    batches = list(Clips(recordings, 3, 4, BOTH, 0).batches(0))
    assert [len(batch.gold) for batch in batches] == [3] * 6  # 10 + 7 clips, the last batch is filled up
    for batch in batches:
        clips, t, k = batch.gold.shape
        assert batch.frames.shape == (clips, 4, 3, 4, 4) and batch.specs.shape == (clips, 4, 1, 5, 6)
        assert (t, k) == (4, 1)
        first = batch.frames[:, :1, 0, 0, 0].long()
        assert (batch.frames[:, :, 0, 0, 0].long() == first + torch.arange(4)).all()
        assert (batch.specs[:, :, 0, 0, 0] == batch.frames[:, :, 0, 0, 0]).all()
        assert torch.allclose(batch.gold[..., 0] * 1000, batch.frames[:, :, 0, 0, 0].float(), atol=1e-3)


def test_with_a_stride_clips_have_every_nth_frame_with_its_own_ratings_and_teacher():
    recording = numbered(40)
    recording.arrays["taught"] = np.arange(40, dtype=np.float32)[:, None].repeat(5, 1)
    clips = Clips([recording], 3, 4, (*BOTH, "taught"), 0, stride=5)
    assert clips.steps == 4  # ten clips: a pass has as many frames as without a stride
    for batch in clips.batches(0):
        frames = torch.tensor([start for _, start in batch.clips])[:, None] + 5 * torch.arange(4)
        assert frames.max() < 40 and torch.equal(batch.frames[:, :, 0, 0, 0].long(), frames)
        for part in (batch.specs[:, :, 0, 0, 0], batch.taught[..., 0]):
            assert torch.equal(part.long(), frames)
        assert torch.allclose(batch.gold[..., 0] * 1000, frames.float(), atol=1e-3)


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


@pytest.mark.parametrize("length, chunk, stride", [(60, 7, 3), (60, 60, 4), (5, 100, 7), (61, 20, 5), (10, 2, 3),
                                                   (1, 1, 9)])
def test_a_stream_with_a_stride_is_interleaved_sequences_that_cover_all_frames_once(length, chunk, stride):
    pieces = list(stream(numbered(length), BOTH, chunk, stride))
    assert all(piece.frames.shape[0] == stride and piece.frames.shape[:2].numel() <= max(chunk, stride)
               for piece in pieces)
    sequences = torch.cat([piece.frames[:, :, 0, 0, 0] for piece in pieces], 1)
    for first, sequence in enumerate(sequences.tolist()):
        own = list(range(first, length, stride))
        assert sequence[:len(own)] == own and len(sequence) - len(own) <= 1  # the last ones may be filled up
    assert torch.equal(sequences, torch.cat([piece.specs[:, :, 0, 0, 0] for piece in pieces], 1))


def test_a_batch_holds_nothing_that_was_not_asked_for():
    assert next(stream(numbered(9), ["frames"])).specs is None
    assert next(Clips([numbered(9)], 1, 3, ["specs"], 0).batches(0)).frames is None


# ---- unlabelled recordings, epochs of other lengths -----------------------------------------------------------------

def test_an_epoch_has_the_steps_asked_for_and_every_pass_is_drawn_again():
    recordings = [Recording(name, np.zeros((50, 1), np.float32), {}) for name in "ab"]
    assert [Clips(recordings, 4, 10, (), 0, wanted).steps for wanted in (0, 1, 3, 4, 8)] == [3, 1, 3, 4, 8]
    once, thrice = Clips(recordings, 4, 10, (), 0), Clips(recordings, 4, 10, (), 0, 8)
    passes = [thrice.of_epoch(0)[start:start + 10] for start in (0, 10, 20)]
    assert len(once.of_epoch(0)) == 12 and len({clip for clips in passes for clip in clips}) > 20
    assert all(sum(number for number, _ in clips) == 5 for clips in passes)


@given(st.integers(1, 5), st.integers(1, 30), st.integers(2, 9), st.integers(0, 20))
def test_every_second_clip_is_unlabelled_and_the_steps_are_those_of_the_baseline(rated, others, batch_size, steps):
    recordings = [Recording(str(number), np.zeros((12, 1), np.float32), {}) for number in range(rated + others)]
    clips = Clips(recordings[:rated], batch_size, 5, (), 0, steps, recordings[rated:])
    assert clips.steps == Clips(recordings[:rated], batch_size, 5, (), 0, steps).steps
    assert clips.steps == (steps or math.ceil(rated * 3 / batch_size))
    drawn = clips.of_epoch(1)
    assert [number >= rated for number, _ in drawn] == [k % 2 == 1 for k in range(batch_size)] * clips.steps
    for one in (range(rated), range(rated, rated + others)):
        counts = [sum(number == subject for number, _ in drawn) for subject in one]
        assert max(counts) - min(counts) <= 3  # of whole passes with 3 clips of each, and a part of one


def test_a_batch_of_one_has_no_place_for_an_unlabelled_clip():
    with pytest.raises(SettingsError, match="batch_size"):
        Clips([numbered(9)], 1, 3, (), 0, 0, [numbered(9)])


@pytest.mark.parametrize("share, unlabelled", [((0, 1), []), ((1, 2), []), ((1, 2), [easy_recording("c", 40, 2)])])
def test_an_epoch_resumed_at_any_step_goes_on_with_the_same_batches(share, unlabelled):
    clips = Clips([easy_recording("a", 60, 0), easy_recording("b", 33, 1)], 4, 5, BOTH, 3, 0, unlabelled)
    whole = list(clips.batches(2, 0, share))
    assert len(whole) == clips.steps == 5 and {len(batch.gold) for batch in whole} == {4 // share[1]}
    for first in range(clips.steps + 1):
        rest = list(clips.batches(2, first, share))
        assert all(same(one._asdict(), other._asdict()) for one, other in zip(rest, whole[first:], strict=True))


def test_the_shares_of_two_processes_are_the_batch():
    clips = Clips([easy_recording("a", 60, 0), easy_recording("b", 33, 1)], 4, 5, ("frames",), 3)
    for batch, one, other in zip(clips.batches(1), clips.batches(1, 0, (0, 2)), clips.batches(1, 0, (1, 2))):
        assert torch.equal(batch.frames, torch.cat([one.frames, other.frames]))
        assert batch.clips == one.clips + other.clips


def test_a_teachers_outputs_come_with_their_frames():
    recording = numbered(40)
    recording.arrays["taught"] = np.arange(40, dtype=np.float32)[:, None].repeat(5, 1)
    for batch in Clips([recording], 4, 10, ("frames", "taught"), 0).batches(0):
        assert batch.taught.shape == (4, 10, 5) and batch.specs is None
        assert torch.equal(batch.taught[..., 0], batch.frames[:, :, 0, 0, 0].float())
        assert [start for _, start in batch.clips] == batch.taught[:, 0, 0].tolist()


def test_prefetched_batches_are_the_same_and_errors_come_through():
    batches = [easy_batch(seed=seed) for seed in range(4)]
    assert list(prefetch(batches)) == batches and list(prefetch([])) == []

    def broken():
        yield batches[0]
        raise UserError("an image is gone")

    with pytest.raises(UserError, match="is gone"):
        list(prefetch(broken()))


# ---- the sets of a run ----------------------------------------------------------------------------------------------

def test_the_sets_of_a_run_are_its_partitions_its_fold_and_a_fraction_of_the_unlabelled(made):
    for name in ("x_1", "x_2"):
        add_unlabelled(made, name)

    def sets(student=True, **changes):
        loaded = data.load_sets(tiny_config(data_dir=str(made), **changes), ("specs",), ("frames",), student)
        return loaded, {name: [one.name for one in recordings] for name, recordings in loaded.items()}

    loaded, names = sets()
    assert names == {"train": ["train_1", "train_2"], "val": ["dev_1"], "unlabelled": ["x_1", "x_2"]}
    assert list(loaded["val"][0].arrays) == ["frames"] and list(loaded["train"][0].arrays) == ["specs"]
    assert np.isnan(loaded["unlabelled"][0].gold).all() and len(loaded["unlabelled"][0]) == FRAMES
    names = sets(student=False, fold="2/2")[1]
    assert names == {"train": ["train_1"], "held_out": ["train_2"], "val": ["dev_1"], "unlabelled": []}
    assert sets(unlabelled=0.5)[1]["unlabelled"] == ["x_1"] and sets(unlabelled=0.0)[1]["unlabelled"] == []


def test_folds_are_in_natural_order_of_the_subjects(tmp_path):
    folder = tmp_path / "Annotations" / "Train_Set"
    folder.mkdir(parents=True)
    for name in ("train_10", "train_2", "train_1"):
        (folder / f"{name}.csv").touch()
    assert data.folds(tiny_config(data_dir=str(tmp_path)), 2) == {"train_1": 0, "train_2": 1, "train_10": 0}


def test_folds_and_partitions_go_by_subjects(tmp_path):
    folder = tmp_path / "Annotations" / "Train_Set"
    folder.mkdir(parents=True)
    for number in range(1, 6):
        (folder / f"train_{number}.csv").touch()
    (tmp_path / "subjects.csv").write_text("recording,subject\ntrain_1,a\ntrain_2,b\ntrain_3,a\ntrain_4,b\ndev_1,b\n")
    cfg = tiny_config(data_dir=str(tmp_path))
    assert data.folds(cfg, 3) == {"train_1": 0, "train_2": 1, "train_3": 0, "train_4": 1, "train_5": 2}
    train, val = (easy_recording(name, 20, 0) for name in ("train_4", "dev_1"))
    with pytest.raises(UserError, match="b is in Train_Set and in Val_Set: the partitions must not share subjects"):
        data.check_sets({"train": [train], "val": [val], "unlabelled": []}, cfg)


def test_checking_files_reads_no_image(made, monkeypatch):
    monkeypatch.setattr(packing, "read_image", lambda path, kind: pytest.fail(f"{path} was read"))
    recordings = data.check_files(config_of(made), BOTH, "Train_Set")
    assert [len(recording) for recording in recordings] == [FRAMES] * 2 and not (made / "cache").exists()
    (made / "specs" / "train_2" / "000007.png").unlink()
    with pytest.raises(UserError, match="000007.png"):
        data.check_files(config_of(made), BOTH, "Train_Set")


def test_a_recording_without_a_valid_rating_is_said_and_a_partition_of_such_is_refused(made, capsys):
    rate(made, "train_2", "-5")
    cfg = tiny_config(data_dir=str(made))
    data.load_sets(cfg, (), ())
    assert "train_2" in capsys.readouterr().out
    rate(made, "train_1", "nan")
    with pytest.raises(UserError, match="Train_Set"):
        data.load_sets(cfg, (), ())


def test_seeds_of_other_numbers_are_others_even_where_these_end_in_zeros():
    numbers = [(), (0,), (0, 0), (3,), (3, 0), (0, 3), (0, 3, 0), (0, 3, 0, 0)]
    assert len({data.seed_of(*each) for each in numbers}) == len(numbers)
