"""mmpkd.py: objectives, gate, predictor, scores and runs, on a drawn corpus and on sets that are easy to learn."""
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from conftest import (
    CPU,
    FRAMES,
    SHAPES,
    STAGES,
    TINY,
    easy_batch,
    easy_set,
    files_of,
    log_of,
    one_line,
    run_of,
    same,
    tiny_config,
)
from hypothesis import given
from hypothesis import strategies as st

import data
import mmpkd
import scores
from config import Config
from data import Clips, load_recordings
from losses import DISTILL, ccc
from mmpkd import GATES, Distillation, adaptive_gate, load_model, original_gate
from models_kd import build_model
from scores import predict, score
from training import Training, load_checkpoint, train_epoch

torch.set_num_threads(1)


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


def test_each_target_has_its_own_gate_and_frames_without_ratings_follow_the_teacher_alone():
    cfg = tiny_config(target="both")
    teacher, student = (build_model(stage, cfg, SHAPES).eval() for stage in ("teacher", "student"))
    teacher.requires_grad_(False)
    batch, usual = easy_batch(), torch.tensor([0.3, 1.2])
    gold = torch.rand(3, 8, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    gold[0], gold[:, :, 1] = math.nan, math.nan  # the first clip is of somebody unrated, and nobody's valence is rated
    objective = Distillation(teacher, {"ccc": 1.0, "cosine": 0.5}, "adaptive", 0.6, usual)
    loss, parts = objective(student, batch._replace(gold=gold))
    with torch.no_grad():
        taught, learned = teacher(batch.frames, batch.specs), student(batch.frames)
        (task, teacher_loss) = (1 - ccc(output.pred[1:, :, 0].flatten(), gold[1:, :, 0].flatten()) for output in (learned, taught))
        follow = [1 - ccc(learned.pred[..., k].flatten(), taught.pred[..., k].flatten()) for k in range(2)]
        cosine = DISTILL["cosine"].compare(learned.feat.flatten(0, 1), taught.feat.flatten(0, 1))
        beta = [0.6 * float((1 - g).clamp(0, 1)) for g in (teacher_loss, usual[1])]
        expected = [(1 - beta[0]) * task + beta[0] * (follow[0] + 0.5 * cosine), beta[1] * (follow[1] + 0.5 * cosine)]
    assert beta[1] == 0, "a teacher that is worse than nothing is not followed"
    assert float(loss.detach()) == pytest.approx(float(sum(expected)) / 2, abs=1e-6)
    assert float(parts["task"].detach()) == pytest.approx(float(task), abs=1e-6), "the target that nobody rated counts as learned"


def test_a_gate_that_is_no_matter_of_batches_is_the_same_for_all():
    teacher, student = (build_model(stage, tiny_config(target="both"), SHAPES).eval() for stage in ("teacher", "student"))
    for shares, silent in [(torch.tensor([1.0, 0.0]), False), (torch.zeros(2), True)]:
        objective = Distillation(teacher, {"ccc": 1.0}, shares, 0.8)
        batches = (easy_batch(seed=seed) for seed in (0, 1))
        betas = [float(objective(student, batch._replace(gold=batch.gold.expand(-1, -1, 2)))[1]["beta"]) for batch in batches]
        assert betas == pytest.approx([0.8 * float(shares.mean())] * 2) and objective.silent == silent


def test_pseudo_labels_are_the_ratings_where_there_are_any_and_the_calibrated_teachers_elsewhere():
    cfg = tiny_config(target="both")
    teacher, student = (build_model(stage, cfg, SHAPES).eval() for stage in ("teacher", "student"))
    batch = easy_batch()._replace(clips=(("a", 0), ("b", 0), ("a", 8)))
    gold = torch.rand(3, 8, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    gold[0], gold[1, 3, 1] = math.nan, math.nan
    calibration = {"a": torch.tensor([[2.0, 3.0], [0.1, 0.2]]), "b": torch.tensor([[2.0, 3.0], [-0.3, 0.4]])}
    loss, _ = Distillation(teacher.requires_grad_(False), {"pseudo": 1.0}, "off", 1.0, None, calibration)(student, batch._replace(gold=gold))
    with torch.no_grad():
        labels, pred = gold.clone(), student(batch.frames).pred
        for clip, frame, k in gold.isnan().nonzero().tolist():
            scale, offset = calibration[batch.clips[clip][0]][:, k]
            labels[clip, frame, k] = teacher(batch.frames, batch.specs).pred[clip, frame, k] * scale + offset
        expected = np.mean([1 - float(ccc(pred[..., k].flatten(), labels[..., k].flatten())) for k in range(2)])
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)


def kept(rated, unrated, teachers, draw):
    """Recordings whose teachers were kept: what each says is 0.7 of the truth beside noise, an offset by person and a scale of its own."""
    recordings = []
    for number in range(rated + unrated):
        gold = np.cumsum(draw.normal(0, 0.05, (200, 2)), 0).clip(-0.9, 0.9)
        said = [scale * (0.7 * gold + draw.normal(0, 0.1, gold.shape) + draw.normal()) for scale in teachers]
        taught = np.concatenate([np.concatenate([part, np.zeros((200, 128))], 1) for part in said], 1)[None].astype(np.float32)
        shown = (gold if number < rated else gold * math.nan).astype(np.float32)
        recordings.append(data.Recording(f"person_{number}", shown, {}, {"taught": taught}))
    return recordings


def mixed_of(recording, mixed, teachers):
    *counts, added = mixed[recording.name].numpy()
    return sum(count * part for count, part in zip(counts, mmpkd.said_by(recording, teachers, 2))) + added


@pytest.mark.parametrize("scales", [(0.2,), (1.0, 0.1)])
def test_calibration_gives_every_recording_the_ratings_mean_and_strangers_the_ratings_spread(scales):
    recordings = kept(2, 2, scales, np.random.default_rng(0))
    recordings[0].arrays["taught"] = recordings[0].arrays["taught"] * 20  # trained on this one: how they speak of it says nothing of the others
    gold = np.concatenate([recording.gold for recording in recordings[:2]])
    mixed = mmpkd.mixture(recordings, len(scales), True, CPU)
    said = [mixed_of(recording, mixed, len(scales)) for recording in recordings]
    for one in said:
        np.testing.assert_allclose(one.mean(0), gold.mean(0), atol=1e-4)
    np.testing.assert_allclose(np.concatenate(said[2:]).std(0), gold.std(0), rtol=1e-3)
    assert mmpkd.mixture(recordings[:2], len(scales), True, CPU)["person_0"][0, 0] < mixed["person_0"][0, 0], "where everybody is rated, all count"


def test_teachers_are_weighed_for_each_target_by_how_well_they_tell_the_ratings():
    recordings, draw = kept(8, 2, (1.0, 1.0, 1.0), np.random.default_rng(0)), np.random.default_rng(1)
    for recording in recordings:
        taught = recording.arrays["taught"]
        taught[..., 0] = draw.normal(0, 1, 200)  # of arousal the first knows nothing
        taught[..., 131] = -taught[..., 1]  # of valence the second says the opposite
    moves = {one.name: (said := mmpkd.said_by(one, 3, 2)) - said.mean(1, keepdims=True) for one in recordings}
    everybody = np.ones((3, 2), bool)
    weights = mmpkd.stacked(moves, recordings, everybody)
    assert weights[0, 0] < 0.1 * weights[1, 0] and weights[1, 1] == 0 and (weights[2] > 0.1).all() and (weights >= 0).all()
    x = np.concatenate([moves[one.name][1:, :, 0].T for one in recordings[:8]])
    y = np.concatenate([one.gold[:, 0] - one.gold[:, 0].mean() for one in recordings[:8]])
    asked = everybody.copy()
    asked[0, 0] = False  # of arousal, the first is not asked
    without = mmpkd.stacked(moves, recordings, asked)
    np.testing.assert_allclose(np.linalg.lstsq(x, y, rcond=None)[0], without[1:, 0], rtol=1e-3)
    assert without[0, 0] == 0 and (without[:, 1] == weights[:, 1]).all()
    for recording in recordings:
        recording.gold[:] = math.nan
    assert (mmpkd.stacked(moves, recordings, everybody) == 1).all() and (mmpkd.stacked(moves, recordings, asked) == asked).all()


def test_ratings_that_are_masked_do_not_shift_what_teachers_are_weighed_by():
    recordings, draw = kept(4, 0, (1.0, 1.0), np.random.default_rng(0)), np.random.default_rng(1)
    for recording in recordings:
        truth = recording.gold.copy()
        recording.gold[100:] = math.nan
        recording.arrays["taught"][0, :, :2] = truth + 2 * (np.arange(200) >= 100)[:, None]  # right about what is rated, and higher elsewhere
        recording.arrays["taught"][0, :, 130:132] = draw.normal(0, 1, (200, 2))
    moves = {one.name: (said := mmpkd.said_by(one, 2, 2)) - said.mean(1, keepdims=True) for one in recordings}
    np.testing.assert_allclose(mmpkd.stacked(moves, recordings, np.ones((2, 2), bool)), [[1, 1], [0, 0]], atol=0.02)


def test_teachers_that_say_the_same_of_everybody_teach_the_mean_of_the_ratings():
    recordings = kept(3, 3, (1.0,), np.random.default_rng(0))
    for recording in recordings:
        recording.arrays["taught"][..., 0] = 0.3 + np.random.default_rng(1).normal(0, 1e-7, 200)  # rounding is no opinion
    mixed = mmpkd.mixture(recordings, 1, True, CPU)
    mean = np.nanmean(np.concatenate([recording.gold for recording in recordings])[:, 0])
    for recording in recordings:
        np.testing.assert_allclose(mixed_of(recording, mixed, 1)[:, 0], mean, atol=1e-5)
        assert mixed_of(recording, mixed, 1)[:, 1].std() > 0


@pytest.mark.parametrize("calibrate", [True, False])
def test_a_teacher_that_is_not_asked_changes_nothing_to_the_bit(calibrate):
    recordings = kept(4, 4, (1.0, 0.5), np.random.default_rng(0))
    mixed = mmpkd.mixture(recordings, 2, calibrate, CPU, np.array([[False, True], [True, True]]))
    both = mmpkd.mixture(recordings, 2, calibrate, CPU)
    for recording in recordings:
        recording.arrays["taught"] = recording.arrays["taught"][..., 130:]
    alone = mmpkd.mixture(recordings, 1, calibrate, CPU)
    for name in alone:
        assert mixed[name][0, 0] == 0 and torch.equal(mixed[name][1:, 0], alone[name][:, 0])
        assert torch.equal(mixed[name][:, 1], both[name][:, 1]) and both[name][0, 1] > 0


def test_whose_share_is_how_large_is_said_and_that_of_ratings_that_never_move_is_none():
    mixed = {"person_0": torch.tensor([[0.3, 0.0], [0.9, 0.0], [5.0, 0.1]])}  # two teachers, and what is added
    assert mmpkd.told_by(["audio", "visual"], mixed, ["arousal", "valence"]).splitlines() == [
        "arousal: shares of the teachers in what they say together: audio 25%, visual 75%",
        "valence: shares of the teachers in what they say together: audio 0%, visual 0%"]


def test_teachers_are_believed_the_less_the_less_those_of_all_folds_agree():
    draw = np.random.default_rng(0)
    recordings = kept(2, 2, (1.0, 0.5), draw)
    for recording in recordings:
        each = draw.normal(0, 1, (1, 200, 2, 3, 2)) * np.linspace(0, 2, 200)[:, None, None, None] + draw.normal(0, 5, (1, 1, 2, 3, 2))  # folds differ
        if np.isfinite(recording.gold).all():
            each[:] = each[:, :, :, :1]  # one network alone
        taught = recording.arrays["taught"].reshape(1, 200, 2, 130)
        recording.arrays["taught"] = np.concatenate([taught, each.reshape(1, 200, 2, 6)], 3).reshape(1, 200, 272)
        recording.each = each[0]
    mixed = mmpkd.mixture(recordings, 2, True, CPU)
    sure = mmpkd.agreement(recordings, mixed, 3, CPU)
    assert all((sure[recording.name] == 1).all() for recording in recordings[:2])
    doubts = {}
    for recording in recordings[2:]:
        moves = recording.each - recording.each.mean(0)
        together = sum(mixed[recording.name][g].numpy() * moves[:, g] for g in range(2))  # (N, folds, K)
        doubts[recording.name] = np.array([[np.std(together[k, :, target]) for target in range(2)] for k in range(200)])
    typical = np.sqrt(np.mean([doubt ** 2 for doubt in doubts.values()], (0, 1)))
    for name, doubt in doubts.items():
        np.testing.assert_allclose(sure[name], 1 / (1 + (doubt / typical) ** 2), atol=1e-5)
        assert sure[name][0].min() > 0.95 > 0.7 > sure[name][150:].mean()


def test_a_frame_that_counts_half_teaches_half_as_much():
    cfg = tiny_config(target="both")
    student, batch = build_model("student", cfg, SHAPES).eval(), easy_batch()._replace(clips=(("a", 2), ("b", 0), ("a", 0)))
    gold = torch.full((3, 8, 2), math.nan)
    said = torch.rand(3, 8, 130, generator=torch.Generator().manual_seed(1))
    sure = {name: torch.rand(10, 2, generator=torch.Generator().manual_seed(seed)) for seed, name in enumerate("ab")}
    objective = Distillation(student, {"pseudo": 1.0}, "off", 1.0, sure=sure)
    loss = float(objective(student, batch._replace(gold=gold, taught=said))[0].detach())
    with torch.no_grad():
        pred, weights = student(batch.frames).pred, torch.stack([sure["a"][2:], sure["b"][:8], sure["a"][:8]])
        series = [(pred[..., k].flatten(), said[..., k].flatten(), weights[..., k].flatten()) for k in range(2)]
        assert loss == pytest.approx(np.mean([1 - float(ccc(*each)) for each in series]), abs=1e-6)


def test_without_calibration_teachers_teach_by_their_plain_mean():
    recordings = kept(1, 1, (1.0, 0.5), np.random.default_rng(0))
    mixed = mmpkd.mixture(recordings, 2, False, CPU)
    for recording in recordings:
        np.testing.assert_allclose(mixed_of(recording, mixed, 2), mmpkd.said_by(recording, 2, 2).mean(0), atol=1e-6)


def heard_and_seen(told, rated=4, unrated=20):
    """(recordings, {id: what a face tells}): teachers hear `told` of arousal and nothing of valence; all people have a course in common."""
    draw = np.random.default_rng(0)
    recordings, seen = kept(rated, unrated, (1.0,), draw), {}
    course = np.sin(np.arange(200) / 20)
    for recording in recordings:
        feels = np.cumsum(draw.normal(0, 0.2, (200, 2)), 0)
        heard = np.stack([told * feels[:, 0] + course, 2 * course], 1) + draw.normal(0, 0.5, (200, 2))
        recording.arrays["taught"][0, :, :2] = heard
        recording.gold[:] = np.where(np.isnan(recording.gold), np.nan, feels + course[:, None])
        seen[recording.name] = (feels + course[:, None] + draw.normal(0, 0.5, (200, 2))).astype(np.float32)
    return recordings, seen


@pytest.mark.parametrize("told, sure", [(0.5, True), (0.15, True), (0, False), (-0.5, False)])
def test_what_is_heard_is_confirmed_where_it_agrees_with_what_is_seen_of_the_same_person(told, sure, monkeypatch, capsys):
    recordings, seen = heard_and_seen(told)
    monkeypatch.setattr(mmpkd, "predict", lambda _, some: {recording.name: seen[recording.name] for recording in some})
    shares = mmpkd.confirmed(recordings, torch.nn.Linear(1, 1), ["arousal", "valence"])
    more, names = [], [recording.name for recording in recordings]
    witnesses = {recording.name: recording.gold if np.isfinite(recording.gold).all() else seen[recording.name] for recording in recordings}
    for number, recording in enumerate(recordings):
        r = [scipy.stats.pearsonr(recording.arrays["taught"][0, :, 0], witnesses[names[(number + k) % len(names)]][:, 0])[0] for k in range(11)]
        more.append(r[0] - np.mean(r[1:]))
    assert f"by {np.mean(more):+.2f} more" in capsys.readouterr().out
    assert (np.mean(more) > 3 * np.std(more, ddof=1) / math.sqrt(24)) == sure
    assert shares[0] == pytest.approx(sure * min(1, 2 * np.mean(more)), abs=1e-3) and shares[1] == 0, "of valence there is the common course alone"
    for recording in recordings:
        recording.arrays["taught"] = np.concatenate([np.ones((1, 200, 130), np.float32), recording.arrays["taught"]], 2)
    assert torch.equal(shares, mmpkd.confirmed(recordings, torch.nn.Linear(1, 1), ["arousal", "valence"], 2, 1)), "beside another"


def test_where_ratings_of_one_target_are_missing_the_face_is_the_witness_of_that_target(monkeypatch):
    recordings, seen = heard_and_seen(0.5, rated=16, unrated=0)
    monkeypatch.setattr(mmpkd, "predict", lambda _, some: {recording.name: seen[recording.name] for recording in some})
    whole = mmpkd.confirmed(recordings, torch.nn.Linear(1, 1), ["arousal", "valence"])
    for recording in recordings[:12]:
        recording.gold[:, 0] = math.nan
    assert mmpkd.confirmed(recordings, torch.nn.Linear(1, 1), ["arousal", "valence"])[0] > 0.8 * whole[0] > 0.1


def test_few_people_confirm_nothing(monkeypatch, capsys):
    recordings, seen = heard_and_seen(5)
    monkeypatch.setattr(mmpkd, "predict", lambda _, some: {recording.name: seen[recording.name] for recording in some})
    for count in (1, 2):
        assert not mmpkd.confirmed(recordings[:count], torch.nn.Linear(1, 1), ["arousal", "valence"]).any()


def test_series_are_compared_as_far_as_both_go():
    one, other = np.random.default_rng(0).normal(0, 1, (2, 50))
    other[3] = math.nan
    kept = np.r_[0:3, 4:40]
    assert mmpkd.alike(one, other[:40]) == pytest.approx(scipy.stats.pearsonr(one[kept], other[kept])[0]) == mmpkd.alike(other[:40], one)
    assert mmpkd.alike(one, np.ones(50)) == mmpkd.alike(one, other * math.nan) == 0


def test_of_several_teachers_the_best_on_the_batch_teaches_and_the_joint_one_where_none_is_better():
    cfg, batch = tiny_config(target="both"), easy_batch()
    student = build_model("student", cfg, SHAPES).eval()
    gold = torch.rand(3, 8, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = torch.randn(3, 3, 8, 130, generator=torch.Generator().manual_seed(2))
    for close, taught_by in ([0.1, 0.5, 0.5], 0), ([0.5, 0.1, 0.5], 1), ([0.5, 0.5, 0.1], 2):
        said = [torch.cat([gold + close[k] * noise[k][..., :2], noise[k][..., 2:]], 2) for k in range(3)]
        objective = Distillation(student, {"ccc": 1.0, "cosine": 0.5}, "off", 1.0, teachers=3)
        loss, parts = objective(student, batch._replace(gold=gold, taught=torch.cat(said, 2)))
        with torch.no_grad():
            learned, aligned = student(batch.frames), [said[0][..., 2:], *(objective.adapters[f"teacher_{k}"](said[k][..., 2:]) for k in (1, 2))]
            follow = np.mean([1 - float(ccc(learned.pred[..., k].flatten(), said[taught_by][..., k].flatten())) for k in range(2)])
            apart = np.mean([float(DISTILL["cosine"].compare(aligned[k].flatten(0, 1), aligned[0].flatten(0, 1))) for k in (1, 2)])
            hint = float(DISTILL["cosine"].compare(learned.feat.flatten(0, 1), aligned[taught_by].flatten(0, 1)))
        assert float(loss.detach()) == pytest.approx(follow + 0.5 * hint + apart, abs=1e-5), taught_by
        loss.backward()
        assert all(objective.adapters[f"teacher_{k}"].weight.grad.abs().sum() > 0 for k in (1, 2)), "the adapters do not learn"
    objective = Distillation(student, {"ccc": 1.0}, "off", 1.0, teachers=3)
    unrated = objective(student, batch._replace(gold=gold * math.nan, taught=torch.cat(said, 2)))[1]["hint"]
    with torch.no_grad():
        joint = np.mean([1 - float(ccc(student(batch.frames).pred[..., k].flatten(), said[0][..., k].flatten())) for k in range(2)])
    assert float(unrated.detach()) == pytest.approx(joint, abs=1e-5), "nobody is rated, and it is not the joint teacher that teaches"


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("distill", DISTILL)
def test_a_students_loss_is_the_weighted_sum_of_ratings_and_hint(gate, distill):
    cfg = tiny_config()
    teacher = build_model("teacher", cfg, SHAPES).eval().requires_grad_(False)
    student, batch = build_model("student", cfg, SHAPES).eval(), easy_batch()
    objective = Distillation(teacher, {distill: 1.0}, gate, 0.4)
    loss, parts = objective(student, batch)
    with torch.no_grad():
        taught, learned = teacher(batch.frames, batch.specs), student(batch.frames)
        task, teacher_loss = (1 - ccc(output.pred.flatten(), batch.gold.flatten()) for output in (learned, taught))
        method = DISTILL[distill]
        own, its = (learned.pred, batch.gold) if method.of == "label" else (getattr(output, method.of) for output in (learned, taught))
        own, its = own.flatten(0, 1), its.flatten(0, 1)
        hint = method.compare(objective.adapters[distill](own) if method.mapped else own, its)
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
    train_epoch(training, Distillation(teacher, {"cosine": 1.0}, "off", 0.5), Clips(recordings, 4, 10, ("frames", "specs"), 0))

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


@pytest.mark.parametrize("stage", STAGES)
def test_predict_equals_frame_after_frame(stage, monkeypatch):
    recording, model = easy_set("x", 40, 0), build_model(stage, tiny_config(), SHAPES)
    pred = predict(model, [recording])["x"]
    monkeypatch.setattr(scores, "stream", lambda recording, inputs: data.stream(recording, inputs, 1))
    np.testing.assert_allclose(predict(model, [recording])["x"], pred, atol=1e-5)


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
    text = scores.comparison(scores, ["arousal"], scores.which_epoch(Config()))
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
    objective = Distillation(teacher, {"cosine": 1.0}, "adaptive", 0.5) if stage == "student" else mmpkd.task_objective
    training = Training(build_model(stage, cfg, SHAPES), cfg)

    def train_ccc():
        return score(scores.predictions(training.model, recordings, cfg), ["arousal"])["arousal"]["mean"]

    before = train_ccc()
    for _ in range(12):
        parts = train_epoch(training, objective, Clips(recordings, 8, 10, mmpkd.trained_on(stage), 0))
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
    objective, hints = Distillation(teacher, {"cosine": 1.0}, "off", 1.0), []
    for _ in range(8):
        hints.append(train_epoch(training, objective, Clips(recordings, 4, 10, ("frames", "specs"), 0))["hint"])
        training.end_epoch(0.0)
    assert hints[-1] < 0.5 * hints[0]


# ---- runs -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_leaves_the_files_of_a_run(trained_corpus, stage):
    folder = run_of(trained_corpus, stage)
    assert {path.name for path in folder.iterdir()} == {"config.json", "log.jsonl", "last.pt", "best.pt", "predictions", "curves.png", "people.json"}
    assert json.loads((folder / "config.json").read_text())["stage"] == stage
    assert [line["epoch"] for line in log_of(folder)] == [1, 2]
    taught = {"hint", "beta", "teacher"} if stage == "student" else set()
    assert {"epoch", "loss", "task", "gradient", "val", "best"} | taught == set(log_of(folder)[0])
    assert {str(path.relative_to(folder / "predictions")) for path in (folder / "predictions").rglob("*.csv")} == {
        "train/train_1.csv", "train/train_2.csv", "val/dev_1.csv"}
    for path in (folder / "predictions").rglob("*.csv"):
        table = pd.read_csv(path)
        assert list(table) == ["time_s", "arousal_gold", "arousal_pred", "valence_gold", "valence_pred"]
        gold = pd.read_csv(next((trained_corpus / "Annotations").glob(f"*/{path.name}")))
        np.testing.assert_allclose(table["time_s"], np.arange(FRAMES) / 25)
        np.testing.assert_allclose(table[["arousal_gold", "valence_gold"]], gold[["arousal", "valence"]], atol=1e-6)
        assert np.isfinite(table.to_numpy()).all() and table["arousal_pred"].std() > 0


def test_the_times_of_a_long_recording_are_read_as_they_were_written(tmp_path):
    gold = np.zeros((31000, 1), np.float32)
    table = scores.prediction_table(data.Recording("long", gold, {}), gold, ["arousal"], 30)
    scores.write_table(table, tmp_path / "long.csv")
    np.testing.assert_allclose(scores.read_table(tmp_path / "long.csv", 30, "again")["time_s"], np.arange(31000) / 30, atol=5e-5)


def test_a_run_of_other_people_is_refused(trained, call):
    """Who is held out by which fold hangs on all people: a new one would make teachers teach on those they know."""
    words = ["--data-dir", trained, *TINY, "--target", "both"]
    assert call("mmpkd", *words, "--stage", "visual")[0] == 0
    tables = trained / "Annotations" / "Train_Set"
    shutil.copy(tables / "train_1.csv", tables / "train_0.csv")
    for stage, of in (("visual", "visual"), ("student", "student"), ("student", "teacher")):
        if of == "teacher":
            shutil.rmtree(run_of(trained, "student"))
        err = one_line(*call("mmpkd", *words, "--stage", stage)[::2])
        assert f"{run_of(trained, of)}/ holds a run that was trained when train_0 was not in Train_Set: delete the folder" in err
    (tables / "train_0.csv").unlink()
    (tables / "train_2.csv").unlink()
    assert "when train_2 was in Train_Set" in one_line(*call("mmpkd", *words, "--stage", "visual")[::2])


def test_a_run_of_another_version_does_not_end_the_listing(trained, call):
    file = run_of(trained, "visual") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"gone_setting": 1}))
    code, out, err = call("mmpkd", "--data-dir", trained, "--list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0 and "of another version" in lines["visual_both"] and "finished" in lines["teacher_both"], err


def test_a_student_of_teachers_that_only_see_needs_no_sound(made, call):
    shutil.rmtree(made / "specs")
    words = ["--data-dir", made, *TINY, "--teachers", "visual", "--gate", "off"]
    assert call("mmpkd", *words, "--stage", "visual")[0] == 0
    code, out, err = call("mmpkd", *words, "--stage", "student", "--teacher-folds", 0)
    assert code == 0 and "finished" in out, err
    assert "audio_melspec.py" in one_line(*call("mmpkd", *words, "--stage", "teacher")[::2])


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


def test_a_model_that_only_hears_can_teach_too(trained, tmp_path, call):
    code, out, err = call("mmpkd", "--data-dir", trained, *TINY, "--stage", "student", "--target", "both", "--runs-dir", tmp_path, "--distill",
                          "ccc", "--teacher-checkpoint", run_of(trained, "audio") / "best.pt")
    assert code == 0 and "finished" in out, err


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


# ---- people held out, people nobody rated ---------------------------------------------------------------------------

def test_a_fold_holds_people_out_and_chooses_the_epoch_on_them(made, call):
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--fold", "2/2")
    assert code == 0 and "had the best CCC on the people held out" in out, err
    folder = made / "runs" / "visual_arousal_fold2of2"
    tables = {path.relative_to(folder / "predictions"): pd.read_csv(path) for path in folder.rglob("*.csv")}
    assert {str(path) for path in tables} == {"train/train_1.csv", "held_out/train_2.csv", "val/dev_1.csv"}
    table = next(table for path, table in tables.items() if path.parent.name == "held_out")
    best = load_checkpoint(folder / "best.pt")["epoch"]
    assert float(ccc(table["arousal_pred"].to_numpy(), table["arousal_gold"].to_numpy())) == pytest.approx(
        log_of(folder)[best - 1]["val"]["arousal"]["mean"], abs=1e-4)


def test_a_fold_does_not_look_at_the_ratings_it_reports_on(made, call):
    """With other ratings in Val_Set everything that was learned and chosen is the same."""
    for number, rating in enumerate([None, "0.5"]):
        if rating:
            path = made / "Annotations" / "Val_Set" / "dev_1.csv"
            table = pd.read_csv(path, dtype=str)
            table["arousal"] = [str(round(0.9 * math.sin(k), 3)) for k in range(len(table))]
            table.to_csv(path, index=False)
        assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--fold", "1/2", "--runs-dir", made / f"runs{number}")[0] == 0
    one, other = (made / f"runs{number}" / "visual_arousal_fold1of2" for number in range(2))
    assert same(load_checkpoint(one / "best.pt"), load_checkpoint(other / "best.pt")) and log_of(one) == log_of(other)


@pytest.mark.parametrize("fold, message", [("3/3", "leaves nobody to hold out"), ("1/1", "holds everybody out"), ("0/2", "is not i/n")])
def test_a_fold_that_cannot_be_is_one_line(made, call, fold, message):
    code, _, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--fold", fold)
    assert code in (1, 2) and message in one_line(code, err, code) and not (made / "runs").exists()


def test_the_last_epoch_can_be_kept_so_that_nothing_is_chosen(made, call):
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 3, "--keep", "last")
    folder = run_of(made, "visual", "arousal")
    assert code == 0 and "epoch 3 was the last and is kept" in out, err
    assert load_checkpoint(folder / "best.pt")["epoch"] == 3
    assert same(load_checkpoint(folder / "best.pt")["model"], load_checkpoint(folder / "last.pt")["model"])


