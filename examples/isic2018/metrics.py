"""What is measured on held-out images, by torchmetrics and scipy, and how it is written."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from spmix_aug import head_tail_split

from .data import CLASSES

# Of the class counts, by which probabilities may be divided after training.
EXPONENTS = tuple(step / 10 for step in range(-5, 21))


def measure(
    probabilities: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    classes: Sequence[str] = CLASSES,
) -> dict[str, Any]:
    """Measure predictions against hard labels.

    Args:
        probabilities: `(N,K)`, rows sum to 1.
        labels: `(N,)` class indices.
        class_counts: `(K,)` training images of each class, for the shot groups of `split_by_shots`.
        classes: Their K names.

    Returns:
        Balanced accuracy, macro F1 and AUROC, recall of each class and of the many-, medium- and
        few-shot classes (None for a group without classes), all in [0, 1]; the confusion matrix
        as rows of true classes; and the number of images.
    """
    num_classes = len(classes)
    recall = multiclass_accuracy(probabilities, labels, num_classes, average="none")
    groups = split_by_shots(class_counts)
    confusion = multiclass_confusion_matrix(probabilities, labels, num_classes)
    return {
        "images": len(labels),
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(multiclass_f1_score(probabilities, labels, num_classes)),
        "auroc": float(multiclass_auroc(probabilities, labels, num_classes)),
        "recall": dict(zip(classes, recall.tolist(), strict=True)),
        "shots": {
            name: float(recall[torch.tensor(group)].mean()) if group else None
            for name, group in groups.items()
        },
        "confusion": confusion.tolist(),
    }


def split_by_shots(class_counts: Tensor) -> dict[str, list[int]]:
    """Group classes by their training images: many-, medium- and few-shot.

    The range of the counts, from the rarest class to the most frequent one, is cut into three parts
    of equal ratio; fixed numbers of images would call all classes of a small data set few-shot.
    Classes without images count as having one.
    """
    counts = class_counts.clamp(min=1)
    low, high = float(counts.min()), float(counts.max())
    # Rounded, so that a class exactly on a bound is medium-shot.
    few, many = (round(low * (high / low) ** (part / 3), 6) for part in (1, 2))
    return head_tail_split(counts, many=many, few=few)._asdict()


def adjust_logits(probabilities: Tensor, labels: Tensor, class_counts: Tensor) -> dict[str, Any]:
    """Measure what dividing probabilities by a power of the class counts would do, after training.

    Post-hoc logit adjustment (Menon and others, ICLR 2021): each class's probability is divided by
    its training images to the power of an exponent. It moves recall from the most frequent class,
    the head, to the rare ones, which are the few-shot classes of `split_by_shots`.

    Args:
        probabilities: `(N,K)`.
        labels: `(N,)` class indices.
        class_counts: `(K,)`.

    Returns:
        For each of the `exponents`, `balanced_accuracy`, `head` and `rare`, recalls in [0, 1]. The
        exponents `chosen` by the first and by the second half of each class's images, as the one of
        the highest balanced accuracy there, nearest to 0 among equals; and the three recalls
        `chosen_balanced_accuracy`, `chosen_head` and `chosen_rare` if each half is judged by the
        exponent that the other one chose.
    """
    counts = class_counts.clamp(min=1).double()
    logits = probabilities.double().clamp(min=1e-7).log()
    right = torch.stack(
        [(logits - e * counts.log()).argmax(dim=1) == labels for e in EXPONENTS]
    ).double()  # (E,N)
    members = [(labels == k).nonzero().flatten() for k in range(len(counts))]
    halves = [[m[: (len(m) + 1) // 2] for m in members], [m[(len(m) + 1) // 2 :] for m in members]]
    head, rare = [int(counts.argmax())], split_by_shots(class_counts)["few"]
    groups = {"balanced_accuracy": range(len(counts)), "head": head}
    groups["rare"] = rare or [int(counts.argmin())]

    def recall(hits: Tensor, of: Sequence[Tensor], classes: Sequence[int]) -> Tensor:
        each = [hits[..., of[k]].mean(dim=-1) for k in classes if len(of[k])]
        return torch.stack(each).mean(dim=0) if each else hits.new_zeros(hits.shape[:-1])

    found: dict[str, Any] = {"exponents": list(EXPONENTS)}
    found |= {name: recall(right, members, group).tolist() for name, group in groups.items()}
    order = sorted(range(len(EXPONENTS)), key=lambda place: abs(EXPONENTS[place]))
    best = [
        order[int(recall(right, half, groups["balanced_accuracy"])[order].argmax())]
        for half in halves
    ]
    found["chosen"] = [EXPONENTS[place] for place in best]
    judged = right[best[1]].clone()
    second = torch.cat(halves[1])
    judged[second] = right[best[0]][second]
    for name, group in groups.items():
        found[f"chosen_{name}"] = float(recall(judged, members, group))
    return found


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share, `hits` of `total`; all of [0, 1] of none."""
    if total == 0:
        return 0.0, 1.0
    found = binomtest(hits, total).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def recall_intervals(
    confusion: Sequence[Sequence[int]], classes: Sequence[str] = CLASSES
) -> dict[str, tuple[float, float]]:
    """Return the interval of each class's recall, from the confusion matrix `(K,K)`.

    Images count as independent of each other; those of one lesion are not quite.
    """
    return {
        label: wilson_interval(row[index], sum(row))
        for index, (label, row) in enumerate(zip(classes, confusion, strict=True))
    }


def headline(measured: Mapping[str, Any]) -> dict[str, float | None]:
    """Choose what a table shows of what `measure` returns, under the names it shows."""
    return {
        "balanced accuracy": measured["balanced_accuracy"],
        "macro F1": measured["macro_f1"],
        "AUROC": measured["auroc"],
        **{f"{name}-shot": value for name, value in measured["shots"].items()},
    }


def percent(value: float | None) -> str:
    """Write a share in percent, or a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def span(low: float, high: float) -> str:
    """Write an interval in percent."""
    return f"{percent(low)} to {percent(high)}"
