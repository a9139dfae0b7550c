"""Do pseudo-labels of faces and voices carry over to real people? One small check, on features of 24 actors.

    python bench/real_actors.py FOLDER                          20 splits, 3, 6 and 9 rated: 25 minutes on 2 cores
    python bench/real_actors.py FOLDER --splits 3 --rated 6     a part of it; a second call resumes the first

FOLDER holds features of acted clips, a row per clip in each file: face.npy (clips, features), voice.npy (clips,
features), ratings.csv (recording, clip, arousal, valence; recording is the actor). In each split 8 actors are reported,
some of the others are rated, and the rest are unlabelled. Splits of one number have the same reported actors, and the
3 rated are among the 6, these among the 9. Through annotations.py and mmpkd.py:

    visual          the baseline: face only, rated actors
    ensemble        mean of the predictions of as many baselines, of other seeds, as the student has teachers
    self_training   the student with visual teachers alone, as many
    student         the student as it is by default: audio teachers too, where they pass the confirmation test
    control         the same, where every actor has the voice of another one of the same partition
    control_off     the same without the confirmation test
    oracle          face only, the true labels of the rated and the unlabelled actors
    voices          mean of the predictions of the audio teachers: needs the voice

One clip is one frame: there is no time in it, and the GRU has nothing to remember. Each actor's clips are in an order
of their own, drawn once: in the order of the files all actors would go through the emotions together, so that another
actor's voice would be as good as one's own. All actors act the same clips: that each has the same mean, which
calibration and centring take for granted, is true here by design, and is not so of people who are only watched.

SETTINGS were chosen by the CCC of the visual baseline on held-out folds of rated actors, 3 (4 splits) and 9 (3 splits,
none of those of the tables; but every actor is reported in some split). Linear heads gave .485 with 3 and .629 with 9,
heads with activations .393 and .629 to .636; with 9, these gave .569 in 75 steps, .629 in 150 and .636 in 300, and
dropout of .6, weight decay of .5 or clips of 12 changed that by .003 or less.

The intervals resample splits and reported actors, with replacement. They are of these 24 actors: the rated ones of the
splits overlap, so that other people may differ by more; and one seed per split is part of the spread.
"""
import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pandas as pd
import torch

import annotations
import mmpkd
import runs
import training
from config import Config
from losses import ccc
from pseudo_labels import read_report
from scores import read_predictions
from support.checksums import identity
from support.errors import UserError, run_script
from support.files import there, whole_file, whole_folder
from support.machine import cores, describe
from support.recordings import TARGETS
from support.workers import for_each

FILES = "face.npy", "voice.npy", "ratings.csv"
REPORTED = 8
ORDER = 2026  # seed of the order of each actor's clips
SETTINGS = dict(
    visual_backbone="features", audio_backbone="features", target="both", frame_rate=1.0, device="cpu",
    precision="float32", keep="last", feature_size=64, gru_size=64, dropout=0.4, weight_decay=0.05, learning_rate=0.001,
    linear_heads=True, visual_lr_scale=1.0, clip_length=4, clip_stride=1, batch_size=32, epochs=5,
    epoch_steps=40, max_window_s=0.0, max_delay_s=0.0, resume=True)
QUICK = dict(epochs=1, epoch_steps=3)
FOLDS = 4  # networks of a teacher ensemble, or one for each rated actor if there are fewer
STUDENTS = {"self_training": dict(teachers="visual", teacher_networks=2), "student": {}}
CONTROLS = {"control": {}, "control_off": dict(confirm_audio=False)}
ROWS = ("visual", "ensemble", "self_training", "student", "control", "control_off", "oracle", "voices")
RESAMPLES = 2000


# ---- actors ---------------------------------------------------------------------------------------------------------

class Actor(NamedTuple):
    """A row per clip."""
    face: np.ndarray
    voice: np.ndarray
    ratings: np.ndarray  # (clips, 2)


def read_actors(folder):
    """{name: Actor} of FOLDER, each with the clips in an order of its own. Raises UserError if the files do not fit."""
    for name in FILES:
        if not there(folder / name):
            raise UserError(f"{folder / name} is missing: features and ratings of actors were expected, as --help says")
    table = pd.read_csv(folder / "ratings.csv")
    if not {"recording", *TARGETS} <= {*table}:
        raise UserError(f"{folder / 'ratings.csv'} has the columns {', '.join(table)}: recording,clip,arousal,valence "
                        "were expected")
    face, voice = (np.load(folder / name, allow_pickle=False) for name in FILES[:2])
    if not len(face) == len(voice) == len(table):
        raise UserError(f"{folder}: face.npy, voice.npy and ratings.csv have {len(face)}, {len(voice)} and "
                        f"{len(table)} rows: one per clip in each was expected")
    actors, ratings = {}, table[TARGETS].to_numpy()
    for number, (name, rows) in enumerate(table.groupby("recording").indices.items()):
        rows = np.random.default_rng((ORDER, number)).permutation(rows)
        actors[name] = Actor(face[rows], voice[rows], ratings[rows])
    return actors


