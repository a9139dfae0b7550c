"""corpora/features.py: every form of file becomes the frames that it is of, and what is wrong with one is named."""
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora import features
from corpora.features import count_frames, load, on_frames, statistics
from support.errors import UserError

DRAW = np.random.default_rng(0)
TRUE = DRAW.normal(0, 1, (50, 3)).round(4).astype(np.float32)  # of 50 frames at 25 per second
TIMES = np.arange(50) / 25


def write(folder, name, lines):
    path = folder / "features" / "visual" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def of_frames(path, frames=50, rate=25.0):
    """((N, D), notes) of a file at the frames."""
    return on_frames(load(path, path.parent / "cache"), frames, rate)


def openface(values=TRUE, rate=25.0, face=0, skipped=()):
    """OpenFace's rows: a frame from 1 on, spaces after commas."""
    for k, row in enumerate(values):
        yield f"{k + 1}, {face}, {k / rate:.3f}, 0.98, {int(k not in skipped)}, " + ", ".join(f"{x:.4f}" for x in row)


OPENFACE = "frame, face_id, timestamp, confidence, success, gaze_0_x, AU01_r, AU45_c"


def egemaps(values=TRUE, times=TIMES, name="'dev_1'"):
    yield "name;frameTime;Loudness_sma3;F0semitoneFrom27.5Hz_sma3nz;mfcc1_sma3"
    for time_s, row in zip(times, values):
        yield f"{name};{time_s:.2f};" + ";".join(f"{x:e}" for x in row)


def arff(values=TRUE):
    yield from ["@relation openSMILE", "", "@attribute name string", "@attribute frameTime numeric"]
    yield from [*(f"@attribute f{k} numeric" for k in range(values.shape[1])), "@attribute class numeric", "", "@data"]
    for k, row in enumerate(values):
        yield f"'dev_1',{k / 25:.2f}," + ",".join(f"{x:.4f}" for x in row) + ",?"


def package(values=TRUE):
    """What smile.process_file(...).to_csv() writes: windows of a second."""
    yield "file,start,end,a,b,c"
    for k, row in enumerate(values):
        windows = [f"0 days 00:00:{time_s:09.6f}" for time_s in (k / 25, k / 25 + 1)]
        yield ",".join(["dev_1.wav", *windows, *map(str, row)])


# ---- forms ----------------------------------------------------------------------------------------------------------

FORMS = {
    "openface": ("x.csv", lambda: [OPENFACE, *openface()]), "egemaps": ("x.csv", egemaps), "arff": ("x.arff", arff),
    "opensmile's package": ("x.csv", package),
    "tabs and BOM": ("x.csv", lambda: ["\ufeff" + "\n".join(egemaps()).replace(";", "\t")]),
    "decimal commas": ("x.csv", lambda: [line.replace(".", ",") for line in egemaps()]),
}


@pytest.mark.parametrize("form", [*FORMS, "npy"])
def test_every_form_gives_the_same_values_for_the_same_frames(form, tmp_path):
    if form == "npy":
        np.save(path := tmp_path / "x.npy", TRUE.astype(np.float64))
    else:
        path = write(tmp_path, FORMS[form][0], FORMS[form][1]())
    values, notes = of_frames(path)
    assert values.dtype == np.float32 and notes == ()
    np.testing.assert_allclose(values, TRUE, atol=1e-6)


def test_columns_that_are_no_features_are_not_fed_and_the_others_keep_their_names(tmp_path):
    assert load(write(tmp_path, "x.csv", [OPENFACE, *openface()]), tmp_path).columns == ("gaze_0_x", "au01_r", "au45_c")
    assert load(write(tmp_path, "x.arff", arff()), tmp_path).columns == ("f0", "f1", "f2")
    rated = write(tmp_path, "y.csv", ["time_s,arousal,f", "0,0.5,1", "0.04,0.6,2"])
    assert load(rated, tmp_path).columns == ("f",)  # ratings are what is to be predicted
    with pytest.raises(UserError, match="y.csv line 1: .*none of them is a feature"):
        load(write(tmp_path, "y.csv", ["name,time_s", "a,0", "a,0.04"]), tmp_path)


def test_wekas_unknown_class_is_dropped_whatever_it_is_called(tmp_path):
    lines = [line.replace("class numeric", "emotion {happy, sad}") for line in arff()]
    assert load(write(tmp_path, "x.arff", lines), tmp_path).columns == ("f0", "f1", "f2")


