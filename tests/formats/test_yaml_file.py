"""A YAML file's top level: plain values, nothing constructed."""

from __future__ import annotations

from pathlib import Path

import pytest

from packager.errors import InputInvalid
from packager.formats.yaml_file import YAML_LIMIT_BYTES, read_yaml


def write(folder: Path, text: str) -> Path:
    path = folder / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("a: b", "b", id="text"),
        pytest.param("a: 'true'", "true", id="a text that looks like a boolean"),
        pytest.param("a: yes", True, id="a boolean of YAML 1.1"),
        pytest.param("a: off", False, id="a false boolean"),
        pytest.param("a:", None, id="nothing"),
        pytest.param("a: 5", ("int", "5"), id="a number is no text"),
        pytest.param("a: [b, c]", ("b", "c"), id="a list of texts"),
        pytest.param("a:\n  - b\n  - c\n", ("b", "c"), id="a list in lines"),
    ],
)
def test_values_are_plain(tmp_path: Path, text: str, value: object) -> None:
    assert read_yaml(write(tmp_path, text)) == {"a": value}


def test_a_list_with_anything_else_in_it_is_no_list_of_texts(tmp_path: Path) -> None:
    found = read_yaml(write(tmp_path, "a: [b, 5]\nc: {d: e}\n"))

    assert isinstance(found["a"], tuple)
    assert [found[key][0] for key in "ac"] == ["seq", "map"]  # type: ignore[index]


def test_no_tag_makes_an_object(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    text = f"a: !!python/object/apply:os.system ['touch {marker}']\nb: !!python/name:os.system\n"

    found = read_yaml(write(tmp_path, text))

    assert not marker.exists()
    assert found["b"] != "os.system"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("- a", "not a YAML mapping", id="a list"),
        pytest.param("", "not a YAML mapping", id="empty"),
        pytest.param("[" * 4000, "not YAML", id="nested without end"),
        pytest.param("a: b: c", "not YAML", id="no YAML"),
        pytest.param("a: " + "x" * YAML_LIMIT_BYTES, "bytes, at most", id="too large"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputInvalid, match=message):
        read_yaml(write(tmp_path, text))
