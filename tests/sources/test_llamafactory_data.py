"""The files behind LLaMA-Factory's `dataset`, where `--data` takes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from packager.formats.labelled_rows import read_labelled_rows
from packager.formats.yaml_file import read_yaml
from packager.sources.llamafactory import read_llamafactory
from packager.sources.llamafactory_data import training_files

GOLDENS = Path(__file__).parent.parent / "goldens" / "llamafactory"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the data sets `rows`, `other`, `list` and `hub`."""
    shutil.copytree(GOLDENS, tmp_path, dirs_exist_ok=True)
    files = {"rows": "packy.jsonl", "other": "gone.jsonl", "list": "list.json", "odd": 5}
    info = {name: {"file_name": file} for name, file in files.items()}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({**info, "hub": {"hf_hub_url": "a/b"}, "no": 1}))
    (tmp_path / "data" / "list.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_real_ones_data_can_be_compared_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDENS)

    (file,) = training_files(read_yaml(Path("train.yaml")))

    assert [row.label for row in read_labelled_rows(file)][1] == "My name is Packy."
    assert read_llamafactory(Path("train.yaml")).notes == (
        "data/packy.jsonl: trained with it; --data data/packy.jsonl compares along it",
    )


@pytest.mark.parametrize(
    ("values", "files"),
    [
        pytest.param({"dataset": "rows"}, ("data/packy.jsonl",), id="in the default folder"),
        pytest.param({"dataset": "hub, rows", "dataset_dir": "data"}, ("data/packy.jsonl",), id="one of two"),
        pytest.param({"dataset": ("rows", "list")}, ("data/packy.jsonl",), id="a list"),
        pytest.param({"dataset": "other"}, (), id="a file that is not there"),
        pytest.param({"dataset": "unknown"}, (), id="no such data set"),
        pytest.param({"dataset": "odd"}, (), id="a name that is a number"),
        pytest.param({"dataset": "no"}, (), id="an entry that is a number"),
        pytest.param({"dataset": "rows", "dataset_dir": "ONLINE"}, (), id="on a hub"),
        pytest.param({"dataset": "rows", "dataset_dir": ("map", "")}, (), id="written into the yaml"),
        pytest.param({}, (), id="none"),
    ],
)
def test_only_files_that_data_takes_are_named(here: Path, values: dict[str, object], files: tuple[str, ...]) -> None:
    assert training_files(values) == tuple(Path(file) for file in files)


def test_a_damaged_list_of_data_sets_stops_nothing(here: Path) -> None:
    (here / "data" / "dataset_info.json").write_text("{")
    assert training_files({"dataset": "rows"}) == ()
