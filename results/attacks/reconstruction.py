"""How near a message comes to the model that it was made of, as the nodes noted it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from decentralizepy.jsonfile import parse_object
from decentralizepy.runfolder import SENT_MODELS, MachineFolder, RunFolder


def reconstruction(run: Path) -> pd.DataFrame:
    """One row per saved message: agent, target, iteration, reconstruction_error (l2, relative to
    the model's norm), reconstruction_cosine, reconstruction_snr_db.

    Raises ValueError where nothing was noted, as in runs of the reference system.
    """
    machines = [*RunFolder(run).machines().values()] or [MachineFolder(run)]
    lines = [
        parse_object(line)
        for machine in machines
        for path in sorted((machine.root / SENT_MODELS).glob("sent_*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]
    whole = [line for line in lines if {"iteration", "uid", "target", "error"} <= line.keys()]
    if not whole:
        raise ValueError(f"{run}: nobody noted how far models as sent are from the nodes' own")
    found = {(line["iteration"], line["uid"], line["target"]): line for line in whole}
    return pd.DataFrame([
        {
            "agent": agent, "target": target, "iteration": iteration,
            "reconstruction_error": line["error"], "reconstruction_cosine": line.get("cosine"),
            "reconstruction_snr_db": line.get("snr_db"),
        }
        for (iteration, agent, target), line in sorted(found.items())
    ])  # fmt: skip
