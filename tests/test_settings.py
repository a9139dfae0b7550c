"""The settings: one dataclass that is the command line of every script, and what its source says of each field."""
import ast
import dataclasses
import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import one_line

import config
from config import Config
from support import settings
from support.errors import SettingsError, run_script
from support.settings import EVERY, field_notes, fields_of, parse_config, part_of, read_settings, save_settings

ROOT = Path(config.__file__).parent
FIELDS = [field.name for field in dataclasses.fields(Config)]
SCRIPTS = sorted({script for note in field_notes().values() for script in note.scripts} - {EVERY})


def outcome(words, capsys, script="mmpkd.py"):
    """(exit code, stderr) of a script that only reads its settings."""
    code = run_script(lambda _: parse_config(words, script, ""), script)
    return code, capsys.readouterr().err


# ---- from flags and files -------------------------------------------------------------------------------------------

KINDS = [  # a field of every kind: script, words, field, value
    ("mmpkd.py", ["--batch-size", "3"], "batch_size", 3),
    ("mmpkd.py", ["--learning-rate", "1"], "learning_rate", 1.0),
    ("mmpkd.py", ["--dropout", "0"], "dropout", 0.0),
    ("mmpkd.py", ["--no-audio-gru"], "audio_gru", False),
    ("mmpkd.py", ["--linear-heads"], "linear_heads", True),
    ("mmpkd.py", ["--target", "valence"], "target", "valence"),
    ("mmpkd.py", ["--runs-dir", "my_own-runs"], "runs_dir", "my_own-runs"),
    ("mmpkd.py", ["--fold", "2/3"], "fold", "2/3"),
    ("annotations.py", ["--train-ids", "one", "tw_o"], "train_ids", ("one", "tw_o")),
    ("audio_melspec.py", ["--db-min", "-60"], "db_min", -60.0),
]


@pytest.mark.parametrize("script,words,name,value", KINDS, ids=[kind[2] for kind in KINDS])
def test_a_field_is_set_by_flag_and_by_file_and_the_flag_wins(script, words, name, value, tmp_path):
    assert getattr(parse_config(words, script, ""), name) == value != getattr(Config(), name)
    underscores = "--" + words[0][2:].replace("-", "_")
    assert getattr(parse_config([underscores, *words[1:]], script, ""), name) == value
    file = tmp_path / "config.json"
    file.write_text(json.dumps({name: value}))
    from_file = getattr(parse_config(["--config", str(file)], script, ""), name)
    assert from_file == value and type(from_file) is type(value)
    file.write_text(json.dumps({name: getattr(Config(), name)}))
    assert getattr(parse_config([*words, f"--config={file}"], script, ""), name) == value


def test_every_field_is_a_flag_of_the_scripts_in_its_heading(capsys):
    for script in SCRIPTS:
        shown = shown_help(script, capsys)
        assert [name for name in fields_of(script) if "--" + name.replace("_", "-") not in shown] == []


def test_a_value_after_an_equals_sign_keeps_its_underscores():
    assert parse_config(["--data_dir=my_own_data"], "mmpkd.py", "").data_dir == "my_own_data"


def test_words_without_a_flag_are_the_fields_that_a_script_names_wherever_they_stand(tmp_path, capsys):
    def of(*argv):
        cfg = parse_config(argv, "predict.py", "", ("network", "videos"))
        return cfg.network, cfg.videos, cfg.overlay, cfg.out
    assert of("a_b.pt", "1.mp4", "--overlay", "2.mp4", "--out", "x") == ("a_b.pt", ("1.mp4", "2.mp4"), True, "x")
    assert of("--out", "x", "a.pt") == ("a.pt", (), False, "x")
    assert of() == ("", (), False, Config().out)
    (tmp_path / "config.json").write_text('{"network": "a.pt", "videos": ["one.mp4"]}')
    assert of("--config", str(tmp_path / "config.json"))[:2] == ("a.pt", ("one.mp4",))
    assert "'two.mp4' was not expected" in outcome(["two.mp4"], capsys)[1]  # where a script names none


def test_presets_of_a_script_are_weaker_than_file_and_flag(tmp_path):
    (tmp_path / "config.json").write_text('{"batch_size": 3}')
    preset = {"batch_size": 2, "clip_length": 6, "epochs": 5}
    cfg = parse_config(["--config", str(tmp_path / "config.json"), "--clip-length", "7"], "mmpkd.py", "", **preset)
    assert (cfg.batch_size, cfg.clip_length, cfg.epochs) == (3, 7, 5)


