"""experiment.py and study/corpora.py: who is rated, jobs, and a small study from end to end."""
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

import experiment
import runs
import study.corpora
from experiment import Job
from study.methods import FIRST_SEED, METHODS, QUICK, SETTINGS, VOICE
from study.results import GATE, RESULTS, in_order, merge
from support.errors import UserError
from support.settings import parse_config


def cfg_of(folder, *words):
    return parse_config(["--data-dir", str(folder), "--device", "cpu", *map(str, words)], "experiment.py", "")


# ---- who is rated, unlabelled, reported -----------------------------------------------------------------------------

CASES = [(setting, rated) for setting in (*SETTINGS.values(), *QUICK.values()) for rated in setting.rated]


@pytest.mark.parametrize("view", ["", "oracle", "other_voice"])
def test_rated_unlabelled_and_reported_subjects_are_as_many_as_wanted_and_no_subject_is_two_of_them(view):
    for (setting, rated), draw in itertools.product(CASES, range(5)):
        parts = {name: [*part] for name, part in study.corpora.split(setting, rated, draw, 7, view).items()}
        subjects = [*itertools.chain(*parts.values())]
        assert len(subjects) == len(set(subjects)) and set(subjects) <= set(range(setting.subjects))
        wanted = [rated + setting.unlabelled, 0] if view == "oracle" else [rated, setting.unlabelled]
        assert [len(parts[name]) for name in ("Train_Set", "Unlabelled_Set")] == wanted
        assert parts["Val_Set"] == [*range(setting.pool, setting.pool + setting.reported)]


def test_a_draw_rates_more_subjects_by_adding_some_and_keeps_the_unlabelled_ones():
    setting = SETTINGS["much"]
    parts = [study.corpora.split(setting, rated, 2, 7) for rated in sorted(setting.rated)]
    for few, more in itertools.pairwise(parts):
        assert set(few["Train_Set"]) < set(more["Train_Set"])
        assert set(few["Unlabelled_Set"]) == set(more["Unlabelled_Set"])


def test_draws_differ_and_follow_from_the_corpus_and_their_number():
    rated = [tuple(study.corpora.split(SETTINGS["much"], 12, draw, seed)["Train_Set"])
             for draw in range(5) for seed in (7, 8)]
    assert len(set(rated)) == 10
    assert rated[0] == tuple(study.corpora.split(SETTINGS["much"], 12, 0, 7)["Train_Set"])


def test_only_the_voice_differs_between_settings():
    usual = SETTINGS["much"].world
    for name, share_of_it in {"little": 1 / 3, "nothing": 0}.items():
        world = SETTINGS[name].world
        names = [field.name for field in dataclasses.fields(usual)
                 if getattr(world, field.name) != getattr(usual, field.name)]
        ratios = {name: getattr(world, name) / getattr(usual, name) for name in names}
        assert set(ratios) == set(VOICE) and all(value == pytest.approx(share_of_it) for value in ratios.values())


@pytest.mark.parametrize("words", [["--choose"], ["--quick"], ["--quick", "--choose"]])
def test_no_subject_of_the_reported_corpora_is_drawn_before_the_study(tmp_path, words):
    reported = {experiment.seed_of(cfg_of(tmp_path), name) for name in SETTINGS}
    others = {experiment.seed_of(cfg_of(tmp_path, *words), name) for name in SETTINGS}
    assert not reported & others and min(reported) == FIRST_SEED
    folders = [experiment.corpus_folder(cfg_of(tmp_path, *more), "much") for more in ((), ("--choose",))]
    assert folders[0] != folders[1]


# ---- what is asked for ----------------------------------------------------------------------------------------------

def test_every_method_is_a_run_that_mmpkd_takes_and_has_the_teachers_that_it_needs(tmp_path):
    for job in experiment.jobs_of(cfg_of(tmp_path, "--seeds", 1, "--draws", 1)):
        one, file = experiment.config_of(cfg_of(tmp_path), job), tmp_path / "settings.json"
        file.write_text(json.dumps(METHODS[job.method].settings))
        parse_config(["--config", str(file)], "mmpkd.py", "")  # raises for what the command line would not take
        assert one.teacher_folds == min(job.rated, 4)
        *needed, own = experiment.runs_of(cfg_of(tmp_path), job)
        assert all(each.stage in ("visual", "audio", "teacher") for each in needed)
        assert METHODS[job.method].ensemble or own == one


