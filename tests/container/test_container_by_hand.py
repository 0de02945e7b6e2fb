"""`singularity run` as a person calls it on each machine, with a real image."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hosts import two_hosts

from decentralizepy.communication.keys import make_key
from decentralizepy.supervision import provenance
from orchestrator.singularity import Engine

ROOT = Path(__file__).resolve().parents[2]
INI = ROOT / "run_configuration/digits_kshard2_mlp.ini"
ITERATIONS, TEST_AFTER = 12, 6
EIGHT = ["16_4regular.edges", 1, 16, 1, "testingPeerSampler.py", 1, "INFO", 1]
#: somebody that no file of users knows
STRANGER = 54321
NOBODY = 65534


def logs_folder(path: Path) -> Path:
    path.mkdir()
    shutil.copy(INI, path / "config.ini")
    return path


def binds(**targets: Path) -> list[str]:
    """--bind for places in the root of the image; ``ip`` stands for /ip.json."""
    names = {"ip": "ip.json"}
    pairs = [f"{source}:/{names.get(name, name)}" for name, source in targets.items()]
    return [word for pair in pairs for word in ("--bind", pair)]


def run(
    engine: Engine, image: Path, options: Sequence[str], *arguments: object, **env: str
) -> subprocess.CompletedProcess[str]:
    command = [engine.path.with_name("singularity"), "run", *options, image, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=160, env=os.environ | env
    )


def weights(folder: Path) -> dict[str, bytes]:
    """The final parameters of all nodes, by file name."""
    last = f"{ITERATIONS - 1}_weight_*.safetensors"
    return {path.name: path.read_bytes() for path in folder.glob(f"machine*/{last}")}


def what_ran(logs: Path, machine: int = 0) -> dict[str, object]:
    return json.loads((logs / f"machine{machine}/run.json").read_text())


def local_run(folder: Path) -> dict[str, bytes]:
    """Final parameters of the same experiment by one command on this computer."""
    config = json.loads((ROOT / "g5k_config/quickstart.json").read_text())
    config |= {"NB_ITERATION": ITERATIONS, "TEST_AFTER": TEST_AFTER, "NB_MACHINE": 2}
    config |= {"LOCAL_SAVE_DIR": str(folder)}
    config.pop("$schema")
    (folder / "local.json").write_text(json.dumps(config))
    command = [sys.executable, str(ROOT / "g5k_execution.py"), str(folder / "local.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=160, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (run_folder,) = folder.glob("*_*/")
    return weights(run_folder)


def test_two_hosts_by_hand_train_to_the_bits_of_the_local_run(
    engine: Engine, image: Path, tmp_path: Path
) -> None:
    """Eight arguments and the documented binds; each host finds itself in /ip.json."""
    arguments = ["16_4regular.edges", 2, "8,8", ITERATIONS]
    arguments += [EIGHT[4], TEST_AFTER, "INFO", 1]
    with two_hosts() as hosts:
        addresses = tmp_path / "ip.json"
        addresses.write_text(json.dumps({str(m): host.address for m, host in enumerate(hosts)}))
        logs = [logs_folder(tmp_path / f"logs{m}") for m in range(2)]
        shutil.copy(make_key(logs[0]), logs[1])  # two real addresses, so what they say is sealed
        command = [engine.path.with_name("singularity"), "run"]
        started = [
            subprocess.Popen(
                host(*command, *binds(logs=logs[m], ip=addresses), image, *arguments),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for m, host in enumerate(hosts)
        ]  # fmt: skip
        expected = local_run(tmp_path)
        said = [process.communicate(timeout=160)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    found = weights(logs[0]) | weights(logs[1])
    assert len(expected) == 16 and len(set(expected.values())) == 16
    assert found == expected
    for m, folder in enumerate(logs):
        ran = what_ran(folder, m)
        assert ran["code_sha256"] == provenance.code_digest()  # the image is of this tree
        assert ran["code_folder"] == "/opt/decentralizepy/decentralizepy"
        assert ran["container"] == str(image) and ran["encrypted"]
        assert ran["flags"]["train_evaluate_after"] == TEST_AFTER
        assert ran["flags"]["reset_optimizer"] == 0


def test_machines_may_share_a_host_and_read_addresses_from_the_logs(
    engine: Engine, image: Path, tmp_path: Path
) -> None:
    logs = logs_folder(tmp_path / "logs")
    (logs / "ip.json").write_text('{"0": "127.0.0.1", "1": "127.0.0.2"}')
    arguments = [*EIGHT[:1], 2, 8, *EIGHT[3:]]
    done = run(engine, image, binds(logs=logs), *arguments)
    assert done.returncode == 2 and "choose one with -mid" in done.stderr, done.stderr


def code_tree(folder: Path, mark: str) -> Path:
    """A tree with this package, changed so that its hash is another one."""
    shutil.copytree(
        ROOT / "decentralizepy", folder / "decentralizepy",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip
    (folder / "decentralizepy/mark.py").write_text(f"MARK = {mark!r}\n")
    (folder / "run_configuration").mkdir()
    return folder


def digest_of(package: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with monkeypatch.context() as patched:
        patched.setattr(provenance.decentralizepy, "__file__", str(package / "__init__.py"))
        return provenance.code_digest()


def test_a_bound_tree_runs_instead_of_the_images_code(
    engine: Engine, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With modules of one's own and a graph in it, and with nothing written into it."""
    tree = code_tree(tmp_path / "code", "tree")
    (tree / "run_configuration/pair.edges").write_text("2\n0 1\n1 0\n")
    (tree / "failing.py").write_text(
        "from decentralizepy import Sharing\n\n\n"
        "class Failing(Sharing):\n"
        "    def merge(self, x, heard, ctx):\n"
        "        raise RuntimeError('failed on purpose')\n"
    )
    logs = logs_folder(tmp_path / "logs")
    sharing = "--set", "SHARING.sharing_package=failing", "--set", "SHARING.sharing_class=Failing"
    before = sorted(tree.rglob("*"))
    done = run(
        engine, image, binds(logs=logs, decentralizepy=tree), "pair.edges", 1, 2, *EIGHT[3:],
        *sharing,
    )  # fmt: skip
    assert done.returncode == 5 and "failed on purpose" in done.stderr, done.stderr
    ran = what_ran(logs)
    assert ran["code_sha256"] == digest_of(tree / "decentralizepy", monkeypatch)
    assert ran["code_sha256"] != provenance.code_digest()
    assert ran["code_folder"] == "/decentralizepy/decentralizepy"
    assert list(ran["modules"]) == ["failing"]
    assert sorted(tree.rglob("*")) == before


