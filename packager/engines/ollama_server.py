"""A real Ollama server: what is stored in it, putting models there, and the prompts it builds.

Everything goes through the JSON API, at the address OLLAMA_HOST names. A reply is never trusted to mean success: creating a
model succeeded when Ollama's last line says so, and what it stored is read back (`packager.stages.register`).

Source: ollama 0.34.0, server/routes.go, server/create.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from packager.artifacts import Message
from packager.codec import Json
from packager.engines.ollama_api import OllamaApi, OllamaRefused
from packager.engines.ollama_host import Host
from packager.engines.ollama_messages import chat_messages
from packager.engines.ollama_replies import StoredModel, read_chunk, read_show
from packager.errors import InputInvalid, OllamaFailed
from packager.events import Advanced, Emit, Noted, silent
from packager.formats.model_name import ModelName

NATIVE_TEMPLATES = (0, 30, 0)  # the first version that renders the GGUF's own Jinja
DEBUG_RENDER = (0, 11, 5)  # the first version that shows the prompt it builds
DEVELOPMENT = (0, 0, 0)  # what a build without a version calls itself
NOT_FOUND = 404

Name = ModelName | str
Options = Mapping[str, int | float]


class OllamaServer:
    """A server that has answered; made by `connect`.

    Attributes:
        url: Its address.
        version: What it calls itself, for example `0.34.0`.
    """

    def __init__(self, api: OllamaApi, version: str) -> None:
        self._api = api
        self.url = api.url
        self.version = version

    @classmethod
    def connect(
        cls, host: str | None = None, *, minimum: tuple[int, ...] = NATIVE_TEMPLATES, emit: Emit = silent
    ) -> OllamaServer:
        """Find the server at `host`, or where OLLAMA_HOST says, read as Ollama reads it.

        Args:
            host: A value as for OLLAMA_HOST.
            minimum: The oldest version that will do; `(0,)` takes any.
            emit: Gets a warning when what is sent would cross a network unencrypted.

        Raises:
            OllamaFailed: Nothing answers there, what answers is not Ollama, or it is too old.
        """
        where = Host.from_environment() if host is None else Host.parse(host)
        api = OllamaApi(where)
        if api.host.scheme == "http" and not api.host.is_loopback:
            text = f"Ollama at {api.url} is on another machine, and http is not encrypted: models and chats can be read"
            emit(Noted(stage="ollama", text=text, warning=True))
        version = api.get("/api/version").get("version")
        if not isinstance(version, str):
            raise OllamaFailed(
                f"what answers at {api.url} is not Ollama", hint="Set OLLAMA_HOST to where Ollama listens."
            )
        server = cls(api, version)
        server.require(minimum)
        return server

    @property
    def api(self) -> OllamaApi:
        """Its JSON interface, for the questions that only `engines.ollama_doors` asks."""
        return self._api

    def require(self, minimum: tuple[int, ...]) -> None:
        """Raise OllamaFailed, naming both versions, unless the server is at least that new."""
        if not at_least(self.version, minimum):
            wanted = ".".join(map(str, minimum))
            raise OllamaFailed(
                f"Ollama at {self.url} is version {self.version}, older than {wanted}", hint="Install a newer Ollama."
            )

    def find(self, name: Name) -> StoredModel | None:
        """Give what is stored under a name, None when there is nothing."""
        try:
            return read_show(str(name), self._api.send("POST", "/api/show", {"model": str(name)}))
        except OllamaRefused as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def show(self, name: Name) -> StoredModel:
        """Give what is stored under a name.

        Raises:
            OllamaFailed: Nothing is.
        """
        found = self.find(name)
        if found is None:
            raise OllamaFailed(f"{name}: Ollama at {self.url} has no such model", hint="See `ollama list`.")
        return found

    def exists(self, name: Name) -> bool:
        """Say whether a model of that name is stored; Ollama ignores the case of letters."""
        return self.find(name) is not None

    def blob_of(self, name: Name) -> str:
        """Give the digest of a stored model's weights. Raises OllamaFailed when there is no such model."""
        return self.show(name).blob_sha256

    @property
    def is_local(self) -> bool:
        """Whether it listens on this machine's loopback."""
        return self._api.host.is_loopback

    def loaded_context(self, name: Name) -> int | None:
        """Give the context, in tokens, that a model runs with now; None when it is not loaded or Ollama does not say."""
        listed = self._api.get("/api/ps").get("models")
        for entry in listed if isinstance(listed, list) else []:
            if isinstance(entry, dict) and ModelName.parse(str(entry.get("name"))).same_as(ModelName.parse(str(name))):
                tokens = entry.get("context_length")
                return tokens if isinstance(tokens, int) and tokens > 0 else None
        return None

    def upload(self, path: Path, sha256: str, emit: Emit = silent, *, stage: str = "register") -> bool:
        """Put a file into the store under its digest, unless it is there; says whether it was sent.

        Raises:
            InputInvalid: The file cannot be read.
            IntegrityMismatch: Its bytes are not those of the digest.
            OllamaFailed: The connection broke twice, or Ollama refused.
        """
        if self._api.has_blob(sha256):
            size = _size(path)
            emit(Advanced(stage=stage, done=size, total=size, unit="B", detail=path.name))
            return False
        self._api.upload(path, sha256, stage=stage, emit=emit)
        return True

    def create(
        self,
        name: Name,
        *,
        files: Mapping[str, str],
        parameters: Mapping[str, Json],
        license_text: str | None = None,
        template: str | None = None,
        emit: Emit = silent,
    ) -> tuple[str, ...]:
        """Make a model of uploaded files, and give the lines in which Ollama said what it did.

        Args:
            name: What to call it; an existing model of that name is replaced.
            files: File name to sha256 of a blob in the store.
            parameters: PARAMETER name to value; `stop` takes a list.
            license_text: The licence, None for none.
            template: A Go TEMPLATE, None for none.
            emit: Gets how far Ollama's own copy of the weights is.

        Raises:
            OllamaFailed: Ollama reported an error, or stopped without saying `success`.
        """
        body: dict[str, Json] = {
            "model": str(name),
            "files": {file: f"sha256:{sha256}" for file, sha256 in files.items()},
            "parameters": dict(parameters),
        }
        if license_text:
            body["license"] = license_text
        if template is not None:
            body["template"] = template
        said: list[str] = []
        for reply in self._api.stream("/api/create", body):
            status, done, total = (reply.get(key) for key in ("status", "completed", "total"))
            if isinstance(status, str) and said[-1:] != [status]:
                said.append(status)
            if isinstance(done, int) and isinstance(total, int):
                emit(Advanced(stage="register", done=done, total=total, unit="B", detail=str(status)))
        if said[-1:] != ["success"]:
            last = f"its last word was {said[-1]!r}" if said else "it said nothing"
            raise OllamaFailed(
                f"{name}: Ollama at {self.url} stopped before the model was made; {last}",
                hint="Look into Ollama's log; then run the command again.",
            )
        return tuple(said)

    def copy(self, source: Name, target: Name) -> None:
        """Give a stored model a second name, replacing what had it."""
        self._api.send("POST", "/api/copy", {"source": str(source), "destination": str(target)})

    def delete(self, name: Name) -> None:
        """Remove a name, and the blobs that no other name uses; a name that is not there is fine."""
        try:
            self._api.send("DELETE", "/api/delete", {"model": str(name)})
        except OllamaRefused as error:
            if error.status != NOT_FOUND:
                raise

    def render(
        self, name: Name, messages: tuple[Message, ...], *, tools: list[dict[str, Json]] | None = None
    ) -> str | None:
        """Give the prompt this server builds for a conversation, None where it does not show it.

        Raises:
            OllamaFailed: Ollama refused, for example because the template did, or died.
        """
        if not at_least(self.version, DEBUG_RENDER):
            return None
        # A server that does not know the field answers; one token of that is enough.
        body: dict[str, Json] = {"model": str(name), "messages": chat_messages(messages), "truncate": False}
        body |= {"options": {"num_predict": 1}, "_debug_render_only": True, "stream": False}
        body |= {"tools": tools} if tools else {}
        return read_chunk(self._api.send("POST", "/api/chat", body)).rendered


def at_least(version: str, minimum: tuple[int, ...]) -> bool:
    """Whether an Ollama that calls itself `version` is at least that new; a build without a version is."""
    found = [int(number) for number in re.findall(r"\d+", version.partition("-")[0])[:3]]
    numbers = tuple(found + [0] * (3 - len(found)))
    return numbers == DEVELOPMENT or numbers >= minimum


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputInvalid(f"{path}: cannot be read ({error.strerror})", hint="Build it again.") from error
