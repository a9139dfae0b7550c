"""frozen.py: backbones that stay as their weights are, and their features, computed once."""
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import (
    CPU,
    TINY,
    add_unlabelled,
    flip,
    kept_of,
    log_of,
    one_line,
    own,
    run_of,
    same,
    stop_at,
    tiny_config,
)
from PIL import Image

import frozen
import mmpkd
import objectives
from augmentation import draw_augmentation, on_device
from checkpoints import load_checkpoint, load_model
from config import Config
from data import Batch, Clips, image_shapes, load_recordings
from models_kd import build_model, cnn
from runs import INPUTS
from scores import predict, read_predictions
from support.errors import UserError
from support.files import alone_at
from training import Training, train_step


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """{"visual": file of pretrained weights of tiny_cnn, "audio": ...}."""
    files = {}
    for modality, channels in {"visual": 3, "audio": 1}.items():
        torch.manual_seed(channels)
        net = cnn("tiny_cnn", channels)
        net(torch.rand(8, channels, 32, 32))  # statistics of batch norm that are not those of a new network
        files[modality] = tmp_path_factory.mktemp("weights") / f"{modality}.pt"
        torch.save(net.state_dict(), files[modality])
    return files


def frozen_words(weights, *modalities):
    return [word for one in modalities or weights
            for word in (f"--{one}-lr-scale", "0", f"--{one}-weights", str(weights[one]))]


def frozen_config(folder, weights, **changes):
    files = {f"{modality}_weights": str(file) for modality, file in weights.items()}
    return tiny_config(**dict(data_dir=str(folder), visual_lr_scale=0.0, audio_lr_scale=0.0, augment=False, **files)
                       | changes)


def model_of(folder, weights, stage="teacher", **changes):
    """(its Config, recordings of Train_Set, a new network with frozen backbones)."""
    cfg = frozen_config(folder, weights, **changes)
    recordings = load_recordings(cfg, "Train_Set", INPUTS[stage])
    torch.manual_seed(0)
    return cfg, recordings, build_model(stage, cfg, image_shapes(recordings))


def features_in(folder):
    return sorted(path.name for path in (folder / "cache").glob("*-*.npy"))


# ---- it stays as it is ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_frozen_backbone_is_bit_identical_in_best_pt_and_all_else_is_trained(made, call, weights, optimizer):
    words = ["--data-dir", made, *TINY, "--stage", "teacher", "--weight-decay", 0.1, "--optimizer", optimizer]
    assert call("mmpkd", *words, *frozen_words(weights))[0] == 0
    kept = load_checkpoint(run_of(made, "teacher", "arousal") / "best.pt")["model"]
    for modality, file in weights.items():
        for name, tensor in torch.load(file, weights_only=True).items():
            assert torch.equal(kept[f"{modality}.net.{name}"], tensor), name
    _, _, new = model_of(made, weights)
    for name, parameter in new.named_parameters():
        assert parameter.requires_grad == (".net." not in name), name
        assert torch.equal(kept[name], parameter) == (".net." in name), name


def test_the_layer_after_a_frozen_backbone_has_the_learning_rate_of_the_rest(made, weights):
    cfg, _, model = model_of(made, weights, learning_rate=0.5)
    groups = Training(model, cfg).optimizer.param_groups
    assert {group["lr"] for group in groups} == {0.5}
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    assert trained == {id(one) for name, one in model.named_parameters() if ".net." not in name}


def test_a_backbone_with_random_weights_is_not_frozen(made, call):
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--visual-lr-scale", 0)[::2], 2)
    assert "visual_lr_scale" in line and "--visual-weights" in line


# ---- the same as in every step --------------------------------------------------------------------------------------

def losses(cfg, recordings, model, steps=6):
    training = Training(model, cfg)
    training.model.train()
    for batch in Clips(recordings, 4, 10, model.inputs, 0, steps).batches(0):
        train_step(training, objectives.task_objective, batch)
        yield training.sums["loss"]


@pytest.mark.parametrize("stage", ["visual", "audio", "teacher"])
def test_losses_are_those_with_the_backbone_in_every_step(made, weights, stage):
    cfg, recordings, model = model_of(made, weights, stage, learning_rate=0.01)
    once = with_all(recordings, model)
    assert all(isinstance(one.arrays[name], frozen.Views) for one in once for name in INPUTS[stage])
    _, _, again = model_of(made, weights, stage)
    np.testing.assert_allclose([*losses(cfg, once, model)], [*losses(cfg, recordings, again)], rtol=0, atol=1e-5)


def with_all(recordings, model, augmented=False):
    return frozen.with_features(recordings, model, augmented)


