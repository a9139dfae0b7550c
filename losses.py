"""CCC, the CCC loss, and the distillation losses with their table DISTILL.

Shapes: N frames (of any clips, in any order), K targets, Ds and Dt features of student and teacher.
A new distillation loss is one function and one line in DISTILL.
"""
import difflib
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

TINY = 1e-12  # smallest divisor, against 0 / 0: two equal constant series have a CCC of 0

# rkd
DUPLICATE = 1e-3  # rows nearer than this share of the typical distance are duplicates: float32 resolves hardly less
ANGLE_FRAMES = 64  # frames whose angles are compared, at most: 64^3 angles are 1 MB

# ot
ANCHORS = 30  # frames that describe each frame, as in the authors' code
OT_FRAMES = 128  # frames compared, at most: the authors' batch size
BLUR = 0.1
EPSILON = BLUR ** 2  # 0.01, weight of the entropy in optimal transport
SINKHORN_STEPS = 100
OVERRELAXATION = 1.8  # 1: plain Sinkhorn, which needs more than ten times the steps; from 1.9 on it can oscillate


def ccc(pred, gold):
    """Concordance correlation coefficient, with population moments (Lin, 1989): (N,), (N,) -> scalar in [-1, 1].

    2 cov(p, g) / (var p + var g + (mean p - mean g)^2). Takes tensors or arrays. Raises ValueError if the shapes differ
    or are not (N,): (N, 1) and (N,) would broadcast to (N, N) and give nearly 0.
    """
    pred, gold = (series if torch.is_tensor(series) else torch.tensor(series)  # a copy: pandas' arrays are read-only
                  for series in (pred, gold))
    if pred.ndim != 1 or pred.shape != gold.shape:
        raise ValueError(f"ccc takes two series of one shape (N,), not {tuple(pred.shape)} and {tuple(gold.shape)}")
    p, g = pred - pred.mean(), gold - gold.mean()
    spread = (p * p).mean() + (g * g).mean() + (pred - gold).mean() ** 2  # not of the means: large ones lose digits
    return 2 * (p * g).mean() / spread.clamp_min(TINY)


def ccc_loss(pred, gold):
    """1 - CCC of each target over the frames whose gold is not NaN: (N, K), (N, K) -> (K,).

    A target with fewer than two such frames has loss 0 and gradient 0.
    """
    if gold.device.type != "cpu":
        return masked_loss(pred, gold)
    losses = []
    for p, g in zip(pred.unbind(1), gold.unbind(1)):
        valid = ~g.isnan()
        losses.append(1 - ccc(p[valid], g[valid]) if valid.sum() > 1 else (p * 0).sum())
    return torch.stack(losses)


def masked_loss(pred, gold):
    """ccc_loss, up to rounding, without waiting for a GPU to say how many frames are valid: (N, K), (N, K) -> (K,)."""
    missing = gold.isnan()
    count = (~missing).sum(0)

    def mean(series):  # of a series that is 0 where the gold is missing
        return series.sum(0) / count.clamp_min(1)

    pred, gold = pred.masked_fill(missing, 0), gold.masked_fill(missing, 0)
    p, g = ((series - mean(series)).masked_fill(missing, 0) for series in (pred, gold))
    spread = mean(p * p) + mean(g * g) + mean(pred - gold) ** 2
    return (1 - 2 * mean(p * g) / spread.clamp_min(TINY)).masked_fill(count < 2, 0)


# ---- distillation: student features (N, Ds), teacher features (N, Dt) -> scalar >= 0 --------------------------------
# They take float32, outside of autocast. None synchronises with a GPU.

def cosine(student, teacher):
    """Mean over frames of 1 - cos(student, teacher) (Aslam et al., 2023): (N, D), (N, D) -> scalar in [0, 2]."""
    _same_shape(student, teacher)
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean().clamp_min(0)  # rounding can give -1e-8


def cosine_original(student, teacher):
    """1 - cos of the two flattened batches, as in the authors' code: (N, D), (N, D) -> scalar in [0, 2]."""
    _same_shape(student, teacher)
    return (1 - F.cosine_similarity(student.flatten(), teacher.flatten(), dim=0)).clamp_min(0)


