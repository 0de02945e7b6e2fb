"""Renders the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from decentralizepy.text import plural
from results.load import Run
from results.report import facts
from results.report.pictures import pictures
from results.settings import settings
from results.summary import overview

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def page(runs: Sequence[Run], refresh: int = 0, now: str = "") -> str:
    """The HTML of one run or of several; a browser loads it again every ``refresh`` seconds.

    The same folders give the same page, but for ``now``, which is shown as it is.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    compared, attributes = settings(runs), facts.attributes(runs)
    one = len(runs) == 1
    about = str(runs[0].folder) if one else f"{plural(len(runs), 'run')}, {_settings(compared)}"
    return template.render(
        title=runs[0].experiment if one else "Comparison",
        about=f"{about}{f', {now}' if now else ''}",
        refresh=refresh,
        runs=[_run(run) for run in runs],
        overview=_overview(runs) if not one else None,
        pictures=pictures(compared),
        differing=[line for line in attributes if len(set(line[1])) > 1],
        shared=[line for line in attributes if len(set(line[1])) == 1],
    )


def _settings(compared: Sequence[Any]) -> str:
    return plural(len(compared), "setting")


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "headline": facts.headline(run),
        "reality": facts.plan_and_reality(run),
        "events": facts.events(run),
        "slowest": facts.slowest(run),
        "versions": facts.versions(run),
        "again": facts.again(run),
        "ini": str(run.provenance.get("ini") or ""),
    }


def _overview(runs: Sequence[Run]) -> dict[str, Any]:
    head, *lines = overview(runs).splitlines()
    columns = [name for name in head.replace(": mean", "").split("  ") if name.strip()]
    names = [run.name for run in runs]
    rows = [[name, *line[len(name) :].split()] for name, line in zip(names, lines, strict=True)]
    return {"columns": [name.strip() for name in columns], "rows": rows}
