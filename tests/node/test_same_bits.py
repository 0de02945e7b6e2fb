"""Every program: the same bits wherever its nodes run, or again and again in simulated time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from launching import Experiment, digests
from programs import ASYNCHRONOUS, NODES, SYNCHRONOUS, equal, experiment, here, simulation
from teams import Team

ITERATIONS = 5
FLAGS = ("-ta", "0", "-tea", "0", "--digests")


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_a_synchronous_program_gives_the_same_bits_everywhere(
    name: str, tmp_path: Path, cache: Path
) -> None:
    one = experiment(tmp_path, cache, name)
    Team(one, ITERATIONS, *FLAGS, name="alone").run()
    expected = digests(one.folder / "alone")
    servers = name in ("fedavg", "stc")  # the sampler reports nothing
    assert len(expected) == ITERATIONS * (NODES + servers)
    assert len({digest for (t, _), digest in expected.items() if t == ITERATIONS}) > 1
    for layout in ((4,), (1, 1)):
        Team(one, ITERATIONS, *FLAGS, layout=layout, name=f"team{layout}").run()
        assert digests(one.folder / f"team{layout}") == expected
    saving = (*FLAGS, "--checkpoint_after", "3")
    Team(one, 4, *saving, layout=(2,), name="half").run()
    Team(one, ITERATIONS, *saving, layout=(2,), name="rest", restore=("half", 3)).run()
    assert digests(one.folder / "rest") == {
        (t, uid): digest for (t, uid), digest in expected.items() if t > 3
    }


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_an_asynchronous_program_is_repeatable_in_simulated_time(
    name: str, tmp_path: Path, cache: Path
) -> None:
    one = experiment(tmp_path, cache, name)
    slow = [0.1] * (NODES - 1) + [0.5]
    flags = {"simulate": simulation(one, slow, 0.01), "checkpoint_after": 3, "test_after": 0}
    first = here(one, "first", 6, **flags)
    assert equal(first, here(one, "again", 6, **flags))
    here(one, "halves", 4, **flags)
    assert equal(first, here(one, "halves", 6, resume=True, **flags))
    other = here(one, "other", 6, **flags | {"simulate": simulation(one, 0.1, 0.01)})
    assert not equal(first, other), "who is late changes what is heard"


def slow_ports(one: Experiment, queue: str) -> dict[str, Any]:
    """Flags of a run whose messages take so long to leave that some come too late."""
    costs = [0.1] * (NODES - 1) + [0.5]
    bandwidth = 50_000 if queue == "edge" else 150_000
    links = simulation(one, costs, 0.01, bandwidth_Bps=bandwidth, queue=queue)
    return {"simulate": links, "checkpoint_after": 3, "test_after": 0}


@pytest.mark.parametrize("queue", ["node", "edge"])
def test_who_is_late_is_late_in_a_resumed_run_too(queue: str, tmp_path: Path, cache: Path) -> None:
    """A port that was busy as its node was saved is as busy in the resumed run."""
    one = experiment(tmp_path, cache, "epidemic_timeout")
    flags = slow_ports(one, queue)
    whole = here(one, "whole", 6, **flags)
    here(one, "halves", 4, **flags)
    assert equal(whole, here(one, "halves", 6, resume=True, **flags))


def test_a_note_says_where_a_resumed_run_may_hear_others(tmp_path: Path, cache: Path) -> None:
    """A port that nodes share can't be saved with one of them."""
    one = experiment(tmp_path, cache, "epidemic_timeout")
    (note,) = here(one, "shared", 4, **slow_ports(one, "machine")).notes
    assert note.startswith("EpidemicLearning has deadlines") and "asynchronous = True" in note
    assert here(one, "own", 4, **slow_ports(one, "node")).notes == []
