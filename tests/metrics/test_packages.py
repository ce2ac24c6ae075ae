from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import pytest

from packager.errors import ToolMissing
from packager.metrics import llamafactory, sacrebleu
from packager.metrics.packages import loading


@pytest.mark.parametrize(
    ("package", "make"),
    [
        pytest.param("jieba", llamafactory.LlamaFactory, id="jieba"),
        pytest.param("nltk", llamafactory.LlamaFactory, id="nltk"),
        pytest.param("rouge_chinese", llamafactory.LlamaFactory, id="rouge-chinese"),
        pytest.param("sacrebleu", sacrebleu.Sacrebleu, id="sacrebleu"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    package: str, make: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    llamafactory._words.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ToolMissing) as caught:
        make()

    assert caught.value.message == f"the metrics need the package {package}, which is not installed"
    assert caught.value.hint == 'Install it with: pip install "ollama-packager[eval]"'
    assert caught.value.exit_code == 9


@pytest.mark.parametrize(
    ("message", "category"),
    [
        pytest.param("invalid escape sequence '\\.'", DeprecationWarning, id="Python 3.11"),
        pytest.param("invalid escape sequence '\\.'", SyntaxWarning, id="Python 3.12"),
        pytest.param('"\\." is an invalid escape sequence.', SyntaxWarning, id="Python 3.14"),
        pytest.param("pkg_resources is deprecated as an API.", UserWarning, id="setuptools 80"),
    ],
)
def test_what_python_says_of_the_packages_source_is_not_shown(message: str, category: type[Warning]) -> None:
    with loading():
        warnings.warn(message, category, stacklevel=1)


def test_every_other_warning_is() -> None:
    with pytest.warns(UserWarning, match="disk"), loading():
        warnings.warn("disk", UserWarning, stacklevel=1)
