"""Reddit: the next word of a comment, by its writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decentralizepy.datasets.leaf import Leaf, texts
from decentralizepy.datasets.prepare import Progress, Streamed, describe
from decentralizepy.datasets.unpickle import load_plain
from decentralizepy.files import expanded

#: words that models know, as many as the reference's
WORDS = 9_999
LENGTH = 10
#: where the reference looks for the vocabulary, from `train_dir`
VOCABULARY = "../../vocab/reddit_vocab.pck"


class Reddit(Leaf):
    """Comments of Reddit as LEAF has them: their writers are dealt to the nodes, whole.

    A user's `x` are comments, each a list of sequences of 10 words; its `y` have `target_tokens` of
    the same form. A sequence's target is the last of its target words that is no padding; sequences
    without one are left out. Models see numbers of words, int64 [B, 10], and predict one of 9,999.

    `vocab_file` is LEAF's pickled vocabulary, read without running what a pickle may ask for; by
    default that of the reference, `vocab/reddit_vocab.pck` two folders above `train_dir` (or
    `test_dir`). Words that it lacks, or that have a number above 9,998, are its unknown word.
    """

    name: ClassVar[str] = "reddit"
    reference_name: ClassVar[str] = "decentralizepy.datasets.Reddit"
    num_classes: ClassVar[int] = WORDS
    #: a user's number of samples is that of comments in some files, of sequences in others
    counted: ClassVar[bool] = False

    def __init__(self, *, vocab_file: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.vocab_file = vocab_file
        self._words: Vocabulary | None = None

    def identity(self) -> list[str]:
        """The files and the vocabulary."""
        path = self._vocabulary_path()
        try:
            return [*super().identity(), describe(path)]
        except OSError as error:
            raise ValueError(f"vocab_file: {path}: {error.strerror}") from None

    def build(self, progress: Progress) -> Mapping[str, np.ndarray | Streamed]:
        """Both parts, in the order of the files."""
        self._words = Vocabulary.read(self._vocabulary_path())
        try:
            return super().build(progress)
        finally:
            self._words = None

    def decode(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Words int16 [n, 10], and the numbers of the next ones."""
        assert self._words is not None, "called by build"
        inputs, targets = _sequences(x, "x"), _sequences(_target_tokens(y), "y")
        if len(inputs) != len(targets):
            raise ValueError(f"'x' has {len(inputs)} sequences, 'y' {len(targets)}")
        found = self._words.numbers(inputs), self._words.last(self._words.numbers(targets))
        kept = found[1] != 0
        return found[0][kept].astype(np.int16), found[1][kept]

    def _vocabulary_path(self) -> Path:
        if self.vocab_file:
            return expanded(Path(self.vocab_file))
        return expanded(Path(self.train_dir or self.test_dir)) / VOCABULARY


@dataclass(frozen=True)
class Vocabulary:
    """Numbers of words; ``unknown`` is that of all others, ``padding`` fills sequences up."""

    words: Mapping[str, int]
    unknown: int
    padding: int

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """LEAF's file; raises ValueError, naming it, for anything else."""
        value = load_plain(path)
        wanted = f"{path} is not LEAF's vocabulary (vocab, unk_symbol, pad_symbol)"
        words = value.get("vocab") if isinstance(value, dict) else None
        if not isinstance(words, dict):
            raise ValueError(wanted)
        symbols = [value.get(key) for key in ("unk_symbol", "pad_symbol")]
        if not all(type(n) is int and 0 <= n < WORDS for n in symbols):
            raise ValueError(wanted)
        if not all(isinstance(w, str) and type(n) is int and n >= 0 for w, n in words.items()):
            raise ValueError(wanted)
        known = {word: number for word, number in words.items() if number < WORDS}
        return cls(known, *symbols)

    def numbers(self, sequences: list[list[str]]) -> np.ndarray:
        """int64 [sequences, 10]"""
        words = chain.from_iterable(sequences)
        found = [self.words.get(word, self.unknown) for word in words]
        return np.array(found, dtype=np.int64).reshape(-1, LENGTH)

    def last(self, numbers: np.ndarray) -> np.ndarray:
        """The last word of each sequence that is no padding, int64 [sequences]; else padding."""
        is_word = numbers != self.padding
        column = LENGTH - 1 - is_word[:, ::-1].argmax(axis=1)
        found: np.ndarray = numbers[np.arange(len(numbers)), column]
        return found


def _target_tokens(y: Any) -> list[Any]:
    if not isinstance(y, list) or not all(isinstance(one, dict) for one in y):
        raise ValueError("'y' is not a list of objects with 'target_tokens'")
    return [one.get("target_tokens") for one in y]


def _sequences(comments: Any, key: str) -> list[list[str]]:
    """The sequences of all comments. Raises ValueError unless they are lists of 10 words."""
    if not isinstance(comments, list) or not all(isinstance(one, list) for one in comments):
        raise ValueError(f"{key!r} is not a list of comments, each a list of sequences")
    found = [texts(sequence, key) for comment in comments for sequence in comment]
    if any(len(sequence) != LENGTH for sequence in found):
        raise ValueError(f"{key!r}: a sequence is not of {LENGTH} words")
    return found
