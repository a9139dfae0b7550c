"""Step 1, with and without frame retention: averaged landmarks, crops, faces.csv, contact sheets, interrupted runs."""
import contextlib
import errno
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, flip, one_line
from PIL import Image
from videos import CARD, card, sitter, write_pictures

import face_detector
from drawn.people import Recording, write_video
from faces import FaceFinder
from support.checksums import LIST, read_list

BOTH = ["face_detector", "face_detector_frameRetention"]


# ---- the scripts ----------------------------------------------------------------------------------------------------

FACE_AT = [*range(4, 10), *range(13, 18)]  # of the gappy recording's 18 frames


@pytest.fixture(scope="module")
def gappy(tmp_path_factory):
    """A data folder with a video: no face, a face, no face, a face (red over its left eye, blue over its right)."""
    drawn = Recording.draw((12, 1), 18)
    drawn.motion.x[:] = np.where(np.isin(np.arange(18), FACE_AT), 160, -300)
    drawn.motion.yaw[:], drawn.motion.roll[:] = 0, 0
    pictures = list(drawn.frames())
    for k in FACE_AT:
        for (x, y), colour in zip(drawn.painter.landmarks(drawn.motion, k).astype(int), (CARD[0, 0], CARD[1, 0])):
            pictures[k][y - 38:y - 25, x - 6:x + 7] = colour
    data = tmp_path_factory.mktemp("gappy") / "data"
    write_video(data / "videos" / "train_1.mp4", pictures)
    return data


@pytest.fixture(scope="module")
def made_gappy(gappy, tmp_path_factory):
    """The same after face_detector.py. Read only."""
    data = shutil.copytree(gappy, tmp_path_factory.mktemp("made") / "data")
    face_detector.main(["--data-dir", str(data)])
    return data


@pytest.fixture
def data(gappy, tmp_path):
    """A copy of gappy."""
    return shutil.copytree(gappy, tmp_path / "data")


@pytest.fixture
def done(made_gappy, tmp_path):
    """A copy of made_gappy."""
    return shutil.copytree(made_gappy, tmp_path / "done")


def crops_of(data, name="train_1"):
    return [path.read_bytes() for path in sorted((data / "Cropped_Aligned" / name).glob("*.jpg"))]


def table_of(data):
    return pd.read_csv(data / "Cropped_Aligned" / "train_1" / "faces.csv")


def sheet_of(data):
    return data / "Cropped_Aligned" / "train_1.jpg"


def tree(data):
    """Every file of the crops, hidden ones too: path -> bytes."""
    root = data / "Cropped_Aligned"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_frames_without_a_face_are_black_and_channels_are_not_swapped(done):
    crops = [np.asarray(Image.open(io.BytesIO(crop))).astype(int) for crop in crops_of(done)]
    for k, crop in enumerate(crops):
        assert crop.shape == (112, 112, 3) and (crop.max() > 100 if k in FACE_AT else crop.max() == 0)
    left, right = crops[5][16:21, 36:41].mean((0, 1)), crops[5][16:21, 71:76].mean((0, 1))  # the viewer's
    assert left[0] > 150 > 90 > left[2] and right[2] > 150 > 90 > right[0]


def test_frame_retention_repeats_the_last_face_and_the_first_one_before_there_was_any(data, call):
    code, out, _ = call("face_detector_frameRetention", "--data-dir", data)
    crops = crops_of(data)
    assert code == 0 and "2 detected" in out and "9 tracked" in out and "7 retained" in out
    assert crops[:4] == [crops[4]] * 4 and crops[10:13] == [crops[9]] * 3 and len(set(crops)) == 11


@pytest.mark.parametrize("script, word", [(BOTH[0], "missing"), (BOTH[1], "retained")])
def test_faces_csv_has_a_row_per_frame(script, word, done, call):
    call(script, "--data-dir", done)
    table = table_of(done)
    assert ",".join(table.columns) == "time_s,found,x1,y1,x2,y2,score" and len(table) == len(crops_of(done)) == 18
    assert list(np.flatnonzero(table["found"] == "detected")) == [4, 13]
    assert list(np.flatnonzero(table["found"] == word)) == [k for k in range(18) if k not in FACE_AT]
    assert np.allclose(table["time_s"], np.arange(18) / 25)
    faces, others = table.loc[FACE_AT], table.drop(FACE_AT)
    assert others[["x1", "y1", "x2", "y2", "score"]].isna().all(axis=None)
    assert faces["score"].between(0.9, 1).all() and (faces["x1"] < 160).all() and (faces["x2"] > 160).all()


