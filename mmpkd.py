"""The Visual, Teacher and Student Training Calls: objectives, predictor, scores, runs. The loop is in training.py.

    python mmpkd.py --stage visual      the visual-only baseline: lower bound
    python mmpkd.py --stage teacher     face and voice: upper bound
    python mmpkd.py --stage student     sees the face only, and is taught by networks that are there
    python mmpkd.py --stage audio       the voice only
    python mmpkd.py                     visual, teacher, what teaches the student, student; then the comparison
    python mmpkd.py --list              the runs that are there
    torchrun --nproc_per_node=2 mmpkd.py ...    on two devices

Reads   Annotations/{Train_Set,Val_Set,Unlabelled_Set}/*.csv, Cropped_Aligned/, and specs/ for what hears
Writes  runs/<stage>_<target>[_<distill>][_fold<i>of<n>][_<variant>]/   config.json, people.json (whom it learns from), log.jsonl (a line per
                                                            epoch), curves.png, last.pt (to go on from), best.pt (the network that
                                                            is kept), and at the end predictions/{train,val}/<id>.csv, held_out/
                                                            of a fold
"""
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from scipy.stats import sem
from torch import nn
from tqdm import tqdm

from config import Config
from data import Clips, check_sets, digest, draw_changes, kept_array, load_recordings, made_of, picture_shapes, seed_of
from losses import DISTILL, TINY, ccc_loss, parse_distill
from models_kd import HINT, MODELS, Output, build_model, forward
from runs import check_people, check_same, held, list_runs, people_of, run_folder, settings_of, state_of_run, state_of_run_changed
from scores import ROLES, comparison, outputs, predict, prediction_table, predictions, read_predictions, score, which_epoch, write_table
from support.devices import first_goes_first, from_first, joined, wait_for_others, whole_batch, world
from support.errors import SettingsError, UserError, run_script
from support.files import whole_file, whole_folder
from support.recordings import PARTITIONS, UNLABELLED, find_recordings
from support.settings import parse_config, part_of, save_settings
from training import Training, choose_precision, load_checkpoint, train

SURE = 3  # standard errors above 0 at which the gate confirmed takes an agreement for one: of many recordings chance goes as far once in 740 times
STILL = 1e-5  # what teachers say of everybody spreads by no more than rounding: there is nothing to stretch
WHOLLY = 0.5  # ... and the correlation from which on it trusts teachers that hear alone wholly
OTHERS = 10  # ... and the people whose witnesses are put in the place of one's own
# Setting `teachers` -> the stages that they are of
TEACHERS = {"joint": ["teacher"], "audio": ["audio"], "visual": ["visual"], "audio+visual": ["audio", "visual"],
            "joint+visual+audio": ["teacher", "visual", "audio"]}


# ---- objectives: (model, batch) -> loss, parts of it ----------------------------------------------------------------

def task_loss(output, gold):
    """1 - CCC of each target over all frames of a batch: Output, (B, T, K) -> (K,)."""
    return ccc_loss(output.pred.flatten(0, 1), gold.flatten(0, 1))


def of_whole_batch(output):
    """An Output for the clips of all devices that share the batch."""
    return output._replace(pred=whole_batch(output.pred), feat=whole_batch(output.feat))


def task_objective(model, batch):
    """The ratings alone, for visual, audio and teacher."""
    loss = task_loss(of_whole_batch(forward(model, batch)), whole_batch(batch.gold)).mean()
    return loss, {"task": loss}


