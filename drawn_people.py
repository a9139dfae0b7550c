"""A corpus of people who do not exist: faces drawn and voices synthesised by code, whose feelings are known.

One model makes a recording, in this order; `World` names its parameters and gives their reasons.

    feelings   arousal and valence are smooth random processes                                  feel
    speech     phrases, syllables, pauses; arousal makes them louder, higher, brighter, faster  speak, synthesise
    face       facial actions = resting face + feelings + talking + moments without meaning     act
    head       turns, nods and sways, light changes, the person leaves the picture at times     move
    picture    a shaded, textured head in front of a room                                       Painter
    ratings    several raters trace the feelings late, smoothly and noisily; their mean         rate

    python drawn_people.py people.png       draws a sheet of them

Everything comes from a seed: the same seed gives the same people, and nobody's face or voice is used.
"""
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile
from scipy.ndimage import gaussian_filter, gaussian_filter1d, shift

from support.files import whole_file

FRAME_RATE = 25  # pictures and ratings per second, as in RECOLA
SOUND_RATE = 16000  # samples per second
CONTROL_RATE = 200  # values per second that steer the voice, one for every 80 samples
WIDTH, HEIGHT = 320, 240  # of the pictures

# Facial actions (FACS action units 12/15, 1+2, 4, 5, 6, 26), and what each shows of (arousal, valence): smiles and
# cheeks go with valence and lowered brows against it; raised brows and lids and an open mouth go with arousal.
ACTIONS = ["smile", "brow_raise", "brow_lower", "lid_raise", "cheek_raise", "jaw_drop"]
SHOWN = np.array([[0.1, 1.0], [0.7, 0.0], [0.2, -0.7], [0.8, 0.0], [0.0, 0.7], [0.4, 0.0]])


@dataclass(frozen=True)
class World:
    """Parameters of the model. A unit of feeling is one standard deviation over time; a unit of action a full display."""
    # Feelings. RECOLA's spread; and its pace: its gold standard scores .75 against itself 2.4 s later, a Gaussian
    # process with a kernel of 2.2 s exp(-2.4**2 / (4 * 2.2**2)) = .74
    mood_s: float = 2.2  # width of the kernel
    arousal_mean: float = 0.0  # this and the next three: RECOLA's, rounded
    arousal_std: float = 0.19
    valence_mean: float = 0.1
    valence_std: float = 0.14
    together: float = 0.2  # correlation of the two: excitement is more often glad than not

    # Raters: six, as in RECOLA. People need time to see, to decide and to move the slider
    raters: int = 6
    delay_s: float = 1.6  # mean lag; with the smoothing, what AVEC's participants found for RECOLA: 2 s and more
    delay_spread_s: float = 0.3  # from rater to rater
    rater_smoothing_s: float = 0.4  # a hand moves smoothly
    rater_noise: float = 0.5  # slow errors of one rater; their mean has a root of six less
    rater_spread: float = 0.2  # of a rater's scale and zero: they do not use the slider alike

    # Faces: feelings are a part of what a face does, and the same feeling looks different on everyone
    face_gain: float = 1.2  # display of one unit of feeling: a brow then moves by a pixel of a 48 px crop, enough to be seen at all
    face_noise: float = 0.5  # moments that mean nothing: looking, listening, a twitch
    face_noise_s: float = 1.0  # they are shorter than feelings
    rest_spread: float = 0.4  # resting faces look glad, stern or tired: identity looks like feeling
    style_spread: float = 0.3  # some show all with the brows, some nothing: everyone's own version of SHOWN
    blinks_per_s: float = 0.3  # people blink 15 to 20 times a minute
    leaves_per_minute: float = 1.0  # the face is out of the picture for a second or two

    # Voices: arousal is plain to hear, louder, higher, brighter, faster, with fewer pauses; valence less (Scherer, 2003)
    loudness_db: float = 6.0  # per unit of arousal: from calm to excited (4 units) some 24 dB, from murmuring to calling out
    pitch_semitones: float = 3.0  # per unit of arousal: an octave from calm to excited
    tilt_db: float = 3.0  # per octave and unit of arousal: effort flattens the spectrum
    rate_share: float = 0.15  # faster syllables per unit of arousal
    pause_share: float = 0.5  # shorter pauses per unit of arousal
    smile_share: float = 0.05  # higher formants per unit of valence: a smile shortens the vocal tract
    melody_share: float = 0.5  # wider intonation per unit of valence
    voice_noise: float = 0.3  # moments that mean nothing, in units of feeling
    voice_noise_s: float = 1.0  # they are shorter than feelings
    voice_spread: float = 0.2  # people differ in how much of it they let be heard
    level_spread_db: float = 1.5  # and sit nearer to or farther from the microphone


