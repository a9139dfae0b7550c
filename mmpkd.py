"""The Visual, Teacher and Student Training Calls: one loop, one predictor.

    python mmpkd.py --stage visual      the visual-only baseline: lower bound
    python mmpkd.py --stage teacher     face and voice: upper bound
    python mmpkd.py --stage student     sees the face only and follows the teacher
    python mmpkd.py --stage audio       the voice only
    python mmpkd.py                     visual, teacher and student, then the comparison

Reads   Annotations/{Train_Set,Val_Set}/*.csv, Cropped_Aligned/, and specs/ for what hears
Writes  runs/<stage>_<target>[_<distill>]/      config.json, log.jsonl (a line per epoch), last.pt, best.pt (the epoch
                                                with the best validation CCC), predictions/{train,val}/<id>.csv
"""
import dataclasses
import io
import json
import math
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from annotations import TARGETS, find_recordings
from config import (
    Config,
    SettingsError,
    UserError,
    field_notes,
    fields_of,
    parse_config,
    read_settings,
    run_script,
    save_settings,
    torch_device,
    whole_file,
    whole_folder,
)
from data import augment, load_recordings, on_device, picture_shapes, stream, training_batches
from losses import DISTILL, ccc, ccc_loss
from models_kd import MODELS, build_model

AGAIN = "delete {}/ and run mmpkd.py with the same settings again"  # of a run whose folder is damaged
CLOCK_S = 0.001  # time_s is rounded to a tenth of this
PARTITIONS = {"train": "Train_Set", "val": "Val_Set"}
MAY_CHANGE = {"data_dir", "runs_dir", "resume", "device"}  # settings that a resumed run need not share with its beginning


# ---- objectives: (model, batch) -> loss, parts of it ----------------------------------------------------------------

def forward(model, batch, **state):
    """Output of a model on a batch: it is fed what its `inputs` name, and nothing else. state: hidden=, to go on from."""
    return model(*[getattr(batch, name) for name in model.inputs], **state)


def task_loss(output, gold):
    """1 - CCC of each target over all frames of a batch: Output, (B, T, K) -> (K,)."""
    return ccc_loss(output.pred.flatten(0, 1), gold.flatten(0, 1))


def task_objective(model, batch):
    """The ratings alone, for visual, audio and teacher."""
    loss = task_loss(forward(model, batch), batch.gold).mean()
    return loss, {"task": loss}


def distill_objective(teacher, distill, gate, weight):
    """The ratings and a frozen teacher, weighed by a gate: the objective of a student."""
    compare, weigh = DISTILL[distill], GATES[gate]

    def objective(model, batch):
        with torch.no_grad():
            taught = forward(teacher, batch)
            teacher_loss = task_loss(taught, batch.gold).mean()
        learned = forward(model, batch)
        task = task_loss(learned, batch.gold).mean()
        hint = compare(learned.feat.flatten(0, 1), taught.feat.flatten(0, 1))
        beta = weigh(teacher_loss, weight)
        return (1 - beta) * task + beta * hint, {"task": task, "hint": hint, "beta": beta, "teacher": teacher_loss}

    return objective


def adaptive_gate(teacher_loss, weight):
    """Weight of the teacher, less the worse it does on the batch: all of `weight` at a CCC of 1, nothing at 0 or below.

    teacher_loss: its 1 - CCC, in [0, 2]. Within [0, weight], and never rising with the teacher's loss.
    """
    return weight * (1 - teacher_loss).clamp(0, 1)


def original_gate(teacher_loss, weight):
    """The original code's weight, for parity: 0.2 + loss where the loss is up to 0.2 or above 1, else 1.

    A middling teacher so switches the ratings off, and a bad one gives them a negative weight. `weight` is not used.
    """
    return torch.where((teacher_loss <= 0.2) | (teacher_loss > 1), 0.2 + teacher_loss, torch.ones_like(teacher_loss))


