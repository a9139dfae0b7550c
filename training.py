"""The training loop: steps, checkpoints, interruption and resume. Objectives are chosen in mmpkd.py.

Every random number of a step follows from (seed, epoch, step) alone, so a checkpoint holds no generator's state:
weights, optimizer and two counters are enough to resume a run. On a CPU a run that was killed and resumed ends in the
same bits as one that was not.
"""
import json
import math
import shutil
import time
from collections import defaultdict

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from augmentation import draw_augmentation, on_device
from averaging import Average
from checkpoints import check_values, load_checkpoint, save_checkpoint, to_resume, to_use
from data import Batch, seed_of
from models_kd import build_model, standardise
from runs import MEAN_TEACHER, check_same, origin_of, read_log, run_folder, settings_of
from support.devices import from_first, has_bfloat16, share_statistics, world
from support.errors import UserError
from support.files import named, regular, there, whole_file
from support.graphs import Replay
from support.prefetching import prefetch
from support.reading import HUGE, is_number, read_bytes
from support.recordings import SUMMARIES
from support.settings import save_settings
from support.stopping import Stopped, listening

CHECK_EVERY = 20  # steps after which a GPU is asked whether its losses were finite: asking makes it wait
PLATEAU = "best", "num_bad_epochs", "last_epoch"  # what changes in a learning rate scheduler
DRAW_EVERY_S = 15  # seconds between two drawings of curves.png
DECAY = 0.99  # of the average of a mean teacher's weights


# ---- the beginning of a run -----------------------------------------------------------------------------------------

def start_run(cfg, state, shapes, statistics, adapters, device):
    """The Training of a run that is "new" or "stopped" (runs.state_of_run), its folder made ready.

    statistics: of features in place of images (data.statistics); adapters: of its objective, or None.
    """
    torch.manual_seed(cfg.seed)
    folder, model = run_folder(cfg), build_model(cfg.stage, cfg, shapes).to(device)
    standardise(model, statistics)
    of_its_own = cfg.stage == "student" and cfg.distill == MEAN_TEACHER
    training = Training(model, cfg, adapters, DECAY if of_its_own else 0.0)
    if state == "stopped":
        resume(training, folder, shapes, cfg)
    else:
        training.precision = choose_precision(cfg.precision, device)
    if world()[0] == 0:
        prepare_folder(folder, training.epoch, cfg)
    at = f", resumed at epoch {training.epoch + 1}, step {training.step + 1}" * (state == "stopped")
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"{folder}: {cfg.stage} for {cfg.target} on {device}{f' x {world()[1]}' * (world()[1] > 1)} in "
          f"{training.precision}, {weights:,} weights{at}")
    return training


def resume(training, folder, shapes, cfg):
    """Continues from last.pt. Raises UserError if it is damaged, or of other settings or image sizes."""
    state = load_checkpoint(folder / "last.pt")
    check_same(folder, state["config"] | state["shapes"], settings_of(cfg) | shapes)
    check_values(state["model"], {name: one.dtype for name, one in training.model.state_dict().items()},
                 folder / "last.pt")
    try:
        fault = _fault_of_progress(state) or training.load(state) or _fault_of_optimizer(training.optimizer)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        fault = "its parts do not fit"
    if fault:
        raise UserError(f"{folder / 'last.pt'} is not a checkpoint to resume from, or of another version ({fault}): "
                        f"delete {folder}/ and train again")


def _fault_of_progress(state):
    """What is wrong with the counters of a last.pt, in words; "" if nothing is."""
    counters = [state[name] for name in ("epoch", "step", "stale")]
    plateau, sums = state["plateau"], state["sums"]
    if not all(type(one) is int and 0 <= one < HUGE for one in counters):
        return "its epoch, step or stale is no number of them"
    if state["precision"] not in ("float32", "bfloat16"):
        return "its precision is unknown"
    if type(state["best"]) is not float or type(sums) is not dict or not all(map(is_number, sums.values())):
        return "its CCC or losses are no numbers"
    if type(plateau) is not dict or {*plateau} != {*PLATEAU} or not all(
            type(one) in (int, float) for one in plateau.values()):
        return "its plateau has no numbers"
    return ""