def test_saved_settings_come_back_whole(tmp_path):
    cfg = Config(train_ids=("P1", "P2"), learning_rate=3e-4, augment=False)
    save_settings(cfg, tmp_path / "run" / "config.json")
    assert Config(**read_settings(tmp_path / "run" / "config.json")) == cfg


def test_the_defaults_are_the_papers_but_for_clips_targets_and_the_kept_epoch():
    cfg = Config()
    assert (cfg.visual_backbone, cfg.audio_backbone, cfg.face_size) == ("vgg19_bn", "resnet18", 112)
    assert (cfg.batch_size, cfg.optimizer, cfg.dropout) == (8, "adam", 0.2)
    assert cfg.clip_length * cfg.clip_stride / cfg.frame_rate == 6 and (cfg.target, cfg.keep) == ("both", "last")
    paper = parse_config(["--config", str(ROOT / "paper.json")], "mmpkd.py", "")
    assert (paper.clip_length, paper.clip_stride, paper.target, paper.keep) == (5, 1, "arousal", "best")
    assert cfg.learning_rate == 1e-4 and cfg.learning_rate * cfg.visual_lr_scale == pytest.approx(1e-5)


def test_the_papers_preset_changes_how_a_student_is_taught_and_nothing_else():
    cfg = parse_config(["--config", str(ROOT / "paper.json"), "--stage", "student"], "mmpkd.py", "")
    assert cfg.distill.startswith("cosine")
    assert (cfg.epochs, cfg.visual_backbone) == (Config().epochs, Config().visual_backbone)


def test_the_i_th_of_n_parts():
    assert part_of("1/1") == (1, 1) and part_of("4/12") == (4, 12)
    assert [text for text in ("5/4", "0/4", "1", "a/b", "1/2/3", " 1/2", "-1/3", "1.5/2") if part_of(text)] == []


# ---- one source: comments, headings and the code that reads ---------------------------------------------------------

def shown_help(script, capsys, doc="", **defaults):
    with pytest.raises(SystemExit) as end:
        parse_config(["--help"], script, doc, **defaults)
    assert end.value.code == 0
    return "".join(capsys.readouterr().out.split())  # argparse breaks lines where it likes


def notes_of(source, folder, monkeypatch):
    """field_notes() of another config.py."""
    (folder / "another.py").write_text(source)
    spec = importlib.util.spec_from_file_location("another", folder / "another.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "another", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(settings, "Config", module.Config)
    return field_notes.__wrapped__()


HEADER = "from dataclasses import dataclass\n@dataclass\nclass Config:\n"


def test_every_field_has_a_comment_and_scripts():
    assert list(field_notes()) == FIELDS
    assert all(note.comment and note.scripts for note in field_notes().values())


def test_every_script_that_a_heading_names_exists():
    assert [script for script in SCRIPTS if not (ROOT / script).is_file()] == []


@pytest.mark.parametrize("spaced", [" # ", "  #", "      #   "])
def test_spaces_around_a_comment_change_nothing(spaced, tmp_path, monkeypatch):
    source = (ROOT / "config.py").read_text()
    assert notes_of(source.replace("  # ", spaced), tmp_path, monkeypatch) == field_notes()


@pytest.mark.parametrize("field,comment", [
    ('a: str = "# no comment"', ""), ('a: str = "#"  # one', "one"), ("a:int=3#one", "one"),
    ("a: tuple = (  # one\n        3,\n        4)  # two", "one two"), ("a: tuple = (\n        3\n    )  # one", "one"),
    ("a: int = 3  # one,\n                # two", "one, two"), ("a: int = 3  # one\n    # of the next field", "one"),
    ("a: int = 3  # one\n\n        # of nothing", "one"),
])
def test_the_comment_of_a_field_is_found_wherever_it_is(field, comment, tmp_path, monkeypatch):
    source = f"{HEADER}    # --- first: one.py\n    {field}\n    b: int = 4  # another\n"
    notes = notes_of(source, tmp_path, monkeypatch)
    assert (notes["a"].comment, notes["b"].comment) == (comment, "another")


def test_headings_name_scripts_or_every_script(tmp_path, monkeypatch):
    notes = notes_of(f"""{HEADER}    a: int = 0  # above all headings
    # --- first, and more: one.py
             # two.py
    b: int = 0
    #---- second: one.py, three.py ----
    c: int = 0
    #   --- third: {EVERY}
    d: int = 0
""", tmp_path, monkeypatch)
    assert [note.scripts for note in notes.values()] == [[EVERY], ["one.py", "two.py"], ["one.py", "three.py"], [EVERY]]
    assert [note.section for note in notes.values()][1:] == ["first, and more", "second", "third"]


def test_a_heading_without_scripts_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match="first"):
        notes_of(f"{HEADER}    # --- first\n    a: int = 0\n", tmp_path, monkeypatch)


