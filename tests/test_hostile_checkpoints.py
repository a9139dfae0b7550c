"""checkpoints.py: files that are damaged or of strangers run no code, take no memory, and end in one line."""
import copy
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import TINY, add_unlabelled, copied, one_line, run_of, stop_at

import checkpoints
import mmpkd
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


# ---- a last.pt to resume from ---------------------------------------------------------------------------------------

def of_optimizer(change):
    """A change of the optimizer's state of its first weight."""
    def changed(state):
        optimizer = copy.deepcopy(state["optimizer"])
        first = next(iter(optimizer["state"].values()))
        change(optimizer, first)
        return state | {"optimizer": optimizer}
    return changed


def of_groups(**values):
    return of_optimizer(lambda optimizer, first: optimizer["param_groups"][0].update(values))


def of_average(change):
    return lambda state: state | {"average": change(state["average"])}


RESUMED = {
    **{f"{name} {value!r}": lambda state, name=name, value=value: state | {name: value}
       for name in ("epoch", "step", "stale") for value in (-1, 2**70, 0.5, "1", None, [1])},
    "a step after the last": lambda state: state | {"step": 1000},
    **{f"{name} {value!r}": lambda state, name=name, value=value: state | {name: value} for name, values in {
        "precision": ["float64", 3, None], "best": ["high", None, torch.zeros(2)], "sums": [[], {"loss": "x"}, None],
        "plateau": [{}, [], {"best": 0.0, "num_bad_epochs": 0, "last_epoch": 0, "step": 3}], "adapters": [[], {"a": 1}],
        "optimizer": [{}, [], {"state": {}, "param_groups": []}, {"state": [], "param_groups": 3}]}.items()
        for value in values},
    **{f"no {name}": lambda state, name=name: {key: state[key] for key in state if key != name}
       for name in ("epoch", "step", "best", "stale", "sums", "optimizer", "plateau", "adapters", "average",
                    "precision")},
    "momentum of another shape": of_optimizer(lambda optimizer, first: first.update(exp_avg=torch.zeros(3, 3))),
    "momentum not finite": of_optimizer(lambda optimizer, first: first["exp_avg"].fill_(float("nan"))),
    "momentum text": of_optimizer(lambda optimizer, first: first.update(exp_avg="x")),
    **{f"average with {name}": of_average(change) for name, change in {
        "no weights": lambda average: {"steps": 3}, "weights missing": lambda average: average | {"model": {}},
        "steps -1": lambda average: average | {"steps": -1}, "steps text": lambda average: average | {"steps": "3"},
        "nan": first_weight(lambda one: torch.full_like(one, float("nan")))}.items()},
    "weights of nothing": of_groups(params=[]), "nan": first_weight(lambda one: torch.full_like(one, float("nan"))),
    "float16": first_weight(lambda one: one.half()),
}


@pytest.fixture(scope="module")
def stopped(made_corpus, tmp_path_factory):
    """(data folder, words of a run that was stopped in it, its last.pt)."""
    folder = copied(made_corpus, tmp_path_factory.mktemp("stopped") / "data")
    add_unlabelled(folder)
    words = ["--data-dir", str(folder), *TINY, "--stage", "student", "--distill", "mean_teacher", "--epochs", "4",
             "--optimizer", "adam"]
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(KeyboardInterrupt):
        stop_at(monkeypatch, "step", 3)
        mmpkd.main(words)
    last = run_of(folder, "student", "arousal", "mean_teacher") / "last.pt"
    return folder, words, torch.load(last, weights_only=True)


@pytest.mark.parametrize("case", RESUMED)
def test_a_last_pt_that_does_not_fit_is_refused_in_one_line(stopped, call, case):
    folder, words, state = stopped
    last = run_of(folder, "student", "arousal", "mean_teacher") / "last.pt"
    before = {path.name: path.read_bytes() for path in last.parent.iterdir() if path.is_file()}
    torch.save(RESUMED[case](copy.deepcopy(state)), last)
    code, _, err = call("mmpkd", *words, "--resume")
    for path in last.parent.iterdir():
        path.unlink()
    for name, content in before.items():
        last.with_name(name).write_bytes(content)
    assert str(last) in one_line(code, err) and len(err) < 900


def test_whatever_the_optimizers_group_says_the_settings_hold(stopped, call):
    folder, words, state = stopped
    last = run_of(folder, "student", "arousal", "mean_teacher") / "last.pt"
    change = of_groups(lr="x", first_lr=1e9, betas="x", eps=-1.0, weight_decay=float("nan"))
    torch.save(change(copy.deepcopy(state)), last)
    assert call("mmpkd", *words, "--resume")[0] == 0
