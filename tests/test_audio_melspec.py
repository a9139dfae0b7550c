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
from conftest import files_of, one_line
from matplotlib import pyplot

import audio_extract
import audio_melspec
from audio_melspec import to_grey
from config import Config
from support.checksums import LIST
from support.files import claimed_part

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
    paths = sorted((folder / "specs" / name).glob("*.png"))
    assert [path.name for path in paths] == [f"{k:06d}.png" for k in range(len(paths))]
    return np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths])


def failure(out):
    """The line about the one recording that failed."""
    lines = [line for line in out.splitlines() if "FAILED" in line]
    assert len(lines) == 1, out
    return lines[0]


def there(folder):
    """What specs/ holds besides hidden files."""
    return sorted(path.name for path in (folder / "specs").glob("[!.]*"))


def by_librosa(folder, cfg):
    """(K, n_mels, F) grey levels, not rounded, of the segments in a folder, each on its own, as a channel is."""
    sounds, rates = zip(*(soundfile.read(path, dtype="float32") for path in sorted(folder.glob("*.wav"))))
    sizes = {"n_fft": cfg.n_fft, "hop_length": cfg.hop_length, "n_mels": cfg.n_mels}
    power = librosa.feature.melspectrogram(y=np.stack(sounds), sr=rates[0], **sizes)
    db = librosa.power_to_db(power, ref=1.0, top_db=None)
    return ((db - cfg.db_min) / (cfg.db_max - cfg.db_min) * 255).clip(0, 255)


# ---- what is in a spectrogram ---------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("cutting,drawing", [
    ([], []), (["--segment-at", "causal"], []), (["--frame-rate", "30"], []), (["--frame-rate", "29.97"], []),
    (["--frame-rate", "12.5"], ["--hop-length", "200"]), ([], ["--hop-length", "127"]),
    ([], ["--n-fft", "2048", "--n-mels", "128"]), ([], ["--n-fft", "401"]),
    ([], ["--n-fft", "128", "--hop-length", "320", "--n-mels", "20"]),
    (["--segment-s", "0.05"], ["--n-fft", "800"]), (["--segment-s", "0.05"], ["--n-fft", "799", "--hop-length", "1"]),
    (["--segment-s", "0.035"], ["--db-min", "-100", "--db-max", "40"]),
], ids=lambda words: " ".join(words).replace("--", ""))
def test_every_column_is_librosas_of_the_segment_alone(cutting, drawing, tmp_path, call, monkeypatch):
    monkeypatch.setattr(audio_melspec, "BLOCK", 8)  # more than one of them
    flags = cutting[cutting.index("--segment-s"):][:2] if "--segment-s" in cutting else []
    cut(tmp_path, voice_like(1.2), *cutting)
    assert call("audio_melspec", "--data-dir", tmp_path, *drawing, *flags)[0] == 0
    cfg = audio_melspec.parse_config(drawing, "audio_melspec.py", "")
    made = specs(tmp_path, "train_1")
    assert len(made) >= 15 and made.max() > 200 and made.min() == 0
    wanted = by_librosa(tmp_path / "audio_segments" / "train_1", cfg)
    assert made.shape == wanted.shape and np.abs(made - wanted).max() <= 0.51  # half of it is rounding


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
    assert counts["29.97"] > 120 * 50  # hardly any columns are shared


