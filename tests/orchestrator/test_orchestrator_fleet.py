"""What the fleet makes of hosts that answer, fall silent, or have ended, in any order."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from decentralizepy.errors import RunError
from decentralizepy.runfolder import RunFolder
from orchestrator.errors import DetachedError
from orchestrator.hosts.base import Job, Seen, UnreachableError
from orchestrator.running import fleet, losses, sight
from orchestrator.running.execution import Execution, Loss
from orchestrator.running.fleet import Fleet

RUNNING, DONE = Seen("running", status={"state": "running"}), Seen("ended", 0)


@dataclass
class ScriptedHost:
    """Gives its answers one after the other, then the last one for ever; None is silence."""

    answers: list[Seen | None]
    in_place: bool = False
    asked: int = field(default=0)
    dead: bool = False
    calls: list[str] = field(default_factory=list)

    def poll(self, job: Job) -> Seen:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if answer is None:
            raise UnreachableError("no answer")
        return answer

    def tail(self, job: Job, lines: int) -> str:
        return "the last words"

    def fetch(self, job: Job, folder: Path) -> None:
        """Nothing is there to bring home."""
        self._answer("fetch")

    def remove(self, root: str) -> None:
        self._answer("remove")

    def _answer(self, what: str) -> None:
        self.calls.append(what)
        if self.dead:
            raise UnreachableError("no answer")

    def close(self) -> None:
        """There is no connection."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (fleet, "WATCH_S"), (fleet, "PACE_S"), (losses, "LINGER_S"), (losses, "TOLD_S"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, 0.02)


def execution(tmp_path: Path, on_loss: str, *answers: list[Seen | None]) -> Execution:
    """On scripted hosts."""
    config = SimpleNamespace(
        ON_LOSS=on_loss, HOST_TIMEOUT=0.05, WAIT_LIMIT=0.1, COLLECT_AFTER=60.0,
        walltime_seconds=None, records_nothing=True,
    )  # fmt: skip
    folder = RunFolder(Path("/r"))
    places = [
        SimpleNamespace(host=f"host-{m}", root="/r", deposit="", folder=folder)
        for m in range(len(answers))
    ]
    plan: Any = SimpleNamespace(config=config, places=places, command=lambda machine, again: [])
    backend: Any = SimpleNamespace(remote=True, grace_s=0.1, environment=lambda plan, machine: {})
    hosts: Any = [ScriptedHost(list(one)) for one in answers]
    return Execution(plan, RunFolder(tmp_path), hosts, backend)


def watched(
    tmp_path: Path, on_loss: str, *answers: list[Seen | None], held: bool = True
) -> Execution:
    """An execution that was watched to its end."""
    found = execution(tmp_path, on_loss, *answers)
    machines = Fleet(found, held=lambda: held)
    try:
        machines.watch(lambda statuses: None)
    finally:
        machines.close()
    return found


def test_a_host_lost_while_the_others_train_is_dropped(tmp_path: Path) -> None:
    steady: list[Seen | None] = [RUNNING] * 30
    found = watched(tmp_path, "drop", [*steady, DONE], [RUNNING, None])
    assert [loss.machine for loss in found.losses] == [1] and found.gone == {1}


def test_a_host_whose_silence_is_noticed_after_the_others_end_is_dropped(tmp_path: Path) -> None:
    """The core had gone on without it and was done before its silence was long enough."""
    found = watched(tmp_path, "drop", [RUNNING, DONE], [RUNNING, None])
    assert [loss.machine for loss in found.losses] == [1]


@pytest.mark.parametrize("policy", ["fail", "wait"])
def test_the_other_policies_do_not_do_without_it(policy: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"machine 1 \(host-1\) failed, its host does not answer"):
        watched(tmp_path, policy, [RUNNING, DONE], [RUNNING, None])


@pytest.mark.parametrize("policy", ["fail", "drop", "wait"])
@pytest.mark.parametrize("end", [None, Seen("absent", None), Seen("ended", 137)])
def test_no_host_is_to_blame_where_the_job_has_ended(
    end: Seen | None, policy: str, tmp_path: Path
) -> None:
    """Its machines go one by one; others still answer."""
    steady: list[Seen | None] = [RUNNING] * 30
    with pytest.raises(RunError, match="not ours any more"):
        watched(tmp_path, policy, [*steady, DONE], [RUNNING, end], held=False)


def test_what_ends_by_itself_is_to_blame_whoever_has_the_machines(tmp_path: Path) -> None:
    steady: list[Seen | None] = [RUNNING] * 30
    with pytest.raises(RunError, match="machine 1"):
        watched(tmp_path, "fail", [*steady, DONE], [RUNNING, Seen("ended", 4)], held=False)


def test_a_run_whose_machine_0_failed_has_failed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="machine 1"):
        watched(tmp_path, "drop", [RUNNING, Seen("ended", 4)], [RUNNING, None])


def test_a_host_that_is_waited_for_does_not_keep_a_run_that_has_ended(tmp_path: Path) -> None:
    """To machine 0 it was well, or back; to us it never answered again."""
    steady: list[Seen | None] = [RUNNING] * 30
    with pytest.raises(RunError, match=r"machine 1 \(host-1\) failed, its host does not answer"):
        watched(tmp_path, "wait", [*steady, DONE], [RUNNING, None])


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("policy", ["wait", "fail", "drop"])
def test_we_leave_where_no_host_answers(
    policy: str, hosts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be our own connection, so nothing is ended; but nobody is waited for for ever."""
    if policy != "wait":
        monkeypatch.setattr(sight, "ALONE_S", 0.2)
    with pytest.raises(DetachedError, match="no host has answered for"):
        watched(tmp_path, policy, *[[RUNNING, None]] * hosts)


@pytest.mark.parametrize("known", [True, False])
def test_a_host_that_does_not_answer_is_not_asked_again_and_again(
    known: bool, tmp_path: Path
) -> None:
    """Once to collect, unless its silence is long enough already; and not to remove anything."""
    found = execution(tmp_path, "drop", [RUNNING, DONE], [RUNNING, None] if known else [DONE])
    machines = Fleet(found)
    dead: Any = found.hosts[1]
    machines.watch(lambda statuses: None)
    dead.dead = True
    if not known:
        found.losses.append(Loss(1, "it was lost"))
    assert machines.collect() == []
    (left,) = machines.forget()
    machines.close()
    assert "machine 1 (host-1) does not answer" in left and "key may still be there" in left
    assert dead.calls == ([] if known else ["fetch"])
    assert vars(found.hosts[0])["calls"] == ["fetch", "remove"]