def unrate(folder, name):
    """Makes a rated recording one of Unlabelled_Set, as annotations.py would."""
    path = next((folder / "Annotations").glob(f"*/{name}.csv"))
    out = folder / "Annotations" / "Unlabelled_Set" / path.name
    out.parent.mkdir(exist_ok=True)
    pd.read_csv(path, dtype=str)[["image path", "spec path"]].to_csv(out, index=False)
    path.unlink()


def test_a_student_learns_from_people_nobody_rated_and_a_baseline_does_not(trained, call):
    unrate(trained, "train_2")
    words = ["--data-dir", trained, *TINY, "--target", "both", "--runs-dir", trained / "others", "--teacher-checkpoint",
             run_of(trained, "teacher") / "best.pt"]
    code, out, err = call("mmpkd", *words, "--stage", "student", "--distill", "ccc")
    assert code == 0 and "120 frames of 2 recordings" in out, err
    assert {path.name for path in (trained / "others").rglob("*.csv")} == {"train_1.csv", "dev_1.csv"}
    assert "60 frames of 1 recordings" in call("mmpkd", *words[:-2], "--stage", "visual")[1]
    assert "60 frames of 1 recordings" in call("mmpkd", *words, "--stage", "student", "--unlabelled", 0)[1]
    out = call("mmpkd", *words, "--stage", "student", "--distill", "ccc", "--unlabelled-first", 0.5, "--epochs", 2, "--variant", "first")[1]
    log = log_of(trained / "others" / "student_both_ccc_first")
    assert "finished" in out and log[0]["task"] == 0 < log[1]["task"], "the first epoch is of those whom nobody rated"


