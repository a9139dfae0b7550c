"""Step 2: raw sound -> one audio segment per frame."""
import errno
import os
import signal
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

import audio_extract
from audio_extract import windows
from drawn.people import write_video
from support import media
from support.errors import UserError
from support.media import read_sound

RATE = 16000


def noise(seconds, rate=RATE, channels=None, seed=0):
    shape = round(seconds * rate) if channels is None else (round(seconds * rate), channels)
    return (np.random.default_rng(seed).uniform(-0.5, 0.5, shape) * 32767).astype(np.int16)


def sounding(folder, **sounds):
    """A data folder that holds sound alone: id -> int16 samples at RATE."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    for name, sound in sounds.items():
        soundfile.write(folder / "audio" / f"{name}.wav", sound, RATE, subtype="PCM_16")
    return folder


def give_rows(folder, name, count):
    """What annotations.py leaves to count frames by."""
    (folder / "Annotations" / "Train_Set").mkdir(parents=True, exist_ok=True)
    (folder / "Annotations" / "Train_Set" / f"{name}.csv").write_text("image path,arousal,valence\n" + "x,0,0\n" * count)


def give_video(folder, name, frames, sound=None):
    write_video(folder / "videos" / f"{name}.mp4", [np.full((64, 64, 3), k, np.uint8) for k in range(frames)], sound)


def segments(folder, name):
    """(K, N) int16 of a recording's segments; fails where files are missing or not mono 16 bit at RATE."""
    paths = sorted((folder / "audio_segments" / name).iterdir())
    assert [path.name for path in paths] == [f"{k:06d}.wav" for k in range(len(paths))]
    for path in paths:
        about = soundfile.info(path)
        assert (about.samplerate, about.channels, about.subtype) == (RATE, 1, "PCM_16")
    return np.stack([soundfile.read(path, dtype="int16")[0] for path in paths])


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


def test_memory_does_not_grow_with_the_file(tmp_path):
    sounding(tmp_path, long=np.zeros(300 * RATE, np.int16))
    tracemalloc.start()
    assert sum(len(block) for block in read_sound(tmp_path / "audio" / "long.wav", RATE)) == 300 * RATE
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size < 1_000_000  # 9,600,000 bytes are in it


# ---- a good run -----------------------------------------------------------------------------------------------------

def test_help_works(call):
    with pytest.raises(SystemExit) as end:
        call("audio_extract", "--help")
    assert end.value.code == 0


@pytest.mark.parametrize("place,lead", [("centred", 4000), ("causal", 8000)])
def test_segments_hold_the_sound_around_their_frame_or_before_it(place, lead, tmp_path, call):
    sound = noise(1.2)
    code, out, err = call("audio_extract", "--data-dir", sounding(tmp_path, train_1=sound), "--segment-s", "0.5", "--segment-at", place)
    assert (code, err) == (0, "") and "30 segments of 1 recordings" in out
    np.testing.assert_array_equal(segments(tmp_path, "train_1"), expected(sound, 30, 640, 8000, lead))


def test_a_causal_segment_holds_nothing_after_its_frame(tmp_path, call):
    sound = np.zeros(RATE, np.int16)
    sound[6400:] = 999  # from frame 10 on
    call("audio_extract", "--data-dir", sounding(tmp_path, train_1=sound), "--segment-at", "causal")
    heard = segments(tmp_path, "train_1").any(1)
    assert heard.tolist() == [k > 10 for k in range(25)]


def test_frame_rates_that_do_not_divide_the_sample_rate_do_not_drift(tmp_path, call):
    sound = noise(3)
    call("audio_extract", "--data-dir", sounding(tmp_path, train_1=sound), "--segment-s", "0.1", "--frame-rate", "29.97")
    made = segments(tmp_path, "train_1")
    assert len(made) == 90
    for k in (0, 1, 44, 89):
        start = int(Fraction(k * RATE * 100, 2997) + Fraction(1, 2)) - 800
        inside = sound[max(0, start):start + 1600]
        assert made[k][max(0, -start):][:len(inside)].tolist() == inside.tolist()


def test_as_many_segments_as_frames_crops_first_then_video_then_ratings_then_sound(tmp_path, call):
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
    assert code == 0 and "nothing to do, all were done before" in out and out.count("(done before)") == 2
    assert made.stat().st_mtime == 1


