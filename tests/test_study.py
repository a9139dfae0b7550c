"""study/: comparisons, tables, aims, the figure, and the pages in docs/."""
import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import study.tables
from study.methods import AIMS, METHODS, SETTINGS
from study.results import GATE, RESULTS, RUN, Results, gate_file, merge, read_results, take_in
from study.tables import aims_table, gate_table, harm_table, hearing_table, main_table, renew_tables, report, runs_table
from support.errors import UserError

MUCH = ("much", 12)


def rows(values, method, case=MUCH, target="arousal", more=0.0):
    """Rows of results for raw CCCs (draws, seeds, subjects); centred ones are higher by `more`."""
    return [[case[0], case[1], draw, method, seed, target, f"person_{subject}", value, value, value + more, 10.0, "cpu",
             "abc"] for draw, seeds in enumerate(values) for seed, row in enumerate(seeds)
            for subject, value in enumerate(row)]


def table_of(case=MUCH, more=0.0, **methods):
    """A table of results in which both targets have the same values."""
    return pd.DataFrame([row for target in ("arousal", "valence") for method, values in methods.items()
                         for row in rows(values, method, case, target, more)], columns=RESULTS.columns)


def results_of(*tables, settings=SETTINGS):
    return Results(pd.concat(tables), settings)


VISUAL = np.random.default_rng(0).uniform(0, 0.5, (2, 2, 6))


# ---- comparisons ----------------------------------------------------------------------------------------------------

def test_differences_are_paired_by_draw_seed_and_subject():
    table = table_of(visual=VISUAL, student=VISUAL + 0.1)
    shuffled = results_of(table.sample(frac=1, random_state=0))
    assert shuffled.paired(MUCH, ("student", "visual")) == pytest.approx((0.1, 0.1, 0.1))
    fewer = table[~((table.method == "student") & (table.draw == 1) & (table.seed == 1))]  # a run that is not there yet
    assert results_of(fewer).paired(MUCH, ("student", "visual"), "valence") == pytest.approx((0.1, 0.1, 0.1))
    assert results_of(table).paired(MUCH, ("student", "control")) is None
    assert results_of(table).paired(("much", 30), ("student", "visual")) is None


def test_runs_of_other_draws_are_not_compared():
    table = table_of(visual=VISUAL, student=VISUAL + 0.1)
    table = table[((table.method == "student") & (table.draw == 0)) | ((table.method == "visual") & (table.draw == 1))]
    assert results_of(table).paired(MUCH, ("student", "visual")) is None


def test_the_mean_of_both_targets_is_taken_run_by_run_and_subject_by_subject():
    table = table_of(visual=[[[0.1, 0.3]]])
    table.loc[table.target == "valence", "raw"] = [0.3, 0.2]
    assert results_of(table).matrix(MUCH, "visual", "both").to_numpy().tolist() == [[0.2, 0.25]]
    alone = results_of(table[table.target == "arousal"])
    assert not alone.matrix(MUCH, "visual", "both").size


def test_a_level_of_one_method_can_be_compared_with_another_level_of_the_other():
    results = results_of(table_of(visual_ensemble=VISUAL, student=VISUAL + 0.1, more=0.04))
    assert results.paired(MUCH, ("student", "visual_ensemble"), "both", "centred")[0] == pytest.approx(0.1)
    across = results.paired(MUCH, ("student", "visual_ensemble"), "both", ("raw", "centred"))
    assert across[0] == pytest.approx(0.06)


def test_a_share_is_of_the_difference_from_the_same_baseline():
    results = results_of(table_of(visual_ensemble=VISUAL, student=VISUAL + 0.06, oracle=VISUAL + 0.1))
    assert results.paired(MUCH, ("student", "visual_ensemble"), of="oracle") == pytest.approx((0.6, 0.6, 0.6))


# ---- files ----------------------------------------------------------------------------------------------------------

