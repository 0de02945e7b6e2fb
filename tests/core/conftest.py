"""An experiment's files in a folder of their own, and the command line over them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import core_examples as examples
import pytest

from decentralizepy import cli


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with small.ini, ring.edges (8 nodes) and ip.json (2 machines)."""
    monkeypatch.chdir(tmp_path)
    Path("small.ini").write_text(examples.ini())
    Path("ring.edges").write_text(examples.ring(8))
    Path("ip.json").write_text(json.dumps({"0": "127.0.0.1", "1": "127.0.0.2"}))
    return tmp_path


@pytest.fixture
def call(capsys):
    """Run ``decentralizepy`` here; gives its exit code and what it printed."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=out, err=err)

    return run
