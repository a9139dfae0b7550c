"""support/stopping.py: processes that are asked to stop save first, and end with 128 + the signal."""
import pickle
import re
import signal
import threading

import pytest
from conftest import DEADLINE_S, TINY, in_background, one_line, run_of, same, stopped_run, wait_until

import training
from checkpoints import load_checkpoint
from runs import read_log
from support.stopping import Stopped, StopSignal, listening


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_of_before_come_back(number):
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with listening() as stop:
        assert stop.signal is None
        signal.raise_signal(number)
        assert stop.signal == number
        error = stop.stopped(3, 1, 4)
    assert error.exit_code == 128 + number and "epoch 3" in str(error) and "--resume" in str(error)
    sent = pickle.loads(pickle.dumps(error))
    assert type(sent) is Stopped and str(sent) == str(error) and sent.exit_code == error.exit_code, "out of a worker"
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not():
    with listening() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT


def test_where_nothing_changes_a_signal_interrupts_also_one_that_came_before():
    with listening() as stop:
        with pytest.raises(Stopped), stop.at_once():
            signal.raise_signal(signal.SIGTERM)
        assert not stop.now
        with pytest.raises(Stopped), stop.at_once():
            pytest.fail("the block was entered")


def test_another_thread_listens_to_nothing():
    kept, before = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: kept.append(listening().__enter__()))
    thread.start()
    thread.join()
    assert isinstance(kept[0], StopSignal) and signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_gets_sigterm_saves_and_a_second_process_on_it_changes_nothing(made, call):
    folder, words = run_of(made, "visual", "arousal"), ["--stage", "visual", "--epochs", 5000, "--epoch-steps", 7]
    with in_background(made, *words) as process:
        wait_until(lambda: len(read_log(folder)) >= 1, process)
        config = (folder / "config.json").read_bytes()
        for extra in ([], ["--resume"]):
            line = one_line(*call("mmpkd", "--data-dir", made, *TINY, *words, *extra)[::2])
            assert "another process" in line
        assert (folder / "config.json").read_bytes() == config
        assert "running" in call("mmpkd", "--data-dir", made, "--list")[1]
        process.terminate()
        _, err = process.communicate(timeout=DEADLINE_S)
    assert "--resume" in one_line(process.returncode, err, 128 + signal.SIGTERM)
    epoch, step = (int(word) for word in re.search(r"epoch (\d+), after step (\d+)", err).groups())
    state = load_checkpoint(folder / "last.pt")
    assert (state["epoch"] + 1, state["step"]) == (epoch, step) and epoch >= 2
    assert not list(folder.glob(".*")), "a half-written file was left"


def test_ctrl_c_saves_after_the_step_and_the_run_resumes_to_the_same_bits(made, call, monkeypatch):
    words = ["--data-dir", made, *TINY, "--stage", "visual", "--epoch-steps", 3]
    assert call("mmpkd", *words, "--runs-dir", made / "never")[0] == 0
    step, steps = training.train_step, []

    def asked_in_step_5(*given):
        steps.append(1)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGINT)
        step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", asked_in_step_5)
        assert "epoch 2, after step 2 of 3" in one_line(*call("mmpkd", *words)[::2], 128 + signal.SIGINT)
    assert call("mmpkd", *words, "--resume")[0] == 0
    never, resumed = made / "never" / "visual_arousal", run_of(made, "visual", "arousal")
    assert same(load_checkpoint(never / "last.pt"), load_checkpoint(resumed / "last.pt"))


def test_a_signal_during_the_validation_saves_and_the_run_resumes_to_the_same_bits(made, call, monkeypatch):
    words = ["--data-dir", made, *TINY, "--stage", "visual"]
    assert call("mmpkd", *words, "--runs-dir", made / "never")[0] == 0
    step, asked = training.train_epoch, []

    def asked_after_the_first_epoch(*given):
        parts = step(*given)
        if not asked:
            asked.append(signal.raise_signal(signal.SIGTERM))
        return parts

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", asked_after_the_first_epoch)
        line = one_line(*call("mmpkd", *words)[::2], 128 + signal.SIGTERM)
    assert "epoch 1" in line and not read_log(run_of(made, "visual", "arousal"))
    assert call("mmpkd", *words, "--resume")[0] == 0
    never, resumed = made / "never" / "visual_arousal", run_of(made, "visual", "arousal")
    assert [entry["loss"] for entry in read_log(never)] == [entry["loss"] for entry in read_log(resumed)]


def test_sigterm_at_the_end_of_the_last_epoch_is_not_lost(made, call, monkeypatch):
    """The next run of the same command would begin, and be killed."""
    end_epoch = training.RunFiles.end_epoch

    def asked_meanwhile(self, *words):
        end_epoch(self, *words)
        signal.raise_signal(signal.SIGTERM)

    words = ["--data-dir", made, *TINY, "--stage", "visual", "--epochs", 1]
    with monkeypatch.context() as patch:
        patch.setattr(training.RunFiles, "end_epoch", asked_meanwhile)
        assert "SIGTERM" in one_line(*call("mmpkd", *words)[::2], 128 + signal.SIGTERM)
    code, out, err = call("mmpkd", *words, "--resume")
    assert code == 0 and "finished" in out, err


def test_a_stopped_run_is_resumed_only_when_asked_to(made, call):
    folder = stopped_run(made, call, 1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "--resume" in one_line(*call("mmpkd", "--data-dir", made, *TINY, "--stage", "visual", "--epochs", 4)[::2])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
