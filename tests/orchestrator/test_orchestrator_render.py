"""Rendering: golden files, and nothing but two keys of the user's text is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrator_fakes import INI, Make

from decentralizepy.config import parse_experiment
from decentralizepy.errors import ConfigError
from orchestrator.backends.base import Request
from orchestrator.backends.slurm import script
from orchestrator.cli import main
from orchestrator.hosts import code
from orchestrator.planning.inputs import read_inputs
from orchestrator.planning.render import render, render_addresses, with_communication
from orchestrator.planning.task import read_task

GOLDEN = Path(__file__).parent / "golden"
PATH = Path("some.ini")
OFFSET, WORKERS = 12345, 2


def test_the_address_file() -> None:
    text = render_addresses([f"127.0.0.{machine + 1}" for machine in range(12)])
    assert text == (GOLDEN / "ip.json").read_text()
    assert json.loads(text)["11"] == "127.0.0.12"


def test_the_ini(make: Make) -> None:
    templated = INI.replace("random_seed = 90", "random_seed = {{ NB_AGENTS * 10 }}")
    task = read_task(read_inputs(make(ini=templated)), OFFSET, WORKERS)
    assert task.experiment.text == (GOLDEN / "config.ini").read_text()
    assert task.experiment.offset == 12345
    assert task.experiment.addresses_filepath == "ip.json"
    assert task.experiment.seed == 90


@pytest.mark.parametrize(
    ("in_ini", "in_json", "expected"),
    [(None, None, 12345), (4000, None, 4000), (None, 12345, 12345), (4000, 12345, 4000)],
)
def test_the_first_port(make: Make, in_ini: int, in_json: int, expected: int) -> None:
    """The INI's own comes first, then the JSON's, then the one that was found."""
    ini = (
        INI
        if in_ini is None
        else INI.replace("comm_class = TCP", f"comm_class = TCP\noffset={in_ini}")
    )
    task = read_task(read_inputs(make(ini=ini, OFFSET=in_json)), OFFSET, WORKERS)
    assert task.experiment.offset == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a = {{ NB_AGENT }}", r"some.ini: .*NB_AGENT.*did you mean 'NB_AGENTS'"),
        ("a\n{% if %}", "line 2"),
        ("{{ NB_AGENTS / 0 }}", "division"),
        ("{{ ().__class__.__mro__ }}", "unsafe"),
        ("{{ NB_AGENTS.nothing }}", "nothing"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "too big"),
    ],
)
def test_templates_that_cannot_be_rendered(template: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        render(template, {"NB_AGENTS": 4}, PATH)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ 'a' * 10**11 }}", "some.ini: rendering it takes more than 256 MiB of memory"),
        ("{{ 'a' | center(10**11) }}", "more than 256 MiB of memory"),
        ("{{ 9**(9**9) }}", "takes more than 1 s"),
        ("{{ 'a' * 2000000 }}", "1 MiB of text"),
        ("{{ 'a' * 50000000 }}", "1 s or 1 MiB of text"),
        ("lr = {{ '\\ud800' }}", "half of a surrogate pair"),
        ("{% for i in range(10**4) %}{% for j in range(10**5) %}{% endfor %}{% endfor %}", "1 s"),
    ],
)
def test_templates_have_limits(
    template: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.planning.bounded.SECONDS", 1.0)
    with pytest.raises(ConfigError, match=expected):
        render(template, {}, PATH)


def test_what_is_rendered_may_be_any_text() -> None:
    assert render("é {{ 'ü' }} \U0001f600\n{# gone #}\n", {}, PATH) == "é ü \U0001f600\n"
    assert render("no template: { % }\n", {}, PATH) == "no template: { % }\n"


ADDRESS_LINE = "addresses_filepath = somewhere/else.json ; replaced\n"
CLASS_LINE = "comm_class = TCP"
#: what differs -> (text to look for, its replacement)
VARIANTS: dict[str, tuple[str, str]] = {
    "as it is": ("", ""),
    "no address": (ADDRESS_LINE, ""),
    "colon, capitals": ("addresses_filepath = some", "Addresses_FilePath:some"),
    "several lines": ("; replaced", "\n   more.json\n\tand.json"),
    "comment after the header": ("[COMMUNICATION]", "[COMMUNICATION] ; how"),
    "brackets in values": ("lr = 0.05", "lr = 0.05\n  [COMMUNICATION]"),
    "vertical tab": ("; what to train", "; what\x0b to\u2028train"),
    "old offset": (CLASS_LINE, f"OFFSET : 1\n   2\n{CLASS_LINE}"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_only_two_keys_change(name: str) -> None:
    text = INI.replace(*VARIANTS[name], 1)
    changed = with_communication(text, PATH, 777)
    kept = [line for line in text.split("\n") if "json" not in line and "OFFSET" not in line]
    kept = [line for line in kept if line.strip() != "2"]
    rest = [line for line in changed.split("\n") if line.strip()
            not in ("addresses_filepath = ip.json", "offset = 777")]  # fmt: skip
    assert rest == kept
    assert with_communication(changed, PATH, 777) == changed
    if "brackets" not in name:
        assert parse_experiment(changed, PATH).offset == 777


def test_a_file_without_a_last_newline() -> None:
    text = "[COMMUNICATION]\ncomm_class = TCP"
    assert with_communication(text, PATH, 5) == (
        "[COMMUNICATION]\ncomm_class = TCP\naddresses_filepath = ip.json\noffset = 5\n"
    )


@given(st.text(alphabet="[]COMMUNICATION=:;# \n\tabx5offset", max_size=80))
def test_no_text_breaks_it(text: str) -> None:
    """Whatever the INI is, the keys are set or a `ConfigError` says so."""
    try:
        changed = with_communication(text, PATH, 5)
    except ConfigError:
        return
    assert with_communication(changed, PATH, 5) == changed


def test_a_section_that_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"needs the section \[COMMUNICATION\]"):
        with_communication("[DATASET]\n", PATH, 5)


@pytest.mark.parametrize("name", ["plain", "full"])
def test_the_script_of_a_slurm_job(make: Make, name: str) -> None:
    full = {
        "WORKERS": 4, "queue": "long", "PROJECT": "deep", "reservation": "2030-01-02 03:04:05",
        "SBATCH": ["--constraint=skylake", "--mem=0"], "SETUP": ["module load python/3.11"],
    }  # fmt: skip
    changes = {"WORKERS": None} if name == "plain" else full
    path = make(BACKEND="slurm", walltime="1:30:00", PYTHON="/opt/py/bin/python", **changes)
    config = read_inputs(path).config
    more = {"walltime": "01:40:00", "common": "/home/me/runs/.slurm"}
    text = script(Request("small", "a run", {}, more), config)
    digest = code.runner().digest
    assert text.replace(digest, "DIGEST") == (GOLDEN / f"slurm_{name}.sh").read_text()


def test_a_slurm_job_is_shown_before_it_is_submitted(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(make(BACKEND="slurm", walltime="1:30:00")), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "\njob.sh\n  #!/bin/bash\n  #SBATCH --job-name=small-" in shown
    assert "#SBATCH --time=01:40:00" in shown
