"""Ollama's HTTP interface as bytes and JSON objects, where nothing the other side does becomes a traceback.

Every reply has a cap, as a whole and per line. Ollama reports some failures with status 200 and an `{"error": ...}` line in
the stream; those are errors here like any other. No token, cookie or name of the user is ever sent.

Unlike the `ollama` package this asks whether a blob is there before sending it, sends it with progress, tries once more when
the connection breaks, knows every field of `create`, and caps what it reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from packager.codec import Json
from packager.engines.ollama_host import Host
from packager.engines.ollama_upload import Upload
from packager.errors import IntegrityMismatch, OllamaFailed
from packager.events import Emit, Noted

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 900.0  # loading a large model from a slow disk says nothing for minutes
LINE_LIMIT_BYTES = 8 << 20  # a `show` reply carries licence, template and the GGUF's metadata in one line
REPLY_LIMIT_BYTES = 256 << 20
START_HINT = "Start it with `ollama serve`, or set OLLAMA_HOST to where it listens."


class OllamaApi:
    """One server's JSON interface; holds no connection between calls."""

    def __init__(self, host: Host) -> None:
        self.host = host.connectable()
        self.url = self.host.url

    def get(self, path: str) -> dict[str, Json]:
        """Give the JSON object at a path.

        Raises:
            OllamaFailed: No answer, a refusal, or no JSON object.
        """
        with self._request("GET", path) as response:
            return self._object(response, path)

    def send(self, method: str, path: str, body: dict[str, Json]) -> dict[str, Json]:
        """Send a JSON object and give the reply's; an empty reply is an empty object.

        Raises:
            OllamaFailed: No answer, a refusal (in band or by status), or no JSON object.
        """
        with self._request(method, path, json=body) as response:
            return self._object(response, path)

    def stream(self, path: str, body: dict[str, Json]) -> Iterator[dict[str, Json]]:
        """Send a JSON object and give the reply's lines as they come.

        Closing the iterator closes the connection, and with it stops what the server was doing.

        Raises:
            OllamaFailed: No answer, a refusal, a line that is an error, no JSON or too long, or a broken connection.
        """
        for line in self.lines(path, body):
            yield self.parsed(line, path)

    def lines(self, path: str, body: dict[str, Json]) -> Iterator[bytes]:
        """Send a JSON object and give the reply's lines as bytes, empty ones left out.

        Raises:
            OllamaFailed: As for `stream`, but for what a line says.
        """
        with self._request("POST", path, json=body) as response:
            yield from self._lines(response, path)

    def parsed(self, data: bytes, path: str) -> dict[str, Json]:
        """Give the JSON object that the server at `path` sent; one that reports an error is raised as OllamaRefused.

        Raises:
            OllamaFailed: It is no JSON object, or says that something failed.
        """
        return self._checked(self._json(data, path), path)

    def has_blob(self, sha256: str) -> bool:
        """Say whether the store has a blob of that name; Ollama does not look at its bytes."""
        with self._request("HEAD", _blob(sha256), refuse=False) as response:
            if response.status_code not in (200, 404):
                raise OllamaFailed(f"Ollama at {self.url} answered {response.status_code} when asked for a blob")
            return bool(response.status_code == 200)

    def upload(self, file: Path, sha256: str, *, stage: str, emit: Emit) -> None:
        """Send a file's bytes under their digest, once more from the start if the connection breaks.

        Raises:
            InputInvalid: The file cannot be read.
            IntegrityMismatch: The bytes are not those of the digest.
            OllamaFailed: The connection broke twice, or Ollama refused.
        """
        for attempt in (1, 2):
            progress = Upload(file, stage, emit)
            try:
                self._upload_once(progress, sha256)
            except _Broken as error:
                if attempt == 2:
                    raise OllamaFailed(
                        f"{file}: Ollama at {self.url} broke the connection after {progress.sent} of {progress.size} "
                        f"bytes, twice ({error})",
                        hint="Look into Ollama's log, and for room on the disk of its store; then run the command again.",
                    ) from error
                emit(Noted(stage=stage, text=f"{file.name}: the connection broke, sending it again", warning=True))
            else:
                return

    def _upload_once(self, progress: Upload, sha256: str) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(progress.size)}
        try:
            with self._request("POST", _blob(sha256), content=progress.chunks(), headers=headers):
                return
        except OllamaFailed as error:
            if "digest mismatch" in error.message:
                raise IntegrityMismatch(
                    f"{progress.file} does not have the sha256 {sha256} that was recorded for it",
                    hint="It was changed, or the disk is failing: build it again.",
                ) from error
            raise

    @contextmanager
    def _request(self, method: str, path: str, *, refuse: bool = True, **content: Json) -> Iterator[httpx.Response]:
        """Open a reply; what httpx raises, inside the block too, becomes an error of ours."""
        import httpx

        headers = {"Accept-Encoding": "identity", **content.pop("headers", {})}
        timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        secure = self.host.scheme == "https"  # certificates are read for https alone
        try:
            with (
                httpx.Client(timeout=timeout, trust_env=not self.host.is_loopback, verify=secure) as client,
                client.stream(method, f"{self.url}{path}", headers=headers, **content) as response,
            ):
                if refuse and not response.is_success:
                    self._refuse(response, path)
                yield response
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise OllamaFailed(f"OLLAMA_HOST: {self.url} is no address of a server", hint=START_HINT) from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise OllamaFailed(f"no Ollama answers at {self.url}", hint=START_HINT) from error
        except httpx.HTTPError as error:
            raise _Broken(
                f"Ollama at {self.url} broke off in {path}: {str(error) or type(error).__name__}",
                hint="Look into Ollama's log; then run the command again.",
            ) from error

    def _refuse(self, response: httpx.Response, path: str) -> None:
        body = b"".join(self._capped(response, path))
        try:
            reply = json.loads(body)
            reason = reply["error"] if isinstance(reply, dict) else ""
        except (ValueError, KeyError, RecursionError):
            reason = body[:200].decode(errors="replace")
        raise OllamaRefused(f"Ollama at {self.url} refused: {_one_line(reason)}", status=response.status_code)

    def _object(self, response: httpx.Response, path: str) -> dict[str, Json]:
        body = b"".join(self._capped(response, path))
        return self.parsed(body, path) if body.strip() else {}

    def _checked(self, reply: Json, path: str) -> dict[str, Json]:
        if not isinstance(reply, dict):
            raise OllamaFailed(f"Ollama at {self.url} answered {path} with something that is no JSON object")
        if "error" in reply:
            status = reply.get("status")
            raise OllamaRefused(
                f"Ollama at {self.url} failed: {_one_line(reply['error'])}",
                status=status if isinstance(status, int) else 500,
            )
        return reply

    def _json(self, data: bytes, path: str) -> Json:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise OllamaFailed(
                f"Ollama at {self.url} answered {path} with something that is no JSON",
                hint="Is something else listening there? See OLLAMA_HOST.",
            ) from error

    def _capped(self, response: httpx.Response, path: str) -> Iterator[bytes]:
        total = 0
        for chunk in response.iter_raw():
            total += len(chunk)
            if total > REPLY_LIMIT_BYTES:
                raise OllamaFailed(f"Ollama at {self.url} answered {path} with more than {REPLY_LIMIT_BYTES} bytes")
            yield chunk

    def _lines(self, response: httpx.Response, path: str) -> Iterator[bytes]:
        rest = b""
        for chunk in self._capped(response, path):
            *lines, rest = (rest + chunk).split(b"\n")
            if max(map(len, (*lines, rest))) > LINE_LIMIT_BYTES:
                raise OllamaFailed(f"Ollama at {self.url} answered {path} with a line of over {LINE_LIMIT_BYTES} bytes")
            yield from (line for line in lines if line.strip())
        if rest.strip():
            yield rest


class OllamaRefused(OllamaFailed):
    """Ollama answered, with an error. `status` is the HTTP status, or the one the error line carries."""

    def __init__(self, message: str, *, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class _Broken(OllamaFailed):
    """The connection was made and broke."""


def _blob(sha256: str) -> str:
    return f"/api/blobs/sha256:{sha256}"


def _one_line(reason: Json) -> str:
    """Give a server's words as one line of at most 500 characters, without control characters.

    llama-server's own errors arrive as JSON inside the text, those of the OpenAI endpoint as an object; of both, the message
    is taken.
    """
    text = str(reason.get("message", reason)) if isinstance(reason, dict) else str(reason)
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        text = str(json.loads(text)["error"]["message"])
    return "".join(character for character in " ".join(text.split()) if character.isprintable())[:500]