class Distillation:
    """The ratings and a frozen teacher, weighed by a gate: the objective of a student.

    Each target has its own weight of the teacher: what it knows of arousal says nothing of how well it knows valence.

    Several teachers, kept outputs alone, teach by their mean if they are `mixed`. Else the one with the lowest loss on the batch
    teaches it; the first, the joint one, where none is better or nobody is rated (MT-PKDOT, Aslam et al., 2024). Adapters learn
    meanwhile to take the others' features to where the joint teacher has them.
    """

    def __init__(self, teacher, methods, gate, weight, usual=None, mixed=None, name="", teachers=1, sure=None):
        """methods: {name in losses.DISTILL: weight in their sum}; gate: of GATES, or (K,) the share of `weight` in all batches; weight: most
        that the teacher can have against the ratings; usual: (K,) the teacher's 1 - CCC over all rated recordings, for batches in which
        nobody is rated; mixed: mixture()'s, or none; name: tells the teacher from others; teachers: how many are kept side by side; sure:
        agreement()'s, or none."""
        self.name = name
        self.steady = None if isinstance(gate, str) else gate
        self.teacher, self.methods, self.gate, self.weight = teacher, methods, GATES.get(gate) if self.steady is None else None, weight
        self.usual, self.mixed, self.sure = usual, mixed, sure
        self.adapters = nn.ModuleDict({name: nn.Linear(HINT, HINT) for name in methods if DISTILL[name].mapped})
        self.adapters.update({f"teacher_{number}": nn.Linear(HINT, HINT) for number in range(1, 1 if mixed else teachers)})
        self.teachers = teachers
        self.adapters.to(next(teacher.parameters()).device)

    def __call__(self, model, batch):
        gold = whole_batch(batch.gold)
        said = [of_whole_batch(output) for output in self.teach(batch)]
        apart = self.align(said)
        with torch.no_grad():
            taught = self.best(said, gold)
            rated = (~gold.isnan()).flatten(0, 1).sum(0) > 1  # (K,)
            teacher_loss = task_loss(taught, gold)
            if self.usual is not None:
                teacher_loss = torch.where(rated, teacher_loss, self.usual)
            beta = self.gate(teacher_loss, self.weight) if self.steady is None else self.weight * self.steady
        learned = of_whole_batch(forward(model, batch))
        tasks = task_loss(learned, gold)
        sure = self.sure and whole_batch(torch.stack([self.sure[name][at:at + batch.gold.shape[1]] for name, at in batch.clips]))
        hints = {name: self.compare(name, learned, taught, gold, sure) for name in self.methods}
        hint = sum(weight * hints[name] for name, weight in self.methods.items())
        loss = ((1 - beta) * tasks + beta * hint).mean() + apart
        parts = {"task": tasks.sum() / rated.sum().clamp_min(1), "hint": hint.mean(), "beta": beta.mean(), "teacher": teacher_loss.mean()}
        return loss, parts | ({name: value.mean() for name, value in hints.items()} if len(hints) > 1 else {})

    @property
    def silent(self):
        """Whether the gate is shut from beginning to end. The student is trained as the visual baseline then, on the rated people alone."""
        return self.steady is not None and not (self.weight * self.steady).any()

    @torch.no_grad()
    def teach(self, batch):
        """The Output of each teacher on a batch, of one if they are mixed: what was kept of it, else what it makes of the clips."""
        targets = batch.gold.shape[2]
        kept = batch.taught.chunk(self.teachers, 2) if batch.taught is not None else []
        said = [Output(part[..., :targets], part[..., targets:targets + HINT], None) for part in kept] or [forward(self.teacher, batch)]
        if self.mixed is None:
            return said
        *counts, added = torch.stack([self.mixed[name] for name, _ in batch.clips]).to(batch.gold.device)[:, :, None].unbind(1)  # (B, 1, K) each
        return [said[0]._replace(pred=sum(count * output.pred for count, output in zip(counts, said)) + added)]

    def align(self, said):
        """Mean of 1 - cos between the features of the joint teacher and the adapted ones of each other, which it puts in their place: scalar."""
        apart = said[0].pred.new_zeros(())
        for number in range(1, len(said)):
            feat = self.adapters[f"teacher_{number}"](said[number].feat)
            apart = apart + DISTILL["cosine"].compare(feat.flatten(0, 1), said[0].feat.flatten(0, 1)) / (len(said) - 1)
            said[number] = said[number]._replace(feat=feat.detach())
        return apart

    def best(self, said, gold):
        """The Output with the lowest mean task loss on the batch; the first, unless another's is lower."""
        if len(said) == 1:
            return said[0]
        number = torch.stack([task_loss(output, gold).mean() for output in said]).argmin()  # the first of equals
        return Output(torch.stack([output.pred for output in said])[number], torch.stack([output.feat for output in said])[number], None)

    def compare(self, name, learned, taught, gold, sure=None):
        """A method's loss between two Outputs, over all frames of the batch: of each target where it compares predictions, (K,), in which frames
        can count by `sure`, (B, T, K)."""
        method = DISTILL[name]
        if method.of == "feat":
            student, teacher = learned.feat.flatten(0, 1), taught.feat.flatten(0, 1)
            return method.compare(self.adapters[name](student) if method.mapped else student, teacher)
        labels = torch.where(gold.isnan(), taught.pred, gold) if method.of == "label" else taught.pred
        weights = [] if sure is None else [sure.to(labels.device)]
        series = zip(*(part.flatten(0, 1).split(1, 1) for part in [learned.pred, labels, *weights]))
        return torch.stack([method.compare(*each) for each in series])


