"""A trained student (or visual baseline) -> one ONNX file, which runs where there is no PyTorch.

Reads   best.pt of a run
        with --int8 also the corpus of --data-dir: crops of the network's training subjects, to calibrate, and Val_Set,
        to score
Writes  best.onnx beside it, or --out FILE.onnx; with --int8 best_int8.onnx

    python export.py data/runs/student_both_pseudo/best.pt

The file takes face crops and the GRU's state and gives predictions and the next state (onnx_network.py), for any number
of recordings and frames at once; pixels are normalised inside, and the model card is in its metadata. It is written
only if onnxruntime agrees with PyTorch within 1e-4 on streams of 1,000 frames, one to eight at a time. That takes
seconds for the small CNNs, minutes for ResNet-18, and up to half an hour for VGG19 on few cores. `python predict.py
best.onnx VIDEO` uses the file. Of a network that was trained with --clip-stride n (5 by default), the state that goes
in with frame k is the one that came out of frame k - n: n is clip_stride in the card.

--int8 rounds the convolutions to 8 bits, and prints what that costs in CCC and gains in speed. It pays for large
networks (about 3 times the speed of ResNet-18 and VGG19, less than half the size); small CNNs become slower.
"""
import copy
import dataclasses
import itertools
import json
import logging
import math
import time
import warnings
from pathlib import Path

from support.errors import SettingsError, UserError, run_script
from support.files import whole_file
from support.settings import answer_first, parse_config

CALL = {"words": ("network",), "out": ""}  # of parse_config

answer_first(__name__, __file__, __doc__, **CALL)

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from checkpoints import card_ccc, load_model
from int8 import ccc_table, read_corpus, to_int8, val_scores
from model_card import FEATURES, has_images
from onnx_network import CARD, INPUTS, OUTPUTS, OnnxNetwork
from support.opencv import cv2
from support.recordings import PARTITIONS

ALLOWED = 1e-4  # largest difference between predictions of onnxruntime and of PyTorch
STREAM, BATCHES, PIECES = 1000, (1, 3, 8), (1, 7, 16, 64)  # frames, recordings at a time, and frames at a time
AT_ONCE = 64  # images at most: more would take gigabytes in VGG19
PICTURES = 128  # different images in the streams
TIMED, TIMED_S = (1, 16, 64), 0.5  # frames at a time, seconds for each


# ---- the ONNX file --------------------------------------------------------------------------------------------------

class OnnxGRU(nn.Module):
    """A batch-first GRU of one layer as ONNX's operator of that name. Only for export: it computes nothing itself.

    PyTorch's exporter takes a GRU apart frame by frame, and the number of frames becomes fixed. ONNX has the gates in
    the order update, reset, new, PyTorch in the order reset, update, new.
    """

    def __init__(self, gru):
        super().__init__()
        self.size = gru.hidden_size
        self.register_buffer("weight", self._reordered(gru.weight_ih_l0))
        self.register_buffer("recurrent", self._reordered(gru.weight_hh_l0))
        self.register_buffer("bias", torch.cat([self._reordered(gru.bias_ih_l0), self._reordered(gru.bias_hh_l0)], 1))

    @staticmethod
    def _reordered(parameter):
        reset, update, new = parameter.detach().chunk(3)
        return torch.cat([update, reset, new])[None]

    def forward(self, features, state):
        """(B, T, D), (1, B, H) -> (B, T, H), (1, B, H)."""
        shapes = (features.shape[1], 1, features.shape[0], self.size), (1, features.shape[0], self.size)
        hidden, state = torch.onnx.ops.symbolic_multi_out(
            "GRU", (features.transpose(0, 1), self.weight, self.recurrent, self.bias, None, state),
            {"hidden_size": self.size, "linear_before_reset": 1}, dtypes=(torch.float32,) * 2, shapes=shapes)
        return hidden.squeeze(1).transpose(0, 1), state


class Streaming(nn.Module):
    """A student as the file has it: pixels as bytes in, the state in and out."""

    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.gru = OnnxGRU(model.gru)

    def forward(self, frames, state):
        """(B, T, 3, S, S) uint8, (1, B, H) -> (B, T, K), (1, B, H)."""
        output = self.model(frames.float() / 255, state)
        return output.pred, output.hidden


