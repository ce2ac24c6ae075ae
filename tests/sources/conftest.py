"""The hubs' tests: a hub on loopback, caches of their own, no waiting, and nobody else to talk to."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from packager.sources import hub_wire
from tests.hub_server import HubServer, running_hub

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Caches(SimpleNamespace):
    """Where the clients keep what they fetch."""

    hf: Path
    ms: Path


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Caches:
    """Empty caches for both clients, and no token of anybody."""
    from huggingface_hub import constants

    found = Caches(hf=tmp_path / "hf" / "hub", ms=tmp_path / "ms")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(found.hf))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "agents.json"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(found.ms))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the product would have slept, each time; it does not."""
    slept: list[float] = []
    monkeypatch.setattr(hub_wire, "time", SimpleNamespace(sleep=slept.append, time=time.time))
    return slept


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every host that is looked up or connected to and is not this one; doing so fails."""
    seen: list[str] = []
    look_up, connect = socket.getaddrinfo, socket.socket.connect

    def guarded_look_up(host: str | bytes | None, *args: object, **more: object) -> object:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name not in LOOPBACK:
            seen.append(name)
            raise socket.gaierror(f"{name} is not looked up in tests")
        return look_up(host, *args, **more)  # type: ignore[arg-type]

    def guarded_connect(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in LOOPBACK:
            seen.append(str(address[0]))
            raise OSError(f"{address[0]} is not connected to in tests")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    return seen


@pytest.fixture
def hub(caches: Caches, strangers: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A running hub that both clients are pointed at; at the end nobody else must have been talked to."""
    with running_hub() as server:
        point_at(server.url, monkeypatch)
        yield server
    assert strangers == []


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an address the endpoint of both clients, as HF_ENDPOINT and MODELSCOPE_ENDPOINT do at their start."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", url)
