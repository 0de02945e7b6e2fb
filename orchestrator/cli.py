"""The command line: ``python g5k_execution.py CONFIG.json``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from decentralizepy.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_RUN_FAILED,
    EXIT_USAGE,
    ConfigError,
    RunError,
)
from decentralizepy.standard import open_closed
from orchestrator.errors import (
    EXIT_NO_MACHINES,
    EXIT_PARTIAL,
    EXIT_REFUSED,
    DetachedError,
    RefusedError,
    ReservationError,
)
from orchestrator.text import Screen

if TYPE_CHECKING:
    from orchestrator.running.experiment import Outcome, Setting

#: What can be done with a run folder, beside ``run`` with a configuration.
VERBS: Final = ("status", "attach", "resume", "collect", "clean", "doctor")
#: File by which the folder of a sweep is known (`orchestrator.sweep.planned`).
SWEEP_LIST: Final = "sweep.json"
DESCRIPTION: Final = """\
Run a decentralized learning experiment: CONFIG.json says where and how big it is, the INI that it
names says what to train. The machines are started, their progress shown, and everything ends up
in one run folder with tables and figures."""
EXAMPLES: Final = """\
examples:
  python g5k_execution.py g5k_config/quickstart.json             run it on this computer
  python g5k_execution.py g5k_config/quickstart.json --dry-run   placement, files, commands, bytes
  python g5k_execution.py my.json --set DATASET.random_seed=91 --set OPTIMIZER_PARAMS.lr=0.1
  python g5k_execution.py my.json --dry-run --json | jq .traffic.total_bytes
  python g5k_execution.py --resume results/my_results/20261120-183554_night   resume a run
  python g5k_execution.py status RUN_FOLDER                      or attach, collect, clean; doctor

the smallest CONFIG.json:
  {"job_name": "first", "CONFIG_NAME": "digits_kshard2_mlp.ini", "GRAPH_FILE": "16_4regular.edges",
   "NB_AGENTS": 16, "NB_MACHINE": 2, "NB_ITERATION": 100, "TEST_AFTER": 20,
   "EVAL_FILE": "testingPeerSampler.py"}
  Files are looked for beside CONFIG.json and in run_configuration/; all keys are explained in
  g5k_config/schema.json. Ctrl-C ends all processes; what was recorded until then is kept, and
  with "CHECKPOINT_AFTER": 50 the run can be resumed from its last checkpoint. "ON_LOSS": "wait"
  starts a machine that dies again by itself, "drop" goes on without it (docs/failures.md).

