"""How much of the class can be told from the background alone, by a linear classifier.

Where that is little, a network has no shortcut through the background that guided mixing could
take away.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from spmix_aug.saliency import BorderContrast

FOLDS = 5
DRAWS = 1000  # of the bootstrap
LEAST_SHARE = 0.02  # of the pixels, that count as a background


def background_of(images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Divide images into background and object.

    The object is what the masks say, or what is salient above the mean of its map by border
    contrast. A margin of 1/16 of the shorter side around it belongs to neither.

    Args:
        images: `(B,3,H,W)` uint8.
        masks: `(B,H,W)` bool, which pixels are object; None without.

    Returns:
        Which pixels are background and which are object, each `(B,H,W)` bool.
    """
    if masks is None:
        maps = BorderContrast()(images.float() / 255)
        masks = maps > maps.mean(dim=(1, 2), keepdim=True)
    margin = max(1, round(min(images.shape[2:]) / 16))
    grown, window = masks.float().unsqueeze(1), 2 * margin + 1
    grown = F.max_pool2d(grown, (window, 1), stride=1, padding=(margin, 0))
    grown = F.max_pool2d(grown, (1, window), stride=1, padding=(0, margin))
    return grown.squeeze(1) == 0, masks


def colour_and_texture(images: Tensor, within: Tensor) -> Tensor:
    """Describe the colours and the texture of some of each image's pixels.

    Args:
        images: `(B,3,H,W)` uint8.
        within: `(B,H,W)` bool, which pixels.

    Returns:
        `(B,16)` float64: mean, deviation, 10th and 90th percentile of each channel, and the mean
        difference of grey at one and four pixels, across and down. NaN where hardly any pixel is
        within.
    """
    x, keep = images.float() / 255, within.unsqueeze(1)
    number = keep.sum(dim=(2, 3))  # (B,1)
    mean = (x * keep).sum(dim=(2, 3)) / number
    spread = ((x - mean[:, :, None, None]).square() * keep).sum(dim=(2, 3)) / number
    # Of every second pixel each way, as sorting is what takes the time.
    few, some = x[:, :, ::2, ::2], keep[:, :, ::2, ::2]
    ordered = torch.where(some, few, torch.inf).flatten(2).sort(dim=2).values
    last = (some.sum(dim=(2, 3)) - 1).clamp(min=0)
    places = torch.stack([0.1 * last, 0.9 * last], dim=2).long().expand(-1, 3, -1)
    grey, differences = x.mean(dim=1), []
    for step, side in ((1, 1), (4, 1), (1, 2), (4, 2)):
        rest = max(grey.shape[side] - step, 1)
        a, b = grey.narrow(side, 0, rest), grey.narrow(side, -rest, rest)
        both = within.narrow(side, 0, rest) & within.narrow(side, -rest, rest)
        differences.append(((a - b).abs() * both).sum((1, 2)) / both.sum((1, 2)).clamp(min=1))
    features = [mean, spread.sqrt(), ordered.gather(2, places).flatten(1)]
    found = torch.cat([*features, torch.stack(differences, dim=1)], dim=1).double()
    told = within.float().mean(dim=(1, 2)) > LEAST_SHARE
    return torch.where(told.unsqueeze(1) & found.isfinite(), found, torch.nan)


def discriminate(features: Tensor, labels: Tensor, others: Tensor, num_classes: int) -> Tensor:
    """Predict the classes of `others (M,D)` by linear discriminant analysis with equal priors.

    The covariance is pooled over the classes, and shrunk to its diagonal the more, the fewer
    `features (N,D)` there are. Each of the K classes must be among `labels (N,)`.
    """
    middle, scale = features.mean(dim=0), features.std(dim=0).clamp(min=1e-9)
    features, others = (features - middle) / scale, (others - middle) / scale
    centres = torch.stack([features[labels == k].mean(dim=0) for k in range(num_classes)])
    rest = features - centres[labels]
    covariance = rest.T @ rest / max(len(rest) - num_classes, 1)
    shrinkage = len(covariance) / (len(covariance) + len(rest))
    diagonal = shrinkage * covariance.diagonal() + 1e-6  # for what is the same in all images
    covariance = (1 - shrinkage) * covariance + diagonal.diag()
    weights = torch.linalg.solve(covariance, centres.T)  # (D,K)
    scores: Tensor = others @ weights - 0.5 * (centres.T * weights).sum(dim=0)
    return scores.argmax(dim=1)


class Told(NamedTuple):
    """How well the class is told: shares of 1, of the classes that were looked at."""

    classes: list[int]
    recall: Tensor  # (K,)
    accuracy: float  # balanced: the mean recall
    low: float  # of its 95 % interval
    high: float
    images: int
    groups: int


def cross_validate(
    features: Tensor, labels: Tensor, groups: Sequence[str] | None, generator: torch.Generator
) -> Told | None:
    """Measure how well the class is told from `features (N,D)`, on groups that were held out.

    The interval is a bootstrap over the groups of each class.

    Returns:
        None if fewer than two classes have a group for each of the five folds.
    """
    whole = features.isfinite().all(dim=1)
    names = range(len(labels)) if groups is None else groups
    numbers: dict[object, int] = {}
    group = torch.tensor([numbers.setdefault(name, len(numbers)) for name in names])
    features, labels, group = features[whole], labels[whole], group[whole]
    members = {k: group[labels == k].unique() for k in labels.unique().tolist()}  # type: ignore[no-untyped-call]
    classes = [k for k, own in members.items() if len(own) >= FOLDS]
    if len(classes) < 2:
        return None
    among = torch.isin(labels, torch.tensor(classes))
    features, labels, group = features[among], labels[among], group[among]
    labels = torch.searchsorted(torch.tensor(classes), labels)

    fold_of = torch.full((len(numbers),), -1)
    for k in sorted(classes, key=lambda k: len(members[k])):  # the rarest is spread evenly first
        own = members[k][fold_of[members[k]] < 0]
        own = own[torch.randperm(len(own), generator=generator)]
        fold_of[own] = torch.arange(len(own)) % FOLDS
    fold, right = fold_of[group], torch.zeros(len(labels), dtype=torch.float64)
    for held in range(FOLDS):
        other, out = fold != held, fold == held
        if not set(labels[other].tolist()) >= set(range(len(classes))):
            return None
        predicted = discriminate(features[other], labels[other], features[out], len(classes))
        right[out] = (predicted == labels[out]).double()

    recall, drawn = [], torch.zeros(DRAWS, dtype=torch.float64)
    for k in range(len(classes)):
        _, place = group[labels == k].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        of_class, hits = place.bincount().double(), place.bincount(right[labels == k])
        pick = torch.randint(len(hits), (DRAWS, len(hits)), generator=generator)
        drawn += hits[pick].sum(dim=1) / of_class[pick].sum(dim=1) / len(classes)
        recall.append(right[labels == k].mean())
    recalls = torch.stack(recall)
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    used = len(group.unique())  # type: ignore[no-untyped-call]
    return Told(classes, recalls, float(recalls.mean()), low, high, len(labels), used)
