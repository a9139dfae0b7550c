"""checkpoints.py: what best.pt and last.pt hold, how they are written, and those of the version before."""
import contextlib
import datetime
import json
import shutil
import statistics
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import (
    STAGES,
    TINY,
    files_of,
    kept_of,
    log_of,
    one_line,
    own,
    run_of,
    same,
    scripted,
    stopped_run,
    table_of,
    tiny_config,
)

import checkpoints
import mmpkd
import runs
from checkpoints import load_checkpoint, load_model, save_checkpoint
from data import load_recordings
from model_card import SOUND, card_text, check_card
from models_kd import build_model
from scores import predict
from support.checksums import LIST
from support.errors import UserError
from support.recordings import made_with

BOTH = ["arousal", "valence"]


# ---- what best.pt holds ---------------------------------------------------------------------------------------------

def best_of(corpus, stage, **of):
    return load_checkpoint(run_of(corpus, stage, **of) / "best.pt")


@pytest.mark.parametrize("stage", STAGES)
def test_best_holds_what_is_needed_to_use_a_network_and_nothing_more(trained_corpus, stage):
    state = best_of(trained_corpus, stage)
    assert list(state) == ["stage", "config", "targets", "shapes", "card", "model", "epoch"]
    needed = {"target", "feature_size", "gru_size", "dropout", "linear_heads"}
    needed |= {"visual_backbone", "visual_lr_scale"} if "frames" in state["shapes"] else set()
    needed |= {"audio_backbone", "audio_lr_scale", "audio_gru"} if "specs" in state["shapes"] else set()
    assert set(state["config"]) == needed | ({"fusion", "modality_dropout"} if stage == "teacher" else set())
    assert {"learning_rate", "seed", "visual_weights"} & set(load_checkpoint(
        run_of(trained_corpus, stage) / "last.pt")["config"]) >= {"learning_rate", "seed"}


def test_a_card_says_how_its_inputs_were_made(trained_corpus):
    card = best_of(trained_corpus, "teacher")["card"]
    made = made_with(trained_corpus / "Cropped_Aligned")
    assert card["faces"] == {name: made[name] for name in made if name != "frame_rate"} | {"retained": False}
    made = made_with(trained_corpus / "specs")
    assert card["sound"] == {name: made[name] for name in made if name in SOUND}
    assert "audio_channel" in made  # of the recordings, not of the network
    assert card["frame_rate"] == 25 and card["inputs"] == {"frames": [3, 32, 32], "specs": [1, 16, 101]}
    assert card["normalisation"] == {name: {"mean": [0.5], "std": [0.25]} for name in ("frames", "specs")}
    assert best_of(trained_corpus, "student")["card"]["sound"] is None
    assert best_of(trained_corpus, "audio")["card"]["faces"] is None


def test_a_card_says_who_was_trained_on_who_taught_and_how_good_it_is(trained_corpus, pseudo_corpus):
    card = best_of(trained_corpus, "student")["card"]
    assert card["trained_on"] == {"Train_Set": ["train_1", "train_2"], "Unlabelled_Set": []}
    assert (card["taught_by"], card["distill"], card["teacher_weights"]) == (["teacher_both"], "cosine", None)
    assert card["date"] == datetime.date.today().isoformat() and torch.__version__.startswith(card["versions"]["torch"])
    assert card["network"]["weights"] == sum(one.numel() for one in load_model(
        run_of(trained_corpus, "student") / "best.pt")[0].parameters())
    entry = log_of(run_of(trained_corpus, "student"))[card["chosen_on"]["epoch"] - 1]
    assert {target: card["ccc"][target]["mean"] for target in BOTH} == pytest.approx(
        {target: entry["val"][target]["mean"] for target in BOTH}, abs=1e-6)
    assert card["ccc_on"] == {"set": "Val_Set", "subjects": ["dev_1"]} and card["ccc"]["valence"]["subjects"] == 1
    assert card["chosen_on"] == card["ccc_on"] | {"epoch": card["chosen_on"]["epoch"], "keep": "best"}

    taught = best_of(pseudo_corpus, "student", distill="pseudo")["card"]
    assert taught["trained_on"]["Unlabelled_Set"] == ["x_1", "x_2"]
    assert taught["taught_by"] == [f"{stage}_both_fold{k}of2" for stage in ("audio", "visual") for k in (1, 2)]
    assert all(sum(taught["teacher_weights"][target].values()) == pytest.approx(1) for target in BOTH)


