"""What is trained: the INI, rendered and typed, without importing anything that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decentralizepy.config import Experiment, parse_experiment
from decentralizepy.drivers import Wiring, driver, wiring
from decentralizepy.errors import ConfigError
from decentralizepy.overrides import Override, blamed, changed
from decentralizepy.registry import Target, definition, fact, options
from orchestrator.planning.data import Data
from orchestrator.planning.inputs import Inputs
from orchestrator.planning.modules import Modules
from orchestrator.planning.render import communication, render, with_communication


@dataclass(frozen=True)
class Task:
    """What is trained: the rendered INI, typed, with the real names of its classes."""

    experiment: Experiment
    wiring: Wiring
    sharing: Target
    model: Target
    row: tuple[int, int] | None  # parameters and floating-point buffers, if known
    search: tuple[Path, ...] = ()  # where the user's own modules are found
    overrides: tuple[Override, ...] = ()  # keys of the INI that were set from outside
    data: Data | None = None  # what it reads of DATASETS_DIR
    modules: Modules = field(default_factory=Modules)  # the user's further files

    @property
    def row_length(self) -> int | None:
        return None if self.row is None else sum(self.row)


def read_task(inputs: Inputs, offset: int, workers: int) -> Task:
    """Render the INI for a first port and a number of workers per machine, and read it.

    Raises `ConfigError`.
    """
    name = _driver(inputs)
    experiment, wired, data = blamed(
        lambda changes: _read(*render_ini(inputs, offset, workers, changes), inputs.ini_path, name),
        inputs.overrides,
    )
    model = _defined(experiment.model.target)
    return Task(
        experiment=experiment,
        wiring=wired,
        sharing=_defined(experiment.sharing.target),
        model=model,
        row=_row(model, experiment.model.options),
        search=tuple(dict.fromkeys((inputs.ini_path.parent, *inputs.modules.search))),
        overrides=inputs.overrides,
        data=data,
        modules=inputs.modules,
    )


def _read(
    text: str, data: Data | None, path: Path, driver: str | None
) -> tuple[Experiment, Wiring, Data | None]:
    experiment = parse_experiment(text, path)
    return experiment, wiring(experiment, driver), data


def _driver(inputs: Inputs) -> str | None:
    """The driver of the JSON, if it names one; raises `ConfigError` for one that is not there."""
    name = inputs.config.EVAL_FILE
    try:
        if name is not None:
            driver(name)
    except ConfigError as error:
        raise ConfigError(f"{inputs.path}: EVAL_FILE: {error}") from None
    return name


def render_ini(
    inputs: Inputs, offset: int, workers: int, overrides: Sequence[Override]
) -> tuple[str, Data | None]:
    """The INI that every machine gets, with the keys that are set from outside; and its data.

    The first port is the INI's own, else the JSON's OFFSET, else the free one that was found.
    """
    config, path = inputs.config, inputs.ini_path
    values = config.resolved() | {"OFFSET": offset, "WORKERS": workers}
    text = changed(render(inputs.ini_text, values, path), overrides, path)
    data = None
    if inputs.data is not None:
        text, data = inputs.data.moved(text, path)
    keep = communication(text, path).get("offset", "")
    return with_communication(text, path, None if keep else offset), data


def _defined(target: Target) -> Target:
    """Where a class is defined, however many modules pass it on."""
    found = definition(target)
    return found[1] if found else target


def _row(model: Target, given: Mapping[str, Any]) -> tuple[int, int] | None:
    """Parameters and floating-point buffers, if the model's class says how many.

    What it says is about its defaults: with other options nothing is known.
    """
    known = options(model) or {}
    if any(known[key].default != repr(value) for key, value in given.items() if key in known):
        return None
    parameters = fact(model, "n_parameters", 0, about="__init__")
    buffers = fact(model, "n_buffers", 0, about="__init__")
    return (parameters, buffers) if parameters > 0 else None
