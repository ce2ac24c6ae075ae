"""What is wrong with the tensors of a file, in one line."""

from __future__ import annotations

from packager.weights.tensor_errors import TensorComparison

WORST = 5  # tensors that a finding shows


def tensor_fault(found: TensorComparison) -> str:
    """Give the worst tensor with what became of it, then what is missing, too much or misshapen; empty when nothing is."""
    said = []
    if found.faults:
        worst = found.worst[0].tensor
        text = next(fault.text for fault in found.faults if fault.tensor == worst)
        more = len(found.faults) - 1
        said.append(f"{worst}: {text}" + (f", and {more} more tensors" if more else ""))
    lists = (("missing", found.missing), ("not in the model", found.unexpected), ("of another shape", found.reshaped))
    said += [f"{label}: {_some(names)}" for label, names in lists if names]
    return "; ".join(said)


def unread_tensors(found: TensorComparison) -> str:
    """Give the tensors that could not be compared; empty when all could."""
    return f"not compared: {_some(found.unread)}" if found.unread else ""


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - WORST} more" if len(names) > WORST else ""
    return ", ".join(names[:WORST]) + more
