"""The flags of a run: the reference's, long and short, and every wrong input named at once."""

import argparse
import json
from pathlib import Path

import core_examples as examples
import pytest

from decentralizepy import reference
from decentralizepy.commands import arguments, flags
from decentralizepy.commands.arguments import flags_of, settings_of
from decentralizepy.communication.keys import load_key, make_key
from decentralizepy.errors import ConfigError
from decentralizepy.graphs.generators import regular
from decentralizepy.graphs.schedules import RandomRegularSchedule, StaticSchedule
from decentralizepy.registry import forget_sources
from decentralizepy.settings import EvaluationOptions

#: short, long, a value, what it becomes, the default (None: computed)
REFERENCE_FLAGS = [
    ("-mid", "--machine_id", ["1"], 1, None),
    ("-ps", "--procs_per_machine", ["4", "4"], [4, 4], None),
    ("-ms", "--machines", ["2"], 2, 1),
    ("-ld", "--log_dir", ["out"], Path("out"), None),
    ("-wsd", "--weights_store_dir", ["w"], Path("w"), None),
    ("-is", "--iterations", ["9"], 9, 1),
    ("-cf", "--config_file", ["a.ini"], Path("a.ini"), Path("config.ini")),
    ("-ll", "--log_level", ["DEBUG"], "DEBUG", "INFO"),
    ("-gf", "--graph_file", ["a.adj"], Path("a.adj"), Path("36_nodes.edges")),
    ("-gt", "--graph_type", ["adjacency"], "adjacency", "edges"),
    ("-ta", "--test_after", ["7"], 7, 5),
    ("-tea", "--train_evaluate_after", ["3"], 3, 1),
    ("-ro", "--reset_optimizer", ["0"], 0, 1),
    ("-sm", "--server_machine", ["1"], 1, 0),
    ("-sr", "--server_rank", ["-2"], -2, -1),
    ("-wr", "--working_rate", ["0.5"], 0.5, None),
    ("-as", "--averaging_steps", ["3"], 3, 1),
]
#: args.json of the reference
REFERENCE_ARGS = [
    "machine_id",
    "procs_per_machine",
    "machines",
    "log_dir",
    "weights_store_dir",
    "iterations",
    "config_file",
    "log_level",
    "graph_file",
    "graph_type",
    "test_after",
    "train_evaluate_after",
    "reset_optimizer",
    "working_rate",
    "averaging_rounds",
]


def parse(*words):
    parser = argparse.ArgumentParser()
    flags.add_arguments(parser)
    return parser.parse_args(list(words))


def accept(*words):
    return settings_of(parse("-cf", "small.ini", "-gf", "ring.edges", "-ld", "out", *words))


def refuse(*words):
    with pytest.raises(ConfigError) as caught:
        accept(*words)
    assert not Path("out").exists()
    return str(caught.value)


# ---------------------------------------------------------------- flags


@pytest.mark.parametrize(("short", "long", "words", "value", "default"), REFERENCE_FLAGS)
def test_every_flag_of_the_reference(short, long, words, value, default):
    name = long.removeprefix("--")
    assert getattr(parse(short, *words), name) == value == getattr(parse(long, *words), name)
    if default is not None:
        assert getattr(parse(), name) == default


def test_one_parameter_has_one_name_and_the_references_is_taken_too():
    for flag in ("-as", "--averaging_steps", "--averaging_rounds"):
        found = vars(parse(flag, "3"))
        assert found["averaging_steps"] == 3 and "averaging_rounds" not in found
    assert reference.flags({"averaging_steps": 3, "iterations": 1}) == {
        "averaging_rounds": 3, "iterations": 1,
    }  # fmt: skip


def test_all_flags_at_once():
    line = [word for short, _, words, *_ in REFERENCE_FLAGS for word in (short, *words)]
    found = vars(parse(*line))
    assert all(found[long[2:]] == value for _, long, _, value, _ in REFERENCE_FLAGS)


def test_a_log_folder_is_made_up_of_the_minute():
    assert len(str(parse().log_dir)) == len("2026-01-31T12:59")


