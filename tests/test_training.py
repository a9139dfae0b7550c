"""training.py: optimizer, steps, checkpoints, and runs that are stopped and resumed."""
import math

import cv2
import numpy as np
import pytest
import torch
from conftest import (
    CPU,
    SHAPES,
    TINY,
    draw_curves,
    easy_batch,
    easy_recording,
    files_of,
    in_background,
    kept_of,
    log_of,
    one_line,
    run_of,
    same,
    scripted,
    stop_at,
    stopped_and_resumed,
    stopped_run,
    tiny_config,
    wait_until,
)
from torch import nn

import figures
import objectives
import scores
from checkpoints import load_checkpoint, save_checkpoint
from config import Config
from data import Clips
from models_kd import build_model
from runs import INPUTS, read_log
from support.errors import UserError
from training import (
    RunFiles,
    Training,
    choose_precision,
    make_optimizer,
    train_epoch,
    train_step,
)

# ---- optimizer, scheduler, early stopping ---------------------------------------------------------------------------

def test_every_part_has_its_own_learning_rate_and_every_weight_is_trained_once():
    cfg = Config(visual_backbone="tiny_cnn", audio_backbone="tiny_cnn", audio_lr_scale=0.5)
    teacher = build_model("teacher", cfg, SHAPES)
    groups = make_optimizer(teacher, nn.ModuleDict(), cfg).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(teacher.parameters())) == sum(len(group["params"]) for group in groups)
    for name, parameter in teacher.named_parameters():
        expected = {"visual": 1e-5, "audio": 5e-5}.get(name.split(".")[0], 1e-4)
        assert rates[id(parameter)] == pytest.approx(expected), name


def test_adapters_are_trained_with_the_model():
    cfg, adapters = tiny_config(), nn.ModuleDict({"fitnets": nn.Linear(3, 3)})
    groups = make_optimizer(build_model("student", cfg, SHAPES), adapters, cfg).param_groups
    held = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert all(held[id(parameter)] == cfg.learning_rate for parameter in adapters.parameters())


