"""Runs that differ in their seed alone: one method, and the mean of their predictions."""
import json
from collections import Counter
from typing import NamedTuple

import numpy as np

from config import Config
from runs import settings_of
from scores import mean_tables

MEAN = "+mean"  # at the end of a mean's name; no run's folder has a + in its name


class Method(NamedTuple):
    """Runs that differ in their seeds alone, {seed: run}; name: that of the first, without its variant."""
    name: str
    runs: dict

    @property
    def first(self): return next(iter(self.runs.values()))
    @property
    def stage(self): return self.first.stage
    @property
    def targets(self): return self.first.targets


def settings_to_compare(run):
    """Settings that a run depends on, {name: value}; {} if its config.json cannot be read."""
    return settings_of(Config(**run.settings)) | {"epochs": run.settings.get("epochs")} if run.settings else {}


def methods_of(runs):
    """[Method]: runs with the same settings but `seed` and `variant`, each with a seed of its own."""
    groups = {}
    for run in runs:
        same = {key: value for key, value in settings_to_compare(run).items() if key not in ("seed", "variant")}
        key = json.dumps([run.stage, run.targets, same], default=str) if same else run.name
        group = groups.setdefault(key, {})
        seed = run.settings.get("seed", 0)
        if seed in group:  # trained twice: a row of its own
            group = groups.setdefault(run.name, {})
        group[seed] = run
    names = Counter(plain_name(next(iter(group.values()))) for group in groups.values())
    firsts = {key: next(iter(group.values())) for key, group in groups.items()}
    return [Method(plain_name(firsts[key]) if names[plain_name(firsts[key])] == 1 and len(group) > 1
                   else firsts[key].name, group) for key, group in groups.items()]


def plain_name(run):
    """Name of a run without its variant."""
    return run.name.removesuffix(f"_{run.variant}") if run.variant else run.name


# ---- the mean of their predictions ----------------------------------------------------------------------------------

def with_means(runs):
    """The runs, and after the last run of a method the mean of its predictions, as a Run, if it has several seeds that
    were trained on the same ratings."""
    methods = [method for method in methods_of(runs) if len(method.runs) > 1 and same_ratings(method)]
    names = Counter(plain_name(method.first) for method in methods)
    means = {}
    for method in methods:
        plain = plain_name(method.first)
        name = (plain if names[plain] == 1 else method.first.name) + MEAN
        means[[*method.runs.values()][-1].name] = mean_run(name, [*method.runs.values()])
    return [each for run in runs for each in (run, means.get(run.name)) if each]


def mean_run(name, runs):
    """The mean of predictions for Val_Set, as a Run of that name. It has no post-processing, whose constants are those
    of one network; what it says of the training recordings is the first run's."""
    return runs[0]._replace(name=name, members=tuple(run.name for run in runs), held_out={},
                            val=mean_tables([run.val for run in runs]))


def same_ratings(method):
    """Whether all runs of a method were trained on the same recordings with the same ratings."""
    golds = [{(name, target): table[f"{target}_gold"].to_numpy() for name, table in run.train.items()
              for target in run.targets} for run in method.runs.values()]
    return all(gold.keys() == golds[0].keys() and all(
        np.array_equal(gold[key], golds[0][key], equal_nan=True) for key in gold) for gold in golds)
