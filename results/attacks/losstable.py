"""The losses of all saved models on all samples: made once, model by model, and mapped from disk.

Memory stays that of one model whatever the number of nodes; a second attack finds the table and
runs no model again. Where only the losses of each sender's samples and of the test set are asked
for, only these are made; the others are NaN then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.lib.format import open_memmap

from decentralizepy.files import write_json
from decentralizepy.jsonfile import read_object
from results.attacks.saved import Saved

_TABLE: Final = "losses.npy"
_CONTENT: Final = "losses.json"
#: in the latter, of a table with the losses of each sender's samples and of the test set alone
_OWN: Final = {"of": "senders and test set"}

#: tells how many models are done, of how many
Progress = Callable[[int, int], None]


class Losses(Protocol):
    """Losses [samples] of a flat state; only of ``members`` and the test set if they are given."""

    def __call__(self, state: np.ndarray, members: np.ndarray | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class LossTable:
    """Row i of ``losses`` [models, samples] float32 belongs to ``saved[i]``."""

    saved: Sequence[Saved]
    losses: np.ndarray

    def rows(self) -> Iterator[tuple[Saved, np.ndarray]]:
        """Each saved model with its losses [samples]."""
        for i, one in enumerate(self.saved):
            yield one, np.asarray(self.losses[i])

    def of(self, agent: int, target: int) -> tuple[list[int], np.ndarray]:
        """Iterations of what ``agent`` sent to ``target``, ascending, and losses [T, samples]."""
        at = [i for i, one in enumerate(self.saved) if (one.agent, one.target) == (agent, target)]
        return [self.saved[i].iteration for i in at], np.asarray(self.losses[at])


def loss_table(
    saved: Sequence[Saved],
    samples: int,
    victims: Callable[[], Losses],
    folder: Path,
    progress: Progress = lambda done, total: None,
    members: Sequence[np.ndarray] | None = None,
) -> LossTable:
    """The table of ``saved``, from ``folder`` if it is there, else made and kept there.

    ``victims`` makes what gives the losses of a model; it is not called if there is no need.
    With ``members`` [uid] it is enough to have those of the sender's members and of the test set.
    Raises ValueError for files that do not fit the model or the data.
    """
    path, content = folder / _TABLE, _content(saved)
    enough = [content] if members is None else [content, content | _OWN]
    if read_object(folder / _CONTENT) in enough and path.is_file():
        table = np.load(path, mmap_mode="r", allow_pickle=False)
        if table.shape == (len(saved), samples):
            return LossTable(saved, table)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CONTENT).unlink(missing_ok=True)  # until the table is whole
    table = open_memmap(path, "w+", np.float32, (len(saved), samples))
    run = victims() if any(one.is_model for one in saved) else None
    for i, one in enumerate(saved):
        table[i] = _losses(one, run, samples, None if members is None else members[one.agent])
        progress(i + 1, len(saved))
    table.flush()
    write_json(folder / _CONTENT, enough[-1])
    return LossTable(saved, np.load(path, mmap_mode="r", allow_pickle=False))


def _losses(one: Saved, run: Losses | None, samples: int, members: np.ndarray | None) -> np.ndarray:
    vector = one.load()
    if one.is_model:
        assert run is not None
        try:
            return run(vector, members)
        except ValueError as error:
            raise ValueError(f"{one.path}: {error}") from None
    if len(vector) != samples:
        raise ValueError(f"{one.path}: losses on {len(vector)} samples; the data have {samples}")
    return vector


def _content(saved: Sequence[Saved]) -> dict[str, Any]:
    """What a table was made from: files, with their sizes and times."""
    stats = [(one.path.name, one.path.stat()) for one in saved]
    found = {"models": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]}
    return dict(json.loads(json.dumps(found)))
