"""experiment.py: corpora and views, jobs, and a small study from end to end."""
import dataclasses
import itertools
import json
import multiprocessing
import shutil
import signal
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
import pytest
from conftest import copied, one_line
from test_study import compute_once

import experiment
import runs
from drawn.people import Recording as Drawn
from drawn.people import World
from experiment import Job
from study.methods import METHODS, SETTINGS, VOICE
from study.results import COLUMNS
from support.errors import UserError
from support.settings import parse_config


def cfg_of(folder, *words):
    return parse_config(["--data-dir", str(folder), "--device", "cpu", *map(str, words)], "experiment.py", "")


# ---- who is rated, unlabelled, reported -----------------------------------------------------------------------------

@pytest.mark.parametrize("view", ["rated", "noiseless", "oracle", "other_voice", "fold1", "fold2", "fold3"])
def test_the_partitions_of_a_view_share_no_subject(view):
    for setting in SETTINGS.values():
        parts = experiment.split(setting, view)
        subjects = list(itertools.chain(*parts.values()))
        assert len(subjects) == len(set(subjects)) and set(subjects) <= set(range(setting.subjects))
        if not view.startswith("fold"):
            assert len(parts["Val_Set"]) == setting.reported and len(subjects) == setting.subjects


def test_the_folds_hold_out_every_rated_subject_once_and_no_reported_one():
    setting = SETTINGS["much"]
    folds = range(1, experiment.FOLDS + 1)
    held_out = [n for fold in folds for n in experiment.split(setting, f"fold{fold}")["Val_Set"]]
    assert sorted(held_out) == list(range(setting.rated))


def test_only_the_voice_differs_between_settings():
    usual = SETTINGS["much"].world
    for name, share_of_it in {"little": 1 / 3, "nothing": 0}.items():
        world = SETTINGS[name].world
        names = [field.name for field in dataclasses.fields(usual)
                 if getattr(world, field.name) != getattr(usual, field.name)]
        ratios = {name: getattr(world, name) / getattr(usual, name) for name in names}
        assert set(ratios) == set(VOICE) and all(value == pytest.approx(share_of_it) for value in ratios.values())


# ---- what is asked for ----------------------------------------------------------------------------------------------

def test_every_method_is_a_run_that_mmpkd_takes(tmp_path):
    for job in experiment.jobs_of(cfg_of(tmp_path, "--seeds", 1)):
        one, file = experiment.settings_of(cfg_of(tmp_path), job), tmp_path / "settings.json"
        file.write_text(json.dumps(METHODS[job.method].settings))
        parse_config(["--config", str(file)], "mmpkd.py", "")  # raises for what the command line would not take
        assert all(needed.stage in ("visual", "audio", "teacher") for needed in runs.needed_by(one))


def test_no_two_jobs_share_a_run_folder(tmp_path):
    cfg = cfg_of(tmp_path)
    folders = [runs.run_folder(experiment.settings_of(cfg, job)) for job in experiment.jobs_of(cfg)]
    assert len(folders) == len(set(folders))


def test_shards_do_everything_once_and_never_the_same_teachers(tmp_path):
    cfg = cfg_of(tmp_path)
    chains = experiment.chains_of(cfg, experiment.jobs_of(cfg))
    shards = [experiment.shard_of(chains, f"{i}/3") for i in (1, 2, 3)]
    jobs = [job for shard in shards for chain in shard.values() for job in chain]
    assert sorted(jobs) == sorted(experiment.jobs_of(cfg))
    assert not set(shards[0]) & set(shards[1])


def test_the_students_network_is_the_baselines(tmp_path):
    network = "visual_backbone feature_size gru_size dropout linear_heads face_size".split()
    cfg = cfg_of(tmp_path)
    visual = experiment.settings_of(cfg, Job("much", "visual", 0, 0))
    for method in METHODS:
        one = experiment.settings_of(cfg, Job("much", method, 0, 0))
        assert [getattr(one, name) for name in network] == [getattr(visual, name) for name in network]
        assert one.keep == "last"


