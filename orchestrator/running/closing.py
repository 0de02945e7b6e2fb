"""What is printed when a run has ended well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from decentralizepy.text import bytes_text, plural, seconds_text
from orchestrator.running.reality import Accuracy, Reality

if TYPE_CHECKING:
    from orchestrator.running.experiment import Outcome


def closing_lines(outcome: Outcome) -> Iterator[str]:
    """Accuracy, time, bytes and paths."""
    reality, planned = outcome.reality, outcome.plan
    if reality.accuracy is not None:
        yield f"accuracy  {_accuracy(reality.accuracy)}"
    yield f"time      {_time(outcome)}"
    if planned.config.records_nothing:
        yield "records   none: nothing was evaluated, so there is nothing to draw"
    else:
        yield f"bytes     {_bytes(reality)}"
    yield from _column("left", [str(departure) for departure in reality.left])
    yield from _column("notes", reality.notes)
    yield f"run       {outcome.folder.root}"
    yield from _paths("tables", _tables(outcome))
    yield from _folders("figures", outcome.tables.figures)


def _accuracy(accuracy: Accuracy) -> str:
    return (
        f"{accuracy.mean:.3f} mean test accuracy of {plural(accuracy.nodes, 'node')} after "
        f"iteration {accuracy.iteration} ({accuracy.lowest:.3f} to {accuracy.highest:.3f}, "
        f"standard deviation {accuracy.std:.3f})"
    )


def _time(outcome: Outcome) -> str:
    """All seconds, and those on the machines beside the expected ones, which are of a whole run."""
    reality, planned = outcome.reality, outcome.plan
    told = [f"{seconds_text(reality.seconds)} on the machines"]
    if planned.resumed:
        told[0] += " since it was resumed"
    else:
        told.append(f"expected {seconds_text(planned.estimate.seconds)}")
    if planned.config.SIMULATE is not None:
        told.append(f"simulated {seconds_text(reality.training_elapsed_s)}")
    return f"{seconds_text(outcome.total_s)} with checks and figures; {', '.join(told)}"


def _bytes(reality: Reality) -> str:
    told = {True: ", as planned", False: ", not as planned (see plan.json)", None: ""}
    if reality.left:
        told[None] = f", with {plural(reality.nodes_left, 'node')} fewer than planned at the end"
    return (
        f"{reality.total:,} ({bytes_text(reality.payload)} payload, "
        f"{bytes_text(reality.headers)} headers{told[reality.bytes_as_planned]}), "
        f"{bytes_text(reality.wire)} between machines"
    )


def _tables(outcome: Outcome) -> list[Path]:
    """The tables, those that lie beside a figure (its data) left out."""
    beside = {figure.parent for figure in outcome.tables.figures if figure.suffix == ".pdf"}
    beside.discard(outcome.folder.root)
    return [table for table in outcome.tables.tables if table.parent not in beside]


def _folders(name: str, paths: Sequence[Path]) -> Iterator[str]:
    counts = Counter(path.parent for path in paths)
    told = [Path(f"{folder} ({plural(count, 'file')})") for folder, count in counts.items()]
    yield from _paths(name, told)


def _paths(name: str, paths: Sequence[Path]) -> Iterator[str]:
    return _column(name, [str(path) for path in paths])


def _column(name: str, texts: Sequence[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        yield f"{name if number == 0 else '':<9} {text}"
