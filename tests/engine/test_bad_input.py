"""Bad input: one clear message, exit code 2, and nothing left behind, not even the log folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from launching import Experiment, end_all

from decentralizepy import cli
from decentralizepy.graphs.generators import ring

DYNAMIC = ("--eval_file", "testingPeerSamplerDynamic.py")
TWO = ("-ms", "2", "-mid", "0")


@dataclass
class Said:
    code: object
    err: str


@dataclass
class Case:
    """What is wrong: files to write, a change of the INI, flags; and what is to be said."""

    said: tuple[str, ...]
    words: tuple[str, ...] = ()
    files: tuple[tuple[str, str | bytes], ...] = ()
    change: tuple[str, str] = ("", "")


def graph(text: str, *said: str, kind: str = "edges") -> Case:
    name = f"bad.{kind[:5]}"
    return Case(said, ("-gf", name, "-gt", kind), ((name, text),))


def machines(text: str, *said: str) -> Case:
    return Case(("ip.json", *said), TWO, (("ip.json", text),))


def ini(old: str, new: str, *said: str, words: tuple[str, ...] = ()) -> Case:
    return Case(("config.ini", *said), words, change=(old, new))


def flags(*words: str, said: tuple[str, ...]) -> Case:
    return Case(said, words)


ROUNDS, BATCH = "rounds = 3", "batch_size = 8"

#: what is refused before anything is started
AT_ONCE = {
    "graph of another size": flags("-ps", "5", said=("graph.edges", "-ps", "these must be equal")),
    "fewer nodes than machines": flags("-ms", "5", said=("-ms 5", "4 nodes", "needs one")),
    "self-loop": graph("4\n0 1\n2 2\n", "bad.edges, line 3", "node 2", "delete"),
    "self-loop in .adj": graph(
        "2\n1\n1\n", "bad.adjac, line 3", "sends to itself", kind="adjacency"
    ),
    "duplicate": graph("4\n0 1\n1 0\n0 1\n", "bad.edges, line 4", "line 2", "delete one"),
    "duplicate in .adj": graph("2\n1 1\n0\n", "line 2", "twice", "delete one", kind="adjacency"),
    "giant graph": graph("1000000000000\n0 1\n", "line 1", "must be from 1 to"),
    "no graph": graph("", "bad.edges, line 1", "empty"),
    "binary graph": Case(
        ("bad.edges", "only numbers"), ("-gf", "bad.edges"), (("bad.edges", b"\0\xff"),)
    ),
    "odd n x degree": Case(
        ("config.ini", "graph_degree = 3", "choose another degree or size"),
        ("-gf", "five.edges", *DYNAMIC),
        (("five.edges", "5\n0 1\n"),),
        ("[NODE]", "[NODE]\ngraph_degree = 3"),
    ),
    "no such degree": ini(
        "[NODE]", "[NODE]\ngraph_degree = 1000000000000", "graph_degree", words=DYNAMIC
    ),
    "ip.json: 0.5": machines('{"0.5": "127.0.0.1", "1": "127.0.0.2"}', "'0.5'", "keys 0, 1"),
    "ip.json: 00": machines('{"00": "127.0.0.1", "1": "127.0.0.2"}', "'00'", "keys 0, 1"),
    "ip.json: -1": machines('{"0": "127.0.0.1", "-1": "127.0.0.2"}', "'-1'", "keys 0, 1"),
    "ip.json: repeated key": machines(
        '{"0": "127.0.0.1", "0": "127.0.0.2", "1": "127.0.0.3"}', "'0' appears twice"
    ),
    "ip.json: missing": machines('{"0": "127.0.0.1"}', "'1' is missing"),
    "ip.json: number": machines('{"0": 5, "1": "127.0.0.2"}', "machine 0 has no valid address"),
    "ip.json: cut": machines('{"0": "127.0.0.1', "not valid JSON"),
    "ip.json: not UTF-8": Case(("ip.json", "UTF-8"), TWO, (("ip.json", b"\xff\xfe{}"),)),
    "ip.json: deep": machines("[" * 10_000, "not valid JSON"),
    "run folder exists": Case(
        ("used", "already contains a run", "(-ld)", "--resume"),
        ("-ld", "used"),
        (("used/args.json", "{}"),),
    ),
    "no run to resume": flags("--resume", said=("log/machine0", "no run to resume", "(-ld)")),
    "unknown class": ini("dataset_class = Digits", "dataset_class = Digit", "did you mean"),
    "unknown model": ini("model_class = MLP", "model_class = MPL", "no class MPL"),
    "unknown module": ini("sharing.Sharing\n", "sharing.Sharng\n", "Sharng", "did you mean"),
    "unknown option": ini(BATCH, "batchsize = 8", "batchsize", "batch_size"),
    "unknown section": ini("[NODE]", "[NODES]", "[NODES]", "did you mean 'NODE'"),
    "unknown optimizer option": ini("lr = 0.05", "rl = 0.05", "'rl'", "lr"),
    "no number": ini(ROUNDS, "rounds = many", "rounds", "many"),
    "too few rounds": ini(ROUNDS, "rounds = -1", "rounds = -1", "at least 0"),
    "empty batches": ini(BATCH, "batch_size = 0", "batch_size = 0", "at least 1"),
    "peer_timeout": ini("offset", "peer_timeout = 1e999\noffset", "peer_timeout = inf", "seconds"),
    "INI without sections": Case(
        ("bad.ini", "not a valid INI file"), ("-cf", "bad.ini"), (("bad.ini", "lr = 1\n"),)
    ),
    "INI with a key twice": ini(BATCH, f"{BATCH}\n{BATCH}", "already exists"),
    "INI not UTF-8": Case(
        ("bad.ini", "not UTF-8"), ("-cf", "bad.ini"), (("bad.ini", b"[NODE]\n\xff"),)
    ),
    "INI of many MB": Case(
        ("bad.ini", "more than 1 MiB"), ("-cf", "bad.ini"), (("bad.ini", "; \n" * 500_000),)
    ),
    "INI is a folder": flags("-cf", ".", said=("cannot read .", "directory")),
    "per-node JSON cut": Case(
        ("config.ini", "rounds", "by.json"),
        (),
        (("by.json", '{"0": 3'),),
        (ROUNDS, "rounds = by.json"),
    ),
    "fault plan": Case(
        ("plan.json", "--faults"), ("--faults", "plan.json"), (("plan.json", '{"kill": 1'),)
    ),
    "simulation": Case(
        ("sim.json", "'links'"), ("--simulate", "sim.json"), (("sim.json", '{"link": 1}'),)
    ),
    "iterations": flags("-is", "1000000000000", said=("--iterations", "at most")),
    "threads": flags("--threads", "1000000000000", said=("--threads", "at most")),
    "wait_limit": flags("--wait_limit", "nan", said=("--wait_limit nan", "at least 0")),
    "device": flags("--device", "cpu:banana", said=("--device cpu:banana", "cuda")),
    "driver": flags("--eval_file", "x.py", said=("unknown driver", "testing.py")),
    "log folder is a file": flags("-ld", "config.ini/log", said=("config.ini", "(-ld)")),
}

DIGITS = "dataset_package = decentralizepy.datasets.Digits\ndataset_class = Digits"


def data(body: str, *said: str) -> Case:
    """A data set of the user's whose class has this body."""
    text = "from decentralizepy import Dataset\n\n\nclass Own(Dataset):\n"
    text += "    def identity(self):\n        return ['1']\n\n" + body
    own = "dataset_package = own\ndataset_class = Own"
    return Case(("[DATASET]", "Own", *said), (), (("own.py", text),), (DIGITS, own))


