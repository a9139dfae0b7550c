"""pseudo_labels.py: cross-fitting, the confirmation test, stacking, calibration, and the labels on disk."""
import contextlib
import io
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from conftest import CPU, FRAMES, TINY, UNRATED, files_of, one_line, run_of, same, stop_at

import data
import mmpkd
import pseudo_labels
from checkpoints import load_checkpoint
from data import Recording
from pseudo_labels import calibrate, confirmed, correlation, excess_correlation, out_of_fold, stack, with_labels
from runs import teacher_runs
from support.errors import UserError
from support.settings import parse_config

WORDS = [*TINY, "--target", "both", "--stage", "student"]


def drawn(rated, unlabelled, scales, draw, frames=200):
    """(recordings, [predictions of each teacher]): of the truth 0.7, noise, a level by subject, a scale by teacher."""
    recordings, preds = [], [{} for _ in scales]
    for number in range(rated + unlabelled):
        gold = np.cumsum(draw.normal(0, 0.05, (frames, 2)), 0).clip(-0.9, 0.9)
        name = f"subject_{number}"
        for teacher, scale in zip(preds, scales):
            teacher[name] = scale * (0.7 * gold + draw.normal(0, 0.1, gold.shape) + draw.normal())
        shown = gold if number < rated else gold * math.nan
        recordings.append(Recording(name, shown.astype(np.float32), {}))
    return recordings, preds


# ---- cross-fitting --------------------------------------------------------------------------------------------------

def test_a_rated_subject_is_labelled_by_the_network_that_was_not_trained_on_it(pseudo_corpus):
    """Against what the runs of the folds wrote themselves."""
    words = ["--data-dir", str(pseudo_corpus), *map(str, WORDS), "--distill", "pseudo"]
    cfg = parse_config(words, mmpkd.__file__, "")
    inputs = ("frames", "specs")
    recordings = [one for folder in ("Train_Set", "Unlabelled_Set")
                  for one in data.load_recordings(cfg, folder, inputs)]
    shapes, fold_of = data.image_shapes(recordings), data.folds(cfg, 2)
    assert fold_of == {"train_1": 0, "train_2": 1}
    for stage, ensemble in teacher_runs(cfg).items():
        preds = out_of_fold([mmpkd.load_teacher(one, shapes, CPU) for one in ensemble], recordings, fold_of)
        written = {}
        for number in (1, 2):
            for path in (pseudo_corpus / "runs" / f"{stage}_both_fold{number}of2" / "predictions").rglob("*.csv"):
                series = pd.read_csv(path)[["arousal_pred", "valence_pred"]].to_numpy()
                written[number, path.parent.name, path.stem] = series
        for name, number in (("train_1", 1), ("train_2", 2)):
            np.testing.assert_allclose(preds[name], written[number, "held_out", name], atol=1e-5)
            assert np.abs(preds[name] - written[3 - number, "train", name]).max() > 1e-3
        both = written[1, "train", "train_2"], written[2, "held_out", "train_2"]
        assert UNRATED["x_1"] == "train_2"
        np.testing.assert_allclose(preds["x_1"], np.mean(both, axis=0), atol=1e-5)


def test_with_several_networks_per_fold_the_mean_of_those_that_were_not_trained_on_a_subject(monkeypatch):
    recordings = [Recording(name, np.zeros((3, 1), np.float32), {}) for name in ("a", "b", "c", "new")]
    monkeypatch.setattr(pseudo_labels, "predict", lambda member, asked: {
        one.name: np.full((3, 1), float(member)) for one in asked})
    preds = out_of_fold([1, 10, 100, 1000, 10000, 100000], recordings, {"a": 0, "b": 1, "c": 0})
    assert {name: series.ravel().tolist() for name, series in preds.items()} == {
        "a": [10101 / 3] * 3, "b": [101010 / 3] * 3, "c": [10101 / 3] * 3, "new": [111111 / 6] * 3}


# ---- the confirmation test ------------------------------------------------------------------------------------------

def heard_and_seen(told, rated=4, unlabelled=20):
    """(recordings, audio predictions, visual predictions): `told` of arousal is heard, of valence nothing but a course
    that all subjects have in common."""
    draw, course = np.random.default_rng(0), np.sin(np.arange(200) / 20)
    recordings, _ = drawn(rated, unlabelled, (1.0,), draw)
    heard, seen = {}, {}
    for recording in recordings:
        feels = np.cumsum(draw.normal(0, 0.2, (200, 2)), 0)
        heard[recording.name] = np.stack([told * feels[:, 0] + course, 2 * course], 1) + draw.normal(0, 0.5, (200, 2))
        recording.gold[:] = np.where(np.isnan(recording.gold), np.nan, feels + course[:, None])
        seen[recording.name] = feels + course[:, None] + draw.normal(0, 0.5, (200, 2))
    return recordings, heard, seen


