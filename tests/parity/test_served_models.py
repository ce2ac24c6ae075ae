"""Models in a real Ollama that run on, punish repetition or have no stops, beside one that is as it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from packager.artifacts import (
    Check,
    Conversation,
    Gguf,
    Message,
    Modelfile,
    OllamaParameters,
    Outcome,
    Quant,
    Registered,
)
from packager.chat.probes import core_probes
from packager.engines.llama_cpp import Embedded
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.engines.transformers import Answer, Reference
from packager.events import silent
from packager.evidence import Part
from packager.formats.model_name import ModelName
from packager.parity.embedded import embedded_findings
from packager.parity.findings import Findings
from packager.parity.gates import Gates
from packager.parity.served import served_findings
from packager.parity.steps import Steps
from packager.parity.truth import ANSWER_TOKENS, Answered, Truth
from packager.stages.register import RegisterJob, register
from tests.ollama_server import HEADER, write_gguf

STOPS = ("<|im_end|>",)
GATES = Gates().q4_k_m


def talk(name: str, *turns: tuple[str, str]) -> Conversation:
    return Conversation(
        id=name, group="CORE", messages=tuple(Message(role=role, content=content) for role, content in turns)
    )


SUM = talk("sum", ("user", "What is 2 + 2?"))
# Its answer holds "<", which could become a stop text: llama-server holds it back, and shows no place for it.
TAGS = next(probe for probe in core_probes() if probe.id == "special-characters")
WORD = talk("word", ("system", "Answer with one word."), ("user", "Say yes."))


@pytest.fixture(scope="module")
def truth(smollm2: Path, chat_gguf: Gguf) -> Truth:
    """The base under transformers: `chat_gguf` has the weights that it was made from."""
    with Embedded(chat_gguf.path, vocabulary_only=True) as file:
        template = file.template
    assert template is not None
    assert template.startswith(HEADER)
    reference = Reference(smollm2, None, template)
    probes = (SUM, WORD, TAGS)
    answers = [reference.answer(probe, max_tokens=ANSWER_TOKENS) for probe in probes]
    reference.close()
    return Truth(
        reference=reference,
        conversations=probes,
        prompts=tuple(reference.render(probe) for probe in probes),
        ids=tuple(reference.tokens(probe) for probe in probes),
        answered=tuple(
            Answered(conversation=probe, answer=answer)
            for probe, answer in zip(probes, answers, strict=True)
            if isinstance(answer, Answer)
        ),
    )


@pytest.fixture(scope="module")
def server(ollama_url: str) -> OllamaServer:
    return OllamaServer.connect(ollama_url)


@pytest.fixture(scope="module")
def look(server: OllamaServer, truth: Truth) -> Iterator[Callable[[Gguf, OllamaParameters], Findings]]:
    """`look(gguf, parameters)` registers a file with these parameters and compares what is served with the reference."""
    names = []

    def findings(gguf: Gguf, parameters: OllamaParameters) -> Findings:
        name = ModelName.parse(f"served-models:{len(names)}")
        names.append(name)
        modelfile = Modelfile(gguf=gguf.path.name, parameters=parameters, license_text=None)
        register(RegisterJob(gguf=gguf, modelfile=modelfile, name=name, replace=True), server)
        stored = Registered(
            name=str(name), quant=Quant.Q4_K_M, blob_sha256=gguf.sha256, same_bytes=True, template_source="gguf"
        )
        with Embedded(gguf.path, context_tokens=1024) as file:
            return served_findings(OllamaEngine(server, name), stored, file, truth, GATES, Steps(99, silent))

    yield findings
    for name in names:
        server.delete(name)


@pytest.fixture(scope="module")
def sound(look: Callable[[Gguf, OllamaParameters], Findings], chat_gguf: Gguf) -> Findings:
    """With parameters that the proof must not be led astray by."""
    return look(chat_gguf, OllamaParameters(stop=STOPS, num_ctx=2048, temperature=0.9, repeat_penalty=1.5))


def by_name(found: Findings) -> dict[str, Check]:
    return {check.name: check for check in found.checks}


def test_the_reference_ends_its_answers_and_one_holds_a_tag(truth: Truth) -> None:
    assert [one.answer.ids[-1] for one in truth.answered[:2]] == [2, 2]
    assert "<" in truth.answered[2].answer.text


def test_a_sound_model_passes_every_line(sound: Findings) -> None:
    assert {name: check.detail for name, check in by_name(sound).items() if check.outcome is not Outcome.PASSED} == {}
    assert by_name(sound)["stops"].measures[0].value >= 2


def test_what_is_shown_of_it_is_as_far_as_the_whole_distributions(
    sound: Findings, truth: Truth, chat_gguf: Gguf
) -> None:
    """Held-back text, places after parting and ends included."""
    with Embedded(chat_gguf.path, context_tokens=1024) as file:
        whole = embedded_findings(file, Quant.Q4_K_M, truth, GATES, Steps(99, silent))
    (served,) = sound.distances
    embedded = next(distance for distance in whole.distances if distance.part is Part.ANSWER)
    measures = {measure.name: measure.value for measure in by_name(sound)["distribution"].measures}
    # One place: the reference spelled `attr="` with other tokens than its text is read as.
    assert served.positions + measures["left out"] == embedded.positions
    assert measures["left out"] == 1
    assert served.mean_kl == pytest.approx(embedded.mean_kl, rel=0.5)
    assert served.rms_probability == pytest.approx(embedded.rms_probability, rel=0.5)
    assert served.perplexity_ratio == pytest.approx(embedded.perplexity_ratio, abs=0.03)


def test_without_stop_parameters_the_files_own_end_still_ends(
    look: Callable[[Gguf, OllamaParameters], Findings], chat_gguf: Gguf
) -> None:
    found = by_name(look(chat_gguf, OllamaParameters(num_ctx=2048)))
    assert found["stops"].outcome is Outcome.PASSED


def test_a_model_that_does_not_know_its_end_runs_on_and_fails(
    look: Callable[[Gguf, OllamaParameters], Findings], tmp_path: Path
) -> None:
    """The file names another token as the end, and the real one has a text that llama.cpp does not know as an end."""
    endless = write_gguf(tmp_path / "endless.gguf", renamed={"<|im_end|>": "<|over|>"})
    found = by_name(look(endless, OllamaParameters(num_ctx=2048)))
    assert found["stops"].outcome is Outcome.FAILED
    assert "the reference ends after" in found["stops"].detail
    assert found["stops"].detail.endswith(f"Ollama after {ANSWER_TOKENS} (length)")
    # The weights are right: nothing else gives this away.
    assert found["distribution"].outcome is Outcome.PASSED
    assert found["token ids"].outcome is Outcome.PASSED
    assert found["streaming"].outcome is found["openai endpoint"].outcome is Outcome.PASSED


def test_another_model_behind_the_name_fails(
    server: OllamaServer, truth: Truth, chat_gguf: Gguf, tmp_path: Path
) -> None:
    """What is served is not the file that was verified: its prompts are cut short by a template of another training."""
    text = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    other = write_gguf(tmp_path / "other.gguf", text)
    modelfile = Modelfile(gguf=other.path.name, parameters=OllamaParameters(), license_text=None)
    name = ModelName.parse("served-models:other")
    register(RegisterJob(gguf=other, modelfile=modelfile, name=name, replace=True), server)
    stored = Registered(
        name=str(name), quant=Quant.Q4_K_M, blob_sha256=other.sha256, same_bytes=True, template_source="gguf"
    )
    with Embedded(chat_gguf.path, context_tokens=1024) as file:
        found = by_name(served_findings(OllamaEngine(server, name), stored, file, truth, GATES, Steps(99, silent)))
    server.delete(name)
    for line in ("prompts", "token ids", "distribution", "same file"):
        assert found[line].outcome is Outcome.FAILED, found[line].detail
