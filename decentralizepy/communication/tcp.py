"""The options of the transport between machines ([COMMUNICATION])."""

from __future__ import annotations

from typing import ClassVar, Final

from decentralizepy.errors import ConfigError, nearest

ENCRYPTION: Final = ("auto", "none")


class TCP:
    """ZeroMQ over TCP between machines, sealed with a key that they share.

    ``addresses_filepath``: JSON of machine id -> address, relative to the INI file. ``offset``:
    machine 0 coordinates on this port, worker w of a machine listens on ``offset + 2 * w + 1``.
    ``encryption``: ``auto`` seals whatever leaves a machine, and needs a run key unless all
    addresses are loopback; ``none`` sends everything in the clear. ``peer_timeout``: seconds of
    silence after which another machine counts as lost. ``mailbox_budget``: MB of messages from
    other machines that may wait unread at a worker before their senders are held (default: more
    than synchronous programs need). ``recv_timeout`` is accepted for old files and not used:
    nothing here polls.
    """

    reference_name: ClassVar[str] = "decentralizepy.communication.TCP"

    def __init__(
        self,
        addresses_filepath: str = "ip.json",
        offset: int = 9000,
        recv_timeout: int = 50,
        encryption: str = "auto",
        peer_timeout: float = 60.0,
        mailbox_budget: float | None = None,
    ) -> None:
        self.addresses_filepath, self.offset = addresses_filepath, offset
        self.recv_timeout = recv_timeout
        if encryption not in ENCRYPTION:
            near = nearest(encryption, ENCRYPTION)
            raise ConfigError(f"encryption = {encryption!r:.40}{near}: one of auto, none")
        if not peer_timeout > 0:
            raise ConfigError(f"peer_timeout = {peer_timeout}: more than 0 seconds")
        if mailbox_budget is not None and not mailbox_budget > 0:
            raise ConfigError(f"mailbox_budget = {mailbox_budget}: more than 0 MB")
        self.encryption, self.peer_timeout = encryption, peer_timeout
        self.mailbox_budget = mailbox_budget
