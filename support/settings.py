"""The settings of a script: config.Config, changed by --config FILE.json and flags, and checked.

config.py is the one source: a field is a flag, its type says which values are allowed, its comment is the help text.
"""
import argparse
import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import json
import math
import re
import reprlib
import sys
import tokenize
import typing
from pathlib import Path

from config import Config
from support.errors import SettingsError, UserError, run_script
from support.files import whole_file
from support.reading import clipped, read_json

EVERY = "every script"  # what a heading says in place of names


# ---- the settings of a script ---------------------------------------------------------------------------------------

def parse_config(argv, script, doc, words=(), **defaults):
    """The Config of a script; of two sources the later wins: config.py, `defaults`, --config FILE.json, flags.

    argv: list of str, the words after the script's name (None: those of this process); script: its file name, such as
    `__file__`; doc: its docstring, shown by --help; words: names of fields that are no flags, but what stands on the
    command line without one, in this order (a list takes the rest). Raises SettingsError for an unknown flag or a value
    out of range.
    """
    script, argv = Path(script).name, sys.argv[1:] if argv is None else argv
    base = dataclasses.replace(Config(), **defaults)
    # --batch_size is --batch-size; a value after "=" stays as it is
    argv = [re.sub(r"^--[\w-]+", lambda flag: flag[0].replace("_", "-"), word) for word in argv]
    given, unknown = _parser(script, doc, base, words).parse_known_intermixed_args(argv)
    if unknown:
        raise SettingsError(_unknown_flag(unknown[0], script))
    flags = {name: value for name, value in vars(given).items() if name != "config"}
    file = read_settings(given.config) if given.config else {}
    return check_settings(dataclasses.replace(base, **file | flags), fields_of(script))


def answer_first(name, script, doc, early=lambda cfg: False, **defaults):
    """Answers --help and wrong flags in a fraction of a second: a script calls it before imports that take seconds.

        from support.settings import answer_first
        answer_first(__name__, __file__, __doc__)
        import torch

    Does nothing unless the script is the one that is run. early: a function of the Config that returns True if it has
    answered the call, which then ends with exit code 0. Errors are one line, as from run_script.
    """
    def answer(argv):
        if early(parse_config(argv, script, doc, **defaults)):
            raise SystemExit(0)
    if name == "__main__" and (code := run_script(answer, script)):
        raise SystemExit(code)


def read_settings(path):
    """The settings in a run's config.json, as a dict. Raises SettingsError if it is not one."""
    again = "a config.json was expected, as a run writes it into its folder"
    try:
        settings = read_json(path, again)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): {again}") from None
    except UserError as error:
        raise SettingsError(str(error)) from None
    for name in settings:
        if name not in KINDS:
            raise SettingsError(f"{path}: unknown setting {clipped(name)!r}{_did_you_mean(name[:60], KINDS)}")
        try:
            settings[name] = _checked(name, settings[name])
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}") from None
    return settings


def save_settings(cfg, path):
    """Writes every setting to `path` as JSON, for --config."""
    with whole_file(path) as part:
        part.write_text(json.dumps(dataclasses.asdict(cfg), indent=1) + "\n")


# ---- checks ---------------------------------------------------------------------------------------------------------

