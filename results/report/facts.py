"""What a report tells in words and numbers: pure functions of run folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import MachineFolder, RunFolder
from decentralizepy.text import bytes_text, plural, seconds_text
from results.load import Run
from results.metrics import headlines, label, unit
from results.summary import shown
from results.tables import final
from results.usage import ENERGY

_SLOWEST: Final = 5


@dataclass(frozen=True)
class Fact:
    """A line of a report: what, how much, and perhaps how much was planned."""

    name: str
    value: str
    planned: str = ""


def machines_of(run: Run) -> list[MachineFolder]:
    """The folders of a run's machines, or the one that it is."""
    return [*RunFolder(run.folder).machines().values()] or [MachineFolder(run.folder)]


def headline(run: Run) -> list[Fact]:
    """How it went, in a few numbers."""
    facts = [Fact("outcome", _outcome(run))]
    for metric in headlines(run.metrics):
        last = final(run, metric)
        if last is not None:
            sign, name = unit(metric), label(metric).removesuffix(" (%)").lower()
            mean, low, high = (shown(last[key], metric) for key in ("mean", "min", "max"))
            facts.append(Fact(f"final {name}", f"{mean}{sign} ({low} to {high}{sign} by node)"))
    left = "" if run.nodes_left == run.nodes else f", {run.nodes_left} at the end"
    facts.append(Fact("nodes", f"{run.nodes} on {plural(run.machines, 'machine')}{left}"))
    facts.append(Fact("iterations", str(run.over_nodes.index[-1])))
    return facts


def _outcome(run: Run) -> str:
    said = {"running": "still running, or killed", "": "unknown"}.get(run.outcome, run.outcome)
    error = run.provenance.get("error")
    return f"{said}: {error}" if error else said


def plan_and_reality(run: Run) -> list[Fact]:
    """Bytes, seconds and node-hours, as planned and as they came."""
    plan = read_object(RunFolder(run.folder).plan)
    real, estimate = _object(plan, "reality"), _object(plan, "estimate")
    traffic, over = _object(plan, "traffic"), run.over_nodes
    facts = []
    if "total_bytes" in over:
        total = float(over["total_bytes", "sum"].iloc[-1])
        facts.append(Fact("bytes sent", bytes_text(total), _bytes(traffic.get("total_bytes"))))
    if "wire_bytes" in over:
        facts.append(
            Fact("between machines", bytes_text(float(over["wire_bytes", "sum"].iloc[-1])))
        )
    if "elapsed_s" in over:
        elapsed = float(over["elapsed_s", "max"].iloc[-1])
        kind = "training, simulated" if run.simulated else "training"
        facts.append(Fact(kind, seconds_text(elapsed), _seconds(estimate.get("training_s"))))
    facts.append(
        Fact("on the machines", _seconds(real.get("seconds")), _seconds(estimate.get("seconds")))
    )
    hours = _number(real.get("seconds"))
    if hours is not None:
        planned = _number(estimate.get("node_hours"))
        said = "" if planned is None else f"{planned:.3g}"
        facts.append(Fact("machine-hours", f"{hours * run.machines / 3600:.3g}", said))
    taken = run.usage
    if "energy_j" in over:
        facts.append(Fact("energy", f"{float(over['energy_j', 'sum'].iloc[-1]) / 3.6e6:.4g} kWh"))
    elif ENERGY in taken:
        facts.append(Fact("energy", f"{float(taken[ENERGY].iloc[-1]) / 3.6e6:.4g} kWh"))
    return [fact for fact in facts if fact.value or fact.planned]


def _object(of: dict[str, Any], key: str) -> dict[str, Any]:
    found = of.get(key)
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _bytes(value: Any) -> str:
    found = _number(value)
    return "" if found is None else bytes_text(found)


def _seconds(value: Any) -> str:
    found = _number(value)
    return "" if found is None else seconds_text(found)


def slowest(run: Run) -> list[dict[str, str]]:
    """The nodes that spent most seconds on training and sharing, by the last records."""
    columns = ["uid", "machine", "iteration", "train_s", "share_s", "wait_s"]
    if not set(columns) <= {*run.records.column_names}:
        return []
    frame = run.records.select(columns).to_pandas().dropna()
    last = frame.sort_values("iteration").groupby("uid").tail(1)
    last = last[last["uid"] >= 0].assign(work=last["train_s"] + last["share_s"])
    usual = float(last["work"].median()) if len(last) else 0.0
    top = last.sort_values("work", ascending=False).head(_SLOWEST)
    return [
        {
            "node": str(int(row.uid)), "machine": str(int(row.machine)),
            "training": seconds_text(row.train_s), "sharing": seconds_text(row.share_s),
            "waiting": seconds_text(row.wait_s),
            "work against the median": f"{row.work / usual:.2f} x" if usual else "",
        }
        for row in top.itertuples()
    ]  # fmt: skip


def events(run: Run) -> list[str]:
    """What went wrong or is worth telling: errors, notes, nodes that left, faults, refusals."""
    found: list[str] = []
    for number, machine in enumerate(machines_of(run)):
        about = read_object(machine.run)
        where = f"machine {number}: "
        if about.get("error"):
            found.append(f"{where}{about['error']}")
        found += [f"{where}{note}" for note in _texts(about.get("notes"))]
        if refused := _object(_object(about, "transport"), "refused"):
            found.append(f"{where}refused from others: {json.dumps(refused)}")
        found += [f"{where}{line}" for line in _faults(machine)]
    found += [f"node {uid} left after iteration {last}" for uid, last in sorted(run.gone.items())]
    return list(dict.fromkeys(found))


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _faults(machine: MachineFolder) -> Iterable[str]:
    try:
        lines = machine.faults.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [f"injected fault: {line}" for line in lines[:20]]


def versions(run: Run) -> list[Fact]:
    """What it ran with and on, by the first machine."""
    about, first = run.provenance, []
    for key in ("version", "revision", "code_sha256", "python", "platform", "cpu", "device"):
        if about.get(key):
            first.append(Fact(key.replace("_", " "), str(about[key])))
    packages = _object(about, "packages")
    first.append(Fact("packages", ", ".join(f"{name} {packages[name]}" for name in packages)))
    image = about.get("container")
    if image:
        first.append(Fact("container", json.dumps(image) if not isinstance(image, str) else image))
    hosts = [str(read_object(machine.run).get("host") or "?") for machine in machines_of(run)]
    return [*first, Fact("hosts", ", ".join(dict.fromkeys(hosts)))]


def attributes(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The settings of each run, one line per attribute."""
    keys = dict.fromkeys(key for run in runs for key in run.attributes)
    return [(key, [str(run.attributes.get(key, "")) for run in runs]) for key in sorted(keys)]


def again(run: Run) -> list[str]:
    """Commands that repeat the run."""
    if RunFolder(run.folder).config.is_file():
        return [f"python g5k_execution.py {RunFolder(run.folder).config}"]
    commands = [read_object(machine.run).get("command") for machine in machines_of(run)]
    return [
        " ".join(map(str, one)) if isinstance(one, list) else str(one) for one in commands if one
    ]