@pytest.mark.parametrize("optimizer, kind", [("adam", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_both_optimizers_are_offered(optimizer, kind):
    cfg = tiny_config(optimizer=optimizer)
    assert type(make_optimizer(build_model("visual", cfg, SHAPES), nn.ModuleDict(), cfg)) is kind


def test_schedulers_change_the_learning_rate_per_epoch():
    def rates(scheduler, values):
        cfg = tiny_config(scheduler=scheduler, epochs=len(values), learning_rate=1.0)
        training, seen = Training(build_model("audio", cfg, SHAPES), cfg), []
        for value in values:
            seen.append(training.optimizer.param_groups[-1]["lr"])
            training.optimizer.step()
            training.end_epoch(value)
        return seen

    assert rates("cosine", [0.0] * 4) == pytest.approx([(1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)])
    assert rates("none", [0.0] * 3) == [1, 1, 1]
    assert rates("plateau", [0.5, 0.4, 0.4, 0.4, 0.4, 0.6]) == [1, 1, 1, 1, 0.5, 0.5]  # 2 epochs are waited for


def test_a_validation_ccc_that_is_not_a_number_is_never_the_best_and_hides_none():
    training = Training(build_model("audio", tiny_config(), SHAPES), tiny_config(scheduler="none"))
    improved = [training.end_epoch(value) for value in (math.nan, 0.1, math.nan, 0.1, 0.2)]
    assert improved == [False, True, False, False, True]
    assert training.best == 0.2 and training.stale == 0 and training.epoch == 5


def test_training_stops_early_and_keeps_the_best_epoch_and_says_both(made, call, monkeypatch):
    scripted(monkeypatch, [0.1, 0.3, 0.2, 0.25, 0.9])
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "audio", "--epochs", 5, "--patience", 2)
    folder = run_of(made, "audio", "arousal")
    assert code == 0 and "stopped early" in out and "epoch 2 had the best" in out, err
    assert [line["best"] for line in log_of(folder)] == [True, True, False, False]
    assert load_checkpoint(folder / "best.pt")["epoch"] == 2 and load_checkpoint(folder / "last.pt")["epoch"] == 4


def test_a_run_that_was_stopped_early_by_patience_resumes_to_its_end(made, call, monkeypatch):
    words = ["--data-dir", made, *TINY, "--stage", "audio", "--epochs", 9, "--patience", 1]
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch, [0.3, 0.2])
        stop_at(patch, "predictions")
        assert call("mmpkd", *words)[0] == 130
    code, out, err = call("mmpkd", *words, "--resume")
    assert code == 0 and len(log_of(run_of(made, "audio", "arousal"))) == 2 and "epoch 1 had the best" in out, err


# ---- steps ----------------------------------------------------------------------------------------------------------

def test_every_step_draws_its_own_augmentation_and_dropout_and_draws_it_again():
    cfg = tiny_config(dropout=0.5)

    def draws(first):
        torch.manual_seed(first)  # whatever was drawn before
        training, seen = Training(build_model("visual", cfg, SHAPES).eval(), cfg), []

        def objective(model, batch):
            seen.append((batch.frames.sum().item(), torch.rand(1).item()))
            return model(batch.frames).pred.sum() * 0, {}

        for step in range(2):
            training.step = step
            train_step(training, objective, easy_batch())
        return seen

    one, again = draws(1), draws(2)
    assert one == again and one[0][0] != one[1][0] and one[0][1] != one[1][1]


def test_a_gradient_that_is_not_finite_never_reaches_the_weights():
    cfg = tiny_config(max_grad_norm=0)
    training = Training(build_model("visual", cfg, SHAPES), cfg)

    def objective(model, batch):
        loss = (model(batch.frames).pred * 0).sqrt().sum()  # is 0, with the slope of a square root there
        return loss, {"task": loss}

    before = {key: value.clone() for key, value in training.model.named_parameters()}
    with pytest.raises(UserError, match="loss 0, task 0, gradient nan"):
        train_step(training, objective, easy_batch())
    assert same(before, dict(training.model.named_parameters()))


@pytest.mark.parametrize("every", [1, 3])
def test_a_loss_that_is_not_finite_names_its_parts_and_the_frames_of_its_batch(every, monkeypatch):
    """Also where it is checked a few steps late, as on a GPU."""
    cfg = tiny_config(clip_length=5, batch_size=2)
    clips = Clips([easy_recording("anna", 40, 0), easy_recording("ben", 20, 1)], 2, 5, ("frames",), 0)
    training = Training(build_model("visual", cfg, SHAPES), cfg)
    bad = clips.of_epoch(0)[2:4]

    def objective(model, batch):
        loss = model(batch.frames).pred.square().mean()
        return loss * (math.nan if training.step == 1 else 1), {"task": loss}

    if every > 1:
        check = Training.check
        monkeypatch.setattr(Training, "check", lambda self: check(self) if len(self.unchecked) == every else None)
    named = ", ".join(rf"{['anna', 'ben'][number]} {start}-{start + 4}" for number, start in bad)
    with pytest.raises(UserError, match=rf"loss nan, task [\d.e-]+, gradient nan.* epoch 1, .*{named}"):
        train_epoch(training, objective, clips)


def test_a_learning_rate_far_too_high_ends_in_one_line(made, call):
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--learning-rate", "1e30", "--visual-lr-scale", 1]
    line = one_line(*call("mmpkd", *words)[::2])
    assert "not finite" in line and "task" in line and "--learning-rate" in line


def ccc_after(precision, stage="visual"):
    torch.manual_seed(0)
    cfg = tiny_config(learning_rate=0.01, visual_lr_scale=1.0, visual_backbone="small_cnn", precision=precision)
    recordings = [easy_recording("a", 200, 0), easy_recording("b", 200, 1)]
    training = Training(build_model(stage, cfg, SHAPES), cfg)
    training.precision = choose_precision(precision, CPU)
    for _ in range(10):
        train_epoch(training, objectives.task_objective, Clips(recordings, 8, 10, INPUTS[stage], 0))
        training.end_epoch(0.0)
    preds = scores.predict(training.model, recordings)
    assert all(pred.dtype == np.float32 for pred in preds.values())
    tables = scores.predictions(training.model, recordings, cfg)
    return scores.score(tables, ["arousal"])["arousal"]["mean"], preds["a"]


def test_training_in_bfloat16_costs_no_ccc():
    (full, preds), (half, other) = ccc_after("float32"), ccc_after("bfloat16")
    assert full > 0.8 and half > full - 0.05 and not np.array_equal(preds, other), "bfloat16 was not used"


@pytest.mark.parametrize("device, has, choice", [
    ("cpu", True, "float32"), ("cuda", True, "bfloat16"), ("cuda", False, "float32")])
def test_precision_follows_from_the_device_and_never_from_a_timing(monkeypatch, device, has, choice):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: has)
    assert choose_precision("auto", torch.device(device)) == choice
    wanted = ["float32", "bfloat16"]
    assert [choose_precision(one, torch.device(device)) for one in wanted] == wanted


