"""models_kd.py: shapes, the paper's layers, pretrained weights, and the GRU state carried from clip to clip."""
import inspect
import pickle
import subprocess
import sys
from argparse import Namespace
from datetime import datetime
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import models_kd
import weights
from config import Config
from models_kd import MODELS, Backbone, CrossAttention, Student, build_model, check_weights, cnn, load_weights
from support.errors import SettingsError, UserError

SHAPES = {"frames": (3, 32, 32), "specs": (1, 16, 40)}
SMALL = dict(visual_backbone="small_cnn", audio_backbone="small_cnn", feature_size=16, gru_size=12)


def small_config(**changes):
    return Config(**SMALL | changes)


def images(stage, clips=2, frames=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(clips, frames, *SHAPES[name], generator=generator) for name in MODELS[stage].inputs]


def settled(model, *clips):
    """The model in evaluation mode, with running statistics that are not those it began with."""
    model.train()(*clips)
    return model.eval()


def linears(module):
    return [(layer.in_features, layer.out_features) for layer in module.modules() if isinstance(layer, nn.Linear)]


# ---- backbones ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, channels, side", [
    ("resnet18", 3, 64), ("resnet18", 1, 64), ("mobilenet_v3_small", 3, 64), ("small_cnn", 1, 20), ("tiny_cnn", 3, 32)])
def test_every_backbone_gives_one_row_of_features_per_image(name, channels, side):
    backbone = Backbone(name, "", (channels, side, side), 24, True).eval()
    assert backbone(torch.rand(3, channels, side, side)).shape == (3, 24)


def test_vgg19_at_112_pixels_feeds_4608_numbers_to_its_features():
    backbone = Backbone("vgg19_bn", "", (3, 112, 112), 512, False).eval()
    assert linears(backbone) == [(4608, 512)]
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, 112, 112)).shape == (1, 512)


@pytest.mark.parametrize("name", ["vgg19_bn", "resnet18", "mobilenet_v3_small"])
def test_backbones_are_torchvisions_under_their_own_names_without_the_classifier(name):
    with torch.device("meta"):  # names and shapes, no numbers
        own = models_kd._torchvision(name, 3).state_dict()
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
    assert {key: value.shape for key, value in own.items()} == {
        key: value.shape for key, value in theirs.items() if not key.startswith(("classifier", "fc."))}


def test_a_known_classifier_is_removed_from_a_network_without_code_of_its_own():
    with torch.device("meta"):
        assert models_kd._torchvision("resnet50", 1).eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 2048)


def test_a_network_that_keeps_a_classifier_is_refused_in_one_line_that_names_the_function(monkeypatch):
    monkeypatch.setattr(models_kd, "CLASSIFIERS", ())
    for name in ("resnet50", "squeezenet1_1"):  # a linear layer, a convolution
        with torch.device("meta"), pytest.raises(SettingsError, match=f"{name}.*_torchvision") as error:
            models_kd._torchvision(name, 3)
        assert "\n" not in str(error.value)


def test_a_network_that_cannot_take_grey_images_is_refused_in_one_line():
    with torch.device("meta"), pytest.raises(SettingsError, match="mobilenet_v3_small.*_torchvision"):
        models_kd._torchvision("mobilenet_v3_small", 1)


def test_torchvision_is_not_imported_until_a_network_of_it_is_built():
    code = "import sys, models_kd; models_kd.cnn('small_cnn', 3); sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(models_kd.__file__).parent).returncode == 0