@pytest.mark.parametrize("words, named", [
    (["--methods", "visuals"], "teacher_attention"),
    (["--settings", "loud"], "more_rated"),
    (["--methods", "voices"], "study-1"),
])
def test_an_unknown_name_is_refused_with_those_that_there_are(call, tmp_path, words, named):
    code, _, err = call("experiment", "--data-dir", tmp_path, *words)
    assert words[1] in err and named in one_line(code, err, 2)


DEADLINE_S = 300  # for what takes a moment on an idle machine


def wait_for(path):
    until = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.05)


def busy(folder, number):
    """A run that saves and ends when it is asked to, as training does."""
    def stop(*_):
        raise UserError("stopped")
    before = signal.signal(signal.SIGTERM, stop)
    try:
        (folder / f"began_{number}").touch()
        wait_for(folder / "never")
    finally:
        (folder / f"saved_{number}").touch()
        signal.signal(signal.SIGTERM, before)


def test_a_stopped_study_does_not_continue_with_the_next_chain(tmp_path, monkeypatch):
    """A pool hands its processes one more job than they work on: one that saved and ended its own would begin it."""
    wait = multiprocessing.connection.wait  # 5 s for a process to save its state are more than these need
    monkeypatch.setattr(multiprocessing.connection, "wait", lambda ends, timeout=None: wait(ends, timeout and 1))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), experiment._begin_worker) as pool:
        futures = [pool.submit(busy, tmp_path, number) for number in range(4)]
        wait_for(tmp_path / "began_0")
        experiment.stop(pool)
    assert (tmp_path / "saved_0").exists() and futures[3].cancelled() and not (tmp_path / "began_3").exists()