def test_the_constants_of_a_card_are_those_that_plot_ccc_writes(pseudo, call, no_figures):
    """Of runs that were trained after those of their folds, and of these themselves."""
    folds = pseudo / "runs of folds"
    folds.mkdir()
    for run in [run for run in (pseudo / "runs").iterdir() if "_fold" in run.name]:
        shutil.copytree(run, folds / run.name)
    found = []
    for root in (pseudo / "runs", folds):
        assert call("plot_ccc", "--data-dir", pseudo, "--runs-dir", root)[0] == 0
        for row in pd.read_csv(pseudo / "plots" / "postprocessing.csv").itertuples():
            card = load_checkpoint(root / row.run / "best.pt")["card"]
            if row.run in ("audio_both", "teacher_both"):  # before its folds; without any
                assert card["postprocessing"] is None and row.fitted_on == (2 if row.run == "audio_both" else 0)
                continue
            found.append(row)
            assert card["postprocessing"]["smoothing"] == row.smoothing
            for name, value in card["postprocessing"][row.target].items():
                assert value == getattr(row, name), f"{name} of {row.run}"
    assert len(found) == 2 * (2 + 4) and {row.fitted_on for row in found} == {1, 2}
    changed = [(row.window_frames, row.delay_frames) for row in found]
    assert set(changed) != {(1, 0)}, "no step was kept, so this test shows nothing"


@pytest.mark.parametrize("run", ["visual_both", "student_both_pseudo", "audio_both_fold2of2"])
def test_a_card_has_the_level_of_the_ratings_that_its_network_was_trained_on(pseudo_corpus, run):
    """Of a fold's those of the other subjects; of a student's those that are no pseudo-labels."""
    card = load_checkpoint(pseudo_corpus / "runs" / run / "best.pt")["card"]
    tables = [pd.read_csv(table_of(pseudo_corpus, name)) for name in card["trained_on"]["Train_Set"]]
    assert len(tables) == (1 if "fold" in run else 2)
    for target in BOTH:
        ratings = [table[target].dropna().tolist() for table in tables]
        spread = sum(statistics.pvariance(each) for each in ratings) / len(ratings)
        mean = statistics.fmean(value for each in ratings for value in each)
        assert card["ratings"][target] == pytest.approx({"mean": mean, "sd": spread ** 0.5}, abs=2e-6)


def test_a_fold_was_chosen_on_held_out_subjects_and_is_measured_on_others(made, call):
    assert call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--fold", "2/2")[0] == 0
    card = load_checkpoint(made / "runs" / "visual_arousal_fold2of2" / "best.pt")["card"]
    assert card["trained_on"]["Train_Set"] == ["train_1"]
    assert (card["chosen_on"]["set"], card["chosen_on"]["subjects"]) == ("held out of Train_Set", ["train_2"])
    assert card["ccc_on"] == {"set": "Val_Set", "subjects": ["dev_1"]} and "too high" not in card_text(card)


def test_where_nothing_was_chosen_the_card_says_so(made, call):
    code, out, _ = call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--keep", "last")
    assert code == 0 and "visual_arousal: no post-processing" in out
    card = load_checkpoint(run_of(made, "visual", "arousal") / "best.pt")["card"]
    assert card["chosen_on"] == {"set": None, "subjects": [], "epoch": 2, "keep": "last"}
    assert card["ccc_on"]["subjects"] == ["dev_1"] and card["postprocessing"] is None


