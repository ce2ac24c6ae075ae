"""sacrebleu's own numbers, rows alone and together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.metrics.sacrebleu import Sacrebleu, Words

PAIRS = [
    ("The cat sat on the mat.", "The cat sat on the mat."),
    ("The cat is on a mat, I think.", "A cat sat on the mat."),
    ("", "Nothing was said."),
    ("No.", "There is no doubt about it."),
    ("今天天气很好，我们去公园。", "今天天气不错，我们去公园散步。"),
    ("👍 ok", "ok 👍"),
]


@pytest.mark.parametrize("words", Words)
def test_rows_together_have_the_bleu_and_signature_of_sacrebleu(words: Words) -> None:
    from sacrebleu.metrics import BLEU

    metric, bleu = Sacrebleu(words), BLEU(tokenize=words.value)
    rows = np.array([metric.score(prediction, label).statistics for prediction, label in PAIRS])

    (found,) = metric.corpus(rows)

    predictions, labels = zip(*PAIRS, strict=True)
    assert found == bleu.corpus_score(predictions, [labels]).score
    assert metric.signature == str(bleu.get_signature())
    assert f"tok:{words.value}" in metric.signature


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=5))
def test_any_rows_together_have_sacrebleu_s_bleu(pairs: list[tuple[str, str]]) -> None:
    from sacrebleu import corpus_bleu

    metric = Sacrebleu()
    predictions, labels = zip(*pairs, strict=True)

    (found,) = metric.corpus(np.array([metric.score(*pair).statistics for pair in pairs], dtype=float))

    assert found == corpus_bleu(predictions, [labels]).score


@pytest.mark.parametrize(("prediction", "label"), PAIRS, ids=range(len(PAIRS)))
def test_a_row_alone_has_sacrebleu_s_sentence_bleu(prediction: str, label: str) -> None:
    from sacrebleu import sentence_bleu

    found = Sacrebleu().score(prediction, label)

    assert found.bleu == sentence_bleu(prediction, [label]).score
    assert len(found.matches) == len(found.ngrams) == 4


def test_only_its_own_words_split_chinese() -> None:
    prediction, label = PAIRS[4]

    found = {words: Sacrebleu(words).score(prediction, label) for words in Words}

    assert found[Words.MTEVAL_13A].prediction_tokens == 1
    assert found[Words.CHINESE].prediction_tokens == found[Words.CHARACTERS].prediction_tokens == len(prediction)
    assert found[Words.MTEVAL_13A].bleu < 1 < found[Words.CHINESE].bleu
