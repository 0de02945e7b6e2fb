"""Starts the worker processes of a machine and watches over them; free of torch itself.

One server process imports torch once and forks every worker from it, so that workers start at
once and share the pages of the libraries. It never computes, which makes the fork safe.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import DupFd
from typing import Any, Final

from decentralizepy.codec import Word, WordError, decode, encode
from decentralizepy.errors import RunError
from decentralizepy.registry import Target
from decentralizepy.settings import Settings
from decentralizepy.supervision.socketfolder import SocketFolder
from decentralizepy.words import FROM_WORKERS, Stop

_PRELOAD: Final = "decentralizepy.engine.preload"
_PRELOAD_OPTIMIZERS: Final = "decentralizepy.engine.preload_optimizers"
_POLL_S: Final = 0.02
#: what multiprocessing gives as the exit code of a worker that its server can tell nothing of
NOBODY_KNOWS: Final = 255


class Server:
    """The process that workers are forked from, and the private folder of all their sockets."""

    def __init__(self, threads: int, optimizer: Target) -> None:
        """Start it; it loads torch while we go on, and what ``optimizer`` needs."""
        self.folder = SocketFolder()
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)
        ours = (optimizer.module.split(".")[:2], optimizer.name) == (["torch", "optim"], "SGD")
        forkserver.set_forkserver_preload([_PRELOAD] if ours else [_PRELOAD, _PRELOAD_OPTIMIZERS])
        # its own socket goes there too: the folder that it would make stays when we are killed
        multiprocessing.current_process()._config["tempdir"] = self.folder.name  # type: ignore[attr-defined]
        _start_deaf()

    def ended(self, patience: float = 0.0) -> str | None:
        """How it ended, as `describe_exit` says it, if it did: no worker outlives it.

        It is looked at for ``patience`` seconds; who dies closes its files first.
        """
        until = time.monotonic() + patience
        while (
            code := _exit_code(getattr(forkserver._forkserver, "_forkserver_pid", None))
        ) is None:
            if time.monotonic() >= until:
                return None
            time.sleep(_POLL_S)
        return describe_exit(code)

    def stop(self) -> None:
        """End it at once, and with it workers that nobody knows yet, and remove the folder.

        Asked to end, it would wait for a worker whose start was interrupted.
        """
        pid, stop = _pid(), getattr(forkserver._forkserver, "_stop", None)
        with contextlib.suppress(OSError, ValueError):
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            if stop is not None:
                stop()
        self.folder.remove()


def _pid() -> int | None:
    """Process id of the server that multiprocessing has started."""
    return getattr(forkserver._forkserver, "_forkserver_pid", None)


def _start_deaf() -> None:
    """Start the server, which must not hear the Ctrl-C that is meant for us while it loads.

    It inherits what is blocked; so does the tracker of shared memory, which would unblock it.
    """
    resource_tracker.ensure_running()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _exit_code(pid: int | None) -> int | None:
    """Of a child that has ended, -number for a signal; who collects children still finds it."""
    if pid is None or not hasattr(os, "waitid"):
        return None
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return None
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


@dataclass
class Handle:
    """One worker process and the pipe to it."""

    number: int
    process: Any
    line: Connection


@dataclass(frozen=True)
class Died:
    """A worker process has ended; ``code`` is negative for a signal."""

    code: int | None


class WorkerProcesses:
    """The worker processes of one machine."""

    def __init__(
        self, settings: Settings, nodes: tuple[int, ...], memory: int, server: Server
    ) -> None:
        self._sockets = tempfile.TemporaryDirectory(prefix="", dir=server.folder.name)
        self.handles: list[Handle] = []
        try:
            for number in range(len(nodes)):
                self._start(number, settings, nodes, memory)
        except BaseException:
            self.kill()
            raise

    def _start(self, number: int, settings: Settings, nodes: tuple[int, ...], memory: int) -> None:
        from decentralizepy.supervision import workers

        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=workers.enter,
            args=(settings, nodes, number, _Descriptor(memory), theirs, self._sockets.name),
            daemon=True,
        )
        try:
            process.start()
        except BaseException:  # whoever was forked all the same ends when its line does
            ours.close()
            raise
        finally:
            theirs.close()
        self.handles.append(Handle(number, process, ours))

    def tell(self, order: Word) -> None:
        """Tell all workers."""
        for handle in self.handles:
            with contextlib.suppress(OSError):
                handle.line.send_bytes(encode(order))

    def news(self, timeout: float) -> Iterator[tuple[int, Word | Died]]:
        """What workers say, as (number, word), and which have `Died`."""
        by_line = {handle.line: handle for handle in self.handles if not handle.line.closed}
        sentinels = {handle.process.sentinel: handle for handle in self.handles}
        if not sentinels:  # all workers are lost; the machine waits for the others' end
            time.sleep(timeout)
            return
        found = wait([*by_line, *sentinels], timeout)
        for item in found:  # words before deaths: a dying worker may have said why
            if item in by_line:
                yield from self._heard(by_line[item])
        for item in found:
            if item in sentinels:
                handle = sentinels[item]
                yield from self._heard(handle)
                handle.process.join(1)
                yield handle.number, Died(handle.process.exitcode)

    def _heard(self, handle: Handle) -> Iterator[tuple[int, Word]]:
        try:
            while not handle.line.closed and handle.line.poll():
                yield handle.number, decode(handle.line.recv_bytes(), FROM_WORKERS)
        except (EOFError, OSError):
            handle.line.close()
        except WordError as error:
            raise RunError(f"worker {handle.number} sent an unknown message: {error}") from None

    def bury(self, number: int) -> None:
        """A worker is dead and nobody waits for it."""
        for handle in [one for one in self.handles if one.number == number]:
            self.handles.remove(handle)
            handle.line.close()

    def kill_one(self, number: int) -> None:
        """End one worker at once."""
        for handle in self.handles:
            if handle.number == number:
                handle.process.kill()
                handle.process.join(5)

    def close(self, patience: float = 5.0) -> None:
        """Stop all workers, kindly first, and remove their sockets."""
        self.tell(Stop())
        for handle in self.handles:
            handle.process.join(patience)
        self.kill()

    def halt(self, rouse: Callable[[], None], patience: float) -> None:
        """Stop all workers that can be reached within ``patience`` seconds: they write what they
        know. ``rouse`` has them look at their orders."""
        self.tell(Stop())
        rouse()
        deadline = time.monotonic() + patience
        for handle in self.handles:
            handle.process.join(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """End all workers at once."""
        for handle in self.handles:
            if handle.process.is_alive():
                handle.process.kill()
        for handle in self.handles:
            handle.process.join(5)
            handle.line.close()
        with contextlib.suppress(OSError):
            self._sockets.cleanup()


class _Descriptor:
    """A file descriptor that travels to the worker with its arguments."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        return _identity, (DupFd(self._fd),)


def _identity(value: Any) -> Any:
    return value


def enter(*arguments: Any) -> None:
    """Entry of a worker process; torch is loaded there already, and only there."""
    from decentralizepy.engine.process import main

    main(*arguments)


def describe_exit(code: int | None) -> str:
    """``was killed by SIGKILL`` or ``ended with exit code 3``."""
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
