"""Small weights that bitsandbytes quantizes to 4 bits, and what it makes of them again.

Run by scripts/update-bnb-goldens, with bitsandbytes on the path.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

GOLDENS = Path(__file__).with_name("goldens") / "bnb_4bit.safetensors"
# name: quant type, double quantization, shape, block
CASES = {
    "nf4": ("nf4", False, (48, 40), 64),
    "nf4_nested": ("nf4", True, (96, 200), 64),
    "fp4": ("fp4", False, (24, 50), 64),
    "fp4_nested": ("fp4", True, (33, 30), 128),
}


def main() -> None:
    import bitsandbytes.functional as bnb
    from bitsandbytes.backends.utils import CODE

    tensors = {}
    for name, (kind, nested, shape, block) in CASES.items():
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
        packed, state = bnb.quantize_4bit(weight, blocksize=block, compress_statistics=nested, quant_type=kind)
        tensors[f"{name}.weight"] = packed
        tensors |= {f"{name}.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
        # As its kernels on a GPU do, where models are trained: the whole table, and a product in float32. Those on a CPU
        # round fp4's table to four digits, and the table to 16 bits where the weight had 16.
        CODE[kind] = state.code
        tensors[f"expected.{name}"] = bnb.dequantize_4bit(packed, state)
    GOLDENS.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, GOLDENS)
    GOLDENS.chmod(0o644)


if __name__ == "__main__":
    main()
