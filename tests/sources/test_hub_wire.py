from __future__ import annotations

import email.utils
import sys
import time

import httpx
import pytest

from packager.errors import HubFailed, ToolMissing
from packager.events import Event, Noted
from packager.sources.hub_wire import ATTEMPTS, WAIT_LIMIT_S, Patience, Wire, asked_wait_s, origin
from tests.hub_server import Fault, HubServer


def refused(status: int, headers: object) -> HubFailed:
    return HubFailed(f"refused with {status}")


def wire(endpoint: str, events: list[Event]) -> Wire:
    return Wire(endpoint=endpoint, headers={"Authorization": "Bearer secret"}, refusal=refused, emit=events.append)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"ratelimit": '"api";r=0;t=12'}, 13.0),
        ({"ratelimit": '"api";r=5;t=12'}, None),
        ({"retry-after": "2", "ratelimit": '"api";r=0;t=12'}, 2.0),
    ],
    ids=["nothing", "seconds", "words", "negative", "rate limit", "not used up", "both"],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], expected: float | None) -> None:
    assert asked_wait_s(headers) == expected


def test_a_date_is_a_wait_until_then() -> None:
    seconds = asked_wait_s({"retry-after": email.utils.formatdate(time.time() + 60, usegmt=True)})
    assert seconds is not None
    assert 55 <= seconds <= 61
    assert asked_wait_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0


def test_waits_double_and_end(naps: list[float]) -> None:
    patience = Patience(lambda event: None)
    for _ in range(ATTEMPTS - 1):
        patience.wait("x")
    with pytest.raises(HubFailed, match="x; gave up after 6 attempts"):
        patience.wait("x")
    assert naps == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_bytes_that_arrive_start_the_count_again_and_not_the_total(naps: list[float]) -> None:
    patience = Patience(lambda event: None)
    for _ in range(10):
        patience.wait("x", 60.0)
        patience.rewarded()
    with pytest.raises(HubFailed, match="waiting 1 s more is too long, the limit is 600 s in all"):
        patience.wait("x", 1.0)
    assert sum(naps) == WAIT_LIMIT_S


def test_the_token_stays_at_home(hub: HubServer) -> None:
    events: list[Event] = []
    hub.faults = [
        Fault(path="/home", status=302, headers={"Location": "/same"}),
        Fault(path="/same", status=302, headers={"Location": f"{hub.cdn_url}/away"}),
        Fault(path="/away", status=302, headers={"Location": f"{hub.url}/back"}),
        Fault(path="/back", status=204),
    ]
    with wire(hub.url, events) as client, client.get(f"{hub.url}/home") as response:
        assert response.status_code == 204
    sent = [(seen.path, seen.headers.get("authorization")) for seen in hub.requests]
    secret = "Bearer secret"
    assert sent == [("/home", secret), ("/same", secret), ("/away", None), ("/back", secret)]
    assert events == []


def test_a_refusal_of_the_hub_is_one_and_of_another_host_is_waited_for(hub: HubServer, naps: list[float]) -> None:
    with wire(hub.url, []) as client:
        with pytest.raises(HubFailed, match="refused with 404"), client.get(f"{hub.url}/none"):
            pass
        with pytest.raises(HubFailed, match=r"127\.0\.0\.1 answers 404; gave up"), client.get(f"{hub.cdn_url}/none"):
            pass


def test_a_token_over_an_open_network_is_said() -> None:
    events: list[Event] = []
    with wire("http://mirror.example", events):
        pass
    assert events == [Noted(stage="fetch", text="the token goes to http://mirror.example unencrypted", warning=True)]
    for endpoint in ("https://mirror.example", "http://127.0.0.1:8000"):
        with wire(endpoint, events):
            pass
    assert len(events) == 1


def test_a_redirect_out_of_tls_is_said() -> None:
    events: list[Event] = []
    with wire("https://hub.example", events) as client:
        assert client._follow("https://hub.example/a", "http://cdn.example/b") == "http://cdn.example/b"
    (event,) = events
    assert isinstance(event, Noted)
    assert "hub.example redirects to unencrypted http://cdn.example" in event.text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Hub.example/a", ("https", "hub.example", 443)),
        ("http://hub.example:80", ("http", "hub.example", 80)),
        ("https://hub.example:8443", ("https", "hub.example", 8443)),
        ("https://user@hub.example", ("https", "hub.example", 443)),
        ("https://hub.example:99999", ("", "", 0)),
        ("http://[::1", ("", "", 0)),
        ("file:///etc/passwd", ("file", "", 0)),
    ],
    ids=["case", "port", "other port", "user", "no port", "bracket", "file"],
)
def test_an_origin(url: str, expected: tuple[str, str, int]) -> None:
    assert origin(url) == expected


def test_a_socks_proxy_without_its_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(ToolMissing, match="socksio") as caught:
        wire("https://hub.example", [])
    assert "httpx[socks]" in caught.value.hint


@pytest.mark.parametrize("endpoint", ["http://hub.example:port", "http://[::1"], ids=["port", "bracket"])
def test_an_endpoint_that_is_no_address_is_one_line(endpoint: str) -> None:
    with pytest.raises(HubFailed, match="is no address"), wire(endpoint, []) as client, client.get(f"{endpoint}/x"):
        pass


def test_the_guard_of_these_tests_sees_a_stranger(strangers: list[str]) -> None:
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://192.0.2.1/", trust_env=False)
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://stranger.invalid/", trust_env=False)
    assert strangers == ["192.0.2.1", "stranger.invalid"]
