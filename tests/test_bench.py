"""bench/: the benches run. Their figures are not tested."""
import dataclasses
import functools

import numpy as np
import pandas as pd
import pytest
import torch

from config import Config
from drawn.people import World
from study.methods import FACES, NETWORKS, SPECS
from support.errors import UserError
from support.machine import describe

CFG = Config(**FACES, **SPECS, **NETWORKS, target="arousal", device="cpu")


def test_the_bounds_of_the_corpus_train_on_drawn_subjects(bench, tmp_path):
    bounds = bench("corpus_bounds")
    files = [bounds.draw(tmp_path, 0, number, 5, World(), CFG) for number in range(2)]
    threads = torch.get_num_threads()
    scores = bounds.bound(("teacher", 2, files[:1], files[1:], dataclasses.replace(CFG)))
    torch.set_num_threads(threads)
    assert scores["arousal"].keys() == {"subject_0", "mean", "concatenated"} and np.isfinite(scores["arousal"]["mean"])
    rows = {name: [scores] for name in bounds.ROWS}
    text = bounds.table(rows) + bounds.verdicts(rows)
    assert text.count(f"{scores['arousal']['mean']:.3f}") >= len(bounds.ROWS)


def test_the_bench_of_a_gpu_prints_every_table_in_small(bench, monkeypatch, capsys):
    module = bench("gpu")
    monkeypatch.setattr(module, "CASES", module.CASES[:1])
    monkeypatch.setattr("training.RunFiles.draw", lambda self, last=False: None)  # it replaces that itself
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", torch.backends.cudnn.deterministic)
    module.main(["--small", "--device", "cpu"])
    out = capsys.readouterr().out
    assert "FAILED" not in out and "left out" not in out and "the same bits" in out and "frames/s on cpu" in out
    lines = [line.split("|") for line in out.splitlines() if " x 2 |" in line]
    assert [line[1].split()[0] for line in lines] == ["visual,", "teacher,", "student,", "resnet18"]
    assert all(len(line) == 18 and float(line[5]) > 0 and float(line[8]) > 0 for line in lines)


def test_recola_is_extrapolated_from_every_rate(bench):
    rates = dict.fromkeys(["packing", "visual", "teacher", "student", "teacher's outputs", "visual predictions"], 1000)
    table = bench("gpu").recola_table(rates, saving_s=0)
    # 10 epochs of 67,500 frames trained and as many predicted, and 135,000 predicted at the end; 1,000 a second
    assert "| visual, 10 epochs | 24.8 |" in table and "| student, 10 epochs | 25.9 |" in table
    assert "| packing the images, once | 2.2 |" in table and "| together | 77.6 |" in table


def test_the_training_bench_prints_a_line_for_every_pair(bench, monkeypatch, capsys):
    module = bench("training")
    monkeypatch.setattr(module, "SECONDS", 5)
    monkeypatch.setattr(module, "SIDES", {"small_cnn": (module.SIDES["small_cnn"][0], 1, 1)})
    module.main(["--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["visual", "teacher", "student", "student"]
    assert all(float(line.split()[-1]) > 0 for line in lines[-4:])


def test_the_bench_of_features_prints_a_line_for_every_stage(bench, capsys):
    bench("features").main(["--train", "2", "--dev", "1", "--frames", "400"])
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in lines] == ["visual", "teacher", "student"]
    assert all(float(line.split()[1]) > 0 and np.isfinite(float(line.split()[-1])) for line in lines)


def test_the_bench_of_frozen_backbones_prints_rates_and_ratios(bench, monkeypatch, capsys):
    module = bench("frozen")
    monkeypatch.setattr(module, "SIZES", {"small": ("", 1)})
    module.main(["--backbones", "small_cnn", "--seconds", "1"])
    *rates, ratio = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[3] for line in rates] == ["float32", "bfloat16"]
    assert all(float(line.split()[4]) > 0 for line in rates) and "every step" in ratio and " x; RECOLA's" in ratio


