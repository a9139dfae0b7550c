"""Recordings that are one and the same under two names."""
import unicodedata

from corpora.copies import copies, spelt_alike


def test_files_of_the_same_bytes_are_found_whatever_their_names(tmp_path):
    held = {"a": b"1" * 9, "b": b"2" * 9, "c": b"1" * 9, "d": b"2" * 10, "e": b"2" * 9, "f": b"", "g": b""}
    for name, text in held.items():
        (tmp_path / name).write_bytes(text)
    assert sorted(copies({name: tmp_path / name for name in held})) == [["a", "c"], ["b", "e"]]
    assert copies({"a": tmp_path / "a", "gone": tmp_path / "gone", "folder": tmp_path}) == []


def test_only_files_of_one_size_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"1"), (tmp_path / "b").write_bytes(b"12")
    (tmp_path / "a").chmod(0), (tmp_path / "b").chmod(0)
    assert copies({name: tmp_path / name for name in "ab"}) == []


def test_names_that_look_alike_are_found():
    composed, decomposed = (unicodedata.normalize(form, "Zo\u00eb") for form in ("NFC", "NFD"))
    assert spelt_alike(["Zoe", composed, decomposed, "zoe"]) == {composed: decomposed, decomposed: composed}
