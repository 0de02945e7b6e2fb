"""The image: built by what is in it, staged once to every host's own disk, and commands inside.

An image is named by the digest of all that is built into it. Where the code is bound at each start,
it is no part of that: then a change of the code needs no new image.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final
from uuid import uuid4

from decentralizepy.errors import ConfigError
from decentralizepy.locks import lock
from orchestrator.hosts.base import HostError
from orchestrator.planning.data import MOUNT as DATASETS
from orchestrator.planning.data import Data
from orchestrator.singularity import PRIVATE, Engine, Say
from orchestrator.staging import Store, turn

DEFINITION: Final = "compute_container.def"
#: what goes into every image, relative to the tree
INGREDIENTS: Final = (
    DEFINITION,
    "constraints.txt",
    "pyproject.toml",
    "scripts/container_run.py",
    "scripts/container_requirements.py",
)
#: what goes into it too, but lies under the bind of a code tree
CODE: Final = ("decentralizepy", "run_configuration")
#: where the image expects what
LOGS: Final = "/logs"
ADDRESSES: Final = "/ip.json"
TREE: Final = "/decentralizepy"
#: Whichever engine a host has, called by a shell that is replaced by it.
ANY_ENGINE: Final = (
    "sh",
    "-c",
    f"engine=$(command -v apptainer || command -v singularity || command -v {PRIVATE}/apptainer) "
    '|| { echo "neither apptainer nor singularity is on the PATH of $(hostname)" >&2; exit 127; }; '
    'exec "$engine" "$@"',
    "container",
)
#: Folders of images that are being copied, and minutes after which nobody does any more.
ARRIVING: Final = "arriving-"
FORGOTTEN_MIN: Final = "+240"
#: The user's home is not mounted: neither packages nor caches in it get in.
APART: Final = ("--no-home",)


@dataclass(frozen=True)
class Recipe:
    """What an image is built from.

    ``arguments`` are build arguments of the definition, ``wheels`` a folder to install from, and
    ``bound`` says that the code is bound at every start.
    """

    tree: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    wheels: Path | None = None
    bound: bool = True

    def digest(self) -> str:
        """SHA-256 of names and contents of all that decides what runs; raises `ConfigError`."""
        total = hashlib.sha256()
        for key, value in sorted(self.arguments.items()):
            total.update(f"{key}={value}\0".encode())
        for path in self._files():
            total.update(f"{path.relative_to(self.tree)}\0".encode())
            total.update(_content(path).digest())
        return total.hexdigest()

    @property
    def name(self) -> str:
        return f"decentralizepy-{self.digest()[:16]}.sif"

    def options(self) -> list[str]:
        """Of the engine's build command."""
        given = [f"{key}={value}" for key, value in sorted(self.arguments.items())]
        wheels = [] if self.wheels is None else ["--bind", f"{self.wheels.resolve()}:/mnt"]
        return [*(word for pair in given for word in ("--build-arg", pair)), *wheels]

    def _files(self) -> Iterator[Path]:
        for name in INGREDIENTS:
            yield self.tree / name
        for folder in () if self.bound else CODE:
            found = (self.tree / folder).rglob("*")
            yield from sorted(p for p in found if p.is_file() and "__pycache__" not in p.parts)


def _content(path: Path) -> hashlib._Hash:
    try:
        with path.open("rb") as source:
            return hashlib.file_digest(source, "sha256")
    except OSError as error:
        raise ConfigError(f"the container needs {path}: {error.strerror}") from None


def build(recipe: Recipe, folder: Path, engine: Engine, say: Say = lambda _: None) -> Path:
    """The recipe's image in ``folder``, built unless it is there; raises `RunError`."""
    image = folder / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, lambda: say(f"{folder}: another process is building")):
        if not image.exists():
            aside = image.with_suffix(".part.sif")
            aside.unlink(missing_ok=True)
            engine.build(recipe.tree / DEFINITION, aside, recipe.options(), say)
            aside.replace(image)
    return image


