"""What machine 0 decides for all, without any I/O: facts in, announcements out.

========================= ============================================ =========================
from a machine            meaning                                      announced to all
========================= ============================================ =========================
hello: workers, digests,  I am here, with so many workers and these    workers, from, left: all
sets, attempt             checkpoint sets                              are here; go on from there
ready                     my workers are built and listening           go: all are ready
saved: t                  my nodes are saved after t iterations        complete: t, all have
done                      all my nodes have finished                   end: all are done
lost: uids, workers, why  a worker or a node was lost                  by policy (below)
paused: number, round     my workers rest; none has sent a later round epoch: who leaves and when
failed                    something went wrong, and why                abort, at once
========================= ============================================ =========================

A loss ends the run (policy ``fail``), or all rest and go on without those nodes (``drop``: pause,
then epoch), or all go back to the newest checkpoint (``wait``: rollback, and everybody says hello
again; a machine that was lost has some time to come back). Without machine 0 there is no run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from decentralizepy.mappings.mapping import Mapping
from decentralizepy.node.membership import Epoch, Membership, describe, resumed
from decentralizepy.settings import Resilience

News = dict[str, Any]

#: rollbacks to one checkpoint before the run is given up
MOST_VAIN: Final = 3


@dataclass
class Agreement:
    """The coordinator's decisions."""

    mapping: Mapping
    resilience: Resilience = field(default_factory=Resilience)
    now: Callable[[], float] = time.monotonic
    hellos: dict[int, News] = field(default_factory=dict)
    said: dict[tuple[str, int], set[int]] = field(default_factory=dict)
    alive: set[int] = field(default_factory=set)
    membership: Membership = field(init=False)
    attempt: int = 0
    began: bool = False
    over: bool = False
    #: the first machine that said hello, and the digests that all must have
    _first: tuple[int, dict[str, Any]] | None = None
    _leaving: dict[int, str] = field(default_factory=dict)
    _dead: set[tuple[int, int]] = field(default_factory=set)
    _pauses: int = 0
    _rounds: dict[int, int] = field(default_factory=dict)
    _agreed_on: set[tuple[str, int]] = field(default_factory=set)
    _deadline: float | None = None
    _from: int = -1
    _vain: int = 0
    _why: str = ""

    def __post_init__(self) -> None:
        self.alive = set(range(self.mapping.machines))
        self.membership = Membership(self.mapping.n)

    def take(self, machine: int, news: News) -> list[News]:
        """What to announce to all after ``news`` of a machine."""
        if self.over or machine not in self.alive:
            return []
        if "failed" in news:
            return self._abort(str(news["failed"]), bool(news.get("config")))
        if "hello" in news:
            return self._hello(machine, news)
        if "lost" in news:
            return self._loss(news["lost"], news["workers"], str(news["why"]))
        if "paused" in news:
            return self._paused(machine, news)
        for word in ("ready", "saved", "done"):
            if word in news:
                self.said.setdefault((word, int(news[word])), set()).add(machine)
                return self._agreed()
        return []

    @property
    def may_come_back(self) -> bool:
        """Whether a machine that is lost is waited for."""
        return self.began and self.resilience.on_loss == "wait"

    def unlike(self, machine: int, hello: News) -> str | None:
        """Why a machine that says hello is of another run than the first one that did, if so."""
        first, theirs = self._first or (machine, hello["digests"])
        ours = hello["digests"]
        differ = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        if not differ:
            return None
        return (
            f"machine {machine} does not run the same experiment as machine {first}: "
            f"different {', '.join(differ)}; give all machines the same files and flags"
        )

    def lost(self, machine: int, how: str = "its connection broke") -> list[News]:
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
        return self._loss(self.mapping.uids(machine), dead, why)

    def tick(self) -> list[News]:
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
            counts[machine] = hello["workers"]
        return counts

    def _abort(self, why: str, config: bool = False) -> list[News]:
        self.over = True
        return [{"abort": why, "config": config}]

    # ------------------------------------------------------------------ the way to the end

    def _hello(self, machine: int, news: News) -> list[News]:
        if news.get("attempt", self.attempt) != self.attempt:
            return []  # of before the rollback
        if machine in self.hellos:
            return self._abort(f"two machines say that they are machine {machine} (-mid)", True)
        if why := self.unlike(machine, news):
            return self._abort(why, True)
        self._first = self._first or (machine, news["digests"])
        self.hellos[machine] = news
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
        start = {"from": iteration, "left": left, "attempt": self.attempt}
        return [{"workers": self._workers, **start}]

    def _newest(self) -> tuple[int, list[Any]]:
        """The newest checkpoint set that every machine with nodes in it has, and who had left."""
        sets = {m: {int(t): left for t, left in h["sets"].items()} for m, h in self.hellos.items()}
        for iteration in sorted(sets.get(0, {}), reverse=True):
            left = sets[0][iteration]
            gone = {uid for epoch in left for uid in epoch["left"]}
            needed = (m for m in self.alive if not gone.issuperset(self.mapping.uids(m)))
            if all(iteration in sets[machine] for machine in needed):
                return iteration, left
        return 0, []

    def _agreed(self) -> list[News]:
        """Announce what all machines have said by now."""
        found: list[News] = []
        for (word, number), machines in sorted(self.said.items()):
            if not machines >= self.alive or (word == "done" and self._leaving):
                continue
            if (word, number) in self._agreed_on:
                continue
            self._agreed_on.add((word, number))
            if word == "saved":
                found.append({"complete": number})
            elif number == self.attempt and word == "ready":
                self.began = True
                found.append({"go": True})
            elif number == self.attempt:
                self.over = True
                found.append({"end": True})
        return found

    # ------------------------------------------------------------------ losses

    def _loss(self, uids: Iterable[int], workers: Iterable[Iterable[int]], why: str) -> list[News]:
        policy = self.resilience.on_loss
        if not self.began or policy == "fail":
            return self._abort(why)
        if policy == "wait":
            return self._rollback(why)
        self._leaving |= dict.fromkeys(uids, why)
        self._dead |= {(machine, worker) for machine, worker in workers}
        if len(self.membership.left | self._leaving.keys()) == self.mapping.n:
            return self._abort(f"{why}; no node is left")
        self._pauses += 1
        self._rounds = {}
        return [{"pause": self._pauses}]

    def _paused(self, machine: int, news: News) -> list[News]:
        if news["paused"] == self._pauses:
            self._rounds[machine] = int(news["round"])
        return self._epoch()

    def _epoch(self) -> list[News]:
        """Once everybody rests: who leaves, before the first iteration that nobody has sent in."""
        if not self._leaving or not self._rounds.keys() >= self.alive:
            return []
        whys = "; ".join(dict.fromkeys(self._leaving.values()))
        left = sorted(self._leaving)
        before = max(self._rounds.values()) + 1
        epoch = Epoch(before, tuple(left), f"{whys} ({describe(left)})")
        self.membership.add(epoch)
        announced = {"epoch": epoch.value() | {"workers": sorted(self._dead)}}
        self._leaving, self._rounds = {}, {}
        return [announced, *self._agreed()]

    def _rollback(self, why: str) -> list[News]:
        self.attempt += 1
        self._why = why
        self.hellos.clear()
        self.said.clear()
        self._agreed_on.clear()
        self._deadline = self.now() + self.resilience.wait_limit
        return [{"rollback": self.attempt, "why": why}]