class Split(NamedTuple):
    """Names of actors."""
    rated: list
    unlabelled: list
    reported: list


def split_of(names, number, rated):
    """The Split of a number. Raises UserError if there are too few actors."""
    if len(names) < REPORTED + rated + 1:
        raise UserError(f"{len(names)} actors: {rated} rated, {REPORTED} reported and at least one unlabelled were "
                        "expected")
    drawn = [names[k] for k in np.random.default_rng(number).permutation(len(names))]
    ends = REPORTED, REPORTED + rated
    reported, chosen, rest = drawn[:ends[0]], drawn[ends[0]:ends[1]], drawn[ends[1]:]
    return Split(sorted(chosen), sorted(rest), sorted(reported))


def exchanged(split):
    """{name: the actor whose voice it gets}: the next one of the same partition."""
    return {name: part[(place + 1) % len(part)] for part in split for place, name in enumerate(part)}


def make_view(folder, actors, split, voice_of):
    """A data folder of features and of the ratings of rated and reported actors, annotated."""
    if there(folder / "made"):
        return
    for name, actor in ((name, actors[name]) for part in split for name in part):
        for modality, array in (("visual", actor.face), ("audio", actors[voice_of[name]].voice)):
            path = folder / "features" / modality / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
    rated = [pd.DataFrame(actors[name].ratings, columns=TARGETS).assign(recording=name, time_s=np.arange(
        len(actors[name].ratings))) for name in (*split.rated, *split.reported)]
    (folder / "ratings_gold_standard").mkdir(exist_ok=True)
    pd.concat(rated).to_csv(folder / "ratings_gold_standard" / "ratings.csv", index=False)
    annotations.main(["--data-dir", str(folder), "--frame-rate", "1", "--train-ids", *split.rated,
                      "--val-ids", *split.reported])
    (folder / "made").touch()


# ---- one split ------------------------------------------------------------------------------------------------------

def train_split(name, report, actors, rated, work, quick):
    """Trains everything of a split and writes its scores, for for_each; what was finished before is left.

    rated: numbers of rated actors. The networks are deleted once their scores are written.
    """
    torch.set_num_threads(1)  # in this process as in workers: more round in another way on some processors
    number, folder, began = number_of(name), work / name, time.perf_counter()
    folder.mkdir(exist_ok=True)
    settings = SETTINGS | (QUICK if quick else {}) | {"seed": number}
    no_curves = mock.patch.object(training.RunFiles, "draw", lambda self, last=False: None)  # a fifth of the time
    with open(work / f"{name}.log", "a", buffering=1) as log, contextlib.redirect_stdout(log), no_curves:
        for count in rated:
            split = split_of([*actors], number, count)
            if not there(file := scores_file(work, number, "oracle")):  # the same for any number of rated actors
                write_scores(file, oracle_rows(folder / "oracle", actors, split, settings), report)
            if not there(file := scores_file(work, number, f"rated{count}")):
                folds = {"teacher_folds": min(FOLDS, count)}
                write_scores(file, rated_rows(folder / f"rated{count}", actors, split, settings | folds), report)
            report(1)
    shutil.rmtree(folder)
    return f"{name}: done in {(time.perf_counter() - began) / 60:.1f} minutes", None


def number_of(name):
    return int(name.removeprefix("split"))


def scores_file(work, number, what):
    return work / "scores" / f"split{number:02}_{what}.csv"


def write_scores(path, rows, report):
    kept = []
    for row in rows:
        kept.append(row)
        report(0)  # here it stops when it is asked to
    with whole_file(path) as part:
        pd.DataFrame(kept, columns=["method", "target", "actor", "what", "value"]).to_csv(part, index=False)


def oracle_rows(folder, actors, split, settings):
    """Scores of the visual network with the true labels of the unlabelled actors."""
    split = Split(sorted(split.rated + split.unlabelled), [], split.reported)
    make_view(folder, actors, split, {name: name for name in actors})
    yield from scored("oracle", trained(Config(**settings, data_dir=str(folder)), stage="visual"))


