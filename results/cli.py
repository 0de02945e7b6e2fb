"""The command ``python -m results``: tables and figures of run folders.

Exit codes: 0 done; 2 with one message when no folder is a run folder or nothing can be written; 6
when some of several folders could not be read, and the others were.
"""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # pandas and matplotlib take a second to load; --help needs neither
    from results.load import Loaded, Run
    from results.plots import Look
    from results.settings import Setting
    from results.targets import Target

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2
EXIT_PARTIAL: Final = 6
#: further commands, by their first word -> module with a ``main`` of the words after it
COMMANDS: Final = {
    "attack": "results.attacks.command",
    "bundle": "results.bundle_command",
    "compare": "results.compare_command",
    "export-legacy": "results.export_command",
    "figure": "results.figures.command",
    "report": "results.report.command",
    "watch": "results.report.watch",
}
FORMATS: Final = ("pdf", "png", "svg")
WIDTHS: Final = ("single", "double")
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
  tables/<experiment>_tidy.csv       the same, for people; above a million rows
                                     with --tidy-csv only
  tables/<experiment>_time_to_accuracy.csv   with --targets: when the mean test
                                     accuracy (or loss) first was as good
  figures/*.pdf                      losses, accuracy and other metrics against
                                     iterations and bytes, results of tests also
                                     against (simulated) time, and energy where
                                     it was measured; spread over the nodes; the
                                     data of each beside it (.csv)

several run folders write the tables of each into --output, and:
  tables/comparison_runs.csv         one row per run: settings, final values,
                                     bytes, seconds, outcome
  tables/comparison_settings.csv     one row per setting: mean and 95 % interval
                                     over the seeds; time, bytes and joules to
                                     --targets; means over the last --window
  figures/*.pdf                      one line per setting; runs that differ by
                                     random_seed only become one line, the mean
                                     over seeds with a 95 % band

python -m results attack RUN...      what the messages of a run tell an observer
                                     (--help says more)
python -m results figure KIND RUN... one figure: privacy against utility, ROC, ...
python -m results compare RUN...     differences, with tests of significance
python -m results bundle RUN...      an archive that redraws every figure
python -m results export-legacy ...  what notebooks of the reference system read
python -m results report RUN...      one HTML page with all in it
python -m results watch RUN          the same page, live

README.md beside them explains every column. A folder that cannot be read is
named, the others are drawn, and the exit code is 6.

examples:
  python -m results runs/quickstart
  python -m results runs/quickstart --output paper --width double
  python -m results runs/quickstart --targets 80 90 test_loss=0.5
  python -m results runs/lr_*_seed* --output comparison
  python -m results runs/* --output comparison --metrics test_acc test_loss \\
      --labels "D-PSGD" "ours" --log test_loss --format pdf png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = sys.argv[1:] if argv is None else [*argv]
    command = COMMANDS.get(given[0]) if given and not Path(given[0]).exists() else None
    try:
        with _plain_warnings(), _rare_collections():
            if command is not None:
                return int(importlib.import_module(command).main(given[1:]))
            return _run(_parser().parse_args(given))
    except (ValueError, OSError) as error:
        print(f"error: {error}{_remedy(error)}", file=sys.stderr)
        return EXIT_USAGE


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
    add = parser.add_argument
    add("run_folder", nargs="+", type=Path, help="folder of a run")
    add("--output", type=Path, metavar="DIR", help="where tables/ and figures/ go")
    add(
        "--targets",
        nargs="+",
        type=_target,
        default=[],
        metavar="TARGET",
        help="report when each was first reached, and at what cost: per cent of test accuracy, or "
        "METRIC=VALUE, as test_loss=0.5",
    )
    add(
        "--window",
        type=int,
        default=0,
        metavar="N",
        help="also average each setting over its last N evaluations",
    )
    add(
        "--tidy-csv",
        action="store_true",
        help="write the long table as CSV even beyond a million rows",
    )
    figures = parser.add_argument_group("figures")
    add = figures.add_argument
    add(
        "--width",
        choices=WIDTHS,
        default=WIDTHS[0],
        help="for one column (3.33 in, the default) or two (6.9 in)",
    )
    add("--format", nargs="+", choices=FORMATS, default=["pdf"], help="kinds of files (pdf)")
    add(
        "--metrics",
        nargs="+",
        default=[],
        metavar="METRIC",
        help="draw these, each against iterations, bytes, seconds and joules, as far as they were "
        "recorded; any column of the records",
    )
    add(
        "--labels",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="what the legend says, one per setting in the order of the folders",
    )
    add(
        "--log",
        nargs="*",
        metavar="METRIC",
        help="logarithmic axes for these metrics and for no others; by default for losses and the "
        "like that span a factor of 8",
    )
    return parser  # fmt: skip


def _target(text: str) -> Target:
    from results.targets import parse_target

    return parse_target(text)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show what was left out of the tables as one line, without a place in our source."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for message in dict.fromkeys(str(warning.message) for warning in caught):
                print(f"warning: {message}", file=sys.stderr)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Libraries that are loaded leave a million objects, and looking through them a tenth of the
    time of a short run's figures."""
    usual = gc.get_threshold()
    gc.set_threshold(100_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _run(args: argparse.Namespace) -> int:
    from results.load import NothingRecordedError, load_each, load_run

    _save_memory()
    if len(args.run_folder) == 1:
        try:
            runs = [load_run(args.run_folder[0])]
        except NothingRecordedError as nothing:
            print(nothing)
            return EXIT_OK
        _one(runs[0], args)
        return EXIT_OK
    if args.output is None:
        raise ValueError("several run folders: say where the comparison goes with --output DIR")
    loaded = load_each(args.run_folder)
    _name_the_bad(loaded)
    if not loaded.runs:
        raise ValueError("none of these folders could be read")
    _several(loaded.runs, args)
    return EXIT_PARTIAL if loaded.failed else EXIT_OK


def _save_memory() -> None:
    """Of Arrow's allocators the system's gives memory back; the others keep twice as much."""
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())


def _name_the_bad(loaded: Loaded) -> None:
    for why in loaded.skipped.values():
        print(f"warning: {why}", file=sys.stderr)
    for why in loaded.failed.values():
        print(f"error: {why}; left out", file=sys.stderr)


def _one(run: Run, args: argparse.Namespace) -> None:
    from results.summary import summary
    from results.tables import file_name

    print(summary(run))
    _write([run], args, args.output or args.run_folder[0], file_name(run.experiment))


def _several(runs: Sequence[Run], args: argparse.Namespace) -> None:
    from results.summary import overview

    print(overview(runs))
    _write(runs, args, args.output, "comparison")


def _write(runs: Sequence[Run], args: argparse.Namespace, output: Path, name: str) -> None:
    from results.about import write_about
    from results.plots import save_figures
    from results.settings import settings

    compared = settings(runs, args.labels)
    metrics, look = _chosen(runs, args)
    tables = _tables(compared, args, output / "tables", name)
    figures = save_figures(compared, output / "figures", look, metrics)
    write_about(output)
    print(f"  tables                {output / 'tables'}: {_listed(tables)}")
    print(f"  figures               {output / 'figures'}: {_listed(figures)}")


def _chosen(runs: Sequence[Run], args: argparse.Namespace) -> tuple[list[str], Look]:
    from results.metrics import chosen
    from results.plots import Look

    recorded = dict.fromkeys(metric for run in runs for metric in run.metrics)
    log = None if args.log is None else chosen(args.log, recorded)
    return chosen(args.metrics, recorded), Look(args.width, log, tuple(dict.fromkeys(args.format)))


def _tables(
    compared: Sequence[Setting], args: argparse.Namespace, folder: Path, name: str
) -> list[Path]:
    """Write all tables; tells what is worth telling of them."""
    from results.csvfile import write_csv
    from results.summary import reached, seeds
    from results.tables import file_name, runs_table, settings_table, time_to_accuracy, write_wide
    from results.tidy import MOST_CSV_ROWS, tidy_rows, write_tidy

    runs = [run for setting in compared for run in setting.runs]
    print("".join(f"{line}\n" for line in seeds(compared)), end="")
    tables = [
        write_wide(run, folder / f"{file_name(title)}.csv")
        for run, title in zip(runs, _titles(runs), strict=True)
    ]
    if len(runs) > 1:
        tables.append(write_csv(runs_table(compared), folder / f"{name}_runs.csv"))
        table = settings_table(compared, args.targets, args.window)
        tables.append(write_csv(table, folder / f"{name}_settings.csv"))
    tables += write_tidy(runs, folder, name, args.tidy_csv)
    if tidy_rows(runs) > MOST_CSV_ROWS and not args.tidy_csv:
        print(f"  {tidy_rows(runs):,} tidy rows, as Parquet only; --tidy-csv writes the CSV too")
    if args.targets:
        times = time_to_accuracy(runs, args.targets)
        print("\n".join(reached(times)))
        tables.append(write_csv(times, folder / f"{name}_time_to_accuracy.csv"))
    return tables


def _listed(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths]
    if len(names) <= _MOST_LISTED:
        return ", ".join(names) or "none: nothing was evaluated"
    return f"{', '.join(names[:2])} and {len(names) - 2} more"


def _titles(runs: Sequence[Run]) -> list[str]:
    """The experiments' names, or the runs' where two of them share one."""
    experiments = [run.experiment for run in runs]
    return experiments if len(set(experiments)) == len(runs) else [run.name for run in runs]
