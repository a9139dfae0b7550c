"""What can be wrong with a recording, one kind after the other; and what is as it should be is no finding."""
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from corpora import findings
from corpora.findings import (
    KINDS,
    Finding,
    count_findings,
    differences,
    face_findings,
    gold_findings,
    ordered,
    quick_findings,
    rate_findings,
    sound_findings,
    swapped,
    swapped_all,
    trace_findings,
)

RATE = 25


def ratings(seed=0, seconds=60, rate=RATE, spread=0.2, mean=0.0, pace_s=2.0):
    """A trace as raters draw it."""
    noise = gaussian_filter1d(np.random.default_rng(seed).normal(size=round((seconds + 20) * rate)), pace_s * rate)
    trace = noise[10 * rate:10 * rate + round(seconds * rate)]
    return np.clip(mean + spread * trace / trace.std(), -1, 1)


def both(seed=0, **more):
    """(N, 2) arousal and valence as in RECOLA: valence is higher, narrower and slower."""
    valence = ratings(seed + 1000, spread=0.13, mean=0.11, pace_s=3, **more)
    return np.stack([ratings(seed, spread=0.19, **more), valence], 1)


def kinds(found):
    return [kind for kind, _ in found]


def test_what_raters_draw_is_no_finding():
    for seed in range(20):
        assert gold_findings(both(seed), RATE) == []
    assert gold_findings(both(3, rate=5), 5) == []


def changed(trace, rows, value):
    trace = trace.copy()
    trace[rows] = value
    return trace


@pytest.mark.parametrize("kind, trace, words", [
    ("unrated", np.full(100, np.nan), "none of them"), ("unrated", np.full(100, -5.0), "none of them"),
    ("unrated", np.empty(0), "0 rows"),
    ("constant", np.zeros(1500), "0 in all 1500"), ("constant", np.full(1500, 0.25), "0.25 in all"),
    ("clock", np.arange(1500) / 1500, "+0.000667 a row"), ("clock", np.linspace(1, -1, 1500), "from 1 to -1"),
    ("clock", np.round(np.arange(1500) / 1600, 2) + np.arange(1500) * 1e-6, "straight"),
    ("invalid", changed(ratings(1), slice(500, 1000), np.nan), "33% of 1500 rows"),
    ("frozen", changed(ratings(2), slice(250, 1250), 0.1), "0.1 for 40.0 s from 10.0 s on"),
    ("clipped", np.clip(ratings(3) * 4, -1, 1), "1 in"),
    ("jumps", changed(ratings(4), 700, 0.95), "at 28.0 s"),
    ("unordered", np.random.default_rng(5).permutation(ratings(5)), "correlate at"),
    ("coarse", np.round(ratings(6) * 10) / 10, "different values")])
def test_a_trace_that_is_none_is_found_and_nothing_else(kind, trace, words):
    found = trace_findings("arousal", trace, RATE)
    assert {*kinds(found)} == {kind} and words in found[0][1] and found[0][1].startswith("arousal: ")


def test_what_is_nearly_a_fault_is_none():
    """A straight line for a while, a jump of a coarse scale, a short rest, a peak that touches the end of the scale."""
    bent = changed(ratings(1), slice(0, 300), np.linspace(0.2, ratings(1)[300], 300))
    assert trace_findings("arousal", bent, RATE) == []
    assert kinds(trace_findings("arousal", np.sign(ratings(2)) * 0.5, RATE)) == ["coarse"]
    assert trace_findings("arousal", changed(ratings(3), slice(100, 350), ratings(3)[100]), RATE) == []
    assert trace_findings("arousal", np.clip(ratings(4) * 1.05 / abs(ratings(4)).max(), -1, 1), RATE) == []


def test_a_file_that_was_taken_twice_and_one_that_is_short_are_found():
    one = ratings(7)
    assert kinds(gold_findings(np.stack([one, one], 1), RATE)) == ["equal"]
    assert kinds(gold_findings(both(8)[:60], RATE)) == ["short"]


# ---- exchanged ------------------------------------------------------------------------------------------------------

def looks(golds, energies=None):
    return {name: differences(gold, RATE, energies and energies[name]) for name, gold in golds.items()}


def test_one_exchanged_recording_of_many_is_found_and_no_other():
    for start in range(0, 200, 20):
        golds = {f"r{seed}": both(start + seed, seconds=120) for seed in range(18)}
        assert swapped(looks(golds)) == {}
        golds["r4"] = golds["r4"][:, ::-1]
        assert [*swapped(looks(golds))] == ["r4"]


def test_where_the_two_do_not_differ_nothing_is_told():
    golds = {f"r{seed}": np.stack([ratings(seed), ratings(seed + 50)], 1) for seed in range(18)}
    golds["r4"] = golds["r4"][:, ::-1]
    assert swapped(looks(golds)) == {} and swapped(looks(dict([*golds.items()][:4]))) == {}


