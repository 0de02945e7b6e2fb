"""What a machine takes, from a /proc of our own and from the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from decentralizepy.usage import USAGE_COLUMNS, measure, sampling

TICKS = os.sysconf("SC_CLK_TCK")
NET = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo: 999 1 0 0 0 0 0 0 999 1 0 0
  eth0: 100 1 0 0 0 0 0 0 30 1 0 0
  eth1:7 1 0 0 0 0 0 0 5 1 0 0
"""


def process(proc: Path, pid: int, parent: int, ticks: tuple[int, int, int, int], kb: int) -> None:
    (proc / str(pid)).mkdir(parents=True)
    rest = ["S", parent, 1, 1, 0, -1, 0, 0, 0, 0, 0, *ticks, 20, 0]
    (proc / str(pid) / "stat").write_text(f"{pid} (a (b) c) {' '.join(map(str, rest))}\n")
    (proc / str(pid) / "smaps_rollup").write_text(f"0-1 ---p\nRss: 9999 kB\nPss: {kb} kB\n")


def test_a_family_of_processes(tmp_path: Path) -> None:
    """Of descendants only; children that have ended count in their parent."""
    process(tmp_path, 10, 1, (100, 50, 20, 10), 400)
    process(tmp_path, 11, 10, (30, 0, 0, 0), 30)
    process(tmp_path, 12, 11, (5, 5, 0, 0), 3)
    process(tmp_path, 13, 1, (7000, 0, 0, 0), 7000)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "dev").write_text(NET)
    found = measure(tmp_path, root=10)
    assert found["cpu_s"] == pytest.approx(220 / TICKS, abs=1e-3)
    assert found["memory_bytes"] == 433 * 1024
    assert (found["sent_bytes"], found["received_bytes"]) == (35, 107)


def test_where_there_is_no_proc_nothing_is_known(tmp_path: Path) -> None:
    assert set(measure(tmp_path / "none").values()) == {0}


def test_a_child_that_works_is_seen_here() -> None:
    """The real /proc: a child's CPU seconds, also once it has ended."""
    before = measure()
    code = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = measure()
    assert after["cpu_s"] - before["cpu_s"] > 0.25
    assert after["memory_bytes"] > 1 << 20


def test_samples_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    with sampling(path, 0.05, lambda: 1.5):
        until = time.monotonic() + 20
        while len(path.read_text().splitlines()) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) >= 4 and all(list(row) == list(USAGE_COLUMNS) for row in rows)
    assert rows[0]["elapsed_s"] == 1.5 and rows[0]["sent_bytes"] == 0
    with sampling(tmp_path / "never.jsonl", 0.0, lambda: None):
        assert not (tmp_path / "never.jsonl").exists()