def _fault_of_optimizer(optimizer):
    """What is wrong with an optimizer whose state was read from a file, in words; "" if nothing is."""
    for group in optimizer.param_groups:
        if not (is_number(group["lr"]) and is_number(group["first_lr"]) and 0 <= group["lr"] <= group["first_lr"]):
            return "its learning rates are no numbers"
        for parameter in group["params"]:
            for one in optimizer.state.get(parameter, {}).values():
                if one is not None and not (torch.is_tensor(one) and one.shape in ((), parameter.shape)
                                            and one.isfinite().all()):
                    return "its optimizer is of other weights"
    return ""


def prepare_folder(folder, epoch, cfg):
    """A run's folder as it is after `epoch` epochs: later log lines and leftovers of a killed process are removed."""
    log = log_until(folder, epoch)  # before anything is removed
    unfinished = [folder / "best.pt"] if epoch == 0 else []  # written before the first last.pt
    for leftover in [*folder.glob(".*"), *unfinished]:
        if leftover.is_file():
            leftover.unlink()
    shutil.rmtree(folder / "predictions", ignore_errors=True)  # of a run that is trained for more epochs
    origin = json.dumps(origin_of(cfg), indent=1) + "\n"
    for name, content in (("log.jsonl", log), ("subjects.json", origin.encode())):
        with whole_file(folder / name) as part:
            part.write_bytes(content)
    save_settings(cfg, folder / "config.json")


def log_until(folder, epoch):
    """The lines of a run's log.jsonl of its first epochs. Raises UserError if one of them is missing.

    A log that was deleted is not missed: it begins with the next epoch, which is printed.
    """
    log, entries = folder / "log.jsonl", read_log(folder)
    if epoch and not there(log):
        print(f"{log} is missing: it begins again with epoch {epoch + 1}")
    epochs = [entry["epoch"] for entry in entries]
    expected = range(epochs[0] if epochs else 1, 1 + max(epoch, *epochs[-1:], 0))
    if there(log) and epochs != [*expected]:
        lost = min({*expected} - {*epochs}, default=epoch)
        raise UserError(f"{log} has no line of epoch {lost}, but last.pt is of epoch {epoch}: put the line back, or "
                        "delete the file (curves and tables alone are made of it)")
    lines = read_bytes(log).splitlines(keepends=True) if there(log) else []
    return b"".join(line for line, entry in zip(lines, entries) if entry["epoch"] <= epoch)


def choose_precision(wanted, device):
    """"float32" or "bfloat16": what is wanted; for "auto", bfloat16 on CUDA devices that have it, else float32.

    It follows from what the device is, never from a timing: a seed gives the same run every time.
    """
    if wanted != "auto":
        return wanted
    return "bfloat16" if device.type == "cuda" and has_bfloat16(device) else "float32"


# ---- steps ----------------------------------------------------------------------------------------------------------