@pytest.mark.parametrize("shares", [(0.0, 0.0), (1.0, 0.0)])
def test_a_student_whose_teachers_are_not_confirmed_is_the_visual_baseline_to_the_bit(shares, made, call, monkeypatch):
    monkeypatch.setattr(mmpkd, "confirmed", lambda *_: torch.tensor(shares))
    with_a_stranger(made)
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, "--target", "both", *CONFIRMED)
    assert code == 0 and ("the student is trained as the visual baseline" in out) == (not any(shares)), err
    visual, student = (load_checkpoint(made / "runs" / name / "last.pt")["model"] for name in ("visual_both", "student_both_pseudo"))
    assert same(visual, student) == (not any(shares))


def with_a_stranger(made):
    """Somebody more, whom nobody rated."""
    unlabelled = made / "Annotations" / "Unlabelled_Set"
    unlabelled.mkdir(exist_ok=True)
    table = pd.read_csv(made / "Annotations" / "Train_Set" / "train_2.csv", dtype=str)
    table[["image path", "spec path"]].to_csv(unlabelled / "x_1.csv", index=False)


def test_everybody_is_taught_by_the_networks_that_do_not_know_them(made, call, monkeypatch):
    """Against what the runs of the folds wrote themselves, each of the person it held out."""
    with_a_stranger(made)
    taught = {}
    monkeypatch.setattr(mmpkd, "mixture", lambda recordings, *words, mixture=mmpkd.mixture: (
        taught.update({one.name: one.arrays["taught"][0, :, :2] for one in recordings}), mixture(recordings, *words))[1])
    assert call("mmpkd", "--data-dir", made, *TINY, "--target", "both", *CONFIRMED)[0] == 0
    runs = [made / "runs" / f"audio_both_fold{number}of2" / "predictions" for number in (1, 2)]
    said = {name: {path.parent.name: pd.read_csv(path)[["arousal_pred", "valence_pred"]].to_numpy() for run in runs
                   for path in run.glob(f"*/{name}.csv")} for name in ("train_1", "train_2")}
    for name, each in said.items():
        np.testing.assert_allclose(taught[name], each["held_out"], atol=1e-5)
        assert np.abs(taught[name] - each["train"]).max() > 1e-3
    np.testing.assert_allclose(taught["x_1"], (said["train_2"]["held_out"] + said["train_2"]["train"]) / 2, atol=1e-5)  # train_2 under another name