def test_rows_that_are_merged_replace_their_own_alone_and_the_order_is_that_of_the_study(tmp_path):
    file = tmp_path / "results.csv"
    table = table_of(student=VISUAL, visual=VISUAL)
    merge(table.sample(frac=1, random_state=1), file)
    changed = table[table.method == "student"].assign(raw=0.9)
    merged = merge(changed, file)
    assert len(merged) == len(table) and (merged[merged.method == "student"].raw == 0.9).all()
    assert (merged[merged.method == "visual"].raw != 0.9).all()
    assert merged.method[0] == "visual" and list(merged.recording[:6]) == [f"person_{k}" for k in range(6)]
    pd.testing.assert_frame_equal(read_results(file), merged)
    fewer = table[(table.method == "visual") & (table.recording == "person_1")]
    assert set(merge(fewer, file).query("method == 'visual'").recording) == {"person_1"}  # other subjects' are gone


def test_runs_of_others_are_taken_in_where_they_are_new_or_the_own_ones_are_outdated(tmp_path):
    file, table = tmp_path / "results.csv", table_of(visual=VISUAL, student=VISUAL)
    merge(table[table.draw == 0].assign(settings="old"), file)
    others = table.assign(raw=0.9)
    others.loc[others.method == "student", "settings"] = "older"
    others.to_csv(tmp_path / "results.other.csv", index=False)
    take_in(file, dict.fromkeys(table[RUN].itertuples(index=False, name=None), "abc"))
    assert read_results(file).groupby(["draw", "method"]).raw.mean().round(2).to_dict() == {
        (0, "visual"): 0.9, (0, "student"): round(VISUAL[0].mean(), 2), (1, "visual"): 0.9, (1, "student"): 0.9}


@pytest.mark.parametrize("cell, word", [("much", "loud"), ("visual", "recipe"), ("12", "x"), ("0.1", "")])
def test_a_cell_that_the_study_cannot_have_written_is_named_with_its_line(tmp_path, cell, word):
    file = tmp_path / "results.csv"
    merge(table_of(visual=[[[0.1, 0.1]]]), file)
    lines = file.read_text().splitlines()
    lines[2] = lines[2].replace(cell, word, 1)
    file.write_text("\n".join([*lines, ""]))
    with pytest.raises(UserError, match="results.csv line 3"):
        read_results(file)


# ---- tables ---------------------------------------------------------------------------------------------------------

def cells_of(table, start):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
            if line.startswith(f"| {start}")]


def test_the_main_table_has_a_row_for_every_case_and_one_where_none_is_unlabelled():
    flat = np.full((2, 2, 6), 0.3)
    methods = dict(visual=flat, visual_ensemble=flat + 0.05, self_training=flat + 0.1, student=flat + 0.16,
                   oracle=flat + 0.2)
    recola = dict(visual=flat, student_rated=flat + 0.02)
    text = main_table(results_of(table_of(**methods), table_of(("much", 30), **methods),
                                 table_of(("recola", 9), **recola)))
    gain = "+0.160 (+0.160 to +0.160)"
    assert cells_of(text, "`much`, 12 + 48") == [
        ["`much`, 12 + 48", "2 x 2", "0.300", "0.350", "0.400", "0.460", "0.500", gain,
         *["+0.060 (+0.060 to +0.060)"] * 2]]
    assert len(cells_of(text, "`much`, 30 + 48")) == 1
    assert cells_of(text, "`recola`, 9 + 0") == [
        ["`recola`, 9 + 0", "2 x 2", "0.300", "", "", "0.320", "", "+0.020 (+0.020 to +0.020)", "", ""]]


def test_the_harm_of_anothers_voice_is_told_where_there_is_a_control():
    flat = np.full((2, 2, 6), 0.3)
    text = harm_table(results_of(table_of(visual=flat, self_training=flat + 0.1, control=flat + 0.07,
                                          student=flat + 0.12),
                                 table_of(("nothing", 12), visual=flat, self_training=flat + 0.1)))
    less, more, own = "-0.030 (-0.030 to -0.030)", "+0.070 (+0.070 to +0.070)", "+0.050 (+0.050 to +0.050)"
    assert cells_of(text, "`") == [["`much`, 12 + 48", less, less, less, more, own, own]]