@pytest.mark.parametrize("told, passes", [(0.5, True), (0.15, True), (0, False), (-0.5, False)])
def test_audio_teachers_are_confirmed_where_they_follow_the_same_subject(told, passes):
    recordings, heard, seen = heard_and_seen(told)
    arousal, valence = confirmed(heard, seen, recordings)
    names, excess = [recording.name for recording in recordings], []
    references = [recording.gold[:, 0] if np.isfinite(recording.gold).all() else seen[recording.name][:, 0]
                  for recording in recordings]
    for number, name in enumerate(names):
        r = [scipy.stats.pearsonr(heard[name][:, 0], references[(number + k) % len(names)])[0] for k in range(11)]
        excess.append(r[0] - np.mean(r[1:]))
    error = np.std(excess, ddof=1) / math.sqrt(24)
    assert arousal == {"passed": bool(np.mean(excess) > 3 * error), "excess": pytest.approx(np.mean(excess)),
                       "error": pytest.approx(error), "recordings": 24}
    assert arousal["passed"] is passes and valence["passed"] is False, "the common course is no evidence"


def test_another_subjects_voice_is_not_confirmed():
    recordings, heard, seen = heard_and_seen(1.0)
    names = [*heard]
    assert confirmed(heard, seen, recordings)[0]["passed"]
    of_others = {name: heard[names[number - 1]] for number, name in enumerate(names)}
    assert not confirmed(of_others, seen, recordings)[0]["passed"]


def test_a_target_without_ratings_is_compared_with_the_baseline():
    recordings, heard, seen = heard_and_seen(0.5, rated=16, unlabelled=0)
    whole = confirmed(heard, seen, recordings)[0]["excess"]
    for recording in recordings[:12]:
        recording.gold[:, 0] = math.nan
    assert confirmed(heard, seen, recordings)[0]["excess"] > 0.8 * whole > 0.1
    with pytest.raises(KeyError):
        confirmed(heard, {}, recordings)


@pytest.mark.parametrize("count", [1, 2])
def test_few_recordings_confirm_nothing(count):
    recordings, heard, seen = heard_and_seen(5)
    few = recordings[:count]
    tests = confirmed({one.name: heard[one.name] for one in few}, seen, few)
    assert not any(test["passed"] for test in tests)
    assert excess_correlation({"a": np.arange(9)}, {"a": np.arange(9)}) == [], "a single subject"


def test_series_are_correlated_over_the_frames_that_both_have():
    one, other = np.random.default_rng(0).normal(0, 1, (2, 50))
    other[3] = math.nan
    kept = np.r_[0:3, 4:40]
    r = scipy.stats.pearsonr(one[kept], other[kept])[0]
    assert correlation(one, other[:40]) == pytest.approx(r) == correlation(other[:40], one)
    assert correlation(one, np.ones(50)) == correlation(one, other * math.nan) == 0


# ---- stacking -------------------------------------------------------------------------------------------------------

def test_stacking_weights_are_least_squares_where_non_negative():
    recordings, preds = drawn(8, 2, (1.0, 1.0, 1.0), np.random.default_rng(0))
    for series in preds[1].values():
        series[:, 1] = -series[:, 1]  # of valence, the second predicts the opposite
    weights = stack(preds, recordings, np.ones((3, 2), bool))
    assert (weights >= 0).all() and weights[1, 1] == 0
    np.testing.assert_allclose(weights.sum(0), 1)
    rated = recordings[:8]
    for k, used in ((0, [0, 1, 2]), (1, [0, 2])):
        x = np.concatenate([np.stack([preds[g][one.name][:, k] - preds[g][one.name][:, k].mean() for g in used], 1)
                            for one in rated])
        y = np.concatenate([one.gold[:, k] - one.gold[:, k].mean() for one in rated])
        fitted = np.linalg.lstsq(x, y, rcond=None)[0]
        assert (fitted > 0).all()
        np.testing.assert_allclose(weights[used, k], fitted / fitted.sum(), rtol=1e-4)


def test_a_teacher_that_is_not_used_has_no_weight_and_without_ratings_all_are_equal():
    recordings, preds = drawn(4, 2, (1.0, 0.5, 1.0), np.random.default_rng(0))
    use = np.array([[False, True], [True, True], [True, True]])
    weights = stack(preds, recordings, use)
    assert weights[0, 0] == 0 and (weights[:, 1] > 0).all()
    np.testing.assert_array_equal(weights[1:, 0], stack(preds[1:], recordings, use[1:])[:, 0])
    against = [{name: -series for name, series in teacher.items()} for teacher in preds]
    np.testing.assert_array_equal(stack(against, recordings, use), use / use.sum(0))
    for recording in recordings:
        recording.gold[:] = math.nan
    np.testing.assert_array_equal(stack(preds, recordings, use), use / use.sum(0))


