"""Who runs over which graphs: node programs and schedules of one's own, and drivers as names."""

import json
import sys
from pathlib import Path

import core_examples as examples
import pytest

from decentralizepy import drivers
from decentralizepy.config import read_experiment
from decentralizepy.drivers import DRIVERS, Driver, driver, wiring
from decentralizepy.errors import ConfigError
from decentralizepy.graphs.generators import ring
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.schedules import RandomRegularSchedule, StaticSchedule
from decentralizepy.registry import Target, definition, fact, forget_sources, options

DYNAMIC = "testingPeerSamplerDynamic.py"
PROGRAM = """
from typing import ClassVar
from decentralizepy.node.node import Node
from decentralizepy.node.effects import Train

class PushSum(Node):
    servers: ClassVar[int] = 2

    def __init__(self, *, staleness: int = 4, rates: list[float] | None = None) -> None:
        if staleness < 0:
            raise ValueError(f"staleness = {staleness} must not be negative")
        self.staleness = staleness

    def program(self):
        for t in self.rounds():
            yield Train(t)

class Aimless(PushSum):
    needs_graph = False

class NoProgram:
    pass
"""
SCHEDULE = """
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.schedules import Schedule

class OnePeerExponential(Schedule):
    out_degree = 1

    def __init__(self, n: int, *, base: int = 2) -> None:
        super().__init__(n)
        if n < base:
            raise ValueError(f"{n} nodes are too few for base {base}")
        self.base = base

    def draw(self, t: int, k: int) -> Graph:
        step = self.base ** (t % 3)
        return Graph(self.n, [(i, (i + step) % self.n) for i in range(self.n)])

class Seeded(Schedule):
    def __init__(self, seed, graph, **others) -> None:
        super().__init__(**others)
        self.given = seed, graph

    def draw(self, t, k):
        return self.given[1]

class Forgetful(Schedule):
    def __init__(self, n: int) -> None: ...
    def draw(self, t, k): ...

class NoSchedule: ...
"""
MINE = {"NODE__node_package": "my_program", "NODE__node_class": "PushSum"}
GRAPHS = {"GRAPH__graph_package": "my_schedule", "GRAPH__graph_class": "OnePeerExponential"}


