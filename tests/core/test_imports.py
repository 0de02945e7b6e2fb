"""The rules of the house: which room imports what, and who stays free of heavy libraries."""

import ast
import json
import os
import subprocess
import sys
import textwrap
import typing
from pathlib import Path

import pytest

import decentralizepy

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("decentralizepy", "orchestrator", "results")
OTHERS = ("benchmarks", "scripts")

#: what the orchestrator may use of the core: modules, or packages with all in them
FOR_ORCHESTRATOR = (
    "decentralizepy.messages.header",
    "decentralizepy.communication.keys",
    "decentralizepy.communication.ports",
    "decentralizepy.config",
    "decentralizepy.cpus",
    "decentralizepy.drivers",
    "decentralizepy.errors",
    "decentralizepy.graphs",
    "decentralizepy.mappings",
    "decentralizepy.registry",
    "decentralizepy.files",
    "decentralizepy.ini",
    "decentralizepy.jsonfile",
    "decentralizepy.locks",
    "decentralizepy.overrides",
    "decentralizepy.runfolder",
    "decentralizepy.scenario.faultplan",
    "decentralizepy.scenario.simulation",
    "decentralizepy.settings",
    "decentralizepy.interrupts",
    "decentralizepy.limits",
    "decentralizepy.standard",
    "decentralizepy.text",
)
#: what of the core must load without torch
TORCH_FREE = (
    "decentralizepy.commands.arguments",
    "decentralizepy.cli",
    "decentralizepy.transport.batches",
    "decentralizepy.transport.credits",
    "decentralizepy.messages.header",
    "decentralizepy.communication.keys",
    "decentralizepy.communication.local",
    "decentralizepy.communication.ports",
    "decentralizepy.transport.secure",
    "decentralizepy.communication.tcp",
    "decentralizepy.config",
    "decentralizepy.commands.convert",
    "decentralizepy.cpus",
    "decentralizepy.datasets",
    "decentralizepy.drivers",
    "decentralizepy.errors",
    "decentralizepy.commands.flags",
    "decentralizepy.graphs",
    "decentralizepy.jsonfile",
    "decentralizepy.mappings",
    "decentralizepy.node.membership",
    "decentralizepy.pernode",
    "decentralizepy.reference",
    "decentralizepy.registry",
    "decentralizepy.files",
    "decentralizepy.ini",
    "decentralizepy.locks",
    "decentralizepy.interrupts",
    "decentralizepy.limits",
    "decentralizepy.standard",
    "decentralizepy.overrides",
    "decentralizepy.text",
    "decentralizepy.runfolder",
    "decentralizepy.supervision.agreement",
    "decentralizepy.supervision.attempt",
    "decentralizepy.engine.checkpoints",
    "decentralizepy.engine.clock",
    "decentralizepy.supervision.control",
    "decentralizepy.datasets.experiment",
    "decentralizepy.scenario.faultplan",
    "decentralizepy.codec",
    "decentralizepy.words",
    "decentralizepy.transport.inbound",
    "decentralizepy.transport.local",
    "decentralizepy.supervision.machine",
    "decentralizepy.transport.endpoint",
    "decentralizepy.transport.outbound",
    "decentralizepy.mappings.placement",
    "decentralizepy.supervision.progress",
    "decentralizepy.supervision.provenance",
    "decentralizepy.transport.rings",
    "decentralizepy.supervision.sealed",
    "decentralizepy.settings",
    "decentralizepy.memory.shared",
    "decentralizepy.scenario.simulation",
    "decentralizepy.supervision.socketfolder",
    "decentralizepy.supervision.status",
    "decentralizepy.transport.remote",
    "decentralizepy.supervision.workers",
    "decentralizepy.streams",
    "decentralizepy.training.schedules",
    "decentralizepy.training.training",
    "decentralizepy.training.training_clipping",
    "decentralizepy.commands.where",
)


