"""annotations.py --check: at any stage of the work, whatever is broken, and without writing anything but its page."""
import html
import os
import re
import shutil

import numpy as np
import pytest
from conftest import TINY, copied, files_of, rate

from report_page import corpus


def check(call, folder, *words):
    """(exit code, stdout, the page) of --check, which wrote nothing else."""
    before = files_of(folder)
    code, out, err = call("annotations", "--data-dir", folder, "--check", *words)
    after = files_of(folder)
    assert {str(path) for path in {*after} - {*before}} <= {"plots/check.html"}
    assert {path: held for path, held in after.items() if path in before and path.name != "check.html"} == {
        path: held for path, held in before.items() if path.name != "check.html"}
    assert "Traceback" not in err and err.count("\n") == bool(code)
    return code, out, (folder / "plots" / "check.html").read_text()


def titles(page, level):
    return re.findall(rf'<div class="finding {level}">\s*<h3><span class="level">{level}</span> (.*?)</h3>', page)


@pytest.fixture
def whole(made_corpus, tmp_path):
    """A copy of made_corpus with everything in it."""
    return shutil.copytree(made_corpus, tmp_path / "whole", copy_function=shutil.copy)


def test_a_corpus_as_it_should_be_has_no_errors_at_any_stage(whole, raw, call):
    for folder, notes in ((raw, True), (whole, False)):
        code, out, page = check(call, folder)
        assert code == 0 and titles(page, "error") == [] and "ERROR" not in out
        assert {*titles(page, "warning")} <= {"A very short recording"}  # of 2.4 s
        assert page.count('class="arousal"') == page.count('class="valence"') == 3
        assert ("What is not made yet" in titles(page, "note")) == notes
        assert page.count("data:image/jpeg;base64,") == (3 if notes else 36)
    shutil.rmtree(raw / "videos"), shutil.rmtree(raw / "audio")
    code, out, page = check(call, raw)
    assert code == 0 and page.count('class="arousal"') == 3 and "data:image" not in page


def test_the_page_is_one_file_that_loads_nothing_and_runs_nothing(whole, call):
    page = check(call, whole)[2]
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    keys = {*re.findall(r'id="([^"]+)"', page)}
    assert {*re.findall(r'href="#([^"]+)"', page)} <= keys


def ratings(folder, name, text):
    (folder / "ratings_gold_standard" / f"{name}.csv").write_text(text)


def test_every_broken_file_is_a_finding_and_the_others_are_looked_at(whole, call):
    ratings(whole, "train_1", "0.1;0.2\nx;y\n")
    (whole / "videos" / "train_2.mp4").write_bytes(b"nothing of a video")
    (whole / "audio" / "dev_1.wav").write_bytes(b"")
    (whole / "Cropped_Aligned" / "dev_1" / "faces.csv").write_text("nothing\n" * 61)
    for path in (whole / "audio_segments" / "train_1").glob("00000*.wav"):
        path.unlink()
    code, out, page = check(call, whole)
    assert code == 1 and {*titles(page, "error")} == {
        "Ratings that cannot be used", "Video or sound that cannot be used", "Numbers of frames that do not agree"}
    for words in ("train_1.csv line 2", "train_2.mp4 cannot be read", "dev_1.wav", "dev_1/faces.csv is damaged",
                  "50 segments"):
        assert words in out and words in html.unescape(page)
    assert out.index("ERROR") < out.index("WARNING") if "WARNING" in out else True


def test_ratings_that_are_none_are_told_with_what_to_do(whole, call):
    ratings(whole, "train_1", "".join(f"{k / 100:.2f};{np.sin(k / 9) / 3:.4f}\n" for k in range(60)))
    ratings(whole, "train_2", "0.25;0.25\n" * 60)
    code, out, page = check(call, whole)
    assert code == 1 and titles(page, "error") == ["A clock or a counter in place of ratings"]
    assert "Ratings that never change" in titles(page, "warning")
    assert "train_1 (arousal: a straight line from 0 to 0.59" in out and "name the columns" not in out.split("ERROR")[0]
    assert out.count("name the columns") or "names the columns" in out


