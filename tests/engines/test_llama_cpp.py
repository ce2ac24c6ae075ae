"""The embedded engine, against llama-cpp-python called directly and against transformers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from packager.artifacts import Conversation, Message, Quant
from packager.chat.probes import every_probe
from packager.engines.engine import NotSupported
from packager.engines.llama_cpp import Embedded
from packager.engines.transformers import Reference
from packager.errors import InputInvalid, ToolMissing
from packager.formats.gguf import ValueType, read_gguf
from tests.made_ggufs import Made, make_ggufs

FAMILIES = ("qwen2.5", "llama3.1")
HELLO = Conversation(id="hello", group="CORE", messages=(Message(role="user", content="Hello, wörld! 你好"),))


@pytest.fixture(scope="module")
def made(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Made]:
    """`made(family)`: the family's tiny model with its adapter as an f16 GGUF."""
    done: dict[str, Made] = {}

    def make(family: str) -> Made:
        if family not in done:
            output = tmp_path_factory.mktemp(family)
            done[family] = make_ggufs(tiny(family), tiny_lora(family), (Quant.F16,), output)
        return done[family]

    return make


@pytest.fixture(params=[pytest.param(family, id=family) for family in FAMILIES])
def pair(request: pytest.FixtureRequest, made: Callable[[str], Made]) -> tuple[Reference, Embedded]:
    """The reference and the embedded engine of one family."""
    found = made(request.param)
    assert found.adapter is not None
    reference = Reference(found.base.folder, found.adapter, found.template.text)
    return reference, Embedded(found.ggufs[0].path, context_tokens=1024)


@pytest.fixture
def engine(made: Callable[[str], Made]) -> Embedded:
    return Embedded(made("qwen2.5").ggufs[0].path, context_tokens=1024)


def without_template(source: Path, target: Path) -> Path:
    """Rename the template's key in place: the header keeps its length."""
    data = source.read_bytes()
    assert data.count(b"tokenizer.chat_template") == 1
    target.write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_templatX"))
    return target


def test_every_probe_has_the_text_and_the_ids_of_transformers(pair: tuple[Reference, Embedded]) -> None:
    reference, embedded = pair
    for probe in every_probe():
        assert embedded.render(probe) == reference.render(probe), probe.id
        assert embedded.tokens(probe) == reference.tokens(probe), probe.id


def test_tokens_are_what_a_chat_completion_evaluates(pair: tuple[Reference, Embedded]) -> None:
    _, embedded = pair
    ids = embedded.tokens(HELLO)
    assert isinstance(ids, tuple)
    assert isinstance(embedded.generate(HELLO, max_tokens=1), str)
    llama = embedded._llama
    assert tuple(llama.input_ids[: len(ids)]) == ids
    usage = llama.create_chat_completion(
        messages=[{"role": "user", "content": HELLO.messages[0].content}], max_tokens=1
    )
    assert usage["usage"]["prompt_tokens"] == len(ids)


def test_the_template_in_the_file_is_whole(made: Callable[[str], Made]) -> None:
    found = made("qwen2.5")
    template = Embedded(found.ggufs[0].path).template
    assert template == found.template.text
    assert template == read_gguf(found.ggufs[0].path).value("tokenizer.chat_template")


def test_no_built_in_format_takes_the_templates_place(made: Callable[[str], Made], tmp_path: Path) -> None:
    """llama-cpp-python replaces a template it knows word for word by code of its own, which ignores what it cannot do."""
    from llama_cpp.llama_chat_format import CHATML_CHAT_TEMPLATE, guess_chat_format_from_gguf_metadata

    assert guess_chat_format_from_gguf_metadata({"tokenizer.chat_template": CHATML_CHAT_TEMPLATE}) == "chatml"
    found = made("qwen2.5")
    changed = with_template(found.ggufs[0].path, CHATML_CHAT_TEMPLATE, tmp_path / "chatml.gguf")
    reference = Reference(found.base.folder, None, CHATML_CHAT_TEMPLATE)
    embedded = Embedded(changed, context_tokens=512)
    for probe in every_probe():
        assert embedded.render(probe) == reference.render(probe), probe.id
        assert embedded.tokens(probe) == reference.tokens(probe), probe.id


def with_template(source: Path, template: str, target: Path) -> Path:
    """Write the file again with another template, by this project's header writer."""
    from dataclasses import replace

    from packager.formats.gguf import header_bytes

    header = read_gguf(source)
    metadata = [
        replace(entry, value=template)
        if entry.key == "tokenizer.chat_template" and entry.type is ValueType.STRING
        else entry
        for entry in header.metadata
    ]
    text = header_bytes(metadata, [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors])
    target.write_bytes(text + source.read_bytes()[header.data_offset :])
    return target


