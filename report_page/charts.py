"""The charts of the report as Vega-Lite specifications, and the data of its traces.

Colours are variables of page.css, so that the dark mode and the print of the page need no script. The texts are the
page's own: a chart is an image with a sentence and a table beside it.
"""
import base64
import itertools
import math
from pathlib import Path

from figures import shown_times, thinned
from support.crops import frame_images
from support.files import there
from support.opencv import cv2, read_picture

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name, which nothing fetches
COLOURS = {stage: f"var(--{stage})" for stage in ("visual", "teacher", "student", "audio")}
DASHES = ([], [6, 3], [2, 2], [8, 3, 2, 3])  # of runs of the same stage, in turn
CONFIG = {"background": None, "view": {"stroke": None}, "font": "inherit",
          "axis": {"labelColor": "var(--text)", "titleColor": "var(--text)", "gridColor": "var(--line)",
                   "domainColor": "var(--faint)", "tickColor": "var(--faint)", "labelFontSize": 12,
                   "titleFontSize": 12, "titleFontWeight": "normal"}}

FACES = 24  # crops of a recording on the page, evenly spaced
FACE_SIZE = 64  # pixels: sharp at 40 on a screen of high density
LEFT = 40  # pixels left of the traces: the same for all panels, so that their times stand above each other


def styles_of(runs):
    """{run name: {"colour", "dash"}}: the stage's colour; runs of one stage and target differ in their
    dashes."""
    styles = {}
    for place, run in enumerate(runs):
        alike = [other for other in runs[:place] if other.stage == run.stage and set(other.targets) & set(run.targets)]
        styles[run.name] = {"colour": COLOURS.get(run.stage, "var(--faint)"), "dash": DASHES[len(alike) % len(DASHES)]}
    return styles


def chart(**parts):
    """A specification as wide as its place on the page."""
    return {"$schema": SCHEMA, "width": "container", "autosize": {"type": "fit-x", "contains": "padding"},
            "config": CONFIG, **parts}


# ---- the comparison -------------------------------------------------------------------------------------------------

def comparison(rows, styles, bounds):
    """Runs from top to bottom: their recordings as dots, the mean as a bar, the mean before post-processing as a tick.

    rows: [{"run", "recording", "raw", "post"}], recording "mean" for the bars; bounds: [{"ccc", "colour"}].
    """
    names = list(dict.fromkeys(row["run"] for row in rows))
    y = {"field": "run", "type": "nominal", "sort": names, "axis": None, "scale": {"paddingInner": 0.6,
                                                                                 "paddingOuter": 0.5}}
    colour = {"field": "run", "type": "nominal", "legend": None,
              "scale": {"domain": names, "range": [styles[name]["colour"] for name in names]}}
    tooltip = [{"field": "run"}, {"field": "recording"}, {"field": "raw", "title": "CCC raw", "format": ".3f"},
               {"field": "post", "title": "CCC post-processed", "format": ".3f"}]
    x = {"field": "post", "type": "quantitative", "title": "CCC, post-processed", "axis": {"tickCount": 6}}
    means, each = {"filter": "datum.recording == 'mean'"}, {"filter": "datum.recording != 'mean'"}
    return chart(height=56 * len(names), data={"values": rows}, layer=[
        {"transform": [means], "mark": {"type": "bar", "opacity": 0.55},
         "encoding": {"y": y, "x": x, "color": colour, "tooltip": tooltip}},
        {"transform": [means], "mark": {"type": "tick", "thickness": 3, "color": "var(--text)"},
         "encoding": {"y": y, "x": x | {"field": "raw"}, "tooltip": tooltip}},
        {"transform": [each], "mark": {"type": "circle", "size": 42, "opacity": 1, "fill": "var(--page)",
                                       "stroke": "var(--text)", "strokeWidth": 1.2},
         "encoding": {"y": y, "x": x, "tooltip": tooltip}},
        {"data": {"values": bounds}, "mark": {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5},
         "encoding": {"x": {"field": "ccc", "type": "quantitative"},
                      "color": {"field": "colour", "type": "nominal", "scale": None, "legend": None}}},
        {"transform": [means], "mark": {"type": "text", "align": "left", "baseline": "bottom", "dy": -13,
                                        "fontSize": 12, "fill": "var(--text)"},
         "encoding": {"y": y, "x": {"value": 2}, "text": {"field": "run"}}}])


# ---- learning curves ------------------------------------------------------------------------------------------------

def curves(rows, styles, title):
    """A line for each run by epoch; rows: [{"run", "epoch", "value"}]."""
    names = list(dict.fromkeys(row["run"] for row in rows))
    last = max(row["epoch"] for row in rows)
    whole = {"values": [*range(0, last + 1, math.ceil(last / 8))], "format": "d", "grid": False}
    mark = {"type": "line", "point": {"size": 30}}
    return chart(height=200, data={"values": rows}, mark=mark, encoding={
        "x": {"field": "epoch", "type": "quantitative", "axis": whole, "scale": {"zero": False, "nice": False}},
        "y": {"field": "value", "type": "quantitative", "title": None, "axis": {"tickCount": 5},
              "scale": {"zero": False}},
        "color": {"field": "run", "type": "nominal", "legend": None,
                  "scale": {"domain": names, "range": [styles[name]["colour"] for name in names]}},
        "strokeDash": {"field": "run", "type": "nominal", "legend": None,
                       "scale": {"domain": names, "range": [styles[name]["dash"] or [1, 0] for name in names]}},
        "tooltip": [{"field": "run"}, {"field": "epoch"}, {"field": "value", "title": title, "format": ".3f"}]})


