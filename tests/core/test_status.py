"""What a machine tells while it runs, and what it writes so that a run can be repeated."""

import argparse
import json
import os
from pathlib import Path
from types import SimpleNamespace

import core_examples as examples
import pytest

import decentralizepy
from decentralizepy import reference
from decentralizepy.commands import arguments, flags
from decentralizepy.errors import ConfigError
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.memory.shared import ArenaPlan, Counters, create, resize
from decentralizepy.runfolder import MachineFolder
from decentralizepy.settings import Intervals
from decentralizepy.supervision import provenance
from decentralizepy.supervision import status as status_module
from decentralizepy.supervision.progress import line
from decentralizepy.supervision.status import Status


@pytest.fixture
def status(tmp_path):
    """The status of machine 1 with 4 nodes on 2 workers."""
    return Status(
        SimpleNamespace(
            folder=MachineFolder(tmp_path),
            machine=1,
            workers=2,
            uids=range(4, 8),
            mapping=Mapping((4, 4)),
            attempt=0,
            intervals=Intervals(100, 10, 5),
            simulation=None,
        )
    )


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(status_module.time, "monotonic", lambda: now.seconds)
    return now


def written(status, state="running"):
    status.write(state)
    return json.loads(status._settings.folder.status.read_text())


def test_before_the_start(status, clock):
    assert not status.going
    assert written(status, "starting") == {
        "state": "starting", "machine": 1, "workers": 2, "nodes": 4, "iterations": 100,
        "members": 4, "round_start": 0, "round_min": 0, "round_mean": 0.0, "round_max": 0,
        "elapsed_s": 0.0, "past_s": 0.0, "refused": 0,
        "test_acc": None, "train_loss": None, "error": None, "notes": [],
    }  # fmt: skip
    assert status.busy_with(0) is None


def test_progress_is_read_from_the_shared_counters(status):
    plan = ArenaPlan((2, 2), 8)
    memory = create()
    resize(memory, plan)
    status.watch(memory, plan)
    control = status._control
    assert isinstance(control, Counters)
    for node, rounds in enumerate((3, 5, 4, 8)):
        control.rounds[node] = rounds
    control.busy(1, 6, 8)
    found = written(status)
    assert (found["round_min"], found["round_mean"], found["round_max"]) == (3, 5.0, 8)
    assert status.busy_with(1) == (6, 8) and status.busy_with(0) is None
    os.close(memory)


def test_seconds_pass_until_the_last_worker_has_finished(status, clock):
    status.start()
    clock.seconds += 2.5
    assert status.going and written(status)["elapsed_s"] == 2.5
    status.finish(2.0)
    clock.seconds += 1
    assert written(status)["elapsed_s"] == 3.5
    status.finish(3.25)
    clock.seconds += 10
    assert written(status, "done")["elapsed_s"] == 3.25


def test_the_newest_evaluation_of_each_kind(status):
    for uid in range(4):
        status.add({"iteration": 10, "uid": uid, "test_acc": 80.0 + uid, "train_loss": 0.5})
    status.add({"iteration": 15, "uid": 0, "train_loss": 0.25})
    found = written(status)
    assert found["test_acc"] == {"iteration": 10, "mean": 81.5, "nodes": 4}
    assert found["train_loss"] == {"iteration": 15, "mean": 0.25, "nodes": 1}


def test_time_left_goes_by_the_present_attempt():
    """An hour before the checkpoint at 50 is not the price of the ten iterations since."""
    value = {
        "round_min": 60, "round_mean": 60.0, "round_start": 50, "iterations": 100,
        "elapsed_s": 3602.0, "past_s": 3600.0, "test_acc": None, "train_loss": None,
    }  # fmt: skip
    assert line(value) == "iteration 60/100, 8.0 s left"


def test_few_evaluations_are_kept(status):
    for iteration in range(1, 50):
        status.add({"iteration": iteration, "uid": 0, "test_acc": 1.0})
    assert len(status._records) <= 4 and written(status)["test_acc"]["iteration"] == 49


def test_it_is_written_twice_a_second_at_most(status, clock):
    path = status._settings.folder.status
    status.write_now_and_then("running")
    for seconds, there in ((0.4, False), (0.2, True), (0.4, False), (0.1, True)):
        path.unlink(missing_ok=True)
        clock.seconds += seconds
        status.write_now_and_then("running")
        assert path.exists() == there


