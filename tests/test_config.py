"""The settings: one dataclass that is the command line of every script; how a script starts, fails and ends."""
import ast
import dataclasses
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import typing
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

import config
from config import Config
from support import errors, files, settings
from support.errors import SettingsError, UserError, run_script
from support.files import claimed, growing_folder, whole_file, whole_folder, write_bytes
from support.settings import KINDS, field_notes, fields_of, parse_config

ROOT = Path(config.__file__).parent
FIELDS = [field.name for field in dataclasses.fields(Config)]
SCRIPTS = sorted({script for note in field_notes().values() for script in note.scripts} - {"every", "script"})
TRIPLES = [(script, name) for script in SCRIPTS for name in fields_of(script)]


def another(name):
    """(words of the command line, value) that a field does not have by default."""
    if name in ("shard", "fold"):
        return [f"--{name}", "2/3"], "2/3"
    kind, default, flag = KINDS[name], getattr(Config(), name), "--" + name.replace("_", "-")
    if kind is bool:
        return [flag if not default else flag.replace("--", "--no-", 1)], not default
    if typing.get_origin(kind) is typing.Literal:
        value = [choice for choice in typing.get_args(kind) if choice != default][0]
    elif isinstance(default, tuple):
        return [flag, "one", "two"], ("one", "two")
    else:
        step = -0.0625 if default == 1 else 0.0625  # shares end at 1
        value = default + ("x" if isinstance(default, str) else 1 if isinstance(default, int) else step)
    return [flag, str(value)], value


def outcome(words, capsys, script="mmpkd.py"):
    """(exit code, stderr) of a script that only reads its settings."""
    old, sys.argv = sys.argv, [script, *words]
    try:
        code = run_script(lambda argv: parse_config(argv, script, ""), script)
    finally:
        sys.argv = old
    return code, capsys.readouterr().err


def assert_one_line(code, err, wanted=2):
    assert code == wanted
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert ": error: " in err and "Traceback" not in err


# ---- fields ---------------------------------------------------------------------------------------------------------

def test_every_field_has_a_comment_and_scripts():
    assert list(field_notes()) == FIELDS
    assert all(note.comment and note.scripts for note in field_notes().values())


def test_every_script_that_a_heading_names_is_there():
    assert [script for script in SCRIPTS if not (ROOT / script).is_file()] == []


@pytest.mark.parametrize("script,name", TRIPLES)
def test_a_field_works_from_flag_and_file_and_the_flag_wins(script, name, tmp_path):
    words, value = another(name)
    assert getattr(parse_config(words, script, ""), name) == value
    assert getattr(parse_config([words[0].replace("-", "_").replace("__", "--", 1), *words[1:]], script, ""), name) == value
    file = tmp_path / "config.json"
    file.write_text(json.dumps({name: value}))
    assert getattr(parse_config(["--config", str(file)], script, ""), name) == value
    file.write_text(json.dumps({name: getattr(Config(), name)}))
    assert getattr(parse_config(["--config", str(file), *words], script, ""), name) == value
    assert getattr(parse_config([*words, f"--config={file}"], script, ""), name) == value


def test_a_value_with_underscores_stays_as_it_is():
    assert parse_config(["--data_dir=my_own_data"], "mmpkd.py", "").data_dir == "my_own_data"
    assert parse_config(["--data_dir", "my_own_data"], "mmpkd.py", "").data_dir == "my_own_data"


def test_what_a_script_presets_is_weaker_than_file_and_flag(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"batch_size": 3}')
    preset = {"batch_size": 2, "epochs": 5}
    cfg = parse_config(["--config", str(file), "--clip-length", "7"], "mmpkd.py", "", **preset)
    assert (cfg.batch_size, cfg.epochs, cfg.clip_length) == (3, 5, 7)


def test_saved_settings_come_back_whole(tmp_path):
    cfg = Config(train_ids=("P1", "P2"), learning_rate=3e-4, augment=False)
    settings.save_settings(cfg, tmp_path / "run" / "config.json")
    assert Config(**settings.read_settings(tmp_path / "run" / "config.json")) == cfg


def test_negative_numbers_are_values_not_flags():
    assert parse_config(["--db-min", "-60"], "audio_melspec.py", "").db_min == -60


