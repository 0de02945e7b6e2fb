"""A TCP proxy that records what passes and cuts the connection where a test says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence


class Proxy:
    """Forwards ``address`` to ``target``; ``cuts`` are counts of forwarded bytes.

    The bytes are counted over all connections towards the target; at each count of ``cuts`` all
    connections are closed, in the middle of whatever was being sent.
    """

    def __init__(
        self, address: tuple[str, int], target: tuple[str, int], cuts: Sequence[int] = ()
    ) -> None:
        self.target, self.seen, self.cut = target, bytearray(), 0
        self._cuts = sorted(cuts)
        self._forwarded = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        self._server = socket.create_server(address)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self._closed:
            with contextlib.suppress(OSError):
                client, _ = self._server.accept()
                try:
                    server = socket.create_connection(self.target, timeout=5)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                self._open |= {client, server}
                for ends, there in (((client, server), True), ((server, client), False)):
                    threading.Thread(target=self._pump, args=(*ends, there), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, there: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    self.seen += data
                    self._forwarded += len(data) if there else 0
                    cut = bool(self._cuts) and there and self._forwarded >= self._cuts[0]
                    if cut:
                        self._cuts.pop(0)
                        self.cut += 1
                if cut:
                    sink.sendall(data[: len(data) // 2])
                    self.cut_now()
                    return
                sink.sendall(data)
        for end in (source, sink):
            self._close(end)

    def _close(self, end: socket.socket) -> None:
        self._open.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

    def cut_now(self) -> None:
        """Close all connections; new ones are taken."""
        for end in list(self._open):
            self._close(end)

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut_now()
