"""The study's files: a row per run, target and subject, which methods are compared by, and one of the labels that a
student learned from; and the confirmation tests."""
import functools
from typing import NamedTuple

import numpy as np
import pandas as pd

from study.methods import METHODS, SETTINGS
from study.statistics import interval
from support.columns import read_table
from support.errors import UserError
from support.files import claimed, there, whole_file
from support.recordings import TARGETS, natural_key

ALL_TARGETS = (*TARGETS, "both")  # both: the mean of the two
LEVELS = {"raw": "raw", "causal": "causal", "centred": "recording"}  # column of the results: level of postprocessing.py
# In place of a recording: all reported ones; the pseudo-labels of the unlabelled ones (mean of their CCCs)
WHOLE, LABELS = "concatenated", "labels"
RUN = ["setting", "rated", "draw", "method", "seed"]


class Form(NamedTuple):
    """What a file holds: columns that name a row, numbers, texts."""
    keys: list
    numbers: list
    texts: list

    @property
    def columns(self):
        return [*self.keys, *self.numbers, *self.texts]


# seconds: of training and validation; settings: a hash of what the run depends on, without draw and seed
RESULTS = Form([*RUN, "target", "recording"], [*LEVELS, "seconds"], ["machine", "settings"])
# The confirmation test of a student's audio teachers: excess correlation, its standard error, how many recordings
GATE = Form([*RUN, "target"], ["passed", "excess", "error", "recordings"], ["settings"])
COUNTS = ["rated", "draw", "seed"]


def gate_file(file):
    """The file of the confirmation tests beside one of results: results.csv -> results_gate.csv."""
    return file.with_name(f"{file.stem}_gate.csv")


def read_results(path, form=RESULTS):
    """The table of a file, empty if there is none. Raises UserError, naming the line, if it is not as merge() writes
    it."""
    if not there(path):
        return pd.DataFrame(columns=form.columns)
    again = "delete it and run experiment.py again"
    texts = [name for name in [*form.keys, *form.texts] if name not in COUNTS]
    table = read_table(path, again, [*COUNTS, *form.numbers], texts)
    for name in [*COUNTS, *form.numbers]:
        for row in np.flatnonzero(~np.isfinite(table[name])):
            raise UserError(f"{path} line {table.index[row]}: no {name}: {again}")
    for name, known in (("setting", SETTINGS), ("method", METHODS)):
        for row in np.flatnonzero(~table[name].isin([*known])):
            raise UserError(f"{path} line {table.index[row]}: no {name} of the study is {table[name].iloc[row]!r}: "
                            "delete its rows, or see the git tag that they were trained at")
    return table[form.columns].astype(dict.fromkeys(COUNTS, int)).reset_index(drop=True)