# ---- a study in small -----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def small():
    """The study on eight subjects and a few seconds of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "QUICK", dict(rated=4, unlabelled=2, reported=2))
        patch.setattr(experiment, "SECONDS", 8)
        patch.setattr(experiment, "QUICK_EPOCHS", 1)
        patch.setattr(experiment, "QUICK_METHODS", ("visual", "oracle", "recipe", "control_other_voice"))
        patch.setattr(experiment, "train_all", train_in_this_process)
        patch.setattr(experiment, "draw_corpus", drawn_in_this_process)
        tiny = dict(feature_size=8, gru_size=8, clip_length=10, epoch_steps=4)
        patch.setattr(experiment, "STUDY", experiment.STUDY | tiny)
        compute_once(patch)
        yield


def train_in_this_process(cfg, chains):
    """train_all(), whose processes would not see the patches."""
    for chain in chains.values():
        experiment.train_chain(cfg, chain)


def drawn_in_this_process(folder, setting, seed, workers, made=experiment.draw_corpus):
    """draw_corpus() with nothing left to draw: its processes would not see the patches."""
    for number in range(setting.subjects):
        if not (folder / "ratings_gold_standard" / f"person_{number + 1}.csv").exists():
            experiment.draw_subject(folder, setting.world, seed, (number, f"person_{number + 1}"))
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
    assert set(results.recording) == {"person_7", "person_8", "concatenated"}
    assert results.ccc.between(-1, 1).all() and (results.seconds > 0).all()
    assert len(results) == len(experiment.QUICK_METHODS) * 2 * 3
    assert "oracle" in (studied / "results.md").read_text() and (studied / "results_much.png").stat().st_size > 10_000


def test_report_alone_reads_the_results_and_says_if_there_are_none(small, studied, tmp_path, capsys, call):
    folder = copied(studied, tmp_path / "data")
    shutil.rmtree(folder / "much")
    (folder / "results.md").unlink()
    experiment.main(["--data-dir", str(folder), *SMALL, "--report"])
    assert (folder / "results.md").read_bytes() == (studied / "results.md").read_bytes()
    code, _, err = call("experiment", "--quick", "--data-dir", tmp_path / "none", "--report")
    assert "results.csv" in one_line(code, err)


def test_the_scores_are_those_of_the_predictions_on_disk(studied):
    results = pd.read_csv(studied / "results.csv")
    folder = studied / "much" / "views" / "much_rated" / "runs" / "seed0"
    for row in results[(results.method == "recipe") & (results.recording != "concatenated")].itertuples():
        path = next(folder.glob(f"student_*_recipe/predictions/val/{row.recording}.csv"))
        table = pd.read_csv(path)
        gold, pred = table[f"{row.target}_gold"].to_numpy(), table[f"{row.target}_pred"].to_numpy()
        apart = pred.var() + gold.var() + (pred.mean() - gold.mean()) ** 2
        assert row.ccc == pytest.approx(2 * np.cov(pred, gold, bias=True)[0, 1] / apart, abs=1e-4)


def test_a_second_run_trains_nothing_and_writes_the_same(small, studied):
    before = (studied / "results.csv").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in studied.rglob("*.pt")}
    experiment.main(["--data-dir", str(studied), *SMALL])
    assert (studied / "results.csv").read_bytes() == before
    assert times and times == {path: path.stat().st_mtime_ns for path in studied.rglob("*.pt")}


def test_runs_that_are_new_join_the_results_and_replace_their_own_rows_alone(small, studied, tmp_path):
    folder = copied(studied, tmp_path / "data")
    old = pd.read_csv(folder / "results.csv")
    old.loc[old.method == "visual", "ccc"] = 0.5
    kept = old[old.method == "recipe"].assign(method="recipe_off")
    pd.concat([old, kept]).to_csv(folder / "results.csv", index=False)
    results = experiment.gather(cfg_of(folder, "--quick"), [Job("much", "visual", 0, 0)], folder / "results.csv")
    assert (results[results.method == "visual"].ccc != 0.5).all() and len(results) == len(old) + len(kept)


def test_the_corpora_hold_five_frames_and_ratings_a_second(studied):
    corpus = studied / "much"
    ratings = (corpus / "ratings_gold_standard" / "person_1.csv").read_text().splitlines()
    assert len(ratings) == 41  # one more than frames, as RECOLA has
    assert len(list((corpus / "Cropped_Aligned" / "person_1").glob("0*.jpg"))) == 40
    assert len(list((corpus / "specs" / "person_1").glob("*.png"))) == 40


def test_unlabelled_subjects_have_no_ratings_and_the_other_voice_is_another_subjects(studied):
    views = studied / "much" / "views"
    for view in ("much_rated", "much_other_voice"):
        files = sorted((views / view / "Annotations" / "Unlabelled_Set").iterdir())
        assert [path.stem for path in files] == ["person_5", "person_6"]
        assert list(pd.read_csv(files[0]).columns) == ["image path", "spec path"]
    for path in (views / "much_other_voice" / "Annotations").glob("*/*.csv"):
        table, owner = pd.read_csv(path), path.stem
        assert table["image path"].str.startswith(f"{owner}/").all()
        assert not table["spec path"].str.startswith(f"{owner}/").any()
        partner = table["spec path"].iloc[0].split("/")[0]
        assert (path.parent / f"{partner}.csv").exists(), "the voice is of another partition"


def test_noiseless_ratings_have_no_rater_errors_and_reported_subjects_keep_theirs(small, studied, tmp_path):
    shutil.copytree(studied / "much" / "Annotations", tmp_path / "Annotations")
    setting, seed = experiment.setting_of(cfg_of(tmp_path, "--quick"), "much"), experiment.FIRST_SEED
    experiment.make_view(tmp_path, tmp_path / "view", setting, "noiseless", seed)
    experiment.make_view(tmp_path, tmp_path / "usual", setting, "rated")
    tables = {view: {path.name: pd.read_csv(path) for path in (tmp_path / view / "Annotations").glob("*/*.csv")}
              for view in ("view", "usual")}
    for number in range(setting.subjects):
        table, usual = (tables[view][f"person_{number + 1}.csv"] for view in ("view", "usual"))
        if number >= setting.rated:
            assert table.equals(usual)
            continue
        drawn, at = Drawn.draw((seed, number), experiment.SECONDS * 25), np.arange(len(table)) / experiment.RATE
        world, targets = World(), ["arousal", "valence"]
        lag, means = world.delay_s, [world.arousal_mean, world.valence_mean]
        stds = [world.arousal_std, world.valence_std]
        units, noises = ((table[targets] - means) / stds).to_numpy().T, (usual != table)[targets].to_numpy().T
        for unit, feeling, noise in zip(units, drawn.feelings, noises):
            late = np.interp(at - lag, np.arange(feeling.size) / 25, feeling)[at > lag]  # delayed, and nothing else
            assert np.abs(late - unit[at > lag]).max() < 0.35 and noise.mean() > 0.9


def test_choosing_cannot_open_a_rating_of_the_reported_subjects(small, studied, tmp_path, capsys):
    """It works where their ratings are gone from the disk, and its folders name none of them."""
    folder = copied(studied, tmp_path / "data")
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
    assert set(results.recording) == {f"person_{n}" for n in range(1, 5)} and not set(results.recording) & set(reported)
    for job in jobs:
        files = (experiment.view_folder(cfg, job) / "Annotations").glob("*/*.csv")
        text = "".join(path.read_text() + path.name for path in files)
        assert not any(name in text for name in reported)


def test_what_is_finished_when_a_study_is_stopped_is_in_its_results(small, studied, tmp_path, monkeypatch):
    folder = copied(studied, tmp_path / "data")
    (folder / "results.csv").unlink()
    shutil.rmtree(next(folder.glob("much/views/much_rated/runs/seed0/student_*_recipe")))

    def stopped(*_):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(experiment, "train_all", stopped)
        experiment.main(["--data-dir", str(folder), *SMALL])
    there, all_of_them = (pd.read_csv(one / "results.csv") for one in (folder, studied))
    assert set(there.method) == set(all_of_them.method) - {"recipe"}


def test_a_damaged_file_of_predictions_is_named(small, studied, tmp_path):
    folder = copied(studied, tmp_path / "data")
    cfg = cfg_of(folder, "--quick", "--seeds", 1)
    there = folder / "much" / "views" / "much_rated" / "runs" / "seed0"
    (next(there.glob("student_*_recipe")) / "predictions" / "val" / "person_7.csv").write_text("time_s\n")
    with pytest.raises(UserError, match="student_both_pseudo_recipe.*person_7.csv"):
        experiment.gather(cfg, experiment.jobs_of(cfg), folder / "results.csv")


def test_a_finished_run_of_a_method_that_was_changed_since_is_refused(small, studied, monkeypatch):
    """Or its row would be described by what the method is now."""
    before = (studied / "results.csv").read_bytes()
    recipe = METHODS["recipe"]
    monkeypatch.setitem(METHODS, "recipe", recipe._replace(settings=recipe.settings | dict(calibrate=False)))
    with pytest.raises(UserError, match="student_both_pseudo_recipe.*calibrate True, now False"):
        experiment.main(["--data-dir", str(studied), *SMALL])
    monkeypatch.setitem(METHODS, "recipe", recipe)
    monkeypatch.setattr(experiment, "QUICK_EPOCHS", 2)
    with pytest.raises(UserError, match="visual_both.*epochs 1, now 2"):
        experiment.main(["--data-dir", str(studied), *SMALL])
    assert (studied / "results.csv").read_bytes() == before


def test_settings_of_another_size_are_refused(small, studied):
    with pytest.raises(UserError, match="quick"):
        experiment.main(["--data-dir", str(studied), "--seeds", "1", "--methods", "visual", "--settings", "much"])
