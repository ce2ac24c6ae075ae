"""How far from the reference a quant may be: limits that were measured, and how to change them.

docs/gates.md has the measurements and the margins; most types have no limit, because none of the models measured there says
anything about them. Prompts, token ids and file structure have no limit to set: they are
equal or they are wrong.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from packager.artifacts import Quant
from packager.errors import Usage


@dataclass(frozen=True, kw_only=True)
class QuantGates:
    """The limits of one quant; None where none was measured: what has no limit is shown and neither passes nor fails.

    Attributes:
        mean_kl: Most KL(reference || engine), mean over all answer positions, nats.
        first_kl: Most KL at the first token of an answer, mean over the CORE conversations, nats.
        top1: Least share of answer positions with the same most likely token, 0 to 1.
        prompt_kl: Most KL, mean over all prompt positions, nats; also over the answers of the user's own data.
        perplexity: Most the perplexity of the reference's answers may grow by, as a ratio: 1 is no growth.
        answer_margin: A greedy answer may leave the reference's only where the reference preferred its own token by at
            most this, nats: nearly undecided, as far as this quant can tell.
    """

    mean_kl: float | None = None
    first_kl: float | None = None
    top1: float | None = None
    answer_margin: float | None = None
    prompt_kl: float | None = None
    perplexity: float | None = None


_UNMEASURED = QuantGates()


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The limits of every quant. The fields are named by the quants."""

    f32: QuantGates = QuantGates(
        mean_kl=3e-4, first_kl=5e-4, top1=0.95, answer_margin=0.05, prompt_kl=3e-4, perplexity=1.005
    )
    f16: QuantGates = QuantGates(
        mean_kl=3e-4, first_kl=5e-4, top1=0.95, answer_margin=0.05, prompt_kl=3e-4, perplexity=1.005
    )
    bf16: QuantGates = QuantGates(
        mean_kl=0.003, first_kl=0.008, top1=0.93, answer_margin=0.15, prompt_kl=0.008, perplexity=1.02
    )
    q8_0: QuantGates = QuantGates(
        mean_kl=0.04, first_kl=0.08, top1=0.85, answer_margin=0.5, prompt_kl=0.07, perplexity=1.05
    )
    q6_k: QuantGates = QuantGates(
        mean_kl=0.06, first_kl=0.1, top1=0.83, answer_margin=1.0, prompt_kl=0.16, perplexity=1.08
    )
    q5_1: QuantGates = _UNMEASURED
    q5_k_m: QuantGates = _UNMEASURED
    q5_k_s: QuantGates = _UNMEASURED
    q5_0: QuantGates = QuantGates(mean_kl=0.5, first_kl=1.2, top1=0.7, answer_margin=3.0, prompt_kl=0.9, perplexity=1.6)
    q4_1: QuantGates = _UNMEASURED
    q4_k_m: QuantGates = QuantGates(
        mean_kl=0.35, first_kl=0.45, top1=0.75, answer_margin=2.5, prompt_kl=0.8, perplexity=1.5
    )
    q4_k_s: QuantGates = QuantGates(
        mean_kl=0.4, first_kl=0.9, top1=0.7, answer_margin=3.0, prompt_kl=1.4, perplexity=1.5
    )
    iq4_nl: QuantGates = _UNMEASURED
    q4_0: QuantGates = _UNMEASURED
    mxfp4_moe: QuantGates = _UNMEASURED
    iq4_xs: QuantGates = _UNMEASURED
    q3_k_l: QuantGates = _UNMEASURED
    q3_k_m: QuantGates = _UNMEASURED
    iq3_m: QuantGates = _UNMEASURED
    iq3_s: QuantGates = _UNMEASURED
    q3_k_s: QuantGates = _UNMEASURED
    iq3_xs: QuantGates = _UNMEASURED
    iq3_xxs: QuantGates = _UNMEASURED
    q2_k: QuantGates = _UNMEASURED
    q2_k_s: QuantGates = _UNMEASURED
    iq2_m: QuantGates = _UNMEASURED
    iq2_s: QuantGates = _UNMEASURED
    iq2_xs: QuantGates = _UNMEASURED
    q2_0: QuantGates = _UNMEASURED
    iq2_xxs: QuantGates = _UNMEASURED
    tq2_0: QuantGates = _UNMEASURED
    iq1_m: QuantGates = _UNMEASURED
    tq1_0: QuantGates = _UNMEASURED
    iq1_s: QuantGates = _UNMEASURED
    q1_0: QuantGates = _UNMEASURED

    def of(self, quant: Quant) -> QuantGates:
        """Give the limits of one quant."""
        found: QuantGates = getattr(self, quant.value)
        return found


def gates_from(changes: tuple[tuple[str, float], ...]) -> Gates:
    """Give the measured limits with some of them changed.

    Args:
        changes: `("q4_k_m.mean_kl", 0.5)` for each; a later one wins.

    Raises:
        Usage: No such limit, or a value that cannot be one: negative, not a number, or a share above 1.

    Worked example:
        >>> gates_from((("q4_k_m.mean_kl", 0.5),)).q4_k_m.mean_kl
        0.5
    """
    gates = Gates()
    for name, limit in changes:
        quant, _, measure = name.partition(".")
        if quant not in set(Quant) or measure not in _measures():
            raise Usage(
                f"--gate {name}: no such threshold",
                hint=f"QUANT is one of {', '.join(Quant)}; MEASURE is one of {', '.join(_measures())}.",
            )
        if not math.isfinite(limit) or limit < 0 or (measure == "top1" and limit > 1):
            raise Usage(
                f"--gate {name}={limit}: not a limit", hint="KL is in nats, from 0 up; top1 is a share, 0 to 1."
            )
        changed = dataclasses.replace(gates.of(Quant(quant)), **{measure: limit})
        gates = dataclasses.replace(gates, **{quant: changed})
    return gates


def _measures() -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(QuantGates))
