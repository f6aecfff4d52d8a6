"""Published long-tail methods that mixing is compared with, written from their papers' formulas.

Random numbers come from an explicit `torch.Generator` on the CPU, on whatever device the batch is,
and what is handed in is never changed.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spmix_aug.functional import class_distribution, mix_targets


def draw_beta(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha) exactly.

    Two powers of uniform numbers are drawn until their sum is at most 1; the share of the first
    in the sum is the draw (Jöhnk, Metrika 8, 1964).

    Args:
        alpha: in (0, 1]; 1 is the uniform distribution.
        generator: on the CPU.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: if `alpha` is not in (0, 1]; for larger ones almost no pair is accepted.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"Expected `alpha` in (0, 1], but got {alpha!r}.")
    while True:
        # In logarithms, as both powers can be too small for a float; those of (0, 1] are finite.
        first, second = (1 - _uniform(generator, 2)).log() / alpha
        if torch.logaddexp(first, second) <= 0:
            return float(torch.sigmoid(first - second))


def balanced_mixup(
    images: Tensor,
    targets: Tensor,
    balanced_images: Tensor,
    balanced_targets: Tensor,
    *,
    alpha: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Mix an instance-balanced batch with a class-balanced one (Balanced-MixUp).

    The class-balanced batch has the weight lambda of Beta(alpha, 1), mostly a small one. One
    lambda is drawn for the whole batch, as in the authors' training (Galdran et al., MICCAI 2021,
    arXiv 2109.09850).

    Args:
        images: drawn as the data set is, floats `(B,3,H,W)`.
        targets: `(B,K)`, rows sum to 1.
        balanced_images: drawn with equal probability for all classes, `(B,3,H,W)`.
        balanced_targets: `(B,K)`, rows sum to 1.
        alpha: positive; the mean of lambda is alpha / (alpha + 1).
        generator: on the CPU.

    Returns:
        Mixed images `(B,3,H,W)` and targets `(B,K)`.

    Raises:
        ValueError: if `alpha` is not positive or the batches differ in shape.
    """
    if not alpha > 0:
        raise ValueError(f"Expected `alpha` to be positive, but got {alpha!r}.")
    _check_pair(images, balanced_images)
    # The distribution function of Beta(alpha, 1) is x ** alpha, here inverted.
    lam = float(_uniform(generator, 1)) ** (1 / alpha)
    mixed = (1 - lam) * images + lam * balanced_images
    return mixed, (1 - lam) * targets + lam * balanced_targets


