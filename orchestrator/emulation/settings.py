"""The key NETWORK_EMULATION, and which links between machines it means: pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

#: Rate of a link for which none is asked; HTB needs one.
FREE_RATE: Final = "10gbit"
_UNITS: Final = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_NUMBER: Final = r"\d{1,6}(\.\d{1,6})?"


def _pattern(unit: str) -> dict[str, str]:
    return {"type": "string", "pattern": f"^{_NUMBER}{unit}$"}


def _written(unit: str, example: str) -> AfterValidator:
    """A number with a unit, as EnOSlib and ``tc`` have it."""

    def check(value: str) -> str:
        if re.fullmatch(_NUMBER + unit, value, re.ASCII) is None:
            raise ValueError(f"it is written as {example}")
        return value

    return AfterValidator(check)


_RATES: Final = "(kbit|mbit|gbit)"
Delay = Annotated[str, _written("ms", "20ms"), WithJsonSchema(_pattern("ms"))]
Rate = Annotated[str, _written(_RATES, "100mbit"), WithJsonSchema(_pattern(_RATES))]
Loss = Annotated[str, _written("%", "0.1%"), WithJsonSchema(_pattern("%"))]
Ends = Annotated[
    tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 0},
            "minItems": 2,
            "maxItems": 2,
        }
    ),
]


class Quality(BaseModel):
    """What a link is to be like; what is None stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    delay: Delay | None = Field(
        None, description="How long a packet takes more, one way, as 20ms; a round trip twice that."
    )
    rate: Rate | None = Field(None, description="Most bits per second in each direction: 100mbit.")
    loss: Loss | None = Field(None, description="Packets that are lost, as 0.1%.")

    @field_validator("rate")
    @classmethod
    def _some_rate(cls, value: str | None) -> str | None:
        if value is not None and bits_per_second(value) < 8000:
            raise ValueError("take at least 8kbit")
        return value

    @field_validator("loss")
    @classmethod
    def _not_everything(cls, value: str | None) -> str | None:
        if value is not None and fraction(value) >= 1:
            raise ValueError("nothing would arrive: take less than 100%")
        return value

    @property
    def asks(self) -> bool:
        """Whether anything is asked for."""
        return (self.delay, self.rate, self.loss) != (None, None, None)


class Pair(Quality):
    """Two machines whose link is another one than that of all."""

    between: Ends = Field(description="Numbers of two machines, from 0 on.")
    one_way: bool = Field(
        False, description="Only what the first sends to the second; else both directions."
    )


class Emulation(Quality):
    """The network between all machines, and pairs of them that differ."""

    pairs: Annotated[
        tuple[Pair, ...],
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    ] = Field((), description="Links that differ; what one leaves out is as for all.")
    allow_missing: bool = Field(
        False, description="Run also where measuring shows that some of it is not there."
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.asks and not any(pair.asks for pair in self.pairs):
            raise ValueError("it asks for nothing: give 'delay', 'rate' or 'loss'")
        return self

    def problem(self, machines: int) -> str | None:
        """Why this cannot be for so many machines; None if it can."""
        if machines < 2:
            return "it is the network between machines: set NB_MACHINE to 2 or more"
        for first, second in (pair.between for pair in self.pairs):
            if first == second:
                return f"pairs: [{first}, {second}] is one machine"
            if max(first, second) >= machines:
                return f"pairs: there are only machines 0 to {machines - 1}"
        return None

    def links(self, machines: int) -> tuple[Link, ...]:
        """Every direction for which something is asked, by source and target."""
        found = {
            (i, j): Link(i, j, self.delay, self.rate, self.loss)
            for i in range(machines)
            for j in range(machines)
            if i != j
        }
        for pair in self.pairs:
            for ends in _directions(pair):
                found[ends] = found[ends].changed(pair)
        return tuple(link for link in found.values() if link.asks)

    def lines(self) -> Iterator[str]:
        """In words."""
        if self.asks:
            yield f"between all machines {_told(self)}"
        for pair in self.pairs:
            first, second = pair.between
            arrow = "to" if pair.one_way else "and"
            yield f"machines {first} {arrow} {second} {_told(pair)}"
        if self.allow_missing:
            yield "the run begins also where some of it is missing"


@dataclass(frozen=True)
class Link:
    """What one machine sends to another one."""

    source: int
    target: int
    delay: str | None = None
    rate: str | None = None
    loss: str | None = None

    @property
    def asks(self) -> bool:
        return (self.delay, self.rate, self.loss) != (None, None, None)

    @property
    def delay_ms(self) -> float:
        return float((self.delay or "0ms").removesuffix("ms"))

    @property
    def bits_per_second(self) -> float | None:
        return None if self.rate is None else bits_per_second(self.rate)

    @property
    def lost(self) -> float:
        """Fraction of the packets."""
        return 0.0 if self.loss is None else fraction(self.loss)

    def changed(self, pair: Pair) -> Link:
        """With what a pair says of it."""
        return Link(
            self.source,
            self.target,
            self.delay if pair.delay is None else pair.delay,
            self.rate if pair.rate is None else pair.rate,
            self.loss if pair.loss is None else pair.loss,
        )


def bits_per_second(rate: str) -> float:
    """Of a rate as ``tc`` has it: 100mbit is 10^8."""
    return float(rate[:-4]) * _UNITS[rate[-4:]]


def fraction(loss: str) -> float:
    """Of a loss as ``tc`` has it: 0.1% is 0.001."""
    return float(loss.removesuffix("%")) / 100


def _directions(pair: Pair) -> list[tuple[int, int]]:
    first, second = pair.between
    return [(first, second)] if pair.one_way else [(first, second), (second, first)]


def _told(quality: Quality) -> str:
    named = {"delay": quality.delay, "rate": quality.rate, "loss": quality.loss}
    return ", ".join(f"{name} {value}" for name, value in named.items() if value) or "as all"