def adaptive_gate(teacher_loss, weight):
    """Weight of the teacher, less the worse it does on the batch: all of `weight` at a CCC of 1, nothing at 0 or below.

    teacher_loss: its 1 - CCC of each target, (K,), in [0, 2]. Within [0, weight], and never rising with the teacher's loss.
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


GATES = {"adaptive": adaptive_gate, "original": original_gate, "off": no_gate}  # and "confirmed", which is no matter of batches: confirmed()


# ---- the predictor --------------------------------------------------------------------------------------------------


# ---- models that are there --------------------------------------------------------------------------------------------

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


def load_teacher(path, targets, shapes, device, stages=("teacher", "audio")):
    """The teacher of a student, frozen. Raises UserError if it is not of one of the stages, or not of these targets and pictures."""
    teacher, state = load_model(path)
    found = {"stage": state["stage"], "targets": state["targets"], "shapes": {k: tuple(v) for k, v in state["shapes"].items()}}
    stage = state["stage"] if state["stage"] in stages else stages[0]
    wanted = {"stage": stage, "targets": targets, "shapes": {name: shapes[name] for name in MODELS[stage].inputs}}
    for name, value in wanted.items():
        if found[name] != value:
            raise UserError(f"{path} has {name} {found[name]}, the student needs a teacher with {value}: train it first "
                            "(--stage teacher) or name another (--teacher-checkpoint)")
    return teacher.to(device).requires_grad_(False)


def keep_outputs(teachers_of, recordings, name, cfg, device):
    """Gives every recording what its teachers say of its frames, "taught" (V, N, D): computed once, kept in cache/.

    teachers_of(id): the networks that teach on a recording, [[those whose mean is one teacher] of each teacher], side by side in
    the last dimension as mean_output() has them; name: tells them from others. V = cfg.teacher_cache views: the pictures as they are,
    and others augmented, each by one draw for the whole recording. A teacher goes through each recording from its beginning, as in
    `predict`: it knows more of a clip's first frames than one that is shown the clip alone.
    """
    with tqdm(total=sum(map(len, recordings)) * cfg.teacher_cache, unit=" frames", disable=None if world()[0] == 0 else True, leave=False) as bar:
        for number, recording in enumerate(recordings):
            bar.set_description(f"teacher on {recording.name}")
            generators = [torch.Generator().manual_seed(seed_of(cfg.seed, number, view)) for view in range(1, cfg.teacher_cache)]
            views = [None, *(draw_changes(1, generator) for generator in generators)]
            teachers = teachers_of(recording.name)
            pictures = [made_of(recording.arrays[kind]) for kind in sorted({kind for group in teachers for kind in group[0].inputs})]
            key = digest(repr([cfg.teacher_cache, *[cfg.seed, number] * (cfg.teacher_cache > 1), *pictures, cfg.teacher_folds]))
            pieces = partial(spoken, teachers, recording, views, device, cfg.teacher_folds, bar.update)
            recording.arrays["taught"] = kept_array(cfg.cache_dir / f"teacher.{name}" / f"{recording.name}.{key}.npy",
                                                    (len(views), len(recording)), pieces)


def spoken(teachers, recording, views, device, folds, report):
    """Yields what teachers say of a recording, piece by piece, view by view: (n, D) float32."""
    for changes in views:
        for said in zip(*(mean_output(group, recording, device, changes, folds) for group in teachers)):
            yield torch.cat(said, 1).cpu().numpy()
            report(len(said[0]))


def mean_output(models, recording, device, changes, folds):
    """Yields what several networks say together: predictions, hints, and then the predictions of each of `folds` (of one that speaks alone, as
    often), (n, K + HINT + folds K)."""
    for said in zip(*(outputs(model, recording, device, changes) for model in models)):
        each = [said[k % len(said)].pred[0] for k in range(folds)]
        yield torch.cat([*(torch.stack(parts).mean(0)[0] for parts in ([one.pred for one in said], [one.feat for one in said])), *each], 1)


def said_by(recording, teachers, targets):
    """What was kept of each of G teachers' predictions: (G, N, K)."""
    return np.stack([part[:, :targets] for part in np.split(recording.arrays["taught"][0], teachers, 1)]).astype(float)


def mixture(recordings, teachers, calibrate, device, asked=None):
    """{id: (G + 1, K)}: what each of G teachers counts in what they say together, and what is added to it. Not calibrated: their mean.

    asked: (G, K), who of them is asked about which target, at least one about each; none: all.

    calibrate: each target has the weights with which the teachers tell the ratings best (stacking: non-negative least squares, Breiman, 1996),
    on people they were not trained on if they are cross-fitted. What they say together gets the mean of the ratings in every
    recording, and their spread over all recordings that nobody rated (over all, if there is none): what a network says of a stranger
    is offset by who it is, a deep voice, a stern face, and a student that learned it would learn faces, not feelings. And it
    hedges: its predictions spread less than the ratings, which CCC punishes.
    """
    gold = np.concatenate([recording.gold for recording in recordings])
    targets = gold.shape[1]
    said = {recording.name: said_by(recording, teachers, targets) for recording in recordings}
    counts, mean = np.ones((teachers, targets), bool) if asked is None else asked, 0
    moves = {name: preds - preds.mean(1, keepdims=True) for name, preds in said.items()}
    if calibrate and teachers > 1:
        counts = stacked(moves, recordings, counts)
    counts = counts / counts.sum(0)
    if calibrate:
        strangers = np.concatenate([moves[name] for name in unrated_of(recordings)], 1)  # (G, all frames, K)
        mean, spread = np.nanmean(gold, 0), (counts[:, None] * strangers).sum(0).std(0)
        counts = counts * np.where(spread > STILL, np.nanstd(gold, 0) / np.maximum(spread, STILL), 0)
    added = {name: mean - (counts * preds.mean(1)).sum(0) if calibrate else np.zeros(targets) for name, preds in said.items()}
    return {name: torch.tensor(np.concatenate([counts, added[name][None]]), dtype=torch.float32, device=device) for name in said}


