"""The paths that a GPU takes, beside those of the CPU: python -m pytest -m cuda. Skipped where there is no GPU.

float32 with tf32 off unless a test says otherwise. CUDA_TESTS_ON=cpu runs them on a CPU: that tries the tests alone.
"""
import copy
import dataclasses
import math
import os
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import (
    CPU,
    DEADLINE_S,
    STAGES,
    TINY,
    Batch,
    add_unlabelled,
    easy_recording,
    in_background,
    log_of,
    one_line,
    run_of,
    same,
    stopped_and_resumed,
    tiny_config,
    wait_until,
)

import objectives
from augmentation import draw_augmentation, on_device
from checkpoints import load_checkpoint, load_model
from data import Clips, Recording, image_shapes
from models_kd import HINT, build_model
from runs import INPUTS
from scores import predict, predictions, score
from support.errors import UserError
from training import CHECK_EVERY, Training, choose_precision, train_epoch, train_step

ON = torch.device(os.environ.get("CUDA_TESTS_ON", "cuda"))
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(ON.type == "cuda" and not torch.cuda.is_available(),
                                                   reason="there is no CUDA device")]
SHAPES = {"frames": (3, 32, 32), "specs": (1, 32, 32)}
DEEP = {"visual_backbone": "vgg19_bn", "audio_backbone": "resnet18"}
# Dropout draws other numbers on another device; Adam moves weights by the sign of a gradient that is rounding alone
PLAIN = ["--dropout", 0, "--precision", "float32", "--optimizer", "sgd", "--learning-rate", 0.03,
         "--visual-lr-scale", 1]


@pytest.fixture(autouse=True)
def exact():
    """float32 is float32, and cudnn is deterministic, as support/devices.py sets it."""
    backends, before = torch.backends, torch.backends.cudnn.allow_tf32
    backends.cudnn.allow_tf32, backends.cudnn.deterministic = False, True
    yield
    backends.cudnn.allow_tf32, backends.cudnn.deterministic = before, False


@pytest.fixture
def say(capsys, request):
    """Prints what was measured, also where the test passes."""
    def say(text):
        with capsys.disabled():
            print(f"\n    {request.node.name}: {text}")
    return say


def on(*words):
    """Words of a command line with the device at the end, where it wins over TINY's."""
    return [*words, "--device", str(ON)]


def batch_of(clips=2, frames=5):
    """A Batch of random images with a gap in the ratings, and its augmentation."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (clips, frames, *SHAPES[name]), generator=generator, dtype=torch.uint8)
              for name in ("frames", "specs")]
    gold = torch.rand(clips, frames, 1, generator=generator) * 2 - 1
    gold[1, 2:4] = math.nan
    taught = torch.randn(clips, frames, 1 + HINT, generator=generator)
    return Batch(*images, gold, taught, (("a", 0),) * clips), draw_augmentation(clips, generator)


def objective_of(stage, methods):
    torch.manual_seed(1)
    if stage == "mean_teacher":
        return objectives.MeanTeacher(0.5)
    return objectives.Distillation(methods, "adaptive", 0.5) if stage == "student" else objectives.task_objective


def model_of(stage, cfg):
    return build_model(stage.replace("mean_teacher", "student"), cfg, SHAPES)


def step_on(device, model, objective, dtype):
    """(loss, all gradients) of a model on a device, on the CPU."""
    batch, changes = batch_of()
    model, objective = copy.deepcopy(model).to(device, dtype).train(), copy.deepcopy(objective)
    if isinstance(objective, torch.nn.Module):
        objective = objective.to(device)
    batch = on_device(batch, device, changes)
    batch = batch._replace(frames=batch.frames.to(dtype), specs=batch.specs.to(dtype))
    loss, _ = objective(model, batch)
    loss.backward()
    gradient = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
    return loss.item(), gradient.double().cpu()


def apart(one, other):
    """Relative distance of two tensors."""
    return float((one - other).norm() / other.norm())


# ---- one step -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage, deep", [*((stage, False) for stage in STAGES), ("visual", True), ("audio", True)])
def test_loss_and_gradients_are_those_of_the_cpu(stage, deep, say):
    """VGG19 and ResNet-18 in double precision: in single, rounding alone moves their gradients by a hundredth."""
    torch.manual_seed(0)
    settings, dtype = (DEEP, torch.float64) if deep else ({}, torch.float32)
    model = build_model(stage, tiny_config(**settings | {"dropout": 0.0}), SHAPES)
    objective = objective_of(stage, {"cosine": 1.0, "ccc": 1.0, "ot": 1.0})
    (loss, gradient), (other, expected) = (step_on(device, model, objective, dtype) for device in (ON, CPU))
    say(f"gradients {apart(gradient, expected):.1e} apart, losses {abs(loss - other):.1e}")
    assert loss == pytest.approx(other, abs=1e-5) and expected.norm() > 1e-3
    assert apart(gradient, expected) < 1e-4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [*STAGES, "mean_teacher"])
def test_a_step_does_not_wait_for_the_gpu(stage, precision):
    """CUDA's own check of waits, as an error, but for the step that is recorded; after that it is replayed."""
    cfg = tiny_config()
    training, objective = Training(model_of(stage, cfg).to(ON), cfg, decay=0.9), objective_of(stage, {"cosine": 1.0})
    objective = objective.to(ON) if stage == "student" else objective
    if stage == "mean_teacher":
        objective.begin(training.average, 12)
    training.model.train().in_bfloat16 = precision == "bfloat16"
    batch = batch_of()[0]
    if ON.type == "cuda":
        batch = batch._replace(**{name: getattr(batch, name).pin_memory() for name in batch._fields[:4]})
    try:
        for step in range(5):
            if ON.type == "cuda":
                torch.cuda.set_sync_debug_mode("default" if step == 2 else "error")
            train_step(training, objective, batch)
    finally:
        if ON.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    training.check()
    assert (training.replay.graph is not None) == (ON.type == "cuda")


