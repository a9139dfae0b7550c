import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from conftest import run_of
from onnx import TensorProto, helper

import export
import onnx_network
from checkpoints import load_checkpoint
from inference import BATCH, MeanNetwork, Stream, network_thread, open_model
from onnx_network import OnnxNetwork
from support.errors import SettingsError, UserError

ROOT = Path(onnx_network.__file__).parent


def test_the_card_is_that_of_the_checkpoint(exported, trained_corpus):
    network = OnnxNetwork(exported)
    assert network.card == load_checkpoint(run_of(trained_corpus, "student") / "best.pt")["card"]
    assert (network.inputs, network.targets) == (("frames",), ["arousal", "valence"])


def test_a_recording_in_pieces_gives_what_it_gives_whole(exported):
    network = OnnxNetwork(exported)
    frames = np.random.default_rng(0).integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    whole, _ = network(frames)
    first, state = network(frames[:1])
    second, state = network(frames[1:24], None, state)
    third, _ = network(frames[24:], None, state)
    np.testing.assert_allclose(np.concatenate([first, second, third]), whole, atol=1e-6)
    assert np.abs(network(frames[24:])[0] - third).max() > 1e-5  # the state does matter
    assert whole.dtype == np.float32 and whole.shape == (60, 2)


def test_with_a_network_of_pytorch_it_makes_a_mean(exported, trained_corpus):
    networks = {path: open_model(path, "cpu") for path in (exported, run_of(trained_corpus, "visual") / "best.pt")}
    frames = np.random.default_rng(0).integers(0, 256, (2 * BATCH + 5, 32, 32, 3), dtype=np.uint8)

    def preds(network):
        with network_thread() as thread:
            stream = Stream(network, thread)
            for frame in frames:
                stream.add(frame)
            return stream.end()
    for network in networks.values():
        network.card = network.card | {"clip_stride": 3}
    first, second = map(preds, networks.values())
    assert np.abs(first - second).max() > 1e-4
    np.testing.assert_allclose(preds(MeanNetwork(networks)), (first + second) / 2, atol=1e-6)