def test_special_tokens_are_recognised_and_bos_is_added_only_when_asked(made: Callable[[str], Made]) -> None:
    embedded = Embedded(made("llama3.1").ggufs[0].path, context_tokens=256)
    assert embedded.tokenize("<|eot_id|>", add_special=False) == (128009,)
    assert embedded.tokenize("<|eot_id|>", add_special=True) == (128000, 128009)


def test_logprobs_are_those_of_the_reference_up_to_rounding(pair: tuple[Reference, Embedded]) -> None:
    reference, embedded = pair
    ids = tuple(range(1000, 1300))  # more than one batch
    expected, found = reference.next_logprobs(ids, start=290), embedded.next_logprobs(ids, start=290)
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    kl = np.sum(np.exp(expected, dtype=np.float64) * (expected.astype(np.float64) - found), axis=1)
    assert np.abs(kl).max() < 1e-3
    np.testing.assert_allclose(np.exp(found, dtype=np.float64).sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    "start", [pytest.param(0, id="all"), pytest.param(200, id="in the first batch"), pytest.param(299, id="the last")]
)
def test_a_start_gives_the_same_rows(engine: Embedded, start: int) -> None:
    ids = tuple(range(1000, 1300))
    rows = engine.next_logprobs(ids, start=start)
    assert len(rows) == 300 - start
    np.testing.assert_allclose(rows[-1], engine.next_logprobs(ids, start=250)[-1], atol=1e-5)


def test_each_question_starts_from_an_empty_cache(engine: Embedded) -> None:
    ids = tuple(range(1000, 1040))
    first = engine.next_logprobs(ids)
    spoken = engine.generate(HELLO, max_tokens=5)
    np.testing.assert_array_equal(engine.next_logprobs(ids), first)
    assert engine.generate(HELLO, max_tokens=5) == spoken


def test_too_many_tokens_for_the_context_are_refused(made: Callable[[str], Made]) -> None:
    embedded = Embedded(made("qwen2.5").ggufs[0].path, context_tokens=256)
    with pytest.raises(InputInvalid, match="300 tokens do not fit a context of 256"):
        embedded.next_logprobs(tuple(range(300)))
    with pytest.raises(InputInvalid, match="exceed context window") as caught:
        list(embedded.stream_chat((Message(role="user", content="word " * 400),), max_tokens=4))
    assert caught.value.hint
    long = Conversation(id="long", group="USER", messages=(Message(role="user", content="word " * 400),))
    answer = embedded.generate(long, max_tokens=4)
    assert isinstance(answer, NotSupported)
    assert answer.code == "CONTEXT_FULL"


