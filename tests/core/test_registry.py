"""Dotted names to classes and their options: read from the source, nothing imported or run."""

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from decentralizepy import registry
from decentralizepy.errors import ConfigError
from decentralizepy.registry import (
    Option,
    Target,
    check_options,
    coerce,
    definition,
    fact,
    legacy,
    literal,
    options,
    source_path,
    target,
)

#: (module of the reference system, class) of all that is here: classes keep their names
LEGACY_CLASSES = [
    (package, node.name)
    for package, module in sorted(legacy().items())
    for node in ast.parse(source_path(module).read_text()).body
    if isinstance(node, ast.ClassDef)
    and fact(Target(module, node.name), "reference_name", "") == package
]


@pytest.fixture
def module(tmp_path):
    """Write a user's module and return what its classes' options are."""

    def write(text, name="Mine", file="my_method.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(textwrap.dedent(text))
        dotted = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return Target(dotted, name, (str(tmp_path),))

    return write


def described(found):
    known = options(found)
    return known if known is None else [option.describe() for option in known.values()]


# ---------------------------------------------------------------- names


def test_every_legacy_module_has_the_class_of_its_name():
    assert [package for package, _ in LEGACY_CLASSES] == sorted(legacy())
    assert all(name == package.split(".")[-1] for package, name in LEGACY_CLASSES)


@pytest.mark.parametrize(("package", "name"), LEGACY_CLASSES)
def test_legacy_names_lead_to_classes_of_ours(package, name):
    found = target(package, name)
    node, where = definition(found)
    assert node.name == name and where.module == legacy()[package]
    assert options(found) is not None
    assert target(legacy()[package], name) == found  # the new name works too


@pytest.mark.parametrize(
    ("package", "name", "words"),
    [
        ("decentralizepy.sharing.Sharin", "X", "did you mean 'decentralizepy.sharing.Sharing'?"),
        ("decentralizepy.sharing.Sharing", "Shareing", "has no class Shareing.*'Sharing'"),
        ("torch.optim", "SDG", "torch.optim has no class SDG.*'SGD'"),
        ("torch.nn", "CrossEntropyLos", "did you mean 'CrossEntropyLoss'?"),
        ("torch.nothing", "X", "no module torch.nothing"),
        ("no_such_module", "X", "put no_such_module.py beside the INI file"),
        ("/", "X", "'/' is not the name of a module"),
        ("a/b", "X", "is not the name of a module"),
        ("../secrets", "X", "is not the name of a module"),
        ("decentralizepy..sharing", "X", "is not the name of a module"),
        ("a b", "X", "is not the name of a module"),
        ("a\0b", "X", "is not the name of a module"),
        ("m" * 5000, "X", "no module m"),
    ],
)
def test_names_that_lead_nowhere(package, name, words):
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        target(package, name)


def test_where_it_was_looked_for_is_said(tmp_path):
    with pytest.raises(ConfigError, match=str(tmp_path)):
        target("no_such_module", "X", [tmp_path])


def test_a_module_of_python_that_hides_a_users_file_is_named(module, tmp_path):
    module("class Poll: ...\n", file="queue.py")
    there = source_path("queue")
    words = f"queue has no class Poll; it is {there}, which hides {tmp_path / 'queue.py'}: rename"
    with pytest.raises(ConfigError, match=re.escape(words)):
        target("queue", "Poll", [tmp_path])
    module("class Poll: ...\n", file="time.py")  # Python's own has no file
    found = target("time", "Poll", [tmp_path])
    words = f"has no Poll; it is a module built into Python, which hides {tmp_path / 'time.py'}"
    with pytest.raises(ConfigError, match=re.escape(words)):
        found.load()
    module("class Pol: ...\n", file="mine_alone.py")
    with pytest.raises(ConfigError, match=r"has no class Poll \(did you mean 'Pol'\?\)$"):
        target("mine_alone", "Poll", [tmp_path])


def test_a_name_that_is_no_class_is_told(module, tmp_path):
    module("X = 3\n", file="mine_const.py")
    with pytest.raises(ConfigError, match=r"mine_const.X is no class or function: define it"):
        target("mine_const", "X", [tmp_path])


def test_a_users_file_is_found_and_loaded(module, tmp_path):
    module("class Mine:\n    def __init__(self, a: int = 1): self.a = a\n", file="mine_loaded.py")
    found = target("mine_loaded", "Mine", [tmp_path])
    assert found.dotted == "mine_loaded.Mine" and found.load()(a=3).a == 3


def test_a_broken_users_file_is_named(module, tmp_path):
    module("class Mine(:\n", file="broken.py")
    with pytest.raises(ConfigError, match=r"broken.py is not valid Python"):
        target("broken", "Mine", [tmp_path])
    (tmp_path / "latin.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(ConfigError, match=r"latin.py is not valid Python"):
        target("latin", "Mine", [tmp_path])
    module("from decentralizepy.errors import nowhere\nclass Mine: ...\n", file="dangling.py")
    with pytest.raises(ConfigError, match="cannot import dangling: cannot import name 'nowhere'"):
        target("dangling", "Mine", [tmp_path]).load()


def test_loading_what_is_not_there():
    with pytest.raises(ConfigError, match=r"has no legac \(did you mean 'legacy'\?\)"):
        Target("decentralizepy.registry", "legac").load()
    with pytest.raises(ConfigError, match="cannot import no_such_module"):
        Target("no_such_module", "X").load()


def test_a_module_is_found_without_importing_its_parents():
    assert source_path("decentralizepy.sharing.sharing").name == "sharing.py"
    assert source_path("decentralizepy.sharing").name == "__init__.py"
    assert source_path("sys") is None  # built in: there is no file


# ---------------------------------------------------------------- options


def test_options_of_each_kind_of_parameter(module):
    found = module("""
        class Mine:
            def __init__(self, a: int, /, b: float = 1e-3, *args, c: str, d: bool = not 0, **kw):
                pass
    """)
    assert described(found) == ["a (required)", "b=0.001", "c (required)", "d=not 0"]
    assert options(found)["b"].annotation == "float"


def test_inherited_options_come_first_and_only_where_they_pass(module):
    text = """
        class Base:
            def __init__(self, *, a: int = 1, b: int = 2): ...
        class Silent(Base): ...
        class Passing(Base):
            def __init__(self, *, b: int = 5, c: int = 3, **others): ...
        class Closed(Base):
            def __init__(self, *, c: int = 3): ...
        class Deep(Passing): ...
        class Other:
            def __init__(self, *, z: int = 9): ...
        class Both(Base, Other): ...
    """
    expected = {
        "Silent": ["a=1", "b=2"],
        "Passing": ["a=1", "b=5", "c=3"],
        "Closed": ["c=3"],
        "Deep": ["a=1", "b=5", "c=3"],
        "Both": ["z=9", "a=1", "b=2"],
    }
    assert {name: described(module(text, name)) for name in expected} == expected


@pytest.mark.parametrize(
    "text",
    [
        "from decentralizepy.training.training import Training as Mine",
        "from decentralizepy.training.training import *\nclass Mine(Training): ...",
        "from decentralizepy.training.training import Training\nclass Mine(Training): ...",
        "from decentralizepy.training import training\nclass Mine(training.Training): ...",
        "import decentralizepy.training.training\n"
        "class Mine(decentralizepy.training.training.Training): ...",
        "import decentralizepy.training.training as t\nclass Mine(t.Training): ...",
        "from decentralizepy import Training\nclass Mine(Training): ...",
        "import decentralizepy\nclass Mine(decentralizepy.Training): ...",
        "import decentralizepy as dp\nclass Mine(dp.Training): ...",
        "try:\n    import nothing\nexcept ImportError:\n"
        "    from decentralizepy import Training\nclass Mine(Training): ...",
    ],
)
def test_options_through_every_kind_of_import(module, text):
    found = module(text)
    assert "batch_size=1" in described(found)
    assert definition(target("decentralizepy.training.Training", "Training")) is not None


def test_a_class_that_takes_its_bases_name(module):
    found = module(
        "from decentralizepy.training.training import Training\n"
        "class Training(Training):\n    def __init__(self, *, mine: int = 1, **kw): ...\n",
        "Training",
    )
    assert described(found)[-1] == "mine=1" and "shuffle=False" in described(found)


def test_of_several_of_a_name_a_class_has_the_base_above_it(module):
    """As in a notebook's file, where a class is written anew from what it was."""
    text = """
        from decentralizepy.training.training import Training
        class Training(Training):
            servers = 1
            def __init__(self, *, a: int = 1, b: int = 1, **kw): ...
        class Middle(Training):
            def __init__(self, *, b: int = 2, **kw): ...
        if True:
            class Training(Middle):
                def __init__(self, *, c: int = 3, **kw): ...
        class Training(Training):
            def __init__(self, *, d: int = 4, **kw): ...
        class Mine(Middle): ...
        class Middle: ...
    """
    mine, last = module(text), module(text, "Training")
    assert described(mine)[-2:] == ["a=1", "b=2"] and "shuffle=False" in described(mine)
    assert described(last) == [*described(mine), "c=3", "d=4"]
    assert fact(mine, "servers", 0) == fact(last, "servers", 0) == 1


def test_relative_imports(module):
    module("from .inner import Mine\n", file="package/__init__.py")
    module("from ..deeper.base import Base\nclass Mine(Base): ...\n", file="package/inner.py")
    module("", file="deeper/__init__.py")
    found = module(
        "from package.inside.leaf import Mine\n", file="outside.py"
    )  # a package in the same folder
    module("from ..root import Mine\n", file="package/inside/leaf.py")
    module("class Mine:\n    def __init__(self, q: int = 7): ...\n", file="package/root.py")
    assert described(found) == ["q=7"]


def test_circles_end(module):
    assert described(module("class Mine(Mine): ...")) == []
    assert described(module("class Mine(Other): ...\nclass Other(Mine): ...", file="c1.py")) == []
    assert options(module("from loop_b import Mine", file="loop_a.py")) is None
    module("from loop_a import Mine", file="loop_b.py")
    assert options(module("from loop_b import Mine", file="loop_a.py")) is None


def test_the_last_of_several_counts(module):
    """As for Python, in a notebook's file and with overloads."""
    found = module("""
        class Mine:
            servers = 1
            def __init__(self, *, a: int = 1): ...
        class Mine:
            @overload
            def __init__(self, *, b: int): ...
            @overload
            def __init__(self, *, b: str): ...
            def __init__(self, *, b: int | str = 2): ...
    """)
    assert described(found) == ["b=2"] and options(found)["b"].annotation == "int | str"
    assert fact(found, "servers", 0) == 0


def test_functions_have_options_too():
    found = target("torch.nn.functional", "cross_entropy")
    assert "label_smoothing" in options(found)


def test_torchs_optimizers_are_read_and_torch_stays_out():
    code = """
        import sys
        from decentralizepy.registry import target, options, check_options
        for name, own in (("SGD", "nesterov"), ("Adam", "betas"), ("AdamW", "weight_decay")):
            known = options(target("torch.optim", name))
            assert own in known and "params" not in known and "lr" in known, (name, known)
            typed = check_options(target("torch.optim", name), {"lr": "0.05"}, "x.ini")
            assert typed == {"lr": 0.05}, typed
        assert target("torch.nn", "CrossEntropyLoss").name == "CrossEntropyLoss"
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


def test_without_torch_its_names_are_believed(monkeypatch):
    real = registry.source_path
    monkeypatch.setattr(
        registry, "source_path", lambda m, s=(): None if m.split(".")[0] == "torch" else real(m, s)
    )
    found = target("torch.optim", "Adam")
    assert options(found) is None
    values = {"lr": "0.05", "betas": "(0.9, 0.99)", "amsgrad": "True", "eps": ""}
    typed = {"lr": 0.05, "betas": (0.9, 0.99), "amsgrad": True}
    assert check_options(found, values, "x.ini") == typed


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("int", "3", 3),
        ("int", "-3", -3),
        ("float", "3", 3.0),
        ("float", "1e-3", 0.001),
        ("int | float", "3", 3),
        ("float | Tensor", "0.1", 0.1),
        ("bool", "True", True),
        ("bool", "no", False),
        ("bool", "1", True),
        ("bool", "off", False),
        ("str", "3", "3"),
        ("'str'", "", ""),
        ("str | None", "None", None),
        ("str | None", "text", "text"),
        ("int | None", "none", None),
        ("str | bool", "False", False),
        ("str | bool", "kshard", "kshard"),
        ("list[float] | None", "[0.5, 1]", [0.5, 1.0]),
        ("list[float]", "0.5", [0.5]),
        ("list[int]", "(1, 2)", [1, 2]),
        ("list[str]", "['a', 'b']", ["a", "b"]),
        ("list[str]", "a, b", ["a", "b"]),
        ("list[str]", "[a, b c]", ["a", "b c"]),
        ("list[str] | None", "word", ["word"]),
        ("list[str]", "1, 2", ["1", "2"]),
        ("list[str]", "(1, true)", ["1", "true"]),
        ("list[str]", "5", ["5"]),
        ("list[str]", "a,", ["a"]),
        ("list[str]", "['a', b, '']", ["a", "b", ""]),
        ("list[str]", "'a, b', 'c'", ["a, b", "c"]),
        ("list[str]", "'a'", ["a"]),
        ("list[str]", "[]", []),
        ("list[bool]", "[True]", [True]),
        ("List[int]", "[1]", [1]),
        ("Sequence[float]", "[1]", [1.0]),
        ("Optional[float]", "3", 3.0),
        ("typing.Optional[int]", "None", None),
        ("Optional[List[float]]", "3", [3.0]),
        ("Union[int, bool, None]", "yes", True),
        ("'Optional[str]'", "3", "3"),
        ("Annotated[float, 'seconds']", "3", 3.0),
        ("Literal['a', 'b']", "b", "b"),
        ("Literal['a', 1]", "1", 1),
        ("Literal['a'] | None", "none", None),
        ("Literal['a'] | float", "2", 2.0),
        ("Literal[Kind.A]", "A", "A"),
        ("Literal[True, False]", "true", True),
        ("Literal[True, 'auto']", "auto", "auto"),
        ("Literal[0.5, 1]", "1.0", 1),
        ("Literal[0.5, 1]", ".5", 0.5),
        ("Literal[1, True]", "TRUE", True),
        ("list[Literal['a', 'b']]", "a, b", ["a", "b"]),
        ("list[Literal['a', 'b']]", "['a']", ["a"]),
        ("list[Literal['a', 1, True]]", "[1, true, a]", [1, True, "a"]),
        ("list[Literal['auto'] | float] | None", "auto, 2", ["auto", 2.0]),
        ("list[Literal['a|b', 'c, d']]", "['a|b', 'c, d']", ["a|b", "c, d"]),
        ("not an annotation", "3", 3),
        ("tuple[float, float]", "(0.9, 0.99)", (0.9, 0.99)),
        ("", "0.5", 0.5),
        ("", "word", "word"),
        ("", "true", True),
    ],
)
def test_texts_become_what_the_annotation_asks(annotation, text, value):
    typed = coerce(text, Option("x", annotation, None), "x.ini x")
    assert typed == value and type(typed) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text", "words"),
    [
        ("int", "3.5", "x.ini x = 3.5: a whole number is expected"),
        ("int", "many", "int is expected"),
        ("int", "True", "int is expected"),
        ("float", "fast", "float is expected"),
        ("float | Tensor", "{[]: 1}", "float is expected"),
        ("float", "9" * 400, "too large a number"),
        ("float", "0x" + "f" * 6000, "too large a number"),
        ("bool", "perhaps", "bool is expected"),
        ("Optional[int]", "3.5", "a whole number is expected"),
        ("Literal['a', 'b']", "c", "x.ini x = c: a or b is expected"),
        ("Literal['auto'] | int", "many", "int or auto is expected"),
        ("bool | None", "2", "bool is expected"),
        ("list[float]", "[0.5, 'x']", "a list of float is expected"),
        ("list[float]", "[True]", "a list of float is expected"),
        ("list[float]", f"[{'9' * 400}]", "too large"),
        ("list[int]", "[0.5]", "a list of int is expected"),
        ("list[str]", "['a', 2]", "a list of str is expected"),
        ("list[Literal['a', 'b']]", "a, c", "x.ini x = c: a or b is expected"),
        ("Literal[0.5, 1]", "true", "0.5 or 1 is expected"),
        ("Literal[True, False]", "1", "False or True is expected"),
        ("list[int]", "words", "a list of int is expected"),
    ],
)
def test_texts_that_do_not_fit(annotation, text, words):
    with pytest.raises(ConfigError, match=words):
        coerce(text, Option("x", annotation, None), "x.ini x")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch canary')",
        "[].append(open('canary', 'w'))",
        "(lambda: open('canary', 'w'))()",
        'exec(\'open("canary", "w")\')',
        'f\'{open("canary", "w")}\'',
        "{[]: 1}",
        "{[1]}",
        "(" * 500,
        "-" * 5000 + "1",
        "1" * 5000,
        "'\0'",
        "b'bytes'",
        "1 + 2j",
        "...",
        "[" * 200_000,
    ],
)
def test_nothing_is_ever_evaluated(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert literal(text) == text
    assert not Path("canary").exists()


def test_options_are_checked_as_a_whole():
    found = target("decentralizepy.training.Training", "Training")
    typed = check_options(found, {"rounds": "3", "shuffle": "", "stacked": "no"}, "x.ini")
    assert typed == {"rounds": 3, "stacked": "no"}
    with pytest.raises(ConfigError, match=r"x.ini: Training has no option 'round'.*'rounds'") as e:
        check_options(found, {"round": ""}, "x.ini")
    assert "its options: rounds=1, full_epochs=False, batch_size=1" in str(e.value)
    with pytest.raises(ConfigError, match="no option 'rounds'"):
        check_options(found, {"rounds": "3"}, "x.ini", frozenset({"rounds"}))


def test_an_option_in_capitals_is_found(module):
    """An INI has its keys in small letters."""
    found = module("class Mine:\n    def __init__(self, K: int = 1, k: int = 2, *, T: int): ...\n")
    assert check_options(found, {"k": "3", "t": "4"}, "x.ini") == {"k": 3, "T": 4}


def test_a_missing_option_is_named(module):
    found = module("class Mine:\n    def __init__(self, a: int, b): ...\n")
    with pytest.raises(ConfigError, match=r"x.ini: Mine needs the option 'a'"):
        check_options(found, {"a": "", "b": "1"}, "x.ini")
    assert check_options(found, {"a": "2"}, "x.ini") == {"a": 2}  # unannotated: passed at run time


# ---------------------------------------------------------------- facts

FACTS = """
from decentralizepy.sharing.sharing import Sharing
from typing import ClassVar, Generic
COUNT = 3

class Base:
    servers: ClassVar[int] = 1
    size = (2, -3)
    cost: float = 1e-3
    name, classes = "blobs", 2
    declared: ClassVar[int]
    twice = 1
    twice = 2

    def outgoing(self): ...

class Silent(Base[int]): ...

class Louder(Silent):
    servers = 5

class Rewritten(Base):
    def outgoing(self): ...

class Below(Rewritten): ...

class Anew(Base):
    servers = 7
    def outgoing(self): ...

class Mixin:
    size = (9, 9)

class Diamond(Silent, Mixin, Louder): ...

class Computed(Base):
    servers = COUNT

class Wrong(Base):
    servers = "two"
    classes = True

class Method(Sharing):
    def merge(self): ...

class Other(Sharing):
    def outgoing(self): ...
"""


@pytest.mark.parametrize(
    ("name", "key", "default", "value"),
    [
        ("Base", "servers", 0, 1),
        ("Base", "size", (), (2, -3)),
        ("Base", "cost", 0.0, 0.001),
        ("Base", "name", "", "blobs"),
        ("Base", "classes", 0, 2),
        ("Base", "declared", 4, 4),
        ("Base", "nothing", "x", "x"),
        ("Base", "twice", 0, 2),
        ("Silent", "servers", 0, 1),
        ("Louder", "servers", 0, 5),
        ("Diamond", "servers", 0, 5),
        ("Diamond", "size", (), (9, 9)),
        ("Method", "sends_whole_row", False, True),
        ("Other", "needs_symmetric", False, True),
    ],
)
def test_facts_are_read_from_the_text(module, name, key, default, value):
    assert fact(module(FACTS, name), key, default) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("Base", 1), ("Silent", 1), ("Rewritten", 0), ("Below", 0), ("Anew", 7), ("Louder", 5)],
)
def test_who_overrides_a_method_says_anew_what_it_is_like(module, name, value):
    assert fact(module(FACTS, name), "servers", 0, about="outgoing") == value


def test_a_users_sharing_method_is_known_by_what_it_overrides(module):
    for name, whole in (("Method", True), ("Other", False)):
        assert fact(module(FACTS, name), "sends_whole_row", False, about="outgoing") is whole
    plain = target("decentralizepy.sharing.PlainAverageSharing", "PlainAverageSharing")
    assert fact(plain, "sends_whole_row", False, about="outgoing")
    assert not fact(plain, "needs_symmetric", True, about="mixing")


@pytest.mark.parametrize(
    ("name", "key", "default", "said"),
    [
        ("Computed", "servers", 0, r"Computed.servers = COUNT: .* write the value itself"),
        ("Wrong", "servers", 0, r"Wrong.servers = 'two': int is expected"),
        ("Wrong", "classes", 0, r"Wrong.classes = True: int is expected"),
        ("Base", "name", 0, r"Base.name = 'blobs': int is expected"),
    ],
)
def test_facts_that_cannot_be_read_name_the_file(module, name, key, default, said):
    with pytest.raises(ConfigError, match=f"my_method.py: {said}"):
        fact(module(FACTS, name), key, default)


def test_whole_numbers_are_fractions_too_and_what_cannot_be_read_is_unknown(module):
    assert fact(module(FACTS, "Base"), "servers", 0.5) == 1.0
    assert fact(Target("no_such_module", "X"), "servers", 3) == 3
    assert fact(target("torch.optim", "SGD"), "servers", 3) == 3


def test_a_class_whose_bases_go_round_in_a_circle_has_facts(module):
    text = "class Mine(Other):\n    a = 1\nclass Other(Mine):\n    b = 2\n"
    assert [fact(module(text), key, 0) for key in ("a", "b", "c")] == [1, 2, 0]
