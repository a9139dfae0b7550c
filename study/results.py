"""The study's results: tables, intervals over subjects and seeds, figures."""
import itertools
import re
from functools import lru_cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import save_figure
from study.methods import (
    AIMS,
    BESIDE_VISUAL,
    CONTROLS,
    DESCRIPTIONS,
    METHODS,
    OVER_VISUAL,
    PAIRS,
    QUESTIONS,
    SETTINGS,
)
from support.columns import read_table
from support.errors import UserError
from support.files import there, whole_file
from support.recordings import TARGETS

RESAMPLES = 10000  # of the bootstrap
COLUMNS = ["setting", "method", "seed", "target", "recording", "ccc", "seconds"]
ALL_TARGETS = (*TARGETS, "both")  # both: the mean of the two
UPPER = ("teacher", "oracle")


def read_results(path):
    """The table of a file of results. Raises UserError, naming the line, if it is not as merge() writes it."""
    again = "delete it and run experiment.py again"
    table = read_table(path, again, ["seed", "ccc", "seconds"], ["setting", "method", "target", "recording"])
    for row in np.flatnonzero(~np.isfinite(table["seed"])):
        raise UserError(f"{path} line {table.index[row]}: no seed: {again}")
    return table.astype({"seed": int}).reset_index(drop=True)


def merge(rows, path):
    """The whole table after `rows` replaced the earlier ones of the same runs in the file of results."""
    rows = pd.DataFrame(rows, columns=COLUMNS)
    if there(path):
        rows = pd.concat([read_results(path), rows]).drop_duplicates(COLUMNS[:5], keep="last")
    place = {name: number for number, name in enumerate([*SETTINGS, *DESCRIPTIONS])}
    rows = rows.sort_values(COLUMNS[:4], kind="stable", key=lambda column: (
        column.map(place) if column.name in ("setting", "method") else column))
    with whole_file(path) as part:
        rows.to_csv(part, index=False, lineterminator="\n")
    return rows.reset_index(drop=True)


# ---- statistics -----------------------------------------------------------------------------------------------------

def matrix(results, setting, method, target):
    """CCC of every seed and subject, (seeds, subjects), as a table; empty if the method was not run there."""
    if target == "both":
        parts = [matrix(results, setting, method, each) for each in TARGETS]
        complete = all(part.size for part in parts)
        return sum(parts) / len(parts) if complete else min(parts, key=lambda part: part.size)
    rows = results[(results.setting == setting) & (results.method == method) & (results.target == target)
                   & (results.recording != "concatenated")]
    return rows.pivot(index="seed", columns="recording", values="ccc")


def paired(results, setting, method, target, against="visual"):
    """Difference of a method from another over subjects and seeds, with its 95 % interval: (mean, low, high), or None.

    Bootstrap with subjects and seeds drawn independently with replacement, the same for both (a two-way, or
    pigeonhole, bootstrap: Owen, 2007), so that the interval holds for other reported subjects and other weights.
    """
    one, other = (matrix(results, setting, name, target) for name in (method, against))
    seeds, subjects = one.index.intersection(other.index), one.columns.intersection(other.columns)
    if not len(seeds) or not len(subjects):
        return None
    return interval((one.loc[seeds, subjects] - other.loc[seeds, subjects]).to_numpy())


def interval(differences, of=None):
    """(S seeds, P subjects) -> mean, and the 2.5 % and 97.5 % quantiles of its bootstrap distribution.

    of: differences whose mean divides that of the first, (S, P).
    """
    seeds, subjects = resampled(*differences.shape)
    means = [np.einsum("rs,sp,rp->r", seeds, each, subjects) for each in (differences, of) if each is not None]
    samples, mean = means[0], differences.mean()
    if of is not None:
        samples, mean = samples / means[1], mean / of.mean()
    return (float(mean), *map(float, np.quantile(samples, [0.025, 0.975])))


@lru_cache
def resampled(*sizes):
    """Weight of every seed, subject, ... in each bootstrap sample: [(RESAMPLES, size)], the same every time."""
    rng = np.random.default_rng(0)
    return [rng.multinomial(size, np.full(size, 1 / size), RESAMPLES) / size for size in sizes]


