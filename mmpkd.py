"""The Visual, Teacher and Student Training Calls.

    python mmpkd.py --stage visual      face only: lower bound
    python mmpkd.py --stage teacher     face and voice: upper bound
    python mmpkd.py --stage student     face only, with the help of teachers that are already trained
    python mmpkd.py --stage audio       voice only
    python mmpkd.py                     what the student needs, visual, teacher, student; then the comparison
    python mmpkd.py --shard 1/4         a quarter of the runs that the student needs: one job of a job array
    python mmpkd.py --list              the runs that there are
    torchrun --nproc_per_node=2 mmpkd.py ...    on two devices

Reads   Annotations/{Train_Set,Val_Set,Unlabelled_Set}/*.csv, Cropped_Aligned/, and specs/ for networks with audio
        features/{visual,audio}/        in place of these images, where a backbone is "features"
        subjects.csv                    if there: which recordings are of one subject
Writes  runs/<stage>_<target>[_<distill>][_fold<i>of<n>][_<variant>]/
            config.json subjects.json log.jsonl curves.png  settings; subjects, with checksums of what they were trained
                                                            on; a line per epoch
            last.pt best.pt                                 to resume from; the network that is kept and its model card
            labels/<id>.csv                                 a student's pseudo-labels
            predictions/{train,val,held_out}/<id>.csv       written last: they mark the run as finished
        cache/                                              the images of a recording as one array; may be deleted
"""
import dataclasses
import shutil
import signal
from functools import partial

from runs import (
    AGAIN,
    INPUTS,
    MEAN_TEACHER,
    NOT_FITTED,
    PSEUDO,
    answer_list,
    baseline_run,
    check_trained,
    claimed_run,
    needed_by,
    needed_run,
    read_in_training,
    run_folder,
    state_of_run,
    teacher_runs,
    with_way,
)
from support.errors import UserError, run_script
from support.files import there
from support.settings import answer_first, parse_config

answer_first(__name__, __file__, __doc__, answer_list)  # before torch is loaded, which takes seconds

import torch

import data
import pseudo_labels
from checkpoints import card_ccc, describe_model, finished, load_model, save_checkpoint
from checks import check_before, check_student, describe_way, methods_of
from frozen import with_features
from losses import ccc_loss
from model_card import HELD_OUT
from objectives import Distillation, MeanTeacher, labels_objective, task_objective
from postprocessing import fit_tables
from scores import (
    comparison,
    how_chosen,
    in_order,
    out_of_fold,
    outputs,
    predictions,
    read_predictions,
    score,
    written_predictions,
)
from support.devices import first_goes_first, joined, wait_for_others, world
from support.machine import cores
from support.recordings import shard_of
from support.stopping import Stopped, listening
from support.workers import side_by_side
from training import choose_precision, start_run
from training import train as train_epochs

SAME_CCC = 1e-4  # predictions have six digits in their files


# ---- Visual Training Call, Teacher Training Call --------------------------------------------------------------------

def train_on_ratings(cfg, device):
    """Networks trained on the ratings alone: visual (faces), teacher (faces and spectrograms), audio (spectrograms)."""
    return training_call(cfg, device, lambda sets, shapes: (task_objective, sets["train"], []))


# ---- Student Training Call ------------------------------------------------------------------------------------------

def train_student(cfg, device):
    """The student (faces), taught by pseudo-labels, by the distillation of the joint teacher, or by its own average."""
    teach = {PSEUDO: label, MEAN_TEACHER: follow_average}.get(cfg.distill, distil)
    return training_call(cfg, device, partial(teach, cfg=cfg, device=device))


def label(sets, shapes, cfg, device):
    """(objective, rated, unlabelled recordings) of a student, with pseudo-labels where the ratings have gaps.

    The labels are made once, by the first of several processes, and lie in the run's labels/.
    """
    folder, recordings = run_folder(cfg), sets["train"] + sets["unlabelled"]
    with first_goes_first():
        if not there(folder / "labels"):
            teachers = {stage: [load_teacher(one, shapes, device) for one in runs]
                        for stage, runs in teacher_runs(cfg).items()}
            baseline = load_teacher(one, shapes, device) if (one := baseline_run(cfg)) else None
            fold_of = data.folds(cfg, cfg.teacher_folds)
            labels, report = pseudo_labels.pseudo_labels(
                teachers, recordings, fold_of, cfg.targets, cfg.frame_rate, baseline)
            pseudo_labels.write_labels(folder, labels, report, cfg.targets, cfg.frame_rate)
    print(pseudo_labels.describe(pseudo_labels.read_report(folder)))
    labels = pseudo_labels.read_labels(folder, recordings, cfg.targets)
    return labels_objective, *(pseudo_labels.with_labels(sets[name], labels) for name in ("train", "unlabelled"))


