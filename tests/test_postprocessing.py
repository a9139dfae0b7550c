"""postprocessing.py: the constants that are fitted, and what they do to a recording."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

import postprocessing
from postprocessing import (
    PostProcessing,
    delay,
    fit_postprocessing,
    fit_tables,
    joint_ccc,
    postprocess,
    rating_level,
    relevel,
    smooth,
)

FRAMES = 250
SUBJECTS = {"train": ["train_1", "train_2"], "val": ["dev_1", "dev_2", "dev_10"]}


def golds_of(partition, target=0):
    """{id: smooth gold standard} of a partition."""
    return {name: 0.2 * smooth_noise((len(partition), number, target)) + 0.03 * number
            for number, name in enumerate(SUBJECTS[partition])}


def smooth_noise(seed, frames=FRAMES):
    noise = gaussian_filter1d(np.random.default_rng(seed).standard_normal(frames + 200), 15)[100:100 + frames]
    return noise / noise.std()


def noisy(gold, seed=0, noise=0.05):
    """A prediction that needs post-processing: early, compressed, biased, with slow and fast noise."""
    rng = np.random.default_rng((seed, int(1e6 * abs(gold[0]))))
    added = smooth_noise(rng.integers(1000)) + 0.5 * rng.standard_normal(len(gold))
    early = np.concatenate([gold[20:], np.full(20, gold[-1])])
    return 0.5 * early + 0.1 + noise * added


def closed_form(pred, gold):
    """Lin's CCC, written out."""
    moments = np.cov(pred, gold, bias=True)
    return 2 * moments[0, 1] / (moments[0, 0] + moments[1, 1] + (np.mean(pred) - np.mean(gold)) ** 2)


# ---- the steps, and how they are fitted -----------------------------------------------------------------------------

