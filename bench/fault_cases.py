"""The scripts of bench/faults.py, with what each finds; every corpus is made by the scripts before it in the table."""
import fnmatch
import importlib
import os
import random
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from fault_kinds import DATA

from drawn.people import FRAME_RATE, SOUND_RATE, Recording, write_video

ROOT = Path(__file__).parent.parent
FRAMES = 40  # of a recording
RATED = ["train_1", "train_2", "dev_1"]
UNRATED = "x_1"
NO_FACE = range(12, 20)  # frames of every recording

NETWORKS = ("--visual-backbone tiny_cnn --audio-backbone tiny_cnn --feature-size 8 --gru-size 8 --epochs 2 "
            "--epoch-steps 2 --clip-length 10 --clip-stride 1 --batch-size 2 --learning-rate 0.001 --device cpu "
            "--teacher-folds 2 --target both --workers 1 --resume --stage ")
ON_DATA = f"--data-dir {DATA} "
ONE = " --workers 1"


class Case(NamedTuple):
    """One call of one script."""
    script: str
    words: str
    on: str  # the case (or corpus) that leaves what this one finds
    tops: str  # what of that it needs: names in the data folder
    only: str = "*"  # files of what it finds that are damaged; what it writes always is
    without: str = ""  # what is deleted of it before: patterns
    spoken: bool = True  # whether its output is the same every time, but for seconds


TRAINED = "Annotations Cropped_Aligned subjects.csv specs"
CASES = {
    "annotations": Case("annotations", ON_DATA, "raw", "videos audio ratings_gold_standard subjects.csv"),
    "annotations-raters": Case("annotations", ON_DATA, "raters", "videos ratings_gold_standard", "ratings*"),
    "annotations-avec": Case("annotations", ON_DATA, "avec", "videos ratings_gold_standard", "ratings*"),
    "annotations-affwild2": Case("annotations", ON_DATA, "affwild2", "videos ratings_gold_standard", "ratings*"),
    "annotations-table": Case("annotations", ON_DATA, "table", "videos ratings_gold_standard", "ratings*"),
    "face_detector": Case("face_detector", ON_DATA + "--face-size 32" + ONE, "annotations", "videos Annotations "
                          "audio subjects.csv", "videos*"),
    "frameRetention": Case("face_detector_frameRetention", ON_DATA + "--face-size 32" + ONE, "face_detector",
                           "videos Cropped_Aligned", "Crop*"),
    "audio_extract": Case("audio_extract", ON_DATA + ONE, "face_detector",
                          "audio videos Annotations Cropped_Aligned subjects.csv"),
    "audio_extract-video": Case("audio_extract", ON_DATA + ONE, "raw", "videos"),
    "audio_extract-workers": Case("audio_extract", ON_DATA + "--workers 2", "raw", "audio", "-"),
    "audio_melspec": Case("audio_melspec", ON_DATA + "--n-mels 16" + ONE, "audio_extract",
                          "audio_segments Annotations Cropped_Aligned subjects.csv", "audio_segments*"),
    "melspec-video": Case("audio_melspec", ON_DATA + "--n-mels 16" + ONE, "audio_extract-video", "audio_segments"),
    "audio_melspec-array": Case("audio_melspec", ON_DATA + "--n-mels 16 --spec-files array" + ONE, "audio_extract",
                                "audio_segments Annotations Cropped_Aligned subjects.csv", "audio_segments*"),
    "mmpkd-visual": Case("mmpkd", ON_DATA + NETWORKS + "visual", on="audio_melspec", tops=TRAINED, only="[!s]*"),
    "mmpkd-teacher": Case("mmpkd", ON_DATA + NETWORKS + "teacher", on="mmpkd-visual", tops=TRAINED + " runs"),
    "mmpkd-array": Case("mmpkd", ON_DATA + NETWORKS + "teacher", on="audio_melspec-array", tops=TRAINED, only="specs*"),
    "mmpkd-cached": Case("mmpkd", ON_DATA + NETWORKS + "teacher", on="mmpkd-teacher", tops=TRAINED + " cache runs",
                         without="runs/teacher*"),
    "mmpkd-stopped": Case("mmpkd", ON_DATA + NETWORKS + "teacher", on="stopped", tops=TRAINED + " cache runs"),
    "mmpkd-student": Case("mmpkd", ON_DATA + NETWORKS + "student --distill cosine", on="mmpkd-teacher",
                          tops=TRAINED + " cache runs"),
    "mmpkd-ensembles": Case("mmpkd", ON_DATA + NETWORKS + "all --distill pseudo", on="mmpkd-student",
                            tops=TRAINED + " cache runs", only="-"),
    "mmpkd-pseudo": Case("mmpkd", ON_DATA + NETWORKS + "student --distill pseudo", on="mmpkd-ensembles",
                         tops=TRAINED + " cache runs", without="runs/*pseudo"),
    "mmpkd-list": Case("mmpkd", ON_DATA + "--list", "mmpkd-student", "runs"),
    "plot_ccc": Case("plot_ccc", ON_DATA, "mmpkd-student", "Cropped_Aligned runs"),
    "report": Case("report", ON_DATA, "mmpkd-ensembles", "Cropped_Aligned specs runs", "[!s]*"),
    "predict": Case("predict", f"{DATA}/runs/student_both_cosine/best.pt {DATA}/videos --overlay --out "
                    f"{DATA}/predictions" + ONE, "mmpkd-student", "videos runs", "*student*/best.pt"),
    "predict-teacher": Case("predict", f"{DATA}/runs/teacher_both/best.pt {DATA}/videos --out {DATA}/predictions" + ONE,
                            "mmpkd-student", "videos runs", "videos*"),
    "export": Case("export", f"{DATA}/runs/student_both_cosine/best.pt", "mmpkd-student", "videos runs", "*/best.pt",
                   spoken=False),
    "predict-onnx": Case("predict", f"{DATA}/runs/student_both_cosine/best.onnx {DATA}/videos --out "
                         f"{DATA}/predictions" + ONE, "export", "videos runs", "*.onnx"),
    "experiment": Case("experiment", ON_DATA + "--quick --report", "results", "results.csv"),
}

