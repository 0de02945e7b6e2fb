"""What machine 0 decides for all, without any I/O: facts in, announcements out.

============= ================================================== ==================================
from a machine meaning                                           announced to all
============= ================================================== ==================================
Hello         I am here, with these workers and checkpoint sets  Start: all are here; go on from t
Ready         my workers are built and listening                 Go: all are ready
Saved         my nodes are saved after t iterations              Complete: all are
Ended         so are they in all later ones: all have ended      (as Saved)
Done          all my nodes have finished                         End: all are done
Lost          a worker or a node was lost                        by policy (below)
Paused        my workers rest; none has sent a later round       Leave: who leaves, and when
Failed        something went wrong, and why                      Abort, at once
============= ================================================== ==================================

A loss ends the run (policy ``fail``), or all rest and go on without those nodes (``drop``: `Pause`,
then `Leave`), or all go back to the newest checkpoint (``wait``: `Rollback`, and everybody says
hello again; a machine that was lost has some time to come back). Without machine 0 there is no run.
"""

from __future__ import annotations

import time
from collections import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from decentralizepy.codec import Word
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.node.membership import Epoch, Membership, describe, resumed
from decentralizepy.settings import Resilience
from decentralizepy.words import (
    Abort,
    Complete,
    Done,
    End,
    Ended,
    Failed,
    Go,
    Hello,
    Leave,
    Leaving,
    Lost,
    Pause,
    Paused,
    Ready,
    Rollback,
    Saved,
    Start,
)  # fmt: skip

#: rollbacks to one checkpoint before the run is given up
MOST_VAIN: Final = 3