def test_args_json_has_the_references_names_and_plain_values(folder):
    args = parse("-cf", "small.ini", "-gf", "ring.edges", "-ld", "out", "-ms", "2", "-mid", "1")
    flags = flags_of(args, settings_of(args))
    assert set(REFERENCE_ARGS) <= set(reference.flags(flags))
    assert json.loads(json.dumps(flags)) == flags
    assert flags["procs_per_machine"] == [4, 4] and flags["log_dir"] == "out"
    assert flags["weights_store_dir"] == "out" and flags["config_file"] == "small.ini"
    assert not {"command", "function"} & set(flags)


# ---------------------------------------------------------------- settings


def test_defaults(folder, monkeypatch):
    monkeypatch.setattr(arguments, "allotted", lambda: 3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    found = accept()
    assert found.mapping.counts == (8,) and found.uids == range(8) and found.machine == 0
    assert found.workers == 3 and found.threads == 1 and found.device == "cpu"
    assert found.weights_dir == found.log_dir == Path("out") == found.folder.root
    assert found.cache_dir == folder / "cache" / "decentralizepy"
    assert found.addresses == ("127.0.0.1",) and found.reset_optimizer and not found.digests
    assert isinstance(found.schedule(), StaticSchedule)
    assert not Path("out").exists()  # checked, not made
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert accept().cache_dir == Path("/home/someone/.cache/decentralizepy")


@pytest.mark.parametrize(
    ("words", "counts"),
    [
        (["-ms", "2", "-mid", "0", "-ps", "4"], (4, 4)),
        (["-ms", "2", "-mid", "0", "-ps", "5", "3"], (5, 3)),
        (["-ms", "2", "-mid", "1"], (4, 4)),
        (["-ps", "8"], (8,)),
    ],
)
def test_nodes_on_machines(folder, words, counts):
    found = accept(*words)
    assert found.mapping.counts == counts
    assert found.addresses == ("127.0.0.1", "127.0.0.2")[: len(counts)]


def test_no_more_workers_than_nodes_and_one_on_a_gpu(folder, monkeypatch):
    monkeypatch.setattr(arguments, "allotted", lambda: 64)
    assert accept().workers == 8
    assert accept("--workers", "3").workers == 3
    assert accept("--device", "cuda").workers == 1
    assert accept("--device", "cuda:1", "--workers", "2").workers == 2


def test_dynamic_drivers_take_their_degree_from_the_ini(folder):
    found = accept("--eval_file", "testingPeerSamplerDynamic.py")
    schedule = found.schedule()
    assert isinstance(schedule, RandomRegularSchedule)
    assert schedule.at(3) == regular(8, 4, 90 * 100_000 + 3)
    assert schedule.at(3, 1) == schedule.at(3, 0)
    Path("small.ini").write_text(examples.ini(NODE__dynamic_avgrounds="True"))
    schedule = accept("--eval_file", "testingPeerSamplerDynamic.py").schedule()
    assert schedule.at(3, 1) != schedule.at(3, 0)


def test_a_directed_graph_serves_where_graphs_are_drawn(folder):
    Path("way.adj").write_text("3\n1\n2\n0\n")
    Path("small.ini").write_text(examples.ini(NODE__graph_degree="2"))
    words = ["-gf", "way.adj", "-gt", "adjacency"]
    assert accept(*words, "--eval_file", "testingPeerSamplerDynamic").mapping.n == 3
    found = refuse(*words)
    assert "way.adj is directed" in found and "add the reverse edges" in found
    assert "or say shares = False in DPSGD if it does not mix by them" in found


@pytest.mark.parametrize("module", ["decentralizepy.node.push_sum", "push_sum", "own"])
def test_a_directed_graph_serves_a_program_that_mixes_by_itself(folder, module):
    """One of ours, that of the guide, and one with a method whose weights need edges both ways."""
    methods = Path(__file__).resolve().parents[1] / "methods"
    Path("push_sum.py").write_text((methods / "push_sum.py").read_text())
    text = "from decentralizepy import Node\nclass PushSum(Node):\n    shares = {}\n"
    Path("own.py").write_text(text.format(False))
    Path("way.adj").write_text("3\n1\n2\n0\n")
    named = {"NODE__node_package": module, "NODE__node_class": "PushSum"}
    Path("small.ini").write_text(examples.ini(**named))
    words = ["-gf", "way.adj", "-gt", "adjacency"]
    assert accept(*words).mapping.n == 3
    if module == "own":
        Path("own.py").write_text(text.format(True))
        forget_sources()
        assert "way.adj is directed" in refuse(*words)


@pytest.mark.parametrize(
    ("words", "nodes", "samples"),
    [
        ([], "all", None),
        (["--evaluated_nodes", "all", "--test_samples", "100"], "all", 100),
        (["--evaluated_nodes", "3"], 3, None),
        (["--evaluated_nodes", "8"], 8, None),
        (["--evaluated_nodes", "[3]"], (3,), None),
        (["--evaluated_nodes", "0,3,7"], (0, 3, 7), None),
        (["--evaluated_nodes", "[7, 0, 7]"], (7, 0), None),
    ],
)
def test_who_is_evaluated_on_how_much(folder, words, nodes, samples):
    found = accept(*words)
    assert found.evaluation == EvaluationOptions(nodes, samples)
    flags = flags_of(parse(*words, "-gf", "ring.edges"), found)
    told = json.loads(json.dumps(flags))
    expected = list(nodes) if isinstance(nodes, tuple) else nodes
    assert (told["evaluated_nodes"], told["test_samples"]) == (expected, samples)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--evaluated_nodes", "9"], "--evaluated_nodes 9: there are 8 nodes"),
        (["--evaluated_nodes", "0"], "--evaluated_nodes 0: there are 8 nodes"),
        (["--evaluated_nodes", "[8]"], "there is no node 8; nodes are 0 to 7"),
        (["--evaluated_nodes", "[-1,0]"], "there is no node -1"),
        (["--test_samples", "0"], "--test_samples 0: at least 1"),
    ],
)
def test_nodes_that_cannot_be_evaluated(folder, words, said):
    assert said in refuse(*words)