def share(results, setting, method, target, upper):
    """Share of the gain of `upper` over visual that a method has: (mean, low, high), over the seeds of all three.

    "no gap" where the interval of that gain is not above 0, None where one of the three was not run.
    """
    visual, above, mine = (matrix(results, setting, name, target) for name in ("visual", upper, method))
    seeds = sorted(set.intersection(*(set(value.index) for value in (visual, above, mine))))
    if not seeds:
        return None
    if paired(results, setting, upper, target)[1] <= 0:
        return "no gap"
    return interval(*((value.loc[seeds] - visual.loc[seeds]).to_numpy() for value in (mine, above)))


def is_bound(method):
    """Whether the row is not a student: it closes no gap."""
    return method in METHODS and METHODS[method].settings["stage"] != "student"


# ---- text -----------------------------------------------------------------------------------------------------------

def percent(value):
    """A share as text."""
    return f"{round(value, 2) + 0.0:.0%}"  # no -0%


def signed(value):
    """A difference as text; zero has a plus."""
    return f"{round(value, 3) + 0.0:+.3f}"


def with_interval(mean, low, high, as_text=signed):
    """A value and its interval as text."""
    return f"{as_text(mean)} ({as_text(low)} to {as_text(high)})"


def name_of(target):
    return "mean of arousal and valence" if target == "both" else target


