"""Whether a whole run has come to rest: all mail is delivered, and no node can go on.

Then either all nodes wait for just that (`Drain`, a due `Checkpoint` of an asynchronous program),
or the run is in a deadlock, which is told with who waits for whom.

A worker that has nothing to do tells the root worker so, with the numbers of messages that it has
sent to and received from each other worker. When all have, and what was sent was received, the root
asks everybody once more: equal answers prove that nothing was on its way in between (the double
count of Mattern, "Algorithms for distributed termination detection", 1987).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from decentralizepy.engine.deadlock import Stuck, told
from decentralizepy.errors import RunError
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.messages.header import MessageError
from decentralizepy.messages.message import Message

#: for how long a worker has nothing to do before it says so, if its nodes wait for messages
PATIENCE_S: Final = 1.0

_FLAGS: Final = ("settled", "resting", "saving")
_KEYS: Final = {"say", "wave", *_FLAGS, "sent", "received", "stuck"}


@dataclass(frozen=True)
class Position:
    """Where a worker is: ``settled`` with nothing to do, ``resting`` if that is what all its nodes
    want, ``saving`` if some want to be saved; ``sent`` and ``received`` count messages by the
    number of the other worker. ``stuck`` is for the error, if this is a deadlock."""

    settled: bool
    resting: bool
    saving: bool
    sent: Mapping[int, int]
    received: Mapping[int, int]
    stuck: Stuck = field(default_factory=Stuck)


class Rest:
    """One worker's part in finding out whether the run is at rest.

    ``position`` says where this worker is; ``save`` writes what is to be saved while nobody moves;
    ``go_on`` lets go on the nodes that were saved (True), or those that wait for the end (False).
    """

    def __init__(
        self,
        me: WorkerId,
        placement: Placement,
        send: Callable[[WorkerId, str, Message], None],
        position: Callable[[], Position],
        save: Callable[[], None],
        go_on: Callable[[bool], None],
    ) -> None:
        self.me, self._send = me, send
        self._position, self._save, self._go_on = position, save, go_on
        self._all = [w for w in placement.all() if len(placement.uids(w))]
        self.number = {worker: i for i, worker in enumerate(self._all)}
        self._alive = list(self._all)
        self._said: Position | None = None
        #: what the root has heard last of those that have settled, and had when it asked
        self._known: dict[int, Position] = {}
        self._asked: dict[int, Position] = {}
        self._replies: dict[int, Position] | None = None
        self._saved: set[int] | None = None
        self._wave = 0

    @property
    def _root(self) -> WorkerId:
        return self._alive[0]

    def check(self, idle_s: float) -> None:
        """This worker has had nothing to do for some seconds."""
        now = self._position()
        if not now.settled or now == self._said:
            return
        if not now.resting and idle_s < PATIENCE_S and len(self._alive) > 1:
            return
        self._said = now
        self._tell("state", now)

    def leave(self, dead: Iterable[WorkerId]) -> None:
        """Workers are lost: everybody begins anew."""
        gone = set(dead)
        self._alive = [worker for worker in self._alive if worker not in gone]
        self._said, self._replies, self._saved = None, None, None
        self._known.clear()

    def _tell(self, say: str, position: Position | None = None) -> None:
        """Say something to the root."""
        number = self.number[self.me]
        if self.me == self._root:
            self._heard(say, self._wave, number, position)
        else:
            self._send(self._root, "Q", _message(say, self._wave, number, position))

    def _announce(self, say: str) -> None:
        """The root says something to all, itself last."""
        message = _message(say, self._wave, self.number[self.me], None)
        for worker in self._alive[1:]:
            self._send(worker, "Q", message)
        self._obey(say)

    def take(self, message: Message) -> None:
        """Something of this kind has come from another worker."""
        say, wave, position = _read(message, len(self._all))
        if say in ("state", "reply", "done"):
            if self._all[message.sender] in self._alive:
                self._heard(say, wave, message.sender, position)
        else:
            self._wave = wave
            self._obey(say)

    # ------------------------------------------------------------- all workers

    def _obey(self, say: str) -> None:
        if say == "ask":
            now = self._position()
            if not now.settled:
                self._said = None
            self._tell("reply", now)
        elif say == "save":
            self._save()
            self._tell("done")
        elif say in ("saved", "end"):
            self._said = None
            self._go_on(say == "saved")

    # ---------------------------------------------------------------- the root

    def _heard(self, say: str, wave: int, number: int, position: Position | None) -> None:
        if say == "state" and position is not None:
            self._know(number, position)
            self._consider()
        elif say == "reply" and position is not None and self._replies is not None:
            if wave == self._wave:
                self._replies[number] = position
                self._know(number, position)
                self._judge()
        elif say == "done" and self._saved is not None and wave == self._wave:
            self._saved.add(number)
            self._release()

    def _know(self, number: int, position: Position) -> None:
        if position.settled:
            self._known[number] = position
        else:
            self._known.pop(number, None)

    def _consider(self) -> None:
        """Ask everybody once more if all seem to be at rest."""
        if self._replies is None and self._at_rest(self._known):
            self._wave += 1
            self._asked, self._replies = dict(self._known), {}
            self._announce("ask")

    def _judge(self) -> None:
        replies, numbers = self._replies, {self.number[worker] for worker in self._alive}
        if replies is None or not replies.keys() >= numbers:
            return
        self._replies = None
        if replies != self._asked:  # what came after a reply is known, and counts
            self._consider()
            return
        if not all(one.resting for one in replies.values()):
            who = told([replies[i].stuck for i in sorted(replies)])
            raise RunError(f"no node can go on: {who}")
        self._known.clear()
        if any(one.saving for one in replies.values()):
            self._saved = set()
            self._announce("save")
        else:
            self._announce("end")

    def _release(self) -> None:
        assert self._saved is not None
        if self._saved >= {self.number[worker] for worker in self._alive}:
            self._saved = None
            self._announce("saved")

    def _at_rest(self, known: Mapping[int, Position]) -> bool:
        """Whether all workers have settled, and what each sent to each has arrived."""
        numbers = [self.number[worker] for worker in self._alive]
        if any(i not in known or not known[i].settled for i in numbers):
            return False
        return all(
            known[i].sent.get(j, 0) == known[j].received.get(i, 0) for i in numbers for j in numbers
        )


def _message(say: str, wave: int, number: int, position: Position | None) -> Message:
    meta: dict[str, Any] = {"say": say, "wave": wave}
    if position is not None:
        meta |= {
            **{flag: getattr(position, flag) for flag in _FLAGS},
            "sent": [list(item) for item in sorted(position.sent.items())],
            "received": [list(item) for item in sorted(position.received.items())],
            "stuck": position.stuck.value(),
        }
    return Message({}, meta, number, (0, 0))


def _read(message: Message, workers: int) -> tuple[str, int, Position | None]:
    meta = message.meta
    say, wave = meta.get("say"), meta.get("wave")
    if type(say) is not str or type(wave) is not int or not meta.keys() <= _KEYS:
        raise MessageError("no word about rest")
    if not 0 <= message.sender < workers:
        raise MessageError(f"a word of worker {message.sender}, which there is not")
    if "settled" not in meta:
        return say, wave, None
    try:
        sent, received = (
            {int(i): int(count) for i, count in meta[key]} for key in ("sent", "received")
        )
        stuck = Stuck.of(meta["stuck"])
    except (KeyError, TypeError, ValueError):
        raise MessageError("no position of a worker") from None
    flags = {flag: meta.get(flag) is True for flag in _FLAGS}
    return say, wave, Position(**flags, sent=sent, received=received, stuck=stuck)
