"""The drawn subjects: what shows of what they feel, and how it is rated. Each claim is measured on what comes out."""
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import find_peaks
from torchmetrics.functional.regression import concordance_corrcoef

from drawn import FRAME_RATE, HEIGHT, WIDTH, motion, people
from drawn.faces import Look, Painter, room
from drawn.motion import ACTIONS, Manner, Motion, act, move
from drawn.people import Recording, World, feel, rate, sheet, write_recording, write_video
from drawn.voices import SOUND_RATE, Voice, speak, synthesise
from faces import FaceFinder

WORLD = World()


def same(one, other):
    arrays = [(getattr(one, name), getattr(other, name)) for name in ("actions", "sound", "feelings", "gold")]
    motions = zip(vars(one.motion).values(), vars(other.motion).values())
    return all(np.array_equal(a, b) for a, b in [*arrays, *motions, *zip(one.frames(), other.frames())])


# ---- people ---------------------------------------------------------------------------------------------------------

def test_the_same_seed_draws_the_same_person_and_another_seed_another():
    assert same(Recording.draw((1, 2), 12), Recording.draw((1, 2), 12))
    for seed in ((1, 3), (2, 2), 1):
        one, other = Recording.draw((1, 2), 12), Recording.draw(seed, 12)
        assert not np.array_equal(one.sound, other.sound) and not np.array_equal(one.gold, other.gold)
        assert np.abs(next(one.frames()).astype(int) - next(other.frames())).mean() > 10


def test_the_same_seed_writes_the_same_files(tmp_path):
    for folder in ("a", "b"):
        write_recording(tmp_path / folder, "train_1", Recording.draw((1, 2), 12))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert [str(path.parent) for path in files] == ["audio", "ratings_gold_standard", "videos"]
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)


def test_people_differ_in_looks():
    looks = [Look.draw(np.random.default_rng(seed)) for seed in range(60)]
    for name in ("beard", "glasses", "long_hair"):
        assert 0.1 < np.mean([getattr(look, name) for look in looks]) < 0.9
    assert not any(look.beard and look.long_hair for look in looks)
    for name in ("width", "jaw", "scale", "eye_x", "brow_y", "brow_h", "mouth_w", "hairline", "nose_w"):
        values = [getattr(look, name) for look in looks]
        assert np.ptp(values) > 0.1 * np.mean(values)
    for name in ("skin", "hair", "shirt", "iris"):
        assert np.std([getattr(look, name).mean() for look in looks]) > 10


def test_backgrounds_differ():
    rooms = np.stack([room(np.random.default_rng(seed)) for seed in range(20)]).astype(float)
    assert np.median(rooms.std(0)) > 20


def test_voices_differ_in_pitch_and_timbre():
    voices = [Voice.draw(np.random.default_rng(seed), WORLD) for seed in range(60)]
    pitches, tracts = np.array([voice.pitch_hz for voice in voices]), np.array([voice.tract for voice in voices])
    assert pitches.min() < 110 and pitches.max() > 200 and np.corrcoef(pitches, tracts)[0, 1] > 0.7
    for name in ("syllables_per_s", "pause_s", "tilt_db", "breath"):
        values = np.abs([getattr(voice, name) for voice in voices])
        assert np.ptp(values) > 0.2 * values.mean()


def test_people_differ_in_how_they_show_what_they_feel():
    manners = [Manner.draw(np.random.default_rng(seed), WORLD) for seed in range(200)]
    shown = np.array([manner.shown for manner in manners])
    assert np.allclose(shown.mean(0), motion.SHOWN, atol=0.15) and (shown.std(0) > 0.05).all()
    assert np.allclose(np.std([manner.rest for manner in manners], axis=0), WORLD.rest_spread, rtol=0.25)


# ---- faces ----------------------------------------------------------------------------------------------------------

STILL = Motion(*np.zeros((len(Motion.__dataclass_fields__), 1)))


@pytest.fixture(scope="module")
def still():
    """A person who holds still, and what that person's face looks like with one action: picture("smile", 1)."""
    rng = np.random.default_rng(4)
    painter = Painter(rng, Look.draw(rng))
    STILL.x[:], STILL.y[:], STILL.light[:] = WIDTH / 2, HEIGHT / 2, 1

    def picture(action, strength):
        actions = np.zeros((len(ACTIONS), 1))
        actions[ACTIONS.index(action)] = strength
        return painter.paint(actions, STILL, 0).astype(int)
    return painter, picture


@pytest.mark.parametrize("action, low, high", [
    ("smile", 0.2, 0.9), ("jaw_drop", 0.3, 0.9), ("brow_raise", -0.6, 0), ("brow_lower", -0.6, 0.2),
    ("lid_raise", -0.4, 0.1), ("cheek_raise", -0.3, 0.2)])
