"""Every figure: the traces of a recording, the runs side by side, the curves of a training run.

Functions take a run as plot_ccc.Run describes it: its name, stage, targets and predictions.
"""
import math
import textwrap
import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # without pyplot, which would look for a display

from runs import read_log
from support.crops import frame_images
from support.files import there, whole_file
from support.opencv import cv2, read_picture
from support.recordings import SUMMARIES, TARGETS

# Okabe and Ito's palette, which colour-blind readers can distinguish
COLOURS = {"visual": "#0072B2", "teacher": "#D55E00", "student": "#009E73", "audio": "#CC79A7"}
GREY = "#777777"  # a run whose folder was renamed
GOLD = "#222222"
FAINT = "#8a8a8a"
WIDTH = 11.0  # inches, of the figures of plot_ccc.py

ABOUT_CCC = "CCC: concordance correlation coefficient; 1: both curves are the same, 0: they are unrelated."
TOO_HIGH = "Epochs were selected on these validation recordings: the CCCs are slightly too high."
NOT_SELECTED = ("No epoch was selected on these validation recordings: runs kept their last epoch, or the best one on "
                "held-out training subjects.")


def save_figure(fig, path, dpi=120):
    """Writes a figure as PNG, whole or not at all, and returns its path."""
    with whole_file(path) as part, warnings.catch_warnings(record=True) as caught:
        fig.savefig(part, dpi=dpi, facecolor="white")
    glyphs = [one for one in caught if "Glyph" in str(one.message)]  # one for every letter of an id
    if glyphs:
        print(f"{path}: {len(glyphs)} letters are in no font of matplotlib's: drawn as boxes")
    for one in caught:
        if one not in glyphs:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return path


def colour_of(run):
    """Colour of a run: its stage's."""
    return COLOURS.get(run.stage, GREY)


def inches(fig, left, bottom, width, height):
    """Axes of a figure at a place in inches, with faint lines at the left and at the bottom."""
    across, up = fig.get_size_inches()
    axes = fig.add_axes((left / across, bottom / up, width / across, height / up))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelsize=9)
    axes.set_axisbelow(True)
    return axes


def write_lines(fig, lines, left, top, **style):
    """Draws lines of text, one below the other, downwards from a place in inches."""
    across, up = fig.get_size_inches()
    for number, line in enumerate(lines):
        style = {"fontsize": 9, "color": "#444444"} | style
        fig.text(left / across, (top - 0.2 * number) / up, line, va="top", **style)


def selection_note(runs):
    """A sentence that says which runs' epochs were selected on the recordings shown."""
    runs = [run for run in runs if not run.members] or runs  # a mean was not trained
    selected = [run.name for run in runs if run.selected_on_val]
    if selected and len(selected) < len(runs):
        which = ", ".join(selected) if len(selected) <= 3 else f"{len(selected)} of these runs"
        return f"The epochs of {which} were selected on these validation recordings: their CCCs are slightly too high."
    return TOO_HIGH if selected else NOT_SELECTED


# ---- traces of one recording: gold standard and predictions over time -----------------------------------------------

FACES = 14  # above the traces, evenly spaced over the recording
PANEL, GAP = 2.1, 0.55  # inches: height of a target's panel, space between two


def traces_figure(run, name, after, captions, limits, strip):
    """Figure of one recording, with a panel for each target.

    after: the post-processed table; captions: {target: text}; limits: {target: lowest and highest value}, the same in
    all figures, so that they can be compared; strip: face_strip, or None.
    """
    wide, top, bottom = WIDTH - 1.0, 1.35, 1.2
    if strip is not None:
        top += wide / FACES + 0.1
    fig = Figure(figsize=(WIDTH, top + bottom + PANEL * len(run.targets) + GAP * (len(run.targets) - 1)))
    height = fig.get_size_inches()[1]
    write_lines(fig, [f"{run.name}, recording {name}"], 0.75, height - 0.15, fontsize=14, color="black")
    write_lines(fig, [run.about], 0.75, height - 0.43, fontsize=10)
    if strip is not None:
        inches(fig, 0.75, height - top + 0.35, wide, wide / FACES).imshow(strip, aspect="auto")
        fig.axes[-1].set_axis_off()
    before = run.val[name]
    for number, target in enumerate(run.targets):
        axes = inches(fig, 0.75, height - top - PANEL - number * (PANEL + GAP), wide, PANEL)
        draw_traces(axes, before, after, target, colour_of(run))
        axes.set(ylabel=target, xlim=(0, max(before["time_s"].iloc[-1], 0.1)), ylim=limits[target])
        axes.set_title(f"{target}: {captions[target]}", loc="left", fontsize=10)
        axes.tick_params(labelbottom=target == run.targets[-1])
    axes.set_xlabel("time in the recording, seconds", fontsize=10)
    place = 0.68 / WIDTH, 1 - 0.62 / height
    fig.legend(*axes.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=place, ncols=3, frameon=False,
               fontsize=9.5)
    about = ("Raw: the network's output. The post-processing was fitted on training subjects that were held out. "
             "Gaps in the gold standard: frames without a valid rating.")
    write_lines(fig, [ABOUT_CCC, about, selection_note([run])], 0.75, 0.67, fontsize=8.5)
    return fig