def test_defaults_are_the_papers():
    cfg = Config()
    assert (cfg.visual_backbone, cfg.audio_backbone, cfg.face_size, cfg.feature_size, cfg.gru_size) == ("vgg19_bn", "resnet18", 112, 512, 1024)
    assert (cfg.clip_length, cfg.batch_size, cfg.optimizer, cfg.dropout) == (5, 8, "adam", 0.2)
    assert cfg.learning_rate == 1e-4 and cfg.learning_rate * cfg.visual_lr_scale == pytest.approx(1e-5)


# ---- one source: help, headings and the code that reads -------------------------------------------------------------

def shown_help(script, capsys, doc="", **defaults):
    with pytest.raises(SystemExit) as end:
        parse_config(["--help"], script, doc, **defaults)
    assert end.value.code == 0
    return "".join(capsys.readouterr().out.split())  # argparse breaks lines where it likes


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_every_flag_with_the_comment_in_the_source(script, capsys):
    shown, source = shown_help(script, capsys), (ROOT / "config.py").read_text()
    for name in fields_of(script):
        comment = field_notes()[name].comment
        assert re.search(rf"    {name}: .+  # {re.escape(comment)}\n", source)
        assert "--" + name.replace("_", "-") in shown
        assert "".join(comment.split()) in shown


def test_help_can_hold_percent_signs(capsys, monkeypatch):
    notes = field_notes()
    monkeypatch.setattr(settings, "field_notes", lambda: notes | {"dropout": notes["dropout"]._replace(comment="10 % of all %s")})
    shown = shown_help("mmpkd.py", capsys, "half of it: 50 %\n", runs_dir="100%")
    assert "10%ofall%s" in shown and "100%" in shown


def reads(script):
    """Fields that a script reads as cfg.<name> or names to keep_settings, derived folders as the fields they come from."""
    derived = {}
    for node in ast.walk(ast.parse((ROOT / "config.py").read_text())):
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(decorator) == "property" for decorator in node.decorator_list):
            derived[node.name] = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "self"}
    names, tree = set(), ast.parse((ROOT / script).read_text())
    constants = {part.targets[0].id: part.value for part in tree.body if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("cfg", "self.cfg"):
            names |= derived.get(node.attr, {node.attr})
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "keep_settings":
            listed = node.args[2]
            names |= set((constants[listed.id] if isinstance(listed, ast.Name) else listed).value.split())
    return names & set(FIELDS)


def imported(script):
    """The script and every file of the project that it imports, directly or not, but config.py."""
    found, todo = set(), {script}
    while todo:
        file = todo.pop()
        found.add(file)
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            named = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            modules = [node.module] if isinstance(node, ast.ImportFrom) else named
            todo |= {f"{module}.py" for module in modules if (ROOT / f"{module}.py").is_file()} - found - {"config.py"}
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_field_that_a_heading_gives_a_script_is_read_by_it(script):
    unread = set(fields_of(script)) - set().union(*map(reads, imported(script)))
    assert unread == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_field_that_a_script_reads_is_a_flag_of_it(script):
    assert reads(script) - set(fields_of(script)) == set()


# ---- bad settings ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words", [
    ["--epochs", "0"], ["--epochs", "1.5"], ["--epochs", "many"], ["--epochs"], ["--epochs", "-3"], ["--epochs="],
    ["--learning-rate", "0"], ["--learning-rate", "nan"], ["--learning-rate", "inf"], ["--learning-rate", "fast"],
    ["--dropout", "1.1"], ["--weight-decay", "-1"], ["--clip-length", "1"], ["--seed", "-1"], ["--frame-rate", "0"], ["--frame-rate", "1e9"],
    ["--stage", "pupil"], ["--gate", ""], ["--augment", "yes"], ["--augment=no"],
    ["--epoch", "3"], ["--batch", "4"], ["--lr", "0.1"], ["--no-epochs"], ["stray"], ["--epochs", "3", "4"], ["-x"], ["-batch-size", "4"],
    ["--face-size", "64"], ["--config"],
], ids=" ".join)
def test_a_bad_flag_is_one_line_and_exit_code_two(words, capsys):
    assert_one_line(*outcome(words, capsys))


@pytest.mark.parametrize("word", ["--batch", "--batch-siz", "--epoch", "--visual", "--no-aug"])
def test_flags_are_not_abbreviated(word):
    with pytest.raises(SettingsError, match="unknown setting"):
        parse_config([word, "4"], "mmpkd.py", "")


def test_a_misspelt_flag_is_answered_with_the_right_one(capsys):
    assert "did you mean --batch-size?" in outcome(["--batch_sise", "4"], capsys)[1]


