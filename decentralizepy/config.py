"""The INI file of an experiment, typed: what to train.

Six sections, as in the reference system: DATASET, OPTIMIZER_PARAMS, TRAIN_PARAMS, COMMUNICATION,
SHARING and NODE; and MODEL, LR_SCHEDULE and GRAPH, which may be absent. Keys are not
case-sensitive, ``; comments`` after a value are stripped, lists are literals (``[0.5, 0.5]``), and
a section or key that nobody reads is an error naming the nearest known one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from decentralizepy import reference
from decentralizepy.chaintext import read_chain
from decentralizepy.errors import ConfigError, nearest
from decentralizepy.files import read_text_file
from decentralizepy.ini import Sections, parse_ini
from decentralizepy.pernode import PerNode, read_per_node
from decentralizepy.registry import (
    Option,
    Target,
    check_options,
    coerce,
    fact,
    legacy,
    options,
    own_imports,
    source_path,
    target,
)
from decentralizepy.saving import OPTIONS as SAVING_OPTIONS
from decentralizepy.saving import Saving, read_saving

SECTIONS: Final = (
    "DATASET",
    "OPTIMIZER_PARAMS",
    "TRAIN_PARAMS",
    "COMMUNICATION",
    "SHARING",
    "NODE",
    "LR_SCHEDULE",
    "GRAPH",
    "MODEL",
)
#: Seed of models, graphs and streams when the INI gives none, as in the reference system.
DEFAULT_SEED: Final = 97
DEFAULT_OFFSET: Final = 9000
DEFAULT_PEER_TIMEOUT: Final = 60.0
LONGEST_PEER_TIMEOUT: Final = 1e6
#: an INI file is a page of text; what is bigger is another file
MAX_BYTES: Final = 1 << 20
#: options of [TRAIN_PARAMS] that may differ from node to node, and the least value of each
PER_NODE: Final = {"rounds": 0, "batch_size": 1}
#: what a function of a learning-rate schedule is called with
_SCHEDULED: Final = frozenset({"t", "iterations"})
#: what the engine gives to a schedule of graphs, if its ``__init__`` names it
_DRAWN_FROM: Final = frozenset({"n", "graph", "seed"})
#: keys that name a loss
_LOSS: Final = ("loss_package", "loss_class", "loss")
#: what the engine gives to a task: the loss that the INI names, or None
_JUDGED_BY: Final = frozenset({"criterion"})
#: what every node program is
_NODE: Final = Target("decentralizepy.node.node", "Node")


@dataclass(frozen=True)
class Component:
    """A class to construct, with its typed options."""

    target: Target
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, *args: Any, **passed: Any) -> Any:
        """Import the class and construct it; what it says of its options is a `ConfigError`."""
        factory = self.target.load()
        try:
            return factory(*args, **{**self.options, **passed})
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.target.dotted}: {error}") from error
        except Exception as error:  # wrong options can raise nearly anything
            what = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{self.target.dotted}: {what}") from error


@dataclass(frozen=True)
class NodeOptions:
    """What [NODE] says to the drivers of the reference system, whichever is taken."""

    graph_degree: int | None = None
    dynamic_avgrounds: bool = False
    timeout: float | None = None
    dropout_rate: float | None = None
    dropout_correlation: float | None = None
    working_rate: float | None = None


@dataclass(frozen=True)
class Experiment:
    """A checked INI file."""

    path: Path
    text: str
    seed: int
    dataset: Component
    model: Component
    optimizer: Component
    training: Component
    #: the function that the INI names, in place of the task's own
    loss: Component | None
    communication: Component
    sharing: Component
    node: NodeOptions
    schedule: Component | None = None
    task: Component | None = None
    #: the user's own; where there is none, a driver gives it (`decentralizepy.drivers.wiring`)
    node_program: Component | None = None
    graph_schedule: Component | None = None
    #: parts of a chain, in order; or one class that is a chain
    compression: tuple[Component, ...] = ()
    #: which models are kept for attacks
    saving: Saving = field(default_factory=Saving)
    #: draw the first weights as the reference's fork does, instead of as EPFL's DecentralizePy
    fork_initial_weights: bool = False

    @property
    def per_node(self) -> tuple[PerNode, ...]:
        """The options that differ from node to node."""
        return tuple(v for v in self.training.options.values() if isinstance(v, PerNode))

    @property
    def files(self) -> dict[str, Path]:
        """The further files that the INI names, by their names there."""
        return {v.name: v.file for v in self.per_node if v.name and v.file}

    @property
    def modules(self) -> dict[str, Path]:
        """Source files of the classes that are neither ours nor torch's, and of what these import
        from beside the INI or the working directory, by module."""
        found: dict[str, Path] = {}
        for one in self._targets():
            if one.module.split(".")[0] in ("decentralizepy", "torch"):
                continue
            if (path := source_path(one.module, one.search)) is not None:
                found[one.module] = path
                found |= own_imports(one.module, one.search)
        return dict(sorted(found.items()))

    @property
    def own_files(self) -> dict[Path, Path]:
        """Of these files, those beside the INI or in the working directory: what a copy of the
        experiment needs, by where each lies from there."""
        folders = {folder for one in self._targets() for folder in one.search}
        found = {}
        for module, path in self.modules.items():
            relative = Path(*module.split("."))
            relative /= path.name if path.name == "__init__.py" else ""
            relative = relative if path.name == "__init__.py" else relative.with_suffix(".py")
            if any(Path(folder) / relative == path.absolute() for folder in folders):
                found[relative] = path
        return found

    def _targets(self) -> set[Target]:
        parts = [*(getattr(self, each.name) for each in fields(self)), *self.compression]
        return {part.target for part in parts if isinstance(part, Component)}

    @property
    def addresses_filepath(self) -> str:
        return str(self.communication.options.get("addresses_filepath", "ip.json"))

    @property
    def offset(self) -> int:
        return int(self.communication.options.get("offset", DEFAULT_OFFSET))

    @property
    def peer_timeout(self) -> float:
        """Seconds of silence after which a machine counts as lost."""
        return float(self.communication.options.get("peer_timeout", DEFAULT_PEER_TIMEOUT))


def read_experiment(path: Path) -> Experiment:
    """Read and check an INI file; raises `ConfigError`."""
    return parse_experiment(read_text(path), path)


def read_text(path: Path) -> str:
    """The text of an INI file; raises `ConfigError`."""
    return read_text_file(path, most=MAX_BYTES)


def parse_experiment(text: str, path: Path) -> Experiment:
    """Check the text of an INI file; ``path`` is for messages and for finding users' modules."""
    return _Reader(_sections(text, path), path).experiment(text)


