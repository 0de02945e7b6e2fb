"""Slurm on namespace hosts: slurmctld on one, a slurmd on each of the others, munge on all.

Its commands run on this machine, as on a front-end: `Slurm.run("sbatch", "job.sh")`, or with
`Slurm.environment`. The testbed's `shared` folder is what nodes and front-end have in common.
Without cgroups a job's processes are found by their parents, and there is no accounting (`sacct`).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from types import TracebackType
from typing import Self

import namespace_hosts as hosts
from waiting import until

READY_S = 60.0
PORT = 6818

CONFIGURATION = """\
ClusterName=testbed
SlurmctldHost={head}({head_address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={socket}
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmdSpoolDir=/var/spool/slurmd
StateSaveLocation=/var/spool/slurmctld
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
SlurmctldTimeout=30
SlurmdTimeout={lost_s}
InactiveLimit=0
KillWait=5
MinJobAge=300
EnforcePartLimits={enforce}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=2 State=UP
"""


class Slurm:
    """The first host of `testbed` is the controller, the others are nodes of four CPUs.

    Partitions: `main` (default) and `short` (two minutes at most). A node that does not answer for
    `lost_s` seconds is down, and its jobs fail. `enforce`: whether what exceeds the partition is
    refused (otherwise it waits for ever, with the reason in `job`).
    """

    def __init__(self, testbed: hosts.Testbed, lost_s: int = 15, enforce: bool = True) -> None:
        self.testbed = testbed
        self.head, *self.nodes = testbed.hosts
        self._socket = testbed.folder / "munge.socket"  # on each host: a path on its local disk
        self._munge_key = testbed.folder / "munge.key"
        self._munged: subprocess.Popen[bytes] | None = None
        self.conf = testbed.shared / "slurm.conf"
        self.environment = testbed.environment | {"SLURM_CONF": str(self.conf)}
        (testbed.shared / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        nodes = "\n".join(
            f"NodeName={node.name} NodeAddr={node.address} Port={PORT} CPUs=4 RealMemory=2000"
            for node in self.nodes
        )
        self.conf.write_text(
            CONFIGURATION.format(
                head=self.head.name, head_address=self.head.address, socket=self._socket,
                nodes=nodes, lost_s=lost_s, enforce="ALL" if enforce else "NO",
            )
        )  # fmt: skip

    def up(self) -> Self:
        """Start all daemons; returns when all nodes are idle."""
        try:
            self._start()
        except BaseException:
            self.down()
            raise
        return self

    def _start(self) -> None:
        self._munge_key.write_bytes(os.urandom(1024))
        self._munge_key.chmod(0o400)
        self._munged = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL",  # not to outlive a killed pytest
             *self._munged_command(str(self._munge_key)), "--foreground"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._start_daemon(self.head, "slurmctld")
        for node in self.nodes:
            self.start_node(node)
        self.wait_for(lambda: self.states() == dict.fromkeys(self._names(), "idle"))
        for host in (self.head, *self.nodes):
            host.settle()  # slurmctld starts a helper a moment after itself

    def start_node(self, node: hosts.Host) -> None:
        """Start slurmd on a host that has just booted; it is idle again a moment later."""
        self._start_daemon(node, "slurmd")

    def down(self) -> None:
        """End what runs on this machine; the hosts take the rest with them."""
        if self._munged is not None:
            self._munged.terminate()
            self._munged.wait()
            self._munged = None

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def run(
        self, *command: str, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """A Slurm command on this machine, in the shared folder."""
        environment = os.environ | self.environment
        done = subprocess.run(
            command, env=environment, cwd=self.testbed.shared, text=True, capture_output=True,
            timeout=timeout, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not check or done.returncode == 0, (command, done.stderr)
        return done

    def states(self) -> dict[str, str]:
        """The state of each node, as sinfo says it: idle, allocated, down*, ..."""
        lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False).stdout
        return dict(line.split() for line in lines.splitlines())  # type: ignore[misc]

    def jobs(self) -> list[str]:
        """Jobs that wait or run: ``["7 RUNNING", ...]``. None may be left after a test."""
        return self.run("squeue", "-h", "-o", "%i %T").stdout.splitlines()

    def left(self) -> list[str]:
        """What a run may not leave behind: jobs, and processes on the nodes."""
        return self.jobs() + self.testbed.strangers()

    def job(self, number: str | int) -> dict[str, str]:
        """What scontrol says of a job, also for a while after its end."""
        words = self.run("scontrol", "-o", "show", "job", str(number)).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, condition: Callable[[], object], timeout: float = READY_S) -> None:
        """Until `condition` holds; what the daemons have logged if it does not."""
        until(condition, timeout, told=self.logs)

    def logs(self) -> str:
        """The ends of all daemons' logs."""
        files = [self.head.path("/var/log/slurmctld.log")]
        files += [node.path("/var/log/slurmd.log") for node in self.nodes]
        texts = [file.read_text(errors="replace")[-2000:] for file in files if file.exists()]
        return "\n".join(texts)

    def _names(self) -> list[str]:
        return [node.name for node in self.nodes]

    def _munged_command(self, key: str) -> list[str]:
        """``--force``: as root, with key and socket in a folder that is not munge's own."""
        files = [f"--key-file={key}", f"--socket={self._socket}"]
        for option in ("pid", "log", "seed"):
            files.append(f"--{option}-file={self._socket.with_suffix('.' + option)}")
        return ["munged", "--force", *files]

    def _start_daemon(self, host: hosts.Host, daemon: str) -> None:
        key = host.path("/etc/munge/testbed.key")
        key.write_bytes(self._munge_key.read_bytes())
        key.chmod(0o400)
        host.run(*self._munged_command("/etc/munge/testbed.key"))
        host.run("mkdir", "-p", "/var/spool/slurmd", "/var/spool/slurmctld")
        host.run(daemon, "-f", str(self.conf))
        host.settle()
