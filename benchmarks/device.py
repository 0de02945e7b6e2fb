"""The engine on a GPU: stacked training, rows, sharing and evaluation beside bare kernels.

Where torch finds no GPU the cases are skipped. Bare loops wait for the device at their ends only.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import engine, loops
from benchmarks.load import Load
from benchmarks.result import Result, medians

_LENET = "decentralizepy.models.cifar10.LeNet"
_NODES, _ITERATIONS = 128, 40


def missing(device: str) -> str:
    """Why nothing can be measured on a device, or an empty string."""
    import torch

    if device == "cpu" or torch.cuda.is_available():
        return ""
    return f"--device {device}: torch {torch.__version__} finds no GPU here"


def load_of(device: str) -> Load:
    """128 LeNet nodes of batch 32, three local steps."""
    return Load(_LENET, _NODES, 32, samples=78, device=device)


def training(folder: Path, load: Load, repeats: int) -> Iterator[Result]:
    """One stacked pass of all nodes and what else is in an iteration, against bare kernels."""
    found = medians(
        repeats,
        {
            "arithmetic": lambda: loops.seconds("mapped", load, 1, 1, _ITERATIONS),
            "merge": lambda: loops.seconds("merge", load, 1, 1, _ITERATIONS),
            "steps": lambda: engine.training_seconds(folder, load, 1, _ITERATIONS),
            "all": lambda: engine.seconds(folder, load, 1, _ITERATIONS),
        },
    )
    ms = {name: 1e3 * value for name, value in found.items()}
    rest = ms["all"] - ms["steps"]
    name = f"device, {load.nodes} LeNet nodes, batch {load.batch}"
    yield Result(
        f"{name}: local steps / their arithmetic", ms["steps"] / ms["arithmetic"], None,
        f"{ms['steps']:.1f} ms, bare {ms['arithmetic']:.1f} ms",
    )  # fmt: skip
    yield Result(
        f"{name}: sharing / bare merge", rest / ms["merge"], None,
        f"{rest:.1f} ms of an iteration outside local steps, bare {ms['merge']:.1f} ms",
    )  # fmt: skip


def evaluation(folder: Path, load: Load, repeats: int) -> Iterator[Result]:
    """Evaluation of all nodes against bare forward passes."""
    few = replace(load, nodes=16, samples=1000)
    found = medians(
        repeats,
        {
            "bare": lambda: loops.seconds("forward", few, 1, 1, 2),
            "engine": lambda: engine.evaluation_seconds(folder, few, 1),
        },
    )
    detail = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in found.items())
    name = "device, evaluation of 16 LeNet nodes: engine / bare"
    yield Result(name, found["engine"] / found["bare"], None, detail)


def _places(ini: Path, cache: Path, load: Load, out: Any) -> None:
    """Put where the nodes' rows are, and the most rows that were on the device, a node."""
    import torch

    from decentralizepy.here import run_here

    found = run_here(
        ini, load.nodes, 3, device=load.device, test_after=0, train_evaluate_after=0,
        cache_dir=cache,
    )  # fmt: skip
    devices = {node.x.device.type for node in found.nodes.values()}
    most = torch.cuda.max_memory_allocated() if load.device != "cpu" else 0
    out.put((sorted(devices), most / (4 * len(found.rows[0]) * load.nodes)))


def rows(folder: Path, load: Load) -> Iterator[Result]:
    """Whether rows lie on the device, and how much memory they take there."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    ini = engine.write_ini(folder, load, {})
    child = context.Process(target=_places, args=(ini, folder / "cache", load, out))
    child.start()
    devices, most = out.get(timeout=600)
    child.join()
    name = f"device, memory of {load.nodes} LeNet nodes: rows a node"
    detail = f"rows on {', '.join(devices)}; batches and gradients are counted too"
    yield Result(name, most, None, detail)


def results(folder: Path, device: str, repeats: int) -> Iterator[Result]:
    """All rows of this file, or why there are none."""
    if why := missing(device):
        yield Result.skip("device", why)
        return
    load = load_of(device)
    yield from training(folder, load, repeats)
    yield from rows(folder, load)
    yield from evaluation(folder, load, repeats)
