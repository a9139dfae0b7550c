"""One page of what the runs found, to open from disk or send to a colleague: plots/report.html.

Reads   what plot_ccc.py reads, and computes the same tables; plot_ccc.py need not be run before
        runs/<run>/log.jsonl best.pt labels/teachers.json   curves, versions, weights of the teachers, where they exist
        Cropped_Aligned/<id>/               faces along the time axis, where they exist
        */settings.json                     how the preprocessing was made
Writes  plots/report.html                   one file of at most some 4 MB, which needs no network

The page holds every number of the tables. The traces of long recordings are thinned to what a screen can show, and if
there are many recordings, those between the worst, the median and the best are left out. The page says so.

    python report.py --data-dir data
"""
import functools
import math
from datetime import UTC, datetime
from pathlib import Path

from support.errors import UserError, run_script
from support.files import there, whole_file
from support.reading import read_json
from support.recordings import PARTITIONS
from support.settings import answer_first, parse_config

answer_first(__name__, __file__, __doc__)

import markupsafe
import vl_convert

import figures
import plot_ccc
from checkpoints import load_checkpoint
from pseudo_labels import read_report
from report_page import charts, recordings, tables
from report_page.templates import PAGE, template
from runs import read_log, say_once
from scores import summary_of
from seeds import methods_of
from support.recordings import FOLDERS

VEGA_LITE = "6.4"
FIELDS = ("data_dir", "runs_dir", "frame_rate", "level", "smoothing", "max_window_s", "max_delay_s")  # of this script
NOTE = "settings.json"


# ---- parts of the page ----------------------------------------------------------------------------------------------

def comparison(runs, table, methods, styles):
    """([part of each target], {name: chart})."""
    parts, drawn = [], {}
    for target in table["target"].unique():
        shown, rows = [run for run in runs if target in run.targets], table[table["target"] == target]
        of = [method for method in methods if target in method.targets]
        points = [{"run": row.run, "recording": row.recording, "raw": row.ccc_raw, "post": row.ccc_postprocessed}
                  for row in rows.itertuples() if row.recording != "concatenated"
                  and not math.isnan(row.ccc_postprocessed)]
        bounds = [{"ccc": point["post"], "colour": styles[run.name]["colour"]} for run in shown for point in points
                  if run.is_bound and (point["run"], point["recording"]) == (run.name, "mean")]
        drawn[f"comparison-{target}"] = charts.comparison(points, styles, bounds)
        means = ", ".join(f"{run.name} {tables.number(summary_of(rows, run.name)[1], 2)}" for run in shown)
        words = (f"CCC of {target}, post-processed. Bars: mean of recordings ({means}). Dots: recordings. Short line: "
                 "the raw mean, before post-processing. Dashed lines: the bounds, visual baseline and teacher.")
        parts.append({"target": target, "words": words, "table": tables.comparison_table(shown, rows, target),
                      "each": tables.each_table(shown, rows, target), "seeds": tables.seeds_table(of, rows, target)})
    return parts, drawn


def training(root, runs, styles):
    """(the part on training, {name: chart}); (None, {}) if no run has a log."""
    logs = [(run, entries) for run in runs if (entries := read_log(root / run.name))]
    if not logs:
        return None, {}
    drawn, words = {}, []
    for target in ("arousal", "valence"):
        rows = [{"run": run.name, "epoch": entry["epoch"], "value": entry["val"][target]["mean"]}
                for run, entries in logs for entry in entries
                if target in entry["val"] and math.isfinite(entry["val"][target]["mean"])]
        if rows:
            title = f"CCC of {target} on validation, raw, mean of recordings"
            drawn[f"curves-{target}"] = charts.curves(rows, styles, title)
            words.append({"name": f"curves-{target}", "words": f"{title}, after every epoch."})
    rows = [{"run": run.name, "epoch": entry["epoch"], "value": entry["loss"]} for run, entries in logs
            for entry in entries if math.isfinite(entry.get("loss", math.nan))]
    if rows:
        drawn["curves-loss"] = charts.curves(rows, styles, "training loss")
        words.append({"name": "curves-loss", "words": "Training loss of every epoch. Losses of different kinds of runs "
                                                      "are not comparable."})
    table, epochs = tables.training_tables(logs)
    return {"styles": {run.name: styles[run.name] for run, _ in logs}, "charts": words, "table": table,
            "epochs": epochs}, drawn


def teachers(root, runs):
    """A table for each student of pseudo-labels."""
    found = []
    for run in runs:
        if run.stage == "student" and there(root / run.name / "labels"):
            found.append(tables.teachers_table(run.name, read_report(root / run.name)))
    return found


def again(cfg, runs, folds):
    """Commands, seeds, versions: of the runs shown and of the runs of single folds, which taught students."""
    rows, commands = [], []
    for name in [*folds, *(run.name for run in runs)]:
        folder = cfg.run_root / name
        settings = plot_ccc.settings_in(folder)
        commands.append(tables.command_of(settings) if settings else f"# {name}: {tables.NO_CONFIG}")
        card = card_of(folder)
        subjects = note_of(folder / "subjects.json")
        if not subjects or not all(isinstance(subjects.get(name), list) for name in PARTITIONS.values()):
            subjects = None if subjects or subjects is None else {}
            say_once(f"{folder / 'subjects.json'} is missing or cannot be read: the page does not say how many "
                     "recordings the run was trained on")
        rows.append((name, settings, subjects, card.get("date") or finished_on(folder),
                     card.get("versions") or {}))
    # a student comes after its teachers
    commands.sort(key=lambda command: "--stage student" in command)
    commands.append(tables.command("report.py", cfg, FIELDS))
    corpus = [row for folder in FOLDERS for row in corpus_rows(folder, note_of(Path(cfg.data_dir, folder, NOTE)))]
    table, versions = tables.again_table(rows)
    return {"words": "These commands train the runs again on the same recordings. With the same seed, machine and "
                     "versions the result is the same; without --stage, mmpkd.py trains all that a student needs.",
            "commands": "\n".join(dict.fromkeys(commands)), "runs": table, "versions": versions,
            "corpus": tables.Table("Settings of the preprocessing", ["folder", "setting", "value"], corpus)}


