"""Random streams: the same name always gives the same numbers, different names never do."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.streams import PURPOSES, generator, torch_seed

names = st.tuples(
    st.integers(0, (1 << 64) - 1),  # seeds count modulo 2**64
    st.integers(0, 10_000),
    st.sampled_from(sorted(PURPOSES)),
    st.integers(0, 1 << 40),
    st.integers(0, (1 << 16) - 1),
)
NEIGHBOURS = [
    (97, 3, "batches", 5, 1),
    (98, 3, "batches", 5, 1),
    (97, 4, "batches", 5, 1),
    (3, 97, "batches", 5, 1),
    (97, 3, "dropout", 5, 1),
    (97, 3, "sharing", 5, 1),
    (97, 3, "node", 5, 1),
    (97, 3, "batches", 6, 1),
    (97, 3, "batches", 5, 2),
    (97, 3, "batches", 5, 0),
    (97, 3, "batches", 1, 5),
    (97, 3, "batches", 0, 0),
    (0, 0, "batches", 0, 0),
    (1, 0, "batches", 0, 0),
    (0, 1, "batches", 0, 0),
]
PEERS = [(97, 3, "sharing", 5, 1, peer) for peer in (1, 2, -1)]


def raw(name, count=4):
    return generator(*name).bit_generator.random_raw(count)


@given(names)
def test_equal_names_give_equal_streams(name):
    assert raw(name).tolist() == raw(name).tolist()
    assert torch_seed(*name) == torch_seed(*name)


@given(names, names)
def test_different_names_give_different_streams(one, other):
    same = one == other
    assert (raw(one).tolist() == raw(other).tolist()) == same
    assert (torch_seed(*one) == torch_seed(*other)) == same


def test_no_number_of_a_stream_is_in_its_neighbours():
    """64-bit numbers: 150,000 honest ones meet by chance once in 10^9 tries."""
    draws = np.concatenate([raw(name, 10_000) for name in (*NEIGHBOURS, *PEERS)])
    assert len(np.unique(draws)) == len(draws)


def test_a_stream_never_reaches_the_next_one():
    """Draws count up the low word; purpose and round are in words that 2^128 draws don't touch."""
    stream = generator(97, 3, "batches", 5, 1)
    stream.random(100_000)
    state = stream.bit_generator.state["state"]
    assert state["key"].tolist() == [97, 3]
    assert state["counter"][1:].tolist() == [0, PURPOSES["batches"], 5 << 16 | 1]


@given(names)
def test_a_stream_is_philox_with_its_name_in_key_and_counter(name):
    seed, uid, purpose, t, k = name
    word = (1 << 64) - 1
    key, counter = (seed & word, uid & word), (0, 0, PURPOSES[purpose], (t << 16 | k) & word)
    plain = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))
    assert raw(name).tolist() == plain.random_raw(4).tolist()


def test_golden_numbers():
    """Never to change: a run repeated years later draws the same."""
    found = [hex(value) for value in raw((97, 3, "batches", 5, 1)).tolist()]
    assert found == [
        "0xa7d23f575ae57b16",
        "0xe2ac5ae40dbbafb0",
        "0x388999232e1a066d",
        "0xd2523f0386733db5",
    ]
    negative = [hex(value) for value in raw((-1, -1, "node", 0), 2).tolist()]
    assert negative == ["0x6e102644d000dbbc", "0xa629900d90332bea"]
    assert torch_seed(97, 3, "dropout", 5, 1) == 3080234539708184306
    neighbour = generator(97, 3, "sharing", 5, 1, peer=4).bit_generator.random_raw(2).tolist()
    assert [hex(value) for value in neighbour] == ["0x930f9351dd5da844", "0x96b84e66a86f5ece"]
    assert PURPOSES == {
        "batches": 1, "dropout": 2, "sharing": 3, "node": 4, "validation": 5, "peer": 6,
        "evaluation": 7, "shared": 8, "compression": 9, "absence": 16, "peers": 17,
    }  # fmt: skip


def test_golden_draws_of_numpys_methods():
    """What training uses of them; NumPy may improve its methods, then class 1 is broken."""
    assert generator(97, 3, "batches", 5).permutation(10).tolist() == [1, 3, 4, 9, 8, 6, 7, 5, 2, 0]
    assert generator(97, 3, "batches", 5).random(2).tolist() == pytest.approx(
        [0.16229066, 0.6742813]
    )


def test_torchs_seeds_fit_and_are_spread():
    seeds = [torch_seed(97, uid, "dropout", t) for uid in range(50) for t in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds) and max(seeds) > 1 << 62


def test_an_unknown_purpose_has_no_stream():
    with pytest.raises(KeyError):
        generator(0, 0, "anything", 0)


def test_global_generators_are_left_alone():
    code = (
        "import random, numpy as np; from decentralizepy.streams import generator; "
        "before = random.getstate(), np.random.get_state()[1].tolist(); "
        "generator(1, 2, 'node', 3).random(10); "
        "assert before == (random.getstate(), np.random.get_state()[1].tolist())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
