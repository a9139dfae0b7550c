"""The model card: what a network says of itself, wherever it goes: in best.pt, and in an .onnx made from it.

A card is plain Python (dicts, lists, texts, numbers, None): the entries that form_of() lists. None is what is not
known. Cards come with files of strangers: check_card trusts nothing in them. Nothing here needs torch.
"""
import dataclasses
import math
import textwrap
from typing import Any, NamedTuple

from config import Config
from runs import INPUTS, OLDER
from support.errors import SettingsError, UserError
from support.recordings import PARTITIONS, TARGETS, UNLABELLED
from support.settings import check_settings

FACES = ["face_size", "min_face_size", "face_score", "look_every", "jpeg_quality"]  # settings that crops are made with
SOUND = ["segment_at", "audio_rate", "segment_s", "n_fft", "hop_length", "n_mels", "db_min", "db_max"]  # spectrograms
TRAIN, VAL = PARTITIONS["train"], PARTITIONS["val"]
HELD_OUT = f"held out of {TRAIN}"  # the subjects of a fold


# ---- what a card must look like -------------------------------------------------------------------------------------
# A form is a type, a tuple of texts to choose from, [form] for a list, {str: form} for a dict with any names, {name:
# form} for a dict with exactly these, or one of the following.

class Maybe(NamedTuple):
    """None, or of that form."""
    form: Any


class Plain:
    """A text, a number, true or false."""


LONGEST, MOST, LARGEST = 1000, 10**6, 2**53  # characters of a text, items of a list or dict, size of a number
CHANNELS = {"frames": 3, "specs": 1}
PIXELS = 2**22  # of an image, or features in its place, at most: more would take gigabytes in a network
WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a dict of entries",
         list: "a list", type(None): "nothing"}


def form_of(targets):
    """{entry of a card: its form}, for a network of these targets."""
    subjects = {"set": Maybe((VAL, HELD_OUT)), "subjects": [str]}  # set None: nothing was chosen
    constants = {"window_frames": int, "bias": float, "scale": float, "centre": float, "delay_frames": int}
    ccc = {"mean": Maybe(float), "concatenated": Maybe(float), "subjects": int}  # None: undefined
    return {
        "stage": tuple(INPUTS), "target": (*TARGETS, "both"), "targets": [tuple(TARGETS)],
        "network": {str: Plain},  # backbones, sizes
        "inputs": {str: [int]},  # {"frames": [3, S, S], "specs": [1, mel bands, columns]}, or [number of features]
        "normalisation": Maybe({str: {"mean": [float], "std": [float]}}),  # of pixels in [0, 1] or of features, inside
        # the network
        "frame_rate": Maybe(float),
        "clip_stride": int,  # frames between those that follow each other in a sequence (support/interleaving.py)
        "faces": Maybe(dict.fromkeys(FACES, Plain) | {"retained": bool}),  # None: not used, or crops of another origin
        "sound": Maybe(dict.fromkeys(SOUND, Plain)),
        "trained_on": Maybe({TRAIN: [str], UNLABELLED: [str]}),
        "taught_by": Maybe([str]),  # runs of a student's teachers
        "distill": Maybe(str),  # how a student was taught
        "teacher_weights": Maybe(dict.fromkeys(targets, {str: float})),  # of pseudo-labels, {target: {stage: share}}
        "chosen_on": Maybe(subjects | {"epoch": int, "keep": ("best", "last")}),
        "ccc_on": Maybe(subjects),  # the subjects of "ccc"
        "ccc": Maybe(dict.fromkeys(targets, ccc)),
        "ratings": Maybe(dict.fromkeys(targets, {"mean": float, "sd": float})),  # of the training recordings (--level)
        "postprocessing": Maybe({"smoothing": ("mean", "median")} | dict.fromkeys(targets, constants)),
        "versions": Maybe({str: str}),
        "date": Maybe(str),
    }


