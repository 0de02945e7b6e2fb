"""Errors of the orchestrator beside those of the core, each with the exit code of its command."""

from __future__ import annotations

from typing import Final

from decentralizepy.errors import ConfigError, RunError

EXIT_REFUSED: Final = 3
EXIT_NO_MACHINES: Final = 4
EXIT_PARTIAL: Final = 6


class RefusedError(ConfigError):
    """A plan that is well formed and cannot be carried out as things are (exit code 3)."""


class ReservationError(RuntimeError):
    """Machines could not be had; the text says why, and what may help (exit code 4)."""


class DetachedError(RunError):
    """We leave; the run goes on, or its machines stay ours (exit code 130)."""
