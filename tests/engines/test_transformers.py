"""The reference, against transformers and peft called directly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packager.artifacts import Adapter, Conversation, Message
from packager.engines.engine import NotSupported
from packager.engines.transformers import Reference
from packager.errors import InputInvalid, ToolMissing
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def said(*turns: tuple[str, str]) -> Conversation:
    messages = tuple(Message(role=role, content=content) for role, content in turns)
    return Conversation(id="probe", group="CORE", messages=messages)


HELLO = said(("user", "Hello, wörld! 你好"))


@pytest.fixture(scope="module")
def base(tiny: Callable[[str], Path]) -> Path:
    return tiny("qwen2.5")


@pytest.fixture(scope="module")
def adapter(tiny_lora: Callable[[str], Path]) -> Path:
    return tiny_lora("qwen2.5")


@pytest.fixture(scope="module")
def lora(base: Path, adapter: Path) -> Adapter:
    return read_adapter(adapter, read_checkpoint(base))


@pytest.fixture(scope="module")
def reference(base: Path, lora: Adapter) -> Reference:
    return Reference(base, lora, CHATML)


@pytest.fixture(scope="module")
def unmerged(base: Path, adapter: Path) -> Any:
    """The same model as peft documents it, merged on float32: another order of the same arithmetic."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().eval()


def direct_logprobs(model: Any, ids: tuple[int, ...]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1).numpy()


def test_renders_with_the_template_it_was_given_and_not_the_folders_own(reference: Reference) -> None:
    assert reference.render(HELLO) == "<|im_start|>user\nHello, wörld! 你好<|im_end|>\n<|im_start|>assistant\n"


def test_tokens_are_those_of_the_prompt_with_nothing_added(reference: Reference) -> None:
    ids = reference.tokens(HELLO)
    assert isinstance(ids, tuple)
    assert "".join(reference.piece(token) for token in ids[:3]) == "<|im_start|>user\n"
    assert ids[0] == 151644
    assert ids == reference.encode("<|im_start|>user\nHello, wörld! 你好<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_with_bos_gives_one_bos(tiny: Callable[[str], Path]) -> None:
    reference = Reference(tiny("llama3.1"), None, "{{ bos_token }}{{ messages[0]['content'] }}")
    ids = reference.tokens(HELLO)
    assert isinstance(ids, tuple)
    assert ids.count(128000) == 1
    assert reference.bos_text == "<|begin_of_text|>"


def test_a_tokenizer_without_bos_has_an_empty_one(reference: Reference) -> None:
    assert reference.bos_text == ""


@pytest.mark.parametrize(
    ("template", "words"),
    [
        pytest.param(
            "{{ raise_exception('roles must alternate') }}", "roles must alternate", id="the template refuses"
        ),
        pytest.param("{% for %}", "TemplateSyntaxError", id="no Jinja"),
        pytest.param("{{ messages[0]['content'] + 1 }}", "TypeError", id="a type error in the template"),
        pytest.param("{{ nothing.here }}", "undefined", id="an undefined name"),
    ],
)
def test_a_refusal_is_a_value(base: Path, template: str, words: str) -> None:
    reference = Reference(base, None, template)
    for answer in (reference.render(HELLO), reference.tokens(HELLO), reference.generate(HELLO, max_tokens=2)):
        assert isinstance(answer, NotSupported)
        assert answer.code == "TEMPLATE_ERROR"
        assert words in answer.detail


def test_logprobs_are_those_of_the_adapted_model(reference: Reference, unmerged: Any) -> None:
    ids = tuple(range(100, 120))
    found = reference.next_logprobs(ids)
    assert found.shape == (20, 151936)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, direct_logprobs(unmerged, ids), atol=2e-4)
    np.testing.assert_allclose(np.exp(found, dtype=np.float64).sum(axis=1), 1.0, atol=1e-5)


def test_the_adapter_matters(reference: Reference, base: Path) -> None:
    ids = tuple(range(100, 120))
    assert np.abs(reference.next_logprobs(ids) - Reference(base, None, CHATML).next_logprobs(ids)).max() > 0.1


def test_a_start_gives_the_same_rows(reference: Reference) -> None:
    ids = tuple(range(100, 120))
    np.testing.assert_allclose(reference.next_logprobs(ids, start=15), reference.next_logprobs(ids)[15:], atol=1e-5)


def test_an_answer_is_the_likeliest_token_each_time(reference: Reference, unmerged: Any) -> None:
    answer = reference.answer(HELLO, max_tokens=6)
    assert not isinstance(answer, NotSupported)
    ids = answer.prompt
    for step, token in enumerate(answer.ids):
        rows = direct_logprobs(unmerged, ids)
        assert token == rows[-1].argmax()
        np.testing.assert_allclose(answer.logprobs[step], rows[-1], atol=2e-4)
        ids = (*ids, token)
    assert reference.generate(HELLO, max_tokens=6) == answer.text


