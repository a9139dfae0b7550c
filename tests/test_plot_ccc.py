"""plot_ccc.py: the final table, the files it writes, and its errors for runs that do not fit."""
import contextlib
import io
import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import one_line
from test_postprocessing import FRAMES, SUBJECTS, closed_form, golds_of, noisy, smooth_noise
from torchmetrics.regression import ConcordanceCorrCoef

import plot_ccc
from config import Config
from data import Recording
from figures import NOT_SELECTED
from scores import prediction_table
from support.recordings import TARGETS


def write_run(data, run, predict=noisy, targets=("arousal",), **settings):
    """A finished run as mmpkd.py writes it; predict: gold -> prediction; settings: of its config.json, if any."""
    for partition in SUBJECTS:
        golds = [golds_of(partition, TARGETS.index(target)) for target in targets]
        for name in SUBJECTS[partition]:
            gold = np.stack([each[name] for each in golds], 1).astype("float32")
            pred = np.stack([predict(column) for column in gold.T], 1)
            write_table(data, run, partition, name, gold, pred, targets)
    folder = data / "runs" / run
    if settings:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


def write_table(data, run, partition, name, gold, pred, targets=("arousal",)):
    path = data / "runs" / run / "predictions" / partition / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = prediction_table(Recording(name, gold, {}), pred, list(targets), 25)
    table.to_csv(path, index=False, float_format="%.6g", na_rep="nan", lineterminator="\n")


RUNS = {"visual_arousal": 0.15, "teacher_arousal": 0.02, "student_arousal_cosine": 0.06}  # and their noise


def write_runs(data):
    for seed, run in enumerate(RUNS):
        write_run(data, run, lambda gold, seed=seed, noise=RUNS[run]: noisy(gold, seed, noise))
    return data


def write_seeds(data):
    """Two seeds of a baseline and of a student, and a student of other settings."""
    for seed, variant in enumerate(("", "_again")):
        for stage, noise in (("visual", 0.15), ("student", 0.05)):
            write_run(data, f"{stage}_arousal" + "_cosine" * (stage == "student") + variant,
                      lambda gold, seed=seed, noise=noise: noisy(gold, seed, noise), stage=stage, target="arousal",
                      distill="cosine", seed=seed, variant=variant[1:])
    write_run(data, "student_arousal_cosine_other", noisy, stage="student", target="arousal", distill="cosine", seed=1,
              variant="other", learning_rate=0.5)
    return data


def write_folds(data, run, predict=noisy, targets=("arousal",)):
    """The runs of two folds of a run's stage: each has predictions for one of the training subjects, held out of it."""
    stage, *_ = run.split("_")
    for number, held_out in enumerate(SUBJECTS["train"], 1):
        fold = f"{stage}_{'_'.join(run.split('_')[1:])}_fold{number}of2"
        target = {1: targets[0], 2: "both"}[len(targets)]
        folder = write_run(data, fold, predict, targets, stage=stage, target=target, fold=f"{number}/2")
        (folder / "predictions/held_out").mkdir()
        (folder / f"predictions/train/{held_out}.csv").rename(folder / f"predictions/held_out/{held_out}.csv")


def write_fitted(data):
    """write_runs() with what the post-processing is fitted on: the runs of all folds."""
    write_runs(data)
    for seed, run in enumerate(RUNS):
        about = {"stage": run.split("_")[0], "target": "arousal", "teacher_folds": 2, "distill": "cosine"}
        (data / "runs" / run / "config.json").write_text(json.dumps(about))
        if not run.startswith("student"):
            write_folds(data, run, lambda gold, seed=seed, noise=RUNS[run]: noisy(gold, seed, noise))
    return data


@pytest.fixture
def data(tmp_path):
    """Data folder with a visual, a teacher's and a student's run for arousal, the student between the two, and the runs
    of two folds."""
    return write_fitted(tmp_path)


@pytest.fixture(scope="module")
def plotted(tmp_path_factory):
    """(data folder as above with its plots, what main returned, what it printed). Read only."""
    folder, printed = write_fitted(tmp_path_factory.mktemp("plotted")), io.StringIO()
    with contextlib.redirect_stdout(printed):
        return folder, plot(folder), printed.getvalue()