@pytest.mark.parametrize("text", ["", "some", "[]", "1.5", "0..3"])
def test_evaluated_nodes_that_are_none(folder, text, capsys):
    with pytest.raises(SystemExit):
        parse("--evaluated_nodes", text)
    assert "uids as [0,3,7] are expected" in capsys.readouterr().err


def test_servers_can_be_evaluated_too():
    EvaluationOptions((-2, 0)).check(8, servers=2)
    with pytest.raises(ConfigError, match="nodes are -2 to 7"):
        EvaluationOptions((-3, 0)).check(8, servers=2)


def test_one_node_alone(folder):
    Path("one.edges").write_text("1\n")
    found = accept("-gf", "one.edges", "--workers", "5")
    assert found.mapping.n == 1 and found.workers == 1


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-cf", "none.ini"], "cannot read none.ini: No such file or directory"),
        (["-gf", "none.edges"], "cannot read graph none.edges: No such file or directory (-gf)"),
        (["-gf", "ip.json"], "ip.json, line 1: '{"),
        (["-gf", "ring.edges", "-gt", "adjacency"], "ring.edges, line"),
        (["-gf", "ring.edges", "-gt", "adjacency"], "named .edges: try -gt edges"),
        (["-gf", "way.adj"], "read as edges, but named .adj: try -gt adjacency"),
        (["-ms", "0"], "--machines 0: at least 1"),
        (["-ms", "9"], "-ms 9: ring.edges has 8 nodes"),
        (["-ms", "1000000000"], "-ms 1000000000: ring.edges has 8 nodes"),
        (["-ps", "7"], "ring.edges has 8 nodes, but -ps and -ms make 7"),
        (["-ps", "0"], "-ps: machine 0 has 0 nodes"),
        (["-ms", "2", "-ps", "8", "-1"], "-ps: machine 1 has -1 nodes"),
        (["-ms", "2", "-ps", "8"], "ring.edges has 8 nodes, but -ps and -ms make 16"),
        (["-ms", "2", "-ps", "4", "2", "2"], "-ps gives 3 machines, -ms 2: give one number"),
        (["-ps", "4", "4"], "-ps gives 2 machines, -ms 1"),
        (["-ms", "2", "-mid", "2"], "-mid 2: machines are 0 to 1 (-ms)"),
        (["-mid", "-1"], "-mid -1: machines are 0 to 0"),
        (["-is", "-1"], "--iterations -1: at least 0"),
        (["--averaging_rounds", "0"], "--averaging_steps 0: at least 1"),
        (["--threads", "0"], "--threads 0: at least 1"),
        (["-ta", "-1"], "--test_after -1: at least 0"),
        (["-tea", "-1"], "--train_evaluate_after -1: at least 0"),
        (["--workers", "0"], "--workers 0: at least 1"),
        (["-ll", "debug"], "-ll debug (did you mean 'DEBUG'?): one of DEBUG, INFO, WARNING"),
        (["--device", "tpu"], "--device tpu: cpu or cuda"),
        (["--eval_file", "testingFederatd.py"], "unknown driver 'testingFederatd.py'"),
        (["-ld", "small.ini"], "small.ini is not a writable folder: choose another one (-ld)"),
        (["-ld", "small.ini/inside"], "is not a writable folder"),
        (["-wsd", "ring.edges"], "ring.edges is not a writable folder: choose another one (-wsd)"),
        (["-ld", "x" * 300], "File name too long: choose another folder (-ld)"),
    ],
)
def test_wrong_input_names_the_flag_or_file(folder, words, said):
    Path("way.adj").write_text("3\n1\n2\n0\n")
    assert said in refuse(*words)


