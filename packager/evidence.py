"""What a verification saw beyond the lines of its verdict: what the report draws, and what a suspicion is checked against.

Every value here is rounded where it is made, to what a repeated run agrees on, so that equal runs give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from packager.artifacts import Outcome, Pin


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What became of one conversation: passed, failed with its first difference, or not checked with the reason.

    `code` is a reason code of docs/templates.md where the cause is known.
    """

    conversation: str
    group: str
    outcome: Outcome
    detail: str = ""
    code: str = ""


class Part(StrEnum):
    """Which positions of a conversation: those that predict the answer, or those that predict the rest of the prompt.

    Of the probes, whose answers are the reference's own, and of the user's data, whose answers are those that it expects.
    """

    ANSWER = "answer"
    PROMPT = "prompt"
    DATA_ANSWER = "answers of your data"
    DATA_PROMPT = "prompts of your data"


class Stage(StrEnum):
    """The stages of a build in the order in which a fault would enter, the first to blame first."""

    MERGE = "merged checkpoint"
    TEMPLATE = "chat template"
    TOKENIZER = "tokenizer"
    F16 = "f16 GGUF"
    QUANT = "quant"
    ENGINE = "engine"
    REGISTERED = "registered model"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was packaged, in the words of the report.

    Attributes:
        name: What the build is called: the stem of its files.
        base: The base's display name.
        adapter: The adapter's, None for the base alone.
        architecture: The base's architecture, for example `Qwen2ForCausalLM`.
        template_source: Where the chat template came from.
        template_sha256: Digest of the original template.
        pins: What was fixed in it, and why.
        stops: Text of every token that ends an answer.
        inputs: `name sha256 size_bytes` of every file of base and adapter, sorted by name.
    """

    name: str
    base: str
    adapter: str | None
    architecture: str
    template_source: str
    template_sha256: str
    pins: tuple[Pin, ...]
    stops: tuple[str, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """One engine's cells in one comparison: `name` is `prompts` or `token ids`, `subject` a quant."""

    subject: str
    engine: str
    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class PartDistance:
    """How far the distributions of one file on one engine are from the reference, over one part of all conversations.

    Attributes:
        subject: The quant.
        engine: `llama.cpp` or `ollama`.
        part: Answer or prompt.
        positions: How many distributions were compared.
        mean_kl: Mean of KL(reference || engine), nats.
        p99_kl: Its 99th percentile (nearest rank), nats.
        max_kl: The largest one, nats.
        top1: Share of positions where both have the same likeliest token, 0 to 1.
        rms_probability: Root mean square, over positions, of the difference of the probabilities that engine and reference
            give to the token that really follows, 0 to 1.
        perplexity_ratio: exp(mean log-probability by the reference - mean log-probability by the engine) of the tokens that
            really follow; 1 is equal, above 1 is worse.
    """

    subject: str
    engine: str
    part: Part
    positions: int
    mean_kl: float
    p99_kl: float
    max_kl: float
    top1: float
    rms_probability: float
    perplexity_ratio: float


@dataclass(frozen=True, kw_only=True)
class AnswerPositions:
    """One answer of the reference, token by token, and one file's distance at each: `kl` in nats, `same_top` of the likeliest.

    All three have one item for each token of the answer.
    """

    conversation: str
    subject: str
    engine: str
    tokens: tuple[str, ...]
    kl: tuple[float, ...]
    same_top: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class AnswerText:
    """One greedy answer beside the reference's; they share the first `common_characters` characters."""

    conversation: str
    subject: str
    engine: str
    reference: str
    text: str
    common_characters: int


@dataclass(frozen=True, kw_only=True)
class TensorError:
    """One tensor of a file against the merged weights it was made from.

    Attributes:
        tensor: Its GGUF name, for example `blk.3.attn_q.weight`.
        type: Its type in the file, for example `Q4_K`.
        layer: Its block, None for what stands outside the blocks.
        relative_error: ||found - merged|| / ||merged||, Frobenius norm in float64, no unit.
        expected_error: The same for merged weights that llama.cpp's own kernel rounds to this type.
        worst_row: The row where found and expected are furthest apart; None where nothing is further away than expected.
    """

    tensor: str
    type: str
    layer: int | None
    relative_error: float
    expected_error: float
    worst_row: int | None


@dataclass(frozen=True, kw_only=True)
class FileTensors:
    """The tensors of one file, in its order."""

    subject: str
    tensors: tuple[TensorError, ...]


@dataclass(frozen=True, kw_only=True)
class CharacterClass:
    """Random texts of one class of characters (or `your data`), tokenized by the reference and by the file's own tokenizer.

    Attributes:
        name: The class: `letters`, `digits`, `Chinese`, `decomposed accents` ...
        texts: How many were compared.
        differing: How many became other tokens.
        code: Why, a reason code of docs/templates.md where the cause is known (`NFC`), else empty.
        example: The shortest text that differs, as a Python literal; empty when none does.
        meaning: What it means for the user, one line; empty when nothing differs.
    """

    name: str
    texts: int
    differing: int
    code: str
    example: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class StageFinding:
    """What became of one stage when a failed check was traced.

    Attributes:
        stage: Which one.
        subject: The quant, or the name in Ollama; empty for what all share.
        outcome: Passed, failed or not checked.
        detail: One line: figures, the first difference, or why it was not checked.
        worst: The tensors furthest from where they should be, worst first, at most five.
    """

    stage: Stage
    subject: str
    outcome: Outcome
    detail: str
    worst: tuple[TensorError, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Blame:
    """Every stage that was looked at, in order."""

    findings: tuple[StageFinding, ...]

    @property
    def first(self) -> StageFinding | None:
        """The first stage that differs, None when none does."""
        return next((finding for finding in self.findings if finding.outcome is Outcome.FAILED), None)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All of it. What was not looked at is empty, or None for `blame` and `subject`."""

    subject: Subject | None = None
    matrix: tuple[MatrixRow, ...] = ()
    tokenizer: tuple[CharacterClass, ...] = ()
    distances: tuple[PartDistance, ...] = ()
    positions: tuple[AnswerPositions, ...] = ()
    answers: tuple[AnswerText, ...] = ()
    tensors: tuple[FileTensors, ...] = ()
    blame: Blame | None = None
