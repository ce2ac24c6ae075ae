from __future__ import annotations

import pytest

from packager.artifacts import Message
from packager.engines.ollama_chat import talk
from packager.errors import OllamaFailed
from tests.engines.ollama_faults import Fault, faulty

HELLO = (Message(role="user", content="hello"),)


def test_gives_thinking_and_text_piece_by_piece_and_ends() -> None:
    trouble = Fault()
    trouble.lines["/api/chat"] = [
        {"message": {"role": "assistant", "thinking": "Hm."}},
        {"message": {"role": "assistant", "content": "Yes"}},
        {"message": {"role": "assistant", "content": "."}, "done": True},
    ]
    with faulty(trouble) as url:
        pieces = list(talk(url, "x", HELLO))
    assert [(piece.thinking, piece.content, piece.done) for piece in pieces] == [
        ("Hm.", "", False),
        ("", "Yes", False),
        ("", ".", True),
    ]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"error": "out of\nmemory"}], "refused: out of memory"),
        ([{"message": {"content": "no role"}}], "broke off"),
    ],
    ids=["in-band-error", "not-a-reply"],
)
def test_what_goes_wrong_is_one_line(lines: list[dict[str, object]], words: str) -> None:
    trouble = Fault()
    trouble.lines["/api/chat"] = lines
    with faulty(trouble) as url, pytest.raises(OllamaFailed, match=words) as raised:
        list(talk(url, "x", HELLO))
    assert url in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint


def test_nothing_answers() -> None:
    with pytest.raises(OllamaFailed, match="broke off"):
        list(talk("http://127.0.0.1:9", "x", HELLO))


def test_the_user_s_key_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "secret-key")
    trouble = Fault()
    trouble.lines["/api/chat"] = [{"message": {"role": "assistant", "content": "Yes"}, "done": True}]
    with faulty(trouble) as url:
        list(talk(url, "x", HELLO))
    assert trouble.headers
    assert "secret-key" not in str(trouble.headers)