# ---- traces ---------------------------------------------------------------------------------------------------------

def time_axis(**axis):
    """The x of every panel of a recording: page.js moves `from` and `to`."""
    return {"field": "t", "type": "quantitative", "axis": axis,
            "scale": {"domain": [{"expr": "from"}, {"expr": "to"}], "nice": False, "zero": False}}


def trace_panel(target, runs, styles, limits):
    """A target's panel of any recording; page.js gives it rows of t, gold, and raw<i>, post<i> of the i-th run."""
    names = [run.name for run in runs]
    y = {"type": "quantitative", "title": None, "scale": {"domain": list(limits), "nice": False},
         "axis": {"tickCount": 4, "minExtent": LEFT, "maxExtent": LEFT}}
    x = time_axis(title=None, grid=False, tickCount=6, labelExpr="datum.label + ' s'")
    line = {"type": "line", "clip": True, "tooltip": None}
    layers = [{"mark": line | {"stroke": "var(--text)", "strokeWidth": 2, "opacity": {"expr": "gold ? 1 : 0"}},
               "encoding": {"x": x, "y": y | {"field": "gold"}}}]
    for (number, name), (kind, width, opacity) in itertools.product(
            enumerate(names), (("raw", 1, 0.55), ("post", 2, 1))):
        mark = line | {"stroke": styles[name]["colour"], "strokeDash": styles[name]["dash"], "strokeWidth": width,
                       "opacity": {"expr": f"{kind} && run{number} ? {opacity} : 0"}}
        layers.append({"mark": mark, "encoding": {"x": x, "y": y | {"field": f"{kind}{number}"}}})
    marker = {"data": {"values": [{}]}}
    band = marker | {"mark": {"type": "rect", "color": "var(--text)", "opacity": {"expr": "left < right ? 0.15 : 0"}},
                     "encoding": {"x": {"datum": {"expr": "left"}, "type": "quantitative"},
                                  "x2": {"datum": {"expr": "right"}}}}
    rule = marker | {"mark": {"type": "rule", "clip": True, "color": "var(--faint)"},
                     "encoding": {"x": {"datum": {"expr": "at"}, "type": "quantitative"}}}
    return chart(height=150, data={"name": "rows", "values": []}, layer=[*layers, band, rule])


def face_panel():
    """The crops of any recording along its time; as many as have room, more of them when zoomed in."""
    stride = "ceil(count * 44 * (to - from) / (length * max(width, 44)))"
    return chart(height=44, data={"name": "rows", "values": []}, transform=[
        {"filter": f"datum.i % {stride} == 0 && datum.t >= from && datum.t <= to"}],
        mark={"type": "image", "width": 40, "height": 40, "tooltip": None},
        encoding={"x": time_axis(labels=False, ticks=False, domain=False, grid=False, title=None),
                  "y": {"datum": 0, "type": "quantitative", "title": None,
                        "axis": {"labels": False, "ticks": False, "domain": False, "grid": False, "minExtent": LEFT,
                                 "maxExtent": LEFT}},
                  "url": {"field": "url"}})


def trace(before, after, targets, runs):
    """Curves of one recording: {"t": [...], target: {"gold": [...], "raw": [[...]], "post": [[...]]}}, at most
    2 * BUCKETS points each.

    before, after: {run name: table} of the recording, before and after post-processing. Values are thousandths; None:
    no valid rating.
    """
    first = next(iter(before.values()))
    time_s, data = first["time_s"].to_numpy(), {}
    for target in targets:
        names = [run.name for run in runs if target in run.targets]
        gold = next(before[name] for name in names)[f"{target}_gold"].to_numpy()
        data[target] = {"gold": thousandths(thinned(gold))} | {
            kind: [thousandths(thinned(tables[name][f"{target}_pred"].to_numpy())) for name in names]
            for kind, tables in (("raw", before), ("post", after))}
    return {"t": thousandths(shown_times(time_s)), "length": max(round(float(time_s[-1]), 3), 0.001), **data}


def thousandths(values):
    """[int or None]: short in JSON, and finer than a screen."""
    return [None if math.isnan(value) else round(1000 * value) for value in values.tolist()]


def faces(folder, frames, frame_rate):
    """[{"i", "t", "url"}]: up to FACES crops of a recording, small; [] if there are none.

    Raises UserError if one cannot be read.
    """
    shown, images = [], frame_images(Path(folder), frames)
    for number in range(min(FACES, frames)):
        k = int((number + 0.5) / min(FACES, frames) * frames)
        path = images[k]
        if not there(path):
            continue
        crop = read_picture(path, cv2.IMREAD_COLOR, f"delete {folder}/ and run face_detector.py again")
        small = cv2.resize(crop, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()
        url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
        shown.append({"i": number, "t": round(k / frame_rate, 3), "url": url})
    return shown
