import cv2
import numpy as np
import onnx
import pytest
from conftest import one_line, own, run_of
from onnx import numpy_helper

import export
import int8
from onnx_network import OnnxNetwork
from support.checksums import LIST


@pytest.fixture(scope="module")
def student(trained_corpus, exported):
    """A student and its float32 file: (model, onnx.ModelProto)."""
    return export.load_student(run_of(trained_corpus, "student") / "best.pt")[0], onnx.load(exported)


def crops(count=20, seed=0):
    """Soft patches of colour in place of faces: (count, 3, 32, 32)."""
    draw = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    return np.stack([cv2.resize(each, (32, 32), interpolation=cv2.INTER_CUBIC).transpose(2, 0, 1) for each in draw])


def test_rounded_convolutions_change_predictions_a_little(student, tmp_path):
    model, proto = student
    preds = {}
    for name, each in {"float32": proto, "int8": int8.to_int8(proto, crops(), model.gru.hidden_size)}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(export.with_card(each, export.json.loads(proto.metadata_props[0].value)).SerializeToString())
        preds[name] = OnnxNetwork(path)(crops(60, seed=1))[0]
    error = np.abs(preds["int8"] - preds["float32"])
    assert 0 < error.max() < 0.2 * preds["float32"].std()


def test_only_convolutions_are_rounded(student):
    model, proto = student
    small = int8.to_int8(proto, crops(), model.gru.hidden_size)
    before, after = ({one.name: numpy_helper.to_array(one) for one in each.graph.initializer}
                     for each in (proto, small))
    rounded = {one.input[0] for one in small.graph.node if one.op_type == "DequantizeLinear"}
    convolutions = [one for one in small.graph.node if one.op_type == "Conv"]
    weights = [name for name in rounded if name in after and after[name].dtype == np.int8]
    assert len(weights) == len(convolutions) == 4
    for node in proto.graph.node:
        if node.op_type in ("GRU", "MatMul", "Gemm"):
            for name in set(node.input) & set(before):
                np.testing.assert_array_equal(after[name], before[name])


def test_the_ranges_are_those_of_training_subjects_and_the_card_has_what_it_costs(trained, call, monkeypatch):
    read, real = [], int8.read_image
    monkeypatch.setattr(export, "STREAM", 40)
    monkeypatch.setattr(export, "TIMED_S", 0)
    monkeypatch.setattr(int8, "read_image", lambda path, kind: read.append(path.parent.name) or real(path, kind))
    code, text, err = call("export", run_of(trained, "student") / "best.pt", "--int8", "--data-dir", trained)
    assert code == 0, err
    assert set(read) == {"train_1", "train_2"}
    lines = [line.split()[0] for line in text.splitlines()]
    assert lines[-6:] == ["PyTorch", "float32", "int8", "CCC", "float32", "int8"]
    network = OnnxNetwork(run_of(trained, "student") / "best_int8.onnx")
    assert network.card["network"]["precision"] == "int8"
    assert network.card["ccc_on"] == {"set": "Val_Set", "subjects": ["dev_1"]}
    assert f"{network.card['ccc']['valence']['mean']:.4f}" in text.splitlines()[-1]
    assert not (run_of(trained, "student") / "best.onnx").exists()


def test_float32_scores_as_mmpkd_py_scored(trained, student, tmp_path):
    path = tmp_path / "student.onnx"
    path.write_bytes(student[1].SerializeToString())
    cfg = export.dataclasses.replace(export.parse_config([], "export.py", ""), data_dir=str(trained), target="both")
    network = OnnxNetwork(path)
    scores = int8.val_scores(network, int8.read_corpus(cfg, network.card)[1])
    for target, known in network.card["ccc"].items():
        assert scores[target]["mean"] == pytest.approx(known["mean"], abs=1e-4)


def test_another_corpus_is_refused(trained, tmp_path, call):
    words = "export", run_of(trained, "student") / "best.pt", "--int8", "--data-dir"
    code, _, err = call(*words, tmp_path)
    assert "run annotations.py first" in one_line(code, err)
    for path in (trained / "Cropped_Aligned" / "dev_1").glob("*.jpg"):
        cv2.imwrite(own(path), np.zeros((16, 16, 3), np.uint8))
    (trained / "Cropped_Aligned" / "dev_1" / LIST).unlink()
    code, _, err = call(*words, trained)
    assert "crops of 16 px, the network takes 32 px" in one_line(code, err)
    for path in (trained / "Annotations" / "Train_Set").glob("train_*.csv"):
        path.rename(path.with_name(path.name.replace("train", "other")))
    code, _, err = call(*words, trained)
    assert "none of the 2 subjects" in one_line(code, err)
    assert not [*run_of(trained, "student").glob("*.onnx")]
