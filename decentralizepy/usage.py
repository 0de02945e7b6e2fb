"""What a machine takes: CPU and memory of its processes, and its network, from ``/proc``.

A supervisor appends a line to ``usage.jsonl`` every few seconds; tables join them to iterations.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

#: Columns of a line of ``usage.jsonl``.
USAGE_COLUMNS: Final[dict[str, str]] = {
    "time": "seconds since the epoch",
    "elapsed_s": "seconds since the run's first training step, as in the records; null before it",
    "cpu_s": "CPU seconds of the machine's processes since its command began",
    "memory_bytes": "memory of these processes; what several share counts once",
    "sent_bytes": "bytes sent by the computer since then, loopback left out",
    "received_bytes": "bytes received by it",
}
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


def measure(proc: Path = Path("/proc"), root: int | None = None) -> dict[str, float]:
    """Of a process (default: this one) and all that it has started; the network is the computer's.

    CPU seconds count children that have ended and were waited for.
    """
    stats = dict(_stats(proc))
    ours = _family(stats, os.getpid() if root is None else root)
    sent, received = _network(proc / "net" / "dev")
    return {
        "cpu_s": round(sum(stats[pid][1] for pid in ours), 3),
        "memory_bytes": sum(_memory(proc / str(pid)) for pid in ours),
        "sent_bytes": sent,
        "received_bytes": received,
    }


def _stats(proc: Path) -> Iterator[tuple[int, tuple[int, float]]]:
    """Each process with its parent and its CPU seconds."""
    for entry in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks = sum(map(int, fields[11:15]))  # user, system, and of children that have ended
            yield int(entry.name), (int(fields[1]), ticks * _TICK_S)


def _family(stats: dict[int, tuple[int, float]], root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in stats.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    left = [root] if root in stats else []
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += children.get(pid, [])
    return found


def _memory(process: Path) -> int:
    """Proportional set size, or what is resident where that is not told."""
    for name, key in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        with contextlib.suppress(OSError, ValueError):
            for line in (process / name).read_text().splitlines():
                if line.startswith(key):
                    return 1024 * int(line.split()[1])
    return 0


def _network(path: Path) -> tuple[int, int]:
    """Bytes sent and received by all interfaces but loopback."""
    sent = received = 0
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines()[2:]:
            name, _, numbers = line.partition(":")
            if name.strip() != "lo" and len(fields := numbers.split()) >= 9:
                received, sent = received + int(fields[0]), sent + int(fields[8])
    return sent, received


@contextlib.contextmanager
def sampling(path: Path, every_s: float, elapsed: Callable[[], float | None]) -> Iterator[None]:
    """Append a line to ``path`` every so many seconds (0: never), at the start and at the end.

    ``elapsed`` gives the seconds of training so far. A line that cannot be written is left out.
    """
    if not every_s:
        yield
        return
    over, first = threading.Event(), measure()

    def sample(now: dict[str, float]) -> None:
        with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(_line(first, now, elapsed())) + "\n")

    def now_and_then() -> None:
        while not over.wait(every_s):
            sample(measure())

    sample(first)
    thread = threading.Thread(target=now_and_then, name="usage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sample(measure())


def _line(
    first: dict[str, float], now: dict[str, float], elapsed_s: float | None
) -> dict[str, Any]:
    since = {key: now[key] - first[key] for key in ("sent_bytes", "received_bytes")}
    told = None if elapsed_s is None else round(elapsed_s, 3)
    return {"time": round(time.time(), 3), "elapsed_s": told, **now, **since}
