"""The local back-end makes the run key itself, for its owner alone, and takes it away again."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orchestrator_fakes as fakes
import pytest
from orchestrator_fakes import Make

from decentralizepy.communication.keys import find_key, load_key
from decentralizepy.errors import RunError
from orchestrator.backends.base import Reservation
from orchestrator.backends.local import LocalBackend
from orchestrator.hosts.base import Host, Job
from orchestrator.hosts.local import LocalHost
from orchestrator.planning.plan import Plan
from orchestrator.running.experiment import Setting, run_experiment
from orchestrator.text import Screen

Build = Callable[..., Setting]


class Looking(LocalBackend):
    """Looks for the key as a machine would, while the machines run."""

    found: list[Path | None]
    key: list[str]

    def hosts(self, reservation: Reservation, plan: Plan, hold: int | None) -> list[Host]:
        return [LookingHost(self, host, hold) for host in reservation.hosts]


class LookingHost(LocalHost):
    def __init__(self, backend: Looking, address: str, hold: int | None) -> None:
        super().__init__(address, hold)
        self.backend = backend

    def start(self, job: Job) -> None:
        path = find_key(Path(job.folder), None)
        self.backend.found.append(path)
        if path is not None:
            assert len(load_key(path)) == 32
            self.backend.key.append(path.read_text().strip())
        super().start(job)


def looking(setting: Setting) -> tuple[Setting, Looking]:
    real: Any = setting.backend
    backend = Looking(core=real.core, grace_s=real.grace_s, ours=real.ours)
    object.__setattr__(backend, "found", [])
    object.__setattr__(backend, "key", [])
    return replace(setting, backend=backend), backend


@pytest.mark.parametrize("mode", ["ok", "fail"])
def test_every_machine_finds_one_key_and_nothing_of_it_stays(
    make: Make, setting: Build, mode: str
) -> None:
    path = make()
    built, backend = looking(setting(mode))
    out = io.StringIO()
    try:
        run_experiment(path, built, Screen(out))
    except RunError as error:
        out.write(str(error))
    (folder,) = (path.parent / "results").iterdir()
    assert backend.found == [folder / "run.key"] * 2
    assert len(set(backend.key)) == 1
    assert not (folder / "run.key").exists()
    assert backend.key[0] not in out.getvalue()
    for file in folder.rglob("*"):
        assert not file.is_file() or backend.key[0].encode() not in file.read_bytes()


def test_no_key_where_none_is_needed(make: Make, setting: Build) -> None:
    clear = fakes.INI.replace("comm_class = TCP", "comm_class = TCP\nencryption = none")
    for number, options in enumerate(({"ini": clear}, {"NB_MACHINE": 1})):
        path = make(make().parent / str(number), **options)
        built, backend = looking(setting())
        run_experiment(path, built, Screen(io.StringIO()))
        assert set(backend.found) == {None}
