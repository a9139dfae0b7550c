"""--level: what plot_ccc.py and predict.py do with the level of predictions. relevel: test_postprocessing.py."""
import numpy as np
import pandas as pd
import pytest
from conftest import one_line, run_of
from test_plot_ccc import RUNS, plot, tables, write_fitted
from test_postprocessing import SUBJECTS, closed_form
from videos import sitter

import predict
from checkpoints import load_checkpoint, save_checkpoint
from drawn.people import write_video
from support.errors import SettingsError


@pytest.fixture
def data(tmp_path):
    """Runs for arousal and those of their folds."""
    return write_fitted(tmp_path)


# ---- in the table ---------------------------------------------------------------------------------------------------

def levelled(pred, level, golds):
    """A prediction at a level, frame by frame; golds: the training ratings."""
    mean = np.mean(np.concatenate(golds))
    if level == "causal":
        return [pred[k] - (250 * mean + sum(pred[:k + 1])) / (250 + k + 1) + mean for k in range(len(pred))]
    sd = np.sqrt(np.mean([np.std(gold) ** 2 for gold in golds]))
    return [mean + sd * (value - np.mean(pred)) / np.std(pred) for value in pred]


@pytest.mark.parametrize("level", ["causal", "recording"])
def test_at_a_level_every_ccc_is_that_of_predictions_levelled_by_hand(level, data, capsys, no_figures):
    raw = tables(data)[0]
    plot(data, "--level", level)
    table = pd.read_csv(data / "plots/ccc.csv")
    assert set(table["level"]) == {level} and set(raw["level"]) == {"raw"}
    assert (table["ccc_raw"] != raw["ccc_raw"]).all()
    for name in RUNS:
        folder = data / "runs" / name / "predictions"
        trained = [pd.read_csv(path)["arousal_gold"] for path in (folder / "train").glob("*.csv")]
        parts = [pd.read_csv(folder / "val" / f"{one}.csv") for one in SUBJECTS["val"]]
        preds = [levelled(part["arousal_pred"].to_numpy(), level, trained) for part in parts]
        golds = [part["arousal_gold"] for part in parts]
        each = [closed_form(*pair) for pair in zip(preds, golds)]
        expected = [*each, np.mean(each), closed_form(np.concatenate(preds), np.concatenate(golds))]
        np.testing.assert_allclose(table.loc[table["run"] == name, "ccc_raw"], expected, atol=5e-6)
    out = capsys.readouterr().out
    assert f"3 recordings, level: {level}" in out and f"at the level {level}" in out
    assert set(pd.read_csv(data / "plots/postprocessing.csv")["level"]) == {level}


def test_nothing_is_said_of_a_level_that_was_not_asked_for(data, capsys, no_figures):
    plot(data)
    assert "level" not in capsys.readouterr().out


# ---- of videos ------------------------------------------------------------------------------------------------------

@pytest.fixture
def student(trained_corpus):
    return run_of(trained_corpus, "student") / "best.pt"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of a drawn person. Read only."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, sitter(2, 20).frames())
    return path


@pytest.fixture
def run(call, clip, tmp_path):
    """run(network, flags ...) -> (exit code, stdout, stderr) of predict.py with the clip, into tmp_path/out."""
    return lambda *words: call("predict", *words, clip, "--out", tmp_path / "out", "--device", "cpu")


@pytest.mark.parametrize("file", ["best.pt", "onnx"])
@pytest.mark.parametrize("level", ["causal", "recording"])
def test_a_level_is_that_of_the_ratings_in_the_file(level, file, run, student, exported, clip, tmp_path):
    network = student if file == "best.pt" else exported
    raw, ratings = predict.predict_video(network, clip, device="cpu"), load_checkpoint(student)["card"]["ratings"]
    assert run(network, "--level", level)[0] == 0
    table = pd.read_csv(tmp_path / "out" / "clip.csv")
    for target in ("arousal", "valence"):
        pred, (mean, sd) = raw[target], (ratings[target][name] for name in ("mean", "sd"))
        before = pd.concat([pd.Series([mean] * 250), pred]).expanding().mean()[250:]  # 10 seconds at 25 frames
        wanted = (pred - before.to_numpy() + mean if level == "causal"
                  else (pred - pred.mean()) / pred.std(ddof=0) * sd + mean)
        np.testing.assert_allclose(table[target], wanted, atol=1e-5)


def test_a_level_is_refused_where_it_cannot_be_had(run, call, student, clip, tmp_path):
    state, old = load_checkpoint(student), tmp_path / "old.pt"
    save_checkpoint(old, state | {"card": state["card"] | {"ratings": None}})
    assert "Train it again" in one_line(*run(old, "--level", "causal")[::2], 2)
    assert "leave one" in one_line(*run(student, "--level", "causal", "--postprocess")[::2], 2)
    assert "use causal" in one_line(*call("predict", student, "--level", "recording", "--camera", "0")[::2], 2)
    with pytest.raises(SettingsError, match="one of raw, causal, recording"):
        predict.predict_video(student, clip, level="later")
    with pytest.raises(TypeError, match="level, people, postprocess, precision, not overlay"):
        predict.predict_video(student, clip, overlay=True)
    assert not (tmp_path / "out").exists()