@pytest.mark.parametrize("side", [17, 48])
def test_the_small_cnn_takes_images_of_any_size(side):
    assert cnn("small_cnn", 1).eval()(torch.rand(1, 1, side, side)).shape == (1, 64, -(-side // 16), -(-side // 16))


def test_time_folded_into_the_batch_gives_what_single_images_give():
    backbone = Backbone("small_cnn", "", SHAPES["frames"], 16, True)
    clips, = images("visual")
    backbone.train()(clips.flatten(0, 1))
    backbone.eval()
    one_by_one = torch.stack([torch.stack([backbone(frame[None])[0] for frame in clip]) for clip in clips])
    torch.testing.assert_close(backbone.each_frame(clips), one_by_one, atol=1e-5, rtol=1e-5)


# ---- models ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target, count", [("arousal", 1), ("both", 2)])
@pytest.mark.parametrize("stage", MODELS)
def test_every_model_gives_predictions_and_hints_of_the_contracted_shapes(stage, target, count):
    model = build_model(stage, small_config(target=target), SHAPES)
    output = model(*images(stage))
    assert output.pred.shape == (2, 6, count) and output.feat.shape == (2, 6, 128)
    output.pred.sum().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_the_student_has_no_parameter_for_sound():
    assert list(inspect.signature(Student.forward).parameters) == ["self", "frames", "hidden"]
    assert Student.inputs == ("frames",) and MODELS["visual"] is MODELS["student"] is Student
    names = [name for name, _ in build_model("student", small_config(), SHAPES).named_modules()]
    assert not any("audio" in name or "spec" in name for name in names)


def paper(stage, **changes):
    """The model with the paper's sizes, its VGG19 exchanged for something quick."""
    small = dict(visual_backbone="small_cnn", audio_backbone="small_cnn", target="arousal")
    return build_model(stage, Config(**small | changes), SHAPES)


def test_heads_have_the_papers_layers():
    student = paper("student", linear_heads=True)
    gru = student.gru
    assert (gru.input_size, gru.hidden_size, gru.num_layers, gru.bidirectional) == (512, 1024, 1, False)
    assert linears(student.hint) == [(1024, 512), (512, 256), (256, 128)]
    assert linears(student.out) == [(128, 64), (64, 1)]
    teacher = paper("teacher", linear_heads=True, audio_gru=False)
    assert linears(teacher.seen) == [(1024, 1024)] and linears(teacher.hint) == [(1536, 256), (256, 128)]
    assert linears(teacher.out) == [(128, 1)] and teacher.audio_gru is None


@pytest.mark.parametrize("stage", MODELS)
def test_linear_heads_have_no_activations_and_the_default_ones_do(stage):
    def activations(linear):
        model = build_model(stage, small_config(linear_heads=linear), SHAPES)
        heads = [module for name, module in model.named_children() if name in ("seen", "hint", "out")]
        layers = [layer for module in heads for layer in module.modules()]
        return [type(layer) for layer in layers if not isinstance(layer, (nn.Sequential, nn.Linear))]
    assert activations(True) == [] and set(activations(False)) == {nn.LeakyReLU} and len(activations(False)) >= 3


def test_nothing_in_a_default_head_is_two_linear_layers_without_an_activation_between():
    for stage in MODELS:
        model = build_model(stage, small_config(), SHAPES)
        layers = [*model.hint, *model.out]
        assert not any(isinstance(a, nn.Linear) and isinstance(b, nn.Linear) for a, b in zip(layers, layers[1:]))


def test_modality_dropout_zeroes_one_modality_in_training_and_never_both():
    teacher = build_model("teacher", small_config(modality_dropout=1.0), SHAPES)
    visual, audio = teacher.train()._drop_a_modality(torch.ones(200, 3, 4), torch.ones(200, 3, 5))
    kept_visual, kept_audio = visual.flatten(1).amax(1), audio.flatten(1).amax(1)
    assert (kept_visual + kept_audio == 1).all() and 60 < kept_visual.sum() < 140
    assert teacher.eval()._drop_a_modality(visual, audio) == (visual, audio)


# ---- the GRU state that is carried ----------------------------------------------------------------------------------

@pytest.mark.parametrize("audio_gru, fusion", [(True, "concat"), (False, "concat"), (True, "cross_attention")])
@pytest.mark.parametrize("stage", MODELS)
def test_pieces_with_the_state_carried_equal_one_pass(stage, audio_gru, fusion):
    clips = images(stage, frames=12)
    model = settled(build_model(stage, small_config(audio_gru=audio_gru, fusion=fusion), SHAPES), *clips)
    with torch.no_grad():
        whole = model(*clips)
        hidden, preds, feats = None, [], []
        for start, end in [(0, 5), (5, 6), (6, 12)]:
            piece = model(*[clip[:, start:end] for clip in clips], hidden=hidden)
            hidden = piece.hidden
            preds.append(piece.pred)
            feats.append(piece.feat)
        without_state = model(*[clip[:, 5:] for clip in clips]).pred
    torch.testing.assert_close(torch.cat(preds, 1), whole.pred, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(feats, 1), whole.feat, atol=1e-5, rtol=1e-5)
    if stage != "audio" or audio_gru:
        assert not torch.allclose(without_state, whole.pred[:, 5:], atol=1e-6)  # the state makes a difference


def test_cross_attention_is_its_authors_formulas_of_the_frames_up_to_each_one():
    attention, draw = CrossAttention([5, 3], frames=4, width=7), torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 6, size, generator=draw) for size in (5, 3)]
    with torch.no_grad():
        attended, past = attention(parts)
        for clip in range(2):
            for frame in range(6):
                joint = torch.cat(parts, 2)[clip]
                joint = torch.cat([joint.new_zeros(3, 8), joint])[frame:frame + 4].T  # J: (D, L)
                for k, part in enumerate(parts):
                    x = part[clip, frame][:, None]  # X: (D of this modality, 1), of the frame itself
                    correlation = torch.tanh(x.T @ attention.joint[k].weight.T @ joint / 8 ** 0.5)
                    h = torch.relu(attention.own[k].weight @ x + attention.correlated[k].weight @ correlation.T)
                    expected = x + attention.back[k].weight @ h
                    torch.testing.assert_close(attended[k][clip, frame], expected[:, 0], atol=1e-5, rtol=1e-5)
    assert past.shape == (2, 3, 8)


