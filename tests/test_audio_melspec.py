"""Step 3: audio segments -> log-mel spectrograms."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import cv2
import librosa
import numpy as np
import pytest
import soundfile
from matplotlib import pyplot

import audio_extract
import audio_melspec
from audio_melspec import to_grey
from config import Config

RATE = 16000
CFG = Config()
STEP_DB = (CFG.db_max - CFG.db_min) / 255  # of a grey level: 0.43 dB


def noise(seed, loudness=0.1, samples=RATE):
    return loudness * np.random.default_rng(seed).standard_normal(samples)


def segmented(folder, **recordings):
    """A data folder that holds segments alone: id -> list of segments, float."""
    for name, segments in recordings.items():
        (folder / "audio_segments" / name).mkdir(parents=True)
        for k, segment in enumerate(segments):
            soundfile.write(folder / "audio_segments" / name / f"{k:06d}.wav", segment, RATE, subtype="PCM_16")
    return folder


def specs(folder, name):
    """(K, n_mels, F) uint8 of a recording's spectrograms; fails where files are missing."""
    paths = sorted((folder / "specs" / name).iterdir())
    assert [path.name for path in paths] == [f"{k:06d}.png" for k in range(len(paths))]
    return np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths])


# ---- what is in a picture -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words", [[], ["--n-mels", "40", "--hop-length", "200", "--n-fft", "1024", "--db-min", "-50", "--db-max", "20"]])
def test_spectrograms_are_librosas_within_half_a_grey_level(words, tmp_path, call):
    chirp = 0.5 * np.sin(2 * np.pi * np.cumsum(np.geomspace(60, 7500, RATE)) / RATE)
    assert call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(0), chirp, noise(1, 1e-3), np.zeros(RATE)]), *words)[0] == 0
    cfg = audio_melspec.parse_config(words, "audio_melspec.py", "")
    step_db = (cfg.db_max - cfg.db_min) / 255
    for k, picture in enumerate(specs(tmp_path, "train_1")):
        sound, rate = soundfile.read(tmp_path / "audio_segments" / "train_1" / f"{k:06d}.wav", dtype="float32")
        power = librosa.feature.melspectrogram(y=sound, sr=rate, n_fft=cfg.n_fft, hop_length=cfg.hop_length, n_mels=cfg.n_mels)
        wanted_db = librosa.power_to_db(power, ref=1.0, top_db=None).clip(cfg.db_min, cfg.db_max)
        assert np.abs(cfg.db_min + picture * step_db - wanted_db).max() <= step_db / 2 + 1e-3


