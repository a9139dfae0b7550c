"""columns.py: tables in files of which nothing is trusted."""
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support import columns
from support.columns import read_table
from support.errors import UserError

CELLS = st.sampled_from(["0.1", "-1", "1e-3", "0.30000000000000004", "nan", "", "inf", "x", " 2", "1_0", "NA", "0x1"])
TABLES = st.lists(st.lists(CELLS, min_size=2, max_size=3), max_size=5).map(
    lambda rows: "a,b\n" + "".join(",".join(row) + "\n" for row in rows))


def outcome(path, text, whole):
    """What read_table() makes of a text: a table, or the message of its error."""
    path.write_text(text, newline="")
    try:
        return read_table(path, "make it again", ["a"], ["b"], whole)
    except UserError as error:
        return str(error)


@settings(max_examples=200)
@given(TABLES | st.text('ab,1."\n\r nan', max_size=30), st.booleans())
@example("a,b\n1,\n\n2,x\n", True)
@example("a,b\n1,\n\n2,x\n", False)
@example("b,a\nNA,nan\n\"\",1\n", True)
@example("a,b\n1,x", True)
def test_the_quick_way_gives_what_reading_line_by_line_gives(tmp_path_factory, text, whole):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    found = outcome(path, text, whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_regular", lambda *_: None)
        wanted = outcome(path, text, whole)
    if isinstance(wanted, str):
        assert found == wanted
    else:
        pd.testing.assert_frame_equal(found, wanted, check_dtype=False, check_index_type=False, check_exact=True)


def test_a_regular_table_goes_the_quick_way(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "_rows", lambda *_: pytest.fail("line by line"))
    (tmp_path / "t.csv").write_text("a,b\n0.30000000000000004,x\nnan,\n")
    table = read_table(tmp_path / "t.csv", "", ["a"])
    assert table["a"][2] == 0.30000000000000004 and table["b"].tolist() == ["x", ""] and [*table.index] == [2, 3]


def test_a_line_of_spaces_is_a_row_in_a_table_of_one_column(tmp_path):
    (tmp_path / "t.csv").write_text("a\n1\n  \n2\n")
    assert read_table(tmp_path / "t.csv", "")["a"].to_list() == ["1", "  ", "2"]