def test_a_new_recording_is_added_to_those_done(tmp_path, call):
    call("audio_extract", "--data-dir", sounding(tmp_path, train_1=noise(0.5)))
    code, out, _ = call("audio_extract", "--data-dir", sounding(tmp_path, train_2=noise(0.5)))
    assert code == 0 and out.count("(done before)") == 1 and "nothing to do" not in out
    assert len(segments(tmp_path, "train_2")) == 12


def test_only_the_recordings_asked_for_are_done(tmp_path, call):
    call("audio_extract", "--data-dir", sounding(tmp_path, train_1=noise(0.5), train_2=noise(0.5)), "--recordings", "train_2")
    assert not (tmp_path / "audio_segments" / "train_1").exists() and (tmp_path / "audio_segments" / "train_2").exists()


@pytest.mark.parametrize("words", [["--segment-s", "0.5"], ["--segment-at", "causal"], ["--audio-rate", "8000"], ["--frame-rate", "30"]])
def test_changed_settings_are_refused_and_what_was_made_stays(words, tmp_path, call):
    call("audio_extract", "--data-dir", sounding(tmp_path, train_1=noise(0.5)))
    before = segments(tmp_path, "train_1")
    code, out, err = call("audio_extract", "--data-dir", tmp_path, *words)
    assert code == 1 and out == "" and words[0][2:].replace("-", "_") in err and "delete" in err and err.count("\n") == 1
    np.testing.assert_array_equal(segments(tmp_path, "train_1"), before)


# ---- kinds of sound -------------------------------------------------------------------------------------------------

def test_stereo_at_44100_becomes_its_mean_at_the_rate_asked_for(tmp_path):
    t = np.arange(44100) / 44100
    stereo = np.stack([0.4 * np.sin(2 * np.pi * 440 * t), 0.2 * np.sin(2 * np.pi * 1500 * t)], 1)
    soundfile.write(tmp_path / "a.wav", stereo, 44100, subtype="FLOAT")
    made = np.concatenate(list(read_sound(tmp_path / "a.wav", RATE))) / 32768
    reference = resample_poly(stereo.mean(1), 160, 441)
    assert len(made) == RATE
    np.testing.assert_allclose(made[200:-200], reference[200:-200], atol=2e-3)


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_a_click_stays_where_it_is(rate, tmp_path):
    sound = np.zeros(rate)
    sound[rate // 2] = 0.9
    soundfile.write(tmp_path / "a.flac", sound, rate)
    made = np.concatenate(list(read_sound(tmp_path / "a.flac", RATE)))
    assert abs(np.abs(made.astype(int)).argmax() - RATE // 2) <= 1


@pytest.mark.parametrize("rate,channels", [(16000, 1), (16000, 2), (44100, 1), (44100, 2), (8000, 1)])
def test_a_plain_wav_becomes_what_ffmpeg_makes_of_it(rate, channels, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(2.7, rate, channels), rate, subtype="PCM_16")
    assert media.is_plain(tmp_path / "a.wav")
    made = np.concatenate(list(read_sound(tmp_path / "a.wav", RATE)))
    monkeypatch.setattr(audio_extract, "is_plain", lambda path: False)
    np.testing.assert_array_equal(made, np.concatenate(list(read_sound(tmp_path / "a.wav", RATE))))


def test_other_wavs_are_not_plain(tmp_path):
    for subtype, channels in (("PCM_24", 1), ("FLOAT", 1), ("ULAW", 1), ("PCM_16", 4)):
        soundfile.write(tmp_path / "a.wav", noise(0.5, channels=channels), RATE, subtype=subtype)
        assert not media.is_plain(tmp_path / "a.wav")
        assert sum(map(len, read_sound(tmp_path / "a.wav", RATE))) == RATE // 2


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 99_999_999])
def test_a_wav_whose_header_does_not_know_its_length_is_read_to_its_end(length, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(4), RATE, subtype="PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[40:44] = length.to_bytes(4, "little")  # as programs leave it that write to a pipe
    (tmp_path / "a.wav").write_bytes(data)
    made = np.concatenate(list(read_sound(tmp_path / "a.wav", RATE)))
    np.testing.assert_array_equal(made, noise(4))


def encode(path, pieces, codec, container_format, rate=RATE):
    """A sound file of (start in seconds, (channels, n) float32 samples) pieces, each with its own time stamps."""
    with av.open(str(path), "w", format=container_format) as container:
        track = container.add_stream(codec, rate=rate, layout="mono" if len(pieces[0][1]) == 1 else "stereo")
        for start_s, samples in pieces:
            samples = (np.ascontiguousarray(samples.T).reshape(1, -1) * 32767).astype(np.int16) if codec == "pcm_s16le" else samples
            frame = av.AudioFrame.from_ndarray(samples, format=track.format.name, layout=track.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = rate, round(start_s * rate), Fraction(1, rate)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))


