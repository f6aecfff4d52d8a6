"""The ranks of a training that torchrun started, or the one of a training by itself."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and messages."""
        return self.rank == 0

    def share(self, values: list[Any]) -> list[Any]:
        """Take this rank's part of some values; all ranks' parts together are all of them."""
        return values[self.rank :: self.size]

    def collect(self, values: Tensor, total: int) -> Tensor:
        """Put the rows of all ranks' shares of `total` rows back in order, on every rank."""
        if self.size == 1:
            return values
        parts: list[Tensor] = [values] * self.size
        dist.all_gather_object(parts, values)
        rows = values.new_empty(total, *values.shape[1:])
        for rank, part in enumerate(parts):
            rows[rank :: self.size] = part
        return rows

    def mean(self, value: Tensor) -> Tensor:
        """Average a value over the ranks."""
        if self.size > 1:
            dist.all_reduce(value)
        return value / self.size

    def agree(self, model: nn.Module) -> None:
        """Give all ranks the first one's buffers: batch norm follows each rank's own batches."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.barrier()


def start_ranks(device: torch.device) -> tuple[Ranks, torch.device]:
    """Join the process group if torchrun started this process, and take this rank's device."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Ranks(), device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size()), device
