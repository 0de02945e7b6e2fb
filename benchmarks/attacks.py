"""Threshold attacks on the saved models of a run, against bare forward passes.

What an attack by loss cannot do without is a forward pass of each saved model over its sender's
samples and the test set. These are timed alone, over inputs that are already as the model wants
them, in the same batches; the attack is the whole command, from the folder to its CSVs.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks import engine
from benchmarks.load import Load
from benchmarks.result import Result, medians
from decentralizepy.runfolder import RunFolder, write_json

_LENET = "decentralizepy.models.cifar10.LeNet"
_NODES, _MEMBERS, _OTHERS, _ITERATIONS = 4, 1_000, 1_500, (1, 100)
_BOUND = 1.2


def write_run(folder: Path) -> Path:
    """A run folder of LeNet nodes that has kept what each sent; returns it."""
    load = Load(_LENET, _NODES, 8)
    engine.write_cifar(folder / "data", _NODES * _MEMBERS, _OTHERS)
    run = RunFolder(folder / "attacked")
    machine = run.machine(0)
    machine.root.mkdir(parents=True)
    engine.write_ini(folder, load, {}).rename(run.ini)
    write_json(machine.run, {"seed": 90, "outcome": "done", "nodes_per_machine": [_NODES]})
    for number, (t, uid) in enumerate((t, uid) for t in _ITERATIONS for uid in range(_NODES)):
        path = machine.sent_model(0, uid, "models", t, uid, (uid + 1) % _NODES)
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(load, number, path)
    return run.root


def _save(load: Load, seed: int, path: Path) -> None:
    import numpy as np
    import torch

    from decentralizepy.training.sample_losses import flat_state
    from decentralizepy.training.template import Template

    template = Template(load.make_model())
    noise = torch.randn(template.initial.shape, generator=torch.Generator().manual_seed(seed))
    np.save(path, flat_state(template, template.initial + 0.01 * noise).numpy())


def _attack(run: Path, cache: Path) -> Callable[[], float]:
    """CPU seconds of the command, which finds no losses of before."""
    from results.attacks.command import parser
    from results.attacks.command import run as attack

    args = parser().parse_args([str(run), "--attacks", "threshold", "--cache-dir", str(cache)])

    def seconds() -> float:
        for path in (run / "attacks").glob("losses.*"):
            path.unlink()
        started = time.thread_time()
        with redirect_stdout(StringIO()):
            attack(args)
        return time.thread_time() - started

    return seconds


def _bare() -> Callable[[], float]:
    """CPU seconds of as many forward passes, channels-last, on inputs that need no change."""
    import torch

    load = Load(_LENET, 1, 8, samples=_MEMBERS + _OTHERS)
    model = load.make_model().to(memory_format=torch.channels_last).eval()
    batch = model.eval_batch
    images, _ = load.stored().slice(0, load.samples)

    def seconds() -> float:
        started = time.thread_time()
        with torch.inference_mode():
            for _ in range(_NODES * len(_ITERATIONS)):
                for part in (images[:_MEMBERS], images[_MEMBERS:]):
                    for some in part.split(batch):
                        model(some)
        return time.thread_time() - started

    return seconds


def _measure(folder: Path, repeats: int, out: Any) -> None:
    """Put the medians of both, on one thread."""
    import torch

    from decentralizepy.engine.process import tune_malloc

    tune_malloc()
    torch.set_num_threads(1)
    measures = {"attack": _attack(write_run(folder), folder / "cache"), "bare": _bare()}
    for measure in measures.values():
        measure()  # imports, and the prepared data set
    out.put(medians(repeats, measures))


def results(folder: Path, repeats: int) -> Iterator[Result]:
    """All rows of this file."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    own = folder / "attacks"
    own.mkdir()
    child = context.Process(target=_measure, args=(own, repeats, out))
    child.start()
    found = out.get(timeout=600)
    child.join()
    models = _NODES * len(_ITERATIONS)
    detail = (
        f"{models} LeNets, {_MEMBERS:,} members and {_OTHERS:,} others each: "
        f"{1e3 * found['attack']:.0f} ms, {1e3 * found['bare']:.0f} ms of them forward passes"
    )
    yield Result("attacks, threshold: CPU / forward passes", found["attack"] / found["bare"],
                 _BOUND, detail)  # fmt: skip