def no_gate(teacher_loss, weight):
    """Always `weight`."""
    return torch.full_like(teacher_loss, weight)


GATES = {"adaptive": adaptive_gate, "original": original_gate, "off": no_gate}


# ---- the predictor --------------------------------------------------------------------------------------------------

@torch.no_grad()
def predict(model, recordings):
    """{id: (N, K) float32}, predictions for every frame, as if each recording went through in one pass: the GRU's state is
    carried along. The model is in evaluation mode meanwhile."""
    device, was_training, preds = next(model.parameters()).device, model.training, {}
    model.eval()
    for recording in recordings:
        hidden, pieces = None, []
        for batch in stream(recording, model.inputs):
            output = forward(model, on_device(batch, device), hidden=hidden)
            hidden = output.hidden
            pieces.append(output.pred[0].float().cpu())
        preds[recording.name] = torch.cat(pieces).numpy()
    model.train(was_training)
    return preds


def score(tables, targets):
    """CCC of predictions, {id: table as in predictions/*.csv}: {target: {id: ..., "mean": ..., "concatenated": ...}}.

    Frames whose gold is not valid do not count; a recording with none left does not either. A prediction that is NaN does:
    the CCC is NaN then.
    """
    scores = {}
    for target in targets:
        series = {name: table[table[f"{target}_gold"].notna()] for name, table in tables.items()}
        series = {name: table[[f"{target}_pred", f"{target}_gold"]].to_numpy(float) for name, table in series.items() if len(table) > 1}
        each = {name: float(ccc(*values.T)) for name, values in series.items()}
        whole = float(ccc(*np.concatenate([*series.values()]).T)) if series else math.nan
        scores[target] = each | {"mean": float(np.mean([*each.values()])) if each else math.nan, "concatenated": whole}
    return scores


def prediction_table(recording, pred, targets, frame_rate):
    """A recording's predictions beside its gold standard, one row per frame."""
    columns = {"time_s": np.round(np.arange(len(pred)) / frame_rate, 4)}
    for k, target in enumerate(targets):
        columns |= {f"{target}_gold": recording.gold[:, k], f"{target}_pred": pred[:, k]}
    return pd.DataFrame(columns)


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


def load_model(path):
    """(model in evaluation mode, its checkpoint): the network as it was built and trained, whatever config.py says now."""
    state = load_checkpoint(path)
    names = {field.name for field in dataclasses.fields(Config)}
    model = build_model(state["stage"], Config(**{k: v for k, v in state["config"].items() if k in names}), state["shapes"], weights=False)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise UserError(f"{path} is of another version of the networks ({str(error).splitlines()[-1].strip()})") from None
    return model.eval(), state


def load_teacher(path, targets, shapes, device):
    """The teacher of a student, frozen. Raises UserError if it is not one, or not one of these targets and pictures."""
    teacher, state = load_model(path)
    found = {"stage": state["stage"], "targets": state["targets"], "shapes": {k: tuple(v) for k, v in state["shapes"].items()}}
    wanted = {"stage": "teacher", "targets": targets, "shapes": shapes}
    for name, value in wanted.items():
        if found[name] != value:
            raise UserError(f"{path} has {name} {found[name]}, the student needs a teacher with {value}: train it first "
                            "(--stage teacher) or name another (--teacher-checkpoint)")
    return teacher.to(device).requires_grad_(False)