def unrated_of(recordings):
    """Ids of the recordings that nobody rated; of all, if there is none."""
    return [recording.name for recording in recordings if np.isnan(recording.gold).all()] or [recording.name for recording in recordings]


def agreement(recordings, mixed, folds, device):
    """{id: (N, K)}: how far the teachers of all folds agree on every frame, 1 / (1 + d^2 / mean d^2), with d the standard deviation between what
    those of each fold say together, as mixture() has them counted, moved to one mean in the recording (cf. Lakshminarayanan et al., 2017).

    1 for the rated people, on whom those of one fold speak alone.
    """
    doubts = {}
    for recording in recordings:
        counts = mixed[recording.name][:-1].cpu().numpy()  # (G, K)
        said = np.stack([part[:, -folds * counts.shape[1]:] for part in np.split(recording.arrays["taught"][0], len(counts), 1)])
        said = said.reshape(*said.shape[:2], folds, -1).astype(float)  # (G, N, folds, K)
        said = (counts[:, None, None] * (said - said.mean(1, keepdims=True))).sum(0)
        doubts[recording.name] = said.var(1)
    typical = np.concatenate([doubts[name] for name in unrated_of(recordings)]).mean(0)
    return {name: torch.tensor(1 / (1 + doubt / np.maximum(typical, TINY)), dtype=torch.float32, device=device) for name, doubt in doubts.items()}


def stacked(moves, recordings, asked):
    """(G, K) weights, none negative, with which the moves of G teachers about their mean, {id: (G, N, K)}, come nearest to those of the
    ratings in each recording; equal ones where none tells anything. 0 for those who are not asked, (G, K)."""
    weights = np.zeros(asked.shape)
    for k, them in enumerate(asked.T):
        ratings, preds = [], []
        for recording in recordings:
            valid = np.isfinite(recording.gold[:, k])
            if valid.sum() > 1:
                ratings.append(recording.gold[valid, k] - recording.gold[valid, k].mean())
                said = moves[recording.name][them][:, valid, k]
                preds.append((said - said.mean(1, keepdims=True)).T)
        best = nnls(np.concatenate(preds), np.concatenate(ratings))[0] if ratings else np.zeros(1)
        weights[them, k] = best if best.any() else 1
    return weights


def trained_on(stage, teachers=("teacher",)):
    """The pictures that training a stage takes: a student sees only, but its teachers, of these stages, may hear."""
    stages = ["student", *teachers] if stage == "student" else [stage]
    return tuple(kind for kind in MODELS["teacher"].inputs if any(kind in MODELS[stage].inputs for stage in stages))


# ---- runs -----------------------------------------------------------------------------------------------------------


def resume(training, folder, shapes, teacher, cfg):
    """Goes on from last.pt. Raises UserError if it is damaged, or of other settings, pictures or another teacher than these."""
    state = load_checkpoint(folder / "last.pt")
    check_same(folder, state["config"] | state["shapes"], settings_of(cfg) | shapes)
    if state.get("taught_by") != teacher:
        (first, *others), *more = teacher_paths(cfg)
        also = " or another of its teachers, or the visual baseline," * bool(others or more)
        raise UserError(f"{folder}/ holds a student of other teachers: {first}{also} has changed since; delete the folder")
    try:
        training.load(state)
    except (KeyError, RuntimeError, ValueError):
        raise UserError(f"{folder / 'last.pt'} is no checkpoint to go on from, or of another version of the networks: delete {folder}/ "
                        "and train again") from None