def test_the_ensemble_has_as_many_networks_as_the_student_has_teachers(tmp_path):
    for setting, rated in itertools.product(["much"], SETTINGS["much"].rated):
        counts = {}
        for method in ("visual_ensemble", "self_training", "student", "control"):
            members = experiment.runs_of(cfg_of(tmp_path), Job(setting, rated, 0, method, 0))
            counts[method] = [sum(one.stage == stage and bool(one.fold) != (method == "visual_ensemble")
                                  for one in members) for stage in ("visual", "audio")]
            assert len({(one.seed, one.fold, one.stage) for one in members}) == len(members)
        networks = min(rated, 4)
        assert counts["visual_ensemble"] == counts["self_training"] == [2 * networks, 0]
        assert counts["student"] == counts["control"] == [networks, networks]


def test_students_of_a_chain_share_their_visual_teachers_and_the_ensemble_has_the_baseline(tmp_path):
    def visual(method):
        members = experiment.runs_of(cfg_of(tmp_path), Job("much", 12, 0, method, 0))
        return {runs.run_folder(one) for one in members if one.stage == "visual"}
    baseline = {runs.run_folder(experiment.config_of(cfg_of(tmp_path), Job("much", 12, 0, "visual", 0)))}
    assert visual("student") - visual("self_training") == baseline
    assert visual("self_training") & visual("visual_ensemble") == set() and baseline < visual("visual_ensemble")
    assert not visual("control") & visual("student")


def test_no_two_jobs_share_a_run_folder_and_no_two_draws_a_seed(tmp_path):
    cfg = cfg_of(tmp_path)
    jobs = [job for job in experiment.jobs_of(cfg) if not METHODS[job.method].ensemble]
    configs = {job: experiment.config_of(cfg, job) for job in jobs}
    assert len({runs.run_folder(one) for one in configs.values()}) == len(jobs)
    seeds = {(job.draw, job.seed): one.seed for job, one in configs.items()}
    assert len(set(seeds.values())) == len(seeds) == 10


def test_a_study_that_is_stopped_has_whole_cases_and_one_of_each_setting_before_a_second(tmp_path):
    chains = [*experiment.chains_of(experiment.jobs_of(cfg_of(tmp_path)))]
    assert [draw for *_, draw in chains] == [*range(5)] * 8
    cases = [case for *case, draw in chains if draw == 0]
    assert [setting for setting, _ in cases] == [*SETTINGS] + ["much"] * 4
    assert sorted(rated for setting, rated in cases if setting == "much") == [3, 6, 9, 12, 30]


def test_the_seeds_of_a_draw_share_one_ensemble(tmp_path):
    first, second = (experiment.runs_of(cfg_of(tmp_path), Job("much", 12, 1, "visual_ensemble", seed))
                     for seed in (0, 1))
    assert first == second and len(first) == 8
    other = experiment.runs_of(cfg_of(tmp_path), Job("much", 12, 2, "visual_ensemble", 0))
    assert not {runs.run_folder(one) for one in first} & {runs.run_folder(one) for one in other}


def test_shards_do_everything_once_and_never_the_same_teachers(tmp_path):
    cfg = cfg_of(tmp_path)
    chains = experiment.chains_of(experiment.jobs_of(cfg))
    shards = [experiment.shard_of(chains, f"{i}/3") for i in (1, 2, 3)]
    jobs = [job for shard in shards for chain in shard.values() for job in chain]
    assert sorted(jobs) == sorted(experiment.jobs_of(cfg))
    assert not set(shards[0]) & set(shards[1])


def test_the_students_network_is_the_baselines_and_no_epoch_is_chosen(tmp_path):
    network = "visual_backbone feature_size gru_size dropout linear_heads face_size epochs epoch_steps".split()
    cfg = cfg_of(tmp_path)
    visual = experiment.config_of(cfg, Job("much", 12, 0, "visual", 0))
    for method in METHODS:
        one = experiment.config_of(cfg, Job("much", 12, 0, method, 0))
        assert [getattr(one, name) for name in network] == [getattr(visual, name) for name in network]
        assert one.keep == "last"