def test_beside_faces_voices_teach_where_they_are_confirmed(made, call, monkeypatch):
    with_a_stranger(made)
    words = ["--data-dir", made, *TINY, "--target", "both", *CONFIRMED, "--no-calibrate", "--teachers"]  # who is asked counts as much as others
    students = {}
    for shares in [(0.0, 0.0), (0.3, 1.0), (0.3, 0.0)]:
        monkeypatch.setattr(mmpkd, "confirmed", lambda *_, shares=shares: torch.tensor(shares))
        stage = ["--stage", "student"] if students else []
        code, out, err = call("mmpkd", *words, "audio+visual", "--variant", "".join(map(str, shares)), *stage)
        assert code == 0 and out.count("together: audio 0%, visual 100%") == shares.count(0), err
        students[shares] = f"student_both_pseudo_{''.join(map(str, shares))}"
    for teachers in ("visual", "audio+visual"):
        assert call("mmpkd", *words, teachers, "--gate", "off", "--variant", teachers, "--stage", "student")[0] == 0
        students[teachers] = f"student_both_pseudo_{teachers}"
    weights = {name: load_checkpoint(made / "runs" / folder / "last.pt")["model"] for name, folder in students.items()}
    assert same(weights[0.0, 0.0], weights["visual"]) and same(weights[0.3, 1.0], weights["audio+visual"])
    assert not same(weights["visual"], weights["audio+visual"])
    assert not any(same(weights[0.3, 0.0], weights[name]) for name in ("visual", "audio+visual"))


