"""The canonical template of a build: the original behind a comment header and pins, proved to build the original's prompts.

The header does two jobs. It says what the file is, and it is long enough (140 characters and more) that Ollama, which
compares a GGUF's template with about 37 known ones when a model is created, does not take it for one of those and attach
another template and other stops (Ollama 0.30 to 0.34, `server/model.go`, Levenshtein distance below 100).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from packager.artifacts import Conversation, Pin
from packager.chat.pins import Renders, engine_settings, find_pins, renders
from packager.chat.render import Renderer, RenderRefused, Setting
from packager.errors import UnsafeInput, Unsupported

HEADER_CHARACTERS = 140
# How the header meets the original. Jinja drops the blanks before the second one, so that one is tried for a template that
# begins with blanks that show; the proof decides.
_JOINTS = ("-#}\n", "-#}{{ '' }}")
_PLAIN = re.compile(r"[^A-Za-z0-9 .,:;'\"/_=()+-]")


@dataclass(frozen=True, kw_only=True)
class Canonical:
    """A canonical template, its pins, and what it was proved on.

    Attributes:
        text: Header, pins, original.
        original_sha256: Digest of the original's UTF-8 bytes.
        pins: What was fixed, and why.
        prompts: What it renders for each probe, in the probes' order.
        leading_bos: Whether every prompt starts with the BOS token.
        refuses: Ids of the probes it does not take, with its message.
    """

    text: str
    original_sha256: str
    pins: tuple[Pin, ...]
    prompts: Renders
    leading_bos: bool
    refuses: tuple[tuple[str, str], ...]


def canonicalise(
    renderer: Renderer, template: str, probes: tuple[Conversation, ...], *, source: str, bos_token: str | None
) -> Canonical:
    """Give the canonical form of a template, proved equal to it on every probe.

    Proved means: rendered as transformers does, and with every variable passed that engines pass on their own, it builds
    what the original builds under transformers' variables and the pinned day.

    Args:
        renderer: Renders for the template's tokenizer.
        template: The original text.
        probes: The conversations of the proof; the first one must be renderable.
        source: Where the original came from, for the header.
        bos_token: Text of the tokenizer's BOS, None when it has none.

    Raises:
        UnsafeInput: The template does not end, or refuses every conversation.
        InputInvalid: The template is not Jinja.
        Unsupported: No form was found that builds the original's prompts.
    """
    digest = hashlib.sha256(template.encode()).hexdigest()
    pinned = find_pins(renderer, template, probes)
    reference = renders(renderer, template, probes, pinned.setting)
    _require_answer(reference, source)
    header = _header(digest, source, pinned.pins)
    prologue = "".join(pinned.prologue)
    first_difference = ""
    for joint in _JOINTS:
        text = _joined(header, prologue, joint, template)
        first_difference = _difference(renderer, text, probes, reference, pinned.setting)
        if not first_difference:
            return Canonical(
                text=text,
                original_sha256=digest,
                pins=pinned.pins,
                prompts=reference,
                leading_bos=_leads(reference, bos_token),
                refuses=tuple(
                    (probe.id, prompt.message)
                    for probe, prompt in zip(probes, reference, strict=True)
                    if isinstance(prompt, RenderRefused)
                ),
            )
    raise Unsupported(
        f"{source}: no header and pins build the original's prompts ({first_difference})",
        hint="Pass another template with --template FILE.",
    )


def _header(digest: str, source: str, pins: tuple[Pin, ...]) -> str:
    """Write the comment's content: plain characters only, and none of the words that engines search templates for."""
    fixed = [f"  {pin.name} = {_PLAIN.sub('', pin.value)}: {_PLAIN.sub('', pin.reason)}." for pin in pins]
    lines = [
        "Chat template, canonical form, written by packager. The original follows this comment unchanged.",
        f"Original: {_PLAIN.sub('', source)}, sha256 {digest}.",
        *(
            ["Fixed, so that every engine builds the prompts of transformers:", *fixed]
            if pins
            else ["Nothing is fixed."]
        ),
        "This comment is long on purpose: without it Ollama may take the template for another one.",
    ]
    return "{#- " + "\n    ".join(lines) + "\n"


def rewritten_header(digest: str, source: str, pins: tuple[Pin, ...]) -> str:
    """Write the comment in front of a template that is written anew."""
    lines = [
        "Chat template, canonical form, written by packager. llama.cpp cannot run the original: this is written anew",
        "from the prompts that it builds, and proved to build the same ones.",
        f"Original: {_PLAIN.sub('', source)}, sha256 {digest}.",
        *(f"  {pin.name} = {_PLAIN.sub('', pin.value)}: {_PLAIN.sub('', pin.reason)}." for pin in pins),
        "This comment is long on purpose: without it Ollama may take the template for another one.",
    ]
    return "{#- " + "\n    ".join(lines) + "\n-#}\n"


def _joined(header: str, prologue: str, joint: str, template: str) -> str:
    if not prologue:
        return header + joint + template
    # The pins strip the blanks around them, so the last of their closing tags plays the part of the header's.
    closing = joint.removeprefix("-#}")
    return header + "-#}\n" + prologue + closing + template


def _difference(
    renderer: Renderer, text: str, probes: tuple[Conversation, ...], reference: Renders, setting: Setting
) -> str:
    """Give the first probe whose prompt differs, and how it was rendered; empty when none does."""
    plain = Setting(variables=setting.variables)
    for one in (plain, *engine_settings(renderer, plain)):
        for probe, expected, found in zip(probes, reference, renders(renderer, text, probes, one), strict=True):
            if isinstance(expected, RenderRefused) and isinstance(found, RenderRefused):
                continue
            if expected != found:
                passed = ", ".join(name for name, _ in one.variables) or ", ".join(f"no {n}" for n in one.absent)
                return f"conversation {probe.id}" + (f", engines pass {passed}" if passed else "")
    return ""


def _require_answer(reference: Renders, source: str) -> None:
    first = reference[0]
    if isinstance(first, RenderRefused):
        raise UnsafeInput(
            f"{source}: the template refuses a conversation of one user message ({first.message})",
            hint="Pass another template with --template FILE.",
        )


def _leads(prompts: Renders, bos_token: str | None) -> bool:
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    return bool(bos_token) and bool(texts) and all(text.startswith(bos_token or "") for text in texts)
