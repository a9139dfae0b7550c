"""predict.py where the sound ends before the pictures, and where there are no pictures; and what it counts."""
import shutil
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import one_line, run_of
from videos import faststart, sitter

from drawn.people import write_video


@pytest.fixture
def run(call, trained_corpus, tmp_path):
    """run(stage, video, flags ...) -> (exit code, stdout, stderr) of predict.py, into tmp_path/out."""
    def run(stage, *words):
        network = run_of(trained_corpus, stage) / "best.pt"
        return call("predict", network, *words, "--out", tmp_path / "out", "--device", "cpu")
    return run


def table_of(tmp_path, name):
    return pd.read_csv(tmp_path / "out" / f"{name}.csv")


@pytest.mark.parametrize("stage", ["teacher", "audio"])
def test_where_the_sound_ends_long_before_the_pictures_what_has_both_is_kept_and_said(stage, run, raw_corpus, tmp_path):
    whole, short = (Path(shutil.copy(raw_corpus / "videos" / "train_1.mp4", tmp_path / f"{name}.mp4"))
                    for name in ("whole", "short"))
    samples, rate = soundfile.read(raw_corpus / "audio" / "train_1.wav")
    soundfile.write(whole.with_suffix(".wav"), samples, rate)
    soundfile.write(short.with_suffix(".wav"), samples[:rate], rate)
    code, out, err = run(stage, whole, short)
    assert (code, err) == (0, "")
    assert f"({short.with_suffix('.wav')}: the sound ends at frame 25 of 60, where the predictions end, too)" in out
    assert f"with the sound of {short.with_suffix('.wav')}" in out and out.count("with the sound of") == 2
    cut, full = table_of(tmp_path, "short"), table_of(tmp_path, "whole")
    assert (len(full), len(cut)) == (60, 25) and (cut["time_s"] == full["time_s"][:25]).all()
    before = slice(0, 12)  # their windows, half a second to each side, end before the sound does
    np.testing.assert_allclose(cut["arousal"][before], full["arousal"][before], atol=1e-5)
    assert (tmp_path / "out" / "short.png").exists()


def test_of_a_cut_file_whose_pictures_go_further_than_its_sound_the_part_with_both_is_kept(run, raw_corpus, tmp_path):
    whole = faststart(raw_corpus / "videos" / "train_1.mp4", tmp_path / "half.mp4")
    whole.write_bytes(whole.read_bytes()[:whole.stat().st_size * 7 // 10])
    samples, rate = soundfile.read(raw_corpus / "audio" / "train_1.wav")
    soundfile.write(whole.with_suffix(".wav"), samples[:rate // 2], rate)
    code, out, _ = run("teacher", whole)
    assert code == 0 and "half.mp4 is cut short: it holds" in out and "the sound ends at frame 12 of" in out
    assert len(table_of(tmp_path, "half")) == 12


def test_a_network_that_hears_only_takes_a_sound_file_and_others_say_what_they_lack(run, raw_corpus, tmp_path):
    sound = raw_corpus / "audio" / "train_1.wav"
    video = shutil.copy(raw_corpus / "videos" / "train_1.mp4", tmp_path / "video.mp4")
    shutil.copy(sound, tmp_path / "video.wav")
    code, out, err = run("audio", sound, video)
    assert (code, err) == (0, "") and "train_1: 60 frames\n" in out
    pd.testing.assert_frame_equal(table_of(tmp_path, "train_1"), table_of(tmp_path, "video"))
    shutil.rmtree(tmp_path / "out")
    for stage in ("teacher", "student"):
        code, out, err = run(stage, sound)
        assert "train_1.wav has no video track" in out and one_line(code, err)
        shutil.rmtree(tmp_path / "out")


def test_frames_and_faces_are_counted_once_for_everybody(run, tmp_path):
    one, two = (list(sitter(number, 30).frames()) for number in (2, 10))
    write_video(tmp_path / "both.mp4", [np.concatenate(pair, axis=1) for pair in zip(one, two)])
    out = run("student", tmp_path / "both.mp4", "--people", "all")[1]
    assert "both: 30 frames, 30 with a face, persons: 2\n" in out and " 30         100%" in out


def test_a_cover_picture_does_not_make_a_video_of_a_sound_file(run, raw_corpus, tmp_path):
    samples, rate = soundfile.read(raw_corpus / "audio" / "train_1.wav", dtype="int16")
    with av.open(str(tmp_path / "song.mp3"), "w") as container:
        track, cover = container.add_stream("mp3", rate=rate, layout="mono"), container.add_stream("png")
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate
        container.mux(track.encode(next(iter(av.AudioResampler("s16p", "mono", rate).resample(frame)))))
        container.mux(track.encode(None) + cover.encode(None))
    code, out, err = run("audio", tmp_path / "song.mp3")
    assert (code, err) == (0, "") and len(table_of(tmp_path, "song")) >= 60