def test_an_answer_does_not_depend_on_the_one_before(engine: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.generate(HELLO, max_tokens=4)
    evaluated: list[int] = []
    evaluate = engine._llama.eval
    monkeypatch.setattr(engine._llama, "eval", lambda ids: (evaluated.append(len(ids)), evaluate(ids)))
    ids = engine.tokens(HELLO)
    assert isinstance(ids, tuple)

    engine.generate(HELLO, max_tokens=1)

    assert evaluated == [len(ids)]


def test_an_answer_is_to_the_declared_functions_too(engine: Embedded) -> None:
    probe = next(probe for probe in every_probe() if probe.tools and isinstance(engine.tokens(probe), tuple))
    ids = engine.tokens(probe)
    assert isinstance(ids, tuple)
    assert ids != engine.tokens(replace(probe, tools=()))
    engine.generate(HELLO, max_tokens=1)
    engine.generate(probe, max_tokens=1)
    assert tuple(engine._llama.input_ids[: len(ids)]) == ids


def test_a_greedy_answer_is_the_likeliest_token_each_time(engine: Embedded) -> None:
    ids = engine.tokens(HELLO)
    assert isinstance(ids, tuple)
    pieces = []
    for _ in range(5):
        token = int(engine.next_logprobs(ids, start=len(ids) - 1)[0].argmax())
        pieces.append(engine.pieces[token])
        ids = (*ids, token)
    said = engine.generate(HELLO, max_tokens=5)
    assert isinstance(said, str)
    assert said == b"".join(pieces).decode("utf-8", errors="ignore")


def test_streaming_gives_the_answer_in_pieces(engine: Embedded) -> None:
    pieces = list(engine.stream_chat(HELLO.messages, max_tokens=8))
    assert len(pieces) > 1
    assert "".join(pieces) == engine.generate(HELLO, max_tokens=8)


def test_a_seed_repeats_an_answer(engine: Embedded) -> None:
    def say(seed: int) -> str:
        return "".join(engine.stream_chat(HELLO.messages, max_tokens=8, temperature=5.0, seed=seed))

    assert say(1) == say(1)
    assert say(1) != say(2)


def test_a_stop_text_ends_an_answer_and_is_not_in_it(engine: Embedded, made: Callable[[str], Made]) -> None:
    whole = engine.generate(HELLO, max_tokens=8)
    assert isinstance(whole, str)
    stop = whole[len(whole) // 2 :][:3]
    stopped = Embedded(made("qwen2.5").ggufs[0].path, context_tokens=1024, stops=(stop,))
    assert stopped.generate(HELLO, max_tokens=8) == whole[: whole.index(stop)]


def test_pieces_are_the_vocabulary(engine: Embedded, tiny: Callable[[str], Path]) -> None:
    reference = Reference(tiny("qwen2.5"), None, "")
    assert engine.pieces[151644] == b"<|im_start|>"
    for token in (0, 100, 1000, 50_000, 99_999):
        assert engine.pieces[token].decode("utf-8", errors="replace") == reference.piece(token)


def test_close_frees_the_model_and_the_next_question_loads_it_again(engine: Embedded) -> None:
    before = engine.tokens(HELLO)
    engine.close()
    assert "_llama" not in vars(engine)
    engine.close()
    with engine as again:
        assert again.tokens(HELLO) == before
    assert "_llama" not in vars(engine)


def test_a_file_without_a_template_says_so(made: Callable[[str], Made], tmp_path: Path) -> None:
    embedded = Embedded(without_template(made("qwen2.5").ggufs[0].path, tmp_path / "bare.gguf"), context_tokens=256)
    assert embedded.template is None
    for answer in (embedded.render(HELLO), embedded.tokens(HELLO), embedded.generate(HELLO, max_tokens=2)):
        assert isinstance(answer, NotSupported)
        assert answer.code == "NO_TEMPLATE"
    with pytest.raises(InputInvalid, match="no chat template"):
        list(embedded.stream_chat(HELLO.messages, max_tokens=2))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        pytest.param("{{ raise_exception('roles must alternate') }}", "roles must alternate", id="it refuses"),
        pytest.param("{{ messages[0]['content'] + 1 }}", "str", id="a type error in it"),
    ],
)
def test_a_template_that_fails_is_a_value(
    made: Callable[[str], Made], tmp_path: Path, template: str, words: str
) -> None:
    changed = with_template(made("qwen2.5").ggufs[0].path, template, tmp_path / "odd.gguf")
    answer = Embedded(changed, context_tokens=256).render(HELLO)
    assert isinstance(answer, NotSupported)
    assert answer.code == "TEMPLATE_ERROR"
    assert words in answer.detail


def test_a_template_that_is_no_jinja_is_named(made: Callable[[str], Made], tmp_path: Path) -> None:
    changed = with_template(made("qwen2.5").ggufs[0].path, "{% for %}", tmp_path / "odd.gguf")
    with pytest.raises(InputInvalid, match=r"odd\.gguf: its chat template is not Jinja"):
        Embedded(changed, context_tokens=256).render(HELLO)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match=r"gone\.gguf: no such file"):
        Embedded(tmp_path / "gone.gguf").tokens(HELLO)


def test_a_damaged_file_is_named_with_llama_cpps_reason(made: Callable[[str], Made], tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    shutil.copy(made("qwen2.5").ggufs[0].path, cut)
    with cut.open("r+b") as file:
        file.truncate(cut.stat().st_size // 2)
    with pytest.raises(InputInvalid, match=r"cut\.gguf: llama\.cpp cannot load it \(.+\)") as caught:
        Embedded(cut).tokens(HELLO)
    assert "\n" not in caught.value.message


def test_nothing_is_written_to_the_terminal(made: Callable[[str], Made]) -> None:
    """In a process of its own: llama.cpp writes to the descriptors from C, and its log callback is set once."""
    code = (
        "import sys; from pathlib import Path; from packager.artifacts import *;"
        "from packager.engines.llama_cpp import Embedded;"
        "e = Embedded(Path(sys.argv[1]), context_tokens=256);"
        "c = Conversation(id='x', group='CORE', messages=(Message(role='user', content='Hi'),));"
        "e.generate(c, max_tokens=2); e.next_logprobs((1, 2)); e.close(); e.tokens(c); e.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(made("qwen2.5").ggufs[0].path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_the_package_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['llama_cpp'] = None; from pathlib import Path;"
        "from packager.engines.llama_cpp import Embedded;"
        "from packager.errors import ToolMissing\n"
        "try: Embedded(Path('x.gguf')).version()\n"
        "except ToolMissing as error: print(error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ollama-packager[build]" in done.stdout
    assert ToolMissing.exit_code == 9


def test_the_version_is_the_packages_own(engine: Embedded) -> None:
    from importlib.metadata import version

    assert engine.version() == version("llama-cpp-python")
