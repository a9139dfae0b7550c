"""support/interleaving.py: frames in pieces of any size are as many separate sequences as the stride."""
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from support.interleaving import interleaved


def network(frames, specs, state):
    """Its predictions tell everything that came before in its sequence: frames with weights that grow."""
    preds = []
    for frame, spec in zip(frames, frames if specs is None else specs):
        state = 3 * (state or 0.0) + float(frame) + float(spec) / 8
        preds.append([state % 1000, frame])
    return np.array(preds, np.float32), state


@given(st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1, max_size=8), st.booleans())
def test_pieces_of_any_size_give_what_each_sequence_gives_alone(stride, sizes, hears):
    draw = np.random.default_rng(sum(sizes))
    frames = draw.integers(0, 9, sum(sizes)).astype(np.uint8)
    specs = draw.integers(0, 9, sum(sizes)).astype(np.uint8) if hears else None
    states, preds, start = [None] * stride, [], 0
    for size in sizes:
        piece = slice(start, start + size)
        pred, states = interleaved(network, frames[piece], None if specs is None else specs[piece], states)
        preds, start = [*preds, pred], start + size
        assert pred.shape == (size, 2) and pred.dtype == np.float32 and len(states) == stride
    whole = np.concatenate(preds)
    for first in range(min(stride, len(frames))):
        alone, _ = network(frames[first::stride], None if specs is None else specs[first::stride], None)
        assert np.array_equal(whole[first::stride], alone)


def test_a_network_that_only_hears_is_given_no_frames():
    def hearing(frames, specs, state):
        assert frames is None
        return specs[:, None].astype(np.float32), len(specs)
    preds, states = interleaved(hearing, None, np.arange(7), [None, None])
    assert preds[:, 0].tolist() == list(range(7)) and states == [3, 4]
