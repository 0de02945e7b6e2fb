"""A real sshd on this computer's loopback addresses, with keys and a port of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SSHD: Final = shutil.which("sshd") or "/usr/sbin/sshd"
CONFIG: Final = """\
Port {port}
ListenAddress 0.0.0.0
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
PidFile none
UsePAM no
Subsystem sftp internal-sftp
"""
CLIENT: Final = """\
Host node-*
  User {user}
  Port {port}
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
"""


@dataclass
class Sshd:
    """Hosts node-1, node-2, ... are 127.0.0.1, 127.0.0.2, ...; all of them are this computer."""

    folder: Path
    port: int
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> list[str]:
        return ["-F", str(self.folder / "ssh_config")]

    def start(self) -> None:
        command = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        log = (self.folder / "sshd.log").open("ab")
        with log:
            self.daemon = subprocess.Popen(command, stderr=log, start_new_session=True)
        until = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < until, (self.folder / "sshd.log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Pull the cable: also connections that are open end."""
        assert self.daemon is not None
        for pid in [*self._sessions(), self.daemon.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemon.wait()

    def _sessions(self) -> list[int]:
        assert self.daemon is not None
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError):
                if int(stat.read_text().rpartition(")")[2].split()[1]) == self.daemon.pid:
                    found.append(int(stat.parent.name))
        return found

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextlib.contextmanager
def running(folder: Path, hosts: int = 3) -> Iterator[Sshd]:
    """Make keys and configurations in a folder, and run until the end."""
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    values = {"folder": folder, "port": port, "user": getpass.getuser()}
    (folder / "sshd_config").write_text(CONFIG.format(**values))
    named = "".join(f"Host node-{n}\n  HostName 127.0.0.{n}\n" for n in range(1, hosts + 1))
    (folder / "ssh_config").write_text(named + CLIENT.format(**values))
    server = Sshd(folder, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
