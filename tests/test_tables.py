"""Tables of all recordings: from one CSV or Parquet file to annotation CSVs with known values."""
import numpy as np
import pandas as pd
import pytest
from conftest import one_line
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora.tables import find, sources_of
from support.errors import UserError
from support.recordings import TARGETS

TIMES = np.arange(20) / 10  # 10 per second
GOLD = pd.concat([pd.DataFrame({"recording": name, "time_s": TIMES, "arousal": s * TIMES / 2,
                                 "valence": -s * TIMES / 4})
                  for name, s in (("train_1", 1), ("dev_1", -1))])


def write(data, table=GOLD, ending="csv"):
    folder = data / "ratings_gold_standard"
    folder.mkdir(exist_ok=True)
    getattr(table, f"to_{ending}")(folder / f"ratings.{ending}", index=False)
    return data


def annotated(data, name):
    return pd.read_csv(next((data / "Annotations").glob(f"*/{name}.csv")))[TARGETS].to_numpy()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("order", ["as it is", "shuffled", "with other columns"])
def test_a_table_becomes_annotations_at_the_frame_rate(ending, order, tmp_path, call):
    table = {"as it is": GOLD, "shuffled": GOLD.sample(frac=1, random_state=0),
             "with other columns": GOLD[GOLD.columns[::-1]].assign(who="x", subject=GOLD["recording"])}[order]
    code, out, err = call("annotations", "--data-dir", write(tmp_path, table, ending))
    assert (code, err) == (0, "") and "2 recordings in the form table" in out
    assert out.count("rated every 0.1 s from 0 to 1.9 s: interpolated linearly to 25 per second") == 2
    made, at = annotated(tmp_path, "train_1"), np.arange(49) / 25  # up to half a step beyond 1.9 s
    np.testing.assert_allclose(made, np.column_stack([at.clip(max=1.9) / 2, -at.clip(max=1.9) / 4]), atol=1e-12)
    np.testing.assert_allclose(annotated(tmp_path, "dev_1"), -made)


def test_another_scale_is_refused_and_read_once_it_is_named(tmp_path, call):
    write(tmp_path, GOLD.assign(arousal=GOLD["arousal"] * 4 + 5, valence=GOLD["valence"] * 4 + 5))
    code, out, _ = call("annotations", "--data-dir", tmp_path)
    assert code == 1 and out.count("on another scale") == 2
    assert call("annotations", "--data-dir", tmp_path, "--label-range", "1", "9")[0] == 0
    np.testing.assert_allclose(annotated(tmp_path, "train_1")[:48:5, 0], np.arange(10) / 10, atol=1e-12)


@pytest.mark.parametrize("change,says", [
    ({"time_s": 0.0}, "line 3: a second rating of train_1 at 0 s (the first: 2)"),
    ({"time_s": None}, "line 2: no time_s"), ({"arousal": "x"}, "line 2: 'x' is not a number"),
])
def test_rows_that_cannot_be_right_are_refused(change, says, tmp_path, call):
    code, out, _ = call("annotations", "--data-dir", write(tmp_path, GOLD.assign(**change)))
    assert code == 1 and "ratings.csv" in out and says in out


def test_several_people_of_a_recording_are_recordings_of_their_own(tmp_path, call):
    people = [GOLD.assign(person=person, arousal=sign * GOLD["arousal"]) for person, sign in (("left", 1), ("ann", -1))]
    code, out, err = call("annotations", "--data-dir", write(tmp_path, pd.concat(people).sort_values("time_s")))
    assert (code, err) == (0, "") and "4 recordings in the form table" in out
    assert [path.stem for path in sorted((tmp_path / "Annotations" / "Train_Set").glob("*.csv"))] == [
        "train_1_ann", "train_1_left"]
    np.testing.assert_allclose(annotated(tmp_path, "dev_1_ann")[:, 0], -annotated(tmp_path, "dev_1_left")[:, 0])


def test_a_row_of_several_people_must_name_one(tmp_path, call):
    write(tmp_path, GOLD.assign(person=["a", "b", "", "a"] * 10))
    line = one_line(*call("annotations", "--data-dir", tmp_path)[::2])
    assert "ratings.csv line 4: train_1 has several people" in line
    rows = GOLD.assign(person=["a", "b"] * 20)
    write(tmp_path, pd.concat([rows, rows[:1].assign(recording="train_1_a", person="")]))
    assert "train_1_a" in one_line(*call("annotations", "--data-dir", tmp_path)[::2])


def test_one_bad_recording_leaves_the_others(tmp_path, call):
    table = GOLD.astype({"valence": str})
    table.iloc[3, 3] = "high"
    code, out, err = call("annotations", "--data-dir", write(tmp_path, table))
    assert code == 1 and "train_1: FAILED" in out and "ratings.csv line 5: 'high'" in out
    assert len(annotated(tmp_path, "dev_1")) == 49


@pytest.mark.parametrize("column", ["recording", "time_s", "arousal", "valence"])
def test_a_column_that_is_missing_is_named(column, tmp_path):
    write(tmp_path, GOLD.drop(columns=column))
    with pytest.raises(UserError, match=column):
        [source.read("mean") for source in sources_of(tmp_path / "ratings_gold_standard" / "ratings.csv").values()]


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", "a\\b", "x" * 300, ".hidden", "mean"])
def test_ids_in_a_table_do_not_leave_the_data_folder(name, tmp_path, call):
    data = tmp_path / "data"
    data.mkdir()
    write(data, GOLD.replace("dev_1", name))
    code, out, err = call("annotations", "--data-dir", data, "--val-ids", name)
    assert code == 1 and f"{name}: FAILED: " in out and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert [path.name for path in data.glob("Annotations/*/*")] == ["train_1.csv"]


@pytest.mark.parametrize("name", ["-x", "a [b]", "$$x", "\u4e2d", "x" * 220, "a b"])
def test_odd_ids_work(name, tmp_path, call):
    write(tmp_path, GOLD.replace("dev_1", name))
    assert call("annotations", "--data-dir", tmp_path, f"--val-ids={name}", "--train-ids", "train_1")[0] == 0
    assert [path.name for path in (tmp_path / "Annotations" / "Val_Set").iterdir()] == [f"{name}.csv"]


def test_a_recording_without_an_id_and_two_tables_are_refused(tmp_path):
    folder = write(tmp_path, GOLD.replace("dev_1", "")) / "ratings_gold_standard"
    with pytest.raises(UserError, match="line 22: no recording is named"):
        find(folder)
    (folder / "other.csv").write_text("recording,time_s,arousal,valence\na,0,0,0\n")
    with pytest.raises(UserError, match="both tables"):
        find(folder)


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text("ab,0123456789.-\n\"", max_size=80).map(
    lambda text: f"recording,time_s,arousal,valence\n{text}".encode()))
def test_whatever_bytes_come_there_are_ratings_or_one_error(tmp_path_factory, held):
    for ending in ("csv", "parquet"):
        path = tmp_path_factory.getbasetemp() / f"a.{ending}"
        path.write_bytes(held)
        try:
            sources = sources_of(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        for source in sources.values():
            try:
                made = source.read("mean")
                assert made.values.shape == (len(made.times_s), 2) and (np.diff(made.times_s) > 0).all()
            except UserError as error:
                assert str(path) in str(error) and "\n" not in str(error)
