"""Builds one worker in this process, for tests that look inside or compare bits."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from launching import Experiment, digests

from decentralizepy.commands import arguments, flags
from decentralizepy.engine.assemble import Assembly
from decentralizepy.engine.worker import Worker
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory import shared
from decentralizepy.memory.arena import Arena
from decentralizepy.node.node import Node, Program


def build(experiment: Experiment, iterations: int, *more: str, name: str = "log") -> Worker:
    """A worker with all nodes of the experiment, ready to run."""
    parser = argparse.ArgumentParser()
    flags.add_arguments(parser)
    folder: Path = experiment.folder
    args = parser.parse_args(
        ["-cf", str(folder / "config.ini"), "-gf", str(folder / "graph.edges"),
         "-is", str(iterations), "-ld", str(folder / name), "--workers", "1", "-ro", "0",
         "--cache-dir", str(experiment.cache), *more]
    )  # fmt: skip
    settings = arguments.settings_of(args)
    assembly = Assembly(settings)
    n = len(settings.hosted)
    plan = shared.ArenaPlan((n,), assembly.row_length, assembly.named_rows)
    memory = shared.create()
    shared.resize(memory, plan)
    arena = Arena(memory, plan)
    os.close(memory)
    return assembly.worker(WorkerId(0, 0), Placement(settings.mapping, (1,)), arena)


Script = Callable[[Node], Program]


def _nothing() -> Program:
    yield from ()


def inject(worker: Worker, programs: Mapping[int, Script | Sequence[Script]]) -> None:
    """Give nodes programs of the test's, by uid; those not named end at once."""
    for uid, seat in worker.seats.items():
        found = programs.get(uid, ())
        scripts = found if isinstance(found, Sequence) else (found,)
        made = [script(seat.node) for script in scripts] or [_nothing()]
        seat.node.programs = lambda made=made: made


def run_here(experiment: Experiment, iterations: int, *more: str, name: str = "here") -> Path:
    """Run all nodes in this process, computing as a worker does; returns the run's folder."""
    with _as_in_a_worker(experiment.folder):
        worker = build(experiment, iterations, *more, name=f"{name}/machine0")
        try:
            worker.run()
        finally:
            worker.reporter.close()
    return experiment.folder / name


def undisturbed(experiment: Experiment, iterations: int, *more: str) -> dict[tuple[int, int], str]:
    """The digests of a run to which nothing happened: what any placement must come to."""
    found = digests(run_here(experiment, iterations, "--digests", *more, name="undisturbed"))
    assert len(found) == iterations * experiment.graph.n
    return found


@contextmanager
def _as_in_a_worker(folder: Path) -> Iterator[None]:
    """One thread, which may decide about bits; modules of the experiment are forgotten again."""
    threads, path = torch.get_num_threads(), list(sys.path)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(str(folder)):
                del sys.modules[name]