def rated_rows(folder, actors, split, settings):
    """Scores of all other rows."""
    own, other = folder / "own_voice", folder / "other_voice"
    make_view(own, actors, split, {name: name for name in actors})
    make_view(other, actors, split, exchanged(split))
    cfg = Config(**settings, data_dir=str(own))
    yield from scored("visual", trained(cfg, stage="visual"))
    seeds = [cfg.seed + k * runs.NEXT_SEED for k in range(2 * cfg.teacher_folds)]
    yield from scored("ensemble", *[trained(cfg, stage="visual", seed=seed, variant=f"net{k + 1}" * bool(k))
                                    for k, seed in enumerate(seeds)])
    yield from scored("voices", *teachers_of(cfg)["audio"])
    yield from student_rows(cfg, STUDENTS, actors, split)
    for path in (own / "runs").glob("visual_*"):  # the same with any voice
        if not there(other / "runs" / path.name):
            with whole_folder(other / "runs" / path.name) as part:
                shutil.copytree(path, part, dirs_exist_ok=True)
    cfg = Config(**settings, data_dir=str(other))
    teachers_of(cfg)
    yield from student_rows(cfg, CONTROLS, actors, split)


def trained(cfg, **changes):
    """The Config of a run, which is trained if it is not finished yet."""
    cfg = dataclasses.replace(cfg, **changes)
    mmpkd.train(cfg, torch.device("cpu"))
    return cfg


def teachers_of(cfg):
    """{"audio": Configs of the ensemble, "visual": ...}, trained; the visual baseline, too."""
    student = dataclasses.replace(cfg, stage="student", distill=runs.PSEUDO)
    for one in runs.needed_by(student):
        trained(one)
    return runs.teacher_runs(student)


def student_rows(cfg, students, actors, split):
    """Scores of students and of their labels for unlabelled actors; whether audio teachers were used, and how much."""
    for method, settings in students.items():
        student = dataclasses.replace(cfg, stage="student", distill=runs.PSEUDO, **settings)
        for needed in runs.needed_by(student):
            trained(needed)
        one = trained(student, variant=method)
        yield from scored(method, one)
        folder = runs.run_folder(one)
        report = read_report(folder, TARGETS)
        for target in TARGETS:
            share = report[target]["weights"].get("audio", 0.0)
            yield method, target, "", "passed", float(report[target].get("audio", {"passed": True})["passed"])
            yield method, target, "", "share", share
        for name in split.unlabelled:
            label = pd.read_csv(folder / "labels" / f"{name}.csv")[TARGETS].to_numpy()
            yield from cccs(method, name, label, actors[name].ratings, ["label"])


def scored(method, *configs):
    """Scores on the reported actors of the mean of some runs' predictions."""
    tables = [read_predictions(runs.run_folder(cfg), "val", cfg.frame_rate) for cfg in configs]
    for name in tables[0]:
        pred, gold = (np.mean([table[name][[f"{target}_{kind}" for target in TARGETS]] for table in tables], 0)
                      for kind in ("pred", "gold"))
        yield from cccs(method, name, pred, gold, ["raw", "centred"])


def cccs(method, name, pred, gold, kinds):
    """CCCs of an actor's (clips, 2) predictions or labels; "centred": both less their mean over the clips."""
    for kind, (k, target) in itertools.product(kinds, enumerate(TARGETS)):
        series = [part[:, k] - part[:, k].mean() * (kind == "centred") for part in (pred, gold)]
        yield method, target, name, kind, float(ccc(*series))


# ---- tables ---------------------------------------------------------------------------------------------------------

def read_scores(work, splits, rated):
    """The scores of all splits with a number of rated actors, a column `split` added."""
    return pd.concat([pd.read_csv(scores_file(work, number, what)).assign(split=number)
                      for number in splits for what in ("oracle", f"rated{rated}")])


def matrix(scores, method, what, target):
    """(splits, actors) CCCs of a method, NaN where an actor is not reported; target "mean": of both."""
    part = scores[(scores.method == method) & (scores.what == what) & scores.target.isin(
        TARGETS if target == "mean" else [target])]
    return part.pivot_table("value", "split", "actor").to_numpy()


def interval(values):
    """(mean, low, high) of differences (splits, actors), NaN where there is none: 95 % by a bootstrap that draws splits
    and actors, each with replacement, at the same time."""
    draw, there = np.random.default_rng(0), np.isfinite(values)
    by_split, by_actor = (draw.multinomial(size, np.full(size, 1 / size), RESAMPLES) for size in values.shape)
    sums, counts = (np.einsum("rs,sa,ra->r", by_split, part, by_actor)
                    for part in (np.where(there, values, 0), there.astype(float)))
    return (float(np.nanmean(values)), *map(float, np.quantile(sums[counts > 0] / counts[counts > 0], [.025, .975])))


