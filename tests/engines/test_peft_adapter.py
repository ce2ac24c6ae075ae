"""What of a fine-tune can be added to a base of which a part stays on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from packager.engines.peft_adapter import adapted
from packager.errors import Unsupported
from packager.formats.adapter import read_adapters
from packager.formats.checkpoint import read_checkpoint
from tests.peft_adapters import save_llama, train

CASES: dict[str, list[dict[str, Any]]] = {
    "dora": [{"target_modules": ["q_proj"], "use_dora": True}],
    "embedding": [{"target_modules": ["embed_tokens"]}],
    "module": [{"target_modules": ["q_proj"], "modules_to_save": ["norm"]}],
    "two": [{"target_modules": ["q_proj"]}, {"target_modules": ["v_proj"]}],
}


@pytest.mark.parametrize("case", CASES)
def test_other_kinds_than_one_plain_lora_are_refused_by_name(case: str, tmp_path: Path) -> None:
    base = read_checkpoint(save_llama(tmp_path / "base", tied=False))
    folders = tuple(train(base.folder, tmp_path / f"lora-{at}", r=2, **config) for at, config in enumerate(CASES[case]))
    with pytest.raises(Unsupported, match="with weights on the disk only one plain LoRA runs"):
        adapted(None, read_adapters(folders, base), parked=True)
