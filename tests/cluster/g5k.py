"""A small Grid'5000 on namespace hosts: frontends, nodes, homes, and the API that gives the nodes.

Nodes let nobody in without a job. A job's user may log in and become root with sudo-g5k; after the
job the node is as new. Each site has its own home, on its frontend and its nodes. `environment`
and `home` are the user's: with them EnOSlib, ssh and rsync find all this in place of the real one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import namespace_hosts as hosts
from g5k_api import Api, Deployment
from g5k_client import write_yaml
from g5k_reference import Cluster, Node, Site
from oar import Job
from waiting import until

PASSWORD = "secret"
END_S = 60.0
CLOSED = {"etc/nologin": "this node is not in a job of yours\n"}
Platform = Mapping[str, Mapping[str, Mapping[str, Any]]]  # site, cluster, options
PLATFORM: Platform = {
    "rennes": {"paradoxe": {"nodes": 3}},
    "lyon": {"nova": {"nodes": 1}},
}


class Grid5000:
    """Sites, clusters and their nodes as in `platform`; see `PLATFORM`.

    Options of a cluster, besides the number of `nodes`: those of `g5k_reference.Cluster`.
    Attributes: `testbed`, `api` (with the faults), `home`, `environment`; hosts by full name:
    ``grid["paradoxe-1.rennes.grid5000.fr"]``, ``grid["frontend.rennes.grid5000.fr"]``.

    `dead_at_start`: full names of nodes that die in the moment a job gets them. `failing`: how
    many deployments a node is to fail.
    """

    def __init__(self, platform: Platform = PLATFORM) -> None:
        self.testbed = hosts.Testbed(_names(platform))
        self.dead_at_start: set[str] = set()
        self.failing: dict[str, int] = {}
        self._busy = threading.Lock()  # one thing at a time happens to machines
        self._sites = [self._site(name, clusters) for name, clusters in platform.items()]
        self.api = Api(
            self._sites, {hosts.USER: PASSWORD, "bob": "also secret"},
            on_start=self._begin, on_end=self._end, deploy=self._deploy,
        )  # fmt: skip
        self.home = self.testbed.folder / "home"
        ssh = f"-F {self.testbed.ssh_config} -o ControlMaster=no"
        self.environment = self.testbed.environment | {
            "HOME": str(self.home),
            "USER": hosts.USER,
            "ANSIBLE_SSH_ARGS": ssh,
            "NO_PROXY": "127.0.0.1",
        }

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self.testbed.down)
            self._prepare_homes()
            self._prepare_nodes()
            self.testbed.up()
            self._write_credentials()
            stack.enter_context(self.api)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def __getitem__(self, name: str) -> hosts.Host:
        return self.testbed[name]

    def left(self) -> list[str]:
        """What a run may not leave behind: jobs, and processes on frontends and nodes.

        Waits for what is already ending.
        """
        live = self.api.live_jobs
        until(lambda: not any(line.endswith("finishing") for line in live()), END_S, told=live)
        return self.api.live_jobs() + self.testbed.strangers()

    # -- how it is set up --

    def _site(self, name: str, clusters: Mapping[str, Mapping[str, Any]]) -> Site:
        described = []
        for cluster, options in clusters.items():
            rest = {key: value for key, value in options.items() if key != "nodes"}
            uids = [f"{cluster}-{number}" for number in range(1, options["nodes"] + 1)]
            nodes = [Node(uid, self[f"{uid}.{name}.grid5000.fr"].address) for uid in uids]
            described.append(Cluster(cluster, nodes, **rest))
        prefix = self.testbed.prefix
        return Site(name, described, f"{prefix}.0/24", self.testbed.address)

    def _prepare_homes(self) -> None:
        """One for each site, with the user's key."""
        for site in self._sites:
            home = self.testbed.folder / "homes" / site.name / hosts.USER
            (home / ".ssh").mkdir(parents=True)
            for file in ("authorized_keys", "id_rsa.pub"):
                (home / ".ssh" / file).touch(0o600)
            for path in (home, *home.rglob("*")):
                os.chown(path, hosts.USER_ID, hosts.USER_ID)
            (home / ".ssh").chmod(0o700)
            bind = hosts.Bind(home.parent, writable=True, target=hosts.Path("/home"))
            for host in self._hosts_of(site):
                host.binds.append(bind)

    def _hosts_of(self, site: Site) -> list[hosts.Host]:
        return [host for host in self.testbed.hosts if f".{site.name}." in host.name]

    def _prepare_nodes(self) -> None:
        for site in self._sites:
            for name in site.nodes():
                self[name].files = dict(CLOSED)
                self[name].keys = {"root": ""}
            for host in self._hosts_of(site):
                host.keys.pop(hosts.USER, None)  # it is in the site's home
                if host.name not in site.nodes():
                    host.keys["root"] = ""

    def _write_credentials(self) -> None:
        """The user's home on this machine."""
        public = self.testbed.key.with_suffix(".pub").read_text()
        for site in self._sites:
            for file in ("authorized_keys", "id_rsa.pub"):
                path = self.testbed.folder / "homes" / site.name / hosts.USER / ".ssh" / file
                path.write_text(public)
        ssh = self.home / ".ssh"
        ssh.mkdir(parents=True, mode=0o700)
        (ssh / "id_rsa").write_text(self.testbed.key.read_text())
        (ssh / "id_rsa").chmod(0o600)
        (ssh / "id_rsa.pub").write_text(public)
        write_yaml(self.home, self.api.uri, PASSWORD)

    # -- what jobs do to machines --

    def _begin(self, job: Job) -> None:
        with self._busy:
            for name in job.nodes:
                if name in self.dead_at_start:
                    self.dead_at_start.discard(name)
                    self[name].kill()
                elif "deploy" not in job.types and "noop" not in job.types:
                    self[name].run("rm", "-f", "/etc/nologin")

    def _end(self, job: Job) -> None:
        """All nodes are as new; one that does not answer is dead from then on."""
        if "noop" in job.types:
            return
        with self._busy:
            for name in job.nodes:
                host = self[name]
                if not host.alive:
                    self._oar(name).dead.add(name)
                    continue
                host.files, host.keys = dict(CLOSED), {"root": ""}
                self._renew([host])

    def _deploy(self, deployment: Deployment, name: str) -> bool:
        with self._busy:
            host = self[name]
            if self.failing.get(name, 0) > 0 or not host.alive:
                self.failing[name] = self.failing.get(name, 0) - 1
                return False
            system, _, flavour = deployment.environment.partition("-")
            release = f"{system}-x64-{flavour}-2026030412\n"
            host.files = {"etc/grid5000/release": release}
            host.keys = {"root": deployment.key}
            self._renew([host])
            return True

    def _renew(self, machines: list[hosts.Host]) -> None:
        for host in machines:
            host.wipe()
            host.start()
        for host in machines:
            host.wait()

    def _oar(self, name: str) -> Any:
        return self.api.oars[name.split(".")[1]]


def _names(platform: Platform) -> list[str]:
    """Frontends, the first of them also the gate from outside, and nodes."""
    names = []
    for site, clusters in platform.items():
        aliases = f"{site}.g5k {site}.grid5000.fr frontend.{site} {site}"
        gate = "" if names else " access.grid5000.fr"
        names.append(f"frontend.{site}.grid5000.fr {aliases}{gate}")
        for cluster, options in clusters.items():
            for number in range(1, options["nodes"] + 1):
                uid = f"{cluster}-{number}"
                names.append(f"{uid}.{site}.grid5000.fr {uid}.{site} {uid}")
    return names
