"""Features in place of images: from files as their programs write them to trained networks, by the real scripts."""
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CPU, FRAMES, TINY, easy_batch, kept_of, log_of, one_line, run_of, same, stop_at, tiny_config

import annotations
import mmpkd
from augmentation import draw_augmentation, on_device
from checkpoints import load_checkpoint, load_model
from data import load_recordings
from models_kd import Standardised
from support.errors import UserError

WORDS = [*TINY, "--visual-backbone", "features", "--audio-backbone", "features", "--target", "both"]
NAMES = ["train_1", "train_2", "train_3", "dev_1", "other_1"]


def features_of(name, length=FRAMES):
    """(ratings (N, 2), visual features (N, 5), audio features (N, 2)) of a recording; column 4 is constant in training
    subjects, and dev_1 has values that no other has."""
    draw = np.random.default_rng(sum(map(ord, name)))
    gold = 0.8 * np.sin(np.arange(length)[:, None] / [7, 11] + draw.uniform(0, 6, 2))
    visual = np.column_stack([gold * 3 + 7, draw.normal(0, 1, (length, 2)), np.full(length, 2.5)])
    if name == "dev_1":
        visual[::5, 2:] = 1e6
    return gold, visual.round(3), np.column_stack([gold.sum(1), draw.normal(0, 50, length)]).round(3)


