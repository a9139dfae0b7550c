"""The study: what may be expected with n rated subjects, and how much of it comes from hearing?

Reads   nothing: the subjects are drawn (drawn/), and go through every script as a corpus does
Writes  data_study/<setting>/                a corpus of drawn subjects, as demo.py makes one
        data_study/<setting>/views/<rated>_rated_draw<d>/   who of them is rated, unlabelled, reported; runs/seed<k>/ of
                                             every method; beside it views with true ratings of all, with other voices
        docs/results.csv results_gate.csv    a row per run, target and subject, one of a student's labels; the
                                             confirmation tests (--choose: choice)
        docs/results.md results.png          tables and figure made of them (--choose: choice)
        docs/study.md                        only its tables; the words around them are written by hand

    python experiment.py                    the whole study: some 9 hours on 2 cores; resumes where it was stopped
    python experiment.py --quick            a small one, under 10 minutes; into data_quick/, docs/ stays as it is
    python experiment.py --choose           on development subjects, none of which is reported
    python experiment.py --list             settings, methods, and how many of their runs are finished
    python experiment.py --settings much --methods visual student       only these
    python experiment.py --shard 1/4        every fourth draw: of a job array, or on one of four devices (--device)
    python experiment.py --report           only the tables and the figure, from docs/results.csv

A run whose rows are in docs/results.csv is not trained again, also where its folder is gone: another machine can go on
with that file. What others wrote can be put beside it as docs/results.<word>.csv (results_gate.<word>.csv): it is taken
in. Cases (a setting, a number of rated subjects) are trained one after the other, each with all its draws and seeds, so
that a study that is stopped has whole cases, with their intervals. No epoch is chosen on the reported subjects: every
run keeps its last one.
"""
import contextlib
import dataclasses
import json
import multiprocessing
import shutil
import signal
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from support.settings import answer_first, parse_config, read_settings

answer_first(__name__, __file__, __doc__, data_dir="data_study")

import numpy as np
import torch
from tqdm import tqdm

import data
import mmpkd
import pseudo_labels
import runs
from config import Config
from postprocessing import rating_level, relevel
from runs import read_log
from scores import mean_tables, prediction_table, read_predictions, score
from study.corpora import draw_corpus, facts_of, make_view, quiet_worker, split, stop
from study.methods import (
    DEVELOPMENT_SEED,
    EPOCHS,
    FIRST_SEED,
    METHODS,
    QUICK,
    QUICK_EPOCHS,
    RATE,
    SETTINGS,
    STUDY,
    TEACHER_FOLDS,
)
from study.results import GATE, LABELS, LEVELS, gate_file, merge, read_results, runs_in, take_in
from study.tables import report
from support.checksums import digest
from support.errors import SettingsError, UserError, run_script, torch_device
from support.files import claimed, whole_folder
from support.machine import cores, processor
from support.recordings import PARTITIONS, TARGETS, UNLABELLED, keep_settings, shard_of

GATED = ("student", "control")  # whose audio teachers' confirmation test is reported


# ---- jobs -----------------------------------------------------------------------------------------------------------

class Job(NamedTuple):
    """One run of the tables."""
    setting: str
    rated: int
    draw: int
    method: str
    seed: int


def settings_in(cfg):
    """{name: Setting} of the study that is asked for."""
    return QUICK if cfg.quick else SETTINGS


def seed_of(cfg, setting):
    """The seed of a setting's drawn subjects."""
    return (DEVELOPMENT_SEED if cfg.choose or cfg.quick else FIRST_SEED) + [*SETTINGS].index(setting)


def corpus_folder(cfg, setting):
    return Path(cfg.data_dir, "development" if cfg.choose else "", setting)


def view_folder(cfg, job, view=None):
    """The data folder that a job is trained in."""
    view = METHODS[job.method].view if view is None else view
    name = f"{job.rated}_rated_draw{job.draw}" + f"_{view}" * bool(view)
    return corpus_folder(cfg, job.setting) / "views" / name


def config_of(cfg, job):
    """The Config of a job's run; for an ensemble, that of its first network, the baseline of the draw's first seed."""
    method, folder = METHODS[job.method], view_folder(cfg, job)
    job = job._replace(seed=0) if method.ensemble else job
    changes = dict(epochs=QUICK_EPOCHS if cfg.quick else EPOCHS, teacher_folds=min(TEACHER_FOLDS, job.rated))
    if method.settings["stage"] == "student":
        changes["variant"] = job.method
    places = dict(data_dir=str(folder), runs_dir=str(folder / "runs" / f"seed{job.seed}"))
    seed = 100 * job.draw + job.seed  # the seeds of one draw are others than those of the next
    return Config(**STUDY | method.settings | changes | places | dict(seed=seed, device=cfg.device))


