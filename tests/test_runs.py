"""runs.py: a run's folder, the settings and subjects it stands for, its state, and the runs that a student needs."""
import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import (
    TINY,
    add_unlabelled,
    files_of,
    flip,
    log_of,
    one_line,
    own,
    rate,
    run_of,
    stopped_run,
    table_of,
    tiny_config,
)

import runs
from models_kd import MODELS
from runs import run_folder, settings_of, state_of_run
from support.checksums import list_all
from support.errors import SettingsError, UserError
from support.settings import save_settings


def test_what_networks_are_fed_agrees_with_the_networks():
    assert {stage: tuple(model.inputs) for stage, model in MODELS.items()} == runs.INPUTS


def test_importing_runs_does_not_import_torch():
    code = "import sys, runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(runs.__file__).parent).returncode == 0


# ---- names and settings ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("changes, name", [
    ({"stage": "visual"}, "visual_arousal"),
    ({"stage": "teacher", "target": "both", "fold": "1/4"}, "teacher_both_fold1of4"),
    ({"stage": "student", "distill": "cosine:0.5+ccc:0.5"}, "student_arousal_cosine0.5+ccc0.5"),
    ({"stage": "student", "distill": "pseudo", "variant": "b"}, "student_arousal_pseudo_b"),
    ({"stage": "audio", "target": "valence", "fold": "2/3", "variant": "b"}, "audio_valence_fold2of3_b")])
def test_a_runs_folder_is_named_after_what_it_is(tmp_path, changes, name):
    assert run_folder(tiny_config(data_dir=str(tmp_path), **changes)) == tmp_path / "runs" / name
    assert run_folder(tiny_config(runs_dir=str(tmp_path), **changes)) == tmp_path / name


def test_a_run_depends_on_the_settings_that_its_stage_reads():
    of = {stage: set(settings_of(tiny_config(stage=stage))) for stage in MODELS}
    everywhere = {"seed", "learning_rate", "gru_size", "batch_size", "epoch_steps", "augment", "fold", "keep"}
    assert all(everywhere <= names for names in of.values())
    assert not any(names & runs.MAY_CHANGE for names in of.values())
    assert {stage for stage in of if "visual_backbone" in of[stage]} == {"visual", "teacher", "student"}
    of_audio = {"audio_backbone", "audio_gru", "audio_lr_scale"}
    assert {stage for stage in of if of_audio <= of[stage]} == {"teacher", "audio"}
    assert not any(of_audio & of[stage] for stage in ("visual", "student"))
    assert {stage for stage in of if {"fusion", "modality_dropout"} & of[stage]} == {"teacher"}
    assert {stage for stage in of if "distill" in of[stage]} == {"student"}


def test_a_student_depends_on_the_settings_of_its_way_of_teaching():
    pseudo, distilled = (set(settings_of(tiny_config(stage="student", distill=way))) for way in ("pseudo", "cosine"))
    assert {"teachers", "teacher_folds", "teacher_networks", "confirm_audio"} == pseudo - distilled
    assert {"gate", "distill_weight"} == distilled - pseudo and "unlabelled" in pseudo & distilled


@pytest.mark.parametrize("words, name", [(["--learning-rate", "0.5"], "learning_rate"), (["--seed", 3], "seed"),
                                         (["--no-augment"], "augment")])
def test_changed_settings_are_refused_with_the_field_and_a_hint(trained_corpus, call, words, name):
    base = ["--data-dir", trained_corpus, *TINY, "--target", "both", "--stage", "visual"]
    for resume in ([], ["--resume"]):
        line = one_line(*call("mmpkd", *base, *words, *resume)[::2])
        assert name in line and "--variant" in line


def test_settings_that_a_stage_does_not_read_may_change(trained_corpus, call):
    code, out, _ = call("mmpkd", "--data-dir", trained_corpus, *TINY, "--target", "both", "--stage", "visual", "--gate",
                        "off", "--audio-lr-scale", 3, "--modality-dropout", "0.5", "--teacher-folds", 3, "--resume")
    assert code == 0 and "nothing to do" in out


