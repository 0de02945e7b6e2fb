"""One measured number and its bound."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One measured number and what it must not exceed."""

    name: str
    value: float
    bound: float
    detail: str

    @property
    def met(self) -> bool:
        return self.value <= self.bound

    def line(self) -> str:
        mark = "ok  " if self.met else "OVER"
        return f"{mark} {self.name:<44} {self.value:8.3f}  bound {self.bound:5.2f}   {self.detail}"