def test_a_flag_of_another_script_is_answered_with_its_scripts(capsys):
    err = outcome(["--epochs", "4"], capsys, "annotations.py")[1]
    assert "--epochs is a setting of mmpkd.py" in err and "annotations.py does not read it" in err


def test_a_bad_value_is_answered_with_what_was_wanted(capsys):
    assert "--epochs: '1.5' is not a whole number, 1 or more" in outcome(["--epochs", "1.5"], capsys)[1]
    assert "one of visual, teacher, student, audio, all" in outcome(["--stage", "pupil"], capsys)[1]
    assert "0.5" in outcome(["--jpeg-quality", "0.5"], capsys, "face_detector.py")[1]


@pytest.mark.parametrize("text", [
    "", "not json", "[1, 2]", "null", '{"epocs": 3}', '{"epochs": "10"}', '{"epochs": 10.0}', '{"epochs": true}', '{"epochs": null}', '{"epochs": 0}',
    '{"augment": 1}', '{"train_ids": "dev_1"}', '{"train_ids": [1]}', '{"stage": "pupil"}', '{"stage": ["all"]}', '{"learning_rate": NaN}',
    '{"learning_rate": 1' + "0" * 400 + "}", '{"data_dir": 3}', b"\xff\xfe\x00{",
], ids=lambda text: repr(text)[:24])
def test_a_bad_config_file_is_one_line_and_exit_code_two(text, tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_one_line(*outcome(["--config", str(file)], capsys))


def test_a_missing_config_file_is_named(tmp_path, capsys):
    code, err = outcome(["--config", str(tmp_path / "gone.json")], capsys)
    assert_one_line(code, err)
    assert str(tmp_path / "gone.json") in err
    assert_one_line(*outcome(["--config", str(tmp_path)], capsys))


IMPOSSIBLE = [
    ("audio_melspec.py", ["--db-min", "30"], "db_min"), ("audio_melspec.py", ["--db-min", "10", "--db-max", "-10"], "db_min"),
    ("audio_melspec.py", ["--n-fft", "16001"], "n_fft"), ("audio_melspec.py", ["--segment-s", "0.02"], "n_fft"),
    ("audio_melspec.py", ["--n-mels", "300"], "n_mels"), ("audio_extract.py", ["--segment-s", "0.00001"], "segment_s"),
    ("mmpkd.py", ["--visual-backbone", "small_cnn", "--visual-weights", "imagenet"], "visual_weights"),
    ("mmpkd.py", ["--audio-backbone", "tiny_cnn", "--audio-weights", "imagenet"], "audio_weights"),
]


@pytest.mark.parametrize("script,words,named", IMPOSSIBLE)
def test_an_impossible_combination_is_one_line_and_exit_code_two(script, words, named, capsys):
    code, err = outcome(words, capsys, script)
    assert_one_line(code, err)
    assert named in err


@pytest.mark.parametrize("shard", ["5/4", "0/4", "1", "a/b", "1/0", "-1/3", "1/2/3", " 1/2", "1.5/2"])
def test_a_shard_that_is_not_there_is_one_line_and_exit_code_two(shard, capsys):
    for script in ("face_detector.py", "audio_extract.py", "audio_melspec.py"):
        code, err = outcome([f"--shard={shard}"], capsys, script)
        assert_one_line(code, err)
        assert repr(shard) in err and "such as 1/4" in err
        assert outcome(["--shard", "4/4"], capsys, script) == (0, "")


def test_no_script_complains_of_a_setting_that_it_does_not_read(capsys):
    assert outcome(["--segment-s", "0.02"], capsys, "audio_extract.py") == (0, "")  # shorter than n_fft of audio_melspec.py


def test_a_device_that_is_not_there_is_a_bad_setting():
    with pytest.raises(SettingsError, match="device"):
        errors.torch_device("quantum")
    assert errors.torch_device("cpu").type == "cpu"


# ---- how a script ends ----------------------------------------------------------------------------------------------

def ends(error, capsys, script="/somewhere/step.py"):
    def main(argv):
        raise error
    code = run_script(main, script)
    return code, capsys.readouterr().err


def test_an_error_of_the_user_is_one_line_with_the_scripts_name(capsys):
    assert ends(UserError("no crops: run face_detector.py"), capsys) == (1, "step.py: error: no crops: run face_detector.py\n")
    assert ends(SettingsError("epochs: 0"), capsys) == (2, "step.py: error: epochs: 0\n")
    assert_one_line(*ends(UserError("two\nlines"), capsys), wanted=1)


def test_ctrl_c_ends_with_130_and_one_line(capsys):
    code, err = ends(KeyboardInterrupt(), capsys)
    assert_one_line(code, err, wanted=130)
    assert "goes on" in err


def test_a_worker_that_was_killed_is_one_line(capsys):
    code, err = ends(BrokenProcessPool("a process in the pool was terminated abruptly"), capsys)
    assert_one_line(code, err, wanted=1)
    assert "out of memory" in err and "--workers" in err


def test_a_missing_permission_names_the_file(capsys):
    code, err = ends(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "Annotations/x.csv"), capsys)
    assert (code, err) == (1, "step.py: error: Permission denied: Annotations/x.csv\n")


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda argv: 1 / 0, "step.py")