def dotted(path):
    """The module's name of a source file."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(*folders):
    """Python files below some folders, by the name of their module."""
    found = (path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py")))
    return {dotted(path): path for path in found if "__pycache__" not in path.parts}


def imports(path, tree=None):
    """Every module that a file names in an import, at any depth, with its line.

    ``from a import b`` names ``a.b``, as b may be a module; imports for the type checker count too.
    """
    tree = ast.parse(path.read_text(encoding="utf-8")) if tree is None else tree
    package = dotted(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def within(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(modules, wrong):
    """``module, line 3 imports x`` for each import that is wrong."""
    return [
        f"{module}, line {line} imports {name}"
        for module, path in modules.items()
        for name, line in imports(path)
        if wrong(module, name)
    ]


# ---------------------------------------------------------------- who imports whom


def test_the_core_imports_no_other_room():
    assert sources("decentralizepy")
    assert not offences(
        sources("decentralizepy"), lambda _, name: within(name, "orchestrator", "results")
    )


def test_results_import_the_core_alone_and_torch_in_attacks_alone():
    assert sources("results")
    assert not offences(
        sources("results"),
        lambda module, name: (
            within(name, "orchestrator", "benchmarks")
            or (within(name, "torch") and not within(module, "results.attacks"))
        ),
    )


def test_the_orchestrator_imports_the_torch_free_part_of_the_core():
    assert not offences(
        sources("orchestrator"),
        lambda _, name: (
            within(name, "results", "benchmarks", "torch")
            or (within(name, "decentralizepy") and not within(name, *FOR_ORCHESTRATOR))
        ),
    )


def test_enoslib_is_imported_inside_functions_of_two_modules():
    allowed = ("orchestrator.backends.grid5000", "orchestrator.emulation.enos")
    assert not offences(
        sources(*ROOMS), lambda module, name: within(name, "enoslib") and module not in allowed
    )


def test_nobody_imports_the_orchestrator_but_its_command():
    top = {path.stem: path for path in sorted(REPOSITORY.glob("*.py"))}
    top.pop("g5k_execution", None)
    everybody = top | sources("decentralizepy", "results", *OTHERS)
    assert not offences(everybody, lambda _, name: within(name, "orchestrator"))


FRONT_DOOR = REPOSITORY / "decentralizepy" / "__init__.py"


def for_the_type_checker(tree):
    """The imports below ``if TYPE_CHECKING``."""
    blocks = (node for node in tree.body if isinstance(node, ast.If))
    return ast.Module([line for node in blocks for line in node.body], [])


def test_the_cores_front_door_imports_nothing():
    code = """
        import sys
        before = set(sys.modules)
        import decentralizepy
        new = set(sys.modules) - before
        assert not {n for n in new if n.startswith(("decentralizepy.", "torch", "numpy"))}, new
        assert "Sharing" in dir(decentralizepy) and "Sharing" not in vars(decentralizepy)
        from decentralizepy import Schedule
        assert "torch" not in sys.modules and "Schedule" in vars(decentralizepy)
        from decentralizepy import ANY, Node, Receive, Sharing, Train
        from decentralizepy.node.effects import ANY as same
        assert ANY is same and "torch" in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


def test_public_names_are_there_and_the_type_checker_knows_them_all():
    public = set(decentralizepy.__all__)
    for name in public:
        found = getattr(decentralizepy, name)
        assert getattr(found, "__name__", name) in (name, "Generator")
        assert name in dir(decentralizepy)
    tree = for_the_type_checker(ast.parse(FRONT_DOOR.read_text(encoding="utf-8")))
    checked = {name for name, _ in imports(FRONT_DOOR, tree)}
    lazily = {f"decentralizepy.{module}.{name}" for name, module in decentralizepy._NAMES.items()}
    assert checked == lazily
    assert {name.rpartition(".")[2] for name in lazily} == public
    effects = {kind.__name__ for kind in typing.get_args(decentralizepy.node.effects.Effect)}
    assert effects <= public, "a program can be written from the front door alone"
    with pytest.raises(AttributeError, match="has no attribute 'Sharin'"):
        _ = decentralizepy.Sharin


