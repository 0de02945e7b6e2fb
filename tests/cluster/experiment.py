"""A small experiment with the real core, run by the command that its user would type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from waiting import until

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(REPOSITORY / "g5k_execution.py")]
VALUES = {
    "job_name": "small", "CONFIG_NAME": "digits_kshard2_mlp.ini", "NB_AGENTS": 16,
    "GRAPH_FILE": "16_4regular.edges", "NB_ITERATION": 12, "TEST_AFTER": 6, "WORKERS": 1,
    "EVAL_FILE": "testingPeerSampler.py", "CHECKPOINT_AFTER": 4,
}  # fmt: skip


#: Kills the command in the moment that it calls a method.
DEADLY = """
import os, runpy, signal, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from orchestrator.running import fleet, machines
owner = getattr({"Fleet": fleet, "Machines": machines}[sys.argv[2]], sys.argv[2])
setattr(owner, sys.argv[3], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
script = sys.argv[1]
del sys.argv[1:4]
runpy.run_path(script, run_name="__main__")
"""


class Run:
    """The experiment in a folder, with an environment, on a place."""

    def __init__(self, root: Path, environment: Mapping[str, str], **place: Any) -> None:
        self.root, self.environment = root, os.environ | dict(environment)
        self.config = root / "small.json"
        self.results = Path(place.setdefault("LOCAL_SAVE_DIR", str(root / "results")))
        self.values = VALUES | place
        self.config.write_text(json.dumps(self.values))

    @property
    def folder(self) -> Path:
        (found,) = (path for path in self.results.iterdir() if not path.name.startswith("."))
        return found

    def start(self, *words: str, killed_in: tuple[str, str] | None = None) -> subprocess.Popen[str]:
        """``killed_in``: a class and its method; who calls it dies at once."""
        deadly = [COMMAND[0], "-c", DEADLY, COMMAND[1], *(killed_in or ())]
        return subprocess.Popen(
            [*(deadly if killed_in else COMMAND), *(words or (str(self.config),))],
            cwd=self.root, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, *words: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        command = self.start(*words)
        out, errors = command.communicate(timeout=seconds)
        return subprocess.CompletedProcess(command.args, command.returncode, out, errors)

    def verb(self, verb: str) -> subprocess.CompletedProcess[str]:
        return self.finish(verb, str(self.folder))

    def events(self) -> list[str]:
        try:
            lines = (self.folder / "ledger.jsonl").read_text().splitlines()
        except (OSError, ValueError):
            return []
        return [json.loads(line)["event"] for line in lines]

    def await_event(self, event: str, seconds: float = 150) -> None:
        until(lambda: event in self.events(), seconds, told=self.events)


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("machine*/*_weight_*")}


def local_weights(run: Run) -> dict[str, bytes]:
    """Those of the same experiment on this computer, of which nothing else is needed."""
    return _local_weights(run.values["NB_ITERATION"])


@cache
def _local_weights(iterations: int) -> dict[str, bytes]:
    quiet = {"TEST_AFTER": 0, "CHECKPOINT_AFTER": 0}
    with tempfile.TemporaryDirectory() as root:
        here = Run(Path(root), {}, NB_MACHINE=1, NB_ITERATION=iterations, **quiet)
        done = here.finish()
        assert done.returncode == 0, done.stderr
        found = weights(here.folder)
    assert len(found) == 16
    return found
