"""The top level of a YAML file as plain values, read with a size limit and without constructing anything.

The document is composed and not constructed: no tag makes an object, and merge keys, which can grow without end, stay what
they are.
"""

from __future__ import annotations

from pathlib import Path

from packager.errors import InputInvalid
from packager.formats.json_file import read_text

YAML_LIMIT_BYTES = 1 << 20
SUFFIXES = (".yaml", ".yml")
_AGAIN = "Copy the file again; it is damaged."


def read_yaml(path: Path) -> dict[str, object]:
    """Give the members of a YAML mapping.

    Returns:
        Texts, booleans and nulls as they are, a list of texts as a tuple, and every other value as the pair of its tag and its
        first characters, which no caller takes for a text.

    Raises:
        InputInvalid: It cannot be read, is no YAML, or no mapping.
    """
    text = read_text(path, limit_bytes=YAML_LIMIT_BYTES)
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputInvalid(f"{path}: not YAML ({reason})", hint=_AGAIN) from None
    if not isinstance(root, yaml.MappingNode):
        raise InputInvalid(f"{path}: not a YAML mapping", hint=_AGAIN)
    return {str(key.value): _plain(_tag(value), value.value) for key, value in root.value}


def _plain(tag: str, value: object) -> object:
    if tag == "null":
        return None
    if tag == "bool":
        return str(value).lower() in ("true", "yes", "on")
    if tag == "seq" and isinstance(value, list) and all(_tag(item) == "str" for item in value):
        return tuple(str(item.value) for item in value)
    return value if tag == "str" else (tag, str(value)[:20])


def _tag(node: object) -> str:
    return str(getattr(node, "tag", "")).rpartition(":")[2]
