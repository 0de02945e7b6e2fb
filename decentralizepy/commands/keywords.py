"""Flags of ``decentralizepy run`` as keyword arguments, which `run_here` takes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from decentralizepy.commands import flags
from decentralizepy.errors import ConfigError, nearest

_ALONE: Final = "all nodes run in this process; 'decentralizepy run' has workers and machines"
#: flags that can't do anything here, and what to do in place of them
_WITHOUT_EFFECT: Final = {
    "config_file": "the INI is the first argument",
    "graph_file": "the graph is the second argument",
    "procs_per_machine": "the graph, the second argument, may be a number of nodes",
    **dict.fromkeys(("workers", "machines", "machine_id", "key"), _ALONE),
    **dict.fromkeys(("start_timeout", "wait_limit", "progress_limit"), _ALONE),
    "threads": "a run here has one thread, so that it gives the bits of any other",
    "usage_after": "only 'decentralizepy run' measures its machine",
    "weights_store_dir": "the weights are the rows of the outcome",
    "modules": "files are used where they lie, and those beside the INI are read anew",
}
#: arguments of `run_here` that are no flags, which its options may be mistaken for
_OWN: Final = ("ini", "graph", "node", "sharing")


class _Parser(argparse.ArgumentParser):
    """One that never ends the process, nor guesses what a part of a name stands for."""

    def __init__(self) -> None:
        super().__init__(exit_on_error=False, allow_abbrev=False, add_help=False)
        flags.add_arguments(self)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parse(argv: Sequence[str], options: Mapping[str, Any]) -> argparse.Namespace:
    """The flags of ``argv``, and ``options`` by the long names of theirs; raises `ConfigError`."""
    parser = _Parser()
    by_name = {
        flag.removeprefix("--").replace("-", "_"): (flag, action)
        for flag, action in parser._option_string_actions.items()
        if flag.startswith("--")
    }
    given = list(argv)
    for name, value in options.items():
        _check_name(name, by_name.keys(), parser)
        given += _words(name, *by_name[name], value)
    try:
        return parser.parse_args(given)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from None


def _check_name(name: str, known: Iterable[str], parser: _Parser) -> None:
    """Raise `ConfigError` for what is no option of a run here."""
    if name in _WITHOUT_EFFECT:
        raise ConfigError(f"run_here: {name} has no effect here: {_WITHOUT_EFFECT[name]}")
    if name in known:
        return
    offered = [one for one in (*_OWN, *known) if one not in _WITHOUT_EFFECT]
    short = parser._option_string_actions.get(f"-{name}")
    meant = [one for one in offered if one.startswith(name) or (short and one == short.dest)]
    near = f" (did you mean {' or '.join(map(repr, meant))}?)" if meant else nearest(name, offered)
    raise ConfigError(f"run_here has no option '{name}'{near}")


def _words(name: str, flag: str, action: argparse.Action, value: Any) -> Iterator[str]:
    """A flag and its value as the command would have them; nothing for None."""
    if value is None:
        return
    if action.nargs == 0:
        if value not in (True, False):
            raise ConfigError(f"run_here: {name} = {value!r:.60}: True or False is expected")
        yield from [flag] if value else []
    elif not isinstance(value, Iterable) or isinstance(value, str):
        number = isinstance(value, bool) and action.type is int
        yield f"{flag}={int(value) if number else value}"
    elif name == "set":
        yield from (f"{flag}={one}" for one in value)
    elif name == "evaluated_nodes":
        yield f"{flag}=[{','.join(map(str, value))}]"
    else:
        raise ConfigError(f"run_here: {name} = {value!r:.60}: one value is expected")
