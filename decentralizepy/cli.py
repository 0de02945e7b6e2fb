"""The command ``decentralizepy``: run | check | prepare | keys | graph | where | convert."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from decentralizepy import __version__
from decentralizepy.commands import arguments, convert, flags, where
from decentralizepy.communication.keys import make_key
from decentralizepy.config import parse_experiment, read_text
from decentralizepy.drivers import Wiring, wiring
from decentralizepy.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_RUN_FAILED,
    EXIT_USAGE,
    ConfigError,
    RunError,
)
from decentralizepy.files import write_atomic
from decentralizepy.graphs import command as graph_command
from decentralizepy.interrupts import Interrupts
from decentralizepy.overrides import read_changed
from decentralizepy.settings import transport_of
from decentralizepy.standard import open_closed

_HELP = """\
examples:
  decentralizepy graph -g Regular -n 16 -d 4 -s 1 -f 16_4regular.edges
  decentralizepy check digits.ini -gf 16_4regular.edges
  decentralizepy run -cf digits.ini -gf 16_4regular.edges -is 100 -ld my_run

Run decentralizepy COMMAND --help for details.
"""

_RUN_HELP = """\
examples:
  16 nodes on this machine, over a graph:
    decentralizepy run -cf digits.ini -gf 16_4regular.edges -is 100 -ta 10 -ld my_run
  two machines with 8 nodes each; each finds itself in ip.json (or takes -mid); the second one
  has -ld run/machine1; on a network both need run/run.key (decentralizepy keys run):
    decentralizepy run -ms 2 -ps 8 -cf digits.ini -gf 16_4regular.edges -is 100 \\
                       -ld run/machine0

exit codes: 0 done, 2 bad input, 5 the run failed, 130 interrupted
"""

_CHECK_HELP = """\
examples:
  decentralizepy check digits.ini
  decentralizepy check digits.ini -gf 16_4regular.edges -ms 2 --eval_file testingPeerSampler.py
"""

_PREPARE_HELP = """\
examples:
  decentralizepy prepare digits.ini
  decentralizepy prepare cifar10.ini --cache-dir /scratch/prepared
"""

_KEYS_HELP = """\
examples:
  decentralizepy keys my_run            # then copy my_run/run.key to all machines
  decentralizepy run -ld my_run/machine0 ...          # finds my_run/run.key
  decentralizepy run --key ~/my_run/run.key ...
"""

_GRAPH_HELP = """\
examples:
  decentralizepy graph -g Regular -n 16 -d 4 -s 1 -f 16_4regular.edges --picture 16.pdf
  decentralizepy graph --check 16_4regular.edges
"""

_WHERE_HELP = """\
examples:
  decentralizepy where digits.ini -gf 16_4regular.edges -ms 2
  decentralizepy where digits.ini -gf 16_4regular.edges -ms 2 --workers 2 --uid 11
  decentralizepy where digits.ini -ms 2 --here
"""

_CONVERT_HELP = """\
examples:
  decentralizepy convert config_cifar_sharing.ini
  decentralizepy convert config_cifar_sharing.ini -o cifar.ini

