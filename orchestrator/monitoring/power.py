"""Power that Grid'5000 measured (Kwollect), into each machine's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from decentralizepy.files import write_atomic
from decentralizepy.jsonfile import parse_object
from decentralizepy.runfolder import RunFolder
from decentralizepy.text import plural
from orchestrator.errors import ReservationError
from orchestrator.planning.placed import Placed
from orchestrator.text import Screen

#: Metrics of power, the most exact one first.
METRICS: Final = ("wattmetre_power_watt", "bmc_node_power_watt", "pdu_outlet_power_watt")


def fetch_power(plan: Placed, folder: RunFolder, screen: Screen) -> None:
    """Where USAGE_AFTER asks for it; that it cannot be had is told, and loses nothing else."""
    if plan.site.backend != "grid5000" or not plan.config.USAGE_AFTER:
        return
    try:
        counts = [_fetched(plan, machine, folder) for machine in range(len(plan.places))]
    except (ReservationError, OSError) as error:
        screen.say(f"  note: no power: {error}")
        return
    if not all(counts):
        screen.say(f"  note: no power was measured on {plural(counts.count(0), 'machine')}")


def _fetched(plan: Placed, machine: int, folder: RunFolder) -> int:
    """How many values there were of a machine's computer while it was sampled."""
    home, name = folder.machine(machine), plan.places[machine].host.rpartition("@")[2]
    when = sampled(home.usage)
    if when is None:
        return 0
    first = (plan.config.MONITOR,) if plan.config.MONITOR else ()
    values = _asked(name, (*first, *METRICS), *when)
    lines = [json.dumps({"time": round(time, 3), "watts": watts}) for time, watts in values]
    write_atomic(home.power, "".join(f"{line}\n" for line in lines))
    return len(lines)


def sampled(usage: Path) -> tuple[float, float] | None:
    """When the first and the last sample of a machine were taken; None without any."""
    try:
        rows = [parse_object(line) for line in usage.read_bytes().split(b"\n")]
    except OSError:
        return None
    times = [float(row["time"]) for row in rows if isinstance(row.get("time"), int | float)]
    return (min(times), max(times)) if times else None


def _asked(
    node: str, metrics: Sequence[str], begin: float, end: float
) -> list[tuple[float, float]]:
    """What the site knows of a node (by full name) between two times, a second more on each side;
    raises `ReservationError` where it does not answer."""
    from orchestrator.backends.grid5000 import api, asked

    uid, site = node.split(".")[:2]
    client = api()
    rows = asked(
        lambda: client.sites[site].metrics.list(
            nodes=uid, metrics=",".join(metrics), start_time=int(begin) - 1, end_time=int(end) + 2
        )
    )
    return chosen(
        [row.to_dict() if hasattr(row, "to_dict") else vars(row) for row in rows], metrics
    )


def chosen(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[tuple[float, float]]:
    """(time, watts) in order, of the first metric that has any values.

    Of several with the same time (outlets of one computer) it is the sum.
    """
    for metric in metrics:
        found: dict[float, float] = {}
        for row in rows:
            if row.get("metric_id") == metric and isinstance(row.get("value"), int | float):
                time = datetime.fromisoformat(str(row["timestamp"])).timestamp()
                found[time] = found.get(time, 0.0) + float(row["value"])
        if found:
            return sorted(found.items())
    return []
