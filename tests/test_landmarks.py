"""face_detector.py: landmarks averaged over time."""
import numpy as np
import pytest
import torch
from videos import look_at, sitter

from face_detector import steady
from faces import TEMPLATE, FaceFinder, alignment


def steady_in_loops(points, times_s):
    """`steady` for the middle picture, in loops."""
    middle, total, weight = len(points) // 2, np.zeros((5, 2)), 0.0
    eyes = max(abs(points[middle][1] - points[middle][0]))
    for side in (0, 1):  # the middle one and those before it, then those after it
        for step in range(side, middle + 1):
            pair = points[middle - step], points[middle + step]
            if not all(np.mean(np.abs(one - points[middle])) <= 0.25 * eyes for one in pair):
                break
            at = middle + step if side else middle - step
            share = max(0, 1 - abs(times_s[at] - times_s[middle]) / 0.12)
            total, weight = total + share * points[at], weight + share
    return total / weight


def steady_middle(points, times_s):
    """What `steady` makes of the middle one of a few pictures."""
    return steady(points, times_s, len(points) // 2)[0]


def landmarks_of(xs, noise=0, seed=0):
    """Landmarks of faces 100 pixels wide at (x, 80): (n, 5, 2)."""
    jitter = noise * np.random.default_rng(seed).standard_normal((len(xs), 5, 2))
    return TEMPLATE * 100 + np.stack([xs, np.full(len(xs), 80)], 1)[:, None] + jitter


def test_steady_landmarks_are_those_of_a_naive_loop():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n = int(rng.choice([1, 3, 5, 7, 11]))
        points = landmarks_of(np.cumsum(rng.normal(0, rng.choice([1, 5, 12]), n)), 1, seed)
        points[rng.random(n) < 0.2 * (np.arange(n) != n // 2)] = np.nan
        times_s = np.cumsum(rng.uniform(0.01, 0.06, n))
        assert np.allclose(steady_middle(points, times_s), steady_in_loops(points, times_s), atol=1e-9)


def test_a_head_of_constant_speed_is_left_where_it_is():
    for speed in (0, 0.5, 2, -3.7):
        points = landmarks_of(speed * np.arange(7))
        assert np.allclose(steady_middle(points, np.arange(7) / 25), points[3], atol=1e-9)


@pytest.fixture(scope="module")
def find():
    return FaceFinder(60, 0.9, torch.device("cpu"))


def jitter_px(points, drawn):
    """Largest movement of a drawn landmark from frame to frame in a crop of 112 pixels: (n - 1,)."""
    places = []
    for k, found in enumerate(points):
        matrix = alignment(found) * 112
        places.append((drawn.painter.landmarks(drawn.motion, k) + 0.5) @ matrix[:, :2].T + matrix[:, 2])
    return np.hypot(*np.moveaxis(np.diff(places, axis=0), -1, 0)).max(1)


@pytest.mark.parametrize("kind", ["noisy", "drifting"])
def test_crops_of_a_still_head_are_still(kind, find, tmp_path):
    drawn, rng = sitter((73, 0), 45), np.random.default_rng(0)
    drawn.motion.x[:] = 150 + 0.37 * np.arange(45) * (kind == "drifting")
    noise = [rng.normal(0, 6 * (kind == "noisy"), (240, 320, 3)) for _ in range(45)]
    pictures = [np.clip(one + more, 0, 255).astype(np.uint8) for one, more in zip(drawn.frames(), noise)]
    seen, points = look_at(pictures, find, tmp_path)
    ours = jitter_px(points, drawn)[3:-3]
    assert ours.mean() < 0.3 and ours.max() < 0.8
    assert ours.mean() < jitter_px([one.face.points for one in seen], drawn)[3:-3].mean()  # averaging helps