def distil(sets, shapes, cfg, device):
    """(objective, rated, unlabelled recordings) of a student; the recordings get their teacher's outputs."""
    (one,) = teacher_runs(cfg)["teacher"]
    recordings, teacher = sets["train"] + sets["unlabelled"], load_teacher(one, shapes, device)
    with first_goes_first():
        with_features(recordings, teacher)  # computed by the first of several processes, kept for all
    add_teacher_outputs(recordings, teacher)
    if cfg.gate == "adaptive" and not any(value > 0 for value in teacher_ccc(recordings, len(cfg.targets))):
        print("the teacher's CCC on its own training recordings is not above 0: the gate gives it hardly any weight, "
              "and the student may equal the visual baseline")
    torch.manual_seed(cfg.seed)  # the adapters
    objective = Distillation(methods_of(cfg), cfg.gate, cfg.distill_weight).to(device)
    return objective, sets["train"], sets["unlabelled"]


def follow_average(sets, shapes, cfg, device):
    """(objective, rated, unlabelled recordings) of a student that is its own teacher."""
    return MeanTeacher(), sets["train"], sets["unlabelled"]


def add_teacher_outputs(recordings, teacher):
    """Gives every recording the predictions and features of a frozen teacher, "taught" (N, K + HINT).

    It goes through each recording from the beginning, as in `predict`, and so knows what came before a clip.
    """
    for recording, fed in zip(recordings, with_features(recordings, teacher)):
        parts = [torch.cat([output.pred, output.feat], 2) for output in outputs(teacher, fed)]
        recording.arrays["taught"] = in_order(parts, recording).cpu().numpy()


def teacher_ccc(recordings, targets):
    """CCC of the teacher's outputs over all rated frames, for each target: [float]."""
    taught, gold = (torch.cat([torch.as_tensor(part) for part in parts]) for parts in zip(
        *((recording.arrays["taught"][:, :targets], recording.gold) for recording in recordings)))
    return (1 - ccc_loss(taught, gold)).tolist()


def load_teacher(cfg, shapes, device):
    """The network of a finished run, frozen. Raises UserError if it is missing, or does not fit the student."""
    check_trained([cfg])
    path = run_folder(cfg) / "best.pt"
    model, state = load_model(path)
    found = {"targets": state["targets"], "shapes": {name: tuple(shape) for name, shape in state["shapes"].items()}}
    wanted = {"targets": cfg.targets, "shapes": {name: shapes[name] for name in model.inputs}}
    if found != wanted:
        raise UserError(f"{path} was trained with {found}, the student needs {wanted}: train it again")
    check_own(cfg, path, state["card"])
    model.in_bfloat16 = choose_precision(cfg.precision, device) == "bfloat16"  # features of a frozen backbone
    return model.to(device).requires_grad_(False)


def check_own(cfg, path, card):
    """Raises UserError if a network is not the one that made the predictions of its run: its card has other CCCs."""
    folder, on = run_folder(cfg), (card["ccc_on"] or {}).get("set")  # older versions: of a fold's held-out subjects
    part = "held_out" if on == HELD_OUT else "val"
    now = card_ccc(score(read_predictions(folder, part, cfg.frame_rate), cfg.targets))
    for target, its in (card["ccc"] or {}).items():
        values = its["mean"], now[target]["mean"]  # None: not a number
        if values[0] != values[1] and (None in values or abs(values[0] - values[1]) > SAME_CCC):
            raise UserError(f"{path} is not the network that made {folder / 'predictions'}/ (a CCC of {target} of "
                            f"{values[0]}, not of {values[1]}): {AGAIN.format(folder)}")


