"""``decentralizepy convert``: an INI of the reference system, explained key by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from decentralizepy import reference
from decentralizepy.config import (
    KEYS_BESIDE,
    NODE_OPTIONS,
    SECTIONS,
    models_of,
    read_text,
)
from decentralizepy.errors import ConfigError, nearest_name
from decentralizepy.ini import Sections, parse_ini
from decentralizepy.registry import options, target

AS_IS, IGNORED, MISSPELT, CHANGED, UNKNOWN, NOT_HERE, DEFAULT = (
    "as is", "ignored", "misspelt", "changed", "unknown", "not here", "default",
)  # fmt: skip
#: verdicts after which a key is left out of the cleaned file
_DROPPED: Final = {IGNORED, UNKNOWN}
_PREFIX: Final = {
    "DATASET": "dataset",
    "OPTIMIZER_PARAMS": "optimizer",
    "TRAIN_PARAMS": "training",
    "COMMUNICATION": "comm",
    "SHARING": "sharing",
    "NODE": "node",
    "LR_SCHEDULE": "schedule",
    "GRAPH": "graph",
}
_WITHOUT_EFFECT: Final = {
    ("DATASET", "test_batch_size"): "the evaluation batch is a constant of the model",
    ("COMMUNICATION", "recv_timeout"): "nothing here polls",
}
#: how alike a misspelt name must be to be put right without asking
_ALIKE: Final = 0.8
_VALIDATION: Final = {"validation_source", "validation_size"}
_NONE: Final = {"", "0", "0.0", "none"}
_FALSE: Final = {"false", "no", "off", "0"}


@dataclass(frozen=True)
class Line:
    """What becomes of one key: its place and value, a verdict, why, and its name from now on."""

    section: str
    key: str
    value: str
    verdict: str
    why: str = ""
    name: str = ""

    @property
    def kept(self) -> bool:
        return self.verdict not in _DROPPED | {DEFAULT}


def convert(path: Path) -> tuple[list[Line], str]:
    """The verdict on every key, in the file's order, and the cleaned file; raises `ConfigError`."""
    text = read_text(path)
    raw, clean = _as_written(text, path), parse_ini(text, path)
    lines = [line for name in clean for line in _section(name, raw[name], clean[name], path)]
    if not any(line.name == "random_seed" for line in lines):
        why = "97 for model, graphs and streams, 1234 for the partition, as in the reference"
        lines.append(Line("DATASET", "random_seed", "", DEFAULT, why))
    return lines, _cleaned(lines, path)


def _as_written(text: str, path: Path) -> Sections:
    """The sections with the comments behind values, where these are all that stands behind."""
    try:
        return parse_ini(text, path, comments=())
    except ConfigError:  # a comment after a section's name, and the like
        return parse_ini(text, path)


def _section(
    name: str, raw: Mapping[str, str], values: Mapping[str, str], path: Path
) -> Iterator[Line]:
    section = name if name in SECTIONS else nearest_name(name, SECTIONS, _ALIKE)
    if section is None:
        for key, value in values.items():
            yield Line(name, key, value, UNKNOWN, "nobody reads this section")
        return
    known, missing = _known(section, values, path)
    for key, value in values.items():
        line = _judge(section, key, value, values, known, missing)
        yield _noted(line, name, raw.get(key, value))


def _noted(line: Line, given: str, raw: str) -> Line:
    """The line with a word on a misspelt section, and on a comment behind the value."""
    notes = [line.why] if line.why else []
    verdict = line.verdict
    if given != line.section:
        notes.append(f"[{given}] is read as [{line.section}]")
        verdict = MISSPELT if verdict == AS_IS else verdict
    if raw.strip() != line.value.strip():
        notes.append("comment behind the value left out; the reference takes it for the value")
        verdict = CHANGED if verdict == AS_IS else verdict
    return Line(line.section, line.key, line.value, verdict, "; ".join(notes), line.name)


def _known(
    section: str, values: Mapping[str, str], path: Path
) -> tuple[list[str] | None, dict[str, str]]:
    """The options of a section (None: unknown), and why classes that it names cannot be had."""
    missing: dict[str, str] = {}
    if section == "MODEL":  # its class is named in another section
        return None, missing
    search = (path.resolve().parent, Path.cwd())
    known: list[str] | None = None
    more = list(NODE_OPTIONS) if section == "NODE" else []
    for key, package, name in _classes(section, values):
        if key == "model_class" and "dataset_class" in missing and "model_package" not in values:
            missing[key] = f"a model of {values['dataset_class']}"
            continue
        try:
            listed = options(target(package, name, search))
            if key == f"{_PREFIX[section]}_class":
                known = None if listed is None else sorted(listed)
            elif key == "task_class":
                more += listed or ()
        except ConfigError as error:
            missing[key] = str(error)
    if known is None and section == "NODE" and "node_class" not in missing:
        return more, missing
    return None if known is None else [*known, *more], missing


