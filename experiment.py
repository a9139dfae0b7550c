"""The study: does a teacher that hears help a student that only sees? Every method, control and bound in one command.

Reads   nothing: people are drawn (drawn/), and go through every script as a corpus does
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
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import soundfile
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

import annotations
import audio_extract
import audio_melspec
import face_detector_frameRetention
import mmpkd
import runs
from config import Config
from demo import FACES, NETWORKS, SPECS, call
from drawn.people import FRAME_RATE, SOUND_RATE, World, write_video
from drawn.people import Recording as Drawn
from figures import save_figure
from runs import read_log
from scores import read_predictions, score
from support.errors import SettingsError, UserError, run_script, torch_device
from support.files import claimed, whole_file, whole_folder
from support.recordings import PARTITIONS, SUMMARIES, TARGETS, UNLABELLED, keep_settings, shard_of
from support.settings import parse_config, read_settings
from support.workers import die_with_parent

RATE = 5  # ratings, faces and spectrograms per second: neighbours at 25 are almost the same picture, and cost five times the work
SECONDS = 30  # of each person
FIRST_SEED = 10  # of the people drawn; those of 1 were looked at before the recipe was what it is
FOLDS = 3  # of the rated people, with --choose
RESAMPLES = 10000  # of the bootstrap
# Every run takes as many gradient steps, however many people it learns from: an epoch of 12 people would leave the baseline half trained
EPOCHS, QUICK_EPOCHS, EPOCH_STEPS = 50, 4, 38
STUDY = FACES | SPECS | NETWORKS | dict(
    visual_backbone="tiny_cnn", audio_backbone="tiny_cnn", target="both", keep="last", precision="float32", frame_rate=float(RATE), resume=True,
    clip_length=30, batch_size=8, epoch_steps=EPOCH_STEPS)


# ---- corpora --------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Setting:
    """Drawn people, and who of them is rated, unlabelled and reported, in this order."""
    says: str
    world: World = World()
    corpus: str = ""  # name of the setting that it has its people of; "": its own
    rated: int = 12
    unlabelled: int = 48
    reported: int = 24

    @property
    def people(self):
        return self.rated + self.unlabelled + self.reported


# What a unit of feeling does to the voice
VOICE = ("loudness_db", "pitch_semitones", "tilt_db", "rate_share", "pause_share", "smile_share", "melody_share")


def voice(share):
    """A world in which the voice tells `share` of what it usually does."""
    return dataclasses.replace(World(), **{name: share * getattr(World(), name) for name in VOICE})


SETTINGS = {
    "much": Setting("the voice tells much more of arousal than the face"),
    "little": Setting("the voice tells little: a third of it", voice(1 / 3)),
    "nothing": Setting("the voice tells nothing", voice(0)),
    "more_rated": Setting("as much, but 30 people are rated and 30 are not", corpus="much", rated=30, unlabelled=30),
    "again": Setting("as much, with other people, drawn when all choices had been made"),
}
QUICK = dict(rated=8, unlabelled=16, reported=8)


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

class Method(NamedTuple):
    """A row of the table: settings of mmpkd.py, and the view that it is trained in."""
    says: str
    settings: dict
    view: str = "rated"
    where: tuple = tuple(SETTINGS)  # in which settings


PAPER = {"stage": "student"} | json.loads(Path(__file__).with_name("paper.json").read_text())
ALONE = PAPER | dict(gate="adaptive")  # the rated people alone, teacher and gate as they should be
WITH = ALONE | dict(unlabelled=1.0)
RECIPE = {"stage": "student"} | {name: getattr(Config(), name) for name in PAPER if name != "stage"}  # what config.py says
VOICES = RECIPE | dict(teachers="audio")
MUCH, NOTHING = ("much",), ("nothing",)
ELSEWHERE = ("much", "little", "more_rated")
FIRST = (*ELSEWHERE, *NOTHING)  # all but "again", of which no more is asked than what the recipe does there

METHODS = {
    "visual": Method("face only: lower bound", dict(stage="visual")),
    "teacher": Method("face and voice: upper bound", dict(stage="teacher")),
    "audio": Method("voice only", dict(stage="audio")),
    "oracle": Method("face only, with the true ratings of everybody", dict(stage="visual"), "oracle"),
    "noiseless": Method("face only, with ratings that have no error of a rater", dict(stage="visual"), "noiseless", MUCH),
    "recipe": Method("pseudo-labels of cross-fitted faces, and of voices where they are confirmed", RECIPE, where=(*ELSEWHERE, "again")),
    "self_training": Method("the recipe, taught by faces alone", RECIPE | dict(teachers="visual", gate="off")),
    "self_training_8": Method("taught by eight networks of faces alone", RECIPE | dict(teachers="visual", gate="off", teacher_folds=8), where=MUCH),
    "control_other_voice": Method("the recipe, with another one's voice", RECIPE, "other_voice", MUCH),
    "control_nothing": Method("the recipe, where the voice tells nothing", RECIPE, where=NOTHING),
    "recipe_adaptive": Method("the recipe with the gate adaptive", RECIPE | dict(gate="adaptive"), where=ELSEWHERE),
    "control_other_voice_adaptive": Method("recipe_adaptive, with another one's voice", RECIPE | dict(gate="adaptive"), "other_voice", MUCH),
    "control_nothing_adaptive": Method("recipe_adaptive, where the voice tells nothing", RECIPE | dict(gate="adaptive"), where=NOTHING),
    "recipe_off": Method("the recipe without a gate", RECIPE | dict(gate="off"), where=ELSEWHERE),
    "control_other_voice_off": Method("recipe_off, with another one's voice", RECIPE | dict(gate="off"), "other_voice", MUCH),
    "control_nothing_off": Method("recipe_off, where the voice tells nothing", RECIPE | dict(gate="off"), where=NOTHING),
    "voices": Method("the recipe, taught by voices alone, as far as they are confirmed", VOICES, where=ELSEWHERE),
    "control_voices_other": Method("voices, with another one's voice", VOICES, "other_voice", MUCH),
    "control_voices_nothing": Method("voices, where the voice tells nothing", VOICES, where=NOTHING),
    "voices_adaptive": Method("voices alone, with the gate adaptive", VOICES | dict(gate="adaptive"), where=MUCH),
    "control_voices_other_adaptive": Method("voices_adaptive, with another one's voice", VOICES | dict(gate="adaptive"), "other_voice", MUCH),
    "control_voices_nothing_adaptive": Method("voices_adaptive, where the voice tells nothing", VOICES | dict(gate="adaptive"), where=NOTHING),
    "voices_off": Method("voices alone, without a gate", VOICES | dict(gate="off"), where=MUCH),
    "recipe_joint": Method("the recipe, taught by joint networks, without a gate", RECIPE | dict(teachers="joint", gate="off"), where=MUCH),
    "recipe_raw": Method("the recipe without calibration", RECIPE | dict(calibrate=False), where=MUCH),
    "recipe_first": Method("the recipe, half the epochs unlabelled people alone, then rated ones", RECIPE | dict(unlabelled_first=0.5), where=MUCH),
    "recipe_confidence": Method("the recipe, frames counting by how far its teachers agree", RECIPE | dict(confidence="agreement"), where=MUCH),
    "recipe_24": Method("the recipe with 24 of the unlabelled people", RECIPE | dict(unlabelled=0.5), where=MUCH),
    "recipe_12": Method("the recipe with 12 of them", RECIPE | dict(unlabelled=0.25), where=MUCH),
    "paper": Method("the paper's loss, teacher and gate: cosine of whole batches, rated people", PAPER, where=FIRST),
    "ccc_unlabelled": Method("ccc of the joint teacher's predictions, unlabelled people too", WITH | dict(distill="ccc"), where=FIRST),
    "cosine": Method("cosine per frame, rated people", ALONE | dict(distill="cosine"), where=MUCH),
    "fitnets": Method("fitnets, rated people", ALONE | dict(distill="fitnets"), where=MUCH),
    "sp": Method("sp, rated people", ALONE | dict(distill="sp"), where=MUCH),
    "rkd": Method("rkd, rated people", ALONE | dict(distill="rkd"), where=MUCH),
    "ot": Method("ot (PKDOT), rated people", ALONE | dict(distill="ot"), where=MUCH),
    "mt_pkdot": Method("ot, the best of three teachers batch by batch (MT-PKDOT), rated people", ALONE | dict(
        distill="ot", teachers="joint+visual+audio"), where=MUCH),
    "ccc": Method("ccc, rated people", ALONE | dict(distill="ccc"), where=MUCH),
    "cosine_ccc": Method("cosine + ccc, rated people", ALONE | dict(distill="cosine:0.5+ccc:0.5"), where=MUCH),
    "crossfit_alone": Method("ccc of cross-fitted voices, calibrated, rated people", VOICES | dict(
        distill="ccc", distill_weight=0.5, gate="adaptive", unlabelled=0.0), where=MUCH),
    "cosine_unlabelled": Method("cosine per frame, unlabelled people too", WITH | dict(distill="cosine"), where=MUCH),
    "audio_unlabelled": Method("ccc of one voice's predictions, unlabelled people too", WITH | dict(distill="ccc", teachers="audio"), where=MUCH),
    "teacher_attention": Method("face and voice, fused by joint cross-attention", dict(stage="teacher", fusion="cross_attention"), where=MUCH),
}
CONTROLS = tuple(name for name in METHODS if name.startswith("control"))
OF_VOICES = tuple(name for name in CONTROLS if name.startswith("control_voices"))  # they must not gain over visual, the others not over self_training
BESIDE_SEEING = ("recipe", "recipe_off", "voices", "voices_off", *(name for name in CONTROLS if name not in OF_VOICES))
AIMS = {"gain": {"arousal": 0.08, "valence": 0.0, "both": 0.05},  # set before the study
        "share": {("oracle", "arousal"): 0.6, ("oracle", "valence"): 0.3, ("teacher", "arousal"): 1 / 3}}
PAIRS = (("recipe", "self_training_8"), ("recipe", "control_other_voice_off"), ("voices", "voices_off"), ("cosine_unlabelled", "cosine"),
         ("ccc_unlabelled", "ccc"), ("audio_unlabelled", "ccc_unlabelled"))  # told beside each other, too
ADAPTIVE = ("control_other_voice_adaptive", "control_nothing_adaptive")  # ... nor lose over visual
QUICK_METHODS = ("visual", "teacher", "audio", "oracle", "recipe", "self_training", "control_other_voice", "paper", "ccc_unlabelled")


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
    return (runs.run_folder(settings_of(cfg, job)) / "predictions").exists()


def check_finished(cfg, jobs):
    """Raises UserError, naming what differs, if a finished run is of other settings than its row has now: it would not be trained again."""
    for job in jobs:
        if is_finished(cfg, job):
            one = settings_of(cfg, job)
            folder, now = runs.run_folder(one), runs.settings_of(one) | {"epochs": one.epochs}
            differ = [f"{name} {was}, now {value}" for name, was, value in runs.changed(read_settings(folder / "config.json"), now)]
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
    there, here = (runs.run_folder(dataclasses.replace(needed, runs_dir=folder))
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

COLUMNS = ["setting", "method", "seed", "target", "recording", "ccc", "seconds"]


def rows_of(cfg, job):
    """What a finished run scored: rows of COLUMNS, one per target and person, and one per target of all concatenated.

    The seconds are of training and validation as if every epoch had taken as long as the median one: others are longer where the machine
    was busy or asleep.
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
    """Brings the finished ones of `jobs` into the file of results, in place of earlier rows of the same runs; returns the whole table."""
    rows = pd.DataFrame([row for job in jobs if is_finished(cfg, job) for row in rows_of(cfg, job)], columns=COLUMNS)
    if path.exists():
        rows = pd.concat([pd.read_csv(path), rows]).drop_duplicates(COLUMNS[:5], keep="last")
    place = {name: number for number, name in enumerate([*SETTINGS, *METHODS])}
    rows = rows.sort_values(COLUMNS[:4], key=lambda column: column.map(place) if column.name in ("setting", "method") else column, kind="stable")
    with whole_file(path) as part:
        rows.to_csv(part, index=False, lineterminator="\n")
    return rows.reset_index(drop=True)


