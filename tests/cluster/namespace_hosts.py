"""Hosts made of namespaces: each with an address, a disk, accounts and sshd; up in about a second.

    with Testbed(["tb-1", "tb-2"]) as testbed:
        testbed.ssh("tb-1", "hostname")  # as anybody could: ssh -F testbed.ssh_config
        testbed["tb-2"].kill()  # the plug is pulled
    assert leftovers(testbed) == []

A host is a network, mount, UTS, IPC and PID namespace over a root file system that all share
(``scripts/testbed.sh install`` makes it) and a folder for what it writes. It cannot reach the world
outside; the checkout and its Python are visible in it, read-only, at the same paths as here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parents[2]
INIT = Path(__file__).with_name("host_init.sh")
INSTALL = REPOSITORY / "scripts" / "testbed.sh"
RECORDS = Path("/run/decentralizepy-testbed")  # one file for each testbed that is up
USER, USER_ID = "alice", 1500  # the ordinary account, made by scripts/testbed.sh
BOOT_S = 30.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOGIN = ("sshd: ", "/usr/sbin/sshd ", "sleep 1000000")  # sessions end with their client
APPTAINER = Path("/opt/decentralizepy/apptainer")  # where scripts/install_apptainer.sh puts it


def why_not() -> str | None:
    """Why no host can be made here; None where it can."""
    if sys.platform != "linux" or not Path("/etc/debian_version").exists():
        return "the testbed needs Debian"
    if os.geteuid() != 0:
        return "the testbed needs root"
    missing = [name for name in ("ip", "ssh", "unshare", "nsenter") if shutil.which(name) is None]
    if missing or not (base() / "etc" / "decentralizepy-testbed").exists():
        return "the testbed is not installed: scripts/testbed.sh install"
    probe = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "true"]
    if subprocess.run(probe, capture_output=True).returncode:
        return "namespaces may not be made here"
    return None


def base() -> Path:
    """The root file system that all hosts share."""
    return Path(_output(str(INSTALL), "root").strip())


@dataclasses.dataclass(frozen=True)
class Bind:
    """A folder or file of this machine, visible in the hosts at `target` or at the same path."""

    source: Path
    writable: bool = False
    target: Path | None = None

    def line(self) -> str:
        """As host_init.sh reads it."""
        how = "rw" if self.writable else "ro"
        return f"{how} {self.source} {self.target or self.source}"


def checkout_binds() -> list[Bind]:
    """The checkout, this Python with its environment, and Apptainer if it is there; read-only."""
    system = {Path("/usr"), Path("/usr/local"), Path("/")}
    folders = [REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)]
    folders += [APPTAINER] if APPTAINER.exists() else []
    return [Bind(folder) for folder in dict.fromkeys(folders) if folder not in system]


@dataclasses.dataclass(frozen=True)
class Process:
    """A process inside a host; `pid` as this machine counts."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.pid} {self.command}"


