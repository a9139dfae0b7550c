"""Faces: how subjects look, and the pictures of them."""
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from drawn import HEIGHT, WIDTH
from drawn.motion import ACTIONS
from support.opencv import cv2

# Head coordinates: x to the viewer's right, y down, chin at y = 1, top of the forehead at -1. The head is a sphere
# stretched to the outline; a texture lies on it, and eyes, brows and mouth are polygons placed on it every frame.
UNIT = 80  # pixels of the canvas that a head is painted on, per unit
HALF_W, HALF_H = 1.25, 1.40  # of the canvas, units
CANVAS_X, CANVAS_Y = np.meshgrid((np.arange(int(2 * HALF_W * UNIT)) + 0.5) / UNIT - HALF_W,
                                 (np.arange(int(2 * HALF_H * UNIT)) + 0.5) / UNIT - HALF_H)
TEXTURE = 256  # pixels of the texture's side, which spans the front half of the sphere

SKINS = np.array([[241, 208, 186], [226, 183, 155], [205, 156, 122], [170, 118, 86], [128, 84, 58], [96, 62, 44]])
HAIRS = np.array([[28, 22, 20], [58, 38, 26], [96, 64, 38], [120, 58, 30], [150, 110, 62], [120, 118, 118]])
IRISES = np.array([[70, 48, 30], [50, 36, 26], [86, 108, 130], [80, 100, 70]])


@dataclass
class Look:
    """A person's appearance: lengths in units of the head, colours RGB 0 to 255."""
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    shirt: np.ndarray
    scale: float  # pixels of the picture per unit
    width: float  # of half the face
    jaw: float  # exponent of its lower outline: 2 is an ellipse, 3 a square jaw
    eye_x: float
    eye_y: float
    eye_w: float
    eye_h: float
    brow_y: float  # above the eye
    brow_h: float
    brow_arch: float
    nose_y: float
    nose_w: float
    mouth_y: float
    mouth_w: float
    upper_lip: float
    lower_lip: float
    hairline: float
    parting: float
    hair_top: float
    long_hair: bool
    beard: bool
    glasses: bool

    @classmethod
    def draw(cls, rng):
        skin = SKINS[rng.integers(len(SKINS))] * rng.uniform(0.93, 1.05)
        dark = skin.mean() < 120
        beard = rng.random() < 0.25
        uniform = rng.uniform
        return cls(
            skin=skin, hair=HAIRS[rng.integers(2 if dark else len(HAIRS))] * uniform(0.85, 1.15),
            iris=IRISES[rng.integers(2 if dark else len(IRISES))], shirt=uniform(40, 200) + uniform(-40, 40, 3),
            scale=uniform(50, 60), width=uniform(0.70, 0.80), jaw=uniform(1.9, 3.0), eye_x=uniform(0.29, 0.335),
            eye_y=uniform(-0.13, -0.07), eye_w=uniform(0.135, 0.165), eye_h=uniform(0.062, 0.085),
            brow_y=uniform(0.155, 0.20), brow_h=uniform(0.022, 0.045), brow_arch=uniform(0.01, 0.05),
            nose_y=uniform(0.25, 0.31), nose_w=uniform(0.11, 0.16), mouth_y=uniform(0.52, 0.58),
            mouth_w=uniform(0.23, 0.30),
            upper_lip=uniform(0.035, 0.06), lower_lip=uniform(0.05, 0.08), hairline=uniform(0.50, 0.72),
            parting=uniform(-0.4, 0.4), hair_top=uniform(1.12, 1.25), long_hair=not beard and rng.random() < 0.55,
            beard=beard, glasses=rng.random() < 0.3)

    @property
    def lip(self):
        return self.skin * [0.80, 0.62, 0.62] + [10, 0, 0]

    def half_width(self, y):
        """Half the width of the face at height y, in units."""
        return self.width * np.sqrt(np.clip(1 - np.abs(y) ** np.where(np.asarray(y) > 0, self.jaw, 2.0), 0, 1))


