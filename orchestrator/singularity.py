"""The container engine, Apptainer or SingularityCE, through spython 0.3.14 and around its defects.

spython calls ``singularity`` by that name, reads only one of two output streams and so waits for
ever once the other one is full, reports a failed build as None, drops empty arguments, and ends the
process where the source of a bind is missing. Here the engine is called by its path, both streams
are one, exit codes are looked at, empty arguments are rejected, and binds are flags of our own.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any, Final

from decentralizepy.errors import ConfigError, RunError

ENGINES: Final = ("apptainer", "singularity")
#: where scripts/install_apptainer.sh puts it
PRIVATE: Final = Path("/opt/decentralizepy/apptainer/wrap")
#: how many of the last lines an error shows
SHOWN: Final = 15

Say = Callable[[str], None]


def find_engine(environment: Mapping[str, str] = os.environ) -> Path:
    """The engine's command on this computer; raises `ConfigError`."""
    search = os.pathsep.join([environment.get("PATH", os.defpath), str(PRIVATE)])
    for name in ENGINES:
        if (found := shutil.which(name, path=search)) is not None:
            return Path(found).absolute()
    raise ConfigError(
        "neither apptainer nor singularity is on the PATH: install one (on Debian 12, as root: "
        "scripts/install_apptainer.sh), or run without the container"
    )


@dataclass(frozen=True)
class Engine:
    """An engine, called by its path."""

    path: Path

    def build(
        self, definition: Path, image: Path, options: Sequence[str] = (), say: Say = lambda _: None
    ) -> None:
        """Build an image in the definition's folder, to which the files it names are relative.

        ``say`` gets every line of output. Raises `RunError`, with the last of them.
        """
        self._finish(
            lambda client: client.build(
                recipe=definition.name,
                image=str(image.absolute()),
                options=_all_there([*rights(), *options]),
                force=True,  # labels of a base that is an image of ours are replaced
                sudo=False,
                stream=True,
                quiet=True,
            )[1],
            say,
            f"building {image}",
            definition.parent,
        )
        if not image.is_file() or not image.stat().st_size:
            raise RunError(f"building {image} left no image")

    def run(
        self,
        image: Path,
        arguments: Sequence[str],
        options: Sequence[str] = (),
        gpu: bool = False,
        say: Say = lambda _: None,
    ) -> None:
        """Run an image's runscript to its end; raises `RunError` if it does not exit with 0."""
        self._finish(
            lambda client: client.run(
                image=str(image),
                args=_all_there(arguments),
                options=_all_there(options),
                nv=gpu,
                stream=True,
                stream_type="both",
                quiet=True,
            ),
            say,
            f"running {image}",
        )

    def _finish(
        self, call: Callable[[Any], Iterable[str]], say: Say, what: str, folder: Path = Path()
    ) -> None:
        last: deque[str] = deque(maxlen=SHOWN)
        try:
            for line in call(self._client(folder)):
                last.append(line.rstrip("\n"))
                say(last[-1])
        except CalledProcessError as error:
            shown = "".join(f"\n  {line}" for line in last)
            raise RunError(f"{what} failed with exit code {error.returncode}:{shown}") from None

    def _client(self, folder: Path) -> Any:
        """spython's client, whose commands run this engine in a folder and have one stream."""
        try:
            from spython.main import get_client
        except ImportError:
            raise ConfigError(
                "the container needs spython: pip install 'decentralizepy[container]'"
            ) from None
        client = get_client(quiet=True)
        begin = ["sh", "-c", 'cd "$0" && exec "$@" 2>&1', str(folder.absolute()), str(self.path)]
        client._init_command = lambda action, flags=None: [*begin, *(flags or ()), action]
        return client


def rights(user: int | None = None) -> list[str]:
    """The build option of somebody who is not root."""
    return [] if (os.getuid() if user is None else user) == 0 else ["--fakeroot"]


def _all_there(arguments: Sequence[str]) -> list[str]:
    """The arguments, none of which may be empty: the ones after it would move up."""
    if not all(arguments):
        raise ConfigError(f"an argument is empty: {list(arguments)!r:.200}")
    return list(arguments)