UPPER = ("teacher", "oracle")


def is_bound(method):
    """Whether it is no student, and no gap is there for it to close."""
    return METHODS[method].settings["stage"] != "student"


def matrix(results, setting, method, target):
    """CCC of every seed and person, (seeds, people), as a table; empty if the method was not run there. target "both": the mean of the two."""
    if target == "both":
        parts = [matrix(results, setting, method, each) for each in TARGETS]
        return min(parts, key=lambda part: part.size) if not all(part.size for part in parts) else sum(parts) / len(parts)
    rows = results[(results.setting == setting) & (results.method == method) & (results.target == target) & (results.recording != "concatenated")]
    return rows.pivot(index="seed", columns="recording", values="ccc")


def paired(results, setting, method, target, against="visual"):
    """Mean difference of a method from another over people and seeds, and its 95 % interval: (mean, low, high), or None.

    Bootstrap with people and seeds drawn independently with replacement, the same for both (a two-way, or pigeonhole,
    bootstrap: Owen, 2007), so that the interval holds for other people and other weights.
    """
    one, other = (matrix(results, setting, name, target) for name in (method, against))
    seeds, people = one.index.intersection(other.index), one.columns.intersection(other.columns)
    if not len(seeds) or not len(people):
        return None
    return interval((one.loc[seeds, people] - other.loc[seeds, people]).to_numpy())


