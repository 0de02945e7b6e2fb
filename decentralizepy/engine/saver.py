"""Saves a worker's nodes at checkpoints and as they end, and says what a checkpoint lacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from decentralizepy.codec import Word
from decentralizepy.engine.evaluation import Evaluations
from decentralizepy.engine.failures import Failures
from decentralizepy.engine.records import Reporter
from decentralizepy.engine.seat import Seat
from decentralizepy.errors import RunError
from decentralizepy.mappings.placement import WorkerId
from decentralizepy.node.membership import Membership
from decentralizepy.scenario.simulation import Network
from decentralizepy.words import NodeEnded, NodeSaved, Note


class Saver:
    """Saves the nodes of one worker; ``write`` makes a node's file and returns its CRC-32."""

    def __init__(
        self,
        me: WorkerId,
        evaluations: Evaluations,
        membership: Membership,
        network: Network | None,
        reporter: Reporter,
        failures: Failures,
        tell: Callable[[Word], None],
        write: Callable[[Seat, int], int],
    ) -> None:
        self._me, self._evaluations, self._membership = me, evaluations, membership
        self._network, self._reporter, self._failures = network, reporter, failures
        self._tell, self._write = tell, write
        self._intervals = evaluations.evaluator.intervals
        self._told_of_mail = self._told_of_ports = False

    def due(self, t: int) -> bool:
        """Whether nodes are saved after iteration ``t`` (0-based)."""
        return self._intervals.save(t + 1)

    def save(self, seat: Seat, t: int) -> None:
        """Save a node as it is after iteration ``t``, once the records up to there are written."""
        if seat.has_deadlines and not seat.node.asynchronous:
            self._warn_of_ports(seat)
        crc32 = self._write_down(seat, t)
        seat.saved = t + 1
        saved = NodeSaved(t + 1, seat.uid, crc32)
        self._evaluations.once_written(t, partial(self._tell, saved))  # a resumed run writes none
        oldest = seat.mailbox.oldest(self._membership.left)
        if oldest is not None and oldest <= t:
            self.tell_unread(seat, oldest)

    def save_ended(self, seat: Seat, done: int) -> None:
        """Save what a node was that has ended before the run: later checkpoints need it."""
        following = self._intervals.next_save(done)
        if following:
            crc32 = self._write_down(seat, following - 1)
            ended = NodeEnded(following, seat.uid, crc32)
            self._evaluations.once_written(following - 1, partial(self._tell, ended))

    def tell_unread(self, seat: Seat, t: int) -> None:
        """A checkpoint lacks mail of iteration ``t``, which its sender had sent before it was saved
        itself; one note of each worker will do."""
        if seat.node.asynchronous or self._told_of_mail:
            return
        self._told_of_mail = True
        text = (
            f"{self._me}: node {seat.uid} had not read all mail of iteration {t + 1} at the "
            f"checkpoint after iteration {seat.saved}, and the checkpoint does not hold it: a "
            f"resumed run lacks it. If it is needed, set asynchronous = True in "
            f"{type(seat.node).__name__}; if not, let the program Forget it before its Checkpoint"
        )
        self._reporter.log(seat.uid, text, "WARNING")
        self._tell(Note(text))

    def _write_down(self, seat: Seat, t: int) -> int:
        try:
            return self._write(seat, t)
        except RunError:
            raise
        except Exception as error:  # of a `state` of the user's
            raise self._failures.of(seat, error) from error

    def _warn_of_ports(self, seat: Seat) -> None:
        """Say once that a resumed run may hear others, where nodes share simulated ports."""
        shared = self._network is not None and self._network.shared
        if shared and not self._told_of_ports:
            self._told_of_ports = True
            self._tell(Note(
                f'{type(seat.node).__name__} has deadlines, and with "queue": "machine" nodes '
                "share ports, which no checkpoint of a synchronous program holds: resumed, it may "
                "hear others; asynchronous = True in the class prevents that"
            ))  # fmt: skip
