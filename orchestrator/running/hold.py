"""One experiment at a time in a run folder: a lock that all of a run's guards share.

It lies on the ledger, and is free once nobody holds it: neither the orchestrator nor a guard, which
ends only after everything it has started. So whoever gets it knows that a run which was killed,
however that happened, writes nothing any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from decentralizepy.errors import ConfigError
from decentralizepy.locks import lock_within
from orchestrator.backends.process import GRACE_S

#: The guards of an orchestrator that was killed need up to two graces to end everything.
PATIENCE_S: Final = 2 * GRACE_S + 2


@contextmanager
def held(ledger: Path, patience_s: float = PATIENCE_S) -> Iterator[int]:
    """Hold a run folder; gives the descriptor to share. `ConfigError` if somebody else does."""
    handle = os.open(ledger, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        if not lock_within(handle, patience_s):
            raise ConfigError(
                f"{ledger.parent}: this run is still going on; end it (Ctrl-C) before it is resumed"
            )
        yield handle
    finally:
        os.close(handle)
