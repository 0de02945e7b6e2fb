"""The errors of a worker's nodes: each names the node and where it was."""

from __future__ import annotations

import traceback
from typing import Any

from decentralizepy.engine.records import Reporter
from decentralizepy.engine.seat import Seat, Strand
from decentralizepy.engine.standing import standing
from decentralizepy.errors import RunError
from decentralizepy.mappings.placement import WorkerId


class NodeFailedError(RunError):
    """A node program raised; the text names node and round and holds the traceback."""


class Failures:
    """Makes the errors of one worker's nodes; what a node itself is told goes to its log."""

    def __init__(self, me: WorkerId, reporter: Reporter) -> None:
        self._me, self._reporter = me, reporter

    def of(self, seat: Seat, error: BaseException, where: str = "") -> NodeFailedError:
        """The error of a node; ``where`` its program stands, which the traceback does not show."""
        return self.at(seat.uid, f"iteration {seat.node.round + 1}", error, where)

    def at(self, uid: int, when: str, error: BaseException, where: str = "") -> NodeFailedError:
        """The error of a node that may have no seat yet; it is written to the node's log."""
        text = "".join(traceback.format_exception(error))
        self._reporter.log(uid, text, "ERROR")
        return NodeFailedError(
            f"{self._me}: node {uid} failed in {when}: "
            f"{type(error).__name__}: {error}{f' ({where})' if where else ''}\n{text}"
        )

    def diverged(self, seat: Seat, on_nan: str) -> None:
        """A node's row has become NaN or infinite: end the run, or say so in the node's log."""
        text = f"node {seat.uid}: parameters are not finite after the local steps of iteration "
        text += f"{seat.learner.nan}"
        self._reporter.log(seat.uid, text, "WARNING" if on_nan == "continue" else "ERROR")
        if on_nan == "stop":
            raise RunError(
                f"{self._me}: {text}; lower lr or set clipping_norm (on_nan = continue in "
                "[TRAIN_PARAMS] records it and goes on)"
            )

    def no_effect(self, strand: Strand, effect: Any) -> RunError:
        """A program has yielded what nobody performs."""
        uid, iteration = strand.seat.uid, strand.seat.node.round + 1
        return RunError(
            f"node {uid} yielded {effect!r:.80}, which is no effect, in iteration {iteration} "
            f"({standing(strand.program)})"
        )

    def polls_for_ever(self, strand: Strand) -> RunError:
        """A program asks on and on at one moment of simulated time."""
        uid, iteration = strand.seat.uid, strand.seat.node.round + 1
        return RunError(
            f"{self._me}: node {uid} polls in iteration {iteration} and finds nothing; a poll "
            f"takes no simulated time: Sleep between polls ({standing(strand.program)})"
        )
