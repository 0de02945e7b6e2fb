"""How the supervisors of a run talk: machine 0 coordinates, the others are members.

The coordinator listens on the TCP port ``offset`` of machine 0's address (workers use the odd
ports above). They say `words`; what these mean is decided in `agreement`. With a run
key they are sealed (`sealed`); those of strangers are refused and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Protocol

import zmq
from zmq.utils.monitor import recv_monitor_message

from decentralizepy.codec import Word, WordError, decode, encode, read
from decentralizepy.communication import ports
from decentralizepy.errors import ConfigError
from decentralizepy.jsonfile import parse_object
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.settings import Resilience, Settings
from decentralizepy.supervision.agreement import Agreement
from decentralizepy.supervision.sealed import Seal, coordinator_seal, member_seal
from decentralizepy.words import (
    ANNOUNCEMENTS,
    FROM_MACHINES,
    Abort,
    End,
    Failed,
    Hello,
    Start,
)

_MAX_MESSAGE = 1 << 20
_HEARTBEAT_MS = 500
#: how long a last word waits for machine 0's welcome: if it is not there, and if it is but is busy
_LAST_WORD_S = 1.0
_LAST_WORD_CONNECTED_S = 15.0
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


class ControlPlane(Protocol):
    """What a supervisor knows of the other machines."""

    @property
    def refused(self) -> Counter[str]:
        """Words that were not taken, by kind (see `transport.secure.RefusedError`)."""

    @property
    def doubted(self) -> set[int]:
        """Machines that are missing, and that somebody with another key says to be."""

    def say(self, word: Word) -> None:
        """Tell the coordinator."""

    def hear(self) -> list[Word]:
        """What was announced since the last call (`agreement`). Never waits."""

    def close(self) -> None:
        """Close the sockets."""


class Alone:
    """The control plane of a run on one machine."""

    def __init__(self, mapping: Mapping, resilience: Resilience) -> None:
        self.refused: Counter[str] = Counter()
        self.doubted: set[int] = set()
        self._agreement = Agreement(mapping, resilience)
        self._news: list[Word] = []

    def say(self, word: Word) -> None:
        self._news += self._agreement.take(0, word)

    def hear(self) -> list[Word]:
        self._news += self._agreement.tick()
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        return None


class _Socket:
    """A sealed socket with heart-beats and a monitor for broken connections."""

    def __init__(self, kind: int, peer_timeout: float, endpoint: str, seal: Seal) -> None:
        self.seal = seal
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        if "[" in endpoint:
            self.context.setsockopt(zmq.IPV6, 1)
        self.socket = self.context.socket(kind)
        self.socket.set_hwm(0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, max(int(1000 * peer_timeout), _HEARTBEAT_MS))
        self._monitor = self.socket.get_monitor_socket(_EVENTS)
        self._connected = False
        #: connections whose words arrive altered, or not all
        self.altered: list[bytes] = []

    def connect(self, endpoint: str) -> None:
        self.socket.connect(endpoint)
        self._send(b"", self.seal.first())

    def send(self, word: bytes, who: bytes = b"") -> None:
        self._send(who, self.seal.seal(who, word))

    def _send(self, who: bytes, frames: Sequence[bytes]) -> None:
        for frame in frames:
            self.socket.send_multipart([who, frame] if who else [frame])

    def receive(self) -> Iterator[tuple[bytes, int, bytes]]:
        """(connection, its descriptor, word) of all that has arrived and is not refused."""
        while self.socket.poll(0):
            frames = self.socket.recv_multipart(copy=False)
            who = frames.pop(0).bytes if self.socket.type == zmq.ROUTER else b""
            descriptor = _descriptor(frames[0])
            if len(frames) != 1 or descriptor is None:
                self.seal.refused["malformed"] += 1
                continue
            opened = self.seal.open(who, frames[0].bytes)
            self._send(who, opened.replies)
            if opened.broken:
                self.altered.append(who)
            for word in opened.words:
                yield who, descriptor, word

    def broken(self) -> list[int]:
        """Descriptors of connections that broke since the last call.

        A member's without a handshake was none: a port forwarder takes connections and closes them
        while nobody listens behind it; ZeroMQ goes on trying.
        """
        found = []
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connected = True
            elif self._connected or self.socket.type == zmq.ROUTER:  # which knows them by number
                self._connected = False
                found.append(int(event["value"]))
        return found

    def _patience(self) -> float:
        return _LAST_WORD_CONNECTED_S if self._connected else _LAST_WORD_S

    def close(self) -> None:
        if not self.context.closed:
            began = monotonic()
            while self.seal.waiting and monotonic() - began < self._patience():
                self.socket.poll(50)
                list(self.receive())
                self.broken()
            self.socket.disable_monitor()
            self.context.destroy(linger=500)  # an abort should still reach the others


def _descriptor(frame: zmq.Frame) -> int | None:
    """Of the connection that a frame came on; None for a stranger's: ZeroMQ 3 is spoken here.

    Frames of the protocols 1.0 and 2.0 have no properties.
    """
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return None


class Coordinator:
    """The control plane of machine 0."""

    def __init__(
        self, mapping: Mapping, resilience: Resilience, endpoint: str, key: bytes | None = None
    ) -> None:
        self._agreement = Agreement(mapping, resilience)
        seal = coordinator_seal(key)
        self._wire = _Socket(zmq.ROUTER, resilience.peer_timeout, endpoint, seal)
        self.refused = seal.refused
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
        self._news: list[Word] = []

    def say(self, word: Word) -> None:
        self._announce(self._agreement.take(0, word))

    def hear(self) -> list[Word]:
        for identity, descriptor, word in self._wire.receive():
            self._take(identity, descriptor, word)
        self._see_broken()
        self._announce(self._agreement.tick())
        news, self._news = self._news, []
        return news

    def _see_broken(self) -> None:
        for descriptor in self._wire.broken():
            if descriptor in self._descriptors:
                self._lose(self._descriptors[descriptor], "its connection broke")
        altered, self._wire.altered = self._wire.altered, []
        for machine in [m for m, who in self._peers.items() if who in altered]:
            self._part(machine, "its words arrived altered, or not all")

    def _part(self, machine: int, why: str) -> None:
        """Lose a machine that may still be there, and tell it."""
        abort = Abort(f"machine {machine} was given up: {why}")
        self._wire.send(encode(abort), self._peers[machine])
        self._lose(machine, why)

    def _lose(self, machine: int, why: str) -> None:
        del self._peers[machine]
        self._descriptors = {d: m for d, m in self._descriptors.items() if m != machine}
        self._announce(self._agreement.lost(machine, why))

    @property
    def doubted(self) -> set[int]:
        return self._wire.seal.doubted.intersection(self.missing())

    def missing(self) -> list[int]:
        return self._agreement.missing()

    def _take(self, identity: bytes, descriptor: int, data: bytes) -> None:
        said = parse_object(data)
        machine = said.get("machine")
        if type(machine) is not int or not 0 < machine < self._agreement.mapping.machines:
            return  # not one of ours: the handshake of a stranger is none
        if self._wire.seal.machine(identity) not in (None, machine):
            return
        try:
            word = read(said, FROM_MACHINES)
        except WordError:
            return
        if isinstance(word, Hello) and not self._admits(machine, word, identity, descriptor):
            return
        early = isinstance(word, Failed) and machine not in self._peers  # before its hello
        if early or isinstance(word, Hello) or self._peers.get(machine) == identity:
            self._announce(self._agreement.take(machine, word))

    def _admits(self, machine: int, hello: Hello, identity: bytes, descriptor: int) -> bool:
        """Register who says hello, unless the others should go on waiting for the right one."""
        if not hello.fits(len(self._agreement.mapping.uids(machine))):
            return False
        why = self._agreement.unlike(machine, hello)
        if why is not None and self._agreement.may_come_back:
            self._wire.send(encode(Abort(why, config=True)), identity)
            return False
        self._register(machine, identity, descriptor)
        return True

    def _register(self, machine: int, identity: bytes, descriptor: int) -> None:
        self._see_broken()  # a descriptor that broke before was another connection's
        if self._peers.get(machine, identity) != identity and self._agreement.may_come_back:
            self._part(machine, "it was started anew")  # before we saw it go
        if machine not in self._peers:
            self._peers[machine] = identity
            self._descriptors[descriptor] = machine

    def _announce(self, announcements: list[Word]) -> None:
        for news in announcements:
            self._news.append(news)
            for identity in self._peers.values():
                self._wire.send(encode(news), identity)

    def close(self) -> None:
        self._wire.close()


class Member:
    """The control plane of every other machine."""

    def __init__(
        self,
        machine: int,
        mapping: Mapping,
        peer_timeout: float,
        endpoint: str,
        key: bytes | None = None,
    ) -> None:
        self._machine, self._nodes = machine, mapping.counts
        seal = member_seal(key, machine)
        self._wire = _Socket(zmq.DEALER, peer_timeout, endpoint, seal)
        self.refused, self.doubted = seal.refused, seal.doubted
        self._wire.connect(endpoint)
        self._over = False

    def say(self, word: Word) -> None:
        self._wire.send(encode(word, machine=self._machine))

    def hear(self) -> list[Word]:
        news = [word for _, _, data in self._wire.receive() for word in self._announced(data)]
        self._over = self._over or any(isinstance(one, End | Abort) for one in news)
        if self._wire.altered and not self._over:
            self._over = True
            news.append(Abort("machine 0's words arrive altered, or not all"))
        if self._wire.broken() and not self._over:
            self._over = True
            why, doubted = "machine 0 is gone: its connection broke", bool(self._wire.seal.waiting)
            if doubted:
                why += " before it had answered; do all machines have the same run key?"
            news.append(Abort(why, config=doubted))
        return news

    def _announced(self, data: bytes) -> Iterator[Word]:
        """What machine 0 said, if it is fit to be listened to."""
        with suppress(WordError):
            word = decode(data, ANNOUNCEMENTS)
            if not isinstance(word, Start) or word.fits(self._nodes):
                yield word

    def close(self) -> None:
        self._wire.close()


def connect(settings: Settings) -> ControlPlane:
    """The control plane of a machine."""
    mapping, resilience = settings.mapping, settings.resilience
    if mapping.machines == 1:
        return Alone(mapping, resilience)
    host = settings.addresses[0]
    address = ports.listening(host) if settings.machine == 0 else host
    endpoint = ports.url(address, ports.control_port(settings.experiment.offset))
    if settings.machine == 0:
        return Coordinator(mapping, resilience, endpoint, settings.key)
    return Member(settings.machine, mapping, resilience.peer_timeout, endpoint, settings.key)
