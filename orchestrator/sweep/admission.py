"""Which run still fits in the time that is left; pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Checks, staging, collecting and figures of a run, as long as none has been measured.
OVERHEAD_S: Final = 60.0
#: How much longer than expected a run may take, as long as none has been measured.
FACTOR: Final = 1.5
#: What a measured run may be exceeded by.
SLACK: Final = 1.2


@dataclass(frozen=True)
class Pace:
    """What runs take beside and beyond their estimates: the most that any of them took."""

    overhead_s: float = OVERHEAD_S
    factor: float = FACTOR
    measured: bool = False

    def needed_s(self, estimated_s: float) -> float:
        """Seconds from the first check of a run to its last figure."""
        return self.overhead_s + self.factor * estimated_s

    def after(self, estimated_s: float, training_s: float, total_s: float) -> Pace:
        """Once a run took ``total_s``, of which ``training_s`` on the machines."""
        overhead = SLACK * max(total_s - training_s, 0.0)
        factor = SLACK * training_s / max(estimated_s, 1e-3)
        if self.measured:
            overhead, factor = max(overhead, self.overhead_s), max(factor, self.factor)
        return Pace(overhead, factor, measured=True)

    def fits(self, estimated_s: float, left_s: float | None) -> bool:
        """Whether a run would end within the seconds that are left (None: for ever)."""
        return left_s is None or self.needed_s(estimated_s) <= left_s


def walltime_s(estimates: list[float], parallel: int, pace: Pace) -> int:
    """How long machines are reserved where nobody said it: for all runs, ``parallel`` at a time.

    Twice the estimates, in whole minutes: what is not used is given back.
    """
    needed = [pace.overhead_s + 2 * seconds for seconds in estimates]
    total = max(sum(needed) / parallel, max(needed, default=0.0))
    return max(600, 60 * -int(-total // 60))