# Kinds of files: pattern of the path in the data folder, what they are called, whether they are the user's own
FILES = [("videos/*", "video"), ("audio/*", "sound"), ("ratings_gold_standard/ratings.csv", "ratings table"),
         ("ratings_gold_standard/*", "ratings"),
         ("results.csv", "results"), ("*settings.json", "settings.json"),
         ("Annotations/*", "annotations"), ("*faces.csv", "faces.csv"), ("Cropped_Aligned/*/*.jpg", "crop"),
         ("Cropped_Aligned/*.jpg", "contact sheet"), ("audio_segments/*.wav", "segment"),
         ("specs/*.png", "spectrogram"), ("specs/*.npy", "array"), ("cache/*", "cache"), ("*/labels/*.csv", "label"),
         ("runs/*/predictions/*", "prediction"), ("predictions/*", "prediction"), ("plots/*.png", "plot"),
         ("*.onnx", "onnx")]
OWN = ["video", "sound", "ratings", "ratings table", "subjects.csv", "results"]


def kind_of(path):
    """What a file of the data folder is called in the table, such as "crop" or "last.pt"."""
    return next((kind for pattern, kind in FILES if fnmatch.fnmatchcase(path, pattern)), Path(path).name)


def is_text(path):
    return Path(path).suffix in (".csv", ".json", ".jsonl", ".arff", ".txt")


# ---- the corpora as they come ---------------------------------------------------------------------------------------

def draw(data):
    """Videos with sound, sounds and ratings (arousal;valence), a subject of two recordings."""
    for folder in ("videos", "audio", "ratings_gold_standard"):
        (data / folder).mkdir(parents=True)
    for number, name in enumerate([*RATED, UNRATED]):
        drawn = Recording.draw((7, number), FRAMES)
        grey = np.full_like(next(drawn.frames()), 128)
        pictures = [grey if k in NO_FACE else picture for k, picture in enumerate(drawn.frames())]
        write_video(data / "videos" / f"{name}.mp4", pictures, drawn.sound, FRAME_RATE, quick=True)
        soundfile.write(data / "audio" / f"{name}.wav", drawn.sound, SOUND_RATE, subtype="PCM_16")
        if name in RATED:
            np.savetxt(data / "ratings_gold_standard" / f"{name}.csv", drawn.gold, "%.4f", ";")
    (data / "subjects.csv").write_text("recording,subject\ntrain_1,anna\ntrain_2,ben\ndev_1,carl\nx_1,dora\n")


