"""Predictions -> post-processing -> the final CCC table and its plots, all finished runs side by side.

Reads   runs/<run>/predictions/{train,val,held_out}/<id>.csv    of every finished run (mmpkd.py)
        runs/<run>/config.json      how a student was trained, and how its epoch was selected, if it can be read
        Cropped_Aligned/<id>/       the faces above the traces, if they exist
Writes  plots/ccc.csv               run,target,level,recording,frames,ccc_raw,ccc_postprocessed: the recordings of
                                    Val_Set, their mean, all of them concatenated; frames: those with a valid rating
        plots/postprocessing.csv    the constants of each run and target, and what they were fitted on
        plots/ccc.png               the runs side by side, with their bounds
        plots/traces/<run>/<id>.png gold standard and prediction over time

Runs that differ in their seed alone, and were trained on the same ratings, are also shown as the mean of their
predictions, <run>+mean: what predict.py makes of their networks together. It has no post-processing.

Post-processing (postprocessing.py) is fitted on subjects of Train_Set, as predicted by networks that were not trained
on them: Val_Set, which the table reports, is not used. A run with --fold has such predictions; any other one takes
those of the runs of all folds of its stage, a student those of the visual stage; where there are none, there is no
post-processing. With --level, all predictions are treated so first, those for the fit as well.

All files are written again in every call. plots/traces/<run>/ then holds the recordings of that run and no others; the
traces of runs that are not in the runs folder stay, because they may belong to another --runs-dir.

    python plot_ccc.py --data-dir data
"""
import math
import re
from pathlib import Path
from typing import NamedTuple

from support.errors import SettingsError, UserError, run_script
from support.files import there, whole_file
from support.settings import answer_first, check_settings, parse_config, read_settings

answer_first(__name__, __file__, __doc__)

import numpy as np
import pandas as pd
from tqdm import tqdm

import figures
from config import Config
from postprocessing import fit_tables, postprocess, rating_level, relevel, six_digits
from runs import INPUTS, NOT_FITTED, OLDER, changed, run_folder, say_once
from scores import AGAIN, gaps_closed, out_of_fold, read_predictions, score, summary_of, targets_of
from seeds import with_means
from support.recordings import PARTITIONS, SUMMARIES, TARGETS

FOLD = re.compile(r"_fold\d+of\d+")  # in the name of a run with held-out subjects
# What each stage sees and what it is for; the runs are shown in this order.
STAGES = {"visual": "face only: lower bound", "teacher": "face and voice: upper bound", "student": "face only",
          "audio": "voice only"}


class Run(NamedTuple):
    """A finished run; its name is that of its folder, <stage>_<target>[_<distill>][_fold<i>of<n>][_<variant>]."""
    name: str
    train: dict  # {id: table}
    val: dict
    settings: dict  # its config.json; {} if it cannot be read
    held_out: dict = {}  # what its post-processing is fitted on (scores.out_of_fold)
    members: tuple = ()  # names of the runs that it is the mean of (seeds.py)

    @property
    def stage(self): return stage_of(self.name)
    @property
    def targets(self): return targets_of(next(iter(self.val.values())))
    @property
    def variant(self): return self.settings.get("variant", "")
    @property
    def selected_on_val(self): return self.settings.get("keep", "best") == "best" and not self.settings.get("fold")
    @property
    def is_bound(self): return self.stage in ("visual", "teacher") and not self.members
    @property
    def about(self):
        sees, *bound = STAGES.get(self.stage, "").split(":")
        if self.members:
            return f"mean of {len(self.members)}: {sees}{how_taught(self) * (self.stage == 'student')}"
        return ":".join([sees, *bound]) + how_taught(self) * (self.stage == "student")


def stage_of(name):
    """Stage of a run, from the name of its folder."""
    return name.split("_")[0]


