"""How long a prompt may be before Ollama cuts it without a word."""

from __future__ import annotations

from packager.doctor.case import Patient, Reference
from packager.doctor.finding import Examined, Finding, Healthy, NotChecked, Organ, Remedy, Severity
from packager.engines.ollama_replies import Parameter
from packager.stages.modelfile import CONTEXT_LIMIT_TOKENS


def examine_context(patient: Patient, reference: Reference, lengths: tuple[int, ...]) -> Examined:
    """Compare the context that the model runs with, and the one it declares, with the base's and with the user's data.

    Args:
        patient: The model; it has just answered, so that a server can say which context it loaded it with.
        reference: What it should be.
        lengths: Length in tokens of each of the user's own prompts.
    """
    made_for = reference.base.context_tokens
    if made_for is None:
        why = "config.json of the base declares no context length"
        return Examined(not_checked=(NotChecked(organ=Organ.CONTEXT, why=why),))
    findings = _declared(patient, made_for)
    if patient.stored is None or patient.server is None:
        why = "a file has no num_ctx; what it is registered with decides"
        return Examined(findings=findings, not_checked=(NotChecked(organ=Organ.CONTEXT, why=why),))
    named = _number(dict(patient.stored.parameters).get("num_ctx", ()))
    tokens = named or patient.server.loaded_context(patient.name)
    if tokens is None:
        why = "the Modelfile has no num_ctx, and Ollama does not say what it runs the model with"
        how = "see CONTEXT in `ollama ps` after a question"
        return Examined(findings=findings, not_checked=(NotChecked(organ=Organ.CONTEXT, why=why, how=how),))
    longer = sum(length > tokens for length in lengths)
    if longer or (tokens < wanted_context(made_for, ()) and not lengths):
        return Examined(findings=(*findings, _short(tokens, made_for, longer, len(lengths), named=named is not None)))
    what = f"{tokens} tokens" + (f" of the {made_for} it was made for" if tokens < made_for else "")
    return Examined(findings=findings, healthy=() if findings else (Healthy(organ=Organ.CONTEXT, what=what),))


def wanted_context(made_for: int, lengths: tuple[int, ...]) -> int:
    """Give the context that a model should run with: what a build would give it, or more where the user's data need it."""
    return min(made_for, max((CONTEXT_LIMIT_TOKENS, *lengths)))


def _short(tokens: int, made_for: int, longer: int, data: int, *, named: bool) -> Finding:
    where = "num_ctx of the Modelfile" if named else "the server's own context, for want of a num_ctx,"
    cost = f"prompts over {tokens} tokens are cut without a word"
    if data:
        cost += f", {longer} of your {data} conversations among them"
    return Finding(
        code="CONTEXT_SHORT" if named else "CONTEXT_DEFAULT",
        organ=Organ.CONTEXT,
        severity=Severity.SERIOUS if named or longer else Severity.MINOR,
        what=f"{where} is {tokens}; the model was made for {made_for}",
        cost=cost,
        affected=longer / data if data else 1.0,
        remedy=Remedy.MODELFILE,
    )


def _declared(patient: Patient, made_for: int) -> tuple[Finding, ...]:
    declared = patient.value(f"{patient.value('general.architecture')}.context_length")
    if not isinstance(declared, int) or declared >= made_for:
        return ()
    return (
        Finding(
            code="CONTEXT_DECLARED",
            organ=Organ.CONTEXT,
            severity=Severity.SERIOUS,
            what=f"context_length of the GGUF is {declared}; the base has {made_for}",
            cost=f"Ollama gives it {declared} tokens whatever num_ctx says, and cuts what is longer",
        ),
    )


def _number(values: tuple[Parameter, ...]) -> int | None:
    return int(values[0]) if values and isinstance(values[0], float) and values[0] > 0 else None