# ---- feelings and ratings -------------------------------------------------------------------------------------------

def smooth_noise(rng, rows, length, width):
    """Gaussian processes of unit variance, smoothed by a Gaussian kernel of `width` samples: (rows, length)."""
    pad = int(4 * width) + 1
    noise = gaussian_filter1d(rng.standard_normal((rows, length + 2 * pad)), width)[:, pad:pad + length]
    return noise * np.sqrt(2 * np.sqrt(np.pi) * width)


def feel(rng, frames, world):
    """Arousal and valence in units of feeling (mean 0, spread 1): (2, frames)."""
    arousal, other = smooth_noise(rng, 2, frames, world.mood_s * FRAME_RATE)
    return np.stack([arousal, world.together * arousal + np.sqrt(1 - world.together**2) * other])


def rate(rng, feelings, world):
    """The gold standard, mean of the raters' traces: feelings (2, T) -> arousal, valence in [-1, 1] (T, 2)."""
    traces = []
    for _ in range(world.raters):
        lag = max(0.2, rng.normal(world.delay_s, world.delay_spread_s)) * FRAME_RATE
        seen = gaussian_filter1d(shift(feelings, (0, lag), order=1, mode="nearest"), world.rater_smoothing_s * FRAME_RATE)
        error = world.rater_noise * smooth_noise(rng, 2, feelings.shape[1], FRAME_RATE)
        scale, zero = rng.normal((1, 0), world.rater_spread, (2, 2)).T
        traces.append(seen * scale[:, None] + error + zero[:, None])
    mean, spread = (world.arousal_mean, world.valence_mean), (world.arousal_std, world.valence_std)
    return np.clip(np.mean(traces, axis=0).T * spread + mean, -1, 1)


# ---- voices ---------------------------------------------------------------------------------------------------------

VOWELS = np.array([[730, 1090, 2440], [530, 1840, 2480], [270, 2290, 3010], [570, 840, 2410], [300, 870, 2240], [490, 1350, 1690]])
VOWEL_OPENING = np.array([1.0, 0.6, 0.3, 0.8, 0.35, 0.55])  # of the mouth, for a as in father, e, i, o, u, er
BANDWIDTHS = np.array([80, 110, 160])  # Hz, of the formants above (Peterson & Barney, 1952)


@dataclass
class Voice:
    pitch_hz: float
    tract: float  # formants times this: short people's are higher
    syllables_per_s: float
    pause_s: float
    tilt_db: float  # per octave: 12 down at the source, 6 up at the lips (Klatt, 1980)
    level_db: float
    breath: float
    shown: np.ndarray  # (2,) how much of arousal and valence is heard

    @classmethod
    def draw(cls, rng, world):
        high = rng.random() < 0.5
        return cls(pitch_hz=rng.uniform(165, 235) if high else rng.uniform(90, 140),
                   tract=rng.uniform(1.08, 1.2) if high else rng.uniform(0.95, 1.06),
                   syllables_per_s=rng.uniform(3.8, 5.0), pause_s=rng.uniform(0.5, 1.0), tilt_db=rng.uniform(-8, -4),
                   level_db=rng.normal(-30, world.level_spread_db), breath=rng.uniform(0.01, 0.04),
                   shown=np.clip(rng.normal(1, world.voice_spread, 2), 0.2, None))


@dataclass
class Speech:
    """What steers the voice, CONTROL_RATE values per second: each (S,), formants (3, S)."""
    voiced: np.ndarray  # amplitude of the vowels, 0 in pauses
    hiss: np.ndarray  # amplitude of the consonants
    opening: np.ndarray  # of the mouth, 0 to 1
    formants: np.ndarray  # Hz
    pitch: np.ndarray  # Hz
    tilt: np.ndarray  # dB per octave
    loudness: np.ndarray  # dB