@dataclass
class Agreement:
    """The coordinator's decisions."""

    mapping: Mapping
    resilience: Resilience = field(default_factory=Resilience)
    now: Callable[[], float] = time.monotonic
    hellos: dict[int, Hello] = field(default_factory=dict)
    said: dict[Ready | Saved | Done, set[int]] = field(default_factory=dict)
    alive: set[int] = field(default_factory=set)
    membership: Membership = field(init=False)
    attempt: int = 0
    began: bool = False
    over: bool = False
    #: the checkpoint from which on a machine saves nothing anew
    _ended: dict[int, int] = field(default_factory=dict)
    #: the first machine that said hello, and the digests that all must have
    _first: tuple[int, abc.Mapping[str, str]] | None = None
    _leaving: dict[int, str] = field(default_factory=dict)
    _dead: set[tuple[int, int]] = field(default_factory=set)
    _pauses: int = 0
    _rounds: dict[int, int] = field(default_factory=dict)
    _agreed_on: set[Word] = field(default_factory=set)
    _deadline: float | None = None
    _from: int = -1
    _vain: int = 0
    _why: str = ""

    def __post_init__(self) -> None:
        self.alive = set(range(self.mapping.machines))
        self.membership = Membership(self.mapping.n)

    def take(self, machine: int, said: Word) -> list[Word]:
        """What to announce to all after what a machine said."""
        if self.over or machine not in self.alive:
            return []
        match said:
            case Failed():
                return self._abort(said.why, said.config)
            case Hello():
                return self._hello(machine, said)
            case Lost():
                return self._loss(said.uids, said.workers, said.why)
            case Paused():
                return self._paused(machine, said)
            case Ended():
                self._ended[machine] = said.iterations
                return self._agreed()
            case Ready() | Saved() | Done():
                self.said.setdefault(said, set()).add(machine)
                return self._agreed()
        return []

    @property
    def may_come_back(self) -> bool:
        """Whether a machine that is lost is waited for."""
        return self.began and self.resilience.on_loss == "wait"

    def unlike(self, machine: int, hello: Hello) -> str | None:
        """Why a machine that says hello is of another run than the first one that did, if so."""
        first, theirs = self._first or (machine, hello.digests)
        ours = hello.digests
        differ = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        if not differ:
            return None
        return (
            f"machine {machine} does not run the same experiment as machine {first}: "
            f"different {', '.join(differ)}; give all machines the same files and flags"
        )

    def lost(self, machine: int, how: str = "its connection broke") -> list[Word]:
        """A machine cannot be reached any more."""
        if self.over or machine not in self.alive:
            return []
        why = f"machine {machine} is gone: {how}"
        if machine == 0:
            return self._abort(why)
        if self.began and self.resilience.on_loss == "drop":
            self.alive.discard(machine)
        dead = [(machine, worker) for worker in range(self._workers[machine])]
        self.hellos.pop(machine, None)
        return self._loss(self.mapping.hosted(machine), dead, why)

    def tick(self) -> list[Word]:
        """What to announce because time has passed."""
        if self.over or self._deadline is None or self.now() < self._deadline:
            return []
        missing = ", ".join(map(str, self.missing()))
        limit = self.resilience.wait_limit
        return self._abort(f"machine {missing} did not come back within {limit:.0f} s (wait_limit)")

    def missing(self) -> list[int]:
        """Machines that are expected to say hello."""
        return [machine for machine in sorted(self.alive) if machine not in self.hellos]

    @property
    def _workers(self) -> list[int]:
        counts = [1] * self.mapping.machines
        for machine, hello in self.hellos.items():
            counts[machine] = hello.workers
        return counts

    def _abort(self, why: str, config: bool = False) -> list[Word]:
        self.over = True
        return [Abort(why, config)]

    # ------------------------------------------------------------------ the way to the end

    def _hello(self, machine: int, hello: Hello) -> list[Word]:
        if hello.attempt not in (None, self.attempt):
            return []  # of before the rollback
        if machine in self.hellos:
            return self._abort(f"two machines claim to be machine {machine} (-mid)", True)
        if why := self.unlike(machine, hello):
            return self._abort(why, True)
        self._first = self._first or (machine, hello.digests)
        self.hellos[machine] = hello
        if self.missing():
            return []
        self._deadline = None
        iteration, left = self._newest()
        if self.attempt and iteration == self._from:
            self._vain += 1
            if self._vain >= MOST_VAIN:
                return self._abort(
                    f"{self._why}; lost {self._vain} times since iteration {iteration}"
                )
        else:
            self._vain = 0
        self._from = iteration
        self.membership = resumed(self.mapping.n, left, iteration)
        return [Start(tuple(self._workers), iteration, left, self.attempt)]

    def _newest(self) -> tuple[int, tuple[Epoch, ...]]:
        """The newest checkpoint set that every machine with nodes in it has, and who had left."""
        sets = {machine: hello.sets for machine, hello in self.hellos.items()}
        for iteration in sorted(sets.get(0, {}), reverse=True):
            left = sets[0][iteration]
            gone = {uid for epoch in left for uid in epoch.left}
            needed = (m for m in self.alive if not gone.issuperset(self.mapping.uids(m)))
            if all(iteration in sets[machine] for machine in needed):
                return iteration, left
        return 0, ()

    def _agreed(self) -> list[Word]:
        """Announce what all machines have said by now."""
        found: list[Word] = []
        for word, machines in sorted(self.said.items(), key=lambda said: _order(said[0])):
            if not machines | self._ended_before(word) >= self.alive or (
                isinstance(word, Done) and self._leaving
            ):
                continue
            if word in self._agreed_on:
                continue
            self._agreed_on.add(word)
            if isinstance(word, Saved):
                found.append(Complete(word.iterations))
            elif word == Ready(self.attempt):
                self.began = True
                found.append(Go())
            elif word == Done(self.attempt):
                self.over = True
                found.append(End())
        return found

    def _ended_before(self, word: Word) -> set[int]:
        """Machines that need not say that they have saved."""
        if not isinstance(word, Saved):
            return set()
        return {machine for machine, since in self._ended.items() if since <= word.iterations}

    # ------------------------------------------------------------------ losses

    def _loss(
        self, uids: Iterable[int], workers: Iterable[tuple[int, int]], why: str
    ) -> list[Word]:
        policy = self.resilience.on_loss
        if not self.began or policy == "fail":
            return self._abort(why)
        if policy == "wait":
            return self._rollback(why)
        self._leaving |= dict.fromkeys(uids, why)
        self._dead |= set(workers)
        if (self.membership.left | self._leaving.keys()).issuperset(range(self.mapping.n)):
            return self._abort(f"{why}; no node is left")
        self._pauses += 1
        self._rounds = {}
        return [Pause(self._pauses)]

    def _paused(self, machine: int, paused: Paused) -> list[Word]:
        if paused.number == self._pauses:
            self._rounds[machine] = paused.round
        return self._epoch()

    def _epoch(self) -> list[Word]:
        """Once everybody rests: who leaves, before the first iteration that nobody has sent in."""
        if not self._leaving or not self._rounds.keys() >= self.alive:
            return []
        whys = "; ".join(dict.fromkeys(self._leaving.values()))
        left = sorted(self._leaving)
        before = max(self._rounds.values()) + 1
        why = f"{whys} ({describe(left)})"
        leaving = Leaving(before, tuple(left), why, tuple(sorted(self._dead)))
        self.membership.add(leaving.epoch)
        self._leaving, self._rounds = {}, {}
        return [Leave(leaving), *self._agreed()]

    def _rollback(self, why: str) -> list[Word]:
        self.attempt += 1
        self._why = why
        self.hellos.clear()
        self.said.clear()
        self._ended.clear()
        self._agreed_on.clear()
        self._deadline = self.now() + self.resilience.wait_limit
        return [Rollback(self.attempt, why)]


def _order(word: Ready | Saved | Done) -> tuple[str, int]:
    """By kind and number, so that all machines hear the same order."""
    return word.tag, word.iterations if isinstance(word, Saved) else word.attempt
