"""The comparison end to end: a real model, the embedded llama.cpp, a real Ollama; healthy, and with planted faults."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from packager.artifacts import Check, Gguf, Outcome, Quant, Registered, TemplateForm, Verdict
from packager.chat.probes import core_probes, load_probes
from packager.codec import canonical_json, decode
from packager.engines.ollama import OllamaServer
from packager.errors import ToolMissing
from packager.events import Advanced, Event, Noted
from packager.evidence import Evidence, Part
from packager.formats.gguf import header_bytes, read_gguf
from packager.formats.model_name import ModelName
from packager.parity.gates import Gates, gates_from
from packager.quants import DEFAULT_QUANTS
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.blame import TraceJob, trace
from packager.stages.modelfile import ModelfileJob, make_modelfile
from packager.stages.register import RegisterJob, register
from packager.stages.verify import Verified, VerifyJob, verify
from tests.made_ggufs import Made, make_ggufs
from tests.ollama_server import running_ollama
from tests.peft_adapters import train

NO_GO = TemplateForm(text=None, code="POSITION", reason="not asked for")

EMBEDDED = ("prompts", "token ids", "tokenizer", "distribution", "prompt distribution", "first token", "answers")
SERVED = (
    "stored model", "prompts", "token ids", "distribution", "same file", "first token", "answers", "stops", "streaming",
    "openai endpoint",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(smollm2: Path, smollm2_lora: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The demo's three quants."""
    return make_ggufs(smollm2, smollm2_lora, DEFAULT_QUANTS, tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def tiny_made(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Made:
    """A model whose template writes BOS; random, so that only structure, prompts, tokens and f16 rounding mean something."""
    return make_ggufs(tiny("llama3.1"), tiny_lora("llama3.1"), (Quant.F16,), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def server(ollama_url: str) -> OllamaServer:
    return OllamaServer.connect(ollama_url)


def registered(made: Made, name: str, server: OllamaServer) -> tuple[Registered, ...]:
    return tuple(
        register(
            RegisterJob(
                gguf=gguf,
                modelfile=make_modelfile(
                    ModelfileJob(base=made.base, template=made.template, go=NO_GO, gguf_name=gguf.path.name)
                ).modelfile,
                name=ModelName.parse(name).with_tag(gguf.quant.value),
                replace=True,
            ),
            server,
        )
        for gguf in made.ggufs
    )


def job(made: Made, *models: Registered, gates: Gates | None = None) -> VerifyJob:
    return VerifyJob(
        base=made.base,
        adapter=made.adapter,
        template=made.template,
        ggufs=made.ggufs,
        registered=models,
        gates=gates or Gates(),
        inputs=made.inputs,
    )


@pytest.fixture(scope="module")
def verified(
    made: Made, server: OllamaServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Verified, list[Event]]:
    """All three quants on both engines, with a reference that has not answered before."""
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACKAGER_CACHE", str(tmp_path_factory.mktemp("cache")))
        return verify(job(made, *registered(made, "verify-healthy", server)), server, emit=events.append), events


@pytest.fixture(scope="module")
def healthy(verified: tuple[Verified, list[Event]]) -> tuple[Verdict, list[Event]]:
    return verified[0].verdict, verified[1]


def of(verdict: Verdict, quant: Quant, engine: str) -> dict[str, Check]:
    return {check.name: check for check in verdict.checks if check.subject == quant and check.engine == engine}


def lines(verdict: Verdict) -> str:
    return "\n".join(f"{c.subject} {c.engine} {c.name}: {c.outcome.value}: {c.detail}" for c in verdict.checks)


def described(path: Path, quant: Quant) -> Gguf:
    data = path.read_bytes()
    return Gguf(path=path, quant=quant, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def with_value(source: Path, key: str, value: str, target: Path) -> Path:
    """Write a file again with one metadata value changed."""
    header = read_gguf(source)
    metadata = [replace(entry, value=value) if entry.key == key else entry for entry in header.metadata]
    text = header_bytes(metadata, [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors])
    target.write_bytes(text + source.read_bytes()[header.data_offset :])
    return target


# --- as it should be -----------------------------------------------------------------------------------------------------


def test_the_demos_three_quants_pass_everywhere(healthy: tuple[Verdict, list[Event]]) -> None:
    verdict, _ = healthy
    assert {check.outcome for check in verdict.checks} == {Outcome.PASSED}, lines(verdict)
    for quant in DEFAULT_QUANTS:
        assert verdict.passed_for(quant)
        assert tuple(of(verdict, quant, "file")) == ("structure",)
        assert tuple(of(verdict, quant, "llama.cpp")) == EMBEDDED
        assert tuple(of(verdict, quant, "ollama")) == SERVED


def test_the_evidence_is_of_every_quant_and_says_what_was_packaged(
    verified: tuple[Verified, list[Event]], made: Made
) -> None:
    evidence = verified[0].evidence
    assert evidence.subject is not None
    assert (evidence.subject.base, evidence.subject.architecture) == (made.base.name, "LlamaForCausalLM")
    assert any(line.startswith("model.safetensors ") for line in evidence.subject.inputs)
    assert str(made.base.folder) not in canonical_json(evidence)
    assert {(d.subject, d.part) for d in evidence.distances if d.engine == "llama.cpp"} == {
        (quant.value, part) for quant in DEFAULT_QUANTS for part in (Part.ANSWER, Part.PROMPT)
    }
    assert {row.subject for row in evidence.matrix} == {p.subject for p in evidence.positions} == set(DEFAULT_QUANTS)
    assert {c.differing for c in evidence.tokenizer} == {0}
    assert decode(Evidence, json.loads(canonical_json(evidence))) == evidence


@pytest.mark.parametrize("engine", [pytest.param("llama.cpp", id="embedded"), pytest.param("ollama", id="ollama")])
def test_odd_conversations_are_equal_too(healthy: tuple[Verdict, list[Event]], engine: str) -> None:
    for name in ("prompts", "token ids"):
        for check in (of(healthy[0], quant, engine)[name] for quant in DEFAULT_QUANTS):
            counts = {measure.name: measure.value for measure in check.measures}
            assert counts == {"CORE equal": len(core_probes()), "EXT equal": len(load_probes()) - len(core_probes())}


def test_quants_differ_in_the_order_of_their_sizes(healthy: tuple[Verdict, list[Event]]) -> None:
    kl = [of(healthy[0], quant, "llama.cpp")["distribution"].measures[0].value for quant in DEFAULT_QUANTS]
    assert kl[0] < 1e-4 < kl[1] < kl[2]


def test_ollama_serves_what_the_file_says(verified: tuple[Verified, list[Event]]) -> None:
    """The same weights in two builds of llama.cpp: only rounding may differ, and not one place is hidden."""
    evidence = verified[0].evidence
    for quant in DEFAULT_QUANTS:
        embedded, served = (
            next(d for d in evidence.distances if (d.subject, d.engine, d.part) == (quant, engine, Part.ANSWER))
            for engine in ("llama.cpp", "ollama")
        )
        assert served.positions == embedded.positions
        # Joined categories hide a little of the distance; another order of sums may add as much.
        assert served.mean_kl == pytest.approx(embedded.mean_kl, rel=0.5)
        assert served.top1 == pytest.approx(embedded.top1, abs=0.03)
        assert served.perplexity_ratio == pytest.approx(embedded.perplexity_ratio, abs=0.03)
        positions = [one for one in evidence.positions if (one.subject, one.engine) == (quant, "ollama")]
        assert len(positions) == len(core_probes())
        assert sum(len(one.kl) for one in positions) == served.positions


def test_progress_counts_to_its_total(healthy: tuple[Verdict, list[Event]]) -> None:
    events = [event for event in healthy[1] if isinstance(event, Advanced)]
    assert {(event.stage, event.unit) for event in events} == {("verify", "probe")}
    assert [event.done for event in events] == list(range(1, events[0].total + 1))


def test_the_versions_of_all_engines_are_told(healthy: tuple[Verdict, list[Event]], server: OllamaServer) -> None:
    names = [line.split()[0] for line in healthy[0].versions]
    assert names == ["transformers", "llama-cpp-python", "ollama"]
    assert healthy[0].versions[-1] == f"ollama {server.version}"


def test_the_demos_tensors_are_what_llama_cpp_rounds_them_to_and_nobody_is_to_blame(
    verified: tuple[Verified, list[Event]], made: Made, tree: LlamaCppTree
) -> None:
    wanted = TraceJob(
        base=made.base,
        adapter=made.adapter,
        template=made.template,
        ggufs=made.ggufs,
        registered=(),
        verdict=verified[0].verdict,
        tokenizer=verified[0].evidence.tokenizer,
        tree=tree,
    )
    traced = trace(wanted, None)
    assert traced.blame is None
    for file, limit in zip(traced.tensors, (3e-4, 7e-3, 6e-2), strict=True):
        assert len(file.tensors) == 272
        assert {error.worst_row for error in file.tensors} == {None}
        assert max(error.relative_error for error in file.tensors) < limit


# --- planted faults: weights (docs/gates.md has the figures of every quant) -----------------------------------------------


@pytest.fixture(scope="module")
def twice(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """The file holds the adapter at twice its scale, with the right template."""
    assert made.adapter is not None
    doubled = Path(shutil.copytree(made.adapter.folder, tmp_path_factory.mktemp("doubled") / "adapter"))
    config = json.loads((doubled / "adapter_config.json").read_text())
    config["lora_alpha"] *= 2
    (doubled / "adapter_config.json").write_text(json.dumps(config))
    wrong = make_ggufs(made.base.folder, doubled, (Quant.Q4_K_M,), tmp_path_factory.mktemp("twice"))
    assert wrong.template.text == made.template.text
    return verify(job(replace(made, ggufs=wrong.ggufs)), None).verdict


@pytest.fixture(scope="module")
def unmerged(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """The files hold the base alone, with the right template."""
    forgotten = make_ggufs(made.base.folder, None, (Quant.Q4_K_M,), tmp_path_factory.mktemp("base")).ggufs[0].path
    path = with_value(forgotten, "tokenizer.chat_template", made.template.text, forgotten.with_name("shipped.gguf"))
    return verify(job(replace(made, ggufs=(described(path, Quant.Q4_K_M),))), None).verdict


@pytest.mark.parametrize("fault", ["twice", "unmerged"], ids=["scale doubled", "adapter forgotten"])
def test_wrong_weights_fail_even_in_the_quant_with_the_widest_limits(
    request: pytest.FixtureRequest, fault: str
) -> None:
    verdict: Verdict = request.getfixturevalue(fault)
    checks = of(verdict, Quant.Q4_K_M, "llama.cpp")
    assert checks["distribution"].outcome is Outcome.FAILED, lines(verdict)
    assert not verdict.passed_for(Quant.Q4_K_M)
    assert not verdict.passed
    for name in ("prompts", "token ids"):
        assert checks[name].outcome is Outcome.PASSED, "only the weights are wrong"


# --- planted faults: template, tokens, files -----------------------------------------------------------------------------


def test_a_lost_bos_fails(tiny_made: Made, tmp_path: Path) -> None:
    text = "{%- set bos_token = '' -%}" + tiny_made.template.text
    path = with_value(tiny_made.ggufs[0].path, "tokenizer.chat_template", text, tmp_path / "lost-F16.gguf")
    verdict = verify(job(replace(tiny_made, ggufs=(described(path, Quant.F16),))), None).verdict
    checks = of(verdict, Quant.F16, "llama.cpp")
    assert checks["token ids"].outcome is Outcome.FAILED
    assert "token 0: reference 128000 '<|begin_of_text|>'" in checks["token ids"].detail
    assert checks["prompts"].outcome is Outcome.FAILED


def test_a_stale_template_fails_in_ollama_and_embedded(tiny_made: Made, server: OllamaServer, tmp_path: Path) -> None:
    stale = tiny_made.template.text.replace("<|eot_id|>", "<|eom_id|>")
    assert stale != tiny_made.template.text
    path = with_value(tiny_made.ggufs[0].path, "tokenizer.chat_template", stale, tmp_path / "stale-F16.gguf")
    shipped = replace(tiny_made, ggufs=(described(path, Quant.F16),))
    verdict = verify(job(shipped, *registered(shipped, "verify-stale", server)), server).verdict
    assert of(verdict, Quant.F16, "file")["structure"].outcome is Outcome.FAILED
    for engine in ("llama.cpp", "ollama"):
        for name in ("prompts", "token ids"):
            check = of(verdict, Quant.F16, engine)[name]
            assert check.outcome is Outcome.FAILED, lines(verdict)
            assert check.detail.startswith("0 of 6 equal")


def test_a_model_with_bos_is_equal_on_both_engines(tiny_made: Made, server: OllamaServer) -> None:
    verdict = verify(job(tiny_made, *registered(tiny_made, "verify-bos", server)), server).verdict
    for engine in ("llama.cpp", "ollama"):
        for name in ("prompts", "token ids"):
            check = of(verdict, Quant.F16, engine)[name]
            assert check.outcome is Outcome.PASSED, lines(verdict)
            assert check.measures[0].value == len(core_probes())


def test_another_quant_under_this_ones_name_fails(tiny_made: Made) -> None:
    renamed = replace(tiny_made, ggufs=(replace(tiny_made.ggufs[0], quant=Quant.Q4_K_M),))
    verdict = verify(job(renamed), None).verdict
    assert of(verdict, Quant.Q4_K_M, "file")["structure"].outcome is Outcome.FAILED
    assert not verdict.passed_for(Quant.Q4_K_M)


def test_a_damaged_file_is_not_given_to_llama_cpp(tiny_made: Made, tmp_path: Path) -> None:
    gguf = tiny_made.ggufs[0]
    path = tmp_path / gguf.path.name
    data = bytearray(gguf.path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    verdict = verify(job(replace(tiny_made, ggufs=(replace(gguf, path=path),))), None).verdict
    assert [(check.engine, check.outcome) for check in verdict.checks] == [
        ("file", Outcome.FAILED),
        ("llama.cpp", Outcome.NOT_CHECKED),
        ("ollama", Outcome.NOT_CHECKED),
    ]
    assert not verdict.passed


# --- engines that are absent, limits that are changed -----------------------------------------------------------------


def test_without_ollama_that_column_is_not_checked_and_never_passed(tiny_made: Made) -> None:
    (check,) = of(verify(job(tiny_made), None).verdict, Quant.F16, "ollama").values()
    assert (check.outcome, check.detail) == (Outcome.NOT_CHECKED, "no Ollama answered")


def test_what_was_not_registered_is_not_checked(tiny_made: Made, server: OllamaServer) -> None:
    (check,) = of(verify(job(tiny_made), server).verdict, Quant.F16, "ollama").values()
    assert (check.outcome, check.detail) == (Outcome.NOT_CHECKED, "not registered")


def test_an_ollama_that_dies_fails_its_column_alone(
    tiny_made: Made, ollama_executable: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running_ollama(ollama_executable, tmp_path_factory.mktemp("dying") / "models") as url:
        dying = OllamaServer.connect(url)
        models = registered(tiny_made, "verify-dying", dying)
    verdict = verify(job(tiny_made, *models), dying).verdict
    (check,) = of(verdict, Quant.F16, "ollama").values()
    assert check.outcome is Outcome.FAILED
    assert url in check.detail
    assert of(verdict, Quant.F16, "llama.cpp")["prompts"].outcome is Outcome.PASSED


def test_without_llama_cpp_its_column_is_not_checked(tiny_made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ToolMissing("the Python package llama-cpp-python is not installed")

    monkeypatch.setattr("packager.engines.llama_cpp._library", missing)
    verdict = verify(job(tiny_made), None).verdict
    (check,) = of(verdict, Quant.F16, "llama.cpp").values()
    assert check.outcome is Outcome.NOT_CHECKED
    assert "not installed" in check.detail


def test_a_limit_that_is_changed_decides(tiny_made: Made) -> None:
    verdict = verify(job(tiny_made, gates=gates_from((("f16.mean_kl", 0.0),))), None).verdict
    check = of(verdict, Quant.F16, "llama.cpp")["distribution"]
    assert check.outcome is Outcome.FAILED
    assert check.detail.endswith("nats, at most 0")


def test_a_reference_that_does_not_fit_is_run_from_the_disk_and_the_cost_told_before(
    tiny_made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path))
    events: list[Event] = []
    small = replace(job(tiny_made), reference_memory_bytes=1)
    found = verify(small, None, emit=events.append).verdict
    assert {check.outcome for check in found.checks} == {Outcome.PASSED, Outcome.NOT_CHECKED}, lines(found)
    assert isinstance(events[0], Noted)
    assert events[0].warning
    assert "for each of up to 192 forward passes" in events[0].text
    assert not list(tmp_path.rglob(".new-*"))
    again: list[Event] = []
    assert verify(small, None, emit=again.append).verdict == found
    assert not any(isinstance(event, Noted) for event in again), "what was answered before costs nothing"


def test_a_fine_tune_with_another_vocabulary_is_counted_as_it_is(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base, lora = tiny("qwen2.5"), tmp_path / "grown"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<|packy|>"], special_tokens=True)
    train(base, lora, vocab_size=len(tokenizer), r=2, target_modules=["q_proj"])
    tokenizer.save_pretrained(lora)
    grown = make_ggufs(base, lora, (Quant.F16,), tmp_path / "out")

    found = verify(job(grown), None, emit=lambda _: None)

    structure = next(check for check in found.verdict.checks if check.name == "structure")
    assert structure.outcome is Outcome.PASSED, structure.detail
