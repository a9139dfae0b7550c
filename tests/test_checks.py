"""checks.py: what cannot be trained is said in one line before anything is trained, with its exit code."""
import importlib.util
import shutil

import numpy as np
import pytest
from conftest import TINY, add_unlabelled, one_line, rate, run_of, table_of, tiny_config

import checks
from drawn.people import write_video
from support.errors import SettingsError, UserError
from support.settings import parse_config


def refused(call, made, *words, code=1):
    """The message of mmpkd.py, which has made no run."""
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, *words)[::2], expected=code)
    assert not (made / "runs").exists() and not (made / "cache").exists(), "something was begun"
    return line


# ---- what is compared ------------------------------------------------------------------------------------------------

def test_runs_are_compared_on_the_same_recordings_although_one_has_no_sound(made, call):
    """It would be left out for the teacher alone."""
    shutil.rmtree(made / "specs" / "dev_1")
    write_video(made / "videos" / "dev_1.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3)
    assert "dev_1" in (line := refused(call, made)) and "if it has no sound, take it out of Annotations/" in line


# ---- how a student is taught ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage, words, keyword", [
    ("all", ["--distill", "pseudo"], "Unlabelled_Set"), ("student", ["--distill", "pseudo"], "Unlabelled_Set"),
    ("all", ["--distill-weight", 0], "distill_weight"), ("student", ["--distill-weight", 0], "distill_weight"),
    ("all", ["--distill", "joy"], "distill"), ("all", ["--distill", "cosine:0"], "cosine"),
    ("student", ["--distill", "pseudo+cosine"], "distill")])
def test_settings_that_teach_a_student_nothing_are_refused(made, call, stage, words, keyword):
    assert keyword in refused(call, made, "--stage", stage, *words, code=2)


def test_pseudo_labels_of_no_unlabelled_recordings_are_refused(made, call):
    add_unlabelled(made)
    assert "Unlabelled_Set" in refused(call, made, "--distill", "pseudo", "--unlabelled", 0, code=2)


def test_a_fold_with_pseudo_labels_is_refused_and_without_is_not(made, call):
    add_unlabelled(made)
    assert "fold" in refused(call, made, "--fold", "1/2", code=2)
    checks.check_student(tiny_config(data_dir=str(made), stage="student", fold="1/2", distill="cosine"))


def test_a_weight_of_zero_is_no_matter_to_pseudo_labels_and_to_the_original_gate(made):
    add_unlabelled(made)
    for changes in ({"distill": "pseudo"}, {"gate": "original"}):
        checks.check_student(tiny_config(data_dir=str(made), stage="student", distill_weight=0.0, **changes))


def test_how_a_student_is_taught_is_one_line(made):
    assert "cosine" in checks.describe_way(tiny_config(data_dir=str(made)))
    assert "unlabelled" not in checks.describe_way(tiny_config(data_dir=str(made)))
    add_unlabelled(made)
    lines = [checks.describe_way(tiny_config(data_dir=str(made), distill=distill)) for distill in ("sp", "pseudo")]
    assert "sp" in lines[0] and "1 unlabelled" in lines[0] and "audio and visual" in lines[1]
    assert not any("\n" in line for line in lines)


# ---- subjects and files ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("fold, code", [("3/3", 1), ("1/1", 2), ("0/2", 2)])
def test_a_fold_that_cannot_be_is_one_line(made, call, fold, code):
    assert "fold" in refused(call, made, "--stage", "visual", "--fold", fold, code=code)


def test_fewer_subjects_than_folds_are_said_before_the_baseline_trains(made, call):
    add_unlabelled(made)
    assert "--teacher-folds" in refused(call, made, "--teacher-folds", 3)
    table_of(made, "train_2").unlink()
    assert "1 recording:" in refused(call, made, "--stage", "visual", "--fold", "1/2")


@pytest.mark.parametrize("name", ["train_1", "dev_1"])
def test_a_rated_recording_without_spectrograms_is_said_before_the_baseline_trains(made, raw_corpus, call, name):
    shutil.rmtree(made / "specs" / name)
    shutil.copytree(raw_corpus / "audio", made / "audio")
    assert "audio_melspec.py" in refused(call, made)


def test_an_unlabelled_recording_without_spectrograms_is_said_before_the_baseline_trains(made, call):
    add_unlabelled(made)
    text = table_of(made, "x_1").read_text().replace("train_2/", "x_1/")
    table_of(made, "x_1").write_text(text)
    shutil.copytree(made / "Cropped_Aligned" / "train_2", made / "Cropped_Aligned" / "x_1")
    assert "audio_melspec.py" in refused(call, made)


