"""Step 2: from class labels to partners, drawn uniformly among those that are eligible.

Partners come from the sorted order of the batch, so that a draw costs O(B log B) and no (B,B)
table of eligibility is ever made.
"""

import torch
from torch import Tensor


def class_counts_in(classes: Tensor, num_classes: int) -> Tensor:
    """Count the samples of each class in `classes (B,)`: `(K,)` int64, without a host sync."""
    ones = torch.ones_like(classes)
    return classes.new_zeros(num_classes).scatter_add_(0, classes, ones)


def draw_at_least_as_frequent(frequency: Tensor, uniform: Tensor) -> Tensor:
    """Draw for each sample another one whose class is at least as frequent as its own.

    This is how an image of a rare class gets the background of a head class, while the most
    frequent class of the batch mixes within itself.

    Args:
        frequency: count of each sample's class, `(B,)`; if all are equal, every other sample is
            eligible.
        uniform: random numbers in [0, 1), `(B,)`.

    Returns:
        `partner (B,)` int64; a sample without an eligible partner gets itself.
    """
    if len(frequency) < 2:
        return torch.arange(len(frequency), device=frequency.device)
    rarity = -frequency
    rising, order = torch.sort(rarity, stable=True)
    # Eligible are the first samples of `order`, the sample itself among them. The very first
    # always is, so that the others are as many as there are from the second on.
    others = torch.searchsorted(rising[1:], rarity, right=True)
    place = order.argsort()  # of each sample in `order`
    pick = (uniform * others).long()
    pick = pick + (pick >= place)  # skip the sample itself
    return order[torch.minimum(pick, others)]  # the first of all, where there are no others


def draw_other(frequency: Tensor, uniform: Tensor) -> Tensor:
    """Draw for each sample another one, whatever its class: all count as equally frequent.

    Arguments and result are those of `draw_at_least_as_frequent`.
    """
    return draw_at_least_as_frequent(torch.zeros_like(frequency), uniform)