BUILD = '    name = "own"\n\n    def build(self, progress):\n        '

GRU = """from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(8, 10, batch_first=True)

    def forward(self, x):
        return self.cells(x.flatten(1, 2))[0][:, -1]
"""

#: what only shows once data, classes or workers are looked at: these start processes
LATER = {
    "more nodes than samples": Case(
        ("config.ini", "2000 nodes", "1442 training samples", "fewer nodes"),
        ("-gf", "big.edges"), (("big.edges", "2000\n0 1\n"),),
    ),
    "empty partition": ini(
        "shards = 2", "shards = 1000000000000", "empty part", "fewer shards"
    ),
    "rounds = 10**12": Case(
        ("[TRAIN_PARAMS] rounds = 1000000000000", "lower rounds"), (),
        change=(ROUNDS, "rounds = 1000000000000"),
    ),
    "a class that raises": Case(
        ("broken", "ZeroDivisionError"), (), (("broken.py", "class Net:\n    x = 1 / 0\n"),),
        ("model_package = decentralizepy.models.digits\nmodel_class = MLP",
         "model_package = broken\nmodel_class = Net"),
    ),
    "layers without per-sample gradients": Case(
        ("config.ini: per-sample gradients", "layer cells, a GRU", "take LSTM"),
        ("--set", "DATASET.model_package=gru", "--set", "DATASET.model_class=Net",
         "--set", "TRAIN_PARAMS.training_package=decentralizepy.training.PrivateTraining",
         "--set", "TRAIN_PARAMS.training_class=PrivateTraining",
         "--set", "TRAIN_PARAMS.clip=1", "--set", "TRAIN_PARAMS.noise=1"),
        (("gru.py", GRU),),
    ),
    "an array that is missing": data(
        BUILD + "return dict(train_x=[1], train_y=[1], test_x=[1])", "build", "no test_y",
    ),
    "a build that raises": data(BUILD + "return ops", "NameError", "own.py, line 11, in build"),
}  # fmt: skip


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(4), cache)


def prepare(experiment: Experiment, case: Case) -> None:
    for name, content in case.files:
        path = experiment.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path = experiment.folder / "config.ini"
    old, new = case.change
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1) if old else path.read_text())