class Training:
    """All that changes while a run trains, and so all that last.pt holds."""

    def __init__(self, model, cfg):
        self.model = model
        self.optimizer = make_optimizer(model, cfg)
        self.scheduler = make_scheduler(self.optimizer, cfg)
        self.generator = torch.Generator().manual_seed(cfg.seed)  # of clips and augmentation
        self.epoch, self.best, self.stale = 0, -math.inf, 0

    def end_epoch(self, value):
        """Counts an epoch whose validation CCC is `value`: True if it is the best so far."""
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(value)
        elif self.scheduler:
            self.scheduler.step()
        improved = value > self.best
        self.epoch, self.best, self.stale = self.epoch + 1, value if improved else self.best, 0 if improved else self.stale + 1
        return improved

    def state(self):
        """Tensors and plain Python."""
        return {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict() if self.scheduler else None,
                "generator": self.generator.get_state(), "torch": torch.get_rng_state(), "epoch": self.epoch, "best": self.best,
                "stale": self.stale}

    def load(self, state):
        """Goes on from what state() gave, model included."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        self.epoch, self.best, self.stale = state["epoch"], state["best"], state["stale"]


def make_optimizer(model, cfg):
    """SGD or Adam over three groups: the visual backbone, the audio backbone, and all the rest."""
    scales = {"visual.": cfg.visual_lr_scale, "audio.": cfg.audio_lr_scale, "": 1.0}
    groups = defaultdict(list)
    for name, parameter in model.named_parameters():
        groups[next(prefix for prefix in scales if name.startswith(prefix))].append(parameter)
    groups = [{"params": groups[prefix], "lr": cfg.learning_rate * scales[prefix]} for prefix in scales if prefix in groups]
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=cfg.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=cfg.weight_decay)


def make_scheduler(optimizer, cfg):
    """What changes the learning rate after each epoch, or None."""
    if cfg.scheduler == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cfg.epochs)
    if cfg.scheduler == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=2)
    return None


# ---- training -------------------------------------------------------------------------------------------------------

def train_epoch(training, objective, batches, device, cfg):
    """One pass over the training clips: mean of every part of the loss. Raises UserError when the loss is not finite."""
    training.model.train()
    totals, steps = defaultdict(float), 0
    for batch in batches:
        batch = on_device(batch, device)
        if cfg.augment and batch.frames is not None:
            batch = batch._replace(frames=augment(batch.frames, training.generator))
        loss, parts = objective(training.model, batch)
        parts = {"loss": loss, **parts}
        training.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(training.model.parameters(), cfg.max_grad_norm or math.inf)
        if not torch.isfinite(loss + norm):  # before the step: its weights would be saved as last.pt
            named = ", ".join(f"{name} {float(part.detach()):g}" for name, part in {**parts, "gradient": norm}.items())
            raise UserError(f"the loss or its gradient is not finite ({named}) in epoch {training.epoch + 1}: delete the run's folder "
                            "and train with a lower --learning-rate; the checkpoints of the epochs before are whole")
        training.optimizer.step()
        steps += 1
        for name, part in parts.items():
            totals[name] += float(part.detach())
    return {name: total / steps for name, total in totals.items()}


def train(training, objective, sets, folder, cfg, device):
    """The loop: epochs of training and validation, until they are over or patience is; keeps best.pt and last.pt.

    sets: {"train": recordings, "val": recordings}.
    """
    about = {"stage": cfg.stage, "config": settings_of(cfg), "targets": cfg.targets,
             "shapes": {name: shape for name, shape in picture_shapes(sets["train"]).items() if name in training.model.inputs}}
    clips = sum(math.ceil(len(recording) / cfg.clip_length) for recording in sets["train"])
    while training.epoch < cfg.epochs and not 0 < cfg.patience <= training.stale:
        began = time.perf_counter()
        batches = training_batches(sets["train"], cfg.batch_size, cfg.clip_length, trained_on(cfg.stage), training.generator)
        title = f"{folder.name} epoch {training.epoch + 1}/{cfg.epochs}"
        parts = train_epoch(training, objective, tqdm(batches, title, math.ceil(clips / cfg.batch_size), leave=False, disable=None), device, cfg)
        scores = score(predictions(training.model, sets["val"], cfg), cfg.targets)
        improved = training.end_epoch(float(np.mean([scores[target]["mean"] for target in cfg.targets])))
        state = about | {"model": training.model.state_dict(), "epoch": training.epoch, "val": scores}
        if improved:
            save_checkpoint(folder / "best.pt", state)
        note_epoch(folder, title, {"epoch": training.epoch, "seconds": round(time.perf_counter() - began, 2), **parts,
                                   "val": {target: {key: scores[target][key] for key in ("mean", "concatenated")} for target in cfg.targets},
                                   "best": improved})
        save_checkpoint(folder / "last.pt", state | training.state())
    if training.epoch < cfg.epochs:
        print(f"{folder.name}: stopped early, after {training.stale} epochs without a better validation CCC (patience {cfg.patience})")


def trained_on(stage):
    """The pictures that training a stage takes: a student sees only, its teacher hears too."""
    return MODELS["teacher" if stage == "student" else stage].inputs


def predictions(model, recordings, cfg):
    """{id: prediction_table} of all recordings."""
    preds = predict(model, recordings)
    return {recording.name: prediction_table(recording, preds[recording.name], cfg.targets, cfg.frame_rate) for recording in recordings}


def note_epoch(folder, title, entry):
    """One printed line and one JSON line."""
    with open(folder / "log.jsonl", "a") as log:
        log.write(json.dumps(entry) + "\n")
    parts = " ".join(f"{name} {value:.3f}" for name, value in entry.items() if isinstance(value, float) and name != "seconds")
    ccc_ = ", ".join(f"{target} {value['mean']:.3f} ({value['concatenated']:.3f})" for target, value in entry["val"].items())
    tqdm.write(f"{title}  {parts}  validation CCC {ccc_}  {entry['seconds']:.0f} s{'  best so far' * entry['best']}")


# ---- runs -----------------------------------------------------------------------------------------------------------

def run_folder(cfg):
    """runs/<stage>_<target>[_<distill>]"""
    return cfg.run_root / "_".join([cfg.stage, cfg.target] + [cfg.distill] * (cfg.stage == "student"))


def settings_of(cfg):
    """The settings that a run of this stage depends on."""
    notes, inputs = field_notes(), MODELS[cfg.stage].inputs
    foreign = [word for word, read in (("audio_", "specs" in inputs), ("visual_", "frames" in inputs),
                                       ("modality_", cfg.stage == "teacher")) if not read]
    return {name: getattr(cfg, name) for name in fields_of("mmpkd.py")
            if name not in MAY_CHANGE and not name.startswith(tuple(foreign))
            and (cfg.stage == "student" or notes[name].section != "distillation")}


def state_of_run(folder, cfg):
    """"new", "stopped" or "finished". Raises UserError if the folder holds a run of other settings, or if a stopped one
    is there and --resume was not given."""
    if not (folder / "last.pt").exists():
        return "new"
    check_same(folder, read_settings(folder / "config.json"), settings_of(cfg))
    if (folder / "predictions").exists():
        return "finished"
    if not cfg.resume:
        raise UserError(f"{folder}/ holds a run that was stopped: go on with --resume, or delete the folder")
    return "stopped"


def check_same(folder, before, now):
    """Raises UserError, with the name, if two sets of settings (or pictures) of a run differ where both have them."""
    for name, value in now.items():
        if before.get(name, value) != value:
            raise UserError(f"{folder}/ holds a run with {name} {before[name]}, now it is {value}: delete the folder, or name "
                            "another place with --runs-dir")


def resume(training, folder, shapes, cfg):
    """Goes on from last.pt. Raises UserError if it is damaged, or of other settings or pictures than these."""
    state = load_checkpoint(folder / "last.pt")
    check_same(folder, state["config"] | state["shapes"], settings_of(cfg) | shapes)
    try:
        training.load(state)
    except (KeyError, RuntimeError, ValueError):
        raise UserError(f"{folder / 'last.pt'} is no checkpoint to go on from, or of another version of the networks: delete {folder}/ "
                        "and train again") from None


def run(cfg):
    """One training call: trains cfg.stage, keeps the best epoch's predictions, returns its scores on Val_Set."""
    folder = run_folder(cfg)
    state = state_of_run(folder, cfg)
    if state == "finished":
        print(f"{folder}: finished before, nothing to do")
        return score(read_predictions(folder, "val", cfg.frame_rate), cfg.targets)
    device = torch_device(cfg.device)
    sets = {name: load_recordings(cfg, partition, trained_on(cfg.stage)) for name, partition in PARTITIONS.items()}
    check_sets(sets, cfg)
    shapes = picture_shapes(sets["train"] + sets["val"])
    objective = task_objective
    if cfg.stage == "student":
        teacher = load_teacher(teacher_path(cfg), cfg.targets, shapes, device)
        objective = distill_objective(teacher, cfg.distill, cfg.gate, cfg.distill_weight)

    torch.manual_seed(cfg.seed)
    training = Training(build_model(cfg.stage, cfg, shapes).to(device), cfg)
    if state == "stopped":
        resume(training, folder, shapes, cfg)
    begin_log(folder, training.epoch)
    save_settings(cfg, folder / "config.json")
    print(f"{folder}: {cfg.stage} for {cfg.target} on {device}, {sum(map(len, sets['train']))} frames of {len(sets['train'])} "
          f"recordings, {sum(p.numel() for p in training.model.parameters()):,} weights"
          + (f", from epoch {training.epoch + 1}" if training.epoch else ""))
    train(training, objective, sets, folder, cfg, device)
    return finish(folder, sets, cfg, device)


