"""The command line of every script and config.json, made from the fields of config.Config."""
import argparse
import contextlib
import dataclasses
import difflib
import functools
import inspect
import json
import math
import re
import sys
import typing
from pathlib import Path
from typing import Annotated, Literal

from config import Config
from support.errors import SettingsError
from support.files import whole_file


def parse_config(argv, script, doc, **defaults):
    """Settings of one script: defaults in config.py < `defaults` < --config FILE.json < flags.

    argv: list of str, the words after the program (None: those of this process); script: its file name (`__file__`
    will do); doc: its docstring, shown by --help. Raises SettingsError for an unknown flag, a wrong type or a value
    out of range.
    """
    script, argv = Path(script).name, sys.argv[1:] if argv is None else argv
    base = dataclasses.replace(Config(), **defaults)
    parser = _parser(script, doc, base)
    # --batch_size is --batch-size; "=" and what follows it is a value and stays as it is
    given, unknown = parser.parse_known_args([re.sub(r"^--[\w-]+", lambda flag: flag[0].replace("_", "-"), word) for word in argv])
    if unknown:
        raise SettingsError(_unknown_flag(unknown[0], script))
    flags = {name: value for name, value in vars(given).items() if name != "config"}
    cfg = dataclasses.replace(base, **(read_settings(given.config) if given.config else {}) | flags)
    return check_settings(cfg, fields_of(script))


