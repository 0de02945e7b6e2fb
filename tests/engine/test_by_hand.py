"""Runs started by hand on every machine: ports, scripts/run.sh, no iterations, other files."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from in_process import undisturbed
from launching import Experiment, digests, end_all, finish, free_ports

import decentralizepy
from decentralizepy import cli
from decentralizepy.codec import Word
from decentralizepy.commands import arguments
from decentralizepy.communication.keys import make_key
from decentralizepy.communication.ports import BLOCK, can_bind, is_free
from decentralizepy.graphs.generators import ring
from decentralizepy.supervision import provenance
from decentralizepy.supervision.control import connect
from decentralizepy.words import Hello

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "run.sh"


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(8), cache)


@pytest.fixture
def running() -> Iterator[list]:
    """Processes that a test started; what is left of them is ended."""
    started: list = []
    yield started
    end_all(started)


def offset_of(experiment: Experiment) -> int:
    text = (experiment.folder / "config.ini").read_text()
    return int(text.split("offset = ")[1].split()[0])


def wait_for_listener(address: str, port: int, seconds: float = 60.0) -> None:
    """Wait until somebody listens on a port."""
    deadline = time.monotonic() + seconds
    while is_free(address, port):
        assert time.monotonic() < deadline, f"nobody listens on {address} port {port}"
        time.sleep(0.02)


# ---------------------------------------------------------------- ports


ADDRESSES = [("127.0.0.1", "127.0.0.1"), ("localhost", "::1")]


@pytest.mark.parametrize("addresses", ADDRESSES)
def test_machines_of_one_address_run_side_by_side(
    experiment: Experiment, running: list, addresses: tuple[str, str]
) -> None:
    """The same bits as on one machine, over ports that do not meet; names and IPv6 too."""
    text = (experiment.folder / "config.ini").read_text()
    offset = free_ports(2 * BLOCK + 6, ("127.0.0.1",))
    text = text.replace(f"offset = {offset_of(experiment)}", f"offset = {offset}")
    (experiment.folder / "config.ini").write_text(text)
    (experiment.folder / "ip.json").write_text(json.dumps(dict(zip("01", addresses, strict=True))))
    if "::1" in addresses and not can_bind("::1"):
        pytest.skip("there is no IPv6 here")
    together, running[:] = experiment.start((4, 4), 2, 3, "--digests")
    alone = undisturbed(experiment, 3)
    finish(running)
    assert digests(together) == alone


@pytest.mark.parametrize(("machine", "port_of"), [(1, 3), (0, 1), (0, 0)])
def test_a_taken_port_ends_the_run_before_it_begins(
    experiment: Experiment, running: list, machine: int, port_of: int
) -> None:
    offset = offset_of(experiment)
    with socket.create_server((f"127.0.0.{machine + 1}", offset + port_of)):
        root, processes = experiment.start((4, 4), 2, 10**6, only=(machine,) if machine else ())
        running += processes
        _, text = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 2
    assert f"port {offset + port_of} of 127.0.0.{machine + 1} is taken" in text
    assert f"another 'offset' than {offset}" in text and "Traceback" not in text
    assert not (root / f"machine{machine}").exists(), "nothing is written"


def test_machine_0_hears_of_a_taken_port_elsewhere(experiment: Experiment, running: list) -> None:
    offset = offset_of(experiment)
    for machine in (0, 1):
        with socket.create_server(("127.0.0.2", offset + 1)):
            root, processes = experiment.start((4, 4), 1, 10**6, only=(machine,))
            running += processes
            if machine == 0:
                wait_for_listener("127.0.0.1", offset)
            else:
                texts = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [2, 2]
    assert not (root / "machine1").exists()
    assert all(f"port {offset + 1} of 127.0.0.2 is taken" in text for text in texts)


# ---------------------------------------------------------------- scripts/run.sh


def script(experiment: Experiment, logs: Path, *more: str, **variables: str) -> list[str]:
    """Nothing but the variables tells the script what to run."""
    given = {
        "PYTHON": sys.executable, "CONFIG": "config.ini", "GRAPH": "graph.edges", "MACHINES": "2",
        "ITERATIONS": "3", "LOGS": str(logs), "PYTHONPATH": str(ROOT), **variables,
    }  # fmt: skip
    pairs = [f"{key}={value}" for key, value in given.items()]
    return ["env", *pairs, str(SCRIPT), "--cache-dir", str(experiment.cache), *more]


def test_the_script_started_twice_at_once_synchronizes(
    experiment: Experiment, running: list
) -> None:
    logs = experiment.folder / "logs"
    for machine in ("0", "1"):
        command = script(experiment, logs, "--digests", MACHINE_ID=machine, PROCS_PER_MACHINE="5,3")
        process = subprocess.Popen(
            command, cwd=experiment.folder, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        running.append(process)
    finish(running)
    assert len(digests(logs)) == 24
    args = json.loads((logs / "machine1" / "args.json").read_text())
    assert args["machine_id"] == 1 and args["procs_per_machine"] == [5, 3]
    assert args["reset_optimizer"] == 0


def test_the_script_says_why_it_cannot_know_its_machine(experiment: Experiment) -> None:
    done = subprocess.run(
        script(experiment, experiment.folder / "logs"),
        cwd=experiment.folder, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "choose one with -mid" in done.stderr
    assert not (experiment.folder / "logs").exists()


#: two machines as two network namespaces, joined by a cable; no privileges are needed
NAMESPACES = """
set -eu
ip link set lo up
unshare -n sleep 120 & other=$!
trap 'kill $other' EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
ip link add name west type veth peer name east netns $other
ip address add 10.77.0.1/24 dev west; ip link set west up
there() { nsenter -t $other -n "$@"; }
there ip link set lo up
there ip address add 10.77.0.2/24 dev east; there ip link set east up
there "$@" & second=$!
"$@"; wait $second
"""


def may_unshare() -> bool:
    if not (shutil.which("unshare") and shutil.which("ip") and shutil.which("nsenter")):
        return False
    probe = "ip link add name west type veth peer name east"
    done = subprocess.run(["unshare", "-Urn", "sh", "-c", probe], capture_output=True)
    return done.returncode == 0


#: as above, and the cable is cut for two seconds once machine 0 has done 20 iterations
CUT = NAMESPACES.replace(
    '"$@"; wait $second',
    """"$@" & first=$!
