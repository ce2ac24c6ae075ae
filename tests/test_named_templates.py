from __future__ import annotations

from pathlib import Path

import pytest

from packager.errors import InputInvalid
from packager.named_templates import find_template, has_trainer, is_template_name, named_templates, parse_index

DIGEST = "0" * 64
HEAD = '[trainers]\nllamafactory = "LLaMA-Factory 1"\nxtuner = "XTuner 2"\n'
ONE = f'[templates.one]\ntitle = "One"\nllamafactory = ["a", "both"]\nsha256 = "{DIGEST}"\n'
TWO = f'[templates.two]\ntitle = "Two"\nxtuner = ["a", "b"]\nstop = ["<end>"]\nsha256 = "{DIGEST}"\n'
LONE = f'[templates.lone]\ntitle = "Lone"\nsource = "a paper"\nsha256 = "{DIGEST}"\n'
INDEX = HEAD + ONE + TWO + LONE
# What LLaMA-Factory and XTuner call the formats that people fine-tune most.
WANTED = {
    "llamafactory": (
        "default", "empty", "chatml", "qwen", "qwen3", "qwen3_nothink", "llama2", "llama3", "gemma", "gemma2", "gemma3",
        "mistral", "ministral", "intern2", "yi", "deepseek", "deepseek3", "deepseekr1", "phi", "phi4", "glm4", "chatglm3",
        "alpaca", "vicuna", "zephyr", "smollm2",
    ),
    "xtuner": (
        "default", "internlm_chat", "internlm2_chat", "qwen_chat", "llama2_chat", "llama3_chat", "chatglm3", "baichuan_chat",
        "baichuan2_chat", "vicuna", "zephyr", "mistral", "mixtral", "gemma", "deepseek_v2", "phi3_chat", "minicpm3",
    ),
}  # fmt: skip


def write(folder: Path, text: str) -> Path:
    for name in ("one", "two", "lone"):
        (folder / f"{name}.jinja").write_text(name)
    path = folder / "index.toml"
    path.write_text(text)
    return path


def test_the_index_is_read_in_order_with_what_its_entries_leave_out(tmp_path: Path) -> None:
    one, two, lone = parse_index(write(tmp_path, INDEX))
    assert (one.name, one.title, one.source, one.stop) == ("one", "One", "LLaMA-Factory 1", ())
    assert one.file == tmp_path / "one.jinja"
    assert one.aliases == ("llamafactory:a", "llamafactory:both")
    assert (two.source, two.aliases, two.stop) == ("XTuner 2", ("xtuner:a", "xtuner:b"), ("<end>",))
    assert (lone.source, lone.aliases) == ("a paper", ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not TOML"),
        (ONE, "expected the tables 'trainers' and 'templates'"),
        ("templates = 1\n" + HEAD, "expected the tables 'trainers' and 'templates'"),
        ('[trainers]\nxtuner = "2"\n' + ONE, "trainers: missing field 'llamafactory'"),
        (INDEX + "[other]\n", "expected the tables"),
        (INDEX.replace('title = "One"\n', ""), "one: missing field 'title'"),
        (INDEX.replace('title = "One"', 'title = "One"\nnote = "x"'), "one: unknown field 'note'"),
        (INDEX.replace('title = "One"', "title = 1"), "one.title: expected str, found 1"),
        (INDEX.replace('["a", "both"]', '"a"'), "one.llamafactory: expected a list"),
        (INDEX.replace("templates.one", 'templates."../one"'), "'../one' is no name"),
        (INDEX.replace("templates.one", "templates.One"), "'One' is no name"),
        (INDEX.replace("templates.one", "templates.none"), "none.jinja is missing"),
        (INDEX.replace(DIGEST, "12", 1), "sha256 is '12'"),
        (INDEX.replace('["a", "b"]', "[]"), "two: expected a trainer's names or a source"),
        (INDEX.replace('source = "a', 'xtuner = ["c"]\nsource = "a'), "lone: expected a trainer's names or a source"),
        (INDEX.replace('["a", "b"]', '["b", "b"]'), "xtuner:b is in two and in two"),
        (INDEX.replace('xtuner = ["a", "b"]', 'llamafactory = ["both"]'), "llamafactory:both is in one and in two"),
    ],
    ids=[
        "not toml", "no trainers", "templates no table", "trainer missing", "unknown table", "field missing", "unknown field",
        "title no text", "aliases no list", "path", "capital", "file missing", "digest", "no source", "two sources",
        "alias twice in one", "alias in two",
    ],
)  # fmt: skip
def test_a_damaged_index_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputInvalid, match=message) as caught:
        parse_index(path)
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "found"),
    [("one", "one"), ("llamafactory:a", "one"), ("xtuner:a", "two"), ("both", "one"), ("b", "two"), ("lone", "lone")],
    ids=[
        "own name",
        "with a trainer",
        "same name of another",
        "one trainer's alone",
        "other trainer's",
        "without a trainer",
    ],
)
def test_a_name_is_found(tmp_path: Path, name: str, found: str) -> None:
    assert find_template(name, parse_index(write(tmp_path, INDEX))).name == found


def test_a_name_of_two_trainers_asks_which(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="a is two trainers': llamafactory:a, xtuner:a"):
        find_template("a", parse_index(write(tmp_path, INDEX)))


def test_the_indexs_own_name_comes_before_a_trainers() -> None:
    assert find_template("chatglm3").llamafactory == ("chatglm3",)
    assert find_template("xtuner:chatglm3").name == "xtuner_chatglm3"


@pytest.mark.parametrize(
    ("name", "near"),
    [("qwen33", "qwen3"), ("llamafactory:qwn", "llamafactory:qwen"), ("qwen_caht", "qwen_chat"), ("chatmll", "chatml")],
)
def test_an_unknown_name_is_one_line_with_what_is_near(name: str, near: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        find_template(name)
    assert caught.value.message.startswith(f"{name}: no such file, and no named template; near: ")
    assert near in caught.value.message.partition("near: ")[2].split(", ")
    assert "packager template list" in caught.value.hint


def test_nothing_is_near_to_nonsense() -> None:
    with pytest.raises(InputInvalid, match=r"no named template$"):
        find_template("0000:0000")


@pytest.mark.parametrize("trainer", WANTED)
def test_the_usual_names_of_trainers_are_there(trainer: str) -> None:
    names = {alias for template in named_templates() for alias in template.aliases}
    assert {f"{trainer}:{name}" for name in WANTED[trainer]} <= names


@pytest.mark.parametrize(
    ("name", "with_trainer", "known"),
    [
        ("llamafactory:qwen", True, True), ("llamafactory:none", True, False), ("qwen", False, True), ("yi", False, True),
        ("qwen:latest", False, False), ("mistral:7b", False, False), ("llamafactory", False, False), ("packy", False, False),
    ],
)  # fmt: skip
def test_what_is_taken_for_a_named_template(name: str, with_trainer: bool, known: bool) -> None:
    assert (has_trainer(name), is_template_name(name)) == (with_trainer, known)
