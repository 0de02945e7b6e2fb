"""What a receiving worker tells a sending one."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from decentralizepy.transport.secure import RefusedError

_FORM: Final = struct.Struct("<Q?")


@dataclass(frozen=True)
class Acknowledgement:
    """The last batch that was taken, whether to start the session anew, and the credit report."""

    received: int
    reset: bool
    report: bytes

    def encode(self) -> bytes:
        return _FORM.pack(self.received, self.reset) + self.report

    @classmethod
    def decode(cls, data: bytes) -> Acknowledgement:
        """Raises `RefusedError`."""
        if len(data) < _FORM.size:
            raise RefusedError("malformed", "an acknowledgement that is too short")
        received, reset = _FORM.unpack(data[: _FORM.size])
        return cls(received, reset, data[_FORM.size :])
