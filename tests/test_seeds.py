"""seeds.py: runs that differ in their seed alone, and the mean of their predictions."""
import re

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from test_levels import levelled
from test_plot_ccc import plot, write_run, write_seeds
from test_postprocessing import SUBJECTS, closed_form, noisy

import plot_ccc
from figures import COLOURS, selection_note, summary_figure
from seeds import methods_of, with_means


@pytest.fixture
def data(tmp_path):
    """Two seeds of a baseline and of a student, and a student of other settings."""
    return write_seeds(tmp_path)


def runs_in(data):
    return plot_ccc.read_runs(data / "runs", 25)[0]


def write_seed(data, seed, variant, targets=("arousal",), folder="", **settings):
    """A visual run for arousal of that seed and variant."""
    name = folder or f"visual_arousal{'_' * bool(variant)}{variant}"
    return write_run(data, name, lambda gold: noisy(gold, seed, 0.15), targets, stage="visual", target="arousal",
                     seed=seed, variant=variant, **settings)


@pytest.mark.parametrize("level", ["raw", "causal", "recording"])
def test_the_ccc_of_a_mean_is_that_of_the_mean_prediction_at_every_level(level, data, capsys, no_figures):
    plot(data, "--level", level)
    table = pd.read_csv(data / "plots/ccc.csv").set_index(["run", "recording"])
    assert [*table.index.unique("run")] == [
        "visual_arousal", "visual_arousal_again", "visual_arousal+mean", "student_arousal_cosine",
        "student_arousal_cosine_again", "student_arousal_cosine+mean", "student_arousal_cosine_other"]
    for name in ("visual_arousal", "student_arousal_cosine"):
        several = [data / "runs" / f"{name}{word}" / "predictions" for word in ("", "_again")]
        trained = [pd.read_csv(path)["arousal_gold"] for path in (several[0] / "train").glob("*.csv")]
        for one in SUBJECTS["val"]:
            parts = [pd.read_csv(folder / "val" / f"{one}.csv") for folder in several]
            pred = (parts[0]["arousal_pred"] + parts[1]["arousal_pred"]).to_numpy() / 2
            pred = pred if level == "raw" else levelled(pred, level, trained)
            found = table.loc[(f"{name}+mean", one)]
            assert found["ccc_raw"] == pytest.approx(closed_form(pred, parts[0]["arousal_gold"]), abs=5e-6)
            assert found["ccc_postprocessed"] == found["ccc_raw"] != table.loc[(name, one), "ccc_raw"]
    out = capsys.readouterr().out
    assert "visual_arousal+mean: the mean of the predictions of visual_arousal, visual_arousal_again; no " in out
    assert "gap closed" not in out  # there is no teacher


def test_a_mean_has_no_post_processing_where_its_runs_have_one(data):
    for seed, variant in ((0, ""), (1, "again")):
        for number, held_out in enumerate(SUBJECTS["train"], 1):
            folder = write_seed(data, seed, variant, fold=f"{number}/2", teacher_folds=2,
                                folder=f"visual_arousal_fold{number}of2{'_' * bool(variant)}{variant}")
            (folder / "predictions/held_out").mkdir()
            (folder / f"predictions/train/{held_out}.csv").rename(folder / f"predictions/held_out/{held_out}.csv")
        write_seed(data, seed, variant, teacher_folds=2)
    runs = {run.name: run for run in with_means(runs_in(data))}
    assert runs["visual_arousal"].held_out and not runs["visual_arousal+mean"].held_out


def test_a_mean_is_only_of_runs_that_were_trained_on_the_same_ratings(data):
    path = data / "runs/visual_arousal/predictions/train/train_1.csv"
    whole = path.read_text()
    for changed in (whole.rsplit("\n", 2)[0] + "\n", re.sub("\n0,[^,]*", "\n0,0.9", whole, count=1)):
        path.write_text(changed)
        assert [run.name for run in with_means(runs_in(data)) if run.members] == ["student_arousal_cosine+mean"]
    path.rename(path.with_name("train_7.csv"))
    assert "visual_arousal+mean" not in [run.name for run in with_means(runs_in(data))]


def test_runs_of_one_seed_and_of_other_targets_are_in_no_mean(tmp_path):
    for seed, variant in ((0, "a"), (0, "b"), (1, "c"), (1, "d")):
        write_seed(tmp_path, seed, variant)
    write_seed(tmp_path, 2, "", ("arousal", "valence"), folder="visual_both")  # of a renamed folder
    assert [run.members for run in with_means(runs_in(tmp_path)) if run.members] == [
        ("visual_arousal_a", "visual_arousal_c")]


def test_means_have_names_that_no_folder_has_and_each_its_own(data):
    write_seed(data, 5, "mean", learning_rate=0.25)
    assert {"visual_arousal_mean", "visual_arousal+mean"} <= {run.name for run in with_means(runs_in(data))}
    for seed in (6, 7):
        write_seed(data, seed, f"fast{seed}", learning_rate=0.5)
    means = {run.name: run.members for run in with_means(runs_in(data)) if run.members and run.stage == "visual"}
    assert means == {"visual_arousal+mean": ("visual_arousal", "visual_arousal_again"),
                     "visual_arousal_fast6+mean": ("visual_arousal_fast6", "visual_arousal_fast7")}


def test_a_mean_is_no_bound_and_no_run_whose_epoch_was_selected(data, no_figures):
    runs = [run._replace(settings=run.settings | {"keep": "best"}) for run in with_means(runs_in(data))]
    table, *_ = plot(data).values()
    axes = summary_figure(runs, table, []).axes[0]
    lines = [line for line in axes.lines if to_hex(line.get_color()) == COLOURS["visual"].lower()]
    assert len([run for run in runs if run.stage == "visual"]) == 3 and len(lines) == 2
    assert selection_note(runs[:3] + [runs[3]._replace(settings={"keep": "last"})]).startswith(
        "The epochs of visual_arousal, visual_arousal_again were selected")


def test_runs_that_differ_in_their_seed_alone_are_one_method(data):
    assert {method.name: [*method.runs] for method in methods_of(runs_in(data))} == {
        "visual_arousal": [0, 1], "student_arousal_cosine": [0, 1], "student_arousal_cosine_other": [1]}
