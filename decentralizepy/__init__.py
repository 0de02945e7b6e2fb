"""Decentralized learning: graphs, gossip, sharing and the engine that runs them.

The names below are loaded as they are first used: importing the package loads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from decentralizepy.compression.base import (
        CompressionError,
        IndexCoder,
        Selector,
        Sparse,
        ValueCoder,
    )
    from decentralizepy.compression.chain import Chain
    from decentralizepy.datasets.base import Dataset, Normalization
    from decentralizepy.graphs.graph import Graph
    from decentralizepy.graphs.mixing import MixingRow
    from decentralizepy.graphs.schedules import Schedule
    from decentralizepy.here import Outcome, run_here
    from decentralizepy.messages.message import Message, Missing
    from decentralizepy.node.effects import (
        ANY,
        Ask,
        Average,
        Checkpoint,
        Drain,
        Forget,
        Gradient,
        Now,
        Receive,
        Report,
        Send,
        Sleep,
        Train,
    )
    from decentralizepy.node.mail import Mail
    from decentralizepy.node.node import Node, Program
    from decentralizepy.sharing.context import Context
    from decentralizepy.sharing.plain_average import PlainAverageSharing
    from decentralizepy.sharing.sharing import Sharing
    from decentralizepy.training.step import LocalStep
    from decentralizepy.training.task import Classification, Task
    from decentralizepy.training.training import Training

_MODULES = {
    "compression.base": ("CompressionError", "IndexCoder", "Selector", "Sparse", "ValueCoder"),
    "compression.chain": ("Chain",),
    "datasets.base": ("Dataset", "Normalization"),
    "graphs.graph": ("Graph",),
    "graphs.mixing": ("MixingRow",),
    "graphs.schedules": ("Schedule",),
    "here": ("Outcome", "run_here"),
    "messages.message": ("Message", "Missing"),
    "node.effects": (
        "ANY", "Ask", "Average", "Checkpoint", "Drain", "Forget", "Gradient", "Now", "Receive",
        "Report", "Send", "Sleep", "Train",
    ),
    "node.mail": ("Mail",),
    "node.node": ("Node", "Program"),
    "sharing.context": ("Context",),
    "sharing.plain_average": ("PlainAverageSharing",),
    "sharing.sharing": ("Sharing",),
    "training.step": ("LocalStep",),
    "training.task": ("Classification", "Task"),
    "training.training": ("Training",),
}  # fmt: skip
_NAMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ANY", "Ask", "Average", "Chain", "Checkpoint", "Classification", "CompressionError", "Context",
    "Dataset", "Drain", "Forget", "Gradient", "Graph", "IndexCoder", "LocalStep", "Mail",
    "Message", "Missing", "MixingRow", "Node", "Normalization", "Now", "Outcome",
    "PlainAverageSharing", "Program", "Receive", "Report", "Schedule", "Selector", "Send",
    "Sharing", "Sleep", "Sparse", "Task", "Train", "Training", "ValueCoder", "run_here",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    module = _NAMES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
