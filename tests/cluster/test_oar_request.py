"""Requests are read as OAR reads them, and what it would refuse is refused."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oar_request import Refused, parse

NODES = {
    f"{cluster}-{number}": {"cluster": cluster, "network_address": f"{cluster}-{number}", "gpus": n}
    for cluster, n in (("a", 0), ("b", 4))
    for number in (1, 2, 3)
}
PROPERTIES = ("cluster", "network_address", "gpus")


def picked(text):
    return parse(text, PROPERTIES).pick(NODES)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("nodes=2,walltime=1:0:0", ["a-1", "a-2"]),
        ("/nodes=1", ["a-1"]),
        ("{cluster='b'}/nodes=2,walltime=00:30:00", ["b-1", "b-2"]),
        ("{cluster = 'b' AND network_address IN ('a-1', 'b-3')}/nodes=1", ["b-3"]),
        ("{network_address in ('b-2', 'a-3')}/nodes=2+nodes=1", ["a-3", "b-2", "a-1"]),
        ("{(cluster='a' or gpus > 3) and not network_address='a-1'}/nodes=2", ["a-2", "a-3"]),
        ("{cluster!='a'}/host=ALL", ["b-1", "b-2", "b-3"]),
        ("{cluster='a'}/nodes=4", None),
        ("{cluster='c'}/nodes=1", None),
    ],
)  # fmt: skip
def test_the_first_nodes_that_fit_are_picked(text, nodes):
    assert picked(text) == nodes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{colour='red'}/nodes=1", 'column "colour" does not exist'),
        ("{cluster='a'/nodes=1", "syntax error"),
        ("{cluster='a' and}/nodes=1", "syntax error"),
        ("{cluster='a' cluster='b'}/nodes=1", "syntax error"),
        ("nodes=two", "syntax error"),
        ("", "syntax error"),
        ("{cluster='a'}/switch=1", "not enough resources"),
        ("nodes=1,walltime=1:2:3:4", "walltime"),
    ],
)
def test_what_cannot_be_read_is_refused(text, says):
    with pytest.raises(Refused, match=says):
        parse(text, PROPERTIES)


@given(st.integers(0, 900), st.integers(0, 59), st.integers(0, 59))
def test_walltimes_are_hours_minutes_and_seconds(hours, minutes, seconds):
    request = parse(f"nodes=1,walltime={hours}:{minutes:02}:{seconds}", PROPERTIES)
    assert request.walltime_s == hours * 3600 + minutes * 60 + seconds


@st.composite
def conditions(draw, depth=3):
    """A condition as text, and the same as a function."""
    kind = draw(st.sampled_from(["=", ">", "not", "and", "or"] if depth else ["=", ">"]))
    if kind == "=":
        cluster = draw(st.sampled_from("abc"))
        return f"cluster='{cluster}'", lambda node: node["cluster"] == cluster
    if kind == ">":
        number = draw(st.integers(-1, 5))
        return f"gpus>{number}" if number >= 0 else "gpus>=0", lambda node: node["gpus"] > number
    text, function = draw(conditions(depth=depth - 1))
    if kind == "not":
        return f"not ({text})", lambda node: not function(node)
    other, second = draw(conditions(depth=depth - 1))
    join = operator.and_ if kind == "and" else operator.or_
    return f"({text}) {kind} {other}" if kind == "or" else f"({text}) and ({other})", (
        lambda node: join(function(node), second(node))
    )


@given(conditions())
def test_conditions_mean_what_they_mean_in_sql(condition):
    text, function = condition
    (group,) = parse(f"{{{text}}}/nodes=1", PROPERTIES).groups
    for node in NODES.values():
        assert group.where(node) == function(node), text
