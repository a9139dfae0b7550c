"""CCC, the CCC loss, and the distillation losses with their table.

Shapes: N frames (of any clips, in any order), K targets, Ds and Dt features of student and teacher.
"""
import difflib
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

TINY = 1e-12  # keeps 0 / 0 out: two series that are constant and equal have a CCC of 0
ALIKE = 1e-3  # rows nearer than this share of the typical distance count as one: single precision hardly sees less
ANGLE_FRAMES = 64  # at most, in rkd's angles: 64^3 of them are 1 MB

ANCHORS = 30  # of each frame in ot, as in its authors' code
OT_FRAMES = 128  # at most, in ot: its authors' batch
BLUR = 0.1
EPSILON = BLUR ** 2  # weight of the entropy in optimal transport
SINKHORN_STEPS = 100
OVERRELAXATION = 1.8  # 1: plain Sinkhorn, which needs more than ten times the steps; from 1.9 it can swing


def ccc(pred, gold, weight=None):
    """Concordance correlation coefficient, with population moments (Lin, 1989): (N,), (N,) -> scalar in [-1, 1].

    2 cov(p, g) / (var p + var g + (mean p - mean g)^2). Takes tensors or arrays. weight: how much each value counts in the moments,
    (N,), none negative and one at least above 0. Raises ValueError if the shapes differ or are not (N,): (N, 1) beside (N,) would
    broadcast to (N, N) and give nearly 0.
    """
    pred, gold = (series if torch.is_tensor(series) else torch.tensor(series) for series in (pred, gold))  # copies: pandas' are read-only
    if pred.ndim != 1 or pred.shape != gold.shape:
        raise ValueError(f"ccc takes two series of one shape (N,), not {tuple(pred.shape)} and {tuple(gold.shape)}")
    mean = torch.mean if weight is None else lambda values: (values * weight).sum() / weight.sum()
    p, g = pred - mean(pred), gold - mean(gold)
    spread = mean(p * p) + mean(g * g) + mean(pred - gold) ** 2  # not of the means: they round where both are large
    return 2 * mean(p * g) / spread.clamp_min(TINY)


def ccc_loss(pred, gold):
    """1 - CCC of each target over its valid frames, those whose gold is not NaN: (N, K), (N, K) -> (K,).

    A target with fewer than two valid frames says nothing: its loss is 0.
    """
    losses = []
    for p, g in zip(pred.unbind(1), gold.unbind(1)):
        valid = ~g.isnan()
        losses.append(1 - ccc(p[valid], g[valid]) if valid.sum() > 1 else (p * 0).sum())
    return torch.stack(losses)


# ---- distillation: student features (N, Ds), teacher features (N, Dt) -> scalar >= 0 --------------------------------
# None of them waits for a GPU, and all are meant for float32 outside of autocast.

def cosine(student, teacher):
    """Mean over frames of 1 - cos(student, teacher): (N, D), (N, D) -> scalar in [0, 2] (Aslam et al., 2023, per frame)."""
    _same_shape(student, teacher)
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean().clamp_min(0)  # rounding can give -1e-8


def cosine_original(student, teacher):
    """1 - cos of the two whole batches as single vectors, as in the original's code: (N, D), (N, D) -> scalar in [0, 2]."""
    _same_shape(student, teacher)
    return (1 - F.cosine_similarity(student.flatten(), teacher.flatten(), dim=0)).clamp_min(0)


def fitnets(student, teacher):
    """Mean squared difference of the features (Romero et al., 2015): (N, D), (N, D) -> scalar >= 0.

    student: after the learned linear layer that takes its features to the teacher's size, which is the caller's.
    """
    _same_shape(student, teacher)
    return F.mse_loss(student, teacher)


def sp(student, teacher):
    """Squared distance of the row-normalised Gram matrices over N^2 (Tung & Mori, 2019): (N, Ds), (N, Dt) -> scalar >= 0.

    Which frames are alike, in the teacher's eyes and in the student's. The matrices are (N, N): 16 MB at 2048 frames.
    """
    _same_length(student, teacher)
    gram_s, gram_t = (_unit(features @ features.T) for features in (student, teacher))
    return ((gram_s - gram_t) ** 2).mean()


