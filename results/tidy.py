"""The long form of runs: one row per node, iteration and metric, as Parquet and CSV.

Runs are written metric by metric, so that a long one never stands in memory in this form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa

from decentralizepy.files import replacing
from decentralizepy.runfolder import RECORD_COLUMNS
from results.csvfile import write_parts
from results.load import Run

#: Columns of a tidy frame, in order.
TIDY_COLUMNS: Final[dict[str, str]] = {
    "run": "name of the run folder",
    "machine": "machine that hosted the node",
    "uid": "node, 0 to n - 1; servers are negative",
    "iteration": "1-based training iteration after which the node was evaluated",
    "metric": "what was measured",
    "value": "its value, in the metric's unit",
}
#: Version of the tidy schema, in the metadata of every Parquet file.
SCHEMA_VERSION: Final = 1
#: A CSV with more rows is written on demand only: nobody opens it, and it takes minutes.
MOST_CSV_ROWS: Final = 1_000_000
_WORDS: Final = pa.dictionary(pa.int32(), pa.string())
_TYPES: Final = (_WORDS, pa.int64(), pa.int64(), pa.int64(), _WORDS, pa.float64())
_SCHEMA: Final = pa.schema(
    [pa.field(*named, nullable=False) for named in zip(TIDY_COLUMNS, _TYPES, strict=True)]
)
_ROW_GROUP: Final = 1 << 20
#: values that are encoded at once; Arrow's own default takes a fifth longer
_BATCH: Final = 1 << 14


def tidy(runs: Sequence[Run]) -> pd.DataFrame:
    """The tidy frames of some runs below one another; twenty times as large as the records."""
    table = pa.concat_tables([_SCHEMA.empty_table(), *_parts(runs)])
    frame: pd.DataFrame = table.to_pandas()
    return frame.astype({"run": str, "metric": str})


def tidy_rows(runs: Sequence[Run]) -> int:
    """How many rows the tidy frame of some runs has."""
    columns = [run.records[metric] for run in runs for metric in run.metrics]
    return sum(len(column) - column.null_count for column in columns)


def write_tidy(
    runs: Sequence[Run], folder: Path, name: str, always_csv: bool = False
) -> list[Path]:
    """Write ``<name>_tidy.parquet`` and ``<name>_tidy.csv``; returns what was written.

    With more than `MOST_CSV_ROWS` rows there is no CSV, unless ``always_csv``; one of an earlier
    time is removed.
    """
    parquet, csv = (folder / f"{name}_tidy.{kind}" for kind in ("parquet", "csv"))
    _write_parquet(runs, parquet)
    if tidy_rows(runs) > MOST_CSV_ROWS and not always_csv:
        csv.unlink(missing_ok=True)
        return [parquet]
    _write_csv(runs, csv)
    return [parquet, csv]


def _parts(runs: Sequence[Run]) -> Iterator[pa.Table]:
    """The long form, a table per run and metric, sorted by iteration and node."""
    for run in runs:
        for metric in run.metrics:
            records = run.records.select(["machine", "uid", "iteration", metric])
            if records[metric].null_count:
                records = records.filter(records[metric].is_valid())
            name, about = (_repeated(word, len(records)) for word in (run.name, metric))
            yield pa.table([name, *records.columns[:3], about, records[metric]], schema=_SCHEMA)


def _repeated(word: str, times: int) -> pa.DictionaryArray:
    first = pa.array(np.zeros(times, np.int32))
    return pa.DictionaryArray.from_arrays(first, pa.array([word], pa.string()))


def _write_parquet(runs: Sequence[Run], path: Path) -> None:
    import pyarrow.parquet as pq

    words = [name for name in TIDY_COLUMNS if name != "value"]
    with (
        replacing(path) as aside,
        pq.ParquetWriter(
            aside,
            _SCHEMA,
            compression="zstd",
            use_dictionary=words,
            write_batch_size=_BATCH,
            store_schema=False,  # else texts would come back as categories
        ) as out,
    ):
        for part in _parts(runs):
            out.write_table(part, row_group_size=_ROW_GROUP)
        out.add_key_value_metadata(_metadata(runs))


def _write_csv(runs: Sequence[Run], path: Path) -> None:
    plain = pa.schema([(f.name, pa.string() if f.type == _WORDS else f.type) for f in _SCHEMA])
    write_parts([*TIDY_COLUMNS], (part.cast(plain) for part in _parts(runs)), path)


def _metadata(runs: Sequence[Run]) -> dict[str, str]:
    about = {
        run.name: {
            "experiment": run.experiment,
            "attributes": run.attributes,
            "provenance": run.provenance,
        }
        for run in runs
    }
    return {
        "schema_version": str(SCHEMA_VERSION),
        "columns": json.dumps(TIDY_COLUMNS),
        "metrics": json.dumps(RECORD_COLUMNS),
        "runs": json.dumps(about),
    }
