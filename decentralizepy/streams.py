"""Random streams named by (seed, uid, purpose, round): nothing is drawn from a global generator.

A stream is recomputed from its name, so it needs no saved state: a run resumes anywhere, and a
node draws the same numbers on any worker. Philox is counter-based (Salmon et al., SC 2011): seed
and node are its key, purpose and round the high words of its counter, so streams never overlap.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

#: purposes -> a number for good; a new one is appended, none is ever reused
PURPOSES: Final[dict[str, int]] = {
    "batches": 1, "dropout": 2, "sharing": 3, "node": 4, "validation": 5,
    "peer": 6, "evaluation": 7, "shared": 8
}  # fmt: skip

_WORD: Final = (1 << 64) - 1


class _Key(np.random.bit_generator.ISeedSequence):
    """Hands Philox its key; given the key as such, it would first ask the system for entropy."""

    def __init__(self, *words: int) -> None:
        self._words = np.array(words, dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint64) -> np.ndarray:
        return self._words


def generator(
    seed: int, uid: int, purpose: str, t: int, k: int = 0, peer: int = 0
) -> np.random.Generator:
    """NumPy generator of one node for one purpose in iteration ``t``, averaging round ``k``.

    ``peer`` tells apart streams of one round that belong to different neighbours.
    """
    key = _Key(seed & _WORD, uid & _WORD)
    counter = np.array((0, peer & _WORD, PURPOSES[purpose], (t << 16 | k) & _WORD), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key, counter))  # type: ignore[arg-type]


def torch_seed(seed: int, uid: int, purpose: str, t: int, k: int = 0) -> int:
    """Seed for torch's own generators (dropout knows no other), 63 bits."""
    name = f"{seed}/{uid}/{purpose}/{t}/{k}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1