def interval(differences, of=None):
    """(S seeds, P people) -> mean, and the 2.5 % and 97.5 % quantiles of its bootstrap distribution. of: differences to divide the mean by."""
    seeds, people = resampled(*differences.shape)
    means = [np.einsum("rs,sp,rp->r", seeds, each, people) for each in (differences, of) if each is not None]
    samples, mean = (means[0], differences.mean()) if of is None else (means[0] / means[1], differences.mean() / of.mean())
    return (float(mean), *map(float, np.quantile(samples, [0.025, 0.975])))


@lru_cache
def resampled(*sizes):
    """How often each of so many seeds, people, ... is drawn in each of RESAMPLES samples, in shares: [(RESAMPLES, size)], the same every time."""
    rng = np.random.default_rng(0)
    return [rng.multinomial(size, np.full(size, 1 / size), RESAMPLES) / size for size in sizes]


def share(results, setting, method, target, upper):
    """How much of the way from visual to `upper` a method has come, as (mean, low, high) of a share; "no gap" where the interval of that way is
    not above 0, None where one of the three was not run. Of the seeds that all three have.
    """
    visual, above, mine = (matrix(results, setting, name, target) for name in ("visual", upper, method))
    seeds = sorted(set.intersection(*(set(value.index) for value in (visual, above, mine))))
    if not seeds:
        return None
    if paired(results, setting, upper, target)[1] <= 0:
        return "no gap"
    return interval(*((value.loc[seeds] - visual.loc[seeds]).to_numpy() for value in (mine, above)))