def test_a_folder_of_ratings_that_cannot_be_used_is_a_finding(whole, call):
    shutil.rmtree(whole / "ratings_gold_standard")
    code, out, page = check(call, whole)
    assert code == 1 and titles(page, "error")[0] == "The ratings as a whole cannot be used"
    assert page.count("data:image/jpeg;base64,") == 36


def test_another_frame_rate_than_that_of_the_crops_is_told(whole, call):
    code, _, err = call("annotations", "--data-dir", whole, "--check", "--frame-rate", 5)
    assert code == 1 and "was made with frame_rate 25, now it is 5: give --frame-rate 25" in err


def test_only_the_recordings_that_are_named_are_looked_at(whole, call):
    code, out, page = check(call, whole, "--recordings", "train_2")
    assert code == 0 and out.startswith("1 recording looked at") and "train_1" not in page


def test_copies_in_other_sets_are_errors(whole, call):
    shutil.copy(whole / "videos" / "train_1.mp4", whole / "videos" / "dev_1.mp4")
    code, out, page = check(call, whole)
    assert code == 1 and "The same recording in different sets" in titles(page, "error")
    assert "dev_1 in Val_Set, train_1 in Train_Set" in out.replace("train_1 in Train_Set, dev_1 in Val_Set",
                                                                  "dev_1 in Val_Set, train_1 in Train_Set")


def test_ids_that_are_markup_are_text_on_the_page(raw, call):
    name = "dev_<img src=x onerror=alert(1)>"
    shutil.copy(raw / "ratings_gold_standard" / "dev_1.csv", raw / "ratings_gold_standard" / f"{name}.csv")
    page = check(call, raw)[2]
    assert "<img src=x" not in page and "&lt;img src=x onerror" in page.replace("<wbr>", "")


def test_names_that_cannot_be_used_are_findings(raw, call):
    for name in ("dev_Zo\u00eb", "dev_Zoe\u0308", "mean", os.fsdecode(b"dev_\xff")):
        shutil.copy(raw / "videos" / "dev_1.mp4", raw / "videos" / f"{name}.mp4")
    code, out, page = check(call, raw)
    assert code == 1 and "Names that cannot be used" in titles(page, "error")
    assert "spelt differently" in out and "not UTF-8" in out and "row of the score tables" in out


def test_what_does_not_fit_on_the_page_is_left_out_and_said(whole, call, monkeypatch):
    monkeypatch.setattr(corpus, "ROOM", 100)
    ratings(whole, "train_2", "".join(f"{k / 100:.2f};0.1\n" for k in range(60)))
    page = check(call, whole)[2]
    assert page.count('class="arousal"') == 1 and "2 recordings are left out here" in page
    assert 'aria-label="arousal of train_2' in page  # the one with a finding


def test_a_trace_is_drawn_to_scale_with_gaps():
    values = np.array([0.0, 1.0, np.nan, -1.0, 0.5])
    made = corpus.trace_of("a", "arousal", values, (-1.0, 1.0))
    assert made["path"] == "M0 50.0L0 50.0L250 0.0M750 100.0L750 100.0L1000 25.0" and made["zero"] == "50.0"
    assert made["words"] == "arousal of a: from -1.00 to 1.00, mean 0.12"


# ---- before training ------------------------------------------------------------------------------------------------

def test_training_says_what_is_suspicious_and_nothing_of_a_clean_corpus(made_corpus, tmp_path, call):
    clean, bad = (copied(made_corpus, tmp_path / name) for name in ("clean", "bad"))
    words = (*TINY, "--stage", "visual", "--epochs", 1, "--target", "both")
    assert "WARNING" not in call("mmpkd", "--data-dir", clean, *words)[1]
    rate(bad, "train_2", "0.0")
    shutil.copytree(made_corpus / "videos", bad / "videos")
    shutil.copy(bad / "videos" / "train_1.mp4", bad / "videos" / "dev_1.mp4")
    code, out, _ = call("mmpkd", "--data-dir", bad, *words)
    warnings = [line for line in out.splitlines() if line.startswith("WARNING")]
    assert code == 0 and warnings == [
        "WARNING: the same recording in different sets: train_1, dev_1 (the same video)",
        "WARNING: ratings that never change: train_2 (arousal: 0 in all 60 valid rows)"]
    assert "python annotations.py --check" in out