def face_strip(folder, frames):
    """FACES crops, evenly spaced over a recording, side by side on white: (H, W, 3) RGB; None if one is missing.

    Raises UserError if one cannot be read.
    """
    images = frame_images(Path(folder), frames)
    paths = [images[int((part + 0.5) / FACES * frames)] for part in range(FACES)]
    if not all(map(there, paths)):
        return None
    again = f"delete {folder}/ and run face_detector.py again"
    return strip_of([read_picture(path, cv2.IMREAD_COLOR_RGB, again) for path in paths])


def draw_traces(axes, before, after, target, colour):
    """Draws the three curves of one target: gold standard, raw prediction, post-processed prediction."""
    axes.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
    time_s, pred = before["time_s"], f"{target}_pred"
    axes.plot(time_s, before[f"{target}_gold"], color=GOLD, linewidth=1.6, label="gold standard (ratings)", zorder=3)
    axes.plot(time_s, before[pred], color=colour, linewidth=0.8, alpha=0.4, label="prediction, raw", zorder=2)
    axes.plot(time_s, after[pred], color=colour, linewidth=2.0, label="prediction, post-processed", zorder=4)


def value_limits(runs, after):
    """{target: lowest and highest value of all curves, with a margin}; after: {run name: {id: post-processed table}}.

    Within [-1, 1], the range of ratings: one run with wild predictions must not flatten the curves of all others.
    """
    limits = {}
    for target in {target: None for run in runs for target in run.targets}:
        curves = [table[f"{target}_{column}"].to_numpy() for run in runs if target in run.targets for name in run.val
                  for table in (run.val[name], after[run.name][name]) for column in ("gold", "pred")]
        low, high = np.clip([np.nanmin(np.concatenate(curves)), np.nanmax(np.concatenate(curves))], -1, 1)
        margin = max(0.05 * (high - low), 0.01)
        limits[target] = (low - margin, high + margin)
    return limits


def ccc_text(raw, post, steps):
    """Caption of a panel: CCC of the recording before and after post-processing, and its steps (steps_text)."""
    if math.isnan(raw):
        return f"CCC undefined, fewer than two valid ratings ({steps})"
    return f"CCC {raw:.2f} raw, {post:.2f} post-processed ({steps})"


def steps_text(constants, smoothing, frame_rate):
    """The steps of a post-processing that change something, as text; constants: PostProcessing."""
    window_s, delay_s = constants.window_frames / frame_rate, constants.delay_frames / frame_rate
    steps = [f"{smoothing} over {window_s:.2g} s"] * (constants.window_frames > 1)
    steps += [f"bias {constants.bias:+.3f}"] * (constants.bias != 0)
    steps += [f"scale {constants.scale:.2f}"] * (constants.scale != 1)
    steps += [f"delay {delay_s:.2g} s"] * (constants.delay_frames > 0)
    return ", ".join(steps) or "no step"


# ---- curves of long recordings --------------------------------------------------------------------------------------

BUCKETS = 600  # of a curve: about the pixels of a screen; two points each


def bucket_frames(frames):
    """Frames of a bucket: 1 if all of them are shown."""
    return 1 if frames <= 2 * BUCKETS else math.ceil(frames / BUCKETS)