@pytest.mark.parametrize("replace", [
    lambda path: soundfile.write(path, noise(3), RATE, subtype="PCM_16"),
    lambda path: soundfile.write(path, noise(3), RATE, subtype="FLOAT"),
    lambda path: soundfile.write(path, soundfile.read(path, dtype="int16")[0] // 2, RATE, subtype="PCM_16"),
    lambda path: soundfile.write(path, np.concatenate([soundfile.read(path)[0][:-1], [0.25]]), RATE, subtype="PCM_16"),
    lambda path: soundfile.write(path, soundfile.read(path)[0], RATE, subtype="PCM_24"),
], ids=["other sound", "floating point", "quieter", "one sample", "other file"])
@pytest.mark.parametrize("ks", [[0], [7, 8], [24]])
def test_a_segment_that_was_replaced_gets_its_own_spectrogram(replace, ks, tmp_path, call):
    cut(tmp_path, (noise(2) * 32767).astype(np.int16))
    paths = sorted((tmp_path / "audio_segments" / "train_1").glob("*.wav"))
    (paths[0].parent / LIST).unlink()  # as if other programs had made the segments
    for k in ks:
        replace(paths[k])
    assert call("audio_melspec", "--data-dir", tmp_path)[0] == 0
    made, wanted = specs(tmp_path, "train_1"), by_librosa(paths[0].parent, CFG)
    assert made.shape == wanted.shape and np.abs(made - wanted).max() <= 0.51


def test_a_png_holds_its_grey_levels(tmp_path):
    for shape in ((1, 1), (64, 101), (300, 500)):  # more than 65,535 bytes too
        picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        (tmp_path / "a.png").write_bytes(data := audio_melspec.png(picture))
        assert data[24:26] == bytes([8, 0])  # 8 bits, colour type grey
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED), picture)
        np.testing.assert_array_equal(np.rint(pyplot.imread(tmp_path / "a.png") * 255), picture)


def test_memory_does_not_grow_with_the_length(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_melspec, "BLOCK", 16)
    mel_spec = audio_melspec.mel_spec_of(CFG)

    def peak(seconds):
        (tmp_path / str(seconds)).mkdir()
        cut(tmp_path / str(seconds), voice_like(seconds), "--workers", "1")
        paths = audio_melspec.segment_paths(tmp_path / str(seconds) / "audio_segments" / "train_1")
        tracemalloc.start()
        blocks = audio_melspec.blocks_of(paths, np.full(len(paths), 640), mel_spec)
        audio_melspec.write_array(blocks, (len(paths), 1, 64, 101), tmp_path / f"{seconds}.npy", lambda n: None)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size
    assert peak(12) < peak(4) * 1.1 + 100_000  # names of 200 more segments; their spectrograms have 1,300,000 bytes


def test_louder_sound_is_brighter_by_its_decibels(tmp_path, call):
    quiet = noise(3, 0.05)
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[quiet, 2 * quiet, 4 * quiet]))
    first, second, third = specs(tmp_path, "train_1").astype(int)
    assert first.min() > 0 and third.max() < 255  # nothing is clipped
    six_db = 20 * np.log10(2) / STEP_DB  # 14.0 grey levels
    for brighter in (second - first, third - second):
        assert np.abs(brighter - six_db).max() <= 1.01 and abs(brighter.mean() - six_db) < 0.05


def test_black_is_db_min_and_white_db_max():
    db = np.array([-300, CFG.db_min, CFG.db_min + STEP_DB * 0.4, CFG.db_min + STEP_DB * 0.6, CFG.db_max, 300])
    assert to_grey(db, CFG.db_min, CFG.db_max).tolist() == [0, 0, 0, 1, 255, 255]


def test_low_frequencies_come_first_and_time_runs_to_the_right(tmp_path, call):
    t = np.arange(RATE) / RATE
    low_then_high = np.where(t < 0.5, np.sin(2 * np.pi * 300 * t), np.sin(2 * np.pi * 5000 * t)) * 0.3
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[low_then_high]))
    picture, centres = specs(tmp_path, "train_1")[0], librosa.mel_frequencies(CFG.n_mels + 2, fmax=RATE / 2)[1:-1]
    for column, frequency in ((20, 300), (80, 5000)):
        assert abs(picture[:, column].argmax() - np.abs(centres - frequency).argmin()) <= 1


# ---- a good run -----------------------------------------------------------------------------------------------------

def test_help_works(call):
    with pytest.raises(SystemExit) as end:
        call("audio_melspec", "--help")
    assert end.value.code == 0


