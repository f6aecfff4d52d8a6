"""Where all random numbers come from: seeds of streams, and the draws of a mixer."""

import itertools
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

_NUMBERS = itertools.count()
_OWNERS: WeakValueDictionary[int, Any] = WeakValueDictionary()
_TURN = torch.zeros((), dtype=torch.int64, device="cpu")


def stream_seed(*parts: int) -> int:
    """Mix a seed and what names a stream (epoch, kind of draw, rank) to the seed of that stream.

    32 bits, as torch's generator of the CPU uses no more of a seed.
    """
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def new_stream(owner: Any) -> int:
    """Number what has a `generator` to draw from, so that compiled code can name it."""
    number = next(_NUMBERS)
    _OWNERS[number] = owner
    return number


def draw_uniform(owner: Any, number: int) -> Tensor:
    """Draw from [0, 1) by `owner.generator`, on its device, the CPU by default: `(number,)`.

    Devices agree, since draws of the CPU are moved to them. Not in the default dtype: in bfloat16
    most partners would never be drawn.
    """
    if torch.compiler.is_compiling():
        drawn: Tensor = torch.ops.spmix_aug.draw_uniform(_TURN, owner._stream, number)
        return drawn
    return _draw(owner.generator, number)


def _draw(generator: torch.Generator | None, number: int) -> Tensor:
    """Draw `(number,)` float32 from [0, 1)."""
    device = "cpu" if generator is None else generator.device
    return torch.rand(number, generator=generator, device=device, dtype=torch.float32)


# dynamo traces neither generators nor what reads them, so compiled code draws by an operator that
# is opaque to it. It writes into `turn`, which keeps draws apart and in their order.
@torch.library.custom_op("spmix_aug::draw_uniform", mutates_args=("turn",), device_types="cpu")
def _draw_opaquely(turn: Tensor, stream: int, number: int) -> Tensor:
    turn.add_(1)
    return _draw(_OWNERS[stream].generator, number).cpu()


@_draw_opaquely.register_fake
def _(turn: Tensor, stream: int, number: int) -> Tensor:
    return turn.new_empty(number, dtype=torch.float32)