def fitnets(student, teacher):
    """Mean squared difference of the features (Romero et al., 2015): (N, D), (N, D) -> scalar >= 0.

    student: features after the learned linear layer to the teacher's size; the caller owns that layer.
    """
    _same_shape(student, teacher)
    return F.mse_loss(student, teacher)


def sp(student, teacher):
    """Mean squared difference of row-normalised Gram matrices (Tung & Mori, 2019): (N, Ds), (N, Dt) -> scalar >= 0.

    Compares which frames are similar for the student with which are similar for the teacher. The matrices are (N, N),
    16 MB at 2048 frames.
    """
    _same_length(student, teacher)
    gram_s, gram_t = (_unit(features @ features.T) for features in (student, teacher))
    return ((gram_s - gram_t) ** 2).mean()


def rkd(student, teacher):
    """25 x difference of distances + 50 x difference of angles (Park et al., 2019): (N, Ds), (N, Dt) -> scalar >= 0.

    Smooth L1, mean over all pairs and all triples. Distances are taken between all frames and divided by their mean:
    (N, N), 16 MB at 2048 frames. Triples grow with N^3, so the angles are those of at most 64 frames, evenly spaced
    over the batch: 1 MB. Frames nearer than 0.1% of the typical distance are duplicates: distance 0, angles 0 and no
    gradient, because the direction between two almost equal frames is noise and its gradient is unbounded.
    """
    _same_length(student, teacher)
    distance = F.smooth_l1_loss(_distances(student), _distances(teacher))
    angle = F.smooth_l1_loss(*(_angles(_spaced(features, ANGLE_FRAMES)) for features in (student, teacher)))
    return 25 * distance + 50 * angle


def ot(student, teacher):
    """Optimal transport between the student's and the teacher's similarities (PKDOT): (N, Ds), (N, Dt) -> scalar >= 0.

    Aslam et al., "Distilling Privileged Multimodal Information for Expression Recognition using Optimal Transport",
    2024. A frame is described by its cosines to the 30 frames that are least similar to it *for the teacher*, the least
    similar first. Between the student's and the teacher's descriptions: debiased Sinkhorn divergence (Feydy et al.,
    2019), cost |x - y|^2 / 2, blur 0.1, uniform weights. The authors' batch was 128: of a larger one 128 evenly spaced
    frames are used, so that time and memory stay the same (45 ms on one core, 20 MB). Their code first subtracts the
    minimum from each similarity matrix; here cosines stay cosines.
    """
    _same_length(student, teacher)
    student, teacher = (_unit(_spaced(features, OT_FRAMES)) for features in (student, teacher))
    cosines_s, cosines_t = student @ student.T, teacher @ teacher.T
    anchors = cosines_t.topk(min(ANCHORS, len(cosines_t)), dim=1, largest=False).indices
    x, y = cosines_s.gather(1, anchors), cosines_t.gather(1, anchors)
    between, within_s, within_t = _transport(torch.stack([_cost(x, y), _cost(x, x), _cost(y, y)]))
    return (between - (within_s + within_t) / 2).clamp_min(0)


def ccc_distill(student, teacher):
    """Mean over targets of 1 - CCC(student's predictions, teacher's): (N, K), (N, K) -> scalar in [0, 2]."""
    _same_shape(student, teacher)
    losses = [1 - ccc(*series) for series in zip(student.unbind(1), teacher.unbind(1))]
    return torch.stack(losses).mean().clamp_min(0)


def _same_shape(student, teacher):
    if student.ndim != 2 or student.shape != teacher.shape:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"features of one shape (N, D) were expected, not {shapes}")


def _same_length(student, teacher):
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"features (N, Ds) and (N, Dt) of the same N frames were expected, not {shapes}")