def test_the_hash_of_a_row_follows_from_settings_teachers_and_corpus_and_not_from_draw_or_place(tmp_path, monkeypatch):
    job = Job("much", 12, 0, "student", 0)
    now = experiment.hash_of(cfg_of(tmp_path), job)
    assert now == experiment.hash_of(cfg_of(tmp_path / "elsewhere"), job._replace(draw=3, seed=1))
    others = [experiment.hash_of(cfg_of(tmp_path), job._replace(**{name: value})) for name, value in (
        ("rated", 30), ("setting", "nothing"), ("method", "control"), ("method", "self_training"))]
    others.append(experiment.hash_of(cfg_of(tmp_path, "--choose"), job))
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "STUDY", experiment.STUDY | dict(audio_backbone="small_cnn"))  # of its teachers alone
        others.append(experiment.hash_of(cfg_of(tmp_path), job))
    longer = dataclasses.replace(SETTINGS["much"], seconds=31)
    monkeypatch.setitem(SETTINGS, "much", longer)
    others.append(experiment.hash_of(cfg_of(tmp_path), job))
    assert len({now, *others}) == len(others) + 1
    monkeypatch.setitem(SETTINGS, "much", dataclasses.replace(longer, seconds=30, rated=(12, 15)))
    assert experiment.hash_of(cfg_of(tmp_path), job) == now  # another case is no reason to train this one again


@pytest.mark.parametrize("words, named", [
    (["--methods", "visuals"], "visual_ensemble"),
    (["--settings", "loud"], "recola"),
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
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), study.corpora.quiet_worker) as pool:
        futures = [pool.submit(busy, tmp_path, number) for number in range(4)]
        wait_for(tmp_path / "began_0")
        study.corpora.stop(pool)
    assert (tmp_path / "saved_0").exists() and futures[3].cancelled() and not (tmp_path / "began_3").exists()


# ---- a study in small -----------------------------------------------------------------------------------------------

