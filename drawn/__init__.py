"""People drawn and voices synthesised by code, whose feelings are known: subjects of a corpus that anyone can make.

One model makes a recording, in this order; `people.World` names its parameters and gives their reasons.

    feelings   arousal and valence are smooth random processes                                      people.feel
    speech     phrases, syllables, pauses; arousal makes them louder, higher, brighter, faster      voices.speak
    sound      harmonics, formants and noise                                                        voices.synthesise
    face       facial actions = resting face + feelings + talking + moments without meaning         motion.act
    head       turns, nods and sways, light changes, the subject leaves the picture at times        motion.move
    picture    a shaded, textured head in front of a room                                           faces.Painter
    ratings    several raters trace the feelings late, smoothly and noisily; their mean             people.rate

Everything comes from a seed: the same seed gives the same subjects, and nobody's face or voice is used.
"""
import numpy as np
from scipy.ndimage import gaussian_filter1d

FRAME_RATE = 25  # frames and ratings per second, as in RECOLA
WIDTH, HEIGHT = 320, 240  # of a frame, pixels


def smooth_noise(rng, rows, length, width):
    """Gaussian processes of unit variance, smoothed by a Gaussian kernel of `width` samples: (rows, length)."""
    pad = int(4 * width) + 1
    noise = gaussian_filter1d(rng.standard_normal((rows, length + 2 * pad)), width)[:, pad:pad + length]
    return noise * np.sqrt(2 * np.sqrt(np.pi) * width)
