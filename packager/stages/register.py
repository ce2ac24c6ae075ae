"""Put a GGUF file into Ollama under a name, and read back what Ollama made of it.

The model is made under a name beside the wanted one, looked at, and only then given its name: a name never stands for a
model that Ollama changed behind our back, and a model that is replaced is there until the new one is known to be right.

Two things can be changed silently, both checked: the bytes (`create` rewrites a GGUF whose layout differs from what
`llama-quantize ... COPY` writes) and the template (a Go template is attached when the GGUF's Jinja resembles a known one:
reason code AUTODETECT; a built-in renderer is forced for a few architectures: RENDERER_FORCED).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields

from packager.artifacts import Gguf, Modelfile, OllamaParameters, Registered
from packager.codec import Json
from packager.engines.ollama import OllamaServer
from packager.engines.ollama_replies import Parameter, StoredModel
from packager.errors import InputInvalid, OllamaFailed
from packager.events import Emit, Noted, StageFinished, StageStarted, silent
from packager.formats.model_name import ModelName

STAGE = "register"
_BESIDE = ".unchecked"


@dataclass(frozen=True, kw_only=True)
class RegisterJob:
    """What to put into Ollama.

    Attributes:
        gguf: The weights, with the chat template inside.
        modelfile: Parameters and licence; its `gguf` is not used.
        name: The full name, tag included.
        replace: Whether a different model of that name may be replaced.
    """

    gguf: Gguf
    modelfile: Modelfile
    name: ModelName
    replace: bool


def register(job: RegisterJob, server: OllamaServer, *, emit: Emit = silent) -> Registered:
    """Register a model, or find that it is registered exactly so already; give what Ollama stored.

    Raises:
        OllamaFailed: The name is taken, Ollama refused or died, or it attached a template of its own. A name that was
            taken still has what it had.
        InputInvalid: The GGUF file cannot be read.
        IntegrityMismatch: The GGUF file is not the one that was recorded.
    """
    started = time.monotonic()
    emit(StageStarted(stage=STAGE, title=f"register {job.name} in Ollama {server.version}"))
    stored = server.find(job.name)
    reused = stored is not None and _holds(stored, job)
    if not reused:
        if stored is not None and not job.replace:
            raise _taken(job.name)
        _make(job, server, emit)
    result = read_back(job.name, job.gguf, server)
    if not result.same_bytes:
        text = f"Ollama stored {job.name} with other bytes than {job.gguf.path.name}: sha256 {result.blob_sha256}"
        emit(Noted(stage=STAGE, text=text, warning=True))
    emit(StageFinished(stage=STAGE, seconds=time.monotonic() - started, reused=reused))
    return result


def read_back(name: ModelName, gguf: Gguf, server: OllamaServer) -> Registered:
    """Give what Ollama has stored under a name, as it compares with a GGUF file.

    Raises:
        OllamaFailed: There is no such model.
    """
    stored = server.show(name)
    return Registered(
        name=str(name),
        quant=gguf.quant,
        blob_sha256=stored.blob_sha256,
        same_bytes=stored.blob_sha256 == gguf.sha256,
        template_source=stored.template_source,
    )


def refuse_taken_name(name: ModelName, server: OllamaServer, *, replace: bool, ours: tuple[str, ...] = ()) -> None:
    """Stop before work starts when registering would stop after it.

    Args:
        name: The full name, tag included.
        server: Where.
        replace: Whether a different model may be replaced.
        ours: Digests of GGUF files that an earlier run made for that name.

    Raises:
        OllamaFailed: The name is taken by something else.
    """
    stored = None if replace else server.find(name)
    if stored is not None and stored.blob_sha256 not in ours:
        raise _taken(name)


def _make(job: RegisterJob, server: OllamaServer, emit: Emit) -> None:
    """Upload, create beside the wanted name, look, and only then give the name."""
    server.upload(job.gguf.path, job.gguf.sha256, emit)
    beside = job.name.with_tag(job.name.tag[: 80 - len(_BESIDE)] + _BESIDE)
    try:
        said = server.create(
            beside,
            files={job.gguf.path.name: job.gguf.sha256},
            parameters=_parameters(job.modelfile.parameters),
            license_text=job.modelfile.license_text,
            emit=emit,
        )
        _require_own_template(server.show(beside), job, said)
        server.copy(beside, job.name)
    finally:
        _tidy(beside, server)


def _tidy(beside: ModelName, server: OllamaServer) -> None:
    """Remove the name beside; where Ollama has died, its death is the error to report, and a later run removes it."""
    try:
        server.delete(beside)
    except OllamaFailed:
        return


def _require_own_template(stored: StoredModel, job: RegisterJob, said: tuple[str, ...]) -> None:
    """Refuse a model that Ollama would not prompt with the template inside the GGUF."""
    file = job.gguf.path.name
    if stored.renderer is not None or stored.parser is not None:
        raise OllamaFailed(
            f"{job.name}: Ollama forces its built-in renderer {stored.renderer or stored.parser!r} on {file} "
            "and ignores its chat template (RENDERER_FORCED)",
            hint="Serve this architecture with another engine; see docs/templates.md.",
        )
    if stored.has_go_template:
        known = next((line.rpartition(" ")[2] for line in said if line.startswith("using autodetected")), "another")
        raise OllamaFailed(
            f"{job.name}: Ollama attached its Go template {known!r} to {file}, because the file's chat template "
            "resembles one that it knows (AUTODETECT)",
            hint="Build the GGUF with packager: its template header keeps Ollama from doing this.",
        )
    if stored.template_source == "none":
        raise InputInvalid(
            f"{job.gguf.path}: Ollama finds no chat template in it", hint="Build it again, with --template FILE."
        )


def _holds(stored: StoredModel, job: RegisterJob) -> bool:
    """Say whether a stored model is already what the job asks for."""
    wanted = tuple(sorted((name, _as_shown(value)) for name, value in _parameters(job.modelfile.parameters).items()))
    return (
        stored.blob_sha256 == job.gguf.sha256
        and stored.template_source == "gguf"
        and not stored.has_go_template
        and not stored.system
        and stored.parameters == wanted
        and stored.license_text == (job.modelfile.license_text or "")
    )


def _parameters(parameters: OllamaParameters) -> dict[str, Json]:
    """Give the PARAMETER values that are set, by name; `stop` as a list."""
    values = {field.name: getattr(parameters, field.name) for field in fields(parameters)}
    values["stop"] = list(parameters.stop) or None
    return {name: value for name, value in values.items() if value is not None}


def _as_shown(value: Json) -> tuple[Parameter, ...]:
    """Give a parameter's values as Ollama shows them: every number is a float to it."""
    return tuple(value) if isinstance(value, list) else (float(value),)


def _taken(name: ModelName) -> OllamaFailed:
    return OllamaFailed(
        f"{name} exists in Ollama already, and is another model", hint="Pass --replace, or another --name."
    )
