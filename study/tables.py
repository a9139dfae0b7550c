"""The study's tables and its figure, made of its results alone."""
import re

import numpy as np
from matplotlib.figure import Figure

from figures import save_figure
from study.methods import AIMS, HEARING, METHODS
from study.results import ALL_TARGETS, GATE, LABELS, LEVELS, RUN, WHOLE, Results, gate_file, read_results
from study.statistics import percent, signed, with_interval
from support.files import whole_file
from support.recordings import TARGETS

# Columns of the main table: heading, method, level. RATED: what takes the student's place where none is unlabelled
MAIN = (("visual, raw", "visual", "raw"), ("visual ensemble, causal", "visual_ensemble", "causal"),
        ("self-training, raw", "self_training", "raw"), ("student, raw", "student", "raw"),
        ("oracle, raw", "oracle", "raw"))
RATED = "student_rated"
VOICES = {"student": "own", "control": "another's"}  # whose voice a method's audio teachers hear
CURVES = {"visual_ensemble": "tab:grey", "self_training": "tab:orange", "student": "tab:blue", "oracle": "black"}


def markdown(heading, columns, rows):
    """A Markdown table under its heading; "" without rows."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    head = [f"### {heading}\n", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    return "\n".join([*head, *lines, ""]) if lines else ""


def name_of(target):
    return "mean of both" if target == "both" else target


def mean_of(results, *words):
    """The mean of a matrix as text, "" if there is none: over subjects, seeds and draws."""
    each = results.matrix(*words)
    return f"{round(each.mean(axis=1).groupby('draw').mean().mean(), 3) + 0.0:.3f}" if each.size else ""  # no -0


def gain_of(results, *words):
    """A difference with its interval as text, "" if there is none."""
    return with_interval(*gain) if (gain := results.paired(*words)) else ""


# ---- tables of the study's page -------------------------------------------------------------------------------------

def main_table(results):
    """A row for each case: CCC of the methods, and what hearing adds."""
    columns = ["setting: rated + unlabelled", "draws x seeds", *(heading for heading, _, _ in MAIN),
               "student over visual, raw", "hearing's part, raw", "hearing's part, centred"]
    rows = []
    for case in results.cases():
        values = [mean_of(results, case, method, "both", level) for _, method, level in MAIN]
        runs = runs_of(results, case, results.methods(case)[0])
        rows.append([results.name_of(case), runs, *values, gain_of(results, case, ("student", "visual")),
                     *(gain_of(results, case, HEARING, "both", level) for level in ("raw", "centred"))])
        if RATED in results.methods(case):
            rows.append([results.name_of(case, 0), runs, *values[:2], "", mean_of(results, case, RATED, "both"), "",
                         gain_of(results, case, (RATED, "visual")), "", ""])
    return markdown("What to expect: CCC, mean over subjects, draws, seeds and both targets", columns, rows)


def hearing_table(results):
    """What hearing adds in each case, by target and level; and to the pseudo-labels that students learn from."""
    each = [(target, level) for target in TARGETS for level in LEVELS] + [("both", "causal")]  # main_table has the rest
    columns = ["setting: rated + unlabelled", *(f"labels of {target}: by faces, with voices" for target in TARGETS),
               *(f"{name_of(target)}, {level}" for target, level in each)]
    rows = [[results.name_of(case), *(labels_cell(results, case, target) for target in TARGETS), *cells]
            for case in results.cases() if all(cells := [gain_of(results, case, HEARING, *one) for one in each])]
    return markdown("Hearing's part: student over self-training", columns, rows)


def labels_cell(results, case, target):
    """CCC of the labels by faces alone and with voices, as text."""
    return ", ".join(filter(None, (mean_of(results, case, one, target, "raw", LABELS) for one in reversed(HEARING))))


def harm_table(results):
    """What a student loses or gains by another subject's voice, without the confirmation test; and by its own beside
    that."""
    columns = ["setting: rated + unlabelled", "control over self-training, raw", "causal", "centred",
               "control over visual, raw", "student over control, raw", "arousal alone, raw"]
    over = ("student", "control")
    rows = [[results.name_of(case), *(gain_of(results, case, ("control", "self_training"), "both", level)
                                      for level in LEVELS), gain_of(results, case, ("control", "visual")),
             *(gain_of(results, case, over, target) for target in ("both", "arousal"))]
            for case in results.cases() if results.paired(case, ("control", "self_training"))]
    return markdown("Another subject's voice, without the confirmation test", columns, rows)


def levels_table(results):
    """What is left of the gains where the level of each recording is removed from both."""
    columns = ["setting: rated + unlabelled", "student over visual ensemble, raw", "causal", "centred",
               "student, raw, over visual ensemble, causal"]
    pair, levels = ("student", "visual_ensemble"), [*LEVELS, ("raw", "causal")]
    rows = [[results.name_of(case), *(gain_of(results, case, pair, "both", level) for level in levels)]
            for case in results.cases() if results.paired(case, pair)]
    return markdown("Over the visual ensemble", columns, rows)


def aims_table(results):
    """The aims for cases of this study, and whether each was met."""
    rows = []
    for aim in (aim for aim in AIMS if results.has((aim.setting, aim.rated))):
        as_text = percent if aim.of else signed
        pair = aim.method, aim.against
        reached = [results.paired((aim.setting, aim.rated), pair, "both", level, aim.of or None)
                   for level in ("raw", "centred")]
        at_least = "above 0" if aim.least == 0 else f"at least {as_text(aim.least)}"
        unlabelled = 0 if RATED in pair else None
        rows.append([f"{aim.words}: {at_least}", results.name_of((aim.setting, aim.rated), unlabelled),
                     " over ".join(pair), *(verdict(each, aim.least, as_text) for each in reached)])
    return markdown("The aims", ["aim", "setting: rated + unlabelled", "", "raw", "centred"], rows)


def verdict(reached, least, as_text):
    """Whether (mean, low, high) is enough, as text: the mean, and the interval above 0, or above a negative `least`."""
    if reached is None:
        return "not run"
    mean, low, _ = reached
    value = with_interval(*reached, as_text)
    if mean < least:
        just = as_text(mean) == as_text(least)
        return f"{value}: just missed" if just else f"{value}: missed by {as_text(least - mean).lstrip('+')}"
    return f"{value}: {'met' if low > min(least, 0) else 'not significant'}"


def gate_table(results, gate):
    """The confirmation test of the audio teachers, with each subject's own voice and with another's: in how many chains
    they passed, and the excess correlation, as mean and in standard errors."""
    each = [(method, target) for method in VOICES for target in TARGETS]
    tests = dict(list(gate.groupby(["setting", "rated", "method", "target"])))
    rows = [[results.name_of(case), *cells] for case in results.cases()
            if any(cells := [gate_cell(tests.get((*case, *one))) for one in each])]
    return markdown("The confirmation test: passed in how many, excess correlation (in standard errors: 3 pass)", [
        "setting: rated + unlabelled", *(f"{VOICES[method]} voice: {target}" for method, target in each)], rows)


def gate_cell(tests):
    """The tests of one target in all chains, as text; "" if there are none."""
    if tests is None:
        return ""
    ratio = tests["excess"] / tests["error"]
    return (f"{tests['passed'].sum():.0f} of {len(tests)}, {signed(tests['excess'].mean())} ({ratio.min():.1f} to "
            f"{ratio.max():.1f})")


# ---- every row ------------------------------------------------------------------------------------------------------

def case_tables(results, case):
    """The heading of a case, and a table for each target."""
    tables = [case_table(results, case, target) for target in ALL_TARGETS]
    return "\n".join([f"## {results.name_of(case)}: {results.settings[case[0]].description}\n", *tables])


def case_table(results, case, target):
    """A row for each method of a case: three levels, both conventions, gains, seconds."""
    columns = ["method", "draws x seeds", *LEVELS, *(f"concatenated, {level}" for level in LEVELS), "over visual, raw",
               "over visual ensemble, raw", "sd over draws", "seconds"]
    rows = [row_of(results, case, method, target) for method in results.methods(case)]
    return markdown(f"{results.name_of(case)}: {name_of(target)}", columns, rows)


def runs_of(results, case, method):
    """How many draws and seeds a method was run with, as text."""
    each = results.matrix(case, method, TARGETS[0])
    draws = len(set(each.index.get_level_values("draw")))
    return f"{draws} x {len(each) / max(draws, 1):.3g}"


def row_of(results, case, method, target):
    """The cells of a method in a table of its case."""
    each = results.matrix(case, method, target)
    draws = each.mean(axis=1).groupby("draw").mean()
    values = [mean_of(results, case, method, target, level, only) for only in ("", WHOLE) for level in LEVELS]
    gains = [gain_of(results, case, (method, against), target) if against != method else ""
             for against in ("visual", "visual_ensemble")]
    rows = results.table.query("setting == @case[0] and rated == @case[1] and method == @method and seconds > 0")
    return [method, runs_of(results, case, method), *values, *gains,
            f"{draws.std():.3f}" if len(draws) > 1 else "", f"{rows['seconds'].mean():.0f}" if len(rows) else ""]


def runs_table(results, outdated=()):
    """Where the runs were trained; and which are of other settings than today's, [(setting, rated, method)]."""
    runs = results.table.drop_duplicates(RUN)
    rows = []
    for machine, part in runs.groupby("machine"):
        rows.append([machine, len(part), f"{part['seconds'].sum() / 3600:.1f}"])
    table = markdown("Machines", ["machine", "runs", "hours of one core or GPU, without those of teachers"], rows)
    return table + "".join(f"\n{method} in {results.name_of(case)}: runs of other settings than today's: run "
                           "experiment.py again\n" for *case, method in outdated)


