"""Names in Ollama: the grammar's table, laws, and the real server's own judgement of the same names."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.errors import Usage
from packager.formats.model_name import ModelName

# Text, and what types/model/name_test.go and DisplayShortest of ollama 0.34.0 make of it.
READ = {
    "plain": ("packy", ("registry.ollama.ai", "library", "packy", "latest"), "packy:latest"),
    "tag": ("packy:q8_0", ("registry.ollama.ai", "library", "packy", "q8_0"), "packy:q8_0"),
    "namespace": ("me/packy:v1.2", ("registry.ollama.ai", "me", "packy", "v1.2"), "me/packy:v1.2"),
    "host": ("example.com/me/packy", ("example.com", "me", "packy", "latest"), "example.com/me/packy:latest"),
    "port": ("localhost:5000/me/packy", ("localhost:5000", "me", "packy", "latest"), "localhost:5000/me/packy:latest"),
    "scheme": ("https://example.com/me/packy:x", ("example.com", "me", "packy", "x"), "example.com/me/packy:x"),
    "defaults written out": (
        "registry.ollama.ai/library/packy:latest",
        ("registry.ollama.ai", "library", "packy", "latest"),
        "packy:latest",
    ),
    "dots and dashes": ("_Qwen2.5-0.5B_x", ("registry.ollama.ai", "library", "_Qwen2.5-0.5B_x", "latest"), None),
    "longest": ("m" * 80 + ":" + "t" * 80, ("registry.ollama.ai", "library", "m" * 80, "t" * 80), None),
}
REFUSED = {
    "empty": "",
    "blank": " ",
    "space": "a b",
    "leading dot": ".packy",
    "leading dash": "-packy",
    "tag is a path": "packy:../../x",
    "path": "../packy",
    "absolute": "/packy",
    "trailing slash": "packy/",
    "empty tag": "packy:",
    "empty model": ":q8_0",
    "empty namespace": "example.com//packy",
    "dot in namespace": "my.name/packy",
    "too long": "m" * 81,
    "tag too long": "m:" + "t" * 81,
    "digest": "packy@sha256:" + "0" * 64,
    "chinese": "模型",
    "accent": "pàcky",
    "newline": "packy\n",
    "nul": "packy\0",
    "backslash": "me\\packy",
    "plus": "packy+1",
    "five parts": "a/b/c/d:e",
}
PLACES = {"cloud": "packy:cloud", "local": "packy:LOCAL", "suffix": "packy:q8-Cloud", "model": "me/packy:local"}


@pytest.mark.parametrize(("text", "parts", "shortest"), READ.values(), ids=READ)
def test_reads_as_ollama_does(text: str, parts: tuple[str, ...], shortest: str | None) -> None:
    name = ModelName.parse(text)
    assert (name.host, name.namespace, name.model, name.tag) == parts
    if shortest is not None:
        assert str(name) == shortest


@pytest.mark.parametrize("text", [*REFUSED.values(), *PLACES.values()], ids=[*REFUSED, *PLACES])
def test_refuses_with_the_rule(text: str) -> None:
    with pytest.raises(Usage) as caught:
        ModelName.parse(text)
    assert repr(text) in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_with_tag() -> None:
    assert str(ModelName.parse("me/packy").with_tag("q4_k_m")) == "me/packy:q4_k_m"
    with pytest.raises(Usage, match="tag"):
        ModelName.parse("packy").with_tag("a b")


def test_case_does_not_make_another_model() -> None:
    assert ModelName.parse("Packy:Q8_0").same_as(ModelName.parse("packy:q8_0"))
    assert not ModelName.parse("packy").same_as(ModelName.parse("packy2"))


PART = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,20}", fullmatch=True).filter(
    lambda text: text.lower() not in ("cloud", "local") and not text.lower().endswith("-cloud")
)


@given(PART, PART, PART, PART)
def test_the_shortest_form_reads_back(host: str, namespace: str, model: str, tag: str) -> None:
    name = ModelName.parse(f"{host}/{namespace}/{model}:{tag}")
    assert ModelName.parse(str(name)) == name


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except Usage:
        return
    assert not {".", "..", ""} & {name.namespace, name.model, name.tag}
    assert not set("/\\\0\n ") & set(name.host + name.namespace + name.model + name.tag)


@pytest.mark.parametrize("text", [case[0] for case in READ.values()], ids=READ)
def test_the_real_server_accepts_the_same(ollama_url: str, text: str) -> None:
    # A name that Ollama accepts gets as far as the missing blob.
    assert "digest" in _create_error(ollama_url, text)


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_the_real_server_refuses_the_same(ollama_url: str, text: str) -> None:
    assert "invalid model name" in _create_error(ollama_url, text)


@pytest.mark.parametrize("text", PLACES.values(), ids=PLACES)
def test_a_tag_that_means_a_place_is_lost_on_the_real_server(ollama_url: str, text: str) -> None:
    assert "digest" in _create_error(ollama_url, text)  # `create` accepts it ...
    reply = httpx.post(f"{ollama_url}/api/show", json={"model": text}, trust_env=False)
    # ... and every other call looks for another name, or in a cloud (which the server of these tests must not do).
    assert "cloud is disabled" in reply.text or f"'{text.rpartition(':')[0]}:latest' not found" in reply.text


def _create_error(url: str, name: str) -> str:
    body = {"model": name, "files": {"x.gguf": "sha256:not-a-digest"}, "stream": False}
    return str(httpx.post(f"{url}/api/create", json=body, trust_env=False).json()["error"])
