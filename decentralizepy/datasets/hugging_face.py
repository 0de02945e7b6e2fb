"""Data that the library `datasets` has saved to disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decentralizepy.datasets.leaf import listed
from decentralizepy.datasets.own import OwnData
from decentralizepy.datasets.pictures import MODES, converted
from decentralizepy.datasets.prepare import Progress
from decentralizepy.datasets.tokens import tokens
from decentralizepy.files import expanded


class HuggingFace(OwnData):
    """`train_dir` is a folder that `save_to_disk` of the library `datasets` has made.

    `train_split` and `test_split` name its parts (`test_split` may be empty); `test_dir`, if it is
    set, is another such folder for the test part. Of the columns, `input` has images, numbers,
    lists of numbers, or texts, which become tokens of `tokenizer`, at most `max_length`; `target`
    has labels, numbers or lists of numbers; `user` tells whose a sample is, with `by_user`. Images
    are resized to `side` x `side` with `channels` colours.
    """

    name: ClassVar[str] = "hugging_face"
    reference_name: ClassVar[str] = "decentralizepy.datasets.HuggingFace"

    def __init__(
        self,
        *,
        input: str,
        target: str = "label",
        user: str = "",
        train_split: str = "train",
        test_split: str = "test",
        tokenizer: str = "BERT",
        max_length: int = 512,
        side: int = 32,
        channels: int = 3,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if channels not in MODES or side < 1 or max_length < 2:
            raise ValueError("channels must be 1 or 3, side at least 1, max_length at least 2")
        if self.by_user and not user:
            raise ValueError("by_user: name the column of the users with user")
        self.input, self.target, self.user = input, target, user
        self.train_split, self.test_split = train_split, test_split
        self.tokenizer, self.max_length = tokenizer, max_length
        self.side, self.channels = side, channels

    def identity(self) -> list[str]:
        """The files, and what is taken from them."""
        chosen = (
            self.input, self.target, self.user, self.train_split, self.test_split, self.tokenizer,
            self.max_length, self.side, self.channels, self.by_user,
        )  # fmt: skip
        folders = dict.fromkeys(name for name in (self.train_dir, self.test_dir) if name)
        return [f"{self.name} 1", repr(chosen), *(line for one in folders for line in _files(one))]

    def build(self, progress: Progress) -> Mapping[str, np.ndarray]:
        """Both parts; without a test split the test part is empty."""
        progress(f"reading {self.train_dir}")
        train = _load(self.train_dir, self.train_split, "train_split")
        test = None
        if self.test_split:
            test = _load(self.test_dir or self.train_dir, self.test_split, "test_split")
        x, y = self._inputs(train, test), _numbers(_column(train, self.target), self.target)
        count = len(y)
        test_y = y[:0] if test is None else _numbers(_column(test, self.target), self.target)
        users = np.array(_column(train, self.user), dtype=np.str_) if self.by_user else None
        arrays = self._grouped(x[:count], y, users)
        return {**arrays, "test_x": x[count:], "test_y": test_y}

    def _inputs(self, train: Any, test: Any | None) -> np.ndarray:
        """Those of both parts, one after the other: texts are as long as the longest of all."""
        values = [*_column(train, self.input), *(_column(test, self.input) if test else ())]
        if values and isinstance(values[0], str):
            return tokens(values, self.tokenizer, self.max_length)
        if values and hasattr(values[0], "convert"):  # an image of Pillow's
            return np.stack([converted(image, self.side, self.channels) for image in values])
        return _numbers(values, self.input)


def _files(folder: str) -> list[str]:
    root = expanded(Path(folder))
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    found = sorted(path for path in root.rglob("*") if path.suffix in (".arrow", ".json"))
    folders = dict.fromkeys(path.parent for path in found)
    return [line for one in folders for line in listed([p for p in found if p.parent == one])]


def _load(folder: str, split: str, key: str) -> Any:
    """A part; raises ValueError when the library, the folder or the part is missing."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            "HuggingFace needs the library datasets, which is not installed: "
            "pip install 'decentralizepy[text]' (or pip install datasets)"
        ) from error
    root = expanded(Path(folder))
    try:
        found = datasets.load_from_disk(str(root))
    except Exception as error:  # the library may raise nearly anything
        raise ValueError(f"{root} was not made by save_to_disk ({error!s:.200})") from None
    if not isinstance(found, datasets.DatasetDict):
        return found
    if split not in found:
        raise ValueError(f"{key} = {split}: {root} has the parts {', '.join(found)}")
    return found[split]


def _column(part: Any, name: str) -> Sequence[Any]:
    if name not in part.column_names:
        raise ValueError(f"there is no column {name!r}; there are {', '.join(part.column_names)}")
    column: Sequence[Any] = part[name]
    return column


def _numbers(values: Sequence[Any], name: str) -> np.ndarray:
    """Whole numbers as int64, others as float32; raises ValueError for anything else."""
    try:
        found = np.asarray(list(values))
    except ValueError:
        raise ValueError(f"the lists of column {name!r} have different lengths") from None
    if found.dtype.kind not in "biuf":
        raise ValueError(f"column {name!r} holds neither numbers nor lists of numbers")
    return found.astype(np.int64 if found.dtype.kind in "biu" else np.float32)