def check_before(runs):
    """Raises what the first minute can tell, before hours of work: settings of runs that are there, files that are not."""
    for cfg in runs:
        if state_of_run(run_folder(cfg), cfg) == "finished":
            continue
        if cfg.stage == "student" and (cfg.teacher_checkpoint or len(runs) == 1):
            teacher_path(cfg)
        for name in ("visual_weights", "audio_weights"):
            file = getattr(cfg, name)
            if file not in ("", "imagenet") and name in settings_of(cfg) and not Path(file).is_file():
                raise SettingsError(f"{name}: {file} is not there: a file of weights was expected")


def check_sets(sets, cfg):
    """Raises UserError for what no training could come of."""
    both = {recording.name for recording in sets["train"]} & {recording.name for recording in sets["val"]}
    if both:
        raise UserError(f"{sorted(both)[0]} is in Train_Set and in Val_Set: the partitions must not share people")
    for name, recordings in sets.items():
        for k, target in enumerate(cfg.targets):
            unrated = [recording.name for recording in recordings if np.isfinite(recording.gold[:, k]).sum() < 2]
            if len(unrated) == len(recordings):
                raise UserError(f"{PARTITIONS[name]} has no valid rating of {target}: numbers within [-1, 1] were expected")
            if unrated:
                print(f"{PARTITIONS[name]}: {', '.join(unrated)} without a valid rating of {target}: nothing is learned or scored there")
    for recording in sets["train"]:
        if len(recording) < cfg.clip_length:
            raise UserError(f"{recording.name} has {len(recording)} frames, less than clip_length {cfg.clip_length}")


