"""The study: does privileged audio help a visual-only student? Every method, control and bound in one command.

Reads   nothing: the subjects are drawn (drawn/), and go through every script as a corpus does
Writes  data_study/<corpus>/                   a corpus of drawn subjects, as demo.py makes one
        data_study/<corpus>/views/<view>/      who of them is rated, unlabelled, reported; runs/seed<k>/ of every method
        docs/results.csv                       a row per run, target and subject (--choose: choice.csv)
        docs/results.md results_*.png          tables and figures made of it (--choose: choice*)
        docs/study.md                          only its tables; the words around them are written by hand

    python experiment.py                    the whole study: some 11 hours on 2 cores; resumes where it was stopped
    python experiment.py --quick            a small one, under 10 minutes; into data_quick/, docs/ stays as it is
    python experiment.py --choose           compares the methods by cross-validation over the rated subjects
    python experiment.py --list             settings, methods, and how many of their runs are finished
    python experiment.py --settings much --methods visual recipe        only these
    python experiment.py --shard 1/4        a quarter of the runs: of a job array, or on one of four devices (--device)
    python experiment.py --report           only the tables and figures, from docs/results.csv

No epoch is chosen on the reported subjects: every run keeps its last one. --choose compares methods on held-out
subjects of Train_Set, in folders that hold no reported subject. docs/study.md says what was seen before it was chosen.
"""
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import NamedTuple

from support.settings import answer_first, parse_config, read_settings

answer_first(__name__, __file__, __doc__, data_dir="data_study")

import numpy as np
import pandas as pd
import soundfile
from tqdm import tqdm

import annotations
import audio_extract
import audio_melspec
import face_detector_frameRetention
import mmpkd
import runs
from config import Config
from demo import call
from drawn.people import FRAME_RATE, SOUND_RATE, write_video
from drawn.people import Recording as Drawn
from runs import read_log
from scores import read_predictions, score
from study.methods import FACES, METHODS, MUCH, NETWORKS, OLD, QUICK, QUICK_METHODS, SETTINGS, SPECS, TAG
from study.results import merge, read_results, report
from support.errors import SettingsError, UserError, run_script, torch_device
from support.files import claimed, whole_file, whole_folder
from support.machine import cores
from support.recordings import PARTITIONS, SUMMARIES, TARGETS, UNLABELLED, keep_settings, shard_of
from support.workers import begin_worker

RATE = 5  # ratings, faces and spectrograms per second: frames at 25 are near-duplicates, and cost five times the work
SECONDS = 30  # of each subject
FIRST_SEED = 10  # of the drawn subjects; those of seed 1 had been looked at before the recipe was fixed
FOLDS = 3  # of the rated subjects, with --choose
# Every run takes as many gradient steps, however many subjects it learns from: with as many epochs instead, a baseline
# of 12 subjects would be undertrained
EPOCHS, QUICK_EPOCHS, EPOCH_STEPS = 50, 4, 38
STUDY = FACES | SPECS | NETWORKS | dict(
    visual_backbone="tiny_cnn", audio_backbone="tiny_cnn", target="both", keep="last", precision="float32",
    frame_rate=float(RATE), resume=True, clip_length=30, batch_size=8, epoch_steps=EPOCH_STEPS)


# ---- corpora --------------------------------------------------------------------------------------------------------

def setting_of(cfg, name):
    """A setting, with fewer subjects for --quick."""
    return dataclasses.replace(SETTINGS[name], **QUICK) if cfg.quick else SETTINGS[name]


def draw_corpus(folder, setting, seed, workers):
    """Draws a setting's subjects as a corpus ships, and runs every script on them."""
    names = [f"person_{number + 1}" for number in range(setting.subjects)]
    missing = [(number, name) for number, name in enumerate(names)
               if not Path(folder, "ratings_gold_standard", f"{name}.csv").exists()]
    if missing:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker) as pool:
            work = pool.map(partial(draw_subject, folder, setting.world, seed), missing)
            list(tqdm(work, f"drawing {folder.name}", len(missing), unit=" subjects", disable=None, leave=False))
    annotated = (folder / "Annotations" / PARTITIONS["train"] / f"{name}.csv" for name in names)
    if (folder / ".made").exists() and all(path.exists() for path in annotated):
        return
    data, rate = {"data_dir": folder}, {"frame_rate": RATE}
    call(annotations, **data, **rate, train_ids="person_*")
    call(face_detector_frameRetention, **data, **rate, **FACES, look_every=1)
    call(audio_extract, **data, **rate)
    call(audio_melspec, **data, **SPECS)
    (folder / ".made").touch()


