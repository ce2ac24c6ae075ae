"""What `packager template` is pointed at: a checkpoint, a GGUF, a template file, a named template, or a model in Ollama."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packager.artifacts import Conversation
from packager.chat.choose import choose_original
from packager.chat.originals import named_original, read_template
from packager.engines.ollama import OllamaServer
from packager.errors import InputInvalid, Unsupported
from packager.events import Emit
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.formats.gguf import GgufArray, GgufHeader, read_gguf
from packager.formats.model_name import ModelName
from packager.formats.tokenizer import NO_TOKENS, NamedToken, SpecialToken, TokenizerFacts, read_tokenizer
from packager.named_templates import has_trainer, is_template_name
from packager.sources.trainer_config import is_trainer_config

_NAMED = ("bos", "eos", "unknown", "padding")
_JINJA_NAMES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_CONTROL = 3  # llama.h, LLAMA_TOKEN_TYPE_CONTROL


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A chat template and where it was found.

    Attributes:
        source: Where, in words a user knows.
        text: The template as it stands there.
        tokens: The tokenizer beside it; `NO_TOKENS` for a template without one.
        folder: The Hugging Face folder that the tokenizer is in, None when there is none.
        stops: Text of the tokens that the template's trainer stops at.
        notes: What was found on the way and stops nothing.
        model: The name of the model in Ollama that it was found in, None elsewhere.
    """

    source: str
    text: str
    tokens: TokenizerFacts
    folder: Path | None = None
    stops: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: str | None = None


def read_subject(
    name: str,
    adapter: Path | None,
    *,
    template_file: str | None,
    probes: tuple[Conversation, ...],
    emit: Emit,
) -> Subject:
    """Find a template.

    Args:
        name: A checkpoint's folder, a `.gguf` file, a template file or a trainer's configuration, the name of a template in the
            index, or that of a model in Ollama. Where two of these exist, the first in this order is meant: `mistral` is the
            named template, and `mistral:latest` the model; `llamafactory:` and `xtuner:` always mean the index.
        adapter: The adapter of a checkpoint.
        template_file: What decides for a checkpoint, as typed behind `--template`.
        probes: Where the base's and the adapter's template must agree.
        emit: Gets a warning when Ollama is on another machine.

    Raises:
        InputInvalid: There is no such thing, or it is damaged.
        Unsupported: There is no template in it.
        OllamaFailed: Ollama does not answer, or has no such model.
    """
    path = Path(name)
    if path.is_dir():
        return _checkpoint(path, adapter, template_file, probes)
    if adapter is not None or template_file is not None:
        raise InputInvalid(f"{name}: no such folder", hint="An adapter or --template goes with a checkpoint's folder.")
    if path.suffix == ".gguf":
        return _gguf(path)
    if path.is_file() and not is_trainer_config(path):
        return Subject(source=f"the file {path.name}", text=read_template(path), tokens=NO_TOKENS)
    if path.is_file() or has_trainer(name) or is_template_name(name):
        original = named_original(name)
        return Subject(source=original.source, text=original.text, tokens=NO_TOKENS, stops=original.stops)
    if path.suffix == ".jinja" or len(path.parts) > 2 or path.is_absolute() or name.startswith("."):
        raise InputInvalid(f"{name}: no such file or folder")
    return _in_ollama(name, emit)


def _checkpoint(
    folder: Path, adapter: Path | None, template_file: str | None, probes: tuple[Conversation, ...]
) -> Subject:
    base = read_checkpoint(folder)
    lora = read_adapter(adapter, base) if adapter is not None else None
    tokens = read_tokenizer(folder)
    original = choose_original(base, lora, template_file, tokens, probes)
    return Subject(
        source=original.source,
        text=original.text,
        tokens=tokens,
        folder=folder,
        stops=original.stops,
        notes=original.notes,
    )


def _gguf(path: Path) -> Subject:
    header = read_gguf(path)
    text = header.value("tokenizer.chat_template")
    if not isinstance(text, str):
        raise Unsupported(f"{path}: there is no chat template in it")
    return Subject(source=f"the GGUF file {path.name}", text=text, tokens=gguf_tokens(header))


def _in_ollama(name: str, emit: Emit) -> Subject:
    model = ModelName.parse(name)
    found = OllamaServer.connect(emit=emit).show(model)
    if found.template_source != "gguf":
        used = {"template": "a Go TEMPLATE", "renderer": f"the built-in renderer {found.renderer}"}
        raise Unsupported(
            f"{name}: Ollama builds its prompts from {used.get(found.template_source, 'no template at all')}, "
            "not from a chat template in the GGUF file",
            hint=f"See `ollama show --modelfile {name}`.",
        )
    return Subject(source=f"the model {name} in Ollama", text=found.template, tokens=NO_TOKENS, model=name)


def gguf_tokens(header: GgufHeader) -> TokenizerFacts:
    """Give what a GGUF's own tokenizer says of its named and special tokens."""
    listed, types = header.value("tokenizer.ggml.tokens"), header.value("tokenizer.ggml.token_type")
    texts = [str(text) for text in listed.items()] if isinstance(listed, GgufArray) else []
    kinds = types.items() if isinstance(types, GgufArray) else ()
    named = {}
    for name in _NAMED:
        number = header.value(f"tokenizer.ggml.{name}_token_id")
        if isinstance(number, int) and 0 <= number < len(texts):
            named[_JINJA_NAMES[name]] = texts[number]
    return TokenizerFacts(
        bos_token=named.get("bos_token"),
        eos_token=named.get("eos_token"),
        unk_token=named.get("unk_token"),
        pad_token=named.get("pad_token"),
        named=tuple(NamedToken(name=name, text=text) for name, text in sorted(named.items())),
        special=tuple(
            SpecialToken(text=texts[number], id=number, special=True)
            for number, kind in enumerate(kinds)
            if kind == _CONTROL and number < len(texts)
        ),
        vocabulary_size=len(texts) or None,
        adds_bos=header.value("tokenizer.ggml.add_bos_token") is True,
        chat_template=None,
    )
