"""Whatever bytes a file of text holds: what its reader gives keeps its promises, or one error names file and line.

    pytest tests/test_readers_properties.py --hypothesis-profile=long     1,000 files for each reader instead of 100
"""
import dataclasses
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import face_detector
import onnx_network
import predict
import pseudo_labels
import runs
import scores
from config import Config
from corpora import affwild2, recola, tables
from data import Recording, read_recording
from model_card import card_text, check_card
from support.errors import UserError
from support.reading import is_number
from support.recordings import TARGETS, is_inside, made_with, subjects_of
from support.settings import fits, read_settings

# ---- what becomes of a file -----------------------------------------------------------------------------------------

NASTY = [b"", b"nan", b"inf", b"-5", b"1e999", b"9" * 400, b"[" * 50_000, b'{"a":' * 50_000, b"\0", b'"', b"'",
         b",", b";", b"\r", b"\n", b"\t", b"\xe2\x80\xa8", b"\xe9", b"\xff\xfe", b"\xef\xbb\xbf", b"../../etc/passwd",
         b"null", b"[]", b"{}", b"true", b"1_0", b"0x1", b"=", b"%", b"\xed\xb2\x80", b"\\ud800", b"1e-400", b"NaN",
         b"-Infinity"]


@st.composite
def damaged(draw, whole):
    """A file's bytes after a few accidents; now and then other bytes altogether."""
    held = draw(st.binary(max_size=100)) if draw(st.integers(0, 9)) == 0 else whole
    for _ in range(draw(st.integers(1, 3))):
        kind, at, end = draw(st.integers(0, 6)), *sorted(draw(st.integers(0, len(held))) for _ in range(2))
        lines = held.splitlines(keepends=True)
        if kind == 0:
            held = held[:at] + draw(st.binary(min_size=1, max_size=2)) + held[at + 1:]
        elif kind == 1:
            held = held[:at] + held[end:]
        elif kind == 2:
            held = held[:at] + draw(st.sampled_from(NASTY)) + held[at:]
        elif kind == 3 and lines:
            one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
            lines[one], lines[other] = lines[other], lines[one]
            held = b"".join(lines)
        elif kind == 4:
            cells = re.split(rb"([,;:\n])", held)
            cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(NASTY))
            held = b"".join(cells)
        elif kind == 5:
            coding = draw(st.sampled_from(["utf-16", "latin-1", "utf-32"]))
            held = held.decode("utf-8", "replace").encode(coding, "replace")
        elif lines:
            held += draw(st.sampled_from(lines))
    return held


# ---- the readers, and what they promise -----------------------------------------------------------------------------

class Reader(NamedTuple):
    """A reader of a kind of file."""
    file: str  # where it lies in a folder
    whole: bytes  # an example
    read: Any  # folder, path -> what is read
    keeps: Any  # what is read, the file's bytes -> whether it is as promised
    lines: bool = True  # whether its errors name a line


def rows(*columns, count=6, header=""):
    return (header + "".join(",".join(str(column(k)) for column in columns) + "\n" for k in range(count))).encode()


def time_s(k):
    return round(k / 25, 4)


def rating(k):
    return round(math.sin(k), 3)


def are_ratings(ratings, held):
    times = ratings.times_s
    return (ratings.values.ndim in (1, 2) and ratings.values.dtype == float and len(ratings.values) > 0
            and (times is None or len(times) == len(ratings.values) and np.isfinite(times).all()
                 and bool((np.diff(times) > 0).all())))


def annotated(folder, path):
    images = folder / "images" / "a"
    images.mkdir(parents=True, exist_ok=True)
    for k in range(6):
        (images / f"{k:06d}.jpg").touch()
        (images / f"{k:06d}.png").touch()
    folders = {"frames": folder / "images", "specs": folder / "images"}
    return read_recording(path, TARGETS, folders), folder / "images"


def is_recording(found, held):
    recording, folder = found
    gold = recording.gold
    return (gold.shape[1:] == (2,) and gold.dtype == np.float32 and bool((np.isnan(gold) | (np.abs(gold) <= 1)).all())
            and all(len(paths) == len(gold) and all(path.resolve().is_relative_to(folder) for path in paths)
                    for paths in recording.paths.values()))


def labels_of(folder, path):
    return pseudo_labels.read_labels(folder, [Recording("a", np.zeros((6, 2), np.float32), {})], TARGETS)["a"]


def origin_of(folder, path):
    cfg = dataclasses.replace(Config(), data_dir=str(folder), stage="visual", target="both")
    return runs.check_origin(cfg)


