"""Safetensors files under other names than the usual ones, read by transformers, too, as the same model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from packager.errors import InputInvalid, PackagerError, Unsupported
from packager.formats.checkpoint import read_checkpoint
from packager.sources.shards import usual_layout

INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    """A real tiny model without its weights, which `split` writes."""
    folder = tmp_path / "packy"
    folder.mkdir()
    for path in tiny("qwen2.5").iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def split(source: Path, folder: Path, *names: str) -> dict[str, str]:
    """Write the source's tensors into files of these names, in turn, and give the file of each tensor."""
    tensors = load_file(source / "model.safetensors")
    places = {tensor: names[number % len(names)] for number, tensor in enumerate(sorted(tensors))}
    for name in names:
        save_file(
            {key: tensors[key] for key, place in places.items() if place == name}, folder / name, {"format": "pt"}
        )
    return places


def numbered(count: int, stem: str = "model") -> tuple[str, ...]:
    return tuple(f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1))


def write_index(path: Path, places: dict[str, str]) -> None:
    path.write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize(
    ("names", "index"),
    [
        pytest.param(numbered(3), None, id="numbered, without an index"),
        pytest.param(numbered(2, "pytorch_model"), None, id="numbered, with another stem"),
        pytest.param(("a.safetensors", "b.safetensors", "layers.safetensors"), None, id="any names, without an index"),
        pytest.param(("weights.safetensors",), None, id="one file of another name"),
        pytest.param(("x1.safetensors", "x2.safetensors"), "pytorch_model.safetensors.index.json", id="another index"),
        pytest.param(("x1.safetensors", "x2.safetensors"), INDEX, id="the usual index of odd names"),
        pytest.param(numbered(1), None, id="one numbered file"),
    ],
)
def test_transformers_reads_the_same_model(
    tiny: Callable[[str], Path], model: Path, names: tuple[str, ...], index: str | None
) -> None:
    from transformers import AutoModelForCausalLM

    places = split(tiny("qwen2.5"), model, *names)
    if index is not None:
        write_index(model / index, places)

    folder = usual_layout(model)

    expected = load_file(tiny("qwen2.5") / "model.safetensors")
    base = read_checkpoint(folder)
    assert base.name == "packy"
    assert {entry.name for entry in base.tensors} == set(expected)
    loaded = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True, dtype="auto")
    found = loaded.state_dict()
    assert all(found[name].equal(value) for name, value in expected.items())


def test_a_usual_folder_is_itself_whatever_lies_beside_it(
    tiny: Callable[[str], Path], model: Path, own_cache: Path
) -> None:
    split(tiny("qwen2.5"), model, "model.safetensors")
    split(tiny("qwen2.5"), model, "consolidated.safetensors")
    assert usual_layout(model) == model
    assert "consolidated" not in str(read_checkpoint(model).tensors)
    assert not own_cache.exists()


def test_mistrals_own_files_beside_shards_without_an_index_do_not_count(
    tiny: Callable[[str], Path], model: Path
) -> None:
    split(tiny("qwen2.5"), model, *numbered(2))
    split(tiny("qwen2.5"), model, "consolidated.safetensors")

    base = read_checkpoint(usual_layout(model))

    assert {entry.file.name for entry in base.tensors} == set(numbered(2))


def test_a_file_that_changes_makes_another_folder(tiny: Callable[[str], Path], model: Path) -> None:
    split(tiny("qwen2.5"), model, *numbered(2))
    first = usual_layout(model)
    assert usual_layout(model) == first
    split(tiny("qwen2.5"), model, *reversed(numbered(2)))
    assert usual_layout(model) != first


def _missing_shard(folder: Path) -> None:
    (folder / numbered(3)[1]).unlink()


def _twice(folder: Path) -> None:
    tensors = load_file(folder / numbered(3)[0])
    save_file(tensors | load_file(folder / numbered(3)[1]), folder / numbered(3)[1])


def _stranger(folder: Path) -> None:
    save_file(load_file(folder / numbered(3)[0]), folder / "old.safetensors")


def _two_indexes(folder: Path) -> None:
    write_index(folder / "a.safetensors.index.json", {})
    write_index(folder / "b.safetensors.index.json", {})


def _own_layout_only(folder: Path) -> None:
    for name in numbered(3):
        (folder / name).rename(folder / name.replace("model", "consolidated"))


def _block_gone(folder: Path) -> None:
    for number, name in enumerate(numbered(3)):
        kept = {key: value for key, value in load_file(folder / name).items() if "layers.1." not in key}
        (folder / name).unlink()
        save_file(kept, folder / f"part{number}.safetensors")


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        pytest.param(_missing_shard, InputInvalid, "model-00002-of-00003.safetensors: no such file", id="a shard is missing"),
        pytest.param(_twice, InputInvalid, "both hold", id="a tensor in two shards"),
        pytest.param(_stranger, InputInvalid, "old.safetensors is no part of model-00001", id="a file of another save"),
        pytest.param(_two_indexes, InputInvalid, "has two indexes, a.safetensors.index.json and b", id="two indexes"),
        pytest.param(_own_layout_only, Unsupported, "in Mistral's own layout", id="only Mistral's own layout"),
        pytest.param(_block_gone, InputInvalid, "no tensor of block 1 is in any file", id="a block is missing"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused(
    tiny: Callable[[str], Path], model: Path, own_cache: Path,
    spoil: Callable[[Path], None], kind: type[PackagerError], message: str,
) -> None:  # fmt: skip
    split(tiny("qwen2.5"), model, *numbered(3))
    spoil(model)

    with pytest.raises(kind, match=message) as refused:
        usual_layout(model)

    assert refused.value.hint
    assert str(model) in refused.value.message
    assert not own_cache.exists()


def test_an_index_of_another_name_is_checked_like_the_usual_one(tiny: Callable[[str], Path], model: Path) -> None:
    places = split(tiny("qwen2.5"), model, "x1.safetensors", "x2.safetensors")
    write_index(model / "odd.safetensors.index.json", {**places, "extra.weight": "x1.safetensors"})

    with pytest.raises(
        InputInvalid, match=r"packy/x1\.safetensors: does not hold extra\.weight, which odd\.safetensors"
    ):
        read_checkpoint(usual_layout(model))