@pytest.mark.parametrize("stage, precision, settings", [
    *((stage, "float32", {}) for stage in [*STAGES, "mean_teacher"]), ("visual", "bfloat16", DEEP),
    ("teacher", "bfloat16", DEEP)])
def test_replayed_steps_give_the_bits_of_those_that_are_not(stage, precision, settings, say):
    """Augmentation, dropout, gaps in the ratings, batch statistics and every loss, over eight steps."""
    cfg = tiny_config(dropout=0.3, modality_dropout=0.5, learning_rate=0.01, **settings)
    torch.manual_seed(0)
    model, objective = model_of(stage, cfg), objective_of(stage, {"cosine": 1.0, "ccc": 1.0, "ot": 1.0})
    objective = objective.to(ON) if stage == "student" else objective
    batches, states = [batch_of(clips=4)[0]._replace(gold=torch.rand(4, 5, 1) * 2 - 1) for _ in range(8)], []
    for graph in (True, False):
        training = Training(copy.deepcopy(model).to(ON), dataclasses.replace(cfg, cuda_graph=graph), decay=0.9)
        training.model.train().in_bfloat16 = precision == "bfloat16"
        if stage == "mean_teacher":
            objective.begin(training.average, 12)
        for batch in batches:
            train_step(training, objective, batch)
        states.append({"model": training.model.state_dict()} | training.state())
        assert (training.replay.graph is not None) == (graph and ON.type == "cuda")
    one, other = states
    most = max(apart(one["model"][name].double(), other["model"][name].double()) for name in one["model"]
               if one["model"][name].is_floating_point() and other["model"][name].any())
    say("the same bits" if same(one, other) else f"weights up to {most:.1e} apart")
    assert most < 1e-5 and one["sums"] == pytest.approx(other["sums"], abs=1e-5)


@pytest.mark.parametrize("bad", [0, 2, 7])
def test_a_loss_that_is_not_finite_is_said_within_some_steps(bad):
    recordings = [easy_recording("anna", 400, 0)]  # 40 steps
    cfg = tiny_config(clip_length=5, batch_size=2)
    clips = Clips(recordings, 2, 5, ("frames",), 0)
    run = Training(build_model("visual", cfg, image_shapes(recordings)).to(ON), cfg)
    names = ", ".join(f"anna {start}-{start + 4}" for _, start in clips.of_epoch(0)[2 * bad:2 * bad + 2])
    for _, start in clips.of_epoch(0)[2 * bad:2 * bad + 2]:
        recordings[0].gold[start:start + 5] = 3

    def objective(model, batch):  # the ratings of that batch are 3: a replayed step knows nothing of Python
        loss = model(batch.frames).pred.square().mean()
        return torch.where(batch.gold.amax() > 2, math.nan, loss), {"task": loss}

    with pytest.raises(UserError, match=f"loss nan.*{names}"):
        train_epoch(run, objective, clips)
    assert run.step <= CHECK_EVERY