class Training:
    """Everything that changes while a run trains, and so everything that last.pt holds."""

    def __init__(self, model, cfg, adapters=None, decay=0.0):
        """adapters: nn.Module of layers that belong to the objective: trained with the model, and then thrown away;
        decay: of an average of the weights, 0: none."""
        self.model, self.adapters, self.cfg = share_statistics(model), adapters or nn.ModuleDict(), cfg
        self.average = Average(self.model, decay) if decay else None
        self.device = next(model.parameters()).device
        self.net = nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False) if world()[1] > 1 else model
        self.optimizer = make_optimizer(model, self.adapters, cfg)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, mode="max", factor=0.5, patience=2)
        self.precision = "float32"
        self.epoch, self.step, self.best, self.stale = 0, 0, -math.inf, 0  # step: within the epoch
        self.sums = {}  # of the parts of the loss over the steps of the epoch
        self.unchecked = []  # (names, values, clips) of steps whose loss has not been checked
        one_gpu = self.device.type == "cuda" and world()[1] == 1
        self.replay = Replay(self.device if one_gpu and cfg.cuda_graph else None)  # of gradients()
        self._set_rates()

    @property
    def precision(self):
        """"float32" or "bfloat16", in which the model computes in training, and the features of a frozen backbone."""
        return "bfloat16" if self.model.in_bfloat16 else "float32"

    @precision.setter
    def precision(self, value):
        self.model.in_bfloat16 = self.kept.in_bfloat16 = value == "bfloat16"

    @property
    def kept(self):
        """The network that is validated and kept: of a mean teacher the average over the steps, else the model."""
        return self.average.model if self.average else self.model

    def end_epoch(self, value):
        """Ends an epoch whose validation CCC is `value`: True if it is the best so far."""
        if self.cfg.scheduler == "plateau":
            self.plateau.step(value)
        improved = value > self.best
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        self.best, self.stale = (value, 0) if improved else (self.best, self.stale + 1)
        self._set_rates()
        return improved

    def _set_rates(self):
        """Sets the learning rates of this epoch where they follow from its number: half a cosine over all epochs."""
        if self.cfg.scheduler == "cosine":
            for group in self.optimizer.param_groups:
                group["lr"] = group["first_lr"] * (1 + math.cos(math.pi * min(1, self.epoch / self.cfg.epochs))) / 2

    def note(self, names, values, clips):
        """Keeps the parts of a step's loss, values (P,), for check(), without waiting for the device."""
        self.unchecked.append((names, values.clone(), clips))  # a replay overwrites them

    def check(self):
        """Adds the parts of the steps since the last call to the sums of their epoch. Raises UserError if the loss of
        one was not finite, with its parts and its clips."""
        values = torch.stack([values for _, values, _ in self.unchecked]).tolist() if self.unchecked else []
        last = (self.cfg.clip_length - 1) * self.cfg.clip_stride
        for (names, _, clips), row in zip(self.unchecked, values):
            if not all(map(math.isfinite, row)):
                named = ", ".join(f"{name} {value:g}" for name, value in zip(names, row))
                frames = ", ".join(f"{name} {start}-{start + last}" for name, start in clips)
                raise UserError(
                    f"the loss or its gradient is not finite ({named}) in epoch {self.epoch + 1}, frames {frames}: "
                    "look at their images and ratings, or delete the run's folder and train with a lower "
                    "--learning-rate; earlier checkpoints are intact")
            for name, value in zip(names, row):
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.unchecked = []

    def means(self):
        """Mean of every part of the loss over the steps of this epoch: {name: float}."""
        return {name: value / self.step for name, value in self.sums.items()}

    def state(self):
        """Everything but the model, as tensors and plain Python."""
        self.check()
        average = {"average": self.average.state()} if self.average else {}
        plateau = {key: value for key, value in self.plateau.state_dict().items() if key in PLATEAU}
        return {"optimizer": self.optimizer.state_dict(), "adapters": self.adapters.state_dict(),
                "plateau": plateau, "precision": self.precision,
                "epoch": self.epoch, "step": self.step, "best": self.best, "stale": self.stale,
                "sums": dict(self.sums), **average}

    def load(self, state):
        """Continues from what state() gave, model included."""
        self.model.load_state_dict(state["model"])
        self.adapters.load_state_dict(state["adapters"])
        if self.average:
            self.average.load(state["average"])
        own = [{key: value for key, value in group.items() if key not in ("params", "lr")}
               for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, own):  # which follow from cfg, whatever the file says
            group.update(settings)
        self.plateau.load_state_dict(state["plateau"])
        self.precision, self.sums = state["precision"], dict(state["sums"])
        self.epoch, self.step, self.best, self.stale = (state[name] for name in ("epoch", "step", "best", "stale"))
        self._set_rates()


def make_optimizer(model, adapters, cfg):
    """SGD or Adam over three groups: the visual backbone, the audio backbone, and all the rest. Of a frozen backbone
    there is only the layer after it, which has the learning rate of the rest."""
    scales = {"visual.": cfg.visual_lr_scale or 1.0, "audio.": cfg.audio_lr_scale or 1.0, "": 1.0}
    groups = defaultdict(list)
    for name, parameter in [*model.named_parameters(), *adapters.named_parameters("adapters")]:
        if parameter.requires_grad:
            groups[next(prefix for prefix in scales if name.startswith(prefix))].append(parameter)
    groups = [{"params": groups[prefix], "lr": rate, "first_lr": rate} for prefix, rate in
              ((prefix, cfg.learning_rate * scale) for prefix, scale in scales.items() if prefix in groups)]
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=cfg.weight_decay, fused=True)
    return torch.optim.AdamW(groups, weight_decay=cfg.weight_decay, fused=True)


