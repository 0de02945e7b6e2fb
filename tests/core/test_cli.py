"""The command: help with examples; one message and exit code 2 for what is wrong."""

import subprocess
import sys
from pathlib import Path

import core_examples as examples
import pytest

from decentralizepy import __version__, cli
from decentralizepy.errors import EXIT_INTERRUPTED, EXIT_RUN_FAILED, RunError

COMMANDS = ("run", "check", "prepare", "graph")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_has_examples(call, command):
    done = call(*command, "--help")
    assert done.code == 0 and not done.err
    assert "examples:" in done.out and f"decentralizepy {' '.join(command)}" in done.out


def test_help_lists_every_flag_and_exit_code(call):
    out = call("run", "--help").out
    for flag in ("-mid", "--machine_id", "-tea", "--averaging_steps", "--workers", "exit codes"):
        assert flag in out


def test_examples_of_the_help_are_proper_command_lines():
    for text in (cli._HELP, cli._RUN_HELP, cli._CHECK_HELP, cli._PREPARE_HELP, cli._GRAPH_HELP):
        lines = [line.split() for line in text.replace("\\\n", " ").splitlines()]
        found = [line[1:] for line in lines if line[:1] == ["decentralizepy"] and line[1].islower()]
        assert found
        for words in found:
            cli._parser().parse_args(words)


def test_version(call):
    assert call("--version").out.strip() == f"decentralizepy {__version__}"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["walk"],
        ["run", "-is", "many"],
        ["run", "-gt", "matrix"],
        ["run", "-ro", "2"],
        ["run", "--colour", "blue"],
        ["check"],
    ],
)
def test_usage_errors(call, words):
    done = call(*words)
    assert done.code == 2 and "usage: decentralizepy" in done.err and not done.out


WRONG = {
    "graph missing": (["-gf", "none.edges"], "none.edges", "(-gf)"),
    "graph of another size": (["-ps", "16"], "ring.edges has 8 nodes", "these must be equal"),
    "procs for other machines": (["-ps", "4", "4"], "-ps gives 2 machines", "one number for all"),
    "no such machine": (["-mid", "5"], "-mid 5", "machines are 0 to 0"),
    "unknown driver": (["--eval_file", "x.py"], "unknown driver 'x.py'", "known: testing.py"),
    "odd degree": (
        ["-gf", "seven.edges", "-cf", "odd.ini", "--eval_file", "testingPeerSamplerDynamic.py"],
        "odd.ini: [NODE] graph_degree = 3",
        "choose another degree or size",
    ),
    "no degree": (
        ["-cf", "none.ini", "--eval_file", "testingPeerSamplerDynamic.py"],
        "none.ini: [NODE] needs 'graph_degree'",
        "testingPeerSamplerDynamic.py needs it",
    ),
    "bad addresses": (["-ms", "2", "-cf", "bad.ini"], "bad.json", "exactly the keys 0, 1"),
    "one-way graph": (
        ["-gf", "way.adj", "-gt", "adjacency"],
        "way.adj is directed",
        "edges both ways",
    ),
    "unknown key": (["-cf", "typo.ini"], "typo.ini: [TRAIN_PARAMS]", "did you mean 'batch_size'"),
    "folder in use": (
        ["-ld", "used"],
        "used already contains a run",
        "choose another folder (-ld)",
    ),
}


