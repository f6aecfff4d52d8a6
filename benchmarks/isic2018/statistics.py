"""How well methods do on held-out images, and how sure one can be of it.

A method's predictions are those of S seeds on the same N images, each image predicted by a model
that was not trained on its fold. Two things are left to chance: which lesions were photographed,
and which seeds were run. The bootstrap here draws both anew, independently of each other (the
pigeonhole bootstrap, Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2),
386-411), and lesions within their class, so that no draw is without a rare one. Lesions are
drawn, not images, because images of one lesion are right or wrong together. The folds' training
images stay as they are: the intervals say nothing about training on other lesions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from examples.isic2018 import metrics
from examples.isic2018.data import CLASSES

TAIL = ("DF", "VASC", "AKIEC", "BCC")
RARE = ("DF", "VASC", "AKIEC")

# Every quantity that is compared is the mean recall of some classes.
QUANTITIES = {
    "balanced_accuracy": CLASSES,
    "tail_recall": TAIL,
    "rare_recall": RARE,
    "nv_recall": ("NV",),
    **{f"recall_{name}": (name,) for name in CLASSES},
}


def measure(probabilities: Tensor, labels: Tensor) -> dict[str, float | dict[str, float]]:
    """Measure the predictions of one run, or of one seed's runs on all folds.

    Args:
        probabilities: `(N,7)` in [0, 1], rows sum to 1.
        labels: `(N,)` class indices, every class among them.

    Returns:
        `balanced_accuracy`; `macro_f1`; `auroc`, one class against the rest, mean over classes;
        `recall`, of each class by name; `tail_recall` and `rare_recall`, the mean of the recalls
        in `TAIL` and `RARE`; `nv_recall`; `calibration_error`, see there. All are in [0, 1].

    Raises:
        ValueError: A shape or a value is not as above.
    """
    _check(labels, "(N,7)", probabilities=probabilities)
    counts = torch.bincount(labels, minlength=len(CLASSES))
    measured = metrics.measure(probabilities, labels, counts)
    recall = torch.tensor(list(measured["recall"].values()))
    means = {name: float(value) for name, value in _mean_recalls(recall).items()}
    return {
        **{name: measured[name] for name in ("balanced_accuracy", "macro_f1", "auroc", "recall")},
        **{name: means[name] for name in ("tail_recall", "rare_recall", "nv_recall")},
        "calibration_error": calibration_error(probabilities, labels),
    }


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error (Guo et al. 2017) of `(N,K)` and `(N,)`.

    That is the mean over images of how far confidence and accuracy of their bin lie apart, in 15
    bins of the top probability of equal width, each with its upper edge, without its lower one.
    """
    confidence, predicted = probabilities.double().max(dim=1)
    # torchmetrics gives a confidence of exactly 1 a bin of its own; softmax often rounds to 1.
    edges = torch.linspace(0, 1, 16, dtype=torch.float64)[1:-1]
    gap = confidence - (predicted == labels).double()
    return float(torch.bincount(torch.bucketize(confidence, edges), gap).abs().sum() / len(labels))


def adjust(probabilities: Tensor, counts: Tensor, tau: float) -> Tensor:
    """Divide probabilities `(N,7)` by the classes' shares in `counts (7,)` to the power of `tau`.

    The logit adjustment after training (Menon et al., ICLR 2021, section 4.1): rare classes are
    named more often for positive `tau`, less often for a negative one.
    """
    shares = counts.double() / counts.sum()
    shifted = probabilities.double() * shares**-tau
    return shifted / shifted.sum(dim=-1, keepdim=True)


def adjust_to_nv_recall(
    probabilities: Tensor, labels: Tensor, counts: Tensor, nv_recall: float
) -> Tensor:
    """Adjust probabilities `(N,7)` so that NV is recalled as often as asked, or barely less.

    What a method gains by naming rare classes more often, any method can have; at the same recall
    of NV, what it tells apart better is left. One number is fitted on the images themselves, for
    all methods alike. `counts (7,)` are those of the training images.

    Raises:
        ValueError: `nv_recall` is not in (0, 1) or out of reach.
    """
    nevi = probabilities[labels == CLASSES.index("NV")]

    def recall(tau: float) -> float:
        named = adjust(nevi, counts, tau).argmax(dim=1)
        return float((named == CLASSES.index("NV")).double().mean())

    low, high = -8.0, 8.0
    if not 0 < nv_recall < 1 or recall(low) < nv_recall or recall(high) > nv_recall:
        raise ValueError(f"Expected `nv_recall` in reach in (0, 1), but got {nv_recall!r}.")
    for _ in range(40):  # the recall falls as tau grows
        middle = (low + high) / 2
        low, high = (middle, high) if recall(middle) > nv_recall else (low, middle)
    return adjust(probabilities, counts, high)


