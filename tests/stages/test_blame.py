"""Every planted fault is blamed on the stage where it entered; a build as it should be blames nothing.

What triggers the search is a verdict with a failed check. The checks of engines come last in the chain, so that a trigger
of Ollama's column leaves every other stage to be found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from packager.artifacts import Check, Dtype, Gguf, Outcome, Quant, Verdict
from packager.engines.ollama import OllamaServer
from packager.events import Advanced, Event
from packager.evidence import Blame, CharacterClass, Stage, StageFinding
from packager.formats.adapter import read_adapter
from packager.formats.gguf import GgufArray, Scalar, ValueType, read_gguf
from packager.formats.model_name import ModelName
from packager.quants import DEFAULT_QUANTS
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.blame import TraceJob, blame_line, trace
from packager.stages.register import read_back
from packager.stages.weights import MergeJob, merge
from tests.changed_ggufs import described, tensor_of, values, with_bytes, with_metadata, with_values
from tests.llama_cpp_tools import convert, quantize
from tests.made_ggufs import Made, make_ggufs
from tests.run_packager import run_packager

FAMILIES = ("qwen2.5", "qwen3", "llama3.1")
FAMILY = "llama3.1"  # BOS, a rope base of its own, permuted queries and keys
PASSED, FAILED = Outcome.PASSED, Outcome.FAILED
ANSWER = "answers: …"

Tiny = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tiny_build: Callable[[str], Made]) -> Made:
    return tiny_build(FAMILY)


def check(quant: Quant, engine: str, name: str, outcome: Outcome, detail: str = "…") -> Check:
    return Check(subject=quant.value, engine=engine, name=name, outcome=outcome, detail=detail)


def trigger(*quants: Quant) -> tuple[Check, ...]:
    """Everything is right on the embedded engine, and an answer is wrong in Ollama."""
    embedded = ("prompts", "token ids", "distribution")
    return tuple(
        each
        for quant in quants
        for each in (
            check(quant, "file", "structure", PASSED),
            *(check(quant, "llama.cpp", name, PASSED) for name in embedded),
            check(quant, "ollama", "answers", FAILED),
        )
    )


def job(made: Made, tree: LlamaCppTree | None, checks: tuple[Check, ...] | None = None) -> TraceJob:
    checks = checks if checks is not None else trigger(*(gguf.quant for gguf in made.ggufs))
    return TraceJob(
        base=made.base,
        adapter=made.adapter,
        template=made.template,
        ggufs=made.ggufs,
        registered=(),
        verdict=Verdict(checks=checks, versions=()),
        tokenizer=(),
        tree=tree,
    )


def blamed(wanted: TraceJob, server: OllamaServer | None = None) -> Blame:
    blame = trace(wanted, server).blame
    assert blame is not None
    return blame


def first(blame: Blame) -> StageFinding:
    assert blame.first is not None
    return blame.first


def only(made: Made, gguf: Gguf) -> Made:
    return replace(made, ggufs=(gguf,))


# --- as it should be -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_build_as_it_should_be_blames_no_stage_of_its_own(
    family: str, tiny_build: Callable[[str], Made], tree: LlamaCppTree
) -> None:
    build = tiny_build(family)
    traced = trace(job(build, tree), None)
    assert traced.blame is not None
    before = [finding for finding in traced.blame.findings if finding.stage is not Stage.REGISTERED]
    assert {finding.outcome for finding in before} == {PASSED}, before
    assert [finding.stage for finding in before] == [
        Stage.MERGE, *[Stage.TEMPLATE] * 3, *[Stage.TOKENIZER] * 3, Stage.F16, *[Stage.QUANT] * 2, *[Stage.ENGINE] * 3
    ]  # fmt: skip
    assert [each.subject for each in traced.tensors] == list(DEFAULT_QUANTS)
    for gguf, file in zip(build.ggufs, traced.tensors, strict=True):
        assert len(file.tensors) == len(read_gguf(gguf.path).tensors)


def test_a_verdict_that_passes_is_not_searched(made: Made, tree: LlamaCppTree) -> None:
    events: list[Event] = []
    traced = trace(job(made, tree, (check(Quant.F16, "file", "structure", PASSED),)), None, emit=events.append)
    assert traced.blame is None
    assert len(traced.tensors) == 3
    assert [(each.subject, each.engine, each.name, each.outcome) for each in traced.checks] == [
        (quant.value, "file", "tensors", PASSED) for quant in DEFAULT_QUANTS
    ]
    for file, each in zip(traced.tensors, traced.checks, strict=True):
        assert each.measures[0].value == max(tensor.relative_error for tensor in file.tensors)
    assert {event.stage for event in events} == {"tensors"}
    assert any(isinstance(event, Advanced) for event in events)


def test_what_llama_cpp_s_programs_make_is_not_blamed(made: Made, tree: LlamaCppTree, tmp_path: Path) -> None:
    merged = tmp_path / "hf"
    merged.mkdir()
    text = made.template.text
    merge(MergeJob(base=made.base, adapter=made.adapter, dtype=Dtype.BFLOAT16, output=merged, chat_template=text))
    f16 = convert(tree, merged, "f16", tmp_path / "made-F16.gguf")
    paths = {quant: quantize(f16, tmp_path / f"{quant}.gguf", quant) for quant in (Quant.Q8_0, Quant.Q4_K_M)}
    files = tuple(described(made.gguf(quant), path) for quant, path in ({Quant.F16: f16} | paths).items())
    blame = blamed(job(replace(made, ggufs=files), tree))
    assert first(blame).stage is Stage.REGISTERED, blame_line(blame)
    assert "tensors of hf are right" in blame.findings[0].detail


# --- weights -------------------------------------------------------------------------------------------------------------


def doubled(lora: Path, target: Path) -> Path:
    shutil.copytree(lora, target)
    config = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 2 * config["lora_alpha"]}))
    return target


def test_a_wrong_scale_is_blamed_on_every_file(
    made: Made, tiny: Tiny, tiny_lora: Tiny, tree: LlamaCppTree, tmp_path: Path
) -> None:
    quants = (Quant.F16, Quant.Q4_K_M)
    wrong = make_ggufs(tiny(FAMILY), doubled(tiny_lora(FAMILY), tmp_path / "lora"), quants, tmp_path)
    blame = blamed(job(replace(made, ggufs=wrong.ggufs), tree))
    assert first(blame).stage is Stage.F16
    assert "the adapter's update is there 2.00 times, and 13 more tensors" in first(blame).detail
    assert len(first(blame).worst) == 5
    failed = [each.subject for each in blame.findings if each.outcome is FAILED and each.stage is not Stage.REGISTERED]
    assert failed == ["f16", "q4_k_m"]
    assert blame.findings[0].outcome is PASSED, "merging itself is right"


def test_a_wrong_scale_in_the_merged_checkpoint_is_blamed_on_the_merge(
    made: Made, tiny_lora: Tiny, tree: LlamaCppTree, tmp_path: Path
) -> None:
    lora = read_adapter(doubled(tiny_lora(FAMILY), tmp_path / "lora"), made.base)
    (tmp_path / "hf").mkdir()
    merge(MergeJob(base=made.base, adapter=lora, dtype=Dtype.FLOAT32, output=tmp_path / "hf", chat_template=None))
    gguf = made.gguf(Quant.F16)
    copied = replace(gguf, path=Path(shutil.copy(gguf.path, tmp_path)))
    found = first(blamed(job(only(made, copied), tree)))
    assert (found.stage, found.worst[0].type) == (Stage.MERGE, "F32")
    assert "_proj.weight: the adapter's update is there 2.00 times, and 13 more tensors" in found.detail
    assert found.worst[0].layer in (0, 1)


def test_one_skipped_tensor_is_named(made: Made, tiny: Tiny, tree: LlamaCppTree, tmp_path: Path) -> None:
    plain = make_ggufs(tiny(FAMILY), None, (Quant.F16,), tmp_path / "base").ggufs[0].path
    name = "blk.1.attn_k.weight"
    path = with_values(made.gguf(Quant.F16).path, name, values(plain, name), tmp_path / "skipped-F16.gguf")
    blame = blamed(job(only(made, described(made.gguf(Quant.F16), path)), tree))
    assert blame_line(blame) == f"to blame: f16 GGUF, {name}: the adapter's update is missing"


def test_rows_in_the_order_of_the_checkpoint_are_named(made: Made, tree: LlamaCppTree, tmp_path: Path) -> None:
    name, source = "blk.0.attn_q.weight", made.gguf(Quant.F16)
    data = values(source.path, name)
    plain = data.reshape(4, -1, 2, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
    path = with_values(source.path, name, plain, tmp_path / "unpermuted-F16.gguf")
    blame = blamed(job(only(made, described(source, path)), tree))
    assert blame_line(blame).endswith(f"{name}: its rows are not permuted for llama.cpp's rotary embedding")


@pytest.mark.parametrize("quant", [Quant.Q8_0, Quant.Q4_K_M], ids=lambda quant: quant.value)
def test_a_corrupt_block_is_blamed_on_its_file_and_row(
    quant: Quant, made: Made, tree: LlamaCppTree, tmp_path: Path
) -> None:
    """The recorded digest is that of the corrupt file, and every check has passed: only the tensors show it."""
    name = "blk.0.ffn_down.weight"
    tensor = tensor_of(made.gguf(quant).path, name)
    path = with_bytes(made.gguf(quant).path, tensor.offset + 4, b"\x77" * 24, tmp_path / f"corrupt-{quant}.gguf")
    passed = tuple(replace(each, outcome=PASSED) for each in trigger(quant))
    traced = trace(job(only(made, described(made.gguf(quant), path)), tree, passed), None)
    assert traced.blame is not None
    found = first(traced.blame)
    (line,) = traced.checks
    assert (line.outcome, line.detail) == (FAILED, found.detail)
    assert (found.stage, found.subject) == (Stage.QUANT, quant.value)
    assert f"{name}: row 0 of 64 is further off than rounding explains" in found.detail
    assert found.worst[0].worst_row == 0


def test_a_digest_that_differs_is_told_with_the_tensor(made: Made, tree: LlamaCppTree, tmp_path: Path) -> None:
    source = made.gguf(Quant.Q8_0)
    tensor = tensor_of(source.path, "blk.1.ffn_up.weight")
    path = with_bytes(source.path, tensor.offset + 4, b"\x7f" * 24, tmp_path / "flipped-Q8_0.gguf")
    checks = (check(Quant.Q8_0, "file", "structure", FAILED, "sha256 is abc, recorded was def"),)
    found = first(blamed(job(only(made, replace(source, path=path)), tree, checks)))
    assert found.stage is Stage.QUANT
    assert found.detail.startswith("blk.1.ffn_up.weight: row 0 of 256")
    assert found.detail.endswith("sha256 is abc, recorded was def")


# --- header --------------------------------------------------------------------------------------------------------------

HEADER_FAULTS: dict[str, tuple[dict[str, Scalar], Stage, str]] = {
    "rope-base": (
        {"llama.rope.freq_base": 500000.0}, Stage.F16, "llama.rope.freq_base is 500000, not 10000"
    ),
    "lost-bos": (
        {"tokenizer.ggml.add_bos_token": False}, Stage.TOKENIZER, "tokenizer.ggml.add_bos_token is False, not True"
    ),
    "end-of-generation": (
        {"tokenizer.ggml.eos_token_id": 128001}, Stage.TOKENIZER, "tokenizer.ggml.eos_token_id is 128001, not 128009"
    ),
    "stale-template": (
        {"tokenizer.chat_template": "{{ messages }}"}, Stage.TEMPLATE, "not the build's: character 1: the build's '"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", HEADER_FAULTS)
def test_a_fault_of_the_header_is_blamed_on_its_stage(
    fault: str, made: Made, tree: LlamaCppTree, tmp_path: Path
) -> None:
    changes, stage, text = HEADER_FAULTS[fault]
    source = made.gguf(Quant.F16)
    path = with_metadata(source.path, changes, tmp_path / "changed-F16.gguf")
    found = first(blamed(job(only(made, described(source, path)), tree)))
    assert (found.stage, found.subject) == (stage, "f16")
    assert text in found.detail


def test_one_changed_merge_is_blamed_on_the_tokenizer(made: Made, tree: LlamaCppTree, tmp_path: Path) -> None:
    source, key = made.gguf(Quant.Q8_0), "tokenizer.ggml.merges"
    array = read_gguf(source.path).value(key)
    assert isinstance(array, GgufArray)
    merges = [str(item) for item in array.items()]
    merges[1000], merges[1001] = "Q Q", merges[1001]
    changed = GgufArray.of(ValueType.STRING, merges)
    path = with_metadata(source.path, {key: changed}, tmp_path / "merge-Q8_0.gguf")
    letters = CharacterClass(name="letters", texts=200, differing=3, code="", example="'QQ'", meaning="…")
    wanted = replace(job(only(made, described(source, path)), tree), tokenizer=(letters,))
    found = first(blamed(wanted))
    assert found.stage is Stage.TOKENIZER
    assert found.detail.startswith("tokenizer.ggml.merges has 'Q Q', not ")
    assert found.detail.endswith("at 1000 (alone of 280147); other tokens for letters ('QQ')")


# --- engines, Ollama, and what is missing --------------------------------------------------------------------------------


def distances(outcomes: dict[Quant, Outcome]) -> tuple[Check, ...]:
    return tuple(check(quant, "llama.cpp", "distribution", each, "mean KL 9") for quant, each in outcomes.items())


def test_a_type_that_is_too_coarse_is_blamed_and_not_the_engine(made: Made, tree: LlamaCppTree) -> None:
    checks = distances({Quant.F16: PASSED, Quant.Q8_0: PASSED, Quant.Q4_K_M: FAILED})
    blame = blamed(job(made, tree, checks))
    assert blame_line(blame) == (
        "to blame: q4_k_m GGUF, every tensor is as llama.cpp rounds it; q8_0 is near enough, so this type is too coarse; "
        "distribution: mean KL 9"
    )
    assert FAILED not in {each.outcome for each in blame.findings if each.stage is Stage.ENGINE}


def test_an_engine_that_is_wrong_on_the_most_exact_file_is_blamed(made: Made, tree: LlamaCppTree) -> None:
    blame = blamed(job(made, tree, distances(dict.fromkeys(Quant, FAILED))))
    assert blame_line(blame) == "to blame: engine f16, distribution: mean KL 9"


def test_without_a_more_exact_file_rounding_is_the_first_suspect(made: Made, tree: LlamaCppTree) -> None:
    blame = blamed(job(only(made, made.gguf(Quant.Q4_K_M)), tree, distances({Quant.Q4_K_M: FAILED})))
    assert "there is no more exact file to compare" in blame_line(blame)
    (absent,) = [each for each in blame.findings if each.stage is Stage.F16]
    assert (absent.outcome, absent.detail) == (Outcome.NOT_CHECKED, "there is no f16 file in this build")


def test_a_missing_stop_is_blamed_on_the_registered_model(made: Made, tree: LlamaCppTree, ollama_url: str) -> None:
    server, gguf = OllamaServer.connect(ollama_url), made.gguf(Quant.F16)
    name = ModelName.parse("blame-stops").with_tag("f16")
    server.upload(gguf.path, gguf.sha256, lambda event: None)
    server.create(name, files={gguf.path.name: gguf.sha256}, parameters={"temperature": 0.5})
    registered = read_back(name, gguf, server)
    wanted = replace(job(only(made, gguf), tree), registered=(registered,))
    found = first(blamed(wanted, server))
    assert (found.stage, found.subject) == (Stage.REGISTERED, str(name))
    assert found.detail == f"its stop '<|eot_id|>' is missing; {ANSWER}"


def test_a_template_of_ollama_s_is_blamed_on_the_registered_model(
    made: Made, tree: LlamaCppTree, ollama_url: str
) -> None:
    server, gguf = OllamaServer.connect(ollama_url), made.gguf(Quant.F16)
    name = ModelName.parse("blame-template").with_tag("f16")
    server.upload(gguf.path, gguf.sha256, lambda event: None)
    parameters = {"stop": list(made.template.stops)}
    go = "{{ .System }} {{ .Prompt }}"
    server.create(name, files={gguf.path.name: gguf.sha256}, parameters=parameters, template=go)
    wanted = replace(job(only(made, gguf), tree), registered=(read_back(name, gguf, server),))
    found = first(blamed(wanted, server))
    assert found.detail == f"its prompt comes from template, not from the file's chat template; {ANSWER}"


def test_without_the_converter_no_tensor_is_passed(made: Made) -> None:
    traced = trace(job(made, None), None)
    assert traced.tensors == ()
    assert {each.outcome for each in traced.checks} == {Outcome.NOT_CHECKED}
    assert traced.blame is not None
    looked_at = {finding.stage: finding for finding in traced.blame.findings}
    for stage in (Stage.TOKENIZER, Stage.F16, Stage.QUANT):
        assert looked_at[stage].outcome is Outcome.NOT_CHECKED
        assert looked_at[stage].detail == "llama.cpp's converter is not here; packager build fetches it"


def test_without_the_converter_no_type_is_called_too_coarse(made: Made) -> None:
    wanted = job(only(made, made.gguf(Quant.Q4_K_M)), None, distances({Quant.Q4_K_M: FAILED}))
    traced = trace(wanted, None)
    assert traced.blame is not None
    looked_at = {finding.stage: finding.outcome for finding in traced.blame.findings}
    assert looked_at[Stage.QUANT] is Outcome.NOT_CHECKED
    assert looked_at[Stage.ENGINE] is FAILED


def test_a_merged_folder_that_cannot_be_read_is_blamed_and_ends_nothing(
    made: Made, tree: LlamaCppTree, tmp_path: Path
) -> None:
    gguf = made.gguf(Quant.F16)
    path = tmp_path / gguf.path.name
    shutil.copy(gguf.path, path)
    text = made.template.text
    (tmp_path / "hf").mkdir()
    merge(
        MergeJob(base=made.base, adapter=made.adapter, dtype=Dtype.FLOAT16, output=tmp_path / "hf", chat_template=text)
    )
    weights = tmp_path / "hf" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    found = first(blamed(job(only(made, replace(gguf, path=path)), tree)))
    assert found.stage is Stage.MERGE
    assert found.detail.startswith("hf cannot be read: ")


def test_a_file_that_cannot_be_read_is_blamed_by_its_structure(made: Made, tree: LlamaCppTree, tmp_path: Path) -> None:
    path = tmp_path / "short-F16.gguf"
    path.write_bytes(made.gguf(Quant.F16).path.read_bytes()[:100])
    checks = (check(Quant.F16, "file", "structure", FAILED, "claims too much"),)
    blame = blamed(job(only(made, replace(made.gguf(Quant.F16), path=path)), tree, checks))
    assert (first(blame).stage, first(blame).detail) == (Stage.F16, "claims too much")


def test_a_base_alone_has_no_merge(tiny: Tiny, tree: LlamaCppTree, tmp_path: Path) -> None:
    blame = blamed(job(make_ggufs(tiny("qwen3"), None, (Quant.F16,), tmp_path), tree))
    assert (blame.findings[0].stage, blame.findings[0].outcome) == (Stage.MERGE, Outcome.NOT_CHECKED)
    assert first(blame).stage is Stage.REGISTERED


def test_verify_says_who_is_to_blame_and_reports_it(made: Made, tiny: Tiny, tiny_lora: Tiny, tmp_path: Path) -> None:
    path = with_metadata(made.gguf(Quant.F16).path, {"llama.rope.freq_base": 100.0}, tmp_path / "test-F16.gguf")
    finished = run_packager("verify", tmp_path, tiny(FAMILY), tiny_lora(FAMILY))
    assert finished.code == 5, finished.err
    assert "to blame: f16 GGUF, llama.rope.freq_base is 100, not 10000" in finished.err
    evidence = json.loads((tmp_path / "report.json").read_text())["evidence"]
    assert evidence["tensors"][0]["subject"] == "f16"
    assert len(evidence["tensors"][0]["tensors"]) == len(read_gguf(path).tensors)
    assert {finding["stage"] for finding in evidence["blame"]["findings"]} == {stage.value for stage in Stage} - {
        "quant"
    }
