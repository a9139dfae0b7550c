"""What the post-processing is fitted on: predictions for training subjects that a network was not trained on."""
import json
import shutil

import pandas as pd
import pytest
from test_plot_ccc import by_hand, plot, tables, write_fitted, write_folds, write_run
from test_postprocessing import closed_form


@pytest.fixture
def data(tmp_path):
    """Runs for arousal and those of their folds."""
    return write_fitted(tmp_path)


def negate(paths, column="arousal_pred"):
    for path in paths:
        table = pd.read_csv(path)
        table.assign(**{column: -table[column]}).to_csv(path, index=False)


def test_predictions_for_subjects_that_a_network_was_trained_on_do_not_change_the_constants(data):
    before = tables(data)[1].set_index("run")
    assert set(before["fitted_on"]) == {2}  # both training subjects, each from the run that it was held out of
    negate(data.glob("runs/*/predictions/train/*.csv"))
    assert tables(data)[1].set_index("run").equals(before)
    negate(data.glob("runs/visual*/predictions/held_out/*.csv"))
    after = tables(data)[1].set_index("run")
    assert (after["held_out_ccc_raw"] != before["held_out_ccc_raw"]).tolist() == [True, False, True]  # student: visual
    assert after.loc["teacher_arousal"].equals(before.loc["teacher_arousal"])


def test_the_held_out_predictions_of_all_folds_are_scored_together(data):
    row = tables(data, 0, 0)[1].iloc[0]
    parts = [pd.read_csv(data / f"runs/visual_arousal_fold{number}of2/predictions/held_out/train_{number}.csv")
             for number in (1, 2)]
    both = pd.concat(parts)
    assert row["held_out_ccc_raw"] == pytest.approx(closed_form(both["arousal_pred"], both["arousal_gold"]), abs=2e-6)


@pytest.mark.parametrize("case", ["one is not finished", "another setting", "a config that cannot be read", "missing"])
def test_without_the_runs_of_all_folds_there_is_no_post_processing_which_is_said(case, data, capsys, no_figures):
    fold = data / "runs/visual_arousal_fold2of2"
    if case == "missing":
        shutil.rmtree(fold)
    elif case == "one is not finished":
        shutil.rmtree(fold / "predictions")
    else:
        text = {"another setting": '{"stage": "visual", "fold": "2/2", "epochs": 99}'}.get(case, "{")
        (fold / "config.json").write_text(text)
    done = plot(data)
    table = done["ccc"].set_index("run")
    for run in ("visual_arousal", "student_arousal_cosine"):
        assert table.loc[run, "ccc_raw"].tolist() == table.loc[run, "ccc_postprocessed"].tolist()
    assert (table.loc["teacher_arousal", "ccc_raw"] != table.loc["teacher_arousal", "ccc_postprocessed"]).any()
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if "no post-processing" in line]
    assert line.startswith("visual_arousal, student_arousal_cosine: ") and out.count("not fitted") == 2
    assert done["postprocessing"].set_index("run")["held_out_ccc_raw"].isna().tolist() == [True, False, True]


def test_a_run_of_a_fold_is_fitted_on_the_subjects_held_out_of_it(tmp_path):
    write_folds(tmp_path, "visual_arousal")
    fitted = tables(tmp_path)[1]
    assert fitted["fitted_on"].tolist() == [1, 1]
    first, second = (pd.read_csv(tmp_path / f"runs/visual_arousal_fold{number}of2/predictions/held_out/"
                                            f"train_{number}.csv") for number in (1, 2))
    for row, table in zip(fitted.itertuples(), (first, second)):
        expected = closed_form(by_hand(table["arousal_pred"], row), table["arousal_gold"])
        assert row.held_out_ccc_postprocessed == pytest.approx(expected, abs=2e-6)


def test_a_variant_takes_the_folds_of_its_own_before_those_without(data):
    for path in list(data.glob("runs/visual_arousal_fold*")):
        copy = shutil.copytree(path, path.with_name(path.name + "_word"))
        settings = json.loads((path / "config.json").read_text()) | {"variant": "word"}
        (copy / "config.json").write_text(json.dumps(settings))
    negate(data.glob("runs/visual_arousal_fold*_word/predictions/held_out/*.csv"))
    write_run(data, "visual_arousal_word", stage="visual", target="arousal", teacher_folds=2, variant="word")
    write_run(data, "visual_arousal_other", stage="visual", target="arousal", teacher_folds=2, variant="other")
    fitted = tables(data)[1].set_index("run")["held_out_ccc_raw"]
    assert fitted["visual_arousal_other"] == fitted["visual_arousal"] > 0 > fitted["visual_arousal_word"]
