"""Constructs all classes of an experiment without data, to find errors before a run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from decentralizepy.config import Experiment
from decentralizepy.datasets.experiment import build_dataset
from decentralizepy.drivers import Wiring
from decentralizepy.engine.parts import build_program, build_sharing, build_trainer
from decentralizepy.errors import ConfigError, naming
from decentralizepy.graphs.graph import Graph
from decentralizepy.training.data import Samples


def construct(experiment: Experiment, wired: Wiring, graph: Graph | None = None) -> Iterator[str]:
    """Construct every class that the experiment names; yields what they are.

    The schedule is constructed over ``graph``; without one its class is only loaded.
    """
    try:
        yield from _construct(experiment)
        yield from _construct_nodes(experiment, wired, graph)
    except ConfigError as error:
        raise naming(error, experiment.path) from error


def _construct(experiment: Experiment) -> Iterator[str]:
    dataset = build_dataset(experiment)
    norm = dataset.normalization
    empty = Samples(np.zeros((0, 1), np.float32), np.zeros(0, np.int64), norm.scale, norm.shift)
    trainer = build_trainer(experiment, empty, None)
    sharing = build_sharing(experiment)
    layout = trainer.template.layout
    yield f"data set: {experiment.dataset.target.dotted}"
    yield f"model: {experiment.model.target.name}, {layout.n_parameters} parameters"
    yield f"row: {layout.length} floats, {4 * layout.length} bytes"
    yield f"optimizer: {experiment.optimizer.target.dotted} {dict(experiment.optimizer.options)}"
    if experiment.schedule is not None:
        options = dict(experiment.schedule.options)
        yield f"learning rate: {experiment.schedule.target.dotted} {options}"
    yield f"training: {'stacked' if trainer.takes_groups else 'one by one'}"
    yield f"sharing: {type(sharing).__module__}.{type(sharing).__name__}"


def _construct_nodes(experiment: Experiment, wired: Wiring, graph: Graph | None) -> Iterator[str]:
    build_program(wired.program)
    if graph is None:
        wired.schedule.target.load()
    else:
        wired.build(graph, experiment.seed)
    parts = {"task": experiment.task, "nodes": wired.program, "graphs": wired.schedule}
    for what, part in parts.items():
        if part is not None:
            options = f" {dict(part.options)}" if part.options else ""
            yield f"{what}: {part.target.dotted}{options}"
