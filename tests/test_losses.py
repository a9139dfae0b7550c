"""losses.py against independent routes: torchmetrics, POT, naive loops, closed forms."""
import math
import warnings

import numpy as np
import ot as pot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import concordance_corrcoef

from losses import (
    DISTILL,
    ccc,
    ccc_distill,
    ccc_loss,
    cosine,
    cosine_original,
    fitnets,
    masked_loss,
    ot,
    parse_distill,
    rkd,
    sp,
)

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


def centred_torchmetrics(pred, gold):
    """CCC by torchmetrics, which divides by n - 1: the factor cancels where both means are 0."""
    return float(concordance_corrcoef(pred - pred.mean(), gold - gold.mean()))


def test_ccc_equals_torchmetrics_up_to_its_sample_moments():
    torch.manual_seed(0)
    for n in (2, 5, 400):
        pred = torch.randn(n, dtype=torch.float64)
        gold = pred / 2 + torch.randn(n, dtype=torch.float64) + 0.3
        assert float(ccc(pred - pred.mean(), gold - gold.mean())) == pytest.approx(centred_torchmetrics(pred, gold))
        assert float(ccc(pred, gold)) == pytest.approx(float(concordance_corrcoef(pred, gold)), abs=0.5 / n)


@pytest.mark.parametrize("scale, shift", [(1, 0), (0.1, -0.3), (-1, 0)])
def test_ccc_of_a_straight_line_is_its_closed_form(scale, shift):
    gold = torch.linspace(-1, 1, 101, dtype=torch.float64)
    var = float((gold ** 2).mean())
    closed = 2 * scale * var / (scale ** 2 * var + var + shift ** 2)
    assert float(ccc(scale * gold + shift, gold)) == pytest.approx(closed)


def test_ccc_of_constants_is_zero_and_never_nan():
    varied, constant = torch.linspace(-1, 1, 30), torch.full((30,), 0.1)
    for pred, gold in [(constant, varied), (varied, constant), (constant, constant), (constant * 0, constant * 10)]:
        assert float(ccc(pred, gold)) == pytest.approx(0, abs=1e-3)  # the mean of 30 times 0.1 is not quite 0.1


def test_gradient_at_a_constant_prediction_is_finite_and_points_at_the_gold():
    pred = torch.zeros(20, requires_grad=True)
    gold = torch.linspace(-1, 1, 20)
    (1 - ccc(pred, gold)).backward()
    assert torch.isfinite(pred.grad).all() and float((pred.grad * gold).sum()) < 0


def test_ccc_in_single_precision_survives_large_means():
    torch.manual_seed(1)
    pred = torch.randn(7500) + 1e4
    gold = 0.5 * torch.randn(7500) + 0.5 * (pred - 1e4) + 1e4 + 0.5
    exact = float(ccc(pred.double(), gold.double()))  # of the same rounded numbers
    assert 0.1 < exact < 0.9 and float(ccc(pred, gold)) == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("one, other", [((8, 1), (8,)), ((8,), (8, 1)), ((8, 1), (8, 1)), ((8,), (7,)), ((), ())])
def test_ccc_raises_when_shapes_would_broadcast(one, other):
    with pytest.raises(ValueError, match="shape"):
        ccc(torch.zeros(one), torch.zeros(other))


def test_ccc_takes_arrays_as_it_takes_tensors():
    pred, gold = np.random.default_rng(0).normal(size=(2, 30))
    expected = float(ccc(torch.from_numpy(pred), torch.from_numpy(gold)))
    pred.setflags(write=False)  # as pandas' are
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(ccc(pred, gold)) == expected


# ---- ccc_loss -------------------------------------------------------------------------------------------------------

def test_ccc_loss_leaves_out_frames_without_a_valid_rating():
    torch.manual_seed(2)
    pred, gold = torch.randn(2, 40, 2)
    gold[3:9, 0], gold[20:, 1] = math.nan, math.nan
    loss = ccc_loss(pred, gold)
    for k, keep in enumerate([[*range(3), *range(9, 40)], range(20)]):
        naive = naive_ccc(pred[list(keep), k].tolist(), gold[list(keep), k].tolist())
        assert float(loss[k]) == pytest.approx(1 - naive, abs=1e-5)


