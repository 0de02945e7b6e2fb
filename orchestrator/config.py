"""The JSON of an experiment, typed: where it runs and how big it is.

The upper-case keys are those of the reference system. `Config` is also the source of
``g5k_config/schema.json``, by which editors complete and check these files::

    python -m orchestrator.config > g5k_config/schema.json
"""

from __future__ import annotations

import getpass
import ipaddress
import json
import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from decentralizepy.config import SECTIONS
from decentralizepy.cpus import allotted
from decentralizepy.overrides import from_json, once
from orchestrator.emulation.settings import Emulation
from orchestrator.sweep.section import Sweep

#: Where results go when the JSON doesn't say; in the repository, ignored by git.
DEFAULT_SAVE_DIR: Final = "results/my_results"
LIMIT: Final = 10**9
#: Bytes of a job_name: folders and files are named by it, which may have 255 with what is added.
MOST_NAME_BYTES: Final = 200
#: A folder whose name needs no quoting anywhere.
PLAIN_FOLDER: Final = r"^/[\w./+@-]*$"
_MOMENT: Final = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"
_WALLTIME: Final = r"^\d{1,4}:[0-5]\d:[0-5]\d$"


def _boolean(value: Any) -> Any:
    """``"True"`` and ``"False"``, as the reference system's files write them."""
    return {"True": True, "False": False}.get(value, value) if isinstance(value, str) else value