@pytest.mark.parametrize("case", ["no settings", "another size", "no faces.csv", "another value", "retained"])
def test_crops_of_another_origin_are_called_unknown_and_retention_is_noticed(made, call, case):
    crops = made / "Cropped_Aligned"
    note, tables = crops / "settings.json", sorted(crops.glob("*/faces.csv"))
    if case == "no settings":
        note.unlink()
    elif case == "no faces.csv":
        tables[1].unlink()
        tables[1].with_name(LIST).unlink()
    elif case == "retained":
        tables[2].with_name(LIST).unlink()
        tables[2].write_text(tables[2].read_text().replace(",tracked,", ",retained,", 1))
    else:
        value = {"face_size": 64} if case == "another size" else {"face_score": "high"}
        settings = json.loads(note.read_text()) | value
        note.write_text(json.dumps({name: settings[name] for name in settings if name != "crc32"}))
    code, out, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 1)
    if case == "another value":
        assert f"{note} is damaged (face_score is high)" in one_line(code, err)
        return
    card = load_checkpoint(run_of(made, "visual", "arousal") / "best.pt")["card"]
    assert code == 0 and ("has no settings.json" in out) == (case == "no settings"), err
    if case == "retained":
        assert card["faces"]["retained"] is True
    else:
        assert card["faces"] is None and "not known" in card_text(card)


def test_weights_from_a_file_are_named_without_the_path_to_them(made, call, tmp_path):
    net = build_model("visual", tiny_config(), {"frames": (3, 32, 32)}).visual.net
    torch.save(net.state_dict(), tmp_path / "faces.pt")
    code, _, err = call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 1, "--visual-weights",
                        tmp_path / "faces.pt")
    state = load_checkpoint(run_of(made, "visual", "arousal") / "best.pt")
    assert code == 0 and state["card"]["network"]["visual_weights"] == "faces.pt", err
    assert str(tmp_path) not in str({name: state[name] for name in state if name != "model"})


# ---- best.pt is written again at the end ----------------------------------------------------------------------------

class Tomorrow(datetime.date):
    @classmethod
    def today(cls):
        return super().today() + datetime.timedelta(1)


def test_a_run_killed_while_best_is_completed_ends_in_the_same_file_whatever_day_it_is(made, call, monkeypatch):
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--fold", "1/2"]  # it has constants
    run = made / "runs" / "visual_arousal_fold1of2"
    for before in (True, False):
        def stop(path, state, before=before):
            if not before:
                save_checkpoint(path, state)
            raise KeyboardInterrupt
        with monkeypatch.context() as patch:
            patch.setattr(mmpkd, "save_checkpoint", stop)
            assert call("mmpkd", *words, *["--resume"] * (not before))[0] == 130
        card = load_checkpoint(run / "best.pt")["card"]
        assert (card["postprocessing"] is None) == before and not (run / "predictions").exists()
    complete = (run / "best.pt").read_bytes()
    monkeypatch.setattr(checkpoints, "datetime", SimpleNamespace(date=Tomorrow))
    assert call("mmpkd", *words, "--resume")[0] == 0
    assert (run / "best.pt").read_bytes() == complete and (run / "predictions").is_dir()
    assert call("mmpkd", *words, "--runs-dir", made / "never")[0] == 0
    assert same(kept_of(run), kept_of(made / "never" / run.name))
    assert (made / "never" / run.name / "best.pt").read_bytes() != complete, "the date is in it"


def test_a_teacher_trained_on_without_getting_better_is_the_same_file_for_its_students(made, call, monkeypatch):
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--scheduler", "none"]
    run = run_of(made, "visual", "arousal")
    scripted(monkeypatch, [0.5, 0.1, 0.4])
    assert call("mmpkd", *words)[0] == 0
    before = files_of(run)
    scripted(monkeypatch, [0.1, 0.1, 0.4])
    assert call("mmpkd", *words, "--resume", "--epochs", 4)[0] == 0
    assert (run / "best.pt").read_bytes() == before[Path("best.pt")]
    assert (run / "last.pt").read_bytes() != before[Path("last.pt")]


