"""report.py: what its page says, and that it is one safe file. test_report_browser.py looks at it."""
import json
import platform
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import copied, one_line, own
from test_plot_ccc import tables, write_run, write_runs, write_seeds
from test_postprocessing import noisy

import plot_ccc
import report
from figures import BUCKETS, shown_times, thinned
from report_page import charts, recordings
from report_page.tables import Table, command_of, gain_over, nearer, seeds_table
from runs import settings_of
from seeds import methods_of
from support.settings import parse_config, read_settings

HOSTILE = "<script>alert(1)<b>'\"&"
QUICK = ("--max-window-s", "1", "--max-delay-s", "0")


def page_of(data, *flags):
    """The page of a data folder as text."""
    return report.main(["--data-dir", str(data), *QUICK, *flags]).read_text()


class Tables(HTMLParser):
    """The tables of a page, {caption: [rows of texts]}."""
    def __init__(self, page):
        super().__init__()
        self.found, self.into = {}, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "caption":
            self.into = self.caption = []
        elif tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.into = []
            self.rows[-1].append(self.into)

    def handle_endtag(self, tag):
        if tag == "table":
            self.found["".join(self.caption)] = [["".join(cell) for cell in row] for row in self.rows]
        elif tag in ("caption", "th", "td"):
            self.into = None

    def handle_data(self, text):
        if self.into is not None:
            self.into.append(text)


def table_in(page, words):
    """The rows of the table whose caption has these words."""
    return next(rows for caption, rows in Tables(page).found.items() if words in caption)


@pytest.fixture
def data(tmp_path):
    """A visual, a teacher's and a student's run for arousal, without logs, faces and config.json."""
    return write_runs(tmp_path)


@pytest.fixture(scope="session")
def demo(pseudo_corpus, tmp_path_factory):
    """(data folder, page) of runs by mmpkd.py with everything that belongs to them. Read only."""
    folder = copied(pseudo_corpus, tmp_path_factory.mktemp("report") / "data")
    return folder, page_of(folder)


# ---- what it says ---------------------------------------------------------------------------------------------------

def test_the_tables_hold_the_values_of_plot_ccc(data):
    page, (table, _) = page_of(data), tables(data, 25, 0)
    values = table.set_index(["run", "recording"])
    head, *rows = table_in(page, "CCC of arousal on Val_Set")
    assert [row[0] for row in rows] == ["visual_arousal", "teacher_arousal", "student_arousal_cosine"]
    for row in rows:
        expected = [values.loc[(row[0], part), f"ccc_{kind}"] for part in ("mean", "concatenated")
                    for kind in ("raw", "postprocessed")]
        assert [float(cell) for cell in row[1:5]] == pytest.approx(expected, abs=6e-4)
    each = table_in(page, "every recording of Val_Set")
    assert [row[0] for row in each[1:]] == ["dev_1", "dev_2", "dev_10"]
    assert float(each[2][2]) == pytest.approx(values.loc[("visual_arousal", "dev_2"), "ccc_raw"], abs=6e-4)


def test_the_page_begins_with_the_answer(data):
    table, _ = tables(data, 25, 0)
    means = table[table["recording"] == "mean"].set_index("run")["ccc_raw"]
    answers = re.findall(r'<p class="answer">(.*?)</p>', page_of(data))
    assert f"the student (face only) reaches a mean CCC of {means['student_arousal_cosine']:.2f}" in answers[0]
    assert f"visual baseline (face only) {means['visual_arousal']:.2f}" in answers[0]
    assert f"teacher (face and voice) {means['teacher_arousal']:.2f}" in answers[0] and "3 recordings" in answers[0]
    assert "(raw predictions)" in answers[0]
    share = ((means["student_arousal_cosine"] - means["visual_arousal"])
             / (means["teacher_arousal"] - means["visual_arousal"]))
    assert f"closes {share:.0%} of the gap" in answers[0]
    row = table_in(page_of(data), "CCC of arousal on Val_Set")[3]
    assert (row[1], row[5]) == (f"{means['student_arousal_cosine']:.3f}", f"{share:.0%}")
    assert "One seed and 3 recordings are an illustration" in answers[1]


def test_a_student_below_the_baseline_is_said_to_be_so(tmp_path):
    for run, noise in {"visual_arousal": 0.1, "teacher_arousal": 0.02, "student_arousal_cosine": 0.3}.items():
        write_run(tmp_path, run, lambda gold, noise=noise: noisy(gold, 0, noise))
    page = page_of(tmp_path)
    assert "The student is below the baseline." in page and "closes -" not in page


