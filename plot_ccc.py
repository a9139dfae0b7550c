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
from matplotlib.figure import Figure  # without pyplot no display is ever looked for
from tqdm import tqdm

from data import read_picture
from losses import ccc
from scores import AGAIN, gap_closed, read_predictions, score, targets_of
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
GOLD = "#222222"
FAINT = "#8a8a8a"


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


def summary_of(table, run):
    """CCC of a run in a table of one target: mean raw, mean post-processed, concatenated raw, concatenated post-processed."""
    rows = table[table["run"] == run].set_index("recording")
    return rows.loc[SUMMARIES, ["ccc_raw", "ccc_postprocessed"]].to_numpy().ravel().tolist()


def gaps_closed(values, run):
    """How much of the gap between the visual and the teacher's run of the same target setting a student closed.

    values: {run name: summary_of} of one target. A text for each of the four values; [] for other runs, or without both bounds.
    """
    stage, *setting = run.split("_")[:2]
    visual, teacher = ("_".join([bound, *setting]) for bound in ("visual", "teacher"))
    if stage != "student" or not {visual, teacher} <= set(values):
        return []
    return [gap_closed(*each) for each in zip(values[visual], values[teacher], values[run])]


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


def left_out(unfinished, folds=()):
    """What to say of the unfinished runs, and of those of folds, or ""."""
    said = [f"not finished (no predictions/): {', '.join(unfinished)}"] * bool(unfinished)
    said += [f"{len(folds)} of folds, which are a student's teachers or hold people out: name a folder of them alone with --runs-dir"] * bool(folds)
    return f"left out, {'; '.join(said)}" if said else ""


def how_chosen(runs):
    """On whom the epochs of runs were chosen, as a sentence."""
    chosen = [run.name for run in runs if run.chosen]
    if chosen and len(chosen) < len(runs):
        which = ", ".join(chosen) if len(chosen) <= 3 else f"{len(chosen)} of these runs"
        return f"The epochs of {which} were chosen on these validation recordings: read their values as slightly too high."
    return TOO_HIGH if chosen else NOT_CHOSEN


# ---- figures --------------------------------------------------------------------------------------------------------

WIDTH = 11.0  # inches, of every figure
FACES = 14  # above the traces, evenly over the recording
ABOUT_CCC = "CCC, the concordance correlation coefficient: 1 where both curves are the same, 0 where they have nothing in common."
TOO_HIGH = "The epoch of each run was chosen on these validation recordings: read every value as slightly too high."
NOT_CHOSEN = "No epoch was chosen on these validation recordings: each run kept its last one, or the best on people held out of the training."


def inches(fig, left, bottom, width, height):
    """Axes of a figure at a place in inches, with quiet frames."""
    across, up = fig.get_size_inches()
    axes = fig.add_axes((left / across, bottom / up, width / across, height / up))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelsize=9)
    axes.set_axisbelow(True)
    return axes


def write_lines(fig, lines, left, top, **style):
    """Lines of text under each other, from a place in inches downwards."""
    across, up = fig.get_size_inches()
    for number, line in enumerate(lines):
        fig.text(left / across, (top - 0.2 * number) / up, line, va="top", **{"fontsize": 9, "color": "#444444"} | style)