def how_taught(run):
    """How a student was trained, after "face only": from its config.json, else from the name of its folder."""
    distill = run.settings.get("distill") or "_".join(run.name.split("_")[2:])
    if distill.startswith("pseudo"):
        teachers = run.settings.get("teachers", "")
        teachers = teachers.replace("+", ", ", teachers.count("+") - 1).replace("+", " and ")
        return ", trained on ratings and pseudo-labels" + f" of {teachers} teachers" * bool(teachers)
    if distill.startswith("mean_teacher"):
        return ", taught by the average of its own weights (mean teacher)"
    return f", distilled from the teacher ({distill})" if distill else ""


# ---- runs on disk ---------------------------------------------------------------------------------------------------

def read_runs(root, frame_rate):
    """(finished runs, names of unfinished runs, names of fold runs left out) of a runs folder.

    The runs are in the order of STAGES. Fold runs are read only if there are no others. Raises UserError if no run is
    finished, if a table is damaged, or if runs were scored on different ratings.
    """
    names = sorted(path.name for path in Path(root).glob("[!.]*") if path.is_dir())
    folds = [name for name in names if FOLD.search(name)]
    names, folds = (others, folds) if (others := [name for name in names if name not in folds]) else (names, [])
    names.sort(key=lambda name: ([*STAGES, stage_of(name)].index(stage_of(name)), name))
    finished = [name for name in names if there(Path(root, name, "predictions"))]
    if not names:
        raise UserError(f"{root}/ holds no run: run mmpkd.py first, or name another folder with --runs-dir")
    if not finished:
        raise UserError(f"{root}/ holds no finished run ({', '.join(names)} lack predictions/): run mmpkd.py first")
    bar = tqdm(finished, "reading predictions", leave=False, disable=None)
    runs = [read_run(Path(root, name), frame_rate) for name in bar]
    check_same_gold(root, runs)
    return runs, [name for name in names if name not in finished], folds


def read_run(folder, frame_rate):
    """Run of a folder. Raises UserError that names the file which is missing, damaged or unlike the others."""
    tables = {partition: read_predictions(folder, partition, frame_rate) for partition in PARTITIONS}
    run = Run(folder.name, **tables, settings=settings_in(folder))
    if run.settings:
        cfg = Config(**run.settings | {"runs_dir": str(folder.parent), "frame_rate": frame_rate})
        run = run._replace(held_out=out_of_fold(cfg, folder / "predictions"))
    if both := sorted((set(run.train) | set(run.held_out)) & set(run.val)):
        raise UserError(f"{folder}/predictions/ has {both[0]} in val/ and in train/ or held_out/: what is fitted would "
                        f"be reported on the same recording; {AGAIN.format(folder)}")
    for partition in PARTITIONS:
        for name, table in tables[partition].items():
            if targets_of(table) != run.targets:
                raise UserError(f"{folder}/predictions/{partition}/{name}.csv has predictions of "
                                f"{' and '.join(targets_of(table))}, other recordings of {' and '.join(run.targets)}: "
                                f"{AGAIN.format(folder)}")
    return run


def settings_in(folder):
    """config.json of a run; {} if it is missing, damaged or of another version."""
    try:
        settings = read_settings(folder / "config.json")
        settings = settings and OLDER | {"stage": stage_of(folder.name)} | settings
        check_settings(Config(**settings))
    except SettingsError as error:
        say_once(f"{error}. The settings of this run are not known")
        return {}
    if (own := run_folder(Config(**settings)).name) != folder.name:
        say_once(f"{folder}/config.json is of a run that is called {own}")
    return settings if settings.get("stage") in INPUTS else {}