def begin_log(folder, epoch):
    """Makes the run's folder, and its log end with `epoch`: lines after it were of an epoch that was not kept."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)[:epoch] if log.exists() else []
    with whole_file(log) as part:
        part.write_text("".join(lines))


def finish(folder, sets, cfg, device):
    """Writes the best epoch's predictions for both partitions: their appearance marks the run as finished."""
    model, state = load_model(folder / "best.pt")
    model.to(device)
    tables = {name: predictions(model, recordings, cfg) for name, recordings in sets.items()}
    with whole_folder(folder / "predictions") as part:
        for name in tables:
            (part / name).mkdir()
            for recording, table in tables[name].items():
                table.to_csv(part / name / f"{recording}.csv", index=False, float_format="%.6g", na_rep="nan", lineterminator="\n")
    scores = score(tables["val"], cfg.targets)
    print(f"{folder}: finished; epoch {state['epoch']} had the best validation CCC and is kept: "
          + ", ".join(f"{target} {scores[target]['mean']:.3f}" for target in cfg.targets))
    return scores


def read_predictions(folder, partition, frame_rate):
    """{id: table} of a finished run, in natural order. Raises UserError naming what is missing or damaged."""
    again = AGAIN.format(folder)
    paths = find_recordings([Path(folder, "predictions", partition)], (), again)
    return {name: read_table(path, frame_rate, again) for name, path in paths.items()}


