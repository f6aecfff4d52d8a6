"""Supervised contrastive learning with class centres and rebalancing, as the papers train.

PaCo (arXiv 2107.12028) and its generalisation GPaCo (arXiv 2209.12400), with the numbers of SPMix.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F


class ParametricContrastiveLoss(nn.Module):
    r"""Pull each anchor to the centre of its class and to the samples of its class.

    An anchor a with feature :math:`f_a` and label :math:`y_a` meets two kinds of logits: one for
    each class, :math:`c_{ak}`, and one for each other feature of the contrast set, which is the
    anchors themselves and a queue of past features:

    .. math::

        c_{ak} &= \text{logits}_{ak} + \log \pi_k,
            \qquad \pi_k = \max(n_k, 1) / \textstyle\sum_l \max(n_l, 1) \\
        z_{aj} &= \langle f_a, f_j \rangle / T, \qquad j \ne a \\
        Z_a &= \textstyle\sum_k e^{c_{ak}} + \gamma \sum_{j \ne a} e^{z_{aj}}

    The loss of the anchor is minus the weighted mean of :math:`\log p` over its positives, where
    :math:`\log p = c_{ak} - \log Z_a` with weight :math:`\beta` for its own class's centre, and
    :math:`\log p = z_{aj} - \log Z_a` with weight :math:`\alpha` for each sample j of its class:

    .. math::

        L_a = - \frac{\beta (c_{a y_a} - \log Z_a)
              + \alpha \sum_{j \ne a,\, y_j = y_a} (z_{aj} - \log Z_a)}
              {\beta + \alpha \, |\{j \ne a : y_j = y_a\}|}

    and the loss is the mean over anchors. An anchor without positives (possible only if
    :math:`\beta` = 0) counts as 0.

    Args:
        class_counts: training samples of each class, `(C,)`; counts below 1 count as 1.
        temperature: T.
        alpha: weight of a sample of the same class.
        beta: weight of the class's centre.
        gamma: weight of the samples in the denominator.

    Raises:
        ValueError: if an argument is out of its range.
    """

    log_prior: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        temperature: float = 0.2,
        alpha: float = 0.05,
        beta: float = 1.0,
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        counts = torch.as_tensor(class_counts)
        if counts.ndim != 1 or len(counts) == 0 or not bool((counts >= 0).all()):
            raise ValueError(
                f"Expected `class_counts` of shape (C,), at least 0, but got {class_counts!r}."
            )
        if temperature <= 0:
            raise ValueError(f"Expected `temperature` above 0, but got {temperature}.")
        for name, weight in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            if weight < 0:
                raise ValueError(f"Expected `{name}` to be at least 0, but got {weight}.")
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        counts = counts.double().clamp(min=1)
        self.register_buffer("log_prior", (counts / counts.sum()).log(), persistent=False)

    def forward(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        queue: Tensor,
        queue_labels: Tensor,
    ) -> Tensor:
        """Compute the loss of a batch of anchors, in float32 at least.

        Args:
            features: of the anchors, `(A,D)`, of length 1.
            logits: of the anchors, `(A,C)`, without the prior.
            labels: class of each anchor, integers `(A,)`.
            queue: past features, `(Q,D)`, of length 1; none with Q = 0. No gradient flows to them.
            queue_labels: their classes, integers `(Q,)`.

        Raises:
            TypeError: if labels are no integers.
            ValueError: if shapes do not fit.
        """
        self._check(features, logits, labels, queue, queue_labels)
        exact = torch.float64 if features.dtype == torch.float64 else torch.float32
        with torch.autocast(features.device.type, enabled=False):
            anchors = features.to(exact)
            others = torch.cat([anchors, queue.detach().to(exact)])  # (A+Q,D)
            samples = anchors @ others.T / self.temperature  # (A,A+Q)
            centres = logits.to(exact) + self.log_prior.to(exact)  # (A,C)
            itself = torch.eye(len(labels), len(others), dtype=torch.bool, device=labels.device)
            samples = samples.masked_fill(itself, -math.inf)
            weighted = samples + (math.log(self.gamma) if self.gamma else -math.inf)
            total = torch.cat([centres, weighted], dim=1).logsumexp(dim=1, keepdim=True)  # (A,1)

            alike = labels.unsqueeze(1) == torch.cat([labels, queue_labels])  # (A,A+Q)
            alike &= ~itself
            to_centre = (centres - total).gather(1, labels.long().unsqueeze(1)).squeeze(1)  # (A,)
            to_samples = (samples - total).masked_fill(~alike, 0).sum(dim=1)
            weight = self.beta + self.alpha * alike.sum(dim=1).to(exact)
            pulled = self.beta * to_centre + self.alpha * to_samples
            return -(pulled / weight.clamp(min=torch.finfo(exact).tiny)).mean()

    def _check(
        self, features: Tensor, logits: Tensor, labels: Tensor, queue: Tensor, queue_labels: Tensor
    ) -> None:
        for name, given in (("labels", labels), ("queue_labels", queue_labels)):
            if given.is_floating_point() or given.dtype == torch.bool or given.ndim != 1:
                raise TypeError(
                    f"Expected `{name}` to be one class index each, integers of one dimension, but "
                    f"got shape {tuple(given.shape)} and dtype {given.dtype}; a mixed image has "
                    "the class of its own image, labels.argmax(1) of soft ones."
                )
        classes = len(self.log_prior)
        anchors, width = len(labels), features.shape[-1]
        expected = {
            "features": (features, (anchors, width)),
            "logits": (logits, (anchors, classes)),
            "queue": (queue, (len(queue_labels), width)),
        }
        for name, (given, shape) in expected.items():
            if tuple(given.shape) != shape:
                raise ValueError(
                    f"Expected `{name}` of shape {shape}, but got shape {tuple(given.shape)}."
                )
        if anchors == 0:
            raise ValueError("Expected at least one anchor, but got none.")


class FeatureQueue(nn.Module):
    """The last features of all ranks and their labels, first in, first out.

    It begins with random unit vectors of random classes, and is part of a model's `state_dict`.

    Args:
        size: Q, number of features kept.
        width: D, of a feature.
        num_classes: C.
    """

    features: Tensor
    labels: Tensor
    place: Tensor

    def __init__(self, size: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("features", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("labels", torch.randint(num_classes, (size,)))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, features: Tensor, labels: Tensor) -> None:
        """Put the features `(B,D)` and labels `(B,)` of every rank in place of the oldest.

        A feature that is not finite, as half precision may give, leaves the old one in its place.
        """
        size = len(self.features)
        if size == 0:
            return
        features, labels = (gather(each) for each in (features.to(self.features), labels))
        features, labels = features[-size:], labels[-size:]
        places = (self.place + torch.arange(len(labels), device=labels.device)) % size
        finite = features.isfinite().all(dim=1)
        self.features[places] = torch.where(finite.unsqueeze(1), features, self.features[places])
        self.labels[places] = torch.where(finite, labels, self.labels[places])
        self.place.copy_((self.place + len(labels)) % size)


def gather(values: Tensor) -> Tensor:
    """Put the values `(B,...)` of all ranks one after the other, the same B on each."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def mlp(*widths: int) -> nn.Sequential:
    """Make an MLP with batch norm behind every layer, the last one's without scale and shift.

    As the authors' `last_bn`: no feature is then the same for all images.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    last = nn.Linear(*widths[-2:], bias=False)
    return nn.Sequential(*layers, last, nn.BatchNorm1d(widths[-1], affine=False))


class TwoViewClassifier(nn.Module):
    """A classifier with the heads of contrastive learning beside its own.

    Args:
        classifier: model of timm's form, with `forward_features` and `forward_head`.
        width: D, of the contrasted features.
        hidden: width of projector and predictor inside.

    Raises:
        ValueError: if the classifier is not of that form.
    """

    def __init__(self, classifier: nn.Module, *, width: int = 256, hidden: int = 4096) -> None:
        super().__init__()
        if not hasattr(classifier, "forward_features"):
            raise ValueError(
                f"no features of {type(classifier).__name__} to contrast; choose a model of timm"
            )
        self.classifier = classifier
        self.projector = mlp(int(classifier.num_features), hidden, hidden, width)  # type: ignore[arg-type]
        self.predictor = mlp(width, hidden, width)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Look at the first and the second views of B images, one after the other `(2B,3,H,W)`.

        Returns:
            Logits `(2B,C)` and features of length 1 `(2B,D)`: of the first views predicted from
            the projection, of the second views the projection itself.
        """
        model = self.classifier
        pooled = model.forward_head(model.forward_features(views), pre_logits=True)  # type: ignore[operator]
        logits = model.get_classifier()(pooled)  # type: ignore[operator]
        first, second = self.projector(pooled).chunk(2)
        features = torch.cat([self.predictor(first), second]).float()
        return logits, F.normalize(features, dim=1)