def speak(rng, voice, feelings, world):
    """Speech under `feelings` (2, T): phrases of syllables and pauses between them."""
    length = feelings.shape[1] * CONTROL_RATE // FRAME_RATE
    heard = feelings + world.voice_noise * smooth_noise(rng, 2, feelings.shape[1], world.voice_noise_s * FRAME_RATE)
    at = (np.arange(length) + 0.5) / CONTROL_RATE * FRAME_RATE - 0.5
    arousal, valence = (np.interp(at, np.arange(feelings.shape[1]), row) for row in heard * voice.shown[:, None])

    voiced, hiss, opening = np.zeros((3, length))
    formants = np.repeat(VOWELS.mean(0)[:, None], length, 1)
    now = int(rng.uniform(0, 1) * CONTROL_RATE)
    while now < length:
        phrase_end = now + rng.gamma(6, 0.4) * CONTROL_RATE
        while now < min(phrase_end, length):
            rate_now = voice.syllables_per_s * np.exp(world.rate_share * arousal[now])
            n = int(CONTROL_RATE / rate_now * rng.uniform(0.8, 1.25))
            vowel, stress, onset = rng.integers(len(VOWELS)), rng.uniform(0.6, 1), int(n * rng.uniform(0.15, 0.3))
            inside = slice(now, min(now + n, length))
            bump = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 0.7)[:inside.stop - now]
            voiced[inside] = stress * bump
            opening[inside] = VOWEL_OPENING[vowel] * stress * bump
            hiss[now:min(now + onset, length)] = rng.choice([0, 0.3, 0.8])
            formants[:, inside] = VOWELS[vowel][:, None]
            now += n
        now += max(1, int(voice.pause_s * np.exp(-world.pause_share * arousal[min(now, length - 1)]) * rng.gamma(3, 1 / 3) * CONTROL_RATE))

    smooth = lambda values, seconds: gaussian_filter1d(values, seconds * CONTROL_RATE)  # the tongue has a mass
    melody = smooth_noise(rng, 1, length, 0.12 * CONTROL_RATE)[0] * 1.5 * np.exp(world.melody_share * valence)
    return Speech(voiced=smooth(voiced, 0.01), hiss=smooth(hiss, 0.008), opening=smooth(opening, 0.03),
                  formants=smooth(formants, 0.02) * voice.tract * np.exp(world.smile_share * valence),
                  pitch=voice.pitch_hz * 2 ** ((world.pitch_semitones * arousal + melody) / 12),
                  tilt=voice.tilt_db + world.tilt_db * arousal, loudness=voice.level_db + world.loudness_db * arousal)


def synthesise(rng, speech, voice):
    """Sound of a speech: (S * 80,) float32 in [-1, 1] at SOUND_RATE. A sum of harmonics, each as strong as the
    formants let it be (Klatt, 1980, in its additive form), and noise for breath and consonants."""
    per_control = SOUND_RATE // CONTROL_RATE
    ramp = (np.arange(per_control) + 0.5) / per_control
    fine = lambda values: (values[:, None] + np.diff(values, append=values[-1])[:, None] * ramp).ravel()
    phase = 2 * np.pi * np.cumsum(fine(speech.pitch)) / SOUND_RATE
    double_cos, before, wave = 2 * np.cos(phase), np.zeros_like(phase), np.sin(phase)  # sin((h+1)p) = 2 cos(p) sin(hp) - sin((h-1)p)
    sound = np.zeros_like(phase)
    for harmonic in range(1, int(5000 / speech.pitch.min()) + 1):
        frequency = harmonic * speech.pitch
        strength = 10 ** (speech.tilt * np.log2(frequency / 100) / 20) * (frequency < 5000)
        for formant, width in zip(speech.formants, BANDWIDTHS):
            strength *= formant**2 / np.hypot(formant**2 - frequency**2, width * frequency)
        sound += fine(strength * speech.voiced) * wave
        wave, before = double_cos * wave - before, wave
    sound /= np.sqrt(np.mean(sound**2)) + 1e-9
    noise = rng.standard_normal(len(sound))
    sound += fine(speech.hiss) * 0.5 * np.diff(noise, prepend=0) + fine(speech.voiced) * voice.breath * noise
    sound *= 10 ** (fine(speech.loudness) / 20)
    return np.clip(sound + 1e-3 * rng.standard_normal(len(sound)), -0.98, 0.98).astype(np.float32)


# ---- faces: what they do --------------------------------------------------------------------------------------------

