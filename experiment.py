"""The study: does a teacher that hears help a student that only sees? Every method, control and bound in one command.

Reads   nothing: people are drawn (drawn_people.py), and go through every script as a corpus does
Writes  data_study/<corpus>/                        a corpus of drawn people, as demo.py makes one
        data_study/<corpus>/views/<view>/           who of them is rated, unlabelled, reported; runs/seed<k>/ of every method
        docs/results.csv results.md results_*.png   a row per run, target and person; what they say (--choose: docs/choice*)
        docs/study.md                               its tables; the words around them are a person's

    python experiment.py                    the whole study: some 11 hours on 2 cores; goes on where it was stopped
    python experiment.py --quick            a small one, under 10 minutes; into data_quick/, docs/ stays as it is
    python experiment.py --choose           compares the methods by cross-validation over the rated people of Train_Set
    python experiment.py --list             what there is to run: settings, methods, how far they are
    python experiment.py --settings much --methods visual recipe        only these
    python experiment.py --shard 1/4        a quarter of the runs, for a job array, or with --device cuda:0 for one of four devices
    python experiment.py --report           only the tables and figures, from docs/results.csv

No epoch is chosen on the people it reports: every run keeps its last one. Methods are compared with --choose on people held out of
Train_Set, in folders that hold nothing of the others; what was worth comparing had partly been seen in earlier tables (docs/study.md).
"""
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import soundfile
import torch
from tqdm import tqdm

import annotations
import audio_extract
import audio_melspec
import face_detector_frameRetention
import mmpkd
from annotations import SUMMARIES, TARGETS, UNLABELLED, die_with_parent, keep_settings, shard_of
from config import Config, SettingsError, UserError, claimed, parse_config, read_settings, run_script, torch_device, whole_file, whole_folder
from demo import call
from drawn_people import FRAME_RATE, SOUND_RATE, write_video
from drawn_people import Recording as Drawn
from mmpkd import PARTITIONS
from study.methods import FACES, METHODS, MUCH, NETWORKS, QUICK, QUICK_METHODS, SETTINGS, SPECS
from study.results import merge, report
from training import read_log

RATE = 5  # ratings, faces and spectrograms per second: neighbours at 25 are almost the same picture, and cost five times the work
SECONDS = 30  # of each person
FIRST_SEED = 10  # of the people drawn; those of 1 were looked at before the recipe was what it is
FOLDS = 3  # of the rated people, with --choose
# Every run takes as many gradient steps, however many people it learns from: an epoch of 12 people would leave the baseline half trained
EPOCHS, QUICK_EPOCHS, EPOCH_STEPS = 50, 4, 38
STUDY = FACES | SPECS | NETWORKS | dict(
    visual_backbone="tiny_cnn", audio_backbone="tiny_cnn", target="both", keep="last", precision="float32", frame_rate=float(RATE), resume=True,
    clip_length=30, batch_size=8, epoch_steps=EPOCH_STEPS)


# ---- corpora --------------------------------------------------------------------------------------------------------

def setting_of(cfg, name):
    """A setting, with fewer people for --quick."""
    return dataclasses.replace(SETTINGS[name], **QUICK) if cfg.quick else SETTINGS[name]


def draw_corpus(folder, setting, seed, workers):
    """A setting's people as a corpus ships, and every script run on them."""
    names = [f"person_{number + 1}" for number in range(setting.people)]
    missing = [(number, name) for number, name in enumerate(names) if not Path(folder, "ratings_gold_standard", f"{name}.csv").exists()]
    if missing:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker) as pool:
            work = pool.map(partial(draw_person, folder, setting.world, seed), missing)
            list(tqdm(work, f"drawing {folder.name}", len(missing), unit=" people", disable=None, leave=False))
    if all((folder / "Annotations" / PARTITIONS["train"] / f"{name}.csv").exists() for name in names) and (folder / ".made").exists():
        return
    data, rate = {"data_dir": folder}, {"frame_rate": RATE}
    call(annotations, **data, **rate, train_ids="person_*")
    call(face_detector_frameRetention, **data, **rate, **FACES, look_every=1)
    call(audio_extract, **data, **rate)
    call(audio_melspec, **data, **SPECS)
    (folder / ".made").touch()