def test_the_aims_table_says_what_is_met_and_by_how_much_the_rest_is_missed():
    flat, unsure = np.full((3, 2, 6), 0.3), np.array([-0.4, 0.4, 0.3])[:, None, None]
    text = aims_table(results_of(
        table_of(visual=flat, visual_ensemble=flat, self_training=flat, student=flat + 0.09, oracle=flat + 0.2),
        table_of(("much", 9), self_training=flat, student=flat + unsure),
        table_of(("much", 6), self_training=flat, student=flat + 0.05),
        table_of(("nothing", 12), self_training=flat, student=flat - 0.005)))
    verdicts = [row[3].split(": ")[-1] for row in cells_of(text, "")[2:]]
    assert verdicts == ["met", "not significant", "not run", "missed by 0.030", "missed by 40%", "met", "not run",
                        "not run"]
    assert len(verdicts) == len(AIMS)


def test_the_gates_statistic_is_shown_in_place_of_controls():
    gate = pd.DataFrame([["much", 12, draw, method, 0, target, passed, excess + draw / 20, 0.05, 60, "abc"]
                         for method, passed, excess in (("student", 1, 0.4), ("control", 0, 0.01))
                         for target in ("arousal", "valence") for draw in range(3)], columns=GATE.columns)
    text = gate_table(results_of(table_of(visual=VISUAL), table_of(("much", 9), visual=VISUAL)),
                      pd.concat([gate, gate[gate["method"] == "student"].assign(setting="nothing")]))
    assert cells_of(text, "`") == [  # "nothing" is still in training
        ["`much`, 12 + 48", *["3 of 3, +0.450 (8.0 to 10.0)"] * 2, *["0 of 3, +0.060 (0.2 to 2.2)"] * 2]]
    assert "own voice: arousal | own voice: valence | another's voice: arousal |" in text
    text = gate_table(results_of(table_of(visual=VISUAL)), gate[gate["method"] == "student"])
    assert cells_of(text, "`")[0][3:] == ["", ""]


def test_hearings_part_is_told_by_target_and_level():
    flat = np.full((2, 2, 6), 0.3)
    table = table_of(visual=flat, self_training=flat, student=flat + 0.1, more=0.04)
    labels = table.drop_duplicates(["draw", "method", "seed", "target"]).assign(recording="labels", raw=0.6)
    labels.loc[labels.method == "student", "raw"] = 0.7
    text = hearing_table(results_of(table.assign(causal=table["raw"] * 2), labels,
                                    table_of(("much", 9), visual=flat)))
    raw, causal = "+0.100 (+0.100 to +0.100)", "+0.200 (+0.200 to +0.200)"
    assert cells_of(text, "`") == [["`much`, 12 + 48", *["0.600, 0.700"] * 2, *[raw, causal, raw] * 2, causal]]


def test_rows_of_outdated_settings_are_pointed_out():
    results = results_of(table_of(visual=VISUAL))
    assert "other settings" not in runs_table(results)
    text = runs_table(results, [("much", 12, "visual")])
    assert "visual in `much`, 12 + 48: runs of other settings than today's" in text and "| cpu | 4 | 0.0 |" in text


def test_a_report_has_every_row_at_three_levels_in_both_conventions(tmp_path):
    table = table_of(visual=VISUAL, student=VISUAL + 0.1, self_training=VISUAL, more=0.04)
    whole = table.drop_duplicates(["draw", "method", "seed", "target"]).assign(
        recording="concatenated", raw=0.7, causal=0.71, centred=0.72)
    merge(pd.concat([table, whole]), tmp_path / "results.csv")
    report(tmp_path / "results.csv", SETTINGS)
    text, mean = (tmp_path / "results.md").read_text(), VISUAL.mean()
    (row,) = [row for row in cells_of(text, "student | 2 x 2") if row[8]][:1]
    assert row[2:8] == [f"{mean + 0.1:.3f}", f"{mean + 0.1:.3f}", f"{mean + 0.14:.3f}", "0.700", "0.710", "0.720"]
    assert row[8].startswith("+0.100 (") and (tmp_path / "results.png").stat().st_size > 10_000
    assert all(f"`{name}`: {method.description}" in text for name, method in METHODS.items())


