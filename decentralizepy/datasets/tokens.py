"""Texts as the tokens of a pretrained model, by `transformers`, from files of this machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: words of the reference -> names under which the models are published
PUBLISHED = {"BERT": "google-bert/bert-base-uncased", "MobileBERT": "google/mobilebert-uncased"}
_AT_ONCE = 4_096


def tokens(texts: Sequence[str], tokenizer: str, max_length: int) -> np.ndarray:
    """int32 [texts, T], filled up with the tokenizer's padding; T is the longest text's length.

    `tokenizer` is a folder, a word of `PUBLISHED`, or a published name, which must be in the cache
    of Hugging Face's tools already: nothing is downloaded. Longer texts than `max_length` tokens
    are cut. Raises ValueError when the tokenizer is not there.
    """
    found = _tokenizer(tokenizer)
    padding = found.pad_token_id or 0
    rows: list[list[int]] = []
    for start in range(0, len(texts), _AT_ONCE):
        part = list(texts[start : start + _AT_ONCE])
        rows += found(part, truncation=True, max_length=max_length)["input_ids"]
    out = np.full((len(rows), max(map(len, rows), default=1)), padding, dtype=np.int32)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out


def _tokenizer(name: str):  # type: ignore[no-untyped-def]  # a class of the library's own
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(
            "texts need transformers, which is not installed: "
            "pip install 'decentralizepy[text]' (or pip install transformers)"
        ) from error
    try:
        return AutoTokenizer.from_pretrained(PUBLISHED.get(name, name), local_files_only=True)
    except Exception as error:  # the library may raise nearly anything
        raise ValueError(
            f"tokenizer = {name}: not a folder of a tokenizer, and not in the cache of Hugging "
            f"Face's tools (get it with: hf download {PUBLISHED.get(name, name)}): {error!s:.200}"
        ) from None
