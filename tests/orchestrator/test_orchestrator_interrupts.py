"""Signals: what they end, what they must not cut short, and what is done afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import orchestrator_fakes as fakes
import pytest
from orchestrator_fakes import REPOSITORY, Make, await_true

from decentralizepy.interrupts import Interrupted, Interrupts


def test_the_first_signal_raises_and_the_next_ones_do_nothing() -> None:
    interrupts = Interrupts()
    with pytest.raises(Interrupted, match="SIGTERM"):
        interrupts.take(signal.SIGTERM)
    interrupts.take(signal.SIGINT)
    interrupts.take(signal.SIGTERM)


def test_what_may_be_given_up_is_given_up_by_the_next_signal() -> None:
    interrupts = Interrupts()
    with pytest.raises(Interrupted):
        interrupts.take(signal.SIGINT)
    with pytest.raises(Interrupted), interrupts.allowed():
        interrupts.take(signal.SIGINT)
    interrupts.take(signal.SIGINT)
    with pytest.raises(Interrupted), interrupts.allowed():
        interrupts.take(signal.SIGINT)


@pytest.mark.parametrize("within", [True, False])
def test_a_run_that_nobody_interrupted_can_be_interrupted_once(within: bool) -> None:
    interrupts = Interrupts()
    if within:
        with pytest.raises(Interrupted), interrupts.allowed():
            interrupts.take(signal.SIGINT)
        interrupts.take(signal.SIGINT)
        return
    with interrupts.allowed():
        pass
    with pytest.raises(Interrupted):
        interrupts.take(signal.SIGINT)


HANGING = """
import os, pathlib, signal, subprocess, sys, time
from orchestrator.backends.local import LocalBackend
from orchestrator.cli import main
from orchestrator.hosts.local import LocalHost
from orchestrator.running.experiment import Setting

folder = pathlib.Path(sys.argv[2]).parent


class HangingHost(LocalHost):
    def fetch(self, job, home):
        sleeper = subprocess.Popen(["sleep", "60"])
        caught = next(line for line in open(f"/proc/{sleeper.pid}/status") if "SigIgn" in line)
        (folder / "ignored").write_text(caught.split()[1])
        (folder / "collecting").touch()
        try:
            sleeper.wait()
        finally:
            sleeper.kill()

class Hanging(LocalBackend):
    def hosts(self, reservation, plan, hold):
        return [HangingHost(address, hold) for address in reservation.hosts]

    def release(self, reservation):
        (folder / "released").touch()


config, costs, *core = sys.argv[1:]
backend = Hanging(core=tuple(core), grace_s=0.3)
sys.exit(main([config], Setting(backend=backend, costs=pathlib.Path(costs))))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("mode", ["hang", "ok"])
def test_collecting_that_hangs_ends_at_the_next_signal(make: Make, mode: str) -> None:
    """Also what it has started: a signal that we do not want is caught, not ignored."""
    path = make()
    core = (*fakes.script(path.parent, "core.py", fakes.CORE), mode)
    command = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(path), str(path.parent / "costs.json"), *core],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    if mode == "hang":
        fakes.read_when_there(path.parent / "results", 2)
        command.send_signal(signal.SIGINT)
    assert await_true((path.parent / "collecting").exists)
    command.send_signal(signal.SIGINT)
    said, errors = command.communicate(timeout=10)
    assert command.returncode == 130 and "Traceback" not in errors
    assert (path.parent / "released").exists()
    assert int((path.parent / "ignored").read_text(), 16) & 1 << (signal.SIGINT - 1) == 0
    assert ("to collect its files and make its tables" in said) == (mode == "ok")


START = """
import sys
sys.path.insert(0, sys.argv.pop(1))
wanted = sys.argv.pop(1)
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            print("importing", flush=True)
            import time
            for _ in range(600):  # a signal just before one sleep is seen after it
                time.sleep(0.1)
sys.meta_path.insert(0, Slow())
import runpy
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.parametrize(
    "module", ["orchestrator.cli", "orchestrator.text", "orchestrator.running.experiment"]
)
def test_an_early_interrupt_is_a_line(make: Make, module: str) -> None:
    script = str(REPOSITORY / "g5k_execution.py")
    command = subprocess.Popen(
        [sys.executable, "-c", START, str(REPOSITORY), module, script, str(make())],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert command.stdout is not None and command.stdout.readline() == "importing\n"
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=30)
    assert command.returncode == 130 and errors.startswith("interrupted") and "Tr" not in errors
