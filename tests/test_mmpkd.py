"""mmpkd.py: objectives, gates and the training calls, on a drawn corpus and on recordings that are easy to learn."""
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import (
    CPU,
    FRAMES,
    SHAPES,
    STAGES,
    TINY,
    add_unlabelled,
    easy_recording,
    files_of,
    kept_of,
    log_of,
    one_line,
    rate,
    run_of,
    same,
    tiny_config,
)

import data
import mmpkd
import objectives
from checkpoints import load_checkpoint, load_model
from config import Config
from data import Clips, load_recordings
from losses import ccc
from models_kd import build_model
from objectives import Distillation
from runs import INPUTS, fingerprint
from scores import predict, predictions, score
from support.errors import SettingsError, UserError
from training import Training, train_epoch

# ---- the frozen teacher, the student without sound ------------------------------------------------------------------

def test_the_teacher_is_bit_equal_after_a_students_epoch(trained):
    cfg = tiny_config(data_dir=str(trained), stage="student", target="both", modality_dropout=0.5)
    recordings = load_recordings(cfg, "Train_Set", ("frames", "specs"))
    shapes, file = data.image_shapes(recordings), run_of(trained, "teacher") / "best.pt"
    bits = file.read_bytes()
    teacher = mmpkd.load_teacher(tiny_config(data_dir=str(trained), stage="teacher", target="both"), shapes, CPU)
    before, first = {key: value.clone() for key, value in teacher.state_dict().items()}, predict(teacher, recordings)
    mmpkd.add_teacher_outputs(recordings, teacher)
    training = Training(build_model("student", cfg, shapes), cfg)
    student = {key: value.clone() for key, value in training.model.state_dict().items()}
    clips = Clips(recordings, 4, 10, ("frames", "taught"), 0, 2)
    train_epoch(training, Distillation({"cosine": 1.0}, "off", 0.5), clips)

    assert same(before, teacher.state_dict()) and not teacher.training and file.read_bytes() == bits
    assert all(np.array_equal(first[name], pred) for name, pred in predict(teacher, recordings).items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    held = {id(parameter) for group in training.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in training.model.parameters()}
    assert not same(student, training.model.state_dict()), "the student did not learn, so this test shows nothing"


def test_a_teacher_of_every_third_frame_tells_a_student_what_it_predicts_of_these():
    """Whatever the student's own stride is."""
    recording = easy_recording("a", 131, 0)
    teacher = build_model("teacher", tiny_config(clip_stride=3), SHAPES).eval().requires_grad_(False)
    mmpkd.add_teacher_outputs([recording], teacher)
    images = [torch.from_numpy(recording.arrays[name][None]) / 255 for name in teacher.inputs]
    for first in range(3):
        alone = teacher(*[each[:, first::3] for each in images])
        np.testing.assert_allclose(recording.arrays["taught"][first::3], torch.cat([alone.pred, alone.feat], 2)[0],
                                   atol=1e-5)


def test_a_teachers_outputs_are_those_of_one_pass_over_each_recording():
    recordings = [easy_recording("a", 130, 0), easy_recording("b", 40, 1)]
    teacher = build_model("teacher", tiny_config(), SHAPES).eval()
    mmpkd.add_teacher_outputs(recordings, teacher.requires_grad_(False))
    for recording in recordings:
        with torch.no_grad():
            whole = teacher(*[torch.from_numpy(recording.arrays[name][None]) / 255 for name in teacher.inputs])
        np.testing.assert_allclose(recording.arrays["taught"], torch.cat([whole.pred, whole.feat], 2)[0], atol=1e-5)
    recordings[0].gold[:40] = math.nan
    rated = np.concatenate([recording.gold[:, 0] for recording in recordings])
    pred = np.concatenate([recording.arrays["taught"][:, 0] for recording in recordings])
    (value,) = mmpkd.teacher_ccc(recordings, 1)
    assert value == pytest.approx(float(ccc(pred[np.isfinite(rated)], rated[np.isfinite(rated)])), abs=1e-6)


def texts(value):
    """Every text in a checkpoint: names of its entries, and values."""
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in texts(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("file", ["best.pt", "last.pt"])
def test_a_students_checkpoint_holds_nothing_of_sound_and_nothing_of_its_teacher(trained_corpus, pseudo_corpus, file):
    state = load_checkpoint(run_of(trained_corpus, "student") / file)
    assert not [text for text in texts(state) if "audio" in text or "spec" in text]
    visual = load_checkpoint(run_of(trained_corpus, "visual") / file)
    for one in (state, load_checkpoint(run_of(pseudo_corpus, "student", distill="pseudo") / file)):
        assert {key: value.shape for key, value in one["model"].items()} == {
            key: value.shape for key, value in visual["model"].items()}
        assert list(one["shapes"]) == ["frames"] and not one.get("adapters")


@pytest.mark.parametrize("corpus, distill", [("trained", "cosine"), ("pseudo", "pseudo")])
def test_a_student_is_evaluated_without_specs(request, corpus, distill):
    folder = request.getfixturevalue(corpus)
    shutil.rmtree(folder / "specs")
    shutil.rmtree(folder / "cache")
    run = run_of(folder, "student", distill=distill)
    model, _ = load_model(run / "best.pt")
    assert model.inputs == ("frames",)
    recordings = load_recordings(Config(data_dir=str(folder), target="both"), "Val_Set", model.inputs)
    table = pd.read_csv(run / "predictions" / "val" / "dev_1.csv")
    pred = predict(model, recordings)["dev_1"]
    np.testing.assert_allclose(pred, table[["arousal_pred", "valence_pred"]], rtol=1e-4, atol=1e-6)


# ---- learning -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", STAGES)
def test_a_model_learns_what_is_easy_to_learn(stage):
    """From nothing to a training CCC above .8; with its ratings shuffled, or not trained, it would stay near 0."""
    torch.manual_seed(0)
    cfg = tiny_config(stage=stage, learning_rate=0.01, visual_lr_scale=1.0, augment=False, visual_backbone="small_cnn",
                      audio_backbone="small_cnn")
    recordings = [easy_recording("a", 200, 0), easy_recording("b", 200, 1)]
    objective, inputs = objectives.task_objective, INPUTS[stage]
    if stage == "student":
        mmpkd.add_teacher_outputs(recordings, build_model("teacher", cfg, SHAPES).eval().requires_grad_(False))
        objective, inputs = Distillation({"cosine": 1.0}, "adaptive", 0.5), ("frames", "taught")
    training = Training(build_model(stage, cfg, SHAPES), cfg)

    def train_ccc():
        return score(predictions(training.model, recordings, cfg), ["arousal"])["arousal"]["mean"]

    before = train_ccc()
    for _ in range(12):
        parts = train_epoch(training, objective, Clips(recordings, 8, 10, inputs, 0))
        training.end_epoch(0.0)
    assert abs(before) < 0.3 and train_ccc() > 0.8 and parts["task"] < 0.3


def test_a_student_of_weight_one_follows_its_teacher_without_any_rating():
    """Hints alone: the student's features come to point where the teacher's do, though no rating is valid."""
    torch.manual_seed(0)
    cfg = tiny_config(stage="student", learning_rate=0.005, visual_lr_scale=1.0, augment=False)
    recordings = [easy_recording("a", 200, 0)]
    recordings[0].gold[:] = math.nan
    mmpkd.add_teacher_outputs(recordings, build_model("teacher", cfg, SHAPES).eval().requires_grad_(False))
    training = Training(build_model("student", cfg, SHAPES), cfg)
    objective, hints = Distillation({"cosine": 1.0}, "off", 1.0), []
    for _ in range(8):
        hints.append(train_epoch(training, objective, Clips(recordings, 4, 10, ("frames", "taught"), 0))["hint"])
        training.end_epoch(0.0)
    assert hints[-1] < 0.5 * hints[0]


# ---- runs -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage, distill", [*((stage, "cosine") for stage in STAGES), ("student", "pseudo")])
def test_every_stage_leaves_the_files_of_a_run(trained_corpus, pseudo_corpus, stage, distill):
    corpus = pseudo_corpus if distill == "pseudo" else trained_corpus
    folder = run_of(corpus, stage, distill=distill)
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "subjects.json", "log.jsonl", "last.pt", "best.pt", "predictions", "curves.png"} | (
            {"labels"} if distill == "pseudo" else set())
    assert json.loads((folder / "config.json").read_text())["stage"] == stage
    assert [line["epoch"] for line in log_of(folder)] == [1, 2]
    taught = {"cosine": {"hint", "beta", "teacher"}, "pseudo": {"labels"}}[distill] if stage == "student" else set()
    assert {"epoch", "loss", "task", "gradient", "val", "best"} | taught == set(log_of(folder)[0])
    paths = sorted((folder / "predictions").rglob("*.csv"))
    assert [path.relative_to(folder / "predictions").as_posix() for path in paths] == [
        "train/train_1.csv", "train/train_2.csv", "val/dev_1.csv"]
    for path in paths:
        table = pd.read_csv(path)
        assert list(table) == ["time_s", "arousal_gold", "arousal_pred", "valence_gold", "valence_pred"]
        gold = pd.read_csv(next((corpus / "Annotations").glob(f"*/{path.name}")))
        np.testing.assert_allclose(table["time_s"], np.arange(FRAMES) / 25)
        np.testing.assert_allclose(table[["arousal_gold", "valence_gold"]], gold[["arousal", "valence"]], atol=1e-6)
        assert np.isfinite(table.to_numpy()).all() and table["arousal_pred"].std() > 0


def test_best_and_predictions_are_of_the_epoch_with_the_best_validation_ccc(trained_corpus):
    for stage in STAGES:
        folder = run_of(trained_corpus, stage)
        values = [np.mean([value["mean"] for value in line["val"].values()]) for line in log_of(folder)]
        best = load_checkpoint(folder / "best.pt")
        assert best["epoch"] == 1 + int(np.argmax(values))
        table = pd.read_csv(folder / "predictions" / "val" / "dev_1.csv")
        for target in ("arousal", "valence"):
            pred, gold = (table[f"{target}_{kind}"].to_numpy() for kind in ("pred", "gold"))
            assert float(ccc(pred, gold)) == pytest.approx(
                log_of(folder)[best["epoch"] - 1]["val"][target]["mean"], abs=1e-4)


def test_rated_recordings_alone_give_three_runs_and_a_second_call_does_nothing(made, call):
    words = ["--data-dir", made, *TINY]
    code, out, err = call("mmpkd", *words)
    assert code == 0, err
    assert {path.name for path in (made / "runs").iterdir()} == {
        "visual_arousal", "teacher_arousal", "student_arousal_cosine"}
    assert "distilled" in out.splitlines()[0] and "cosine" in out.splitlines()[0], "the way of teaching comes first"
    before = files_of(made / "runs")
    code, again, err = call("mmpkd", *words)
    assert code == 0 and again.count("nothing to do") == 3 and files_of(made / "runs") == before, err
    assert again.splitlines()[-6:] == out.splitlines()[-6:], "the table of finished runs is another one"


def test_unlabelled_recordings_give_ensembles_and_a_student_of_pseudo_labels(pseudo_corpus):
    assert {path.name for path in (pseudo_corpus / "runs").iterdir()} == {
        "visual_both", "teacher_both", "audio_both", "student_both_pseudo",
        *(f"{stage}_both_fold{number}of2" for stage in ("audio", "visual") for number in (1, 2))}
    lines = (pseudo_corpus / "printed.txt").read_text().splitlines()
    assert "pseudo-labels" in lines[0] and "2 unlabelled" in lines[0]
    assert sum("weights of the teacher ensembles" in line for line in lines) == 2
    assert any("student (pseudo-labels)" in line for line in lines[-6:]), "the table does not say how it was taught"


@pytest.mark.parametrize("unlabelled, extra", [
    (False, []), (True, ["audio 1/2", "audio 2/2", "visual 1/2", "visual 2/2"])])
def test_the_order_is_teachers_of_folds_visual_teacher_student(made, call, monkeypatch, unlabelled, extra):
    ran, nothing = [], {"arousal": {"mean": 0.0, "concatenated": 0.0}}
    monkeypatch.setattr(mmpkd, "train", lambda cfg, device: ran.append(f"{cfg.stage} {cfg.fold}".strip()) or nothing)
    if unlabelled:
        add_unlabelled(made)
    code, _, err = call("mmpkd", "--data-dir", made, *TINY)
    assert code == 0 and ran == [*extra, "visual", "teacher", "student"], err


@pytest.mark.parametrize("words", [["--distill", "cosine_original", "--gate", "off", "--optimizer", "sgd"],
                                   ["--distill", "fitnets:0.5+ccc:0.5", "--no-augment", "--max-grad-norm", 0],
                                   ["--distill", "ot", "--scheduler", "plateau", "--batch-size", 1]])
def test_students_are_distilled_with_every_setting(trained, call, words):
    code, out, err = call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--stage", "student", *words,
                          "--epochs", 1)
    assert code == 0 and "finished" in out, err