def markdown(heading, columns, rows):
    """A Markdown table under its heading."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([f"### {heading}\n", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|", *lines, ""])


# ---- tables ---------------------------------------------------------------------------------------------------------

def tables_of(results, setting, role="reported"):
    """The tables of a setting, Markdown: one for each target and one for their mean, a row for each method."""
    subjects = set(results[results.setting == setting].recording) - {"concatenated"}
    columns = ["method", "mean over subjects", "seeds", "sd over seeds", "concatenated", "over visual", "95 % interval",
               "gap to teacher closed", "of the oracle's gain", "seconds", ""]
    tables = [markdown(f"{setting}, {name_of(target)}", columns, (
        row_of(results, setting, method, target) for method in DESCRIPTIONS
        if matrix(results, setting, method, target).size)) for target in ALL_TARGETS]
    title = f"## {setting}: {SETTINGS[setting].description}\n"
    return "\n".join([title, f"{len(subjects)} subjects {role}.\n", *tables])


def row_of(results, setting, method, target):
    """The cells of a method in a table of its setting."""
    runs = results[(results.setting == setting) & (results.method == method)
                   & results.target.isin(TARGETS if target == "both" else [target])]
    each, over = matrix(results, setting, method, target), paired(results, setting, method, target)
    gain = [signed(over[0]), f"{signed(over[1])} to {signed(over[2])}"] if over and method != "visual" else ["", ""]
    no_share = is_bound(method) or target == "both"
    shares = [None if no_share else share(results, setting, method, target, upper) for upper in UPPER]
    shares = ["" if part is None else part if part == "no gap" else percent(part[0]) for part in shares]
    spread = f"{each.mean(axis=1).std():.3f}" if len(each) > 1 else ""
    whole = runs[runs.recording == "concatenated"].ccc  # none with --choose, where no network predicts all of them
    return [method, f"{each.to_numpy().mean():.3f}", len(each), spread, f"{whole.mean():.3f}" if len(whole) else "",
            *gain, *shares, f"{runs.seconds.mean():.0f}", DESCRIPTIONS[method]]


def choice_table(results):
    """The table that the method was chosen by, Markdown: mean CCC over subjects and targets, by setting and over all.

    Only methods that were run in all settings that are there.
    """
    settings, rows = settings_in(results), []
    for method in DESCRIPTIONS:
        each = [matrix(results, setting, method, "both") for setting in settings]
        if all(part.size for part in each):
            means = [float(part.to_numpy().mean()) for part in each]
            rows.append([method, *(f"{value:.3f}" for value in [*means, np.mean(means)]), DESCRIPTIONS[method]])
    return markdown("The choice: mean of arousal and valence", ["method", *settings, "mean", ""], rows)


def aims_table(results):
    """The aims of the recipe, and whether each was met, in every setting that has the recipe, Markdown."""
    settings = [setting for setting in settings_in(results) if all(
        paired(results, setting, method, target) for method in ("recipe", "oracle") for target in TARGETS)]
    rows = []
    for target, least in AIMS["gain"].items():
        aim = f"at least {signed(least)}" if least else "a gain"
        rows.append([f"over visual on {name_of(target)}: {aim}, its interval above 0"] + [
            verdict(paired(results, setting, "recipe", target), least, signed, True) for setting in settings])
    for (upper, target), least in AIMS["share"].items():
        rows.append([f"of the {upper}'s gain on {target}: at least {percent(least)}"] + [
            verdict(share(results, setting, "recipe", target, upper), least, percent) for setting in settings])
    return markdown("The aims of the recipe", ["aim", *settings], rows)


def verdict(reached, least, as_text, significant=False):
    """Whether (mean, low, high) is enough, as text; significant: its interval has to be above 0, too."""
    if reached is None or isinstance(reached, str):
        return reached or "not run"
    mean, low, _ = reached
    if mean < least:
        short = as_text(least - mean).lstrip("+")
        return f"{as_text(mean)}: " + ("just missed" if as_text(mean) == as_text(least) else f"missed by {short}")
    return f"{as_text(mean)}: {'not significant' if significant and low <= 0 else 'met'}"


def question_tables(results):
    """The tables of the study's page, Markdown: one for each question, a row for each comparison that was run.

    Without columns of words that are the same in all rows.
    """
    tables, columns = [], ["setting", "method", "over", *TARGETS, "mean of both", ""]
    for question, comparisons in QUESTIONS.items():
        rows = []
        for setting, method, against in comparisons:
            gains = [paired(results, setting, method, target, against) for target in ALL_TARGETS]
            if all(gains):
                rows.append([setting, method, against, *(with_interval(*gain) for gain in gains), DESCRIPTIONS[method]])
        if rows:
            kept = [k for k, cells in enumerate(zip(*rows))
                    if columns[k] not in ("setting", "over", "") or len(set(cells)) > 1]
            tables.append(markdown(question, [columns[k] for k in kept], ([row[k] for k in kept] for row in rows)))
    return "\n".join(tables)


def summary(results):
    """Gains of the recipe and its controls over visual and over self_training, and their shares: a line for each."""
    beside = gain_lines(results, BESIDE_VISUAL, "self_training")
    parts = {"Over the visual baseline (95 % intervals):": gain_lines(results, OVER_VISUAL, "visual"),
             "Over self_training, the same with visual-only teachers:": beside,
             "Over another row:": [line for method, against in PAIRS
                                   for line in gain_lines(results, [method], against, f" over {against}")],
             "Shares of the teacher's and the oracle's gain over the visual baseline:": share_lines(
                 results, ["recipe", "self_training"])}
    return "\n".join(line for heading, lines in parts.items() if lines for line in (heading, *lines))


def gain_lines(results, methods, against, words=""):
    """Gains of methods over another, where both were run: a line for each setting and method."""
    lines = []
    for setting, method in itertools.product(SETTINGS, methods):
        gains = {target: paired(results, setting, method, target, against) for target in ALL_TARGETS}
        if all(gains.values()):
            parts = [f"{target} {with_interval(*gain)}" for target, gain in gains.items()]
            lines.append(f"{setting}, {method}{words}: {', '.join(parts)}")
    return lines


def share_lines(results, methods):
    """Shares of the teacher's and the oracle's gain, where they gain: a line for each setting and method."""
    lines = []
    for setting, method in itertools.product(SETTINGS, methods):
        shares = {f"of the {upper}'s gain on {target}": share(results, setting, method, target, upper)
                  for upper in UPPER for target in TARGETS}
        parts = [f"{with_interval(*part, percent)} {what}" for what, part in shares.items()
                 if part not in (None, "no gap")]
        lines += [f"{setting}, {method}: {', '.join(parts)}"] * bool(parts)
    return lines


# ---- figures --------------------------------------------------------------------------------------------------------

def plot_gains(results, setting, path):
    """Draws the gain of each method over the visual baseline, with its interval."""
    methods = [method for method in DESCRIPTIONS
               if method != "visual" and all(paired(results, setting, method, target) for target in TARGETS)]
    if not methods:  # a shard that has no baseline
        return
    figure = Figure(figsize=(12, 1.2 + 0.3 * len(methods)), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for axis, target in zip(axes, TARGETS):
        draw_gains(axis, results, setting, methods, target)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    seeds = len(matrix(results, setting, "visual", TARGETS[0]))
    legend = "grey: bounds; dotted line: self_training"
    if set(methods) & set(CONTROLS):
        legend += "; red: controls, expected there, or at 0 with audio-only teachers (control_voices)"
    title = f"{setting}: {SETTINGS[setting].description}".replace("`", "")
    figure.suptitle(f"{title}\n95 % intervals over subjects and {seeds} seed{'s' * (seeds > 1)}\n{legend}")
    save_figure(figure, path)


def draw_gains(axis, results, setting, methods, target):
    """One panel of plot_gains()."""
    for place, method in enumerate(methods):
        mean, low, high = paired(results, setting, method, target)
        colour = "tab:grey" if is_bound(method) else "tab:red" if method in CONTROLS else "tab:blue"
        axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, capsize=3)
    axis.axvline(0, color="black", linewidth=0.8)
    if beside := paired(results, setting, "self_training", target):
        axis.axvline(beside[0], color="black", linewidth=0.8, linestyle=":")
    axis.set(title=target, xlabel="CCC over the visual baseline, mean over subjects")
    axis.grid(axis="x", alpha=0.3)


def plot_unlabelled(results, setting, path):
    """Draws the recipe's CCC against its number of unlabelled subjects."""
    steps = {0: "visual", 12: "recipe_12", 24: "recipe_24", 48: "recipe"}
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for target, colour, aside in zip(TARGETS, ("tab:blue", "tab:orange"), (-0.3, 0.3)):
        each = {count: matrix(results, setting, method, target) for count, method in steps.items()}
        each = {count + aside: value.mean(axis=1) for count, value in each.items() if value.size}
        axis.errorbar([*each], [value.mean() for value in each.values()], [value.std() for value in each.values()],
                      fmt="o-", color=colour, capsize=3, label=target)
        oracle = matrix(results, setting, "oracle", target)
        if oracle.size:
            axis.axhline(oracle.to_numpy().mean(), color=colour, linestyle=":", label=f"oracle, {target}")
    axis.set_xticks([*steps], ["0 (visual)", *[*steps][1:]])
    axis.set(xlabel="unlabelled subjects", ylabel="CCC, mean over subjects",
             title="The recipe; bars: standard deviation over seeds")
    axis.legend()
    save_figure(figure, path)


