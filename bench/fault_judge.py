"""What bench/faults.py expects after a fault, and how a user undoes it."""
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from fault_cases import OWN, kind_of
from fault_kinds import DATA, KILLS, LATER, discard
from fault_runs import HASHED

COLUMNS = ["lost", "traceback", "hang", "silent", "nameless", "differs"]
ON_THE_WAY = ("last.pt", "best.pt", "log.jsonl", "curves.png")  # of a run: they change while it trains
# The user's own files carry no checksum: another valid file is another corpus, and nobody can tell
UNKNOWABLE = {(damage, kind) for damage in ("flip", "exchange", "remove") for kind in OWN} | {
    (damage, kind) for damage in ("at_line", "cut") for kind in ("subjects.csv", "results", "ratings table")} | {
    (damage, "annotations") for damage in ("flip", "exchange", "remove")} | {  # to edit, or delete to train without it
    ("exchange", "log.jsonl")}  # of another run: curves and --list alone are made of it
REASON = re.compile(r"damage|unread|cannot|missing|cut|break|broke|ends|silent|left out|chang|drop|fewer|without"
                    r"|invalid|\bno\b|\bnot\b|delete|mask|warning|lack|again|differ|expected|error|version",
                    re.IGNORECASE)
TIMES = re.compile(r"\d+(\.\d+)? ?(s|ms|minutes|MB|frames/s)\b")
SETS = {"train", "val", "arousal", "valence", "labels", "predictions", "settings", "subjects", "config", "best", "last"}


class Known(NamedTuple):
    """What is known of a case from its undisturbed runs."""
    before: dict  # contents of what it finds
    wanted: dict  # ... and of what it leaves
    printed: tuple  # lines that it prints, and that it prints when everything is done, as sets
    counts: tuple  # fault_runs.counts_of
    seconds: float
    files: list  # paths of the files that can be damaged


def lines_of(printed):
    """What a script printed, as a set of lines in which seconds and sizes are masked."""
    return {TIMES.sub("#", line).strip() for line in printed.splitlines()}


def unlike(one, other, but=()):
    """Paths in which two contents differ, except some and what lies in them."""
    return sorted(path for path in one.keys() | other.keys()
                  if one.get(path) != other.get(path) and not path.endswith(".failed")
                  and not any(path == name or path.startswith(f"{name}/") for name in but))


def losses(before, after, wanted, but=()):
    """Paths of files that are neither what they were nor what they should be, and of new ones that are not whole."""
    lost = [path for path in before if after.get(path) not in (before[path], wanted.get(path))]
    half = [path for path in after if path not in before and after[path] != wanted.get(path)]
    return [path for path in lost + half if path not in but and Path(path).name not in ON_THE_WAY
            and not path.startswith("cache/") and not path.endswith(".failed")]


def names_of(path):
    """What may stand in a message for a file of the data folder: its path, its recording, its run."""
    parts = Path(path).parts
    words = {part for part in (*parts[1:], Path(path).stem) if not part.endswith("_Set")}
    inside = {f"{DATA}/{Path(path).parent}/"} if len(parts) > 1 else set()
    return {path} | inside | {word for word in words if word not in SETS and len(word) > 2}


def judge_damage(known, fault, before, ended, after, page=()):
    """{column: detail} of what is wrong after a script found a damaged file.

    page: what a page that the script wrote says and else does not, as lines.
    """
    usual = known.printed[0] | known.printed[1]
    said = [line for line in ended.printed.splitlines() if TIMES.sub("#", line).strip() not in usual] + [*page]
    kind, found = kind_of(fault.path), _common(ended)
    path = HASHED.sub(".npy", fault.path)
    lost = losses(before, after, known.wanted, but=(path,))
    named = any(name in line for line in said for name in names_of(fault.path))
    knowable = (fault.kind, kind) not in UNKNOWABLE and not (
        fault.kind == "exchange" and kind == "best.pt" and fault.case.startswith("predict"))  # it says which one it is
    if ended.hung or "traceback" in found or not knowable and ended.code == 0:
        return found
    if ended.code == 0:
        results = unlike(after, known.wanted, but=(path,))
        explained = named and any(map(REASON.search, said))
        remade = after.get(path) == known.wanted.get(path)
        if (results or said and fault.spoken and not remade) and not explained:
            found["silent"] = f"{results[0] if results else 'printed'}: {(said or ['nothing'])[0][:160]}"
        return found
    if lost and knowable:
        found["lost"] = ", ".join(lost[:3])
    error = " | ".join(said)
    if not re.search(rf"{DATA}/\S", error) or knowable and not named and fault.kind != "future":
        found["nameless"] = error[-300:]
    return found


def _common(ended):
    """What must not happen after any fault."""
    if ended.hung:
        return {"hang": (ended.printed.splitlines() or ["nothing printed"])[-1][:160]}
    if "Traceback (most recent" in ended.printed or ended.code == 70 or ended.code in (-6, -7, -8, -11):
        return {"traceback": f"exit code {ended.code}: {(ended.printed.splitlines() or [''])[-1][:200]}"}
    return {}


def judge_moment(known, fault, before, ended, after):
    """The same of scripts that were disturbed at work."""
    found = {}
    for one in ended:
        found |= _common(one)
    lost = losses(before, after, known.wanted)
    if lost:
        found["lost"] = ", ".join(lost[:3])
    if fault.kind in (*KILLS, *LATER, "memory", "worker", "two"):
        return found
    (one,) = ended
    if one.code == 0 and unlike(after, known.wanted):
        found["silent"] = f"exit code 0, but {unlike(after, known.wanted)[0]} is not as it should be"
    elif one.code and not found and not re.search(rf"{DATA}/\S|{DATA}:", one.printed):
        found["nameless"] = one.printed[-300:]
    return found


# ---- as the message says --------------------------------------------------------------------------------------------

DELETE = re.compile(rf"delete (?:all of )?({DATA}/[^\s,;:()]+)")
THAT = re.compile(rf"({DATA}/[^\s,;:()]+).*?(?:delete (?:that |the )?(?:file|folder|link|it\b)|empty it)")
BOTH = re.compile(rf"({DATA}/[^\s,;:()]+)(?=.*delete both)")


def undo(place, pristine, fault, printed):
    """Removes what is damaged and what the message says to delete; what the script does not make itself is restored."""
    doomed = {DATA + "/" + fault.path}
    for line in printed.splitlines():
        doomed |= {name.rstrip("/.") for name in [*DELETE.findall(line), *THAT.findall(line), *BOTH.findall(line)]}
    for name in sorted(doomed):
        if name == DATA or ".." in name:
            continue
        discard(place / name)
        source = pristine / name
        if source.is_dir():
            shutil.copytree(source, place / name, symlinks=True)
        elif source.exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place / name)
