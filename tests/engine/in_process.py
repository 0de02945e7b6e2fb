"""Builds one worker in this process, for tests that look inside."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from launching import Experiment

from decentralizepy import arguments
from decentralizepy.runtime import shared
from decentralizepy.runtime.arena import Arena
from decentralizepy.runtime.assemble import Assembly
from decentralizepy.runtime.placement import Placement, WorkerId
from decentralizepy.runtime.worker import Worker


def build(experiment: Experiment, iterations: int, *more: str, name: str = "log") -> Worker:
    """A worker with all nodes of the experiment, ready to run."""
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser)
    folder: Path = experiment.folder
    args = parser.parse_args(
        ["-cf", str(folder / "config.ini"), "-gf", str(folder / "graph.edges"),
         "-is", str(iterations), "-ld", str(folder / name), "--workers", "1", "-ro", "0",
         "--cache-dir", str(experiment.cache), *more]
    )  # fmt: skip
    settings = arguments.settings_of(args)
    assembly = Assembly(settings)
    plan = shared.ArenaPlan((settings.mapping.n,), assembly.row_length)
    memory = shared.create()
    shared.resize(memory, plan)
    arena = Arena(memory, plan)
    os.close(memory)
    return assembly.worker(WorkerId(0, 0), Placement(settings.mapping, (1,)), arena)
