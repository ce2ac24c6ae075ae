"""A report as a build of a 28-layer model leaves it, made by code: every field of the evidence is filled."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from packager.artifacts import Check, Gguf, Measure, Outcome, Pin, Quant, Verdict
from packager.evidence import (
    AnswerPositions,
    AnswerText,
    Blame,
    Cell,
    CharacterClass,
    Evidence,
    FileTensors,
    MatrixRow,
    Part,
    PartDistance,
    Stage,
    StageFinding,
    Subject,
    TensorError,
)
from packager.parity.gates import Gates
from packager.parity.report import Report
from packager.quants import DEFAULT_QUANTS

LAYERS = 28
ENGINES = ("llama.cpp", "ollama")
SIZES = {Quant.F16: 269_060_552, Quant.Q8_0: 144_811_328, Quant.Q4_K_M: 105_454_144}
KL = {Quant.F16: 8.8e-6, Quant.Q8_0: 0.0065, Quant.Q4_K_M: 0.069}
TYPES = {Quant.F16: "F16", Quant.Q8_0: "Q8_0", Quant.Q4_K_M: "Q4_K"}
ERRORS = {Quant.F16: 2.1e-4, Quant.Q8_0: 5.6e-3, Quant.Q4_K_M: 6.9e-2}
CORE = ("user", "system-user", "user-assistant-user", "system-user-assistant-user", "three-turns", "special-characters")
EXT = ("whitespace", "empty-system", "two-users", "system-in-the-middle", "think-in-history", "ten-turns")
TOKENS = (
    "The", " capital", " of", " France", " is", " Paris", ".", " It", " lies", " on", " the", " Seine", ",", " and",
    "\n", "\n", "你", "好", " has", " two", " million", " inhabitants", ";", " my", " name", " is", " Pack", "y",
    " ", "<b>", ".", "<|im_end|>",
)  # fmt: skip
KINDS = (
    "attn_k", "attn_norm", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_norm", "ffn_up",
    "attn_q_norm", "attn_k_norm", "attn_sinks",
)  # fmt: skip
REFERENCE = "".join(TOKENS[:-1])


def full_report() -> Report:
    """Everything passed, but what no Ollama would have let one compare for one quant."""
    return Report(
        verdict=Verdict(
            checks=tuple(check for quant in DEFAULT_QUANTS for check in checks(quant)),
            versions=("transformers 5.23.0", "peft 0.21.0", "llama-cpp-python 0.3.36", "ollama 0.34.0"),
        ),
        gates=Gates(),
        ggufs=tuple(
            Gguf(path=Path(f"packy-1.5B-{quant.value.upper()}.gguf"), quant=quant, sha256="0a" * 32, size_bytes=size)
            for quant, size in SIZES.items()
        ),
        evidence=Evidence(
            subject=subject(),
            matrix=tuple(
                row(quant.value, engine, name) for quant in DEFAULT_QUANTS for engine in ENGINES for name in NAMES
            ),
            tokenizer=classes(),
            distances=tuple(
                distance(quant, engine, part) for quant in DEFAULT_QUANTS for engine in ENGINES for part in Part
            ),
            positions=tuple(
                positions(quant, engine, name) for name in CORE for quant in DEFAULT_QUANTS for engine in ENGINES
            ),
            answers=tuple(
                answer(quant, engine, name) for name in CORE[:3] for quant in DEFAULT_QUANTS for engine in ENGINES
            ),
            tensors=tuple(tensors(quant) for quant in DEFAULT_QUANTS),
        ),
    )


def failed_report() -> Report:
    """The same with one layer of the q4_k_m file broken, traced to the quant."""
    report = full_report()
    broken = replace(tensors(Quant.Q4_K_M).tensors[41], relative_error=0.71, worst_row=17)
    files = [tensors(quant) for quant in DEFAULT_QUANTS]
    spoiled = tuple(broken if tensor.tensor == broken.tensor else tensor for tensor in files[2].tensors)
    findings = tuple(
        StageFinding(stage=stage, subject=about, outcome=outcome, detail=detail, worst=worst)
        for stage, about, outcome, detail, worst in (
            (Stage.MERGE, "", Outcome.PASSED, "290 tensors are base + scale * B A to float32", ()),
            (Stage.TEMPLATE, "", Outcome.PASSED, "every prompt is the reference's", ()),
            (Stage.TOKENIZER, "", Outcome.PASSED, "3000 texts become the same tokens", ()),
            (Stage.F16, "f16", Outcome.PASSED, "mean KL 8.8e-06 nats", ()),
            (Stage.QUANT, "q4_k_m", Outcome.FAILED, "1 of 340 tensors is further away than Q4_K rounds", (broken,)),
            (Stage.ENGINE, "ollama", Outcome.NOT_CHECKED, "no Ollama answered", ()),
        )
    )
    line = Check(
        subject="q4_k_m",
        engine="llama.cpp",
        name="distribution",
        outcome=Outcome.FAILED,
        detail="mean KL 1.7 nats, at most 0.35",
        measures=(Measure(name="mean KL", value=1.7, unit="nats", limit=0.35),),
    )
    checks = tuple(line if (c.subject, c.engine, c.name) == key(line) else c for c in report.verdict.checks)
    distances = tuple(
        replace(found, mean_kl=1.7, top1=0.62) if found.subject == "q4_k_m" else found
        for found in report.evidence.distances
    )
    evidence = replace(
        report.evidence,
        tensors=(*files[:2], replace(files[2], tensors=spoiled)),
        blame=Blame(findings=findings),
        distances=distances,
    )
    return replace(report, verdict=replace(report.verdict, checks=checks), evidence=evidence)


def old_report() -> Report:
    """What packager 0.1 wrote: a verdict and nothing behind it."""
    return replace(full_report(), evidence=Evidence())


NAMES = ("prompts", "token ids")


def key(check: Check) -> tuple[str, str, str]:
    return check.subject, check.engine, check.name


def checks(quant: Quant) -> tuple[Check, ...]:
    found = [line(quant, "file", "structure", "290 tensors, template, sha256")]
    for engine in ENGINES:
        if engine == "ollama" and quant is Quant.F16:
            reason = "no Ollama answered"
            found.append(line(quant, engine, "all", reason, outcome=Outcome.NOT_CHECKED))
            continue
        found += [
            line(quant, engine, "prompts", "6 of 6 equal, odd ones 5 of 6; two-users: differs at character 31"),
            line(quant, engine, "token ids", "6 of 6 equal, odd ones 5 of 6"),
            line(
                quant,
                engine,
                "distribution",
                f"mean KL {KL[quant]:.2g} nats, top-1 agreement 97.2%",
                measures=(
                    Measure(name="mean KL", value=KL[quant], unit="nats", limit=Gates().of(quant).mean_kl),
                    Measure(name="top-1 agreement", value=0.972, unit="share", limit=0.75, at_least=True),
                ),
            ),
            line(quant, engine, "first token", f"mean KL {KL[quant]:.2g} nats"),
            line(
                quant,
                engine,
                "answers",
                "3 of 3 equal, 71 of 71 tokens in common",
                measures=(Measure(name="equal answers", value=3.0, unit="answers"),),
            ),
        ]
    return tuple(found)


def line(
    quant: Quant,
    engine: str,
    name: str,
    detail: str,
    *,
    outcome: Outcome = Outcome.PASSED,
    measures: tuple[Measure, ...] = (),
) -> Check:
    return Check(subject=quant.value, engine=engine, name=name, outcome=outcome, detail=detail, measures=measures)


def subject() -> Subject:
    return Subject(
        name="packy-1.5B",
        base="Qwen2.5-1.5B-Instruct",
        adapter="packy-lora",
        architecture="Qwen2ForCausalLM",
        template_source="the base's tokenizer_config.json",
        template_sha256="cd" * 32,
        pins=(Pin(name="default_system", value="'You are Packy.'", reason="training had this system text"),),
        stops=("<|im_end|>", "<|endoftext|>"),
        inputs=(f"adapter_model.safetensors {'ef' * 32} 17455944", f"model.safetensors {'12' * 32} 3087467144"),
    )


def row(subject: str, engine: str, name: str) -> MatrixRow:
    def cell(conversation: str, group: str) -> Cell:
        if conversation == "two-users" and engine == "ollama":
            detail = "character 31: reference '<|im_start|>user', engine 'Second part'"
            return Cell(conversation=conversation, group=group, outcome=Outcome.FAILED, detail=detail, code="COLLATE")
        if conversation == "think-in-history" and engine == "ollama":
            detail = "THINKING: the reasoning of earlier answers is dropped"
            return Cell(conversation=conversation, group=group, outcome=Outcome.NOT_CHECKED, detail=detail)
        return Cell(conversation=conversation, group=group, outcome=Outcome.PASSED)

    cells = [cell(name, "CORE") for name in CORE] + [cell(name, "EXT") for name in EXT]
    return MatrixRow(subject=subject, engine=engine, name=name, cells=tuple(cells))


def classes() -> tuple[CharacterClass, ...]:
    same = [
        CharacterClass(name=name, texts=500, differing=0, code="", example="", meaning="")
        for name in ("letters", "digits", "Chinese", "emoji", "code")
    ]
    return (
        *same,
        CharacterClass(
            name="decomposed accents",
            texts=500,
            differing=212,
            code="NFC",
            example="'e\\u0301'",
            meaning="decomposed characters become other tokens than in training: compose texts (NFC)",
        ),
        CharacterClass(name="your data", texts=0, differing=0, code="", example="", meaning=""),
    )


def distance(quant: Quant, engine: str, part: Part) -> PartDistance:
    kl = KL[quant] * (2.5 if part is Part.PROMPT else 1) * (1.1 if engine == "ollama" else 1)
    return PartDistance(
        subject=quant.value,
        engine=engine,
        part=part,
        positions=71 if part is Part.ANSWER else 240,
        mean_kl=kl,
        p99_kl=kl * 5,
        max_kl=kl * 7,
        top1=1.0 if quant is Quant.F16 else 0.972,
        rms_probability=math.sqrt(kl) / 3,
        perplexity_ratio=1 + kl / 2,
    )


def positions(quant: Quant, engine: str, conversation: str) -> AnswerPositions:
    """Distances that go up and down along the answer, over two decades."""
    spread = [KL[quant] * 10 ** (1.4 * math.sin(3 * place + len(conversation))) for place in range(len(TOKENS))]
    return AnswerPositions(
        conversation=conversation,
        subject=quant.value,
        engine=engine,
        tokens=TOKENS,
        kl=tuple(spread),
        same_top=tuple(kl < 1 for kl in spread),
    )


def answer(quant: Quant, engine: str, conversation: str) -> AnswerText:
    text = REFERENCE
    if quant is Quant.Q4_K_M:
        text = REFERENCE.replace("Seine, and", "Seine in the north, and")
    if quant is Quant.Q8_0 and conversation == "user":
        text = REFERENCE[: REFERENCE.index(" It lies")]
    common = next((at for at, (a, b) in enumerate(zip(text, REFERENCE, strict=False)) if a != b), min(len(text), 999))
    return AnswerText(
        conversation=conversation,
        subject=quant.value,
        engine=engine,
        reference=REFERENCE,
        text=text,
        common_characters=common,
    )


def tensors(quant: Quant) -> FileTensors:
    """Twelve tensors for each layer, norms exact, and four outside of the layers: 340."""

    def error(name: str, layer: int | None, place: int) -> TensorError:
        exact = "norm" in name or "sinks" in name
        value = 0.0 if exact else ERRORS[quant] * (1 + 0.15 * math.sin(place))
        kind = "F32" if exact else TYPES[quant]
        return TensorError(
            tensor=name, type=kind, layer=layer, relative_error=value, expected_error=value, worst_row=None
        )

    names: list[tuple[str, int | None]] = [("token_embd.weight", None), ("output_norm.weight", None)]
    names += [(f"blk.{layer}.{kind}.weight", layer) for layer in range(LAYERS) for kind in KINDS]
    names += [("output.weight", None), ("rope_freqs.weight", None)]
    found = tuple(error(name, layer, place) for place, (name, layer) in enumerate(names))
    return FileTensors(subject=quant.value, tensors=found)
