"""mmpkd.py: teacher ensembles that are trained side by side, in the shards of a job array, with several networks."""
import shutil
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from conftest import (
    DEADLINE_S,
    TINY,
    files_of,
    in_background,
    kept_of,
    log_of,
    one_line,
    run_of,
    same,
    tiny_config,
    wait_until,
)

import mmpkd
from checkpoints import load_checkpoint
from runs import read_log
from support.files import there

FOLDS = [f"{stage}_both_fold{number}of2" for stage in ("audio", "visual") for number in (1, 2)]
BOTH = [*TINY, "--target", "both"]


def without(folder, *names):
    """The folder of a corpus, some of whose runs are deleted."""
    for name in names:
        shutil.rmtree(folder / "runs" / name)
    return folder


def assert_same(one, other):
    """Two folders hold the same run: networks, optimizer, log and predictions."""
    assert same(kept_of(one), kept_of(other)) and log_of(one) == log_of(other) != []
    last, its_last = (load_checkpoint(folder / "last.pt") for folder in (one, other))
    assert same(last["optimizer"], its_last["optimizer"]) and same(last["model"], its_last["model"])
    assert files_of(one / "predictions") == files_of(other / "predictions") != {}


# ---- side by side ---------------------------------------------------------------------------------------------------

def test_ensembles_that_are_trained_side_by_side_are_the_same_bits_as_one_after_the_other(pseudo, pseudo_corpus, call):
    without(pseudo, *FOLDS, "student_both_pseudo")
    code, out, err = call("mmpkd", "--data-dir", pseudo, *BOTH, "--workers", 2)
    assert code == 0 and "4 networks of the teacher ensembles, 2 side by side" in out, err
    for name in FOLDS:
        assert f"{name}: finished" in out and f"{name} epoch 2/2" in out, "what a worker printed is not to be seen"
        assert_same(pseudo / "runs" / name, pseudo_corpus / "runs" / name)
    assert_same(*(run_of(folder, "student", distill="pseudo") for folder in (pseudo, pseudo_corpus)))


def test_a_network_that_fails_is_named_and_the_others_are_trained(pseudo, call):
    without(pseudo, *FOLDS, "student_both_pseudo")
    (pseudo / "runs" / FOLDS[1] / "log.jsonl").mkdir(parents=True)
    code, out, err = call("mmpkd", "--data-dir", pseudo, *BOTH, "--workers", 2)
    line = one_line(code, err)
    assert "1 of 4 runs failed" in line and FOLDS[1] in line and f"{FOLDS[1]}: FAILED" in out and "log.jsonl" in out
    assert all(there(pseudo / "runs" / name / "predictions") for name in FOLDS if name != FOLDS[1])
    assert not there(run_of(pseudo, "student", distill="pseudo"))


def test_networks_that_were_stopped_and_killed_while_two_trained_resume_to_the_same_bits(pseudo, call):
    words = [*BOTH, "--stage", "student", "--teachers", "visual", "--shard", "1/1", "--workers", 2, "--epochs", 24]
    folds, whole = [pseudo / "runs" / name for name in FOLDS[2:]], pseudo / "whole"
    assert call("mmpkd", "--data-dir", pseudo, *words, "--workers", 1, "--runs-dir", whole)[0] == 0
    without(pseudo, *FOLDS, "student_both_pseudo")

    def epochs():
        return [len(read_log(folder)) for folder in folds]
    for end, extra in ((signal.SIGTERM, []), (signal.SIGKILL, ["--resume"])):
        before = epochs()
        with in_background(pseudo, *words[len(TINY):], *extra) as process:
            wait_until(lambda: all(now > was for now, was in zip(epochs(), before)), process)  # noqa: B023
            process.send_signal(end)
            _, err = process.communicate(timeout=DEADLINE_S)
        if end == signal.SIGTERM:
            assert "--resume" in one_line(process.returncode, err, 128 + end)
            assert all(there(folder / "last.pt") for folder in folds)
    assert any(not there(folder / "predictions") for folder in folds), "they had ended: this test shows nothing"
    assert call("mmpkd", "--data-dir", pseudo, *words, "--workers", 1, "--resume")[0] == 0
    for folder in folds:
        assert_same(folder, whole / folder.name)


@pytest.mark.parametrize("device, given, workers, devices", [
    ("cuda", 0, 3, ["cuda:0", "cuda:1", "cuda:2"]), ("cuda", 2, 2, ["cuda:0", "cuda:1", "cuda:2"]),
    ("cuda:1", 0, None, None), ("cuda:1", 2, 2, ["cuda:1"]), ("cpu", 0, 4, ["cpu"]), ("cpu", 1, None, None)])
def test_networks_are_spread_over_devices_or_cores(monkeypatch, tmp_path, device, given, workers, devices):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(mmpkd, "cores", lambda: 16)
    monkeypatch.setattr(mmpkd, "train", lambda cfg, device: told.append((cfg.fold, torch.get_num_threads())))
    told, runs = [], [tiny_config(data_dir=str(tmp_path), stage="visual", fold=f"{k}/4") for k in (1, 2, 3, 4)]
    monkeypatch.setattr(mmpkd, "side_by_side", lambda names, work, workers: told.append(
        (names, workers, work.keywords["devices"])))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        mmpkd.train_ensembles(runs, tiny_config(workers=given), torch.device(device))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    if workers:
        assert told == [([f"visual_arousal_fold{k}of4" for k in (1, 2, 3, 4)], workers, devices)]
    else:
        assert told == [(one.fold, 1) for one in runs], "not one after the other, with one thread each"


