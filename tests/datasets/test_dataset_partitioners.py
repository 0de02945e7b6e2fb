"""The partitions: properties of each, and equality with the reference system's for the same seed.

`reference_*` state the reference's algorithms again, sample by sample with Python lists, from
reading them; the project's are vectorised.
"""

import random
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from decentralizepy.datasets import partitioners
from decentralizepy.datasets.partitioners import (
    SCHEMES,
    check_sizes,
    dirichlet,
    equal_sizes,
    iid,
    kshard,
    partition,
    scheme,
    simple,
)

CIFAR = np.random.default_rng(5).permutation(np.repeat(np.arange(10), 5_000))
SMALL = np.random.default_rng(6).integers(0, 10, 1_442)


def reference_runs(order, sizes):
    parts, remaining = [], list(order)
    for share in sizes:
        count = int(share * len(order))
        parts.append([remaining.pop(0) for _ in range(count)])
    return parts


def reference_iid(length, sizes, seed):
    generator = random.Random()
    generator.seed(seed)
    order = list(range(length))
    generator.shuffle(order)
    return reference_runs(order, sizes)


def reference_kshard(labels, sizes, seed, shards):
    by_class = [i for k in range(10) for i, y in enumerate(labels) if y == k]
    generator = random.Random()
    generator.seed(seed)
    pool, parts = by_class, []
    for share in sizes:
        mine = []
        for _ in range(shards):
            first = generator.randint(0, len(pool) - 1)
            count = int(share * len(labels)) // shards
            taken = [(first + i) % len(pool) for i in range(count)]
            mine += [pool[i] for i in taken]
            gone = set(taken)
            pool = [sample for i, sample in enumerate(pool) if i not in gone]
        parts.append(mine)
    return parts


def reference_dirichlet(labels, n, seed, alpha, classes=10):
    generator = np.random.default_rng(seed)
    while True:
        parts = [[] for _ in range(n)]
        for k in range(classes):
            members = np.array([i for i, y in enumerate(labels) if y == k])
            generator.shuffle(members)
            shares = generator.dirichlet([alpha] * n)
            open_ = [len(part) < len(labels) / n for part in parts]
            shares = np.array([s if o else 0.0 for s, o in zip(shares, open_, strict=True)])
            ends = [int(e) for e in np.cumsum(shares / shares.sum()) * len(members)][:-1]
            for part, lo, hi in zip(parts, [0, *ends], [*ends, len(members)], strict=True):
                part += members[lo:hi].tolist()
        if min(map(len, parts)) >= classes:
            break
    for part in parts:
        generator.shuffle(part)
    return parts


def as_lists(parts):
    assert all(part.dtype == np.int64 for part in parts)
    return [part.tolist() for part in parts]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 100])