def test_every_action_is_seen_where_it_belongs(action, low, high, still):
    painter, picture = still
    changed = np.abs(picture(action, 1) - picture(action, 0)).max(-1) > 12
    rows, columns = np.nonzero(changed)
    heights = (rows - HEIGHT / 2) / painter.look.scale  # chin at 1, forehead at -1
    assert len(rows) > 15 and low < np.quantile(heights, 0.1) and np.quantile(heights, 0.9) < high
    assert abs(np.mean(columns) - WIDTH / 2) < 6  # both sides alike


def test_eyes_blink_light_changes_and_the_head_moves():
    motions = []
    for seed in range(20):
        manner = Manner.draw(np.random.default_rng(seed), WORLD)
        motions.append(move(np.random.default_rng(seed), manner, np.zeros(1500), WORLD))
    blinks = np.mean([(np.diff((motion.lids > 0.9).astype(int)) == 1).sum() for motion in motions]) / 60
    assert 0.7 * WORLD.blinks_per_s < blinks < 1.3 * WORLD.blinks_per_s
    for name, least in (("yaw", 0.05), ("pitch", 0.03), ("roll", 0.02), ("y", 2), ("light", 0.03), ("gaze_x", 0.1)):
        assert min(np.std(getattr(motion, name)) for motion in motions) > least
    assert all(0.5 < motion.light.min() and motion.light.max() < 1.6 for motion in motions)


def test_the_face_leaves_the_picture_now_and_then_and_comes_back():
    away = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        motion = move(rng, Manner.draw(rng, WORLD), np.zeros(1500), WORLD)
        away.append((motion.x < -30) | (motion.x > WIDTH + 30))
    leaves = np.mean([(np.diff(one.astype(int)) == 1).sum() for one in away])  # in a minute
    lasts = np.sum(away) / FRAME_RATE / max(1, np.sum([(np.diff(one.astype(int)) == 1).sum() for one in away]))
    assert 0.5 * WORLD.leaves_per_minute < leaves < 1.5 * WORLD.leaves_per_minute and 0.5 < lasts < 2.5


def test_mouths_move_with_speech(still):
    drawn = Recording.draw((6, 1), 250)
    voice_db = librosa.feature.rms(y=drawn.sound, frame_length=640, hop_length=640, center=False)[0]
    jaw = drawn.actions[ACTIONS.index("jaw_drop")]
    assert np.corrcoef(jaw, voice_db)[0, 1] > 0.5
    by_lag = [np.corrcoef(jaw[5:-5], np.roll(voice_db, lag)[5:-5])[0, 1] for lag in range(-4, 5)]
    assert np.argmax(by_lag) == 4  # and at once


def test_mtcnn_finds_the_faces_that_are_in_the_picture():
    """20 people at 5 moments 1 s apart, and none where nobody is."""
    find, seen, found, ghosts = FaceFinder(60, 0.9, torch.device("cpu")), 0, 0, 0
    for person in range(20):
        drawn = Recording.draw((77, person), 5 * FRAME_RATE)
        drawn.motion.x[3] = -200
        for k in np.flatnonzero(drawn.in_picture())[::FRAME_RATE]:
            seen, found = seen + 1, found + len(find(drawn.painter.paint(drawn.actions, drawn.motion, k))[0])
        ghosts += len(find(drawn.painter.paint(drawn.actions, drawn.motion, 3))[0])
    assert seen >= 95 and 0.98 * seen <= found <= seen and ghosts <= 1


def test_feelings_show_in_the_face_in_part_and_mixed_with_identity():
    pooled, own = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        feelings, manner = feel(rng, 1500, WORLD), Manner.draw(rng, WORLD)
        actions = act(rng, manner, feelings, np.zeros(1500), WORLD)
        actions += 1e-6 * rng.standard_normal((6, 1500))  # a jaw may never drop
        pooled.append(np.vstack([actions, feelings]))
        own.append(np.corrcoef(pooled[-1])[:6, 6:])
    pooled, own = np.corrcoef(np.hstack(pooled))[:6, 6:], np.array(own)
    for action, feeling, sign in (("smile", 1, 1), ("cheek_raise", 1, 1), ("brow_lower", 1, -1), ("brow_raise", 0, 1),
                                  ("lid_raise", 0, 1), ("jaw_drop", 0, 1)):
        row = ACTIONS.index(action)
        assert 0.1 < sign * pooled[row, feeling] < 0.9
        assert own[:, row, feeling].std() > 0.03  # everyone's own manner
    assert (np.abs(pooled) < np.abs(own).mean(0) + 0.05).all()  # who it is hides some of how they feel


