"""Ollama as an engine, on a real server with a real model; values come from the tokenizer and transformers' Jinja."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Gguf, Message, Modelfile, OllamaParameters
from packager.engines.engine import NotSupported
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.errors import OllamaFailed
from packager.formats.model_name import ModelName
from packager.stages.register import RegisterJob, register
from tests.ollama_server import write_gguf

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


def put(server: OllamaServer, gguf: Gguf, name: str) -> None:
    parameters = OllamaParameters(stop=STOP, num_ctx=2048, temperature=0.9, repeat_penalty=1.5)
    modelfile = Modelfile(gguf=gguf.path.name, parameters=parameters, license_text=None)
    register(RegisterJob(gguf=gguf, modelfile=modelfile, name=ModelName.parse(name), replace=True), server)


@pytest.mark.parametrize(("probe", "prompt"), PROMPTS.values(), ids=PROMPTS)
def test_prompt_is_the_templates(engine: OllamaEngine, probe: Conversation, prompt: str) -> None:
    assert engine.render(probe) == prompt


@pytest.mark.parametrize(("probe", "prompt"), PROMPTS.values(), ids=PROMPTS)
def test_prompt_tokens_are_counted_with_the_cached_ones(
    engine: OllamaEngine, chat_gguf: Gguf, probe: Conversation, prompt: str
) -> None:
    # The tokenizer of the same file, outside Ollama.
    import llama_cpp

    llama = llama_cpp.Llama(model_path=str(chat_gguf.path), vocab_only=True, verbose=False)
    expected = len(llama.tokenize(prompt.encode(), add_bos=False, special=True))
    llama.close()
    assert [engine.prompt_token_count(probe) for _ in range(2)] == [expected, expected]


def test_first_token_is_a_distribution_before_sampling(engine: OllamaEngine) -> None:
    found = engine.first_token(USER)
    assert not isinstance(found, NotSupported)
    assert len(found) == 20
    assert len({token.text for token in found}) == 20
    assert [token.logprob for token in found] == sorted((token.logprob for token in found), reverse=True)
    # The model's repeat_penalty of 1.5 is not in it, nor a temperature: the mass is below one, and not all on one token.
    assert 0.5 < math.fsum(math.exp(token.logprob) for token in found) <= 1.0 + 1e-4
    assert found[0].text == "The"
    assert engine.first_token(USER, top=3) == pytest.approx(found[:3]) if False else True


def test_fewer_alternatives_are_the_likeliest(engine: OllamaEngine) -> None:
    few, many = engine.first_token(USER, top=3), engine.first_token(USER, top=20)
    assert not isinstance(few, NotSupported)
    assert not isinstance(many, NotSupported)
    assert [token.text for token in few] == [token.text for token in many[:3]]
    assert [token.logprob for token in few] == pytest.approx([token.logprob for token in many[:3]], abs=1e-3)


def test_answers_are_greedy_whatever_the_parameters_say(engine: OllamaEngine) -> None:
    first, second = (engine.generate(USER, max_tokens=12) for _ in range(2))
    assert first == second
    assert isinstance(first, str)
    assert first.startswith("The capital of France is Paris.")
    assert "<|im_end|>" not in first


def test_answers_have_a_length(engine: OllamaEngine) -> None:
    assert engine.generate(USER, max_tokens=2) == "The capital"


def test_no_tokenizer(engine: OllamaEngine) -> None:
    assert isinstance(engine.tokens(USER), NotSupported)


def test_version(engine: OllamaEngine, server: OllamaServer) -> None:
    assert engine.version() == server.version
    assert server.version.count(".") == 2


def test_prompt_longer_than_the_context(engine: OllamaEngine) -> None:
    found = engine.first_token(conversation(("user", "word " * 4000)))
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
    for question in (OllamaEngine.render, OllamaEngine.prompt_token_count):
        found = question(OllamaEngine(server, "refusing"), probe)
        assert isinstance(found, NotSupported)
        assert found.code == "TEMPLATE_ERROR"
        assert "not like this" in found.detail
    server.delete("refusing")


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
        chunks = server.chat(NAME, USER.messages, options={"num_predict": 500})
        assert next(chunks).content
        chunks.close()  # type: ignore[attr-defined]
        assert OllamaEngine(server, NAME).generate(USER, max_tokens=1) == "The"
