"""training.py: optimizer, steps, checkpoints, runs that are stopped and go on, on a drawn corpus and on sets that are easy to learn."""
import contextlib
import importlib.util
import json
import math
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import (
    CPU,
    SHAPES,
    STAGES,
    TINY,
    easy_batch,
    easy_set,
    files_of,
    log_of,
    one_line,
    run_of,
    same,
    tiny_config,
)
from torch import nn

import mmpkd
import scores
import training
from config import Config
from data import Clips, ahead, on_device
from models_kd import build_model
from runs import read_log
from support.errors import UserError
from training import (
    Training,
    choose_precision,
    draw_curves,
    load_checkpoint,
    make_optimizer,
    save_checkpoint,
    train_epoch,
    train_step,
)

torch.set_num_threads(1)


# ---- optimizer, scheduler, early stopping ---------------------------------------------------------------------------

def test_every_part_has_its_own_learning_rate_and_every_weight_is_trained_once():
    cfg = Config(visual_backbone="small_cnn", audio_backbone="small_cnn", audio_lr_scale=0.5)
    teacher = build_model("teacher", cfg, SHAPES)
    groups = make_optimizer(teacher, nn.ModuleDict(), cfg).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(teacher.parameters())) == sum(len(group["params"]) for group in groups)
    for name, parameter in teacher.named_parameters():
        assert rates[id(parameter)] == pytest.approx({"visual": 1e-5, "audio": 5e-5}.get(name.split(".")[0], 1e-4)), name


