"""How late annotators react: a known delay is found, from the sound and from faces, on Train_Set alone."""
import shutil

import numpy as np
import pytest
import soundfile
from scipy.ndimage import gaussian_filter1d, shift

from corpora import delay
from corpora.delay import PER_S, lag_of, lines_of, maximum, ratings_at, signals_of, smoothed
from drawn.people import Recording
from support.settings import parse_config

LATE_S = 2.4


def made(seed=0, recordings=6, seconds=60, late_s=LATE_S, noise=1.0):
    """(signals, golds): ratings are one of three signals, late, with noise on both."""
    draw = np.random.default_rng(seed)
    signals, golds = [], []
    for _ in range(recordings):
        felt = gaussian_filter1d(draw.normal(size=(seconds * PER_S, 3)), 2 * PER_S, axis=0) * 10
        slow = gaussian_filter1d(draw.normal(size=seconds * PER_S), 2 * PER_S) * 10
        signals.append(felt + noise * draw.normal(size=felt.shape))
        golds.append(shift(felt[:, 0] + 0.3 * noise * slow, late_s * PER_S, order=1, mode="nearest"))
    return signals, golds


@pytest.mark.parametrize("late_s", [0.0, 1.0, LATE_S, 4.7])
def test_a_known_delay_is_found(late_s):
    for seed in range(3):
        lag = lag_of(*made(seed, late_s=late_s), 6.0)
        assert lag.why_not == "" and abs(lag.best_s - late_s) <= 0.2 and lag.low_s <= lag.best_s <= lag.high_s
        assert lag.high_s - lag.low_s < 1


def test_moments_without_a_rating_do_not_matter():
    signals, golds = made(seconds=150)
    for gold in golds:
        gold[100:200] = np.nan
    assert abs(lag_of(signals, golds, 6.0).best_s - LATE_S) <= 0.2


def test_ratings_that_have_nothing_to_do_with_the_signals_have_no_delay():
    for seed in range(5):
        lag = lag_of(made(seed)[0], made(seed + 100)[1], 6.0)
        assert lag.why_not and "recommend" in [*lines_of({"arousal": lag})][-1]


def test_a_delay_longer_than_those_tried_is_not_taken_for_the_longest():
    assert "still rises" in lag_of(*made(late_s=5.0), 3.0).why_not


def test_what_only_one_recording_shows_is_no_delay():
    """The weights are those of the others."""
    signals, golds = made()
    golds[1:] = made(50)[1][1:]
    assert lag_of(signals, golds, 6.0).why_not


def test_few_or_short_recordings_are_refused():
    with pytest.raises(ValueError, match="2 recordings"):
        lag_of(*made(recordings=2), 6.0)
    with pytest.raises(ValueError, match="0 recordings"):
        lag_of(*made(seconds=14), 6.0)


def test_the_interval_is_that_of_recordings_drawn_again():
    curves = np.zeros((9, 61))
    curves[np.arange(9), np.arange(20, 29)] = 1
    best, low, high = maximum(np.cumsum(curves, 1) - 2 * np.cumsum(np.maximum(np.arange(61) - 30, 0)))
    assert low <= best <= high


def test_ratings_are_taken_where_the_signals_are():
    gold = np.stack([np.arange(50) / 50, np.full(50, np.nan)], 1)
    made_at = ratings_at(gold, 25, 20)
    np.testing.assert_allclose(made_at[:19, 0], (np.arange(19) + 0.5) / 10 / 2, atol=1e-9)
    assert np.isnan(made_at[:, 1]).all() and smoothed(gold).shape == (50, 2)


# ---- from files -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def late_corpus(tmp_path_factory):
    """Drawn voices; arousal is what they feel, LATE_S later. The ratings of Val_Set are noise."""
    folder = tmp_path_factory.mktemp("late") / "data"
    (folder / "audio").mkdir(parents=True), (folder / "ratings_gold_standard").mkdir()
    for number, name in enumerate(["train_1", "train_2", "train_3", "train_4", "train_5", "dev_1", "dev_2"]):
        one = Recording.draw((5, number), 45 * 25)
        felt = shift(one.feelings, (0, LATE_S * 25), order=1, mode="nearest").T * 0.2
        felt = felt if name.startswith("train") else np.random.default_rng(number).permutation(felt)
        soundfile.write(folder / "audio" / f"{name}.wav", one.sound, 16000, subtype="PCM_16")
        text = "".join(f"{arousal:.4f};{valence:.4f}\n" for arousal, valence in felt)
        (folder / "ratings_gold_standard" / f"{name}.csv").write_text(text)
    return folder


def test_the_delay_of_a_drawn_corpus_is_found_and_drawn(late_corpus, call):
    before = {path: path.read_bytes() for path in late_corpus.rglob("*") if path.is_file()}
    code, out, _ = call("annotations", "--data-dir", late_corpus, "--show-delay", "--label-delay-s", 1)
    line = next(line for line in out.splitlines() if line.startswith("arousal: "))
    assert code == 0 and abs(float(line.split()[1]) - LATE_S) <= 0.2 and "over 5 recordings" in line
    assert "python annotations.py --label-delay-s 2." in out
    after = {path: path.read_bytes() for path in late_corpus.rglob("*") if path.is_file()}
    assert {*after} - {*before} == {late_corpus / "plots" / "label_delay.png"}
    assert all(after[path] == before[path] for path in before)


def test_ratings_of_val_set_are_never_looked_at(late_corpus, tmp_path, call, monkeypatch):
    monkeypatch.setattr(delay, "draw", lambda lags, path: path)
    folder = shutil.copytree(late_corpus, tmp_path / "data")
    texts = []
    for change in (lambda: None, lambda: (folder / "ratings_gold_standard" / "dev_1.csv").write_text("0;0\n" * 9)):
        change()
        texts.append(call("annotations", "--data-dir", folder, "--show-delay")[1])
    assert texts[0] == texts[1] and "dev" not in texts[0]


def test_faces_are_signals_too_and_frames_without_one_are_not(made_corpus):
    cfg = parse_config(["--data-dir", str(made_corpus)], "annotations.py", "")
    signals = signals_of("train_1", 25, cfg)
    assert signals.shape == (24, 4 + 4 + 196) and np.isfinite(signals).all()
    assert signals_of("nobody", 25, cfg).shape == (0, 0)


def test_recordings_without_sound_and_faces_are_named(late_corpus, tmp_path, call):
    folder = shutil.copytree(late_corpus, tmp_path / "data")
    shutil.rmtree(folder / "audio")
    code, out, _ = call("annotations", "--data-dir", folder, "--show-delay")
    assert code == 0 and "train_1: left out: neither sound nor faces" in out and "no delay to recommend" in out