def choose_exponent(probabilities: Tensor, labels: Tensor, counts: Tensor) -> float:
    """Return the one of `EXPONENTS` with which `adjust` gives most balanced accuracy.

    Args:
        probabilities: `(S,N,7)` in [0, 1]; what counts is the mean over the S seeds.
        labels: `(N,)` class indices, every class among them.
        counts: `(7,)` training images of each class.

    Returns:
        The exponent, nearest to 0 among equals.

    Raises:
        ValueError: A shape or a value is not as above.
    """
    _check(labels, "(S,N,7)", probabilities=probabilities)

    def balanced_accuracy(exponent: float) -> float:
        right = correct(adjust(probabilities, counts, exponent), labels).mean(dim=0)
        return float(torch.stack([right[labels == k].mean() for k in range(len(CLASSES))]).mean())

    return max(sorted(metrics.EXPONENTS, key=abs), key=balanced_accuracy)


def cross_fit(
    probabilities: Tensor, labels: Tensor, folds: Tensor, counts: Tensor
) -> tuple[Tensor, dict[int, float]]:
    """Adjust the images of each fold by the exponent that the other folds choose.

    Args:
        probabilities: `(S,N,7)` in [0, 1], of each seed on the same images.
        labels: `(N,)` class indices; every class is outside of each fold.
        folds: `(N,)` int64, the fold of each image; two at least.
        counts: `(7,)` training images of each class.

    Returns:
        The adjusted probabilities, float64 `(S,N,7)`, and the exponent that each fold was given.

    Raises:
        ValueError: A shape or a value is not as above.
    """
    adjusted, exponents = probabilities.double().clone(), {}
    for fold in folds.unique().tolist():
        mine = folds == fold
        exponents[fold] = choose_exponent(probabilities[:, ~mine], labels[~mine], counts)
        adjusted[:, mine] = adjust(probabilities[:, mine], counts, exponents[fold])
    return adjusted, exponents


def resample_weights(size: int, draws: int, generator: torch.Generator) -> Tensor:
    """Draw `size` of `size` things, such as seeds, with replacement: how often each is drawn.

    Returns:
        int32 `(draws,size)`, each row sums to `size`.
    """
    picks = torch.randint(size, (draws, size), generator=generator)
    once = torch.ones((), dtype=torch.int32).expand(draws, size)
    return torch.zeros(draws, size, dtype=torch.int32).scatter_add_(1, picks, once)


def bootstrap_weights(
    labels: Tensor, lesions: Sequence[str] | Tensor, draws: int, generator: torch.Generator
) -> Tensor:
    """Draw lesions with replacement within each class, as many as the class has.

    A lesion with images of several classes counts as one lesion in each of them, drawn in each
    without regard to the others.

    Args:
        labels: `(N,)` class indices.
        lesions: The lesion of each image, N ids.
        draws: Number of draws, at least 1.
        generator: Source of the draws.

    Returns:
        int32 `(draws,N)`: how often each image's lesion was drawn.

    Raises:
        ValueError: A shape or a value is not as above.
    """
    if labels.ndim != 1:
        raise ValueError(f"Expected `labels` to have shape (N,), but got {tuple(labels.shape)}.")
    if len(lesions) != len(labels):
        raise ValueError(
            f"Expected `lesions` to name the lesion of each of the {len(labels)} images, "
            f"but got {len(lesions)}."
        )
    if draws < 1:
        raise ValueError(f"Expected `draws` to be at least 1, but got {draws}.")
    ids = np.asarray(lesions)
    weights = torch.empty(draws, len(labels), dtype=torch.int32)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        distinct, lesion = np.unique(ids[members.numpy()], return_inverse=True)
        drawn = resample_weights(len(distinct), draws, generator)
        weights[:, members] = drawn[:, torch.from_numpy(lesion)]
    return weights


