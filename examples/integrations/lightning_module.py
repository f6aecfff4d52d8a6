"""Lightning: mix in `on_after_batch_transfer`, where the model is at hand.

python examples/integrations/lightning_module.py [--devices 2] [--precision bf16-mixed]
"""

import argparse

import torch
from lightning import LightningModule, Trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from spmix_aug import SaliencyPatchMix, TailHeadPairSampler, class_counts

LABELS = torch.tensor([0] * 40 + [1] * 16 + [2] * 8)
DATASET = TensorDataset(torch.rand(64, 3, 32, 32), LABELS)


class Classifier(LightningModule):
    """A small network whose training batches are mixed by its own Grad-CAM."""

    def __init__(self):
        super().__init__()
        convs = nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()
        self.net = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
        self.mixer = SaliencyPatchMix(class_counts=class_counts(LABELS), saliency="grad_cam")

    def train_dataloader(self):
        """Give the sampler its rank: Lightning cannot rebuild it for several processes."""
        ranks = {"num_replicas": self.trainer.world_size, "rank": self.trainer.global_rank}
        return DataLoader(DATASET, batch_sampler=TailHeadPairSampler(LABELS, 8, **ranks))

    def on_after_batch_transfer(self, batch, dataloader_idx):
        """Mix training batches, on their device and outside autocast."""
        return self.mixer(*batch, self.net) if self.trainer.training else batch

    def training_step(self, batch, batch_idx):
        """Take the loss of soft targets."""
        images, targets = batch
        return F.cross_entropy(self.net(images), targets)

    def configure_optimizers(self):
        """Train with plain SGD."""
        return torch.optim.SGD(self.parameters(), 0.01)


def main(**settings):
    """Train two epochs on the CPU; Lightning tells the sampler the epoch by itself."""
    off = "use_distributed_sampler", "logger", "enable_checkpointing", "enable_progress_bar"
    trainer = Trainer(accelerator="cpu", max_epochs=2, **dict.fromkeys(off, False), **settings)
    trainer.fit(Classifier())
    print(f"rank {trainer.global_rank}: {trainer.global_step} steps")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--precision", default="32-true")
    main(**vars(parser.parse_args()))
