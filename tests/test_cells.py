"""Files of ratings -> tables of texts: csv as tools leave it, ARFF, Parquet."""
import gzip
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corpora.cells import files_by_id, header_of, numbers, read_cells, text_lines
from support.errors import UserError

HEADER = "time;arousal;valence\n"
LIKELY = st.text("0123456789.,;\t\r\n\"' +-eEnaNinf%{}?@datribuvlsoue:_x\x00é\u2028", max_size=60)
ANY_BYTES = st.one_of(st.binary(max_size=80), LIKELY.map(str.encode),
                      LIKELY.map(lambda text: text.encode("utf-16")), LIKELY.map(lambda text: (HEADER + text).encode()))


def written(folder, held, name="a.csv"):
    (folder / name).write_bytes(held if isinstance(held, bytes) else held.encode())
    return folder / name


def values_of(path):
    cells = read_cells(path)
    return numbers(cells, list(cells.table)).tolist()


def refusal(path, read=read_cells):
    """The message of a refusal, which names the file and is one line."""
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


# ---- csv as tools leave it ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", [
    "0.1;0.2\n-0.3;nan\n", "0.1;0.2\r\n-0.3;\r\n\r\n", "0.1;0.2\r-0.3;NaN\r", '"0.1";"0.2"\n"-0.3";"nan"',
    "0.1;0.2;\n-.3;;\n",
    " 0.1 ; 2e-1\n -0.3 ; nan \n \n",
    "0.1 0.2\n-0.3   nan\n", " a  b \n .1 .2\n-.3 nan", "0.1\t0.2\n-0.3\t\n", "0.1,0.2\n-0.3,nan\n",
    "0,1;0,2\n-0,3;nan\n",
    '"0,1","0,2"\n"-0,3",\n', "+1E-1;0.2\n-3e-1;nan\n",
])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_numbers_are_the_same_however_tools_write_them(text, encoding, tmp_path):
    np.testing.assert_array_equal(values_of(written(tmp_path, text.encode(encoding))), [[0.1, 0.2], [-0.3, np.nan]])


@pytest.mark.parametrize("before, line", [
    ("sep=;\n", 2), ('"sep=;"\nx;y\n', 3), ("# rater A, 25 Hz\n#\n", 3), ("# made by hand\n# x;y\n", 3), ("#x;y\n", 2)])
def test_what_stands_before_a_table_is_not_of_it_and_lines_keep_their_numbers(before, line, tmp_path):
    cells = read_cells(written(tmp_path, before + "0.1;\N{MINUS SIGN}0.2\nNA;n/a\n"))
    np.testing.assert_array_equal(numbers(cells, list(cells.table)), [[0.1, -0.2], [np.nan, np.nan]])
    assert list(cells.table.index) == [line, line + 1] and cells.named == ("x;y" in before)
    assert header_of(cells.path) == (["x", "y"] if cells.named else ["0_1", "0_2"])


def test_big_endian_and_compressed_text_is_read(tmp_path):
    text = "0.1;0.2\n0.3;0.4\n"
    assert values_of(written(tmp_path, b"\xfe\xff" + text.encode("utf-16-be"))) == [[0.1, 0.2], [0.3, 0.4]]
    assert values_of(written(tmp_path, gzip.compress(text.encode()), "a.csv.gz")) == [[0.1, 0.2], [0.3, 0.4]]


def test_names_of_columns_are_compared_without_case_blanks_and_signs(tmp_path):
    cells = read_cells(written(tmp_path, 'Time (s); "Arousal" ;VALENCE;\n0;0.1;0.2;\n'))
    assert cells.named and list(cells.table) == ["time_s", "arousal", "valence"] and list(cells.table.index) == [2]


def test_the_first_row_is_no_header_if_it_holds_a_number(tmp_path):
    for first in ("0.1;0.2", "nan;nan", ";", "0.1;", "inf;0", "0,1;0,2"):
        cells = read_cells(written(tmp_path, f"{first}\n0.3;0.4\n"))
        assert not cells.named and list(cells.table.index) == [1, 2]


@pytest.mark.parametrize("held,line,found", [
    ("0.1;0.2\n0.3\n", 2, "1 columns"), ("0.1;0.2\n0.3;0.4;0.5\n", 2, "3 columns"),
    ("0.1;0.2\n\n0.3;0.4\n", 2, "0 columns"),
    ("0.1;0.2\n\"0.3;0.4\n0.5;0.6\n", 2, "quote"), (b"0.1;0.2\n0.\xe9;0.4\n", 2, "UTF-8"),
    (b"0.1;0.2\n0.\x003;0.4\n", 2, "NUL"),
    ("0.1;0.2\n".encode("utf-16-le"), 1, "NUL"), ("a;a\n1;2\n", 1, "'a'"),
])
def test_what_is_not_regular_is_refused_with_its_line(held, line, found, tmp_path):
    message = refusal(written(tmp_path, held))
    assert f"a.csv line {line}: " in message and found in message


@pytest.mark.parametrize("text,line", [
    ("0.1;0.2\n0,3;0,4\n", 2), ("0,1;0,2\n0,3;0,4\n0.5;1\n", 3), ("0.1;0,2\n", 1), ("1.234,5;0\n", 1), ("1_0;0\n", 1),
    ("0x1;0\n", 1), ("0.1;true\n", 1), ("0.1;0.2\n0.3;\u0663.1\n", 2), ("0.1;--\n", 1),
])
def test_what_is_no_number_is_refused_with_its_line(text, line, tmp_path):
    assert f"a.csv line {line}: " in refusal(written(tmp_path, text), values_of)


