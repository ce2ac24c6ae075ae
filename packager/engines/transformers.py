"""The reference: base and adapter under transformers and peft, unmerged, in float32, on the CPU.

Every other engine is compared with this one, because it runs the weights the way training did: the low-rank updates are
separate matrices, nothing is rounded below float32, and the prompt is built by the tokenizer itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from packager.artifacts import Adapter, Conversation, Message
from packager.codec import Json
from packager.durable import disk_errors
from packager.engines.engine import NotSupported
from packager.engines.loading import installed, named, one_line, quiet
from packager.engines.offload import Offload
from packager.engines.peft_adapter import adapted, reshape
from packager.errors import InputInvalid
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
        adapter: The fine-tune: all its folders but the last are merged in float32, the last stays as it was trained. None
            for the base alone.
        template: The chat template's Jinja text; the folder's own one is not used.
        offload: Where the weights go that do not fit into memory; None loads all of them.
    """

    name = "transformers"

    def __init__(self, base: Path, adapter: Adapter | None, template: str, *, offload: Offload | None = None) -> None:
        self._base = base
        self._adapter = adapter
        self.offload = offload
        self._parked: tempfile.TemporaryDirectory[str] | None = None
        self.template = template

    def version(self) -> str:
        """Give `5.23.0, peft 0.21.2, torch 2.15.0`: the three packages that compute the reference, none of them imported."""
        with installed():
            return f"{version('transformers')}, peft {version('peft')}, torch {version('torch')}"

    def render(self, conversation: Conversation) -> str | NotSupported:
        """Give the prompt that `apply_chat_template` builds, or why the template refused the conversation."""
        return self._rendered(conversation, add_generation_prompt=True)

    def _rendered(self, conversation: Conversation, *, add_generation_prompt: bool) -> str | NotSupported:
        import jinja2

        try:
            return self._tokenizer.apply_chat_template(
                template_messages(conversation.messages),
                tools=declared_tools(conversation),
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            return NotSupported(code="TEMPLATE_ERROR", detail=one_line(error))

    def tokens(self, conversation: Conversation) -> tuple[int, ...] | NotSupported:
        """Give the prompt's token ids; special tokens come from the template alone, as in training."""
        text = self.render(conversation)
        if isinstance(text, NotSupported):
            return text
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def generate(self, conversation: Conversation, *, max_tokens: int) -> str | NotSupported:
        """Give the text of `answer`, without the memory that its distributions take."""
        prompt = self.tokens(conversation)
        if isinstance(prompt, NotSupported):
            return prompt
        ids = [token for token, _ in self._greedy(prompt, max_tokens, whole_prompt=False)]
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def answer(self, conversation: Conversation, *, max_tokens: int) -> Answer | NotSupported:
        """Answer greedily: no penalty, no sampling default of generation_config, ties to the lower id.

        Args:
            conversation: What to answer.
            max_tokens: The longest answer, in tokens, the end-of-turn token included.

        Raises:
            InputInvalid: The model's folder cannot be loaded.
        """
        import numpy as np

        prompt = self.tokens(conversation)
        if isinstance(prompt, NotSupported):
            return prompt
        found = list(self._greedy(prompt, max_tokens, whole_prompt=True))
        ids, rows = [token for token, _ in found], [logprobs for _, logprobs in found]
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        told, first = rows[0][:-1], rows[0][-1:]
        answer = np.concatenate([first, *rows[1:]])
        return Answer(prompt=prompt, ids=tuple(ids), text=text, logprobs=answer, prompt_logprobs=told)

    def follow(self, conversation: Conversation, answer: str, *, max_tokens: int) -> Answer | NotSupported:
        """Give the distributions along an answer that somebody else gave, all in one pass.

        Args:
            conversation: What was asked.
            answer: What was answered; in training the template wrote it as the assistant's turn.
            max_tokens: The most tokens that prompt and answer may have together.

        Raises:
            InputInvalid: The model's folder cannot be loaded.
        """
        said = replace(conversation, messages=(*conversation.messages, Message(role="assistant", content=answer)))
        prompt, whole = self.render(conversation), self._rendered(said, add_generation_prompt=False)
        if isinstance(prompt, NotSupported):
            return prompt
        if isinstance(whole, NotSupported):
            return whole
        if not whole.startswith(prompt):
            return NotSupported(code="GEN_PROMPT", detail="the template writes a given answer behind another prompt")
        asked, ids = self.encode(prompt), list(self.encode(whole[len(prompt) :]))
        end = next((at for at, token in enumerate(ids) if token in self._end_ids), len(ids) - 1)
        ids = ids[: end + 1]  # what the template writes behind the end of the turn is no part of an answer
        if not ids or len(asked) + len(ids) > max_tokens:
            return NotSupported(code="LENGTH", detail=f"{len(asked)} + {len(ids)} tokens, at most {max_tokens}")
        rows = self.next_logprobs((*asked, *ids[:-1]))
        cut = len(asked) - 1
        return Answer(prompt=asked, ids=tuple(ids), text=answer, logprobs=rows[cut:], prompt_logprobs=rows[:cut])

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

    def put_merged(self, adapter: Adapter, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Replace weights of the loaded base by those of a fine-tune, merged.

        Args:
            adapter: The fine-tune; the model gets its vocabulary, and its output layer where it unties one.
            weights: Names as the model has them, and values of the shape that they have after merging.

        Raises:
            InputInvalid: The model has no weight of that name and shape.
        """
        import torch

        with quiet():
            reshape(self._model, adapter)
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

    def _greedy(
        self, prompt: tuple[int, ...], max_tokens: int, *, whole_prompt: bool
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Give each token of an answer with the distributions of its step, the last of which it was taken from.

        With `whole_prompt` the first step has a row for every token of the prompt; every other step has one.
        """
        import torch

        feed, cache, said, token = torch.tensor([prompt]), None, 0, -1
        while said < max_tokens and token not in self._end_ids:
            keep = feed.shape[1] if whole_prompt else 1
            with torch.inference_mode():
                out = self._model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=keep)
                logprobs = _log_softmax(out.logits[0])
            cache, said, token = out.past_key_values, said + 1, int(logprobs[-1].argmax())
            yield token, logprobs
            feed = torch.tensor([[token]])

    @cached_property
    def _tokenizer(self) -> _Tokenizer:
        mine = self._adapter.tokenizer_folder if self._adapter else None
        folder = mine or self._base
        with installed(), quiet(), named(folder):
            from transformers import AutoTokenizer

            return cast(_Tokenizer, AutoTokenizer.from_pretrained(folder, local_files_only=True))

    @cached_property
    def _model(self) -> _Model:
        with installed(), quiet():
            import torch
            from transformers import AutoModelForCausalLM

            parked = self._park()
            placed = {"device_map": "auto", **parked} if parked else {}
            with named(self._base):
                model = AutoModelForCausalLM.from_pretrained(
                    self._base, dtype=torch.float32, local_files_only=True, use_safetensors=True, **placed
                )
            # With a device map peft would place the base anew, and write a copy of all weights below the current folder.
            model.__dict__.pop("hf_device_map", None)
            if self._adapter is not None:
                model = adapted(model, self._adapter, parked=bool(parked))
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