def test_worst_median_and_best_are_those_of_the_student(data):
    table, _ = tables(data, 25, 0)
    rows = table[(table["run"] == "student_arousal_cosine") & ~table["recording"].isin(["mean", "concatenated"])]
    order = rows.sort_values("ccc_postprocessed")["recording"].tolist()
    page = page_of(data)
    for name, word in zip(order, ("worst", "median", "best")):
        assert f"<h3>{name}: {word} on arousal</h3>" in page


def test_a_run_without_settings_log_faces_and_checkpoint_is_shown_and_said_to_lack_them(data):
    page = page_of(data)
    assert "# visual_arousal: config.json is missing" in page and "not recorded" in page
    assert 'id="training"' not in page and 'class="chart faces"' not in page


def test_training_teachers_settings_and_versions_of_real_runs_are_on_the_page(demo):
    folder, page = demo
    report_of = json.loads((folder / "runs" / "student_both_pseudo" / "labels" / "teachers.json").read_text())
    rows = table_in(page, "weights of the teacher ensembles")
    assert [row[0] for row in rows[1:]] == ["arousal", "valence"]
    place = rows[0].index("weight of visual")
    assert rows[1][place] == f"{report_of['arousal']['weights']['visual']:.0%}"
    assert len(table_in(page, "Every epoch")) == 1 + 2 * len(table_in(page, "Training of each run")[1:])
    assert ["pseudo" in row for row in table_in(page, "Settings of the runs") if row[0] == "distill"] == [True]
    assert {"audio_both_fold1of2", "student_both_pseudo"} <= {row[0] for row in table_in(page, "Seeds, recordings")}
    assert page.count("data:image/jpeg;base64,") >= 3


def test_the_command_of_a_run_gives_its_settings(demo):
    folder, page = demo
    for name in ("student_both_pseudo", "visual_both_fold2of2", "teacher_both"):
        settings = read_settings(folder / "runs" / name / "config.json")
        command = command_of(settings)
        assert command.replace("'", "&#39;") in page
        words = [word.strip("'") for word in command.split()[2:]]
        again = parse_config(words, "mmpkd.py", "")
        expected = parse_config(["--config", str(folder / "runs" / name / "config.json")], "mmpkd.py", "")
        assert settings_of(again) == settings_of(expected)
        assert (again.epochs, Path(again.data_dir).resolve()) == (expected.epochs, Path(expected.data_dir).resolve())
    assert page.index("--stage student") > page.rindex("--stage visual")  # after what it needs


def test_paths_on_the_page_are_relative_to_the_current_folder_where_that_is_shorter(tmp_path, monkeypatch):
    home = tmp_path / "home" / "anna"
    write_run(home / "data", "visual_arousal", noisy, stage="visual", data_dir=str(home / "data"),
              visual_weights=str(home / "vgg.t7"), visual_backbone="vgg19_bn")
    (home / "mmpkd").mkdir()
    monkeypatch.chdir(home / "mmpkd")
    page = page_of(home / "data")
    assert "anna" not in page and "--data-dir ../data" in page and "--visual-weights ../vgg.t7" in page
    assert ["visual_weights", "../vgg.t7"] in table_in(page, "Settings of the runs")
    assert nearer("/a") == "/a" and nearer("a/b") == "a/b"


def test_settings_that_differ_are_named_and_others_are_not(tmp_path):
    write_run(tmp_path, "visual_arousal", noisy, stage="visual", learning_rate=1e-3, seed=0)
    write_run(tmp_path, "teacher_arousal", noisy, stage="teacher", learning_rate=3e-4, seed=0, audio_lr_scale=0.5)
    assert table_in(page_of(tmp_path), "Settings that differ")[1:] == [["learning_rate", "0.001", "0.0003"]]


# ---- several seeds --------------------------------------------------------------------------------------------------

@pytest.fixture
def seeds(tmp_path):
    return write_seeds(tmp_path)


def test_the_gain_over_several_seeds_is_the_difference_of_means_with_an_interval_around_it(seeds, capsys):
    runs, *_ = plot_ccc.read_runs(seeds / "runs", 25)
    table, _ = tables(seeds, 25, 0)
    visual, student, other = methods_of(runs)
    mean, low, high = gain_over(student, visual, table)
    of = table[table["recording"] == "mean"].set_index("run")["ccc_raw"]
    expected = np.mean([of["student_arousal_cosine" + word] - of["visual_arousal" + word] for word in ("", "_again")])
    assert low < mean < high and mean == pytest.approx(expected, abs=1e-5)
    assert gain_over(other, visual, table) is None  # one seed: no interval
    assert seeds_table([other], table, "arousal") is None
    rows = table_in(page_of(seeds), "Several seeds")
    assert rows[2][:2] == ["student_arousal_cosine", "2"] and rows[2][4] == f"{mean:+.3f}"
    page = page_of(seeds)
    assert "illustration" not in page and ": 5 runs, " in capsys.readouterr().out
    row = next(row for row in table_in(page, "CCC of arousal on Val_Set") if row[0] == "visual_arousal+mean")
    assert float(row[1]) == pytest.approx(of["visual_arousal+mean"], abs=6e-4) and row[-1] == "mean of 2: face only"
    assert "visual_arousal+mean: the mean of the predictions of visual_arousal, visual_arousal_again; no" in page
    assert not any("mean" in cell for row in table_in(page, "Seeds, recordings and dates") for cell in row)