exit codes: 0 it can run (with -o: what was written can), 2 it cannot
"""


#: characters of a message about bad input
_LONGEST = 2000


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="decentralizepy",
        description="Decentralized learning over any topology.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"decentralizepy {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    run = command("run", "train this machine's part of an experiment", _RUN_HELP)
    flags.add_arguments(run)
    run.set_defaults(function=_run)
    check = command("check", "build all classes of an experiment, without data", _CHECK_HELP)
    check.add_argument("ini", type=Path, help="the INI file")
    flags.add_experiment_arguments(check)
    check.set_defaults(function=_check)
    prepare = command("prepare", "prepare an experiment's data set, once", _PREPARE_HELP)
    prepare.add_argument("ini", type=Path, help="the INI file")
    prepare.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where prepared data sets are kept (default: ~/.cache/decentralizepy)",
    )
    flags.add_set_argument(prepare)
    prepare.set_defaults(function=_prepare)
    keys = command("keys", "make the key that the machines of a run share", _KEYS_HELP)
    keys.add_argument("folder", type=Path, metavar="DIR", help="where run.key is written")
    keys.set_defaults(function=_keys)
    graph = command("graph", "make, check or draw a graph", _GRAPH_HELP)
    graph_command.add_arguments(graph)
    graph.set_defaults(function=graph_command.main)
    place = command("where", "print which machine and port each node has", _WHERE_HELP)
    place.add_argument("ini", type=Path, help="the INI file")
    flags.add_experiment_arguments(place)
    where.add_arguments(place)
    place.set_defaults(function=where.main)
    translate = command("convert", "explain an INI of the reference system", _CONVERT_HELP)
    translate.add_argument("ini", type=Path, help="the INI file")
    translate.add_argument("-o", "--output", type=Path, metavar="OUT", help="write a cleaned copy")
    translate.set_defaults(function=_convert)
    return parser


def _run(args: argparse.Namespace) -> int:
    from decentralizepy.supervision.machine import Supervisor

    settings = arguments.settings_of(args)
    _tell(settings.wiring)
    Interrupts().install()
    Supervisor(settings, arguments.flags_of(args, settings)).run()
    return EXIT_OK


def _tell(wired: Wiring) -> None:
    for note in wired.notes:
        print(f"note: {note}")


def _check(args: argparse.Namespace) -> int:
    """What `run` checks, and then the classes themselves, which loads torch."""
    args.config_file = args.ini
    experiment = read_changed(args.ini, args.set)
    transport_of(experiment)
    wired, graph = wiring(experiment, args.eval_file), None
    _tell(wired)
    named = args.graph_file != flags.DEFAULT_GRAPH or args.procs_per_machine
    if named or args.graph_file.exists():
        graph = arguments.graph_of(args, wired)
        arguments.read_mapping(args, graph)
        arguments.check_wiring(args, experiment, wired, graph)
    from decentralizepy.commands.check import construct

    for line in construct(experiment, wired, graph):
        print(line)
    return EXIT_OK


def _prepare(args: argparse.Namespace) -> int:
    experiment = read_changed(args.ini, args.set)
    from decentralizepy.datasets.experiment import prepared_dataset

    cache = args.cache_dir or arguments.default_cache()
    dataset = prepared_dataset(experiment, cache, progress=print)
    train, test = dataset.counts()
    held = len(dataset.validation())
    said = f"{train} training samples, {test} test samples"
    said += f", {held} validation samples" if held else ""
    print(f"{experiment.dataset.target.name}: {said}")
    return EXIT_OK


def _convert(args: argparse.Namespace) -> int:
    """Explain every key; the exit code tells whether the file, or the cleaned one, can run."""
    lines, cleaned = convert.convert(args.ini)
    for line in convert.table(lines):
        print(line)
    out = args.output
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists: choose another name (-o)")
    if out is None:
        _require_runnable(read_text(args.ini), args.ini)
    else:
        _require_cleaned(cleaned, out, args.ini)
    if out is not None:
        try:
            write_atomic(out, cleaned)
        except OSError as error:
            raise ConfigError(f"cannot write {out}: {error.strerror} (-o)") from None
    print(f"\n{out or args.ini} can run")
    return EXIT_OK


def _require_cleaned(cleaned: str, out: Path, given: Path) -> None:
    """As `_require_runnable`, of what is to be written: the file to mend is the one given."""
    try:
        _require_runnable(cleaned, out)
    except ConfigError as error:
        said = str(error).removeprefix(f"{out} cannot run: ").replace(f"{out}: ", "")
        raise ConfigError(
            f"{given} cannot run, even cleaned, so {out} is not written: "
            f"{said.replace(str(out), str(given))}"
        ) from None


def _require_runnable(text: str, path: Path) -> None:
    """Raise `ConfigError` unless all classes of an INI can be constructed; loads torch."""
    try:
        experiment = parse_experiment(text, path)
        from decentralizepy.commands.check import construct

        for _ in construct(experiment, wiring(experiment)):
            pass
    except ConfigError as error:
        raise ConfigError(f"{path} cannot run: {error}") from None


def _keys(args: argparse.Namespace) -> int:
    print(f"{make_key(args.folder)}: copy it to all machines of the run, and nowhere else")
    return EXIT_OK


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of the command; ends the process with its exit code."""
    open_closed()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    args = _parser().parse_args(argv)
    try:
        code = args.function(args)
    except ConfigError as error:
        code = _complain(_shortened(str(error)), EXIT_USAGE)
    except RunError as error:
        code = _complain(str(error), EXIT_RUN_FAILED)
    except KeyboardInterrupt:
        code = _complain("interrupted", EXIT_INTERRUPTED)
    except MemoryError as error:
        code = _complain(_no_memory(args.command, error), EXIT_RUN_FAILED)
    except BrokenPipeError:
        code = EXIT_RUN_FAILED
    except OSError as error:  # a full disk or temporary folder, wherever it is met
        code = _complain(_system_error(error), EXIT_RUN_FAILED)
    raise SystemExit(code)


def _shortened(message: str) -> str:
    """A message that quotes a value of any length, at a length that can be read."""
    cut = f" ... ({len(message) - _LONGEST} characters) ... "
    half = _LONGEST // 2
    return message if len(message) <= _LONGEST else message[:half] + cut + message[-half:]


def _no_memory(command: str, error: MemoryError) -> str:
    about = f" ({error})" if str(error) else ""
    return f"not enough memory for '{command}'{about}: make the experiment smaller, or allow more"


def _system_error(error: OSError) -> str:
    about = "" if error.filename is None else f"{error.filename}: "
    return f"{about}{error.strerror or error}"


def _complain(message: str, code: int) -> int:
    print(f"decentralizepy: {textwrap.dedent(message)}", file=sys.stderr)
    return code
