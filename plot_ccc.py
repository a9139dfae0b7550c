"""Predictions -> post-processing -> the final CCC table and its plots, every finished run beside the others.

Reads   runs/<run>/predictions/{train,val}/<id>.csv     of every finished run (mmpkd.py)
        Cropped_Aligned/<id>/   the faces above the traces, where they are there
Writes  plots/ccc.csv               run,target,recording,frames,ccc_raw,ccc_postprocessed: the recordings of Val_Set, then
                                    their mean, then all of them concatenated; frames: those with a valid rating
        plots/postprocessing.csv    the constants of each run and target, fitted on Train_Set
        plots/ccc.png               the runs side by side, with their bounds
        plots/traces/<run>/<id>.png gold standard and prediction over time

Post-processing has AVEC's steps and order: a smoothing window, a bias, a scale, a delay. Each is fitted on Train_Set and
kept only if it raises the CCC there; Val_Set, on which the table is made, has no say in it. As in AVEC, the CCC that
decides is that of all recordings concatenated: the constants are the same for every recording, and under this CCC the best
bias and scale follow from mean and spread alone.

    python plot_ccc.py --data-dir data
"""
import contextlib
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from figures import face_strip, how_chosen, left_out, save_figure, steps_text, summary_figure, traces_figure, value_limits
from losses import ccc
from scores import AGAIN, gaps_closed, read_predictions, score, summary_of, targets_of
from support.errors import SettingsError, UserError, run_script
from support.files import whole_file
from support.recordings import PARTITIONS, SUMMARIES, TARGETS
from support.settings import parse_config, read_settings

GAIN = 1e-6  # a step must raise the CCC by more to be kept: predictions have six digits
SPREAD = 1e-9  # predictions that vary by less are constant: there is nothing to scale

FOLD = re.compile(r"_fold\d+of\d+")  # in the name of a run that held people out
# Of each stage, in this order everywhere: what it is, and its colour (Okabe and Ito's, told apart by the colour-blind).
STAGES = {"visual": ("face only: lower bound", "#0072B2"), "teacher": ("face and voice: upper bound", "#D55E00"),
          "student": ("face only, taught by the teacher", "#009E73"), "audio": ("voice only", "#CC79A7")}
OTHER = ("", "#777777")  # a run whose folder was renamed


class Run(NamedTuple):
    """A finished run: its predictions as tables, and what its folder's name says, <stage>_<target>[_<distill>]."""
    name: str
    train: dict  # {id: table}
    val: dict
    chosen: bool = True  # whether the epoch that was kept was the best on Val_Set

    @property
    def stage(self): return self.name.split("_")[0]
    @property
    def targets(self): return targets_of(next(iter(self.val.values())))
    @property
    def about(self): return STAGES.get(self.stage, OTHER)[0]
    @property
    def colour(self): return STAGES.get(self.stage, OTHER)[1]


class PostProcessing(NamedTuple):
    """Constants of one run and target; these defaults change nothing."""
    window_frames: int = 1  # of the smoothing, odd
    bias: float = 0.0  # is added
    scale: float = 1.0  # times the distance from ...
    centre: float = 0.0  # ... this value
    delay_frames: int = 0  # ratings come later than what the face shows, and so must predictions


# ---- post-processing: series of one recording, (N,) -> (N,) ---------------------------------------------------------

def smooth(pred, window_frames, smoothing):
    """Mean or median over the window around each frame; at the edges over what the window holds of the recording."""
    window = pd.Series(pred).rolling(window_frames, center=True, min_periods=1)
    return (window.median() if smoothing == "median" else window.mean()).to_numpy()


def stretch(pred, scale, centre):
    """`pred` with its distance from `centre` scaled."""
    return centre + scale * (pred - centre)


def delay(pred, delay_frames):
    """`pred` that many frames later: its first value is held until then, its last values fall off the end."""
    return pred[np.maximum(np.arange(len(pred)) - delay_frames, 0)]


def postprocess(pred, constants, smoothing):
    """Post-processed predictions of one recording."""
    smoothed = smooth(pred, constants.window_frames, smoothing)
    return delay(stretch(smoothed + constants.bias, constants.scale, constants.centre), constants.delay_frames)


def joint_ccc(preds, golds):
    """CCC of recordings concatenated, over the frames whose gold is not NaN; NaN if those are fewer than two."""
    pred, gold = np.concatenate(preds), np.concatenate(golds)
    valid = ~np.isnan(gold)
    return float(ccc(pred[valid], gold[valid])) if valid.sum() > 1 else math.nan