@pytest.mark.parametrize("smoothing", ["mean", "median"])
@pytest.mark.parametrize("window", [1, 3, 9, 101])
def test_smoothing_is_that_of_a_naive_loop(smoothing, window):
    pred = np.random.default_rng(1).standard_normal(40)
    naive = [getattr(np, smoothing)(pred[max(k - window // 2, 0):k + window // 2 + 1]) for k in range(40)]
    np.testing.assert_allclose(smooth(pred, window, smoothing), naive, atol=1e-12)


def test_a_delay_repeats_the_first_value_and_wraps_nothing_round():
    step = np.array([1.0, 2, 2, 2, 9])  # the 9 at the end must not appear at the start
    assert delay(step, 2).tolist() == [1, 1, 1, 2, 2]
    assert delay(step, 0).tolist() == step.tolist()
    assert delay(step, 99).tolist() == [1] * 5


def test_a_known_bias_scale_and_delay_are_found_on_train_and_correct_other_recordings():
    faces = [0.2 * smooth_noise(seed, 2030) for seed in range(4)]
    golds, preds = [each[:-30] for each in faces], [0.4 * each[30:] - 0.2 for each in faces]  # 30 frames early
    fitted = fit_postprocessing(preds[:2], golds[:2], "mean", 1, 60)
    assert fitted.delay_frames == 30
    assert fitted.scale == pytest.approx(2.5, rel=0.05)
    assert fitted.bias == pytest.approx(0.2 + 0.6 * np.mean(golds[:2]), abs=0.01)
    for pred, gold in zip(preds[2:], golds[2:]):
        assert closed_form(postprocess(pred, fitted, "mean"), gold) > 0.95 > 0.3 > closed_form(pred, gold)


def test_a_scale_alone_is_found_exactly_and_keeps_the_mean():
    golds = [*golds_of("train").values()]
    mean = np.concatenate(golds).mean()
    fitted = fit_postprocessing([mean + 0.25 * (gold - mean) for gold in golds], golds, "mean", 1, 0)
    assert fitted._replace(centre=0) == PostProcessing(scale=4)
    assert fitted.centre == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("smoothing", ["mean", "median"])
def test_noise_is_smoothed_away(smoothing):
    golds = [*golds_of("train").values()]
    preds = [gold + 0.3 * np.random.default_rng(k).standard_normal(FRAMES) for k, gold in enumerate(golds)]
    fitted = fit_postprocessing(preds, golds, smoothing, 51, 0)
    assert fitted.window_frames > 3
    assert joint_ccc([postprocess(pred, fitted, smoothing) for pred in preds], golds) > joint_ccc(preds, golds) + 0.1


def test_training_frames_without_a_valid_rating_do_not_change_the_constants():
    golds = [gold.copy() for gold in golds_of("train").values()]
    preds = [gold - 0.25 for gold in golds]
    golds[0][:60], preds[0][:60] = np.nan, 0.9
    assert fit_postprocessing(preds, golds, "mean", 1, 0) == PostProcessing(bias=0.25)


def test_a_step_that_does_not_help_is_not_kept():
    golds = [*golds_of("train").values()]
    assert fit_postprocessing(golds, golds, "mean", 50, 50) == PostProcessing()  # perfect already
    opposite = fit_postprocessing([-gold for gold in golds], golds, "mean", 1, 0)
    assert opposite.bias == 0  # with a negative correlation, equal means make it worse
    late = fit_postprocessing([delay(gold, 10) for gold in golds], golds, "mean", 1, 50)
    assert late.delay_frames == 0  # already later than the ratings


recording = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1) | st.just(float("nan"))), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(recording, min_size=1, max_size=3), st.sampled_from(["mean", "median"]))
def test_post_processing_never_lowers_the_ccc_of_the_training_recordings(recordings, smoothing):
    preds, golds = ([np.array(each)[:, column] for each in recordings] for column in (0, 1))
    fitted = fit_postprocessing(preds, golds, smoothing, 7, 4)
    before, after = joint_ccc(preds, golds), joint_ccc([postprocess(pred, fitted, smoothing) for pred in preds], golds)
    assert after >= before - 1e-9 or np.isnan(before) and fitted == PostProcessing()


def test_constant_predictions_and_constant_gold_give_a_ccc_of_zero():
    golds = [*golds_of("train").values()]
    constant = [np.full(FRAMES, 0.5)] * 2
    assert fit_postprocessing(constant, golds, "mean", 9, 9).scale == 1
    assert abs(joint_ccc(constant, golds)) < 1e-6
    assert fit_postprocessing(golds, constant, "mean", 9, 9) == PostProcessing()


# ---- gaps: frames without a face ------------------------------------------------------------------------------------

SOME = PostProcessing(window_frames=5, bias=0.1, scale=2.0, centre=0.3, delay_frames=3)


def with_gaps_by_hand(pred, constants, smoothing):
    """Post-processing frame by frame, NaN where a frame or the one that its value comes from has no face."""
    half, out = constants.window_frames // 2, np.full(len(pred), np.nan)
    for k in range(len(pred)):
        came_from = max(k - constants.delay_frames, 0)
        if not np.isnan(pred[[k, came_from]]).any():
            window = pred[max(came_from - half, 0):came_from + half + 1]
            value = getattr(np, smoothing)(window[~np.isnan(window)]) + constants.bias
            out[k] = constants.centre + constants.scale * (value - constants.centre)
    return out


@pytest.mark.parametrize("smoothing", ["mean", "median"])
@pytest.mark.parametrize("gaps", [[], [0], [20, 21, 22, 23, 24, 25, 26], [0, 1, 7, 39], [*range(1, 39)]])
def test_gaps_stay_gaps_and_no_value_is_invented(smoothing, gaps):
    pred = np.random.default_rng(2).standard_normal(40)
    pred[gaps] = np.nan
    out = postprocess(pred, SOME, smoothing)
    np.testing.assert_allclose(out, with_gaps_by_hand(pred, SOME, smoothing), atol=1e-12)
    assert np.isnan(out[gaps]).all()


def test_a_recording_of_gaps_alone_stays_one():
    assert np.isnan(postprocess(np.full(9, np.nan), SOME, "mean")).all()


def test_constants_that_change_nothing_change_nothing():
    pred = np.where(np.arange(30) % 7 == 3, np.nan, smooth_noise(1, 30))
    np.testing.assert_array_equal(postprocess(pred, PostProcessing(), "mean"), pred)


def test_applying_needs_no_torch():
    code = ("import sys, numpy, postprocessing as p; p.postprocess(numpy.zeros(9), p.PostProcessing(3), 'mean'); "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(postprocessing.__file__).parent).returncode == 0


def test_nothing_to_fit_on_gives_constants_that_change_nothing():
    assert fit_tables({}, ["arousal"], "mean", 10, 6, 25) == {"arousal": PostProcessing()}


# ---- level ----------------------------------------------------------------------------------------------------------

series = st.lists(st.floats(-2, 2, width=32) | st.just(float("nan")), min_size=1, max_size=30).map(np.array)


@given(series, st.floats(-1, 1))
def test_the_causal_level_is_that_of_a_loop_over_the_frames_up_to_now(pred, mean):
    expected, before = [], [mean] * 10  # for ten seconds
    for value in pred.tolist():
        before += [value] * (value == value)
        expected.append(value - sum(before) / len(before) + mean if value == value else value)
    np.testing.assert_allclose(relevel(pred, "causal", mean, 0.3, 1), expected, atol=1e-9)


@given(series, st.integers(1, 30))
def test_the_causal_level_of_a_frame_does_not_depend_on_later_ones(pred, known):
    whole = relevel(pred, "causal", 0.1, 0.3, 25)[:known]
    np.testing.assert_array_equal(relevel(pred[:known], "causal", 0.1, 0.3, 25), whole)


@pytest.mark.parametrize("gaps", [[], [0, 1, 2, 77, 249]])
def test_the_level_of_a_recording_does_not_depend_on_shift_and_scale(gaps):
    pred = smooth_noise(5)
    pred[gaps] = np.nan
    once = relevel(pred, "recording", 0.1, 0.3, 25)
    assert (np.nanmean(once), np.nanstd(once)) == pytest.approx((0.1, 0.3))
    assert np.flatnonzero(np.isnan(once)).tolist() == gaps
    np.testing.assert_allclose(relevel(7 * pred - 3, "recording", 0.1, 0.3, 25), once, atol=1e-9)


@pytest.mark.parametrize("level", ["causal", "recording"])
def test_a_constant_recording_gets_the_mean_of_the_ratings_and_gaps_stay_gaps(level):
    """At the causal level in the end."""
    pred = np.full(9000, 0.7, np.float32)
    pred[[0, 4]] = np.nan
    out = relevel(pred, level, -0.2, 0.3, 1)
    assert np.flatnonzero(np.isnan(out)).tolist() == [0, 4]
    assert out[-1 if level == "causal" else 1] == pytest.approx(-0.2, abs=2e-3)
    assert np.isnan(relevel(np.full(9, np.nan), level, -0.2, 0.3, 1)).all()


def test_the_raw_level_changes_nothing():
    pred = np.where(np.arange(30) % 7 == 3, np.nan, smooth_noise(1, 30))
    np.testing.assert_array_equal(relevel(pred, "raw", 0.5, 9.0, 25), pred)


def test_the_level_of_ratings_is_their_mean_and_their_spread_within_recordings():
    """0 and 1, 10 and 13, 13, 10: within them the variances are 1/4 and 9/4, of which the mean is 5/4."""
    nan = float("nan")
    golds = [np.array([0, nan, 1]), np.array([10, 13, 13, 10.0]), np.array([nan, 99]), np.full(3, nan)]
    assert rating_level(golds) == (pytest.approx(47 / 6, abs=1e-6), pytest.approx(np.sqrt(1.25), abs=1e-6))
    assert np.isnan(rating_level([np.full(3, nan)])).all()