def test_a_worker_trains_on_its_own_device(monkeypatch, tmp_path):
    told, one = [], tiny_config(data_dir=str(tmp_path), stage="visual", fold="1/2", device="")
    monkeypatch.setattr(mmpkd, "joined", lambda cfg: nullcontext(torch.device(cfg.device)))
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    monkeypatch.setattr(mmpkd, "train", lambda cfg, device: told.append((cfg.device, cfg.resume, device)))
    for number in (0, 1, 2):
        mmpkd.train_in_worker("a", SimpleNamespace(worker=number), {"a": one}, ["cuda:0", "cuda:1"])
    last = mmpkd.run_folder(one) / "last.pt"
    last.parent.mkdir(parents=True)
    last.touch()  # of a worker that was killed
    mmpkd.train_in_worker("a", SimpleNamespace(worker=0), {"a": one}, ["cpu"])
    assert [entry for entry in told if type(entry) is tuple] == [
        ("", False, torch.device("cuda:0")), ("", False, torch.device("cuda:1")), ("", False, torch.device("cuda:0")),
        ("", True, torch.device("cpu"))]
    assert [str(entry) for entry in told if type(entry) is not tuple] == ["cuda:0", "cuda:1", "cuda:0"]


# ---- shards ---------------------------------------------------------------------------------------------------------

def test_the_shards_of_a_job_array_train_what_one_command_does(pseudo, pseudo_corpus, call):
    names = sorted(path.name for path in (pseudo / "runs").iterdir() if path.name != "audio_both")
    without(pseudo, *names)
    trained = []
    for shard in ("2/2", "1/2"):
        code, out, err = call("mmpkd", "--data-dir", pseudo, *BOTH, "--shard", shard)
        assert code == 0 and "without --shard" in out and "CCC on Val_Set" not in out, err
        trained.append({name for name in names if there(pseudo / "runs" / name)})
    assert trained == [{"teacher_both", FOLDS[1], FOLDS[3]}, {*names} - {"student_both_pseudo"}]
    code, out, err = call("mmpkd", "--data-dir", pseudo, *BOTH)
    assert code == 0 and out.count("nothing to do") == 6 and "CCC on Val_Set" in out, err
    for name in names:
        assert_same(pseudo / "runs" / name, pseudo_corpus / "runs" / name)


def test_the_last_command_trains_what_a_shard_has_left(pseudo, call):
    without(pseudo, *FOLDS, "student_both_pseudo")
    assert call("mmpkd", "--data-dir", pseudo, *BOTH, "--stage", "student", "--shard", "2/5")[0] == 0
    assert [there(pseudo / "runs" / name) for name in FOLDS] == [True, False, False, False]
    assert call("mmpkd", "--data-dir", pseudo, *BOTH)[0] == 0
    assert there(run_of(pseudo, "student", distill="pseudo") / "predictions")


def test_a_shard_refuses_what_the_student_would_and_may_have_nothing_to_do(pseudo, call):
    words = ["--data-dir", pseudo, *BOTH, "--shard"]
    assert "fold" in one_line(*call("mmpkd", *words, "1/2", "--fold", "1/2", "--distill", "pseudo")[::2], 2)
    code, out, err = call("mmpkd", *words, "2/2", "--stage", "visual")
    assert code == 0 and "nothing of the 1 runs" in out and "student" not in out, err


# ---- several networks per fold --------------------------------------------------------------------------------------

def test_an_ensemble_of_two_networks_per_fold_shares_the_first_ones(pseudo, call):
    before = files_of(pseudo / "runs")
    words = ["--data-dir", pseudo, *BOTH, "--teachers", "visual", "--teacher-networks", 2]
    code, out, err = call("mmpkd", *words, "--variant", "two")
    assert code == 0 and "ensembles of 4 networks" in out, err
    after = files_of(pseudo / "runs")
    assert all(after[path] == content for path, content in before.items())
    new = {path.name for path in (pseudo / "runs").iterdir()} - {path.parts[0] for path in before}
    assert new == {"visual_both_fold1of2_net2_two", "visual_both_fold2of2_net2_two", "student_both_pseudo_two"}
    first, second = (kept_of(pseudo / "runs" / name) for name in (FOLDS[2], f"{FOLDS[2]}_net2_two"))
    assert not same(first["model"], second["model"])
    listed = call("mmpkd", "--data-dir", pseudo, "--list")[1].splitlines()
    assert any(line.startswith("visual_both_fold1of2_net2_two ") and "finished" in line for line in listed)

    of_second = pseudo / "runs" / "visual_both_fold2of2_net2_two"
    shutil.copy(pseudo / "runs" / FOLDS[3] / "best.pt", of_second)
    assert "have been trained again" in one_line(*call("mmpkd", *words, "--variant", "two")[::2])
    shutil.rmtree(of_second)
    shutil.rmtree(pseudo / "runs" / "student_both_pseudo_two")
    line = one_line(*call("mmpkd", *words, "--variant", "two", "--stage", "student")[::2], 2)
    assert "run --stage visual --fold 2/2 --variant net2_two --seed 1000000 first" in line
