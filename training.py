"""The training engine: steps, checkpoints, being stopped and going on, many devices. What is trained is mmpkd.py's affair.

Every random number of a step follows from (seed, epoch, step) alone, so a checkpoint holds no generator's state: weights,
optimizer and two counters say how a run goes on. On a CPU a run that was killed and resumed ends in the same bits.
"""
import contextlib
import io
import json
import math
import signal
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data import ahead, draw_changes, on_device, seed_of
from runs import read_log
from support.devices import from_first, share_statistics, world
from support.errors import UserError
from support.files import whole_file
from support.recordings import SUMMARIES

CHECK_EVERY = 20  # steps after which a GPU is asked whether its losses were finite: asking makes it wait
DRAW_EVERY_S = 15  # curves.png is drawn again after so long


# ---- checkpoints ----------------------------------------------------------------------------------------------------

def save_checkpoint(path, state):
    """Writes tensors and plain Python, whole or not at all."""
    buffer = io.BytesIO()  # torch.save meets a full disk half-way with a RuntimeError that says nothing
    torch.save(state, buffer)
    with whole_file(path) as part:
        part.write_bytes(buffer.getbuffer())


def load_checkpoint(path):
    """What save_checkpoint wrote. Raises UserError if the file is missing or is not a whole checkpoint of mmpkd.py."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        wrong = not isinstance(state, dict) or {"stage", "config", "targets", "shapes", "model"} - set(state)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: a checkpoint of mmpkd.py was expected") from None
    except Exception:  # the unpickler raises many kinds
        wrong = True
    if wrong:
        raise UserError(f"{path} is not a checkpoint of mmpkd.py, or it is damaged: delete {Path(path).parent}/ and train again")
    return state


class Training:
    """All that changes while a run trains, and so all that last.pt holds."""

    def __init__(self, model, cfg, adapters=None):
        """adapters: nn.Module of layers that are trained along with the model and thrown away with the objective they belong to."""
        self.model, self.adapters, self.cfg = share_statistics(model), adapters or nn.ModuleDict(), cfg
        self.device = next(model.parameters()).device
        self.net = nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False) if world()[1] > 1 else model
        self.optimizer = make_optimizer(model, self.adapters, cfg)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, mode="max", factor=0.5, patience=2)
        self.precision = "float32"
        self.epoch, self.step, self.best, self.stale = 0, 0, -math.inf, 0  # step: within the epoch
        self.sums = {}  # of the parts of the loss over the steps of the epoch
        self.unchecked = []  # (names, values, clips) of steps whose loss nobody has looked at
        self._set_rates()

    def end_epoch(self, value):
        """Counts an epoch whose validation CCC is `value`: True if it is the best so far."""
        if self.cfg.scheduler == "plateau":
            self.plateau.step(value)
        improved = value > self.best
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        self.best, self.stale = (value, 0) if improved else (self.best, self.stale + 1)
        self._set_rates()
        return improved

    def _set_rates(self):
        """The learning rates of this epoch, where they follow from its number: half a cosine over all epochs."""
        if self.cfg.scheduler == "cosine":
            for group in self.optimizer.param_groups:
                group["lr"] = group["first_lr"] * (1 + math.cos(math.pi * min(1, self.epoch / self.cfg.epochs))) / 2

    def note(self, parts, clips):
        """Adds the parts of a step's loss, {name: scalar tensor}, to those of its epoch, without waiting for the device."""
        values = torch.stack([part.detach().double() for part in parts.values()])
        self.unchecked.append((list(parts), values, clips))
        for name, value in zip(parts, values.unbind()):
            self.sums[name] = self.sums.get(name, 0) + value

    def check(self):
        """Raises UserError if the loss of a step since the last call was not finite, with its parts and its clips."""
        values = torch.stack([values for _, values, _ in self.unchecked]).cpu() if self.unchecked else torch.zeros(0, 1)
        for (names, _, clips), row in zip(self.unchecked, values):
            if not row.isfinite().all():
                named = ", ".join(f"{name} {value:g}" for name, value in zip(names, row.tolist()))
                length = self.cfg.clip_length
                raise UserError(
                    f"the loss or its gradient is not finite ({named}) in epoch {self.epoch + 1}, of the frames "
                    + ", ".join(f"{name} {start}-{start + length - 1}" for name, start in clips)
                    + ": look at their pictures and ratings, or delete the run's folder and train with a lower --learning-rate; the "
                    "checkpoints from before are whole")
        self.unchecked = []

    def means(self):
        """Mean of every part of the loss over the steps of this epoch: {name: float}."""
        return {name: float(value) / self.step for name, value in self.sums.items()}

    def state(self):
        """Tensors and plain Python."""
        self.check()
        return {"optimizer": self.optimizer.state_dict(), "adapters": self.adapters.state_dict(),
                "plateau": {key: value for key, value in self.plateau.state_dict().items() if key in ("best", "num_bad_epochs", "last_epoch")},
                "precision": self.precision, "epoch": self.epoch, "step": self.step, "best": self.best, "stale": self.stale,
                "sums": {name: float(value) for name, value in self.sums.items()}}

    def load(self, state):
        """Goes on from what state() gave, model included."""
        self.model.load_state_dict(state["model"])
        self.adapters.load_state_dict(state["adapters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.plateau.load_state_dict(state["plateau"])
        self.precision, self.sums = state["precision"], dict(state["sums"])
        self.epoch, self.step, self.best, self.stale = (state[name] for name in ("epoch", "step", "best", "stale"))
        self._set_rates()


def make_optimizer(model, adapters, cfg):
    """SGD or Adam over three groups: the visual backbone, the audio backbone, and all the rest."""
    scales = {"visual.": cfg.visual_lr_scale, "audio.": cfg.audio_lr_scale, "": 1.0}
    groups = defaultdict(list)
    for name, parameter in [*model.named_parameters(), *adapters.named_parameters("adapters")]:
        groups[next(prefix for prefix in scales if name.startswith(prefix))].append(parameter)
    groups = [{"params": groups[prefix], "lr": cfg.learning_rate * scales[prefix], "first_lr": cfg.learning_rate * scales[prefix]}
              for prefix in scales if prefix in groups]
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=cfg.weight_decay, fused=True)
    return torch.optim.AdamW(groups, weight_decay=cfg.weight_decay, fused=True)


# ---- steps ----------------------------------------------------------------------------------------------------------


def train_step(training, objective, batch):
    """One gradient step on a batch as the sampler gave it. Raises UserError when the loss is not finite (on a GPU a few steps late)."""
    cfg = training.cfg
    torch.manual_seed(seed_of(cfg.seed, training.epoch, training.step, world()[0]))  # dropout is each process' own
    changes = changes_of(training, batch) if cfg.augment else None
    loss, parts = objective(training.net, on_device(batch, training.device, changes))
    training.optimizer.zero_grad()
    loss.backward()
    parameters = [parameter for group in training.optimizer.param_groups for parameter in group["params"] if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    training.note({"loss": loss, **parts, "gradient": norm}, batch.clips)
    if training.device.type == "cpu" or training.step % CHECK_EVERY == CHECK_EVERY - 1:
        training.check()  # on a CPU before the step: what is not finite never reaches the weights
    if cfg.max_grad_norm:
        nn.utils.clip_grads_with_norm_(parameters, cfg.max_grad_norm, norm)
    training.optimizer.step()
    training.step += 1


def changes_of(training, batch):
    """The augmentation of this process' share of the step's batch: as if one process had drawn it all."""
    (rank, size), clips = world(), len(batch.gold)
    generator = torch.Generator().manual_seed(seed_of(training.cfg.seed, training.epoch, training.step))
    return draw_changes(clips * size, generator)[:, rank * clips:(rank + 1) * clips]


def train_epoch(training, objective, clips, after_step=lambda: None):
    """The rest of an epoch from the step it is at on: mean of every part of the loss."""
    training.model.train()
    training.model.in_bfloat16 = training.precision == "bfloat16"
    for batch in ahead(clips.batches(training.epoch, training.step, world()), training.device.type == "cuda"):
        train_step(training, objective, batch)
        after_step()
    training.check()
    return training.means()


def train(training, objective, clips, evaluate, folder, about):
    """The loop: epochs of training and validation, until they are over or patience is; keeps best.pt, last.pt, the log, curves.png.

    objective(model, batch) -> loss, {name: part of it}; clips: data.Clips; evaluate(model) -> scores of mmpkd.score; about: what
    the checkpoints say of the model. Raises Stopped when the process is asked to stop, after saving.
    """
    cfg, saved = training.cfg, [time.monotonic()]
    run = Folder(folder, about, training, cfg.tensorboard)

    def after_step():
        due = cfg.save_minutes and time.monotonic() - saved[0] > 60 * cfg.save_minutes or cfg.save_steps and training.step % cfg.save_steps == 0
        bar.update()
        if (due or asked.signal) and world()[0] == 0:
            run.save_last()
            saved[0] = time.monotonic()
        if asked.signal and world()[0] == 0:  # the others end with it: their next exchange fails
            raise asked.stopped(training, clips.steps)

    with asked_to_stop() as asked, progress(training, clips.steps) as bar:
        while training.epoch < cfg.epochs and not 0 < cfg.patience <= training.stale:
            bar.set_description(f"{folder.name} epoch {training.epoch + 1}/{cfg.epochs}")
            began = time.perf_counter()
            parts = train_epoch(training, objective, clips, after_step)
            try:
                with asked.at_once():
                    scores = evaluate(training.model) if world()[0] == 0 else None
            except Stopped:
                run.save_last()
                raise asked.stopped(training, clips.steps) from None
            run.end_epoch(parts, scores, time.perf_counter() - began)
            saved[0] = time.monotonic()
        if asked.signal and world()[0] == 0:  # since the last step
            raise asked.stopped(training, clips.steps)
    run.draw(last=True)
    if training.epoch < cfg.epochs:
        print(f"{folder.name}: stopped early, after {training.stale} epochs without a better validation CCC (patience {cfg.patience})")


def progress(training, steps):
    """Bar over the steps of all epochs, so that it tells when the run ends."""
    done = training.epoch * steps + training.step
    return tqdm(initial=done, total=training.cfg.epochs * steps, unit=" steps", disable=None if world()[0] == 0 else True, leave=False)


class Folder:
    """What a run writes while it trains. Only the first of several processes does."""

    def __init__(self, folder, about, training, tensorboard):
        self.folder, self.about, self.training = folder, about, training
        self.drawn = -math.inf
        self.board = None
        if tensorboard and world()[0] == 0:
            from torch.utils.tensorboard import SummaryWriter  # here: it need not be installed
            self.board = SummaryWriter(folder)

    def save_last(self):
        """last.pt, to go on from at this very step."""
        save_checkpoint(self.folder / "last.pt", self.about | {"model": self.training.model.state_dict()} | self.training.state())

    def end_epoch(self, parts, scores, seconds):
        """best.pt, a line, a line of log.jsonl, last.pt: in this order, so that an epoch whose end was cut short is done again."""
        training = self.training
        value = float(np.mean([scores[target]["mean"] for target in self.about["targets"]])) if scores else math.nan
        improved = training.end_epoch(from_first(value, training.device))
        if scores is None:
            return
        if improved or training.cfg.keep == "last":
            save_checkpoint(self.folder / "best.pt", self.about | {"model": training.model.state_dict(), "epoch": training.epoch, "val": scores})
        val = {target: {key: scores[target][key] for key in SUMMARIES} for target in self.about["targets"]}
        entry = {"epoch": training.epoch, "seconds": round(seconds, 2), **parts, "val": val, "best": improved}
        with open(self.folder / "log.jsonl", "a") as log:
            log.write(json.dumps(entry) + "\n")
        self.save_last()
        shown = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
        ccc_ = ", ".join(f"{target} {value['mean']:.3f} ({value['concatenated']:.3f})" for target, value in val.items())
        tqdm.write(f"{self.folder.name} epoch {training.epoch}/{training.cfg.epochs}  {shown}  validation CCC {ccc_}  {seconds:.0f} s"
                   + "  best so far" * improved)
        self._to_board(parts, val)
        self.draw()

    def _to_board(self, parts, val):
        if self.board:
            for name, value in {**parts, **{f"validation CCC/{target}": value["mean"] for target, value in val.items()}}.items():
                self.board.add_scalar(name, value, self.training.epoch)
            self.board.flush()

    def draw(self, last=False):
        """curves.png, if it has not been drawn just now."""
        if world()[0] == 0 and (last or time.monotonic() - self.drawn > DRAW_EVERY_S):
            draw_curves(self.folder)
            self.drawn = time.monotonic()


def draw_curves(folder):
    """curves.png in a run's folder: the parts of the loss, the CCC of training batches and of validation, the gate, by epoch."""
    from matplotlib.figure import Figure  # here: it takes a second, and without pyplot no display is asked for
    entries = read_log(folder)
    epochs = [entry["epoch"] for entry in entries]
    series = {name: [entry.get(name, math.nan) for entry in entries] for name in entries[0] if isinstance(entries[0][name], float)} if entries else {}
    figure = Figure((12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for name, values in series.items():
        if name not in ("seconds", "beta", "gradient"):
            panels[0].plot(epochs, values, ".-", label=name)
    if "task" in series:
        rated = [1 - value if value else math.nan for value in series["task"]]  # 0: an epoch of people whom nobody rated
        panels[1].plot(epochs, rated, ".--", color="grey", label="training batches")
    for target in entries[0]["val"] if entries else ():
        panels[1].plot(epochs, [entry["val"][target]["mean"] for entry in entries], ".-", label=f"validation, {target}")
    if "beta" in series:
        panels[2].plot(epochs, series["beta"], ".-", label="gate: weight of the teacher")
        panels[2].set_ylim(0, 1)
    if "gradient" in series:
        right = panels[2].twinx()
        right.plot(epochs, series["gradient"], ".--", color="grey")
        right.set(ylabel="norm of the gradient (grey)", ylim=(0, None))
    for panel, title in zip(panels, ["parts of the loss", "CCC", "gate and gradient"]):
        panel.set(title=title, xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        if panel.lines:
            panel.legend(fontsize=8, loc="lower left" if panel is panels[2] else "best")
    figure.suptitle(Path(folder).name)
    with whole_file(Path(folder, "curves.png")) as part:
        figure.savefig(part, dpi=100)


# ---- precision ------------------------------------------------------------------------------------------------------

def choose_precision(wanted, device):
    """"float32" or "bfloat16": what is wanted, or, where that is "auto", bfloat16 on a CUDA device that has it and float32 elsewhere.

    It follows from what the device is, never from a timing: with one seed, the same is trained every time.
    """
    if wanted != "auto":
        return wanted
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


# ---- being stopped --------------------------------------------------------------------------------------------------

class Stopped(UserError):
    """The process was asked to stop, and the run is saved: exit code 128 + the signal, as a shell says it."""

    def __init__(self, message, number):
        super().__init__(message)
        self.exit_code = 128 + number


class AskedToStop:
    """What SIGTERM (a cluster's preemption) and the first Ctrl-C do to a run: it is saved after the step it is in. A second
    Ctrl-C ends it at once."""

    def __init__(self):
        self.signal, self.now = None, False

    def __call__(self, number, frame):
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number
        if self.now:
            raise Stopped("", number)

    @contextlib.contextmanager
    def at_once(self):
        """In the block nothing of the run changes: it need not end before the run is stopped."""
        if world()[0]:  # it waits for the first process, and ends with it
            yield
            return
        if self.signal:
            raise Stopped("", self.signal)
        self.now = True
        try:
            yield
        finally:
            self.now = False

    def stopped(self, training, steps):
        """The error to end with."""
        return Stopped(f"stopped by {signal.Signals(self.signal).name} and saved in epoch {training.epoch + 1}, after step {training.step} of "
                       f"{steps}: the same command with --resume goes on from there", self.signal)


@contextlib.contextmanager
def asked_to_stop():
    """An AskedToStop that listens until the block ends."""
    asked, signals = AskedToStop(), [signal.SIGTERM, signal.SIGINT]
    if threading.current_thread() is not threading.main_thread():  # only the main thread can hear signals
        yield asked
        return
    before = [signal.signal(number, asked) for number in signals]
    try:
        yield asked
    except RuntimeError:
        if asked.signal and world()[0]:  # the first process has saved and gone
            raise Stopped("stopped", asked.signal) from None
        raise
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)


# ---- many devices ---------------------------------------------------------------------------------------------------


