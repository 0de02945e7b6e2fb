"""NETWORK_EMULATION: what it means, what is measured, and when that is not what was asked for."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrator_fakes import REPOSITORY, values

from decentralizepy.errors import ConfigError
from orchestrator.config import Config
from orchestrator.emulation import measure, service
from orchestrator.emulation.access import ssh_options
from orchestrator.emulation.measure import Found, Measured
from orchestrator.emulation.settings import Emulation, Link, bits_per_second, fraction
from orchestrator.planning.inputs import parse_config
from orchestrator.running.ledger import Ledger

PROBE = REPOSITORY / "orchestrator" / "emulation" / "probe.py"
HOSTS = {"BACKEND": "ssh", "HOSTS": ["a", "b", "c"], "NB_MACHINE": 3}
NAMES = ["a", "b", "c"]


def config(emulation: Any, **changes: Any) -> Config:
    given_ = values(**HOSTS | {"NETWORK_EMULATION": emulation} | changes)
    return parse_config(json.dumps(given_), Path("my.json"))


def emulation(**asked: Any) -> Emulation:
    found = config(asked).NETWORK_EMULATION
    assert found is not None
    return found


# ---------------------------------------------------------------------- what it means


@pytest.mark.parametrize(
    ("asked", "changes", "told"),
    [
        ({}, {}, "asks for nothing"),
        ({"pairs": []}, {}, "asks for nothing"),
        ({"delay": "20"}, {}, "NETWORK_EMULATION.delay = \"20\": it is written as 20ms"),
        ({"delay": "20ms; reboot"}, {}, "it is written as 20ms"),
        ({"rate": "1mbps"}, {}, "it is written as 100mbit"),
        ({"rate": "0mbit"}, {}, "at least 8kbit"),
        ({"loss": "100%"}, {}, "nothing would arrive"),
        ({"speed": 1}, {}, "NETWORK_EMULATION.speed: there is no such key"),
        ({"delay": "1ms", "pairs": [{"between": [0, 3]}]}, {}, "only machines 0 to 2"),
        ({"delay": "1ms", "pairs": [{"between": [1, 1]}]}, {}, "[1, 1] is one machine"),
        ({"delay": "1ms"}, {"NB_MACHINE": 1}, "set NB_MACHINE to 2 or more"),
        ({"delay": "1ms"}, {"BACKEND": "local"}, "SIMULATE"),
        ({"delay": "1ms"}, {"BACKEND": "slurm"}, "needs root on the nodes"),
        ({"delay": "1ms"}, {"ON_LOSS": "wait", "CHECKPOINT_AFTER": 1}, "ON_LOSS = 'wait'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(asked: Any, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(asked, **changes)
    assert told in str(error.value)


def test_pairs_change_the_links_that_they_name() -> None:
    pairs = [
        {"between": [0, 2], "delay": "50ms"},
        {"between": [1, 2], "loss": "1%", "one_way": True},
    ]
    links = emulation(delay="20ms", rate="1gbit", pairs=pairs).links(3)
    assert {(one.source, one.target): (one.delay, one.rate, one.loss) for one in links} == {
        (0, 1): ("20ms", "1gbit", None), (1, 0): ("20ms", "1gbit", None),
        (0, 2): ("50ms", "1gbit", None), (2, 0): ("50ms", "1gbit", None),
        (1, 2): ("20ms", "1gbit", "1%"), (2, 1): ("20ms", "1gbit", None),
    }  # fmt: skip


def test_what_nothing_is_asked_of_stays_as_it_is() -> None:
    (link,) = emulation(pairs=[{"between": [2, 0], "rate": "5mbit", "one_way": True}]).links(3)
    assert link == Link(2, 0, rate="5mbit")
    assert service.constraint(link) == {
        "source": 2, "target": 0, "delay": "0ms", "rate": "5mbit", "loss": None,
    }  # fmt: skip


@given(st.integers(2, 12), st.data())
def test_every_link_is_there_once(machines: int, data: st.DataObject) -> None:
    ends = st.lists(st.integers(0, machines - 1), min_size=2, max_size=2, unique=True)
    pairs = data.draw(st.lists(ends, max_size=5))
    asked = emulation(delay="1ms")
    many = Emulation.model_validate(
        {**asked.model_dump(), "pairs": [{"between": pair, "rate": "1mbit"} for pair in pairs]}
    )
    links = many.links(machines)
    assert len({(one.source, one.target) for one in links}) == len(links)
    assert len(links) == machines * (machines - 1)
    named = {frozenset(pair) for pair in pairs}
    assert {frozenset((one.source, one.target)) for one in links if one.rate} == named


def test_units_are_those_of_tc() -> None:
    assert [bits_per_second(rate) for rate in ("8kbit", "1.5mbit", "10gbit")] == [8e3, 1.5e6, 1e10]
    assert fraction("0.1%") == pytest.approx(0.001)
    assert Link(0, 1, delay="2.5ms").delay_ms == 2.5


def test_the_plan_tells_of_it() -> None:
    asked = emulation(
        delay="20ms", allow_missing=True, pairs=[{"between": [0, 2], "rate": "1mbit"}]
    )
    assert list(asked.lines()) == [
        "between all machines delay 20ms",
        "machines 0 and 2 rate 1mbit",
        "the run begins also where some of it is missing",
    ]


# ---------------------------------------------------------------------- judged


def seen(link: Link, trip: float, rate: float | None, arrived: int = 0, *queues: str) -> Found:
    one = Measured(link, trip, rate, measure.datagrams(link.lost), arrived)
    return Found((one,), (queues, ("htb", "netem")))


def absent(found: Found, *links: Link) -> list[str]:
    return measure.missing(found, links, NAMES)


def test_a_kernel_without_netem_is_named() -> None:
    link = Link(0, 1, delay="20ms")
    told = absent(seen(link, 20.1, None, 0, "htb"), link)
    assert told == ["a: the kernel has no netem, so that there is no delay"]
    assert absent(seen(link, 20.1, None, 0, "htb", "netem"), link) == []
    rate = Link(0, 1, rate="1mbit")
    assert absent(seen(rate, 0.1, 1e6, 0, "htb"), rate) == []  # that needs none
    assert "no htb" in absent(seen(rate, 0.1, 1e6, 0, "noqueue"), rate)[0]


def test_both_directions_are_in_a_round_trip() -> None:
    there, back = Link(0, 1, delay="20ms"), Link(1, 0, delay="10ms")
    assert absent(seen(there, 28.0, None, 0, "htb", "netem"), there, back) == []
    (told,) = absent(seen(there, 21.0, None, 0, "htb", "netem"), there, back)
    assert told == "from a to b a round trip takes 21 ms in place of 30 ms"


def test_a_rate_that_is_not_kept_is_told_and_a_slow_network_noted() -> None:
    link = Link(0, 1, rate="100mbit")
    (told,) = absent(seen(link, 0.1, 940e6, 0, "htb"), link)
    assert told == "from a to b the rate is 940 Mbit/s in place of 100 Mbit/s"
    slow = seen(link, 0.1, 10e6, 0, "htb")
    assert absent(slow, link) == []
    assert measure.slower(slow, NAMES) == ["from a to b only 10 of 100 Mbit/s were reached"]


@pytest.mark.parametrize(("loss", "certain"), [("10%", True), ("1%", True), ("0.1%", False)])
def test_no_loss_is_told_where_that_is_no_chance(loss: str, certain: bool) -> None:
    """The chance that none of n is lost is (1 - p)^n."""
    link = Link(0, 1, loss=loss)
    count = measure.datagrams(link.lost)
    assert (((1 - link.lost) ** count) < 1e-6) is certain and count <= measure.MOST_DATAGRAMS
    all_there = seen(link, 0.1, None, count, "htb", "netem")
    assert bool(absent(all_there, link)) is certain
    assert absent(seen(link, 0.1, None, count - 1, "htb", "netem"), link) == []


# ---------------------------------------------------------------------- measured


def test_the_program_that_measures_runs_against_itself() -> None:
    """Two of them, over the loopback: a short round trip, a rate, and no datagram lost."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    links = [Link(0, 1, rate="50mbit", loss="10%"), Link(1, 0, delay="1ms")]
    addresses = ["127.0.0.1", "127.0.0.2"]
    commands = [
        subprocess.Popen([sys.executable, str(PROBE), json.dumps(request)], stdout=subprocess.PIPE)
        for request in measure.requests(addresses, min(port, 65000), links)
    ]
    answers = [json.loads(command.communicate(timeout=60)[0]) for command in commands]
    first, second = measure.found(answers, links).links
    assert first.round_trip_ms > 0 and first.rate is not None and first.rate > 50e6
    assert first.datagrams == measure.datagrams(0.1) and first.arrived > 0.9 * first.datagrams
    assert (second.rate, second.datagrams) == (None, 0)


