"""Pseudo-labels for recordings without ratings, from an ensemble of cross-fitted teachers.

    out_of_fold   a rated subject is labelled by the networks that were not trained on it, an unlabelled one by all
    smoothed      the predictions are averaged over the 1.2 seconds around each frame
    confirmed     audio teachers are used for a target only if they pass a test (co-training: Blum & Mitchell, 1998)
    stack         teachers are weighted by non-negative least squares on the rated subjects (stacking: Breiman, 1996)
    calibrate     each recording is shifted to the mean of the ratings, and all are scaled to their standard deviation

The labels are data: a student is trained on them as on ratings. They are written to the run's folder, to be looked at:
labels/<id>.csv (time_s,arousal,valence of every recording, rated ones out of fold) and labels/teachers.json.

Shapes: N frames, K targets, G teachers.
"""
import dataclasses
import json
from collections import defaultdict

import numpy as np
import pandas as pd
from scipy.optimize import nnls
from scipy.stats import sem

from postprocessing import smooth
from scores import predict, write_table
from support.checksums import list_all, verify
from support.columns import read_table
from support.errors import UserError
from support.files import whole_folder
from support.reading import clipped, is_number, read_json

# Standard errors above 0 that the audio teachers must reach. By chance (Student's t) they do once in 500 times with 60
# recordings, in 170 with 12, in 66 with 6, in 21 with 3
SIGMAS = 3
SMOOTH_S = 1.2  # seconds around a frame, over which the teachers' predictions are averaged
OTHERS = 10  # subjects that each subject is compared with in that test
CONSTANT = 1e-5  # predictions with a smaller standard deviation are constant: they are not scaled


def pseudo_labels(teachers, recordings, fold_of, targets, frame_rate, baseline=None):
    """({id: (N, K)}: labels for every frame of every recording, a report: {target: {...}} of weights and the test).

    teachers: {stage: its members}; fold_of: {id of a rated subject: its fold}; baseline: the visual baseline with which
    the audio teachers are tested, None: they are used untested.
    """
    preds = {stage: smoothed(out_of_fold(members, recordings, fold_of), frame_rate)
             for stage, members in teachers.items()}
    use = np.ones((len(teachers), len(targets)), bool)
    report = {target: {} for target in targets}
    if baseline is not None and "audio" in preds:
        unrated = [recording for recording in recordings if np.isnan(recording.gold).all(0).any()]
        for k, test in enumerate(confirmed(preds["audio"], predict(baseline, unrated), recordings)):
            use[[*preds].index("audio"), k] = test["passed"]
            report[targets[k]]["audio"] = test
    weights = stack([*preds.values()], recordings, use)
    for k, target in enumerate(targets):
        report[target]["weights"] = {stage: float(share) for stage, share in zip(preds, weights[:, k])}
    labels = {recording.name: sum(share * preds[stage][recording.name] for stage, share in zip(preds, weights))
              for recording in recordings}
    return calibrate(labels, recordings), report


def out_of_fold(members, recordings, fold_of):
    """Predictions of one teacher ensemble, {id: (N, K)}.

    members: its networks, each trained without one fold: the first of every fold, then the second of every fold, and so
    on; fold_of: {id of a rated subject: its fold}, of all folds. A rated subject is predicted by the mean of the
    members that were not trained on it, an unlabelled one by the mean of all.
    """
    preds, folds = defaultdict(list), len({*fold_of.values()})
    for number, member in enumerate(members):
        fold = number % folds
        for name, pred in predict(member, [one for one in recordings if fold_of.get(one.name, fold) == fold]).items():
            preds[name].append(pred)
    return {recording.name: np.mean(preds[recording.name], axis=0) for recording in recordings}


def smoothed(preds, frame_rate):
    """Predictions {id: (N, K)} as their mean over the SMOOTH_S seconds around each frame. A student must not look
    ahead, but its labels may: emotion changes slowly, a network's errors do not."""
    window = 2 * int(SMOOTH_S * frame_rate / 2) + 1
    return {name: np.stack([smooth(series, window, "mean") for series in pred.T], 1) for name, pred in preds.items()}