def test_a_gap_in_the_time_stamps_is_silence(tmp_path):
    tone = np.full((1, RATE // 2), 0.5, np.float32)
    encode(tmp_path / "a.mka", [(0, tone), (1.5, tone)], "pcm_s16le", "matroska")
    made = np.concatenate(list(read_sound(tmp_path / "a.mka", RATE)))
    assert len(made) == 2 * RATE
    assert (made[:8000] != 0).all() and (made[8000:24000] == 0).all() and (made[24000:] != 0).all()


@pytest.mark.parametrize("start_s,silent,length", [(None, 0, 1), (0.25, 0.25, 1.25), (0.5, 0, 1), (0.75, 0, 0.75)])
def test_sound_begins_where_the_pictures_do(start_s, silent, length, tmp_path):
    encode(tmp_path / "a.mka", [(0.5, np.full((1, RATE), 0.5, np.float32))], "pcm_s16le", "matroska")
    made = np.concatenate(list(read_sound(tmp_path / "a.mka", RATE, start_s)))
    assert len(made) == length * RATE
    assert (made[:int(silent * RATE)] == 0).all() and (made[int(silent * RATE):] != 0).all()


def test_sound_that_changes_from_stereo_to_mono_goes_on(tmp_path):
    for file, channels in (("stereo.aac", 2), ("mono.aac", 1)):
        encode(tmp_path / file, [(0, 0.3 * np.ones((channels, 1024), np.float32))] * 16, "aac", "adts")
    (tmp_path / "both.aac").write_bytes((tmp_path / "stereo.aac").read_bytes() + (tmp_path / "mono.aac").read_bytes())
    both, parts = (sum(sum(map(len, read_sound(tmp_path / file, RATE))) for file in files) for files in (["both.aac"], ["stereo.aac", "mono.aac"]))
    assert abs(both - parts) <= 2048


def test_where_there_is_no_wav_the_videos_own_sound_is_taken(raw, call):
    own = soundfile.read(raw / "audio" / "train_1.wav", dtype="int16")[0]
    (raw / "audio" / "train_1.wav").unlink()
    code, out, _ = call("audio_extract", "--data-dir", raw)
    assert code == 0 and "train_1: 60 segments from " + str(raw / "videos" / "train_1.mp4") in out
    assert "train_2: 60 segments from " + str(raw / "audio" / "train_2.wav") in out
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
    assert code == 1 and "1 of 2 recordings failed (train_1)" in err and err.count("\n") == 1
    assert [line for line in out.splitlines() if "FAILED" in line] == [
        f"train_1: FAILED: {tmp_path / 'videos' / 'train_1.mp4'} has no sound track: put the sound of this recording into audio/ as train_1.wav"]
    assert not (tmp_path / "audio_segments" / "train_1").exists() and len(segments(tmp_path, "train_2")) == 25
    sounding(tmp_path, train_1=noise(1))  # as it says
    assert call("audio_extract", "--data-dir", tmp_path)[0] == 0
    assert len(segments(tmp_path, "train_1")) == 10


@pytest.mark.parametrize("damage,reason", [
    (lambda path: path.write_bytes(b""), "the file is empty"), (lambda path: os.truncate(path, path.stat().st_size // 2), "cut short"),
    (lambda path: path.write_text("hello"), "cannot be read"), (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
], ids=["empty", "truncated", "text", "folder"])
def test_a_damaged_video_is_one_line_and_the_others_are_done(damage, reason, tmp_path, call):
    give_video(sounding(tmp_path, train_2=noise(1)), "train_1", 10, np.zeros(6400, np.float32))
    damage(tmp_path / "videos" / "train_1.mp4")
    code, out, err = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and out.count("FAILED") == 1 and str(tmp_path / "videos" / "train_1.mp4") in out and reason in out and "train_1" in err
    assert sorted(path.name for path in (tmp_path / "audio_segments").iterdir()) == ["settings.json", "train_2"]


@pytest.mark.parametrize("data", [b"", b"RIFF", b"hello"])
def test_a_damaged_wav_is_one_line_that_names_it(data, tmp_path, call):
    (sounding(tmp_path, train_2=noise(0.5)) / "audio" / "train_1.wav").write_bytes(data)
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and f"train_1: FAILED: {tmp_path / 'audio' / 'train_1.wav'} cannot be read" in out
    assert len(segments(tmp_path, "train_2")) == 12


def test_a_wav_of_no_samples_is_an_error(tmp_path, call):
    give_rows(sounding(tmp_path, train_1=noise(0), train_2=noise(0)), "train_1", 10)
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and out.count("holds no sound") == 2
    assert not list((tmp_path / "audio_segments").glob("*/"))


def test_sound_damaged_in_the_middle_is_an_error(tmp_path, call):
    path = sounding(tmp_path) / "audio" / "train_1.flac"
    soundfile.write(path, noise(10), RATE)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle:middle + 3000] = np.random.default_rng(1).bytes(3000)
    path.write_bytes(data)
    code, out, err = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and "train_1: FAILED" in out and str(path) in out and err.count("\n") == 1


def test_sound_that_is_too_short_names_where_it_ends(tmp_path, call):
    give_rows(sounding(tmp_path, train_1=noise(1), train_2=noise(1)), "train_1", 100)
    give_rows(tmp_path, "train_2", 40)  # the sound ends 0.6 s before: silence
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and f"train_1: FAILED: {tmp_path / 'audio' / 'train_1.wav'}: the sound ends at frame 25 of 100" in out
    assert not (tmp_path / "audio_segments" / "train_1").exists()
    assert len(segments(tmp_path, "train_2")) == 40


def test_sound_that_goes_on_after_the_last_frame_is_said(tmp_path, call):
    give_rows(sounding(tmp_path, train_1=noise(4), train_2=noise(1.2)), "train_1", 25)
    give_rows(tmp_path, "train_2", 25)
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    said = [line for line in out.splitlines() if "left out" in line]
    assert code == 0 and len(said) == 1 and said[0].startswith("train_1: 25 segments")
    assert "; 2.5 s of sound after the last" in said[0]  # the last one ends at 0.96 s + 0.5 s


def test_missing_sound_says_where_to_put_it(tmp_path, call):
    code, out, err = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and out == "" and err.count("\n") == 1 and str(tmp_path / "audio") in err and str(tmp_path / "videos") in err
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_segments_that_is_not_the_number_of_frames_is_an_error(tmp_path, call):
    call("audio_extract", "--data-dir", sounding(tmp_path, train_1=noise(0.5)))
    (tmp_path / "audio_segments" / "train_1" / "000003.wav").unlink()
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and "holds 11 segments, 12 were expected: delete that folder" in out


# ---- stopped half-way -----------------------------------------------------------------------------------------------

def files(folder):
    """Relative path -> bytes of everything under a folder, hidden or not."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


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
    ended = subprocess.run([sys.executable, "-c", KILLED, str(write), *map(str, words)], cwd=os.path.dirname(audio_extract.__file__),
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert ended.returncode == -signal.SIGKILL


def test_a_killed_run_leaves_nothing_that_looks_done_and_the_next_goes_on_where_it_was(tmp_path, call):
    sounding(tmp_path, train_1=noise(0.5), train_2=noise(0.5))
    killed_at(20, "--data-dir", tmp_path)
    assert [path.name for path in sorted((tmp_path / "audio_segments").glob("[!.]*"))] == ["settings.json", "train_1"]
    half = tmp_path / "audio_segments" / ".train_2.part"
    assert len(list(half.glob("*.wav"))) == 8 and (half / "000007.wav").stat().st_size < 32044
    for path in half.glob("*.wav"):
        os.utime(path, (1, 1))
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 0 and "train_1: 12 segments" in out and out.count("(done before)") == 1
    assert not list((tmp_path / "audio_segments").glob(".*"))
    kept = [path.stat().st_mtime == 1 for path in sorted((tmp_path / "audio_segments" / "train_2").iterdir())]
    assert kept == [True] * 7 + [False] * 5  # what was whole was not made again
    np.testing.assert_array_equal(segments(tmp_path, "train_2"), expected(noise(0.5), 12, 640, RATE, RATE // 2))


def test_runs_killed_at_any_moment_end_in_the_same_bytes(tmp_path, call):
    sounds = {"train_1": noise(1, seed=1), "train_2": noise(1, seed=2)}
    call("audio_extract", "--data-dir", sounding(tmp_path / "once", **sounds), "--segment-s", "0.1")
    sounding(tmp_path / "often", **sounds)
    for write in np.random.default_rng(0).integers(1, 12, 3):
        killed_at(write, "--data-dir", tmp_path / "often", "--segment-s", "0.1")
    assert call("audio_extract", "--data-dir", tmp_path / "often", "--segment-s", "0.1")[0] == 0
    assert files(tmp_path / "often") == files(tmp_path / "once")


@pytest.mark.parametrize("change", [
    lambda path: soundfile.write(path, noise(0.5, seed=9), RATE), lambda path: os.utime(path, (1, 1)),
], ids=["other sound", "touched"])
def test_the_half_of_another_sound_is_thrown_away(change, tmp_path, call):
    killed_at(8, "--data-dir", sounding(tmp_path, train_1=noise(0.5)))
    change(tmp_path / "audio" / "train_1.wav")
    assert call("audio_extract", "--data-dir", tmp_path)[0] == 0
    sound = soundfile.read(tmp_path / "audio" / "train_1.wav", dtype="int16")[0]
    np.testing.assert_array_equal(segments(tmp_path, "train_1"), expected(sound, 12, 640, RATE, RATE // 2))


@pytest.mark.parametrize("error,code", [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1)],
                         ids=["ctrl-c", "full disk"])
def test_ctrl_c_and_a_full_disk_end_in_one_line_and_the_next_run_goes_on(error, code, tmp_path, call, monkeypatch):
    sounding(tmp_path, train_1=noise(0.5), train_2=noise(0.5))
    whole, calls = audio_extract.write_bytes, iter(range(1000))

    def write_bytes(path, *parts):
        if next(calls) == 20:
            raise error
        whole(path, *parts)
    monkeypatch.setattr(audio_extract, "write_bytes", write_bytes)
    ended, _, err = call("audio_extract", "--data-dir", tmp_path)
    assert ended == code and err.count("\n") == 1
    assert code == 130 or f"No space left on device: {tmp_path / 'audio_segments' / 'train_2'}" in err
    assert sorted(path.name for path in (tmp_path / "audio_segments").glob("[!.]*")) == ["settings.json", "train_1"]
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
    assert "train_2" not in out and "segments of 2 recordings" in out  # the first shard, which came last
    one = files(tmp_path / "one")
    assert len(one) == 3 + 1 + sum(len(segments(tmp_path / "one", name)) for name in sounds)
    assert files(tmp_path / "two") == one and files(tmp_path / "shards") == one


def test_an_empty_shard_says_so_and_is_no_error(tmp_path, call):
    code, out, err = call("audio_extract", "--data-dir", sounding(tmp_path, train_1=noise(0.5)), "--shard", "2/2")
    assert (code, err) == (0, "") and "shard 2/2 holds none of the 1 recordings" in out
    assert not (tmp_path / "audio_segments" / "train_1").exists()


def test_a_recording_that_another_process_is_at_is_said_and_the_others_are_done(tmp_path, call):
    fcntl = pytest.importorskip("fcntl")
    sounding(tmp_path, train_1=noise(0.5), train_2=noise(0.5))
    half = tmp_path / "audio_segments" / ".train_1.part"
    half.mkdir(parents=True)
    held = os.open(half, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    code, out, err = call("audio_extract", "--data-dir", tmp_path)
    os.close(held)
    assert code == 1 and "train_1: FAILED" in out and "is being made by another process" in out and err.count("\n") == 1
    assert half.exists() and len(segments(tmp_path, "train_2")) == 12


def test_a_disk_that_takes_no_more_is_an_error_of_the_user(tmp_path, call):
    resource = pytest.importorskip("resource")
    sounding(tmp_path, train_1=noise(0.5))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the kernel refuses, as it does when a disk is full
    try:
        code, out, err = call("audio_extract", "--data-dir", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1 and "File too large" in out + err and not (tmp_path / "audio_segments" / "train_1").exists()


def test_a_file_that_must_not_be_read_does_not_stop_the_others(tmp_path, call):
    if os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    (sounding(tmp_path, train_1=noise(0.5), train_2=noise(0.5)) / "audio" / "train_1.wav").chmod(0)
    code, out, _ = call("audio_extract", "--data-dir", tmp_path)
    assert code == 1 and "train_1: FAILED" in out and len(segments(tmp_path, "train_2")) == 12


def test_read_sound_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="gone.wav.*No such file"):
        list(read_sound(tmp_path / "gone.wav", RATE))