def draw_person(folder, world, seed, numbered_name):
    """Draws one person, as RATE pictures and ratings per second. The ratings are written last: they mark it as whole."""
    number, name = numbered_name
    step, drawn = FRAME_RATE // RATE, Drawn.draw((seed, number), SECONDS * FRAME_RATE, world)
    pictures = (drawn.painter.paint(drawn.actions, drawn.motion, k) for k in range(0, SECONDS * FRAME_RATE, step))
    write_video(folder / "videos" / f"{name}.mp4", pictures, drawn.sound, RATE)
    with whole_file(folder / "audio" / f"{name}.wav") as part:
        soundfile.write(part, drawn.sound, SOUND_RATE, subtype="PCM_16")
    with whole_file(folder / "ratings_gold_standard" / f"{name}.csv") as part:
        part.write_text("".join(f"{arousal:.4f};{valence:.4f}\n" for arousal, valence in drawn.gold[::step]))


def _begin_worker():
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair, which asks politely
    threading.Thread(target=die_with_parent, daemon=True).start()


# ---- views: who is rated, who is not, who is reported ---------------------------------------------------------------

def split(setting, view):
    """{partition: numbers of people} of a view: "rated", "noiseless", "oracle", "other_voice", or "fold1" ... of FOLDS."""
    rated, unlabelled, reported = np.split(np.arange(setting.people), [setting.rated, setting.rated + setting.unlabelled])
    if view == "oracle":
        return {PARTITIONS["train"]: [*rated, *unlabelled], UNLABELLED: [], PARTITIONS["val"]: reported}
    if view.startswith("fold"):
        out = rated[int(view.removeprefix("fold")) - 1::FOLDS]
        return {PARTITIONS["train"]: [n for n in rated if n not in out], UNLABELLED: unlabelled, PARTITIONS["val"]: out}
    return {PARTITIONS["train"]: rated, UNLABELLED: unlabelled, PARTITIONS["val"]: reported}


