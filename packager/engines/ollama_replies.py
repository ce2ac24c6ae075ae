"""Ollama's JSON replies as values: what it stored under a name, and the pieces of an answer.

Source: ollama 0.34.0, api/types.go (`ShowResponse`, `ChatResponse`, `GenerateResponse`, `Metrics`, `Logprob`), server/routes.go
(`GetModelInfo`, which formats parameters with Go's `%#v`) and server/images.go (`Model.String`, the Modelfile's order).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from packager.codec import Json
from packager.engines.engine import TokenLogprob
from packager.errors import OllamaFailed

NO_TEMPLATE = "{{ .Prompt }}"  # what Ollama shows for a model without a Go template of its own
Parameter = str | float

_LEAST_LOGPROB, _ROUNDED_UP = -1e4, 1e-3  # no float32 probability is below exp(-104); a sum may round to just above 1
_BLOB = re.compile(r"(?m)^FROM \"?(.*sha256-([0-9a-f]{64}))\"?$")
_ESCAPE = re.compile(r'\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|([abfnrtv\\"]))')
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A model as Ollama stored it.

    Attributes:
        name: The name that was asked for.
        blob_sha256: Digest of the weights' blob.
        template: The template Ollama says it will use: the GGUF's Jinja, or a Go template.
        template_source: Where it takes its prompt from: `renderer`, `template` (Go), `gguf` (the embedded Jinja), `none`.
        has_go_template: Whether a Go template is attached, used or not.
        renderer: Name of a built-in renderer that is used instead of any template, else None.
        parser: Name of a built-in parser of answers, else None.
        system: System prompt attached to it, empty when there is none.
        parameters: Name and values, sorted by name; the values of `stop` in their order.
        license_text: All licences, joined with a newline; empty when there is none.
        model_info: The GGUF's metadata with a scalar value, as text, sorted by key.
        blob_path: Where that blob is on the server's machine, as Ollama says; empty when it does not.
        adapted: Whether an adapter is added to the weights while they run.
        first_turns: How many turns stand in front of every conversation (MESSAGE).
    """

    name: str
    blob_sha256: str
    template: str
    template_source: str
    has_go_template: bool
    renderer: str | None
    parser: str | None
    system: str
    parameters: tuple[tuple[str, tuple[Parameter, ...]], ...]
    license_text: str
    model_info: tuple[tuple[str, str], ...]
    blob_path: str = ""
    adapted: bool = False
    first_turns: int = 0


@dataclass(frozen=True, kw_only=True)
class ChatChunk:
    """A piece of an answer.

    Attributes:
        content: Text of the answer.
        thinking: Text that the model's template marks as thinking.
        logprobs: For each token of the piece, the most likely tokens at its place, the likeliest first.
        spoken: The text of each of these tokens itself, together with what was held back before it.
        done: Whether this is the last piece; only that one has the counts.
        end: Why the answer ended: `stop`, or `length` where it was cut; empty where this Ollama does not say.
        prompt_tokens: Length of the prompt in tokens, those from the cache included.
        cached_tokens: How many of them came from the cache; None where this Ollama does not say.
        answer_tokens: Length of the answer in tokens, the one that ended it included.
        rendered: The prompt itself, where that was asked for and this Ollama can show it.
    """

    content: str
    thinking: str = ""
    logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    spoken: tuple[str, ...] = ()
    done: bool = False
    end: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    answer_tokens: int | None = None
    rendered: str | None = None


def read_show(name: str, reply: dict[str, Json]) -> StoredModel:
    """Read the reply of `/api/show`.

    Raises:
        OllamaFailed: The reply does not say which blob holds the weights.
    """
    modelfile = text_of(reply, "modelfile")
    blob = _BLOB.search(modelfile)
    if blob is None:
        raise OllamaFailed(
            f"{name}: Ollama does not say where its weights are", hint="Is it a model of a cloud service?"
        )
    template, system = text_of(reply, "template"), text_of(reply, "system")
    # Free texts could hold a line that looks like an instruction; licences are the last ones of the Modelfile.
    plain = modelfile.partition("\nLICENSE ")[0].replace(system or "\0", "")
    renderer, parser = _instruction(plain, "RENDERER"), _instruction(plain, "PARSER")
    has_go_template = _instruction(plain, "TEMPLATE") != NO_TEMPLATE
    if renderer is not None or parser is not None:
        source = "renderer"
    elif has_go_template and f"\nTEMPLATE {_quoted(template)}\n" in modelfile:
        source = "template"
    else:
        source = "none" if template == NO_TEMPLATE else "gguf"
    return StoredModel(
        name=name,
        blob_sha256=blob[2],
        template=template,
        template_source=source,
        has_go_template=has_go_template,
        renderer=renderer,
        parser=parser,
        system=system,
        parameters=_parameters(text_of(reply, "parameters")),
        license_text=text_of(reply, "license"),
        model_info=_scalars(reply.get("model_info")),
        blob_path=blob[1],
        adapted=_instruction(plain, "ADAPTER") is not None,
        first_turns=len(_objects(reply.get("messages"))),
    )


