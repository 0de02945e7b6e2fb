"""Decentralized learning: graphs, gossip, sharing and the engine that runs them.

What programs of one's own are made of can be had from here by name; importing the package loads
none of it (torch neither), a name loads its module when it is first asked for::

    from decentralizepy import ANY, Node, Receive, Send, Sharing, Train
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decentralizepy.datasets.base import Dataset, Normalization
    from decentralizepy.graphs.graph import Graph
    from decentralizepy.graphs.schedules import Schedule
    from decentralizepy.messages.message import Message, Missing
    from decentralizepy.node.effects import (
        ANY,
        Ask,
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

__version__ = "0.1.0"

#: module -> what can be had of it here
_PUBLIC = {
    "datasets.base": ("Dataset", "Normalization"),
    "graphs.graph": ("Graph",),
    "graphs.schedules": ("Schedule",),
    "messages.message": ("Message", "Missing"),
    "node.effects": (
        "ANY", "Ask", "Checkpoint", "Drain", "Forget", "Gradient", "Now", "Receive", "Report",
        "Send", "Sleep", "Train",
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
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "ANY",
    "Ask",
    "Checkpoint",
    "Classification",
    "Context",
    "Dataset",
    "Drain",
    "Forget",
    "Gradient",
    "Graph",
    "LocalStep",
    "Mail",
    "Message",
    "Missing",
    "Node",
    "Normalization",
    "Now",
    "PlainAverageSharing",
    "Program",
    "Receive",
    "Report",
    "Schedule",
    "Send",
    "Sharing",
    "Sleep",
    "Task",
    "Train",
    "Training",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found  # the next time it is simply there
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
