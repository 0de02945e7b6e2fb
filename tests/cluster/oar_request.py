"""Reads what a job asks for, as OAR does.

For example: ``{cluster='paradoxe'}/nodes=2+nodes=1,walltime=0:30:0``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Properties = Mapping[str, str | int]
Condition = Callable[[Properties], bool]

WALLTIME = re.compile(r",\s*walltime=([\d:]+)$")
GROUP = re.compile(r"(?:\{(?P<where>.*)\})?/?(?P<level>\w+)=(?P<count>\w+)$", re.DOTALL)
LEVELS = ("nodes", "host", "network_address")
TOKEN = re.compile(r"\s*(?:'(?P<text>[^']*)'|(?P<word>[\w.]+)|(?P<sign><=|>=|!=|<>|[=<>(),]))")
DEFAULT_WALLTIME_S = 3600
COMPARE: dict[str, Callable[[object, object], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": lambda left, right: float(str(left)) < float(str(right)),
    ">": lambda left, right: float(str(left)) > float(str(right)),
    "<=": lambda left, right: float(str(left)) <= float(str(right)),
    ">=": lambda left, right: float(str(left)) >= float(str(right)),
}


class Refused(Exception):  # noqa: N818 - it is no error of ours
    """A request that cannot be granted; the text is what the user is told."""


@dataclass(frozen=True)
class Group:
    """`count` nodes (None: all) whose properties fulfil `where`."""

    count: int | None
    where: Condition


@dataclass(frozen=True)
class Request:
    """Groups of nodes, all for the same time."""

    groups: tuple[Group, ...]
    walltime_s: int

    def pick(self, free: Mapping[str, Properties]) -> list[str] | None:
        """Names of nodes for all groups, in the order of the groups; None: too few."""
        picked: list[str] = []
        for group in self.groups:
            fit = [name for name in free if name not in picked and group.where(free[name])]
            if not fit or len(fit) < (group.count or 0):
                return None
            picked += fit[: group.count]
        return picked


def parse(text: str, properties: Sequence[str]) -> Request:
    """`properties`: the names that nodes have. Raises Refused where oarsub would refuse."""
    found = WALLTIME.search(text)
    walltime = seconds(found[1]) if found else DEFAULT_WALLTIME_S
    groups = [_group(part, properties) for part in _split(text[: found.start()] if found else text)]
    return Request(tuple(groups), walltime)


def seconds(text: str) -> int:
    """``h:m:s``, ``h:m`` or ``h``."""
    parts = text.split(":")
    if len(parts) > 3 or not all(part.isdigit() for part in parts):
        raise Refused(f"Bad walltime: {text}")
    return sum(int(part) * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))


def _split(text: str) -> list[str]:
    """At each plus that is in no braces."""
    return re.split(r"\+(?![^{]*\})", text)


def _group(text: str, properties: Sequence[str]) -> Group:
    found = GROUP.match(text.strip())
    if found is None:
        raise Refused(f"Bad resource request: syntax error in '{text}'")
    level, count = found["level"], found["count"]
    if level not in LEVELS:
        raise Refused(f"There are not enough resources for your request: no '{level}' here")
    if count not in ("ALL", "BEST") and not count.isdigit():
        raise Refused(f"Bad resource request: syntax error in '{text}'")
    number = int(count) if count.isdigit() else None
    where = _Parser(found["where"], properties).parse() if found["where"] else _anything
    return Group(number, where)


def _anything(properties: Properties) -> bool:
    return True


class _Parser:
    """The part of SQL that is used between braces: comparisons, IN, AND, OR, NOT."""

    def __init__(self, text: str, properties: Sequence[str]) -> None:
        self._text, self._properties = text, properties
        self._tokens = self._read(text)

    def parse(self) -> Condition:
        condition = self._or()
        if self._tokens:
            raise self._error()
        return condition

    def _read(self, text: str) -> list[tuple[str, str]]:
        tokens, place = [], 0
        text = text.strip()
        while place < len(text):
            found = TOKEN.match(text, place)
            if found is None:
                raise self._error()
            kind = found.lastgroup or ""
            tokens.append((kind, found[kind]))
            place = found.end()
        return tokens

    def _or(self) -> Condition:
        left = self._and()
        while self._take("or"):
            left = _either(left, self._and())
        return left

    def _and(self) -> Condition:
        left = self._not()
        while self._take("and"):
            left = _both(left, self._not())
        return left

    def _not(self) -> Condition:
        if self._take("not"):
            return _opposite(self._not())
        if self._take("("):
            inner = self._or()
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Condition:
        name = self._next("word")
        if name not in self._properties:
            raise Refused(f'Bad resource request: column "{name}" does not exist')
        negative = self._take("not")
        if self._take("in"):
            condition = _among(name, self._values())
            return _opposite(condition) if negative else condition
        sign = self._next("sign")
        if sign not in COMPARE:
            raise self._error()
        return _compared(name, COMPARE[sign], self._value())

    def _values(self) -> list[str]:
        self._expect("(")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        self._expect(")")
        return values

    def _value(self) -> str:
        if not self._tokens or self._tokens[0][0] == "sign":
            raise self._error()
        return self._tokens.pop(0)[1]

    def _next(self, kind: str) -> str:
        if not self._tokens or self._tokens[0][0] != kind:
            raise self._error()
        return self._tokens.pop(0)[1]

    def _take(self, word: str) -> bool:
        if self._tokens and self._tokens[0][0] != "text" and self._tokens[0][1].lower() == word:
            self._tokens.pop(0)
            return True
        return False

    def _expect(self, word: str) -> None:
        if not self._take(word):
            raise self._error()

    def _error(self) -> Refused:
        return Refused(f"Bad resource request: syntax error in '{self._text}'")


def _either(left: Condition, right: Condition) -> Condition:
    return lambda properties: left(properties) or right(properties)


def _both(left: Condition, right: Condition) -> Condition:
    return lambda properties: left(properties) and right(properties)


def _opposite(condition: Condition) -> Condition:
    return lambda properties: not condition(properties)


def _among(name: str, values: Sequence[str]) -> Condition:
    return lambda properties: str(properties[name]) in values


def _compared(name: str, compare: Callable[[object, object], bool], value: str) -> Condition:
    return lambda properties: compare(str(properties[name]), value)
