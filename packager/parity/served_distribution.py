"""What Ollama shows of its distributions along the reference's answers, against the reference and the same file embedded.

Ollama continues text; it takes no token ids. A greedy answer that says the reference's tokens has the reference's past, so its
probabilities cost nothing until it says another token. From there on the reference's own text is put behind the prompt and
continued by one token, place by place; llama-server keeps the prompt, so that each costs one or two tokens. A place whose text
would be read as other tokens than the reference's is left out, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packager.artifacts import Check, Outcome, Quant
from packager.engines.engine import NotSupported
from packager.engines.llama_cpp import Embedded
from packager.engines.ollama_answers import ServedAnswer
from packager.engines.transformers import Answer
from packager.evidence import AnswerPositions, Part
from packager.parity.findings import Findings
from packager.parity.gates import QuantGates
from packager.parity.judge import distribution_check, gated, measure
from packager.parity.logits import Scores, finite, part_distance
from packager.parity.shown import TOP_TOKENS, Seen, ShownVocabulary, Top
from packager.parity.truth import Answered, Truth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from packager.engines.ollama import OllamaEngine

# Most mean KL between one file embedded and served, nats. Both are llama.cpp, but of other builds, and Ollama turns flash
# attention on: docs/served.md has what was measured.
_EXACT_KL, _ROUNDED_KL = (
    3e-4,
    0.02,
)  # with blocks and bfloat16, llama.cpp rounds activations too, each build its own way
SAME_FILE_KL = {quant.value: _EXACT_KL if quant in (Quant.F32, Quant.F16) else _ROUNDED_KL for quant in Quant}


@dataclass(frozen=True, kw_only=True)
class Followed:
    """One answer of the reference, followed in Ollama.

    Attributes:
        answered: The conversation.
        to_reference: Each place against the reference; None where it was left out.
        to_file: The same places against the file embedded, where that was asked too.
        left_out: Why the first place that was left out was; empty when none was.
    """

    answered: Answered
    to_reference: tuple[Seen | None, ...]
    to_file: tuple[Seen | None, ...]
    left_out: str


def follow(
    engine: OllamaEngine,
    answered: Answered,
    prompt: str | NotSupported,
    spoken: ServedAnswer,
    file: Embedded,
    vocabulary: ShownVocabulary,
    *,
    beside_file: bool,
) -> Followed:
    """Look at every place of one answer.

    Args:
        engine: The model in Ollama.
        answered: The reference's answer.
        prompt: The text of the prompt as Ollama builds it.
        spoken: Ollama's own greedy answer, with its tokens.
        file: The same GGUF embedded.
        vocabulary: Its vocabulary.
        beside_file: Have the file say how sure it is of the same answer, which takes as long as reading the prompt.

    Raises:
        OllamaFailed: The server died or refused.
        InputInvalid: llama.cpp cannot evaluate the file.
    """
    answer = answered.answer
    tops = _tops(engine, answer, prompt, spoken, file, vocabulary)
    to_file: tuple[Seen | None, ...] = ()
    if beside_file:
        rows = file.next_logprobs(answer.prompt + answer.ids[:-1], start=len(answer.prompt) - 1)
        to_file = _seen(rows, tops, answer.ids, vocabulary)
    reasons = [top for top in tops if isinstance(top, NotSupported)]
    return Followed(
        answered=answered,
        to_reference=_seen(answer.logprobs, tops, answer.ids, vocabulary),
        to_file=to_file,
        left_out=f"{reasons[0].code}: {reasons[0].detail}" if reasons else "",
    )


def own_places(spoken: ServedAnswer, ids: tuple[int, ...], vocabulary: ShownVocabulary) -> tuple[Top, ...]:
    """Give the places at which a greedy answer had the reference's past: up to and with its first other token.

    None at all where Ollama did not show every token: the places of those it shows are then unknown.
    """
    ended = spoken.end == "stop"  # by a token without an entry of its own
    if spoken.answer_tokens != len(spoken.tokens) + ended:
        return ()
    found: list[Top] = []
    for token, expected in zip(spoken.tokens, ids, strict=False):
        if not token.top or token.text != token.top[0].text:  # it carries text that was held back
            return ()
        found.append(token.top)
        if not vocabulary.is_token(token.text, expected):
            break
    return tuple(found)


def distribution_findings(
    followed: Sequence[Followed], truth: Truth, gates: QuantGates, *, subject: str, engine: str
) -> Findings:
    """Judge the places of all answers.

    Returns:
        Checks `distribution`, `same file` and `first token`, with the figures behind them; not checked where Ollama shows no
        place at all.
    """
    places = [seen for one in followed for seen in one.to_reference if seen is not None]
    reason = next((one.left_out for one in followed if one.left_out), "")
    if not places:
        names = ("distribution", "same file", "first token")
        return Findings(checks=tuple(not_shown(reason, subject=subject, engine=engine, name=name) for name in names))
    distance = part_distance(_scores(places), subject=subject, engine=engine, part=Part.ANSWER)
    check = distribution_check(distance, gates)
    if left_out := sum(seen is None for one in followed for seen in one.to_reference):
        detail = f"{check.detail}; {left_out} places left out ({reason})"
        check = replace(check, detail=detail, measures=(*check.measures, measure("left out", left_out, "tokens")))
    return Findings(
        checks=(
            check,
            _same_file(followed, reason, subject=subject, engine=engine),
            _first_token(followed, reason, gates, subject=subject, engine=engine),
        ),
        distances=(distance,),
        positions=tuple(
            _positions(one, truth, subject=subject, engine=engine) for one in followed if None not in one.to_reference
        ),
    )


def not_shown(reason: str, *, subject: str, engine: str, name: str) -> Check:
    """Give the line of a comparison for which Ollama shows too little."""
    return Check(subject=subject, engine=engine, name=name, outcome=Outcome.NOT_CHECKED, detail=reason)


def _tops(
    engine: OllamaEngine,
    answer: Answer,
    prompt: str | NotSupported,
    spoken: ServedAnswer,
    file: Embedded,
    vocabulary: ShownVocabulary,
) -> tuple[Top | NotSupported, ...]:
    """Give what Ollama shows at each place of the reference's answer, or why it shows nothing there."""
    tops: list[Top | NotSupported] = list(own_places(spoken, answer.ids, vocabulary))
    while len(tops) < len(answer.ids):
        found = _continued(engine, file, prompt, answer, len(tops))
        # What this Ollama does not show at one place, it shows nowhere.
        times = len(answer.ids) - len(tops) if isinstance(found, NotSupported) and found.code == "NO_LOGPROBS" else 1
        tops += [found] * times
    return tuple(tops)


