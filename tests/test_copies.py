"""Recordings that are one and the same under two names."""
import shutil
import unicodedata
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from scipy.ndimage import gaussian_filter1d

from corpora.copies import (
    SAME_MOTION,
    alike,
    candidates,
    copies,
    groups,
    look_of,
    near_copies,
    same_pairs,
    same_scene,
    spelt_alike,
)


def test_files_of_the_same_bytes_are_found_whatever_their_names(tmp_path):
    held = {"a": b"1" * 9, "b": b"2" * 9, "c": b"1" * 9, "d": b"2" * 10, "e": b"2" * 9, "f": b"", "g": b""}
    for name, text in held.items():
        (tmp_path / name).write_bytes(text)
    assert sorted(copies({name: tmp_path / name for name in held})) == [["a", "c"], ["b", "e"]]
    assert copies({"a": tmp_path / "a", "gone": tmp_path / "gone", "folder": tmp_path}) == []


def test_only_files_of_one_size_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"1"), (tmp_path / "b").write_bytes(b"12")
    (tmp_path / "a").chmod(0), (tmp_path / "b").chmod(0)
    assert copies({name: tmp_path / name for name in "ab"}) == []


def test_names_that_look_alike_are_found():
    composed, decomposed = (unicodedata.normalize(form, "Zo\u00eb") for form in ("NFC", "NFD"))
    assert spelt_alike(["Zoe", composed, decomposed, "zoe"]) == {composed: decomposed, decomposed: composed}


# ---- the same sound, the same pictures ------------------------------------------------------------------------------

def reencoded(source, path, codec, sound, size, **options):
    """A video again, in other codecs and another size; sound: None for none."""
    with av.open(str(source)) as read, av.open(str(path), "w") as written:
        tracks = [read.streams.video[0], *read.streams.audio[:1 if sound else 0]]
        made = {"video": written.add_stream(codec, rate=25, options=options)}
        made["video"].width, made["video"].height, made["video"].pix_fmt = *size, "yuv420p"
        if sound:
            made["audio"] = written.add_stream(sound, rate=48000 if "opus" in sound else 16000)
        for packet in read.demux(*tracks):
            for frame in packet.decode():
                picture = isinstance(frame, av.VideoFrame)
                stream = made["video" if picture else "audio"]
                written.mux(stream.encode(frame.reformat(*size, "yuv420p") if picture else frame))
        for stream in made.values():
            written.mux(stream.encode())


FORMS = {"smaller.mp4": ("libx264", "aac", (160, 120), {"crf": "35"}),
         "other.webm": ("libvpx", "libopus", (320, 240), {"b": "200k", "deadline": "realtime", "cpu-used": "8"}),
         "mute.avi": ("mpeg4", None, (384, 288), {})}


@pytest.fixture(scope="module")
def people(raw_corpus, tmp_path_factory):
    """Folder with a video of train_1 in FORMS, and of others."""
    folder = tmp_path_factory.mktemp("people")
    for name, (codec, sound, size, options) in FORMS.items():
        reencoded(raw_corpus / "videos" / "train_1.mp4", folder / name, codec, sound, size, **options)
    for name in ("train_1", "train_2", "dev_1"):
        shutil.copy(raw_corpus / "videos" / f"{name}.mp4", folder)
    return folder


def found(folder, audio_dir="none"):
    names = sorted({path.stem for path in folder.iterdir()})
    return {one.what: (sorted(one.names), one.one) for one in alike(names, folder, Path(audio_dir))}


def test_a_copy_in_other_codecs_sizes_and_bit_rates_is_found_and_other_people_are_not(people):
    assert found(people) == {"sound and pictures": (["other", "smaller", "train_1"], True),
                             "pictures": (["mute", "other", "smaller", "train_1"], True)}


