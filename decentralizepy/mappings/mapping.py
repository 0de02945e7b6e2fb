"""Which node runs where: machine and rank on it, to uid, and back."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True)
class Mapping:
    """Nodes 0 .. n-1 laid out over machines, in order: machine 0 has the first uids.

    A negative rank is a server (such as -1, the parameter server): its uid is its rank, and it
    runs on ``server_machine``.

    Attributes:
        counts: how many nodes run on each machine.
        server_machine: the machine of the servers.
        servers: how many servers there are; their uids are -1, -2, ...

    Raises:
        ValueError: for a machine without nodes, or a server machine that doesn't exist.
    """

    counts: tuple[int, ...]
    server_machine: int = 0
    servers: int = 0

    def __post_init__(self) -> None:
        if not self.counts:
            raise ValueError("a mapping needs at least one machine")
        for machine, count in enumerate(self.counts):
            if count < 1:
                raise ValueError(f"machine {machine} has {count} nodes: give it one, or drop it")
        self._checked_machine(self.server_machine)

    @classmethod
    def linear(cls, n_machines: int, procs_per_machine: int, server_machine: int = 0) -> Mapping:
        """The same number of nodes on each machine: uid = machine * procs_per_machine + rank."""
        return cls((procs_per_machine,) * n_machines, server_machine)

    @classmethod
    def spread(cls, n_nodes: int, n_machines: int, server_machine: int = 0) -> Mapping:
        """As even as possible: the first machines take one node more where it doesn't divide.

        Raises:
            ValueError: if there are fewer nodes than machines.
        """
        if not 1 <= n_machines <= n_nodes:
            raise ValueError(
                f"{n_nodes} nodes on {n_machines} machines: take at least one machine, "
                f"and at most {n_nodes}"
            )
        each, more = divmod(n_nodes, n_machines)
        return cls((each + 1,) * more + (each,) * (n_machines - more), server_machine)

    @property
    def n(self) -> int:
        """Number of nodes, servers not counted."""
        return self._starts[-1]

    @property
    def machines(self) -> int:
        """Number of machines."""
        return len(self.counts)

    def uid(self, rank: int, machine: int) -> int:
        """The uid of the node with this rank on this machine; a server's is its rank.

        Raises:
            ValueError: if there is no such machine or rank.
        """
        self._checked_machine(machine)
        if rank < 0:
            return rank
        last = self.counts[machine] - 1
        if rank > last:
            raise ValueError(f"no rank {rank} on machine {machine}: its ranks are 0 to {last}")
        return self._starts[machine] + rank

    def machine_rank(self, uid: int) -> tuple[int, int]:
        """``(machine, rank)`` of a node, or of a server (a negative uid).

        Raises:
            ValueError: if there is no such node.
        """
        if uid < 0:
            return self.server_machine, uid
        if uid >= self.n:
            raise ValueError(f"no node {uid}: the nodes are 0 to {self.n - 1}")
        machine = bisect_right(self._starts, uid) - 1
        return machine, uid - self._starts[machine]

    def uids(self, machine: int) -> range:
        """The nodes of a machine, by rank.

        Raises:
            ValueError: if there is no such machine.
        """
        self._checked_machine(machine)
        return range(self._starts[machine], self._starts[machine + 1])

    def hosted(self, machine: int) -> tuple[int, ...]:
        """All uids on a machine: its nodes by rank, then its servers.

        Raises:
            ValueError: if there is no such machine.
        """
        servers = self.servers if machine == self.server_machine else 0
        return (*self.uids(machine), *range(-1, -servers - 1, -1))

    def has(self, uid: int) -> bool:
        """Whether there is such a node or server."""
        return -self.servers <= uid < self.n

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """The first uid of each machine, and after them n."""
        return tuple(accumulate(self.counts, initial=0))

    def _checked_machine(self, machine: int) -> None:
        if not 0 <= machine < self.machines:
            raise ValueError(f"no machine {machine}: the machines are 0 to {self.machines - 1}")