def check_card(card, path):
    """The card of the file `path`, with None for entries that it lacks (clip_stride: 1, as in older versions).

    Raises UserError, one line that names the file, for anything that is not a card: whatever it is made of.
    """
    if type(card) is not dict:
        raise UserError(f"{path} has no model card: {_words(card)} is in its place")
    targets = card.get("targets")
    fault = _fault(targets, [tuple(TARGETS)], "targets")
    form = {} if fault else form_of(targets)
    if not fault and (unknown := next((name for name in card if name not in form), None)) is not None:
        fault = f"{_shown(unknown)} is unknown: it was made by a newer version, or by something else"
    card = {name: card.get(name, OLDER.get(name)) for name in form}
    fault = fault or _fault(card, form, "") or _conflict(card)
    if fault:
        raise UserError(f"{path}: its model card cannot be used: {fault}")
    return card


def _fault(value, form, name):
    """What is wrong with an entry of that name, in words; "" if it has that form. Looks no deeper than the form is."""
    if isinstance(form, Maybe):
        return "" if value is None else _fault(value, form.form, name)
    if isinstance(form, tuple):
        return "" if type(value) is str and value in form else _expected(name, value, "one of " + ", ".join(form))
    if isinstance(form, list | dict):
        return _fault_within(value, form, name)
    fits = {Plain: (str, int, float, bool), float: (int, float)}.get(form, (form,))
    if type(value) not in fits:
        return _expected(name, value, "a text or a number" if form is Plain else WORDS[form])
    if type(value) is str:
        return f"{name} is a text of {len(value)} characters" if len(value) > LONGEST else ""
    return "" if abs(value) <= LARGEST else f"{name} is not a finite number, or absurdly large"  # False for NaN


def _fault_within(value, form, name):
    """_fault() for a list or a dict and all that is in it."""
    if type(value) is not type(form):
        return _expected(name, value, WORDS[type(form)])
    if len(value) > MOST:
        return f"{name} has {len(value)} entries"
    if isinstance(form, list):
        parts = ((f"{name}[{k}]", item, form[0]) for k, item in enumerate(value))
    elif str in form:
        strange = next((key for key in value if type(key) is not str or len(key) > LONGEST), None)
        if strange is not None:
            return f"{name} has an entry named {_shown(strange)}"
        parts = ((f"{name}.{key[:40]}", item, form[str]) for key, item in value.items())
    else:
        if missing := next((key for key in form if key not in value), None):
            return f"{name}.{missing} is missing"
        if len(value) != len(form):
            return f"{name} has other entries than {', '.join(form)}"
        parts = ((f"{name}.{key}".lstrip("."), value[key], form[key]) for key in form)
    return next(filter(None, (_fault(item, each, place) for place, item, each in parts)), "")


def _expected(name, value, what):
    return f"{name} is {_words(value)}, {what} was expected"


def _words(value):
    """What a value of any type is, in a few words."""
    return _shown(value) if type(value) in (str, int, float, bool) else WORDS.get(type(value), "something else")


def _shown(value):
    """A value of any type as a short text; Python does not print huge numbers, nor what is nested too deeply."""
    if type(value) is int and abs(value) > LARGEST:
        return "a huge number"
    if type(value) not in (str, int, float, bool):
        return "something else"
    text = repr(value[:41] if type(value) is str else value)
    return text if len(text) <= 44 else text[:40] + "..."


# ---- what must agree in a card --------------------------------------------------------------------------------------

def _conflict(card):
    """What does not go together in a card whose entries have their forms; "" if all does."""
    stage, inputs, targets = card["stage"], card["inputs"], card["targets"]
    if targets != (TARGETS if card["target"] == "both" else [card["target"]]):
        return f"targets are {', '.join(targets) or 'none'} for the target {card['target']}"
    if set(inputs) != set(INPUTS[stage]):
        return f"inputs are {', '.join(map(_shown, inputs)) or 'none'}, {' and '.join(INPUTS[stage])} were expected"
    for name, size in inputs.items():
        if len(size) == 1 and 1 <= size[0] <= PIXELS:  # features
            continue
        if len(size) != 3 or size[0] != CHANNELS[name] or min(size) < 1 or math.prod(size[1:]) > PIXELS:
            return (f"inputs.{name} is not [{CHANNELS[name]}, height, width] of an image of at most {PIXELS:,} pixels")
    if card["faces"] and not has_images(card, "frames") or card["sound"] and not has_images(card, "specs"):
        return f"it has settings of inputs that a network of the stage {stage} is not given"
    return _wrong_setting(card) or _wrong_size(card) or _wrong_constant(card)


