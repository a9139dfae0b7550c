"""scores.py: predictions along recordings, their CCC, the comparison, and the files of predictions."""
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHAPES, STAGES, TINY, easy_recording, one_line, run_of, same, tiny_config

import data
import scores
from losses import ccc
from models_kd import build_model
from scores import comparison, gap_closed, how_chosen, predict, score
from support.errors import UserError

# ---- predictions ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", STAGES)
def test_predict_equals_one_pass_and_frame_after_frame(stage, monkeypatch):
    recordings = [easy_recording("long", 230, 0), easy_recording("short", 1, 1)]
    model = build_model(stage, tiny_config(), SHAPES)
    model(*[torch.rand(4, 5, *SHAPES[name]) for name in model.inputs])  # running statistics unlike those at the start
    preds = predict(model, recordings)
    assert model.training, "predict must leave the model in the mode it found"
    model.eval()
    for recording in recordings:
        with torch.no_grad():
            whole = model(*[torch.from_numpy(recording.arrays[name][None]) / 255 for name in model.inputs]).pred[0]
        assert preds[recording.name].shape == (len(recording), 1) and preds[recording.name].dtype == np.float32
        np.testing.assert_allclose(preds[recording.name], whole, atol=1e-5)
    monkeypatch.setattr(scores, "stream", lambda recording, inputs, stride: data.stream(recording, inputs, 1, stride))
    for name, pred in predict(model, recordings).items():
        np.testing.assert_allclose(pred, preds[name], atol=1e-5)


def images_of(recording, model):
    return [torch.from_numpy(recording.arrays[name][None]) / 255 for name in model.inputs]


def strided(stage, stride):
    """A model in evaluation mode whose running statistics are those of such images: its features are not constant."""
    model = build_model(stage, tiny_config(fusion="cross_attention", clip_stride=stride), SHAPES)
    with torch.no_grad():
        for _ in range(30):
            model(*images_of(easy_recording("x", 60, 5), model))
    return model.eval()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("stride", [2, 7])
def test_with_a_stride_each_interleaved_sequence_is_predicted_as_if_it_were_alone(stage, stride):
    """Recordings of one or several Batches, of a multiple of the stride and not, shorter than it, and of one frame."""
    recordings = [easy_recording(str(frames), frames, frames) for frames in (230, 105, 98, 5, 1)]
    model = strided(stage, stride)
    preds = predict(model, recordings)
    for recording in recordings:
        whole = images_of(recording, model)
        assert preds[recording.name].shape == (len(recording), 1)
        for first in range(min(stride, len(recording))):
            with torch.no_grad():
                alone = model(*[images[:, first::stride] for images in whole]).pred[0]
            np.testing.assert_allclose(preds[recording.name][first::stride], alone, atol=1e-5)
    model.clip_stride = 1
    assert np.abs(preds["230"] - predict(model, recordings[:1])["230"]).max() > 1e-3  # with another it is another thing


def test_with_a_stride_no_prediction_depends_on_later_frames():
    model = strided("teacher", 3)
    one, other = easy_recording("x", 120, 0), easy_recording("x", 120, 0)
    for name in model.inputs:
        other.arrays[name][70:] = 255 - other.arrays[name][70:]
    one, other = (predict(model, [recording])["x"] for recording in (one, other))
    assert np.array_equal(one[:70], other[:70]) and (one[70:] != other[70:]).all()


def test_predict_changes_nothing_in_the_model():
    model = build_model("teacher", tiny_config(), SHAPES).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one, other = (predict(model, [easy_recording("x", 120, 0)])["x"] for _ in range(2))
    assert same(before, model.state_dict()) and np.array_equal(one, other)


# ---- CCC ------------------------------------------------------------------------------------------------------------

def tables_of(**series):
    return {name: pd.DataFrame({"arousal_gold": gold, "arousal_pred": pred}) for name, (gold, pred) in series.items()}


