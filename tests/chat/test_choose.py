from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from packager.artifacts import Adapter, AdapterStep, Checkpoint, Dtype, Sampling
from packager.chat.choose import choose_original
from packager.chat.originals import Original
from packager.chat.probes import load_probes
from packager.chat.render import Renderer
from packager.errors import InputInvalid, PackagerError, UnsafeInput, Unsupported
from packager.named_templates import find_template, template_text
from tests.chat import samples


def base(template: str | None) -> Checkpoint:
    return Checkpoint(
        folder=Path("models/base"), name="base", architecture="LlamaForCausalLM", dtype=Dtype.BFLOAT16, hidden_size=64,
        layers=2, vocab_size=100, context_tokens=None, ties_embeddings=True, eos_token_ids=(), sampling=Sampling(),
        chat_template=template, license_id=None, license_file=None, tensors=(),
    )  # fmt: skip


def adapter(template: str | None, folder: Path = Path("models/lora")) -> Adapter:
    return Adapter(steps=(AdapterStep(folder=folder),), name="lora", base_name=None, updates=(), chat_template=template)


def choose(of_base: str | None, of_adapter: Adapter | None, named: str | None = None) -> Original:
    return choose_original(base(of_base), of_adapter, named, samples.tokens(), load_probes())


SAME_PROMPTS = samples.CHATML.replace("m['role']", "m.role")


@pytest.mark.parametrize(
    ("of_base", "of_adapter", "source", "text"),
    [
        (samples.CHATML, None, "base", samples.CHATML),
        (samples.CHATML, adapter(None), "base", samples.CHATML),
        (None, adapter(samples.CHATML), "adapter", samples.CHATML),
        (samples.CHATML, adapter(samples.CHATML), "adapter", samples.CHATML),
        (samples.CHATML, adapter(SAME_PROMPTS), "adapter", SAME_PROMPTS),
        (samples.CLOCKED, adapter(samples.CLOCKED + "{# c #}"), "adapter", samples.CLOCKED + "{# c #}"),
        (samples.NO_SYSTEM, adapter(samples.NO_SYSTEM.replace("not supported", "is no good")), "adapter",
         samples.NO_SYSTEM.replace("not supported", "is no good")),
    ],
    ids=["base alone", "adapter has none", "adapter alone", "same text", "same prompts", "same day", "both refuse"],
)  # fmt: skip
def test_the_template_of_training_is_chosen(
    of_base: str | None, of_adapter: Adapter | None, source: str, text: str
) -> None:
    place = {"base": "models/base", "adapter": "models/lora"}[source]
    assert choose(of_base, of_adapter) == Original(source=f"the {source}'s chat template", text=text, choice=place)


def test_the_choice_of_several_adapters_is_the_folder_that_has_the_template(tmp_path: Path) -> None:
    first, last = tmp_path / "sft", tmp_path / "dpo"
    for folder in (first, last):
        folder.mkdir()
    (first / "chat_template.jinja").write_text(samples.CHATML)
    both = replace(adapter(samples.CHATML), steps=(AdapterStep(folder=first), AdapterStep(folder=last)))

    assert choose(None, both).choice == str(first / "chat_template.jinja")


