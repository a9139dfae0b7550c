"""Subjects from a seed: what they feel, how it is rated, and their recordings in the form in which a corpus ships.

    python -m drawn.people people.png       draws a sheet of them
"""
import itertools
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from scipy.ndimage import gaussian_filter1d, shift

from drawn import FRAME_RATE, WIDTH, smooth_noise
from drawn.faces import Look, Painter
from drawn.motion import Manner, Motion, act, move
from drawn.voices import SOUND_RATE, Voice, speak, synthesise
from support.files import whole_file
from support.opencv import cv2


@dataclass(frozen=True)
class World:
    """Parameters of the model. A unit of feeling is one standard deviation over time; of action, a full display."""
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
    face_gain: float = 1.2  # display of one unit of feeling: a brow then moves by a pixel of a 48 px crop, just visible
    face_noise: float = 0.5  # moments that mean nothing: looking, listening, a twitch
    face_noise_s: float = 1.0  # they are shorter than feelings
    rest_spread: float = 0.4  # resting faces look glad, stern or tired: identity looks like feeling
    style_spread: float = 0.3  # some show all with the brows, some nothing: everyone's own version of SHOWN
    blinks_per_s: float = 0.3  # people blink 15 to 20 times a minute
    leaves_per_minute: float = 1.0  # the face is out of the picture for a second or two

    # Voices: arousal is plain to hear, louder, higher, brighter, faster, fewer pauses; valence less (Scherer, 2003)
    loudness_db: float = 6.0  # per unit of arousal: from calm to excited (4 units) 24 dB, from murmuring to calling out
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

def feel(rng, frames, world):
    """Arousal and valence in units of feeling (mean 0, spread 1): (2, frames)."""
    arousal, other = smooth_noise(rng, 2, frames, world.mood_s * FRAME_RATE)
    return np.stack([arousal, world.together * arousal + np.sqrt(1 - world.together**2) * other])


def rate(rng, feelings, world):
    """The gold standard, mean of the raters' traces: feelings (2, T) -> arousal, valence in [-1, 1] (T, 2)."""
    traces = []
    for _ in range(world.raters):
        lag = max(0.2, rng.normal(world.delay_s, world.delay_spread_s)) * FRAME_RATE
        late = shift(feelings, (0, lag), order=1, mode="nearest")
        seen = gaussian_filter1d(late, world.rater_smoothing_s * FRAME_RATE)
        error = world.rater_noise * smooth_noise(rng, 2, feelings.shape[1], FRAME_RATE)
        scale, zero = rng.normal((1, 0), world.rater_spread, (2, 2)).T
        traces.append(seen * scale[:, None] + error + zero[:, None])
    mean, spread = (world.arousal_mean, world.valence_mean), (world.arousal_std, world.valence_std)
    return np.clip(np.mean(traces, axis=0).T * spread + mean, -1, 1)


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
        face_rng, voice_rng, mind_rng = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
        before = 10 * FRAME_RATE  # raters lag: they need to have seen what came before
        feelings = feel(mind_rng, before + frames + 1, world)
        gold = rate(mind_rng, feelings, world)[before:]
        feelings = feelings[:, before:-1]
        voice = Voice.draw(voice_rng, world)
        speech = speak(voice_rng, voice, feelings, world)
        opening = speech.opening.reshape(frames, -1).mean(1)
        look, manner = Look.draw(face_rng), Manner.draw(face_rng, world)
        return cls(painter=Painter(face_rng, look), actions=act(face_rng, manner, feelings, opening, world),
                   motion=move(face_rng, manner, opening, world), sound=synthesise(voice_rng, speech, voice),
                   feelings=feelings, gold=gold)

    def frames(self, step=1):
        """Yields every picture, or every `step`-th, (HEIGHT, WIDTH, 3) uint8 RGB."""
        return self.painter.frames(self.actions, self.motion, range(0, len(self.motion.x), step))

    def in_picture(self):
        """Frames in which the whole face is in the picture: (T,) bool."""
        half = self.painter.look.scale * self.painter.look.width
        return (self.motion.x > half) & (self.motion.x < WIDTH - half)


# cpu-independent: else x264 makes other bytes of the same pictures now and then on processors with AVX-512, and others
# on each kind of processor
X264 = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": "cpu-independent=1"}
QUICK_X264, QUICK_AAC = X264 | {"preset": "ultrafast"}, {"aac_coder": "fast"}  # four times as fast, twice the bytes


def write_video(path, frames, sound=None, frame_rate=FRAME_RATE, quick=False):
    """An H.264 video of RGB frames, with an AAC sound track of float32 samples at SOUND_RATE if there is sound."""
    with whole_file(path) as part, av.open(str(part), "w") as container:
        frames = iter(frames)
        first = next(frames)
        pictures = container.add_stream("libx264", rate=frame_rate, options=QUICK_X264 if quick else X264)
        pictures.height, pictures.width, pictures.pix_fmt = *first.shape[:2], "yuv420p"
        aac = dict(rate=SOUND_RATE, layout="mono", options=QUICK_AAC if quick else {})
        track = container.add_stream("aac", **aac) if sound is not None else None
        for rgb in itertools.chain([first], frames):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(pictures.encode())
        if track:
            block = av.AudioFrame.from_ndarray(np.asarray(sound, np.float32)[None], format="fltp", layout="mono")
            block.sample_rate, block.pts = SOUND_RATE, 0  # without a time stamp the encoder's delay of 64 ms is unknown
            container.mux(track.encode(block))
            container.mux(track.encode())


def write_recording(data_dir, name, recording, rated=True, step=1, quick=False):
    """Writes a recording as a corpus ships: its video, its sound, and if it is rated its gold standard, in this order.

    step: every n-th frame and rating is written; of 25 per second neighbours are almost the same.
    quick: a video that is quicker to write, and larger.
    """
    video, rate = Path(data_dir, "videos", f"{name}.mp4"), Fraction(FRAME_RATE, step)
    write_video(video, recording.frames(step), recording.sound, rate, quick)
    with whole_file(Path(data_dir, "audio", f"{name}.wav")) as part:
        soundfile.write(part, recording.sound, SOUND_RATE, subtype="PCM_16")
    if not rated:
        return
    with whole_file(Path(data_dir, "ratings_gold_standard", f"{name}.csv")) as part:
        part.write_text("".join(f"{arousal:.4f};{valence:.4f}\n" for arousal, valence in recording.gold[::step]))


def sheet(seed, rows=4, columns=6):
    """Pictures of `rows` people, `columns` moments of each: one (H, W, 3) uint8 RGB picture."""
    subjects = [Recording.draw((seed, number), columns * FRAME_RATE) for number in range(rows)]
    return np.vstack([np.hstack(list(one.frames(FRAME_RATE))) for one in subjects])


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    cv2.imwrite(sys.argv[1], sheet(0)[..., ::-1])
    print(f"{sys.argv[1]}: a sheet of drawn people")