@dataclass
class Manner:
    """How a person shows feelings, and moves."""
    rest: np.ndarray  # (6,) the resting face, in units of action
    shown: np.ndarray  # (6, 2) everyone's own version of SHOWN
    talk: float  # how far the mouth opens in speech
    liveliness: float  # of the head

    @classmethod
    def draw(cls, rng, world):
        own = SHOWN * (1 + world.style_spread * rng.standard_normal(SHOWN.shape)) + 0.3 * world.style_spread * rng.standard_normal(SHOWN.shape)
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
                  gaze_x=np.round(smooth_noise(rng, 1, frames, 0.3 * FRAME_RATE)[0]) * 0.35, gaze_y=smooth_noise(rng, 1, frames, 20)[0] * 0.2,
                  lids=lids, light=1 + 0.10 * smooth_noise(rng, 1, frames, 4 * FRAME_RATE)[0],
                  light_from=rng.uniform(-0.7, 0.7) + 0.15 * smooth_noise(rng, 1, frames, 4 * FRAME_RATE)[0])


def _absence(rng, frames, world):
    """How far the head is out of the picture, in picture widths: 0 but for a second or two now and then. (T,)"""
    away, half = np.zeros(frames), FRAME_RATE // 2
    for start in np.flatnonzero(rng.random(frames) < world.leaves_per_minute / 60 / FRAME_RATE):
        stay = int(rng.uniform(0.4, 1.6) * FRAME_RATE)
        there_and_back = np.concatenate([np.linspace(0, 1, half), np.ones(stay), np.linspace(1, 0, half)]) ** 2 * rng.choice([-0.8, 0.8])
        end = min(frames, start + len(there_and_back))
        away[start:end] = there_and_back[:end - start]
    return away


# ---- faces: how they look -------------------------------------------------------------------------------------------

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
        return cls(skin=skin, hair=HAIRS[rng.integers(2 if dark else len(HAIRS))] * uniform(0.85, 1.15),
                   iris=IRISES[rng.integers(2 if dark else len(IRISES))],
                   shirt=uniform(40, 200) + uniform(-40, 40, 3), scale=uniform(50, 60), width=uniform(0.70, 0.80), jaw=uniform(1.9, 3.0),
                   eye_x=uniform(0.29, 0.335), eye_y=uniform(-0.13, -0.07), eye_w=uniform(0.135, 0.165), eye_h=uniform(0.062, 0.085),
                   brow_y=uniform(0.155, 0.20), brow_h=uniform(0.022, 0.045), brow_arch=uniform(0.01, 0.05), nose_y=uniform(0.25, 0.31),
                   nose_w=uniform(0.11, 0.16), mouth_y=uniform(0.52, 0.58), mouth_w=uniform(0.23, 0.30), upper_lip=uniform(0.035, 0.06),
                   lower_lip=uniform(0.05, 0.08), hairline=uniform(0.50, 0.72), parting=uniform(-0.4, 0.4), hair_top=uniform(1.12, 1.25),
                   long_hair=not beard and rng.random() < 0.55, beard=beard, glasses=rng.random() < 0.3)

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
        tint(_blob(x, y, side * look.nose_w * 0.75, look.nose_y - 0.12, 0.05, 0.2), skin * 0.7, 0.45)  # sides of the nose
        tint(_blob(x, y, side * look.nose_w * 0.8, look.nose_y + 0.02, 0.04, 0.05), skin * 0.6, 0.6)  # its wings
    tint(_blob(x, y, 0, look.nose_y - 0.2, 0.05, 0.25), skin * 1.2, 0.5)  # its back
    tint(_blob(x, y, 0, look.nose_y - 0.02, 0.08, 0.06), skin * 1.22, 0.6)  # its tip
    tint(_blob(x, y, 0, look.nose_y + 0.085, 0.12, 0.03), skin * 0.5, 0.65)  # its shadow
    tint(_blob(x, y, 0, look.mouth_y + 0.17, 0.14, 0.04), skin * 0.65, 0.5)  # the lower lip's shadow
    tint(_blob(x, y, 0, 0.86, 0.16, 0.1), skin * 1.1, 0.4)  # chin
    tint(_blob(x, y, 0, -0.5, 0.4, 0.2), skin * 1.08, 0.4)  # forehead
    if look.beard:
        cheeks = np.clip((y - (0.30 + 0.25 * (1 - np.abs(u)) ** 0.6)) * 9, 0, 1)
        moustache = _blob(x, y, 0, look.nose_y + 0.14, 0.22, 0.035) * 0.9
        tint(np.clip(cheeks + moustache, 0, 1) * np.clip(0.8 + 0.35 * smooth_image(rng, 1), 0, 1), look.hair * 1.05, 0.85)
    line = -look.hairline + 0.12 * u**2 + 0.05 * np.sin((u - look.parting) * 3)
    temples = np.clip((np.abs(u) - 0.93 + 0.25 * np.clip(y, -1, 0.2)) * 8, 0, 1) * (y < 0.25)
    tint(np.maximum(np.clip((line - y) * 14, 0, 1), temples), look.hair * (1 + 0.2 * smooth_image(rng, (8, 0.8))[..., None]), 1)
    return np.clip(layer, 0, 255).astype(np.float32)