def plot(data, *flags):
    return plot_ccc.main(["--data-dir", str(data), "--max-window-s", "2", "--max-delay-s", "2", *flags])


def tables(data, window=51, delay_frames=50):
    """What main() returns as "ccc" and "postprocessing", without the figures."""
    cfg = Config(data_dir=str(data), max_window_s=window / 25, max_delay_s=delay_frames / 25)
    runs, constants, *_ = plot_ccc.fitted_runs(cfg)
    return plot_ccc.ccc_table(runs, constants, cfg), plot_ccc.constants_table(runs, constants, cfg)


def by_hand(pred, row):
    """Post-processing of a row of postprocessing.csv, frame by frame."""
    half = row.window_frames // 2
    means = [np.mean(pred[max(k - half, 0):k + half + 1]) for k in range(len(pred))]
    affine = [row.centre + row.scale * (value + row.bias - row.centre) for value in means]
    return np.array([affine[max(k - row.delay_frames, 0)] for k in range(len(pred))])


# ---- the table ------------------------------------------------------------------------------------------------------

def test_no_window_and_no_delay_beyond_the_limits_is_kept(data):
    fitted = tables(data, window=6, delay_frames=10)[1]
    assert set(fitted["window_frames"]) == {5} and set(fitted["delay_frames"]) == {10}
    off = tables(data, window=0, delay_frames=0)[1]
    assert set(off["window_frames"]) == {1} and set(off["delay_frames"]) == {0}


def test_the_table_has_the_recordings_then_mean_then_concatenated(tmp_path):
    write_run(tmp_path, "visual_both", targets=("arousal", "valence"))
    write_run(tmp_path, "audio_valence", targets=("valence",))
    table, _ = tables(tmp_path)
    assert list(table) == ["run", "target", "level", "recording", "frames", "ccc_raw", "ccc_postprocessed"]
    rows = ["dev_1", "dev_2", "dev_10", "mean", "concatenated"]  # dev_2 before dev_10
    assert list(table["recording"]) == rows * 3
    assert list(table[["run", "target"]].drop_duplicates().itertuples(index=False, name=None)) == [
        ("visual_both", "arousal"), ("visual_both", "valence"), ("audio_valence", "valence")]
    assert list(table["frames"]) == [FRAMES, FRAMES, FRAMES, 3 * FRAMES, 3 * FRAMES] * 3


def test_every_ccc_is_that_of_the_closed_form_and_of_torchmetrics(plotted):
    data = plotted[0]
    table = pd.read_csv(data / "plots/ccc.csv").set_index(["run", "recording"])
    for row in pd.read_csv(data / "plots/postprocessing.csv").itertuples():
        tables = [pd.read_csv(data / f"runs/{row.run}/predictions/val/{name}.csv") for name in SUBJECTS["val"]]
        golds = [each["arousal_gold"].to_numpy() for each in tables]
        raw = [each["arousal_pred"].to_numpy() for each in tables]
        for column, preds in (("ccc_raw", raw), ("ccc_postprocessed", [by_hand(pred, row) for pred in raw])):
            each = [closed_form(*pair) for pair in zip(preds, golds)]
            expected = [*each, np.mean(each), closed_form(np.concatenate(preds), np.concatenate(golds))]
            np.testing.assert_allclose(table.loc[row.run][column].to_numpy(), expected, atol=2e-6)
            library = ConcordanceCorrCoef()(*[torch.tensor(np.concatenate(parts)) for parts in (preds, golds)])
            # 2e-3: torchmetrics takes sample moments
            assert table.loc[row.run, "concatenated"][column] == pytest.approx(float(library), abs=2e-3)


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    write_run(tmp_path, "visual_arousal")
    written = []
    for _ in range(2):
        plot(tmp_path)
        written.append([path.read_bytes() for path in sorted(tmp_path.glob("plots/*.*"))])
    assert written[0] == written[1] and len(written[0]) == 3


def test_the_ratings_of_val_set_do_not_change_the_constants(data):
    table, before = tables(data)
    for path in data.glob("runs/*/predictions/val/*.csv"):
        changed = pd.read_csv(path)
        changed.assign(arousal_gold=-changed["arousal_gold"] + 0.3).to_csv(path, index=False)
    other, after = tables(data)
    assert after.equals(before)
    assert (other["ccc_postprocessed"] != table["ccc_postprocessed"]).all()


