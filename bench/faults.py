"""The fault drill: every script with damaged files, and disturbed at work. What was complete must stay as it is, what
is damaged must be named, and the next run must come to the result of an undisturbed one.

Draws a tiny corpus, runs every script on it undisturbed (twice: what differs then is no fault's doing), and then again
with one fault each: of fault_kinds.DAMAGES in a file that the script reads or wrote, or of fault_kinds.MOMENTS while it
works. For each:

    lost        a file that was complete is not what it was, nor what an undisturbed run makes of it; or half of one
    traceback   a traceback, or an end by a signal that nobody sent
    hang        no process of the script runs any more, but it has not ended
    silent      something damaged was used: results differ from the undisturbed ones, and nothing printed says why
    nameless    an error that names no file, or not the one that is damaged
    differs     when the fault is undone, as the message says, and the script runs again, the result is another one

    python bench/faults.py --faults 1000        10 minutes on 2 cores
    python bench/faults.py --list               the cases and what they read and write
    python bench/faults.py --only 'fifo*'       kind.number:case:file, as a failure is named; all of it repeats that one

Where file systems can be mounted (as root, not in most containers), a full disk is one of that size.
"""
import argparse
import collections
import fnmatch
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]
os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}

from fault_cases import CASES, draw, draw_results, in_other_form, is_text, kind_of, load
from fault_judge import COLUMNS, Known, judge_damage, judge_moment, lines_of, undo, unlike
from fault_kinds import (
    DAMAGES,
    DATA,
    KILLS,
    LATER,
    MOMENTS,
    ONCE,
    SAVED,
    TEXT_ONLY,
    can_mount,
    discard,
    mount,
    pages,
    unmount,
)
from fault_runs import Call, contents, counts_of, run, together

from support.machine import describe

NAME = re.compile(r"\w+\.\d+:")  # how the name of one fault begins


class Fault(NamedTuple):
    """One fault. Its name is what --only takes."""
    kind: str
    number: int  # from 0 to 999: where or when
    case: str
    path: str = ""  # of the file that is damaged

    @property
    def name(self): return f"{self.kind}.{self.number}:{self.case}" + f":{self.path}" * bool(self.path)

    @property
    def spoken(self): return CASES[self.case].spoken


# ---- the corpora and undisturbed runs -------------------------------------------------------------------------------