def _blob(x, y, at_x, at_y, size_x, size_y):
    return np.exp(-((x - at_x) / size_x) ** 2 - ((y - at_y) / size_y) ** 2)


def skin_texture(rng, look):
    """What lies on the sphere and does not move by itself: (TEXTURE, TEXTURE, 3) float32 RGB."""
    u, y = np.meshgrid(*[(np.arange(TEXTURE) + 0.5) / TEXTURE * 2 - 1] * 2)
    x, skin = u * look.width, look.skin
    grain = lambda width, depth: 1 + depth * smooth_image(rng, width)[..., None]
    layer = skin * grain(6, 0.015) * grain(1.2, 0.02)

    def tint(mask, colour, strength):
        nonlocal layer
        layer = layer + (colour - layer) * (strength * mask)[..., None]

    for side in (-1, 1):
        tint(_blob(x, y, side * look.eye_x, look.eye_y - 0.03, 0.20, 0.13), skin * 0.62, 0.55)  # eye sockets
        tint(_blob(x, y, side * 0.40, 0.27, 0.16, 0.15), skin * [1.03, 0.83, 0.82], 0.5)  # cheeks
        nose_x = side * look.nose_w
        tint(_blob(x, y, nose_x * 0.75, look.nose_y - 0.12, 0.05, 0.2), skin * 0.7, 0.45)  # sides of the nose
        tint(_blob(x, y, nose_x * 0.8, look.nose_y + 0.02, 0.04, 0.05), skin * 0.6, 0.6)  # its wings
    tint(_blob(x, y, 0, look.nose_y - 0.2, 0.05, 0.25), skin * 1.2, 0.5)  # its back
    tint(_blob(x, y, 0, look.nose_y - 0.02, 0.08, 0.06), skin * 1.22, 0.6)  # its tip
    tint(_blob(x, y, 0, look.nose_y + 0.085, 0.12, 0.03), skin * 0.5, 0.65)  # its shadow
    tint(_blob(x, y, 0, look.mouth_y + 0.17, 0.14, 0.04), skin * 0.65, 0.5)  # the lower lip's shadow
    tint(_blob(x, y, 0, 0.86, 0.16, 0.1), skin * 1.1, 0.4)  # chin
    tint(_blob(x, y, 0, -0.5, 0.4, 0.2), skin * 1.08, 0.4)  # forehead
    if look.beard:
        cheeks = np.clip((y - (0.30 + 0.25 * (1 - np.abs(u)) ** 0.6)) * 9, 0, 1)
        moustache = _blob(x, y, 0, look.nose_y + 0.14, 0.22, 0.035) * 0.9
        stubble = np.clip(0.8 + 0.35 * smooth_image(rng, 1), 0, 1)
        tint(np.clip(cheeks + moustache, 0, 1) * stubble, look.hair * 1.05, 0.85)
    line = -look.hairline + 0.12 * u**2 + 0.05 * np.sin((u - look.parting) * 3)
    temples = np.clip((np.abs(u) - 0.93 + 0.25 * np.clip(y, -1, 0.2)) * 8, 0, 1) * (y < 0.25)
    strands = 1 + 0.2 * smooth_image(rng, (8, 0.8))[..., None]
    tint(np.maximum(np.clip((line - y) * 14, 0, 1), temples), look.hair * strands, 1)
    return np.clip(layer, 0, 255).astype(np.float32)


def smooth_image(rng, width):
    """(TEXTURE, TEXTURE) noise of unit variance, blurred by `width` pixels."""
    image = gaussian_filter(rng.standard_normal((TEXTURE, TEXTURE)), width)
    return image / image.std()