@pytest.mark.parametrize("stride", [1, 3])
def test_the_run_of_a_frozen_network_predicts_from_images_what_it_predicted_from_features(made, call, weights, stride):
    words = *TINY, "--clip-stride", stride
    assert call("mmpkd", "--data-dir", made, *words, "--stage", "teacher", *frozen_words(weights))[0] == 0
    run = run_of(made, "teacher", "arousal")
    model, _ = load_model(run / "best.pt")
    cfg = tiny_config(data_dir=str(made))
    images = [dataclasses.replace(one, cache=None) for one in load_recordings(cfg, "Val_Set", model.inputs)]
    table = read_predictions(run, "val", cfg.frame_rate)["dev_1"]
    np.testing.assert_allclose(predict(model, images)["dev_1"][:, 0], table["arousal_pred"], atol=1e-5)


# ---- views ----------------------------------------------------------------------------------------------------------

def test_the_second_view_is_of_mirrored_faces_and_of_earlier_sound(made, weights):
    _, recordings, model = model_of(made, weights)
    one = with_all(recordings, model, augmented=True)[0]
    faces, specs = (torch.tensor(recordings[0].arrays[name][:5]) / 255 for name in model.inputs)
    earlier = torch.cat([specs[..., :1].expand(-1, -1, -1, specs.shape[-1] // 10), specs], -1)[..., :specs.shape[-1]]
    with torch.no_grad():
        expected = [[model.visual.pretrained(part) for part in (faces, faces.flip(-1))],
                    [model.audio.pretrained(part) for part in (specs, earlier)]]
    for name, views in zip(model.inputs, expected):
        np.testing.assert_allclose(one.arrays[name][:5], torch.stack(views, 1), atol=1e-5)


def test_a_clip_has_the_view_of_mirrored_faces_where_it_would_be_mirrored():
    changes = draw_augmentation(50, torch.Generator().manual_seed(0))
    frames = torch.tensor([0.0, 1.0], dtype=torch.float16)[:, None].expand(50, 3, 2, 4)
    batch = Batch(frames, None, torch.zeros(50, 3, 1))
    chosen, plain = (on_device(batch, CPU, how).frames for how in (changes, None))
    assert chosen.shape == (50, 3, 4) and chosen.dtype == torch.float32 and not plain.any()
    assert torch.equal(chosen[:, 0, 0] == 1, changes[2] >= 0.5) and 0 < chosen.mean() < 1


def test_training_alone_has_two_views_and_without_augmentation_one(made, call, weights):
    words = ["--data-dir", made, *TINY, "--stage", "visual", *frozen_words(weights, "visual")]
    assert call("mmpkd", *words, "--no-augment")[0] == 0
    assert [name.split(".")[0] for name in features_in(made)] == ["dev_1", "train_1", "train_2"]
    assert call("mmpkd", *words, "--variant", "mirrored")[0] == 0
    assert [name.split(".")[0] for name in features_in(made)] == ["dev_1", *2 * ["train_1"], *2 * ["train_2"]]


# ---- once -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def counted(monkeypatch):
    """Names of the recordings of which features were computed."""
    names, pieces = [], frozen.Maker.pieces

    def note(self, recording, view, bar):
        names.append(recording.name)
        return pieces(self, recording, view, bar)
    monkeypatch.setattr(frozen.Maker, "pieces", note)
    return names


def test_features_are_computed_once_and_again_where_images_changed_or_the_file_is_damaged(made, weights, counted):
    def features():
        counted.clear()
        _, recordings, model = model_of(made, weights, "visual")
        return {one.name: one.arrays["frames"][:] for one in with_all(recordings, model)}, list(counted)

    first, names = features()
    assert names == ["train_1", "train_2"]
    assert features()[1] == []
    flip(made / "cache" / features_in(made)[0])
    again, names = features()
    assert names == ["train_1"] and np.array_equal(first["train_1"], again["train_1"])

    image = own(made / "Cropped_Aligned" / "train_2" / "000003.jpg")
    (image.parent / "checksums.sfv").unlink()
    Image.new("RGB", (32, 32), "red").save(image)
    changed, names = features()
    assert names == ["train_2"] and len(features_in(made)) == 2, "the old features were not deleted"
    assert [k for k in range(60) if not np.allclose(first["train_2"][k], changed["train_2"][k], atol=1e-5)] == [3]


def test_other_weights_have_other_features(made, weights, tmp_path, counted):
    _, recordings, model = model_of(made, weights, "visual")
    with_all(recordings, model)
    state = torch.load(weights["visual"], weights_only=True)
    state["0.weight"][0, 0, 0, 0] += 1
    torch.save(state, tmp_path / "other.pt")
    _, recordings, other = model_of(made, {"visual": tmp_path / "other.pt"}, "visual")
    with_all(recordings, other)
    assert counted == 2 * ["train_1", "train_2"] and len(features_in(made)) == 4


def test_what_was_computed_before_a_kill_is_kept(made, call, weights, monkeypatch, counted):
    pieces = frozen.Maker.pieces

    def killed(self, recording, view, bar):
        if recording.name == "train_2":
            raise KeyboardInterrupt
        return pieces(self, recording, view, bar)

    words = ["--data-dir", made, *TINY, "--stage", "visual", "--no-augment", *frozen_words(weights, "visual")]
    with monkeypatch.context() as patch:
        patch.setattr(frozen.Maker, "pieces", killed)
        assert call("mmpkd", *words)[0] == 130
    assert [name.split(".")[0] for name in features_in(made)] == ["train_1"]
    counted.clear()
    code, out, _ = call("mmpkd", *words)
    assert code == 0 and counted == ["train_2", "dev_1"]
    assert "are computed once" in out and "MB in" in out


def test_features_that_another_process_is_making_are_left_to_it_until_all_others_are_made(made, weights, counted):
    _, recordings, model = model_of(made, weights, "visual")
    first = frozen.Maker("frames", model.visual, False).path(recordings[0], frozen.VIEWS[0])
    with alone_at(first):  # held as by another process, which makes no file here
        with_all(recordings, model)
    assert counted == ["train_2", "train_1"] and len(features_in(made)) == 2
    assert not [*first.parent.glob("*.part")]


def test_a_full_disk_is_said_before_anything_is_computed(made, weights, counted, monkeypatch):
    _, recordings, model = model_of(made, weights, "visual")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10**6))
    with pytest.raises(UserError, match="MB left"):
        with_all(recordings, model)
    assert not counted


def test_with_bfloat16_features_take_half_the_bytes_and_are_about_the_same(made, weights):
    _, recordings, model = model_of(made, weights, "visual")
    full = with_all(recordings, model)[0].arrays["frames"][:]
    model.in_bfloat16 = True
    half = with_all(recordings, model)[0].arrays["frames"][:]
    assert (full.dtype, half.dtype) == (np.float32, np.float16)
    assert 0 < np.abs(full - half).max() < 0.03 * np.abs(full).max()


# ---- runs -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_of_a_frozen_network_ends_in_the_same_bits(made, call, weights, precision):
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--precision", precision, *frozen_words(weights, "visual")]
    assert call("mmpkd", *words, "--variant", "whole")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "step", 2)
        assert call("mmpkd", *words)[0] == 130
    assert call("mmpkd", *words, "--resume")[0] == 0
    whole, resumed = (run_of(made, "visual", target) for target in ("arousal_whole", "arousal"))
    assert same(kept_of(whole)["model"], kept_of(resumed)["model"]) and log_of(whole) == log_of(resumed)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_teachers_students_and_folds_train_on_features(made, call, weights, unlabelled):
    if unlabelled:
        add_unlabelled(made)
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, *frozen_words(weights))
    assert code == 0, err
    name = "pseudo" if unlabelled else "cosine"
    state = load_checkpoint(run_of(made, "student", "arousal", name) / "best.pt")
    assert state["card"]["network"]["visual_lr_scale"] == 0 and f"student ({name_of(name)})" in out
    kept = torch.load(weights["visual"], weights_only=True)
    assert all(torch.equal(state["model"][f"visual.net.{key}"], tensor) for key, tensor in kept.items())