def to_onnx(model, shape, card):
    """The onnx.ModelProto of a Student in evaluation mode. shape: (3, S, S); card: goes into the metadata."""
    example = torch.zeros(2, 3, *shape, dtype=torch.uint8), torch.zeros(1, 2, model.gru.hidden_size)
    sizes = {"frames": {0: "batch", 1: "time"}, "state": {1: "batch"}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two inputs share the size "batch"
        program = torch.onnx.export(Streaming(model).eval(), example, dynamo=True, verbose=False, dynamic_shapes=sizes,
                                    input_names=INPUTS, output_names=OUTPUTS)
    proto = program.model_proto
    for part in [proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.functions]:
        del part.metadata_props[:]  # where in whose source files each operation stands
    return with_card(proto, card)


def with_card(proto, card):
    """The model with that card in its metadata, in place of any other."""
    del proto.metadata_props[:]
    proto.metadata_props.add(key=CARD, value=json.dumps(card))
    return proto


# ---- does it agree? -------------------------------------------------------------------------------------------------

def stream_frames(side, streams, length):
    """Pictures (P, 3, S, S) uint8, soft patches of colour, and which of them each frame of each stream shows: (B, T).

    To a network, pictures of noise without patches would be all alike.
    """
    draw = np.random.default_rng(0)
    patches = draw.integers(0, 256, (PICTURES, 6, 6, 3), dtype=np.uint8)
    pictures = [cv2.resize(each, (side, side), interpolation=cv2.INTER_CUBIC).transpose(2, 0, 1) for each in patches]
    return np.stack(pictures), draw.integers(0, PICTURES, (streams, length))


@torch.inference_mode()
def torch_predictions(model, pictures, order, report):
    """PyTorch's predictions along streams of frames, in equal pieces: (B, T, K). report(n): n frames are done."""
    preds, hidden = [], None
    for piece in np.array_split(order, -(-order.size // AT_ONCE), axis=1):
        output = model(torch.from_numpy(pictures[piece]) / 255, hidden)
        preds, hidden = [*preds, output.pred], output.hidden
        report(piece.size)
    return torch.cat(preds, 1).numpy()


def onnx_predictions(network, pictures, order, report):
    """onnxruntime's, in pieces of PIECES frames by turns, the state carried along."""
    preds, state, start = [], None, 0
    for frames in itertools.cycle(PIECES):
        piece = order[:, start:start + min(frames, AT_ONCE // len(order))]
        pred, state = network.run(pictures[piece], state)
        preds, start = [*preds, pred], start + piece.shape[1]
        report(piece.size)
        if start == order.shape[1]:
            return np.concatenate(preds, 1)


def differences(model, network, length):
    """{recordings at a time: largest difference between predictions of onnxruntime and PyTorch}."""
    pictures, order = stream_frames(network.card["inputs"]["frames"][-1], max(BATCHES), length)
    total = length * (max(BATCHES) + sum(BATCHES))
    with tqdm(total=total, desc="comparing with PyTorch", unit=" frames", disable=None, leave=False) as bar:
        expected = torch_predictions(model, pictures, order, bar.update)
        preds = {streams: onnx_predictions(network, pictures, order[:streams], bar.update) for streams in BATCHES}
    return {streams: float(np.abs(preds[streams] - expected[:streams]).max()) for streams in BATCHES}  # NaN if one is


def check_agreement(model, network):
    """A sentence on how well they agree. Raises UserError unless predictions agree within ALLOWED."""
    found = differences(model, network, STREAM)
    text = ", ".join(f"{value:.1e} (batch {streams})" for streams, value in found.items())
    if not all(value <= ALLOWED for value in found.values()):
        raise UserError(f"predictions of onnxruntime and PyTorch differ by up to {text}, {ALLOWED:g} is allowed: "
                        "nothing was written; try other versions of torch and onnxruntime")
    return (f"onnxruntime agrees with PyTorch: over {STREAM} frames, in pieces of {min(PIECES)} to {max(PIECES)}, "
            f"predictions differ by at most {text}")


# ---- how fast is it? ------------------------------------------------------------------------------------------------

def rate(call, images):
    """Frames per second of a call for images (1, T, 3, S, S): the fastest within TIMED_S, after one to warm up."""
    call(images)
    fastest, until = math.inf, time.perf_counter() + TIMED_S
    while (began := time.perf_counter()) < until or fastest == math.inf:
        call(images)
        fastest = min(fastest, time.perf_counter() - began)
    return images.shape[1] / fastest


@torch.inference_mode()
def speed_table(model, networks, side):
    """Frames per second of PyTorch and of {name: OnnxNetwork} on this machine, one recording at a time, as text."""
    def with_torch(images):
        return model(torch.from_numpy(images) / 255)

    calls = {"PyTorch": with_torch} | {name: network.run for name, network in networks.items()}
    images = [pictures[order] for pictures, order in (stream_frames(side, 1, frames) for frames in TIMED)]
    rows = {name: [rate(call, each) for each in images] for name, call in calls.items()}
    title = f"{'frames/s, frames at a time':28}" + "".join(f"{frames:>10}" for frames in TIMED)
    return "\n".join([title] + [f"{name:28}" + "".join(f"{value:10.0f}" for value in rows[name]) for name in rows])


# ---- the script -----------------------------------------------------------------------------------------------------

def load_student(path):
    """(model in evaluation mode, its card). Raises UserError for a network with audio, or of features."""
    model, state = load_model(path)
    if model.inputs != OnnxNetwork.inputs:
        raise UserError(f"{path} is of the stage {state['stage']}, which has audio: only visual-only networks "
                        "(student, visual) are exported")
    if not has_images(state["card"], "frames"):
        raise UserError(f"{path} takes {FEATURES['frames']} that another program made: only networks that take face "
                        "crops are exported, as predict.py makes nothing else")
    return model, state["card"]


def write_int8(path, proto, float32, corpus):
    """(OnnxNetwork, ccc_table) of a network in 8 bits, which is written to `path`; its card has the CCC it has now.

    proto, float32: the network as it was; corpus: of read_corpus.
    """
    crops, val = corpus
    small = to_int8(proto, crops, float32.state_size)
    path.write_bytes(small.SerializeToString())
    scores = {"float32": val_scores(float32, val), "int8": val_scores(OnnxNetwork(path), val)}
    on = {"set": PARTITIONS["val"], "subjects": [one.name for one in val]}
    card = float32.card | {"network": float32.card["network"] | {"precision": "int8"}, "ccc_on": on,
                           "ccc": card_ccc(scores["int8"])}
    path.write_bytes(with_card(small, card).SerializeToString())
    return OnnxNetwork(path), ccc_table(scores, float32.targets)


def main(argv=None):
    """The path of the file."""
    cfg = parse_config(argv, __file__, __doc__, **CALL)
    source, out = paths_of(cfg)
    model, card = load_student(source)
    corpus = None
    if cfg.int8:  # an error in it now rather than after minutes
        corpus = read_corpus(dataclasses.replace(cfg, target=card["target"]), card)
    with whole_file(out) as part:
        proto = to_onnx(model, card["inputs"]["frames"], card)
        part.write_bytes(proto.SerializeToString())
        networks, cost = {"float32": OnnxNetwork(part)}, ""
        print(check_agreement(model, networks["float32"]))
        if cfg.int8:
            networks["int8"], cost = write_int8(part, proto, networks["float32"], corpus)
    if (stride := card["clip_stride"]) > 1:
        print(f"clip_stride {stride}: the state to give with frame k is the one that came out of frame k - {stride}")
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB ({source.name}: {source.stat().st_size / 1e6:.1f} MB)")
    print(speed_table(model, networks, card["inputs"]["frames"][-1]))
    print(cost, end="\n" * bool(cost))
    return out


def paths_of(cfg):
    """(the checkpoint, the file to write). Raises SettingsError."""
    if not cfg.network:
        raise SettingsError("network: the checkpoint to export was expected, such as "
                            "data/runs/student_both_pseudo/best.pt")
    source = Path(cfg.network)
    out = Path(cfg.out or source.with_name(source.stem + "_int8" * cfg.int8 + ".onnx"))
    if out.suffix != ".onnx":
        raise SettingsError(f"out: {cfg.out} does not end in .onnx")
    return source, out


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