def read_table(path, frame_rate, again):
    """The predictions of one recording. Raises UserError if they are not whole: `again` says what to do."""
    try:
        table = pd.read_csv(path, dtype=float)
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} cannot be read ({str(error).strip().splitlines()[-1]}): {again}") from None
    targets = targets_of(table)
    if not targets or not len(table) or "time_s" not in table or not {f"{target}_gold" for target in targets} <= set(table):
        raise UserError(f"{path} has no rows of time_s,{TARGETS[0]}_gold,{TARGETS[0]}_pred: {again}")
    preds = table[[f"{target}_pred" for target in targets]].to_numpy()
    for k in np.flatnonzero(~np.isfinite(preds).all(1)):
        raise UserError(f"{path} line {k + 2}: a prediction is missing or not finite: {again}")
    times = np.arange(len(table)) / frame_rate
    for k in np.flatnonzero(~(np.abs(table["time_s"] - times) < CLOCK_S)):
        raise UserError(f"{path} line {k + 2}: time_s is {table['time_s'][k]:g}, not {times[k]:g} as with frame_rate {frame_rate:g}: "
                        f"give the --frame-rate of the run, or if lines are lost, {again}")
    return table


def targets_of(table):
    """The targets that a table has predictions of."""
    return [target for target in TARGETS if f"{target}_pred" in table]


def teacher_path(cfg):
    """Checkpoint of the student's teacher. Raises SettingsError if there is none."""
    path = Path(cfg.teacher_checkpoint or run_folder(dataclasses.replace(cfg, stage="teacher")) / "best.pt")
    if not path.exists():
        raise SettingsError(f"stage student needs a teacher, and {path} is missing: run --stage teacher first, or name one "
                            "with --teacher-checkpoint")
    return path


# ---- the comparison -------------------------------------------------------------------------------------------------

ROLES = {"visual": "visual (lower bound)", "teacher": "teacher (upper bound)", "student": "student"}


def comparison(scores, targets):
    """The closing table: {stage: scores of run()} -> text. CCC per target as mean over recordings and concatenated, and
    the share of the gap between visual and teacher that the student closed."""
    lines = [f"{'CCC on Val_Set':24}" + "".join(f"{target + ' mean':>16}{'concatenated':>14}" for target in targets)]
    for stage, role in ROLES.items():
        values = [scores[stage][target] for target in targets]
        lines.append(f"{role:24}" + "".join(f"{value['mean']:16.3f}{value['concatenated']:14.3f}" for value in values))
    closed = [gap_closed(*[scores[stage][target][key] for stage in ROLES]) for target in targets for key in ("mean", "concatenated")]
    lines.append(f"{'gap closed by student':24}" + "".join(f"{text:>{width}}" for text, width in zip(closed, [16, 14] * len(targets))))
    lines.append("mean: over recordings. Each run kept the epoch that was best on Val_Set: read the values as slightly too high.")
    return "\n".join(lines)


def gap_closed(visual, teacher, student):
    """Share of the way from visual to teacher that the student has come, as text."""
    return f"{(student - visual) / (teacher - visual):.0%}" if teacher > visual else "no gap"


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    stages = list(ROLES) if cfg.stage == "all" else [cfg.stage]
    runs = [dataclasses.replace(cfg, stage=stage) for stage in stages]
    check_before(runs)
    scores = {one.stage: run(one) for one in runs}
    if cfg.stage == "all":
        print(comparison(scores, cfg.targets))
    return scores


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