def name_of(distill):
    return "pseudo-labels" if distill == "pseudo" else distill


def test_a_network_trained_on_features_runs_on_a_video_and_as_onnx(made, raw_corpus, call, weights, tmp_path,
                                                                  monkeypatch):
    words = ["--data-dir", made, *TINY, "--stage", "visual", *frozen_words(weights, "visual")]
    assert call("mmpkd", *words)[0] == 0
    best, out = run_of(made, "visual", "arousal") / "best.pt", tmp_path / "out"
    code, _, err = call("predict", best, raw_corpus / "videos" / "dev_1.mp4", "--out", out, "--device", "cpu")
    assert code == 0 and (out / "dev_1.csv").exists(), err
    monkeypatch.setattr("export.STREAM", 50)
    monkeypatch.setattr("export.TIMED_S", 0)
    code, _, err = call("export", best, "--out", tmp_path / "frozen.onnx")
    assert code == 0 and (tmp_path / "frozen.onnx").stat().st_size, err


def test_a_frozen_student_may_learn_from_a_teacher_that_is_not(made, call, weights):
    words = ["--data-dir", made, *TINY, "--distill", "cosine"]
    assert call("mmpkd", *words, "--stage", "teacher")[0] == 0
    code, out, err = call("mmpkd", *words, "--stage", "student", *frozen_words(weights, "visual"))
    assert code == 0 and "visual_lr_scale 0.1 (now 0.0)" in out, err


def test_the_presets_are_settings_of_config():
    from support.settings import read_settings
    for name in ("recola_cpu", "recola_gpu"):
        cfg = Config(**read_settings(f"{mmpkd.__file__[:-8]}{name}.json"))
        assert (cfg.visual_lr_scale == 0) == (name == "recola_cpu") and cfg.visual_weights == "imagenet"
