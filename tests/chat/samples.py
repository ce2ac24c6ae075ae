"""Small templates and tokenizers with one property each, for tests that need no real model."""

from __future__ import annotations

import json

from packager.artifacts import Conversation, Message
from packager.formats.tokenizer import NamedToken, SpecialToken, TokenizerFacts

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_WITH_DEFAULT = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}" + CHATML.removeprefix("{% for m in messages %}")
)
# As Llama 3.1: a date that training left to the template, and that llama.cpp passes.
DATED = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{{- 'Today: ' + date_string + '\n' }}" + CHATML
)
# As Llama 3.2: the date of the day, by a function that engines define.
CLOCKED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}{{- 'Today: ' + date_string + '\n' }}" + CHATML
)
# Two formats of the clock.
TWO_CLOCKS = (
    "{{- strftime_now('%Y-%m-%d') + ' ' + strftime_now('%d %b %Y') + ' ' + strftime_now('%H:%M') + '\n' }}" + CHATML
)
# As Qwen3: undefined and true build the same prompt.
THINKS_BY_DEFAULT = (
    CHATML + "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
)
# Undefined is false, but engines pass true.
THINKS_IF_TOLD = CHATML + "{% if enable_thinking %}<think>{% endif %}"
# A list that is None in transformers and undefined in llama.cpp.
ASKS_FOR_NONE = "{% if tools is not none %}TOOLS{% endif %}" + CHATML
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
TRIMS = CHATML.replace("m['content']", "m['content'] | trim")

HANGS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
HOSTILE = {
    "nested loops": HANGS,
    "string product": "{{ 'a' * 10**10 }}",
    "doubling": "{% set n = namespace(a='x') %}{% for i in range(40) %}{% set n.a = n.a + n.a %}{% endfor %}{{ n.a }}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "deep brackets": "{{ " + "(" * 5000 + " }}",
    "long output": "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
    "huge range": "{{ range(10**9) }}",
    "wide format": "{{ '%1000000000d' % 1 }}",
    "class of a string": "{{ ''.__class__.__mro__ }}",
    "globals of a function": "{{ cycler.__init__.__globals__.os.system('id') }}",
    "format to attributes": "{{ '{0.__class__.__mro__}'.format('') }}",
    "private namespace attribute": "{% set n = namespace(_x=1) %}",
}  # fmt: skip


def tokens(*, bos: str | None = None, eos: str | None = "<|im_end|>", adds_bos: bool = False) -> TokenizerFacts:
    """A tokenizer whose special tokens are ChatML's, and BOS if it has one."""
    texts = [text for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", bos) if text is not None]
    special = tuple(
        SpecialToken(text=text, id=number, special=True) for number, text in enumerate(dict.fromkeys(texts))
    )
    plain = SpecialToken(text="<think>", id=len(special), special=False)
    named = {"bos_token": bos, "eos_token": eos}
    return TokenizerFacts(
        bos_token=bos,
        eos_token=eos,
        unk_token=None,
        pad_token=None,
        named=tuple(NamedToken(name=name, text=text) for name, text in named.items() if text is not None),
        special=(*special, plain),
        vocabulary_size=len(special) + 1,
        adds_bos=adds_bos,
        chat_template=None,
    )


def conversation(*turns: tuple[str, str]) -> Conversation:
    """A conversation of (role, content) pairs."""
    return Conversation(
        id="test", group="USER", messages=tuple(Message(role=role, content=content) for role, content in turns)
    )


def openai(probe: Conversation) -> list[dict[str, object]]:
    """A conversation as transformers takes it."""
    return [openai_message(message) for message in probe.messages]


def openai_message(message: Message) -> dict[str, object]:
    """A message as transformers takes it, with every key that it knows and a value."""
    calls = [
        {
            "type": "function",
            "id": call.id,
            "function": {"name": call.name, "arguments": json.loads(call.arguments.text)},
        }
        for call in message.tool_calls
    ]
    more = {
        "reasoning_content": message.thinking, "tool_calls": calls, "name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }  # fmt: skip
    return {"role": message.role, "content": message.content} | {key: value for key, value in more.items() if value}


def openai_tools(probe: Conversation) -> list[dict[str, object]] | None:
    """The declared functions as transformers takes them."""
    return [json.loads(tool.text) for tool in probe.tools] or None
