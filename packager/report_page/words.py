"""Every sentence of the report in English and Chinese, both in the page, one of them shown.

Words that come out of report.json (details, names, answers) are not translated; the template marks them as what they are.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from packager.report_page.figures import seen

LANGUAGES = ("en", "zh-Hans")


@dataclass(frozen=True, kw_only=True)
class Words:
    """One sentence in every language, with `{name}` where a value goes."""

    en: str
    zh: str

    def of(self, language: str) -> str:
        """Give the sentence in one of `LANGUAGES`."""
        return self.en if language == "en" else self.zh


@functools.cache
def load_words() -> dict[str, Words]:
    """Read words.toml: `{"section.name": Words}`."""
    tables = tomllib.loads((Path(__file__).parent / "words.toml").read_text(encoding="utf-8"))
    return {
        f"{section}.{name}": Words(en=pair["en"], zh=pair["zh"])
        for section, names in tables.items()
        for name, pair in names.items()
    }


def both(key: str, tag: str = "span", **values: object) -> Markup:
    """Give a sentence in both languages, each in an element of its own; style.css shows one of them.

    Args:
        key: Its key in words.toml.
        tag: The element: `span`, in SVG `tspan` or `title`.
        values: What goes to its `{names}`; what is no Markup is escaped.

    Raises:
        KeyError: There is no such sentence, or a value is missing.
    """
    words = load_words()[key]
    safe = {name: value if isinstance(value, Markup) else seen(str(value)) for name, value in values.items()}
    element = Markup('<{0} class="t" lang="{1}">{2}</{0}>')
    return Markup("").join(
        element.format(tag, language, Markup(words.of(language)).format(**safe))  # noqa: S704  # our own sentences
        for language in LANGUAGES
    )


def named(section: str, name: str) -> Markup:
    """Give the name of a check, an engine, a stage ... in both languages; an unknown one as it is in report.json."""
    key = f"{section}.{name}"
    return both(key) if key in load_words() else verbatim(name)


def verbatim(text: str) -> Markup:
    """Give a text of report.json, which is English and may hold anything."""
    return Markup('<bdi lang="en">{}</bdi>').format(seen(text))
