"""What `run_here` takes as keyword arguments, and as the program of a node."""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decentralizepy import (
    Checkpoint,
    Message,
    Node,
    Outcome,
    Receive,
    Report,
    Send,
    Sharing,
    Train,
    run_here,
)  # fmt: skip
from decentralizepy.commands.keywords import parse
from decentralizepy.errors import ConfigError, RunError

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = (REPOSITORY / "run_configuration" / "digits_kshard2_mlp.ini").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    ("value", "uids"),
    [([0, 3], {0, 3}), ((0, 3), {0, 3}), ({3}, {3}), (range(2), {0, 1}), ("[0,3]", {0, 3})],
)
def test_the_nodes_that_are_named_are_evaluated(value: Any, uids: set[int], cache: Path) -> None:
    found = run_here(DIGITS, 4, 1, train_evaluate_after=0, cache_dir=cache, evaluated_nodes=value)
    assert {row["uid"] for row in found.records if "test_acc" in row} == uids


def test_values_reach_their_flags() -> None:
    given = {"set": ["A.b=1", "A.c=2"], "cache_dir": Path("-c"), "averaging_rounds": 3}
    args = parse(["-is=4"], given | {"digests": True, "resume": False, "simulate": None})
    assert (args.set, args.cache_dir) == (["A.b=1", "A.c=2"], Path("-c"))
    assert (args.averaging_steps, args.iterations) == (3, 4)
    assert args.digests and not args.resume and args.simulate is None
    assert parse([], {"set": "A.b=1"}).set == ["A.b=1"]
    assert parse([], {"reset_optimizer": False, "test_after": False}).reset_optimizer == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"evaluated_nodes": []}, "[]: all, a number, or uids as [0,3,7] are expected"),
        ({"iter": 7}, "run_here has no option 'iter' (did you mean 'iterations'?)"),
        ({"test": 2}, "no option 'test' (did you mean 'test_after' or 'test_samples'?)"),
        ({"tset_after": 2}, "no option 'tset_after' (did you mean 'test_after'?)"),
        ({"ta": 2}, "no option 'ta' (did you mean 'test_after'?)"),
        ({"worker": 2}, "run_here has no option 'worker'"),
        ({"help": True}, "run_here has no option 'help'"),
        ({"workers": 2}, "workers has no effect here: all nodes run in this process"),
        ({"graph_file": "a.edges"}, "graph_file has no effect here: the graph is the second"),
        ({"digests": 7}, "digests = 7: True or False is expected"),
        ({"digests": [True]}, "digests = [True]: True or False is expected"),
        ({"test_after": [1, 2]}, "test_after = [1, 2]: one value is expected"),
        ({"test_after": "often"}, "-ta/--test_after: invalid int value: 'often'"),
        ({"on_loss": "weep"}, "invalid choice: 'weep'"),
        ({"on_loss": "wait", "checkpoint_after": 2}, "nothing is started again; run it anew"),
    ],
)
def test_what_a_run_here_does_not_take_is_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        run_here(DIGITS, 4, 1, **options)
    assert said in str(raised.value)


@pytest.mark.parametrize("graph", [0, -3, 2.0, None, [(0, 1)]])
def test_what_is_no_graph_is_told(graph: Any) -> None:
    with pytest.raises(ConfigError, match=r"^graph = .*: a Graph, a graph file or a number of"):
        run_here(DIGITS, graph, 1)


def test_a_number_of_nodes_may_be_of_any_kind(cache: Path) -> None:
    found = run_here(DIGITS, np.int64(3), 1, test_after=0, cache_dir=cache)
    assert found.rows.keys() == {0, 1, 2}