def test_the_scripts_can_follow_each_other_and_detect_only_once(data, done, made_gappy, call, monkeypatch):
    call(BOTH[1], "--data-dir", data)
    retained = tree(data)
    monkeypatch.setattr(FaceFinder, "__init__", lambda *_: pytest.fail("it detected again"))
    for script, expected in ((BOTH[1], retained), (BOTH[0], tree(made_gappy))):
        code, out, _ = call(script, "--data-dir", done)
        assert code == 0 and "nothing to do" not in out and tree(done) == expected


@pytest.mark.parametrize("script", BOTH)
def test_a_second_run_does_nothing_and_says_so(script, done, call, monkeypatch):
    call(script, "--data-dir", done)
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    monkeypatch.setattr(FaceFinder, "__init__", lambda *_: pytest.fail("it detected again"))
    code, out, err = call(script, "--data-dir", done)
    assert code == 0 and "nothing to do" in out and "done before" in out and not err
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


def test_workers_and_shards_write_the_same_bytes_as_one_run(tmp_path, call):
    people = [Recording.draw((82, number), 24) for number in range(3)]
    people[1].motion.x[8:14] = -300
    for number, one in enumerate(people):
        write_video(tmp_path / "one" / "videos" / f"train_{number}.mp4", one.frames())
    ways = {"one": [["--workers", "1"]], "two": [["--workers", "2"]], "shards": [["--shard", f"{i}/2"] for i in (2, 1)]}
    for name, runs in ways.items():
        if name != "one":
            shutil.copytree(tmp_path / "one" / "videos", tmp_path / name / "videos")
        for words in runs:
            assert call("face_detector", "--data-dir", tmp_path / name, *words, *SMALL)[0] == 0
    one = tree(tmp_path / "one")
    assert len(one) == 3 * (24 + 3) + 1 and tree(tmp_path / "two") == one and tree(tmp_path / "shards") == one


# ---- the command line -----------------------------------------------------------------------------------------------

