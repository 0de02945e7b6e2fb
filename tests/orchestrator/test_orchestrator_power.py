"""Which of the values that Kwollect gives are a computer's power."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.monitoring.power import METRICS, chosen, sampled


def row(metric: str, second: int, value: Any) -> dict[str, Any]:
    return {"timestamp": f"2026-03-04T10:00:{second:02d}+01:00", "metric_id": metric,
            "device_id": "paradoxe-1", "value": value, "labels": {}}  # fmt: skip


def test_the_most_exact_metric_in_order_of_time() -> None:
    rows = [
        row("bmc_node_power_watt", 0, 90),
        row("wattmetre_power_watt", 2, 102.5),
        row("wattmetre_power_watt", 1, 101),
        row("wattmetre_power_watt", 3, None),
    ]
    assert [watts for _, watts in chosen(rows, METRICS)] == [101.0, 102.5]
    assert chosen(rows, ("bmc_node_power_watt",))[0][0] == 1772614800.0
    assert chosen([], METRICS) == []


def test_outlets_of_one_computer_are_added() -> None:
    rows = [row("pdu_outlet_power_watt", 5, watts) for watts in (40, 50)]
    assert chosen(rows, METRICS) == [(1772614805.0, 90.0)]


def test_when_a_machine_was_sampled(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    assert sampled(path) is None
    path.write_text('{"time": 5.5}\nnot json\n{"time": 9}\n{"time": 1')
    assert sampled(path) == (5.5, 9.0)
