"""MODULES: further files of the user's, copied beside the INI under their names."""

from __future__ import annotations

import posixpath
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
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())

    def as_dict(self) -> dict[str, Any]:
        """What ``--dry-run --json`` tells."""
        return {name: str(path) for name, path in self.files.items()}


def find_modules(config: Config, path: Path, ini: Path, folders: list[Path]) -> Modules:
    """What a JSON names, looked for beside its INI and in ``folders``; raises `ConfigError`."""
    files: dict[str, Path] = {}
    search: dict[Path, None] = {}
    for given in config.MODULES:
        where = f"{path}: {KEY}: {given:.200}"
        folder, name = _found(given, [ini.parent, *folders], where)
        taken = {ini.name, Path(config.GRAPH_FILE or ini).name}
        if is_reserved(Path(name).parts[0]) or name in taken:
            raise ConfigError(f"{where}: this name means something else in a run folder: rename it")
        for file in _files(folder / name, where):
            files[file.relative_to(folder).as_posix()] = file
        search[folder] = None
    found = Modules(files, tuple(search))
    if found.bytes > MOST_BYTES:
        raise ConfigError(
            f"{path}: {KEY}: {found.bytes:,} bytes are more than {MOST_BYTES >> 20} MiB: for data "
            "there is DATASETS_DIR"
        )
    return found


def _found(given: str, folders: list[Path], where: str) -> tuple[Path, str]:
    """The folder that has it, and its name there; of an absolute path the last part is kept."""
    path = expanded(Path(given))
    name = posixpath.normpath(given)
    if path.is_absolute():
        folders, name = [path.parent], path.name
    if not name or name == "." or name.startswith(".."):
        raise ConfigError(f"{where}: a file or folder beside {folders[0]} is expected")
    for folder in folders:
        if (folder / name).exists():
            return folder, name
    listed = ", ".join(dict.fromkeys(map(str, folders)))
    raise ConfigError(f"{where}: no such file or folder; looked in {listed}")


def _files(path: Path, where: str) -> Iterator[Path]:
    """A file, or all in a folder but what Python compiled."""
    if path.is_file():
        yield path
        return
    found = [p for p in sorted(path.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    if not found:
        raise ConfigError(f"{where}: there is no file in it")
    yield from found
