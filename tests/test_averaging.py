"""averaging.py, and what hangs on it: which weights are validated and kept, and a student that is its own teacher."""
import copy
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import (
    SHAPES,
    TINY,
    add_unlabelled,
    easy_batch,
    easy_recording,
    files_of,
    log_of,
    one_line,
    run_of,
    same,
    stopped_and_resumed,
    tiny_config,
)

import objectives
from averaging import Average
from checkpoints import load_checkpoint
from data import Clips
from models_kd import build_model
from objectives import MeanTeacher
from runs import needed_by, read_in_training, settings_of
from scores import predictions, read_predictions, score
from training import Training, train_epoch, train_step

MEAN = ["--target", "both", "--stage", "student", "--distill", "mean_teacher"]


def clips_of(frames=200):
    return Clips([easy_recording("a", frames, 0), easy_recording("b", frames, 1)], 4, 10, ("frames",), 0)


# ---- the average ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("decay", [0.4, 1.0])
def test_the_average_is_that_of_a_loop_over_the_weights_of_all_steps(decay):
    cfg = tiny_config(learning_rate=0.01, visual_lr_scale=1.0)
    training, weights = Training(build_model("visual", cfg, SHAPES), cfg, decay=decay), []
    training.model.train()
    for batch in [None, *clips_of(80).batches(0)]:
        if batch:
            train_step(training, objectives.task_objective, batch)
        weights.append({name: value.double().numpy().copy() for name, value in training.model.state_dict().items()})
    assert len(weights) == 5
    for name, value in training.average.model.state_dict().items():
        expected = weights[0][name]
        for step, of_step in enumerate(weights[1:]):
            share = min(decay, [1 / 10, 2 / 11, 3 / 12, 4 / 13][step])
            expected = share * expected + (1 - share) * of_step[name]
        expected = weights[-1][name] if name.endswith("num_batches_tracked") else expected
        np.testing.assert_allclose(value.double(), expected, rtol=1e-5, atol=1e-6, err_msg=name)
    changed = {name for name, value in training.model.state_dict().items()
               if not torch.equal(value, training.average.model.state_dict()[name])}
    assert {"out.1.weight", "visual.net.1.running_var", "gru.weight_hh_l0"} <= changed, "this test shows nothing"


def test_the_average_is_not_trained_and_stays_in_evaluation_mode():
    cfg = tiny_config()
    training = Training(build_model("visual", cfg, SHAPES), cfg, decay=0.9)
    train_epoch(training, objectives.task_objective, clips_of(80))
    average = training.average.model
    assert training.model.training and not any(module.training for module in average.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in average.parameters())
    held = {id(parameter) for group in training.optimizer.param_groups for parameter in group["params"]}
    assert not held & {id(parameter) for parameter in average.parameters()}


def test_a_frozen_backbone_is_shared_and_not_averaged():
    model = build_model("visual", tiny_config(), SHAPES)
    model.visual.freeze()
    average, before = Average(model, 0.5), copy.deepcopy(model.visual.net.state_dict())
    with torch.no_grad():
        model.visual.out[0].weight += 1
    average.update(model)
    assert average.model.visual.net is model.visual.net and same(before, model.visual.net.state_dict())
    assert not torch.equal(average.model.visual.out[0].weight, model.visual.out[0].weight)
    assert model.visual.out[0].weight.requires_grad


def test_an_averaged_network_learns_what_is_easy_to_learn():
    """With the statistics of batch norm of other weights it would not."""
    torch.manual_seed(0)
    cfg = tiny_config(learning_rate=0.01, visual_lr_scale=1.0, augment=False, visual_backbone="small_cnn")
    clips = Clips([easy_recording("a", 200, 0), easy_recording("b", 200, 1)], 8, 10, ("frames",), 0)
    training = Training(build_model("visual", cfg, SHAPES), cfg, decay=0.9)
    for _ in range(12):
        train_epoch(training, objectives.task_objective, clips)
        training.end_epoch(0.0)
    tables = predictions(training.kept, clips.recordings, cfg)
    assert training.kept is training.average.model and score(tables, ["arousal"])["arousal"]["mean"] > 0.8


# ---- runs -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_average_is_validated_and_kept_and_last_pt_holds_both(made, call, keep):
    words = ["--data-dir", unlabelled_corpus(made), *TINY, *MEAN, "--keep", keep, "--epochs", 3]
    assert call("mmpkd", *words)[0] == 0
    run = run_of(made, "student", distill="mean_teacher")
    best, last, log = load_checkpoint(run / "best.pt"), load_checkpoint(run / "last.pt"), log_of(run)
    means = [np.mean([entry["val"][target]["mean"] for target in ("arousal", "valence")]) for entry in log]
    assert best["epoch"] == (3 if keep == "last" else 1 + int(np.argmax(means)))
    assert last["average"]["steps"] == 6 and not same(last["model"], last["average"]["model"])
    assert same(best["model"], last["average"]["model"]) == (best["epoch"] == 3)
    of_files = score(read_predictions(run, "val", 25.0), ["arousal", "valence"])
    assert np.mean([each["mean"] for each in of_files.values()]) == pytest.approx(means[best["epoch"] - 1], abs=1e-4)


def test_without_an_average_checkpoints_are_as_they_were(trained_corpus):
    assert "average" not in load_checkpoint(run_of(trained_corpus, "visual") / "last.pt")


def unlabelled_corpus(made):
    """made with an unlabelled recording, and without any sound."""
    add_unlabelled(made)
    shutil.rmtree(made / "specs")
    return made


