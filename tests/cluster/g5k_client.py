"""EnOSlib in the test's own process, as if it were freshly started."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import namespace_hosts as hosts
import pytest

FASTER = 100
CACHED = ("get_all_clusters_sites", "get_dns", "get_subnet_gateway", "get_vlans", "get_ipv6",
          "get_vlan", "is_exotic_cluster")  # fmt: skip


def fresh(
    environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> ModuleType:
    """With these variables, in `folder`: playbooks are written into the working directory."""
    for name, value in environment.items():
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


def write_yaml(home: Path, uri: str, password: str, timeout_s: float = 30) -> None:
    """``.python-grid5000.yaml``: which API, as whom."""
    lines = [f"uri: {uri}", f"username: {hosts.USER}", f"password: {password}"]
    file = home / ".python-grid5000.yaml"
    file.write_text("\n".join([*lines, f"timeout: {timeout_s}"]) + "\n")
    file.chmod(0o600)
