"""One node that hears very many: a server's round, and `Receive` from many senders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import engine, loops
from benchmarks.load import Load
from benchmarks.result import Result, medians

_CLIENTS = 1000
#: microseconds of bookkeeping a message
_BOUND = 20.0
#: what a sender takes must not grow with their number, few and many. Between the second two, most
#: likely, all that a worker keeps of them no longer fits a core's second cache
_SENDERS = ((50, 200), (350, 1400), (1400, 5600))
#: what four times as many senders may take more, each
_LINEAR = 1.25
#: a run is as long whatever the number of senders
_MESSAGES = 168_000
_ITERATIONS = 30
#: often enough for one sample of each sender
_DATASET = {"dataset_package": "many_digits", "dataset_class": "ManyDigits", "times": 4}


def _load(nodes: int) -> Load:
    return Load("star.Tiny", nodes, 1, 1)


def seconds(folder: Path, program: str, clients: int, iterations: int = _ITERATIONS) -> float:
    """Seconds of an iteration on one worker."""
    more = {"NODE": {"node_package": "star", "node_class": program}, "DATASET": _DATASET}
    return engine.seconds(folder, _load(clients), 1, iterations, degree=0, more=more)


def server(folder: Path, repeats: int) -> Iterator[Result]:
    """A round of a server with a thousand clients, without what the program itself computes."""
    found = medians(
        repeats,
        {
            "engine": lambda: seconds(folder, "Averaging", _CLIENTS),
            "program": lambda: loops.seconds("average", _load(_CLIENTS), 1, 1, _ITERATIONS),
        },
    )
    messages = 2 * _CLIENTS
    each = 1e6 * (found["engine"] - found["program"]) / messages
    detail = (
        f"{1e3 * found['engine']:.1f} ms a round of {messages} messages, "
        f"{1e3 * found['program']:.1f} ms of it arithmetic"
    )
    yield Result(f"server, {_CLIENTS} clients: us of bookkeeping a message", each, _BOUND, detail)


def receive(folder: Path, repeats: int) -> Iterator[Result]:
    """What each of many senders takes, against each of few."""
    counts = sorted({senders for pair in _SENDERS for senders in pair})
    found = medians(
        repeats,
        {
            str(senders): lambda senders=senders: seconds(
                folder, "Gathering", senders, _MESSAGES // senders
            ) / senders
            for senders in counts
        },
    )  # fmt: skip
    us = {senders: 1e6 * found[str(senders)] for senders in counts}
    for few, many in _SENDERS:
        name = f"Receive from {many} senders / from {few}, each"
        detail = f"{us[many]:.1f} us a sender of {many}, {us[few]:.1f} us of {few}"
        yield Result(name, us[many] / us[few], _LINEAR, detail)


def results(folder: Path, repeats: int) -> Iterator[Result]:
    """All rows of this file."""
    yield from server(folder, repeats)
    yield from receive(folder, repeats)
