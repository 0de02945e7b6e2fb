"""A small experiment, and stand-ins for the core and the results room: scripts to be started."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
Make = Callable[..., Path]

INI = """\
; what to train
[DATASET]
dataset_package = decentralizepy.datasets.Digits
dataset_class = Digits
model_class = MLP
random_seed = 90

[OPTIMIZER_PARAMS]
optimizer_package = torch.optim
optimizer_class = SGD
lr = 0.05

[TRAIN_PARAMS]
training_package = decentralizepy.training.Training
training_class = Training
rounds = 3
batch_size = 8
loss_package = torch.nn
loss_class = CrossEntropyLoss

[COMMUNICATION]
comm_package = decentralizepy.communication.TCP
comm_class = TCP
addresses_filepath = somewhere/else.json ; replaced

[SHARING]
sharing_package = decentralizepy.sharing.Sharing
sharing_class = Sharing
"""


def ring(n: int) -> str:
    """A graph file in which each node has the four nearest neighbours (n > 4)."""
    links = [f"{i} {(i + step) % n}" for i in range(n) for step in (1, 2)]
    return "\n".join([str(n), *links, ""])


def values(**changes: Any) -> dict[str, Any]:
    """The JSON of a small experiment; a value of None takes its key out."""
    base = {
        "job_name": "small",
        "GRAPH_FILE": "ring.edges",
        "NB_AGENTS": 9,
        "NB_MACHINE": 2,
        "NB_ITERATION": 10,
        "EVAL_FILE": "testingPeerSampler.py",
        "TEST_AFTER": 5,
        "CONFIG_NAME": "small.ini",
        "WORKERS": 1,
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


# How the fake core behaves is its first argument, before the verb.
CORE = """
import itertools, json, os, pathlib, signal, subprocess, sys, time

mode, verb, *rest = sys.argv[1:]


def option(flag):
    return rest[rest.index(flag) + 1]


def hang():  # until a signal, also one that comes just before a sleep
    for _ in range(3000):  # nobody came: five minutes are enough
        time.sleep(0.1)


def leave(code, text):
    print(text, file=sys.stderr, flush=True)
    sys.exit(code)


if verb == "check":
    ini = pathlib.Path(rest[0])
    assert ini.is_file() and ini.with_name("ip.json").is_file()
    if mode == "bad-check":
        leave(2, f"decentralizepy: {ini}: [NODE] is odd; even it")
    if mode == "slow-check":
        pathlib.Path(os.environ["DECENTRALIZEPY_MARK"]).write_text(str(os.getpid()))
        hang()
    sys.exit(0)
if verb == "prepare":
    print("preparing 1797 digits", flush=True)
    sys.exit(leave(5, "decentralizepy: no network") if mode == "bad-prepare" else 0)

machine, folder, rounds = int(option("-mid")), pathlib.Path(option("-ld")), int(option("-is"))
shares = itertools.takewhile(str.isdecimal, rest[rest.index("-ps") + 1 :])
shares = [int(s) for s in shares]
shares *= int(option("-ms")) if len(shares) == 1 else 1
first, nodes = sum(shares[:machine]), shares[machine]


def status(state, done, error=None, notes=()):
    value = dict(state=state, machine=machine, workers=1, nodes=nodes, iterations=rounds,
                 round_min=done, round_mean=float(done), round_max=done, elapsed_s=0.1 * done,
                 test_acc=dict(iteration=done, mean=50.0 + machine, nodes=nodes) if done else None,
                 train_loss=None, error=error, notes=notes)
    (folder / "status.tmp").write_text(json.dumps(value))
    os.replace(folder / "status.tmp", folder / "status.json")


def until(fulfilled):  # or for so long that whoever waits for us has waited too long
    limit = time.monotonic() + 5
    while not fulfilled() and time.monotonic() < limit:
        time.sleep(0.02)


def in_ledger(event):
    return f'"{event}"' in (folder.parent / "ledger.jsonl").read_text()


dying = folder.parent / "dying"  # machine 1 is about to be killed

