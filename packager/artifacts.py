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
    """One low-rank update: `W + scale * B @ A` for the base tensor `target`; with a magnitude (DoRA) that sum is rescaled.

    Attributes:
        target: Name of the base tensor it changes, for example `model.layers.0.mlp.up_proj.weight`.
        a: Shape `(rank, in)`.
        b: Shape `(out, rank)`.
        scale: `alpha / rank`, or `alpha / sqrt(rank)` under rsLoRA.
        transposed: The base tensor is stored `(in, out)` (`fan_in_fan_out`, embeddings); the update is transposed before it
            is added.
        magnitude: Shape `(out,)`: the length that each output's weights get (DoRA); None leaves them as they are.
    """

    target: str
    a: TensorEntry
    b: TensorEntry
    scale: float
    transposed: bool = False
    magnitude: TensorEntry | None = None


@dataclass(frozen=True, kw_only=True)
class ExpertPair:
    """The part of a low-rank update of all experts of a layer that belongs to one tensor (peft's `target_parameters`).

    With A seen as `(experts, rank, in)` and B as `(out, rank, experts)`, an expert's matrix becomes
    `W[e] + scale * B[:, :, e] @ A[e]`.

    Attributes:
        target: Name of the base tensor it changes: one expert's matrix, or the stack of all, `(experts, out, in)`.
        a: Shape `(experts * rank, in)`.
        b: Shape `(out, rank * experts)`.
        scale: `alpha / rank`, or `alpha / sqrt(rank)` under rsLoRA.
        experts: How many matrices A and B hold.
        expert: Which one the target is; None where it is the stack.
        first_output: The row of B that belongs to the target's first row: up_proj is the second half of gate_up_proj.
        transposed: The target is a stack of `(in, out)`.
    """

    target: str
    a: TensorEntry
    b: TensorEntry
    scale: float
    experts: int
    expert: int | None
    first_output: int = 0
    transposed: bool = False


@dataclass(frozen=True, kw_only=True)
class ReplacedTensor:
    """A tensor that was trained whole and takes the place of `target`: a module of modules_to_save, a bias, an embedding.

    Its rows may be more or fewer than the base's only where they are the vocabulary.
    """

    target: str
    value: TensorEntry


@dataclass(frozen=True, kw_only=True)
class ReplacedRows:
    """Trained tokens: row `rows[i]` of `target` is row i of `values`. No row is named twice."""

    target: str
    rows: tuple[int, ...]
    values: TensorEntry


@dataclass(frozen=True, kw_only=True)
class AddedVector:
    """The bias of a LoRA's B (`lora_bias`): `target + scale * value`, both vectors."""

    target: str
    value: TensorEntry
    scale: float


Update = LoraPair | ExpertPair | ReplacedTensor | ReplacedRows | AddedVector


@dataclass(frozen=True, kw_only=True)
class AdapterStep:
    """One PEFT folder of a fine-tune, merged into the result of the one before.

    Attributes:
        folder: The folder, as the user named it.
        unties: It trains one side of tied embeddings, so that each side has weights of its own from here on.
        vocab_size: The rows that it gives the embedding; None leaves them as they are.
    """

    folder: Path
    unties: bool = False
    vocab_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The fine-tune: PEFT folders in order, matched against their base; every tensor of their files is accounted for.

    Attributes:
        steps: The folders, first merged first.
        name: The last folder's own name.
        base_name: What the first adapter_config.json recorded as its base, None when it recorded nothing.
        updates: All updates, in the order in which they are applied; within a step sorted by target.
        chat_template: The Jinja text of the last folder that has one, None when none has.
        output_layer: Where the embeddings are untied, the output layer's values before its own updates: the base's embedding
            under the output layer's name. None where nothing is untied.
        tokenizer_folder: A step's folder whose tokenizer has more tokens than the base's; None takes the base's.
    """

    steps: tuple[AdapterStep, ...]
    name: str
    base_name: str | None
    updates: tuple[Update, ...]
    chat_template: str | None
    output_layer: TensorEntry | None = None
    tokenizer_folder: Path | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """The PEFT folders, in order."""
        return tuple(step.folder for step in self.steps)

    @property
    def folder(self) -> Path:
        """The last PEFT folder."""
        return self.steps[-1].folder

    @property
    def targets(self) -> frozenset[str]:
        """The names of all tensors that are changed or added."""
        added = () if self.output_layer is None else (self.output_layer.name,)
        return frozenset((*(update.target for update in self.updates), *added))

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        """The adapter tensors that the updates read, each once."""
        found = (entry for update in self.updates for entry in update_tensors(update))
        return tuple(dict.fromkeys(found))

    @property
    def vocab_size(self) -> int | None:
        """The rows of the embedding after all steps; None when no step changes them."""
        sizes = [step.vocab_size for step in self.steps if step.vocab_size is not None]
        return sizes[-1] if sizes else None


def update_tensors(update: Update) -> tuple[TensorEntry, ...]:
    """Give the adapter tensors that an update reads."""
    match update:
        case LoraPair():
            return (update.a, update.b) if update.magnitude is None else (update.a, update.b, update.magnitude)
        case ExpertPair():
            return (update.a, update.b)
        case ReplacedRows():
            return (update.values,)
        case _:
            return (update.value,)


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
