"""Predictions along whole recordings, their CCC, and the files in which a run keeps them.

Shapes: N frames of a recording, K targets.
"""
import contextlib
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from augmentation import on_device
from data import stream
from frozen import with_features
from losses import ccc
from models_kd import forward
from runs import AGAIN, held_out_runs, run_folder
from support import columns
from support.checksums import list_all, read_list, verify
from support.errors import UserError
from support.files import whole_folder
from support.prefetching import prefetch
from support.recordings import SUMMARIES, TARGETS, find_recordings

ROLES = {"visual": "visual (lower bound)", "teacher": "teacher (upper bound)", "student": "student"}
NO_GAP = 0.02  # CCC: the fraction of a smaller gap would be a fraction of noise
ROUNDING_S = 0.001  # time_s is rounded to less than this


# ---- predictions ----------------------------------------------------------------------------------------------------

@torch.no_grad()
def outputs(model, recording):
    """Yields the model's Outputs for the Batches of data.stream(), as if in one pass: the GRU's state is carried along.

    As in the clips of its training, the state before frame k is that after frame k - clip_stride.
    """
    hidden, device = None, next(model.parameters()).device
    for batch in prefetch(stream(recording, model.inputs, stride=model.clip_stride), device.type == "cuda"):
        output = forward(model, on_device(batch, device), hidden=hidden)
        hidden = output.hidden
        yield output


def in_order(parts, recording):
    """Parts of outputs() along a recording, each (B, T, ...), as one: (N, ...), frame after frame."""
    return torch.cat([part.transpose(0, 1).flatten(0, 1) for part in parts])[:len(recording)]


def predict(model, recordings):
    """Predictions for every frame, {id: (N, K) float32}. The model is in evaluation mode meanwhile."""
    was_training = model.training
    model.eval()
    recordings = with_features(recordings, model)
    preds = {one.name: in_order([output.pred for output in outputs(model, one)], one).cpu().numpy()
             for one in recordings}
    model.train(was_training)
    return preds


def prediction_table(recording, pred, targets, frame_rate):
    """A recording's predictions (N, K) beside its gold standard, one row per frame."""
    columns = {"time_s": np.round(np.arange(len(pred)) / frame_rate, 4)}
    for k, target in enumerate(targets):
        columns |= {f"{target}_gold": recording.gold[:, k], f"{target}_pred": pred[:, k]}
    return pd.DataFrame(columns)


def predictions(model, recordings, cfg):
    """{id: prediction_table} of some recordings."""
    preds = predict(model, recordings)
    return {recording.name: prediction_table(recording, preds[recording.name], cfg.targets, cfg.frame_rate)
            for recording in recordings}


def mean_tables(several):
    """The predictions of several networks for the same recordings, [{id: prediction_table}], as those of one: their
    mean."""
    def mean(name, table):
        preds = [f"{target}_pred" for target in targets_of(table)]
        return table.assign(**{pred: np.mean([tables[name][pred] for tables in several], axis=0) for pred in preds})
    return {name: mean(name, table) for name, table in several[0].items()}


# ---- CCC ------------------------------------------------------------------------------------------------------------

def score(tables, targets):
    """CCC of predictions, {id: prediction_table}: {target: {id: ..., "mean": ..., "concatenated": ...}}.

    Frames without a valid rating do not count; a recording with fewer than two of the others does not either. A
    prediction that is NaN does count: the CCC is NaN then.
    """
    scores = {}
    for target in targets:
        series = {name: table[table[f"{target}_gold"].notna()] for name, table in tables.items()}
        series = {name: table[[f"{target}_pred", f"{target}_gold"]].to_numpy(float)
                  for name, table in series.items() if len(table) > 1}
        each = {name: float(ccc(*values.T)) for name, values in series.items()}
        whole = float(ccc(*np.concatenate([*series.values()]).T)) if series else math.nan
        scores[target] = each | {"mean": float(np.mean([*each.values()])) if each else math.nan, "concatenated": whole}
    return scores


def gap_closed(visual, teacher, student):
    """Fraction of the gap between visual and teacher that the student closed, as text; a gap below NO_GAP is none."""
    if teacher - visual < NO_GAP:
        return "no gap"
    closed = round((student - visual) / (teacher - visual), 2) + 0.0  # + 0.0: never -0%
    return ">100%" if closed > 1 else f"{closed:.0%}"


def comparison(scores, targets, taught, kept):
    """The closing table, {stage: score()} -> text: CCC of each target as mean over recordings and concatenated, and the
    fraction of the gap between visual and teacher that the student closed.

    taught: how the student was taught, in a few words; kept: a sentence on how the epochs were chosen.
    """
    lines = [f"{'CCC on Val_Set':32}" + "".join(f"{target + ' mean':>16}{'concatenated':>14}" for target in targets)]
    for stage, role in ROLES.items():
        values = [scores[stage][target] for target in targets]
        role += f" ({taught})" * (stage == "student")
        lines.append(f"{role:32}" + "".join(f"{value['mean']:16.3f}{value['concatenated']:14.3f}" for value in values))
    closed = [gap_closed(*[scores[stage][target][key] for stage in ROLES]) for target in targets for key in SUMMARIES]
    lines.append(f"{'gap closed by the student':32}"
                 + "".join(f"{text:>{width}}" for text, width in zip(closed, [16, 14] * len(targets))))
    return "\n".join([*lines, f"mean: over recordings. {kept}"])


