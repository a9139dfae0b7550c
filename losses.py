"""CCC, the CCC loss, and the distillation losses with their table.

Shapes: N frames (of any clips, in any order), K targets, Ds and Dt features of student and teacher.
"""
import torch
import torch.nn.functional as F

TINY = 1e-12  # keeps 0 / 0 out: two series that are constant and equal have a CCC of 0


def ccc(pred, gold):
    """Concordance correlation coefficient, with population moments (Lin, 1989): (N,), (N,) -> scalar in [-1, 1].

    2 cov(p, g) / (var p + var g + (mean p - mean g)^2). Takes tensors or arrays. Raises ValueError if the shapes differ
    or are not (N,): (N, 1) beside (N,) would broadcast to (N, N) and give nearly 0.
    """
    pred, gold = (series if torch.is_tensor(series) else torch.tensor(series) for series in (pred, gold))  # copies: pandas' are read-only
    if pred.ndim != 1 or pred.shape != gold.shape:
        raise ValueError(f"ccc takes two series of one shape (N,), not {tuple(pred.shape)} and {tuple(gold.shape)}")
    p, g = pred - pred.mean(), gold - gold.mean()
    spread = (p * p).mean() + (g * g).mean() + (pred - gold).mean() ** 2  # not of the means: they round where both are large
    return 2 * (p * g).mean() / spread.clamp_min(TINY)


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

def cosine(student, teacher):
    """Mean over frames of 1 - cos(student, teacher): (N, D), (N, D) -> scalar in [0, 2] (Aslam et al., 2023, per frame)."""
    _same_shape(student, teacher)
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean().clamp_min(0)  # rounding can give -1e-8


def cosine_original(student, teacher):
    """1 - cos of the two whole batches as single vectors, as in the original's code: (N, D), (N, D) -> scalar in [0, 2]."""
    _same_shape(student, teacher)
    return (1 - F.cosine_similarity(student.flatten(), teacher.flatten(), dim=0)).clamp_min(0)


def _same_shape(student, teacher):
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(f"features of one shape (N, D) were expected, not {tuple(student.shape)} and {tuple(teacher.shape)}")


DISTILL = {"cosine": cosine, "cosine_original": cosine_original}
