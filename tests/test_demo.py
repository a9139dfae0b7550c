"""The whole road, as a newcomer takes it: a small corpus drawn, every script run, twice."""
import sys

import pandas as pd
import pytest

import demo
from support import errors

SMALL = ["--quick", "--minutes", "0.1", "--subjects", "3", "--unrated", "1"]
FRAMES = 150


def run(folder, capsys, *flags):
    capsys.readouterr()
    table = demo.main(["--data-dir", str(folder), *flags])
    return table, capsys.readouterr().out


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Data folder of a finished demo."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    demo.main(["--data-dir", str(folder), *SMALL])
    return folder


def test_all_steps_make_as_many_files_as_there_are_frames(finished):
    for name in ["train_1", "train_2", "dev_1", "unrated_1"]:
        made = [finished / "Cropped_Aligned" / name, finished / "audio_segments" / name, finished / "specs" / name]
        assert [len(list(folder.glob("0*"))) for folder in made] == [FRAMES] * 3
        rows = pd.read_csv(next((finished / "Annotations").glob(f"*/{name}.csv")))
        assert len(rows) == FRAMES == len(pd.read_csv(made[0] / "faces.csv"))
        assert (finished / "Cropped_Aligned" / rows["image path"].iloc[-1]).exists()
        assert (finished / "specs" / rows["spec path"].iloc[-1]).exists()


def test_the_table_has_the_three_runs_and_the_plots_are_there(finished):
    table = pd.read_csv(finished / "plots" / "ccc.csv")
    assert list(table.columns) == ["run", "target", "recording", "frames", "ccc_raw", "ccc_postprocessed"]
    assert [run.split("_")[0] for run in table["run"].unique()] == ["visual", "teacher", "student"]
    assert set(table["recording"]) == {"dev_1", "mean", "concatenated"}
    assert (finished / "plots" / "ccc.png").stat().st_size > 10_000


def test_a_second_run_does_nothing_twice_and_gives_the_same_table(finished, capsys):
    before, videos = (finished / "plots" / "ccc.csv").read_bytes(), (finished / "videos" / "dev_1.mp4").stat().st_mtime_ns
    _, out = run(finished, capsys, *SMALL)
    runs = 3 + 4  # teachers of the student: two that hear, two that see
    assert out.count("all were done before") == 4 and out.count("finished before, nothing to do") == runs
    assert (finished / "plots" / "ccc.csv").read_bytes() == before
    assert (finished / "videos" / "dev_1.mp4").stat().st_mtime_ns == videos


def test_the_same_seed_gives_the_same_table(finished, tmp_path, capsys):
    run(tmp_path / "again", capsys, *SMALL)
    assert (tmp_path / "again" / "plots" / "ccc.csv").read_bytes() == (finished / "plots" / "ccc.csv").read_bytes()


def test_the_closing_sentence_says_the_tables_numbers(finished, capsys):
    table, out = run(finished, capsys, *SMALL)
    means = table[(table["target"] == "arousal") & (table["recording"] == "mean")]["ccc_raw"]
    assert all(f"{value:.2f}" in out.splitlines()[-2] for value in means)
    assert str(finished / "plots" / "ccc.png") in out


def test_another_corpus_is_not_mixed_into_the_folder(finished, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo.py", "--data-dir", str(finished), *SMALL, "--seed", "1"])
    assert errors.run_script(demo.main, demo.__file__) == 1
    assert "seed 0, now it is 1" in capsys.readouterr().err


def test_a_third_of_the_people_is_held_out():
    assert [sum(name.startswith("train") for name in demo.names_of(n)) for n in (3, 6, 12)] == [2, 4, 8]
