"""Users' JSON files, read with one clear message for whatever is wrong in them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError, nearest
from decentralizepy.regular import UnfitFileError, read_regular

#: far more than any file of ours needs, and little enough to be read without a thought
MAX_BYTES: Final = 16 << 20


def read_json_file(path: Path, flag: str) -> Any:
    """The value of a JSON file that ``flag`` names; raises `ConfigError`.

    Keys that stand twice, NaN and infinities are refused: JSON has none of them, Python would
    take them all.
    """
    text = read_text_file(path, flag, MAX_BYTES)
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error} ({flag})") from None


def read_text_file(path: Path, flag: str = "", most: int = MAX_BYTES) -> str:
    """The text of a file of at most ``most`` bytes that ``flag`` names; raises `ConfigError`."""
    named = f" ({flag})" if flag else ""
    try:
        data = read_regular(path, most)
    except UnfitFileError as error:
        raise ConfigError(f"{error}{named}") from None
    except (OSError, ValueError) as error:  # a name may hold what no name can
        reason = getattr(error, "strerror", None) or error
        shown = str(path) if str(path).isprintable() else repr(str(path))
        raise ConfigError(f"cannot read {shown}: {reason}{named}") from None
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}{named}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {double!r:.40} stands twice")
    return found


def check_object(
    value: Any, where: str, known: Sequence[str], needed: Iterable[str] = ()
) -> dict[str, Any]:
    """An object with keys of ``known`` only, and all of ``needed``; raises `ConfigError`."""
    listed = ", ".join(known)
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {value!r:.60} is no object; it may have the keys {listed}")
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
        raise ConfigError(f"{where}: {value!r:.60} is no list")
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
