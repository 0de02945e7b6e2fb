"""The compression classes of the reference system, as chains.

``float_precision`` is what the reference passes to all of them; None stands for the default, and
where it says nothing about the numbers it has no effect.
"""

from __future__ import annotations

from typing import ClassVar

from decentralizepy.compression.chain import Chain
from decentralizepy.compression.elias_gamma import EliasGamma
from decentralizepy.compression.fpzip import Fpzip
from decentralizepy.compression.gaps import Gaps
from decentralizepy.compression.lz4 import Lz4
from decentralizepy.compression.uniform import Uniform

_BITS, _LEVELS = 16, 2**15 - 1


class Compression(Chain):
    """Indices and numbers as they are."""

    reference_name: ClassVar[str] = "decentralizepy.compression.Compression"

    def __init__(self, *, float_precision: int | None = None) -> None:
        super().__init__()


class Elias(Chain):
    """``elias_gamma``"""

    reference_name: ClassVar[str] = "decentralizepy.compression.Elias"

    def __init__(self, *, float_precision: int | None = None) -> None:
        super().__init__(EliasGamma())


class EliasFpzip(Chain):
    """``fpzip + elias_gamma``, without loss"""

    reference_name: ClassVar[str] = "decentralizepy.compression.EliasFpzip"

    def __init__(self, *, float_precision: int | None = None) -> None:
        super().__init__(Fpzip(), EliasGamma())


class EliasFpzipLossy(Chain):
    """``fpzip(precision=16) + elias_gamma``; ``float_precision`` is the number of bits"""

    reference_name: ClassVar[str] = "decentralizepy.compression.EliasFpzipLossy"

    def __init__(self, *, float_precision: int | None = None) -> None:
        super().__init__(Fpzip(precision=float_precision or _BITS), EliasGamma())


class EliasQuantization(Chain):
    """``uniform(levels=32767) + elias_gamma``; ``float_precision`` is the number of levels"""

    reference_name: ClassVar[str] = "decentralizepy.compression.EliasQuantization"

    def __init__(self, *, float_precision: int | None = None) -> None:
        super().__init__(Uniform(levels=float_precision or _LEVELS), EliasGamma())


class Quantization(Chain):
    """``uniform(levels=32767)``; ``float_precision`` is the number of levels"""

    reference_name: ClassVar[str] = "decentralizepy.compression.Quantization"

    def __init__(self, *, float_precision: int | None = None) -> None:
        super().__init__(Uniform(levels=float_precision or _LEVELS))


class Lz4Wrapper(Chain):
    """``gaps + lz4(values=False)``"""

    reference_name: ClassVar[str] = "decentralizepy.compression.Lz4Wrapper"

    def __init__(
        self,
        *,
        compress_metadata: bool = True,
        compress_data: bool = False,
        float_precision: int | None = None,
    ) -> None:
        super().__init__(Gaps(), Lz4(values=compress_data, indices=compress_metadata))