def shown_times(time_s):
    """Times of the points of thinned(): all, or in each bucket those a quarter and three quarters along it."""
    size = bucket_frames(len(time_s))
    if size == 1:
        return time_s
    starts = np.arange(0, len(time_s), size)
    lengths = np.minimum(size, len(time_s) - starts)
    return np.stack([time_s[starts + lengths // 4], time_s[starts + 3 * lengths // 4]], 1).ravel()


def thinned(series):
    """Lowest and highest value of each bucket, in the order in which they come, so that no peak is lost; a bucket
    without a value is NaN. The series itself if it is short."""
    size = bucket_frames(len(series))
    if size == 1:
        return series
    buckets = np.full((math.ceil(len(series) / size), size), np.nan)
    buckets.ravel()[:len(series)] = series
    lowest, highest = np.where(np.isnan(buckets), np.inf, buckets), np.where(np.isnan(buckets), -np.inf, buckets)
    places = np.sort(np.stack([lowest.argmin(1), highest.argmax(1)], 1))
    return np.take_along_axis(buckets, places, 1).ravel()


# ---- predictions for one video --------------------------------------------------------------------------------------

SPAN = 0.3  # lowest range of an axis; ratings go from -1 to 1
PEOPLE = ["#009E73", "#D55E00", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9"]  # colours of persons, again after the last
ENDS = {"arousal": ("calm", "excited"), "valence": ("negative", "positive")}  # what -1 and 1 mean
NO_FACE = "#ececec"  # grey where nobody's face was found
LONG_S = 600  # a longer video has an axis in minutes


def prediction_figure(table, targets, name, about, strips):
    """Figure of what predict.py writes for a video: a panel for each target, faces above them at their times.

    table: as in its CSV; about: a line on the network; strips: {person: crops evenly spaced over the video}, each
    (S, S, 3) RGB, or None where there is no face.
    """
    about = textwrap.wrap(about, 130, break_on_hyphens=False)
    strips = {person: crops for person, crops in strips.items() if any(crop is not None for crop in crops)}
    wide = WIDTH - 1.0
    row = wide / len(next(iter(strips.values()), [1])) + 0.04 * (len(strips) > 1)
    top = 0.85 + 0.2 * len(about) + row * len(strips)
    fig = Figure(figsize=(WIDTH, top + 0.6 + PANEL * len(targets) + GAP * (len(targets) - 1)))
    height, people = fig.get_size_inches()[1], dict(iter(table.groupby("person"))) if "person" in table else {1: table}
    write_lines(fig, [name], 0.75, height - 0.15, fontsize=14, color="black", parse_math=False)
    write_lines(fig, about, 0.75, height - 0.43, parse_math=False)
    for number, (person, crops) in enumerate(strips.items()):
        axes = inches(fig, 0.75, height - top + 0.3 + row * (len(strips) - 1 - number), wide, wide / len(crops))
        axes.imshow(strip_of(crops), aspect="auto")
        axes.set_axis_off()
        if len(people) > 1:
            axes.text(-0.01, 0.5, str(person), color=colour_of_person(person), transform=axes.transAxes, ha="right",
                      va="center", fontweight="bold")
    end_s, gaps = gaps_in(table)
    unit, unit_s = ("minutes", 60) if end_s > LONG_S else ("seconds", 1)
    for number, target in enumerate(targets):
        axes = inches(fig, 0.75, height - top - PANEL - number * (PANEL + GAP), wide, PANEL)
        draw_predictions(axes, people, target, gaps, unit_s)
        axes.set(xlim=(0, end_s / unit_s), ylim=spread_out(*axes.get_ylim()))
        axes.tick_params(labelbottom=target == targets[-1])
    axes.set_xlabel(f"time in the video, {unit}", fontsize=10)
    if len(people) > 1 or gaps:
        place = 1 - 0.2 / WIDTH, 1 - 0.05 / height
        fig.legend(*axes.get_legend_handles_labels(), loc="upper right", bbox_to_anchor=place, ncols=7, frameon=False)
    return fig


def draw_predictions(axes, people, target, gaps, unit_s):
    """Draws the curve of every person, {id: rows of the table}, and grey where nobody has a face."""
    axes.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
    for person, rows in people.items():
        size = bucket_frames(len(rows))
        time_s, pred = shown_times(rows["time_s"].to_numpy()) / unit_s, thinned(rows[target].to_numpy(float))
        label = f"person {person}" if len(people) > 1 else None
        axes.plot(time_s, pred, color=colour_of_person(person), linewidth=1.6 if size == 1 else 1.0, label=label)
        around = np.pad(np.isnan(pred), 1, constant_values=True)
        alone = ~np.isnan(pred) & around[:-2] & around[2:]  # a frame between two gaps, of which a line shows nothing
        if alone.any():
            axes.plot(time_s[alone], pred[alone], ".", color=colour_of_person(person), markersize=3)
    for number, (start, end) in enumerate(gaps):
        axes.axvspan(start / unit_s, end / unit_s, color=NO_FACE, linewidth=0, zorder=-1,
                     label=None if number else "no face")
    axes.set_title("{}: -1 {}, 1 {}".format(target, *ENDS[target]), loc="left", fontsize=10)


def gaps_in(table):
    """(when a table of predictions ends, [(start, end)] of the times at which nobody in it has a face), in seconds."""
    times_s = np.unique(table["time_s"])
    step = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.1
    end_s = float(times_s[-1]) + step
    seen_s = np.unique(table.loc[~table["face"].isin(["missing", "retained"]), "time_s"])
    edges = np.concatenate([[-step], seen_s, [end_s]])
    return end_s, [(float(start) + step, float(end)) for start, end in zip(edges, edges[1:])
                   if end - start > 1.5 * step]


def colour_of_person(person):
    """Colour of a person's curve."""
    return PEOPLE[(person - 1) % len(PEOPLE)]


def spread_out(low, high):
    """Limits of an axis that are at least SPAN apart: small changes must not look large."""
    more = max(0, SPAN - (high - low)) / 2
    return low - more, high + more


def strip_of(crops):
    """Crops side by side on white, grey where there is none: (H, W, 3) RGB. At least one must be there."""
    side = next(len(crop) for crop in crops if crop is not None)
    blank, margin = np.full((side, side, 3), int(NO_FACE[1:3], 16), np.uint8), max(1, side // 32)
    cells = [blank if crop is None else crop for crop in crops]
    return np.concatenate([np.pad(cell, ((0, 0), (margin, margin), (0, 0)), constant_values=255) for cell in cells], 1)


# ---- summary: all runs side by side ---------------------------------------------------------------------------------

ROW, HEAD = 0.62, 0.95  # inches: height of a run's row, space above a panel
COLUMNS = {1.15: "mean of recordings\nraw → post-processed", 1.47: "concatenated\nraw → post-processed",
           1.70: "gap\nclosed"}  # by their centres right of a panel, in widths of the panel
ABOUT_WIDTH = 47  # characters of a line left of a panel


def summary_figure(runs, table, left_out):
    """Figure of all runs: for each target a panel, for each run its recordings as dots and their mean as a bar.

    table: ccc.csv; left_out: sentences on the runs that are not shown.
    """
    rows = {target: [run for run in runs if target in run.targets] for target in TARGETS}
    rows = {target: shown for target, shown in rows.items() if shown}
    bottom = 2.2
    fig = Figure(figsize=(WIDTH, 0.4 + sum(HEAD + ROW * len(shown) for shown in rows.values()) + bottom))
    top = fig.get_size_inches()[1]
    title = "How well each run follows the ratings: CCC on the validation recordings"
    write_lines(fig, [title], 0.2, top - 0.15, fontsize=14, color="black")
    values = table[["ccc_raw", "ccc_postprocessed"]].to_numpy()
    limits = min(0.0, np.nanmin(values, initial=0) - 0.03), min(1.0, np.nanmax(values, initial=0.1) + 0.05)
    top -= 0.4
    for target, shown in rows.items():
        top -= HEAD + ROW * len(shown)
        axes = inches(fig, 2.9, top, 4.4, ROW * len(shown))
        axes.set_title(target, loc="left", fontsize=12, fontweight="bold", pad=22)
        draw_summary(axes, shown, table[table["target"] == target])
        axes.set_xlim(limits)
    axes.set_xlabel("CCC", fontsize=10)
    write_lines(fig, [*caption(runs), *left_out], 0.2, bottom - 0.7)
    return fig


def draw_summary(axes, runs, table):
    """Draws one panel: the runs from top to bottom, their values in columns to the right; table: of one target."""
    from scores import gaps_closed, summary_of  # here: torch comes with it, which predict.py's figure can do without
    for centre, text in COLUMNS.items():
        axes.text(centre, 1.04, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=8.5, color="#444444")
    values = {run.name: summary_of(table, run.name) for run in runs}
    for number, run in enumerate(runs):
        y, (mean, mean_post, whole, whole_post) = len(runs) - 1 - number, values[run.name]
        draw_bars(axes, y, table[table["run"] == run.name], (mean, mean_post), colour_of(run))
        draw_name(axes, y, run)
        texts = [f"{mean:.2f} → {mean_post:.2f}", f"{whole:.2f} → {whole_post:.2f}",
                 *gaps_closed(values, run)[:1]]
        for centre, text in zip(COLUMNS, texts):
            axes.text(centre, y, text, transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=10)
    draw_bounds(axes, runs, values)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set(ylim=(-0.5, len(runs) - 0.5), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)


def draw_name(axes, y, run):
    """Draws the name of a run left of its bars, and below it how the run was trained."""
    about = textwrap.fill(run.about, ABOUT_WIDTH, break_on_hyphens=False)
    for text, up, style in ((run.name, 1, {"va": "bottom", "fontsize": 10}),
                            (about, -2, {"va": "top", "fontsize": 8, "color": "#666666"})):
        axes.annotate(text, (0, y), (-10, up), ("axes fraction", "data"), "offset points", ha="right", **style)


def draw_bars(axes, y, rows, means, colour):
    """Draws two bars, raw above post-processed, and on both a dot for each recording."""
    rows = rows[~rows["recording"].isin(SUMMARIES)]
    spread = np.linspace(0.09, -0.09, len(rows)) if len(rows) > 1 else np.zeros(1)
    for up, column, mean, alpha in zip((0.18, -0.18), ("ccc_raw", "ccc_postprocessed"), means, (0.3, 0.8)):
        axes.barh(y + up, mean, 0.32, color=colour, alpha=alpha, zorder=1)
        axes.scatter(rows[column], y + up + spread, s=16, color="white", edgecolor=GOLD, linewidth=0.8, zorder=3)


def draw_bounds(axes, runs, values):
    """Draws a dashed line at each bound, and a band between them if there is one of each."""
    bounds = {stage: [values[run.name][0] for run in runs if run.stage == stage and run.is_bound]
              for stage in ("visual", "teacher")}
    for stage, means in bounds.items():
        for mean in means:
            axes.axvline(mean, color=COLOURS[stage], linestyle=(0, (4, 3)), linewidth=1.3, zorder=0.5)
    if len(bounds["visual"]) == len(bounds["teacher"]) == 1 and bounds["visual"] < bounds["teacher"]:
        axes.axvspan(*bounds["visual"], *bounds["teacher"], color="#f3efe2", zorder=0)


def caption(runs):
    """The lines below the summary."""
    return [ABOUT_CCC,
            "Dots: single validation recordings. Bars: their mean, pale: raw network output, strong: post-processed. "
            "Concatenated: one CCC over all recordings.",
            "Dashed lines and band: the gap between lower bound (visual) and upper bound (teacher). Gap closed: the "
            "student's share of it.",
            "Both are raw, as not every run has a post-processing. The post-processing was fitted on training subjects "
            "that were held out.",
            selection_note(runs)]


# ---- curves of a training run ---------------------------------------------------------------------------------------

def draw_curves(folder):
    """Writes curves.png into a run's folder, from its log.jsonl."""
    fig = curves_figure(read_log(folder), Path(folder).name)
    save_figure(fig, Path(folder, "curves.png"), dpi=100)


def curves_figure(entries, title):
    """Figure of a training run by epoch: parts of the loss, CCC on training batches and validation, gate and gradient.

    entries: the lines of log.jsonl; there may be none.
    """
    first = entries[0] if entries else {"val": {}}
    epochs = [entry["epoch"] for entry in entries]
    series = {name: [entry.get(name, math.nan) for entry in entries]
              for name, value in first.items() if isinstance(value, float) and name != "seconds"}
    fig = Figure((12, 3.6), layout="constrained")
    losses, cccs, gate = fig.subplots(1, 3)
    for name in [name for name in series if name not in ("beta", "gradient")]:
        losses.plot(epochs, series[name], ".-", label=name)
    if "task" in series:
        cccs.plot(epochs, [1 - value for value in series["task"]], ".--", color="grey", label="training batches")
    for target in first["val"]:
        means = [entry["val"][target]["mean"] for entry in entries]
        cccs.plot(epochs, means, ".-", label=f"validation, {target}")
    if "beta" in series:
        gate.plot(epochs, series["beta"], ".-", label="gate: weight of the teacher")
        gate.set_ylim(0, 1)
    if "gradient" in series:
        right = gate.twinx()
        right.plot(epochs, series["gradient"], ".--", color="grey")
        right.set(ylabel="norm of the gradient (grey)", ylim=(0, None))
    for panel, name in ((losses, "parts of the loss"), (cccs, "CCC"), (gate, "gate and gradient")):
        panel.set(title=name, xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        if panel.lines:
            panel.legend(fontsize=8, loc="lower left" if panel is gate else "best")
    fig.suptitle(title)
    return fig
