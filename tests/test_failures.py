"""Recordings that cannot be used are left out and named; the others are used."""
import os
import shutil

import numpy as np
import pytest
from conftest import FRAMES, SMALL, TINY, add_unlabelled, one_line, run_of, table_of
from test_data import config_of
from videos import write_pictures

from data import check_files
from support.errors import UserError
from support.failures import noted, unlabelled_files

TRAIN = "mmpkd", *TINY, "--stage", "visual", "--target", "both", "--data-dir"


@pytest.fixture
def faceless(made, call):
    """faceless(id): makes a recording one whose video shows nobody, and which face_detector.py has tried."""
    def faceless(name):
        shutil.rmtree(made / "Cropped_Aligned" / name, ignore_errors=True)
        write_pictures(made / "videos" / f"{name}.mp4", [np.full((120, 160, 3), 99, np.uint8)] * FRAMES)
        code, out, err = call("face_detector", "--data-dir", made, *SMALL)
        assert code == 1 and f"{name}: FAILED" in out and "no face" in out
        return made
    return faceless


def unlabel(folder, name):
    """Puts a recording into Unlabelled_Set."""
    add_unlabelled(folder, name)
    table = table_of(folder, name)
    table.write_text(table.read_text().replace("train_2/", f"{name}/"))
    return table


def names(recordings):
    return [recording.name for recording in recordings]


def test_a_faceless_recording_is_left_out_of_training_and_named(faceless, call):
    folder = faceless("train_2")
    code, out, err = call(*TRAIN, folder)
    assert (code, err) == (0, "") and "train_2: left out: " in out and "train_2.mp4: no face in any" in out
    assert (run_of(folder, "visual") / "best.pt").exists()


def test_a_run_without_a_recording_is_not_taken_for_one_with_it(faceless, call):
    folder = faceless("train_2")
    assert call(*TRAIN, folder)[0] == 0 == call(*TRAIN, folder)[0]
    shutil.copytree(folder / "Cropped_Aligned" / "train_1", folder / "Cropped_Aligned" / "train_2")
    assert "trained without train_2, which was left out then" in one_line(*call(*TRAIN, folder)[::2])


def test_a_faceless_recording_of_val_set_is_left_out_of_every_run(faceless):
    folder = faceless("dev_2")
    table = table_of(folder, "dev_1")
    table.with_name("dev_2.csv").write_text(table.read_text().replace("dev_1/", "dev_2/"))
    for inputs in (["frames"], ["specs"], ["frames", "specs"]):
        assert names(check_files(config_of(folder), inputs, "Val_Set")) == ["dev_1"]


@pytest.mark.parametrize("others", [(), ("x_2",)])
def test_a_faceless_recording_without_ratings_is_not_counted_as_one(others, faceless, capsys):
    folder = faceless("x_1")
    unlabel(folder, "x_1")
    for name in others:
        add_unlabelled(folder, name)  # the images of another one
    assert [path.stem for path in unlabelled_files(config_of(folder))] == [*others]
    capsys.readouterr()
    assert names(check_files(config_of(folder), ["frames"], "Unlabelled_Set")) == [*others]
    assert "x_1: left out: " in capsys.readouterr().out


def test_what_has_not_been_tried_or_has_changed_since_is_missing_not_left_out(faceless, call):
    folder = faceless("train_2")
    video, note = folder / "videos" / "train_2.mp4", folder / "Cropped_Aligned" / "train_2.failed"
    os.utime(video, ns=(note.stat().st_mtime_ns + 1,) * 2)
    assert "run face_detector.py" in one_line(*call(*TRAIN, folder)[::2])
    note.unlink()
    assert "run face_detector.py" in one_line(*call(*TRAIN, folder)[::2])


def test_if_no_recording_can_be_used_what_is_missing_is_said(faceless, call):
    folder = faceless("train_1")
    faceless("train_2")
    assert "train_1/000000.jpg is missing" in one_line(*call(*TRAIN, folder)[::2])


def test_a_deleted_recording_is_left_out_and_its_cache_goes(made, call):
    assert call(*TRAIN, made)[0] == 0
    cached = list((made / "cache").glob("train_2.frames.*"))
    shutil.rmtree(made / "Cropped_Aligned" / "train_2")
    shutil.rmtree(made / "runs")
    code, out, err = call(*TRAIN, made)
    assert (code, err) == (0, "") and "train_2: left out: there are no crops of it, and no video" in out
    assert len(cached) == 1 and not cached[0].exists() and len(list((made / "cache").glob("train_1.frames.*"))) == 1


def test_a_recording_of_which_the_sound_is_gone_is_left_out_where_sound_is_needed(made, capsys):
    shutil.rmtree(made / "specs" / "train_2")
    assert names(check_files(config_of(made), ["frames", "specs"], "Train_Set")) == ["train_1"]
    assert "train_2: left out: there are no spectrograms of it, and no sound" in capsys.readouterr().out
    assert names(check_files(config_of(made), ["frames"], "Train_Set")) == ["train_1", "train_2"]


def test_the_two_subjects_of_one_video_are_not_taken_for_deleted(made):
    table = unlabel(made, "clip_left")
    (made / "videos").mkdir()
    (made / "videos" / "clip.mp4").write_text("")
    assert unlabelled_files(config_of(made)) == [table]


def test_only_what_is_wrong_with_a_recording_is_noted(tmp_path):
    def work(name, report, error=None):
        if error:
            raise error
        return "done", 1
    note = tmp_path / "a.failed"
    for error in (PermissionError(1, "no"), KeyboardInterrupt(), ValueError("a bug")):
        with pytest.raises(type(error)):
            noted("a", None, lambda *words, error=error: work(*words, error), tmp_path)
        assert not note.exists()
    with pytest.raises(UserError):
        noted("a", None, lambda *words: work(*words, UserError("a\udce9.mp4 is damaged")), tmp_path)
    assert note.read_text() == "a\\udce9.mp4 is damaged\n"
    assert noted("a", None, work, tmp_path) == ("done", 1) and not note.exists()