@pytest.fixture
def mistakes(folder):
    """Files with one mistake each."""
    Path("seven.edges").write_text(examples.ring(7))
    Path("odd.ini").write_text(examples.ini(NODE__graph_degree="3"))
    Path("none.ini").write_text(examples.ini(NODE__graph_degree=""))
    Path("bad.ini").write_text(examples.ini(COMMUNICATION__addresses_filepath="bad.json"))
    Path("bad.json").write_text('{"0": "127.0.0.1"}')
    Path("way.adj").write_text("3\n1\n2\n0\n")
    Path("typo.ini").write_text(examples.ini(TRAIN_PARAMS__batch_sizes="8"))
    Path("used").mkdir()
    Path("used/args.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_said_once_and_nothing_is_written(call, mistakes, name):
    words, what, remedy = WRONG[name]
    before = sorted(mistakes.rglob("*"))
    done = call("run", "-cf", "small.ini", "-gf", "ring.edges", "-ld", "out/machine0", *words)
    assert done.code == 2 and not done.out
    assert done.err.startswith("decentralizepy: ") and done.err.count("\n") == 1
    assert what in done.err and remedy in done.err and "Traceback" not in done.err
    assert sorted(mistakes.rglob("*")) == before


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunError("machine 0, worker 1 was killed"), EXIT_RUN_FAILED, "worker 1 was killed"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted"),
        (BrokenPipeError(), EXIT_RUN_FAILED, ""),
        (MemoryError(), EXIT_RUN_FAILED, "not enough memory for 'run': make"),
        (MemoryError("of 9 GiB"), EXIT_RUN_FAILED, "not enough memory for 'run' (of 9 GiB)"),
    ],
)
def test_how_runs_end(call, folder, monkeypatch, error, code, said):
    def fail(_):
        raise error

    monkeypatch.setattr(cli.arguments, "settings_of", fail)
    done = call("run")
    assert done.code == code and said in done.err and "Traceback" not in done.err


def test_check_constructs_everything_but_the_data(call, folder):
    done = call("check", "small.ini", "-gf", "ring.edges", "-ms", "2")
    assert done.code == 0 and not done.err
    for words in ("digits.Digits", "MLP, 4810 parameters", "4810 floats, 19240 bytes", "Sharing"):
        assert words in done.out
    assert call("check", "small.ini").code == 0  # there is no graph of the default name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.ini"], "cannot read nowhere.ini"),
        (["small.ini", "-gf", "none.edges"], "cannot read graph none.edges"),
        (["small.ini", "-ps", "8"], "cannot read graph 36_nodes.edges"),
        (["small.ini", "-gf", "ring.edges", "-ms", "2", "-ps", "5"], "-ps and -ms make 10"),
        (["odd.ini", "-gf", "seven.edges", "--eval_file", "testingPeerSamplerDynamic"], "even"),
        (["shards.ini"], "shards = 0 must be at least 1"),
    ],
)
def test_check_refuses(call, mistakes, words, said):
    Path("shards.ini").write_text(examples.ini(DATASET__shards="0"))
    done = call("check", *words)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err


MY_DATA = """
class Net: ...

class Mine:
    def __init__(self, *, random_seed: int = 0, train_dir: str = ""):
        self.train_dir = train_dir

    def prepare(self, folder, progress):
        if not self.train_dir:
            raise ValueError("train_dir is empty: say where the files are")
        progress(f"preparing {self.train_dir} in {folder}")

    def counts(self):
        return 3, 3

    def validation(self):
        return []
"""


def test_prepare_makes_the_data_set_ready_or_says_why_not(call, folder):
    Path("my_plain_data.py").write_text(MY_DATA)
    keys = {
        "DATASET__dataset_package": "my_plain_data",
        "DATASET__dataset_class": "Mine",
        "DATASET__model_class": "Net",
        "DATASET__shards": None,
        "DATASET__partition_niid": None,
    }
    Path("small.ini").write_text(examples.ini(**keys, DATASET__train_dir="files"))
    done = call("prepare", "small.ini", "--cache-dir", "cache")
    assert done.code == 0 and "preparing files in cache" in done.out
    assert "Mine: 3 training samples, 3 test samples" in done.out
    Path("small.ini").write_text(examples.ini(**keys))
    done = call("prepare", "small.ini", "--cache-dir", "cache")
    assert done.code == 2
    said = "small.ini: [DATASET] train_dir is empty: say where the files are"
    assert done.err == f"decentralizepy: {said}\n"


def test_the_module_is_a_command_too():
    done = subprocess.run(
        [sys.executable, "-m", "decentralizepy", "--version"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("decentralizepy ")
