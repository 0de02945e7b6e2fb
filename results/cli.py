"""The command ``python -m results``: tables and figures of run folders.

Exit codes: 0 done, 2 with one message when a folder is no run folder or nothing can be written.
"""

from __future__ import annotations

import argparse
import errno
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # pandas and matplotlib take a second to load; --help needs neither
    from results.load import Run

#: A longer list of files is cut: it would hide the lines above it.
_MOST_LISTED: Final = 3
_DESCRIPTION: Final = """\
Turn run folders into tables and figures.

A run folder is what an experiment leaves: machine0/, machine1/, ... each with
records_<w>.jsonl, or, from the reference system, with <rank>_results.json.
A run that is still going on, or that was killed, can be read at any time.
"""
_EPILOG: Final = """\
one run folder writes, into the run folder unless --output is given:
  tables/<experiment>.csv            one row per evaluation: mean, std (ddof 1),
                                     sum, min, max, percentiles over the nodes
  tables/<experiment>_tidy.parquet   one row per node, iteration and metric
  tables/<experiment>_tidy.csv       the same, for people
  tables/<experiment>_time_to_accuracy.csv   with --targets: when the mean test
                                     accuracy first was as high
  figures/*.pdf                      losses and accuracy against iterations and
                                     bytes, accuracy also against (simulated)
                                     time, consensus distance against iterations,
                                     spread over the nodes; the data of each
                                     beside it (.csv)

several run folders write the tables of each and comparison figures into --output:
  one line per setting; runs that differ by random_seed only become one line,
  the mean over seeds with a 95 % band

examples:
  python -m results runs/quickstart
  python -m results runs/quickstart --output paper --width double
  python -m results runs/quickstart --targets 80 90
  python -m results runs/lr_*_seed* --output comparison
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        with _plain_warnings():
            _run(args.run_folder, args.output, args.width, args.targets)
    except (ValueError, OSError) as error:
        print(f"error: {error}{_remedy(error)}", file=sys.stderr)
        return 2
    return 0


def _remedy(error: Exception) -> str:
    if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    return ": make room on its disk, or name a folder on another one with --output DIR"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m results",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_folder", nargs="+", type=Path, help="folder of a run")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where tables/ and figures/ go")
    parser.add_argument(
        "--width",
        choices=("single", "double"),
        default="single",
        help="figures for one column (3.33 in, the default) or two (6.9 in)",
    )
    parser.add_argument(
        "--targets",
        nargs="+",
        type=float,
        default=[],
        metavar="PER_CENT",
        help="test accuracies: tell when each was first reached",
    )
    return parser


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show what was left out of the tables as one line, without a place in our source."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)


def _run(
    folders: Sequence[Path], output: Path | None, width: str, targets: Sequence[float]
) -> None:
    from results.load import NothingRecordedError, load_runs
    from results.summary import overview, summary

    try:
        runs = load_runs(folders)
    except NothingRecordedError as nothing:
        if len(folders) > 1:  # no comparison without it
            raise
        print(nothing)
        return
    if len(runs) == 1:
        print(summary(runs[0]))
        _write(runs, output or folders[0], _file_name(runs[0].experiment), width, targets)
        return
    if output is None:
        raise ValueError("several run folders: say where the comparison goes with --output DIR")
    print(overview(runs))
    _write(runs, output, "comparison", width, targets)


def _write(
    runs: Sequence[Run], output: Path, name: str, width: str, targets: Sequence[float]
) -> None:
    from results.plots import save_figures
    from results.summary import reached
    from results.tables import time_to_accuracy, write_csv, write_tidy, write_wide

    tables = [
        write_wide(run, output / "tables" / f"{_file_name(title)}.csv")
        for run, title in zip(runs, _titles(runs), strict=True)
    ]
    tables += write_tidy(runs, output / "tables", name)
    if targets:
        times = time_to_accuracy(runs, targets)
        print("\n".join(reached(times)))
        tables.append(write_csv(times, output / "tables" / f"{name}_time_to_accuracy.csv"))
    figures = save_figures(runs, output / "figures", width)
    print(f"  tables                {output / 'tables'}: {_listed(tables)}")
    print(f"  figures               {output / 'figures'}: {_listed(figures)}")


def _listed(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths]
    if len(names) <= _MOST_LISTED:
        return ", ".join(names) or "none: nothing was evaluated"
    return f"{', '.join(names[:2])} and {len(names) - 2} more"


def _titles(runs: Sequence[Run]) -> list[str]:
    """The experiments' names, or the runs' where two of them share one."""
    experiments = [run.experiment for run in runs]
    return experiments if len(set(experiments)) == len(runs) else [run.name for run in runs]


def _file_name(title: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", title).strip(".") or "run"
