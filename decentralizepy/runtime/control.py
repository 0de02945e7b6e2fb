"""How the machines of a run agree to start and to end: their supervisors talk, workers don't care.

Machine 0 coordinates on the TCP port ``offset`` of its address (workers use the odd ports above).
Messages are small JSON objects:

========================= ============================================ =======================
from a machine            meaning                                      answer to all, when
========================= ============================================ =======================
hello, workers, digests   I am here, with so many workers              workers: all are here
ready                     my workers are built and listening           go: all are ready
done                      all my nodes have finished                   end: all are done
failed                    a worker or the machine failed, and why      abort, at once
========================= ============================================ =======================

A machine that goes away before the end fails the run for all others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import zmq
from zmq.utils.monitor import recv_monitor_message

from decentralizepy.communication import ports
from decentralizepy.errors import ConfigError

_MAX_MESSAGE = 1 << 16
_HEARTBEAT_MS, _HEARTBEAT_TIMEOUT_MS = 500, 5000

News = dict[str, Any]


class ControlPlane(Protocol):
    """What a supervisor knows of the other machines."""

    def say(self, news: News) -> None:
        """Tell the coordinator."""

    def hear(self) -> list[News]:
        """What came since the last call: workers, go, end, abort. Never waits."""

    def close(self) -> None:
        """Close the sockets."""


@dataclass
class Agreement:
    """The coordinator's decisions, without any I/O: facts in, announcements out."""

    machines: int
    workers: dict[int, int] = field(default_factory=dict)
    digests: dict[int, Mapping[str, str]] = field(default_factory=dict)
    counts: dict[str, set[int]] = field(default_factory=dict)
    over: bool = False

    def take(self, machine: int, news: News) -> list[News]:
        """What to announce to all after ``news`` of a machine."""
        if self.over:
            return []
        if "failed" in news:
            return self._abort(str(news["failed"]), bool(news.get("config")))
        if "hello" in news:
            return self._hello(machine, news)
        for said, announced in (("ready", "go"), ("done", "end")):
            if said in news and self._all(said, machine):
                self.over = announced == "end"
                return [{announced: True}]
        return []

    def lost(self, machine: int) -> list[News]:
        """A machine's connection broke."""
        if self.over or machine in self.counts.get("done", ()):
            return []
        return self._abort(f"machine {machine} is gone: its connection broke")

    def missing(self) -> list[int]:
        """Machines that have not said hello."""
        return [machine for machine in range(self.machines) if machine not in self.workers]

    def _abort(self, why: str, config: bool = False) -> list[News]:
        self.over = True
        return [{"abort": why, "config": config}]

    def _all(self, said: str, machine: int) -> bool:
        """Whether this machine was the last one to say so."""
        there = self.counts.setdefault(said, set())
        if machine in there:
            return False
        there.add(machine)
        return len(there) == self.machines

    def _hello(self, machine: int, news: News) -> list[News]:
        if machine in self.workers:
            return self._abort(f"two machines say that they are machine {machine} (-mid)", True)
        ours: Mapping[str, str] = news["digests"]
        for first in sorted(self.digests)[:1]:
            theirs = self.digests[first]
            differ = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
            if differ:
                return self._abort(
                    f"machine {machine} does not run the same experiment as machine {first}: "
                    f"different {', '.join(differ)}; copy the files anew to all machines",
                    True,
                )
        self.workers[machine], self.digests[machine] = news["workers"], ours
        if self.missing():
            return []
        return [{"workers": [self.workers[machine] for machine in range(self.machines)]}]


class Alone:
    """The control plane of a run on one machine."""

    def __init__(self) -> None:
        self._agreement = Agreement(1)
        self._news: list[News] = []

    def say(self, news: News) -> None:
        self._news += self._agreement.take(0, news)

    def hear(self) -> list[News]:
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        return None


