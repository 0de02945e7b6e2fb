"""LZ4 over the bytes of finished tensors."""

from __future__ import annotations

from typing import Any, ClassVar

from decentralizepy.compression.base import ByteCoder, CompressionError
from decentralizepy.compression.optional import library


class Lz4(ByteCoder):
    """LZ4 blocks (Collet, 2011), without loss: short for repeated bytes, as those of `gaps`; for
    numbers that look random it takes 0.4 % more. ``values`` and ``indices`` say what is packed.

    Needs the library ``lz4`` (BSD): the extra ``compression``.
    """

    name: ClassVar[str] = "lz4"

    def __init__(self, *, values: bool = True, indices: bool = True) -> None:
        wanted = {"values": values, "indices": indices}
        self.takes = tuple(stream for stream, one in wanted.items() if one)
        self._lz4: Any = library("lz4.block", "lz4")

    def encode(self, data: memoryview) -> bytes:
        """One block, without its size in front."""
        return self._lz4.compress(data, store_size=False)

    def decode(self, data: memoryview, nbytes: int) -> bytes:
        """The bytes again."""
        try:
            found: bytes = self._lz4.decompress(data, uncompressed_size=nbytes)
        except (self._lz4.LZ4BlockError, ValueError) as error:
            raise CompressionError(f"no LZ4 block of {nbytes} bytes: {error}") from None
        if len(found) != nbytes:
            raise CompressionError(f"an LZ4 block of {len(found)} bytes, not {nbytes}")
        return found