def test_frames_without_a_valid_rating_do_not_count(tmp_path):
    gold = golds_of("val")["dev_1"][:, None].astype("float32")
    write_run(tmp_path, "visual_arousal")
    pred = noisy(gold[:, 0])[:, None]
    gold[50:90], pred[50:90] = np.nan, 0.9
    write_table(tmp_path, "visual_arousal", "val", "dev_1", gold, pred)
    first, valid = tables(tmp_path, 0, 0)[0].iloc[0], ~np.isnan(gold[:, 0])
    assert first["frames"] == FRAMES - 40
    assert first["ccc_raw"] == pytest.approx(closed_form(pred[valid, 0], gold[valid, 0]), abs=1e-5)


def test_a_recording_with_one_valid_rating_is_nan_and_not_in_the_mean(tmp_path):
    write_run(tmp_path, "visual_arousal")
    gold = np.full((FRAMES, 1), np.nan, "float32")
    gold[7] = 0.1
    write_table(tmp_path, "visual_arousal", "val", "dev_1", gold, np.zeros((FRAMES, 1)))
    constant = np.full((FRAMES, 1), 0.1, "float32")
    write_table(tmp_path, "visual_arousal", "val", "dev_2", constant, smooth_noise(3)[:, None])
    table = plot(tmp_path)["ccc"].set_index("recording")
    assert table.loc["dev_2", "ccc_raw"] == pytest.approx(0, abs=1e-5)
    assert table.loc["mean", "ccc_raw"] == pytest.approx(table.loc[["dev_2", "dev_10"], "ccc_raw"].mean(), abs=2e-6)
    assert "dev_1,1,nan,nan" in (tmp_path / "plots/ccc.csv").read_text()


def test_no_valid_rating_at_all_is_shown_as_nan(tmp_path):
    write_run(tmp_path, "visual_arousal")
    for partition in SUBJECTS:
        for name in SUBJECTS[partition]:
            gold = np.full((FRAMES, 1), np.nan, "float32")
            write_table(tmp_path, "visual_arousal", partition, name, gold, smooth_noise(3)[:, None])
    done = plot(tmp_path)
    assert done["ccc"][["ccc_raw", "ccc_postprocessed"]].isna().all(axis=None)
    assert done["summary"].exists() and len(done["traces"]) == 3


# ---- what is printed, and the files ---------------------------------------------------------------------------------

def test_the_gap_that_a_student_closed_is_printed(plotted):
    _, done, printed = plotted
    table = done["ccc"].set_index(["run", "recording"])["ccc_raw"]
    visual, teacher, student = (table[run, "mean"] for run in RUNS)
    assert visual < student < teacher
    line = next(line for line in printed.splitlines() if line.startswith("gap closed by student_arousal_cosine"))
    assert line.split()[4:6] == [f"{(student - visual) / (teacher - visual):.0%}", "-"]


def test_the_variant_of_a_run_is_that_of_its_config(tmp_path, capsys, no_figures):
    write_runs(tmp_path)
    for run, bias in (("visual_arousal", 0.1), ("teacher_arousal", 0), ("student_arousal_cosine", 0.05)):
        write_run(tmp_path, f"{run}_word", lambda gold, bias=bias: gold + bias, variant="word")
    plot(tmp_path, "--max-window-s", "0", "--max-delay-s", "0")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("gap closed by")]
    assert [line.split()[3] for line in lines] == ["student_arousal_cosine", "student_arousal_cosine_word"]
    assert 0 < int(lines[1].split()[4].rstrip("%")) < 100 and lines[0].split()[4:] != lines[1].split()[4:]


@pytest.mark.parametrize("name, settings, words, absent", [
    ("student_both_pseudo", {"distill": "pseudo", "teachers": "joint+audio+visual"}, "joint, audio and", "distilled"),
    ("student_both_pseudo_word", {}, "pseudo-labels", "distilled"),
    ("student_both_cosine_original_word", {"distill": "cosine_original"}, "the teacher (cosine_original)", "pseudo"),
    ("student_both_ccc", {}, "the teacher (ccc)", "pseudo"),
    ("student_both_mean_teacher_word", {}, "the average of its own weights", "distilled"),
    ("student_both", {}, "face only", "teacher"),
    ("visual_both", {"distill": "pseudo"}, "lower bound", "pseudo")])