def percent(value):
    """A share as text."""
    return f"{round(value, 2) + 0.0:.0%}"  # no -0%


def table_of(results, setting, people_are="reported"):
    """The tables of a setting, Markdown: one for each target and one for their mean, a row for each method."""
    mine = results[results.setting == setting]
    people = set(mine.recording) - {"concatenated"}
    lines = [f"## {setting}: {SETTINGS[setting].says}\n", f"{len(people)} people {people_are}.\n"]
    for target in (*TARGETS, "both"):
        lines += [f"### {setting}, {target if target in TARGETS else 'mean of arousal and valence'}\n",
                  "| method | mean over people | seeds | sd over seeds | concatenated | over visual | 95 % interval | gap to teacher closed "
                  "| of the oracle's gain | seconds | |", "| --- " * 11 + "|",
                  *(row_of(results, setting, method, target) for method in METHODS if matrix(results, setting, method, target).size), ""]
    return "\n".join(lines)


def choice_table(results):
    """The table that a method is chosen by, Markdown: its CCC as mean over people and both targets, in each setting and over those that it
    was run in; only methods that were run in all."""
    settings = [setting for setting in SETTINGS if setting in set(results.setting)]
    lines = ["### The choice: mean of arousal and valence\n", f"| method | {' | '.join(settings)} | mean | |", "| --- " * (len(settings) + 3) + "|"]
    for method in METHODS:
        means = [float(each.to_numpy().mean()) for setting in settings if (each := matrix(results, setting, method, "both")).size]
        if len(means) == len(settings):
            lines.append(f"| {' | '.join([method, *(f'{value:.3f}' for value in [*means, np.mean(means)])])} | {METHODS[method].says} |")
    return "\n".join([*lines, ""])


