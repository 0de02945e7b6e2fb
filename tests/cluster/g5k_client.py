"""EnOSlib in the test's own process, as if it were freshly started."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import g5k
import pytest

FASTER = 20
CACHED = ("get_all_clusters_sites", "get_dns", "get_subnet_gateway", "get_vlans", "get_ipv6",
          "get_vlan", "is_exotic_cluster")  # fmt: skip


def fresh(grid: g5k.Grid5000, monkeypatch: pytest.MonkeyPatch, folder: Path) -> ModuleType:
    """In `folder`, because playbooks are written into the working directory."""
    for name, value in grid.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    import enoslib
    from enoslib.infra.enos_g5k import g5k_api_utils

    monkeypatch.setattr(g5k_api_utils, "_api_client", None)
    for name in CACHED:
        getattr(g5k_api_utils, name).cache_clear()
    quick = SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / FASTER), time=time.time)
    monkeypatch.setattr(g5k_api_utils, "time", quick)
    enoslib.set_config(g5k_auto_jump=False, ansible_stdout="noop")
    return enoslib
