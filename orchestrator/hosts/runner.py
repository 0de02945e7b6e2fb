"""What runs on a host that is reached by SSH or through a folder: starts commands that outlive us.

    python3 runner.py VERB  < REQUEST.json  > ANSWER.json
    python3 runner.py serve FOLDER IDLE_SECONDS

A job is a folder ``<root>/jobs/<name>``: ``job.json`` (what runs), ``pid``, ``lock`` (held by the
process that looks after the job, for as long as it lives) and ``code`` (the exit code, written
last). Starting a job of the same name again starts nothing. The command runs below ``guard.py``,
whose pipe the job's process holds: however that ends, the command ends with all that it started.

Uses the standard library only, of Python 3.7 and later; is copied to the host with ``guard.py``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

OUT_OF_TIME = 124
KILLED = 137
TICK_S = 0.1
SERVE_S = 0.25
MODULES = ("torch", "zmq", "numpy", "networkx", "cryptography", "safetensors")
LOOK = (
    "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))"
)


def main(arguments: list[str]) -> int:
    """Answer one request, or those that come through a folder."""
    if arguments[0] == "serve":
        return serve(Path(arguments[1]) / os.environ["SLURM_PROCID"], float(arguments[2]))
    request = json.load(sys.stdin)
    answer = VERBS[arguments[0]](request)
    json.dump(answer, sys.stdout)
    return 0


# ---------------------------------------------------------------------- through a folder


def serve(folder: Path, idle_s: float) -> int:
    """Answer what is written into ``folder/request``, until nobody has wanted anything for long.

    Both files are rewritten where they are, since a network file system shows that at once, and
    new names only later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    jobs: dict[str, dict[str, Any]] = {}
    (folder / "request").touch()
    last, busy = 0, time.monotonic()
    write_line(folder / "answer", {"number": 0, "hostname": socket.gethostname()})
    while not asked and time.monotonic() - busy < idle_s:
        request = parsed(read(folder / "request"))
        if request is not None and request.get("number", 0) != last:
            last, busy = request["number"], time.monotonic()
            write_line(folder / "answer", {"number": last, **answered(request, jobs)})
        elif any(poll(job)["state"] == "running" for job in jobs.values()):
            busy = time.monotonic()
        time.sleep(SERVE_S)
    end_all(list(jobs.values()))
    return 0


