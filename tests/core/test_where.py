"""``decentralizepy where``: who hosts which node, asked of anybody."""

import json
import re
from pathlib import Path

import pytest

from decentralizepy.commands import arguments
from decentralizepy.mappings.placement import Placement


@pytest.fixture
def ask(call, folder):
    def run(*words):
        return call("where", "small.ini", "-gf", "ring.edges", *words)

    return run


def test_every_node_has_a_worker_and_a_port(ask):
    done = ask("-ms", "2", "-ps", "5,3", "--workers", "2")
    assert done.code == 0
    assert done.out.splitlines() == [
        "machine 0 coordinates on 127.0.0.1 port 9000",
        "uids 0 to 2: machine 0, worker 0, 127.0.0.1 port 9001",
        "uids 3 to 4: machine 0, worker 1, 127.0.0.1 port 9003",
        "uids 5 to 6: machine 1, worker 0, 127.0.0.2 port 9001",
        "uid 7: machine 1, worker 1, 127.0.0.2 port 9003",
    ]


def test_the_answer_for_each_uid_is_the_engines_own_placement(ask, folder):
    Path("ip.json").write_text(json.dumps({"0": "127.0.0.1", "1": "127.0.0.1"}))
    graph = arguments.read_graph_file(Path("ring.edges"), "edges")
    assert graph.n == 8
    found = []
    for uid in range(8):
        line = ask("-ms", "2", "--workers", "3", "2", "--uid", str(uid)).out.splitlines()[1]
        found.append(tuple(map(int, re.findall(r"uid (\d+): machine (\d), worker (\d)", line)[0])))
    from decentralizepy.mappings.mapping import Mapping

    placement = Placement(Mapping((4, 4)), (3, 2))
    assert found == [(uid, *placement.owner(uid)) for uid in range(8)]
    assert "127.0.0.1 port 9259" in ask("-ms", "2", "--workers", "2", "--uid", "7").out


def test_without_workers_machines_are_told(ask):
    out = ask("-ms", "2").out
    assert "uids 0 to 3: machine 0, 127.0.0.1 ports 9001, 9003, ..." in out
    assert ask().out == "uids 0 to 7: machine 0\n"


def test_here(call, folder):
    Path("ip.json").write_text(json.dumps({"0": "192.0.2.77", "1": "127.0.0.1"}))
    assert call("where", "small.ini", "-ms", "2", "--here").out == "1\n"
    assert call("where", "small.ini", "--here").out == "0\n"
    Path("ip.json").write_text(json.dumps({"0": "127.0.0.2", "1": "127.0.0.1"}))
    done = call("where", "small.ini", "-ms", "2", "--here")
    assert done.code == 2 and not done.out and "-mid" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--uid", "8"], "--uid 8: the nodes are 0 to 7"),
        (["--uid", "-1"], "--uid -1: the nodes are 0 to 7"),
        (["-ms", "2", "--workers", "1", "1", "1"], "--workers: one number for all machines"),
        (["--workers", "0"], "at least 1"),
        (["-ms", "0"], "-ms 0: at least one machine"),
        (["-ps", "9"], "ring.edges has 8 nodes"),
    ],
)
def test_questions_without_an_answer(ask, words, said):
    done = ask(*words)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err


FEDERATED = ("--eval_file", "testingFederated.py")


def test_servers_have_a_place_too(ask):
    out = ask("-ms", "2", "--workers", "2", "-sm", "1", *FEDERATED).out.splitlines()
    assert out[1] == "uid -1: machine 1, worker 0, 127.0.0.2 port 9001"
    assert ask("--workers", "2", "--uid", "-1", *FEDERATED).out == "uid -1: machine 0, worker 0\n"
    assert ask(*FEDERATED).out == "uids -1 to 7: machine 0\n"
    done = ask("--uid", "-2", *FEDERATED)
    assert done.code == 2 and "the nodes are 0 to 7, servers -1 to -1" in done.err
    done = ask("-sm", "1", *FEDERATED)
    assert done.code == 2 and "-sm: no machine 1" in done.err