def interval(values: Tensor) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of the values of a quantity, `(draws,)`.

    Raises:
        ValueError: `values` is empty or of another shape.
    """
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(
            f"Expected `values` to have shape (draws,), but got {tuple(values.shape)}."
        )
    low, high = torch.quantile(values.double(), torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)


def summarise(
    probabilities: Tensor,
    labels: Tensor,
    lesions: Sequence[str] | Tensor,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Summarise a method: each of `QUANTITIES` with its spread over seeds and its interval.

    The bootstrap knows no other lesions and seeds than those it is given: a class with all images
    right, or all wrong, has an interval of no width, and few seeds make it too narrow.

    Args:
        probabilities: `(S,N,7)` in [0, 1], of each seed on the same images.
        labels: `(N,)` class indices, every class among them.
        lesions: The lesion of each image, N ids.
        draws: Number of bootstrap draws.
        seed: Seed of the bootstrap; the global random state is neither used nor changed.

    Returns:
        For each quantity `mean` and `sd` over seeds (sd with S - 1; None for one seed) and
        `interval`, `(low, high)`, the 95 % interval of the mean.

    Raises:
        ValueError: A shape or a value is not as above.
    """
    _check(labels, "(S,N,7)", probabilities=probabilities)
    observed, drawn = _bootstrap(correct(probabilities, labels), labels, lesions, draws, seed)
    return {
        name: {
            "mean": float(values.mean()),
            "sd": float(values.std()) if len(values) > 1 else None,
            "interval": interval(drawn[name]),
        }
        for name, values in observed.items()
    }


