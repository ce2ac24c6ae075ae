"""Every endpoint of a real Ollama with a real model: one answer, and probabilities that are llama.cpp's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from packager.artifacts import Conversation, Gguf, Message, Modelfile, OllamaParameters
from packager.engines.engine import NotSupported
from packager.engines.llama_cpp import Embedded
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.engines.ollama_answers import ServedAnswer
from packager.engines.ollama_doors import Door
from packager.formats.model_name import ModelName
from packager.stages.register import RegisterJob, register
from tests.engines.ollama_faults import Fault, faulty

NAME = "doors-test"
PROBE = Conversation(
    id="x", group="CORE", messages=(Message(role="user", content="Write the letter a six times, then <end>."),)
)


@pytest.fixture(scope="module")
def engine(ollama_url: str, chat_gguf: Gguf) -> Iterator[OllamaEngine]:
    """A model whose own parameters would punish what it says twice."""
    server = OllamaServer.connect(ollama_url)
    parameters = OllamaParameters(stop=("<|im_end|>",), num_ctx=2048, temperature=0.9, repeat_penalty=1.8, top_k=5)
    modelfile = Modelfile(gguf=chat_gguf.path.name, parameters=parameters, license_text=None)
    register(RegisterJob(gguf=chat_gguf, modelfile=modelfile, name=ModelName.parse(NAME), replace=True), server)
    yield OllamaEngine(server, NAME)
    server.delete(NAME)


@pytest.fixture(scope="module")
def file(chat_gguf: Gguf) -> Iterator[Embedded]:
    with Embedded(chat_gguf.path, context_tokens=512) as embedded:
        yield embedded


@pytest.fixture(scope="module")
def native(engine: OllamaEngine) -> ServedAnswer:
    """The native endpoint's answer, with the prompt in the cache as the other endpoints find it."""
    engine.through(Door.NATIVE, PROBE, max_tokens=12, top_logprobs=5)
    return answered(engine.through(Door.NATIVE, PROBE, max_tokens=12, top_logprobs=5))


def answered(found: ServedAnswer | NotSupported) -> ServedAnswer:
    assert isinstance(found, ServedAnswer)
    return found


@pytest.mark.parametrize("door", [Door.NATIVE_WHOLE, Door.OPENAI, Door.OPENAI_WHOLE], ids=lambda door: door.name)
def test_every_endpoint_gives_the_same_answer(engine: OllamaEngine, native: ServedAnswer, door: Door) -> None:
    found = answered(engine.through(door, PROBE, max_tokens=12, top_logprobs=5))
    assert native.content
    assert (found.content, found.thinking, found.end) == (native.content, "", "length")
    assert (found.prompt_tokens, found.answer_tokens) == (native.prompt_tokens, 12)
    assert [token.text for token in found.tokens] == [token.text for token in native.tokens]
    assert [len(token.top) for token in found.tokens] == [5] * len(native.tokens)
    top = [token.top[0].logprob for token in native.tokens]
    assert [token.top[0].logprob for token in found.tokens] == pytest.approx(top, abs=1e-3)


def test_endpoints_are_compared_under_the_models_own_penalties(engine: OllamaEngine, native: ServedAnswer) -> None:
    """The OpenAI endpoint has no field that switches repeat_penalty off; the proof's own answers do without it."""
    free = answered(engine.answer(PROBE, max_tokens=12))
    assert free.content != native.content


def test_an_answer_that_ends_says_so_and_counts_its_end(engine: OllamaEngine, file: Embedded) -> None:
    turns = (Message(role="system", content="Answer with one word."), Message(role="user", content="Say yes."))
    probe = Conversation(id="y", group="CORE", messages=turns)
    found = answered(engine.answer(probe, max_tokens=200, top_logprobs=20))
    ids = file.tokenize(found.content, add_special=False)
    assert found.end == "stop"
    assert (found.answer_tokens, len(found.tokens)) == (len(ids) + 1, len(ids))
    assert "".join(token.text for token in found.tokens) == found.content
    assert all(token.text == token.top[0].text for token in found.tokens)


def test_a_text_is_continued_with_the_models_own_distribution(engine: OllamaEngine, file: Embedded) -> None:
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHello! How can I"
    ids = file.tokenize(prompt, add_special=True)
    found = engine.next_token(prompt, tokens=len(ids))
    row = file.next_logprobs(ids, start=len(ids) - 1)[0]
    order = row.argsort()[::-1]
    assert not isinstance(found, NotSupported)
    assert len(found) == 20
    assert found[0].text == file.spoken[int(order[0])].decode()
    # Other kernels, and flash attention: see test_ollama.py, which compares with the same of both.
    assert found[0].logprob == pytest.approx(float(row[order[0]]), abs=0.1)


def test_the_end_of_an_answer_is_shown_although_it_has_no_text(engine: OllamaEngine, file: Embedded) -> None:
    prompt = (
        "<|im_start|>user\nThe capital of France?<|im_end|>\n<|im_start|>assistant\nThe capital of France is Paris."
    )
    ids = file.tokenize(prompt, add_special=True)
    found = engine.next_token(prompt, tokens=len(ids), top=3)
    assert not isinstance(found, NotSupported)
    assert found[0].text == ""
    assert file.spoken[int(file.next_logprobs(ids, start=len(ids) - 1)[0].argmax())] == b""


def test_a_text_of_another_length_is_another_prompt(engine: OllamaEngine) -> None:
    found = engine.next_token("Hello", tokens=2)
    assert isinstance(found, NotSupported)
    assert (found.code, found.detail) == ("OTHER_TOKENS", "it is 1 tokens in Ollama, 2 in the reference")


def test_a_prompt_longer_than_the_context_is_refused(engine: OllamaEngine) -> None:
    found = engine.next_token("word " * 4000, tokens=4000)
    assert isinstance(found, NotSupported)
    assert found.code == "CONTEXT_FULL"


@pytest.mark.parametrize(
    ("door", "top", "more"),
    [
        pytest.param(Door.NATIVE, 0, {"stream": True}, id="streamed"),
        pytest.param(Door.NATIVE_WHOLE, 5, {"stream": False, "logprobs": True, "top_logprobs": 5}, id="whole"),
    ],
)
def test_what_the_native_endpoint_is_asked(door: Door, top: int, more: dict[str, object]) -> None:
    last = {"message": {"content": "i"}, "done": True, "done_reason": "stop", "eval_count": 3}
    fault = Fault(lines={"/api/chat": [{"message": {"content": "H"}}, last]})
    if door is Door.NATIVE_WHOLE:
        fault = Fault(replies={"/api/chat": (200, last)})
    with faulty(fault) as url:
        found = OllamaEngine(OllamaServer.connect(url), "x").through(
            door, PROBE, max_tokens=7, top_logprobs=top, options={"seed": 7}
        )
    assert isinstance(found, ServedAnswer)
    assert (found.content, found.end, found.answer_tokens) == ("Hi" if door is Door.NATIVE else "i", "stop", 3)
    turns = [{"role": "user", "content": PROBE.messages[0].content}]
    options = {"seed": 7, "num_predict": 7}
    assert fault.bodies == [{"model": "x", "messages": turns, "options": options, "truncate": False} | more]