@pytest.fixture
def beside(folder, monkeypatch):
    """The user's files beside the INI; what is loaded of them is forgotten again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_program", "my_schedule"):
        monkeypatch.setitem(sys.modules, name, None)  # so that it is put back as it was: absent
        del sys.modules[name]
    Path("my_program.py").write_text(PROGRAM)
    Path("my_schedule.py").write_text(SCHEDULE)
    return folder


def written(folder, **changes):
    path = folder / "mine.ini"
    path.write_text(examples.ini(**changes))
    return path


def wired(folder, name=None, **changes):
    return wiring(read_experiment(written(folder, **changes)), name)


# ---------------------------------------------------------------- what the INI names


def test_a_node_program_of_ones_own_has_typed_options(beside):
    found = wired(beside, **MINE, NODE__staleness="7", NODE__rates="[1, 0.5]")
    assert found.program.target.dotted == "my_program.PushSum"
    assert found.program.options == {"staleness": 7, "rates": [1.0, 0.5]}
    assert found.program.build().staleness == 7
    assert found.servers == 2 and found.driver == "testing.py" and not found.notes
    assert found.schedule.target.name == "StaticSchedule" and found.fixed


def test_reading_it_runs_nothing(beside):
    for name in ("my_program.py", "my_schedule.py"):
        Path(name).write_text(f"open('canary', 'w')\n{Path(name).read_text()}")
    found = wired(beside, **MINE, **GRAPHS)
    assert found.servers == 2 and found.out_degree == 1 and not found.needs_graph
    assert not Path("canary").exists()


def test_one_of_ours_by_its_module(beside):
    changes = {"NODE__node_package": "decentralizepy.node.dpsgd", "NODE__node_class": "DPSGD"}
    found = wired(beside, **changes)
    assert found.program.target.dotted == wired(beside).program.target.dotted
    assert found.servers == 0
    keys = {"GRAPH__graph_package": "decentralizepy.graphs.schedules"}
    found = wired(beside, **keys, GRAPH__graph_class="RandomRegularSchedule", GRAPH__degree="3")
    assert found.schedule.options == {"degree": 3} and found.out_degree == 3
    assert found.build(ring(8), 5).at(0) == RandomRegularSchedule(8, 3, 5).at(0)


def test_a_schedule_gets_what_it_names_and_no_more(beside):
    found = wired(beside, **GRAPHS, GRAPH__base="3")
    assert found.schedule.options == {"base": 3} and not found.fixed
    schedule = found.build(ring(9), seed=1)
    assert schedule.at(1).edges == Graph(9, [(i, (i + 3) % 9) for i in range(9)]).edges
    graph = ring(5)
    seeded = wired(beside, **GRAPHS | {"GRAPH__graph_class": "Seeded"}).build(graph, seed=42)
    assert seeded.given == (42, graph) and seeded.n == 5


def test_options_of_drivers_stay_what_they_are_beside_a_class(beside):
    found = wired(beside, DYNAMIC, **MINE, NODE__graph_degree="4", NODE__dynamic_avgrounds="yes")
    assert not found.program.options
    assert found.schedule.options == {"degree": 4, "per_averaging_round": True}
    Path("other.py").write_text(PROGRAM.replace("staleness", "graph_degree"))
    changed = MINE | {"NODE__node_package": "other"}
    found = wired(beside, DYNAMIC, **changed, NODE__graph_degree="6")
    assert found.program.options == {"graph_degree": 6}, "the class has it too"
    assert found.schedule.options["degree"] == 6


def test_empty_names_count_as_absent(beside):
    empty = {"NODE__node_package": "", "NODE__node_class": ""}
    assert read_experiment(written(beside, **empty)).node_program is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"NODE__stalenes": "1"}, "[NODE]: PushSum has no option 'stalenes' (did you mean 'stale"),
        ({"NODE__staleness": "soon"}, "[NODE] staleness = soon: int is expected"),
        ({"NODE__node_class": "PushSun"}, "my_program has no class PushSun (did you mean 'PushSu"),
        ({"NODE__node_class": ""}, "[NODE] needs the key 'node_class'"),
        ({"NODE__node_package": "my_programm"}, "[NODE] no module my_programm"),
        ({"NODE__node_package": "", "NODE__node_class": "", "NODE__node_clas": "X"},
         "[NODE] has no option 'node_clas' (did you mean 'node_class'?)"),
        ({"GRAPH__base": "2.5"}, "[GRAPH] base = 2.5: a whole number is expected"),
        ({"GRAPH__bas": "2"}, "[GRAPH]: OnePeerExponential has no option 'bas' (did you mean 'b"),
        ({"GRAPH__n": "2"}, "[GRAPH]: OnePeerExponential has no option 'n'"),
        ({"GRAPH__graph_class": "OnePeer"}, "my_schedule has no class OnePeer"),
        ({"GRAPH__graph_class": ""}, "[GRAPH] needs the key 'graph_class'"),
        ({"GRAPH__graph_package": "my_schedul"}, "put my_schedul.py beside the INI file"),
        ({"NODE__node_class": "NoProgram"}, ""),
    ],
)  # fmt: skip
def test_wrong_names_and_options_name_section_and_key(beside, changes, said):
    path = written(beside, **MINE | GRAPHS | changes)
    if not said:
        assert read_experiment(path)  # that it is no program is found when it is constructed
        return
    with pytest.raises(ConfigError) as caught:
        read_experiment(path)
    assert str(caught.value).startswith(f"{path}: [") and said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"GRAPH__base": "9"}, "mine.ini: [GRAPH]: 8 nodes are too few for base 9"),
        ({"GRAPH__graph_class": "Forgetful"}, "must call super().__init__(n)"),
        ({"GRAPH__graph_class": "NoSchedule"}, "my_schedule.NoSchedule is not a subclass of Sched"),
    ],
)
def test_what_a_schedule_says_of_its_options_names_the_section(beside, changes, said):
    with pytest.raises(ConfigError) as caught:
        wired(beside, **GRAPHS | changes).build(ring(8), 1)
    assert said in str(caught.value)


def test_the_users_files_are_copied_and_compared(beside):
    found = read_experiment(written(beside, **MINE, **GRAPHS))
    assert set(found.modules) == {"my_program", "my_schedule"}
    paths = {Path(name): beside / name for name in ("my_program.py", "my_schedule.py")}
    assert found.own_files == paths


def test_what_the_users_files_import_goes_with_them(beside):
    """Wherever they do so, and through each other; not what is installed, ours, or not there."""
    imports = "import numpy.random, secrets, helpers, nowhere\nimport decentralizepy.node.node\n"
    late = "\n\ndef late():\n    from pack.deep import inner\n    return inner\n"
    files = {
        "my_program.py": imports + PROGRAM + late,
        "helpers.py": "from pack import CONSTANT\nimport helpers\n",
        "pack/__init__.py": "CONSTANT = 1\n", "pack/unused.py": "",
        "pack/deep/__init__.py": "", "pack/deep/inner.py": "from ..other import *\n",
        "pack/other.py": "", "unused.py": "", "secrets.py": "unused = 'Python has its own'\n",
    }  # fmt: skip
    for name, text in files.items():
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / name).write_text(text)
    found = read_experiment(written(beside, **MINE))
    paths = {Path(name): beside / name for name in files if "unused" not in name + files[name]}
    assert found.own_files == paths
    assert {"helpers", "pack", "pack.deep.inner", "pack.other"} < set(found.modules)
    (beside / "helpers.py").write_text("def broken(:\n")
    forget_sources()
    with pytest.raises(ConfigError, match=r"helpers.py is not valid Python"):
        read_experiment(written(beside, **MINE)).own_files  # noqa: B018


def test_files_of_a_package_keep_their_place(beside):
    for name in ("pack/__init__.py", "pack/inner.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(PROGRAM)
    inner = MINE | {"NODE__node_package": "pack.inner"}
    found = read_experiment(written(beside, **inner))
    names = ("pack/__init__.py", "pack/inner.py")
    assert found.own_files == {Path(name): beside / name for name in names}
    found = read_experiment(written(beside, **MINE | {"NODE__node_package": "pack"}))
    assert found.own_files == {Path("pack/__init__.py"): beside / "pack" / "__init__.py"}


# ---------------------------------------------------------------- a task


def test_a_task_takes_its_options_from_train_params(beside):
    Path("my_task.py").write_text(
        "class Ranking:\n"
        "    def __init__(self, criterion=None, *, cutoff: int = 10, batch_size: int = 1): ...\n"
    )
    task = {"TRAIN_PARAMS__task_package": "my_task", "TRAIN_PARAMS__task_class": "Ranking"}
    found = read_experiment(written(beside, **task, TRAIN_PARAMS__cutoff="5"))
    assert found.task.target.dotted == "my_task.Ranking"
    assert found.task.options == {"cutoff": 5, "batch_size": 8}
    assert found.training.options == {"rounds": 3, "batch_size": 8}, "what both have goes to both"
    assert "my_task" in found.modules and read_experiment(written(beside)).task is None
    no_loss = {"TRAIN_PARAMS__loss_package": "", "TRAIN_PARAMS__loss_class": ""}
    assert found.loss is not None
    assert read_experiment(written(beside, **task, **no_loss)).loss is None, "the task has its own"
    assert read_experiment(written(beside, **no_loss)).loss is None, "so has that of a data set"
    for changes, said in (
        ({"cutof": "5"}, "Training has no option 'cutof'"),
        ({"criterion": "5"}, "Training has no option 'criterion'"),
        ({"cutoff": "low"}, "[TRAIN_PARAMS] cutoff = low: int is expected"),
        ({"task_class": "Rankin"}, "[TRAIN_PARAMS] my_task has no class Rankin"),
        ({"task_package": ""}, "[TRAIN_PARAMS] needs the key 'task_package'"),
    ):
        changed = {f"TRAIN_PARAMS__{key}": value for key, value in changes.items()}
        with pytest.raises(ConfigError) as caught:
            read_experiment(written(beside, **task | changed))
        assert said in str(caught.value)


# ---------------------------------------------------------------- drivers


def test_drivers_by_name_and_path():
    assert driver("eval/testing.py") == driver("testing") == DRIVERS["testing.py"]
    for entry in DRIVERS.values():
        for part, keys in ((entry.node, entry.node_options),
                           (entry.schedule, entry.schedule_options)):  # fmt: skip
            assert definition(part) is not None and set(keys) <= set(options(part))
    assert {fact(entry.schedule, "fixed", False) for entry in DRIVERS.values()} == {True, False}
    with pytest.raises(ConfigError, match=r"unknown driver 'testingPeer'.*known: testing.py, "):
        driver("testingPeer")
    with pytest.raises(ConfigError, match=r"did you mean 'testingPeerSampler.py'\?"):
        driver("testingPeerSample.py")


def test_a_driver_gives_the_parts_that_the_ini_leaves_open(beside):
    found = wired(beside, DYNAMIC, **MINE)
    assert found.program.target.name == "PushSum" and found.driver == DYNAMIC
    assert found.schedule.target.name == "RandomRegularSchedule" and found.out_degree == 4
    assert found.origin.endswith("[NODE] graph_degree = 4")
    assert isinstance(wired(beside).build(ring(8), 1), StaticSchedule)


def test_the_ini_wins_and_it_is_said(beside):
    found = wired(beside, DYNAMIC, **MINE, **GRAPHS)
    assert found.program.target.name == "PushSum" and found.driver is None
    assert found.schedule.target.name == "OnePeerExponential"
    assert found.notes == (
        f"the node program is my_program.PushSum, as mine.ini says, not DPSGD of {DYNAMIC}",
        "the schedule of graphs is my_schedule.OnePeerExponential, as mine.ini says, not "
        f"RandomRegularSchedule of {DYNAMIC}",
    )
    assert not wired(beside, None, **MINE, **GRAPHS).notes, "nobody named a driver"


AIMLESS = MINE | {"NODE__node_class": "Aimless"}


@pytest.mark.parametrize(
    ("changes", "needs"),
    [({}, True), (MINE, True), (AIMLESS, False), (GRAPHS, False),
     (GRAPHS | {"GRAPH__graph_class": "Seeded"}, True)],
)  # fmt: skip
def test_a_graph_is_needed_where_program_and_schedule_look_at_it(beside, changes, needs):
    assert wired(beside, **changes).needs_graph is needs


def test_without_a_graph_the_nodes_are_those_of_the_machines(beside):
    from test_arguments import parse

    from decentralizepy.commands.arguments import flags_of, settings_of
    from decentralizepy.supervision import provenance

    def settings(*words):
        args = parse("-cf", "mine.ini", "-ld", "out", *words)
        found = settings_of(args)
        return found, flags_of(args, found)

    written(beside, **AIMLESS)
    found, flags = settings("-ms", "2", "-mid", "1", "-ps", "3")
    assert found.mapping.counts == (3, 3) and not found.graph.edges
    assert found.schedule().at(0) == found.graph and flags["graph_file"] is None
    provenance.begin(found, flags)
    assert json.loads(Path("out/run.json").read_text())["graph"]["file"] is None
    assert "graph (no file)" in provenance.digests(found, flags)
    assert settings("-ps", "1,2", "-ms", "2", "-mid", "0", "-ld", "b")[0].mapping.n == 3
    for words, said in (
        ((), "how many nodes? Aimless needs no graph: give the number of nodes"),
        (("-ps", "-3"), "-ps: machine 0 has -3"),
        (("-gf", "none.edges", "-ps", "3"), "cannot read graph none.edges"),
    ):
        with pytest.raises(ConfigError) as caught:
            settings("-ld", "c", *words)
        assert said in str(caught.value)
    written(beside, **MINE)
    with pytest.raises(ConfigError, match=r"cannot read graph 36_nodes.edges"):
        settings("-ps", "3", "-ld", "c")


def test_a_driver_hands_options_of_node_to_its_program(beside, monkeypatch):
    mine = Target("my_program", "PushSum", (str(beside),))
    static = DRIVERS["testing.py"].schedule
    made = Driver(mine, static, node_options={"staleness": "graph_degree"})
    monkeypatch.setitem(drivers.DRIVERS, "testingMine.py", made)
    assert wired(beside, "testingMine").program.options == {"staleness": 4}


# ---------------------------------------------------------------- the commands


def words(folder, *more, **changes):
    return ["-gf", "ring.edges", *more] if written(folder, **changes) else []


def test_check_constructs_them_and_says_what_they_are(call, beside):
    path = written(beside, **MINE, **GRAPHS, NODE__staleness="3")
    done = call("check", path, "-gf", "ring.edges")
    assert done.code == 0 and not done.err
    assert "nodes: my_program.PushSum {'staleness': 3}\n" in done.out
    assert "graphs: my_schedule.OnePeerExponential\n" in done.out and "note" not in done.out
    done = call("check", path, "-gf", "ring.edges", "--eval_file", "testing.py")
    assert done.code == 0 and "note: the node program is my_program.PushSum" in done.out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"NODE__staleness": "-1"}, "staleness = -1 must not be negative"),
        ({"NODE__node_class": "NoProgram"}, "my_program.NoProgram is not a subclass of Node"),
        ({"GRAPH__base": "9"}, "mine.ini: [GRAPH]: 8 nodes are too few"),
    ],
)
def test_check_refuses_what_cannot_be_constructed(call, beside, changes, said):
    done = call("check", written(beside, **MINE | GRAPHS | changes), "-gf", "ring.edges")
    assert done.code == 2 and said in done.err and "mine.ini" in done.err
    assert "Traceback" not in done.err


def test_convert_explains_them(call, beside):
    path = written(beside, **MINE, **GRAPHS, NODE__staleness="3", GRAPH__base="2")
    done = call("convert", path)
    assert done.code == 0 and "unknown" not in done.out and "misspelt" not in done.out
    assert call("convert", path, "-o", "clean.ini").code == 0
    clean = read_experiment(Path("clean.ini"))
    assert clean.node_program.options == {"staleness": 3} and clean.node.graph_degree == 4
    done = call("convert", written(beside, **MINE, NODE__stalenes="3"))
    assert "read as staleness" in done.out


def test_a_module_that_is_not_ours_is_no_business_of_a_run(beside):
    """A supervisor loads no file of the user's to say what is wrong with the graph."""
    Path("my_schedule.py").write_text(f"raise RuntimeError('loaded')\n{SCHEDULE}")
    found = wired(beside, **GRAPHS)
    assert not found.is_ours
    with pytest.raises(ConfigError, match="loaded"):
        found.build(ring(8), 1)


