"""MODULES: further files of the user's, copied beside the INI under their names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError
from decentralizepy.files import expanded
from decentralizepy.runfolder import is_reserved
from orchestrator.config import Config

KEY: Final = "MODULES"
#: All of them together; what is bigger is data.
MOST_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class Modules:
    """Files by their names beside the INI; ``search`` are the folders in which they are found."""

    files: Mapping[str, Path] = field(default_factory=dict)
    search: tuple[Path, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of files and folders that lie directly beside the INI."""
        return list(dict.fromkeys(Path(name).parts[0] for name in self.files))

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())

    def as_dict(self) -> dict[str, Any]:
        """What ``--dry-run --json`` tells."""
        return {name: str(path) for name, path in self.files.items()}


def find_modules(config: Config, path: Path, ini: Path, folders: list[Path]) -> Modules:
    """What a JSON names, looked for beside its INI and in ``folders``; raises `ConfigError`.

    Files and folders get beside the INI by the last part of their names.
    """
    files: dict[str, Path] = {}
    search: dict[Path, None] = {}
    taken = {ini.name, Path(config.GRAPH_FILE or ini).name}
    for given in config.MODULES:
        where = f"{path}: {KEY}"
        found = _found(given, [ini.parent, *folders], where)
        if is_reserved(found.name) or found.name in taken:
            raise ConfigError(f"{where}: {found.name!r} is taken in a run folder: rename it")
        taken.add(found.name)
        search[found.parent] = None
        files |= {p.relative_to(found.parent).as_posix(): p for p in _files(found, where)}
    modules = Modules(files, tuple(search))
    if modules.bytes > MOST_BYTES:
        raise ConfigError(
            f"{path}: {KEY}: {modules.bytes:,} bytes are more than {MOST_BYTES >> 20} MiB: for "
            "data there is DATASETS_DIR"
        )
    return modules


def _found(given: str, folders: list[Path], where: str) -> Path:
    name = expanded(Path(given))
    for folder in folders:
        path = Path(os.path.abspath(folder / name))  # noqa: PTH100 - a symbolic link keeps its name
        if path.exists() and path not in folder.absolute().parents and path != folder.absolute():
            return path
    listed = ", ".join(dict.fromkeys(map(str, folders)))
    raise ConfigError(f"{where}: {given:.200}: no such file or folder; looked in {listed}")


def _files(path: Path, where: str) -> Iterator[Path]:
    """A file, or all in a folder but what Python compiled."""
    if path.is_file():
        yield path
        return
    found = [p for p in sorted(path.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    if not found:
        raise ConfigError(f"{where}: there is no file in {path}")
    yield from found
