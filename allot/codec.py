"""Frozen dataclasses as JSON values, and back: how what is remembered of a job is written.

Rules: pure. What is written follows from the declared types: a field at its default is left out,
an enum is its value, a path its text, a set or a tuple a list. What is read is checked against
the same types, whatever it is: what does not fit raises ``ValueError``, which names the place.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")

_TOO_LARGE = 1e300
_PATH, _PAIR = "path", 2
"""What stands before a path, in a list of two, where it might be text as well."""


def encode(value: object) -> Any:
    """A dataclass as what ``json.dumps`` takes."""
    kind: Any = type(value)
    return _codec(kind).encode(value)


def decode(kind: type[_T], value: object) -> _T:
    """A dataclass from what ``json.loads`` gave.

    Raises:
        ValueError: It does not fit the type; the message names the place.
    """
    hashable: Any = kind
    made: _T = _codec(hashable).decode(value, "")
    return made


@dataclass(frozen=True)
class _Codec:
    """One type's way there and back; ``decode`` is told the place of what it is given."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any, str], Any]


@cache
def _codec(kind: Any) -> _Codec:
    if is_dataclass(kind):
        return _dataclass(kind)
    origin, members = get_origin(kind), get_args(kind)
    if origin is not None:
        return _generic(origin, members)
    if kind in (str, int, float, bool):
        return _Codec(_same, lambda value, place: _as(kind, value, place))
    if issubclass(kind, Enum):
        values = [member.value for member in kind]
        return _Codec(
            lambda member: member.value, lambda value, place: kind(_one_of(value, values, place))
        )
    return _Codec(str, lambda value, place: kind(_as(str, value, place)))  # a path


def _generic(origin: Any, members: Sequence[Any]) -> _Codec:
    if origin in (Union, types.UnionType):
        return _union(members)
    if origin is Literal:
        return _Codec(_same, lambda value, place: _one_of(value, members, place))
    if origin is Mapping:
        return _mapping(*members)
    if origin is tuple and members[-1] is not Ellipsis:
        return _pair(members)
    return _many(frozenset if origin is frozenset else tuple, members[0])


def _same(value: Any) -> Any:
    return value


def _as(kind: Any, value: Any, place: str) -> Any:
    """A plain value of the type; whole numbers go for floats, and the other way round."""
    if type(value) is kind and value == value:  # noqa: PLR0124 - what is no number is not itself
        return value
    if kind is float and type(value) is int and abs(value) < _TOO_LARGE:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    raise ValueError(f"{place or 'it'} should be {kind.__name__}, not {_short(value)}")


def _one_of(value: Any, values: Sequence[Any], place: str) -> Any:
    if isinstance(value, (str, int)) and value in values:
        return value
    raise ValueError(f"{place or 'it'} cannot be {_short(value)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - what fits a line


def _list_of(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{place or 'it'} should be a list, not {_short(value)}")
    return value


def _many(made: Callable[[Any], Any], member: Any) -> _Codec:
    inner = _codec(member)

    def read(value: Any, place: str) -> Any:
        whole = _list_of(value, place)
        return made(inner.decode(one, f"{place}[{i}]") for i, one in enumerate(whole))

    return _Codec(lambda whole: [inner.encode(one) for one in whole], read)


def _pair(members: Sequence[Any]) -> _Codec:
    inner = [_codec(member) for member in members]

    def write(whole: Any) -> list[Any]:
        return [codec.encode(one) for codec, one in zip(inner, whole, strict=True)]

    def read(value: Any, place: str) -> tuple[Any, ...]:
        whole = _list_of(value, place)
        if len(whole) != len(inner):
            raise ValueError(f"{place} should have {len(inner)} members, not {len(whole)}")
        return tuple(
            codec.decode(one, f"{place}[{i}]")
            for i, (codec, one) in enumerate(zip(inner, whole, strict=True))
        )

    return _Codec(write, read)


def _mapping(key: type[Any], member: Any) -> _Codec:
    inner = _codec(member)

    def read(value: Any, place: str) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"{place} should be an object, not {_short(value)}")
        made = {}
        for name, one in value.items():
            if key is int and not name.isdecimal():
                raise ValueError(f"{place} has a key that is no number: {_short(name)}")
            made[key(name)] = inner.decode(one, f"{place}.{name}")
        return made

    return _Codec(lambda whole: {str(k): inner.encode(one) for k, one in whole.items()}, read)


def _union(members: Sequence[Any]) -> _Codec:
    plain = [member for member in members if member is not types.NoneType]
    if len(plain) == 1:
        return _optional(_codec(plain[0]))
    mapping = next((_codec(one) for one in plain if get_origin(one) is Mapping), None)
    scalars = [_codec(one) for one in plain if get_origin(one) is not Mapping and one is not Path]

    def write(value: Any) -> Any:
        if isinstance(value, Path):
            return [_PATH, str(value)]
        return mapping.encode(value) if mapping and isinstance(value, Mapping) else value

    def read(value: Any, place: str) -> Any:
        if value is None and len(plain) < len(members):
            return None
        if isinstance(value, float) and float in plain:
            return value  # also one that is not finite
        if isinstance(value, list) and len(value) == _PAIR and value[0] == _PATH:
            return Path(_as(str, value[1], place))
        if isinstance(value, dict) and mapping is not None:
            return mapping.decode(value, place)
        for codec in scalars:
            try:
                return codec.decode(value, place)
            except ValueError:
                continue
        raise ValueError(f"{place} cannot be {_short(value)}")

    return _Codec(write, read)


def _optional(inner: _Codec) -> _Codec:
    return _Codec(
        lambda value: None if value is None else inner.encode(value),
        lambda value, place: None if value is None else inner.decode(value, place),
    )


def _dataclass(kind: Any) -> _Codec:
    hints = get_type_hints(kind)
    plan = [(field.name, _codec(hints[field.name]), _default(field)) for field in fields(kind)]
    names = {name for name, _, _ in plan}
    writers = [(name, default, codec.encode) for name, codec, default in plan]

    def write(whole: Any) -> dict[str, Any]:
        made = {}
        for name, default, write_one in writers:
            value = getattr(whole, name)
            if default is MISSING or (value is not default and value != default):
                made[name] = write_one(value)
        return made

    def read(value: Any, place: str) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"{place or 'it'} should be an object, not {_short(value)}")
        if unknown := value.keys() - names:
            raise ValueError(f"{place or 'it'} has an unknown field {_short(min(unknown))}")
        made = {}
        for name, codec, default in plan:
            if name in value:
                made[name] = codec.decode(value[name], f"{place}.{name}".lstrip("."))
            elif default is MISSING:
                raise ValueError(f"{place or 'it'} lacks the field {name!r}")
        return kind(**made)

    return _Codec(write, read)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
