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
PURPOSES: Final[dict[str, int]] = {"batches": 1, "dropout": 2, "sharing": 3, "node": 4}

_WORD: Final = (1 << 64) - 1


def generator(seed: int, uid: int, purpose: str, t: int, k: int = 0) -> np.random.Generator:
    """NumPy generator of one node for one purpose in iteration ``t``, averaging round ``k``."""
    counter = (0, 0, PURPOSES[purpose], (t << 16 | k) & _WORD)
    return np.random.Generator(np.random.Philox(key=(seed & _WORD, uid & _WORD), counter=counter))


def torch_seed(seed: int, uid: int, purpose: str, t: int, k: int = 0) -> int:
    """Seed for torch's own generators (dropout knows no other), 63 bits."""
    name = f"{seed}/{uid}/{purpose}/{t}/{k}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1