def test_help_shows_comments_and_defaults_also_with_percent_signs(capsys, monkeypatch):
    notes = field_notes()
    changed = notes["dropout"]._replace(comment="10 % of all %s")
    monkeypatch.setattr(settings, "field_notes", lambda: notes | {"dropout": changed})
    shown = shown_help("mmpkd.py", capsys, "half of it: 50 %\n", runs_dir="100%")
    assert "10%ofall%s[0.2]" in shown and "[100%]" in shown and "50%" in shown
    assert "".join(notes["gru_size"].comment.split()) + "[1024]" in shown


def reads(script):
    """Fields that a file reads as cfg.<name> or names to keep_settings; derived folders count as their fields."""
    derived = {}
    for node in ast.walk(ast.parse((ROOT / "config.py").read_text())):
        if isinstance(node, ast.FunctionDef):
            derived[node.name] = {part.attr for part in ast.walk(node)
                                  if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "self"}
    names, tree = set(), ast.parse((ROOT / script).read_text())
    constants = {part.targets[0].id: part.value for part in tree.body
                 if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("cfg", "self.cfg"):
            names |= derived.get(node.attr, {node.attr})
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "keep_settings":
            listed = node.args[2]
            names |= set((constants[listed.id] if isinstance(listed, ast.Name) else listed).value.split())
    return names & set(FIELDS)


def imported(script):
    """A script and every file of the project that it imports, directly or not, but those of the settings themselves."""
    found, todo = set(), {script}
    while todo:
        file = todo.pop()
        found.add(file)
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{name}" for name in names)]
            files = {f"{name.replace('.', '/')}.py" for name in names} - {"config.py", "support/settings.py"}
            todo |= {path for path in files - found if (ROOT / path).is_file()}
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_reads_the_fields_that_headings_give_it(script):
    assert set(fields_of(script)) - set().union(*map(reads, imported(script))) == set(), "not read"
    assert reads(script) - set(fields_of(script)) == set(), "read, but no flags"


# ---- bad settings ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words", [
    ["--epochs", "0"], ["--epochs", "1.5"], ["--epochs"], ["--epochs", "-3"], ["--epochs="], ["--seed", "-1"],
    ["--learning-rate", "0"], ["--learning-rate", "nan"], ["--learning-rate", "inf"], ["--learning-rate", "fast"],
    ["--dropout", "1.1"], ["--stage", "pupil"], ["--stage", ""], ["--augment", "yes"], ["--augment=no"],
    ["--no-epochs"], ["--epochs", "3", "4"],
    ["stray"], ["-x"], ["-batch-size", "4"], ["--config"],
], ids=" ".join)
def test_a_bad_flag_is_one_line_and_exit_code_two(words, capsys):
    one_line(*outcome(words, capsys), 2)


@pytest.mark.parametrize("word", ["--batch", "--batch-siz", "--no-aug"])
def test_flags_are_not_abbreviated(word, capsys):
    assert "unknown" in one_line(*outcome([word, "4"], capsys), 2)


def test_a_misspelt_flag_is_answered_with_the_right_one(capsys):
    assert "--batch-size?" in one_line(*outcome(["--batch_sise", "4"], capsys), 2)


def test_a_flag_of_another_script_is_answered_with_its_scripts(capsys):
    assert "mmpkd.py" in one_line(*outcome(["--epochs", "4"], capsys, "annotations.py"), 2)


def test_a_bad_value_is_answered_with_what_was_expected(capsys):
    assert "'1.5' is not a whole number, 1 or more" in outcome(["--epochs", "1.5"], capsys)[1]
    assert "a number, above 0" in outcome(["--learning-rate", "0"], capsys)[1]
    for value in ("0.5", "9" * 400):
        assert "from 1 to 100" in outcome(["--jpeg-quality", value], capsys, "face_detector.py")[1]
    assert "arousal, valence, both" in outcome(["--target", "joy"], capsys)[1]


