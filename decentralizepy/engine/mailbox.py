"""Messages that wait for a node, by round and sender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.effects import ANY, Receive

Round = tuple[int, int]


@dataclass(eq=False)
class Parcel:
    """A message in a mailbox, and what to call once its receiver has consumed it."""

    message: Message
    release: Callable[[], None] | None = None

    def let_go(self) -> None:
        """Nobody reads the message any more."""
        if self.release is not None:
            self.release()


@dataclass
class Mailbox:
    """What others said to one node and it has not heard yet.

    A sender may say several things in one round to a node that takes any; they stay in order.
    """

    _rounds: dict[Round, dict[int, list[Parcel]]] = field(default_factory=dict)

    def put(self, parcel: Parcel) -> None:
        message = parcel.message
        by_sender = self._rounds.setdefault(message.round, {})
        by_sender.setdefault(message.sender, []).append(parcel)

    def complete(self, wanted: Receive, gone: frozenset[int] = frozenset()) -> bool:
        """Whether a `Receive` can be answered: in full, but for nodes that are ``gone``."""
        if wanted.sources is ANY:
            return len(self._matching(wanted)) >= (wanted.count or 1)
        if wanted.round is not ANY:
            there = self._rounds.get(wanted.round, {})
            return all(uid in there or uid in gone for uid in wanted.sources)
        senders = {parcel.message.sender for parcel in self._matching(wanted)}
        return (senders | gone).issuperset(wanted.sources)

    def take(
        self, wanted: Receive, reason: str = ""
    ) -> tuple[list[Message | Missing], list[Parcel]]:
        """Take out what a `Receive` asks for, ascending by uid; absent sources as `Missing`."""
        parcels = self._matching(wanted)
        if wanted.count is not None:
            parcels = parcels[: wanted.count]
        for parcel in parcels:
            self._remove(parcel)
        heard: list[Message | Missing] = [parcel.message for parcel in parcels]
        if wanted.sources is not ANY and len(parcels) < len(wanted.sources):
            came = {parcel.message.sender for parcel in parcels}
            heard += [Missing(uid, reason) for uid in wanted.sources if uid not in came]
        heard.sort(key=lambda item: item.sender)
        return heard, parcels

    def drain(self) -> list[Parcel]:
        """Take out everything: nobody is going to read it."""
        found = [
            p for there in self._rounds.values() for parcels in there.values() for p in parcels
        ]
        self._rounds.clear()
        return found

    def _matching(self, wanted: Receive) -> list[Parcel]:
        """Parcels that fit, ascending by uid; of a named source only the oldest."""
        keys = sorted(self._rounds) if wanted.round is ANY else [wanted.round]
        found: list[Parcel] = []
        taken: set[int] = set()
        for there in (self._rounds[key] for key in keys if key in self._rounds):
            if wanted.sources is ANY:
                found += (parcel for uid in sorted(there) for parcel in there[uid])
                continue
            for uid in wanted.sources:
                if uid in there and uid not in taken:
                    found.append(there[uid][0])
                    taken.add(uid)
        found.sort(key=lambda parcel: parcel.message.sender)
        return found

    def _remove(self, parcel: Parcel) -> None:
        key, sender = parcel.message.round, parcel.message.sender
        waiting = self._rounds[key][sender]
        waiting.remove(parcel)
        if not waiting:
            del self._rounds[key][sender]
        if not self._rounds[key]:
            del self._rounds[key]

    def __len__(self) -> int:
        return sum(len(parcels) for there in self._rounds.values() for parcels in there.values())