def aims_table(results):
    """What the recipe was to reach, and whether it did, in every setting that has it, Markdown."""
    settings = [setting for setting in SETTINGS
                if all(paired(results, setting, method, target) for method in ("recipe", "oracle") for target in TARGETS)]
    lines = ["### The aims of the recipe\n", f"| aim | {' | '.join(settings)} |", "| --- " * (len(settings) + 1) + "|"]
    for target, least in AIMS["gain"].items():
        of = "the mean of both" if target == "both" else target
        lines.append(f"| over visual on {of}: {'at least ' + signed(least) if least else 'a gain'}, its interval above 0 | " + " | ".join(
            aim_met(paired(results, setting, "recipe", target), least, signed, True) for setting in settings) + " |")
    for (upper, target), least in AIMS["share"].items():
        lines.append(f"| of the {upper}'s gain on {target}: at least {percent(least)} | " + " | ".join(
            aim_met(share(results, setting, "recipe", target, upper), least, percent) for setting in settings) + " |")
    return "\n".join([*lines, ""])


def aim_met(reached, least, as_text, surely=False):
    """What was reached, (mean, low, high), and whether it is enough, as text; surely: whether its interval has to be above 0, too."""
    if reached is None or isinstance(reached, str):
        return reached or "not run"
    mean, low, _ = reached
    missed = "just missed" if as_text(mean) == as_text(least) else f"missed by {as_text(least - mean).lstrip('+')}"
    verdict = missed if mean < least else "not sure" if surely and low <= 0 else "met"
    return f"{as_text(mean)}: {verdict}"


def signed(value):
    """A difference as text; what rounds to nothing has a plus."""
    return f"{round(value, 3) + 0.0:+.3f}"


def row_of(results, setting, method, target):
    """The row of a method in a table."""
    runs = results[(results.setting == setting) & (results.method == method) & results.target.isin(TARGETS if target == "both" else [target])]
    each, over = matrix(results, setting, method, target), paired(results, setting, method, target)
    gain = [signed(over[0]), f"{signed(over[1])} to {signed(over[2])}"] if over and method != "visual" else ["", ""]
    shares = [None, None] if is_bound(method) or target == "both" else [share(results, setting, method, target, upper) for upper in UPPER]
    shares = ["" if part is None else part if part == "no gap" else percent(part[0]) for part in shares]
    spread = f"{each.mean(axis=1).std():.3f}" if len(each) > 1 else ""
    whole = runs[runs.recording == "concatenated"].ccc  # none with --choose, where no network tells all of them
    cells = [method, f"{each.to_numpy().mean():.3f}", str(len(each)), spread, f"{whole.mean():.3f}" if len(whole) else "",
             *gain, *shares, f"{runs.seconds.mean():.0f}", METHODS[method].says]
    return f"| {' | '.join(cells)} |"


def summary(results):
    """What the recipe, which was chosen before, gained over the visual baseline, what of it hearing adds, and what the controls of both did:
    text, a line for each setting and method."""
    over_visual = ["recipe", "self_training", "voices", *OF_VOICES, *ADAPTIVE]
    parts = {"Over the visual baseline (95 % intervals):": gain_lines(results, over_visual, "visual"),
             "Over self_training, the same with teachers that only see:": gain_lines(results, BESIDE_SEEING, "self_training"),
             "Over another row:": [line for pair in PAIRS for line in gain_lines(results, pair[:1], pair[1], f" over {pair[1]}")],
             "Of what the teacher and the oracle have over the visual baseline:": share_lines(results, ["recipe", "self_training"])}
    return "\n".join(line for heading, lines in parts.items() if lines for line in (heading, *lines))


def gain_lines(results, methods, against, words=""):
    """What methods gained over another, where both were run: a line for each setting and method."""
    lines = []
    for setting, method in itertools.product(SETTINGS, methods):
        gains = {target: paired(results, setting, method, target, against) for target in (*TARGETS, "both")}
        if all(gains.values()):
            lines.append(f"{setting}, {method}{words}: " + ", ".join(f"{target} {signed(mean)} ({signed(low)} to {signed(high)})"
                                                                      for target, (mean, low, high) in gains.items()))
    return lines


def share_lines(results, methods):
    """How much of the way to the teacher and to the oracle methods have come, where there is one: a line for each setting and method."""
    lines = []
    for setting, method in itertools.product(SETTINGS, methods):
        shares = {f"of the {upper}'s gain on {target}": share(results, setting, method, target, upper) for upper in UPPER for target in TARGETS}
        said = [f"{percent(part[0])} ({percent(part[1])} to {percent(part[2])}) {what}" for what, part in shares.items() if part and part != "no gap"]
        lines += [f"{setting}, {method}: {', '.join(said)}"] * bool(said)
    return lines


