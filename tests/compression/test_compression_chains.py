"""Parts in their order: what chains take, keep and lose."""

from __future__ import annotations

import pytest
import torch
from compression_table import BEHIND, CHAINS, chain, decoded, rng, through, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.compression.base import CompressionError, Sparse
from decentralizepy.compression.chain import Chain, Packed
from decentralizepy.compression.error_feedback import ErrorFeedback
from decentralizepy.compression.fp16 import Fp16
from decentralizepy.compression.top_k import TopK


def test_the_empty_chain_sends_the_vector_itself() -> None:
    for x in (vector(9), vector(9).double(), torch.zeros(0)):
        packed = Chain().compress(x, rng())
        assert packed.tensors["params"] is x and not packed.meta and not Chain()
        assert Chain().decompress(packed.tensors, {}, len(x)) is x


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fp16 + top_k(alpha=0.1)", "top_k cannot follow fp16; the order is: noise, error feedb"),
        ("top_k(alpha=0.1) + random_k(alpha=0.1)", "random_k cannot follow top_k"),
        ("top_k(alpha=0.1) + error_feedback", "error_feedback cannot follow top_k"),
        ("error_feedback + gaussian(std=1)", "gaussian cannot follow error_feedback"),
        ("error_feedback + error_feedback", "error_feedback cannot follow error_feedback"),
        ("elias_gamma + gaps", "gaps cannot follow elias_gamma"),
        ("lz4 + elias_gamma", "elias_gamma cannot follow lz4"),
        ("qsgd + fp16", "fp16 cannot follow qsgd, which leaves it no floats"),
        ("low_rank + fp16 + bf16", "bf16 cannot follow fp16"),
    ],
)
def test_parts_out_of_order_are_rejected(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        chain(text)
    with pytest.raises(ValueError, match="str is no part of a chain"):
        Chain("fp16")  # type: ignore[arg-type]


def test_index_and_value_coders_stand_in_either_order() -> None:
    packs = [chain(f"top_k(alpha=0.2) + {text}").compress(vector(90), rng())
             for text in ("fp16 + elias_gamma", "elias_gamma + fp16")]  # fmt: skip
    assert packs[0].meta == packs[1].meta
    assert all(torch.equal(packs[1].tensors[k], v) for k, v in packs[0].tensors.items())


def test_a_second_coder_encodes_what_the_first_leaves() -> None:
    x = vector(400)
    whole, half = (chain(text).compress(x, rng()) for text in ("low_rank", "low_rank + fp16"))
    assert half.nbytes * 2 == whole.nbytes
    assert {name: t.dtype for name, t in half.tensors.items()} == {
        "params.p": torch.float16, "params.q": torch.float16
    }  # fmt: skip
    exact, rounded = through("low_rank", x), through("low_rank + fp16", x)
    assert 0 < (exact - rounded).norm() < 2e-3 * exact.norm()


@pytest.mark.parametrize(
    "text", ["top_k(alpha=0.1)", "random_k(alpha=0.2)", "qsgd(levels=2, unbiased=False)", "fp16",
             "scaled_sign", "low_rank(rank=1)", "top_k(alpha=0.05) + bf16 + elias_gamma + lz4"]
)  # fmt: skip
def test_error_feedback_loses_nothing(text: str) -> None:
    """What was sent and what is kept sum up to all vectors, and what is kept stays bounded."""
    sender, n = chain(f"error_feedback + {text}"), 120
    sent, given_, sizes = torch.zeros(n).double(), torch.zeros(n).double(), []
    for t in range(40):
        x = vector(n, seed=t)
        given_ += x
        sent += decoded(sender, sender.compress(x, rng(t)), n)
        (memory,) = [m for m in sender.state()[""].values() if "residual" in m]
        torch.testing.assert_close(sent + memory["residual"], given_, rtol=1e-4, atol=1e-3)
        sizes.append(float(memory["residual"].norm()))
        assert torch.equal(x, vector(n, seed=t))
    assert max(sizes[20:]) < 1.5 * max(sizes[:20]), "it does not grow without end"
    lost = torch.zeros(n).double()
    for t in range(40):
        lost += vector(n, seed=t).double() - through(text, vector(n, seed=t), seed=t)
    assert lost.norm() > sizes[-1], "without it more is lost"


def test_the_residual_obeys_its_bound() -> None:
    """|e_t|^2 <= 4 (1 - delta) / delta^2 M^2 (Karimireddy et al., 2019, lemma 3)."""
    sender, delta, most = chain("error_feedback + top_k(alpha=0.1)"), 0.1, 0.0
    for t in range(200):
        x = vector(100, seed=t)
        most = max(most, float(x.norm()))
        sender.compress(x, rng())
        residual = sender.state()[""]["0"]["residual"]
        assert residual.square().sum() <= 4 * (1 - delta) / delta**2 * most**2


def test_series_have_memories_of_their_own_and_a_checkpoint_keeps_them() -> None:
    text, n = "error_feedback + low_rank(rank=1) + fp16", 60
    first, alone = chain(text), chain(text)
    for t in range(3):
        first.compress(vector(n, seed=t), rng(t), "4")
        first.compress(vector(n, seed=t + 9), rng(t), "7")
        alone.compress(vector(n, seed=t), rng(t), "4")
    copied = chain(text)
    copied.load(
        {series: {p: dict(m) for p, m in parts.items()} for series, parts in first.state().items()}
    )
    packs = [one.compress(vector(n, seed=5), rng(5), "4") for one in (first, alone, copied)]
    for other in packs[1:]:
        assert all(torch.equal(other.tensors[k], v) for k, v in packs[0].tensors.items())
    assert not torch.equal(
        packs[0].tensors["params.p"],
        chain(text).compress(vector(n, seed=5), rng(5)).tensors["params.p"],
    )
    with pytest.raises(CompressionError, match="the residual has 60 numbers, not 61"):
        first.compress(vector(61), rng(), "4")
    assert chain("top_k(alpha=0.1) + fp16").state() == {}


@settings(max_examples=80)
@given(st.sampled_from(BEHIND), st.integers(0, 80), st.data())
def test_what_a_method_chose_itself_comes_back(text: str, n: int, data) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, n - 1)))) if n else []
    indices = torch.tensor(places, dtype=torch.int64)
    x = Sparse(indices, vector(n)[indices], n)
    packed = chain(text).compress(x, rng())
    found = chain(text).decompress(packed.tensors, packed.meta, n)
    assert isinstance(found, Sparse) and torch.equal(found.indices, indices)
    values = text.split(" + ")[0] if text and text[0] in "fq" else ""
    expected = through(values, x.values) if values else x.values
    assert torch.equal(found.values, expected)
    assert torch.equal(x.indices, indices) and torch.equal(x.values, vector(n)[indices])


