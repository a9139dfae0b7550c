"""The whole road, as a newcomer takes it: a small corpus drawn, every script run, twice."""
import sys

import pandas as pd
import pytest

import demo
from support import errors

SMALL = ["--quick", "--minutes", "0.1", "--subjects", "5", "--unrated", "2"]
NAMES = ["train_1", "train_2", "train_3", "dev_1", "dev_2", "unrated_1", "unrated_2"]
FRAMES = 30  # 6 seconds


@pytest.fixture(scope="module", autouse=True)
def hardly_trained():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "EPOCHS", {True: {"epochs": 1, "epoch_steps": 2}})
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Data folder of a finished demo."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    demo.main(["--data-dir", str(folder), *SMALL])
    return folder


def test_all_steps_make_as_many_files_as_there_are_frames(finished):
    for name in NAMES:
        made = [finished / step / name for step in ("Cropped_Aligned", "audio_segments", "specs")]
        assert [len(list(folder.glob("0*"))) for folder in made] == [FRAMES] * 3
        rows = pd.read_csv(next((finished / "Annotations").glob(f"*/{name}.csv")))
        assert len(rows) == FRAMES == len(pd.read_csv(made[0] / "faces.csv"))
        assert (finished / "Cropped_Aligned" / rows["image path"].iloc[-1]).exists()
        assert (finished / "specs" / rows["spec path"].iloc[-1]).exists()


def test_the_table_has_the_three_runs_and_the_figures_are_there(finished):
    table = pd.read_csv(finished / "plots" / "ccc.csv")
    assert [run.split("_")[0] for run in table["run"].unique()] == ["visual", "teacher", "student"]
    assert set(table["target"]) == {"arousal", "valence"}
    assert set(table["recording"]) == {"dev_1", "dev_2", "mean", "concatenated"}
    assert (finished / "plots" / "ccc.png").stat().st_size > 10_000
    assert len(list((finished / "plots" / "traces").glob("*/dev_*.png"))) == 3 * 2


def test_a_second_run_does_nothing_twice_and_ends_with_the_same_numbers(finished, capsys):
    made = [finished / "plots" / "ccc.csv", finished / "videos" / "dev_1.mp4", *finished.glob("runs/*/best.pt")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in made]
    table = demo.main(["--data-dir", str(finished), *SMALL])
    assert [path.read_bytes() for path in made] == [content for content, _ in before]
    assert [path.stat().st_mtime_ns for path in made[1:]] == [time for _, time in before[1:]]
    out = capsys.readouterr().out
    assert len(made) == 2 + 3 + 2 * demo.FOLDS and " 0 drawn now" in out
    means = table[table["recording"] == "mean"].groupby("run")["ccc_raw"].mean()
    assert all(f"{value:.2f}" in out.partition("subjects never trained on")[2] for value in means)
    assert "--quick" in out and "README.md" in out and str(finished / "plots" / "ccc.png") in out


def test_the_same_seed_gives_the_same_table(finished, tmp_path, no_figures):
    demo.main(["--data-dir", str(tmp_path / "again"), *SMALL])
    assert (tmp_path / "again" / "plots" / "ccc.csv").read_bytes() == (finished / "plots" / "ccc.csv").read_bytes()


def test_redirected_into_a_file_it_shows_its_progress_as_it_goes(tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def look(*_, **__):  # in the place of the first script
        raise Seen((tmp_path / "out.txt").read_text())

    with open(tmp_path / "out.txt", "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(demo, "call", look)
        with pytest.raises(Seen, match="unrated_2"):
            demo.main(["--data-dir", str(tmp_path / "data"), *SMALL])


def test_another_corpus_is_not_mixed_into_the_folder(finished, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo.py", "--data-dir", str(finished), *SMALL, "--seed", "1"])
    assert errors.run_script(demo.main, demo.__file__) == 1
    assert "seed" in capsys.readouterr().err


def test_half_of_the_rated_subjects_are_held_out():
    assert [sum(name.startswith("train") for name in demo.names_of(n)) for n in (3, 6, 24)] == [2, 3, 12]