def test_a_bare_package_runs_for_a_stranger_without_home(
    engine: Engine, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither home nor user nor the host's environment is needed, and none of it gets in."""
    package = code_tree(tmp_path / "code", "bare") / "decentralizepy"
    logs = logs_folder(tmp_path / "logs")
    os.chown(logs, STRANGER, STRANGER)
    poison = tmp_path / "poison"
    poison.mkdir()
    (poison / "torch.py").write_text("raise SystemExit('the host gets in')")
    options = ["--no-home", "--contain", "--security", f"uid:{STRANGER},gid:{STRANGER}"]
    done = run(
        engine, image, [*options, *binds(logs=logs, decentralizepy=package, mnt=poison)],
        *EIGHT, PYTHONPATH="/mnt", PYTHONHOME="/mnt", HOME="/nowhere", USER="nobody",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ran = what_ran(logs)
    assert ran["code_sha256"] == digest_of(package, monkeypatch)
    assert ran["flags"]["cache_dir"] == f"/tmp/decentralizepy-{STRANGER}/cache"
    assert (logs / "machine0/run.json").stat().st_uid == STRANGER


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others than root reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_an_unprivileged_user_runs_it(engine: Engine, image: Path, open_folder: Path) -> None:
    """By a user namespace and FUSE; the device for that may be root's alone, as here."""
    logs = logs_folder(open_folder / "logs")
    os.chown(logs, NOBODY, NOBODY)
    fuse = "mount -t tmpfs none /mnt && mknod -m 666 /mnt/fuse c 10 229"
    fuse += ' && mount --bind /mnt/fuse /dev/fuse && exec "$@"'
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env", "-uHOME"]
    command = ["unshare", "--mount", "sh", "-c", fuse, "sh", *user, str(engine.path), "run"]
    command += ["--no-home", *binds(logs=logs), str(image), *map(str, EIGHT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=160)
    assert done.returncode == 0, done.stderr
    assert what_ran(logs)["outcome"] == "done"
    assert (logs / "machine0/run.json").stat().st_uid == NOBODY


def alive(group: int) -> list[str]:
    """The commands of a process group, without what has ended but nobody waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().rpartition(")")
            state, _, its_group = rest.split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(name)
    return found


@pytest.mark.parametrize("sent", (signal.SIGINT, signal.SIGTERM))
def test_a_signal_ends_it_and_leaves_nothing(
    engine: Engine, image: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    """As Ctrl-C does, to all processes of the command."""
    logs = logs_folder(tmp_path / "logs")
    arguments = [*EIGHT[:3], 10**6, EIGHT[4], 0, "INFO", 1]
    command = [engine.path, "run", *binds(logs=logs), image, *arguments]
    started = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, start_new_session=True)
    try:
        while not any(b"iteration" in line for line in iter(started.stdout.readline, b"")):
            assert started.poll() is None
        os.killpg(started.pid, sent)
        started.communicate(timeout=30)
        deadline = time.monotonic() + 20  # the core's fork server follows a moment later
        while (left := alive(started.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 130 and left == []
    assert what_ran(logs)["outcome"] == "interrupted"
    mounted = Path("/proc/mounts").read_text()
    assert str(logs) not in mounted and image.name not in mounted


def test_a_missing_graph_is_reported_with_all_places(
    engine: Engine, image: Path, tmp_path: Path
) -> None:
    logs = logs_folder(tmp_path / "logs")
    done = run(engine, image, binds(logs=logs), "none.edges", *EIGHT[1:])
    assert done.returncode == 2
    assert [line.strip() for line in done.stderr.splitlines() if "/none.edges" in line] == [
        "/logs/none.edges",
        "/decentralizepy/run_configuration/none.edges",
        "/decentralizepy/eval/none.edges",
        "/opt/decentralizepy/run_configuration/none.edges",
    ]
    assert [path.name for path in logs.iterdir()] == ["config.ini"]


@pytest.mark.parametrize(
    "arguments, said",
    ((EIGHT[:7], "8 arguments are needed"), ([*EIGHT, "--no-such-flag"], "--no-such-flag")),
)
def test_a_wrong_call_exits_with_2(
    engine: Engine, image: Path, tmp_path: Path, arguments: list[object], said: str
) -> None:
    done = run(engine, image, binds(logs=logs_folder(tmp_path / "logs")), *arguments)
    assert done.returncode == 2 and said in done.stderr


def test_the_image_is_read_only_and_says_what_it_is(
    engine: Engine, image: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows").write_text("1")
    shell = (
        "for d in /datasets /privacy_datasets; do test -s $d/rows || exit 3; done;"
        " touch /opt/x 2>/dev/null && exit 4; python -m decentralizepy --help >/dev/null"
    )
    options = ["--nv", *binds(datasets=data, privacy_datasets=data)]  # no GPU is only a warning
    command = [engine.path, "exec", *options, image, "sh", "-c", shell]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    labels, text = (
        subprocess.run([engine.path, what, image], capture_output=True, text=True).stdout
        for what in ("inspect", "run-help")
    )
    assert "org.opencontainers.image.version: 0.1.0" in labels
    assert re.search(r"image\.revision: (\w{40}(\+dirty)?|unknown)\n", labels)
    assert "AVERAGING_STEPS" in text and "/privacy_datasets" in text