def test_a_student_of_teachers_that_were_trained_again_is_refused(trained, call):
    words = ["--data-dir", trained, *TINY, "--target", "both"]
    cfg = tiny_config(data_dir=str(trained), stage="teacher", target="both")
    before = runs.fingerprint([cfg])
    assert "nothing to do" in call("mmpkd", *words, "--stage", "student", "--distill", "cosine")[1]
    shutil.rmtree(run_of(trained, "teacher"))
    assert call("mmpkd", *words, "--stage", "teacher", "--seed", 1)[0] == 0
    assert runs.fingerprint([cfg]) != before
    line = one_line(*call("mmpkd", *words, "--stage", "student", "--distill", "cosine")[::2])
    assert "trained again" in line and str(run_of(trained, "student")) in line


# ---- checkpoints of the version before ------------------------------------------------------------------------------

def as_before(run, **changes):
    """Replaces best.pt of a run with one as the version before wrote it: all settings, scores, no card."""
    last, best = load_checkpoint(run / "last.pt"), load_checkpoint(run / "best.pt")
    scores = {target: {"dev_1": 0.25, "mean": 0.25, "concatenated": float("nan")} for target in best["targets"]}
    old = {"stage": best["stage"], "config": last["config"], "targets": best["targets"], "shapes": best["shapes"],
           "model": best["model"], "epoch": best["epoch"], "val": scores}
    torch.save(old | changes, run / "best.pt")
    return run / "best.pt"


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_of_the_version_before_still_loads_and_says_what_is_unknown(trained, stage):
    model, state = load_model(run_of(trained, stage) / "best.pt")
    before, old = load_model(as_before(run_of(trained, stage)))
    assert same(model.state_dict(), before.state_dict())
    card = check_card(old["card"], "best.pt")
    for name in ("stage", "target", "targets", "inputs", "frame_rate", "distill"):
        assert card[name] == state["card"][name]
    assert card["ccc"]["arousal"] == {"mean": 0.25, "concatenated": None, "subjects": 1}
    assert card["chosen_on"] == {"set": "Val_Set", "subjects": ["dev_1"], "epoch": old["epoch"], "keep": "best"}
    assert card["faces"] is card["sound"] is card["trained_on"] is card["ratings"] is card["postprocessing"] is None
    assert card["clip_stride"] == 1
    assert "Not known" in card_text(card) and "is not known" in card_text(card)


@pytest.mark.parametrize("val", [[], {}, {"arousal": 3}, {"arousal": {"mean": "high"}}, {"arousal": {}}, 5])
def test_scores_of_an_old_checkpoint_that_are_none_are_one_line_or_unknown(trained, val):
    path = as_before(run_of(trained, "visual"), val=val)
    with contextlib.suppress(UserError):
        card_text(load_checkpoint(path)["card"])


