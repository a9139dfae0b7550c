"""RECOLA and AVEC: from files of their forms to annotation CSVs with known values."""
import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.recola import combined, ewe_weights, find, find_arff, read_dimension, read_pair
from support.errors import UserError
from support.recordings import TARGETS

GOLD = np.round(np.random.default_rng(0).uniform(-1, 1, (50, 2)), 4)  # arousal, valence
TIMES = np.arange(50) / 25


def folder_of(data, **texts):
    """ratings_gold_standard/ of a data folder with these files: arousal__dev_1 is arousal/dev_1."""
    for name, text in texts.items():
        path = data / "ratings_gold_standard" / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return data / "ratings_gold_standard"


def lines(*columns, separator=";", header=None):
    rows = [separator.join(f"{cell:g}" for cell in row) for row in zip(*columns)]
    return "\n".join([*([header] if header else []), *rows]) + "\n"


def arff(values, names=("Instance_name", "frameTime", "GoldStandard"), times=TIMES):
    head = "".join(f"@attribute {name} {kind}\n" for name, kind in zip(names, ("string", "numeric", "numeric")))
    rows = "".join(f"'dev_1',{time:.2f},{value:g}\n" for time, value in zip(times, values))
    return f"@relation GOLDSTANDARD\n\n{head}\n@data\n{rows}"


def annotated(data, call, *words, name="dev_1"):
    """(N, 2) of the annotation CSV that annotations.py makes, and what it printed."""
    code, out, err = call("annotations", "--data-dir", data, "--val-ids", "dev_*", *words)
    assert (code, err) == (0, ""), out + err
    return pd.read_csv(data / "Annotations" / "Val_Set" / f"{name}.csv")[TARGETS].to_numpy(), out


# ---- from files to annotations --------------------------------------------------------------------------------------

