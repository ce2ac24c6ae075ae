"""LLaMA-Factory's own numbers, from its own code (`make_goldens.py`), and the packages' numbers from the packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.metrics.llamafactory import LlamaFactory
from packager.metrics.metric import LlamaFactoryScores

GOLDEN = json.loads((Path(__file__).with_name("goldens") / "llamafactory.json").read_text())
CORPORA: dict[str, Any] = GOLDEN["corpora"]
ROWS = [
    pytest.param(row, id=f"{name}-{number}")
    for name, corpus in CORPORA.items()
    for number, row in enumerate(corpus["rows"])
]
EQUAL = 1e-9


@pytest.fixture(scope="module")
def metric() -> LlamaFactory:
    return LlamaFactory()


@pytest.mark.parametrize("row", ROWS)
def test_a_row_scores_what_llamafactory_gives_it(row: dict[str, Any], metric: LlamaFactory) -> None:
    found = metric.score(row["prediction"], row["label"])

    expected = [row["scores"][name] for name in ("bleu-4", "rouge-1", "rouge-2", "rouge-l")]
    assert found.statistics == pytest.approx(expected, rel=0, abs=EQUAL)


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=CORPORA)
def test_a_corpus_has_llamafactory_s_figures(corpus: dict[str, Any], metric: LlamaFactory) -> None:
    rows = [metric.score(row["prediction"], row["label"]).statistics for row in corpus["rows"]]

    found = dict(zip(metric.figures, metric.corpus(np.array(rows)), strict=True))

    assert {name.lower(): figure for name, figure in found.items()} == pytest.approx(
        corpus["figures"], rel=0, abs=EQUAL
    )


def test_the_goldens_have_rows_of_every_kind_of_score() -> None:
    scores = [row["scores"] for corpus in CORPORA.values() for row in corpus["rows"]]
    for name in ("bleu-4", "rouge-1", "rouge-2", "rouge-l"):
        values = {score[name] for score in scores}
        assert 0.0 in values
        assert len([value for value in values if 0 < value < 100]) > 10
    assert GOLDEN["reference"] == "LLaMA-Factory 0.9.5"


@settings(deadline=None)  # jieba loads its dictionary at the first one
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_two_texts_have_the_scores_of_the_packages(prediction: str, label: str) -> None:
    import jieba
    import rouge_chinese
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    metric = LlamaFactory()
    said, expected = " ".join(jieba.cut(prediction)), " ".join(jieba.cut(label))

    found = metric.score(prediction, label)

    bleu = sentence_bleu([list(label)], list(prediction), smoothing_function=SmoothingFunction().method3)
    assert found.bleu_4 == round(bleu * 100, 4)
    assert all(0 <= figure <= 100 for figure in found.statistics)
    if said.split() and expected.split():
        (scores,) = rouge_chinese.Rouge().get_scores(said, expected)
        rouge = [round(scores[name]["f"] * 100, 4) for name in ("rouge-1", "rouge-2", "rouge-l")]
        assert [found.rouge_1, found.rouge_2, found.rouge_l] == rouge
    else:
        assert (found.rouge_1, found.rouge_2, found.rouge_l) == (0.0, 0.0, 0.0)


def test_a_newline_that_only_the_label_has_costs_bleu_and_no_rouge(metric: LlamaFactory) -> None:
    with_newline, without = metric.score("Hello.", "Hello.\n"), metric.score("Hello.", "Hello.")

    assert without.bleu_4 == 100.0
    assert with_newline.bleu_4 == pytest.approx(100 * np.exp(1 - 7 / 6), abs=5e-5)  # the brevity penalty alone
    assert (with_newline.rouge_1, with_newline.rouge_l) == (without.rouge_1, without.rouge_l)


@pytest.mark.parametrize(("text", "bleu"), [("a", 35.3553), ("ab", 59.4604), ("abc", 84.0896), ("abcd", 100.0)])
def test_a_right_answer_of_few_characters_has_less_than_100(text: str, bleu: float, metric: LlamaFactory) -> None:
    assert metric.score(text, text).bleu_4 == bleu  # 100 * 2 ** -(1.5, 0.75, 0.25, 0), the smoothing's own steps


def test_the_signature_names_what_the_figures_depend_on(metric: LlamaFactory) -> None:
    assert [f"{package.replace(' ', ':')}" in metric.signature for package in GOLDEN["packages"][:3]] == [True] * 3


def test_loading_says_nothing_and_keeps_its_dictionary_in_the_user_s_cache(tmp_path: Path) -> None:
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from packager.metrics.llamafactory import LlamaFactory\n"
        "print(LlamaFactory().score('你好世界', '你好世界').bleu_4)"
    )
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled"),  # the packages are compiled anew, which is when Python warns
    }
    (tmp_path / "tmp").mkdir()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "100.0\n", "")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert (tmp_path / "cache" / "packager" / "jieba.cache").is_file()


def test_scores_are_the_statistics() -> None:
    scores = LlamaFactoryScores(bleu_4=1.0, rouge_1=2.0, rouge_2=3.0, rouge_l=4.0)
    assert scores.statistics == (1.0, 2.0, 3.0, 4.0)
