"""What every data set offers to the nodes that train on it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from decentralizepy.datasets.partitioners import BY_LABEL, Indices, partition, scheme
from decentralizepy.datasets.prepare import (
    ARRAYS,
    Progress,
    Streamed,
    prepared,
    silent,
    source_key,
)
from decentralizepy.datasets.validation import Selection, check_size, source, split

if TYPE_CHECKING:  # data sets are free of torch
    from decentralizepy.training.task import Task

#: what arrays may hold: truth values, whole and floating numbers
_KINDS = "biuf"


@dataclass(frozen=True, eq=False)
class Arrays:
    """Samples and their targets; a whole part is memory-mapped and read-only.

    `x` [N, ...]: images uint8 [N, H, W, C], so that a gathered batch is channels-last without a
    copy; numbers of any floating type; or tokens, whole numbers wider than a byte, which models get
    as int64 as they are. `y` [N, ...]: labels [N] in 0 .. num_classes - 1; tokens [N, T], padded
    with what the task ignores; ratings; whole numbers or floating ones.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Normalization:
    """How a stored value becomes the number a model sees: `x * scale + shift`, in float32."""

    scale: float
    shift: float


class Dataset(ABC):
    """A data set with a training part, dealt to the nodes, and one test part for all.

    `validation_source` (Train or Test) gives the fraction `validation_size` of its samples to a
    validation set, the same for all nodes: they are neither trained nor tested on. They are drawn
    before anything is dealt to the nodes, from a stream of `random_seed` alone.

    The options are attributes of the same names. Nothing is read before `prepare`; afterwards an
    object holds a path only, so it can be sent to other processes.

    A subclass names itself (`name`, `num_classes`, `normalization`), lists its options in its own
    `__init__`, and implements `identity` and `build`. `task` is what is learned from it: a `Task`,
    its class, or "classification" (the default), "one_hot", "language" or "rating"; `num_classes`
    and `normalization` may be left out where there are no classes and no images. `samples`
    (training, test), if they are known beforehand, let a plan tell how long a run lasts.
    `more_arrays` are what `build` returns beside the four usual ones, for a partition of its own.
    """

    name: ClassVar[str]
    num_classes: ClassVar[int] = 0
    normalization: ClassVar[Normalization] = Normalization(1.0, 0.0)
    task: ClassVar["Task | type[Task] | str"] = "classification"
    samples: ClassVar[tuple[int, int]] = (0, 0)
    more_arrays: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        random_seed: int = 1234,
        sizes: list[float] | None = None,
        partition_niid: str | bool = "simple",
        alpha: float = 100.0,
        shards: int = 1,
        test_batch_size: int = 64,
        train_dir: str = "",
        test_dir: str = "",
        validation_source: str = "",
        validation_size: float = 0.0,
    ) -> None:
        self.random_seed = random_seed
        self.sizes = sizes
        self.partition_niid = partition_niid
        self.alpha = alpha
        self.shards = shards
        self.test_batch_size = test_batch_size
        self.train_dir = train_dir
        self.test_dir = test_dir
        self.validation_source = validation_source
        self.validation_size = validation_size
        self._folder: Path | None = None
        self._check()

    @abstractmethod
    def identity(self) -> list[str]:
        """What the prepared copy depends on (source files and their times): its key in the cache.

        Raises ValueError, with a remedy, when the source is not there.
        """

    @abstractmethod
    def build(self, progress: Progress) -> Mapping[str, np.ndarray | Streamed]:
        """Read the source into `train_x`, `train_y`, `test_x`, `test_y`, typed as in `Arrays`."""

    def fetch(self, progress: Progress) -> None:  # noqa: B027 (most sources are there already)
        """Get the source if it can be got. Called first by `prepare`."""

    def prepare(self, cache_dir: Path, progress: Progress | None = None) -> None:
        """Make sure that the prepared copy is in `cache_dir`, and use it.

        Idempotent: the first process of a machine builds, those that come meanwhile wait, later
        ones find it. Raises ValueError when the source is missing or damaged, the cache cannot be
        written, or the validation set would be empty or leave nothing.
        """
        say = progress or silent
        self.fetch(say)
        names = (*ARRAYS, *self.more_arrays)
        self._folder = prepared(cache_dir, self._cache_name(), self._built, say, names)
        self._check_parts({name: self._array(name) for name in names})
        self.select("validation")

    def train(self) -> Arrays:
        """The whole training part, which the indices of `partition` number. Call `prepare` first.

        With `validation_source = Train` the held-out samples are among them; no node gets them.
        """
        return self._load(Selection("train"))

    def test(self) -> Arrays:
        """The test set, the same for every node. Call `prepare` first."""
        return self._load(self.select("test"))

    def validation(self) -> Arrays:
        """The validation set, a copy, the same for every node; of length 0 without one."""
        return self._load(self.select("validation"))

    def stored(self, part: str) -> Arrays:
        """All samples of the part "train" or "test", memory-mapped. Call `prepare` first."""
        return self._load(Selection(part))

    def select(self, name: str) -> Selection:
        """Where in the stored parts the samples of "train", "test" or "validation" are."""
        part = source(self.validation_source)
        if not part:
            none = np.zeros(0, dtype=np.int64)
            return Selection("test", none) if name == "validation" else Selection(name)
        if name not in ("validation", part):
            return Selection(name)
        count = len(self._array(f"{part}_y"))
        kept, held = split(count, self.validation_size, self.random_seed)
        return Selection(part, held if name == "validation" else kept)

    def counts(self) -> tuple[int, int]:
        """Numbers of samples for training and for testing. Call `prepare` first."""
        train, test = (self._count(self.select(name)) for name in ("train", "test"))
        return train, test

    def partition(self, n: int) -> list[Indices]:
        """For each uid in 0 .. n-1, the int64 indices of its samples in `train()`.

        Depends on the options and the labels only. Raises ValueError when a node would get none,
        and for a partition by labels where there are none.
        """
        kept = self.select("train").indices
        labels = self._array("train_y")
        parts = self._deal(labels if kept is None else labels[kept], n)
        return parts if kept is None else [kept[part] for part in parts]

    def own_tests(self, n: int) -> list[Indices] | None:
        """For each uid the indices in `stored("test")` that it is tested on; None: all on all."""
        return None

    def check_model(self, model: Any) -> None:  # noqa: B027 (most models take anything)
        """Raise ValueError, naming the key, if a model cannot take the prepared samples."""

    def _deal(self, labels: np.ndarray, n: int) -> list[Indices]:
        by_label = scheme(self.partition_niid) in BY_LABEL
        if by_label and not (labels.ndim == 1 and labels.dtype.kind in "iu"):
            raise ValueError(
                f"partition_niid = {self.partition_niid} deals by labels, a whole number for each "
                f"sample; {self.name} has targets {labels.dtype} {list(labels.shape)}: use simple "
                "or iid"
            )
        return partition(
            labels,
            n,
            partition_niid=self.partition_niid,
            sizes=self.sizes,
            seed=self.random_seed,
            alpha=self.alpha,
            shards=self.shards,
            num_classes=self.num_classes or (int(labels.max()) + 1 if by_label else 0),
        )

    def _built(self, progress: Progress) -> Mapping[str, np.ndarray | Streamed]:
        """What `build` gives, checked: arrays that are no data set never get into the cache."""
        found, what = self.build(progress), f"{type(self).__name__}.build"
        names = (*ARRAYS, *self.more_arrays)
        if not isinstance(found, Mapping):
            raise ValueError(
                f"{what} returns {found!r:.40}, not a dictionary with {', '.join(names)}"
            )
        missing = ", ".join(name for name in names if name not in found)
        if missing:
            has = ", ".join(map(str, found)) or "nothing"
            raise ValueError(f"{what} returns no {missing}; it returns {has:.200}")
        arrays = {
            name: array if isinstance(array, Streamed) else np.asarray(array)
            for name, array in ((name, found[name]) for name in names)
        }
        self._check_parts(arrays)
        return arrays

    def _check_parts(self, arrays: Mapping[str, np.ndarray | Streamed]) -> None:
        """Raise ValueError unless the arrays of a part go together and hold numbers."""
        for part in ("train", "test"):
            x, y = arrays[f"{part}_x"], arrays[f"{part}_y"]
            if not (x.shape and y.shape and x.shape[0] == y.shape[0]):
                raise ValueError(
                    f"{self.name}: {part}_x {list(x.shape)} and {part}_y {list(y.shape)} must "
                    "have a row for each sample"
                )
            if x.dtype.kind not in _KINDS or y.dtype.kind not in _KINDS:
                raise ValueError(
                    f"{self.name}: {part}_x {x.dtype}, {part}_y {y.dtype}: not numbers"
                )

    def _cache_name(self) -> str:
        if not isinstance(getattr(self, "name", None), str):
            kind = type(self).__name__
            raise ValueError(f"{kind} has no name: write name = {kind.lower()!r} into the class")
        return f"{self.name}-{source_key(self.identity())}"

    def _load(self, chosen: Selection) -> Arrays:
        x, y = self._array(f"{chosen.part}_x"), self._array(f"{chosen.part}_y")
        return (
            Arrays(x, y) if chosen.indices is None else Arrays(x[chosen.indices], y[chosen.indices])
        )

    def _count(self, chosen: Selection) -> int:
        indices = chosen.indices
        return len(self._array(f"{chosen.part}_y")) if indices is None else len(indices)

    def _array(self, name: str) -> np.ndarray:
        # Mapped anew each time: a kept map would be copied whole into a pickle of this object.
        if self._folder is None:
            raise RuntimeError(f"{type(self).__name__}: call prepare(cache_dir) first")
        path = self._folder / f"{name}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # a damaged file can raise nearly anything
            why = str(error) or type(error).__name__
            raise ValueError(
                f"the prepared {path} is damaged ({why:.200}): delete its folder, "
                "to have it made anew"
            ) from None

    def _check(self) -> None:
        """Raise ValueError, naming the key, for an option that can never work."""
        scheme(self.partition_niid)
        if source(self.validation_source):
            check_size(self.validation_size)
        elif self.validation_size != 0:
            raise ValueError(
                f"validation_size = {self.validation_size:g} does nothing without a "
                "validation_source: set that to Train or Test, or leave both out"
            )
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha = {self.alpha} must be above 0 (small: more skew)")
        for key in ("shards", "test_batch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} = {getattr(self, key)} must be at least 1")