# ---- what every call does -------------------------------------------------------------------------------------------

CALLS = {"visual": train_on_ratings, "teacher": train_on_ratings, "audio": train_on_ratings, "student": train_student}


def train(cfg, device):
    """One training call, that of cfg.stage: its scores on Val_Set (scores.score)."""
    return CALLS[cfg.stage](cfg, device)


def training_call(cfg, device, teach):
    """Trains cfg.stage, writes the predictions of the epoch that is kept, returns its scores on Val_Set.

    teach(sets, shapes) -> (objective, rated recordings, unlabelled recordings)
    """
    folder, state = run_folder(cfg), state_of_run(cfg)
    wait_for_others()
    if state == "finished":
        print(f"{folder}: finished before, nothing to do")
        return score(read_predictions(folder, "val", cfg.frame_rate), cfg.targets)
    with first_goes_first():
        sets = data.load_sets(cfg, read_in_training(cfg), INPUTS[cfg.stage], cfg.stage == "student")
    shapes = data.image_shapes([recording for recordings in sets.values() for recording in recordings])
    with claimed_run(folder, world()[0] == 0):
        if there(folder / "last.pt") != (state == "stopped"):
            raise UserError(f"{folder}/ has just been trained by another process: run the same again")
        if state == "new" and world()[0] == 0:
            shutil.rmtree(folder / "labels", ignore_errors=True)  # of a run that never began
        objective, rated, unlabelled = teach(sets, shapes)
        inputs = ("frames", "taught") if isinstance(objective, Distillation) else INPUTS[cfg.stage]
        about = describe_model(cfg, shapes, sets)
        training = start_run(cfg, state, shapes, data.statistics(sets["train"]), getattr(objective, "adapters", None),
                             device)
        with first_goes_first():
            rated, unlabelled, chosen_on = (with_features(part, training.model, views) for part, views in (
                (rated, cfg.augment), (unlabelled, cfg.augment), (sets.get("held_out", sets["val"]), False)))
        clips = data.Clips(rated, cfg.batch_size, cfg.clip_length, inputs, cfg.seed, cfg.epoch_steps, unlabelled,
                           cfg.clip_stride)
        if isinstance(objective, MeanTeacher):
            objective.begin(training.average, cfg.epochs * clips.steps)
        train_epochs(training, objective, clips, lambda model: score(predictions(model, chosen_on, cfg), cfg.targets),
                     folder, about)
        scores = finish_run(folder, sets, training, about) if world()[0] == 0 else None
    wait_for_others()
    return scores


def finish_run(folder, sets, training, about):
    """Writes the predictions of the network that is kept, which marks the run as finished: its scores on Val_Set.

    Before that, best.pt gets these scores and the constants of the post-processing: as plot_ccc.py finds them, from
    predictions for held-out subjects as they are in the files.
    """
    cfg, (model, state) = training.cfg, load_model(folder / "best.pt")
    model.in_bfloat16 = training.model.in_bfloat16
    tables = {name: predictions(model.to(training.device), recordings, cfg) for name, recordings in sets.items()
              if name != "unlabelled"}
    scores = score(tables["val"], cfg.targets)
    with written_predictions(folder, tables) as part:
        held_out = out_of_fold(cfg, part)
        constants = held_out and {"smoothing": cfg.smoothing} | fit_tables(
            held_out, cfg.targets, cfg.smoothing, cfg.max_window_s, cfg.max_delay_s, cfg.frame_rate)
        complete = finished(about, state, scores, [*tables["val"]], constants)
        if complete["card"] != state["card"]:  # else it stays the same file, for students that know it as their teacher
            save_checkpoint(folder / "best.pt", complete)
    if not held_out:
        print(f"{folder}: {NOT_FITTED}")
    why = "was the last" if cfg.keep == "last" else f"had the best {'held-out' if cfg.fold else 'validation'} CCC"
    print(f"{folder}: finished; epoch {state['epoch']} {why} and is kept: "
          + ", ".join(f"{target} {scores[target]['mean']:.3f}" for target in cfg.targets))
    return scores


# ---- teacher ensembles, side by side --------------------------------------------------------------------------------

