"""mmpkd.py: what a student is taught by, and how much of it."""
import math

import numpy as np
import pytest
import torch
from conftest import SHAPES, easy_batch, tiny_config
from hypothesis import given
from hypothesis import strategies as st

import objectives
from losses import DISTILL, ccc
from models_kd import HINT, build_model
from objectives import GATES, Distillation, adaptive_gate, original_gate

METHODS = [name for name, method in DISTILL.items() if method.of in ("feat", "pred")]


# ---- gates ----------------------------------------------------------------------------------------------------------

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
    assert GATES["off"](torch.tensor([0.0, 0.5, 2.0]), 0.3).tolist() == pytest.approx([0.3] * 3)


# ---- objectives -----------------------------------------------------------------------------------------------------

def distilled(methods, gate, weight, targets=2, gold=None):
    """(loss, its parts, the same computed by hand) of a student on a batch with the outputs of some teacher."""
    cfg, batch = tiny_config(target="both" if targets == 2 else "arousal"), easy_batch()
    student = build_model("student", cfg, SHAPES).eval()
    draw = torch.Generator().manual_seed(1)
    gold = torch.rand(3, 8, targets, generator=draw) * 2 - 1 if gold is None else gold
    pred = gold.nan_to_num(0.1) + 0.5 * torch.randn(3, 8, targets, generator=draw)
    taught = torch.cat([pred, torch.randn(3, 8, HINT, generator=draw)], 2)
    objective = Distillation(methods, gate, weight)
    loss, parts = objective(student, batch._replace(gold=gold, taught=taught))
    with torch.no_grad():
        own, expected = student(batch.frames), []
        for k in range(targets):
            valid = ~gold[..., k].isnan()
            task, g = (float(1 - ccc(series[..., k][valid], gold[..., k][valid])) for series in (own.pred, pred))
            beta = {"adaptive": weight * min(1, max(0, 1 - g)), "off": weight,
                    "original": 0.2 + g if g <= 0.2 or g > 1 else 1.0}[gate]
            hint = 0
            for name, share in methods.items():
                if DISTILL[name].of == "pred":
                    series = (part[..., k:k + 1].flatten(0, 1) for part in (own.pred, pred))
                    value = DISTILL[name].compare(*series)
                else:
                    mapped = objective.adapters[name](own.feat) if name in objective.adapters else own.feat
                    value = DISTILL[name].compare(mapped.flatten(0, 1), taught[..., targets:].flatten(0, 1))
                hint += share * float(value)
            loss_of_it = (1 - beta) * task + beta * hint
            expected.append({"loss": loss_of_it, "task": task, "hint": hint, "beta": beta, "teacher": g})
    means = {name: sum(each[name] for each in expected) / targets for name in expected[0]}
    return float(loss.detach()), {name: float(value.detach()) for name, value in parts.items()}, means, expected


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("distill", METHODS)
def test_a_students_loss_is_the_weighted_sum_of_ratings_and_hint(gate, distill):
    loss, parts, means, _ = distilled({distill: 1.0}, gate, 0.4, targets=1)
    assert loss == pytest.approx(means.pop("loss"), abs=1e-5) and parts == pytest.approx(means, abs=1e-5)


@pytest.mark.parametrize("gate", GATES)
def test_a_sum_of_losses_is_weighted_and_its_parts_are_named(gate):
    loss, parts, means, _ = distilled({"cosine": 0.5, "fitnets": 0.25, "ccc": 2.0}, gate, 0.6)
    assert loss == pytest.approx(means["loss"], abs=1e-5) and {"cosine", "fitnets", "ccc"} < set(parts)
    assert 0.5 * parts["cosine"] + 0.25 * parts["fitnets"] + 2 * parts["ccc"] == pytest.approx(parts["hint"], abs=1e-5)


def test_each_target_has_its_own_gate_and_frames_without_ratings_do_not_count_in_it():
    gold = torch.rand(3, 8, 2, generator=torch.Generator().manual_seed(2)) * 2 - 1
    gold[0], gold[1, 3, 1] = math.nan, math.nan  # the first clip is unlabelled
    loss, parts, means, each = distilled({"ccc": 1.0, "cosine": 0.5}, "adaptive", 0.6, gold=gold)
    assert loss == pytest.approx(means["loss"], abs=1e-5) and parts["beta"] == pytest.approx(means["beta"], abs=1e-5)
    assert abs(each[0]["beta"] - each[1]["beta"]) > 0.01, "both targets have one gate, so this test shows nothing"


def test_rated_and_unlabelled_clips_have_a_loss_each_and_the_mean_counts():
    """They alternate as data.Clips has them; the fourth clip has no label at all, and one of a rated one is missing."""
    model, batch = build_model("student", tiny_config(target="both"), SHAPES).eval(), easy_batch(clips=4)
    gold = torch.rand(4, batch.gold.shape[1], 2, generator=torch.Generator().manual_seed(5)) * 2 - 1
    gold[3], gold[2, 1, 0] = math.nan, math.nan
    with torch.no_grad():
        loss, parts = objectives.labels_objective(model, batch._replace(gold=gold))
        pred = model(batch.frames).pred
    expected = []
    for clips in ([0, 2], [1, 3]):
        there = [(pred[clips, :, k].flatten(), gold[clips, :, k].flatten()) for k in range(2)]
        expected.append(np.mean([1 - float(ccc(p[~g.isnan()], g[~g.isnan()])) for p, g in there]))
    assert [float(parts[name]) for name in ("task", "labels")] == pytest.approx(expected, abs=1e-5)
    assert float(loss) == pytest.approx(np.mean(expected), abs=1e-5)


def test_the_task_loss_is_over_all_frames_of_the_batch_and_not_over_clips():
    batch, model = easy_batch(), build_model("visual", tiny_config(), SHAPES).eval()
    with torch.no_grad():
        loss, parts = objectives.task_objective(model, batch)
        expected = 1 - float(ccc(model(batch.frames).pred.flatten(), batch.gold.flatten()))
    assert float(loss) == float(parts["task"]) == pytest.approx(expected, abs=1e-6)