# ---- voices ---------------------------------------------------------------------------------------------------------

def voice_of(arousal, valence, seed, seconds=16):
    """What is measured in the sound of a voice under a constant feeling."""
    rng = np.random.default_rng(seed)
    voice = Voice.draw(rng, WORLD)
    speech = speak(rng, voice, np.repeat([[float(arousal)], [float(valence)]], seconds * FRAME_RATE, 1), WORLD)
    sound = synthesise(rng, speech, voice)
    loud = librosa.amplitude_to_db(librosa.feature.rms(y=sound, frame_length=512, hop_length=80)[0], top_db=None)
    smooth = np.convolve(loud, np.hanning(13) / np.hanning(13).sum(), "same")  # 200 values a second
    talking = smooth > np.quantile(smooth, 0.95) - 20
    power = np.abs(librosa.stft(sound, n_fft=512, hop_length=80)[:, talking]) ** 2
    vowels = np.median(power, axis=1)  # consonants are fewer
    pitch = librosa.yin(sound, fmin=60, fmax=500, sr=SOUND_RATE, frame_length=1024, hop_length=160)
    talking_now = talking[::2][:len(pitch)]
    semitones = 12 * np.log2(pitch[:len(talking_now)][talking_now])
    return {"loudness": np.median(loud[talking]), "pitch": np.median(semitones),
            "melody": np.subtract(*np.quantile(semitones, [0.8, 0.2])),
            "brightness": 10 * np.log10(vowels[32:64].sum() / vowels[:32].sum()), "talking": talking.mean(),
            "rate": len(find_peaks(smooth, prominence=3)[0]) / max(talking.mean(), 0.05)}


@pytest.fixture(scope="module")
def aroused_voices():
    """What changes from low to high arousal in the sound of 8 voices."""
    pairs = [(voice_of(1.2, 0, seed), voice_of(-1.2, 0, seed)) for seed in range(8)]
    return [{name: high[name] - low[name] for name in high} for high, low in pairs]


@pytest.mark.parametrize("heard, least", [
    ("loudness", 2), ("pitch", 1), ("brightness", 1), ("talking", 0.02), ("rate", 0.1)])
def test_arousal_is_heard(heard, least, aroused_voices):
    """Louder, higher, brighter, with fewer pauses, faster."""
    changes = np.array([one[heard] for one in aroused_voices])
    assert np.median(changes) > least and (changes > 0).mean() >= 0.75


def test_valence_is_heard_in_the_melody():
    changes = [voice_of(0, 1.2, seed)["melody"] - voice_of(0, -1.2, seed)["melody"] for seed in range(6)]
    assert np.median(changes) > 0.2 and np.mean(np.array(changes) > 0) >= 0.66


