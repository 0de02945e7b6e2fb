"""The command ``decentralizepy``: run | check | prepare | graph."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from decentralizepy import __version__, arguments
from decentralizepy.config import read_experiment
from decentralizepy.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_RUN_FAILED,
    EXIT_USAGE,
    ConfigError,
    RunError,
)
from decentralizepy.graphs import command as graph_command

_RUN_HELP = """\
examples:
  16 nodes on this machine, over a graph:
    decentralizepy run -cf digits.ini -gf 16_4regular.edges -is 100 -ta 10 -ld my_run
  two machines of 8 nodes; on each, with its own -mid (addresses in ip.json):
    decentralizepy run -mid 0 -ms 2 -ps 8 -cf digits.ini -gf 16_4regular.edges -is 100 -ld run/machine0

exit codes: 0 done, 2 bad input, 5 the run failed, 130 interrupted
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="decentralizepy", description="Decentralized learning over any topology."
    )
    parser.add_argument("--version", action="version", version=f"decentralizepy {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="train: this machine's part of an experiment",
        description="Train this machine's nodes, together with the other machines.",
        epilog=_RUN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_arguments(run)
    run.set_defaults(function=_run)
    check = commands.add_parser("check", help="construct everything of an experiment but the data")
    check.add_argument("ini", type=Path, help="the INI file")
    arguments.add_experiment_arguments(check)
    check.set_defaults(function=_check)
    prepare = commands.add_parser("prepare", help="prepare an experiment's data set, once")
    prepare.add_argument("ini", type=Path, help="the INI file")
    prepare.add_argument("--cache-dir", type=Path, help="where prepared data sets are kept")
    prepare.set_defaults(function=_prepare)
    graph = commands.add_parser("graph", help="make, check or draw a graph")
    graph_command.add_arguments(graph)
    graph.set_defaults(function=graph_command.main)
    return parser


def _run(args: argparse.Namespace) -> int:
    from decentralizepy.runtime.machine import Supervisor

    settings = arguments.settings_of(args)
    signal.signal(signal.SIGTERM, _interrupt)
    Supervisor(settings, arguments.flags_of(args, settings)).run()
    return EXIT_OK


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _check(args: argparse.Namespace) -> int:
    """What `run` checks, and then the classes themselves, which loads torch."""
    args.config_file = args.ini
    experiment = read_experiment(args.ini)
    if args.graph_file.exists() or args.procs_per_machine:
        graph = arguments.read_graph_file(args.graph_file, args.graph_type)
        arguments.read_mapping(args, graph)
        arguments.check_driver(args, experiment, graph)
    from decentralizepy.runtime.check import construct

    for line in construct(experiment):
        print(line)
    return EXIT_OK


def _prepare(args: argparse.Namespace) -> int:
    experiment = read_experiment(args.ini)
    dataset = experiment.dataset.build()
    dataset.prepare(args.cache_dir or arguments.default_cache(), progress=print)
    print(f"{experiment.dataset.target.name}: {len(dataset.train().y)} training samples, "
          f"{len(dataset.test().y)} test samples")  # fmt: skip
    return EXIT_OK


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of the command; ends the process with its exit code."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    args = _parser().parse_args(argv)
    try:
        code = args.function(args)
    except ConfigError as error:
        code = _complain(str(error), EXIT_USAGE)
    except RunError as error:
        code = _complain(str(error), EXIT_RUN_FAILED)
    except KeyboardInterrupt:
        code = _complain("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        code = EXIT_RUN_FAILED
    raise SystemExit(code)


def _complain(message: str, code: int) -> int:
    print(f"decentralizepy: {textwrap.dedent(message)}", file=sys.stderr)
    return code