def runs_of(cfg, job):
    """Configs of the runs of a job, the last of which is its own, or those of an ensemble, whose seeds differ.

    What a student needs has no variant, so that all students of a chain share it.
    """
    one = config_of(cfg, job)
    if METHODS[job.method].ensemble:  # as many networks as the student has teachers
        return [dataclasses.replace(one, seed=one.seed + k * runs.NEXT_SEED, variant=f"net{k + 1}" * bool(k))
                for k in range(2 * one.teacher_folds)]
    tested = one.confirm_audio or job.method in GATED
    needed = dataclasses.replace(one, variant="", confirm_audio=tested)
    return [*(runs.needed_by(needed) if one.stage == "student" else []), one]


def hash_of(cfg, job):
    """A short text that differs when settings, teachers or subjects that a job's rows follow from do, but for its draw
    and seed. It does not tell changed code, such as constants of pseudo_labels.py, apart: that needs other subjects."""
    method, setting = METHODS[job.method], settings_in(cfg)[job.setting]
    facts = [facts_of(setting, seed_of(cfg, job.setting)), job.rated, method.view, method.ensemble]
    for each in runs_of(cfg, job):
        facts.append(runs.settings_of(each) | {"epochs": each.epochs, "seed": 0})
    return digest(json.dumps(facts, sort_keys=True).encode())[:8]


def hashes_of(cfg):
    """{job: hash_of it} of all jobs of the study, also of those that the command does not ask for."""
    known = {}  # draws and seeds share theirs
    jobs = jobs_of(dataclasses.replace(cfg, settings=(), methods=()))
    for job in jobs:
        key = job._replace(draw=0, seed=0)
        known[key] = known.get(key) or hash_of(cfg, key)
    return {job: known[job._replace(draw=0, seed=0)] for job in jobs}


def outdated(hashes, file):
    """[(setting, rated, method)] with runs in the file of results that are of other settings than today's."""
    runs = [Job(*run) for run, settings in runs_in(file).items() if hashes.get(run, settings) != settings]
    return [*dict.fromkeys((job.setting, job.rated, job.method) for job in runs)]


def jobs_of(cfg):
    """All jobs that the command asks for, case by case. Raises SettingsError for an unknown name."""
    there = settings_in(cfg)
    for what, given, known in (("settings", cfg.settings, there), ("methods", cfg.methods, METHODS)):
        for name in set(given) - set(known):
            raise SettingsError(f"{what}: there is no {name!r}; there are {', '.join(known)}")
    cases = [[(name, rated) for rated in there[name].rated] for name in there if name in (cfg.settings or there)]
    cases = [case for turn in zip_longest(*cases) for case in turn if case]  # the first case of each setting first
    methods = [name for name in METHODS if name in (cfg.methods or METHODS)]
    return [Job(setting, rated, draw, method, seed) for setting, rated in cases for draw in range(cfg.draws)
            for seed in range(cfg.seeds) for method in methods if setting in METHODS[method].where]


def chains_of(jobs):
    """Jobs that share networks, which are those of one case and draw: {case and draw: [jobs]}."""
    chains = {}
    for job in jobs:
        chains.setdefault((job.setting, job.rated, job.draw), []).append(job)
    return chains


def left_of(chains, hashes, file):
    """The chains with those of their jobs alone that have no rows of today's settings in the file of results.

    hashes: {job: hash_of it}
    """
    done = runs_in(file)
    chains = {key: [job for job in jobs if done.get(job) != hashes[job]] for key, jobs in chains.items()}
    return {key: jobs for key, jobs in chains.items() if jobs}


def make_data(cfg, chains):
    """Draws the corpora of chains and makes their views, where they are missing."""
    for job in {view_folder(cfg, job): job for jobs in chains.values() for job in jobs}.values():
        setting, seed = settings_in(cfg)[job.setting], seed_of(cfg, job.setting)
        corpus, view = corpus_folder(cfg, job.setting), METHODS[job.method].view
        corpus.mkdir(parents=True, exist_ok=True)
        with claimed(corpus, "drawn", wait=True):  # of shards that start together one draws
            draw_corpus(corpus, setting, seed, cfg.workers or cores())
            subjects = split(setting, job.rated, job.draw, seed, view)
            make_view(corpus, view_folder(cfg, job), subjects, view == "other_voice")