@contextlib.contextmanager
def _locked(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            lock(handle, waiting)
        yield
    finally:
        os.close(handle)


def image_of(name: str | None, folder: Path) -> Path | None:
    """The image that a configuration names, as it is or from ``folder``; raises `ConfigError`."""
    if name is None:
        return None
    image = folder / name
    if not image.is_file():
        raise ConfigError(f"CONTAINER {image} is not there: 'make' builds compute_container.sif")
    return image


def staged_name(image: Path) -> str:
    """What the image is called on hosts: by its content, so a new one never passes for an old."""
    found = image.stat()
    return _named(image, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=8)
def _named(image: Path, *_: int) -> str:
    return f"{_content(image).hexdigest()[:16]}.sif"


def stage(image: Path, host: Store, root: str) -> str:
    """The image's path below ``root`` on the host, copied there unless it is there already.

    It is copied aside and renamed, so half an image is never taken for a whole one.
    """
    target = str(PurePosixPath(root) / staged_name(image))
    probe = ["sh", "-c", '[ "$(stat -c %s "$0")" = "$1" ]', target, str(image.stat().st_size)]
    if host.call(probe):
        with turn(host, target):
            if host.call(probe):
                _copy(image, host, root, target)
    return target


def _copy(image: Path, host: Store, root: str, target: str) -> None:
    """In a folder of this copy alone: another process may be copying the same image."""
    aside = PurePosixPath(root) / f"{ARRIVING}{uuid4().hex}"
    host.call(["find", root, "-maxdepth", "1", "-name", f"{ARRIVING}*", "-mmin", FORGOTTEN_MIN,
               "-exec", "rm", "-rf", "{}", "+"])  # fmt: skip
    try:
        host.put_data(image.parent, [image.name], str(aside))
        if host.call(["mv", "-f", str(aside / image.name), target]):
            raise HostError(f"cannot rename {aside / image.name} to {target}")
    finally:
        host.call(["rm", "-rf", str(aside)])


@dataclass(frozen=True)
class Bind:
    """A file or folder of the host, seen at ``target`` in the container."""

    source: str
    target: str
    read_only: bool = False

    def flag(self) -> tuple[str, str]:
        """``--mount``, unlike ``--bind``, takes colons and commas in paths."""
        fields = ["type=bind", f"source={self.source}", f"destination={self.target}"]
        fields += ["ro"] if self.read_only else []
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(fields)
        return "--mount", line.getvalue()


def data_binds(data: Data | None) -> list[Bind]:
    """Data sets, as the rendered INI names them and as users' modules may."""
    if data is None:
        return []
    return [Bind(data.root, target, read_only=True) for target in (data.root, DATASETS)]


def flags(binds: Sequence[Bind], gpu: bool = False) -> list[str]:
    """Options of ``run`` and ``exec``."""
    mounts = (word for bind in binds for word in bind.flag())
    return [*APART, *mounts, *(["--nv"] if gpu else [])]


def by_hand(
    image: str, arguments: Sequence[str], binds: Sequence[Bind], gpu: bool = False
) -> list[str]:
    """The command that runs an image's runscript with its eight arguments, and further ones."""
    return [*ANY_ENGINE, "run", *flags(binds, gpu), image, *arguments]


def core(
    image: str,
    binds: Sequence[Bind],
    search: Sequence[str] = (),
    cache: str | None = None,
    gpu: bool = False,
) -> tuple[str, ...]:
    """How the core is started in the container, before its verb.

    The run folder must be bound at its own path. ``search`` are folders in the container that are
    put before the image's code on Python's path: `TREE`, if code is bound there. ``cache`` is where
    prepared data is kept, a folder that is bound. Of the environment, what concerns Python stays
    outside; the rest (GPUs of a job, the user's variables) gets in.
    """
    path = os.pathsep.join([*search, f"/opt{TREE}"])
    # the working directory is the host's, where there may be other code
    given = [
        f"PYTHONPATH={path}",
        "PYTHONSAFEPATH=1",
        *([] if cache is None else [f"XDG_CACHE_HOME={cache}"]),
    ]
    inside = ("env", *given, "python", "-m", "decentralizepy")
    return (*ANY_ENGINE, "exec", *flags(binds, gpu), image, *inside)
