"""What a back-end offers to an experiment, before any machine is known."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

#: How the core is started on this computer, before its verb.
CORE: Final = (sys.executable, "-m", "decentralizepy")


@dataclass(frozen=True)
class Site:
    """What a place offers: CPUs behind all machines, and worker processes on each.

    Where the machines are not known yet, both are ``assumed``, and counted once they are.
    """

    backend: str
    cores: int
    workers: int
    computers: int
    core: tuple[str, ...] = CORE
    assumed: bool = False