# ---- figure ---------------------------------------------------------------------------------------------------------

def plot_rated(results, setting, path):
    """Draws the gain over the visual baseline, and hearing's part of it, against the number of rated subjects."""
    cases = [case for case in results.cases() if case[0] == setting and results.paired(case, HEARING)]
    if not cases:  # of a shard, or of other settings
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    gains, hearing = figure.subplots(1, 2)
    for number, (method, colour) in enumerate(CURVES.items()):
        values = [results.paired(case, (method, "visual")) for case in cases]
        draw_curve(gains, values, 0.08 * (number - 1.5), colour, method)
    for number, (level, colour) in enumerate({"raw": "tab:blue", "centred": "tab:purple"}.items()):
        values = [results.paired(case, HEARING, "both", level) for case in cases]
        draw_curve(hearing, values, 0.08 * (number - 0.5), colour, level)
    titles = "gain over the visual baseline, raw", "hearing's part: student less self-training"
    for axis, title in zip((gains, hearing), titles):
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(cases)), [rated for _, rated in cases])
        axis.set(title=title, xlabel="rated subjects", ylabel="difference in CCC, mean of both targets")
        axis.grid(axis="y", alpha=0.3)
        axis.margins(y=0.25)
        axis.legend(ncol=2, fontsize="small")
    about = results.settings[setting].description
    figure.suptitle(f"{setting}: {about}\n95 % intervals over subjects, draws and seeds")
    save_figure(figure, path)