def is_report(found, held):
    shares = [share for about in found.values() for share in about["weights"].values()]
    return type(pseudo_labels.describe(found)) is str and all(map(is_number, shares))


def card_of(folder, path):
    about = SimpleNamespace(custom_metadata_map={"mmpkd": path.read_bytes().decode("utf-8", "replace")})
    return onnx_network._card(SimpleNamespace(get_modelmeta=lambda: about), path)


CARD = {"stage": "student", "target": "both", "targets": TARGETS, "network": {"gru_size": 16, "dropout": 0.2},
        "inputs": {"frames": [3, 32, 32]}, "frame_rate": 25.0, "distill": "cosine", "taught_by": ["teacher_both"],
        "faces": {"face_size": 32, "min_face_size": 60, "face_score": 0.9, "look_every": 6, "jpeg_quality": 95,
                  "retained": False}, "ccc": {target: {"mean": 0.5, "concatenated": None, "subjects": 2}
                                              for target in TARGETS},
        "ccc_on": {"set": "Val_Set", "subjects": ["a", "b"]}, "date": "2026-11-26", "versions": {"torch": "2"}}
EPOCH = {"epoch": 1, "seconds": 2.5, "loss": 0.5, "best": True,
         "val": {"arousal": {"mean": 0.5, "concatenated": math.nan}}}
REPORT = {"weights": {"audio": 0.5, "visual": 0.5},
          "audio": {"passed": True, "excess": 0.1, "error": math.inf, "recordings": 3}}
SETTINGS = {"face_size": 112, "frame_rate": 25.0, "spec_files": "pictures", "label_range": [1.0, 9.0]}
READERS = {
    "RECOLA's csv": Reader("a.csv", rows(time_s, rating, rating, header="time,arousal,valence\n"),
                           lambda folder, path: recola.read_pair(path), are_ratings),
    "a csv without header": Reader("a.csv", rows(rating, rating).replace(b",", b";"),
                                   lambda folder, path: recola.read_pair(path), are_ratings),
    "raters' csv": Reader("a.csv", rows(time_s, rating, rating, rating, header="time,FM1,FM2,FM3\n"),
                          lambda folder, path: recola.read_dimension(path, "arousal", "ewe"), are_ratings),
    "AVEC's arff": Reader("a.arff", b"@relation a\n@attribute name string\n@attribute frameTime numeric\n@attribute "
                          b"GoldStandard numeric\n@data\n" + rows(lambda k: "'a'", time_s, rating),
                          lambda folder, path: recola.read_dimension(path, "arousal"), are_ratings),
    "Aff-Wild2's txt": Reader("a.txt", rows(rating, rating, header="valence,arousal\n"),
                              lambda folder, path: affwild2.read(path), are_ratings),
    "a table of ratings": Reader(
        "a.csv", rows(lambda k: "ab"[k % 2], time_s, rating, rating, header="recording,time_s,arousal,valence\n"),
        lambda folder, path: [source.read("mean") for source in tables.sources_of(path).values()],
        lambda found, held: found and all(are_ratings(one, held) for one in found)),
    "subjects.csv": Reader("subjects.csv",
                           rows(lambda k: f"a{k}", lambda k: f"s{k // 2}", header="recording,subject\n"),
                           lambda folder, path: subjects_of(folder, ["a0", "b"]),
                           lambda found, held: [*found] == ["a0", "b"] and all(found.values())),
    "an annotation file": Reader(
        "a.csv", rows(lambda k: f"a/{k:06d}.jpg", lambda k: f"a/{k:06d}.png", rating, rating,
                      header="image path,spec path,arousal,valence\n"), annotated, is_recording),
    "faces.csv": Reader("a/faces.csv", rows(time_s, lambda k: ["detected", "missing"][k % 2], *[rating] * 5,
                                            header="time_s,found,x1,y1,x2,y2,score\n"),
                        lambda folder, path: face_detector._read_table(path.parent),
                        lambda table, held: len(table) == held.rstrip(b"\n").count(b"\n") or b"\r" in held),
    "settings.json": Reader("settings.json", json.dumps(SETTINGS, indent=1).encode(),
                            lambda folder, path: made_with(folder),
                            lambda found, held: all(fits(name, value) for name, value in found.items()), False),
    "config.json": Reader("config.json", json.dumps(dataclasses.asdict(Config()), indent=1).encode(),
                          lambda folder, path: Config(**read_settings(path)),
                          lambda cfg, held: all(fits(name, value) for name, value in vars(cfg).items()), False),
    "subjects.json": Reader("runs/visual_both/subjects.json", b'{"Train_Set": [], "Val_Set": []}', origin_of,
                            lambda found, held: found is None, False),
    "log.jsonl": Reader("log.jsonl", b"".join(json.dumps(EPOCH | {"epoch": k + 1}).encode() + b"\n" for k in range(4)),
                        lambda folder, path: runs.read_log(folder),
                        lambda found, held: [one["epoch"] for one in found] == [found[0]["epoch"] + k for k in
                                                                                range(len(found))]),
    "predictions": Reader("a.csv", rows(time_s, rating, rating, header="time_s,arousal_gold,arousal_pred\n"),
                          lambda folder, path: scores.read_table(path, 25.0, "run it again"),
                          lambda table, held: np.isfinite(table["arousal_pred"]).all() and np.allclose(
                              table["time_s"], np.arange(len(table)) / 25, atol=1e-3)),
    "labels": Reader("labels/a.csv", rows(time_s, rating, rating, header="time_s,arousal,valence\n"), labels_of,
                     lambda labels, held: labels.shape == (6, 2) and np.isfinite(labels).all()),
    "teachers.json": Reader("labels/teachers.json", json.dumps({"arousal": REPORT}).encode(),
                            lambda folder, path: pseudo_labels.read_report(folder), is_report, False),
    "a table of predict.py": Reader(
        "a.csv", rows(time_s, rating, lambda k: "detected", *[rating] * 5,
                      header="time_s,arousal,face,score,x1,y1,x2,y2\n"),
        lambda folder, path: predict.read_table(path),
        lambda table, held: len(table) > 0 and all(table[name].dtype == float for name in table if name != "face")),
    "a note of predict.py": Reader("a.json", b'{"video": "/a.mp4", "bytes": 3, "sha1": "ab", "remarks": ["x"]}',
                                   lambda folder, path: predict.read_note(path.with_suffix(".csv")),
                                   lambda found, held: type(found["video"]) is str, False),
    "the card of an .onnx": Reader("a.json", json.dumps(CARD).encode(), card_of,
                                   lambda card, held: check_card(card, "x") == card and bool(card_text(card)), False),
}
WHOLE_FILE = re.compile("no rows|is empty|no @data|too large|is missing|has \\d+ rows for|scale|no rater agrees|\\.gz")


