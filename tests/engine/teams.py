"""Workers of one or two machines as threads of this process, with node programs of the test's."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from launching import Experiment

from decentralizepy.codec import Word
from decentralizepy.commands import arguments, flags
from decentralizepy.engine.assemble import Assembly
from decentralizepy.engine.clock import RealClock
from decentralizepy.engine.process import window
from decentralizepy.engine.worker import Worker
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory import shared
from decentralizepy.memory.arena import Arena
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import Report
from decentralizepy.node.node import Node, Program
from decentralizepy.runfolder import MachineFolder

Script = Callable[[Node], Program]
#: workers of each machine
ALONE, NEAR, FAR = (1,), (2,), (1, 1)
LAYOUTS = [ALONE, NEAR, FAR]


class Scripted(Node):
    """A node whose programs are given by uid; those of whom none is given end at once."""

    asynchronous = True

    def __init__(
        self,
        scripts: Mapping[int, Script | Sequence[Script]],
        answers: Mapping[int, Callable[[Node, Message], Message | None]] | None = None,
    ) -> None:
        self.scripts, self.answers = scripts, answers or {}

    def program(self) -> Program:
        return
        yield Report(0)

    def programs(self) -> Sequence[Program]:
        found = self.scripts.get(self.uid, ())
        scripts = found if isinstance(found, Sequence) else (found,)
        return [script(self) for script in scripts] or [self.program()]

    def answer(self, message: Message) -> Message | None:
        found = self.answers.get(self.uid)
        return None if found is None else found(self, message)


class _Over(BaseException):
    """All workers are done, or one has failed."""


class Team:
    """Runs one experiment on several workers; the numbers must not depend on the ``layout``."""

    def __init__(
        self, experiment: Experiment, iterations: int, *more: str, layout: Sequence[int] = ALONE,
        node: Callable[[], Node] | None = None, name: str = "team",
        restore: tuple[str, int] = ("", 0),
    ) -> None:  # fmt: skip
        self.layout, self.told, self.restore = tuple(layout), list[Word](), restore
        self.errors: list[BaseException] = []
        self._done = 0
        self._building = ExitStack()
        root = experiment.folder / name
        n, machines = experiment.graph.n, len(self.layout)
        self._counts = tuple(n // machines + (m < n % machines) for m in range(machines))
        self.workers: list[Worker] = []
        paths = self._building.enter_context(tempfile.TemporaryDirectory())
        for machine, workers in enumerate(self.layout):
            self._machine(experiment, iterations, more, machine, workers, root, paths, node)

    def _machine(
        self, experiment: Experiment, iterations: int, more: Sequence[str], machine: int,
        workers: int, root: Path, paths: str, node: Callable[[], Node] | None,
    ) -> None:  # fmt: skip
        parser = argparse.ArgumentParser()
        flags.add_arguments(parser)
        folder = experiment.folder
        args = parser.parse_args(
            ["-cf", str(folder / "config.ini"), "-gf", str(folder / "graph.edges"), "-is",
             str(iterations), "-ms", str(len(self.layout)), "-ps", *map(str, self._counts), "-mid",
             str(machine), "-ld", str(root / f"machine{machine}"), "--workers", str(workers),
             "-ro", "0", "--cache-dir", str(experiment.cache), *more]
        )  # fmt: skip
        addresses = ("127.0.0.1", "127.0.0.2")[: len(self.layout)]
        settings = replace(arguments.settings_of(args), addresses=addresses)
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        if self.restore[0]:
            old = MachineFolder(experiment.folder / self.restore[0] / f"machine{machine}")
            shutil.copytree(old.checkpoints, settings.folder.checkpoints)
        placement = Placement(settings.mapping, self.layout)
        members = [WorkerId(machine, i) for i in range(workers)]
        # a trainer belongs to one thread
        assemblies = [Assembly(settings, program=node) for _ in members]
        plan = shared.ArenaPlan(
            tuple(len(placement.uids(me)) for me in members), assemblies[0].row_length,
            assemblies[0].named_rows,
        )  # fmt: skip
        memory = shared.create()
        shared.resize(memory, plan)
        for me, assembly in zip(members, assemblies, strict=True):
            self._member(me, assembly, placement, Arena(memory, plan), f"{paths}/{machine}")
        os.close(memory)

    def _member(
        self, me: WorkerId, assembly: Assembly, placement: Placement, arena: Arena, paths: str
    ) -> None:
        settings, sockets = assembly.settings, None
        Path(paths).mkdir(exist_ok=True)
        if sum(self.layout) > 1:
            from decentralizepy.transport.local import LocalSockets

            sockets = LocalSockets(me, paths, settings.addresses, settings.experiment.offset)
            self._building.callback(sockets.close)
            if sockets.wire is not None:
                room = window(settings, placement, me, assembly.row_length)
                sockets.wire.begin(self.layout, room)
        worker = assembly.worker(
            me, placement, arena, sockets=sockets, tell=self.told.append, orders=self._orders
        )
        assembly.restore(worker, self.restore[1])
        self._building.callback(worker.reporter.close)
        self.workers.append(worker)

    def _orders(self) -> tuple[()]:
        if self.errors or self._done == len(self.workers):
            raise _Over
        return ()

    def run(self) -> Team:
        """Run all to the end; raises the first error of any."""
        if self.workers[0]._simulation is None:
            for worker in self.workers:
                worker.clock = RealClock()
        threads = [threading.Thread(target=partial(self._run, one)) for one in self.workers]
        before = torch.get_num_threads()
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        finally:
            torch.set_num_threads(before)
            alive = [thread for thread in threads if thread.is_alive()]
            self.errors += [TimeoutError("a worker hangs")] if alive else []
            self._building.close()
        for error in self.errors:
            raise error
        return self

    def _run(self, worker: Worker) -> None:
        torch.set_num_threads(1)
        try:
            worker.run()
            self._done += 1
            if worker.sockets is not None:
                worker.serve()
        except _Over:
            pass
        except BaseException as error:
            self.errors.append(error)
        finally:
            worker.finish()


def scripted(
    experiment: Experiment,
    scripts: Mapping[int, Script | Sequence[Script]],
    *more: str,
    layout: Sequence[int] = ALONE,
    answers: Mapping[int, Callable[[Node, Message], Message | None]] | None = None,
    kind: type[Scripted] = Scripted,
    iterations: int = 9,
    name: str = "team",
    restore: tuple[str, int] = ("", 0),
) -> Team:
    """Run hand-written programs; nothing is evaluated unless ``more`` says so.

    With ``restore`` they go on from what a team of that name saved after so many iterations.
    """
    flags = more if "-ta" in more else ("-ta", "0", "-tea", "0", *more)
    return Team(
        experiment, iterations, *flags, layout=layout,
        node=partial(kind, scripts, answers), name=name,
        restore=restore,
    ).run()  # fmt: skip
