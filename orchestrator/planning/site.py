"""What a back-end offers to an experiment."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

#: How the core is started on a machine, before its verb.
CORE: Final = (sys.executable, "-m", "decentralizepy")


@dataclass(frozen=True)
class Site:
    """What a back-end offers: one address per machine, and the cores behind all of them."""

    backend: str
    addresses: tuple[str, ...]
    cores: int
    workers: int
    computers: int
    offset: int
    core: tuple[str, ...] = CORE
