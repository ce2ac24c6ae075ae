"""A file's JSON or text as typed values, read with a size limit and without trusting it.

Unlike `packager.codec`, which rebuilds values that packager wrote itself, this reads what trainers and model authors
wrote: unknown keys are kept, missing ones are None, and only a key that is asked for is checked.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.errors import InputInvalid, UnsafeInput

CONFIG_LIMIT_BYTES = 16 << 20
# The attention implementations that transformers ships itself; any other value can name code on a hub.
BUILT_IN_IMPLEMENTATIONS = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"})
_AGAIN = "Copy or download the file again; it is damaged or incomplete."
_CODE_KEYS = frozenset({"auto_map", "custom_code", "custom_generate", "custom_pipelines", "trust_remote_code"})


@dataclass(frozen=True, kw_only=True)
class JsonObject:
    """One JSON object of a file, with accessors that check the type of what they give.

    Attributes:
        path: The file, for messages.
        where: Dotted path of this object inside the file; empty for the top level.
        values: The members as `json` read them.
    """

    path: Path
    values: Mapping[str, object]
    where: str = ""

    def text(self, key: str) -> str | None:
        """Give a string, None when the key is absent or null; InputInvalid when it is anything else."""
        value = self.values.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self.wrong(key, "a string")

    def integer(self, key: str) -> int | None:
        """Give a whole number, None when the key is absent or null; InputInvalid when it is anything else."""
        value = self.values.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise self.wrong(key, "a whole number")

    def number(self, key: str) -> float | None:
        """Give a finite number as float, None when the key is absent or null; InputInvalid when it is anything else."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
            return float(value)
        raise self.wrong(key, "a finite number")

    def flag(self, key: str) -> bool | None:
        """Give true or false, None when the key is absent or null; InputInvalid when it is anything else."""
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self.wrong(key, "true or false")

    def child(self, key: str) -> JsonObject | None:
        """Give a nested object, None when the key is absent or null; InputInvalid when it is anything else."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, dict):
            return JsonObject(path=self.path, values=value, where=self._dotted(key))
        raise self.wrong(key, "an object")

    def items(self, key: str) -> tuple[object, ...]:
        """Give the entries of a list, none when the key is absent or null; InputInvalid when it is anything else."""
        value = self.values.get(key)
        if value is None:
            return ()
        if isinstance(value, list):
            return tuple(value)
        raise self.wrong(key, "a list")

    def wrong(self, key: str, expected: str) -> InputInvalid:
        """Give the error for a key that does not hold what it should, for the caller to raise."""
        value = self.values.get(key)
        text = repr(value)
        shown = text if len(text) <= 60 else text[:57] + "..."
        return InputInvalid(
            f"{self.path}: {self._dotted(key)} is {shown}, expected {expected}", hint="Mend or download the file again."
        )

    def _dotted(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key


def read_bytes(path: Path, *, limit_bytes: int) -> bytes:
    """Give the content of a regular file of at most `limit_bytes` bytes.

    Raises:
        InputInvalid: The file is missing, cannot be read, is no regular file, or is larger.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputInvalid(f"{path}: not a regular file", hint="Check the path.")
        if status.st_size > limit_bytes:
            raise InputInvalid(
                f"{path}: {status.st_size} bytes, at most {limit_bytes} are read from such a file", hint=_AGAIN
            )
        with path.open("rb") as file:
            return file.read(limit_bytes)
    except FileNotFoundError:
        raise InputInvalid(f"{path}: no such file", hint="Check the path, or download the file.") from None
    except OSError as error:
        raise InputInvalid(f"{path}: cannot be read ({error.strerror})", hint="Check its permissions.") from None


def read_text(path: Path, *, limit_bytes: int = CONFIG_LIMIT_BYTES) -> str:
    """Give the text of a UTF-8 file with newline line ends, as Python's text mode and so transformers reads it.

    Raises:
        InputInvalid: As for `read_bytes`, or the bytes are not UTF-8.
    """
    data = read_bytes(path, limit_bytes=limit_bytes)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputInvalid(f"{path}: not UTF-8 text (byte {error.start})", hint=_AGAIN) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_object(path: Path, *, limit_bytes: int = CONFIG_LIMIT_BYTES) -> JsonObject:
    """Give the JSON object a file holds.

    Raises:
        InputInvalid: As for `read_text`, or the text is not one JSON object; the message has the line.
    """
    return JsonObject(path=path, values=parse_object(read_text(path, limit_bytes=limit_bytes), path=path))


def parse_object(text: str, *, path: Path, unique_keys: bool = False) -> dict[str, object]:
    """Give the members of the JSON object in `text`; `unique_keys` refuses a key that appears twice.

    Raises:
        InputInvalid: The text is not JSON, is nested too deeply, or is not an object.
    """

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if unique_keys and len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise InputInvalid(f"{path}: {twice!r} appears twice", hint=_AGAIN)
        return found

    try:
        value = json.loads(text, object_pairs_hook=members)
    except json.JSONDecodeError as error:
        raise InputInvalid(f"{path}: not JSON (line {error.lineno}: {error.msg})", hint=_AGAIN) from None
    except RecursionError:
        raise InputInvalid(f"{path}: not JSON that can be read (nested too deeply)", hint=_AGAIN) from None
    except ValueError as error:  # a number with thousands of digits
        raise InputInvalid(f"{path}: not JSON that can be read ({error})", hint=_AGAIN) from None
    if not isinstance(value, dict):
        raise InputInvalid(f"{path}: holds a JSON {type(value).__name__}, expected an object", hint=_AGAIN)
    return value


def refuse_code(config: JsonObject) -> None:
    """Refuse a file whose keys make transformers run code that comes with the model.

    Raises:
        UnsafeInput: A key such as `auto_map` or `custom_code`, at any depth; the message names it.
    """
    for key, value in _members(config.values):
        known = value is None or (isinstance(value, str) and value in BUILT_IN_IMPLEMENTATIONS)
        if (key in _CODE_KEYS and value) or ("_implementation" in key and not known):
            raise UnsafeInput(
                f"{config.path}: {key} asks for code from the model's author ({_short(value)})",
                hint="packager never runs a model's own code. Use a version of the model in a built-in architecture "
                f"of transformers; then remove {key}.",
            )


def _members(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key), item
            yield from _members(item)
    elif isinstance(value, list):
        for item in value:
            yield from _members(item)


def _short(value: object) -> str:
    text = re.sub(r"\s+", " ", json.dumps(value, ensure_ascii=True))
    return text if len(text) <= 80 else text[:77] + "..."