def corpus_rows(folder, note):
    """Rows [folder, setting, value] of a folder of the preprocessing; note: note_of its settings.json."""
    if note is None:
        return [[folder, NOTE, "cannot be read"]]
    return [[folder, name, tables.shown(value)] for name, value in note.items()]


def card_of(folder):
    """The model card in a run's best.pt; {} if there is none that can be read."""
    try:
        return load_checkpoint(folder / "best.pt")["card"]
    except UserError as error:
        say_once(f"{error}. The page does not have what this file says of the run")
        return {}


def note_of(path):
    """A settings.json or subjects.json as a dict; {} if it is missing, None if it cannot be read."""
    try:
        return read_json(path, "")
    except FileNotFoundError:
        return {}
    except (OSError, UserError):
        return None


# ---- the page -------------------------------------------------------------------------------------------------------

def made_on(root, runs):
    """When the newest of the runs was finished, as a sentence."""
    return f"The newest run was finished on {max(finished_on(root / run.name) for run in runs)}."


def finished_on(folder):
    """The day on which a run wrote its predictions, 2026-11-26; "-" if it is not finished."""
    path = folder / "predictions"
    return f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d}" if there(path) else "-"


@functools.cache
def vega():
    """Vega, Vega-Lite and Vega-Embed as one script."""
    return vl_convert.javascript_bundle(vl_version=VEGA_LITE)


def page_of(content, data):
    """The page as text. content: what page.html shows; data: what page.js draws."""
    parts = {"css": (PAGE / "page.css").read_text(), "script": (PAGE / "page.js").read_text(),
             "library": vega()}
    for name, text in parts.items():
        assert "</s" not in text.lower().replace("</span", "").replace("</svg", ""), f"{name} would end its own element"
    parts = {name: markupsafe.Markup(text) for name, text in parts.items()}
    return template("page.html").render(
        **content, **parts, data=data, vega=vl_convert.get_vega_version(), vega_lite=VEGA_LITE)


def content_of(cfg, runs, left_out, folds, fitted):
    """({what page.html shows}, {what page.js draws})."""
    table, constants = fitted
    after = {run.name: plot_ccc.processed(run.val, constants[run.name], cfg.smoothing) for run in runs}
    trained = [run for run in runs if not run.members]
    styles, methods = charts.styles_of(runs), methods_of(trained)
    parts, drawn = comparison(runs, table, methods, styles)
    training_part, curves = training(cfg.run_root, trained, styles)
    shown, data = recordings.traces(runs, after, table, cfg.crops_dir, cfg.frame_rate)
    differ, everything = tables.settings_tables(trained)
    unknown = [run.name for run in trained if not run.settings]
    none = "The runs do not differ in a setting that they share." if not unknown else (
        f"Not known: of {', '.join(unknown)}, {tables.NO_CONFIG}.")
    shown["legend"] = {"gold standard (ratings)": {"colour": "var(--text)", "dash": []}} | {
        name: styles[name] for name in shown["shown"]}
    content = {"title": "MMPKD: what the runs found", "answer": tables.answer(runs, table, methods),
               "about_ccc": figures.ABOUT_CCC, "made": made_on(cfg.run_root, trained),
               "notes": [*plot_ccc.at_level(cfg), figures.selection_note(runs), *plot_ccc.on_fitting(runs, cfg),
                         *left_out],
               "comparison": parts, "styles": styles,
               "postprocessing": tables.postprocessing_table(plot_ccc.constants_table(runs, constants, cfg)),
               "traces": shown, "training": training_part, "teachers": teachers(cfg.run_root, trained),
               "settings": {"differ": differ, "all": everything, "none": none}, "again": again(cfg, trained, folds)}
    limits = figures.value_limits(runs, after)
    of = {target: [run for run in runs if target in run.targets] for target in limits}
    return content, {"charts": drawn | curves, "traces": data, "face_panel": charts.face_panel(),
                     "panels": {target: charts.trace_panel(target, each, styles, limits[target])
                                for target, each in of.items()},
                     "runs": {target: [run.name for run in each] for target, each in of.items()}}


def main(argv=None):
    """Path of the page."""
    cfg = parse_config(argv, __file__, __doc__)
    runs, constants, unfinished, folds = plot_ccc.fitted_runs(cfg)
    table = plot_ccc.ccc_table(runs, constants, cfg)
    left_out = plot_ccc.left_out(unfinished, folds)
    content, data = content_of(cfg, runs, left_out, folds, (table, constants))
    path = cfg.plots_dir / "report.html"
    with whole_file(path) as part:
        part.write_text(page_of(content, data), encoding="utf-8")
    print(*left_out, *content["traces"]["notes"][-1:], sep="\n")
    size, trained = path.stat().st_size / 1e6, sum(not run.members for run in runs)
    print(f"{path}: {tables.counted(trained, 'run')}, {size:.1f} MB, written; open it in a browser")
    return path


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
