"""Settings of mixers in the workers of a `DataLoader` follow those of the main process.

Workers that do not persist have them as they are when an epoch begins. For those that persist,
numbers travel through shared memory, and what cannot travel is refused.
"""

import os
import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.data._utils.fetch import _BaseDatasetFetcher

from spmix_aug._checks import expect
from spmix_aug._random import stream_seed

# What workers that persist take over at their next epoch.
NUMBERS = ("training", "p", "alpha", "floor", "jitter")
# Places in shared memory: the numbers now, those of the workers' epoch, which epoch of which loader
# that is, whether a worker that persists has mixed, and whether anybody has warned.
NOW, IN_EPOCH = slice(len(NUMBERS)), slice(len(NUMBERS), 2 * len(NUMBERS))
EPOCH, PERSISTS, TOLD = -3, -2, -1


def new_shared() -> Tensor:
    """Make the memory that a mixer shares with its copies in workers, forked or spawned."""
    shared = torch.zeros(2 * len(NUMBERS) + 3, dtype=torch.float64, device="cpu")
    shared.share_memory_()  # type: ignore[no-untyped-call]
    return shared


def publish_numbers(mixer: Any) -> None:
    """Let workers that persist know the numbers of a mixer at home."""
    if mixer._home.process == os.getpid():
        values = [float(getattr(mixer, name)) for name in NUMBERS]
        mixer._shared[NOW] = torch.tensor(values, dtype=torch.float64, device="cpu")


def require_settable(mixer: Any, name: str) -> None:
    """Refuse to set at home what workers that persist would not learn of."""
    fixed = mixer._home.process == os.getpid() and bool(mixer._shared[PERSISTS])
    wanted, got = "to stay as it is once workers that persist have mixed", "another value"
    hint = "set it on copy.deepcopy(mixer) and give that to a new loader, or let no workers persist"
    expect(not fixed, name, wanted, got, hint)


def already_told(mixer: Any) -> bool:
    """Whether this mixer has warned, here or in another process; from now on it has."""
    told = bool(mixer._shared[TOLD])
    mixer._shared[TOLD] = 1
    return told


def take_over_numbers(mixer: Any) -> None:
    """In a worker that persists, take over the numbers that home had when this epoch began."""
    if not mixer._home.is_away():
        return
    fetcher, persists = _fetcher_of_this_epoch()
    if fetcher is None or fetcher is mixer._fetcher:
        return
    first_epoch, mixer._fetcher = mixer._fetcher is None, fetcher
    mixer._epochs += 1
    shared, worker = mixer._shared, get_worker_info()
    if persists:
        shared[PERSISTS] = 1
    if first_epoch or worker is None:  # the numbers came with the mixer, forked or pickled
        return
    # The first worker in an epoch fixes the numbers for all of them. It does so before it hands a
    # batch over, so before home changes anything because of that batch. They are copied before the
    # epoch is compared: a worker that is not the first takes what was fixed instead.
    now = shared[NOW].clone()
    epoch = stream_seed(worker.seed - worker.id, mixer._epochs)
    if shared[EPOCH] != epoch:
        shared[IN_EPOCH] = now
        shared[EPOCH] = epoch
    training, *numbers = shared[IN_EPOCH].tolist()
    mixer.__dict__.update(zip(NUMBERS, (bool(training), *numbers), strict=True))


def _fetcher_of_this_epoch() -> tuple[Any, bool]:
    """Find the loader's fetcher that called, which is a new one each epoch, and whether it stays.

    There is no other sign of a new epoch in a worker that persists.
    """
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fetch":
            fetcher = frame.f_locals.get("self")
            if isinstance(fetcher, _BaseDatasetFetcher):
                return fetcher, bool(frame.f_back.f_locals.get("persistent_workers", True))
        frame = frame.f_back
    return None, False
