"""A stand-in for the Grid'5000 REST API: a real HTTP server, with Oar behind it.

It answers in the shapes of the real one, so that EnOSlib's provider runs against it as it is, and
refuses what OAR refuses. What goes wrong in life can be ordered: `Api.fault` for the wire, the
methods of `Oar` for jobs. Each ordered fault must happen, see `Api.unused`.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from g5k_reference import Site, _links
from oar import PARIS, Clock, Job, Oar
from oar_request import Refused

BASE = "/stable"
LIST_LIMIT, LIST_MOST = 50, 500
STATES = {  # as users write them; OAR's database has others, which a query by state never finds
    "waiting", "hold", "launching", "running", "finishing", "terminated", "error", "suspended",
}  # fmt: skip
ENVIRONMENTS = ("debian11-min", "debian12-min", "debian12-nfs", "debian12-big", "debian13-nfs")


class HttpError(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclasses.dataclass
class Fault:
    """Something that happens to the next `times` requests of `method` whose path has `pattern`.

    `code` and `text`: an error in place of the answer. `silent`: no answer ever. `cut`: the
    connection is closed. `after`: the request has its effect before.
    """

    method: str
    pattern: str
    times: int = 1
    code: int = 0
    text: str = "Service unavailable"
    silent: bool = False
    cut: bool = False
    after: bool = False

    def hits(self, method: str, path: str) -> bool:
        """Whether it is this request's turn; counts it."""
        hit = self.times > 0 and method == self.method and re.search(self.pattern, path) is not None
        self.times -= hit
        return hit


@dataclasses.dataclass
class Deployment:
    """An environment on its way to some nodes."""

    uid: str
    site: str
    user: str
    nodes: list[str]
    environment: str
    key: str
    status: str = "processing"
    result: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """``GET /sites/SITE/deployments/UID``."""
        return {
            "uid": self.uid, "site_uid": self.site, "user_uid": self.user, "nodes": self.nodes,
            "environment": self.environment, "status": self.status, "result": self.result,
            "links": _links(f"/sites/{self.site}/deployments/{self.uid}"),
        }  # fmt: skip


def no_machine(deployment: Deployment, node: str) -> bool:
    """Deploys nowhere, with success."""
    return True


class Api:
    """The API of some sites; `users` are names and passwords. Use as a context manager.

    Attributes: `uri` for ``.python-grid5000.yaml``; `oars`, the scheduler of each site; `clock`,
    theirs; `requests`, what was asked, as "POST /sites/rennes/jobs".
    `deploy(deployment, node)` puts an environment onto a machine and says whether it went well.
    """

    def __init__(
        self, sites: Sequence[Site], users: Mapping[str, str], *,
        on_start: Callable[[Job], None] = lambda job: None,
        on_end: Callable[[Job], None] = lambda job: None,
        deploy: Callable[[Deployment, str], bool] = no_machine,
    ) -> None:  # fmt: skip
        self.sites = {site.name: site for site in sites}
        self.users, self.clock, self.deploy = dict(users), Clock(), deploy
        self.oars = {
            site.name: Oar(site.properties(), self.clock, 1_000_001 + 1_000_000 * number,
                           on_start, on_end)
            for number, site in enumerate(sites)
        }  # fmt: skip
        self.requests: list[str] = []
        self.deployments: dict[str, Deployment] = {}
        self.rules: dict[str, list[Any]] = {}  # firewall and storage, by path
        self.power_w: Callable[[str, float], float] = lambda node, time: 100.0
        self._faults: list[Fault] = []
        self._numbers = itertools.count(1)
        self.ended = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}{BASE}"

    def __enter__(self) -> Api:
        for oar in self.oars.values():
            oar.start()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for oar in self.oars.values():
            oar.stop()

    def fault(self, method: str, pattern: str, **how: Any) -> Fault:
        """Order a fault; the options are those of `Fault`."""
        self._faults.append(Fault(method, pattern, **how))
        return self._faults[-1]

    def unused(self) -> list[str]:
        """Faults that were ordered and have not happened; must be [] at a test's end."""
        return [f"{one.method} {one.pattern}: {one.times}" for one in self._faults if one.times]

    def live_jobs(self, user: str = "alice") -> list[str]:
        """Jobs that this user still has, in all sites: ``["rennes 1000001 running"]``."""
        return [
            f"{site} {job.uid} {job.state}"
            for site, oar in self.oars.items()
            for job in oar.jobs()
            if job.user == user and job.state not in ("error", "terminated")
        ]

    # -- requests --

    def strike(self, method: str, path: str) -> Fault | None:
        """The ordered fault for this request, if any."""
        return next((fault for fault in self._faults if fault.hits(method, path)), None)

    def answer(self, method: str, path: str, query: Mapping[str, str], user: str | None,
               body: Any) -> tuple[int, Any]:  # fmt: skip
        """Status and JSON. Raises HttpError."""
        for verb, pattern, function in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and verb == method:
                try:
                    return function(self, Call(query, user, body), *found.groups())
                except KeyError as error:
                    raise HttpError(404, f"{path} not found: {error}") from error
                except Refused as error:
                    raise HttpError(400, f"Oarsub failed: {error}") from error
        raise HttpError(404, f"{method} {path}: no such resource")

    def number(self) -> int:
        """A new one."""
        return next(self._numbers)


