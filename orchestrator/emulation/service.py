"""Deploy before a run, measure, and remove what a ledger says is emulated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import RunError
from decentralizepy.files import write_json
from decentralizepy.runfolder import RunFolder
from orchestrator.backends.base import Check
from orchestrator.backends.remote import on_all
from orchestrator.config import Config
from orchestrator.emulation.access import access
from orchestrator.emulation.measure import Found, measured, missing, slower
from orchestrator.emulation.settings import FREE_RATE, Emulation, Link
from orchestrator.hosts.base import Host
from orchestrator.planning.placed import Placed
from orchestrator.running.ledger import Ledger, read_ledger

DEPLOY_S: Final = 600.0
REMOVE_S: Final = 180.0
#: No connection stays when EnOSlib has done its work.
SSH: Final = "-o ControlMaster=no -o BatchMode=yes -o ConnectTimeout=30"
#: For hosts that are busy; the user's own settings go before these.
ANSIBLE: Final = {
    "ANSIBLE_SSH_ARGS": SSH,
    "ANSIBLE_TIMEOUT": "30",
    "ANSIBLE_GATHER_TIMEOUT": "60",
    "ANSIBLE_SSH_RETRIES": "2",
}
#: Deploying may be repeated: it begins by removing what is there.
TRIES: Final = 2

Say = Callable[[str], None]


def checks(config: Config) -> list[Check]:
    """What must hold before anything is reserved."""
    if config.NETWORK_EMULATION is None:
        return []
    there = find_spec("enoslib") is not None
    message = "it needs EnOSlib: pip install -e '.[grid5000]'"
    return [Check("NETWORK_EMULATION", there, message)]


# ---------------------------------------------------------------------- deploy


def emulate(
    plan: Placed, hosts: Sequence[Host], folder: RunFolder, ledger: Ledger, say: Say
) -> None:
    """Make the network what NETWORK_EMULATION says, and measure it.

    Raises `RunError` if it is something else then, unless ``allow_missing``.
    """
    asked = plan.config.NETWORK_EMULATION
    if asked is None:
        return
    names = [place.host for place in plan.places]
    _apart(plan.addresses, names)
    links = asked.links(len(hosts))
    reached = [asdict(one) for one in on_all(hosts, access)]
    ledger.append("emulating", hosts=reached)
    say("  emulating the network")
    deploy(reached, plan.addresses, links)
    seen = measured(hosts, plan.addresses, plan.offset, links)
    _judge(asked, seen, links, names, folder, say)


def deploy(
    hosts: Sequence[Mapping[str, Any]], addresses: Sequence[str], links: Sequence[Link]
) -> None:
    """Let EnOSlib make the network what the links say; raises `RunError`."""
    request = {"verb": "deploy", "hosts": hosts, "addresses": addresses,
               "links": [constraint(link) for link in links]}  # fmt: skip
    for left in reversed(range(TRIES)):
        try:
            ask(request, DEPLOY_S)
        except RunError:
            if not left:
                raise
        else:
            return


def _judge(
    asked: Emulation,
    seen: Found,
    links: Sequence[Link],
    names: Sequence[str],
    folder: RunFolder,
    say: Say,
) -> None:
    """Write down what was measured, tell of it, and stop if it is not what was asked for."""
    absent, notes = missing(seen, links, names), slower(seen, names)
    kept = {
        "asked": asked.model_dump(mode="json"),
        "measured": [one.as_dict() for one in seen.links],
        "missing": absent,
        "notes": notes,
    }
    write_json(folder.network, kept)
    if absent and not asked.allow_missing:
        raise RunError("\n".join([
            "the network is not what NETWORK_EMULATION asks for:", *(f"  {t}" for t in absent),
            'take hosts whose kernels have netem, or run with what there is by "allow_missing": '
            "true; SIMULATE calculates the seconds of slow links on any computer",
        ]))  # fmt: skip
    for told in absent + notes:
        say(f"  note: {told}")


def constraint(link: Link) -> dict[str, Any]:
    """As EnOSlib has it, which wants a delay and a rate."""
    return {
        "source": link.source,
        "target": link.target,
        "delay": link.delay or "0ms",
        "rate": link.rate or FREE_RATE,
        "loss": link.loss,
    }


def _apart(addresses: Sequence[str], names: Sequence[str]) -> None:
    """Raise `RunError` for machines at one address: what they send never meets the network."""
    first: dict[str, str] = {}
    for address, name in zip(addresses, names, strict=True):
        if address in first:
            raise RunError(f"NETWORK_EMULATION: {first[address]} and {name} are both at {address}")
        first[address] = name


# ---------------------------------------------------------------------- remove


def emulated(path: Path) -> list[dict[str, Any]]:
    """The hosts whose network is emulated, by a run's ledger."""
    hosts: list[dict[str, Any]] = []
    for entry in read_ledger(path):
        if entry["event"] == "emulating":
            hosts = list(entry.get("hosts", []))
        elif entry["event"] == "unemulated":
            hosts = [host for host in hosts if host["name"] in entry.get("left", [])]
    return hosts


def unemulate(ledger: Ledger, say: Say) -> None:
    """Remove what the ledger says is emulated; tells of hosts where that cannot be. Raises
    nothing, for it must not hide how a run ended."""
    hosts = emulated(ledger.path)
    if not hosts:
        return
    try:
        left = list(ask({"verb": "destroy", "hosts": hosts}, REMOVE_S)["left"])
        why = "they do not answer"
    except RunError as error:
        left, why = [host["name"] for host in hosts], str(error)
    ledger.append("unemulated", left=left)
    if left:
        again = f"python g5k_execution.py clean {ledger.path.parent}"
        say(f"  the network may still be emulated on {', '.join(left)} ({why}); try again: {again}")


# ---------------------------------------------------------------------- EnOSlib


def ask(request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Let EnOSlib do something, in a process and folder of its own; raises `RunError`."""
    command = [sys.executable, "-m", "orchestrator.emulation.enos"]
    with tempfile.TemporaryDirectory(prefix="dpy-emulation-") as folder:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            out, errors = process.communicate(json.dumps(request), seconds)
        except subprocess.TimeoutExpired:
            raise RunError(f"EnOSlib has not ended within {seconds:g} s") from None
        finally:
            _end(process)
    return _answer(out, errors)


def environment() -> dict[str, str]:
    """Of EnOSlib's process, which starts in another folder than ours."""
    here = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**ANSIBLE, **os.environ, "PYTHONPATH": path}


def _end(process: subprocess.Popen[str]) -> None:
    """With all that it started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answer(out: str, errors: str) -> dict[str, Any]:
    try:
        answer = dict(json.loads(out.splitlines()[-1]))
    except (ValueError, IndexError):
        raise RunError("EnOSlib failed: " + "\n".join(errors.splitlines()[-15:])) from None
    if "error" in answer:
        raise RunError(f"emulating the network failed: {answer['error']}")
    return answer
