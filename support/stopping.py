"""Processes that are asked to stop (a cluster's SIGTERM, Ctrl-C) and save first."""
import contextlib
import signal
import threading

from support.devices import world
from support.errors import UserError


class Stopped(UserError):
    """The process was asked to stop, and the run is saved: exit code 128 + the signal, as in a shell."""

    def __init__(self, message, number):
        super().__init__(message)
        self.exit_code = 128 + number

    def __reduce__(self):
        return Stopped, (str(self), self.exit_code - 128)  # it comes whole out of a worker


class StopSignal:
    """Handles SIGTERM (preemption) and the first Ctrl-C: the run is saved after the current step. A second Ctrl-C ends
    it at once."""

    def __init__(self):
        self.signal, self.now = None, False

    def __call__(self, number, frame):
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number
        if self.now:
            raise Stopped("", number)

    @contextlib.contextmanager
    def at_once(self):
        """In this block nothing of the run changes: a signal interrupts it."""
        if world()[0]:  # this process waits for the first one, and ends with it
            yield
            return
        if self.signal:
            raise Stopped("", self.signal)
        self.now = True
        try:
            yield
        finally:
            self.now = False

    def stopped(self, epoch, step, steps):
        """The Stopped to raise in an epoch (from 1 on), after `step` of its `steps` steps."""
        return Stopped(f"stopped by {signal.Signals(self.signal).name} and saved in epoch {epoch}, after step "
                       f"{step} of {steps}: continue with the same command and --resume", self.signal)


@contextlib.contextmanager
def listening():
    """A StopSignal that handles signals until the block ends."""
    stop, signals = StopSignal(), [signal.SIGTERM, signal.SIGINT]
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield stop
        return
    before = [signal.signal(number, stop) for number in signals]
    try:
        yield stop
    except RuntimeError:
        if stop.signal and world()[0]:  # the first process has saved and ended
            raise Stopped("stopped", stop.signal) from None
        raise
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)
