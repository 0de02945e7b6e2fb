"""How many bytes the messages of a round take, before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from decentralizepy.drivers import Wiring
from decentralizepy.messages.header import row_message_bytes
from decentralizepy.registry import fact
from orchestrator.config import Config
from orchestrator.planning.task import Task

if TYPE_CHECKING:
    from decentralizepy.graphs.graph import Graph


@dataclass(frozen=True)
class Traffic:
    """Bytes of messages, each neighbour counted: model payload and headers apart.

    What only the run knows is None; with ``exact``, the run must come to these numbers.
    """

    messages_per_round: int | None
    rounds: int
    averaging_steps: int
    payload_per_message: int | None
    header_per_message: int | None
    exact: bool
    remark: str

    @property
    def payload_per_round(self) -> int | None:
        return _times(self.payload_per_message, self.messages_per_round)

    @property
    def headers_per_round(self) -> int | None:
        return _times(self.header_per_message, self.messages_per_round)

    @property
    def bytes_per_round(self) -> int | None:
        """Payload and headers of one training iteration, all averaging rounds."""
        if self.payload_per_round is None or self.headers_per_round is None:
            return None
        return self.payload_per_round + self.headers_per_round

    @property
    def total_payload(self) -> int | None:
        return _times(self.payload_per_round, self.rounds)

    @property
    def total_headers(self) -> int | None:
        return _times(self.headers_per_round, self.rounds)

    @property
    def total_bytes(self) -> int | None:
        return _times(self.bytes_per_round, self.rounds)

    def as_dict(self) -> dict[str, Any]:
        names = ("payload_per_round", "headers_per_round", "bytes_per_round", "total_payload",
                 "total_headers", "total_bytes")  # fmt: skip
        return asdict(self) | {name: getattr(self, name) for name in names}


def edges_per_round(wired: Wiring, graph: Graph) -> int | None:
    """Messages of one averaging round, one over each edge; None where only the run knows."""
    if not fact(wired.program.target, "gossips", False, about="program"):
        return None
    if wired.fixed:
        return len(graph.edges)
    degree = wired.out_degree
    return None if degree is None else graph.n * degree


def count_traffic(config: Config, task: Task, edges: int | None) -> Traffic:
    """Bytes per message and round; exact for methods that send their whole row, uncompressed."""
    whole = fact(task.sharing, "sends_whole_row", False, about="outgoing")
    packed = bool(task.experiment.compression)
    payload, header = (None, None) if task.row_length is None else row_message_bytes(
        task.row_length, config.NB_AGENTS, config.NB_ITERATION, config.AVERAGING_STEPS
    )  # fmt: skip
    remark = "for whole models, before compression" if packed else ""
    if not whole:
        name = task.sharing.name
        remark = f"at most, for whole models; what {name} sends is known when it runs"
    if payload is None:
        remark = f"unknown: the size of {task.model.dotted} is known when it runs"
    if edges is None:
        parts = task.wiring.program, task.wiring.schedule
        who = " and ".join(part.target.name for part in parts)
        remark = f"unknown: how many messages {who} give is known when it runs"
    return Traffic(
        messages_per_round=_times(edges, config.AVERAGING_STEPS),
        rounds=config.NB_ITERATION,
        averaging_steps=config.AVERAGING_STEPS,
        payload_per_message=payload,
        header_per_message=header,
        exact=whole and not packed and payload is not None and edges is not None,
        remark=remark,
    )


def _times(value: int | None, factor: int | None) -> int | None:
    return None if value is None or factor is None else value * factor
