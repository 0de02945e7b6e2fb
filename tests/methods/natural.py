"""Natural compression (Horvath et al., MSML 2022): powers of two, in 9 bits a number."""

import torch

from decentralizepy import ValueCoder
from decentralizepy.compression.base import take
from decentralizepy.compression.bits import pack, unpack
from decentralizepy.compression.draws import uniforms


class Natural(ValueCoder):
    """The power of two below |x| or the one above, at random so that the mean is right."""

    def __init__(self, *, lowest: int = -100) -> None:
        self.lowest = lowest  # smaller magnitudes than 2^lowest become 0

    def encode(self, x, rng, memory):
        fraction, exponent = torch.frexp(x.abs())  # |x| = fraction 2^exponent, 1/2 <= fraction < 1
        up = uniforms(len(x), rng, x.device) < 2 * fraction - 1
        steps = torch.where(x == 0, 0, exponent + up - self.lowest).clamp(0, 255)
        return {"": steps.to(torch.uint8), "signs": pack(x < 0, 1)}, {}

    def decode(self, tensors, meta, n):
        steps = take(tensors, "", torch.uint8, n).to(torch.float32)
        size = torch.where(steps > 0, torch.exp2(steps - 1 + self.lowest), 0.0)
        negative = unpack(take(tensors, "signs", torch.uint8, None), n, 1)
        return torch.where(negative == 1, -size, size)

    def variance(self, n):
        return 1 / 8  # E |C(x) - x|^2 <= |x|^2 / 8
