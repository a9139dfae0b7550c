"""How a script fails: errors that the user can fix, one line each, and the exit code."""
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path


class UserError(Exception):
    """Something the user can mend: shown as one line without a traceback, exit code 1."""
    exit_code = 1


class SettingsError(UserError):
    """A setting that cannot be used: one line, exit code 2."""
    exit_code = 2


def run_script(main, script):
    """Exit code of `main(argv)` on the command line: its errors become one line that says what to do."""
    try:
        main(sys.argv[1:])
        return 0
    except UserError as error:
        message, code = str(error), error.exit_code
    except KeyboardInterrupt:
        message, code = "stopped. Everything written so far is whole; the same command goes on from there (mmpkd.py with --resume)", 130
    except BrokenProcessPool:
        message, code = "a worker was killed (out of memory?): run the same again, with a lower --workers", 1
    except OSError as error:  # a full disk, a missing permission: it names the file itself
        message, code = f"{error.strerror or error}: {error.filename or 'while writing'}", 1
    print(f"{Path(script).name}: error: {' '.join(message.splitlines())}", file=sys.stderr)
    return code


def torch_device(name):
    """The torch device of that name; "" is cuda where there is one, else cpu. Raises SettingsError if it is not there."""
    import torch  # here, so that scripts that need no networks start fast
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError):
        raise SettingsError(f"device: {name!r} is not there; leave it out, or use cpu") from None
