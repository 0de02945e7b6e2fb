"""What the words of the control plane have to hold to be listened to (see `agreement`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from decentralizepy.node.membership import are_epochs

#: what a machine says, by its first word
_WORDS: Final[dict[str, dict[str, type]]] = {
    "hello": {"workers": int, "digests": dict, "sets": dict},
    "ready": {"ready": int},
    "saved": {"saved": int},
    "done": {"done": int},
    "lost": {"lost": list, "workers": list, "why": str},
    "paused": {"paused": int, "round": int},
    "failed": {"failed": str},
}
#: what is announced to all
_ANNOUNCEMENTS: Final[dict[str, dict[str, type]]] = {
    "workers": {"workers": list, "from": int, "left": list, "attempt": int},
    "go": {"go": bool},
    "pause": {"pause": int},
    "epoch": {"epoch": dict},
    "complete": {"complete": int},
    "rollback": {"rollback": int, "why": str},
    "end": {"end": bool},
    "abort": {"abort": str},
}


def is_word(news: dict[str, Any], nodes: int) -> bool:
    """Whether this is what a machine of ``nodes`` nodes may say."""
    if not _holds(news, _WORDS):
        return False
    if "hello" in news:
        return 0 < news["workers"] <= nodes and all(map(_is_set, news["sets"].items()))
    if "lost" in news:
        return _are_ints(news["lost"]) and all(map(_is_pair, news["workers"]))
    return True


def is_announcement(news: dict[str, Any], nodes: Sequence[int]) -> bool:
    """Whether this is what machine 0 may announce to machines of so many nodes each."""
    if not _holds(news, _ANNOUNCEMENTS):
        return False
    if "workers" in news:
        workers = news["workers"]
        fit = _are_ints(workers) and len(workers) == len(nodes)
        fit = fit and all(0 < w <= n for w, n in zip(workers, nodes, strict=True))
        return fit and are_epochs(news["left"])
    if "epoch" in news:
        epoch, form = news["epoch"], {"before": int, "why": str, "left": list, "workers": list}
        held = all(type(epoch.get(key)) is kind for key, kind in form.items())
        return held and _are_ints(epoch["left"]) and all(map(_is_pair, epoch["workers"]))
    return True


def _holds(news: dict[str, Any], forms: dict[str, dict[str, type]]) -> bool:
    """Whether exactly one of the forms is meant, and filled with values of its types."""
    meant = [form for word, form in forms.items() if word in news]
    return len(meant) == 1 and all(type(news.get(key)) is kind for key, kind in meant[0].items())


def _are_ints(values: list[Any]) -> bool:
    return all(type(value) is int for value in values)


def _is_set(item: tuple[Any, Any]) -> bool:
    """Whether this is a checkpoint set: its iteration, and who had left by then."""
    number, left = item
    return number.isdecimal() and len(number) < 20 and are_epochs(left)


def _is_pair(value: Any) -> bool:
    """Whether this names a worker: its machine, and its number there."""
    return type(value) is list and len(value) == 2 and _are_ints(value)