@pytest.mark.parametrize("valid", [0, 1, 9])
def test_frames_without_a_rating_get_no_gradient_and_a_target_needs_two_with_one(valid):
    pred = torch.randn(10, 2, requires_grad=True)
    gold = torch.randn(10, 2)
    gold[valid:, 1] = math.nan
    loss = ccc_loss(pred, gold)
    loss.sum().backward()
    assert loss.shape == (2,) and torch.isfinite(loss).all() and (loss[1] == 0) == (valid < 2)
    assert pred.grad.isfinite().all() and not pred.grad[valid:, 1].any() and pred.grad[:, 1].any() == (valid > 1)


@pytest.mark.parametrize("valid", [0, 1, 2, 9, 40])
def test_the_loss_that_waits_for_no_device_is_the_same_and_so_is_its_gradient(valid):
    pred = torch.randn(40, 2, dtype=torch.float64, requires_grad=True)
    other = pred.detach().clone().requires_grad_()
    gold = torch.randn(40, 2, dtype=torch.float64) + 3
    gold[torch.randperm(40)[valid:], 0] = math.nan
    losses = ccc_loss(pred, gold), masked_loss(other, gold)
    assert losses[1].tolist() == pytest.approx(losses[0].tolist(), abs=1e-12)
    for loss in losses:
        (loss * torch.tensor([1, 3])).sum().backward()
    assert torch.allclose(pred.grad, other.grad, rtol=1e-9, atol=1e-12) and pred.grad[:, 0].any() == (valid > 1)


# ---- distillation ---------------------------------------------------------------------------------------------------

def test_cosine_is_a_mean_over_frames_and_cosine_original_that_of_the_flattened_batch():
    torch.manual_seed(3)
    student, teacher = torch.randn(2, 12, 7, dtype=torch.float64)
    naive = sum(1 - naive_cosine(s, t) for s, t in zip(student.tolist(), teacher.tolist())) / 12
    assert float(cosine(student, teacher)) == pytest.approx(naive)
    flat = 1 - naive_cosine(student.flatten().tolist(), teacher.flatten().tolist())
    assert float(cosine_original(student, teacher)) == pytest.approx(flat)


def features(n, student=6, teacher=9, seed=0):
    """Unrelated student (n, student) and teacher (n, teacher) in double precision."""
    gen = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, size, generator=gen, dtype=torch.float64) + 0.3 for size in (student, teacher))


def smooth_l1(a, b):
    return (a - b) ** 2 / 2 if abs(a - b) < 1 else abs(a - b) - 0.5


def test_fitnets_is_the_mean_squared_difference_of_a_naive_loop():
    student, teacher = features(7, 5, 5)
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist())
    assert float(fitnets(student, teacher)) == pytest.approx(sum((s - t) ** 2 for s, t in pairs) / (7 * 5))


def test_sp_is_that_of_naive_loops():
    student, teacher = features(8)

    def gram(rows):
        dots = [[sum(a * b for a, b in zip(one, other)) for other in rows] for one in rows]
        return [[dot / math.sqrt(sum(d * d for d in row)) for dot in row] for row in dots]

    gram_s, gram_t = gram(student.tolist()), gram(teacher.tolist())
    naive = sum((gram_s[i][j] - gram_t[i][j]) ** 2 for i in range(8) for j in range(8)) / 8 ** 2
    assert float(sp(student, teacher)) == pytest.approx(naive)


# ---- rkd ------------------------------------------------------------------------------------------------------------

def naive_distances(rows):
    """Divided by the mean of those that are not 0."""
    distances = [[math.dist(one, other) for other in rows] for one in rows]
    positive = [d for row in distances for d in row if d > 0]
    return [[d * len(positive) / sum(positive) for d in row] for row in distances]