# ---- stopping and resuming ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage, at, epoch, extra", [
    ("visual", "best.pt", 1, ["--scheduler", "plateau"]), ("audio", "predictions", 4, ["--optimizer", "sgd"]),
    ("teacher", "step", 3, ["--modality-dropout", "0.5"]),
    ("student", "last.pt", 3, ["--target", "both", "--distill", "fitnets"])])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_never_was(trained, call, stage, at, epoch, extra):
    words = ["--data-dir", trained, *TINY, "--stage", stage, "--epochs", 4, *extra]
    run = run_of(trained, stage, "both" if "both" in extra else "arousal", "fitnets")
    never, out = stopped_and_resumed(call, words, run, at, epoch)
    assert ("resumed at epoch" in out) == (epoch > 1)

    assert (never / "last.pt").read_bytes() == (run / "last.pt").read_bytes()
    assert same(kept_of(never), kept_of(run))
    assert log_of(never) == log_of(run) and len(log_of(never)) == 4
    assert files_of(never / "predictions") == files_of(run / "predictions")
    assert {path.name for path in run.iterdir()} == {path.name for path in never.iterdir()}, "something was left behind"


def test_a_run_that_was_killed_ends_in_the_same_bits(made, call):
    """SIGKILL, which no process can handle."""
    words, run = ["--stage", "visual", "--epoch-steps", 5, "--scheduler", "none"], run_of(made, "visual", "arousal")
    with in_background(made, *words, "--save-steps", 1, "--epochs", 5000) as process:
        wait_until((run / "last.pt").exists, process)
    epochs = load_checkpoint(run / "last.pt")["epoch"] + 1
    words = ["--data-dir", made, *TINY, *words, "--epochs", epochs]
    assert call("mmpkd", *words, "--resume")[0] == 0
    assert call("mmpkd", *words, "--runs-dir", made / "never")[0] == 0
    never = made / "never" / "visual_arousal"
    one, other = (load_checkpoint(folder / "last.pt") for folder in (never, run))
    assert same(one, other) and one["epoch"] == epochs and log_of(never) == log_of(run)
    assert (never / "last.pt").read_bytes() == (run / "last.pt").read_bytes()
    assert not list(run.glob(".*")), "a half-written file was left"


def test_checkpoints_come_between_epochs_too_and_a_run_resumes_within_one(trained, call):
    words = ["--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--distill", "sp"]
    words, run, steps = [*words, "--epoch-steps", 3], run_of(trained, "student", distill="sp"), []
    assert call("mmpkd", *words)[0] == 0
    never = run.rename(trained / "never")

    def stop_in_the_middle(path, state):
        save_checkpoint(path, state)
        steps.append((state["epoch"], state.get("step")))
        if steps[-1] == (1, 2):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("training.save_checkpoint", stop_in_the_middle)
        assert call("mmpkd", *words, "--save-minutes", 1e-9)[0] == 130
    assert (0, 1) in steps and steps[-1] == (1, 2)
    code, out, err = call("mmpkd", *words, "--resume")
    assert code == 0 and "epoch 2, step 3" in out, err
    assert (never / "last.pt").read_bytes() == (run / "last.pt").read_bytes() and log_of(never) == log_of(run)
    assert files_of(never / "predictions") == files_of(run / "predictions")


