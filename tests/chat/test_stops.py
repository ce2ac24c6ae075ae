from __future__ import annotations

import pytest

from packager.chat.render import Renderer
from packager.chat.stops import Stops, find_stops
from packager.formats.tokenizer import NO_TOKENS
from tests.chat import samples

END, START, TEXT = 2, 1, 0  # ids of <|im_end|>, <|im_start|>, <|endoftext|> in samples.tokens()


def stops_of(template: str, *, eos_ids: tuple[int, ...] = (), eos: str | None = None) -> Stops:
    facts = samples.tokens(eos=eos)
    with Renderer("template.jinja", facts) as renderer:
        return find_stops(renderer, template, facts, eos_ids)


@pytest.mark.parametrize(
    ("template", "eos_ids", "eos", "stops"),
    [
        (samples.CHATML, (), None, ("<|im_end|>",)),
        (samples.CHATML, (END,), "<|im_end|>", ("<|im_end|>",)),
        (samples.CHATML, (TEXT, END), "<|endoftext|>", ("<|im_end|>", "<|endoftext|>")),
        (samples.CHATML.replace("<|im_end|>", " <|im_end|>"), (), None, ("<|im_end|>",)),
        ("{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}", (), None, ("<|im_start|>",)),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", (TEXT,), None, ("<|endoftext|>",)),
        ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", (), "<|endoftext|>", ("<|endoftext|>",)),
    ],
    ids=[
        "template",
        "all agree",
        "end of turn first",
        "behind a blank",
        "next turn's header",
        "generation_config",
        "eos",
    ],
)
def test_stops_come_from_all_that_name_one(
    template: str, eos_ids: tuple[int, ...], eos: str | None, stops: tuple[str, ...]
) -> None:
    assert stops_of(template, eos_ids=eos_ids, eos=eos) == Stops(texts=stops, notes=())


@pytest.mark.parametrize(
    ("template", "eos_ids", "eos", "note"),
    [
        (samples.CHATML.replace("<|im_end|>", "###"), (), None, "'###\\n', which is no special token"),
        (samples.CHATML.replace("<|im_end|>", "<think>"), (), None, "which is no special token"),
        (samples.CHATML, (99,), None, "the end token 99 of generation_config is no special token"),
        (samples.CHATML, (3,), None, "the end token 3 of generation_config is no special token"),
        (samples.CHATML, (), "</s>", "eos_token '</s>' is no special token"),
    ],
    ids=["plain text", "added but not special", "unknown id", "id of plain text", "unknown eos"],
)
def test_what_is_no_special_token_is_a_note_and_no_stop(
    template: str, eos_ids: tuple[int, ...], eos: str | None, note: str
) -> None:
    found = stops_of(template, eos_ids=eos_ids, eos=eos)
    assert len(found.notes) == 1
    assert note in found.notes[0]
    assert set(found.texts) <= {"<|im_end|>"}


def test_a_template_that_refuses_the_assistant_names_no_stop() -> None:
    template = "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    assert stops_of(template) == Stops(texts=(), notes=())


def test_what_the_trainer_stops_at_comes_behind_the_end_of_a_turn() -> None:
    facts = samples.tokens(eos=None)
    with Renderer("template.jinja", facts) as renderer:
        found = find_stops(renderer, samples.CHATML, facts, (), named=("<|endoftext|>", "<|user|>", "<|im_end|>"))
    assert found.texts == ("<|im_end|>", "<|endoftext|>")
    assert found.notes == ("the trainer stops at '<|user|>', which is no special token of the tokenizer",)


def test_without_a_tokenizer_the_trainers_stops_are_given_and_not_checked() -> None:
    with Renderer("template.jinja", NO_TOKENS) as renderer:
        found = find_stops(renderer, samples.CHATML, NO_TOKENS, (), named=("<|im_end|>",))
    assert found.texts == ("<|im_end|>",)
    assert found.notes == ("there is no tokenizer here; whether a stop is one of its tokens: not checked",)