def check_same_gold(root, runs):
    """Raises UserError unless all runs of a target have the same recordings in Val_Set with the same ratings.

    Their training recordings may differ: these may be what is compared.
    """
    for target in TARGETS:
        first, *others = [run for run in runs if target in run.targets] or [None]
        for run in others:
            again = f"delete the older of {root}/{first.name}/ and {root}/{run.name}/ and run mmpkd.py again"
            for name in sorted(set(first.val) ^ set(run.val)):
                have, lack = (first, run) if name in first.val else (run, first)
                path = f"{root}/{lack.name}/predictions/val/{name}.csv"
                raise UserError(f"{path} is missing, {have.name} has this recording: {again}")
            for name in run.val:
                path, other = (f"{root}/{each.name}/predictions/val/{name}.csv" for each in (run, first))
                gold, expected = (each.val[name][f"{target}_gold"].to_numpy() for each in (run, first))
                if len(gold) != len(expected):
                    raise UserError(f"{path} has {len(gold)} frames, {other} has {len(expected)}: {again}")
                if not np.array_equal(gold, expected, equal_nan=True):
                    raise UserError(f"{path} and {other} have different ratings of {target}: {again}")


# ---- the tables -----------------------------------------------------------------------------------------------------

def processed(tables, constants, smoothing):
    """{id: table} with post-processed predictions; constants: {target: PostProcessing}."""
    def columns(table):
        return {f"{target}_pred": postprocess(table[f"{target}_pred"].to_numpy(), constants[target], smoothing)
                for target in constants}
    return {name: table.assign(**columns(table)) for name, table in tables.items()}


def releveled(run, level, frame_rate):
    """A run with all its predictions for val and held_out at a level (postprocessing.relevel)."""
    means = {target: rating_level([table[f"{target}_gold"].to_numpy() for table in run.train.values()])
             for target in run.targets}

    def moved(tables):
        return {name: table.assign(**{
            f"{target}_pred": relevel(table[f"{target}_pred"], level, *means[target], frame_rate) for target in means})
            for name, table in tables.items()}
    return run if level == "raw" else run._replace(val=moved(run.val), held_out=moved(run.held_out))


def fitted_runs(cfg):
    """(runs and their means at the level that is asked for, {run name: {target: PostProcessing}}, names of unfinished
    runs, and of fold runs left out, as of read_runs)."""
    runs, unfinished, folds = read_runs(cfg.run_root, cfg.frame_rate)
    runs = [releveled(run, cfg.level, cfg.frame_rate) for run in with_means(runs)]
    limits = cfg.smoothing, cfg.max_window_s, cfg.max_delay_s, cfg.frame_rate
    bar = tqdm(runs, "fitting the post-processing", leave=False, disable=None)
    return runs, {run.name: fit_tables(run.held_out, run.targets, *limits) for run in bar}, unfinished, folds


def ccc_table(runs, constants, cfg):
    """plots/ccc.csv as a table; constants: {run name: {target: PostProcessing}}. NaN: fewer than two valid ratings."""
    rows = []
    for run in runs:
        raw = score(run.val, run.targets)
        post = score(processed(run.val, constants[run.name], cfg.smoothing), run.targets)
        for target in run.targets:
            frames = {name: int(table[f"{target}_gold"].notna().sum()) for name, table in run.val.items()}
            frames |= dict.fromkeys(SUMMARIES, sum(frames.values()))
            rows += [{"run": run.name, "target": target, "level": cfg.level, "recording": name, "frames": count,
                      "ccc_raw": six_digits(raw[target].get(name, math.nan)),
                      "ccc_postprocessed": six_digits(post[target].get(name, math.nan))}
                     for name, count in frames.items()]
    return pd.DataFrame(rows)


def constants_table(runs, constants, cfg):
    """plots/postprocessing.csv as a table, with the joint CCC before and after, and the number, of the recordings that
    the constants were fitted on."""
    rows = []
    for run in runs:
        for target, kept in constants[run.name].items():
            raw, post = (score(tables, [target])[target]["concatenated"]
                         for tables in (run.held_out, processed(run.held_out, {target: kept}, cfg.smoothing)))
            rows.append({"run": run.name, "target": target, "level": cfg.level, "frame_rate": cfg.frame_rate,
                         "smoothing": cfg.smoothing, **kept._asdict(), "fitted_on": len(run.held_out),
                         "held_out_ccc_raw": six_digits(raw), "held_out_ccc_postprocessed": six_digits(post)})
    return pd.DataFrame(rows)


