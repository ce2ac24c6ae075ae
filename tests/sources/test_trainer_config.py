from __future__ import annotations

import json
from pathlib import Path

import pytest

from packager.errors import InputInvalid
from packager.sources.trainer_config import TrainerTemplate, is_trainer_config, read_trainer_config, read_trainer_file

# As LLaMA-Factory 0.9.5's web UI writes them, shortened.
TRAINING_ARGS = """\
bf16: true
cutoff_len: 2048
dataset: identity
enable_thinking: true
finetuning_type: lora
learning_rate: 5.0e-05
model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
output_dir: saves/Qwen2.5-0.5B-Instruct/lora/train_2026-01-02-03-04-05
stage: sft
template: qwen
"""
LLAMABOARD = """\
top.booster: auto
top.checkpoint_path: []
top.finetuning_type: lora
top.template: qwen3
train.additional_target: ''
train.enable_thinking: false
train.extra_args: '{"optim": "adamw_torch", "default_system": "You test."}'
"""
# As XTuner 0.2.0's configurations have it, and as mmengine dumps them.
XTUNER = """\
# Copyright (c) OpenMMLab. All rights reserved.
from xtuner.utils import PROMPT_TEMPLATE, SYSTEM_TEMPLATE
raise SystemExit("a configuration is read, and never run")
prompt_template = PROMPT_TEMPLATE.qwen_chat
SYSTEM = SYSTEM_TEMPLATE.alpaca
alpaca = dict(type=process_hf_dataset, template_map_fn=dict(type=template_map_fn_factory, template=prompt_template))
"""
DUMPED = "prompt_template = 'xtuner.utils.PROMPT_TEMPLATE.internlm2_chat'\ntokenizer = dict(type='x.from_pretrained')\n"


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text)
    return folder


def llamafactory(file: Path, name: str, **settings: str | bool) -> TrainerTemplate:
    return TrainerTemplate(trainer="llamafactory", name=name, file=file, settings=tuple(sorted(settings.items())))


def test_a_folder_without_a_trainers_configuration_names_nothing(tmp_path: Path) -> None:
    assert read_trainer_config(tmp_path / "none") is None
    assert (
        read_trainer_config(write(tmp_path, README_yaml="a: b\ntemplate: qwen\n", training_args_bin="\x80\x04."))
        is None
    )


def test_the_web_uis_arguments_are_read(tmp_path: Path) -> None:
    write(tmp_path, training_args_yaml=TRAINING_ARGS, llamaboard_config_yaml=LLAMABOARD)
    assert read_trainer_config(tmp_path) == llamafactory(tmp_path / "training_args.yaml", "qwen")


def test_the_web_uis_own_form_is_read_with_its_extra_arguments(tmp_path: Path) -> None:
    write(tmp_path, llamaboard_config_yaml=LLAMABOARD)
    file = tmp_path / "llamaboard_config.yaml"
    assert read_trainer_config(tmp_path) == llamafactory(
        file, "qwen3", default_system="You test.", enable_thinking=False
    )


def test_a_configuration_of_the_command_line_is_found_by_its_content(tmp_path: Path) -> None:
    write(
        tmp_path,
        qwen_lora_sft_yaml=TRAINING_ARGS,
        mergekit_yml="template: other\nmerge_method: x\n",
        broken_yaml="a: [",
    )
    assert read_trainer_config(tmp_path) == llamafactory(tmp_path / "qwen_lora_sft.yaml", "qwen")


def test_a_checkpoint_of_a_run_has_the_runs_configuration(tmp_path: Path) -> None:
    run = write(tmp_path / "run", training_args_yaml=TRAINING_ARGS)
    checkpoint = write(run / "checkpoint-100")
    found = read_trainer_config(checkpoint)
    assert found is not None
    assert (found.name, found.file.name) == ("qwen", "training_args.yaml")
    assert read_trainer_config(write(run / "other")) is None


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        ("default_system: You test.\n", {"default_system": "You test."}),
        ("default_system: ''\n", {"default_system": ""}),
        ("default_system:\n", {}),
        ("enable_thinking: false\n", {"enable_thinking": False}),
        ("enable_thinking: true\n", {}),
        ("enable_thinking: null\n", {}),
        ("preserve_thinking: yes\n", {"preserve_thinking": True}),
        ("new: 2024-13-45\nbomb: {<<: [{a: 1}, {b: 2}]}\n", {}),
        ("object: !!python/object/apply:os.system [exit 1]\n", {}),
    ],
    ids=[
        "system",
        "no system",
        "null",
        "no thinking",
        "thinking",
        "both",
        "keeps thoughts",
        "odd values",
        "python tag",
    ],
)
def test_what_changes_the_template_is_kept(tmp_path: Path, lines: str, settings: dict[str, str | bool]) -> None:
    write(tmp_path, training_args_yaml="template: qwen3\n" + lines)
    assert read_trainer_config(tmp_path) == llamafactory(tmp_path / "training_args.yaml", "qwen3", **settings)