def test_of_several_faces_the_first_alone_is_used_and_said(tmp_path):
    both = [row for pair in zip(openface(), openface(-TRUE, face=1)) for row in pair]
    values, notes = of_frames(write(tmp_path, "x.csv", [OPENFACE, *both]))
    np.testing.assert_allclose(values, TRUE, atol=1e-6)
    assert "2 faces" in notes[0] and "50 rows of others" in notes[0]


# ---- time -----------------------------------------------------------------------------------------------------------

def test_rows_at_another_rate_are_interpolated_linearly_as_numpy_does(tmp_path):
    at = np.arange(60) / 30
    values, notes = of_frames(write(tmp_path, "x.csv", [OPENFACE, *openface(DRAW.normal(0, 1, (60, 3)), 30)]))
    one = load(tmp_path / "features" / "visual" / "x.csv", tmp_path)
    expected = np.column_stack([np.interp(TIMES, at.round(3), column) for column in one.values.T])
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert "interpolated linearly" in notes[0]


@pytest.mark.parametrize("rate, count", [(25, 50), (30, 60), (100, 200), (12.5, 25)])
def test_frames_are_counted_to_the_end_of_the_last_row(rate, count):
    times = np.arange(count) / rate
    for begin in (0, 0.5 / rate):  # a time may be that of the beginning of a window, or of its middle
        one = features.Features("x", np.zeros((count, 1), np.float32), ("f",), times + begin)
        assert count_frames(one, 25.0) == 50


def test_a_label_among_the_features_is_in_step_with_itself(tmp_path):
    """The rating as a feature: shifted by one frame, or with its first row lost, it would not equal the rating."""
    label = np.sin(np.arange(50) / 5)[:, None]
    for rows, times in ((label, TIMES), (np.interp(np.arange(200) / 100, TIMES, label[:, 0])[:, None],
                                         np.arange(200) / 100)):
        lines = [line.replace(";Loudness_sma3;F0semitoneFrom27.5Hz_sma3nz;mfcc1_sma3", ";f")
                 for line in egemaps(rows, times)]
        values, _ = of_frames(write(tmp_path, "x.csv", lines))
        assert np.abs(values - label).max() < 1e-3 < np.abs(values[1:] - label[:-1]).max()
    lost = [lines[0], *lines[5:]]  # the first frame has no row: it is masked, and the others stay where they are
    os.utime(path := write(tmp_path, "x.csv", lost), ns=(1, 1))
    values, notes = of_frames(path)
    assert np.isnan(values[0]).all() and np.abs(values[1:] - label[1:]).max() < 1e-3 and "1 of 50 frames" in notes[-1]


@pytest.mark.parametrize("lines, words", [
    ([OPENFACE, *list(openface())[1:]], None),  # OpenFace's first row lost: times and counter place the others
    (["frame,f", "1,0.5", "3,0.5"], "line 3: frame 3 follows 1"),
    (["f;g", "1;1", "2"], "line 3: '2' has 1 columns"),
    (["f,g", *["0.5,1"] * 25], r"25 rows for 50 frames.*12.5 per second in place of 25.*time_s"),
    (["f,g", *["0.5,1"] * 100], r"100 rows for 50 frames.*50 per second"),
    (["time_s,f", *(f"{k / 50:.2f},1" for k in range(50))], "the features reach from 0 to 0.98 s, the frames to 2 s"),
    (["time_s,f", *(f"{k * 40},1" for k in range(50))], "Milliseconds"),
    (["timestamp,f", *(f"{k * 40},1" for k in range(50))], "line 3: timestamp grows by 40 .* timestamp_ms if"),
    (["f,g", "1,2"], "x.csv holds one row: .* not of the whole recording"),
    (["0.5,0.04,0.1", "0.5,0.08,0.2"], "1 %"),
    ([f"{k / 2},0.1,0.2" for k in range(50)], "column 1 rises evenly"),
    (["arousal,time", "1,1", "1,2"], "none of them is a feature"),
    ([], "empty"), (["f"], "no rows")])
def test_what_does_not_fit_the_frames_is_refused_with_the_direction_to_look_into(lines, words, tmp_path):
    path = write(tmp_path, "x.csv", lines)
    if words is None:
        values, notes = of_frames(path)
        np.testing.assert_allclose(values[1:], TRUE[1:], atol=1e-6)
        assert np.isnan(values[0]).all() and "1 of 50" in notes[-1]
        return
    with pytest.raises(UserError, match=words) as caught:
        of_frames(path)
    assert "x.csv" in str(caught.value)


