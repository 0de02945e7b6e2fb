"""How EnOSlib reaches the hosts of machines as root, which ``tc`` needs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.hosts.base import Host, HostError
from orchestrator.hosts.ssh import SshHost

#: On Grid'5000 this makes the user of a job root; whoever may log in as the user may then as root.
GRANT: Final = (
    "command -v sudo-g5k >/dev/null && "
    "sudo-g5k tee -a /root/.ssh/authorized_keys <~/.ssh/authorized_keys >/dev/null"
)


@dataclass(frozen=True)
class Access:
    """A host for EnOSlib: what ssh is given, and whether ``sudo`` is needed there."""

    name: str
    address: str
    user: str | None
    options: str
    become: bool


def ssh_options(options: Sequence[str], gate: str) -> list[str]:
    """Of every connection that EnOSlib makes, through the gate if there is one."""
    if not gate:
        return list(options)
    through = shlex.join(["ssh", "-o", "BatchMode=yes", *options, "-W", "%h:%p", gate])
    return [*options, "-o", f"ProxyCommand={through}"]


def access(host: Host) -> Access:
    """Root on a host; raises `HostError` where we cannot be."""
    assert isinstance(host, SshHost), "only hosts by ssh can be emulated"
    user, _, address = host.target.rpartition("@")
    options = shlex.join(ssh_options(host.options, host.gate))
    if host.call(["sh", "-c", '[ "$(id -u)" = 0 ]']) == 0:
        return Access(host.name, address, user or None, options, become=False)
    if host.call(["sh", "-c", GRANT]) == 0:
        return Access(host.name, address, "root", options, become=False)
    if host.call(["sudo", "-n", "true"]) == 0:
        return Access(host.name, address, user or None, options, become=True)
    raise HostError("NETWORK_EMULATION needs root there: log in as root, or allow sudo without "
                    "a password")  # fmt: skip
