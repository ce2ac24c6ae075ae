"""The weight types a build can write: every file type that llama.cpp's quantizer takes, by its name.

Source:
    llama.cpp `include/llama.h` (`llama_ftype`), `tools/quantize/quantize.cpp` (`QUANT_OPTIONS`), as vendored by
    llama-cpp-python 0.3.36. NVFP4 has a number there and nothing that writes it.
"""

from __future__ import annotations

from enum import StrEnum


class Quant(StrEnum):
    """The weight types, from the most exact to the smallest; the order is that of bits a weight in a large model."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q6_K = "q6_k"
    Q5_1 = "q5_1"
    Q5_K_M = "q5_k_m"
    Q5_K_S = "q5_k_s"
    Q5_0 = "q5_0"
    Q4_1 = "q4_1"
    Q4_K_M = "q4_k_m"
    Q4_K_S = "q4_k_s"
    IQ4_NL = "iq4_nl"
    Q4_0 = "q4_0"
    MXFP4_MOE = "mxfp4_moe"
    IQ4_XS = "iq4_xs"
    Q3_K_L = "q3_k_l"
    Q3_K_M = "q3_k_m"
    IQ3_M = "iq3_m"
    IQ3_S = "iq3_s"
    Q3_K_S = "q3_k_s"
    IQ3_XS = "iq3_xs"
    IQ3_XXS = "iq3_xxs"
    Q2_K = "q2_k"
    Q2_K_S = "q2_k_s"
    IQ2_M = "iq2_m"
    IQ2_S = "iq2_s"
    Q2_0 = "q2_0"
    IQ2_XS = "iq2_xs"
    TQ2_0 = "tq2_0"
    IQ2_XXS = "iq2_xxs"
    TQ1_0 = "tq1_0"
    IQ1_M = "iq1_m"
    IQ1_S = "iq1_s"
    Q1_0 = "q1_0"


DEFAULT_QUANTS = (Quant.F16, Quant.Q8_0, Quant.Q4_K_M)
FLOATS = frozenset({Quant.F32, Quant.F16, Quant.BF16})
# What llama.cpp refuses without an importance matrix, where it gives any tensor the type that the name promises.
NEED_IMPORTANCE = frozenset({
    Quant.IQ3_XS, Quant.IQ3_XXS, Quant.Q2_K_S, Quant.IQ2_M, Quant.IQ2_S, Quant.IQ2_XS, Quant.IQ2_XXS, Quant.IQ1_M, Quant.IQ1_S,
})  # fmt: skip

# All of whose tensors may be q8_0: where 256 does not divide the rows, or there are no experts.
MAY_BE_Q8_0 = frozenset({Quant.Q8_0, Quant.Q6_K, Quant.MXFP4_MOE})

# What general.file_type says.
FILE_TYPES = {
    Quant.F32: 0, Quant.F16: 1, Quant.Q4_0: 2, Quant.Q4_1: 3, Quant.Q8_0: 7, Quant.Q5_0: 8, Quant.Q5_1: 9, Quant.Q2_K: 10,
    Quant.Q3_K_S: 11, Quant.Q3_K_M: 12, Quant.Q3_K_L: 13, Quant.Q4_K_S: 14, Quant.Q4_K_M: 15, Quant.Q5_K_S: 16,
    Quant.Q5_K_M: 17, Quant.Q6_K: 18, Quant.IQ2_XXS: 19, Quant.IQ2_XS: 20, Quant.Q2_K_S: 21, Quant.IQ3_XS: 22,
    Quant.IQ3_XXS: 23, Quant.IQ1_S: 24, Quant.IQ4_NL: 25, Quant.IQ3_S: 26, Quant.IQ3_M: 27, Quant.IQ2_S: 28,
    Quant.IQ2_M: 29, Quant.IQ4_XS: 30, Quant.IQ1_M: 31, Quant.BF16: 32, Quant.TQ1_0: 36, Quant.TQ2_0: 37,
    Quant.MXFP4_MOE: 38, Quant.Q1_0: 40, Quant.Q2_0: 41,
}  # fmt: skip
_BY_NUMBER = {number: quant for quant, number in FILE_TYPES.items()}
# Names that llama-quantize takes for one of a family.
_ALIASES = {"q3_k": Quant.Q3_K_M, "q4_k": Quant.Q4_K_M, "q5_k": Quant.Q5_K_M}


def quant_named(text: str) -> Quant | None:
    """Give the quant of a name as llama-quantize spells it, in any case; None for a name that is none.

    Worked example:
        >>> quant_named("Q4_K"), quant_named("IQ4_XS"), quant_named("q9")
        (<Quant.Q4_K_M: 'q4_k_m'>, <Quant.IQ4_XS: 'iq4_xs'>, None)
    """
    word = text.strip().lower()
    return _ALIASES.get(word) or next((quant for quant in Quant if quant.value == word), None)


def quant_of_file_type(number: object) -> Quant | None:
    """Give the quant of a value of general.file_type, None where no build writes such a file."""
    return _BY_NUMBER.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