# ---------------------------------------------------------------------- reached


def test_the_gate_is_reached_with_the_same_options() -> None:
    assert ssh_options(["-F", "my file"], "") == ["-F", "my file"]
    *given_, last = ssh_options(["-F", "my file"], "me@gate")
    assert given_ == ["-F", "my file", "-o"]
    command = shlex.split(last.removeprefix("ProxyCommand="))
    assert command == ["ssh", "-o", "BatchMode=yes", "-F", "my file", "-W", "%h:%p", "me@gate"]


# ---------------------------------------------------------------------- the ledger


def test_the_ledger_says_what_is_emulated(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert service.emulated(ledger.path) == []
    ledger.append("emulating", hosts=[{"name": "a"}, {"name": "b"}])
    assert [host["name"] for host in service.emulated(ledger.path)] == ["a", "b"]
    ledger.append("unemulated", left=["b"])
    assert [host["name"] for host in service.emulated(ledger.path)] == ["b"]
    ledger.append("unemulated", left=[])
    assert service.emulated(ledger.path) == []


def test_what_cannot_be_removed_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, said = Ledger(tmp_path / "ledger.jsonl"), []
    ledger.append("emulating", hosts=[{"name": "a"}, {"name": "b"}])
    answers = [{"left": ["b"]}, {"left": []}]
    monkeypatch.setattr(service, "ask", lambda request, seconds: answers.pop(0))
    service.unemulate(ledger, said.append)
    assert "emulated on b" in said[0] and f"clean {tmp_path}" in said[0]
    service.unemulate(ledger, said.append)
    service.unemulate(ledger, said.append)  # nothing is emulated: nobody is asked
    assert len(said) == 1 and answers == []
