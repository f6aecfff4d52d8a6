"""Several labels for an image: rows as distributions, or a plan and targets of your own.

python examples/integrations/multi_label.py
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from spmix_aug import SaliencyPatchMix


def rarest_label(rows: Tensor, counts: Tensor) -> Tensor:
    """Find the rarest of each row's labels, `(B,)`; K, one class more, where it has none."""
    rarest = torch.where(rows > 0, counts, torch.inf).argmin(dim=1)
    return torch.where((rows > 0).any(dim=1), rarest, rows.shape[1])


def mix_multi_label(
    images: Tensor, rows: Tensor, counts: Tensor, mixer: SaliencyPatchMix, both: bool = False
) -> tuple[Tensor, Tensor]:
    """Mix images whose `rows (B,K)` of 0 and 1 may have any number of labels.

    Args:
        images: `(B,C,H,W)`, of a size that patches divide, so that patches weigh alike.
        rows: `(B,K)`.
        counts: images with each label, `(K,)`.
        mixer: with K + 1 classes, the last for images without a label.
        both: weight the labels of own and partner by their pixels, instead of keeping the own.
    """
    plan = mixer.plan(images, rarest_label(rows, counts))
    rows = rows.float()
    if both:
        share = plan.ratios.mean(dim=(1, 2)).unsqueeze(1)
        rows = share * rows + (1 - share) * rows[plan.partner]
    return plan.images(images), rows


def main() -> None:
    """Show both ways on random images."""
    images = torch.rand(32, 3, 32, 32)
    rows = (torch.rand(32, 4) < torch.tensor([0.7, 0.4, 0.2, 0.1])).long()
    counts, without = rows.sum(dim=0), (rows.sum(dim=1) == 0).sum()

    some = rows.sum(dim=1) > 0  # a distribution needs a label
    mixer = SaliencyPatchMix(class_counts=counts)
    _, targets = mixer(images[some], rows[some] / rows[some].sum(dim=1, keepdim=True))
    print("cross-entropy", F.cross_entropy(torch.zeros_like(targets), targets).item())

    mixer = SaliencyPatchMix(class_counts=[*counts.tolist(), int(without)])
    _, targets = mix_multi_label(images, rows, counts, mixer, both=True)
    bce = F.binary_cross_entropy_with_logits(torch.zeros_like(targets), targets)
    print("binary cross-entropy", bce.item())


if __name__ == "__main__":
    main()
