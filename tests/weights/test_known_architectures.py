"""What the converter of the pinned version knows, and what docs/architectures.md says is proved of it."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

from packager.formats.checkpoint import read_checkpoint
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.weights import supported_architecture
from packager.weights.converter_modules import converter_modules, model_class
from tests.architecture_table import ARCHITECTURES
from tests.architectures import make_architecture

DOCS = Path(__file__).parents[2] / "docs/architectures.md"


def test_what_the_converter_has_a_class_for_is_supported(tree: LlamaCppTree, tmp_path: Path) -> None:
    make_architecture("llama", tmp_path / "base")
    base = read_checkpoint(tmp_path / "base")
    with converter_modules(tree):
        names = sorted(sys.modules["conversion"].TEXT_MODEL_MAP)
    assert len(names) > 200
    for name in names:
        assert supported_architecture(dataclasses.replace(base, architecture=name), tree), name
    for name in ("Llama", "NobodyKnowsForCausalLM", "llama"):
        assert not supported_architecture(dataclasses.replace(base, architecture=name), tree)


def test_a_name_in_the_converters_table_has_a_class_or_is_refused(tree: LlamaCppTree, tmp_path: Path) -> None:
    without = []
    with converter_modules(tree):
        conversion = sys.modules["conversion"]
        for name in conversion.TEXT_MODEL_MAP:
            try:
                assert conversion.get_model_class(name).model_arch is not None
            except KeyError:
                without.append(name)
        assert sorted(without) == ["GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration"]
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [without[0]], "model_type": "unknown"}))
        with pytest.raises(NotImplementedError, match=without[0]):
            model_class(tmp_path, lambda model: {})


def rows() -> dict[str, list[str]]:
    """The table of the docs: its other cells by the class's name."""
    found = re.findall(r"^\| `(\w+)` \|(.+)\|$", DOCS.read_text(), re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in found}


def test_the_docs_list_what_is_proved() -> None:
    assert sorted(rows()) == sorted(made.model for made in ARCHITECTURES.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_docs_say_how_it_is_proved(name: str) -> None:
    made = ARCHITECTURES[name]
    alone, with_lora, merge = rows()[made.model]
    assert (alone, with_lora) == ("yes", "yes")
    assert merge == ("float64" if made.shapes else "peft, float64")