@pytest.mark.parametrize(
    ("sharing", "said"),
    [
        (Sharing(), "a subclass of Sharing, or a function that makes one"),
        (3, "sharing = 3: a subclass of Sharing, or a function that makes one"),
        (lambda: 3, "makes what has no begin, outgoing, merge, mixing: subclass Sharing"),
        (dict, "sharing = <class 'dict'> makes what has no begin, outgoing, merge, mixing"),
    ],
)
def test_what_makes_no_sharing_method_is_told(sharing: Any, said: str, cache: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        run_here(DIGITS, 3, 1, sharing=sharing, cache_dir=cache)


def test_no_value_ends_the_process() -> None:
    """Whatever argparse makes of it."""
    with pytest.raises(ConfigError, match="whole numbers are expected"):
        parse(["-ps", "many"], {})


# ----------------------------------------------------------------------- what is worth telling


class Saved(Node):
    """Node 0 is never saved, and the others if they are of a class that says so."""

    needs_graph, saves = False, True

    def program(self) -> Any:
        for t in self.rounds():
            yield Train(t)
            yield Report(t)
            if self.saves and (self.uid or t > 3):
                yield Checkpoint(t)


class NeverSaved(Saved):
    saves = False


def test_checkpoints_that_nobody_can_resume_from_are_told(cache: Path) -> None:
    options: dict[str, Any] = {"checkpoint_after": 2, "test_after": 0, "cache_dir": cache}
    found = run_here(DIGITS, 3, 5, node=Saved, train_evaluate_after=0, **options)
    assert found.notes == [
        f"the checkpoint after iteration {t} is incomplete: node 0 did not save" for t in (2, 4)
    ]
    found = run_here(DIGITS, 3, 5, node=NeverSaved, train_evaluate_after=0, **options)
    assert found.notes == ["no checkpoint was saved: the node program yields no Checkpoint"]


def test_where_a_resumed_run_begins_is_told(cache: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"log_dir": tmp_path / "log", "cache_dir": cache, "test_after": 0}
    options |= {"checkpoint_after": 3, "train_evaluate_after": 0}
    run_here(DIGITS, 3, 2, **options)
    found = run_here(DIGITS, 3, 5, resume=True, **options)
    assert found.notes == ["no checkpoint is complete: starting from the beginning"]
    found = run_here(DIGITS, 3, 6, resume=True, **options)
    assert found.notes == ["resuming after iteration 3"]


@pytest.mark.parametrize("place", ["", "working"])
@pytest.mark.parametrize("module", ["plain_method", "a_package.method", "folder.method"])
def test_a_module_that_was_changed_is_read_anew(
    module: str, place: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it lies beside the INI or in the working directory, also in a package."""
    monkeypatch.chdir(tmp_path)
    ini = tmp_path / place / "own.ini"
    ini.parent.mkdir(exist_ok=True)
    method = "decentralizepy.sharing.Sharing\nsharing_class = Sharing"
    assert method in DIGITS
    ini.write_text(DIGITS.replace(method, f"{module}\nsharing_class = Fixed"))
    path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    if module.startswith("a_package"):
        (path.parent / "__init__.py").touch()
    for value in ("1", "22"):
        path.write_text(FIXED.format(value))
        found = run_here(ini, 3, 1, test_after=0, train_evaluate_after=0, cache_dir=cache)
        assert found.rows[0][0] == float(value)
    assert module not in sys.modules


FIXED = """
from decentralizepy import Sharing
class Fixed(Sharing):
    def merge(self, x, heard, ctx):
        return x * 0 + {}
"""


class Dawdling(Node):
    """Counts the runs that are under way at a time."""

    needs_graph, running, most = False, 0, 0

    def program(self) -> Any:
        kind = type(self)
        kind.running += 1
        kind.most = max(kind.most, kind.running)
        time.sleep(0.2)
        kind.running -= 1
        for t in self.rounds():
            yield Report(t)


def test_runs_of_several_threads_take_turns(cache: Path) -> None:
    """They would change the number of threads, the collector and the modules under each other."""
    before = gc.get_threshold()
    with ThreadPoolExecutor(3) as pool:
        each = [
            pool.submit(run_here, DIGITS, 1, 1, node=Dawdling, cache_dir=cache) for _ in range(3)
        ]
        assert [len(one.result().records) for one in each] == [1, 1, 1]
    assert Dawdling.most == 1 and gc.get_threshold() == before


# ------------------------------------------------------------------------------ who is lost

EQUAL = REPOSITORY / "run_configuration" / "simulate_equal.json"


def run_with_a_kill(kill: Any, folder: Path, cache: Path, **options: Any) -> Outcome:
    faults = folder / "faults.json"
    faults.write_text(json.dumps([{"kill": kill, "round": 3}]))
    options |= {"faults": faults, "test_after": 5, "train_evaluate_after": 0, "cache_dir": cache}
    return run_here(DIGITS, 6, **{"iterations": 5} | options)


@pytest.mark.parametrize("simulate", [None, EQUAL])
def test_a_node_that_is_lost_ends_the_run(simulate: Any, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(RunError, match=r"node 3 was lost in iteration 3$"):
        run_with_a_kill({"node": 3}, tmp_path, cache, simulate=simulate)


@pytest.mark.parametrize("simulate", [None, EQUAL])
def test_a_run_goes_on_without_a_lost_node(simulate: Any, tmp_path: Path, cache: Path) -> None:
    """Also one that is resumed from what was saved without it."""
    options: dict[str, Any] = {"simulate": simulate, "on_loss": "drop", "checkpoint_after": 4}
    options |= {"log_dir": tmp_path / "log"}
    found = run_with_a_kill({"node": 3}, tmp_path, cache, **options)
    assert re.search(r"node 3 was lost in iteration 3.*: left before iteration \d", *found.notes)
    assert found.rows.keys() == {0, 1, 2, 4, 5}
    assert {row["uid"] for row in found.records if row["iteration"] == 5} == found.rows.keys()
    found = run_with_a_kill({"node": 3}, tmp_path, cache, **options, iterations=6, resume=True)
    assert found.notes == ["resuming after iteration 4"] and found.rows.keys() == {0, 1, 2, 4, 5}


def test_the_last_node_is_not_dropped(tmp_path: Path, cache: Path) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps([{"kill": {"node": uid}, "round": 2} for uid in range(3)]))
    with pytest.raises(RunError, match=r"was lost in iteration 2; no node is left$"):
        run_here(DIGITS, 3, 4, faults=faults, on_loss="drop", cache_dir=cache)


@pytest.mark.parametrize("kill", [{"machine": 0}, {"worker": [0, 0]}])
def test_no_fault_kills_the_process_of_a_notebook(kill: Any, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"fault 1 \(kill\) would end this very process"):
        run_with_a_kill(kill, tmp_path, cache)


# ---------------------------------------------------------------- the program of a node


class Star(Node):
    servers, needs_graph = 1, False

    def program(self) -> Any:
        everybody = list(range(self.n))
        for t in self.rounds():
            if self.is_server:
                yield Send([(everybody, Message({"x": self.x}))], (t, 0))
                heard = yield Receive(everybody, (t, 1))
                self.x = sum(message["x"] for message in heard) / self.n
            else:
                (self.x,) = (message["x"] for message in (yield Receive([-1], (t, 0))))
                yield Train(t)
                yield Send([([-1], Message({"x": self.x}))], (t, 1))
            yield Report(t)


class Below(Star):
    packs = False


def alone(node: Node) -> Any:
    for t in node.rounds():
        yield Train(t)


@pytest.mark.parametrize("node", [Star, Below, lambda: Star()], ids=["class", "below", "function"])
def test_a_class_that_is_given_has_its_servers(node: Any, cache: Path) -> None:
    found = run_here(DIGITS, 4, 2, node=node, cache_dir=cache, test_after=2, working_rate=0.5)
    assert set(found.rows) == {-1, 0, 1, 2, 3}
    assert any("-wr 0.5 has no effect" in note for note in found.notes)


def test_servers_are_those_of_the_class_and_not_of_the_driver(cache: Path) -> None:
    made = type("Alone", (Node,), {"program": alone})
    found = run_here(DIGITS, 4, 1, node=made, cache_dir=cache, eval_file="testingFederated.py")
    assert set(found.rows) == {0, 1, 2, 3}


def test_a_class_that_is_given_is_asked_what_it_uses() -> None:
    compressed = DIGITS.replace(
        "sharing_class = Sharing", "sharing_class = Sharing\ncompression = fp16"
    )
    with pytest.raises(ConfigError, match="Below sends numbers that must arrive as they are"):
        run_here(compressed, 4, 1, node=Below)
    with pytest.raises(ConfigError, match=r"Odd.servers = '1': int is expected"):
        run_here(DIGITS, 4, 1, node=type("Odd", (Star,), {"servers": "1"}))


@pytest.mark.parametrize("node", [Path, Star(), lambda: 3], ids=["class", "object", "function"])
def test_what_makes_no_node_is_told(node: Any) -> None:
    with pytest.raises(ConfigError, match="a subclass of Node, or a function that makes one"):
        run_here(DIGITS, 4, 1, node=node)
