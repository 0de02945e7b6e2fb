"""The ``sweep`` section of a JSON: which experiments, and how many at a time."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Values = Annotated[list[Any], Field(min_length=1, max_length=10_000)]


class Sweep(BaseModel):
    """Every entry of ``list`` with every combination of ``grid`` and every one of ``seeds``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    grid: dict[str, Values] = Field(
        default_factory=dict,
        description="Key -> its values: a key of this file, a key SECTION.key of the INI, or an "
        "attribute as variant, noise_level, lr (docs/sweeps.md).",
    )
    listed: list[dict[str, Any]] = Field(
        default_factory=list,
        alias="list",
        description="Settings that are not a grid: one object of keys and values for each.",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list, description="Every setting runs once with each random_seed."
    )
    parallel: Annotated[int, Field(ge=1, le=256)] = Field(
        1, description="How many runs go on at the same time."
    )

    @model_validator(mode="after")
    def _of_something(self) -> Self:
        if not (self.grid or self.listed or self.seeds):
            raise ValueError("it needs 'grid', 'list' or 'seeds'")
        return self
