"""Before anything is started: the core constructs everything once, and prepares the data set.

Both happen at the same time, in a temporary folder that holds what a machine would get, so that
an experiment that cannot work leaves no run folder behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from decentralizepy.errors import EXIT_USAGE, ConfigError, RunError
from decentralizepy.files import write_atomic
from decentralizepy.runfolder import RunFolder
from orchestrator.backends.process import (
    Guarded,
    describe_exit,
    environment,
    start,
    stop,
    tail,
    wait_all,
)
from orchestrator.planning.placed import Placed
from orchestrator.planning.site import CORE
from orchestrator.running.room import room_in
from orchestrator.text import Screen

#: Ends with this code where PyTorch finds no GPU.
NO_GPU: Final = 3
LOOK_FOR_GPU: Final = (
    f"import torch; raise SystemExit(0 if torch.cuda.is_available() else {NO_GPU})"
)


def rehearse(
    planned: Placed,
    graph: Path | None,
    ours: Mapping[str, str],
    screen: Screen,
    here: bool = True,
) -> None:
    """Check and prepare; raises `ConfigError` with what the core says, or `RunError`.

    Machines that are elsewhere prepare their data themselves; then this computer only checks, if
    it can (without torch it can't).
    """
    if not here and find_spec("torch") is None:
        return
    instead = "set TMPDIR to a folder on another one"
    with (
        tempfile.TemporaryDirectory(prefix="decentralizepy-") as name,
        room_in(Path(name), instead),
    ):
        folder = RunFolder(Path(name))
        for file, text in planned.files.items():
            write_atomic(folder.root / file, text)
        real = {folder.ini: planned.task.experiment.path}
        if graph is not None and planned.graph_name is not None:
            real[folder.root / planned.graph_name] = graph
            (folder.root / planned.graph_name).write_bytes(graph.read_bytes())
        _rehearse(_commands(planned, folder, here), folder, planned, real,
                  environment(ours, planned.task.search), screen)  # fmt: skip


def _commands(planned: Placed, folder: RunFolder, here: bool) -> dict[str, list[str]]:
    core = planned.site.core if here else CORE
    place = replace(planned.places[0], root=str(folder.root), core=core)
    names = {"check": planned.check_command(place)}
    if here:
        names["prepare"] = planned.prepare_command(place)
    if here and planned.config.DEVICE != "cpu":
        names["gpu"] = [core[0], "-c", LOOK_FOR_GPU]
    return names


def _rehearse(
    names: Mapping[str, Sequence[str]], folder: RunFolder, planned: Placed,
    real: Mapping[Path, Path], env: Mapping[str, str], screen: Screen,
) -> None:  # fmt: skip
    started: list[Guarded] = []
    try:
        for name, command in names.items():
            out, err = (folder.root / f"{name}.{kind}" for kind in ("out", "err"))
            started.append(start(command, out, err, env))
        forward = _Forward(folder.root / "prepare.out", screen)
        codes = wait_all(started, forward.tick)
        forward.tick()
    finally:
        stop(started)
    for name, ended, code in zip(names, started, codes, strict=True):
        if (name, code) == ("gpu", NO_GPU):
            raise ConfigError(
                f"{planned.config_path}: DEVICE = {planned.config.DEVICE!r}: PyTorch finds no GPU "
                'on this computer; set "DEVICE": "cpu", or leave it out'
            )
        if code not in (0, -1):
            raise _error(name, code, _as_given(tail(ended.err, 30), real))


def _error(name: str, code: int, text: str) -> ConfigError | RunError:
    if code == EXIT_USAGE:
        return ConfigError(
            text.removeprefix("decentralizepy: ") or f"decentralizepy {name} refused the experiment"
        )
    return RunError(f"decentralizepy {name} failed, {describe_exit(code)}:\n{text}")


def _as_given(text: str, real: Mapping[Path, Path]) -> str:
    """Name the user's files, not our temporary copies of them."""
    for copy, original in real.items():
        text = text.replace(str(copy), str(original))
    return text


class _Forward:
    """Prints the complete lines that a command adds to a file."""

    def __init__(self, path: Path, screen: Screen) -> None:
        self._path, self._screen, self._read = path, screen, 0

    def tick(self) -> None:
        """Print what is new."""
        try:
            with self._path.open("rb") as source:
                source.seek(self._read)
                new = source.read()
        except FileNotFoundError:  # nothing is prepared here
            return
        complete = new[: new.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.decode(errors="replace").splitlines():
            self._screen.say(f"  {line}")