def face_strip(folder, frames):
    """The crops in the middles of FACES equal parts of a recording, side by side on white: (H, W, 3) RGB; None without crops."""
    paths = [Path(folder, f"{int((part + 0.5) / FACES * frames):06d}.jpg") for part in range(FACES)]
    if not all(path.exists() for path in paths):
        return None
    crops = [read_picture(path, "frames").transpose(1, 2, 0) for path in paths]
    margin = max(1, len(crops[0]) // 32)
    return np.concatenate([np.pad(crop, ((0, 0), (margin, margin), (0, 0)), constant_values=255) for crop in crops], axis=1)


def traces_figure(run, name, after, table, notes, limits, strip):
    """Figure of one recording: gold standard and predictions over time, a panel per target.

    after: the post-processed table; table: the rows of ccc.csv of this run and recording; notes: {target: what the
    post-processing did}; limits: {target: lowest and highest value}, the same for all figures, so that they compare;
    strip: face_strip, or None.
    """
    wide, tall, top, bottom = WIDTH - 1.0, 2.1, 1.15, 1.2
    if strip is not None:
        top += wide / FACES + 0.1
    fig = Figure(figsize=(WIDTH, top + bottom + tall * len(run.targets) + 0.55 * (len(run.targets) - 1)))
    height = fig.get_size_inches()[1]
    about = f" ({run.about})" if run.about else ""
    write_lines(fig, [f"{run.name}{about}, recording {name}"], 0.75, height - 0.15, fontsize=14, color="black")
    if strip is not None:
        inches(fig, 0.75, height - top + 0.35, wide, wide / FACES).imshow(strip, aspect="auto")
        fig.axes[-1].set_axis_off()
    before, values = run.val[name], table.set_index("target")
    for number, target in enumerate(run.targets):
        axes = inches(fig, 0.75, height - top - tall - number * (tall + 0.55), wide, tall)
        draw_traces(axes, before, after, target, run.colour)
        axes.set(ylabel=target, xlim=(0, max(before["time_s"].iloc[-1], 0.1)), ylim=limits[target])
        text = ccc_text(values.at[target, "ccc_raw"], values.at[target, "ccc_postprocessed"], notes[target])
        axes.set_title(f"{target}: {text}", loc="left", fontsize=10)
        if number < len(run.targets) - 1:
            axes.tick_params(labelbottom=False)
    axes.set_xlabel("time in the recording, seconds", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    fig.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.68 / WIDTH, 1 - 0.42 / height), ncols=3, frameon=False, fontsize=9.5)
    write_lines(fig, [ABOUT_CCC, "Raw: as the network predicted. The constants of the post-processing were fitted on the training "
                      "recordings. A gap in the gold standard: no valid rating there.", how_chosen([run])], 0.75, 0.67, fontsize=8.5)
    return fig


def draw_traces(axes, before, after, target, colour):
    """The three curves of one target: gold standard, raw prediction, post-processed prediction."""
    axes.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
    time_s = before["time_s"]
    axes.plot(time_s, before[f"{target}_gold"], color=GOLD, linewidth=1.6, label="gold standard (the raters' curve)", zorder=3)
    axes.plot(time_s, before[f"{target}_pred"], color=colour, linewidth=0.8, alpha=0.4, label="prediction, raw", zorder=2)
    axes.plot(time_s, after[f"{target}_pred"], color=colour, linewidth=2.0, label="prediction, post-processed", zorder=4)


def value_limits(runs, after):
    """{target: lowest and highest value of all curves, with a margin}; after: {run name: {id: post-processed table}}.

    Not beyond [-1, 1], where ratings lie: one wild run must not flatten the curves of all others.
    """
    limits = {}
    for target in {target: None for run in runs for target in run.targets}:
        values = np.concatenate([table[f"{target}_{column}"].to_numpy() for run in runs if target in run.targets
                                 for name in run.val for table, column in ((run.val[name], "gold"), (run.val[name], "pred"),
                                                                           (after[run.name][name], "pred"))])
        low, high = np.clip([np.nanmin(values), np.nanmax(values)], -1, 1)
        margin = max(0.05 * (high - low), 0.01)
        limits[target] = (low - margin, high + margin)
    return limits


def ccc_text(raw, post, note):
    """CCC of one recording before and after, for a caption; note: what the post-processing did."""
    if math.isnan(raw):
        return f"CCC undefined, fewer than two valid ratings; post-processed: {note}"
    return f"CCC {raw:.2f} raw, {post:.2f} post-processed ({note})"


def steps_text(constants, smoothing, frame_rate):
    """What a post-processing does, for a caption."""
    steps = [f"{smoothing} over {constants.window_frames / frame_rate:.2g} s"] * (constants.window_frames > 1)
    steps += [f"bias {constants.bias:+.3f}"] * (constants.bias != 0) + [f"scale {constants.scale:.2f}"] * (constants.scale != 1)
    steps += [f"delay {constants.delay_frames / frame_rate:.2g} s"] * (constants.delay_frames > 0)
    return ", ".join(steps) or "nothing raised the CCC of the training recordings"


ROW, HEAD = 0.62, 0.95  # inches of a run's row and above a panel of the summary
COLUMNS = (1.15, 1.47, 1.70)  # centres of the columns beside a panel, in its widths


