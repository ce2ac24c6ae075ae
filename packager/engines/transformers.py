"""The reference: base and adapter under transformers and peft, unmerged, in float32, on the CPU.

Every other engine is compared with this one, because it runs the weights the way training did: the low-rank updates are
separate matrices, nothing is rounded below float32, and the prompt is built by the tokenizer itself.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from packager.artifacts import Conversation
from packager.codec import Json
from packager.durable import disk_errors
from packager.engines.engine import NotSupported
from packager.engines.offload import Offload
from packager.errors import InputInvalid, ToolMissing
from packager.formats.chat_messages import declared_tools, template_messages

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the reference says to a conversation, greedily, and how sure it was of every token.

    Attributes:
        prompt: Token ids of the prompt.
        ids: Token ids of the answer; the last is an end-of-turn token unless the answer was cut at its limit.
        text: The answer without special tokens.
        logprobs: Row t is the distribution `ids[t]` was taken from: shape `(len(ids), vocabulary)`, float32, nats.
        prompt_logprobs: Row t is the distribution of `prompt[t + 1]`: shape `(len(prompt) - 1, vocabulary)`.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    logprobs: NDArray[np.float32]
    prompt_logprobs: NDArray[np.float32]


class Reference:
    """Base plus adapter as the trainer's libraries run them; loaded at the first question and only once.

    Args:
        base: A checkpoint folder with safetensors weights and a tokenizer.
        adapter: A PEFT folder, or None for the base alone.
        template: The chat template's Jinja text; the folder's own one is not used.
        offload: Where the weights go that do not fit into memory; None loads all of them.
    """

    name = "transformers"

    def __init__(self, base: Path, adapter: Path | None, template: str, *, offload: Offload | None = None) -> None:
        self._base = base
        self._adapter = adapter
        self.offload = offload
        self._parked: tempfile.TemporaryDirectory[str] | None = None
        self.template = template

    def version(self) -> str:
        """Give `5.23.0, peft 0.21.2, torch 2.15.0`: the three packages that compute the reference, none of them imported."""
        with _installed():
            return f"{version('transformers')}, peft {version('peft')}, torch {version('torch')}"

    def render(self, conversation: Conversation) -> str | NotSupported:
        """Give the prompt that `apply_chat_template` builds, or why the template refused the conversation."""
        import jinja2

        try:
            return self._tokenizer.apply_chat_template(
                template_messages(conversation.messages),
                tools=declared_tools(conversation),
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            return NotSupported(code="TEMPLATE_ERROR", detail=_one_line(error))

    def tokens(self, conversation: Conversation) -> tuple[int, ...] | NotSupported:
        """Give the prompt's token ids; special tokens come from the template alone, as in training."""
        text = self.render(conversation)
        if isinstance(text, NotSupported):
            return text
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def generate(self, conversation: Conversation, *, max_tokens: int) -> str | NotSupported:
        """Give the greedy answer, without special tokens, at most `max_tokens` tokens long."""
        answer = self.answer(conversation, max_tokens=max_tokens)
        return answer if isinstance(answer, NotSupported) else answer.text

    def answer(self, conversation: Conversation, *, max_tokens: int) -> Answer | NotSupported:
        """Answer greedily: no penalty, no sampling default of generation_config, ties to the lower id.

        Args:
            conversation: What to answer.
            max_tokens: The longest answer, in tokens, the end-of-turn token included.

        Raises:
            InputInvalid: The model's folder cannot be loaded.
        """
        import numpy as np
        import torch

        prompt = self.tokens(conversation)
        if isinstance(prompt, NotSupported):
            return prompt
        ids: list[int] = []
        rows: list[NDArray[np.float32]] = []
        feed, cache = torch.tensor([prompt]), None
        with torch.inference_mode():
            while len(ids) < max_tokens and not (ids and ids[-1] in self._end_ids):
                out = self._model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=feed.shape[1])
                cache = out.past_key_values
                rows.append(_log_softmax(out.logits[0]))
                ids.append(int(rows[-1][-1].argmax()))
                feed = torch.tensor([[ids[-1]]])
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        told, first = rows[0][:-1], rows[0][-1:]
        answer = np.concatenate([first, *rows[1:]])
        return Answer(prompt=prompt, ids=tuple(ids), text=text, logprobs=answer, prompt_logprobs=told)

    def next_logprobs(self, ids: tuple[int, ...], *, start: int = 0) -> NDArray[np.float32]:
        """Give the distribution of the next token after each prefix of `ids`.

        Args:
            ids: Token ids fed to the model in one pass.
            start: The first position wanted; earlier rows are neither computed nor returned.

        Returns:
            Natural log-probabilities, shape `(len(ids) - start, vocabulary)`, float32: row i follows `ids[: start+i+1]`.
        """
        import torch

        with torch.inference_mode():
            out = self._model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=len(ids) - start)
            return _log_softmax(out.logits[0])

    def encode(self, text: str) -> tuple[int, ...]:
        """Give the tokenizer's ids of a text, special tokens in it recognised and none added."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def piece(self, token_id: int) -> str:
        """Give one token as people read it, special tokens included."""
        return self._tokenizer.decode([token_id], skip_special_tokens=False)

    def put_weights(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Replace weights of the loaded model.

        Args:
            weights: Names as the model has them, and values of the same shape.

        Raises:
            InputInvalid: The model has no weight of that name and shape.
        """
        import torch

        there = dict(self._model.named_parameters())
        with torch.inference_mode():
            for name, value in weights:
                if name not in there or there[name].shape != value.shape:
                    raise InputInvalid(f"{self._base}: transformers has no weight {name} of shape {tuple(value.shape)}")
                there[name].copy_(value)

    def close(self) -> None:
        """Free the weights, also those on the disk, and keep the tokenizer; a question for the model loads it again."""
        self.__dict__.pop("_model", None)
        if self._parked is not None:
            self._parked.cleanup()
            self._parked = None

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The texts of the tokenizer's special tokens, by id."""
        added = self._tokenizer.added_tokens_decoder
        return tuple(token.content for _, token in sorted(added.items()) if token.special)

    @property
    def bos_text(self) -> str:
        """The tokenizer's beginning-of-sequence token, empty when it has none."""
        return self._tokenizer.bos_token or ""

    @cached_property
    def _tokenizer(self) -> _Tokenizer:
        with _installed(), _quiet(), _named(self._base):
            from transformers import AutoTokenizer

            return cast(_Tokenizer, AutoTokenizer.from_pretrained(self._base, local_files_only=True))

    @cached_property
    def _model(self) -> _Model:
        with _installed(), _quiet():
            import torch
            from peft import PeftModel
            from transformers import AutoModelForCausalLM

            parked = self._park()
            placed = {"device_map": "auto", **parked} if parked else {}
            with _named(self._base):
                model = AutoModelForCausalLM.from_pretrained(
                    self._base, dtype=torch.float32, local_files_only=True, use_safetensors=True, **placed
                )
            if self._adapter is not None:
                with _named(self._adapter):
                    model = PeftModel.from_pretrained(model, str(self._adapter), torch_device="cpu", **parked)
            return cast(_Model, model.eval())

    def _park(self) -> dict[str, object]:
        """Give accelerate's arguments for weights that do not fit into memory, with an empty folder for them."""
        if self.offload is None:
            return {}
        with disk_errors(self.offload.folder):
            self.offload.folder.mkdir(parents=True, exist_ok=True)
            self._parked = tempfile.TemporaryDirectory(dir=self.offload.folder, prefix=".new-offload-")
        return {"max_memory": {"cpu": self.offload.memory_bytes}, "offload_folder": self._parked.name}

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        """The ids that end a turn: generation_config's eos list and the tokenizer's own eos."""
        configured = self._model.generation_config.eos_token_id
        ends = [configured] if isinstance(configured, int) else list(configured or ())
        own = self._tokenizer.eos_token_id
        return frozenset(ends if own is None else [*ends, own])