def test_stage_all_refuses_a_changed_student_before_it_trains_a_teacher(trained, call):
    shutil.rmtree(run_of(trained, "teacher"))
    line = one_line(*call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--distill-weight", "0.9")[::2])
    assert "distill_weight" in line and not run_of(trained, "teacher").exists()


# ---- what a run was trained on --------------------------------------------------------------------------------------

def exchange(folder, what):
    """Exchanges ratings or images of train_1, or ratings of dev_1, for others, complete ones."""
    one, other = (folder / "Cropped_Aligned" / name for name in ("train_1", "train_2"))
    if what == "crops":
        shutil.rmtree(one)
        shutil.copytree(other, one)
    elif what == "spectrograms":
        shutil.rmtree(folder / "specs" / "train_1")
        shutil.copytree(folder / "specs" / "train_2", folder / "specs" / "train_1")
    else:
        rate(folder, what.split()[0], "0.1", "valence")


EXCHANGED = {"crops": "train_1 had other crops", "spectrograms": "train_1 had other spectrograms",
             "train_1 ratings": "train_1 had other ratings", "dev_1 ratings": "dev_1 had other ratings"}


@pytest.mark.parametrize("what", EXCHANGED)
def test_a_run_whose_ratings_or_images_were_exchanged_is_refused(trained, call, what):
    """... finished, as a teacher, and stopped; the visual run has no spectrograms and does not miss them."""
    exchange(trained, what)
    words = ["--data-dir", trained, *TINY, "--target", "both"]
    lines = [call("mmpkd", *words, "--stage", "teacher")[::2],
             call("mmpkd", *words, "--stage", "student", "--distill", "sp")[::2]]
    shutil.rmtree(run_of(trained, "teacher") / "predictions")
    lines.append(call("mmpkd", *words, "--stage", "teacher", "--resume")[::2])
    for code, err in lines:
        assert f"teacher_both/ holds a run that was trained when {EXCHANGED[what]}" in one_line(code, err)
    assert call("mmpkd", *words, "--stage", "visual")[0] == (what != "spectrograms")


def test_images_of_other_programs_are_compared_by_names_and_sizes_and_those_that_are_gone_are_not(trained, call):
    for path in trained.glob("*/*/checksums.sfv"):
        path.unlink()
    words = ["--data-dir", trained, *TINY, "--stage", "teacher"]
    assert call("mmpkd", *words)[0] == 0
    moved = shutil.copytree(trained, trained.with_name("moved"))
    image = own(moved / "Cropped_Aligned" / "dev_1" / "000003.jpg")
    assert call("mmpkd", *["--data-dir", moved, *words[2:]])[0] == 0
    content = image.read_bytes()
    image.unlink()  # in one process, folders are looked at again when files came or went
    image.write_bytes(content[:-2] + b"\0" + b"\xff\xd9")
    assert "dev_1 had other crops" in one_line(*call("mmpkd", *["--data-dir", moved, *words[2:]])[::2])
    shutil.rmtree(moved / "Cropped_Aligned")
    code, out, _ = call("mmpkd", *["--data-dir", moved, *words[2:]])
    assert code == 0 and "nothing to do" in out


def test_a_stopped_run_is_not_resumed_without_a_recording_that_it_was_trained_on(trained, call):
    shutil.rmtree(run_of(trained, "visual") / "predictions")
    shutil.rmtree(trained / "Cropped_Aligned" / "train_2")
    line = one_line(*call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--stage", "visual",
                          "--resume")[::2])
    assert "trained with train_2, which has no crops now" in line


def test_a_run_is_used_when_a_list_of_checksums_was_deleted_as_messages_advise_and_that_is_said(trained, call):
    (trained / "Cropped_Aligned" / "train_1" / "checksums.sfv").unlink()
    code, out, _ = call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--stage", "visual")
    assert code == 0 and "visual_both: the crops of train_1 got or lost their checksums.sfv" in out