# ---- the confirmation test ------------------------------------------------------------------------------------------

def confirmed(preds, baseline, recordings):
    """Whether the audio teachers' predictions follow the subject they were made for: for each target {"passed": bool,
    "excess": mean excess correlation, "error": its standard error, "recordings": how many}.

    preds, baseline: {id: (N, K)}. The predictions of each recording are correlated over time with a reference: its
    ratings, or without any the predictions of the visual baseline. The correlation with other subjects' references is
    subtracted, since a corpus can have a course in common. A face and a voice share little but the emotion, so
    agreement by chance is unlikely (two views: Blum & Mitchell, 1998), and there are many unlabelled subjects. The mean
    must be more than SIGMAS standard errors above 0; with fewer than three recordings the test is not passed.
    """
    tests = []
    for k in range(recordings[0].gold.shape[1]):
        references = {recording.name: baseline[recording.name][:, k] if np.isnan(recording.gold[:, k]).all()
                      else recording.gold[:, k] for recording in recordings}
        excess = excess_correlation({name: series[:, k] for name, series in preds.items()}, references)
        mean, error = (float(np.mean(excess)), float(sem(excess))) if len(excess) > 2 else (0.0, float("inf"))
        tests.append({"passed": mean > SIGMAS * error, "excess": mean, "error": error, "recordings": len(excess)})
    return tests


def excess_correlation(preds, references):
    """How much more each series correlates with its own reference than, on average, with those of the next OTHERS
    subjects (in a circle): [r]. Empty for a single subject.

    preds, references: {id: (N,)}.
    """
    names, excess = [*references], []
    for number, name in enumerate(names):
        others = [*names[number + 1:], *names[:number]][:OTHERS]
        if others:
            own, *rest = (correlation(preds[name], references[other]) for other in (name, *others))
            excess.append(own - np.mean(rest))
    return excess


def correlation(one, other):
    """Pearson's r over the frames that both series have; 0 if one of them is constant."""
    both = np.stack([one[:len(other)], other[:len(one)]]).astype(float)
    both = both[:, np.isfinite(both).all(0)]
    return float(np.corrcoef(both)[0, 1]) if both.shape[1] > 1 and both.std(1).all() else 0.0


# ---- stacking and calibration ---------------------------------------------------------------------------------------

def centred(series):
    """A series with mean 0 over its frames: (N, ...) -> (N, ...)."""
    return series - series.mean(0)


def stack(preds, recordings, use):
    """Weights of G teachers for each target, (G, K), non-negative with sum 1: least squares to the ratings, where both
    are centred in each recording (stacking: Breiman, 1996). Equal weights if no teacher follows the ratings.

    preds: [{id: (N, K)} of each teacher]; use: (G, K) bool, which teacher may be used for which target.
    """
    weights = use.astype(float)
    for k in range(use.shape[1]):
        used, x, y = np.flatnonzero(use[:, k]), [], []
        for recording in recordings:
            valid = np.isfinite(recording.gold[:, k])
            if valid.sum() > 1:
                x.append(centred(np.stack([preds[g][recording.name][valid, k] for g in used], 1)))
                y.append(centred(recording.gold[valid, k]))
        fitted = nnls(np.concatenate(x), np.concatenate(y))[0] if x else np.zeros(len(used))
        weights[used, k] = fitted if fitted.any() else 1
    return weights / weights.sum(0)


def calibrate(labels, recordings):
    """Labels {id: (N, K)} with the mean of all ratings in every recording and, over all unlabelled recordings (over
    all, if there are none), the standard deviation of the ratings, differences between subjects included.

    The level of a subject's predictions mostly encodes identity (a deep voice, a stern face): a student that learned it
    would memorise faces. And predictions vary less than ratings, which CCC punishes.
    """
    gold = np.concatenate([recording.gold for recording in recordings])
    unlabelled = [recording for recording in recordings if np.isnan(recording.gold).all()] or recordings
    spread = np.concatenate([centred(labels[recording.name]) for recording in unlabelled]).std(0)
    scale = np.where(spread > CONSTANT, np.nanstd(gold, 0) / np.maximum(spread, CONSTANT), 0)
    return {name: np.nanmean(gold, 0) + scale * centred(series) for name, series in labels.items()}