def save_table(table, path):
    """Writes a table as CSV, the same bytes for the same values."""
    with whole_file(path) as part:
        table.to_csv(part, index=False, float_format="%.6f", na_rep="nan", lineterminator="\n")


# ---- what is printed ------------------------------------------------------------------------------------------------

def ccc_report(runs, table, target):
    """ccc.csv of one target as text: each run's CCC, mean and concatenated, raw and post-processed, and gaps closed."""
    part = table[table["target"] == target]
    runs = [run for run in runs if target in run.targets]
    values = {run.name: summary_of(part, run.name) for run in runs}
    recordings = len(runs[0].val)
    title = f"{target.upper()}: CCC on Val_Set, {recordings} recording" + "s" * (recordings > 1)
    title += "".join(f", level: {level}" for level in part["level"].unique() if level != "raw")
    wide = max(len(title), *(len(f"gap closed by {run}") for run in values)) + 2
    widths = (10, 16) * 2
    lines = [f"{title:{wide}}{'mean of recordings':>26}{'concatenated':>26}",
             " " * wide + f"{'raw':>10}{'post-processed':>16}" * 2]
    lines += [f"{run:{wide}}" + "".join(f"{value:{width}.3f}" for value, width in zip(values[run], widths))
              for run in values]
    for run in runs:
        if closed := gaps_closed(values, run)[::2]:  # raw: not every run has a post-processing
            texts = "".join(f"{text:>{widths[0]}}{'-':>{widths[1]}}" for text in closed)
            lines.append(f"{'gap closed by ' + run.name:{wide}}{texts}")
    return "\n".join(lines)


def constants_report(table):
    """postprocessing.csv as text, with a dash for each step that was not kept."""
    wide = max(len("run"), *table["run"].str.len()) + 2
    lines = ["Post-processing, fitted on held-out subjects of Train_Set, concatenated; -: a step that did not raise "
             "this CCC",
             f"{'run':{wide}}{'target':10}{'window_s':>10}{'bias':>9}{'scale':>8}{'delay_s':>9}"
             f"{'held-out raw':>14}{'post-processed':>16}"]
    for row in table.itertuples():
        window = f"{row.window_frames / row.frame_rate:.2f}" if row.window_frames > 1 else "-"
        bias = f"{row.bias:+.3f}" if row.bias else "-"
        scale = f"{row.scale:.2f}" if row.scale != 1 else "-"
        delay_s = f"{row.delay_frames / row.frame_rate:.2f}" if row.delay_frames else "-"
        lines.append(f"{row.run:{wide}}{row.target:10}{window:>10}{bias:>9}{scale:>8}{delay_s:>9}"
                     + (f"{row.held_out_ccc_raw:14.3f}{row.held_out_ccc_postprocessed:16.3f}" if row.fitted_on
                        else "not fitted".rjust(30)))
    return "\n".join(lines)


def on_fitting(runs, cfg):
    """Sentences on the runs without a post-processing, and on those whose own one, in their best.pt, was fitted with
    other settings."""
    now = {name: getattr(cfg, name) for name in ("smoothing", "max_window_s", "max_delay_s")}
    trained = [run for run in runs if not run.members]
    others = [run.name for run in trained if changed(run.settings, now)]
    without = [run.name for run in trained if not run.held_out]
    return [f"{run.name}: the mean of the predictions of {', '.join(run.members)}; no post-processing, whose constants "
            "are of one network." for run in runs if run.members] + [
        f"{', '.join(without)}: {NOT_FITTED}."] * bool(without) + [
        f"{', '.join(others)}: fitted with other settings when trained, and predict.py --postprocess uses the "
        "constants of then."] * bool(others)


