"""medmnist: its labels of shape `(N,1)` go in as they are.

python examples/integrations/medmnist_labels.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from medmnist import DermaMNIST
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from spmix_aug import SaliencyPatchMix, TailHeadPairSampler

TO_TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def write_random(root: str) -> None:
    """Write random images in medmnist's layout, in place of the real ones."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(7), [40, 6, 6, 5, 3, 2, 2])[:, None].astype(np.uint8)
    images = random.integers(256, size=(len(labels), 28, 28, 3), dtype=np.uint8)
    np.savez(Path(root) / "dermamnist.npz", train_images=images, train_labels=labels)


def make_loader(root: str) -> DataLoader:
    """Load DermaMNIST, half of each batch balanced over its seven classes."""
    dataset = DermaMNIST("train", transform=TO_TENSOR, root=root)
    sampler = TailHeadPairSampler(dataset.labels, batch_size=16)
    return DataLoader(dataset, batch_sampler=sampler)


def main() -> None:
    """Mix an epoch."""
    with tempfile.TemporaryDirectory() as root:
        write_random(root)
        loader = make_loader(root)
        mixer = SaliencyPatchMix(class_counts=loader.batch_sampler.class_counts)
        for images, labels in loader:  # labels (B,1)
            mixed, targets = mixer(images, labels)
    print(tuple(labels.shape), "->", tuple(targets.shape), tuple(mixed.shape))


if __name__ == "__main__":
    main()
