"""Ratings -> frames: scale, time, number, delay."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora.ratings import (
    Pictures,
    Ratings,
    increasing,
    match_frames,
    moved_earlier,
    on_frames,
    resample,
    rises_evenly,
    scale_note,
    to_scale,
)
from support.errors import UserError

RISING = np.column_stack([np.arange(100), -np.arange(100)]) / 100  # row k: k/100, -k/100


def timed(rate, count=100, first_s=0.0):
    return first_s + np.arange(count) / rate


def framed(times, frames, values=RISING, rate=25):
    return on_frames(Ratings(values, times), rate, frames, "video")


# ---- scale ----------------------------------------------------------------------------------------------------------

def test_a_scale_is_mapped_linearly():
    made = to_scale(np.array([[1, 9.0], [5, 7], [np.nan, 3]]), (1, 9))
    np.testing.assert_allclose(made, [[-1, 1], [0, .5], [np.nan, -.5]])


@pytest.mark.parametrize("values,low,high", [
    (np.linspace(1, 9, 100), 1, 9), (np.arange(100) % 21 - 10.0, -10, 10), (np.arange(100.0), 0, 99),
    (np.full(100, -3.0), -3, 3),
])
def test_ratings_on_another_scale_are_refused_and_read_once_it_is_named(values, low, high):
    both = np.column_stack([np.zeros(100), values])
    with pytest.raises(UserError, match="ratings of valence lie outside .* --label-range"):
        to_scale(both, ())
    both[:, 0] = low
    assert np.nanmax(np.abs(to_scale(both, (low, high)))) <= 1
    with pytest.raises(UserError, match="another scale"):
        to_scale(both * 3, (low, high))


def test_a_few_strays_and_the_mark_of_invalid_ratings_are_no_scale():
    values = np.zeros((100, 2))
    values[:60] = -5
    values[60:64] = 7
    assert to_scale(values, ()) is values


# ---- as many rows as frames -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("rows,frames,kept,said", [
    (7501, 7500, 7500, "a last rating without a frame was dropped"), (7500, 7500, 7500, ""),
    (7550, 7500, 7500, "last 50 ratings"),
    (7440, 7500, 7440, "last 60 of 7500 frames"), (7499, 7500, 7499, "last frame has no rating"), (100, None, 100, ""),
])
def test_up_to_a_hundredth_more_or_fewer_rows_are_trimmed_at_the_end_and_said(rows, frames, kept, said):
    values = np.arange(2.0 * rows).reshape(rows, 2)
    made, notes = match_frames(values, frames)
    np.testing.assert_array_equal(made, values[:kept])
    assert said in "".join(notes) and bool(notes) == bool(said)


@pytest.mark.parametrize("rows,says", [(15000, "--frame-rate 50 "), (3750, "--frame-rate 12.5 "), (7400, "24.67"),
(7576, "wrong")])
def test_a_factor_of_two_in_rate_and_more_than_a_hundredth_are_refused_with_the_direction(rows, says):
    with pytest.raises(UserError, match=f"{rows} ratings for 7500 frames .video.") as error:
        match_frames(np.zeros((rows, 2)), 7500, 25, "video")
    assert says in str(error.value)


# ---- a rating per picture -------------------------------------------------------------------------------------------

def at_pictures(rows, times, frames, rate=25, **how):
    """Arousal that is the time in hours, of ratings given when the pictures appear: linear, so exact in between."""
    times = np.asarray(times, float)
    step = np.median(np.diff(times))
    given = np.r_[times, times[-1] + step * np.arange(1, 1 + max(0, rows - len(times)))][:rows] / 3600
    made = on_frames(Ratings(np.column_stack([given, -given]), **how), rate, frames, "video",
                     Pictures("v.mp4", times, times[-1] + step))
    return made.values[:, 0] * 3600, made.notes


def uneven(count, seed=0):
    """Times of pictures of a phone: 30 per second, some missing, in the dark half as many."""
    draw = np.random.default_rng(seed)
    return np.cumsum(np.r_[0, draw.choice([1, 1, 1, 2, 2, 4], count - 1)]) / 30


@pytest.mark.parametrize("per_picture", [True, False])
@pytest.mark.parametrize("times", [timed(29.97, 120), timed(12.5, 50), timed(30, 120), timed(50, 200), uneven(90)],
                         ids=["29.97", "12.5", "30", "50", "variable"])
def test_each_picture_s_rating_is_at_the_time_of_the_picture(times, per_picture):
    frames = int(np.ceil((times[-1] + np.median(np.diff(times)) - 0.002) * 25))
    made, notes = at_pictures(len(times), times, frames, per_picture=per_picture)
    at = np.arange(frames) / 25
    inside = at <= times[-1]
    np.testing.assert_allclose(made[inside], at[inside], atol=1e-7)
    assert f"a rating per picture ({len(times)} pictures, " in notes[0] and "to 25 frames per second" in notes[0]


def test_ratings_per_picture_are_those_of_a_loop_over_the_frames():
    times, gold = uneven(60), np.random.default_rng(1).uniform(-1, 1, (60, 2))
    gold[20:23] = np.nan
    made = on_frames(Ratings(gold, per_picture=True), 25, 90, "video", Pictures("v", times, times[-1] + 1 / 30)).values
    for k, row in enumerate(made):
        after = next((n for n, time in enumerate(times) if time >= k / 25), None)
        if after is None:
            assert np.isnan(row).all() == (k / 25 - times[-1] > 1 / 60)
        elif abs(times[after] - k / 25) < 1e-9:
            np.testing.assert_array_equal(row, gold[after])
        else:
            share = (k / 25 - times[after - 1]) / (times[after] - times[after - 1])
            np.testing.assert_allclose(row, (1 - share) * gold[after - 1] + share * gold[after])


def test_pictures_at_the_times_of_the_frames_change_nothing():
    for per_picture in (True, False):
        made = on_frames(Ratings(RISING, per_picture=per_picture), 25, 100, "video", Pictures("v", timed(25), 4.0))
        assert made.values is RISING and made.notes == ()


@pytest.mark.parametrize("rows,said", [(119, "last 1 of 120 pictures have no rating"), (121, "last 1 ratings have no")])
def test_a_few_rows_more_or_less_than_pictures_are_trimmed_at_the_end_and_said(rows, said):
    made, notes = at_pictures(rows, timed(29.97, 120), 101, per_picture=True)
    np.testing.assert_allclose(made[:99], np.arange(99) / 25, atol=1e-7)
    assert said in notes[-1]


@pytest.mark.parametrize("rows,frames,times,as_pictures", [
    (100, 100, timed(29.97, 120), False), (120, 100, timed(29.97, 120), True), (101, 100, timed(29.97, 120), False),
    (899, 900, timed(29.97, 899), True), (7501, 7500, np.arange(7480) / 7480 * 300, False),
])
def test_rows_that_may_be_either_are_of_what_they_fit_better(rows, frames, times, as_pictures):
    assert ("per picture" in "".join(at_pictures(rows, times, frames)[1])) == as_pictures


@pytest.mark.parametrize("rows,frames,pictures,per_picture,says", [
    (240, 100, 120, True, "240 ratings for 120 pictures, 29.97 per second (v.mp4)"), (60, 100, 120, True, "14.98"),
    (100, 100, 120, True, "a rating per picture"), (100, 100, 200, True, "100 ratings for 200 pictures"),
    (200, 100, 120, False, "200 ratings for 100 frames (video), and its 120 pictures, 29.97 per second"),
    (50, 100, 120, False, "--frame-rate 12.5 "), (240, 100, 120, False, "--frame-rate 60 "),
])
def test_ratings_that_fit_neither_pictures_nor_frames_are_refused_with_both(rows, frames, pictures, per_picture, says):
    with pytest.raises(UserError) as error:
        at_pictures(rows, timed(29.97, pictures), frames, per_picture=per_picture)
    assert says in str(error.value) and len(str(error.value)) < 400


def test_no_rating_is_carried_over_a_long_pause_of_the_video():
    times = np.r_[timed(30, 30), timed(30, 30, 3.0), timed(30, 30, 4.5)]
    made, _ = at_pictures(90, times, 137, per_picture=True)
    at = np.arange(137) / 25
    gap = (at > times[29] + 1 / 60 + 1e-6) & (at < times[30] - 1 / 60 - 1e-6)
    assert np.isnan(made[gap]).all() and gap.sum() > 45
    np.testing.assert_allclose(made[~gap & (at <= times[-1])], at[~gap & (at <= times[-1])], atol=1e-7)


@pytest.mark.parametrize("rows,frames,says", [
    (90, 100, ""), (120, 100, ""), (60, 100, "made at another rate"), (150, 100, "number 150 pictures")])
def test_a_file_of_the_rated_pictures_may_end_early_but_not_where_another_rate_would(rows, frames, says):
    try:
        made, notes = at_pictures(rows, timed(29.97, 120), frames, ends_early=True)
    except UserError as error:
        assert says and says in str(error)
        return
    at = np.arange(frames) / 25
    np.testing.assert_allclose(made[at < (rows - 1) / 29.97], at[at < (rows - 1) / 29.97], atol=1e-7)
    assert not says and np.isnan(made[at > rows / 29.97]).all()


# ---- time -----------------------------------------------------------------------------------------------------------

def test_rows_at_the_times_of_the_frames_are_taken_as_they_are():
    for times in (timed(25), timed(25).round(1 + 1), timed(25, first_s=0.004)):
        made = framed(times, 100)
        assert made.notes == () and made.values is RISING


def test_a_label_shifted_by_one_frame_and_a_lost_first_row_are_put_in_their_place():
    made = framed(timed(25, first_s=0.04), 101)
    np.testing.assert_allclose(made.values[1:], RISING)
    assert np.isnan(made.values[0]).all() and "1 frames are more than half a step" in made.notes[1]


@pytest.mark.parametrize("rate", [10, 50, 29.97, 100, 7.3])
def test_other_rates_are_interpolated_linearly_and_said(rate):
    times = timed(rate)
    frames = int(times[-1] * 25)
    made = framed(times, frames)
    np.testing.assert_allclose(made.values[:, 0], np.arange(frames) / 25 * rate / 100, atol=1e-9)
    assert "interpolated linearly to 25 per second" in made.notes[0] and made.times_s is None


def test_ratings_are_not_extrapolated_beyond_half_a_step_nor_into_gaps():
    times = np.r_[np.arange(0.4, 2, 0.2), np.arange(4, 6.01, 0.2)]
    made = resample(np.column_stack([times, times]), times, at := np.arange(0, 6.5, 0.05))
    nearest = np.abs(at[:, None] - times).min(axis=1)
    np.testing.assert_array_equal(np.isnan(made[:, 0]), nearest > 0.1 + 1e-6)
    inside = ~np.isnan(made[:, 0])
    assert np.abs(made[inside, 0] - at[inside]).max() < 0.1 + 1e-6


def test_missing_ratings_spoil_no_others():
    values = np.column_stack([np.arange(5.0) / 5, [0, .1, np.nan, .3, -5]])
    made = framed(timed(12.5, 5), 10, values)
    np.testing.assert_allclose(made.values[:, 0], [0, .1, .2, .3, .4, .5, .6, .7, .8, .8])
    np.testing.assert_allclose(made.values[:, 1], [0, .05, .1, np.nan, np.nan, np.nan, .3, np.nan, np.nan, np.nan])


@given(st.lists(st.floats(-1, 1) | st.just(np.nan), min_size=2, max_size=30), st.floats(0.5, 60), st.floats(0, 3),
       st.floats(60, 100))
def test_interpolated_ratings_stay_between_their_neighbours(values, rate, first_s, frame_rate):
    both = np.column_stack([values, values])
    made = on_frames(Ratings(both, timed(rate, len(values), first_s)), frame_rate).values
    assert made.shape[1] == 2 and not (np.abs(made) > 1 + 1e-9).any()
    assert (np.nanmax(np.r_[made[:, 0], -2]) <= np.nanmax(np.r_[both[:, 0], -2]) + 1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(-1e5, 1e5) | st.floats(0, 10), min_size=1, max_size=30, unique=True).map(sorted),
       st.none() | st.integers(1, 300))
def test_whatever_the_times_there_is_a_row_per_frame_or_one_error(times, frames):
    values = np.linspace(-1, 1, 2 * len(times)).reshape(-1, 2)
    try:
        made = on_frames(Ratings(values, np.array(times)), 5, frames).values
    except UserError as error:
        assert len(str(error)) < 400
    else:
        assert len(made) == (frames or len(made)) > 0 or abs(len(made) - frames) <= 3
        assert not (np.abs(made) > 1 + 1e-9).any() and np.isfinite(made).any()


@pytest.mark.parametrize("times,says", [
    (timed(25) * 1000, "time_ms"), (timed(25) / 2, "wrong file"), (timed(25) * 2, "wrong file"),
    (timed(25) + 90000, "wrong file"), (timed(25) - 90000, "wrong file"),
])
def test_times_of_another_unit_or_of_another_recording_are_refused(times, says):
    with pytest.raises(UserError, match=says):
        framed(times, 100)


def test_times_that_do_not_increase_are_not_used_and_said():
    times, notes = increasing(np.array([0, 1, 1.0]), [2, 3, 4])
    assert times is None and "line 4: 1 after 1" in notes[0]
    assert increasing(None, []) == (None, ())


@pytest.mark.parametrize("series,even", [
    (timed(25), True), (timed(25).round(2), True), (timed(29.97, 300).round(2), True), (np.arange(100), True),
    (np.arange(1, 101), True),
    (np.arange(100) / 200, False), (np.sin(timed(25)) * 2, False), (np.ones(100), False), ([np.nan, 1, 2], False),
    ([1, 2], False),
])
def test_clocks_are_told_from_ratings(series, even):
    assert rises_evenly(np.asarray(series, float)) == even


# ---- delay ----------------------------------------------------------------------------------------------------------

def test_delayed_ratings_are_moved_to_earlier_frames_and_the_last_are_masked():
    made = moved_earlier(RISING, 60)
    np.testing.assert_array_equal(made[:40], RISING[60:])
    assert np.isnan(made[40:]).all() and made.shape == RISING.shape
    assert np.isnan(moved_earlier(RISING, 200)).all() and moved_earlier(RISING, 200).shape == RISING.shape


def test_ratings_that_take_up_a_twentieth_of_the_named_scale_are_said():
    assert "from -0.5 to 0.5 alone: is --label-range -100 100 right" in scale_note(
        to_scale(np.array([[-0.5, 0], [0.5, np.nan]]), (-100, 100)), (-100, 100))[0]
    for values, scale in (([[20.0, 0]], (-100, 100)), ([[0.1, 0.1]], ()), ([[np.nan, np.nan]], (1, 9))):
        assert scale_note(to_scale(np.array(values), scale), scale) == ()
