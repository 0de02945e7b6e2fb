"""What a machine's host gets before its command is started there."""

from __future__ import annotations

import re

from decentralizepy.communication.keys import KEY_NAME
from orchestrator.running.execution import Execution


def stage(execution: Execution, machine: int) -> None:
    """Inputs and key; and what the machine had done, where its host does not have it."""
    host, place = execution.hosts[machine], execution.plan.places[machine]
    folder = execution.folder
    execution.backend.stage(host, execution.plan, machine)
    if not host.in_place:
        names = [entry.name for entry in folder.root.iterdir() if _is_input(entry.name)]
        host.put(folder.root, names, place.root)
        if (former := folder.machine(machine).root).is_dir():
            host.put(folder.root, [former.name], place.root, keep_newer=True)
    if (key := folder.root / KEY_NAME).exists():
        host.put_key(key, place.root)


def _is_input(name: str) -> bool:
    """Whether an entry of a run folder is among what machines start from."""
    ours = (KEY_NAME, "ledger.jsonl", "plan.json", "tables", "figures", "results.log")
    return re.fullmatch(r"machine\d+", name) is None and name not in ours