def test_what_taught_a_student_is_read_from_its_config_or_else_from_its_name(name, settings, words, absent):
    about = plot_ccc.Run(name, {}, {}, settings).about
    assert words in about and absent not in about


def test_the_printed_constants_are_those_of_the_file_with_a_dash_for_a_step_not_kept(tmp_path, capsys, no_figures):
    write_run(tmp_path, "visual_arousal", lambda gold: gold - 0.25, stage="visual", target="arousal", teacher_folds=2)
    write_folds(tmp_path, "visual_arousal", lambda gold: gold - 0.25)
    row = next(plot(tmp_path)["postprocessing"].itertuples())
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("visual_arousal  arousal"))
    assert line.split()[2:6] == ["-", "+0.250", "-", "-"]
    assert (row.bias, row.held_out_ccc_postprocessed) == (pytest.approx(0.25, abs=1e-5), pytest.approx(1, abs=1e-5))


def test_runs_that_keep_constants_of_other_settings_are_named(tmp_path, capsys, no_figures):
    write_run(tmp_path, "visual_arousal", smoothing="mean", max_window_s=2.0, max_delay_s=2.0)
    write_run(tmp_path, "audio_arousal", smoothing="mean", max_window_s=4.0, max_delay_s=2.0)
    plot(tmp_path)
    line = next(line for line in capsys.readouterr().out.splitlines() if "predict.py --postprocess" in line)
    assert "audio_arousal" in line and "visual_arousal" not in line
    shutil.rmtree(tmp_path / "runs/audio_arousal")
    plot(tmp_path)
    assert "predict.py" not in capsys.readouterr().out


def test_unfinished_runs_and_runs_of_folds_are_left_out_and_named(tmp_path, call, no_figures):
    write_run(tmp_path, "audio_arousal_fold1of2")
    code, out, _ = call("plot_ccc", "--data-dir", tmp_path)
    assert code == 0 and "Left out" not in out  # there are no other runs
    write_run(tmp_path, "visual_arousal")
    (tmp_path / "runs/teacher_arousal").mkdir()
    code, out, _ = call("plot_ccc", "--data-dir", tmp_path)
    assert code == 0 and "folds: 1" in out and "teacher_arousal" in out
    assert set(pd.read_csv(tmp_path / "plots/ccc.csv")["run"]) == {"visual_arousal"}


def test_it_is_said_which_epochs_were_selected_on_the_recordings_shown(tmp_path, call, no_figures):
    write_run(tmp_path, "visual_arousal", keep="last")
    folder = write_run(tmp_path, "teacher_arousal", fold="1/3") / "predictions"
    shutil.copytree(folder / "train", folder / "held_out")
    write_run(tmp_path, "audio_arousal", of_another_version=1)  # cannot be read
    assert "The epochs of audio_arousal were selected" in call("plot_ccc", "--data-dir", tmp_path)[1]
    shutil.rmtree(tmp_path / "runs/audio_arousal")
    assert NOT_SELECTED in call("plot_ccc", "--data-dir", tmp_path)[1]


def test_there_is_a_figure_for_every_run_and_recording_and_one_of_all(plotted):
    data, done, _ = plotted
    expected = {data / "plots/traces" / run / f"{name}.png" for run in RUNS for name in SUBJECTS["val"]}
    assert set(done["traces"]) == expected == set(data.glob("plots/traces/*/*.png"))
    for path in [done["summary"], *done["traces"]]:
        assert cv2.imread(str(path)).std() > 10, path


def test_another_call_leaves_no_figure_of_a_recording_that_a_run_no_longer_has(tmp_path, capsys):
    run = write_run(tmp_path, "mine")  # a name of no stage
    plot(tmp_path)
    (run / "predictions/val/dev_2.csv").unlink()
    done = plot(tmp_path)
    assert {path.stem for path in done["traces"]} == {"dev_1", "dev_10"}
    assert set(tmp_path.glob("plots/traces/*/*.png")) == set(done["traces"])
    assert "1 of recordings that are gone" in capsys.readouterr().out
    assert not list((tmp_path / "plots").glob("**/.*"))


