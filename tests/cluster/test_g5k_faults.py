"""What EnOSlib's provider sees when the API refuses, fails or is slow: without any machine."""

from __future__ import annotations

import datetime as dt
import time

import pytest
from g5k_api import Api
from g5k_client import fresh, write_yaml
from g5k_reference import Cluster, Node, Site
from waiting import until

errors = pytest.importorskip("enoslib.errors", reason="EnOSlib is not installed")
grid_errors = pytest.importorskip("grid5000.exceptions")
requests = pytest.importorskip("requests")

USERS = {"alice": "secret", "bob": "also secret"}


def nodes(cluster, count):
    return [Node(f"{cluster}-{number}", f"192.0.2.{number}") for number in range(1, count + 1)]


SITES = [
    Site(
        "rennes",
        [Cluster("paradoxe", nodes("paradoxe", 3)), Cluster("roazhon", nodes("roazhon", 2),
         queues=["production"], exotic=True, gpus=2)],
        "192.0.2.0/24", "192.0.2.254",
    ),
    Site("lyon", [Cluster("nova", nodes("nova", 2))], "198.51.100.0/24", "198.51.100.254"),
]  # fmt: skip


@pytest.fixture
def api():
    with Api(SITES, USERS) as server:
        yield server
        assert server.unused() == []


@pytest.fixture
def home(api, tmp_path):
    write_yaml(tmp_path, api.uri, "secret")
    return tmp_path


@pytest.fixture
def enoslib(home, monkeypatch):
    return fresh({"HOME": str(home), "NO_PROXY": "127.0.0.1", "TZ": "UTC"}, monkeypatch, home)


@pytest.fixture
def provider(enoslib):
    """``provider(nodes=2, job_name=...)``: one that has asked for nothing yet."""

    def make(cluster="paradoxe", nodes=2, **settings):
        settings = {"job_name": "a test", "walltime": "01:00:00"} | settings
        conf = enoslib.G5kConf.from_settings(**settings)
        return enoslib.G5k(
            conf.add_machine(roles=["worker"], cluster=cluster, nodes=nodes).finalize()
        )

    return make


def posts(api):
    return sum(request.startswith("POST") and request.endswith("/jobs") for request in api.requests)


# -- refusals --


def test_a_wrong_password_is_noticed_before_anything_is_asked(api, home, provider):
    write_yaml(home, api.uri, "wrong")
    with pytest.raises(grid_errors.Grid5000AuthenticationError):
        provider()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"nodes": 4}, "not enough resources"),
        ({"job_name": "n" * 101}, "value too long"),
        ({"queue": "production"}, "not enough resources"),
        ({"cluster": "roazhon"}, "not enough resources"),  # only for the queue production
        ({"job_type": ["nonsense"]}, "unknown job type"),
    ],
)
def test_what_oar_refuses_is_refused(api, provider, settings, says):
    with pytest.raises(errors.InvalidReservationCritical) as refused:
        provider(**settings).async_init()
    assert "400" in refused.value.msg and says in refused.value.msg
    assert api.live_jobs() == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"resources": "{colour='red'}/nodes=1"}, 'column "colour" does not exist'),
        ({"resources": "nodes=1", "queue": "nowhere"}, "queue nowhere does not exist"),
        ({"resources": "nodes=1,walltime=0:0:0"}, "walltime"),
        ({}, "needs a command"),
    ],
)
def test_unknown_properties_and_queues_are_refused(enoslib, body, says):
    from enoslib.infra.enos_g5k.g5k_api_utils import get_api_client

    with pytest.raises(grid_errors.Grid5000CreateError, match=says):
        get_api_client().sites["rennes"].jobs.create({"command": "sleep 1"} | body)


def test_a_name_of_a_hundred_characters_and_an_exotic_cluster_are_fine(api, provider):
    provider(job_name="n" * 100).async_init()
    exotic = provider("roazhon", job_name="gpu", queue="production")
    exotic.async_init()
    assert [job.types for job in exotic.jobs] == [["exotic", "origin=enoslib_g5k"]]


def paris(seconds):
    from oar import PARIS

    return dt.datetime.fromtimestamp(seconds, PARIS).strftime("%Y-%m-%d %H:%M:%S")