def _sections(text: str, path: Path) -> Sections:
    sections = parse_ini(text, path)
    for name in sections:
        if name not in SECTIONS:
            raise ConfigError(
                f"{path}: unknown section [{name:.60}]{nearest(name, SECTIONS)}; "
                f"known: {', '.join(SECTIONS)}"
            )
    return sections


class _Reader:
    """Takes keys out of the sections, so that what is left over can be reported."""

    def __init__(self, sections: dict[str, dict[str, str]], path: Path) -> None:
        self.sections = {name: dict(sections.get(name, {})) for name in SECTIONS}
        self.path = path
        self.search = tuple(dict.fromkeys((path.resolve().parent, Path.cwd())))

    def experiment(self, text: str) -> Experiment:
        seed = self._seed()
        dataset_package = self._take("DATASET", "dataset_package")
        self._require_dataset(dataset_package)
        model = self._model(dataset_package)
        fork_initial_weights = self._fork_initial_weights()
        dataset = self._component("DATASET", "dataset", package=dataset_package)
        task = self._task()
        loss = self._loss()
        node, program = self._node()
        saving, compression = self._saving(), self._compression()
        return Experiment(
            path=self.path,
            text=text,
            seed=seed,
            dataset=dataset,
            model=model,
            optimizer=self._component("OPTIMIZER_PARAMS", "optimizer"),
            training=self._training(),
            loss=loss,
            communication=self._communication(),
            sharing=self._component("SHARING", "sharing"),
            node=node,
            schedule=self._optional("LR_SCHEDULE", "schedule", _SCHEDULED),
            task=task,
            node_program=program,
            compression=compression,
            saving=saving,
            graph_schedule=self._optional("GRAPH", "graph", _DRAWN_FROM),
            fork_initial_weights=fork_initial_weights,
        )

    def _where(self, section: str) -> str:
        return f"{self.path}: [{section}]"

    def _take(self, section: str, key: str) -> str:
        value = self.sections[section].pop(key, "")
        if not value:
            known = nearest(key, self.sections[section])
            raise ConfigError(f"{self._where(section)} needs the key '{key}'{known}")
        return value

    def _seed(self) -> int:
        text = self.sections["DATASET"].get("random_seed", "") or str(DEFAULT_SEED)
        try:
            seed = int(text)
            if not 0 <= seed < 1 << 63:
                raise ValueError
            return seed
        except ValueError:
            where = f"{self._where('DATASET')} random_seed = {text:.40}"
            raise ConfigError(f"{where}: a whole number, at least 0, is expected") from None

    def _target(self, section: str, package: str, name: str) -> Target:
        try:
            return target(package, name, self.search)
        except ConfigError as error:
            raise ConfigError(f"{self._where(section)} {error}") from None

    def _component(
        self,
        section: str,
        prefix: str,
        package: str = "",
        passed: frozenset[str] = frozenset(),
        others: Collection[str] = (),
    ) -> Component:
        """The class of a section with its options.

        The engine gives it ``passed``; ``others`` are keys of the section that need not be its.
        """
        package = package or self._take(section, f"{prefix}_package")
        found = self._target(section, package, self._take(section, f"{prefix}_class"))
        values, self.sections[section] = self.sections[section], {}
        own = options(found) or {}
        values = {key: value for key, value in values.items() if key in own or key not in others}
        if found.module.startswith("decentralizepy."):
            values = without_off(section, values, options(found), self._where(section))
        beside = KEYS_BESIDE.get(section, ())
        where = self._where(section)
        return Component(found, check_options(found, values, where, passed, beside))

    def _training(self) -> Component:
        found = self._component("TRAIN_PARAMS", "training")
        options, folder = dict(found.options), self.path.resolve().parent
        for key, least in PER_NODE.items():
            if isinstance(options.get(key), int | str):
                where = f"{self._where('TRAIN_PARAMS')} {key}"
                options[key] = read_per_node(options[key], least, folder, where)
        return replace(found, options=options)

    def _communication(self) -> Component:
        found = self._component("COMMUNICATION", "comm")
        where, timeout = self._where("COMMUNICATION"), found.options.get("peer_timeout", 1.0)
        if not isinstance(timeout, int | float) or not 0 < timeout <= LONGEST_PEER_TIMEOUT:
            raise ConfigError(
                f"{where} peer_timeout = {timeout!s:.40}: seconds above 0 are expected, at most "
                f"{LONGEST_PEER_TIMEOUT:g}"
            )
        if not isinstance(found.options.get("offset", 1), int):
            raise ConfigError(f"{where} offset: the number of a TCP port is expected")
        return found

    def _optional(self, section: str, prefix: str, passed: frozenset[str]) -> Component | None:
        """The class of a section that may be absent."""
        return self._component(section, prefix, passed=passed) if self.sections[section] else None

    def _task(self) -> Component | None:
        """The task, with the options of [TRAIN_PARAMS] that it has; the others are the training's.

        What both have goes to both.
        """
        section = self.sections["TRAIN_PARAMS"]
        if not self._names("TRAIN_PARAMS", "task"):
            return None
        package, name = (
            self._take("TRAIN_PARAMS", f"task_{what}") for what in ("package", "class")
        )
        found = self._target("TRAIN_PARAMS", package, name)
        own = (options(found) or {}).keys() - _JUDGED_BY
        values = {key: value for key, value in section.items() if key in own}
        for key in values.keys() - self._training_options():
            del section[key]
        where = self._where("TRAIN_PARAMS")
        return Component(found, check_options(found, values, where, _JUDGED_BY))

    def _training_options(self) -> Collection[str]:
        """Options of the training's class; none where it is not named well, which is told later."""
        section = self.sections["TRAIN_PARAMS"]
        package, name = (section.get(f"training_{what}", "") for what in ("package", "class"))
        try:
            return options(target(package, name, self.search)) or ()
        except ConfigError:
            return ()

    def _saving(self) -> Saving:
        """Which models are kept; keys that are options of the sharing method are left to it."""
        section = self.sections["SHARING"]
        package, name = (section.get(f"sharing_{what}", "") for what in ("package", "class"))
        own = (options(self._target("SHARING", package, name)) or {}) if package and name else {}
        given = {key: section.pop(key, "") for key in SAVING_OPTIONS if key not in own}
        return read_saving(
            {key: value for key, value in given.items() if value}, self._where("SHARING")
        )

    def _compression(self) -> tuple[Component, ...]:
        """The chain that [SHARING] names, by ``compression`` or by the reference's keys.

        Keys that are options of the sharing method itself are left to it.
        """
        section = self.sections["SHARING"]
        package, name = (section.get(f"sharing_{what}", "") for what in ("package", "class"))
        if not package or not name:
            return ()  # told when the method is read
        method = self._target("SHARING", package, name)
        if fact(method, "packs", None) is None:
            return ()  # no subclass of Sharing: it has none of these keys
        keys = set(KEYS_BESIDE["SHARING"]) - (options(method) or {}).keys()
        given = {key: section.pop(key, "") for key in keys}
        chain = self._chain({key: value for key, value in given.items() if value})
        if chain and not fact(method, "packs", False, about="outgoing"):
            raise ConfigError(
                f"{self._where('SHARING')} compression: {method.name} makes its messages itself; "
                "let its outgoing call self.pack, and say packs = True in its body"
            )
        return chain

    def _chain(self, given: Mapping[str, str]) -> tuple[Component, ...]:
        where = self._where("SHARING")
        on = given.get("compress", "False")
        if text := given.get("compression"):
            if "compression_class" in given:
                raise ConfigError(f"{where}: take either compression or compression_class")
            chain = read_chain(text, f"{where} compression", self.search)
            return tuple(Component(found, options) for found, options in chain)
        if not coerce(on, Option("compress", "bool", None), f"{where} compress"):
            return ()
        for key in ("compression_package", "compression_class"):
            if key not in given:
                raise ConfigError(f"{where} compress = {on} needs the key '{key}'")
        found = self._target("SHARING", given["compression_package"], given["compression_class"])
        values = {key: value for key, value in given.items() if key == "float_precision"}
        return (Component(found, check_options(found, values, where)),)

    def _names(self, section: str, prefix: str) -> bool:
        """Whether a section names the class of a prefix; keys without a value count as absent."""
        keys = [f"{prefix}_package", f"{prefix}_class"]
        values = self.sections[section]
        if any(values.get(key) for key in keys):
            return True
        for key in keys:
            values.pop(key, None)
        return False

    def _require_dataset(self, package: str) -> None:
        """Refuse a data set that is not here before its model, whose module follows from it."""
        if name := self.sections["DATASET"].get("dataset_class"):
            self._target("DATASET", package, name)

    def _model(self, dataset_package: str) -> Component:
        name = self._take("DATASET", "model_class")
        package = self.sections["DATASET"].pop("model_package", "") or models_of(dataset_package)
        found = self._target("DATASET", package, name)
        values, self.sections["MODEL"] = self.sections["MODEL"], {}
        return Component(found, check_options(found, values, self._where("MODEL")))

    def _fork_initial_weights(self) -> bool:
        option = DATASET_OPTIONS["fork_initial_weights"]
        text = self.sections["DATASET"].pop(option.name, "")
        where = f"{self._where('DATASET')} {option.name}"
        return bool(coerce(text, option, where)) if text else False

    def _loss(self) -> Component | None:
        """The function that is named; None where no key of it has a value: then the task's own."""
        section = self.sections["TRAIN_PARAMS"]
        if not any(section.get(key) for key in _LOSS):
            for key in _LOSS:
                section.pop(key, None)
            return None
        package = self._take("TRAIN_PARAMS", "loss_package")
        named = [section.pop(key, "") for key in _LOSS[1:]]  # the first one counts
        name = named[0] or named[1]
        if not name:
            raise ConfigError(f"{self._where('TRAIN_PARAMS')} needs the key 'loss_class'")
        return Component(self._target("TRAIN_PARAMS", package, name))

    def _node(self) -> tuple[NodeOptions, Component | None]:
        """What [NODE] says to drivers, and the node program if it names one."""
        where, section = self._where("NODE"), self.sections["NODE"]
        if not self._names("NODE", "node"):
            values = without_off("NODE", section, NODE_OPTIONS, where)
            return NodeOptions(**_node_options(values, where)), None
        values = {key: value for key, value in section.items() if key in NODE_OPTIONS}
        node = NodeOptions(**_node_options(values, where))
        bound = frozenset(options(_NODE) or ())
        program = self._component("NODE", "node", passed=bound, others=NODE_OPTIONS)
        return node, program


