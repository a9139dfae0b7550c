"""Voices: speech steered by feelings, and its sound. A source of harmonics, three formants, and noise (Klatt, 1980)."""
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from drawn import FRAME_RATE, smooth_noise

SOUND_RATE = 16000  # samples per second
CONTROL_RATE = 200  # values per second that steer the voice, one for every 80 samples
VOWELS = np.array([[730, 1090, 2440], [530, 1840, 2480], [270, 2290, 3010],  # Hz: formants of a as in father, e, i,
                   [570, 840, 2410], [300, 870, 2240], [490, 1350, 1690]])  # o, u, er
VOWEL_OPENING = np.array([1.0, 0.6, 0.3, 0.8, 0.35, 0.55])  # of the mouth
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
        pause_s = voice.pause_s * np.exp(-world.pause_share * arousal[min(now, length - 1)])
        now += max(1, int(pause_s * rng.gamma(3, 1 / 3) * CONTROL_RATE))

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
    # sin((h + 1) p) = 2 cos(p) sin(h p) - sin((h - 1) p)
    double_cos, before, wave = 2 * np.cos(phase), np.zeros_like(phase), np.sin(phase)
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