def test_the_predict_bench_prints_a_line_for_every_side(bench, monkeypatch, capsys):
    module = bench("predict")
    monkeypatch.setattr(module, "STUDENTS", {"small": module.DEMO, "large": {"visual_backbone": "small_cnn"}})
    monkeypatch.setattr(module, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(module, "drawn_clip", functools.partial(module.drawn_clip, seconds=1))
    module.main(["--seconds", "1", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()[3:]
    assert [line.split("  ")[0] for line in lines] == [
        module.DECODING, f"{module.DETECTOR}, 48 px", "small, float32", "small, with --overlay",
        f"{module.DETECTOR}, 112 px", "large, float32"]
    assert all(float(number) >= 0 for line in lines for number in line.split()[-4:])


# ---- real_actors.py, on made-up actors ------------------------------------------------------------------------------

@pytest.fixture
def actors(bench, monkeypatch, tmp_path):
    """The module, for small splits, and a folder of six made-up actors with 8 clips each. The first face feature and
    the first of the voice are 100 times the number of the actor, and that of the clip; arousal is a 20th of the latter.
    """
    module = bench("real_actors")
    monkeypatch.setattr(module, "REPORTED", 2)
    monkeypatch.setattr(module, "FOLDS", 2)
    actor, clip = np.repeat(np.arange(6), 8), np.tile(np.arange(8), 6)
    noise = np.random.default_rng(0).normal(0, 0.1, (48, 7)).astype(np.float32)
    noise[:, [0, 3]] = (100 * actor + clip)[:, None]
    noise[:, [1, 4]] += clip[:, None]
    folder = tmp_path / "actors"
    folder.mkdir()
    np.save(folder / "face.npy", noise[:, :3])
    np.save(folder / "voice.npy", noise[:, 3:])
    pd.DataFrame({"recording": [f"actor_{one}" for one in actor], "clip": clip, "arousal": clip / 20,
                  "valence": np.sin(clip) / 2}).to_csv(folder / "ratings.csv", index=False)
    return module, folder


def test_the_bench_of_real_actors_prints_its_tables_in_small_and_trains_nothing_twice(actors, tmp_path, monkeypatch,
                                                                                       capsys):
    module, folder = actors
    work = tmp_path / "work"
    flags = [str(folder), "--quick", "--splits", "2", "--rated", "3", "--workers", "1", "--work-dir", str(work)]
    tables = module.main(flags)
    out = capsys.readouterr().out
    assert np.isfinite(tables[3].value).all() and "3 rated, 1 unlabelled, 2 reported actors; 2 splits" in out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    visual = module.matrix(tables[3], "visual", "raw", "mean")
    assert lines["visual"][3] == f"{np.nanmean(visual):.3f}" and np.isfinite(visual).sum() == 4
    assert set(module.ROWS) <= set(lines) and len(lines["oracle"]) == 1 + 2 * (3 + 4)
    assert not list(work.glob("split*/")) and len(list((work / "scores").iterdir())) == 4
    monkeypatch.setattr(module, "train_split", lambda name, *_, **__: pytest.fail(name))
    module.main(flags)
    assert capsys.readouterr().out == f"{describe('torch')}\n" + out[out.index("\n3 rated"):]
    with pytest.raises(UserError, match="of other settings"):
        module.main([flag for flag in flags if flag != "--quick"])


def test_faces_voices_and_ratings_of_a_clip_stay_together_in_an_order_of_each_actors_own(actors):
    module, folder = actors
    read = module.read_actors(folder)
    clips = [np.round(actor.ratings[:, 0] * 20) for actor in read.values()]
    for number, (actor, clip) in enumerate(zip(read.values(), clips)):
        assert (actor.face[:, 0] == 100 * number + clip).all() and (actor.voice[:, 0] == 100 * number + clip).all()
        assert sorted(clip) == [*range(8)]
    assert len({tuple(clip) for clip in clips}) == 6


def test_numbers_of_rated_actors_share_the_reported_ones(actors):
    module, names = actors[0], [f"actor_{number}" for number in range(12)]
    few, many = (module.split_of(names, 4, count) for count in (3, 6))
    assert few.reported == many.reported and set(few.rated) < set(many.rated)
    assert sorted(sum(many, [])) == sorted(names) and few.reported != module.split_of(names, 5, 3).reported
    with pytest.raises(UserError, match="12 actors: 10 rated"):
        module.split_of(names, 4, 10)


def test_views_of_actors_withhold_ratings_and_exchange_voices_within_a_partition(actors, tmp_path, capsys):
    module, folder = actors
    read = module.read_actors(folder)
    split = module.Split(["actor_0", "actor_1"], ["actor_2", "actor_3"], ["actor_4", "actor_5"])
    module.make_view(tmp_path / "view", read, split, module.exchanged(split))
    for rows, others in zip(split, (["1", "0"], ["3", "2"], ["5", "4"])):
        for name, other in zip(rows, others):
            assert (np.load(tmp_path / "view" / "features" / "visual" / f"{name}.npy") == read[name].face).all()
            voice = np.load(tmp_path / "view" / "features" / "audio" / f"{name}.npy")
            assert (voice == read[f"actor_{other}"].voice).all()
    table = pd.read_csv(tmp_path / "view" / "Annotations" / "Train_Set" / "actor_0.csv")
    assert np.allclose(table[module.TARGETS], read["actor_0"].ratings)
    for name in split.unlabelled:
        assert "arousal" not in pd.read_csv(tmp_path / "view" / "Annotations" / "Unlabelled_Set" / f"{name}.csv")
        assert name not in (tmp_path / "view" / "ratings_gold_standard" / "ratings.csv").read_text()


def test_a_constant_gain_has_an_interval_of_no_width_and_actors_widen_one(actors):
    interval, draw = actors[0].interval, np.random.default_rng(0)
    gone = draw.random((20, 24)) < 0.6
    assert np.allclose(interval(np.where(gone, np.nan, 0.3)), 0.3)
    by_actor = np.where(gone, np.nan, draw.normal(0.1, 0.2, 24))  # the same in every split: 24 values, not 192
    mean, low, high = interval(by_actor)
    error = 0.2 / np.sqrt(24)
    assert mean == pytest.approx(np.nanmean(by_actor)) and 3 * error < high - low < 6 * error


def test_a_level_per_actor_costs_the_raw_ccc_alone(actors):
    gold = np.random.default_rng(0).normal(0, 1, (60, 2))
    values = {(row[1], row[3]): row[4] for row in actors[0].cccs("visual", "a", gold + 2, gold, ["raw", "centred"])}
    assert values["arousal", "centred"] == pytest.approx(1)
    variance = gold[:, 0].var()
    assert values["arousal", "raw"] == pytest.approx(2 * variance / (2 * variance + 4))


def test_files_of_actors_that_do_not_fit_are_named(actors):
    module, folder = actors
    np.save(folder / "voice.npy", np.zeros((47, 4)))
    with pytest.raises(UserError, match="48, 47 and 48 rows"):
        module.read_actors(folder)
    (folder / "face.npy").unlink()
    with pytest.raises(UserError, match="face.npy is missing"):
        module.read_actors(folder)


def test_the_bench_of_folds_prints_a_line_for_every_side(bench, monkeypatch, capsys):
    module = bench("folds")
    monkeypatch.setattr(module, "SECONDS", 3)
    monkeypatch.setattr(module, "CFG", dataclasses.replace(module.CFG, epochs=1, teachers="visual", teacher_folds=2,
                                                           frame_rate=25.0, clip_length=10))
    threads = torch.get_num_threads()
    module.main(["--epoch-steps", "2"])
    torch.set_num_threads(threads)
    *_, heading, whole, one, side = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["seconds", "ratio"] and whole.split()[-3] == "1.00" == whole.split()[-1]
    assert "1 thread" in one and "side by side" in side
    assert all(float(word) > 0 for line in (one, side) for word in line.split()[-4:])