def test_a_run_of_an_older_version_is_used_and_that_is_said_once(trained, call):
    note = run_of(trained, "teacher") / "subjects.json"
    note.write_text(json.dumps({name: ids for name, ids in json.loads(note.read_text()).items() if name != "made_of"}))
    rate(trained, "train_1", "0.1", "valence")
    words = ["--data-dir", trained, *TINY, "--target", "both", "--stage", "teacher"]
    code, out, _ = call("mmpkd", *words)
    assert code == 0 and out.count("older version") == 1 and "teacher_both" in out
    assert "older version" not in call("mmpkd", *words)[1]


@pytest.mark.parametrize("damage", ["exchanged", "cut", "flipped"])
def test_pseudo_labels_that_were_changed_are_not_trained_on(pseudo, call, damage):
    run, words = run_of(pseudo, "student", distill="pseudo"), ["--data-dir", pseudo, *TINY, "--target", "both"]
    shutil.rmtree(run / "predictions")
    path = run / "labels" / "x_1.csv"
    if damage == "flipped":
        flip(path, -2)  # the last digit: another number
    else:
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-1] if damage == "cut" else [lines[0], *lines[:0:-1]]))
    if damage == "exchanged":
        (path.parent / "checksums.sfv").unlink()
        list_all(path.parent)
    line = one_line(*call("mmpkd", *words, "--stage", "student", "--resume")[::2])
    assert {"exchanged": "labels/ holds other pseudo-labels", "cut": "x_1.csv has 59 rows for 60 frames",
            "flipped": "labels/x_1.csv is damaged"}[damage] in line


# ---- state ----------------------------------------------------------------------------------------------------------

def begun(folder, **changes):
    """A run's folder as a killed process leaves it: (cfg, folder)."""
    cfg = tiny_config(data_dir=str(folder), stage="visual", **changes)
    for name in ("Train_Set/train_1", "Val_Set/dev_1"):
        (folder / "Annotations" / f"{name}.csv").parent.mkdir(parents=True)
        (folder / "Annotations" / f"{name}.csv").touch()
    run = run_folder(cfg)
    run.mkdir(parents=True)
    save_settings(cfg, run / "config.json")
    (run / "subjects.json").write_text(json.dumps(runs.origin_of(cfg)))
    return cfg, run


def test_a_run_is_new_stopped_or_finished(tmp_path):
    cfg, run = begun(tmp_path, epochs=4)
    resuming = dataclasses.replace(cfg, resume=True)
    assert state_of_run(cfg) == state_of_run(resuming) == "new", "nothing was saved yet"
    (run / "last.pt").touch()
    with pytest.raises(UserError, match="--resume"):
        state_of_run(cfg)
    assert state_of_run(resuming) == "stopped"
    (run / "predictions").mkdir()
    with pytest.raises(UserError, match="best.pt is missing: delete"):
        state_of_run(cfg)
    (run / "best.pt").touch()
    assert state_of_run(cfg) == state_of_run(resuming) == "finished"
    with pytest.raises(UserError, match="4 epochs, 3"):
        state_of_run(dataclasses.replace(cfg, epochs=3))
    with pytest.raises(UserError, match="4 epochs, 6"):
        state_of_run(dataclasses.replace(cfg, epochs=6))
    assert state_of_run(dataclasses.replace(resuming, epochs=6)) == "stopped"


def test_a_run_that_another_process_trains_is_refused(tmp_path):
    cfg, run = begun(tmp_path)
    with runs.claimed_run(run):
        with pytest.raises(UserError, match="another process"):
            state_of_run(cfg)
        with pytest.raises(UserError, match="another process"), runs.claimed_run(run):
            pass
        with runs.claimed_run(run, first=False):  # the second process of torchrun
            pass
    assert state_of_run(cfg) == "new"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"Val_Set": []}', '{"Train_Set": 3}'])