def smooth_image(rng, width):
    """(TEXTURE, TEXTURE) noise of unit variance, blurred by `width` pixels."""
    image = gaussian_filter(rng.standard_normal((TEXTURE, TEXTURE)), width)
    return image / image.std()


def hair_outline(look):
    """Where hair is seen beside and above the face: canvas mask, 0 to 1."""
    width = look.width * 1.16
    crown = np.clip((1 - np.hypot(CANVAS_X / width, (CANVAS_Y + 0.12) / (look.hair_top - 0.12))) * UNIT * 0.6 + 0.5, 0, 1)
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
        cv2.circle(image, rng.integers((0, 0), (WIDTH, HEIGHT)).tolist(), int(rng.integers(8, 30)), muted().tolist(), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 2.2)


def turn_of(motion, k):
    """Rotation of the head in frame k, from its own axes to the viewer's: (3, 3)."""
    cos_y, sin_y, cos_p, sin_p = np.cos(motion.yaw[k]), np.sin(motion.yaw[k]), np.cos(motion.pitch[k]), np.sin(motion.pitch[k])
    return np.array([[cos_y, 0, sin_y], [sin_y * sin_p, cos_p, -cos_y * sin_p], [-sin_y * cos_p, sin_p, cos_y * cos_p]])


def place_on_head(look, turn, x, y, lift=0.0):
    """Head coordinates (n,), (n,), `lift` above the sphere -> pixels of the canvas (n, 2), for a head turned by `turn`."""
    x, y = np.broadcast_arrays(x, y)
    u = x / look.width
    seen_x, seen_y, _ = turn @ np.stack([u, y, np.sqrt(np.clip(1 - u**2 - y**2, 0.02, 1)) + lift])
    flat = np.clip(seen_y, -0.98, 0.98)
    seen_x = seen_x / np.sqrt(1 - flat**2) * look.half_width(flat)  # from the sphere to the outline of this face
    return np.stack([(seen_x + HALF_W) * UNIT - 0.5, (seen_y + HALF_H) * UNIT - 0.5], -1)


