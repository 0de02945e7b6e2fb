"""Numbers through fpzip, without loss or with fewer bits."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import CompressionError, Memory, ValueCoder, count, take
from decentralizepy.compression.optional import library


class Fpzip(ValueCoder):
    """fpzip (Lindstrom & Isenburg, IEEE Trans. Vis. Comput. Graph. 12, 2006) of a row.

    ``precision`` is the number of leading bits kept of each float32, 0 for all (no loss). From 10
    bits on, with m = precision - 9 of the mantissa, |C(x) - x| <= |x| / (2^m + 1), so
    delta = 1 - 1 / (2^m + 1)^2. With 8 bits magnitudes become powers of four, as the exponent
    itself is cut. Gaussian numbers take 93 % of their bytes without loss, 43 % with 16 bits.

    A checksum is sent, since the library trusts what it reads. Needs the library ``fpzip`` (BSD):
    the extra ``compression``. About 100 MB/s.
    """

    name: ClassVar[str] = "fpzip"

    def __init__(self, *, precision: int = 0) -> None:
        if precision != 0 and not 2 <= precision <= 32:
            raise ValueError(f"precision = {precision}: 0 for all bits, or 2 to 32")
        self.precision = precision
        self._fpzip = library("fpzip", "fpzip")

    def encode(
        self, x: Tensor, rng: np.random.Generator, memory: Memory
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """The bytes of fpzip, and their checksum."""
        if not len(x):
            return {"": torch.empty(0, dtype=torch.uint8)}, {}
        numbers = np.ascontiguousarray(x.detach().cpu().numpy())
        data = self._fpzip.compress(numbers, precision=self.precision, order="C")
        packed = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return {"": packed}, {"crc32": _checksum(data, len(x))}

    def decode(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], n: int) -> Tensor:
        """The numbers [n] in CPU memory."""
        data = take(tensors, "", torch.uint8, None).cpu().numpy().tobytes()
        if not n and not data:
            return torch.empty(0)
        if count(meta, "crc32", (1 << 32) - 1) != _checksum(data, n):
            raise CompressionError(f"these are not {n} numbers of fpzip: the checksum is another")
        found = self._fpzip.decompress(data, order="C").reshape(-1)
        if len(found) != n or found.dtype != np.float32:
            raise CompressionError(f"fpzip gives {len(found)} numbers, not {n}")
        return torch.from_numpy(found)

    def contraction(self, n: int) -> float | None:
        if self.precision in (0, 32):
            return 1.0
        if self.precision < 10:
            return None
        return 1 - 1 / (2 ** (self.precision - 9) + 1) ** 2


def _checksum(data: bytes, n: int) -> int:
    return zlib.crc32(data, n & 0xFFFFFFFF)
