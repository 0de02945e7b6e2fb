"""What is trained: the INI, rendered and typed, without importing anything that it names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from decentralizepy.config import Experiment, parse_experiment
from decentralizepy.drivers import Wiring, driver, wiring
from decentralizepy.errors import ConfigError
from decentralizepy.registry import Target, definition
from orchestrator.planning.inputs import Inputs
from orchestrator.planning.render import communication, render, with_communication
from orchestrator.planning.site import Site


@dataclass(frozen=True)
class Task:
    """What is trained: the rendered INI, typed, with the real names of its classes."""

    experiment: Experiment
    wiring: Wiring
    sharing: str
    model: str
    row: tuple[int, int] | None  # parameters and floating-point buffers, if known
    search: tuple[Path, ...] = ()  # where the user's own modules are found

    @property
    def row_length(self) -> int | None:
        return None if self.row is None else sum(self.row)


def read_task(inputs: Inputs, site: Site) -> Task:
    """Render the INI for a site and read it; raises `ConfigError`."""
    name = _driver(inputs)
    experiment = parse_experiment(render_ini(inputs, site), inputs.ini_path)
    model = _own_name(experiment.model.target)
    return Task(
        experiment=experiment,
        wiring=wiring(experiment, name),
        sharing=_own_name(experiment.sharing.target),
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


def _own_name(target: Target) -> str:
    """Where a class is defined, however many modules pass it on."""
    found = definition(target)
    return (found[1] if found else target).dotted


def _row(model: str) -> tuple[int, int] | None:
    from decentralizepy.models.sizes import MODEL_SIZES

    return MODEL_SIZES.get(model)
