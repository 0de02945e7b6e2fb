"""Jobs on the stand-in's API alone: refusals, failures and races leave one job, or none."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from g5k_api import Api
from g5k_client import fresh, write_yaml
from g5k_reference import Cluster, Node, Site
from oar import PARIS

from orchestrator.backends import grid5000
from orchestrator.backends.base import Request, Reservation
from orchestrator.backends.grid5000 import Grid5000Backend, live_jobs
from orchestrator.config import Config
from orchestrator.errors import ReservationError

pytest.importorskip("enoslib")


def nodes(cluster: str, count: int) -> list[Node]:
    return [Node(f"{cluster}-{n}", f"192.0.2.{n}") for n in range(1, count + 1)]


SITES = [
    Site("rennes", [Cluster("paradoxe", nodes("paradoxe", 3))], "192.0.2.0/24", "192.0.2.254"),
    Site("lyon", [Cluster("nova", nodes("nova", 2))], "198.51.100.0/24", "198.51.100.254"),
]
SMALL = {"job_name": "a 'test'; " + "n" * 150, "CONFIG_NAME": "x.ini", "NB_AGENTS": 4,
         "NB_MACHINE": 2, "NB_ITERATION": 1, "TEST_AFTER": 1, "walltime": "0:30:00",
         "cluster": "paradoxe", "WAIT": 20}  # fmt: skip
BACKEND = Grid5000Backend(pause_s=0.05)


@pytest.fixture
def api() -> Iterator[Api]:
    with Api(SITES, {"alice": "secret", "bob": "also secret"}) as server:
        yield server
        assert server.unused() == []


@pytest.fixture(autouse=True)
def environment(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yaml(tmp_path, api.uri, "secret", timeout_s=2)
    fresh({"HOME": str(tmp_path), "NO_PROXY": "127.0.0.1", "TZ": "UTC"}, monkeypatch, tmp_path)
    quick = SimpleNamespace(sleep=lambda s: time.sleep(s / 50), time=time.time,
                            monotonic=time.monotonic, strftime=time.strftime,
                            localtime=time.localtime)  # fmt: skip
    monkeypatch.setattr(grid5000, "time", quick)


def plan(**changes: Any) -> Any:
    given = {key: value for key, value in (SMALL | changes).items() if value is not None}
    return SimpleNamespace(
        config=Config.model_validate(given), estimate=SimpleNamespace(seconds=100.0)
    )


def reserve(noted: list[Reservation] | None = None, **changes: Any) -> Reservation:
    one = plan(**changes)
    request = BACKEND.request(one, "run")
    return BACKEND.reserve(request, one, (noted if noted is not None else []).append)


def request(**changes: Any) -> Request:
    return BACKEND.request(plan(**changes), "run")


def posts(api: Api) -> int:
    return sum(r.startswith("POST") and r.endswith("/jobs") for r in api.requests)


def test_machines_are_granted_found_again_and_given_back(api: Api) -> None:
    noted: list[Reservation] = []
    granted = reserve(noted)
    assert granted.hosts == tuple(
        f"alice@paradoxe-{n}.rennes.grid5000.fr" for n in (1, 2)
    ) and len(granted.name) == 100  # fmt: skip
    assert granted.deadline is not None
    assert abs(granted.deadline - time.time() - 40 * 60) < 30, "walltime and margin"
    assert noted[0].ids and not noted[0].hosts, "the id is known before the machines are"
    assert BACKEND.find(request()) == granted
    assert BACKEND.find(request(walltime="0:31:00")) is None, "another request"
    again = reserve()
    assert again == granted and posts(api) == 1
    for _ in range(2):
        BACKEND.release(granted)
    assert api.live_jobs() == [] and BACKEND.find(request()) is None


def test_a_name_is_the_same_in_all_processes() -> None:
    assert request().name == request().name != request(queue="production").name
    other = BACKEND.request(plan(), "another run")
    assert other.name != request().name


@pytest.mark.parametrize(
    ("queue", "types"),
    [("default", ["night", "deploy"]), ("production", ["deploy"]), ("abaca", ["deploy"])],
)
def test_in_production_nodes_may_be_deployed(queue: str, types: list[str]) -> None:
    asked = request(queue=queue, job_type=["night", "deploy"], ENV_NAME="debian12-nfs")
    assert asked.values["job_type"] == types


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"NB_MACHINE": 4}, "rennes refuses the job: .*not enough resources"),
        ({"cluster": "paradise"}, "there is no cluster 'paradise'; known: nova, paradoxe"),
        ({"queue": "production"}, "refuses the job"),
        ({"job_type": ["nonsense"]}, "unknown job type"),
        ({"reservation": "2020-01-01 00:00:00"}, "is in the past"),
    ],
)
def test_a_refusal_is_told_and_leaves_no_job(api: Api, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ReservationError, match=says):
        reserve(**changes)
    assert api.live_jobs() == []


def test_a_busy_slot_says_when_it_could_be(api: Api) -> None:
    oar = api.oars["rennes"]
    oar.occupy(list(oar.nodes)[:2], 7200)
    moment = dt.datetime.fromtimestamp(time.time() + 600, PARIS).strftime("%Y-%m-%d %H:%M:%S")
    with pytest.raises(ReservationError, match="is taken; first possible start: 20"):
        reserve(reservation=moment)
    assert api.live_jobs() == []


def test_waiting_has_an_end(api: Api) -> None:
    oar = api.oars["rennes"]
    oar.occupy(list(oar.nodes)[:2], 7200)
    with pytest.raises(ReservationError, match=r"no machines within WAIT = 0\.3 s: .*waiting"):
        reserve(WAIT=0.3)
    assert api.live_jobs() == []


@pytest.mark.parametrize(
    "fault",
    [
        {"code": 500}, {"code": 503}, {"code": 500, "after": True}, {"cut": True, "after": True},
        {"silent": True, "after": True},
    ],
)  # fmt: skip
def test_a_job_that_may_have_been_made_is_not_made_again(api: Api, fault: dict[str, Any]) -> None:
    api.fault("POST", "/jobs$", **fault)
    granted = reserve()
    assert len(api.live_jobs()) == 1 and posts(api) == (1 if "after" in fault else 2)
    BACKEND.release(granted)


@pytest.mark.parametrize("code", [403, 429, 500, 503])
def test_questions_are_asked_again(api: Api, code: int) -> None:
    api.fault("GET", "/jobs", code=code, times=2)
    BACKEND.release(reserve())
    assert api.live_jobs() == []


def test_a_wrong_password_is_told(api: Api, tmp_path: Path) -> None:
    write_yaml(tmp_path, api.uri, "wrong")
    with pytest.raises(ReservationError, match="rejects the user name or password"):
        reserve()


def test_without_credentials_nobody_is_asked(tmp_path: Path, api: Api) -> None:
    (tmp_path / ".python-grid5000.yaml").unlink()
    with pytest.raises(ReservationError, match=r"write .*python-grid5000\.yaml"):
        reserve()
    assert api.requests == []


def test_a_job_that_dies_while_we_wait(api: Api) -> None:
    oar = api.oars["rennes"]
    oar.occupy(list(oar.nodes)[:2], 7200)

    def kill(reservation: Reservation) -> None:
        oar.end(int(reservation.ids[0].partition(":")[2]))

    one = plan()
    with pytest.raises(ReservationError, match="ended in state"):
        BACKEND.reserve(BACKEND.request(one, "run"), one, kill)
    assert api.live_jobs() == []


def test_who_is_interrupted_while_waiting_finds_the_job_again(api: Api) -> None:
    """A closed terminal leaves the job waiting; whoever comes back waits for the same one."""
    oar = api.oars["rennes"]
    busy = oar.occupy(list(oar.nodes)[:2], 7200)

    def interrupt(reservation: Reservation) -> None:
        raise KeyboardInterrupt

    one = plan()
    with pytest.raises(KeyboardInterrupt):
        BACKEND.reserve(BACKEND.request(one, "run"), one, interrupt)
    assert len(api.live_jobs()) == 1
    waiting = BACKEND.find(request())
    assert waiting is not None and not waiting.hosts
    oar.end(busy.uid)
    granted = reserve()
    assert granted.ids == waiting.ids and len(granted.hosts) == 2 and posts(api) == 1
    BACKEND.release(granted)


def test_several_sites_are_one_reservation(api: Api) -> None:
    both = {"cluster": None, "CLUSTERS": {"paradoxe": 1, "nova": 1}}
    granted = reserve(**both)
    assert [host.split(".")[1] for host in granted.hosts] == ["lyon", "rennes"]
    assert BACKEND.find(request(**both)) == granted
    oar = api.oars["lyon"]
    oar.end(int(next(w for w in granted.ids if w.startswith("lyon")).partition(":")[2]))
    assert BACKEND.find(request(**both)) is None, "half of a reservation is given back"
    assert api.live_jobs() == []


def test_a_site_that_refuses_frees_the_other_one(api: Api) -> None:
    with pytest.raises(ReservationError, match="rennes refuses"):
        reserve(cluster=None, CLUSTERS={"nova": 1, "paradoxe": 5}, NB_MACHINE=6, NB_AGENTS=6)
    assert api.live_jobs() == []


def test_two_jobs_of_a_name_are_told(api: Api) -> None:
    oar = api.oars["rennes"]
    first = reserve()
    from enoslib.infra.enos_g5k.g5k_api_utils import get_api_client

    get_api_client().sites["rennes"].jobs.create(
        {"command": "sleep 1", "name": first.name, "resources": "nodes=1"}
    )
    with pytest.raises(ReservationError, match="several live jobs on rennes"):
        live_jobs(first.name, ["rennes"])
    for job in oar.jobs():
        oar.delete(job.uid)