def remix(
    images: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    *,
    alpha: float,
    kappa: float = 3.0,
    tau: float = 0.5,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Mix a batch within itself, and label mixes near a rare class with that class alone (Remix).

    Pixels are mixed as by mixup, with one lambda of Beta(alpha, alpha) for the batch. Where one
    class has at least kappa times the samples of the other and a pixel weight below tau, its label
    has no weight (Chou et al., 2020, arXiv 2007.03943, equations 8 to 10 and algorithm 1).

    Args:
        images: floats `(B,3,H,W)`.
        labels: class indices `(B,)`.
        class_counts: training samples of each class, `(K,)`.
        alpha: in (0, 1].
        kappa: at least 1.
        tau: in [0, 1]; 0 is mixup.
        generator: on the CPU.

    Returns:
        Mixed images `(B,3,H,W)` and targets `(B,K)` in float32, rows sum to 1.

    Raises:
        ValueError: if `alpha` is not in (0, 1].
    """
    lam = draw_beta(alpha, generator)
    partner = torch.randperm(len(images), generator=generator, device="cpu").to(images.device)
    own = class_counts.to(labels.device)[labels]
    other = own[partner]
    share = torch.full(labels.shape, lam, device=labels.device)
    share = share.masked_fill((own * kappa <= other) & (1 - lam < tau), 1.0)
    share = share.masked_fill((own >= kappa * other) & (lam < tau), 0.0)
    mixed = lam * images + (1 - lam) * images[partner]
    return mixed, mix_targets(class_distribution(labels, len(class_counts)), partner, share)


def cmo(
    images: Tensor,
    labels: Tensor,
    balanced_images: Tensor,
    balanced_labels: Tensor,
    num_classes: int,
    *,
    alpha: float = 1.0,
    p: float = 0.5,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Paste a box of a class-balanced batch onto an instance-balanced one (CMO).

    The batch as a whole has the chance `p` of one box of CutMix, with lambda of Beta(alpha, alpha).
    Labels are weighted by the area that was pasted (Park et al., CVPR 2022, arXiv 2112.00412).

    Args:
        images: the backgrounds, drawn as the data set is, `(B,3,H,W)`.
        labels: their class indices `(B,)`.
        balanced_images: drawn with equal probability for all classes, `(B,3,H,W)`.
        balanced_labels: their class indices `(B,)`.
        num_classes: K.
        alpha: in (0, 1].
        p: probability to paste, in [0, 1].
        generator: on the CPU.

    Returns:
        New images `(B,3,H,W)` and targets `(B,K)` in float32, rows sum to 1.

    Raises:
        ValueError: if `alpha` is not in (0, 1] or the batches differ in shape.
    """
    _check_pair(images, balanced_images)
    mixed, share, (height, width) = images.clone(), 0.0, images.shape[-2:]
    if float(_uniform(generator, 1)) < p:
        rows, columns = _draw_box(height, width, draw_beta(alpha, generator), generator)
        mixed[..., rows, columns] = balanced_images[..., rows, columns]
        share = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    own, pasted = (class_distribution(each, num_classes) for each in (labels, balanced_labels))
    return mixed, (1 - share) * own + share * pasted


class CosineClassifier(nn.Linear):
    """Cosine similarities of features and class weights, the logits of `LDAMLoss`.

    Maps features `(B,D)` to logits `(B,K)` in [-1, 1] (Cao et al., NeurIPS 2019, section 3.2).

    Args:
        in_features: D.
        out_features: K.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Draw random directions of length 1."""
        super().reset_parameters()
        # Only directions count, but the shorter a weight, the further a step turns it.
        with torch.no_grad():
            self.weight.copy_(F.normalize(self.weight, dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """Compare features `(B,D)` with all classes: `(B,K)`."""
        return F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


class LDAMLoss(nn.Module):
    """Cross-entropy in which rare classes have to win by a larger margin (LDAM).

    The margin of a class of n samples is C / n ** (1/4), with C such that the rarest class has
    `max_margin` (Cao et al., NeurIPS 2019, arXiv 1906.07413, equations 12 and 13). The scale of
    the logits is not in the paper but in its authors' training; `softmax(scale * logits)` are the
    probabilities.

    Args:
        class_counts: training samples of each class, `(K,)`, at least 1.
        max_margin: the largest margin.
        scale: factor of the logits, which are cosines.

    Raises:
        ValueError: if a class has no samples.
    """

    margins: Tensor

    def __init__(self, class_counts: Tensor, max_margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__()
        relative = _positive_counts(class_counts) ** -0.25
        margins = (max_margin * relative / relative.max()).float().to(class_counts.device)
        self.register_buffer("margins", margins, persistent=False)
        self.scale = scale

    def forward(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        """Average the loss of cosines `(B,K)` over a batch with labels `(B,)`.

        `weight (K,)` makes it the weighted average, which is divided by the sum of the weights in
        the batch, as the step of algorithm 1 is.
        """
        own = F.one_hot(labels, logits.shape[1])
        return F.cross_entropy(self.scale * (logits - own * self.margins), labels, weight=weight)


def drw_weights(class_counts: Tensor, beta: float = 0.9999) -> Tensor:
    """Weight classes by their effective numbers of samples, for the last epochs (DRW).

    A class of n samples has the effective number (1 - beta ** n) / (1 - beta) and its inverse as
    weight (Cui et al., CVPR 2019, arXiv 1901.05555; deferred as in Cao et al., NeurIPS 2019,
    section 3.3).

    Args:
        class_counts: training samples of each class, `(K,)`, at least 1.
        beta: in [0, 1); 0 weights all classes alike.

    Returns:
        `(K,)` in float32, of mean 1.

    Raises:
        ValueError: if a class has no samples or `beta` is not in [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"Expected `beta` in [0, 1), but got {beta!r}.")
    weights = (1 - beta) / (1 - beta ** _positive_counts(class_counts))
    return (weights / weights.mean()).float().to(class_counts.device)


def logit_adjusted_cross_entropy(
    logits: Tensor, targets: Tensor, prior: Tensor, tau: float = 1.0
) -> Tensor:
    """Average the cross-entropy of logits to which `tau * log(prior)` is added.

    Nothing is added at test time (Menon et al., ICLR 2021, arXiv 2007.07314, equation 10). The
    loss is linear in the targets, so soft ones weight the losses of the classes.

    Args:
        logits: `(B,K)`.
        targets: class indices `(B,)`, or rows `(B,K)` that sum to 1.
        prior: share of each class in the training data, `(K,)`, positive; any multiple will do.
        tau: strength; 0 is plain cross-entropy.

    Returns:
        The loss, `()`.

    Raises:
        ValueError: if `prior`, on the CPU, is not positive.
    """
    # A look at values on an accelerator would make the host wait in every step.
    if prior.device.type == "cpu" and not bool((prior > 0).all()):
        raise ValueError(f"Expected `prior` to be positive, but got {prior.tolist()}.")
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits + tau * prior.to(logits.device, dtype).log(), targets)


def _uniform(generator: torch.Generator, number: int) -> Tensor:
    """Draw numbers in [0, 1) on the CPU, `(number,)` float64."""
    return torch.rand(number, generator=generator, dtype=torch.float64, device="cpu")


def _draw_box(
    height: int, width: int, lam: float, generator: torch.Generator
) -> tuple[slice, slice]:
    """Draw a box of the share 1 - lam of the area about a uniform pixel, cut at the border.

    Both sides are shortened to sqrt(1 - lam) of the image's (CutMix; Yun et al., ICCV 2019,
    equation 2). Returned are its rows and columns.
    """
    sides = []
    for size, uniform in zip((height, width), _uniform(generator, 2).tolist(), strict=True):
        length = int(size * (1 - lam) ** 0.5)
        start = int(size * uniform) - length // 2
        sides.append(slice(max(start, 0), min(start + length, size)))
    return sides[0], sides[1]


def _check_pair(images: Tensor, balanced_images: Tensor) -> None:
    """Accept two batches of one shape; a shorter last batch would broadcast or fail later."""
    if images.shape != balanced_images.shape:
        raise ValueError(
            f"Expected `balanced_images` of shape {tuple(images.shape)}, that of `images`, "
            f"but got {tuple(balanced_images.shape)}."
        )


def _positive_counts(class_counts: Tensor) -> Tensor:
    """Accept counts of at least 1, `(K,)`; return them in float64 on the CPU."""
    counts = class_counts.detach().cpu().double()
    if not bool((counts >= 1).all()):
        raise ValueError(f"Expected `class_counts` of at least 1, but got {counts.tolist()}.")
    return counts