@pytest.mark.parametrize(
    ("of_adapter", "difference"),
    [
        (samples.CHATML_WITH_DEFAULT, "conversation user"),
        (samples.TRIMS, "conversation whitespace"),
        (samples.NO_SYSTEM, "conversation system-user, which the first refuses (System role not supported)"),
        (samples.CHATML + "!", "conversation user"),
    ],
    ids=["default system", "trims", "refuses", "longer"],
)
def test_two_templates_that_disagree_stop_the_build_with_the_first_difference(of_adapter: str, difference: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        choose(samples.CHATML, adapter(of_adapter))
    assert caught.value.exit_code == 3
    wanted = "the adapter's chat template and the base's chat template build different prompts: " + difference
    assert caught.value.message == wanted
    assert caught.value.hint == (
        "Say which one the model was trained with: --template models/lora or --template models/base."
    )


def test_the_difference_shows_both_prompts_whole() -> None:
    with pytest.raises(InputInvalid) as caught:
        choose(samples.CHATML, adapter(samples.CHATML_WITH_DEFAULT))
    assert caught.value.lines == (
        "--- the adapter's chat template",
        "+++ the base's chat template",
        "@@ -1,5 +1,3 @@",
        "-<|im_start|>system\\n",
        "-You help.<|im_end|>\\n",
        " <|im_start|>user\\n",
        " What is the capital of France?<|im_end|>\\n",
        " <|im_start|>assistant\\n",
    )


def test_a_long_difference_is_cut() -> None:
    with pytest.raises(InputInvalid) as caught:
        choose(samples.CHATML, adapter("{% for i in range(99) %}line\n{% endfor %}" + samples.CHATML))
    assert caught.value.lines[-1] == "..."
    assert len(caught.value.lines) < 70


def test_a_base_that_refuses_what_the_adapter_takes_is_a_difference() -> None:
    with pytest.raises(InputInvalid, match="which the second refuses"):
        choose(samples.NO_SYSTEM, adapter(samples.CHATML))


def test_the_named_file_decides_a_disagreement(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(samples.TRIMS, encoding="utf-8")
    found = choose(samples.CHATML, adapter(samples.CHATML_WITH_DEFAULT), str(path))
    assert found == Original(source="the file mine.jinja", text=samples.TRIMS, choice=str(path))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The output folder of a training run, with a blank in its path."""
    folder = tmp_path / "my run"
    folder.mkdir()
    return folder


def trained(run: Path, config: str, *, saved: str | None = None, name: str = "training_args.yaml") -> Adapter:
    """An adapter whose trainer left a configuration, and as trainers do the base's template."""
    (run / name).write_text(config)
    if saved is not None:
        (run / "chat_template.jinja").write_text(saved)
    return adapter(saved, run)


def test_a_trainers_template_is_chosen_where_nothing_else_is(run: Path) -> None:
    found = choose(None, trained(run, "template: qwen\n"))
    assert found.source == "LLaMA-Factory's template qwen (training_args.yaml)"
    assert (found.text, found.choice) == (template_text(find_template("qwen")), "llamafactory:qwen")
    assert found.stops == ("<|im_end|>",)


def test_a_trainers_template_comes_before_the_bases(run: Path) -> None:
    found = choose(samples.CHATML, trained(run, "template: chatml\n"))
    assert found.source == "LLaMA-Factory's template chatml (training_args.yaml)"


def test_the_adapters_template_comes_before_the_trainers_and_odd_differences_are_noted(run: Path) -> None:
    found = choose(samples.CHATML, trained(run, "template: chatml\n", saved=samples.CHATML))
    assert (found.source, found.text) == ("the adapter's chat template", samples.CHATML)
    assert found.stops == ("<|im_end|>",)
    (note,) = found.notes
    assert note.startswith(
        "LLaMA-Factory's template chatml (training_args.yaml) builds other prompts than the adapter's chat "
        "template for empty-system"
    )
    assert note.endswith("; --template llamafactory:chatml chooses it")


def test_a_trainers_configuration_that_disagrees_with_the_saved_template_stops_the_build(run: Path) -> None:
    with pytest.raises(InputInvalid) as caught:
        choose(samples.CHATML, trained(run, "template: qwen\n", saved=samples.CHATML))
    assert caught.value.message == (
        "LLaMA-Factory's template qwen (training_args.yaml) and the adapter's chat template build different "
        "prompts: conversation user"
    )
    assert "-You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n" in caught.value.lines
    assert caught.value.hint == (
        f"Say which one the model was trained with: --template '{run}/chat_template.jinja' or --template llamafactory:qwen. "
        "With most templates LLaMA-Factory saves the base's in its folder, not the one it trains with."
    )


def test_three_different_templates_are_three_choices(run: Path) -> None:
    config = "prompt_template = PROMPT_TEMPLATE.llama3_chat\n"
    with pytest.raises(InputInvalid) as caught:
        choose(samples.CHATML, trained(run, config, saved=samples.CHATML_WITH_DEFAULT, name="xtuner_config.py"))
    assert caught.value.message.startswith("XTuner's template llama3_chat (xtuner_config.py) and the adapter's")
    assert (
        "--template xtuner:llama3_chat or --template models/base. With most templates XTuner saves" in caught.value.hint
    )


def test_a_full_fine_tunes_own_folder_is_looked_at(run: Path) -> None:
    (run / "training_args.yaml").write_text("template: qwen\n")
    with pytest.raises(InputInvalid, match="and the base's chat template build different prompts"):
        choose_original(replace(base(samples.CHATML), folder=run), None, None, samples.tokens(), load_probes())


def test_what_the_configuration_changes_is_in_the_template_and_in_the_choice(run: Path) -> None:
    config = 'template: qwen\ndefault_system: |-\n  Say "yes" \\ {{ no }} %}\n  twice\nenable_thinking: false\n'
    found = choose(None, trained(run, config))
    with Renderer("test", samples.tokens()) as renderer:
        prompt = renderer.render(found.text, samples.conversation(("user", "Hi")))
    assert prompt == (
        '<|im_start|>system\nSay "yes" \\ {{ no }} %}\ntwice<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
    )
    assert found.source.endswith("qwen with its own default_system (training_args.yaml)")
    assert found.choice == f"'{run}/training_args.yaml'"
    assert choose(samples.CHATML, adapter(None), f"{run}/training_args.yaml").text == found.text


def test_thinking_that_was_switched_off_stays_off(run: Path) -> None:
    found = choose(None, trained(run, "template: qwen3\nenable_thinking: false\n"))
    with Renderer("test", samples.tokens()) as renderer:
        prompt = renderer.render(found.text, samples.conversation(("user", "Hi")))
    assert str(prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_trainers_template_that_is_none_of_ours_stops_the_build(run: Path) -> None:
    with pytest.raises(
        Unsupported, match="trained with its template minimax2, which is none of the named ones"
    ) as caught:
        choose(samples.CHATML, trained(run, "template: minimax2\n", saved=samples.CHATML))
    assert str(run / "training_args.yaml") in caught.value.message
    assert choose(samples.CHATML, trained(run, "template: minimax2\n"), "chatml").source == "the named template chatml"


@pytest.mark.parametrize("of_adapter", [None, adapter(None)], ids=["base alone", "base and adapter"])
def test_no_template_anywhere_is_unsupported(of_adapter: Adapter | None) -> None:
    with pytest.raises(Unsupported, match="no chat template") as caught:
        choose(None, of_adapter)
    assert caught.value.exit_code == 12
    assert "--template FILE|NAME" in caught.value.hint
    assert "models/base" in caught.value.message


@pytest.mark.parametrize(
    ("of_base", "of_adapter", "named", "error"),
    [
        (samples.HOSTILE["string product"], samples.CHATML, "the base's chat template", UnsafeInput),
        (samples.CHATML, samples.HOSTILE["string product"], "the adapter's chat template", UnsafeInput),
        (samples.CHATML, "{% if %}", "the adapter's chat template", InputInvalid),
    ],
    ids=["hostile base", "hostile adapter", "adapter is no jinja"],
)
def test_the_bad_one_of_two_is_named(of_base: str, of_adapter: str, named: str, error: type[PackagerError]) -> None:
    with pytest.raises(error, match=named):
        choose(of_base, adapter(of_adapter))