def test_masked_ratings_do_not_shift_what_teachers_are_weighted_by():
    recordings, preds = drawn(4, 0, (1.0, 1.0), np.random.default_rng(0))
    draw = np.random.default_rng(1)
    for recording in recordings:  # the first is right about what is rated, and higher elsewhere
        preds[0][recording.name] = recording.gold + 2 * (np.arange(200) >= 100)[:, None]
        preds[1][recording.name] = draw.normal(0, 1, (200, 2))
        recording.gold[100:] = math.nan
    np.testing.assert_allclose(stack(preds, recordings, np.ones((2, 2), bool)), [[1, 1], [0, 0]], atol=0.02)


# ---- calibration ----------------------------------------------------------------------------------------------------

def test_calibration_gives_each_recording_the_ratings_mean_and_unlabelled_ones_their_spread():
    recordings, (preds,) = drawn(2, 2, (0.2,), np.random.default_rng(0))
    preds["subject_0"] *= 20  # of rated recordings, the spread does not matter
    gold = np.concatenate([recording.gold for recording in recordings[:2]])
    labels = calibrate(preds, recordings)
    for series in labels.values():
        np.testing.assert_allclose(series.mean(0), gold.mean(0), atol=1e-5)
    unlabelled = np.concatenate([labels["subject_2"], labels["subject_3"]])
    np.testing.assert_allclose(unlabelled.std(0), gold.std(0), rtol=1e-4)
    for name, series in preds.items():
        assert scipy.stats.pearsonr(series[:, 0], labels[name][:, 0])[0] == pytest.approx(1)
    all_rated = calibrate({name: preds[name] for name in ("subject_0", "subject_1")}, recordings[:2])
    np.testing.assert_allclose(np.concatenate([*all_rated.values()]).std(0), gold.std(0), rtol=1e-4)


def test_constant_predictions_become_the_mean_of_the_ratings():
    recordings, (preds,) = drawn(3, 3, (1.0,), np.random.default_rng(0))
    for series in preds.values():
        series[:, 0] = 0.3 + np.random.default_rng(1).normal(0, 1e-7, 200)
    mean = np.nanmean(np.concatenate([recording.gold for recording in recordings])[:, 0])
    for series in calibrate(preds, recordings).values():
        np.testing.assert_allclose(series[:, 0], mean, atol=1e-5)
        assert series[:, 1].std() > 0


# ---- labels ---------------------------------------------------------------------------------------------------------

def test_labels_fill_gaps_at_the_level_of_the_ratings_and_leave_these_as_they_are():
    gold = np.array([[0.1, math.nan], [math.nan, math.nan], [0.3, -0.4]], np.float32)
    recording, unrated = Recording("x", gold.copy(), {}), Recording("y", np.full_like(gold, math.nan), {})
    labels = np.array([[0.5, 0.1], [0.8, 0.3], [0.7, 0.2]])
    filled, labelled = with_labels([recording, unrated], {"x": labels, "y": labels})
    np.testing.assert_allclose(filled.gold, np.array([[0.1, -0.5], [0.4, -0.3], [0.3, -0.4]], np.float32), atol=1e-6)
    assert (filled.gold[~np.isnan(gold)] == gold[~np.isnan(gold)]).all()
    np.testing.assert_array_equal(labelled.gold, labels.astype(np.float32))
    assert filled.gold.dtype == np.float32
    np.testing.assert_array_equal(recording.gold, gold, "the gold standard that predictions are written beside")


def test_labels_are_read_back_exactly(tmp_path):
    labels = {name: np.random.default_rng(0).normal(0, 1, (90, 2)) for name in ("a", "b")}
    pseudo_labels.write_labels(tmp_path, labels, {"arousal": {"weights": {"audio": 1.0}}}, ["arousal", "valence"], 25)
    recordings = [Recording(name, np.zeros((90, 2), np.float32), {}) for name in labels]
    back = pseudo_labels.read_labels(tmp_path, recordings, ["arousal", "valence"])
    assert all(np.array_equal(back[name], labels[name].astype(np.float32)) for name in labels)
    assert pseudo_labels.read_report(tmp_path) == {"arousal": {"weights": {"audio": 1.0}}}
    np.testing.assert_allclose(pd.read_csv(tmp_path / "labels" / "a.csv")["time_s"], np.arange(90) / 25)