class Workshop:
    """The working folder: bases/<case>/data as each case finds it, done/<case>/data as it leaves it."""

    def __init__(self, root, names, one=False):
        self.root, self.names, self.scripts = root, names, load(names)
        self.one = one
        self.known, self.odd, self.mounts = {}, [], can_mount(root / "mount")
        for name in names:
            self.know(name)

    def call(self, name):
        return Call(self.scripts[CASES[name].script], CASES[name].words.split())

    def where(self, top, name):
        """Path of what a case needs: in the data folder that another one left, or in one before that."""
        path = self.corpus(name) / top
        return self.where(top, CASES[name].on) if not path.exists() and name in CASES else path

    def corpus(self, name):
        """The data folder that a case finds its files in: what another case left, or what is drawn."""
        if name in CASES:
            self.know(name)
            return self.root / "done" / name / DATA
        data = self.root / "done" / name / DATA
        if data.exists():
            return data
        if name == "results":
            data.parent.mkdir(parents=True)
            draw_results(data)
        elif name == "stopped":
            self.stop(data)
        elif name == "raw":
            draw(data)
        else:
            shutil.copytree(self.corpus("raw"), data)
            in_other_form(data, name)
        return data

    def stop(self, data):
        """What a teacher's training leaves that was stopped half-way."""
        self.know("mmpkd-cached")
        shutil.copytree(self.root / "bases" / "mmpkd-cached" / DATA, data)
        call = self.call("mmpkd-cached")
        ended = run(call._replace(words=[*call.words, "--save-steps", "1"]), data.parent,
                    (SAVED, 0, self.known["mmpkd-cached"].counts))
        if "and saved in epoch" not in ended.printed:
            raise SystemExit(f"the training that was to be stopped was not: {ended.printed}")

    def know(self, name):
        """Runs a case undisturbed: once counted, once more when all is done, and once again from the beginning."""
        if name in self.known:
            return
        case, place, base = CASES[name], self.root / "place", self.root / "bases" / name
        self.scripts |= load([name])
        for top in case.tops.split():
            _copy(self.where(top, case.on), base / DATA / top)
        for pattern in case.without.split():
            for path in list((base / DATA).glob(pattern)):
                discard(path)
        self.reset(place, base)
        first = run(self.call(name), place, counted=True)
        if first.code:
            raise SystemExit(f"{name} fails undisturbed (exit code {first.code}):\n{first.printed}")
        wanted = contents(place)
        _copy(place / DATA, self.root / "done" / name / DATA)
        counts = counts_of(place)
        self.reset(other := self.root / "other", base)
        with ThreadPoolExecutor(2) as pool:
            again, twin = pool.map(run, [self.call(name)] * 2, [place, other])
        self.odd += [f"{name}: {path} changes when it is run again" for path in unlike(contents(place), wanted)]
        self.odd += [f"{name}: {path} differs between undisturbed runs" for path in unlike(contents(other), wanted)]
        if case.spoken and lines_of(first.printed) != lines_of(twin.printed):
            self.odd.append(f"{name}: {lines_of(first.printed) ^ lines_of(twin.printed)} is not always printed")
        before = contents(base)
        self.known[name] = Known(before, wanted, (lines_of(first.printed), lines_of(again.printed)), counts,
                                 first.seconds, self.files(name, base))

    def files(self, name, base):
        """Paths of the files of a case that can be damaged: what it finds and reads, and what it writes."""
        found = {str(path.relative_to(base / DATA)) for path in (base / DATA).rglob("*") if path.is_file()}
        done = self.root / "done" / name / DATA
        left = {str(path.relative_to(done)) for path in done.rglob("*") if path.is_file()}
        return sorted({path for path in found if fnmatch.fnmatchcase(path, CASES[name].only)} | (left - found))

    def show(self, *ended):
        """Prints what scripts printed, if a single fault is repeated."""
        for one in ended if self.one else ():
            print(f"exit code {one.code} after {one.seconds:.1f} s:\n{one.printed}")

    def reset(self, place, source):
        """Makes a working folder what a case finds, or leaves."""
        unmount(place / DATA)
        discard(place)
        place.mkdir(parents=True)
        _copy(source / DATA, place / DATA)


def _copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


# ---- one fault ------------------------------------------------------------------------------------------------------

def drill(shop, fault, place):
    """{column: detail} of what went wrong with one fault, {} if nothing did."""
    found = damaged if fault.kind in DAMAGES else disturbed
    try:
        return found(shop, fault, place)
    finally:
        unmount(place / DATA)


def damaged(shop, fault, place):
    """A file is damaged, then the script runs; if it ends with an error, the fault is undone and it runs again."""
    known = shop.known[fault.case]
    base, full = (shop.root / name / fault.case for name in ("bases", "done"))
    done = not (base / DATA / fault.path).is_file()
    shop.reset(place, full if done else base)
    DAMAGES[fault.kind](place / DATA / fault.path, fault.number)
    before = contents(place)
    ended = run(shop.call(fault.case), place)
    shop.show(ended)
    page = page_of(place, fault.case) - page_of(full, fault.case)
    found = judge_damage(known, fault, before, ended, contents(place), page)
    if ended.code and not ended.hung:
        undo(place, base, fault, ended.printed)
        found |= rerun(shop, fault, place, base)
    return found


def page_of(place, case):
    """The texts of the page that a script writes, as a set; nothing for other scripts."""
    page = place / DATA / "plots" / "report.html"
    return set(re.split(r"[<>\n]", page.read_text())) if CASES[case].script == "report" and page.is_file() else set()


