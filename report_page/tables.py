"""The words and tables of the report, from runs as plot_ccc.Run describes them. Everything here is plain text."""
import json
import math
import os
import shlex

import numpy as np

from config import Config
from report_page.table import Table, counted
from runs import settings_of
from scores import gaps_closed, summary_of
from seeds import settings_to_compare
from study.statistics import interval, signed
from support.recordings import SUMMARIES
from support.settings import KINDS

COLUMNS = ["mean, raw", "mean, post-processed", "concatenated, raw", "concatenated, post-processed"]
ROLES = {"visual": "the visual baseline (face only)", "teacher": "the teacher (face and voice)",
         "student": "the student (face only)", "audio": "the audio network (voice only)"}
NO_CONFIG = "config.json is missing, damaged or of another version"


def number(value, digits=3):
    """A CCC as text."""
    return "undefined" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def duration(seconds):
    """A time as text, in its unit."""
    return (f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200
            else f"{seconds / 3600:.1f} h")


# ---- gains over several seeds ----------------------------------------------------------------------------------------

def ccc_matrix(method, table, seeds):
    """Raw CCC of a method, (seeds, recordings); table: ccc.csv of one target."""
    rows = table[~table["recording"].isin(SUMMARIES)]
    wide = rows.pivot(index="run", columns="recording", values="ccc_raw").dropna(axis=1)
    return wide.loc[[method.runs[seed].name for seed in seeds]].to_numpy()


def gain_over(method, baseline, table):
    """(mean, low, high): difference in raw CCC from the baseline and its 95 % interval over recordings and the seeds
    that both have; None if these are fewer than two."""
    seeds = [seed for seed in method.runs if seed in baseline.runs]
    if len(seeds) < 2 or method is baseline:
        return None
    return interval(ccc_matrix(method, table, seeds) - ccc_matrix(baseline, table, seeds))


def baseline_of(methods, stage="visual"):
    """The method of a bound: that with the most seeds; None if there is none."""
    return max((method for method in methods if method.stage == stage), key=lambda method: len(method.runs),
               default=None)


def seeds_table(methods, table, target):
    """The methods with their seeds; None if none has several."""
    if all(len(method.runs) < 2 for method in methods):
        return None
    baseline, rows = baseline_of(methods), []
    for method in methods:
        means = ccc_matrix(method, table, method.runs).mean(axis=1)
        gain = gain_over(method, baseline, table) if baseline else None
        rows.append([method.name, str(len(means)), number(float(means.mean())),
                     number(float(means.std(ddof=1))) if len(means) > 1 else "-",
                     *([signed(gain[0]), f"{signed(gain[1])} to {signed(gain[2])}"] if gain else ["-", "-"])])
    over = f"over {baseline.name}" if baseline else "over a baseline"
    return Table(f"Several seeds, {target}: raw CCC, mean of recordings and seeds (in the table above, +mean: CCC of "
                 "the seeds' mean prediction). Intervals: bootstrap over recordings and seeds",
                 ["method", "seeds", "CCC", "sd over seeds", over, "95 % interval"], rows)


# ---- the answer -----------------------------------------------------------------------------------------------------

def answer(runs, table, methods):
    """[sentences]: what the runs show, in plain words."""
    count = counted(len({name for run in runs for name in run.val}), "recording")
    said = []
    for target in table["target"].unique():
        of = [method for method in methods if target in method.targets]
        said.append(answer_for(target, of, table[table["target"] == target], count))
    if all(len(method.runs) < 2 for method in methods):
        said.append(f"One seed and {count} are an illustration, not a result.")
    return said


def answer_for(target, methods, table, count):
    """The sentences of a target: the students beside their bounds."""
    students = [method for method in methods if method.stage == "student"]
    bounds = [bound for bound in (baseline_of(methods), baseline_of(methods, "teacher")) if bound]
    many = len(students) > 1
    parts = [f"{who(method, many)} {number(mean_of(method, table), 2)}"
             for method in [*students[:3], *bounds] or methods[:3]]
    first, *others = parts
    first = first.rsplit(" ", 1)
    text = (f"{target.capitalize()}: {first[0]} reaches a mean CCC of {first[1]} with the ratings of {count} that no "
            f"network was trained on{''.join(', ' + part for part in others)} (raw predictions).")
    values = {run.name: summary_of(table, run.name) for method in methods for run in method.runs.values()}
    text += "".join(share_of(student, bounds, values, table, many) for student in students[:3])
    return text + " Further students are in the table." * (len(students) > 3)


