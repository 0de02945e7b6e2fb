"""The report page: what it says, that it stands alone, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from decentralizepy.graphs.files import write_graph
from decentralizepy.graphs.generators import ring
from results.cli import main
from results.load import load_run, load_runs
from results.report.page import page

_VOID = {"meta", "link", "br", "img", "hr", "input"}


class _Checked(HTMLParser):
    """Notes tags that are not closed, all ids, and what is asked of other places."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.elsewhere: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(
                ("#", "data:")
            ):
                self.elsewhere.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag


def checked(text: str) -> _Checked:
    found = _Checked()
    found.feed(text)
    found.close()
    assert not found.open
    return found


@pytest.fixture
def run(make_run: Callable[..., object]) -> Path:
    """A run with a plan, a topology, phases, an error and a node that left."""
    root: Path = make_run(
        name="night <&>", change=lambda row: {**row, "train_s": 2.0 + row["uid"], "share_s": 1.0,
                                              "wait_s": 0.5, "evaluate_s": 0.1},
    ).root  # fmt: skip
    write_graph(ring(5), root / "machine0/graph.edges")
    (root / "machine0/args.json").write_text('{"graph_file": "graph.edges"}')
    about = {"seed": 1, "outcome": "failed", "error": "node 3 <script>alert(1)</script>",
             "notes": ["resumed from 10"], "python": "3.11.7", "packages": {"torch": "2.13.0"},
             "membership": [{"left": [4], "before": 20}], "ini": "[DATASET]\nx = <b>"}  # fmt: skip
    (root / "machine0/run.json").write_text(json.dumps(about))
    plan = {"traffic": {"total_bytes": 630_010}, "estimate": {"seconds": 4000, "node_hours": 2.5},
            "reality": {"seconds": 3600}}  # fmt: skip
    (root / "plan.json").write_text(json.dumps(plan))
    return root


def test_the_page_stands_alone_and_is_well_formed(run: Path) -> None:
    text = page([load_run(run)])
    found = checked(text)
    assert len(found.ids) == len(set(found.ids)), "ids of several figures do not meet"
    assert not found.elsewhere
    assert not re.search(r"url\((?!#)|@import|<script", text.replace("&lt;script", ""))
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert used <= {e.get("id") for e in ElementTree.fromstring(svg).iter()}


def test_what_it_tells(run: Path) -> None:
    text = page([load_run(run)])
    for said in (
        "night &lt;&amp;&gt;", "failed: node 3 &lt;script&gt;", "resumed from 10",
        "node 4 left after iteration 20", "630 kB", "1 h 00 min", "1 h 06 min", "2.5",
        "Slowest nodes", "Topology", "python g5k_execution.py", "torch 2.13.0",
        "[DATASET]\nx = &lt;b&gt;",
    ):  # fmt: skip
        assert said in text, said
    slowest = text[text.index("Slowest nodes") :]
    assert re.search(r"<td>4</td><td>1</td><td>6.0 s</td>", slowest)


def test_the_same_folder_gives_the_same_page(run: Path) -> None:
    assert page([load_run(run)]) == page([load_run(run)])


def test_a_comparison(make_run: Callable[..., object], tmp_path: Path) -> None:
    folders = [make_run(f"run{seed}", seed=seed, name=f"run{seed}").root for seed in (1, 2)]
    output = tmp_path / "page.html"
    assert main(["report", *map(str, folders), "--output", str(output)]) == 0
    text = output.read_text()
    checked(text)
    assert "2 runs, 1 setting" in text and "run1" in text and "run2" in text
    assert main(["report", *map(str, folders)]) == 2


def test_a_run_with_nothing_but_records(make_run: Callable[..., object]) -> None:
    root = make_run().root
    for name in ("config.ini", "g5k_config.json", "machine0/run.json", "machine1/run.json"):
        (root / name).unlink()
    checked(page(load_runs([root])))


def _get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as answer:
        return str(answer.read().decode())


def test_watching_a_run_until_it_ends(run: Path) -> None:
    about = run / "machine0/run.json"
    ended = about.read_text()
    about.write_text(ended.replace("failed", "running"))
    command = [sys.executable, "-m", "results", "watch", str(run), "--every", "1", "--stay"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = re.search(r"http://127\.0\.0\.1:\d+/report\.html", process.stdout.readline())
        assert url is not None
        live = _wait_for(url[0], 'http-equiv="refresh"')
        assert "still running" in live
        with pytest.raises(urllib.error.HTTPError):
            _get(url[0].replace("report.html", "g5k_config.json"))
        about.write_text(ended)
        assert 'http-equiv="refresh"' not in _wait_for(url[0], "failed: node 3")
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, said: str) -> str:
    while True:
        try:
            text = _get(url)
        except (OSError, urllib.error.URLError):
            text = ""
        if said in text:
            return text
        time.sleep(0.1)


_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1200,2400",
]  # fmt: skip


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_it(run: Path, tmp_path: Path) -> None:
    import matplotlib.image as images

    assert main(["report", str(run)]) == 0
    shot = tmp_path / "page.png"
    common = ["chromium", *_FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]
    subprocess.run(
        [*common, f"--screenshot={shot}", f"file://{run}/report.html"], check=True, timeout=170,
        capture_output=True,
    )  # fmt: skip
    picture = images.imread(shot)
    assert picture.shape[:2] == (2400, 1200)
    coloured = (picture[..., :3].max(axis=2) - picture[..., :3].min(axis=2)) > 0.3
    assert coloured.sum() > 2_000, "figures are drawn"
    assert (picture[..., :3].min(axis=2) < 0.5).sum() > 10_000, "and text"


def test_a_comparison_shows_what_differs_beside_what_does_not(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    roots = [str(make_run(name, lr=lr, name=name).root) for name, lr in (("a", 0.1), ("b", 0.2))]
    page = tmp_path / "page.html"
    assert main(["report", *roots, "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    differing, same = text.split("<h2>Configuration</h2>")[1].split("<details>")
    assert "<th>lr</th>" in differing and "<td>0.2</td>" in differing
    assert "<th>model_class</th>" not in differing and "<td>MLP</td>" in same
