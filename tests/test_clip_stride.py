"""A network that was trained on every second frame, from its training to a video: the same predictions everywhere."""
import contextlib
import io
import shutil
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, copied, one_line, run_of, tiny_config
from test_camera import FakeFinder
from test_inference import through_jpeg

import checkpoints
import export
import int8
import mmpkd
from camera import Live
from checkpoints import load_checkpoint, load_model
from config import Config
from data import load_recordings
from inference import open_model, predictions
from model_card import card_text
from onnx_network import OnnxNetwork
from scores import predict, read_predictions
from support.interleaving import interleaved

WORDS = [*TINY, "--target", "both", "--clip-stride", "2"]


@pytest.fixture(scope="module")
def corpus(made_corpus, tmp_path_factory):
    """made_corpus with a visual baseline and a teacher with cross-attention of every second frame. Read only."""
    folder = copied(made_corpus, tmp_path_factory.mktemp("strided") / "data")
    for words in (["visual"], ["teacher", "--fusion", "cross_attention"]):
        mmpkd.main(["--data-dir", str(folder), *WORDS, "--stage", *words])
    return folder


@pytest.fixture(scope="module")
def onnx_file(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "visual.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "STREAM", 50)
        patch.setattr(export, "TIMED_S", 0)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            export.main([str(best(corpus)), "--out", str(path)])
    path.with_suffix(".txt").write_text(printed.getvalue())
    return path


def best(corpus, stage="visual"):
    return run_of(corpus, stage) / "best.pt"


def wrote(corpus, stage, targets=("arousal", "valence")):
    """The predictions for dev_1 that training wrote."""
    return read_predictions(run_of(corpus, stage), "val", 25)["dev_1"][[f"{one}_pred" for one in targets]].to_numpy()


def alone(model, recording):
    """What the model gives for the even frames and for the odd ones, each as a recording of its own."""
    whole, preds = [torch.from_numpy(recording.arrays[name][None]) / 255 for name in model.inputs], np.zeros((60, 2))
    for first in range(2):
        with torch.no_grad():
            preds[first::2] = model(*[images[:, first::2] for images in whole]).pred[0]
    return preds


@pytest.mark.parametrize("stage", ["visual", "teacher"])
def test_the_predictions_of_a_run_are_those_of_the_even_and_the_odd_frames_alone(stage, corpus):
    model, state = load_model(best(corpus, stage))
    assert model.clip_stride == state["card"]["clip_stride"] == 2
    [recording] = load_recordings(tiny_config(data_dir=str(corpus), target="both"), "Val_Set", model.inputs)
    np.testing.assert_allclose(wrote(corpus, stage), alone(model, recording), atol=2e-6)
    model.clip_stride = 1
    assert np.abs(predict(model, [recording])["dev_1"] - wrote(corpus, stage)).max() > 1e-4


@pytest.mark.parametrize("stage", ["visual", "teacher"])
def test_predictions_for_a_video_are_those_that_training_wrote(stage, corpus, raw_corpus, tmp_path, monkeypatch):
    through_jpeg(monkeypatch)
    for name in ("videos/dev_1.mp4", "audio/dev_1.wav"):
        shutil.copy(raw_corpus / name, tmp_path)
    table, _, _ = predictions(open_model(best(corpus, stage), "cpu"), tmp_path / "dev_1.mp4", Config(device="cpu"))
    seen = table["arousal"].notna()
    assert seen.mean() > 0.9
    np.testing.assert_allclose(table.loc[seen, ["arousal", "valence"]], wrote(corpus, stage)[seen], atol=1e-5)


def test_an_onnx_file_says_its_stride_and_agrees_with_best_pt(onnx_file, corpus, call, raw_corpus, tmp_path):
    network = OnnxNetwork(onnx_file)
    assert network.card == load_checkpoint(best(corpus))["card"] and network.card["clip_stride"] == 2
    [recording] = load_recordings(tiny_config(data_dir=str(corpus), target="both"), "Val_Set", ("frames",))
    states, preds = [None, None], []
    for piece in np.split(recording.arrays["frames"], [1, 4, 25, 26]):
        pred, states = interleaved(network, piece, None, states)
        preds.append(pred)
    np.testing.assert_allclose(np.concatenate(preds), wrote(corpus, "visual"), atol=1e-5)
    both = recording.arrays["frames"].reshape(30, 2, 3, 32, 32).swapaxes(0, 1)  # as onnx_network.py says: a batch of 2
    np.testing.assert_allclose(network.run(both)[0].swapaxes(0, 1).reshape(60, 2), wrote(corpus, "visual"), atol=1e-5)
    for file in (onnx_file, best(corpus)):
        code, _, err = call("predict", file, raw_corpus / "videos" / "dev_1.mp4", "--out", tmp_path / file.name,
                            "--device", "cpu")
        assert code == 0, err
    by_onnx, by_torch = (pd.read_csv(tmp_path / file.name / "dev_1.csv") for file in (onnx_file, best(corpus)))
    columns = ["arousal", "valence"]
    np.testing.assert_allclose(by_onnx[columns], by_torch[columns], atol=1e-4)


def test_val_set_is_scored_in_8_bits_as_in_training(onnx_file, corpus):
    network = OnnxNetwork(onnx_file)
    cfg = tiny_config(data_dir=str(corpus), target="both")
    scores = int8.val_scores(network, load_recordings(cfg, "Val_Set", ("frames",)))
    for target, known in network.card["ccc"].items():
        assert scores[target]["mean"] == pytest.approx(known["mean"], abs=1e-4)


def test_the_card_says_which_frames_follow_each_other_and_export_py_does(onnx_file, corpus):
    assert "in 2 interleaved sequences, each with a state of its own: frame k follows frame k - 2" in " ".join(
        card_text(load_checkpoint(best(corpus))["card"]).split())
    text = onnx_file.with_suffix(".txt").read_text()
    assert "clip_stride 2" in text and "frame k - 2" in text


@pytest.mark.parametrize("frames, histories", [
    ([0, 1, 2, 3, 4, 5, 6, 7], [[], [], [], [0], [1], [2], [0, 3], [1, 4]]),  # none is dropped
    ([0, 2, 4, 6, 7, 12, 13], [[], [], [0], [2], [0, 4], [0, 4, 7], [0, 4, 7]])])
def test_a_camera_goes_on_from_the_frame_a_stride_before_or_the_last_one_before_it(frames, histories, monkeypatch):
    seen = []

    def network(frames, specs, state):
        seen.append(state or [])
        return np.zeros((1, 1), np.float32), [*(state or []), int(frames[0, 0, 0, 0])]

    network.targets, faces = ["arousal"], {"face_size": 32, "retained": False, "look_every": 6}
    network.card = {"frame_rate": 25.0, "clip_stride": 3, "faces": faces}
    live = Live(network, "largest", FakeFinder())
    monkeypatch.setattr("camera.crop_face", lambda picture, points, size: np.full((32, 32, 3), live.frame, np.uint8))
    for live.frame in frames:
        live.paint(np.full((120, 160, 3), 200, np.uint8), live.frame / 25, "")
    assert seen == histories and len(live.states[1]) <= 4


# ---- versions that had no stride ------------------------------------------------------------------------------------

@dataclass
class Later(Config):
    """Settings whose default is another one."""
    clip_stride: int = 5


def test_a_network_of_an_older_version_has_a_stride_of_one_whatever_the_default_is_now(trained, monkeypatch):
    path = run_of(trained, "visual") / "best.pt"
    state = load_checkpoint(path)
    del state["card"]["clip_stride"]
    torch.save(state, path)
    monkeypatch.setattr(checkpoints, "Config", Later)
    model, state = load_model(path)
    assert model.clip_stride == state["card"]["clip_stride"] == 1


def test_a_run_of_an_older_version_is_not_continued_with_a_stride(trained, call):
    note = run_of(trained, "visual") / "config.json"
    lines = [line for line in note.read_text().splitlines() if "clip_stride" not in line]
    note.write_text("\n".join(lines))
    words = ["--data-dir", trained, *TINY, "--target", "both", "--stage", "visual", "--epochs", 3, "--resume"]
    code, _, err = call("mmpkd", *words, "--clip-stride", 2)
    assert "clip_stride 1, now it is 2" in one_line(code, err)
    assert call("mmpkd", *words)[0] == 0
