"""Each shipped INI of a sharing method: the same bits on workers, on machines and resumed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from launching import Experiment, digests, free_ports
from teams import ALONE, FAR, Team

from decentralizepy.config import read_experiment
from decentralizepy.graphs.generators import erdos_renyi

SHIPPED = Path(__file__).resolve().parents[2] / "run_configuration"
#: those of node programs are run in tests/node
INIS = [
    path for path in sorted(SHIPPED.glob("digits_*.ini"))
    if read_experiment(path).node_program is None
]  # fmt: skip
#: irregular, with nodes of 2 to 5 neighbours
GRAPH = erdos_renyi(7, 0.5, 1)
ITERATIONS, HALF = 4, 2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the data set."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def experiment(request: pytest.FixtureRequest, tmp_path: Path, prepared: Path) -> Experiment:
    """The INI's experiment, on ports of its own."""
    found = Experiment(tmp_path, GRAPH, prepared)
    offset = f"addresses_filepath = ip.json\noffset = {free_ports(12)}"
    text = re.sub("addresses_filepath = .*", offset, request.param.read_text())
    (tmp_path / "config.ini").write_text(text)
    return found


def run(experiment: Experiment, layout: tuple[int, ...], name: str) -> dict[tuple[int, int], str]:
    """Digests of all rows after each iteration."""
    flags = ("-ta", "0", "-tea", "0", "--digests", "-as", "2")
    Team(experiment, ITERATIONS, *flags, layout=layout, name=name).run()
    return digests(experiment.folder / name)


@pytest.mark.parametrize("experiment", INIS, indirect=True, ids=lambda path: path.stem)
def test_the_bits_are_the_same_wherever_nodes_are_and_resumed(experiment: Experiment) -> None:
    alone = run(experiment, ALONE, "alone")
    assert len(alone) == ITERATIONS * GRAPH.n == len(set(alone.values()))
    assert run(experiment, (4,), "four") == alone
    assert run(experiment, FAR, "far") == alone
    flags = ("-ta", "0", "-tea", "0", "--digests", "-as", "2", "--checkpoint_after", str(HALF))
    Team(experiment, HALF + 1, *flags, name="half").run()
    resumed = Team(experiment, ITERATIONS, *flags, name="resumed", restore=("half", HALF)).run()
    assert resumed.workers[0].seats[0].node.round == ITERATIONS
    found = digests(experiment.folder / "resumed")
    assert found == {at: bits for at, bits in alone.items() if at in found} and len(found) > GRAPH.n