def difference(scores, method, against, what, target="mean"):
    """How much higher a method's CCC is than another's, with its interval, as text."""
    mean, low, high = interval(matrix(scores, method, what, target) - matrix(scores, against, what, target))
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def table_of(scores, title):
    """The table of a number of rated actors, as text."""
    columns = "".join(f"{name:>9}" for name in (*TARGETS, "mean")) + f"{'gain over visual':>26}"
    lines = [title, "", f"{'':14}{'raw':>9}{'':44}{'centred':>9}", f"{'CCC':14}{columns}{columns}"]
    for method in ROWS:
        line = f"{method:14}"
        for what in ("raw", "centred"):
            line += "".join(f"{np.nanmean(matrix(scores, method, what, target)):9.3f}" for target in (*TARGETS, "mean"))
            line += f"{difference(scores, method, 'visual', what) if method != 'visual' else '':>26}"
        lines.append(line.rstrip())
    return "\n".join([*lines, "", *gains(scores), *labels(scores)])


def gains(scores):
    """What audio teachers add to the student, and the student to the ensemble: a line for raw and centred CCCs."""
    for name, against in (("hearing", "self_training"), ("over ensemble", "ensemble")):
        for what in ("raw", "centred"):
            parts = [f"{target} {difference(scores, 'student', against, what, target)}"
                     for target in (*TARGETS, "mean")]
            yield f"{f'{name}, {what}':26}{'  '.join(parts)}"


def labels(scores):
    """CCC of the labels of unlabelled actors, and how often and with what weight audio teachers labelled them: a line
    for each student."""
    for method in (*STUDENTS, *CONTROLS):
        parts = []
        for target in TARGETS:
            value, passed, share = (scores[(scores.method == method) & (scores.what == what)
                                           & (scores.target == target)].value for what in ("label", "passed", "share"))
            audio = f", audio in {passed.sum():.0f}/{len(passed)} splits, weight {share.mean():.2f}"
            parts.append(f"{target} {value.mean():.3f}" + audio * (method != "self_training"))
        yield f"{f'labels, {method}':26}{'; '.join(parts)}"


# ---- main -----------------------------------------------------------------------------------------------------------

def keep_settings(work, folder, quick):
    """Raises UserError if the scores in `work` are of other settings or data; else notes these."""
    note = work / "settings.json"
    fixed = {"order": ORDER, "folds": FOLDS, "reported": REPORTED, "students": STUDENTS, "controls": CONTROLS}
    made_of = {name: identity(folder / name) for name in FILES}
    now = SETTINGS | (QUICK if quick else {}) | fixed | {"made_of": made_of}
    now = json.dumps(now, indent=1) + "\n"
    if there(note) and note.read_text() != now:
        raise UserError(f"{work}/ holds scores of other settings, or of other actors, than those of now: delete it, or "
                        "name another folder with --work-dir")
    (work / "scores").mkdir(parents=True, exist_ok=True)
    with whole_file(note) as part:
        part.write_text(now)


def train_all(args, actors):
    """Trains the splits that are not finished, some side by side."""
    todo = [name for name in (f"split{number:02}" for number in range(args.splits)) if not all(
        there(scores_file(args.work_dir, number_of(name), f"rated{count}")) for count in args.rated)]
    work = partial(train_split, actors=actors, rated=args.rated, work=args.work_dir, quick=args.quick)
    with mock.patch.dict(os.environ, TQDM_DISABLE="1"):  # of the workers: one progress bar is enough
        for_each(todo, work, dict.fromkeys(todo, len(args.rated)), args.workers, unit="tables")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of face.npy, voice.npy, ratings.csv")
    parser.add_argument("--splits", type=int, default=20, help="draws of who is rated, unlabelled, reported [20]")
    parser.add_argument("--rated", type=int, nargs="+", default=[3, 6, 9], help="numbers of rated actors [3 6 9]")
    parser.add_argument("--workers", type=int, default=cores(), help="splits side by side [the number of cores]")
    parser.add_argument("--work-dir", type=Path, default=Path("data_real_actors"), help="scores, and runs until then")
    parser.add_argument("--quick", action="store_true", help="hardly trained: only to see that it works")
    args = parser.parse_args(argv)
    print(describe("torch"))
    actors = read_actors(args.folder)
    splits = {count: split_of([*actors], 0, count) for count in args.rated}  # before hours: are there enough?
    keep_settings(args.work_dir, args.folder, args.quick)
    train_all(args, actors)
    tables = {count: read_scores(args.work_dir, range(args.splits), count) for count in args.rated}
    for count, scores in tables.items():
        title = f"{count} rated, {len(splits[count].unlabelled)} unlabelled, {REPORTED} reported actors"
        print(f"\n{table_of(scores, f'{title}; {args.splits} splits')}")
    return tables


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