SMALL = ["--quick", "--draws", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def small():
    """The study on nine subjects and a few seconds of each."""
    with pytest.MonkeyPatch.context() as patch:
        tiny = dataclasses.replace(SETTINGS["much"], rated=(3,), unlabelled=3, pool=7, reported=2, seconds=8)
        patch.setitem(QUICK, "much", tiny)
        patch.setattr(experiment, "QUICK_EPOCHS", 1)
        patch.setattr(experiment, "train_all", train_in_this_process)
        patch.setattr(experiment, "draw_corpus", drawn_in_this_process)
        changes = dict(feature_size=8, gru_size=8, clip_length=10, epoch_steps=2)
        patch.setattr(experiment, "STUDY", experiment.STUDY | changes)
        yield


def train_in_this_process(cfg, chains, hashes, file):
    """train_all(), whose processes would not see the patches."""
    for jobs in chains.values():
        experiment.train_chain(cfg, jobs, file)


def drawn_in_this_process(folder, setting, seed, workers, made=study.corpora.draw_corpus):
    """draw_corpus() with nothing left to draw: its processes would not see the patches."""
    for number in range(setting.subjects):
        if not (folder / "ratings_gold_standard" / f"person_{number + 1}.csv").exists():
            study.corpora.draw_subject(folder, setting, seed, (number, f"person_{number + 1}"))
    made(folder, setting, seed, workers)


@pytest.fixture(scope="module")
def studied(small, tmp_path_factory):
    """Data folder of a finished small study."""
    folder = tmp_path_factory.mktemp("study") / "data"
    experiment.main(["--data-dir", str(folder), *SMALL])
    return folder


def views(folder):
    return folder / "much" / "views"


def test_a_study_ends_with_a_row_for_every_method_target_and_subject(studied):
    results, methods = pd.read_csv(studied / "results.csv"), [*METHODS][:-1]  # student_rated is of another setting
    assert list(results.columns) == RESULTS.columns and list(dict.fromkeys(results.method)) == methods
    assert set(results.recording) == {"person_8", "person_9", "concatenated", "labels"}
    taught = results[results.recording == "labels"]
    assert list(taught.method) == ["self_training", "self_training", "student", "student", "control", "control"]
    assert results[["raw", "causal", "centred"]].stack().between(-1, 1).all() and (results.seconds >= 0).all()
    assert len(results) == len(methods) * 2 * 3 + len(taught) and results.machine.nunique() == 1
    assert (results.groupby("method").settings.nunique() == 1).all()
    assert "oracle" in (studied / "results.md").read_text() and (studied / "results.png").stat().st_size > 10_000


def predictions_of(folder, run, part="val", view="3_rated_draw0"):
    tables = sorted((views(folder) / view / "runs" / "seed0" / run / "predictions" / part).glob("*.csv"))
    return {path.stem: pd.read_csv(path) for path in tables}


def ccc_by_hand(pred, gold):
    apart = pred.var() + gold.var() + (pred.mean() - gold.mean()) ** 2
    return 2 * np.cov(pred, gold, bias=True)[0, 1] / apart


def levels_by_hand(pred, rated):
    """A recording's predictions at three levels, written out; rated: a series of ratings per rated subject."""
    mean = np.concatenate(rated).mean()
    sd = np.sqrt(np.mean([series.var() for series in rated]))
    prior = 10 * 1.25  # 10 s
    means = [(prior * mean + pred[:k + 1].sum()) / (prior + k + 1) for k in range(len(pred))]
    causal = pred - np.array(means) + mean
    return {"raw": pred, "causal": causal, "centred": (pred - pred.mean()) * sd / pred.std() + mean}


@pytest.mark.parametrize("method, run", [("visual", "visual_both"), ("student", "student_both_pseudo_student")])
def test_the_scores_are_those_of_the_predictions_on_disk_at_three_levels(studied, method, run):
    results = pd.read_csv(studied / "results.csv")
    rated = predictions_of(studied, run, "train")
    for name, table in predictions_of(studied, run).items():
        for target in ("arousal", "valence"):
            row = results[(results.method == method) & (results.recording == name) & (results.target == target)].iloc[0]
            levels = levels_by_hand(table[f"{target}_pred"].to_numpy(),
                                    [each[f"{target}_gold"].to_numpy() for each in rated.values()])
            for column, pred in levels.items():
                by_hand = ccc_by_hand(pred, table[f"{target}_gold"].to_numpy())
                assert row[column] == pytest.approx(by_hand, abs=1e-4), (method, name, target, column)


def test_the_labels_of_unlabelled_subjects_are_compared_with_their_true_ratings(studied):
    results, means = pd.read_csv(studied / "results.csv"), []
    view = views(studied) / "3_rated_draw0"
    for path in (view / "Annotations" / "Unlabelled_Set").iterdir():
        truth = pd.read_csv(studied / "much" / "Annotations" / "Train_Set" / path.name)
        labels = pd.read_csv(view / "runs" / "seed0" / "student_both_pseudo_student" / "labels" / path.name)
        means.append(ccc_by_hand(labels["arousal"].to_numpy(), truth["arousal"].to_numpy()))
    row = results[(results.method == "student") & (results.recording == "labels")].iloc[0]
    assert len(means) == 3 and row.target == "arousal" and row.raw == pytest.approx(np.mean(means), abs=1e-4)


def test_the_ensemble_is_the_mean_of_networks_that_are_trained_as_the_baseline_is(studied):
    results = pd.read_csv(studied / "results.csv")
    names = ["visual_both", *(f"visual_both_net{k}" for k in range(2, 7))]  # a student of three folds has six teachers
    members = [predictions_of(studied, name) for name in names]
    for subject in ("person_8", "person_9"):
        pred = np.mean([member[subject]["arousal_pred"] for member in members], axis=0)
        row = results[(results.method == "visual_ensemble") & (results.recording == subject)
                      & (results.target == "arousal")].iloc[0]
        assert row.raw == pytest.approx(ccc_by_hand(pred, members[0][subject]["arousal_gold"].to_numpy()), abs=1e-4)


def test_teachers_are_trained_once_and_the_visual_ones_copied_to_other_voices(studied):
    own, other = ({path.name for path in (views(studied) / f"3_rated_draw0{end}" / "runs" / "seed0").glob("*_both*")}
                  for end in ("", "_other_voice"))
    assert not [name for name in own | other if name.startswith(("visual", "audio")) and name.endswith(
        ("student", "self_training", "control", "visual_ensemble"))]
    assert {name for name in other if name.startswith("audio")} == {f"audio_both_fold{k}of3" for k in (1, 2, 3)}
    for name in (name for name in other if name.startswith("visual")):
        files = [views(studied) / f"3_rated_draw0{end}" / "runs" / "seed0" / name / "log.jsonl"
                 for end in ("", "_other_voice")]
        assert files[0].read_bytes() == files[1].read_bytes()  # with the seconds that it took


def test_the_confirmation_test_is_noted_with_ones_own_voice_and_with_anothers(studied):
    gate = pd.read_csv(studied / "results_gate.csv")
    assert list(gate.columns) == GATE.columns and len(gate) == 4
    for row in gate.itertuples():
        run = {"student": "3_rated_draw0/runs/seed0/student_both_pseudo_student",
               "control": "3_rated_draw0_other_voice/runs/seed0/student_both_pseudo_control_gate"}[row.method]
        test = json.loads((views(studied) / run / "labels" / "teachers.json").read_text())[row.target]["audio"]
        assert (row.passed, row.recordings) == (test["passed"], test["recordings"])
        assert row.excess == pytest.approx(test["excess"], abs=1e-5)
    used = json.loads((views(studied) / "3_rated_draw0_other_voice" / "runs" / "seed0" / "student_both_pseudo_control"
                       / "labels" / "teachers.json").read_text())
    assert "audio" not in used["arousal"]  # the control itself uses its teachers untested


def test_report_alone_reads_the_results_and_says_if_there_are_none(small, studied, tmp_path, capsys, call):
    folder = copied(studied, tmp_path / "data")
    shutil.rmtree(folder / "much")
    (folder / "results.md").unlink()
    experiment.main(["--data-dir", str(folder), *SMALL, "--report"])
    assert (folder / "results.md").read_bytes() == (studied / "results.md").read_bytes()
    code, _, err = call("experiment", "--quick", "--data-dir", tmp_path / "none", "--report")
    assert "results.csv" in one_line(code, err)


def test_what_has_its_rows_is_not_trained_again_though_its_folder_is_gone(small, studied, tmp_path, monkeypatch):
    """As on another machine; and the next draw is trained alone."""
    folder, trained = copied(studied, tmp_path / "data"), []
    shutil.rmtree(folder / "much")
    before = (folder / "results.csv").read_bytes()
    monkeypatch.setattr(experiment, "train_chain", lambda cfg, jobs, file: trained.extend(jobs))
    monkeypatch.setattr(experiment, "make_data", lambda cfg, chains: None)
    experiment.main(["--data-dir", str(folder), *SMALL])
    assert not trained and (folder / "results.csv").read_bytes() == before
    experiment.main(["--data-dir", str(folder), *SMALL, "--draws", "2", "--methods", "visual", "student"])
    assert trained == [Job("much", 3, 1, "visual", 0), Job("much", 3, 1, "student", 0)]
    trained.clear()
    table = pd.read_csv(folder / "results.csv")
    table.loc[table.method == "oracle", "settings"] = "00000000"  # trained with others than today's
    table.to_csv(folder / "results.csv", index=False)
    experiment.main(["--data-dir", str(folder), *SMALL])
    assert [job.method for job in trained] == ["oracle"]


def test_a_finished_run_without_rows_is_scored_and_not_trained_again(small, studied, tmp_path):
    """As after a kill between the two; rows of other runs stay as they are."""
    folder = copied(studied, tmp_path / "data")
    table = pd.read_csv(folder / "results.csv")
    table.loc[table.method == "oracle", "raw"] = 0.5
    table[table.method != "student"].to_csv(folder / "results.csv", index=False)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    experiment.main(["--data-dir", str(folder), *SMALL])
    assert times and times == {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    pd.testing.assert_frame_equal(pd.read_csv(folder / "results.csv"), table)


def test_rows_of_other_machines_beside_the_file_are_taken_in(small, studied, tmp_path):
    folder = copied(studied, tmp_path / "data")
    table = pd.read_csv(folder / "results.csv")
    new = table[table.method == "visual"].assign(draw=1, machine="another")
    changed = table[table.method == "oracle"].assign(raw=0.9)  # known already
    pd.concat([new, changed]).to_csv(folder / "results.h100.csv", index=False)
    gate = pd.read_csv(folder / "results_gate.csv")
    gate.assign(draw=1).to_csv(folder / "results_gate.h100.csv", index=False)
    experiment.main(["--data-dir", str(folder), *SMALL, "--report"])
    pd.testing.assert_frame_equal(pd.read_csv(folder / "results.csv"), in_order(pd.concat([table, new]), RESULTS))
    assert list(pd.read_csv(folder / "results_gate.csv").draw) == [0] * 4 + [1] * 4


def test_several_processes_may_write_results_at_once(tmp_path):
    rows = [["much", 3, draw, "visual", 0, "arousal", f"person_{k}", 0.1, 0.2, 0.3, 1.0, "cpu", "x"]
            for draw in range(8) for k in range(50)]
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(merge, rows[50 * k:50 * k + 50], tmp_path / "results.csv") for k in range(8)]:
            future.result()
    assert len(pd.read_csv(tmp_path / "results.csv")) == 400


def test_the_corpora_hold_as_many_frames_a_second_as_they_have_ratings(studied):
    corpus = studied / "much"
    ratings = (corpus / "ratings_gold_standard" / "person_1.csv").read_text().splitlines()
    assert len(ratings) == 11  # one more than frames, as RECOLA has
    assert len(list((corpus / "Cropped_Aligned" / "person_1").glob("0*.jpg"))) == 10
    assert len(list((corpus / "specs" / "person_1").glob("*.png"))) == 10


def test_unlabelled_subjects_have_no_ratings_and_the_other_voice_is_another_subjects(studied):
    subjects = study.corpora.split(QUICK["much"], 3, 0, experiment.seed_of(cfg_of("x", "--quick"), "much"))
    for view in ("3_rated_draw0", "3_rated_draw0_other_voice"):
        files = sorted((views(studied) / view / "Annotations" / "Unlabelled_Set").iterdir())
        assert {path.stem for path in files} == {f"person_{number + 1}" for number in subjects["Unlabelled_Set"]}
        assert list(pd.read_csv(files[0]).columns) == ["image path", "spec path"]
    for end, is_own in (("", True), ("_other_voice", False)):
        view = views(studied) / f"3_rated_draw0{end}"
        for path in (view / "Annotations").glob("*/*.csv"):
            voice = (view / "specs" / path.stem).resolve()
            assert (voice.name == path.stem) == is_own and voice.parent == (studied / "much" / "specs").resolve()
            assert (path.parent / f"{voice.name}.csv").exists(), "the voice is of another partition"


def test_a_damaged_file_of_predictions_is_named(small, studied, tmp_path):
    folder = copied(studied, tmp_path / "data")
    there = views(folder) / "3_rated_draw0" / "runs" / "seed0" / "student_both_pseudo_student"
    (there / "predictions" / "val" / "person_8.csv").write_text("time_s\n")
    with pytest.raises(UserError, match="student_both_pseudo_student.*person_8.csv"):
        experiment.rows_of(cfg_of(folder, "--quick"), Job("much", 3, 0, "student", 0))


def test_a_finished_run_of_a_method_that_was_changed_since_is_refused(small, studied, monkeypatch):
    """Or its row would be described by what the method is now."""
    before = (studied / "results.csv").read_bytes()
    student = METHODS["student"]
    monkeypatch.setitem(METHODS, "student", student._replace(settings=student.settings | dict(confirm_audio=False)))
    with pytest.raises(UserError, match="student_both_pseudo_student.*confirm_audio True, now False"):
        experiment.main(["--data-dir", str(studied), *SMALL])
    monkeypatch.setitem(METHODS, "student", student)
    monkeypatch.setattr(experiment, "QUICK_EPOCHS", 2)
    with pytest.raises(UserError, match="visual_both.*epochs 1, now 2"):
        experiment.main(["--data-dir", str(studied), *SMALL])
    assert (studied / "results.csv").read_bytes() == before


def test_a_corpus_that_was_drawn_with_other_settings_is_refused(small, studied, monkeypatch):
    monkeypatch.setitem(QUICK, "much", dataclasses.replace(QUICK["much"], seconds=9))
    with pytest.raises(UserError, match="much/ was drawn with other settings"):
        experiment.make_data(cfg_of(studied, "--quick"), {"": [Job("much", 3, 0, "visual", 0)]})


def test_settings_of_another_size_are_refused(small, studied):
    with pytest.raises(UserError, match="quick"):
        experiment.main(["--data-dir", str(studied), "--seeds", "1", "--methods", "visual", "--settings", "much"])
