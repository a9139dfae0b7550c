"""model_card.py: cards of strangers' files are refused in one line; the text says what a reader must know."""
import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import audio_extract
import audio_melspec
import face_detector
import model_card
from config import Config
from model_card import card_text, check_card, columns_of
from support.errors import UserError

CONSTANTS = {"window_frames": 37, "bias": 0.125, "scale": 2.5, "centre": 0.1, "delay_frames": 50}
FACES = {"face_size": 112, "min_face_size": 60, "face_score": 0.9, "look_every": 6, "jpeg_quality": 95}
SOUND = {"segment_at": "centred", "audio_rate": 16000, "segment_s": 1.0, "n_fft": 512, "hop_length": 160, "n_mels": 64,
         "db_min": -80.0, "db_max": 30.0}
VAL = {"set": "Val_Set", "subjects": ["dev_1", "dev_2"]}
CARD = {
    "stage": "student", "target": "both", "targets": ["arousal", "valence"],
    "network": {"visual_backbone": "small_cnn", "gru_size": 64, "linear_heads": False},
    "inputs": {"frames": [3, 112, 112]}, "normalisation": {"frames": {"mean": [0.5], "std": [0.25]}},
    "frame_rate": 25.0, "clip_stride": 1, "faces": FACES | {"retained": False}, "sound": None,
    "trained_on": {"Train_Set": ["train_1", "train_2", "train_3"], "Unlabelled_Set": ["x_1"]},
    "taught_by": ["audio_both_fold1of2", "visual_both_fold1of2"], "distill": "pseudo",
    "teacher_weights": {target: {"audio": 0.25, "visual": 0.75} for target in ("arousal", "valence")},
    "chosen_on": VAL | {"epoch": 7, "keep": "best"}, "ccc_on": VAL,
    "ccc": {"arousal": {"mean": 0.512, "concatenated": 0.634, "subjects": 2},
            "valence": {"mean": 0.321, "concatenated": None, "subjects": 2}},
    "ratings": dict.fromkeys(["arousal", "valence"], {"mean": 0.1, "sd": 0.2}),
    "postprocessing": {"smoothing": "mean", "arousal": CONSTANTS, "valence": CONSTANTS},
    "versions": {"python": "3.11.7", "torch": "2.14.1"}, "date": "2026-11-26"}
TEACHER = CARD | {"stage": "teacher", "inputs": {"frames": [3, 112, 112], "specs": [1, 64, 101]}, "sound": SOUND}


def changed(path, value, card=CARD):
    """A copy of a card with the entry at "a/b/c" changed; value ... removes it."""
    card = copy.deepcopy(card)
    *within, last = path.split("/")
    place = card
    for name in within:
        place = place[int(name) if isinstance(place, list) else name]
    if value is ...:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return card


def refusal(card, path="some folder/best.pt"):
    """The message with which a card is refused: one line that names the file."""
    with pytest.raises(UserError) as error:
        check_card(card, path)
    line = str(error.value)
    assert path in line and "\n" not in line and len(line) < 2000
    return line


def nested(depth, kind):
    value = 0
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


# ---- what is a card, and what is none -------------------------------------------------------------------------------

@pytest.mark.parametrize("card", [CARD, TEACHER, json.loads(json.dumps(TEACHER))])
def test_a_whole_card_is_taken_as_it_is(card):
    assert check_card(card, "best.pt") == card


def test_entries_that_may_be_unknown_are_none_where_they_are_missing():
    needed = ("stage", "target", "targets", "network", "inputs")
    card = check_card({name: CARD[name] for name in needed}, "best.pt")
    assert list(card) == list(CARD) and {name for name in card if card[name] is not None} == {*needed, "clip_stride"}
    assert card["clip_stride"] == 1  # as in versions that did not know it
    for name in needed:
        assert name in refusal(changed(name, ...))


