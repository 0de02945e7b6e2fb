"""Reads folders in the JSON format of LEAF (Caldas et al., 2018; https://leaf.cmu.edu).

A file holds `{"users": [...], "num_samples": [...], "user_data": {user: {"x": [...], "y": [...]}}}`
for any number of users; a folder holds any number of such files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decentralizepy.datasets.prepare import Progress


@dataclass(frozen=True, eq=False)
class Share:
    """The samples that belong together: `x` float64 [n, features], `y` int64 [n]."""

    name: str
    x: np.ndarray
    y: np.ndarray


def files_of(folder: Path, ending: str) -> list[Path]:
    """The files with this ending right in `folder`, by name.

    Raises ValueError when there is no such folder, it may not be read, or it has none.
    """
    try:
        names = sorted(e.name for e in os.scandir(folder) if e.name.endswith(ending))
    except OSError as error:
        raise ValueError(f"cannot look into the folder {folder} ({error.strerror})") from None
    if not names:
        raise ValueError(f"the folder {folder} has no file *{ending}")
    return [folder / name for name in names]


def read_files(
    files: Sequence[Path], features: int, classes: int, progress: Progress
) -> Iterator[Share]:
    """One share for each user, in the order of the files and of their lists of users.

    Raises ValueError, naming the file, for one that is malformed, and for a user in two files.
    """
    homes: dict[str, Path] = {}
    for path in announced(files, progress):
        for share in read_file(path, features, classes):
            if share.name in homes:
                home = homes[share.name]
                raise ValueError(f"{path}: user {_short(share.name)} also stands in {home}")
            homes[share.name] = path
            yield share


def announced(files: Sequence[Path], progress: Progress) -> Iterator[Path]:
    """The files one by one, saying now and then how far it is."""
    step = max(len(files) // 10, 1)
    for number, path in enumerate(files):
        if number % step == 0:
            progress(f"reading {path} ({number + 1} of {len(files)})")
        yield path


def read_file(path: Path, features: int, classes: int) -> list[Share]:
    """The users of one file. Raises ValueError, naming the file, when it is malformed."""
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable JSON file ({error})") from None
    try:
        return [_share(content, user, features, classes) for user in _users(content)]
    except ValueError as error:
        raise ValueError(f"{path} is not a LEAF file: {error}") from None


def _users(content: Any) -> list[str]:
    keys = {"users": list, "user_data": dict}
    for key, kind in keys.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise ValueError(f"it needs the keys users, num_samples and user_data; look at {key!r}")
    users = content["users"]
    if not all(isinstance(user, str) for user in users) or len(set(users)) != len(users):
        raise ValueError("'users' is not a list of different names")
    if set(users) != content["user_data"].keys():
        raise ValueError("'users' and 'user_data' name different users")
    _check_counts(content, users)
    return users


def _check_counts(content: Mapping[str, Any], users: list[str]) -> None:
    """'num_samples' says how many labels each user has; a bare number stands for one user's."""
    counts = content.get("num_samples")
    data = (content["user_data"][user] for user in users)
    labels = [one.get("y") if isinstance(one, dict) else None for one in data]
    found = [len(y) if isinstance(y, list) else 0 for y in labels]
    if (counts if isinstance(counts, list) else [counts]) != found:
        raise ValueError("'num_samples' does not fit the numbers of labels in 'user_data'")


def _share(content: Mapping[str, Any], user: str, features: int, classes: int) -> Share:
    data = content["user_data"][user]
    if not isinstance(data, dict):
        raise ValueError(f"user {_short(user)}: not an object with 'x' and 'y'")
    try:
        y = labels(data.get("y"), classes)
        return Share(user, images(data.get("x"), len(y), features), y)
    except ValueError as error:
        raise ValueError(f"user {_short(user)}: {error}") from None


def images(value: Any, count: int, features: int) -> np.ndarray:
    """Numbers as float64 [count, features]. Raises ValueError for anything else."""
    if value == [] and not count:
        return np.empty((0, features))
    wanted = f"'x' is not {count} lists of {features} finite numbers"
    found = _numbers(value, "fiu", wanted)
    if found.shape != (count, features) or not np.isfinite(found).all():
        raise ValueError(wanted)
    return found.astype(np.float64, copy=False)


def labels(value: Any, classes: int) -> np.ndarray:
    """Whole numbers from 0 to classes - 1 as int64 [n]. Raises ValueError for anything else."""
    wanted = f"'y' is not a list of whole numbers from 0 to {classes - 1}"
    found = _numbers(value, "iu", wanted) if value != [] else np.empty(0, np.int64)
    if found.ndim != 1 or (len(found) and not 0 <= found.min() <= found.max() < classes):
        raise ValueError(wanted)
    return found.astype(np.int64)


def _numbers(value: Any, kinds: str, wanted: str) -> np.ndarray:
    """An array of one of these kinds; text and booleans are no numbers, though NumPy reads them."""
    try:
        found = np.asarray(value if isinstance(value, list) else None)
    except (ValueError, OverflowError):  # lists of different lengths
        raise ValueError(wanted) from None
    if found.dtype.kind not in kinds:
        raise ValueError(wanted)
    return found


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:37]}...")