def test_what_is_written_into_the_run_folder(beside):
    from test_arguments import parse

    from decentralizepy.commands.arguments import flags_of, settings_of
    from decentralizepy.supervision import provenance

    written(beside, **MINE, **GRAPHS)
    args = parse("-cf", "mine.ini", "-gf", "ring.edges", "-ld", "out")
    settings = settings_of(args)
    flags = flags_of(args, settings)
    assert settings.program.target.name == "PushSum" and settings.servers == 2
    assert settings.schedule().base == 2 and flags["eval_file"] is None
    before = provenance.digests(settings, flags)
    assert {"module my_program", "module my_schedule"} <= set(before)
    provenance.begin(settings, flags)
    assert Path("out/my_program.py").read_text() == PROGRAM
    assert Path("out/my_schedule.py").read_text() == SCHEDULE
    told = json.loads(Path("out/run.json").read_text())["modules"]
    assert set(told) == {"my_program", "my_schedule"}
    Path("my_program.py").write_text(PROGRAM + "# changed\n")
    after = provenance.digests(settings, flags)
    assert {key for key in before if before[key] != after[key]} == {"module my_program"}


def test_a_flag_gives_an_option_or_says_that_it_has_no_effect(beside):
    federated = wired(beside, "testingFederated.py").with_option("working_rate", 0.5, "-wr")
    assert federated.program.options == {"working_rate": 0.5} and not federated.notes
    assert federated.servers == 1 and not federated.needs_graph and not federated.follows_file
    plain = wired(beside).with_option("working_rate", 0.5, "-wr")
    assert plain.notes == ("-wr 0.5 has no effect: DPSGD has no option working_rate",)
    assert plain.follows_file and not wired(beside, "testingKNN.py").follows_file


def test_options_of_drivers_that_the_ini_gives(beside):
    keys = {"NODE__dropout_rate": "0.3", "NODE__timeout": "2", "NODE__graph_degree": None}
    dropout = wired(beside, "testingPeerSamplerMultipleAvgRoundsDropout.py", **keys)
    assert dropout.program.options == {"dropout_rate": 0.3}
    epidemic = wired(beside, "tutorial/EpidemicLearning/testingEL_Local.py", **keys)
    assert epidemic.program.options == {"timeout": 2}
    assert set(epidemic.build(ring(8), 1).at(0).degrees()) == {2}, "the reference's default"
    assert wired(beside, **keys).program.options == {}, "no business of D-PSGD's"
    federated = wired(beside, "testingFederated.py", NODE__working_rate="0.25")
    assert federated.program.options == {"working_rate": 0.25}
    assert federated.with_option("working_rate", 0.5, "-wr").program.options["working_rate"] == 0.5
