"""`packager chat`: talk to a model in Ollama, or to a GGUF file with no server at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

import click

from packager.artifacts import Message, OllamaParameters, Quant
from packager.commands import options
from packager.errors import OllamaFailed

if TYPE_CHECKING:
    from packager.engines.llama_cpp import Embedded

ANSWER_TOKENS = 2048
_END = "/bye"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of an answer; `thinking` is what the model says to itself first."""

    text: str
    thinking: bool = False


Answer = Callable[[tuple[Message, ...]], Iterator[Piece]]


@click.command(short_help="Talk to a model in Ollama or in a build folder.")
@click.argument("model", metavar="NAME|DIR")
@click.option("--system", metavar="TEXT", help="System prompt to start with.")
@click.option("-p", "--prompt", metavar="TEXT", help="Ask this, print the answer, and end.")
@click.option(
    "--engine",
    type=click.Choice(("auto", "ollama", "embedded")),
    default="auto",
    show_default=True,
    help="Who runs the model: for a folder or a .gguf file the embedded llama.cpp, for a name Ollama.",
)
@click.option("--quant", metavar="QUANT", type=options.QUANT, help="Which quant of NAME or DIR.")
def chat(model: str, system: str | None, prompt: str | None, engine: str, quant: str | None) -> None:
    """Talk to a model: NAME in Ollama, or the GGUF in the build folder DIR, with no server and no network.

    Each line you type is a turn; /bye or the end of input ends the session, Ctrl-C stops an answer. Lines from a pipe work
    the same.

    \b
    Examples:
      packager chat my-model
      packager chat ./out --quant q8_0
      packager chat my-model -p "What is your name?"
      echo "What is your name?" | packager chat my-model
    """
    start = (Message(role="system", content=system),) if system else ()
    if engine == "embedded" or (engine == "auto" and _is_file(model)):
        found, answer = _embedded(Path(model), quant)
        with found:
            _converse(answer, start, prompt)
    else:
        _converse(_from_ollama(model, quant), start, prompt)


def _converse(answer: Answer, messages: tuple[Message, ...], prompt: str | None) -> None:
    """Hold the conversation: one turn for a prompt, else one for each line of input."""
    if prompt is not None:
        _say(answer((*messages, Message(role="user", content=prompt))), keep=False)
        return
    for line in _lines():
        messages = (*messages, Message(role="user", content=line))
        said = _say(answer(messages), keep=sys.stdin.isatty())
        messages = (*messages, Message(role="assistant", content=said))


def _lines() -> Iterator[str]:
    """Give what the user types, line by line, until /bye or the end of input; blank lines are no turns."""
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401  # gives input() history and editing
    while True:
        try:
            line = input(">>> ") if terminal else sys.stdin.readline()
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            click.echo(f"\nType {_END} or press Ctrl-D to end.")
            continue
        if (line == "" and not terminal) or line.strip() == _END:
            return
        if line.strip():
            yield line.rstrip("\n")


def _say(pieces: Iterator[Piece], *, keep: bool) -> str:
    """Print an answer as it comes, and give its text. With `keep`, Ctrl-C ends the answer and not the session."""
    said: list[str] = []
    try:
        for piece in pieces:
            if piece.thinking:
                click.secho(_printable(piece.text), nl=False, dim=True, err=True)
            else:
                said.append(piece.text)
                click.echo(_printable(piece.text), nl=False)
    except KeyboardInterrupt:
        if not keep:
            raise
    finally:
        click.echo()
        close = getattr(pieces, "close", None)
        if close is not None:
            close()  # closes the connection, which stops the server's work
    return "".join(said)


def _from_ollama(model: str, quant: str | None) -> Answer:
    """Find the model in Ollama."""
    from packager.console import Console
    from packager.engines.ollama import OllamaServer
    from packager.engines.ollama_chat import talk
    from packager.formats.model_name import ModelName

    name = ModelName.parse(model)
    if quant is not None:
        name = name.with_tag(quant)
    try:
        server = OllamaServer.connect(minimum=(0,), emit=Console(quiet=True).emit)
    except OllamaFailed as error:
        raise OllamaFailed(
            error.message, hint="Start it with `ollama serve`, or chat without it: packager chat DIR"
        ) from error
    if not server.exists(name):
        raise OllamaFailed(
            f"{name}: Ollama at {server.url} has no such model",
            hint="`ollama list` shows what it has; or: packager chat DIR",
        )
    click.echo(f"{name} in Ollama {server.version}", err=True)

    def answer(messages: tuple[Message, ...]) -> Iterator[Piece]:
        for chunk in talk(server.url, str(name), messages):
            if chunk.thinking:
                yield Piece(text=chunk.thinking, thinking=True)
            if chunk.content:
                yield Piece(text=chunk.content)

    return answer


def _embedded(path: Path, quant: str | None) -> tuple[Embedded, Answer]:
    """Load a GGUF into this process, with the parameters of the Modelfile beside it."""
    from packager.engines.llama_cpp import Embedded
    from packager.formats.build_folder import choose_gguf, read_modelfile

    modelfile = read_modelfile(path if path.is_dir() else path.parent)
    chosen = Quant(quant) if quant is not None else None
    gguf = choose_gguf(path, chosen, command="packager chat") if path.is_dir() else path
    said = modelfile.parameters if modelfile is not None else OllamaParameters()
    engine = Embedded(gguf, context_tokens=said.num_ctx or 4096, stops=said.stop)
    click.echo(f"{gguf.name} in the embedded llama.cpp", err=True)

    def answer(messages: tuple[Message, ...]) -> Iterator[Piece]:
        for text in engine.stream_chat(
            messages,
            max_tokens=ANSWER_TOKENS,
            temperature=0.8 if said.temperature is None else said.temperature,  # Ollama's own default
            top_p=said.top_p or 1.0,
            top_k=said.top_k or 0,
            min_p=said.min_p or 0.0,
            repeat_penalty=said.repeat_penalty or 1.0,
        ):
            yield Piece(text=text)

    return engine, answer


def _is_file(model: str) -> bool:
    """Say whether a word names a folder or a GGUF file rather than a model in Ollama."""
    return model.endswith(".gguf") or Path(model).is_dir()


def _printable(text: str) -> str:
    """Drop what would steer a terminal: a model may say anything."""
    return "".join(character for character in text if category(character) != "Cc" or character in "\n\t")