def test_as_many_spectrograms_as_segments_in_their_order(tmp_path, call):
    tones = [0.3 * np.sin(2 * np.pi * (200 + 50 * k) * np.arange(RATE) / RATE) for k in range(70)]
    segmented(tmp_path, train_1=tones, train_10=tones[:2], train_2=tones[:3])
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path)
    assert code == 0 and "75 spectrograms" in out
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == ["train_1", "train_2", "train_10"]
    brightest = specs(tmp_path, "train_1").sum(2).argmax(1)
    assert len(brightest) == 70 and (np.diff(brightest) >= 0).all() and brightest[-1] > brightest[0] + 20


# ---- settings -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words", [
    ["--n-mels", "32"], ["--hop-length", "80"], ["--n-fft", "400"], ["--db-min", "-60"], ["--db-max", "0"],
])
def test_changed_settings_are_refused_and_what_was_made_stays(words, tmp_path, call):
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(11)]))
    before = specs(tmp_path, "train_1")
    code, out, err = call("audio_melspec", "--data-dir", tmp_path, *words)
    assert out == "" and words[0][2:].replace("-", "_") in one_line(code, err)
    np.testing.assert_array_equal(specs(tmp_path, "train_1"), before)


def test_segments_of_other_settings_are_refused_before_anything_is_read(tmp_path, call):
    note = segmented(tmp_path, train_1=[noise(12)]) / "audio_segments" / "settings.json"
    note.write_text(json.dumps({"audio_rate": 16000, "segment_s": 1.0}))
    code, out, err = call("audio_melspec", "--data-dir", tmp_path, "--audio-rate", "8000")
    assert out == "" and "audio_rate" in one_line(code, err)
    assert not (tmp_path / "specs").exists()
    assert call("audio_melspec", "--data-dir", tmp_path)[0] == 0


def test_spectrograms_of_segments_that_were_made_again_with_other_settings_are_refused(tmp_path, call):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "train_1.wav", noise(13), RATE)
    assert call("audio_extract", "--data-dir", tmp_path)[0] == call("audio_melspec", "--data-dir", tmp_path)[0] == 0
    shutil.rmtree(tmp_path / "audio_segments")
    assert call("audio_extract", "--data-dir", tmp_path, "--segment-at", "causal")[0] == 0
    code, _, err = call("audio_melspec", "--data-dir", tmp_path)
    assert "segment_at" in one_line(code, err)


# ---- bad input ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 1000), lambda path: path.write_text("hello"),
    lambda path: soundfile.write(path, noise(0), 8000),
    lambda path: soundfile.write(path, noise(0, samples=RATE - 1), RATE),
    lambda path: soundfile.write(path, np.zeros((RATE, 2)), RATE), lambda path: path.unlink(),
], ids=["empty", "truncated", "text", "other rate", "other length", "stereo", "missing"])
def test_a_damaged_or_missing_segment_is_named_and_the_others_are_done(damage, tmp_path, call):
    segmented(tmp_path, train_1=[noise(14)] * 3, train_2=[noise(15)])
    damage(path := tmp_path / "audio_segments" / "train_1" / "000001.wav")
    code, out, err = call("audio_melspec", "--data-dir", tmp_path)
    assert "train_1" in one_line(code, err) and str(path) in failure(out) and "audio_extract.py" in failure(out)
    assert there(tmp_path) == ["settings.json", "train_2"]


def test_a_recording_of_no_segments_is_an_error(tmp_path, call):
    segmented(tmp_path, train_1=[], train_2=[noise(16)])
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path)
    assert code == 1 and "000000.wav is missing" in failure(out) and len(specs(tmp_path, "train_2")) == 1


def test_a_number_of_spectrograms_that_is_not_the_number_of_segments_is_an_error(tmp_path, call):
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(17)] * 3))
    (tmp_path / "specs" / "train_1" / "000001.png").unlink()
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path)
    assert code == 1 and "2 spectrograms, 3 were expected" in failure(out)


def test_a_missing_step_names_the_script_to_run(tmp_path, call):
    code, out, err = call("audio_melspec", "--data-dir", tmp_path)
    assert out == "" and "audio_extract.py" in one_line(code, err)
    assert list(tmp_path.iterdir()) == []


