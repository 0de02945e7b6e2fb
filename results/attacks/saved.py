"""The models, or their losses, that the nodes of a run have kept; ours and the reference system's.

Both lie in ``machine<m>/attacked_model/machine<m>/<rank>/``; see docs/formats.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decentralizepy.runfolder import SENT_MODELS, SENT_NAME, MachineFolder, RunFolder


@dataclass(frozen=True, order=True)
class Saved:
    """What node ``agent`` sent to ``target`` in an iteration (from 1): a model, or its losses."""

    iteration: int
    agent: int
    target: int
    is_model: bool
    path: Path

    def load(self) -> np.ndarray:
        """The vector, float32; raises ValueError if the file is damaged."""
        try:
            found = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{self.path}: cannot be read ({error})") from error
        if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind != "f":
            raise ValueError(f"{self.path}: not a vector of floats")
        return found.astype(np.float32, copy=False)


def find(run: Path) -> list[Saved]:
    """All that a run folder, or a single machine's, has kept: by iteration, agent and target.

    Of the same model and losses only the model is listed. Raises ValueError where there is none.
    """
    machines = [*RunFolder(run).machines().values()] or [MachineFolder(run)]
    found: dict[tuple[int, int, int], Saved] = {}
    for machine in machines:
        for path in sorted((machine.root / SENT_MODELS).rglob("*.npy"), reverse=True):
            if match := SENT_NAME.fullmatch(path.name):
                kind, *numbers = match.groups()
                iteration, agent, target = map(int, numbers)
                found[iteration, agent, target] = Saved(
                    iteration, agent, target, kind == "model", path
                )
    if not found:
        raise ValueError(
            f"{run}: no models were kept; set save_models_for_attacks = 100, say, in [SHARING] of "
            "the INI and run it again"
        )
    return [found[key] for key in sorted(found)]