def _unit(vectors, least=TINY):
    """Vectors scaled to length 1; those not longer than `least` become 0, without a gradient: (..., D) -> (..., D)."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    long = length > least
    return torch.where(long, vectors / torch.where(long, length, 1), 0)


def _spaced(features, most):
    """`most` evenly spaced rows, or all if there are fewer: (N, D) -> (min(N, most), D)."""
    kept = min(len(features), most)
    return features[torch.arange(kept, device=features.device) * len(features) // max(kept, 1)]


def _duplicate_distance(features):
    """Distance up to which two rows are duplicates: (N, D) -> scalar without a gradient."""
    features = features.detach()
    typical = (2 * features.var(0, correction=0).sum()).sqrt()  # root mean square distance of two rows
    rounding = torch.finfo(features.dtype).eps * torch.linalg.vector_norm(features)  # where all rows are equal
    return DUPLICATE * typical + rounding


def _distances(features):
    """Distances between rows, divided by the mean of those that are not 0: (N, D) -> (N, N)."""
    centred = features - features.mean(0)  # the same distances with less rounding
    distances = torch.cdist(centred, centred)
    distances = torch.where(distances > _duplicate_distance(features), distances, 0)
    return distances / (distances.sum() / (distances > 0).sum().clamp_min(1)).clamp_min(TINY)


def _angles(features):
    """[i, j, k]: cosine of the angle at row i between rows j and k, 0 where i is j or k: (N, D) -> (N, N, N)."""
    directions = _unit(features[None] - features[:, None], _duplicate_distance(features))  # [i, j]: from i to j
    return directions @ directions.transpose(1, 2)


def _cost(x, y):
    """Half the squared distances, exact for duplicates: (N, D), (M, D) -> (N, M)."""
    return ((x[:, None] - y) ** 2).sum(2) / 2


def _transport(cost):
    """Entropic cost of moving N points of equal weight to N others: costs (P, N, N) of P problems -> (P,).

    That is <plan, cost> + EPSILON KL(plan | uniform) of the optimal plan, computed as the maximum of the dual. For the
    gradient the potentials are constants: it is then the plan itself (envelope theorem), and nothing is differentiated
    through Sinkhorn's steps.
    """
    f, g = _potentials(cost.detach())
    plan = ((f[:, :, None] + g[:, None] - cost) / EPSILON).exp()  # divided by the product of the weights: mean 1
    return f.mean(1) + g.mean(1) - EPSILON * (plan.mean((1, 2)) - 1)


@torch.no_grad()
def _potentials(cost):
    """Dual potentials of entropic optimal transport with uniform weights: (P, N, N) -> (P, N), (P, N).

    Sinkhorn in the log domain, overrelaxed (Thibault et al., 2021), with EPSILON falling from the largest cost during
    the first half. The number of steps is fixed: a convergence test would synchronise with the GPU in every step. Then
    `_transport` is within 1e-4 of the optimum, except for features of hardly more than one or two dimensions, where it
    can be lower.
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
    of: str  # what it compares: the field "feat" or "pred" of an Output
    mapped: bool  # the student's features go through a learned linear layer first


DISTILL = {
    "cosine": Method(cosine, "feat", False),
    "cosine_original": Method(cosine_original, "feat", False),
    "fitnets": Method(fitnets, "feat", True),
    "sp": Method(sp, "feat", False),
    "rkd": Method(rkd, "feat", False),
    "ot": Method(ot, "feat", False),
    "ccc": Method(ccc_distill, "pred", False),
}


def parse_distill(text):
    """{method: weight} of a setting: "cosine" -> {"cosine": 1.0}, "cosine:0.5+ccc:2" -> {"cosine": 0.5, "ccc": 2.0}.

    Raises ValueError, one line, for a method that is not in DISTILL or is named twice, and for a weight that is not a
    finite number above 0.
    """
    weights = {}
    for part in re.split(r"\+(?!\d)", text):  # but not the + of 1e+3
        name, colon, weight = (piece.strip() for piece in part.partition(":"))
        if name not in DISTILL:
            close = difflib.get_close_matches(name, DISTILL, 1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(DISTILL)}"
            raise ValueError(f"{text!r}: unknown distillation method {name!r}; {hint}")
        if name in weights:
            raise ValueError(f"{text!r}: {name} is named twice; name it once, with one weight")
        weights[name] = _weight(text, name, weight) if colon else 1.0
    return weights


def _weight(text, name, weight):
    """The weight of a method as a number; text: the whole setting. Raises ValueError unless finite and above 0."""
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{text!r}: the weight of {name} is {weight!r}; "
                         f"a finite number above 0 was expected, as in {name}:0.5")
    return value
