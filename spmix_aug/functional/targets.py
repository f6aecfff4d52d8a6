"""Step 5: from labels in any accepted form to class distributions `(B,K)`."""

import torch
from torch import Tensor


def class_distribution(labels: Tensor, num_classes: int) -> Tensor:
    """Write `labels` as a distribution over K classes for each sample.

    Args:
        labels: class indices `(B,)`, or one-hot or soft rows `(B,K)`.
        num_classes: K.

    Returns:
        A new tensor `(B,K)`, float32, or float64 where the labels are.
    """
    if labels.ndim == 1:
        # `one_hot` would look at every label once more.
        rows = torch.zeros(len(labels), num_classes, dtype=torch.float32, device=labels.device)
        return rows.scatter_(1, labels.long().unsqueeze(1), 1.0)
    dtype = torch.float64 if labels.dtype == torch.float64 else torch.float32
    return labels.detach().to(dtype, copy=True)


def mix_targets(targets: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Weight each sample's own target by `share` and its partner's by the rest.

    Args:
        targets: `(B,K)`, rows sum to 1.
        partner: `(B,)` indices into the batch.
        share: weight of the own target, `(B,)` in [0, 1].

    Returns:
        `(B,K)` in the dtype of `targets`, rows sum to 1.
    """
    weight = share.to(targets.dtype).unsqueeze(1)
    return weight * targets + (1 - weight) * targets[partner]
