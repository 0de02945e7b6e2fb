"""The plan: placement, commands, exact bytes, and errors before anything is started."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from orchestrator_fakes import INI, Make

from decentralizepy.errors import ConfigError
from decentralizepy.messages.header import Header, TensorInfo
from decentralizepy.runfolder import RunFolder
from orchestrator.planning.costs import Cost
from orchestrator.planning.describe import describe
from orchestrator.planning.estimate import Load, estimate, evaluations
from orchestrator.planning.inputs import read_inputs
from orchestrator.planning.placed import Place, Placed, placed
from orchestrator.planning.plan import plan
from orchestrator.planning.site import Site
from orchestrator.planning.task import read_task
from orchestrator.running.experiment import Setting, example_folder, make_plan, preview

GOLDEN = Path(__file__).parent / "golden"
RUN = RunFolder(Path("/runs/it's a; run"))
DYNAMIC = INI + "\n[NODE]\ngraph_degree = {}\n"
MLP_ROW = 4810


def planned(path: Path, cores: int = 2, workers: int = 1) -> Placed:
    inputs = read_inputs(path)
    core = ("python", "-m", "decentralizepy")
    offset = inputs.config.OFFSET or 12345
    task = read_task(inputs, offset, workers)
    site = Site("local", cores, workers, 1, core)
    made = plan(inputs.config, task, inputs.graph, site, Cost(1e-3, 1e-4), {}, inputs.path)
    addresses = [f"127.0.0.{m + 1}" for m in range(inputs.config.NB_MACHINE)]
    places = [Place(each, each, str(RUN.root), workers, core) for each in addresses]
    return placed(made, inputs, places, offset)


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        planned(path)
    return str(error.value)


def test_options_of_a_model_may_change_its_size(make: Make) -> None:
    ini = INI.replace("= MLP", "= DropoutMLP") + "\n[MODEL]\ndropout = {}\n"
    assert planned(make(ini=ini.format("0.2"))).task.row_length == MLP_ROW, "its default"
    made = planned(make(ini=ini.format("0.3")))
    assert made.task.row_length is None and not made.traffic.exact


def test_nodes_need_not_divide(make: Make) -> None:
    made = planned(make(NB_AGENTS=11, NB_MACHINE=3), workers=8)
    machines = made.machines
    assert [machine.nodes for machine in machines] == [4, 4, 3]
    assert [machine.first_uid for machine in machines] == [0, 4, 8]
    assert [machine.workers for machine in machines] == [4, 4, 3]
    assert made.addresses == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("uneven", {"NB_AGENTS": 11, "NB_MACHINE": 3}),
        ("even", {"NB_AGENTS": 8, "AVERAGING_STEPS": 3, "TRAIN_EVALUATE_AFTER": 7,
                  "RESET_OPTIMIZER": 1, "LOG_LEVEL": "DEBUG", "WORKERS": 2}),
    ],
)  # fmt: skip
def test_commands(make: Make, name: str, changes: dict[str, Any]) -> None:
    made = planned(make(**changes))
    lines = [shlex.join(made.command(machine.machine)) for machine in made.machines]
    lines += [
        shlex.join(made.check_command(made.places[0])),
        shlex.join(made.prepare_command(made.places[0])),
    ]
    assert lines == (GOLDEN / f"commands_{name}.txt").read_text().splitlines()


@pytest.mark.parametrize("steps", [1, 3])
def test_static_bytes_are_those_of_messages_over_edges(make: Make, steps: int) -> None:
    made = planned(make(AVERAGING_STEPS=steps, NB_ITERATION=10))
    tensor = TensorInfo("params", "float32", (MLP_ROW,))
    header = len(Header(8, (9, steps - 1), (tensor,)).encode())
    traffic = made.traffic
    assert traffic.exact
    assert traffic.messages_per_round == 9 * 4 * steps
    assert traffic.payload_per_round == 9 * 4 * steps * MLP_ROW * 4
    assert traffic.headers_per_round == 9 * 4 * steps * header
    assert traffic.total_bytes == 10 * 9 * 4 * steps * (MLP_ROW * 4 + header)


def test_dynamic_bytes_go_by_the_degree_of_the_ini(make: Make) -> None:
    made = planned(make(ini=DYNAMIC.format(2), EVAL_FILE="testingPeerSamplerDynamic.py"))
    assert made.traffic.messages_per_round == 9 * 2
    assert made.graph["dynamic"] is True
    said = describe(made, RUN)
    assert "RandomRegularSchedule degree=2 per_averaging_round=False over 9 nodes" in said


OWN = """
class Quiet:
    def __init__(self, *, every: int = 2): ...

