"""Checksums of files: lists beside them, sums behind arrays, and what tells files from others."""
import hashlib
import os
import zlib

import numpy as np
import pytest

from support.checksums import (
    LIST,
    array_sum,
    checked,
    digest,
    identity,
    list_all,
    listed,
    open_array,
    read_list,
    verify,
    write_checked_array,
)
from support.errors import UserError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for name, content in {"1.txt": b"one", "two words.txt": b"two", "\xe9.txt": b""}.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_list_is_lines_of_name_and_crc_as_cksfv_reads_them(folder):
    list_all(folder)
    lines = (folder / LIST).read_text("utf-8").splitlines()
    assert lines[:-1] == [f"{path.name} {zlib.crc32(path.read_bytes()):08X}" for path in sorted(folder.glob("*.txt"))]
    assert lines[-1].startswith("; ")


def test_a_list_written_file_by_file_is_the_list_of_the_folder(folder, tmp_path):
    list_all(folder)
    other = tmp_path / "b"
    other.mkdir()
    with listed(other) as note:
        for path in sorted(folder.glob("*.txt")):
            note(path.name, zlib.crc32(path.read_bytes()))
    assert (other / LIST).read_bytes() == (folder / LIST).read_bytes()


def test_changed_bytes_of_a_file_or_of_its_list_are_noticed(folder):
    list_all(folder)
    verify(folder / "1.txt", "make it again")
    (folder / "1.txt").write_bytes(b"onf")
    with pytest.raises(UserError, match="1.txt is damaged.*make it again"):
        verify(folder / "1.txt", "make it again")
    whole = (folder / LIST).read_bytes()
    for at in (0, len(whole) // 2, len(whole) - 2):
        (folder / LIST).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        with pytest.raises(UserError, match=f"{LIST} is damaged"):
            read_list(folder)
    (folder / LIST).write_bytes(whole[:whole.index(b"\n") + 1])
    with pytest.raises(UserError, match=f"{LIST} is damaged"):
        read_list(folder)


def test_without_a_list_nothing_is_checked_and_a_file_beside_a_list_must_be_in_it(folder):
    assert read_list(folder) == {} and checked(folder / "1.txt", b"other", {}, "") == b"other"
    list_all(folder)
    with pytest.raises(UserError, match="new.txt is damaged"):
        checked(folder / "new.txt", b"", read_list(folder), "")


def test_an_array_in_pieces_is_the_file_of_np_save_and_its_sum(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(6, 4)
    write_checked_array(tmp_path / "a.npy", 6, iter([array[:1], array[1:5], array[5:]]))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    content = (tmp_path / "a.npy").read_bytes()
    assert array_sum(tmp_path / "a.npy") == zlib.crc32(content[:-len("crc32 00000000")])
    (tmp_path / "a.npy").write_bytes(content.replace(array.tobytes(), array[::-1].tobytes()))
    with pytest.raises(UserError, match="a.npy is damaged"):
        open_array(tmp_path / "a.npy", "")


def test_an_array_of_another_program_has_no_sum_and_is_read(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    array, has_sum = open_array(tmp_path / "a.npy", "")
    assert not has_sum and array_sum(tmp_path / "a.npy") is None and array.tolist() == [1, 1, 1]


def test_the_identity_of_a_folder_follows_from_what_is_in_it(folder):
    without = identity(folder)
    list_all(folder)
    assert without[0] == "~" != identity(folder)[0]
    (folder / LIST).unlink()
    (folder / ".hidden").touch()
    assert identity(folder) == without
    (folder / "1.txt").unlink()
    (folder / "1.txt").write_bytes(b"other")
    assert identity(folder) != without and identity(folder / "missing") == ""


def test_the_identity_of_a_file_follows_from_its_bytes_and_not_its_time(folder):
    before = identity(folder / "1.txt")
    os.utime(folder / "1.txt", (1, 1))
    assert identity(folder / "1.txt") == before == f"{zlib.crc32(b'one'):08x}"
    (folder / "1.txt").write_bytes(b"onf")
    assert identity(folder / "1.txt") != before


def test_a_digest_is_the_beginning_of_sha1():
    assert digest(b"abc") == hashlib.sha1(b"abc").hexdigest()[:16] == "a9993e364706816a"