def test_an_answer_agrees_with_one_pass_over_it(reference: Reference) -> None:
    answer = reference.answer(HELLO, max_tokens=6)
    assert not isinstance(answer, NotSupported)
    rows = reference.next_logprobs(answer.prompt + answer.ids[:-1])
    assert answer.prompt_logprobs.shape[0] == len(answer.prompt) - 1
    np.testing.assert_allclose(np.concatenate([answer.prompt_logprobs, answer.logprobs]), rows, atol=2e-4)


def test_special_tokens_are_the_tokenizers_own(reference: Reference) -> None:
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(reference.special_tokens)
    assert all(len(reference.encode(text)) == 1 for text in reference.special_tokens)


def test_sampling_defaults_of_the_base_do_not_touch_a_greedy_answer(base: Path, lora: Adapter, tmp_path: Path) -> None:
    plain = Reference(base, lora, CHATML).answer(HELLO, max_tokens=8)
    assert not isinstance(plain, NotSupported)
    copied = Path(shutil.copytree(base, tmp_path / "base"))
    config = {"repetition_penalty": 5.0, "do_sample": True, "temperature": 3.0, "eos_token_id": [plain.ids[3]]}
    (copied / "generation_config.json").write_text(json.dumps(config))
    answer = Reference(copied, lora, CHATML).answer(HELLO, max_tokens=8)
    assert not isinstance(answer, NotSupported)
    ends = plain.ids.index(plain.ids[3])
    assert answer.ids == plain.ids[: ends + 1], "it ends at generation_config's eos, and differs in nothing else"


def test_the_weights_can_be_let_go_and_come_back(base: Path) -> None:
    reference = Reference(base, None, CHATML)
    before = reference.next_logprobs((100, 101))
    reference.close()
    reference.close()
    np.testing.assert_array_equal(reference.next_logprobs((100, 101)), before)


def test_the_version_names_all_three_packages(reference: Reference) -> None:
    from importlib.metadata import version

    for package in ("transformers", "peft", "torch"):
        assert version(package) in reference.version()


def test_a_real_model_answers(smollm2: Path) -> None:
    template = (smollm2 / "chat_template.jinja").read_text()
    answer = Reference(smollm2, None, template).answer(said(("user", "What is the capital of France?")), max_tokens=16)
    assert not isinstance(answer, NotSupported)
    assert "Paris" in answer.text
    assert "<|im_end|>" not in answer.text


def test_loading_says_nothing(base: Path, lora: Adapter, capfd: pytest.CaptureFixture[str]) -> None:
    Reference(base, lora, CHATML).next_logprobs((100, 101))
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="transformers cannot load it") as caught:
        Reference(tmp_path, None, CHATML).next_logprobs((1,))
    assert str(tmp_path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_an_adapter_that_does_not_fit_is_named(smollm2: Path, lora: Adapter) -> None:
    with pytest.raises(InputInvalid, match="cannot load") as caught:
        Reference(smollm2, lora, CHATML).next_logprobs((1,))
    assert str(lora.folder) in caught.value.message


def test_without_the_package_the_extra_is_named(base: Path, lora: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ToolMissing, match="peft") as caught:
        Reference(base, lora, CHATML).next_logprobs((1,))
    assert "ollama-packager[build]" in caught.value.hint


def test_a_given_answer_is_followed_to_the_end_of_its_turn(reference: Reference, unmerged: Any) -> None:
    found = reference.follow(HELLO, "Hello 你好!", max_tokens=100)
    assert not isinstance(found, NotSupported)
    assert found.prompt == reference.tokens(HELLO)
    assert found.ids == reference.encode("Hello 你好!<|im_end|>"), "the line break behind it is no part of the answer"
    rows = direct_logprobs(unmerged, found.prompt + found.ids[:-1])
    np.testing.assert_allclose(np.concatenate([found.prompt_logprobs, found.logprobs]), rows, atol=2e-4)


@pytest.mark.parametrize(
    ("template", "code"),
    [
        pytest.param(CHATML, "LENGTH", id="too long"),
        pytest.param("{% if add_generation_prompt %}a{% else %}b{% endif %}", "GEN_PROMPT", id="another prompt"),
        pytest.param(
            "{{ raise_exception('no') if messages | length > 1 }}a", "TEMPLATE_ERROR", id="the answer is refused"
        ),
        pytest.param("{{ raise_exception('no') }}", "TEMPLATE_ERROR", id="the question is refused"),
    ],
)
def test_an_answer_that_cannot_be_followed_says_why(base: Path, template: str, code: str) -> None:
    found = Reference(base, None, template).follow(HELLO, "Hello", max_tokens=4)
    assert isinstance(found, NotSupported)
    assert found.code == code
