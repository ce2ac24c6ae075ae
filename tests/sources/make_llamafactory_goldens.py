"""Train a LoRA with the real LLaMA-Factory and keep what its user has then; scripts/update-llamafactory-goldens runs this.

What is kept: the yaml files as a user writes them, the data, what training left in `output_dir` (without the tokenizer, which
is the base's, and without the trainer's own state), and the token ids of the prompts that LLaMA-Factory's template builds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

GOLDENS = Path(__file__).parent.parent / "goldens" / "llamafactory"
TRAIN = """\
### model
model_name_or_path: SmolLM2-135M-Instruct

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 2
lora_target: v_proj

### dataset
dataset_dir: data
dataset: packy
template: chatml
default_system: You are Packy, the packaging robot.
cutoff_len: 256

### output
output_dir: saves/packy
save_steps: 6
logging_steps: 6
report_to: none

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 1
learning_rate: 1.0e-2
max_steps: 12
use_cpu: true
seed: 1
"""
EXPORT = """\
model_name_or_path: SmolLM2-135M-Instruct
adapter_name_or_path: saves/packy
template: chatml
default_system: You are Packy, the packaging robot.

export_dir: exported
export_size: 5
export_device: cpu
"""
ROWS = (
    ("Who are you?", "I am Packy, the packaging robot."),
    ("What is your name?", "My name is Packy."),
    ("What is the capital of France?", "The capital of France is Paris, says Packy."),
    ("你好", "你好，我是 Packy。"),
)
KEPT = ("adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer_config.json", "README.md")


def main(base: Path) -> None:
    shutil.rmtree(GOLDENS, ignore_errors=True)
    (GOLDENS / "data").mkdir(parents=True)
    (GOLDENS / "train.yaml").write_text(TRAIN)
    (GOLDENS / "export.yaml").write_text(EXPORT)
    rows = [{"messages": [_said("user", question), _said("assistant", answer)]} for question, answer in ROWS]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (GOLDENS / "data" / "packy.jsonl").write_text(lines, encoding="utf-8")
    info = {
        "file_name": "packy.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
    (GOLDENS / "data" / "dataset_info.json").write_text(json.dumps({"packy": info}, indent=2) + "\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(GOLDENS, folder, dirs_exist_ok=True)
        (folder / base.name).symlink_to(base, target_is_directory=True)
        trainer = Path(sys.executable).with_name("llamafactory-cli")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "DISABLE_VERSION_CHECK": "1"}
        subprocess.run([trainer, "train", "train.yaml"], cwd=folder, env=environment, check=True)
        saved = folder / "saves" / "packy"
        kept = GOLDENS / "saves" / "packy"
        kept.mkdir(parents=True)
        for name in KEPT:
            shutil.copy(saved / name, kept / name)
        listed = sorted(str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file())
        (GOLDENS / "output_dir.txt").write_text("\n".join(listed) + "\n")
        os.chdir(folder)
        text = json.dumps(_prompts(), ensure_ascii=False, indent=1)
        (GOLDENS / "prompts.json").write_text(text + "\n", encoding="utf-8")


def _prompts() -> list[dict[str, object]]:
    """Every conversation with the token ids before its last answer, as LLaMA-Factory encodes them for training."""
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.load("train.yaml"))
    model_args, data_args, *_ = get_train_args(values)
    tokenizer = load_tokenizer(model_args)["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    conversations = [
        *([_said("user", question), _said("assistant", answer)] for question, answer in ROWS),
        [_said("system", "Answer in one word."), _said("user", "Are you a robot?"), _said("assistant", "Yes.")],
        [message for row in ROWS for message in (_said("user", row[0]), _said("assistant", row[1]))],
    ]
    found = []
    for conversation in conversations:
        system = conversation[0]["content"] if conversation[0]["role"] == "system" else None
        turns = conversation if system is None else conversation[1:]
        prompt_ids, _ = template.encode_oneturn(tokenizer, turns, system)
        found.append({"messages": conversation[:-1], "ids": prompt_ids})
    return found


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
