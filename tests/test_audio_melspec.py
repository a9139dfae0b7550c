"""Step 3: audio segments -> log-mel spectrograms."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import cv2
import librosa
import numpy as np
import pytest
import soundfile

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

KILLED = """
import os, pathlib, signal, sys
import audio_melspec
whole, count = pathlib.Path.write_bytes, [0]
def write_bytes(path, data):
    count[0] += path.suffix == ".png"
    if count[0] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(path, data)
pathlib.Path.write_bytes = write_bytes
audio_melspec.main(sys.argv[1:])
"""


def test_a_killed_run_leaves_nothing_that_looks_done_and_the_next_goes_on(tmp_path, call):
    segmented(tmp_path, train_1=[noise(18)] * 3, train_2=[noise(19)] * 3)
    killed = subprocess.run([sys.executable, "-c", KILLED, "--data-dir", tmp_path], cwd=os.path.dirname(audio_melspec.__file__),
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in sorted((tmp_path / "specs").glob("[!.]*"))] == ["settings.json", "train_1"]
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path)
    assert code == 0 and out.count("(done before)") == 1 and len(specs(tmp_path, "train_2")) == 3
    assert not list((tmp_path / "specs").glob(".*"))


@pytest.mark.parametrize("error,code", [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1)],
                         ids=["ctrl-c", "full disk"])
def test_ctrl_c_and_a_full_disk_end_in_one_line_and_the_next_run_goes_on(error, code, tmp_path, call, monkeypatch):
    segmented(tmp_path, train_1=[noise(20)] * 3, train_2=[noise(21)] * 3)
    whole, written = type(tmp_path).write_bytes, iter(range(100))

    def write_bytes(path, data):
        if path.suffix == ".png" and next(written) == 4:
            raise error
        return whole(path, data)
    monkeypatch.setattr(type(tmp_path), "write_bytes", write_bytes)
    ended, _, err = call("audio_melspec", "--data-dir", tmp_path)
    assert ended == code and err.count("\n") == 1
    assert code == 130 or err == f"audio_melspec.py: error: No space left on device: {tmp_path / 'specs' / 'train_2'}\n"
    assert sorted(path.name for path in (tmp_path / "specs").iterdir()) == ["settings.json", "train_1"]
    assert len(specs(tmp_path, "train_1")) == 3
    monkeypatch.setattr(type(tmp_path), "write_bytes", whole)
    assert call("audio_melspec", "--data-dir", tmp_path)[0] == 0
    assert len(specs(tmp_path, "train_2")) == 3
