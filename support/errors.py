"""Errors that a user can fix: one line and an exit code in place of a traceback; and the check of --device."""
import errno
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from support.machine import cores

FEWER = ("run the same command again with fewer --workers (mmpkd.py: a smaller --batch-size), or when other programs "
         "have ended")


class UserError(Exception):
    """An error that the user can fix: printed as one line without a traceback, exit code 1."""
    exit_code = 1


class SettingsError(UserError):
    """A setting that cannot be used: one line, exit code 2."""
    exit_code = 2


def run_script(main, script):
    """The exit code of a script. Calls `main(argv)`; an error that the user can fix is printed as one line.

    script: file name of the script. Any other error is a bug and keeps its traceback.
    """
    use_utf8()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files that are not UTF-8 can be printed
    try:
        main(sys.argv[1:])
        return 0
    except UserError as error:
        message, code = str(error), error.exit_code
    except KeyboardInterrupt:
        message, code = "interrupted; run the same command again to resume (mmpkd.py: add --resume)", 130
    except BrokenProcessPool:
        message, code = f"a worker was killed (out of memory?): {FEWER}", 1
    except (OSError, MemoryError, RuntimeError) as error:  # a full disk, a missing permission
        if not (isinstance(error, OSError) or is_of_memory(error)):
            raise
        message, code = reason_of(error), 1
    print(f"{Path(script).name}: error: {' '.join(message.splitlines())}", file=sys.stderr)
    return code


def use_utf8():
    """Starts this process again with UTF-8 for names and text if the locale (LC_ALL=C, Latin-1) has something else.

    In ASCII no name with other letters could be told from one that is damaged, printed or passed on.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_of_memory(error):
    """Whether an error says that there was too little memory: Python's, torch's of a CPU or a GPU, or OpenCV's."""
    words = ("not enough memory", "out of memory", "can't allocate memory", "can't start new thread",
             "Insufficient memory", "could not create a primitive")
    own = isinstance(error, RuntimeError) or type(error).__module__ in ("torch", "cv2")
    return isinstance(error, MemoryError) or own and any(one in str(error) for one in words)


def reason_of(error, name=""):
    """Why something failed, of an OSError or an error of is_of_memory(). name: of what, where no file is known."""
    if not isinstance(error, OSError):
        return f"too little memory: {FEWER}"
    advice = " (too many files are open at once: raise the limit, such as with ulimit -n 4096)"
    return (f"{error.strerror or error}: {error.filename or name or 'while reading or writing'}"
            + advice * (error.errno in (errno.EMFILE, errno.ENFILE)))


def torch_device(name):
    """The torch device of that name; "" is cuda if available, else cpu. Raises SettingsError if it cannot be used."""
    import torch  # here, so that scripts without networks start fast
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
        torch.set_num_threads(min(torch.get_num_threads(), cores()))  # it counts those of the machine
        return device
    except (RuntimeError, AssertionError):
        raise SettingsError(f"device: {name!r} is not available: use cpu, or leave --device out") from None