def hair_outline(look):
    """Where hair is seen beside and above the face: canvas mask, 0 to 1."""
    width = look.width * 1.16
    distance = np.hypot(CANVAS_X / width, (CANVAS_Y + 0.12) / (look.hair_top - 0.12))
    crown = np.clip((1 - distance) * UNIT * 0.6 + 0.5, 0, 1)
    if not look.long_hair:
        return crown * np.clip((0.02 - CANVAS_Y) * 12 + 0.5, 0, 1)
    sides = np.clip((width * (1.02 + 0.06 * CANVAS_Y) - np.abs(CANVAS_X)) * UNIT + 0.5, 0, 1)
    end = np.clip((1.15 - 0.25 * (CANVAS_X / width) ** 2 - CANVAS_Y) * 20, 0, 1)
    return np.maximum(crown * (CANVAS_Y < 0.1), sides * end * (CANVAS_Y > -0.15))


def room(rng):
    """A background: a wall with blurred things on it, (HEIGHT, WIDTH, 3) uint8 RGB."""
    across, down = np.linspace(0, 1, WIDTH)[None, :, None], np.linspace(0, 1, HEIGHT)[:, None, None]
    muted = lambda: rng.uniform(60, 205) + rng.uniform(-28, 28, 3)
    wall = muted() * (1 + rng.uniform(-0.25, 0.25) * across + rng.uniform(-0.2, 0.1) * down)
    image = np.ascontiguousarray(np.clip(wall, 0, 255).astype(np.uint8))
    for _ in range(rng.integers(2, 6)):
        corner, size, colour = rng.integers((-20, -20), (WIDTH, HEIGHT)), rng.integers((20, 20), (110, 120)), muted()
        cv2.rectangle(image, corner.tolist(), (corner + size).tolist(), colour.tolist(), -1)
        cv2.rectangle(image, corner.tolist(), (corner + size).tolist(), (colour * 0.6).tolist(), 2)
    for _ in range(rng.integers(0, 4)):
        middle, radius = rng.integers((0, 0), (WIDTH, HEIGHT)).tolist(), int(rng.integers(8, 30))
        cv2.circle(image, middle, radius, muted().tolist(), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 2.2)


