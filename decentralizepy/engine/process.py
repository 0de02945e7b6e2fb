"""The main function of a worker process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import signal
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from decentralizepy.codec import Word, decode, encode
from decentralizepy.engine.assemble import Assembly
from decentralizepy.engine.clock import RealClock
from decentralizepy.engine.worker import Worker, weights
from decentralizepy.errors import ConfigError, RunError, naming
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory.arena import Arena, ArenaPlan
from decentralizepy.messages.header import MessageError
from decentralizepy.node.membership import resumed
from decentralizepy.runfolder import weights_name, write_atomic
from decentralizepy.settings import Settings
from decentralizepy.transport.local import LocalSockets
from decentralizepy.words import (
    ORDERS,
    BadConfig,
    Built,
    Counted,
    Finished,
    Start,
    Stop,
    WorkerDone,
    WorkerFailed,
    WorkerReady,
)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_PR_SET_PDEATHSIG = 1


class Stopped(BaseException):
    """The supervisor said to stop, or is gone."""


class SupervisorPipe:
    """Words between a worker and its supervisor, over a private pipe."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def say(self, word: Word) -> None:
        """Tell the supervisor; raises `Stopped` if it is gone."""
        try:
            self.connection.send_bytes(encode(word))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Stopped from error

    def hear(self) -> Word:
        """The next order; raises `Stopped` if there will be none."""
        try:
            return decode(self.connection.recv_bytes(), ORDERS)
        except (EOFError, ConnectionResetError) as error:
            raise Stopped from error

    def orders(self) -> list[Word]:
        """What the supervisor has said; raises `Stopped` if that is the end. A system call."""
        found = []
        while self.connection.poll():
            found.append(self.hear())
        if any(isinstance(one, Stop) for one in found):
            raise Stopped
        return found


def tune_malloc() -> None:
    """Keep memory of freed activations in the process: each step would fault it in again.

    Above its threshold glibc maps every allocation afresh; a step then costs hundreds of page
    faults. Elsewhere (musl, macOS) there is nothing to tune.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def tune_collector(nodes: int) -> None:
    """Have the garbage collector look seldom, and never at what is there for good."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*collector_threshold(nodes))


def collector_threshold(nodes: int) -> tuple[int, int, int]:
    """How many new objects it takes for a look, for `gc.set_threshold`.

    What nodes send and hear is freed by counting references; cycles are rare. Mail that waits is
    no reason to look: a node has some twenty objects of it.
    """
    return 50_000 + 100 * nodes, 50, 100


def die_with_parent() -> None:
    """Have the kernel end this process with its parent, whatever it is doing then (on Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(
    settings: Settings, nodes: tuple[int, ...], worker: int, memory: Any, line: Connection,
    sockets: str,
) -> None:  # fmt: skip
    """Build the worker, wait for the start, run, save the weights, wait for the stop.

    ``nodes`` counts the nodes of each worker of this machine; ``memory`` is the shared file, which
    the supervisor sizes once a worker has told the length of a row.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides what Ctrl-C means
    tune_malloc()
    torch.set_num_threads(settings.threads)
    supervisor = SupervisorPipe(line)
    me = WorkerId(settings.machine, worker)
    with contextlib.suppress(Stopped):
        try:
            _work(settings, me, nodes, memory.detach(), supervisor, sockets)
        except ConfigError as error:
            supervisor.say(BadConfig(str(naming(error, settings.experiment.path))))
        except RunError as error:
            supervisor.say(WorkerFailed(str(error)))
        except MessageError as error:
            supervisor.say(WorkerFailed(f"{me}: refused a message: {error}"))
        except Exception as error:
            text = f"{me}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
            supervisor.say(WorkerFailed(text))


def _work(
    settings: Settings,
    me: WorkerId,
    nodes: tuple[int, ...],
    memory: int,
    supervisor: SupervisorPipe,
    sockets: str,
) -> None:
    alone = len(nodes) == 1 and len(settings.addresses) == 1
    offset = settings.experiment.offset
    links = None if alone else LocalSockets(
        me, sockets, settings.addresses, offset,
        key=settings.key, peer_timeout=settings.transport.peer_timeout, give_up=give_up(settings),
    )  # fmt: skip
    assembly = Assembly(settings)
    supervisor.say(Built(assembly.row_length, assembly.named_rows))
    start = supervisor.hear()
    if not isinstance(start, Start):
        raise Stopped
    placement = Placement(settings.mapping, start.workers)
    if links is not None and links.wire is not None:
        links.wire.begin(start.workers, window(settings, placement, me, assembly.row_length))
    arena = Arena(memory, ArenaPlan(nodes, assembly.row_length, assembly.named_rows))
    worker = assembly.worker(
        me, placement, arena, sockets=links, tell=supervisor.say, orders=supervisor.orders,
        membership=resumed(settings.mapping.n, start.left, start.iteration),
    )  # fmt: skip
    past = assembly.restore(worker, start.iteration)
    tune_collector(len(worker.seats))
    supervisor.say(WorkerReady(me.worker, past))
    supervisor.hear()
    real = RealClock(past)
    if settings.simulation is None:
        worker.clock = real
    try:
        try:
            worker.run()
        except Stopped:
            worker.evaluations.silence()
            raise
        finally:
            worker.finish()
        supervisor.say(Finished(real.now()))
        if links is not None and links.wire is not None:
            supervisor.say(Counted(links.wire.summary()))
        _save(worker, settings)
        supervisor.say(WorkerDone(me.worker))
        worker.serve()
    finally:
        worker.reporter.close()
        if links is not None:
            links.close()


def give_up(settings: Settings) -> float:
    """Seconds after which a worker that cannot be reached fails the run.

    Where losses are to be survived the supervisors act before: they drop the machine, or wait.
    """
    resilience = settings.resilience
    silence = resilience.peer_timeout
    if resilience.on_loss == "fail":
        return silence
    waited = resilience.wait_limit if resilience.on_loss == "wait" else 0.0
    return 2 * silence + 10 + waited


def window(settings: Settings, placement: Placement, me: WorkerId, row_length: int) -> int:
    """Bytes of a worker's messages that may wait unread at one worker elsewhere.

    That is its nodes' share of ``mailbox_budget``. By default there is room for eight rows of each
    node, and a GB: synchronous nodes are never more than two rounds ahead of one another.
    """
    mine = len(placement.uids(me))
    budget = settings.transport.mailbox_budget
    if budget is None:
        return (1 << 30) + 8 * 4 * row_length * mine
    return int(budget * 1e6 * mine / settings.mapping.n)


def _save(worker: Worker, settings: Settings) -> None:
    if not settings.intervals.iterations:
        return
    for uid, state in weights(worker).items():
        name = weights_name(settings.intervals.iterations - 1, uid)
        _save_one(settings.weights_dir / name, state)
        worker.attend()  # nodes of others may still wait for what ours have said, or for answers


def _save_one(path: Path, state: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save

    try:
        write_atomic(path, save({key: value.cpu().contiguous() for key, value in state.items()}))
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}; the records are whole (-wsd)"
        ) from error