@pytest.mark.parametrize(
    ("flag", "content", "said"),
    [
        (
            "--faults",
            [{"slow_link": {"from": 0, "to": 5, "delay_s": 1}, "rounds": [1, 1]}],
            "f.json: fault 1: slow_link: 0>5 is not an edge of the graph",
        ),
        (
            "--simulate",
            {"links": {"edges": {"0-5": {"latency_s": 1}}}},
            "f.json: links: edges: 0-5 is not an edge of the graph",
        ),
    ],
)
def test_links_are_edges_of_a_graph_that_stays(folder, flag, content, said):
    Path("f.json").write_text(json.dumps(content))
    assert said in refuse(flag, "f.json")
    assert accept(flag, "f.json", "--eval_file", "testingPeerSamplerDynamic.py")


def test_a_folder_that_holds_a_run_is_left_alone(folder):
    Path("out").mkdir()
    assert accept().log_dir == Path("out")  # an empty folder is fine
    Path("out/args.json").write_text("{}")
    with pytest.raises(ConfigError, match="out already contains a run: choose another folder"):
        accept()
    Path("out/args.json").rename("out/records_3.jsonl")
    with pytest.raises(ConfigError, match="already contains a run"):
        accept()
    assert [path.name for path in Path("out").iterdir()] == ["records_3.jsonl"]


