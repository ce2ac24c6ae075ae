"""Names of models in Ollama, read by Ollama's own grammar: `[[host/]namespace/]model[:tag]`.

The law: `ModelName.parse(str(name)) == name`. A name is judged here before anything is built, uploaded or joined to a path.

Unlike Ollama's parser this one refuses the tags that Ollama takes for a place rather than a version: `NAME:cloud`,
`NAME:local` and tags that end in `-cloud`. `create` stores a model under such a name and nothing finds it again.

Source: ollama 0.34.0, types/model/name.go (`ParseName`, `isValidPart`) and internal/modelref/modelref.go
(`parseSourceSuffix`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from packager.errors import Usage

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_PARTS = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}
_RULE = "letters, digits, '_', '-' and '.', at most 80, the first a letter, a digit or '_'"


@dataclass(frozen=True)
class ModelName:
    """A model's name with every part filled in.

    Attributes:
        host: Registry the name belongs to; 1 to 350 characters.
        namespace: Owner in that registry; 1 to 80 characters, no dot.
        model: 1 to 80 characters.
        tag: 1 to 80 characters.
    """

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read a name as Ollama does, with its defaults for what is left out.

        Raises:
            Usage: A part is empty, too long or has a character that Ollama refuses; or the tag means a place to Ollama.
        """
        head, tag = text, DEFAULT_TAG
        if text.rfind(":") > text.rfind("/"):  # a colon left of the last slash belongs to the host
            head, tag = _cut(text, ":")
        namespace, host = DEFAULT_NAMESPACE, DEFAULT_HOST
        model = head
        if "/" in head:
            head, model = _cut(head, "/")
            namespace = head
            if "/" in head:
                head, namespace = _cut(head, "/")
                host = head.partition("://")[2] if "://" in head else head
        name = cls(host=host or DEFAULT_HOST, namespace=namespace, model=model, tag=tag)
        name._check(text)
        return name

    def with_tag(self, tag: str) -> ModelName:
        """Give the same model under another tag.

        Raises:
            Usage: Ollama would refuse the tag.
        """
        name = replace(self, tag=tag)
        name._check(str(name))
        return name

    def same_as(self, other: ModelName) -> bool:
        """Say whether Ollama takes both for one model: it ignores the case of letters."""
        return str(self).lower() == str(other).lower()

    def __str__(self) -> str:
        """Give the shortest form that Ollama itself prints: defaults left out, the tag always there."""
        short = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{short}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{short}"
        return short

    def _check(self, text: str) -> None:
        for part, pattern in _PARTS.items():
            value = getattr(self, part)
            if not pattern.fullmatch(value):
                raise Usage(f"{text!r} is no name for a model in Ollama: its {part} is {value!r}", hint=f"Use {_RULE}.")
        tag = self.tag.lower()
        if tag in ("cloud", "local") or tag.endswith("-cloud"):
            raise Usage(
                f"{text!r} is no name for a model in Ollama: it reads the tag {self.tag!r} as a place",
                hint="Use a tag other than cloud, local, or one that ends in -cloud.",
            )


def _cut(text: str, separator: str) -> tuple[str, str]:
    """Split at the last separator. Unlike a part that is absent, one that is promised and empty gets no default."""
    before, _, after = text.rpartition(separator)
    return before, after