def run_python(code, *words):
    """`code` in a process of its own, in the scripts' folder."""
    root, command = Path(face_detector.__file__).parent, [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_script_is_ready_without_torch():
    """It takes seconds to import, which --help and a wrong flag need not wait for."""
    code = "import sys, face_detector_frameRetention\nsys.exit(bool({'torch', 'torchvision'} & sys.modules.keys()))"
    assert run_python(code).returncode == 0


def test_missing_videos_are_asked_for(tmp_path, call):
    code, out, err = call("face_detector", "--data-dir", tmp_path / "nothing")
    assert "videos" in one_line(code, err) and not out and not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("flag, value", [("--face-size", "8"), ("--device", "gpu")])
def test_bad_settings_end_in_one_line_before_anything_is_written(flag, value, data, call):
    code, out, err = call("face_detector", "--data-dir", data, flag, value)
    assert flag[2:6] in one_line(code, err, 2) and not out and not (data / "Cropped_Aligned").exists()


def test_changed_settings_are_refused_and_nothing_is_mixed(done, call):
    before = tree(done)
    code, _, err = call("face_detector_frameRetention", "--data-dir", done, "--face-size", "64")
    assert "face_size" in one_line(code, err) and tree(done) == before


# ---- bad videos, and folders that do not match ----------------------------------------------------------------------

def break_file(kind, good, path):
    """Makes of a good video a bad one."""
    data = good.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":  # an .mp4 says at its end where its pictures are
        path.write_bytes(data[:len(data) // 2])
    elif kind == "noise":
        begin, end = data.index(b"mdat") + 4, data.index(b"moov") - 4  # all of the pictures
        path.write_bytes(data[:begin] + np.random.default_rng(0).bytes(end - begin) + data[end:])
    elif kind == "faceless":
        write_pictures(path, [card()] * 20)
    elif kind == "tiny":
        write_pictures(path, [card(32, 48)] * 20)


BAD = {"empty": "empty", "cut": "cannot be read", "noise": "damaged", "faceless": "no face", "tiny": "no face"}


def nothing_left_but(data, *names):
    """... but those recordings, whole, why others failed, and nothing hidden."""
    files = [file for name in names for file in (name, f"{name}.jpg")]
    left = {path.name for path in (data / "Cropped_Aligned").iterdir() if path.suffix != ".failed"}
    return left == {"settings.json", *files}


def test_bad_videos_are_reported_each_and_the_good_one_is_done(data, call):
    """... with exit code 1, and again in the next run, which does the good one no second time."""
    for kind in BAD:
        break_file(kind, data / "videos" / "train_1.mp4", data / "videos" / f"bad_{kind}.mp4")
    for run in (1, 2):
        code, out, err = call("face_detector", "--data-dir", data)
        assert "5 of 6" in one_line(code, err) and "Traceback" not in out
        for kind, word in BAD.items():
            line, = [line for line in out.splitlines() if line.startswith(f"bad_{kind}:")]
            assert "FAILED" in line and word in line and f"bad_{kind}" in line.split("FAILED")[1]
        assert len(crops_of(data)) == 18 and ("done before" in out) == (run == 2)
        assert nothing_left_but(data, "train_1")


@pytest.mark.parametrize("spoil, word", [
    (lambda folder: (folder / "000003.jpg").unlink(), "17 crops"),
    (lambda folder: (folder / "faces.csv").unlink(), "faces.csv"),
    (lambda folder: (folder / "faces.csv").write_bytes(b"\xff\xfe\x00,\n"), "faces.csv"),
    (lambda folder: (folder / "faces.csv").write_text((folder / "faces.csv").read_text()[:200]), "line 8"),
    (lambda folder: (folder / "faces.csv").write_text("".join((folder / "faces.csv").open().readlines()[:9])),
     "faces.csv is damaged"),
    (lambda folder: [(folder / name).unlink() for name in ("000003.jpg", LIST)], "17 crops")])
def test_a_folder_that_was_spoilt_is_not_taken_for_done(spoil, word, done, call):
    spoil(done / "Cropped_Aligned" / "train_1")
    code, out, err = call("face_detector_frameRetention", "--data-dir", done)
    assert one_line(code, err) and word in out and "delete" in out


def test_crops_of_a_video_of_another_length_are_not_taken_for_done(done, call):
    write_pictures(done / "videos" / "train_1.mp4", [card()] * 7)
    code, out, _ = call("face_detector", "--data-dir", done)
    assert code == 1 and "18 crops" in out and "7 frames" in out


def test_a_video_that_was_replaced_later_is_reported(done, call):
    os.utime(done / "videos" / "train_1.mp4")
    code, out, _ = call("face_detector", "--data-dir", done)
    assert code == 0 and "train_1.mp4" in out and f"delete {done / 'Cropped_Aligned' / 'train_1'}" in out


def test_a_process_that_fills_the_gaps_meanwhile_is_waited_for_and_its_table_read(done, call, monkeypatch):
    folder = done / "Cropped_Aligned" / "train_1"

    @contextlib.contextmanager
    def after_the_other(path, *words, **flags):
        face_detector.refill(folder, table_of(done), sheet_of(done), 112, True)
        yield
    with monkeypatch.context() as patch:
        patch.setattr(face_detector, "claimed", after_the_other)
        assert call("face_detector", "--data-dir", done)[0] == 0
    missing = list(table_of(done)["found"] == "missing")
    assert any(missing) and [cv2.imread(str(folder / f"{k:06d}.jpg")).max() < 10 for k in range(18)] == missing


# ---- interrupted runs -----------------------------------------------------------------------------------------------

def test_ctrl_c_leaves_nothing_half_done_and_the_next_run_does_the_rest(data, call, monkeypatch):
    shutil.copy(data / "videos" / "train_1.mp4", data / "videos" / "train_2.mp4")
    own, crops = face_detector.write_crop, itertools.count()

    def write_crop(*args):
        if next(crops) == 16:  # the second of two recordings with 11 faces
            raise KeyboardInterrupt
        own(*args)
    with monkeypatch.context() as patch:
        patch.setattr(face_detector, "write_crop", write_crop)
        code, _, err = call("face_detector", "--data-dir", data, "--workers", "1")
    assert one_line(code, err, 130) and nothing_left_but(data, "train_1")
    assert call("face_detector", "--data-dir", data)[0] == 0 and nothing_left_but(data, "train_1", "train_2")
    assert crops_of(data, "train_2") == crops_of(data, "train_1")


def test_a_full_disk_ends_in_one_line_and_what_was_made_stays_whole(done, call, monkeypatch):
    shutil.copy(done / "videos" / "train_1.mp4", done / "videos" / "train_2.mp4")

    def write(path, *parts):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    with monkeypatch.context() as patch:
        patch.setattr(face_detector, "write_bytes", write)
        code, _, err = call("face_detector", "--data-dir", done)
    assert "No space left" in one_line(code, err) and nothing_left_but(done, "train_1") and len(crops_of(done)) == 18


KILLED = """import os, signal, sys, face_detector
import facenet_pytorch  # once for all of them
for name, nth, retain, folder in zip(*[iter(sys.argv[1:])] * 4):
    if os.fork():
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        continue
    own, calls = getattr(face_detector, name), []
    def counted(*args):
        calls.append(args)
        if len(calls) == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
        return own(*args)
    setattr(face_detector, name, counted)
    face_detector.main(["--data-dir", folder, "--workers", "1"], retain=bool(retain))
    os._exit(0)
"""
KILLS = [("write_crop", 5, ""), ("whole_file", 4, ""), ("contact_sheet", 1, ""), ("whole_file", 4, "retained")]


@pytest.fixture(scope="module")
def killed(gappy, made_gappy, tmp_path_factory):
    """A data folder for each of KILLS, in which a run ended with SIGKILL at the n-th call of that function: while faces
    are detected, while gaps are filled, before the contact sheet; and while the gaps of made_gappy are filled again.
    Read only."""
    root = tmp_path_factory.mktemp("killed")
    folders = {kill: shutil.copytree(made_gappy if kill[2] else gappy, root / "_".join(map(str, kill)))
               for kill in KILLS}
    ended = run_python(KILLED, *itertools.chain(*((*kill, folder) for kill, folder in folders.items())))
    codes = [int(line) for line in ended.stdout.splitlines() if line.lstrip("-").isdigit()]
    assert codes == [-signal.SIGKILL] * len(KILLS), ended.stderr
    return folders


@pytest.mark.parametrize("kill", KILLS[:3], ids=lambda kill: kill[0])
def test_a_recording_is_whole_after_the_run_that_follows_a_kill(kill, killed, made_gappy, tmp_path, call):
    data = shutil.copytree(killed[kill], tmp_path / "data")
    assert (data / "Cropped_Aligned" / "train_1").exists() == (kill[0] == "contact_sheet")
    assert not sheet_of(data).exists()
    assert call("face_detector", "--data-dir", data)[0] == 0 and tree(data) == tree(made_gappy)


@pytest.mark.parametrize("script", BOTH)
def test_a_run_killed_while_it_exchanged_what_is_in_the_gaps_leaves_it_as_it_was(script, killed, made_gappy,
                                                                               tmp_path, call):
    made_gappy_too = shutil.copytree(made_gappy, tmp_path / "too")
    data, whole = shutil.copytree(killed[KILLS[3]], tmp_path / "data"), tree(made_gappy)
    assert {name: content for name, content in tree(data).items() if not name.startswith(".")} == whole
    assert call(BOTH[1], "--data-dir", made_gappy_too)[0] == 0
    assert call(script, "--data-dir", data)[0] == 0 and nothing_left_but(data, "train_1")
    assert tree(data) == (whole if script == BOTH[0] else tree(made_gappy_too))


@pytest.mark.parametrize("script", BOTH)
def test_a_run_killed_between_the_two_renames_of_an_exchange_is_undone_by_the_next(script, done, made_gappy, call):
    folder, whole = done / "Cropped_Aligned", tree(made_gappy)
    (folder / "train_1").rename(folder / ".train_1.old")
    shutil.copytree(folder / ".train_1.old", folder / ".train_1.part")
    assert call(script, "--data-dir", done)[0] == 0 and nothing_left_but(done, "train_1")
    assert call(BOTH[0], "--data-dir", done)[0] == 0 and tree(done) == whole


@pytest.mark.parametrize("damage, words", [("face", "000009.jpg is damaged"), ("list", "checksums.sfv is damaged")])
def test_a_damaged_face_is_not_repeated(damage, words, done, call):
    path = done / "Cropped_Aligned" / "train_1" / {"face": "000009.jpg", "list": LIST}[damage]
    flip(path)
    before = tree(done)
    code, out, _ = call(BOTH[1], "--data-dir", done)
    assert code == 1 and words in out and "delete" in out and tree(done) == before


def test_a_crop_that_the_contact_sheet_cannot_show_is_told_before_anything_is_lost(done, call):
    path = done / "Cropped_Aligned" / "train_1" / "000005.jpg"
    path.write_bytes(path.read_bytes()[:-100])
    before = tree(done)
    code, out, _ = call(BOTH[1], "--data-dir", done)
    assert code == 1 and f"{path} is not a readable image" in out and tree(done) == before


def test_damage_to_another_crop_is_not_made_good_by_filling_the_gaps(done, call):
    folder = done / "Cropped_Aligned" / "train_1"
    flip(folder / "000005.jpg")
    assert call(BOTH[1], "--data-dir", done)[0] == 0
    sums = read_list(folder)
    wrong = [name for name in sums if zlib.crc32((folder / name).read_bytes()) != sums[name]]
    assert wrong == ["000005.jpg"] and len(sums) == 18 + 1


def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path):
    """Networks, threads and files: in one process a short recording, and then a long one."""
    pictures = list(sitter((84, 0), 10).frames())
    for name, count in (("train_1", 60), ("train_2", 400)):
        write_video(tmp_path / "videos" / f"{name}.mp4", itertools.islice(itertools.cycle(pictures), count))
    code = ("import face_detector, resource, sys\n"
            "for name in ('train_1', 'train_2'):\n"
            "    face_detector.main(['--data-dir', sys.argv[1], '--recordings', name, '--workers', '1'])\n"
            "    print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n")
    done = run_python(code, tmp_path)
    short, long = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak"))
    assert long - short < 40_000  # kB; 340 pictures of this size are 78 MB


# ---- contact sheets, and what should be checked ---------------------------------------------------------------------

def cells_of(sheet, size=112):
    """(crop, colour of the border below it) of the 18 cells of a contact sheet."""
    sheet = np.asarray(Image.open(sheet)).astype(int)
    assert sheet.shape == (2 * (size + 16), 10 * (size + 4), 3)
    for k in range(18):
        y, x = k // 10 * (size + 16), k % 10 * (size + 4)
        border = sheet[y + size + 15, x + 20:x + size - 16].mean(0)
        yield sheet[y + 14:y + 14 + size, x + 2:x + 2 + size], border


def test_a_contact_sheet_shows_every_crop_and_a_red_border_where_there_is_no_face(done):
    for k, (shown, (r, g, b)) in enumerate(cells_of(sheet_of(done))):
        crop = np.asarray(Image.open(done / "Cropped_Aligned" / "train_1" / f"{k:06d}.jpg")).astype(int)
        assert np.abs(shown - crop)[4:108, 4:108].mean() < 4
        assert (r > 180 and g < 120 and b < 120) == (k not in FACE_AT)


def test_a_contact_sheet_is_made_again_when_the_gaps_are_filled_otherwise_or_it_is_gone(done, call):
    call("face_detector_frameRetention", "--data-dir", done)
    yellow = sheet_of(done).read_bytes()
    for k, (_, (r, g, b)) in enumerate(cells_of(sheet_of(done))):
        assert (r > 180 and g > 150 and b < 120) == (k not in FACE_AT)
    sheet_of(done).unlink()
    call("face_detector_frameRetention", "--data-dir", done)
    assert sheet_of(done).read_bytes() == yellow


def test_a_contact_sheet_of_a_folder_that_was_deleted_is_made_again(done, made_gappy, call):
    shutil.rmtree(done / "Cropped_Aligned" / "train_1")
    sheet_of(done).write_bytes(b"of other crops")
    assert call("face_detector", "--data-dir", done)[0] == 0 and tree(done) == tree(made_gappy)


def test_a_recording_with_many_gaps_or_losses_is_to_be_checked():
    cases = {"good": ["tracked"] * 199 + ["detected"], "tenth": ["tracked"] * 180 + ["missing"] * 20,
             "gappy": ["tracked"] * 150 + ["missing"] * 50, "repeated": ["tracked"] * 150 + ["retained"] * 50,
             "restless": ["detected", "tracked"] * 100}
    tables = {name: pd.DataFrame({"found": found}) for name, found in cases.items()}
    header, *lines = face_detector.summary(tables, 25).splitlines()
    assert [line.split()[0] for line in lines] == list(cases) and header.split()[0] == "recording"
    assert ["check" in line for line in lines] == [False, False, True, True, True]
    assert "25%" in lines[2] and "25%" in lines[3] and "2.0 s" in lines[2] and "100 times" in lines[4]
