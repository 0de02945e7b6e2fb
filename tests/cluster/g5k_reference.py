"""What the reference part of the Grid'5000 API tells of sites, clusters and nodes.

Only the shapes are Grid'5000's: which sites, clusters and nodes there are says a `Platform`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WATTMETRE = {
    "name": "wattmetre_power_watt",
    "description": "Power consumption of node reported by wattmetre, in watt",
    "period": 1000,
    "optional_period": 20,
    "source": {"protocol": "wattmetre"},
}
BMC = {
    "name": "bmc_node_power_watt",
    "description": "Power consumption of node reported by BMC, in watt",
    "period": 5000,
    "source": {"protocol": "ipmisensor", "id": "PSU1_PIN"},
}
GIB = 1 << 30


@dataclass(frozen=True)
class Node:
    """`name` is the short one, such as paradoxe-1; `address` is where it is reached."""

    name: str
    address: str

    @property
    def cluster(self) -> str:
        """The part before the dash."""
        return self.name.split("-")[0]


@dataclass(frozen=True)
class Cluster:
    """`queues` that may use it; `exotic` ones only jobs of that type; `gpus` of each node."""

    name: str
    nodes: Sequence[Node]
    queues: Sequence[str] = ("default",)
    exotic: bool = False
    gpus: int = 0
    metrics: Sequence[dict[str, Any]] = field(default=(WATTMETRE, BMC))

    def describe(self, site: str) -> dict[str, Any]:
        """``GET /sites/SITE/clusters/CLUSTER``."""
        return {
            "uid": self.name,
            "type": "cluster",
            "model": "a namespace of this machine",
            "exotic": self.exotic,
            "queues": ["admin", *self.queues],
            "metrics": [dict(metric) for metric in self.metrics],
            "links": _links(f"/sites/{site}/clusters/{self.name}", "nodes", "status"),
        }

    def describe_node(self, site: str, node: Node) -> dict[str, Any]:
        """``GET /sites/SITE/clusters/CLUSTER/nodes/NODE``."""
        wire = {
            "device": "eth0",
            "name": "eth0",
            "interface": "Ethernet",
            "enabled": True,
            "mountable": True,
            "mounted": True,
            "management": False,
            "ip": node.address,
            "network_address": fqdn(node, site),
            "rate": 10_000_000_000,
        }
        return {
            "uid": node.name,
            "type": "node",
            "architecture": {"platform_type": "x86_64", "nb_procs": 1, "nb_cores": 4,
                             "nb_threads": 4, "smt_size": 1},
            "main_memory": {"ram_size": 4 * GIB},
            "network_adapters": [wire],
            "storage_devices": [{"id": "disk0", "device": "sda", "size": GIB, "interface": "SATA"}],
            "supported_job_types": {
                "deploy": True, "besteffort": True, "queues": ["admin", *self.queues],
                "max_walltime": 0,
            },
            "gpu_devices": {f"nvidia{i}": {"vendor": "Nvidia"} for i in range(self.gpus)},
            "exotic": self.exotic,
            "links": _links(f"/sites/{site}/clusters/{self.name}/nodes/{node.name}"),
        }  # fmt: skip

    def properties(self, site: str, node: Node) -> dict[str, str | int]:
        """What OAR can be asked for."""
        return {
            "network_address": fqdn(node, site),
            "host": fqdn(node, site),
            "cluster": self.name,
            "type": "default",
            "queue": ",".join(self.queues),
            "exotic": "YES" if self.exotic else "NO",
            "gpu_count": self.gpus,
            "core_count": 4,
            "wattmeter": "YES" if WATTMETRE in self.metrics else "NO",
        }


@dataclass(frozen=True)
class Site:
    """`network`: the production network, in which all nodes are, as a CIDR."""

    name: str
    clusters: Sequence[Cluster]
    network: str
    gateway: str

    def describe(self) -> dict[str, Any]:
        """``GET /sites/SITE``."""
        return {
            "uid": self.name,
            "type": "site",
            "name": self.name.capitalize(),
            "production": True,
            "kavlans": {"default": {"network": self.network, "gateway": self.gateway}},
            "kavlan_ip_range": "10.0.0.0/14",
            "g5ksubnet": {"network": "10.156.0.0/14", "gateway": "10.159.255.254"},
            "ipv6": {"prefix": "2001:660:4406", "site_index": 7},
            "frontend_hostname": f"frontend.{self.name}.grid5000.fr",
            "links": _links(f"/sites/{self.name}", "clusters", "jobs", "deployments"),
        }

    def describe_server(self, name: str) -> dict[str, Any]:
        """``GET /sites/SITE/servers/SERVER``."""
        return {
            "uid": name,
            "type": "server",
            "kind": "virtual",
            "network_adapters": {"default": {"ip": self.gateway}},
            "links": _links(f"/sites/{self.name}/servers/{name}"),
        }

    def cluster(self, name: str) -> Cluster:
        """KeyError if it is not here."""
        return {cluster.name: cluster for cluster in self.clusters}[name]

    def nodes(self) -> dict[str, Node]:
        """All nodes by their full names."""
        return {fqdn(node, self.name): node for cluster in self.clusters for node in cluster.nodes}

    def properties(self) -> dict[str, dict[str, str | int]]:
        """OAR's, by full name."""
        return {
            fqdn(node, self.name): cluster.properties(self.name, node)
            for cluster in self.clusters
            for node in cluster.nodes
        }


def fqdn(node: Node, site: str) -> str:
    """The name by which OAR calls a node."""
    return f"{node.name}.{site}.grid5000.fr"


def _links(path: str, *below: str) -> list[dict[str, str]]:
    kind = "application/vnd.grid5000.item+json"
    links = [{"rel": "self", "type": kind, "href": f"/stable{path}"}]
    return links + [{"rel": rel, "type": kind, "href": f"/stable{path}/{rel}"} for rel in below]
