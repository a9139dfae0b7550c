"""study/: methods, intervals, tables, and the pages in docs/."""
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import experiment
import study.results
from study.methods import AUDIO_ONLY, BESIDE_VISUAL, CONTROLS, DESCRIPTIONS, METHODS, OLD, SETTINGS
from study.results import (
    COLUMNS,
    aims_table,
    choice_table,
    interval,
    matrix,
    paired,
    question_tables,
    renew_tables,
    report,
    share,
    share_lines,
    summary,
    tables_of,
)


def once(function):
    """The function, which computes nothing twice: report() asks for the same differences in many places."""
    known = {}

    def look_up(results, *words):
        key = id(results), *words
        if key not in known:
            known[key] = results, function(results, *words)  # results are kept: their id stays theirs
        return known[key][1]
    return look_up


def compute_once(patch):
    """Saves reports of results the most of their time."""
    for name in ("matrix", "paired"):
        patch.setattr(study.results, name, once(getattr(study.results, name)))


@pytest.fixture(autouse=True)
def computed_once(monkeypatch):
    compute_once(monkeypatch)


def test_methods_that_only_deleted_code_can_train_are_described_and_not_run():
    assert not set(OLD) & set(METHODS) and all("study-1" in DESCRIPTIONS[name] for name in OLD)


def rows(values, method, setting="much", target="arousal"):
    """Rows of results for CCCs (seeds, subjects)."""
    return [[setting, method, seed, target, f"person_{subject}", value, 10.0]
            for seed, row in enumerate(values) for subject, value in enumerate(row)]


def results_of(**methods):
    return pd.DataFrame([row for method, values in methods.items() for row in rows(values, method)], columns=COLUMNS)


def test_the_interval_is_that_of_a_bootstrap_written_out_with_loops():
    differences = np.random.default_rng(1).normal(0.05, 0.1, (5, 24)) + np.random.default_rng(2).normal(0, 0.1, 24)
    draw, means = np.random.default_rng(3), []
    for _ in range(4000):
        seeds, subjects = draw.integers(0, 5, 5), draw.integers(0, 24, 24)
        means.append(np.mean([differences[s, p] for s in seeds for p in subjects]))
    mean, low, high = interval(differences)
    assert mean == pytest.approx(differences.mean())
    assert [low, high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.004)


def test_equal_differences_have_an_interval_of_width_0():
    mean, low, high = interval(np.full((3, 8), 0.07))
    assert (mean, low, high) == pytest.approx((0.07, 0.07, 0.07))


def test_differences_are_paired_by_subject_and_seed():
    visual = np.random.default_rng(0).uniform(0, 1, (3, 6))
    results = results_of(visual=visual, recipe=visual + 0.1)
    assert paired(results.sample(frac=1, random_state=0), "much", "recipe", "arousal") == pytest.approx((0.1, 0.1, 0.1))
    fewer = results[~((results.method == "recipe") & (results.seed == 2))]  # a run that is not there yet
    assert paired(fewer, "much", "recipe", "arousal") == pytest.approx((0.1, 0.1, 0.1))
    assert paired(results, "much", "ccc", "arousal") is None


def test_a_share_of_a_gap_is_the_gain_over_the_baseline_divided_by_it():
    results = results_of(visual=[[0.2, 0.4]], oracle=[[0.6, 0.8]], recipe=[[0.4, 0.8]], teacher=[[0.31, 0.3]])
    of_oracle = share(results, "much", "recipe", "arousal", "oracle")
    assert of_oracle == pytest.approx((0.75, 0.5, 1.0))  # of each subject alone: half, and all
    assert share(results, "much", "recipe", "arousal", "teacher") == "no gap"
    assert share(results, "much", "recipe", "arousal", "audio") is None
    fewer = results_of(visual=[[0.2, 0.2], [0.0, 0.0]], oracle=[[0.6, 0.6], [0.6, 0.6]], recipe=[[0.4, 0.4]])
    of_common_seed = share(fewer, "much", "recipe", "arousal", "oracle")
    assert of_common_seed == pytest.approx((0.5, 0.5, 0.5))
    unsure = results_of(visual=[[0.2, 0.4]], teacher=[[0.9, 0.3]], recipe=[[0.4, 0.4]])  # better by chance
    assert share(unsure, "much", "recipe", "arousal", "teacher") == "no gap"
    assert share_lines(results, ["recipe"]) == ["much, recipe: 75% (50% to 100%) of the oracle's gain on arousal"]


