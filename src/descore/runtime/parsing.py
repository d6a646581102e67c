"""The parser of training: a mistake on the command line is one line, which names the option that was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from difflib import SequenceMatcher, get_close_matches
from importlib import import_module
from inspect import signature
from typing import Any, NoReturn, get_type_hints

from lightning.pytorch.cli import LightningArgumentParser

GROUPS = ("model", "data", "trainer")
"""Groups of options."""

_KEY = re.compile(r'Parser key "([^"]+)":?\s*')
_CLASS = re.compile(r"Problem with given class_path '([\w.]+)':?\s*")
_UNKNOWN = re.compile(
    r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.+]+)"
    r"|Subcommand '\w+' does not accept option '(.+)'"
)
_REQUIRED = re.compile(r"the following arguments are required: (?:\w+\.)?(model|data)\b")
_REWORDED = {
    r"<class '(?:[\w.]+\.)?(\w+)'>": r"\1",
    r"a typing\.Literal\[(.*?)\]": r"one of \1",
    r"^Expected an? ": "expected ",
    r"^Expected ": "expected ",
    r"\. Got value: ": ", got ",
}
_NOISE = (
    "Does not validate against any",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
)
_CLOSE = 0.7
"""Least likeness of two words of which one is taken for a misspelling of the other, 0 to 1."""


class TrainParser(LightningArgumentParser):
    """Argument parser that ends with one line and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[misc]
        """Print the mistake without the usage of a hundred options, and exit with code 2."""
        if not self.exit_on_error:  # the parser of a class, whose error becomes part of that of the command line
            super().error(message, ex)
        self.exit(2, f"descore.train: {explain(message, self.names())}\n")

    def names(self) -> list[str]:
        """Return the names of all options that are not those of a class, such as "trainer.max_steps"."""
        parsers = [self, *(self._subcommands_action.choices.values() if self._subcommands_action else ())]
        return [action.dest for parser in parsers for action in parser._actions]


def explain(message: str, names: Iterable[str] = ()) -> str:
    """Make one line of an error of jsonargparse, and name the option that was probably meant.

    Args:
        message: Error, which may have many lines.
        names: Names of the options of the parser.

    >>> explain("unrecognized arguments: --trainer.max_step 1", ["trainer.max_steps", "trainer.max_time"])
    '--trainer.max_step is not an option; did you mean --trainer.max_steps?'
    """
    keys, owner, unknown, reasons = _dissect(message)
    if found := _REQUIRED.search(message):
        return f"--{found[1]} is missing; give a configuration that has it, such as -c conf/stage1.yaml"
    if unknown is None:
        reason = "; ".join(dict.fromkeys(map(_reword, reasons)))
        return f"{'--' + '.'.join(keys) + ': ' if keys else ''}{reason or message}"
    key = ".".join([*keys, unknown])
    if owner is None:
        return f"--{key} is not an option{_hint(key, names)}"
    kind, prefix = import_class(owner), ".".join(keys)
    own = [f"{prefix}.{name}" for name in option_names(kind)]
    has_it = _squash(key) in map(_squash, own)
    hint = ("" if has_it else _of_parent(kind, prefix, key)) or _hint(key, own)
    return f"--{key} is not an option of {kind.__name__}{hint or f'; --{prefix}.help {owner} lists them'}"


def option_names(kind: type) -> Iterator[str]:
    """Yield the names of the options of a class, with those of the dataclasses that they group.

    >>> from descore.modules.options import Optimization
    >>> [name for name in option_names(Optimization) if "lora" in name]
    ['lora', 'lora.parts', 'lora.rank', 'lora.alpha']
    """
    try:
        hints = get_type_hints(kind.__init__) | get_type_hints(kind)  # type: ignore[misc]
        parameters = signature(kind).parameters
    except (NameError, TypeError, ValueError):  # a class that says nothing of its options
        return
    for name in parameters:
        yield name
        if isinstance(group := hints.get(name), type) and is_dataclass(group):
            yield from (f"{name}.{inner}" for inner in option_names(group))


def _dissect(message: str) -> tuple[list[str], str | None, str | None, list[str]]:
    """Split an error into the keys that lead to it, the class that it is about, the unknown option, and the reasons."""
    keys: list[str] = []
    owner = unknown = None
    reasons = []
    for line in message.splitlines():
        line = line.strip().removeprefix("- ")
        if found := _KEY.match(line):
            keys.append(found[1])
            line = line[found.end() :]
        if found := _CLASS.match(line):
            owner = found[1]
            line = line[found.end() :]
        if found := _UNKNOWN.match(line):
            unknown = unknown or found[1] or found[2] or found[3]
        elif line and not line.startswith(_NOISE):
            reasons.append(line)
    return keys, owner, unknown, reasons


def _reword(reason: str) -> str:
    for pattern, words in _REWORDED.items():
        reason = re.sub(pattern, words, reason)
    return reason


def _of_parent(kind: type, prefix: str, key: str) -> str:
    """Name the class that the given one builds on, if the option is one of its own."""
    for parent in kind.__mro__[1:]:
        for name in option_names(parent):
            if _squash(full := f"{prefix}.{name}") == _squash(key):
                return f"; --{full} is one of --{prefix} {parent.__module__}.{parent.__name__}"
    return ""


def _hint(key: str, names: Iterable[str]) -> str:
    group, _, rest = key.partition(".")
    if rest and group not in GROUPS:
        close = get_close_matches(group, GROUPS, 1)
        return f"; did you mean --{close[0]}.{rest}?" if close else ""
    nearest = max(names, key=lambda name: _likeness(key, name), default=None)
    return f"; did you mean --{nearest}?" if nearest and max(_likeness(key, nearest)) >= _CLOSE else ""


def _likeness(typed: str, name: str) -> tuple[float, float]:
    """Compare two options: by their last words, of which one may be the initials of the other; then as a whole."""
    word, known = typed.rpartition(".")[2], name.rpartition(".")[2]
    whole = SequenceMatcher(None, typed, name).ratio()
    initials = "".join(part[0] for part in known.split("_") if part)
    same = word in (known, initials) or _squash(typed) == _squash(name)
    return 1.0 if same else SequenceMatcher(None, word, known).ratio(), whole


def _squash(name: str) -> str:
    return re.sub(r"\W|_", "", name)


def import_class(path: str) -> Any:
    """Import a class by its dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