# ---- stopped half-way -----------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import audio_melspec
audio_melspec.BLOCK = 4
left, spectrograms = int(sys.argv[1]), audio_melspec.spectrograms
def killed_later(*args):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return spectrograms(*args)
audio_melspec.spectrograms = killed_later
audio_melspec.main(sys.argv[2:])
"""


def killed_after(blocks, *words):
    """A run that is killed when it has made so many blocks of 4 spectrograms."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(blocks), *map(str, words)], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, cwd=os.path.dirname(audio_melspec.__file__))
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize("spec_files", ["pictures", "array"])
def test_a_recording_in_which_a_run_was_killed_is_not_there_and_the_next_run_makes_it_whole(spec_files, tmp_path, call):
    words, once = ["--spec-files", spec_files], tmp_path / "once"
    segmented(tmp_path, train_1=[noise(18)] * 3, train_2=[noise(k) for k in range(10)])
    shutil.copytree(tmp_path / "audio_segments", once / "audio_segments")
    assert call("audio_melspec", "--data-dir", once, *words)[0] == 0
    killed_after(1 + 2, "--data-dir", tmp_path, *words)
    assert there(tmp_path) == ["settings.json", "train_1" + ".npy" * (spec_files == "array")]
    part, = (tmp_path / "specs").glob(".*.part")
    assert list(part.iterdir())  # it was at work
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path, *words)
    assert code == 0 and out.count("(done before)") == 1
    assert files_of(tmp_path / "specs") == files_of(once / "specs")


@pytest.mark.parametrize("error,code", [
    (KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1),
], ids=["ctrl-c", "full disk"])
def test_ctrl_c_and_a_full_disk_end_in_one_line_and_the_next_run_is_whole(error, code, tmp_path, call, monkeypatch):
    segmented(tmp_path, train_1=[noise(20)] * 3, train_2=[noise(21)] * 3)
    whole, written = audio_melspec.write_bytes, iter(range(100))

    def write_bytes(path, *parts):
        if next(written) == 4:
            raise error
        whole(path, *parts)
    monkeypatch.setattr(audio_melspec, "write_bytes", write_bytes)
    ended, _, err = call("audio_melspec", "--data-dir", tmp_path)
    assert code == 130 or str(tmp_path / "specs" / "train_2") in err
    one_line(ended, err, code)
    assert sorted(path.name for path in (tmp_path / "specs").iterdir()) == ["settings.json", "train_1"]
    assert len(specs(tmp_path, "train_1")) == 3
    monkeypatch.setattr(audio_melspec, "write_bytes", whole)
    assert call("audio_melspec", "--data-dir", tmp_path)[0] == 0
    assert len(specs(tmp_path, "train_2")) == 3


@pytest.mark.parametrize("spec_files", ["pictures", "array"])
def test_a_disk_that_takes_no_more_is_an_error_without_a_traceback(spec_files, tmp_path, call):
    resource = pytest.importorskip("resource")
    segmented(tmp_path, train_1=[noise(24)] * 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))  # the kernel refuses, as it does when a disk is full
    try:
        code, out, err = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", spec_files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "specs") in one_line(code, err) + out
    assert [path.name for path in (tmp_path / "specs").iterdir()] == ["settings.json"]
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
    assert "train_2" not in out and "2 recordings" in out  # the first shard, which came last
    one = files_of(tmp_path / "one" / "specs")
    assert len(one) == 1 + (12 if spec_files == "pictures" else 3)
    assert files_of(tmp_path / "two" / "specs") == files_of(tmp_path / "shards" / "specs") == one


def test_a_shard_is_the_same_however_many_segments_other_jobs_have_made(tmp_path, call):
    folder = segmented(tmp_path, a=[noise(1)], c=[noise(2)])
    (folder / "audio").mkdir()
    for name in "abcd":
        soundfile.write(folder / "audio" / f"{name}.wav", noise(3), RATE)
    out = call("audio_melspec", "--data-dir", folder, "--shard", "1/2")[1]
    assert there(folder) == ["a", "c", "settings.json"] and "has no" not in out
    segmented(tmp_path, b=[noise(4)])
    out = call("audio_melspec", "--data-dir", folder, "--shard", "2/2")[1]
    assert (folder / "specs" / "b").exists() and "has no d" in out


