"""The page of annotations.py --check: findings first, then every recording with its numbers, its traces and faces."""
import base64

import markupsafe
import numpy as np

from corpora.findings import LEVELS, NOTE, ordered
from figures import shown_times, thinned
from report_page.table import Table, counted
from report_page.templates import PAGE, template
from support.files import whole_file
from support.recordings import MODALITIES, TARGETS, valid_labels

ROOM = 8e6  # characters of traces and faces: recordings without findings are left out beyond


def write_page(path, facts, findings, data_dir):
    """Writes the page of a corpus and returns its path. facts: Facts of every recording; findings: all Findings."""
    kinds = ordered(findings)
    shown, left = pictures_of(facts, kinds)
    worse = [(kind, those) for kind, those in kinds if kind.level != NOTE]
    notes = [(kind, those) for kind, those in kinds if kind.level == NOTE]
    content = {"title": f"Check of {data_dir}", "answer": answer(facts, kinds), "worse": worse, "notes": notes,
               "keys": {one["name"]: one["key"] for one in shown}, "recordings": shown,
               "counts": counts_table(facts), "ratings": ratings_table(facts),
               "about_traces": "Ratings as annotations.py makes them: one per frame. The dashed line is 0; gaps are "
                               "frames without a valid rating. All recordings have the same scale." + left}
    css = markupsafe.Markup((PAGE / "page.css").read_text() + (PAGE / "check.css").read_text())
    with whole_file(path) as part:
        part.write_text(template("check.html").render(**content, css=css), encoding="utf-8",
                        errors="backslashreplace")
    return path


def answer(facts, kinds):
    """What was found, in a sentence."""
    counts = {level: sum(kind.level == level for kind, _ in kinds) for level in LEVELS}
    what = ", ".join(f"{counted(count, 'kind')} of {level}s" for level, count in counts.items() if count)
    return f"{counted(len(facts), 'recording')}: {what or 'nothing was found'}."


# ---- numbers --------------------------------------------------------------------------------------------------------

def text_of(value, form=""):
    """A number as text, "-" for None."""
    return "-" if value is None else format(value, form)


def counts_table(facts):
    """Frames, faces, segments, spectrograms, rates and lengths of every recording."""
    rows, kinds = [], [kind for kind in MODALITIES.values() if any(kind in one.features for one in facts)]
    for one in facts:
        faces = None if one.has_face is None or not len(one.has_face) else 100 * one.has_face.mean()
        rows.append([one.name, one.place or "none", text_of(None if one.gold is None else len(one.gold)),
                     text_of(one.frames), text_of(one.crops), text_of(faces, ".0f"), text_of(one.gap_s(), ".1f"),
                     text_of(one.segments), text_of(one.spectrograms),
                     *(text_of(one.features.get(kind)) for kind in kinds),
                     text_of(one.pictures_rate, ".5g"), text_of(one.pictures_s, ".1f"),
                     text_of(one.sound_s, ".1f"), text_of(one.late_s, ".2f")])
    columns = ["recording", "set", "ratings", "frames", "crops", "faces, %", "gap, s", "segments", "specs",
               *(f"{kind} features" for kind in kinds), "pictures, 1/s", "pictures, s", "sound, s", "late, s"]
    caption = ("What is there. Frames: those of the video; faces: share of the frames; gap: the longest one without a "
               "face; late: how much later the sound begins; -: not there, not made yet, or it cannot be read"
               + "; features: their frames" * bool(kinds))
    return Table(caption, columns, rows)


def ratings_table(facts):
    """Mean, spread, range and share of invalid ratings of every recording."""
    rows = []
    for one in facts:
        cells = []
        for k in range(len(TARGETS)):
            values = None if one.gold is None else one.gold[valid_labels(one.gold[:, k]), k]
            if values is None or not len(values):
                cells += ["-"] * 4
            else:
                cells += [f"{number:.2f}" for number in (values.mean(), values.std(), values.min(), values.max())]
        invalid = None if one.gold is None or not len(one.gold) else 100 * (~valid_labels(one.gold).all(1)).mean()
        rows.append([one.name, text_of(invalid, ".0f"), *cells])
    columns = ["recording", "invalid rows, %",
               *(f"{target}, {what}" for target in TARGETS for what in ("mean", "sd", "lowest", "highest"))]
    return Table("Ratings", columns, [row for row in rows if row[1] != "-"])


# ---- traces and faces -----------------------------------------------------------------------------------------------

def pictures_of(facts, kinds):
    """([what the page shows of a recording], a sentence on those left out), in the order of the recordings."""
    limits = scale_of(facts)
    found = {one.name: [] for one in facts}
    for kind, those in kinds:
        for name in {name for one in those for name in one.recordings if kind.level != NOTE}:
            found.setdefault(name, []).append((kind.level, kind.title))
    parts, room = {}, ROOM
    for one in sorted(facts, key=lambda one: min((LEVELS.index(level) for level, _ in found[one.name]), default=9)):
        part = picture_of(one, limits) | {"found": found[one.name]}
        room -= sum(len(trace["path"]) for trace in part["traces"]) + sum(len(face["url"]) for face in part["faces"])
        if room < 0 and parts:
            break
        parts[one.name] = part
    shown = [parts[one.name] | {"key": f"recording-{number}"} for number, one in enumerate(facts) if one.name in parts]
    left = len(facts) - len(shown)
    return shown, f" {counted(left, 'recording')} are left out here, to keep the page small." * bool(left)


def scale_of(facts):
    """{target: (lowest, highest)} valid rating of all recordings, 0 included, in tenths."""
    limits = {}
    for k, target in enumerate(TARGETS):
        valid = [one.gold[valid_labels(one.gold[:, k]), k] for one in facts if one.gold is not None]
        values = np.concatenate([[0.0], *valid])
        low, high = np.floor(values.min() * 10) / 10, np.ceil(values.max() * 10) / 10
        limits[target] = (min(low, -0.1), max(high, 0.1))
    return limits


def picture_of(facts, limits):
    """What the page shows of one recording."""
    traces, end = [], ""
    if facts.gold is not None and len(facts.gold):
        end = f"{len(facts.gold) / facts.rate:.1f} s"
        traces = [trace_of(facts.name, target, facts.gold[:, k], limits[target]) for k, target in enumerate(TARGETS)]
    faces = [{"url": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode(),
              "words": f"{facts.name}, {what}"} for what, jpeg in facts.faces]
    return {"name": facts.name, "about": facts.place or "in no set", "traces": traces, "faces": faces, "end": end}


def trace_of(name, target, values, limits):
    """The curve of a target as an SVG path in a box of 1000 x 100."""
    low, high = limits
    series = np.where(valid_labels(values), values, np.nan)
    points, times = thinned(series), shown_times(np.arange(len(series)))
    across = 1000 * times / max(1, len(series) - 1)
    up = 100 * (high - points) / (high - low)
    path, pen = [], "M"
    for x, y in zip(across, up):
        if np.isnan(y):
            pen = "M"
            continue
        path.append(f"{pen}{x:.0f} {y:.1f}" + f"L{x:.0f} {y:.1f}" * (pen == "M"))  # a single point is a dot
        pen = "L"
    valid = series[np.isfinite(series)]
    words = (f"from {valid.min():.2f} to {valid.max():.2f}, mean {valid.mean():.2f}" if len(valid)
             else "no valid rating")
    return {"target": target, "path": "".join(path), "zero": f"{100 * high / (high - low):.1f}",
            "high": f"{high:.1f}", "low": f"{low:.1f}", "words": f"{target} of {name}: {words}"}