def who(method, named):
    """A method in words; named: with its name, because there are several of its stage."""
    role = ROLES.get(method.stage, method.name)
    return role + f" {method.name}" * (named and method.stage == "student")


def mean_of(method, table):
    """Raw CCC of a method, mean of recordings and seeds."""
    return float(np.mean([summary_of(table, run.name)[0] for run in method.runs.values()]))


def share_of(student, bounds, values, table, named):
    """What a student gained, after the sentence of its target."""
    name = student.name if named else "The student"
    if gain := gain_over(student, bounds[0], table) if bounds and bounds[0].stage == "visual" else None:
        verdict = "not significant" if gain[1] <= 0 <= gain[2] else "significant"
        return (f" {name} against the baseline: {signed(gain[0])} (95 % interval {signed(gain[1])} to "
                f"{signed(gain[2])}, {verdict}).")
    closed = gaps_closed(values, student.first)
    if not closed:
        return ""
    share = closed[0]
    if share == "no gap":
        return " The teacher is not above the baseline: there is no gap to close."
    if share.startswith("-"):
        return f" {name} is below the baseline."
    return f" {name} closes {share.replace('>', 'more than ')} of the gap between baseline and teacher."


# ---- the comparison -------------------------------------------------------------------------------------------------

def comparison_table(runs, table, target):
    """The runs of a target: CCC raw and post-processed, mean and concatenated, and the gap closed."""
    values = {run.name: summary_of(table, run.name) for run in runs}
    rows = []
    for run in runs:
        closed = gaps_closed(values, run)
        rows.append([run.name, *map(number, values[run.name]), *(closed[:1] or ["-"]), run.about or "-"])
    return Table(f"CCC of {target} on Val_Set, {counted(len(runs[0].val), 'recording')}. Gap closed: share of the gap "
                 "between visual baseline and teacher, of the means",
                 ["run", *COLUMNS, "gap closed, raw", "network"], rows)


def each_table(runs, table, target):
    """Every recording's CCC, raw and post-processed."""
    cells = table.set_index(["recording", "run"])
    columns = [f"{run.name}, {kind}" for run in runs for kind in ("raw", "post-processed")]
    rows = [[name, str(cells.loc[(name, runs[0].name), "frames"]), *(
        number(cells.loc[(name, run.name), kind]) for run in runs for kind in ("ccc_raw", "ccc_postprocessed"))]
        for name in runs[0].val]
    return Table(f"CCC of {target}, every recording of Val_Set", ["recording", "rated frames", *columns], rows)


def postprocessing_table(fitted):
    """The constants of the post-processing."""
    rows = [[f"{row.run}, {row.target}", f"{row.window_frames / row.frame_rate:.2f}" if row.window_frames > 1 else "-",
             f"{row.bias:+.3f}" if row.bias else "-", f"{row.scale:.2f}" if row.scale != 1 else "-",
             f"{row.delay_frames / row.frame_rate:.2f}" if row.delay_frames else "-",
             *([number(row.held_out_ccc_raw), number(row.held_out_ccc_postprocessed)] if row.fitted_on
               else ["not fitted"] * 2)] for row in fitted.itertuples()]
    return Table("Post-processing, fitted on held-out subjects of Train_Set. -: the step did not raise the CCC there",
                 ["run and target", f"{fitted['smoothing'][0]} over, seconds", "bias", "scale", "delay, seconds",
                  "CCC of these subjects, raw", "post-processed"], rows)


# ---- training, teachers ---------------------------------------------------------------------------------------------

def training_tables(logs):
    """(a row per run: epochs, the kept one, times; a row per epoch), from [(run, lines of its log.jsonl)]."""
    rows, every = [], []
    for run, entries in logs:
        seconds = [entry.get("seconds", math.nan) for entry in entries]
        kept = [entry["epoch"] for entry in entries if entry.get("best")] or [entries[-1]["epoch"]]
        epoch = entries[-1]["epoch"] if run.settings.get("keep") == "last" else kept[-1]
        rows.append([run.name, str(len(entries)), str(epoch), f"{np.median(seconds):.1f} s", duration(sum(seconds)),
                     shown(run.settings.get("device") or "auto")])
        every += [[run.name, str(entry["epoch"]), number(entry.get("loss", math.nan)),
                   *(number(entry["val"].get(target, {}).get("mean", math.nan)) if target in entry["val"] else "-"
                     for target in ("arousal", "valence"))] for entry in entries]
    return (Table("Training of each run", ["run", "epochs", "epoch kept", "time of an epoch, median", "time in all",
                                           "device asked for"], rows),
            Table("Every epoch", ["run", "epoch", "loss", "CCC arousal, mean of recordings", "CCC valence"], every))