def test_a_damaged_list_of_subjects_is_one_line(tmp_path, text):
    cfg, run = begun(tmp_path)
    (run / "last.pt").touch()
    (run / "subjects.json").write_text(text)
    with pytest.raises(UserError, match="subjects.json") as error:
        state_of_run(cfg)
    assert "\n" not in str(error.value)


def test_a_run_of_other_subjects_is_refused(trained, call):
    """The folds are drawn over all subjects: with one more, teachers would label subjects they were trained on."""
    words = ["--data-dir", trained, *TINY, "--target", "both", "--distill", "cosine"]
    shutil.copy(table_of(trained, "train_1"), table_of(trained, "train_1").with_name("train_0.csv"))
    for stage, of in (("visual", "visual"), ("student", "student"), ("student", "teacher")):
        if of == "teacher":
            shutil.rmtree(run_of(trained, "student"))
        line = one_line(*call("mmpkd", *words, "--stage", stage)[::2])
        assert f"{run_of(trained, of)}/" in line and "train_0" in line and "--variant" in line
    table_of(trained, "train_0").unlink()
    table_of(trained, "train_2").unlink()
    assert "train_2" in one_line(*call("mmpkd", *words, "--stage", "visual")[::2])


def test_unlabelled_subjects_are_those_of_a_student_alone(trained):
    cfg = tiny_config(data_dir=str(trained), target="both")
    add_unlabelled(trained)
    for stage in ("visual", "teacher"):
        runs.check_origin(dataclasses.replace(cfg, stage=stage))
    with pytest.raises(UserError, match="x_1"):
        runs.check_origin(dataclasses.replace(cfg, stage="student"))
    runs.check_origin(dataclasses.replace(cfg, stage="student", unlabelled=0.0))


# ---- variants -------------------------------------------------------------------------------------------------------

def test_a_variant_keeps_both_runs_and_uses_the_plain_teacher_while_its_settings_are_the_same(trained, call):
    words = ["--data-dir", trained, *TINY, "--target", "both", "--variant"]
    code, out, err = call("mmpkd", *words, "weak", "--stage", "student", "--distill-weight", "0.1")
    assert code == 0 and {path.name for path in (trained / "runs").glob("*weak")} == {"student_both_cosine_weak"}, err
    weights = [json.loads((trained / "runs" / name / "config.json").read_text())["distill_weight"]
               for name in ("student_both_cosine", "student_both_cosine_weak")]
    assert weights == [0.5, 0.1]
    line = one_line(*call("mmpkd", *words, "fast", "--stage", "student", "--learning-rate", "0.01")[::2], 2)
    assert "teacher_both_fast" in line


def test_all_stages_of_a_variant_leave_the_plain_runs_as_they_are(trained, call):
    before = files_of(trained / "runs")
    code, _, err = call("mmpkd", "--data-dir", trained, *TINY, "--target", "both", "--variant", "fast",
                        "--learning-rate", "0.01", "--epochs", 1)
    assert code == 0 and {path.name for path in (trained / "runs").glob("*fast")} == {
        "visual_both_fast", "teacher_both_fast", "student_both_cosine_fast"}, err
    after = files_of(trained / "runs")
    assert all(after[path] == content for path, content in before.items())