@pytest.mark.parametrize("rows", [49, 51, 500, 495, 505])
def test_one_percent_of_the_rows_may_be_missing_or_too_many_at_the_end(rows, tmp_path):
    frames = 50 if rows < 100 else 500
    np.save(tmp_path / "x.npy", made := DRAW.normal(0, 1, (rows, 2)).astype(np.float32))
    values, notes = of_frames(tmp_path / "x.npy", frames)
    common = min(rows, frames)
    np.testing.assert_array_equal(values[:common], made[:common])
    assert len(values) == frames and np.isnan(values[common:]).all() and bool(notes) == (rows != frames)


# ---- what is missing ------------------------------------------------------------------------------------------------

def test_texts_infinite_and_empty_cells_and_lost_faces_are_missing_and_counted(tmp_path):
    rows = list(openface(skipped=(7, 8)))
    rows[20] = rows[20].rsplit(",", 1)[0] + ", --undefined--"
    rows[21] = rows[21].rsplit(",", 1)[0] + ", inf"
    rows[22] = rows[22].rsplit(",", 1)[0] + ","
    rows[23] = rows[23].rsplit(",", 1)[0] + ", 1e300"
    values, notes = of_frames(write(tmp_path, "x.csv", [OPENFACE, *rows]))
    none = np.isnan(values)
    assert none[[7, 8]].all() and none[20:24, 2].all() and none.sum() == 10
    np.testing.assert_allclose(values[~none], TRUE[~none], atol=1e-6)
    assert "au45_c has texts" in notes[0] and "line 22: '--undefined--'" in notes[0]
    assert "2 of 50 frames have no features, 4 lack some" in notes[1]


def test_between_rows_of_which_one_is_missing_there_is_nothing(tmp_path):
    made = np.ones((100, 3), np.float32)
    values, _ = of_frames(write(tmp_path, "x.csv", [OPENFACE, *openface(made, 50, skipped=(4, 5, 6))]))
    assert np.isnan(values[2:4]).all() and np.isfinite(np.delete(values, (2, 3), 0)).all()


# ---- files ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("content", ["text", "object", "one axis", "empty", "complex", "cut short", "huge", "folder"])
def test_an_npy_file_that_is_no_array_of_numbers_is_named_and_no_pickle_is_read(content, tmp_path):
    path = tmp_path / "x.npy"
    arrays = {"object": np.array([[{}]], object), "one axis": np.zeros(5), "empty": np.zeros((0, 3)),
              "complex": np.zeros((5, 2), complex), "cut short": np.zeros((500, 20))}
    if content in arrays:
        np.save(path, arrays[content], allow_pickle=True)
    if content == "cut short":
        path.write_bytes(path.read_bytes()[:1000])
    elif content == "text":
        path.write_text("f,g\n1,2\n")
    elif content == "huge":
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 9)})
    elif content == "folder":
        path.mkdir()
    with pytest.raises(UserError, match="x.npy.*numpy.save"):
        load(path, tmp_path)


def test_a_recording_with_two_files_of_features_is_refused(tmp_path):
    write(tmp_path, "x.csv", egemaps())
    np.save(tmp_path / "features" / "visual" / "x.npy", TRUE)
    with pytest.raises(UserError, match="x.csv and .*x.npy have the same id"):
        features.find(tmp_path / "features" / "visual")