@pytest.mark.parametrize(
    ("n", "degree", "said"),
    [
        (8, None, "small.ini: [NODE] needs 'graph_degree': testingPeerSamplerDynamic.py"),
        (8, 8, "[NODE] graph_degree = 8: no connected 8-regular graph of 8 nodes"),
        (8, 0, "[NODE] graph_degree = 0"),
        (8, -2, "[NODE] graph_degree = -2"),
        (8, 1, "graph_degree = 1: no connected 1-regular graph of 8 nodes: choose a degree of"),
        (7, 3, "nodes x degree must be even"),
    ],
)
def test_degrees_that_no_graph_has(folder, n, degree, said):
    Path("ring.edges").write_text(examples.ring(n))
    text = "" if degree is None else str(degree)
    Path("small.ini").write_text(examples.ini(NODE__graph_degree=text))
    assert said in refuse("--eval_file", "testingPeerSamplerDynamic.py")
    accept()  # the static driver does not care


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "ip.json is not valid JSON"),
        ("[" * 100_000, "ip.json is not valid JSON"),
        ("[]", "ip.json must have exactly the keys 0, 1 (-ms 2)"),
        ('"0"', "ip.json must have exactly the keys"),
        ('{"0": "a"}', "exactly the keys 0, 1"),
        ('{"0": "a", "1": "b", "2": "c"}', "exactly the keys 0, 1"),
        ('{"0": "a", "01": "b"}', "exactly the keys 0, 1"),
        ('{"0": "a", "1": ""}', "ip.json: machine 1 has no valid address: ''"),
        ('{"0": 127001, "1": "b"}', "machine 0 has no valid address: 127001"),
        ('{"0": "a", "1": null}', "machine 1 has no valid address: None"),
        ('{"0": "a", "1": "tcp://b"}', "machine 1 has no valid address: 'tcp://b'"),
        ('{"0": "a", "1": "b:9000"}', "no valid address"),
        ('{"0": "a b", "1": "c"}', "no valid address"),
        ('{"0": "a\\u0000", "1": "c"}', "no valid address"),
        ('{"0": "0.0.0.0", "1": "c"}', "machine 0 has no valid address: '0.0.0.0'"),
        ('{"0": "::", "1": "c"}', "no valid address"),
        ('{"0": "224.0.0.1", "1": "c"}', "no valid address"),
    ],
)
def test_addresses_that_are_none(folder, text, said):
    Path("ip.json").write_text(text)
    assert said in refuse("-ms", "2")


def test_machines_of_one_address_have_their_own_ports(folder):
    Path("small.ini").write_text(examples.ini(COMMUNICATION__encryption="none"))
    Path("ip.json").write_text(json.dumps({"0": "Node-1", "1": "::1", "2": "node-1"}))
    found = accept("-ms", "3", "-ps", "3,3,2", "-mid", "2")
    assert found.addresses == ("node-1", "::1", "node-1")
    Path("ring.edges").write_text(examples.ring(300))
    words = ("-ms", "3", "-ps", "140,20,140", "--workers", "129")
    assert "machines that share an address (node-1) may have 128 each" in refuse(
        *words, "-mid", "2"
    )
    assert accept(*words, "-mid", "1").workers == 20
    Path("small.ini").write_text(examples.ini(COMMUNICATION__offset="65300"))
    said = refuse(*words[:-1], "1", "-mid", "2")
    assert "offset = 65300: machine 2 with 1 workers needs the ports up to 65557" in said


# ---------------------------------------------------------------- the run key


def test_machines_on_a_network_need_a_key_or_say_that_they_need_none(folder):
    Path("ip.json").write_text('{"0": "127.0.0.1", "1": "192.0.2.77"}')
    said = refuse("-ms", "2", "-mid", "0")
    for remedy in ("decentralizepy keys DIR", "--key", "encryption = none in [COMMUNICATION]"):
        assert remedy in said
    made = make_key(folder / "keys")
    found = accept("-ms", "2", "-mid", "0", "--key", str(made))
    assert found.key == load_key(made)
    assert found.key.hex() not in repr(found) and str(found.key) not in repr(found)
    Path("small.ini").write_text(examples.ini(COMMUNICATION__encryption="none"))
    assert accept("-ms", "2", "-mid", "0", "--key", str(made)).key is None


def test_on_one_computer_a_key_is_used_if_it_is_there(folder):
    assert accept("-ms", "2", "-mid", "0").key is None
    made = make_key(folder)  # above the log folder
    assert accept("-ms", "2", "-mid", "0").key == load_key(made)
    assert accept("-ms", "1").key is None, "one machine says nothing to others"
    made.chmod(0o644)
    assert "chmod 600" in refuse("-ms", "2", "-mid", "0")


def test_two_different_keys_are_one_too_many(folder):
    above, named = make_key(folder), make_key(folder / "keys")
    said = refuse("-ms", "2", "-mid", "0", "--key", str(named))
    assert f"--key {named} differs from the key in" in said and "run.key" in said
    named.unlink()
    named.write_bytes(above.read_bytes())
    named.chmod(0o600)
    assert accept("-ms", "2", "-mid", "0", "--key", str(named)).key == load_key(above)