def read_settings(path):
    """Settings in a run's config.json, as a dict. Raises SettingsError when it is not one."""
    try:
        settings = json.loads(Path(path).read_text())
    except (OSError, ValueError):  # also text that is neither JSON nor UTF-8
        settings = None
    if not isinstance(settings, dict):
        raise SettingsError(f"{path}: not a readable config.json, such as a run writes into its folder")
    for name in settings:
        if name not in KINDS:
            raise SettingsError(f"{path}: unknown setting {name!r}{_meant(name, KINDS)}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def check_settings(cfg, read=()):
    """`cfg` itself, every value of the type and in the range that its field states, and those in `read` possible together.

    read: names of the fields that a script reads; what others make impossible is not its user's to mend.
    """
    for name in KINDS:
        setattr(cfg, name, _checked(name, getattr(cfg, name)))
    samples = cfg.segment_s * cfg.audio_rate
    impossible = [
        ("fold", cfg.fold.endswith("/1"), f"fold: {cfg.fold!r} holds everybody out"),
        *((name, getattr(cfg, name) and not part_of(getattr(cfg, name)),
           f"{name}: {getattr(cfg, name)!r} is not i/n with i from 1 to n, such as 1/4") for name in ("shard", "fold")),
        ("segment_s audio_rate", samples < 1, f"segment_s {cfg.segment_s:g} is less than one sample at {cfg.audio_rate} Hz"),
        ("db_min db_max", cfg.db_min >= cfg.db_max, f"db_min {cfg.db_min:g} must be below db_max {cfg.db_max:g}"),
        ("n_fft segment_s audio_rate", cfg.n_fft > samples,
         f"n_fft {cfg.n_fft} is longer than a segment ({cfg.segment_s:g} s at {cfg.audio_rate} Hz)"),
        ("n_mels n_fft", cfg.n_mels > cfg.n_fft // 2, f"n_mels {cfg.n_mels} is more than n_fft {cfg.n_fft} can tell apart (half of it)"),
        *((f"{kind}_weights {kind}_backbone", getattr(cfg, f"{kind}_weights") == "imagenet" and backbone.endswith("_cnn"),
           f"{kind}_weights imagenet: there are none for {kind}_backbone {backbone}")
          for kind, backbone in (("visual", cfg.visual_backbone), ("audio", cfg.audio_backbone))),
    ]
    for names, is_so, message in impossible:
        if is_so and set(names.split()) <= set(read):
            raise SettingsError(message)
    return cfg


def part_of(text):
    """(i, n) of a text "i/n", the i-th of n parts, i from 1 on; None if it is not one."""
    part = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    i, n = map(int, part.groups()) if part else (0, 0)
    return (i, n) if 1 <= i <= n else None


def save_settings(cfg, path):
    """Writes every setting to `path` as JSON, for --config."""
    with whole_file(path) as part:
        part.write_text(json.dumps(dataclasses.asdict(cfg), indent=1) + "\n")


class Note(typing.NamedTuple):
    """What the source of Config says of a field."""
    section: str
    scripts: list  # that read it
    comment: str


@functools.cache
def field_notes():
    """Name of a field -> Note."""
    notes, section, scripts = {}, "", []
    for line in inspect.getsource(Config).splitlines():
        if heading := re.match(r"    # --- (.+): (.+)", line):
            section, scripts = heading[1], heading[2].split()
        elif entry := re.match(r"    (\w+): .+?  # (.+)", line):
            notes[entry[1]] = Note(section, scripts, entry[2])
    return notes


def fields_of(script):
    """Names of the fields that `script` reads."""
    return [name for name, note in field_notes().items() if script in note.scripts or "every" in note.scripts]


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise SettingsError(message.removeprefix("argument ") + " (--help lists the settings)")


def _parser(script, doc, base):
    parser = _Parser(prog=script, description=doc, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE.json", help="start from the settings that a run wrote into its folder")
    groups = {}
    for name in fields_of(script):
        section, _, comment = field_notes()[name]
        group = groups.get(section) or groups.setdefault(section, parser.add_argument_group(section))
        default = getattr(base, name)
        shown = " ".join(default) if isinstance(default, tuple) else default
        options = dict(dest=name, default=argparse.SUPPRESS, help=f"{comment} [{shown}]".replace("%", "%%"))
        if KINDS[name] is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= dict(type=_from_text(name), metavar=_metavar(name), nargs="*" if isinstance(default, tuple) else None)
        group.add_argument("--" + name.replace("_", "-"), **options)
    return parser


def _metavar(name):
    kind = KINDS[name]
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind))
    return {int: "N", float: "X", str: "TEXT"}.get(_base(kind), "ID")


def _from_text(name):
    def convert(text):
        base = _base(KINDS[name])
        if base is tuple:
            return text
        with contextlib.suppress(ValueError):
            return _checked(name, base(text))
        raise argparse.ArgumentTypeError(f"{text!r} is not {_wanted(KINDS[name])}")
    return convert


def _base(kind):
    """The plain Python type behind an Annotated, Literal or tuple[...] one."""
    if typing.get_origin(kind) is Annotated:
        return typing.get_args(kind)[0]
    return {Literal: str, tuple: tuple}.get(typing.get_origin(kind), kind)


def _checked(name, value):
    """`value`, an int made a float where one is wanted. Raises SettingsError if it is not what the field states."""
    kind, base = KINDS[name], _base(KINDS[name])
    if base is float and type(value) is int:
        with contextlib.suppress(OverflowError):  # then it stays an int and is refused as one
            value = float(value)
    if base is tuple and isinstance(value, list):
        value = tuple(value)
    good = type(value) is base
    if good and base is tuple:
        good = all(type(item) is str for item in value)
    elif good and typing.get_origin(kind) is Literal:
        good = value in typing.get_args(kind)
    elif good and base in (int, float):
        low, high, closed = typing.get_args(kind)[1] if typing.get_origin(kind) is Annotated else (-math.inf, math.inf, True)
        good = math.isfinite(value) and (low <= value if closed else low < value) and value <= high
    if not good:
        raise SettingsError(f"{name}: {value!r} is not {_wanted(kind)}")
    return value


def _wanted(kind):
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text", tuple: "a list of texts"}[_base(kind)]
    if typing.get_origin(kind) is not Annotated:
        return words
    low, high, closed = typing.get_args(kind)[1]
    above = f"{low} or more" if closed else f"above {low}"
    return f"{words}, {above}" if high == math.inf else f"{words} from {low} to {high}"


def _unknown_flag(word, script):
    if not word.startswith("--"):
        return f"{word!r} was not expected (--help lists the settings)"
    name = word[2:].split("=")[0].replace("-", "_")
    if name in KINDS:
        return f"{word} is a setting of {' '.join(field_notes()[name].scripts)}; {script} does not read it"
    return f"unknown setting {word}{_meant(name, fields_of(script))} (--help lists the settings)"


def _meant(name, names):
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean --{close[0].replace('_', '-')}?" if close else ""


KINDS = typing.get_type_hints(Config, include_extras=True)


def answer_first(name, script, doc, early=None):  # STUB
    pass
