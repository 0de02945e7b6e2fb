"""Shakespeare: the next letter after 80 letters of a play, by the part that is speaking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from decentralizepy.datasets.leaf import Leaf, Share, texts

LENGTH = 80
#: letter k is the token k; of a letter that stands there twice, the last place counts. The
#: order is the reference's: an embedding that was trained there has it.
LETTERS = (
    "dhlptx@DHLPTX $(,048cgkoswCGKOSW[_#'/37;?bfjnrvzBFJNRVZ"
    '"&*.26:\naeimquyAEIMQUY]!%)-159\r{{}}<>'
)
NUM_CLASSES = len(LETTERS)
_UNKNOWN = -1


class Shakespeare(Leaf):
    """Shakespeare's works as LEAF has them: the parts of the plays are dealt to the nodes, whole.

    A user's `x` are texts of 80 letters, its `y` the letters that follow. Models see the numbers of
    the letters (`LETTERS`), int64 [B, 80], and predict one of 92. Of the test samples each
    `test_every`-th is used, as in the reference.
    """

    name: ClassVar[str] = "shakespeare"
    reference_name: ClassVar[str] = "decentralizepy.datasets.Shakespeare"
    num_classes: ClassVar[int] = NUM_CLASSES
    # LEAF's 4,226,158 samples of 1,129 parts: nine tenths, and each thirtieth of the others
    samples: ClassVar[tuple[int, int]] = (3_803_500, 14_090)

    def __init__(self, *, test_every: int = 30, **options: Any) -> None:
        super().__init__(**options)
        if test_every < 1:
            raise ValueError(f"test_every = {test_every} must be at least 1")
        self.test_every = test_every

    def identity(self) -> list[str]:
        """The files, and how many test samples are left out."""
        return [*super().identity(), str(self.test_every)]

    def _part(self, part: str, shares: Iterable[Share]) -> dict[str, np.ndarray]:
        arrays = super()._part(part, shares)
        if part == "test":
            arrays |= {name: arrays[name][:: self.test_every] for name in ("test_x", "test_y")}
        return arrays

    def decode(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int16 [n, 80], and labels."""
        inputs, targets = texts(x, "x", LENGTH), texts(y, "y", 1)
        if len(inputs) != len(targets):
            raise ValueError(f"'x' has {len(inputs)} texts, 'y' {len(targets)} letters")
        shape = len(inputs), LENGTH
        return numbers("".join(inputs)).reshape(shape), numbers("".join(targets)).astype(np.int64)


def numbers(text: str) -> np.ndarray:
    """The tokens of a text, int16 [letters]; raises ValueError for a letter that has none."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    known = codes < len(_TABLE)
    found = np.where(known, _TABLE[np.where(known, codes, 0)], np.int16(_UNKNOWN))
    if (found == _UNKNOWN).any():
        letter = text[int(np.argmax(found == _UNKNOWN))]
        raise ValueError(f"the letter {letter!r} is none of the {NUM_CLASSES} of Shakespeare")
    return found.astype(np.int16)


def _table() -> np.ndarray:
    table = np.full(128, _UNKNOWN, dtype=np.int16)
    for token, letter in enumerate(LETTERS):
        table[ord(letter)] = token
    return table


_TABLE = _table()