# ---- traces ---------------------------------------------------------------------------------------------------------

def test_thinning_keeps_every_peak_and_the_order_of_time():
    series = np.random.default_rng(0).normal(0, 0.1, 50_000)
    series[[31_234, 44_000]] = 5, -7
    kept, times = thinned(series), shown_times(np.arange(50_000) / 25)
    assert len(kept) == len(times) <= 2 * BUCKETS and (np.diff(times) > 0).all()
    assert times[kept.argmax()] == pytest.approx(31_234 / 25, abs=50_000 / BUCKETS / 25)
    assert kept.max() == 5 and kept.min() == -7


def test_short_series_are_not_thinned_and_gaps_stay_gaps():
    series = np.arange(2.0 * BUCKETS)
    assert thinned(series).tolist() == series.tolist() == shown_times(series).tolist()
    gap = np.full(9 * BUCKETS, np.nan)
    gap[:100] = 1
    assert np.nanmin(thinned(gap)) == 1 and np.isnan(thinned(gap)[-1]) and not np.isnan(thinned(gap)[0])


def test_many_recordings_leave_traces_out_and_the_page_says_which(data, monkeypatch):
    monkeypatch.setattr(recordings, "ROOM", 12_000)
    page = page_of(data)
    assert "Traces of 2 of 3 recordings are left out" in page
    assert page.count("<figure data-trace=") == 1 and len(table_in(page, "every recording of Val_Set")) == 4


def test_a_page_of_many_long_recordings_stays_below_five_megabytes(tmp_path, monkeypatch):
    long = {f"dev_{number}": np.random.default_rng(number).uniform(-1, 1, 7500) for number in range(60)}
    table = {name: pd.DataFrame({"time_s": np.arange(7500) / 25, "arousal_gold": each, "arousal_pred": each[::-1]})
             for name, each in long.items()}
    runs = [plot_ccc.Run(f"{stage}_arousal", {}, table, {}) for stage in ("visual", "teacher", "student")]
    ccc = pd.DataFrame([{"target": "arousal", "run": run.name, "recording": name, "frames": 7500, "ccc_raw": 0.0,
                         "ccc_postprocessed": number / 60} for run in runs for number, name in enumerate(long)])
    shown, data = recordings.traces(runs, {run.name: table for run in runs}, ccc, tmp_path, 25)
    assert len(json.dumps(data)) < 2.6e6 and 3 < len(data) < 60
    assert [part["name"] for part in shown["open"]] == ["dev_0", "dev_30", "dev_59"]
    assert f"Traces of {60 - len(data)} of 60 recordings are left out" in shown["notes"][-1]


def test_faces_stand_at_their_times_and_missing_ones_are_left_out(tmp_path):
    for k in range(0, 50):
        cv2.imwrite(str(tmp_path / f"{k:06d}.jpg"), np.full((32, 32, 3), 4 * k, np.uint8))
    found = charts.faces(tmp_path, 100, 25)
    assert len(found) == charts.FACES // 2 and all(one["t"] < 2 for one in found)
    assert charts.faces(tmp_path / "nowhere", 100, 25) == []


# ---- one safe file --------------------------------------------------------------------------------------------------

def hostile(data):
    """The same data with a recording and a setting whose texts are HTML."""
    for run in (data / "runs").iterdir():
        path = run / "predictions" / "val" / "dev_2.csv"
        path.rename(path.with_name(f"{HOSTILE}.csv"))
        (run / "config.json").write_text(json.dumps({"stage": "visual", "visual_weights": HOSTILE, "seed": 1}))
    return data


def test_ids_and_settings_are_text_and_never_markup(data):
    page = page_of(hostile(data))
    assert "alert(1)" in page and "<script>alert" not in page and "<b>" not in page
    assert HOSTILE in [row[0] for row in table_in(page, "every recording of Val_Set")]


