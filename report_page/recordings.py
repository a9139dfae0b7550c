"""The recordings of the report: which are shown, their curves and faces, and what is said of them."""
import json

import numpy as np
from tqdm import tqdm

from figures import bucket_frames
from report_page import charts
from report_page.tables import Table, counted, number

ROOM = 2.5e6  # bytes of JSON for the traces: beside 0.9 MB of Vega, the page stays below 5 MB
ROWS = 16  # of the table beside a recording's traces


def traces(runs, after, table, crops_dir, frame_rate):
    """(the part on recordings, {recording: its curves and faces}), as many as there is ROOM for.

    after: {run name: {id: post-processed table}}; table: ccc.csv. Those that are worst, median or best come first.
    """
    special = picked(runs, table)
    everyone = list(dict.fromkeys(name for run in runs for name in run.val))
    special = special or {everyone[0]: []}  # it is open
    values = table.set_index(["recording", "target", "run"]).sort_index()
    data, parts, room = {}, {}, ROOM
    for name in tqdm([*special, *(name for name in everyone if name not in special)], "traces", leave=False,
                     disable=None):
        of = [run for run in runs if name in run.val]
        before, later = {run.name: run.val[name] for run in of}, {run.name: after[run.name][name] for run in of}
        targets = list(dict.fromkeys(target for run in of for target in run.targets))
        curves = charts.trace(before, later, targets, of)
        curves["faces"] = charts.faces(crops_dir / name, len(before[of[0].name]), frame_rate)
        room -= len(json.dumps(curves))
        if room < 0 and data:
            break
        data[name] = curves
        parts[name] = {
            "name": name, "key": f"recording-{len(parts)}", "targets": targets, "faces": bool(curves["faces"]),
            "heading": f"{name}: {', '.join(special[name])}" if special.get(name) else name,
            "words": " ".join(sentence(target, of, values.loc[name, target]) for target in targets),
            "length": curves["length"], "step": max(round(curves["length"] / 200, 2), round(1 / frame_rate, 3)),
            "table": values_table(name, targets, of, before, later)}
    return {"open": [part for name, part in parts.items() if name in special],
            "closed": [parts[name] for name in everyone if name in parts and name not in special],
            "shown": shown_at_first(runs), "notes": notes(everyone, parts, runs, frame_rate)}, data


def picked(runs, table):
    """{recording: [what it is]}: worst, median and best of each target, of the first student or else the last run."""
    words = {}
    for target in table["target"].unique():
        run = measured(runs, target)
        rows = table[(table["target"] == target) & (table["run"] == run.name) & table["recording"].isin(run.val)]
        rows = rows.dropna(subset="ccc_postprocessed").sort_values("ccc_postprocessed", kind="stable")
        places = {0: "worst", len(rows) - 1: "best"} if len(rows) > 1 else {}
        places = {0: "worst", len(rows) // 2: "median"} | places if len(rows) > 2 else places
        for place, word in sorted(places.items()):
            words.setdefault(rows["recording"].iloc[place], []).append(f"{word} on {target}")
    return words


def measured(runs, target):
    """The run by which recordings are called worst or best: the first student, or else the last run that is no mean."""
    shown = [run for run in runs if target in run.targets and not run.members]
    return next((run for run in shown if run.stage == "student"), shown[-1])


def shown_at_first(runs):
    """Names of the runs whose curves are shown at first: of each target the first of each stage that is fed faces."""
    firsts = {(run.stage, target): run.name for run in reversed(runs) if run.stage != "audio" for target in run.targets}
    return [run.name for run in runs if run.name in firsts.values()] or [runs[0].name]


def sentence(target, runs, values):
    """CCC of one recording; values: rows of ccc.csv, by run."""
    each = [f"{run.name} {number(values.loc[run.name, 'ccc_postprocessed'], 2)}" for run in runs
            if target in run.targets]
    return f"CCC of {target}, post-processed: {', '.join(each)}."


def values_table(name, targets, runs, before, later):
    """Ratings and post-processed predictions of a recording at up to ROWS times."""
    first = next(iter(before.values()))
    places = np.unique(np.linspace(0, len(first) - 1, min(ROWS, len(first))).round().astype(int))
    columns, series = ["seconds"], []
    for target in targets:
        of = [run for run in runs if target in run.targets]
        columns += [f"{target}, gold standard", *(f"{target}, {run.name}" for run in of)]
        series += [before[of[0].name][f"{target}_gold"], *(later[run.name][f"{target}_pred"] for run in of)]
    rows = [[f"{first['time_s'].iloc[k]:.1f}", *("-" if np.isnan(each.iloc[k]) else f"{each.iloc[k]:.2f}"
                                                 for each in series)] for k in places]
    return Table(f"{name}: ratings and post-processed predictions at {counted(len(rows), 'time')}. -: no valid rating",
                 columns, rows)


def notes(everyone, parts, runs, frame_rate):
    """Sentences on which recordings and which values are shown."""
    by = {run.name for target in ("arousal", "valence") if any(target in run.targets for run in runs)
          for run in [measured(runs, target)]}
    said = [f"Worst, median and best by the post-processed CCC of {' and '.join(sorted(by))}. Drag over a chart to "
            "zoom in, double-click for all of it; the slider moves the cursor, also by arrow keys. Gaps in the gold "
            "standard: frames without a valid rating."]
    longest = max(len(run.val[name]) for run in runs for name in run.val)
    if (size := bucket_frames(longest)) > 1:
        said.append(f"Curves are thinned: of up to {size} frames ({size / frame_rate:.1f} s) in a row the lowest and "
                    "the highest value are shown.")
    left = len(everyone) - len(parts)
    said.append(f"Traces of {left} of {counted(len(everyone), 'recording')} are left out, to keep the page small; "
                "their CCCs are in the tables, their figures in plots/traces/ (plot_ccc.py)." if left else
                f"All {counted(len(everyone), 'recording')} are shown.")
    return said
