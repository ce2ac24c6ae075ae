"""What a checkpoint's tokenizer files say, read without the tokenizers or transformers packages.

The precedence between the files is transformers' own (5.x, `PreTrainedTokenizerBase._from_pretrained`):
chat_template.jinja beats tokenizer_config.json, and that beats special_tokens_map.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packager.errors import InputInvalid
from packager.formats.json_file import JsonObject, read_object, read_text

TOKENIZER_LIMIT_BYTES = 256 << 20
TEMPLATE_LIMIT_BYTES = 4 << 20
TEMPLATE_FILE = "chat_template.jinja"
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_AGAIN = "Save the tokenizer again with save_pretrained, or download it again."
_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True, kw_only=True)
class SpecialToken:
    """An added token: its text, its id, and whether it is special (control) rather than plain text."""

    text: str
    id: int
    special: bool


@dataclass(frozen=True, kw_only=True)
class NamedToken:
    """A token that templates can name, for example `bos_token` or a model's own `image_token`."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """What rendering a prompt needs to know about a tokenizer.

    Attributes:
        bos_token: Text of the token that starts a sequence, None when there is none; likewise eos, unk and pad.
        named: Every named token, the four above included, as templates see them.
        special: Every added token, sorted by id.
        vocabulary_size: Largest token id plus one; None without a tokenizer.json.
        adds_bos: Whether tokenizing a text puts BOS in front of it.
        chat_template: The Jinja text transformers would use, None when there is none.
    """

    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    named: tuple[NamedToken, ...]
    special: tuple[SpecialToken, ...]
    vocabulary_size: int | None
    adds_bos: bool
    chat_template: str | None

    def id_of(self, text: str) -> int | None:
        """Give the id of an added token, None when `text` is not one."""
        return next((token.id for token in self.special if token.text == text), None)


NO_TOKENS = TokenizerFacts(
    bos_token=None,
    eos_token=None,
    unk_token=None,
    pad_token=None,
    named=(),
    special=(),
    vocabulary_size=None,
    adds_bos=False,
    chat_template=None,
)


def read_tokenizer(folder: Path) -> TokenizerFacts:
    """Give what the tokenizer files of a folder say.

    Raises:
        InputInvalid: The folder has no tokenizer file, or one of them is damaged.
    """
    if not any((folder / name).exists() for name in _FILES):
        raise InputInvalid(
            f"{folder}: no tokenizer ({', '.join(_FILES[:2])})",
            hint="Copy the tokenizer files of the base into the folder.",
        )
    config = _optional(folder / "tokenizer_config.json")
    tokenizer = _optional(folder / "tokenizer.json", limit_bytes=TOKENIZER_LIMIT_BYTES)
    named = _named_tokens(config, _optional(folder / "special_tokens_map.json"))
    texts = {token.name: token.text for token in named}
    bos = texts.get("bos_token")
    return TokenizerFacts(
        bos_token=bos,
        eos_token=texts.get("eos_token"),
        unk_token=texts.get("unk_token"),
        pad_token=texts.get("pad_token"),
        named=named,
        special=_added_tokens(tokenizer, config),
        vocabulary_size=None if tokenizer is None else _vocabulary_size(tokenizer),
        adds_bos=_adds_bos(tokenizer, config, bos),
        chat_template=read_chat_template(folder),
    )


def read_chat_template(folder: Path) -> str | None:
    """Give the Jinja text transformers would use for a conversation without tools, None when the folder has none.

    Raises:
        InputInvalid: A template file or tokenizer_config.json is damaged.
    """
    extra = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    default = folder / TEMPLATE_FILE
    if default.exists():
        return read_text(default, limit_bytes=TEMPLATE_LIMIT_BYTES)
    if extra:
        # Files replace what tokenizer_config.json says even when none of them is the default one.
        named = next((path for path in extra if path.name == "default.jinja"), None)
        return None if named is None else read_text(named, limit_bytes=TEMPLATE_LIMIT_BYTES)
    config = _optional(folder / "tokenizer_config.json")
    return None if config is None else _configured_template(config)


def _configured_template(config: JsonObject) -> str | None:
    value = config.values.get("chat_template")
    if isinstance(value, list):
        value = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
    if isinstance(value, dict):
        value = value.get("default")
    if value is None or isinstance(value, str):
        return value
    raise config.wrong("chat_template", "a text or a list of named texts")


def _optional(path: Path, *, limit_bytes: int = 64 << 20) -> JsonObject | None:
    return read_object(path, limit_bytes=limit_bytes) if path.exists() else None


def _named_tokens(config: JsonObject | None, legacy: JsonObject | None) -> tuple[NamedToken, ...]:
    found: dict[str, object] = dict(config.values) if config else {}
    # transformers reads the older file only where the newer one does not list the added tokens itself
    if legacy is not None and "added_tokens_decoder" not in found:
        found.update(legacy.values)
    extra = found.get("extra_special_tokens")
    if isinstance(extra, dict):
        found.update(extra)
    texts = {key: _token_text(value) for key, value in found.items() if key in _NAMES or key.endswith("_token")}
    return tuple(NamedToken(name=key, text=text) for key, text in sorted(texts.items()) if text is not None)


def _token_text(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _added_tokens(tokenizer: JsonObject | None, config: JsonObject | None) -> tuple[SpecialToken, ...]:
    listed: dict[int, SpecialToken] = {}
    if tokenizer is not None:
        for item in tokenizer.items("added_tokens"):
            token = _added_token(tokenizer, "added_tokens", item, item.get("id") if isinstance(item, dict) else None)
            listed[token.id] = token
    decoder = config.child("added_tokens_decoder") if config is not None else None
    if decoder is not None:
        for key, item in decoder.values.items():
            number = int(key) if key.isascii() and key.isdigit() else None
            token = _added_token(decoder, key, item, number)
            listed.setdefault(token.id, token)
    return tuple(listed[number] for number in sorted(listed))


def _added_token(source: JsonObject, key: str, item: object, number: object) -> SpecialToken:
    text = item.get("content") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(text, str) or type(number) is not int or number < 0:
        raise InputInvalid(f"{source.path}: {key} has an entry without content and id ({str(item)[:60]})", hint=_AGAIN)
    return SpecialToken(text=text, id=number, special=item.get("special") is True)


def _vocabulary_size(tokenizer: JsonObject) -> int:
    model = tokenizer.child("model")
    if model is None:
        raise InputInvalid(f"{tokenizer.path}: has no model", hint=_AGAIN)
    vocabulary = model.values.get("vocab")
    ids: Iterator[object] = iter(())
    largest = -1
    if isinstance(vocabulary, dict):
        ids = iter(vocabulary.values())
    elif isinstance(vocabulary, list):  # Unigram: the position is the id
        largest = len(vocabulary) - 1
    else:
        raise model.wrong("vocab", "an object or a list")
    for number in ids:
        if type(number) is not int:
            raise InputInvalid(
                f"{tokenizer.path}: model.vocab has the id {number!r}, expected a whole number", hint=_AGAIN
            )
        largest = max(largest, number)
    added = _added_tokens(tokenizer, None)
    return max(largest, added[-1].id if added else -1) + 1


def _adds_bos(tokenizer: JsonObject | None, config: JsonObject | None, bos: str | None) -> bool:
    if bos is None:
        return False
    configured = config.flag("add_bos_token") if config is not None else None
    processor = tokenizer.child("post_processor") if tokenizer is not None else None
    if processor is None:
        return bool(configured)
    steps = processor.items("processors") if processor.values.get("type") == "Sequence" else (processor.values,)
    return any(_starts_with(step, bos) for step in steps)


def _starts_with(step: object, bos: str) -> bool:
    if not isinstance(step, dict) or step.get("type") != "TemplateProcessing":
        return False
    single = step.get("single")
    first = single[0] if isinstance(single, list) and single else None
    token = first.get("SpecialToken") if isinstance(first, dict) else None
    return isinstance(token, dict) and token.get("id") == bos