@pytest.mark.parametrize("held", [b"", b"\n \n", b"\xef\xbb\xbf", b"\xff\xfe", b"a;b\n"])
def test_files_without_rows_are_refused(held, tmp_path):
    refusal(written(tmp_path, held))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.csv"), (tmp_path / "b.csv").mkdir(), (tmp_path / "c.csv").symlink_to("gone")
    os.mkfifo(tmp_path / "d.parquet")
    for name, kind in {"a.csv": "pipe", "b.csv": "folder", "c.csv": "link to gone", "d.parquet": "pipe"}.items():
        assert f"{tmp_path / name} is a {kind}" in refusal(tmp_path / name)
    assert header_of(tmp_path / "a.csv") == []


def test_damaged_and_endless_compressed_files_are_refused(tmp_path, monkeypatch):
    whole = gzip.compress(b"0.1;0.2\n" * 1000)
    for held in (whole[:40], b"0.1;0.2\n", whole[:20] + b"\xff" + whole[21:]):
        assert "damaged" in refusal(written(tmp_path, held, "a.csv.gz"))
    monkeypatch.setattr("corpora.cells.LIMIT", 1000)
    assert "too large" in refusal(written(tmp_path, whole, "a.csv.gz"))


@settings(deadline=None)  # the first call loads pyarrow
@given(ANY_BYTES)
@example(b'"\n"')
def test_whatever_bytes_come_there_is_a_table_or_one_error(tmp_path_factory, held):
    for name in ("a.csv", "a.arff", "a.parquet", "a.csv.gz"):
        path = written(tmp_path_factory.getbasetemp(), held, name)
        try:
            cells = read_cells(path)
            table = numbers(cells, list(cells.table))
        except UserError as error:
            assert str(path) in str(error) and len(str(error)) < 400 and "\n" not in str(error)
        else:
            assert table.shape == cells.table.shape and len(table) and table.dtype == float
            lines = text_lines(path) if name != "a.parquet" else []
            assert len(table) in (len(lines), len(lines) - 1) or name != "a.csv"  # no row is lost but the header


# ---- ARFF and Parquet -----------------------------------------------------------------------------------------------

ARFF = "% AVEC\n@relation GOLDSTANDARD\n\n@ATTRIBUTE Instance_name string\n@attribute 'frameTime' numeric\n" \
       "@attribute GoldStandard numeric\n\n@DATA\n'dev 1',0.00,0.5\n\n% a remark\n'dev 1',0.04,?\n"


def test_arff_is_read_by_the_names_of_its_attributes(tmp_path):
    cells = read_cells(written(tmp_path, ARFF, "a.arff"))
    assert list(cells.table) == ["instance_name", "frametime", "goldstandard"] and list(cells.table.index) == [9, 12]
    assert cells.table["instance_name"].tolist() == ["dev 1"] * 2
    np.testing.assert_array_equal(numbers(cells, ["frametime", "goldstandard"]), [[0, 0.5], [0.04, np.nan]])


@pytest.mark.parametrize("old,new,found", [
    ("@DATA", "", "line 9"), ("'dev 1',0.00", "0.00", "line 9"), ("'dev 1',0.00,0.5", "{0 a, 1 0, 2 0.5}", "line 9"),
    ("@relation", "@relatoin", "line 2"), (ARFF[ARFF.index("@DATA"):], "", "no @data"),
])
def test_what_is_not_arff_is_refused(old, new, found, tmp_path):
    assert found in refusal(written(tmp_path, ARFF.replace(old, new), "a.arff"))


def test_parquet_holds_what_was_written(tmp_path):
    pd.DataFrame({"Recording": ["a", "b"], "Arousal": [0.1, np.nan], "valence": ["0.2", None], "n": [1, 2]}).to_parquet(
        tmp_path / "a.parquet")
    cells = read_cells(tmp_path / "a.parquet")
    np.testing.assert_array_equal(numbers(cells, ["arousal", "valence", "n"]), [[0.1, 0.2, 1], [np.nan, np.nan, 2]])
    pd.DataFrame({"time": pd.to_datetime(["2020-01-01"])}).to_parquet(tmp_path / "b.parquet")
    assert "b.parquet row 1: " in refusal(tmp_path / "b.parquet", values_of)  # a date is not a number of nanoseconds


# ---- which files there are ------------------------------------------------------------------------------------------

def test_ids_are_names_without_their_endings(tmp_path):
    for name in ("a.csv", "b.arff.gz", "c.d.CSV", ".hidden.csv", "notes.docx", "csv"):
        written(tmp_path, "", name)
    assert sorted(files_by_id(tmp_path, ("csv", "arff"))) == ["a", "b", "c.d"]
    written(tmp_path, "", "a.csv.gz")
    with pytest.raises(UserError, match="a.csv and .*a.csv.gz have the same id"):
        files_by_id(tmp_path, ("csv",))


def test_what_pandas_wrote_as_the_index_of_a_table_is_a_column(tmp_path):
    table = pd.DataFrame({"recording": ["a", "a"], "time_s": [0.0, 0.04], "arousal": [0.1, 0.2]})
    for index in (["recording"], ["recording", "time_s"]):
        table.set_index(index).to_parquet(tmp_path / "t.parquet")
        cells = read_cells(tmp_path / "t.parquet")
        assert list(cells.table) == list(table) and list(cells.table.index) == [1, 2]