def teachers_table(name, report):
    """Stacking weights and confirmation of a student's teachers; report: pseudo_labels.read_report."""
    stages = list(dict.fromkeys(stage for about in report.values() for stage in about["weights"]))
    rows = []
    for target, about in report.items():
        test = about.get("audio")
        verdict = "not tested" if not test else "confirmed" if test["passed"] else "not confirmed, not used"
        rows.append([target, *(f"{about['weights'].get(stage, 0):.0%}" for stage in stages), verdict,
                     signed(test["excess"]) if test else "-", number(test["error"]) if test else "-",
                     str(test["recordings"]) if test else "-"])
    return Table(f"{name}: weights of the teacher ensembles, and the confirmation test of the audio teachers",
                 ["target", *(f"weight of {stage}" for stage in stages), "audio teachers", "excess correlation",
                  "standard error", "recordings"], rows)


# ---- settings, and how to make it again -----------------------------------------------------------------------------

def shown(value):
    """A setting as text."""
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value))
    return "none" if value == "" else nearer(str(value))


def nearer(text):
    """A path relative to the current folder where that is shorter: the page is for others, who have other folders."""
    if not os.path.isabs(text):
        return text
    try:
        return min(os.path.relpath(text), text, key=len)
    except ValueError:  # on another drive of Windows, or a text that is no path
        return text


def settings_tables(runs):
    """(settings that differ between the runs, all settings); -: the run does not depend on it."""
    of = {run.name: settings_to_compare(run) for run in runs}
    names = [name for name in KINDS if any(name in settings for settings in of.values()) and name != "stage"]
    cells = {name: [shown(settings[name]) if name in settings else "-" for settings in of.values()] for name in names}
    differ = [[name, *cells[name]] for name in names
              if len({json.dumps(settings[name], default=str) for settings in of.values() if name in settings}) > 1]
    columns = ["setting", *of]
    return (Table("Settings that differ between the runs. -: the run does not depend on it", columns, differ),
            Table("Settings of the runs. -: the run does not depend on it", columns,
                  [[name, *row] for name, row in cells.items()]))


def command_of(settings):
    """The command that trains a run: its stage, and the settings that are not the defaults of config.py."""
    cfg = Config(**settings)
    return command("mmpkd.py", cfg, ["data_dir", "runs_dir", "stage", "epochs", *settings_of(cfg)])


def command(script, cfg, names):
    """A command line with the settings of these names that are not the defaults of config.py."""
    words = ["python", script]
    for name in dict.fromkeys(names):
        value, flag = getattr(cfg, name), "--" + name.replace("_", "-")
        if value is False and getattr(Config, name):
            words.append("--no-" + flag[2:])
        elif value != getattr(Config, name):
            values = value if isinstance(value, tuple) else () if value is True else (value,)
            words += [flag, *(nearer(str(each)) for each in values)]
    return shlex.join(words)


def again_table(rows):
    """(seed, recordings and date of each run; a sentence on versions, "" if they differ: they have a column then).

    rows: [(run name, settings, subjects: {partition: ids}, date, versions)], the dicts {} where they are not known.
    """
    cells, known = [], []
    for name, settings, subjects, date, versions in rows:
        counts = "subjects.json cannot be read" if subjects is None else ", ".join(
            f"{len(ids)} in {part}" for part, ids in subjects.items() if isinstance(ids, list))
        known.append(", ".join(f"{key} {value}" for key, value in versions.items()) or "not recorded")
        cells.append([name, shown(settings.get("seed", "-")), counts or "-", date])
    columns, caption = ["run", "seed", "recordings", "finished on"], "Seeds, recordings and dates"
    if len(set(known)) == 1:
        return Table(caption, columns, cells), f"Versions that trained all of them: {known[0]}."
    return Table(f"{caption}, versions", [*columns, "versions"],
                 [[*row, text] for row, text in zip(cells, known)]), ""
