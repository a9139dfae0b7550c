"""losses.py against other routes: torchmetrics, naive loops, closed forms."""
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import concordance_corrcoef

import losses
from losses import DISTILL, ccc, ccc_loss, cosine, cosine_original

series = st.integers(2, 40).flatmap(lambda n: st.tuples(*[st.lists(st.floats(-1, 1), min_size=n, max_size=n)] * 2))


def naive_ccc(pred, gold):
    """Lin's coefficient with population moments, written out as loops."""
    n = len(pred)
    mean_p, mean_g = sum(pred) / n, sum(gold) / n
    cov = var_p = var_g = 0.0
    for p, g in zip(pred, gold):
        cov += (p - mean_p) * (g - mean_g) / n
        var_p += (p - mean_p) ** 2 / n
        var_g += (g - mean_g) ** 2 / n
    return 2 * cov / (var_p + var_g + (mean_p - mean_g) ** 2)


def naive_cosine(s, t):
    return sum(a * b for a, b in zip(s, t)) / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))


# ---- ccc ------------------------------------------------------------------------------------------------------------

@settings(max_examples=200, deadline=None)
@given(series)
def test_ccc_equals_the_naive_loops_and_stays_within_one(pair):
    pred, gold = pair
    value = float(ccc(torch.tensor(pred, dtype=torch.float64), torch.tensor(gold, dtype=torch.float64)))
    assert -1 - 1e-12 <= value <= 1 + 1e-12
    if np.var(pred) + np.var(gold) > 1e-6:
        assert value == pytest.approx(naive_ccc(pred, gold), abs=1e-9)


def test_ccc_equals_torchmetrics_up_to_its_sample_moments():
    torch.manual_seed(0)
    for n in (2, 5, 400):
        pred = torch.randn(n, dtype=torch.float64)
        gold = pred / 2 + torch.randn(n, dtype=torch.float64) + 0.3
        p, g = pred.numpy(), gold.numpy()
        # torchmetrics divides by n - 1: with the means equal the factor cancels and both agree exactly
        assert float(ccc(pred - p.mean(), gold - g.mean())) == pytest.approx(float(concordance_corrcoef(pred - p.mean(), gold - g.mean())))
        assert float(ccc(pred, gold)) == pytest.approx(float(concordance_corrcoef(pred, gold)), abs=0.5 / n)


def test_ccc_has_population_moments():
    # closed form: cov = 1/4, both variances 1/4, means 1 apart -> 2 / 4 / (1/4 + 1/4 + 1); sample moments would give 1/2
    assert float(ccc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))) == pytest.approx(1 / 3)


@pytest.mark.parametrize("scale, shift", [(1, 0), (1, 0.5), (2, 0), (0.1, -0.3), (-1, 0)])
def test_ccc_of_a_straight_line_is_its_closed_form(scale, shift):
    gold = torch.linspace(-1, 1, 101, dtype=torch.float64)
    var = float((gold ** 2).mean())
    assert float(ccc(scale * gold + shift, gold)) == pytest.approx(2 * scale * var / (scale ** 2 * var + var + shift ** 2))


def test_identical_series_have_ccc_one():
    values = torch.randn(50)
    assert float(ccc(values, values.clone())) == pytest.approx(1, abs=1e-6)
    assert float(ccc(values, -values + 2 * values.mean())) == pytest.approx(-1, abs=1e-6)


def test_ccc_of_constants_is_zero_and_never_nan():
    varied = torch.linspace(-1, 1, 30)
    for pred, gold in [(torch.full((30,), 0.1), varied), (varied, torch.full((30,), 0.1)), (torch.full((30,), 0.1),) * 2,
                       (torch.zeros(30), torch.zeros(30)), (torch.zeros(30), torch.ones(30))]:
        assert float(ccc(pred, gold)) == pytest.approx(0, abs=1e-3)  # the mean of 30 times 0.1 is not quite 0.1


def test_gradient_at_a_constant_prediction_is_finite_and_points_at_the_gold():
    pred = torch.zeros(20, requires_grad=True)
    gold = torch.linspace(-1, 1, 20)
    (1 - ccc(pred, gold)).backward()
    assert torch.isfinite(pred.grad).all() and float((pred.grad * gold).sum()) < 0
    constant = torch.zeros(20, requires_grad=True)
    ccc(constant, torch.zeros(20)).backward()
    assert torch.isfinite(constant.grad).all()


@pytest.mark.parametrize("offset", [0, 1e2, 1e4])
def test_ccc_in_single_precision_survives_large_means(offset):
    torch.manual_seed(1)
    pred = (torch.randn(7500) + offset)
    gold = (0.5 * torch.randn(7500) + 0.5 * (pred - offset) + offset + 0.5)
    exact = float(ccc(pred.double(), gold.double()))  # of the same rounded numbers
    assert float(ccc(pred, gold)) == pytest.approx(exact, abs=1e-5)
    assert 0.1 < exact < 0.9