def train_ensembles(runs, cfg, device):
    """Trains the networks of a student's teacher ensembles, several at the same time: on the cores of this machine, or
    one on each of its CUDA devices.

    Each has one thread, also where they are trained one after the other: more would round in another way on some
    processors, and a result must not depend on how many are trained side by side. Side by side, the others are still
    trained if one fails. Raises Stopped when the process is asked to stop, after all have saved.
    """
    finished = [one for one in runs if state_of_run(one) == "finished"]
    train_in_turn(finished, device)  # which says so
    runs = [one for one in runs if one not in finished]
    names = [run_folder(one).name for one in runs]
    devices = [f"cuda:{k}" for k in range(torch.cuda.device_count())] if str(device) == "cuda" else [str(device)]
    workers = min(len(runs), cfg.workers or (cores() if device.type == "cpu" else len(devices)))
    if workers <= 1 or world()[1] > 1:
        train_in_turn(runs, device)
        return
    print(f"{len(runs)} networks of the teacher ensembles, {workers} side by side")
    with listening() as stop:
        try:
            with stop.at_once():
                side_by_side(names, partial(train_in_worker, runs=dict(zip(names, runs)), devices=devices), workers)
        except Stopped:
            raise Stopped(f"stopped by {signal.Signals(stop.signal).name}, and the runs that were in training are "
                          "saved: continue with the same command and --resume", stop.signal) from None


def train_in_turn(runs, device):
    """The same in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for one in runs:
            train(one, device)
    finally:
        torch.set_num_threads(threads)


def train_in_worker(name, report, runs, devices):
    """Trains one of `runs`, {name: settings}, for side_by_side."""
    one, name = runs[name], devices[report.worker % len(devices)]
    begun = there(run_folder(one) / "last.pt")  # by a process that was killed, after which it is tried again
    with joined(dataclasses.replace(one, device=name)) as device:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        train(dataclasses.replace(one, resume=one.resume or begun), device)


# ---- all of them ----------------------------------------------------------------------------------------------------

def calls_of(cfg):
    """(runs to train one after the other, networks of teacher ensembles to train before them, the student or None)."""
    if cfg.stage not in ("student", "all"):
        return [cfg], [], None
    student = dataclasses.replace(cfg, stage="student")
    if cfg.stage == "student" and not cfg.shard:
        return [], [], student
    needed = needed_by(student)
    ensembles = [one for one in needed if one.fold and not cfg.fold]
    calls = [one for one in needed if one not in ensembles]
    if cfg.stage == "all":
        calls = [needed_run(cfg, stage=stage) for stage in ("visual", "teacher")]
    return calls, ensembles, student


def of_shard(cfg, calls, ensembles, student):
    """What of calls_of() the job of a job array trains: every n-th run, and never the student."""
    if student:
        check_student(student)
    runs = {run_folder(one).name: one for one in (*calls, *ensembles)}
    mine = shard_of(runs, cfg.shard)
    print(f"shard {cfg.shard}: {', '.join(mine) or 'nothing'} of the {len(runs)} runs to train"
          + "; when all shards have ended, the same command without --shard trains the student" * bool(student))
    return [one for one in calls if one in mine.values()], [one for one in ensembles if one in mine.values()], None


def main(argv=None):
    cfg = parse_config(argv, __file__, __doc__)
    if answer_list(cfg):
        return None
    cfg = with_way(cfg) if cfg.stage in ("student", "all") else cfg
    calls, ensembles, student = calls_of(cfg)
    if cfg.shard:
        calls, ensembles, student = of_shard(cfg, calls, ensembles, student)
    with joined(cfg) as device:
        check_before([*calls, *ensembles, *([student] if student else [])])
        if student:
            print(describe_way(student))
        train_ensembles(ensembles, cfg, device)  # first: on what they predict the others' post-processing is fitted
        scores = {one.stage: train(one, device) for one in calls}
        if student:
            scores["student"] = train(student, device)
        if student and cfg.stage == "all" and world()[0] == 0:
            taught = "pseudo-labels" if cfg.distill == PSEUDO else cfg.distill
            print(comparison(scores, cfg.targets, taught, how_chosen(cfg)))
    return scores


if __name__ == "__main__":
    raise SystemExit(run_script(main, __file__))