def _classes(section: str, values: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(key, package, name) of every class that a section names completely."""
    prefix = _PREFIX[section]
    package = values.get(f"{prefix}_package", "")
    pairs = [(f"{prefix}_class", package)]
    if section == "DATASET":
        pairs.append(("model_class", values.get("model_package", "") or models_of(package)))
    if section == "TRAIN_PARAMS":
        loss = "loss_class" if values.get("loss_class") else "loss"
        pairs.append((loss, values.get("loss_package", "")))
        pairs.append(("task_class", values.get("task_package", "")))
    for key, module in pairs:
        if module and values.get(key):
            yield key, module, values[key]


def _judge(
    section: str, key: str, value: str, values: Mapping[str, str],
    known: Sequence[str] | None, missing: Mapping[str, str],
) -> Line:  # fmt: skip
    prefix = _PREFIX.get(section, "")
    pair = {f"{prefix}_package", f"{prefix}_class"} if prefix else set()
    names = pair.union(KEYS_BESIDE.get(section, ()))

    def line(verdict: str, why: str = "", name: str = key) -> Line:
        return Line(section, key, value, verdict, why, name)

    if key in missing:
        return line(NOT_HERE, missing[key])
    if (section, key) == ("TRAIN_PARAMS", "loss") and values.get("loss_class"):
        return line(IGNORED, "loss_class goes before it, as in the reference")
    if key in names:
        return line(AS_IS)
    if f"{prefix}_class" in missing:
        return line(NOT_HERE, f"an option of {values[f'{prefix}_class']}")
    if (section, key) in _WITHOUT_EFFECT:
        return line(IGNORED, _WITHOUT_EFFECT[section, key])
    if known is None or key in known:
        return _changed(line(AS_IS))
    if feature := reference.feature(section, key):
        if reference.is_off(section, key, value):
            return line(IGNORED, f"{feature}: not in this version, and nothing here reads it")
        return line(NOT_HERE, f"{feature} is not in this version yet")
    near = nearest_name(key, {*known, *names} - set(values), _ALIKE)
    if near is not None:
        return line(MISSPELT, f"read as {near}", near)
    return line(UNKNOWN, f"nobody reads this key; known: {', '.join(known) or 'none'}")


def _changed(line: Line) -> Line:
    """A key that is read, with a word where it means something else than in the reference."""
    place, key, value = (line.section, line.key), line.key, line.value.strip().lower()
    why = ""
    if place == ("TRAIN_PARAMS", "shuffle") and value in _FALSE:
        why = "batches go on where the last iteration ended; the reference begins anew"
    if place == ("DATASET", "partition_niid") and value == "dirichlet":
        why = "after 5,000 deals it gives up; the reference never does"
    if key in _VALIDATION and value not in _NONE:
        why = "the set has other samples than the reference's: drawn once, the same for all nodes"
    if place == ("COMMUNICATION", "offset"):
        why = "a port for each worker at offset + 2 * worker + 1, not for each node"
    verdict = CHANGED if why else line.verdict
    return Line(line.section, line.key, line.value, verdict, why, line.name)


def _cleaned(lines: list[Line], path: Path) -> str:
    sections: dict[str, list[str]] = {name: [] for name in SECTIONS}
    for line in lines:
        if line.kept:
            value = line.value.replace("\n", "\n    ")
            sections[line.section].append(f"{line.name} = {value}".rstrip())
    parts = [f"; {path.name}, cleaned by decentralizepy convert", ""]
    for name, entries in sections.items():
        if entries:
            parts += [f"[{name}]", *entries, ""]
    return "\n".join(parts)


def table(lines: list[Line]) -> Iterator[str]:
    """The verdicts as text, one line for each key."""
    rows = [("section", "key", "value", "verdict", "why")]
    rows += [(x.section, x.key, _short(x.value), x.verdict, x.why) for x in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        yield "  ".join([*cells, row[4]]).rstrip()


def _short(value: str) -> str:
    text = " ".join(value.split())
    return text if len(text) <= 44 else f"{text[:41]}..."
