"""Writes `goldens/llamafactory.json`, LLaMA-Factory's own scores of predictions; see `scripts/update-metric-goldens`.

Usage: PYTHON make_goldens.py WHEEL

PYTHON is that of an environment with torch, transformers, jieba, nltk and rouge-chinese, WHEEL an unpacked wheel of
LLaMA-Factory. Its `ComputeSimilarity` runs as it is, on token ids as its predict hands them over: labels padded with -100 on
the right, predictions with the padding token on the left, where the prompt was. A tokenizer of one id a character decodes them
without loss. Only the packages around the module are empty, so that nothing of the trainer is loaded with it.

A golden holds, for one corpus, the pairs, the scores of each row and the figures of the whole.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
IGNORED = -100
LONG = "The quick brown fox jumps over the lazy dog, and the dog does not mind. "
CHINESE = "今天天气很好，我们一起去公园散步吧。"
# Corpus to pairs of prediction and label.
CORPORA: dict[str, list[tuple[str, str]]] = {
    "english": [
        ("The capital of France is Paris.", "Paris is the capital of France."),
        ("I don't know.", "My name is Packy. I was made to carry boxes."),
        ("A b c d e f g.", "A b c d e f g."),
        ("the the the the the the the", "the cat is on the mat"),
        ("Is it? Yes! It is... fine.", "Is it fine? Yes! It is."),
    ],
    "chinese": [
        ("我叫小包，是一个帮助打包模型的助手。", "我是小包，一个打包模型的助手。"),
        (CHINESE, CHINESE),
        ("你好！你好吗？我很好。", "你好？我很好！谢谢。"),
        ("不知道", "北京是中华人民共和国的首都"),
        ("他说：“今天下雨。”然后走了……", "他说：“今天下雪。”然后他走了……"),
    ],
    "mixed": [
        ("使用 pip install ollama 安装。", "请用 pip install ollama-packager 安装它。"),
        ("GPU 显存为 24GB，建议 4-bit 量化", "建议使用4bit量化，GPU显存24 GB"),
        ("def add(a, b):\n    return a + b\n", "def add(x, y):\n\treturn x + y"),
        ("日本語のテキスト です", "これは日本語のテキストです"),
        ("한국어 문장입니다.", "이것은 한국어 문장입니다."),
    ],
    "edges": [
        ("", "an answer"),
        ("an answer", ""),
        ("", ""),
        ("   \n\t ", "an answer"),
        ("an answer", " \u3000\n"),
        ("  ", "  "),
        ("a", "a"),
        ("a", "b"),
        ("word", "word"),
        ("是", "是"),
        ("ab", "ab"),
        ("abc", "abd"),
        (".", "。"),
        ("?\n?", "??"),
        ("👍🏽👩‍👩‍👧 yes", "👍 yes 👩‍👩‍👧"),
        ("e\u0301te\u0301", "\u00e9t\u00e9"),
        ("\u200b\ufeff", "a"),
        ("Hello.", "Hello.\n"),
        ("12345678901234567890", "1234567890"),
        ("<|im_end|>", "</s>"),
        ("line one\u2028line two", "line one line two"),
    ],
    "long": [
        (LONG * 12, LONG * 12),
        (LONG * 12, LONG * 3),
        (CHINESE * 20, CHINESE * 15 + LONG),
        ("a" * 2000, "a" * 1999 + "b"),
    ],
}


class TextTokenizer:
    """One id a character, and one for padding."""

    pad_token_id = 0x110000

    def batch_decode(self, rows: Any, *, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return ["".join(chr(number) for number in row if number != self.pad_token_id) for row in rows]


def metric_of(wheel: Path) -> Any:
    """Give LLaMA-Factory's metric, loaded from its real file with the real files that it imports."""
    for name in ("llamafactory", "llamafactory.extras", "llamafactory.train", "llamafactory.train.sft"):
        package = types.ModuleType(name)
        package.__path__ = [str(wheel.joinpath(*name.split(".")))]
        sys.modules[name] = package
    return importlib.import_module("llamafactory.train.sft.metric").ComputeSimilarity(tokenizer=TextTokenizer())


def padded(texts: list[str], filler: int, *, left: bool) -> Any:
    """Give the ids of texts as one array."""
    rows = [[ord(character) for character in text] for text in texts]
    width = max(map(len, rows)) + 3
    return np.array(
        [[filler] * (width - len(row)) + row if left else row + [filler] * (width - len(row)) for row in rows]
    )


def golden_of(metric: Any, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    predictions, labels = zip(*pairs, strict=True)
    batch = types.SimpleNamespace(
        predictions=padded(list(predictions), TextTokenizer.pad_token_id, left=True),
        label_ids=padded(list(labels), IGNORED, left=False),
    )
    metric(batch, compute_result=False)
    rows = [
        dict(zip(metric.score_dict, scores, strict=True)) for scores in zip(*metric.score_dict.values(), strict=True)
    ]
    scored = [
        {"prediction": prediction, "label": label, "scores": scores}
        for (prediction, label), scores in zip(pairs, rows, strict=True)
    ]
    return {"rows": scored, "figures": metric._dump()}


def main(wheel: Path) -> None:
    release = next(wheel.glob("llamafactory-*.dist-info")).name.removesuffix(".dist-info")
    metric = metric_of(wheel)
    golden = {
        "reference": release.replace("llamafactory-", "LLaMA-Factory "),
        "packages": [f"{name} {version(name)}" for name in ("jieba", "nltk", "rouge-chinese", "numpy")],
        "corpora": {name: golden_of(metric, pairs) for name, pairs in CORPORA.items()},
    }
    text = json.dumps(golden, indent=1, ensure_ascii=True) + "\n"
    (HERE / "goldens").mkdir(exist_ok=True)
    (HERE / "goldens" / "llamafactory.json").write_text(text, encoding="utf-8")
    print(f"{sum(map(len, CORPORA.values()))} rows in {len(CORPORA)} corpora")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