def full():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # of a write: it does not know its file


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_a_full_disk_is_one_line_that_names_the_file(writer, tmp_path, capsys):
    def main(argv):
        with writer(tmp_path / "result.csv"):
            raise full()
    code = run_script(main, "step.py")
    assert (code, capsys.readouterr().err) == (1, f"step.py: error: No space left on device: {tmp_path / 'result.csv'}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_file_too_large_for_the_disk_leaves_the_old_one(tmp_path, capsys):
    resource = pytest.importorskip("resource")
    path, (soft, hard) = tmp_path / "result.txt", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text("old")

    def main(argv):
        with whole_file(path) as part:
            part.write_text("x" * 100_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the kernel refuses, as it does when a disk is full
    try:
        code = run_script(main, "step.py")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_one_line(code, err := capsys.readouterr().err, wanted=1)
    assert str(path) in err
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


# ---- whole files ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()])
def test_a_file_that_was_not_finished_is_not_there(error, tmp_path):
    with pytest.raises(type(error)), whole_file(tmp_path / "new" / "a.txt") as part:
        part.write_text("half")
        raise error
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()])
def test_a_folder_that_was_not_finished_is_not_there(error, tmp_path):
    with pytest.raises(type(error)), whole_folder(tmp_path / "a") as part:
        (part / "0.txt").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_whole_files_can_be_read_by_others_as_the_umask_says(tmp_path):
    mask = os.umask(0o022)
    try:
        with whole_file(tmp_path / "a.txt") as part:
            part.write_text("new")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


