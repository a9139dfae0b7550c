"""experiment.py: corpora and views, what is asked for, what the table says, and a study in small from end to end."""
import dataclasses
import itertools
import multiprocessing
import re
import shutil
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line

import experiment
import mmpkd
import runs
from drawn.people import Recording as Drawn
from drawn.people import World
from experiment import COLUMNS, METHODS, SETTINGS, Job
from support.errors import UserError
from support.settings import parse_config


def cfg_of(folder, *words):
    return parse_config(["--data-dir", str(folder), "--device", "cpu", *map(str, words)], "experiment.py", "")


# ---- who is rated, unlabelled, reported -----------------------------------------------------------------------------

@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("view", ["rated", "noiseless", "oracle", "other_voice", "fold1", "fold2", "fold3"])
def test_the_partitions_of_a_view_share_nobody_and_the_study_is_as_large_as_it_says(setting, view):
    parts = experiment.split(setting, view)
    everybody = list(itertools.chain(*parts.values()))
    assert len(everybody) == len(set(everybody)) and set(everybody) <= set(range(setting.people))
    assert setting.rated >= 12 and setting.reported >= 12 and (setting.unlabelled >= 48 or setting.corpus)
    if not view.startswith("fold"):
        assert len(parts["Val_Set"]) == setting.reported and len(everybody) == setting.people


def test_the_folds_hold_out_every_rated_person_once_and_nobody_that_is_reported():
    setting = SETTINGS["much"]
    held_out = [n for fold in range(1, experiment.FOLDS + 1) for n in experiment.split(setting, f"fold{fold}")["Val_Set"]]
    assert sorted(held_out) == list(range(setting.rated))


def test_only_the_voice_differs_between_settings_and_less_of_it_is_told():
    usual = SETTINGS["much"].world
    for name, told in {"little": 1 / 3, "nothing": 0}.items():
        changed = {field.name: getattr(SETTINGS[name].world, field.name) / getattr(usual, field.name) for field in dataclasses.fields(usual)
                   if getattr(SETTINGS[name].world, field.name) != getattr(usual, field.name)}
        assert set(changed) == set(experiment.VOICE) and all(value == pytest.approx(told) for value in changed.values())


# ---- what is asked for ----------------------------------------------------------------------------------------------

def test_every_method_is_a_run_that_mmpkd_takes(tmp_path):
    for job in experiment.jobs_of(cfg_of(tmp_path, "--seeds", 1)):
        mmpkd.check_distillation(experiment.settings_of(cfg_of(tmp_path), job))


def test_no_two_jobs_share_a_run_folder(tmp_path):
    cfg = cfg_of(tmp_path)
    folders = [runs.run_folder(experiment.settings_of(cfg, job)) for job in experiment.jobs_of(cfg)]
    assert len(folders) == len(set(folders))


