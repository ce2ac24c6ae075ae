"""The process that asks transformers for prompts and token ids: JSON requests in, JSON answers out, one line each.

It does what a trainer does, by `apply_chat_template` and the tokenizer itself. transformers is told that there is no torch:
tokenizers need none, and loading it would take longer than everything else. The template is a program from the internet, so
the process limits its own memory, and whoever asks limits its time.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any, cast

MEMORY_BYTES = 1 << 30  # beyond what the loaded tokenizer takes


def serve(folder: str, answers: Any) -> None:
    """Say that this process is ready, load the folder's tokenizer, say what it is, then answer requests from stdin."""
    answers.write("ready\n")
    sys.stdin.readline()  # asked what the tokenizer is
    try:
        tokenizer = load(folder)
    except Exception as error:  # noqa: BLE001  # whatever a tokenizer's code raises is the answer
        answers.write(json.dumps({"invalid": _one_line(error)}) + "\n")
        return
    limit_memory()
    answers.write(json.dumps({"bos": tokenizer.bos_token or "", "version": version()}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(answer(tokenizer, json.loads(line))) + "\n")


def load(folder: str) -> Any:
    """Load a tokenizer without torch."""
    cast("dict[str, types.ModuleType | None]", sys.modules)["torch"] = None
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def version() -> str:
    """Give transformers' version."""
    import transformers

    return str(transformers.__version__)


def answer(tokenizer: Any, request: dict[str, Any]) -> dict[str, object]:
    """Give the prompt of a conversation, the ids of a text, or the text of an id."""
    if "ids" in request:
        return {"pieces": [tokenizer.decode([token], skip_special_tokens=False) for token in request["ids"]]}
    if "text" in request:
        return {"ids": tokenizer.encode(request["text"], add_special_tokens=False)}
    try:
        prompt = tokenizer.apply_chat_template(
            request["messages"],
            tools=request["tools"],
            chat_template=request["template"],
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as error:  # noqa: BLE001  # a template can raise anything; it is a cell of the table
        return {"refused": _one_line(error)}
    return {"prompt": prompt, "ids": tokenizer.encode(prompt, add_special_tokens=False)}


def limit_memory() -> None:
    """Let this process grow by `MEMORY_BYTES`, where the system can say how large it is."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        return


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


if __name__ == "__main__":
    own_stdout, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not be taken for an answer
    own_stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    serve(sys.argv[1], own_stdout)