KILLED = """
import os, pathlib, signal, sys
from config import whole_file, whole_folder
folder = pathlib.Path(sys.argv[1])
with whole_folder(folder / "crops") as part, whole_file(folder / "a.txt") as text:
    (part / "0.txt").write_text("half")
    text.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_nothing_that_looks_done_and_the_next_goes_on(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["a.txt"]
    with whole_folder(tmp_path / "crops") as part:
        assert list(part.iterdir()) == []  # nothing of the killed run gets in
    assert not (tmp_path / ".crops.part").exists()


# ---- folders that grow ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), ValueError(), OSError(errno.ENOSPC, "full")])
def test_a_folder_that_was_stopped_half_way_is_gone_on_with(error, tmp_path):
    with pytest.raises(type(error)), growing_folder(tmp_path / "crops", [3, "a"]) as part:
        (part / "0.txt").write_text("whole")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == [".crops.part"]
    with growing_folder(tmp_path / "crops", [3, "a"]) as part:
        assert (part / "0.txt").read_text() == "whole"
        (part / "1.txt").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["crops"]
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == ["0.txt", "1.txt"]  # no note is left in it


def test_the_half_of_something_else_is_thrown_away(tmp_path):
    with pytest.raises(KeyboardInterrupt), growing_folder(tmp_path / "crops", {"size": 3}) as part:
        (part / "0.txt").write_text("old")
        raise KeyboardInterrupt
    with growing_folder(tmp_path / "crops", {"size": 4}):
        pass
    assert list((tmp_path / "crops").iterdir()) == []


def test_a_half_without_its_note_is_thrown_away(tmp_path):
    (tmp_path / ".crops.part").mkdir()
    (tmp_path / ".crops.part" / "0.txt").write_text("of a run killed before it could say what of")
    with growing_folder(tmp_path / "crops", 1):
        pass
    assert list((tmp_path / "crops").iterdir()) == []


def test_an_error_of_the_user_throws_the_half_away(tmp_path):
    with pytest.raises(UserError), growing_folder(tmp_path / "crops", 1) as part:
        (part / "0.txt").write_text("half")
        raise UserError("the video is damaged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", [None, "a.npy"])
def test_a_folder_that_another_process_fills_is_left_alone(other, tmp_path):
    pytest.importorskip("fcntl")
    with growing_folder(tmp_path / "crops", 1) as part:
        (part / "a.npy").write_text("half")
        with pytest.raises(UserError, match="crops is being made by another process: wait for it, or stop it"):
            with growing_folder(tmp_path / "crops", 2, only=other):
                pytest.fail("two at once")
        assert (part / "a.npy").read_text() == "half"
    assert (tmp_path / "crops" / "a.npy").read_text() == "half"


def test_those_who_ask_whether_a_folder_is_claimed_are_not_taken_for_one_who_claims_it(tmp_path):
    pytest.importorskip("fcntl")
    asker = files._claim(tmp_path, tmp_path, shared=True)  # another process, asking at this very moment
    assert not files.is_claimed(tmp_path)
    os.close(asker)
    with claimed(tmp_path, "trained"):
        assert files.is_claimed(tmp_path)
    assert not files.is_claimed(tmp_path) and not files.is_claimed(tmp_path / "none")


def test_who_waits_for_a_claimed_folder_gets_it_when_it_is_free(tmp_path):
    pytest.importorskip("fcntl")
    order = []

    def wait_for_it():
        with claimed(tmp_path, "drawn", wait=True):
            order.append("second")

    other = threading.Thread(target=wait_for_it)
    with claimed(tmp_path, "drawn"):
        other.start()
        other.join(0.3)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


def test_a_folder_made_by_another_process_meanwhile_is_kept(tmp_path):
    (tmp_path / "crops").mkdir()
    with pytest.raises(UserError, match="just been made by another process"), growing_folder(tmp_path / "crops", 1):
        pytest.fail("made twice")
    assert [path.name for path in tmp_path.iterdir()] == ["crops"]


def test_a_file_that_grows_becomes_whole_at_once(tmp_path):
    path = tmp_path / "train_1.npy"
    with pytest.raises(KeyboardInterrupt), growing_folder(path, 1, only="train_1.npy") as part:
        (part / "train_1.npy").write_text("half")
        raise KeyboardInterrupt
    assert not path.exists()
    with growing_folder(path, 1, only="train_1.npy") as part, open(part / "train_1.npy", "a") as file:
        file.write(" and half")
    assert path.read_text() == "half and half" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_folder_and_keeps_its_half(tmp_path, capsys):
    def main(argv):
        with growing_folder(tmp_path / "crops", 1) as part:
            (part / "0.txt").write_text("whole")
            raise full()
    assert run_script(main, "step.py") == 1
    assert capsys.readouterr().err == f"step.py: error: No space left on device: {tmp_path / 'crops'}\n"
    assert (tmp_path / ".crops.part" / "0.txt").exists()


@pytest.mark.parametrize("at_once", [1, 3, 7, 100])
def test_bytes_that_a_disk_takes_in_parts_are_written_whole(at_once, tmp_path, monkeypatch):
    write, numbers = os.write, np.arange(4, dtype="<i2")
    monkeypatch.setattr(os, "writev", lambda file, parts: write(file, b"".join(parts)[:at_once]))
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:at_once]))
    (tmp_path / "a").write_bytes(b"older and longer" * 3)
    write_bytes(str(tmp_path / "a"), b"01234", numbers, b"")
    assert (tmp_path / "a").read_bytes() == b"01234" + numbers.tobytes()
    monkeypatch.delattr(os, "writev")  # as on Windows
    write_bytes(str(tmp_path / "a"), b"", numbers)
    assert (tmp_path / "a").read_bytes() == numbers.tobytes()


def test_bytes_that_a_disk_has_no_room_for_name_their_file(tmp_path, monkeypatch):
    def write(file, data):
        raise full()
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "writev", lambda file, parts: 3)
    with pytest.raises(OSError, match="No space") as error:
        write_bytes(str(tmp_path / "b"), b"0123456789")
    assert error.value.filename == str(tmp_path / "b")


def test_the_papers_preset_is_a_student_as_published():
    cfg = parse_config(["--config", str(Path(config.__file__).with_name("paper.json")), "--stage", "student"], "mmpkd.py", "")
    assert (cfg.distill, cfg.gate, cfg.unlabelled) == ("cosine_original", "original", 0)
    assert (cfg.teachers, cfg.teacher_folds, cfg.calibrate) == ("joint", 0, False)
    assert (cfg.epochs, cfg.visual_backbone) == (Config().epochs, Config().visual_backbone), "it holds how a student is taught, and nothing else"