def summary_figure(runs, table, unfinished):
    """Figure of all runs: for each target a panel, for each run its recordings as dots and their mean as a bar."""
    targets = [target for target in TARGETS if (table["target"] == target).any()]
    rows = {target: [run for run in runs if target in run.targets] for target in targets}
    heights = {target: ROW * len(rows[target]) for target in targets}
    bottom = 2.2
    fig = Figure(figsize=(WIDTH, 0.4 + sum(heights.values()) + HEAD * len(targets) + bottom))
    up = fig.get_size_inches()[1]
    write_lines(fig, ["How well each run follows the ratings: CCC on the validation recordings"], 0.2, up - 0.15, fontsize=14, color="black")
    values = table[["ccc_raw", "ccc_postprocessed"]].to_numpy()
    limits = (min(0.0, np.nanmin(values, initial=0) - 0.03), min(1.0, np.nanmax(values, initial=0.1) + 0.05))
    top = up - 0.4
    for target in targets:
        top -= HEAD + heights[target]
        draw_summary(inches(fig, 2.9, top, 4.4, heights[target]), rows[target], table[table["target"] == target], target)
        fig.axes[-1].set_xlim(limits)
    fig.axes[-1].set_xlabel("CCC", fontsize=10)
    write_lines(fig, caption(runs, unfinished), 0.2, bottom - 0.7, fontsize=9)
    return fig


def draw_summary(axes, runs, table, target):
    """One panel of the summary, from the top run to the bottom one; figures in columns to its right."""
    axes.set_title(target, loc="left", fontsize=12, fontweight="bold", pad=22)
    for column, text in zip(COLUMNS, ("mean of recordings\nraw → post-processed", "concatenated\nraw → post-processed", "gap\nclosed")):
        axes.text(column, 1.04, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=8.5, color="#444444")
    every = {run.name: summary_of(table, run.name) for run in runs}
    for number, run in enumerate(runs):
        y = len(runs) - 1 - number
        values = every[run.name]
        draw_run(axes, y, table[table["run"] == run.name], values, run.colour)
        for text, up, style in ((run.name, 1, {"va": "bottom", "fontsize": 10}), (run.about, -2, {"va": "top", "fontsize": 8.5, "color": "#666666"})):
            axes.annotate(text, (0, y), (-10, up), ("axes fraction", "data"), "offset points", ha="right", **style)
        texts = [f"{values[0]:.2f} → {values[1]:.2f}", f"{values[2]:.2f} → {values[3]:.2f}", *gaps_closed(every, run.name)[1:2]]
        for column, text in zip(COLUMNS, texts):
            axes.text(column, y, text, transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=10)
        if run.stage in ("visual", "teacher"):
            axes.axvline(values[1], color=run.colour, linestyle=(0, (4, 3)), linewidth=1.3, zorder=0.5)
    bounds = [[every[run.name][1] for run in runs if run.stage == stage] for stage in ("visual", "teacher")]
    if [len(bound) for bound in bounds] == [1, 1] and bounds[0] < bounds[1]:
        axes.axvspan(bounds[0][0], bounds[1][0], color="#f3efe2", zorder=0)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set(ylim=(-0.5, len(runs) - 0.5), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)


def draw_run(axes, y, rows, values, colour):
    """Two bars, raw above post-processed, and a dot for each recording on both."""
    rows = rows[~rows["recording"].isin(SUMMARIES)]
    spread = np.linspace(0.09, -0.09, len(rows)) if len(rows) > 1 else np.zeros(1)
    for place, column, value, alpha in ((0.18, "ccc_raw", values[0], 0.3), (-0.18, "ccc_postprocessed", values[1], 0.8)):
        axes.barh(y + place, value, 0.32, color=colour, alpha=alpha, zorder=1)
        axes.scatter(rows[column], y + place + spread, s=16, color="white", edgecolor=GOLD, linewidth=0.8, zorder=3)


def caption(runs, unfinished):
    """The lines under the summary."""
    lines = [ABOUT_CCC,
             "Dots: the single validation recordings. Bars: their mean, pale as the network predicted (raw), strong after post-processing.",
             "Dashed lines and tinted band: the gap between the lower bound (visual) and the upper one (teacher), which a student is to close.",
             "Concatenated: one CCC over all recordings end to end. The post-processing was fitted on the training recordings.",
             how_chosen(runs)]
    return lines + [left_out(unfinished).capitalize() + "."] * bool(unfinished)


def save_figure(fig, path):
    """Writes a figure as PNG, whole."""
    with whole_file(path) as part:
        fig.savefig(part, dpi=120, facecolor="white")
    return path


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