def test_shards_do_everything_once_and_never_the_same_teachers(tmp_path):
    cfg = cfg_of(tmp_path)
    chains = experiment.chains_of(cfg, experiment.jobs_of(cfg))
    shards = [experiment.shard_of(chains, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(itertools.chain(*[itertools.chain(*shard.values()) for shard in shards])) == sorted(experiment.jobs_of(cfg))
    assert not set(shards[0]) & set(shards[1])


def test_the_students_network_is_the_baselines(tmp_path):
    cfg, network = cfg_of(tmp_path), ("visual_backbone", "feature_size", "gru_size", "dropout", "linear_heads", "face_size")
    visual = experiment.settings_of(cfg, Job("much", "visual", 0, 0))
    for method in METHODS:
        one = experiment.settings_of(cfg, Job("much", method, 0, 0))
        assert [getattr(one, name) for name in network] == [getattr(visual, name) for name in network] and one.keep == "last"


@pytest.mark.parametrize("words, said", [(["--methods", "visuals"], "there is no 'visuals'; there are visual,"),
                                         (["--settings", "loud"], "there is no 'loud'; there are much,")])
def test_an_unknown_name_is_said_with_those_that_there_are(call, tmp_path, words, said):
    code, _, err = call("experiment", "--data-dir", tmp_path, *words)
    assert said in one_line(code, err, 2)


def busy(folder, number):
    """A run that saves and ends when it is asked to, as training does."""
    def asked(*_):
        raise UserError("stopped")
    before = signal.signal(signal.SIGTERM, asked)
    try:
        (folder / f"began_{number}").touch()
        time.sleep(20)
        (folder / f"ended_{number}").touch()
    finally:
        (folder / f"saved_{number}").touch()
        signal.signal(signal.SIGTERM, before)


def test_a_study_that_is_stopped_does_not_go_on_with_the_next_chain(tmp_path):
    """A pool hands its processes one more job than they work on: one that saved and ended its own would begin it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), experiment._begin_worker) as pool:
        futures = [pool.submit(busy, tmp_path, number) for number in range(4)]
        while not (tmp_path / "began_0").exists():
            time.sleep(0.05)
        experiment.stop(pool)
    assert (tmp_path / "saved_0").exists() and futures[3].cancelled() and not [*tmp_path.glob("ended_*")]


# ---- what the table says --------------------------------------------------------------------------------------------

def rows(values, method, setting="much", target="arousal"):
    """Rows of results for CCCs (seeds, people)."""
    return [[setting, method, seed, target, f"person_{person}", value, 10.0] for seed, row in enumerate(values) for person, value in enumerate(row)]


def results_of(**methods):
    return pd.DataFrame([row for method, values in methods.items() for row in rows(values, method)], columns=COLUMNS)


def test_the_interval_is_that_of_a_bootstrap_written_out_with_loops():
    differences = np.random.default_rng(1).normal(0.05, 0.1, (5, 24)) + np.random.default_rng(2).normal(0, 0.1, 24)
    draw, means = np.random.default_rng(3), []
    for _ in range(4000):
        seeds, people = draw.integers(0, 5, 5), draw.integers(0, 24, 24)
        means.append(np.mean([differences[s, p] for s in seeds for p in people]))
    mean, low, high = experiment.interval(differences)
    assert mean == pytest.approx(differences.mean())
    assert [low, high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.004)


def test_people_that_all_gain_alike_leave_only_the_seeds_to_doubt():
    mean, low, high = experiment.interval(np.full((3, 8), 0.07))
    assert (mean, low, high) == pytest.approx((0.07, 0.07, 0.07))


def test_differences_are_taken_person_by_person_and_seed_by_seed():
    visual = np.random.default_rng(0).uniform(0, 1, (3, 6))
    results = results_of(visual=visual, recipe=visual + 0.1)
    assert experiment.paired(results.sample(frac=1, random_state=0), "much", "recipe", "arousal") == pytest.approx((0.1, 0.1, 0.1))
    fewer = results[~((results.method == "recipe") & (results.seed == 2))]  # a run that is not there yet
    assert experiment.paired(fewer, "much", "recipe", "arousal") == pytest.approx((0.1, 0.1, 0.1))
    assert experiment.paired(results, "much", "ccc", "arousal") is None


def test_the_share_of_a_gap_is_the_way_come_from_the_baseline():
    results = results_of(visual=[[0.2, 0.4]], oracle=[[0.6, 0.8]], recipe=[[0.4, 0.8]], teacher=[[0.31, 0.3]])
    assert experiment.share(results, "much", "recipe", "arousal", "oracle") == pytest.approx((0.75, 0.5, 1.0))  # each of the two alone: half, and all
    assert experiment.share(results, "much", "recipe", "arousal", "teacher") == "no gap"
    assert experiment.share(results, "much", "recipe", "arousal", "audio") is None
    fewer = results_of(visual=[[0.2, 0.2], [0.0, 0.0]], oracle=[[0.6, 0.6], [0.6, 0.6]], recipe=[[0.4, 0.4]])
    assert experiment.share(fewer, "much", "recipe", "arousal", "oracle") == pytest.approx((0.5, 0.5, 0.5))  # of the seed that all have
    unsure = results_of(visual=[[0.2, 0.4]], teacher=[[0.9, 0.3]], recipe=[[0.4, 0.4]])  # better on average, and by chance
    assert experiment.share(unsure, "much", "recipe", "arousal", "teacher") == "no gap"
    assert experiment.share_lines(results, ["recipe"]) == ["much, recipe: 75% (50% to 100%) of the oracle's gain on arousal"]


def test_the_table_has_a_row_for_every_method_and_target_that_was_run():
    both = pd.concat([results_of(visual=[[0.1, 0.3]], recipe=[[0.5, 0.5]]), results_of(visual=[[0.1, 0.2]]).assign(target="valence")])
    whole = both.drop_duplicates(COLUMNS[:4]).assign(recording="concatenated", ccc=0.9)
    text = experiment.table_of(pd.concat([both, whole]), "much")
    assert text.count("\n| visual | ") == 3 and text.count("\n| recipe | ") == 1 and "2 people reported." in text
    assert "| recipe | 0.500 | 1 |  | 0.900 | +0.300 | +0.200 to +0.400 |  |  | 10 |" in text


def test_the_mean_of_both_targets_is_taken_person_by_person():
    results = pd.concat([results_of(visual=[[0.1, 0.3]], recipe=[[0.5, 0.5]]),
                         results_of(visual=[[0.1, 0.2]], recipe=[[0.3, 0.2]]).assign(target="valence")])
    assert experiment.matrix(results, "much", "recipe", "both").to_numpy().tolist() == [[0.4, 0.35]]
    assert experiment.paired(results, "much", "recipe", "both")[0] == pytest.approx(0.2)


def test_a_method_that_shares_no_seed_with_the_baseline_has_a_row_and_no_picture(tmp_path):
    """As in the results of a shard."""
    results = pd.concat([each.assign(target=target) for target in ("arousal", "valence") for each in (
        results_of(visual=[[0.1, 0.2]]), results_of(oracle=[[0.3, 0.3]], recipe=[[0.2, 0.2]]).assign(seed=1))])
    text = experiment.report(results, tmp_path / "results.csv")
    assert text.count("\n| oracle | 0.300 |") == 3 and not (tmp_path / "results_much.png").exists()


def test_the_summary_has_the_recipe_and_the_controls_and_no_method_that_looked_best():
    visual = np.full((2, 3), 0.4)
    both = [results_of(visual=visual, recipe=visual + 0.1, ccc=visual + 0.3, control_voices_other=visual, self_training=visual + 0.05,
                       control_other_voice=visual + 0.05, recipe_off=visual + 0.2).assign(target=target) for target in ("arousal", "valence")]
    heading, *over_visual, beside, one, two, three = experiment.summary(pd.concat(both)).splitlines()
    assert "visual baseline" in heading and "only see" in beside
    for lines, gains in ((over_visual, dict(recipe="0.100", self_training="0.050", control_voices_other="0.000")),
                         ([one, two, three], dict(recipe="0.050", recipe_off="0.150", control_other_voice="0.000"))):
        assert lines == [f"much, {method}: " + ", ".join(f"{target} +{gain} (+{gain} to +{gain})" for target in ("arousal", "valence", "both"))
                         for method, gain in gains.items()]


def test_every_control_is_told_beside_what_it_must_not_gain_over():
    told = {method: over for over, methods in (("visual", experiment.OF_VOICES), ("self_training", experiment.BESIDE_SEEING)) for method in methods}
    for name in experiment.CONTROLS:
        assert told[name] == ("visual" if METHODS[name].settings["teachers"] == "audio" else "self_training")


def test_report_alone_reads_the_results_and_says_if_there_are_none(small, studied, tmp_path, capsys, call):
    folder = shutil.copytree(studied, tmp_path / "data", symlinks=True)
    shutil.rmtree(folder / "much")
    (folder / "results.md").unlink()
    experiment.main(["--data-dir", str(folder), *SMALL, "--report"])
    assert (folder / "results.md").read_bytes() == (studied / "results.md").read_bytes()
    code, _, err = call("experiment", "--quick", "--data-dir", tmp_path / "none", "--report")
    assert "results.csv is not there: run the same without --report" in one_line(code, err)


def test_every_number_of_the_studys_page_comes_from_its_results(tmp_path):
    docs, told = Path(experiment.__file__).with_name("docs"), ""
    for name in ("results", "choice"):
        shutil.copy(docs / f"{name}.csv", tmp_path)
        shutil.copy(docs / "study.md", tmp_path)
        experiment.report(pd.read_csv(tmp_path / f"{name}.csv"), tmp_path / f"{name}.csv")
        assert (docs / f"{name}.md").read_text() == (tmp_path / f"{name}.md").read_text()
        assert (docs / "study.md").read_text() == (tmp_path / "study.md").read_text(), "a table of the page is not what --report makes of it"
        told += (tmp_path / f"{name}.md").read_text()
    for page in (docs / "study.md", docs.with_name("README.md")):
        text = page.read_text()
        assert all(line in told for line in text.splitlines() if line.startswith(tuple(f"| {method} |" for method in METHODS)))
        assert all(line in told for line in text.splitlines() if line.startswith(tuple(f"{setting}, " for setting in SETTINGS)))
    assert set(re.findall(r"[+-]?\d\.\d{3}|\d+%", (docs / "study.md").read_text())) <= set(re.findall(r"[+-]?\d\.\d{3}|\d+%", told))


def test_the_aims_table_says_what_is_met_and_by_how_much_the_rest_is_missed():
    visual = np.full((2, 4), 0.3)
    for_arousal = results_of(visual=visual, oracle=visual + 0.2, teacher=visual + 0.3, recipe=visual + 0.09)
    unsure = np.array([[0.1, -0.1, 0.2, -0.05]] * 2)
    for_valence = results_of(visual=visual, oracle=visual + 0.2, teacher=visual - 0.1, recipe=visual + unsure).assign(target="valence")
    lines = experiment.aims_table(pd.concat([for_arousal, for_valence])).splitlines()
    assert [line.split(" | ")[-1] for line in lines[4:]] == [
        "+0.090: met |", "+0.038: not sure |", "+0.064: met |", "45%: missed by 15% |", "19%: missed by 11% |", "30%: missed by 3% |"]


def test_a_method_is_chosen_by_its_mean_over_targets_and_settings():
    each = [results_of(visual=[[0.1, 0.3]], voices=[[0.5, 0.5]], recipe=[[0.3, 0.4]]), results_of(visual=[[0.1, 0.3]], recipe=[[0.5, 0.6]]).assign(
        setting="little")]
    both = pd.concat([one.assign(target=target, ccc=one.ccc + more) for one in each for target, more in (("arousal", 0), ("valence", 0.1))])
    lines = experiment.choice_table(both).splitlines()
    assert lines[2] == "| method | much | little | mean | |" and len(lines) == 6
    assert lines[4].startswith("| visual | 0.250 | 0.250 | 0.250 |") and lines[5].startswith("| recipe | 0.400 | 0.600 | 0.500 |")


def test_the_tables_of_a_page_are_renewed_and_nothing_else_is(tmp_path):
    row = lambda *words: f"| {' | '.join(words)} |\n"
    page = "# Study\n\n### much, arousal\n\n" + row("visual", "0.1") + "\nWords of 0.1.\n\n### much, valence\n\n" + row("visual", "0.2") + "\nEnd.\n"
    (tmp_path / "study.md").write_text(page)
    table = row("visual", "0.3") + row("paper", r"\1")
    experiment.renew_tables(tmp_path / "study.md", f"### much, arousal\n\n{table}\n### much, both\n\n{row('x')}")
    assert (tmp_path / "study.md").read_text() == page.replace(row("visual", "0.1"), table)


# ---- a study in small -----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def small():
    """The study on seven people and a few seconds of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "QUICK", dict(rated=4, unlabelled=2, reported=2))
        patch.setattr(experiment, "SECONDS", 8)
        patch.setattr(experiment, "QUICK_EPOCHS", 1)
        patch.setattr(experiment, "QUICK_METHODS", ("visual", "oracle", "recipe", "control_other_voice"))
        patch.setattr(experiment, "train_all", lambda cfg, chains: [experiment.train_chain(cfg, chain) for chain in chains.values()])
        patch.setattr(experiment, "draw_corpus", drawn_in_this_process)
        patch.setattr(experiment, "STUDY", experiment.STUDY | dict(feature_size=8, gru_size=8, clip_length=10))
        yield


def drawn_in_this_process(folder, setting, seed, workers, made=experiment.draw_corpus):
    """draw_corpus() with nothing left to draw: its processes would not see the patches."""
    for number in range(setting.people):
        if not (folder / "ratings_gold_standard" / f"person_{number + 1}.csv").exists():
            experiment.draw_person(folder, setting.world, seed, (number, f"person_{number + 1}"))
    made(folder, setting, seed, workers)


SMALL = ["--quick", "--seeds", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def studied(small, tmp_path_factory):
    """Data folder of a finished small study."""
    folder = tmp_path_factory.mktemp("study") / "data"
    experiment.main(["--data-dir", str(folder), *SMALL])
    return folder


def test_a_study_ends_with_results_table_and_figures(studied):
    results = pd.read_csv(studied / "results.csv")
    assert list(results.columns) == COLUMNS and set(results.method) == set(experiment.QUICK_METHODS)
    assert set(results.recording) == {"person_7", "person_8", "concatenated"} and results.ccc.between(-1, 1).all() and (results.seconds > 0).all()
    assert len(results) == len(experiment.QUICK_METHODS) * 2 * 3
    assert "oracle" in (studied / "results.md").read_text() and (studied / "results_much.png").stat().st_size > 10_000


def test_the_scores_are_those_of_the_predictions_on_disk(studied):
    results = pd.read_csv(studied / "results.csv")
    for row in results[(results.method == "recipe") & (results.recording != "concatenated")].itertuples():
        path = next((studied / "much" / "views" / "much_rated" / "runs" / "seed0").glob(f"student_*_recipe/predictions/val/{row.recording}.csv"))
        table = pd.read_csv(path)
        gold, pred = table[f"{row.target}_gold"].to_numpy(), table[f"{row.target}_pred"].to_numpy()
        apart = pred.var() + gold.var() + (pred.mean() - gold.mean()) ** 2
        assert row.ccc == pytest.approx(2 * np.cov(pred, gold, bias=True)[0, 1] / apart, abs=1e-4)


def test_a_second_run_trains_nothing_and_says_the_same(small, studied, monkeypatch):
    before = (studied / "results.csv").read_bytes()
    monkeypatch.setattr(mmpkd, "begin", lambda *_: pytest.fail("a finished run was trained again"))
    experiment.main(["--data-dir", str(studied), *SMALL])
    assert (studied / "results.csv").read_bytes() == before


def test_runs_that_are_new_join_the_results_and_replace_their_own_rows_alone(small, studied, tmp_path):
    folder = shutil.copytree(studied, tmp_path / "data", symlinks=True)
    old = pd.read_csv(folder / "results.csv")
    old.loc[old.method == "visual", "ccc"] = 0.5
    kept = old[old.method == "recipe"].assign(method="recipe_off")
    pd.concat([old, kept]).to_csv(folder / "results.csv", index=False)
    results = experiment.gather(cfg_of(folder, "--quick"), [Job("much", "visual", 0, 0)], folder / "results.csv")
    assert (results[results.method == "visual"].ccc != 0.5).all() and len(results) == len(old) + len(kept)


def test_the_corpora_hold_five_pictures_and_ratings_a_second(studied):
    corpus = studied / "much"
    assert len((corpus / "ratings_gold_standard" / "person_1.csv").read_text().splitlines()) == 41  # one more than frames, as RECOLA has
    assert len(list((corpus / "Cropped_Aligned" / "person_1").glob("0*.jpg"))) == len(list((corpus / "specs" / "person_1").glob("*.png"))) == 40


def test_unlabelled_people_have_no_ratings_and_the_other_voice_is_somebody_elses(studied):
    views = studied / "much" / "views"
    for view in ("much_rated", "much_other_voice"):
        assert [path.stem for path in sorted((views / view / "Annotations" / "Unlabelled_Set").iterdir())] == ["person_5", "person_6"]
        assert list(pd.read_csv(views / view / "Annotations" / "Unlabelled_Set" / "person_5.csv").columns) == ["image path", "spec path"]
    for path in (views / "much_other_voice" / "Annotations").glob("*/*.csv"):
        table, owner = pd.read_csv(path), path.stem
        assert table["image path"].str.startswith(f"{owner}/").all() and not table["spec path"].str.startswith(f"{owner}/").any()
        partner = table["spec path"].iloc[0].split("/")[0]
        assert (path.parent / f"{partner}.csv").exists(), "the voice is of another partition"


def test_ratings_without_noise_are_those_of_raters_who_do_not_err_and_of_nobody_that_is_reported(small, studied, tmp_path):
    shutil.copytree(studied / "much" / "Annotations", tmp_path / "Annotations")
    setting, seed = experiment.setting_of(cfg_of(tmp_path, "--quick"), "much"), experiment.FIRST_SEED
    experiment.make_view(tmp_path, tmp_path / "view", setting, "noiseless", seed)
    experiment.make_view(tmp_path, tmp_path / "usual", setting, "rated")
    tables = {view: {path.name: pd.read_csv(path) for path in (tmp_path / view / "Annotations").glob("*/*.csv")} for view in ("view", "usual")}
    for number in range(setting.people):
        table, usual = (tables[view][f"person_{number + 1}.csv"] for view in ("view", "usual"))
        if number >= setting.rated:
            assert table.equals(usual)
            continue
        drawn, at = Drawn.draw((seed, number), experiment.SECONDS * 25), np.arange(len(table)) / experiment.RATE
        lag, units = World().delay_s, (table[["arousal", "valence"]] - [World().arousal_mean, World().valence_mean]) / [
            World().arousal_std, World().valence_std]
        for unit, feeling, noise in zip(units.to_numpy().T, drawn.feelings, (usual != table)[["arousal", "valence"]].to_numpy().T):
            late = np.interp(at - lag, np.arange(feeling.size) / 25, feeling)[at > lag]  # what was felt when they saw it, and nothing else
            assert np.abs(late - unit[at > lag]).max() < 0.35 and noise.mean() > 0.9


def test_choosing_cannot_open_a_rating_of_the_people_that_are_reported(small, studied, tmp_path, capsys):
    """It works, and says the same, where their ratings are gone from the disk; and its folders name none of them."""
    folder = shutil.copytree(studied, tmp_path / "data", symlinks=True)
    cfg = cfg_of(folder, "--quick", "--choose", "--methods", "visual", "ccc_unlabelled", "--seeds", 1)
    setting = experiment.setting_of(cfg, "much")
    reported = [f"person_{n + 1}" for n in experiment.split(setting, "rated")["Val_Set"]]
    jobs = experiment.jobs_of(cfg)
    assert {job.fold for job in jobs} == {1, 2, 3}
    for job in jobs:
        view = experiment.view_folder(cfg, job)
        experiment.make_view(folder / "much", view, setting, view.name.removeprefix("much_"))
    shutil.rmtree(folder / "much" / "ratings_gold_standard")
    shutil.rmtree(folder / "much" / "Annotations")
    shutil.rmtree(folder / "much" / "views" / "much_rated")
    experiment.train_chain(cfg, jobs)
    results = experiment.gather(cfg, jobs, folder / "choice.csv")
    assert set(results.recording) == {"person_1", "person_2", "person_3", "person_4"} and not set(results.recording) & set(reported)
    for job in jobs:
        text = "".join(path.read_text() + path.name for path in (experiment.view_folder(cfg, job) / "Annotations").glob("*/*.csv"))
        assert not any(name in text for name in reported)


def test_what_is_finished_when_a_study_is_stopped_is_in_its_results(small, studied, tmp_path, monkeypatch):
    folder = shutil.copytree(studied, tmp_path / "data", symlinks=True)
    (folder / "results.csv").unlink()
    shutil.rmtree(next(folder.glob("much/views/much_rated/runs/seed0/student_*_recipe")))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(experiment, "train_all", lambda cfg, chains: signal.raise_signal(signal.SIGINT))
        experiment.main(["--data-dir", str(folder), *SMALL])
    there, all_of_them = (pd.read_csv(one / "results.csv") for one in (folder, studied))
    assert set(there.method) == set(all_of_them.method) - {"recipe"}


def test_a_damaged_file_of_predictions_is_named(small, studied, tmp_path):
    folder = shutil.copytree(studied, tmp_path / "data", symlinks=True)
    cfg = cfg_of(folder, "--quick", "--seeds", 1)
    runs = folder / "much" / "views" / "much_rated" / "runs" / "seed0"
    (next(runs.glob("student_*_recipe")) / "predictions" / "val" / "person_7.csv").write_text("time_s\n")
    with pytest.raises(UserError, match="student_both_pseudo_recipe.*person_7.csv"):
        experiment.gather(cfg, experiment.jobs_of(cfg), folder / "results.csv")


def test_a_finished_run_of_a_method_that_was_changed_since_is_refused(small, studied, monkeypatch):
    """Or its row would be said to be of what the method is now."""
    before = (studied / "results.csv").read_bytes()
    recipe = METHODS["recipe"]
    monkeypatch.setitem(METHODS, "recipe", recipe._replace(settings=recipe.settings | dict(distill_weight=0.123)))
    with pytest.raises(UserError, match=r"student_both_pseudo_recipe/ is the run of recipe with other settings \(distill_weight .*, now 0.123\)"):
        experiment.main(["--data-dir", str(studied), *SMALL])
    monkeypatch.setitem(METHODS, "recipe", recipe)
    monkeypatch.setattr(experiment, "QUICK_EPOCHS", 2)
    with pytest.raises(UserError, match=r"visual_both/ is the run of visual with other settings \(epochs 1, now 2\)"):
        experiment.main(["--data-dir", str(studied), *SMALL])
    assert (studied / "results.csv").read_bytes() == before


def test_settings_of_another_size_are_refused(small, studied):
    with pytest.raises(UserError, match="quick"):
        experiment.main(["--data-dir", str(studied), "--seeds", "1", "--methods", "visual", "--settings", "much"])