@dataclasses.dataclass(frozen=True)
class Call:
    """Who asks, and what besides the path."""

    query: Mapping[str, str]
    user: str | None
    body: Any

    def known_user(self) -> str:
        """What changes something is not for anonymous users."""
        if self.user is None:
            raise HttpError(401, "Authorization required")
        return self.user


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: Api


class _Handler(BaseHTTPRequestHandler):
    """One connection. Answers of the real API carry a charset in their content type."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet; see `Api.requests`."""

    def _serve(self, method: str) -> None:
        parts = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(parts.path).removeprefix(BASE).rstrip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        api = self.server.api
        api.requests.append(f"{method} {path}")
        fault = api.strike(method, path)
        if fault is not None and not fault.after:
            self._suffer(fault)
            return
        try:
            user = self._user()
            query = dict(urllib.parse.parse_qsl(parts.query))
            code, content = api.answer(method, path, query, user, json.loads(body or b"null"))
        except HttpError as error:
            code = error.code
            content = {"code": error.code, "title": "Error", "message": error.message}
        if fault is not None:
            self._suffer(fault)
            return
        self._reply(code, content)

    def _user(self) -> str | None:
        """None without credentials; wrong ones are refused."""
        kind, _, secret = self.headers.get("Authorization", "").partition(" ")
        if kind != "Basic":
            return None
        name, _, password = base64.b64decode(secret).decode().partition(":")
        if self.server.api.users.get(name) != password:
            raise HttpError(401, "Authorization required")
        return name

    def _suffer(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.silent:
            self.server.api.ended.wait()
        elif not fault.cut:
            self._reply(fault.code, {"code": fault.code, "message": fault.text})

    def _reply(self, code: int, content: Any) -> None:
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


Answer = tuple[int, Any]


def listed(items: Sequence[Any], total: int | None = None, offset: int = 0) -> Answer:
    """A list as the API gives it."""
    total = len(items) if total is None else total
    return 200, {"total": total, "offset": offset, "items": list(items), "links": []}


def sites(api: Api, call: Call) -> Answer:
    """All sites."""
    return listed([site.describe() for site in api.sites.values()])


def site(api: Api, call: Call, name: str) -> Answer:
    """One site."""
    return 200, api.sites[name].describe()


def server(api: Api, call: Call, name: str, uid: str) -> Answer:
    """A service machine of a site."""
    return 200, api.sites[name].describe_server(uid)


def clusters(api: Api, call: Call, name: str) -> Answer:
    """The clusters of a site."""
    return listed([cluster.describe(name) for cluster in api.sites[name].clusters])


def cluster(api: Api, call: Call, name: str, uid: str) -> Answer:
    """One cluster."""
    return 200, api.sites[name].cluster(uid).describe(name)


def nodes(api: Api, call: Call, name: str, uid: str) -> Answer:
    """The nodes of a cluster."""
    group = api.sites[name].cluster(uid)
    return listed([group.describe_node(name, node) for node in group.nodes])


def node(api: Api, call: Call, name: str, uid: str, node_uid: str) -> Answer:
    """One node."""
    group = api.sites[name].cluster(uid)
    found = {one.name: one for one in group.nodes}[node_uid]
    return 200, group.describe_node(name, found)


def status(api: Api, call: Call, name: str, uid: str) -> Answer:
    """Who has the nodes of a cluster, now and later."""
    oar, group = api.oars[name], api.sites[name].cluster(uid)
    names = [full for full, one in api.sites[name].nodes().items() if one in group.nodes]
    return 200, {"uid": 1, "nodes": {full: _node_status(oar, full) for full in names}}


def _node_status(oar: Oar, name: str) -> dict[str, Any]:
    booked = oar.bookings(name)
    busy = any(job.started_at for job in booked)
    return {
        "hard": "dead" if name in oar.dead else "alive",
        "soft": "busy" if busy else "free",
        "reservations": [describe_job(job, short=True) for job in booked],
    }


def jobs(api: Api, call: Call, name: str) -> Answer:
    """Jobs, the newest first, filtered as the query says; without nodes unless asked."""
    api.sites[name]
    found = [job for job in api.oars[name].jobs() if _wanted(job, call.query)]
    offset = int(call.query.get("offset", 0))
    limit = min(int(call.query.get("limit", LIST_LIMIT)), LIST_MOST)
    short = call.query.get("resources") != "yes"
    page = [describe_job(job, name, short) for job in found[offset : offset + limit]]
    return listed(page, len(found), offset)


def _wanted(job: Job, query: Mapping[str, str]) -> bool:
    states = {state.lower() for state in query.get("state", "").split(",") if state} & STATES
    return (
        ("state" not in query or job.state in states)
        and query.get("name", job.name) == job.name
        and query.get("user", job.user) == job.user
        and query.get("queue", job.queue) == job.queue
    )


def job(api: Api, call: Call, name: str, uid: str) -> Answer:
    """One job, with all that is known."""
    return 200, describe_job(api.oars[name].job(int(uid)), name)


def submit(api: Api, call: Call, name: str) -> Answer:
    """A new job."""
    user, body = call.known_user(), call.body or {}
    api.sites[name]
    known = ("resources", "name", "queue", "types", "project", "command", "reservation")
    wanted = {key: body[key] for key in known if body.get(key) is not None}
    if "command" not in wanted or "resources" not in wanted:
        raise HttpError(400, "a job needs a command and resources")
    made = api.oars[name].submit(user, **wanted)
    return 201, describe_job(made, name)


def delete(api: Api, call: Call, name: str, uid: str) -> Answer:
    """The end of a job."""
    _own(api, call, name, uid)
    api.oars[name].delete(int(uid))
    return 202, None


def walltime(api: Api, call: Call, name: str, uid: str) -> Answer:
    """What a job's walltime is."""
    seconds = _own(api, call, name, uid).walltime
    return 200, {"walltime": _clock_text(seconds), "possible": "yes", "pending": "0:0:0"}


def change_walltime(api: Api, call: Call, name: str, uid: str) -> Answer:
    """More time, if the nodes are free."""
    _own(api, call, name, uid)
    hours, _, minutes = str(call.body["walltime"]).lstrip("+").partition(":")
    api.oars[name].extend(int(uid), int(hours) * 3600 + int(minutes or 0) * 60)
    return 202, {"status": "Accepted", "message": "Request successfully registered"}


def _own(api: Api, call: Call, name: str, uid: str) -> Job:
    found = api.oars[name].job(int(uid))
    if found.user != call.known_user():
        raise HttpError(403, f"Job {uid} is not yours")
    return found


def deploy(api: Api, call: Call, name: str) -> Answer:
    """An environment onto nodes of the user's own job of type deploy."""
    user, body = call.known_user(), call.body
    if body["environment"] not in ENVIRONMENTS:
        raise HttpError(400, f"The environment {body['environment']} does not exist")
    mine = {
        full
        for one in api.oars[name].jobs()
        if one.user == user and one.state == "running" and "deploy" in one.types
        for full in one.nodes
    }
    if not body["nodes"] or set(body["nodes"]) - mine:
        raise HttpError(403, "You do not have sufficient rights to deploy on all of these nodes")
    made = Deployment(
        f"D-{api.number()}", name, user, list(body["nodes"]), body["environment"],
        body.get("key", ""),
    )  # fmt: skip
    api.deployments[made.uid] = made
    threading.Thread(target=_deploy, args=(api, made), daemon=True).start()
    return 201, made.describe()


def _deploy(api: Api, deployment: Deployment) -> None:
    for full in deployment.nodes:
        well = api.deploy(deployment, full)
        deployment.result[full] = {"state": "OK" if well else "KO"}
    deployment.status = "terminated"


def deployment(api: Api, call: Call, name: str, uid: str) -> Answer:
    """How far it is."""
    return 200, api.deployments[uid].describe()


def metrics(api: Api, call: Call, name: str) -> Answer:
    """Kwollect: what was measured between two times; at most up to now."""
    begin, end = _moment(call.query["start_time"]), _moment(call.query["end_time"])
    wanted = call.query["metrics"].split(",") if "metrics" in call.query else None
    values = []
    for uid in call.query["nodes"].split(","):
        group = api.sites[name].cluster(uid.split("-")[0])
        for metric in group.metrics:
            if wanted is None or metric["name"] in wanted:
                values += _series(api, uid, metric, begin, min(end, api.clock.now()))
    return 200, values


def _series(
    api: Api, uid: str, metric: Mapping[str, Any], begin: float, end: float
) -> list[dict[str, Any]]:
    period = metric["period"] / 1000
    first = int(begin / period) + 1
    times = [number * period for number in range(first, int(end / period) + 1)]
    return [
        {
            "timestamp": dt.datetime.fromtimestamp(time, PARIS).isoformat(),
            "device_id": uid,
            "metric_id": metric["name"],
            "value": api.power_w(uid, time),
            "labels": {},
        }
        for time in times
    ]


def _moment(text: str) -> float:
    """Seconds, or a date."""
    try:
        return float(text)
    except ValueError:
        return dt.datetime.fromisoformat(text).timestamp()


def add_rule(api: Api, call: Call, *place: str) -> Answer:
    """Firewall and storage: kept, and given back."""
    call.known_user()
    added = call.body if isinstance(call.body, list) else [call.body]
    api.rules.setdefault("/".join(place), []).extend(added)
    return 201, call.body


def rules(api: Api, call: Call, *place: str) -> Answer:
    """Those in force."""
    return 200, api.rules.get("/".join(place), [])


def remove_rules(api: Api, call: Call, *place: str) -> Answer:
    """All of a place."""
    call.known_user()
    api.rules.pop("/".join(place), None)
    return 202, None


def storage(api: Api, call: Call, *place: str) -> Answer:
    """Accesses by name, as an object."""
    return 200, {f"{place[-1]}_{i}": rule for i, rule in enumerate(rules(api, call, *place)[1])}


def describe_job(job: Job, site: str = "", short: bool = False) -> dict[str, Any]:
    """`short`: as in lists, without nodes."""
    content = {
        "uid": job.uid,
        "user_uid": job.user,
        "user": job.user,
        "name": job.name,
        "state": job.state,
        "types": job.types,
        "queue": job.queue,
        "project": job.project,
        "command": job.command,
        "mode": "RESERVATION" if job.reservation else "PASSIVE",
        "walltime": job.walltime,
        "submitted_at": int(job.submitted_at),
        "scheduled_at": _whole(job.scheduled_at),
        "started_at": _whole(job.started_at),
        "stopped_at": _whole(job.stopped_at),
        "message": f"R={len(job.nodes)},W={_clock_text(job.walltime)},J=B,Q={job.queue}",
        "links": _links(f"/sites/{site}/jobs/{job.uid}"),
    }
    if short:
        return content
    events = [
        {"uid": number, "created_at": int(when), "type": kind, "description": text}
        for number, (when, kind, text) in enumerate(job.events, 1)
    ]
    cores = [name for name in job.nodes for _ in range(4)]
    return content | {
        "assigned_nodes": job.nodes,
        "resources_by_type": {"cores": cores},
        "events": events,
    }


def _whole(time: float | None) -> int | None:
    return None if time is None else int(time)


def _clock_text(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60}:{seconds % 60}"


NAME = r"/sites/([\w-]+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/sites", sites),
    ("GET", NAME, site),
    ("GET", rf"{NAME}/servers/([\w.-]+)", server),
    ("GET", rf"{NAME}/clusters", clusters),
    ("GET", rf"{NAME}/clusters/([\w-]+)", cluster),
    ("GET", rf"{NAME}/clusters/([\w-]+)/nodes", nodes),
    ("GET", rf"{NAME}/clusters/([\w-]+)/nodes/([\w.-]+)", node),
    ("GET", rf"{NAME}/clusters/([\w-]+)/status", status),
    ("GET", rf"{NAME}/jobs", jobs),
    ("POST", rf"{NAME}/jobs", submit),
    ("GET", rf"{NAME}/jobs/(\d+)", job),
    ("DELETE", rf"{NAME}/jobs/(\d+)", delete),
    ("GET", rf"{NAME}/jobs/(\d+)/walltime", walltime),
    ("POST", rf"{NAME}/jobs/(\d+)/walltime", change_walltime),
    ("POST", rf"{NAME}/deployments", deploy),
    ("GET", rf"{NAME}/deployments/([\w-]+)", deployment),
    ("GET", rf"{NAME}/metrics", metrics),
    ("GET", rf"{NAME}/firewall/(\d+)", rules),
    ("POST", rf"{NAME}/firewall/(\d+)", add_rule),
    ("DELETE", rf"{NAME}/firewall/(\d+)", remove_rules),
    ("GET", rf"{NAME}/storage/([\w.-]+)/([\w.-]+)/access", storage),
    ("POST", rf"{NAME}/storage/([\w.-]+)/([\w.-]+)/access", add_rule),
]
