from __future__ import annotations

import json
import typing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager import artifacts
from packager.codec import JsonObject, canonical_json, decode, digest, encode, map_paths, pretty_json
from packager.errors import InputInvalid


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Leaf:
    name: str
    count: int
    ratio: float
    on: bool
    where: Path
    colour: Colour
    kind: Literal["a", "b"]
    maybe: int | None = None


@dataclass(frozen=True, kw_only=True)
class Tree:
    leaves: tuple[Leaf, ...]
    first: Leaf | None
    names: tuple[str, ...] = ()
    nested: tuple[tuple[int, ...], ...] = field(default=())
    either: Leaf | str = "x"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(data=st.dictionaries(st.text(), JSON, max_size=4))
def test_a_json_object_comes_back_with_its_keys_in_their_order(data: dict[str, Any]) -> None:
    value = JsonObject.of(data)
    assert value.data() == data == encode(value)
    assert list(value.data()) == list(data)
    assert decode(JsonObject, json.loads(pretty_json(value))) == value == JsonObject(json.dumps(data, indent=3))
    assert decode(JsonObject, json.loads(canonical_json(value))) == value
    assert hash(decode(JsonObject, json.loads(pretty_json(value)))) == hash(value)


@pytest.mark.parametrize("data", [[1], "x", None, 3], ids=repr)
def test_what_is_no_json_object_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="expected a JSON object"):
        JsonObject(json.dumps(data))
    with pytest.raises(InputInvalid, match=r"arguments: expected"):
        decode(JsonObject, data, where="arguments")


LEAVES = st.builds(
    Leaf,
    name=st.text(),
    count=st.integers(),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    on=st.booleans(),
    where=st.text("abc/. ä", min_size=1).map(Path),
    colour=st.sampled_from(Colour),
    kind=st.sampled_from(["a", "b"]),
    maybe=st.none() | st.integers(),
)
TREES = st.builds(
    Tree,
    leaves=st.lists(LEAVES, max_size=3).map(tuple),
    first=st.none() | LEAVES,
    names=st.lists(st.text()).map(tuple),
    nested=st.lists(st.lists(st.integers()).map(tuple), max_size=3).map(tuple),
    either=st.text() | LEAVES,
)


@settings(max_examples=60, deadline=None)
@given(TREES)
def test_decode_undoes_encode_through_json_text(tree: Tree) -> None:
    for text in (json.dumps(encode(tree)), canonical_json(tree), pretty_json(tree)):
        assert decode(Tree, json.loads(text)) == tree


@settings(max_examples=60, deadline=None)
@given(TREES, TREES)
def test_equal_values_and_only_they_have_equal_digests(one: Tree, other: Tree) -> None:
    # 0.0 and -0.0, 1 and 1.0 are equal in Python and different in JSON
    same = repr(one) == repr(other)
    assert (digest(one) == digest(other)) == same
    assert len(digest(one)) == 64


def test_canonical_json_is_one_text() -> None:
    @dataclass(frozen=True)
    class Pair:
        b: str
        a: int

    assert canonical_json(Pair(b="ä", a=1)) == '{"a":1,"b":"\\u00e4"}'
    assert pretty_json(Pair(b="ä", a=1)) == '{\n  "b": "ä",\n  "a": 1\n}\n'


def test_the_type_itself_may_be_a_tuple() -> None:
    assert decode(tuple[Colour, ...], ["red", "blue"]) == (Colour.RED, Colour.BLUE)


GOOD = encode(
    Leaf(name="n", count=1, ratio=0.5, on=True, where=Path("w"), colour=Colour.RED, kind="a"),
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "leaf.json: unknown field 'extra'"),
        ({"count": "1"}, "leaf.json.count: expected int, found '1'"),
        ({"count": True}, "leaf.json.count: expected int, found True"),
        ({"count": 1.5}, "leaf.json.count: expected int, found 1.5"),
        ({"on": 1}, "leaf.json.on: expected bool, found 1"),
        ({"name": None}, "leaf.json.name: expected str, found None"),
        ({"where": 3}, "leaf.json.where: expected Path, found 3"),
        ({"colour": "green"}, "leaf.json.colour: expected one of red, blue, found 'green'"),
        ({"kind": "c"}, "leaf.json.kind: expected one of ('a', 'b'), found 'c'"),
        ({"maybe": "x"}, "leaf.json.maybe: expected int, found 'x'"),
    ],
    ids=["unknown", "text", "bool-as-int", "float-as-int", "int-as-bool", "null", "path", "enum", "literal", "union"],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        decode(Leaf, {**GOOD, **change}, where="leaf.json")
    assert caught.value.message == message


def test_missing_fields_and_wrong_containers() -> None:
    with pytest.raises(InputInvalid, match="missing field 'name'"):
        decode(Leaf, {key: value for key, value in GOOD.items() if key != "name"})
    with pytest.raises(InputInvalid, match="expected an object, found list"):
        decode(Leaf, [])
    with pytest.raises(InputInvalid, match=r"expected a list, found dict"):
        decode(tuple[int, ...], {})
    with pytest.raises(InputInvalid, match=r"value\[1\]: expected int"):
        decode(tuple[int, ...], [1, "2"])


@given(TREES)
def test_mapped_paths_are_all_paths_and_nothing_else(tree: Tree) -> None:
    moved = map_paths(tree, lambda path: Path("root") / "sub" / path.name)
    assert all(leaf.where.parts[:2] == ("root", "sub") for leaf in moved.leaves)
    assert map_paths(tree, lambda path: path) == tree
    still = map_paths(moved, lambda path: Path("same"))
    assert still == map_paths(tree, lambda path: Path("same"))
    assert [leaf.name for leaf in still.leaves] == [leaf.name for leaf in tree.leaves]


def test_a_whole_number_is_a_float_where_a_float_is_wanted() -> None:
    value = decode(float, 3)
    assert value == 3.0
    assert isinstance(value, float)


def test_what_has_no_json_form_is_a_bug() -> None:
    with pytest.raises(TypeError, match="no JSON form for set"):
        encode({1})
    with pytest.raises(TypeError, match="no JSON form for dict"):
        encode({"a": 1})


VALUES = [
    value
    for value in vars(artifacts).values()
    if isinstance(value, type) and hasattr(value, "__dataclass_fields__") and value is not JsonObject
]


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_every_value_between_rooms_has_a_json_form(kind: type[Any], data: st.DataObject) -> None:
    value = data.draw(_values(kind))
    assert decode(kind, json.loads(canonical_json(value))) == value


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of any type that packager.artifacts uses."""
    leaves: dict[Any, st.SearchStrategy[Any]] = {
        JsonObject: st.dictionaries(st.text(), JSON, max_size=3).map(JsonObject.of),
        Path: st.text("ab/", min_size=1).map(Path),
        float: st.floats(allow_nan=False, allow_infinity=False),
    }
    if kind in leaves:
        return leaves[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return st.lists(_values(arguments[0]), max_size=2).map(tuple)
    if arguments:
        return st.one_of([_values(option) for option in arguments])
    if hasattr(kind, "__dataclass_fields__"):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{name: _values(hints[name]) for name in kind.__dataclass_fields__})
    return st.from_type(kind)
