"""What a page says, read with the standard library's parser: elements with their texts and ancestors."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset({"meta", "input", "br", "link", "img", "path", "circle"})


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        """Every element of this tag below, in order; `*` is every one."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                found += [child] if tag in (child.tag, "*") else []
                found += child.all(tag)
        return found

    def by_id(self, name: str) -> Element:
        return next(element for element in self.all("*") if element.attributes.get("id") == name)

    def texts(self, language: str = "en") -> list[tuple[Element, str]]:
        """Every text that a reader of this language sees, with the element it stands in."""
        found: list[tuple[Element, str]] = []
        for child in self.children:
            if isinstance(child, str):
                found.append((self, child))
            elif child.tag not in ("script", "style", "head") and not _hidden(child, language):
                found += child.texts(language)
        return found

    def text(self, language: str = "en") -> str:
        return " ".join("".join(text for _, text in self.texts(language)).split())

    def path(self) -> list[Element]:
        """This element and its ancestors, itself first."""
        return [self, *(self.parent.path() if self.parent else [])]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = Element("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.at.children.append(Element(tag, {name: value or "" for name, value in attrs}, self.at))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.children.append(data)


def read(page: str) -> Element:
    """Parse a page; every element must be closed, in order."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.at is reader.root, f"<{reader.at.tag}> is not closed"
    return reader.root


def _hidden(element: Element, language: str) -> bool:
    return "t" in element.attributes.get("class", "").split() and element.attributes["lang"][:2] != language[:2]
