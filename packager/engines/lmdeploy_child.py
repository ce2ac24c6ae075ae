"""LMDeploy's own prompt code, run by the Python that has it: JSON requests in, JSON answers out, one line each.

`lmdeploy.model` and `lmdeploy.tokenizer` are what the server uses (`serve/processors/multimodal.py`,
`_get_text_prompt_input`); neither needs a GPU. What the server does to declared tools and to calls before that is asked of its
own request parser. This file imports nothing of packager.
"""

import json
import sys
from typing import Any


def main(folder: str, form: str, answers: Any) -> None:
    """Say that this process is ready, load, say what was loaded, then answer requests from stdin.

    `folder` has the tokenizer and the Jinja template; `form` is the JSON file, `hf` to use the Jinja template.
    """
    answers.write("ready\n")
    sys.stdin.readline()
    try:
        import lmdeploy
        from lmdeploy.model import MODELS, ChatTemplateConfig
        from lmdeploy.tokenizer import Tokenizer

        by_jinja = form == "hf"
        template = (
            MODELS.get("hf")(model_path=folder) if by_jinja else ChatTemplateConfig.from_json(form).chat_template()
        )
        tokenizer = Tokenizer(folder)
    except Exception as error:  # noqa: BLE001  # whatever LMDeploy raises is the answer
        answers.write(json.dumps({"failed": _one_line(error)}) + "\n")
        return
    answers.write(json.dumps({"version": lmdeploy.__version__}) + "\n")
    for line in sys.stdin:
        try:
            messages, tools = as_served(**json.loads(line))
            prompt = template.messages2prompt(messages, tools=tools)
            answer = {"prompt": prompt, "ids": tokenizer.encode(prompt, add_bos=True)}
        except Exception as error:  # noqa: BLE001  # a template can raise anything; it is a cell of the table
            answer = {"refused": _one_line(error)}
        answers.write(json.dumps(answer) + "\n")


def as_served(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> tuple[Any, Any]:
    """Give messages and tools as the server hands them to a template (`serve/core/chat_runner.py`, `ChatRunner.prepare`)."""
    if not tools and not any("tool_calls" in message for message in messages):
        return messages, None  # nothing is changed; the server's modules take seconds to import
    from lmdeploy.serve.openai.protocol import ChatCompletionRequest
    from lmdeploy.serve.parsers.response_parser import BaseResponseParser

    request = BaseResponseParser(ChatCompletionRequest(model="", messages=messages, tools=tools)).request
    return request.messages, request.tools


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


if __name__ == "__main__":
    own_stdout, sys.stdout = sys.stdout, sys.stderr
    own_stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main(sys.argv[1], sys.argv[2], own_stdout)