def train_step(training, objective, batch):
    """One gradient step on a batch of Clips. Raises UserError if the loss is not finite (on a GPU up to CHECK_EVERY
    steps later)."""
    cfg = training.cfg
    of_device = torch.default_generator if training.device.type == "cpu" else torch  # torch looks for all kinds: .2 ms
    of_device.manual_seed(seed_of(cfg.seed, training.epoch, training.step, world()[0]))  # every process has its dropout
    views = getattr(objective, "views", 1)
    changes = augmentations_of(training, batch, views) if cfg.augment else [None] * views

    def work(*parts):
        batch = Batch(*parts[views:])
        return gradients(training, objective, *(on_device(batch, training.device, each) for each in parts[:views]))

    names, values = training.replay(work, [*changes, *batch[:4]])
    training.note(names, values, batch.clips)
    if training.device.type == "cpu" or training.step % CHECK_EVERY == CHECK_EVERY - 1:
        training.check()  # on a CPU before the step: a value that is not finite never reaches the weights
    training.optimizer.step()
    if training.average:
        training.average.update(training.model)
    training.step += 1


def gradients(training, objective, *views):
    """Gives every weight its gradient on a batch on the device, the norm of all limited: the names of the parts of the
    loss and the norm, and their values (P,). views: the batch, differently augmented, as often as the objective asks
    for (one that does not, once)."""
    cfg = training.cfg
    loss, parts = objective(training.net, *views)
    training.optimizer.zero_grad()
    loss.backward()
    parameters = [parameter for group in training.optimizer.param_groups for parameter in group["params"]
                  if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if cfg.max_grad_norm:
        nn.utils.clip_grads_with_norm_(parameters, cfg.max_grad_norm, norm)
    parts = {"loss": loss, **parts, "gradient": norm}
    return list(parts), torch.stack([part.detach() for part in parts.values()])


def augmentations_of(training, batch, views):
    """Augmentations of this process' share of the step's batch, drawn as if there were one process: `views` of (5, B).
    """
    (rank, size), clips = world(), len(batch.gold)
    generator = torch.Generator().manual_seed(seed_of(training.cfg.seed, training.epoch, training.step))
    return [draw_augmentation(clips * size, generator)[:, rank * clips:(rank + 1) * clips] for _ in range(views)]


def train_epoch(training, objective, clips, after_step=lambda: None):
    """Trains the rest of an epoch from its current step on: {name: mean of that part of the loss}."""
    if training.step > clips.steps:
        folder = run_folder(training.cfg)
        raise UserError(f"{folder / 'last.pt'} is of step {training.step} of an epoch, an epoch has {clips.steps}: "
                        f"delete {folder}/ and train again")
    training.model.train()
    for batch in prefetch(clips.batches(training.epoch, training.step, world()), training.device.type == "cuda"):
        train_step(training, objective, batch)
        after_step()
    training.check()
    return training.means()


def train(training, objective, clips, evaluate, folder, about):
    """The loop: epochs of training and validation, until they or the patience are over.

    objective(model, batch) -> loss, {name: part of it}, with `objective.views` batches if it says so; clips:
    data.Clips; evaluate(model) -> scores.score(); about: what the checkpoints say of the model (describe_model). Writes
    best.pt, last.pt, log.jsonl and curves.png. Raises Stopped when the process is asked to stop, after saving.
    """
    cfg, saved = training.cfg, [time.monotonic()]
    run = RunFiles(folder, about, training, cfg.tensorboard)

    def after_step():
        bar.update()
        due = cfg.save_minutes and time.monotonic() - saved[0] > 60 * cfg.save_minutes
        due = due or cfg.save_steps and training.step % cfg.save_steps == 0
        if (due or stop.signal) and world()[0] == 0:
            run.save_last()
            saved[0] = time.monotonic()
        if stop.signal and world()[0] == 0:  # the other processes end with it: their next exchange fails
            raise stop.stopped(training.epoch + 1, training.step, clips.steps)

    with listening() as stop, progress(training, clips.steps) as bar:
        while training.epoch < cfg.epochs and not 0 < cfg.patience <= training.stale:
            bar.set_description(f"{folder.name} epoch {training.epoch + 1}/{cfg.epochs}")
            began = time.perf_counter()
            parts = train_epoch(training, objective, clips, after_step)
            try:
                with stop.at_once():
                    scores = evaluate(training.kept) if world()[0] == 0 else None
            except Stopped:
                run.save_last()
                raise stop.stopped(training.epoch + 1, training.step, clips.steps) from None
            run.end_epoch(parts, scores, time.perf_counter() - began)
            saved[0] = time.monotonic()
        if stop.signal and world()[0] == 0:  # since the last step
            raise stop.stopped(training.epoch + 1, training.step, clips.steps)
    run.draw(last=True)
    if training.epoch < cfg.epochs:
        print(f"{folder.name}: stopped early, after {training.stale} epochs without a better validation CCC (patience "
              f"{cfg.patience})")


def progress(training, steps):
    """Progress bar over the steps of all epochs, so that it shows when the run ends."""
    done = training.epoch * steps + training.step
    hidden = None if world()[0] == 0 else True  # None: hidden where the output is no terminal
    return tqdm(initial=done, total=training.cfg.epochs * steps, unit=" steps", disable=hidden, leave=False)


class RunFiles:
    """What a run writes while it trains; with several processes, the first one does."""

    def __init__(self, folder, about, training, tensorboard):
        self.folder, self.about, self.training = folder, about, training
        self.drawn = -math.inf
        self.board = None
        if tensorboard and world()[0] == 0:
            from torch.utils.tensorboard import SummaryWriter  # here: an optional package
            self.board = SummaryWriter(folder)

    def save_last(self):
        """Writes last.pt, to resume from at this step."""
        state = to_resume(self.about, self.training.model) | self.training.state()
        save_checkpoint(self.folder / "last.pt", state)

    def end_epoch(self, parts, scores, seconds):
        """Writes best.pt, log.jsonl, last.pt: in this order, so that an epoch whose end was cut short is repeated."""
        training = self.training
        value = float(np.mean([scores[target]["mean"] for target in self.about["targets"]])) if scores else math.nan
        improved = training.end_epoch(from_first(value, training.device))
        if scores is None:
            return
        if improved or training.cfg.keep == "last":
            save_checkpoint(self.folder / "best.pt", to_use(self.about, training.kept, training.epoch, scores))
        val = {target: {key: scores[target][key] for key in SUMMARIES} for target in self.about["targets"]}
        entry = {"epoch": training.epoch, "seconds": round(seconds, 2), **parts, "val": val, "best": improved}
        with named(self.folder / "log.jsonl"), open(regular(self.folder / "log.jsonl"), "a") as log:
            log.write(json.dumps(entry) + "\n")
        self.save_last()
        shown = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
        cccs = ", ".join(f"{target} {value['mean']:.3f} ({value['concatenated']:.3f})" for target, value in val.items())
        tqdm.write(f"{self.folder.name} epoch {training.epoch}/{training.cfg.epochs}  {shown}  validation CCC {cccs}  "
                   f"{seconds:.0f} s" + "  best so far" * improved)
        self._to_board(parts, val)
        self.draw()

    def _to_board(self, parts, val):
        if self.board:
            means = {f"validation CCC/{target}": value["mean"] for target, value in val.items()}
            for name, value in (parts | means).items():
                self.board.add_scalar(name, value, self.training.epoch)
            self.board.flush()

    def draw(self, last=False):
        """Draws curves.png, unless it was drawn a moment ago."""
        if world()[0] == 0 and (last or time.monotonic() - self.drawn > DRAW_EVERY_S):
            from figures import draw_curves  # here: matplotlib takes a second
            draw_curves(self.folder)
            self.drawn = time.monotonic()
