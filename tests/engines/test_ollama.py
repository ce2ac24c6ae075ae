"""Ollama as an engine, on a real server with a real model; values come from the tokenizer and transformers' Jinja."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from packager.artifacts import Conversation, Gguf, Message, Modelfile, OllamaParameters
from packager.engines.engine import NotSupported, TokenLogprob
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.errors import OllamaFailed
from packager.formats.model_name import ModelName
from packager.stages.register import RegisterJob, register
from tests.ollama_server import write_gguf

if TYPE_CHECKING:
    import numpy as np
    from llama_cpp import Llama
    from numpy.typing import NDArray

NAME = "engine-test:q4_k_m"
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
STOP = ("<|im_end|>",)


def conversation(*turns: tuple[str, str]) -> Conversation:
    return Conversation(id="x", group="CORE", messages=tuple(Message(role=role, content=text) for role, text in turns))


USER = conversation(("user", "What is the capital of France?"))
# The prompt that SmolLM2's own template gives, written out by hand.
PROMPTS = {
    "user": (
        USER,
        f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "system": (
        conversation(("system", "Be brief."), ("user", "Hi")),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "turns": (
        conversation(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", " c \n")),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\n c \n<|im_end|>\n<|im_start|>assistant\n",
    ),
    "two users": (
        conversation(("system", "S"), ("user", "a"), ("user", "b")),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "chinese and emoji": (
        conversation(("system", "用户\u3000您好"), ("user", "👩\u200d👧\u200b <b>&")),
        "<|im_start|>system\n用户\u3000您好<|im_end|>\n<|im_start|>user\n👩\u200d👧\u200b <b>&<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
}


@pytest.fixture(scope="module")
def server(ollama_url: str, chat_gguf: Gguf) -> Iterator[OllamaServer]:
    server = OllamaServer.connect(ollama_url)
    put(server, chat_gguf, NAME)
    yield server
    server.delete(NAME)


@pytest.fixture(scope="module")
def engine(server: OllamaServer) -> OllamaEngine:
    return OllamaEngine(server, NAME)


@pytest.fixture(scope="module")
def library(chat_gguf: Gguf) -> Iterator[Llama]:
    """The same file in llama.cpp, without Ollama."""
    import llama_cpp

    # Ollama turns flash attention on; without it this model's probabilities differ by up to 0.3 nats.
    llama = llama_cpp.Llama(model_path=str(chat_gguf.path), n_ctx=512, flash_attn=True, verbose=False)
    yield llama
    llama.close()


def put(server: OllamaServer, gguf: Gguf, name: str) -> None:
    parameters = OllamaParameters(stop=STOP, num_ctx=2048, temperature=0.9, repeat_penalty=1.5)
    modelfile = Modelfile(gguf=gguf.path.name, parameters=parameters, license_text=None)
    register(RegisterJob(gguf=gguf, modelfile=modelfile, name=ModelName.parse(name), replace=True), server)


def first(engine: OllamaEngine, probe: Conversation, top: int = 20) -> tuple[TokenLogprob, ...] | NotSupported:
    found = engine.answer(probe, max_tokens=1, top_logprobs=top)
    return found if isinstance(found, NotSupported) else found.tokens[0].top


@pytest.mark.parametrize(("probe", "prompt"), PROMPTS.values(), ids=PROMPTS)
def test_prompt_is_the_templates(engine: OllamaEngine, probe: Conversation, prompt: str) -> None:
    assert engine.render(probe) == prompt


@pytest.mark.parametrize(("probe", "prompt"), PROMPTS.values(), ids=PROMPTS)
def test_prompt_tokens_are_counted_with_the_cached_ones(
    engine: OllamaEngine, library: Llama, probe: Conversation, prompt: str
) -> None:
    expected = len(library.tokenize(prompt.encode(), add_bos=False, special=True))
    assert [engine.prompt_token_count(probe) for _ in range(2)] == [expected, expected]


def test_first_token_is_the_models_own_distribution(engine: OllamaEngine, library: Llama) -> None:
    # The model's parameters ask for a temperature and a repeat_penalty; neither may be in it.
    found = first(engine, USER)
    assert not isinstance(found, NotSupported)
    logprobs = _next_logprobs(library, PROMPTS["user"][1])
    order = logprobs.argsort()[::-1][:20]
    expected = {library.detokenize([int(token)]).decode(): float(logprobs[token]) for token in order}
    assert len(found) == 20
    assert found[0].text == next(iter(expected))
    assert {token.text: token.logprob for token in found} == pytest.approx(expected, abs=0.005)


def test_fewer_alternatives_are_the_likeliest(engine: OllamaEngine) -> None:
    few, many = first(engine, USER, top=3), first(engine, USER, top=20)
    assert not isinstance(few, NotSupported)
    assert not isinstance(many, NotSupported)
    assert [token.text for token in few] == [token.text for token in many[:3]]
    assert [token.logprob for token in few] == pytest.approx([token.logprob for token in many[:3]], abs=1e-3)


def test_answers_are_greedy_whatever_the_parameters_say(engine: OllamaEngine, library: Llama) -> None:
    ids = library.tokenize(PROMPTS["user"][1].encode(), add_bos=False, special=True)
    expected = library.create_completion(ids, max_tokens=8, temperature=0.0, repeat_penalty=1.0)["choices"][0]["text"]
    assert [engine.generate(USER, max_tokens=8) for _ in range(2)] == [expected, expected]


def test_an_answer_ends_with_the_turn_and_without_its_mark(engine: OllamaEngine) -> None:
    probe = conversation(("system", "Answer with one word."), ("user", "Say yes."))
    answer = engine.generate(probe, max_tokens=200)
    assert isinstance(answer, str)
    assert answer
    assert "<|" not in answer


def test_no_tokenizer(engine: OllamaEngine) -> None:
    assert isinstance(engine.tokens(USER), NotSupported)


def test_version(engine: OllamaEngine, server: OllamaServer) -> None:
    assert engine.version() == server.version
    assert server.version.count(".") == 2


def test_prompt_longer_than_the_context(engine: OllamaEngine) -> None:
    found = first(engine, conversation(("user", "word " * 4000)))
    assert isinstance(found, NotSupported)
    assert found.code == "CONTEXT_FULL"
    assert "2048" in found.detail


def test_model_that_is_not_there(server: OllamaServer) -> None:
    with pytest.raises(OllamaFailed, match="not found"):
        OllamaEngine(server, "nobody").render(USER)


@pytest.mark.parametrize(
    ("refusal", "probe"),
    [
        ("messages[0]['content'] == 'boom'", conversation(("user", "boom"))),
        ("messages|length > 1", conversation(("user", "a"), ("assistant", "b"), ("user", "c"))),
    ],
    ids=["this conversation", "every conversation of two turns"],
)
def test_template_that_refuses(server: OllamaServer, tmp_path: Path, refusal: str, probe: Conversation) -> None:
    # The second one does not even load: llama-server tries the template on conversations of its own.
    text = "{% if " + refusal + " %}{{ raise_exception('not like this') }}{% endif %}"
    text += "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
    put(server, write_gguf(tmp_path / "refusing.gguf", text), "refusing")
    found = OllamaEngine(server, "refusing").render(probe)
    assert isinstance(found, NotSupported)
    assert found.code == "TEMPLATE_ERROR"
    assert "not like this" in found.detail
    server.delete("refusing")


def _next_logprobs(library: Llama, prompt: str) -> NDArray[np.float32]:
    import llama_cpp
    import numpy as np

    library.reset()
    library.eval(library.tokenize(prompt.encode(), add_bos=False, special=True))
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(library.ctx), shape=(library.n_vocab(),)).astype("f8")
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


class TestServer:
    def test_show(self, server: OllamaServer, chat_gguf: Gguf) -> None:
        stored = server.show(NAME)
        assert stored.blob_sha256 == chat_gguf.sha256
        assert stored.parameters == (
            ("num_ctx", (2048.0,)),
            ("repeat_penalty", (1.5,)),
            ("stop", STOP),
            ("temperature", (0.9,)),
        )
        assert ("general.architecture", "llama") in stored.model_info

    def test_copy_and_delete(self, server: OllamaServer) -> None:
        server.copy(NAME, "engine-copy")
        assert server.blob_of("engine-copy:latest") == server.blob_of(NAME)
        server.delete("engine-copy")
        assert not server.exists("engine-copy")
        server.delete("engine-copy")
        assert server.exists(ModelName.parse(NAME))

    def test_case_makes_no_other_name(self, server: OllamaServer) -> None:
        assert server.exists(NAME.upper())

    def test_upload_is_skipped_for_what_is_there(self, server: OllamaServer, chat_gguf: Gguf) -> None:
        assert server.upload(chat_gguf.path, chat_gguf.sha256) is False

    def test_upload_under_a_wrong_digest(self, server: OllamaServer, tmp_path: Path) -> None:
        from packager.errors import IntegrityMismatch

        (tmp_path / "x.gguf").write_bytes(b"GGUF")
        with pytest.raises(IntegrityMismatch, match=r"x\.gguf"):
            server.upload(tmp_path / "x.gguf", "0" * 64)

    def test_create_from_rubbish(self, server: OllamaServer, tmp_path: Path) -> None:
        import hashlib

        (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
        sha256 = hashlib.sha256(b"GGUF" + bytes(100)).hexdigest()
        server.upload(tmp_path / "x.gguf", sha256)
        with pytest.raises(OllamaFailed):
            server.create("rubbish", files={"x.gguf": sha256}, parameters={})
        assert not server.exists("rubbish")

    def test_answer_can_be_stopped(self, server: OllamaServer) -> None:
        turns = [{"role": "user", "content": "What is the capital of France?"}]
        body = {"model": NAME, "messages": turns, "options": {"num_predict": 500}}
        chunks = server.api.stream("/api/chat", body)
        assert next(chunks)["message"]["content"]
        chunks.close()  # type: ignore[attr-defined]
        assert OllamaEngine(server, NAME).prompt_token_count(USER)  # the server is free again
