"""CPUs allotted to a process: affinity and control groups, here in made-up folders."""

import os

import pytest

from decentralizepy import cpus
from decentralizepy.cpus import allotted, cgroup_quota


@pytest.fixture
def group(tmp_path):
    """Write files of a control group; keys are paths under the root."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("cpu_max", "cpu.max")
            path = path.with_name(path.name.replace("cfs", "cpu.cfs"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000", 1.5),
        ("max 100000\n", None),
        ("50000 0\n", None),
        ("50000\n", None),
        ("", None),
        ("many 100000", None),
    ],
)
def test_version_2(group, text, quota):
    assert cgroup_quota(group(cpu_max=text), "") == quota


@pytest.mark.parametrize(
    ("quota", "period", "cpus"),
    [
        ("400000\n", "100000\n", 4.0),
        ("-1\n", "100000\n", None),
        ("0\n", "100000\n", None),
        ("100000", "0", None),
        ("words", "100000", None),
    ],
)
def test_version_1(group, quota, period, cpus):
    root = group(cpu__cfs_quota_us=quota, cpu__cfs_period_us=period)
    assert cgroup_quota(root, "") == cpus


def test_half_of_version_1(group):
    assert cgroup_quota(group(cpu__cfs_quota_us="100000"), "") is None


def test_every_group_above_may_limit(group):
    root = group(
        cpu_max="800000 100000",
        slice__cpu_max="300000 100000",
        slice__job__cpu_max="max 100000",
        slice__job__task__cpu_max="500000 100000",
        other__cpu_max="100000 100000",
    )
    assert cgroup_quota(root, "slice/job/task") == 3.0
    assert cgroup_quota(root, "slice/job") == 3.0
    assert cgroup_quota(root, "") == 8.0
    assert cgroup_quota(root, "slice/gone") == 3.0


def test_a_group_outside_the_root_is_not_followed(group, tmp_path):
    root = group(inner__cpu_max="200000 100000") / "inner"
    (tmp_path / "cpu.max").write_text("100000 100000")
    assert cgroup_quota(root, "") == 2.0


def test_no_groups_at_all(tmp_path):
    assert cgroup_quota(tmp_path / "nowhere", "") is None


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"),
    [(8, None, 8), (8, 2.0, 2), (8, 2.5, 3), (2, 16.0, 2), (4, 0.1, 1), (0, None, 1)],
)
def test_the_smaller_counts_and_a_part_of_one_is_one(monkeypatch, affinity, quota, expected):
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda _: set(range(affinity)))
    monkeypatch.setattr(cpus, "cgroup_quota", lambda: quota)
    assert allotted() == expected


def test_systems_without_affinity(monkeypatch):
    monkeypatch.delattr(cpus.os, "sched_getaffinity")
    monkeypatch.setattr(cpus, "cgroup_quota", lambda: None)
    monkeypatch.setattr(cpus.os, "cpu_count", lambda: 6)
    assert allotted() == 6
    monkeypatch.setattr(cpus.os, "cpu_count", lambda: None)
    assert allotted() == 1


def test_the_own_group_is_that_of_version_2(monkeypatch):
    text = "12:cpu,cpuacct:/docker/abc\n0::/user.slice/a b\n"
    monkeypatch.setattr(cpus.Path, "read_text", lambda *_, **__: text)
    assert cpus._own_group() == "user.slice/a b"
    monkeypatch.setattr(cpus.Path, "read_text", lambda *_, **__: "12:cpu:/docker/abc\n")
    assert cpus._own_group() == ""

    def fail(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(cpus.Path, "read_text", fail)
    assert cpus._own_group() == ""


def test_here_and_now():
    assert 1 <= allotted() <= len(os.sched_getaffinity(0))
