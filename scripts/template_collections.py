"""Three public collections of chat templates, for the evaluations beside this file."""

import ast
import hashlib
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from packager.sources.llama_cpp_tree import installed_version

OLLAMA = "github.com/ollama/ollama@v0.34.0"
UTILS = "@huggingface/ollama-utils@0.0.18"
QUOTED = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
DEVELOPMENT, HELD_OUT = "development", "held out"


def collections(folder: Path) -> list[tuple[str, str, str]]:
    """Give part, name and text of every distinct template, sorted by the sha256 of its text."""
    found: dict[str, tuple[str, str]] = {}
    done = subprocess.run(["go", "mod", "download", "-json", OLLAMA], capture_output=True, text=True, check=True)
    index = json.loads((Path(json.loads(done.stdout)["Dir"]) / "template" / "index.json").read_text())
    found |= {entry["template"]: (DEVELOPMENT, f"ollama {entry['name']}") for entry in index}
    subprocess.run(["npm", "pack", "--silent", UTILS], cwd=folder, capture_output=True, check=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        member = archive.extractfile("package/src/chat-template-automap.ts")
        source = member.read().decode() if member is not None else ""
    for entry in re.finditer(rf"model: ({QUOTED}),\s*gguf: ({QUOTED})", source):
        model, text = (ast.literal_eval(part) for part in entry.groups())  # a JavaScript string reads as one of Python
        found.setdefault(text, (DEVELOPMENT, f"ollama-utils {model}"))
    for name, text in of_llama_cpp(folder):
        found.setdefault(text, (HELD_OUT, f"llama.cpp {name}"))
    ordered = sorted(found.items(), key=lambda item: hashlib.sha256(item[0].encode()).hexdigest())
    return [(part, name, text) for text, (part, name) in ordered]


def of_llama_cpp(folder: Path) -> list[tuple[str, str]]:
    """Give name and text of the templates in llama.cpp's tree, from the source distribution of llama-cpp-python."""
    name = "llama-cpp-python"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, "--dest", str(folder)]
    subprocess.run([*pip, f"{name}=={installed_version()}"], check=True, capture_output=True)
    found = []
    with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
        for member in archive:
            if re.search(r"/vendor/llama\.cpp/models/templates/[^/]+\.jinja$", member.name):
                file = archive.extractfile(member)
                found.append((Path(member.name).stem, file.read().decode() if file is not None else ""))
    return found
