"""Masks, depth maps and other things in pixels, mixed by the plan of the images.

python examples/integrations/dense_targets.py
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from spmix_aug import SaliencyPatchMix


def mix_dense(
    images: Tensor,
    labels: Tensor,
    class_maps: Tensor,
    depth: Tensor,
    mixer: SaliencyPatchMix,
    map_classes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mix images, class maps `(B,H,W)` and depth maps `(B,1,H,W)` alike.

    Returns:
        Images, targets `(B,K)`, class maps as distributions `(B,M,H,W)`, depth `(B,1,H,W)`.
    """
    plan = mixer.plan(images, labels)
    # Ids do not blend, and as uint8 they would be taken for grey levels: one-hot them first.
    one_hot = F.one_hot(class_maps.long(), map_classes).permute(0, 3, 1, 2).float()
    return plan.images(images), plan.targets, plan.images(one_hot), plan.images(depth)


def main() -> None:
    """Mix a batch of random images with two tasks more."""
    images, depth = torch.rand(16, 3, 64, 64), torch.rand(16, 1, 64, 64)
    labels = torch.tensor([0] * 10 + [1] * 4 + [2] * 2)
    class_maps = torch.randint(5, (16, 64, 64))
    mixer = SaliencyPatchMix(num_classes=3)
    mixed, _, masks, depth = mix_dense(images, labels, class_maps, depth, mixer, map_classes=5)
    logits = torch.zeros(16, 5, 64, 64)
    print(tuple(mixed.shape), "loss of the masks", F.cross_entropy(logits, masks).item())


if __name__ == "__main__":
    main()
