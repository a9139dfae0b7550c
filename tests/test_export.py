import numpy as np
import onnxruntime
import pytest
import torch
from conftest import one_line, run_of, tiny_config

import export
import models_kd
from checkpoints import load_model
from onnx_network import OnnxNetwork


@pytest.fixture
def short(monkeypatch):
    """Streams of 40 frames, and no time for speeds."""
    monkeypatch.setattr(export, "STREAM", 40)
    monkeypatch.setattr(export, "TIMED_S", 0)


def best_of(folder, stage="student"):
    return run_of(folder, stage) / "best.pt"


def some_student(backbone, **settings):
    """A student of random weights for images of 32 px whose batch norms have seen images: (model, card)."""
    torch.manual_seed(0)
    cfg = tiny_config(stage="student", target="both", visual_backbone=backbone, **settings)
    model = models_kd.build_model("student", cfg, {"frames": (3, 32, 32)})
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(4, 8, 3, 32, 32))
    return model.eval(), {"inputs": {"frames": [3, 32, 32]}, "targets": cfg.targets}


def test_onnxruntime_agrees_with_pytorch_over_1000_frames_at_every_batch(trained_corpus, tmp_path, call,
                                                                                monkeypatch):
    monkeypatch.setattr(export, "TIMED_S", 0)
    source, out = best_of(trained_corpus), tmp_path / "student.onnx"
    code, text, err = call("export", source, "--out", out)
    assert code == 0, err
    assert "agrees with PyTorch" in text and "frames/s" in text and str(out) in text
    model, _ = load_model(source)
    session = onnxruntime.InferenceSession(out)
    frames = np.random.default_rng(1).integers(0, 256, (5, 1000, 3, 32, 32), dtype=np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(frames) / 255).pred.numpy()
    for batch in (1, 2, 5):
        state, preds = np.zeros((1, batch, 16), np.float32), []
        for piece in np.split(frames[:batch], [1, 2, 100, 350, 999], axis=1):
            pred, state = session.run(["predictions", "next_state"], {"frames": piece, "state": state})
            preds.append(pred)
        np.testing.assert_allclose(np.concatenate(preds, 1), expected[:batch], atol=1e-5)
    assert expected.std() > 1e-3  # not a constant


def test_mobilenet_agrees_at_sizes_it_was_not_exported_with(tmp_path, monkeypatch):
    # With a GRU of PyTorch in it, its number of frames would become fixed
    model, card = some_student("mobilenet_v3_small", linear_heads=True)
    monkeypatch.setattr("onnx_network.check_card", lambda card, path: card)
    path = tmp_path / "student.onnx"
    path.write_bytes(export.to_onnx(model, [3, 32, 32], card).SerializeToString())
    network = OnnxNetwork(path)
    found = export.differences(model, network, 30)
    pictures, order = export.stream_frames(32, 1, 30)
    assert set(found) == {1, 3, 8} and max(found.values()) < network.run(pictures[order])[0].std() / 100


def test_a_visual_baseline_is_exported_beside_its_checkpoint_and_names_no_path_of_the_machine(trained, call, short):
    assert call("export", best_of(trained, "visual"))[0] == 0
    path = run_of(trained, "visual") / "best.onnx"
    assert OnnxNetwork(path).card["stage"] == "visual"
    for word in (export.__file__, models_kd.__file__, torch.__file__, "models_kd.py", str(trained)):
        assert word.encode() not in path.read_bytes()


def test_a_file_that_does_not_agree_is_not_written(trained_corpus, tmp_path, call, short, monkeypatch):
    out, honest = tmp_path / "student.onnx", export.to_onnx
    out.write_bytes(b"before")

    def off(model, shape, card):
        wrong = export.copy.deepcopy(model)
        wrong.out[-1].bias.data += 2e-4
        return honest(wrong, shape, card)

    monkeypatch.setattr(export, "to_onnx", off)
    code, _, err = call("export", best_of(trained_corpus), "--out", out)
    assert "2.0e-04 (batch 1)" in one_line(code, err) and "0.0001 is allowed" in err
    assert out.read_bytes() == b"before" and [*tmp_path.iterdir()] == [out]


def test_predictions_that_are_no_numbers_do_not_agree(monkeypatch):
    monkeypatch.setattr(export, "differences", lambda *words: {1: float("nan"), 3: 0.0})
    with pytest.raises(export.UserError, match="nan"):
        export.check_agreement(None, None)


@pytest.mark.parametrize("stage", ["teacher", "audio"])
def test_a_network_that_hears_is_refused(trained_corpus, tmp_path, call, stage):
    code, _, err = call("export", best_of(trained_corpus, stage), "--out", tmp_path / "x.onnx")
    assert f"is of the stage {stage}" in one_line(code, err) and not [*tmp_path.iterdir()]


def test_wrong_calls_are_one_line(trained_corpus, tmp_path, call):
    best = best_of(trained_corpus)
    before = best.read_bytes()
    code, _, err = call("export")
    assert "runs/student_both_pseudo/best.pt" in one_line(code, err, 2)
    code, _, err = call("export", best, "--out", best)
    assert "does not end in .onnx" in one_line(code, err, 2) and best.read_bytes() == before
    code, _, err = call("export", tmp_path / "no.pt")
    assert "no.pt is missing" in one_line(code, err)
    (tmp_path / "odd.pt").write_bytes(b"odd")
    code, _, err = call("export", tmp_path / "odd.pt")
    assert "odd.pt" in one_line(code, err)