def test_sound_is_whole_and_not_clipped():
    for person in range(6):
        drawn = Recording.draw((8, person), 100)
        assert drawn.sound.shape == (100 * SOUND_RATE // FRAME_RATE,) and drawn.sound.dtype == np.float32
        assert np.mean(np.abs(drawn.sound) > 0.97) < 0.01 and np.isfinite(drawn.sound).all()


# ---- feelings and ratings -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def rated():
    """Feelings (2, T) and ratings (T, 2) of 40 five-minute recordings, as long as RECOLA's."""
    pairs = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        feelings = feel(rng, 7500, WORLD)
        pairs.append((feelings, rate(rng, feelings, WORLD)))
    return pairs


def test_feelings_have_mean_0_and_spread_1(rated):
    feelings = np.hstack([one for one, _ in rated])
    assert np.abs(feelings.mean(1)).max() < 0.1 and np.abs(feelings.std(1) - 1).max() < 0.1
    assert abs(np.corrcoef(feelings)[0, 1] - WORLD.together) < 0.1


@pytest.mark.parametrize("target", [0, 1])
def test_ratings_are_the_feelings_some_time_later(target, rated):
    lags = np.arange(0, 4 * FRAME_RATE)
    curve = np.mean([[np.corrcoef(feelings[target][:7500 - lag], gold[lag:, target])[0, 1] for lag in lags]
                     for feelings, gold in rated], axis=0)
    assert abs(lags[curve.argmax()] / FRAME_RATE - WORLD.delay_s) < 0.2
    assert 0.75 < curve.max() < 0.99  # with errors of their own


def test_ratings_lie_where_recolas_do(rated):
    """RECOLA's spread is .181 and .194 (arousal), .133 and .125 (valence), its mean near 0 and .1 (train and dev)."""
    gold = np.concatenate([one for _, one in rated])
    assert gold.min() >= -1 and gold.max() <= 1 and np.isfinite(gold).all()
    assert np.allclose(gold.mean(0), [0, 0.1], atol=0.05) and np.allclose(gold.std(0), [0.188, 0.129], rtol=0.25)


def test_ratings_change_as_fast_as_recolas(rated):
    """RECOLA's gold standard scores .75 and .77 against itself 60 frames later."""
    scores = [[float(concordance_corrcoef(torch.tensor(gold[:-60, c]), torch.tensor(gold[60:, c]))) for c in (0, 1)]
              for _, gold in rated]
    assert np.abs(np.mean(scores, axis=0) - 0.76).max() < 0.12


def test_ratings_of_a_recording_follow_the_feelings_drawn_in_it():
    """Also at its beginning: what the raters saw before it is not lost."""
    lag = round(WORLD.delay_s * FRAME_RATE)
    people = [Recording.draw((9, person), 300) for person in range(10)]
    assert all(one.gold.shape == (301, 2) and one.feelings.shape == (2, 300) for one in people)
    late = [np.corrcoef(one.feelings[0, :300 - lag], one.gold[lag:300, 0])[0, 1] for one in people]
    now = [np.corrcoef(one.feelings[0], one.gold[:300, 0])[0, 1] for one in people]
    assert np.median(late) > 0.75 and np.median(late) > np.median(now) + 0.2
    assert np.mean([np.abs(np.diff(one.gold[:10], axis=0)).max() for one in people]) < 0.05  # no jump into it


@pytest.mark.parametrize("look", [dict(glasses=True), dict(beard=True, long_hair=False), dict(long_hair=True)])
def test_frames_painted_together_are_those_painted_one_by_one(look):
    rng = np.random.default_rng(3)
    one, looks = Recording.draw((3, 1), 30), Look.draw(rng)
    painter = Painter(rng, dataclasses.replace(looks, **look))
    together = list(painter.frames(one.actions, one.motion, range(0, 30, 5)))
    assert len(together) == 6
    for frame, k in zip(together, range(0, 30, 5)):
        assert np.array_equal(frame, painter.paint(one.actions, one.motion, k))


# ---- files ----------------------------------------------------------------------------------------------------------

def test_a_recording_is_written_as_a_corpus_ships(tmp_path):
    drawn = Recording.draw((1, 1), 30)
    write_recording(tmp_path, "train_1", drawn)
    with av.open(str(tmp_path / "videos" / "train_1.mp4")) as video:
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.streams.video[0].average_rate == FRAME_RATE and video.streams.audio
    assert len(pictures) == 30
    assert np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(pictures, drawn.frames())]) < 4
    sound, its_rate = soundfile.read(tmp_path / "audio" / "train_1.wav")
    assert its_rate == SOUND_RATE and np.abs(sound - drawn.sound).max() < 1e-4
    rows = (tmp_path / "ratings_gold_standard" / "train_1.csv").read_text().splitlines()
    assert np.abs(np.array([row.split(";") for row in rows], float) - drawn.gold).max() < 1e-4 and len(rows) == 31


def test_every_fifth_frame_and_rating_can_be_written_alone(tmp_path):
    drawn = Recording.draw((1, 1), 30)
    write_recording(tmp_path, "train_1", drawn, step=5, quick=True)
    with av.open(str(tmp_path / "videos" / "train_1.mp4")) as video:
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.streams.video[0].average_rate == FRAME_RATE / 5 and video.streams.audio
    assert len(pictures) == 6
    for picture, frame in zip(pictures, list(drawn.frames())[::5]):
        assert np.abs(picture.astype(int) - frame).mean() < 4
    rows = (tmp_path / "ratings_gold_standard" / "train_1.csv").read_text().splitlines()
    assert np.abs(np.array([row.split(";") for row in rows], float) - drawn.gold[::5]).max() < 1e-4


def test_the_same_pictures_make_the_same_video(tmp_path):
    pictures, held = list(Recording.draw((12, 1), 18).frames()), []
    for number in range(16):
        held.append(np.random.default_rng(number).bytes(20_000 * number))  # so that memory lies elsewhere
        write_video(tmp_path / f"{number}.mp4", pictures)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_video_that_could_not_be_written_leaves_nothing(tmp_path):
    def frames():
        yield np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", frames())
    assert not list(tmp_path.iterdir())


def test_a_sheet_shows_people_in_rows():
    picture = sheet(0, rows=2, columns=3)
    assert picture.shape == (2 * HEIGHT, 3 * WIDTH, 3) and picture.dtype == np.uint8
    assert np.abs(picture[:HEIGHT].astype(int) - picture[HEIGHT:]).mean() > 10


def test_run_without_a_file_name_says_how():
    folder = Path(people.__file__).parent.parent
    command = [sys.executable, "-m", "drawn.people"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1 and "python -m drawn.people" in done.stderr