def test_scores_are_per_recording_their_mean_and_concatenated():
    draw = np.random.default_rng(0)
    series = {name: draw.normal(size=(2, 50)) for name in "ab"}
    scored = score(tables_of(**series), ["arousal"])["arousal"]
    each = {name: float(ccc(pred, gold)) for name, (gold, pred) in series.items()}
    whole = float(ccc(*np.concatenate([*series.values()], 1)[::-1].copy()))
    assert scored == pytest.approx({**each, "mean": sum(each.values()) / 2, "concatenated": whole})


def test_frames_and_recordings_without_a_valid_rating_do_not_count():
    gold = np.linspace(-1, 1, 20)
    pred = gold ** 3
    gaps = np.concatenate([gold, [math.nan, math.nan]]), np.concatenate([pred, [5, -5]])
    one_rating = np.array([0.5] + [math.nan] * 8)
    scored = score(tables_of(a=gaps, b=(np.full(9, math.nan), np.zeros(9)), c=(one_rating, np.zeros(9))), ["arousal"])
    values = scored["arousal"]
    assert values["a"] == values["mean"] == values["concatenated"] == pytest.approx(float(ccc(pred, gold)))
    assert "b" not in values and "c" not in values
    nothing = score(tables_of(c=(one_rating, np.zeros(9))), ["arousal"])["arousal"]
    assert math.isnan(nothing["mean"]) and math.isnan(nothing["concatenated"])


def test_a_prediction_that_is_not_a_number_is_not_left_out_of_the_score():
    gold = np.linspace(-1, 1, 20)
    scored = score(tables_of(a=(gold, np.where(gold > 0.9, math.nan, gold))), ["arousal"])["arousal"]
    assert all(math.isnan(scored[name]) for name in ("a", "mean", "concatenated"))


@pytest.mark.parametrize("visual, teacher, student, text", [
    (0.2, 0.6, 0.3, "25%"), (0.2, 0.6, 0.7, ">100%"), (0.2, 0.6, 0.1, "-25%"), (0.2, 0.6, 0.1999, "0%"),
    (0.2, 0.219, 0.5, "no gap"), (0.5, 0.2, 0.6, "no gap")])
def test_the_gap_closed_is_a_fraction_of_a_gap_that_is_there(visual, teacher, student, text):
    assert gap_closed(visual, teacher, student) == text


def test_the_comparison_names_roles_gap_and_how_the_student_was_taught():
    values = {"visual": 0.2, "teacher": 0.6, "student": 0.3}
    scored = {stage: {"arousal": {"mean": value, "concatenated": 1 - value}} for stage, value in values.items()}
    lines = comparison(scored, ["arousal"], "pseudo-labels", how_chosen(tiny_config())).splitlines()
    assert [line.split()[-2:] for line in lines[1:5]] == [
        ["0.200", "0.800"], ["0.600", "0.400"], ["0.300", "0.700"], ["no", "gap"]]
    assert "lower" in lines[1] and "upper" in lines[2] and "pseudo-labels" in lines[3] and "25%" in lines[4]
    assert "Val_Set" in lines[-1] and len({len(line) for line in lines[:5]}) == 1


def test_how_the_epochs_were_chosen_differs_between_the_three_ways():
    ways = [how_chosen(tiny_config(**changes)) for changes in ({}, {"fold": "1/2"}, {"keep": "last"})]
    assert len(set(ways)) == 3 and "held out" in ways[1] and "last" in ways[2]


# ---- files ----------------------------------------------------------------------------------------------------------

def table_of(frames=40, rate=25.0, targets=("arousal", "valence")):
    draw = np.random.default_rng(0)
    gold = draw.uniform(-1, 1, (frames, len(targets))).astype(np.float32)
    gold[3:4] = math.nan
    pred = draw.uniform(-1, 1, gold.shape).astype(np.float32)
    return scores.prediction_table(data.Recording("x", gold, {}), pred, targets, rate)


def write(folder, tables):
    with scores.written_predictions(folder, tables) as part:
        assert not (folder / "predictions").exists() and {path.name for path in part.iterdir()} == set(tables)


