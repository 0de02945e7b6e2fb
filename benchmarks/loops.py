"""Bare training loops: what an iteration costs without an engine around it.

``plain``: N modules with ``torch.optim.SGD`` in the default layout. ``best``: the fastest bare loop
we know, with the engine's own layout, optimizer and threads. Both sample like the engine, take the
same local steps and mix once with a dense ``W @ X``. Every loop runs in processes of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from benchmarks import floors
from benchmarks.crew import Crew
from benchmarks.load import Load

#: iterations that only warm up
WARM = 3

#: those of this process's loop
_crew: Crew


def _mixer(load: Load, own: int) -> Any:
    """Rows of ``W`` [own, nodes] for the process's own nodes: each takes from all nodes."""
    import torch

    weights = torch.rand(own, load.nodes)
    return weights / weights.sum(1, keepdim=True)


def plain(load: Load, own: int) -> Callable[[], None]:
    """One iteration of ``own`` nodes as modules, NCHW, torch's SGD, then ``W @ X``."""
    import torch
    from torch import nn

    x, y = map(torch.from_numpy, load.data())
    x = x.permute(0, 3, 1, 2).contiguous().float().mul_(2 / 255).sub_(1)
    models = [load.make_model() for _ in range(own)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=load.lr) for m in models]
    loss, weights = nn.CrossEntropyLoss(), _mixer(load, own)
    with torch.no_grad():  # others' rows are real models, too: made-up ones would train faster
        rows = nn.utils.parameters_to_vector(models[0].parameters()).repeat(load.nodes, 1)
    rng = np.random.default_rng(1)

    def iteration() -> None:
        for model, optimizer in zip(models, optimizers, strict=True):
            for _ in range(load.steps):
                chosen = torch.from_numpy(rng.integers(0, load.samples, load.batch))
                optimizer.zero_grad()
                loss(model(x[chosen]), y[chosen]).backward()
                optimizer.step()
        with torch.no_grad():
            for row, model in zip(rows, models, strict=False):  # the rest are others' rows
                row.copy_(nn.utils.parameters_to_vector(model.parameters()))
            for model, row in zip(models, weights @ rows, strict=True):
                nn.utils.vector_to_parameters(row, model.parameters())

    return iteration


def best(load: Load, own: int) -> Callable[[], None]:
    """The same on one template with flat gradients, channels-last, then ``W @ X``."""
    import torch
    from torch import nn

    from decentralizepy.training.template import Template

    samples = load.stored()
    template = Template(load.make_model())
    everybody = template.initial.repeat(load.nodes, 1)
    rows = everybody[:own]
    other = torch.empty_like(rows)
    loss, weights = nn.CrossEntropyLoss(), _mixer(load, own)
    parameters = template.work[: template.layout.n_parameters]
    rng = np.random.default_rng(1)

    def iteration() -> None:
        for row in rows:
            template.load(row)
            chosen = rng.integers(0, load.samples, load.steps * load.batch)
            images, labels = samples.gather(torch.from_numpy(chosen))
            for start in range(0, len(chosen), load.batch):
                batch = slice(start, start + load.batch)
                template.grad.zero_()
                loss(template.model(images[batch]), labels[batch]).backward()
                parameters.data.add_(template.grad, alpha=-load.lr)
            template.store(row)
        with torch.no_grad():
            torch.mm(weights, everybody, out=other)
            rows.copy_(other)

    return iteration


def forward(load: Load, own: int) -> Callable[[], None]:
    """``own`` models over the same test images, in the best fixed batch size and layout."""
    import torch

    samples = load.stored()
    model = load.make_model().to(load.device, memory_format=torch.channels_last).eval()
    batch = model.eval_batch

    def iteration() -> None:
        with torch.inference_mode():
            for _ in range(own):
                for start in range(0, load.samples, batch):
                    images, _ = samples.slice(start, min(start + batch, load.samples))
                    model(images)

    return iteration


LOOPS = {
    "plain": plain, "best": best, "forward": forward, "merge": floors.merge,
    "average": floors.average, "mapped": floors.mapped,
}  # fmt: skip
#: those whose processes hear each other
TOGETHER = {"gossip": floors.gossip}


def _take_part(crew: Crew) -> None:
    global _crew
    _crew = crew
    crew.join()


def _child(kind: str, load: Load, own: int, threads: int, iterations: int) -> float:
    """Seconds of all iterations, from when all processes are ready."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    from decentralizepy.engine.process import tune_malloc

    tune_malloc()
    torch.set_num_threads(threads)
    try:
        return _timed(kind, load, own, iterations)
    finally:
        _crew.leave()


def _timed(kind: str, load: Load, own: int, iterations: int) -> float:
    together = TOGETHER.get(kind)
    iteration = LOOPS[kind](load, own) if together is None else together(load, _crew)
    for _ in range(WARM):
        iteration()
    load.wait()
    _crew.gate.wait()
    started = time.perf_counter()
    for _ in range(iterations):
        iteration()
    load.wait()
    return time.perf_counter() - started


def seconds(kind: str, load: Load, processes: int, threads: int, iterations: int) -> float:
    """Seconds an iteration: nodes split over processes, the slowest one counts.

    Raises what a process raises, and `BrokenProcessPool` if one ends without a word.
    """
    context = multiprocessing.get_context("spawn")
    crew = Crew(context, processes, floors.shared(load) if kind in TOGETHER else 0)
    with ProcessPoolExecutor(processes, context, _take_part, (crew,)) as pool:
        asked = [
            pool.submit(_child, kind, load, load.nodes // processes, threads, iterations)
            for _ in range(processes)
        ]
        crew.leave()
        done, _ = wait(asked, return_when=FIRST_EXCEPTION)
        if failed := [error for one in done if (error := one.exception()) is not None]:
            error = min(failed, key=lambda one: isinstance(one, EOFError))  # those only follow
            if not isinstance(error, BrokenProcessPool):  # then no process is left
                crew.gate.abort()  # the others would wait for it
            raise error
        return max(one.result() for one in asked) / iterations