def test_a_full_disk_does_not_end_the_run_for_it(status, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(status_module, "write_json", fail)
    status.write("running")


# ---------------------------------------------------------------- provenance


@pytest.fixture
def run(folder):
    """Settings and flags of a run, as the command makes them."""

    def make(*words):
        parser = argparse.ArgumentParser()
        flags.add_arguments(parser)
        line = ["-cf", "small.ini", "-gf", "ring.edges", "-ld", "out/machine0", *words]
        args = parser.parse_args(line)
        settings = arguments.settings_of(args)
        return settings, arguments.flags_of(args, settings)

    return make


def test_the_inputs_are_copied_and_described(run):
    settings, flags = run("-is", "7")
    provenance.begin(settings, flags)
    out = Path("out/machine0")
    assert {path.name for path in out.iterdir()} == {
        "args.json", "run.json", "small.ini", "ring.edges"
    }  # fmt: skip
    assert (out / "small.ini").read_text() == examples.ini()
    assert (out / "ring.edges").read_text() == Path("ring.edges").read_text()
    assert json.loads((out / "args.json").read_text()) == reference.flags(flags)
    found = json.loads((out / "run.json").read_text())
    assert found["outcome"] == "running" and found["seed"] == 90 and found["flags"] == flags
    assert found["graph"] == {"file": "ring.edges", "sha256": settings.graph.digest()}
    assert found["nodes_per_machine"] == [8] and found["ini"] == examples.ini()
    assert found["packages"]["torch"] and found["version"] == decentralizepy.__version__
    assert settings.folder.holds_a_run()


def test_the_end_is_added(run):
    settings, flags = run()
    provenance.begin(settings, flags)
    before = json.loads(settings.folder.run.read_text())
    status = Status(settings)
    status._total = 12.5
    status.error, status.began = "machine 0, worker 1 was killed", 1.5e9
    status.transport.add({"refused": {"forged": 1}, "resent": 2})
    provenance.end(settings, "failed", status)
    found = json.loads(settings.folder.run.read_text())
    assert found.pop("error") == "machine 0, worker 1 was killed" and found.pop("ended")
    more = {"notes": [], "membership": [], "last_attempt": 0, "wall_s": 12.5}
    counts = {"refused": {"forged": 1}, "reconnects": 0, "resent": 2, "held": 0, "duplicates": 0}
    more["transport"] = counts
    assert found == before | {"outcome": "failed", "training_started": 1.5e9} | more


def test_a_run_that_never_trained_may_be_started_again_in_its_folder(run):
    settings, flags = run()
    assert not provenance.began_nothing(settings)
    provenance.begin(settings, flags)
    assert not provenance.began_nothing(settings), "it may be going on"
    status = Status(settings)
    provenance.end(settings, "interrupted", status)
    assert provenance.began_nothing(settings) and run()[0].folder.holds_a_run()
    status.began = 1.5e9
    provenance.end(settings, "interrupted", status)
    assert not provenance.began_nothing(settings)
    with pytest.raises(ConfigError, match="already contains a run"):
        run()


def test_a_log_folder_has_one_holder(run):
    settings, _ = run()
    settings.log_dir.mkdir(parents=True)
    again = provenance.held(settings.log_dir)
    with provenance.held(settings.log_dir), pytest.raises(ConfigError, match="is in use: another"):
        again.__enter__()
    with provenance.held(settings.log_dir):
        pass


def changed(run, *words):
    """Which digests other flags (or files) change, by their names."""
    before = Path("ring.edges").read_text()
    one = provenance.digests(*run("-ms", "2", "-mid", "0"))
    Path("ring.edges").write_text(before)
    other = provenance.digests(*run("-ms", "2", "-mid", "0", *words))
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize(
    "words",
    [
        ["-mid", "1"],
        ["-ld", "elsewhere"],
        ["-wsd", "weights"],
        ["--workers", "2"],
        ["--cache-dir", "cache"],
        ["-ll", "DEBUG"],
    ],
)
def test_machines_may_differ_in_what_is_their_own(run, words):
    assert changed(run, *words) == set()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--iterations", ["-is", "9"]),
        ("--test_after", ["-ta", "9"]),
        ("--reset_optimizer", ["-ro", "0"]),
        ("--averaging_steps", ["-as", "2"]),
        ("--threads", ["--threads", "2"]),
        ("--procs_per_machine", ["-ps", "5", "3"]),
    ],
)
def test_machines_may_not_differ_in_what_changes_numbers(run, flag, words):
    assert changed(run, *words) == {flag}


