"""How loud a sound is in a few bands, in time: what is measured of it without a network.

E moments, B bands.
"""
import numpy as np

from support.sound import read_sound

RATE = 8000  # samples per second: what even low bit rates and telephones keep
EDGES = (100, 400, 900, 1800, 3400)  # Hz
BANDS = len(EDGES) - 1
WINDOW_S = 0.1
PER_S = 10  # moments per second
FLOOR = 1e-12  # mean square of full scale below which all is silence: -120 dB
PIECE = 4096  # moments transformed at once


def band_levels(samples, per_s=PER_S):
    """(E, B) dB of full scale in each band: samples (n,) int16 at RATE.

    Moment j is that of WINDOW_S from j / per_s on.
    """
    length, step = round(WINDOW_S * RATE), RATE // per_s
    if len(samples) < length:
        return np.empty((0, BANDS))
    windows = np.lib.stride_tricks.sliding_window_view(samples, length)[::step]
    taper = np.hanning(length).astype(np.float32)
    taper /= 2**15 * np.sqrt((taper ** 2).sum() * length / 2)
    places = np.searchsorted(np.fft.rfftfreq(length, 1 / RATE), EDGES)
    levels = []
    for first in range(0, len(windows), PIECE):
        power = np.abs(np.fft.rfft(windows[first:first + PIECE] * taper, axis=1)) ** 2
        bands = np.add.reduceat(power, places, axis=1)[:, :BANDS]
        levels.append(10 * np.log10(bands + FLOOR))
    return np.concatenate(levels)


def total_levels(levels):
    """(E,) dB of all bands together: (E, B)."""
    return 10 * np.log10((10 ** (levels / 10)).sum(axis=1))


def samples_of(path, start_s=None, channel=0, most_s=np.inf, remarks=None):
    """(n,) int16 at RATE: the sound of a file, or its first `most_s` seconds. Words and errors are read_sound's."""
    blocks, count = [], 0
    sound = read_sound(path, RATE, start_s, channel, remarks)
    for block in sound:
        blocks.append(block)
        count += len(block)
        if count >= most_s * RATE:
            sound.close()
            break
    samples = np.concatenate(blocks) if blocks else np.empty(0, np.int16)
    return samples[:int(min(count, most_s * RATE))]