exit codes:
  0 ok   2 usage or configuration   3 plan refused   4 no machines   5 run failed
  6 run fine, tables or records missing   130 interrupted, or left to itself"""


def main(arguments: Sequence[str] | None = None, setting: Setting | None = None) -> int:
    """Run the command; returns the exit code. Errors are one message on stderr."""
    open_closed()
    try:
        given = sys.argv[1:] if arguments is None else arguments
        verb = given[0] if given and given[0] in VERBS else None
        options = (_verb_parser() if verb else _parser()).parse_args(_without_verb(given))
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a path may hold what the terminal cannot show
                stream.reconfigure(errors="backslashreplace")
        if verb is not None:
            return _act(verb, options, setting)
        if options.set and options.resume is not None:
            raise ConfigError("--set: a run goes on as it began; leave it out with --resume")
        if _is_sweep(options):
            return _sweep(options, setting)
        return _dry_run(options, setting) if options.dry_run else _run(options, setting)
    except RefusedError as error:
        return _fail(str(error), EXIT_REFUSED)
    except ConfigError as error:
        return _fail(str(error), EXIT_USAGE)
    except DetachedError as error:
        return _fail(str(error), EXIT_INTERRUPTED)
    except ReservationError as error:
        return _fail(str(error), EXIT_NO_MACHINES)
    except RunError as error:
        return _fail(str(error), EXIT_RUN_FAILED)
    except OSError as error:
        return _fail(f"{type(error).__name__}: {error}", EXIT_RUN_FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted; all processes have ended", EXIT_INTERRUPTED)


def _without_verb(arguments: Sequence[str]) -> Sequence[str]:
    """``run`` is the default verb."""
    return arguments[1:] if arguments and arguments[0] in ("run", *VERBS) else arguments


def _verb_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="g5k_execution.py",
        usage="python %(prog)s status|attach|resume|collect|clean RUN_FOLDER [--json] [--yes]\n"
        "       python %(prog)s doctor [CONFIG.json] [--json]",
        description="Query or control a run at any time, from any process.",
    )
    parser.add_argument("path", metavar="RUN_FOLDER", type=Path, nargs="?")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    return parser


def _act(verb: str, options: argparse.Namespace, setting: Setting | None) -> int:
    """Carry out a verb on a run folder."""
    from orchestrator.running import verbs
    from orchestrator.running.experiment import Setting

    setting = setting or Setting()
    if verb == "doctor":
        from orchestrator.running.doctor import examine

        return examine(options.path, setting, options.json)
    if options.path is None:
        raise ConfigError(f"{verb}: name a run folder")
    screen = Screen(sys.stderr if options.json else sys.stdout)
    if verb == "clean" and (options.path / SWEEP_LIST).is_file():
        from orchestrator.sweep.command import clean_sweep

        if _agreed(options, f"end all runs in {options.path} and free their machines?"):
            clean_sweep(options.path, setting, screen)
        return EXIT_OK
    if verb == "resume":
        return _run_or_resume(options.path, None, (), options, setting)
    run = verbs.find_run(options.path, setting)
    if verb == "attach" and not verbs.is_supervised(run.folder):
        return _run_or_resume(options.path, None, (), options, setting)
    setting.interrupts.install()
    if verb == "attach":
        verbs.follow(run, screen)
    elif verb == "status":
        told = verbs.status(run)
        lines = verbs.status_lines(told, options.path)
        Screen(sys.stdout).say(json.dumps(told, indent=2) if options.json else "\n".join(lines))
    elif verb == "collect":
        missing = verbs.collect(run, setting, screen)
        return _fail("\n".join(missing), EXIT_PARTIAL) if missing else EXIT_OK
    elif _agreed(options, f"end the run in {options.path} and free its machines?"):
        verbs.clean(run, screen)
    return EXIT_OK


def _is_sweep(options: argparse.Namespace) -> bool:
    """Whether the configuration has a sweep; raises `ConfigError` for one that cannot be read."""
    from orchestrator.planning.inputs import read_config

    found = options.config is not None and read_config(options.config).sweep is not None
    if options.retry_failed and not found:
        raise ConfigError("--retry-failed goes with a configuration that has a sweep")
    return found


def _sweep(options: argparse.Namespace, setting: Setting | None) -> int:
    from orchestrator.running.experiment import Setting
    from orchestrator.sweep.command import sweep_command

    setting = setting or Setting()
    if not options.dry_run:
        setting.interrupts.install()
        if setting.ask is None and not options.yes and sys.stdin.isatty() and sys.stderr.isatty():
            setting = replace(setting, ask=_ask_what_then)
    screen = Screen(sys.stderr if options.json else sys.stdout)
    code, told = sweep_command(options, setting, screen, lambda what: _agreed(options, what))
    return _fail(told, code) if code else EXIT_OK


def _agreed(options: argparse.Namespace, question: str) -> bool:
    """Whether somebody at a terminal agrees; elsewhere nobody is asked."""
    if options.yes or not sys.stdin.isatty():
        return True
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _ask_what_then() -> str:
    """What becomes of a run that was interrupted at a terminal."""
    print("\nend the run, collect and free its machines [y], leave it running [l], or go on [n]?",
          file=sys.stderr)  # fmt: skip
    answer = input("[y/l/N] ").strip().lower()[:1]
    return {"y": "end", "l": "leave"}.get(answer, "go on")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="g5k_execution.py",
        usage="python %(prog)s [run] CONFIG.json [--set SECTION.key=value ...] [--dry-run] "
        "[--json] [--yes]\n"
        "       python %(prog)s --resume RUN_FOLDER [--dry-run] [--json] [--yes]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("config", metavar="CONFIG.json", type=Path, nargs="?", help="the experiment")
    what.add_argument(
        "--resume",
        metavar="RUN_FOLDER",
        type=Path,
        help="resume an interrupted, killed or failed run in its folder",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show everything that would happen; start nothing"
    )
    parser.add_argument(
        "--json", action="store_true", help="plan or result as JSON on stdout, the rest on stderr"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument(
        "--retry-failed", action="store_true", help="in a sweep, rerun the cells that failed"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.key=value",
        help="set a key of the INI for this run, as OPTIMIZER_PARAMS.lr=0.05; may be repeated",
    )
    return parser


def _dry_run(options: argparse.Namespace, setting: Setting | None) -> int:
    from orchestrator.planning.describe import describe
    from orchestrator.running.experiment import (
        Setting,
        backend_of,
        example_folder,
        make_plan,
        make_resumed_plan,
        preview,
    )
    from orchestrator.running.resume import former_offset

    setting = setting or Setting()
    if options.resume is not None:
        folder, inputs, planned = make_resumed_plan(options.resume, setting)
        shown = preview(inputs, planned, setting, folder, former_offset(folder))
    else:
        inputs, planned = make_plan(options.config, setting, given=options.set)
        folder = example_folder(planned)
        shown = preview(inputs, planned, setting, folder)
    backend = backend_of(shown.config, shown.config_path, setting)
    shown = replace(shown, files=dict(shown.files) | dict(backend.shows(shown, folder)))
    screen = Screen(sys.stdout)
    if options.json:
        screen.say(json.dumps(shown.as_dict(folder), indent=2))
    else:
        screen.say(f"{describe(shown, folder)}\n\nNothing was started.")
    return EXIT_OK


def _run(options: argparse.Namespace, setting: Setting | None) -> int:
    from orchestrator.running.experiment import Setting

    setting = setting or Setting()
    return _run_or_resume(options.resume, options.config, options.set, options, setting)


def _run_or_resume(
    folder: Path | None,
    config: Path | None,
    given: Sequence[str],
    options: argparse.Namespace,
    setting: Setting,
) -> int:
    from orchestrator.running.closing import closing_lines
    from orchestrator.running.experiment import resume_experiment, run_experiment, summary

    screen = Screen(sys.stderr if options.json else sys.stdout)
    setting.interrupts.install()
    if setting.ask is None and not options.yes and sys.stdin.isatty() and sys.stderr.isatty():
        setting = replace(setting, ask=_ask_what_then)
    if folder is not None:
        outcome = resume_experiment(folder, setting, screen)
    else:
        assert config is not None, "the parser needs one of both"
        outcome = run_experiment(config, setting, screen, given)
    if options.json:
        Screen(sys.stdout).say(json.dumps(summary(outcome), indent=2))
    else:
        screen.say("\n".join(closing_lines(outcome)))
    return EXIT_OK if outcome.complete else _fail(_partial(outcome), EXIT_PARTIAL)


def _partial(outcome: Outcome) -> str:
    problems = list(outcome.missing)
    if not outcome.tables.ok:
        again = f"python -m results {outcome.folder.root}"
        problems.append(f"tables and figures failed ({again}): {outcome.tables.error}")
    return "the run is complete and kept, but: " + "\n".join(problems)


def _fail(message: str, code: int) -> int:
    Screen(sys.stderr).say(message)
    return code


if __name__ == "__main__":
    sys.exit(main())
