"""The append-only record of what happened to a run: JSON lines, one ``write`` each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from decentralizepy.files import ends_within_a_line, write_all
from decentralizepy.jsonfile import parse_object

EVENTS: Final = (
    "planned",
    "resumed",
    "reserving",
    "reserved",
    "submitted",
    "emulating",
    "unemulated",
    "started",
    "lost",
    "restarted",
    "finished",
    "collected",
    "released",
    "failed",
    "detached",
    "cell",
)


@dataclass(frozen=True)
class Ledger:
    """Writes one run's events; ``now`` is the clock, for tests."""

    path: Path
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def append(self, event: str, **details: Any) -> None:
        """Append an event; a line that a kill left half written stays alone on its line."""
        assert event in EVENTS, f"not an event of the ledger: {event}"
        entry = {"time": self.now().isoformat(timespec="milliseconds"), "event": event, **details}
        line = json.dumps(entry, separators=(",", ":"), default=str) + "\n"
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            separator = "\n" if ends_within_a_line(handle) else ""
            write_all(handle, (separator + line).encode())
            os.fsync(handle)
        finally:
            os.close(handle)


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """All complete entries, in the order written; a line that was cut is left out.

    Events of later versions are kept.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    entries = map(parse_object, data.split(b"\n")[:-1])
    return [entry for entry in entries if isinstance(entry.get("event"), str)]