def write_visual(folder, name, missing=(3, 4)):
    """As OpenFace does; `missing`: frames in which there is no face."""
    rows = features_of(name)[1]
    lines = ["frame, face_id, timestamp, confidence, success, " + ", ".join(f"AU{k:02d}_r" for k in range(5))]
    lines += [f"{k + 1}, 0, {k / 25:.3f}, 0.9, {int(k not in missing)}, " + ", ".join(f"{x:.3f}" for x in row)
              for k, row in enumerate(rows)]
    (folder / "features" / "visual" / f"{name}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def features_corpus(tmp_path_factory):
    """Data folder with ratings and features alone, four recordings and one without ratings, after step 0. Read only."""
    folder = tmp_path_factory.mktemp("features") / "data"
    for place in ("ratings_gold_standard", "features/visual", "features/audio"):
        (folder / place).mkdir(parents=True)
    for name in NAMES:
        gold, _, audio = features_of(name)
        if name != "other_1":
            np.savetxt(folder / "ratings_gold_standard" / f"{name}.csv", gold, delimiter=";", fmt="%.5f")
        write_visual(folder, name)
        np.save(folder / "features" / "audio" / f"{name}.npy", audio)
    annotations.main(["--data-dir", str(folder)])
    return folder


@pytest.fixture
def corpus(features_corpus, tmp_path):
    """A copy of features_corpus to change at will."""
    return shutil.copytree(features_corpus, tmp_path / "data")


@pytest.fixture(scope="session")
def trained_features(features_corpus, tmp_path_factory):
    """features_corpus with a run of every stage: a student of pseudo-labels, another that is distilled. Read only."""
    folder = shutil.copytree(features_corpus, tmp_path_factory.mktemp("trained_features") / "data")
    mmpkd.main(["--data-dir", str(folder), *WORDS, "--distill", "pseudo"])
    mmpkd.main(["--data-dir", str(folder), *WORDS, "--stage", "student", "--distill", "cosine"])
    mmpkd.main(["--data-dir", str(folder), *WORDS, "--stage", "visual", "--fold", "2/3"])
    return folder


def training_values(names, missing=(3, 4)):
    """(N, 5) float64: visual features of some recordings, without the frames in which there is no face."""
    return np.concatenate([np.delete(features_of(name)[1], missing, 0) for name in names])


# ---- step 0 ---------------------------------------------------------------------------------------------------------

def test_ratings_and_features_alone_are_a_corpus(features_corpus):
    tables = sorted(str(path.relative_to(features_corpus / "Annotations")) for path in
                    (features_corpus / "Annotations").rglob("*.csv"))
    assert tables == ["Train_Set/train_1.csv", "Train_Set/train_2.csv", "Train_Set/train_3.csv",
                      "Unlabelled_Set/other_1.csv", "Val_Set/dev_1.csv"]
    assert all(len(pd.read_csv(features_corpus / "Annotations" / table)) == FRAMES for table in tables)


def test_ratings_must_fit_the_frames_of_the_features_where_there_is_nothing_else(corpus, call):
    shutil.rmtree(corpus / "Annotations")
    gold = corpus / "ratings_gold_standard" / "train_1.csv"
    gold.write_text(gold.read_text() + "0.5;0.5\n")
    code, out, _ = call("annotations", "--data-dir", corpus)
    assert code == 0 and f"train_1: Train_Set, {FRAMES} frames; as many as in" in out and "visual/train_1.csv" in out
    gold.write_text("\n".join(gold.read_text().splitlines()[::2]) + "\n")
    code, out, err = call("annotations", "--data-dir", corpus)
    assert code == 1 and "train_1: FAILED" in out and "visual/train_1.csv" in out and "12.92" in out
    assert "4 of 5" not in one_line(code, err) and "others are done" in err


def test_a_recording_without_visual_features_is_no_unlabelled_one_and_one_without_sound_neither(corpus, call):
    for part in ("visual/other_1.csv", "audio/other_1.npy"):
        shutil.rmtree(corpus / "Annotations")
        (corpus / "features" / part).rename(corpus / "aside")
        code, out, _ = call("annotations", "--data-dir", corpus)
        assert code == 0 and "other_1: no ratings" in out and "0 of 1 recordings" in out
        (corpus / "aside").rename(corpus / "features" / part)


@pytest.mark.parametrize("of", ["dev_1", "train_1"])
def test_a_copy_of_another_recordings_features_is_not_unlabelled(corpus, call, of):
    for part, ending in (("visual", "csv"), ("audio", "npy")):
        shutil.copy(corpus / "features" / part / f"{of}.{ending}", corpus / "features" / part / f"copy.{ending}")
    code, out, _ = call("annotations", "--data-dir", corpus)
    assert code == 1 and f"copy: FAILED: its features are a copy of those of {of}, byte for byte" in out
    assert not (corpus / "Annotations" / "Unlabelled_Set" / "copy.csv").exists()


# ---- runs -----------------------------------------------------------------------------------------------------------

def test_features_become_a_visual_baseline_a_teacher_and_students_of_both_kinds(trained_features):
    for stage, distill in (("visual", ""), ("teacher", ""), ("student", "pseudo"), ("student", "cosine")):
        run = run_of(trained_features, stage, distill=distill)
        table = pd.read_csv(run / "predictions" / "val" / "dev_1.csv")
        assert len(table) == FRAMES and table["arousal_pred"].notna().all()
        state = load_checkpoint(run / "best.pt")
        assert state["shapes"] == {"frames": (5,)} | ({"specs": (2,)} if stage == "teacher" else {})
    labels = pd.read_csv(run_of(trained_features, "student", distill="pseudo") / "labels" / "other_1.csv")
    assert len(labels) == FRAMES and labels["arousal"].notna().all()


@pytest.mark.parametrize("run, names", [
    ("visual_both", ["train_1", "train_2", "train_3"]), ("visual_both_fold2of3", ["train_1", "train_3"]),
    ("student_both_pseudo", ["train_1", "train_2", "train_3"]), ("teacher_both", ["train_1", "train_2", "train_3"])])
def test_the_network_holds_mean_and_deviation_of_its_training_subjects_alone(trained_features, run, names):
    """dev_1 has values of a million, and neither it, nor who is held out, nor who has no ratings, counts."""
    weights = load_checkpoint(trained_features / "runs" / run / "best.pt")["model"]
    values = training_values(names)
    np.testing.assert_allclose(weights["visual.mean"], values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(weights["visual.std"], [*values.std(0)[:4], 1], rtol=1e-5)
    assert (weights["visual.out.0.weight"][:, 4] == 0).all(), "a constant feature is used"
    assert (weights["visual.out.0.weight"][:, :4] != 0).all()


def test_a_missing_frame_is_one_of_the_mean_and_a_constant_feature_changes_nothing():
    layer = Standardised((3,), 4, norm=True).eval()
    layer.standardise(np.array([5, -1, 2], np.float32), np.array([2, 0.1, 0], np.float32))
    given = torch.tensor([[5.0, -1, 2], [7, -1, 2], [5, torch.nan, 2], [5, -1, 1e6], [torch.nan] * 3])
    made = layer(given)
    assert all(torch.equal(made[0], made[k]) for k in (2, 3, 4)) and not torch.equal(made[0], made[1])
    expected = layer.out(torch.tensor([[1.0, 0, 0]]))
    torch.testing.assert_close(made[1:2], expected)


def test_a_run_of_features_that_was_stopped_ends_in_the_same_bits(corpus, call, trained_features, monkeypatch):
    words = ["--data-dir", corpus, *WORDS, "--stage", "teacher"]
    with monkeypatch.context() as patch:
        stop_at(patch, "step", 2)
        assert call("mmpkd", *words)[0] == 130
    assert call("mmpkd", *words, "--resume")[0] == 0
    whole, run = run_of(trained_features, "teacher"), run_of(corpus, "teacher")
    assert same(kept_of(whole), kept_of(run)) and log_of(whole) == log_of(run)
    assert same(load_checkpoint(whole / "last.pt")["model"], load_checkpoint(run / "last.pt")["model"])


def test_features_exchanged_while_a_run_is_stopped_are_noticed(corpus, call, monkeypatch):
    words = ["--data-dir", corpus, *WORDS, "--stage", "teacher"]
    with monkeypatch.context() as patch:
        stop_at(patch, "step", 2)
        call("mmpkd", *words)
    path = next((corpus / "features" / "audio").glob("train_1.*"))
    path.write_bytes(next((corpus / "features" / "audio").glob("train_2.*")).read_bytes())
    code, _, err = call("mmpkd", *words, "--resume")
    assert code == 1 and "train_1 had other audio features" in err


def test_a_network_of_features_is_built_again_and_gives_the_predictions_of_its_run(trained_features):
    run = run_of(trained_features, "teacher")
    model, _ = load_model(run / "best.pt")
    cfg = tiny_config(data_dir=str(trained_features), target="both", visual_backbone="features",
                      audio_backbone="features")
    (recording,) = load_recordings(cfg, "Val_Set", model.inputs)
    with torch.no_grad():
        pred = model(*[torch.from_numpy(recording.arrays[name][None]) for name in model.inputs]).pred[0]
    table = pd.read_csv(run / "predictions" / "val" / "dev_1.csv")
    np.testing.assert_allclose(pred, table[["arousal_pred", "valence_pred"]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part, kind", [("visual", "frames"), ("audio", "specs")])
def test_features_of_one_kind_go_with_images_of_the_other(made, call, part, kind):
    (made / "features" / part).mkdir(parents=True)
    for name in ("train_1", "train_2", "dev_1"):
        np.save(made / "features" / part / f"{name}.npy", features_of(name)[1])
    shutil.rmtree(made / {"visual": "Cropped_Aligned", "audio": "specs"}[part])
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, f"--{part}-backbone", "features", "--stage", "teacher")
    assert code == 0 and "finished" in out, err
    shapes = load_checkpoint(run_of(made, "teacher", "arousal") / "best.pt")["shapes"]
    assert shapes == {"frames": (3, 32, 32), "specs": (1, 16, 101)} | {kind: (5,)}


def test_augmentation_leaves_features_alone():
    batch = easy_batch()
    features = torch.rand(3, 8, 5)
    changes = draw_augmentation(3, torch.Generator().manual_seed(0))
    made = on_device(batch._replace(frames=features), CPU, changes)
    assert torch.equal(made.frames, features) and not torch.equal(made.specs, batch.specs)
    assert torch.equal(on_device(batch._replace(specs=features), CPU, changes).specs, features)


@pytest.mark.parametrize("change", [
    {"shapes": {"frames": (3, 32, 32)}}, {"shapes": {"frames": ()}}, {"shapes": {"frames": (6,)}},
    {"shapes": {"frames": (10**9,)}}, {"config": {"target": "both", "visual_backbone": "resnet18"}},
    {"config": {"target": "both", "visual_backbone": "tiny_cnn"}}, {"mean": 4}, {"std": 6}])
def test_a_checkpoint_whose_features_do_not_fit_its_network_is_one_line(trained_features, tmp_path, change):
    state = load_checkpoint(run_of(trained_features, "visual") / "best.pt")
    for name in {"mean", "std"} & set(change):
        state["model"][f"visual.{name}"] = torch.ones(change[name])
    for name in {"shapes", "config"} & set(change):
        state[name] = change[name]
    if "shapes" in change:
        state["card"]["inputs"] = {"frames": list(change["shapes"]["frames"])}
    torch.save(state, tmp_path / "best.pt")
    with pytest.raises(UserError, match="best.pt") as error:
        load_model(tmp_path / "best.pt")
    assert "\n" not in str(error.value)


# ---- what is said before anything is trained ------------------------------------------------------------------------

def refused(call, corpus, *words, code=1):
    line = one_line(*call("mmpkd", "--data-dir", corpus, *WORDS, *words)[::2], expected=code)
    assert not (corpus / "runs").exists()
    return line


@pytest.mark.parametrize("part, name, words", [
    ("visual", "dev_1.csv", "--visual-backbone features"), ("visual", "other_1.csv", "is missing"),
    ("audio", "dev_1.npy", "--audio-backbone features")])
def test_features_missing_in_all_of_a_set_or_to_compare_runs_are_named(corpus, call, part, name, words):
    (corpus / "features" / part / name).unlink()
    line = refused(call, corpus)
    assert f"features/{part}/{name.split('.')[0]}.csv (or .arff, .npy) is missing" in line and words in line


def test_without_any_audio_features_the_first_is_named(corpus, call):
    shutil.rmtree(corpus / "features" / "audio")
    assert "features/audio/" in refused(call, corpus, "--stage", "teacher")


def test_a_training_recording_without_audio_features_is_left_out_as_one_without_sound(corpus, call):
    (corpus / "features" / "audio" / "train_2.npy").unlink()
    code, out, _ = call("mmpkd", "--data-dir", corpus, *WORDS, "--stage", "audio")
    assert code == 0 and "train_2: left out, as" in out and "features/audio/ has no features of it" in out
    predicted = run_of(corpus, "audio") / "predictions" / "train"
    assert sorted(path.stem for path in predicted.glob("*.csv")) == ["train_1", "train_3"]


@pytest.mark.parametrize("put, words", [
    ("frame, timestamp, a\n1, 0, 1\n2, 0.04\n", "train_2.csv line 3"), ("", "train_2.csv is empty"),
    ("AU00_r\n" + "1\n" * (FRAMES // 2), f"train_2.csv has {FRAMES // 2} rows for {FRAMES} frames"),
    (None, "train_2.csv .or .arff, .npy. is missing"), (os.mkfifo, "train_2.csv is a pipe"),
    (lambda path: path.symlink_to("nowhere"), "train_2.csv")])
def test_a_recording_whose_features_cannot_be_used_is_left_out_and_the_others_train(corpus, call, put, words):
    path = corpus / "features" / "visual" / "train_2.csv"
    path.unlink()
    path.write_text(put) if isinstance(put, str) else put and put(path)
    code, out, _ = call("mmpkd", "--data-dir", corpus, *WORDS, "--stage", "visual")
    assert code == 0 and re.search(f"train_2: left out: .*{words}", out), out
    predicted = run_of(corpus, "visual") / "predictions" / "train"
    assert sorted(path.stem for path in predicted.glob("*.csv")) == ["train_1", "train_3"]


def test_runs_on_sound_alone_leave_out_of_val_set_what_has_no_visual_features(corpus, call):
    for source, copy in (("Annotations/Val_Set/dev_1.csv", "Annotations/Val_Set/dev_2.csv"),
                         ("features/audio/dev_1.npy", "features/audio/dev_2.npy")):
        shutil.copy(corpus / source, corpus / copy)
    for stage in ("visual", "audio"):
        code, out, _ = call("mmpkd", "--data-dir", corpus, *WORDS, "--stage", stage)
        assert code == 0 and "dev_2: left out: " in out
        assert [path.stem for path in (run_of(corpus, stage) / "predictions" / "val").glob("*.csv")] == ["dev_1"]


def test_other_columns_in_one_recording_are_named(corpus, call):
    (corpus / "features" / "visual" / "train_2.csv").write_text(
        "timestamp,AU00_r\n" + "".join(f"{k / 25},{k % 3}\n" for k in range(FRAMES)))
    assert "train_2.csv has no column 'au01_r'" in refused(call, corpus)


@pytest.mark.parametrize("put", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_named_and_not_waited_for(corpus, call, put):
    (corpus / "features" / "audio" / "dev_1.npy").unlink()
    put(corpus / "features" / "audio" / "dev_1.npy")
    assert "audio/dev_1.npy" in refused(call, corpus)


def test_weights_of_a_backbone_are_refused_for_features(corpus, call):
    assert "leave it out" in refused(call, corpus, "--visual-weights", "imagenet", code=2)


def test_what_is_missing_is_counted_for_every_recording(corpus, call):
    write_visual(corpus, "train_2", missing=range(10))
    out = call("mmpkd", "--data-dir", corpus, *WORDS, "--stage", "visual")[1]
    assert f"train_2.csv: 10 of {FRAMES} frames have no features: masked" in out
    assert out.count("2 of 60 frames have no features") == 3, "said of each recording, and once"


# ---- afterwards -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage, words", [("student", ["clip.mp4"]), ("teacher", ["clip.mp4"]),
                                          ("student", ["--camera", "0"])])
def test_a_video_is_refused_in_one_line_before_anything_is_written(trained_features, call, tmp_path, stage, words):
    (tmp_path / "clip.mp4").touch()
    words = [str(tmp_path / word) if word.endswith(".mp4") else word for word in words]
    best = run_of(trained_features, stage) / "best.pt"
    code, _, err = call("predict", best, *words, "--out", tmp_path / "out")
    assert "features of the face that another program made" in one_line(code, err, 2)
    assert not (tmp_path / "out").exists()


def test_an_export_is_refused_and_the_card_says_what_the_network_is_given(trained_features, call):
    best = run_of(trained_features, "student") / "best.pt"
    assert "only networks that take face crops" in one_line(*call("export", best)[::2])
    code, out, _ = call("predict", best, "--about")
    assert code == 0 and "It is given 5 features of the face" in out and "cannot be given a video" in " ".join(
        out.split())


def test_tables_figures_and_the_report_are_made_as_of_images(trained_features, tmp_path, call, no_figures):
    folder = shutil.copytree(trained_features, tmp_path / "data")
    code, out, err = call("plot_ccc", "--data-dir", folder)
    assert code == 0 and "student_both_cosine" in out, err
    code, _, err = call("report", "--data-dir", folder)
    assert code == 0 and (folder / "plots" / "report.html").stat().st_size > 10000, err


# ---- before training ------------------------------------------------------------------------------------------------

def test_check_counts_features_and_misses_nothing_that_they_stand_for(corpus, call):
    code, out, _ = call("annotations", "--data-dir", corpus, "--check")
    page = (corpus / "plots" / "check.html").read_text()
    assert code == 0 and "ERROR" not in out and "What is not made yet" not in page
    assert "visual features" in page and page.count(f">{FRAMES}</td>") >= 3 * len(NAMES) - 1
    np.save(corpus / "features" / "audio" / "dev_1.npy", np.zeros((FRAMES, 3)))
    (corpus / "features" / "audio" / "train_1.npy").unlink()
    np.save(corpus / "features" / "audio" / "train_2.npy", np.zeros((3 * FRAMES, 2)))
    code, out, _ = call("annotations", "--data-dir", corpus, "--check")
    assert code == 1 and "ERROR: Features that cannot be used" in out
    assert f"{3 * FRAMES} rows for {FRAMES} frames" in out and "has no column '2'" in out
    assert "no sound" in (corpus / "plots" / "check.html").read_text()


def test_features_show_the_delay_where_there_are_no_sound_and_faces(tmp_path, call):
    draw, frames, late = np.random.default_rng(0), 900, 30
    for folder in ("ratings_gold_standard", "features/visual"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(4):
        noise = draw.normal(size=(2, frames + late))
        course = np.array([np.convolve(one, np.hanning(50), "same") / 20 for one in noise]).T
        visual = course[late:] + draw.normal(0, 0.02, (frames, 2))
        visual[::50] = np.nan
        np.save(tmp_path / "features" / "visual" / f"train_{number}.npy", visual)
        np.savetxt(tmp_path / "ratings_gold_standard" / f"train_{number}.csv", course[:frames], delimiter=";")
    code, out, err = call("annotations", "--data-dir", tmp_path, "--show-delay")
    assert code == 0 and "--label-delay-s 1.2" in out, out + err