# ---- training -------------------------------------------------------------------------------------------------------

def check_finished(cfg, chains):
    """Raises UserError, naming what differs, if a finished run has other settings than its row has now."""
    for job in (job for jobs in chains.values() for job in jobs):
        for each in runs_of(cfg, job):
            folder = runs.run_folder(each)
            if not (folder / "predictions").exists():
                continue
            changed = runs.changed(read_settings(folder / "config.json"),
                                   runs.settings_of(each) | {"epochs": each.epochs})
            if differ := "; ".join(f"{name} {was}, now {value}" for name, was, value in changed):
                raise UserError(f"{folder}/ is a run of {job.method} with other settings ({differ}): delete it and the "
                                "students of that teacher, or name another place with --data-dir")


def train_chain(cfg, jobs, file):
    """Trains jobs that share networks, one after the other, and brings each into the results as soon as it is finished;
    their output goes into log.txt beside the runs."""
    for job in jobs:
        one = config_of(cfg, job)
        one.run_root.mkdir(parents=True, exist_ok=True)
        with open(one.run_root / "log.txt", "a", buffering=1) as log, contextlib.redirect_stdout(log):
            device = torch_device(one.device)
            for each in runs_of(cfg, job):
                copy_visual(each)
                mmpkd.check_before([each])  # a student's teachers are there by now
                mmpkd.train(each, device)
            if job.method in GATED:
                merge(gate_rows(cfg, job, device), gate_file(file), GATE)
            merge(rows_of(cfg, job), file)


def copy_visual(needed):
    """Copies a visual run from the view with one's own voice to that with another's, in which it would be the same."""
    there, here = (runs.run_folder(dataclasses.replace(needed, runs_dir=folder))
                   for folder in (needed.runs_dir.replace("_other_voice", ""), needed.runs_dir))
    if needed.stage == "visual" and there != here and (there / "predictions").exists() and not here.exists():
        with whole_folder(here) as part:
            shutil.copytree(there, part, dirs_exist_ok=True)


