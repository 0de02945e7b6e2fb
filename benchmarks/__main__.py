"""``python -m benchmarks``: prints each ratio with its bound and writes them as JSON.

Repeats of the engine and of the loops are interleaved and the median is taken, so that a machine
that drifts drifts for all; run it on an idle one. ``--only lenet`` runs the cases named so.
``--device cuda`` measures what a GPU does instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    attacks,
    compression,
    deferred,
    device,
    engine,
    loops,
    messages,
    noise,
    scale,
    sharing,
    small,
    stars,
    tables,
    transport,
)
from benchmarks.load import Load
from benchmarks.result import Result, medians

CIFAR = "decentralizepy.models.cifar10."
DIGITS = "decentralizepy.models.digits."


@dataclass(frozen=True)
class Steps:
    """A case of local steps: engine against the loops."""

    name: str
    load: Load
    iterations: int
    floor: float
    workers: int = 2
    best: float | None = 1.05
    more: int = 1  # times as many repeats: where an iteration is short, a machine's jitter shows


STEPS = (
    Steps("LeNet, 16 nodes, batch 8", Load(CIFAR + "LeNet", 16, 8), 30, 0.80),
    Steps("LeNet, 16 nodes, batch 32", Load(CIFAR + "LeNet", 16, 32, samples=600), 9, 0.80),
    Steps("LeNet, 64 nodes, batch 8", Load(CIFAR + "LeNet", 64, 8, samples=150), 8, 0.80),
    Steps("CNN, 16 nodes, batch 8", Load(CIFAR + "CNN", 16, 8, samples=600), 100, 0.92, more=3),
    Steps("CNN, 64 nodes, batch 8", Load(CIFAR + "CNN", 64, 8, samples=150), 25, 0.92),
    Steps("MLP, 16 nodes, batch 8, one worker",
          Load(DIGITS + "MLP", 16, 8, shape=(8, 8, 1), samples=80), 400, 0.50, 1, None),
)  # fmt: skip


def local_steps(folder: Path, case: Steps, repeats: int) -> Iterator[Result]:
    """Engine / best loop and engine / plain floor of one case."""
    load, count = case.load, case.iterations
    found = medians(
        repeats * case.more,
        {
            "plain 2x1": lambda: loops.seconds("plain", load, 2, 1, count),
            "plain 1x2": lambda: loops.seconds("plain", load, 1, 2, count),
            "best": lambda: loops.seconds("best", load, 2, 1, count),
            "engine": lambda: engine.seconds(folder, load, case.workers, count),
        },
    )
    detail = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in found.items())
    floor = min(found["plain 2x1"], found["plain 1x2"])
    if case.best is not None:
        yield Result(
            f"{case.name}: engine / best", found["engine"] / found["best"], case.best, detail
        )
    yield Result(f"{case.name}: engine / floor", found["engine"] / floor, case.floor, detail)


def evaluation(folder: Path, repeats: int) -> Iterator[Result]:
    """Evaluation against bare forward passes, both on two cores."""
    for model in ("LeNet", "CNN"):
        load = Load(CIFAR + model, 16, 8, samples=1000)
        found = medians(
            repeats,
            {
                "bare": lambda load=load: loops.seconds("forward", load, 2, 1, 2),
                "engine": lambda load=load: engine.evaluation_seconds(folder, load, 2),
            },
        )
        detail = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in found.items())
        name = f"evaluation, {model}, 16 nodes: engine / bare"
        yield Result(name, found["engine"] / found["bare"], 1.10, detail)


def start(folder: Path, repeats: int) -> Iterator[Result]:
    """Seconds to the first step and memory, 16 LeNet nodes on two workers."""
    load = Load(CIFAR + "LeNet", 16, 8)
    pairs = [engine.start_and_memory(folder, load, 2) for _ in range(repeats)]
    seconds, megabytes = (statistics.median(values) for values in zip(*pairs, strict=True))
    yield Result("start, 16 LeNet nodes: seconds", seconds, 2.5, "until training begins")
    yield Result("memory, 16 LeNet nodes: GB", megabytes / 1000, 0.6, "peak, all processes")


def between_machines(folder: Path, repeats: int) -> Iterator[Result]:
    """Rows over TCP against a bare socket (`benchmarks.transport`); training over two machines."""
    bounds = {"45 MB": {"plain": 1 / 0.80, "sealed": 1 / 0.45}, "360 kB": {"plain": 2.0}}
    for name, size, rows in transport.CASES:
        found = transport.measure(size, rows, 7 * repeats)
        detail = ", ".join(f"{way} {1e6 * value:.0f} us" for way, value in found.items())
        for way, bound in bounds[name].items():
            title = f"transport, {name} rows, {way}: time / raw socket"
            yield Result(title, found[way] / found["raw"], bound, detail)
    load = Load(CIFAR + "LeNet", 16, 8)
    found = medians(
        repeats,
        {
            "best": lambda: loops.seconds("best", load, 2, 1, 30),
            "two machines": lambda: engine.two_machines(folder, load, 30),
        },
    )
    detail = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in found.items())
    name = "transport, LeNet, 16 nodes, two encrypted machines: engine / best"
    yield Result(name, found["two machines"] / found["best"], 1.10, detail)


def results(folder: Path, only: str, repeats: int) -> Iterator[Result]:
    """All results whose case has ``only`` in its name."""
    for case in STEPS:
        if only in case.name.lower():
            yield from local_steps(folder, case, repeats)
    for name, measure in (
        ("evaluation", evaluation),
        ("start memory", start),
        ("scale", scale.results),
        ("transport", between_machines),
        ("tables", tables.results),
        ("attacks threshold", attacks.results),
        ("small", small.results),
        ("messages", messages.results),
        ("server receive", stars.results),
        ("deferred", deferred.results),
        ("compression", compression.results),
        ("noise", noise.results),
        ("sharing", sharing.results),
    ):
        if only in name:
            yield from measure(folder, repeats)


def main() -> int:
    """Print the results as they come; 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="run the cases with this in their name")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each measure")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out/results.json")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the cases of a GPU")
    args = parser.parse_args()
    found = []
    with engine.workshop() as folder:
        cases = (
            results(folder, args.only.lower(), args.repeats)
            if args.device == "cpu"
            else device.results(folder, args.device, args.repeats)
        )
        for result in cases:
            found.append(result)
            print(result.line(), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps([result.as_json() for result in found], indent=2) + "\n")
    bounds = [result for result in found if result.bound is not None]
    print(f"{sum(result.met for result in bounds)} of {len(bounds)} bounds met; {args.out}")
    return int(any(not r.met for r in found))


if __name__ == "__main__":
    raise SystemExit(main())