def has_images(card, name):
    """Whether a network is given images "frames" or "specs": it may be given features in their place, or neither."""
    return len(card["inputs"].get(name, ())) == 3


def _wrong_setting(card):
    """What is wrong with the settings of faces, sound and frames, each and together."""
    made = {name: value for part in ("faces", "sound") for name, value in (card[part] or {}).items()
            if name != "retained"} | {"clip_stride": card["clip_stride"]} | (
                {"frame_rate": card["frame_rate"]} if card["frame_rate"] is not None else {})
    try:
        check_settings(dataclasses.replace(Config(), **made), list(made))
    except SettingsError as error:
        return str(error)
    return ""


def _wrong_size(card):
    """What is wrong if images made with these settings do not have the size of the inputs."""
    if card["faces"] and card["inputs"]["frames"][1:] != [card["faces"]["face_size"]] * 2:
        return f"faces of {card['faces']['face_size']} px for inputs.frames of another size"
    if card["sound"] and card["inputs"]["specs"] != [1, card["sound"]["n_mels"], columns_of(card["sound"])]:
        return "sound gives spectrograms of another size than inputs.specs"
    return ""


def columns_of(sound):
    """Number of columns of a spectrogram made with these settings, as in audio_melspec.MelSpec."""
    n_fft, samples = sound["n_fft"], round(sound["segment_s"] * sound["audio_rate"])
    return 1 + (samples + 2 * (n_fft // 2) - n_fft) // sound["hop_length"]


def _wrong_constant(card):
    """What is wrong with the constants of the level and of the post-processing."""
    if wrong := next((target for target, its in (card["ratings"] or {}).items() if its["sd"] < 0), None):
        return f"ratings.{wrong}.sd is negative"
    for target in card["targets"] if card["postprocessing"] else ():
        constants = card["postprocessing"][target]
        window, its_delay = constants["window_frames"], constants["delay_frames"]
        if not (1 <= window <= MOST and window % 2 == 1 and 0 <= its_delay <= MOST):
            return f"postprocessing.{target} has an impossible window or delay"
    return ""


# ---- the card in words ----------------------------------------------------------------------------------------------

WIDTH = 100  # characters of a line
MANY = 12  # names that are listed; of more, only the first and how many there are
UNKNOWN = "Not known: the file does not say. (Files of older versions do not, and no last.pt does.)"
FED = {"visual": "The face alone. It was trained without the voice: a baseline to compare a student with.",
       "student": "The face alone. In training it was taught by other networks; it needs no sound.",
       "teacher": "The face and the voice: it needs a video with sound.",
       "audio": "The voice alone: it needs sound, and no picture."}
FEATURES = {"frames": "features of the face", "specs": "features of the voice"}
OF_FEATURES = """Features of another program, which the file does not name. The network standardises them as those of
its training subjects, and takes NaN for the mean. It cannot be given a video."""
MEANING = {"arousal": "arousal (from calm, -1, to excited, +1)",
           "valence": "valence (from negative, -1, to positive, +1)"}
USE = """Research on how expressed emotion goes up and down over time, in recordings like those it was trained on. Look
at some of its results beside the video before you rely on any. The values follow how raters judged what a person
showed: not what the person felt."""
MISUSE = ["Diagnosis, therapy, or any statement on someone's health.",
          "Decisions about people: work, school, insurance, credit, police, courts, borders, or access to anything.",
          "Watching people who did not agree to it."]
LIMITS_OF_USE = """How good it is on other people, cameras, light, languages and cultures than those it was trained on
is not known; expect worse. It is not known either whether it is as good for one group of people as for another. A
network trained on drawn or acted people says nothing certain of real ones."""


def card_text(card):
    """A card (of check_card) as text, for a reader who knows nothing of the project: headings, plain sentences."""
    sections = {
        "What it predicts": [_predicts(card)], "From what": [FED[card["stage"]], _network(card)],
        "Made for": [USE], "Not to be used for": [f"* {text}" for text in MISUSE], "Limits": [LIMITS_OF_USE],
        "Trained on": _trained_on(card), "Taught by": _taught_by(card) if card["stage"] == "student" else [],
        "How good it is": _how_good(card), "Faces": _faces(card) if "frames" in card["inputs"] else [],
        "Sound": _sound(card) if "specs" in card["inputs"] else [], "Post-processing": _postprocessing(card),
        "Made with": _made_with(card)}
    lines = [f"MODEL CARD: {card['stage']} network for {' and '.join(card['targets'])}"]
    for heading, texts in sections.items():
        lines += ["", heading] * bool(texts)
        for text in texts:
            indent = "    " + "  " * text.startswith("* ")
            lines += textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join("".join(letter if letter.isprintable() else "?" for letter in line) for line in lines)


def _predicts(card):
    rate = f", {card['frame_rate']:g} frames a second" if card["frame_rate"] else ""
    return f"{' and '.join(MEANING[target] for target in card['targets'])}, for every frame{rate}.".capitalize()


def _network(card):
    shapes = {"frames": "faces of {2} x {1} pixels", "specs": "spectrograms of {1} mel bands x {2} columns"}
    given = " and ".join(shapes[name].format(*size) if has_images(card, name) else f"{size[0]} {FEATURES[name]}"
                         for name, size in card["inputs"].items())
    parts = ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in card["network"].items())
    memory = "" if card["network"].get("audio_gru") is False and card["stage"] == "audio" else (
        ", and remembers what came before (it has a recurrent layer)")
    n = card["clip_stride"]
    way = "frame after frame" if n == 1 else f"in {n} interleaved sequences, each with a state of its own: frame k " \
                                             f"follows frame k - {n}, as in training"
    return f"It is given {given}, {way}{memory}. Network: {parts}."


def _value(value):
    return {True: "yes", False: "no"}[value] if type(value) is bool else f"{value:,}" if type(value) is int else value


def _names(ids):
    """Ids as text, the first of them if they are many."""
    return ", ".join(ids[:MANY]) + f" and {len(ids) - MANY} more" * (len(ids) > MANY)


def _recordings(ids):
    return f"{len(ids)} recording{'s' * (len(ids) != 1)}"


def _trained_on(card):
    if not card["trained_on"]:
        return [UNKNOWN]
    rated, unlabelled = card["trained_on"][TRAIN], card["trained_on"][UNLABELLED]
    texts = [f"{_recordings(rated)} with ratings: {_names(rated)}."]
    return texts + [f"{_recordings(unlabelled)} without ratings: {_names(unlabelled)}."] * bool(unlabelled)


def _taught_by(card):
    way = f"How: {card['distill'] or 'not known'}."
    if card["taught_by"] is None:
        return [way, f"By whom: {UNKNOWN}"]
    if not card["taught_by"]:
        return [f"{way[:-1]}, by the average of its own weights."]
    texts = [f"{way[:-1]}, by {len(card['taught_by'])} network{'s' * (len(card['taught_by']) > 1)}: "
             f"{_names(card['taught_by'])}. Their weights are not in this file."]
    for target, shares in (card["teacher_weights"] or {}).items():
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items())
        texts.append(f"Share of each kind of teacher in the pseudo-labels of {target}: {shares}.")
    return texts