def test_the_key_is_in_no_flags(folder):
    made = make_key(folder / "keys")
    args = parse("-cf", "small.ini", "-gf", "ring.edges", "-ld", "out", "-ms", "2", "-mid", "1",
                 "--key", str(made))  # fmt: skip
    flags = flags_of(args, settings_of(args))
    assert flags["key"] == str(made)
    assert made.read_text().strip() not in json.dumps(flags)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("encryption", "nome", "did you mean 'none'?"),
        ("encryption", "yes", "one of auto, none"),
        ("peer_timeout", "0", "peer_timeout = 0"),
        ("mailbox_budget", "-1", "more than 0 MB"),
    ],
)
def test_options_of_the_transport_are_checked(folder, key, value, said):
    Path("small.ini").write_text(examples.ini(**{f"COMMUNICATION__{key}": value}))
    found = refuse("-ms", "2", "-mid", "0")
    assert "small.ini: [COMMUNICATION]" in found and said in found


# ---------------------------------------------------------------- which machine this is


def test_a_machine_finds_itself_by_its_address(folder):
    Path("small.ini").write_text(examples.ini(COMMUNICATION__encryption="none"))
    Path("ip.json").write_text(json.dumps({"0": "192.0.2.77", "1": "127.3.2.1"}))
    found = accept("-ms", "2")
    assert found.machine == 1 and found.uids == range(4, 8)
    args = parse("-cf", "small.ini", "-gf", "ring.edges", "-ld", "out", "-ms", "2")
    assert flags_of(args, settings_of(args))["machine_id"] == 1
    Path("ip.json").write_text(json.dumps({"0": "localhost", "1": "192.0.2.77"}))
    assert accept("-ms", "2").machine == 0


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (["127.0.0.1", "127.0.0.2"], "ip.json: machines 0 (127.0.0.1), 1 (127.0.0.2) all have"),
        (
            ["localhost", "localhost"],
            "machines 0 (localhost), 1 (localhost) all have an address of this one",
        ),
        (["192.0.2.77", "192.0.2.78"], "no machine has an address of this one, which are "),
        (["192.0.2.77", "no-such.invalid"], "cannot resolve no-such.invalid"),
    ],
)
def test_no_machine_or_two_are_told_with_the_remedy(folder, addresses, said):
    Path("small.ini").write_text(examples.ini(COMMUNICATION__encryption="none"))
    Path("ip.json").write_text(json.dumps(dict(zip("01", addresses, strict=True))))
    found = refuse("-ms", "2")
    assert said in found and "-mid" in found
    if "no machine" in found and Path("/proc/net/fib_trie").exists():
        assert "127.0.0.1" in found, "what this machine has is listed"
    assert accept("-ms", "2", "-mid", "1").machine == 1


@pytest.mark.parametrize("words", [["4,4"], ["4", "4"], ["4,", "4"], ["4 ,4"], [",4,,4,"]])
def test_nodes_per_machine_with_blanks_or_commas(folder, words):
    assert accept("-ms", "2", "-mid", "0", "-ps", *words).mapping.counts == (4, 4)


@pytest.mark.parametrize("words", [["four"], ["4;4"], [","], ["4.0"]])
def test_nodes_per_machine_are_whole_numbers(folder, words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse("-ps", *words)
    assert ended.value.code == 2 and "number" in capsys.readouterr().err


def test_the_address_file_is_looked_for_beside_the_ini_first(folder):
    (folder / "conf").mkdir()
    (folder / "conf" / "small.ini").write_text(examples.ini())
    assert accept("-cf", "conf/small.ini", "-ms", "2", "-mid", "1").addresses[1] == "127.0.0.2"
    (folder / "conf" / "ip.json").write_text('{"0": "node-a", "1": "node-b"}')
    clear = examples.ini(COMMUNICATION__encryption="none")
    (folder / "conf" / "small.ini").write_text(clear)
    assert accept("-cf", "conf/small.ini", "-ms", "2", "-mid", "1").addresses == (
        "node-a",
        "node-b",
    )
    Path("ip.json").unlink()
    said = refuse("-ms", "2")
    assert "cannot read ip.json" in said and "addresses_filepath in small.ini" in said
