"""Pretrained weights of a backbone: from a file as people publish it, or torchvision's.

Nothing here knows the networks: `own` are the names and tensors of one, net.state_dict().
"""
from collections import Counter

import torch

from support.errors import UserError
from support.tensors import load_tensors

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # mean and std of the images torchvision's weights expect
UNSCALED = [0.0], [1.0]  # the FER2013 checkpoint expects images in [0, 1]
EXPECTED = "a file of torch.save(net.state_dict(), file) was expected"
# Entries of a file that hold the weights
NESTS = {"state_dict": IMAGENET, "model_state_dict": IMAGENET, "model": IMAGENET, "net": UNSCALED}


def load_weights(net, name, weights):
    """Loads pretrained weights into a backbone, prints which, and returns (mean, std) of the images they expect.

    weights: "imagenet" downloads torchvision's; otherwise a file with torchvision's names, such as a state_dict or a
    checkpoint of NESTS (the paper's FER2013 checkpoint is a dict whose `net` holds a VGG19). Raises UserError if less
    than half of the network's tensors are in it.
    """
    state, (mean, std) = downloaded(name) if weights == "imagenet" else read_weights(weights)
    own = net.state_dict()
    state = without_prefix(own, state)
    first = next(key for key, value in own.items() if value.ndim == 4)
    if own[first].shape[1] == 1:  # colour weights for grey spectrograms
        if first in state and state[first].ndim == 4:
            state[first] = state[first].sum(1, keepdim=True)  # the same output as for equal red, green and blue
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    fits = fitting(own, state, name, weights)
    net.load_state_dict(fits, strict=False)
    print(f"{weights}: {len(fits)} of the {len(own)} tensors of {name} loaded; not in it, so random: "
          f"{_some(set(own) - set(fits))}; in it, but not used: {_some(set(state) - set(fits))}")
    return mean, std


def without_prefix(own, state):
    """`state` without what stands in front of the names of `own` in it ("encoder.conv1.weight"), if that is one thing.

    Of two networks in one file, such as a student and a teacher, neither is chosen.
    """
    fronts = Counter(key.removesuffix(name) for name in own for key in state
                     if key.endswith(f".{name}") and state[key].shape == own[name].shape)
    likely = [front for front, count in fronts.items() if 2 * count >= len(own)]
    if len(likely) != 1 or 2 * len(own.keys() & state.keys()) >= len(own):
        return state
    return {key.removeprefix(likely[0]): value for key, value in state.items() if key.startswith(likely[0])}


def fitting(own, state, name, weights):
    """The tensors of `state` with the names and shapes of `own`: {name: tensor}. UserError if under half of `own`."""
    fits = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if 2 * len(fits) < len(own):
        missing, unused = _some(set(own) - set(fits)), _some(set(state) - set(own))
        raise UserError(f"{weights} does not fit {name}: {len(fits)} of the {len(own)} tensors of {name} are in it, at "
                        f"least half were expected (found: {_some(fits)}; missing or of another shape: {missing}; not "
                        f"in {name}: {unused}). Use another file or another backbone")
    if wrong := next((key for key, value in fits.items() if not value.isfinite().all()), ""):
        raise UserError(f"{weights}: {wrong} has values that are not finite: use another file")
    return fits


def downloaded(name):
    """({name: tensor}, (mean, std)) of torchvision's ImageNet weights. Raises UserError if they cannot be had."""
    import torchvision  # here: the import takes seconds
    try:
        return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(check_hash=True), IMAGENET
    except OSError as error:  # URLError is one
        raise UserError(f"the ImageNet weights of {name} could not be downloaded ({error}): download the file by other "
                        "means and give its path instead of imagenet") from None


def read_weights(path):
    """({name: tensor}, (mean, std) of the images they expect) of a weight file.

    The weights may be nested (NESTS), and have numbers, texts and notes beside them. No code in the file is run.
    """
    try:
        state, scale = load_tensors(path, skip=True), IMAGENET
    except UserError as error:
        raise UserError(f"{error}; {EXPECTED}") from None
    except MemoryError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {EXPECTED}") from None
    except Exception as error:  # torch's own messages advise to load without weights_only: that can run code in it
        reason = f" ({error})" if isinstance(error, ValueError) and str(error).startswith("it") else ""
        raise UserError(f"{path} is damaged, not torch's, or holds more than tensors{reason}: {EXPECTED}") from None
    while isinstance(state, dict) and (nest := _nest(state)):
        state, scale = state[nest], NESTS.get(nest, IMAGENET)
    items = state.items() if isinstance(state, dict) else ()
    tensors = {str(key): value for key, value in items if torch.is_tensor(value)}
    if not tensors:
        several = [str(name) for name, value in items if isinstance(value, dict) and _has_tensors(value)]
        raise UserError(f"{path} holds " + (f"several networks ({_some(several)}), it is not known which is meant"
                                            if several else "no named tensors") + f": {EXPECTED}")
    return tensors, scale


def _nest(state):
    """The name under which a dict holds the dict with the weights: one of NESTS, or else the only one with tensors."""
    known = [one for one in NESTS if isinstance(state.get(one), dict)]
    if known or any(map(torch.is_tensor, state.values())):
        return known[0] if known else None
    others = [name for name, value in state.items() if isinstance(value, dict) and _has_tensors(value)]
    return others[0] if len(others) == 1 else None


def _has_tensors(state):
    """Whether a dict holds named tensors, at whatever depth."""
    return any(isinstance(name, str) and torch.is_tensor(value) or isinstance(value, dict) and _has_tensors(value)
               for name, value in state.items())


def _some(names):
    """The first four of some names, as text."""
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "none"