def draw_curve(axis, values, aside, colour, label):
    """One curve of plot_rated(): (mean, low, high) of each case, None where there is none; aside: of the others."""
    places = [k for k, value in enumerate(values) if value]
    if not places:
        return
    means, lows, highs = np.array([values[k] for k in places]).T
    axis.errorbar(np.array(places) + aside, means, [means - lows, highs - means], fmt="o-", color=colour, capsize=3,
                  label=label)


# ---- report ---------------------------------------------------------------------------------------------------------

def report(file, settings, outdated=()):
    """Text of all tables, which is written beside the file of results with the figure; the study's page gets its own.

    settings: {name: Setting} of the study that the results are of; outdated: as runs_table's. Cases that are still in
    training are left out, and named, but for their own tables.
    """
    everything, gate = Results(read_results(file), settings), read_results(gate_file(file), GATE)
    results = everything.whole()
    choosing = file.stem == "choice"
    made = f"Made by `python experiment.py --report{' --choose' * choosing}` from {file.name}."
    made += " Development subjects: the study reports others." * choosing
    ours = [main_table(results), hearing_table(results), levels_table(results), harm_table(results),
            gate_table(results, gate), aims_table(results)]
    ours += [f"{everything.name_of(case)}: still in training, left out above\n"
             for case in everything.cases() if case not in results.cases()]
    ours = "\n".join(filter(None, ours))
    rest = "\n".join([*(case_tables(everything, case) for case in everything.cases()),
                      runs_table(everything, outdated)])
    names = "\n".join(f"* `{name}`: {METHODS[name].description}" for name in METHODS)
    with whole_file(file.with_suffix(".md")) as part:
        part.write_text(f"{made}\n\n{names}\n\n{ours}\n{rest}")
    plot_rated(results, "much", file.with_suffix(".png"))
    if (page := file.with_name("study.md")).exists():
        renew_tables(page, f"{ours}\n{rest}")
    return ours


def renew_tables(page, text):
    """Replaces the tables of a page by those of a Markdown text that have the same heading."""
    pattern = re.compile(r"^(### .+\n\n)((?:\|.*\n)+)", re.MULTILINE)
    tables, there = dict(pattern.findall(text)), page.read_text()
    for heading in [heading.strip() for heading, _ in pattern.findall(there) if heading not in tables]:
        print(f"{page}: no table has the heading {heading!r} any more: it stays as it was")
    renewed = pattern.sub(lambda found: found[1] + tables.get(found[1], found[2]), there)
    with whole_file(page) as part:
        part.write_text(renewed)
