"""Requests to a hub that survive what networks do, and never take a token to another host.

Redirects are followed by hand: the token goes to the endpoint's own origin only, nothing but http and https is followed.
"""

from __future__ import annotations

import contextlib
import email.utils
import re
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from urllib.parse import urljoin, urlsplit

import httpx

from packager.errors import HubFailed, PackagerError, ToolMissing, UnsafeInput
from packager.events import Emit, Noted

STAGE = "fetch"
ATTEMPTS = 6  # in a row without a single byte
WAIT_LIMIT_S = 600.0  # all waiting of one fetch
_HOPS = 10
_LONGEST_BACKOFF_S = 16.0
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_LATER = "Run the same command again later; what is downloaded is kept."
_PASSING = (408, 429, 500, 502, 503, 504)
_PORTS = {"http": 80, "https": 443}
_RATE_LIMIT = re.compile(r"\bt=(\d{1,6})")

Refusal = Callable[[int, Mapping[str, str]], PackagerError]


class Unreachable(HubFailed):
    """The hub itself did not answer; a copy in a cache may still do."""


class Patience:
    """How often and how long one fetch waits before it gives up.

    Waits 1, 2, 4, 8, 16 seconds, or as long as the hub asks for, and says so every time.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._in_vain = 0
        self._waited_s = 0.0

    def rewarded(self) -> None:
        """Count from the start again: bytes have arrived."""
        self._in_vain = 0

    def wait(self, problem: str, asked_s: float | None = None) -> None:
        """Wait before the next attempt.

        Args:
            problem: What went wrong, for the line that is shown.
            asked_s: How long the hub asks to wait, None when it does not say.

        Raises:
            HubFailed: Too many attempts, or too much waiting.
        """
        self._in_vain += 1
        pause_s = min(_LONGEST_BACKOFF_S, 2.0 ** (self._in_vain - 1)) if asked_s is None else asked_s
        if self._in_vain >= ATTEMPTS:
            raise HubFailed(f"{problem}; gave up after {ATTEMPTS} attempts", hint=_LATER)
        if self._waited_s + pause_s > WAIT_LIMIT_S:
            limit = f"the limit is {WAIT_LIMIT_S:.0f} s in all"
            raise HubFailed(f"{problem}; waiting {pause_s:.0f} s more is too long, {limit}", hint=_LATER)
        self._waited_s += pause_s
        text = f"{problem}; trying again in {pause_s:.0f} s ({self._in_vain} of {ATTEMPTS - 1})"
        self._emit(Noted(stage=STAGE, text=text, warning=True))
        time.sleep(pause_s)


class Wire:
    """A client of one hub.

    Args:
        endpoint: The hub's own address; tokens go nowhere else.
        headers: What is sent to the endpoint only.
        refusal: Turns an answer of the endpoint that waiting does not change into an error.
        emit: Told of every wait.
    """

    def __init__(self, *, endpoint: str, headers: Mapping[str, str], refusal: Refusal, emit: Emit) -> None:
        self._endpoint = origin(endpoint)
        self._headers = dict(headers)
        self._refusal = refusal
        self._emit = emit
        self.patience = Patience(emit)
        try:
            self._client = httpx.Client(timeout=_TIMEOUT, follow_redirects=False)
        except ImportError as error:
            raise ToolMissing(
                "the proxy that is set is a SOCKS proxy, which needs the package socksio",
                hint="pip install 'httpx[socks]', or unset ALL_PROXY.",
            ) from error
        secret = {name.lower() for name in headers} & {"authorization", "cookie"}
        if secret and self._endpoint[0] == "http" and self._endpoint[1] not in ("127.0.0.1", "localhost", "::1"):
            self.warn(f"the token goes to {endpoint} unencrypted")

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    @contextlib.contextmanager
    def get(self, url: str, *, start: int = 0) -> Iterator[httpx.Response]:
        """Give the answer to a GET, its body still to be read, from byte `start` on if the server can.

        Raises:
            HubFailed: The hub refuses, or has answered that it cannot for too long.
            UnsafeInput: It redirects to something that is not http.
            httpx.TransportError: The connection failed.
        """
        while True:
            response = self._send(url, start)
            try:
                if response.status_code < 400:
                    yield response
                    return
                problem, asked_s = self._judge(response)
            finally:
                response.close()
            self.patience.wait(problem, asked_s)

    def _send(self, url: str, start: int) -> httpx.Response:
        for _ in range(_HOPS):
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
            if origin(url) == self._endpoint:
                headers |= self._headers
            try:
                request = self._client.build_request("GET", url, headers=headers)
            except httpx.InvalidURL as error:
                raise HubFailed(
                    f"{url[:100]!r} is no address ({error})", hint="Check the endpoint and the proxy."
                ) from error
            response = self._client.send(request, stream=True)
            if not response.has_redirect_location:
                return response
            response.close()
            url = self._follow(url, response.headers["location"])
        raise HubFailed(f"{urlsplit(url).netloc}: redirects {_HOPS} times and more", hint=_LATER)

    def _follow(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        scheme, host, _ = origin(target)
        if scheme not in _PORTS or not host:
            raise UnsafeInput(
                f"{urlsplit(url).netloc}: redirects to {target[:100]!r}; only http and https are followed",
                hint="Check HF_ENDPOINT or MODELSCOPE_ENDPOINT, and the proxy.",
            )
        if scheme == "http" and urlsplit(url).scheme == "https":
            self.warn(f"{urlsplit(url).netloc} redirects to unencrypted http://{host}")
        return target

    def _judge(self, response: httpx.Response) -> tuple[str, float | None]:
        """Give what is wrong and how long the server asks to wait, or raise when waiting does not help."""
        status, host = response.status_code, response.url.host
        ours = origin(str(response.url)) == self._endpoint
        if ours and status not in _PASSING:
            raise self._refusal(status, response.headers)
        return passing_problem(host, status), asked_wait_s(response.headers)

    def warn(self, text: str) -> None:
        """Show a line that the user may want to act on."""
        self._emit(Noted(stage=STAGE, text=text, warning=True))


def is_hiccup(error: Exception) -> bool:
    """Say whether a connection that was there broke, so that the next one may hold.

    By name: huggingface_hub 1 raises httpx's errors, 2 those of httpx2.
    """
    return type(error).__name__ in ("ReadError", "ReadTimeout", "WriteError", "WriteTimeout", "RemoteProtocolError")


def is_passing(status: int) -> bool:
    """Say whether an answer may be another one after some waiting."""
    return status in _PASSING


def passing_problem(host: str, status: int) -> str:
    """Give the words for an answer that may be another one later."""
    return f"{host} answers {status}{_reason(status)}"


def asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Give how many seconds a server asks to wait, None when it does not say.

    Source:
        RFC 9110, 10.2.3 (Retry-After, seconds or a date); draft-ietf-httpapi-ratelimit-headers (`RateLimit: "api";r=0;t=12`).
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    if text:
        with contextlib.suppress(ValueError):
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    limit = headers.get("ratelimit", "")
    found = _RATE_LIMIT.search(limit) if "r=0" in limit else None
    return float(found[1]) + 1 if found else None


def origin(url: str) -> tuple[str, str, int]:
    """Give scheme, host and port of an address; the port is 0 where a scheme has none; all are empty for no address."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:  # a bracket or a port that is none: nobody's address
        return "", "", 0
    return parts.scheme, (parts.hostname or "").lower(), port


def _reason(status: int) -> str:
    return {429: " (too many requests)", 503: " (busy)"}.get(status, "")