def test_a_mean_teacher_needs_no_other_run_and_no_sound(made, call):
    """... from the first step to the last: its files are the same bits with and without."""
    words = ["--data-dir", made, *TINY, *MEAN]
    add_unlabelled(made)
    assert call("mmpkd", *words)[0] == 0
    heard = run_of(made, "student", distill="mean_teacher").rename(made / "heard")
    shutil.rmtree(made / "specs")
    code, out, err = call("mmpkd", *words)
    assert code == 0 and "1 unlabelled recordings" in out.splitlines()[0], err
    (run,) = (made / "runs").iterdir()
    assert run.name == "student_both_mean_teacher"
    assert (run / "last.pt").read_bytes() == (heard / "last.pt").read_bytes()
    assert files_of(run / "predictions") == files_of(heard / "predictions")
    assert {"loss", "task", "hint", "beta"} < set(log_of(run)[0])
    card = load_checkpoint(run / "best.pt")["card"]
    assert card["taught_by"] == [] and card["trained_on"]["Unlabelled_Set"] == ["x_1"]
    assert "by the average of its own weights" in " ".join(call("predict", run / "best.pt", "--about")[1].split())


@pytest.mark.parametrize("at", ["step", "last.pt"])
def test_a_mean_teacher_that_was_stopped_and_resumed_equals_one_that_never_was(made, call, at):
    words = ["--data-dir", unlabelled_corpus(made), *TINY, *MEAN, "--epochs", 4]
    run = run_of(made, "student", distill="mean_teacher")
    never, out = stopped_and_resumed(call, words, run, at, 3)
    assert "resumed at epoch 3" in out
    assert (never / "last.pt").read_bytes() == (run / "last.pt").read_bytes() and log_of(never) == log_of(run)
    assert files_of(never / "predictions") == files_of(run / "predictions")


@pytest.mark.parametrize("words, said", [
    (["--unlabelled", 0], "Unlabelled_Set"),
    (["--distill", "mean_teacher+ccc"], "mean_teacher alone")])
def test_a_mean_teacher_that_would_equal_the_baseline_is_refused(made, call, words, said):
    words = ["--data-dir", unlabelled_corpus(made), *TINY, *MEAN, *words]
    assert said in one_line(*call("mmpkd", *words)[::2], expected=2) and not (made / "runs").exists()


def test_a_mean_teacher_depends_on_no_teachers_and_no_settings_of_distillation():
    cfg = tiny_config(stage="student", distill="mean_teacher")
    assert needed_by(cfg) == [] and read_in_training(cfg) == ["frames"]
    assert "unlabelled" in settings_of(cfg)
    assert not {"gate", "distill_weight", "teachers", "teacher_folds", "confirm_audio"} & set(settings_of(cfg))


# ---- the loss of a mean teacher -------------------------------------------------------------------------------------

def naive_ccc(one, other):
    p, g = one.double().flatten().numpy(), other.double().flatten().numpy()
    return 2 * np.mean((p - p.mean()) * (g - g.mean())) / (p.var() + g.var() + (p.mean() - g.mean()) ** 2)


@pytest.mark.parametrize("step, beta", [(0, 0.6 * math.exp(-5)), (4, 0.6 * math.exp(-1.8)), (10, 0.6), (31, 0.6)])
def test_its_loss_is_that_of_the_ratings_and_a_rising_weight_times_that_of_the_average(step, beta):
    """The first clip is unlabelled, and the quarter of 40 steps over."""
    student, other = (build_model("student", tiny_config(target="both"), SHAPES) for _ in range(2))
    average, objective = Average(other, 0.9), MeanTeacher(0.6)
    average.load({"steps": step, "model": other.state_dict()})
    objective.begin(average, 40)
    gold = torch.rand(3, 8, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    gold[0] = math.nan
    one, another = (easy_batch(seed=seed)._replace(gold=gold) for seed in (2, 3))
    loss, parts = objective(student.eval(), one, another)
    loss.backward()
    with torch.no_grad():
        own, its = student(one.frames).pred, other.eval()(another.frames).pred
    task = np.mean([1 - naive_ccc(own[1:, :, k], gold[1:, :, k]) for k in range(2)])
    hint = np.mean([1 - naive_ccc(own[..., k], its[..., k]) for k in range(2)])
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(
        {"task": task, "hint": hint, "beta": beta}, abs=1e-5)
    assert loss.item() == pytest.approx(task + beta * hint, abs=1e-5)
    assert student.out[1].weight.grad.any() and all(one.grad is None for one in average.model.parameters())


@pytest.mark.parametrize("augment", [True, False])
def test_an_objective_of_two_views_gets_two_augmentations_of_a_batch(augment):
    cfg, seen = tiny_config(augment=augment), []

    def objective(model, *views):
        seen.append(views)
        return model(views[0].frames).pred.sum() * 0, {}

    for views in (1, 2):
        objective.views = views
        train_step(Training(build_model("visual", cfg, SHAPES), cfg), objective, easy_batch())
    (alone,), (first, second) = seen
    assert torch.equal(alone.frames, first.frames) and torch.equal(first.gold, second.gold)
    assert torch.equal(first.frames, second.frames) != augment


def test_the_average_agrees_with_the_student_more_and_more():
    torch.manual_seed(0)
    cfg = tiny_config(learning_rate=0.005, visual_lr_scale=1.0, augment=False)
    rated, unlabelled = ([easy_recording(name, 200, seed)] for seed, name in enumerate("ab"))
    clips, objective = Clips(rated, 4, 10, ("frames",), 0, unlabelled=unlabelled), MeanTeacher(1.0)
    training, hints = Training(build_model("student", cfg, SHAPES), cfg, decay=0.9), []
    objective.begin(training.average, 8 * clips.steps)
    for _ in range(8):
        hints.append(train_epoch(training, objective, clips)["hint"])
        training.end_epoch(0.0)
    assert hints[-1] < 0.5 * hints[0]