def run(cfg, device):
    """One training call: trains cfg.stage, keeps the best epoch's predictions, returns its scores on Val_Set."""
    folder, state = run_folder(cfg), state_of_run(run_folder(cfg), cfg)
    wait_for_others()
    if state == "finished":
        print(f"{folder}: finished before, nothing to do")
        return score(read_predictions(folder, "val", cfg.frame_rate), cfg.targets)
    with first_goes_first():
        sets = load_sets(cfg)
    check_sets(sets, cfg)
    shapes = picture_shapes([recording for recordings in sets.values() for recording in recordings])
    unlabelled = sets.pop("unlabelled", [])
    objective = student_objective(sets["train"] + unlabelled, shapes, cfg, device) if cfg.stage == "student" else task_objective
    clips = Clips(sets["train"], cfg.batch_size, cfg.clip_length, read_in_training(cfg), cfg.seed, cfg.epoch_steps,
                  [] if getattr(objective, "silent", False) else unlabelled, cfg.unlabelled_clips, round(cfg.unlabelled_first * cfg.epochs))
    chosen_on = sets.get("held_out", sets["val"])
    with held(folder):
        if state_of_run_changed(folder, state):
            raise UserError(f"{folder}/ has just been trained by another process: run the same again")
        training = begin(folder, state, objective, shapes, clips, cfg, device)
        whose = about(cfg, shapes) | ({"taught_by": objective.name} if cfg.stage == "student" else {})
        train(training, objective, clips, lambda model: score(predictions(model, chosen_on, cfg), cfg.targets), folder, whose)
        scores = finish(folder, sets, cfg, device) if world()[0] == 0 else None
    wait_for_others()
    return scores


def load_sets(cfg):
    """The recordings that a run works on: {"train", "val"}, "held_out" of its fold, and the "unlabelled" that a student learns from."""
    inputs = {"train": trained_on(cfg.stage, stages_of_teachers(cfg)), "val": MODELS[cfg.stage].inputs}
    sets = {name: load_recordings(cfg, partition, inputs[name]) for name, partition in PARTITIONS.items()}
    if cfg.fold:
        i, n = part_of(cfg.fold)
        out = {name for name, fold in held_out_people(cfg, n).items() if fold == i - 1}
        sets["held_out"] = [recording for recording in sets["train"] if recording.name in out]
        sets["train"] = [recording for recording in sets["train"] if recording.name not in out]
        if not sets["held_out"] or not sets["train"]:
            raise UserError(f"fold {cfg.fold} of the recordings of Train_Set leaves nobody to hold out or to train on: there are "
                            f"{len(sets['train']) + len(sets['held_out'])} (--fold, or of a student's teachers --teacher-folds)")
    if cfg.stage == "student" and cfg.unlabelled:
        others = load_recordings(cfg, UNLABELLED, inputs["train"])
        sets["unlabelled"] = others[:round(cfg.unlabelled * len(others))]
    return sets


def about(cfg, shapes):
    """What a checkpoint says of its model, so that it can be built again."""
    return {"stage": cfg.stage, "config": settings_of(cfg), "targets": cfg.targets,
            "shapes": {name: shape for name, shape in shapes.items() if name in MODELS[cfg.stage].inputs}}


def begin(folder, state, objective, shapes, clips, cfg, device):
    """The Training of a run that is "new" or "stopped", and its folder made ready for it."""
    torch.manual_seed(cfg.seed)
    training = Training(build_model(cfg.stage, cfg, shapes).to(device), cfg, getattr(objective, "adapters", None))
    if state == "stopped":
        resume(training, folder, shapes, getattr(objective, "name", None), cfg)
    else:
        training.precision = choose_precision(cfg.precision, device)
    if world()[0] == 0:
        begin_folder(folder, training.epoch, cfg)
    print(f"{folder}: {cfg.stage} for {cfg.target} on {device}{f' x {world()[1]}' * (world()[1] > 1)} in {training.precision}"
          f"{f', from epoch {training.epoch + 1}, step {training.step + 1}' * (state == 'stopped')}, "
          f"{sum(map(len, clips.recordings))} frames of {len(clips.recordings)} recordings, {clips.steps} steps an epoch, "
          f"{sum(parameter.numel() for parameter in training.model.parameters()):,} weights")
    return training


def stages_of_teachers(cfg):
    """The stages that a student's teachers can be of."""
    return ["teacher", "audio"] if cfg.teacher_checkpoint else TEACHERS[cfg.teachers]


def read_in_training(cfg):
    """What the steps of a stage read: pictures, or what is kept of a student's teacher."""
    return ("frames", "taught") if cfg.stage == "student" and cfg.teacher_cache else trained_on(cfg.stage, stages_of_teachers(cfg))


