"""A network in one ONNX file (export.py), run by onnxruntime and NumPy alone: PyTorch is not needed.

Inputs of the file: `frames` (batch, time, 3, S, S) uint8, RGB face crops, and `state` (1, batch, H) float32, zeros
before the first frame. Outputs: `predictions` (batch, time, K) float32, and `next_state`, the `state` of the frames
that follow. The metadata property `mmpkd` is the network's card (model_card.py) as JSON. Its entry clip_stride, n, says
which frames follow each other: the state that goes in with frame k is the one that came out of frame k - n. A recording
is n sequences, which can be run as a batch of n: frames k, k + n, k + 2n ... each (support/interleaving.py).
"""
import os

import numpy as np
import onnxruntime

from model_card import check_card
from support.errors import UserError
from support.machine import cores
from support.reading import parse_json, read_bytes

CARD = "mmpkd"  # the metadata property that holds the card
INPUTS, OUTPUTS = ["frames", "state"], ["predictions", "next_state"]
LARGEST = 2**20  # numbers in a GRU's state
LONGEST = 2**31  # bytes of a file: an ONNX file cannot be larger
EXPECTED = "a file of export.py was expected"
NOWHERE = os.path.join(os.devnull, "nowhere")  # a folder that cannot exist


class OnnxNetwork:
    """A network of export.py: .card (model_card.py), .inputs (what it is fed), .targets (what it predicts)."""
    inputs = ("frames",)

    def __init__(self, path):
        """Raises UserError if the file is missing, damaged, no ONNX file, of another origin or more than one file."""
        self.session = open_session(path)
        self.card = _card(self.session, path)
        self.targets = list(self.card["targets"])
        check_signature(self.session, self.card, path)
        self.state_size = self.session.get_inputs()[1].shape[-1]

    def __call__(self, frames, specs=None, state=None):
        """(predictions (T, K) float32, state) of the frames (T, 3, S, S) uint8 that follow those of `state` in one
        sequence; None at first. specs: not used: the network is visual-only."""
        preds, state = self.run(frames[None], state)
        return preds[0], state

    def run(self, frames, state=None):
        """The same for several recordings at once: (B, T, 3, S, S) -> (B, T, K), state (1, B, H)."""
        if state is None:
            state = np.zeros((1, len(frames), self.state_size), np.float32)
        try:
            return tuple(self.session.run(OUTPUTS, {"frames": np.ascontiguousarray(frames), "state": state}))
        except Exception as error:  # onnxruntime's own have no common kind
            raise UserError(f"the .onnx file cannot be run ({str(error).splitlines()[0]:.200}): {EXPECTED}") from None


def open_session(path):
    """The file as a session of onnxruntime, on as many threads as OMP_NUM_THREADS says, else one per core granted.

    The file has to hold all of its weights: others, which it could name anywhere on the disk, are not read. Raises
    UserError.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong with a file is said once, by the error
    options.intra_op_num_threads = _threads()
    # Threads that wait busily for the next call take six times the processor time for 3% of speed
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
    try:
        return onnxruntime.InferenceSession(read_bytes(path, LONGEST), options, providers=["CPUExecutionProvider"])
    except UserError as error:
        raise UserError(f"{error}; {EXPECTED}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {EXPECTED}") from None
    except Exception as error:  # onnxruntime's own have no common kind
        reason = str(error).removeprefix("[ONNXRuntimeError] : ").splitlines() or [type(error).__name__]
        raise UserError(f"{path} is damaged, no ONNX file, or not complete in itself ({reason[0]:.200}): "
                        f"{EXPECTED}") from None


def _threads():
    words = os.environ.get("OMP_NUM_THREADS", "")
    return int(words) if words.isdecimal() else cores()


def _card(session, path):
    """The card in a session's metadata, checked. Raises UserError."""
    text = session.get_modelmeta().custom_metadata_map.get(CARD)
    if text is None:
        raise UserError(f"{path} is an ONNX file of another origin (it has no metadata {CARD!r}): {EXPECTED}")
    try:
        card = parse_json(text)
    except ValueError:
        raise UserError(f"{path}: its metadata {CARD!r} is not JSON: {EXPECTED}") from None
    return check_card(card, path)


def check_signature(session, card, path):
    """Raises UserError if the inputs and outputs of a file are not those of export.py, or not of the card's sizes."""
    found = [(one.name, one.type, one.shape) for one in [*session.get_inputs(), *session.get_outputs()]]
    size = found[1][2][-1] if len(found) > 1 and found[1][2] else 0  # of the state
    state = [1, "batch", size]
    expected = [("frames", "tensor(uint8)", ["batch", "time", *card["inputs"]["frames"]]),
                ("state", "tensor(float)", state),
                ("predictions", "tensor(float)", ["batch", "time", len(card["targets"])]),
                ("next_state", "tensor(float)", state)]
    if found != expected or type(size) is not int or size > LARGEST:
        text = ", ".join(f"{name} {kind} [{', '.join(map(str, shape))}]" for name, kind, shape in found)
        raise UserError(f"{path} has other inputs and outputs ({text}) than export.py gives the network that its card "
                        f"describes: {EXPECTED}")
