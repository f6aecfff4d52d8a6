"""torchvision v2: mix in the collate function, alone or by turns with MixUp.

python examples/integrations/torchvision_v2.py
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from spmix_aug import SaliencyPatchMix, class_counts

LABELS = torch.tensor([0] * 40 + [1] * 16 + [2] * 8)


class Images(Dataset):
    """Random images, augmented one by one, as tv_tensors."""

    augment = v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = tv_tensors.Image(torch.randint(256, (3, 32, 32), dtype=torch.uint8))
        return self.augment(image), int(LABELS[index])


class Collate:
    """Collate samples and transform the batch; a class, so that spawned workers can have it."""

    def __init__(self, transform: Callable[[Tensor, Tensor], Any]) -> None:
        self.transform = transform

    def __call__(self, samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        """Return mixed images `(B,C,H,W)`, plain tensors, and targets `(B,K)`."""
        return self.transform(*default_collate(samples))


def main() -> None:
    """Train a little with each of the two."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    mixer = SaliencyPatchMix(class_counts=class_counts(LABELS))
    either = v2.RandomChoice([mixer, v2.MixUp(num_classes=3)])
    for transform in (mixer, either):
        loader = DataLoader(Images(), batch_size=16, shuffle=True, collate_fn=Collate(transform))
        for images, targets in loader:
            loss = F.cross_entropy(model(images), targets)
            loss.backward()
        print(f"{type(transform).__name__}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