def student_objective(recordings, shapes, cfg, device):
    """The Distillation of a student; where its teacher's outputs are to be kept, the recordings get them."""
    paths, stages = teacher_paths(cfg), stages_of_teachers(cfg)
    teachers = [[load_teacher(path, cfg.targets, shapes, device, stages) for path in group] for group in paths]
    name = digest_of(itertools.chain(*paths))
    if cfg.teacher_cache:
        left_out_by = held_out_people(cfg, len(teachers[0]))
        with first_goes_first():
            keep_outputs(lambda person: [[group[left_out_by[person]]] if person in left_out_by else group for group in teachers],
                         recordings, name, cfg, device)
    if {DISTILL[method].of for method in methods_of(cfg)} == {"label"} and all(np.isfinite(recording.gold).all() for recording in recordings):
        print("everybody is rated: pseudo-labels are the ratings then, and the student learns what the visual baseline does. Recordings that "
              "nobody rated are what it needs (Unlabelled_Set, annotations.py), or another --distill")
    gate, asked = cfg.gate, None
    if gate == "confirmed":
        baseline = run_folder(baseline_run(cfg)) / "best.pt"
        seen = load_teacher(baseline, cfg.targets, shapes, device, ["visual"])
        shares = confirmed(recordings, seen, cfg.targets, len(teachers), stages.index("audio"))
        gate, asked = trusted(stages, shares)
        name = digest_of([*itertools.chain(*paths), baseline])
    plain = take_turns(cfg) or len(teachers) == 1 and not cfg.calibrate and cfg.confidence == "off"
    mixed = None if plain else mixture(recordings, len(teachers), cfg.calibrate, device, asked)
    sure = agreement(recordings, mixed, cfg.teacher_folds, device) if cfg.confidence == "agreement" else None
    usual = usual_loss(teachers[0][0], mixed, recordings, cfg, device)
    if mixed and len(teachers) > 1 and world()[0] == 0:
        print(told_by(stages, mixed, cfg.targets))
    torch.manual_seed(cfg.seed)  # the adapters
    objective = Distillation(teachers[0][0], methods_of(cfg), gate, cfg.distill_weight, usual, mixed, name, len(teachers), sure)
    if objective.silent and world()[0] == 0:
        print("nothing that the teachers say is confirmed: the student is trained as the visual baseline")
    return objective


def trusted(stages, shares):
    """(gate, who is asked about which target, (G, K)) of teachers, by how far what they hear is confirmed, (K,).

    Those who hear alone are trusted in proportion. Beside those who see, whom nobody needs to confirm, they are asked where anything
    is: how much they count there is what they tell of the ratings (mixture).
    """
    if len(stages) == 1:
        return shares, None
    return "off", np.stack([(shares > 0).cpu().numpy() | (stage != "audio") for stage in stages])


def told_by(stages, mixed, targets):
    """Whose share of what teachers say together is how large, as text."""
    counts = next(iter(mixed.values()))[:-1].cpu().numpy()  # the same in all recordings
    shares = counts / np.maximum(counts.sum(0), TINY)  # ratings that never move leave nothing to say
    return "\n".join(f"{target}: shares of the teachers in what they say together: " + ", ".join(
        f"{stage} {share:.0%}" for stage, share in zip(stages, shares[:, k])) for k, target in enumerate(targets))