def models_of(dataset_package: str) -> str:
    """Where ``model_class`` is looked for: the models that go with one of our data sets.

    The reference system keeps models in the data set's own module; so do users' files.
    """
    parts = legacy().get(dataset_package, dataset_package).split(".")
    if parts[:2] == ["decentralizepy", "datasets"]:
        module = f"decentralizepy.models.{parts[-1].lower()}"
        return module if source_path(module) else "decentralizepy.models.own"
    return dataset_package


def without_off(
    section: str, values: Mapping[str, str], known: Mapping[str, Option] | None, where: str
) -> dict[str, str]:
    """``values`` without options of the reference's whose feature is not here and is off.

    Raises `ConfigError` if it is on.
    """
    kept = {}
    for key, value in values.items():
        feature = None if known is None or key in known else reference.feature(section, key)
        if feature is None:
            kept[key] = value
        elif not reference.is_off(section, key, value):
            raise ConfigError(
                f"{where} {key} = {value:.40}: {feature} is not in this version yet; take the key "
                "out to run without"
            )
    return kept


#: keys of a section that are not options of its class, which is a name in a module
KEYS_BESIDE: Final = {
    "DATASET": ("model_class", "model_package", "fork_initial_weights"),
    "TRAIN_PARAMS": ("loss_package", "loss_class", "loss", "task_package", "task_class"),
    "SHARING": (
        "compression", "compress", "compression_package", "compression_class", "float_precision",
        *SAVING_OPTIONS,
    ),
}  # fmt: skip
#: keys of [DATASET] that are the model's and not the data set's
DATASET_OPTIONS: Final = {
    "fork_initial_weights": Option("fork_initial_weights", "bool", "False"),
}
NODE_OPTIONS: Final = {
    "graph_degree": Option("graph_degree", "int | None", "None"),
    "dynamic_avgrounds": Option("dynamic_avgrounds", "bool", "False"),
    "timeout": Option("timeout", "float | None", "None"),
    "dropout_rate": Option("dropout_rate", "float | None", "None"),
    "dropout_correlation": Option("dropout_correlation", "float | None", "None"),
    "working_rate": Option("working_rate", "float | None", "None"),
}


def _node_options(values: Mapping[str, str], where: str) -> dict[str, Any]:
    known = NODE_OPTIONS
    for key in values:
        if key not in known:
            listed = ", ".join(option.describe() for option in known.values())
            near = nearest(key, [*known, "node_package", "node_class"])
            raise ConfigError(
                f"{where} has no option '{key}'{near}; its options: {listed}, and those of a "
                "class that node_package and node_class name"
            )
    return {
        key: coerce(value, known[key], f"{where} {key}") for key, value in values.items() if value
    }