class _Socket:
    """A socket with heart-beats and a monitor for broken connections."""

    def __init__(self, kind: int, endpoint: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        if "[" in endpoint:
            self.context.setsockopt(zmq.IPV6, 1)
        self.socket = self.context.socket(kind)
        self.socket.set_hwm(0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)

    def broken(self) -> list[int]:
        """Descriptors of connections that broke since the last call."""
        found = []
        while self._monitor.poll(0):
            found.append(int(recv_monitor_message(self._monitor)["value"]))
        return found

    def close(self) -> None:
        if not self.context.closed:
            self.socket.disable_monitor()
            self.context.destroy(linger=500)  # an abort should still reach the others


class Coordinator:
    """The control plane of machine 0."""

    def __init__(self, machines: int, endpoint: str) -> None:
        self._agreement = Agreement(machines)
        self._wire = _Socket(zmq.ROUTER, endpoint)
        try:
            self._wire.socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._wire.close()
            raise ConfigError(
                f"cannot listen on {endpoint}: {error}; "
                "check ip.json, or set another 'offset' in [COMMUNICATION]"
            ) from None
        self._peers: dict[int, bytes] = {}
        self._descriptors: dict[int, int] = {}
        self._news: list[News] = []

    def say(self, news: News) -> None:
        self._announce(self._agreement.take(0, news))

    def hear(self) -> list[News]:
        while self._wire.socket.poll(0):
            identity, *frames = self._wire.socket.recv_multipart(copy=False)
            if len(frames) == 1:
                self._take(identity.bytes, frames[0])
        for descriptor in self._wire.broken():
            if descriptor in self._descriptors:
                self._announce(self._agreement.lost(self._descriptors[descriptor]))
        news, self._news = self._news, []
        return news

    def missing(self) -> list[int]:
        return self._agreement.missing()

    def _take(self, identity: bytes, frame: zmq.Frame) -> None:
        news = _parse(frame.bytes)
        machine = news.get("machine")
        if type(machine) is not int or not 0 < machine < self._agreement.machines:
            return  # not one of ours: the handshake of a stranger is none
        if "hello" in news and not _is_hello(news):
            return
        if "hello" in news and machine not in self._peers:
            self._peers[machine] = identity
            self._descriptors[int(frame.get(zmq.SRCFD))] = machine
        early = "failed" in news and machine not in self._peers  # before it could say hello
        if early or "hello" in news or self._peers.get(machine) == identity:
            self._announce(self._agreement.take(machine, news))

    def _announce(self, announcements: list[News]) -> None:
        for news in announcements:
            self._news.append(news)
            for identity in self._peers.values():
                self._wire.socket.send_multipart([identity, json.dumps(news).encode()])

    def close(self) -> None:
        self._wire.close()


class Member:
    """The control plane of every other machine."""

    def __init__(self, machine: int, endpoint: str) -> None:
        self._machine = machine
        self._wire = _Socket(zmq.DEALER, endpoint)
        self._wire.socket.connect(endpoint)
        self._over = False

    def say(self, news: News) -> None:
        message = json.dumps({"machine": self._machine, **news}).encode()
        self._wire.socket.send(message)

    def hear(self) -> list[News]:
        news = []
        while self._wire.socket.poll(0):
            news.append(_parse(self._wire.socket.recv()))
        self._over = self._over or any("end" in one or "abort" in one for one in news)
        if self._wire.broken() and not self._over:
            self._over = True
            news.append({"abort": "machine 0 is gone: its connection broke"})
        return news

    def close(self) -> None:
        self._wire.close()


def _is_hello(news: News) -> bool:
    workers = news.get("workers")
    return type(workers) is int and workers > 0 and isinstance(news.get("digests"), dict)


def _parse(data: bytes) -> News:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def connect(machine: int, addresses: tuple[str, ...], offset: int) -> ControlPlane:
    """The control plane of a machine."""
    if len(addresses) == 1:
        return Alone()
    address = ports.listening(addresses[0]) if machine == 0 else addresses[0]
    endpoint = ports.endpoint(address, ports.control_port(offset))
    return Coordinator(len(addresses), endpoint) if machine == 0 else Member(machine, endpoint)