def test_the_walker_sees_every_kind_of_import():
    text = """
        import a.b, c as d
        from e import f
        from . import g
        from ..h import i
        def inside():
            from j.k import l
        if TYPE_CHECKING:
            import m
    """
    path = REPOSITORY / "decentralizepy" / "graphs" / "graph.py"
    found = {name for name, _ in imports(path, ast.parse(textwrap.dedent(text)))}
    assert found == {
        "a.b", "c", "e.f", "decentralizepy.graphs.g", "decentralizepy.h.i", "j.k.l", "m"
    }  # fmt: skip


# ---------------------------------------------------------------- who loads what

#: Imports each module in a child of its own, as fresh as an interpreter that was just started but
#: for light libraries that most of them want.
FORKS = """
import importlib, json, os, sys

HEAVY = ("torch", "enoslib", "pandas", "matplotlib", *json.loads(sys.argv[2]))
loaded = {}
modules = json.loads(sys.argv[1])
for name in ("numpy", "networkx", "zmq", "pydantic", "jinja2", "rich.console", "email", "decimal"):
    importlib.import_module(name)
assert not any(name in sys.modules for name in HEAVY)
for module in modules:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            importlib.import_module(module)
            said = [name for name in HEAVY if name in sys.modules]
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        loaded[module] = json.loads(pipe.read() or b'"it died"')
    os.waitpid(child, 0)
print(json.dumps(loaded))
"""


def loaded_by(modules, *more):
    """Heavy libraries, or ``more``, that each module loads; a text where it can't be imported."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, json.dumps(modules), json.dumps(more)],
        capture_output=True, text=True, check=True, timeout=170, cwd=REPOSITORY,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    return json.loads(done.stdout)


def loaded_together(modules):
    """All that one process has loaded once it has imported these modules.

    For what brings a heavy library along: what all do not load, none of them loads.
    """
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, timeout=170, cwd=REPOSITORY,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize("room", ["decentralizepy", "orchestrator"])
def test_planning_loads_no_heavy_library(room):
    allowed = TORCH_FREE if room == "decentralizepy" else ("orchestrator",)
    modules = [name for name in sources(room) if within(name, *allowed)]
    assert {name: heavy for name, heavy in loaded_by(modules).items() if heavy} == {}


VOCABULARY = ("decentralizepy.messages", "decentralizepy.sharing")


def test_methods_load_nothing_of_the_transport():
    """Whoever writes a method, or uses one in a script, needs messages and no sockets."""
    modules = [name for name in sources("decentralizepy") if within(name, *VOCABULARY)]
    assert "decentralizepy.messages.message" in modules
    loaded = loaded_together(modules)
    unwanted = "enoslib", "pandas", "matplotlib", "cryptography", "decentralizepy.transport"
    assert not loaded & set(unwanted)
    assert "torch" in loaded, "what was loaded is seen"


def test_frames_are_made_without_cryptography():
    assert loaded_by(["decentralizepy.transport.frames"], "cryptography") == {
        "decentralizepy.transport.frames": ["torch"]
    }


def test_messages_import_nothing_of_ours():
    modules = {n: p for n, p in sources("decentralizepy").items() if within(n, VOCABULARY[0])}
    assert not offences(
        modules,
        lambda _, name: within(name, "decentralizepy") and not within(name, VOCABULARY[0]),
    )


def test_results_load_neither_torch_nor_enoslib():
    modules = [
        name
        for name in sources("results")
        if not within(name, "results.attacks", "results.__main__") and "notebooks" not in name
    ]
    assert not {"torch", "enoslib"} & loaded_together(modules)


def test_the_list_of_torch_free_modules_is_right():
    names = set(sources("decentralizepy"))
    assert set(TORCH_FREE) <= names
    for name in FOR_ORCHESTRATOR:
        assert within(name, *TORCH_FREE)


def test_a_module_that_loads_torch_would_be_found():
    names = ["decentralizepy.errors", "decentralizepy.messages.message", "no.module"]
    assert loaded_by(names, "cryptography") == {
        "decentralizepy.errors": [],
        "decentralizepy.messages.message": ["torch"],
        "no.module": "ModuleNotFoundError: No module named 'no'",
    }
