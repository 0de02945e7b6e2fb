"""What processes say to one another, in four vocabularies of small frozen dataclasses.

What workers say to their supervisor (`FROM_WORKERS`), what it tells them (`ORDERS`), what machines
say to machine 0 (`FROM_MACHINES`) and what that announces to all (`ANNOUNCEMENTS`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from decentralizepy.codec import Vocabulary, Word
from decentralizepy.node.membership import Epoch

# ------------------------------------------------------- from a worker to its supervisor


@dataclass(frozen=True)
class Record(Word, tag="record"):
    """A node was evaluated: the columns of `runfolder.RECORD_COLUMNS`."""

    columns: Mapping[str, Any]


@dataclass(frozen=True)
class NodeSaved(Word, tag="saved"):
    """A node's checkpoint after so many iterations is written; ``crc32`` is its file's."""

    iterations: int
    uid: int
    crc32: int


@dataclass(frozen=True)
class NodeEnded(Word, tag="ended"):
    """A node has ended before the run; what it was is written, and in this checkpoint and all
    later ones."""

    iterations: int
    uid: int
    crc32: int


@dataclass(frozen=True)
class Built(Word, tag="built"):
    """The worker knows the model: a row has so many float32 values, a node so many rows."""

    row_length: int
    named: int


@dataclass(frozen=True)
class WorkerReady(Word, tag="ready"):
    """The worker can train; ``past`` are the seconds of training before its checkpoint."""

    worker: int
    past: float


@dataclass(frozen=True)
class WorkerPaused(Word, tag="paused"):
    """The worker rests, as the order ``number`` said; ``round``: the last iteration it sent in."""

    number: int
    round: int


@dataclass(frozen=True)
class NodesLost(Word, tag="lost"):
    """Nodes of the worker were lost in an iteration (1-based)."""

    uids: tuple[int, ...]
    round: int


@dataclass(frozen=True)
class NodesLeft(Word, tag="left"):
    """Nodes have left already: under the virtual clock nobody has to be asked."""

    epoch: Epoch


@dataclass(frozen=True)
class KillMachine(Word, tag="kill"):
    """A fault plan wants the worker's machine to be gone at once."""

    what: str = "machine"


@dataclass(frozen=True)
class Finished(Word, tag="finished"):
    """The worker's nodes are all done, so many seconds after the run's first step."""

    seconds: float


@dataclass(frozen=True)
class Counted(Word, tag="transport"):
    """What the worker's transport to other machines has counted."""

    counts: Mapping[str, Any]


@dataclass(frozen=True)
class WorkerDone(Word, tag="done"):
    """All that the worker has to write is written."""

    worker: int


@dataclass(frozen=True)
class Note(Word, tag="note"):
    """Something that is worth telling, and does not end the run."""

    text: str


@dataclass(frozen=True)
class BadConfig(Word, tag="config"):
    """The worker ends because of a mistake of the user's."""

    text: str


@dataclass(frozen=True)
class WorkerFailed(Word, tag="error"):
    """The worker ends because something went wrong."""

    text: str


# ------------------------------------------------------------- from a machine to machine 0


@dataclass(frozen=True)
class Hello(Word, tag="hello", bare=True):
    """I am here, with so many workers, these checkpoint sets, and what must be equal for all.

    ``sets``: iteration -> who had left by then. ``attempt`` is None before it is known.
    """

    workers: int
    digests: Mapping[str, str]
    sets: Mapping[int, tuple[Epoch, ...]]
    attempt: int | None = None

    def fits(self, nodes: int) -> bool:
        """Whether a machine of so many nodes may say this."""
        return 0 < self.workers <= nodes


@dataclass(frozen=True)
class Ready(Word, tag="ready"):
    """All workers of the machine can train, in that attempt."""

    attempt: int


@dataclass(frozen=True)
class Saved(Word, tag="saved"):
    """All nodes of the machine are saved after so many iterations."""

    iterations: int


@dataclass(frozen=True)
class Ended(Word, tag="ended"):
    """All nodes of the machine have ended: they are saved in each checkpoint from this one on."""

    iterations: int


@dataclass(frozen=True)
class Done(Word, tag="done"):
    """All nodes of the machine have finished, in that attempt."""

    attempt: int


@dataclass(frozen=True)
class Lost(Word, tag="lost"):
    """Nodes, and workers as (machine, worker), are lost."""

    uids: tuple[int, ...]
    workers: tuple[tuple[int, int], ...]
    why: str


@dataclass(frozen=True)
class Paused(Word, tag="paused"):
    """All workers of the machine rest; none has sent anything of an iteration after ``round``."""

    number: int
    round: int


@dataclass(frozen=True)
class Failed(Word, tag="failed"):
    """The machine ends; ``config``: because of a mistake of the user's."""

    why: str
    config: bool = False


# ------------------------------------------- announced to all machines, and told to workers


@dataclass(frozen=True)
class Start(Word, tag="workers"):
    """All are here, with so many workers each: go on after ``iteration``, without who had left."""

    workers: tuple[int, ...]
    iteration: int = field(metadata={"key": "from"})
    left: tuple[Epoch, ...]
    attempt: int

    def fits(self, nodes: Sequence[int]) -> bool:
        """Whether this may be announced to machines of so many nodes each."""
        same = len(self.workers) == len(nodes)
        return same and all(0 < w <= n for w, n in zip(self.workers, nodes, strict=True))


@dataclass(frozen=True)
class Go(Word, tag="go"):
    """All are ready: train."""


@dataclass(frozen=True)
class Pause(Word, tag="pause"):
    """Rest, and say so."""

    number: int


@dataclass(frozen=True)
class Leaving:
    """Nodes that leave before an iteration, and workers, as (machine, worker), that are dead."""

    before: int
    left: tuple[int, ...]
    why: str
    workers: tuple[tuple[int, int], ...]

    @property
    def epoch(self) -> Epoch:
        """The same for the membership."""
        return Epoch(self.before, self.left, self.why)


@dataclass(frozen=True)
class Leave(Word, tag="epoch"):
    """Go on without those."""

    who: Leaving


@dataclass(frozen=True)
class Complete(Word, tag="complete"):
    """All nodes of the run are saved after so many iterations."""

    iterations: int


@dataclass(frozen=True)
class Rollback(Word, tag="rollback"):
    """Begin anew, as that attempt, at the newest checkpoint that all have."""

    attempt: int
    why: str


@dataclass(frozen=True)
class End(Word, tag="end"):
    """All are done."""


@dataclass(frozen=True)
class Abort(Word, tag="abort"):
    """The run ends at once; ``config``: because of a mistake of the user's."""

    why: str
    config: bool = False


@dataclass(frozen=True)
class Stop(Word, tag="stop"):
    """End, worker."""


# ---------------------------------------------------------------------- vocabularies


FROM_WORKERS: Final = Vocabulary(
    Record, NodeSaved, NodeEnded, Built, WorkerReady, WorkerPaused, NodesLost, NodesLeft,
    KillMachine, Finished, Counted, WorkerDone, Note, BadConfig, WorkerFailed,
)  # fmt: skip
ORDERS: Final = Vocabulary(Start, Go, Pause, Leave, Stop)
FROM_MACHINES: Final = Vocabulary(Hello, Ready, Saved, Ended, Done, Lost, Paused, Failed)
ANNOUNCEMENTS: Final = Vocabulary(Start, Go, Pause, Leave, Complete, Rollback, End, Abort)