def test_predictions_are_read_back_as_they_were_written(tmp_path):
    tables = {"val": {"dev_10": table_of(), "dev_2": table_of(1)}, "train": {"train_1": table_of(9)}}
    write(tmp_path, tables)
    back = scores.read_predictions(tmp_path, "val", 25)
    assert list(back) == ["dev_2", "dev_10"], "not in natural order"
    for name, table in back.items():
        pd.testing.assert_frame_equal(table, tables["val"][name], check_dtype=False, atol=1e-6)
    assert scores.targets_of(back["dev_2"]) == ["arousal", "valence"]
    assert scores.targets_of(table_of(targets=["valence"])) == ["valence"]
    assert {path.name for path in tmp_path.iterdir()} == {"predictions"}


def test_the_times_of_a_long_recording_are_read_as_they_were_written(tmp_path):
    scores.write_table(table_of(31000, 30), tmp_path / "long.csv")
    times = scores.read_table(tmp_path / "long.csv", 30, "again")["time_s"]
    np.testing.assert_allclose(times, np.arange(31000) / 30, atol=5e-5)


def blank(line):
    """A line without its last value."""
    return line.rsplit(",", 1)[0] + ",nan"


def infinite(line):
    """A line with a rating, in its second column, that is infinite."""
    return re.sub(r",[^,]*", ",inf", line, count=1)


def lines_of(path, change):
    path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))


@pytest.mark.parametrize("damage, keyword", [
    (lambda path: path.write_text(""), "line 1: no column"),
    (lambda path: path.write_bytes(b"\xff\xfe\x00"), "line 1: not UTF-8"),
    (lambda path: path.write_text("time_s,arousal_gold,arousal_pred\n0,0.1\n0,1,2,3,4\n"), "line 2: 2 cells, 3"),
    (lambda path: lines_of(path, lambda lines: lines[:1]), "no rows"),
    (lambda path: lines_of(path, lambda lines: [lines[0].replace("arousal_gold", "gold"), *lines[1:]]), "arousal_gold"),
    (lambda path: lines_of(path, lambda lines: [*lines[:7], blank(lines[7]), *lines[8:]]), "line 8"),
    (lambda path: lines_of(path, lambda lines: [*lines[:7], infinite(lines[7]), *lines[8:]]), "line 8.*rating"),
    (lambda path: lines_of(path, lambda lines: [*lines[:7], *lines[8:]]), "line 8"),
    (lambda path: lines_of(path, lambda lines: [*lines[:7], "high" + lines[7], *lines[8:]]), "line 8.*not a number"),
], ids=["empty", "bytes", "columns", "no rows", "header", "nan", "inf", "missing line", "text"])
def test_damaged_predictions_are_one_line_that_names_the_file(tmp_path, damage, keyword):
    write(tmp_path, {"val": {"dev_1": table_of()}})
    path = tmp_path / "predictions" / "val" / "dev_1.csv"
    damage(path)
    with pytest.raises(UserError, match=keyword) as error:
        scores.read_predictions(tmp_path, "val", 25)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and "delete" in str(error.value)


def test_another_frame_rate_is_named(tmp_path):
    write(tmp_path, {"val": {"dev_1": table_of()}})
    with pytest.raises(UserError, match="--frame-rate"):
        scores.read_predictions(tmp_path, "val", 50)


def test_predictions_of_a_recording_that_were_deleted_are_missed(tmp_path):
    write(tmp_path, {"val": {"dev_1": table_of(), "dev_2": table_of(1)}})
    (tmp_path / "predictions" / "val" / "dev_2.csv").unlink()
    with pytest.raises(UserError, match="val/dev_2.csv is missing: delete"):
        scores.read_predictions(tmp_path, "val", 25)


def test_damaged_or_missing_predictions_of_a_finished_run_are_one_line(trained, call):
    words = ["--data-dir", trained, *TINY, "--target", "both", "--stage", "visual"]
    path = run_of(trained, "visual") / "predictions" / "val" / "dev_1.csv"
    path.write_text("time_s,arousal_gold,arousal_pred\n0,0.1\n0,1,2,3,4\n")
    assert str(path) in one_line(*call("mmpkd", *words)[::2])
    path.unlink()
    assert "predictions" in one_line(*call("mmpkd", *words)[::2])