def plot_gains(results, setting, path):
    """A picture of what each method gains over the visual baseline, with its interval."""
    methods = [method for method in METHODS if method != "visual" and all(paired(results, setting, method, target) for target in TARGETS)]
    if not methods:  # a shard that has no baseline
        return
    figure = Figure(figsize=(12, 1.2 + 0.3 * len(methods)), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for axis, target in zip(axes, TARGETS):
        for place, method in enumerate(methods):
            mean, low, high = paired(results, setting, method, target)
            colour = "tab:grey" if is_bound(method) else "tab:red" if method in CONTROLS else "tab:blue"
            axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, capsize=3)
        axis.axvline(0, color="black", linewidth=0.8)
        if beside := paired(results, setting, "self_training", target):
            axis.axvline(beside[0], color="black", linewidth=0.8, linestyle=":")
        axis.set(title=target, xlabel="CCC over the visual baseline, mean over people")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    about = "controls in red: those of voices alone belong at 0, those with faces beside them at the dotted line, self_training"
    seeds = len(matrix(results, setting, "visual", TARGETS[0]))
    figure.suptitle(f"{setting}: {SETTINGS[setting].says} (95 % intervals over people and {seeds} seed{'s' * (seeds > 1)}; bounds in grey)\n"
                    + (about if set(methods) & set(CONTROLS) else "dotted: self_training"))
    save_figure(figure, path)


def plot_unlabelled(results, setting, path):
    """A picture of the recipe's CCC against how many unlabelled people it had."""
    steps = {0: "visual", 12: "recipe_12", 24: "recipe_24", 48: "recipe"}
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for target, colour, aside in zip(TARGETS, ("tab:blue", "tab:orange"), (-0.3, 0.3)):
        values = {count: matrix(results, setting, method, target) for count, method in steps.items()}
        values = {count + aside: value.mean(axis=1) for count, value in values.items() if value.size}
        axis.errorbar([*values], [value.mean() for value in values.values()], [value.std() for value in values.values()], fmt="o-",
                      color=colour, capsize=3, label=target)
        oracle = matrix(results, setting, "oracle", target)
        if oracle.size:
            axis.axhline(oracle.to_numpy().mean(), color=colour, linestyle=":", label=f"oracle, {target}")
    axis.set_xticks([*steps], ["0 (visual)", *[*steps][1:]])
    axis.set(xlabel="unlabelled people", ylabel="CCC, mean over people", title="The recipe; bars: standard deviation over seeds")
    axis.legend()
    save_figure(figure, path)


def report(results, file):
    """Writes the tables and figures of all settings in the results beside their file, and the tables into the study's page; returns them as text."""
    results = results.astype(dict.fromkeys(["setting", "method", "target"], "category"))  # looked up thousands of times: numbers, not words
    there, choosing = [setting for setting in SETTINGS if setting in set(results.setting)], file.stem == "choice"
    tables = [table_of(results, setting, "held out" if choosing else "reported") for setting in there]
    text = "\n".join([*tables, choice_table(results) if choosing else aims_table(results), summary(results)])
    made = f"Made by `python experiment.py --report{' --choose' * choosing}` from {file.name}."
    if choosing:
        made += " The people are rated ones, each told by the networks of the fold that left them out; the study reports others."
    with whole_file(file.with_suffix(".md")) as part:
        part.write_text(f"{made}\n\n{text}")
    for setting in there:
        plot_gains(results, setting, file.with_name(f"{file.stem}_{setting}.png"))
    if {"recipe_12", "recipe_24"} <= set(results.method):
        plot_unlabelled(results, "much", file.with_name(f"{file.stem}_unlabelled.png"))
    if (page := file.with_name("study.md")).exists():
        renew_tables(page, choice_table(results) if choosing else text)
    return text


def renew_tables(page, text):
    """Puts the tables of a Markdown text into a page that has some of them, each under the heading that it has in both."""
    pattern = re.compile(r"^(### .+\n\n)((?:\|.*\n)+)", re.MULTILINE)
    tables = dict(pattern.findall(text))
    renewed = pattern.sub(lambda found: found[1] + tables.get(found[1], found[2]), page.read_text())
    with whole_file(page) as part:
        part.write_text(renewed)


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