def draw_subject(folder, world, seed, numbered_name):
    """Draws one subject, RATE frames and ratings per second. The ratings are written last: they mark it as whole."""
    number, name = numbered_name
    step, drawn = FRAME_RATE // RATE, Drawn.draw((seed, number), SECONDS * FRAME_RATE, world)
    frames = (drawn.painter.paint(drawn.actions, drawn.motion, k) for k in range(0, SECONDS * FRAME_RATE, step))
    write_video(folder / "videos" / f"{name}.mp4", frames, drawn.sound, RATE)
    with whole_file(folder / "audio" / f"{name}.wav") as part:
        soundfile.write(part, drawn.sound, SOUND_RATE, subtype="PCM_16")
    with whole_file(folder / "ratings_gold_standard" / f"{name}.csv") as part:
        part.write_text("".join(f"{arousal:.4f};{valence:.4f}\n" for arousal, valence in drawn.gold[::step]))


def _begin_worker():
    os.environ["TQDM_DISABLE"] = "1"  # one progress bar, that of all runs
    begin_worker()


# ---- views: which subjects are rated, unlabelled, reported ----------------------------------------------------------

def split(setting, view):
    """{partition: numbers of subjects} of a view: rated, noiseless, oracle, other_voice, or fold1 ... of FOLDS."""
    ends = [setting.rated, setting.rated + setting.unlabelled]
    rated, unlabelled, reported = np.split(np.arange(setting.subjects), ends)
    if view == "oracle":
        return {PARTITIONS["train"]: [*rated, *unlabelled], UNLABELLED: [], PARTITIONS["val"]: reported}
    if view.startswith("fold"):
        out = rated[int(view.removeprefix("fold")) - 1::FOLDS]
        kept = [n for n in rated if n not in out]
        return {PARTITIONS["train"]: kept, UNLABELLED: unlabelled, PARTITIONS["val"]: out}
    return {PARTITIONS["train"]: rated, UNLABELLED: unlabelled, PARTITIONS["val"]: reported}


def make_view(corpus, folder, setting, view, seed=None):
    """A data folder with its own Annotations/, and the corpus' crops and spectrograms.

    other_voice: every subject has the spectrograms of the next one of the same partition. noiseless: training subjects
    have ratings without rater errors (seed: of the corpus).
    """
    for partition, numbers in split(setting, view).items():
        for place, number in enumerate(numbers):
            voice = numbers[(place + 1) % len(numbers)] if view == "other_voice" else number
            table = view_table(corpus, number, voice)
            if partition == UNLABELLED:
                table = table[["image path", "spec path"]]
            elif partition == PARTITIONS["train"] and view == "noiseless":
                table[TARGETS] = noiseless_ratings(setting.world, (seed, number))[:len(table)]
            text = table.to_csv(index=False, lineterminator="\n")
            annotations.write_table(folder / "Annotations" / partition / f"person_{number + 1}.csv", text)
    for name in ("Cropped_Aligned", "specs"):
        if not (folder / name).exists():
            (folder / name).symlink_to((corpus / name).resolve())


def view_table(corpus, number, voice):
    """The annotations of a subject, with the spectrograms of subject number `voice`."""
    names = f"person_{number + 1}", f"person_{voice + 1}"
    path = corpus / "Annotations" / PARTITIONS["train"] / f"{names[0]}.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["spec path"] = table["spec path"].str.replace(*(f"{name}/" for name in names), regex=False)
    return table


