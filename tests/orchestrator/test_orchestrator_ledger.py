"""The ledger: append-only, and readable after a kill at any byte."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.running.ledger import EVENTS, Ledger, read_ledger


def written(path: Path) -> bytes:
    ledger = Ledger(path, now=lambda: datetime(2024, 5, 1, tzinfo=UTC))
    for event in EVENTS:
        ledger.append(event, note=f"é {event}", count=3)
    return path.read_bytes()


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    data = written(tmp_path / "ledger.jsonl")
    entries = read_ledger(tmp_path / "ledger.jsonl")
    assert tuple(entry["event"] for entry in entries) == EVENTS
    assert entries[0]["time"] == "2024-05-01T00:00:00.000+00:00"
    assert data.count(b"\n") == len(EVENTS)


def test_cut_at_every_byte_it_keeps_all_complete_entries(tmp_path: Path) -> None:
    data = written(tmp_path / "whole.jsonl")
    path = tmp_path / "cut.jsonl"
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        assert len(read_ledger(path)) == data[:size].count(b"\n")


def test_appending_after_a_cut_starts_a_line_of_its_own(tmp_path: Path) -> None:
    data = written(tmp_path / "whole.jsonl")
    path = tmp_path / "cut.jsonl"
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        complete = read_ledger(path)
        Ledger(path).append("failed", reason="power")
        entries = read_ledger(path)
        assert entries[-1]["reason"] == "power"
        assert entries[: len(complete)] == complete
        assert path.read_bytes().startswith(data[:size])


def test_an_unknown_event_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Ledger(tmp_path / "ledger.jsonl").append("perhaps")
    assert read_ledger(tmp_path / "ledger.jsonl") == []