CONFIRMED = ["--teachers", "audio", "--teacher-folds", 2, "--calibrate", "--gate", "confirmed", "--distill", "pseudo", "--distill-weight", 1]


def test_the_gate_asks_the_baseline_that_is_there_and_says_if_it_is_not(made, call):
    words = ["--data-dir", made, *TINY, "--target", "both", *CONFIRMED]
    code, out, err = call("mmpkd", *words)
    assert code == 0 and out.count("what the teachers hear is confirmed to 0.00") == 2 and "2 recordings)" in out, err
    shutil.rmtree(made / "runs" / "visual_both")
    shutil.rmtree(made / "runs" / "student_both_pseudo")
    assert "visual_both/best.pt is missing: run --stage visual first" in one_line(*call("mmpkd", *words, "--stage", "student")[::2], 2)


@pytest.mark.parametrize("words", [["--teachers", "visual"], ["--teachers", "joint"], ["--teacher-folds", 0]])
def test_the_gate_is_for_teachers_that_only_hear(made, call, words):
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, *CONFIRMED, *words)[::2], 2)
    assert "needs --teachers audio or audio+visual, --teacher-folds 2" in line


def test_a_batch_too_small_for_both_kinds_of_people_is_one_line(trained, call):
    unrate(trained, "train_2")
    line = one_line(*call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--runs-dir", trained / "others",
                          "--batch-size", 1, "--teacher-checkpoint", run_of(trained, "teacher") / "best.pt")[::2], 2)
    assert "unlabelled_clips: 0.5 of a batch of 1 clips leaves none to the unlabelled people" in line


def test_a_person_both_rated_and_unrated_is_refused(trained, call):
    kept = next((trained / "Annotations").glob("*/dev_1.csv")).read_text()
    unrate(trained, "dev_1")
    (trained / "Annotations" / "Val_Set" / "dev_1.csv").write_text(kept)
    line = one_line(*call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--runs-dir", trained / "others",
                          "--teacher-checkpoint", run_of(trained, "teacher") / "best.pt")[::2])
    assert "dev_1 is in Val_Set and in Unlabelled_Set" in line


def test_damaged_predictions_of_a_finished_run_are_one_line(made, call):
    flags = ["--data-dir", made, "--stage", "visual", *TINY]
    assert call("mmpkd", *flags)[0] == 0
    table = next((made / "runs" / "visual_arousal" / "predictions" / "val").glob("*.csv"))
    table.write_text("time_s,arousal_gold,arousal_pred\n0,0.1\n0,1,2,3,4\n")
    code, _, err = call("mmpkd", *flags)
    assert code == 1 and len(err.splitlines()) == 1
    assert str(table) in err and "run mmpkd.py" in err
