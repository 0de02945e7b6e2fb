"""One start of a machine's workers, from the first hello to the end, or to a rollback."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from decentralizepy.codec import Word
from decentralizepy.engine.checkpoints import CheckpointSets
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.mappings.placement import Placement, WorkerId, spread
from decentralizepy.memory import shared
from decentralizepy.node.membership import Epoch, epochs_of, resumed
from decentralizepy.settings import Settings
from decentralizepy.supervision import provenance
from decentralizepy.supervision.control import ControlPlane, Coordinator
from decentralizepy.supervision.progress import Progress, say
from decentralizepy.supervision.status import Status
from decentralizepy.supervision.workers import (
    NOBODY_KNOWS,
    Died,
    Server,
    WorkerProcesses,
    describe_exit,
)
from decentralizepy.words import (
    Abort,
    BadConfig,
    Built,
    Complete,
    Counted,
    Done,
    End,
    Ended,
    Finished,
    Go,
    Hello,
    KillMachine,
    Leave,
    Lost,
    NodeEnded,
    NodeSaved,
    NodesLeft,
    NodesLost,
    Note,
    Pause,
    Paused,
    Ready,
    Record,
    Rollback,
    Saved,
    Start,
    WorkerDone,
    WorkerFailed,
    WorkerPaused,
    WorkerReady,
)  # fmt: skip

#: how long machine 0 waits for the others to say hello
#: after how long it is said who is waited for
PATIENCE: Final = 5.0
#: how long machine 0 waits if what was said was sealed with another key
KEY_TIMEOUT: Final = 5.0
#: how long the end of the workers' server may take
_SERVER_PATIENCE: Final = 2.0
#: how long workers of a run that failed may take to write what they know
_LAST_WORDS_S: Final = 5.0
_TICK: Final = 0.2
_TICK_TOGETHER: Final = 0.02


class Attempt:
    """Drives the workers of one machine; `run` says how it went."""

    def __init__(
        self,
        settings: Settings,
        digests: dict[str, str],
        control: ControlPlane,
        status: Status,
        progress: Progress,
    ) -> None:
        self.settings, self.control, self.status = settings, control, status
        self.over = False
        self._digests, self._progress = digests, progress
        self._sets = CheckpointSets(settings.folder)
        self._server: Server
        hosted = settings.hosted
        self._nodes = spread(len(hosted), len(hosted) - len(settings.uids), settings.workers)
        self._memory = shared.create()
        self._live = set(range(settings.workers))
        self._built: list[int] = []
        self._named = 1
        self._start: Start | None = None
        self._together = False
        self._number = 0
        self._ready: set[int] = set()
        self._done: set[int] = set()
        #: checksums of the files of nodes by iteration, until their set is complete
        self._saved: defaultdict[int, dict[int, int]] = defaultdict(dict)
        self._told: set[int] = set()
        self._ended = False
        self._pause = 0
        self._rounds: dict[int, int] = {}
        self._rollback: int | None = None
        self._began = self._doubted = time.monotonic()
        self._waits = False
        self._beats: dict[int, tuple[int, float]] = {}

    def run(self, server: Server, number: int | None) -> int | None:
        """Run to the end: None. Or until all machines start again: the number of that attempt.

        ``number`` is that of this attempt; a process that was just started does not know it.
        """
        self._server = server
        workers = WorkerProcesses(self.settings, self._nodes, self._memory, server)
        try:
            self._say_hello(number)
            self._supervise(workers)
            if self._rollback is None:
                workers.close()
        except BaseException:
            self._halt(workers)
            raise
        finally:
            workers.kill()
            self.status.forget()
            os.close(self._memory)
        return self._rollback

    def _halt(self, workers: WorkerProcesses) -> None:
        """The run has failed: have the workers write the records that wait for others."""
        if self.status.going:
            workers.halt(self._call_all, _LAST_WORDS_S)

    def _say_hello(self, number: int | None) -> None:
        again = self.settings.resume or number is not None
        sets = self._sets.usable(verify=True) if again else []
        left = {t: epochs_of((self._sets.read(t) or {"left": []})["left"]) for t in sets}
        self.control.say(Hello(self.settings.workers, self._digests, left, number))

    def _supervise(self, workers: WorkerProcesses) -> None:
        self._announced(workers)
        tick = _TICK if len(self.settings.addresses) == 1 else _TICK_TOGETHER
        while not self.over and self._rollback is None:
            for number, word in workers.news(tick):
                self._heard(number, word, workers)
            self._announced(workers)
            self._check_start()
            self._check_progress(workers)
            self.status.write_now_and_then("running" if self.status.going else "starting")
            if self.status.going:
                self._progress.now_and_then(lambda: self.status.value("running"))

    # ----------------------------------------------------------- what workers say

    def _heard(self, number: int, said: Word | Died, workers: WorkerProcesses) -> None:
        match said:
            case Record():
                self.status.add(said.columns)
            case NodeSaved():
                self._saved[said.iterations][said.uid] = said.crc32
                self._check_saved()
            case NodeEnded():
                self._sets.end(said.uid, said.iterations, said.crc32)
                self._check_saved()
            case Built():
                self._has_built(said)
            case WorkerReady():
                self._is_ready(number, said.past)
            case WorkerPaused():
                if said.number == self._pause:
                    self._rounds[number] = said.round
                self._check_paused()
            case Finished():
                self.status.finish(said.seconds)
            case Counted():
                self.status.transport.add(said.counts)
            case WorkerDone():
                self._done.add(number)
                self._check_done()
            case NodesLost():
                self._lose(said.uids, (), self._explain_loss(number, said))
            case NodesLeft():
                self._note_epoch(said.epoch)
            case Note():
                self.status.note(said.text)
            case Died():
                self._died(number, self._explain_death(number, said.code), workers)
            case _:
                self._end(said)

    def _end(self, said: Word) -> None:
        """What ends the run, or this very process."""
        match said:
            case KillMachine():  # a fault plan wants this machine to be gone, all at once
                os.kill(os.getpid(), signal.SIGKILL)
            case BadConfig():
                raise ConfigError(said.text)
            case WorkerFailed():
                raise RunError(said.text)

    def _has_built(self, said: Built) -> None:
        self._built.append(said.row_length)
        self._named = said.named
        if len(self._built) == self.settings.workers:
            self._size_memory()

    def _is_ready(self, number: int, past: float) -> None:
        self._ready.add(number)
        self.status.past = max(self.status.past, past)
        if len(self._ready) == self.settings.workers:
            self.control.say(Ready(self._number))

    def _died(self, number: int, why: str, workers: WorkerProcesses) -> None:
        if self.settings.resilience.on_loss == "fail" or not self.status.going:
            raise RunError(why)
        workers.bury(number)
        self._live.discard(number)
        me = self.settings.machine
        assert self._start is not None, "a run that goes has been placed"
        placement = Placement(self.settings.mapping, self._start.workers)
        self._lose(placement.uids(WorkerId(me, number)), ((me, number),), why)

    def _lose(self, uids: Iterable[int], workers: tuple[tuple[int, int], ...], why: str) -> None:
        if self.settings.resilience.on_loss == "fail":
            raise RunError(why)
        self.status.note(why)
        lost = sorted(set(uids) - self.status.membership.left)
        self.control.say(Lost(tuple(lost), workers, why))

    def _check_saved(self) -> None:
        members = self._members()
        for iteration, saved in list(self._saved.items()):
            here = saved.keys() | self._sets.ended(iteration)
            if here >= members and iteration not in self._told:
                self._told.add(iteration)
                self.control.say(Saved(iteration))
        self._check_ended(members)

    def _check_ended(self, members: set[int]) -> None:
        """Say once from which checkpoint on no node of this machine saves anything."""
        first = self._sets.all_ended(members)
        if first and not self._ended:
            self._ended = True
            self.control.say(Ended(first))

    def _note_checkpoints(self) -> None:
        """Say which checkpoints never became complete; nobody can resume from them."""
        intervals = self.settings.intervals
        due = 0 < intervals.checkpoint_after < intervals.iterations
        for note in self._sets.shortcomings(self._saved, self._members(), due):
            self.status.note(note)

    def _members(self) -> set[int]:
        """This machine's nodes that take part."""
        return set(self.settings.hosted) - self.status.membership.left

    def _check_paused(self) -> None:
        if self._pause and self._rounds.keys() >= self._live:
            least = max((self._rounds[number] for number in self._live), default=-1)
            self.control.say(Paused(self._pause, least))

    def _check_done(self) -> None:
        if self._done >= self._live:
            self.control.say(Done(self._number))

    # ------------------------------------------------------- what is announced to all

    def _announced(self, workers: WorkerProcesses) -> None:
        for news in self.control.hear():
            match news:
                case Start():
                    self._begin(news)
                case Go():
                    workers.tell(news)
                    self.status.start()
                    provenance.training(self.settings, self.status)
                case Pause():
                    self._pause, self._rounds = news.number, {}
                    self._order(workers, news)
                    self._check_paused()
                case Leave():
                    self._leave(news, workers)
                case Complete():
                    self._complete(news.iterations)
                case Rollback():
                    self._rollback = news.attempt
                    self.status.note(f"{news.why}; all go back to the newest checkpoint")
                    return
                case End():
                    self.over = True
                    self._note_checkpoints()
                case Abort():
                    self.over = True
                    raise (ConfigError if news.config else RunError)(news.why)
        self._place(workers)

    def _begin(self, start: Start) -> None:
        self._together, self.status.past = True, 0.0
        self._start, self._number = start, start.attempt
        self.status.membership = resumed(self.settings.mapping.n, start.left, start.iteration)
        self.status.round_start = start.iteration
        if start.iteration:
            self.status.note(f"resuming after iteration {start.iteration}")
        elif self.settings.resume or self._number:
            self.status.note(
                "no checkpoint is complete on all machines: starting from the beginning"
            )

    def _place(self, workers: WorkerProcesses) -> None:
        """Tell the workers who is where, once all are built and all machines are there."""
        if len(self._built) == self.settings.workers and self._start and not self._beats:
            self._beats = {number: (-1, time.monotonic()) for number in self._live}
            workers.tell(self._start)

    def _leave(self, leave: Leave, workers: WorkerProcesses) -> None:
        self._note_epoch(leave.who.epoch)
        self._order(workers, leave)
        self._check_saved()
        self._check_done()

    def _note_epoch(self, epoch: Epoch) -> None:
        self.status.membership.add(epoch)
        self.status.note(epoch.note)

    def _order(self, workers: WorkerProcesses, order: Word) -> None:
        workers.tell(order)
        self._call_all()

    def _call_all(self) -> None:
        for number in self._live:
            self.status.call(number)

    def _complete(self, iteration: int) -> None:
        members, saved = self._members(), self._saved.pop(iteration, {})
        checksums = {uid: crc32 for uid, crc32 in saved.items() if uid in members}
        try:
            checksums |= self._sets.carry_on(iteration, members)
            self._sets.complete(iteration, checksums, self.status.membership.value())
        except OSError as error:
            raise RunError(
                f"cannot write {self._sets.folder(iteration)}: {error.strerror}; "
                "earlier checkpoints are whole"
            ) from None

    def _size_memory(self) -> None:
        plan = shared.ArenaPlan(self._nodes, self._built[0], self._named)
        shared.resize(self._memory, plan)
        self.status.watch(self._memory, plan)

    # ------------------------------------------------------------------ patience

    def _check_start(self) -> None:
        if self._together:
            return
        now, doubted = time.monotonic(), self.control.doubted
        absent = self.control.missing() if isinstance(self.control, Coordinator) else [0]
        if not self._waits and now - self._began > PATIENCE:
            self._waits = True
            say(f"waiting for machine {_listed(absent)}")
        if self._number:  # how long is up to the agreement
            return
        if not doubted:
            self._doubted = now
        elif now - self._doubted >= KEY_TIMEOUT:
            raise ConfigError(
                f"machine {_listed(doubted)} has not joined, but something tried to in its "
                "name that does not have our run key: copy the same run.key to all machines, "
                "or set encryption = none on all"
            )
        patience = self.settings.resilience.start_timeout
        if now - self._began < patience:
            return
        raise RunError(
            f"machine {_listed(absent)} did not say hello within {patience:.0f} s: is it "
            "started with its own -mid, and do all machines have the same ip.json?"
        )

    def _check_progress(self, workers: WorkerProcesses) -> None:
        """End workers whose main loop has made no progress for too long."""
        limit, now = self.settings.resilience.progress_limit, time.monotonic()
        if not self.status.going:
            placed = min((since for _, since in self._beats.values()), default=now)
            limit = max(
                limit, self.settings.resilience.start_timeout
            )  # other machines may have just begun to load torch
            if now - placed > limit:
                late = _listed(self._live - self._ready) or "none here, but on another machine"
                raise RunError(
                    f"machine {self.settings.machine}: not ready to train within {limit:g} s "
                    f"(progress limit); workers not ready: {late}"
                )
            return
        for number in sorted(self._live):
            beats = self.status.beats(number)
            if beats != self._beats[number][0]:
                self._beats[number] = beats, now
            elif now - self._beats[number][1] > limit:
                why = self._explain(
                    number, f"has made no progress for {limit:g} s (progress limit)"
                )
                workers.kill_one(number)
                self._died(number, why, workers)

    def _explain_loss(self, number: int, lost: NodesLost) -> str:
        nodes = ", ".join(map(str, lost.uids))
        place = f"machine {self.settings.machine}, worker {number}"
        return f"{place}: node {nodes} was lost in iteration {lost.round}"

    def _explain_death(self, number: int, code: int | None) -> str:
        ended = self._server.ended(_SERVER_PATIENCE) if code == NOBODY_KNOWS else None
        if ended is None:
            return self._explain(number, describe_exit(code))
        what = f"ended with the server of the workers, which {ended}"
        return self._explain(number, what)

    def _explain(self, number: int, what: str) -> str:
        text = f"machine {self.settings.machine}, worker {number} {what}"
        busy = self.status.busy_with(number)
        if busy is None:
            return f"{text} before it trained any node"
        uid, t = busy
        return f"{text}; it was last busy with node {uid} in iteration {t + 1}"


def _listed(machines: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(machines)))