def test_a_finished_run_is_trained_for_more_epochs_only_when_asked_to(made, call):
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--scheduler", "none"]
    assert call("mmpkd", *words, "--runs-dir", made / "longer", "--epochs", 4)[0] == 0
    assert call("mmpkd", *words, "--epochs", 2)[0] == 0
    assert "--resume" in one_line(*call("mmpkd", *words, "--epochs", 4)[::2])
    code, out, err = call("mmpkd", *words, "--epochs", 4, "--resume")
    assert code == 0 and "epoch 3, step 1" in out, err
    longer, run = made / "longer" / "visual_arousal", run_of(made, "visual", "arousal")
    assert (longer / "last.pt").read_bytes() == (run / "last.pt").read_bytes()
    assert files_of(longer / "predictions") == files_of(run / "predictions")
    assert "4 epochs" in one_line(*call("mmpkd", *words, "--epochs", 3)[::2])


@pytest.mark.parametrize("lost", ["last", "middle", "all"])
def test_a_log_that_lost_lines_is_an_error_and_one_that_was_deleted_begins_again(made, call, lost):
    run = stopped_run(made, call, 3)
    log, words = run / "log.jsonl", ["--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, "--resume"]
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    log.write_text("".join({"last": lines[:2], "middle": lines[::2], "all": []}[lost]))
    last = (run / "last.pt").read_bytes()
    line = one_line(*call("mmpkd", *words)[::2])
    assert {"last": "log.jsonl has no line of epoch 3", "middle": "log.jsonl line 2",
            "all": "log.jsonl has no line of epoch 1"}[lost] in line and "delete" in line
    assert (run / "last.pt").read_bytes() == last
    log.unlink()
    code, out, _ = call("mmpkd", *words)
    assert code == 0 and "log.jsonl is missing: it begins again with epoch 4" in out
    assert [entry["epoch"] for entry in read_log(run)] == [4] and "4/4" in call("mmpkd", *words[:2], "--list")[1]


def test_stage_all_resumes_whichever_run_was_stopped(made, call):
    words = ["--data-dir", made, *TINY, "--epochs", 1]
    assert call("mmpkd", *words, "--stage", "visual")[0] == 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_at(monkeypatch, "predictions")
        assert call("mmpkd", *words)[0] == 130  # in the teacher's run
    assert "teacher_arousal" in one_line(*call("mmpkd", *words)[::2])
    code, out, err = call("mmpkd", *words, "--resume")
    assert code == 0 and out.count("nothing to do") == 1 and out.count(": finished; ") == 2 and "gap closed" in out, err


# ---- what is shown --------------------------------------------------------------------------------------------------

def test_curves_are_drawn_from_time_to_time_and_at_the_end(trained, call, monkeypatch):
    drawn = []
    monkeypatch.setattr(RunFiles, "draw", draw_curves)
    monkeypatch.setattr("figures.draw_curves", lambda folder, draw=figures.draw_curves: drawn.append(draw(folder)))
    words = ["--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--distill", "sp", "--epochs", 4]
    assert call("mmpkd", *words)[0] == 0
    image = cv2.imread(str(run_of(trained, "student", distill="sp") / "curves.png"))
    assert image.shape[0] > 200 and len(np.unique(image.reshape(-1, 3), axis=0)) > 50
    assert 2 <= len(drawn) <= 5


def test_event_files_are_written_when_asked_for(made, call):
    pytest.importorskip("tensorboard")
    code, _, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "audio", "--tensorboard")
    assert code == 0 and list(run_of(made, "audio", "arousal").glob("events.out.tfevents*")), err