def compare(
    a: Tensor,
    b: Tensor,
    labels: Tensor,
    lesions: Sequence[str] | Tensor,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Compare two methods by each of `QUANTITIES`: a - b on the same images and seeds.

    Each draw of lesions and seeds serves both methods, so that what is hard for both cancels.

    Args:
        a: `(S,N,7)` in [0, 1], of each seed on the same images.
        b: The other method, `(S,N,7)`, its seeds in the same order.
        labels: `(N,)` class indices, every class among them.
        lesions: The lesion of each image, N ids.
        draws: Number of bootstrap draws.
        seed: Seed of the bootstrap; the global random state is neither used nor changed.

    Returns:
        For each quantity the `mean` over seeds of the difference, its 95 % `interval`,
        `(low, high)`, and `share_at_or_below_0`, the share of draws where `a` is not better.

    Raises:
        ValueError: A shape or a value is not as above.
    """
    _check(labels, "(S,N,7)", a=a, b=b)
    if len(a) != len(b):
        raise ValueError(f"Expected `b` to have the {len(a)} seeds of `a`, but got {len(b)}.")
    better = correct(a, labels) - correct(b, labels)
    observed, drawn = _bootstrap(better, labels, lesions, draws, seed)
    return {
        name: {
            "mean": float(values.mean()),
            "interval": interval(drawn[name]),
            "share_at_or_below_0": float((drawn[name] <= 0).double().mean()),
        }
        for name, values in observed.items()
    }


@dataclass(frozen=True)
class Found:
    """A figure over seeds, its 95 % interval, and how many of the seeds have it above 0."""

    mean: float
    interval: tuple[float, float]
    above: int
    seeds: int


@dataclass(frozen=True)
class Levels:
    """One quantity of some methods, by name, each in [0, 1].

    All methods share the draws of lesions and seeds, so that what is hard for all cancels.

    Args:
        seeds: `(S,)`, in each seed.
        draws: `(draws,)`, in each draw of the bootstrap.
    """

    seeds: dict[str, Tensor]
    draws: dict[str, Tensor]

    def level(self, name: str) -> Found:
        """Return the quantity of a method."""
        return _found(self.seeds[name], self.draws[name])

    def difference(self, a: str, b: str) -> Found:
        """Return method `a` minus method `b`."""
        return _found(self.seeds[a] - self.seeds[b], self.draws[a] - self.draws[b])

    def share_of_gain(self, a: str, ceiling: str, base: str) -> Found | None:
        """Return what `a` gains over `base` as a share of what `ceiling` gains over it.

        The mean is the ratio of the mean gains. Draws in which the ceiling gains nothing have no
        ratio and are left out; they are fewer than one in forty.

        Returns:
            None where the interval of the ceiling's gain is not above 0: then there is nothing to
            have a share of.
        """
        gain, whole = self.difference(a, base), self.difference(ceiling, base)
        if whole.interval[0] <= 0:
            return None
        drawn = self.draws[ceiling] - self.draws[base]
        ratios = ((self.draws[a] - self.draws[base]) / drawn)[drawn > 0]
        return Found(gain.mean / whole.mean, interval(ratios), gain.above, gain.seeds)


def _found(seeds: Tensor, draws: Tensor) -> Found:
    return Found(float(seeds.mean()), interval(draws), int((seeds > 0).sum()), len(seeds))


def measure_levels(
    right: Mapping[str, Tensor],
    labels: Tensor,
    lesions: Sequence[str] | Tensor,
    quantities: Mapping[str, Sequence[int]],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Levels]:
    """Measure quantities of several methods at once, each the mean recall of some classes.

    Args:
        right: `(S,N)` by method, 1 where an image is right and 0 elsewhere; the same seeds and
            images for all.
        labels: `(N,)` class indices; not every class needs to be there.
        lesions: The lesion of each image, N ids.
        quantities: By name, the classes whose recalls are averaged, all among `labels`.
        draws: Number of bootstrap draws.
        seed: Seed of the bootstrap; the global random state is neither used nor changed.

    Raises:
        ValueError: A shape or a class is not as above.
    """
    shapes = {name: tuple(score.shape) for name, score in right.items()}
    if len(set(shapes.values())) != 1 or any(
        shape[1:] != (len(labels),) for shape in shapes.values()
    ):
        raise ValueError(
            f"Expected `right` to have shape (S,{len(labels)}), the same for all methods, but got "
            f"{shapes}."
        )
    present = labels.unique().tolist()
    absent = {k for classes in quantities.values() for k in classes} - set(present)
    if absent:
        raise ValueError(
            f"Expected `labels` to have the classes of `quantities`, but {sorted(absent)} are not "
            "among them: measure the classes that are there."
        )
    observed, drawn = _draw_recalls(torch.stack([*right.values()]), labels, lesions, draws, seed)
    found = {}
    for quantity, classes in quantities.items():
        places = [present.index(k) for k in classes]
        means = [recall[:, :, places].mean(dim=2) for recall in (observed, drawn)]
        found[quantity] = Levels(*(dict(zip(right, mean, strict=True)) for mean in means))
    return found


def average_levels(parts: Sequence[Levels]) -> Levels:
    """Average a quantity over parts of the images that were drawn independently of each other."""
    return Levels(
        *(
            {name: torch.stack([one[name] for one in of]).mean(dim=0) for name in of[0]}
            for of in ([part.seeds for part in parts], [part.draws for part in parts])
        )
    )


def _bootstrap(
    scores: Tensor, labels: Tensor, lesions: Sequence[str] | Tensor, draws: int, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Average the scores `(S,N)` of images: `(S,)` of each seed and `(draws,)` of each draw."""
    observed, drawn = _draw_recalls(scores.unsqueeze(0), labels, lesions, draws, seed)
    return _mean_recalls(observed[0]), _mean_recalls(drawn[0])


def _draw_recalls(
    scores: Tensor, labels: Tensor, lesions: Sequence[str] | Tensor, draws: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Average the scores `(M,S,N)` within the C classes there are: `(M,S,C)` and `(M,draws,C)`."""
    generator = torch.Generator().manual_seed(seed)
    image_weights = bootstrap_weights(labels, lesions, draws, generator)
    methods, seeds, _ = scores.shape
    seed_weights = resample_weights(seeds, draws, generator)
    observed, drawn = [], []
    for label in labels.unique():
        members = labels == label
        weights, score = image_weights[:, members].double(), scores[:, :, members]
        observed.append(score.mean(dim=2))
        # Whole numbers up to the division, so that as many hits for both are a difference of 0.
        hits = (weights @ score.flatten(0, 1).T).view(draws, methods, seeds)
        total = (hits * seed_weights.unsqueeze(1)).sum(dim=2)
        drawn.append(total.T / (weights.sum(dim=1) * seeds))
    return torch.stack(observed, dim=2), torch.stack(drawn, dim=2)


def _mean_recalls(recall: Tensor) -> dict[str, Tensor]:
    """Average the recalls `(...,7)` of the classes of each quantity."""
    return {
        name: recall[..., [CLASSES.index(member) for member in members]].mean(dim=-1)
        for name, members in QUANTITIES.items()
    }


def correct(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return 1 where the top class `(S,N)` is right and 0 elsewhere, in float64."""
    return (probabilities.argmax(dim=-1) == labels).double()


def _check(labels: Tensor, shape: str, **predictions: Tensor) -> None:
    """Check labels, and probabilities by the names of their arguments."""
    present = set(labels.flatten().tolist())
    if labels.ndim != 1 or labels.dtype != torch.int64 or present != set(range(len(CLASSES))):
        raise ValueError(
            f"Expected `labels` to be int64 of shape (N,) with every class from 0 to "
            f"{len(CLASSES) - 1}, but got {labels.dtype} of shape {tuple(labels.shape)} with the "
            f"classes {sorted(present)[:10]}."
        )
    for name, values in predictions.items():
        fits = values.ndim == shape.count(",") + 1 and len(values) > 0
        if not fits or values.shape[-2:] != (len(labels), len(CLASSES)):
            raise ValueError(
                f"Expected `{name}` to have shape {shape} for the {len(labels)} images of "
                f"`labels`, but got {tuple(values.shape)}."
            )
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(f"Expected `{name}` to be in [0, 1], but not all of it is.")
