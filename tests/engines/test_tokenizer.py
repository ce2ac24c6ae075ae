"""The quick reference, against transformers in this process, and with templates that mean harm."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Message
from packager.chat.probes import every_probe
from packager.engines.engine import NotSupported
from packager.engines.tokenizer import TokenizerReference
from packager.errors import InputInvalid, UnsafeInput
from tests.chat.samples import openai, openai_tools

HELLO = Conversation(id="hello", group="CORE", messages=(Message(role="user", content="Hi"),))


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "llama3.1"])
def test_it_says_what_transformers_says(family: str, tiny: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny(family))
    with TokenizerReference(tiny(family), tokenizer.chat_template) as reference:
        for probe in every_probe():
            text = tokenizer.apply_chat_template(
                openai(probe), tools=openai_tools(probe), tokenize=False, add_generation_prompt=True
            )
            assert reference.render(probe) == text
            assert reference.tokens(probe) == tuple(tokenizer.encode(text, add_special_tokens=False))
            assert reference.encode(text) == reference.tokens(probe)
        assert reference.bos_text == (tokenizer.bos_token or "")
        assert reference.piece(tokenizer.eos_token_id) == tokenizer.eos_token


def test_a_template_that_refuses_is_a_cell(tiny: Callable[[str], Path]) -> None:
    with TokenizerReference(tiny("qwen2.5"), "{{ raise_exception('only one\nturn') }}") as reference:
        answer = reference.tokens(HELLO)
    assert answer == NotSupported(code="TEMPLATE_ERROR", detail="TemplateError: only one")


LOOP = "{% for a in range(99999) %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [(LOOP * 3 + "{% endfor %}" * 3, "does not come to an end"), ("{{ 'a' * 20000000000 }}", "")],
    ids=["hangs", "allocates"],
)
def test_a_template_that_means_harm_ends(
    template: str, message: str, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packager.engines.tokenizer._TIMEOUT_S", 2.0)
    with TokenizerReference(tiny("qwen2.5"), template) as reference:
        with pytest.raises(UnsafeInput, match=message) if message else contextlib.nullcontext():
            answer = reference.tokens(HELLO)
            assert isinstance(answer, NotSupported)
            assert "MemoryError" in answer.detail
        assert reference.encode("still there")


def test_a_damaged_tokenizer(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copy(tiny("qwen2.5") / "config.json", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with TokenizerReference(tmp_path, "x") as reference, pytest.raises(InputInvalid) as caught:
        reference.tokens(HELLO)
    assert str(tmp_path) in caught.value.message