def test_the_traces_of_another_runs_folder_are_kept(tmp_path, no_figures):
    write_run(tmp_path, "visual_arousal")
    first = plot(tmp_path)["traces"]
    (tmp_path / "others").mkdir()
    write_run(tmp_path, "audio_arousal").rename(tmp_path / "others/audio_arousal")
    second = plot(tmp_path, "--runs-dir", str(tmp_path / "others"))["traces"]
    assert set(pd.read_csv(tmp_path / "plots/ccc.csv")["run"]) == {"audio_arousal"}
    plot(tmp_path)
    assert set(tmp_path.glob("plots/traces/*/*.png")) == {*first, *second} and len(first) == len(second) == 3


# ---- bad input ------------------------------------------------------------------------------------------------------

TEACHER = "runs/teacher_arousal/predictions"


def rewrite(change):
    """Breaks dev_2 of the teacher's run: change takes and gives the text of its CSV."""
    def damage(data):
        path = data / TEACHER / "val/dev_2.csv"
        path.write_text(change(path.read_text()))
    return damage


def without(relative):
    def damage(data):
        path = data / TEACHER / relative
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return damage


def cells(text, column, value, line=5):
    """The text of a CSV with one cell changed."""
    rows = [row.split(",") for row in text.splitlines()]
    rows[line - 1][column] = value
    return "\n".join(map(",".join, rows)) + "\n"


BROKEN = {
    "empty": (rewrite(lambda text: ""), "val/dev_2.csv"),
    "header alone": (rewrite(lambda text: text.splitlines()[0] + "\n"), "val/dev_2.csv"),
    "no gold column": (rewrite(lambda text: text.replace("arousal_gold", "gold")), "val/dev_2.csv"),
    "text in a cell": (rewrite(lambda text: cells(text, 1, "high")), "'high'"),
    "cut in a row": (rewrite(lambda text: text[:text.rindex(",")]), f"val/dev_2.csv line {FRAMES + 1}"),
    "infinite": (rewrite(lambda text: cells(text, 2, "inf")), "val/dev_2.csv line 5"),
    "lost line": (rewrite(lambda text: "".join(text.splitlines(True)[:40] + text.splitlines(True)[41:])),
                  "val/dev_2.csv line 41"),
    "cut between rows": (rewrite(lambda text: "".join(text.splitlines(True)[:-9])), f"{FRAMES - 9} frames"),
    "other ratings": (rewrite(lambda text: cells(text, 1, "0.123")), "ratings of arousal"),
    "recording missing": (without("val/dev_2.csv"), "teacher_arousal/predictions/val/dev_2.csv is missing"),
    "val missing": (without("val"), "predictions/val/"),
    "train missing": (without("train"), "predictions/train/"),
    "a recording in both": (lambda data: shutil.copy(data / TEACHER / "val/dev_2.csv", data / TEACHER / "train"),
                            "dev_2 in val/ and in train/"),
    "other targets": (rewrite(lambda text: text.replace("arousal", "valence")), "predictions of valence"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_predictions_end_in_one_line_that_names_the_file_and_what_to_do(case, data, call):
    damage, message = BROKEN[case]
    damage(data)
    err = one_line(*call("plot_ccc", "--data-dir", data)[::2])
    assert message in err and "run mmpkd.py" in err and str(data / "runs") in err
    assert not (data / "plots").exists()  # said before the work starts


def test_runs_of_another_frame_rate_are_refused(data, call):
    err = one_line(*call("plot_ccc", "--data-dir", data, "--frame-rate", "30")[::2])
    assert "--frame-rate" in err and "line 3" in err


def test_without_a_finished_run_it_says_what_to_run(tmp_path, call):
    assert "run mmpkd.py" in one_line(*call("plot_ccc", "--data-dir", tmp_path)[::2])
    (tmp_path / "runs/visual_arousal").mkdir(parents=True)
    assert "visual_arousal" in one_line(*call("plot_ccc", "--data-dir", tmp_path)[::2])


def test_runs_trained_on_other_subjects_are_still_compared(data):
    without("train/train_2.csv")(data)
    assert len(tables(data)[1]) == 3