def test_a_case_that_is_still_in_training_is_left_out_and_named(tmp_path):
    part = table_of(("recola", 9), visual=VISUAL, student=VISUAL + 0.1)
    part = part[(part.method == "visual") | (part.draw == 0)]
    merge(pd.concat([table_of(visual=VISUAL, student=VISUAL + 0.1), part]), tmp_path / "results.csv")
    ours = report(tmp_path / "results.csv", SETTINGS)
    assert "| `much`, 12 + 48 | 2 x 2 |" in ours and "| `recola`, 9 + 9 | " not in ours.split("### The aims")[0]
    assert "`recola`, 9 + 9: still in training, left out above" in ours
    assert "### `recola`, 9 + 9: mean of both" in (tmp_path / "results.md").read_text()


def test_a_table_of_one_case_without_its_baseline_is_no_error(tmp_path):
    """As in the results of a shard, or of a study that has just begun."""
    merge(table_of(oracle=VISUAL), tmp_path / "results.csv")
    assert "| `much`, 12 + 48 |" in report(tmp_path / "results.csv", SETTINGS)
    assert not (tmp_path / "results.png").exists()


def test_cases_of_a_small_study_are_called_by_its_numbers():
    few = {"much": dataclasses.replace(SETTINGS["much"], unlabelled=5)}
    assert results_of(table_of(visual=VISUAL), settings=few).name_of(MUCH) == "`much`, 12 + 5"


# ---- pages ----------------------------------------------------------------------------------------------------------

DOCS = Path(study.tables.__file__).parents[1] / "docs"


@pytest.mark.skipif(not (DOCS / "results.csv").exists(), reason="the study has not been run yet")
def test_the_studys_pages_are_what_report_makes_of_its_results(tmp_path, monkeypatch):
    monkeypatch.setattr(study.tables, "plot_rated", lambda *words: None)
    shutil.copy(DOCS / "study.md", tmp_path)
    text = ""
    for file in (DOCS / name for name in ("choice.csv", "results.csv") if (DOCS / name).exists()):
        for path in (file, gate_file(file)):
            shutil.copy(path, tmp_path)
        report(tmp_path / file.name, SETTINGS)
        made = (tmp_path / file.name).with_suffix(".md").read_text()
        assert file.with_suffix(".md").read_text() == made
        text += made
    page = (DOCS / "study.md").read_text()
    assert page == (tmp_path / "study.md").read_text(), "a table of the page is not what --report makes of it"
    number = r"[+-]?\d\.\d{3}|\d+%"
    assert set(re.findall(number, page)) <= set(re.findall(number, text))
    intervals = r"[+-]?[\d.]+%? \([+-]?[\d.]+%? to [+-]?[\d.]+%?\)"
    assert set(re.findall(intervals, page)) <= set(re.findall(intervals, text))


def test_the_tables_of_a_page_are_renewed_and_nothing_else_is(tmp_path):
    row = lambda *words: f"| {' | '.join(words)} |\n"
    page = (f"# Study\n\n### much, arousal\n\n{row('visual', '0.1')}\nWords of 0.1.\n\n"
            f"### much, valence\n\n{row('visual', '0.2')}\nEnd.\n")
    (tmp_path / "study.md").write_text(page)
    table = row("visual", "0.3") + row("paper", r"\1")
    renew_tables(tmp_path / "study.md", f"### much, arousal\n\n{table}\n### much, both\n\n{row('x')}")
    assert (tmp_path / "study.md").read_text() == page.replace(row("visual", "0.1"), table)