def _how_good(card):
    if not card["ccc"] or not card["ccc_on"]:
        return [UNKNOWN]
    texts, on, chosen = [], card["ccc_on"], card["chosen_on"]
    for target, values in card["ccc"].items():
        mean, whole = ("undefined" if values[key] is None else f"{values[key]:.3f}" for key in ("mean", "concatenated"))
        texts.append(f"CCC of {target}: {mean} (mean over {_recordings(range(values['subjects']))}), {whole} (all of "
                     "them end to end), without post-processing.")
    texts.append(f"CCC, the concordance correlation coefficient, is 1 if predictions equal the ratings and 0 if they "
                 f"have nothing to do with them. It was measured on {on['set'] or 'subjects'} ({_names(on['subjects'])}"
                 "), on which the network was not trained.")
    return [*texts, _how_chosen(chosen, on)] if chosen else texts


def _how_chosen(chosen, on):
    if not chosen["set"]:
        return f"The last epoch ({chosen['epoch']}) was kept: nothing was chosen on these subjects."
    if chosen["set"] == on["set"]:
        return (f"Epoch {chosen['epoch']} was chosen because it was the best on these same subjects: the values are "
                "slightly too high.")
    return (f"Epoch {chosen['epoch']} was chosen on other subjects ({chosen['set']}: {_names(chosen['subjects'])}): "
            "nothing was chosen on the subjects of these values.")