def test_text_is_read_once_and_again_when_it_changes_or_the_cache_is_damaged(tmp_path, monkeypatch):
    read, path = [], write(tmp_path, "x.csv", egemaps())
    monkeypatch.setitem(features.READERS, "csv", lambda path: read.append(path) or features.read_table(path))
    first = load(path, tmp_path / "cache")
    again = load(path, tmp_path / "cache")
    assert len(read) == 1 and again.columns == first.columns and again.notes == first.notes
    np.testing.assert_array_equal(again.values, first.values)
    np.testing.assert_array_equal(again.times_s, first.times_s)
    (cache,) = (tmp_path / "cache").iterdir()
    damaged = bytearray(cache.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    cache.write_bytes(damaged)
    np.testing.assert_array_equal(load(path, tmp_path / "cache").values, first.values)
    assert len(read) == 2
    write(tmp_path, "x.csv", [line.replace("'dev_1'", "'a'") for line in egemaps(2 * TRUE)])
    np.testing.assert_allclose(load(path, tmp_path / "cache").values, 2 * TRUE, rtol=1e-5)
    assert len(read) == 3 and len(list((tmp_path / "cache").iterdir())) == 1


CELLS = st.one_of(st.floats(width=32).map(str), st.integers(-2**53, 2**53).map(str), st.sampled_from(
    ["", " ", "nan", "NAN", "0,5", "-1,25", "1_0", "True", '"2"', "'a'", "1 2", "inf", "-nan", "x", "0x1", "1e5",
     " 3 "]))


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=6), st.sampled_from(";,\t"))
@settings(max_examples=150, deadline=None)
def test_the_short_way_to_read_a_table_gives_what_the_careful_one_gives(tmp_path_factory, rows, separator):
    path, found = tmp_path_factory.getbasetemp() / "x.csv", []
    path.write_text("\n".join(separator.join(row) for row in [["f", "g", "face"], *rows]))
    for way in (features._regular_cells, lambda path: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(features, "_regular_cells", way)
            try:
                found.append(features.read_table(path))
            except UserError as error:
                found.append(str(error))
    if isinstance(found[0], str) or isinstance(found[1], str):
        assert found[0] == found[1]
    else:
        np.testing.assert_allclose(found[0].values, found[1].values, rtol=1e-6)
        assert found[0].columns == found[1].columns and found[0].notes == found[1].notes


@given(st.binary(max_size=300), st.sampled_from(["x.csv", "x.arff", "x.npy", "x.csv.gz"]))
@settings(max_examples=150, deadline=None)
def test_whatever_bytes_come_they_are_features_or_one_line_that_names_the_file(tmp_path_factory, content, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        one = load(path, path.parent / "no cache")
        values, _ = on_frames(one, len(one.values), 25.0)
        assert values.dtype == np.float32 and not np.isinf(values).any() and values.shape[1] == len(one.columns) > 0
    except UserError as error:
        assert name in str(error) and "\n" not in str(error)


# ---- several recordings ---------------------------------------------------------------------------------------------

def test_statistics_are_numpys_and_a_constant_column_has_no_deviation():
    arrays = [DRAW.normal(5, 3, (40, 4)).astype(np.float32) for _ in range(3)]
    for one in arrays:
        one[:, 2], one[3:7, 0], one[:, 3] = 0.1, np.nan, np.nan
    mean, std = statistics(arrays)
    whole = np.concatenate(arrays).astype(float)
    np.testing.assert_allclose(mean[:3], np.nanmean(whole[:, :3], 0), rtol=1e-6)
    np.testing.assert_allclose(std[:2], np.nanstd(whole[:, :2], 0), rtol=1e-5)
    assert std[2:].tolist() == [0, 0] and mean[3] == 0 and mean.dtype == std.dtype == np.float32


@pytest.mark.parametrize("other, words", [(("a", "c"), "two.csv has no column 'b', which one.csv has"),
                                          (("a", "b", "c"), "one.csv has no column 'c', which two.csv has"),
                                          (("b", "a"), "another order")])
def test_other_columns_than_those_of_the_first_recording_are_named(other, words):
    features.check_columns([("one.csv", ("a", "b")), ("two.csv", ("a", "b"))])
    with pytest.raises(UserError, match=words):
        features.check_columns([("one.csv", ("a", "b")), ("two.csv", other)])


def test_a_column_that_counts_the_rows_is_no_feature_whatever_it_is_called(tmp_path):
    for header in (",a,b,c", "Unnamed: 0,a,b,c", "n,a,b,c", "frameIndex,a,b,c", "segment_id,a,b,c"):
        path = write(tmp_path, "x.csv", [header, *(f"{k}," + ",".join(map(str, row)) for k, row in enumerate(TRUE))])
        assert features.read_table(path).columns == ("a", "b", "c")


def test_what_other_programs_print_for_no_number_is_missing(tmp_path):
    texts = ["-nan(ind)", "nan(snan)", "-1.#IND00", "1.#QNAN"] * 12 + ["0.5", "-NaN"]
    values = features.read_table(write(tmp_path, "x.csv", ["a,b", *(f"{text},1.5" for text in texts)])).values
    assert np.isfinite(values[:, 0]).tolist() == [False] * 48 + [True, False]