class _AddedToken(Protocol):
    content: str
    special: bool


class _Tokenizer(Protocol):
    """The part of transformers' tokenizer that is used here; the library itself carries no usable types."""

    added_tokens_decoder: dict[int, _AddedToken]
    bos_token: str | None
    eos_token_id: int | None

    def apply_chat_template(
        self,
        messages: list[dict[str, Json]],
        *,
        tools: list[dict[str, Json]] | None,
        chat_template: str,
        tokenize: bool,
        add_generation_prompt: bool,
    ) -> str: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str: ...


class _GenerationConfig(Protocol):
    eos_token_id: int | list[int] | None


class _Output(Protocol):
    logits: torch.Tensor
    past_key_values: object


class _Model(Protocol):
    """The part of transformers' causal language model that is used here."""

    generation_config: _GenerationConfig

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]: ...

    def __call__(
        self, *, input_ids: torch.Tensor, use_cache: bool, logits_to_keep: int, past_key_values: object = None
    ) -> _Output: ...


def _log_softmax(logits: torch.Tensor) -> NDArray[np.float32]:
    import torch

    return cast("NDArray[np.float32]", torch.log_softmax(logits.float(), dim=-1).numpy())


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    """Translate a missing package; the reference is part of the `[build]` extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ToolMissing(
            f"the Python package {error.name} is not installed: the reference model cannot run",
            hint='Install it with: pip install "ollama-packager[build]"',
        ) from error


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Translate what transformers and peft raise about a folder into one line that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputInvalid(
            f"{folder}: transformers cannot load it ({_one_line(error)})",
            hint=f"Check the model folder with: packager plan {folder}",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings, log lines and progress bars off the terminal while they load."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