class Rotating:
    out_degree = 3
    def __init__(self, n: int): ...
"""


def test_a_driver_is_not_needed_where_the_ini_names_program_and_schedule(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / "my_program.py").write_text(OWN)
    node = "\n[NODE]\nnode_package = my_program\nnode_class = Quiet\nevery = 5\n"
    graph = "\n[GRAPH]\ngraph_package = my_program\ngraph_class = Rotating\n"
    made = planned(make(ini=INI + graph, EVAL_FILE=None))
    assert made.traffic.exact and made.traffic.messages_per_round == 9 * 3
    assert "--eval_file" not in made.command(0)
    made = planned(make(ini=INI + node + graph, EVAL_FILE=None))
    assert made.traffic.total_bytes is None and not made.traffic.exact
    said = describe(made, RUN)
    assert "my_program.Quiet every=5" in said and "my_program.Rotating over 9 nodes" in said
    assert "how many messages Quiet and Rotating give is known when it runs" in said
    assert made.as_dict(RUN)["classes"]["node"] == "my_program.Quiet"
    assert not made.notes
    made = planned(make(ini=INI + node + graph))
    assert "not DPSGD of testingPeerSampler.py" in made.notes[0]
    assert planned(make(EVAL_FILE=None)).traffic.exact, "D-PSGD over the graph of the file"


def test_no_graph_file_is_needed_where_nobody_looks_at_it(make: Make, tmp_path: Path) -> None:
    (tmp_path / "my_program.py").write_text(OWN)
    graph = "\n[GRAPH]\ngraph_package = my_program\ngraph_class = Rotating\n"
    made = planned(make(ini=INI + graph, EVAL_FILE=None, GRAPH_FILE=None))
    assert made.traffic.messages_per_round == 9 * 3 and made.graph_name is None
    words = made.command(0)
    assert "-gf" not in words and "-gt" not in words and "-ps" in words
    assert "my_program.Rotating over 9 nodes" in describe(made, RUN) and not made.notes
    message = refused(make(GRAPH_FILE=None))
    assert "needs the key 'GRAPH_FILE', for DPSGD over StaticSchedule needs a graph" in message


def test_who_is_evaluated_is_passed_on(make: Make) -> None:
    made = planned(make(EVALUATED_NODES=[0, 8], TEST_SAMPLES=100))
    words = made.command(0)
    at = words.index("--evaluated_nodes")
    assert words[at : at + 4] == ["--evaluated_nodes", "[0,8]", "--test_samples", "100"]
    assert made.as_dict(RUN)["config"]["EVALUATED_NODES"] == [0, 8]
    words = planned(make(EVALUATED_NODES=3)).command(0)
    assert words[words.index("--evaluated_nodes") + 1] == "3"
    assert "--evaluated_nodes" not in planned(make()).command(0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"EVALUATED_NODES": 10}, "EVALUATED_NODES 10: there are 9 nodes"),
        ({"EVALUATED_NODES": 0}, "EVALUATED_NODES 0: there are 9 nodes"),
        ({"EVALUATED_NODES": []}, "EVALUATED_NODES = "),
        ({"EVALUATED_NODES": "some"}, "EVALUATED_NODES = "),
        ({"EVALUATED_NODES": [1.5]}, "EVALUATED_NODES = "),
        ({"EVALUATED_NODES": [9]}, "EVALUATED_NODES: there is no node 9"),
        ({"EVALUATED_NODES": [-1]}, "EVALUATED_NODES: there is no node -1"),
        ({"TEST_SAMPLES": 0}, "TEST_SAMPLES = 0"),
    ],
)
def test_nodes_that_cannot_be_evaluated(make: Make, changes: dict[str, Any], expected: str) -> None:
    message = refused(make(**changes))
    assert expected in message
    assert message.count("EVALUATED_NODES =") <= 1


def test_plain_averaging_is_exact_too(make: Make) -> None:
    ini = INI.replace("sharing.Sharing\n", "sharing.PlainAverageSharing\n").replace(
        "sharing_class = Sharing", "sharing_class = PlainAverageSharing"
    )
    assert planned(make(ini=ini)).traffic.exact


def test_bytes_of_a_method_of_ones_own_are_a_bound(make: Make, tmp_path: Path) -> None:
    (tmp_path / "my_method.py").write_text("class Mine:\n    def __init__(self): pass\n")
    ini = INI.replace("decentralizepy.sharing.Sharing", "my_method")
    made = planned(make(ini=ini.replace("sharing_class = Sharing", "sharing_class = Mine")))
    assert not made.traffic.exact
    assert "at most, for whole models; what Mine sends" in describe(made, RUN)
    assert made.task.experiment.own_files == {Path("my_method.py"): tmp_path / "my_method.py"}


def test_bytes_are_those_before_compression(make: Make) -> None:
    ini = INI.replace("sharing_class = Sharing", "sharing_class = Sharing\ncompression = fp16")
    made = planned(make(ini=ini))
    assert not made.traffic.exact and made.traffic.payload_per_message == MLP_ROW * 4
    assert "for whole models, before compression: " in describe(made, RUN)


def test_bytes_of_a_model_of_ones_own_are_unknown(make: Make, tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text("class Net:\n    def __init__(self): pass\n")
    ini = INI.replace("model_class = MLP", "model_package = my_model\nmodel_class = Net")
    made = planned(make(ini=ini))
    assert made.traffic.total_bytes is None
    assert "my_model.Net is known when it runs" in describe(made, RUN)
    assert made.as_dict(RUN)["traffic"]["bytes_per_round"] is None


def test_graph_and_nodes_must_agree(make: Make) -> None:
    path = make()
    path.with_name("ring.edges").write_text("3\n0 1\n1 2\n")
    message = refused(path)
    assert "NB_AGENTS = 9" in message
    assert "'ring.edges' has 3 nodes" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"EVAL_FILE": "testingPeerSamplr.py"}, "EVAL_FILE: unknown driver.*did you mean 'tes"),
        ({"GRAPH_FILE": "rings.edges"}, "GRAPH_FILE = 'rings.edges': no such file.*'ring.edges'"),
        ({"GRAPH_FILE": "x" * 5000}, "GRAPH_FILE"),
        ({"GRAPH_FILE": "x" * 4000}, "GRAPH_FILE = .*no such file"),
        ({"CONFIG_NAME": "smal.ini"}, "CONFIG_NAME = 'smal.ini': no such file.*'small.ini'"),
        ({"GRAPH_FILE": "small.ini"}, "GRAPH_FILE: .*small.ini"),
        ({"CONFIG_NAME": "ring.edges"}, "not a valid INI"),
    ],
)  # fmt: skip
def test_wrong_names(make: Make, changes: dict[str, Any], expected: str) -> None:
    path = make(**changes)
    with pytest.raises(ConfigError, match=expected):
        planned(path)


@pytest.mark.parametrize(
    ("ini", "nodes", "expected"),
    [
        (INI, 9, "[NODE] needs 'graph_degree'"),
        (DYNAMIC.format(9), 9, "graph_degree = 9: no connected 9-regular graph"),
        (DYNAMIC.format(0), 9, "choose a degree of at least 2"),
        (DYNAMIC.format(3), 9, "nodes x degree must be even"),
        (DYNAMIC.format("four"), 9, "graph_degree"),
    ],
)
def test_dynamic_graphs_that_do_not_exist(make: Make, ini: str, nodes: int, expected: str) -> None:
    message = refused(make(ini=ini, NB_AGENTS=nodes, EVAL_FILE="testingPeerSamplerDynamic.py"))
    assert expected in message
    assert "small.ini" in message


KEYS = ["GRAPH_FILE", "CONFIG_NAME", "EVAL_FILE", "NB_AGENTS", "NB_MACHINE", "NB_ITERATION",
        "AVERAGING_STEPS", "WORKERS", "OFFSET", "TEST_AFTER", "LOCAL_SAVE_DIR", "job_name",
        "GRAPH_TYPE", "cluster", "walltime"]  # fmt: skip
VALUES = st.sampled_from([1, 8, 9, 10**9, -1, "/", ".", "..", "\n", "~", "adjacency", "0:01:00"])


@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES | st.text(max_size=6), max_size=3))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
def test_no_configuration_raises_anything_but_a_config_error(
    make: Make, setting: Callable[..., Setting], changes: dict[str, Any]
) -> None:
    path = make()
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    try:
        inputs, made = make_plan(path, setting())
        folder = example_folder(made)
        shown = preview(inputs, made, setting(), folder)
    except ConfigError:
        return
    describe(shown, folder)


def test_notes(make: Make) -> None:
    path = make(ini=DYNAMIC.format(2), WORKERS=3)
    path.with_name("ring.edges").write_text("9\n")
    notes = "\n".join(planned(path, workers=3).notes)
    assert "not connected" in notes
    assert "graph_degree = 2 is not used" in notes
    assert "2 machines of 3 workers share 2 CPUs" in notes


def test_a_graph_named_like_a_file_of_the_run_gets_another_name(make: Make) -> None:
    path = make(GRAPH_FILE="config.ini", GRAPH_TYPE="edges")
    path.with_name("ring.edges").rename(path.with_name("config.ini"))
    assert planned(path).graph_name == "graph_config.ini"


@pytest.mark.parametrize(
    ("iterations", "every"), [(1, 1), (1, 5), (10, 5), (11, 5), (7, 1), (3, 9)]
)
def test_evaluations_are_at_1_every_t_and_the_last(iterations: int, every: int) -> None:
    due = [t for t in range(1, iterations + 1) if t in (1, iterations) or t % every == 0]
    assert evaluations(iterations, every) == len(due)


def load(**changes: Any) -> Load:
    base = Load(
        nodes=(8, 8),
        workers=(1, 1),
        cores=2,
        computers=1,
        iterations=100,
        averaging_steps=1,
        test_after=10,
        train_evaluate_after=10,
        rounds=3,
        batch_size=8,
        full_epochs=False,
        samples=(0, 0),
        test_samples=None,
        evaluated=16,
        row_bytes=1000,
        bytes_per_round=0,
    )
    return replace(base, **changes)


def test_the_estimate_follows_the_slowest_machine_and_the_cores() -> None:
    cost = Cost(train_s=1e-3, evaluate_s=0.0)
    seconds = [
        estimate(load(**changes), cost).training_s
        for changes in ({}, {"nodes": (15, 1)}, {"cores": 1}, {"workers": (2, 2)})
    ]
    assert seconds == pytest.approx([100 * 8 * 24e-3, 100 * 15 * 24e-3, 100 * 16 * 24e-3, 19.2])


def test_epochs_go_by_the_size_of_the_data_set() -> None:
    assert load(full_epochs=True, samples=(50_000, 10_000)).samples_per_iteration == 3 * 3125
    assert load(full_epochs=True).samples_per_iteration == 3


def test_evaluation_goes_by_who_is_evaluated_on_how_much(make: Make) -> None:
    """Of 100 iterations those 1, 10, ..., 100 are evaluated: eleven."""
    cost = Cost(train_s=0.0, evaluate_s=1e-3)
    known = {"samples": (1600, 500)}
    for changes, samples in (
        ({}, 16 * 11 * (500 + 100)),
        ({"evaluated": 4}, 4 * 11 * (500 + 100)),
        ({"test_samples": 50}, 16 * 11 * (50 + 100)),
        ({"test_samples": 5000, "train_evaluate_after": 0}, 16 * 11 * 500),
    ):
        one = load(**known, **changes)
        assert one.evaluated_samples == samples
        seconds = estimate(one, cost).evaluation_s
        assert seconds == pytest.approx(one.nodes_in_turn / 16 * samples * 1e-3, abs=1e-3)
    assert planned(make()).load.samples == (1442, 355)
    assert [planned(make(EVALUATED_NODES=some)).load.evaluated for some in ("all", 3, [0, 8])] == [
        9, 3, 2,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rounds", "batch", "epochs", "samples"),
    [
        ("3", "8", "False", 24.0),
        ("1, 2, 3, 0, 9", "8, 8, 2, 8, 1", "False", (8 + 16 + 6 + 0 + 9) / 5),
        ("1, 2, 3, 1, 3", "8", "True", 2.0 * (1442 // 5)),
    ],
)
def test_the_estimate_takes_the_mean_of_unequal_work(
    make: Make, rounds: str, batch: str, epochs: str, samples: float
) -> None:
    text = INI.replace("rounds = 3", f"rounds = {rounds}\nfull_epochs = {epochs}")
    text = text.replace("batch_size = 8", f"batch_size = {batch}")
    found = planned(make(ini=text, NB_AGENTS=5, NB_MACHINE=1)).estimate
    assert found.training_s == pytest.approx(10 * 5 * samples * 1e-3)


def test_one_node_on_one_machine(make: Make) -> None:
    path = make(NB_AGENTS=1, NB_MACHINE=1)
    path.with_name("ring.edges").write_text("1\n")
    made = planned(path)
    assert made.traffic.total_bytes == 0
    assert made.notes == ()
    assert "1 node on 1 machine" in describe(made, RUN)


def test_the_device_is_handed_on(make: Make) -> None:
    made = planned(make(DEVICE="cuda"))
    for machine in made.machines:
        command = made.command(machine.machine)
        assert command[command.index("--device") + 1] == "cuda"
    assert read_inputs(make(DEVICE="cuda", WORKERS=None)).config.workers(cpus=64) == 1


def test_an_offset_that_is_not_used_is_told(make: Make) -> None:
    ini = INI.replace("comm_class = TCP", "comm_class = TCP\noffset = 4000")
    note = "OFFSET = 5000 is not used: the INI's own offset is 4000"
    assert note in planned(make(ini=ini, OFFSET=5000), cores=8).notes
    for changes in ({"ini": ini}, {"ini": ini, "OFFSET": 4000}, {"OFFSET": 5000}):
        assert not planned(make(**changes), cores=8).notes


def scenario(path: Path, **files: Any) -> None:
    for name, value in files.items():
        (path.parent / f"{name}.json").write_text(json.dumps(value))


def test_checkpoints_and_losses_are_flags_of_every_machine(make: Make) -> None:
    path = make(CHECKPOINT_AFTER=50, ON_LOSS="wait", WAIT_LIMIT=90, PROGRESS_LIMIT=1.5)
    for machine in range(2):
        words = shlex.join(planned(path).command(machine))
        assert "--checkpoint_after 50 --on_loss wait --wait_limit 90 --progress_limit 1.5" in words
    plain = planned(make())
    assert not any("loss" in word or "limit" in word for word in plain.command(0))
    assert "WAIT_LIMIT is not used: ON_LOSS is fail, not wait" in planned(make(WAIT_LIMIT=9)).notes


def test_simulations_and_faults_are_copied_and_named(
    make: Make, setting: Callable[..., Setting], tmp_path: Path
) -> None:
    path = make(NB_MACHINE=1, WORKERS=None, SIMULATE="run.json", FAULTS="kills.json")
    measured = tmp_path / "measured"
    run = RunFolder(measured).machine(0)
    run.root.mkdir(parents=True)
    rows = [{"uid": uid, "iteration": 10, "train_s": 1.0} for uid in range(9)]
    run.records(0).write_text("".join(json.dumps(row) + "\n" for row in rows))
    kills = [{"kill": {"node": 3}, "round": 4}]
    scenario(path, run={"compute": {"run": "measured"}}, kills=kills)
    inputs, planned = make_plan(path, setting())
    made = preview(inputs, planned, setting(), RUN)
    assert json.loads(made.files["kills.json"]) == kills
    assert json.loads(made.files["simulate_run.json"]) == {"compute": {"run": str(measured)}}
    words = made.command(0)
    assert words[words.index("--simulate") + 1] == str(RUN.root / "simulate_run.json")
    assert words[words.index("--faults") + 1] == str(RUN.root / "kills.json")
    assert made.scenario.keys == {"SIMULATE": "simulate_run.json", "FAULTS": "kills.json"}
    assert "--faults" in describe(made, RUN)


FAR = {"slow_link": {"from": 0, "to": 4, "delay_s": 1}, "rounds": [1, 1]}


@pytest.mark.parametrize(
    ("changes", "files", "expected"),
    [
        ({"FAULTS": "absent.json"}, {}, "small.json: FAULTS = 'absent.json': no such file"),
        ({"FAULTS": "f.json"}, {"f": {}}, "small.json: FAULTS: "),
        ({"FAULTS": "f.json"}, {"f": [{"kill": {"node": 9}, "round": 1}]}, "kill: node"),
        ({"FAULTS": "f.json"}, {"f": [{"kill": {"node": 1}, "round": 11}]}, "round"),
        ({"FAULTS": "f.json"}, {"f": [{"kill": {"worker": [1, 2]}, "round": 1}]}, "change WORKERS"),
        ({"SIMULATE": "s.json", "NB_MACHINE": 1}, {"s": {}}, "small.json: SIMULATE: "),
        ({"FAULTS": "f.json"}, {"f": [FAR]}, "slow_link: 0>4 is not an edge of the graph"),
        (
            {"SIMULATE": "s.json", "NB_MACHINE": 1},
            {"s": {"links": {"edges": {"0-4": {}}}}},
            "edges: 0-4 is not an edge of the graph",
        ),
        (
            {"SIMULATE": "s.json", "NB_MACHINE": 1},
            {"s": {"machines": [4, 4], "links": {}}},
            "8 nodes, but the graph has 9",
        ),
    ],
)
def test_simulations_and_faults_that_do_not_fit(
    make: Make,
    setting: Callable[..., Setting],
    changes: dict[str, Any],
    files: dict[str, Any],
    expected: str,
) -> None:
    path = make(**changes)
    scenario(path, **files)
    with pytest.raises(ConfigError) as error:
        make_plan(path, setting())
    assert expected in str(error.value)
