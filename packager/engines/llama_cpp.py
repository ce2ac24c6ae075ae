"""The embedded engine: a GGUF file run in this process by llama-cpp-python.

The prompt is rendered by the package's own `Jinja2ChatFormatter` from the template inside the file, and the same formatter
object is installed as the chat handler, so what is compared is what `create_chat_completion` feeds to the model. Unlike the
package's default, no template is ever replaced by a built-in format that looks like it.

Source: llama-cpp-python 0.3.36, `llama_chat_format.chat_formatter_to_chat_completion_handler` (tokenizes with
`add_bos=False, special=True`, because the template writes its own beginning-of-sequence token).
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, cast

from packager.artifacts import Conversation, Message
from packager.codec import Json
from packager.cores import usable_cores
from packager.engines.engine import NotSupported
from packager.errors import InputInvalid, ToolMissing
from packager.formats.chat_messages import declared_tools, template_messages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BATCH_TOKENS = 256  # also the most rows of logits llama.cpp holds at once: 256 x 150 000 x 4 bytes = 154 MB


class Embedded:
    """One GGUF file, loaded at the first question; quiet, on all processor cores.

    Args:
        gguf: The file.
        context_tokens: Prompt and answer must fit; the cache costs memory in proportion.
        stops: Texts that end an answer, besides the file's own end-of-turn tokens.
        vocabulary_only: Load no weights: prompts and token ids only.
    """

    name = "llama.cpp"

    def __init__(
        self, gguf: Path, *, context_tokens: int = 4096, stops: tuple[str, ...] = (), vocabulary_only: bool = False
    ) -> None:
        self._gguf = gguf
        self._vocabulary_only = vocabulary_only
        self._context_tokens = context_tokens
        self._stops = stops

    def __enter__(self) -> Embedded:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def version(self) -> str:
        """Give llama-cpp-python's version; it names the llama.cpp inside it."""
        return str(_library().__version__)

    @property
    def template(self) -> str | None:
        """The chat template inside the file, whole; None when there is none."""
        raw = _library().llama_model_chat_template(self._llama.model, None)
        return None if raw is None else cast(bytes, raw).decode("utf-8")

    def render(self, conversation: Conversation) -> str | NotSupported:
        """Give the prompt that llama-cpp-python's formatter builds, or why it could not."""
        import jinja2

        formatter = self._formatter
        if isinstance(formatter, NotSupported):
            return formatter
        try:
            tools = declared_tools(conversation)
            return formatter(messages=template_messages(conversation.messages), tools=tools).prompt
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            return NotSupported(code="TEMPLATE_ERROR", detail=f"{type(error).__name__}: {error}".splitlines()[0][:200])

    def tokens(self, conversation: Conversation) -> tuple[int, ...] | NotSupported:
        """Give the ids that `create_chat_completion` feeds to the model."""
        text = self.render(conversation)
        if isinstance(text, NotSupported):
            return text
        return self.tokenize(text, add_special=False)

    def tokenize(self, text: str, *, add_special: bool) -> tuple[int, ...]:
        """Give the ids of the file's own tokenizer, special tokens in the text recognised.

        Args:
            text: What to tokenize.
            add_special: Add the beginning-of-sequence token where the file asks for one, as llama-server does with
                every prompt; False is what llama-cpp-python does with a rendered chat.
        """
        return tuple(self._llama.tokenize(text.encode("utf-8"), add_bos=add_special, special=True))

    def generate(self, conversation: Conversation, *, max_tokens: int) -> str | NotSupported:
        """Give the greedy answer, without special tokens, at most `max_tokens` tokens long; no penalties.

        It starts from an empty cache: a prompt that is read in other pieces has other last digits, which can decide a tie.
        Unlike `stream_chat`, which loses whole characters behind bytes that are no UTF-8, it leaves out those bytes alone.
        """
        ids, room = self.tokens(conversation), self._llama.n_ctx()
        if isinstance(ids, NotSupported):
            return ids
        if len(ids) >= room:
            return NotSupported(code="CONTEXT_FULL", detail=f"{len(ids)} tokens do not fit a context of {room}")
        self._llama.reset()
        answer = self._llama.create_chat_completion(
            messages=template_messages(conversation.messages),
            tools=declared_tools(conversation),
            max_tokens=max_tokens,
            temperature=0.0,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            repeat_penalty=1.0,
            stop=list(self._stops),
        )
        return str(answer["choices"][0]["message"]["content"] or "")

    def stream_chat(
        self,
        messages: tuple[Message, ...],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Answer a conversation piece by piece, whole characters at a time.

        Args:
            messages: The turns so far; the last one is usually the user's.
            max_tokens: The longest answer, in tokens.
            temperature: 0 is greedy; above it the next four values apply, each neutral by default.
            top_p: Keep the most likely tokens up to this total probability.
            top_k: Keep this many tokens; 0 keeps all.
            min_p: Drop tokens less likely than this share of the likeliest.
            repeat_penalty: Divide the score of recent tokens by this; 1 changes nothing.
            seed: For a repeatable answer at a temperature above 0.

        Raises:
            InputInvalid: The file has no chat template, or the conversation does not fit the context.
        """
        if isinstance(self._formatter, NotSupported):
            raise InputInvalid(f"{self._gguf}: {self._formatter.detail}", hint="Build the model again with --template.")
        try:
            chunks = self._llama.create_chat_completion(
                messages=template_messages(messages),
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                min_p=min_p,
                repeat_penalty=repeat_penalty,
                stop=list(self._stops),
                seed=seed,
                stream=True,
            )
            for chunk in chunks:
                piece = chunk["choices"][0]["delta"].get("content")
                if piece:
                    yield str(piece)
        except ValueError as error:  # raised for a prompt longer than the context
            raise InputInvalid(
                f"{self._gguf}: {str(error).splitlines()[0]}",
                hint="Start a new conversation, or raise the context size.",
            ) from error

    def next_logprobs(self, ids: Sequence[int], *, start: int = 0) -> NDArray[np.float32]:
        """Give the distribution of the next token after each prefix of `ids`; see `logprob_blocks`.

        Returns:
            Natural log-probabilities, shape `(len(ids) - start, vocabulary)`, float32: row i follows `ids[: start+i+1]`.
        """
        import numpy as np

        return np.concatenate(list(self.logprob_blocks(ids, start=start)))

    def logprob_blocks(self, ids: Sequence[int], *, start: int = 0) -> Iterator[NDArray[np.float32]]:
        """Give the distributions of `next_logprobs` as they are computed, at most 256 rows at a time.

        Args:
            ids: Token ids, fed from an empty cache.
            start: The first position wanted; llama.cpp computes no logits for earlier ones.

        Raises:
            InputInvalid: `ids` do not fit the context, or llama.cpp fails on them.
        """
        import numpy as np

        llama, library = self._llama, _library()
        if len(ids) > llama.n_ctx():
            raise InputInvalid(f"{self._gguf}: {len(ids)} tokens do not fit a context of {llama.n_ctx()}")
        llama.reset()
        library.llama_memory_clear(library.llama_get_memory(llama.ctx), True)
        batch = library.llama_batch_init(_BATCH_TOKENS, 0, 1)
        try:
            for first in range(0, len(ids), _BATCH_TOKENS):
                wanted = _fill(batch, ids[first : first + _BATCH_TOKENS], first, start)
                status = library.llama_decode(llama.ctx, batch)
                if status != 0:
                    raise InputInvalid(f"{self._gguf}: llama.cpp could not evaluate it (status {status})")
                if wanted:
                    logits = library.llama_get_logits(llama.ctx)
                    yield _log_softmax(np.ctypeslib.as_array(logits, shape=(wanted, llama.n_vocab())).copy())
        finally:
            library.llama_batch_free(batch)
            library.llama_memory_clear(library.llama_get_memory(llama.ctx), True)

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes each token id stands for, special tokens by their text."""
        return self._pieces(special=True)

    @cached_property
    def spoken(self) -> tuple[bytes, ...]:
        """The bytes each token id adds to an answer: as `pieces`, and nothing for a special token."""
        return self._pieces(special=False)

    def _pieces(self, *, special: bool) -> tuple[bytes, ...]:
        library, vocabulary = _library(), self._llama._model.vocab
        size = 512  # longer than any token of the vocabularies in use; a longer one is cut
        buffer = ctypes.create_string_buffer(size)
        found = []
        for token in range(self._llama.n_vocab()):
            length = library.llama_token_to_piece(vocabulary, token, buffer, size, 0, special)
            found.append(buffer.raw[: max(length, 0)])
        return tuple(found)

    def close(self) -> None:
        """Free the model's memory; the next question loads it again."""
        if "_llama" in self.__dict__:
            self._llama.close()
        for name in ("_llama", "_formatter", "pieces", "spoken"):
            self.__dict__.pop(name, None)

    @cached_property
    def _formatter(self) -> _Formatter | NotSupported:
        """llama-cpp-python's formatter for the template in the file, installed as the model's chat handler."""
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        if self.template is None:
            return NotSupported(code="NO_TEMPLATE", detail="there is no chat template in the GGUF file")
        ends = self._llama.token_eos()
        formatter = Jinja2ChatFormatter(
            template=self.template,
            eos_token=_text(self._llama, ends),
            bos_token=_text(self._llama, self._llama.token_bos()),
            stop_token_ids=[ends],
        )
        self._llama.chat_handler = formatter.to_chat_handler()
        return cast(_Formatter, formatter)

    @cached_property
    def _llama(self) -> Any:  # llama_cpp.Llama: the package carries no usable types
        import jinja2

        library, said = _library(), _quiet()
        if not self._gguf.is_file():
            raise InputInvalid(f"{self._gguf}: no such file")
        cores = usable_cores()
        said.clear()
        try:
            return library.Llama(
                model_path=str(self._gguf),
                n_ctx=self._context_tokens,
                n_batch=_BATCH_TOKENS,
                n_ubatch=_BATCH_TOKENS,
                n_threads=cores,
                n_threads_batch=cores,
                vocab_only=self._vocabulary_only,
                verbose=False,
                chat_handler=_no_template,
            )
        except jinja2.TemplateError as error:  # it compiles every template of the file when it loads
            raise InputInvalid(
                f"{self._gguf}: its chat template is not Jinja ({str(error).splitlines()[0]})",
                hint="Build the model again with --template.",
            ) from error
        except ValueError as error:  # what llama-cpp-python raises when the library gives it no model or no context
            reason = said[-1] if said else str(error).splitlines()[0]
            raise InputInvalid(
                f"{self._gguf}: llama.cpp cannot load it ({reason})", hint="Build the model again: the file is damaged."
            ) from error


class _Rendered(Protocol):
    prompt: str


class _Formatter(Protocol):
    """The part of Jinja2ChatFormatter that is used here."""

    def __call__(self, *, messages: list[dict[str, Json]], tools: list[dict[str, Json]] | None) -> _Rendered: ...


def _no_template(**_: object) -> None:
    """Stand in until the real formatter is installed, so that llama-cpp-python guesses no format."""


def _fill(batch: Any, chunk: Sequence[int], first: int, start: int) -> int:  # a ctypes struct
    """Put ids at positions `first...` into the batch and ask for logits from position `start`; count what was asked."""
    batch.n_tokens = len(chunk)
    for index, token in enumerate(chunk):
        batch.token[index] = token
        batch.pos[index] = first + index
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = 0
        batch.logits[index] = first + index >= start
    return max(0, first + len(chunk) - max(first, start))


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalise rows in place; the sum is taken in float64, so that 150 000 small terms lose nothing."""
    import numpy as np

    logits -= logits.max(axis=1, keepdims=True)
    totals = [np.exp(row).sum(dtype=np.float64) for row in logits]
    logits -= np.log(totals).astype(np.float32)[:, None]
    return logits


def _text(llama: Any, token: int) -> str:
    return str(llama._model.token_get_text(token)) if token != -1 else ""


@cache
def _library() -> Any:  # the llama_cpp module
    try:
        import llama_cpp
    except ModuleNotFoundError as error:
        raise ToolMissing(
            "the Python package llama-cpp-python is not installed: no model can run without Ollama",
            hint='Install it with: pip install "ollama-packager[build]"',
        ) from error
    return llama_cpp


@cache
def _quiet() -> deque[str]:
    """Send llama.cpp's log to a short memory instead of stderr, once per process, and give that memory.

    It holds the errors only (level 4 of `ggml_log_level`), for the message of a failed load.
    """
    library = _library()
    said: deque[str] = deque(maxlen=8)

    @library.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(level: int, text: bytes, _: object) -> None:
        if level == 4:
            said.append(text.decode("utf-8", errors="replace").strip())

    library.llama_log_set(keep, ctypes.c_void_p(0))
    _KEPT.append(keep)
    return said


_KEPT: list[object] = []  # llama.cpp holds a bare pointer to the callback: it must never be collected