def voice_like(seconds, seed=0):
    """Loud and silent, tonal and noisy pieces, some of them clipped: int16."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    sound = np.sin(2 * np.pi * 200 * t * (1 + t)) + 0.3 * rng.standard_normal(len(t))
    loudness = np.repeat(rng.choice([0, 1e-4, 0.01, 0.3, 5], len(t) // 2000 + 1), 2000)[:len(t)]
    return (np.clip(sound * loudness, -1, 1) * 32767).astype(np.int16)


def cut(folder, sound, *words):
    """A data folder with the segments that audio_extract.py cuts of a sound, train_1."""
    (folder / "audio").mkdir()
    soundfile.write(folder / "audio" / "train_1.wav", sound, RATE, subtype="PCM_16")
    audio_extract.main(["--data-dir", str(folder), *words])
    return folder


def by_librosa(path, cfg):
    """(n_mels, F) grey levels, not rounded, of a segment on its own."""
    sound, rate = soundfile.read(path, dtype="float32")
    power = librosa.feature.melspectrogram(y=sound, sr=rate, n_fft=cfg.n_fft, hop_length=cfg.hop_length, n_mels=cfg.n_mels)
    return ((librosa.power_to_db(power, ref=1.0, top_db=None) - cfg.db_min) / (cfg.db_max - cfg.db_min) * 255).clip(0, 255)


@pytest.mark.parametrize("cutting,drawing", [
    ([], []), (["--segment-at", "causal"], []), (["--frame-rate", "30"], []), (["--frame-rate", "29.97"], []),
    (["--frame-rate", "12.5"], []), ([], ["--hop-length", "200"]), ([], ["--hop-length", "127"]),
    ([], ["--n-fft", "2048", "--n-mels", "128"]), ([], ["--n-fft", "401"]), ([], ["--n-fft", "128", "--hop-length", "320", "--n-mels", "20"]),
    (["--segment-s", "0.05"], ["--n-fft", "800"]), (["--segment-s", "0.05"], ["--n-fft", "799", "--hop-length", "1"]),
    (["--segment-s", "0.035", "--frame-rate", "25"], ["--db-min", "-100", "--db-max", "40"]),
], ids=lambda words: " ".join(words).replace("--", ""))
def test_every_column_is_librosas_of_the_segment_alone(cutting, drawing, tmp_path, call, monkeypatch):
    monkeypatch.setattr(audio_melspec, "BLOCK", 32)  # more than one of them
    flags = cutting[cutting.index("--segment-s"):][:2] if "--segment-s" in cutting else []
    cut(tmp_path, voice_like(2.5), *cutting)
    assert call("audio_melspec", "--data-dir", tmp_path, *drawing, *flags)[0] == 0
    cfg = audio_melspec.parse_config(drawing, "audio_melspec.py", "")
    made = specs(tmp_path, "train_1")
    assert len(made) >= 30 and made.max() > 200 and (made.min() == 0)
    for k, picture in enumerate(made):
        wanted = by_librosa(tmp_path / "audio_segments" / "train_1" / f"{k:06d}.wav", cfg)
        assert np.abs(picture - wanted).max() <= 0.51, k  # half of it is rounding


def test_a_column_that_segments_share_is_computed_once(tmp_path, monkeypatch):
    counts, log_mel = {}, audio_melspec.log_mel
    for rate in ("25", "30", "29.97"):
        counts[rate] = 0

        def counted(frames, bands, rate=rate):
            counts[rate] += len(frames)
            return log_mel(frames, bands)
        monkeypatch.setattr(audio_melspec, "log_mel", counted)
        (tmp_path / rate).mkdir()
        cut(tmp_path / rate, voice_like(4), "--frame-rate", rate)
        audio_melspec.main(["--data-dir", str(tmp_path / rate)])
    # 25: four new columns and four at the ends of each of 100 segments, and all 97 inner ones of the first
    assert counts["25"] == 100 * 4 + 97 + 99 * 4
    assert counts["30"] == 120 * 4 + 3 * 97 + 117 * 10  # three grids, 10 columns from each segment to the next but two
    assert counts["29.97"] > 120 * 50  # hardly anything is shared: as many as they need


@pytest.mark.parametrize("replace", [
    lambda path: soundfile.write(path, noise(3), RATE, subtype="PCM_16"),
    lambda path: soundfile.write(path, noise(3), RATE, subtype="FLOAT"),
    lambda path: soundfile.write(path, soundfile.read(path, dtype="int16")[0] // 2, RATE, subtype="PCM_16"),
    lambda path: soundfile.write(path, np.concatenate([soundfile.read(path)[0][:-1], [0.25]]), RATE, subtype="PCM_16"),
    lambda path: soundfile.write(path, soundfile.read(path)[0], RATE, subtype="PCM_24"),
], ids=["other sound", "floating point", "quieter", "one sample", "other file"])
@pytest.mark.parametrize("ks", [[0], [7], [7, 8], [24]])
def test_segments_that_were_replaced_are_drawn_as_they_are(replace, ks, tmp_path, call):
    cut(tmp_path, (noise(2) * 32767).astype(np.int16))
    paths = sorted((tmp_path / "audio_segments" / "train_1").iterdir())
    for k in ks:
        replace(paths[k])
    assert call("audio_melspec", "--data-dir", tmp_path)[0] == 0
    for path, picture in zip(paths, specs(tmp_path, "train_1")):
        assert np.abs(picture - by_librosa(path, CFG)).max() <= 0.51


def test_a_png_holds_its_picture(tmp_path):
    for shape in ((1, 1), (64, 101), (300, 500)):  # more than 65,535 bytes too
        picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        (tmp_path / "a.png").write_bytes(audio_melspec.png(picture))
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED), picture)
        np.testing.assert_array_equal(np.rint(pyplot.imread(tmp_path / "a.png") * 255), picture)


def test_memory_does_not_grow_with_the_length(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_melspec, "BLOCK", 16)
    look = audio_melspec.look_of(CFG)

    def peak(seconds):
        (tmp_path / str(seconds)).mkdir()
        cut(tmp_path / str(seconds), voice_like(seconds), "--workers", "1")
        paths, _ = audio_melspec.segment_paths(tmp_path / str(seconds) / "audio_segments" / "train_1")
        tracemalloc.start()
        audio_melspec.draw_array(paths, np.full(len(paths), 640), tmp_path / f"{seconds}.npy", look, [], lambda n: None)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size
    assert peak(12) < peak(4) * 1.1 + 100_000  # names of 200 more segments; their pictures are 1,300,000 bytes


def test_spectrograms_are_what_the_formula_says(tmp_path, call):
    """Hann window, power of the Fourier transform, mel filters, decibels: step by step, in double precision."""
    sound = noise(2)
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[sound]))
    heard = soundfile.read(tmp_path / "audio_segments" / "train_1" / "000000.wav")[0]
    padded, window = np.pad(heard, CFG.n_fft // 2), np.sin(np.pi * np.arange(CFG.n_fft) / CFG.n_fft) ** 2
    columns = [np.abs(np.fft.rfft(window * padded[start:start + CFG.n_fft])) ** 2 for start in range(0, RATE + 1, CFG.hop_length)]
    mel = librosa.filters.mel(sr=RATE, n_fft=CFG.n_fft, n_mels=CFG.n_mels)
    wanted_db = 10 * np.log10(np.maximum(mel @ np.array(columns).T, 1e-10))
    assert np.abs(CFG.db_min + specs(tmp_path, "train_1")[0] * STEP_DB - wanted_db).max() <= STEP_DB / 2 + 1e-3


def test_louder_sound_is_brighter_by_its_decibels(tmp_path, call):
    quiet = noise(3, 0.05)
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[quiet, 2 * quiet, 4 * quiet]))
    first, second, third = specs(tmp_path, "train_1").astype(int)
    assert first.min() > 0 and third.max() < 255  # nothing is cut off, so all of the difference is seen
    six_db = 20 * np.log10(2) / STEP_DB  # 14.0 grey levels
    for brighter in (second - first, third - second):
        assert np.abs(brighter - six_db).max() <= 1.01 and abs(brighter.mean() - six_db) < 0.05


def test_the_range_of_decibels_is_the_same_for_all(tmp_path, call):
    quiet = noise(4, 1e-3)
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[quiet, noise(5, 0.3)], train_2=[quiet]))
    np.testing.assert_array_equal(specs(tmp_path, "train_1")[0], specs(tmp_path, "train_2")[0])


def test_black_is_db_min_and_white_db_max():
    db = np.array([-300, CFG.db_min, CFG.db_min + STEP_DB * 0.4, CFG.db_min + STEP_DB * 0.6, CFG.db_max, 300])
    assert to_grey(db, CFG.db_min, CFG.db_max).tolist() == [0, 0, 0, 1, 255, 255]


def test_silence_is_black(tmp_path, call):
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[np.zeros(RATE)]))
    assert not specs(tmp_path, "train_1").any()


def test_low_frequencies_come_first_and_time_runs_to_the_right(tmp_path, call):
    t = np.arange(RATE) / RATE
    low_then_high = np.where(t < 0.5, np.sin(2 * np.pi * 300 * t), np.sin(2 * np.pi * 5000 * t)) * 0.3
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[low_then_high]))
    picture, centres = specs(tmp_path, "train_1")[0], librosa.mel_frequencies(CFG.n_mels + 2, fmax=RATE / 2)[1:-1]
    for column, frequency in ((20, 300), (80, 5000)):
        assert abs(picture[:, column].argmax() - np.abs(centres - frequency).argmin()) <= 1


def test_pictures_are_grey_png_of_8_bits_with_a_row_for_every_band(tmp_path, call):
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(6)]), "--n-mels", "40")
    header = (tmp_path / "specs" / "train_1" / "000000.png").read_bytes()[:26]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
    assert (width, height, header[24], header[25]) == (1 + RATE // CFG.hop_length, 40, 8, 0)  # 8 bits, colour type grey


# ---- a good run -----------------------------------------------------------------------------------------------------

def test_help_works(call):
    with pytest.raises(SystemExit) as end:
        call("audio_melspec", "--help")
    assert end.value.code == 0


def test_as_many_spectrograms_as_segments_in_their_order(tmp_path, call):
    tones = [0.3 * np.sin(2 * np.pi * (200 + 50 * k) * np.arange(RATE) / RATE) for k in range(70)]  # more than a batch
    code, out, _ = call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=tones, train_10=tones[:2], train_2=tones[:3]))
    assert code == 0 and "75 spectrograms of 3 recordings" in out
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == ["train_1", "train_2", "train_10"]
    brightest = specs(tmp_path, "train_1").sum(2).argmax(1)
    assert len(brightest) == 70 and (np.diff(brightest) >= 0).all() and brightest[-1] > brightest[0] + 20


def test_a_second_run_does_nothing_and_says_so(tmp_path, call):
    segmented(tmp_path, train_1=[noise(7)] * 2, train_2=[noise(8)])
    call("audio_melspec", "--data-dir", tmp_path)
    made = tmp_path / "specs" / "train_1" / "000000.png"
    os.utime(made, (1, 1))
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path)
    assert code == 0 and "nothing to do, all were done before" in out and out.count("(done before)") == 2
    assert made.stat().st_mtime == 1


def test_only_the_recordings_asked_for_are_done(tmp_path, call):
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(9)], train_2=[noise(9)]), "--recordings", "train_2")
    assert not (tmp_path / "specs" / "train_1").exists() and len(specs(tmp_path, "train_2")) == 1


def test_from_sound_to_spectrograms_one_for_every_frame(tmp_path, call):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "train_1.wav", noise(10, samples=RATE * 2), RATE)
    assert call("audio_extract", "--data-dir", tmp_path)[0] == call("audio_melspec", "--data-dir", tmp_path)[0] == 0
    made = specs(tmp_path, "train_1")
    assert len(made) == 50
    assert all((one != other).any() for one, other in zip(made, made[1:]))  # never one block shared by frames
    moved = made[20:30, :, 4:-8].astype(int) - made[21:31, :, :-12]  # a frame is four columns: 40 ms
    assert np.abs(moved[..., 4:-4]).max() <= 1


# ---- settings -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words", [["--n-mels", "32"], ["--hop-length", "80"], ["--n-fft", "400"], ["--db-min", "-60"], ["--db-max", "0"]])
def test_changed_settings_are_refused_and_what_was_made_stays(words, tmp_path, call):
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(11)]))
    before = specs(tmp_path, "train_1")
    code, out, err = call("audio_melspec", "--data-dir", tmp_path, *words)
    assert code == 1 and out == "" and words[0][2:].replace("-", "_") in err and "delete" in err and err.count("\n") == 1
    np.testing.assert_array_equal(specs(tmp_path, "train_1"), before)


def test_segments_of_other_settings_are_refused_before_anything_is_read(tmp_path, call):
    (segmented(tmp_path, train_1=[noise(12)]) / "audio_segments" / "settings.json").write_text(json.dumps({"audio_rate": 16000, "segment_s": 1.0}))
    code, out, err = call("audio_melspec", "--data-dir", tmp_path, "--audio-rate", "8000")
    assert code == 1 and out == "" and "audio_segments/ was made with audio_rate 16000, now it is 8000" in err
    assert not (tmp_path / "specs").exists()
    assert call("audio_melspec", "--data-dir", tmp_path)[0] == 0


def test_spectrograms_of_segments_that_were_made_anew_otherwise_are_refused(tmp_path, call):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "train_1.wav", noise(13), RATE)
    assert call("audio_extract", "--data-dir", tmp_path)[0] == call("audio_melspec", "--data-dir", tmp_path)[0] == 0
    shutil.rmtree(tmp_path / "audio_segments")
    assert call("audio_extract", "--data-dir", tmp_path, "--segment-at", "causal")[0] == 0
    code, _, err = call("audio_melspec", "--data-dir", tmp_path)
    assert code == 1 and "specs/ was made with segment_at centred, now it is causal" in err


# ---- bad input ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 1000), lambda path: path.write_text("hello"),
    lambda path: soundfile.write(path, noise(0), 8000), lambda path: soundfile.write(path, noise(0, samples=RATE - 1), RATE),
    lambda path: soundfile.write(path, np.zeros((RATE, 2)), RATE), lambda path: path.unlink(),
], ids=["empty", "truncated", "text", "other rate", "other length", "stereo", "missing"])
@pytest.mark.parametrize("k", [0, 1])
def test_a_damaged_or_missing_segment_is_named_and_the_others_are_done(damage, k, tmp_path, call):
    path = segmented(tmp_path, train_1=[noise(14)] * 3, train_2=[noise(15)]) / "audio_segments" / "train_1" / f"{k:06d}.wav"
    damage(path)
    code, out, err = call("audio_melspec", "--data-dir", tmp_path)
    failed = [line for line in out.splitlines() if "FAILED" in line]
    assert code == 1 and len(failed) == 1 and failed[0].startswith(f"train_1: FAILED: {path} ") and "run audio_extract.py" in failed[0]
    assert "1 of 2 recordings failed (train_1)" in err and err.count("\n") == 1
    assert sorted(found.name for found in (tmp_path / "specs").iterdir()) == ["settings.json", "train_2"]


def test_a_recording_of_no_segments_is_an_error(tmp_path, call):
    segmented(tmp_path, train_1=[], train_2=[noise(16)])
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path)
    assert code == 1 and "train_1: FAILED" in out and "000000.wav is missing" in out and len(specs(tmp_path, "train_2")) == 1


def test_a_number_of_spectrograms_that_is_not_the_number_of_segments_is_an_error(tmp_path, call):
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(17)] * 3))
    (tmp_path / "specs" / "train_1" / "000001.png").unlink()
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path)
    assert code == 1 and "holds 2 spectrograms for 3 segments: delete that folder" in out


def test_a_missing_step_names_the_script_to_run(tmp_path, call):
    code, out, err = call("audio_melspec", "--data-dir", tmp_path)
    assert code == 1 and out == "" and err.count("\n") == 1
    assert f"no recordings in {tmp_path / 'audio_segments'}/: run audio_extract.py first" in err
    assert list(tmp_path.iterdir()) == []


# ---- stopped half-way -----------------------------------------------------------------------------------------------

def files(folder):
    """Relative path -> bytes of everything under a folder, hidden or not."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


