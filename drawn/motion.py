"""Motion: what a face and a head do, frame by frame, of what the subject feels and says."""
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from drawn import FRAME_RATE, HEIGHT, WIDTH, smooth_noise

# Facial actions (FACS action units 12/15, 1+2, 4, 5, 6, 26), and what each shows of (arousal, valence): smiles and
# cheeks go with valence and lowered brows against it; raised brows and lids and an open mouth go with arousal.
ACTIONS = ["smile", "brow_raise", "brow_lower", "lid_raise", "cheek_raise", "jaw_drop"]
SHOWN = np.array([[0.1, 1.0], [0.7, 0.0], [0.2, -0.7], [0.8, 0.0], [0.0, 0.7], [0.4, 0.0]])


@dataclass
class Manner:
    """How a person shows feelings, and moves."""
    rest: np.ndarray  # (6,) the resting face, in units of action
    shown: np.ndarray  # (6, 2) everyone's own version of SHOWN
    talk: float  # how far the mouth opens in speech
    liveliness: float  # of the head

    @classmethod
    def draw(cls, rng, world):
        own = SHOWN * (1 + world.style_spread * rng.standard_normal(SHOWN.shape))
        own += 0.3 * world.style_spread * rng.standard_normal(SHOWN.shape)
        return cls(rest=world.rest_spread * rng.standard_normal(len(ACTIONS)), shown=own, talk=rng.uniform(0.5, 0.9),
                   liveliness=rng.uniform(0.6, 1.3))


def act(rng, manner, feelings, opening, world):
    """Facial actions: feelings (2, T), mouth opening of the speech (T,) -> (6, T), in the order of ACTIONS."""
    noise = world.face_noise * smooth_noise(rng, len(ACTIONS), feelings.shape[1], world.face_noise_s * FRAME_RATE)
    actions = manner.rest[:, None] + world.face_gain * manner.shown @ feelings + noise
    jaw = ACTIONS.index("jaw_drop")
    actions[jaw] = np.clip(0.5 * actions[jaw], 0, None) + manner.talk * opening
    return actions


@dataclass
class Motion:
    """Where the head is and what is seen of it, for every frame: each (T,)."""
    yaw: np.ndarray  # radians, to the viewer's right
    pitch: np.ndarray  # radians, down
    roll: np.ndarray  # radians, clockwise
    x: np.ndarray  # middle of the head, pixels
    y: np.ndarray
    gaze_x: np.ndarray  # -1 to 1
    gaze_y: np.ndarray
    lids: np.ndarray  # 0 open, 1 shut, for blinks
    light: np.ndarray  # brightness of the room, around 1
    light_from: np.ndarray  # radians: side that the light comes from


def move(rng, manner, opening, world):
    """Motion of a head during a speech whose mouth opening is (T,)."""
    frames = len(opening)
    slow = smooth_noise(rng, 5, frames, 0.6 * FRAME_RATE) * manner.liveliness
    nods = gaussian_filter1d(opening, 0.12 * FRAME_RATE) * 0.06 * manner.liveliness
    lids = np.zeros(frames)
    for start in np.flatnonzero(rng.random(frames) < world.blinks_per_s / FRAME_RATE):
        lids[start:start + 5] = np.maximum(lids[start:start + 5], [0.5, 1, 1, 0.6, 0.2][:frames - start])
    return Motion(yaw=0.14 * slow[0], pitch=0.07 * slow[1] + nods, roll=0.05 * slow[2],
                  x=WIDTH / 2 + 9 * slow[3] + WIDTH * _absence(rng, frames, world), y=HEIGHT * 0.5 + 5 * slow[4],
                  gaze_x=np.round(smooth_noise(rng, 1, frames, 0.3 * FRAME_RATE)[0]) * 0.35,
                  gaze_y=smooth_noise(rng, 1, frames, 20)[0] * 0.2,
                  lids=lids, light=1 + 0.10 * smooth_noise(rng, 1, frames, 4 * FRAME_RATE)[0],
                  light_from=rng.uniform(-0.7, 0.7) + 0.15 * smooth_noise(rng, 1, frames, 4 * FRAME_RATE)[0])


def _absence(rng, frames, world):
    """How far the head is out of the picture, in picture widths: 0 but for a second or two now and then. (T,)"""
    away, half = np.zeros(frames), FRAME_RATE // 2
    for start in np.flatnonzero(rng.random(frames) < world.leaves_per_minute / 60 / FRAME_RATE):
        stay = int(rng.uniform(0.4, 1.6) * FRAME_RATE)
        there_and_back = np.concatenate([np.linspace(0, 1, half), np.ones(stay), np.linspace(1, 0, half)]) ** 2
        there_and_back *= rng.choice([-0.8, 0.8])
        end = min(frames, start + len(there_and_back))
        away[start:end] = there_and_back[:end - start]
    return away
