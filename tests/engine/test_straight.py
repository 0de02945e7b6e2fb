"""What a program alone waits for goes past its mailbox, and nobody can tell.

The same mail is heard by who is waiting for it as it comes, by who asks later, and by a node with
another program, where nothing goes past the mailbox.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from launching import Experiment
from teams import Script, Scripted, scripted

from decentralizepy.graphs.generators import ring
from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.effects import ANY, Forget, Receive, Send, Sleep
from decentralizepy.node.mail import Mail
from decentralizepy.node.node import Node, Program


class Newest(Scripted):
    mail = Mail(newest=1)


def says(node: Node) -> Program:
    """Two messages, a second apart."""
    yield Send([([1], Message({}, {"said": "first"}))], (3, 0))
    yield Sleep(1.0)
    yield Send([([1], Message({}, {"said": "second"}))], (5, 0))


def idles(node: Node) -> Program:
    yield Sleep(9.0)


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(4), cache)


def heard_by(
    experiment: Experiment, wanted: list[Any], late: bool, several: bool, kind: type[Scripted]
) -> list[list[Any]]:
    """What node 1 hears of `says` as it yields ``wanted``, from the beginning or when all is said;
    ``several`` says whether it has a second program."""
    heard: list[list[Any]] = []

    def hears(node: Node) -> Program:
        for effect in wanted if not late else [Sleep(2.0), *wanted]:
            answer = yield effect
            if isinstance(effect, Receive):
                heard.append([one if isinstance(one, Missing) else one.round for one in answer])

    path = experiment.folder / "simulation.json"
    path.write_text(json.dumps({"links": {"latency_s": 0.01}}))
    programs: list[Script] = [hears, idles] if several else [hears]
    scripted(experiment, {0: says, 1: programs}, "--simulate", str(path), kind=kind)
    return heard


ways = pytest.mark.parametrize(
    ("late", "several"), [(False, False), (True, False), (False, True), (True, True)],
    ids=["waits", "late", "waits, two programs", "late, two programs"],
)  # fmt: skip


@ways
@pytest.mark.parametrize(("kind", "left"), [(Newest, []), (Scripted, [(3, 0)])])
def test_newer_mail_pushes_older_out_though_it_is_heard_at_once(
    experiment: Experiment, kind: type[Scripted], left: list[Any], late: bool, several: bool
) -> None:
    wanted = [Receive([0], (5, 0)), Receive(ANY, ANY, deadline=0.5)]
    assert heard_by(experiment, wanted, late, several, kind) == [[(5, 0)], left]


@ways
def test_what_was_forgotten_is_not_heard(experiment: Experiment, late: bool, several: bool) -> None:
    wanted = [Forget((4, 0)), Receive([0], (3, 0), deadline=0.5), Receive([0], (5, 0))]
    heard = heard_by(experiment, wanted, late, several, Scripted)
    assert heard == [[Missing(0, "deadline")], [(5, 0)]]
