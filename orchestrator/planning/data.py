"""DATASETS_DIR: which of its files an INI names, where these are on the machines, and their digest.

In the INI the folder is called ``/datasets``, as in the container; paths below the real one mean
the same. Machines elsewhere get copies that are named by their content.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError
from decentralizepy.files import cache_home, expanded, write_json
from decentralizepy.ini import parse_ini
from decentralizepy.jsonfile import read_object
from decentralizepy.overrides import Override, changed
from decentralizepy.runfolder import RunFolder
from orchestrator.config import PLAIN_FOLDER, Config

KEY: Final = "DATASETS_DIR"
#: What an INI calls the folder, and a container too.
MOUNT: Final = "/datasets"
#: Goes before a folder that is on the machines already.
ON_HOSTS: Final = "hosts:"


@dataclass(frozen=True)
class Data:
    """What an experiment reads of DATASETS_DIR.

    ``names`` are files and folders below ``source``, and below ``root`` on the machines; they are
    ``copied`` there unless they can be used where they lie.
    """

    source: Path
    names: tuple[str, ...]
    root: str
    copied: bool = False
    here: bool = True
    files: int = 0
    bytes: int = 0
    identity: str = ""

    def changed(self) -> bool:
        """Whether a file is no longer as it was when it was hashed."""
        if not self.copied:
            return False
        try:
            return _identity(_listed(self.source, self.names)) != self.identity
        except OSError:
            return True

    def as_dict(self) -> dict[str, Any]:
        """What ``--dry-run --json`` tells."""
        return asdict(self) | {"source": str(self.source), "names": list(self.names)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Data:
        """What `as_dict` gave."""
        given = {"source": Path(value["source"]), "names": tuple(value["names"])}
        return cls(**{**value, **given})


@dataclass
class DataFolder:
    """DATASETS_DIR of one configuration; what was hashed is remembered."""

    config: Config
    path: Path  # of the JSON, for messages
    source: Path
    here: bool
    former: Data | None = None  # of the run in whose folder the JSON lies
    _known: dict[tuple[str, ...], Data] = field(default_factory=dict)

    def moved(self, text: str, ini: Path) -> tuple[str, Data | None]:
        """The text of an INI with paths as they are on the machines, and what these need.

        Raises `ConfigError` for what is not there.
        """
        found = {
            (section, key): name
            for section, entries in parse_ini(text, ini).items()
            for key, value in entries.items()
            if (name := self._name(value, f"{ini}: [{section}] {key}")) is not None
        }
        if not found:
            return text, None
        data = self._data(_least(found.values()))
        overrides = [
            Override(section, key, posixpath.normpath(f"{data.root}/{name}"), str(self.path))
            for (section, key), name in found.items()
        ]
        return changed(text, overrides, ini), data

    def _name(self, value: str, where: str) -> str | None:
        """A path of the INI as it is called below the folder; None for what lies elsewhere."""
        if value == MOUNT or value.startswith(f"{MOUNT}/"):
            name = posixpath.normpath(posixpath.relpath(value, MOUNT))
        elif self.here and (path := expanded(Path(value))).is_relative_to(self.source):
            name = posixpath.normpath(path.relative_to(self.source).as_posix())
        else:
            return None
        if name.startswith(".."):
            raise ConfigError(f"{where} = {value}: leads out of {MOUNT}")
        if self.here and self.former is None and not (self.source / name).exists():
            raise ConfigError(
                f"{where} = {value}: there is no {self.source / name} ({KEY} of {self.path})"
            )
        return name

    def _data(self, names: tuple[str, ...]) -> Data:
        if names not in self._known:
            copied = self.here and self.config.backend != "local"
            make = self._copied if copied else self._in_place
            self._known[names] = self._as_it_was(names) or make(names)
        return self._known[names]

    def _as_it_was(self, names: tuple[str, ...]) -> Data | None:
        """What a run was begun with, though the files may have changed since then, or be gone."""
        former, copied = self.former, self.config.backend != "local"
        if former is None or former.names != names or former.copied != copied:
            return None
        ours = f"{self.config.host_dir}/" if copied else str(self.source)
        return former if former.root.startswith(ours) else None

    def _in_place(self, names: tuple[str, ...]) -> Data:
        return Data(self.source, names, str(self.source), here=self.here)

    def _copied(self, names: tuple[str, ...]) -> Data:
        try:
            files = _listed(self.source, names)
            digest = _remembered(files)
        except OSError as error:
            raise ConfigError(f"{self.path}: {KEY}: {error.filename}: {error.strerror}") from None
        return Data(
            source=self.source,
            names=names,
            root=f"{self.config.host_dir}/datasets/{digest}",
            copied=True,
            files=len(files),
            bytes=sum(facts.st_size for _, facts in files.values()),
            identity=_identity(files),
        )


def find_data(config: Config, path: Path) -> DataFolder | None:
    """The folder that a configuration names, relative to its JSON; raises `ConfigError`."""
    given = config.DATASETS_DIR
    if given is None:
        return None
    if given.startswith(ON_HOSTS):
        there = given.removeprefix(ON_HOSTS)
        if not re.fullmatch(PLAIN_FOLDER, there):
            raise ConfigError(
                f"{path}: {KEY} = {given!r}: an absolute path is expected after {ON_HOSTS}, of "
                "letters, digits and ./_+@- only"
            )
        return DataFolder(config, path, Path(there), here=config.backend == "local")
    former = _former(path)
    source = Path(os.path.abspath(path.parent / expanded(Path(given))))  # noqa: PTH100
    if former is None and not source.is_dir():
        raise ConfigError(
            f"{path}: {KEY} = {given!r}: there is no folder {source} on this computer; for one "
            f"that the machines see, write {ON_HOSTS}{given if given[:1] == '/' else '/...'}"
        )
    return DataFolder(config, path, source, True, former)


def unreadable(data: Data) -> str:
    """Why files of this computer cannot be read; empty if they can, or lie elsewhere."""
    try:
        for file, _ in _listed(data.source, data.names).values() if data.here else ():
            file.open("rb").close()
    except OSError as error:
        return f"{KEY}: {error.filename}: {error.strerror}"
    return ""


def _former(path: Path) -> Data | None:
    """What the plan of a run folder says; None for a JSON that lies elsewhere."""
    folder = RunFolder(path.parent)
    told = read_object(folder.plan).get("data") if path == folder.config else None
    return Data.from_json(told) if isinstance(told, dict) else None


def absolute(config: Config, path: Path) -> dict[str, str]:
    """The key as it is in a run folder, where relative paths mean something else."""
    found = find_data(config, path)
    if found is None or config.DATASETS_DIR is None or config.DATASETS_DIR.startswith(ON_HOSTS):
        return {}
    return {KEY: str(found.source)}


def _least(names: Iterable[str]) -> tuple[str, ...]:
    """The same without what lies below another one."""
    paths = sorted(Path(name) for name in set(names))
    kept: list[Path] = []
    for path in paths:
        if not any(path.is_relative_to(other) or other == Path() for other in kept):
            kept.append(path)
    return tuple(map(str, kept))


# ---------------------------------------------------------------------- digests

Files = dict[str, tuple[Path, os.stat_result]]


def _listed(source: Path, names: Iterable[str]) -> Files:
    """All files by name, links followed; raises `OSError` for what cannot be read."""
    return {
        path.relative_to(source).as_posix(): (path, path.stat())
        for name in names
        for path in _files(source / name)
    }


def _files(path: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    real = path.resolve()
    if real in above:
        raise OSError(0, "a link that leads to a folder above it", str(path))
    for entry in sorted(path.iterdir()):
        yield from _files(entry, above | {real})


def _identity(files: Files) -> str:
    """Changes with names, sizes and times, which are asked quickly."""
    total = hashlib.sha256()
    for name, (path, facts) in sorted(files.items()):
        total.update(f"{path}\0{name}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
    return total.hexdigest()


def _digest(files: Files) -> str:
    """Of names and contents."""
    total = hashlib.sha256()
    names = sorted(files)
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda name: _of_file(files[name][0]), names)
        for name, digest in zip(names, digests, strict=True):
            total.update(f"{name}\0{digest}\0".encode())
    return total.hexdigest()[:16]


def _of_file(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _remembered(files: Files) -> str:
    """The digest; files that are as they were at an earlier time are not read again."""
    memory = cache_home() / "digests.json"
    identity = _identity(files)
    known = read_object(memory)
    if not isinstance(known.get(identity), str):
        known[identity] = _digest(files)
        with suppress(OSError):  # then they are read every time
            write_json(memory, known)
    return str(known[identity])