# ---- whole runs -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("case", [["cosine"], ["pseudo", "--clip-stride", 3], ["mean_teacher"],
                                  ["pseudo", "--visual-lr-scale", 0]], ids=lambda case: " ".join(map(str, case)))
def test_runs_of_every_stage_are_those_of_the_cpu(made, call, say, tmp_path, case):
    """Every stage that a student needs: distillation, teacher ensembles with spaced clips, a mean teacher, and a frozen
    backbone's features."""
    distill, *words = map(str, case)
    if distill != "cosine":
        add_unlabelled(made)
    weights = tmp_path / "visual.pt"
    torch.save(build_model("visual", tiny_config(), SHAPES).visual.net.state_dict(), weights)
    words = ["--data-dir", made, *TINY, "--target", "both", "--stage", "all", "--distill", distill, "--keep", "last",
             "--visual-weights", weights, *PLAIN, *words]
    assert call("mmpkd", *words, "--runs-dir", made / "cpu")[0] == 0
    code, out, err = call("mmpkd", *on(*words, "--runs-dir", made / "gpu"))
    assert code == 0 and f"on {ON} in float32" in out, err
    names, most = sorted(path.parent.name for path in (made / "cpu").glob("*/best.pt")), 0
    for run in names:
        for path in sorted((made / "cpu" / run / "predictions").rglob("*.csv")):
            one, other = pd.read_csv(path), pd.read_csv(made / "gpu" / path.relative_to(made / "cpu"))
            most = max(most, (one - other).abs().to_numpy().max())
        losses = [[entry["loss"] for entry in log_of(made / device / run)] for device in ("cpu", "gpu")]
        assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    say(f"predictions of {len(names)} networks up to {most:.1e} apart")
    assert most < 5e-4 and len(names) >= (6 if distill == "pseudo" else 3)


@pytest.mark.parametrize("stage, at, extra", [
    ("visual", "step", ["--dropout", 0.5]), ("teacher", "last.pt", ["--precision", "float32"]),
    ("student", "last.pt", ["--target", "both", "--distill", "fitnets"])])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_never_was(trained, call, say, stage, at, extra):
    words = on("--data-dir", trained, *TINY, "--stage", stage, "--epochs", 4, *extra)
    run = run_of(trained, stage, "both" if "both" in extra else "arousal", "fitnets")
    never, out = stopped_and_resumed(call, words, run, at, 3)
    assert "resumed at epoch 3" in out
    one, other = (load_checkpoint(folder / "last.pt") for folder in (never, run))
    most = max(apart(one["model"][name].double(), other["model"][name].double()) for name in one["model"]
               if one["model"][name].is_floating_point() and one["model"][name].any())
    say("the same bits" if same(one, other) else f"weights up to {most:.1e} apart")
    assert most < 1e-5
    for entry, again in zip(log_of(never), log_of(run), strict=True):
        assert entry["loss"] == pytest.approx(again["loss"], abs=1e-5)


def test_sigterm_saves_and_the_run_is_resumed(made, call):
    folder, words = run_of(made, "visual", "arousal"), on("--stage", "visual", "--epoch-steps", 20)
    with in_background(made, *words, "--epochs", 100000) as process:
        wait_until(lambda: (folder / "log.jsonl").exists() and log_of(folder), process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert "--resume" in one_line(process.returncode, err, 128 + signal.SIGTERM)
    state = load_checkpoint(folder / "last.pt")
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, *words, "--epochs", state["epoch"] + 1, "--resume")
    assert code == 0 and "resumed at epoch" in out and len(log_of(folder)) == state["epoch"] + 1, err


