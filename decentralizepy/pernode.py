"""A whole number per node: one for all, a list by uid, or a JSON file by uid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError
from decentralizepy.files import MAX_BYTES, read_regular
from decentralizepy.jsonfile import parse_json

_REMEDY: Final = 'a whole number, a list (one for each node) or a JSON as {"0": 3, "default": 1}'


@dataclass(frozen=True)
class PerNode:
    """``values`` by uid, and the ``default`` of all other nodes (None: there are no others).

    ``where`` names file and key in errors. ``file`` is the JSON file that the values came from and
    ``name`` how the INI spells it; both None for a list. ``length`` is that of a list.
    """

    values: Mapping[int, int]
    default: int | None = None
    where: str = ""
    length: int | None = None
    file: Path | None = None
    name: str | None = None

    def of(self, uid: int) -> int:
        """The number of a node."""
        found = self.values.get(uid, self.default)
        if found is None:
            raise ConfigError(f"{self.where}: no value for node {uid}, and no default")
        return found

    def check(self, n: int) -> None:
        """Raise `ConfigError` unless there is a number for each of ``n`` nodes and none over."""
        if self.length is not None and self.length != n:
            raise ConfigError(
                f"{self.where} has {self.length} entries for {n} nodes: give one for each node"
            )
        over = [uid for uid in self.values if uid >= n]
        if over:
            raise ConfigError(f"{self.where}: there is no node {over[0]}; nodes are 0 to {n - 1}")
        for uid in range(n):
            self.of(uid)


def value_of(value: int | PerNode, uid: int) -> int:
    """A node's number where one for all is a plain int."""
    return value if isinstance(value, int) else value.of(uid)


def smallest(value: int | PerNode) -> int:
    """The smallest number that any node has."""
    if isinstance(value, int):
        return value
    default = () if value.default is None else (value.default,)
    return min((*value.values.values(), *default))


def read_per_node(value: int | str, least: int, folder: Path, where: str) -> int | PerNode:
    """The number or numbers that an INI value names; a file is looked for in ``folder``.

    Raises `ConfigError`, beginning with ``where``, for what is neither, for numbers below
    ``least`` and for files that are not an object of whole numbers by uid.
    """
    found = value if isinstance(value, int) else _read(value.strip(), folder, where)
    if smallest(found) < least:
        raise ConfigError(f"{where} = {value!s:.80}: must be at least {least}")
    return found


def _read(text: str, folder: Path, where: str) -> int | PerNode:
    if text.endswith(".json"):
        return _from_file(text, folder, where)
    try:
        items = [int(item) for item in text.removeprefix("[").removesuffix("]").split(",")]
    except ValueError:
        raise ConfigError(f"{where} = {text:.80}: {_REMEDY} is expected") from None
    return PerNode(dict(enumerate(items)), where=where, length=len(items))


def _from_file(name: str, folder: Path, where: str) -> PerNode:
    if not Path(name).is_absolute() and ".." in Path(name).parts:
        raise ConfigError(f"{where} = {name:.80}: put the file beside the INI, or name it in full")
    path = folder / name
    where = f"{where}, {path}"
    try:
        values = _values(parse_json(read_regular(path, MAX_BYTES).decode("utf-8-sig")))
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{where}: {error}; {_REMEDY} is expected") from None
    default = values.pop("default", None)
    by_uid = {int(uid): value for uid, value in values.items()}
    return PerNode(by_uid, default, where, file=path, name=name)


def _values(value: Any) -> dict[str, int]:
    """The object of a file, checked; raises ValueError."""
    if not isinstance(value, dict) or not value:
        raise ValueError("it is not an object by uid")
    for uid, number in value.items():
        if uid != "default" and uid != _uid(uid):
            raise ValueError(f"{uid!r:.40} is not a uid")
        if type(number) is not int:
            raise ValueError(f"{number!r:.40} (of {uid}) is not a whole number")
    return value


def _uid(text: str) -> str | None:
    """The one way to spell a uid, so that no two keys mean the same node."""
    plain = text.isascii() and text.isdigit() and len(text) < 10
    return str(int(text)) if plain else None