@pytest.mark.parametrize("optimizer, kind", [("adam", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_both_optimizers_are_offered(optimizer, kind):
    assert type(make_optimizer(build_model("visual", tiny_config(), SHAPES), nn.ModuleDict(), tiny_config(optimizer=optimizer))) is kind


def test_schedulers_change_the_learning_rate_per_epoch():
    def rates(scheduler, values):
        training = Training(build_model("audio", tiny_config(), SHAPES), tiny_config(scheduler=scheduler, epochs=len(values), learning_rate=1.0))
        seen = []
        for value in values:
            seen.append(training.optimizer.param_groups[-1]["lr"])
            training.optimizer.step()
            training.end_epoch(value)
        return seen

    assert rates("cosine", [0.0] * 4) == pytest.approx([(1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)])
    assert rates("none", [0.0] * 3) == [1, 1, 1]
    assert rates("plateau", [0.5, 0.4, 0.4, 0.4, 0.4, 0.6]) == [1, 1, 1, 1, 0.5, 0.5]  # after more than 2 epochs without a better one


def test_a_validation_ccc_that_is_not_a_number_is_never_the_best_and_hides_none():
    training = Training(build_model("audio", tiny_config(), SHAPES), tiny_config(scheduler="none"))
    assert [training.end_epoch(value) for value in (math.nan, 0.1, math.nan, 0.1, 0.2)] == [False, True, False, False, True]
    assert training.best == 0.2 and training.stale == 0 and training.epoch == 5


def scripted(monkeypatch, values):
    """Makes the validation CCCs of a run these, whatever the model does."""
    values = iter(values)
    monkeypatch.setattr(mmpkd, "score", lambda tables, targets: {target: {"mean": next(values, 0.0), "concatenated": 0.0} for target in targets})


def test_training_stops_early_and_keeps_the_best_epoch_and_says_both(made, call, monkeypatch):
    scripted(monkeypatch, [0.1, 0.3, 0.2, 0.25, 0.9])
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "audio", "--epochs", 5, "--patience", 2)
    folder = run_of(made, "audio", "arousal")
    assert code == 0, err
    assert "stopped early, after 2 epochs without a better validation CCC (patience 2)" in out
    assert "epoch 2 had the best validation CCC and is kept" in out
    assert [line["best"] for line in log_of(folder)] == [True, True, False, False]
    assert load_checkpoint(folder / "best.pt")["epoch"] == 2 and load_checkpoint(folder / "last.pt")["epoch"] == 4


def test_a_learning_rate_far_too_high_ends_in_one_line_that_names_the_parts(made, call):
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--learning-rate", "1e30", "--visual-lr-scale", 1)[::2])
    assert "not finite" in line and "loss nan" in line and "task" in line and "epoch 1" in line and "--learning-rate" in line


def test_a_gradient_that_is_not_finite_never_reaches_the_weights():
    cfg = tiny_config(max_grad_norm=0)
    training = Training(build_model("visual", cfg, SHAPES), cfg)

    def objective(model, batch):
        loss = (model(batch.frames).pred * 0).sqrt().sum()  # is 0, with the slope of a square root there
        return loss, {"task": loss}

    before = {key: value.clone() for key, value in training.model.named_parameters()}
    with pytest.raises(UserError, match="loss 0, task 0, gradient nan"):
        train_step(training, objective, easy_batch())
    assert same(before, dict(training.model.named_parameters()))


# ---- stopping and going on ------------------------------------------------------------------------------------------

class Stop:
    """Breaks a run off, as Ctrl-C does, at one place: when the checkpoint of that name of that epoch is to be written,
    in the middle of that epoch's steps, or when predictions are."""

    def __init__(self, monkeypatch, at, epoch):
        self.at, self.epoch = at, epoch
        self.save, self.norm = save_checkpoint, nn.utils.get_total_norm
        self.steps = 0
        monkeypatch.setattr("training.save_checkpoint", self.on_save)
        monkeypatch.setattr(nn.utils, "get_total_norm", self.on_step)
        monkeypatch.setattr(mmpkd, "whole_folder", self.on_predictions)

    def on_save(self, path, state):
        if self.at == path.name and state["epoch"] == self.epoch:
            raise KeyboardInterrupt
        self.save(path, state)

    def on_step(self, *args):
        self.steps += 1
        if self.at == "step" and self.steps == 2 * self.epoch:  # the second of the two steps of an epoch
            raise KeyboardInterrupt
        return self.norm(*args)

    def on_predictions(self, path):
        raise KeyboardInterrupt


@pytest.mark.parametrize("stage, at, epoch, extra", [
    ("visual", "step", 2, []), ("visual", "last.pt", 3, ["--scheduler", "plateau"]), ("visual", "best.pt", 1, []),
    ("visual", "predictions", 4, ["--optimizer", "sgd"]), ("audio", "last.pt", 2, []), ("teacher", "step", 3, ["--modality-dropout", "0.5"]),
    ("student", "last.pt", 3, ["--target", "both"])])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_never_was(trained, call, stage, at, epoch, extra):
    words = ["--data-dir", trained, *TINY, "--stage", stage, "--epochs", 4, *extra]
    if stage == "student":
        words += ["--teacher-checkpoint", run_of(trained, "teacher") / "best.pt"]
    name = run_of(trained, stage, "both" if "both" in extra else "arousal").name
    assert call("mmpkd", *words, "--runs-dir", trained / "never")[0] == 0

    with pytest.MonkeyPatch.context() as monkeypatch:
        Stop(monkeypatch, at, epoch)
        code, out, err = call("mmpkd", *words, "--runs-dir", trained / "stopped")
    assert "--resume" in one_line(code, err, 130)
    torch.rand(7)  # whatever happened in between
    code, out, err = call("mmpkd", *words, "--runs-dir", trained / "stopped", "--resume")
    assert code == 0, err
    assert ("from epoch" in out) == (epoch > 1)

    never, stopped = trained / "never" / name, trained / "stopped" / name
    assert same(load_checkpoint(never / "last.pt"), load_checkpoint(stopped / "last.pt"))
    assert same(load_checkpoint(never / "best.pt"), load_checkpoint(stopped / "best.pt"))
    assert log_of(never) == log_of(stopped) and len(log_of(never)) == 4
    assert files_of(never / "predictions") == files_of(stopped / "predictions")
    assert {path.name for path in stopped.iterdir()} == {path.name for path in never.iterdir()}, "something was left behind"


def stop_after(made, call, epochs, *words):
    """A run of the visual stage that was stopped after so many epochs: its folder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        Stop(monkeypatch, "step", epochs + 1)
        assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, *words)[0] == 130
    return run_of(made, "visual", "arousal")


def test_a_stopped_run_goes_on_only_when_asked_to(made, call):
    before = files_of(stop_after(made, call, 1))
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4)[::2])
    assert "was stopped: go on with --resume, or delete the folder" in line
    assert files_of(run_of(made, "visual", "arousal")) == before


def test_stage_all_goes_on_from_whichever_run_was_stopped(made, call):
    words = ["--data-dir", made, *TINY, "--epochs", 1]
    assert call("mmpkd", *words, "--stage", "visual")[0] == 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        Stop(monkeypatch, "predictions", 0)
        assert call("mmpkd", *words)[0] == 130  # in the teacher's run
    assert "teacher_arousal/ holds a run that was stopped" in one_line(*call("mmpkd", *words)[::2])
    code, out, err = call("mmpkd", *words, "--resume")
    assert code == 0 and out.count("nothing to do") == 1 and out.count(": finished; ") == 2 and "gap closed by student" in out, err


def test_a_run_that_was_stopped_early_by_patience_resumes_to_its_end(made, call, monkeypatch):
    words = ["--data-dir", made, *TINY, "--stage", "audio", "--epochs", 9, "--patience", 1]
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch, [0.3, 0.2])
        Stop(patch, "predictions", 0)
        assert call("mmpkd", *words)[0] == 130
    code, out, err = call("mmpkd", *words, "--resume")
    assert code == 0 and len(log_of(run_of(made, "audio", "arousal"))) == 2 and "epoch 1 had the best" in out, err


@pytest.mark.parametrize("words, named", [(["--learning-rate", "0.5"], "learning_rate 0.001, now it is 0.5"), (["--seed", 3], "seed 0, now it is 3"),
                                          (["--no-augment"], "augment True, now it is False")])
def test_changed_settings_are_refused_with_the_field(trained_corpus, call, words, named):
    base = ["--data-dir", trained_corpus, *TINY, "--target", "both", "--stage", "visual"]
    for resume in ([], ["--resume"]):
        assert named in one_line(*call("mmpkd", *base, *words, *resume)[::2])


def test_settings_that_a_stage_does_not_read_may_change(trained_corpus, call):
    code, out, _ = call("mmpkd", "--data-dir", trained_corpus, *TINY, "--target", "both", "--stage", "visual", "--gate", "off", "--audio-lr-scale", 3,
                        "--modality-dropout", "0.5", "--resume")
    assert code == 0 and "nothing to do" in out


def test_stage_all_refuses_a_changed_student_before_it_trains_a_teacher(trained, call):
    shutil.rmtree(run_of(trained, "teacher"))
    line = one_line(*call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--distill-weight", "0.9")[::2])
    assert "distill_weight 0.5, now it is 0.9" in line and not run_of(trained, "teacher").exists()


def test_ctrl_c_ends_with_one_line_and_whole_files(made):
    script = [sys.executable, mmpkd.__file__, "--data-dir", str(made), *TINY, "--stage", "visual", "--epochs", "5000"]
    process = subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = run_of(made, "visual", "arousal") / "log.jsonl"
    for _ in range(600):
        if log.exists() and len(log.read_text().splitlines()) >= 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    one_line(process.returncode, err, 130)
    assert load_checkpoint(log.with_name("last.pt"))["epoch"] >= 1
    assert not list(log.parent.glob(".*")), "a half-written file was left"


# ---- checkpoints ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_checkpoint_broken_off_while_it_is_written_leaves_the_old_one(tmp_path, monkeypatch, error):
    save_checkpoint(tmp_path / "last.pt", {"epoch": 1})

    def half(state, file):
        file.write(b"half of a checkpoint")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(error if isinstance(error, type) else OSError):
        save_checkpoint(tmp_path / "last.pt", {"epoch": 2})
    assert torch.load(tmp_path / "last.pt", weights_only=True) == {"epoch": 1} and len(list(tmp_path.iterdir())) == 1


@contextlib.contextmanager
def on_a_full_disk(path):
    yield Path("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("module", ["training", "data"])
def test_a_full_disk_is_one_line_from_checkpoint_and_cache_alike(made, call, monkeypatch, module):
    """With the device that is always full: what torch and NumPy really raise there."""
    monkeypatch.setattr(f"{module}.whole_file", on_a_full_disk)
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual")[::2])
    assert "No space left on device" in line


def test_checkpoints_hold_tensors_and_plain_python_only(trained_corpus):
    def kinds(value):
        if isinstance(value, dict):
            return {kind for item in value.items() for part in item for kind in kinds(part)}
        if isinstance(value, list | tuple):
            return {kind for part in value for kind in kinds(part)}
        return {type(value)}

    for stage in STAGES:
        for file in ("best.pt", "last.pt"):
            assert kinds(load_checkpoint(run_of(trained_corpus, stage) / file)) <= {torch.Tensor, str, int, float, bool, type(None)}


class Harmful:
    def __reduce__(self):
        return (print, ("code of a checkpoint was run",))


DAMAGE = {
    "half": lambda path: path.write_bytes(path.read_bytes()[:-2000]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint"),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"model": Harmful()}, protocol=2)),
    "code": lambda path: torch.save(torch.load(path, weights_only=True) | {"extra": Harmful()}, path),
    "tensor": lambda path: torch.save(torch.zeros(3), path),
    "foreign": lambda path: torch.save({"net": {}}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_teacher_is_one_line_and_runs_no_code(trained, call, damage):
    path = run_of(trained, "teacher") / "best.pt"
    DAMAGE[damage](path)
    code, out, err = call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--runs-dir", trained / "others",
                          "--teacher-checkpoint", path)
    assert f"{path} is not a checkpoint of mmpkd.py, or it is damaged" in one_line(code, err) and "was run" not in out


@pytest.mark.parametrize("damage", ["half", "pickle", "best", "other network"])
def test_a_damaged_or_foreign_last_checkpoint_is_one_line(made, call, damage):
    folder = stop_after(made, call, 1)
    path = folder / "last.pt"
    if damage == "best":  # a checkpoint, but without what is needed to go on
        shutil.copy(folder / "best.pt", path)
    elif damage == "other network":
        torch.save(torch.load(path, weights_only=True) | {"model": {"weight": torch.zeros(3)}}, path)
    else:
        DAMAGE[damage](path)
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, "--resume")[::2])
    assert str(path) in line and f"delete {folder}/ and train again" in line


def test_a_last_checkpoint_of_other_settings_is_refused_with_the_field(made, call):
    folder = stop_after(made, call, 1, "--gru-size", 8)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"gru_size": 16}))
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, "--resume")[::2])
    assert "gru_size 8, now it is 16" in line


def test_crops_of_another_size_are_refused_on_resuming(made, call):
    stop_after(made, call, 1)
    for path in (made / "Cropped_Aligned").glob("*/*.jpg"):
        cv2.imwrite(str(path), np.zeros((40, 40, 3), np.uint8))
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, "--resume")[::2])
    assert "frames (3, 32, 32), now it is (3, 40, 40)" in line


# ---- the sampler's place, checkpoints between epochs, signals -------------------------------------------------------

@pytest.mark.parametrize("share", [(0, 1), (1, 2)])
def test_an_epoch_taken_up_at_any_step_goes_on_with_the_same_batches(share):
    clips = Clips([easy_set("a", 60, 0), easy_set("b", 33, 1)], 4, 5, ("frames", "specs"), 3)
    whole = list(clips.batches(2, 0, share))
    assert len(whole) == clips.steps == 5 and {len(batch.gold) for batch in whole} == {4 // share[1]}
    for first in range(clips.steps + 1):
        rest = list(clips.batches(2, first, share))
        assert all(same(one._asdict(), other._asdict()) for one, other in zip(rest, whole[first:], strict=True))


def test_the_shares_of_two_processes_are_the_batch():
    clips = Clips([easy_set("a", 60, 0), easy_set("b", 33, 1)], 4, 5, ("frames",), 3)
    for batch, one, other in zip(clips.batches(1), clips.batches(1, 0, (0, 2)), clips.batches(1, 0, (1, 2))):
        assert torch.equal(batch.frames, torch.cat([one.frames, other.frames])) and batch.clips == one.clips + other.clips


def test_batches_made_ahead_are_the_same_and_errors_come_through():
    batches = [easy_batch(seed=seed) for seed in range(4)]
    assert list(ahead(batches)) == batches and list(ahead([])) == []

    def broken():
        yield batches[0]
        raise UserError("a picture is gone")

    with pytest.raises(UserError, match="is gone"):
        list(ahead(broken()))


def test_every_step_draws_its_own_augmentation_and_dropout_and_draws_it_again():
    cfg = tiny_config(dropout=0.5)

    def losses(first):
        torch.manual_seed(first)  # whatever was drawn before
        training, seen = Training(build_model("visual", cfg, SHAPES).eval(), cfg), []

        def objective(model, batch):
            seen.append((batch.frames.sum().item(), torch.rand(1).item()))
            return model(batch.frames).pred.sum() * 0, {}

        for step in range(2):
            training.step = step
            train_step(training, objective, easy_batch())
        return seen

    one, again = losses(1), losses(2)
    assert one == again and one[0][0] != one[1][0] and one[0][1] != one[1][1]


def run_in_background(made, *words):
    script = [sys.executable, mmpkd.__file__, "--data-dir", str(made), *TINY, *map(str, words)]
    return subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(there, process, seconds=90):
    for _ in range(seconds * 20):
        if there():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("nothing happened")


def test_sigterm_saves_at_once_within_an_epoch_and_says_so_with_its_code(made, call):
    words = ["--stage", "visual", "--batch-size", 1, "--epochs", 400, "--data-dir", made]
    process, folder = run_in_background(made, *words), run_of(made, "visual", "arousal")
    wait_until(lambda: len(read_log(folder)) >= 2, process)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert "stopped by SIGTERM and saved in epoch" in one_line(process.returncode, err, 128 + signal.SIGTERM) and "--resume" in err
    epoch, step = (int(word) for word in re.search(r"in epoch (\d+), after step (\d+) of", err).groups())
    state = load_checkpoint(folder / "last.pt")
    assert (state["epoch"] + 1, state["step"]) == (epoch, step) and epoch >= 3


def test_sigterm_at_the_end_of_the_last_epoch_is_not_lost(made, call, monkeypatch):
    """The next run of the same command line would begin, and be killed."""
    end_epoch = training.Folder.end_epoch

    def asked_meanwhile(self, *words):
        end_epoch(self, *words)
        signal.raise_signal(signal.SIGTERM)
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--epochs", 1]
    with monkeypatch.context() as patch:
        patch.setattr(training.Folder, "end_epoch", asked_meanwhile)
        assert "stopped by SIGTERM" in one_line(*call("mmpkd", *words)[::2], 128 + signal.SIGTERM)
    assert "finished; epoch 1" in call("mmpkd", *words, "--resume")[1]


def test_a_second_process_on_a_runs_folder_is_told_so_and_changes_nothing(made, call):
    process, folder = run_in_background(made, "--stage", "visual", "--epochs", 4000), run_of(made, "visual", "arousal")
    try:
        wait_until((folder / "last.pt").exists, process)
        config = (folder / "config.json").read_bytes()
        for extra in ([], ["--resume"]):
            line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 5, *extra)[::2])
            assert "visual_arousal/ is being trained by another process" in line
        assert (folder / "config.json").read_bytes() == config
        assert "running" in call("mmpkd", "--data-dir", made, "--list")[1]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("extra", [["--save-steps", 1], ["--save-minutes", 1e-9]])
def test_checkpoints_come_between_epochs_too_and_a_run_goes_on_from_within_one(trained, call, extra):
    words = ["--data-dir", trained, *TINY, "--target", "both", "--batch-size", 3, "--stage", "student", "--teacher-checkpoint",
             run_of(trained, "teacher") / "best.pt"]
    assert call("mmpkd", *words, "--runs-dir", trained / "never")[0] == 0
    steps = []

    with pytest.MonkeyPatch.context() as monkeypatch:
        def stop_in_the_middle(path, state):
            save_checkpoint(path, state)
            steps.append((state["epoch"], state.get("step")))
            if state.get("step") == 2 and state["epoch"] == 1:
                raise KeyboardInterrupt
        monkeypatch.setattr("training.save_checkpoint", stop_in_the_middle)
        assert call("mmpkd", *words, "--runs-dir", trained / "stopped", *extra)[0] == 130
    assert (0, 1) in steps and steps[-1] == (1, 2)
    code, out, err = call("mmpkd", *words, "--runs-dir", trained / "stopped", "--resume")
    assert code == 0 and "from epoch 2, step 3" in out, err
    never, stopped = (trained / name / "student_both_cosine" for name in ("never", "stopped"))
    assert same(load_checkpoint(never / "last.pt"), load_checkpoint(stopped / "last.pt")) and log_of(never) == log_of(stopped)
    assert files_of(never / "predictions") == files_of(stopped / "predictions")


def test_a_finished_run_goes_on_for_more_epochs_only_when_asked_to(made, call):
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--scheduler", "none"]
    assert call("mmpkd", *words, "--runs-dir", made / "longer", "--epochs", 4)[0] == 0
    assert call("mmpkd", *words, "--epochs", 2)[0] == 0
    line = one_line(*call("mmpkd", *words, "--epochs", 4)[::2])
    assert "was finished after 2 epochs: for 4, go on with --resume" in line
    code, out, err = call("mmpkd", *words, "--epochs", 4, "--resume")
    assert code == 0 and "from epoch 3, step 1" in out, err
    assert same(load_checkpoint(made / "longer" / "visual_arousal" / "last.pt"), load_checkpoint(run_of(made, "visual", "arousal") / "last.pt"))
    assert "nothing to do" in call("mmpkd", *words, "--epochs", 3)[1]


def test_a_run_killed_at_random_moments_ends_in_the_same_bits(tmp_path, monkeypatch):
    """The drill of bench/kill_resume.py, shorter."""
    monkeypatch.syspath_prepend(Path(mmpkd.__file__).parent / "bench")
    from kill_resume import drill
    assert drill(tmp_path, 3, 6, 0) == []


# ---- what is not finite ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("every", [1, 3])
def test_a_loss_that_is_not_finite_names_its_parts_and_the_frames_of_its_batch(every, monkeypatch):
    """Also where it is looked at a few steps late, as on a GPU."""
    cfg = tiny_config(clip_length=5, batch_size=2)
    clips = Clips([easy_set("anna", 40, 0), easy_set("ben", 20, 1)], 2, 5, ("frames",), 0)
    training = Training(build_model("visual", cfg, SHAPES), cfg)
    bad = clips.of_epoch(0)[2:4]

    def objective(model, batch):
        loss = model(batch.frames).pred.square().mean()
        return loss * (math.nan if training.step == 1 else 1), {"task": loss}

    if every > 1:
        monkeypatch.setattr(Training, "check", lambda self, check=Training.check: check(self) if len(self.unchecked) == every else None)
    named = ", ".join(rf"{['anna', 'ben'][number]} {start}-{start + 4}" for number, start, _ in bad)
    with pytest.raises(UserError, match=rf"not finite \(loss nan, task [\d.e-]+, gradient nan\) in epoch 1, of the frames {named}: look at"):
        train_epoch(training, objective, clips)


# ---- precision, the teacher's cache ---------------------------------------------------------------------------------

def ccc_after(precision, stage="teacher"):
    torch.manual_seed(0)
    cfg = tiny_config(learning_rate=0.01, visual_lr_scale=1.0, precision=precision)
    recordings = [easy_set("a", 200, 0), easy_set("b", 200, 1)]
    training = Training(build_model(stage, cfg, SHAPES), cfg)
    training.precision = choose_precision(precision, CPU)
    for _ in range(10):
        train_epoch(training, mmpkd.task_objective, Clips(recordings, 8, 10, mmpkd.trained_on(stage), 0))
        training.end_epoch(0.0)
    preds = scores.predict(training.model, recordings)
    assert all(pred.dtype == np.float32 for pred in preds.values())
    return scores.score(scores.predictions(training.model, recordings, cfg), ["arousal"])["arousal"]["mean"], preds["a"]


def test_training_in_bfloat16_costs_no_ccc():
    (full, preds), (half, other) = ccc_after("float32"), ccc_after("bfloat16")
    assert full > 0.8 and half > full - 0.05 and not np.array_equal(preds, other), "bfloat16 was not used"


@pytest.mark.parametrize("device, has, choice", [("cpu", True, "float32"), ("cuda", True, "bfloat16"), ("cuda", False, "float32")])
def test_precision_follows_from_the_device_and_never_from_a_timing(monkeypatch, device, has, choice):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: has)
    assert choose_precision("auto", torch.device(device)) == choice
    assert [choose_precision(wanted, torch.device(device)) for wanted in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def taught_student(folder, cfg):
    teacher = build_model("teacher", cfg, SHAPES).eval().requires_grad_(False)
    recordings = [easy_set("a", 60, 0), easy_set("b", 130, 1)]
    mmpkd.keep_outputs(lambda _: [[teacher]], recordings, "someone", cfg, CPU)
    return teacher, recordings, mmpkd.Distillation(teacher, {"cosine": 1.0, "ccc": 1.0}, "adaptive", 0.5)


def test_a_kept_and_a_live_teacher_give_the_same_loss_on_pictures_that_are_not_augmented(tmp_path):
    """Of whole recordings: of a clip the kept teacher knows what came before, too, as `predict` does."""
    cfg = tiny_config(data_dir=str(tmp_path))
    teacher, recordings, objective = taught_student(tmp_path, cfg)
    student = build_model("student", cfg, SHAPES).eval()
    for recording in recordings:
        kept, live = (next(Clips([recording], 1, len(recording), inputs, 0).batches(0)) for inputs in (("frames", "taught"), ("frames", "specs")))
        assert kept.specs is None and kept.taught.shape == (1, len(recording), 1 + 128)
        (loss, parts), (expected, its) = (objective(student, on_device(batch, CPU)) for batch in (kept, live))
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
        assert {name: float(part.detach()) for name, part in parts.items()} == pytest.approx(
            {name: float(part.detach()) for name, part in its.items()}, abs=1e-5)
    preds = scores.predict(teacher, recordings)
    for batch in Clips(recordings, 4, 10, ("taught",), 0).batches(0):
        for (name, start), said in zip(batch.clips, batch.taught):
            np.testing.assert_allclose(said[:, :1], preds[name][start:start + 10], atol=1e-5)


def test_more_views_are_the_plain_one_and_augmented_ones_and_are_all_used(tmp_path):
    cfg = tiny_config(data_dir=str(tmp_path), teacher_cache=3)
    teacher, recordings, _ = taught_student(tmp_path, cfg)
    views = recordings[0].arrays["taught"]
    assert views.shape == (3, 60, 129)
    np.testing.assert_allclose(views[0][:, :1], scores.predict(teacher, recordings)["a"], atol=1e-5)
    assert all(np.abs(views[one] - views[other]).max() > 1e-4 for one, other in [(0, 1), (0, 2), (1, 2)]), "views are not augmented"
    seen = {min(range(3), key=lambda v: np.abs(recordings[name == "b"].arrays["taught"][v, start:start + 10] - clip).max())
            for batch in Clips(recordings, 4, 10, ("taught",), 0).batches(0)
            for (name, start), clip in zip(batch.clips, batch.taught.numpy())}
    assert seen == {0, 1, 2}


def test_a_teacher_is_heard_once_and_another_teacher_anew(trained, call, monkeypatch):
    computed = []
    monkeypatch.setattr(mmpkd, "spoken", lambda *args, spoken=mmpkd.spoken: (computed.append(args[1].name), spoken(*args))[1])
    words = ["--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--teacher-checkpoint", run_of(trained, "teacher") / "best.pt"]
    both = ["train_1", "train_2"]
    assert call("mmpkd", *words, "--runs-dir", trained / "first")[0] == 0 and computed == both
    assert call("mmpkd", *words, "--runs-dir", trained / "again", "--seed", 7)[0] == 0 and computed == both
    shutil.rmtree(trained / "cache")
    assert call("mmpkd", *words, "--runs-dir", trained / "second")[0] == 0 and computed == both * 2
    first, second = (files_of(trained / name / "student_both_cosine" / "predictions") for name in ("first", "second"))
    assert first == second, "without its cache a run is another one"
    state = torch.load(run_of(trained, "teacher") / "best.pt", weights_only=True)
    state["model"] = {name: value * 1.5 if value.is_floating_point() else value for name, value in state["model"].items()}
    torch.save(state, trained / "other.pt")
    assert call("mmpkd", *words[:-1], trained / "other.pt", "--runs-dir", trained / "third")[0] == 0
    assert computed == both * 3


def test_a_student_does_not_go_on_with_another_teacher(trained, call):
    words = ["--data-dir", trained, *TINY, "--target", "both", "--stage", "student", "--epochs", 4, "--runs-dir", trained / "others",
             "--teacher-checkpoint", trained / "mine.pt"]
    shutil.copy(run_of(trained, "teacher") / "best.pt", trained / "mine.pt")
    with pytest.MonkeyPatch.context() as monkeypatch:
        Stop(monkeypatch, "step", 2)
        assert call("mmpkd", *words)[0] == 130
    shutil.copy(run_of(trained, "audio") / "best.pt", trained / "mine.pt")
    assert "mine.pt has changed since" in one_line(*call("mmpkd", *words, "--resume")[::2])


# ---- many processes -------------------------------------------------------------------------------------------------

def torchrun(*words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_two_processes_with_half_the_batch_each_make_the_step_of_one_with_all_of_it(tmp_path):
    """Gradients, weights after the step, batch statistics and loss, of every stage, batch norm and augmentation included."""
    script = Path(__file__).with_name("two_processes.py")
    ended = torchrun(script, tmp_path / "two.pt")
    assert ended.returncode == 0, ended.stderr
    subprocess.run([sys.executable, script, tmp_path / "one.pt"], check=True)
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    assert one.pop("processes") == 1 and two.pop("processes") == 2
    for stage in STAGES:
        assert one[stage].keys() == two[stage].keys()
        moved = max(float(value.abs().max()) for name, value in one[stage].items() if name.startswith("gradient"))
        assert moved > 1e-3, "nothing is learned, so this test tells nothing"
        for name, value in one[stage].items():
            assert torch.allclose(two[stage][name].double(), value.double(), rtol=1e-4, atol=1e-5), (stage, name, two[stage][name], value)


def test_two_processes_train_what_one_does_and_one_can_go_on_from_two(made, call):
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--batch-size", 4, "--dropout", 0]
    assert call("mmpkd", *words, "--runs-dir", made / "one", "--epochs", 3)[0] == 0
    ended = torchrun(mmpkd.__file__, *words, "--runs-dir", made / "two", "--epochs", 3)
    assert ended.returncode == 0 and ended.stdout.count("finished; epoch") == 1 and "on cpu x 2 in float32" in ended.stdout, ended.stderr
    one, two = (read_log(made / name / "visual_arousal") for name in ("one", "two"))
    assert [entry["val"]["arousal"]["mean"] for entry in two] == pytest.approx([entry["val"]["arousal"]["mean"] for entry in one], abs=1e-3)
    assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], abs=1e-3)
    code, out, err = call("mmpkd", *words, "--runs-dir", made / "two", "--epochs", 4, "--resume")
    assert code == 0 and "from epoch 4, step 1" in out, err


@pytest.mark.parametrize("precision, taken", [("bfloat16", "bfloat16"), ("auto", "float32")])
def test_two_processes_train_in_one_precision(precision, taken, made):
    ended = torchrun(mmpkd.__file__, "--data-dir", made, *TINY, "--stage", "visual", "--batch-size", 4, "--epochs", 1, "--precision", precision)
    assert ended.returncode == 0 and f"on cpu x 2 in {taken}" in ended.stdout, ended.stderr


def test_a_batch_that_cannot_be_shared_evenly_is_refused(made):
    ended = torchrun(mmpkd.__file__, "--data-dir", made, *TINY, "--stage", "visual", "--batch-size", 3)
    assert ended.returncode != 0 and "batch_size 3 cannot be shared evenly by the 2 processes" in ended.stderr
    assert not (made / "runs").exists()


# ---- what one sees --------------------------------------------------------------------------------------------------

def test_curves_are_drawn_of_a_whole_and_of_an_empty_log(trained_corpus, tmp_path):
    picture = cv2.imread(str(run_of(trained_corpus, "student") / "curves.png"))
    assert picture.shape[0] > 200 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    draw_curves(tmp_path)
    assert (tmp_path / "curves.png").exists()


def test_runs_are_listed_with_their_state_and_best_ccc(made, call):
    assert "holds no runs" in call("mmpkd", "--data-dir", made, "--list")[1]
    folder = stop_after(made, call, 1)
    assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "audio")[0] == 0
    code, out, err = call("mmpkd", "--data-dir", made, "--list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    best = max(entry["val"]["arousal"]["mean"] for entry in read_log(run_of(made, "audio", "arousal")))
    assert code == 0 and "finished" in lines["audio_arousal"] and f"{best:.3f}" in lines["audio_arousal"] and "2/2" in lines["audio_arousal"]
    assert "stopped, --resume" in lines[folder.name] and "1/4" in lines[folder.name]


def test_event_files_are_written_when_asked_for_and_a_missing_package_is_one_line(made, call, monkeypatch):
    words = ["--data-dir", made, *TINY, "--stage", "audio", "--tensorboard"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name, find=importlib.util.find_spec: None if name == "tensorboard" else find(name))
        assert "the package tensorboard is not installed" in one_line(*call("mmpkd", *words)[::2], expected=2)
    code, _, err = call("mmpkd", *words)
    assert code == 0 and list(run_of(made, "audio", "arousal").glob("events.out.tfevents*")), err