def test_other_files_are_named_as_the_user_knows_them(run):
    one = provenance.digests(*run("-ms", "2", "-mid", "0"))
    Path("small.ini").write_text(examples.ini(OPTIMIZER_PARAMS__lr="0.1"))
    Path("ring.edges").write_text(examples.ring(8) + "0 4\n")
    Path("ip.json").write_text('{"0": "127.0.0.8", "1": "127.0.0.9"}')
    other = provenance.digests(*run("-ms", "2", "-mid", "0"))
    assert {name for name in one if one[name] != other[name]} == {
        "INI file (small.ini)", "graph (ring.edges)", "addresses (ip.json)"
    }  # fmt: skip


def test_users_modules_are_compared_by_what_they_say(run):
    found = []
    for text in ("class Mine:\n    pass\n", "class Mine:\n    'Another.'\n"):
        Path("my_method.py").write_text(text)
        ini = {"SHARING__sharing_package": "my_method", "SHARING__sharing_class": "Mine"}
        Path("small.ini").write_text(examples.ini(**ini))
        found.append(provenance.digests(*run("-ms", "2", "-mid", "0")))
    one, other = found
    assert {name for name in one if one[name] != other[name]} == {"module my_method"}
    assert not any("torch" in name for name in one)


def test_fault_plans_are_compared_by_what_they_say(run):
    for name, round_ in (("one.json", 1), ("same.json", 1), ("other.json", 2)):
        Path(name).write_text(json.dumps([{"kill": {"node": 1}, "round": round_}]))
    words = ("-ms", "2", "-mid", "0", "-is", "5", "--faults")
    one, same, other = (
        provenance.digests(*run(*words, name)) for name in ("one.json", "same.json", "other.json")
    )
    assert one == same
    assert {name for name in one if one[name] != other[name]} == {"fault plan (--faults)"}


def test_a_plan_kills_no_worker_that_is_not_there(run):
    Path("plan.json").write_text(json.dumps([{"kill": {"worker": [0, 2]}, "round": 1}]))
    message = r"plan.json: fault 1 \(kill\): machine 0 has 2 worker\(s\), no worker 2"
    with pytest.raises(ConfigError, match=message):
        run("--workers", "2", "--faults", "plan.json")
    assert run("--workers", "3", "--faults", "plan.json")[0].workers == 3


def test_the_code_has_a_digest(tmp_path, monkeypatch):
    package = tmp_path / "decentralizepy"
    (package / "inner").mkdir(parents=True)
    monkeypatch.setattr(decentralizepy, "__file__", str(package / "__init__.py"))
    digests = {provenance.code_digest()}
    for path, text in (("a.py", "1"), ("a.py", "2"), ("inner/b.py", "2"), ("c.py", "")):
        (package / path).write_text(text)
        digests.add(provenance.code_digest())
    (package / "c.txt").write_text("no code")
    assert len(digests) == 5 and provenance.code_digest() in digests
    assert provenance.revision() is None  # installed from a wheel: there is no .git


def test_the_revision_says_whether_the_code_was_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(decentralizepy, "__file__", str(tmp_path / "d" / "__init__.py"))
    (tmp_path / ".git").mkdir()
    answers = {"rev-parse": "abc", "status": ""}
    monkeypatch.setattr(provenance, "_git", lambda root, verb, *_: answers[verb])
    assert provenance.revision() == "abc"
    answers["status"] = " M x.py"
    assert provenance.revision() == "abc+dirty"

    def fail(*_):
        raise FileNotFoundError("git")

    monkeypatch.setattr(provenance, "_git", fail)
    assert provenance.revision() is None


def test_servers_are_no_part_of_the_mean_of_nodes(status, clock):
    for uid, accuracy in ((-1, 90.0), (4, 10.0), (5, 20.0)):
        status.add({"iteration": 10, "uid": uid, "test_acc": accuracy})
    assert written(status)["test_acc"] == {"iteration": 10, "mean": 15.0, "nodes": 2}
    status.add({"iteration": 20, "uid": -1, "test_acc": 91.0})
    status.add({"iteration": 20, "uid": 4, "consensus_distance": 1.0})
    assert written(status)["test_acc"] == {"iteration": 20, "mean": 91.0, "nodes": 1}