def disturbed(shop, fault, place):
    """A script is disturbed while it works, every other time after it was killed before; then it runs again."""
    known, call = shop.known[fault.case], shop.call(fault.case)
    shop.reset(place, shop.root / "bases" / fault.case)
    if fault.number % 2 and fault.kind in KILLS:
        run(call, place, ("kill", random.Random(fault.number).randrange(1000), known.counts))
    mounted = fault.kind in ("full", "read_only") and shop.mounts
    if mounted:
        limit(shop, fault, place)
    before, kill = contents(place), None
    if fault.kind in LATER:
        kill = known.seconds * fault.number / 1000, LATER[fault.kind]
    disturbance = None if kill or mounted or fault.kind == "two" else (fault.kind, fault.number, known.counts)
    ended = together([call] * (2 if fault.kind == "two" else 1), place, disturbance, kill=kill)
    shop.show(*ended)
    found = judge_moment(known, fault, before, ended, contents(place))
    if mounted:
        mount(place / DATA, 2**30, ",rw")
    for left in (ONCE, "sitecustomize.py"):
        (place / left).unlink(missing_ok=True)
    return found if any(one.hung for one in ended) else found | rerun(shop, fault, place)


def limit(shop, fault, place):
    """Puts the data folder of a working folder on a file system that is nearly full, or read-only."""
    source, done = (shop.root / name / fault.case / DATA for name in ("bases", "done"))
    discard(place / DATA)
    mount(place / DATA, 2**30)
    _copy(source, place / DATA)
    used = os.statvfs(place / DATA)
    needed = max(4096, pages(done) - pages(source))
    size = (used.f_blocks - used.f_bfree) * used.f_frsize + needed * fault.number // 1000 // 4096 * 4096
    mount(place / DATA, *((max(4096, size), "") if fault.kind == "full" else (2**30, ",ro")))


def rerun(shop, fault, place, base=None, asks=2):
    """What differs after the script has run again, from what an undisturbed one leaves.

    base: if the script may ask for something else to be deleted first, where that is restored from; asks: how often (a
    network, then the runs that were taught by it).
    """
    ended = run(shop.call(fault.case), place)
    shop.show(ended)
    if base and asks and ended.code and not ended.hung:
        undo(place, base, fault, ended.printed)
        return rerun(shop, fault, place, base, asks - 1)
    if ended.hung or ended.code:
        how = "hangs" if ended.hung else f"ends with exit code {ended.code}"
        return {"differs": f"the next run {how}: {ended.printed[-250:]}"}
    wrong = unlike(contents(place), shop.known[fault.case].wanted)
    return {"differs": ", ".join(wrong[:4])} if wrong else {}


# ---- which faults ---------------------------------------------------------------------------------------------------

def plan(shop, count, seed, only):
    """`count` Faults: every kind with every case and kind of file in turn, at random places and moments."""
    if NAME.match(only):
        kind, case, *path = only.split(":", 2)
        return [Fault(kind.split(".")[0], int(kind.split(".")[1]), case, *path)]
    draw, sorts = random.Random(seed), []
    for case, known in shop.known.items():
        if case not in shop.names:
            continue
        moments = [kind for kind in MOMENTS if (kind == "worker") == ("--workers 2" in CASES[case].words)
                   or kind in (*KILLS, "two") and "--workers 2" in CASES[case].words]
        sorts += [(kind, case, "") for kind in moments] * 3
        sorts += [(damage, case, kind) for kind in {*map(kind_of, known.files)} for damage in DAMAGES]
    faults = []
    while len(faults) < count and sorts:
        for damage, case, kind in draw.sample(sorted(sorts), len(sorts)):
            paths = [path for path in shop.known[case].files if kind_of(path) == kind] if kind else [""]
            fault = Fault(damage, draw.randrange(1000), case, draw.choice(paths))
            if fault.kind in TEXT_ONLY and not is_text(fault.path):
                continue
            if fnmatch.fnmatch(fault.name, only or "*"):
                faults.append(fault)
        if not faults:
            raise SystemExit(f"no fault is called {only}")
    return faults[:count]


