"""Small experiments for every node program, and ways to run them in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from launching import Experiment

from decentralizepy import run_here
from decentralizepy.graphs.generators import regular
from decentralizepy.graphs.graph import Graph
from decentralizepy.here import Outcome

NODES = 8
PLAIN = {
    "sharing_package": "decentralizepy.sharing.PlainAverageSharing",
    "sharing": "PlainAverageSharing",
}
EPIDEMIC = (
    "[GRAPH]\ngraph_package = decentralizepy.graphs.schedules\ngraph_class = EpidemicSchedule\n"
    "degree = 2"
)


def named(module: str, name: str, *options: str) -> str:
    """The keys of [NODE]."""
    return "\n".join(
        [f"node_package = decentralizepy.node.{module}", f"node_class = {name}", *options]
    )


SYNCHRONOUS: dict[str, dict[str, str]] = {
    "fedavg": {"node": named("fedavg", "FedAvg", "working_rate = 0.4", "weighted = True")},
    "stc": {
        "node": named("stc", "STCFederated", "working_rate = 0.4"),
        "sharing_package": "decentralizepy.sharing.STC", "sharing": "STC\nalpha = 0.02",
    },
    "dropout": {"node": named("dropout", "Dropout", "dropout_rate = 0.3")},
    "epidemic": {
        "node": named("epidemic", "EpidemicLearning"), "schedule": EPIDEMIC,
        **PLAIN,
    },
    "knn": {"node": named("knn", "KNN", "neighbours = 2")},
    "kfn": {"node": named("kfn", "KFN", "neighbours = 2")},
    "peer_sampler": {"node": named("peer_sampler", "CentralPeerSampler")},
}  # fmt: skip
ASYNCHRONOUS: dict[str, dict[str, str]] = {
    "async_push": {"node": named("async_push", "AsyncPush", "staleness = 2")},
    "async_pull": {"node": named("async_pull", "AsyncPull", "staleness = 2")},
    "push_sum": {"node": named("push_sum", "PushSum", "staleness = 2")},
    "epidemic_timeout": {
        "node": named("epidemic", "EpidemicLearning", "timeout = 0.3"), "schedule": EPIDEMIC,
        **PLAIN,
    },
    "fedavg_patience": {"node": named("fedavg", "FedAvg", "patience = 0.3")},
}  # fmt: skip


def experiment(
    folder: Path, cache: Path, name: str, graph: Graph | None = None, **options: str
) -> Experiment:
    """A program's experiment, on a 4-regular graph of eight nodes unless another is given."""
    found = (SYNCHRONOUS | ASYNCHRONOUS).get(name, {})
    return Experiment(folder / name, graph or regular(NODES, 4, 1), cache, **found | options)


def here(one: Experiment, name: str, iterations: int, **options: Any) -> Outcome:
    """Run it in this process; its folder is ``name``."""
    return run_here(
        one.folder / "config.ini", one.graph, iterations,
        cache_dir=one.cache, log_dir=one.folder / name / "machine0",
        **{"reset_optimizer": 0, "train_evaluate_after": 0} | options,
    )  # fmt: skip


def simulation(
    one: Experiment, seconds: float | list[float], latency: float = 0.0, **more: Any
) -> Path:
    """The file of a simulation: what an iteration takes, and each message; more of ``links``."""
    path = one.folder / "links.json"
    links = {"latency_s": latency, **more}
    value = {"links": links, "compute": {"seconds_per_iteration": seconds}}
    if more.get("queue") == "machine":
        value["machines"] = [NODES // 2, NODES // 2]
    path.write_text(json.dumps(value))
    return path


def equal(one: Outcome, other: Outcome) -> bool:
    """Whether all rows are the same bits."""
    return one.rows.keys() == other.rows.keys() and all(
        torch.equal(row, other.rows[uid]) for uid, row in one.rows.items()
    )


def stacked(rows: dict[int, torch.Tensor]) -> torch.Tensor:
    """The nodes' rows [n, P] in float64, without servers."""
    return torch.stack([rows[uid] for uid in sorted(rows) if uid >= 0]).double()
