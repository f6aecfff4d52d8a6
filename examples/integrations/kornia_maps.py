"""kornia: after `AugmentationSequential`, with saliency maps carried along as masks.

python examples/integrations/kornia_maps.py
"""

import torch
from kornia import augmentation
from torch import Tensor

from spmix_aug import SaliencyPatchMix
from spmix_aug.saliency import BorderContrast

# Labels stay outside: in a sequence, kornia's own mixing operations do not take them.
AUGMENT = augmentation.AugmentationSequential(
    augmentation.RandomHorizontalFlip(p=0.5),
    augmentation.RandomAffine(degrees=15.0, scale=(0.9, 1.1), p=1.0),
    augmentation.ColorJiggle(0.1, 0.1, 0.1, 0.0, p=1.0),
    data_keys=["input", "mask"],
)


def augment_and_mix(
    images: Tensor,
    labels: Tensor,
    maps: Tensor,
    mixer: SaliencyPatchMix,
    augment: augmentation.AugmentationSequential = AUGMENT,
) -> tuple[Tensor, Tensor]:
    """Augment images `(B,C,H,W)` and maps `(B,H,W)` alike, then mix as the maps say."""
    images, maps = augment(images, maps.unsqueeze(1))
    return mixer(images, labels, saliency=maps)


def main() -> None:
    """Mix with maps that were computed on the images before augmentation, and could be cached."""
    images = torch.rand(16, 3, 64, 64)
    labels = torch.tensor([0] * 10 + [1] * 4 + [2] * 2)
    maps = BorderContrast()(images)
    mixer = SaliencyPatchMix(num_classes=3)
    mixed, targets = augment_and_mix(images, labels, maps, mixer)
    print(tuple(mixed.shape), targets.sum(dim=0).tolist())


if __name__ == "__main__":
    main()