def best_of(values, ccc_of):
    """The value with the highest CCC; the first, which changes nothing, if no other raises it by more than GAIN."""
    best, highest = values[0], ccc_of(values[0])
    for value in values[1:]:
        if (reached := ccc_of(value)) > highest + GAIN:
            best, highest = value, reached
    return best


def fit_postprocessing(preds, golds, smoothing, longest_window, longest_delay):
    """PostProcessing of the training recordings: step by step what raises their joint CCC most, or what changes nothing.

    preds, golds: one series per recording; the longest window and delay to try in frames. Bias and scale are the closed
    forms: a CCC is highest where the means agree, and then where the spreads do. They have six digits, as in the file.
    """
    gold = np.concatenate(golds)
    valid = ~np.isnan(gold)
    if valid.sum() < 2:
        return PostProcessing()
    windows = range(1, max(longest_window, 1) + 1, 2)
    window = best_of(windows, lambda w: joint_ccc([smooth(p, w, smoothing) for p in preds], golds))
    preds = [smooth(p, window, smoothing) for p in preds]

    pred = np.concatenate(preds)[valid]
    bias = best_of([0.0, six_digits(float(gold[valid].mean() - pred.mean()))], lambda b: joint_ccc([p + b for p in preds], golds))
    preds = [p + bias for p in preds]

    centre = six_digits(float(pred.mean()) + bias)
    scales = [1.0, six_digits(float(gold[valid].std() / pred.std()))] if pred.std() > SPREAD else [1.0]
    scale = best_of(scales, lambda s: joint_ccc([stretch(p, s, centre) for p in preds], golds))
    preds = [stretch(p, scale, centre) for p in preds]

    delay_frames = best_of(range(longest_delay + 1), lambda d: joint_ccc([delay(p, d) for p in preds], golds))
    return PostProcessing(window, bias, scale, centre if scale != 1 else 0.0, delay_frames)


# ---- runs on disk ---------------------------------------------------------------------------------------------------

def read_runs(root, frame_rate):
    """(finished runs, names of the unfinished ones, names of those of folds) of a runs folder, in the order of STAGES. Those of folds
    are left out where there are other runs.

    Raises UserError if none is finished, if a table is damaged, or if the runs were not scored on the same ratings.
    """
    names = sorted(path.name for path in Path(root).glob("[!.]*") if path.is_dir())
    folds = [name for name in names if FOLD.search(name)]
    names, folds = (others, folds) if (others := [name for name in names if name not in folds]) else (names, [])
    names.sort(key=lambda name: ([*STAGES, name.split("_")[0]].index(name.split("_")[0]), name))
    unfinished = [name for name in names if not (Path(root, name) / "predictions").exists()]
    if len(unfinished) == len(names):
        raise UserError(f"{root}/ holds no finished run (none of {', '.join(names)} has predictions/): run mmpkd.py first" if names
                        else f"{root}/ holds no run: run mmpkd.py first, or name another place with --runs-dir")
    finished = [name for name in names if name not in unfinished]
    runs = [read_run(Path(root, name), frame_rate) for name in tqdm(finished, "reading predictions", leave=False, disable=None)]
    check_same_gold(root, runs)
    return runs, unfinished, folds


def read_run(folder, frame_rate):
    """Run of a folder. Raises UserError naming the file that is missing, damaged or not like the others."""
    tables = {partition: read_predictions(folder, partition, frame_rate) for partition in PARTITIONS}
    settings = {}
    with contextlib.suppress(SettingsError):  # of another version: what it says is not known
        settings = read_settings(folder / "config.json")
    run = Run(folder.name, **tables, chosen=settings.get("keep", "best") == "best" and not settings.get("fold"))
    if both := sorted(set(run.train) & set(run.val)):
        raise UserError(f"{folder}/predictions/ has {both[0]} in train/ and in val/: nothing may be fitted on what is reported; "
                        f"{AGAIN.format(folder)}")
    for partition in PARTITIONS:
        for name, table in tables[partition].items():
            if targets_of(table) != run.targets:
                raise UserError(f"{folder}/predictions/{partition}/{name}.csv has predictions of {' and '.join(targets_of(table))}, other "
                                f"recordings of {' and '.join(run.targets)}: {AGAIN.format(folder)}")
    return run