def test_equal_sizes_are_the_references(n):
    fraction = (1_442 // n) / 1_442
    expected = [fraction for _ in range(n)]
    expected[-1] = expected[-1] + (1.0 - fraction * n)
    assert equal_sizes(1_442, n) == expected


@pytest.mark.parametrize("n", [1, 2, 16, 33, 100])
@pytest.mark.parametrize("seed", [90, 1234])
def test_runs_and_shards_equal_the_references(n, seed):
    sizes = equal_sizes(len(SMALL), n)
    assert as_lists(simple(len(SMALL), sizes)) == reference_runs(range(len(SMALL)), sizes)
    assert as_lists(iid(len(SMALL), sizes, seed)) == reference_iid(len(SMALL), sizes, seed)
    for shards in (1, 2, 4):
        ours = as_lists(kshard(SMALL, sizes, seed, shards))
        assert ours == reference_kshard(SMALL, sizes, seed, shards)


@pytest.mark.parametrize(("n", "alpha"), [(1, 1.0), (4, 0.1), (16, 0.1), (16, 1), (30, 100)])
@pytest.mark.parametrize("seed", [90, 1234])
def test_dirichlet_equals_the_references(n, alpha, seed):
    expected = reference_dirichlet(SMALL.tolist(), n, seed, alpha)
    assert as_lists(dirichlet(SMALL, n, seed, alpha)) == expected


@pytest.mark.parametrize("seed", [1, 2])
def test_the_size_of_the_papers_equals_the_references(seed):
    sizes = equal_sizes(50_000, 128)
    assert as_lists(iid(50_000, sizes, seed)) == reference_iid(50_000, sizes, seed)
    assert as_lists(dirichlet(CIFAR, 128, seed, 0.1)) == reference_dirichlet(
        CIFAR.tolist(), 128, seed, 0.1
    )


def test_explicit_sizes_equal_the_references():
    sizes = [0.5, 0.25, 0.1, 0.1]
    parts = partition(SMALL, 4, partition_niid="iid", sizes=sizes, seed=9)
    assert as_lists(parts) == reference_iid(len(SMALL), sizes, 9)
    assert [len(part) for part in parts] == [721, 360, 144, 144]


def test_known_values():
    # Python's generator and numpy's PCG64 are stable: these may never change.
    labels = np.arange(40) % 4
    assert iid(10, [0.5, 0.5], 1234)[0].tolist() == [2, 8, 3, 5, 6]
    first = kshard(labels, [0.25] * 4, 1234, 2)[0]
    assert len(first) == 10
    assert (np.diff(labels[first[:5]]) >= 0).all()


@settings(max_examples=80)
@given(
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=300),
    n=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    name=st.sampled_from(["simple", "iid", "kshard"]),
    shards=st.integers(1, 3),
)
def test_no_sample_is_given_twice_and_sizes_are_right(labels, n, seed, name, shards):
    y = np.array(labels)
    if len(y) < n * shards:
        return
    # Rounding may shorten a part: int((e / N) * N) can be e - 1, in the reference too.
    sizes = equal_sizes(len(y), n)
    expected = [int(size * len(y)) for size in sizes]
    if name == "kshard":
        expected = [length // shards * shards for length in expected]
    if min(expected) == 0:
        return
    parts = partition(y, n, partition_niid=name, seed=seed, shards=shards)
    given_out = np.concatenate(parts)
    assert [len(part) for part in parts] == expected
    assert len(set(given_out.tolist())) == len(given_out)
    assert given_out.min() >= 0
    assert given_out.max() < len(y)


@settings(max_examples=40)
@given(
    per_class=st.integers(8, 30),
    n=st.integers(1, 8),
    seed=st.integers(0, 2**32),
    alpha=st.floats(0.5, 100),
)
def test_dirichlet_gives_out_everything_once(per_class, n, seed, alpha):
    labels = np.repeat(np.arange(4), per_class)
    assume(len(labels) >= 6 * n)  # with just enough there is hardly ever such a deal
    parts = dirichlet(labels, n, seed, alpha, num_classes=4)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert min(len(part) for part in parts) >= 4


@settings(max_examples=40)
@given(weights=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_explicit_sizes_are_kept(weights, seed):
    sizes = [weight / sum(weights) for weight in weights]
    for name in ("simple", "iid", "kshard"):
        parts = partition(SMALL, len(sizes), partition_niid=name, sizes=sizes, seed=seed)
        assert [len(part) for part in parts] == [int(size * len(SMALL)) for size in sizes]


def test_shards_hold_few_classes():
    parts = kshard(CIFAR, equal_sizes(50_000, 100), seed=90, shards=2)
    classes = [len(np.unique(CIFAR[part])) for part in parts]
    assert max(classes) <= 6
    assert np.mean(classes) < 3


def test_small_alpha_is_more_skewed():
    def spread(alpha):
        parts = dirichlet(CIFAR, 16, seed=3, alpha=alpha)
        return np.mean([np.bincount(CIFAR[part], minlength=10).std() for part in parts])

    assert spread(0.1) > 3 * spread(100)


def test_all_shares_on_full_nodes_go_to_the_last_one():
    assert partitioners._cuts(np.zeros(3), 7).tolist() == [0, 0, 7]


@pytest.mark.parametrize("name", SCHEMES)
def test_fifty_thousand_samples_for_128_nodes_are_quick(name):
    start = time.process_time()
    partition(CIFAR, 128, partition_niid=name, seed=90, shards=2, alpha=0.1)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("simple", "simple"),
        ("IID", "iid"),
        (False, "iid"),
        ("False", "iid"),
        ("", "iid"),
        ("kshard", "kshard"),
        (True, "kshard"),
        ("true", "kshard"),
        ("dirichlet", "dirichlet"),
    ],
)
def test_every_spelling_of_the_reference_is_known(value, name):
    assert scheme(value) == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "at least one"),
        ({"n": 41}, "41 nodes but only 40"),
        ({"n": 4, "sizes": [0.5, 0.5]}, "2 fractions for 4 nodes"),
        ({"n": 2, "sizes": [0.9, 0.9]}, "sum to 1.8"),
        ({"n": 2, "sizes": [20, 20]}, "fractions"),
        ({"n": 2, "sizes": [1.0, 0.0]}, "above 0"),
        ({"n": 2, "sizes": [1.5, -0.5]}, "above 0"),
        ({"n": 2, "sizes": [float("nan"), 0.5]}, "above 0"),
        ({"n": 2, "sizes": [0.99, 0.01]}, "node 1 would get an empty part"),
        ({"n": 8, "partition_niid": "kshard", "shards": 6}, "fewer shards than 6"),
        ({"n": 20, "partition_niid": "dirichlet"}, "20 nodes need 200"),
        ({"n": 2, "partition_niid": "niid"}, "simple, iid, kshard, dirichlet"),
    ],
)
def test_mistakes_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        partition(np.arange(40) % 10, **options)


def test_a_dirichlet_that_cannot_be_met_ends(monkeypatch):
    monkeypatch.setattr(partitioners, "DIRICHLET_TRIES", 20)
    with pytest.raises(ValueError, match="raise alpha or use fewer nodes"):
        dirichlet(SMALL, 100, seed=1, alpha=0.01)


def test_the_error_of_an_empty_fraction_tells_the_way_to_a_node_without_samples():
    told = r"above 0, got \[1.0, 0.0\]; for a node without samples give it an empty array"
    with pytest.raises(ValueError, match=told):
        check_sizes([1.0, 0.0], 10, 2)