@pytest.mark.parametrize("kind", READERS)
def test_a_whole_file_is_read(kind, tmp_path):
    check(READERS[kind], READERS[kind].whole, tmp_path, refused=False)


@pytest.mark.parametrize("kind", READERS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_bytes_come_a_reader_keeps_its_promises_or_names_file_and_line(kind, tmp_path, data):
    check(READERS[kind], data.draw(damaged(READERS[kind].whole)), tmp_path)


def check(reader, held, folder, refused=True):
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(held)
    try:
        found = reader.read(folder, path)
    except UserError as error:
        message = str(error)
        assert refused and str(folder) in message and "\n" not in message and len(message) < 900, message
        assert not reader.lines or re.search(r" line \d+|images/", message) or WHOLE_FILE.search(message), message
    else:
        assert reader.keeps(found, held), found


# ---- paths ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", ["../b/000000.jpg", "/etc/passwd", "a/../../b.jpg", "..", "..\\b.jpg", "C:/b.jpg", "",
                                  "9" * 400, "a/" * 5000 + "b.jpg",
                                  "\\b.jpg", "a/b\0.jpg", "a/\n.jpg", "//host/b.jpg"])
@pytest.mark.parametrize("column", ["image path", "spec path"])
def test_a_path_that_leaves_the_data_folder_is_refused_with_its_line(path, column, tmp_path):
    cells = {"image path": "a/000000.jpg", "spec path": "a/000000.png"} | {column: path}
    quoted = ",".join(f'"{cell}"' for cell in cells.values())
    text = "image path,spec path,arousal,valence\na/000000.jpg,a/000000.png,0,0\n" + quoted + ",0,0\n"
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match="a.csv line [34]"):
        annotated(tmp_path, tmp_path / "a.csv")


@given(st.text(max_size=20))
def test_a_path_that_is_inside_stays_inside(path):
    folder = Path("/data/images")
    assert not is_inside(path) or Path(re.sub("/+", "/", str(folder / path))).is_relative_to(folder)
    assert is_inside("a/" + "000000.jpg") and is_inside("Ünï cöde/00001.jpg") and is_inside("..a/b..jpg")
