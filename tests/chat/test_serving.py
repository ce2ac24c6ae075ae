from __future__ import annotations

import pytest

from packager.chat import serving


def test_vllm_gets_the_template_and_plain_contents() -> None:
    assert serving.vllm_command("Qwen2ForCausalLM") == (
        "vllm serve hf --chat-template chat_template.jinja --chat-template-content-format string"
    )


@pytest.mark.parametrize("architecture", ["MistralForCausalLM", "MixtralForCausalLM"])
def test_vllm_keeps_to_the_jinja_tokenizer_for_mistral(architecture: str) -> None:
    assert serving.vllm_command(architecture).endswith(" --tokenizer-mode hf")


@pytest.mark.parametrize(("has_json", "template"), [(True, "lmdeploy.json"), (False, "hf")], ids=["json", "no json"])
def test_lmdeploy_always_gets_a_template(has_json: bool, template: str) -> None:
    assert serving.lmdeploy_command(has_json=has_json) == f"lmdeploy serve api_server hf --chat-template {template}"


def test_the_checkpoint_is_made_by_merge() -> None:
    assert serving.prepare_command("base", ("lora",)) == "packager merge base lora -o hf"
    assert serving.prepare_command("base", ("sft", "dpo")) == "packager merge base sft --adapter dpo -o hf"
    assert serving.prepare_command("my base", ()) == "packager merge 'my base' -o hf"
