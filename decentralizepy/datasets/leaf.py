"""Reads folders in the JSON format of LEAF (Caldas et al., 2018; https://leaf.cmu.edu).

A file holds `{"users": [...], "num_samples": [...], "user_data": {user: {"x": [...], "y": [...]}}}`
for any number of users; a folder holds any number of such files. What `x` and `y` are, each data
set says by a function of its own.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decentralizepy.datasets.by_user import ByUser
from decentralizepy.datasets.prepare import Progress, Streamed
from decentralizepy.files import expanded

#: what makes arrays of a user's `x` and `y`; raises ValueError for what does not fit
Decode = Callable[[Any, Any], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Share:
    """The samples that belong together: `x` [n, ...] and `y` [n]."""

    name: str
    x: np.ndarray
    y: np.ndarray


class Leaf(ByUser):
    """A data set in LEAF's format: `train_dir` and `test_dir` are folders of JSON files.

    Any number of users may be in a file; an empty name means no such part. Users count in the
    order of their files' names, then in the files' order. The test set is that of all users.
    """

    #: whether `num_samples` must be the lengths of the users' `y`
    counted: ClassVar[bool] = True

    def fetch(self, progress: Progress) -> None:
        """Nothing is downloaded: says which options are missing."""
        if not (self.train_dir or self.test_dir):
            kind = type(self).__name__
            raise ValueError(f"{kind}: set train_dir (and test_dir) to folders of LEAF's {kind}")

    def identity(self) -> list[str]:
        """Name, size and time of each file that is used."""
        train, test = listed(self._train_files()), listed(self._test_files())
        return [f"{self.name} 1", "train", *train, "test", *test]

    def build(self, progress: Progress) -> Mapping[str, np.ndarray | Streamed]:
        """Both parts, in the order of the files; `train_starts`: where each user begins."""
        train = self._part("train", self._train_shares(progress))
        return dict(train) | self._part("test", self._test_shares(progress))

    @abstractmethod
    def decode(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """What JSON has of a user, as arrays; raises ValueError for what does not fit."""

    def _train_files(self) -> list[Path]:
        return json_files(self.train_dir, "train_dir")

    def _test_files(self) -> list[Path]:
        return json_files(self.test_dir, "test_dir")

    def _train_shares(self, progress: Progress) -> Iterable[Share]:
        return read_files(self._train_files(), self.decode, progress, self.counted)

    def _test_shares(self, progress: Progress) -> Iterable[Share]:
        return read_files(self._test_files(), self.decode, progress, self.counted)

    def _part(self, part: str, shares: Iterable[Share]) -> dict[str, np.ndarray]:
        """Inputs, targets and starts [users + 1] of these shares."""
        kept = list(shares)
        empty = self.decode([], [])  # with the types of a part that has no files
        return {
            f"{part}_x": np.concatenate([empty[0], *(share.x for share in kept)]),
            f"{part}_y": np.concatenate([empty[1], *(share.y for share in kept)]),
            f"{part}_starts": starts(len(share.y) for share in kept),
        }


def starts(lengths: Iterable[int]) -> np.ndarray:
    """Where each of several runs of these lengths begins, and the end of the last: int64."""
    return np.cumsum([0, *lengths], dtype=np.int64)


def json_files(folder: str, key: str) -> list[Path]:
    """The JSON files of the folder that an option names; none without a name."""
    return folder_files(expanded(Path(folder)), ".json", key) if folder else []


def folder_files(folder: Path, ending: str, key: str) -> list[Path]:
    """`files_of` a folder that the option `key` names, which errors name too."""
    try:
        return files_of(folder, ending)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def listed(files: list[Path]) -> list[str]:
    """What tells these files of one folder from others, by one listing: there may be thousands."""
    if not files:
        return []
    folder, names = files[0].parent, {path.name for path in files}
    stats = {entry.name: entry.stat() for entry in os.scandir(folder) if entry.name in names}
    lines = (f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in sorted(stats.items()))
    return [str(folder.resolve()), *lines]


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
    files: Sequence[Path], decode: Decode, progress: Progress, counted: bool = True
) -> Iterator[Share]:
    """One share for each user, in the order of the files and of their lists of users.

    Where they are `counted`, `num_samples` must be right. Raises ValueError, naming the file, for
    one that is malformed, and for a user in two files.
    """
    homes: dict[str, Path] = {}
    for path in announced(files, progress):
        for share in read_file(path, decode, counted):
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


def read_file(path: Path, decode: Decode, counted: bool = True) -> list[Share]:
    """The users of one file. Raises ValueError, naming the file, when it is malformed."""
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable JSON file ({error})") from None
    try:
        return [_share(content, user, decode) for user in _users(content, counted)]
    except ValueError as error:
        raise ValueError(f"{path} is not a LEAF file: {error}") from None


def _users(content: Any, counted: bool) -> list[str]:
    keys = {"users": list, "user_data": dict}
    for key, kind in keys.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise ValueError(f"it needs the keys users, num_samples and user_data; look at {key!r}")
    users = content["users"]
    if not all(isinstance(user, str) for user in users) or len(set(users)) != len(users):
        raise ValueError("'users' is not a list of different names")
    if set(users) != content["user_data"].keys():
        raise ValueError("'users' and 'user_data' name different users")
    if counted:
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


def _share(content: Mapping[str, Any], user: str, decode: Decode) -> Share:
    data = content["user_data"][user]
    if not isinstance(data, dict):
        raise ValueError(f"user {_short(user)}: not an object with 'x' and 'y'")
    try:
        x, y = decode(data.get("x"), data.get("y"))
    except ValueError as error:
        raise ValueError(f"user {_short(user)}: {error}") from None
    return Share(user, x, y)


def texts(value: Any, key: str, length: int | None = None) -> list[str]:
    """A list of texts, all of that length if one is given. Raises ValueError for anything else."""
    wanted = f"{key!r} is not a list of texts" + ("" if length is None else f" of {length}")
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(wanted)
    if length is not None and any(len(text) != length for text in value):
        raise ValueError(wanted)
    return value


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