def check_same_gold(root, runs):
    """Raises UserError unless all runs with a target have the same recordings in Val_Set with the same ratings.

    What they were trained on may differ: that may be what is being compared.
    """
    for target in TARGETS:
        having = [run for run in runs if target in run.targets]
        for run in having[1:]:
            first, again = having[0], f"delete the older of {root}/{having[0].name}/ and {root}/{run.name}/ and run mmpkd.py again"
            for name in sorted(set(first.val) ^ set(run.val)):
                have, lack = (first, run) if name in first.val else (run, first)
                raise UserError(f"{root}/{lack.name}/predictions/val/{name}.csv is missing, {have.name} has it: {again}")
            for name in run.val:
                golds = [table[f"{target}_gold"].to_numpy() for table in (first.val[name], run.val[name])]
                path, other = f"{root}/{run.name}/predictions/val/{name}.csv", f"{root}/{first.name}/predictions/val/{name}.csv"
                if len(golds[0]) != len(golds[1]):
                    raise UserError(f"{path} has {len(golds[1])} frames, {other} has {len(golds[0])}: {again}")
                if not np.array_equal(*golds, equal_nan=True):
                    raise UserError(f"{path} has other ratings of {target} than {other}: {again}")


# ---- the tables -----------------------------------------------------------------------------------------------------

def fit_run(run, target, smoothing, longest_window, longest_delay):
    """PostProcessing of a run's target, from its predictions for Train_Set alone."""
    preds, golds = ([table[f"{target}_{column}"].to_numpy() for table in run.train.values()] for column in ("pred", "gold"))
    return fit_postprocessing(preds, golds, smoothing, longest_window, longest_delay)


def processed(tables, constants, smoothing):
    """{id: table} with post-processed predictions; constants: {target: PostProcessing}."""
    return {name: table.assign(**{f"{target}_pred": postprocess(table[f"{target}_pred"].to_numpy(), constants[target], smoothing)
                                  for target in constants}) for name, table in tables.items()}


def ccc_table(runs, constants, smoothing):
    """plots/ccc.csv as a table; constants: {run name: {target: PostProcessing}}. NaN: fewer than two valid ratings."""
    rows = []
    for run in runs:
        raw, post = (score(tables, run.targets) for tables in (run.val, processed(run.val, constants[run.name], smoothing)))
        for target in run.targets:
            frames = {name: int(table[f"{target}_gold"].notna().sum()) for name, table in run.val.items()}
            frames |= dict.fromkeys(SUMMARIES, sum(frames.values()))
            rows += [{"run": run.name, "target": target, "recording": name, "frames": count,
                      "ccc_raw": six_digits(raw[target].get(name, math.nan)),
                      "ccc_postprocessed": six_digits(post[target].get(name, math.nan))} for name, count in frames.items()]
    return pd.DataFrame(rows)


def six_digits(value):
    """`value` as a file has it; no negative zero, whose sign would be left to rounding."""
    return round(value, 6) + 0.0


def constants_table(runs, constants, smoothing, frame_rate):
    """plots/postprocessing.csv as a table, with the joint CCC on Train_Set before and after."""
    rows = []
    for run in runs:
        for target, kept in constants[run.name].items():
            raw, post = (score(tables, [target])[target]["concatenated"]
                         for tables in (run.train, processed(run.train, {target: kept}, smoothing)))
            rows.append({"run": run.name, "target": target, "frame_rate": frame_rate, "smoothing": smoothing, **kept._asdict(),
                         "train_ccc_raw": six_digits(raw), "train_ccc_postprocessed": six_digits(post)})
    return pd.DataFrame(rows)


def save_table(table, path):
    """Writes a table as CSV, the same bytes for the same values."""
    with whole_file(path) as part:
        table.to_csv(part, index=False, float_format="%.6f", na_rep="nan", lineterminator="\n")


# ---- the report -----------------------------------------------------------------------------------------------------

def ccc_report(table, target):
    """The runs of one target under each other: CCC as mean and concatenated, raw and post-processed, and the gap closed."""
    part = table[table["target"] == target]
    values = {run: summary_of(part, run) for run in part["run"].unique()}
    recordings = sum(~part.loc[part["run"] == part["run"].iloc[0], "recording"].isin(SUMMARIES))
    title = f"{target.upper()}: CCC on Val_Set, {recordings} recording" + "s" * (recordings > 1)
    wide = max(len(title), *(len(f"gap closed by {run}") for run in values)) + 2
    lines = [f"{title:{wide}}{'mean of recordings':>26}{'concatenated':>26}",
             " " * wide + f"{'raw':>10}{'post-processed':>16}" * 2]
    lines += [f"{run:{wide}}" + "".join(f"{value:{width}.3f}" for value, width in zip(values[run], (10, 16) * 2)) for run in values]
    for run in values:
        if closed := gaps_closed(values, run):
            lines.append(f"{'gap closed by ' + run:{wide}}" + "".join(f"{text:>{width}}" for text, width in zip(closed, (10, 16) * 2)))
    return "\n".join(lines)