# ---- precision ------------------------------------------------------------------------------------------------------

def ccc_after(precision):
    torch.manual_seed(0)
    cfg = tiny_config(learning_rate=0.01, visual_lr_scale=1.0, visual_backbone="small_cnn", precision=precision)
    recordings = [easy_recording("a", 200, 0), easy_recording("b", 200, 1)]
    run = Training(build_model("visual", cfg, image_shapes(recordings)).to(ON), cfg)
    run.precision = choose_precision(precision, ON)
    for _ in range(10):
        train_epoch(run, objectives.task_objective, Clips(recordings, 8, 10, INPUTS["visual"], 0))
        run.end_epoch(0.0)
    return run.precision, score(predictions(run.model, recordings, cfg), ["arousal"])["arousal"]["mean"]


def test_bfloat16_is_chosen_where_there_is_it_and_costs_no_ccc(say):
    (chosen, half), (_, full) = ccc_after("auto"), ccc_after("float32")
    say(f"auto is {chosen}; CCC {half:.3f}, in float32 {full:.3f}")
    assert chosen == ("bfloat16" if ON.type == "cuda" and torch.cuda.get_device_capability()[0] >= 8 else "float32")
    assert full > 0.8 and half > full - 0.05


# ---- predictions and faces ------------------------------------------------------------------------------------------

def random_recording(name, frames):
    generator = torch.Generator().manual_seed(frames)
    arrays = {name: torch.randint(0, 256, (frames, *shape), generator=generator, dtype=torch.uint8).numpy()
              for name, shape in SHAPES.items()}
    return Recording(name, np.zeros((frames, 1), np.float32), {}, arrays)


@pytest.mark.parametrize("settings", [{}, DEEP], ids=["tiny", "deep"])
@pytest.mark.parametrize("stage", STAGES)
def test_predictions_are_those_of_the_cpu(stage, settings, say):
    torch.manual_seed(0)
    recordings = [random_recording("long", 110), random_recording("short", 1)]
    model = build_model(stage, tiny_config(**settings), SHAPES)
    for _ in range(5):
        model(*[torch.rand(4, 5, *SHAPES[name]) for name in model.inputs])  # running statistics
    expected = predict(model, recordings)
    most = {}
    for tf32 in (False, True):  # True: PyTorch's default for convolutions
        torch.backends.cudnn.allow_tf32 = tf32
        preds = predict(copy.deepcopy(model).to(ON), recordings)
        most[tf32] = max(np.abs(preds[name] - expected[name]).max() for name in expected)
    say(f"up to {most[False]:.1e} apart, with tf32 {most[True]:.1e}")
    assert np.ptp(expected["long"]) > 1e-3 and most[False] < 1e-4 and most[True] < 2e-2


def test_a_network_trained_on_a_gpu_is_used_on_a_cpu(made, call):
    assert call("mmpkd", *on("--data-dir", made, *TINY, "--stage", "audio"))[0] == 0
    model, _ = load_model(run_of(made, "audio", "arousal") / "best.pt")
    assert {value.device for value in model.state_dict().values()} == {CPU}


def test_the_face_detector_finds_the_same_faces(raw, call, say):
    tables, seconds = {}, {}
    for device in (CPU, ON):
        began = time.perf_counter()
        assert call("face_detector", "--data-dir", raw, "--device", device, "--workers", 1)[0] == 0
        seconds[device] = time.perf_counter() - began
        tables[device] = [pd.read_csv(path) for path in sorted(raw.glob("Cropped_Aligned/*/faces.csv"))]
        shutil.rmtree(raw / "Cropped_Aligned")
    boxes = ["x1", "y1", "x2", "y2"]
    one, other = (pd.concat(tables[device]) for device in (CPU, ON))
    away = (one[boxes] - other[boxes]).abs().to_numpy()
    say(f"boxes up to {np.nanmax(away):.2f} pixels apart; {len(one)} frames in {seconds[CPU]:.1f} s on the CPU, "
        f"{seconds[ON]:.1f} s on {ON}")
    assert (one["found"].isin(["missing"]) == other["found"].isin(["missing"])).all() and np.nanmedian(away) < 0.5
    assert np.nanmax(away) < 5