def test_the_page_names_no_file_and_no_address_to_load(demo):
    _, page = demo
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "default-src 'none'" in markup
    assert all(target.startswith("#") for target in re.findall(r'(?:src|href)="(.*?)"', markup))
    assert "url(" not in markup and "@import" not in markup


def test_the_same_runs_give_the_same_page(data):
    assert page_of(data) == page_of(data)


@pytest.mark.parametrize("rows,numeric", [([["a", "0.5", "x"], ["b", "-", "1"]], [1]),
                                          ([["a", "12 s", "+1%"]], [1, 2])])
def test_columns_of_numbers_stand_at_the_right(rows, numeric):
    assert Table("", ["", "", ""], rows).numeric == numeric


# ---- bad input ------------------------------------------------------------------------------------------------------

def test_a_folder_without_runs_is_one_line(call, tmp_path):
    code, _, err = call("report", "--data-dir", tmp_path)
    assert "run mmpkd.py first" in one_line(code, err)


def test_damaged_teachers_json_and_damaged_faces_are_named_in_one_line(call, pseudo):
    labels = pseudo / "runs" / "student_both_pseudo" / "labels"
    for text in ("{", '{"arousal": 3}', '{"arousal": {"weights": 5}}'):
        (labels / "teachers.json").write_text(text)
        code, _, err = call("report", "--data-dir", pseudo, *QUICK)
        assert str(labels / "teachers.json") in one_line(code, err)
    shutil.rmtree(labels)
    own(pseudo / "Cropped_Aligned" / "dev_1" / "000001.jpg").write_bytes(b"")
    code, _, err = call("report", "--data-dir", pseudo, *QUICK)
    assert "000001.jpg is not a readable image" in one_line(code, err)
    assert not (pseudo / "plots" / "report.html").exists()


def test_a_hostile_checkpoint_and_settings_of_another_version_do_not_stop_the_page(call, pseudo):
    run = pseudo / "runs" / "visual_both"
    (run / "best.pt").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    (run / "config.json").write_text('{"old_setting": 1}')
    assert call("report", "--data-dir", pseudo, *QUICK)[0] == 0
    page = (pseudo / "plots" / "report.html").read_text()
    assert "# visual_both: config.json is missing, damaged or of another version" in page
    for text in ("[" * 100_000, '{"seed": [1]}', '{"stage": "all"}', '{"epochs": "x"}', "[]", ""):
        (run / "config.json").write_text(text)
        assert "# visual_both: config.json is missing, damaged" in page_of(pseudo)


def test_notes_that_cannot_be_read_are_said_to_be_so_where_they_would_stand(made):
    write_run(made, "visual_both", noisy, ("arousal", "valence"), stage="visual", target="both")
    shutil.rmtree(made / "Cropped_Aligned")
    page = page_of(made)
    assert "cannot be read" not in page and "n_mels" in page
    for text in ("", "[1]", "[" * 100_000):
        (made / "runs" / "visual_both" / "subjects.json").write_text(text)
        (made / "specs" / "settings.json").write_text(text)
        page = page_of(made)
        assert table_in(page, "Seeds, recordings")[1][2] == "subjects.json cannot be read"
        assert ["specs", "settings.json", "cannot be read"] in table_in(page, "Settings of the preprocessing")


def test_a_log_of_something_else_is_one_line_and_one_without_losses_has_no_chart_of_them(call, data):
    log = data / "runs" / "visual_arousal" / "log.jsonl"
    log.write_text('{"epoch": 1, "val": {"arousal": {"mean": 0.5}}}\n')
    page = page_of(data)
    assert 'data-chart="curves-arousal"' in page and 'data-chart="curves-loss"' not in page
    log.write_text('{"epoch": 1, "loss": 0.5}\n')
    code, _, err = call("report", "--data-dir", data, *QUICK)
    assert f"{log} line 1 is not what mmpkd.py writes" in one_line(code, err)


def test_versions_and_date_come_from_the_checkpoint_whatever_else_it_holds(trained):
    path = trained / "runs" / "visual_both" / "best.pt"
    state = torch.load(path, weights_only=True)
    assert f"Versions that trained all of them: python {platform.python_version()}, torch" in page_of(trained)
    for card, seen in ((state["card"] | {"versions": {"torch": "<9.8.7>"}, "date": "2031-01-02"},
                        ["2031-01-02", "torch <9.8.7>"]),
                       ({"versions": "<b>", "date": None}, ["not recorded"]), ([1], ["not recorded"])):
        torch.save(state | {"card": card}, path)
        rows = {row[0]: row for row in table_in(page_of(trained), "Seeds, recordings")}
        assert rows["visual_both"][-len(seen):] == seen
        assert rows["visual_both"][2] == "2 in Train_Set, 1 in Val_Set"
