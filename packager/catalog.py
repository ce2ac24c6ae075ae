"""The two tables at the top level of the repository, as values: probe conversations and Modelfile skeletons.

In a checkout the tables are the folders `chat_templates/` and `modelfiles/`; in an installed wheel the same folders lie in
`packager/_tables/`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from packager import codec
from packager.artifacts import Conversation
from packager.errors import InputInvalid

DEFAULT_SKELETON = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
_PROBE_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """A Modelfile with `$names` where the values of a build go; `name` is its file's stem."""

    name: str
    text: str


def table(name: str) -> Path:
    """Give the folder of a table, `chat_templates` or `modelfiles`, in a wheel or in a checkout.

    Raises:
        InputInvalid: The installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_tables" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise InputInvalid(f"{name}/ is missing from this installation of packager", hint="Install ollama-packager again.")


def probe_conversations() -> tuple[Conversation, ...]:
    """Give the conversations of `chat_templates/probes.json` in their written order.

    Raises:
        InputInvalid: The file is damaged, or an id appears twice.
    """
    return parse_conversations(table("chat_templates") / "probes.json")


def parse_conversations(path: Path) -> tuple[Conversation, ...]:
    """Give the conversations of a file in the form of `probes.json`: a list of `{id, group, messages}`.

    Raises:
        InputInvalid: Not JSON, a field is missing or unknown, an id is malformed or appears twice.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputInvalid(f"{path}: no such file") from error
    except ValueError as error:
        raise InputInvalid(f"{path}: not JSON ({error})") from error
    conversations = codec.decode(tuple[Conversation, ...], data, where=str(path))
    seen: set[str] = set()
    for conversation in conversations:
        if not _PROBE_ID.fullmatch(conversation.id):
            raise InputInvalid(f"{path}: {conversation.id!r} is no id; use lower-case letters, digits and '-'")
        if conversation.id in seen:
            raise InputInvalid(f"{path}: the id {conversation.id!r} appears twice")
        seen.add(conversation.id)
    return conversations


def modelfile_skeleton(architecture: str) -> Skeleton:
    """Give the Modelfile skeleton of an architecture (`Qwen2ForCausalLM`), or the default one.

    Raises:
        InputInvalid: The installation has no default skeleton.
    """
    path = table("modelfiles") / f"{architecture}.Modelfile"
    return named_skeleton(architecture if _NAME.fullmatch(architecture) and path.is_file() else DEFAULT_SKELETON)


def named_skeleton(name: str) -> Skeleton:
    """Give the Modelfile skeleton of a name.

    Raises:
        InputInvalid: The installation does not have it.
    """
    path = table("modelfiles") / f"{name}.Modelfile"
    if not path.is_file():
        raise InputInvalid(f"{path} is missing", hint="Install ollama-packager again.")
    return Skeleton(name=name, text=path.read_text(encoding="utf-8"))