def test_the_papers_settings_train_and_say_what_their_gate_does(made, call):
    paper = Path(mmpkd.__file__).with_name("paper.json")
    code, out, err = call("mmpkd", "--config", paper, "--data-dir", made, *TINY, "--epochs", 1)
    assert code == 0 and "gate original" in out and "negative" in out, err
    assert (run_of(made, "student", "arousal", "cosine_original") / "predictions").is_dir()


def test_distillation_uses_unlabelled_recordings_and_the_baseline_does_not(trained, call, monkeypatch):
    add_unlabelled(trained)
    seen = []
    monkeypatch.setattr(data, "Clips", lambda *words: seen.append(Clips(*words)) or seen[-1])
    words = ["--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--distill", "ccc"]
    assert call("mmpkd", *words)[0] == 0
    assert call("mmpkd", *words, "--unlabelled", 0, "--variant", "rated")[0] == 0
    assert call("mmpkd", *words[:-4], "--stage", "visual", "--variant", "again")[0] == 0
    assert [[one.name for one in clips.recordings] for clips in seen] == [
        ["train_1", "train_2", "x_1"], ["train_1", "train_2"], ["train_1", "train_2"]]
    assert {path.name for path in run_of(trained, "student", distill="ccc").rglob("*.csv")} == {
        "train_1.csv", "train_2.csv", "dev_1.csv"}