def test_training_without_a_template_names_none(tmp_path: Path) -> None:
    assert read_trainer_config(write(tmp_path, training_args_yaml="stage: pt\ntemplate: null\n")) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("- a\n", "not a YAML mapping"),
        ("", "not a YAML mapping"),
        ("[" * 4000, "not YAML"),
        ("template: 5\n", "template is .*, expected a text"),
        ("template: qwen\ndefault_system: [a]\n", "default_system is .*, expected a text"),
        ("top.template: qwen\ntrain.extra_args: '{'\n", "train.extra_args is '{', expected a JSON object"),
        ("top.template: qwen\ntrain.extra_args: '[]'\n", "expected a JSON object"),
    ],
    ids=["not yaml", "list", "empty", "deep", "number", "list of systems", "not json", "json list"],
)
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, training_args_yaml=text)
    with pytest.raises(InputInvalid, match=message) as caught:
        read_trainer_config(tmp_path)
    assert str(tmp_path / "training_args.yaml") in caught.value.message
    assert "\n" not in caught.value.message


def test_two_configurations_that_disagree_are_both_named(tmp_path: Path) -> None:
    write(tmp_path, a_yaml=TRAINING_ARGS, b_yaml=TRAINING_ARGS.replace("template: qwen", "template: yi"))
    with pytest.raises(InputInvalid, match=r"a\.yaml names the template qwen, .*b\.yaml yi"):
        read_trainer_config(tmp_path)
    (tmp_path / "b.yaml").unlink()
    write(tmp_path, xtuner_config_py=XTUNER)
    with pytest.raises(InputInvalid, match=r"a\.yaml names the template qwen, .*xtuner_config\.py qwen_chat"):
        read_trainer_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (XTUNER, "qwen_chat"),
        (DUMPED, "internlm2_chat"),
        ("import xtuner\nx = dict(template=xtuner.utils.PROMPT_TEMPLATE.llama3_chat)\n", "llama3_chat"),
        ("prompt_template = 'PROMPT_TEMPLATE.zephyr'\n", "zephyr"),
        ("pattern = '\\d'\nprompt_template = PROMPT_TEMPLATE.gemma\n", "gemma"),
    ],
    ids=["code", "dumped", "attribute", "short text", "bad escape"],
)
def test_xtuners_template_is_read_and_nothing_is_run(tmp_path: Path, text: str, name: str) -> None:
    write(tmp_path, xtuner_config_py=text)
    assert read_trainer_config(tmp_path) == TrainerTemplate(
        trainer="xtuner", name=name, file=tmp_path / "xtuner_config.py"
    )


@pytest.mark.parametrize("text", ["prompt_template = None\n", "model = 1\n", ""], ids=["none", "not named", "empty"])
def test_xtuner_without_a_template_names_none(tmp_path: Path, text: str) -> None:
    assert read_trainer_config(write(tmp_path, xtuner_config_py=text)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt_template = (", "not Python .line 1"),
        ("x = '\0'", "not Python"),
        ("x = " + "(" * 5000, "not Python"),
        ("x = " + "-" * 200000 + "1", "not Python"),
        (XTUNER + "other = PROMPT_TEMPLATE.yi\n", "more than one template: qwen_chat, yi"),
        ("prompt_template = dict(SYSTEM='{system}', INSTRUCTION='{input}')\n", "none of XTuner's own .line 1"),
    ],
    ids=["syntax", "null", "brackets", "signs", "two", "own"],
)
def test_an_xtuner_configuration_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, xtuner_config_py=text)
    with pytest.raises(InputInvalid, match=message) as caught:
        read_trainer_config(tmp_path)
    assert str(tmp_path / "xtuner_config.py") in caught.value.message


def test_a_named_file_is_read_by_its_suffix(tmp_path: Path) -> None:
    write(tmp_path, sft_yml=TRAINING_ARGS, other_py=DUMPED)
    assert read_trainer_file(tmp_path / "sft.yml").name == "qwen"
    assert read_trainer_file(tmp_path / "other.py").name == "internlm2_chat"
    (tmp_path / "sft.yml").write_text(json.dumps({"stage": "pt"}))
    with pytest.raises(InputInvalid, match=r"sft\.yml: names no template"):
        read_trainer_file(tmp_path / "sft.yml")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("training_args.yaml", True),
        ("a.yml", True),
        ("xtuner_config.py", True),
        ("chat_template.jinja", False),
        ("qwen", False),
    ],
)
def test_a_configuration_is_known_by_its_suffix(name: str, is_one: bool) -> None:
    assert is_trainer_config(Path(name)) is is_one
