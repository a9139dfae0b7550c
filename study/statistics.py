"""Means of differences between methods, and their 95 % intervals; both as text."""
from functools import lru_cache

import numpy as np

RESAMPLES = 10000  # of the bootstrap


def interval(values, draws=None, of=None):
    """(mean, low, high) of differences (C, P) between two runs each, of P subjects: their mean over subjects, seeds and
    draws, and the 2.5 % and 97.5 % quantiles of its bootstrap distribution.

    draws: the draw of each of the C pairs of runs, which differ in their seeds within a draw; None: one draw each. of:
    differences whose mean divides that of the first, (C, P).

    Bootstrap of two crossed factors, each resampled with replacement on its own (pigeonhole bootstrap: Owen, 2007):
    subjects; and draws, with the seeds of a draw resampled within it. So the interval holds for other reported
    subjects, other rated ones and other weights. With 5 draws it covers 95 % where no factor prevails, and 86 % if all
    variance is between draws. Draws of one pool share subjects: for subjects from elsewhere the standard error between
    draws is larger, by sqrt((1 + 4 f) / (1 - f)) where each of five takes a share f of the pool, if subjects add to the
    result one by one (tests/test_statistics.py).
    """
    draws = tuple(range(len(values)) if draws is None else draws)
    runs, subjects = resampled(draws, values.shape[1])
    parts = [each for each in (values, of) if each is not None]
    mean, *divisor = (float(weights_of(draws) @ each.mean(1)) for each in parts)
    samples, *divisors = (((runs @ each) * subjects).sum(1) for each in parts)
    if of is not None:
        mean, samples = mean / divisor[0], samples / divisors[0]
    return (mean, *map(float, np.quantile(samples, [0.025, 0.975])))


def weights_of(draws):
    """Weight of each run in the mean over seeds, then draws: (C,), sum 1."""
    seeds = np.array([draws.count(draw) for draw in draws])
    return 1 / (seeds * len(set(draws)))


@lru_cache
def resampled(draws, subjects):
    """Weights in each bootstrap sample, of runs (RESAMPLES, C) and of subjects (RESAMPLES, P); the same every time."""
    rng = np.random.default_rng(0)
    names, runs = [*dict.fromkeys(draws)], np.zeros((RESAMPLES, len(draws)))
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)  # each draw was taken
    for place, name in enumerate(names):
        own = np.flatnonzero([draw == name for draw in draws])
        taken = rng.multinomial(times[:, place] * len(own), np.full(len(own), 1 / len(own)))
        runs[:, own] = taken / (len(own) * len(names))
    return runs, rng.multinomial(subjects, np.full(subjects, 1 / subjects), RESAMPLES) / subjects


# ---- text -----------------------------------------------------------------------------------------------------------

def percent(value):
    """A share as text."""
    return f"{round(value, 2) + 0.0:.0%}"  # no -0%


def signed(value):
    """A difference as text; zero has a plus."""
    return f"{round(value, 3) + 0.0:+.3f}"


def with_interval(mean, low, high, as_text=signed):
    """A value and its interval as text."""
    return f"{as_text(mean)} ({as_text(low)} to {as_text(high)})"
