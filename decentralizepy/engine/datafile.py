"""``data.json``: which data a machine's nodes have, written once before training starts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from decentralizepy.datasets.base import Dataset
from decentralizepy.files import write_json
from decentralizepy.settings import Settings

#: with more different labels, as words are, no histograms are written
_MOST_LABELS: Final = 1_000


def write(settings: Settings, dataset: Dataset, parts: Sequence[np.ndarray]) -> None:
    """Write the file of the settings' machine; ``parts`` are the training samples of all nodes."""
    write_json(settings.folder.data, describe(dataset, parts, settings.uids))


def describe(dataset: Dataset, parts: Sequence[np.ndarray], uids: Sequence[int]) -> dict[str, Any]:
    """Sizes of the sets, the digest of the whole partition, and what each of ``uids`` has."""
    train, test = dataset.counts()
    y = dataset.stored("train").y
    labelled = y.ndim == 1 and y.dtype.kind in "iu" and len(np.unique(y)) <= _MOST_LABELS
    return {
        "dataset": dataset.name,
        "samples": {"train": train, "test": test, "validation": len(dataset.validation())},
        "partition_sha256": digest(parts),
        "nodes": {str(uid): _node(parts[uid], y if labelled else None) for uid in uids},
    }


def digest(parts: Sequence[np.ndarray]) -> str:
    """SHA-256 over the numbers of all nodes' samples, each preceded by how many there are."""
    total = hashlib.sha256()
    for part in parts:
        total.update(np.int64(len(part)).tobytes())
        total.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return total.hexdigest()


def _node(part: np.ndarray, y: np.ndarray | None) -> dict[str, Any]:
    if y is None:
        return {"samples": len(part)}
    labels, counts = np.unique(y[part], return_counts=True)
    histogram = {str(k): n for k, n in zip(labels.tolist(), counts.tolist(), strict=True)}
    return {"samples": len(part), "labels": histogram}
