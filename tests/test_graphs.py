"""support/graphs.py, and training steps that are replayed: on a CPU, with a stand-in for CUDA's graphs."""
import contextlib
import copy
import warnings

import pytest
import torch
from conftest import CPU, SHAPES, STAGES, easy_recording, same, tiny_config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import mmpkd
import objectives
from data import Clips
from losses import masked_loss
from models_kd import build_model
from runs import INPUTS
from support.errors import UserError
from support.graphs import WAITS, Replay
from training import Training, train_step

torch.set_num_threads(1)


class Recording(TorchDispatchMode):
    """As a CUDA graph: operations and the memory they read and write, nothing of Python. Recording changes nothing."""

    def __enter__(self):
        self.operations, self.made, self.given, self.random = [], set(), {}, torch.get_rng_state()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        torch.set_rng_state(self.random)
        with torch.no_grad():
            for tensor, value in self.given.values():
                tensor.copy_(value)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation is not torch.ops.aten._local_scalar_dense.default, "a GPU would be waited for"
        before = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs or {}))  # transpose_() changes a tensor
        for tensor in (leaf for leaf in tree_leaves(before) if torch.is_tensor(leaf)):
            if tensor.untyped_storage().data_ptr() not in self.made:
                self.given.setdefault(tensor.data_ptr(), (tensor, tensor.clone()))
        results = operation(*args, **(kwargs or {}))
        after = tree_map_only(torch.Tensor, torch.Tensor.detach, results)
        self.made |= {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(after) if torch.is_tensor(leaf)}
        self.operations.append((operation, *before, after))
        return results

    @torch.no_grad()
    def replay(self):
        for operation, args, kwargs, results in self.operations:
            for before, now in zip(tree_leaves(results), tree_leaves(operation(*args, **kwargs))):
                if torch.is_tensor(now) and now.data_ptr() != before.data_ptr():  # else in place, or a view
                    before.copy_(now)


@pytest.fixture
def recorded(monkeypatch):
    """The Recordings that were made in place of CUDA graphs."""
    made = []

    def make():
        made.append(Recording())
        return made[-1]

    monkeypatch.setattr("torch.cuda.CUDAGraph", make)
    monkeypatch.setattr("torch.cuda.graph", lambda graph, capture_error_mode: graph)
    monkeypatch.setattr("torch.cuda.device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr("torch.cuda.get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", lambda mode: None)
    return made


def test_a_replay_takes_the_numbers_of_its_call_and_the_third_is_the_first(recorded):
    replay, seen = Replay(CPU), []

    def work(x, nothing):
        seen.append(nothing)
        return "sum", x.sum() + len(seen)

    values = [float(replay(work, [torch.full((3,), float(number)), None])[1]) for number in range(6)]
    assert values == [1, 5, 9, 12, 15, 18] and seen == [None] * 3 and len(recorded) == 1, "Python was called again"


def test_nothing_is_recorded_where_it_is_not_wanted(recorded):
    replay = Replay(None)
    values = [replay(lambda x: ("", x + replay.done), [torch.zeros(())])[1].item() for _ in range(5)]
    assert values == [1, 2, 3, 4, 5] and not recorded


def test_work_that_waits_for_the_gpu_is_never_recorded_which_is_said_once(recorded, capsys):
    def work(x):
        warnings.warn(WAITS, stacklevel=1)
        return "", x + 1

    replay = Replay(CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [replay(work, [torch.tensor(number)])[1].item() for number in range(5)] == [1, 2, 3, 4, 5]
    assert not recorded and capsys.readouterr().out.count("test_graphs.py, line") == 1


def test_work_that_cannot_be_recorded_ends_in_one_line(recorded):
    def work(x):
        if replay.done == 3:
            raise RuntimeError("CUDA error: operation not permitted\nmuch more")
        return "", x

    replay = Replay(CPU)
    for _ in range(2):
        replay(work, [torch.zeros(())])
    with pytest.raises(UserError, match=r"\(CUDA error: operation not permitted\): train with --no-cuda-graph"):
        replay(work, [torch.zeros(())])


@pytest.mark.parametrize("stage, precision", [
    *((stage, "float32") for stage in STAGES), ("teacher", "bfloat16"), ("mean_teacher", "float32")])
def test_replayed_steps_give_the_bits_of_those_that_are_not(stage, precision, recorded, monkeypatch):
    """Augmentation, dropout, gaps in the ratings, batch statistics, losses, and a run that is resumed in between."""
    itself, stage = stage == "mean_teacher", stage.replace("mean_teacher", "student")
    monkeypatch.setattr(objectives, "ccc_loss", masked_loss)  # as on a GPU
    cfg = tiny_config(stage=stage, dropout=0.3, modality_dropout=0.5, learning_rate=0.01, target="both")
    recordings = [easy_recording("a", 90, 0), easy_recording("b", 80, 1)]
    for recording in recordings:
        recording.gold = recording.gold.repeat(2, 1)
        recording.gold[20:35, 1] = float("nan")
    objective, inputs = objectives.MeanTeacher(0.5) if itself else objectives.task_objective, INPUTS[stage]
    if stage == "student" and not itself:
        teacher = build_model("teacher", cfg, SHAPES).eval().requires_grad_(False)
        mmpkd.add_teacher_outputs(recordings, teacher)
        methods, inputs = {"cosine": 1.0, "rkd": 1.0, "ccc": 1.0}, ("frames", "taught")
        objective = objectives.Distillation(methods, "adaptive", 0.5)
    model, clips = build_model(stage, cfg, SHAPES), Clips(recordings, 4, 10, inputs, 0)
    model.train().in_bfloat16 = precision == "bfloat16"

    def started(device):
        training = Training(copy.deepcopy(model), cfg, decay=0.9)
        training.replay = Replay(device)
        if itself:
            objective.begin(training.average, 12)
        return training

    def after(device, resumed=()):
        training = started(device)
        for step, batch in enumerate(clips.batches(0)):
            if step in resumed:
                state, before = {"model": training.model.state_dict()} | training.state(), training
                training = started(device)
                training.load(copy.deepcopy(state))
                training.precision = before.precision
            train_step(training, objective, batch)
        return {"model": training.model.state_dict()} | training.state()

    assert clips.steps == 5
    expected = after(None)
    assert not recorded and same(after(CPU), expected) and len(recorded) == 1 and same(after(CPU, [1, 4]), expected)
    assert len(recorded) == 2