class Host:
    """One machine of a testbed. What is done to it here needs neither its network nor its sshd."""

    def __init__(self, testbed: Testbed, number: int, name: str, aliases: Sequence[str]) -> None:
        self.name, self.aliases = name, tuple(aliases)
        self.address = f"{testbed.prefix}.{number}"
        self.namespace = f"{testbed.name}-{number}"
        self.binds = list(testbed.binds)
        self.files: dict[str, str] = {}  # what a new disk has besides the root file system
        self.keys: dict[str, str | None] = {"root": None, USER: None}  # see `authorize`
        self._testbed = testbed
        self._cable = f"{testbed.name}v{number}"
        self._disk = testbed.disks / str(number)
        self._outer: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._usual: set[int] = set()

    # -- power --

    def start(self) -> None:
        """Boot: with an empty disk the first time and after `wipe`, with the kept one otherwise.

        /tmp, /run and /dev/shm are empty after every boot. Returns before sshd answers; see
        `wait`.
        """
        assert not self.alive, f"{self.name} is up"
        self._prepare_disk()
        self._plug_in()
        self._outer = self._testbed.starter.submit(self._boot).result()

    def wait(self) -> None:
        """Until sshd answers and the cable is plugged in as it should."""
        deadline = time.monotonic() + BOOT_S
        while not (self._find_init() and _answers(self.address, 22)):
            if time.monotonic() > deadline or (self._outer and self._outer.poll() is not None):
                raise RuntimeError(f"{self.name} does not boot: {self.boot_log()}")
            time.sleep(0.01)
        self.settle()

    def kill(self) -> None:
        """Pull the plug: no connection is closed, no process can say anything. Idempotent."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.cut()
        self._end_processes()
        _call("ip", "netns", "del", self.namespace, check=False)

    def wipe(self) -> None:
        """Pull the plug and forget the disk: the next boot is like the first."""
        self.kill()
        shutil.rmtree(self._disk, ignore_errors=True)

    def reboot(self) -> None:
        """`kill`, boot with the same disk, wait."""
        self.kill()
        self.start()
        self.wait()

    @property
    def alive(self) -> bool:
        """Whether it runs, with or without a network."""
        return self._init > 0 and _state(self._init) not in ("", "Z")

    # -- faults --

    def cut(self) -> None:
        """Take it from the network: packets vanish in both directions, nobody is told."""
        # In no bridge, the cable would end in this machine's own network; without a carrier, the
        # host would notice.
        _call("ip", "link", "set", self._cable, "master", f"{self._testbed.name}d")

    def heal(self) -> None:
        """Give it the network back."""
        _call("ip", "link", "set", self._cable, "master", self._testbed.name)

    def fill_disk(self, leave: int = 0) -> None:
        """Leave `leave` bytes free on the local disk, /tmp (rounded up to a page)."""
        used = self._local_disk().f_blocks - self._local_disk().f_bfree
        page = self._local_disk().f_frsize
        pages = max(1, used + -(-leave // page))
        self.run("mount", "-o", f"remount,size={pages * page}", "/tmp")

    def free_disk(self) -> None:
        """Undo `fill_disk`."""
        self.run("mount", "-o", f"remount,size={self._testbed.local_bytes}", "/tmp")

    # -- inside --

    def run(
        self, *command: str, user: str = "root", check: bool = True, input: str | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run `command` in the host, as from its console; `user`'s login environment."""
        account = ["runuser", "-u", user, "--"] if user != "root" else []
        home = f"/home/{user}" if user != "root" else "/root"
        return _call(
            "nsenter", "--all", "-t", str(self._init), f"--wd={self.path(home)}",
            "env", "-i", f"PATH={PATH}", f"HOME={home}", "LC_ALL=C.UTF-8", *account, *command,
            check=check, input=input, timeout=timeout,
        )  # fmt: skip

    def path(self, inside: str | Path) -> Path:
        """Where a file of the host is seen from this machine, as long as the host runs."""
        return Path(f"/proc/{self._init}/root") / str(inside).lstrip("/")

    def processes(self) -> list[Process]:
        """What runs here, save what ran when it had booted or `settle` was called, and logins."""
        return [
            one
            for one in self._all_processes()
            if one.pid not in self._usual and not one.command.startswith(LOGIN)
        ]

    def settle(self) -> None:
        """Take all that runs now as usual: daemons that a fixture has started."""
        self._usual |= {one.pid for one in self._all_processes()}

    def mounts(self) -> list[str]:
        """Mount points inside, sorted."""
        lines = Path(f"/proc/{self._init}/mounts").read_text().splitlines()
        return sorted(line.split()[1] for line in lines)

    def boot_log(self) -> str:
        """What was said while booting, and by sshd."""
        logs = (self._disk / "init.log", self._disk / "upper" / "var" / "log" / "sshd.log")
        return "\n".join(log.read_text(errors="replace") for log in logs if log.exists())

    # -- how --

    def _prepare_disk(self) -> None:
        """The first time: the folders of an overlay, and in them what makes this host this one."""
        upper = self._disk / "upper"
        if upper.exists():
            return
        for folder in ("upper", "work", "root"):
            (self._disk / folder).mkdir(parents=True)
        _write(upper / "etc/hostname", self.name)
        _write(upper / "etc/hosts", self._testbed.hosts_file())
        _write(upper / "etc/resolv.conf", "# no name server\n")  # containers want the file
        _write(upper / "etc/ssh/ssh_host_ed25519_key", self._testbed.host_key.read_text(), 0o600)
        for path, text in self.files.items():
            _write(upper / path, text)
        for user, key in self.keys.items():
            self.authorize(user, key)
        (upper / "root").chmod(0o755)  # the checkout's Python may be below

    def authorize(self, user: str, key: str | None = None) -> None:
        """Let the testbed's key (or `key`, a public one) log in as `user`; "" lets nobody in.

        For a host that is up, and as part of the first boot.
        """
        key = self._testbed.key.with_suffix(".pub").read_text() if key is None else key
        root = self.path("/") if self.alive else self._disk / "upper"
        home = root / ("root" if user == "root" else f"home/{user}")
        _write(home / ".ssh/authorized_keys", key, 0o600)
        (home / ".ssh").chmod(0o700)
        if user != "root":
            for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
                os.chown(path, USER_ID, USER_ID)

    def _plug_in(self) -> None:
        """A network namespace with a cable to the testbed's bridge; that of a dead host goes."""
        bridge, space = self._testbed.name, self.namespace
        mac = _hardware_address(self.address)
        _call("ip", "link", "del", self._cable, check=False)
        _call("ip", "netns", "add", space)
        _batch(
            f"link add {self._cable} type veth peer name eth0 address {mac} netns {space}",
            f"link set {self._cable} master {bridge} up",
        )
        _batch(
            "link set lo up",
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            namespace=space,
        )

    def _boot(self) -> subprocess.Popen[bytes]:
        with (self._disk / "init.log").open("ab") as log:
            return subprocess.Popen(
                self._boot_command(), env=self._boot_environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _boot_command(self) -> list[str]:
        """Hosts die with the thread that started them, unless the testbed is kept."""
        tie = [] if self._testbed.keep else ["setpriv", "--pdeathsig", "KILL"]
        spaces = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        inside = ["nsenter", f"--net=/run/netns/{self.namespace}"]
        return [*tie, *inside, "unshare", *spaces, str(INIT)]

    def _boot_environment(self) -> dict[str, str]:
        return {
            "PATH": PATH,
            "NAME": self.name,
            "BASE": str(self._testbed.base),
            "DISK": str(self._disk),
            "LOCAL": str(self._testbed.local_bytes),
            "BINDS": "\n".join(bind.line() for bind in self.binds),
        }

    def _find_init(self) -> int:
        """The process that is PID 1 inside."""
        if self._init == 0 and self._outer is not None:
            outer = self._outer.pid
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
                self._init = int(children[0]) if children else 0
        return self._init

    def _end_processes(self) -> None:
        """With its PID 1 the kernel ends all others in the namespace, whatever they do."""
        if self._find_init():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)
        if self._outer is not None:
            if not self._init:
                self._outer.kill()
            self._outer.wait()  # it ends with its child, which would else be an orphan
        self._init, self._outer = 0, None

    def _all_processes(self) -> Iterator[Process]:
        space = _namespace(self._init, "pid")
        for pid in _pids():
            if space is not None and _namespace(pid, "pid") == space:
                command = _command_line(pid)
                if command:
                    yield Process(pid, command)

    def _local_disk(self) -> os.statvfs_result:
        return os.statvfs(self.path("/tmp"))

    def record(self) -> dict[str, Any]:
        """What finds it again from another process."""
        return {"name": self.name, "aliases": self.aliases, "init": self._find_init()}

    def adopt(self, record: dict[str, Any]) -> None:
        """Take over a host that another process has started."""
        self._init = record["init"]