def test_a_teacher_that_the_gate_cannot_trust_is_said_before_the_student_trains(trained, call, monkeypatch):
    words = ["--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--epoch-steps", 1]
    for values, distill, told in [([-0.1, 0.0], "ccc", True), ([-0.1, 0.1], "sp", False)]:
        monkeypatch.setattr(mmpkd, "teacher_ccc", lambda *_, values=values: values)
        code, out, err = call("mmpkd", *words, "--distill", distill)
        assert code == 0 and ("visual baseline" in out) == told, err


def test_a_student_takes_as_many_gradient_steps_as_its_baseline(pseudo_corpus, trained_corpus):
    def steps(folder):
        return {float(each["step"]) for each in load_checkpoint(folder / "last.pt")["optimizer"]["state"].values()}

    assert steps(run_of(pseudo_corpus, "student", distill="pseudo")) == steps(run_of(pseudo_corpus, "visual")) == {4.0}
    assert steps(run_of(trained_corpus, "student")) == {4.0}


def test_a_student_whose_teachers_see_needs_no_sound(pseudo, call):
    shutil.rmtree(pseudo / "specs")
    words = ["--data-dir", pseudo, *TINY, "--target", "both", "--variant", "seen"]
    code, out, err = call("mmpkd", *words, "--stage", "student", "--teachers", "visual")
    assert code == 0 and "finished" in out, err
    assert "audio_melspec.py" in one_line(*call("mmpkd", *words, "--stage", "teacher")[::2])


