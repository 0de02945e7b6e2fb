"""What is trained: the INI, rendered and typed, without importing anything that it names."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from decentralizepy.config import Component, Experiment, parse_experiment
from decentralizepy.registry import Target, definition, source_path
from orchestrator.planning.inputs import Inputs
from orchestrator.planning.render import communication, render, with_communication
from orchestrator.planning.site import Site


@dataclass(frozen=True)
class Task:
    """What is trained: the rendered INI, typed, with the real names of its classes."""

    experiment: Experiment
    sharing: str
    model: str
    row: tuple[int, int] | None  # parameters and floating-point buffers, if known
    search: tuple[Path, ...] = ()  # where the user's own modules are found
    modules: tuple[Path, ...] = ()  # of these, the files that the INI names

    @property
    def row_length(self) -> int | None:
        return None if self.row is None else sum(self.row)


def read_task(inputs: Inputs, site: Site) -> Task:
    """Render the INI for a site and read it; raises `ConfigError`."""
    experiment = parse_experiment(render_ini(inputs, site), inputs.ini_path)
    model = _own_name(experiment.model.target)
    return Task(
        experiment=experiment,
        sharing=_own_name(experiment.sharing.target),
        model=model,
        row=_row(model),
        search=(inputs.ini_path.parent,),
        modules=_own_modules(experiment),
    )


def render_ini(inputs: Inputs, site: Site) -> str:
    """The INI that every machine gets.

    The first port is the INI's own, else the JSON's OFFSET, else the free one that was found.
    """
    config, path = inputs.config, inputs.ini_path
    values = config.resolved() | {"OFFSET": site.offset}
    text = render(inputs.ini_text, values, path)
    keep = communication(text, path).get("offset", "")
    return with_communication(text, path, None if keep else site.offset)


def _own_modules(experiment: Experiment) -> tuple[Path, ...]:
    """Files beside the INI (or in the working directory) that the experiment's classes are in."""
    parts = (getattr(experiment, field.name) for field in fields(experiment))
    targets = [part.target for part in parts if isinstance(part, Component)]
    found = [(source_path(t.module, t.search), t.search) for t in targets]
    own = (path for path, search in found if path is not None and str(path.parent) in search)
    return tuple(dict.fromkeys(own))


def _own_name(target: Target) -> str:
    """Where a class is defined, however many modules pass it on."""
    found = definition(target)
    return (found[1] if found else target).dotted


def _row(model: str) -> tuple[int, int] | None:
    from decentralizepy.models.sizes import MODEL_SIZES

    return MODEL_SIZES.get(model)