def digest_of(paths):
    """What tells some files from others."""
    return hashlib.sha1(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def take_turns(cfg):
    """Whether several teachers teach a batch each, rather than all by their mean."""
    return cfg.teachers == "joint+visual+audio" and not cfg.teacher_checkpoint


def held_out_people(cfg, count):
    """{id in Train_Set: number of the one of `count` teachers that was not trained on it}; nothing where there is one teacher."""
    people = find_recordings([cfg.annotations_dir / PARTITIONS["train"]], (), "run annotations.py first")  # in natural order
    return {name: number % count for number, name in enumerate(people)} if count > 1 else {}


def usual_loss(teacher, mixed, recordings, cfg, device):
    """(K,) the teacher's 1 - CCC over all rated frames; from what was kept of it, if it was."""
    rated = [recording for recording in recordings if np.isfinite(recording.gold).any()]
    if mixed or rated and "taught" in rated[0].arrays:
        scores = scores_of_teachers(mixed, rated, cfg)
    else:
        scores = score(predictions(teacher, rated, cfg), cfg.targets)
    return torch.tensor([1 - scores[target]["concatenated"] for target in cfg.targets], device=device)


def scores_of_teachers(mixed, rated, cfg):
    """score() of the kept predictions of teachers, mixed; of the first alone if nothing is mixed."""
    teachers = 1 if cfg.teacher_checkpoint else len(TEACHERS[cfg.teachers])
    tables = {recording.name: prediction_table(recording, said_together(recording, mixed, teachers), cfg.targets, cfg.frame_rate)
              for recording in rated}
    return score(tables, cfg.targets)


def said_together(recording, mixed, teachers):
    """(N, K) what was kept of teachers' predictions, mixed; of the first alone if nothing is mixed."""
    (*counts, added) = mixed[recording.name].cpu().numpy() if mixed else (1, 0)
    said = said_by(recording, len(counts) if mixed else teachers, recording.gold.shape[1])[:len(counts)]
    return sum(count * part for count, part in zip(counts, said)) + added


def confirmed(recordings, baseline, targets, teachers=1, hears=0):
    """(K,) how far what teachers hear of a person is of this person, for each target, in [0, 1].

    What they say of each recording is correlated over time with a witness: its ratings, where they were not trained on them, or, where
    nobody rated, what the visual baseline says of it. A face and a voice have little in common but what the person feels, so
    that two networks of which each has one agree on little else (two views: Blum & Mitchell, 1998); and of people that nobody rated
    there are many. The mean over recordings is the share, in shares of WHOLLY: labels that tell little cost more than they give if they
    count as much as ratings. It is 0 where the mean is less than SURE standard errors, or where there are no more than two recordings.

    teachers, hears: how many were kept side by side, and the number of the one that hears.
    """
    seen = predict(baseline, [recording for recording in recordings if np.isnan(recording.gold).all(0).any()])
    witnesses = {recording.name: np.where(np.isnan(recording.gold).all(0), seen.get(recording.name, recording.gold), recording.gold)
                 for recording in recordings}
    said, shares = {recording.name: said_by(recording, teachers, len(targets))[hears] for recording in recordings}, []
    for k, target in enumerate(targets):
        more = agreements({name: series[:, k] for name, series in said.items()}, {name: series[:, k] for name, series in witnesses.items()})
        mean, doubt = (float(np.mean(more)), float(sem(more))) if len(more) > 2 else (0.0, math.inf)
        shares.append(min(1.0, mean / WHOLLY) if mean > SURE * doubt else 0.0)
        if world()[0] == 0:
            print(f"{target}: what the teachers hear is confirmed to {shares[-1]:.2f} (it correlates with ratings and faces by {mean:+.2f} more than "
                  f"with other people's, standard error {doubt:.2f}; {len(more)} recordings)")
    device = next(baseline.parameters()).device
    return torch.tensor([from_first(part, device) for part in shares], dtype=torch.float32, device=device)


def agreements(said, witnesses):
    """How much more each of several series, {id: (N,)}, is like its own witness than, on average, like those of OTHERS after it, in a
    circle: a corpus may have a course in common. Nothing for one that is alone."""
    names, more = [*said], []
    for number, name in enumerate(names):
        others = [*names[number + 1:], *names[:number]][:OTHERS]
        if others:
            more.append(alike(said[name], witnesses[name]) - np.mean([alike(said[name], witnesses[other]) for other in others]))
    return more


def alike(one, other):
    """Correlation of two series, as far as both go and are there; 0 where one does not move."""
    both = np.stack([one[:len(other)], other[:len(one)]]).astype(float)
    both = both[:, np.isfinite(both).all(0)]
    return float(np.corrcoef(both)[0, 1]) if both.shape[1] > 1 and both.std(1).all() else 0.0


def check_before(runs):
    """Raises what the first minute can tell, before hours of work: settings of runs that are there, files that are not."""
    for cfg in runs:
        if cfg.stage == "student":
            check_distillation(cfg)
        if state_of_run(run_folder(cfg), cfg) == "finished":
            continue
        if cfg.tensorboard and not importlib.util.find_spec("tensorboard"):
            raise SettingsError("tensorboard: the package tensorboard is not installed: pip install tensorboard, or leave the setting out")
        if cfg.stage == "student" and (cfg.teacher_checkpoint or len(runs) == 1):
            teacher_paths(cfg)
            if cfg.gate == "confirmed" and not (path := run_folder(baseline_run(cfg)) / "best.pt").exists():
                raise SettingsError(f"gate: confirmed asks the visual baseline, and {path} is missing: run --stage visual first (--stage all does)")
        for name in ("visual_weights", "audio_weights"):
            file = getattr(cfg, name)
            if file not in ("", "imagenet") and name in settings_of(cfg) and not Path(file).is_file():
                raise SettingsError(f"{name}: {file} is not there: a file of weights was expected")


def methods_of(cfg):
    """{distillation method: weight}. Raises SettingsError if one is unknown."""
    try:
        return parse_distill(cfg.distill)
    except ValueError as error:
        raise SettingsError(f"distill: {error}") from None


def check_distillation(cfg):
    """Raises SettingsError for settings of a student that do not go together."""
    of_features = [name for name in methods_of(cfg) if DISTILL[name].of == "feat"]
    several = cfg.teacher_folds and not cfg.teacher_checkpoint
    if several and of_features:
        raise SettingsError(f"distill: {of_features[0]} compares features, and each of {cfg.teacher_folds} teachers has its own: use ccc or "
                            "pseudo, or --teacher-folds 0")
    if several and cfg.fold:
        raise SettingsError("teacher_folds: people held out of a student's training (--fold) would be taught to its teachers: give one of them up")
    if cfg.gate == "confirmed" and not (several and cfg.teachers in ("audio", "audio+visual")):
        raise SettingsError("gate: confirmed asks whether faces and ratings confirm what teachers hear of people they were not trained on: it needs "
                            "--teachers audio or audio+visual, --teacher-folds 2 or more and no --teacher-checkpoint; else --gate off or adaptive")
    if cfg.teacher_folds == 1:
        raise SettingsError("teacher_folds: 1 leaves nobody to train on: 0 for one teacher, 2 or more")
    if not cfg.teacher_cache and (several or cfg.calibrate or len(TEACHERS[cfg.teachers]) > 1 and not cfg.teacher_checkpoint):
        raise SettingsError("teacher_cache: 0 hears clips alone: calibrate and several teachers need whole recordings, so 1 or more")
    if cfg.confidence == "agreement" and (not several or of_features or take_turns(cfg)):
        raise SettingsError("confidence: agreement is that of the predictions of several teachers: it needs --teacher-folds 2 or more, and ccc or "
                            "pseudo to --distill")
    if take_turns(cfg) and cfg.calibrate:
        raise SettingsError(f"calibrate: the teachers of {cfg.teachers} take turns and would need one scale each: give one of the two up")


def begin_folder(folder, epoch, cfg):
    """A run's folder as it is after `epoch` epochs: log lines of later ones, and what a killed process was writing, go."""
    for leftover in folder.glob(".*"):
        if leftover.is_file():
            leftover.unlink()
    shutil.rmtree(folder / "predictions", ignore_errors=True)  # of a run that goes on for more epochs; best.pt tells them again
    log = folder / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)[:epoch] if log.exists() else []
    with whole_file(log) as part:
        part.write_text("".join(lines))
    with whole_file(folder / "people.json") as part:
        part.write_text(json.dumps(people_of(cfg), indent=1) + "\n")
    save_settings(cfg, folder / "config.json")