def test_a_single_target_has_its_own_run_and_its_own_columns(made, call):
    for target in ("arousal", "valence"):
        assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--target", target, "--epochs", 1)[0] == 0
        table = pd.read_csv(run_of(made, "visual", target) / "predictions" / "val" / "dev_1.csv")
        assert list(table) == ["time_s", f"{target}_gold", f"{target}_pred"]
        assert load_checkpoint(run_of(made, "visual", target) / "best.pt")["targets"] == [target]


def test_the_same_seed_gives_the_same_predictions_and_another_seed_others(made, call):
    runs = []
    for number, seed in enumerate([5, 5, 6]):
        assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "teacher", "--seed", seed, "--epochs", 1,
                    "--runs-dir", made / f"runs{number}")[0] == 0
        runs.append(files_of(made / f"runs{number}" / "teacher_arousal" / "predictions"))
    assert runs[0] == runs[1] and runs[0] != runs[2]


# ---- teachers that do not fit ---------------------------------------------------------------------------------------

def test_a_teacher_of_other_targets_or_images_is_refused_and_one_that_fits_is_frozen(trained):
    cfg = tiny_config(data_dir=str(trained), stage="teacher", target="both")
    shapes = {"frames": (3, 32, 32), "specs": (1, 16, 101)}
    teacher = mmpkd.load_teacher(cfg, shapes, CPU)
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    with pytest.raises(UserError, match="32"):
        mmpkd.load_teacher(cfg, shapes | {"frames": (3, 40, 40)}, CPU)
    shutil.copytree(run_of(trained, "teacher"), run_of(trained, "teacher", "arousal"))
    with pytest.raises(UserError, match="valence"):
        mmpkd.load_teacher(tiny_config(data_dir=str(trained), stage="teacher"), shapes, CPU)
    shutil.rmtree(run_of(trained, "teacher"))
    with pytest.raises(SettingsError, match="missing"):
        mmpkd.load_teacher(cfg, shapes, CPU)


