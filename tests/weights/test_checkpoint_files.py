from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import gguf
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packager.artifacts import Checkpoint, Dtype
from packager.errors import InputInvalid
from packager.weights.checkpoint_files import write_checkpoint_files
from tests.weights.made_checkpoints import checkpoint

RAW = b"\xff\xfe\x00 not text \r\n\n"  # what only a copy of bytes leaves alone
COPIED = ["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "generation_config.json"]
COPIED += ["special_tokens_map.json", "added_tokens.json"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8)


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return checkpoint(tmp_path / "base", {"w": torch.ones(2, 2)})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", COPIED, ids=COPIED)
@pytest.mark.parametrize("template", [None, "{{ x }}"], ids=["no-template", "template"])
def test_what_a_tokenizer_needs_is_copied_byte_for_byte(
    name: str, template: str | None, base: Checkpoint, output: Path
) -> None:
    (base.folder / name).write_bytes(RAW)
    assert output / name in write_checkpoint_files(base, Dtype.BFLOAT16, template, output)
    assert (output / name).read_bytes() == RAW


def test_the_licence_keeps_its_name_and_its_bytes(base: Checkpoint, output: Path) -> None:
    (base.folder / "LICENCE.md").write_bytes(RAW)
    licensed = dataclasses.replace(base, license_file=base.folder / "LICENCE.md")
    assert output / "LICENCE.md" in write_checkpoint_files(licensed, Dtype.BFLOAT16, None, output)
    assert (output / "LICENCE.md").read_bytes() == RAW


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"dtype": "float32"}, {"dtype": "float16"}),
        ({"torch_dtype": "float32"}, {"torch_dtype": "float16"}),
        ({"text": {"dtype": "float32"}}, {"text": {"dtype": "float32"}, "torch_dtype": "float16"}),
    ],
    ids=["new-key", "old-key", "nested-only"],
)
def test_the_dtype_goes_where_the_base_says_it(
    before: dict[str, object], after: dict[str, object], base: Checkpoint, output: Path
) -> None:
    (base.folder / "config.json").write_text(json.dumps(before))
    write_checkpoint_files(base, Dtype.FLOAT16, None, output)
    assert json.loads((output / "config.json").read_text()) == after


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(TEXT.filter(lambda key: key not in ("dtype", "torch_dtype")), JSON, max_size=4))
def test_every_other_setting_is_kept_in_its_place(values: dict[str, object], base: Checkpoint, output: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        (base.folder / name).write_text(json.dumps(values), encoding="utf-8")
    write_checkpoint_files(base, Dtype.FLOAT32, "new", output)
    for name, key, added in [
        ("config.json", "torch_dtype", "float32"),
        ("tokenizer_config.json", "chat_template", "new"),
    ]:
        found = json.loads((output / name).read_text(encoding="utf-8"))
        assert found == {**values, key: added}
        assert list(found) == list({**values, key: added})


@pytest.mark.parametrize(
    "template", ["{{ 1 }}\r\n\t{{ '\\n' }}", "  {{- '你好 🙂' -}}\n\n", ""], ids=["line-ends", "not-ascii", "empty"]
)
def test_both_readers_find_the_template_as_it_was_given(template: str, base: Checkpoint, output: Path) -> None:
    (base.folder / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default", "template": "old"}]}')
    (base.folder / "chat_template.jinja").write_text("old")
    (base.folder / "tokenizer.json").write_text('{"model": {}}')
    files = write_checkpoint_files(base, Dtype.BFLOAT16, template, output)
    assert sorted(files) == sorted(output.iterdir())  # and none is named twice
    assert (output / "chat_template.jinja").read_bytes() == template.encode()
    assert json.loads((output / "tokenizer_config.json").read_bytes())["chat_template"] == template
    (output / "chat_template.jinja").unlink()
    assert gguf.SpecialVocab(output).chat_template == template


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"], ids=["config", "tokenizer-config"])
def test_a_damaged_configuration_is_named(name: str, base: Checkpoint, output: Path) -> None:
    (base.folder / name).write_text("{,}")
    with pytest.raises(InputInvalid, match=f"base/{name}: not JSON"):
        write_checkpoint_files(base, Dtype.BFLOAT16, "new", output)
