"""A network in 8 bits, for export.py --int8: its convolutions rounded, and what that costs on Val_Set.

The ranges that are divided into 256 steps are those of activations on crops of the training subjects.
"""
import copy
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_static

from data import check_files, image_shapes, load_recordings
from packing import read_image
from scores import prediction_table, score
from support.errors import UserError
from support.interleaving import interleaved
from support.recordings import PARTITIONS

CALIBRATION = 256  # crops that the ranges are taken from
AT_ONCE = 64  # frames that a network is given at once


class Crops:
    """Calibration data for onnxruntime: crops (3, S, S) one by one, each the first of a recording."""

    def __init__(self, crops, state_size):
        state = np.zeros((1, 1, state_size), np.float32)
        self.feeds = iter([{"frames": crop[None, None], "state": state} for crop in crops])

    def get_next(self):
        return next(self.feeds, None)


def to_int8(proto, crops, state_size):
    """The onnx.ModelProto with its convolutions in 8 bits, their ranges taken from crops, each (3, S, S).

    The rest stays as it is: on the demo's corpus, rounded heads multiplied the error by 2 to 8 and gained no speed.
    """
    logging.getLogger().setLevel(logging.ERROR)  # it advises to optimise the file first
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        quantize_static(copy.deepcopy(proto), path, Crops(crops, state_size),  # it empties what it is given
                        op_types_to_quantize=["Conv"], per_channel=True, activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QInt8)
        return onnx.load(path)


def read_corpus(cfg, card):
    """(crops of the network's training subjects, spread evenly over them; recordings of Val_Set), for --int8.

    Raises UserError if the corpus is another one than the network's.
    """
    trained = (card["trained_on"] or {}).get(PARTITIONS["train"], [])
    recordings = [one for one in check_files(cfg, ("frames",), PARTITIONS["train"]) if one.name in trained]
    paths = [path for recording in recordings for path in recording.paths["frames"]]
    if not paths:
        raise UserError(f"{cfg.annotations_dir / PARTITIONS['train']}/ has none of the {len(trained)} subjects that, "
                        "by its model card, the network was trained on, and whose crops --int8 needs: name its corpus "
                        "with --data-dir")
    chosen = np.linspace(0, len(paths) - 1, min(CALIBRATION, len(paths))).astype(int)
    crops = [read_image(paths[k], "frames") for k in chosen]
    val = load_recordings(cfg, PARTITIONS["val"], ("frames",))
    for shape in {*(crop.shape for crop in crops), image_shapes(val)["frames"]} - {tuple(card["inputs"]["frames"])}:
        raise UserError(f"{cfg.crops_dir}/ holds crops of {shape[-1]} px, the network takes "
                        f"{card['inputs']['frames'][-1]} px: name its corpus with --data-dir")
    return crops, val


def val_scores(network, recordings):
    """scores.score() of an OnnxNetwork on recordings, each in pieces."""
    tables = {}
    for one in recordings:
        preds, states = [], [None] * network.card["clip_stride"]
        for start in range(0, len(one), AT_ONCE):
            pred, states = interleaved(network, one.arrays["frames"][start:start + AT_ONCE], None, states)
            preds.append(pred)
        tables[one.name] = prediction_table(one, np.concatenate(preds), network.targets, 1)  # the times are not used
    return score(tables, network.targets)


def ccc_table(scores, targets):
    """CCC on Val_Set, {name of a network: score()} -> text."""
    lines = [f"{'CCC on Val_Set':28}" + "".join(f"{target + ' mean':>16}{'concatenated':>14}" for target in targets)]
    for name, each in scores.items():
        lines.append(f"{name:28}" + "".join(f"{each[one]['mean']:16.4f}{each[one]['concatenated']:14.4f}"
                                            for one in targets))
    return "\n".join(lines)