def drill_all(shop, faults, workers):
    """[(Fault, what went wrong)] of all faults, by several processes; prints failures as they come."""
    files, drill_pid = [shop.root / f"found{number}.jsonl" for number in range(workers)], os.getpid()
    for number, file in enumerate(files):
        sys.stdout.flush()
        if not os.fork():
            try:
                with open(file, "w", buffering=1) as out:
                    for fault in faults[number::workers]:
                        if os.getppid() != drill_pid:  # the drill was killed
                            break
                        began = time.monotonic()
                        try:
                            found = drill(shop, fault, shop.root / f"place{number}")
                        except Exception:
                            found = {"drill": traceback.format_exc()}
                        out.write(json.dumps([fault, found, time.monotonic() - began]) + "\n")
                        for column, detail in found.items():
                            print(f"{column:10} {fault.name}\n           {detail}", flush=True)
            finally:
                os._exit(0)
    for _ in files:
        os.wait()
    return [(Fault(*fault), found, seconds) for file in files for fault, found, seconds in
            map(json.loads, file.read_text().splitlines())]


# ---- what came out --------------------------------------------------------------------------------------------------

def table(results):
    """Faults by kind and by script as text: how many there were, and how many of them went wrong."""
    scripts = sorted({CASES[fault.case].script for fault, _, _ in results})
    counts = collections.defaultdict(lambda: [0, 0])
    for fault, found, _ in results:
        for row in (fault.kind, "all"):
            for column in (CASES[fault.case].script, "all"):
                counts[row, column][0] += 1
                counts[row, column][1] += bool(found)
    short = {script: script.replace("face_detector_", "").replace("annotations", "annot.")[:13] for script in scripts}
    lines = [f"{'fault':12}" + "".join(f"{short.get(column, column):>14}" for column in [*scripts, "all"])]
    for row in [*(kind for kind in (*DAMAGES, *MOMENTS) if counts[kind, "all"][0]), "all"]:
        cells = (counts[row, column] for column in [*scripts, "all"])
        lines.append(f"{row:12}" + "".join(f"{f'{n}' + f' ({bad} bad)' * bool(bad) if n else '-':>14}"
                                           for n, bad in cells))
    return "\n".join(lines)


def totals(results, odd):
    """The sums, and what they are of."""
    sums = collections.Counter(column for _, found, _ in results for column in found)
    words = {"lost": "losses", "traceback": "tracebacks", "hang": "hangs", "silent": "silent uses",
             "nameless": "errors that do not name it", "differs": "next runs that differ", "drill": "drill broke"}
    lines = [f"{len(results)} faults", *(f"{sums[column]} {words[column]}" for column in (*COLUMNS, "drill"))]
    return ", ".join(lines) + "".join(f"\n{line}" for line in odd)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000, help="[1000]")
    parser.add_argument("--seed", type=int, default=0, help="of places and moments [0]")
    parser.add_argument("--only", default="", help="pattern of their names, or one name")
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="patterns [all]")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="[one per core]")
    parser.add_argument("--work-dir", help="[a temporary folder in memory, if there is /dev/shm]")
    parser.add_argument("--list", action="store_true", help="only list the cases")
    args = parser.parse_args(argv)
    names = [name for name in CASES if any(fnmatch.fnmatch(name, pattern) for pattern in args.cases)]
    if args.only and ":" in args.only:
        case = args.only.split(":")[1]
        names = [name for name in names if fnmatch.fnmatch(name, case)]
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    if args.work_dir:
        Path(args.work_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work_dir or shm, prefix="faults-") as folder:
        began = time.monotonic()
        shop = Workshop(Path(folder), names, bool(NAME.match(args.only)))
        if args.list:
            print(listing(shop))
            return 0
        print(f"{describe('torch')}\n{len(names)} cases ready in {time.monotonic() - began:.0f} s", flush=True)
        results = drill_all(shop, plan(shop, args.faults, args.seed, args.only), args.workers)
    print(f"\n{table(results)}\n\n{totals(results, shop.odd)} ({(time.monotonic() - began) / 60:.1f} minutes)")
    return 1 if shop.odd or any(found for _, found, _ in results) else 0


def listing(shop):
    """The cases as text: what can be damaged of each."""
    lines = []
    for name in shop.names:
        kinds = collections.Counter(map(kind_of, shop.known[name].files))
        lines.append(f"{name}: {CASES[name].script}.py {CASES[name].words}\n    "
                     + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
