"""A plan on machines that are known: addresses, ports, files and commands. Pure, as the plan is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from decentralizepy.runfolder import RunFolder
from orchestrator.planning.inputs import Inputs
from orchestrator.planning.plan import (
    Machine,
    Plan,
    evaluation_arguments,
    resilience_arguments,
)
from orchestrator.planning.render import ADDRESSES, render_addresses
from orchestrator.planning.site import CORE
from orchestrator.planning.task import read_task

#: The rendered INI in a run folder.
INI: str = "config.ini"


@dataclass(frozen=True)
class Place:
    """Where one machine is: its host, the address that the others use, and the run's folder there.

    ``core`` starts the core there, ``workers`` is how many processes it has room for; ``cache``
    keeps prepared data sets (empty: where the core keeps them by itself). A run key is in ``key``
    (empty: in the run's folder). What outlives the host is copied to ``deposit``, if there is one.
    """

    host: str
    address: str
    root: str
    workers: int
    core: tuple[str, ...] = CORE
    cache: str = ""
    key: str = ""
    deposit: str = ""

    @property
    def folder(self) -> RunFolder:
        """The run's folder, as it is named on that host."""
        return RunFolder(Path(self.root))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Place:
        """What ``dataclasses.asdict`` gave."""
        return cls(**{**value, "core": tuple(value["core"])})


@dataclass(frozen=True)
class Placed(Plan):
    """A plan whose machines are known."""

    places: tuple[Place, ...] = field(default=())
    offset: int = 0

    @property
    def addresses(self) -> list[str]:
        return [place.address for place in self.places]

    @property
    def encrypted(self) -> bool:
        """Whether the machines need a key."""
        options = self.task.experiment.communication.options
        return len(self.places) > 1 and options.get("encryption") != "none"

    def command(self, machine: int, again: bool | None = None) -> list[str]:
        """The command of one machine, as a list of arguments: nothing is left to a shell.

        ``again``: it goes on with what lies in its folder (default: by `resumed`).
        """
        config, place = self.config, self.places[machine]
        folder = place.folder
        logs = str(folder.machine(machine).root)
        if again is None:
            again = machine in self.resumed
        return [
            *(*place.core, "run", "-mid", str(machine)),
            *self.inputs_arguments(folder),
            *("-ld", logs, "-wsd", logs, "-cf", str(folder.ini), "-ll", config.LOG_LEVEL),
            *("-is", str(config.NB_ITERATION), "-ta", str(config.TEST_AFTER)),
            *("-tea", str(config.train_evaluate_after), "-ro", str(config.RESET_OPTIMIZER)),
            *evaluation_arguments(config),
            *("-as", str(config.AVERAGING_STEPS)),
            *("--workers", str(self.machines[machine].workers), "--device", config.DEVICE),
            *(("--cache-dir", place.cache) if place.cache else ()),
            *(("--key", place.key) if place.key and self.encrypted else ()),
            *resilience_arguments(config),
            *self.scenario.arguments(folder.root),
            *(("--modules", *modules) if (modules := self.task.modules.files) else ()),
            *(["--resume"] if again else []),
        ]

    def check_command(self, place: Place) -> list[str]:
        """Constructs everything without data."""
        ini = str(place.folder.ini)
        return [*place.core, "check", ini, *self.inputs_arguments(place.folder)]

    def prepare_command(self, place: Place) -> list[str]:
        """Prepares the data set once, before several processes want it."""
        cache = ("--cache-dir", place.cache) if place.cache else ()
        return [*place.core, "prepare", str(place.folder.ini), *cache]

    def as_dict(self, folder: RunFolder) -> dict[str, Any]:
        """The plan as JSON: what ``--dry-run --json`` prints and ``plan.json`` keeps."""
        return {
            "config": self.config.resolved(),
            "config_path": str(self.config_path),
            "ini_path": str(self.task.experiment.path),
            "run_folder": str(folder.root),
            "backend": self.site.backend,
            "placement": [
                self._placement(machine, place)
                for machine, place in zip(self.machines, self.places, strict=True)
            ],
            "graph": {"name": self.graph_name, **self.graph},
            "classes": {
                "model": self.task.model.dotted,
                "sharing": self.task.sharing.dotted,
                "node": self.task.wiring.program.target.dotted,
                "schedule": self.task.wiring.schedule.target.dotted,
            },
            "row_length": self.task.row_length,
            "commands": [self.command(machine) for machine in range(len(self.machines))],
            "files": dict(self.files),
            "modules": self.task.modules.as_dict(),
            "data": self.task.data and self.task.data.as_dict(),
            "traffic": self.traffic.as_dict(),
            "estimate": asdict(self.estimate),
            "notes": list(self.notes),
        }

    def _placement(self, machine: Machine, place: Place) -> dict[str, Any]:
        return asdict(machine) | {"host": place.host, "address": place.address}


def placed(plan: Plan, inputs: Inputs, places: Sequence[Place], offset: int) -> Placed:
    """The plan on these machines, one place for each; ``offset`` is the first free port.

    An INI with an ``offset`` of its own keeps that. Raises `ConfigError`.
    """
    assert len(places) == len(plan.machines), "a place for each machine"
    workers = min(place.workers for place in places)
    task = read_task(inputs, offset, workers)
    machines = tuple(
        replace(machine, workers=min(place.workers, machine.nodes))
        for machine, place in zip(plan.machines, places, strict=True)
    )
    addresses = [place.address for place in places]
    own = {INI: task.experiment.text, ADDRESSES: render_addresses(addresses)}
    kept = {one.name: getattr(plan, one.name) for one in fields(Plan)}
    changed = {"task": task, "machines": machines, "files": own | dict(plan.files)}
    return Placed(**(kept | changed), places=tuple(places), offset=task.experiment.offset)