def test_a_teacher_that_is_the_network_of_another_run_is_refused(pseudo):
    one = tiny_config(data_dir=str(pseudo), stage="visual", target="both", distill="pseudo", fold="1/2")
    mine, other = (pseudo / "runs" / f"visual_both_fold{number}of2" / "best.pt" for number in (1, 2))
    shapes = {"frames": (3, 32, 32), "specs": (1, 16, 101)}
    mmpkd.load_teacher(one, shapes, CPU)
    shutil.copy(other, mine)
    with pytest.raises(UserError, match=rf"{re.escape(str(mine))} is not the network that made .* delete "):
        mmpkd.load_teacher(one, shapes, CPU)


def test_a_student_is_not_resumed_with_a_teacher_that_was_trained_again(trained, call):
    words = ["--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--resume", "--epochs", 3]
    file = run_of(trained, "teacher") / "best.pt"
    before = fingerprint([tiny_config(data_dir=str(trained), stage="teacher", target="both")])
    state = load_checkpoint(file)
    torch.save(state | {"epoch": 99}, file)
    assert before != fingerprint([tiny_config(data_dir=str(trained), stage="teacher", target="both")])
    assert "teachers" in one_line(*call("mmpkd", *words)[::2])


# ---- subjects held out, ratings that are missing --------------------------------------------------------------------

def test_a_fold_holds_subjects_out_and_chooses_the_epoch_on_them(made, call):
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--fold", "2/2")
    assert code == 0 and "held-out CCC" in out, err
    folder = made / "runs" / "visual_arousal_fold2of2"
    tables = {path.relative_to(folder / "predictions").as_posix(): pd.read_csv(path) for path in folder.rglob("*.csv")}
    assert set(tables) == {"train/train_1.csv", "held_out/train_2.csv", "val/dev_1.csv"}
    table, best = tables["held_out/train_2.csv"], load_checkpoint(folder / "best.pt")["epoch"]
    assert float(ccc(table["arousal_pred"].to_numpy(), table["arousal_gold"].to_numpy())) == pytest.approx(
        log_of(folder)[best - 1]["val"]["arousal"]["mean"], abs=1e-4)


def test_a_fold_does_not_look_at_the_ratings_it_reports_on(made, call):
    """With other ratings in Val_Set everything that was learned and chosen is the same."""
    for number in range(2):
        if number:
            rate(made, "dev_1", [str(round(0.9 * math.sin(k), 3)) for k in range(FRAMES)])
        words = ["--data-dir", made, *TINY, "--stage", "visual", "--fold", "1/2", "--runs-dir", made / f"runs{number}"]
        assert call("mmpkd", *words)[0] == 0
    one, other = (made / f"runs{number}" / "visual_arousal_fold1of2" for number in range(2))
    one_kept, other_kept = kept_of(one), kept_of(other)
    for card in (one_kept.pop("card"), other_kept.pop("card")):
        assert card["trained_on"]["Train_Set"] == ["train_2"]  # its CCC on Val_Set is another one
    assert same(one_kept, other_kept) and log_of(one) == log_of(other)


def test_the_last_epoch_can_be_kept_so_that_nothing_is_chosen(made, call, monkeypatch):
    values = iter([0.9, 0.2, 0.1, 0.1])
    monkeypatch.setattr(mmpkd, "score", lambda *_: {"arousal": {"mean": next(values, 0.0), "concatenated": 0.0}})
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--keep", "last")
    folder = run_of(made, "visual", "arousal")
    assert code == 0 and "epoch 2 was the last" in out, err
    assert load_checkpoint(folder / "best.pt")["epoch"] == 2
    assert same(load_checkpoint(folder / "best.pt")["model"], load_checkpoint(folder / "last.pt")["model"])


def test_a_recording_without_ratings_is_said_and_masked(made, call):
    rate(made, "train_2", "-5")
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 1)
    assert code == 0 and "train_2" in out, err
    path = run_of(made, "visual", "arousal") / "predictions" / "train" / "train_2.csv"
    assert pd.read_csv(path)["arousal_gold"].isna().all() and np.isfinite(pd.read_csv(path)["arousal_pred"]).all()
    assert ",nan," in path.read_text()
