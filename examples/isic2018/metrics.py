"""What is measured on held-out images, by torchmetrics."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from spmix_aug import head_tail_split

from .data import CLASSES


def measure(probabilities: Tensor, labels: Tensor, class_counts: Tensor) -> dict[str, Any]:
    """Measure predictions against hard labels.

    Args:
        probabilities: `(N,K)`, rows sum to 1.
        labels: `(N,)` class indices.
        class_counts: `(K,)` training images of each class, for the shot groups.

    Returns:
        Balanced accuracy, macro F1 and AUROC, recall of each class and of the many-, medium- and
        few-shot classes (None for a group without classes), all in [0, 1]; the confusion matrix
        as rows of true classes; and the number of images.
    """
    num_classes = len(CLASSES)
    recall = multiclass_accuracy(probabilities, labels, num_classes, average="none")
    groups = head_tail_split(class_counts)._asdict()
    confusion = multiclass_confusion_matrix(probabilities, labels, num_classes)
    return {
        "images": len(labels),
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(multiclass_f1_score(probabilities, labels, num_classes)),
        "auroc": float(multiclass_auroc(probabilities, labels, num_classes)),
        "recall": dict(zip(CLASSES, recall.tolist(), strict=True)),
        "shots": {
            name: float(recall[torch.tensor(group)].mean()) if group else None
            for name, group in groups.items()
        },
        "confusion": confusion.tolist(),
    }
