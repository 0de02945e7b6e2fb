"""EnOSlib in a process of its own: deploys or removes what it is told, ``python -m`` this module.

EnOSlib prints, writes playbooks into the working directory and keeps connections; here that
disturbs nobody. The request is a JSON on stdin, the answer one on stdout.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

#: Hosts at a time: a gateway takes about ten connections that are being made.
FORKS: Final = 8


def deploy(request: Mapping[str, Any]) -> dict[str, Any]:
    """Put the constraints of ``links`` on ``hosts``, between their ``addresses``."""
    import enoslib

    networks = [enoslib.DefaultNetwork(f"{address}{_whole(address)}")
                for address in request["addresses"]]  # fmt: skip
    hosts = _hosts(request["hosts"])
    roles = enoslib.Roles({host.alias: [host] for host in hosts})
    synced = enoslib.sync_info(roles, enoslib.Networks({"machines": networks}))
    found = [next(iter(synced[host.alias])) for host in hosts]
    service = enoslib.NetemHTB()
    for link in request["links"]:
        i, j = link["source"], link["target"]
        if not found[i].filter_interfaces([networks[i]]):
            raise LookupError(f"{found[i].alias} has no device with {request['addresses'][i]}")
        service.add_constraints(
            [found[i]], [found[j]], link["delay"], link["rate"], link["loss"],
            networks=[networks[i], networks[j]],
        )  # fmt: skip
    service.deploy()
    return {}


def destroy(request: Mapping[str, Any]) -> dict[str, Any]:
    """Remove all emulation from ``hosts``; ``left`` says of which hosts that is not certain."""
    import enoslib
    from enoslib.service.emul.htb import HTBSource

    hosts = _hosts(request["hosts"])
    service = enoslib.NetemHTB()
    service.sources = {host: HTBSource(host) for host in hosts}
    service.destroy(on_error_continue=True)
    told = enoslib.run_command("tc qdisc show", roles=hosts, on_error_continue=True)
    clean = {
        one.host
        for one in told.filter(status="OK")
        if not {"htb", "netem"} & set(one.stdout.split())
    }
    return {"left": [host.alias for host in hosts if host.alias not in clean]}


def _hosts(described: Sequence[Mapping[str, Any]]) -> list[Any]:
    """As `orchestrator.emulation.access.Access` describes them."""
    import enoslib

    return [
        enoslib.Host(
            one["address"],
            alias=one["name"],
            user=one["user"],
            extra={
                "ansible_python_interpreter": "auto_silent",
                "ansible_ssh_common_args": one["options"],
                "ansible_become": one["become"],
            },
        )
        for one in described
    ]


def _whole(address: str) -> str:
    return "/128" if ":" in address else "/32"


def main() -> int:
    request = json.load(sys.stdin)
    verbs = {"deploy": deploy, "destroy": destroy}
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import enoslib

            enoslib.set_config(ansible_stdout="noop", ansible_forks=FORKS)
            answer = verbs[request["verb"]](request)
    except Exception as error:  # of EnOSlib and of Ansible, of many kinds
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
