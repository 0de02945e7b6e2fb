"""What a user's class says or gives wrongly is told with its name, before it can do harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from launching import Experiment

from decentralizepy import Sharing, run_here
from decentralizepy.compression.chain import Chain
from decentralizepy.compression.top_k import TopK
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.graphs.generators import ring
from decentralizepy.graphs.mixing import MixingRow
from decentralizepy.here import Outcome
from decentralizepy.node.effects import Checkpoint, Report, Train
from decentralizepy.node.node import Node, Program

NODES = 4


class Alone(Node):
    """Trains, and talks to nobody."""

    def program(self) -> Program:
        for t in self.rounds():
            yield Train(t)
            yield Report(t)
            yield Checkpoint(t)


def run(tmp_path: Path, cache: Path, files: str = "", **given: Any) -> Outcome:
    """An experiment of the keys of `Experiment`, with a module ``mine`` beside its INI."""
    keys = {key: given.pop(key) for key in list(given) if isinstance(given[key], str)}
    one = Experiment(tmp_path, ring(NODES), cache, **keys)
    (one.folder / "mine.py").write_text(files)
    options = {"test_after": 0, "train_evaluate_after": 0, "cache_dir": cache} | given
    return run_here(one.folder / "config.ini", one.graph, options.pop("iterations", 1), **options)


def refused(told: str, *where: Any, kind: type[Exception] = ConfigError, **given: Any) -> None:
    with pytest.raises(kind) as raised:
        run(*where, **given)
    assert told in str(raised.value)


@pytest.mark.parametrize("what", ["program", "sharing method"])
def test_one_object_for_several_nodes_is_refused(what: str, tmp_path: Path, cache: Path) -> None:
    node, sharing = Alone(), Sharing()
    given: dict[str, Any] = {"program": {"node": lambda: node}}.get(
        what, {"sharing": lambda: sharing}
    )
    told = f"{what} of node 1: what makes it gave the same object twice"
    refused(told, tmp_path, cache, **given)


def test_one_chain_for_several_nodes_is_refused(tmp_path: Path, cache: Path) -> None:
    chain = Chain(TopK(alpha=0.1))

    def made() -> Sharing:
        method = Sharing()
        method.compression = chain
        return method

    told = "compression of node 1: what makes it gave the same object twice (Chain)"
    refused(told, tmp_path, cache, sharing=made)


def _named(base: type, **said: Any) -> Callable[[], Any]:
    return type("Mine", (base,), said)


#: facts of a class that would make other rows or attributes than meant, and what is told
NAMES: list[tuple[str, type, dict[str, Any], str]] = [
    ("node", Alone, {"row_names": "momentum"}, "Mine.row_names = 'momentum' is text"),
    ("node", Alone, {"row_names": ("x",)}, "Mine.row_names = ('x',): 'x' is there already"),
    ("node", Alone, {"row_names": ("a", "a")}, "Mine.row_names = ('a', 'a'): a name stands there"),
    ("node", Alone, {"row_names": (1,)}, "Mine.row_names = (1,): a tuple of names is expected"),
    ("node", Alone, {"row_names": None}, "Mine.row_names = None: a tuple of names is expected"),
    ("node", Alone, {"kept": "weight"}, "Mine.kept = 'weight' is text, of which each letter"),
    ("node", Alone, {"kept": ("a", "b", "a")}, "Mine.kept = ('a', 'b', 'a'): a name stands there"),
    ("sharing", Sharing, {"kept": "own"}, "Mine.kept = 'own' is text, of which each letter would"),
]


@pytest.mark.parametrize(("key", "base", "said", "told"), NAMES, ids=[one[-1] for one in NAMES])
def test_names_of_rows_and_attributes_are_checked_first(
    key: str, base: type, said: dict[str, Any], told: str, tmp_path: Path, cache: Path
) -> None:
    refused(told, tmp_path, cache, **{key: _named(base, **said)})


@pytest.mark.parametrize(("key", "base"), [("node", Alone), ("sharing", Sharing)])
def test_a_kept_name_that_is_no_attribute_is_told_at_the_checkpoint(
    key: str, base: type, tmp_path: Path, cache: Path
) -> None:
    def init(self: Any) -> None:
        self.weight = 1.0

    made = _named(base, kept=("wieght",), __init__=init)
    told = (
        "node 0 cannot be saved after iteration 1: Mine.kept names 'wieght', and the Mine has no "
        "such attribute (did you mean 'weight'?); set it in __init__ or setup"
    )
    refused(told, tmp_path, cache, kind=RunError, checkpoint_after=1, iterations=2,
            **{"node": Alone, key: made})  # fmt: skip


def test_an_attribute_that_a_state_of_ones_own_lacks_is_another_error(
    tmp_path: Path, cache: Path
) -> None:
    class Mine(Alone):
        kept: ClassVar[tuple[str, ...]] = ()

        def state(self) -> dict[str, Any]:
            return super().state() | {"more": self.missing}

        missing: Any

    told = "'Mine' object has no attribute 'missing'"
    refused(told, tmp_path, cache, kind=RunError, checkpoint_after=1, iterations=2, node=Mine)


TRAINING = """\
from decentralizepy import Training


class Mine(Training):
    def gradient(self, step):
        return step.x.sum()