@pytest.mark.parametrize("path, value, word", [
    ("stage", "pupil", "one of visual"), ("stage", ["student"], "stage is a list"), ("target", "joy", "one of"),
    ("targets", "arousal", "targets"), ("targets", [[]], "targets[0]"),
    ("targets", ["arousal"], "teacher_weights has other"),
    ("network", [], "network"), ("network/a", [1], "network.a"), ("network/gru_size", 10**400, "gru_size"),
    ("inputs", {"frames": [3, 112]}, "inputs.frames"), ("inputs", {"frames": [3, 10**12, 10**12]}, "inputs.frames"),
    ("inputs", {"frames": [3, -112, -112]}, "inputs.frames"),
    ("inputs", {"frames": [1, 112, 112]}, "inputs.frames"), ("inputs", {"frames": [3, 1, 2**23]}, "4,194,304 pixels"),
    ("inputs", {"frames": [3, 112.0, 112.0]}, "inputs.frames"),
    ("inputs", {}, "inputs"), ("inputs", TEACHER["inputs"], "'frames', 'specs'"), ("frame_rate", 0, "frame_rate"),
    ("frame_rate", math.nan, "frame_rate"), ("frame_rate", math.inf, "frame_rate"), ("frame_rate", "25", "frame_rate"),
    *(("clip_stride", value, "clip_stride") for value in (0, 2.0, True, None, 10**9)),
    ("frame_rate", True, "frame_rate"), ("faces", {}, "faces.face_size is missing"), ("faces", [], "faces"),
    ("faces/face_size", 64, "64"), ("faces/face_size", "112", "face_size"), ("faces/look_every", 0, "look_every"),
    ("faces/face_score", nested(9, list), "faces.face_score"), ("faces/retained", 1, "retained"),
    ("faces/more", 1, "faces has other"), ("sound", SOUND, "not given"), ("trained_on", ["a"], "trained_on"),
    ("trained_on/Train_Set", [1], "Train_Set[0]"), ("trained_on/Train_Set", ["a" * 5000], "5000"),
    ("taught_by", "me", "taught_by"), ("teacher_weights/arousal", {1: 0.5}, "teacher_weights.arousal"),
    ("chosen_on/set", "Test_Set", "chosen_on.set"), ("chosen_on/epoch", 1.5, "epoch"), ("ccc", {}, "ccc.arousal"),
    ("ccc/arousal/mean", math.nan, "ccc.arousal.mean"), ("ccc/arousal/subjects", 10**30, "subjects"),
    ("postprocessing/smoothing", "max", "smoothing"), ("postprocessing/arousal/window_frames", 2, "window"),
    ("postprocessing/arousal/delay_frames", -1, "delay"), ("postprocessing/valence/scale", 1e300, "scale"),
    ("postprocessing/valence", None, "valence"), ("versions", {"torch": 2.14}, "versions.torch"),
    ("date", 20261126, "date"), ("date", b"2026", "date"), ("surprise", 1, "newer version")])
def test_a_card_with_a_wrong_entry_is_refused_by_its_name(path, value, word):
    assert word in refusal(changed(path, value))


@pytest.mark.parametrize("path, value, word", [
    ("inputs/specs", [1, 2**15, 2**15], "specs"), ("inputs/specs", [1, 64, 100], "another size"),
    ("sound/n_mels", 32, "another size"), ("sound/hop_length", 0, "hop_length"), ("sound/n_fft", 10**9, "n_fft"),
    ("sound/db_min", 40.0, "db_min"), ("sound/segment_at", "later", "segment_at"),
    ("sound/segment_s", "1", "segment_s")])
def test_sound_that_does_not_make_the_inputs_is_refused(path, value, word):
    assert word in refusal(changed(path, value, TEACHER))


@pytest.mark.parametrize("card", [
    None, 3, "card", [], b"", object(), {}, {1: 2}, {"targets": {}}, CARD | {("a",): 1}, CARD | {"a" * 10**6: 1}])
def test_what_is_no_card_is_refused(card):
    refusal(card)


@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize("name", [*CARD, "unknown"])
def test_deep_nesting_anywhere_is_refused_and_not_followed(name, kind):
    refusal(CARD | {name: nested(100_000, kind)})


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=3)
anything = st.recursive(leaves, lambda part: st.lists(part, max_size=3) | st.dictionaries(
    st.text(max_size=5) | st.integers() | st.sampled_from([*CARD, *FACES, "arousal", "frames"]), part, max_size=4))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*CARD]), anything, max_size=4))