def test_the_table_has_a_row_for_every_method_and_target_that_was_run():
    both = pd.concat([results_of(visual=[[0.1, 0.3]], recipe=[[0.5, 0.5]]),
                      results_of(visual=[[0.1, 0.2]]).assign(target="valence")])
    whole = both.drop_duplicates(COLUMNS[:4]).assign(recording="concatenated", ccc=0.9)
    text = tables_of(pd.concat([both, whole]), "much")
    assert text.count("\n| visual | ") == 3 and text.count("\n| recipe | ") == 1 and "2 subjects reported" in text
    assert "| recipe | 0.500 | 1 |  | 0.900 | +0.300 | +0.200 to +0.400 |  |  | 10 |" in text


def test_the_mean_of_both_targets_is_taken_subject_by_subject():
    results = pd.concat([results_of(visual=[[0.1, 0.3]], recipe=[[0.5, 0.5]]),
                         results_of(visual=[[0.1, 0.2]], recipe=[[0.3, 0.2]]).assign(target="valence")])
    assert matrix(results, "much", "recipe", "both").to_numpy().tolist() == [[0.4, 0.35]]
    assert paired(results, "much", "recipe", "both")[0] == pytest.approx(0.2)


def test_a_method_that_shares_no_seed_with_the_baseline_has_a_row_and_no_picture(tmp_path):
    """As in the results of a shard."""
    results = pd.concat([each.assign(target=target) for target in ("arousal", "valence") for each in (
        results_of(visual=[[0.1, 0.2]]), results_of(oracle=[[0.3, 0.3]], recipe=[[0.2, 0.2]]).assign(seed=1))])
    text = report(results, tmp_path / "results.csv")
    assert text.count("\n| oracle | 0.300 |") == 3 and not (tmp_path / "results_much.png").exists()


def test_the_summary_has_the_recipe_and_the_controls_and_no_method_that_looked_best():
    visual = np.full((2, 3), 0.4)
    both = pd.concat([results_of(
        visual=visual, recipe=visual + 0.1, ccc=visual + 0.3, control_voices_other=visual, self_training=visual + 0.05,
        control_other_voice=visual + 0.05).assign(target=target) for target in ("arousal", "valence")])
    lines = [line for line in summary(both).splitlines() if line.startswith("much, ")]
    gains = [("recipe", 0.1), ("self_training", 0.05), ("control_voices_other", 0),  # over visual
             ("recipe", 0.05), ("control_other_voice", 0)]  # over self_training
    assert lines == [f"much, {method}: " + ", ".join(
        f"{target} {gain:+.3f} ({gain:+.3f} to {gain:+.3f})" for target in ("arousal", "valence", "both"))
        for method, gain in gains]


def test_a_question_has_a_row_for_every_comparison_that_was_run():
    visual = np.full((2, 3), 0.4)
    both = pd.concat([results_of(visual=visual, recipe=visual + 0.1, self_training=visual + 0.05).assign(target=target)
                      for target in ("arousal", "valence")])
    text = question_tables(both)
    assert "| recipe | +0.050 (+0.050 to +0.050) |" in text and text.count("| recipe | ") == 3 and "paper" not in text


def test_every_control_is_compared_with_what_it_must_not_gain_over():
    assert set(CONTROLS) <= {*AUDIO_ONLY, *BESIDE_VISUAL} and not set(AUDIO_ONLY) & set(BESIDE_VISUAL)


