"""How a worker waits that has nothing to do: it looks for notices for a moment, then it sleeps."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from typing import Final

from decentralizepy.cpus import allotted
from decentralizepy.mappings.placement import WorkerId
from decentralizepy.memory.arena import Arena
from decentralizepy.transport.local import LocalSockets
from decentralizepy.transport.rings import Rings, fence

#: a worker whose notices find no room looks again after this
_BEHIND_MS: Final = 1
#: how long a worker looks for notices before it sleeps: to be woken takes time, and a
#: processor that has slept is slower for a while
_WATCH_MS: Final = 1


class Waiting:
    """Waits for other workers and the supervisor; ``obey`` hears what the supervisor has said."""

    def __init__(
        self,
        me: WorkerId,
        arena: Arena,
        rings: Rings,
        sockets: LocalSockets | None,
        obey: Callable[[], None],
    ) -> None:
        self._me, self._counters, self._rings = me.worker, arena.counters, rings
        self._sockets, self._obey = sockets, obey
        # others on this machine need no processor of ours, and nobody is waited for elsewhere
        near = sockets is not None and sockets.wire is None
        self._watches = near and arena.plan.workers <= allotted()

    def wait(self, milliseconds: int) -> None:
        """Wait for others; at first without sleeping, where that takes nothing from them."""
        if self._watches:
            watched = min(_WATCH_MS, milliseconds)
            if self._rings.watch(watched / 1000):
                return
            milliseconds -= watched
        self.doze(milliseconds)

    def doze(self, milliseconds: int) -> None:
        """Sleep until something comes, then hear what the supervisor has said."""
        if self._sockets is None:
            sleep(milliseconds / 1000)
        else:
            self._counters.set_idle(self._me, True)
            fence()  # either we see a notice now, or its sender sees that we sleep
            if self._rings.quiet:
                self._sockets.sleep(_BEHIND_MS if self._rings.behind else milliseconds)
            self._counters.set_idle(self._me, False)
        self._counters.beat(self._me)
        self._obey()