def answered(request: dict[str, Any], jobs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a verb gives, or why it could not be done."""
    verb, content = request["verb"], request["content"]
    if verb == "start":
        jobs[str(job_folder(content))] = content  # several runs have jobs of the same name
    try:
        return {"told": VERBS[verb](content)}
    except (OSError, ValueError, KeyError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def end_all(jobs: list[dict[str, Any]]) -> None:
    """Ask all jobs to end, and wait until they have."""
    for job in jobs:
        stop(job)
    until = time.monotonic() + max([2 * job["grace_s"] + 5 for job in jobs], default=0)
    while time.monotonic() < until and any(poll(job)["state"] == "running" for job in jobs):
        time.sleep(TICK_S)


def write_line(path: Path, value: dict[str, Any]) -> None:
    """Rewrite a file where it is; whoever reads a part of it finds no JSON."""
    with path.open("w") as out:
        out.write(json.dumps(value))
        out.flush()
        os.fsync(out.fileno())


# ---------------------------------------------------------------------- jobs


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Start a job, unless one of its name was started before."""
    folder = job_folder(request)
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(str(folder / "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not locked(lock) or (folder / "pid").exists():
            return {"started": False}
        write(folder / "job.json", json.dumps(request))
        Path(request["folder"]).mkdir(parents=True, exist_ok=True)
        detach(folder, request, lock)
        return {"started": True}
    finally:
        os.close(lock)


def detach(folder: Path, request: dict[str, Any], lock: int) -> None:
    """Fork a process of its own session, which keeps the lock."""
    ready, told = os.pipe()
    if os.fork() == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                os.close(ready)
                look_after(folder, request, lock, told)
        finally:
            os._exit(0)
    os.wait()
    os.close(told)
    os.read(ready, 1)  # the pid is written, or nobody is left to write it
    os.close(ready)


def look_after(folder: Path, request: dict[str, Any], lock: int, told: int) -> None:
    """Run the command to its end, its deadline, or until we are asked to end it."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    write(folder / "pid", str(os.getpid()))
    os.write(told, b"1")
    os.close(told)
    write(folder / "code", str(finish(request, asked)))
    os.close(lock)  # the job has ended
    deposit(request)


def finish(request: dict[str, Any], asked: list[bool]) -> int:
    """The command's exit code; `OUT_OF_TIME` if its deadline ended it."""
    try:
        guard = launch(request)
    except OSError as error:
        note(request, f"cannot start: {error}\n")
        return 127
    late, copied = False, time.monotonic()
    while guard.poll() is None:
        if time.monotonic() - copied > request["deposit_s"]:
            deposit(request)
            copied = time.monotonic()
        deadline = request.get("deadline")
        if deadline is not None and time.time() > deadline:
            late = True
        if (late or asked) and guard.stdin is not None:
            guard.stdin.close()
        time.sleep(TICK_S)
    code = guard.returncode if guard.returncode >= 0 else 128 - guard.returncode
    return OUT_OF_TIME if late and code else code


def launch(request: dict[str, Any]) -> subprocess.Popen[bytes]:
    """The guard of the command."""
    guard = str(Path(__file__).resolve().with_name("guard.py"))
    with log_of(request).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", guard, str(request["grace_s"]), *request["command"]],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=request["root"],
            env=dict(os.environ, **request["env"]),
            start_new_session=True,
        )


def note(request: dict[str, Any], text: str) -> None:
    with log_of(request).open("a") as log:
        log.write(text)


def poll(request: dict[str, Any]) -> dict[str, Any]:
    """How a job is; with the machine's status, if it is asked for."""
    folder = job_folder(request)
    status = read(Path(request["folder"]) / "status.json")
    return dict(state_of(folder), status=parsed(status))


def state_of(folder: Path) -> dict[str, Any]:
    """Running for as long as somebody has the lock."""
    if not (folder / "pid").exists():
        return {"state": "absent"}
    with contextlib.suppress(OSError):
        lock = os.open(str(folder / "lock"), os.O_RDWR)
        try:
            if not locked(lock):
                return {"state": "running"}
        finally:
            os.close(lock)
    code = read(folder / "code")
    return {"state": "ended", "code": int(code) if code else KILLED}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """Ask a job to end."""
    folder = job_folder(request)
    if state_of(folder)["state"] == "running":
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
    return {}


def tail(request: dict[str, Any]) -> dict[str, Any]:
    """The end of what a job has printed."""
    with contextlib.suppress(OSError), log_of(request).open("rb") as log:
        log.seek(0, os.SEEK_END)
        log.seek(max(log.tell() - 16384, 0))
        lines = log.read().decode(errors="replace").rstrip().splitlines()
        return {"text": "\n".join(lines[-request["lines"] :])}
    return {"text": ""}


# ---------------------------------------------------------------------- files


def deposit(request: dict[str, Any]) -> None:
    """Copy what is new of a machine's folder to where it outlives this host; marks of sets last."""
    if not request["deposit"]:
        return
    source, target = Path(request["folder"]), Path(request["deposit"])
    paths = [path for path in source.rglob("*") if path.is_file()]
    with contextlib.suppress(OSError):  # a storage that is full or away must not end a run
        for path in sorted(paths, key=lambda path: (path.name == "set.json", str(path))):
            copy(path, target / path.relative_to(source))
        for old in (target / "checkpoints").glob("*"):
            if not (source / "checkpoints" / old.name).exists():
                shutil.rmtree(str(old), ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """Copy a file that has changed, aside and renamed; one that is gone by now is not there."""
    with contextlib.suppress(FileNotFoundError):
        facts = source.stat()
        known = target.stat() if target.exists() else None
        same = known is not None and known.st_size == facts.st_size
        if known is not None and same and known.st_mtime >= facts.st_mtime:
            return
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = target.with_name(target.name + ".new")
        shutil.copy2(str(source), str(aside))
        aside.replace(target)


def key(request: dict[str, Any]) -> dict[str, Any]:
    """Write the run key beside the machines' folders, readable by us alone."""
    path = Path(request["root"]) / "run.key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    handle = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as out:
        out.write(request["key"])
    return {}


def sets(request: dict[str, Any]) -> dict[str, Any]:
    """Checkpoints of a machine: which there are, and which of them are complete."""
    there = Path(request["folder"]).is_dir()
    folder = Path(request["folder"]) / "checkpoints"
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return {
        "there": there,
        "all": found,
        "complete": [n for n in found if (folder / n / "set.json").exists()],
    }


def remove(request: dict[str, Any]) -> dict[str, Any]:
    """Remove a run's folder, if it lies where ours do."""
    root = Path(request["root"])
    if root.parent.name in ("runs", "jobs"):
        shutil.rmtree(str(root), ignore_errors=True)
    return {"left": root.exists()}


# ---------------------------------------------------------------------- facts


def probe(request: dict[str, Any]) -> dict[str, Any]:
    """CPUs, addresses, free ports, free space, and a Python that has what the core needs."""
    addresses = own_addresses()
    offsets = [o for o in request["offsets"] if all_free(addresses, o, request["ports"])]
    base = Path(request["base"])
    return {
        "cpus": cpus(),
        "addresses": addresses,
        "free_offsets": offsets,
        "free_bytes": shutil.disk_usage(str(base)).free,
        "python": next((p for p in request["pythons"] if fit(p)), ""),
        "hostname": socket.gethostname(),
        "home": str(Path.home()),
        "rsync": shutil.which("rsync") or "",
    }


def cpus() -> int:
    """CPUs that we may use: by affinity, and by the quota of a control group."""
    count = len(os.sched_getaffinity(0))
    words = (read(Path("/sys/fs/cgroup/cpu.max")) or "max").split()
    if len(words) == 2 and words[0].isdigit():
        count = min(count, max(int(words[0]) // int(words[1]), 1))
    return count


def own_addresses() -> list[str]:
    """The address that we were reached at, then the others."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    reached = [words[2]] if len(words) == 4 else by_name()
    try:
        text = subprocess.run(
            ["ip", "-json", "address"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ).stdout
        links = json.loads(text.decode())
    except (OSError, ValueError):
        links = []
    found = [
        entry["local"]
        for link in links
        for entry in link.get("addr_info", [])
        if entry.get("scope") == "global"
    ]
    return list(dict.fromkeys(reached + found)) or ["127.0.0.1"]


def by_name() -> list[str]:
    """What our own name stands for, if that is an address for others."""
    try:
        found = socket.gethostbyname(socket.gethostname())
    except OSError:
        return []
    return [] if found.startswith("127.") else [found]


def all_free(addresses: list[str], offset: int, count: int) -> bool:
    return all(is_free(addresses[0], port) for port in range(offset, offset + count))


def is_free(address: str, port: int) -> bool:
    """Whether nobody listens there, so that we may."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probing:
        probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probing.bind((address, port))
        except OSError as error:
            return error.errno not in (errno.EADDRINUSE, errno.EACCES)
        return True


def fit(python: str) -> bool:
    """Whether this interpreter finds what the core needs."""
    try:
        return subprocess.run([python, "-c", LOOK, *MODULES], stderr=subprocess.DEVNULL,
                              timeout=20).returncode == 0  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False


# ---------------------------------------------------------------------- small things


def job_folder(request: dict[str, Any]) -> Path:
    return Path(request.get("jobs") or Path(request["root"]) / "jobs") / request["name"]


def log_of(request: dict[str, Any]) -> Path:
    return Path(request["folder"]) / "stdout.log"


def locked(handle: int) -> bool:
    """Lock an open file, unless another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write(path: Path, text: str) -> None:
    """Write aside and rename: whoever reads finds all of it."""
    aside = path.with_name(path.name + ".new")
    aside.write_text(text)
    aside.replace(path)


def read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def parsed(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text or "")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


VERBS = {
    "start": start, "poll": poll, "stop": stop, "tail": tail, "key": key, "sets": sets,
    "remove": remove, "probe": probe,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