def _job_types(value: Any) -> Any:
    """One name, a list of names, or the sentinel ``[[]]``, which means none."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return () if value == [[]] else tuple(value)
    return value


Count = Annotated[int, Field(ge=1, le=LIMIT)]
CountOrNone = Annotated[int, Field(ge=0, le=LIMIT)]
Seconds = Annotated[float, Field(ge=0, le=LIMIT, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Boolean = Annotated[
    bool,
    BeforeValidator(_boolean),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["True", "False"]}]}),
]
JobTypes = Annotated[
    tuple[str, ...],
    BeforeValidator(_job_types),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"const": [[]]},
            ]
        }
    ),
]


Texts = Annotated[
    tuple[Text, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    WithJsonSchema({"type": "array", "items": {"type": "string", "minLength": 1}}),
]


def _evaluated_nodes(value: Any) -> Any:
    """``all``, a number, or uids; a list of JSON as a tuple, which nobody can change."""
    if isinstance(value, list) and value and all(type(uid) is int for uid in value):
        return tuple(value)
    if value == "all" or type(value) is int:
        return value
    raise ValueError('"all", a number of nodes, or a list of uids as [0, 3] is expected')


EvaluatedNodes = Annotated[
    Literal["all"] | int | tuple[int, ...],
    BeforeValidator(_evaluated_nodes),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "all"},
                {"type": "integer", "minimum": 1},
                {"type": "array", "items": {"type": "integer"}, "minItems": 1},
            ]
        }
    ),
]


def _ini_keys(value: Any) -> Any:
    """``SECTION.key`` -> value, each a key that an INI can hold."""
    if not isinstance(value, dict):
        raise ValueError('an object is expected, as {"OPTIMIZER_PARAMS.lr": 0.05}')
    once(from_json(name, each, name) for name, each in value.items())
    return value


IniKeys = Annotated[
    dict[str, Any],
    BeforeValidator(_ini_keys),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": rf"^({'|'.join(SECTIONS)})\.[A-Za-z_]\w*$"},
            "additionalProperties": {"type": ["string", "number", "boolean", "array"]},
        }
    ),
]


class Config(BaseModel):
    """One experiment: an INI file, a graph, and how many nodes on how many machines."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, title="Decentralized learning experiment"
    )

    schema_uri: str = Field("", alias="$schema", description="This schema, for editors.")
    description: str = Field("", description="What this experiment is for; free text.")
    job_name: Annotated[str, Field(min_length=1, max_length=MOST_NAME_BYTES)] = Field(
        description="Name of the reservation, and suffix of the run folder."
    )
    GRAPH_FILE: Text | None = Field(
        None,
        description="Graph, looked for beside this file and in run_configuration/; not needed "
        "where the classes that the INI names for nodes or graphs need none.",
    )
    GRAPH_TYPE: Literal["edges", "adjacency"] | None = Field(
        None, description="Form of GRAPH_FILE; by default from its suffix (.adj is adjacency)."
    )
    NB_AGENTS: Count = Field(description="Number of nodes that learn; as many as the graph has.")
    NB_MACHINE: Count = Field(
        description="Number of machines; nodes are spread evenly, the first ones take one more."
    )
    NB_ITERATION: CountOrNone = Field(
        description="Training iterations of every node; 0: prepare the data set and the run "
        "folder only."
    )
    EVAL_FILE: Text | None = Field(
        None,
        description="Driver: testingPeerSampler.py (static, the default), "
        "testingPeerSamplerDynamic.py, ...; it gives the node program and the schedule of graphs "
        "where the INI names none.",
    )
    TEST_AFTER: CountOrNone = Field(
        description="Test every so many iterations (and after 1 and last); 0: never."
    )
    TRAIN_EVALUATE_AFTER: CountOrNone | None = Field(
        None,
        description="Training loss every so many iterations, 0: never; as TEST_AFTER by default.",
    )
    EVALUATED_NODES: EvaluatedNodes = Field(
        "all",
        description="Which nodes are evaluated: all, a number of nodes drawn at random, or a list "
        "of uids.",
    )
    TEST_SAMPLES: Count | None = Field(
        None, description="How many samples of the test set they are tested on; all if absent."
    )
    LOG_LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="What the nodes' logs tell."
    )
    CONFIG_NAME: Text = Field(
        description="INI file (what to train), looked for beside this file and in "
        "run_configuration/."
    )
    INI: IniKeys = Field(
        default_factory=dict,
        description='Keys of the INI set from here, as {"OPTIMIZER_PARAMS.lr": 0.05}; --set goes '
        "before them.",
    )
    MODULES: Texts = Field(
        (),
        description="Further files and folders that the user's own modules need, looked for as "
        "GRAPH_FILE is; they lie beside the INI on every machine, and are compared.",
    )
    AVERAGING_STEPS: Count = Field(1, description="Gossip rounds per training iteration.")
    RESET_OPTIMIZER: Literal[0, 1] = Field(
        0, description="1: a fresh optimizer in every iteration (momentum is lost)."
    )
    CHECKPOINT_AFTER: CountOrNone = Field(
        0, description="Save all nodes every so many iterations, to resume from; 0: never."
    )
    ON_LOSS: Literal["fail", "drop", "wait"] = Field(
        "fail",
        description="A worker or machine is lost: end, go on without its nodes, or go back to "
        "the newest checkpoint with all of them.",
    )
    WAIT_LIMIT: Seconds | None = Field(
        None,
        description="With ON_LOSS wait: seconds that a lost machine has to come back (600 if "
        "absent).",
    )
    PROGRESS_LIMIT: Annotated[Seconds, Field(ge=1)] | None = Field(
        None, description="A worker that stands still for so many seconds is lost (1800 if absent)."
    )
    START_TIMEOUT: Annotated[Seconds, Field(ge=1)] | None = Field(
        None, description="Seconds that machines wait for one another at the start (300 if absent)."
    )
    SIMULATE: Text | None = Field(
        None,
        description="Links and compute costs (docs/simulated_time.md) that seconds are calculated "
        "from; looked for as GRAPH_FILE is. Needs NB_MACHINE 1.",
    )
    FAULTS: Text | None = Field(
        None,
        description="Faults to inject (docs/simulated_time.md); looked for as GRAPH_FILE is.",
    )
    BACKEND: Literal["local", "grid5000", "ssh", "slurm"] | None = Field(
        None, description="Where: this computer (default without a cluster), or a cluster."
    )
    HOSTS: Texts = Field(
        (),
        description="With BACKEND ssh: the hosts as ssh knows them, as alice@node-1; a machine "
        "on each.",
    )
    SSH_OPTIONS: Texts = Field(
        (),
        description='Options of every ssh command, as ["-F", "my_ssh_config"]; the user\'s own '
        "ssh configuration is used without them.",
    )
    HOST_DIR: Annotated[str, Field(pattern=PLAIN_FOLDER)] | None = Field(
        None,
        description="Folder on each machine's own disk for runs, code and prepared data sets "
        "(/tmp/decentralizepy-USER if absent).",
    )
    DATASETS_DIR: Text | None = Field(
        None,
        description="The folder that the INI calls /datasets: on this computer, relative to this "
        "file, and copied to every machine's own disk once; or hosts:/PATH, a folder that the "
        "machines see.",
    )
    CONTAINER: Text | None = Field(
        None,
        description="Image to run the machines in, relative to the repository "
        "(compute_container.sif, which make builds); it is copied to every machine's own disk "
        "once. By default there is none.",
    )
    PYTHON: Text | None = Field(
        None,
        description="Python on the machines that has what the core needs; by default the "
        "path of the one here, else python3.",
    )
    ENVIRONMENT: dict[str, str] = Field(
        default_factory=dict, description="Environment variables of the machines' commands."
    )
    NETWORK: Text | None = Field(
        None,
        description="Network that the machines talk over, as 10.0.0.0/8; by default the "
        "address that ssh reaches.",
    )
    WORKERS: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Processes per machine; default: CPUs allotted / NB_MACHINE."
    )
    OFFSET: Annotated[int, Field(ge=1024, le=65000)] | None = Field(
        None,
        description="First TCP port, unless the INI has an offset of its own; by default a free "
        "range is looked for at start.",
    )
    DEVICE: Literal["cpu", "cuda"] = Field("cpu", description="What the nodes train on.")
    NETWORK_EMULATION: Emulation | None = Field(
        None,
        description="With ssh and grid5000: delay, rate and loss between the machines (docs/ssh.md"
        "#a-slower-network); measured before the run, removed after it.",
    )
    LOCAL_SAVE_DIR: Text = Field(
        DEFAULT_SAVE_DIR, description="Where run folders go; relative to the repository."
    )
    walltime: Annotated[str, Field(pattern=_WALLTIME)] | None = Field(
        None, description="H:MM:SS. A reservation's length; on this computer a limit."
    )
    cluster: str | None = Field(None, description="Grid'5000 cluster, or local.")
    CLUSTERS: dict[str, Count] = Field(
        default_factory=dict,
        description="With grid5000: nodes of several clusters, also on "
        'several sites, as {"paradoxe": 2, "nova": 1}; in place of cluster.',
    )
    SERVERS: Texts = Field(
        (), description="With grid5000: full names of the nodes, in place of a cluster."
    )
    reservation: Annotated[str, Field(pattern=_MOMENT)] | None = Field(
        None,
        description="When the reservation begins, YYYY-MM-DD HH:MM:SS, by the clock of the "
        "site; as soon as possible if absent.",
    )
    PROJECT: Text | None = Field(None, description="Project that the reservation is accounted to.")
    ENV_NAME: Text | None = Field(
        None, description="Environment to deploy, as debian12-nfs; goes with the job_type deploy."
    )
    MONITOR: Text | None = Field(
        None, description="Metric that has to be asked for, as bmc_node_power_watt."
    )
    MARGIN: Annotated[str, Field(pattern=_WALLTIME)] = Field(
        "0:10:00",
        description="H:MM:SS that a reservation lasts longer than walltime: to start "
        "and to collect.",
    )
    WAIT: Seconds = Field(
        3600.0, description="Seconds to wait for machines that are reserved, at most."
    )
    HOST_TIMEOUT: Annotated[Seconds, Field(ge=1)] = Field(
        60.0,
        description="A host that is silent for so many seconds, while others answer, has "
        "lost its machine.",
    )
    COLLECT_AFTER: Annotated[Seconds, Field(ge=1)] = Field(
        30.0,
        description="Logs and checkpoints come home from other computers every so many seconds.",
    )
    SBATCH: Texts = Field(
        (), description='With slurm: further directives of the job, as ["--constraint=skylake"].'
    )
    SETUP: Texts = Field(
        (),
        description="With slurm: lines of the job's script before anything is started, as "
        '["module load python"].',
    )
    USAGE_AFTER: Seconds = Field(
        0.0,
        description="CPU, memory and network of every machine every so many seconds, and power "
        "where a cluster measures it; 0: never.",
    )
    queue: str = Field("default", description="Queue of the reservation.")
    job_type: JobTypes = Field((), description="Type of the reservation, as night; [[]] is none.")
    STORAGE: str | bool | int | None = Field(
        None,
        description="With grid5000: folder of a group storage where machines deposit "
        "what they record, in place of the site's home.",
    )
    DOWNLOAD_ALL: Boolean = Field(False, description="No effect: logs and graphs always come home.")
    sweep: Sweep | None = Field(
        None, description="Many experiments in one reservation, as docs/sweeps.md says."
    )

    @field_validator("job_name")
    @classmethod
    def _fit_for_file_names(cls, value: str) -> str:
        size = len(value.encode(errors="replace"))
        if size > MOST_NAME_BYTES:
            raise ValueError(
                f"{size} bytes in UTF-8, but files are named by it: take at most {MOST_NAME_BYTES}"
            )
        return value

    @field_validator("NETWORK")
    @classmethod
    def _a_network(cls, value: str | None) -> str | None:
        if value is not None:
            ipaddress.ip_network(value, strict=False)
        return value

    @field_validator("walltime")
    @classmethod
    def _some_time(cls, value: str | None) -> str | None:
        if value is not None and _seconds(value) == 0:
            raise ValueError("the walltime must be more than 0 seconds")
        return value

    @model_validator(mode="after")
    def _a_node_everywhere(self) -> Self:
        if self.NB_AGENTS < self.NB_MACHINE:
            raise ValueError(
                f"NB_AGENTS = {self.NB_AGENTS}, NB_MACHINE = {self.NB_MACHINE}: every machine "
                f"needs a node; lower NB_MACHINE to {self.NB_AGENTS} or less"
            )
        return self

    @model_validator(mode="after")
    def _checkpoints_to_go_back_to(self) -> Self:
        if self.ON_LOSS == "wait" and not self.CHECKPOINT_AFTER:
            raise ValueError(
                "ON_LOSS = 'wait' goes back to checkpoints: set CHECKPOINT_AFTER to 1 or more"
            )
        return self

    @model_validator(mode="after")
    def _simulated_in_one_worker(self) -> Self:
        if self.SIMULATE is None:
            return self
        problem = None
        if self.NB_MACHINE != 1:
            problem = (
                f"NB_MACHINE = {self.NB_MACHINE}: set it to 1, and give virtual 'machines' in "
                f"{self.SIMULATE}"
            )
        elif self.WORKERS not in (None, 1):
            problem = f"WORKERS = {self.WORKERS}: leave it out"
        elif self.ON_LOSS == "wait":
            problem = "ON_LOSS = 'wait', but simulated time does not go back: set fail or drop"
        if problem:
            raise ValueError(f"SIMULATE runs all nodes in one process, {problem}")
        return self

    @model_validator(mode="after")
    def _emulated_where_that_can_be(self) -> Self:
        if self.NETWORK_EMULATION is None:
            return self
        problem = self.NETWORK_EMULATION.problem(self.NB_MACHINE)
        if self.backend == "local":
            problem = "all machines are this computer, whose own traffic would be slowed too"
        elif self.backend == "slurm":
            problem = "it needs root on the nodes, which a Slurm job has not"
        elif self.ON_LOSS == "wait":
            problem = "with ON_LOSS = 'wait' a host that was off would come back without it"
        if problem:
            simulate = "; SIMULATE calculates the seconds of slow links on any computer"
            hint = simulate if self.backend in ("local", "slurm") else ""
            raise ValueError(f"NETWORK_EMULATION, BACKEND = {self.backend!r}: {problem}{hint}")
        return self

    @property
    def backend(self) -> str:
        """BACKEND, or what the cluster implies."""
        if self.BACKEND is not None:
            return self.BACKEND
        return "local" if self.cluster in (None, "", "local") else "grid5000"

    @property
    def host_dir(self) -> str:
        """Our folder on each machine's own disk."""
        return self.HOST_DIR or f"/tmp/decentralizepy-{getpass.getuser()}"

    @property
    def train_evaluate_after(self) -> int:
        given = self.TRAIN_EVALUATE_AFTER
        return self.TEST_AFTER if given is None else given

    @property
    def records_nothing(self) -> bool:
        """Whether no node will evaluate anything, so that there are no records."""
        return not self.NB_ITERATION or not (self.TEST_AFTER or self.train_evaluate_after)

    @property
    def graph_type(self) -> str:
        """GRAPH_TYPE, or what the suffix of GRAPH_FILE says."""
        adjacency = self.GRAPH_FILE is not None and self.GRAPH_FILE.endswith(".adj")
        return self.GRAPH_TYPE or ("adjacency" if adjacency else "edges")

    @property
    def walltime_seconds(self) -> int | None:
        return None if self.walltime is None else _seconds(self.walltime)

    @property
    def margin_seconds(self) -> int:
        return _seconds(self.MARGIN)

    def workers(self, cpus: int | None = None) -> int:
        """Worker processes per machine; ``cpus`` (default: those allotted to us) are shared.

        On a GPU and in simulated time one worker is the default, as for ``decentralizepy run``.
        """
        if self.DEVICE != "cpu" or self.SIMULATE is not None:
            return self.WORKERS or 1
        share = (allotted() if cpus is None else cpus) // self.NB_MACHINE
        return self.WORKERS or max(share, 1)

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, defaults filled in.

        What depends on the computer stays open, so that the run can be repeated on another one:
        OFFSET, and WORKERS by default.
        """
        values = self.model_dump(mode="json", exclude={"schema_uri"})
        return values | {
            "BACKEND": self.backend,
            "GRAPH_TYPE": self.graph_type,
            "TRAIN_EVALUATE_AFTER": self.train_evaluate_after,
        }


def clock_text(seconds: int) -> str:
    """``HH:MM:SS``; hours may have more digits."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _seconds(walltime: str) -> int:
    hours, minutes, seconds = (int(part) for part in walltime.split(":"))
    return hours * 3600 + minutes * 60 + seconds


def keys() -> list[str]:
    """The keys that a JSON may hold, in order."""
    return [field.alias or name for name, field in Config.model_fields.items()]


def schema_text() -> str:
    """The JSON Schema of a configuration file."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(by_alias=True),
    }
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