@pytest.mark.parametrize("spoil, keyword", [
    (lambda folder: shutil.rmtree(folder / "Annotations"), "annotations.py"),
    (lambda folder: shutil.rmtree(folder / "Cropped_Aligned"), "face_detector.py"),
    (lambda folder: (folder / "Cropped_Aligned" / "train_2" / "000007.jpg").unlink(), "000007.jpg"),
    (lambda folder: rate(folder, "train_1", "high"), "line 2"),
    (lambda folder: rate(folder, "dev_1", "-5"), "Val_Set"),
    (lambda folder: [rate(folder, name, "nan") for name in ("train_1", "train_2")], "Train_Set"),
    (lambda folder: shutil.copy(table_of(folder, "train_1"), folder / "Annotations" / "Val_Set"), "share"),
], ids=["annotations", "crops", "crop", "text", "validation ratings", "training ratings", "shared"])
def test_bad_input_is_one_line_and_leaves_no_run(made, call, spoil, keyword):
    spoil(made)
    assert keyword in refused(call, made)


def test_a_subject_both_rated_and_unlabelled_is_refused_for_a_student_alone(made, call):
    add_unlabelled(made, "dev_1")
    assert "dev_1" in refused(call, made)
    checks.check_partitions([tiny_config(data_dir=str(made), stage="visual")])


def test_clips_longer_than_a_recording_are_refused(made, call):
    assert "60 frames, less than clip_length (61)" in refused(call, made, "--clip-length", 61)


# ---- other runs, weights, packages ----------------------------------------------------------------------------------

def test_a_student_without_its_teacher_says_which_run_is_missing(made, call):
    assert "--stage teacher" in refused(call, made, "--stage", "student", code=2)
    add_unlabelled(made)
    assert "--stage audio --fold 1/2" in refused(call, made, "--stage", "student", code=2)


def test_a_teacher_whose_training_was_stopped_is_refused(trained, call):
    shutil.rmtree(run_of(trained, "teacher") / "predictions")
    words = ["--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--distill", "sp"]
    code, _, err = call("mmpkd", *words)
    assert code and "teacher_both" in err


def test_the_confirmation_test_of_audio_teachers_needs_the_visual_baseline(pseudo, call):
    for run in ("visual", "student"):
        shutil.rmtree(run_of(pseudo, run, distill="pseudo"))
    words = ["--data-dir", pseudo, *TINY, "--target", "both", "--stage", "student"]
    assert "visual_both" in one_line(*call("mmpkd", *words)[::2], expected=2)
    for changes in (["--no-confirm-audio"], ["--teachers", "visual"]):
        cfg = parse_config([*map(str, words), "--distill", "pseudo", *changes], "mmpkd.py", "")
        checks.check_before([cfg])


@pytest.mark.parametrize("stage, words", [("visual", ["--visual-weights", "gone.t7"]),
                                          ("all", ["--audio-weights", "gone.pth"])])
def test_a_missing_file_of_weights_is_told_before_any_work(made, call, stage, words):
    assert words[1] in refused(call, made, "--stage", stage, *words)


def test_weights_that_a_stage_does_not_read_are_not_missed(made):
    checks.check_before([tiny_config(data_dir=str(made), stage="visual", audio_weights="gone.pth")])


def test_finished_runs_are_not_checked_again(trained):
    shutil.rmtree(trained / "specs")
    shutil.rmtree(trained / "Cropped_Aligned")
    cfg = tiny_config(data_dir=str(trained), target="both", epochs=2, epoch_steps=2, learning_rate=0.001,
                      stage="teacher")
    checks.check_before([cfg])


def test_a_missing_tensorboard_is_said_before_any_work(made, call, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec",
                        lambda name, find=importlib.util.find_spec: None if name == "tensorboard" else find(name))
    assert "tensorboard" in refused(call, made, "--stage", "audio", "--tensorboard", code=2)


def test_a_mistake_in_a_distillation_loss_is_a_mistake_in_a_setting():
    assert checks.methods_of(tiny_config(distill="cosine:0.5+ccc:2")) == {"cosine": 0.5, "ccc": 2.0}
    with pytest.raises(SettingsError, match="distill"):
        checks.methods_of(tiny_config(distill="cosin"))


def test_fold_counts_are_of_the_training_subjects(made):
    checks.check_fold(tiny_config(data_dir=str(made), fold="2/2"))
    with pytest.raises(UserError, match="2 recordings"):
        checks.check_fold(tiny_config(data_dir=str(made), fold="1/3"))