def how_chosen(cfg):
    """On which subjects the epochs that are kept were chosen, as a sentence."""
    if cfg.keep == "last":
        return "Each run kept its last epoch: nothing was chosen on Val_Set."
    if cfg.fold:
        return "Each run kept the epoch that was best on subjects held out of Train_Set: nothing was chosen on Val_Set."
    return "Each run kept the epoch that was best on Val_Set: read the values as slightly too high."


# ---- files ----------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def written_predictions(folder, tables):
    """Writes predictions/<set>/<id>.csv of {set: {id: prediction_table}} into a run's folder, all or nothing: they
    appear when the block ends well. Gives the path of the folder that they are in until then."""
    with whole_folder(folder / "predictions") as part:
        for name in tables:
            (part / name).mkdir()
            for recording, table in tables[name].items():
                write_table(table, part / name / f"{recording}.csv")
            list_all(part / name)
        yield part


def write_table(table, path, digits=6):
    """Writes the predictions (or labels) of one recording; of the time as many digits as a long recording needs."""
    table = table.assign(time_s=[f"{time_s:.10g}" for time_s in table["time_s"]])
    table.to_csv(path, index=False, float_format=f"%.{digits}g", na_rep="nan", lineterminator="\n")


def read_predictions(folder, partition, frame_rate):
    """{id: table} of a finished run, in natural order. Raises UserError naming what is missing or damaged."""
    return read_tables(Path(folder, "predictions", partition), frame_rate, AGAIN.format(folder))


def out_of_fold(cfg, own):
    """{id: table} of recordings of Train_Set, each predicted by a network that was not trained on it: what the
    post-processing of a run is fitted on. {} if there are no such networks (runs.held_out_runs).

    cfg: settings of the run; own: the folder of its predictions, which are used if it has a --fold. Raises UserError as
    read_tables does.
    """
    tables = {}
    for one in held_out_runs(cfg):
        folder = own if cfg.fold else run_folder(one) / "predictions"
        tables |= read_tables(Path(folder, "held_out"), cfg.frame_rate, AGAIN.format(run_folder(one)))
    return tables


def read_tables(folder, frame_rate, again):
    """{id: table} of a folder of predictions, in natural order. Raises UserError as read_table does, and if one that is
    in the list of its checksums is missing."""
    found = find_recordings([folder], (), again)
    for name in sorted(set(read_list(folder)) - {path.name for path in found.values()})[:1]:
        raise UserError(f"{folder / name} is missing: {again}")
    return {name: read_table(path, frame_rate, again) for name, path in found.items()}


def read_table(path, frame_rate, again):
    """The predictions of one recording. Raises UserError if they are not complete: `again` says what to do."""
    try:
        table = columns.read_table(path, again, ["time_s"])
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {again}") from None
    targets = targets_of(table)
    if not targets or not {f"{target}_gold" for target in targets} <= set(table):
        raise UserError(f"{path} has no rows of time_s,{TARGETS[0]}_gold,{TARGETS[0]}_pred: {again}")
    for name in (f"{target}_{kind}" for target in targets for kind in ("gold", "pred")):
        table[name] = columns.to_numbers(table[name], path, again)
    table = table.reset_index(drop=True)
    preds = table[[f"{target}_pred" for target in targets]].to_numpy()
    for k in np.flatnonzero(~np.isfinite(preds).all(1)):
        raise UserError(f"{path} line {k + 2}: a prediction is missing or not finite: {again}")
    golds = table[[f"{target}_gold" for target in targets]].to_numpy()
    for k in np.flatnonzero(np.isinf(golds).any(1)):
        raise UserError(f"{path} line {k + 2}: a rating is infinite: {again}")
    times = np.arange(len(table)) / frame_rate
    for k in np.flatnonzero(~(np.abs(table["time_s"] - times) < ROUNDING_S)):
        raise UserError(f"{path} line {k + 2}: time_s is {table['time_s'][k]:g}, not {times[k]:g} as with frame_rate "
                        f"{frame_rate:g}: give the --frame-rate of the run, or if lines are missing, {again}")
    verify(path, again)  # at last: all else is said more exactly above
    return table


def targets_of(table):
    """The targets that a table has predictions of."""
    return [target for target in TARGETS if f"{target}_pred" in table]


def summary_of(table, run):
    """[mean raw, mean post-processed, concatenated raw, concatenated post-processed]: CCC of a run.

    table: the rows of plots/ccc.csv of one target.
    """
    rows = table[table["run"] == run].set_index("recording")
    return rows.loc[SUMMARIES, ["ccc_raw", "ccc_postprocessed"]].to_numpy().ravel().tolist()


def gaps_closed(values, run):
    """Share of the gap between visual and teacher that a student closed: a text for each of its four CCCs.

    values: {run name: summary_of} of one target; run: a plot_ccc.Run. The bounds are the runs visual_<target> and
    teacher_<target> of the student's variant, or else of no variant. [] for other stages, if a bound is missing, and
    for the mean of several students, because the bounds are single networks.
    """
    stage, *target = run.name.split("_")[:2]
    for words in ([*target, run.variant], target):
        visual, teacher = ("_".join([bound, *words]) for bound in ("visual", "teacher"))
        if stage == "student" and not run.members and {visual, teacher} <= set(values):
            return [gap_closed(*each) for each in zip(values[visual], values[teacher], values[run.name])]
    return []
