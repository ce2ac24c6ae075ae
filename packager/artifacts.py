"""The values that pass between rooms: what was read, what was made, what was found.

All are frozen and keyword-only, made of paths, strings, numbers and tuples, and have a JSON form (`packager.codec`). Digests
are sha256 as 64 lower-case hex digits; sizes are bytes; shapes are the checkpoint's own order (rows first), unlike GGML's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from packager.codec import JsonObject
from packager.quants import Quant as Quant  # noqa: PLC0414  # part of these artifacts


class Dtype(StrEnum):
    """The element types a merged checkpoint can have, by their torch name."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


# --- what a model is made of -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor in a safetensors file: `dtype` by safetensors' name (`BF16`), `offset` from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling defaults that a model's author recorded; None where the author said nothing."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A Hugging Face folder with safetensors weights, read and checked (`formats.checkpoint.read_checkpoint`).

    Attributes:
        folder: The folder, as the user named it.
        name: A display name: the folder's own name.
        architecture: `config.json`'s first architecture, for example `Qwen2ForCausalLM`.
        dtype: The element type most weights are stored in.
        hidden_size: Width of the residual stream.
        layers: Number of blocks.
        vocab_size: Rows of the embedding that the config declares.
        context_tokens: The longest context the config declares, None when it declares none.
        ties_embeddings: Whether the output layer shares the embedding's weights.
        eos_token_ids: generation_config's list, or config's; may be empty.
        sampling: generation_config's sampling values.
        chat_template: The Jinja text transformers would use, None when there is none.
        license_id: The model card's `license:` value, None when there is none.
        license_file: A LICENSE file in the folder, None when there is none.
        tensors: Every tensor, sorted by name.
    """

    folder: Path
    name: str
    architecture: str
    dtype: Dtype
    hidden_size: int
    layers: int
    vocab_size: int
    context_tokens: int | None
    ties_embeddings: bool
    eos_token_ids: tuple[int, ...]
    sampling: Sampling
    chat_template: str | None
    license_id: str | None
    license_file: Path | None
    tensors: tuple[TensorEntry, ...]


@dataclass(frozen=True, kw_only=True)
class LoraPair:
    """One low-rank update: `W + scale * B @ A` for the base tensor `target`.

    Attributes:
        target: Name of the base tensor it changes, for example `model.layers.0.mlp.up_proj.weight`.
        a: Shape `(rank, in)`.
        b: Shape `(out, rank)`.
        scale: `alpha / rank`, or `alpha / sqrt(rank)` under rsLoRA.
        transposed: The base tensor is stored `(in, out)` (`fan_in_fan_out`); the update is transposed before it is added.
    """

    target: str
    a: TensorEntry
    b: TensorEntry
    scale: float
    transposed: bool = False


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A PEFT LoRA folder, read and matched against its base: every tensor of its file is in exactly one pair.

    Attributes:
        folder: The folder, as the user named it.
        name: The folder's own name.
        base_name: What adapter_config.json recorded as its base, None when it recorded nothing.
        pairs: All updates, sorted by target.
        chat_template: The folder's own Jinja text, None when it has none.
    """

    folder: Path
    name: str
    base_name: str | None
    pairs: tuple[LoraPair, ...]
    chat_template: str | None


@dataclass(frozen=True, kw_only=True)
class Gguf:
    """A finished GGUF file, with the digest of its bytes."""

    path: Path
    quant: Quant
    sha256: str
    size_bytes: int


