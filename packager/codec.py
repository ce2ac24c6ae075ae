"""Frozen dataclasses to JSON and back.

The law: `decode(type(value), encode(value)) == value` for every value made of dataclasses, enums, paths, tuples, strings,
numbers, booleans, None, `JsonObject` and unions of them. This is the only module of the project that handles untyped JSON
values freely.

Unlike `dataclasses.asdict`, this restores the types, and refuses unknown and missing fields by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from packager.errors import InputInvalid

T = TypeVar("T")
Json = Any


@dataclasses.dataclass(frozen=True)
class JsonObject:
    """A JSON object that nobody here looks into, as one value: a tool's declaration, the arguments of its call.

    Its JSON form is the object itself. Two are equal when their keys are in the same order, because templates write them so.

    Attributes:
        text: The object's text, as `json.dumps` writes it.
    """

    text: str

    def __post_init__(self) -> None:
        # One text for one value, however it was written.
        object.__setattr__(self, "text", json.dumps(self._parsed(), ensure_ascii=False))

    @classmethod
    def of(cls, data: dict[str, Json]) -> JsonObject:
        """Give the value of what `json.loads` gave."""
        return cls(json.dumps(data))

    def data(self) -> dict[str, Json]:
        """Give the object for a library that takes one; a new one each time."""
        return self._parsed()

    def _parsed(self) -> dict[str, Json]:
        parsed = json.loads(self.text)
        if not isinstance(parsed, dict):
            raise ValueError(f"expected a JSON object, found {self.text[:40]}")
        return parsed


def encode(value: object) -> Json:
    """Give the JSON form of a value: dataclasses as objects, tuples as arrays, enums as their value, paths as text."""
    return _encode(value, list)


def decode(kind: type[T], data: Json, *, where: str = "value") -> T:
    """Rebuild a value of `kind` from its JSON form.

    Args:
        kind: A dataclass, or any type `encode` takes.
        data: What `json.loads` gave.
        where: What to call the value in an error, best a file name.

    Raises:
        InputInvalid: A field is missing, unknown, or of another type; the message names it.
    """
    return typing.cast(T, _decode(kind, data, where))


def canonical_json(value: object) -> str:
    """Give the one JSON text of a value: sorted fields, no blanks, ASCII. Only equal values give the same bytes."""
    return json.dumps(_encode(value, sorted), separators=(",", ":"), ensure_ascii=True)


def pretty_json(value: object, *, ascii_only: bool = False) -> str:
    """Give the JSON text of a value for files that people read: fields in their written order, two blanks, newline.

    With `ascii_only` it also carries text that is no valid Unicode, such as a path whose bytes are not UTF-8.
    """
    return json.dumps(encode(value), indent=2, ensure_ascii=ascii_only) + "\n"


def json_line(value: object) -> str:
    """Give the JSON text of a value as one line of a `.jsonl` file: fields in their written order, newline."""
    return json.dumps(encode(value), ensure_ascii=False) + "\n"


def digest(value: object) -> str:
    """Give the sha256, 64 hex digits, of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def map_paths(value: T, change: Callable[[Path], Path]) -> T:
    """Give an equal value in which every path, at any depth, is replaced by `change(path)`."""
    return typing.cast(T, _map_paths(value, change))


def _encode(value: object, order: Callable[[Iterable[str]], list[str]]) -> Json:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, JsonObject):
        return value.data()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = order(field.name for field in dataclasses.fields(value))
        return {name: _encode(getattr(value, name), order) for name in names}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_encode(item, order) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _map_paths(value: Any, change: Callable[[Path], Path]) -> Any:
    if isinstance(value, Path):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_map_paths(item, change) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: _map_paths(item, change) for name, item in fields.items()})
    return value


def _decode(kind: Any, data: Json, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(kind), data, where)
    if origin is tuple:
        item = typing.get_args(kind)[0]
        if not isinstance(data, list):
            raise InputInvalid(f"{where}: expected a list, found {type(data).__name__}")
        return tuple(_decode(item, entry, f"{where}[{index}]") for index, entry in enumerate(data))
    if origin is typing.Literal:
        if data in typing.get_args(kind):
            return data
        raise InputInvalid(f"{where}: expected one of {typing.get_args(kind)}, found {data!r}")
    if kind is JsonObject and isinstance(data, dict):
        return JsonObject.of(data)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, where)
    return _decode_scalar(kind, data, where)


def _decode_union(options: tuple[Any, ...], data: Json, where: str) -> Any:
    if data is None and types.NoneType in options:
        return None
    failures = []
    for option in options:
        if option is types.NoneType:
            continue
        try:
            return _decode(option, data, where)
        except InputInvalid as error:
            failures.append(error.message)
    raise InputInvalid(failures[0] if failures else f"{where}: expected nothing, found {data!r}")


def _decode_dataclass(kind: Any, data: Json, where: str) -> Any:
    if not isinstance(data, dict):
        raise InputInvalid(f"{where}: expected an object, found {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise InputInvalid(f"{where}: unknown field {unknown[0]!r}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputInvalid(f"{where}: missing field {name!r}")
    return kind(**values)


def _decode_scalar(kind: Any, data: Json, where: str) -> Any:
    if kind is Path and isinstance(data, str):
        return Path(data)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError:
            choices = ", ".join(str(member.value) for member in kind)
            raise InputInvalid(f"{where}: expected one of {choices}, found {data!r}") from None
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if isinstance(kind, type) and isinstance(data, kind) and (kind is bool or not isinstance(data, bool)):
        return data
    expected = getattr(kind, "__name__", str(kind))
    raise InputInvalid(f"{where}: expected {expected}, found {data!r}")
