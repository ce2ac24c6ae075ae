"""OLLAMA_HOST, against the tables of Ollama's own tests (envconfig/config_test.go, 0.34.0)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.engines.ollama_host import Host

# TestHost
HOSTS = {
    "empty": ("", "http://127.0.0.1:11434"),
    "only address": ("1.2.3.4", "http://1.2.3.4:11434"),
    "only port": (":1234", "http://:1234"),
    "address and port": ("1.2.3.4:1234", "http://1.2.3.4:1234"),
    "hostname": ("example.com", "http://example.com:11434"),
    "hostname and port": ("example.com:1234", "http://example.com:1234"),
    "zero port": (":0", "http://:0"),
    "too large port": (":66000", "http://:11434"),
    "too small port": (":-1", "http://:11434"),
    "ipv6 localhost": ("[::1]", "http://[::1]:11434"),
    "ipv6 world open": ("[::]", "http://[::]:11434"),
    "ipv6 no brackets": ("::1", "http://[::1]:11434"),
    "ipv6 + port": ("[::1]:1337", "http://[::1]:1337"),
    "extra space": (" 1.2.3.4 ", "http://1.2.3.4:11434"),
    "extra quotes": ('"1.2.3.4"', "http://1.2.3.4:11434"),
    "extra space+quotes": (' " 1.2.3.4 " ', "http://1.2.3.4:11434"),
    "extra single quotes": ("'1.2.3.4'", "http://1.2.3.4:11434"),
    "http": ("http://1.2.3.4", "http://1.2.3.4:80"),
    "http port": ("http://1.2.3.4:4321", "http://1.2.3.4:4321"),
    "https": ("https://1.2.3.4", "https://1.2.3.4:443"),
    "https port": ("https://1.2.3.4:4321", "https://1.2.3.4:4321"),
    "proxy path": ("https://example.com/ollama", "https://example.com:443/ollama"),
    "ollama.com": ("ollama.com", "https://ollama.com:443"),
    "port that is a word": ("example.com:http", "http://example.com:11434"),
    "huge port": (":99999999999999999999999999", "http://:11434"),
}
# TestConnectableHost, and the empty host that Go dials as this machine
CONNECTABLE = {
    "empty": ("", "http://127.0.0.1:11434"),
    "localhost and port": ("127.0.0.1:1234", "http://127.0.0.1:1234"),
    "ipv4 unspecified": ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104
    "ipv4 unspecified + port": ("0.0.0.0:1234", "http://127.0.0.1:1234"),
    "ipv6 unspecified": ("[::]", "http://[::1]:11434"),
    "ipv6 unspecified + port": ("[::]:1234", "http://[::1]:1234"),
    "ipv6 localhost + port": ("[::1]:1234", "http://[::1]:1234"),
    "specific address + port": ("192.168.1.5:8080", "http://192.168.1.5:8080"),
    "hostname": ("example.com", "http://example.com:11434"),
    "https unspecified + port": ("https://0.0.0.0:4321", "https://127.0.0.1:4321"),
    "only port": (":1234", "http://127.0.0.1:1234"),
}
LOOPBACK = {
    "default": ("", True),
    "v4": ("127.8.9.1", True),
    "v6": ("[::1]:1", True),
    "unspecified": ("0.0.0.0", True),  # noqa: S104
    "name": ("LocalHost:1234", True),
    "lan": ("192.168.1.5", False),
    "other name": ("example.com", False),
    "looks like it": ("localhost.example.com", False),
}


@pytest.mark.parametrize(("text", "url"), HOSTS.values(), ids=HOSTS)
def test_reads_as_ollama_does(text: str, url: str) -> None:
    assert Host.parse(text).url == url


@pytest.mark.parametrize(("text", "url"), CONNECTABLE.values(), ids=CONNECTABLE)
def test_connects_where_ollama_does(text: str, url: str) -> None:
    assert Host.parse(text).connectable().url == url


@pytest.mark.parametrize(("text", "expected"), LOOPBACK.values(), ids=LOOPBACK)
def test_knows_what_stays_on_this_machine(text: str, expected: bool) -> None:
    assert Host.parse(text).is_loopback is expected


def test_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "example.com:1")
    assert Host.from_environment().url == "http://example.com:1"
    monkeypatch.delenv("OLLAMA_HOST")
    assert Host.from_environment().url == "http://127.0.0.1:11434"


@given(st.text(max_size=40))
def test_every_text_has_a_meaning(text: str) -> None:
    host = Host.parse(text)
    assert host.port.lstrip("+-").isdigit()
    assert host.connectable().host
