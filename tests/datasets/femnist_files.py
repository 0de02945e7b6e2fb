"""Writes small FEMNIST folders in the true on-disk formats: LEAF's JSON, and torch's files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def pixels(user: str, count: int, part: str = "train") -> np.ndarray:
    """Bytes [count, 784] of a user, always the same."""
    rng = np.random.default_rng([ord(letter) for letter in user + part])
    return rng.integers(0, 256, (count, 784), dtype=np.uint8)


def labels(user: str, count: int) -> list[int]:
    return [(sum(map(ord, user)) + i) % 62 for i in range(count)]


def content(users: dict[str, int], part: str = "train") -> dict:
    """What a LEAF file of these users (name -> number of samples) holds."""
    data = {
        user: {"x": (pixels(user, n, part) / 255).tolist(), "y": labels(user, n)}
        for user, n in users.items()
    }
    return {"users": list(users), "num_samples": list(users.values()), "user_data": data}


def write(folder: Path, files: dict[str, dict[str, int]], part: str = "train") -> Path:
    """One JSON per entry: name of the file -> its users."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, users in files.items():
        (folder / name).write_text(json.dumps(content(users, part)))
    return folder


def per_user(folder: Path, counts: list[int]) -> Path:
    """One file per user u00, u01 ... with that many samples, as the reference lays them out."""
    return write(folder, {f"u{i:02}.json": {f"u{i:02}": n} for i, n in enumerate(counts)})


def write_pairs(folder: Path, counts: list[int]) -> Path:
    """data_<k>.pt for each k, as the fork's splitter saves them."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    for k, count in enumerate(counts):
        x, y = pixels(f"k{k}", count) / 255, labels(f"k{k}", count)
        pairs = [(torch.tensor(a.tolist()), torch.tensor(b)) for a, b in zip(x, y, strict=True)]
        torch.save(pairs, folder / f"data_{k}.pt")
    return folder