def make_view(corpus, folder, setting, view, seed=None):
    """A data folder with its own Annotations/, and the corpus' crops and spectrograms. With "other_voice" everybody has the spectrograms of the
    next person of the same partition, with "noiseless" people to learn from have the ratings of raters who do not err (seed: of the corpus)."""
    for partition, numbers in split(setting, view).items():
        for place, number in enumerate(numbers):
            name, voice_of = (f"person_{n + 1}" for n in (number, numbers[(place + 1) % len(numbers)] if view == "other_voice" else number))
            table = pd.read_csv(corpus / "Annotations" / PARTITIONS["train"] / f"{name}.csv", dtype=str, keep_default_na=False)
            table["spec path"] = table["spec path"].str.replace(f"{name}/", f"{voice_of}/", regex=False)
            if partition == UNLABELLED:
                table = table[["image path", "spec path"]]
            elif partition == PARTITIONS["train"] and view == "noiseless":
                table[TARGETS] = noiseless_ratings(setting.world, (seed, number))[:len(table)]
            annotations.write_table(folder / "Annotations" / partition / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    for name in ("Cropped_Aligned", "specs"):
        if not (folder / name).exists():
            (folder / name).symlink_to((corpus / name).resolve())


def noiseless_ratings(world, seed):
    """What the raters of a person would have said, had they all used the slider alike and without errors, as late as they were: (ratings, 2)."""
    world = dataclasses.replace(world, rater_noise=0.0, rater_spread=0.0)
    return Drawn.draw(seed, SECONDS * FRAME_RATE, world).gold[::FRAME_RATE // RATE].round(4)


# ---- methods --------------------------------------------------------------------------------------------------------

class Job(NamedTuple):
    """One run of the table."""
    setting: str
    method: str
    seed: int
    fold: int  # of --choose, from 1; 0: reported on Val_Set


def view_folder(cfg, job):
    """The data folder that a job is trained in."""
    setting, view = SETTINGS[job.setting], f"fold{job.fold}" if job.fold else METHODS[job.method].view
    return Path(cfg.data_dir, setting.corpus or job.setting, "views", f"{job.setting}_{view}")


def settings_of(cfg, job):
    """The Config of a job."""
    method, folder = METHODS[job.method], view_folder(cfg, job)
    changes = {"epochs": QUICK_EPOCHS if cfg.quick else EPOCHS} | method.settings
    named = {"variant": job.method} if method.settings["stage"] == "student" or len(method.settings) > 1 else {}
    return Config(**STUDY | changes | named | dict(data_dir=str(folder), runs_dir=str(folder / "runs" / f"seed{job.seed}"), seed=job.seed,
                                                   device=cfg.device))


def jobs_of(cfg):
    """All jobs that the command asks for, those that others build on first. Raises SettingsError for a name that there is not."""
    for what, given, there in (("settings", cfg.settings, SETTINGS), ("methods", cfg.methods, METHODS)):
        for name in set(given) - set(there):
            raise SettingsError(f"{what}: there is no {name!r}; there are {', '.join(there)}")
    settings = cfg.settings or (MUCH if cfg.quick else tuple(SETTINGS))
    methods = cfg.methods or (QUICK_METHODS if cfg.quick else tuple(METHODS))
    folds = range(1, FOLDS + 1) if cfg.choose else (0,)
    return [Job(setting, method, seed, fold) for setting in SETTINGS if setting in settings for method in METHODS if method in methods
            for seed in range(cfg.seeds) for fold in folds
            if setting in METHODS[method].where and not (fold and METHODS[method].view != "rated")]


def make_data(cfg, chains):
    """Draws the corpora of jobs, and makes their views, where they are not there yet."""
    for job in {view_folder(cfg, job): job for chain in chains.values() for job in chain}.values():
        setting, view = setting_of(cfg, job.setting), view_folder(cfg, job)
        corpus, folder = setting.corpus or job.setting, view.parent.parent
        seed = FIRST_SEED + list(SETTINGS).index(corpus)
        folder.mkdir(parents=True, exist_ok=True)
        with claimed(folder, "drawn", wait=True):  # the shards of a job array begin together: one of them draws it
            draw_corpus(folder, setting_of(cfg, corpus), seed, cfg.workers or os.cpu_count())
            make_view(folder, view, setting, view.name.removeprefix(f"{job.setting}_"), seed)


# ---- running them ---------------------------------------------------------------------------------------------------

def is_finished(cfg, job):
    """Whether a job's run has its predictions, which are written last."""
    return (mmpkd.run_folder(settings_of(cfg, job)) / "predictions").exists()


def check_finished(cfg, jobs):
    """Raises UserError, naming what differs, if a finished run is of other settings than its row has now: it would not be trained again."""
    for job in jobs:
        if is_finished(cfg, job):
            one = settings_of(cfg, job)
            folder, now = mmpkd.run_folder(one), mmpkd.settings_of(one) | {"epochs": one.epochs}
            differ = [f"{name} {was}, now {value}" for name, was, value in mmpkd.changed(read_settings(folder / "config.json"), now)]
            if differ:
                raise UserError(f"{folder}/ is the run of {job.method} with other settings ({'; '.join(differ)}): delete it and the runs taught "
                                "by it, or name another place with --data-dir")


def train_chain(cfg, jobs):
    """Trains jobs that share teachers, one after the other; what they print goes into log.txt beside the runs."""
    for job in jobs:
        one = settings_of(cfg, job)
        one.run_root.mkdir(parents=True, exist_ok=True)
        with open(one.run_root / "log.txt", "a", buffering=1) as log, contextlib.redirect_stdout(log):
            device = torch_device(one.device)
            for needed in mmpkd.built_on(one) if one.stage == "student" else []:
                take_over(needed)
                mmpkd.run(needed, device)
            mmpkd.check_before([one])
            mmpkd.run(one, device)


def chains_of(cfg, jobs):
    """Jobs that share teachers, which are those of one seed in one view: {view and seed: [jobs]}."""
    chains = {}
    for job in jobs:
        view = view_folder(cfg, job).name.replace("other_voice", "rated")  # it takes over what only sees of that view
        chains.setdefault(f"{view} {job.seed}", []).append(job)
    return chains


def take_over(needed):
    """Copies a run that only sees from the view "rated" to that of another voice, in which it would be the same."""
    there, here = (mmpkd.run_folder(dataclasses.replace(needed, runs_dir=folder))
                   for folder in (needed.runs_dir.replace("_other_voice", "_rated"), needed.runs_dir))
    if needed.stage == "visual" and there != here and (there / "predictions").exists() and not here.exists():
        with whole_folder(here) as part:
            shutil.copytree(there, part, dirs_exist_ok=True)


def train_all(cfg, chains):
    """Trains what is not finished, several chains at once."""
    chains = {name: jobs for name, chain in chains.items() if (jobs := [job for job in chain if not is_finished(cfg, job)])}
    left = sum(map(len, chains.values()))
    if not left:
        return
    on_gpu = torch_device(cfg.device).type == "cuda"
    workers = cfg.workers or (1 if on_gpu else os.cpu_count())
    with (ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker) as pool,
          tqdm(total=left, unit=" runs", disable=None, smoothing=0) as bar):
        running = {pool.submit(train_chain, cfg, chain) for chain in chains.values()}
        try:
            while running:
                done, running = wait(running, timeout=5, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                bar.n = left - sum(not is_finished(cfg, job) for chain in chains.values() for job in chain)
                bar.refresh()
        except BaseException:
            stop(pool)
            raise


def stop(pool):
    """Ends the processes of a pool. Each saves where it is; one that had another job at hand and began it is asked again."""
    processes = list(pool._processes.values())
    pool.shutdown(wait=False, cancel_futures=True)
    while alive := [process for process in processes if process.is_alive()]:
        for process in alive:
            process.terminate()
        multiprocessing.connection.wait([process.sentinel for process in alive], timeout=5)


# ---- results --------------------------------------------------------------------------------------------------------


def rows_of(cfg, job):
    """What a finished run scored: rows of COLUMNS, one per target and person, and one per target of all concatenated.

    The seconds are of training and validation as if every epoch had taken as long as the median one: others are longer where the machine
    was busy or asleep.
    """
    one = settings_of(cfg, job)
    folder = mmpkd.run_folder(one)
    scores = mmpkd.score(mmpkd.read_predictions(folder, "val", one.frame_rate), one.targets)
    seconds = [entry["seconds"] for entry in read_log(folder)]
    seconds = round(float(np.median(seconds) * len(seconds)), 1)
    left_out = SUMMARIES if job.fold else ("mean",)
    return [[*job[:3], target, name, round(value, 5), seconds]
            for target in TARGETS for name, value in scores[target].items() if name not in left_out]


def gather(cfg, jobs, path):
    """Brings the finished ones of `jobs` into the file of results, in place of earlier rows of the same runs; returns the whole table."""
    rows = [row for job in jobs if is_finished(cfg, job) for row in rows_of(cfg, job)]
    return merge(rows, path)


# ---- main -----------------------------------------------------------------------------------------------------------

def listing(cfg, jobs):
    """What there is to run, and how far it is, as text."""
    lines = [f"{name:14} {setting.says} ({setting.rated} rated, {setting.unlabelled} unlabelled, {setting.reported} reported)"
             for name, setting in SETTINGS.items()]
    for name, method in METHODS.items():
        mine = [job for job in jobs if job.method == name]
        lines.append(f"{name:28} {sum(is_finished(cfg, job) for job in mine):3}/{len(mine):<3} {method.says}")
    return "\n".join(lines)


def main(argv=None):
    given = parse_config(argv, __file__, __doc__, data_dir="data_study")
    cfg = parse_config(argv, __file__, __doc__, **({"data_dir": "data_quick", "seeds": 2} if given.quick else {"data_dir": "data_study"}))
    began, jobs = time.perf_counter(), jobs_of(cfg)
    if cfg.list:
        print(listing(cfg, jobs))
        return None
    folder = Path(cfg.data_dir) if cfg.quick else Path(__file__).with_name("docs")
    file = folder / ("choice.csv" if cfg.choose else "results.csv")
    if cfg.report:
        if not file.exists():
            raise UserError(f"{file} is not there: run the same without --report first")
        print(report(pd.read_csv(file), file))
        return None
    keep_settings(cfg.data_dir, cfg, "quick")
    check_finished(cfg, jobs)
    chains = shard_of(chains_of(cfg, jobs), cfg.shard)
    make_data(cfg, chains)
    try:
        train_all(cfg, chains)
    finally:
        results = gather(cfg, jobs, file)  # stopped or not: what is finished counts
    print(report(results, file))
    print(f"{file}: {len(results)} rows; done in {(time.perf_counter() - began) / 60:.1f} minutes")
    return results


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's wish to stop is as good as Ctrl-C
    raise SystemExit(run_script(main, __file__))
