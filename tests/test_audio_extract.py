"""Step 2: raw sound -> one audio segment per frame."""
import errno
import os
import signal
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import soundfile
from conftest import files_of, one_line
from hypothesis import given, settings
from hypothesis import strategies as st

import audio_extract
from audio_extract import windows
from drawn.people import write_video
from support.files import whole_folder

RATE = 16000


def noise(seconds, seed=0):
    return (np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE)) * 32767).astype(np.int16)


def sounding(folder, **sounds):
    """A data folder that holds sound alone: id -> int16 samples at RATE."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    for name, sound in sounds.items():
        soundfile.write(folder / "audio" / f"{name}.wav", sound, RATE, subtype="PCM_16")
    return folder


def give_rows(folder, name, count):
    """What annotations.py leaves to count frames by."""
    table = folder / "Annotations" / "Train_Set" / f"{name}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("image path,arousal,valence\n" + "x,0,0\n" * count)


def give_video(folder, name, frames, sound=None):
    pictures = [np.full((64, 64, 3), k, np.uint8) for k in range(frames)]
    write_video(folder / "videos" / f"{name}.mp4", pictures, sound)


def segments(folder, name):
    """(K, N) int16 of a recording's segments; fails where files are missing or not mono 16 bit at RATE."""
    paths = sorted((folder / "audio_segments" / name).glob("*.wav"))
    assert [path.name for path in paths] == [f"{k:06d}.wav" for k in range(len(paths))]
    for path in paths:
        about = soundfile.info(path)
        assert (about.samplerate, about.channels, about.subtype) == (RATE, 1, "PCM_16")
    return np.stack([soundfile.read(path, dtype="int16")[0] for path in paths])


def failure(out):
    """The line about the one recording that failed."""
    lines = [line for line in out.splitlines() if "FAILED" in line]
    assert len(lines) == 1, out
    return lines[0]


def expected(sound, frames, step, length, lead):
    """Windows by padding and slicing."""
    padded = np.concatenate([np.zeros(lead, np.int16), sound, np.zeros(length + int(frames * step) + 1, np.int16)])
    return np.array([padded[round(k * step):][:length] for k in range(frames)]).reshape(frames, length)


# ---- windows --------------------------------------------------------------------------------------------------------

