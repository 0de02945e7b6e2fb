"""The command line of a sweep: list, ask, run, tell."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from decentralizepy.errors import EXIT_OK, EXIT_RUN_FAILED, ConfigError
from decentralizepy.jsonfile import read_object
from orchestrator.errors import EXIT_PARTIAL
from orchestrator.running import verbs
from orchestrator.running.experiment import Setting, backend_of
from orchestrator.running.hold import held
from orchestrator.running.record import read_record
from orchestrator.sweep.describe import as_dict, describe
from orchestrator.sweep.driver import Result, check_room, run_sweep, states_of, to_run
from orchestrator.sweep.planned import LIST, plan_sweep
from orchestrator.sweep.reserved import clear
from orchestrator.text import Screen


def sweep_command(
    options: argparse.Namespace,
    setting: Setting,
    screen: Screen,
    agreed: Callable[[str], bool],
) -> tuple[int, str]:
    """Everything that the command does; its exit code, and what is to be said of it."""
    sweep = plan_sweep(options.config, setting, options.set)
    states = states_of(sweep)
    todo = to_run(sweep, states, options.retry_failed)
    if options.dry_run and options.json:
        Screen().say(json.dumps(as_dict(sweep, states, {}), indent=2))
        return EXIT_OK, ""
    screen.say(describe(sweep, states, todo))
    if options.dry_run:
        screen.say("\nNothing was started.")
        return EXIT_OK, ""
    check_room(sweep, todo)
    if todo and not agreed(f"run {len(todo)} of {len(sweep.cells)}?"):
        screen.say("nothing was started")
        return EXIT_OK, ""
    result = run_sweep(sweep, setting, screen, options.retry_failed)
    screen.say("\n".join(closing(result)))
    if options.json:
        Screen().say(json.dumps(result.as_dict(), indent=2))
    return _code(result)


def closing(result: Result) -> Iterator[str]:
    """What became of all runs."""
    done, total = len(result.cells("done")), len(result.sweep.cells)
    yield f"runs      {done} of {total} done, in {result.sweep.folder}"
    for cell in result.cells("failed"):
        yield f"failed    {cell.folder.root}"
    if result.compared == "":
        yield f"compared  {result.sweep.folder / 'tables'}, {result.sweep.folder / 'figures'}"


def _code(result: Result) -> tuple[int, str]:
    if failed := result.cells("failed"):
        names = "\n".join(f"  {cell.name}" for cell in failed)
        return EXIT_RUN_FAILED, f"{len(failed)} failed; --retry-failed tries again:\n{names}"
    if result.problems:
        return EXIT_PARTIAL, "\n".join(result.problems)
    return EXIT_OK, ""


def clean_sweep(path: Path, setting: Setting, screen: Screen) -> None:
    """End what runs in any cell, and give back the reservation."""
    config = read_object(path / LIST).get("config_path")
    if not isinstance(config, str) or not Path(config).is_file():
        raise ConfigError(f"{path}: its configuration {config} is gone")
    sweep = plan_sweep(Path(config), setting)
    with held(path / "ledger.jsonl", 0.0):
        for folder in sorted(path.iterdir()):
            if read_record(folder / "ledger.jsonl").held:
                verbs.clean(verbs.find_run(folder, setting), screen)
        plan = sweep.biggest
        found = clear(sweep, backend_of(plan.config, plan.config_path, setting))
    screen.say("the reservation was given back" if found else "no reservation was held")