def finish(folder, sets, cfg, device):
    """Writes the best epoch's predictions for both partitions: their appearance marks the run as finished."""
    model, state = load_model(folder / "best.pt")
    model.to(device)
    tables = {name: predictions(model, recordings, cfg) for name, recordings in sets.items()}
    with whole_folder(folder / "predictions") as part:
        for name in tables:
            (part / name).mkdir()
            for recording, table in tables[name].items():
                write_table(table, part / name / f"{recording}.csv")
    scores = score(tables["val"], cfg.targets)
    why = "was the last" if cfg.keep == "last" else f"had the best {'CCC on the people held out' if cfg.fold else 'validation CCC'}"
    print(f"{folder}: finished; epoch {state['epoch']} {why} and is kept: "
          + ", ".join(f"{target} {scores[target]['mean']:.3f}" for target in cfg.targets))
    return scores


def teacher_runs(cfg):
    """Settings of the runs that the teachers of a student come from, [[one for each fold] of each teacher]; none of a checkpoint."""
    folds = [f"{number}/{cfg.teacher_folds}" for number in range(1, cfg.teacher_folds + 1)] or [cfg.fold]
    return [] if cfg.teacher_checkpoint else [[dataclasses.replace(cfg, stage=stage, fold=fold, variant="") for fold in folds]
                                              for stage in TEACHERS[cfg.teachers]]


def baseline_run(cfg):
    """Settings of the visual baseline of a student."""
    return dataclasses.replace(cfg, stage="visual", variant="")


def built_on(cfg):
    """Settings of all runs that a student needs."""
    return [*itertools.chain(*teacher_runs(cfg)), *[baseline_run(cfg)] * (cfg.gate == "confirmed")]


def teacher_paths(cfg):
    """Checkpoints of the student's teachers, [[one for each fold] of each teacher]. Raises UserError if one is missing, or of other people."""
    if cfg.teacher_checkpoint:
        if not Path(cfg.teacher_checkpoint).exists():
            raise SettingsError(f"teacher_checkpoint: {cfg.teacher_checkpoint} is not there: a best.pt of stage teacher or audio was expected")
        return [[Path(cfg.teacher_checkpoint)]]
    for one in itertools.chain(*teacher_runs(cfg)):
        if not (path := run_folder(one) / "best.pt").exists():
            flags = f"--stage {one.stage}" + f" --fold {one.fold}" * bool(one.fold)
            raise SettingsError(f"stage student needs a teacher, and {path} is missing: run {flags} first (--stage all does), or name one with "
                                "--teacher-checkpoint")
        check_people(run_folder(one), one)
    return [[run_folder(one) / "best.pt" for one in group] for group in teacher_runs(cfg)]


# ---- the comparison -------------------------------------------------------------------------------------------------


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    if cfg.list:
        print(list_runs(cfg.run_root))
        return None
    runs = {stage: dataclasses.replace(cfg, stage=stage) for stage in (ROLES if cfg.stage == "all" else [cfg.stage])}
    first = built_on(runs["student"]) if cfg.stage == "all" else []
    check_before([*runs.values(), *first])
    with joined(cfg) as device:
        for one in first:
            if one not in runs.values():
                run(one, device)
        scores = {stage: run(one, device) for stage, one in runs.items()}
        if cfg.stage == "all" and world()[0] == 0:
            print(comparison(scores, cfg.targets, which_epoch(cfg)))
    return scores


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
