from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import LmdeployForm, Message
from packager.chat.lmdeploy import Texts, assemble, assembled, lmdeploy_form
from packager.chat.probes import load_probes
from packager.chat.render import Renderer
from packager.formats.tokenizer import read_tokenizer
from tests.chat import samples

STOPS = ("<|im_end|>", "<|endoftext|>")
# The example of LMDeploy's own documentation, docs/en/advance/chat_template.md.
DOCUMENTED = Texts(
    system="<|im_start|>system\n",
    meta_instruction="You are a robot developed by LMDeploy.",
    eosys="<|im_end|>\n",
    user="<|im_start|>user\n",
    eoh="<|im_end|>\n",
    assistant="<|im_start|>assistant\n",
    eoa="<|im_end|>",
    separator="\n",
)


def form_of(template: str, *, bos: str | None = None, double_bos: bool = False) -> LmdeployForm:
    with Renderer("template.jinja", samples.tokens(bos=bos)) as renderer:
        return lmdeploy_form(
            lambda messages: renderer.render(template, messages), load_probes(), stops=STOPS, double_bos=double_bos
        )


def from_json(text: str) -> Texts:
    fields = json.loads(text)
    return Texts(**{name: fields[name] for name in Texts.__dataclass_fields__})


@pytest.mark.parametrize(
    ("turns", "prompt"),
    [
        (
            [("user", "Hi")],
            "<|im_start|>system\nYou are a robot developed by LMDeploy.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            [("system", "S"), ("user", "Hi")],
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C")],
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
            "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
    ids=["default system", "system", "two turns"],
)
def test_assembly_is_what_lmdeploy_documents(turns: list[tuple[str, str]], prompt: str) -> None:
    messages = tuple(Message(role=role, content=content) for role, content in turns)
    assert assemble(DOCUMENTED, messages) == prompt


def test_a_documented_template_is_found_again_from_its_prompts() -> None:
    found = lmdeploy_form(lambda messages: assemble(DOCUMENTED, messages), load_probes(), stops=STOPS, double_bos=False)
    assert found.json_text is not None
    assert from_json(found.json_text) == DOCUMENTED


def test_json_has_the_fields_lmdeploy_reads() -> None:
    found = form_of(samples.CHATML_WITH_DEFAULT)
    assert found == LmdeployForm(json_text=found.json_text)
    fields = json.loads(found.json_text or "")
    # lmdeploy 0.18.0, ChatTemplateConfig: from_json passes every key to it, so an unknown one is an error there
    known = {"model_name", "model_path", "system", "meta_instruction", "eosys", "user", "eoh", "assistant", "eoa", "tool",
             "eotool", "separator", "capability", "stop_words"}  # fmt: skip
    assert set(fields) <= known
    assert fields["model_name"] == "packager"
    assert fields["meta_instruction"] == "You help."
    assert fields["stop_words"] == list(STOPS)
    assert (fields["eoa"], fields["separator"]) == ("<|im_end|>", "\n")


@pytest.mark.parametrize(
    ("family", "meta_instruction"),
    [
        ("smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        ("qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    ],
)
def test_real_templates_that_have_a_form_get_it(
    family: str, meta_instruction: str, checkpoint_folder: Callable[[str], Path]
) -> None:
    facts = read_tokenizer(checkpoint_folder(family))
    template = facts.chat_template or ""
    with Renderer(family, facts) as renderer:
        found = lmdeploy_form(lambda m: renderer.render(template, m), load_probes(), stops=STOPS, double_bos=False)
        assert found.json_text is not None
        texts = from_json(found.json_text)
        assert texts == Texts(
            **{**{n: getattr(DOCUMENTED, n) for n in Texts.__dataclass_fields__}, "meta_instruction": meta_instruction}
        )
        for probe in load_probes():
            assert assemble(texts, probe.messages) == renderer.render(template, probe), probe.id


@pytest.mark.parametrize("family", ["qwen3", "llama3.1"])
def test_real_templates_without_a_default_system_block_get_a_reason(
    family: str, checkpoint_folder: Callable[[str], Path]
) -> None:
    facts = read_tokenizer(checkpoint_folder(family))
    template = facts.chat_template or ""
    with Renderer(family, facts) as renderer:
        found = lmdeploy_form(lambda m: renderer.render(template, m), load_probes(), stops=STOPS, double_bos=False)
    assert found.json_text is None
    assert found.code == "NO_DEFAULT_SYS"


def refusing(length: str, message: str) -> str:
    condition = "{% if messages | length " + length + " %}"
    return condition + "{{ raise_exception('" + message + "') }}{% endif %}" + EMPTY_SYSTEM


EMPTY_SYSTEM = samples.CHATML_WITH_DEFAULT.replace("You help.", "")
LOOP = "{% for m in messages %}"
COUNTS_TURNS = EMPTY_SYSTEM.replace(LOOP, LOOP + "{% if loop.index == 5 %}!{% endif %}")
DROPS_SYSTEMS = EMPTY_SYSTEM.replace(
    "{{ '<|im_start|>' + m['role']",
    "{% if m['role'] == 'system' %}{% continue %}{% endif %}{{ '<|im_start|>' + m['role']",
)


@pytest.mark.parametrize(
    ("template", "code", "reason"),
    [
        (samples.CHATML, "NO_DEFAULT_SYS", "without a system message the prompt begins with"),
        (samples.NO_SYSTEM, "SYS_MERGE", "System role not supported"),
        (DROPS_SYSTEMS, "SYS_MERGE", "drops, repeats or moves"),
        (EMPTY_SYSTEM + "{% if add_generation_prompt %}<think>\n{% endif %}", "GEN_PROMPT", "the prompt ends with"),
        (EMPTY_SYSTEM.replace("m['content']", "m['content'] | replace('{{', '((')"), "POSITION", "special-characters"),
        (COUNTS_TURNS, "POSITION", "three-turns"),
        (refusing("> 3", "long"), "SYS_MERGE", "long"),
        (refusing("> 5", "long"), "POSITION", "three-turns: the template refuses it (long)"),
        (refusing("== 1", "short"), "POSITION", "single user message (short)"),
    ],
    ids=["no default system", "refuses systems", "drops systems", "thinks in the prompt", "changes contents", "counts turns",
         "refuses four messages", "refuses six messages", "refuses one message"],
)  # fmt: skip
def test_the_rest_gets_a_reason_code_and_no_json(template: str, code: str, reason: str) -> None:
    found = form_of(template)
    assert (found.json_text, found.code) == (None, code)
    assert reason in found.reason


WITHOUT_ITS_BLANK = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ 'system: none\n' }}{% endif %}"
    "{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{{ 'assistant:' }}"
)