def check_settings(cfg, read=()):
    """`cfg`, every value checked against the type of its field. Raises SettingsError for a wrong value or a conflict.

    read: names of the fields that the script reads; conflicts among other fields are ignored.
    """
    for name in KINDS:
        setattr(cfg, name, _checked(name, getattr(cfg, name)))
    samples, segment = cfg.segment_s * cfg.audio_rate, f"segment_s {cfg.segment_s:g} at {cfg.audio_rate} Hz"
    word = re.fullmatch(r"[\w-]*", cfg.variant) and not re.match(r"fold\d+of\d+", cfg.variant)
    scale = len(cfg.label_range) in (0, 2) and sorted({*cfg.label_range}) == [*cfg.label_range]
    conflicts = [  # fields, whether they conflict, message
        ("label_range", not scale, f"label_range: {cfg.label_range}: the lowest and the highest rating were expected"),
        ("variant", not word, f"variant: {cfg.variant!r}: letters, digits, - and _ were expected, and no fold1of2"),
        *((name, getattr(cfg, name) and not part_of(getattr(cfg, name)),
           f"{name}: {getattr(cfg, name)!r} is not i/n with i from 1 to n, such as 1/4") for name in ("shard", "fold")),
        ("fold", cfg.fold.endswith("/1"), f"fold: {cfg.fold!r} holds out all subjects; n must be 2 or more"),
        ("segment_s audio_rate", samples < 1, f"{segment} is less than one sample: use a longer one"),
        ("db_min db_max", cfg.db_min >= cfg.db_max, f"db_min {cfg.db_min:g} must be below db_max {cfg.db_max:g}"),
        ("n_fft segment_s audio_rate", cfg.n_fft > samples, f"n_fft {cfg.n_fft} is longer than a segment ({segment})"),
        ("n_mels n_fft", cfg.n_mels > cfg.n_fft // 2, f"n_mels {cfg.n_mels} is more than half of n_fft {cfg.n_fft}"),
        *((f"{kind}_weights {kind}_backbone",
           getattr(cfg, f"{kind}_weights") == "imagenet" and getattr(cfg, f"{kind}_backbone").endswith("_cnn"),
           f"{kind}_weights: there are no imagenet weights for {kind}_backbone {getattr(cfg, f'{kind}_backbone')}")
          for kind in ("visual", "audio")),
    ]
    for names, conflict, message in conflicts:
        if conflict and set(names.split()) <= set(read):
            raise SettingsError(message)
    return cfg


def part_of(text):
    """(i, n) of the text "i/n" with 1 <= i <= n; None for any other text."""
    part = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    i, n = map(int, part.groups()) if part else (0, 0)
    return (i, n) if 1 <= i <= n else None


def _checked(name, value):
    """`value`, an int as a float and a list as a tuple if the field is one. Raises SettingsError for a wrong value."""
    kind = KINDS[name]
    if kind.base is float and type(value) is int:
        with contextlib.suppress(OverflowError):  # then it stays an int, which is not allowed
            value = float(value)
    if kind.base is tuple and isinstance(value, list | tuple):
        value = tuple(float(item) if kind.items is float and type(item) is int else item for item in value)
    if not kind.allows(value):
        raise SettingsError(f"{name}: {reprlib.repr(value)} is not {kind}")
    return value


def fits(name, value):
    """Whether `value`, as read from JSON, can be that of a setting; of one that is unknown here, if it is plain."""
    if name not in KINDS:
        return type(value) in (str, int, float, bool)
    try:
        _checked(name, value)
        return True
    except SettingsError:
        return False


# ---- what config.py says of its fields ------------------------------------------------------------------------------

class Kind(typing.NamedTuple):
    """What a field may hold: a Python type, and its choices or its range. As text: what was expected."""
    base: type
    choices: tuple = ()
    range: tuple = (-math.inf, math.inf, True)  # lowest, highest, is the lowest itself allowed
    items: type = str  # of a tuple

    @classmethod
    def of(cls, hint):
        """The Kind of a type as config.py writes it."""
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            return cls(args[0], range=args[1])
        if origin is tuple:
            return cls(tuple, items=args[0])
        return cls(str, args) if origin is typing.Literal else cls(origin or hint)

    def allows(self, value):
        low, high, with_low = self.range
        if type(value) is not self.base:
            return False
        if self.base is tuple:
            return all(type(item) is self.items and (self.items is str or math.isfinite(item)) for item in value)
        if self.base in (int, float):
            return abs(value) < math.inf and (low <= value if with_low else low < value) and value <= high
        return not self.choices or value in self.choices

    def __str__(self):
        if self.choices:
            return "one of " + ", ".join(self.choices)
        low, high, with_low = self.range
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text",
                 tuple: "a list of texts" if self.items is str else "a list of numbers"}
        lowest = f"{low} or more" if with_low else f"above {low}"
        bounds = "" if low == -math.inf else f", {lowest}" if high == math.inf else f" from {low} to {high}"
        return words[self.base] + bounds


KINDS = {name: Kind.of(hint) for name, hint in typing.get_type_hints(Config, include_extras=True).items()}


class Note(typing.NamedTuple):
    """What the comments in config.py say of a field."""
    section: str
    scripts: list  # file names of those that read it, or [EVERY]
    comment: str