class Painter:
    """Paints one person, frame by frame."""

    def __init__(self, rng, look):
        self.look = look
        self.room = room(rng)
        self.grain = rng.normal(0, 2.5, (8, HEIGHT, WIDTH, 3)).astype(np.float32)  # the camera's noise
        self.texture = skin_texture(rng, look)
        width = look.half_width(CANVAS_Y)
        inside = np.minimum(width - np.abs(CANVAS_X), 0.9 * (1 - np.abs(CANVAS_Y))) * UNIT
        self.face = np.clip(inside + 0.5, 0, 1).astype(np.float32)[..., None]
        ears = [np.clip((1 - np.hypot((CANVAS_X - side * look.width) / 0.10, (CANVAS_Y - 0.02) / 0.2)) * 8, 0, 1) for side in (-1, 1)]
        hair, ears = hair_outline(look), np.maximum(*ears)
        self.outline = np.maximum.reduce([hair, ears, self.face[..., 0]]).astype(np.float32)
        shade = 1 - 0.25 * np.clip(np.hypot(CANVAS_X, CANVAS_Y + 0.3), 0, 1.2)[..., None]
        self.behind = (look.hair * 0.75 * shade * (1 - ears[..., None]) + look.skin * 0.8 * ears[..., None]).astype(np.float32)
        # the sphere under the canvas, seen from the front: unit vectors
        y = np.clip(CANVAS_Y, -1, 1)
        x = np.clip(CANVAS_X / np.maximum(width, 1e-3), -1, 1) * np.sqrt(1 - y**2)
        self.sphere = np.stack([x, y, np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))], -1).astype(np.float32)

    def paint(self, actions, motion, k):
        """Frame k, (HEIGHT, WIDTH, 3) uint8 RGB, of the actions (6, T)."""
        image = self.room.copy()
        self._paint_body(image, motion.x[k], motion.y[k])
        canvas = self._paint_head(dict(zip(ACTIONS, actions[:, k])), motion, k)
        matrix = self._canvas_to_picture(motion, k)
        head = cv2.warpAffine(canvas, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = cv2.warpAffine(self.outline, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)[..., None]
        image = image + (head.astype(np.float32) - image) * mask
        image = cv2.GaussianBlur(image, (0, 0), 0.6) * np.float32(motion.light[k]) + self.grain[k * 5 % len(self.grain)]
        return np.clip(image, 0, 255).astype(np.uint8)

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

    def _paint_body(self, image, x, y):
        look, unit = self.look, self.look.scale
        middle = WIDTH / 2 + (x - WIDTH / 2) * 0.75
        neck = [[x - 0.36 * unit, y + 0.6 * unit], [x + 0.36 * unit, y + 0.6 * unit],
                [middle + 0.42 * unit, y + 1.5 * unit], [middle - 0.42 * unit, y + 1.5 * unit]]
        angle = np.linspace(np.pi, 2 * np.pi, 25)
        shoulders = np.stack([middle + np.cos(angle) * 1.75 * unit, y + (1.95 + np.sin(angle) * 0.75) * unit], 1)
        _fill(image, np.array(neck), look.skin * 0.62)
        _fill(image, np.concatenate([shoulders, [[middle + 1.75 * unit, HEIGHT + 40], [middle - 1.75 * unit, HEIGHT + 40]]]), look.shirt)

    def _paint_head(self, actions, motion, k):
        turn, side = turn_of(motion, k), motion.light_from[k]
        looked_up = ((self.sphere @ turn.astype(np.float32))[..., :2] + 1) * (TEXTURE / 2) - 0.5  # texture under each pixel
        skin = cv2.remap(self.texture, looked_up, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        light = np.array([np.sin(side) * 0.9, -0.35, np.cos(side) * 0.9], np.float32)
        shade = (0.55 + 0.5 * np.clip(self.sphere @ light, 0, None)) * (0.75 + 0.25 * np.sqrt(self.sphere[..., 2]))
        canvas = self.behind + (skin * shade[..., None] - self.behind) * self.face
        canvas = np.clip(canvas, 0, 255).astype(np.uint8)
        _Features(self.look, canvas, turn, actions).paint(motion.gaze_x[k], motion.gaze_y[k], motion.lids[k])
        return canvas


class _Features:
    """Eyes, brows, nose and mouth of one frame, painted on the canvas of a head turned by `turn`."""

    def __init__(self, look, canvas, turn, actions):
        self.look, self.canvas, self.turn, self.actions = look, canvas, turn, actions

    def place(self, x, y, lift=0.0):
        return place_on_head(self.look, self.turn, x, y, lift)

    def paint(self, gaze_x, gaze_y, lids):
        for side in (-1, 1):
            self._eye(side, gaze_x, gaze_y, lids)
            self._brow(side)
            nostril = self.place(side * self.look.nose_w * 0.45, self.look.nose_y + 0.06, 0.18)
            oval = (nostril.tolist(), (self.look.nose_w * 0.42 * UNIT, 0.04 * UNIT), -15 * side)
            cv2.ellipse(self.canvas, oval, _rgb(self.look.skin * 0.3), -1, cv2.LINE_AA)
        self._mouth()
        if self.look.glasses:
            self._glasses()

    def _eye(self, side, gaze_x, gaze_y, lids):
        look, t = self.look, np.linspace(-1, 1, 17)
        open_share = np.clip(1 + 0.45 * self.actions["lid_raise"], 0.25, 1.7) * (1 - lids)
        squint = 0.55 - 0.35 * np.clip(self.actions["cheek_raise"], -0.5, 1.2)
        x = side * look.eye_x + t * look.eye_w
        top = look.eye_y - look.eye_h * open_share * (1 - t**2) ** 0.6
        bottom = np.maximum(top, look.eye_y + look.eye_h * squint * (1 - 0.6 * lids) * (1 - t**2) ** 0.8)
        upper, lower = self.place(x, top, 0.02), self.place(x, bottom, 0.02)
        if open_share > 0.12:
            pupil = self.place(side * look.eye_x + gaze_x * look.eye_w * 0.35, look.eye_y - 0.01 + gaze_y * 0.02, 0.02)
            self._eyeball(np.concatenate([upper, lower[::-1]]), pupil)
        _stroke(self.canvas, upper, look.skin * 0.18, 2)
        _stroke(self.canvas, lower, look.skin * 0.55, 1)
        crease = top - 0.045 - 0.02 * np.clip(self.actions["brow_raise"], 0, 1)
        _stroke(self.canvas, self.place(x, crease, 0.02)[3:-3], look.skin * 0.62, 1)

    def _eyeball(self, outline, pupil):
        (left, upper), (right, lower) = np.floor(outline.min(0)).astype(int) - 3, np.ceil(outline.max(0)).astype(int) + 4
        patch = self.canvas[upper:lower, left:right]
        ball, mask, origin = np.full_like(patch, 224), np.zeros(patch.shape[:2], np.uint8), (left, upper)
        _fill(mask, outline - origin, [255])
        for radius, colour in ((0.062, self.look.iris), (0.031, np.array([12, 10, 10]))):
            _disc(ball, pupil - origin, radius * UNIT, colour)
        _disc(ball, pupil - origin - (1.5, 1.8), 1.1, np.array([240, 240, 240]))
        ball[:len(ball) * 3 // 10] = ball[:len(ball) * 3 // 10] * 0.8  # the lid's shadow
        patch[:] = patch + (ball.astype(np.float32) - patch) * (mask[..., None] / np.float32(255))

    def _brow(self, side):
        look, t = self.look, np.linspace(-1, 1, 17)
        inner = -side * t  # 1 at the nose, -1 at the temple
        lowered = self.actions["brow_lower"]
        x = side * (look.eye_x + 0.02 - 0.02 * lowered) + t * look.eye_w * 1.25
        y = look.eye_y - look.brow_y - look.brow_arch * (1 - t**2) - 0.055 * self.actions["brow_raise"] + 0.05 * lowered * (inner + 0.6) / 1.6
        half = look.brow_h * (1 + 0.35 * inner)
        _fill(self.canvas, np.concatenate([self.place(x, y - half, 0.03), self.place(x, y + half, 0.03)[::-1]]), look.hair * 0.8 + look.skin * 0.08)
        if lowered > 0.2:  # the frown between the brows
            y = np.linspace(-0.26, -0.14, 4) + look.eye_y
            _stroke(self.canvas, self.place(side * 0.05, y, 0.03), look.skin * (1 - 0.25 * min(lowered, 1)), 1)

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
        edge = lambda y, ends: self.place(x, y, 0.05)[ends:25 - ends]
        band = lambda above, below, ends=0: np.concatenate([edge(above, ends), edge(below, ends)[::-1]])
        _fill(self.canvas, band(top, bottom), look.lip)
        _fill(self.canvas, band(lower + 0.3 * (bottom - lower), lower + 0.6 * (bottom - lower), 4), look.lip * 1.12)
        if drop > 0.06:
            _fill(self.canvas, band(upper, lower), np.array([46, 18, 20]))
            _fill(self.canvas, band(upper, np.minimum(upper + 0.045, upper + 0.6 * (lower - upper)), 4), np.array([222, 216, 206]))
        _stroke(self.canvas, self.place(x, upper, 0.05), look.lip * 0.42, 1)
        if smile > 0.1:  # the folds from nose to mouth
            q = np.linspace(0, 1, 7)
            for side in (-1, 1):
                fold_x = look.nose_w * 1.15 + 0.02 + (look.mouth_w * 1.12 - look.nose_w) * q**1.2
                fold = self.place(side * fold_x, look.nose_y + 0.03 + (middle - look.nose_y - 0.06) * q, 0.05)
                _stroke(self.canvas, fold, look.skin * (1 - 0.28 * min(smile, 1)), 1)

    def _glasses(self):
        look, colour, turn = self.look, np.array([30, 28, 30]), np.linspace(0, 2 * np.pi, 25)
        for side in (-1, 1):
            _stroke(self.canvas, self.place(side * look.eye_x + np.cos(turn) * 0.21, look.eye_y + 0.02 + np.sin(turn) * 0.16, 0.08), colour, 2)
            _stroke(self.canvas, self.place(side * np.array([look.eye_x + 0.21, 0.70]), look.eye_y - np.array([0, 0.03]), 0.02), colour, 2)
        _stroke(self.canvas, self.place(np.linspace(-1, 1, 3) * (look.eye_x - 0.21), look.eye_y, 0.12), colour, 2)


def _rgb(colour):
    return np.clip(colour, 0, 255).tolist()


def _fill(image, points, colour):
    cv2.fillPoly(image, [np.round(points * 16).astype(np.int32)], _rgb(colour), cv2.LINE_AA, 4)  # 4 bits: 1/16 pixel


def _stroke(image, points, colour, thickness):
    cv2.polylines(image, [np.round(points * 16).astype(np.int32)], False, _rgb(colour), thickness, cv2.LINE_AA, 4)


def _disc(image, middle, radius, colour):
    cv2.circle(image, np.round(np.asarray(middle) * 16).astype(int).tolist(), int(radius * 16), _rgb(colour), -1, cv2.LINE_AA, 4)


# ---- recordings -----------------------------------------------------------------------------------------------------

@dataclass
class Recording:
    """One drawn recording, before it is painted."""
    painter: Painter
    actions: np.ndarray  # (6, T)
    motion: Motion
    sound: np.ndarray  # (T * 640,) float32 in [-1, 1]
    feelings: np.ndarray  # (2, T) in units of feeling
    gold: np.ndarray  # (T + 1, 2) ratings, one more than frames, as RECOLA has

    @classmethod
    def draw(cls, seed, frames, world=World()):
        """The recording of the person with this seed (an int or a sequence of ints)."""
        face_rng, voice_rng, mind_rng = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
        before = 10 * FRAME_RATE  # raters lag: they need to have seen what came before
        feelings = feel(mind_rng, before + frames + 1, world)
        gold = rate(mind_rng, feelings, world)[before:]
        feelings = feelings[:, before:-1]
        voice = Voice.draw(voice_rng, world)
        speech = speak(voice_rng, voice, feelings, world)
        opening = speech.opening.reshape(frames, -1).mean(1)
        look, manner = Look.draw(face_rng), Manner.draw(face_rng, world)
        return cls(painter=Painter(face_rng, look), actions=act(face_rng, manner, feelings, opening, world),
                   motion=move(face_rng, manner, opening, world), sound=synthesise(voice_rng, speech, voice), feelings=feelings, gold=gold)

    def frames(self):
        """Yields every picture, (HEIGHT, WIDTH, 3) uint8 RGB."""
        for k in range(len(self.motion.x)):
            yield self.painter.paint(self.actions, self.motion, k)

    def in_picture(self):
        """Frames in which the whole face is in the picture: (T,) bool."""
        half = self.painter.look.scale * self.painter.look.width
        return (self.motion.x > half) & (self.motion.x < WIDTH - half)


# On processors with AVX-512 x264 else makes other bytes of the same pictures now and then; and on each kind of processor others
X264 = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": "cpu-independent=1"}


def write_video(path, frames, sound=None, frame_rate=FRAME_RATE):
    """An H.264 video of RGB pictures, with an AAC sound track of float32 samples at SOUND_RATE if there is sound."""
    with whole_file(path) as part, av.open(str(part), "w") as container:
        frames = iter(frames)
        first = next(frames)
        pictures = container.add_stream("libx264", rate=frame_rate, options=X264)
        pictures.height, pictures.width, pictures.pix_fmt = *first.shape[:2], "yuv420p"
        track = container.add_stream("aac", rate=SOUND_RATE, layout="mono") if sound is not None else None
        for rgb in itertools.chain([first], frames):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(pictures.encode())
        if track:
            block = av.AudioFrame.from_ndarray(np.asarray(sound, np.float32)[None], format="fltp", layout="mono")
            block.sample_rate, block.pts = SOUND_RATE, 0  # with no time stamp the file would not know of the encoder's delay, 64 ms
            container.mux(track.encode(block))
            container.mux(track.encode())


def write_recording(data_dir, name, recording, rated=True):
    """One recording in the form in which a corpus ships: its video, its sound, and if it is rated its gold standard, in this order."""
    write_video(Path(data_dir, "videos", f"{name}.mp4"), recording.frames(), recording.sound)
    with whole_file(Path(data_dir, "audio", f"{name}.wav")) as part:
        soundfile.write(part, recording.sound, SOUND_RATE, subtype="PCM_16")
    if not rated:
        return
    with whole_file(Path(data_dir, "ratings_gold_standard", f"{name}.csv")) as part:
        part.write_text("".join(f"{arousal:.4f};{valence:.4f}\n" for arousal, valence in recording.gold))


def sheet(seed, rows=4, columns=6):
    """Pictures of `rows` people, `columns` moments of each: one (H, W, 3) uint8 RGB picture."""
    people = [Recording.draw((seed, number), columns * FRAME_RATE) for number in range(rows)]
    return np.vstack([np.hstack([one.painter.paint(one.actions, one.motion, k * FRAME_RATE) for k in range(columns)]) for one in people])


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    cv2.imwrite(sys.argv[1], sheet(0)[..., ::-1])
    print(f"{sys.argv[1]}: a sheet of drawn people")
