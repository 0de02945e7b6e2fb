"""The flags of ``decentralizepy run``: the reference's, long and short, and a few of our own."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any, Final, Literal

from decentralizepy.drivers import DEFAULT, DRIVERS
from decentralizepy.settings import LEVELS, ON_LOSS, Resilience

DEFAULT_GRAPH: Final = Path("36_nodes.edges")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of a run."""
    add_experiment_arguments(parser)
    add = parser.add_argument
    add(
        "-cf",
        "--config_file",
        type=Path,
        default=Path("config.ini"),
        metavar="INI",
        help="what to train (default: %(default)s)",
    )
    minute = datetime.datetime.now().isoformat(timespec="minutes")
    add(
        "-mid",
        "--machine_id",
        type=int,
        metavar="M",
        help="this machine's entry in the address file (default: the entry whose address this "
        "machine has)",
    )
    add(
        "-ld",
        "--log_dir",
        type=Path,
        default=Path(minute),
        metavar="DIR",
        help="where this machine's records and logs go (default: ./<date and minute>)",
    )
    add(
        "-wsd",
        "--weights_store_dir",
        type=Path,
        metavar="DIR",
        help="where final weights go (default: the log folder)",
    )
    add(
        "-is",
        "--iterations",
        type=int,
        default=1,
        metavar="T",
        help="training iterations (default: %(default)s)",
    )
    add(
        "-ll",
        "--log_level",
        default="INFO",
        metavar="LEVEL",
        help=f"one of {', '.join(LEVELS)} (default: %(default)s)",
    )
    add(
        "-ta",
        "--test_after",
        type=int,
        default=5,
        metavar="T",
        help="test at iterations 1, T, 2T, ... and the last; 0: never (default: %(default)s)",
    )
    add(
        "-tea",
        "--train_evaluate_after",
        type=int,
        default=1,
        metavar="T",
        help="evaluate the local training loss at 1, T, 2T, ... and the last; 0: never "
        "(default: %(default)s)",
    )
    add(
        "--evaluated_nodes",
        type=_evaluated_nodes,
        default="all",
        metavar="NODES",
        help="which nodes are evaluated: all, a number of nodes drawn at random, or uids as "
        "[0,3,7] (default: %(default)s)",
    )
    add(
        "--test_samples",
        type=int,
        metavar="N",
        help="how many samples of the test set they are tested on (default: all)",
    )
    add(
        "-ro",
        "--reset_optimizer",
        type=int,
        choices=(0, 1),
        default=1,
        help="1: discard momentum and other optimizer state after every iteration "
        "(default: %(default)s)",
    )
    add(
        "-sm",
        "--server_machine",
        type=int,
        default=0,
        metavar="M",
        help="the machine that runs the servers of a federated program, or its central peer "
        "sampler (default: %(default)s)",
    )
    add(
        "-sr",
        "--server_rank",
        type=int,
        default=-1,
        metavar="R",
        help="number of the first server: always -1, the next ones are -2, ...; no effect "
        "without servers (default: %(default)s)",
    )
    add(
        "-wr",
        "--working_rate",
        type=float,
        metavar="F",
        help="the share of clients that take part in each iteration of a federated program "
        "(default: working_rate in [NODE], else 1)",
    )
    add(
        "-as",
        "--averaging_steps",
        "--averaging_rounds",  # the reference's name
        type=int,
        default=1,
        metavar="K",
        help="gossip rounds per training iteration (default: %(default)s)",
    )
    add(
        "--workers",
        type=int,
        metavar="W",
        help="processes on this machine, at most one for each node (default: as many as CPUs "
        "allotted; 1 on a GPU and with --simulate)",
    )
    add(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="threads per worker; more than 1 changes the last bits (default: 1)",
    )
    add("--device", default="cpu", help="cpu, cuda, or cuda:1 and so on (default: %(default)s)")
    add(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where prepared data sets are kept (default: ~/.cache/decentralizepy)",
    )
    add(
        "--checkpoint_after",
        type=int,
        default=0,
        metavar="T",
        help="save all nodes every T iterations, to --resume from; 0: never (default: %(default)s)",
    )
    add(
        "--resume",
        action="store_true",
        help="resume the run in the log folder from its newest complete checkpoint",
    )
    add(
        "--on_loss",
        choices=ON_LOSS,
        default="fail",
        help="when a worker or machine is lost: end the run, continue without its nodes, or go "
        "back to the newest checkpoint and wait for it (needs --checkpoint_after) "
        "(default: %(default)s)",
    )
    add(
        "--wait_limit",
        type=float,
        default=Resilience.wait_limit,
        metavar="S",
        help="with --on_loss wait: seconds a lost machine has to come back (default: %(default)g)",
    )
    add(
        "--start_timeout",
        type=float,
        default=Resilience.start_timeout,
        metavar="S",
        help="seconds that machines wait for one another at the start (default: %(default)g)",
    )
    add(
        "--progress_limit",
        type=float,
        default=Resilience.progress_limit,
        metavar="S",
        help="a worker that makes no progress for S seconds counts as lost; must be longer than "
        "the longest local training (default: %(default)g)",
    )
    add(
        "--usage_after",
        type=float,
        default=0.0,
        metavar="S",
        help="write CPU, memory and network of this machine every S seconds; 0: never (default: "
        "%(default)g)",
    )
    add(
        "--key",
        type=Path,
        metavar="FILE",
        help="the run key, if there is no run.key in the log folder or the one above "
        "('decentralizepy keys' makes one)",
    )
    add(
        "--modules",
        nargs="+",
        default=[],
        metavar="FILE",
        help="further files beside the INI that your modules need, but do not import: kept with "
        "the run, and the same on all machines",
    )
    add(
        "--digests",
        action="store_true",
        help="write the SHA-256 of every node's parameters after every iteration",
    )
    add(
        "--simulate",
        type=Path,
        metavar="JSON",
        help="calculate time from the links and compute costs of a file "
        "(docs/simulated_time.md); all nodes run in one worker",
    )
    add(
        "--faults",
        type=Path,
        metavar="JSON",
        help="a plan of faults to inject: kills, slow links, partitions (docs/simulated_time.md)",
    )


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what experiment it is: also those of ``check``."""
    add_set_argument(parser)
    add = parser.add_argument
    add(
        "-gf",
        "--graph_file",
        type=Path,
        default=DEFAULT_GRAPH,
        metavar="GRAPH",
        help="the communication graph; not needed if node_class or graph_class of the INI needs "
        "none (default: %(default)s)",
    )
    add(
        "-gt",
        "--graph_type",
        choices=("edges", "adjacency"),
        default="edges",
        help="format of the graph file (default: %(default)s)",
    )
    add(
        "-ps",
        "--procs_per_machine",
        action=_Counts,
        nargs="+",
        metavar="P",
        help="nodes on each machine: one number for all, or one per machine, as 4 4 8 or 4,4,8 "
        "(default: the graph's nodes, spread evenly)",
    )
    add(
        "-ms",
        "--machines",
        type=int,
        default=1,
        metavar="N",
        help="number of machines (default: %(default)s)",
    )
    add(
        "--eval_file",
        metavar="DRIVER",
        help="node program and schedule of graphs, if the INI does not name them, as a driver "
        f"of the reference system (default: {DEFAULT}): {', '.join(DRIVERS)}",
    )


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``, which every command that reads an INI has."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.key=value",
        help="set a key of the INI for this command, as OPTIMIZER_PARAMS.lr=0.05; may be "
        "repeated, and must be the same on all machines",
    )


def _evaluated_nodes(text: str) -> Literal["all"] | int | tuple[int, ...]:
    """``all``, a number, or uids in brackets; the brackets may be left out around several."""
    if text == "all":
        return "all"
    listed = text.startswith("[") and text.endswith("]")
    words = text.removeprefix("[").removesuffix("]").split(",")
    try:
        uids = [int(word) for word in words]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text:.80}: all, a number, or uids as [0,3,7] are expected"
        ) from None
    return tuple(dict.fromkeys(uids)) if listed or len(uids) > 1 else uids[0]


class _Counts(argparse.Action):
    """Whole numbers, separated by blanks or commas or both."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        words = [word for value in values for word in value.split(",")]
        try:
            counts = [int(word) for word in words if word.strip()]
        except ValueError:
            parser.error(f"argument {option}: whole numbers are expected: {' '.join(values):.80}")
        if not counts:
            parser.error(f"argument {option}: at least one number is expected")
        setattr(namespace, self.dest, counts)
