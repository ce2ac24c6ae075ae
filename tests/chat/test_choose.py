from __future__ import annotations

from pathlib import Path

import pytest

from packager.artifacts import Adapter, Checkpoint, Dtype, Sampling
from packager.chat.choose import TEMPLATE_LIMIT_BYTES, Original, choose_original
from packager.chat.probes import load_probes
from packager.errors import InputInvalid, PackagerError, UnsafeInput, Unsupported
from tests.chat import samples


def base(template: str | None) -> Checkpoint:
    return Checkpoint(
        folder=Path("models/base"), name="base", architecture="LlamaForCausalLM", dtype=Dtype.BFLOAT16, hidden_size=64,
        layers=2, vocab_size=100, context_tokens=None, ties_embeddings=True, eos_token_ids=(), sampling=Sampling(),
        chat_template=template, license_id=None, license_file=None, tensors=(),
    )  # fmt: skip


def adapter(template: str | None) -> Adapter:
    return Adapter(folder=Path("models/lora"), name="lora", base_name=None, pairs=(), chat_template=template)


def choose(of_base: str | None, of_adapter: Adapter | None, file: Path | None = None) -> Original:
    return choose_original(base(of_base), of_adapter, file, samples.tokens(), load_probes())


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
    assert choose(of_base, of_adapter) == Original(source=f"the {source}'s chat template", text=text)


@pytest.mark.parametrize(
    ("of_adapter", "difference"),
    [
        (samples.CHATML_WITH_DEFAULT, "conversation user, character 12: "),
        (samples.TRIMS, "conversation whitespace, character "),
        (samples.NO_SYSTEM, "conversation system-user, which the first refuses (System role not supported)"),
        (samples.CHATML + "!", "conversation user, character "),
    ],
    ids=["default system", "trims", "refuses", "longer"],
)
def test_two_templates_that_disagree_stop_the_build_with_the_first_difference(of_adapter: str, difference: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        choose(samples.CHATML, adapter(of_adapter))
    assert caught.value.exit_code == 3
    assert "the adapter's chat template and the base's chat template build different prompts" in caught.value.message
    assert difference in caught.value.message
    assert "--template FILE" in caught.value.hint


def test_the_difference_shows_both_texts() -> None:
    with pytest.raises(InputInvalid, match=r"user\\nWhat is the capital.*against|system\\nYou help"):
        choose(samples.CHATML, adapter(samples.CHATML_WITH_DEFAULT))


def test_a_base_that_refuses_what_the_adapter_takes_is_a_difference() -> None:
    with pytest.raises(InputInvalid, match="which the second refuses"):
        choose(samples.NO_SYSTEM, adapter(samples.CHATML))


def test_the_named_file_decides_a_disagreement(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(samples.TRIMS, encoding="utf-8")
    found = choose(samples.CHATML, adapter(samples.CHATML_WITH_DEFAULT), path)
    assert found == Original(source="the file mine.jinja", text=samples.TRIMS)


@pytest.mark.parametrize("of_adapter", [None, adapter(None)], ids=["base alone", "base and adapter"])
def test_no_template_anywhere_is_unsupported(of_adapter: Adapter | None) -> None:
    with pytest.raises(Unsupported, match="no chat template") as caught:
        choose(None, of_adapter)
    assert caught.value.exit_code == 12
    assert "--template FILE" in caught.value.hint
    assert "models/base" in caught.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xff", "not UTF-8"),
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"x" * (TEMPLATE_LIMIT_BYTES + 1), "a chat template has at most"),
    ],
    ids=["missing", "not utf-8", "empty", "blank", "too long"],
)
def test_a_file_that_is_no_template_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mine.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputInvalid, match=message) as caught:
        choose(None, None, path)
    assert str(path) in caught.value.message


def test_newlines_of_a_file_are_kept_and_its_mark_is_not(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert choose(None, None, path).text == "a\r\nb\n"


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
