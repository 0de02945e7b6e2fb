"""The guide is true: its files are those that are tested, its examples run, its errors come."""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import decentralizepy
from decentralizepy import (
    ANY,
    Checkpoint,
    Message,
    MixingRow,
    Node,
    Receive,
    Report,
    Send,
    Train,
    run_here,
)
from decentralizepy.chaintext import read_chain
from decentralizepy.config import SECTIONS, parse_experiment
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.graphs.generators import ring
from decentralizepy.graphs.mixing import is_doubly_stochastic, mixing_matrix
from decentralizepy.registry import check_options, target

REPOSITORY = Path(__file__).resolve().parents[2]
METHODS = REPOSITORY / "tests" / "methods"
PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
#: blocks that begin with a docstring are whole files, the others are run one after the other
FILES = [block for block in PYTHON if block.startswith('"""')]
EXAMPLES = [block for block in PYTHON if not block.startswith('"""')]
INIS = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
DIGITS = (REPOSITORY / "run_configuration" / "digits_kshard2_mlp.ini").read_text(encoding="utf-8")
KEYS = {
    "SHARING": "sharing", "NODE": "node", "GRAPH": "graph", "TRAIN_PARAMS": "training",
    "DATASET": "dataset",
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


# --------------------------------------------------------------------- what is shown


def test_every_method_is_shown_as_it_is() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in METHODS.glob("*.py")}
    assert len(texts) >= 13
    assert sorted(texts.values()) == sorted(FILES)
    for name, text in texts.items():
        assert f"`{name}`:\n\n```python\n{text}```" in PAGE, "each is under its name"


@pytest.mark.parametrize("block", INIS, ids=range(len(INIS)))
def test_the_shown_keys_name_classes_and_their_options(block: str) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(block)
    for section in parser.sections():
        if section == "MODEL":
            one = parser["DATASET"]
            found = target(one["model_package"], one["model_class"], (METHODS,))
            assert check_options(found, dict(parser[section]), section)
            continue
        values, key = dict(parser[section]), KEYS[section]
        found = target(values.pop(f"{key}_package"), values.pop(f"{key}_class"), (METHODS,))
        assert read_chain(values.pop("compression", "fp16"), section, (METHODS,))
        if section == "DATASET":
            target(values.pop("model_package"), values.pop("model_class"), (METHODS,))
        passed = frozenset({"n", "graph", "seed"}) if section == "GRAPH" else frozenset[str]()
        assert check_options(found, values, section, passed).keys() == values.keys()