until grep -q '"round_min": [2-9][0-9]' $LOGS/machine0/status.json 2>/dev/null; do sleep 0.02; done
ip link set west down
sleep 1; cp $LOGS/machine0/status.json $LOGS/early.json
sleep 1; cp $LOGS/machine0/status.json $LOGS/late.json
ip link set west up
wait $first; wait $second""",
)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Experiment:
    """The script, the same on two machines that have only their addresses to go by."""
    if not may_unshare():
        pytest.skip("network namespaces may not be made here")
    made = Experiment(tmp_path_factory.mktemp("cut"), ring(8), cache)
    (made.folder / "ip.json").write_text(json.dumps({"0": "10.77.0.1", "1": "10.77.0.2"}))
    logs = made.folder / "logs"
    make_key(logs)
    slow = [{"slow_link": {"from": 4, "to": 3, "delay_s": 0.05}, "rounds": [20, 80]}]
    (made.folder / "faults.json").write_text(json.dumps(slow))  # no run is too fast for the cut
    more = ("--digests", "--workers", "1", "-is", "100", "--faults", "faults.json")
    command = script(made, logs, *more, TEST_AFTER="0")
    process = subprocess.Popen(
        ["unshare", "-Urn", "bash", "-c", CUT, "bash", *command],
        cwd=made.folder, text=True, start_new_session=True, env=os.environ | {
            "LOGS": str(logs)
        }, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, text = process.communicate(timeout=120)
        assert process.returncode == 0, text
    finally:
        end_all([process])
    return made


def test_every_machine_finds_itself_by_its_address(cut: Experiment) -> None:
    machines = [cut.folder / "logs" / f"machine{m}" / "args.json" for m in (0, 1)]
    assert [json.loads(path.read_text())["machine_id"] for path in machines] == [0, 1]


def test_a_run_survives_a_cable_that_is_cut_and_comes_back(cut: Experiment) -> None:
    """Nobody goes on without the other; when the cable is back, the bits are the usual ones."""
    logs = cut.folder / "logs"
    early, late = (json.loads((logs / name).read_text()) for name in ("early.json", "late.json"))
    assert early["round_max"] == late["round_max"] < 80, "the cut was felt"
    assert digests(logs) == undisturbed(cut, 100)


# ---------------------------------------------------------------- no iterations


def test_no_iterations_prepare_the_data_and_end_well(tmp_path: Path, running: list) -> None:
    """On one machine and on two, which run at the same time."""
    started = []
    for counts in ((8,), (4, 4)):
        fresh = tmp_path / f"fresh cache of {len(counts)}"
        made = Experiment(tmp_path / f"experiment of {len(counts)}", ring(8), fresh)
        root, processes = made.start(counts, 1, 0)
        running += processes
        started += [(fresh, root / f"machine{m}") for m in range(len(counts))]
    finish(running)
    for fresh, folder in started:
        assert list(fresh.glob("*/train_x.npy")), "the data is there for the run to come"
        assert json.loads((folder / "run.json").read_text())["outcome"] == "done"
        assert json.loads((folder / "status.json").read_text())["state"] == "done"
        names = {path.name for path in folder.iterdir()}
        assert names >= {"args.json", "config.ini", "graph.edges", "0.log"}
        assert not list(folder.glob("*.safetensors"))


# ---------------------------------------------------------------- the same experiment everywhere


def settings_of(*words: str) -> tuple[object, dict]:
    args = cli._parser().parse_args(["run", "-cf", "config.ini", "-gf", "graph.edges", *words])
    settings = arguments.settings_of(args)
    return settings, arguments.flags_of(args, settings)


def _other_ini(folder: Path) -> None:
    text = (folder / "config.ini").read_text()
    (folder / "config.ini").write_text(text.replace("lr = 0.05", "lr = 0.06"))


def _other_graph(folder: Path) -> None:
    with (folder / "graph.edges").open("a") as out:
        out.write("0 4\n")


def _other_addresses(folder: Path) -> None:
    (folder / "ip.json").write_text(json.dumps({"0": "127.0.0.1", "1": "127.0.0.3"}))


CHANGES = {
    "INI file (config.ini)": _other_ini,
    "graph (graph.edges)": _other_graph,
    "addresses (ip.json)": _other_addresses,
    "code of decentralizepy": lambda folder: None,
    "--iterations": lambda folder: None,
    "": lambda folder: None,
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_difference_is_found_before_training(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Machine 1 has one file, flag or line of code that is another; '' is the control."""
    monkeypatch.chdir(experiment.folder)
    mine = settings_of("-ms", "2", "-mid", "0", "-ld", "m0")
    first = provenance.digests(*mine)
    CHANGES[what](experiment.folder)
    if what.startswith("code"):
        copy = experiment.folder / "decentralizepy"
        shutil.copytree(Path(decentralizepy.__file__).parent, copy)
        with (copy / "streams.py").open("a") as out:
            out.write("# one line more\n")
        monkeypatch.setattr(decentralizepy, "__file__", str(copy / "__init__.py"))
    words = ("-is", "2") if what == "--iterations" else ()
    theirs = settings_of("-ms", "2", "-mid", "1", "-ld", "m1", *words)
    second = provenance.digests(*theirs)
    addresses = ("127.0.0.1", "127.0.0.2")  # whatever the changed file says
    planes = [connect(replace(one, addresses=addresses)) for one, _ in (mine, theirs)]
    try:
        for plane, found in zip(planes, (first, second), strict=True):
            plane.say(Hello(1, found, {}))
        news = _first_news(planes)
    finally:
        for plane in planes:
            plane.close()
    if not what:
        assert [said.workers for said in news] == [(1, 1)] * 2
        return
    for said in news:
        assert said.config
        assert "machine 1 does not run the same experiment as machine 0" in said.why
        assert f"different {what};" in said.why


def _first_news(planes: list) -> list[Word]:
    """What each control plane is told first."""
    heard: list[list[Word]] = [[] for _ in planes]
    deadline = time.monotonic() + 30
    while not all(heard):
        assert time.monotonic() < deadline, f"nothing was said: {heard}"
        for plane, news in zip(planes, heard, strict=True):
            news += plane.hear()
        time.sleep(0.002)
    return [news[0] for news in heard]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told(experiment: Experiment, running: list) -> None:
    _, processes = experiment.start((8,), 1, 1, "--device", "cuda")
    running += processes
    _, text = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 2
    assert "--device cuda: torch finds no GPU here" in text and "Traceback" not in text