def test_what_a_variant_cannot_share_it_trains_itself(pseudo):
    cfg = tiny_config(data_dir=str(pseudo), target="both", distill="pseudo", stage="student", variant="b", epochs=2,
                      epoch_steps=2, learning_rate=0.001)
    assert {one.variant for one in runs.needed_by(cfg)} == {""}, "the same settings: the plain runs"
    assert {one.variant for one in runs.needed_by(dataclasses.replace(cfg, teachers="visual"))} == {""}
    changes = [{"learning_rate": 0.1}, {"epochs": 3}, {"visual_backbone": "small_cnn"}]
    changed = [{one.stage: one.variant for one in runs.needed_by(dataclasses.replace(cfg, **each))} for each in changes]
    assert changed == [{"audio": "b", "visual": "b"}, {"audio": "b", "visual": "b"}, {"audio": "", "visual": "b"}]
    own = pseudo / "runs" / "audio_both_fold1of2_b"
    own.mkdir()
    assert runs.needed_by(cfg)[0].variant == "b", "its own run comes first where it exists"
    shutil.rmtree(pseudo / "runs" / "audio_both_fold2of2")
    assert runs.needed_by(cfg)[1].variant == "b", "what is missing is trained as this variant"


# ---- the runs that a student needs ----------------------------------------------------------------------------------

@pytest.mark.parametrize("changes, needed", [
    ({"distill": "cosine"}, ["teacher"]),
    ({"distill": "pseudo"}, ["audio 1/2", "audio 2/2", "visual 1/2", "visual 2/2", "visual"]),
    ({"distill": "pseudo", "confirm_audio": False}, ["audio 1/2", "audio 2/2", "visual 1/2", "visual 2/2"]),
    ({"distill": "pseudo", "teachers": "visual"}, ["visual 1/2", "visual 2/2"]),
    ({"distill": "pseudo", "teachers": "visual", "teacher_networks": 2},
     ["visual 1/2", "visual 2/2", "visual 1/2 net2", "visual 2/2 net2"]),
    ({"distill": "pseudo", "teachers": "joint", "teacher_folds": 3}, ["teacher 1/3", "teacher 2/3", "teacher 3/3"])])
def test_the_runs_that_a_student_needs(tmp_path, changes, needed):
    cfg = tiny_config(data_dir=str(tmp_path), stage="student", **changes)
    assert [f"{one.stage} {one.fold} {one.variant}".strip() for one in runs.needed_by(cfg)] == needed


def test_networks_of_one_fold_have_names_and_seeds_of_their_own_and_the_first_are_shared(tmp_path):
    cfg = tiny_config(data_dir=str(tmp_path), stage="student", distill="pseudo", teachers="visual", seed=3)
    (one,), (first, second, third) = ([run for run in runs.needed_by(dataclasses.replace(cfg, teacher_networks=count))
                                       if run.fold == "1/2"] for count in (1, 3))
    assert one == dataclasses.replace(first, teacher_networks=1)
    assert [runs.run_folder(run).name for run in (first, second, third)] == [
        "visual_arousal_fold1of2", "visual_arousal_fold1of2_net2", "visual_arousal_fold1of2_net3"]
    assert [run.seed for run in (first, second, third)] == [3, 1000003, 2000003]
    assert [run.variant for run in runs.needed_by(dataclasses.replace(cfg, teacher_networks=2, variant="b"))] == [
        "b", "b", "net2_b", "net2_b"]
    assert runs.settings_of(first) == runs.settings_of(second) | {"seed": 3, "variant": ""}, "another setting differs"


def test_what_is_read_in_training_is_what_network_and_teachers_are_fed(tmp_path):
    read = {(stage, distill, teachers): runs.read_in_training(tiny_config(
        data_dir=str(tmp_path), stage=stage, distill=distill, teachers=teachers)) for stage, distill, teachers in [
            ("visual", "cosine", "visual"), ("audio", "cosine", "visual"), ("student", "pseudo", "visual"),
            ("student", "cosine", "visual"), ("student", "pseudo", "audio+visual")]}
    assert list(read.values()) == [["frames"], ["specs"], ["frames"], ["frames", "specs"], ["frames", "specs"]]


