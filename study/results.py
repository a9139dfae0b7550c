"""What the study's results say: tables, intervals over people and seeds, figures."""
import itertools
import re
from functools import lru_cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from annotations import TARGETS
from config import whole_file
from plot_ccc import save_figure
from study.methods import ADAPTIVE, AIMS, BESIDE_SEEING, CONTROLS, METHODS, OF_VOICES, PAIRS, SETTINGS

RESAMPLES = 10000  # of the bootstrap
COLUMNS = ["setting", "method", "seed", "target", "recording", "ccc", "seconds"]


def merge(rows, path):
    """Brings rows into the file of results, in place of earlier ones of the same runs; returns the whole table."""
    rows = pd.DataFrame(rows, columns=COLUMNS)
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