@pytest.mark.parametrize("text", [
    "", "[1, 2]", '{"epocs": 3}', '{"epochs": "10"}', '{"epochs": 10.0}', '{"epochs": true}', '{"epochs": null}',
    '{"epochs": 0}', '{"augment": 1}', '{"train_ids": "dev_1"}', '{"train_ids": [1]}', '{"stage": "pupil"}',
    '{"stage": ["all"]}', '{"learning_rate": NaN}', '{"learning_rate": 1' + "0" * 400 + "}", '{"data_dir": 3}',
    b"\xff\xfe\x00{",
], ids=lambda text: repr(text)[:24])
def test_a_bad_config_file_is_one_line_and_exit_code_two(text, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    one_line(*outcome(["--config", str(tmp_path / "config.json")], capsys), 2)


def test_a_missing_config_file_is_named(tmp_path, capsys):
    for path in (tmp_path / "gone.json", tmp_path):
        assert str(path) in one_line(*outcome(["--config", str(path)], capsys), 2)


@pytest.mark.parametrize("script,words,named", [
    ("audio_melspec.py", ["--db-min", "30"], "db_min"), ("audio_melspec.py", ["--n-fft", "16001"], "n_fft"),
    ("audio_melspec.py", ["--n-mels", "300"], "n_mels"), ("audio_extract.py", ["--segment-s", "0.00001"], "segment_s"),
    ("mmpkd.py", ["--visual-backbone", "small_cnn", "--visual-weights", "imagenet"], "visual_weights"),
    ("mmpkd.py", ["--fold", "1/1"], "fold"), ("mmpkd.py", ["--fold", "3/2"], "fold"),
    ("face_detector.py", ["--shard=5/4"], "shard"),
])
def test_a_conflict_is_one_line_and_exit_code_two(script, words, named, capsys):
    assert named in one_line(*outcome(words, capsys, script), 2)


def test_conflicts_among_settings_that_a_script_does_not_read_are_ignored(capsys):
    assert outcome(["--segment-s", "0.02"], capsys, "audio_extract.py") == (0, "")  # n_fft is longer


# ---- answered before the slow imports -------------------------------------------------------------------------------

TINY = f"""'''A tiny script.'''
import sys
sys.path.insert(0, {str(ROOT)!r})
from support.settings import answer_first
answer_first(__name__, __file__, __doc__, lambda cfg: cfg.list and not print("no runs"))
print("slow imports", {{"numpy", "torch", "cv2", "av"}} & set(sys.modules))
"""


@pytest.mark.parametrize("words,code,out", [
    (["--help"], 0, "A tiny script."), (["--list"], 0, "no runs"), (["--epochz", "3"], 2, ""),
    (["--epochs", "0"], 2, ""), (["--epochs", "3"], 0, "slow imports set()"),
], ids=["help", "list", "wrong flag", "wrong value", "nothing to answer"])
def test_help_wrong_flags_and_lists_are_answered_before_the_slow_imports(words, code, out, tmp_path):
    (tmp_path / "mmpkd.py").write_text(TINY)
    done = subprocess.run([sys.executable, tmp_path / "mmpkd.py", *words], capture_output=True, text=True, timeout=300)
    assert out in done.stdout and ("slow" in done.stdout) == ("slow" in out)
    assert (done.returncode, done.stderr) == (0, "") if not code else one_line(done.returncode, done.stderr, code)


def test_nothing_is_answered_where_a_script_is_imported(tmp_path, monkeypatch, capsys):
    (tmp_path / "mmpkd.py").write_text(TINY)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochz"])
    runpy.run_path(str(tmp_path / "mmpkd.py"), run_name="mmpkd")
    assert "slow imports" in capsys.readouterr().out


def test_the_settings_load_no_package_that_takes_long():
    code = "import sys, support.settings; print({'numpy', 'torch', 'cv2', 'av', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"




# ---- words that begin with a hyphen ---------------------------------------------------------------------------------

def test_values_that_begin_with_a_hyphen_are_no_flags():
    cfg = parse_config(["--recordings", "-a", "b", "-c_d", "--frame-rate", "5", "--label-range", "-.5", "-1e-3"],
                       "annotations.py", "")
    assert cfg.recordings == ("-a", "b", "-c_d") and cfg.frame_rate == 5 and cfg.label_range == (-0.5, -1e-3)
    assert parse_config(["--recordings=-a"], "annotations.py", "").recordings == ("-a",)


@pytest.mark.parametrize("words, said", [(["-epochs", "3"], "'-epochs'"), (["--epochs", "-3"], "'-3' is not"),
                                         (["--stage", "visual", "-x"], "'-x' was not expected")])
def test_a_flag_with_one_hyphen_is_named(words, said):
    with pytest.raises(SettingsError, match=said):
        parse_config(words, "mmpkd.py", "")