def test_all_of_recola_exchanged_is_told_by_its_published_moments():
    def moments(gold, seed):
        aim = np.array([[0.027, 0.181], [0.113, 0.133]] if seed < 9 else [[-0.049, 0.194], [0.094, 0.125]])
        return (gold - gold.mean(0)) / gold.std(0) * aim[:, 1] + aim[:, 0]
    golds = [moments(both(seed, seconds=300), seed) for seed in range(18)]
    nothing = [np.full(2, np.nan)] * 18
    assert swapped_all(golds, 25, nothing) == ""
    assert "RECOLA" in swapped_all([gold[:, ::-1] for gold in golds], 25, nothing)
    assert swapped_all([gold[:7000, ::-1] for gold in golds], 25, nothing) == ""  # another corpus


def test_all_of_a_corpus_exchanged_is_told_by_the_loudness():
    follows = []
    for seed in range(8):
        gold = both(seed)
        heard = gold[:, 0] + 0.1 * ratings(seed + 77)
        energy = -30 + 40 * np.interp(np.arange(600) / 10 + findings.LAG_S, np.arange(1500) / RATE, heard)
        follows.append(findings.loudness_followed(gold, RATE, energy))
    follows = np.array(follows)
    assert follows[:, 0].mean() > 0.5 and swapped_all([], RATE, follows) == ""
    assert "loudness" in swapped_all([], RATE, follows[:, ::-1])
    assert swapped_all([], RATE, follows[:3, ::-1]) == ""


# ---- counts, faces, sound -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("counts, wrong", [
    ({"rows": 7500, "crops": 7500, "segments": None}, False), ({"rows": 7501, "crops": 7500}, False),
    ({"rows": 7502, "crops": 7500}, True), ({"rows": None, "crops": 7500, "segments": 7499}, True),
    ({"rows": 10, "crops": None}, False)])
def test_numbers_that_do_not_agree_are_found(counts, wrong):
    found = count_findings(counts)
    assert bool(found) == wrong and all("7500 crops" in detail for _, detail in found)


def test_missing_faces_are_found():
    faces = np.ones(1000, bool)
    assert face_findings(changed(faces, slice(0, 50), False), RATE) == []
    assert "20% of 1000 frames, 8.0 s" in face_findings(changed(faces, slice(100, 300), False), RATE)[0][1]
    assert kinds(face_findings(np.ones(10000, bool), RATE)) == []
    assert kinds(face_findings(changed(np.ones(10000, bool), slice(0, 300), False), RATE)) == ["faces"]
    assert kinds(face_findings(~faces, RATE)) == ["faceless"]


@pytest.mark.parametrize("pictures, sound, late, own, expected", [
    (300, 300, 0, True, []), (300, 300.4, 0.02, False, []), (300, 290, 0, True, ["lengths"]),
    (300, 150, 0, False, ["lengths"]), (300, 297, 3, False, ["offset"]), (300, 300, -0.5, False, ["offset"]),
    (300, 300, 5, False, ["offset", "lengths"])])
def test_sound_that_does_not_fit_the_pictures_is_found(pictures, sound, late, own, expected):
    assert kinds(sound_findings(pictures, sound, late, own)) == expected


def test_videos_of_another_rate_are_noted():
    assert rate_findings(25.001, 25, True) == [] and kinds(rate_findings(29.97, 25, True)) == ["rate"]
    assert "unevenly" in rate_findings(25, 25, False)[0][1]


# ---- all together ---------------------------------------------------------------------------------------------------

def test_the_worst_comes_first_and_every_kind_says_what_to_do():
    found = [Finding(kind, ("a",), "") for kind in reversed(KINDS)]
    levels = [kind.level for kind, _ in ordered(found)]
    assert levels == sorted(levels, key=findings.LEVELS.index) and len(levels) == len(KINDS)
    assert all(kind.do.endswith((".", "?")) and not kind.title.endswith(".") for kind in KINDS.values())


def test_before_training_only_the_targets_that_are_trained_on_count():
    golds = {f"r{seed}": both(seed) for seed in range(8)}
    assert quick_findings(golds, ["arousal", "valence"], RATE) == []
    golds["r1"][:, 1] = 0
    assert quick_findings(golds, ["arousal"], RATE) == []
    constant = Finding("constant", ("r1",), "valence: 0 in all 1500 valid rows")
    assert quick_findings(golds, ["valence"], RATE) == [constant]
    golds = {"a": both(1), "b": both(1), "c": np.stack([ratings(2), np.full(1500, np.nan)], 1)}
    assert quick_findings(golds, ["arousal"], RATE) == [Finding("copies", ("a", "b"), "the same ratings")]


def test_ratings_from_0_to_1_are_told_from_those_that_are_high_by_chance():
    rising = np.column_stack([np.linspace(0, 1, 50), np.linspace(0.2, 0.9, 50)])
    assert findings.never_negative([rising, rising]) == "both dimensions of 2 recordings reach from 0.00 to 1.00"
    others = [rising], [rising, rising - 0.1], [rising / 2, rising / 2], [rising * np.nan] * 2
    assert not any(map(findings.never_negative, others))
