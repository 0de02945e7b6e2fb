"""Whole runs over two machines with a key: the same bits, cut or not, and no key without."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Lock, Semaphore
from typing import Any

import pytest
import torch
from in_process import undisturbed
from launching import Experiment, digests, end_all, leftovers
from proxies import Proxy

from decentralizepy.commands import arguments, flags
from decentralizepy.communication.keys import make_key
from decentralizepy.engine.assemble import Assembly
from decentralizepy.engine.process import window
from decentralizepy.graphs.generators import erdos_renyi, ring
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory import shared
from decentralizepy.memory.arena import Arena, ArenaPlan
from decentralizepy.transport.local import LocalSockets

MORE = ("-ta", "3", "-tea", "3", "--digests")
#: as some other key might be
KEY = bytes(range(32))
NODES = 8


def outcome(root: Path) -> list[dict[str, Any]]:
    return [json.loads((root / f"machine{m}" / "run.json").read_text()) for m in (0, 1)]


def test_two_machines_with_a_key_give_the_bits_of_one_worker(tmp_path: Path, cache: Path) -> None:
    experiment = Experiment(tmp_path, erdos_renyi(10, 0.4, 3), cache)
    root = tmp_path / "run1"
    key = make_key(root).read_text().strip()
    assert experiment.run((6, 4), 2, 4, *MORE) == root
    assert digests(root) == undisturbed(experiment, 4, *MORE)
    for found in outcome(root):
        assert found["encrypted"] is True
        assert found["transport"] == {
            "refused": {}, "reconnects": 0, "resent": 0, "held": 0, "duplicates": 0
        }  # fmt: skip
    for path in root.rglob("*"):
        if path.is_file() and path.name != "run.key":
            assert key.encode() not in path.read_bytes(), f"{path} holds the key"


def test_machines_with_different_keys_do_not_start(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(tmp_path, ring(NODES), cache)
    files = [make_key(tmp_path / name) for name in ("a", "b")]
    processes = []
    for machine, file in enumerate(files):
        processes += experiment.start((4, 4), 1, 3, "--key", str(file), only=(machine,))[1]
    try:
        said = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [2, 2], said
        assert "does not have our run key" in said[0] and "machine 1" in said[0]
        assert "do all machines have the same run key?" in said[1]
        assert not list(tmp_path.glob("run*/machine*")), "nothing half-written is left"
        assert not leftovers(processes)
    finally:
        end_all(processes)


# ------------------------------------------------- two machines in this process, a proxy between


class Enough(BaseException):
    """Both machines are done."""


class Together:
    """Starts both machines at once and lets them serve each other until both are done."""

    def __init__(self) -> None:
        self.start, self.building = Barrier(2), Lock()
        self._done = Semaphore(0)

    def done(self) -> None:
        self._done.release()

    def orders(self) -> tuple[()]:
        if self._done._value == 2:  # type: ignore[attr-defined]
            raise Enough
        return ()


def machine_run(
    experiment: Experiment, machine: int, addresses: tuple[str, str], together: Together,
    key: bytes | None, root: Path,
) -> dict[str, Any]:  # fmt: skip
    """One machine with one worker, as `engine.process` builds it; returns its counts."""
    parser = argparse.ArgumentParser()
    flags.add_arguments(parser)
    folder = experiment.folder
    args = parser.parse_args(
        ["-cf", str(folder / "config.ini"), "-gf", str(folder / "graph.edges"), "-is", "6",
         "-ms", "2", "-ps", "4", "-mid", str(machine), "-ld", str(root / f"machine{machine}"),
         "--workers", "1", "-ro", "0", "--cache-dir", str(experiment.cache), *MORE]
    )  # fmt: skip
    me = WorkerId(machine, 0)
    with together.building:  # torch's generator is global, and ast.parse is not for two threads
        settings = replace(arguments.settings_of(args), addresses=addresses, key=key)
        settings.log_dir.mkdir(parents=True)
        torch.set_num_threads(1)
        assembly = Assembly(settings)
    plan = ArenaPlan((4,), assembly.row_length)
    memory = shared.create()
    shared.resize(memory, plan)
    placement = Placement(settings.mapping, (1, 1))
    with tempfile.TemporaryDirectory() as paths:
        sockets = LocalSockets(me, paths, addresses, settings.experiment.offset, key=key)
        assert sockets.wire is not None
        sockets.wire.begin((1, 1), window(settings, placement, me, assembly.row_length))
        arena = Arena(memory, plan)
        worker = assembly.worker(me, placement, arena, sockets=sockets, orders=together.orders)
        try:
            together.start.wait(60)
            worker.run()
            together.done()
            with contextlib.suppress(Enough):
                worker.serve()
            return sockets.wire.summary()
        finally:
            worker.reporter.close()
            sockets.close()
            os.close(memory)


def between(experiment: Experiment, root: Path, cuts: list[int], key: bytes | None) -> Any:
    """Run both machines with a proxy in front of machine 1; (counts, proxy)."""
    offset = int((experiment.folder / "config.ini").read_text().split("offset = ")[1].split()[0])
    proxy = Proxy(("127.0.1.2", offset + 1), ("127.0.0.2", offset + 1), cuts)
    views = [("127.0.0.1", "127.0.1.2"), ("127.0.0.1", "127.0.0.2")]
    together = Together()
    try:
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(machine_run, experiment, m, view, together, key, root)
                for m, view in enumerate(views)
            ]
            return [job.result(20) for job in reversed(jobs)][::-1], proxy
    finally:
        proxy.close()


@pytest.mark.parametrize("budget", ["", "mailbox_budget = 0.0001"])
def test_a_run_whose_connection_is_cut_ends_with_the_same_bits(
    tmp_path: Path, cache: Path, budget: str
) -> None:
    """Also where credits hold senders at every step: nobody waits for ever."""
    options = {"model": "CNN", "optimizer_options": "momentum = 0.9"}
    experiment = Experiment(tmp_path, ring(NODES), cache, **options)
    ini = tmp_path / "config.ini"
    ini.write_text(ini.read_text().replace("[SHARING]", f"{budget}\n[SHARING]"))
    expected = undisturbed(experiment, 6, *MORE)
    cuts = [100, 150_000, 260_000, 300_000, 500_000]
    counts, proxy = between(experiment, tmp_path / "cut", cuts, KEY)
    assert digests(tmp_path / "cut") == expected
    assert proxy.cut >= 3 and counts[0]["reconnects"] >= 2
    assert (counts[0]["held"] > 0) == bool(budget), "credits were tried"
    assert counts[0]["refused"] == counts[1]["refused"] == {}


@pytest.mark.parametrize("key", [KEY, None])
def test_parameters_are_seen_on_the_wire_only_without_a_key(
    tmp_path: Path, cache: Path, key: bytes | None
) -> None:
    """The canary: machine 1 hears machine 0's header and its very numbers, or does not."""
    experiment = Experiment(tmp_path, ring(NODES), cache)
    _, proxy = between(experiment, tmp_path / "run", [], key)
    assert len(proxy.seen) > 100_000
    assert (b'"tensors":[["params","float32"' in proxy.seen) == (key is None)