def _continued(
    engine: OllamaEngine, file: Embedded, prompt: str | NotSupported, answer: Answer, place: int
) -> Top | NotSupported:
    """Ask for the place after the first `place` tokens of the reference's answer."""
    if isinstance(prompt, NotSupported):
        return prompt
    past = answer.ids[:place]
    try:
        text = prompt + b"".join(file.pieces[token] for token in past).decode()
    except UnicodeDecodeError:
        return NotSupported(code="HALF_CHARACTER", detail="it is inside a character, and Ollama takes text")
    ids = answer.prompt + past
    if file.tokenize(text, add_special=True) != ids:
        return NotSupported(code="OTHER_TOKENS", detail="its text is read as other tokens than the reference's")
    return engine.next_token(text, tokens=len(ids), top=TOP_TOKENS)


def _seen(
    rows: NDArray[np.float32], tops: Sequence[Top | NotSupported], ids: tuple[int, ...], vocabulary: ShownVocabulary
) -> tuple[Seen | None, ...]:
    return tuple(
        None if isinstance(top, NotSupported) else vocabulary.seen(row, top, follows)
        for row, top, follows in zip(rows, tops, ids, strict=True)
    )


def _scores(places: Sequence[Seen]) -> Scores:
    import numpy as np

    return Scores(
        kl=np.array([seen.kl for seen in places]),
        same_top=np.array([seen.same_top for seen in places]),
        reference_next=np.array([seen.reference_next for seen in places]),
        engine_next=np.array([seen.shown_next for seen in places]),
    )


def _same_file(followed: Sequence[Followed], reason: str, *, subject: str, engine: str) -> Check:
    """Judge the served model against its own file: the two must be one model."""
    places = [seen for one in followed for seen in one.to_file if seen is not None]
    if not places:
        return not_shown(reason, subject=subject, engine=engine, name="same file")
    measures = (
        measure("mean KL to the file in llama.cpp", _mean(places), "nats", SAME_FILE_KL[subject]),
        measure("top-1 agreement", sum(seen.same_top for seen in places) / len(places), "share"),
        measure("max KL", max(seen.kl for seen in places), "nats"),
        measure("positions", len(places), "tokens"),
    )
    return gated(measures, subject=subject, engine=engine, name="same file")


def _first_token(followed: Sequence[Followed], reason: str, gates: QuantGates, *, subject: str, engine: str) -> Check:
    first = [one.to_reference[0] for one in followed if one.to_reference[0] is not None]
    if not first:
        return not_shown(reason, subject=subject, engine=engine, name="first token")
    measures = (measure(f"mean KL over the top {TOP_TOKENS}", _mean(first), "nats", gates.first_kl),)
    return gated(measures, subject=subject, engine=engine, name="first token")


def _mean(places: Sequence[Seen]) -> float:
    return sum(seen.kl for seen in places) / len(places)


def _positions(one: Followed, truth: Truth, *, subject: str, engine: str) -> AnswerPositions:
    places = [seen for seen in one.to_reference if seen is not None]
    return AnswerPositions(
        conversation=one.answered.conversation.id,
        subject=subject,
        engine=engine,
        tokens=tuple(truth.reference.piece(token) for token in one.answered.answer.ids),
        kl=tuple(float(f"{finite(seen.kl):.3g}") for seen in places),
        same_top=tuple(seen.same_top for seen in places),
    )