def test_a_busy_slot_says_when_it_could_be(api, provider):
    oar = api.oars["rennes"]
    busy = oar.occupy(list(oar.nodes)[1:3], 7200)
    with pytest.raises(errors.InvalidReservationTime) as refused:
        provider(reservation=paris(time.time() + 600)).async_init()
    assert 0 < refused.value.datetime.timestamp() - busy.booked[1] < 3
    date = refused.value.datetime.strftime("%Y-%m-%d %H:%M:%S")
    second = provider(reservation=date)
    second.async_init()
    assert [job.state for job in second.jobs] == ["waiting"]
    api.clock.skip(7210)
    until(lambda: second.jobs[0].state == "running")


def test_a_past_reservation_is_too_old_and_a_late_one_is_short(api, provider):
    with pytest.raises(errors.InvalidReservationTooOld):
        provider(reservation=paris(time.time() - 3700)).async_init()
    late = provider(reservation=paris(time.time() - 1800))
    late.async_init()
    assert 1790 <= late.jobs[0].walltime <= 1800


# -- the wire --


def test_a_post_that_fails_looks_like_a_refusal_and_makes_no_job(api, provider):
    api.fault("POST", "/jobs$", code=503)
    with pytest.raises(errors.InvalidReservationCritical, match="503"):
        provider().async_init()
    assert api.live_jobs() == [] and posts(api) == 1


@pytest.mark.parametrize("how", [{"silent": True}, {"cut": True}])
def test_a_post_without_an_answer_has_made_the_job_and_it_is_found_again(api, home, provider, how):
    write_yaml(home, api.uri, "secret", timeout_s=0.5)
    asked = provider()
    api.fault("POST", "/jobs$", after=True, **how)
    with pytest.raises(requests.RequestException):
        asked.async_init()
    assert len(api.live_jobs()) == 1
    asked.async_init()
    assert len(api.live_jobs()) == 1 and posts(api) == 1


@pytest.mark.parametrize("code", [403, 503])
def test_a_get_that_fails_at_once_is_told(api, provider, code):
    asked = provider()
    api.fault("GET", "/jobs$", code=code)
    with pytest.raises(grid_errors.Grid5000ListError) as failed:
        asked.async_init()
    assert failed.value.response_code == code


def test_a_get_is_tried_again_after_a_server_error(api, provider):
    asked = provider()
    api.fault("GET", "/jobs$", code=502, times=2)
    asked.async_init()
    assert len(api.live_jobs()) == 1


# -- lives of jobs --


def test_a_job_runs_until_its_walltime_and_says_so(api, provider):
    asked = provider()
    asked.async_init()
    asked.wait()
    (job,) = asked.jobs
    assert job.state == "running" and len(job.assigned_nodes) == 2
    api.clock.skip(3601)
    until(lambda: asked.jobs == [])
    job.refresh()
    assert (job.state, job.events[-1]["type"]) == ("error", "WALLTIME")


def test_a_job_that_dies_while_it_is_waited_for_is_an_error(api, provider):
    oar = api.oars["rennes"]
    oar.occupy(list(oar.nodes)[:3], 3600)
    asked = provider()
    asked.async_init()
    oar.end(asked.jobs[0].uid, "NODE_FAILURE")
    with pytest.raises(Exception, match="error state"):
        asked.driver.wait()


def test_a_waiting_job_shows_when_and_where_it_may_run(api, provider):
    oar = api.oars["rennes"]
    busy = oar.occupy(list(oar.nodes)[:2], 5400)
    asked = provider()
    asked.async_init()
    (job,) = asked.jobs
    assert job.state == "waiting" and len(job.assigned_nodes) == 2
    assert abs(job.scheduled_at - busy.booked[1]) < 2
    assert not asked.test_slot(int(time.time()) + 60, 0)
    assert asked.test_slot(int(time.time()) + 7200, 0)


def test_lists_are_short_and_know_no_internal_states(api, provider):
    from enoslib.infra.enos_g5k.g5k_api_utils import get_api_client

    oar = api.oars["rennes"]
    asked = provider()
    asked.async_init()
    uid = asked.jobs[0].uid
    jobs = get_api_client().sites["rennes"].jobs
    (short,) = jobs.list(name="a test")
    assert "assigned_nodes" not in short.to_dict()
    assert "assigned_nodes" in jobs.list(name="a test", resources="yes")[0].to_dict()
    assert jobs.list(state="tolaunch") == []
    oar.hold(uid)
    assert asked.jobs == [] and [job.uid for job in jobs.list(state="hold")] == [uid]