def read_chunk(reply: dict[str, Json]) -> ChatChunk:
    """Read one line of `/api/chat` or `/api/generate`; fields of an unexpected type count as absent."""
    message = reply.get("message")
    message = message if isinstance(message, dict) else {"content": reply.get("response")}
    debug = reply.get("_debug_info")
    rendered = debug.get("rendered_template") if isinstance(debug, dict) else None
    logprobs, spoken = read_logprobs(reply.get("logprobs"))
    return ChatChunk(
        content=text_of(message, "content"),
        thinking=text_of(message, "thinking"),
        logprobs=logprobs,
        spoken=spoken,
        done=reply.get("done") is True,
        end=text_of(reply, "done_reason"),
        prompt_tokens=count_of(reply, "prompt_eval_count"),
        cached_tokens=count_of(reply, "prompt_eval_cached_count"),
        answer_tokens=count_of(reply, "eval_count"),
        rendered=rendered if isinstance(rendered, str) else None,
    )


def read_logprobs(entries: Json) -> tuple[tuple[tuple[TokenLogprob, ...], ...], tuple[str, ...]]:
    """Read a list of `Logprob`: for each token the most likely ones at its place, and its own text."""
    found = _objects(entries)
    return tuple(_top(entry) for entry in found), tuple(text_of(entry, "token") for entry in found)


def unquote_go(text: str) -> str:
    """Give the text that Go printed with `%#v`: in double quotes with Go's escapes."""

    def replacement(match: re.Match[str]) -> str:
        number = match[1] or match[2] or match[3]
        return chr(int(number, 16)) if number else _ESCAPED[match[4]]

    return _ESCAPE.sub(replacement, text[1:-1])


def text_of(reply: dict[str, Json], key: str) -> str:
    """Give the text under a key; empty when there is none."""
    value = reply.get(key)
    return value if isinstance(value, str) else ""


def count_of(reply: dict[str, Json], key: str) -> int | None:
    """Give the whole number under a key; None when there is none."""
    value = reply.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _quoted(text: str) -> str:
    """Give a value as Ollama writes it into a Modelfile (`quote` of parser/parser.go)."""
    if "\n" not in text and text == text.strip(" "):
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def _instruction(modelfile: str, name: str) -> str | None:
    match = re.search(rf"(?m)^{name} (.*)$", modelfile)
    return match[1] if match else None


def _parameters(text: str) -> tuple[tuple[str, tuple[Parameter, ...]], ...]:
    found: dict[str, list[Parameter]] = {}
    for line in text.split("\n"):
        match = re.fullmatch(r"(\S+) +(\S.*)", line)
        if match is not None:
            found.setdefault(match[1], []).append(_parameter(match[2]))
    return tuple((name, tuple(values)) for name, values in sorted(found.items()))


def _parameter(text: str) -> Parameter:
    if text.startswith('"'):
        return unquote_go(text)
    try:
        return float(text)
    except ValueError:
        return text


def _top(entry: dict[str, Json]) -> tuple[TokenLogprob, ...]:
    found = tuple(
        TokenLogprob(text=token["token"], logprob=float(token["logprob"]))
        for token in (_objects(entry.get("top_logprobs")) or [entry])
        if isinstance(token.get("token"), str) and _is_logprob(token.get("logprob"))
    )
    return tuple(sorted(found, key=lambda token: -token.logprob))


def _is_logprob(value: Json) -> bool:
    """Whether a value is the logarithm of a probability above 0; llama-server writes the lowest float for one of 0."""
    return isinstance(value, int | float) and _LEAST_LOGPROB < value <= _ROUNDED_UP


def _scalars(info: Json) -> tuple[tuple[str, str], ...]:
    entries = info.items() if isinstance(info, dict) else ()
    return tuple(sorted((key, str(value)) for key, value in entries if isinstance(value, str | int | float)))


def _objects(value: Json) -> list[dict[str, Json]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
