"""What a run really took, from the machines' records, to stand beside its plan."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import RunFolder, final_records
from orchestrator.planning.costs import Cost
from orchestrator.planning.plan import Plan
from orchestrator.status import merged_notes

Row = dict[str, Any]


@dataclass(frozen=True)
class Accuracy:
    """Test accuracy over the nodes, as fractions."""

    iteration: int
    nodes: int
    mean: float
    std: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Departure:
    """Nodes that left before an iteration (1-based), and why."""

    before: int
    uids: tuple[int, ...]
    why: str

    def __str__(self) -> str:
        return f"before iteration {self.before}: {self.why}"


@dataclass(frozen=True)
class Story:
    """What the machines tell of a run beside numbers: who left, and what happened."""

    left: tuple[Departure, ...] = ()
    notes: tuple[str, ...] = ()


NOTHING_SPECIAL: Final = Story()


@dataclass(frozen=True)
class Reality:
    """Measured seconds and bytes, and the final accuracy (None where nothing was tested).

    Seconds and bytes are what was spent; ``bytes_as_planned`` is None where the plan does not tell,
    or tells of nodes that left, and where nothing was recorded.
    """

    seconds: float
    training_elapsed_s: float
    payload: int
    headers: int
    wire: int
    bytes_as_planned: bool | None
    accuracy: Accuracy | None
    left: tuple[Departure, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def nodes_left(self) -> int:
        return sum(len(departure.uids) for departure in self.left)

    @property
    def total(self) -> int:
        return self.payload + self.headers

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"total": self.total}


def read_rows(folder: RunFolder) -> list[Row]:
    """The last records of all nodes, which is what `measure` needs of them."""
    machines = folder.machines().values()
    return [row for machine in machines for row in final_records(machine)]


def read_story(folder: RunFolder) -> Story:
    """What the ``run.json`` of all machines tell; machine 0, which is never lost, goes first."""
    told = [read_object(machine.run) for machine in folder.machines().values()]
    left = next((_departures(run["membership"]) for run in told if run.get("membership")), ())
    notes = merged_notes([[str(note) for note in run.get("notes") or []] for run in told])
    leaving = {f"{d.why}: left before iteration {d.before}" for d in left}
    return Story(left, tuple(note for note in notes if note not in leaving))


def _departures(membership: Sequence[dict[str, Any]]) -> tuple[Departure, ...]:
    return tuple(
        Departure(int(epoch["before"]) + 1, tuple(epoch["left"]), str(epoch["why"]))
        for epoch in membership
    )


def measure(
    plan: Plan, rows: Sequence[Row], seconds: float, story: Story = NOTHING_SPECIAL
) -> Reality:
    """Sum up the records; byte counts in them are cumulative, so each node's last one counts."""
    last = _last(rows)
    payload = int(_total(last, "total_data"))
    headers = int(_total(last, "total_meta"))
    told = plan.traffic.exact and not story.left and not plan.config.records_nothing
    planned = plan.traffic.total_bytes if told else None
    return Reality(
        seconds=round(seconds, 3),
        training_elapsed_s=max((_number(row, "elapsed_s") for row in last), default=0.0),
        payload=payload,
        headers=headers,
        wire=int(_total(last, "wire_bytes")),
        bytes_as_planned=None if planned is None else payload + headers == planned,
        accuracy=_accuracy(rows),
        left=story.left,
        notes=story.notes,
    )


def measured_cost(plan: Plan, rows: Sequence[Row], reality: Reality) -> Cost | None:
    """What the run says about seconds per sample; None when it says nothing.

    Nor does one say it that was resumed or went back, that lost nodes, or whose time is simulated.
    """
    disturbed = reality.left or plan.resumed or any(row.get("attempt") for row in rows)
    if disturbed or plan.config.SIMULATE is not None:
        return None
    config, n = plan.config, plan.config.NB_AGENTS
    trained = n * config.NB_ITERATION * plan.load.samples_per_iteration
    evaluated = plan.load.evaluated_samples
    last = _last(rows)
    seconds = _total(last, "train_s"), _total(last, "evaluate_s")
    if not trained or not evaluated or min(seconds) <= 0:
        return None
    startup = max(reality.seconds - reality.training_elapsed_s, 0.0)
    return Cost(seconds[0] / trained, seconds[1] / evaluated, startup, measured=True)


def _last(rows: Sequence[Row]) -> list[Row]:
    """Every node's record of its last iteration."""
    last: dict[int, Row] = {}
    for row in rows:
        if row["uid"] not in last or row["iteration"] >= last[row["uid"]]["iteration"]:
            last[row["uid"]] = row
    return list(last.values())


def _total(rows: Sequence[Row], column: str) -> float:
    return sum(_number(row, column) for row in rows)


def _number(row: Row, column: str) -> float:
    value = row.get(column)
    return value if isinstance(value, int | float) else 0.0


def _accuracy(rows: Sequence[Row]) -> Accuracy | None:
    tested = [row for row in rows if isinstance(row.get("test_acc"), int | float)]
    if not tested:
        return None
    iteration = max(row["iteration"] for row in tested)
    values = [row["test_acc"] / 100 for row in tested if row["iteration"] == iteration]
    return Accuracy(
        iteration=iteration,
        nodes=len(values),
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else 0.0,
        lowest=min(values),
        highest=max(values),
    )
