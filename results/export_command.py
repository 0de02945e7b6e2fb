"""``python -m results export-legacy RUN...``: what old notebooks read, from runs of today."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from decentralizepy.files import cache_home

if TYPE_CHECKING:
    import pandas as pd

    from results.load import Run

_DESCRIPTION: Final = """\
Write what the reference system's notebooks read:
  DIR/formatted_results/<run>.csv   the wide table of both data_refactoring notebooks
  DIR/my_results/<run>/             <rank>_results.json with test_niid_acc, attack tables, and
                                    machine<m>/privacy/summary/<uid>/privacy-summary-*.json
Attack the runs first; test_niid_acc comes from the models that they have kept.
"""


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    found = argparse.ArgumentParser(
        prog="python -m results export-legacy", description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = found.add_argument
    add("run_folder", nargs="+", type=Path, help="folder of a run")
    add("--output", type=Path, required=True, metavar="DIR", help="where the files go")
    add("--cache-dir", type=Path, metavar="DIR", help="where prepared data sets are kept")
    add(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change a key of the runs' INI, as where the data lie now; may be repeated",
    )  # fmt: skip
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    for path in export(args.run_folder, args.output, args.cache_dir, args.set):
        print(path)
    return 0


def export(
    folders: Sequence[str | Path],
    output: str | Path,
    cache_dir: Path | None = None,
    overrides: Sequence[str] = (),
) -> list[Path]:
    """What the command writes for each run: a table and a folder. Warns of what is missing."""
    from results.export import write_legacy
    from results.load import load_runs

    return [
        path
        for run in load_runs(folders)
        for path in write_legacy(run, Path(output), _niid(run, cache_dir, overrides))
    ]


def _niid(run: Run, cache_dir: Path | None, overrides: Sequence[str]) -> pd.DataFrame | None:
    """Accuracy on test samples with the node's label shares; None where that cannot be had."""
    from decentralizepy.errors import ConfigError
    from results.attacks.niid import niid_accuracy

    if "test_niid_acc" in run.records.column_names:
        return None
    try:
        return niid_accuracy(run.folder, cache_dir or cache_home(), overrides)
    except (ValueError, ConfigError):
        return None