def noiseless_ratings(world, seed):
    """Ratings of a subject, (ratings, 2), if its raters were as late as they are, but alike and without errors."""
    world = dataclasses.replace(world, rater_noise=0.0, rater_spread=0.0)
    return Drawn.draw(seed, SECONDS * FRAME_RATE, world).gold[::FRAME_RATE // RATE].round(4)


# ---- jobs -----------------------------------------------------------------------------------------------------------

class Job(NamedTuple):
    """One run of the tables."""
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
    if method.settings["stage"] == "student" or len(method.settings) > 1:
        changes["variant"] = job.method
    places = dict(data_dir=str(folder), runs_dir=str(folder / "runs" / f"seed{job.seed}"))
    return Config(**STUDY | changes | places | dict(seed=job.seed, device=cfg.device))


def jobs_of(cfg):
    """All jobs that the command asks for, those that others need first. Raises SettingsError for an unknown name."""
    for what, given, there in (("settings", cfg.settings, SETTINGS), ("methods", cfg.methods, METHODS)):
        for name in set(given) - set(there):
            old = f" ({name} was trained at the git tag {TAG})" if name in OLD else ""
            raise SettingsError(f"{what}: there is no {name!r}{old}; there are {', '.join(there)}")
    settings = cfg.settings or (MUCH if cfg.quick else tuple(SETTINGS))
    methods = cfg.methods or (QUICK_METHODS if cfg.quick else tuple(METHODS))
    names = [name for name in METHODS if name in methods and not (cfg.choose and METHODS[name].view != "rated")]
    pairs = [(setting, name) for setting in SETTINGS if setting in settings
             for name in names if setting in METHODS[name].where]
    folds = range(1, FOLDS + 1) if cfg.choose else (0,)
    return [Job(setting, name, seed, fold) for setting, name in pairs for seed in range(cfg.seeds) for fold in folds]


def make_data(cfg, chains):
    """Draws the corpora of jobs and makes their views, where they are missing."""
    for job in {view_folder(cfg, job): job for chain in chains.values() for job in chain}.values():
        setting, view = setting_of(cfg, job.setting), view_folder(cfg, job)
        corpus, folder = setting.corpus or job.setting, view.parent.parent
        seed = FIRST_SEED + list(SETTINGS).index(corpus)
        folder.mkdir(parents=True, exist_ok=True)
        with claimed(folder, "drawn", wait=True):  # of shards that start together one draws
            draw_corpus(folder, setting_of(cfg, corpus), seed, cfg.workers or cores())
            make_view(folder, view, setting, view.name.removeprefix(f"{job.setting}_"), seed)


# ---- training -------------------------------------------------------------------------------------------------------

def is_finished(cfg, job):
    """Whether a job's run has its predictions, which are written last."""
    return (runs.run_folder(settings_of(cfg, job)) / "predictions").exists()


def check_finished(cfg, jobs):
    """Raises UserError, naming what differs, if a finished run has other settings than its row has now."""
    for job in jobs:
        if is_finished(cfg, job):
            one = settings_of(cfg, job)
            folder, now = runs.run_folder(one), runs.settings_of(one) | {"epochs": one.epochs}
            changed = runs.changed(read_settings(folder / "config.json"), now)
            if differ := "; ".join(f"{name} {was}, now {value}" for name, was, value in changed):
                raise UserError(f"{folder}/ is the run of {job.method} with other settings ({differ}): delete it and "
                                "the students of that teacher, or name another place with --data-dir")


def train_chain(cfg, jobs):
    """Trains jobs that share teachers, one after the other; their output goes into log.txt beside the runs."""
    for job in jobs:
        one = settings_of(cfg, job)
        one.run_root.mkdir(parents=True, exist_ok=True)
        with open(one.run_root / "log.txt", "a", buffering=1) as log, contextlib.redirect_stdout(log):
            device = torch_device(one.device)
            for needed in runs.needed_by(one) if one.stage == "student" else []:
                copy_visual(needed)
                mmpkd.train(needed, device)
            mmpkd.check_before([one])
            mmpkd.train(one, device)


def chains_of(cfg, jobs):
    """Jobs that share teachers, which are those of one seed in one view: {view and seed: [jobs]}."""
    chains = {}
    for job in jobs:
        view = view_folder(cfg, job).name.replace("other_voice", "rated")  # it copies that view's visual-only runs
        chains.setdefault(f"{view} {job.seed}", []).append(job)
    return chains


def copy_visual(needed):
    """Copies a visual-only run from the view "rated" to "other_voice", in which it would be the same."""
    there, here = (runs.run_folder(dataclasses.replace(needed, runs_dir=folder))
                   for folder in (needed.runs_dir.replace("_other_voice", "_rated"), needed.runs_dir))
    if needed.stage == "visual" and there != here and (there / "predictions").exists() and not here.exists():
        with whole_folder(here) as part:
            shutil.copytree(there, part, dirs_exist_ok=True)


def train_all(cfg, chains):
    """Trains what is not finished, several chains at once."""
    left_of = lambda chain: [job for job in chain if not is_finished(cfg, job)]
    chains = [jobs for chain in chains.values() if (jobs := left_of(chain))]
    total = sum(map(len, chains))
    if not total:
        return
    workers = cfg.workers or (1 if torch_device(cfg.device).type == "cuda" else cores())
    with (ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker) as pool,
          tqdm(total=total, unit=" runs", disable=None, smoothing=0) as bar):
        running = {pool.submit(train_chain, cfg, chain) for chain in chains}
        try:
            while running:
                done, running = wait(running, timeout=5, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                bar.n = total - sum(len(left_of(chain)) for chain in chains)
                bar.refresh()
        except BaseException:
            stop(pool)
            raise


def stop(pool):
    """Ends the processes of a pool. Each saves its state; one that then starts a queued job is stopped again."""
    processes = list(pool._processes.values())
    pool.shutdown(wait=False, cancel_futures=True)
    while alive := [process for process in processes if process.is_alive()]:
        for process in alive:
            process.terminate()
        multiprocessing.connection.wait([process.sentinel for process in alive], timeout=5)


# ---- results --------------------------------------------------------------------------------------------------------

def rows_of(cfg, job):
    """Scores of a finished run: rows of COLUMNS, one per target and subject, and one per target of all concatenated.

    seconds: of training and validation, as if every epoch had taken as long as the median one; others are longer where
    the machine was busy or asleep.
    """
    one = settings_of(cfg, job)
    folder = runs.run_folder(one)
    scores = score(read_predictions(folder, "val", one.frame_rate), one.targets)
    seconds = [entry["seconds"] for entry in read_log(folder)]
    seconds = round(float(np.median(seconds) * len(seconds)), 1)
    left_out = SUMMARIES if job.fold else ("mean",)
    return [[*job[:3], target, name, round(value, 5), seconds]
            for target in TARGETS for name, value in scores[target].items() if name not in left_out]


def gather(cfg, jobs, path):
    """The table of results after the finished ones of `jobs` were brought into its file."""
    return merge([row for job in jobs if is_finished(cfg, job) for row in rows_of(cfg, job)], path)


# ---- main -----------------------------------------------------------------------------------------------------------

def listing(cfg, jobs):
    """Settings, methods, and how many of their runs are finished, as text."""
    lines = [f"{name:14} {setting.description} ({setting.rated} rated, {setting.unlabelled} unlabelled, "
             f"{setting.reported} reported)" for name, setting in SETTINGS.items()]
    for name, method in METHODS.items():
        mine = [job for job in jobs if job.method == name]
        finished = sum(is_finished(cfg, job) for job in mine)
        lines.append(f"{name:28} {finished:3}/{len(mine):<3} {method.description}")
    return "\n".join(lines)


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__, data_dir="data_study")
    if cfg.quick:
        cfg = parse_config(argv, __file__, __doc__, data_dir="data_quick", seeds=2)
    began, jobs = time.perf_counter(), jobs_of(cfg)
    if cfg.list:
        print(listing(cfg, jobs))
        return None
    folder = Path(cfg.data_dir) if cfg.quick else Path(__file__).with_name("docs")
    file = folder / ("choice.csv" if cfg.choose else "results.csv")
    if cfg.report:
        if not file.exists():
            raise UserError(f"{file} is not there: run the same without --report first")
        print(report(read_results(file), file))
        return None
    keep_settings(cfg.data_dir, cfg, "quick")
    check_finished(cfg, jobs)
    chains = shard_of(chains_of(cfg, jobs), cfg.shard)
    make_data(cfg, chains)
    try:
        train_all(cfg, chains)
    finally:
        results = gather(cfg, jobs, file)  # also of a study that was stopped
    print(report(results, file))
    print(f"{file}: {len(results)} rows; done in {(time.perf_counter() - began) / 60:.1f} minutes")
    return results


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's request to stop is handled as Ctrl-C is
    raise SystemExit(run_script(main, __file__))