def test_the_table_of_sensors_is_dealt_by_user_and_trained(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("measured").mkdir()
    rng, users = np.random.default_rng(2), np.arange(80) % 5
    kinds = rng.integers(0, 3, 80)
    table = np.column_stack([users, rng.normal(size=(80, 4)) + 3 * (kinds - 1)[:, None], kinds])
    np.savetxt("measured/sensors.csv", table, delimiter=",")
    Path("sensors.py").write_text((METHODS / "sensors.py").read_text(encoding="utf-8"))
    (block,) = [block for block in INIS if "sensors" in block]
    rest = re.sub("loss_.*\n", "", DIGITS[DIGITS.index("[OPTIMIZER_PARAMS]") :])
    outcome = run_here(f"{block}\n{rest}", ring(5), 150, test_after=150, cache_dir=cache)
    assert min(row["test_acc"] for row in outcome.records if row["iteration"] == 150) > 80
    assert outcome.rows[0].shape == (4 * 16 + 16 + 16 * 3 + 3,)
    assert [node.n_samples for node in outcome.nodes.values()] == [12] * 5


def test_the_table_of_classes_names_what_an_ini_may_name() -> None:
    table = PAGE.split("| what | base class | section | keys |")[1].split("\n\n")[0]
    rows = re.findall(r"\| (.*) \| (.*) \| `(.*)` \| `(.*)`, `(.*)` \|", table)
    assert {section for _, _, section, _, _ in rows} | {"COMMUNICATION", "MODEL"} == set(SECTIONS)
    for _, base, _, package, name in rows:
        assert package.removesuffix("_package") == name.removesuffix("_class")
        if base.startswith("`") and "." not in base:
            assert base.strip("`") in decentralizepy.__all__


def test_the_examples_run(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run_configuration").symlink_to(REPOSITORY / "run_configuration")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    names: dict[str, Any] = {}
    for block in EXAMPLES:
        exec(compile(block, "extending.md", "exec"), names)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in printed] == [["14", "20"], ["15", "20"]]
    assert names["x"].shape == (4810,) and torch.equal(names["x"], names["outcome"].rows[0])
    assert not torch.equal(names["lazy"].rows[0], names["x"]), "a lazy method gives other numbers"
    assert Path("runs/half/checkpoints/3").is_dir()


def test_a_file_that_was_changed_is_read_anew_with_its_options(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (METHODS / "lazy.py").read_text(encoding="utf-8")
    ini = DIGITS.replace("decentralizepy.sharing.Sharing", "lazy")
    ini = ini.replace("= Sharing", "= LazyMetropolis\n{}")
    monkeypatch.chdir(tmp_path)
    for name, value in (("stay", 1.0), ("lingers", 0.5)):
        (tmp_path / "lazy.py").write_text(text.replace("stay", name))
        (tmp_path / "e.ini").write_text(ini.format(f"{name} = {value}"))
        run_here("e.ini", ring(4), 1, test_after=0, cache_dir=cache)


# ------------------------------------------------------- the two that no run tests


def method(name: str) -> Any:
    """A class of a file of the guide."""
    return target(*name.split("."), (METHODS,)).load()


@pytest.mark.parametrize("n", [2, 6, 8, 9])
def test_one_peer_reaches_everybody_in_turn(n: int) -> None:
    schedule = method("one_peer.OnePeer")(n)
    mixed = np.eye(n)
    for t in range(schedule.period):
        graph = schedule.at(t, 0)
        assert graph.degrees() == (1,) * n
        step = np.zeros((n, n))
        for source, sink in graph.edges:
            step[sink, source] = 1
        mixed = (np.eye(n) + step) @ mixed
        assert schedule.at(t + schedule.period, 1) is graph
    assert (mixed > 0).all()


def test_lazy_weights_are_doubly_stochastic() -> None:
    lazy = method("lazy.LazyMetropolis")(stay=0.4)

    def rule(graph: Any, uid: int) -> MixingRow:
        found: MixingRow = lazy.mixing(graph, uid)
        return found

    matrix = mixing_matrix(ring(5), rule)
    assert is_doubly_stochastic(matrix)
    assert matrix.diagonal() == pytest.approx([0.4 + 0.6 / 3] * 5)


# ---------------------------------------------------------------------- its errors


def program(one: Callable[[Node], Any]) -> Callable[[], Node]:
    """A class of nodes with that program."""
    return type("K", (Node,), {"program": one})


def shaped(node: Node) -> Any:
    node.x = torch.zeros(3)
    yield Report(0)


def scribbles(node: Node) -> Any:
    node.x += 1
    yield Train(0)


def returns(node: Node) -> Any:
    return [Report(0)]


def counts_twice(node: Node) -> list[Any]:
    return [node.program(), node.program()]


def trains(node: Node) -> Any:
    for t in node.rounds():
        yield Train(t)


def polls(node: Node) -> Any:
    while not (yield Receive(ANY, (0, 0), deadline=0)):
        pass


def stray(node: Node) -> Any:
    yield 3


def waits(node: Node) -> Any:
    if node.uid:
        yield Receive([0], (0, 0))


def said(receiver: int, message: Any) -> Callable[[Node], Any]:
    def one(node: Node) -> Any:
        yield Send([([receiver], message(node.x))], (0, 0))

    return one


def rounded(node: Node) -> Any:
    yield Receive([0], 0)  # type: ignore[arg-type]


def names_twice(node: Node) -> Any:
    yield Receive([3, 1, 3], (0, 0))


def counted(node: Node) -> Any:
    yield Receive([0], (0, 0), count=2)


def measured(node: Node) -> Any:
    yield Report(0, {"my metric": 1.0})


def remembers(node: Node) -> Any:
    node.memory = {"a": {1, 2}}
    yield Checkpoint(0)


class Early(Node):
    def __init__(self) -> None:
        self.start = self.x

    def program(self) -> Any:
        yield Receive(ANY)


ERRORS: dict[str, Any] = {
    "no node can go on": program(waits),
    "node 0 yielded 3": program(stray),
    "a row has the shape": program(shaped),
    "the row 'x'": program(scribbles),
    "K.program is no generator": program(returns),
    "K.programs returns": type("K", (Node,), {"program": trains, "programs": lambda node: []}),
    "only one program": type("K", (Node,), {"program": trains, "programs": counts_twice}),
    "a poll takes": program(polls),
    "no node 9": program(said(9, lambda x: Message({"x": x}))),
    "meta['a']": program(said(1, lambda x: Message({"x": x}, {"a": (1, 2)}))),
    "tensor 'x' is torch.sparse_coo": program(said(1, lambda x: Message({"x": x.to_sparse()}))),
    "Send: a message": program(said(1, lambda x: {"x": x})),
    "as (t, 0), not 0": program(rounded),
    "count = 2": program(counted),
    "Receive: sources hold node 3 twice": program(names_twice),
    "node 0 cannot be saved": type("K", (Node,), {"program": remembers, "kept": ("memory",)}),
    "'my metric' is no name of a column": program(measured),
    "'K' object has no attribute 'rows'": type("K", (Early,), {}),
}


def listed() -> dict[str, str]:
    """The errors of the page, by themselves, with what they mean."""
    table = PAGE.split("| error | what it means, what to do |")[1].split("\n\n")[0]
    return dict(re.findall(r"\| `(.*)` \| (.*) \|", table))


@pytest.mark.parametrize("begins", ERRORS)
def test_an_error_of_a_program_is_as_listed(begins: str, tmp_path: Path, cache: Path) -> None:
    (error,) = [text for text in listed() if text.startswith(begins)]
    (tmp_path / "links.json").write_text('{"links": {"latency_s": 0}}')
    simulate = tmp_path / "links.json" if "simulated" in error else None
    with pytest.raises((RunError, ValueError, AttributeError)) as raised:
        run_here(
            DIGITS, ring(4), 2, node=ERRORS[begins], test_after=1, checkpoint_after=1,
            cache_dir=cache, simulate=simulate,
        )  # fmt: skip
    assert error in str(raised.value)


WRONG = {
    "has no option": "class Mine(Sharing):\n    pass",
    "it is read without": "class Mine(Node):\n    servers = int(1)",
    "its __init__ must call": "class Mine(Schedule):\n    def __init__(self):\n        pass\n"
    "    def draw(self, t, k):\n        pass",
}  # fmt: skip


@pytest.mark.parametrize("begins", WRONG)
def test_an_error_of_a_file_is_as_listed(
    begins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (error,) = [text for text in listed() if text.startswith(begins)]
    (tmp_path / "mine.py").write_text(f"from decentralizepy import *\n\n{WRONG[begins]}\n")
    ini = DIGITS.replace("decentralizepy.sharing.Sharing", "mine").replace("= Sharing", "= Mine")
    ini = ini.replace("= Mine", "= Mine\ncolour = red")
    for base, section in (("Schedule", "GRAPH"), ("Node", "NODE")):
        if f"({base})" in WRONG[begins]:
            named = f"{section.lower()}_package = mine\n{section.lower()}_class = Mine\n"
            ini = f"{DIGITS}\n[{section}]\n{named}"
    (tmp_path / "e.ini").write_text(ini)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        run_here("e.ini", ring(4), 1, test_after=0)
    assert error in str(raised.value)


TASK = """\
from decentralizepy.training.task import Classification


class Mean(Classification):
    def count(self, output, target):
        return 1
"""


def test_an_error_of_a_task_is_as_listed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (error,) = [text for text in listed() if text.startswith("Mean.count")]
    (tmp_path / "mine.py").write_text(TASK)
    keys = "[TRAIN_PARAMS]\ntask_package = mine\ntask_class = Mean"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError) as raised:
        run_here(DIGITS.replace("[TRAIN_PARAMS]", keys), ring(4), 1, cache_dir=cache)
    assert f"mine.{error}" in str(raised.value) and "positional argument" in str(raised.value)


def test_all_listed_errors_are_tried() -> None:
    tried = (*ERRORS, *WRONG, "Mean.count")
    assert all(any(text.startswith(begins) for begins in tried) for text in listed())
    assert len(listed()) == len(tried)
    assert parse_experiment(DIGITS, Path("digits.ini")), "the INI of these tests is fine itself"
