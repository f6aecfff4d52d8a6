"""What the tests of the recipes let torchrun start on two processes.

torchrun ... tests/examples/integration_ranks.py accelerate FOLDER
torchrun ... tests/examples/integration_ranks.py lightning FOLDER

Each process leaves the sampled indices behind, epoch by epoch.
"""

import os
import sys
import warnings
from pathlib import Path

import torch
from torch import distributed as dist
from torch.utils.data import Dataset


class Noted(Dataset):
    """Notes what is asked of a data set."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.asked = []

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.dataset[index]


def with_accelerate():
    from examples.integrations import accelerate_loop

    accelerate_loop.DATASET = noted = Noted(accelerate_loop.DATASET)
    accelerate_loop.main(epochs=[3, 5])
    return noted.asked


def with_lightning():
    from examples.integrations import lightning_module

    lightning_module.DATASET = noted = Noted(lightning_module.DATASET)
    lightning_module.main(devices=2, strategy="ddp")
    return noted.asked


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    asked = {"accelerate": with_accelerate, "lightning": with_lightning}[sys.argv[1]]()
    torch.save(asked, Path(sys.argv[2]) / f"rank{os.environ['RANK']}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
    # Threads of gloo that outlive their group now and then abort a process that ends as usual.
    os._exit(0)