def test_a_prompt_that_ends_without_the_headers_blank_takes_a_class_of_lmdeploy_that_drops_it() -> None:
    found = form_of(WITHOUT_ITS_BLANK)
    texts = from_json(found.json_text or "")
    assert (texts.model_name, texts.eoh + texts.assistant) == ("vicuna", "\nassistant: ")
    with Renderer("template.jinja", samples.tokens()) as renderer:
        for probe in load_probes():
            expected = renderer.render(WITHOUT_ITS_BLANK, probe)
            assert assemble(texts, probe.messages) == expected == assembled(found.json_text or "", probe.messages)


def test_trimming_is_named_when_a_core_conversation_shows_it() -> None:
    template = samples.CHATML_WITH_DEFAULT.replace("m['content']", "m['content'] | trim")
    probe = samples.conversation(("user", " blanks "))
    core = type(probe)(id="edge", group="CORE", messages=probe.messages)
    with Renderer("template.jinja", samples.tokens()) as renderer:
        found = lmdeploy_form(lambda m: renderer.render(template, m), (core,), stops=STOPS, double_bos=False)
    assert (found.code, "edge" in found.reason) == ("TRIM", True)


def test_a_bos_that_only_the_tokenizer_adds_has_no_form() -> None:
    found = form_of(samples.CHATML_WITH_DEFAULT, bos="<s>", double_bos=True)
    assert (found.json_text, found.code) == (None, "BOS_DUP")


def test_a_bos_that_the_template_writes_is_part_of_the_system_text() -> None:
    found = form_of("{{ bos_token }}" + samples.CHATML_WITH_DEFAULT, bos="<s>")
    assert from_json(found.json_text or "").system == "<s><|im_start|>system\n"


def test_a_template_without_special_tokens_has_a_form_too() -> None:
    template = (
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ 'system: none\n' }}{% endif %}"
        "{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{{ 'assistant: ' }}"
    )
    found = form_of(template)
    texts = from_json(found.json_text or "")
    for probe in load_probes():
        with Renderer("template.jinja", samples.tokens()) as renderer:
            assert assemble(texts, probe.messages) == renderer.render(template, probe)
