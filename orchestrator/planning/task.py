"""What is trained: the INI, rendered and typed, without importing anything that it names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from decentralizepy.config import Experiment, parse_experiment
from decentralizepy.drivers import Wiring, driver, wiring
from decentralizepy.errors import ConfigError
from decentralizepy.registry import Target, definition, fact
from orchestrator.planning.inputs import Inputs
from orchestrator.planning.render import communication, render, with_communication
from orchestrator.planning.site import Site


@dataclass(frozen=True)
class Task:
    """What is trained: the rendered INI, typed, with the real names of its classes."""

    experiment: Experiment
    wiring: Wiring
    sharing: Target
    model: Target
    row: tuple[int, int] | None  # parameters and floating-point buffers, if known
    search: tuple[Path, ...] = ()  # where the user's own modules are found

    @property
    def row_length(self) -> int | None:
        return None if self.row is None else sum(self.row)


def read_task(inputs: Inputs, site: Site) -> Task:
    """Render the INI for a site and read it; raises `ConfigError`."""
    name = _driver(inputs)
    experiment = parse_experiment(render_ini(inputs, site), inputs.ini_path)
    model = _defined(experiment.model.target)
    return Task(
        experiment=experiment,
        wiring=wiring(experiment, name),
        sharing=_defined(experiment.sharing.target),
        model=model,
        row=_row(model),
        search=(inputs.ini_path.parent,),
    )


def _driver(inputs: Inputs) -> str | None:
    """The driver of the JSON, if it names one; raises `ConfigError` for one that is not there."""
    name = inputs.config.EVAL_FILE
    try:
        if name is not None:
            driver(name)
    except ConfigError as error:
        raise ConfigError(f"{inputs.path}: EVAL_FILE: {error}") from None
    return name


def render_ini(inputs: Inputs, site: Site) -> str:
    """The INI that every machine gets.

    The first port is the INI's own, else the JSON's OFFSET, else the free one that was found.
    """
    config, path = inputs.config, inputs.ini_path
    values = config.resolved() | {"OFFSET": site.offset}
    text = render(inputs.ini_text, values, path)
    keep = communication(text, path).get("offset", "")
    return with_communication(text, path, None if keep else site.offset)


def _defined(target: Target) -> Target:
    """Where a class is defined, however many modules pass it on."""
    found = definition(target)
    return found[1] if found else target


def _row(model: Target) -> tuple[int, int] | None:
    """Parameters and floating-point buffers, if the model's class says how many."""
    parameters = fact(model, "n_parameters", 0, about="__init__")
    buffers = fact(model, "n_buffers", 0, about="__init__")
    return (parameters, buffers) if parameters > 0 else None
