"""Chains as an INI names them: read without being run, with errors that name key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from decentralizepy import Message, Sharing, run_here
from decentralizepy.config import Experiment, parse_experiment
from decentralizepy.engine.parts import build_chain
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.registry import legacy, named

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = (REPOSITORY / "run_configuration" / "digits_kshard2_mlp.ini").read_text(encoding="utf-8")
OWN = """\
from decentralizepy.compression.fp16 import Fp16

raise SystemExit("a configuration is read without running this")


class Mine(Fp16):
    def __init__(self, *, levels: int, name_: str = "x") -> None: ...
"""


def ini(*lines: str) -> str:
    return DIGITS.replace("sharing_class = Sharing", "\n".join(["sharing_class = Sharing", *lines]))


def read(*lines: str, folder: Path = REPOSITORY) -> Experiment:
    return parse_experiment(ini(*lines), folder / "a.ini")


def chain_of(*lines: str) -> list[tuple[str, dict[str, object]]]:
    return [(one.target.name, dict(one.options)) for one in read(*lines).compression]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("fp16", [("Fp16", {})]),
        ("top_k( alpha = 1e-2 )+elias_gamma +fp16()  ; what is large",
         [("TopK", {"alpha": 0.01}), ("EliasGamma", {}), ("Fp16", {})]),
        ("top_k(alpha=1)", [("TopK", {"alpha": 1.0})]),
        ("qsgd(levels=7, unbiased=False)", [("Qsgd", {"levels": 7, "unbiased": False})]),
        ("lz4(values='no')", [("Lz4", {"values": False})]),
        ("decentralizepy.compression.bf16.Bf16", [("Bf16", {})]),
    ],
)  # fmt: skip
def test_a_chain_is_read_with_its_options_typed(text: str, parts: list) -> None:
    assert chain_of(f"compression = {text}") == parts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "fp61",
            "[SHARING] compression: no part is named 'fp61' (did you mean 'fp16'?); there are",
        ),
        ("top_k", "compression: top_k: TopK needs the option 'alpha'"),
        ("top_k(0.1)", "top_k(0.1): name its options, as alpha=0.1"),
        ("top_k(**x)", "name its options"),
        ("top_k(alhpa=1)", "TopK has no option 'alhpa' (did you mean 'alpha'?)"),
        ("top_k(alpha='much')", "alpha = much: float is expected"),
        ("top_k(alpha=0.1) fp16", "no chain of parts; write it as top_k(alpha=0.1) + elias_gamma"),
        ("top_k(alpha=0.1) - fp16", "is no part of a chain"),
        ("__import__('os').system('x')", "name its options"),
        ("__import__(name='os').system", "is not the name of a module"),
        ("my_coder.Mine", "no module my_coder: looked on Python's path"),
        ("decentralizepy.compression.bf16.Bf61", "has no class Bf61 (did you mean 'Bf16'?)"),
        ("(" * 300 + "fp16", "no chain of parts"),
        ("fp16 + " * 3000 + "fp16", "no chain of parts"),
    ],
)
def test_what_is_no_chain_is_told(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(f"compression = {text}")
    assert "a.ini: [SHARING] compression" in str(caught.value) and said in str(caught.value)


def test_a_file_of_ones_own_is_read_unrun_and_goes_with_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "my_coder.py").write_text(OWN)
    found = read("compression = top_k(alpha=0.5) + my_coder.Mine(levels=3)", folder=tmp_path)
    assert found.compression[1].options == {"levels": 3}
    assert found.own_files == {Path("my_coder.py"): tmp_path / "my_coder.py"}
    assert "my_coder" in found.modules, "machines compare its digest"
    with pytest.raises(ConfigError, match="has no option 'level'"):
        read("compression = my_coder.Mine(level=3)", folder=tmp_path)


def test_the_reference_keys_name_its_classes() -> None:
    theirs = [name for name in legacy() if ".compression." in name]
    assert len(theirs) == 7
    expected = {
        "Compression": "", "Elias": "elias_gamma", "EliasFpzip": "fpzip elias_gamma",
        "EliasFpzipLossy": "fpzip elias_gamma", "EliasQuantization": "uniform elias_gamma",
        "Quantization": "uniform", "Lz4Wrapper": "gaps lz4",
    }  # fmt: skip
    for package in theirs:
        name = package.rpartition(".")[2]
        lines = (f"compression_package = {package}", f"compression_class = {name}")
        assert read("compress = False", *lines).compression == ()
        for precision in ("", "float_precision =", "float_precision = 9"):
            found = read("compress = True", *lines, precision)
            assert " ".join(part.name for part in build_chain(found).parts) == expected[name]
    lossy = build_chain(found).parts
    assert read("float_precision = 16").compression == () and lossy


def test_the_precision_reaches_the_coder() -> None:
    lines = ("compress = True", "compression_class = EliasFpzipLossy",
             "compression_package = decentralizepy.compression.EliasFpzipLossy")  # fmt: skip
    assert vars(build_chain(read(*lines)).parts[0])["precision"] == 16
    assert vars(build_chain(read(*lines, "float_precision = 12")).parts[0])["precision"] == 12


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("compress = True",), "compress = True needs the key 'compression_package'"),
        (("compress = maybe",), "compress = maybe: bool is expected"),
        (("compress = True", "compression = fp16", "compression_package = x",
          "compression_class = Y"), "take either compression or compression_class"),
        (("compress = True", "compression_package = decentralizepy.compression.Elia",
          "compression_class = Elias"), "no module decentralizepy.compression.Elia (did you mean"),
    ],
)  # fmt: skip
def test_keys_that_contradict_are_told(lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*lines)
    assert said in str(caught.value)


def test_a_method_that_does_not_pack_takes_no_compression(tmp_path: Path) -> None:
    (tmp_path / "silent.py").write_text(
        "from decentralizepy import Message, Sharing\n\n\nclass Own(Sharing):\n"
        "    def outgoing(self, x, ctx):\n        yield ctx.receivers, Message({'params': x})\n\n\n"
        "class Packs(Own):\n    packs = True\n\n\n"
        "class HasKey(Sharing):\n    def __init__(self, *, compression: str = '') -> None: ...\n"
    )

    def of(name: str, *lines: str) -> Experiment:
        text = ini(*lines).replace("decentralizepy.sharing.Sharing", "silent")
        return parse_experiment(text.replace("= Sharing", f"= {name}"), tmp_path / "a.ini")

    with pytest.raises(ConfigError) as caught:
        of("Own", "compression = fp16")
    assert "Own makes its messages itself; let its outgoing call self.pack, and say packs" in str(
        caught.value
    )
    assert of("Packs", "compression = fp16").compression and not of("Own").compression
    found = of("HasKey", "compression = its own thing")
    assert found.sharing.options == {"compression": "its own thing"} and not found.compression


def test_a_method_from_a_notebook_is_asked_too() -> None:
    class Own(Sharing):
        def outgoing(self, x, ctx):
            yield ctx.receivers, Message({"params": x})

    with pytest.raises(ConfigError, match=r"Own makes its messages itself, without self\.pack"):
        run_here(ini("compression = fp16"), 4, iterations=1, sharing=Own)

    class Packs(Own):
        packs = True

        def outgoing(self, x, ctx):
            yield ctx.receivers, self.pack(x, ctx)

    assert run_here(ini("compression = fp16"), 4, iterations=1, sharing=Packs).records
    Own.packs = True  # which is not true
    with pytest.raises(RunError, match=r"main tensor is torch\.float32, not torch\.float16"):
        run_here(ini("compression = fp16"), 4, iterations=1, sharing=Own)


def test_parts_that_do_not_fit_are_told_before_anything_runs() -> None:
    for text, said in (
        ("fp16 + top_k(alpha=0.1)", "compression: top_k cannot follow fp16"),
        ("error_feedback + top_k(alpha=0.1)", "compression with Sharing: error_feedback adds up"),
        ("top_k(alpha=2)", "TopK: alpha = 2"),
    ):
        with pytest.raises(ConfigError) as caught:
            run_here(ini(f"compression = {text}"), 4, iterations=1)
        assert said in str(caught.value)


def test_bytes_in_the_records_are_those_of_the_packed_messages(tmp_path: Path) -> None:
    """P = 4810 numbers to 2 neighbours, twice: the values' bytes, and header apart."""
    for text, nbytes in (
        ("", 4 * 4810), ("fp16", 2 * 4810), ("scaled_sign", -(-4810 // 8)),
        ("top_k(alpha=0.1) + fp16", 6 * 481), ("random_k(alpha=0.1) + fp16", 2 * 481),
    ):  # fmt: skip
        found = run_here(
            ini(f"compression = {text}" if text else ""), _ring(tmp_path), iterations=2,
            test_after=2, cache_dir=tmp_path,
        )  # fmt: skip
        data = {r["total_data"] for r in found.records if r["iteration"] == 2}
        assert data == {2 * 2 * nbytes}


def test_a_run_with_feedback_goes_on_where_it_was_left(tmp_path: Path) -> None:
    text, ring = ini("compression = error_feedback + qsgd(levels=3) + lz4"), _ring(tmp_path)
    options = {"test_after": 4, "cache_dir": tmp_path, "checkpoint_after": 2}
    whole = run_here(text, ring, iterations=4, **options)
    run_here(text, ring, iterations=3, log_dir=tmp_path / "half", **options)
    half = run_here(text, ring, iterations=4, log_dir=tmp_path / "half", resume=True, **options)
    assert all(torch.equal(whole.rows[uid], half.rows[uid]) for uid in whole.rows)
    other = run_here(ini("compression = qsgd(levels=3)"), ring, iterations=4, **options)
    assert not torch.equal(other.rows[0], whole.rows[0])


def _ring(folder: Path) -> Path:
    path = folder / "ring.edges"
    path.write_text(
        "4\n" + "".join(f"{i} {j}\n{j} {i}\n" for i, j in ((0, 1), (1, 2), (2, 3), (0, 3)))
    )
    return path


def test_every_part_has_a_name_of_its_own() -> None:
    assert len(set(named("compression").values())) == len(named("compression")) >= 14