# ---- files ----------------------------------------------------------------------------------------------------------

def describe(report):
    """The report of pseudo_labels() as text, a line or two for each target."""
    lines = []
    for target, about in report.items():
        if test := about.get("audio"):
            verdict = "confirmed" if test["passed"] else "not confirmed, not used"
            lines.append(f"{target}: audio teachers {verdict} (correlation with the same subject exceeds that with "
                         f"others by {test['excess']:+.2f}, standard error {test['error']:.2f}, {test['recordings']} "
                         "recordings)")
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in about["weights"].items())
        lines.append(f"{target}: weights of the teacher ensembles: {shares}")
    return "\n".join(lines)


def write_labels(folder, labels, report, targets, frame_rate):
    """Writes labels/<id>.csv of {id: (N, K)} into a run's folder, and the report to labels/teachers.json."""
    with whole_folder(folder / "labels") as part:
        for name, series in labels.items():
            table = pd.DataFrame(dict(zip(targets, series.astype(np.float32).T)))
            table.insert(0, "time_s", np.round(np.arange(len(series)) / frame_rate, 4))
            write_table(table, part / f"{name}.csv", digits=9)  # float32, exactly
        (part / "teachers.json").write_text(json.dumps(report, indent=1) + "\n")
        list_all(part)


def read_report(folder, targets=()):
    """The report in labels/teachers.json of a run. Raises UserError if it cannot be read, or lacks one of `targets`."""
    path, again = folder / "labels" / "teachers.json", f"delete {folder / 'labels'}/ and run again"
    try:
        report = read_json(path, again)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {again}") from None
    if wrong := next((name for name in (*report, *targets) if not _is_report(report.get(name))), None):
        raise UserError(f"{path} is damaged ({clipped(wrong)}): {again}")
    verify(path, again)
    return report


def _is_report(about):
    """Whether an entry of a report is as pseudo_labels() gives it."""
    weights, test = (about.get("weights"), about.get("audio", {})) if type(about) is dict else (None, None)
    numbers = ("excess", "error", "recordings")
    return (type(weights) is dict and bool(weights) and all(map(is_number, weights.values())) and type(test) is dict
            and (not test or type(test.get("passed")) is bool and all(
                 type(test.get(name)) in (int, float) for name in numbers)))


def read_labels(folder, recordings, targets):
    """Labels of some recordings, {id: (N, K) float32}. Raises UserError naming a file that is missing or does not
    fit."""
    labels, again = {}, f"delete {folder / 'labels'}/ and run again"
    for recording in recordings:
        path = folder / "labels" / f"{recording.name}.csv"
        try:
            table = read_table(path, again, ["time_s", *targets])
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): {again}") from None
        if len(table) != len(recording):
            raise UserError(f"{path} has {len(table)} rows for {len(recording)} frames: {again}")
        labels[recording.name] = table[targets].to_numpy(np.float32)
        for row in np.flatnonzero(~np.isfinite(labels[recording.name]).all(1)):
            raise UserError(f"{path} line {row + 2}: a label is missing or not finite: {again}")
        verify(path, again)
    return labels


def with_labels(recordings, labels):
    """Copies of the recordings with labels {id: (N, K)} where they have no valid rating; where they have others, with
    the mean difference of these from the labels added: a rated recording has its own level, labels do not."""
    return [dataclasses.replace(one, gold=filled(one.gold, labels[one.name])) for one in recordings]


def filled(gold, labels):
    """Ratings (N, K) with labels (N, K) in their gaps, at the level of the ratings of each target."""
    rated = ~np.isnan(gold)
    level = np.where(rated, gold - labels, 0).sum(0) / np.maximum(rated.sum(0), 1)
    return np.where(rated, gold, labels + level).astype(np.float32)
