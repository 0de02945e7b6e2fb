"""docs/configuration.md names every key and flag that there is, and none that there is not."""

from __future__ import annotations

import argparse
import re
from functools import cache
from pathlib import Path

import pytest

from decentralizepy import reference
from decentralizepy.commands import flags
from decentralizepy.config import KEYS_BESIDE, NODE_OPTIONS, SECTIONS
from decentralizepy.drivers import DRIVERS
from decentralizepy.registry import legacy, options, target
from orchestrator.config import Config, keys

REPOSITORY = Path(__file__).resolve().parents[2]
#: our classes by section: a module, and its classes
CLASSES = {
    "DATASET": {
        f"decentralizepy.datasets.{name}": (name.rsplit(".", 1)[-1],)
        for name in (
            "Digits", "CIFAR10", "Femnist", "FemnistLabelSplit", "Celeba", "Shakespeare", "Reddit",
            "MovieLens", "text.AmazonReview", "ImageFolder", "NumpyFiles", "HuggingFace",
        )
    },
    "MODEL": {
        "decentralizepy.models.digits": ("DropoutMLP",),
        "decentralizepy.models.movielens": ("MatrixFactorization",),
        "decentralizepy.models.own": ("LogisticRegression", "MLP", "CNN"),
        "decentralizepy.models.pretrained": ("TextClassifier", "NextToken"),
        "decentralizepy.models.amazon_review": ("BERT", "MobileBERT"),
        "decentralizepy.models.resnet": ("ResNet18",),
    },
    "OPTIMIZER_PARAMS": {},
    "TRAIN_PARAMS": {
        "decentralizepy.training.Training": ("Training",),
        "decentralizepy.training.training_clipping": ("TrainingClipping",),
        "decentralizepy.training.text.LLMTraining": ("LLMTraining",),
        "decentralizepy.training.PrivateTraining": ("PrivateTraining",),
        "decentralizepy.training.task": ("Classification", "OneHot", "LanguageModel", "Rating"),
    },
    "COMMUNICATION": {"decentralizepy.communication.TCP": ("TCP",)},
    "SHARING": {
        name: (name.rsplit(".", 1)[-1],) for name in legacy() if ".sharing." in name
    },
    "NODE": {
        f"decentralizepy.node.{module}": (name,)
        for module, name in (
            ("dpsgd", "DPSGD"), ("dropout", "Dropout"), ("epidemic", "EpidemicLearning"),
            ("knn", "KNN"), ("kfn", "KFN"), ("fedavg", "FedAvg"), ("stc", "STCFederated"),
            ("push_sum", "PushSum"), ("async_push", "AsyncPush"), ("async_pull", "AsyncPull"),
            ("peer_sampler", "CentralPeerSampler"), ("shatter", "Shatter"),
        )
    },
    "LR_SCHEDULE": {
        "decentralizepy.training.schedules": (
            "Step", "MultiStep", "Exponential", "Cosine", "Constant"
        )
    },
    "GRAPH": {"decentralizepy.graphs.schedules": (
        "StaticSchedule", "RandomRegularSchedule", "EpidemicSchedule"
    )},
}  # fmt: skip
PREFIX = {
    "DATASET": "dataset", "OPTIMIZER_PARAMS": "optimizer", "TRAIN_PARAMS": "training",
    "COMMUNICATION": "comm", "SHARING": "sharing", "NODE": "node", "LR_SCHEDULE": "schedule",
    "GRAPH": "graph",
}  # fmt: skip
#: parameters that the runtime gives
GIVEN = {"criterion", "n", "graph", "seed"}


@cache
def chapters() -> dict[str, str]:
    """The text below each heading of the page, without that of lower ones."""
    text = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    parts = re.split(r"^#+ (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(chapter: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line for line in chapters()[chapter].splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines[2:]]


def named(chapter: str) -> list[str]:
    """What the first column of a table has in backticks."""
    return [name for row in rows(chapter) for name in re.findall(r"`([^`]+)`", row[0])]


def of_classes(section: str) -> set[str]:
    pairs = ((module, name) for module, names in CLASSES[section].items() for name in names)
    found = {key for module, name in pairs for key in options(target(module, name)) or ()}
    return found - GIVEN


def known(section: str) -> set[str]:
    """Every key that may stand in a section, by the code."""
    found = of_classes(section)
    if section in PREFIX:
        found |= {f"{PREFIX[section]}_package", f"{PREFIX[section]}_class"}
    found |= {key for where, key in reference.OFF if where == section}
    found |= set(KEYS_BESIDE.get(section, ()))
    return found | (set(NODE_OPTIONS) if section == "NODE" else set())


def check(found: list[str], wanted: set[str]) -> None:
    assert len(found) == len(set(found)), "named twice"
    assert (wanted - set(found), set(found) - wanted) == (set(), set()), "(missing, not there)"


def test_the_json():
    check(named("The JSON"), set(keys()))


def test_defaults_of_the_json_are_those_of_the_code():
    """Of numbers and words; what is required says so."""
    defaults = {re.findall(r"`([^`]+)`", row[0])[0]: row[1] for row in rows("The JSON")}
    for name, field in Config.model_fields.items():
        said = defaults[field.alias or name]
        if field.is_required():
            assert said == "required", name
        elif isinstance(field.default, int | str) and field.default != "":
            assert re.match(rf"`?{re.escape(str(field.default))}\b", said), name


def test_drivers():
    check(named("Drivers"), set(DRIVERS))


def test_every_section_has_a_chapter():
    assert {name.strip("[]") for name in chapters() if name.startswith("[")} == set(SECTIONS)


@pytest.mark.parametrize("section", [name for name in SECTIONS if name != "OPTIMIZER_PARAMS"])
def test_a_section_of_the_ini(section):
    check(named(f"[{section}]"), known(section))


def test_the_optimizers_options_are_torchs():
    found = named("[OPTIMIZER_PARAMS]")
    theirs = set(options(target("torch.optim", "SGD")) or ())
    assert found[:2] == ["optimizer_package", "optimizer_class"]
    assert "lr" in found and set(found[2:]) <= theirs


def test_flags_of_run():
    parser = argparse.ArgumentParser(add_help=False)
    flags.add_arguments(parser)
    options_ = {option for action in parser._actions for option in action.option_strings}
    check(named("Flags of `decentralizepy run`"), options_)
    for row in rows("Flags of `decentralizepy run`"):
        action = parser._option_string_actions[re.findall(r"`([^`]+)`", row[0])[0]]
        if isinstance(action.default, int | float | str) and action.default is not False:
            said = f"{action.default:g}" if isinstance(action.default, float) else action.default
            assert row[1].strip("`") == str(said), row


@pytest.mark.parametrize("section", ["DATASET", "SHARING", "COMMUNICATION"])
def test_no_class_of_ours_is_overlooked(section):
    """A new one must be added to `CLASSES`, so that its keys are asked of the page."""
    package = next(iter(CLASSES[section])).rsplit(".", 1)[0]
    assert {name for name in legacy() if name.startswith(f"{package}.")} == set(CLASSES[section])


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    pages = [REPOSITORY / "README.md", REPOSITORY / "docs" / "configuration.md"]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
