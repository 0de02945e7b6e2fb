"""Numbers and progress in words, the same wherever they are shown."""

from __future__ import annotations


def bytes_text(count: float) -> str:
    """1,234,567 -> ``1.23 MB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5:  # more is rounded up to 1 of the next unit
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB" if abs(count) < 999.5 else f"{count:,.0f} PB"


def seconds_text(seconds: float) -> str:
    """7.2 -> ``7.2 s``, 75 -> ``1 min 15 s``, 4000 -> ``1 h 07 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(count: int, noun: str) -> str:
    """(1, "node") -> ``1 node``, (2, "node") -> ``2 nodes``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def accuracy_text(accuracy: float, iteration: int) -> str:
    """(0.7123, 40) -> ``accuracy 0.712 (at 40)``."""
    return f"accuracy {accuracy:.3f} (at {iteration})"


def iteration_text(done: int, total: int) -> str:
    """(40, 120) -> ``iteration 40/120``."""
    return f"iteration {done}/{total}"


def left_text(seconds: float) -> str:
    """12.3 -> ``12 s left``."""
    return f"{seconds_text(seconds)} left"


def time_left(done: float, total: int, start: int, seconds: float) -> float | None:
    """Seconds left at the pace of this attempt; None before it has one, or when all is done.

    The attempt began after ``start`` iterations and has trained for ``seconds``.
    """
    if done <= start or done >= total or seconds <= 0:
        return None
    return seconds * (total - done) / (done - start)