class Testbed:
    """Some hosts on a network of their own, and the files with which they are reached.

    `names` gives one host each; "paradoxe-1.rennes.grid5000.fr paradoxe-1" has an alias. Several
    testbeds can be up at the same time. `keep=True` lets them outlive this process.

    Attributes: `hosts`, `folder` (removed at the end), `shared` (writable, at the same path in all
    hosts and here: the cluster's network file system), `ssh_config`, `key` (private; `.pub` beside
    it), `known_hosts`, `address` (this machine's, as the hosts see it), `environment` (variables
    with which ssh, scp and rsync of any program find the hosts by their names).

    Before `up`, each host's `binds`, `files` and `keys` may be changed.
    """

    __test__ = False

    def __init__(
        self, names: Sequence[str], *, binds: Iterable[Bind] | None = None,
        local_bytes: int = 1 << 30, keep: bool = False,
    ) -> None:  # fmt: skip
        self.base, self.local_bytes, self.keep = base(), local_bytes, keep
        sweep()
        self.name, self.prefix = _claim_network()
        self.address = f"{self.prefix}.254"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self.folder.chmod(0o755)
        self.shared = self.folder / "shared"
        self.shared.mkdir()
        self.shared.chmod(0o1777)
        self.disks = _disk_folder(self.name)
        self.key, self.host_key = self.folder / "id_ed25519", self.folder / "host_key"
        self.ssh_config, self.known_hosts = self.folder / "ssh_config", self.folder / "known_hosts"
        self.starter = ThreadPoolExecutor(1, thread_name_prefix=self.name)
        self.bin = self.folder / "bin"
        self.environment = {"PATH": f"{self.bin}:{os.environ.get('PATH', PATH)}"}
        given = checkout_binds() if binds is None else list(binds)
        self.binds = [*given, Bind(self.shared, writable=True)]
        self.hosts = [
            Host(self, number, *_name_and_aliases(text)) for number, text in enumerate(names, 1)
        ]

    def up(self) -> Self:
        """Start all hosts and wait for their sshd."""
        try:
            self._write_files()
            for host in self.hosts:
                host.start()
            self._write_record()  # already now: whoever dies here can be swept up
            for host in self.hosts:
                host.wait()
            self._write_record()
        except BaseException:
            self.down()
            raise
        return self

    def down(self) -> None:
        """Take all away, whatever state it is in. Idempotent."""
        for host in self.hosts:
            host.kill()
        self.starter.shutdown()
        _remove(self.name, [self.folder, self.disks])

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.hosts if name in (host.name, *host.aliases))

    def ssh(
        self, host: str, *command: str, user: str = "root", check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there through the real ssh client; one argument is a shell's line."""
        line = command[0] if len(command) == 1 else shlex.join(command)
        return _call(
            "ssh", "-F", str(self.ssh_config), "-l", user, host, line, check=check, timeout=timeout
        )

    def strangers(self) -> list[str]:
        """Processes in the hosts that are not the testbed's own: what a run has left there."""
        return [
            f"{host.name}: process {process}"
            for host in self.hosts
            if host.alive
            for process in host.processes()
        ]

    def hosts_file(self) -> str:
        """/etc/hosts of all hosts."""
        lines = ["127.0.0.1 localhost", f"{self.address} {self.name}-head"]
        lines += [" ".join([host.address, host.name, *host.aliases]) for host in self.hosts]
        return "\n".join(lines) + "\n"

    def _write_files(self) -> None:
        for key in (self.key, self.host_key):
            _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key))
        public = " ".join(self.host_key.with_suffix(".pub").read_text().split()[:2])
        addresses = [host.address for host in self.hosts]
        self.known_hosts.write_text("".join(f"{address} {public}\n" for address in addresses))
        self.ssh_config.write_text("".join(map(self._ssh_entry, self.hosts)) + self._ssh_rest())
        for name in ("ssh", "scp", "sftp"):
            program = shutil.which(name) or f"/usr/bin/{name}"
            line = f'exec {program} -F {self.ssh_config} "$@"'
            _write(self.bin / name, f"#!/bin/sh\n{line}\n", 0o755)

    def _ssh_entry(self, host: Host) -> str:
        names = " ".join([host.name, *host.aliases, host.address])
        return f"Host {names}\n  HostName {host.address}\n\n"

    def _ssh_rest(self) -> str:
        options = {
            "User": "root",
            "IdentityFile": self.key,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.known_hosts,
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 5,
            "LogLevel": "ERROR",
        }
        return "Host *\n" + "".join(f"  {key} {value}\n" for key, value in options.items())

    def _write_record(self) -> None:
        """What `sweep`, `status` and `down` of other processes need."""
        owner = None if self.keep else [os.getpid(), _started(os.getpid())]
        content = {
            "owner": owner,
            "folders": [str(self.folder), str(self.disks)],
            "ssh_config": str(self.ssh_config),
            "hosts": [host.record() | {"address": host.address} for host in self.hosts],
        }
        RECORDS.mkdir(exist_ok=True)
        aside = RECORDS / f".{self.name}"
        aside.write_text(json.dumps(content))
        aside.rename(RECORDS / f"{self.name}.json")