def at_level(cfg):
    """A sentence on the level of the predictions, unless it is their own."""
    return [f"All predictions are at the level {cfg.level} (--level) before anything is computed from them; \"raw\" is "
            "without post-processing."] * (cfg.level != "raw")


def left_out(unfinished, folds=()):
    """Sentences on the runs that are not shown, if any."""
    sentences = [f"Left out, not finished (no predictions/): {', '.join(unfinished)}."] * bool(unfinished)
    return sentences + [f"Left out, runs of single folds: {len(folds)}. To plot them, move them to a folder without "
                        "other runs and name it with --runs-dir."] * bool(folds)


# ---- main -----------------------------------------------------------------------------------------------------------

def save_traces(runs, after, table, steps, folder, crops_dir):
    """Writes the figure of every run and recording. Returns their paths.

    after: {run name: {id: post-processed table}}; table: ccc.csv; steps: {run name: {target: steps_text}}.
    """
    limits, paths = figures.value_limits(runs, after), []
    values = table.set_index(["run", "recording", "target"])[["ccc_raw", "ccc_postprocessed"]]
    total = sum(len(run.val) for run in runs)
    with tqdm(total=total, desc="plotting", unit=" figures", leave=False, disable=None) as bar:
        for run in runs:
            for name in run.val:
                captions = {target: figures.ccc_text(*values.loc[run.name, name, target], steps[run.name][target])
                            for target in run.targets}
                strip = figures.face_strip(crops_dir / name, len(run.val[name]))
                fig = figures.traces_figure(run, name, after[run.name][name], captions, limits, strip)
                paths.append(figures.save_figure(fig, Path(folder, run.name, f"{name}.png")))
                bar.update()
    return paths


def remove_stale(paths):
    """Deletes figures beside `paths`, of recordings that these runs no longer have. Returns how many."""
    stale = [path for folder in {path.parent for path in paths} for path in folder.glob("*.png") if path not in paths]
    for path in stale:
        path.unlink()
    return len(stale)


def main(argv=None):
    """{"ccc": table of ccc.csv, "postprocessing": table of constants, "summary": path of ccc.png, "traces": paths}."""
    cfg = parse_config(argv, __file__, __doc__)
    runs, constants, unfinished, folds = fitted_runs(cfg)
    table = ccc_table(runs, constants, cfg)
    fitted = constants_table(runs, constants, cfg)
    save_table(table, cfg.plots_dir / "ccc.csv")
    save_table(fitted, cfg.plots_dir / "postprocessing.csv")
    notes = [*at_level(cfg), *left_out(unfinished)]
    summary = figures.save_figure(figures.summary_figure(runs, table, notes), cfg.plots_dir / "ccc.png")
    after = {run.name: processed(run.val, constants[run.name], cfg.smoothing) for run in runs}
    level = f"level: {cfg.level}; " * (cfg.level != "raw")
    steps = {run: {target: level + figures.steps_text(kept, cfg.smoothing, cfg.frame_rate)
                   for target, kept in each.items()} for run, each in constants.items()}
    traces = save_traces(runs, after, table, steps, cfg.plots_dir / "traces", cfg.crops_dir)
    removed = remove_stale(traces)

    for target in table["target"].unique():
        print(ccc_report(runs, table, target), end="\n\n")
    print(*at_level(cfg), constants_report(fitted), *on_fitting(runs, cfg), sep="\n", end="\n\n")
    print(figures.selection_note(runs), *left_out(unfinished, folds), sep="\n")
    print(f"{cfg.plots_dir}: ccc.csv, postprocessing.csv, ccc.png and {len(traces)} figures in traces/ written"
          + f"; {removed} of recordings that are gone removed" * bool(removed))
    return {"ccc": table, "postprocessing": fitted, "summary": summary, "traces": traces}


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
