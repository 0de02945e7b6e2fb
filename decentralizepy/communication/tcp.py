"""The options of the transport between machines ([COMMUNICATION])."""

from __future__ import annotations


class TCP:
    """ZeroMQ over TCP between machines.

    ``addresses_filepath``: JSON of machine id -> address, relative to the INI file. ``offset``:
    machine 0 coordinates on this port, worker w of a machine listens on ``offset + 2 * w + 1``.
    ``peer_timeout``: seconds of silence after which another machine counts as lost.
    ``recv_timeout`` is accepted for old files and not used: nothing here polls.
    """

    def __init__(
        self,
        addresses_filepath: str = "ip.json",
        offset: int = 9000,
        recv_timeout: int = 50,
        peer_timeout: float = 60.0,
    ) -> None:
        self.addresses_filepath, self.offset = addresses_filepath, offset
        self.recv_timeout, self.peer_timeout = recv_timeout, peer_timeout
