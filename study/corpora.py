"""The study's corpora: drawn subjects that went through every script, and views of them: who is rated, who is not."""
import contextlib
import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

import annotations
import audio_extract
import audio_melspec
import face_detector_frameRetention
from demo import call
from drawn import FRAME_RATE
from drawn.people import Recording as Drawn
from drawn.people import write_recording
from study.methods import FACES, RATE, SPECS
from support.errors import UserError
from support.files import there, whole_file
from support.reading import read_text
from support.recordings import PARTITIONS, UNLABELLED
from support.workers import begin_worker


def quiet_worker():
    """Begins a process of a pool: one progress bar, that of the study, is enough."""
    os.environ["TQDM_DISABLE"] = "1"
    begin_worker()


def stop(pool):
    """Ends the processes of a pool. Each saves its state; one that then starts a queued job is stopped again."""
    processes = list(pool._processes.values())
    pool.shutdown(wait=False, cancel_futures=True)
    while alive := [process for process in processes if process.is_alive()]:
        for process in alive:
            process.terminate()
        multiprocessing.connection.wait([process.sentinel for process in alive], timeout=5)


# ---- drawing --------------------------------------------------------------------------------------------------------

def draw_corpus(folder, setting, seed, workers):
    """Draws a setting's subjects as a corpus ships, and runs every script on them."""
    check_drawn(folder, facts_of(setting, seed))
    names = [f"person_{number + 1}" for number in range(setting.subjects)]
    missing = [(number, name) for number, name in enumerate(names)
               if not Path(folder, "ratings_gold_standard", f"{name}.csv").exists()]
    if missing:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), quiet_worker) as pool:
            work = pool.map(partial(draw_subject, folder, setting, seed), missing)
            try:
                list(tqdm(work, f"drawing {folder.name}", len(missing), unit=" subjects", disable=None, leave=False))
            except BaseException:  # without this, the pool would draw all others first
                stop(pool)
                raise
    annotated = (folder / "Annotations" / PARTITIONS["train"] / f"{name}.csv" for name in names)
    if (folder / ".made").exists() and all(path.exists() for path in annotated):
        return
    data, rate = {"data_dir": folder}, {"frame_rate": RATE}
    with open(folder / "log.txt", "a", buffering=1) as log, contextlib.redirect_stdout(log):
        call(annotations, **data, **rate, train_ids="person_*")
        call(face_detector_frameRetention, **data, **rate, **FACES, look_every=1)
        call(audio_extract, **data, **rate)
        call(audio_melspec, **data, **SPECS)
    (folder / ".made").touch()


def draw_subject(folder, setting, seed, numbered_name):
    """Draws one subject, RATE frames and ratings per second. The ratings are written last: they mark it as whole."""
    number, name = numbered_name
    drawn = Drawn.draw((seed, number), setting.seconds * FRAME_RATE, setting.world)
    write_recording(folder, name, drawn, step=int(FRAME_RATE / RATE))


def facts_of(setting, seed):
    """All that a corpus is drawn and preprocessed with, as a dict; seed: of its subjects."""
    facts = dataclasses.asdict(setting) | {"seed": seed, "rate": RATE, **FACES, **SPECS}
    return {name: value for name, value in facts.items() if name not in ("description", "rated")}


def check_drawn(folder, facts):
    """Notes the facts of a corpus in its folder. Raises UserError if it was drawn with others."""
    note, text = folder / "drawn.json", json.dumps(facts, indent=1) + "\n"
    if there(note) and read_text(note, "delete the folder") != text:
        raise UserError(f"{folder}/ was drawn with other settings than those of study/methods.py now: delete it")
    with whole_file(note) as part:
        part.write_text(text)


# ---- views ----------------------------------------------------------------------------------------------------------

def split(setting, rated, draw, seed, view=""):
    """{partition: numbers of subjects} of a draw: the first `rated` of a permutation of the pool, the last ones of it
    unlabelled, and the reported ones, which are the same for all draws.

    seed: of the corpus. So fewer rated subjects are some of the more, and all cases of a draw have the same unlabelled.
    view: in "oracle" the unlabelled subjects are rated, too.
    """
    order = np.random.default_rng((seed, draw)).permutation(setting.pool)
    rated, unlabelled = order[:rated], order[setting.pool - setting.unlabelled:]
    reported = np.arange(setting.pool, setting.subjects)
    if view == "oracle":
        rated, unlabelled = np.concatenate([rated, unlabelled]), unlabelled[:0]
    return {PARTITIONS["train"]: rated, UNLABELLED: unlabelled, PARTITIONS["val"]: reported}


def make_view(corpus, folder, subjects, other_voice=False):
    """A data folder with its own Annotations/, and links to the corpus' crops and spectrograms.

    subjects: of split(); other_voice: everyone has the spectrograms of the next one of the same partition. That differs
    in the links alone, so that visual runs are the same.
    """
    (folder / "specs").mkdir(parents=True, exist_ok=True)
    link(folder / "Cropped_Aligned", corpus / "Cropped_Aligned")
    link(folder / "specs" / "settings.json", corpus / "specs" / "settings.json")
    for partition, numbers in subjects.items():
        for place, number in enumerate(numbers):
            name, voice = (f"person_{one + 1}" for one in (number, numbers[(place + other_voice) % len(numbers)]))
            link(folder / "specs" / name, corpus / "specs" / voice)
            table = pd.read_csv(corpus / "Annotations" / PARTITIONS["train"] / f"{name}.csv", dtype=str,
                                keep_default_na=False)
            if partition == UNLABELLED:
                table = table[["image path", "spec path"]]
            text = table.to_csv(index=False, lineterminator="\n")
            annotations.write_table(folder / "Annotations" / partition / f"{name}.csv", text)


def link(path, target):
    """Makes a link, unless it is there."""
    with contextlib.suppress(FileExistsError):
        path.symlink_to(target.resolve())
