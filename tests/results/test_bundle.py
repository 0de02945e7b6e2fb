"""A bundle, unpacked elsewhere, redraws its figures byte for byte with its own code."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from decentralizepy.jsonfile import read_object
from results.cli import main


def _run(make_run: Callable[..., Any], name: str, lr: float) -> Path:
    root: Path = make_run(name, lr=lr, name=name).root
    (root / "attacks").mkdir()
    rows = [{"agent": uid, "target": 0, "iteration": 30, "roc_auc": 0.5 + lr / 10}
            for uid in range(5)]  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "attacks/threshold_x.csv", index=False)
    for secret in ("run.key", "machine0/0.log", "machine0/9_weight_0.safetensors"):
        (root / secret).write_text("secret")
    about = read_object(root / "machine0/run.json")
    image = root.parent / "image.sif"
    image.write_bytes(b"image")
    more = {"host": "paravance-1", "container": str(image), "revision": "abc"}
    (root / "machine0/run.json").write_text(json.dumps(about | more))
    return root


def test_an_unpacked_bundle_redraws_every_figure(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [str(_run(make_run, name, lr)) for name, lr in (("a", 1), ("b", 2))]
    archive = tmp_path / "paper.tar.gz"
    flags = ["--targets", "50", "--figure", "target --target 50 --name cost"]
    assert main(["bundle", *roots, "--output", str(archive), *flags]) == 0
    assert "2 run(s)" in capsys.readouterr().out
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "elsewhere", filter="data")
    folder = tmp_path / "elsewhere" / "paper"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    drawn = {"figures/privacy.pdf", "figures/attack.pdf", "figures/cost.pdf",
             "figures/test_accuracy_bytes.pdf", "tables/comparison_settings.csv"}  # fmt: skip
    packed = {"constraints.txt", "runs/a/config.ini", "runs/b/machine1/records_0.jsonl"}
    assert drawn | packed <= names
    assert not [name for name in names if name.endswith((".key", ".log", ".safetensors", ".npy"))]
    environment = json.loads((folder / "environment.json").read_text())["a"]
    assert len(environment["container_sha256"]) == 64 and environment["revision"] == "abc"
    assert "a machine0 paravance-1" in (folder / "nodes.txt").read_text()
    redraw = [sys.executable, "-I", str(folder / "redraw.py")]
    done = subprocess.run(redraw, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "all the same" in done.stdout
    assert (folder / "redrawn/figures/privacy.pdf").is_file()
    (folder / "figures/cost.pdf").write_bytes(b"other")
    script = "import runpy, sys; m = runpy.run_path(sys.argv[1]); " \
             "print(m['compare'](m['HERE'] / 'redrawn'))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script, str(folder / "redraw.py")],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert "['figures/cost.pdf']" in done.stdout


def test_what_cannot_be_packed_is_told(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, archive = str(make_run().root), str(tmp_path / "x.tar.gz")
    for words, said in (
        (["--output", str(tmp_path / "x.zip")], "X.tar.gz"),
        (["--output", archive, "--figure", "roc"], "no models were kept"),
        (["--output", archive, "--figure", "target --target 99.9"], "no run reached 99.9 %"),
    ):
        assert main(["bundle", root, *words]) == 2
        assert said in capsys.readouterr().err
    assert not Path(archive).exists()
