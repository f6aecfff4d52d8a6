"""Accelerate: the sampler goes through `prepare`, which shares its batches out among processes.

python examples/integrations/accelerate_loop.py
accelerate launch --cpu --num_processes 2 examples/integrations/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from spmix_aug import SaliencyPatchMix, TailHeadPairSampler

LABELS = torch.tensor([0] * 40 + [1] * 16 + [2] * 8)
DATASET = TensorDataset(torch.rand(64, 3, 32, 32), LABELS)


def make_loader(dataset):
    """Make the loader for `prepare`: no `num_replicas` and `rank`, or batches are shared twice."""
    return DataLoader(dataset, batch_sampler=TailHeadPairSampler(LABELS, batch_size=8))


def main(epochs=range(2)):
    """Train on as many processes as were launched."""
    accelerator = Accelerator(cpu=True)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    loader = make_loader(DATASET)
    mixer = SaliencyPatchMix(class_counts=loader.batch_sampler.class_counts)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in epochs:
        loader.set_epoch(epoch)  # reaches the sampler, as where training goes on at a later epoch
        for images, labels in loader:
            mixed, targets = mixer(images, labels)
            loss = F.cross_entropy(model(mixed), targets)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    print(f"process {accelerator.process_index}: {len(loader)} batches an epoch")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
