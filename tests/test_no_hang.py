"""A pipe, a folder or a link to nothing in the place of any file that is read: one line that names it, at once."""
import os
import shutil
import signal
from pathlib import Path

import pytest
from conftest import SMALL, TINY, copied, one_line

from support.errors import UserError
from support.files import regular, there

VISUAL = ["mmpkd", *TINY, "--stage", "visual", "--target", "both"]
FILES = {  # the file that is replaced, below the data folder: the script that reads it
    "ratings_gold_standard/train_1.csv": ["annotations"],
    "subjects.csv": ["annotations"],
    "videos/train_2.mp4": ["face_detector", *SMALL],
    "audio/train_1.wav": ["audio_extract"],
    "Annotations/Train_Set/train_1.csv": ["annotations"],
    "Annotations/Train_Set/train_2.csv": VISUAL[:-3] + ["visual", "--variant", "new"],
    "Cropped_Aligned/settings.json": ["face_detector", *SMALL],
    "Cropped_Aligned/train_1/faces.csv": ["face_detector", *SMALL],
    "Cropped_Aligned/train_1/000003.jpg": VISUAL[:-3] + ["visual", "--variant", "new"],
    "audio_segments/settings.json": ["audio_melspec", "--n-mels", "16"],
    "audio_segments/train_1/000003.wav": ["audio_melspec", "--n-mels", "16"],
    "specs/train_1/000003.png": ["mmpkd", *TINY, "--stage", "audio", "--variant", "new"],
    "runs/visual_both/config.json": VISUAL,
    "runs/visual_both/subjects.json": VISUAL,
    "runs/visual_both/log.jsonl": ["mmpkd", "--list"],
    "runs/visual_both/last.pt": [*VISUAL, "--epochs", "3", "--resume"],
    "runs/teacher_both/best.pt": ["mmpkd", *TINY, "--stage", "student", "--target", "both", "--distill", "cosine",
                                  "--variant", "new"],
    "runs/visual_both/predictions/val/dev_1.csv": ["plot_ccc"],
    "runs/visual_both/best.pt": ["predict", "best.pt", "video.mp4"],
}


def fifo(path):
    os.mkfifo(path)


def dangling(path):
    path.symlink_to("gone")


@pytest.fixture(autouse=True)
def no_hang():
    """What waits for a pipe is interrupted."""
    def give_up(*_):
        raise AssertionError("it waited")
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def corpus(trained_corpus, made_corpus, tmp_path_factory):
    """trained_corpus with all that the steps before read; to change, and to put right again."""
    folder = copied(trained_corpus, tmp_path_factory.mktemp("hang") / "data")
    for name in ("videos", "audio", "audio_segments"):
        shutil.copytree(made_corpus / name, folder / name)
    (folder / "subjects.csv").write_text("recording,subject\ntrain_1,a\n")
    return folder


@pytest.mark.parametrize("kind", [fifo, dangling, Path.mkdir], ids=["fifo", "link", "folder"])
@pytest.mark.parametrize("file", FILES)
def test_what_is_no_file_is_named_and_not_waited_for(file, kind, corpus, call):
    path, script = corpus / file, list(FILES[file])
    words = ["--data-dir", corpus]
    if script[0] == "predict":
        script[1:], words = [path, corpus / "videos" / "dev_1.mp4", "--out", corpus / "out"], []
    kept = path.with_name("kept")
    path.rename(kept)
    made = list({"audio_melspec": (corpus / "specs").glob("train_1"), "audio_extract":
                 (corpus / "audio_segments").glob("train_1")}.get(script[0], ()))
    for one in made:
        one.rename(one.with_name("@kept"))
    try:
        kind(path)
        code, out, err = call(*script, *words)
    finally:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        kept.rename(path)
        for one in made:
            shutil.rmtree(one, ignore_errors=True)
            one.with_name("@kept").rename(one)
    assert "Traceback" not in err and str(path) in out + err, (out, err)
    assert script[1:2] == ["--list"] or code in (1, 2) and one_line(code, err, code)


def test_a_file_a_folder_and_nothing_are_told_apart(tmp_path):
    (tmp_path / "a").write_text("x")
    assert regular(tmp_path / "a") == tmp_path / "a" and there(tmp_path / "a") and there(tmp_path)
    assert regular(tmp_path / "none" / "b") == tmp_path / "none" / "b" and not there(tmp_path / "none" / "b")
    (tmp_path / "link").symlink_to("a")
    assert there(tmp_path / "link") and regular(tmp_path / "link")
    with pytest.raises(UserError, match="a folder"):
        regular(tmp_path)
    with pytest.raises(UserError, match="a device"):
        regular(os.devnull)


def test_a_link_to_nothing_is_not_taken_for_a_missing_file_wherever_in_the_path_it_is(tmp_path):
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "circle").symlink_to("circle")
    for path in (tmp_path / "link", tmp_path / "link" / "below" / "it", tmp_path / "circle"):
        with pytest.raises(UserError, match="a link to (gone|circle), which does not exist"):
            there(path)
