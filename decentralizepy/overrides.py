"""Keys of an INI that are set from outside: ``--set SECTION.key=value``, or a JSON's ``INI``.

The text of the INI is changed and then checked as if it had been written so. What a run keeps is
the changed text, so that it can be repeated, resumed and compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from decentralizepy.config import SECTIONS, Experiment, parse_experiment, read_text
from decentralizepy.errors import ConfigError, nearest
from decentralizepy.ini import parse_ini

FLAG: Final = "--set"
EXAMPLE: Final = "OPTIMIZER_PARAMS.lr=0.05"
_KEY: Final = re.compile(r"[A-Za-z_]\w{0,99}")
_ENTRY: Final = re.compile(r"(?P<key>[^\s\[#;=:][^=:]*)[=:](?P<value>.*)")
T = TypeVar("T")


@dataclass(frozen=True)
class Override:
    """One key of the INI with its value as text; ``where`` is how errors name where it was set."""

    section: str
    key: str
    text: str
    where: str

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"


def from_flag(given: str) -> Override:
    """``SECTION.key=value`` as given after ``--set``; raises `ConfigError`."""
    where = f"{FLAG} {given:.200}"
    name, equals, text = given.partition("=")
    if not equals:
        raise ConfigError(f"{where}: SECTION.key=value is expected, as {EXAMPLE}")
    return _override(name, text, where)


def from_json(name: str, value: Any, where: str) -> Override:
    """A key ``SECTION.key`` of a JSON object with its value; raises `ConfigError`."""
    if not isinstance(value, str | bool | int | float | list):
        raise ConfigError(f"{where}: text, a number, true, false or a list of these is expected")
    return _override(name, str(value), where)


def from_flags(given: Iterable[str]) -> tuple[Override, ...]:
    """All that was given after ``--set``; raises `ConfigError`, also for a key given twice."""
    return once(from_flag(one) for one in given)


def once(overrides: Iterable[Override]) -> tuple[Override, ...]:
    """The same; raises `ConfigError` for a key that is set twice."""
    found: dict[str, Override] = {}
    for one in overrides:
        if one.name in found:
            raise ConfigError(f"{one.where}: {one.name} is set twice; keep one")
        found[one.name] = one
    return tuple(found.values())


def _override(name: str, text: str, where: str) -> Override:
    section, dot, key = name.strip().partition(".")
    if not dot or not _KEY.fullmatch(key):
        raise ConfigError(f"{where}: SECTION.key is expected, as {EXAMPLE.partition('=')[0]}")
    if section not in SECTIONS:
        known = ", ".join(SECTIONS)
        near = nearest(section, SECTIONS)
        raise ConfigError(f"{where}: no section [{section:.60}]{near}; known: {known}")
    return Override(section, key.lower(), text.strip(), where)


def changed(text: str, overrides: Iterable[Override], path: Path) -> str:
    """The text of an INI with these keys set; the rest, comments too, stays as it is.

    Raises `ConfigError` for what an INI cannot hold; ``path`` is for messages.
    """
    for one in overrides:
        text = with_key(text, one.section, one.key, one.text)
        if parse_ini(text, path).get(one.section, {}).get(one.key) != one.text:
            raise ConfigError(
                f"{one.where}: cannot be set in {path}: a value is one line without ' ;' and ' #'; "
                f"else write there, under [{one.section}]: {one.key} = {one.text:.80}"
            )
    return text


def blamed(make: Callable[[Sequence[Override]], T], overrides: Sequence[Override]) -> T:
    """``make`` of all; a `ConfigError` that one of them brings about begins with its name."""
    try:
        return make(overrides)
    except ConfigError as error:
        said = str(error)
        guilty = _guilty(make, overrides, said)
        if guilty is None or said.startswith(guilty.where):
            raise
        raise ConfigError(f"{guilty.where}: {said}") from None


def _guilty(
    make: Callable[[Sequence[Override]], object], overrides: Sequence[Override], said: str
) -> Override | None:
    """The one without which all is well, else the one without which something else is said."""
    without = {
        one.name: _complaint(make, [other for other in overrides if other is not one])
        for one in overrides
    }
    named = sorted(overrides, key=lambda one: one.key not in said)
    cures = [one for one in named if without[one.name] is None]
    others = [one for one in named if without[one.name] != said]
    return next(iter([*cures, *others]), None)


def _complaint(
    make: Callable[[Sequence[Override]], object], overrides: Sequence[Override]
) -> str | None:
    try:
        make(overrides)
    except ConfigError as error:
        return str(error)
    return None


def read_changed(path: Path, given: Sequence[str]) -> Experiment:
    """Read and check an INI with what was given after ``--set``; raises `ConfigError`."""
    overrides, text = from_flags(given), read_text(path)
    return blamed(lambda ones: parse_experiment(changed(text, ones, path), path), overrides)


def with_key(text: str, section: str, key: str, value: str) -> str:
    """``text`` with a key's line replaced, or one added at the end of the section.

    A section that is not there is added at the end of the text.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    entry = f"{key} = {value}".rstrip() + "\n"
    place = _section(lines, section)
    if place is None:
        return f"{_ended(text)}\n[{section}]\n{entry}"
    start, end = place
    for at in range(start, end):
        found = _ENTRY.match(lines[at])
        if found and found["key"].strip().lower() == key:
            if found["value"].strip() == value:
                return text
            return "".join([*lines[:at], entry, *lines[_after(lines, at) :]])
    while end > start and not lines[end - 1].strip():
        end -= 1
    return _ended("".join(lines[:end])) + entry + "".join(lines[end:])


def without_key(text: str, section: str, key: str) -> str:
    """``text`` without a key's lines, if it has them."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    start, end = _section(lines, section) or (0, 0)
    for at in range(start, end):
        found = _ENTRY.match(lines[at])
        if found and found["key"].strip().lower() == key:
            return "".join([*lines[:at], *lines[_after(lines, at) :]])
    return text


def _ended(text: str) -> str:
    return text if text.endswith("\n") or not text else text + "\n"


def _section(lines: Sequence[str], section: str) -> tuple[int, int] | None:
    """First line after the section's header, and the line after its last."""
    header = f"[{section}]"
    start = next((i + 1 for i, line in enumerate(lines) if line.startswith(header)), None)
    if start is None:
        return None
    later = (i for i in range(start, len(lines)) if lines[i].startswith("["))
    return start, next(later, len(lines))


def _after(lines: Sequence[str], at: int) -> int:
    """The line after a value, whose further lines are indented."""
    at += 1
    while at < len(lines) and lines[at].strip() and lines[at][0] in " \t":
        at += 1
    return at