@settings(deadline=None)
@given(st.data())
def test_windows_are_slices_of_the_padded_sound(data):
    length, step = data.draw(st.integers(1, 60)), data.draw(st.floats(0.5, 40))
    lead, frames = data.draw(st.sampled_from([length // 2, length])), data.draw(st.integers(0, 30))
    sizes = data.draw(st.lists(st.integers(0, 50), max_size=12))
    sound = np.arange(1, sum(sizes) + 1, dtype=np.int16)
    blocks = iter(np.split(sound, np.cumsum(sizes)))
    cut = [segment.copy() for segment in windows(blocks, frames, step, length, lead, np.inf)]
    np.testing.assert_array_equal(np.reshape(cut, (frames, length)), expected(sound, frames, step, length, lead))


def test_sound_may_be_short_by_what_is_allowed_and_no_more():
    step, frames = 10, 20
    assert len(list(windows(iter([np.ones(160, np.int16)]), frames, step, 30, 15, allowed=30))) == 20
    with pytest.raises(EOFError, match="frame 16 of 20"):
        list(windows(iter([np.ones(160, np.int16)]), frames, step, 30, 15, allowed=29))


def test_memory_does_not_grow_with_the_length():
    def peak(seconds):
        blocks = (np.ones(1024, np.int16) for _ in range(seconds * RATE // 1024 + 1))
        tracemalloc.start()
        for _ in windows(blocks, seconds * 25, RATE / 25, RATE, RATE // 2, 0):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size
    short, long = peak(10), peak(300)
    assert long < short * 1.2 and long < 300 * RATE * 2 / 20


# ---- a good run -----------------------------------------------------------------------------------------------------

def test_help_works(call):
    with pytest.raises(SystemExit) as end:
        call("audio_extract", "--help")
    assert end.value.code == 0


@pytest.mark.parametrize("place,lead", [("centred", 4000), ("causal", 8000)])
def test_segments_hold_the_sound_around_their_frame_or_before_it(place, lead, tmp_path, call):
    sound = noise(1.2)
    sounding(tmp_path, train_1=sound)
    code, out, err = call("audio_extract", "--data-dir", tmp_path, "--segment-s", "0.5", "--segment-at", place)
    assert (code, err) == (0, "") and "30 segments" in out
    np.testing.assert_array_equal(segments(tmp_path, "train_1"), expected(sound, 30, 640, 8000, lead))


def test_a_causal_segment_holds_nothing_after_its_frame(tmp_path, call):
    sound = np.zeros(RATE, np.int16)
    sound[6400:] = 999  # from frame 10 on
    call("audio_extract", "--data-dir", sounding(tmp_path, train_1=sound), "--segment-at", "causal")
    loud = segments(tmp_path, "train_1").any(1)
    assert loud.tolist() == [k > 10 for k in range(25)]


def test_frame_rates_that_do_not_divide_the_sample_rate_do_not_drift(tmp_path, call):
    sound = noise(3)
    sounding(tmp_path, train_1=sound)
    call("audio_extract", "--data-dir", tmp_path, "--segment-s", "0.1", "--frame-rate", "29.97")
    made = segments(tmp_path, "train_1")
    assert len(made) == 90
    for k in (0, 1, 44, 89):
        start = int(Fraction(k * RATE * 100, 2997) + Fraction(1, 2)) - 800
        inside = sound[max(0, start):start + 1600]
        assert made[k][max(0, -start):][:len(inside)].tolist() == inside.tolist()


def test_there_is_a_segment_for_every_crop_or_else_video_frame_or_rating_or_as_the_sound_is_long(tmp_path, call):
    sounding(tmp_path, train_1=noise(2), train_2=noise(2), train_3=noise(2), train_4=noise(2))
    for name, count in (("train_1", 47), ("train_2", 47), ("train_3", 47)):
        give_rows(tmp_path, name, count)
    give_video(tmp_path, "train_1", 48)
    give_video(tmp_path, "train_2", 48)
    (tmp_path / "Cropped_Aligned" / "train_1").mkdir(parents=True)
    (tmp_path / "Cropped_Aligned" / "train_1" / "faces.csv").write_text("time_s\n" + "0\n" * 49)
    assert call("audio_extract", "--data-dir", tmp_path, "--segment-s", "0.1")[0] == 0
    assert [len(segments(tmp_path, f"train_{n}")) for n in (1, 2, 3, 4)] == [49, 48, 47, 50]


def test_a_second_run_does_nothing_and_says_so(tmp_path, call):
    sounding(tmp_path, train_1=noise(0.5), train_2=noise(0.5))
    call("audio_extract", "--data-dir", tmp_path)
    made = tmp_path / "audio_segments" / "train_1" / "000000.wav"
    os.utime(made, (1, 1))
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 0 and "nothing to do" in out
    assert made.stat().st_mtime == 1


def test_a_new_recording_is_added_to_those_done(tmp_path, call):
    call("audio_extract", "--data-dir", sounding(tmp_path, train_1=noise(0.5)))
    made = tmp_path / "audio_segments" / "train_1" / "000000.wav"
    os.utime(made, (1, 1))
    assert call("audio_extract", "--data-dir", sounding(tmp_path, train_2=noise(0.5)))[0] == 0
    assert made.stat().st_mtime == 1
    assert len(segments(tmp_path, "train_2")) == 12


def test_only_the_given_recordings_are_done(tmp_path, call):
    sounding(tmp_path, train_1=noise(0.5), train_2=noise(0.5))
    call("audio_extract", "--data-dir", tmp_path, "--recordings", "train_2")
    assert not (tmp_path / "audio_segments" / "train_1").exists() and (tmp_path / "audio_segments" / "train_2").exists()


@pytest.mark.parametrize("words", [
    ["--segment-s", "0.5"], ["--segment-at", "causal"], ["--audio-rate", "8000"], ["--frame-rate", "30"],
    ["--audio-channel", "1"],
])
def test_changed_settings_are_refused_and_what_was_made_stays(words, tmp_path, call):
    call("audio_extract", "--data-dir", sounding(tmp_path, train_1=noise(0.5)))
    before = segments(tmp_path, "train_1")
    code, out, err = call("audio_extract", "--data-dir", tmp_path, *words)
    assert out == "" and words[0][2:].replace("-", "_") in one_line(code, err)
    np.testing.assert_array_equal(segments(tmp_path, "train_1"), before)


def test_where_there_is_no_wav_the_videos_own_sound_is_taken(raw, call):
    own = soundfile.read(raw / "audio" / "train_1.wav", dtype="int16")[0]
    (raw / "audio" / "train_1.wav").unlink()
    code, out, _ = call("audio_extract", "--data-dir", raw)
    assert code == 0 and str(raw / "videos" / "train_1.mp4") in out and str(raw / "audio" / "train_2.wav") in out
    made = segments(raw, "train_1")
    assert made.shape == (60, RATE)
    for k in (0, 30, 59):
        wanted = expected(own, 60, 640, RATE, RATE // 2)[k]
        shifts = [np.corrcoef(made[k][64:-64], np.roll(wanted, shift)[64:-64])[0, 1] for shift in range(-32, 33)]
        assert max(shifts) > 0.95 and abs(int(np.argmax(shifts)) - 32) <= 1  # AAC is lossy, and in time


# ---- bad input ------------------------------------------------------------------------------------------------------

def test_a_video_without_sound_is_one_line_and_the_others_are_done(tmp_path, call):
    give_video(sounding(tmp_path, train_2=noise(1)), "train_1", 10)
    code, out, err = call("audio_extract", "--data-dir", tmp_path)
    assert "train_1" in one_line(code, err) and "no sound track" in failure(out)
    assert not (tmp_path / "audio_segments" / "train_1").exists() and len(segments(tmp_path, "train_2")) == 25
    sounding(tmp_path, train_1=noise(1))  # as the message says
    assert call("audio_extract", "--data-dir", tmp_path)[0] == 0
    assert len(segments(tmp_path, "train_1")) == 10


@pytest.mark.parametrize("damage,reason", [
    (lambda path: path.write_bytes(b""), "empty"),
    (lambda path: os.truncate(path, path.stat().st_size // 2), "cut short"),
    (lambda path: path.write_text("hello"), "cannot be read"),
    (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
], ids=["empty", "truncated", "text", "folder"])
def test_a_damaged_video_is_one_line_and_the_others_are_done(damage, reason, tmp_path, call):
    give_video(sounding(tmp_path, train_2=noise(1)), "train_1", 10, np.zeros(6400, np.float32))
    damage(tmp_path / "videos" / "train_1.mp4")
    code, out, err = call("audio_extract", "--data-dir", tmp_path)
    assert "train_1" in one_line(code, err)
    assert str(tmp_path / "videos" / "train_1.mp4") in failure(out) and reason in failure(out)
    left = {path.name for path in (tmp_path / "audio_segments").iterdir() if path.suffix != ".failed"}
    assert left == {"settings.json", "train_2"}


@pytest.mark.parametrize("data", [b"", b"RIFF", b"hello"])
def test_a_damaged_wav_is_one_line_that_names_it(data, tmp_path, call):
    (sounding(tmp_path, train_2=noise(0.5)) / "audio" / "train_1.wav").write_bytes(data)
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and str(tmp_path / "audio" / "train_1.wav") in failure(out)
    assert len(segments(tmp_path, "train_2")) == 12


def test_a_wav_of_no_samples_is_an_error(tmp_path, call):
    give_rows(sounding(tmp_path, train_1=noise(0), train_2=noise(0)), "train_1", 10)
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and out.count("FAILED") == 2
    assert not list((tmp_path / "audio_segments").glob("*/"))


def test_sound_damaged_in_the_middle_is_silent_there_and_said(tmp_path, call):
    path = sounding(tmp_path) / "audio" / "train_1.flac"
    soundfile.write(path, noise(10), RATE)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle:middle + 3000] = np.random.default_rng(1).bytes(3000)
    path.write_bytes(data)
    code, out, err = call("audio_extract", "--data-dir", tmp_path)
    assert (code, err) == (0, "") and "silent there" in next(line for line in out.splitlines() if "train_1" in line)
    assert len(segments(tmp_path, "train_1")) == 250


def test_sound_that_ends_early_is_silent_to_the_end_and_said(tmp_path, call):
    give_rows(sounding(tmp_path, train_1=noise(3)), "train_1", 125)
    code, out, _ = call("audio_extract", "--data-dir", tmp_path, "--segment-s", "0.1")
    assert code == 0 and "ends 2.0 s before the last frame" in out
    assert segments(tmp_path, "train_1").any(1).tolist() == [k * 640 - 800 < 3 * RATE for k in range(125)]


def test_the_given_channel_is_cut(tmp_path, call):
    sounding(tmp_path, train_1=np.stack([noise(1), noise(1, seed=3)], 1))
    assert call("audio_extract", "--data-dir", tmp_path, "--audio-channel", "2")[0] == 0
    np.testing.assert_array_equal(segments(tmp_path, "train_1"), expected(noise(1, seed=3), 25, 640, RATE, RATE // 2))


def test_sound_that_is_too_short_names_where_it_ends(tmp_path, call):
    give_rows(sounding(tmp_path, train_1=noise(1), train_2=noise(1)), "train_1", 100)
    give_rows(tmp_path, "train_2", 40)  # the sound ends 0.6 s before: silence
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and str(tmp_path / "audio" / "train_1.wav") in failure(out) and "frame 25 of 100" in failure(out)
    assert not (tmp_path / "audio_segments" / "train_1").exists()
    assert len(segments(tmp_path, "train_2")) == 40


def test_sound_after_the_last_segment_is_reported(tmp_path, call):
    give_rows(sounding(tmp_path, train_1=noise(4), train_2=noise(1.2)), "train_1", 25)
    give_rows(tmp_path, "train_2", 25)
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    lines = [line for line in out.splitlines() if "left out" in line]
    assert code == 0 and len(lines) == 1 and lines[0].startswith("train_1")
    assert "2.5 s" in lines[0]  # the last one ends at 0.96 s + 0.5 s


def test_missing_sound_says_where_to_put_it(tmp_path, call):
    code, out, err = call("audio_extract", "--data-dir", tmp_path)
    assert out == "" and str(tmp_path / "audio") in one_line(code, err) and str(tmp_path / "videos") in err
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_segments_that_is_not_the_number_of_frames_is_an_error(tmp_path, call):
    call("audio_extract", "--data-dir", sounding(tmp_path, train_1=noise(0.5)))
    (tmp_path / "audio_segments" / "train_1" / "000003.wav").unlink()
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and "11 segments, 12 were expected" in failure(out)


# ---- stopped half-way -----------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import audio_extract
write, count, last = audio_extract.write_bytes, [0], int(sys.argv[1])
def write_bytes(path, *parts):
    count[0] += 1
    if count[0] == last:
        data = b"".join(parts)
        write(path, data[:len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, *parts)
audio_extract.write_bytes = write_bytes
audio_extract.main(sys.argv[2:])
"""


def killed_at(write, *words):
    """A run that is killed in the middle of its `write`-th file."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(write), *map(str, words)], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, cwd=os.path.dirname(audio_extract.__file__))
    assert ended.returncode == -signal.SIGKILL


def test_a_recording_in_which_a_run_was_killed_is_not_there_and_the_next_run_makes_it_whole(tmp_path, call):
    sounds = {"train_1": noise(0.5, seed=1), "train_2": noise(0.5, seed=2)}
    call("audio_extract", "--data-dir", sounding(tmp_path / "once", **sounds))
    sounding(tmp_path / "killed", **sounds)
    made = tmp_path / "killed" / "audio_segments"
    killed_at(20, "--data-dir", tmp_path / "killed")
    assert [path.name for path in sorted(made.glob("[!.]*"))] == ["settings.json", "train_1"]
    os.utime(made / "train_1" / "000000.wav", (1, 1))
    assert call("audio_extract", "--data-dir", tmp_path / "killed")[0] == 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "once")
    assert (made / "train_1" / "000000.wav").stat().st_mtime == 1  # what was whole is not made again


def test_nothing_of_a_killed_run_is_used_for_another_sound(tmp_path, call):
    killed_at(8, "--data-dir", sounding(tmp_path, train_1=noise(0.5)))
    sounding(tmp_path, train_1=noise(0.3, seed=9))
    assert call("audio_extract", "--data-dir", tmp_path)[0] == 0
    np.testing.assert_array_equal(segments(tmp_path, "train_1"), expected(noise(0.3, seed=9), 8, 640, RATE, RATE // 2))


@pytest.mark.parametrize("error,code", [
    (KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1),
], ids=["ctrl-c", "full disk"])
def test_ctrl_c_and_a_full_disk_end_in_one_line_and_the_next_run_is_whole(error, code, tmp_path, call, monkeypatch):
    sounding(tmp_path, train_1=noise(0.5), train_2=noise(0.5))
    whole, calls = audio_extract.write_bytes, iter(range(1000))

    def write_bytes(path, *parts):
        if next(calls) == 20:
            raise error
        whole(path, *parts)
    monkeypatch.setattr(audio_extract, "write_bytes", write_bytes)
    ended, _, err = call("audio_extract", "--data-dir", tmp_path)
    assert code == 130 or str(tmp_path / "audio_segments" / "train_2") in err
    one_line(ended, err, code)
    assert sorted(path.name for path in (tmp_path / "audio_segments").iterdir()) == ["settings.json", "train_1"]
    monkeypatch.setattr(audio_extract, "write_bytes", whole)
    assert call("audio_extract", "--data-dir", tmp_path)[0] == 0
    assert len(segments(tmp_path, "train_2")) == 12


# ---- several at once ------------------------------------------------------------------------------------------------

def test_workers_and_shards_write_the_same_bytes_as_one_run(tmp_path, call):
    sounds = {f"train_{number}": noise(0.5 + number / 10, seed=number) for number in (1, 2, 3)}
    ways = {"one": [[]], "two": [["--workers", "2"]], "shards": [["--shard", f"{i}/2"] for i in (2, 1)]}
    for way, runs in ways.items():
        sounding(tmp_path / way, **sounds)
        for words in runs:
            code, out, err = call("audio_extract", "--data-dir", tmp_path / way, "--segment-s", "0.1", *words)
            assert code == 0 and err == ""
    assert "train_2" not in out and "2 recordings" in out  # the first shard, which came last
    one = files_of(tmp_path / "one")
    assert len(one) == 3 + 1 + 3 + sum(len(segments(tmp_path / "one", name)) for name in sounds)
    assert files_of(tmp_path / "two") == one and files_of(tmp_path / "shards") == one


def test_an_empty_shard_says_so_and_is_no_error(tmp_path, call):
    code, out, err = call("audio_extract", "--data-dir", sounding(tmp_path, train_1=noise(0.5)), "--shard", "2/2")
    assert (code, err) == (0, "") and "shard 2/2" in out
    assert not (tmp_path / "audio_segments" / "train_1").exists()


def test_a_recording_that_another_process_makes_is_left_to_it_and_the_others_are_done(tmp_path, call):
    pytest.importorskip("fcntl")
    sounding(tmp_path, train_1=noise(0.5), train_2=noise(0.5))
    with whole_folder(tmp_path / "audio_segments" / "train_1") as part:
        code, out, err = call("audio_extract", "--data-dir", tmp_path)
        assert "train_1" in one_line(code, err) and "another process" in failure(out)
        assert part.exists() and len(segments(tmp_path, "train_2")) == 12


def test_a_disk_that_takes_no_more_is_an_error_without_a_traceback(tmp_path, call):
    resource = pytest.importorskip("resource")
    sounding(tmp_path, train_1=noise(0.5))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the kernel refuses, as it does when a disk is full
    try:
        code, out, err = call("audio_extract", "--data-dir", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "train_1" in one_line(code, err) and not (tmp_path / "audio_segments" / "train_1").exists()


def test_a_file_that_must_not_be_read_does_not_stop_the_others(tmp_path, call):
    if os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    (sounding(tmp_path, train_1=noise(0.5), train_2=noise(0.5)) / "audio" / "train_1.wav").chmod(0)
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and "train_1" in failure(out) and len(segments(tmp_path, "train_2")) == 12


def test_a_folder_in_the_place_of_a_sound_is_not_passed_over_for_the_videos_sound(tmp_path, call):
    give_video(tmp_path, "train_1", 25, noise(1))
    (tmp_path / "audio" / "train_1.wav").mkdir(parents=True)
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and "audio/train_1.wav is a folder" in failure(out)
    assert not (tmp_path / "audio_segments" / "train_1").exists()