def naive_angle(rows, i, j, k):
    """Cosine of the angle at i between j and k; 0 where one of them is i or its duplicate."""
    to_j, to_k = ([b - a for a, b in zip(rows[i], rows[other])] for other in (j, k))
    lengths = math.hypot(*to_j) * math.hypot(*to_k)
    return sum(a * b for a, b in zip(to_j, to_k)) / lengths if lengths else 0.0


def naive_rkd(student, teacher, kept):
    """Double loop over the distances of all frames, triple loop over the angles of those in `kept`."""
    distances_s, distances_t = naive_distances(student), naive_distances(teacher)
    n = len(student)
    pairs = [(distances_s[i][j], distances_t[i][j]) for i in range(n) for j in range(n)]
    distance = sum(smooth_l1(*pair) for pair in pairs) / n ** 2
    angle = sum(smooth_l1(naive_angle(student, i, j, k), naive_angle(teacher, i, j, k))
                for i in kept for j in kept for k in kept) / len(kept) ** 3
    return 25 * distance + 50 * angle


@pytest.mark.parametrize("n, repeats", [(2, 1), (9, 3), (30, 1)])
def test_rkd_is_that_of_naive_loops_with_and_without_duplicate_frames(n, repeats):
    student, teacher = features(n)
    student = student[torch.arange(n) // repeats * repeats]  # as of a face that does not move
    for one, other in [(student, teacher), (teacher, student)]:
        assert float(rkd(one, other)) == pytest.approx(naive_rkd(one.tolist(), other.tolist(), range(n)))


def test_rkd_takes_angles_of_64_evenly_spaced_frames_and_distances_of_all():
    student, teacher = features(100, 2, 2)
    kept = [math.floor(k * 100 / 64) for k in range(64)]
    assert float(rkd(student, teacher)) == pytest.approx(naive_rkd(student.tolist(), teacher.tolist(), kept))


def test_rkd_hardly_changes_when_duplicates_become_near_duplicates():
    """Nor does its gradient grow: that of the direction between two almost equal frames would be unbounded."""
    student, teacher = (x.float().repeat_interleave(2, dim=0) for x in features(20))
    values, gradients = [], []
    for jitter in (0, 1e-6, 1e-5, 1e-4):
        noise = torch.randn(student.shape, generator=torch.Generator().manual_seed(1))
        moved = (student + jitter * noise).requires_grad_()
        loss = rkd(moved, teacher)
        loss.backward()
        values.append(float(loss.detach()))
        gradients.append(float(moved.grad.norm()))
    assert values == pytest.approx([values[0]] * 4, rel=1e-3)
    assert gradients == pytest.approx([gradients[0]] * 4, rel=0.05) and gradients[0] > 0


def test_rkd_gives_no_gradient_to_frames_that_differ_by_rounding_alone():
    """A student whose features are equal but for the last digits: a division by their distances would explode."""
    _, teacher = features(40)
    student = (1000 + 1e-4 * torch.randn(40, 6, generator=torch.Generator().manual_seed(2))).requires_grad_()
    assert len(student.unique(dim=0)) > 1
    loss = rkd(student, teacher.float())
    loss.backward()
    assert float(loss.detach()) > 0 and not student.grad.any()


# ---- ot -------------------------------------------------------------------------------------------------------------

def naive_descriptions(student, teacher):
    """Cosines of each frame to the 30 least similar for the teacher: (N, min(N, 30)) of student and of teacher."""
    n = len(student)
    cosines_s, cosines_t = ([[naive_cosine(one, other) for other in rows] for one in rows]
                            for rows in (student, teacher))
    anchors = [sorted(range(n), key=lambda j: row[j])[:30] for row in cosines_t]  # noqa: B023
    return [np.array([[cosines[i][j] for j in anchors[i]] for i in range(n)]) for cosines in (cosines_s, cosines_t)]


def pot_entropic(x, y, epsilon=0.01):
    """<plan, cost> + epsilon KL(plan | uniform) of POT's optimal plan, by L-BFGS and not by Sinkhorn's algorithm."""
    weights = [np.full(len(points), 1 / len(points)) for points in (x, y)]
    cost = pot.dist(x, y, metric="sqeuclidean") / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # POT's, of an option of scipy's
        plan = pot.smooth.smooth_ot_semi_dual(*weights, cost, epsilon, reg_type="kl", numItermax=5000, stopThr=1e-14)
    assert all(np.abs(len(x) * plan.sum(axis) - 1).max() < 1e-4 for axis in (0, 1))  # it is a plan
    share = plan * len(x) * len(y)
    return float((plan * cost).sum() + epsilon * (plan * np.log(np.maximum(share, 1e-300))).sum())


def pot_divergence(student, teacher):
    x, y = naive_descriptions(student.tolist(), teacher.tolist())
    return pot_entropic(x, y) - (pot_entropic(x, x) + pot_entropic(y, y)) / 2


def clips(n, noise, teacher=20, student=20):
    """A teacher whose features drift slowly in each of four clips, and a student with the same and some noise."""
    gen = torch.Generator().manual_seed(7)
    centres = torch.randn(4, 1, teacher, generator=gen)
    drift = 0.2 * torch.randn(4, -(-n // 4), teacher, generator=gen).cumsum(1)
    teacher = (centres + drift).flatten(0, 1)[:n]
    return teacher[:, :student] + noise * torch.randn(n, student, generator=gen), teacher


@pytest.mark.parametrize("n, sizes, noise", [(2, (20, 20), 0.1), (128, (12, 5), 0.5), (60, (3, 3), 0.5)])
def test_ot_is_the_debiased_sinkhorn_divergence_that_pot_finds(n, sizes, noise):
    student, teacher = clips(n, noise, *sizes)
    expected = pot_divergence(student.double(), teacher.double())
    assert expected > 1e-5 and float(ot(student, teacher)) == pytest.approx(expected, abs=1e-4, rel=1e-4)


def test_ot_uses_128_evenly_spaced_frames_of_more():
    student, teacher = clips(300, 0.5)
    kept = [math.floor(k * 300 / 128) for k in range(128)]
    assert float(ot(student, teacher)) == float(ot(student[kept], teacher[kept])) > 0
    assert float(ot(student[:128], teacher[:128])) != pytest.approx(float(ot(student, teacher)), rel=1e-2)


@pytest.mark.parametrize("n, noise", [(3, 0.3), (40, 2)])
def test_the_gradient_of_ot_is_the_finite_difference_of_what_pot_finds(n, noise):
    student, teacher = (x.double() for x in clips(n, noise))
    student.requires_grad_()
    gradient, = torch.autograd.grad(ot(student, teacher), student)
    steepest, student = gradient / gradient.norm(), student.detach()
    other = torch.randn(student.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    for direction in (steepest, other / other.norm()):
        up, down = (pot_divergence(student + step * direction, teacher) for step in (1e-3, -1e-3))
        slope, least = float((gradient * direction).sum()), 1e-3 * float(gradient.norm())
        assert slope == pytest.approx((up - down) / 2e-3, rel=1e-2, abs=least)


def test_ot_stays_finite_and_bounded_where_the_student_has_collapsed_or_lies_on_a_line():
    _, teacher = clips(128, 1)
    line = torch.linspace(-1, 1, 128)[:, None]
    for student in (torch.ones(128, 20), line * torch.ones(20) + 1e-4 * torch.randn(128, 20)):
        student = student.clone().requires_grad_()
        loss = ot(student, teacher)
        loss.backward()
        assert 0 < float(loss.detach()) <= 60  # 30 cosines, each at most 2 apart: 30 x 2^2 / 2
        assert torch.isfinite(student.grad).all()


# ---- ccc as a distillation loss -------------------------------------------------------------------------------------

def test_ccc_distill_is_one_minus_the_mean_ccc_over_targets_of_torchmetrics():
    student, teacher = features(50, 3, 3)
    student = student + teacher  # so that they are correlated
    means = [centred_torchmetrics(s, t) for s, t in zip(student.T, teacher.T)]
    centred = ccc_distill(student - student.mean(0), teacher - teacher.mean(0))
    assert float(centred) == pytest.approx(1 - sum(means) / 3)
    naive = [naive_ccc(s.tolist(), t.tolist()) for s, t in zip(student.T, teacher.T + 1)]
    assert float(ccc_distill(student, teacher + 1)) == pytest.approx(1 - sum(naive) / 3)
    assert 0.1 < sum(naive) / 3 < 0.9


# ---- invariances ----------------------------------------------------------------------------------------------------

def rotation(size, seed=9):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q


def to_student(change):
    """A change of the student's features, applied to a pair (student, teacher)."""
    return lambda s, t: (change(s), t)


def shuffled(s, t):
    order = torch.randperm(len(s), generator=torch.Generator().manual_seed(10))
    return s[order], t[order]


CHANGES = {
    "frames shuffled": shuffled,
    "student scaled": to_student(lambda s: 3 * s),
    "student shifted": to_student(lambda s: s + 0.5),
    "student rotated": to_student(lambda s: s @ rotation(s.shape[1])),
    "both rotated": lambda s, t: (s @ rotation(s.shape[1]), t @ rotation(t.shape[1])),
    "frames scaled": to_student(lambda s: s * torch.linspace(0.5, 2, len(s), dtype=s.dtype)[:, None]),
    "both shifted": lambda s, t: (s + 0.5, t + 0.5),
}
INVARIANT = {
    "cosine": {"frames shuffled", "student scaled", "both rotated", "frames scaled"},
    "cosine_original": {"frames shuffled", "student scaled", "both rotated"},
    "fitnets": {"frames shuffled", "both rotated", "both shifted"},
    "sp": {"frames shuffled", "student scaled", "student rotated", "both rotated"},
    "rkd": {"frames shuffled", "student scaled", "student shifted", "student rotated", "both rotated", "both shifted"},
    "ot": {"frames shuffled", "student scaled", "student rotated", "both rotated", "frames scaled"},
    "ccc": {"frames shuffled", "both shifted"},
}


@pytest.mark.parametrize("name", DISTILL)
def test_a_loss_is_invariant_to_the_changes_of_its_paper_and_to_no_other(name):
    student, teacher = features(40, 6, 6)
    student = student + teacher
    before = float(DISTILL[name].compare(student, teacher))
    after = {change: float(DISTILL[name].compare(*apply(student, teacher))) for change, apply in CHANGES.items()}
    assert {change for change in after if after[change] == pytest.approx(before, rel=1e-5)} == INVARIANT[name]
    assert not any(after[change] == pytest.approx(before, rel=1e-3) for change in CHANGES.keys() - INVARIANT[name])


# ---- what all losses of the table have in common --------------------------------------------------------------------

RELATIONAL = {"sp", "rkd", "ot"}  # they compare frames with frames: the number of features need not be the same


@pytest.mark.parametrize("name", DISTILL)
def test_every_loss_of_the_table_keeps_its_contract(name):
    """A scalar > 0 with a gradient for the student, and 0 where student and teacher are equal; also for large N."""
    torch.manual_seed(5)
    for n in (2, 40, 2048):  # all angles of 2048 frames would be 34 GB, all their descriptions 15 GB
        student = torch.randn(n, 8, requires_grad=True)
        loss = DISTILL[name].compare(student, torch.randn(n, 8))
        loss.backward()
        assert loss.shape == () and loss > 0 and torch.isfinite(student.grad).all() and student.grad.any()
        assert 0 <= float(DISTILL[name].compare(student, student.detach().clone()).detach()) < 1e-6
        close = student.detach() + 1e-6 * torch.randn(n, 8)
        assert 0 <= float(DISTILL[name].compare(student, close).detach()) < 1e-2  # rounding does not make it negative


@pytest.mark.parametrize("name", DISTILL)
def test_a_step_down_the_gradient_makes_every_loss_smaller(name):
    torch.manual_seed(6)
    student, teacher = torch.randn(50, 8, requires_grad=True), torch.randn(50, 8)
    loss = DISTILL[name].compare(student, teacher)
    gradient, = torch.autograd.grad(loss, student)
    length = float(gradient.norm())
    after = DISTILL[name].compare(student.detach() - 1e-2 * gradient / length, teacher)
    assert float(after) == pytest.approx(float(loss.detach()) - 1e-2 * length, abs=2e-3 * length)


@pytest.mark.parametrize("name", DISTILL)
def test_duplicate_constant_and_zero_features_give_bounded_losses_and_gradients(name):
    torch.manual_seed(7)
    varied, row = torch.randn(40, 8), torch.randn(1, 8)
    twice = varied[:10].repeat_interleave(4, dim=0)
    constant, one_zero = row.repeat(40, 1), varied * (torch.arange(40) != 4)[:, None]
    for student, teacher in [(twice, varied), (varied, twice), (twice, twice.flip(0)), (twice[:2], varied[:2]),
                             (constant, varied), (varied, constant), (constant, constant), (row, -row),
                             *[(one_zero, varied.flip(0))] * (name in RELATIONAL)]:
        student = student.clone().requires_grad_()
        loss = DISTILL[name].compare(student, teacher)
        loss.backward()
        assert 0 <= float(loss.detach()) < 100 and float(student.grad.norm()) < 100
    assert 0 <= DISTILL[name].compare(torch.zeros(20, 8), torch.zeros(20, 8)) <= 1


@pytest.mark.parametrize("name", DISTILL)
def test_shapes_that_would_broadcast_or_leave_frames_out_raise(name):
    shapes = [(19, 8), (1, 8), (20,), (20, 8, 1)] + ([] if name in RELATIONAL else [(20, 1), (20, 7)])
    for shape in shapes:
        for student, teacher in [((20, 8), shape), (shape, (20, 8))]:
            with pytest.raises(ValueError, match="were expected, not"):
                DISTILL[name].compare(torch.ones(student), torch.ones(teacher))


@pytest.mark.parametrize("name", DISTILL)
def test_no_loss_synchronises_with_the_device(name):
    """On the meta device there are no values: reading one raises."""
    student, teacher = torch.randn(300, 8, device="meta", requires_grad=True), torch.randn(300, 8, device="meta")
    (DISTILL[name].compare(student, teacher) + ccc_loss(student, teacher).sum()).backward()
    assert student.grad.shape == student.shape
    with pytest.raises((RuntimeError, NotImplementedError)):  # the check can fail
        student[teacher > 0]


# ---- the setting ----------------------------------------------------------------------------------------------------

def test_a_method_without_a_weight_has_weight_one():
    assert [parse_distill(name) for name in DISTILL] == [{name: 1.0} for name in DISTILL]
    assert parse_distill("cosine:0.5+ccc") == {"cosine": 0.5, "ccc": 1.0}
    assert parse_distill(" ccc : 2 + rkd : 1e-3 ") == {"ccc": 2.0, "rkd": 0.001}


@pytest.mark.parametrize("text, keyword", [
    ("cosin", "mean cosine?"), ("hint", "cosine, cosine_original, fitnets, sp, rkd, ot, ccc"), ("", "unknown"),
    ("cosine+", "unknown"), ("cosine,ccc", "unknown"), ("cosine\nccc", "unknown"), ("ccc:1+sp+ccc:2", "twice"),
    ("ccc:0", "weight of ccc"), ("ccc:nan", "weight of ccc"), ("ccc:inf", "weight of ccc"), ("ccc:", "weight of ccc"),
    ("ccc:1+2", "weight of ccc")])
def test_a_setting_that_cannot_be_used_is_refused_in_one_line_that_names_the_fault(text, keyword):
    with pytest.raises(ValueError) as error:
        parse_distill(text)
    assert keyword in str(error.value) and repr(text) in str(error.value) and "\n" not in str(error.value)