def train_all(cfg, chains, hashes, file):
    """Trains what has no rows yet, several chains at once."""
    total = sum(map(len, chains.values()))
    workers = cfg.workers or (1 if torch_device(cfg.device).type == "cuda" else cores())
    with (ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), quiet_worker) as pool,
          tqdm(total=total, unit=" runs", disable=None, smoothing=0) as bar):
        running = {pool.submit(train_chain, cfg, jobs, file) for jobs in chains.values()}
        try:
            while running:
                done, running = wait(running, timeout=20, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                bar.n = total - sum(map(len, left_of(chains, hashes, file).values()))
                bar.refresh()
        except BaseException:
            stop(pool)
            raise


# ---- results --------------------------------------------------------------------------------------------------------

def rows_of(cfg, job):
    """Scores of a finished run, or of the mean prediction of an ensemble: rows of RESULTS, one per target and subject,
    one per target of all concatenated, and one of the pseudo-labels that it learned from.

    seconds: of training and validation, as if every epoch had taken as long as the median one; others are longer where
    the machine was busy or asleep. Those of an ensemble stand in the rows of the first seed alone.
    """
    members = runs_of(cfg, job) if METHODS[job.method].ensemble else [config_of(cfg, job)]
    folders = [runs.run_folder(member) for member in members]
    tables = mean_tables([read_predictions(folder, "val", RATE) for folder in folders])
    rated = read_predictions(folders[0], "train", RATE)
    scores = {column: score(at_level(tables, rated, level), TARGETS) for column, level in LEVELS.items()}
    if labels := labels_of(cfg, job):
        for column, level in LEVELS.items():
            for target, values in score(at_level(labels, rated, level), TARGETS).items():
                scores[column][target][LABELS] = values["mean"]
    seconds = 0 if METHODS[job.method].ensemble and job.seed else round(sum(map(seconds_of, folders)), 1)
    device = torch_device(cfg.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return [[*job, target, name, *(round(scores[column][target][name], 5) for column in LEVELS), seconds, machine,
             hash_of(cfg, job)] for target in TARGETS for name in scores["raw"][target] if name != "mean"]


def labels_of(cfg, job):
    """The pseudo-labels of a run's unlabelled subjects beside their true ratings, {id: scores.prediction_table}; {} if
    it learned from none."""
    folder = runs.run_folder(config_of(cfg, job))
    if not (folder / "labels").exists():
        return {}
    subjects = split(settings_in(cfg)[job.setting], job.rated, job.draw, seed_of(cfg, job.setting))[UNLABELLED]
    truth = corpus_folder(cfg, job.setting) / "Annotations" / PARTITIONS["train"]
    recordings = [data.read_recording(truth / f"person_{number + 1}.csv", TARGETS, {}) for number in subjects]
    labels = pseudo_labels.read_labels(folder, recordings, TARGETS)
    return {one.name: prediction_table(one, labels[one.name], TARGETS, RATE) for one in recordings}


def seconds_of(folder):
    """Seconds of training of a run."""
    seconds = [entry["seconds"] for entry in read_log(folder)]
    return float(np.median(seconds) * len(seconds))


def at_level(tables, rated, level):
    """Predictions {id: scores.prediction_table} at another level (postprocessing.relevel); rated: those of the rated
    subjects, for their ratings."""
    changed = {name: table.copy() for name, table in tables.items()}
    for target in TARGETS:
        mean, sd = rating_level([table[f"{target}_gold"].to_numpy() for table in rated.values()])
        for table in changed.values():
            table[f"{target}_pred"] = relevel(table[f"{target}_pred"].to_numpy(), level, mean, sd, RATE)
    return changed


def gate_rows(cfg, job, device):
    """The confirmation test of a student's audio teachers, whether or not it used it: rows of GATE, one per target."""
    one = config_of(cfg, job)
    if not one.confirm_audio:  # labels are made as if it did
        one = dataclasses.replace(one, confirm_audio=True, variant=f"{one.variant}_gate")
        shutil.rmtree(runs.run_folder(one) / "labels", ignore_errors=True)  # of other networks, maybe
        sets = data.load_sets(one, runs.read_in_training(one), runs.INPUTS[one.stage], True)
        shapes = data.image_shapes([recording for recordings in sets.values() for recording in recordings])
        mmpkd.label(sets, shapes, one, device)
    tests = {target: about["audio"] for target, about in pseudo_labels.read_report(runs.run_folder(one)).items()}
    return [[*job, target, int(test["passed"]), *(round(test[name], 5) for name in ("excess", "error")),
             test["recordings"], hash_of(cfg, job)] for target, test in tests.items()]


# ---- main -----------------------------------------------------------------------------------------------------------

def listing(cfg, chains, left):
    """Settings, methods, and how many of their runs are finished, as text."""
    lines = [f"{name:16} {setting.description}: {', '.join(map(str, setting.rated))} rated, {setting.unlabelled} "
             f"unlabelled, {setting.reported} reported" for name, setting in settings_in(cfg).items()]
    for name, method in METHODS.items():
        total, missing = (sum(job.method == name for jobs in part.values() for job in jobs) for part in (chains, left))
        if total:
            lines.append(f"{name:16} {total - missing:3}/{total:<3} {method.description}")
    return "\n".join(lines)


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__, data_dir="data_study")
    if cfg.quick:
        cfg = parse_config(argv, __file__, __doc__, data_dir="data_quick", draws=2, seeds=1)
    began, chains = time.perf_counter(), shard_of(chains_of(jobs_of(cfg)), cfg.shard)
    folder = Path(cfg.data_dir) if cfg.quick else Path(__file__).with_name("docs")
    file = folder / ("choice.csv" if cfg.choose else "results.csv")
    hashes = hashes_of(cfg)
    take_in(file, hashes)
    left = left_of(chains, hashes, file)
    if cfg.list:
        print(listing(cfg, chains, left))
        return None
    if not cfg.report and left:
        keep_settings(cfg.data_dir, cfg, "quick")
        check_finished(cfg, left)
        make_data(cfg, left)
        train_all(cfg, left, hashes, file)
    if not file.exists():
        raise UserError(f"{file} is not there: run the same without --report first")
    print(report(file, settings_in(cfg), outdated(hashes, file)))
    results = read_results(file)
    print(f"{file}: {len(results)} rows; done in {(time.perf_counter() - began) / 60:.1f} minutes")
    return results


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's request to stop is handled as Ctrl-C is
    raise SystemExit(run_script(main, __file__))