def test_whatever_is_in_a_card_it_is_refused_in_one_line_or_can_be_printed(entries):
    try:
        card = check_card(CARD | entries, "best.pt")
    except UserError as error:
        assert "\n" not in str(error) and "best.pt" in str(error)
    else:
        card_text(card)


def test_the_settings_of_a_card_are_those_that_the_scripts_note():
    assert {*model_card.FACES, "frame_rate"} == set(face_detector.SETTINGS.split())
    noted = set(audio_extract.SETTINGS.split()) | set(audio_melspec.SETTINGS.split())
    assert {*model_card.SOUND, "frame_rate", "spec_files", "audio_channel"} == noted


@pytest.mark.parametrize("sound", [{}, {"n_fft": 511}, {"segment_s": 0.5, "hop_length": 77}, {"audio_rate": 44100}])
def test_the_columns_of_a_spectrogram_are_those_that_audio_melspec_makes(sound):
    assert columns_of(SOUND | sound) == audio_melspec.mel_spec_of(Config(**SOUND | sound)).columns


def test_neither_checking_nor_printing_needs_torch():
    code = "import sys, model_card; sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(model_card.__file__).parent).returncode == 0


# ---- the text -------------------------------------------------------------------------------------------------------

def words_of(card):
    """The text of a card in one line."""
    return " ".join(card_text(card).split())


def test_the_text_says_what_a_reader_must_know():
    text = words_of(CARD)
    for word in ("Arousal (from calm", "valence (from negative", "25 frames a second", "Not to be used for",
                 "Diagnosis", "Decisions about people", "3 recordings with ratings: train_1, train_2, train_3",
                 "1 recording without",
                 "by 2 networks: audio_both_fold1of2, visual_both_fold1of2", "audio 25%, visual 75%", "0.512", "0.634",
                 "undefined", "Val_Set (dev_1, dev_2)", "Epoch 7", "slightly too high", "cropped to 112 pixels",
                 "were black", "mean over 1.48 s, bias +0.125, scale 2.500 around 0.100, delay 2.00 s", "2026-11-26",
                 "torch 2.14.1", "112 x 112"):
        assert word in text, word
    assert "Sound" not in card_text(CARD).splitlines() and max(map(len, card_text(CARD).splitlines())) <= 100


def test_a_network_with_sound_says_how_its_sound_was_made():
    text = words_of(TEACHER)
    assert "Sound" in card_text(TEACHER).splitlines() and "64 bands" in text and "The 1 s of sound around" in text
    assert "Taught by" not in text and "needs a video with sound" in text


@pytest.mark.parametrize("chosen, on, word", [
    ({"set": None, "subjects": []}, "Val_Set", "The last epoch"),
    ({"set": "held out of Train_Set", "subjects": ["train_9"]}, "Val_Set", "chosen on other subjects")])
def test_values_are_called_too_high_only_where_the_epoch_was_chosen_on_their_subjects(chosen, on, word):
    card = CARD | {"chosen_on": chosen | {"epoch": 3, "keep": "best"}, "ccc_on": {"set": on, "subjects": ["dev_1"]}}
    text = words_of(check_card(card, "best.pt"))
    assert word in text and "nothing was chosen on" in text and "too high" not in text


def test_what_is_not_known_is_called_so():
    bare = {name: CARD[name] for name in ("stage", "target", "targets", "network", "inputs")}
    text = words_of(check_card(bare, "best.pt"))
    assert text.count("Not known") == 3 and "How the faces were cropped is not known" in text
    assert "Date not known; versions not known" in text and "No constants" in text and "None" not in text


def test_many_subjects_are_counted_and_not_all_listed():
    card = changed("trained_on/Train_Set", [f"train_{k}" for k in range(500)])
    assert "500 recordings" in words_of(card) and "train_499" not in words_of(card) and "488 more" in words_of(card)


def test_a_card_cannot_write_to_the_terminal_what_is_no_text():
    name = "\x1b[2J\x1b[1;31mtrust me\x07\r\nMODEL CARD\u202e\udcff"
    text = card_text(check_card(changed("trained_on/Train_Set", [name]), "x.pt"))
    assert all(letter.isprintable() for letter in text.replace("\n", "")) and "trust me" in text
    assert text.splitlines().count("MODEL CARD") == 0