def merge(rows, path, form=RESULTS):
    """The whole table after `rows`, of whole runs, replaced all earlier ones of these runs in the file. Several
    processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with claimed(path.parent, "written", wait=True):
        before, rows = read_results(path, form), pd.DataFrame(rows, columns=form.columns)
        before = before[~of_runs(before, rows)]  # other subjects' rows, too, were another setting's
        parts = [table for table in (before, rows) if len(table)]
        table = in_order(pd.concat(parts) if parts else before, form)
        with whole_file(path) as part:
            table.to_csv(part, index=False, lineterminator="\n")
    return table


def of_runs(table, others):
    """(N,) whether a row of a table is of a run that another table has, too."""
    return pd.MultiIndex.from_frame(table[RUN]).isin(pd.MultiIndex.from_frame(others[RUN]))


def in_order(table, form):
    """The table by settings, rated subjects, draws, methods, seeds, targets and recordings, as they are listed."""
    places = {"setting": {name: k for k, name in enumerate(SETTINGS)},
              "method": {name: k for k, name in enumerate(METHODS)}}
    if "recording" in form.keys:
        names = sorted(set(table["recording"]), key=natural_key)
        places["recording"] = {name: k for k, name in enumerate(names)}
    return table.sort_values(form.keys, kind="stable", ignore_index=True, key=lambda column: (
        column.map(places[column.name]) if column.name in places else column))


def take_in(path, today):
    """Brings the results of other machines, <stem>.<word>.csv beside the file, into it.

    Runs that the file has are kept, but for outdated ones that the other file has as they are today. today: {run: hash
    of its settings today}.
    """
    for form, own in ((RESULTS, path), (GATE, gate_file(path))):
        for other in sorted(own.parent.glob(f"{own.stem}.*.csv")):
            known, new = read_results(own, form), read_results(other, form)
            fresh = ~of_runs(new, known[is_of(known, today)]) & (is_of(new, today) | ~of_runs(new, known))
            merge(new[fresh], own, form)
            print(f"{other}: {fresh.sum()} of {len(new)} rows were new to {own.name}")


def is_of(table, today):
    """(N,) whether a row is of the settings that its run has today, {run: hash}."""
    runs = table[RUN].itertuples(index=False, name=None)
    return np.array([today.get(run) == settings for run, settings in zip(runs, table["settings"])], bool)


def runs_in(path):
    """{(setting, rated, draw, method, seed): hash of its settings} of the runs in a file of results."""
    table = read_results(path).drop_duplicates(RUN)
    return dict(zip(table[RUN].itertuples(index=False, name=None), table["settings"]))


# ---- comparisons ----------------------------------------------------------------------------------------------------

class Results:
    """A table of results, to ask for differences: of a case (setting, rated), methods, a target or "both", a level."""

    def __init__(self, table, settings):
        self.table, self.settings = table, settings
        self.parts = {key: part for key, part in table.groupby(["setting", "rated", "method", "target"])}
        self.matrix = functools.cache(self._matrix)
        self.paired = functools.cache(self._paired)

    def cases(self):
        """[(setting, rated)] that are there, in order."""
        return [*dict.fromkeys(zip(self.table["setting"], self.table["rated"]))]

    def whole(self):
        """The Results of those cases in which every method has the same runs: no chain of them is still in training."""
        whole = [case for case in self.cases() if len({
            tuple(self.matrix(case, method, TARGETS[0]).index) for method in self.methods(case)}) == 1]
        of_case = pd.MultiIndex.from_frame(self.table[["setting", "rated"]])
        return Results(self.table[of_case.isin(whole)] if whole else self.table.iloc[:0], self.settings)

    def has(self, case):
        """Whether a case is one of the study, though it may not have been run yet."""
        setting, rated = case
        return setting in self.settings and rated in self.settings[setting].rated

    def name_of(self, case, unlabelled=None):
        """A case in words: `much`, 12 + 48: its numbers of rated and unlabelled subjects."""
        setting, rated = case
        return f"`{setting}`, {rated} + {self.settings[setting].unlabelled if unlabelled is None else unlabelled}"

    def methods(self, case):
        """The methods that were run in a case, in order."""
        here = {key[2] for key in self.parts if key[:2] == case}
        return [method for method in METHODS if method in here]

    def _matrix(self, case, method, target, level="raw", only=""):
        """CCC of every run and subject as a table, index (draw, seed), columns the subjects, or `only` WHOLE or LABELS;
        empty if the method has none there."""
        if target == "both":
            parts = [self.matrix(case, method, each, level, only) for each in TARGETS]
            return (sum(parts) / len(parts)).dropna() if all(part.size for part in parts) else parts[0].iloc[:0]
        rows = self.parts.get((*case, method, target), self.table.iloc[:0])
        rows = rows[rows["recording"] == only if only else ~rows["recording"].isin([WHOLE, LABELS])]
        return rows.pivot(index=["draw", "seed"], columns="recording", values=level)

    def _paired(self, case, pair, target="both", level="raw", of=None):
        """Difference of the first method of a pair from the second over subjects, seeds and draws, with its interval:
        (mean, low, high); None if they have no run in common.

        level: of both, or a pair of levels; of: a method whose difference from the second divides it. Runs are paired
        by draw, seed and subject.
        """
        (method, against), (level, other_level) = pair, (level, level) if isinstance(level, str) else level
        other = self.matrix(case, against, target, other_level)
        over = [self.matrix(case, name, target, level) for name in (method, of) if name]
        runs = sorted(set(other.index).intersection(*(each.index for each in over)))
        subjects = other.columns.intersection(over[0].columns)
        if not runs:
            return None
        differences = [(each.loc[runs, subjects] - other.loc[runs, subjects]).to_numpy(float) for each in over]
        return interval(differences[0], tuple(draw for draw, _ in runs), *differences[1:])