def command(experiment: Experiment, case: Case) -> list[str]:
    return [
        "run", "-cf", "config.ini", "-gf", "graph.edges", "-is", "2", "-ld", "log/machine0",
        "--workers", "1", "--cache-dir", str(experiment.cache), *case.words,
    ]  # fmt: skip


def check(experiment: Experiment, before: set[Path], case: Case, said: Said) -> None:
    assert said.code == 2, said.err
    assert said.err.count("decentralizepy: ") == 1 and said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err and len(said.err) < 1000
    for words in case.said:
        assert words in said.err
    assert files(experiment.folder) == before


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture
def call(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], Said]:
    monkeypatch.chdir(experiment.folder)

    def run(words: list[str]) -> Said:
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        return Said(ended.value.code, capsys.readouterr().err)

    return run


@pytest.mark.parametrize("name", AT_ONCE)
def test_bad_input_is_refused_at_once(
    experiment: Experiment, call: Callable[[list[str]], Said], name: str
) -> None:
    prepare(experiment, AT_ONCE[name])
    before = files(experiment.folder)
    check(experiment, before, AT_ONCE[name], call(command(experiment, AT_ONCE[name])))


@dataclass
class Started:
    """A command that runs, and the files that were there before."""

    experiment: Experiment
    process: subprocess.Popen[str]
    before: set[Path]

    def end(self) -> Said:
        _, text = self.process.communicate(timeout=120)
        return Said(self.process.returncode, text)


#: what is fine: whole numbers of any size take no memory, and a node has 360 samples
HUGE_BATCH = Case((), change=(BATCH, "batch_size = 1000000000000"))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[dict[str, Started]]:
    """Real commands, all started at once: each has a folder of its own."""
    found = {}
    for name, case in {**LATER, "huge batch": HUGE_BATCH}.items():
        made = Experiment(tmp_path_factory.mktemp("started"), ring(4), cache)
        prepare(made, case)
        before = files(made.folder)
        found[name] = Started(made, start(made, command(made, case)), before)
    yield found
    end_all(one.process for one in found.values())


def start(experiment: Experiment, words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "decentralizepy", *words], cwd=experiment.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def real(experiment: Experiment, words: list[str]) -> Said:
    return Started(experiment, start(experiment, words), set()).end()


@pytest.mark.parametrize("name", LATER)
def test_what_is_found_later_leaves_nothing_behind_either(
    started: dict[str, Started], name: str
) -> None:
    one = started[name]
    check(one.experiment, one.before, LATER[name], one.end())


def test_fewer_samples_than_a_batch_trains_on_what_it_has_and_says_so(
    started: dict[str, Started],
) -> None:
    done = started["huge batch"].end()
    assert done.code == 0, done.err
    log = (started["huge batch"].experiment.folder / "log/machine0/0.log").read_text()
    assert "360 samples are fewer than batch_size = 1000000000000" in log


def test_in_a_folder_that_was_there_the_reason_stays_and_a_new_run_can_start(
    experiment: Experiment,
) -> None:
    case = LATER["empty partition"]
    text = (experiment.folder / "config.ini").read_text()
    (experiment.folder / "log/machine0").mkdir(parents=True)
    prepare(experiment, case)
    assert real(experiment, command(experiment, case)).code == 2
    folder = experiment.folder / "log/machine0"
    assert "empty part" in json.loads((folder / "status.json").read_text())["error"]
    assert not (folder / "args.json").exists()
    (experiment.folder / "config.ini").write_text(text)
    done = real(experiment, command(experiment, case))
    assert done.code == 0, done.err


def test_both_directions_of_a_link_and_equal_addresses_are_fine(
    experiment: Experiment, call: Callable[[list[str]], Said]
) -> None:
    (experiment.folder / "graph.edges").write_text("4\n0 1\n1 0\n1 2\n2 1\n2 3\n3 2\n")
    (experiment.folder / "ip.json").write_text('{"0": "127.0.0.1", "1": "127.0.0.1"}')
    said = call(["where", "config.ini", "-gf", "graph.edges", "-ms", "2", "--workers", "1"])
    assert said.code == 0, said.err


@pytest.mark.parametrize("name", ["self-loop", "unknown class", "INI without sections"])
def test_check_says_the_same(
    experiment: Experiment, call: Callable[[list[str]], Said], name: str
) -> None:
    case = AT_ONCE[name]
    prepare(experiment, case)
    before = files(experiment.folder)
    path = case.words[1] if case.words[:1] == ("-cf",) else "config.ini"
    words = ("-gf", "graph.edges") if case.words[:1] == ("-cf",) else case.words
    check(experiment, before, case, call(["check", path, *words]))


def test_too_few_open_files_are_told_before_anything_is_written(
    tmp_path: Path, cache: Path
) -> None:
    experiment = Experiment(tmp_path, ring(4), cache)
    words = experiment.words(tmp_path / "run", 0, (4,), 1, 2)
    command = ["bash", "-c", 'ulimit -n 30; exec "$@"', "-", sys.executable, "-m", "decentralizepy"]
    done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert "needs 54 open files per process, and only 30 are allowed" in done.stderr