@functools.cache
def field_notes():
    """The Note of every field of Config, by name.

    A field without a comment has an empty one; a field above the first heading is read by every script. Raises
    SettingsError for a heading that names no scripts.
    """
    source, notes = inspect.getsource(Config), {}
    comments = _comments(source)
    headings = {line: _heading(text) for line, text in comments.items() if text.startswith("---")}
    places = {node.target.id: range(node.lineno, node.end_lineno + 1)
              for node in ast.parse(source).body[0].body if isinstance(node, ast.AnnAssign)}
    for name in (field.name for field in dataclasses.fields(Config)):
        above = [line for line in headings if line < places[name].start]
        section, scripts = headings[max(above)] if above else ("settings", [EVERY])
        notes[name] = Note(section, scripts, " ".join(comments[line] for line in places[name] if line in comments))
    return notes


def _comments(source):
    """{line: comment}, lines counted from 1. A comment line right below another, indented further, continues it."""
    comments, first, last, indent = {}, 0, 0, 0
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    for line, column, text in (token.start + (token.string,) for token in tokens if token.type == tokenize.COMMENT):
        code = source.splitlines()[line - 1][:column]
        if code.isspace() and line == last + 1 and column > indent:
            comments[first] += " " + text.lstrip("# ").rstrip()
        else:
            first, indent = line, len(code) - len(code.lstrip())
            comments[first] = text.lstrip("# ").rstrip()
        last = line
    return comments


def _heading(text):
    """(section, scripts) of a heading "--- section: scripts". Raises SettingsError if it is not one."""
    found = re.fullmatch(r"-+\s*(.+?)\s*:\s*(.+?)\s*-*", text)
    if not found:
        raise SettingsError(f"config.py: heading {text!r} names no scripts: expected '--- section: script.py ...'")
    return found[1], [EVERY] if found[2] == EVERY else re.split(r"[,\s]+", found[2])


def fields_of(script):
    """Names of the fields that `script` reads."""
    return [name for name, note in field_notes().items() if script in note.scripts or EVERY in note.scripts]


# ---- the parser -----------------------------------------------------------------------------------------------------

class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise SettingsError(message.removeprefix("argument ") + " (--help lists the settings)")


def _parser(script, doc, base, words=()):
    """A parser with a flag for every field that `script` reads, except those in `words`, which are positional.

    base: the Config whose values --help shows.
    """
    parser = _Parser(prog=script, description=doc, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE.json", help="start from the settings that a run wrote")
    groups = {}
    for name in fields_of(script):
        section, _, comment = field_notes()[name]
        group = groups.get(section) or groups.setdefault(section, parser.add_argument_group(section))
        value = getattr(base, name)
        text = f"{comment} [{' '.join(value) if isinstance(value, tuple) else value}]".strip().replace("%", "%%")
        if name in words:
            group.add_argument(name, nargs="*" if KINDS[name].base is tuple else "?", default=argparse.SUPPRESS,
                               help=comment.replace("%", "%%"))
            continue
        group.add_argument("--" + name.replace("_", "-"), dest=name, default=argparse.SUPPRESS, help=text,
                           **_options(KINDS[name]))
    return parser


def _options(kind):
    """How argparse reads a flag of this kind."""
    if kind.base is bool:
        return {"action": argparse.BooleanOptionalAction}
    if kind.base is tuple and kind.items is str:
        return {"metavar": "ID", "nargs": "*"}
    if kind.base is tuple:
        return _options(Kind(kind.items)) | {"nargs": "*"}

    def convert(text):
        with contextlib.suppress(ValueError):
            if kind.allows(value := kind.base(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind}")
    return {"type": convert, "metavar": "|".join(kind.choices) or {int: "N", float: "X", str: "TEXT"}[kind.base]}


def _unknown_flag(word, script):
    """The message for a word of the command line that is no flag of the script."""
    if not word.startswith("--"):
        return f"{word!r} was not expected (--help lists the settings)"
    name = word[2:].split("=")[0].replace("-", "_")
    if name in KINDS:
        return f"{word} is a setting of {' '.join(field_notes()[name].scripts)}; {script} does not read it"
    return f"unknown setting {word}{_did_you_mean(name, fields_of(script))} (--help lists the settings)"


def _did_you_mean(name, names):
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean --{close[0].replace('_', '-')}?" if close else ""