def test_two_jobs_of_a_name_are_too_many(api, provider):
    for _ in range(2):
        api.oars["rennes"].submit("alice", resources="nodes=1", name="a test", command="sleep")
    with pytest.raises(Exception, match="Duplicate") as failed:
        provider().async_init()
    assert type(failed.value).__name__ == "EnosG5kDuplicateJobsError"


def test_a_job_of_another_type_is_replaced(api, provider):
    provider().async_init()
    first = api.live_jobs()
    provider(job_type=["night"]).async_init()
    until(lambda: len(api.live_jobs()) == 1)
    assert api.live_jobs() != first and posts(api) == 2


def test_a_job_is_deleted_once_and_only_by_its_user(api, provider):
    from enoslib.infra.enos_g5k.g5k_api_utils import get_api_client, job_delete

    asked = provider()
    asked.async_init()
    (job,) = asked.jobs
    asked.destroy(wait=True)
    with pytest.raises(grid_errors.Grid5000DeleteError, match="already killed"):
        job.delete()
    job_delete(job)
    job.refresh()
    assert job.events[-1]["type"] == "FRAG_JOB_REQUEST"
    other = api.oars["rennes"].submit("bob", resources="nodes=1", command="sleep")
    with pytest.raises(grid_errors.Grid5000DeleteError) as refused:
        get_api_client().sites["rennes"].jobs[other.uid].delete()
    assert refused.value.response_code == 403


def test_fewer_nodes_than_asked_are_possible(api, provider):
    api.oars["rennes"].withhold = 1
    asked = provider(nodes=3)
    asked.async_init()
    asked.wait()
    assert len(asked.driver.resources()[0]) == 2


def test_two_sites_start_together(api, enoslib, provider):
    conf = enoslib.G5kConf.from_settings(job_name="two", walltime="00:30:00")
    conf.add_machine(roles=["worker"], cluster="paradoxe", nodes=1)
    conf.add_machine(roles=["worker"], cluster="nova", nodes=2)
    asked = enoslib.G5k(conf.finalize())
    asked.async_init()
    assert len(api.live_jobs()) == 2 and {job.state for job in asked.jobs} == {"waiting"}
    begins = [job.scheduled_at for job in asked.jobs]
    assert min(begins) > time.time() + 40 and max(begins) - min(begins) < 30
    api.clock.skip(120)
    until(lambda: {job.state for job in asked.jobs} == {"running"})


def test_more_time_is_given_if_nobody_waits_for_the_nodes(api, provider):
    asked = provider()
    asked.async_init()
    asked.wait()
    (job,) = asked.jobs
    job.walltime_change.create({"walltime": "+1:00"})
    assert job.walltime_change.get().walltime == "2:0:0"
    oar = api.oars["rennes"]
    oar.submit("bob", resources="nodes=3,walltime=1", reservation=paris(time.time() + 7500),
               command="sleep")  # fmt: skip
    with pytest.raises(grid_errors.Grid5000CreateError, match="not free"):
        job.walltime_change.create({"walltime": "+1:00"})


def test_power_is_measured_each_second_until_now(api, enoslib):
    api.power_w = lambda node, when: 150.0 if node == "paradoxe-2" else 90.0
    end = time.time()
    from enoslib.infra.enos_g5k.g5k_api_utils import get_api_client

    values = get_api_client().sites["rennes"].metrics.list(
        nodes="paradoxe-1,paradoxe-2", metrics="wattmetre_power_watt",
        start_time=int(end) - 10, end_time=int(end) + 3600,
    )  # fmt: skip
    second = [value for value in values if value.device_id == "paradoxe-2"]
    assert len(second) in (10, 11) and {value.value for value in second} == {150.0}
    times = [dt.datetime.fromisoformat(value.timestamp).timestamp() for value in second]
    assert times == [float(int(end) - 10 + number) for number in range(1, len(times) + 1)]
