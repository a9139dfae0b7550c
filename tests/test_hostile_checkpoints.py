"""checkpoints.py: files that are damaged or of strangers run no code, take no memory, and end in one line."""
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import one_line, run_of

import checkpoints
from checkpoints import load_checkpoint, load_model
from support.errors import UserError


def best_of(corpus, stage):
    return load_checkpoint(run_of(corpus, stage) / "best.pt")


# ---- files that are damaged, or of strangers ------------------------------------------------------------------------

class Harmful:
    def __reduce__(self):
        return (print, ("code of a checkpoint was run",))


DAMAGE = {
    "half": lambda path: path.write_bytes(path.read_bytes()[:-2000]),
    "empty": lambda path: path.write_bytes(b""),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"model": Harmful()}, protocol=2)),
    "code": lambda path: torch.save(torch.load(path, weights_only=True) | {"extra": Harmful()}, path),
    "tensor": lambda path: torch.save(torch.zeros(3), path),
    "foreign": lambda path: torch.save({"net": {}}, path),
}


@pytest.mark.parametrize("damage", [*DAMAGE, "missing"])
def test_a_damaged_checkpoint_is_one_line_and_runs_no_code(trained_corpus, tmp_path, capsys, damage):
    path = Path(shutil.copy(run_of(trained_corpus, "teacher") / "best.pt", tmp_path))
    DAMAGE.get(damage, Path.unlink)(path)
    with pytest.raises(UserError, match="checkpoint of mmpkd.py") as error:
        load_checkpoint(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and "was run" not in capsys.readouterr().out


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("place", ["extra", "card", "model", "whole"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(trained_corpus, tmp_path, place, zipped):
    state, path = best_of(trained_corpus, "visual"), tmp_path / "best.pt"
    bomb = Bomb(tmp_path / "exploded")
    state = bomb if place == "whole" else state | {place: {"weight": bomb}}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="best.pt") as error:
        load_model(path)
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value) and not bomb.path.exists()
    torch.load(path, weights_only=False)
    assert bomb.path.exists(), "the bomb would not have exploded, so this test shows nothing"


LEVELS = 100_000  # of nesting
NESTED = {  # pickles of lists and of dicts within each other
    "list": b"]" * LEVELS + b"a" * (LEVELS - 1), "dict": b"}X\x01\x00\x00\x00a" * LEVELS + b"K\x00" + b"s" * LEVELS}


def save_with_nests(state, path):
    """torch.save() in which the texts <list> and <dict> are replaced by what pickle.dumps could not write."""
    torch.save(state, path)
    with zipfile.ZipFile(path) as file:
        parts = {one.filename: file.read(one) for one in file.infolist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            for kind, nest in NESTED.items():
                content = content.replace(b"X\x06\x00\x00\x00<" + kind.encode() + b">", nest)
            file.writestr(name, content)


def first_weight(change):
    """A change of a checkpoint's first tensor."""
    def changed(state):
        name = next(name for name, one in state["model"].items() if one.is_floating_point())
        return state | {"model": {**state["model"], name: change(state["model"][name])}}
    return changed


def setting(**values):
    return lambda state: state | {"config": state["config"] | values}


HOSTILE = {
    "a list": lambda state: [state], "no weights": lambda state: {**state, "model": {}}, "text": lambda state: "best",
    **{f"no {name}": lambda state, name=name: {key: state[key] for key in state if key != name}
       for name in checkpoints.NEEDED},
    **{f"{name} a list": lambda state, name=name: state | {name: [1]}
       for name in (*checkpoints.NEEDED, "card") if name != "targets"},
    "stage unknown": lambda state: state | {"stage": "pupil"}, "stage a dict": lambda state: state | {"stage": {}},
    "targets a dict": lambda state: state | {"targets": {}},
    "other targets": lambda state: state | {"targets": ["joy"]},
    "shapes empty": lambda state: state | {"shapes": {}},
    "shape text": lambda state: state | {"shapes": {"frames": "x"}},
    "shape huge": lambda state: state | {"shapes": {"frames": (3, 10**9, 10**9)}},
    "shape negative": lambda state: state | {"shapes": {"frames": (3, -1, -1)}},
    "shape of none": lambda state: state | {"shapes": {"frames": ()}},
    "huge shape, old": lambda state: {key: value for key, value in state.items() if key != "card"} | {
        "shapes": {"frames": (3, 10**6, 10**6)}},
    "terabytes": setting(gru_size=10**7), "terabytes of features": setting(feature_size=10**9),
    "more than memory can count": setting(gru_size=10**18), "more than torch can count": setting(gru_size=10**400),
    "setting of another kind": setting(gru_size="16"), "setting nested": setting(dropout=[[0.2]]),
    "setting not finite": setting(dropout=float("nan")), "no such backbone": setting(visual_backbone="print"),
    "another backbone": setting(visual_backbone="small_cnn"),
    "nan": first_weight(lambda one: torch.full_like(one, float("nan"))),
    "infinite": first_weight(lambda one: torch.full_like(one, float("inf"))),
    "float16": first_weight(lambda one: one.half()), "complex": first_weight(lambda one: one.to(torch.complex64)),
    "whole numbers": first_weight(lambda one: one.long()), "text for a weight": first_weight(lambda one: "x"),
    "another shape": lambda state: state | {"model": {**state["model"], "out.1.weight": torch.zeros(9, 9)}},
    "a mean for every picture": first_weight(lambda one: one.expand(99, 1, 1, 1)),
    "sparse": first_weight(lambda one: one.to_sparse()),
    "without values": first_weight(lambda one: one.to("meta")),
    "one value a trillion times": first_weight(lambda one: torch.zeros(1).expand(10**12)),
    "a weight too many": lambda state: state | {"model": state["model"] | {"more": torch.zeros(1)}},
    "unnamed weight": lambda state: state | {"model": state["model"] | {3: torch.zeros(1)}},
    **{f"{name} nested ({kind})": lambda state, name=name, kind=kind: state | {name: f"<{kind}>"}
       for name in (*checkpoints.NEEDED, "card") for kind in ("list", "dict")},
    "card nested within": lambda state: state | {"card": state["card"] | {"network": {"a": "<list>"}}},
    "card of another stage": lambda state: state | {"card": state["card"] | {"stage": "student"}},
    "card of other inputs": lambda state: state | {"card": state["card"] | {"faces": None, "inputs": {
        "frames": [3, 16, 16]}}},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_checkpoint_ends_in_one_line_and_takes_no_memory(trained_corpus, tmp_path, recwarn, case):
    state, path = HOSTILE[case](best_of(trained_corpus, "visual")), tmp_path / "best.pt"
    save_with_nests(state, path)
    with pytest.raises(UserError) as error:
        load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 1500
    assert not recwarn.list, "more lines than one"


def test_a_few_bytes_that_pretend_to_be_terabytes_are_refused(trained_corpus, tmp_path):
    """A ZIP file of zeros, packed a thousandfold."""
    path = Path(shutil.copy(run_of(trained_corpus, "visual") / "best.pt", tmp_path))
    with zipfile.ZipFile(path) as file:
        parts = {one.filename: file.read(one) for one in file.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content if "/data/" not in name else bytes(2**22))
    with pytest.raises(UserError, match="not a whole checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("damage", [lambda data: data[:len(data) // 2], lambda data: b"", lambda data: data[::-1],
                                    lambda data: data.replace(data[-20000:-19990], bytes(10))])
def test_about_a_damaged_file_is_one_line(damage, call, trained_corpus, tmp_path):
    (tmp_path / "a.pt").write_bytes(damage((run_of(trained_corpus, "student") / "best.pt").read_bytes()))
    assert "a.pt is not a whole checkpoint" in one_line(*call("predict", tmp_path / "a.pt", "--about")[::2])
