"""This computer's CPUs: their name, and how many of them this process may really use."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

_V2 = Path("/sys/fs/cgroup")


def cpu_name() -> str:
    """The name of the CPU, so that figures of other computers aren't taken for ours."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def allotted() -> int:
    """CPUs allotted to this process, at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = cgroup_quota()
    return max(1, min(count or 1, math.ceil(quota) if quota else 1 << 16))


def cgroup_quota(root: Path = _V2, own: str | None = None) -> float | None:
    """CPUs that the control group (version 2 or 1) grants; None without a limit."""
    own = _own_group() if own is None else own
    quotas = [
        quota for folder in _ancestors(root, own) if (quota := _read_quota(folder)) is not None
    ]
    return min(quotas, default=None)


def _own_group() -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")


def _ancestors(root: Path, own: str) -> list[Path]:
    """The group's folder and those above it: each may limit; and version 1's folder."""
    here = root / own
    between = [here, *here.parents]
    return [p for p in between if p == root or root in p.parents] + [root / "cpu"]


def _read_quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            limit, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
            return None if limit == "max" else int(limit) / int(period)
        micros = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period_micros = int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
        return micros / period_micros if micros > 0 and period_micros > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