def test_an_empty_shard_says_so_and_is_no_error(tmp_path, call):
    code, out, err = call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(28)]), "--shard", "2/2")
    assert (code, err) == (0, "") and "shard 2/2" in out
    assert not (tmp_path / "specs" / "train_1").exists()


@pytest.mark.parametrize("spec_files,made", [("pictures", "train_1"), ("array", "train_1.npy")])
def test_a_recording_that_another_process_makes_is_left_to_it(spec_files, made, tmp_path, call):
    pytest.importorskip("fcntl")
    segmented(tmp_path, train_1=[noise(29)], train_2=[noise(30)])
    with claimed_part(tmp_path / "specs" / made) as part:
        code, out, err = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", spec_files)
        assert "train_1" in one_line(code, err) and "another process" in failure(out)
        assert part.exists() and (tmp_path / "specs" / made.replace("1", "2")).exists()


# ---- one array instead of pictures ----------------------------------------------------------------------------------

def test_the_array_holds_the_pictures(tmp_path, call, monkeypatch):
    monkeypatch.setattr(audio_melspec, "BLOCK", 16)
    cut(tmp_path, voice_like(2))
    shutil.copytree(tmp_path, tmp_path / "pictures")
    assert call("audio_melspec", "--data-dir", tmp_path / "pictures")[0] == 0
    code, out, err = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", "array")
    assert (code, err) == (0, "") and "50 spectrograms" in out
    assert sorted(path.name for path in (tmp_path / "specs").iterdir()) == ["settings.json", "train_1.npy"]
    array = np.load(tmp_path / "specs" / "train_1.npy", mmap_mode="r")
    assert array.shape == (50, 1, 64, 101) and array.dtype == np.uint8
    np.testing.assert_array_equal(array[:, 0], specs(tmp_path / "pictures", "train_1"))
    os.utime(tmp_path / "specs" / "train_1.npy", (1, 1))
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", "array")
    assert code == 0 and "nothing to do" in out and (tmp_path / "specs" / "train_1.npy").stat().st_mtime == 1


@pytest.mark.parametrize("first,second", [("pictures", "array"), ("array", "pictures")])
def test_a_folder_holds_pictures_or_arrays_and_never_both(first, second, tmp_path, call):
    segmented(tmp_path, train_1=[noise(31)], train_2=[noise(32)])
    call("audio_melspec", "--data-dir", tmp_path, "--spec-files", first, "--recordings", "train_1")
    code, out, err = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", second)
    assert out == "" and "spec_files" in one_line(code, err)


def test_folders_from_before_there_were_arrays_hold_pictures(tmp_path, call):
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(33)]))
    note = tmp_path / "specs" / "settings.json"
    settings = json.loads(note.read_text())
    del settings["spec_files"], settings["crc32"]
    note.write_text(json.dumps(settings))
    assert call("audio_melspec", "--data-dir", tmp_path, "--spec-files", "array")[0] == 1
    assert call("audio_melspec", "--data-dir", tmp_path)[0] == 0


@pytest.mark.parametrize("damage,keyword", [
    (lambda path: os.truncate(path, path.stat().st_size - 1), "damaged"),
    (lambda path: path.write_bytes(b""), "damaged"),
    (lambda path: np.save(path, np.zeros((2, 1, 64, 101), np.uint8)), "2 spectrograms, 3 were expected"),
], ids=["truncated", "empty", "short"])
def test_an_array_that_is_not_of_these_segments_is_an_error(damage, keyword, tmp_path, call):
    call("audio_melspec", "--data-dir", segmented(tmp_path, train_1=[noise(34)] * 3), "--spec-files", "array")
    damage(tmp_path / "specs" / "train_1.npy")
    code, out, _ = call("audio_melspec", "--data-dir", tmp_path, "--spec-files", "array")
    assert code == 1 and str(tmp_path / "specs" / "train_1.npy") in failure(out) and keyword in failure(out)