@pytest.mark.parametrize("damage", ["missing", "short", "column", "text"])
def test_damaged_labels_are_one_line(tmp_path, damage):
    pseudo_labels.write_labels(tmp_path, {"a": np.zeros((9, 1))}, {}, ["arousal"], 25)
    path = tmp_path / "labels" / "a.csv"
    {"missing": path.unlink, "short": lambda: path.write_text("time_s,arousal\n0,1\n"),
     "column": lambda: path.write_text("time_s,valence\n" + "0,1\n" * 9),
     "text": lambda: path.write_text("time_s,arousal\n" + "0,high\n" * 9)}[damage]()
    with pytest.raises(UserError, match="a.csv") as error:
        pseudo_labels.read_labels(tmp_path, [Recording("a", np.zeros((9, 1), np.float32), {})], ["arousal"])
    assert "\n" not in str(error.value)


def test_the_report_names_each_target_its_test_and_its_weights():
    weights = {"audio": 0.25, "visual": 0.75}
    test = {"passed": False, "excess": 0.02, "error": 0.03, "recordings": 60}
    lines = pseudo_labels.describe({"arousal": {"weights": weights}, "valence": {"weights": weights, "audio": test}})
    lines = lines.splitlines()
    assert [line.split(":")[0] for line in lines] == ["arousal", "valence", "valence"]
    assert "audio 25%" in lines[0] and "visual 75%" in lines[0] and "not confirmed" in lines[1] and "60" in lines[1]


def test_the_labels_of_a_run_follow_from_the_predictions_of_the_folds(pseudo_corpus):
    """Smoothed, stacked and calibrated from the fold runs' own files."""
    run = run_of(pseudo_corpus, "student", distill="pseudo")
    report = json.loads((run / "labels" / "teachers.json").read_text())
    assert {path.stem for path in (run / "labels").glob("*.csv")} == {"train_1", "train_2", *UNRATED}
    preds = {}
    for stage in ("audio", "visual"):
        folds = [pseudo_corpus / "runs" / f"{stage}_both_fold{number}of2" / "predictions" for number in (1, 2)]
        read = [{path.stem: pd.read_csv(path) for path in fold.rglob("*.csv")} for fold in folds]
        preds[stage] = {"train_1": read[0]["train_1"], "train_2": read[1]["train_2"]} | {
            name: (read[0][of] + read[1][of]) / 2 for name, of in UNRATED.items()}
    gold = pd.concat([pd.read_csv(path) for path in (pseudo_corpus / "Annotations" / "Train_Set").glob("*.csv")])
    for target in ("arousal", "valence"):
        weights = report[target]["weights"]
        assert sum(weights.values()) == pytest.approx(1)
        moves = {name: sum(weights[stage] * preds[stage][name][f"{target}_pred"] for stage in weights)
                 for name in preds["audio"]}
        moves = {name: series.rolling(31, center=True, min_periods=1).mean() for name, series in moves.items()}
        moves = {name: series - series.mean() for name, series in moves.items()}
        spread = np.concatenate([moves[name] for name in UNRATED]).std()
        for name, series in moves.items():
            expected = gold[target].mean() + series * gold[target].std(ddof=0) / spread
            label = pd.read_csv(run / "labels" / f"{name}.csv")[target]
            np.testing.assert_allclose(label, expected, atol=2e-3)
            assert len(label) == FRAMES


@pytest.mark.parametrize("passed, shares", [(False, 0), (True, 1)])
def test_audio_teachers_that_are_not_confirmed_change_nothing_to_the_bit(pseudo, call, monkeypatch, passed, shares):
    test = {"passed": passed, "excess": 0.1, "error": 0.2, "recordings": 4}
    monkeypatch.setattr(pseudo_labels, "confirmed", lambda preds, baseline, recordings: [test, test])
    monkeypatch.setattr(pseudo_labels, "nnls", lambda x, y: (np.ones(x.shape[1]), 0))  # all that are used get a weight
    shutil.rmtree(run_of(pseudo, "student", distill="pseudo"))
    for name, words in [("both", []), ("visual", ["--teachers", "visual"])]:
        code, _, err = call("mmpkd", "--data-dir", pseudo, *WORDS, "--variant", name, *words)
        assert code == 0, err
    both, visual = (pseudo / "runs" / f"student_both_pseudo_{name}" for name in ("both", "visual"))
    weights = json.loads((both / "labels" / "teachers.json").read_text())["arousal"]["weights"]
    assert weights["audio"] == shares / 2
    models = [load_checkpoint(run / "last.pt")["model"] for run in (both, visual)]
    assert same(*models) == (not passed)
    assert (files_of(both / "predictions") == files_of(visual / "predictions")) == (not passed)


