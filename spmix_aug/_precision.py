"""Computing in the precision of the tensors, whatever autocast is on outside."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off where it is on; some devices know no autocast at all."""
    # Torch before 2.7 cannot trace the question, and compiles for devices that know it.
    known = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type)
    if known and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
