"""Messages that wait for a node, by round and sender, and what a program waits for."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from itertools import count
from math import inf
from typing import Any, Final

from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.effects import ANY, Everything, Receive, Round
from decentralizepy.node.mail import Mail

#: iterations of which one number notes, a bit for each, that a sender is not wanted in them
_BLOCK: Final = 1024

#: entries of a queue, beside twice the messages that wait, after which stale ones are sorted out
_STALE: Final = 64

_NOBODY: Final[frozenset[int]] = frozenset()
#: nodes that others wait for alone, of which a set is kept
_KEPT_ONES: Final = 4096

#: a message, its place in the order of arrival, and what lives until it is taken out
_Letter = tuple[int, Message, object]
#: what a sender has said in a round: mostly one thing, and then there is no list around it
_Letters = _Letter | list[_Letter]
#: of a message that came: its place in that order, its round and its sender
_Arrival = tuple[int, Round, int]


class Mailbox:
    """What others said to one node and it has not heard yet.

    A sender may say several things in one round; they stay in order. Delivering, asking whether a
    `Receive` is complete, and hearing a few takes the same time whatever the number of senders.
    """

    __slots__ = (
        "_before", "_by_sender", "_closed", "_n", "_newest", "_order", "_queues", "_rounds",
    )  # fmt: skip

    def __init__(self, mail: Mail | None = None) -> None:
        self._newest = (mail or Mail()).newest
        self._rounds: dict[Round, dict[int, _Letters]] = {}
        self._order = count()
        self._before: Round = (0, 0)
        #: rounds that a deadline ended: (averaging round, block) -> who was missing there -> a bit
        #: for each iteration of the block; a slow sender may be far behind, or say several things
        self._closed: dict[tuple[int, int], dict[int, int]] = {}
        #: what came by sender, oldest first; kept only where few messages of each are
        self._by_sender: dict[int, deque[_Arrival]] = {}
        #: what came in a round (in all with `ANY`), where a few were heard, oldest first
        self._queues: dict[Round | Everything, deque[_Arrival]] = {}
        self._n = 0

    def put(self, message: Message) -> bool:
        """Take a message in; False if nobody wants it any more."""
        round_, sender = message.round, message.sender
        if round_ < self._before or (self._closed and self._is_late(round_, sender)):
            return False
        arrival = next(self._order), round_, sender
        if self._newest is not None:
            self._make_room(arrival)
        by_sender = self._rounds.get(round_)
        if by_sender is None:
            by_sender = self._rounds[round_] = {}
        letter = arrival[0], message, message.lease
        letters = by_sender.get(sender)
        if letters is None:
            by_sender[sender] = letter
        elif isinstance(letters, list):
            letters.append(letter)
        else:
            by_sender[sender] = [letters, letter]
        self._n += 1
        if self._queues:
            self._line_up(arrival)
        return True

    def _is_late(self, round_: Round, sender: int) -> bool:
        block, bit = _block(round_)
        missed = self._closed.get(block)
        return missed is not None and missed.get(sender, 0) & bit != 0

    def _make_room(self, arrival: _Arrival) -> None:
        """Drop the oldest of a sender of whom as many wait as may."""
        sender, most = arrival[2], self._newest or 1
        there = self._by_sender.setdefault(sender, deque())
        if len(there) >= most:
            there = self._by_sender[sender] = deque(filter(self._waits, there))
        while len(there) >= most:
            self._take_one(*there.popleft()[1:])
        there.append(arrival)

    def _waits(self, arrival: _Arrival) -> bool:
        """Whether a message that came is still there: of a sender and round the oldest go first."""
        order, round_, sender = arrival
        letters = self._rounds.get(round_, {}).get(sender)
        return letters is not None and _each(letters)[0][0] <= order

    def _take_one(self, round_: Round, sender: int) -> Message:
        """Take out the oldest message of a sender in a round."""
        by_sender = self._rounds[round_]
        message = self._oldest(by_sender, sender, by_sender[sender])
        if not by_sender:
            del self._rounds[round_]
        return message

    def _oldest(self, by_sender: dict[int, _Letters], sender: int, letters: _Letters) -> Message:
        """Take out the oldest message of a sender among those of its round."""
        self._n -= 1
        if isinstance(letters, list):
            letter = letters.pop(0)
            if letters:
                return letter[1]
        else:
            letter = letters
        del by_sender[sender]
        return letter[1]

    # ------------------------------------------------------------------ hearing

    def absent(self, wanted: Receive, gone: frozenset[int] = frozenset()) -> AbstractSet[int]:
        """Which named sources of a `Receive` have not spoken yet; those ``gone`` are not missed.

        A set of several is the caller's own.
        """
        assert wanted.sources is not ANY
        if len(wanted.sources) == 1 and wanted.round is not ANY and not self._closed:
            (uid,) = wanted.sources
            there = self._rounds.get(wanted.round)
            return _NOBODY if uid in gone or (there and uid in there) else _one(uid)
        found = set(wanted.sources)
        if len(found) < len(wanted.sources):  # not as it is made, where it takes a set of its own
            raise _twice(wanted.sources)
        if self._closed:
            self._reopen(wanted.round, wanted.sources)
        if wanted.round is not ANY:
            there = self._rounds.get(wanted.round)
            if there:
                found = found.difference(there)  # takes as long as `found` is, not `there`
        else:
            for there in self._rounds.values():
                found -= there.keys()
        return found - gone if gone else found

    def number(self, round_: Round | Everything, enough: float = inf) -> int:
        """How many messages of a round (of all with `ANY`) wait; counting stops once ``enough``
        are found."""
        if round_ is ANY:
            return self._n
        number = 0
        for letters in self._rounds.get(round_, {}).values():
            number += len(_each(letters))
            if number >= enough:
                break
        return number

    def take(self, wanted: Receive, reason: str = "") -> list[Message | Missing]:
        """Take out what a `Receive` asks for, ascending by uid; absent sources as `Missing`."""
        if wanted.sources is ANY:
            found = self._take_any(wanted)
        elif wanted.round is ANY:
            found = self._take_named(wanted.sources, reason)
        else:
            found = self._take_round(wanted.sources, wanted.round, reason)
            if reason == "deadline":
                self._close(wanted.round, found)
        return found

    def _take_round(
        self, sources: Iterable[int], round_: Round, reason: str
    ) -> list[Message | Missing]:
        there = self._rounds.get(round_, {})
        found: list[Message | Missing] = []
        last, ascending = -(1 << 62), True
        for uid in sources:
            ascending, last = ascending and uid > last, uid
            letters = there.get(uid)
            if letters is None:
                found.append(Missing(uid, reason))
                continue
            found.append(self._oldest(there, uid, letters))
        if not there:
            self._rounds.pop(round_, None)
        if not ascending:
            found.sort(key=lambda item: item.sender)
        return found

    def _take_named(self, sources: Iterable[int], reason: str) -> list[Message | Missing]:
        """Of each source the oldest message of any round."""
        rounds = sorted(self._rounds)
        found: list[Message | Missing] = []
        for uid in sorted(sources):
            first = next((r for r in rounds if uid in self._rounds.get(r, ())), None)
            found.append(Missing(uid, reason) if first is None else self._take_one(first, uid))
        return found

    def _take_any(self, wanted: Receive) -> list[Message | Missing]:
        """Those that came first, in the order of senders, and of each in that of rounds."""
        many = wanted.count
        if many is not None and self.number(wanted.round, many + 1) > many:
            letters = self._take_first(wanted.round, many)
        else:
            letters = self._take_all(wanted.round)
        letters.sort(key=lambda letter: (letter[1].sender, letter[1].round, letter[0]))
        return [message for _, message in letters]

    def _take_all(self, round_: Round | Everything) -> list[tuple[int, Message]]:
        keys = list(self._rounds) if round_ is ANY else [round_]
        letters = [
            (order, message)
            for key in keys
            for waiting in self._rounds.pop(key, {}).values()
            for order, message, _ in _each(waiting)
        ]
        self._n -= len(letters)
        return letters

    def _take_first(self, round_: Round | Everything, many: int) -> list[tuple[int, Message]]:
        """Fewer than there are."""
        queue = self._queues.get(round_)
        if queue is None:
            queue = self._queues[round_] = self._queue_of(round_)
        letters = list[tuple[int, Message]]()
        while len(letters) < many:
            arrival = queue.popleft()
            if self._waits(arrival):
                letters.append((arrival[0], self._take_one(*arrival[1:])))
        return letters

    def _queue_of(self, round_: Round | Everything) -> deque[_Arrival]:
        """All that waits in the order in which it came; queues of rounds that are over go."""
        for key in [key for key in self._queues if key is not ANY and key not in self._rounds]:
            del self._queues[key]
        keys = self._rounds.keys() if round_ is ANY else (round_,)
        return deque(sorted(
            (order, message.round, message.sender)
            for key in keys
            for waiting in self._rounds[key].values()
            for order, message, _ in _each(waiting)
        ))  # fmt: skip

    def _line_up(self, arrival: _Arrival) -> None:
        """Note in its queues what has come."""
        for key in (arrival[1], ANY):
            queue = self._queues.get(key)
            if queue is None:
                continue
            queue.append(arrival)
            if len(queue) > 2 * self._n + _STALE:  # others were heard by name
                self._queues[key] = deque(filter(self._waits, queue))

    def _close(self, round_: Round, found: Iterable[Message | Missing]) -> None:
        """A deadline has passed: nothing that who is missing says in that round is wanted now."""
        missing = {item.sender for item in found if isinstance(item, Missing)}
        if missing:
            block, bit = _block(round_)
            missed = self._closed.setdefault(block, {})
            for sender in missing:
                missed[sender] = missed.get(sender, 0) | bit

    def _reopen(self, round_: Round | Everything, sources: Collection[int]) -> None:
        """Whoever is asked for again is to be heard, however late."""
        if round_ is ANY:
            for block in list(self._closed):
                self._reopen_in(block, -1, sources)
        else:
            self._reopen_in(*_block(round_), sources)

    def _reopen_in(self, block: tuple[int, int], bits: int, sources: Collection[int]) -> None:
        missed = self._closed.get(block)
        if missed is None:
            return
        for sender in missed.keys() & sources:
            missed[sender] &= ~bits
            if not missed[sender]:
                del missed[sender]
        if not missed:
            del self._closed[block]

    # ------------------------------------------------------------------ the rest

    def forget(self, before: Round) -> None:
        """Drop what belongs to earlier rounds, now and when it comes."""
        self._before = max(self._before, before)
        old = [round_ for round_ in self._rounds if round_ < before]
        for round_ in old:
            self._n -= sum(len(_each(letters)) for letters in self._rounds.pop(round_).values())
        for block in [block for block in self._closed if (block[1] + 1) * _BLOCK <= before[0]]:
            del self._closed[block]

    def lets_past(self, round_: Round) -> bool:
        """Whether a message of this round that is heard as it comes may do without the mailbox: it
        is not dropped there, and pushes none out."""
        return self._newest is None and round_ >= self._before

    def clear(self) -> None:
        """Drop everything: nobody is going to read it."""
        self._rounds.clear()
        self._by_sender.clear()
        self._queues.clear()
        self._n = 0

    def oldest(self, gone: frozenset[int] = frozenset()) -> int | None:
        """The first iteration of which there is mail, but of senders that are ``gone``."""
        found = (round_[0] for round_, there in self._rounds.items() if there.keys() - gone)
        return min(found, default=None)

    def waiting(self) -> list[Message]:
        """All messages in the order in which they came, for a checkpoint."""
        letters = [
            letter
            for there in self._rounds.values()
            for waiting in there.values()
            for letter in _each(waiting)
        ]
        return [message for _, message, _ in sorted(letters, key=lambda letter: letter[0])]

    def unwanted(self) -> dict[str, Any]:
        """What is dropped as it comes, as JSON for a checkpoint; `refuse` takes it back."""
        closed = [
            [*block, sender, f"{bits:x}"]
            for block, missed in sorted(self._closed.items())
            for sender, bits in sorted(missed.items())
        ]
        return {"before": list(self._before), "closed": closed}

    def refuse(self, unwanted: Mapping[str, Any]) -> None:
        """Drop what `unwanted` of the mailbox before told of."""
        t, k = unwanted["before"]
        closed = [
            (k, block, sender, int(bits, 16)) for k, block, sender, bits in unwanted["closed"]
        ]
        if not all(type(number) is int for numbers in ((t, k), *closed) for number in numbers):
            raise ValueError("what it does not want is no rounds and nodes")
        self._before = (t, k)
        for k, block, sender, missed in closed:
            self._closed.setdefault((k, block), {})[sender] = missed

    def __len__(self) -> int:
        return self._n


def _each(letters: _Letters) -> Sequence[_Letter]:
    return letters if isinstance(letters, list) else (letters,)


@lru_cache(maxsize=_KEPT_ONES)
def _one(uid: int) -> frozenset[int]:
    """The set of one node: thousands may wait for the same one."""
    return frozenset({uid})


def _twice(sources: Collection[int]) -> ValueError:
    """The error of a `Receive` that names a source twice: the second would be missing."""
    uid = next(uid for uid, times in Counter(sources).items() if times > 1)
    return ValueError(
        f"Receive: sources hold node {uid} twice; one message of each is heard: draw without "
        "replacement, or take sorted(set(...)); several of one are several Receives"
    )


def _block(round_: Round) -> tuple[tuple[int, int], int]:
    """Where a round stands among those that a deadline ended, and its bit there."""
    block, at = divmod(round_[0], _BLOCK)
    return (round_[1], block), 1 << at