def rkd(student, teacher):
    """25 x difference of distances + 50 x difference of angles (Park et al., 2019): (N, Ds), (N, Dt) -> scalar >= 0.

    Smooth L1, mean over all pairs and all triples. Distances are over their own mean and between all frames: (N, N), 16 MB
    at 2048. Triples grow with N^3, so angles are those of at most 64 frames, evenly spaced over the batch: 1 MB. Frames
    nearer than 0.1 % of the typical distance count as duplicates, which have distance 0, angles of 0, and no gradient: the
    direction between two almost equal frames is noise, and its gradient has no bound.
    """
    _same_length(student, teacher)
    distance = F.smooth_l1_loss(_distances(student), _distances(teacher))
    angle = F.smooth_l1_loss(*(_angles(_spaced(features, ANGLE_FRAMES)) for features in (student, teacher)))
    return 25 * distance + 50 * angle


def ot(student, teacher):
    """Optimal transport from the student's view of a batch to the teacher's (PKDOT): (N, Ds), (N, Dt) -> scalar >= 0.

    Aslam et al., "Distilling Privileged Multimodal Information for Expression Recognition using Optimal Transport", 2024.
    Each side describes a frame by its cosines to the 30 frames that the *teacher* finds least like it, the least first.
    Between the student's descriptions and the teacher's: debiased Sinkhorn divergence (Feydy et al., 2019), cost
    |x - y|^2 / 2, blur 0.1, uniform weights. Their batch was 128: of more frames than that 128 are used, evenly spaced, so
    that time and memory stay what they are there (45 ms on one core, 20 MB). Their code first subtracts the minimum from
    each matrix; here cosines stay cosines.
    """
    _same_length(student, teacher)
    student, teacher = (_unit(_spaced(features, OT_FRAMES)) for features in (student, teacher))
    cosines_s, cosines_t = student @ student.T, teacher @ teacher.T
    anchors = cosines_t.topk(min(ANCHORS, len(cosines_t)), dim=1, largest=False).indices
    x, y = cosines_s.gather(1, anchors), cosines_t.gather(1, anchors)
    between, within_s, within_t = _transport(torch.stack([_cost(x, y), _cost(x, x), _cost(y, y)]))
    return (between - (within_s + within_t) / 2).clamp_min(0)


def ccc_distill(student, teacher, weight=None):
    """Mean over targets of 1 - CCC(student's prediction, teacher's): (N, K), (N, K) -> scalar in [0, 2].

    weight: (N, K), how much each frame counts; None: as much as any other.
    """
    _same_shape(student, teacher)
    weights = [None] * student.shape[1] if weight is None else weight.unbind(1)
    return torch.stack([1 - ccc(*series) for series in zip(student.unbind(1), teacher.unbind(1), weights)]).mean().clamp_min(0)


def _same_shape(student, teacher):
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(f"features of one shape (N, D) were expected, not {tuple(student.shape)} and {tuple(teacher.shape)}")


def _same_length(student, teacher):
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"features (N, Ds) and (N, Dt) of the same N frames were expected, not {shapes}")


