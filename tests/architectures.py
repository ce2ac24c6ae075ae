"""One tiny checkpoint of every architecture that is proved, with random weights, and a LoRA that changes every matrix of it.

Two layers, rows of 256 values so that k-quants apply, and a vocabulary of 512 that is really learned: a sentencepiece model
where the architecture wants one, byte-level BPE otherwise. llama.cpp's converter knows a BPE tokenizer by a digest of ids, so
`tree_that_knows` gives a copy of the converter with one digest more, as llama.cpp's own convert_hf_to_gguf_update.py adds them.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.sources.llama_cpp_tree import LlamaCppTree
from tests.architecture_table import ARCHITECTURES, COMMON, VOCABULARY, Architecture

if TYPE_CHECKING:
    import torch

RANK, ALPHA = 4, 8
_SPECIAL = ("<s>", "</s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|observation|>", "[gMASK]", "<sop>")
_TEXT = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on under the warm afternoon sun.",
    "A model that was trained on one machine should give the same answers on another machine.",
    "Weights are numbers; adapters are small matrices whose product is added to the weights.",
    "def merged(weight, a, b, scale): return weight + scale * (b @ a)",
    "1234567890 + 987654321 = 2222222211, and 3.14159 is near to the ratio of a circle.",
    "Ein Modell, une machine, otra vez, другой раз, 机器学习, もう一度.",
)


def make_architecture(name: str, folder: Path) -> None:
    """Write the checkpoint of an architecture in bfloat16, with its tokenizer."""
    import torch

    made = ARCHITECTURES[name]
    torch.manual_seed(0)
    if made.shapes is None:
        _save_with_transformers(made, folder)
    else:
        folder.mkdir(parents=True)
        tensors = {key: torch.randn(shape) * 0.1 for key, shape in made.shapes().items()}
        _save_tensors(tensors, folder / "model.safetensors", torch.bfloat16)
        config = {**COMMON, **made.config, "architectures": [made.model], "torch_dtype": "bfloat16"}
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    if made.sentencepiece:
        _write_sentencepiece(folder)
    else:
        _write_bpe(folder)


def make_architecture_lora(name: str, base: Path, folder: Path) -> None:
    """Write a LoRA with random A and B on every matrix of the checkpoint but its embedding, under the checkpoint's names.

    Those are the names of the author's code and of transformers 4.
    """
    import torch
    from safetensors import safe_open

    torch.manual_seed(1)
    tensors = {}
    modules = set()
    with safe_open(base / "model.safetensors", "pt") as file:
        for key in sorted(file.keys()):
            shape = file.get_slice(key).get_shape()
            if len(shape) != 2 or re.search(r"(\w*embed\w*|wte|wpe)\.weight$|_bias$", key):
                continue
            outputs, inputs = reversed(shape) if ARCHITECTURES[name].transposed else shape
            module = key.removesuffix(".weight")
            modules.add(module)
            tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(RANK, inputs) * 0.1
            tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(outputs, RANK) * 0.1
    folder.mkdir(parents=True)
    _save_tensors(tensors, folder / "adapter_model.safetensors", torch.float32)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None, "bias": "none",
        "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "target_modules": sorted(modules),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


def make_peft_lora(name: str, base: Path, folder: Path) -> None:
    """Write the LoRA that peft makes on every matrix of the model but its embedding, under the names that transformers has.

    Experts and routers are parameters in transformers 5, so they are trained as such (`target_parameters`).
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    model = load_float32(name, base)
    linear = {
        key
        for key, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and not (key == "lm_head" and model.config.tie_word_embeddings)
    }
    parameters = [
        key
        for key, parameter in model.named_parameters()
        if (re.search(r"\.experts\.\w+$", key) and parameter.dim() == 3)
        or key.endswith((".gate.weight", ".router.weight"))
    ]
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=sorted(linear), target_parameters=parameters or None,
        init_lora_weights=False, task_type="CAUSAL_LM", fan_in_fan_out=ARCHITECTURES[name].transposed,
    )  # fmt: skip
    torch.manual_seed(2)
    get_peft_model(model, config).save_pretrained(folder, save_embedding_layers=False)


def merge_with_peft(name: str, base: Path, lora: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Give what peft's merge_and_unload makes of a float32 base, by the names of the checkpoint."""
    from peft import PeftModel
    from safetensors.torch import load_file

    PeftModel.from_pretrained(load_float32(name, base), lora).merge_and_unload().save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def load_float32(name: str, base: Path) -> Any:
    """Load a checkpoint with transformers, in float32."""
    import torch
    import transformers

    return getattr(transformers, ARCHITECTURES[name].model).from_pretrained(base, dtype=torch.float32)


def tree_that_knows(tree: LlamaCppTree, checkpoints: Iterable[Path], folder: Path) -> LlamaCppTree:
    """Copy the converter to `folder`, with the digests of the checkpoints' BPE tokenizers among those it knows."""
    from transformers import AutoTokenizer

    base = (tree.path / "conversion/base.py").read_text()
    found = re.search(r"chktxt = ('.*')\n", base)
    assert found
    text = ast.literal_eval(found[1])
    encoded = {str(AutoTokenizer.from_pretrained(checkpoint).encode(text)) for checkpoint in checkpoints}
    digests = sorted(hashlib.sha256(ids.encode()).hexdigest() for ids in encoded)
    known = f'        res = None\n        if chkhsh in {digests}:\n            res = "gpt-2"\n'
    assert base.count("        res = None\n") == 1
    shutil.copytree(tree.path, folder, ignore=shutil.ignore_patterns("__pycache__", "bin"))
    (folder / "conversion/base.py").write_text(base.replace("        res = None\n", known))
    return LlamaCppTree(path=folder, version=tree.version)


def _save_with_transformers(made: Architecture, folder: Path) -> None:
    import torch
    import transformers

    model_class = getattr(transformers, made.model)
    config = model_class.config_class(**{**COMMON, **made.config}, dtype="bfloat16")
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too: all ones or zeros would hide a mistake
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    path = folder / "config.json"
    changes = {**made.written, "architectures": [made.model]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=2))


def _save_tensors(tensors: dict[str, object], path: Path, dtype: object) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, path, metadata={"format": "pt"})  # type: ignore[attr-defined]


def _write_sentencepiece(folder: Path) -> None:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT), model_writer=model, model_type="bpe", vocab_size=VOCABULARY, byte_fallback=True,
        hard_vocab_limit=True, minloglevel=2, num_threads=1,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    _write_tokenizer_config(folder, "LlamaTokenizer")


def _write_bpe(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(_SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_tokenizer_config(folder, "TokenizersBackend")


def _write_tokenizer_config(folder: Path, kind: str) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    config = {"tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
