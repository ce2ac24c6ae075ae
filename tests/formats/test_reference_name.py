"""One word for base and adapter: the whole first, then the last plus with something on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from packager.errors import InputInvalid
from packager.formats.reference_name import ReferenceName


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("folders", "text", "base", "adapter"),
    [
        pytest.param(["base"], "base", "base", None, id="a base alone"),
        pytest.param(["base", "lora"], "base+lora", "base", "lora", id="both"),
        pytest.param(["base", "lora"], "./base+./lora/", "base", "lora", id="with dots and a slash"),
        pytest.param(["c++", "lora"], "c++", "c++", None, id="pluses in the name"),
        pytest.param(["c++", "lora"], "c+++lora", "c++", "lora", id="pluses in the base's name"),
        pytest.param(["base", "a+b"], "base+a+b", "base", "a+b", id="a plus in the adapter's name"),
        pytest.param(["base", "lora", "base+lora"], "base+lora", "base+lora", None, id="the whole comes first"),
        pytest.param(["a", "a+b", "b+c", "c"], "a+b+c", "a+b", "c", id="the last plus comes first"),
    ],
)  # fmt: skip
def test_a_word_names_folders(here: Path, folders: list[str], text: str, base: str, adapter: str | None) -> None:
    for folder in folders:
        (here / folder).mkdir()

    found = ReferenceName.parse(text)

    assert found == ReferenceName(base=Path(base), adapter=None if adapter is None else Path(adapter))


def test_absolute_paths_are_read_too(here: Path) -> None:
    (here / "base").mkdir()
    (here / "lora").mkdir()

    found = ReferenceName.parse(f"{here / 'base'}+{here / 'lora'}")

    assert (found.base, found.adapter) == (here / "base", here / "lora")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("nothing", "nothing: no such folder", id="no plus"),
        pytest.param("", "'': no such folder", id="empty"),
        pytest.param("base+gone", "base+gone: no such folder, nor is there gone beside its '+'", id="no adapter"),
        pytest.param("gone+base", "gone+base: no such folder, nor is there gone beside its '+'", id="no base"),
        pytest.param("base+", "base+: no such folder, nor is there anything beside its '+'", id="empty adapter"),
        pytest.param("+base", "+base: no such folder, nor is there anything beside its '+'", id="empty base"),
        pytest.param("x+y", "x+y: no such folder, nor is there x or y beside its '+'", id="neither"),
        pytest.param("x+y+z", "x+y+z: no such folder, nor two at one of its '+'", id="two pluses"),
    ],
)
def test_what_is_missing_is_named(here: Path, text: str, message: str) -> None:
    (here / "base").mkdir()

    with pytest.raises(InputInvalid) as caught:
        ReferenceName.parse(text)

    assert caught.value.message == message
    assert caught.value.hint == "Give the base's folder, or both as BASE+ADAPTER."