def _unit(vectors, least=TINY):
    """Vectors of length 1, and 0 without a gradient for those not longer than `least`: (..., D) -> (..., D)."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    long = length > least
    return torch.where(long, vectors / torch.where(long, length, 1), 0)


def _spaced(features, most):
    """`most` rows evenly spaced, or all if there are no more, the same for every batch of N: (N, D) -> (min(N, most), D)."""
    kept = min(len(features), most)
    return features[torch.arange(kept, device=features.device) * len(features) // max(kept, 1)]


def _alike(features):
    """Distance up to which two rows count as one, a share of the root mean square distance: (N, D) -> scalar, no gradient."""
    features = features.detach()
    rounding = torch.finfo(features.dtype).eps * torch.linalg.vector_norm(features)  # all there is where every row is the same
    return ALIKE * (2 * features.var(0, correction=0).sum()).sqrt() + rounding


def _distances(features):
    """Distances between rows over their mean, which is taken over those that are not 0: (N, D) -> (N, N)."""
    centred = features - features.mean(0)  # distances stay, and their rounding becomes small
    distances = torch.cdist(centred, centred)
    distances = torch.where(distances > _alike(features), distances, 0)
    return distances / (distances.sum() / (distances > 0).sum().clamp_min(1)).clamp_min(TINY)


def _angles(features):
    """Cosine of the angle at i between j and k, 0 where i is j or k: (N, D) -> (N, N, N)."""
    directions = _unit(features[None] - features[:, None], _alike(features))  # [i, j]: from i to j
    return directions @ directions.transpose(1, 2)


def _cost(x, y):
    """Half the squared distances, exact for duplicates: (N, D), (M, D) -> (N, M)."""
    return ((x[:, None] - y) ** 2).sum(2) / 2


def _transport(cost):
    """Entropic cost of moving N points of equal weight to N others: costs (P, N, N) of P problems -> (P,).

    That is <plan, cost> + EPSILON KL(plan | uniform) of the best plan, taken as the dual objective at its maximum. The
    potentials are held fixed for the gradient, which is then the plan itself (the envelope theorem): no way back through
    Sinkhorn's steps is needed.
    """
    f, g = _potentials(cost.detach())
    plan = ((f[:, :, None] + g[:, None] - cost) / EPSILON).exp()  # over the product of the weights: 1 on average
    return f.mean(1) + g.mean(1) - EPSILON * (plan.mean((1, 2)) - 1)


@torch.no_grad()
def _potentials(cost):
    """Dual potentials of entropic optimal transport with uniform weights: (P, N, N) -> (P, N), (P, N).

    Sinkhorn in the log domain, overrelaxed (Thibault et al., 2021), with EPSILON falling from the largest cost during the
    first half. A fixed number of steps: a test of convergence would wait for the GPU every time. `_transport` is within 1e-4
    of the optimum then, except where features have hardly more than one or two dimensions: there it can stay below it.
    """
    columns_first = cost.transpose(1, 2).contiguous()
    hottest = (cost.amax((1, 2)) / EPSILON).clamp_min(1)[:, None]
    f = g = torch.zeros_like(cost[:, 0])
    for step in range(SINKHORN_STEPS):
        epsilon = EPSILON * hottest ** max(0, 1 - 2 * step / SINKHORN_STEPS)
        f = f.lerp(_softmin(cost, g, epsilon), OVERRELAXATION)
        g = g.lerp(_softmin(columns_first, f, epsilon), OVERRELAXATION)
    return _softmin(cost, g, torch.full_like(hottest, EPSILON)), g


def _softmin(cost, potential, epsilon):
    """-epsilon log mean_j exp((potential_j - cost_ij) / epsilon): (P, N, M), (P, M), (P, 1) -> (P, N)."""
    return -epsilon * (((potential[:, None] - cost) / epsilon[:, :, None]).logsumexp(2) - math.log(cost.shape[2]))


class Method(NamedTuple):
    compare: Callable  # student (N, Ds), teacher (N, Dt) -> scalar >= 0
    of: str  # what it compares: "feat", "pred", or "label": predictions, with the ratings in the teacher's place where there are any
    mapped: bool  # the student's goes through a learned linear layer first


DISTILL = {
    "cosine": Method(cosine, "feat", False),
    "cosine_original": Method(cosine_original, "feat", False),
    "fitnets": Method(fitnets, "feat", True),
    "sp": Method(sp, "feat", False),
    "rkd": Method(rkd, "feat", False),
    "ot": Method(ot, "feat", False),
    "ccc": Method(ccc_distill, "pred", False),
    "pseudo": Method(ccc_distill, "label", False),
}


def parse_distill(text):
    """{method: weight} of a setting: "cosine" -> {"cosine": 1.0}, "cosine:0.5+ccc:2" -> {"cosine": 0.5, "ccc": 2.0}.

    Raises ValueError, one line, for a method that is not in DISTILL or comes twice, and for a weight not finite or not above 0.
    """
    weights = {}
    for part in re.split(r"\+(?!\d)", text):  # but not the + of 1e+3
        name, colon, weight = (piece.strip() for piece in part.partition(":"))
        if name not in DISTILL:
            close = difflib.get_close_matches(name, DISTILL, 1)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(DISTILL)}"
            raise ValueError(f"{text!r}: unknown distillation method {name!r}; {meant}")
        if name in weights:
            raise ValueError(f"{text!r}: {name} is there twice; give it one weight")
        weights[name] = _weight(text, name, weight) if colon else 1.0
    return weights


def _weight(text, name, weight):
    """A finite number above 0, of its text. Raises ValueError, naming the method and the setting that it is part of."""
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{text!r}: the weight of {name} is {weight!r}; a finite number above 0 was expected, as in {name}:0.5")
    return value