FORMS = {
    "two columns": dict(dev_1DOTcsv=lines(*GOLD.T)),
    "two columns by commas": dict(dev_1DOTcsv=lines(*GOLD.T, separator=",")),
    "named": dict(dev_1DOTcsv=lines(*GOLD.T, header="arousal;valence")),
    "named in the other order": dict(dev_1DOTcsv=lines(*GOLD.T[::-1], header="valence;arousal")),
    "with times": dict(dev_1DOTcsv=lines(TIMES, *GOLD.T, header="time;arousal;valence")),
    "by blanks": dict(dev_1DOTtxt="\n".join(f"{a:g}  {v:g}" for a, v in GOLD)),
    "with times by tabs": dict(dev_1DOTtsv=lines(*GOLD.T[::-1], TIMES, separator="\t",
                                                 header="Valence\tArousal\tTime")),
    "with milliseconds": dict(dev_1DOTcsv=lines(TIMES * 1000, *GOLD.T, header="Time (ms);arousal;valence")),
    "with an index": dict(dev_1DOTcsv=lines(range(50), *GOLD.T, separator=",", header=",arousal,valence")),
    "UTF-16": dict(dev_1DOTcsv=lines(*GOLD.T).encode("utf-16")),
    "decimal commas": dict(dev_1DOTcsv=lines(*GOLD.T).replace(".", ",")),
    "arff": dict(arousal__dev_1DOTarff=arff(GOLD[:, 0]), valence__dev_1DOTarff=arff(GOLD[:, 1])),
    "arff, other names": {f"{target}__dev_1DOTarff": arff(gold, ("name", "timeStamp", "GoldStandard"))
                          for target, gold in zip(TARGETS, GOLD.T)},
    "arff, compressed": {f"{target}__dev_1DOTarffDOTgz": gzip.compress(arff(gold).encode())
                         for target, gold in zip(TARGETS, GOLD.T)},
    "csv per dimension": {f"gs__{target.title()}__dev_1DOTcsv": lines(gold)
                          for target, gold in zip(TARGETS, GOLD.T)},
    "by blanks with times per dimension": {f"{target}__dev_1DOTtxt": lines(TIMES, gold, separator=" ")
                                           for target, gold in zip(TARGETS, GOLD.T)},
    "MuSe": {f"{target}__dev_1DOTcsv": lines(
        TIMES * 1000, gold, np.arange(50) // 20, separator=",", header="timestamp_ms,value,segment_id")
        for target, gold in zip(TARGETS, GOLD.T)},
    "arff in several folders": {f"{target}__dev_1DOTarff": arff(gold) for target, gold in zip(TARGETS, GOLD.T)}
    | {f"more__{target}__other_1DOTarff": arff(gold) for target, gold in zip(TARGETS, GOLD.T[::-1])},
    "csv per dimension with times": {f"{target}__dev_1DOTcsv": lines(TIMES, gold, separator=",", header="time, gold")
                                     for target, gold in zip(TARGETS, GOLD.T)},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_the_same_annotations(form, tmp_path, call):
    folder_of(tmp_path, **FORMS[form])
    made, out = annotated(tmp_path, call)
    np.testing.assert_array_equal(made, GOLD)  # a swap, a shift or a lost row would show here
    assert f"in the form {'avec' if 'arff' in form else 'recola'}" in out


@pytest.mark.parametrize("form", ["with times", "arff"])
def test_times_put_rows_in_their_place_where_the_first_is_lost(form, tmp_path, call):
    lost = {name: "\n".join(row for row in text.splitlines() if not row.startswith(("0;", "'dev_1',0.00")))
            for name, text in FORMS[form].items()}
    folder_of(tmp_path, **lost)
    made, _ = annotated(tmp_path, call)
    np.testing.assert_allclose(made[1:], GOLD[1:])
    assert np.isnan(made[0]).all()


def test_ratings_at_twice_the_rate_are_halved_by_their_times_and_refused_without(tmp_path, call):
    video = tmp_path / "Cropped_Aligned" / "dev_1" / "faces.csv"
    video.parent.mkdir(parents=True)
    video.write_text("time_s,found\n" + "0,detected\n" * 25)
    folder_of(tmp_path, dev_1DOTcsv=lines(TIMES / 2, *GOLD.T, header="time;arousal;valence"))
    made, _ = annotated(tmp_path, call)
    np.testing.assert_allclose(made, GOLD[::2])
    folder_of(tmp_path, dev_1DOTcsv=lines(*GOLD.T))
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and "dev_1: FAILED: 50 ratings for 25 frames" in out and "--frame-rate 50" in out


@pytest.mark.parametrize("rows", [7499, 7500, 7501])
def test_recola_s_rows_and_one_more_or_less_are_taken(rows, tmp_path, call):
    faces = tmp_path / "Cropped_Aligned" / "dev_1" / "faces.csv"
    faces.parent.mkdir(parents=True)
    faces.write_text("time_s,found\n" + "0,detected\n" * 7500)
    gold = np.random.default_rng(1).uniform(-1, 1, (rows, 2)).round(3)
    times = np.arange(rows) / 25
    folder_of(tmp_path, **{f"{target}__dev_1DOTarff": arff(one, times=times) for target, one in zip(TARGETS, gold.T)})
    made, out = annotated(tmp_path, call)
    np.testing.assert_array_equal(made, gold[:7500])
    assert ("dropped" in out) == (rows == 7501) and ("no rating" in out) == (rows == 7499)


def test_scale_and_delay_are_settings(tmp_path, call):
    folder_of(tmp_path, dev_1DOTcsv=lines(*(GOLD.T * 4 + 5)))
    made, out = annotated(tmp_path, call, "--label-range", 1, 9, "--label-delay-s", 0.4)
    np.testing.assert_allclose(made[:40], GOLD[10:], atol=1e-4)
    assert np.isnan(made[40:]).all() and "10 frames later (0.4 s): the last 10 are masked" in out
    for words in (["9", "1"], ["1"], ["1", "1"], ["1", "nan"], ["1", "x"], ["1", "2", "3"]):
        code, _, err = call("annotations", "--data-dir", tmp_path, "--label-range", *words)
        assert code == 2 and "label" in err and err.count("\n") == 1


# ---- what could be something else -----------------------------------------------------------------------------------

@pytest.mark.parametrize("text,says", [
    (lines(TIMES * 10, GOLD[:, 0]), "first of two columns rises evenly"),
    (lines(GOLD[:, 0], range(50)), "second of two columns rises"),
    (lines(TIMES * 10, GOLD[:, 0], header="time;arousal"), "none is called valence"),
    (lines(TIMES * 10, *GOLD.T), "is not arousal;valence"),
    (lines(GOLD[:, 0]), "arousal/ and valence/"), ("0,1\n0,2\n", "decimal comma"),
    ("arousal;valence;arousal\n1;2;3\n", "two columns"),
    ("valence\n0.1\n", "none is called arousal"), ("time;time_s;arousal;valence\n0;0;0;0\n", "both columns of time"),
    ("time;arousal;valence\n0;0;0\n;0;0\n", "line 3: no time"),
    ("timestamp;arousal;valence\n1700000000;0;0\n", "line 2: 1.7e+09 s is no time"),
    ("time;arousal;valence\n0;0;0\n00:01;0;0\n", "line 3: '00:01'"),
    ("frame;arousal;valence\n1;0;0\n2;0;0\n4;0;0\n", "line 4: frame 4 follows 2"), ("0.1;0.2\n0.1;x\n", "line 2: 'x'"),
])
def test_what_could_be_something_else_is_refused_and_never_guessed(text, says, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError) as error:
        read_pair(tmp_path / "a.csv")
    assert says in str(error.value) and f"{tmp_path / 'a.csv'} line " in str(error.value)


@pytest.mark.parametrize("text,says", [
    (lines(GOLD[:, 0], GOLD[:, 1]), "one column of ratings"),
    (lines(GOLD[:, 0], header="valence"), "ratings of arousal"),
    ("img,label_V,frame_id\na/00001.jpg,0.1,1\n", "ratings of arousal"),
    (lines(TIMES, GOLD[:, 0], GOLD[:, 1], header="x;FM1;FM2"), "column 'x' rises evenly, as a time or a counter does"),
    (lines(TIMES * 1000, GOLD[:, 0], header="timestamp;gold"), "line 3: timestamp grows by 40 from row to row: name"),
    ("time,gold\n00:00:01.2,0.1\n", "'00:00:01.2' is not a number: seconds from the beginning"),
    (lines(TIMES, header="time"), "ratings of arousal"), (lines(TIMES, *GOLD.T), "one column of ratings"),
])
def test_a_file_of_one_dimension_holds_that_one(text, says, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        read_dimension(tmp_path / "a.csv", "arousal")


def test_several_recordings_in_one_csv_are_refused_and_a_name_for_every_row_is_not(tmp_path):
    for names, several in (["a"] * 30 + ["b"] * 20, True), ([f"{k:05d}.jpg" for k in range(50)], False):
        (tmp_path / "a.csv").write_text("file,arousal,valence\n" + "".join(
            f"{name},{a:g},{v:g}\n" for name, (a, v) in zip(names, GOLD)))
        if several:
            with pytest.raises(UserError, match="line 32: 'b' after 'a' .file.: .*calls that column recording"):
                read_pair(tmp_path / "a.csv")
        else:
            np.testing.assert_array_equal(read_pair(tmp_path / "a.csv").values, GOLD)


def test_two_recordings_in_one_arff_are_refused(tmp_path):
    (tmp_path / "a.arff").write_text(arff(GOLD[:, 0]) + "'dev_2',2.00,0.1\n")
    with pytest.raises(UserError, match="line 58: 'dev_2' after 'dev_1'"):
        read_dimension(tmp_path / "a.arff", "arousal")


@pytest.mark.parametrize("valence,says", [
    (arff(GOLD[:40, 1]), "50 rows"), (arff(GOLD[:, 1], times=TIMES + 1), "at other times"),
    (None, "no counterpart in valence/"),
])
def test_both_dimensions_must_be_of_the_same_moments(valence, says, tmp_path):
    folder = folder_of(tmp_path, arousal__aDOTarff=arff(GOLD[:, 0]))
    if valence:
        folder_of(tmp_path, valence__aDOTarff=valence)
    with pytest.raises(UserError, match=says):
        find_arff(folder)["a"].read("mean")


def test_a_recording_has_one_file_of_ratings(tmp_path):
    folder = folder_of(tmp_path, aDOTcsv="", arousal__aDOTcsv="", valence__aDOTcsv="")
    with pytest.raises(UserError, match="are both ratings of a:"):
        find(folder)
    folder = folder_of(tmp_path, individual__arousal__aDOTcsv="")
    with pytest.raises(UserError, match="individual/arousal/a.csv are both ratings of arousal"):
        find(folder)


@given(st.binary(max_size=60) | st.text("0123456789.;,\n- \"tiaroulvnce", max_size=80).map(str.encode))
def test_whatever_bytes_come_there_are_ratings_or_one_error(tmp_path_factory, held):
    path = tmp_path_factory.getbasetemp() / "a.csv"
    path.write_bytes(held)
    for read, shape in ((read_pair, (2,)), (lambda path: read_dimension(path, "arousal"), ())):
        try:
            made = read(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert made.values.shape[1:] == shape and made.values.dtype == float and len(made.values)
            assert made.times_s is None or made.times_s.shape == made.values.shape[:1]


# ---- individual raters ----------------------------------------------------------------------------------------------

RATERS = np.column_stack([GOLD[:, 0], GOLD[:, 0] * 0.5, np.random.default_rng(2).uniform(-1, 1, 50)])


def test_raters_become_their_mean_or_the_weighted_estimator_which_is_said(tmp_path, call):
    text = lines(TIMES, *RATERS.T, header="time;FM1 ;FF1 ;FF2 ")
    folder_of(tmp_path, arousal__dev_1DOTcsv=text, valence__dev_1DOTcsv=text)
    made, out = annotated(tmp_path, call)
    np.testing.assert_allclose(made[:, 0], RATERS.mean(axis=1), atol=1e-5)
    assert "arousal: mean of 3 raters; valence: mean of 3 raters" in out
    weights = [np.corrcoef(RATERS[:, k], RATERS.mean(axis=1))[0, 1] for k in range(3)]
    made, out = annotated(tmp_path, call, "--raters", "ewe")
    np.testing.assert_allclose(made[:, 1], [np.average(row, weights=weights) for row in RATERS], atol=1e-5)
    shares = " ".join(f"{weight:.2f}" for weight in weights)
    assert f"evaluator weighted estimator of 3 raters (weights {shares})" in out


def test_raters_called_a_and_v_are_raters(tmp_path):
    (tmp_path / "a.csv").write_text(lines(*RATERS.T, header="A;V;B"))
    made = read_dimension(tmp_path / "a.csv", "arousal")
    np.testing.assert_allclose(made.values, RATERS.mean(axis=1), atol=1e-5)


def test_raters_who_disagree_with_the_others_do_not_count():
    ratings = np.column_stack([GOLD[:, 0], GOLD[:, 0], GOLD[:, 0], -GOLD[:, 0], np.ones(50)])
    np.testing.assert_allclose(ewe_weights(ratings), [1, 1, 1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(combined(ratings, "ewe")[0], GOLD[:, 0])
    with pytest.raises(UserError, match="no rater agrees"):
        combined(np.ones((50, 3)), "ewe")


def test_a_rater_who_is_missing_leaves_the_mean_of_the_others():
    ratings = np.array([[0.1, np.nan], [np.nan, np.nan], [0.2, 0.4]])
    np.testing.assert_allclose(combined(ratings, "mean")[0], [0.1, np.nan, 0.3])
