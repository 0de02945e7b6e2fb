"""How many bytes the messages of a round take, before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from decentralizepy.config import Experiment
from decentralizepy.errors import ConfigError
from decentralizepy.messages.header import row_message_bytes
from decentralizepy.registry import driver
from orchestrator.config import Config
from orchestrator.planning.task import Task

if TYPE_CHECKING:
    from decentralizepy.graphs.graph import Graph

#: Methods that send their whole row once per neighbour and averaging round.
WHOLE_ROW: Final = (
    "decentralizepy.sharing.sharing.Sharing",
    "decentralizepy.sharing.plain_average.PlainAverageSharing",
)


@dataclass(frozen=True)
class Traffic:
    """Bytes of messages, each neighbour counted: model payload and headers apart."""

    messages_per_round: int
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


def is_dynamic(config: Config, config_path: Path) -> bool:
    """Whether the driver draws a new graph in every iteration; `ConfigError` if it is unknown."""
    try:
        return driver(config.EVAL_FILE).schedule == "dynamic"
    except ConfigError as error:
        raise ConfigError(f"{config_path}: EVAL_FILE: {error}") from None


def edges_per_round(config: Config, task: Task, graph: Graph, dynamic: bool) -> int:
    """Directed edges that rows cross in one averaging round; checks the graphs' degree."""
    n = config.NB_AGENTS
    return n * _degree(task.experiment, n, config.EVAL_FILE) if dynamic else len(graph.edges)


def _degree(experiment: Experiment, n: int, eval_file: str) -> int:
    """``graph_degree`` of [NODE], checked for a random regular graph of n nodes."""
    degree, where = experiment.node.graph_degree, f"{experiment.path}: [NODE] graph_degree"
    if degree is None:
        raise ConfigError(
            f"{where} is missing: {eval_file} draws a new regular graph in every iteration"
        )
    if not 0 < degree < n:
        raise ConfigError(f"{where} = {degree}: must be at least 1 and below NB_AGENTS = {n}")
    if n * degree % 2:
        raise ConfigError(
            f"{where} = {degree}: no graph of {n} nodes is {degree}-regular, as {n} x {degree} "
            "is odd; make one of them even"
        )
    return degree


def count_traffic(config: Config, task: Task, edges: int) -> Traffic:
    """Bytes per message and round; exact for methods that send their whole row."""
    whole = task.sharing in WHOLE_ROW
    payload, header = (None, None) if task.row_length is None else row_message_bytes(
        task.row_length, config.NB_AGENTS, config.NB_ITERATION, config.AVERAGING_STEPS
    )  # fmt: skip
    name = task.sharing.rpartition(".")[2]
    remark = "" if whole else f"for whole models; what {name} sends is known when it runs"
    if payload is None:
        remark = f"unknown: the size of {task.model} is known when it runs"
    return Traffic(
        messages_per_round=edges * config.AVERAGING_STEPS,
        rounds=config.NB_ITERATION,
        averaging_steps=config.AVERAGING_STEPS,
        payload_per_message=payload,
        header_per_message=header,
        exact=whole and payload is not None,
        remark=remark,
    )


def _times(value: int | None, factor: int) -> int | None:
    return None if value is None else value * factor