@pytest.mark.parametrize("one, other", [((8, 1), (8,)), ((8,), (8, 1)), ((8, 1), (8, 1)), ((8,), (7,)), ((1,), (8,)), ((), ())])
def test_ccc_raises_when_shapes_would_broadcast(one, other):
    with pytest.raises(ValueError, match="one shape"):
        ccc(torch.zeros(one), torch.zeros(other))


def test_ccc_takes_arrays_as_it_takes_tensors():
    pred, gold = np.random.default_rng(0).normal(size=(2, 30))
    expected = float(ccc(torch.from_numpy(pred), torch.from_numpy(gold)))
    pred.setflags(write=False)  # as pandas' are
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(ccc(pred, gold)) == expected


# ---- ccc_loss -------------------------------------------------------------------------------------------------------

def test_ccc_loss_leaves_out_the_frames_without_a_valid_rating():
    torch.manual_seed(2)
    pred, gold = torch.randn(2, 40, 2)
    gold[3:9, 0], gold[20:, 1] = math.nan, math.nan
    loss = ccc_loss(pred, gold)
    keep = [k for k in range(40) if not 3 <= k < 9]
    assert float(loss[0]) == pytest.approx(1 - naive_ccc(pred[keep, 0].tolist(), gold[keep, 0].tolist()), abs=1e-5)
    assert float(loss[1]) == pytest.approx(1 - naive_ccc(pred[:20, 1].tolist(), gold[:20, 1].tolist()), abs=1e-5)


def test_a_masked_frame_gets_no_gradient():
    pred = torch.randn(10, 1, requires_grad=True)
    gold = torch.randn(10, 1)
    gold[4] = math.nan
    ccc_loss(pred, gold).sum().backward()
    assert torch.isfinite(pred.grad).all() and pred.grad[4] == 0 and (pred.grad[[0, 1, 2, 3, 5]] != 0).all()


@pytest.mark.parametrize("valid", [0, 1])
def test_a_target_without_two_valid_ratings_costs_nothing_and_moves_nothing(valid):
    pred = torch.randn(10, 2, requires_grad=True)
    gold = torch.randn(10, 2)
    gold[valid:, 1] = math.nan
    loss = ccc_loss(pred, gold)
    loss.sum().backward()
    assert loss.shape == (2,) and loss[1] == 0 and (pred.grad[:, 1] == 0).all() and torch.isfinite(loss).all()


# ---- distillation ---------------------------------------------------------------------------------------------------

def test_cosine_is_the_mean_over_frames_of_a_naive_loop():
    torch.manual_seed(3)
    student, teacher = torch.randn(2, 12, 7, dtype=torch.float64)
    naive = sum(1 - naive_cosine(s, t) for s, t in zip(student.tolist(), teacher.tolist())) / 12
    assert float(cosine(student, teacher)) == pytest.approx(naive)


def test_cosine_original_is_one_cosine_of_the_flattened_batch():
    torch.manual_seed(4)
    student, teacher = torch.randn(2, 12, 7, dtype=torch.float64)
    flat = 1 - naive_cosine(student.flatten().tolist(), teacher.flatten().tolist())
    assert float(cosine_original(student, teacher)) == pytest.approx(flat)


def test_cosine_and_the_originals_differ_where_frames_differ_in_length():
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 10.0]]), torch.tensor([[1.0, 0.0], [10.0, 0.0]])
    assert float(cosine(student, teacher)) == pytest.approx(0.5)  # one of two frames is right
    assert float(cosine_original(student, teacher)) == pytest.approx(1 - 1 / 101)  # the loud frame is everything


@pytest.mark.parametrize("name", DISTILL)
def test_every_loss_of_the_table_keeps_its_contract(name):
    """A scalar >= 0 with a gradient for the student, 0 where it follows its teacher; a shape that would broadcast raises."""
    torch.manual_seed(5)
    student = torch.randn(20, 8, requires_grad=True)
    loss = DISTILL[name](student, torch.randn(20, 8))
    loss.backward()
    assert loss.shape == () and loss > 0 and torch.isfinite(student.grad).all() and student.grad.abs().sum() > 0
    same = DISTILL[name](student, student.detach().clone())
    assert 0 <= float(same.detach()) < 1e-6
    assert torch.isfinite(DISTILL[name](torch.zeros(20, 8), torch.zeros(20, 8)))
    for shape in [(20, 1), (1, 8), (19, 8)]:
        with pytest.raises(ValueError, match="one shape"):
            DISTILL[name](student, torch.zeros(shape))


def test_the_table_is_what_the_setting_offers():
    from typing import get_args

    from config import KINDS
    assert set(DISTILL) == set(get_args(KINDS["distill"]))
    assert all(getattr(losses, name) is loss for name, loss in DISTILL.items())
