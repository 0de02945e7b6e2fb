"""A plan in words: what ``--dry-run`` prints."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from decentralizepy.config import Component
from decentralizepy.runfolder import RunFolder
from decentralizepy.text import bytes_text, plural, seconds_text
from orchestrator.planning.data import Data
from orchestrator.planning.placed import Placed
from orchestrator.planning.plan import Plan
from orchestrator.planning.traffic import Traffic


def headline(plan: Plan) -> str:
    """One line: how much of what, where."""
    config = plan.config
    return (
        f"{config.job_name}: {plural(config.NB_AGENTS, 'node')} on "
        f"{plural(config.NB_MACHINE, 'machine')} ({plan.site.backend}), "
        f"{plural(config.NB_ITERATION, 'iteration')}, about {seconds_text(plan.estimate.seconds)}"
    )


def describe(plan: Placed, folder: RunFolder) -> str:
    """The whole plan, on the machines as far as they are known."""
    return "\n".join(_lines(plan, folder))


def _lines(plan: Placed, folder: RunFolder) -> Iterator[str]:
    yield headline(plan)
    yield from (f"note: {note}" for note in plan.notes)
    yield ""
    yield from _placement(plan)
    yield ""
    yield f"Graph     {_graph(plan)}"
    yield f"Classes   {plan.task.model.dotted}, {plan.task.sharing.dotted}"
    yield f"Nodes     {_named(plan.task.wiring.program)}"
    for one in plan.task.overrides:
        yield f"Set       [{one.section}] {one.key} = {one.text}    ({one.where})"
    if (modules := plan.task.modules).files:
        names = ", ".join(modules.files)
        yield f"Modules   {names}: {bytes_text(modules.bytes)}, beside the INI"
    yield from _data(plan.task.data)
    yield from _bytes(plan.traffic)
    yield from _expected(plan)
    if plan.config.NETWORK_EMULATION is not None:
        first, *more = plan.config.NETWORK_EMULATION.lines()
        yield f"Network   {first}"
        yield from (f"          {line}" for line in more)
    yield f"Results   {folder.root}"
    for machine in plan.machines:
        yield f"\nCommand of machine {machine.machine}"
        yield f"  {shlex.join(plan.command(machine.machine))}"
    for name, text in plan.files.items():
        yield f"\n{name}"
        yield from (f"  {line}".rstrip() for line in text.splitlines())


def _placement(plan: Placed) -> Iterator[str]:
    yield "Placement"
    for machine, place in zip(plan.machines, plan.places, strict=True):
        last = machine.first_uid + machine.nodes - 1
        uids = f"uid {last}" if machine.nodes == 1 else f"uids {machine.first_uid} to {last}"
        yield (
            f"  machine {machine.machine}  {place.address}  "
            f"{plural(machine.nodes, 'node')} ({uids}), {plural(machine.workers, 'worker')}"
        )


def _named(part: Component) -> str:
    options = " ".join(f"{name}={value}" for name, value in part.options.items())
    return f"{part.target.dotted} {options}".rstrip()


def _graph(plan: Plan) -> str:
    graph = plan.graph
    if graph["dynamic"]:
        nodes = plural(graph["nodes"], "node")
        return f"{_named(plan.task.wiring.schedule)} over {nodes}, which changes with time"
    if plan.graph_name is None:
        return f"none of {plural(graph['nodes'], 'node')}, as none is needed"
    low, high = graph["degree_min"], graph["degree_max"]
    degree = f"degree {low}" if low == high else f"degrees {low} to {high}"
    return (
        f"{plan.graph_name}: {plural(graph['nodes'], 'node')}, {graph['edges']:,} directed edges "
        f"({graph['edges_between_machines']:,} between machines), {degree}, "
        f"{'connected' if graph['connected'] else 'not connected'}"
    )


def _data(data: Data | None) -> Iterator[str]:
    if data is None:
        return
    what = f"{', '.join(data.names)} of {data.source}"
    if data.copied:
        yield f"Data      {what}: {plural(data.files, 'file')}, {bytes_text(data.bytes)}"
        yield f"          copied to {data.root} once on each machine's disk"
    else:
        yield f"Data      {what}, used where it lies"


def _bytes(traffic: Traffic) -> Iterator[str]:
    if traffic.messages_per_round is None:
        yield f"Bytes     {traffic.remark}"
        return
    messages = plural(traffic.messages_per_round, "message")
    if traffic.bytes_per_round is None:
        yield f"Bytes     {messages} per iteration, {traffic.remark}"
        return
    about = "" if traffic.exact else f"{traffic.remark}: "
    yield (
        f"Bytes     {about}{traffic.bytes_per_round:,} per iteration = {messages} of "
        f"{traffic.payload_per_message:,} payload + {traffic.header_per_message:,} header"
    )
    total = traffic.total_bytes or 0
    yield f"          {total:,} in all ({bytes_text(total)})"


def _expected(plan: Plan) -> Iterator[str]:
    expected = plan.estimate
    yield (
        f"Expected  about {seconds_text(expected.seconds)}: "
        f"start {seconds_text(expected.startup_s)}, "
        f"training {seconds_text(expected.training_s)}, "
        f"evaluation {seconds_text(expected.evaluation_s)}, "
        f"messages {seconds_text(expected.sharing_s)} (by {expected.basis})"
    )
    yield (
        f"          about {bytes_text(expected.memory_bytes)} of memory, "
        f"{expected.node_hours:g} node-hours on {plural(plan.site.computers, 'computer')}"
    )
