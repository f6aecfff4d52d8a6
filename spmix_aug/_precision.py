"""Arithmetic that means the same under autocast, and compiled for numbers that change."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off where it is on; some devices know no autocast at all."""
    # Torch before 2.7 cannot trace the question, and compiles for devices that know it.
    known = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type)
    if known and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def line(values: Tensor, offset: float, slope: float) -> Tensor:
    """Compute `offset + slope * values` in one operation, in the precision of `values`."""
    if torch.compiler.is_compiling():
        # Both numbers may be symbols there, of which torch.compile takes one in an operation.
        return torch.sub(values.new_full((), offset), values, alpha=-slope)
    return torch.rsub(values, offset, alpha=-slope)