KILLED = """
import os, signal, sys
import audio_melspec
audio_melspec.BLOCK = 4
write, count, last = audio_melspec.write_bytes, [0], int(sys.argv[1])
blocks = [0]
def write_bytes(path, *parts):
    count[0] += 1
    if count[0] == last:
        data = b"".join(parts)
        write(path, data[:len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, *parts)
class File:
    def __init__(self, file):
        self.file = file
    def __getattr__(self, name):
        return getattr(self.file, name)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.file.close()
    def write(self, data):
        blocks[0] += len(data) > 1000
        if blocks[0] == last:
            self.file.write(data[:len(data) // 2])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self.file.write(data)
audio_melspec.write_bytes = write_bytes
audio_melspec.open = lambda *words: File(open(*words))
audio_melspec.main(sys.argv[2:])
"""


def killed_at(write, *words):
    """A run that is killed in the middle of its `write`-th picture, or of its `write`-th block of an array; blocks of 4."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(write), *map(str, words)], cwd=os.path.dirname(audio_melspec.__file__),
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert ended.returncode == -signal.SIGKILL


def test_a_killed_run_leaves_nothing_that_looks_done_and_the_next_goes_on_where_it_was(tmp_path, call, monkeypatch):
    monkeypatch.setattr(audio_melspec, "BLOCK", 4)
    segmented(tmp_path, train_1=[noise(18)] * 3, train_2=[noise(19)] * 10)
    killed_at(3 + 6, "--data-dir", tmp_path)
    assert [path.name for path in sorted((tmp_path / "specs").glob("[!.]*"))] == ["settings.json", "train_1"]
    half = tmp_path / "specs" / ".train_2.part"
    assert len(list(half.glob("*.png"))) == 6 and (half / "000005.png").stat().st_size < (half / "000004.png").stat().st_size
    for path in half.glob("*.png"):
        os.utime(path, (1, 1))
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path)
    assert code == 0 and out.count("(done before)") == 1 and len(specs(tmp_path, "train_2")) == 10
    assert not list((tmp_path / "specs").glob(".*"))
    kept = [path.stat().st_mtime == 1 for path in sorted((tmp_path / "specs" / "train_2").iterdir())]
    assert kept == [True] * 5 + [False] * 5  # what was whole was not made again


@pytest.mark.parametrize("spec_files", ["pictures", "array"])
def test_runs_killed_at_any_moment_end_in_the_same_bytes(spec_files, tmp_path, call, monkeypatch):
    monkeypatch.setattr(audio_melspec, "BLOCK", 4)
    words = ["--segment-s", "0.2", "--spec-files", spec_files]
    cut(tmp_path, voice_like(1), "--segment-s", "0.2")
    shutil.copytree(tmp_path, tmp_path / "once")
    assert call("audio_melspec", "--data-dir", tmp_path / "once", *words)[0] == 0
    for write in (2, 5, 1) if spec_files == "pictures" else (2, 4, 1):
        killed_at(write, "--data-dir", tmp_path, *words)
        assert [path.name for path in (tmp_path / "specs").glob("[!.]*")] == ["settings.json"]
    assert call("audio_melspec", "--data-dir", tmp_path, *words)[0] == 0
    assert files(tmp_path / "specs") == files(tmp_path / "once" / "specs")


def test_the_half_of_other_segments_is_thrown_away(tmp_path, call):
    segmented(tmp_path, train_1=[noise(22)] * 10)
    killed_at(9, "--data-dir", tmp_path)
    path = tmp_path / "audio_segments" / "train_1" / "000000.wav"
    soundfile.write(path, noise(23), RATE, subtype="PCM_16")
    assert call("audio_melspec", "--data-dir", tmp_path)[0] == 0
    assert np.abs(specs(tmp_path, "train_1")[0] - by_librosa(path, CFG)).max() <= 0.51


@pytest.mark.parametrize("error,code", [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1)],
                         ids=["ctrl-c", "full disk"])
def test_ctrl_c_and_a_full_disk_end_in_one_line_and_the_next_run_goes_on(error, code, tmp_path, call, monkeypatch):
    segmented(tmp_path, train_1=[noise(20)] * 3, train_2=[noise(21)] * 3)
    whole, written = audio_melspec.write_bytes, iter(range(100))

    def write_bytes(path, *parts):
        if next(written) == 4:
            raise error
        whole(path, *parts)
    monkeypatch.setattr(audio_melspec, "write_bytes", write_bytes)
    ended, _, err = call("audio_melspec", "--data-dir", tmp_path)
    assert ended == code and err.count("\n") == 1
    assert code == 130 or err == f"audio_melspec.py: error: No space left on device: {tmp_path / 'specs' / 'train_2'}\n"
    assert sorted(path.name for path in (tmp_path / "specs").glob("[!.]*")) == ["settings.json", "train_1"]
    assert len(specs(tmp_path, "train_1")) == 3
    monkeypatch.setattr(audio_melspec, "write_bytes", whole)
    assert call("audio_melspec", "--data-dir", tmp_path)[0] == 0
    assert len(specs(tmp_path, "train_2")) == 3


@pytest.mark.parametrize("spec_files", ["pictures", "array"])
def test_a_disk_that_takes_no_more_is_an_error_of_the_user(spec_files, tmp_path, call):
    resource = pytest.importorskip("resource")
    segmented(tmp_path, train_1=[noise(24)] * 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))  # the kernel refuses, as it does when a disk is full
    try:
        code, out, err = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", spec_files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1 and "File too large" in out + err and str(tmp_path / "specs") in out + err
    assert [path.name for path in (tmp_path / "specs").glob("[!.]*")] == ["settings.json"]
    assert call("audio_melspec", "--data-dir", tmp_path, "--spec-files", spec_files)[0] == 0


# ---- several at once ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("spec_files", ["pictures", "array"])
def test_workers_and_shards_write_the_same_bytes_as_one_run(spec_files, tmp_path, call):
    ways = {"one": [["--workers", "1"]], "two": [["--workers", "2"]], "shards": [["--shard", f"{i}/2"] for i in (2, 1)]}
    for way, runs in ways.items():
        segmented(tmp_path / way, train_1=[noise(25)] * 3, train_2=[noise(k) for k in range(5)], train_3=[noise(27)])
        for words in runs:
            code, out, err = call("audio_melspec", "--data-dir", tmp_path / way, "--spec-files", spec_files, *words)
            assert code == 0 and err == ""
    assert "train_2" not in out and "spectrograms of 2 recordings" in out  # the first shard, which came last
    one = files(tmp_path / "one" / "specs")
    assert len(one) == 1 + (9 if spec_files == "pictures" else 3)
    assert files(tmp_path / "two" / "specs") == files(tmp_path / "shards" / "specs") == one


def test_a_shard_is_of_the_recordings_that_there_are_and_not_of_those_that_others_have_cut_by_now(tmp_path, call):
    folder = segmented(tmp_path, a=[noise(1)], c=[noise(2)])
    (folder / "audio").mkdir()
    for name in "abcd":
        soundfile.write(folder / "audio" / f"{name}.wav", noise(3), RATE)
    out = call("audio_melspec", "--data-dir", folder, "--shard", "1/2")[1]
    assert {path.name for path in (folder / "specs").glob("[!.]*")} == {"a", "c", "settings.json"} and "has no" not in out
    segmented(tmp_path, b=[noise(4)])
    out = call("audio_melspec", "--data-dir", folder, "--shard", "2/2")[1]
    assert (folder / "specs" / "b").exists() and "audio_segments/ has no d: not drawn; run audio_extract.py, then this again" in out


def test_an_empty_shard_says_so_and_is_no_error(tmp_path, call):
    code, out, err = call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(28)]), "--shard", "2/2")
    assert (code, err) == (0, "") and "shard 2/2 holds none of the 1 recordings" in out
    assert not (tmp_path / "specs" / "train_1").exists()


@pytest.mark.parametrize("spec_files,made", [("pictures", "train_1"), ("array", "train_1.npy")])
def test_a_recording_that_another_process_is_at_is_said_and_the_others_are_done(spec_files, made, tmp_path, call):
    fcntl = pytest.importorskip("fcntl")
    segmented(tmp_path, train_1=[noise(29)], train_2=[noise(30)])
    half = tmp_path / "specs" / f".{made}.part"
    half.mkdir(parents=True)
    held = os.open(half, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    code, out, err = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", spec_files)
    os.close(held)
    assert code == 1 and f"train_1: FAILED: {tmp_path / 'specs' / made} is being made by another process" in out and err.count("\n") == 1
    assert half.exists() and (tmp_path / "specs" / made.replace("1", "2")).exists()


# ---- one array instead of pictures ----------------------------------------------------------------------------------

def test_the_array_holds_the_pictures(tmp_path, call, monkeypatch):
    monkeypatch.setattr(audio_melspec, "BLOCK", 16)
    cut(tmp_path, voice_like(2))
    shutil.copytree(tmp_path, tmp_path / "pictures")
    assert call("audio_melspec", "--data-dir", tmp_path / "pictures")[0] == 0
    code, out, err = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", "array")
    assert (code, err) == (0, "") and "50 spectrograms of 1 recordings" in out
    assert sorted(path.name for path in (tmp_path / "specs").iterdir()) == ["settings.json", "train_1.npy"]
    array = np.load(tmp_path / "specs" / "train_1.npy", mmap_mode="r")
    assert array.shape == (50, 1, 64, 101) and array.dtype == np.uint8
    np.testing.assert_array_equal(array[:, 0], specs(tmp_path / "pictures", "train_1"))
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", "array")
    assert code == 0 and "nothing to do" in out


@pytest.mark.parametrize("first,second", [("pictures", "array"), ("array", "pictures")])
def test_a_folder_holds_pictures_or_arrays_and_never_both(first, second, tmp_path, call):
    segmented(tmp_path, train_1=[noise(31)], train_2=[noise(32)])
    call("audio_melspec", "--data-dir", tmp_path, "--spec-files", first, "--recordings", "train_1")
    code, out, err = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", second)
    assert code == 1 and out == "" and f"specs/ was made with spec_files {first}, now it is {second}" in err and err.count("\n") == 1


def test_folders_from_before_there_were_arrays_hold_pictures(tmp_path, call):
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(33)]))
    note = tmp_path / "specs" / "settings.json"
    note.write_text(json.dumps({name: value for name, value in json.loads(note.read_text()).items() if name != "spec_files"}))
    assert call("audio_melspec", "--data-dir", tmp_path, "--spec-files", "array")[0] == 1
    assert call("audio_melspec", "--data-dir", tmp_path)[0] == 0


@pytest.mark.parametrize("damage,message", [
    (lambda path: os.truncate(path, path.stat().st_size - 1), "is damaged: delete that file"), (lambda path: path.write_bytes(b""), "is damaged"),
    (lambda path: np.save(path, np.zeros((2, 1, 64, 101), np.uint8)), "holds 2 spectrograms for 3 segments: delete that file"),
], ids=["truncated", "empty", "short"])
def test_an_array_that_is_not_of_these_segments_is_an_error(damage, message, tmp_path, call):
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(34)] * 3), "--spec-files", "array")
    damage(tmp_path / "specs" / "train_1.npy")
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", "array")
    assert code == 1 and f"train_1: FAILED: {tmp_path / 'specs' / 'train_1.npy'} {message}" in out