def test_the_sound_beside_a_video_is_compared_with_tracks_of_others(people, raw_corpus, tmp_path):
    (tmp_path / "videos").mkdir(), (tmp_path / "audio").mkdir()
    shutil.copy(people / "smaller.mp4", tmp_path / "videos" / "a.mp4")
    shutil.copy(people / "mute.avi", tmp_path / "videos" / "b.avi")
    shutil.copy(raw_corpus / "audio" / "train_1.wav", tmp_path / "audio" / "b.wav")
    shutil.copy(people / "dev_1.mp4", tmp_path / "videos" / "c.mp4")
    assert found(tmp_path / "videos", tmp_path / "audio") == {"sound and pictures": (["a", "b"], True)}


def test_one_sound_with_other_pictures_is_no_copy_but_said(people, raw_corpus, tmp_path):
    """The two of a conversation, say."""
    (tmp_path / "videos").mkdir(), (tmp_path / "audio").mkdir()
    sound, rate = soundfile.read(raw_corpus / "audio" / "dev_1.wav")
    for name, louder in (("train_1", 1.0), ("train_2", 0.5)):
        shutil.copy(people / f"{name}.mp4", tmp_path / "videos")
        soundfile.write(tmp_path / "audio" / f"{name}.wav", sound * louder, rate)
    assert found(tmp_path / "videos", tmp_path / "audio") == {"sounds": (["train_1", "train_2"], False)}


def test_silence_tones_and_noise_are_not_the_same_sound(tmp_path):
    time_s, draw = np.arange(5 * 16000) / 16000, np.random.default_rng(0)
    for name, sound in {"silent_1": 0 * time_s, "silent_2": 1e-4 * draw.normal(size=len(time_s)),
                        "tone_1": 0.5 * np.sin(440 * 6.28 * time_s), "tone_2": 0.2 * np.sin(440 * 6.28 * time_s),
                        "noise_1": 0.1 * draw.normal(size=len(time_s)), "noise_2": 0.1 * draw.normal(size=len(time_s)),
                        "cut.short": time_s}.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, 16000)
    (tmp_path / "cut.short.wav").write_bytes(b"RIFF")
    names = [path.stem for path in tmp_path.iterdir()]
    assert near_copies({}, {name: tmp_path / f"{name}.wav" for name in names}) == []


def looks(*motions, room=None):
    """Looks of heads (bright discs) that move along these x, in front of one room."""
    y, x = np.mgrid[:16, :16]
    room = np.random.default_rng(1).uniform(60, 120, (16, 16)) if room is None else room
    return [look_of(np.array([room + 90 * (np.hypot(x - at, y - 8) < 3) for at in motion])) for motion in motions]


def test_people_in_front_of_the_same_wall_are_told_apart_by_how_they_move():
    draw = np.random.default_rng(2)
    first, second = (8 + 2 * gaussian_filter1d(draw.normal(size=75), 5) for _ in range(2))
    one, other, still = looks(first, second, [8] * 75)
    assert one.motion is not None and still.motion is None
    assert same_pairs({"a": one.motion, "b": other.motion}, SAME_MOTION, 5) == set()
    noisy = one.motion + draw.normal(size=one.motion.shape)
    late = {"a": one.motion, "b": np.roll(noisy, 3, axis=0)}
    assert same_pairs(late, SAME_MOTION, 5) == {("a", "b")} and same_pairs(late, SAME_MOTION, 1) == set()


def test_a_title_that_stands_still_is_nothing_by_which_recordings_are_the_same():
    title, = looks([8] * 75)
    assert title.motion is None and same_scene(title, title)
    assert not same_scene(title, looks([8] * 75, room=np.random.default_rng(5).uniform(0, 255, (16, 16)))[0])


def test_only_recordings_of_about_one_length_are_compared():
    assert candidates({"a": 300.0, "b": 301.0, "c": 310.0, "d": 20.0}) == ["a", "b"]
    assert candidates({"a": 3.0}) == candidates({}) == []


def test_pairs_that_share_a_recording_are_one_group():
    assert groups({("a", "b"), ("c", "d"), ("b", "e")}) == [["a", "b", "e"], ["c", "d"]]
