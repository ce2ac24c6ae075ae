"""LMDeploy's own prompt code, run by the Python that has it: JSON requests in, JSON answers out, one line each.

`lmdeploy.model` and `lmdeploy.tokenizer` are what the server uses (`serve/processors/multimodal.py`,
`_get_text_prompt_input`); neither needs a GPU. This file imports nothing of packager.
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
            prompt = template.messages2prompt(json.loads(line))
            answer = {"prompt": prompt, "ids": tokenizer.encode(prompt, add_bos=True)}
        except Exception as error:  # noqa: BLE001  # a template can raise anything; it is a cell of the table
            answer = {"refused": _one_line(error)}
        answers.write(json.dumps(answer) + "\n")


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


if __name__ == "__main__":
    own_stdout, sys.stdout = sys.stdout, sys.stderr
    own_stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main(sys.argv[1], sys.argv[2], own_stdout)
