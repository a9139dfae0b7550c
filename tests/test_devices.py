"""support/devices.py: several processes that train one network make what one process makes of the whole batch."""
import contextlib
import shutil

import pytest
import torch
import two_processes
from conftest import CPU, TINY, files_of, one_line, run_of, tiny_config, torchrun

import mmpkd
from runs import read_log
from support import devices


def test_one_process_alone_shares_nothing():
    assert devices.world() == (0, 1)
    rows = torch.rand(3, 2)
    assert devices.whole_batch(rows) is rows and devices.from_first(0.3, CPU) == 0.3
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert devices.share_statistics(model) is model and type(model[1]) is torch.nn.BatchNorm1d
    with devices.first_goes_first(), devices.joined(tiny_config()) as device:
        devices.wait_for_others()
        assert device == CPU


def test_bfloat16_follows_from_the_processors_flags(tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(devices, "ABOUT", file)
    assert not devices.has_bfloat16(CPU)  # elsewhere than on Linux
    for flags, has in (("avx2 avx512f", False), ("avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True)):
        file.write_text(f"model name : a processor\nflags : {flags}\n")
        assert devices.has_bfloat16(CPU) == has


@pytest.mark.parametrize("device", ["cuda:9", "abacus"])
def test_a_device_that_is_not_there_is_one_line(made, call, device):
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--device", device]
    assert "device" in one_line(*call("mmpkd", *words)[::2], expected=2) and not (made / "runs").exists()


def test_two_processes_with_half_the_batch_each_make_the_step_of_one_with_all_of_it(tmp_path):
    """Gradients, weights after the step, batch statistics and loss, of every stage, augmentation included."""
    ended = torchrun(two_processes.__file__, tmp_path / "two.pt")
    assert ended.returncode == 0, ended.stderr
    two_processes.main(tmp_path / "one.pt")
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    assert one.pop("processes") == 1 and two.pop("processes") == 2
    for stage in two_processes.EVERY:
        assert one[stage].keys() == two[stage].keys()
        largest = max(float(value.abs().max()) for name, value in one[stage].items() if name.startswith("gradient"))
        assert largest > 1e-3, "nothing is learned, so this test shows nothing"
        for name, value in one[stage].items():
            assert torch.allclose(two[stage][name].double(), value.double(), rtol=1e-4, atol=1e-5), (stage, name)


def test_two_processes_train_what_one_does_and_one_can_resume_from_two(pseudo, call):
    """A student of pseudo-labels, which the first process makes and both read."""
    words = ["--data-dir", pseudo, *TINY, "--target", "both", "--stage", "student", "--dropout", 0]
    run = run_of(pseudo, "student", distill="pseudo")
    shutil.rmtree(run)
    assert call("mmpkd", *words)[0] == 0
    alone = run.rename(pseudo / "alone")
    ended = torchrun(mmpkd.__file__, *words)
    assert ended.returncode == 0 and "x 2 in float32" in ended.stdout, ended.stderr
    assert ended.stdout.count("finished; epoch") == 1, "not the first process alone prints"
    assert files_of(run / "labels") == files_of(alone / "labels") and len(read_log(run)) == 2
    for one, two in zip(read_log(alone), read_log(run)):
        assert two["loss"] == pytest.approx(one["loss"], abs=2e-3)
        for target, value in two["val"].items():
            assert value == pytest.approx(one["val"][target], abs=2e-3)


def test_a_process_that_is_not_the_first_deletes_no_labels(pseudo, monkeypatch):
    """As if it came to the run's folder when the first one had made the labels."""
    def interrupted(sets, shapes):
        raise KeyboardInterrupt

    cfg = tiny_config(data_dir=str(pseudo), target="both", stage="student", distill="pseudo", variant="late")
    folder = pseudo / "runs" / "student_both_pseudo_late"
    (folder / "labels").mkdir(parents=True)
    monkeypatch.setattr(mmpkd, "world", lambda: (1, 2))
    monkeypatch.setattr(mmpkd, "wait_for_others", lambda: None)
    monkeypatch.setattr(mmpkd, "first_goes_first", contextlib.nullcontext)
    with contextlib.suppress(KeyboardInterrupt):
        mmpkd.training_call(cfg, CPU, interrupted)
    assert (folder / "labels").exists()


def test_a_batch_that_cannot_be_shared_evenly_is_refused(made, call, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--batch-size", 3)[::2], expected=2)
    assert "batch_size 3" in line and not run_of(made, "visual", "arousal").exists()