def constants_report(table):
    """Post-processing of every run and target, as text: what was kept, with its constants."""
    wide = max(len("run"), *table["run"].str.len()) + 2
    lines = ["Post-processing, fitted on Train_Set (all recordings concatenated); -: the step did not raise the CCC there",
             f"{'run':{wide}}{'target':10}{'window_s':>10}{'bias':>9}{'scale':>8}{'delay_s':>9}{'train raw':>12}{'post-processed':>16}"]
    for row in table.itertuples():
        steps = [f"{row.window_frames / row.frame_rate:.2f}" if row.window_frames > 1 else "-", f"{row.bias:+.3f}" if row.bias else "-",
                 f"{row.scale:.2f}" if row.scale != 1 else "-", f"{row.delay_frames / row.frame_rate:.2f}" if row.delay_frames else "-"]
        lines.append(f"{row.run:{wide}}{row.target:10}" + "".join(f"{text:>{width}}" for text, width in zip(steps, (10, 9, 8, 9)))
                     + f"{row.train_ccc_raw:12.3f}{row.train_ccc_postprocessed:16.3f}")
    return "\n".join(lines)


# ---- figures --------------------------------------------------------------------------------------------------------


def remove_others(folder, kept):
    """Deletes the traces of runs and recordings that are no more, so that every figure belongs to the table. Returns how many."""
    old = [path for path in Path(folder).glob("*/*.png") if path not in kept]
    for path in old:
        path.unlink()
    for place in {path.parent for path in old}:
        if not any(place.iterdir()):
            place.rmdir()
    return len(old)


# ---- main -----------------------------------------------------------------------------------------------------------

def save_traces(runs, after, table, notes, folder, crops_dir):
    """Writes the figure of every run and recording. Returns their paths.

    after, notes: as for one figure, by the run's name; table: ccc.csv.
    """
    limits, paths = value_limits(runs, after), []
    with tqdm(total=sum(len(run.val) for run in runs), desc="plotting", unit=" figures", leave=False, disable=None) as bar:
        for run in runs:
            for name in run.val:
                rows = table[(table["run"] == run.name) & (table["recording"] == name)]
                strip = face_strip(crops_dir / name, len(run.val[name]))
                fig = traces_figure(run, name, after[run.name][name], rows, notes[run.name], limits, strip)
                paths.append(save_figure(fig, Path(folder, run.name, f"{name}.png")))
                bar.update()
    return paths


def main(argv=None):
    """{"ccc": table of ccc.csv, "postprocessing": table of the constants, "summary": path of ccc.png, "traces": paths}."""
    cfg = parse_config(argv, __file__, __doc__)
    runs, unfinished, folds = read_runs(cfg.run_root, cfg.frame_rate)
    longest = int(cfg.max_window_s * cfg.frame_rate), int(cfg.max_delay_s * cfg.frame_rate)
    constants = {run.name: {target: fit_run(run, target, cfg.smoothing, *longest) for target in run.targets}
                 for run in tqdm(runs, "fitting the post-processing", leave=False, disable=None)}
    table, fitted = ccc_table(runs, constants, cfg.smoothing), constants_table(runs, constants, cfg.smoothing, cfg.frame_rate)
    save_table(table, cfg.plots_dir / "ccc.csv")
    save_table(fitted, cfg.plots_dir / "postprocessing.csv")
    summary = save_figure(summary_figure(runs, table, unfinished), cfg.plots_dir / "ccc.png")
    after = {run.name: processed(run.val, constants[run.name], cfg.smoothing) for run in runs}
    notes = {run: {target: steps_text(each[target], cfg.smoothing, cfg.frame_rate) for target in each} for run, each in constants.items()}
    traces = save_traces(runs, after, table, notes, cfg.plots_dir / "traces", cfg.crops_dir)
    removed = remove_others(cfg.plots_dir / "traces", traces)

    for target in table["target"].unique():
        print(ccc_report(table, target), end="\n\n")
    print(constants_report(fitted), end="\n\n")
    print(how_chosen(runs))
    print(left_out(unfinished, folds), end="\n" * bool(unfinished or folds))
    print(f"{cfg.plots_dir}: ccc.csv, postprocessing.csv, ccc.png and {len(traces)} figures in traces/ written"
          + (f"; {removed} of runs or recordings that are gone removed" if removed else ""))
    return {"ccc": table, "postprocessing": fitted, "summary": summary, "traces": traces}


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
