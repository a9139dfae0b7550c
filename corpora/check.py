"""annotations.py --check: looks at everything that is there of a corpus, tells what to do, and writes one page of it.

Writes  plots/check.html, and nothing else
"""
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from corpora import features
from corpora.copies import alike, spelt_alike
from corpora.facts import Facts, facts_of
from corpora.findings import (
    ERROR,
    LEVELS,
    WARNING,
    Finding,
    differences,
    line_of,
    loudness_followed,
    never_negative,
    ordered,
    swapped,
    swapped_all,
)
from report_page.corpus import write_page
from report_page.table import counted
from support.errors import UserError
from support.machine import cores
from support.recordings import MODALITIES, UNLABELLED, fault_of_id


def check_corpus(places, read, cfg, before=()):
    """Looks at recordings {id: their set, "" if they are in none}, prints what is found, and writes the page.

    read: {id: function of the id that returns its (N, 2) ratings and notes}; before: Findings about the whole corpus.
    Raises UserError at the end, for an exit code of 1, if there is a finding of the level error.
    """
    faults = faults_of(places)
    with ThreadPoolExecutor(cores()) as pool:
        made = pool.map(lambda name: facts_of(name, places[name], read.get(name), cfg)
                        if name not in faults else Facts(name, places[name], cfg.frame_rate), places)
        facts = [*tqdm(made, "looking", len(places), unit=" recordings", leave=False, disable=None)]
    findings = [*before, *(Finding("name", (name,), why) for name, why in faults.items()), *findings_of(facts),
                *copies_found([one for one in facts if one.name not in faults], cfg), *unlike_features(facts),
                *unmade(facts)]
    page = write_page(cfg.plots_dir / "check.html", facts, findings, cfg.data_dir)
    for line in summary(facts, findings):
        print(line)
    print(f"{page}: every trace and faces of every recording; open it in a browser")
    errors = sum(kind.level == ERROR for kind, _ in ordered(findings))
    if errors:
        raise UserError(f"{counted(errors, 'kind')} of error found, listed above with what to do about each")
    return findings


def faults_of(names):
    """{id: why it cannot be the id of a recording}."""
    faults = {name: f"it looks the same as {ascii(other)}, but is spelt differently in Unicode ({ascii(name)})"
              for name, other in spelt_alike(names).items()}
    return faults | {name: why for name in names if (why := fault_of_id(name))}


def findings_of(facts):
    """Findings of the Facts of all recordings, of each by itself and compared with the others."""
    found = [Finding(kind, (one.name,), detail) for one in facts for kind, detail in dict.fromkeys(one.found)]
    broken = {name for one in found if one.kind in ("unrated", "clock", "equal", "constant") for name in one.recordings}
    rated = [one for one in facts if one.gold is not None and one.name not in broken]
    looks = {one.name: differences(one.gold, one.rate, one.levels) for one in rated}
    why = "exchanged, its means, spreads, paces and relation to the loudness of the sound are those of the others"
    found += [Finding("swapped", (name,), why) for name in swapped(looks)]
    follows = [loudness_followed(one.gold, one.rate, one.levels) for one in rated]
    if rated and (why := swapped_all([one.gold for one in rated], rated[0].rate, follows)):
        found.append(Finding("swapped_all", (), why))
    if rated and (why := never_negative([one.gold for one in rated])):
        found.append(Finding("positive", (), why))
    return found


def copies_found(facts, cfg):
    """Findings of recordings that are one and the same."""
    places = {one.name: one.place for one in facts}
    found = []
    for what, names, one, how in alike(list(places), cfg.videos_dir, cfg.audio_dir):
        sets = {places[name] for name in names if places[name]}
        kind = "same_sound" if not one else "copies_apart" if len(sets) > 1 else "copies"
        where = ", ".join(f"{name} in {places[name] or 'no set'}" for name in names)
        found.append(Finding(kind, tuple(names), f"the same {what}{how} ({where})"))
    return found


def unlike_features(facts):
    """Findings of features with other columns than those of the first recording."""
    found = []
    for modality in MODALITIES.values():
        there = [one for one in facts if modality in one.columns]
        for one in there[1:]:
            try:
                features.check_columns([there[0].columns[modality], one.columns[modality]])
            except UserError as error:
                found.append(Finding("features", (one.name,), str(error)))
    return found


def unmade(facts):
    """Findings of what only some recordings have, or none; those with features in its place do not lack it."""
    found = []
    used = [one for one in facts if one.place]
    for what, there, modality in (("video", "frames", "visual"), ("sound", "sound_s", "audio"),
                                  ("crops", "crops", "visual"), ("segments", "segments", "audio"),
                                  ("spectrograms", "spectrograms", "audio")):
        missing = tuple(one.name for one in used if getattr(one, there) is None and modality not in one.features)
        if missing and len(missing) < len(used):
            found.append(Finding("unmade", missing, f"no {what}"))
        elif missing:
            found.append(Finding("unmade", (), f"no recording has {what}"))
    return found


def summary(facts, findings):
    """Lines for the user: a line for each kind of finding, the worst first, and what to do about it."""
    rated = sum(one.gold is not None for one in facts)
    unlabelled = sum(one.place == UNLABELLED for one in facts)
    yield (f"{counted(len(facts), 'recording')} looked at: {rated} with ratings, {unlabelled} in {UNLABELLED}, "
           f"{sum(not one.place for one in facts)} in no set")
    kinds = ordered(findings)
    for kind, those in kinds:
        if kind.level in (ERROR, WARNING):
            yield f"{kind.level.upper()}: {kind.title}: {line_of(those)}"
            yield f"    {kind.do}"
    counts = {level: sum(kind.level == level for kind, _ in kinds) for level in LEVELS}
    yield "found: " + ", ".join(f"{counted(counts[level], 'kind')} of {level}s" for level in LEVELS)