def test_the_studys_pages_are_what_report_makes_of_its_results(tmp_path, monkeypatch):
    monkeypatch.setattr(study.results, "plot_gains", lambda *words: None)  # test_experiment.py draws these
    docs, text = Path(experiment.__file__).with_name("docs"), ""
    shutil.copy(docs / "study.md", tmp_path)
    for name in ("results", "choice"):
        shutil.copy(docs / f"{name}.csv", tmp_path)
        report(pd.read_csv(tmp_path / f"{name}.csv"), tmp_path / f"{name}.csv")
        assert (docs / f"{name}.md").read_text() == (tmp_path / f"{name}.md").read_text()
        text += (tmp_path / f"{name}.md").read_text()
    page = (docs / "study.md").read_text()
    assert page == (tmp_path / "study.md").read_text(), "a table of the page is not what --report makes of it"
    headings = re.findall(r"^### .+$", page, re.MULTILINE)
    assert len(headings) == 7 and set(headings) <= set(text.splitlines())
    number = r"[+-]?\d\.\d{3}|\d+%"
    assert set(re.findall(number, page)) <= set(re.findall(number, text))
    text = re.sub(r"\| (\S+) \| (\S+ to \S+) \|", r"\1 (\2)", text)  # of a table, where they are in cells of their own
    intervals = r"[+-]?[\d.]+%? \([+-]?[\d.]+%? to [+-]?[\d.]+%?\)"
    assert set(re.findall(intervals, page)) <= set(re.findall(intervals, text))
    for name, setting in SETTINGS.items():
        counts = f"{setting.rated} | {setting.unlabelled} | {setting.reported}"
        assert f"| {name} | {counts} | {setting.description} |\n" in page
    quoted = [line for line in docs.with_name("README.md").read_text().splitlines()
              if line.startswith(tuple(f"{setting}, " for setting in SETTINGS))]
    assert set(quoted) <= set(text.splitlines())


def test_the_aims_table_says_what_is_met_and_by_how_much_the_rest_is_missed():
    visual = np.full((2, 4), 0.3)
    for_arousal = results_of(visual=visual, oracle=visual + 0.2, teacher=visual + 0.3, recipe=visual + 0.09)
    unsure = np.array([[0.1, -0.1, 0.2, -0.05]] * 2)
    for_valence = results_of(visual=visual, oracle=visual + 0.2, teacher=visual - 0.1, recipe=visual + unsure)
    for_valence = for_valence.assign(target="valence")
    lines = aims_table(pd.concat([for_arousal, for_valence])).splitlines()
    assert [line.split(" | ")[-1] for line in lines[4:]] == [
        "+0.090: met |", "+0.038: not significant |", "+0.064: met |",
        "45%: missed by 15% |", "19%: missed by 11% |", "30%: missed by 3% |"]


def test_a_method_is_chosen_by_its_mean_over_targets_and_settings():
    each = [results_of(visual=[[0.1, 0.3]], recipe_off=[[0.5, 0.5]], recipe=[[0.3, 0.4]]),
            results_of(visual=[[0.1, 0.3]], recipe=[[0.5, 0.6]]).assign(setting="little")]
    both = pd.concat([one.assign(target=target, ccc=one.ccc + more)
                      for one in each for target, more in (("arousal", 0), ("valence", 0.1))])
    lines = choice_table(both).splitlines()
    assert len(lines) == 6 and not any("recipe_off" in line for line in lines)  # it was not run in both settings
    assert lines[4].startswith("| visual | 0.250 | 0.250 | 0.250 |")
    assert lines[5].startswith("| recipe | 0.400 | 0.600 | 0.500 |")


def test_the_tables_of_a_page_are_renewed_and_nothing_else_is(tmp_path):
    row = lambda *words: f"| {' | '.join(words)} |\n"
    page = (f"# Study\n\n### much, arousal\n\n{row('visual', '0.1')}\nWords of 0.1.\n\n"
            f"### much, valence\n\n{row('visual', '0.2')}\nEnd.\n")
    (tmp_path / "study.md").write_text(page)
    table = row("visual", "0.3") + row("paper", r"\1")
    renew_tables(tmp_path / "study.md", f"### much, arousal\n\n{table}\n### much, both\n\n{row('x')}")
    assert (tmp_path / "study.md").read_text() == page.replace(row("visual", "0.1"), table)
