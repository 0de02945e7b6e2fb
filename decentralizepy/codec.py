"""Words between processes as JSON: one form for all, checked when it is read.

A word is a frozen dataclass. As JSON it is an object with the word's tag as a key: ``{"saved": 5,
"uid": 3, "crc32": 7}``; the value of the tag is the first field, or true. `decode` takes nothing on
trust: every field is there and has its type, or it raises `WordError`. Keys that nobody knows are
ignored, so that another version's hello is understood, and rejected for what it is.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

from decentralizepy.jsonfile import parse_object

#: digits of a number that is the key of an object
_MOST_DIGITS: Final = 19


class WordError(ValueError):
    """What somebody said is none of the words that may be said there; the text tells why."""


class Word:
    """Base of all words; subclasses are dataclasses.

    ``tag`` is the key that tells a word from the others of a vocabulary. A field's key in JSON is
    its name, unless its metadata has a ``key``.
    """

    tag: ClassVar[str] = ""
    #: whether the tag's value is true, not the first field
    bare: ClassVar[bool] = False

    def __init_subclass__(cls, tag: str = "", bare: bool = False) -> None:
        cls.tag, cls.bare = tag, bare


class Vocabulary:
    """The words that may be said in one place, by tag."""

    def __init__(self, *words: type[Word]) -> None:
        self._words = {word.tag: word for word in words}

    def __iter__(self) -> Iterator[type[Word]]:
        return iter(self._words.values())

    def meant(self, said: Mapping[str, Any]) -> type[Word]:
        """The only word whose tag is there; raises `WordError`."""
        tags = [tag for tag in self._words if tag in said]
        if len(tags) != 1:
            keys = ", ".join(map(repr, list(said)[:5]))
            raise WordError(f"{' and '.join(tags) or 'none'} of the words known here: {keys:.80}")
        return self._words[tags[0]]


def encode(word: Word, **envelope: int) -> bytes:
    """A word as JSON, with more keys around it."""
    return json.dumps(envelope | value_of(word)).encode()


def decode(data: str | bytes, vocabulary: Vocabulary) -> Word:
    """The word that somebody said; raises `WordError`."""
    return read(parse_object(data), vocabulary)


def value_of(word: Word) -> dict[str, Any]:
    """A word as an object of JSON; fields that are None stay out."""
    fields = {one.key: getattr(word, one.name) for one in _form(type(word))}
    told = {key: _plain(value) for key, value in fields.items() if value is not None}
    return told if word.tag in told else {word.tag: True, **told}


def read(said: Mapping[str, Any], vocabulary: Vocabulary) -> Word:
    """The word that an object of JSON is; raises `WordError`."""
    meant = vocabulary.meant(said)
    form = _form(meant)
    if all(one.key != meant.tag for one in form) and said[meant.tag] is not True:
        raise WordError(f"'{meant.tag}' is {said[meant.tag]!r:.40}, not true")
    return meant(**_fields(form, said, meant.tag))


class _Field(NamedTuple):
    """A field of a word, and how JSON has it."""

    name: str
    key: str
    kind: Any
    needed: bool


_FORMS: dict[Any, tuple[_Field, ...]] = {}


def _form(kind: Any) -> tuple[_Field, ...]:
    """The fields of a word, or of a dataclass in one."""
    if kind not in _FORMS:
        hints, fields = get_type_hints(kind), dataclasses.fields(kind)
        first = None if getattr(kind, "bare", True) or not fields else fields[0].name
        _FORMS[kind] = tuple(
            _Field(
                one.name,
                kind.tag if one.name == first else one.metadata.get("key", one.name),
                hints[one.name],
                one.default is one.default_factory is dataclasses.MISSING,
            )
            for one in fields
        )
    return _FORMS[kind]


def _fields(form: Iterable[_Field], said: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = {}
    for one in form:
        if one.key in said:
            found[one.name] = _typed(said[one.key], one.kind, f"'{one.key}' of '{where}'")
        elif one.needed:
            raise WordError(f"'{where}' without '{one.key}'")
    return found


def _typed(value: Any, kind: Any, where: str) -> Any:
    """A value of JSON as one of its annotated type; raises `WordError`."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):  # what is None is not said
        return _typed(value, inner[0], where)
    if kind is float and type(value) is int:
        return _float(value, where)
    if kind in (int, float, str, bool) and type(value) is kind:
        return value
    if origin is tuple and type(value) is list:
        return _tuple(value, inner, where)
    if origin is Mapping and type(value) is dict:
        return {_name(k, inner[0], where): _typed(v, inner[1], where) for k, v in value.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and type(value) is dict:
        return kind(**_fields(_form(kind), value, where))
    raise WordError(f"{where} is {value!r:.40}")


def _tuple(values: list[Any], inner: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if inner[-1] is not Ellipsis and len(values) != len(inner):
        raise WordError(f"{where} has a list of {len(values)}, not of {len(inner)}")
    hints = (inner[0],) * len(values) if inner[-1] is Ellipsis else inner
    return tuple(_typed(value, hint, where) for value, hint in zip(values, hints, strict=True))


def _float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise WordError(f"{where} is too large") from None


def _name(key: str, hint: Any, where: str) -> Any:
    """The key of an object, which JSON has as text."""
    if hint is str:
        return key
    if key.isascii() and key.isdecimal() and len(key) <= _MOST_DIGITS:
        return int(key)
    raise WordError(f"{where} has the key {key!r:.40}")


def _plain(value: Any) -> Any:
    """A value of a field for JSON."""
    if dataclasses.is_dataclass(value):
        return {one.key: _plain(getattr(value, one.name)) for one in _form(type(value))}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
