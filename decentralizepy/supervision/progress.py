"""Lines that tell somebody at a terminal (or a log) how a machine's part of a run goes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from decentralizepy.text import accuracy_text, iteration_text, left_text, time_left

_EVERY_S: Final = 5.0


def say(text: str) -> None:
    """Print a line; that nobody can read it (a pipe is closed, a disk full) must not end a run."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115


def line(status: dict[str, Any]) -> str:
    """One line from the value of ``status.json``."""
    parts = [iteration_text(status["round_min"], status["iterations"])]
    accuracy, loss = status["test_acc"], status["train_loss"]
    if accuracy is not None:
        parts.append(accuracy_text(accuracy["mean"] / 100, accuracy["iteration"]))
    elif loss is not None:
        parts.append(f"train loss {loss['mean']:.4f} (at {loss['iteration']})")
    seconds = status["elapsed_s"] - status["past_s"]
    left = time_left(status["round_mean"], status["iterations"], status["round_start"], seconds)
    if left is not None:
        parts.append(left_text(left))
    return ", ".join(parts)


class Progress:
    """Says a line every few seconds while the run goes."""

    def __init__(self, say: Callable[[str], object] = say) -> None:
        self._say = say
        self._said = time.monotonic()

    def now_and_then(self, status: Callable[[], dict[str, Any]]) -> None:
        """Say where the run is if the last time is long enough ago."""
        if time.monotonic() - self._said >= _EVERY_S:
            self._said = time.monotonic()
            self._say(line(status()))

    def end(self, status: dict[str, Any], folder: object) -> None:
        """Say how it ended and where the records are."""
        simulated = status.get("simulated_s")
        also = "" if simulated is None else f", {simulated:.6g} s simulated"
        took = f"{status['elapsed_s']:.1f} s{also}"
        self._say(f"{line(status)}, {status['state']} after {took}: {folder}")
