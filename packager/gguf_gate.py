"""Stops a registration at an Ollama that does not build the prompts of the chat template inside a GGUF file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from packager.chat.probes import core_probes
from packager.chat.render import Renderer, RenderRefused
from packager.engines.engine import NotSupported
from packager.engines.ollama import OllamaServer
from packager.engines.ollama_probe import probe_model
from packager.errors import Unsupported
from packager.events import silent
from packager.formats.gguf import read_gguf
from packager.parity.differences import text_difference
from packager.template_subjects import read_subject
from packager.weights.probe_gguf import write_probe
from packager.weights.vocabulary import vocabulary_of_gguf

_UNSEEN = "NO_DEBUG_RENDER"  # an Ollama that does not show its prompts


def require_prompts_in_ollama(files: tuple[Path, ...], server: OllamaServer) -> None:
    """Try the template of GGUF files on the server before anything is registered.

    Each distinct template is put into a probe with the file's own vocabulary; the prompts of the CORE conversations must be
    those that jinja2 builds from it.

    Raises:
        Unsupported: With the reason code, the first conversation, and the way out.
    """
    for path in {read_gguf(path).value("tokenizer.chat_template"): path for path in files}.values():
        found = _first_difference(path, server)
        if found:
            raise Unsupported(
                f"{path}: Ollama {server.version} does not build the prompts of its chat template, conversation {found}",
                hint="Build it again while this Ollama runs: packager build BASE ADAPTER -o DIR --name NAME",
            )


def _first_difference(path: Path, server: OllamaServer) -> str:
    """Give the first conversation that differs and why, empty when none does or the server does not show its prompts."""
    subject = read_subject(str(path), None, template_file=None, probes=(), emit=silent)
    bos = subject.tokens.bos_token or ""
    with (
        tempfile.TemporaryDirectory(prefix="packager-") as scratch,
        Renderer(subject.source, subject.tokens) as renderer,
        probe_model(
            server, write_probe(Path(scratch) / "probe.gguf", vocabulary_of_gguf(path), template=subject.text)
        ) as engine,
    ):
        for chat in core_probes():
            expected = renderer.render(subject.text, chat)
            if isinstance(expected, RenderRefused):
                continue
            found = engine.render(chat)
            if isinstance(found, NotSupported):
                return "" if found.code == _UNSEEN else f"{chat.id} ({found.code}): {found.detail}"
            difference = text_difference(expected.removeprefix(bos), found.removeprefix(bos))
            if difference:
                return f"{chat.id}: {difference}"
    return ""