def test_without_the_confirmation_test_audio_teachers_are_stacked_as_they_are(pseudo, call):
    words = ["--data-dir", pseudo, *WORDS, "--no-confirm-audio", "--variant", "untested"]
    code, _, err = call("mmpkd", *words)
    report = pseudo_labels.read_report(pseudo / "runs" / "student_both_pseudo_untested")
    assert code == 0 and all({*about} == {"weights"} for about in report.values()), err
    assert all({*about["weights"]} == {"audio", "visual"} for about in report.values())


def test_predictions_are_averaged_over_the_second_around_a_frame():
    preds = {"a": np.random.default_rng(0).normal(0, 1, (40, 2)), "b": np.ones((3, 2))}
    for rate, half in ((1, 0), (5, 3), (25, 15)):
        after = pseudo_labels.smoothed(preds, rate)
        for name, pred in preds.items():
            expected = [pred[max(0, k - half):k + half + 1].mean(0) for k in range(len(pred))]
            np.testing.assert_allclose(after[name], expected, atol=1e-12)


def test_a_resumed_student_uses_its_labels_and_refuses_teachers_that_were_trained_again(pseudo, call, monkeypatch):
    run = run_of(pseudo, "student", distill="pseudo")
    before = load_checkpoint(run / "last.pt")
    shutil.rmtree(run)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "step", 2)
        assert call("mmpkd", "--data-dir", pseudo, *WORDS)[0] == 130
    labels = files_of(run / "labels")
    with monkeypatch.context() as patch:
        patch.setattr(pseudo_labels, "pseudo_labels", lambda *_: pytest.fail("the labels were made again"))
        code, out, err = call("mmpkd", "--data-dir", pseudo, *WORDS, "--resume")
    assert code == 0 and "weights of the teacher ensembles" in out and files_of(run / "labels") == labels, err
    assert same(load_checkpoint(run / "last.pt"), before), "resumed, the student is another one"
    fold = pseudo / "runs" / "audio_both_fold1of2" / "best.pt"
    torch.save(load_checkpoint(fold) | {"epoch": 99}, fold)
    for words in ([], ["--resume"]):  # a finished student, too
        line = one_line(*call("mmpkd", "--data-dir", pseudo, *WORDS, *words)[::2])
        assert "teachers" in line and str(run) in line


def test_predictions_are_written_beside_the_gold_standard_and_not_beside_labels(pseudo, call):
    path = pseudo / "Annotations" / "Train_Set" / "train_1.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[:9, "valence"] = "-5"
    table.to_csv(path, index=False)
    shutil.rmtree(pseudo / "runs")
    code, _, err = call("mmpkd", "--data-dir", pseudo, *WORDS, "--stage", "all")
    assert code == 0, err
    written = pd.read_csv(run_of(pseudo, "student", distill="pseudo") / "predictions" / "train" / "train_1.csv")
    assert written["valence_gold"].isna().sum() == 10


def test_labels_of_a_run_that_never_began_are_made_again(pseudo, call):
    """A process killed between the labels and the first checkpoint, and then other teachers."""
    run = run_of(pseudo, "student", distill="pseudo")
    before = files_of(run / "labels")
    (run / "last.pt").unlink()
    shutil.rmtree(run / "predictions")
    (run / "labels" / "teachers.json").write_text("{}")
    with contextlib.redirect_stdout(io.StringIO()):
        code, _, err = call("mmpkd", "--data-dir", pseudo, *WORDS)
    assert code == 0 and files_of(run / "labels") == before, err


def test_students_train_on_the_labels_where_ratings_are_missing(pseudo, call, monkeypatch):
    seen = {}
    monkeypatch.setattr(data, "Clips", lambda recordings, *words, Clips=data.Clips: seen.update(
        {one.name: one.gold for one in [*recordings, *words[5]]}) or Clips(recordings, *words))
    shutil.rmtree(run_of(pseudo, "student", distill="pseudo"))
    assert call("mmpkd", "--data-dir", pseudo, *WORDS)[0] == 0
    labels = run_of(pseudo, "student", distill="pseudo") / "labels"
    for name, gold in seen.items():
        rated = name.startswith("train")
        table = pd.read_csv(next((pseudo / "Annotations").glob(f"*/{name}.csv")) if rated else labels / f"{name}.csv")
        np.testing.assert_array_equal(gold, table[["arousal", "valence"]].to_numpy(np.float32))
    assert set(seen) == {"train_1", "train_2", *UNRATED}
