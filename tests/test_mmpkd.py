"""mmpkd.py: objectives, gate, predictor, checkpoints and runs, on a drawn corpus and on sets that are easy to learn."""
import contextlib
import json
import math
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FRAMES, TINY
from hypothesis import given
from hypothesis import strategies as st

import data
import mmpkd
from config import Config, UserError
from data import Batch, Recording, load_recordings
from losses import DISTILL, ccc
from mmpkd import GATES, Training, adaptive_gate, load_checkpoint, load_model, original_gate, predict, score, train_epoch
from models_kd import build_model

torch.set_num_threads(1)
SHAPES = {"frames": (3, 16, 16), "specs": (1, 8, 16)}
STAGES = ["visual", "teacher", "student", "audio"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained_corpus(made_corpus, tmp_path_factory):
    """made_corpus with a finished run of every stage for both targets. Read only."""
    folder = tmp_path_factory.mktemp("trained") / "data"
    shutil.copytree(made_corpus, folder)
    for stage in STAGES:
        mmpkd.main(["--data-dir", str(folder), *TINY, "--target", "both", "--stage", stage])
    return folder


@pytest.fixture
def trained(trained_corpus, tmp_path):
    """A copy of trained_corpus to change at will."""
    return shutil.copytree(trained_corpus, tmp_path / "data")


def run_of(folder, stage, target="both"):
    return folder / "runs" / (f"{stage}_{target}" + "_cosine" * (stage == "student"))


def tiny_config(**changes):
    small = dict(visual_backbone="small_cnn", audio_backbone="small_cnn", feature_size=16, gru_size=16, clip_length=10, device="cpu")
    return Config(**small | changes)


def easy_set(name, frames, seed):
    """A Recording whose pictures are as bright, and whose spectrograms as dark, as its arousal is high."""
    draw = np.random.default_rng(seed)
    gold = 0.8 * np.sin(np.arange(frames) / 9 + draw.uniform(0, 6)).astype(np.float32)
    level = (gold[:, None, None, None] + 1) / 2
    arrays = {"frames": 20 + 200 * level + draw.normal(0, 10, (frames, *SHAPES["frames"])),
              "specs": 20 + 200 * (1 - level) + draw.normal(0, 10, (frames, *SHAPES["specs"]))}
    return Recording(name, gold[:, None], {}, {key: array.clip(0, 255).astype(np.uint8) for key, array in arrays.items()})


def easy_batch(clips=3, frames=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pictures = [torch.rand(clips, frames, *SHAPES[name], generator=generator) for name in ("frames", "specs")]
    return Batch(*pictures, torch.rand(clips, frames, 1, generator=generator) * 2 - 1)


def same(one, other):
    """Whether two checkpoints (nested dicts, lists, tensors, plain values) are equal bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


def log_of(folder):
    """The lines of log.jsonl, without how long each epoch took."""
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in (folder / "log.jsonl").read_text().splitlines()]


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def one_line(code, err, expected=1):
    """The message of a script that failed as it should: one line, its exit code, no traceback."""
    assert code == expected and err.count("\n") == 1 and "Traceback" not in err, err
    return err


# ---- the gate -------------------------------------------------------------------------------------------------------

losses = st.floats(0, 2, width=32)


@given(losses, losses, st.floats(0, 1))
def test_the_adaptive_gate_stays_within_its_weight_and_never_rises_with_the_teachers_loss(one, other, weight):
    low, high = (float(adaptive_gate(torch.tensor(loss), weight)) for loss in sorted([one, other]))
    assert 0 <= high <= low <= weight + 1e-7 <= 1 + 1e-7


def test_the_adaptive_gate_gives_a_perfect_teacher_all_and_a_useless_one_nothing():
    assert float(adaptive_gate(torch.tensor(0.0), 0.6)) == pytest.approx(0.6)
    assert [float(adaptive_gate(torch.tensor(loss), 0.6)) for loss in (1.0, 1.5, 2.0)] == [0, 0, 0]


@given(losses)
def test_the_original_gate_is_as_the_original_code(loss):
    g = torch.tensor(loss)
    expected = 0.2 + float(g) if float(g) <= float(torch.tensor(0.2)) or float(g) > 1 else 1.0
    assert float(original_gate(g, 0.5)) == pytest.approx(expected)


def test_gate_off_is_a_fixed_weight():
    assert {round(float(GATES["off"](torch.tensor(loss), 0.3)), 6) for loss in (0.0, 0.5, 2.0)} == {0.3}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("distill", DISTILL)
def test_a_students_loss_is_the_weighted_sum_of_ratings_and_hint(gate, distill):
    cfg = tiny_config()
    teacher = build_model("teacher", cfg, SHAPES).eval().requires_grad_(False)
    student, batch = build_model("student", cfg, SHAPES).eval(), easy_batch()
    loss, parts = mmpkd.distill_objective(teacher, distill, gate, 0.4)(student, batch)
    with torch.no_grad():
        taught, learned = teacher(batch.frames, batch.specs), student(batch.frames)
        task, teacher_loss = (1 - ccc(output.pred.flatten(), batch.gold.flatten()) for output in (learned, taught))
        hint = DISTILL[distill](learned.feat.flatten(0, 1), taught.feat.flatten(0, 1))
        beta = GATES[gate](teacher_loss, 0.4)
    assert float(loss.detach()) == pytest.approx(float((1 - beta) * task + beta * hint), abs=1e-6)
    assert {key: float(value.detach()) for key, value in parts.items()} == pytest.approx(
        {"task": float(task), "hint": float(hint), "beta": float(beta), "teacher": float(teacher_loss)}, abs=1e-6)


def test_the_task_loss_is_over_all_frames_of_the_batch_and_not_over_clips():
    batch = easy_batch()
    model = build_model("visual", tiny_config(), SHAPES).eval()
    with torch.no_grad():
        loss, parts = mmpkd.task_objective(model, batch)
        expected = 1 - float(ccc(model(batch.frames).pred.flatten(), batch.gold.flatten()))
    assert float(loss) == float(parts["task"]) == pytest.approx(expected, abs=1e-6)


# ---- the frozen teacher, the student without sound ------------------------------------------------------------------

def test_weights_statistics_and_outputs_of_the_teacher_are_bit_equal_after_a_student_epoch(trained):
    cfg = tiny_config(data_dir=str(trained), stage="student", target="both", modality_dropout=0.5)
    recordings = load_recordings(cfg, "Train_Set", ("frames", "specs"))
    shapes = data.picture_shapes(recordings)
    teacher = mmpkd.load_teacher(run_of(trained, "teacher") / "best.pt", cfg.targets, shapes, CPU)
    before, outputs = {key: value.clone() for key, value in teacher.state_dict().items()}, predict(teacher, recordings)
    assert any("running_var" in key for key in before) and not teacher.training

    training = Training(build_model("student", cfg, shapes), cfg)
    student = {key: value.clone() for key, value in training.model.state_dict().items()}
    objective = mmpkd.distill_objective(teacher, "cosine", "off", 0.5)
    train_epoch(training, objective, data.training_batches(recordings, 4, 10, ("frames", "specs"), training.generator), CPU, cfg)

    assert same(before, teacher.state_dict()) and not teacher.training
    assert all(np.array_equal(outputs[name], pred) for name, pred in predict(teacher, recordings).items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    held = {id(parameter) for group in training.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in training.model.parameters()}
    assert not same(student, training.model.state_dict()), "the student did not learn, so this test tells nothing"


def texts(value):
    """Every text in a checkpoint: names of its entries, and values."""
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in texts(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("file", ["best.pt", "last.pt"])
def test_a_students_checkpoint_holds_nothing_of_sound_and_nothing_of_its_teacher(trained_corpus, file):
    state = load_checkpoint(run_of(trained_corpus, "student") / file)
    assert not [text for text in texts(state) if "audio" in text or "spec" in text]
    visual = load_checkpoint(run_of(trained_corpus, "visual") / file)
    assert {key: value.shape for key, value in state["model"].items()} == {key: value.shape for key, value in visual["model"].items()}


def test_a_student_is_evaluated_without_specs(trained):
    shutil.rmtree(trained / "specs")
    shutil.rmtree(trained / "cache")
    model, state = load_model(run_of(trained, "student") / "best.pt")
    assert state["shapes"] == {"frames": (3, 32, 32)} and model.inputs == ("frames",)
    recordings = load_recordings(Config(data_dir=str(trained), target="both"), "Val_Set", model.inputs)
    table = pd.read_csv(run_of(trained, "student") / "predictions" / "val" / "dev_1.csv")
    np.testing.assert_allclose(predict(model, recordings)["dev_1"], table[["arousal_pred", "valence_pred"]], rtol=1e-4, atol=1e-6)


# ---- the predictor --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", STAGES)
def test_predict_equals_one_pass_over_the_whole_recording(stage):
    recordings = [easy_set("long", 230, 0), easy_set("short", 1, 1)]
    model = build_model(stage, tiny_config(), SHAPES)
    model(*[torch.rand(4, 5, *SHAPES[name]) for name in model.inputs])  # running statistics unlike those at the start
    preds = predict(model, recordings)
    assert model.training, "predict must leave the model in the mode it found"
    model.eval()
    for recording in recordings:
        with torch.no_grad():
            whole = model(*[torch.from_numpy(recording.arrays[name][None]) / 255 for name in model.inputs]).pred[0]
        assert preds[recording.name].shape == (len(recording), 1) and preds[recording.name].dtype == np.float32
        np.testing.assert_allclose(preds[recording.name], whole, atol=1e-5)


def test_predict_changes_nothing_in_the_model():
    model = build_model("teacher", tiny_config(), SHAPES).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one, other = (predict(model, [easy_set("x", 120, 0)])["x"] for _ in range(2))
    assert same(before, model.state_dict()) and np.array_equal(one, other)


# ---- scores ---------------------------------------------------------------------------------------------------------

def tables_of(**series):
    return {name: pd.DataFrame({"arousal_gold": gold, "arousal_pred": pred}) for name, (gold, pred) in series.items()}


def test_scores_are_per_recording_their_mean_and_concatenated():
    draw = np.random.default_rng(0)
    series = {name: draw.normal(size=(2, 50)) for name in "ab"}
    scores = score(tables_of(**series), ["arousal"])["arousal"]
    each = {name: float(ccc(pred, gold)) for name, (gold, pred) in series.items()}
    assert scores == pytest.approx({**each, "mean": sum(each.values()) / 2,
                                    "concatenated": float(ccc(*np.concatenate([*series.values()], 1)[::-1].copy()))})


def test_frames_and_recordings_without_a_valid_rating_do_not_count():
    gold = np.linspace(-1, 1, 20)
    pred = gold ** 3
    gaps = np.concatenate([gold, [math.nan, math.nan]]), np.concatenate([pred, [5, -5]])
    scores = score(tables_of(a=gaps, b=(np.full(9, math.nan), np.zeros(9))), ["arousal"])["arousal"]
    assert scores["a"] == scores["mean"] == scores["concatenated"] == pytest.approx(float(ccc(pred, gold))) and "b" not in scores


def test_a_prediction_that_is_not_a_number_is_not_left_out_of_the_score():
    gold = np.linspace(-1, 1, 20)
    scores = score(tables_of(a=(gold, np.where(gold > 0.9, math.nan, gold))), ["arousal"])["arousal"]
    assert math.isnan(scores["a"]) and math.isnan(scores["mean"]) and math.isnan(scores["concatenated"])


def test_the_comparison_says_how_much_of_the_gap_was_closed():
    values = {"visual": 0.2, "teacher": 0.6, "student": 0.3}
    scores = {stage: {"arousal": {"mean": value, "concatenated": 1 - value}} for stage, value in values.items()}
    text = mmpkd.comparison(scores, ["arousal"])
    assert "visual (lower bound)               0.200         0.800" in text and "student                            0.300" in text
    assert text.splitlines()[4].split() == ["gap", "closed", "by", "student", "25%", "no", "gap"]
    assert "best on Val_Set" in text.splitlines()[-1]


# ---- learning -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", STAGES)
def test_a_model_learns_what_is_easy_to_learn(stage):
    """From nothing to a training CCC above .8; with its labels shuffled, or not trained, it would stay near 0."""
    torch.manual_seed(0)
    cfg = tiny_config(stage=stage, learning_rate=0.01, visual_lr_scale=1.0, augment=False)
    recordings = [easy_set("a", 200, 0), easy_set("b", 200, 1)]
    teacher = build_model("teacher", cfg, SHAPES).eval().requires_grad_(False)
    objective = mmpkd.distill_objective(teacher, "cosine", "adaptive", 0.5) if stage == "student" else mmpkd.task_objective
    training = Training(build_model(stage, cfg, SHAPES), cfg)

    def train_ccc():
        return score(mmpkd.predictions(training.model, recordings, cfg), ["arousal"])["arousal"]["mean"]

    before = train_ccc()
    for _ in range(12):
        batches = data.training_batches(recordings, 8, 10, mmpkd.trained_on(stage), training.generator)
        parts = train_epoch(training, objective, batches, CPU, cfg)
        training.end_epoch(0.0)
    assert abs(before) < 0.3 and train_ccc() > 0.8 and parts["task"] < 0.3


def test_a_student_of_weight_one_follows_its_teacher_without_any_rating():
    """Hints alone: the student's features come to point where the teacher's do, though no rating is valid."""
    torch.manual_seed(0)
    cfg = tiny_config(stage="student", learning_rate=0.005, visual_lr_scale=1.0, augment=False)
    recordings = [easy_set("a", 200, 0)]
    recordings[0].gold[:] = math.nan
    teacher = build_model("teacher", cfg, SHAPES).eval().requires_grad_(False)
    training = Training(build_model("student", cfg, SHAPES), cfg)
    objective = mmpkd.distill_objective(teacher, "cosine", "off", 1.0)
    hints = [train_epoch(training, objective, data.training_batches(recordings, 4, 10, ("frames", "specs"), training.generator), CPU, cfg)["hint"]
             for _ in range(8)]
    assert hints[-1] < 0.5 * hints[0]


# ---- optimizer, scheduler, early stopping ---------------------------------------------------------------------------

def test_every_part_has_its_own_learning_rate_and_every_weight_is_trained_once():
    cfg = Config(visual_backbone="small_cnn", audio_backbone="small_cnn", audio_lr_scale=0.5)
    teacher = build_model("teacher", cfg, SHAPES)
    groups = mmpkd.make_optimizer(teacher, cfg).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(teacher.parameters())) == sum(len(group["params"]) for group in groups)
    for name, parameter in teacher.named_parameters():
        assert rates[id(parameter)] == pytest.approx({"visual": 1e-5, "audio": 5e-5}.get(name.split(".")[0], 1e-4)), name


@pytest.mark.parametrize("optimizer, kind", [("adam", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_both_optimizers_are_offered(optimizer, kind):
    assert type(mmpkd.make_optimizer(build_model("visual", tiny_config(), SHAPES), tiny_config(optimizer=optimizer))) is kind


def test_schedulers_change_the_learning_rate_per_epoch():
    def rates(scheduler, values):
        training = Training(build_model("audio", tiny_config(), SHAPES), tiny_config(scheduler=scheduler, epochs=len(values), learning_rate=1.0))
        seen = []
        for value in values:
            seen.append(training.optimizer.param_groups[-1]["lr"])
            training.optimizer.step()
            training.end_epoch(value)
        return seen

    assert rates("cosine", [0.0] * 4) == pytest.approx([(1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)])
    assert rates("none", [0.0] * 3) == [1, 1, 1]
    assert rates("plateau", [0.5, 0.4, 0.4, 0.4, 0.4, 0.6]) == [1, 1, 1, 1, 0.5, 0.5]  # after more than 2 epochs without a better one


def test_a_validation_ccc_that_is_not_a_number_is_never_the_best_and_hides_none():
    training = Training(build_model("audio", tiny_config(), SHAPES), tiny_config(scheduler="none"))
    assert [training.end_epoch(value) for value in (math.nan, 0.1, math.nan, 0.1, 0.2)] == [False, True, False, False, True]
    assert training.best == 0.2 and training.stale == 0 and training.epoch == 5


def scripted(monkeypatch, values):
    """Makes the validation CCCs of a run these, whatever the model does."""
    values = iter(values)
    monkeypatch.setattr(mmpkd, "score", lambda tables, targets: {target: {"mean": next(values, 0.0), "concatenated": 0.0} for target in targets})


def test_training_stops_early_and_keeps_the_best_epoch_and_says_both(made, call, monkeypatch):
    scripted(monkeypatch, [0.1, 0.3, 0.2, 0.25, 0.9])
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "audio", "--epochs", 5, "--patience", 2)
    folder = run_of(made, "audio", "arousal")
    assert code == 0, err
    assert "stopped early, after 2 epochs without a better validation CCC (patience 2)" in out
    assert "epoch 2 had the best validation CCC and is kept" in out
    assert [line["best"] for line in log_of(folder)] == [True, True, False, False]
    assert load_checkpoint(folder / "best.pt")["epoch"] == 2 and load_checkpoint(folder / "last.pt")["epoch"] == 4


def test_a_learning_rate_far_too_high_ends_in_one_line_that_names_the_parts(made, call):
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--learning-rate", "1e30", "--visual-lr-scale", 1)[::2])
    assert "not finite" in line and "loss nan" in line and "task" in line and "epoch 1" in line and "--learning-rate" in line


def test_a_gradient_that_is_not_finite_never_reaches_the_weights():
    cfg = tiny_config(max_grad_norm=0)
    training = Training(build_model("visual", cfg, SHAPES), cfg)

    def objective(model, batch):
        loss = (model(batch.frames).pred * 0).sqrt().sum()  # is 0, with the slope of a square root there
        return loss, {"task": loss}

    before = {key: value.clone() for key, value in training.model.named_parameters()}
    with pytest.raises(UserError, match="loss 0, task 0, gradient nan"):
        train_epoch(training, objective, [easy_batch()], CPU, cfg)
    assert same(before, dict(training.model.named_parameters()))


# ---- runs -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_leaves_the_files_of_a_run(trained_corpus, stage):
    folder = run_of(trained_corpus, stage)
    assert {path.name for path in folder.iterdir()} == {"config.json", "log.jsonl", "last.pt", "best.pt", "predictions"}
    assert json.loads((folder / "config.json").read_text())["stage"] == stage
    assert [line["epoch"] for line in log_of(folder)] == [1, 2]
    assert {"loss", "task", "val", "best"} | ({"hint", "beta", "teacher"} if stage == "student" else set()) | {"epoch"} == set(log_of(folder)[0])
    assert {str(path.relative_to(folder / "predictions")) for path in (folder / "predictions").rglob("*.csv")} == {
        "train/train_1.csv", "train/train_2.csv", "val/dev_1.csv"}
    for path in (folder / "predictions").rglob("*.csv"):
        table = pd.read_csv(path)
        assert list(table) == ["time_s", "arousal_gold", "arousal_pred", "valence_gold", "valence_pred"]
        gold = pd.read_csv(next((trained_corpus / "Annotations").glob(f"*/{path.name}")))
        np.testing.assert_allclose(table["time_s"], np.arange(FRAMES) / 25)
        np.testing.assert_allclose(table[["arousal_gold", "valence_gold"]], gold[["arousal", "valence"]], atol=1e-6)
        assert np.isfinite(table.to_numpy()).all() and table["arousal_pred"].std() > 0


def test_all_stages_end_with_the_comparison_and_a_second_call_does_nothing(made, call):
    words = ["--data-dir", made, *TINY, "--stage", "all", "--target", "arousal"]
    code, out, err = call("mmpkd", *words)
    assert code == 0, err
    assert [line.split("  ")[0] for line in out.splitlines()[-6:-1]] == [
        "CCC on Val_Set", "visual (lower bound)", "teacher (upper bound)", "student", "gap closed by student"]
    made_before = files_of(made / "runs")
    code, again, err = call("mmpkd", *words)
    assert code == 0 and again.count("finished before, nothing to do") == 3 and files_of(made / "runs") == made_before
    assert again.splitlines()[-6:] == out.splitlines()[-6:], "the table of a finished run is another one"


@pytest.mark.parametrize("words", [["--distill", "cosine_original", "--gate", "original"], ["--gate", "off", "--optimizer", "sgd"],
                                   ["--scheduler", "plateau", "--no-augment", "--max-grad-norm", 0], ["--linear-heads", "--batch-size", 1]])
def test_students_train_with_every_setting(trained, call, words):
    code, out, err = call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--stage", "student", *words, "--epochs", 1,
                          "--teacher-checkpoint", run_of(trained, "teacher") / "best.pt", "--runs-dir", trained / "others")
    assert code == 0 and "finished; epoch 1 had the best validation CCC" in out, err


def test_a_single_target_has_its_own_run_and_its_own_columns(made, call):
    for target in ("arousal", "valence"):
        assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--target", target)[0] == 0
        table = pd.read_csv(run_of(made, "visual", target) / "predictions" / "val" / "dev_1.csv")
        assert list(table) == ["time_s", f"{target}_gold", f"{target}_pred"]
        assert load_checkpoint(run_of(made, "visual", target) / "best.pt")["targets"] == [target]


def test_the_same_seed_gives_the_same_predictions_and_another_seed_others(made, call):
    runs = []
    for number, seed in enumerate([5, 5, 6]):
        assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "teacher", "--seed", seed, "--runs-dir", made / f"runs{number}")[0] == 0
        runs.append(files_of(made / f"runs{number}" / "teacher_arousal" / "predictions"))
    assert runs[0] == runs[1] and runs[0] != runs[2]


def test_best_and_predictions_are_of_the_epoch_with_the_best_validation_ccc(trained_corpus):
    for stage in STAGES:
        folder = run_of(trained_corpus, stage)
        values = [np.mean([line["val"][target]["mean"] for target in ("arousal", "valence")]) for line in log_of(folder)]
        best = load_checkpoint(folder / "best.pt")
        assert best["epoch"] == 1 + int(np.argmax(values))
        table = pd.read_csv(folder / "predictions" / "val" / "dev_1.csv")
        for target in ("arousal", "valence"):
            assert float(ccc(table[f"{target}_pred"].to_numpy(), table[f"{target}_gold"].to_numpy())) == pytest.approx(
                log_of(folder)[best["epoch"] - 1]["val"][target]["mean"], abs=1e-4)


def test_help_lists_the_settings_with_their_meaning(call, capsys):
    with pytest.raises(SystemExit) as end:
        call("mmpkd", "--help")
    printed = capsys.readouterr().out
    assert end.value.code == 0 and "--batch-size" in printed and "clips per gradient step [8]" in printed and "--face-size" not in printed


# ---- stopping and going on ------------------------------------------------------------------------------------------

class Stop:
    """Breaks a run off, as Ctrl-C does, at one place: when the checkpoint of that name of that epoch is to be written,
    in the middle of that epoch's steps, or when predictions are."""

    def __init__(self, monkeypatch, at, epoch):
        self.at, self.epoch = at, epoch
        self.save, self.clip = mmpkd.save_checkpoint, torch.nn.utils.clip_grad_norm_
        self.steps = 0
        monkeypatch.setattr(mmpkd, "save_checkpoint", self.on_save)
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", self.on_step)
        monkeypatch.setattr(mmpkd, "whole_folder", self.on_predictions)

    def on_save(self, path, state):
        if self.at == path.name and state["epoch"] == self.epoch:
            raise KeyboardInterrupt
        self.save(path, state)

    def on_step(self, *args):
        self.steps += 1
        if self.at == "step" and self.steps == 2 * self.epoch:  # the second of the two steps of an epoch
            raise KeyboardInterrupt
        return self.clip(*args)

    def on_predictions(self, path):
        raise KeyboardInterrupt


@pytest.mark.parametrize("stage, at, epoch, extra", [
    ("visual", "step", 2, []), ("visual", "last.pt", 3, ["--scheduler", "plateau"]), ("visual", "best.pt", 1, []),
    ("visual", "predictions", 4, ["--optimizer", "sgd"]), ("audio", "last.pt", 2, []), ("teacher", "step", 3, ["--modality-dropout", "0.5"]),
    ("student", "last.pt", 3, ["--target", "both"])])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_never_was(trained, call, stage, at, epoch, extra):
    words = ["--data-dir", trained, *TINY, "--stage", stage, "--epochs", 4, *extra]
    if stage == "student":
        words += ["--teacher-checkpoint", run_of(trained, "teacher") / "best.pt"]
    name = run_of(trained, stage, "both" if "both" in extra else "arousal").name
    assert call("mmpkd", *words, "--runs-dir", trained / "never")[0] == 0

    with pytest.MonkeyPatch.context() as monkeypatch:
        Stop(monkeypatch, at, epoch)
        code, out, err = call("mmpkd", *words, "--runs-dir", trained / "stopped")
    assert "--resume" in one_line(code, err, 130)
    torch.rand(7)  # whatever happened in between
    code, out, err = call("mmpkd", *words, "--runs-dir", trained / "stopped", "--resume")
    assert code == 0, err
    assert ("from epoch" in out) == (epoch > 1)

    never, stopped = trained / "never" / name, trained / "stopped" / name
    assert same(load_checkpoint(never / "last.pt"), load_checkpoint(stopped / "last.pt"))
    assert same(load_checkpoint(never / "best.pt"), load_checkpoint(stopped / "best.pt"))
    assert log_of(never) == log_of(stopped) and len(log_of(never)) == 4
    assert files_of(never / "predictions") == files_of(stopped / "predictions")
    assert {path.name for path in stopped.iterdir()} == {path.name for path in never.iterdir()}, "something was left behind"


def stop_after(made, call, epochs, *words):
    """A run of the visual stage that was stopped after so many epochs: its folder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        Stop(monkeypatch, "step", epochs + 1)
        assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, *words)[0] == 130
    return run_of(made, "visual", "arousal")


def test_a_stopped_run_goes_on_only_when_asked_to(made, call):
    before = files_of(stop_after(made, call, 1))
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4)[::2])
    assert "was stopped: go on with --resume, or delete the folder" in line
    assert files_of(run_of(made, "visual", "arousal")) == before


def test_stage_all_goes_on_from_whichever_run_was_stopped(made, call):
    words = ["--data-dir", made, *TINY, "--epochs", 1]
    assert call("mmpkd", *words, "--stage", "visual")[0] == 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        Stop(monkeypatch, "predictions", 0)
        assert call("mmpkd", *words)[0] == 130  # in the teacher's run
    assert "teacher_arousal/ holds a run that was stopped" in one_line(*call("mmpkd", *words)[::2])
    code, out, err = call("mmpkd", *words, "--resume")
    assert code == 0 and out.count("nothing to do") == 1 and out.count(": finished; ") == 2 and "gap closed by student" in out, err


def test_a_run_that_was_stopped_early_by_patience_resumes_to_its_end(made, call, monkeypatch):
    words = ["--data-dir", made, *TINY, "--stage", "audio", "--epochs", 9, "--patience", 1]
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch, [0.3, 0.2])
        Stop(patch, "predictions", 0)
        assert call("mmpkd", *words)[0] == 130
    code, out, err = call("mmpkd", *words, "--resume")
    assert code == 0 and len(log_of(run_of(made, "audio", "arousal"))) == 2 and "epoch 1 had the best" in out, err


@pytest.mark.parametrize("words, named", [(["--learning-rate", "0.5"], "learning_rate 0.001, now it is 0.5"), (["--seed", 3], "seed 0, now it is 3"),
                                          (["--epochs", 5], "epochs 2, now it is 5"), (["--no-augment"], "augment True, now it is False")])
def test_changed_settings_are_refused_with_the_field(trained_corpus, call, words, named):
    base = ["--data-dir", trained_corpus, *TINY, "--target", "both", "--stage", "visual"]
    for resume in ([], ["--resume"]):
        assert named in one_line(*call("mmpkd", *base, *words, *resume)[::2])


def test_settings_that_a_stage_does_not_read_may_change(trained_corpus, call):
    code, out, _ = call("mmpkd", "--data-dir", trained_corpus, *TINY, "--target", "both", "--stage", "visual", "--gate", "off", "--audio-lr-scale", 3,
                        "--modality-dropout", "0.5", "--resume")
    assert code == 0 and "nothing to do" in out


def test_stage_all_refuses_a_changed_student_before_it_trains_a_teacher(trained, call):
    shutil.rmtree(run_of(trained, "teacher"))
    line = one_line(*call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--distill-weight", "0.9")[::2])
    assert "distill_weight 0.5, now it is 0.9" in line and not run_of(trained, "teacher").exists()


def test_ctrl_c_ends_with_one_line_and_whole_files(made):
    script = [sys.executable, mmpkd.__file__, "--data-dir", str(made), *TINY, "--stage", "visual", "--epochs", "5000"]
    process = subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = run_of(made, "visual", "arousal") / "log.jsonl"
    for _ in range(600):
        if log.exists() and len(log.read_text().splitlines()) >= 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    one_line(process.returncode, err, 130)
    assert load_checkpoint(log.with_name("last.pt"))["epoch"] >= 1
    assert not list(log.parent.glob(".*")), "a half-written file was left"


# ---- checkpoints ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_checkpoint_broken_off_while_it_is_written_leaves_the_old_one(tmp_path, monkeypatch, error):
    mmpkd.save_checkpoint(tmp_path / "last.pt", {"epoch": 1})

    def half(state, file):
        file.write(b"half of a checkpoint")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(error if isinstance(error, type) else OSError):
        mmpkd.save_checkpoint(tmp_path / "last.pt", {"epoch": 2})
    assert torch.load(tmp_path / "last.pt", weights_only=True) == {"epoch": 1} and len(list(tmp_path.iterdir())) == 1


@contextlib.contextmanager
def on_a_full_disk(path):
    yield Path("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("module", [mmpkd, data])
def test_a_full_disk_is_one_line_from_checkpoint_and_cache_alike(made, call, monkeypatch, module):
    """With the device that is always full: what torch and NumPy really raise there."""
    monkeypatch.setattr(module, "whole_file", on_a_full_disk)
    if module is mmpkd:
        monkeypatch.setattr(mmpkd, "begin_log", lambda folder, epoch: folder.mkdir(parents=True))
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual")[::2])
    assert "No space left on device" in line


def test_checkpoints_hold_tensors_and_plain_python_only(trained_corpus):
    def kinds(value):
        if isinstance(value, dict):
            return {kind for item in value.items() for part in item for kind in kinds(part)}
        if isinstance(value, list | tuple):
            return {kind for part in value for kind in kinds(part)}
        return {type(value)}

    for stage in STAGES:
        for file in ("best.pt", "last.pt"):
            assert kinds(load_checkpoint(run_of(trained_corpus, stage) / file)) <= {torch.Tensor, str, int, float, bool, type(None)}


class Harmful:
    def __reduce__(self):
        return (print, ("code of a checkpoint was run",))


DAMAGE = {
    "half": lambda path: path.write_bytes(path.read_bytes()[:-2000]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint"),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"model": Harmful()}, protocol=2)),
    "code": lambda path: torch.save(torch.load(path, weights_only=True) | {"extra": Harmful()}, path),
    "tensor": lambda path: torch.save(torch.zeros(3), path),
    "foreign": lambda path: torch.save({"net": {}}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_teacher_is_one_line_and_runs_no_code(trained, call, damage):
    path = run_of(trained, "teacher") / "best.pt"
    DAMAGE[damage](path)
    code, out, err = call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--runs-dir", trained / "others",
                          "--teacher-checkpoint", path)
    assert f"{path} is not a checkpoint of mmpkd.py, or it is damaged" in one_line(code, err) and "was run" not in out


@pytest.mark.parametrize("damage", ["half", "pickle", "best", "other network"])
def test_a_damaged_or_foreign_last_checkpoint_is_one_line(made, call, damage):
    folder = stop_after(made, call, 1)
    path = folder / "last.pt"
    if damage == "best":  # a checkpoint, but without what is needed to go on
        shutil.copy(folder / "best.pt", path)
    elif damage == "other network":
        torch.save(torch.load(path, weights_only=True) | {"model": {"weight": torch.zeros(3)}}, path)
    else:
        DAMAGE[damage](path)
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, "--resume")[::2])
    assert str(path) in line and f"delete {folder}/ and train again" in line


def test_a_last_checkpoint_of_other_settings_is_refused_with_the_field(made, call):
    folder = stop_after(made, call, 1, "--gru-size", 8)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"gru_size": 16}))
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, "--resume")[::2])
    assert "gru_size 8, now it is 16" in line


def test_crops_of_another_size_are_refused_on_resuming(made, call):
    stop_after(made, call, 1)
    for path in (made / "Cropped_Aligned").glob("*/*.jpg"):
        cv2.imwrite(str(path), np.zeros((40, 40, 3), np.uint8))
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, "--resume")[::2])
    assert "frames (3, 32, 32), now it is (3, 40, 40)" in line


# ---- bad input ------------------------------------------------------------------------------------------------------

def test_a_student_without_a_teacher_is_told_so_before_any_work(made, call):
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "student")[::2], expected=2)
    assert "teacher_arousal/best.pt is missing: run --stage teacher first" in line and not (made / "cache").exists()


def test_stage_all_misses_a_named_teacher_before_it_trains_anything(made, call):
    one_line(*call("mmpkd", "--data-dir", made, *TINY, "--teacher-checkpoint", made / "gone.pt")[::2], expected=2)
    assert not (made / "runs").exists()


@pytest.mark.parametrize("stage, words", [("visual", ["--visual-weights", "gone.t7"]), ("all", ["--audio-weights", "gone.pth"])])
def test_a_missing_file_of_weights_is_told_before_any_work(made, call, stage, words):
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", stage, *words)[::2], expected=2)
    assert f"{words[1]} is not there" in line and not (made / "runs").exists()


@pytest.mark.parametrize("stage, target, message", [("visual", "both", "has stage visual, the student needs a teacher with teacher"),
                                                    ("teacher", "arousal", "has targets ['arousal', 'valence'], the student needs")])
def test_a_teacher_of_another_kind_is_refused(trained_corpus, tmp_path, call, stage, target, message):
    line = one_line(*call("mmpkd", "--data-dir", trained_corpus, *TINY, "--stage", "student", "--target", target, "--runs-dir", tmp_path,
                          "--teacher-checkpoint", run_of(trained_corpus, stage) / "best.pt")[::2])
    assert message in line


def rate(folder, name, rating):
    """Makes every rating of a recording the same text."""
    path = next((folder / "Annotations").glob(f"*/{name}.csv"))
    table = pd.read_csv(path, dtype=str)
    table["arousal"] = rating
    table.to_csv(path, index=False)


def spoil_label(folder):
    rate(folder, "train_1", "high")


def spoil_crop(folder):
    (folder / "Cropped_Aligned" / "train_2" / "000007.jpg").write_bytes(b"\xff\xd8\xff")


@pytest.mark.parametrize("spoil, message", [
    (lambda folder: shutil.rmtree(folder / "Annotations"), "holds no annotation files: run annotations.py first"),
    (lambda folder: shutil.rmtree(folder / "Cropped_Aligned"), "train_1/000000.jpg is missing (0 of 60 are there): run face_detector.py first"),
    (lambda folder: shutil.rmtree(folder / "specs"), "train_1/000000.png is missing (0 of 60 are there): run audio_melspec.py first"),
    (spoil_crop, "000007.jpg is not a readable picture"),
    (spoil_label, "train_1.csv line 2: 'high' is not a number"),
    (lambda folder: rate(folder, "dev_1", "-5"), "Val_Set has no valid rating of arousal"),
    (lambda folder: [rate(folder, name, "nan") for name in ("train_1", "train_2")], "Train_Set has no valid rating of arousal"),
    (lambda folder: shutil.copy(folder / "Annotations" / "Train_Set" / "train_1.csv", folder / "Annotations" / "Val_Set"),
     "train_1 is in Train_Set and in Val_Set: the partitions must not share people"),
])
def test_bad_input_is_one_line_and_leaves_no_run(made, call, spoil, message):
    spoil(made)
    assert message in one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "teacher")[::2])
    assert not (made / "runs").exists()


def test_clips_longer_than_a_recording_are_refused(made, call):
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--clip-length", 61)[::2])
    assert "train_1 has 60 frames, less than clip_length 61" in line


@pytest.mark.parametrize("device", ["cuda:9", "abacus"])
def test_a_device_that_is_not_there_is_one_line(made, call, device):
    assert "device" in one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--device", device)[::2], expected=2)


def test_a_recording_without_ratings_is_said_and_masked(made, call):
    rate(made, "train_2", "-5")
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual")
    assert code == 0 and "Train_Set: train_2 without a valid rating of arousal" in out, err
    table = pd.read_csv(run_of(made, "visual", "arousal") / "predictions" / "train" / "train_2.csv")
    assert table["arousal_gold"].isna().all() and np.isfinite(table["arousal_pred"]).all()
    assert ",nan," in (run_of(made, "visual", "arousal") / "predictions" / "train" / "train_2.csv").read_text()


def test_damaged_predictions_of_a_finished_run_are_one_line(made, call):
    flags = ["--data-dir", made, "--stage", "visual", *TINY]
    assert call("mmpkd", *flags)[0] == 0
    table = next((made / "runs" / "visual_arousal" / "predictions" / "val").glob("*.csv"))
    table.write_text("time_s,arousal_gold,arousal_pred\n0,0.1\n0,1,2,3,4\n")
    code, _, err = call("mmpkd", *flags)
    assert code == 1 and len(err.splitlines()) == 1
    assert str(table) in err and "run mmpkd.py" in err
