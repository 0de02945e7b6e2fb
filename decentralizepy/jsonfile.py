"""JSON: users' files with one clear message for whatever is wrong, our own without a fuss."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from decentralizepy.errors import ConfigError, nearest
from decentralizepy.files import read_text_file


def read_json_file(path: Path, flag: str) -> Any:
    """The value of a JSON file that ``flag`` names; raises `ConfigError`."""
    text = read_text_file(path, flag)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error} ({flag})") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text; raises ValueError, with one line that says why.

    Keys that stand twice, NaN, infinities and halves of surrogate pairs are rejected: JSON has
    none of them, Python would take them all.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_doubles)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{where}: {error.msg}") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair (\\ud800...) is not text") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        double = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key {double!r:.40} appears twice")
    return found


def read_object(path: Path) -> dict[str, Any]:
    """The object in a file of ours; empty when the file is absent, broken or something else."""
    try:
        return parse_object(path.read_bytes())
    except OSError:
        return {}


def parse_object(data: str | bytes) -> dict[str, Any]:
    """The object that a JSON text holds; empty when it is broken or something else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def check_object(
    value: Any, where: str, known: Sequence[str], needed: Iterable[str] = ()
) -> dict[str, Any]:
    """An object with keys of ``known`` only, and all of ``needed``; raises `ConfigError`."""
    listed = ", ".join(known)
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {value!r:.60} is not an object; it may have the keys {listed}")
    for key in value:
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key:.40}'{nearest(key, known)}; {listed}")
    for key in needed:
        if key not in value:
            raise ConfigError(f"{where}: '{key}' is missing")
    return value


def check_list(value: Any, where: str, length: int | None = None) -> list[Any]:
    """A list, of a given length if one is given; raises `ConfigError`."""
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {value!r:.60} is not a list")
    if length is not None and len(value) != length:
        raise ConfigError(f"{where}: {len(value)} entries, {length} are needed")
    return value


def check_number(value: Any, where: str, *, positive: bool = False) -> float:
    """A finite number, at least 0, or above 0 if ``positive``; raises `ConfigError`."""
    if type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and (number > 0 if positive else number >= 0):
            return number
    least = "a number above 0" if positive else "a number, 0 or more"
    raise ConfigError(f"{where}: {value!r:.60} is not {least}")


def check_integer(value: Any, where: str, least: int, most: int | None = None) -> int:
    """A whole number in [least, most]; raises `ConfigError`."""
    if type(value) is int and value >= least and (most is None or value <= most):
        return value
    wanted = f"{least} or more" if most is None else f"{least} to {most}"
    raise ConfigError(f"{where}: {value!r:.60} is not a whole number, {wanted}")