def test_cross_attention_changes_the_teacher_alone():
    def size(stage, fusion):
        return sum(p.numel() for p in build_model(stage, small_config(fusion=fusion), SHAPES).parameters())

    assert {stage for stage in MODELS if size(stage, "concat") != size(stage, "cross_attention")} == {"teacher"}


@pytest.mark.parametrize("stage", MODELS)
def test_the_prediction_of_a_clip_does_not_depend_on_the_rest_of_the_batch(stage):
    clips = images(stage, clips=3)
    model = settled(build_model(stage, small_config(), SHAPES), *clips)
    with torch.no_grad():
        alone, batch = model(*[clip[1:2] for clip in clips]).pred, model(*clips).pred
    torch.testing.assert_close(alone, batch[1:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stage", MODELS)
def test_no_prediction_depends_on_later_frames(stage):
    clips = images(stage)
    model = settled(build_model(stage, small_config(), SHAPES), *clips)
    later = [torch.cat([clip[:, :4], 1 - clip[:, 4:]], 1) for clip in clips]
    with torch.no_grad():
        torch.testing.assert_close(model(*later).pred[:, :4], model(*clips).pred[:, :4], atol=1e-5, rtol=1e-5)


def test_the_smallest_training_batch_of_one_clip_of_two_frames_works():
    for stage in MODELS:
        assert torch.isfinite(build_model(stage, small_config(), SHAPES).train()(*images(stage, 1, 2)).pred).all()


# ---- weights --------------------------------------------------------------------------------------------------------

@pytest.fixture
def no_download(monkeypatch):
    """Fails a test at once if torchvision is asked to download anything."""
    for module in (torch.hub, torchvision.models._api):
        monkeypatch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("a download"))


def fer_checkpoint(path, prefix="module."):
    """A checkpoint of the form of the paper's FER2013 one, with weights of a VGG19; returns them."""
    with torch.device("meta"):
        shapes = models_kd._torchvision("vgg19_bn", 3).state_dict()
    state = {key: torch.full(value.shape, number, dtype=value.dtype)
             for number, (key, value) in enumerate(shapes.items())}
    classifier = {"classifier.weight": torch.zeros(7, 512), "classifier.bias": torch.zeros(7)}
    net = {prefix + key: value for key, value in (state | classifier).items()}
    torch.save({"net": net, "best_PrivateTest_acc": 73.1, "best_PrivateTest_acc_epoch": 200}, path)
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_fer2013_checkpoint_loads_and_its_unused_classifier_is_named(tmp_path, capsys, prefix):
    state = fer_checkpoint(tmp_path / "PrivateTest_model.t7", prefix)
    with torch.device("meta"):
        net = models_kd._torchvision("vgg19_bn", 3)
    net.to_empty(device="cpu")
    mean, std = load_weights(net, "vgg19_bn", str(tmp_path / "PrivateTest_model.t7"))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert (mean, std) == ([0.0], [1.0])
    printed = capsys.readouterr().out
    assert f"{len(state)} of the {len(state)} tensors" in printed and "classifier.bias, classifier.weight" in printed


@pytest.mark.parametrize("nest", ["state_dict", "model", "params_ema", "encoder"])
def test_weights_nested_in_a_checkpoint_are_found(tmp_path, nest):
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({"epoch": 3, nest: {"module." + key: value for key, value in state.items()}}, tmp_path / "weights.pth")
    net = models_kd._torchvision("resnet18", 3)
    assert load_weights(net, "resnet18", str(tmp_path / "weights.pth")) == weights.IMAGENET
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    check_weights("resnet18", str(tmp_path / "weights.pth"))


def test_weights_are_found_behind_any_prefix_that_is_one_alone(tmp_path):
    state, path = torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "weights.pth"
    named = {f"feature_extractor.cnn.{key}": value for key, value in state.items()}
    torch.save({"state_dict": named | {"head.weight": torch.zeros(7, 512)}, "made": datetime.now(),
                "args": Namespace(out=Path("out"))}, path)
    net = models_kd._torchvision("resnet18", 3)
    load_weights(net, "resnet18", str(path))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    torch.save(named | {f"momentum.{key}": value for key, value in state.items()}, path)
    with pytest.raises(UserError, match="0 of the 120 tensors.*not in resnet18: feature_extractor"):
        check_weights("resnet18", str(path))
    torch.save({"student": state, "teacher": state}, path)
    with pytest.raises(UserError, match="several networks .student, teacher"):
        check_weights("resnet18", str(path))


def test_a_network_of_pretrained_weights_is_built_again_without_their_file(tmp_path):
    """As best.pt is: mean and std of its images come with the checkpoint."""
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    one = Backbone("resnet18", str(tmp_path / "resnet18.pth"), (3, 32, 32), 8, True).eval()
    other = Backbone("resnet18", "", (3, 32, 32), 8, True).eval()
    other.load_state_dict(one.state_dict())
    faces = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(one(faces), other(faces))
    assert other.mean.flatten().tolist() == pytest.approx(weights.IMAGENET[0])


def test_torchvisions_file_for_colour_loads_into_a_network_for_grey_spectrograms(tmp_path, capsys):
    file = tmp_path / "resnet18.pth"
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), file)
    backbone = Backbone("resnet18", str(file), (1, 64, 64), 16, False).eval()
    assert "fc.bias, fc.weight" in capsys.readouterr().out
    theirs.fc = nn.Identity()
    mean, std = sum(weights.IMAGENET[0]) / 3, sum(weights.IMAGENET[1]) / 3
    grey = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        same = theirs.eval()(((grey - mean) / std).expand(-1, 3, -1, -1))
        torch.testing.assert_close(backbone.net((grey - backbone.mean) / backbone.std), same, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["small_cnn", "tiny_cnn"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_of_an_own_cnn_loads_into_the_audio_network_which_runs(name, channels, tmp_path):
    """Weights for spectrograms, and for faces: summed over the colours. Images keep the scale of these networks."""
    theirs = cnn(name, channels).eval()
    torch.save(theirs.state_dict(), tmp_path / "cnn.pth")
    cfg = small_config(audio_backbone=name, audio_weights=str(tmp_path / "cnn.pth"))
    model, specs = build_model("audio", cfg, SHAPES).eval(), torch.rand(2, 3, *SHAPES["specs"])
    assert model(specs).pred.shape == (2, 3, len(cfg.targets))
    with torch.no_grad():
        same = theirs(((specs.flatten(0, 1) - 0.5) / 0.25).expand(-1, channels, -1, -1))
        ours = model.audio.net((specs.flatten(0, 1) - model.audio.mean) / model.audio.std)
    torch.testing.assert_close(ours, same, atol=1e-5, rtol=1e-4)


def test_a_file_without_the_first_layer_leaves_a_network_for_spectrograms_that_runs(tmp_path):
    part_of_resnet18(tmp_path / "part.pth", "bn1", "layer")
    backbone = Backbone("resnet18", str(tmp_path / "part.pth"), (1, 64, 64), 16, False)
    assert backbone(torch.rand(2, 1, 64, 64)).shape == (2, 16)


def part_of_resnet18(path, *layers):
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({key: value for key, value in state.items() if key.startswith(layers)}, path)


def test_what_a_file_lacks_stays_random_and_is_named(tmp_path, capsys):
    part_of_resnet18(tmp_path / "part.pth", "conv1", "bn1", "layer1", "layer2", "layer3")
    load_weights(models_kd._torchvision("resnet18", 3), "resnet18", str(tmp_path / "part.pth"))
    printed = capsys.readouterr().out
    assert "90 of the 120 tensors" in printed and "layer4.0.bn1.bias" in printed


def test_a_file_with_less_than_half_of_the_network_is_refused_before_training_and_on_loading(tmp_path):
    part_of_resnet18(tmp_path / "part.pth", "conv1", "layer1")
    for load in (check_weights, lambda *words: load_weights(models_kd._torchvision("resnet18", 3), *words)):
        with pytest.raises(UserError, match="part.pth.*25 of the 120.*conv1.weight.*bn1.bias") as error:
            load("resnet18", str(tmp_path / "part.pth"))
        assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path):
    layers = {"module.features.0.weight": torch.zeros(64, 3, 3, 3), "module.classifier.bias": torch.zeros(7)}
    torch.save({"net": layers}, tmp_path / "vgg.t7")
    with pytest.raises(UserError, match="vgg.t7.*resnet18.*classifier.bias"):
        check_weights("resnet18", str(tmp_path / "vgg.t7"))


def test_no_file_is_nothing_to_check_and_imagenet_is_fetched_at_once(monkeypatch):
    fetched = []
    monkeypatch.setattr("models_kd.downloaded", fetched.append)
    check_weights("resnet18", "")
    check_weights("resnet18", "imagenet")
    assert fetched == ["resnet18"]


class Harmful:
    def __reduce__(self):
        return (print, ("code of a weight file was run",))


def write_pickle(path):
    path.write_bytes(pickle.dumps({"net": Harmful()}, protocol=2))  # the protocol of torch.save


def write_torch_pickle(path):
    torch.save({"net": {"features.0.weight": torch.zeros(3)}, "extra": Harmful()}, path)


def write_half(path):
    torch.save({"net": {"features.0.weight": torch.zeros(3000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("write", [
    write_pickle, write_torch_pickle, write_half, lambda path: path.write_bytes(b""), lambda path: path.mkdir(),
    lambda path: torch.save(torch.zeros(3), path), lambda path: torch.save({"net": 3}, path), lambda path: None])
def test_a_file_without_weights_is_refused_in_one_line_and_runs_no_code(tmp_path, capsys, write):
    write(tmp_path / "weights.t7")
    with pytest.raises(UserError, match="weights.t7.*state_dict") as error:
        check_weights("resnet18", str(tmp_path / "weights.t7"))
    assert "\n" not in str(error.value) and "was run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["vgg19_bn", "resnet18", "mobilenet_v3_small"])
def test_nothing_is_downloaded_unless_asked_for(no_download, name):
    with torch.device("meta"):
        Backbone(name, "", (3, 32, 32), 8, False)


def test_imagenet_weights_are_downloaded_on_request_and_a_failure_is_one_line(monkeypatch, capsys):
    asked = []

    def fetch(self, **kwargs):
        asked.append(self)
        return torchvision.models.resnet18(weights=None).state_dict()

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", fetch)
    backbone = Backbone("resnet18", "imagenet", (3, 32, 32), 8, False)
    assert len(asked) == 1 and "120 of the 120 tensors" in capsys.readouterr().out
    assert backbone.mean.flatten().tolist() == pytest.approx(weights.IMAGENET[0])

    def fail(self, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(UserError, match="downloaded .no network."):
        Backbone("resnet18", "imagenet", (3, 32, 32), 8, False)


def test_a_model_for_a_checkpoint_needs_no_weight_file(no_download):
    build_model("teacher", small_config(visual_weights="/gone.t7", audio_weights="imagenet"), SHAPES, weights=False)
