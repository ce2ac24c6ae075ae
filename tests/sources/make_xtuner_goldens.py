"""Train a LoRA with the real XTuner and mmengine and keep its `iter_2.pth`; scripts/update-xtuner-goldens runs this.

The model is a tiny one (two layers, 32 wide) with a real tokenizer; what is kept is the checkpoint as mmengine wrote it, with
its message hub, optimizer and scheduler beside the weights, the configuration that it dumped, and the adapter that XTuner's
own `to_hf` makes of it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "xtuner"
BASE = "models/packy-base"
# As XTuner's own configurations have it, shortened.
CONFIG = """\
from mmengine.hooks import CheckpointHook
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM
from xtuner.model import SupervisedFinetune
from xtuner.utils import PROMPT_TEMPLATE

pretrained_model_name_or_path = 'models/packy-base'
prompt_template = PROMPT_TEMPLATE.qwen_chat
model = dict(
    type=SupervisedFinetune,
    use_varlen_attn=False,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=pretrained_model_name_or_path,
        attn_implementation='eager',
        torch_dtype='float32'),
    lora=dict(
        type=LoraConfig,
        r=2,
        lora_alpha=6,
        lora_dropout=0.1,
        bias='none',
        task_type='CAUSAL_LM'))
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-2))
train_cfg = dict(by_epoch=False, max_iters=2)
default_hooks = dict(checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=2))
default_scope = None
randomness = dict(seed=1)
"""


def main(base: Path) -> None:
    torch.cpu.is_bf16_supported = lambda: True  # XTuner asks its device, and a processor does not answer
    shutil.rmtree(GOLDENS, ignore_errors=True)
    GOLDENS.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / BASE).parent.mkdir()
        (folder / BASE).symlink_to(base, target_is_directory=True)
        os.chdir(folder)  # the checkpoint keeps the configuration, with its paths
        Path("packy_qwen.py").write_text(CONFIG)
        config = Config.fromfile("packy_qwen.py", lazy_import=True)
        ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
        data = [{"data": {"input_ids": ids, "attention_mask": torch.ones_like(ids).bool(), "labels": ids}}] * 2
        runner = Runner(
            model=config.model,
            work_dir="work",
            train_dataloader=torch.utils.data.DataLoader(data, batch_size=None),
            optim_wrapper=config.optim_wrapper,
            train_cfg=config.train_cfg,
            default_hooks={**config.default_hooks, "sampler_seed": None},
            default_scope=None,
            randomness=config.randomness,
            cfg=config,
        )
        runner.train()
        shutil.copyfile("work/iter_2.pth", GOLDENS / "iter_2.pth")
        shutil.copyfile("work/packy_qwen.py", GOLDENS / "packy_qwen.py.txt")  # not a program of this project's
        runner.model.to_hf(cfg=config, save_dir=str(GOLDENS / "hf"), fp32=True)
    (GOLDENS / "hf" / "README.md").unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