# --- conversations and templates ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call of a declared function; `id` is what its answer names, empty when nothing does."""

    name: str
    arguments: JsonObject
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn.

    Attributes:
        role: system, user, assistant or tool.
        content: Its text; of a tool, what it answered.
        thinking: The reasoning before an assistant's content, kept apart from it.
        tool_calls: What an assistant calls.
        tool_name: The function that a tool's turn answers.
        tool_call_id: The call that it answers.
    """

    role: str
    content: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A probe: a conversation that engines are compared on.

    Attributes:
        id: Its name in reports.
        group: CORE, EXT, TOOLS, THINK, USER or WALK.
        messages: The turns.
        tools: The functions declared to the model, in OpenAI's form: `{"type": "function", "function": {...}}`.
    """

    id: str
    group: str
    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A template variable fixed to what training used, written as a Jinja `set` or `macro` in front of the template."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """The canonical template of a build.

    Attributes:
        source: Where the original came from, in words a user knows (`the base's chat_template.jinja`).
        original_sha256: Digest of the original text.
        text: The canonical Jinja: header, pins, original.
        pins: What was fixed, and why.
        stops: Text of every token that ends an answer, the end-of-turn first.
        adds_bos: Whether canonical token ids start with BOS, so that the tokenizer must not add another.
        rewritten: What a GGUF gets in place of `text` where llama.cpp's Jinja builds other prompts from that or cannot run
            it: the same prompts, written anew, without tools. None when there is no such form.
    """

    source: str
    original_sha256: str
    text: str
    pins: tuple[Pin, ...]
    stops: tuple[str, ...]
    adds_bos: bool
    rewritten: str | None = None

    @property
    def for_gguf(self) -> tuple[ChatTemplate, ...]:
        """The template with every text that a GGUF of it may have, the canonical one first."""
        return (self,) if self.rewritten is None else (self, replace(self, text=self.rewritten))


@dataclass(frozen=True, kw_only=True)
class TemplateForm:
    """Another form of a template, proved to build the same prompts, or why there is none: one of `text` and `reason` is set.

    Attributes:
        text: LMDeploy's JSON, the Go TEMPLATE, or the Jinja that is written anew.
        code: A reason code of docs/templates.md, empty when the form exists.
        reason: Why there is none.
        limits: What the form does not hold for, in words; empty when it holds for all roles that alternate.
    """

    text: str | None
    code: str = ""
    reason: str = ""
    limits: tuple[str, ...] = ()


# --- verdicts ----------------------------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """What became of a check. A check that could not be made is never a pass."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a check with its gate: `value` must be at most (or at least) `limit`; no limit, no gate."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of a verdict.

    Attributes:
        subject: The quant, or `template` for what all quants share.
        engine: `llama.cpp`, `ollama` or `file`.
        name: What was compared: `structure`, `prompts`, `token ids`, `first token`, `answers` ...
        outcome: Passed, failed, or not checked.
        detail: One line: the figures when it passed, the first difference when it failed, the reason when not checked.
        measures: The numbers behind it.
    """

    subject: str
    engine: str
    name: str
    outcome: Outcome
    detail: str
    measures: tuple[Measure, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All checks of a build and what they amount to. `versions` holds `name version` lines of what was compared."""

    checks: tuple[Check, ...]
    versions: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether something was checked and nothing failed."""
        outcomes = {check.outcome for check in self.checks}
        return Outcome.PASSED in outcomes and Outcome.FAILED not in outcomes

    def passed_for(self, quant: Quant) -> bool:
        """Whether every check of this quant, and of what all quants share, that was made has passed."""
        mine = [check for check in self.checks if check.subject in (quant.value, "template")]
        return any(c.outcome is Outcome.PASSED and c.subject == quant.value for c in mine) and all(
            c.outcome is not Outcome.FAILED for c in mine
        )


# --- Ollama ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OllamaParameters:
    """What a Modelfile's PARAMETER lines say. `stop` is repeatable; None means the line is absent."""

    stop: tuple[str, ...] = ()
    num_ctx: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None


@dataclass(frozen=True, kw_only=True)
class Modelfile:
    """What a Modelfile for one GGUF says, as values; `formats.modelfile` gives its text. `template` is a Go template."""

    gguf: str
    parameters: OllamaParameters
    license_text: str | None
    template: str | None = None


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A model as Ollama stored it, read back after creation.

    Attributes:
        name: Full name with tag, for example `packy:q8_0`.
        quant: The quant it holds.
        blob_sha256: Digest of the GGUF blob in Ollama's store.
        same_bytes: Whether that is the digest of the file in the build folder.
        template_source: Where Ollama takes its prompt from: `gguf` (the embedded Jinja), `template`, or `renderer`.
    """

    name: str
    quant: Quant
    blob_sha256: str
    same_bytes: bool
    template_source: str