def in_other_form(data, form):
    """Puts the ratings into another form."""
    folder = data / "ratings_gold_standard"
    gold = {name: np.loadtxt(folder / f"{name}.csv", delimiter=";") for name in RATED}
    shutil.rmtree(folder)
    (data / "subjects.csv").unlink()
    for path, text in FORMS[form](gold):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def _raters(gold):
    for name, values in gold.items():
        for column, target in enumerate(("arousal", "valence")):
            rows = [f"{k / FRAME_RATE:.2f};{value[column]:.4f};{value[column] / 2:.4f}" for k, value in
                    enumerate(values)]
            yield f"{target}/{name}.csv", "\n".join(["time;FM1 ;FF2", *rows, ""])


def _avec(gold):
    for name, values in gold.items():
        for column, target in enumerate(("arousal", "valence")):
            head = ["@relation GOLDSTANDARD", "", "@attribute Instance_name string", "@attribute frameTime numeric",
                    "@attribute GoldStandard numeric", "", "@data"]
            rows = [f"'{name}',{k / FRAME_RATE:.2f},{value[column]:.4f}" for k, value in enumerate(values)]
            yield f"{target}/{name}.arff", "\n".join([*head, *rows, ""])


def _affwild2(gold):
    for name, values in gold.items():
        rows = ["-5,-5" if k == 5 else f"{valence:.3f},{arousal:.3f}"
                for k, (arousal, valence) in enumerate(values[:FRAMES])]
        folder = "Train_Set" if name.startswith("train") else "Validation_Set"
        yield f"{folder}/{name}.txt", "\n".join(["valence,arousal", *rows, ""])


def _table(gold):
    rows = [f"{name},{k / FRAME_RATE:.2f},{arousal:.4f},{valence:.4f}" for name, values in gold.items()
            for k, (arousal, valence) in enumerate(values)]
    yield "ratings.csv", "\n".join(["recording,time_s,arousal,valence", *rows, ""])


FORMS = {"raters": _raters, "avec": _avec, "affwild2": _affwild2, "table": _table}


def draw_results(data):
    """results.csv of a small study, as experiment.py writes it."""
    from study.methods import METHODS, QUICK
    from study.results import RESULTS
    draw, data = random.Random(0), Path(data)
    data.mkdir()
    rows = [",".join([setting, str(QUICK[setting].rated[0]), str(number), method, "0", target, f"person_{person}",
                      *(f"{draw.uniform(0, 0.6):.5f}" for _ in range(3)), "9.9,cpu,abc"])
            for setting in QUICK for method in METHODS if setting in METHODS[method].where for number in (0, 1)
            for target in ("arousal", "valence") for person in range(4)]
    (data / "results.csv").write_text("\n".join([",".join(RESULTS.columns), *rows, ""]))


# ---- all scripts in one process, ready to be forked -----------------------------------------------------------------

FIGURES = ("matplotlib.pyplot", "figures")
LATE = {"audio_melspec": ["librosa.filters"], "mmpkd": FIGURES, "predict": (*FIGURES, "overlay"),
        "experiment": FIGURES}  # what scripts import when they need it


def load(names):
    """Imports the scripts of some cases once, and what they need."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(ROOT))
    scripts = {name: importlib.import_module(name) for name in {CASES[name].script for name in names}}
    if "export" in scripts:
        scripts["export"].STREAM, scripts["export"].TIMED_S = 50, 0
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    if "face_detector" in sys.modules:
        sys.modules["face_detector"].finder(60, 0.9, "cpu")  # the networks of the detector, once
    for name in {module for script in scripts for module in LATE.get(script, ())}:
        importlib.import_module(name)
    return scripts