def test_a_method_that_chooses_itself_takes_no_selector() -> None:
    for text in ("top_k(alpha=0.1)", "error_feedback + fp16", "gaussian(std=1)"):
        with pytest.raises(ValueError, match="the method itself chooses what it sends; take"):
            chain(text).compress(Sparse(torch.tensor([1]), torch.ones(1), 5), rng())
        with pytest.raises(ValueError, match="takes whole vectors"):
            chain(text).check(selects=True, sends_changes=True)
    with pytest.raises(ValueError, match="this method sends its model; take error_feedback out"):
        chain("error_feedback + top_k(alpha=0.1)").check(selects=False, sends_changes=False)
    chain("error_feedback + top_k(alpha=0.1)").check(selects=False, sends_changes=True)
    chain("error_feedback + fp16").check(selects=False, sends_changes=False)


def test_lz4_packs_what_it_is_told_to() -> None:
    x = vector(3000)
    for options, sparse in (("", False), ("(values=False)", True), ("(indices=False)", False)):
        packed = chain(f"top_k(alpha=0.5) + gaps + lz4{options}").compress(x, rng())
        assert (packed.tensors["params"].dtype == torch.float32) == sparse
        assert packed.tensors["indices"].dtype == (
            torch.int32 if "indices=False" in options else torch.uint8
        )
    plain, small = (chain(f"top_k(alpha=0.5) + gaps{more}").compress(x, rng())
                    for more in ("", " + lz4(values=False)"))  # fmt: skip
    assert small.tensors["indices"].nbytes < 0.5 * plain.tensors["indices"].nbytes


def test_other_dtypes_go_as_they_are_without_a_coder() -> None:
    for dtype in (torch.float64, torch.complex64, torch.float16):
        x = vector(50).to(dtype)
        for text in ("", "top_k(alpha=1)", "lz4"):
            assert torch.equal(through(text, x), x) and through(text, x).dtype == dtype
    assert through("fp16", vector(5).double()).dtype == torch.float32


def test_a_chain_of_ones_own_making_needs_no_ini() -> None:
    """As in a script of one's own, without nodes or messages."""
    sender = Chain(ErrorFeedback(), TopK(alpha=0.5), Fp16())
    packed = sender.compress(torch.tensor([1.0, -3.0, 0.5, 2.0]), rng())
    assert isinstance(packed, Packed) and packed.nbytes == 2 * (2 + 4)
    assert decoded(sender, packed, 4).tolist() == [0, -3, 0, 2]


@pytest.mark.parametrize("text", CHAINS)
def test_the_wrong_chain_never_gives_another_length(text: str) -> None:
    packed = chain(text).compress(vector(40), rng())
    for other in CHAINS:
        try:
            found = chain(other).decompress(packed.tensors, packed.meta, 40)
        except CompressionError:
            continue
        assert (found.length if isinstance(found, Sparse) else len(found)) == 40


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")
@pytest.mark.cuda
@pytest.mark.parametrize("text", CHAINS)
def test_a_gpu_packs_as_the_cpu_does(text: str) -> None:
    """The same numbers where nothing is drawn; in any case what a CPU can unpack."""
    x, sender = vector(700), chain(text)
    for t in range(3):
        packed = sender.compress(x.cuda(), rng(t))
        tensors = {name: tensor.cpu() for name, tensor in packed.tensors.items()}
        found = chain(text).decompress(tensors, packed.meta, len(x))
        here = sender.decompress(packed.tensors, packed.meta, len(x))
        both = [one.dense() if isinstance(one, Sparse) else one for one in (found, here)]
        torch.testing.assert_close(both[1].cpu(), both[0], rtol=1e-4, atol=1e-5)
    if "qsgd" not in text and "low_rank" not in text and "error" not in text:
        torch.testing.assert_close(both[0], through(text, x, seed=2), rtol=1e-5, atol=1e-6)