print("machine", machine, "of", option("-ms"), flush=True)
if mode == "dies-once" and machine == 0:  # it went back before it told that it was running
    until(dying.exists)
    time.sleep(0.3)  # the orchestrator sees the loss, and asks us
    status("starting", 0, notes=["machine 1 is gone; all go back to the newest checkpoint"])
else:
    status("running", 1)
if mode == "fail" and machine == 1:
    status("failed", 3, "node 9 of machine 1 in round 3: the disk is full")
    leave(5, "Traceback: OSError: the disk is full")
if mode == "refuse" and machine == 1:
    status("failed", 0, "another experiment")
    leave(2, "decentralizepy: another experiment")
if mode == "refuse":
    hang()
if mode == "killed" and machine == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "killed":
    time.sleep(0.2)
    leave(5, "decentralizepy: machine 1 is gone")
if mode.startswith("dies") and machine == 1 and (mode == "dies" or "--resume" not in rest):
    time.sleep(0.3)
    dying.touch()
    os.killpg(0, signal.SIGKILL)
if mode == "dies" and "wait" in rest:
    hang()
if mode == "dies":
    until(lambda: in_ledger("lost"))
if mode == "dies-once" and machine == 0:  # where nobody starts machine 1 again, we are ended
    until(lambda: in_ledger("restarted"))
if mode == "interrupted" and machine == 1:  # as the core, which takes SIGTERM for Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    os.kill(os.getpid(), signal.SIGTERM)
if mode == "interrupted":
    hang()
if mode == "gated":  # until somebody opens the gate
    while not os.path.exists(os.environ["DECENTRALIZEPY_GATE"]):
        time.sleep(0.05)
if mode in ("fail", "hang", "stubborn"):
    if mode == "stubborn":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    code = "import time; time.sleep(300)"
    worker = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    (folder / "pids").write_text(f"{os.getpid()} {worker.pid}")
    hang()

with (folder / "records_0.jsonl").open("w") as out:
    due = rounds and (int(option("-ta")) or int(option("-tea")))
    for iteration in (1, rounds) if due else ():
        for rank in range(nodes):
            sent = iteration * 4 * (19240 + 128)
            print(json.dumps(dict(
                iteration=iteration, uid=first + rank, machine=machine, rank=rank,
                train_loss=1.0, test_loss=1.0, test_acc=90.0 + (first + rank) / 2,
                total_bytes=sent, total_data=iteration * 4 * 19240, total_meta=iteration * 4 * 128,
                wire_bytes=sent // 2, elapsed_s=0.1, train_s=0.02, share_s=0.01, wait_s=0.0,
                evaluate_s=0.01)), file=out)
status("done", rounds)
"""

RESULTS = """
import pathlib, sys

folder = pathlib.Path(sys.argv[1])
assert (folder / "plan.json").is_file()
for name in ("tables/all.csv", "figures/accuracy.pdf", "figures/accuracy.csv"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
"""

BROKEN_RESULTS = "raise SystemExit('no such font')"


def script(folder: Path, name: str, text: str) -> tuple[str, str]:
    """A Python script as the beginning of a command."""
    path = folder / name
    path.write_text(text)
    return sys.executable, str(path)


def alive(pid: int) -> bool:
    """Whether a process still runs (one that has ended but was not waited for doesn't)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def await_true(condition, seconds: float = 10.0) -> bool:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def pids_of(run: Path) -> list[int]:
    """The processes that the fake machines of a run told of."""
    return [int(pid) for file in run.glob("machine*/pids") for pid in file.read_text().split()]


def read_when_there(folder: Path, machines: int) -> list[int]:
    """The pids of all machines of the one run in ``folder``, as soon as they are there."""

    def told() -> bool:
        files = list(folder.glob("*/machine*/pids"))
        return len(files) == machines and all(len(f.read_text().split()) == 2 for f in files)

    assert await_true(told), f"machines did not start: {sorted(folder.iterdir())}"
    (run,) = folder.iterdir()
    return pids_of(run)
