"""support/tensors.py: files of torch.save give tensors and plain Python, whatever else is in them."""
import argparse
import os
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import same

from models_kd import check_weights, cnn, load_weights
from support.errors import UserError
from support.tensors import load_tensors, names_in

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": [torch.tensor(3), 0.5, None, "x", (1, True)]}
NOTES = {"accuracy": np.float64(0.93), "best": np.int64(3), "curve": np.arange(5), "args": argparse.Namespace(lr=0.1)}


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("made_by_a_checkpoint",))


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_and_plain_python_come_back(zipped, tmp_path):
    torch.save(OrderedDict(STATE), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert same(dict(load_tensors(tmp_path / "a.pt")), STATE)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_what_numpy_and_argparse_left_is_skipped_where_that_is_asked_for(zipped, skip, tmp_path, monkeypatch):
    torch.save(STATE | NOTES, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    if not skip:
        with pytest.raises(ValueError, match="it holds"):
            load_tensors(tmp_path / "a.pt")
        return
    monkeypatch.setattr(np, "dtype", None)  # NumPy is not asked
    found = load_tensors(tmp_path / "a.pt", skip)
    assert same({name: found[name] for name in STATE}, STATE)
    assert {type(found[name]).__name__ for name in NOTES} == {"Skipped"}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("what", [Harmful(), print, bytearray(3)], ids=["code", "function", "bytearray"])
def test_whatever_could_run_or_take_memory_is_refused(what, skip, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(STATE | {"more": what}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="it holds"):
        load_tensors(tmp_path / "a.pt", skip)
    assert not (tmp_path / "made_by_a_checkpoint").exists()
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "made_by_a_checkpoint").exists() or not isinstance(what, Harmful), "it would not have run anyway"


def test_a_pickle_that_asks_for_terabytes_is_refused_before_it_gets_them(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as file:
        parts = {one.filename: file.read(one) for one in file.infolist()}
    bomb = b"\x80\x02c__builtin__\nbytearray\nM\xff\xff\x85R."  # 65,535 bytes; as well a trillion
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        for name, content in parts.items():
            file.writestr(name, bomb if name.endswith("data.pkl") else content)
    assert len(torch.load(tmp_path / "a.pt", weights_only=True)) == 65535, "torch alone makes it"
    assert names_in(tmp_path / "a.pt") == {"builtins.bytearray"}
    with pytest.raises(ValueError, match="bytearray"):
        load_tensors(tmp_path / "a.pt", skip=True)


def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path):
    torch.save({"a": torch.full((1000,), 0.5)}, tmp_path / "a.pt")
    held = bytearray((tmp_path / "a.pt").read_bytes())
    held[held.index(b"\0\0\0\x3f" * 100) + 50] ^= 1
    (tmp_path / "a.pt").write_bytes(held)
    with pytest.raises(ValueError, match="sums"):
        load_tensors(tmp_path / "a.pt")


# ---- weights as people publish them ---------------------------------------------------------------------------------

@pytest.mark.parametrize("nested", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3},
                                    lambda state: {"model": state}, lambda state: {"model": {"state_dict": state}},
                                    lambda state: {"model_state_dict": state, "loss": 0.5}],
                         ids=["bare", "state_dict", "model", "both", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod.module."])
def test_weights_are_found_wherever_tools_put_them(nested, prefix, tmp_path, capsys):
    net, other = cnn("tiny_cnn", 3), cnn("tiny_cnn", 3)
    state = nested({prefix + name: value for name, value in net.state_dict().items()})
    torch.save(state | NOTES if "epoch" in state or "loss" in state else state, tmp_path / "a.pth")
    check_weights("tiny_cnn", tmp_path / "a.pth")
    load_weights(other, "tiny_cnn", tmp_path / "a.pth")
    assert same(dict(other.state_dict()), dict(net.state_dict()))
    assert f"{len(net.state_dict())} of the {len(net.state_dict())} tensors" in capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    state = cnn("tiny_cnn", 3).state_dict()
    state["0.weight"][0] = value
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match="a.pth: 0.weight has values that are not finite"):
        check_weights("tiny_cnn", tmp_path / "a.pth")