"""


def test_a_gradient_that_is_returned_is_refused(tmp_path: Path, cache: Path) -> None:
    told = "Mine.gradient returns tensor("
    refused(told, tmp_path, cache, TRAINING, training_package="mine", training="Mine")


DRAW = """\
from decentralizepy import Training


class Mine(Training):
    def draw(self, n, seed, uid, t, steps=None):
        return [0, 1]
"""


def test_a_draw_of_another_kind_is_refused(tmp_path: Path, cache: Path) -> None:
    told = "Mine.draw gives [0, 1] (of type list): a Draw is expected, as Draw(order, sizes)"
    refused(told, tmp_path, cache, DRAW, training_package="mine", training="Mine")


HIDES = """\
from decentralizepy import Training


class Attribute(Training):
    def __init__(self, *, steps: int = 2, **options):
        super().__init__(**options)
        self.steps = steps


class Fact(Training):
    draw = None


class Halves(Training):
    def gradient(self, step):
        step.backward()
        step.grad.mul_(0.5)


class Given(Training):
    def __init__(self, **options):
        super().__init__(**options)
        self.gradient = lambda step: Halves.gradient(self, step)
"""


@pytest.mark.parametrize(("name", "method"), [("Attribute", "steps"), ("Fact", "draw")])
def test_what_hides_a_method_of_training_is_refused(
    name: str, method: str, tmp_path: Path, cache: Path
) -> None:
    told = f"mine.{name}: {method} is a method of Training, which calls it; take another name"
    refused(told, tmp_path, cache, HIDES, training_package="mine", training=name)


def test_a_method_may_be_given_anew_as_an_attribute(tmp_path: Path, cache: Path) -> None:
    """Also where `Training`'s own would be done for many nodes at once."""
    rows = {}
    for name in ("Halves", "Given"):
        (tmp_path / name).mkdir()
        given = {"training_package": "mine", "training": name}
        rows[name] = run(tmp_path / name, cache, HIDES, **given).rows
    assert all(rows["Halves"][uid].equal(rows["Given"][uid]) for uid in range(NODES))


def _mixes_nothing(self: Sharing, graph: Any, uid: int) -> None:
    """No weights at all."""


def _mixes_strangers(self: Sharing, graph: Any, uid: int) -> MixingRow:
    return MixingRow(0.5, {9: graph.weights[9]})


def test_weights_of_another_kind_are_refused(tmp_path: Path, cache: Path) -> None:
    made = _named(Sharing, mixing=_mixes_nothing)
    told = "graph of node 0: Mine.mixing gives None (of type NoneType): a MixingRow is expected"
    refused(told, tmp_path, cache, sharing=made)


def test_weights_that_cannot_be_made_are_told_with_the_node(tmp_path: Path, cache: Path) -> None:
    made = _named(Sharing, mixing=_mixes_strangers)
    refused("node 0 failed in mixing: ", tmp_path, cache, kind=RunError, sharing=made)


SCHEDULE = """\
from decentralizepy import Graph, Schedule


class Mine(Schedule):
    def draw(self, t, k):
        return {}
"""


@pytest.mark.parametrize(
    ("graph", "told"),
    [
        ("[(0, 1)]", "Mine.draw(0, 0) gives [(0, 1)] (of type list): a Graph is expected"),
        ("Graph(2, [(0, 1)])", "Mine.draw(0, 0) gives a Graph of 2 nodes, and there are 4"),
    ],
)
def test_a_schedule_that_gives_no_graph_of_the_nodes_is_told(
    graph: str, told: str, tmp_path: Path, cache: Path
) -> None:
    keys = "[GRAPH]\ngraph_package = mine\ngraph_class = Mine"
    refused(told, tmp_path, cache, SCHEDULE.format(graph), schedule=keys)


DATA = """\
import numpy as np

from decentralizepy.datasets.digits import Digits


class Mine(Digits):
    def partition(self, n):
        dealt = super().partition(n)
        return {}
"""
FIRST = "Mine.partition(4) gives "


@pytest.mark.parametrize(
    ("dealt", "told"),
    [
        ("dealt[:3]", "3 of them: a list of 4 arrays is expected, one a node"),
        ("None", "None: a list of 4 arrays is expected, one a node"),
        ("[*dealt[:3], np.array([5, 1442])]", "node 3 the sample 1442: the samples of the"),
        ("[dealt[0], [-1], *dealt[2:]]", "node 1 the sample -1: the samples of the training part"),
        ("[dealt[0] / 2, *dealt[1:]]", "node 0 array(["),
        ("[dealt[0] > 4, *dealt[1:]]", "node 0 array(["),
    ],
)
def test_a_partition_of_ones_own_is_checked(
    dealt: str, told: str, tmp_path: Path, cache: Path
) -> None:
    keys = {"dataset_package": "mine", "dataset": "Mine"}
    refused(FIRST + told, tmp_path, cache, DATA.format(dealt), **keys)


def test_a_partition_of_ones_own_may_leave_a_node_without_samples(
    tmp_path: Path, cache: Path
) -> None:
    keys = {"dataset_package": "mine", "dataset": "Mine"}
    out = run(tmp_path, cache, DATA.format("[[], *map(list, dealt[1:])]"), **keys)
    assert [out.nodes[uid].n_samples > 0 for uid in range(NODES)] == [False, True, True, True]
