"""study/statistics.py: means over draws, and intervals over subjects, draws and seeds."""
import numpy as np
import pytest

from study.statistics import interval, percent, signed, with_interval


def drawn(rng, sizes, sds):
    """Differences (draws * seeds, subjects) with mean 0: sd of draws, seeds in draws, subjects, subjects x draws, and
    the rest."""
    draws, seeds, subjects = sizes
    shapes = [(draws, 1, 1), (draws, seeds, 1), (1, 1, subjects), (draws, 1, subjects), (draws, seeds, subjects)]
    parts = sum(rng.normal(0, sd, shape) for sd, shape in zip(sds, shapes))
    return parts.reshape(draws * seeds, subjects)


def by_loops(values, draws, samples, rng):
    """The bootstrap written out: draws with replacement, in each its seeds with replacement, and subjects."""
    means, names = [], sorted(set(draws))
    for _ in range(samples):
        subjects = rng.integers(0, values.shape[1], values.shape[1])
        of_draws = []
        for name in rng.choice(names, len(names)):
            own = [row for row, draw in zip(values, draws) if draw == name]
            taken = [own[k] for k in rng.integers(0, len(own), len(own))]
            of_draws.append(np.mean([row[subjects].mean() for row in taken]))
        means.append(np.mean(of_draws))
    return np.quantile(means, [0.025, 0.975])


def test_the_interval_is_that_of_a_bootstrap_written_out_with_loops():
    rng = np.random.default_rng(1)
    values, draws = drawn(rng, (5, 2, 24), (0.05, 0.1, 0.03, 0.03, 0.05)), (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)
    mean, low, high = interval(values, draws)
    assert mean == pytest.approx(values.mean())
    assert [low, high] == pytest.approx(by_loops(values, draws, 4000, rng), abs=0.006)
    _, seeds_low, seeds_high = interval(values)  # ten draws of one seed: other than five of two
    assert abs((high - low) - (seeds_high - seeds_low)) > 0.01


def test_draws_with_more_seeds_count_no_more_than_others():
    values, draws = np.array([[0.1, 0.1], [0.3, 0.3], [0.6, 0.6]]), (0, 0, 1)  # as in a study that was stopped
    assert interval(values, draws)[0] == pytest.approx((0.2 + 0.6) / 2)
    rng = np.random.default_rng(2)
    assert interval(values, draws)[1:] == pytest.approx(by_loops(values, draws, 4000, rng), abs=0.02)


@pytest.mark.parametrize("sds, least", [
    ((0.02, 0.02, 0.04, 0.04, 0.06), 0.9),  # no factor prevails
    ((0.04, 0.02, 0.04, 0.04, 0.06), 0.87),
    ((0.03, 0.0, 0.0, 0.0, 0.03), 0.78),  # draws alone: five of them say little about their spread
])
def test_intervals_of_known_variances_cover_the_truth(sds, least):
    rng, draws = np.random.default_rng(0), tuple(np.repeat(range(5), 2).tolist())
    covered = [low <= 0 <= high for _, low, high in (interval(drawn(rng, (5, 2, 24), sds), draws) for _ in range(150))]
    assert least <= np.mean(covered) <= 0.995


@pytest.mark.parametrize("taken, pool, factor", [(12, 200, 1.15), (30, 200, 1.37), (48, 200, 1.61), (9, 90, 1.25)])
def test_five_draws_of_one_pool_vary_less_than_draws_of_other_subjects(taken, pool, factor):
    """The factor of `interval`'s docstring and of docs/study.md: draws that share subjects are alike."""
    rng, share = np.random.default_rng(0), taken / pool
    worth = rng.normal(0, 1, (4000, 1, pool))  # of a subject, for those who learn from it
    draws = rng.permuted(np.repeat(worth, 5, 1), axis=2)[..., :taken].mean(2)
    seen = (draws.var(1, ddof=1) / 5).mean() ** 0.5  # standard error of the mean of five, as they show it
    assert draws.mean(1).std() / seen == pytest.approx(factor, rel=0.04)
    assert ((1 + 4 * share) / (1 - share)) ** 0.5 == pytest.approx(factor, abs=0.01)


def test_intervals_of_one_draw_hold_for_its_rated_subjects_alone():
    rng, sds = np.random.default_rng(0), (0.04, 0.02, 0.04, 0.04, 0.06)
    covered = [low <= 0 <= high for _, low, high in (interval(drawn(rng, (1, 5, 24), sds)) for _ in range(150))]
    assert np.mean(covered) < 0.7


def test_equal_differences_have_an_interval_of_width_0():
    assert interval(np.full((4, 8), 0.07), (0, 0, 1, 1)) == pytest.approx((0.07, 0.07, 0.07))


def test_a_share_is_that_of_the_means_and_its_interval_that_of_the_shares():
    part, whole = np.array([[0.2, 0.4]]), np.array([[0.4, 0.4]])
    assert interval(part, (0,), whole) == pytest.approx((0.75, 0.5, 1.0))  # of each subject alone: half, and all


def test_values_are_written_without_a_minus_before_zero():
    assert (signed(-0.0001), signed(0.05), percent(-0.001)) == ("+0.000", "+0.050", "0%")
    assert with_interval(0.1, -0.02, 0.2) == "+0.100 (-0.020 to +0.200)"