def turn_of(motion, k):
    """Rotation of the head in frame k, from its own axes to the viewer's: (3, 3); in frames k (F,): (F, 3, 3)."""
    cos_y, sin_y = np.cos(motion.yaw[k]), np.sin(motion.yaw[k])
    cos_p, sin_p = np.cos(motion.pitch[k]), np.sin(motion.pitch[k])
    rows = [[cos_y, np.zeros_like(cos_y), sin_y],
            [sin_y * sin_p, cos_p, -cos_y * sin_p],
            [-sin_y * cos_p, sin_p, cos_y * cos_p]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def place_on_head(look, turn, x, y, lift=0.0):
    """Head coordinates x, y, `lift` above the sphere -> pixels of the canvas, for a head turned by `turn`.

    (n,), (n,), (3, 3) -> (n, 2), or for F frames at once (F, n) or (n,), (F, n) or (n,), (F, 3, 3) -> (F, n, 2)
    """
    x, y = np.broadcast_arrays(x, y)
    u = x / look.width
    seen = turn @ np.stack([u, y, np.sqrt(np.clip(1 - u**2 - y**2, 0.02, 1)) + lift], -2)
    seen_x, seen_y = seen[..., 0, :], seen[..., 1, :]
    flat = np.clip(seen_y, -0.98, 0.98)
    seen_x = seen_x / np.sqrt(1 - flat**2) * look.half_width(flat)  # from the sphere to the outline of this face
    return np.stack([(seen_x + HALF_W) * UNIT - 0.5, (seen_y + HALF_H) * UNIT - 0.5], -1)


def inside_of(mask):
    """The smallest rectangle of an image, as two slices, outside of which a mask is 0."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


class Painter:
    """Paints one subject, frame by frame."""

    def __init__(self, rng, look):
        self.look = look
        self.room = room(rng)
        self.grain = rng.normal(0, 2.5, (8, HEIGHT, WIDTH, 3)).astype(np.float32)  # the camera's noise
        self.texture = skin_texture(rng, look)
        width = look.half_width(CANVAS_Y)
        inside = np.minimum(width - np.abs(CANVAS_X), 0.9 * (1 - np.abs(CANVAS_Y))) * UNIT
        face = np.clip(inside + 0.5, 0, 1).astype(np.float32)
        beside = [np.hypot((CANVAS_X - side * look.width) / 0.10, (CANVAS_Y - 0.02) / 0.2) for side in (-1, 1)]
        ears = np.maximum(*[np.clip((1 - distance) * 8, 0, 1) for distance in beside])
        self.outline = np.maximum.reduce([hair_outline(look), ears, face]).astype(np.float32)
        shade, ears = 1 - 0.25 * np.clip(np.hypot(CANVAS_X, CANVAS_Y + 0.3), 0, 1.2)[..., None], ears[..., None]
        behind = (look.hair * 0.75 * shade * (1 - ears) + look.skin * 0.8 * ears).astype(np.float32)
        self.behind = np.clip(behind, 0, 255).astype(np.uint8)  # what the canvas is outside the face
        # the sphere under the canvas, seen from the front: unit vectors
        y = np.clip(CANVAS_Y, -1, 1)
        x = np.clip(CANVAS_X / np.maximum(width, 1e-3), -1, 1) * np.sqrt(1 - y**2)
        sphere = np.stack([x, y, np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))], -1).astype(np.float32)
        self.at_face = inside_of(face)
        self.face, self.behind_face = face[self.at_face][..., None], behind[self.at_face]
        self.sphere = sphere[self.at_face]
        self.edge_shade = 0.75 + 0.25 * np.sqrt(self.sphere[..., 2])

    def paint(self, actions, motion, k):
        """Frame k, (HEIGHT, WIDTH, 3) uint8 RGB, of the actions (6, T)."""
        return next(self.frames(actions, motion, [k]))

    def frames(self, actions, motion, ks):
        """Yields the frames `ks`, each (HEIGHT, WIDTH, 3) uint8 RGB, of the actions (6, T)."""
        ks = np.asarray(ks)
        turns = turn_of(motion, ks)
        gaze = motion.gaze_x[ks], motion.gaze_y[ks]
        features = _Features(self.look, turns, dict(zip(ACTIONS, actions[:, ks])), gaze, motion.lids[ks])
        for i, k in enumerate(ks):
            canvas = self._paint_head(turns[i], motion.light_from[k])
            features.paint(canvas, i)
            image = self.room.copy()
            self._paint_body(image, motion.x[k], motion.y[k])
            image = self._put(canvas, image.astype(np.float32), self._canvas_to_picture(motion, k))
            image = cv2.GaussianBlur(image, (0, 0), 0.6)
            image *= np.float32(motion.light[k])
            image += self.grain[k * 5 % len(self.grain)]
            yield np.clip(image, 0, 255, out=image).astype(np.uint8)

    def landmarks(self, motion, k):
        """Where the eyes, the tip of the nose and the corners of the resting mouth are in frame k: (5, 2) pixels."""
        look = self.look
        x = np.array([-look.eye_x, look.eye_x, 0, -look.mouth_w, look.mouth_w])
        y = np.array([look.eye_y, look.eye_y, look.nose_y, look.mouth_y, look.mouth_y])
        matrix = self._canvas_to_picture(motion, k)
        points = place_on_head(look, turn_of(motion, k), x, y, np.array([0.02, 0.02, 0.18, 0.05, 0.05]))
        return points @ matrix[:, :2].T + matrix[:, 2]

    def _canvas_to_picture(self, motion, k):
        cos, sin = np.cos(motion.roll[k]), np.sin(motion.roll[k])
        turn = self.look.scale / UNIT * np.array([[cos, -sin], [sin, cos]])
        return np.column_stack([turn, [motion.x[k], motion.y[k]] - turn @ [HALF_W * UNIT - 0.5, HALF_H * UNIT - 0.5]])

    def _put(self, canvas, image, matrix):
        """The image (float32) with the head on it, where `matrix` takes the canvas; its outline touches no edge."""
        head = cv2.warpAffine(canvas, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        mask = cv2.warpAffine(self.outline, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        if mask.any():
            there = inside_of(mask)
            image[there] += (head[there] - image[there]) * mask[there][..., None]
        return image

    def _paint_body(self, image, x, y):
        look, unit = self.look, self.look.scale
        middle = WIDTH / 2 + (x - WIDTH / 2) * 0.75
        neck = [[x - 0.36 * unit, y + 0.6 * unit], [x + 0.36 * unit, y + 0.6 * unit],
                [middle + 0.42 * unit, y + 1.5 * unit], [middle - 0.42 * unit, y + 1.5 * unit]]
        angle = np.linspace(np.pi, 2 * np.pi, 25)
        shoulders = np.stack([middle + np.cos(angle) * 1.75 * unit, y + (1.95 + np.sin(angle) * 0.75) * unit], 1)
        _fill(image, np.array(neck), look.skin * 0.62)
        below = [[middle + 1.75 * unit, HEIGHT + 40], [middle - 1.75 * unit, HEIGHT + 40]]
        _fill(image, np.concatenate([shoulders, below]), look.shirt)

    def _paint_head(self, turn, side):
        """The canvas with hair, ears and skin, turned by `turn`, in light from `side`: (H, W, 3) uint8."""
        canvas = self.behind.copy()
        looked_up = (self.sphere @ turn[:, :2].astype(np.float32) + 1) * (TEXTURE / 2) - 0.5  # texture under each pixel
        skin = cv2.remap(self.texture, looked_up, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        light = np.array([np.sin(side) * 0.9, -0.35, np.cos(side) * 0.9], np.float32)
        shade = (0.55 + 0.5 * np.clip(self.sphere @ light, 0, None)) * self.edge_shade
        skin *= shade[..., None]
        skin -= self.behind_face
        skin *= self.face
        skin += self.behind_face
        canvas[self.at_face] = np.clip(skin, 0, 255, out=skin)
        return canvas


class _Features:
    """Eyes, brows, nose and mouth of F frames, painted one after the other on the canvas of a head turned by `turns`.

    turns: (F, 3, 3); actions: {name: (F,)}; gaze: (F,) across and (F,) down; lids: (F,). Where everything lies is
    computed for all frames at once.
    """

    def __init__(self, look, turns, actions, gaze, lids):
        self.look, self.turns = look, turns
        self.actions = {name: values[:, None] for name, values in actions.items()}  # (F, 1), to meet points (n,)
        self.eyes = {side: self._eye(side, gaze[0][:, None], gaze[1][:, None], lids[:, None]) for side in (-1, 1)}
        self.brows = {side: self._brow(side) for side in (-1, 1)}
        self.nostrils = {side: self.place([side * look.nose_w * 0.45], look.nose_y + 0.06, 0.18)[:, 0]
                         for side in (-1, 1)}
        self.mouth = self._mouth()
        self.glasses = self._glasses() if look.glasses else []

    def place(self, x, y, lift=0.0):
        return place_on_head(self.look, self.turns, x, y, lift)

    def paint(self, canvas, i):
        """Paints the features of the i-th frame."""
        for side in (-1, 1):
            self._paint_eye(canvas, i, self.eyes[side])
            self._paint_brow(canvas, i, self.brows[side])
            oval = (self.nostrils[side][i].tolist(), (self.look.nose_w * 0.42 * UNIT, 0.04 * UNIT), -15 * side)
            cv2.ellipse(canvas, oval, _rgb(self.look.skin * 0.3), -1, cv2.LINE_AA)
        self._paint_mouth(canvas, i)
        for line in self.glasses:
            _stroke(canvas, line[i], np.array([30, 28, 30]), 2)

    def _eye(self, side, gaze_x, gaze_y, lids):
        look, t = self.look, np.linspace(-1, 1, 17)
        open_share = np.clip(1 + 0.45 * self.actions["lid_raise"], 0.25, 1.7) * (1 - lids)
        squint = 0.55 - 0.35 * np.clip(self.actions["cheek_raise"], -0.5, 1.2)
        x = side * look.eye_x + t * look.eye_w
        top = look.eye_y - look.eye_h * open_share * (1 - t**2) ** 0.6
        bottom = np.maximum(top, look.eye_y + look.eye_h * squint * (1 - 0.6 * lids) * (1 - t**2) ** 0.8)
        crease = top - 0.045 - 0.02 * np.clip(self.actions["brow_raise"], 0, 1)
        pupil_x, pupil_y = side * look.eye_x + gaze_x * look.eye_w * 0.35, look.eye_y - 0.01 + gaze_y * 0.02
        return {"open": open_share[:, 0] > 0.12, "pupil": self.place(pupil_x, pupil_y, 0.02)[:, 0],
                "upper": self.place(x, top, 0.02), "lower": self.place(x, bottom, 0.02),
                "crease": self.place(x, crease, 0.02)[:, 3:-3]}

    def _paint_eye(self, canvas, i, eye):
        skin, upper, lower = self.look.skin, eye["upper"][i], eye["lower"][i]
        if eye["open"][i]:
            self._paint_eyeball(canvas, np.concatenate([upper, lower[::-1]]), eye["pupil"][i])
        _stroke(canvas, upper, skin * 0.18, 2)
        _stroke(canvas, lower, skin * 0.55, 1)
        _stroke(canvas, eye["crease"][i], skin * 0.62, 1)

    def _paint_eyeball(self, canvas, outline, pupil):
        left, upper = np.floor(outline.min(0)).astype(int) - 3
        right, lower = np.ceil(outline.max(0)).astype(int) + 4
        patch = canvas[upper:lower, left:right]
        ball, mask, origin = np.full_like(patch, 224), np.zeros(patch.shape[:2], np.uint8), (left, upper)
        _fill(mask, outline - origin, [255])
        for radius, colour in ((0.062, self.look.iris), (0.031, np.array([12, 10, 10]))):
            _disc(ball, pupil - origin, radius * UNIT, colour)
        _disc(ball, pupil - origin - (1.5, 1.8), 1.1, np.array([240, 240, 240]))
        ball[:len(ball) * 3 // 10] = ball[:len(ball) * 3 // 10] * 0.8  # the lid's shadow
        patch[:] = patch + (ball.astype(np.float32) - patch) * (mask[..., None] / np.float32(255))

    def _brow(self, side):
        look, t, lowered = self.look, np.linspace(-1, 1, 17), self.actions["brow_lower"]
        inner = -side * t  # 1 at the nose, -1 at the temple
        x = side * (look.eye_x + 0.02 - 0.02 * lowered) + t * look.eye_w * 1.25
        y = look.eye_y - look.brow_y - look.brow_arch * (1 - t**2) - 0.055 * self.actions["brow_raise"]
        y = y + 0.05 * lowered * (inner + 0.6) / 1.6
        half = look.brow_h * (1 + 0.35 * inner)
        return {"hair": np.concatenate([self.place(x, y - half, 0.03), self.place(x, y + half, 0.03)[:, ::-1]], 1),
                "frown": self.place(side * 0.05, np.linspace(-0.26, -0.14, 4) + look.eye_y, 0.03),
                "lowered": lowered[:, 0]}

    def _paint_brow(self, canvas, i, brow):
        _fill(canvas, brow["hair"][i], self.look.hair * 0.8 + self.look.skin * 0.08)
        if brow["lowered"][i] > 0.2:  # the frown between the brows
            _stroke(canvas, brow["frown"][i], self.look.skin * (1 - 0.25 * min(brow["lowered"][i], 1)), 1)

    def _mouth(self):
        look, t = self.look, np.linspace(-1, 1, 25)
        smile, drop = self.actions["smile"], np.clip(self.actions["jaw_drop"], 0, 1.3)
        x = t * look.mouth_w * (1 + 0.16 * smile - 0.10 * drop)
        middle = look.mouth_y + 0.02 * drop
        line, gap = middle - 0.075 * smile * (t**2 - 0.4), 0.15 * drop * (1 - t**2)
        upper, lower = line - 0.25 * gap, line + 0.85 * gap
        thin = 1 - 0.18 * np.clip(smile, -1, 1)
        top = upper - look.upper_lip * thin * (1 - np.abs(t) ** 1.6) * (1 - 0.28 * np.exp(-(t / 0.16) ** 2))
        bottom = lower + look.lower_lip * thin * (1 - t**2) ** 0.8
        edge = lambda y, ends: self.place(x, y, 0.05)[:, ends:25 - ends]
        band = lambda above, below, ends=0: np.concatenate([edge(above, ends), edge(below, ends)[:, ::-1]], 1)
        q = np.linspace(0, 1, 7)
        fold_x = look.nose_w * 1.15 + 0.02 + (look.mouth_w * 1.12 - look.nose_w) * q**1.2
        fold_y = look.nose_y + 0.03 + (middle - look.nose_y - 0.06) * q
        return {"lips": band(top, bottom), "line": edge(upper, 0), "smile": smile[:, 0], "drop": drop[:, 0],
                "shine": band(lower + 0.3 * (bottom - lower), lower + 0.6 * (bottom - lower), 4),
                "inside": band(upper, lower),
                "teeth": band(upper, np.minimum(upper + 0.045, upper + 0.6 * (lower - upper)), 4),
                "folds": [self.place(side * fold_x, fold_y, 0.05) for side in (-1, 1)]}

    def _paint_mouth(self, canvas, i):
        look, mouth = self.look, self.mouth
        _fill(canvas, mouth["lips"][i], look.lip)
        _fill(canvas, mouth["shine"][i], look.lip * 1.12)
        if mouth["drop"][i] > 0.06:
            _fill(canvas, mouth["inside"][i], np.array([46, 18, 20]))
            _fill(canvas, mouth["teeth"][i], np.array([222, 216, 206]))
        _stroke(canvas, mouth["line"][i], look.lip * 0.42, 1)
        if mouth["smile"][i] > 0.1:  # the folds from nose to mouth
            for fold in mouth["folds"]:
                _stroke(canvas, fold[i], look.skin * (1 - 0.28 * min(mouth["smile"][i], 1)), 1)

    def _glasses(self):
        look, turn, lines = self.look, np.linspace(0, 2 * np.pi, 25), []
        for side in (-1, 1):
            x, y = side * look.eye_x + np.cos(turn) * 0.21, look.eye_y + 0.02 + np.sin(turn) * 0.16
            lines.append(self.place(x, y, 0.08))
            lines.append(self.place(side * np.array([look.eye_x + 0.21, 0.70]), look.eye_y - np.array([0, 0.03]), 0.02))
        return [*lines, self.place(np.linspace(-1, 1, 3) * (look.eye_x - 0.21), look.eye_y, 0.12)]


def _rgb(colour):
    return [min(max(float(value), 0.0), 255.0) for value in colour]  # np.clip takes longer than painting does


def _fill(image, points, colour):
    cv2.fillPoly(image, [np.round(points * 16).astype(np.int32)], _rgb(colour), cv2.LINE_AA, 4)  # 4 bits: 1/16 pixel


def _stroke(image, points, colour, thickness):
    cv2.polylines(image, [np.round(points * 16).astype(np.int32)], False, _rgb(colour), thickness, cv2.LINE_AA, 4)


def _disc(image, middle, radius, colour):
    middle = np.round(np.asarray(middle) * 16).astype(int).tolist()
    cv2.circle(image, middle, int(radius * 16), _rgb(colour), -1, cv2.LINE_AA, 4)