def _faces(card):
    faces = card["faces"]
    if not has_images(card, "frames"):
        return [OF_FEATURES]
    if not faces:
        return ["How the faces were cropped is not known: they are not of this project's face_detector.py, or the file "
                "does not say. It cannot be given a video."]
    gaps = "repeated the last face" if faces["retained"] else "were black"
    return [f"Found by MTCNN (probability {faces['face_score']:g} or more, {faces['min_face_size']} pixels or more, "
            f"looked for in every {faces['look_every']} frames), aligned by the eyes and mouth, cropped to "
            f"{faces['face_size']} pixels (JPEG quality {faces['jpeg_quality']}). In training, frames without a face "
            f"{gaps}."]


def _sound(card):
    sound = card["sound"]
    if not has_images(card, "specs"):
        return [OF_FEATURES]
    if not sound:
        return ["How the spectrograms were made is not known: they are not of this project's audio_melspec.py, or the "
                "file does not say. It cannot be given a video."]
    place = "around" if sound["segment_at"] == "centred" else "before"
    return [f"The {sound['segment_s']:g} s of sound {place} each frame, mono at {sound['audio_rate']} Hz, as a log-mel "
            f"spectrogram: {sound['n_mels']} bands, windows of {sound['n_fft']} samples every {sound['hop_length']}, "
            f"{sound['db_min']:g} to {sound['db_max']:g} dB."]


def _postprocessing(card):
    constants, level = card["postprocessing"], _level(card)
    if not constants:
        return [*level, "No constants of the post-processing are in the file."]
    rate, texts = card["frame_rate"], ["Fitted on training subjects, as predicted by networks that were "
                                       "not trained on them; applied only if asked for, in this order:"]
    for target in card["targets"]:
        its = constants[target]
        seconds = [f"{its[name] / rate:.2f} s" if rate else f"{its[name]} frames"
                   for name in ("window_frames", "delay_frames")]
        steps = [f"{constants['smoothing']} over {seconds[0]}"] * (its["window_frames"] > 1)
        steps += [f"bias {its['bias']:+.3f}"] * bool(its["bias"]) + [
            f"scale {its['scale']:.3f} around {its['centre']:.3f}"] * (its["scale"] != 1)
        steps += [f"delay {seconds[1]}"] * bool(its["delay_frames"])
        texts.append(f"{target}: {', '.join(steps) or 'nothing, no step helped'}.")
    return level + texts


def _level(card):
    """The ratings' mean and standard deviation, which --level uses."""
    each = [f"{target} {its['mean']:+.3f} and {its['sd']:.3f}" for target, its in (card["ratings"] or {}).items()]
    return [f"Mean of the training ratings, and standard deviation within a recording, to which predictions can be "
            f"levelled: {', '.join(each)}."] * bool(each)


def _made_with(card):
    versions = ", ".join(f"{name} {version}" for name, version in (card["versions"] or {}).items())
    return [f"{card['date'] or 'Date not known'}; {versions or 'versions not known'}."]