# ---- report ---------------------------------------------------------------------------------------------------------

def settings_in(results):
    return [setting for setting in SETTINGS if setting in set(results.setting)]


def report(results, file):
    """Text of all tables, which is written beside the results' file with the figures; the study's page gets its own."""
    choosing = file.stem == "choice"
    # looked up thousands of times: numbers, not words
    results = results.astype(dict.fromkeys(["setting", "method", "target"], "category"))
    made = f"Made by `python experiment.py --report{' --choose' * choosing}` from {file.name}."
    if choosing:
        made += (" Cross-validation over the rated subjects: each is predicted by the networks of the fold that left it"
                 " out. The study reports others.")
    tables = [tables_of(results, setting, "held out" if choosing else "reported") for setting in settings_in(results)]
    ours = choice_table(results) if choosing else f"{question_tables(results)}\n{aims_table(results)}"
    text = "\n".join([*tables, ours, summary(results)])
    with whole_file(file.with_suffix(".md")) as part:
        part.write_text(f"{made}\n\n{text}")
    for setting in settings_in(results):
        plot_gains(results, setting, file.with_name(f"{file.stem}_{setting}.png"))
    if {"recipe_12", "recipe_24"} <= set(results.method):
        plot_unlabelled(results, "much", file.with_name(f"{file.stem}_unlabelled.png"))
    if (page := file.with_name("study.md")).exists():
        renew_tables(page, ours)
    return text


def renew_tables(page, text):
    """Replaces the tables of a page by those of a Markdown text that have the same heading."""
    pattern = re.compile(r"^(### .+\n\n)((?:\|.*\n)+)", re.MULTILINE)
    tables = dict(pattern.findall(text))
    renewed = pattern.sub(lambda found: found[1] + tables.get(found[1], found[2]), page.read_text())
    with whole_file(page) as part:
        part.write_text(renewed)
