"""Numbers and texts as a reader of the report sees them, the same in every language.

Unlike `f"{value:g}"`, a share is never rounded up to 100 %, and what is not a number says so.
"""

from __future__ import annotations

import math
import unicodedata

_NOT_A_NUMBER = 1e300  # parity.logits writes 1.79769e308 in place of NaN, which JSON does not have
_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
_MINUS = "−"


def nats(value: float) -> str:
    """Give a KL divergence or a relative error to two significant digits: `0.0065`, `8.8e−6`, `0`."""
    if not is_number(value):
        return "NaN"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}" if abs(value) < 1e6 else f"{value:.1e}".replace("e+", "e")
    if abs(value) >= 1e-4:
        return f"{value:.2g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{_MINUS}{abs(int(exponent))}"


def share(value: float) -> str:
    """Give a share from 0 to 1 in per cent with one digit; only all of it is `100 %`, and only none of it `0 %`."""
    if not is_number(value):
        return "NaN"
    if value in (0, 1):
        return f"{value:.0%}".replace("%", " %")
    rounded = round(value * 100, 1)
    if value < 1:
        rounded = min(max(rounded, 0.1), 99.9)
    return f"{rounded:.1f} %"


def percent(value: float) -> str:
    """Give a small share in per cent to two significant digits: `0.099 %`."""
    return f"{nats(value * 100)} %" if is_number(value) else "NaN"


def ratio(value: float) -> str:
    """Give a ratio around 1 with four digits after the point, a large one with three in all."""
    if not is_number(value):
        return "NaN"
    return f"{value:.4f}" if value < 10 else nats(float(f"{value:.3g}"))


def size(count: int) -> str:
    """Give a byte count as people read it, in powers of 1000: `269 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def is_number(value: float) -> bool:
    """Whether a measured value is one, and not what stands for NaN in report.json."""
    return math.isfinite(value) and abs(value) < _NOT_A_NUMBER


def seen(text: str) -> str:
    """Give a text in which every character that is not seen, or that moves others, is written out: `⟨U+202E⟩`.

    Line breaks and tabs stay. What a lone surrogate stands for cannot be written in UTF-8 at all.
    """
    return "".join(_written_out(character) for character in text)


def token_text(text: str) -> str:
    """Give a token's text so that it can be seen: breaks and tabs as signs, blanks as `␣` where there is nothing else."""
    if not text.strip(" "):
        text = text.replace(" ", "␣")
    return seen(text.replace("\n", "⏎").replace("\t", "⇥"))


def _written_out(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _UNSEEN:
        return character
    return f"⟨U+{ord(character):04X}⟩"