def test_auto_is_pseudo_labels_where_there_are_unlabelled_recordings_and_else_cosine(tmp_path):
    cfg = tiny_config(data_dir=str(tmp_path), distill="auto")
    assert runs.with_way(cfg).distill == "cosine"
    folder = tmp_path / "Annotations" / "Unlabelled_Set"
    folder.mkdir(parents=True)
    (folder / ".x_0.csv").touch()
    assert runs.with_way(cfg).distill == "cosine", "left over from a killed process"
    (folder / "x_1.csv").touch()
    (tmp_path / "Cropped_Aligned" / "x_1").mkdir(parents=True)
    assert runs.with_way(cfg).distill == "pseudo"
    assert runs.with_way(dataclasses.replace(cfg, unlabelled=0.0)).distill == "cosine"
    assert runs.with_way(dataclasses.replace(cfg, distill="sp")).distill == "sp"


def test_a_missing_run_is_named_with_the_command_that_trains_it(tmp_path):
    cfg = tiny_config(data_dir=str(tmp_path), stage="audio", fold="2/3")
    with pytest.raises(SettingsError, match="--stage audio --fold 2/3"):
        runs.check_trained([cfg])


# ---- the listing ----------------------------------------------------------------------------------------------------

def test_runs_are_listed_with_their_state_and_best_ccc(made, call):
    assert "no runs" in call("mmpkd", "--data-dir", made, "--list")[1]
    folder = stopped_run(made, call, 1)
    assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "audio")[0] == 0
    other = shutil.copytree(folder, folder.with_name("visual_old"))
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(settings | {"gone_setting": 1}))
    with runs.claimed_run(shutil.copytree(folder, folder.with_name("visual_running"))):
        code, out, err = call("mmpkd", "--data-dir", made, "--list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    best = max(entry["val"]["arousal"]["mean"] for entry in log_of(run_of(made, "audio", "arousal")))
    assert code == 0 and "finished" in lines["audio_arousal"] and f"{best:.3f}" in lines["audio_arousal"], err
    assert "2/2" in lines["audio_arousal"] and "stopped" in lines[folder.name] and "1/4" in lines[folder.name]
    assert "running" in lines["visual_running"] and "another version" in lines["visual_old"]


def test_a_log_line_that_was_cut_short_is_left_out(tmp_path):
    lines = [{"epoch": epoch, "seconds": 1.5, "val": {"arousal": {"mean": math.nan}}, "best": True} for epoch in (1, 2)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"epo')
    assert str(runs.read_log(tmp_path)) == str(lines) and runs.read_log(tmp_path / "gone") == []


@pytest.mark.parametrize("line", [
    "3", "[]", "null", "{}", '{"epo', "[" * 100_000, '{"epoch": 2}', '{"epoch": 2, "val": {}}', "\xff",
    '{"epoch": "2", "val": {"arousal": {"mean": 0.5}}}', '{"epoch": 2.5, "val": {"arousal": {"mean": 0.5}}}',
    '{"epoch": 2, "val": {"arousal": 0.5}}', '{"epoch": 2, "val": {"arousal": {"mean": null}}}',
    '{"epoch": 2, "val": {"valence": {"mean": 0.5}}}', '{"epoch": 2, "val": {"arousal": {"mean": 0.5}}, "loss": []}',
    '{"epoch": 2, "val": {"arousal": {"mean": 0.5}}, "loss": 1' + 400 * "0" + "}"])
def test_a_log_line_that_is_something_else_is_named(line, tmp_path):
    good = '{"epoch": 1, "val": {"arousal": {"mean": 0.5}}, "loss": 0.5}\n'
    (tmp_path / "log.jsonl").write_text(good + line + "\n" + good, encoding="latin-1")
    with pytest.raises(UserError, match="log.jsonl line 2 is not what mmpkd.py writes"):
        runs.read_log(tmp_path)


def test_a_run_with_a_damaged_log_is_listed(made_corpus, trained):
    (run_of(trained, "visual") / "log.jsonl").write_text("{}\n")
    lines = runs.list_runs(trained / "runs").splitlines()
    assert len(lines) == 5 and "log.jsonl line 1 is not what" in lines[-1] and "finished" in lines[1]
