"""A machine's supervisor: starts its workers, watches them, agrees with the other machines.

It never trains and never loads torch, so it answers at once, whatever the workers do. Whatever
happens, no process is left behind and the records written so far are turned into results.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Final

from decentralizepy.errors import ConfigError, RunError
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.runfolder import write_legacy_results
from decentralizepy.runtime import provenance, shared
from decentralizepy.runtime.control import ControlPlane, Coordinator, connect
from decentralizepy.runtime.data import partition, prepared_dataset
from decentralizepy.runtime.progress import Progress
from decentralizepy.runtime.settings import Settings
from decentralizepy.runtime.status import Status
from decentralizepy.runtime.workers import (
    WorkerProcesses,
    describe_exit,
    start_server,
    stop_server,
)

#: how long machine 0 waits for the others to say hello
START_TIMEOUT: Final = 300.0
_TICK: Final = 0.2
_TICK_TOGETHER: Final = 0.02


class Supervisor:
    """Runs one machine's part of an experiment."""

    def __init__(self, settings: Settings, flags: dict[str, Any]) -> None:
        self.settings, self.flags = settings, flags
        nodes = len(settings.uids)
        self.nodes = Mapping.spread(nodes, settings.workers).counts
        self.status = Status(settings)
        self._progress = Progress()
        self._memory = shared.create()
        self._built: list[int] = []
        self._counts: list[int] = []
        self._together = False
        self._ready = 0
        self._done = 0
        self._over = False
        self._started = time.monotonic()

    def run(self) -> None:
        """Run to the end; raises `ConfigError`, `RunError` or KeyboardInterrupt."""
        settings = self.settings
        provenance.begin(settings, self.flags)
        start_server(settings.threads)
        control = connect(settings.machine, settings.addresses, settings.experiment.offset)
        outcome = "failed"
        try:
            self._prepare_data()
            workers = WorkerProcesses(settings, self.nodes, self._memory)
            try:
                self._supervise(workers, control)
                workers.close()
                outcome = "done"
            finally:
                workers.kill()
        except KeyboardInterrupt:
            outcome = "interrupted"
            self._tell_failure(control, "it was interrupted")
            raise
        except (ConfigError, RunError) as error:
            self.status.error = str(error)
            self._tell_failure(control, str(error), isinstance(error, ConfigError))
            raise
        finally:
            self._finish(control, outcome)

    def _prepare_data(self) -> None:
        """Prepare the data set once, while the server of the workers still loads torch."""
        settings = self.settings
        dataset = prepared_dataset(settings.experiment, settings.cache_dir, progress=print)
        partition(dataset, settings.mapping.n, settings.experiment)

    def _tell_failure(self, control: ControlPlane, why: str, config: bool = False) -> None:
        if not self._over:
            text = why if why.startswith("machine ") else f"machine {self.settings.machine}: {why}"
            control.say({"failed": text[:4000], "config": config})

    def _finish(self, control: ControlPlane, outcome: str) -> None:
        control.close()
        stop_server()
        os.close(self._memory)
        if self.settings.log_dir.is_dir():
            write_legacy_results(self.settings.folder)
            self.status.write(outcome)
            self._progress.end(self.status.value(outcome), self.settings.log_dir)
            began, seconds = self.status.began, self.status.seconds
            provenance.end(self.settings, outcome, self.status.error, began, seconds)

    # ---------------------------------------------------------------- the loop

    def _supervise(self, workers: WorkerProcesses, control: ControlPlane) -> None:
        digests = provenance.digests(self.settings, self.flags)
        control.say({"hello": True, "workers": self.settings.workers, "digests": digests})
        self._announced(workers, control)
        tick = _TICK if len(self.settings.addresses) == 1 else _TICK_TOGETHER
        while not self._over:
            for number, news in workers.news(tick):
                self._heard(number, news, control)
            self._announced(workers, control)
            self._check_start(control)
            self.status.write_now_and_then("running" if self.status.going else "starting")
            if self.status.going:
                self._progress.now_and_then(lambda: self.status.value("running"))

    def _heard(self, number: int, news: dict[str, Any], control: ControlPlane) -> None:
        if "record" in news:
            self.status.add(news["record"])
        elif "built" in news:
            self._built.append(int(news["built"]))
            if len(self._built) == self.settings.workers:
                self._size_memory()
        elif "ready" in news:
            self._ready += 1
            if self._ready == self.settings.workers:
                control.say({"ready": True})
        elif "finished" in news:
            self.status.finish(news["finished"])
        elif "done" in news:
            self._done += 1
            if self._done == self.settings.workers:
                control.say({"done": True})
        elif "config" in news:
            raise ConfigError(news["config"])
        elif "error" in news:
            raise RunError(news["error"])
        elif "lost" in news:
            raise RunError(self._explain_loss(number, news["lost"], news["round"]))
        elif "kill" in news:  # a fault plan wants this machine to be gone, all at once
            os.kill(os.getpid(), signal.SIGKILL)
        elif "died" in news:
            raise RunError(self._explain_death(number, news["died"]))

    def _announced(self, workers: WorkerProcesses, control: ControlPlane) -> None:
        for news in control.hear():
            if "workers" in news:
                self._together = True
                self._counts = list(news["workers"])
                self._place(workers)
            elif "go" in news:
                workers.tell({"go": True})
                self.status.start()
            elif "end" in news:
                self._over = True
            elif "abort" in news:
                self._over = True
                raise (ConfigError if news.get("config") else RunError)(news["abort"])
        self._place(workers)

    def _size_memory(self) -> None:
        plan = shared.ArenaPlan(self.nodes, self._built[0])
        shared.resize(self._memory, plan)
        self.status.watch(self._memory, plan)

    def _place(self, workers: WorkerProcesses) -> None:
        """Tell the workers who is where, once all are built and all machines are there."""
        if len(self._built) == self.settings.workers and self._counts:
            workers.tell({"workers": self._counts})
            self._counts = []

    def _check_start(self, control: ControlPlane) -> None:
        waited = time.monotonic() - self._started
        if waited < START_TIMEOUT or self._together:
            return
        absent = control.missing() if isinstance(control, Coordinator) else [0]
        missing = ", ".join(str(machine) for machine in absent)
        raise RunError(
            f"machine {missing} did not say hello within {START_TIMEOUT:.0f} s: is it started "
            "with its own -mid, and do all machines have the same ip.json?"
        )

    def _explain_loss(self, number: int, uids: list[int], iteration: int) -> str:
        nodes = ", ".join(str(uid) for uid in uids)
        place = f"machine {self.settings.machine}, worker {number}"
        return f"{place}: node {nodes} was lost in iteration {iteration}"

    def _explain_death(self, number: int, code: int | None) -> str:
        text = f"machine {self.settings.machine}, worker {number} {describe_exit(code)}"
        busy = self.status.busy_with(number)
        if busy is None:
            return f"{text} before it trained any node"
        uid, t = busy
        return f"{text}; it was last busy with node {uid} in iteration {t + 1}"