def test_a_run_begun_by_the_version_before_is_resumed_and_gets_a_card(made, call):
    run, words = stopped_run(made, call, 2), ["--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, "--resume"]
    as_before(run)
    assert call("mmpkd", *words)[0] == 0
    card = load_checkpoint(run / "best.pt")["card"]
    assert card["faces"]["face_size"] == 32 and card["trained_on"]["Train_Set"] == ["train_1", "train_2"]
    assert card["ratings"]["arousal"]["sd"] > 0 and "val" not in load_checkpoint(run / "best.pt")


def test_a_network_is_the_same_as_if_it_had_been_built_with_memory(trained_corpus):
    """load_model builds it without, and takes the tensors of the file."""
    for stage in STAGES:
        model, state = load_model(run_of(trained_corpus, stage) / "best.pt")
        cfg = tiny_config(data_dir=str(trained_corpus), target="both", stage=stage)
        plain = build_model(stage, cfg, state["shapes"])
        plain.load_state_dict(state["model"])
        recordings = load_recordings(cfg, "Val_Set", model.inputs)
        one, other = (predict(each.eval(), recordings)["dev_1"] for each in (model, plain))
        assert np.array_equal(one, other) and not any(one.is_meta for one in model.state_dict().values())


# ---- writing --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_checkpoint_broken_off_while_it_is_written_leaves_the_old_one(tmp_path, monkeypatch, error):
    save_checkpoint(tmp_path / "last.pt", {"epoch": 1})

    def half(self, data):
        with open(self, "wb") as file:
            file.write(b"half of a checkpoint")
        raise error

    with monkeypatch.context() as patch, pytest.raises(error if isinstance(error, type) else OSError):
        patch.setattr(Path, "write_bytes", half)
        save_checkpoint(tmp_path / "last.pt", {"epoch": 2})
    assert torch.load(tmp_path / "last.pt", weights_only=True) == {"epoch": 1} and len(list(tmp_path.iterdir())) == 1


@contextlib.contextmanager
def on_a_full_disk(path):
    yield Path("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("module", ["checkpoints", "training", "packing"])
def test_a_full_disk_is_one_line_from_checkpoint_and_cache_alike(made, call, monkeypatch, module):
    """With the device that is always full: what torch and NumPy really raise there."""
    monkeypatch.setattr(f"{module}.whole_file", on_a_full_disk)
    assert "No space left on device" in one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual")[::2])


def test_checkpoints_hold_tensors_and_plain_python_only(trained_corpus, pseudo_corpus):
    def kinds(value):
        if isinstance(value, dict):
            return {kind for item in value.items() for part in item for kind in kinds(part)}
        if isinstance(value, list | tuple):
            return {kind for part in value for kind in kinds(part)}
        return {type(value)}

    folders = [run_of(trained_corpus, stage) for stage in STAGES] + [run_of(pseudo_corpus, "student", distill="pseudo")]
    for folder in folders:
        for file in ("best.pt", "last.pt"):
            assert kinds(load_checkpoint(folder / file)) <= {torch.Tensor, str, int, float, bool, type(None)}


# ---- last.pt ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("damage", ["half", "best", "other network"])
def test_a_damaged_or_foreign_last_checkpoint_is_one_line(made, call, damage):
    folder = stopped_run(made, call, 1)
    path = folder / "last.pt"
    if damage == "best":  # a checkpoint, but without what is needed to resume
        shutil.copy(folder / "best.pt", path)
    elif damage == "other network":
        torch.save(torch.load(path, weights_only=True) | {"model": {"weight": torch.zeros(3)}}, path)
    else:
        path.write_bytes(path.read_bytes()[:-2000])
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, "--resume"]
    code, _, err = call("mmpkd", *words)
    assert str(path) in one_line(code, err) and "delete" in err


def test_a_last_checkpoint_of_other_settings_is_refused_with_the_field(made, call):
    folder = stopped_run(made, call, 1, "--gru-size", 8)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"gru_size": 16}))
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, "--resume"]
    assert "gru_size 8" in one_line(*call("mmpkd", *words)[::2])


def test_crops_of_another_size_are_refused_on_resuming(made, call):
    stopped_run(made, call, 1)
    for path in (made / "Cropped_Aligned").glob("*/*.jpg"):
        cv2.imwrite(str(own(path)), np.zeros((40, 40, 3), np.uint8))
        (path.parent / LIST).unlink(missing_ok=True)
    note = run_of(made, "visual", "arousal") / "subjects.json"  # as an older version left it
    note.write_text(json.dumps({name: ids for name, ids in json.loads(note.read_text()).items() if name != "made_of"}))
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4, "--resume")[::2])
    assert "(3, 32, 32)" in line and "(3, 40, 40)" in line
