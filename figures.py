"""Every figure: the traces of a recording, the runs side by side, the curves of a training."""
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # without pyplot no display is ever looked for

from data import read_picture
from runs import read_log
from scores import gaps_closed, summary_of
from support.files import whole_file
from support.recordings import SUMMARIES, TARGETS

GOLD = "#222222"
FAINT = "#8a8a8a"
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


def save_figure(fig, path):
    """Writes a figure as PNG, whole."""
    with whole_file(path) as part:
        fig.savefig(part, dpi=120, facecolor="white")
    return path


def how_chosen(runs):
    """On whom the epochs of runs were chosen, as a sentence."""
    chosen = [run.name for run in runs if run.chosen]
    if chosen and len(chosen) < len(runs):
        which = ", ".join(chosen) if len(chosen) <= 3 else f"{len(chosen)} of these runs"
        return f"The epochs of {which} were chosen on these validation recordings: read their values as slightly too high."
    return TOO_HIGH if chosen else NOT_CHOSEN


def left_out(unfinished, folds=()):
    """What to say of the unfinished runs, and of those of folds, or ""."""
    said = [f"not finished (no predictions/): {', '.join(unfinished)}"] * bool(unfinished)
    said += [f"{len(folds)} of folds, which are a student's teachers or hold people out: name a folder of them alone with --runs-dir"] * bool(folds)
    return f"left out, {'; '.join(said)}" if said else ""


# ---- traces ----

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


# ---- summary ----

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


# ---- curves ----

def draw_curves(folder):
    """curves.png in a run's folder: the parts of the loss, the CCC of training batches and of validation, the gate, by epoch."""
    entries = read_log(folder)
    epochs = [entry["epoch"] for entry in entries]
    series = {name: [entry.get(name, math.nan) for entry in entries] for name in entries[0] if isinstance(entries[0][name], float)} if entries else {}
    figure = Figure((12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for name, values in series.items():
        if name not in ("seconds", "beta", "gradient"):
            panels[0].plot(epochs, values, ".-", label=name)
    if "task" in series:
        rated = [1 - value if value else math.nan for value in series["task"]]  # 0: an epoch of people whom nobody rated
        panels[1].plot(epochs, rated, ".--", color="grey", label="training batches")
    for target in entries[0]["val"] if entries else ():
        panels[1].plot(epochs, [entry["val"][target]["mean"] for entry in entries], ".-", label=f"validation, {target}")
    if "beta" in series:
        panels[2].plot(epochs, series["beta"], ".-", label="gate: weight of the teacher")
        panels[2].set_ylim(0, 1)
    if "gradient" in series:
        right = panels[2].twinx()
        right.plot(epochs, series["gradient"], ".--", color="grey")
        right.set(ylabel="norm of the gradient (grey)", ylim=(0, None))
    for panel, title in zip(panels, ["parts of the loss", "CCC", "gate and gradient"]):
        panel.set(title=title, xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        if panel.lines:
            panel.legend(fontsize=8, loc="lower left" if panel is panels[2] else "best")
    figure.suptitle(Path(folder).name)
    with whole_file(Path(folder, "curves.png")) as part:
        figure.savefig(part, dpi=100)