def test_workers_use_one_thread(exported, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert OnnxNetwork(exported).session.get_session_options().intra_op_num_threads == 1


# ---- without torch --------------------------------------------------------------------------------------------------

def test_neither_torch_nor_onnx_is_imported(exported):
    code = """if True:
        import sys, numpy
        from onnx_network import OnnxNetwork
        preds, state = OnnxNetwork(sys.argv[1])(numpy.zeros((3, 3, 32, 32), numpy.uint8))
        assert numpy.isfinite(preds).all() and preds.shape == (3, 2)
        print({"torch", "torchvision", "onnx"} & set(sys.modules))"""
    out = subprocess.run([sys.executable, "-c", code, exported], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout == "set()\n", out.stderr


WATCHED = """if True:  # predict.py, and who imports torch meanwhile
    import builtins, sys
    importers, real = set(), builtins.__import__

    def watched(name, scope=None, *rest):
        if name.split(".")[0] == "torch":
            importers.add((scope or {}).get("__name__", "?"))
        return real(name, scope, *rest)

    builtins.__import__ = watched
    import predict
    for network, out in zip(sys.argv[2::2], sys.argv[3::2]):
        predict.main([network, sys.argv[1], "--out", out, "--device", "cpu"])
        print("importers:", *sorted(importers))"""


def test_predict_needs_torch_for_the_detector_only_and_gives_what_best_pt_gives(exported, trained_corpus, raw_corpus,
                                                                                tmp_path):
    video = next((raw_corpus / "videos").glob("dev_1.*"))
    words = [exported, tmp_path / "onnx", run_of(trained_corpus, "student") / "best.pt", tmp_path / "torch"]
    done = subprocess.run([sys.executable, "-c", WATCHED, video, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    importers = [{name for name in line.split()[1:] if Path(ROOT, *name.split(".")).with_suffix(".py").exists()}
                 for line in done.stdout.splitlines() if line.startswith("importers:")]
    assert importers[0] == {"faces", "support.errors"}  # the latter checks the detector's --device
    assert "models_kd" in importers[1]
    by_onnx, by_torch = (pd.read_csv(tmp_path / name / "dev_1.csv") for name in ("onnx", "torch"))
    assert len(by_onnx) == 60 and by_onnx["arousal"].notna().any()
    np.testing.assert_allclose(by_onnx[["arousal", "valence"]], by_torch[["arousal", "valence"]], atol=1e-4)
    pd.testing.assert_frame_equal(by_onnx.drop(columns=["arousal", "valence"]),
                                  by_torch.drop(columns=["arousal", "valence"]))


# ---- files that are something else ----------------------------------------------------------------------------------

def refusal(path):
    """The message with which a file is refused: one line that names it."""
    with pytest.raises(UserError) as error:
        OnnxNetwork(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and "export.py" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04 no network" * 100, b"PK\x03\x04" + bytes(500)])
def test_what_is_no_onnx_file_is_refused(tmp_path, content):
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    assert "damaged" in refusal(path)


def test_half_a_file_is_refused(exported, tmp_path):
    path = tmp_path / "half.onnx"
    path.write_bytes(exported.read_bytes()[:exported.stat().st_size // 2])
    assert "damaged" in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "no.onnx")
    assert "a folder" in refusal(tmp_path)


def adder(path, card=None, **external):
    """An ONNX file that adds weights to x; external: where these lie."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in external.items():
        weights.external_data.add(key=key, value=value)
    if not external:
        weights = helper.make_tensor("w", TensorProto.FLOAT, [4], [1, 2, 3, 4])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "adder", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if card is not None:
        model.metadata_props.add(key="mmpkd", value=card)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_network_of_another_origin_is_refused(tmp_path):
    assert "another origin" in refusal(adder(tmp_path / "adder.onnx"))


@pytest.mark.parametrize("inside", [True, False])
def test_weights_in_other_files_are_not_read(tmp_path, inside):
    secret = (tmp_path / "in" if inside else tmp_path) / "secret.bin"
    (tmp_path / "in").mkdir()
    secret.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    for location in ["secret.bin"] if inside else ["../secret.bin", str(secret)]:
        path = adder(tmp_path / "in" / "outside.onnx", location=location, offset="0", length="16")
        assert "complete in itself" in refusal(path)


@pytest.mark.parametrize("card", ["{", "[" * 100_000, "nan", "[1]", "{}", '{"targets": ["joy"]}'])
def test_a_card_that_is_none_is_refused(tmp_path, card):
    path = adder(tmp_path / "odd.onnx", card)
    with pytest.raises(UserError, match=str(path)):
        OnnxNetwork(path)


def test_other_inputs_than_those_of_export_py_are_refused(exported, tmp_path):
    card = json.dumps(OnnxNetwork(exported).card)
    message = refusal(adder(tmp_path / "odd.onnx", card))
    assert "other inputs and outputs (x tensor(float) [4], y tensor(float) [4])" in message


def test_a_card_of_another_size_than_the_network_is_refused(exported, tmp_path):
    path = Path(shutil.copy(exported, tmp_path / "odd.onnx"))
    model = onnx.load(path)
    card = json.loads(model.metadata_props[0].value)
    card["inputs"]["frames"] = [3, 16, 16]
    card["faces"] = None
    path.write_bytes(export.with_card(model, card).SerializeToString())
    assert "frames tensor(uint8) [batch, time, 3, 32, 32]" in refusal(path)


def test_a_precision_beside_a_file_with_its_own_is_refused(exported):
    for precision in ("float32", "bfloat16"):
        with pytest.raises(SettingsError, match="precision of its own"):
            open_model(exported, "cpu", precision)


def test_a_file_that_fails_when_it_is_run_ends_in_one_line(exported):
    network = OnnxNetwork(exported)
    with pytest.raises(UserError, match="cannot be run"):
        network(np.zeros((2, 3, 5, 5), np.uint8))