def records() -> dict[str, dict[str, Any]]:
    """All testbeds of this machine, by name."""
    files = sorted(RECORDS.glob("*.json")) if RECORDS.exists() else []
    return {file.stem: json.loads(file.read_text()) for file in files}


def sweep() -> None:
    """Remove what testbeds left whose process was killed."""
    for name, record in records().items():
        if record["owner"] is not None and _started(record["owner"][0]) != record["owner"][1]:
            take_down(name, record)


def take_down(name: str, record: dict[str, Any]) -> None:
    """End the hosts of a record and remove all that belonged to them."""
    for host in record["hosts"]:
        if host["init"] and _namespace(host["init"], "pid") != _namespace(os.getpid(), "pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(host["init"], signal.SIGKILL)
    for space in _namespaces_of(name):
        _call("ip", "netns", "del", space, check=False)
    _remove(name, [Path(folder) for folder in record["folders"]])


def end_connections(testbed: Testbed) -> None:
    """End what ssh keeps open for a minute after its user was killed; it would end by itself."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes()
            if b"ControlPersist" in command and str(testbed.ssh_config).encode() in command:
                os.kill(int(path.parent.name), signal.SIGTERM)
                until = time.monotonic() + 10
                while path.exists() and path.read_bytes() and time.monotonic() < until:
                    time.sleep(0.02)


def leftovers(testbed: Testbed) -> list[str]:
    """What is left on this machine of a testbed that was taken down, as sentences; [] is right.

    Looks for network namespaces and links of its name, for mounts, processes and loop devices that
    mention its folders in command line or environment, and for the folders themselves.
    """
    folders = (str(testbed.folder), str(testbed.disks))
    found = [f"network namespace {space}" for space in _namespaces_of(testbed.name)]
    links = _output("ip", "-o", "link").splitlines()
    link = re.compile(rf"\d+: ({testbed.name}(?:d|v\d+)?)[@:]")
    found += [f"link {match[1]}" for match in map(link.match, links) if match]
    mounts = Path("/proc/mounts").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if any(folder in line for folder in folders)]
    found += [f"process {one}" for one in _mentioning(folders)]
    found += [f"loop device {line}" for line in _loop_devices() if _names(line, folders)]
    found += [f"folder {folder}" for folder in folders if Path(folder).exists()]
    return found


def _claim_network() -> tuple[str, str]:
    """A bridge that nobody else has, and the first three numbers of its addresses."""
    for number in random.sample(range(1, 250), 249):  # one just given up is rarely next
        name, prefix = f"dpt{number}", f"10.99.{number}"
        mac = _hardware_address(f"{prefix}.254")
        add = ("ip", "link", "add", name, "address", mac, "type", "bridge")
        if _call(*add, check=False).returncode == 0:
            _batch(
                f"addr add {prefix}.254/24 dev {name}",
                f"link set {name} up",
                f"link add {name}d type bridge",  # dark: never up, it forwards nothing
            )
            return name, prefix
    raise RuntimeError("no bridge can be made: ip link add dpt1 type bridge")


def _hardware_address(address: str) -> str:
    """The same at each boot, or others would look for the old one for a while."""
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def _disk_folder(name: str) -> Path:
    """In memory where possible: quick, and fit to be an overlay's upper layer."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=where))


def _remove(name: str, folders: Iterable[Path]) -> None:
    """Cables, folders, the record; then the bridges, with which the name is free again."""
    for link in _output("ip", "-o", "link", "show", "type", "veth").splitlines():
        cable = link.split()[1].split("@")[0]
        if cable.startswith(f"{name}v"):
            _call("ip", "link", "del", cable, check=False)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    (RECORDS / f"{name}.json").unlink(missing_ok=True)
    for bridge in (f"{name}d", name):
        _call("ip", "link", "del", bridge, check=False)


def _namespaces_of(name: str) -> list[str]:
    lines = _output("ip", "netns", "list").splitlines()
    return [line.split()[0] for line in lines if line.startswith(f"{name}-")]


def _name_and_aliases(text: str) -> tuple[str, list[str]]:
    name, *aliases = text.split()
    return name, aliases


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def _pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def _namespace(pid: int, kind: str) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return None


def _command_line(pid: int) -> str:
    """Empty for a zombie and a process that has ended."""
    return _words(Path(f"/proc/{pid}/cmdline"))


def _environment(pid: int) -> str:
    """As it was when the process started."""
    return _words(Path(f"/proc/{pid}/environ"))


def _words(file: Path) -> str:
    try:
        return file.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the machine's start; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def _state(pid: int) -> str:
    """One letter, Z for a zombie; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _mentioning(folders: Sequence[str]) -> Iterator[Process]:
    for pid in _pids():
        command = _command_line(pid)
        if pid != os.getpid() and _names(command + _environment(pid), folders):
            yield Process(pid, command)


def _loop_devices() -> list[str]:
    files = sorted(Path("/sys/block").glob("loop*/loop/backing_file"))
    return [f"{file.parts[3]} {file.read_text().strip()}" for file in files]


def _names(text: str, folders: Sequence[str]) -> bool:
    return any(folder in text for folder in folders)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _batch(*commands: str, namespace: str | None = None) -> None:
    """Several ``ip`` commands in one process."""
    where = ["-n", namespace] if namespace else []
    _call("ip", *where, "-batch", "-", input="\n".join(commands) + "\n")


def _output(*command: str) -> str:
    return _call(*command).stdout


def _call(
    *command: str, check: bool = True, input: str | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    feed: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **feed)
    if check and done.returncode:
        raise subprocess.CalledProcessError(
            done.returncode, f"{shlex.join(command)}: {done.stderr.strip()}", done.stdout
        )
    return done


def main(arguments: Sequence[str]) -> int:
    """``up [N]``, ``down [NAME]``, ``status``: what scripts/testbed.sh calls."""
    verb, *rest = arguments or ["status"]
    if verb == "up":
        reason = why_not()
        if reason is not None:
            print(reason, file=sys.stderr)
            return 1
        count = int(rest[0]) if rest else 3
        Testbed([f"tb-{number}" for number in range(1, count + 1)], keep=True).up()
    for name, record in records().items():
        if verb == "down" and record["owner"] is None and name in (rest or [name]):
            take_down(name, record)
        elif verb != "down":
            print(f"{name}: ssh -F {record['ssh_config']} HOST")
            for host in record["hosts"]:
                print(f"  {host['name']} {host['address']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
