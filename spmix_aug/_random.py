"""Where all random numbers come from: seeds of streams, and the draws of a mixer.

A mixer knows the process that it was made in, its home. Elsewhere, where it came by fork or by
pickle, it is in a worker, of a `DataLoader` or any other process of `multiprocessing`, and draws
from a generator of that worker's own.
"""

import itertools
import multiprocessing
import os
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import get_worker_info

# The generators that this worker draws from, by what seeds them.
_GENERATORS: dict[tuple[int, ...], torch.Generator] = {}
_NUMBERS = itertools.count()
_OWNERS: WeakValueDictionary[int, Any] = WeakValueDictionary()
_TURN = torch.zeros((), dtype=torch.int64, device="cpu")


def stream_seed(*parts: int) -> int:
    """Mix a seed and what names a stream (epoch, kind of draw, rank) to the seed of that stream.

    32 bits, as torch's generator of the CPU uses no more of a seed.
    """
    # How many parts, and how long each is, since numpy cuts large numbers up and pads with zeros.
    words = [len(parts), *(word for part in parts for word in (part.bit_length(), part))]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class Home(NamedTuple):
    """The process that a mixer was made in, and what the seeds of its workers are made of."""

    process: int
    rank: int
    seed: int  # of torch's global generator

    @classmethod
    def here(cls) -> "Home":
        """Describe this process as it is now."""
        in_group = distributed.is_available() and distributed.is_initialized()
        return cls(os.getpid(), distributed.get_rank() if in_group else 0, torch.initial_seed())

    def is_away(self) -> bool:
        """Whether this process is a worker that what was made at home came to."""
        # A spawned process has no place yet while it reads what it is given.
        arriving = getattr(multiprocessing.current_process(), "_inheriting", False)
        return self.process != os.getpid() and (arriving or bool(_place()))


def _place() -> tuple[int, ...]:
    """Number of this process among its parent's children; none in a main process."""
    return tuple(multiprocessing.current_process()._identity)


def generator_here(mixer: Any) -> torch.Generator | None:
    """Find what a mixer draws from: its generator, or in a worker one of that worker's own.

    Workers, epochs and ranks draw different streams, which repeat for the same seeds and numbers
    of workers and ranks. In a worker, mixers whose generators have the same seed share one.
    """
    generator: torch.Generator | None = mixer.generator
    worker = get_worker_info()
    # A spawned worker makes again what a script makes at its top, at home in each worker.
    if worker is None and not mixer._home.is_away():
        return generator
    here, seed = Home.here(), 0 if generator is None else generator.initial_seed()
    seeds = (worker.seed,) if worker else (mixer._home.seed, here.seed, *_place())
    key = (seed, *seeds)
    if key not in _GENERATORS:
        # A forked worker knows its rank, a spawned one has it from home. It counts, as ranks with
        # one seed have workers with one seed. Not the worker's seed itself: torch's global
        # generator has it, and augmentations draw from that.
        seed = stream_seed(seed, max(here.rank, mixer._home.rank), *seeds)
        _GENERATORS.setdefault(key, torch.Generator().manual_seed(seed))  # a thread may be faster
    return _GENERATORS[key]


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
    return _draw(generator_here(owner), number)


def _draw(generator: torch.Generator | None, number: int) -> Tensor:
    """Draw `(number,)` float32 from [0, 1)."""
    device = "cpu" if generator is None else generator.device
    return torch.rand(number, generator=generator, device=device, dtype=torch.float32)


# dynamo traces neither generators nor what reads them, so compiled code draws by an operator that
# is opaque to it. It writes into `turn`, which keeps draws apart and in their order.
@torch.library.custom_op("spmix_aug::draw_uniform", mutates_args=("turn",), device_types="cpu")
def _draw_opaquely(turn: Tensor, stream: int, number: int) -> Tensor:
    turn.add_(1)
    return _draw(generator_here(_OWNERS[stream]), number).cpu()


@_draw_opaquely.register_fake
def _(turn: Tensor, stream: int, number: int) -> Tensor:
    return turn.new_empty(number, dtype=torch.float32)
